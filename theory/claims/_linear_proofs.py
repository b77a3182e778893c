"""Symbolic derivations for the linear denoiser: from the definition of the loss, of the flow, of the trace.

Expectations are taken of the expanded square itself: with x0 = m + L g (S = L Lᵀ) the loss is a polynomial of second
degree in the independent unit variables g, ε, ξ, so its mean is its constant term plus the coefficients of the
squares.
"""

from collections.abc import Sequence

import sympy as sp
from sympy import Matrix, Symbol, eye, sqrt, symbols

from theory.claims.claim import Step

r, sigma = symbols("r sigma", positive=True)
gamma = Symbol("gamma", nonnegative=True)


def _mean_square(residual: Matrix, units: Sequence[Symbol]) -> sp.Expr:
    """E |residual|² for a residual that is affine in independent variables of mean 0 and variance 1."""
    total = sp.Integer(0)
    for entry in residual:
        poly = sp.Poly(sp.expand(entry), *units)
        total += sum(coefficient**2 for _, coefficient in poly.terms())
    return sp.expand(total)


def _reals(name: str, rows: int, columns: int = 1) -> Matrix:
    return Matrix(rows, columns, lambda i, j: Symbol(f"{name}{i}{j}", real=True))


def _lower(name: str, d: int) -> Matrix:
    return Matrix(d, d, lambda i, j: Symbol(f"{name}{i}{j}", real=True) if i >= j else 0)


def class_loss(d: int, W: Matrix, V: Matrix, m: Matrix, L: Matrix, code: Matrix, noise_std: sp.Expr) -> sp.Expr:
    """E |W (r x0 + σ ε) + V (c + noise_std ξ) - ε|², expanded."""
    g, eps, xi = _reals("g", d), _reals("e", d), _reals("x", code.rows)
    residual = W * (r * (m + L * g) + sigma * eps) + V * (code + noise_std * xi) - eps
    return _mean_square(residual, [*g, *eps, *xi])


def _square(matrix: Matrix) -> sp.Expr:
    return sum(entry**2 for entry in matrix)


def optimum(d: int, code: Matrix, noise_std: sp.Expr) -> list[Step]:
    """The loss equals a completed square plus a constant, so the stated W and V are its minimum."""
    m, L, v = _reals("m", d), _lower("L", d), _reals("v", d)
    W, V = _reals("W", d, d), _reals("V", d, code.rows)
    weight = _square(code) + noise_std**2
    A = sigma**2 * eye(d) + r**2 * (L * L.T + noise_std**2 / weight * m * m.T)
    off = V + r / weight * (W * m) * code.T
    codes = code * code.T + noise_std**2 * eye(code.rows)
    quadratic = (W * A * W.T).trace() - 2 * sigma * W.trace() + d
    excess = class_loss(d, W, V, m, L, code, noise_std) - quadratic - (off * codes * off.T).trace()
    parts = sigma**2 * _square(v) + r**2 * _square(L.T * v) + r**2 * noise_std**2 / weight * (m.T * v)[0] ** 2
    where = f"($d = {d}$, code of dimension {code.rows})"
    loss = (
        r"$\mathrm{tr} W A W^T - 2\sigma \mathrm{tr} W + d + \mathrm{tr}(V-V^*)(c c^T+\gamma^2 I)(V-V^*)^T$, "
        r"$V^* = -r W m c^T/(|c|^2+\gamma^2)$"
    )
    positive = r"$v^T A v$ is a sum of squares, $\sigma^2 |v|^2$ among them, so the minimum is unique in $W$"
    return [
        Step(f"the expanded loss is {loss} {where}", sp.cancel(sp.together(excess))),
        _minimum_of_quadratic(d),
        Step(f"{positive} {where}", sp.simplify((v.T * A * v)[0] - parts)),
    ]


def _minimum_of_quadratic(d: int) -> Step:
    """tr W A Wᵀ - 2 σ tr W as a completed square, for any symmetric invertible A."""
    entries = _reals("a", d, d)
    A = Matrix(d, d, lambda i, j: entries[max(i, j), min(i, j)])
    W, best = _reals("W", d, d), sigma * A.inv()
    square = ((W - best) * A * (W - best).T).trace() - sigma**2 * A.inv().trace()
    gap = (W * A * W.T).trace() - 2 * sigma * W.trace() - square
    text = (
        r"$\mathrm{tr} W A W^T - 2\sigma \mathrm{tr} W = \mathrm{tr}(W-\sigma A^{-1})A(W-\sigma "
        r"A^{-1})^T - \sigma^2\mathrm{tr}A^{-1}$"
    )
    return Step(f"{text} ($d = {d}$, any symmetric $A$)", sp.cancel(sp.together(gap)))


def clean_optimum() -> list[Step]:
    """Lemma 1: one-hot code, no code noise."""
    return [*optimum(1, Matrix([1]), sp.Integer(0)), *optimum(2, Matrix([1]), sp.Integer(0))]


def corrupted_optimum() -> list[Step]:
    """Lemma 2 as corrected: a code of any norm, code noise gamma; and what V* makes of the clean code."""
    code = _reals("c", 2)
    s = gamma**2 / (_square(code) + gamma**2)
    m = _reals("m", 2)
    W = _reals("W", 2, 2)
    V = -r / (_square(code) + gamma**2) * (W * m) * code.T
    bias = Step(r"$V^* c = -r (1-s) W m$ ($d = 2$)", (V * code + r * (1 - s) * W * m).applyfunc(sp.simplify))
    return [*optimum(1, code, gamma), *optimum(2, Matrix([Symbol("c", positive=True)]), gamma), bias]


def minimum_loss() -> list[Step]:
    """The loss at the optimum, by substituting W*, V* in the expanded loss (S diagonal for d = 2)."""
    steps = []
    for d in (1, 2):
        m, L = _reals("m", d), sp.diag(*symbols(f"l:{d}", real=True))
        W, s = _reals("W", d, d), gamma**2 / (1 + gamma**2)
        reduced = class_loss(d, W, -r * (1 - s) * W * m, m, L, Matrix([1]), gamma)
        inverse = (sigma**2 * eye(d) + r**2 * (L * L.T + s * m * m.T)).inv()
        at_best = reduced.subs(dict(zip(W, sigma * inverse, strict=True)), simultaneous=True)
        gap = at_best - (d - sigma**2 * inverse.trace())
        text = r"the expanded loss at $W^*, V^*$ is $d - \sigma^2 \mathrm{tr} A^{-1}$"
        steps.append(Step(f"{text} ($d = {d}$)", sp.cancel(sp.together(gap))))
    return steps


def shared_optimum() -> list[Step]:
    """W, V shared by two classes with orthonormal codes and any weights, d = 1 and 2 (S_k diagonal for d = 2)."""
    return [step for d in (1, 2) for step in _shared(d)]


def _shared(d: int) -> list[Step]:
    weights = symbols("w0 w1", positive=True)
    means = [_reals(f"m{k}", d) for k in range(2)]
    roots = [sp.diag(*symbols(f"l{k}_:{d}", real=True)) for k in range(2)]
    W, V = _reals("W", d, d), _reals("V", d, 2)
    codes = [Matrix([1, 0]), Matrix([0, 1])]
    total = sum(
        w * class_loss(d, W, V, m, L, c, gamma) for w, m, L, c in zip(weights, means, roots, codes, strict=True)
    )
    # The code's noise enters every class's loss with the weight w_k; the weights sum to one.
    total = total.subs(weights[1], 1 - weights[0])
    cov = sum((w * L * L.T for w, L in zip(weights, roots, strict=True)), sp.zeros(d))
    added = sum((w * gamma**2 / (w + gamma**2) * m * m.T for w, m in zip(weights, means, strict=True)), sp.zeros(d))
    A = sigma**2 * eye(d) + r**2 * (cov + added)
    square = (W * A * W.T).trace() - 2 * sigma * W.trace() + d
    for k, (w, m) in enumerate(zip(weights, means, strict=True)):
        square += (w + gamma**2) * _square(V[:, k] + r * w / (w + gamma**2) * W * m)
    excess = total - square.subs(weights[1], 1 - weights[0])
    text = (
        r"$\mathrm{tr} W A W^T - 2\sigma \mathrm{tr} W + d + \sum_k (w_k+\gamma^2) |V_k + r w_k W "
        r"m_k/(w_k+\gamma^2)|^2$"
    )
    return [Step(f"the expanded loss is {text} ($d = {d}$, two classes)", sp.cancel(sp.together(excess)))]


t, T = symbols("t T", positive=True)


def generation() -> list[Step]:
    """One eigenmode of S_c with m_c its mean: the reverse flow solved, then its law at t = 0 from N(0, 1) at T."""
    lam, m, z, p = (
        Symbol("lambda", positive=True),
        Symbol("m", real=True),
        Symbol("z", real=True),
        Symbol("p", positive=True),
    )
    variance = 1 + (lam - 1) * sp.exp(-2 * t)
    path = sp.exp(-t) * m + sqrt(variance / variance.subs(t, T)) * (z - sp.exp(-T) * m)
    score = -(path - sp.exp(-t) * m) / variance
    final = path.subs(t, 0)
    stated = lam / (1 + (lam - 1) * sp.exp(-2 * T))
    factor = 1 - sqrt(lam) * sp.exp(-T) / sqrt(1 + (lam - 1) * sp.exp(-2 * T))
    mean_gap = (final.subs(z, 0) - m * factor).subs(T, sp.log(1 + p) / 2)
    solves = r"$z(t) = e^{-t} m + \sqrt{v_t/v_T}\,(z_T - e^{-T} m)$ solves $dz/dt = -z - \mathrm{score}$"
    return [
        Step(solves, sp.diff(path, t) + path + score),
        Step(r"and starts at $z_T$", path.subs(t, T) - z),
        Step(
            r"variance of $z(0)$ for $z_T \sim N(0,1)$: $\lambda/(1+(\lambda-1)e^{-2T})$",
            sp.diff(final, z) ** 2 - stated,
        ),
        Step(r"mean factor $1-\sqrt\lambda e^{-T}/\sqrt{1+(\lambda-1)e^{-2T}}$", sp.simplify(sp.factor(mean_gap))),
        Step(r"as $T\to\infty$ the variance is $\lambda$", sp.limit(stated, T, sp.oo) - lam),
        Step(r"and the mean $m$", sp.limit(factor, T, sp.oo) - 1),
    ]


def corrupted_generation() -> list[Step]:
    """The eigenmode solution, and that the optimum's score is that of N(r m_c, A) for d = 2, S_c not diagonal."""
    m, L, x = _reals("m", 2), _lower("L", 2), _reals("x", 2)
    s = Symbol("s", nonnegative=True)
    A = sigma**2 * eye(2) + r**2 * (L * L.T + s * m * m.T)
    W = sigma * A.inv()
    eps = W * x - r * (1 - s) * W * m
    centred = x - r * (1 - s) * m
    log_density = -(centred.T * A.inv() * centred)[0] / 2
    gap = Matrix([sp.cancel(sp.together(sp.diff(log_density, x[i]) + eps[i] / sigma)) for i in range(2)])
    text = (
        r"$-(W x_t + V c)/\sigma$ is the score of $N(r(1-s)m, \sigma^2 I + r^2 S_c)$, so modes are those "
        r"of $S_c$ ($d = 2$)"
    )
    return [Step(text, gap), *generation()]


def guided_generation() -> list[Step]:
    """One common eigenmode in x = z/r, q = (1 - r²)/r²: the flow, its solution, and the stated forms."""
    lam, Lam, w, q, r_ = symbols("lambda Lambda w q r", positive=True)
    m, mb, x, z = symbols("m mb x z", real=True)
    v_c, v_u = 1 + (lam - 1) * r_**2, 1 + (Lam - 1) * r_**2
    guided = -(1 + w) * (z - r_ * m) / v_c + w * (z - r_ * mb) / v_u
    # dz/dt = -z - guided, dr/dt = -r, q = 1/r² - 1: the rate of change of x = z/r with q
    slope = ((-z - guided) / r_ + z / r_) / (2 / r_**2)
    rate = ((1 + w) / (lam + q) - w / (Lam + q)) / 2
    drive = -(1 + w) * m / (lam + q) / 2 + w * mb / (Lam + q) / 2
    in_q = slope.subs(z, r_ * x).subs(r_, 1 / sqrt(1 + q))
    log_g = (1 + w) / 2 * (sp.log(lam) - sp.log(lam + q)) + w / 2 * (sp.log(Lam + q) - sp.log(Lam))
    stated = m * rate + w * (m - mb) / (2 * (Lam + q))
    classes, pooled = (sp.factor(v.subs(r_, 1 / sqrt(1 + q))) for v in (v_c, v_u))
    log_variance = (1 + w) * sp.log(lam / classes) - w * sp.log(Lam / pooled)
    log_found = log_variance / 2
    bracket = ((1 + w) * m / classes - w * mb / pooled) * sqrt(1 + q) * (-sp.diff(1 / sqrt(1 + q), q))
    return [
        Step(
            r"the flow is $dx/dq = \rho x + b$, $\rho = \frac{1+w}{2(\lambda+q)} - \frac{w}{2(\Lambda+q)}$",
            sp.simplify(in_q - rate * x - drive),
        ),
        Step(r"so $x(0) = g(q)\,x(q) - \int g b$: $g' = -\rho g$", sp.simplify(sp.diff(log_g, q) + rate)),
        Step(r"$g(0) = 1$", sp.simplify(log_g.subs(q, 0))),
        Step(
            r"$-g b = -(g m)' + \frac{w}{2} g (m-m')/(\Lambda+q)$: the mean $m(1-g) + (m-m')J$",
            sp.simplify(-drive - stated),
        ),
        Step(
            r"variance $(1+q_T)g(q_T)^2 = (\lambda/v_c)^{1+w}(\Lambda/v_u)^{-w}$",
            sp.simplify(sp.expand_log(sp.log(1 + q) + 2 * log_g - log_variance, force=True)),
        ),
        Step(
            r"the integrand over $r$ has the same $g$, times $\sqrt{1+q}$",
            sp.simplify(sp.expand_log(log_found - log_g - sp.log(1 + q) / 2, force=True)),
        ),
        Step(
            r"and is the same integrand: $[(1+w)m/v_c - w m'/v_u]\,\sqrt{1+q}\,dr = -b\,dq$",
            sp.simplify(bracket + drive),
        ),
    ]


def trace_identity() -> list[Step]:
    """From det(A + s u uᵀ + t) = det(A + t)(1 + s uᵀ(A + t)⁻¹u), and the integral for one eigenvalue."""
    a, b, x, s = symbols("a b x s", positive=True)
    derivative = sp.integrate(1 / (sqrt(x) * (b + x)), (x, 0, sp.oo)) / (2 * sp.pi)
    steps = [
        Step(
            r"$\frac{1}{2\pi}\int_0^\infty t^{-1/2}/(b+t)\,dt = d\sqrt b/db$: one eigenvalue's share, by "
            r"integrating over $b$",
            derivative - sp.diff(sqrt(b), b),
        ),
        Step(r"both sides vanish at $s = 0$", sp.log(1 + s * a).subs(s, 0)),
    ]
    for d in (2, 3):
        u, L = _reals("u", d), _lower("L", d)
        M = L * L.T + x * eye(d)
        gap = (M + s * u * u.T).det() - M.det() - s * (u.T * M.adjugate() * u)[0]
        text = r"$\det(A + s u u^T + t) = \det(A+t)\,(1 + s\,u^T (A+t)^{-1} u)$"
        steps.append(Step(f"{text}, so the integrand sums over the eigenvalues of both ($d = {d}$)", sp.expand(gap)))
    return steps
