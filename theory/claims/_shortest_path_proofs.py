"""Symbolic derivations for the claims about shortest paths: one frequency, variance D > 0, samplers as linear
recursions.

A path is known by its gains at two neighbouring times, A, S (late) and B, R (early), R < S; everything is derived
from x_late = A x0 + S ε, x_early = B x0 + R ε' and the forward step x_late = a x_early + √q ξ.
"""

from collections.abc import Sequence

import sympy as sp

from theory.claims.claim import Step

D = sp.Symbol("D", positive=True)
TAU = sp.Symbol("tau", positive=True)
N = sp.Symbol("N", positive=True, integer=True)
A, S, B, R = sp.symbols("A S B R", positive=True)


def _two_times() -> tuple[sp.Expr, sp.Expr, sp.Expr, sp.Expr]:
    """Marginal variances (late, early), coefficient a and variance q of the forward step, by matching x_late's law
    given x0."""
    a = A / B
    q = S**2 - a**2 * R**2
    return A**2 * D + S**2, B**2 * D + R**2, a, q


def theorem_two() -> Sequence[Step]:
    """SPD-T2: the variance-preserving gain is forced by the geodesic, is smooth at D = 1, sharpens, and starts
    coloured."""
    t, power = sp.symbols("t power", real=True)
    u = sp.Symbol("u", nonnegative=True)
    gain = (1 - D**TAU) / (1 - D)
    (solution,) = sp.solve(sp.Eq(power * D + (1 - power), D**TAU), power)
    rate = sp.diff(sp.log(D ** (1 - t)), t)
    chord = (1 + u * (D - 1)) ** TAU / (D - 1)
    noise_at = (1 - gain).subs(TAU, 1 - t)
    return (
        Step(
            r"Keeping unit variance, $\varphi^2 D + (1-\varphi^2) = D^\tau$ has one solution, the printed one.",
            solution - gain,
        ),
        Step(r"$D^{1-t}$ has constant Fisher speed $|\partial_t \log v|/\sqrt 2$.", sp.diff(rate, t)),
        Step(r"and runs from $D$ to $1$.", sp.Matrix([(D ** (1 - t)).subs(t, 0) - D, (D ** (1 - t)).subs(t, 1) - 1])),
        Step(r"As $D \to 1$, $\varphi^2 \to \tau$.", sp.limit(gain, D, 1) - TAU),
        Step(
            r"$\varphi^2 = \int_0^1 \tau (1+u(D-1))^{\tau-1} du$: the integrand's antiderivative is the chord ...",
            sp.diff(chord, u) - TAU * (1 + u * (D - 1)) ** (TAU - 1),
        ),
        Step(r"... and its ends give $\varphi^2$.", chord.subs(u, 1) - chord.subs(u, 0) - gain),
        Step(
            r"For $\tau < 1$ it falls in $D$ (derivative $-\tau(1-\tau) u (1+u(D-1))^{\tau-2}$): sharpening.",
            sp.diff(TAU * (1 + u * (D - 1)) ** (TAU - 1), D) + TAU * (1 - TAU) * u * (1 + u * (D - 1)) ** (TAU - 2),
        ),
        Step(
            r"The noise starts coloured, $S_t^2 = t\, D \log D/(D-1) + O(t^2)$, and ends white.",
            sp.Matrix([sp.diff(noise_at, t).subs(t, 0) - D * sp.log(D) / (D - 1), noise_at.subs(t, 1) - 1]),
        ),
    )


def exact_variance() -> Sequence[Step]:
    """Ancestral sampling with the true reverse variance reproduces every marginal exactly."""
    late, early, a, q = _two_times()
    covariance = sp.Matrix([[early, a * early], [a * early, late]])
    gain = covariance[0, 1] / covariance[1, 1]
    variance = covariance[0, 0] - covariance[0, 1] ** 2 / covariance[1, 1]
    return (
        Step(r"$x_t = a x_s + \sqrt q\, \xi$ has variance $a^2 v_s + q = v_t$.", a**2 * early + q - late),
        Step(r"Gaussian conditioning gives the reverse variance $v_s q / v_t$.", variance - early * q / late),
        Step(r"$g^2 v_t + w = v_s$: one step maps marginal to marginal.", gain**2 * late + variance - early),
    )


def ddim() -> Sequence[Step]:
    """A DDIM step turns (A √D, S) to (B √D, R): the generated share of the variance is cos² of the angle between
    them."""
    late, early, _, _ = _two_times()
    gain = (B * A * D + R * S) / late
    angle = sp.atan(A * sp.sqrt(D) / S) - sp.atan(B * sp.sqrt(D) / R)
    cosine = (1 + A * B * D / (S * R)) / sp.sqrt((1 + A**2 * D / S**2) * (1 + B**2 * D / R**2))
    x = sp.Symbol("x")
    denoiser = A * D / late
    noise = (x - A * denoiser * x) / S
    return (
        Step(r"$x_s = A_s \hat x_0 + S_s \hat\varepsilon$ gives the gain.", B * denoiser * x + R * noise - gain * x),
        Step(
            r"$\cos(\alpha-\beta)$ of the two angles, by the addition theorem.",
            sp.expand_trig(sp.cos(angle)) - cosine,
        ),
        Step(r"$g^2 v_t / v_s = \cos^2 \Delta\theta$.", gain**2 * late / early - cosine**2),
    )


def equal_angles() -> Sequence[Step]:
    """Equal angles maximise the product of cos² (concavity), and every error falls as the product rises to 1."""
    x, y, r = sp.symbols("x y r", positive=True)
    divergence, backward = (r - 1 - sp.log(r)) / 2, (1 / r - 1 + sp.log(r)) / 2
    theta = sp.pi / 2 * TAU
    tangent = sp.tan(theta)
    gain2 = tangent**2 / (D + tangent**2)
    two = sp.cos(x) * sp.cos(y) - (sp.cos(x + y) + sp.cos(x - y)) / 2
    return (
        Step(
            r"$(\log\cos^2 x)'' = -2/\cos^2 x < 0$: concave, so Jensen applies.",
            sp.diff(sp.log(sp.cos(x) ** 2), x, 2) + 2 / sp.cos(x) ** 2,
        ),
        Step(r"For two steps: $\cos x \cos y = (\cos(x+y) + \cos(x-y))/2$, largest at $x = y$.", sp.expand_trig(two)),
        Step(
            r"KL(generated to data) falls in $r$ on $(0,1)$: derivative $-(1-r)/(2r)$.",
            sp.diff(divergence, r) + (1 - r) / (2 * r),
        ),
        Step(r"KL(data to generated) too: derivative $-(1-r)/(2r^2)$.", sp.diff(backward, r) + (1 - r) / (2 * r**2)),
        Step(r"On the equal-angle path $A^2 D/S^2 = \tan^2\theta$.", gain2 * D / (1 - gain2) - tangent**2),
    )


def euler_bures() -> Sequence[Step]:
    """On the Bures path the flow of Gaussian data is linear in t, so Euler's gain is the exact ratio."""
    t, s, r = sp.symbols("t s r", positive=True)
    signal, noise = 1 - t, t**2 + 2 * t * (1 - t) * r
    variance = signal**2 * r**2 + noise
    velocity = (2 * signal * sp.diff(signal, t) * r**2 + sp.diff(noise, t)) / (2 * variance)
    std = (1 - t) * r + t
    return (
        Step(r"The marginal standard deviation is $(1-t)\sqrt D + t$.", variance - std**2),
        Step(r"Euler's gain is $\sigma_s/\sigma_t$ exactly.", 1 + (s - t) * velocity - std.subs(t, s) / std),
    )


def euler_shortest() -> Sequence[Step]:
    """On the shortest path every Euler step has the same gain 1 + log D / (2N)."""
    t = sp.Symbol("t", real=True)
    signal = (1 - D ** (1 - t)) / (1 - D)
    variance = signal * D + 1 - signal
    gain = 1 - sp.diff(variance, t) / (2 * variance) / N
    return (
        Step(r"The gain of a step of length $1/N$ does not depend on $t$.", gain - 1 - sp.log(D) / (2 * N)),
        Step(
            r"Small steps: $2N \log(1+\ell/(2N)) \to \ell$.",
            sp.limit(2 * N * sp.log(1 + TAU / (2 * N)), N, sp.oo) - TAU,
        ),
    )


def path_divergence() -> Sequence[Step]:
    """Per step, KL(true reverse kernel, large-variance kernel) is KL of neighbouring marginals; its sum is least on
    the geodesic."""
    late, early, _, q = _two_times()
    step = sp.Symbol("delta", real=True)
    true = early * q / late
    kernels = (true / q - 1 - sp.log(true / q)) / 2
    marginals = (early / late - 1 - sp.log(early / late)) / 2
    h = (sp.exp(step) - 1 - step) / 2
    other = sp.Symbol("other", real=True)
    midpoint = (h + h.subs(step, other)) / 2 - h.subs(step, (step + other) / 2)
    square = (sp.exp(step / 2) - sp.exp(other / 2)) ** 2 / 4
    series = sp.series(N * h.subs(step, TAU / N), N, sp.oo, 2).removeO()
    return (
        Step(
            r"Same mean, variances $v_s q/v_t$ and $q$: the divergence is that of $p_s$ from $p_t$.",
            sp.expand_log(kernels - marginals, force=True),
        ),
        Step(
            r"It is $h(\delta) = (e^\delta-1-\delta)/2$, $\delta = \log(v_s/v_t)$, with $h'' = e^\delta/2 > 0$.",
            sp.diff(h, step, 2) - sp.exp(step) / 2,
        ),
        Step(
            r"Two steps: $\frac{h(x)+h(y)}{2} - h(\frac{x+y}{2}) = \frac14 (e^{x/2}-e^{y/2})^2 \geq 0$.",
            sp.expand(midpoint - square),
        ),
        Step(
            r"Equal steps: $N h(\ell/N) = \ell^2/(4N) + O(N^{-2})$; summed over frequencies $L^2/(2N)$.",
            series - TAU**2 / (4 * N),
        ),
    )


def ancestral_shortest() -> Sequence[Step]:
    """Large-variance ancestral sampling on the shortest path stays one step behind: V_k = v_{k+1}. Induction, then
    the last step."""
    v, x = sp.symbols("v x", positive=True)  # v = v_{k+1} (late); v_k = v x with x = D^(1/N)
    power_late, power_early = (v - 1) / (D - 1), (v * x - 1) / (D - 1)
    ratio2 = power_late / power_early
    q = 1 - ratio2
    gain2 = ratio2 * (v * x / v) ** 2
    behind = gain2 * (v / x) + q  # V_{k+1} = v_{k+2} = v / x
    first = gain2 * 1 + q  # from pure noise: v = 1 at t = 1, V = 1
    last_late = D / x
    power = (last_late - 1) / (D - 1)
    last = power * (D / last_late) ** 2 * (last_late / x)
    return (
        Step(r"First step from $v = V = 1$ ($A = 0$): $V = 1 = v_N$.", first.subs(v, 1) - 1),
        Step(r"If $V_{k+1} = v_{k+2}$ then $V_k = v_{k+1}$.", behind - v),
        Step(r"Noise-free last step: $V_0 = D\,A_{1/N}^2 = D\,(1-D^{1-1/N})/(1-D)$.", last - D * power),
        Step(r"With noise in the last step: $V_0 = D^{1-1/N}$.", last + (1 - power) - last_late),
        Step(
            r"$N (V_0/D - 1) \to -D \log D/(D-1)$.",
            sp.limit((sp.diff(((D * sp.exp(-TAU * sp.log(D)) - 1) / (D - 1)), TAU)), TAU, 0) + D * sp.log(D) / (D - 1),
        ),
    )


def one_curve() -> Sequence[Step]:
    """Any VP schedule's marginal depends on t only through A_t², so its Fisher length does not depend on the
    schedule."""
    t = sp.Symbol("t", real=True)
    p = sp.Symbol("p", positive=True)
    power = sp.Function("P")(t)
    variance = power * D + 1 - power
    along = sp.diff(variance, t) / variance
    inner = (sp.diff(p * D + 1 - p, p) / (p * D + 1 - p)).subs(p, power) * sp.diff(power, t)
    total = sp.integrate((D - 1) / (1 + (D - 1) * p), (p, 0, 1))
    return (
        Step(
            r"$\partial_t \log v = (\partial_p \log v)\,\dot p$ with $p = A_t^2$: lengths agree by substitution.",
            along - inner,
        ),
        Step(r"Each frequency covers $\log D$ in all.", sp.simplify(total) - sp.log(D)),
    )
