"""2-Wasserstein distances of Gaussians, rates and digits, against POT, OTT, geomstats and batched NumPy, in one run
on one core.

    python benchmarks/gaussian_wasserstein.py --output benchmarks/RESULTS-wasserstein.md

in the environment that `make benchmarks` builds.

Every rival gets all pairs at once in the fastest form that it offers; one that handles a single pair is looped (over
a part of the pairs, scaled). Digits: the largest relative error over pairs against 60-digit arithmetic, ordinary
pairs, pairs at W2 = 1e-6, and pairs of condition number 1e8.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import _timing

_timing.one_core()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import mpmath  # noqa: E402
import numpy as np  # noqa: E402

jax.config.update("jax_enable_x64", True)

from theory.gaussian import Gaussian, wasserstein2, wasserstein2_paired  # noqa: E402

OURS = "Patina, `wasserstein2_paired`"


def ordinary(n, d, seed=0):
    """Wishart matrices with 2d degrees of freedom, scaled to mean I."""
    X = np.random.default_rng(seed).standard_normal((2, n, d, 2 * d))
    return X @ X.swapaxes(-1, -2) / (2 * d)


def hard(n, d, condition, distance, seed=1):
    """Pairs S, T S T with eigenvalues of S log-spaced over `condition`; T = I + X at W2 = `distance`, or an unrelated
    S (None).
    """
    rng = np.random.default_rng(seed)
    bases = np.linalg.qr(rng.standard_normal((2, n, d, d)))[0]
    values = condition ** -np.linspace(0, 1, d)
    first, second = bases * values @ bases.swapaxes(-1, -2)
    if distance is not None:
        X = rng.standard_normal((n, d, d))
        X = X + X.swapaxes(-1, -2)
        norms = np.sqrt(np.einsum("nij,njk,nki->n", X, first, X))
        T = np.eye(d) + X * (distance / norms)[:, None, None]
        second = T @ first @ T
    return [(a + a.swapaxes(-1, -2)) / 2 for a in (first, second)]


def exact(A, B):
    """W2 of N(0, A), N(0, B) by the trace formula in 60 digits."""
    with mpmath.workdps(60):
        A, B = mpmath.matrix(A.tolist()), mpmath.matrix(B.tolist())
        values, vectors = mpmath.eigsy(A)
        root = vectors * mpmath.diag([mpmath.sqrt(max(v, 0)) for v in values]) * vectors.T
        crossed = mpmath.eigsy(root * B * root, eigvals_only=True)
        trace = sum(A[i, i] + B[i, i] for i in range(A.rows))
        return float(mpmath.sqrt(max(trace - 2 * sum(mpmath.sqrt(max(v, 0)) for v in crossed), 0)))


def batch(covs):
    """A batch of centred Gaussians."""
    return jax.vmap(Gaussian)(jnp.zeros(covs.shape[:2]), jnp.asarray(covs))


def patina():
    """Ours, in blocks."""
    return lambda A, B: partial(wasserstein2_paired, batch(A), batch(B))


def patina_vmap():
    """Ours, by vmap."""
    mapped = jax.jit(jax.vmap(wasserstein2))
    return lambda A, B: partial(mapped, batch(A), batch(B))


def numpy_trace():
    """Batched NumPy: Cholesky and eigenvalues, the trace formula."""

    def distances(A, B):
        L = np.linalg.cholesky(A)
        crossed = np.linalg.eigvalsh(L.swapaxes(-1, -2) @ B @ L)
        traces = np.trace(A + B, axis1=-2, axis2=-1)
        return np.sqrt(np.maximum(traces - 2 * np.sqrt(np.maximum(crossed, 0)).sum(axis=-1), 0))

    return lambda A, B: lambda: distances(A, B)


def pot_batch():
    """POT's paired form on NumPy."""
    from ot.gaussian import bures_wasserstein_distance

    def prepare(A, B):
        zeros = np.zeros(A.shape[:2])
        return lambda: bures_wasserstein_distance(zeros, zeros, A, B, paired=True)

    return prepare


def pot_loop():
    """POT, one pair after another, NumPy."""
    from ot.gaussian import bures_wasserstein_distance

    zero = np.zeros

    def prepare(A, B):
        m = zero(A.shape[1])
        return lambda: np.array([bures_wasserstein_distance(m, m, a, b) for a, b in zip(A, B, strict=True)])

    return prepare


def pot_jax():
    """POT's function on its JAX backend, vmapped and compiled."""
    from ot.gaussian import bures_wasserstein_distance

    def prepare(A, B):
        m = jnp.zeros(A.shape[1])
        mapped = jax.jit(jax.vmap(lambda a, b: bures_wasserstein_distance(m, m, a, b)))
        a, b = jnp.asarray(A), jnp.asarray(B)
        return lambda: mapped(a, b)

    return prepare


def ott():
    """OTT's Gaussian.w2_dist, vmapped and compiled (it returns the square)."""
    from ott.tools.gaussian_mixture.gaussian import Gaussian as Peer

    def single(a, b):
        m = jnp.zeros(a.shape[0])
        return Peer.from_mean_and_cov(m, a).w2_dist(Peer.from_mean_and_cov(m, b))

    mapped = jax.jit(jax.vmap(single))

    def prepare(A, B):
        a, b = jnp.asarray(A), jnp.asarray(B)
        return lambda: jnp.sqrt(jnp.maximum(mapped(a, b), 0))

    return prepare


def geomstats():
    """geomstats' Bures-Wasserstein metric (it returns the square), batched NumPy.

    Its release 2.8 imports `numpy.trapz`, which NumPy 2.4 no longer has: it is given `numpy.trapezoid`.
    """
    vars(np).setdefault("trapz", np.trapezoid)
    from geomstats.geometry.spd_matrices import SPDBuresWassersteinMetric, SPDMatrices

    def prepare(A, B):
        space = SPDMatrices(A.shape[1], equip=False)
        space.equip_with_metric(SPDBuresWassersteinMetric)
        return lambda: np.sqrt(np.maximum(space.metric.squared_dist(A, B), 0))

    return prepare


RIVALS = {
    OURS: patina,
    "Patina, `vmap(wasserstein2)`": patina_vmap,
    "NumPy, batched Cholesky + eigvalsh (trace formula)": numpy_trace,
    "POT, paired, NumPy": pot_batch,
    "POT, loop, NumPy": pot_loop,
    "POT, vmap, JAX": pot_jax,
    "OTT, vmap": ott,
    "geomstats, batched": geomstats,
}


def worst_error(prepare, pairs, truth):
    """Largest relative error."""
    found = np.asarray(prepare(*pairs)())
    return np.max(np.abs(found - truth) / truth, initial=0.0)


def measure(n, d, checked):
    """One row per rival: microseconds per pair, pairs per second, speed of ours over theirs, worst relative errors."""
    A, B = ordinary(n, d)
    cases = [
        ordinary(checked, d, 5),
        hard(checked, d, 10.0, 1e-6),
        hard(checked, d, 1e8, None),
        hard(checked, d, 1e8, 1e-6),
    ]
    truths = [np.array([exact(a, b) for a, b in zip(*pairs, strict=True)]) for pairs in cases]
    results = {}
    for name, make in RIVALS.items():
        try:
            prepare = make()
            part = max(n // 20, 1) if "loop" in name else n
            time = _timing.seconds(prepare(A[:part], B[:part])) / part
            results[name] = (time, [worst_error(prepare, pairs, t) for pairs, t in zip(cases, truths, strict=True)])
        except Exception as error:
            print(f"{name}, d = {d}: left out, {type(error).__name__}: {error}", file=sys.stderr)
    ours = results[OURS][0]
    return [
        [name, f"{time * 1e6:.1f}", f"{1 / time / 1e3:.1f}k", f"{time / ours:.1f}x", *(f"{e:.0e}" for e in errors)]
        for name, (time, errors) in results.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--checked", type=int, default=5, help="pairs per accuracy column")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    header = ["", "µs / pair", "pairs / s", "time / ours", "ordinary", "W2 = 1e-6", "condition 1e8", "both"]
    names = ["jax", "numpy", "scipy", "pot", "ott-jax", "geomstats"]
    text = ["# 2-Wasserstein distance of Gaussians: rates and digits", ""]
    text += [f"{options.pairs} pairs, float64, processor time. {_timing.machine()}; {_timing.versions(names)}.", ""]
    text += ["The last four columns are worst relative errors against 60-digit arithmetic."]
    for d in (8, 32):
        text += ["", f"## d = {d}", "", _timing.table(header, measure(options.pairs, d, options.checked))]
    page = "\n".join(text) + "\n"
    print(page)
    if options.output:
        options.output.write_text(page)


if __name__ == "__main__":
    main()
