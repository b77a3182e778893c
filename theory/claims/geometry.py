"""Claims on the Fisher-Rao geometry of Gaussians: ds² = dmᵀ S⁻¹ dm + ½ tr (S⁻¹ dS)². Proofs: `_geometry_proofs`.

The checks never compare a formula with itself: lengths come from the metric speed (derivatives in t by forward
differentiation, norms by NumPy), and geodesics are held to m'' = S' S⁻¹ m', S'' = S' S⁻¹ S' - m' m'ᵀ, in coordinates
where S = I. Small d are padded to 8 by independent standard normals that stay put: fewer programs, and the padded
curve must be a geodesic all the same.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

from theory.claims._geometry_proofs import prove_bound, prove_centred, prove_means, prove_same_covariance
from theory.claims.cases import covariance, direction, rotation
from theory.claims.claim import (
    DIMENSIONS,
    Case,
    Choices,
    Claim,
    Domain,
    Outcome,
    Parameter,
    Reals,
    Seeds,
    at_most,
    identity,
    worst,
)
from theory.fisher import (
    centred_distance,
    centred_geodesic,
    fisher_rao_connect,
    fisher_rao_exponential,
    lower_bound,
)
from theory.gaussian import Gaussian

EPS = float(np.finfo(float).eps)
Matrix = Float[np.ndarray, "d d"]
Moments = tuple[Any, Any]


def _padded(d: int) -> int:
    return 8 if d <= 8 else d


def _pad_vector(v: Float[np.ndarray, " d"]) -> Float[np.ndarray, " n"]:
    return np.concatenate([v, np.zeros(_padded(len(v)) - len(v))])


def _pad(matrix: Matrix, fill: float = 1.0) -> Float[np.ndarray, "n n"]:
    """`matrix` beside `fill` times the identity."""
    d = len(matrix)
    whole = fill * np.eye(_padded(d))
    whole[:d, :d] = matrix
    return whole


def _white(factor: Matrix, matrix: Float[np.ndarray, "d *k"]) -> Float[np.ndarray, "d *k"]:
    return solve_triangular(factor, matrix, lower=True)


def _white2(factor: Matrix, matrix: Matrix) -> Matrix:
    return _white(factor, _white(factor, matrix).T)


def _motion(curve: Callable[[Any], Moments], t: Any) -> tuple[Moments, Moments, Moments]:
    """Place, velocity and acceleration of a curve of (mean, covariance), by two forward differentiations."""

    def moving(s: Any) -> tuple[Moments, Moments]:
        return jax.jvp(curve, (s,), (jnp.ones_like(s),))

    (place, velocity), (_, acceleration) = jax.jvp(moving, (t,), (jnp.ones_like(t),))
    return place, velocity, acceleration


def _geodesic_outcome(motion: Any, speed: float, tolerance: float) -> Outcome:
    """Speed and geodesic equation at one time; `tolerance` is relative to the speed, and to its square."""
    (_, S), (v, V), (a, A) = jax.tree.map(np.asarray, motion)
    factor = np.linalg.cholesky(S)
    u, W = _white(factor, v), _white2(factor, V)
    measured = math.sqrt(float(u @ u + np.sum(W**2) / 2))
    size = max(speed, 1e-300)
    mean_error = (_white(factor, a) - W @ u) / size**2
    cov_error = (_white2(factor, A) - W @ W + np.outer(u, u)) / size**2
    return worst(
        identity(measured / size, 1.0, tolerance=tolerance, speed=measured, length=speed),
        identity(mean_error, np.zeros_like(mean_error), tolerance=tolerance),
        identity(cov_error, np.zeros_like(cov_error), tolerance=tolerance),
    )


# -------------------------------------------------------------------------------------------------------- SPD-T1


@functools.cache
def _centred_program() -> Callable[..., Any]:
    def evaluate(cov0: Any, cov1: Any, t: Any) -> Any:
        def curve(s: Any) -> Moments:
            return jnp.zeros(cov0.shape[0]), centred_geodesic(cov0, cov1, s)

        ends = centred_geodesic(cov0, cov1, 0.0), centred_geodesic(cov0, cov1, 1.0)
        return centred_distance(cov0, cov1), ends, _motion(curve, t)

    return jax.jit(evaluate)


@functools.cache
def _detour_program() -> Callable[..., Any]:
    return jax.jit(lambda a, b, c: centred_distance(a, b) + centred_distance(b, c))


def _check_centred(case: Case) -> Outcome:
    d, seed = case["d"], case["seed"]
    to_identity = case["end"] == "identity"
    cov0 = _pad(covariance(d, case["condition"], seed))
    cov1 = np.eye(d) if to_identity else case["scale"] * covariance(d, case["condition_end"], seed + 1)
    cov1 = _pad(cov1)
    distance, ends, motion = _centred_program()(cov0, cov1, case["t"])
    distance = float(distance)
    # Each log eigenvalue carries rounding of some d eps cond (theory.fisher); a relative error divides by the distance.
    worst_condition = max(np.linalg.cond(cov0), np.linalg.cond(cov1))
    rounding = 16 * len(cov0) * EPS * worst_condition
    outcomes = [
        identity(_white2(np.linalg.cholesky(cov), np.asarray(end)), np.eye(len(cov)), tolerance=rounding)
        for end, cov in zip(ends, (cov0, cov1), strict=True)
    ]
    if distance > rounding:
        outcomes.append(_geodesic_outcome(motion, distance, rounding * (1 + 1 / distance)))
    # A neighbour of the point at t: stretched along its own Cholesky axes.
    factor = np.linalg.cholesky(np.asarray(motion[0][1])) * (1 + case["detour"] * np.linspace(-1, 1, len(cov0)))
    detour = float(_detour_program()(cov0, factor @ factor.T, cov1))
    return worst(*outcomes, at_most(distance, detour, tolerance=rounding * math.sqrt(d)))


# ------------------------------------------------------------------------------------------------- F-FISHER-MEANS


@functools.cache
def _shot_program() -> Callable[..., Any]:
    def evaluate(cov: Any, v: Any, V: Any, times: Any) -> Any:
        def curve(s: Any) -> Moments:
            q = fisher_rao_exponential(Gaussian(jnp.zeros_like(v), cov), v, V, s)
            return q.mean, q.cov

        return jax.vmap(lambda t: _motion(curve, t))(times)

    return jax.jit(evaluate)


def _tangent(case: Case, cov: Matrix) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
    """Velocities of mean and covariance at `cov`, of the case's speed and direction, padded."""
    d, seed = case["d"], case["seed"]
    factor, basis, rng = np.linalg.cholesky(cov), rotation(d, seed), np.random.default_rng([seed, 5])
    rates = rng.standard_normal(d) if seed else np.linspace(1, -1, d) + (d == 1)
    rates = rates / np.linalg.norm(rates) * math.sqrt(2) * case["speed"] * math.cos(case["angle"])
    mean = direction(d, seed) * case["speed"] * math.sin(case["angle"])
    change = factor @ (basis * rates) @ basis.T @ factor.T
    return _pad_vector(factor @ mean), _pad((change + change.T) / 2, 0.0)


def _check_means(case: Case) -> Outcome:
    speed = case["speed"]
    cov = covariance(case["d"], case["condition"], case["seed"] + 1)
    v, V = _tangent(case, cov)
    whole = _pad(cov)
    n, factor = len(whole), np.linalg.cholesky(whole)
    motion = jax.tree.map(np.asarray, _shot_program()(whole, v, V, np.array([0.0, case["t"]])))
    start, later = (jax.tree.map(lambda x, i=i: x[i], motion) for i in (0, 1))
    (m0, S0), (v0, V0), _ = start
    # Whitened, the covariance lies between exp(-c) and exp(c), c <= sqrt(2) speed, and the exponential's entries are up
    # to exp(c): rounding n eps exp(2 c), relative. Whitening by cov costs n eps cond; relative to the speed: over it.
    rounding = 16 * n * EPS * (np.linalg.cond(whole) + math.exp(2 * math.sqrt(2) * speed))
    relative = rounding * (1 + 1 / speed) ** 2
    return worst(
        _geodesic_outcome(later, speed, relative),
        identity(_white(factor, m0), np.zeros(n), tolerance=rounding),
        identity(_white2(factor, S0), np.eye(n), tolerance=rounding),
        identity(_white(factor, v0 - v), np.zeros(n), tolerance=relative * speed),
        identity(_white2(factor, V0 - V), np.zeros((n, n)), tolerance=relative * speed),
    )


# ---------------------------------------------------------------------------------------------- F-FISHER-SAME-COV


@functools.cache
def _connect_program() -> Callable[..., Any]:
    def evaluate(mean: Any, cov: Any) -> Any:
        found = fisher_rao_connect(Gaussian(jnp.zeros_like(mean), cov), Gaussian(mean, cov))
        return found.distance, found.residual

    return jax.jit(evaluate)


def _check_same_covariance(case: Case) -> Outcome:
    d, M = case["d"], case["mahalanobis"]
    cov = covariance(d, case["condition"], case["seed"])
    mean = np.linalg.cholesky(cov) @ direction(d, case["seed"] + 1) * M
    whole = _pad(cov)
    distance, residual = map(float, _connect_program()(_pad_vector(mean), whole))
    # sqrt(2) arccosh(1 + M^2/4) by arcsinh, which loses no digits at small M.
    expected = 2 * math.sqrt(2) * math.asinh(M / (2 * math.sqrt(2)))
    # Whitening by cov costs d eps cond of M; the solver's own error is at most its residual.
    tolerance = residual + 16 * len(whole) * EPS * np.linalg.cond(whole) * M
    return identity(distance, expected, tolerance=tolerance, residual=residual)


# ------------------------------------------------------------------------------------------------- F-FISHER-BOUND


@functools.cache
def _bound_program() -> Callable[..., Any]:
    def evaluate(cov: Any, v: Any, V: Any) -> Any:
        p = Gaussian(jnp.zeros_like(v), cov)
        return lower_bound(p, fisher_rao_exponential(p, v, V))

    return jax.jit(evaluate)


def _check_bound(case: Case) -> Outcome:
    speed = case["speed"]
    cov = covariance(case["d"], case["condition"], case["seed"] + 1)
    whole = _pad(cov)
    bound = float(_bound_program()(whole, *_tangent(case, cov)))
    # Rounding of the end point, as in F-FISHER-MEANS.
    rounding = 16 * len(whole) * EPS * (np.linalg.cond(whole) + math.exp(2 * math.sqrt(2) * speed))
    return at_most(bound, speed, tolerance=rounding * (1 + speed))


_TANGENTS: dict[str, Parameter] = {
    "d": DIMENSIONS,
    "condition": Reals(1.0, 1e8, log=True),
    "speed": Reals(1e-3, 4.0, log=True),
    "angle": Reals(0.0, math.pi / 2),
    "seed": Seeds(),
}

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="SPD-T1",
        title="Shortest path between centred Gaussians",
        printed="SPD, theorem 1",
        statement=(
            "The Fisher-Rao geodesic from $N(0,S_0)$ to $N(0,S_T)$ is "
            "$S_t = S_0^{1/2}(S_0^{-1/2}S_TS_0^{-1/2})^{t/T}S_0^{1/2}$; with $S_T = I$, $S_t = S_0^{1-t/T}$. Its "
            "length is $\\frac{1}{\\sqrt{2}} \\|\\log(S_0^{-1/2}S_TS_0^{-1/2})\\|_F$."
        ),
        kind="identity",
        domain=Domain(
            {
                "d": DIMENSIONS,
                "end": Choices(("identity", "any")),
                "condition": Reals(1.0, 1e8, log=True),
                "condition_end": Reals(1.0, 1e8, log=True),
                "scale": Reals(1e-2, 1e2, log=True),
                "t": Reals(0.0, 1.0),
                "detour": Reals(0.0, 0.9),
                "seed": Seeds(),
            }
        ),
        check=_check_centred,
        method=(
            "metric speed and geodesic equation at time t from two forward differentiations of the curve; end points; "
            "no detour through a neighbouring covariance is shorter"
        ),
        expected="proved",
        proof=prove_centred,
        proof_scope=(
            "geodesic and length: d = 2 in any basis, d = 3 in the eigenbasis; shortest: among commuting curves"
        ),
        remark="Shortest among all curves: known from nonpositive curvature; here a numerical attack by detours.",
    ),
    Claim(
        id="F-FISHER-MEANS",
        title="Fisher-Rao geodesics with means: Eriksen's exponential",
        printed="Eriksen 1987; derived again",
        statement=(
            "Let $A$ have block rows $(-B, x, 0)$, $(x^T, 0, -x^T)$, $(0, -x, B)$ and let $\\Delta, \\delta$ be the "
            "first two blocks of the first row of $e^{tA}$. Then $N(\\Delta^{-1}\\delta, \\Delta^{-1})$ is the "
            "Fisher-Rao geodesic from $N(0, I)$ with velocities $x$ of the mean and $B$ of the covariance, of speed "
            "$(|x|^2 + \\frac{1}{2}tr B^2)^{1/2}$."
        ),
        kind="identity",
        domain=Domain({**_TANGENTS, "t": Reals(0.0, 1.0)}),
        check=_check_means,
        method="geodesic equation, speed and initial velocities from two forward differentiations of the curve",
        expected="proved",
        proof=prove_means,
        proof_scope="d = 2, every point of the geodesic",
        remark="A geodesic need not be the shortest curve between its ends; whether it is unique is not proved here.",
    ),
    Claim(
        id="F-FISHER-SAME-COV",
        title="Fisher-Rao distance at equal covariances",
        printed="textbook; derived again",
        statement=(
            "Between $N(m_0,S)$ and $N(m_1,S)$ at Mahalanobis distance $M$ it is $\\sqrt{2}\\,arccosh(1 + M^2/4)$."
        ),
        kind="identity",
        domain=Domain(
            {
                "d": Choices((1, 2, 3, 8)),
                "condition": Reals(1.0, 1e8, log=True),
                "mahalanobis": Reals(1e-6, 30.0, log=True),
                "seed": Seeds(),
            }
        ),
        check=_check_same_covariance,
        method="the general boundary-value solver (descent on the lift) against the closed form",
        expected="proved",
        proof=prove_same_covariance,
        proof_scope="d = 2: length of the geodesic; shortest as its projection on the line is (F-FISHER-BOUND)",
    ),
    Claim(
        id="F-FISHER-BOUND",
        title="A true lower bound on the Fisher-Rao distance",
        printed="derived here; Calvo and Oller 1990 for the embedding",
        statement=(
            "The distance is at least $\\frac{1}{\\sqrt{2}}\\|\\log P_0^{-1/2}P_1P_0^{-1/2}\\|_F$ with "
            "$P = [[S + mm^T, m], [m^T, 1]]$, and at least that of the two projections on any direction."
        ),
        kind="inequality",
        domain=Domain(_TANGENTS),
        check=_check_bound,
        method="against the lengths of curves between the Gaussians: geodesics shot by Eriksen's exponential",
        expected="proved",
        proof=prove_bound,
        proof_scope="d = 2, every point",
    ),
)
