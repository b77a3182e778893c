"""Samples of a ten-component Gaussian mixture by 50 Heun steps, against PyTorch, azula, k-diffusion and smalldiffusion.

    python benchmarks/mixture_sampling.py --output benchmarks/RESULTS-sampling.md

EDM's path (σ from 80 to 0.002, ρ = 7 grid), the exact denoiser, float32, all in one run on the same start. Everybody
calls the same PyTorch denoiser, which computes one matrix product per component and call from covariances diagonalised
once. azula and k-diffusion run their own Heun samplers; smalldiffusion, which has none, runs DDIM with as many denoiser
calls. Peers live in an environment of their own (benchmarks/constraints-sampling.txt); what is missing is left out.
torchvision, which two of them import and none of this needs, is replaced by an empty module.
"""

import argparse
import importlib
import importlib.metadata
import itertools
import math
import os
import platform
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np

from sim.mixture_denoiser import MixtureDenoiser
from sim.samplers import SigmaHeun
from sim.sampling import sample
from sim.times import time_grid
from theory.mixture import GaussianMixture
from theory.paths import VarianceExploding

STEPS = 50
COMPONENTS = 10
PATH = VarianceExploding()
CASES = {"d = 2, full": (2, True), "d = 64, isotropic": (64, False), "d = 64, full": (64, True)}


def mixture(d: int, full: bool, seed: int = 0) -> GaussianMixture:
    """Ten components with means a few standard deviations apart; full ones of condition number up to 30."""
    rng = np.random.default_rng([seed, d])
    means = 2.0 * rng.standard_normal((COMPONENTS, d))
    if not full:
        covs = np.stack([v * np.eye(d) for v in rng.uniform(0.2, 1.0, COMPONENTS)])
    else:
        bases = np.linalg.qr(rng.standard_normal((COMPONENTS, d, d)))[0]
        covs = (bases * np.exp(rng.uniform(np.log(0.03), 0.0, (COMPONENTS, 1, d)))) @ bases.swapaxes(1, 2)
    weights = rng.dirichlet(np.full(COMPONENTS, 5.0))
    return GaussianMixture(*(jnp.asarray(a, jnp.float32) for a in (weights / weights.sum(), means, covs)))


def torch_denoiser(law: GaussianMixture) -> Callable:
    """x, σ -> E[x0 | x0 + σ ε = x] for a batch, in PyTorch."""
    import torch

    weights, means = (torch.tensor(np.asarray(a)) for a in (law.weights, law.means))
    values, bases = torch.linalg.eigh(torch.tensor(np.asarray(law.covs)).double())
    values, bases = values.float(), bases.float()
    isotropic = bool(torch.allclose(values, values[:, :1]))
    variances = values[:, 0]

    def full(x, sigma):  # type: ignore[no-untyped-def]
        total = values + sigma**2
        inverse = (bases / total[:, None, :]) @ bases.transpose(1, 2)
        away = x[None] - means[:, None]
        pulled = torch.bmm(away, inverse)
        logits = weights.log()[:, None] - 0.5 * (away * pulled).sum(-1) - 0.5 * total.log().sum(-1)[:, None]
        share = torch.softmax(logits, 0)
        return x - sigma**2 * (share[..., None] * pulled).sum(0)

    def round_(x, sigma):  # type: ignore[no-untyped-def]
        total = variances + sigma**2
        squares = (x**2).sum(-1)[None] - 2 * means @ x.T + (means**2).sum(-1)[:, None]
        logits = weights.log()[:, None] - 0.5 * squares / total[:, None] - 0.5 * x.shape[1] * total.log()[:, None]
        share = torch.softmax(logits, 0) / total[:, None]
        return x - sigma**2 * (share.sum(0)[:, None] * x - share.T @ means)

    return round_ if isotropic else full


def sigmas() -> np.ndarray:
    """The noise levels of the grid, falling, without the final 0."""
    return np.asarray(jax.vmap(PATH.noise)(time_grid(PATH, STEPS)), np.float32)


def torch_loop(denoise: Callable, start: np.ndarray, chunk: int | None) -> np.ndarray:
    """EDM's Heun in a plain loop, whole or in chunks."""
    import torch

    levels = [*sigmas().tolist(), 0.0]

    def run(x):  # type: ignore[no-untyped-def]
        for sigma, target in itertools.pairwise(levels):
            slope = (x - denoise(x, sigma)) / sigma
            ahead = x + (target - sigma) * slope
            if target > 0:
                slope = (slope + (ahead - denoise(ahead, target)) / target) / 2
                ahead = x + (target - sigma) * slope
            x = ahead
        return x

    with torch.no_grad():
        x = torch.tensor(start)
        return torch.cat([run(part) for part in (x.split(chunk) if chunk else [x])]).numpy()


def azula(denoise: Callable, start: np.ndarray) -> np.ndarray:
    """azula's HeunSampler on its times, given the grid's σ; its last step asks the denoiser at σ > 0 only."""
    import torch
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import Schedule
    from azula.sample import HeunSampler

    levels = torch.tensor([*sigmas()[::-1].tolist()])

    class Grid(Schedule):
        def __call__(self, t):  # type: ignore[no-untyped-def]
            return torch.ones_like(t), levels[(t * (len(levels) - 1)).round().long()]

    class Exact(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = Grid()

        def forward(self, x_t, t, **_):  # type: ignore[no-untyped-def]
            return DiracPosterior(denoise(x_t, self.schedule(t)[1]))

    sampler = HeunSampler(Exact(), steps=len(levels) - 1, silent=True)
    with torch.no_grad():
        near = sampler(torch.tensor(start))
        return denoise(near, float(levels[0])).numpy()


def k_diffusion(denoise: Callable, start: np.ndarray) -> np.ndarray:
    """k-diffusion's sample_heun."""
    import torch

    sampling = _only("k_diffusion", "sampling")
    levels = torch.tensor([*sigmas().tolist(), 0.0])
    with torch.no_grad():
        return sampling.sample_heun(
            lambda x, sigma: denoise(x, sigma[0]), torch.tensor(start), levels, disable=True
        ).numpy()


def smalldiffusion(denoise: Callable, start: np.ndarray) -> np.ndarray:
    """smalldiffusion's DDIM with as many denoiser calls as 50 Heun steps make."""
    import torch

    diffusion = _only("smalldiffusion", "diffusion")
    levels = np.interp(np.linspace(0, STEPS - 1, 2 * STEPS - 1), np.arange(STEPS), sigmas())

    class Model(torch.nn.Module):
        def predict_eps_cfg(self, x, sigma, cond, scale):  # type: ignore[no-untyped-def]
            return (x - denoise(x, sigma)) / sigma

        def rand_input(self, n):  # type: ignore[no-untyped-def]
            return torch.zeros(n, start.shape[1])

    with torch.no_grad():
        steps = diffusion.samples(Model(), torch.tensor([*levels.tolist(), 0.0]), xt=torch.tensor(start))
        for x in steps:
            last = x
    return last.numpy()


def _only(package: str, module: str) -> types.ModuleType:
    """One module of a package without running the package's own imports, and with an empty torchvision."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.datasets"):
        sys.modules.setdefault(name, MagicMock())
    if package not in sys.modules:
        spec = importlib.util.find_spec(package)
        parent = types.ModuleType(package)
        parent.__path__ = list(spec.submodule_search_locations)  # type: ignore[union-attr, arg-type]
        sys.modules[package] = parent
    return importlib.import_module(f"{package}.{module}")


def ours(law: GaussianMixture, start: np.ndarray) -> Callable[[], np.ndarray]:
    """A run of `sim` on the same start."""
    denoiser, times, x = MixtureDenoiser(PATH, law), time_grid(PATH, STEPS), jnp.asarray(start)
    times = times.astype(jnp.float32)
    return lambda: np.asarray(sample(denoiser, PATH, SigmaHeun(), times, x, jax.random.key(0)))


def seconds(run: Callable[[], np.ndarray], repeats: int) -> tuple[float, np.ndarray]:
    """Shortest time of `repeats` runs after a first one, and the result."""
    result, times = run(), []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times), result


def rows(n: int, repeats: int) -> list[str]:
    """The table, a row per case and peer, with the largest difference from our samples."""
    lines = []
    for name, (d, full) in CASES.items():
        law = mixture(d, full)
        start = np.random.default_rng(1).standard_normal((n, d)).astype(np.float32) * float(PATH.noise(1.0))
        mine, reference = seconds(ours(law, start), repeats)
        lines.append(f"| {name} | **patina** | {n / mine:,.0f} | 1 | |")
        denoise = torch_denoiser(law)
        peers = {
            "PyTorch loop": lambda denoise=denoise, start=start: torch_loop(denoise, start, None),
            "PyTorch loop, chunks of 2000": lambda denoise=denoise, start=start: torch_loop(denoise, start, 2000),
            "azula": lambda denoise=denoise, start=start: azula(denoise, start),
            "k-diffusion": lambda denoise=denoise, start=start: k_diffusion(denoise, start),
            "smalldiffusion (DDIM)": lambda denoise=denoise, start=start: smalldiffusion(denoise, start),
        }
        for peer, run in peers.items():
            try:
                taken, result = seconds(run, 1)
            except ImportError as error:
                print(f"left out: {peer} ({error})", file=sys.stderr)
                continue
            away = float(np.quantile(np.abs(result - reference).max(axis=1), 0.99))
            lines.append(f"| {name} | {peer} | {n / taken:,.0f} | {taken / mine:.1f} | {away:.1e} |")
            print(lines[-1], file=sys.stderr)
    return lines


def machine() -> str:
    """Processor, cores used and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    names = ("jax", "numpy", "torch", "azula", "k-diffusion", "smalldiffusion")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    python = platform.python_version()
    return f"{model}, {cores} core(s), load {load:.1f} at the start, Python {python}, {', '.join(versions)}"


def main() -> None:
    """Run all cases and print, and with --output write, the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    about = machine()
    head = "| mixture | who | samples/s | patina is faster by | 99 % of samples differ by less than |"
    table = "\n".join([head, "|---|---|---|---|---|", *rows(arguments.samples, arguments.repeats)])
    calls = 2 * STEPS - 1
    text = (
        f"# Sampling a mixture\n\n{about}\n\n{arguments.samples:,} samples, {calls} denoiser calls each.\n\n{table}\n"
    )
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    assert math.isclose(float(PATH.noise(1.0)), 80.0, rel_tol=1e-5)
    main()
