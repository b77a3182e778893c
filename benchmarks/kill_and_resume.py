"""Kill a training run at random moments, ten times, and compare what it ends with to a run that was left alone.

    python benchmarks/kill_and_resume.py [--kills 10] [--steps 120] [--seed 0]

Every kill is SIGKILL, at a moment drawn uniformly from the time that the undisturbed run took (so also while it loads,
compiles, or writes a checkpoint). The same command is given again until it ends. Weights, averages, moments, step and
metrics must be the same bit for bit; exit code 1 if they are not.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def command(folder: Path, steps: int) -> list[str]:
    options = {"steps": steps, "batch": 32, "log-every": 5, "checkpoint-every": 10, "samples-every": 0}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    corrupted = ["--condition", "cep-g", "--strength", "1", "--flips", "symmetric", "--flip-share", "0.1"]
    return [sys.executable, "-m", "imagegen", "train", "digits", "--out", str(folder), *flags, *corrupted]


def digests(folder: Path, steps: int) -> dict[str, str]:
    """SHA-256 of the parameters, averages and moments of the last checkpoint, whatever wrote it, and of the metrics."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    jax.config.update("jax_platforms", "cpu")  # the runs may need the GPU whole
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    options, handler = ocp.CheckpointManagerOptions(create=False), ocp.StandardCheckpointHandler()
    with ocp.CheckpointManager(folder / "checkpoints", options=options, item_handlers=handler) as manager:
        if manager.latest_step() != steps:
            raise SystemExit(f"{folder} ends with step {manager.latest_step()}, not {steps}")
        given = manager.item_metadata(steps)
        like = {name: jax.ShapeDtypeStruct(meta.shape, meta.dtype, sharding=here) for name, meta in given.items()}
        arrays = manager.restore(steps, args=ocp.args.StandardRestore(like))
    found: dict[str, Any] = {"metrics": hashlib.sha256((folder / "metrics.jsonl").read_bytes())}
    for name in sorted(arrays):
        part = name.lstrip(".").split(".")[0].split("[")[0]
        found.setdefault(part, hashlib.sha256()).update(name.encode() + np.asarray(arrays[name]).tobytes())
    return {part: digest.hexdigest() for part, digest in found.items()}


def fingerprint(folder: Path, steps: int) -> str:
    """One digest of them all."""
    return hashlib.sha256(json.dumps(digests(folder, steps)).encode()).hexdigest()


def disturbed(folder: Path, steps: int, longest: float, kills: int, rng: random.Random) -> int:
    """Run to the end, killed up to `kills` times; return how many kills met a run that was still going."""
    met = 0
    for turn in range(kills + 1):
        process = subprocess.Popen(command(folder, steps), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if turn < kills:
            time.sleep(rng.uniform(0, longest))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                met += 1
        _, errors = process.communicate()
        if process.returncode == 0:
            return met
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"exit code {process.returncode}: {errors.decode()[-2000:]}")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="kills in all, one a run that is then resumed")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as top:
        began = time.monotonic()
        disturbed(Path(top) / "whole", given.steps, 0.0, 0, rng)
        longest = time.monotonic() - began
        expected = fingerprint(Path(top) / "whole", given.steps)
        print(f"undisturbed: {longest:.1f} s, {expected[:16]}", flush=True)
        wrong = met = turn = 0
        while met < given.kills:
            turn += 1
            folder = Path(top) / f"killed-{turn}"
            now = disturbed(folder, given.steps, longest, 1, rng)
            found = fingerprint(folder, given.steps)
            met, wrong = met + now, wrong + (found != expected)
            print(f"run {turn}: {now} kill, {'same' if found == expected else 'DIFFERENT'} {found[:16]}", flush=True)
    print(f"{met} kills, {wrong} runs that ended otherwise")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
