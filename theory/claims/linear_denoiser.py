"""Claims on the linear denoiser (Chen et al. 2024, section 4, appendix A: lemmas 1 to 4), printed and corrected."""

from theory.claims import _generation_checks as generation
from theory.claims import _linear_checks as checks
from theory.claims import _linear_proofs as proofs
from theory.claims._linear_cases import MOMENTS, NOISE, TIME
from theory.claims.claim import Choices, Claim, Domain, Reals

_LEAST_SQUARES = "least squares (LAPACK, QR) on the square-root design of the expanded quadratic loss"
_FLOW = "integration of the reverse flow, eighth-order Runge-Kutta, with the optimal denoiser"
_PAPER = "Chen et al. 2024, arXiv:2405.20494"
_AT_TIME = Domain({**MOMENTS, "time": TIME})
_NOISY_AT_TIME = Domain({**MOMENTS, **NOISE, "time": TIME})
_ONE_HOT_AT_TIME = Domain({**MOMENTS, "noise_std": Reals(0.0, 10.0), "time": TIME})

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="SC-L1",
        title="The clean optimal linear denoiser",
        printed=f"{_PAPER}, lemma 1 (appendix A)",
        statement=r"$W = \sigma(\sigma^2 I + r^2 S)^{-1}$ and $V c = -r W m$ minimise the loss; the score is "
        r"$-\hat\epsilon/\sigma$.",
        kind="identity",
        domain=_AT_TIME,
        check=checks.check_score,
        method=_LEAST_SQUARES + "; the score by automatic differentiation of the log-density",
        expected="proved",
        proof=proofs.clean_optimum,
        proof_scope="d = 1 and 2, any S, m, r, sigma: the loss as a completed square",
    ),
    Claim(
        id="SC-L2",
        title="The corrupted optimum: S plus a multiple of the identity?",
        printed=f"{_PAPER}, lemma 2 (appendix A)",
        statement=(
            r"Under code noise $\gamma$ the optimum is that of lemma 1 with $S + "
            r"\frac{\gamma^2}{1+\gamma^2}|m|^2 I$ in the place of $S$ and "
            r"$m/(1+\gamma^2)$ in that of $m$: its loss is the least one."
        ),
        kind="inequality",
        domain=_ONE_HOT_AT_TIME,
        check=checks.check_printed_optimum,
        method="the loss at the printed W, V against the least one by " + _LEAST_SQUARES,
        expected="fails",
        corrected_by="SC-L2*",
        remark="True for $d = 1$, for $m = 0$ and for $\\gamma = 0$. The normal equations leave $m m^T - m "
        "m^T/(1+\\gamma^2)$, of rank one.",
    ),
    Claim(
        id="SC-L2*",
        title="The corrupted optimum: S plus a rank-one term",
        printed=f"corrects {_PAPER}, lemma 2",
        statement=(
            r"With $s = \gamma^2/(|c|^2+\gamma^2)$ for a code $c$ of any norm, the optimum is $W = \sigma A^{-1}$, "
            r"$A = \sigma^2 I + r^2 (S + s\, m m^T)$, $V c = -r (1-s) W m$."
        ),
        kind="identity",
        domain=_NOISY_AT_TIME,
        check=checks.check_optimum,
        method=_LEAST_SQUARES,
        expected="proved",
        proof=proofs.corrupted_optimum,
        proof_scope="d = 1 with a code of dimension 2, d = 2 with one of dimension 1; any S, m, r, sigma, noise "
        "and norm",
    ),
    Claim(
        id="F-LOSS",
        title="The minimum loss",
        printed="found by substituting the optimum",
        statement=r"The least loss is $d - \sigma^2\,\mathrm{tr} A^{-1}$.",
        kind="identity",
        domain=_NOISY_AT_TIME,
        check=checks.check_loss,
        method="the residual of " + _LEAST_SQUARES,
        expected="proved",
        proof=proofs.minimum_loss,
        proof_scope="d = 1 and 2, S diagonal, one-hot code",
    ),
    Claim(
        id="F-SHARED",
        title="W and V shared by all classes",
        printed="found from the normal equations of the averaged loss",
        statement=(
            r"For orthonormal codes and class weights $w_k$ the optimum is $W = \sigma(\sigma^2 I + r^2 S_c)^{-1}$, "
            r"$S_c = \sum_k w_k S_k + \sum_k \frac{w_k\gamma^2}{w_k+\gamma^2} m_k m_k^T$."
        ),
        kind="identity",
        domain=Domain({**_ONE_HOT_AT_TIME.parameters, "classes": Choices((2, 3, 4))}),
        check=checks.check_shared,
        method=_LEAST_SQUARES + ", all classes at once; random orthonormal codes",
        expected="proved",
        proof=proofs.shared_optimum,
        proof_scope="two classes, d = 1 and 2 (S_k diagonal), any weights",
    ),
    Claim(
        id="SC-L3",
        title="Clean generation",
        printed=f"{_PAPER}, lemma 3 (appendix A)",
        statement=(
            r"As $T\to\infty$, $z_T \sim N(m, S)$. At finite $T$, in the eigenbasis of $S$, the variance is "
            r"$\lambda/(1+(\lambda-1)e^{-2T})$ and the mean $m$ times $1 - \sqrt\lambda\, "
            r"e^{-T}/\sqrt{1+(\lambda-1)e^{-2T}}$."
        ),
        kind="identity",
        domain=Domain({**MOMENTS, "horizon": TIME}),
        check=generation.check_generation,
        method=_FLOW,
        expected="proved",
        proof=proofs.generation,
        proof_scope="any d, eigenmode by eigenmode (S positive definite)",
        remark=r"The printed aside $1 \geq \lambda_1$ is false (the largest eigenvalue of a sample covariance "
        r"may exceed 1) and is not used.",
    ),
    Claim(
        id="SC-L4",
        title="Corrupted generation: a Gaussian widened in every direction?",
        printed=f"{_PAPER}, lemma 4 (appendix A)",
        statement=(
            r"As $T\to\infty$, $z_T \sim N(m/(1+\gamma^2), S + \frac{\gamma^2}{1+\gamma^2}|m|^2 I)$; at "
            r"finite $T$ as in lemma 3 with "
            r"$\lambda + \frac{\gamma^2}{1+\gamma^2}|m|^2$ in the place of $\lambda$."
        ),
        kind="identity",
        domain=Domain({**MOMENTS, "noise_std": Reals(0.0, 10.0), "horizon": TIME}),
        check=generation.check_printed_generation,
        method="the printed covariance against " + _FLOW,
        expected="fails",
        corrected_by="SC-L4*",
        remark="True for $d = 1$. For $d \\geq 2$ it inherits lemma 2's term: the variance grows along $m$ only.",
    ),
    Claim(
        id="SC-L4*",
        title="Corrupted generation: a Gaussian widened along the mean",
        printed=f"corrects {_PAPER}, lemma 4",
        statement=(
            r"With $S_c = S + s\,m m^T$: $\mathrm{Cov} = S_c(I + (S_c - I)e^{-2T})^{-1}$, mean $(1-s)(I - "
            r"e^{-T}\mathrm{Cov}^{1/2})m$; as "
            r"$T\to\infty$, $N((1-s)m, S_c)$."
        ),
        kind="identity",
        domain=Domain({**MOMENTS, **NOISE, "horizon": TIME}),
        check=generation.check_generation,
        method=_FLOW,
        expected="proved",
        proof=proofs.corrupted_generation,
        proof_scope="the score for d = 2; then any d, eigenmode of S_c by eigenmode (S_c positive definite)",
    ),
    Claim(
        id="SC-G",
        title="What guidance generates",
        printed=f"{_PAPER}, eq. 13 (a setting; the closed form was found)",
        statement=(
            r"Guidance $w$ with linear scores of $N(m,\lambda)$ and pooled $N(m',\Lambda)$ (commuting) "
            r"generates, in a common eigenbasis, the variance "
            r"$(\lambda/v_c)^{1+w}(\Lambda/v_u)^{-w}$, $v_c = 1+(\lambda-1)e^{-2T}$, $v_u = "
            r"1+(\Lambda-1)e^{-2T}$, and the mean "
            r"$m(1-g)+(m-m')J$, $g = e^{-T}\sqrt{\mathrm{variance}}$, $J = \frac{w}{2}\int_0^{q_T} "
            r"\frac{g(q)}{\Lambda+q}dq$, $q_T = e^{2T}-1$."
        ),
        kind="identity",
        domain=Domain(generation.GUIDED),
        check=generation.check_guided,
        method="integration of the guided reverse flow, eighth-order Runge-Kutta",
        expected="proved",
        proof=proofs.guided_generation,
        proof_scope="any d, common eigenmode by eigenmode, lambda and Lambda positive",
    ),
    Claim(
        id="F-NOT-TILTED",
        title="Guided generation samples the tilted density?",
        printed="often said of classifier-free guidance; not in the paper",
        statement=r"Guidance $w$ generates the density proportional to $p(x|y)^{1+w}p(x)^{-w}$ ($T\to\infty$).",
        kind="identity",
        domain=Domain(
            {
                "guidance": Reals(0.0, 4.0),
                "variance": Reals(0.1, 10.0),
                "pooled_variance": Reals(0.1, 10.0),
                "mean": Reals(0.0, 10.0),
            },
            where=lambda c: (1 + c["guidance"]) / c["variance"] > 1.01 * c["guidance"] / c["pooled_variance"],
            condition="the tilted density can be normalised; one dimension, pooled mean 0",
        ),
        check=generation.check_tilted,
        method="the tilted Gaussian against integration of the guided reverse flow at T = 50",
        expected="fails",
        corrected_by="SC-G",
        remark="True without guidance, and where both variances and means agree. The scores of noised "
        "densities do not add up to that of the noised tilt.",
    ),
    Claim(
        id="F-TRACE",
        title="What a rank-one term adds to the trace of the root",
        printed="found; used for the gain in W2",
        statement=(
            r"$\mathrm{tr}(S+s\,m m^T)^{1/2} - \mathrm{tr} S^{1/2} = \frac{1}{2\pi}\int_0^\infty "
            r"t^{-1/2}\log(1+s\,m^T(S+t)^{-1}m)\,dt$."
        ),
        kind="identity",
        domain=Domain({**MOMENTS, "ratio": Reals(0.0, 1.0)}),
        check=checks.check_trace,
        method="eigenvalues of both matrices (LAPACK)",
        expected="proved",
        proof=proofs.trace_identity,
        proof_scope="the determinant lemma for d = 2 and 3; the integral for one eigenvalue",
    ),
)
