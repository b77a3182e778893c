"""Samplers against theory's closed forms, exact laws, their nominal orders, and each other."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sim.sampler_base import Move, point
from sim.samplers import DDIM, SAMPLERS, Adaptive, Ancestral, DPMSolverPP2M, Euler, Heun, SigmaHeun
from sim.sampling import sample, start_from
from sim.times import GRIDS, time_grid
from tests.strategies import SOME_PATHS
from theory.discretisation import ANCESTRAL, generated_variance
from theory.mixture import GaussianMixture
from theory.paths import PATHS, OrnsteinUhlenbeck, ShortestPath, VarianceExploding, VPCosine, VPLinear
from theory.spectra import PowerLaw

SPECTRUM = jnp.asarray(PowerLaw(1.59, 0.0086, 2.0).spectrum((4, 4)))
KEY = jax.random.key(0)


class SpectralGaussian(eqx.Module):
    """E[x0 | x_t] for N(0, diag D) in the path's basis: Fourier, or pixels for a scalar path."""

    path: eqx.Module
    spectrum: jax.Array

    def __call__(self, xt, t, cond):
        signal, noise = self.path.powers(t)
        gain = jnp.sqrt(signal) * self.spectrum / (signal * self.spectrum + noise)
        return self.path.from_basis(gain * self.path.to_basis(xt)).astype(xt.dtype)


class Mixture(eqx.Module):
    """E[x0 | x_t] of a mixture, scalar paths."""

    path: eqx.Module
    law: GaussianMixture

    def __call__(self, xt, t, cond):
        return self.law.posterior_mean(xt, self.path.signal(t), self.path.powers(t)[1]).astype(xt.dtype)


TWO_MODES = GaussianMixture(jnp.array([0.3, 0.7]), jnp.array([[-1.4], [0.6]]), jnp.array([[[0.05]], [[0.2]]]))


def marginal_variance(path, t):
    signal, noise = path.powers(t)
    return jnp.broadcast_to(signal * SPECTRUM + noise, SPECTRUM.shape)


def gains(path, times, sampler):
    """Ratio x0 / x_T per frequency of a deterministic sampler on Gaussian data."""
    start = jax.random.normal(KEY, (1, 4, 4))
    out = sample(SpectralGaussian(path, SPECTRUM), path, sampler, times, start, KEY)
    before, after = (np.asarray(path.to_basis(x[0])) for x in (start, out))
    return (after / before).real


def every_pair(names, paths, quick):
    """All names on all paths; those not among the `quick` pairs with `-m slow`."""
    pairs = [(name, path) for name in names for path in paths]
    return [pytest.param(*pair, marks=() if pair in quick else pytest.mark.slow, id="-".join(pair)) for pair in pairs]


@pytest.mark.parametrize(
    ("sampler", "name"),
    every_pair(
        ("ddim", "euler"), PATHS, {("ddim", "variance_exploding"), ("ddim", "shortest"), ("euler", "vp_linear")}
    ),
)
def test_deterministic_sampler_generates_theorys_variance(sampler, name):
    path, sampler = PATHS[name](SPECTRUM), SAMPLERS[sampler]
    times = time_grid(path, 7, first=path.t_range[1])
    expected = generated_variance(path, SPECTRUM, times, type(sampler).__name__.lower())
    ratio = expected / marginal_variance(path, times[0])
    np.testing.assert_allclose(gains(path, times, sampler) ** 2, ratio, rtol=1e-10)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("vp_linear", "variance_exploding") else pytest.mark.slow) for n in PATHS],
)
def test_heun_generates_theorys_variance_with_eulers_rule_last(name):
    path = PATHS[name](SPECTRUM)
    times = time_grid(path, 7, first=path.t_range[1])
    expected = generated_variance(path, SPECTRUM, times, "heun") / marginal_variance(path, times[0])
    if path.starts_clean:  # theory's last step is Heun's, with the slope at t = 0 that a denoiser cannot give
        per_step = [generated_variance(path, SPECTRUM, times[-2:], kind) for kind in ("euler", "heun")]
        expected = expected * per_step[0] / per_step[1]
    np.testing.assert_allclose(gains(path, times, Heun()) ** 2, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("kind", "name"),
    every_pair(ANCESTRAL, PATHS, {
        *((kind, "shortest") for kind in ANCESTRAL),
        ("ancestral_exact", "variance_exploding"), ("ancestral_large", "vp_linear"),
    }),
)  # fmt: skip
def test_ancestral_steps_generate_theorys_variance(kind, name):
    """Gain and added noise of each step are read off single steps; their recursion is theory's."""
    path = PATHS[name](SPECTRUM)
    times = time_grid(path, 5)
    variance = {"exact": SPECTRUM, "large": "large", "small": "small"}[kind.split("_")[1]]
    sampler, denoiser = Ancestral(variance=variance, noisy_end=kind.endswith("noisy")), SpectralGaussian(path, SPECTRUM)
    whole = len(times) - 2 if path.starts_clean else len(times) - 1

    @jax.jit
    def step(xt, t, s, k):
        move = Move(lambda x, u: denoiser(x, u, None), path, point(path, t), point(path, s), jax.random.key(k))
        return sampler.step(xt, None, move)[0], sampler.last(xt, None, move)

    @jax.jit
    def clean(xt, t, k):
        late = point(path, t)
        early = late._replace(signal=jnp.ones(path.grid), noise=jnp.zeros(path.grid))
        return sampler.to_clean(xt, Move(lambda x, u: denoiser(x, u, None), path, late, early, jax.random.key(k)))

    def through(k):
        if k < whole:
            return lambda x: step(x, times[k], times[k + 1], k)[0]
        return lambda x: step(x, times[-2], times[-1], k)[1] if path.starts_clean else clean(x, times[-1], k)

    total, probe = marginal_variance(path, times[0]), jax.random.normal(KEY, (4, 4))
    for k in range(whole + 1):
        fresh = path.to_basis(jax.random.normal(jax.random.key(k), (4, 4)))
        noise = path.to_basis(through(k)(jnp.zeros((4, 4))))
        gain = (path.to_basis(through(k)(probe)) - noise) / path.to_basis(probe)
        total = gain.real**2 * total + (noise / fresh).real ** 2
    np.testing.assert_allclose(total, generated_variance(path, SPECTRUM, times, kind), rtol=1e-10)


ORDER_PATHS = {"vp_linear": VPLinear(), "edm": VarianceExploding(sigma_min=0.01, sigma_max=20.0)}
ORDER_ENDS = {"vp_linear": (0.7, 0.15), "edm": (0.8, 0.3)}
ORDER_STARTS = jnp.linspace(-1.5, 1.5, 9)[:, None]


@functools.cache
def reference_states(name):
    """By the adaptive sampler, between the two interior times."""
    return flow_states(name, Adaptive(), jnp.array(ORDER_ENDS[name]))


def flow_states(name, sampler, times):
    """x_t at the last time; on EDM's path what follows, the denoising step, is not part of the flow."""
    path = ORDER_PATHS[name]
    denoiser = Mixture(path, TWO_MODES)
    return sample(denoiser, path, sampler, times, ORDER_STARTS, KEY, trajectory=True).states[:, -1]


def each_deterministic_sampler_on(first, second, quick):
    """Every sampler on two paths, those of type `quick` on the first without `-m slow`: their arguments, the sampler
    last.
    """
    return [
        pytest.param(*path, sampler, id=f"{type(sampler).__name__}-{path[0]}",
                     marks=() if path == first and isinstance(sampler, quick) else pytest.mark.slow)
        for sampler in (DDIM(), Euler(), Heun(), SigmaHeun(), DPMSolverPP2M())
        for path in (first, second)
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "sampler"), each_deterministic_sampler_on(("vp_linear",), ("edm",), (DPMSolverPP2M,)))
def test_order_of_convergence_on_a_mixture_is_the_nominal_one(name, sampler):
    """Error against the adaptive reference between two interior times, halving the step: log2 of the ratio."""
    grids = [jnp.linspace(*ORDER_ENDS[name], steps + 1) for steps in (128, 256)]
    errors = [float(jnp.linalg.norm(flow_states(name, sampler, times) - reference_states(name))) for times in grids]
    assert abs(np.log2(errors[0] / errors[1]) - sampler.order) < 0.15, errors


@pytest.mark.parametrize(
    ("name", "first", "end", "sampler"),
    each_deterministic_sampler_on(("shortest", 0.8, 0.2), ("heat", 0.3, 0.1), (SigmaHeun,)),
)
def test_order_of_convergence_on_spectral_gaussians_is_the_nominal_one(name, first, end, sampler):
    path = PATHS[name](SPECTRUM)
    exact = jnp.sqrt(marginal_variance(path, end) / marginal_variance(path, first))
    grids = [jnp.linspace(first, end, steps + 1) for steps in (64, 128)]
    errors = [float(jnp.max(jnp.abs(gains(path, times, sampler) - exact))) for times in grids]
    assert abs(np.log2(errors[0] / errors[1]) - sampler.order) < 0.15, errors


def test_euler_is_exact_on_the_bures_path_where_the_standard_deviation_is_linear_in_t():
    path = PATHS["bures"](SPECTRUM)
    exact = jnp.sqrt(marginal_variance(path, 0.2) / marginal_variance(path, 0.8))
    np.testing.assert_allclose(gains(path, jnp.array([0.8, 0.5, 0.2]), Euler()), exact, rtol=1e-12)


@pytest.mark.slow  # without it, the orders of convergence rest on this sampler
@pytest.mark.parametrize("name", ["vp_linear", "equal_angle"])
def test_adaptive_reference_reproduces_the_flow_of_gaussian_data_to_ten_digits(name):
    """About a hundred steps with a relative error of 1e-12 each."""
    path = PATHS[name](SPECTRUM)
    exact = jnp.sqrt(SPECTRUM / marginal_variance(path, 0.9))
    found = gains(path, jnp.array([0.9, 0.0]), Adaptive(rtol=1e-12, atol=1e-14))
    np.testing.assert_allclose(found, exact, rtol=1e-10)


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("name", SOME_PATHS)
def test_time_grids_fall_within_the_path_and_count_the_steps(kind, name):
    path = PATHS[name](SPECTRUM)
    for steps in (2, 3, 10):
        times = np.asarray(time_grid(path, steps, kind))
        assert len(times) == steps + (1 if path.starts_clean else 0)
        assert np.all(np.diff(times) < 0)
        assert times[-1] == 0.0 or not path.starts_clean
        assert times[0] <= 1


@pytest.mark.parametrize("name", SOME_PATHS)
def test_grids_by_log_snr_are_even_in_what_they_promise(name):
    path, variance = PATHS[name](SPECTRUM), 0.7

    def at(kind, of):
        inner = time_grid(path, 9, kind, variance=variance)
        inner = inner[inner >= path.t_range[0]] if path.t_range[0] > 0 else inner
        return np.diff([float(of(path.reference_log_snr(t))) for t in inner])

    for kind, of in {
        "log_snr": lambda level: level,
        "edm": lambda level: jnp.exp(-level / 14),
        "equal_angle": lambda level: jnp.arctan(jnp.sqrt(variance) * jnp.exp(level / 2)),
    }.items():
        gaps = at(kind, of)
        np.testing.assert_allclose(gaps, gaps.mean(), rtol=1e-5)


def test_edm_grid_on_the_edm_path_is_uniform_in_t():
    path = VarianceExploding()
    np.testing.assert_allclose(time_grid(path, 10, "edm"), time_grid(path, 10), atol=1e-12)


@pytest.mark.slow
def test_more_samples_or_other_chunks_change_no_sample():
    path, times = VPCosine(), time_grid(VPCosine(), 5)
    start = jax.random.normal(KEY, (7, 1))
    denoiser = Mixture(path, TWO_MODES)
    whole = sample(denoiser, path, Ancestral(), times, start, KEY)
    fewer = sample(denoiser, path, Ancestral(), times, start[:5], KEY, chunk=3)
    np.testing.assert_allclose(fewer, whole[:5], rtol=1e-12)
    assert len(np.unique(np.asarray(whole))) == 7


def test_another_key_gives_other_noise_and_ddim_uses_none():
    path, times = VPCosine(), time_grid(VPCosine(), 5)
    start, denoiser = jnp.zeros((7, 1)), Mixture(VPCosine(), TWO_MODES)
    first, second = (sample(denoiser, path, Ancestral(), times, start, jax.random.key(k)) for k in (0, 1))
    assert not np.any(np.isclose(first, second))
    assert not np.any(np.isclose(first[0], first[1]))
    same = [sample(denoiser, path, DDIM(), times, start, jax.random.key(k)) for k in (0, 1)]
    np.testing.assert_array_equal(*same)


def test_conditions_reach_the_denoiser_of_their_own_sample():
    path, times = VPCosine(), time_grid(VPCosine(), 4)
    targets = jnp.array([[1.0], [2.0], [3.0]])

    def denoiser(xt, t, cond):
        return cond["target"]

    for sampler in (DDIM(), Ancestral(), SigmaHeun(), DPMSolverPP2M()):  # their last step returns what it is told
        grid = times.at[0].set(path.t_range[1])
        out = sample(denoiser, path, sampler, grid, jnp.zeros((3, 1)), KEY, {"target": targets})
        np.testing.assert_allclose(out, targets, rtol=1e-9)


def test_new_times_data_and_parameters_compile_nothing():
    traces = []

    class Counting(eqx.Module):
        mean: jax.Array

        def __call__(self, xt, t, cond):
            traces.append(1)
            return self.mean

    start = jnp.zeros((4, 2))
    for k in range(3):
        path = OrnsteinUhlenbeck(horizon=jnp.asarray(2.0 + k))
        times = time_grid(path, 6, "quadratic" if k else "uniform")
        denoiser = Counting(jnp.full(2, float(k)))
        sample(denoiser, path, Ancestral(stochasticity=0.3 + 0.1 * k), times, start + k, jax.random.key(k))
        if k == 0:
            compiled = len(traces)
    assert len(traces) == compiled


def test_a_path_that_explodes_from_no_noise_at_all_can_be_sampled_on_every_grid():
    path = VarianceExploding(sigma_min=0.0)
    start = start_from(path, TWO_MODES.sample(jax.random.key(3), (20,)), 1.0, KEY)
    for kind in GRIDS:
        out = sample(Mixture(path, TWO_MODES), path, SAMPLERS["ddim"], time_grid(path, 20, kind), start, KEY)
        assert np.all(np.isfinite(out))


def test_trajectory_begins_at_the_start_and_ends_at_the_samples():
    for path in (VPCosine(), VarianceExploding()):
        times, start = time_grid(path, 6), jax.random.normal(KEY, (3, 1))
        run = sample(Mixture(path, TWO_MODES), path, DDIM(), times, start, KEY, trajectory=True)
        assert run.states.shape == (3, len(times), 1)
        np.testing.assert_array_equal(run.states[:, 0], start)
        if path.starts_clean:
            np.testing.assert_array_equal(run.states[:, -1], run.samples)
        else:
            assert not np.any(np.isclose(run.states[:, -1], run.samples, rtol=1e-9, atol=0))


@pytest.mark.parametrize(
    ("name", "path"),
    every_pair(("ddim", "euler", "heun", "sigma_heun", "dpm_solver_pp_2m"), ("vp_cosine", "variance_exploding"),
               {("ddim", "vp_cosine")}),
)  # fmt: skip
def test_float32_trajectories_of_50_steps_stay_within_2e_5_of_float64_ones(name, path):
    """Relative to 1 + the noise at each time; between the modes the flow amplifies a rounding of 6e-8 a hundredfold."""
    law32, path = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), TWO_MODES), PATHS[path](SPECTRUM)
    times = time_grid(path, 50, first=path.t_range[1])
    start = start_from(path, TWO_MODES.sample(jax.random.key(3), (500,)), times[0], KEY)
    run = [
        sample(Mixture(path, law), path, SAMPLERS[name], times, x, KEY, trajectory=True)
        for law, x in ((TWO_MODES, start), (law32, start.astype(jnp.float32)))
    ]
    assert run[1].samples.dtype == jnp.float32
    scale = 1 + jax.vmap(path.noise)(times)[None, :, None]
    assert float(jnp.max(jnp.abs(run[0].states - run[1].states) / scale)) < 2e-5


@pytest.mark.parametrize("shape", [pytest.param((4, 4), marks=pytest.mark.slow), (4, 4, 3)])
@pytest.mark.slow
def test_images_with_channels_on_spectral_paths_are_carried_channel_by_channel(shape):
    path = ShortestPath(SPECTRUM)
    times = time_grid(path, 5)
    start = jax.random.normal(KEY, (2, *shape))
    one = SpectralGaussian(path, SPECTRUM)

    def denoiser(xt, t, cond):
        if xt.ndim == 2:
            return one(xt, t, cond)
        return jax.vmap(lambda x: one(x, t, cond), in_axes=2, out_axes=2)(xt)

    out = sample(denoiser, path, DDIM(), times, start, KEY)
    if len(shape) == 3:
        expected = sample(one, path, DDIM(), times, start[..., 1], KEY)
        np.testing.assert_allclose(out[..., 1], expected, rtol=1e-9, atol=1e-12)
    assert out.shape == start.shape


def test_start_from_draws_the_exact_marginal():
    path, n = VPCosine(), 4000
    x0 = jnp.full((n, 1), 2.0)
    drawn = np.asarray(start_from(path, x0, 0.4, KEY))[:, 0]
    signal, noise = (float(p) for p in path.powers(0.4))
    assert abs(drawn.mean() - 2 * np.sqrt(signal)) < 6 * np.sqrt(noise / n)
    assert abs(drawn.var() / noise - 1) < 6 * np.sqrt(2 / n)


BAD = {
    "times": lambda d: sample(d, VPCosine(), DDIM(), jnp.array([0.0, 1.0]), jnp.zeros((2, 1)), KEY),
    "times ": lambda d: sample(d, VPCosine(), DDIM(), jnp.array([1.5, 0.0]), jnp.zeros((2, 1)), KEY),
    "times  ": lambda d: sample(d, VPCosine(), DDIM(), jnp.array([1.0]), jnp.zeros((2, 1)), KEY),
    "start": lambda d: sample(d, ShortestPath(SPECTRUM), DDIM(), jnp.array([1.0, 0.0]), jnp.zeros((2, 5)), KEY),
    "start ": lambda d: sample(d, VPCosine(), DDIM(), jnp.array([1.0, 0.0]), jnp.zeros((0, 5)), KEY),
    "start  ": lambda d: sample(d, VPCosine(), DDIM(), jnp.array([1.0, 0.0]), jnp.full((2, 1), jnp.inf), KEY),
    "denoiser": lambda d: sample(
        lambda xt, t, cond: xt[:1], VPCosine(), DDIM(), jnp.array([1.0, 0.0]), jnp.zeros((2, 3)), KEY
    ),
    "sampler": lambda d: sample(
        d, ShortestPath(SPECTRUM), Ancestral(variance=jnp.ones(4)), jnp.array([1.0, 0.0]), jnp.zeros((2, 4, 4)), KEY
    ),
    "t": lambda d: start_from(VPCosine(), jnp.zeros((2, 1)), 1.5, KEY),
    "cond": lambda d: sample(
        d, VPCosine(), DDIM(), jnp.array([1.0, 0.0]), jnp.zeros((2, 1)), KEY, jnp.zeros(3, dtype=int)
    ),
    "chunk": lambda d: sample(d, VPCosine(), DDIM(), jnp.array([1.0, 0.0]), jnp.zeros((2, 1)), KEY, chunk=0),
    "times[0]": lambda d: sample(d, ShortestPath(SPECTRUM), Heun(), jnp.array([1.0, 0.0]), jnp.zeros((2, 4, 4)), KEY),
    "stochasticity": lambda d: Ancestral(1.5),
    "variance": lambda d: Ancestral(variance=jnp.array(-1.0)),
    "rtol": lambda d: Adaptive(rtol=0.0),
    "end": lambda d: Adaptive(end=2.0),
    "steps": lambda d: time_grid(VPCosine(), 0),
    "steps ": lambda d: time_grid(VarianceExploding(), 1),
    "kind": lambda d: time_grid(VPCosine(), 5, "cosine"),
    "first": lambda d: time_grid(VPCosine(), 5, first=1.5),
    "first ": lambda d: time_grid(VPCosine(), 5, "log_snr", first=1e-6),
}


@pytest.mark.parametrize("argument", BAD)
def test_bad_input_is_refused_by_name(argument):
    with pytest.raises(ValueError, match=argument.strip().replace("[", r"\[").replace("]", r"\]")):
        BAD[argument](lambda xt, t, cond: xt)


def test_a_denoiser_that_is_not_finite_is_named():
    def denoiser(xt, t, cond):
        return jnp.where(cond > 1, jnp.nan, xt)

    with pytest.raises(ValueError, match=r"denoiser: not finite on the way of 1 of 3 samples \(first: number 2\)"):
        sample(denoiser, VPCosine(), DDIM(), jnp.array([1.0, 0.0]), jnp.zeros((3, 1)), KEY, jnp.arange(3))
