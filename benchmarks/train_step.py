"""Training steps: images/s, TFLOP/s, memory and compile time of DiTs, what the operators cost, against the reference.

    python benchmarks/train_step.py --networks dit-s/2 --batch 8 --output benchmarks/RESULTS-train-step.md
    ... --reference DIR --reference-python PYTHON     also facebookresearch/DiT (a checkout) under torch.compile

Latents of 256 pixels (KL-f8's 32 x 32 x 4 for DiTs, VQ-f4's 64 x 64 x 3 for LDM-4), 1000 classes, random data on the
device: the input pipeline is not in it. Variants are timed in turn, round after round, so that a change of the
machine's speed meets all of them; their cost is the median over rounds of the ratio to the plain step of the same
round. Then images are made from the same network, 50 DDIM steps with guidance, two passes each.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import os
import platform
import resource
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from imagegen.config import Config
from imagegen.networks.registry import forward_flops
from imagegen.run import average_denoiser
from imagegen.sampling import SamplerConfig, generate
from imagegen.statistics import Statistics
from imagegen.step import Batch, State, Task, batch_sharding, make_mesh, make_step, make_task, state_shardings

CLASSES = 1000
SAMPLER = SamplerConfig(sampler="ddim", steps=50, guidance=0.5)
VARIANTS = {
    "plain": {},
    "CEP-G": {"condition": "cep-g", "strength": 1.0},
    "shortest path": {"path": "shortest"},
    "noise gate": {"degradation": "blur", "degraded_share": 0.5, "train_on": "gated", "sigma_min": 0.5},
}


def shape_of(network: str) -> tuple[int, int, int]:
    return (64, 64, 3) if network.startswith("ldm") else (32, 32, 4)


def statistics(shape: tuple[int, int, int]) -> Statistics:
    """Of latents with a natural-image spectrum."""
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(shape[0], 1 / shape[0])] * 2, indexing="ij"))
    names = tuple(str(k) for k in range(CLASSES))
    return Statistics(shape, names, np.full(CLASSES, 1 / CLASSES), 40.0 / (1 + frequency) ** 2, 1.0)


def batch_of(config: Config) -> Batch:
    """Random latents; with a gate half of them are kept points at time 0.3."""
    rng = np.random.default_rng(0)
    n, shape = config.batch, shape_of(config.network)
    made = {"image": rng.standard_normal((n, *shape)).astype(np.float32),
            "label": rng.integers(CLASSES, size=n).astype(np.int32), "index": np.arange(n, dtype=np.int32)}  # fmt: skip
    if config.train_on == "gated":
        kept = np.arange(n) % 2 == 0
        times = {"t_max": np.full(n, -np.inf), "t_n": np.where(kept, 0.3, -np.inf), "t_open": np.where(kept, 0.4, 0.0)}
        made |= {name: values.astype(np.float32) for name, values in times.items()}
    return made


class Running:
    """A compiled step of a task with its batch. All variants step the same state: one fits where four would not."""

    def __init__(self, config: Config, task: Task, state: State) -> None:
        mesh = make_mesh(config, jax.devices())
        self.task, self.images = task, config.batch
        self.batch = jax.device_put(batch_of(config), batch_sharding(mesh))
        began = time.perf_counter()
        step = make_step(task, mesh, state)
        compiled = step.func.lower(*step.args, state, self.batch).compile()
        self.compile_seconds = time.perf_counter() - began
        self.temporary = compiled.memory_analysis().temp_size_in_bytes
        self.step = functools.partial(compiled, *step.args)
        self.flops = 3 * forward_flops(state.parameters.network, shape_of(config.network)) * config.batch

    def run(self, state: State, count: int) -> tuple[State, float]:
        """The state after `count` steps, and seconds per step."""
        began = time.perf_counter()
        for _ in range(count):
            state, metrics = self.step(state, self.batch)
        jax.block_until_ready(metrics)
        return state, (time.perf_counter() - began) / count


def started(base: Config) -> tuple[dict[str, Running], State]:
    """All variants, each a step on."""
    runs, state = {}, None
    for name, changes in VARIANTS.items():
        config = dataclasses.replace(base, **changes)
        task, first = make_task(config, statistics(shape_of(config.network)))
        if state is None:
            state = jax.device_put(first, state_shardings(make_mesh(config, jax.devices()), first))
        del first
        runs[name] = Running(config, task, state)
        state, _ = runs[name].run(state, 1)
    return runs, state


def matrix_rate(compute: str) -> float:
    """Operations a second of products of large square matrices on one device, the best of five."""
    side = 1024 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.full((side, side), 1 / side, compute)
    chain = jax.jit(lambda x: jax.lax.fori_loop(0, 8, lambda _, y: y @ x, x))
    chain(matrix).block_until_ready()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        chain(matrix).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 8 * 2 * side**3 / min(seconds)


def sampling_row(network: str, running: Running, state: State, times: int, peak: float) -> str:
    """Images/s of samples, from the weights that training began with; the first call compiles."""
    conds, shape = np.arange(running.images, dtype=np.int32) % CLASSES, shape_of(network)
    denoiser = average_denoiser(running.task, state)
    began, seconds = time.perf_counter(), []
    for _ in range(1 + times):
        generate(denoiser, shape, conds, jax.random.key(0), SAMPLER, running.images)
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    rate = running.images / np.median(seconds[1:])
    flops = 2 * SAMPLER.steps * running.flops / 3 / running.images * rate
    what = f"samples, {SAMPLER.steps} steps, guidance"
    found = f"{rate:.3f} | {flops / 1e12:.3f} | {flops / peak:.0%}"
    return f"| {network} | {running.images} | {what} | {found} | | {seconds[0]:.1f} | |"


def measure(network: str, batch: int, sampled: int, peak: float, given: argparse.Namespace) -> list[str]:
    """Rows of a network; `peak` is the rate of all devices' matrix products."""
    base = Config(network=network, batch=batch, compute=given.compute, remat=given.remat, cosine=False, warmup=1)
    runs, state = started(base)
    seconds = {name: [] for name in runs}
    for _ in range(given.rounds):
        for name, run in runs.items():
            state, each = run.run(state, given.steps)
            seconds[name].append(each)
    plain = np.array(seconds["plain"])
    lines = []
    for name, run in runs.items():
        own = np.array(seconds[name])
        cost = "" if name == "plain" else f"{np.median(own / plain) - 1:+.1%}"
        rate = batch / np.median(own)
        flops = run.flops / np.median(own)
        compiled = f"{run.compile_seconds:.1f} | {run.temporary / 2**30:.2f}"
        lines.append(
            f"| {network} | {batch} | {name} "
            f"| {rate:.2f} | {flops / 1e12:.3f} | {flops / peak:.0%} | {cost} | {compiled} |"
        )
    return [*lines, sampling_row(network, runs["plain"], state, sampled, peak)] if sampled else lines


def reference(network: str, batch: int, own: str, given: argparse.Namespace) -> str:
    """facebookresearch/DiT's step in its own Python, alone on the machine; `own` is our plain row."""
    script = Path(__file__).with_name("dit_reference_step.py")
    options = [network, str(batch), str(given.steps * given.rounds), given.compute]
    done = subprocess.run([given.reference_python, str(script), str(given.reference), *options],
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode:
        why = (done.stderr.splitlines() or ["no message"])[-1][:100]
        return f"| {network} | {batch} | facebookresearch/DiT: failed ({why}) | | | | | | |"
    found = json.loads(done.stdout.splitlines()[-1])
    rate, ours = batch / found["seconds"], float(own.split("|")[4])
    return (f"| {network} | {batch} | facebookresearch/DiT, torch {found['torch']}, {found['mode']} | {rate:.2f} | | | "
            f"ours is {ours / rate:.2f} of it | {found['compile_seconds']:.1f} | |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["dit-s/2"])
    parser.add_argument("--batch", type=int, nargs="+", default=[8], help="of all networks, or one for each")
    parser.add_argument("--compute", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--steps", type=int, default=1, help="in a row, of each variant in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sampled", type=int, nargs="+", default=[0], help="times that a batch of images is made")
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--reference-python")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    for name, values in (("--batch", given.batch), ("--sampled", given.sampled)):
        if len(values) not in (1, len(given.networks)):
            parser.error(f"{name} must be one number, or one for each of {len(given.networks)} networks")
    batches, sampled = (
        dict(zip(given.networks, itertools.cycle(values), strict=False)) for values in (given.batch, given.sampled)
    )
    peak = jax.device_count() * matrix_rate(given.compute)
    rows: list[str] = []
    for network, batch in batches.items():
        try:
            rows += measure(network, batch, sampled[network], peak, given)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            rows.append(f"| {network} | {batch} | out of memory | | | | | | |")
        write(rows, peak, given)
    if given.reference:
        plain = {row.split("|")[1].strip(): row for row in reversed(rows) if "| plain |" in row}
        for name in filter(plain.__contains__, batches):
            if name.startswith("dit"):
                rows.append(reference(name, batches[name], plain[name], given))
                write(rows, peak, given)


def write(rows: list[str], peak: float, given: argparse.Namespace) -> None:
    """The table so far, on the terminal and in the file: what comes next may fail."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "equinox", "optax"))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    device = f"{jax.devices()[0].device_kind} x {jax.device_count()}"
    text = "\n".join([
        "# Training steps", "",
        f"{device}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}. "
        f"{given.compute}, remat {given.remat}; median of {given.rounds} rounds of {given.steps} steps. "
        f"Peak memory of the process {memory:.1f} GiB. MFU: the share of the rate of large matrix products, here "
        f"{peak / 1e12:.2f} TFLOP/s.", "",
        "| network | batch | variant | images/s | TFLOP/s | MFU | over plain | compile, s | temporaries, GiB |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows, "",
    ])  # fmt: skip
    print(text, flush=True)
    if given.output:
        given.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    assert jnp.zeros(()).dtype == jnp.float32
    main()
