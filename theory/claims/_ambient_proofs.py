"""Sympy derivations for the claims of Ambient Diffusion Omni. Each starts from a definition; no step restates
its result."""

from collections.abc import Sequence

import sympy as sp

from theory.claims.claim import Step


def _gaussian_mean(expression: sp.Expr, *normals: sp.Symbol) -> sp.Expr:
    """Expectation over independent N(0, 1) symbols of a polynomial in them, by their moments 1, 0, 1, 0,
    3."""
    moments = {0: 1, 1: 0, 2: 1, 3: 0, 4: 3}
    polynomial = sp.Poly(sp.expand(expression), *normals)
    return sp.expand(sum(c * sp.prod([moments[k] for k in powers]) for powers, c in polynomial.terms()))


def minimiser() -> Sequence[Step]:
    """AO-L and its floor, for one coordinate; x0 enters by its posterior mean and variance given x_t
    alone."""
    kept, extra, z, e, b = sp.symbols("sigma_n rho z e b", positive=True)
    total = kept**2 + extra**2  # sigma_t^2
    alpha = sp.simplify((total - kept**2) / total)
    noise_kept, noise_all = kept * z, kept * z + extra * e
    best = sp.solve(sp.diff(_gaussian_mean((noise_kept - b * noise_all) ** 2, z, e), b), b)[0]
    rest = noise_kept - (1 - alpha) * noise_all
    steps = [
        Step(
            r"The best linear (for Gaussians: the best) predictor of $x_n-x_0$ from $x_t-x_0$ has slope "
            r"$1-\alpha$, from the normal "
            r"equation with $x_n-x_0=\sigma_n z$, $x_t-x_0=\sigma_n z+\rho e$.",
            best - (1 - alpha),
        ),
        Step(
            r"The rest $R=x_n-x_0-(1-\alpha)(x_t-x_0)$ is uncorrelated with $x_t-x_0$, hence independent of "
            r"$(x_0,x_t)$.",
            _gaussian_mean(rest * noise_all, z, e),
        ),
        Step(r"It has variance $\sigma_n^2\alpha$.", _gaussian_mean(rest**2, z, e) - kept**2 * alpha),
    ]
    h, x0, xt, m, v, r = sp.symbols("h x0 x_t m v R", real=True)
    target = x0 + (1 - alpha) * (xt - x0) + r  # x_n
    loss = sp.Poly(sp.expand((alpha * h + (1 - alpha) * xt - target) ** 2), r, x0)
    by_r, by_x0 = {0: 1, 1: 0, 2: kept**2 * alpha}, {0: 1, 1: m, 2: m**2 + v}
    mean = sum(c * by_r[i] * by_x0[j] for (i, j), c in loss.terms())
    steps += [
        Step(
            r"Given $x_t$, with $m=E[x_0|x_t]$ and $v=Var[x_0|x_t]$, the expected loss has derivative zero "
            r"in $h$ at $h=m$.",
            sp.simplify(sp.diff(mean, h).subs(h, m)),
        ),
        Step(
            r"It is strictly convex: the second derivative is $2\alpha^2$.",
            sp.simplify(sp.diff(mean, h, 2) - 2 * alpha**2),
        ),
        Step(
            r"At $h=m$, divided by $\alpha^2$, it is $v+\sigma_n^2/\alpha$: the floor, summed over "
            r"coordinates.",
            sp.simplify(mean.subs(h, m) / alpha**2 - v - kept**2 / alpha),
        ),
    ]
    return steps


def buffer() -> Sequence[Step]:
    """AO-B*: the weight equals L at the buffer and falls beyond it."""
    low, cap, sigma, more = sp.symbols("sigma_n L sigma u", positive=True)
    weight = sigma**4 / (sigma**2 - low**2) ** 2
    root = sp.symbols("q", positive=True)  # sqrt(L) = 1 + q, q > 0
    at = weight.subs(sigma, low / sp.sqrt(1 - 1 / (1 + root)))
    slope = sp.diff(weight, sigma).subs(sigma, sp.sqrt(low**2 + more))
    return [
        Step(
            r"At $\sigma=\sigma_n/\sqrt{1-1/\sqrt L}$ the weight is $L$ (write $\sqrt L=1+q$).",
            sp.simplify(at - (1 + root) ** 2),
        ),
        Step(
            r"The weight falls with $\sigma$: its derivative at $\sigma^2=\sigma_n^2+u$, $u>0$, is negative.",
            sp.simplify(slope).is_negative,
        ),
        Step(
            r"The printed $\sqrt2\,\sigma_n$ at $L=2$ gives the weight "
            r"4.",
            weight.subs(sigma, sp.sqrt(2) * low) - 4,
        ),
        Step(
            r"The printed $(2/\sqrt3)\sigma_n$ at $L=4$ gives the weight 16.",
            weight.subs(sigma, 2 / sp.sqrt(3) * low) - 16,
        ),
        Step(
            r"Both follow from $\sigma_n/\sqrt{1-1/L}$, where the weight is $L^2$: a square root was lost.",
            sp.simplify(weight.subs(sigma, low / sp.sqrt(1 - 1 / (1 + cap))) - (1 + cap) ** 2),
        ),
    ]


def two_points() -> Sequence[Step]:
    """F-AO-FACT3*: the half of the line where p > q, integrated."""
    x = sp.symbols("x", real=True)
    distance, sigma = sp.symbols("D sigma", positive=True)
    density = sp.exp(-(x**2) / (2 * sigma**2)) / (sp.sqrt(2 * sp.pi) * sigma)
    crossing = sp.solve((x - distance) ** 2 - x**2, x)[0]
    mass = sp.integrate(density, (x, -sp.oo, crossing)) - sp.integrate(density, (x, -sp.oo, crossing - distance))
    u = sp.symbols("u", positive=True)
    tangent = 2 * u / sp.sqrt(sp.pi) - sp.erf(u)
    return [
        Step(
            r"The two densities cross at $D/2$ along the line that joins the "
            r"points.",
            crossing - distance / 2,
        ),
        Step(
            r"There $P(x<D/2)-Q(x<D/2)=\mathrm{erf}(D/(2\sqrt2\sigma))$; the other coordinates integrate to "
            r"one.",
            sp.simplify(mass.rewrite(sp.erf).doit() - sp.erf(distance / (2 * sp.sqrt(2) * sigma))),
        ),
        Step(
            r"$\mathrm{erf}(u)\le 2u/\sqrt\pi$: equal at 0, and the difference has slope "
            r"$(2/\sqrt\pi)(1-e^{-u^2})\ge0$.",
            sp.simplify(sp.diff(tangent, u) - 2 / sp.sqrt(sp.pi) * (1 - sp.exp(-(u**2)))),
        ),
        Step(
            r"With $u=D/(2\sqrt2\sigma)$ the tangent is $D/(\sqrt{2\pi}\sigma)$, below the printed "
            r"$D/(2\sigma)$ as $\sqrt{2\pi}>2$.",
            sp.simplify(
                (2 * u / sp.sqrt(sp.pi)).subs(u, distance / (2 * sp.sqrt(2) * sigma))
                - distance / (sp.sqrt(2 * sp.pi) * sigma)
            ),
        ),
        Step(r"$\sqrt{2\pi}>2$.", sp.sqrt(2 * sp.pi) > 2),
    ]


def density_bounds() -> Sequence[Step]:
    """AO-T1*: both bounds, and how they imply AO-T1 with the constant 1."""
    x = sp.symbols("x", real=True)
    sigma, logs = sp.symbols("sigma L", nonnegative=True)
    sigma = sp.symbols("sigma", positive=True)
    kernel = sp.exp(-(x**2) / (2 * sigma**2)) / (sp.sqrt(2 * sp.pi) * sigma)
    half = sp.Rational(1, 2)
    shift, share, n, delta, excess_w1 = sp.symbols("D F n delta epsilon", positive=True)
    slope = sp.limit(sp.erf(shift / (2 * sp.sqrt(2) * sigma)) / shift, shift, 0)
    tail = sp.exp(-2 * excess_w1**2 / (n * (1 / n) ** 2))  # McDiarmid: one point moves W1 by at most 1/n
    found = sp.solve(sp.Eq(tail, delta), excess_w1)
    excess = (half + sp.sqrt(logs / 2)) ** 2 - (2 * half**2 + 2 * logs / 2)
    return [
        Step(
            r"$TV(N(x),N(y))\le|x-y|/(\sqrt{2\pi}\sigma)$: the slope at 0 of the concave error function "
            r"(F-AO-FACT3*). So $TV\le W_1/(\sqrt{2\pi}\sigma)$.",
            sp.simplify(slope - 1 / (sp.sqrt(2 * sp.pi) * sigma)),
        ),
        Step(
            r"$E W_1=\int E|\hat F-F|\le\int_0^1\sqrt{F(1-F)/n}\,dx\le1/(2\sqrt n)$: $1/4-F(1-F)$ is a square.",
            sp.expand(sp.Rational(1, 4) - share * (1 - share) - (share - half) ** 2),
        ),
        Step(
            r"McDiarmid, steps of $1/n$: $W_1$ exceeds its mean by $\sqrt{\log(1/\delta)/(2n)}$ with probability at "
            r"most $\delta$; so does $TV$, times its own step, $\mathrm{erf}(1/(2\sqrt2\sigma))/n$.",
            sp.simplify(sp.expand_log(found[-1] ** 2 - sp.log(1 / delta) / (2 * n), force=True)),
        ),
        Step(
            r"$\int k^2=1/(2\sqrt\pi\sigma)$: inside $[0,1]$, by Jensen, $\int\sqrt{E "
            r"k^2}\le(2\sqrt\pi\sigma)^{-1/2}$.",
            sp.simplify(sp.integrate(kernel**2, (x, -sp.oo, sp.oo)) - 1 / (2 * sp.sqrt(sp.pi) * sigma)),
        ),
        Step(
            r"Outside, $\sqrt{E k^2}\le k(\text{distance})$, and both sides together integrate to 1.",
            sp.simplify(2 * sp.integrate(kernel, (x, 0, sp.oo)) - 1),
        ),
        Step(
            r"$(1/2+\sqrt{\ell/2})^2\le 1/2+\ell$ with $\ell=\log(1/\delta)$: the difference is minus a "
            r"square.",
            sp.simplify(excess + (half - sp.sqrt(logs / 2)) ** 2),
        ),
        Step(
            r"So the bound by $W_1$ squared is at most "
            r"$(1/2+\ell)/(2\pi\sigma^2n)\le(\log2+\ell)/(\sigma^2n)$: the printed root alone.",
            sp.And(half / (2 * sp.pi) < sp.log(2), 1 / (2 * sp.pi) < 1),
        ),
    ]


def large_noise() -> Sequence[Step]:
    """AO-C1*: the constants of the large-noise expansion."""
    x = sp.symbols("x", real=True)
    sigma = sp.symbols("sigma", positive=True)
    kernel = sp.exp(-(x**2) / (2 * sigma**2)) / (sp.sqrt(2 * sp.pi) * sigma)
    first, second = sp.diff(kernel, x), sp.diff(kernel, x, 2)
    bend = next(root for root in sp.solve(second, x) if root.is_positive)  # where k'' changes sign
    norm_first = 2 * (kernel.subs(x, 0) - sp.limit(kernel, x, sp.oo))
    norm_second = 2 * (first.subs(x, 0) - 2 * first.subs(x, bend) + sp.limit(first, x, sp.oo))
    phi = sp.exp(-sp.Rational(1, 2)) / sp.sqrt(2 * sp.pi)
    limit = sp.symbols("g", positive=True)
    gap = limit / (sp.sqrt(2 * sp.pi) * sigma) - phi / sigma**2
    return [
        Step(r"$\int|k'|=2/(\sqrt{2\pi}\sigma)$.", sp.simplify(norm_first - 2 / (sp.sqrt(2 * sp.pi) * sigma))),
        Step(
            r"$\int|k''|=4\varphi(1)/\sigma^2$ ($k''$ changes sign at $\sigma$).",
            sp.simplify(norm_second - 4 * phi / sigma**2),
        ),
        Step(
            r"Taylor's remainder about $1/2$ has $L^1$ norm at most $(1/2)^2/2\int|k''|$; two laws, halved: "
            r"$\varphi(1)/(2\sigma^2)$.",
            sp.simplify(sp.Rational(1, 2) * 2 * sp.Rational(1, 4) / 2 * norm_second - phi / (2 * sigma**2)),
        ),
        Step(
            r"Two distances: $|gain-g/(\sqrt{2\pi}\sigma)|\le\varphi(1)/\sigma^2$, which is below the "
            r"leading term beyond $e^{-1/2}/g$.",
            sp.simplify(gap.subs(sigma, sp.exp(-sp.Rational(1, 2)) / limit)),
        ),
    ]


def classifier() -> Sequence[Step]:
    """AO-K*: pointwise identities, then integration with total masses 1."""
    p, q = sp.symbols("p q", positive=True)
    z = sp.symbols("z")
    pointwise = p * q / (p + q) - (p + q) / 4 + (p - q) ** 2 / (4 * (p + q))
    odds = (p - z * (p + q)) ** 2
    average = sp.expand((p * (1 - z) ** 2 + q * z**2) - (p + q) * (z - p / (p + q)) ** 2 - p * q / (p + q))
    return [
        Step(
            r"The classifier that minimises $E_p(1-c)^2+E_q c^2$ is $c=p/(p+q)$: the loss minus its least "
            r"value is a square.",
            sp.simplify(average),
        ),
        Step(
            r"$q\,p/(p+q)=(p+q)/4-(p-q)^2/(4(p+q))$; integrated, $E_q c=1/2-\Delta/4$.",
            sp.simplify(pointwise),
        ),
        Step(
            r"$(p-q)^2/(p+q)\le|p-q|$: the difference is $2\min(p,q)|p-q|/(p+q)$ (here for $p=q+z$, $z>0$), "
            r"so $\Delta\le2TV$.",
            sp.simplify((z - z**2 / (2 * q + z)) - 2 * q * z / (2 * q + z)),
        ),
        Step(
            r"For every $\lambda$, $0\le\int(|p-q|-\lambda(p+q))^2/(p+q)=\Delta-4\lambda TV+2\lambda^2$; "
            r"its least value, at "
            r"$\lambda=TV$, gives $\Delta\ge2TV^2$.",
            sp.simplify(odds.subs(z, p / (p + q)) + _least_of_square()),
        ),
    ]


def _least_of_square() -> sp.Expr:
    """Minimum over lambda of Delta − 4 lambda TV + 2 lambda², minus (Delta − 2 TV²)."""
    delta, tv, factor = sp.symbols("Delta TV lambda", real=True)
    square = delta - 4 * factor * tv + 2 * factor**2
    at = sp.solve(sp.diff(square, factor), factor)[0]
    return sp.expand(square.subs(factor, at) - (delta - 2 * tv**2))
