"""sim.empirical against brute force in NumPy, least squares over functions, and the equal-level form of the paper."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sim.empirical import AmbientEmpiricalDenoiser, EmpiricalDenoiser, keep_points
from theory.gates import GateTimes, gate_times
from theory.paths import BuresPath, Heat, VarianceExploding, VPCosine

GRID = (3, 2)
N = 23


def even_spectrum():
    D = np.exp(np.random.default_rng(0).normal(size=GRID))
    return jnp.asarray((D + np.roll(np.flip(D), 1, (0, 1))) / 2)


def data(seed=0, n=N, shape=GRID):
    rng = np.random.default_rng(seed)
    return 0.5 + rng.normal(size=(n, *shape)), rng.integers(0, 3, n)


def paths():
    return {
        "scalar": VPCosine(),
        "ve": VarianceExploding(),
        "heat": Heat.on_grid(GRID),
        "bures": BuresPath(even_spectrum()),
    }


def gated(t_n, t_max=None):
    """Gates by times: kept at t_n (-inf: clean, inf: never), open again 0.1 later, and up to t_max as they are."""
    t_n = jnp.asarray(t_n)
    low = jnp.full(t_n.shape, -jnp.inf) if t_max is None else jnp.asarray(t_max)
    return GateTimes(low, t_n, jnp.where(t_n < 0, 0.0, t_n + 0.1))


@eqx.filter_jit
def _matrices(path, t, d):
    return path._matrix(path.signal(t), d), path._matrix(path.powers(t)[1], d)


def matrices(path, t, d=6):
    return [np.asarray(matrix) for matrix in _matrices(path, jnp.asarray(t), d)]


@eqx.filter_jit
def compiled(denoiser, x, t, cond):
    return denoiser(x, t, cond)


@eqx.filter_jit
def corrupted(path, x0, t, eps):
    return path.corrupt(x0, t, eps)


def evaluate(denoiser, x, t, cond=None):
    """The denoiser compiled as a whole: operation by operation it would be some fifty programs."""
    return compiled(denoiser, jnp.asarray(x), jnp.asarray(t), None if cond is None else jnp.asarray(cond))


def noised(path, x0, t, eps):
    return np.asarray(corrupted(path, jnp.asarray(x0), jnp.asarray(t), jnp.asarray(eps)))


def log_normal(x, mean, cov):
    return -0.5 * ((x - mean) @ np.linalg.solve(cov, x - mean) + np.linalg.slogdet(cov)[1])


def brute(path, points, x, t, weights):
    """Σ w_i N(x; A x_i, S²) x_i / Σ ..., dense, one point after the other."""
    A, S2 = matrices(path, t)
    logs = np.array([log_normal(x.ravel(), A @ p.ravel(), S2) for p in points])
    p = weights * np.exp(logs - logs[weights > 0].max())
    return np.tensordot(p / p.sum(), points, 1)


EACH_PATH = [pytest.param(name, marks=pytest.mark.slow) if name == "heat" else name for name in paths()]


@pytest.mark.parametrize("name", EACH_PATH)
def test_brute_force(name):
    path, (points, labels) = paths()[name], data()
    mixing = np.array([[0.8, 0.2, 0.0], [0.0, 0.5, 0.5]])
    plain = EmpiricalDenoiser(path, points, labels, block=8)
    mixed = EmpiricalDenoiser(path, points, labels, class_weights=mixing, block=8)
    counts = np.bincount(labels)
    for t in (0.3, 0.7):
        x = noised(path, points[3], t, data(5)[0][0])
        for denoiser, cond, weights in (
            (plain, None, np.ones(N)),
            (plain, 1, (labels == 1) * 1.0),
            (mixed, 0, (mixing[0] / counts)[labels]),
            (mixed, 1, (mixing[1] / counts)[labels]),
        ):
            got = evaluate(denoiser, x, t, cond)
            np.testing.assert_allclose(got, brute(path, points, x, t, weights), atol=1e-11)


def test_blocks_make_no_difference_and_conditions_may_be_batched():
    points, labels = data()
    x, cond = jax.random.normal(jax.random.key(0), (5, *GRID)), jnp.array([0, 1, 2, 1, 0])
    results = []
    for block in (1, 7, 23, 500):
        denoiser = EmpiricalDenoiser(VPCosine(), points, labels, block=block)
        results.append(jax.jit(lambda x, c, D=denoiser: jax.vmap(D, in_axes=(0, None, 0))(x, 0.5, c))(x, cond))
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=1e-13)


@pytest.mark.parametrize("d", [pytest.param(3, marks=pytest.mark.slow), 40])
def test_float32_at_low_noise(d):
    """Pairs of points a noise level apart, far from the mean compared with it: |x|²/S² is 1e7, of which float32 keeps
    one digit behind the point; differences keep ε |x| |x - c|/S² < 2e-4 · √d.
    """
    rng = np.random.default_rng(1)
    s = 0.003
    centres = rng.normal(size=(30, d)) * 10 / np.sqrt(d)
    points = np.concatenate([centres, centres + s * rng.normal(size=(30, d)) / np.sqrt(d)]).astype(np.float32)
    x = (points[:8].astype(np.float64) + s * rng.normal(size=(8, d))).astype(np.float32)
    path = VarianceExploding(sigma_min=0.0)
    t = path.time_at(jnp.asarray(-2 * np.log(s)))
    errors = {}
    high = eqx.filter_vmap(EmpiricalDenoiser(path, points.astype(np.float64), block=16), in_axes=(0, None, None))
    expected = compiled(high, jnp.asarray(x, jnp.float64), t.astype(jnp.float32).astype(float), None)
    for refine in (0, 8):
        low = EmpiricalDenoiser(path, points, block=16, refine=refine)
        got = compiled(eqx.filter_vmap(low, in_axes=(0, None, None)), jnp.asarray(x), t.astype(jnp.float32), None)
        assert got.dtype == jnp.float32
        errors[refine] = np.max(np.abs(got - expected)) / s
    # two points of a pair are s apart: an exponent's error e moves x̂0 by at most e s/4; float32 itself adds 1e-6/s
    assert errors[8] < 3e-3, errors
    if d > 16:
        assert errors[0] > 10 * errors[8], errors  # the plain expansion would not do


def test_no_noise_gives_the_nearest_point():
    points, labels = data()
    denoiser = EmpiricalDenoiser(VPCosine(), points, labels, block=8)
    x = points[4] + 0.01
    np.testing.assert_allclose(evaluate(denoiser, x, 0.0), points[4], atol=1e-14)
    others = np.flatnonzero(labels == (labels[4] + 1) % 3)
    nearest = others[np.argmin(np.sum((points[others] - x) ** 2, axis=(1, 2)))]
    np.testing.assert_allclose(evaluate(denoiser, x, 0.0, int(labels[nearest])), points[nearest], atol=1e-14)
    np.testing.assert_allclose(evaluate(denoiser, x, 1.0), points.mean(0), atol=1e-13)


def test_one_point():
    point = np.arange(6.0).reshape(1, *GRID)
    np.testing.assert_allclose(EmpiricalDenoiser(VPCosine(), point)(jnp.ones(GRID), 0.5), point[0], atol=1e-14)


def test_gradient_of_the_loss_is_zero():
    """Σ_i ω_i N_i(x) (x̂0 - x_i) = 0 at every x, ω the gates: the first-order condition of the weighted loss."""
    points, _ = data()
    path = VPCosine()
    gates = gated(np.linspace(0, 0.8, N), np.where(np.arange(N) % 2, -np.inf, 0.12))
    denoiser = EmpiricalDenoiser(path, points, gates=gates, block=8)
    for t in (0.1, 0.5, 0.9):
        opened = np.asarray(gates.opens(t))
        assert 0 < opened.sum() < N or t == 0.9
        x = noised(path, points[0], t, data(7)[0][0])
        A, S2 = matrices(path, t)
        density = np.array([np.exp(log_normal(x.ravel(), A @ p.ravel(), S2)) for p in points]) * opened
        residual = np.asarray(evaluate(denoiser, x, t)) - points
        np.testing.assert_allclose(np.tensordot(density, residual, 1) / density.sum(), 0, atol=1e-12)


def ambient_brute(path, points, kept, gates, x, t):
    """Minimise Σ_i N_i(x) ‖(α_i h + (1-α_i) x' - x_n,i')/α_i‖² over h, dense matrices, by weighted least squares."""
    A, S2 = matrices(path, t)
    scaled, rows, targets, logs = np.linalg.solve(A, x.ravel()), [], [], []
    sigma2 = np.linalg.solve(A, np.linalg.solve(A, S2).T)
    for i in np.flatnonzero(np.asarray(gates.opens(t))):
        late = t >= gates.t_open[i] and t > gates.t_max[i] and gates.t_n[i] >= 0
        An, Sn2 = matrices(path, float(gates.t_n[i])) if late else (np.eye(6), np.zeros((6, 6)))
        point = np.linalg.solve(An, (kept if late else points)[i].ravel())
        sigma_n2 = np.linalg.solve(An, np.linalg.solve(An, Sn2).T)
        alpha = np.linalg.solve(sigma2, sigma2 - sigma_n2).T
        logs.append(log_normal(scaled, point, sigma2 - sigma_n2))
        rows.append(np.eye(6))
        targets.append(np.linalg.solve(alpha, point - (np.eye(6) - alpha) @ scaled))
    root = np.exp((np.array(logs) - max(logs)) / 2)
    design = np.concatenate([r * w for r, w in zip(rows, root, strict=True)])
    return np.linalg.lstsq(design, np.concatenate([v * w for v, w in zip(targets, root, strict=True)]))[0].reshape(GRID)


@pytest.mark.parametrize("name", EACH_PATH)
def test_ambient_minimiser(name):
    """Levels differ between points; some clean, some of use at low noise, some never."""
    path, (points, _) = paths()[name], data()
    low = np.where(np.arange(N) % 4 == 0, -np.inf, np.linspace(0.05, 0.6, N))
    low[5] = np.inf
    gates = gated(low, np.where(np.arange(N) % 3 == 0, 0.2, -np.inf))
    kept = keep_points(path, jnp.asarray(points), gates, jax.random.key(0))
    denoiser = AmbientEmpiricalDenoiser(path, points, kept, gates, block=8)
    for t in (0.15, 0.5, 0.8):
        x = noised(path, points[2], t, data(7)[0][0])
        expected = ambient_brute(path, points, np.asarray(kept), gates, x, t)
        np.testing.assert_allclose(evaluate(denoiser, x, t), expected, atol=1e-8)


def test_ambient_at_equal_levels_is_the_papers_form_and_differs_from_the_raw_one():
    """(Σ w_i x_n,i - (1-α) x_t)/α with w_i ∝ N(x_t; x_n,i, (σ_t² - σ_n²) I), in variance-exploding notation."""
    points, _ = data()
    path, level = VarianceExploding(), 0.7
    gates = gated(np.full(N, float(path.t_min(level))))
    kept = np.asarray(keep_points(path, jnp.asarray(points), gates, jax.random.key(1)))
    x, t = points[3] + 0.5, float(path.time_at(jnp.asarray(-2 * np.log(3.0))))
    alpha = 1 - level**2 / 3.0**2
    logs = -np.sum((x - kept) ** 2, axis=(1, 2)) / (2 * (3.0**2 - level**2))
    w = np.exp(logs - logs.max())
    expected = (np.tensordot(w / w.sum(), kept, 1) - (1 - alpha) * x) / alpha
    got = np.asarray(evaluate(AmbientEmpiricalDenoiser(path, points, kept, gates, block=8), x, t))
    np.testing.assert_allclose(got, expected, atol=1e-9)
    raw = evaluate(EmpiricalDenoiser(path, points, gates=gates, block=8), x, t)
    assert np.max(np.abs(raw - got)) > 0.1


@pytest.mark.slow
def test_clean_gates_are_no_gates():
    points, labels = data()
    path = VPCosine()
    gates = gated(np.full(N, -np.inf))
    plain = EmpiricalDenoiser(path, points, labels, block=8)
    others = (
        EmpiricalDenoiser(path, points, labels, gates=gates, block=8),
        AmbientEmpiricalDenoiser(path, points, points, gates, labels, block=8),
    )
    for t in (0.05, 0.6, 1.0):
        for other in others:
            np.testing.assert_allclose(other(jnp.ones(GRID), t, 1), plain(jnp.ones(GRID), t, 1), atol=1e-12)


def test_no_open_point():
    points, _ = data()
    gates = GateTimes(*(jnp.full(N, value) for value in (-jnp.inf, 0.5, 0.6)))
    denoiser = EmpiricalDenoiser(VPCosine(), points, gates=gates)
    with pytest.raises(ValueError, match="gate of some point is open"):
        denoiser(jnp.ones(GRID), 0.3)
    assert np.all(np.isnan(eqx.filter_jit(denoiser)(jnp.ones(GRID), jnp.asarray(0.3))))
    assert np.all(np.isfinite(denoiser(jnp.ones(GRID), 0.7)))


def test_no_open_point_of_the_class_asked_for():
    points, labels = data()
    only_first = np.where(labels == 0, 1.0, -np.inf)
    gates = GateTimes(jnp.asarray(only_first), jnp.full(N, jnp.inf), jnp.full(N, jnp.inf))
    denoiser = EmpiricalDenoiser(VPCosine(), points, labels, gates=gates)
    assert np.all(np.isfinite(denoiser(jnp.ones(GRID), 0.3, 0)))
    with pytest.raises(ValueError, match="gate of some point is open"):
        denoiser(jnp.ones(GRID), 0.3, 1)


@pytest.mark.parametrize("path", [VPCosine(), BuresPath(even_spectrum())], ids=["scalar", "spectral"])
def test_an_unusable_point_takes_no_part_even_in_pure_noise(path):
    points = jnp.asarray(data()[0])
    gates = gate_times(path, np.where(np.arange(N) == 0, np.inf, 0.0))
    kept = keep_points(path, points, gates, jax.random.key(0))
    expected = np.mean(np.asarray(points)[1:], axis=0)
    for denoiser in (
        EmpiricalDenoiser(path, points, gates=gates),
        AmbientEmpiricalDenoiser(path, points, kept, gates),
    ):
        np.testing.assert_allclose(evaluate(denoiser, jnp.ones(GRID), 1.0), expected, atol=1e-6)


def test_kept_points_depend_on_the_index_alone():
    points = jnp.asarray(data()[0])
    gates = gated(np.full(N, 0.3))
    kept = keep_points(VPCosine(), points, gates, jax.random.key(4))
    fewer = keep_points(VPCosine(), points[:5], gates[jnp.arange(5)], jax.random.key(4))
    np.testing.assert_array_equal(kept[:5], fewer)
    assert np.min(np.std(np.asarray(kept) - np.asarray(points), axis=(1, 2))) > 0


def test_bad_input():
    points, labels = data()
    path = VPCosine()
    with pytest.raises(ValueError, match="at least one training point"):
        EmpiricalDenoiser(path, points[:0])
    with pytest.raises(ValueError, match="points must be finite"):
        EmpiricalDenoiser(path, np.where(points > 1, np.nan, points))
    with pytest.raises(ValueError, match="one label per point"):
        EmpiricalDenoiser(path, points, labels[:-1])
    with pytest.raises(ValueError, match="labels must be at least 0"):
        EmpiricalDenoiser(path, points, labels - 5)
    with pytest.raises(ValueError, match="path's grid"):
        EmpiricalDenoiser(BuresPath(even_spectrum()), points.reshape(N, 6))
    with pytest.raises(ValueError, match="of the points' shape"):
        EmpiricalDenoiser(path, points)(jnp.ones((2, 3)), 0.5)
    with pytest.raises(ValueError, match="no labels"):
        EmpiricalDenoiser(path, points)(jnp.ones(GRID), 0.5, 1)
    for cond in (-1, 3):
        with pytest.raises(ValueError, match="cond must be a row of class_weights, 0 to 2"):
            EmpiricalDenoiser(path, points, labels)(jnp.ones(GRID), 0.5, cond)
    with pytest.raises(ValueError, match="no point of classes"):
        EmpiricalDenoiser(path, points, labels, class_weights=np.eye(4))
    with pytest.raises(ValueError, match="one entry per point"):
        EmpiricalDenoiser(path, points, gates=gated(np.zeros(N - 1)))
    with pytest.raises(ValueError, match="block"):
        EmpiricalDenoiser(path, points, block=0)
