"""The memorising optimum over 50 000 points of 3072 numbers: time and peak memory against plain NumPy and PyTorch.

    python benchmarks/empirical_denoiser.py --output benchmarks/RESULTS-empirical.md

E[x0 | x_t] for a batch, float32, on EDM's path at σ = 1. NumPy and PyTorch expand the square, |x|² - 2 x·y + |y|²,
whole (no blocks); NumPy also in float64, as the reference for the errors. Every implementation runs in a process of its
own, which draws the data, reports the resident memory before and the peak after, and times calls after a first one.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np

SIGMA = 1.0
WHO = ("patina", "numpy", "torch", "numpy float64")


def data(n: int, d: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and noisy queries near some of them, float32."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((n, d), dtype=np.float32)
    points *= 0.05  # points as near as patches are, so that several weigh in at this σ
    return points, points[:batch] + SIGMA * rng.standard_normal((batch, d), dtype=np.float32)


def plain_numpy(points: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The whole weight matrix at once."""
    squares = (queries**2).sum(1)[:, None] - 2 * queries @ points.T + (points**2).sum(1)
    logits = -squares / (2 * SIGMA**2)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights @ points / weights.sum(1, keepdims=True)


def run(who: str, n: int, d: int, batch: int, repeats: int) -> dict:
    """Time and memory of one implementation, in this process."""
    points, queries = data(n, d, batch)
    if who == "numpy":
        call = lambda: plain_numpy(points, queries)  # noqa: E731
    elif who == "numpy float64":
        points, queries = points.astype(float), queries.astype(float)
        call = lambda: plain_numpy(points, queries)  # noqa: E731
    elif who == "torch":
        import torch

        y, x = torch.from_numpy(points), torch.from_numpy(queries)
        call = lambda: (torch.softmax(-(torch.cdist(x, y) ** 2) / (2 * SIGMA**2), 1) @ y).numpy()  # noqa: E731
    else:
        call = _patina(points, queries)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result, times = call(), []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": min(times), "held": held, "peak": peak, "result": result[:, :64].astype(float).tolist()}


def _patina(points: np.ndarray, queries: np.ndarray):  # type: ignore[no-untyped-def]
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from sim.empirical import EmpiricalDenoiser
    from theory.paths import VarianceExploding

    path = VarianceExploding()
    denoiser, xt = EmpiricalDenoiser(path, points), jnp.asarray(queries)
    t = path.time_at(jnp.float32(-2 * np.log(SIGMA)))
    apply = eqx.filter_jit(lambda model, x, when: jax.vmap(lambda one: model(one, when, None))(x))
    return lambda: np.asarray(apply(denoiser, xt, t))


def main() -> None:
    """Run every implementation in its own process; print, and with --output write, the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--dimension", type=int, default=3072)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", choices=WHO, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = (given.points, given.dimension, given.batch, given.repeats)
    if given.one:
        print(json.dumps(run(given.one, *sizes)))
        return
    found = {}
    for who in WHO:
        command = [sys.executable, __file__, "--one", who, *_flags(sizes)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"left out: {who}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        else:
            found[who] = json.loads(done.stdout.splitlines()[-1])
    text = table(found, sizes)
    print(text)
    if given.output:
        given.output.write_text(text, encoding="utf-8")


def _flags(sizes: tuple[int, ...]) -> list[str]:
    names = ("--points", "--dimension", "--batch", "--repeats")
    return [part for name, size in zip(names, sizes, strict=True) for part in (name, str(size))]


def table(found: dict, sizes: tuple[int, ...]) -> str:
    """Markdown."""
    reference = np.array(found["numpy float64"]["result"])
    lines = [
        "| who | seconds per batch | slower by | held, MiB | peak, MiB | largest error |",
        "|---|---|---|---|---|---|",
    ]
    for who, entry in found.items():
        error = np.max(np.abs(np.array(entry["result"]) - reference))
        slower = entry["seconds"] / found["patina"]["seconds"]
        numbers = (f"{entry['seconds']:.2f}", f"{slower:.2f}", f"{entry['held']:,.0f}", f"{entry['peak']:,.0f}")
        lines.append("| " + " | ".join((who, *numbers, f"{error:.1e}")) + " |")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "numpy", "torch"))
    cores = len(os.sched_getaffinity(0))
    about = f"{cores} core(s), load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, {versions}"
    what = f"{sizes[0]:,} points, d = {sizes[1]:,}, batch {sizes[2]}, float32, σ = {SIGMA:g}"
    note = "Held: peak resident memory once the denoiser is made, the data included."
    return f"# Empirical denoiser\n\n{about}\n\n{what}. {note}\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
