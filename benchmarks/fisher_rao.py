"""Fisher-Rao distances against geomstats and batched NumPy (centred) and pyBregMan (with means), in one run.

    python benchmarks/fisher_rao.py --output benchmarks/RESULTS-fisher.md

prints a Markdown table with the machine and the versions. Peers that are not installed are left out. For one thread,
set OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 and pin the process to a core (taskset -c 0).
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from theory.fisher import centred_distance, fisher_rao_connect
from theory.gaussian import Gaussian

PEERS = ("jax", "numpy", "geomstats", "pyBregMan")


def covariances(rng: np.random.Generator, n: int, d: int, width: float) -> np.ndarray:
    """`n` covariances with log eigenvalues in [-width, width], a third of them all at the ends."""
    basis = np.linalg.qr(rng.standard_normal((n, d, d)))[0]
    logs = rng.uniform(-width, width, (n, d))
    ends = rng.random(n) < 1 / 3
    logs[ends] = width * rng.choice([-1.0, 1.0], (int(ends.sum()), d))
    cov = (basis * np.exp(logs)[:, None, :]) @ basis.swapaxes(1, 2)
    return (cov + cov.swapaxes(1, 2)) / 2


def pairs(n: int, d: int, width: float, sigmas: float, seed: int = 0) -> tuple[Gaussian, Gaussian]:
    """Pairs with means up to `sigmas` standard deviations apart, measured by the first, second or mean covariance."""
    rng = np.random.default_rng([seed, d])
    cov0, cov1 = covariances(rng, n, d, width), covariances(rng, n, d, width)
    ruler = np.stack([cov0, cov1, (cov0 + cov1) / 2])[rng.integers(0, 3, n), np.arange(n)]
    unit = rng.standard_normal((n, d, 1))
    unit *= sigmas / np.linalg.norm(unit, axis=1, keepdims=True)
    unit *= np.where(rng.random((n, 1, 1)) < 0.5, 1.0, rng.random((n, 1, 1)))
    means = (np.linalg.cholesky(ruler) @ unit)[..., 0]
    make = jax.vmap(Gaussian)
    return make(np.zeros((n, d)), cov0), make(means, cov1)


def best_of(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Shortest time in seconds of `repeats` runs after a first one, and the result."""
    result = jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return min(times), result


def numpy_centred(cov0: np.ndarray, cov1: np.ndarray) -> np.ndarray:
    """Batched NumPy: Cholesky factor, two solves, eigenvalues."""
    factor = np.linalg.cholesky(cov0)
    half = np.linalg.solve(factor, cov1)
    whitened = np.linalg.solve(factor, half.swapaxes(1, 2))
    return np.sqrt(np.sum(np.log(np.linalg.eigvalsh(whitened)) ** 2, axis=1) / 2)


def centred_rows(n: int, repeats: int) -> list[str]:
    rows = []
    for d in (8, 32):
        p, q = pairs(n, d, 1.0, 0.0)
        cov0, cov1 = np.asarray(p.cov), np.asarray(q.cov)
        program = jax.jit(jax.vmap(centred_distance))
        seconds, ours = best_of(lambda f=program, a=p.cov, b=q.cov: f(a, b), repeats)
        peers: dict[str, Callable[[], Any]] = {"batched NumPy": lambda a=cov0, b=cov1: numpy_centred(a, b)}
        if importlib.util.find_spec("geomstats"):
            from geomstats.geometry.spd_matrices import SPDAffineMetric, SPDMatrices

            space = SPDMatrices(d, equip=False)
            space.equip_with_metric(SPDAffineMetric)
            metric = space.metric
            peers["geomstats"] = lambda m=metric, a=cov0, b=cov1: m.dist(a, b) / np.sqrt(2)
        for name, run in peers.items():
            theirs, values = best_of(run, repeats)
            error = float(np.max(np.abs(np.asarray(values) / np.asarray(ours) - 1)))
            rows.append(
                f"| {d} | {n / seconds:,.0f} | {name} | {n / theirs:,.0f} | {theirs / seconds:.2f} | {error:.1e} |"
            )
    return rows


def bregman_distances(p: Gaussian, q: Gaussian, count: int, eps: float) -> tuple[float, np.ndarray] | None:
    """Seconds and distances of pyBregMan's approximate Fisher-Rao distance on the first `count` pairs."""
    if not importlib.util.find_spec("bregman"):
        return None
    from bregman.application.distribution.exponential_family.gaussian import GaussianFisherRaoDistance, GaussianManifold
    from bregman.base import LAMBDA_COORDS, Point

    manifold = GaussianManifold(p.mean.shape[1])
    distance = GaussianFisherRaoDistance(manifold)

    def point(g: Gaussian, i: int) -> Point:
        return Point(LAMBDA_COORDS, np.concatenate([np.asarray(g.mean[i]), np.asarray(g.cov[i]).ravel()]))

    points = [(point(p, i), point(q, i)) for i in range(count)]
    values = np.full(count, np.nan)
    start = time.perf_counter()
    for i, pair in enumerate(points):
        with contextlib.suppress(Exception):  # a peer's failure counts as NaN
            values[i] = np.real(np.asarray(distance.dissimilarity(*pair, eps=eps))).item()
    return time.perf_counter() - start, values


def connect_all(batch: int) -> Callable[[Gaussian, Gaussian], Any]:
    return jax.jit(lambda p, q: jax.lax.map(lambda pair: fisher_rao_connect(*pair), (p, q), batch_size=batch))


def means_rows(n: int, count: int, eps: float, repeats: int) -> list[str]:
    rows = []
    for d in (2, 3, 8):
        size = n if d < 8 else n // 10
        p, q = pairs(size, d, 1.0, 1.0)
        program = connect_all(64 if d < 8 else 16)
        seconds, found = best_of(lambda f=program, a=p, b=q: f(a, b), repeats)
        theirs = bregman_distances(p, q, count, eps)
        ours = size / seconds
        if theirs is None:
            rows.append(f"| {d} | {ours:,.0f} | | | |")
            continue
        off = np.abs(theirs[1] / np.asarray(found.distance)[:count] - 1)
        rate = count / theirs[0]
        rows.append(f"| {d} | {ours:,.0f} | {rate:,.1f} | {ours / rate:,.0f} | {np.nanmax(off):.1e} |")
    return rows


def hard_rows(sizes: dict[int, int]) -> list[str]:
    rows = []
    for d, size in sizes.items():
        p, q = pairs(size, d, 3.0, 3.0, seed=1)
        program = connect_all(64 if d < 8 else 16)
        seconds, found = best_of(lambda f=program, a=p, b=q: f(a, b), 1)
        residual, steps = np.asarray(found.residual), np.asarray(found.steps)
        back = np.asarray(program(q, p).distance)
        good = int(np.sum(residual <= 1e-9))
        gap = float(np.nanmax(np.abs(back - np.asarray(found.distance))))
        tight = float(np.nanmean(np.asarray(found.lower) / np.asarray(found.distance)))
        rows.append(
            f"| {d} | {size} | {good} | {np.max(residual):.1e} | {gap:.1e} | {tight:.3f} "
            f"| {steps.mean():.1f} / {steps.max()} | {size / seconds:,.0f} |"
        )
    return rows


def versions() -> str:
    found = []
    for name in PEERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    cores = len(os.sched_getaffinity(0))
    load = f"{cores} core(s) used, load {os.getloadavg()[0]:.1f}"
    return f"{model}, {load}, Python {platform.python_version()}, {versions()}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Fisher-Rao distances against the peers, side by side.")
    parser.add_argument("--output", type=Path, help="write the table to this Markdown file, too")
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--peer-pairs", type=int, default=50, help="pairs given to pyBregMan")
    parser.add_argument("--peer-eps", type=float, default=1e-2, help="relative tolerance asked of pyBregMan")
    parser.add_argument("--hard-pairs", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    hard = options.hard_pairs
    lines = [
        "# Fisher-Rao distances",
        "",
        machine(),
        "",
        f"Centred, log eigenvalues within 1, {options.pairs} pairs:",
        "",
        "| d | here, pairs/s | peer | pairs/s | ratio | largest relative difference |",
        "|---|---|---|---|---|---|",
        *centred_rows(options.pairs, options.repeats),
        "",
        "With means, log eigenvalues within 1, means within 1 standard deviation, against pyBregMan on "
        f"{options.peer_pairs} pairs at its tolerance {options.peer_eps:g}:",
        "",
        "| d | here, pairs/s | pyBregMan, pairs/s | ratio | its largest relative error |",
        "|---|---|---|---|---|",
        *means_rows(options.pairs, options.peer_pairs, options.peer_eps, options.repeats),
        "",
        "With means, eigenvalues within exp(±3), means within 3 standard deviations (converged: residual at most 1e-9; "
        "asymmetry: the largest difference of d(p, q) and d(q, p)):",
        "",
        "| d | pairs | converged | largest residual | asymmetry | mean lower bound / distance | steps, mean / most "
        "| pairs/s |",
        "|---|---|---|---|---|---|---|---|",
        *hard_rows({2: hard, 3: hard, 8: hard // 3, 16: hard // 30}),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
