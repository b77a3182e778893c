"""Many hosts: one process on each machine, which train one run together over the devices of all (JAX's own runtime).

    python -m imagegen train NAME --out SHARED/FOLDER --coordinator FIRST:PORT --hosts N --host K      K = 0 ... N - 1
    srun --ntasks-per-node=1 python -m imagegen train NAME --out SHARED/FOLDER      under SLURM, which says it all

Every host is given the same config and the same folder, on a disk that all of them share. Host 0 writes the small
files, all write their parts of a checkpoint. A host that ends takes the others with it, `SILENCE` seconds later at
most; the same commands, on as many hosts as there are then, go on from the newest checkpoint.
"""

import dataclasses
import hashlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jaxtyping import PyTree

from theory._checks import require
from theory._commands import leave

WAIT = 300
"""Seconds that a host waits for the others at the start."""
SILENCE = 60
"""Seconds without a heartbeat after which a host counts as lost. Compiling and loading do not hold heartbeats up."""
GRACE = 3
"""Seconds that host 0, whose end ends the others, gives them to say why they end."""
FRESH = 60
"""Seconds that a file may take to be seen by all who share a network disk."""


class HostLost(RuntimeError):
    """Training that ended in the middle of a step over many hosts: most likely another host ended."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """Where this process stands among those that train together; under SLURM nothing need be given."""

    coordinator: str | None = None
    """Many hosts: HOST:PORT of host 0, at which the others find it."""
    hosts: int | None = None
    """Many hosts: how many; 1 trains alone, whatever SLURM says."""
    host: int | None = None
    """Many hosts: the number of this one, from 0."""


def start_hosts(launch: Launch) -> None:
    """Join the other hosts if there are any; to be called before anything touches a device.

    Waits for them `WAIT` seconds at most, after which JAX ends the process. Raises `InputError` for options given by
    halves or out of range.
    """
    arguments = _explicit(launch) or ({} if launch.hosts == 1 else _slurm(os.environ))
    if not arguments:
        return
    # its handler would take SIGTERM for a notice of preemption, and the process would stay
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        **arguments, initialization_timeout=WAIT, heartbeat_timeout_seconds=SILENCE, shutdown_timeout_seconds=SILENCE
    )
    print(
        f"host {jax.process_index()} of {jax.process_count()}, {jax.device_count()} devices in all. If one host ends, "
        f"JAX ends the others within {SILENCE} s (exit code 134); the same commands then go on.",
        file=sys.stderr,
        flush=True,
    )


def _explicit(launch: Launch) -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize` from the options; none for a process that trains alone."""
    given = {name: value for name, value in dataclasses.asdict(launch).items() if value is not None}
    if not given or given == {"hosts": 1}:
        return {}
    absent = [f"--{name}" for name in dataclasses.asdict(launch) if name not in given]
    require(not absent, ", ".join(absent), "nothing", f"given too, with {', '.join(f'--{name}' for name in given)}")
    hosts, host = given["hosts"], given["host"]
    require(hosts >= 1, "hosts", hosts, "at least 1")
    require(0 <= host < hosts, "host", host, f"in 0 ... {hosts - 1}: there are {hosts} hosts")
    name, _, port = given["coordinator"].rpartition(":")
    good = bool(name) and port.isdecimal() and 0 < int(port) < 2**16
    require(good, "coordinator", f"'{given['coordinator']}'", "HOST:PORT, such as node1:29500")
    # an empty list: all devices of this machine, also where SLURM would give a task one of them
    return {"coordinator_address": given["coordinator"], "num_processes": hosts, "process_id": host,
            "local_device_ids": []}  # fmt: skip


def _slurm(environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize` for a task of several that `srun` started; none for any other process.

    JAX reads the rest from SLURM's variables. By itself it takes one device a task, the one of the task's number on its
    node, which is right for several tasks a node; a task alone on its node takes all.
    """
    tasks = int(environment.get("SLURM_NTASKS", "1"))
    if tasks == 1 or "SLURM_STEP_NODELIST" not in environment:  # a batch script or shell before any srun has no step
        return {}
    alone = environment.get("SLURM_STEP_NUM_NODES") == str(tasks)
    return {"cluster_detection_method": "slurm", **({"local_device_ids": []} if alone else {})}


def leads() -> bool:
    """Whether this process writes what is written once: config, metrics, pictures, progress."""
    return jax.process_index() == 0


def agree(given: str, folder: Path) -> None:
    """Raise `InputError`, on every host, unless all were `given` the same (config and data) and see in `folder` what
    host 0 wrote there.

    Every host calls this after host 0 has written `folder/config.json`. One host alone always agrees.
    """
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(given.encode()).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest)
    other = np.flatnonzero((digests != digests[0]).any(axis=1)).tolist()
    allowed = "the same on all hosts"
    require(not other, "the config, or the data", f"another on host {other} than on host 0", allowed)
    blind = np.flatnonzero(~multihost_utils.process_allgather(np.array(_appears(folder / "config.json")))).tolist()
    require(not blind, "out", f"{folder}, where host {blind} does not see host 0's files", "a folder that all share")


def _appears(file: Path) -> bool:
    end = time.monotonic() + FRESH
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.2)
    return file.exists()


def of_host_0(number: int) -> int:
    """The number that host 0 has, on every host."""
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def within_process(tree: PyTree) -> PyTree:
    """The same arrays, whole on a device of this process where they are spread over several processes.

    All processes take part.
    """
    from jax.experimental import multihost_utils

    def whole(leaf: jax.Array) -> jax.Array:
        if leaf.is_fully_addressable:
            return leaf
        return jax.device_put(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(whole, tree)


def leave_hosts(code: int) -> NoReturn:
    """End the process: of several that train together, one that failed at once, since at exit JAX waits for the others,
    and these for it.
    """
    if code == 0 or not jax.distributed.is_initialized():
        leave(code)
    sys.stdout.flush()
    sys.stderr.flush()
    if leads():
        time.sleep(GRACE)
    os._exit(code)
