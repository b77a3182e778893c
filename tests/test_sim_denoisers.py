"""sim.denoisers against theory's posterior mean, Tweedie's formula, quadrature and closed forms at the ends."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from sim.conversions import noise_of, score_of, velocity_of
from sim.denoisers import Clipped, Guided, LinearDenoiser
from sim.mixture_denoiser import MixtureDenoiser
from tests.strategies import QUICK_PATHS, SOME_PATHS
from theory.gaussian import Gaussian
from theory.linear import PathDenoiser, corrupted_moments, drawn_moments, pooled_moments, shared_moments
from theory.mixture import GaussianMixture
from theory.paths import PATHS, BuresPath, OrnsteinUhlenbeck, ShortestPath, VarianceExploding, VPCosine

GRID = (3, 2)


def even_spectrum(seed=0):
    D = np.exp(np.random.default_rng(seed).normal(size=GRID))
    return jnp.asarray((D + np.roll(np.flip(D), 1, (0, 1))) / 2)


def mixture(kind="full", k=3, d=6, seed=0, spread=2.0):
    rng = np.random.default_rng(seed)
    B = rng.normal(size=(k, d, d)) / np.sqrt(d)
    covs = np.einsum("kij,klj->kil", B, B) + 0.05 * np.eye(d)
    if kind == "diagonal":
        covs = covs * np.eye(d)
    if kind == "isotropic":
        covs = np.eye(d) * rng.uniform(0.1, 1, (k, 1, 1))
    return GaussianMixture(rng.dirichlet(np.ones(k)), spread * rng.normal(size=(k, d)), covs)


def gains(path, t, d=6):
    return _gains(path, jnp.asarray(t), d)


# Compiled as wholes: operation by operation they would be some hundred programs.
@eqx.filter_jit
def _gains(path, t, d):
    return path._matrix(path.signal(t), d), path._matrix(path.powers(t)[1], d)


@eqx.filter_jit
def drawn_from_marginal(law, A, N, key, shape=()):
    return law.pushforward(A, N).sample(key, shape)


@eqx.filter_jit
def marginal_score(law, x, A, N):
    return jax.grad(law.pushforward(A, N).log_prob)(x)


score = eqx.filter_jit(score_of)
velocity = eqx.filter_jit(velocity_of)
noise = eqx.filter_jit(noise_of)
corrupted = eqx.filter_jit(lambda path, x0, t, eps: path.corrupt(x0, t, eps))


@eqx.filter_jit
def batch(denoiser, xt, t, cond=None):
    return jax.vmap(denoiser, in_axes=(0, None, None))(xt, t, cond)


@eqx.filter_jit
def single(denoiser, xt, t, cond=None):
    return denoiser(xt, t, cond)


@eqx.filter_jit
def reference(law, x, A, N):
    return jax.vmap(lambda y: law.posterior_mean(y, A, N))(x)


# On a spectral path diagonal covariances run the program of full ones; two paths of each sort are enough by default.
CASES = [
    pytest.param(kind, name, marks=() if (kind == "full" and name in QUICK_PATHS) or name in few else pytest.mark.slow)
    for kind, few in (("full", ()), ("diagonal", ("vp_linear", "bures")), ("isotropic", ("vp_linear", "shortest")))
    for name in sorted(PATHS)
]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_posterior_mean_is_theorys(name, kind):
    """Dense, on every path: float64 to 1e-10; float32 to a few hundred of its ε times the size of the data."""
    path, law = PATHS[name](even_spectrum()), mixture(kind)
    denoiser = MixtureDenoiser(path, law)
    for t in (0.02, 0.5, 0.95):
        A, N = gains(path, t)
        x = drawn_from_marginal(law, A, N, jax.random.key(1), (5,))
        expected = reference(law, x, A, N)
        got = batch(denoiser, x.reshape(5, *GRID), jnp.asarray(t))
        np.testing.assert_allclose(got.reshape(5, 6), expected, atol=1e-10)
        low = batch(denoiser, x.reshape(5, *GRID).astype(jnp.float32), jnp.asarray(t, jnp.float32))
        assert low.dtype == jnp.float32
        np.testing.assert_allclose(low.reshape(5, 6), expected, atol=300 * 1.2e-7 * 5)


@pytest.mark.parametrize("path", [VPCosine(), ShortestPath(even_spectrum())], ids=["scalar", "spectral"])
def test_tweedie(path):
    """x̂0 = (x + S² ∇ log p_t)/A with the score by automatic differentiation of the marginal's log-density."""
    law, t = mixture(seed=2), jnp.asarray(0.4)
    A, N = gains(path, t)
    x = drawn_from_marginal(law, A, N, jax.random.key(0))
    slope = marginal_score(law, x, A, N)
    got = single(MixtureDenoiser(path, law), x.reshape(GRID), t)
    np.testing.assert_allclose(got.reshape(6), np.linalg.solve(A, x + np.asarray(N) @ slope), atol=1e-11)
    np.testing.assert_allclose(score(path, x.reshape(GRID), t, got).reshape(6), slope, atol=1e-10)


def test_quadrature_on_the_line():
    """∫ x0 p(x0) N(x; A x0, S²) dx0 / ∫ ..., conditional on classes that are mixtures of components."""
    law = GaussianMixture(np.array([0.3, 0.7]), np.array([[-1.0], [2.0]]), np.array([[[0.04]], [[0.5]]]))
    weights = np.array([[0.9, 0.1], [0.2, 0.8]])
    path, t, x = VPCosine(), 0.45, 0.3
    denoiser, a, s = MixtureDenoiser(path, law, weights), float(path.signal(t)), float(path.noise(t))
    for cond, w in ((None, [0.3, 0.7]), (0, weights[0]), (1, weights[1])):

        def joint(y, w=w):
            prior = sum(
                p * np.exp(-((y - m) ** 2) / (2 * v)) / np.sqrt(v)
                for p, m, v in zip(w, (-1, 2), (0.04, 0.5), strict=True)
            )
            return prior * np.exp(-((x - a * y) ** 2) / (2 * s * s))

        top, bottom = (quad(lambda y, j=j: y**j * joint(y), -8, 8, points=[-1, 2], epsabs=1e-13)[0] for j in (1, 0))
        got = single(denoiser, jnp.array([x]), jnp.asarray(t), None if cond is None else jnp.asarray(cond))
        np.testing.assert_allclose(got, top / bottom, rtol=1e-9)


# Three components everywhere, so that laws of one kind share their programs.
ENDS = GaussianMixture(np.array([0.25, 0.5, 0.25]), np.outer([0.0, 1.0, 3.0], np.ones(6)), np.zeros((3, 6, 6)))
SINGULAR = np.diag([1.0, 1, 1, 0, 0, 0]) + np.ones((6, 6)) * np.array([0.0, 0.3, 0.1])[:, None, None]


@pytest.mark.parametrize(
    ("path", "law"),
    [
        (VPCosine(), ENDS),
        (VPCosine(), mixture("isotropic")),
        (ShortestPath(even_spectrum()), mixture()),
        (ShortestPath(even_spectrum()), GaussianMixture(ENDS.weights, ENDS.means, SINGULAR)),
    ],
    ids=["points", "isotropic", "full", "singular"],
)
def test_ends(path, law):
    """No noise: x_t/A. No signal: the (conditional) mean. No NaN, singular components included."""
    denoiser, x = MixtureDenoiser(path, law), jnp.arange(6.0).reshape(GRID)
    start, end = jnp.asarray(0.0), jnp.asarray(1.0)
    np.testing.assert_allclose(single(denoiser, x, start), x, atol=1e-12)
    np.testing.assert_allclose(single(denoiser, x, end).reshape(6), law.weights @ law.means, atol=1e-12)
    np.testing.assert_allclose(single(denoiser, x, end, jnp.asarray(1)).reshape(6), law.means[1], atol=1e-12)
    assert np.all(np.isfinite(single(denoiser, x.astype(jnp.float32), jnp.float32(1e-4))))


@pytest.mark.parametrize("kind", ["full", "isotropic"])
def test_float32_far_out(kind):
    """40 standard deviations out in 64 dimensions, where densities underflow: still float64's answer."""
    law, path = mixture(kind, k=5, d=64, seed=3), VPCosine()
    denoiser = MixtureDenoiser(path, law)
    step = jax.random.normal(jax.random.key(0), (4, 64))
    x = 40 * step / jnp.linalg.norm(step, axis=1, keepdims=True) * 8
    for t in (0.05, 0.5, 0.9):
        expected = batch(denoiser, x, jnp.asarray(t))
        got = batch(denoiser, x.astype(jnp.float32), jnp.float32(t))
        # exponents of size up to |x|²/(2 λ) = 1e6 differ by up to 64 ε of it: only decided weights can agree
        np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3)


def test_singular_covariances_in_float32_on_a_spectral_path():
    """At noise far below the rounding of the covariance, with a law held in float32: finite, and float64's answer."""
    path = BuresPath(even_spectrum())
    root = jnp.asarray(np.random.default_rng(2).normal(size=(3, 6, 3)))
    means = np.random.default_rng(3).normal(size=(3, 6))
    law = GaussianMixture(np.array([0.3, 0.5, 0.2]), means, root @ root.mT)
    law32 = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), law)
    x0 = law.sample(jax.random.key(0), (5,)).reshape(-1, *GRID)
    for t in (1e-6, 1e-4, 1e-2, 0.3):
        got = batch(MixtureDenoiser(path, law32), x0.astype(jnp.float32), jnp.float32(t))
        expected = batch(MixtureDenoiser(path, law), x0, jnp.asarray(t))
        np.testing.assert_allclose(got, expected, atol=0.02)


def test_two_regimes_agree_with_float64_in_float32():
    """Condition number 1e6: both forms of the product, on both sides of the switch at S² = A² λ."""
    d, rng = 16, np.random.default_rng(5)
    Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    cov = (Q * np.geomspace(1, 1e-6, d)) @ Q.T
    law = GaussianMixture(np.full(3, 1 / 3), rng.normal(size=(3, d)), np.stack([cov, 0.5 * cov, 2 * cov]))
    denoiser, path = MixtureDenoiser(VPCosine(), law), VPCosine()
    for t in (0.001, 0.1, 0.45, 0.5, 0.55, 0.9, 0.999):
        x = drawn_from_marginal(law, *gains(path, t, d), jax.random.key(0), (20,))
        expected = batch(denoiser, x, jnp.asarray(t))
        got = batch(denoiser, x.astype(jnp.float32), jnp.float32(t))
        # ε √κ d in the directions where weights are undecided (top of the module), with √κ = A λ^½/S at most 1e3
        np.testing.assert_allclose(got, expected, atol=1.2e-7 * 16 * 1e3)


@pytest.mark.slow
def test_expanded_squares_only_where_they_are_safe():
    """Tight isotropic components far from the origin, float32: no digits lost to |x|² - 2 x·m + |m|²."""
    means = 1000 + jnp.array([[0.0], [0.02]]) * jnp.ones((2, 8))
    law = GaussianMixture(np.array([0.5, 0.5]), np.asarray(means), np.eye(8) * np.array([1e-4, 1e-4])[:, None, None])
    denoiser, path = MixtureDenoiser(VarianceExploding(), law), VarianceExploding()
    x = jnp.asarray(1000.0078125, jnp.float32) * jnp.ones(8, jnp.float32)  # exact in float32
    expected = denoiser(x.astype(jnp.float64), path.time_at(jnp.asarray(-2 * np.log(0.01))), None)
    got = denoiser(x, jnp.asarray(path.time_at(jnp.asarray(-2 * np.log(0.01))), jnp.float32), None)
    np.testing.assert_allclose(got, expected, atol=1000 * 1.2e-7 * 4)


def test_batch_condition_and_products_are_not_batched_over_time():
    """Conditions in a batch; and nothing of size (batch, d, d) in the compiled program: matrices depend on t alone."""
    law, path = mixture(k=4, d=6), VPCosine()
    denoiser = MixtureDenoiser(path, law)
    x, cond = jax.random.normal(jax.random.key(0), (97, 6)), jnp.arange(97) % 4
    program = jax.jit(jax.vmap(lambda y, t, c: denoiser(y, t, c), in_axes=(0, None, 0)))
    got = program(x, 0.3, cond)
    alone = [single(denoiser, x[i], jnp.asarray(0.3), cond[i]) for i in (0, 1, 2, 3)]
    np.testing.assert_allclose(got[:4], np.stack(alone), atol=1e-12)
    jaxpr = str(jax.make_jaxpr(program)(x, 0.3, cond))
    assert "97,6]" in jaxpr
    assert "97,6,6]" not in jaxpr
    assert "97,4,6,6]" not in jaxpr


@pytest.mark.slow
def test_stationary_covariances_are_diagonal_on_a_spectral_path():
    spectrum = even_spectrum()
    path = ShortestPath(spectrum)
    cov = path._matrix(spectrum, 6)
    law = GaussianMixture(np.array([1.0]), np.ones((1, 6)), cov[None])
    denoiser = MixtureDenoiser(path, law)
    assert denoiser.covs is None
    A, N = gains(path, 0.3)
    x = jnp.arange(6.0)
    np.testing.assert_allclose(denoiser(x.reshape(GRID), 0.3).reshape(6), law.posterior_mean(x, A, N), atol=1e-12)


def test_channels_follow_the_grid():
    path, law = BuresPath(even_spectrum()), mixture(d=12)
    A, N = gains(path, 0.3, 12)
    x = jnp.arange(12.0) / 6
    got = single(MixtureDenoiser(path, law), x.reshape(*GRID, 2), jnp.asarray(0.3))
    np.testing.assert_allclose(got.reshape(12), reference(law, x[None], A, N)[0], atol=1e-11)


def labelled(seed=0, n=40, d=4):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return rng.normal(size=(n, d)) * [1, 2, 0.5, 1] + 2 * labels[:, None], labels


def test_linear_denoiser_is_theorys():
    points, labels = labelled()
    means = np.stack([points[labels == c].mean(0) for c in (0, 1)])
    covs = np.stack([np.cov(points[labels == c].T, bias=True) for c in (0, 1)])
    path, noise_std, x = OrnsteinUhlenbeck(), 0.4, jnp.array([0.3, -1.0, 2.0, 0.1])
    s = noise_std**2 / (1 + noise_std**2)
    laws = [corrupted_moments(m, S, s) for m, S in zip(means, covs, strict=True)]
    theirs = PathDenoiser(jnp.stack([g.mean for g in laws]), jnp.stack([g.cov for g in laws]), path)
    ours = LinearDenoiser.fit(path, points, labels, noise_std=noise_std)
    for t in (0.01, 0.2, 0.9):
        for c in (0, 1):
            arguments = x, jnp.asarray(t), jnp.asarray(c)
            np.testing.assert_allclose(single(ours, *arguments), single(theirs, *arguments), atol=1e-10)
    pooled = pooled_moments(np.array([0.5, 0.5]), means, covs)
    np.testing.assert_allclose(pooled.cov, np.cov(points.T, bias=True), atol=1e-12)
    cov, mean, a, v = (np.asarray(q) for q in (pooled.cov, pooled.mean, path.signal(0.2), path.powers(0.2)[1]))
    gain = a * cov @ np.linalg.inv(a**2 * cov + v * np.eye(4))
    np.testing.assert_allclose(single(ours, x, jnp.asarray(0.2)), mean + gain @ (x - a * mean), atol=1e-11)


def test_linear_denoiser_shared_and_drawn():
    points, labels = labelled()
    codes, path, x = np.array([[1.0, 0.5], [0.2, 1.0]]), VPCosine(), jnp.ones(4)
    means = np.stack([points[labels == c].mean(0) for c in (0, 1)])
    covs = np.stack([np.cov(points[labels == c].T, bias=True) for c in (0, 1)])
    drawn = codes[labels] + 0.3 * np.random.default_rng(1).normal(size=(40, 2))
    shared = shared_moments(np.array([0.5, 0.5]), means, covs, codes, 0.3)
    cases = [
        (LinearDenoiser.fit(path, points, labels, noise_std=0.3, codes=codes, shared=True), shared.given(codes[1])),
        (
            LinearDenoiser.fit(path, points, labels, codes=codes, shared=True, drawn=drawn),
            drawn_moments(points, drawn).given(codes[1]),
        ),
        (
            LinearDenoiser.fit(path, points, labels, codes=codes, drawn=drawn),
            drawn_moments(points[labels == 1], drawn[labels == 1]).given(codes[1]),
        ),
    ]
    for fitted, law in cases:
        theirs = PathDenoiser(law.mean[None], law.cov[None], path)
        got, expected = (single(of, x, jnp.asarray(0.4), jnp.asarray(c)) for of, c in ((fitted, 1), (theirs, 0)))
        np.testing.assert_allclose(got, expected, atol=1e-10)


def test_linear_denoiser_on_a_spectral_path():
    path, law = BuresPath(even_spectrum()), mixture(k=2)
    ours = LinearDenoiser(path, law.means, law.covs)
    A, N = gains(path, 0.4)
    x = jnp.arange(6.0)
    one = GaussianMixture(np.ones(1), law.means[1:], law.covs[1:])
    got = single(ours, x.reshape(GRID), jnp.asarray(0.4), jnp.asarray(1))
    np.testing.assert_allclose(got.reshape(6), reference(one, x[None], A, N)[0], atol=1e-11)
    with pytest.raises(ValueError, match="pooled"):
        ours(x.reshape(GRID), 0.4, None)


def test_guidance_is_linear_in_the_scores():
    """(1 + w) ∇ log p(x|c) - w ∇ log p(x), and the conditional alone outside the interval."""
    law, path, x, w = mixture(), VPCosine(), jnp.arange(6.0).reshape(GRID) / 3, 1.5
    plain = MixtureDenoiser(path, law)
    guided, one = Guided(plain, w, interval=(0.3, 0.6)), jnp.asarray(1)

    def at(denoiser, t, cond=one):
        return np.asarray(single(denoiser, x, jnp.asarray(t), cond))

    scores = [np.asarray(score(path, x, jnp.asarray(0.4), jnp.asarray(at(plain, 0.4, c)))) for c in (one, None)]
    expected = (1 + w) * scores[0] - w * scores[1]
    got = score(path, x, jnp.asarray(0.4), jnp.asarray(at(guided, 0.4)))
    np.testing.assert_allclose(got, expected, atol=1e-11)
    for t in (0.299, 0.601):
        np.testing.assert_array_equal(at(guided, t), at(plain, t))
    for t in (0.3, 0.6):
        assert np.max(np.abs(at(guided, t) - at(plain, t))) > 1e-3
    other = Guided(plain, w, unconditional=lambda xt, t, cond: jnp.zeros_like(xt))
    np.testing.assert_allclose(at(other, 0.9), (1 + w) * at(plain, 0.9), atol=1e-12)
    assert single(guided, x.astype(jnp.float32), jnp.float32(0.4), one).dtype == jnp.float32


def test_clipped():
    law, path, x = mixture(), VPCosine(), jnp.arange(6.0).reshape(GRID) * 3
    plain = MixtureDenoiser(path, law)
    free = single(plain, x, jnp.asarray(0.3), jnp.asarray(0))
    clipped = single(Clipped(plain, -1.0, 1.0), x, jnp.asarray(0.3), jnp.asarray(0))
    np.testing.assert_array_equal(clipped, np.clip(free, -1, 1))
    assert np.max(np.abs(free)) > 1


@pytest.mark.parametrize("name", SOME_PATHS)
def test_noise_and_velocity_of_a_known_pair(name):
    """Given x0 itself, the noise is ε and the velocity d/dt (A x0 + S ε), by differences of `corrupt`."""
    path = PATHS[name](even_spectrum())
    x0, eps = (jax.random.normal(jax.random.key(i), GRID) for i in (0, 1))
    t, h = 0.4, 1e-5
    xt, later, earlier = (np.asarray(corrupted(path, x0, jnp.asarray(u), eps)) for u in (t, t + h, t - h))
    got_noise, got_velocity = (of(path, jnp.asarray(xt), jnp.asarray(t), x0) for of in (noise, velocity))
    np.testing.assert_allclose(got_noise, eps, atol=1e-11)
    slope = (later - earlier) / (2 * h)
    # central differences: h² x'''/6 < 1e-10 × 1e5 (EDM's σ reaches 80), rounding 1e-16 × 80/h
    np.testing.assert_allclose(got_velocity, slope, rtol=1e-6, atol=1e-7)


def test_conversions_at_the_ends():
    x0, xt = jnp.ones(3), jnp.array([1.0, 2.0, 3.0])
    path = VPCosine()
    start, end = jnp.asarray(0.0), jnp.asarray(1.0)
    np.testing.assert_array_equal(noise(path, x0, start, x0), np.zeros(3))
    np.testing.assert_allclose(noise(path, xt, end, x0), xt, atol=1e-15)
    assert not np.any(np.isfinite(score(path, x0, start, x0)))
    near = (float(path.signal(1.0)) - float(path.signal(1 - 1e-6))) / 1e-6  # A' at the end, from the left, to 1e-6
    np.testing.assert_allclose(velocity(path, xt, end, x0), near * x0, atol=1e-5)
    np.testing.assert_allclose(velocity(OrnsteinUhlenbeck(), x0, start, x0), -5.0 * x0, atol=1e-12)
    shortest = ShortestPath(even_spectrum())
    assert np.all(np.isnan(velocity(shortest, jnp.ones(GRID), end, jnp.ones(GRID))))


def test_gradients_and_jacobian_are_finite():
    """The Jacobian of x̂0 is A Cov[x0 | x_t]/S²: symmetric positive definite."""
    law, path, t = mixture(), VPCosine(), 0.4
    denoiser = MixtureDenoiser(path, law)
    jacobian = np.asarray(jax.jit(jax.jacobian(lambda x: denoiser(x, t, None)))(jnp.arange(6.0) / 2))
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-10)
    assert np.linalg.eigvalsh(jacobian)[0] > 0


def test_bad_input():
    law = mixture()
    with pytest.raises(ValueError, match="multiple of the path's grid"):
        MixtureDenoiser(BuresPath(even_spectrum()), mixture(d=5))
    with pytest.raises(ValueError, match="starts with the path's grid"):
        MixtureDenoiser(BuresPath(even_spectrum()), law)(jnp.ones(6), 0.3)
    with pytest.raises(ValueError, match="the mixture's dimension"):
        MixtureDenoiser(VPCosine(), law)(jnp.ones(5), 0.3)
    for weights, message in (
        (np.ones((2, 2)) / 2, "shape"),
        (np.ones((2, 3)), "sum to 1"),
        ([[2.0, -1, 0]], "non-neg"),
    ):
        with pytest.raises(ValueError, match=message):
            MixtureDenoiser(VPCosine(), law, np.asarray(weights))
    with pytest.raises(ValueError, match="weight"):
        Guided(MixtureDenoiser(VPCosine(), law), -0.5)
    with pytest.raises(ValueError, match="interval"):
        Guided(MixtureDenoiser(VPCosine(), law), 0.5, interval=(0.6, 0.3))
    with pytest.raises(ValueError, match="low < high"):
        Clipped(MixtureDenoiser(VPCosine(), law), 1.0, -1.0)
    points, labels = labelled()
    with pytest.raises(ValueError, match="one label per point"):
        LinearDenoiser.fit(VPCosine(), points, labels[:-1])
    with pytest.raises(ValueError, match="`drawn` holds the noise"):
        LinearDenoiser.fit(VPCosine(), points, labels, noise_std=0.1, drawn=np.ones((40, 2)))
    with pytest.raises(ValueError, match="pooled"):
        LinearDenoiser(VPCosine(), law.means, law.covs, Gaussian(np.zeros(2), np.eye(2)))
