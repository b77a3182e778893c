"""The laws that random samplers generate: their own law is drawn, and it is the exact marginal to first order.

Given x, a step of a random sampler is N(m(x), v). Two keys tell m and v without sampling: on the line the law is then
carried through the steps by quadrature, and per frequency, for Gaussian data, by its variance.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from sim.sampler_base import Move, point
from sim.samplers import DDIM, Ancestral, ReverseSDE
from sim.sampling import sample, start_from
from tests.strategies import SOME_PATHS
from tests.test_sim_samplers import SPECTRUM, TWO_MODES, Mixture, SpectralGaussian, marginal_variance
from theory.paths import PATHS, VarianceExploding, VPCosine

KEYS = (jax.random.key(5), jax.random.key(6))
PATHS_ON_THE_LINE = {"vp_cosine": VPCosine(), "edm": VarianceExploding(sigma_min=0.01, sigma_max=20.0)}
ENDS = {"vp_cosine": (0.7, 0.15), "edm": (0.55, 0.3)}
RANDOM = {
    "small": Ancestral(),
    "large": Ancestral(variance="large"),
    "half of small": Ancestral(0.5),
    "half of large": Ancestral(0.5, variance="large"),
    "exact": Ancestral(variance=TWO_MODES.moments().cov[0, 0]),
    "reverse_sde": ReverseSDE(),
}
ON_BOTH = ("reverse_sde",)
each_case = pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=() if name == "vp_cosine" or kind in ON_BOTH else pytest.mark.slow)
        for kind in RANDOM
        for name in PATHS_ON_THE_LINE
    ],
)
GRID = np.linspace(-11, 11, 1401)
WIDTH = GRID[1] - GRID[0]


def one_step(sampler, denoiser, path, late, early, x, key):
    move = Move(lambda xt, t: denoiser(xt, t, None), path, point(path, late), point(path, early), key)
    return sampler.step(x, None, move)[0]


@eqx.filter_jit
def conditional_laws(path, sampler, times):
    """Mean and standard deviation of the next state for every step and point of the grid."""
    denoiser = Mixture(path, TWO_MODES)
    fresh = [jax.random.normal(key, (1,))[0] for key in KEYS]

    def step(late, early):
        ends = [
            jax.vmap(lambda y, k=k: one_step(sampler, denoiser, path, late, early, y[None], k)[0])(jnp.asarray(GRID))
            for k in KEYS
        ]
        spread = (ends[0] - ends[1]) / (fresh[0] - fresh[1])
        return ends[0] - spread * fresh[0], jnp.abs(spread)

    return jax.vmap(step)(times[:-1], times[1:])


def advance(mass, mean, spread):
    """Masses after a step: each point's mass spread over the grid as its normal law, to 8 standard deviations."""
    reach = int(np.ceil(8 * spread.max() / WIDTH)) + 1
    near = np.rint((mean - GRID[0]) / WIDTH).astype(int)[:, None] + np.arange(-reach, reach + 1)
    inside = (near >= 0) & (near < GRID.size)
    target = np.clip(near, 0, GRID.size - 1)
    scaled = (GRID[target] - mean[:, None]) / spread[:, None]
    share = np.exp(-0.5 * scaled**2) / (np.sqrt(2 * np.pi) * spread[:, None]) * WIDTH * inside
    return np.bincount(target.ravel(), (mass[:, None] * share).ravel(), GRID.size)


@functools.cache
def carried(name, kind, steps):
    """Times, and the density of every state on the grid, from the exact marginal at the first time.

    `steps` is a multiple of 40: forty steps at a time, one program for any number of them.
    """
    times = np.linspace(*ENDS[name], steps + 1)
    masses = [exact_law(name, times[0]) * WIDTH]
    for k in range(0, steps, 40):
        laws = conditional_laws(PATHS_ON_THE_LINE[name], RANDOM[kind], jnp.asarray(times[k : k + 41]))
        for mean, spread in zip(*map(np.asarray, laws), strict=True):
            masses.append(advance(masses[-1], mean, spread))
    return jnp.asarray(times), np.array(masses) / WIDTH


@eqx.filter_jit
def pushed_forward(path, t):
    return TWO_MODES.pushforward(path.signal(t), path.powers(t)[1])


def exact_law(name, t):
    """Density of x_t on the grid."""
    law = jax.tree.map(np.asarray, pushed_forward(PATHS_ON_THE_LINE[name], jnp.asarray(t)))
    parts = [norm(m[0], np.sqrt(c[0, 0])).pdf(GRID) for m, c in zip(law.means, law.covs, strict=True)]
    return law.weights @ np.array(parts)


@each_case
def test_the_law_of_a_random_sampler_converges_at_first_order(name, kind):
    """Total variation to the exact marginal at the last time, halving the step."""
    errors = []
    for steps in (40, 80):
        times, laws = carried(name, kind, steps)
        assert abs(np.sum(laws[-1]) * WIDTH - 1) < 1e-8  # the grid is wide and fine enough
        errors.append(np.sum(np.abs(laws[-1] - exact_law(name, times[-1]))))
    assert abs(np.log2(errors[0] / errors[1]) - 1) < 0.15, errors


@each_case
def test_every_state_is_drawn_from_the_samplers_law(name, kind):
    """Kolmogorov-Smirnov distance of 4000 samples to the law carried by quadrature, at each of 40 steps; all 12 runs
    together fail by chance once in 1e6.
    """
    path, sampler, n = PATHS_ON_THE_LINE[name], RANDOM[kind], 4000
    times, laws = carried(name, kind, 40)
    x0 = TWO_MODES.sample(jax.random.key(1), (n,))
    start = start_from(path, x0, times[0], jax.random.key(2))
    run = sample(Mixture(path, TWO_MODES), path, sampler, times, start, jax.random.key(3), trajectory=True)
    limit = np.sqrt(np.log(2 * 12 * 41 / 1e-6) / (2 * n))
    last = len(times) - (1 if path.starts_clean else 0)  # on a clean path the last step adds no noise
    for k in range(last):
        drawn = np.sort(np.asarray(run.states[:, k, 0]))
        total = np.concatenate([[0.0], np.cumsum((laws[k][1:] + laws[k][:-1]) / 2 * WIDTH)])
        cdf, ranks = np.interp(drawn, GRID, total), np.arange(n + 1) / n
        distance = max(np.max(ranks[1:] - cdf), np.max(cdf - ranks[:-1]))
        assert distance < limit, (k, distance, limit)


def variance_step(sampler, path, late, early, total):
    """Variances per frequency after a step on Gaussian data with variances `total` before it."""
    denoiser = SpectralGaussian(path, SPECTRUM)
    fresh = jax.random.normal(KEYS[0], SPECTRUM.shape)
    noise = one_step(sampler, denoiser, path, late, early, jnp.zeros(SPECTRUM.shape), KEYS[0])
    moved = one_step(sampler, denoiser, path, late, early, path.from_basis(jnp.ones(SPECTRUM.shape)).real, KEYS[0])
    gain = path.to_basis(moved - noise).real
    return gain**2 * total + jnp.abs(path.to_basis(noise) / path.to_basis(fresh)) ** 2


LEGS = [
    ("shortest", 0.8, 0.2),
    pytest.param("heat", 0.3, 0.1, marks=pytest.mark.slow),
    pytest.param("vp_cosine", 0.9, 0.2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "first", "end"), LEGS)
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind == "large" else pytest.mark.slow) for kind in RANDOM if kind != "exact"],
)
def test_variances_per_frequency_converge_at_first_order(name, first, end, kind):
    path = PATHS[name](SPECTRUM)
    found = [generated_variances(path, RANDOM[kind], first, end, jnp.asarray(steps)) for steps in (200, 400)]
    errors = [float(jnp.max(jnp.abs(variances - marginal_variance(path, end)))) for variances in found]
    assert abs(np.log2(errors[0] / errors[1]) - 1) < 0.05, errors


@eqx.filter_jit
def generated_variances(path, sampler, first, end, steps):
    def advance(k, total):
        late, early = (first + (end - first) * (k + j) / steps for j in (0, 1))
        return variance_step(sampler, path, late, early, total)

    return jax.lax.fori_loop(0, steps, advance, marginal_variance(path, first))


@functools.cache
def compiled_step(name):
    """(late, early, stochasticity) -> variance after a step with the exact variance; x by DDIM and with none."""
    path = PATHS[name](SPECTRUM)
    denoiser, x = SpectralGaussian(path, SPECTRUM), jax.random.normal(KEYS[1], SPECTRUM.shape)

    def run(late, early, stochasticity):
        after = variance_step(Ancestral(stochasticity, SPECTRUM), path, late, early, marginal_variance(path, late))
        ends = [one_step(s, denoiser, path, late, early, x, KEYS[0]) for s in (DDIM(), Ancestral(0 * stochasticity))]
        return after, *ends

    return jax.jit(run)


@pytest.mark.parametrize("name", SOME_PATHS)
@given(late=st.floats(0.3, 0.98), share=st.floats(0.05, 0.95), stochasticity=st.floats(0, 1))
@pytest.mark.slow
def test_exact_variance_is_exact_and_stochasticity_zero_is_ddim(name, late, share, stochasticity):
    path, early = PATHS[name](SPECTRUM), late * share
    after, ddim, none = compiled_step(name)(late, early, stochasticity)
    np.testing.assert_allclose(after, marginal_variance(path, early), rtol=1e-9)
    np.testing.assert_allclose(none, ddim, rtol=1e-12, atol=1e-12)
