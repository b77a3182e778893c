"""Symbolic proofs of the claims on Fisher-Rao geometry, from the metric m'ᵀ S⁻¹ m' + ½ tr (S⁻¹ S')² alone.

Two facts serve several of them. The Euler-Lagrange equations of the energy are

    m'' = S' S⁻¹ m',    S'' = S' S⁻¹ S' - m' m'ᵀ,

and an affine map of R^d is an isometry, so that an identity between curves may be checked where S = I and m = 0.
"""

import functools
from collections.abc import Sequence

import sympy as sp

from theory.claims.claim import Step


def _symmetric(name: str, d: int) -> sp.Matrix:
    return sp.Matrix(d, d, lambda i, j: sp.Symbol(f"{name}{min(i, j) + 1}{max(i, j) + 1}", real=True))


def _vector(name: str, d: int) -> sp.Matrix:
    return sp.Matrix(d, 1, lambda i, _: sp.Symbol(f"{name}{i + 1}", real=True))


def _blocks(rows: Sequence[Sequence[sp.Matrix]]) -> sp.Matrix:
    return sp.Matrix(sp.BlockMatrix(rows))


def _inverse(S: sp.Matrix) -> sp.Matrix:
    return S.adjugate() / S.det()


def _energy(S: sp.Matrix, v: sp.Matrix, V: sp.Matrix) -> sp.Expr:
    inverse = _inverse(S)
    return (v.T * inverse * v)[0] + (inverse * V * inverse * V).trace() / 2


@functools.cache
def _euler_lagrange() -> sp.ImmutableMatrix:
    """Left sides of the Euler-Lagrange equations at m = 0, S = I, d = 2, the claimed accelerations put in."""
    S, V, m, v = _symmetric("s", 2), _symmetric("v", 2), _vector("m", 2), _vector("u", 2)
    energy = _energy(S, v, V)
    dv, dV = V * v, V * V - v * v.T
    places = [*m, S[0, 0], S[0, 1], S[1, 1]]
    speeds = [*v, V[0, 0], V[0, 1], V[1, 1]]
    accelerations = [*dv, dV[0, 0], dV[0, 1], dV[1, 1]]
    origin = {S[0, 0]: 1, S[0, 1]: 0, S[1, 1]: 1, m[0]: 0, m[1]: 0}

    def equation(place: sp.Symbol, speed: sp.Symbol) -> sp.Expr:
        momentum = sp.diff(energy, speed)
        rate = sum(
            sp.diff(momentum, s) * a + sp.diff(momentum, p) * s
            for p, s, a in zip(places, speeds, accelerations, strict=True)
        )
        return sp.expand((rate - sp.diff(energy, place)).subs(origin))

    return sp.ImmutableMatrix([equation(p, s) for p, s in zip(places, speeds, strict=True)])


def _euler_lagrange_step() -> Step:
    text = (
        "The Euler-Lagrange equations of $m'^T S^{-1} m' + \\frac{1}{2} tr(S^{-1}S')^2$ are solved by "
        "$m'' = S'S^{-1}m'$, $S'' = S'S^{-1}S' - m'm'^T$ (at $m = 0$, $S = I$, d = 2, all velocities; "
        "affine maps are isometries, so everywhere)."
    )
    return Step(text, _euler_lagrange())


def prove_centred() -> Sequence[Step]:
    """SPD-T1: the curve solves the geodesic equation, its length, and that it is shortest among commuting curves."""
    t, x, D = sp.Symbol("t", real=True), sp.Symbol("x", real=True), sp.Symbol("D", positive=True)
    rates = sp.symbols("l1 l2 l3", real=True)
    Z = sp.Matrix(2, 2, sp.symbols("z11 z12 z21 z22", real=True))
    grow = sp.diag(*[sp.exp(rate * t) for rate in rates])
    turned = Z * grow[:2, :2] * Z.T
    moved = turned.diff(t, 2) - turned.diff(t) * _inverse(turned) * turned.diff(t)
    powers = {sp.exp(rate * t): sp.Symbol(f"p{i}") for i, rate in enumerate(rates)}
    speed2 = _energy(grow, sp.zeros(3, 1), grow.diff(t))
    logs = [sp.Function(f"y{i}")(t) for i in range(3)]
    commuting = sp.diag(*[sp.exp(y) for y in logs])
    flat = _energy(commuting, sp.zeros(3, 1), commuting.diff(t)) - sum(y.diff(t) ** 2 for y in logs) / 2
    return [
        _euler_lagrange_step(),
        Step(
            "In the eigenbasis $S_t = diag(\\lambda_i^t)$ solves $S'' = S'S^{-1}S'$ (d = 3).",
            grow.diff(t, 2) - grow.diff(t) * grow.inv() * grow.diff(t),
        ),
        Step(
            "So does $Z\\,diag(\\lambda_i^t)Z^T$ for every constant Z (d = 2); the statement is $Z = S_0^{1/2}V$.",
            moved.subs(powers).applyfunc(sp.cancel),
        ),
        Step(
            "Its speed is constant, hence length² $= \\frac{1}{2}\\sum \\log^2\\lambda_i$ (d = 3).",
            sp.integrate(sp.simplify(speed2), (t, 0, 1)) - sum(rate**2 for rate in rates) / 2,
        ),
        Step(
            "With $S_T = I$, $\\lambda = 1/D$: $D\\lambda^t = D^{1-t}$.",
            sp.expand_power_exp(D * (1 / D) ** x - D ** (1 - x)),
        ),
        Step(
            "Among curves that commute, $y = \\log v$ makes the metric flat, $\\frac{1}{2}|dy|^2$: the "
            "straight line, which this is, is the shortest (d = 3).",
            flat,
        ),
    ]


def _eriksen(B: sp.Matrix, x: sp.Matrix) -> sp.Matrix:
    zero = sp.zeros(*B.shape)
    return _blocks([[-B, x, zero], [x.T, sp.zeros(1, 1), -x.T], [zero, -x, B]])


def _exchange(d: int) -> sp.Matrix:
    wide, tall = sp.zeros(d, d), sp.zeros(d, 1)
    return _blocks([[wide, tall, sp.eye(d)], [tall.T, sp.eye(1), tall.T], [sp.eye(d), tall, wide]])


def _unit_corner() -> sp.Expr:
    """With k = ε - δᵀ Δ⁻¹ δ: the corner of the inverse of [[ε, δᵀ], [δ, Δ]], times k, less 1."""
    Delta, delta, corner = _symmetric("d", 2), _vector("delta", 2), sp.Symbol("epsilon", real=True)
    block = _blocks([[sp.Matrix([[corner]]), delta.T], [delta, Delta]])
    k = corner - (delta.T * _inverse(Delta) * delta)[0]
    return sp.simplify(block.adjugate()[0, 0] / block.det() * k - 1)


def _lifted_motion() -> tuple[sp.Matrix, sp.Matrix, sp.Matrix]:
    """What P' = A P leaves of m' = S x, m'' = S' S⁻¹ m' and S'' = S' S⁻¹ S' - m' m'ᵀ, at any point, d = 2.

    Free symbols: S = Δ⁻¹, R = Δ', δ and x; the constant generator is then B = (x δᵀ - R) S.
    """
    S, R, delta, x = _symmetric("s", 2), _symmetric("r", 2), _vector("delta", 2), _vector("x", 2)
    B = (x * delta.T - R) * S
    delta_rate = -B * delta + (1 + (delta.T * S * delta)[0]) * x
    R_rate = -B * R + x * delta_rate.T
    S_rate = -S * R * S
    S_second = 2 * S * R * S * R * S - S * R_rate * S
    m_rate = S_rate * delta + S * delta_rate
    first = (m_rate - S * x).expand()
    second = (S_rate * x - S_rate * _inverse(S) * m_rate).applyfunc(sp.cancel)
    third = (S_second - S_rate * (-R * S) + m_rate * m_rate.T).expand()
    return first, second, third


def prove_means() -> Sequence[Step]:
    """F-FISHER-MEANS: Eriksen's exponential solves the geodesic equations."""
    B, x, J = _symmetric("b", 2), _vector("x", 2), _exchange(2)
    A = _eriksen(B, x)
    first, second, third = _lifted_motion()
    # P(0) = I, so P'(0) = A: Δ' = A's first block, δ' the one beside it; S' = -Δ', m' = δ'.
    start = _energy(sp.eye(2), A[:2, 2], -A[:2, :2]) - (x.T * x)[0] - (B * B).trace() / 2
    return [
        _euler_lagrange_step(),
        Step(
            "The generator A anticommutes with J, which exchanges the outer blocks (d = 2): $P = e^{tA}$ has "
            "$P J P = J$.",
            A * J + J * A,
        ),
        Step(
            "Hence $P^{-1} = JPJ$, and by Schur complements $k = \\epsilon - \\delta^T\\Delta^{-1}\\delta$ of the "
            "blocks $\\Delta, \\delta, \\epsilon$ of P equals $1/k$; k > 0, so k = 1 (d = 2).",
            _unit_corner(),
        ),
        Step(
            "$P' = AP$ reads $\\Delta' = -B\\Delta + x\\delta^T$, $\\delta' = -B\\delta + \\epsilon x$. With "
            "$S = \\Delta^{-1}$, $m = S\\delta$ this gives $m' = Sx$ (d = 2, at every point),",
            first,
        ),
        Step("so $m'' = S'x = S'S^{-1}m'$: the first geodesic equation,", second),
        Step("and $S'' = S'S^{-1}S' - m'm'^T$: the second (d = 2, at every point).", third),
        Step(
            "At t = 0 the velocities are $m' = x$, $S' = B$: the speed is $(|x|^2 + \\frac{1}{2}tr B^2)^{1/2}$.",
            sp.expand(start),
        ),
    ]


def _half_circle() -> list[Step]:
    s, M = sp.symbols("s M", positive=True)
    R = sp.sqrt(1 + M**2 / 8)
    mean, var = sp.sqrt(2) * R * sp.tanh(s), (R / sp.cosh(s)) ** 2
    speed2 = mean.diff(s) ** 2 / var + var.diff(s) ** 2 / (2 * var**2)
    first = mean.diff(s, 2) - var.diff(s) * mean.diff(s) / var
    second = var.diff(s, 2) - var.diff(s) ** 2 / var + mean.diff(s) ** 2
    sinh = M / (2 * sp.sqrt(2))
    cosh = sp.sqrt(1 + sinh**2)
    doubled = (sp.cosh(2 * s) - 1 - 2 * sp.sinh(s) ** 2).rewrite(sp.exp)
    return [
        Step(
            "The half circle $m = \\sqrt{2}R\\tanh s$, $\\sqrt{v} = R/\\cosh s$ has speed $\\sqrt{2}$.",
            sp.simplify((speed2 - 2).rewrite(sp.exp)),
        ),
        Step("It solves $m'' = v'm'/v$", sp.simplify(first.rewrite(sp.exp))),
        Step("and $v'' = v'^2/v - m'^2$.", sp.simplify(second.rewrite(sp.exp))),
        Step("With $R^2 = 1 + M^2/8$ and $\\sinh s_0 = M/(2\\sqrt{2})$ it has v = 1 at $\\pm s_0$,", R / cosh - 1),
        Step("and the means there are M apart;", 2 * sp.sqrt(2) * R * sinh / cosh - M),
        Step("$\\cosh 2s = 1 + 2\\sinh^2 s$,", sp.expand(doubled)),
        Step(
            "so the length $2\\sqrt{2}s_0$ is $\\sqrt{2}\\,arccosh(1 + M^2/4)$.",
            sp.expand(1 + 2 * sinh**2 - 1 - M**2 / 4),
        ),
    ]


def prove_same_covariance() -> Sequence[Step]:
    """F-FISHER-SAME-COV: reduction to the half-plane, and the half circle through both Gaussians."""
    sigma = sp.Symbol("sigma", positive=True)
    v, V = sp.symbols("v V", real=True)
    S, dS, dm = sp.diag(sigma**2, 1), sp.diag(V, 0), sp.Matrix([v, 0])
    plane = _energy(S, dm, dS) - v**2 / sigma**2 - V**2 / (2 * sigma**4)
    ddm, ddS = dS * S.inv() * dm, dS * S.inv() * dS - dm * dm.T
    return [
        Step("On $N(m e_1, diag(v, 1))$ the metric is that of the line, $dm^2/v + dv^2/(2v^2)$ (d = 2).", plane),
        Step(
            "Geodesics that start along this family stay in it: the other accelerations vanish (d = 2).",
            sp.Matrix([ddm[1], ddS[0, 1], ddS[1, 0], ddS[1, 1]]),
        ),
        *_half_circle(),
    ]


def prove_bound() -> Sequence[Step]:
    """F-FISHER-BOUND: the embedding is isometric, and projection shortens."""
    S, V, m, v = _symmetric("s", 2), _symmetric("v", 2), _vector("m", 2), _vector("u", 2)
    one, inverse = sp.eye(1), _inverse(S)
    P = _blocks([[S + m * m.T, m], [m.T, one]])
    dP = _blocks([[V + v * m.T + m * v.T, v], [v.T, 0 * one]])
    P_inverse = _blocks([[inverse, -inverse * m], [-m.T * inverse, one + m.T * inverse * m]])
    pulled = (P_inverse * dP * P_inverse * dP).trace() / 2 - _energy(S, v, V)
    w, size = sp.Matrix([-m[1], m[0]]), (m.T * m)[0]
    gap_mean = size * (v.T * v)[0] - (m.T * v)[0] ** 2 - (w.T * v)[0] ** 2
    others = 2 * (m.T * V * w)[0] ** 2 + (w.T * V * w)[0] ** 2
    gap_cov = size**2 * (V * V).trace() - (m.T * V * m)[0] ** 2 - others
    return [
        Step(
            "The inverse of $P = [[S + mm^T, m], [m^T, 1]]$ (d = 2).", (P_inverse * P - sp.eye(3)).applyfunc(sp.cancel)
        ),
        Step(
            "Pulled back by it, $\\frac{1}{2}tr(P^{-1}dP)^2$ is the Fisher-Rao metric (d = 2, every point): curves "
            "keep their length, so the distance of the two P is a lower bound.",
            sp.cancel(pulled),
        ),
        Step("Projected on u, at S = I: $|u|^2|x|^2 - (u^Tx)^2$ is a square (d = 2),", sp.expand(gap_mean)),
        Step(
            "and $|u|^4 tr B^2 - (u^TBu)^2$ a sum of squares: no curve is shorter than its projection (d = 2).",
            sp.expand(gap_cov),
        ),
    ]
