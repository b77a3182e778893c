"""The linear denoiser and what it generates, against brute force: least squares on data, autodiff, ODE integration,
quadrature.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

from theory import linear
from theory.claims import _flow
from theory.claims._generation_checks import GUIDED_ERROR, GUIDED_STEPS
from theory.claims.cases import covariance, direction
from theory.claims.linear_denoiser import CLAIMS
from theory.gaussian import Gaussian
from theory.guidance import mean_integral
from theory.paths import OrnsteinUhlenbeck
from theory.settings import Settings
from theory.training_sets import condition_share

RNG = np.random.default_rng(5)
MEAN = np.array([1.0, -0.5, 2.0])
COV = covariance(3, 50.0, 3)
R, SIGMA = 0.6, 0.8


# --- the two conventions for the strength of code noise


def test_noise_ratio_of_a_one_hot_code_and_of_any_norm():
    assert float(linear.condition_noise_ratio(1.0)) == pytest.approx(0.5, abs=1e-15)
    assert float(linear.condition_noise_ratio(0.5)) == pytest.approx(0.2, abs=1e-15)
    assert float(linear.condition_noise_ratio(3.0, 4.0)) == pytest.approx(9 / 25, abs=1e-15)
    assert float(linear.condition_noise_ratio(0)) == 0.0
    assert float(linear.condition_noise_ratio(1e-200)) == 0.0  # underflows, without NaN


@given(st.floats(0, 1e3), st.floats(0.01, 100))
def test_noise_ratio_is_that_of_training_sets_and_settings(noise_std, cond_norm):
    """One number, written for JAX and for Python's floats: both correct to a few roundings."""
    s = float(linear.condition_noise_ratio(noise_std, cond_norm))
    assert condition_share(noise_std / cond_norm) == pytest.approx(s, rel=8 * np.finfo(float).eps, abs=1e-300)
    assert Settings(cond_norm=cond_norm).noise_ratio(noise_std) == condition_share(noise_std / cond_norm)


@pytest.mark.parametrize("uniform", [False, True])
def test_cep_strength_is_not_the_noise_std(uniform):
    """CEP draws with gamma/√d_emb per coordinate (CEP-G) or uniformly in ± that (CEP-U): the drawn noise's own s, in
    least squares.
    """
    d_emb, gamma, n = 16, 1.0, 200_000
    code = direction(d_emb, 2) * 1.5
    width = gamma / np.sqrt(d_emb)
    draw = RNG.uniform(-width, width, (n, d_emb)) if uniform else width * RNG.standard_normal((n, d_emb))
    per_coordinate = gamma / np.sqrt(3 * d_emb) if uniform else gamma / np.sqrt(d_emb)
    s = float(linear.condition_noise_ratio(per_coordinate, 1.5))
    # Regressing the constant 1 on noisy codes leaves 1 - s of it at the clean code; relative error about 1/√n, 6 of
    # them.
    noisy = code + draw
    kept = code @ np.linalg.solve(noisy.T @ noisy / n, np.mean(noisy, axis=0))
    assert kept == pytest.approx(1 - s, abs=6 / np.sqrt(n))
    assert abs(kept - (1 - float(linear.condition_noise_ratio(gamma, 1.5)))) > 0.2


# --- the optimum


def _quadratic_loss(W, V, mean, cov, code, noise_std, r, sigma):
    """E |W (r x + σ ε) + V (c + noise_std ξ) - ε|² for one class, in expected squares."""
    spread = r**2 * jnp.trace(W @ cov @ W.T) + jnp.sum((sigma * W - jnp.eye(len(mean))) ** 2)
    return spread + noise_std**2 * jnp.sum(V**2) + jnp.sum((r * W @ mean + V @ code) ** 2)


def test_the_optimum_has_zero_gradient_and_its_loss_is_the_value_there():
    code, noise_std = np.array([0.3, -1.2]), 0.7
    s = linear.condition_noise_ratio(noise_std, np.linalg.norm(code))
    best = linear.optimal_denoiser(MEAN, COV, s, R, SIGMA)
    V = np.outer(best.bias, code) / (code @ code)
    arguments = (MEAN, COV, code, noise_std, R, SIGMA)
    value, slopes = jax.jit(jax.value_and_grad(_quadratic_loss, (0, 1)))(best.weight, V, *arguments)
    assert max(float(jnp.max(jnp.abs(g))) for g in slopes) < 1e-13
    assert float(value) == pytest.approx(float(best.loss), abs=1e-13)
    A = SIGMA**2 * np.eye(3) + R**2 * (COV + s * np.outer(MEAN, MEAN))
    assert float(best.loss) == pytest.approx(3 - SIGMA**2 * np.trace(np.linalg.inv(A)), abs=1e-13)


def test_x0_score_and_noise_are_one_prediction():
    best = linear.optimal_denoiser(MEAN, COV, 0.3, R, SIGMA)
    x = np.array([0.2, 1.0, -3.0])
    np.testing.assert_allclose(R * best.denoise(x) + SIGMA * best.predict_noise(x), x, atol=1e-14)
    np.testing.assert_allclose(-SIGMA * best.score(x), best.predict_noise(x), atol=1e-14)
    law = linear.corrupted_moments(MEAN, COV, 0.3)
    noised = Gaussian(R * law.mean, SIGMA**2 * jnp.eye(3) + R**2 * law.cov)
    np.testing.assert_allclose(best.score(x), jax.grad(noised.log_prob)(x), atol=1e-13)


def test_gains_per_coordinate_give_the_posterior_mean():
    r, sigma = np.array([0.9, 0.5, 0.1]), np.array([0.2, 0.6, 1.3])
    best = linear.denoiser_for(Gaussian(MEAN, COV), r, sigma)
    x = np.array([0.2, 1.0, -3.0])
    joint = np.diag(r) @ COV @ np.diag(r) + np.diag(sigma**2)
    expected = MEAN + COV @ np.diag(r) @ np.linalg.inv(joint) @ (x - r * MEAN)
    np.testing.assert_allclose(best.denoise(x), expected, atol=1e-13)
    np.testing.assert_allclose((x - sigma * best.predict_noise(x)) / r, expected, atol=1e-12)
    assert float(best.loss) == pytest.approx(3 - np.trace(np.diag(sigma**2) @ np.linalg.inv(joint)), abs=1e-13)


def _data_least_squares(x, codes, r, sigma, extra):
    """[W, V] by numpy least squares on the finite-sample loss (mean over the rows), ε averaged exactly; `extra`: rows
    for ξ.
    """
    n, d = x.shape
    rows = [
        np.hstack([r * x, codes]) / np.sqrt(n),
        np.hstack([sigma * np.eye(d), np.zeros((d, codes.shape[1]))]),
        extra,
    ]
    targets = np.zeros((sum(len(a) for a in rows), d))
    targets[n : n + d] = np.eye(d)
    return np.linalg.lstsq(np.vstack(rows), targets, rcond=None)[0].T


def test_shared_weights_of_data_with_any_codes():
    labels = RNG.integers(0, 3, 60)
    x = RNG.standard_normal((60, 2)) + np.array([[2.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])[labels]
    codes, noise_std = RNG.standard_normal((3, 4)), 0.6
    laws = [linear.empirical_moments(x[labels == k]) for k in range(3)]
    weights = np.bincount(labels) / 60
    means, covs = (np.stack([getattr(p, name) for p in laws]) for name in ("mean", "cov"))
    best = linear.shared_denoiser(weights, means, covs, codes, noise_std, R, SIGMA)
    extra = np.hstack([np.zeros((4, 2)), noise_std * np.eye(4)])
    theta = _data_least_squares(x, codes[labels], R, SIGMA, extra)
    np.testing.assert_allclose(np.hstack([best.weight, best.code_weight]), theta, atol=1e-13)
    one = best.given(codes[1])
    np.testing.assert_allclose(one.bias, theta[:, 2:] @ codes[1], atol=1e-13)


def test_one_class_shared_is_the_class_optimum():
    code, noise_std = np.array([[0.4, 0.3]]), 0.8
    shared = linear.shared_moments(np.ones(1), MEAN[None], COV[None], code, noise_std)
    alone = linear.corrupted_moments(MEAN, COV, linear.condition_noise_ratio(noise_std, 0.5))
    np.testing.assert_allclose(shared.cov, alone.cov, atol=1e-14)
    np.testing.assert_allclose(shared.given(code[0]).mean, alone.mean, atol=1e-14)


def test_noise_drawn_once_is_the_finite_sample_optimum():
    x, code, noise_std = RNG.standard_normal((7, 2)) + 1.0, np.array([1.0, 0.0, 0.0]), 0.5
    drawn = code + noise_std * RNG.standard_normal((7, 3))
    law = linear.drawn_moments(x, drawn).given(code)
    best = linear.denoiser_for(law, R, SIGMA)
    theta = _data_least_squares(x, drawn, R, SIGMA, np.zeros((0, 5)))
    np.testing.assert_allclose(best.weight, theta[:, :2], atol=1e-12)
    np.testing.assert_allclose(best.bias, theta[:, 2:] @ code, atol=1e-12)


def test_noise_drawn_once_tends_to_the_average_and_memorises_in_many_code_dimensions():
    n, noise_std, code = 100_000, 0.5, np.array([1.0, 0.0])
    x = RNG.standard_normal((n, 2)) + 1.0
    law = linear.drawn_moments(x, code + noise_std * RNG.standard_normal((n, 2))).given(code)
    m, S = linear.empirical_moments(x).mean, linear.empirical_moments(x).cov
    expected = linear.corrupted_moments(m, S, linear.condition_noise_ratio(noise_std))
    # Sample moments of (x, ξ) are off by 1/√n of products of size about |m|² + |S| = 4: 6 standard errors.
    np.testing.assert_allclose(law.cov, expected.cov, atol=6 * 4 / np.sqrt(n))
    np.testing.assert_allclose(law.mean, expected.mean, atol=6 * 4 / np.sqrt(n))
    few = linear.drawn_moments(x[:4], RNG.standard_normal((4, 9)))
    np.testing.assert_allclose(few.cov, 0.0, atol=1e-13)


def test_path_denoiser_is_the_optimum_at_every_time_and_class():
    means = np.stack([MEAN, -MEAN])
    covs = np.stack([COV, covariance(3, 9.0, 8, rank=2)])
    path = OrnsteinUhlenbeck(2.0)
    denoiser = linear.PathDenoiser(means, covs, path)
    x = np.array([0.3, -1.0, 0.7])
    for t in (0.01, 0.4, 1.0):
        for k in (0, 1):
            best = linear.denoiser_for(Gaussian(means[k], covs[k]), path.signal(t), path.noise(t))
            np.testing.assert_allclose(denoiser(x, t, k), best.denoise(x), atol=1e-12)
            np.testing.assert_allclose(denoiser.score(x, t, k), best.score(x), rtol=1e-10)
    np.testing.assert_allclose(denoiser(x, 0.0, 0), x, atol=1e-12)
    null = np.linalg.svd(covs[1])[0][:, 2]
    np.testing.assert_allclose(null @ denoiser(x, 0.0, 1), null @ means[1], atol=1e-7)


# --- generation


@pytest.mark.parametrize("horizon", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("rank", [1, 2])
def test_generated_gaussian_solves_the_reverse_flow(horizon, rank):
    S, m, s = covariance(2, 4.0, 6, rank), np.array([1.5, -0.4]), 0.3
    law = linear.generated(m, S, s, horizon)
    S_c, m_c = S + s * np.outer(m, m), (1 - s) * m

    def slope(t, z):
        Z, r = z.reshape(3, 2), np.exp(-t)
        A = (1 - r * r) * np.eye(2) + r * r * S_c
        return (-Z + np.linalg.solve(A, (Z - r * m_c).T).T).ravel()

    start = np.vstack([np.zeros(2), np.eye(2)]).ravel()
    end = solve_ivp(slope, (horizon, 1e-12), start, "DOP853", rtol=1e-11, atol=1e-13).y[:, -1].reshape(3, 2)
    flow = end[1:] - end[0]
    np.testing.assert_allclose(law.mean, end[0], atol=1e-8)
    np.testing.assert_allclose(law.cov, flow.T @ flow, atol=1e-8)


def test_generation_at_infinite_horizon_returns_the_moments_exactly():
    S = covariance(3, 1e8, 4, rank=2)
    law, moments = linear.generated(MEAN, S, 0.25), linear.corrupted_moments(MEAN, S, 0.25)
    np.testing.assert_allclose(law.cov, moments.cov, rtol=0, atol=1e-16)
    np.testing.assert_array_equal(law.mean, 0.75 * MEAN)
    far = linear.generated(MEAN, S, 0.25, 400.0)
    np.testing.assert_allclose(far.cov, law.cov, atol=1e-15)


def test_generation_is_differentiable_at_repeated_eigenvalues():
    def moved(x):
        return jnp.sum(linear.generated(MEAN, jnp.eye(3) + x * COV, 0.0, 0.7).mean)

    slope, step = jax.jit(jax.grad(moved))(0.0), 1e-5
    assert float(slope) == pytest.approx(float(moved(step) - moved(-step)) / (2 * step), rel=1e-8)


# --- guidance


def test_pooled_moments_are_those_of_the_pooled_data():
    x, y = RNG.standard_normal((30, 2)), RNG.standard_normal((10, 2)) + 3
    laws = [linear.empirical_moments(z) for z in (x, y)]
    pooled = linear.pooled_moments(
        np.array([0.75, 0.25]), np.stack([p.mean for p in laws]), np.stack([p.cov for p in laws])
    )
    whole = linear.empirical_moments(np.vstack([x, y]))
    np.testing.assert_allclose(pooled.mean, whole.mean, atol=1e-14)
    np.testing.assert_allclose(pooled.cov, whole.cov, atol=1e-14)


@pytest.mark.parametrize("lam", [1e-6, 0.3, 1.0, 1.0 + 1e-9, 4.0])
@pytest.mark.parametrize("guidance", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("q", [0.02, 5.0, np.inf])
def test_mean_integral_by_adaptive_quadrature(lam, guidance, q):
    w, integral = guidance, jax.jit(mean_integral)

    def integrand(x):  # x = log q'
        p = np.exp(x)
        return p * w / 2 * (lam / (lam + p)) ** ((1 + w) / 2) * (1 + p) ** (w / 2) / (1 + p)

    breaks = np.linspace(-40, min(np.log(q), 80), 13)
    pieces = [quad(integrand, a, b, epsabs=1e-15, epsrel=1e-13)[0] for a, b in itertools.pairwise(breaks)]
    assert float(integral(lam, 1.0, w, q)) == pytest.approx(sum(pieces), rel=1e-11, abs=1e-15)


def test_mean_integral_in_singular_directions():
    integral = jax.jit(mean_integral)
    assert float(integral(0.0, 0.0, 2.0, 1.0)) == 2.0
    assert float(integral(0.0, 1.0, 2.0, 1.0)) == 0.0
    assert float(integral(1.0, 1.0, 2.0, 3.0)) == pytest.approx(2.0 * (1 - 0.5), abs=1e-15)


def test_guided_generation_by_hand():
    law = linear.generated_guided(Gaussian(np.array([1.0]), np.eye(1)), Gaussian(np.zeros(1), 2 * np.eye(1)), 1.0)
    assert float(law.cov[0, 0]) == pytest.approx(0.5, rel=1e-14)  # λ²/Λ, not the tilted 1/(2 - 1/2)
    # J = ρ (1-ρ)^(-1/2) arcosh(ρ^(-1/2)) at w = 1, ρ = 1/2
    assert float(law.mean[0]) == pytest.approx(1 + 0.5 * np.sqrt(2) * np.arccosh(np.sqrt(2)), rel=1e-14)
    none = linear.generated_guided(Gaussian(MEAN, COV), Gaussian(-MEAN, COV @ COV), 0.0, 0.5)
    plain = linear.generated(MEAN, COV, 0.0, 0.5)
    np.testing.assert_allclose(none.mean, plain.mean, atol=1e-12)
    np.testing.assert_allclose(none.cov, plain.cov, atol=1e-12)


@pytest.mark.parametrize("horizon", [0.01, 0.8, np.inf])
def test_guided_generation_where_covariances_do_not_commute(horizon):
    m, S, mb, P = np.array([1.0, 0.5]), covariance(2, 30.0, 3), np.array([-0.3, 1.0]), 2 * covariance(2, 5.0, 9)
    w, r0 = 1.5, np.exp(-horizon)
    law = linear.generated_guided(Gaussian(m, S), Gaussian(mb, P), w, horizon)
    with pytest.raises(ValueError, match="method"):
        linear.generated_guided(Gaussian(m, S), Gaussian(mb, P), w, horizon, method="closed")

    def slope(r, z):  # dz/dr = [z + guided score]/r, with (I - A⁻¹)/r = r (S - I) A⁻¹
        Z = z.reshape(2, 3)
        A, B = (np.linalg.inv((1 - r * r) * np.eye(2) + r * r * C) for C in (S, P))
        out = r * ((1 + w) * A @ (S - np.eye(2)) - w * B @ (P - np.eye(2))) @ Z
        out[:, -1] += (1 + w) * A @ m - w * B @ mb
        return out.ravel()

    end = solve_ivp(slope, (r0, 1.0), np.eye(2, 3).ravel(), "DOP853", rtol=1e-12, atol=1e-13).y[:, -1].reshape(2, 3)
    np.testing.assert_allclose(law.mean, end[:, 2], atol=1e-9)
    np.testing.assert_allclose(law.cov, end[:, :2] @ end[:, :2].T, atol=1e-9)
    commuting = S @ S + 0.1 * S
    pair = Gaussian(m, S), Gaussian(mb, commuting)
    closed, ode = (linear.generated_guided(*pair, w, horizon, method=method) for method in ("closed", "ode"))
    np.testing.assert_allclose(ode.mean, closed.mean, atol=1e-9)
    np.testing.assert_allclose(ode.cov, closed.cov, atol=1e-8)


def test_guided_generation_in_a_singular_direction():
    m, mb = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, -1.0])
    S, P = np.diag([1.0, 0.0, 0.0]), np.diag([1.0, 4.0, 0.0])
    law = linear.generated_guided(Gaussian(m, S), Gaussian(mb, P), 2.0, 3.0)
    np.testing.assert_allclose(np.diag(law.cov)[1:], 0.0, atol=0)
    np.testing.assert_allclose(law.mean[1:], [2.0, 3 * 3.0 - 2 * -1.0], rtol=1e-14)
    with pytest.raises(ValueError, match=r"unconditional\.cov must be positive wherever"):
        linear.generated_guided(Gaussian(m, P), Gaussian(mb, S), 2.0)


# --- the integrator behind the claims


def test_the_flow_is_as_exact_as_the_claims_assume():
    lam = jnp.concatenate([jnp.zeros(1), 10.0 ** jnp.linspace(-16, 0, 161)]) * 200.0
    start = jnp.stack([jnp.zeros_like(lam), jnp.ones_like(lam)])

    def ends(steps, T):
        shrink = eqx.Partial(_flow.linear_shrink, lam, jnp.full_like(lam, 10.0))
        return _flow.reverse_flow(lambda z, t: shrink(t, z), start, T, jnp.sqrt(200.0), steps=steps)

    run = jax.jit(ends, static_argnums=0)
    for T in (1.0, 50.0):
        coarse, fine = run(_flow.STEPS, T), run(2 * _flow.STEPS, T)
        assert float(jnp.max(jnp.abs(coarse - fine))) < 0.99 * _flow.STEP_ERROR * (10.0 + np.sqrt(200.0))


def test_the_guided_flow_is_as_exact_as_the_claims_assume():
    rng, size, w = np.random.default_rng(1), 400, 4.0
    lam = 10.0 ** rng.uniform(-6, 0, size)
    pooled = rng.uniform(0.05, 1, size) * lam + 10.0 ** rng.uniform(-3, 2, size) * (rng.random(size) < 0.5)
    lam, pooled, m, mb = (jnp.asarray(x) for x in (lam, pooled, np.ones(size), -np.ones(size)))
    start, beta = jnp.stack([jnp.zeros(size), m]), jnp.sqrt(jnp.max(pooled))

    def ends(steps, T):
        def denoise(z, t):
            return (1 + w) * _flow.linear_shrink(lam, m, t, z) - w * _flow.linear_shrink(pooled, mb, t, z)

        return _flow.reverse_flow(denoise, start, T, beta, steps=steps)

    run = jax.jit(ends, static_argnums=0)
    for T in (1.0, 50.0):
        coarse, fine = run(GUIDED_STEPS, T), run(2 * GUIDED_STEPS, T)
        assert float(jnp.max(jnp.abs(coarse - fine) / (1 + jnp.abs(fine)))) < GUIDED_ERROR


# --- claims and bad input


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_claims_at_a_few_cases(claim):
    """Twenty small cases each: the whole domain is attacked in test_claims, without `-m slow` too."""
    draws = claim.domain.draws(np.random.default_rng(3))
    fixed = {"d": 2} if "d" in claim.domain.parameters else {}
    margins = [claim.check({**next(draws), **fixed}).margin for _ in range(20)]
    assert (min(margins) >= 0) == (claim.expected != "fails"), margins


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear.condition_noise_ratio(-0.1), "noise_std must be in"),
        (lambda: linear.condition_noise_ratio(np.nan), "noise_std must be in"),
        (lambda: linear.condition_noise_ratio(1.0, 0.0), "cond_norm must be positive and finite"),
        (lambda: linear.corrupted_moments(MEAN, COV, 1.1), r"s must be in \[0, 1\]"),
        (lambda: linear.corrupted_moments(MEAN[:2], COV, 0.1), "shape|mean"),
        (lambda: linear.optimal_denoiser(MEAN, COV, 0.1, 1.0, 0.0), "noise must be positive"),
        (lambda: linear.optimal_denoiser(MEAN, COV, 0.1, -1.0, 1.0), "signal must be in"),
        (lambda: linear.generated(MEAN, COV, 0.1, 0.0), "horizon must be positive"),
        (lambda: linear.empirical_moments(MEAN[None]), "data must be a matrix"),
        (lambda: linear.empirical_moments(np.full((2, 2), np.inf)), "data must be finite"),
        (lambda: linear.drawn_moments(COV, MEAN[:2, None]), "codes"),
        (lambda: linear.pooled_moments(np.ones(2), np.ones((2, 1)), np.ones((2, 1, 1))), "weights must be of sum 1"),
        (lambda: linear.generated_guided(Gaussian(MEAN, COV), Gaussian(MEAN, COV), -1.0), "guidance must be in"),
        (lambda: linear.generated_guided(Gaussian(MEAN, COV), Gaussian(MEAN, COV), 1.0, method="x"), "method must be"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(Exception, match=message):
        call()


def test_float32_is_refused():
    law = Gaussian(jnp.ones(2, jnp.float32), jnp.eye(2, dtype=jnp.float32))
    with pytest.raises(TypeError, match="float64"):
        linear.generated_from(law)
    with pytest.raises(TypeError, match="float64"):
        linear.denoiser_for(law, 1.0, 1.0)
