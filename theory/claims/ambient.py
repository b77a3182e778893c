"""Claims of Ambient Diffusion Omni (AO), as printed and, where that fails, as corrected.

Notation: x_t = x_0 + sigma_t z, P_s = P * N(0, s^2 I), TV = total variation, hat p = empirical measure of n
draws of p.
"""

from theory.claims import _ambient_checks as checks
from theory.claims import _ambient_proofs as proofs
from theory.claims.claim import DIMENSIONS, Choices, Claim, Domain, Integers, Parameter, Reals, Seeds

_PRIOR: dict[str, Parameter] = {"k": Choices((1, 2, 3, 5)), "spread": Reals(0.1, 1.0), "seed": Seeds()}
_LAWS: dict[str, Parameter] = {"k": Choices((2, 3, 5)), "seed": Seeds()}
_PAIR: dict[str, Parameter] = {**_PRIOR, "sigma": Reals(0.2, 3.0, log=True), "shift": Reals(0.0, 2.0)}
_CROSSOVER: dict[str, Parameter] = {
    "n_clean": Integers(1, 50, log=True),
    "n_biased": Integers(1, 200, log=True),
    "a": Reals(0.1, 0.9),
    "b": Reals(0.0, 1.0),
}
_N = Integers(2, 10_000, log=True)
_DELTA = Reals(0.001, 0.5, log=True)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="AO-L",
        title="the ambient loss is minimised by the clean posterior mean",
        printed="AO, eq. 2.2 and section 2",
        statement=(
            r"With $x_n=x_0+\sigma_n z$ kept, $x_t=x_n+\sqrt{\sigma_t^2-\sigma_n^2}\,\epsilon$ and "
            r"$\alpha=(\sigma_t^2-\sigma_n^2)/\sigma_t^2$, the minimiser of "
            r"$E\|\alpha h(x_t)+(1-\alpha)x_t-x_n\|^2$ is $h(x_t)=E[x_0|x_t]$, for any law of $x_0$."
        ),
        kind="identity",
        domain=Domain(
            {**_PRIOR, "sigma_min": Reals(0.05, 5.0, log=True), "ratio": Reals(1.05, 10.0)}, condition="d = 1, mixtures"
        ),
        check=checks.minimiser,
        method=("quadrature of E[x_n | x_t] over the kept points, against the closed-form posterior mean of x_0"),
        expected="proved",
        proof=proofs.minimiser,
        proof_scope=(
            "any law of x_0 with a second moment, any d (coordinate by coordinate): Gaussian "
            "increments independent of x_0"
        ),
        remark=(
            "The condition is E[x_t - x_n given x_0, x_t] = alpha (x_t - x_0), true of independent Gaussian "
            "increments. If the kept "
            "points come from a degraded law q_0, the same theorem with q_0 in place of p_0 says that the "
            "minimiser is "
            "E_q[x_0 given x_t]: the loss removes the added noise, not the degradation."
        ),
    ),
    Claim(
        id="F-AMBIENT-FLOOR",
        title="the weighted ambient loss has the floor mmse + sigma_n^2 d / alpha",
        printed="found here: what a training curve can reach",
        statement=(
            r"The least value of $E\|\alpha h(x_t)+(1-\alpha)x_t-x_n\|^2/\alpha^2$ is "
            r"$E\|x_0-E[x_0|x_t]\|^2+\sigma_n^2 d/\alpha$."
        ),
        kind="identity",
        domain=Domain(
            {**_LAWS, "sigma": Reals(0.75, 5.0), "share": Reals(0.05, 0.95)}, condition="d = 1, atoms in [-1, 1]"
        ),
        check=checks.floor,
        method="the loss summed over x_0, z_n and eps by the trapezoid rule; the mmse by quadrature over x_t",
        expected="proved",
        proof=proofs.minimiser,
        proof_scope="any law of x_0 with a second moment, any d (coordinate by coordinate)",
    ),
    Claim(
        id="F-AMBIENT-DEGRADED",
        title="kept points of a degraded law teach that law's posterior mean",
        printed="found here; AO-L where the kept points come from q_0",
        statement=(
            r"If $x_n=y_0+\sigma_n z$ with $y_0\sim q_0$, the minimiser is $E_q[x_0|x_t]$; any other $h$, the clean "
            r"$E_p[x_0|x_t]$ among them, has a weighted loss larger by $E_q\|h-E_q[x_0|x_t]\|^2$: the loss removes "
            r"the noise, not the degradation."
        ),
        kind="identity",
        domain=Domain(
            {**_LAWS, "sigma": Reals(0.75, 5.0), "share": Reals(0.05, 0.95)}, condition="d = 1, atoms in [-1, 1]"
        ),
        check=checks.degraded,
        method="the loss of both means summed over y_0, z_n and eps; their distance by quadrature over x_t",
        expected="proved",
        proof=proofs.minimiser,
        proof_scope="any law of y_0 with a second moment, any d (coordinate by coordinate): AO-L's, with q_0 for p_0",
    ),
    Claim(
        id="AO-B",
        title="printed buffers: sqrt 2 at weight 2, 2 / sqrt 3 at weight 4",
        printed="AO, section 2 (the numbers)",
        statement=(
            r"The weight $\sigma^4/(\sigma^2-\sigma_n^2)^2$ is at most 2 from $\sqrt2\,\sigma_n$ on, and at "
            r"most 4 from "
            r"$(2/\sqrt3)\,\sigma_n$ on, and at no smaller $\sigma$."
        ),
        kind="identity",
        domain=Domain({"max_weight": Choices((2.0, 4.0))}),
        check=checks.buffer_as_printed,
        method="root of weight = cap, by bracketing",
        expected="fails",
        corrected_by="AO-B*",
        remark=("The numbers follow from 1 / sqrt(1 - 1/L), one square root short of the formula printed beside them."),
    ),
    Claim(
        id="AO-B*",
        title="the buffer formula is right: 1.848 at weight 2, sqrt 2 at weight 4",
        printed="AO, section 2 (the formula)",
        statement=(
            r"$\sigma^4/(\sigma^2-\sigma_n^2)^2\le L$ exactly for $\sigma\ge\sigma_n/\sqrt{1-1/\sqrt L}$, "
            r"for $L>1$: "
            r"$1.848\,\sigma_n$ at $L=2$ and $\sqrt2\,\sigma_n$ at $L=4$."
        ),
        kind="identity",
        domain=Domain(
            {
                "max_weight": Reals(1.01, 100.0, log=True),
                "sigma_min": Reals(0.01, 100.0, log=True),
                "more": Reals(0.0, 3.0),
            }
        ),
        check=checks.buffer,
        method="root of weight = cap, by bracketing; the gate's weight beyond it",
        expected="proved",
        proof=proofs.buffer,
        proof_scope="all sigma_n > 0, L > 1",
    ),
    Claim(
        id="AO-T1",
        title="smoothed empirical measures approach the truth: the printed rate",
        printed="AO, Theorem 4.1",
        statement=(
            r"For a $\lambda$-Lipschitz density on $[0,1]$, with probability $1-\delta$, $TV(p_s,\hat "
            r"p_s)\le C\,[1/n+1/(s^2n)+"
            r"\sqrt{(\log n+\log\max(1,\lambda)+\log(2/\delta))/(s^2n)}]$; read here with $C=1$."
        ),
        kind="expectation",
        domain=Domain(
            {
                "n": Choices((50, 200, 1000)),
                "shape": Choices(("flat", "ramp", "steep")),
                "sigma": Reals(0.1, 3.0, log=True),
                "delta": Reals(0.05, 0.5),
                "seed": Seeds(),
            },
            lambda case: checks.printed_bound(case) < 1,
            "the bound is below 1, so that it says something",
        ),
        check=checks.exceedance,
        method="share of 400 simulated training sets beyond the bound, by the exact binomial tail",
        expected="verified",
        remark=(
            "AO-T1* implies it with C = 1, by its root term alone. The claim is true, its printed proof has "
            "a gap (AO-T1-PROOF), and neither the Lipschitz constant, nor log n, nor the terms "
            "in 1/n are needed (AO-T1*)."
        ),
        cases=24,
    ),
    Claim(
        id="AO-T1-PROOF",
        title="the proof's total variation is an integral over [0, 1]",
        printed="AO, proof of Theorem 4.1",
        statement=r"$TV(p_s,\hat p_s)=\frac12\int_0^1|p_s-\hat p_s|\,dx$ for data on $[0,1]$.",
        kind="identity",
        domain=Domain({"n": Integers(1, 50), "sigma": Reals(0.2, 2.0), "seed": Seeds()}),
        check=checks.integral_over_unit_interval,
        method="the whole distance from the roots of the difference; the part by quadrature over [0, 1]",
        expected="fails",
        corrected_by="AO-T1*",
        remark="Noise carries mass out of [0, 1]; at n = 50, s = 0.5 most of the distance lies outside.",
    ),
    Claim(
        id="AO-T1*",
        title="two bounds with explicit constants, for any law on [0, 1]",
        printed="found here",
        statement=(
            r"For any law on $[0,1]$, with probability $1-\delta$ each: "
            r"$TV(p_s,\hat p_s)\le[\frac12+\sqrt{\log(1/\delta)/2}]/(\sqrt{2\pi}s\sqrt n)$ and "
            r"$TV(p_s,\hat p_s)\le(1+(2\sqrt\pi s)^{-1/2})/(2\sqrt "
            r"n)+\mathrm{erf}(1/(2\sqrt2s))\sqrt{\log(1/\delta)/(2n)}$; "
            r"without the terms in $\delta$ they bound the mean."
        ),
        kind="inequality",
        domain=Domain(
            {
                "n": Integers(1, 10_000, log=True),
                "sigma": Reals(0.01, 10.0, log=True),
                "delta": _DELTA,
                "a": Reals(0.0, 1.0),
            }
        ),
        check=checks.density_bounds,
        method=(
            "exact binomial sums for two-point laws (probability to exceed, and mean), distances by direct integration"
        ),
        expected="proved",
        proof=proofs.density_bounds,
        proof_scope=(
            "every law on [0, 1], n, s and delta; McDiarmid's, Jensen's inequality and W_1 = int |F - G| taken as known"
        ),
        remark="The attack is on two-point laws. The last steps show how it implies AO-T1 with the constant 1.",
    ),
    Claim(
        id="F-AO-T1-ANYDIM",
        title="the 1-D rate holds in any dimension",
        printed="AO, after Theorem 4.1: 'easily extends to any dimension'",
        statement=(
            r"For uniform data on $[0,1]^d$ the bound of AO-T1 (with $C=1$, $\lambda=1$, $\delta=0.01$) "
            r"holds for every $d$."
        ),
        kind="inequality",
        domain=Domain({"d": Choices((1, 2, 8, 64, 1024, 8192)), "n": _N, "sigma": Reals(0.1, 2.0, log=True)}),
        check=checks.any_dimension_as_printed,
        method=(
            "a lower bound on E TV: balls about the samples, chi-square mass inside, Markov's inequality for the truth"
        ),
        expected="fails",
        corrected_by="F-AO-T1-ANYDIM*",
    ),
    Claim(
        id="F-AO-T1-ANYDIM*",
        title="in d dimensions the constant grows exponentially",
        printed="found here",
        statement=(
            r"For any law on $[0,1]^d$, $E\,TV(p_s,\hat p_s)\le(1+(2\sqrt\pi s)^{-1/2})^d/(2\sqrt n)$; and "
            r"for uniform data "
            r"$E\,TV\to1$ as $d\to\infty$, at every $n$ and $s$."
        ),
        kind="inequality",
        domain=Domain(
            {"d": Choices((1, 2, 3, 8, 64, 1024)), "n": _N, "sigma": Reals(0.1, 10.0, log=True), "a": Reals(0.0, 1.0)}
        ),
        check=checks.any_dimension,
        method="two corners of the cube by exact binomial sums; the lower bound for uniform data",
        expected="verified",
        remark=(
            "That some growth with d is needed is shown by the lower bound; that the base is sharp is not claimed."
        ),
    ),
    Claim(
        id="AO-T2",
        title="noise contracts total variation",
        printed="AO, Theorem 4.2",
        statement=r"For $P,Q$ on a set of diameter $D$: $TV(P_s,Q_s)\le TV(P,Q)\,D/(2s)$.",
        kind="inequality",
        domain=Domain({**_LAWS, "sigma": Reals(0.02, 10.0, log=True)}, condition="atoms in [0, 1], D = 1"),
        check=checks.contraction_as_printed,
        method="exact distance on the line, from the roots of the difference of the densities",
        expected="verified",
        remark="Implied by AO-T2*, as erf(u) <= 2u / sqrt(pi); never tight, and above 1 for small s.",
    ),
    Claim(
        id="AO-T2*",
        title="the sharp contraction, attained by two points",
        printed="sharpens AO, Theorem 4.2",
        statement=(
            r"For $P,Q$ on a set of diameter $D$: $TV(P_s,Q_s)\le TV(P,Q)\,\mathrm{erf}(D/(2\sqrt2s))$, "
            r"with equality for laws on two "
            r"points at distance $D$."
        ),
        kind="inequality",
        domain=Domain({**_LAWS, "sigma": Reals(0.02, 10.0, log=True)}, condition="atoms in [0, 1], D = 1"),
        check=checks.contraction,
        method="exact distance on the line; attainment by direct integration of |p - q|",
        expected="verified",
        remark=(
            "Couple P and Q so that X differs from Y with probability TV(P, Q), then F-AO-FACT3*; this "
            "holds in any dimension."
        ),
    ),
    Claim(
        id="F-AO-FACT3",
        title="distance of two shifted Gaussians, with an equals sign",
        printed="AO, Fact 3 (used in Theorem 4.2)",
        statement=r"$TV(N(x,s^2I),N(y,s^2I))=\|x-y\|/(2s)$.",
        kind="identity",
        domain=Domain({"distance": Reals(0.1, 10.0), "sigma": Reals(0.1, 10.0)}),
        check=checks.two_points_as_printed,
        method="direct integration of |p - q|",
        expected="fails",
        corrected_by="F-AO-FACT3*",
        remark="True with <= in place of =; the right side exceeds 1 for s below half the distance.",
    ),
    Claim(
        id="F-AO-FACT3*",
        title="distance of two shifted Gaussians",
        printed="textbook; corrects AO, Fact 3",
        statement=(
            r"$TV(N(x,s^2I),N(y,s^2I))=\mathrm{erf}(\|x-y\|/(2\sqrt2s))\le\|x-y\|/(\sqrt{2\pi}s)"
            r"\le\|x-y\|/(2s)$, in any $d$."
        ),
        kind="identity",
        domain=Domain(
            {
                "d": DIMENSIONS,
                "distance": Reals(0.001, 20.0, log=True),
                "sigma": Reals(0.1, 10.0, log=True),
                "seed": Seeds(),
            }
        ),
        check=checks.two_points,
        method="direct integration of |p - q| along the joining line",
        expected="proved",
        proof=proofs.two_points,
        proof_scope="all distances and s > 0; d = 1, other coordinates factor out",
    ),
    Claim(
        id="AO-C1",
        title="above some noise level biased samples always help",
        printed="AO, section 4, after Theorems 4.1 and 4.2",
        statement=(
            r"For all laws $p,q$ on $[0,1]$ and $n_1,n_2\ge1$ there is a crossover $s^*$: for $s\ge s^*$, "
            r"$n_1$ samples of $p$ with $n_2$ "
            r"of $q$ come closer to $p_s$ on average than the $n_1$ alone. Read on two-point laws, where "
            r"the gain has one sign at every $s$."
        ),
        kind="ordering",
        domain=Domain({**_CROSSOVER, "sigma": Choices((10.0, 1.0))}, condition="P(1) = a, Q(1) = b on {0, 1}"),
        check=checks.crossover_as_printed,
        method="exact binomial sums",
        expected="fails",
        corrected_by="AO-C1*",
        remark=(
            "True of the two upper bounds as printed (crossover_of_bounds): there the term 1/n does not "
            "vanish at high noise while the "
            "bias does. False of the distances: both fall like 1/s, so a shifted mean can outweigh more "
            "samples at every s."
        ),
    ),
    Claim(
        id="AO-C1*",
        title="at high noise the means decide",
        printed="found here",
        statement=(
            r"On $[0,1]$, $|TV(P_s,Q_s)-|m_P-m_Q|/(\sqrt{2\pi}s)|\le e^{-1/2}/(2\sqrt{2\pi}s^2)$. So with "
            r"$g=E|\bar x_{clean}-m_p|-E|\bar x_{all}-m_p|$ the gain from biased samples tends to "
            r"$g/(\sqrt{2\pi}s)$, and has the sign of $g$ "
            r"for all $s>e^{-1/2}/|g|$: a crossover exists if $g>0$, and none if $g<0$."
        ),
        kind="inequality",
        domain=Domain(
            {
                **_LAWS,
                "sigma": Reals(0.1, 100.0, log=True),
                "n_clean": Choices((1, 2)),
                "n_biased": Choices((1, 2)),
                "beyond": Reals(0.0, 10.0),
            },
            condition="atoms in [0, 1]; the gain's sign at s = (1 + beyond) e^(-1/2) / |g|",
        ),
        check=checks.crossover_certificate,
        method=(
            "exact distances on the line, from the roots of the difference of the densities; the gain and g by "
            "enumeration of all samples"
        ),
        expected="proved",
        proof=proofs.large_noise,
        proof_scope="all laws on [0, 1]: Taylor's theorem for the kernel in L1, constants integrated",
        remark=(
            "The second sentence is the first applied twice, with P = p. Equal means give g > 0 whenever "
            "the pooled mean is the more "
            "certain one; on two-point laws the gain is g erf(1 / (2 sqrt 2 s)) exactly (AO-C1)."
        ),
    ),
    Claim(
        id="AO-K",
        title="the ideal classifier passes 1/2 - epsilon where TV = epsilon",
        printed="AO, section 3",
        statement=(
            r"The mean probability of 'clean' that the ideal classifier gives to corrupted images reaches "
            r"$1/2-\epsilon$ exactly when "
            r"$TV(p_s,q_s)\le\epsilon$."
        ),
        kind="identity",
        domain=Domain(_PAIR, condition="1-D mixtures"),
        check=checks.classifier_as_printed,
        method="direct integral of q p / (p + q); TV from the roots of p - q",
        expected="fails",
        corrected_by="AO-K*",
        remark="At tau = 0.45 the classifier's mark lies where TV is between 0.1 and 0.316, not at 0.05.",
    ),
    Claim(
        id="AO-K*",
        title="what the ideal classifier marks",
        printed="found here",
        statement=(
            r"$E_q c=\frac12-\Delta/4$ with $\Delta=\int(p-q)^2/(p+q)$, and $2TV^2\le\Delta\le2TV$; so the "
            r"mark $E_q c\ge\frac12-\epsilon$ means "
            r"$\Delta\le4\epsilon$."
        ),
        kind="identity",
        domain=Domain(_PAIR, condition="1-D mixtures"),
        check=checks.classifier,
        method="Gauss-Legendre integral of q p / (p + q) through logarithms",
        expected="proved",
        proof=proofs.classifier,
        proof_scope="all pairs of densities: pointwise identities and a nonnegative square, integrated",
    ),
    Claim(
        id="F-AO-K-TV",
        title="the classifier's divergence lies between 2 TV^2 and 2 TV",
        printed="found here",
        statement=r"$2TV^2\le\Delta\le2TV$.",
        kind="inequality",
        domain=Domain(_PAIR, condition="1-D mixtures"),
        check=checks.classifier_against_tv,
        method="TV from the roots of p - q, Delta by summation",
        expected="proved",
        proof=proofs.classifier,
        proof_scope="all pairs of densities",
    ),
    Claim(
        id="F-AO-K-GAUSS",
        title="the ideal classifier on Gaussian images, without sampling",
        printed="found here: sigma_min for a stated blur",
        statement=(
            r"For $p=N(0,diag(a))$, $q=N(0,diag(b))$ and $\Phi(t)=\int p^{1/2+it}q^{1/2-it}$: $E_q "
            r"c=\int\Phi(t)/(2\cosh\pi t)\,dt$ and "
            r"$1-TV=\frac1{2\pi}\int\Phi(t)/(1/4+t^2)\,dt$."
        ),
        kind="expectation",
        domain=Domain({"d": Choices((2, 3, 8, 64)), "strength": Reals(0.1, 4.0), "seed": Seeds()}),
        check=checks.gaussian_images,
        method="log-likelihood ratios of 20000 simulated images",
        expected="verified",
        cases=24,
    ),
)
