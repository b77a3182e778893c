"""Checks of the claims of Ambient Diffusion Omni: the library's functions against independent routes, case by
case.

Two-point laws carry the exact checks: for P, Q on {0, 1} with P(1) = a, Q(1) = b the smoothed distance is
|a − b| erf(1 / (2√2 σ)) at every σ, and an empirical measure is a binomial count, so that expectations and
probabilities over training sets are finite sums. NumPy.
"""

import math
from collections.abc import Callable

import jax
import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import binom, multinomial, norm

from theory import ambient, kernel_density
from theory.claims.claim import MONTE_CARLO_Z, Case, Outcome, at_most, identity, monte_carlo, worst
from theory.total_variation import Line, contraction_printed, large_noise

EPS = float(np.finfo(float).eps)


def _rng(case: Case, stream: int) -> np.random.Generator:
    return np.random.default_rng([case["seed"], 100 + stream])


def _prior(case: Case) -> Line:
    """k components in [-1, 1] of std `spread`; seed 0: evenly spaced, of equal weight."""
    k = case["k"]
    if case["seed"] == 0:
        return Line.mixture(np.ones(k), np.linspace(-1, 1, k) if k > 1 else [0.0], np.full(k, case["spread"]))
    rng = _rng(case, 0)
    return Line.mixture(
        rng.dirichlet(np.ones(k)) + 1e-3, rng.uniform(-1, 1, k), case["spread"] * rng.uniform(0.1, 1, k)
    )


def _two_laws(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms in [0, 1] (ends included) and the weights of two laws on them; some weights are 0. Seed 0: all
    mass on each end."""
    k = case["k"]
    if case["seed"] == 0:
        return np.linspace(0, 1, k), np.eye(k)[0], np.eye(k)[-1]
    rng = _rng(case, 1)
    atoms = np.concatenate([[0.0, 1.0], rng.random(k - 2)])
    weights = rng.dirichlet(np.full(k, 0.5), size=2) * (rng.random((2, k)) < 0.7)
    weights[:, 1] += 1e-3
    return atoms, weights[0] / weights[0].sum(), weights[1] / weights[1].sum()


# -- the ambient loss ------------------------------------------------------------------------------------------


def minimiser(case: Case) -> Outcome:
    """AO-L: the minimiser by quadrature over the kept points against the posterior mean of x0 in closed
    form."""
    prior, sigma_min = _prior(case), case["sigma_min"]
    sigma = sigma_min * case["ratio"]
    xt = prior.mean() + math.hypot(prior.std(), sigma) * np.linspace(-2.5, 2.5, 5)
    found = ambient.ambient_minimiser(prior, xt, sigma, sigma_min)
    alpha = 1 - case["ratio"] ** -2
    # rounding of E[x_n | x_t] (a ratio of sums of positive terms, of size |x_t|), amplified by 1/alpha;
    # the rule itself errs less
    scale = (1 + float(np.max(np.abs(xt)))) / alpha
    return identity(found, ambient.posterior_mean(prior, xt, sigma), tolerance=2000 * EPS * scale, xt=xt)


_NORMAL_NODES, _STEP = np.linspace(-7.5, 7.5, 57, retstep=True)
"""Trapezoid rule for a standard normal: the integrands are analytic within 1 std of the axis."""
_NORMAL_PAIR = np.outer(*2 * [np.exp(-(_NORMAL_NODES**2) / 2)]) * _STEP**2 / (2 * math.pi)
"""Weights for two independent ones."""


def floor(case: Case) -> Outcome:
    """F-AMBIENT-FLOOR: mmse + sigma_min² / alpha against the loss itself, summed over x0, z_n and eps."""
    atoms, weights, _ = _two_laws(case)
    prior = Line.points(2 * atoms[weights > 0] - 1, weights[weights > 0])
    sigma, alpha = case["sigma"], 1 - case["share"] ** 2
    sigma_min = sigma * case["share"]
    (total,) = _weighted_losses(prior, [prior], sigma, case["share"])
    value = ambient.ambient_floor(ambient.minimum_error(prior, sigma), sigma, sigma_min, 1)
    return identity(value, total, tolerance=_loss_tolerance(sigma, alpha))


def _weighted_losses(kept_from: Line, models: list[Line], sigma: float, share: float) -> list[float]:
    """The weighted loss, summed over x0, z_n and eps for points kept from one law, of each model's posterior mean."""
    alpha, sigma_min, z = 1 - share**2, sigma * share, _NORMAL_NODES
    totals = np.zeros(len(models))
    for atom, weight in zip(kept_from.means, kept_from.weights, strict=True):
        kept = (atom + sigma_min * z)[:, None]
        noised = kept + math.sqrt(sigma**2 - sigma_min**2) * z
        for i, model in enumerate(models):
            residual = alpha * _posterior(model, noised, sigma) + (1 - alpha) * noised - kept
            totals[i] += weight * float(np.sum(_NORMAL_PAIR * residual**2))
    return [float(total) / alpha**2 for total in totals]


def _loss_tolerance(sigma: float, alpha: float) -> float:
    """Truncation at 7.5 std: 6e-14 of terms of size sigma²; trapezoid: exp(−2π / 0.268) = 7e-11; both over alpha²."""
    return 1e-9 * (1 + sigma**2) / alpha**2


def degraded(case: Case) -> Outcome:
    """F-AMBIENT-DEGRADED: on points kept from q, the loss of E_p[x0 | x_t] exceeds that of E_q[x0 | x_t] by
    their mean squared distance."""
    atoms, *laws = _two_laws(case)
    p, q = (Line.points(2 * atoms[w > 0] - 1, w[w > 0]) for w in laws)
    sigma = case["sigma"]
    of_p, of_q = _weighted_losses(q, [p, q], sigma, case["share"])
    x, w = ambient.panel_rule(np.arange(-1 - 9 * sigma, 1 + 9.5 * sigma, sigma / 2))
    gap = ambient.posterior_mean(p, x, sigma) - ambient.posterior_mean(q, x, sigma)
    expected = float(w @ (q.smoothed(sigma).pdf(x) * gap**2))
    tolerance = 2 * _loss_tolerance(sigma, 1 - case["share"] ** 2)
    return identity(of_p - of_q, expected, tolerance=tolerance, loss_of_p=of_p, loss_of_q=of_q)


def _posterior(prior: Line, xt: np.ndarray, sigma: float) -> np.ndarray:
    return ambient.posterior_mean(prior, xt.ravel(), sigma).reshape(xt.shape)


# -- the buffer ------------------------------------------------------------------------------------------------


def _weight(sigma: float, sigma_min: float) -> float:
    return sigma**4 / (sigma**2 - sigma_min**2) ** 2


def _buffer_by_search(sigma_min: float, max_weight: float) -> float:
    """Where the weight, falling in sigma, equals max_weight: by root finding in log(sigma / sigma_min)."""
    root = brentq(lambda u: _weight(math.exp(u), 1.0) - max_weight, 1e-9, 40.0, xtol=1e-15, rtol=4 * EPS)
    return sigma_min * math.exp(root)


def buffer_as_printed(case: Case) -> Outcome:
    """AO-B: the printed numbers against the level where the weight equals its cap."""
    printed = {2.0: math.sqrt(2), 4.0: 2 / math.sqrt(3)}[case["max_weight"]]
    found = _buffer_by_search(1.0, case["max_weight"])
    return identity(printed, found, tolerance=1e-12, weight_at_printed=_weight(printed, 1.0))


_buffer = jax.jit(ambient.buffer_noise)
_gate_weight = jax.jit(lambda sigma_min, cap, sigma: ambient.NoiseGate(sigma_min, max_weight=cap).weight(sigma))


def buffer(case: Case) -> Outcome:
    """AO-B*: the library's buffer against root finding, and its weight just above against the cap."""
    sigma_min, cap = case["sigma_min"], case["max_weight"]
    value = float(_buffer(sigma_min, cap))
    # d log sigma / d log weight = (sigma²/sigma_min² − 1) / 4; 1/√L near 1 loses digits like 1 / (L − 1)
    slope = 1 + 1 / (cap - 1)
    same = identity(value, _buffer_by_search(sigma_min, cap), tolerance=100 * EPS * value * slope * cap)
    above = at_most(
        float(_gate_weight(sigma_min, cap, value * (1 + case["more"]))), cap, tolerance=100 * EPS * cap * math.sqrt(cap)
    )
    return worst(same, above)


# -- total variation -------------------------------------------------------------------------------------------


def two_points_as_printed(case: Case) -> Outcome:
    """F-AO-FACT3: ||x − y|| / (2 sigma) taken as an equality."""
    distance, sigma = case["distance"], case["sigma"]
    return identity(distance / (2 * sigma), _direct_tv(distance, sigma), tolerance=1e-6)


def two_points(case: Case) -> Outcome:
    """F-AO-FACT3*: the error function against direct integration along the line joining two points of R^d."""
    rng = _rng(case, 2)
    y = case["distance"] * (np.eye(case["d"])[0] if case["seed"] == 0 else _unit(rng, case["d"]))
    distance, sigma = float(np.linalg.norm(y)), case["sigma"]
    return identity(ambient.shifted_gaussians(distance, sigma), _direct_tv(distance, sigma), tolerance=1e-10, y=y)


def _unit(rng: np.random.Generator, d: int) -> np.ndarray:
    vector = rng.standard_normal(d)
    return vector / np.linalg.norm(vector)


def _direct_tv(distance: float, sigma: float) -> float:
    """Half the integral of |N(0, sigma²) − N(distance, sigma²)| by Gauss-Legendre panels that meet at the
    kink, distance / 2."""
    shift = distance / sigma
    right = np.concatenate([shift / 2 + np.arange(0.0, shift / 2 + 12.0, 2.0), [shift + 14.0]])
    x, w = ambient.panel_rule(right)  # the left half is its mirror image
    gap = np.exp(-((x - shift) ** 2) / 2) - np.exp(-(x**2) / 2)
    return float(w @ np.abs(gap)) / math.sqrt(2 * math.pi)


def contraction_as_printed(case: Case) -> Outcome:
    """AO-T2: exact distance of smoothed laws against TV D / (2 sigma)."""
    exact, tv = _smoothed(case)
    return at_most(exact, contraction_printed(tv, 1.0, case["sigma"]), tolerance=1e-12, tv=tv)


def contraction(case: Case) -> Outcome:
    """AO-T2*: the sharp bound, and that two points attain it (both distances by direct integration of |p −
    q|)."""
    exact, tv = _smoothed(case)
    bound = at_most(exact, ambient.contraction(tv, 1.0, case["sigma"]), tolerance=1e-12, tv=tv)
    p, q = Line.points([0.0, 1.0], [1 - tv / 2, tv / 2]), Line.points([0.0, 1.0], [1 - tv, tv])
    attained = ambient.total_variation(p, q, noise_std=case["sigma"])
    return worst(bound, identity(attained, tv / 2 * _direct_tv(1.0, case["sigma"]), tolerance=1e-10))


def _smoothed(case: Case) -> tuple[float, float]:
    atoms, p, q = _two_laws(case)
    keep_p, keep_q = p > 0, q > 0
    pair = Line.points(atoms[keep_p], p[keep_p]), Line.points(atoms[keep_q], q[keep_q])
    return ambient.total_variation(*pair, noise_std=case["sigma"]), 0.5 * float(np.sum(np.abs(p - q)))


# -- kernel density --------------------------------------------------------------------------------------------

_SHAPES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray], float]] = {
    "flat": (lambda x: np.ones_like(x), lambda u: u, 0.0),
    "ramp": (lambda x: 2 * x, np.sqrt, 2.0),
    "steep": (lambda x: 8 * x**7, lambda u: u**0.125, 56.0),
}
"""Densities on [0, 1]: density, quantile function, Lipschitz constant."""
SETS = 400


def printed_bound(case: Case) -> float:
    """AO-T1's right side with the constant 1."""
    lipschitz = _SHAPES[case["shape"]][2]
    return kernel_density.bound_printed(case["n"], case["sigma"], delta=case["delta"], lipschitz=lipschitz)


def exceedance(case: Case) -> Outcome:
    """AO-T1: how often the distance exceeds the printed bound (constant 1) among simulated training sets,
    against delta.

    Margin 1 − z / MONTE_CARLO_Z, z the normal quantile of the exact binomial tail.
    """
    density, quantile, _ = _SHAPES[case["shape"]]
    n, sigma, delta = case["n"], case["sigma"], case["delta"]
    draws = quantile(_rng(case, 3).random((SETS, n)))
    distances = distances_on_grid(Line.density(density), draws, sigma)
    bound = printed_bound(case)
    exceeding = int(np.sum(distances > bound))
    z = max(0.0, float(norm.isf(binom.sf(exceeding - 1, SETS, delta))))
    numbers = {"exceeding": exceeding, "of": SETS, "bound": bound, "largest": float(distances.max())}
    return Outcome(1 - z / MONTE_CARLO_Z, numbers)


def distances_on_grid(truth: Line, draws: np.ndarray, sigma: float) -> np.ndarray:
    """Distances of many empirical measures on [0, 1] from the truth, smoothed, by the trapezoid rule with 8 points
    per sigma; sigma >= 0.1.

    The kernel is taken at Chebyshev's points of [0, 1]: its interpolation in the sample errs below 1e-12 for sigma >=
    0.1 (coefficients of order I_k(1/(16 sigma²)), k > 48), and each set enters by its 48 mean polynomials.
    """
    x = np.linspace(-6 * sigma, 1 + 6 * sigma, math.ceil((1 / sigma + 12) * 8))
    truth_pdf = truth.smoothed(sigma).pdf(x)
    nodes = np.polynomial.chebyshev.chebpts1(48)
    kernel = np.exp(-0.5 * ((x[:, None] - (nodes + 1) / 2) / sigma) ** 2) / (math.sqrt(2 * math.pi) * sigma)
    coefficients = np.linalg.solve(np.polynomial.chebyshev.chebvander(nodes, 47), kernel.T)
    means = np.stack([np.polynomial.chebyshev.chebvander(2 * d - 1, 47).mean(axis=0) for d in draws])
    return 0.5 * np.sum(np.abs(means @ coefficients - truth_pdf), axis=1) * (x[1] - x[0])


def integral_over_unit_interval(case: Case) -> Outcome:
    """AO-T1-PROOF: half the integral of |p̂ − p| over [0, 1] only, against the whole distance; p uniform."""
    sigma, n = case["sigma"], case["n"]
    draws = (np.arange(n) + 0.5) / n if case["seed"] == 0 else _rng(case, 4).random(n)
    truth, data = Line.density(np.ones_like, panels=2), Line.points(draws)
    x, w = ambient.panel_rule(np.linspace(0.0, 1.0, 17))
    inside = 0.5 * float(w @ np.abs(truth.smoothed(sigma).pdf(x) - data.smoothed(sigma).pdf(x)))
    return identity(inside, ambient.total_variation(truth, data, noise_std=sigma), tolerance=1e-3)


def _mean_error(a: float, n: int, b: float = 0.0, n_biased: int = 0) -> float:
    """E|share of ones − a| among n Bernoulli(a) and n_biased Bernoulli(b) draws: an exact double sum."""
    ones = np.arange(n + 1)[:, None] + np.arange(n_biased + 1)
    chance = np.outer(binom.pmf(np.arange(n + 1), n, a), binom.pmf(np.arange(n_biased + 1), n_biased, b))
    return float(np.sum(chance * np.abs(ones / (n + n_biased) - a)))


def density_bounds(case: Case) -> Outcome:
    """AO-T1*: both bounds on two-point laws: the exact probability to exceed against delta, the exact mean
    against the mean bound."""
    n, sigma, delta, a = case["n"], case["sigma"], case["delta"], case["a"]
    ones = np.arange(n + 1)
    chance, unit = binom.pmf(ones, n, a), _direct_tv(1.0, sigma)
    distances = np.abs(ones / n - a) * unit
    outcomes = []
    for bound in (kernel_density.bound_by_wasserstein, kernel_density.bound_by_variance):
        exceeding = float(np.sum(chance[distances > bound(n, sigma, delta=delta) * (1 + 1e-12)]))
        mean = float(chance @ distances)
        outcomes += [at_most(exceeding, delta, tolerance=1e-12), at_most(mean, bound(n, sigma), tolerance=1e-12)]
    return worst(*outcomes)


def any_dimension_as_printed(case: Case) -> Outcome:
    """F-AO-T1-ANYDIM: a lower bound on E TV of uniform data on [0, 1]^d against the printed 1-D rate; delta =
    0.01."""
    lower = kernel_density.far_from_truth(case["n"], case["sigma"], case["d"])
    # TV <= bound with probability 1 − delta, and TV <= 1, give E TV <= bound + delta
    return at_most(lower, kernel_density.bound_printed(case["n"], case["sigma"], delta=0.01) + 0.01)


def any_dimension(case: Case) -> Outcome:
    """F-AO-T1-ANYDIM*: the bound that grows with d, against the lower bound and against two corners of the
    cube, exactly."""
    n, sigma, d = case["n"], case["sigma"], case["d"]
    bound = kernel_density.bound(n, sigma, d=d)
    corners = _mean_error(case["a"], n) * _direct_tv(math.sqrt(d), sigma)
    return worst(at_most(corners, bound), at_most(kernel_density.far_from_truth(n, sigma, d), bound))


# -- crossover -------------------------------------------------------------------------------------------------


def crossover_as_printed(case: Case) -> Outcome:
    """AO-C1: that adding biased samples helps at high noise, on two-point laws, where the gain has one sign
    at every noise."""
    a, b, n, biased = case["a"], case["b"], case["n_clean"], case["n_biased"]
    alone, mixed = _mean_error(a, n), _mean_error(a, n, b, biased)
    unit = ambient.shifted_gaussians(1.0, case["sigma"])
    return at_most(mixed * unit, alone * unit, mean_error_clean=alone, mean_error_mixed=mixed)


def crossover_certificate(case: Case) -> Outcome:
    """AO-C1*: the large-noise expansion against exact distances, and the sign of the gain beyond e^(-1/2)/|g|."""
    atoms, p, q = _two_laws(case)
    pair = Line.points(atoms[p > 0], p[p > 0]), Line.points(atoms[q > 0], q[q > 0])
    leading, error = large_noise(*pair, case["sigma"])
    exact = ambient.total_variation(*pair, noise_std=case["sigma"])
    expansion = at_most(abs(exact - leading), error, tolerance=1e-12, exact=exact, leading=leading)
    return worst(expansion, _sign_of_gain(case, atoms, p, q))


def _sign_of_gain(case: Case, atoms: np.ndarray, p: np.ndarray, q: np.ndarray) -> Outcome:
    """Gain and g by enumeration of all samples: n_clean of p alone, and with n_biased of q."""
    clean, biased = (_samples(law, case[n]) for law, n in ((p, "n_clean"), (q, "n_biased")))
    total = case["n_clean"] + case["n_biased"]
    both = [(a + b) / total for a in clean[0] for b in biased[0]]
    alone, mixed = clean[0] / case["n_clean"] - p, np.array(both) - p
    chances = clean[1], np.outer(clean[1], biased[1]).ravel()
    g = float(chances[0] @ np.abs(alone @ atoms) - chances[1] @ np.abs(mixed @ atoms))
    if abs(g) < 1e-6:  # so small that it cannot be told from rounding at the noise it would need
        return at_most(0.0, 0.0, g=g)
    sigma = math.exp(-0.5) / abs(g) * (1 + case["beyond"])
    tv = [_distances(atoms, signed, sigma) for signed in (alone, mixed)]
    value, lost = (chances[0] @ tv[0][k] + sign * chances[1] @ tv[1][k] for k, sign in ((0, -1), (1, 1)))
    # in units of the leading term, which a gain of the other sign would have to undo
    unit = abs(g) / (math.sqrt(2 * math.pi) * sigma)
    signed_gain = math.copysign(1.0, g) * float(value) / unit
    return at_most(0.0, signed_gain, tolerance=float(lost) / unit + 1e-9, g=g, noise_std=sigma, gain=value)


def _samples(law: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """All counts of n draws from a law on k atoms, and their chances."""
    counts = np.array([c for c in np.ndindex(*(n + 1,) * law.size) if sum(c) == n])
    return counts, multinomial.pmf(counts, n, law)


def _distances(atoms: np.ndarray, signed: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Half the mass of |rows of weights on the atoms, smoothed|, and a bound on what is lost.

    Increments of the distribution functions between points sigma/32 apart are exact where the density keeps its sign;
    where it does not, at most the step times the larger of the ends' densities is lost (twice, for its curvature).
    """
    x = np.arange(-9.0, 9.0 + 1 / sigma, 1 / 32)  # in units of sigma
    z = x - atoms[:, None] / sigma
    mass, density = signed @ ndtr(z), signed @ (np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))
    changes = np.sign(density[:, 1:]) != np.sign(density[:, :-1])
    lost = np.maximum(np.abs(density[:, 1:]), np.abs(density[:, :-1])) * changes
    return 0.5 * np.sum(np.abs(np.diff(mass, axis=1)), axis=1), np.sum(lost, axis=1) / 32


# -- the ideal classifier --------------------------------------------------------------------------------------


def _smoothed_pair(case: Case) -> tuple[Line, Line]:
    p = _prior(case)
    other = {**case, "seed": case["seed"] + 1 if case["seed"] else 0}
    q = _prior(other)
    return p.smoothed(case["sigma"]), Line(q.weights, q.means + case["shift"], np.hypot(q.stds, case["sigma"]))


def classifier_as_printed(case: Case) -> Outcome:
    """AO-K: at the noise where E_q c = 1/2 − epsilon, is the total variation epsilon?"""
    p, q = _smoothed_pair(case)
    epsilon = 0.5 - _probability(p, q)
    return identity(ambient.total_variation(p, q), epsilon, tolerance=1e-6)


def classifier(case: Case) -> Outcome:
    """AO-K*: 1/2 − Delta/4 against the direct integral of q p / (p + q)."""
    p, q = _smoothed_pair(case)
    value = ambient.probability_clean(ambient.triangular_discrimination(p, q))
    return identity(value, _probability(p, q), tolerance=1e-9)


def classifier_against_tv(case: Case) -> Outcome:
    """F-AO-K-TV: 2 TV² <= Delta <= 2 TV; TV from roots, Delta from a sum, to 1e-6 each."""
    p, q = _smoothed_pair(case)
    delta, tv = ambient.triangular_discrimination(p, q), ambient.total_variation(p, q)
    return worst(at_most(2 * tv**2, delta, tolerance=1e-6), at_most(delta, 2 * tv, tolerance=1e-6))


def _probability(p: Line, q: Line) -> float:
    """E_q p / (p + q) by Gauss-Legendre panels of a standard deviation, through logarithms."""
    stds = np.concatenate([p.stds, q.stds])
    means = np.concatenate([p.means, q.means])
    low, high = float(np.min(means - 9 * stds)), float(np.max(means + 9 * stds))
    x, w = ambient.panel_rule(np.linspace(low, high, math.ceil((high - low) / float(np.min(stds))) + 1))
    log_p, log_q = _log_pdf(p, x), _log_pdf(q, x)
    return float(w @ np.exp(log_q - np.logaddexp(0.0, log_q - log_p)))


def _log_pdf(line: Line, x: np.ndarray) -> np.ndarray:
    parts = (
        np.log(line.weights / line.stds)
        - 0.5 * math.log(2 * math.pi)
        - 0.5 * ((x[:, None] - line.means) / line.stds) ** 2
    )
    return np.logaddexp.reduce(parts, axis=1)


def gaussian_images(case: Case) -> Outcome:
    """F-AO-K-GAUSS: Delta and TV of centred Gaussians by inversion against simulated log-likelihood
    ratios."""
    d, rng = case["d"], _rng(case, 5)
    clean = np.exp(rng.normal(size=d))
    corrupted = clean * np.exp(-case["strength"] * rng.random(d) / math.sqrt(d))
    z = rng.standard_normal((20_000, d))
    base, slope = 0.5 * float(np.sum(np.log(corrupted / clean))), 0.5 * (1 / corrupted - 1 / clean)
    ratio_q, ratio_p = base + (z**2) @ (slope * corrupted), base + (z**2) @ (slope * clean)
    delta = ambient.gaussian_triangular_discrimination(clean, corrupted)
    tv = ambient.gaussian_total_variation(clean, corrupted)
    # the same z serves both laws: TV = P_p(ratio > 0) − P_q(ratio > 0), sample by sample
    return worst(
        monte_carlo(0.5 * (1 - np.tanh(-ratio_q / 2)), 0.5 - delta / 4),
        monte_carlo((ratio_p > 0).astype(float) - (ratio_q > 0), tv, bias=1e-6),
    )
