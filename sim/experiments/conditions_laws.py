"""What each learner of the experiment on condition corruption generates for a clean code, and its exact W2² to it.

Every loss here is the *squared* 2-Wasserstein distance between the law generated and the class N(mu, Σ), in squared
units of x, without sampling noise:

    linear learner      Its flow is affine, so N(0, I) goes to N(b, M Mᵀ): b is the image of 0, the columns of M are
                        those of the basis vectors, less b. W2² by Bures' formula.
    exact learner       A mixture of classes with weights W[c] = P(class | code c) (`sim.conditions`). Classes with one
                        isotropic covariance on one line differ along it alone. There the flow is monotone, T(z), and

                            W2² = ∫ (T(z) - mu - σ z)² φ(z) dz        (the same quantiles are joined)

    memorising learner  The training points with weights W[c, k]/n. On the line, with z_i the normal score of their
                        summed weights p_1 + ... + p_i in rising order and y_i = x_i - mu,

                            W2² = Σ p_i y_i² + σ² - 2 σ Σ y_i (φ(z_{i-1}) - φ(z_i)).

*The linear learner under a corrupted code.* Let the code of a class be X, of mean μ and second moments M = E X Xᵀ. The
best linear map from X to x0 (no intercept) is m μᵀ M⁻¹: at the clean code c it takes the class for N(κ m, S + s m mᵀ),

    κ = μᵀ M⁺ c,   s = 1 - μᵀ M⁺ μ.

CEP on a unit code: s = noise_std²/(1+noise_std²), κ = 1 - s (`theory.linear`), so CEP-U and CEP-G of equal noise_std
are one. Dropout of one-hot codes at rate p: s = p, κ = 1 - p, CEP of noise_std² = p/(1-p) exactly. Label smoothing:
s = 0, but κ = x·c/|x|² > 1 for the smoothed code x: shown the clean code, the learner overshoots.

*Input perturbation*, x_t = A x0 + S (ε + γ ξ) with target ε: with D the optimum for noise S√(1+γ²), the best noise
prediction (x_t - A D)/(S (1+γ²)) means x̂0 = (D + γ² x_t/A)/(1+γ²). In y = x_t/A, q = S²/A², a direction of variance λ
is contracted, from q = q_1 on, by g = (λ/(λ + (1+γ²) q_1))^{1/(2(1+γ²))}: it generates mean m (1 - g) and variance
(1 + q_1) g², which grows without bound with q_1: the fixed γ mis-scales the noise at every level.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, ScalarLike
from scipy.special import ndtri

from sim.affine import affine_image
from sim.denoisers import Guided, LinearDenoiser
from sim.mixture_denoiser import MixtureDenoiser
from sim.samplers import DPMSolverPP2M
from sim.sampling import sample
from sim.times import time_grid
from theory.corruption import VectorCorruption
from theory.gaussian import Gaussian, wasserstein2_squared
from theory.linear import PathDenoiser
from theory.mixture import GaussianMixture
from theory.path_base import Gain, ScalarPath, Time
from theory.paths import VPCosine, VPLinear

BATCH = 256
"""Gaussians, or laws on the line, computed together: always this many, so that one program serves all."""
SCORES = np.linspace(-7.5, 7.5, 301)
"""Normal scores of the quadrature on the line: a trapezoidal sum of step 1/20."""


class CodeEffect(NamedTuple):
    """What corrupted codes do to the linear learner of one class: N(m, S) becomes N(kept m, S + s m mᵀ)."""

    kept: float
    s: float


def condition_effect(operator: VectorCorruption, code: Float[Array, " d_emb"]) -> CodeEffect:
    """κ and s of the module's text for a fresh `operator` (independent coordinates) on the clean `code`, not 0."""
    mean, variance = np.asarray(operator.mean(code), float), np.asarray(operator.variance(code), float)
    inverse = np.linalg.pinv(np.diag(variance) + np.outer(mean, mean), hermitian=True)
    return CodeEffect(float(mean @ inverse @ np.asarray(code)), float(1 - mean @ inverse @ mean))


class Moments(NamedTuple):
    """Means and covariances of Gaussians or point sets, with any leading axes."""

    mean: Float[np.ndarray, "*b d"]
    cov: Float[np.ndarray, "*b d d"]


class Seen(NamedTuple):
    """Batch of linear learners: what each takes its class and the pooled data for (leading axes alike)."""

    mean: Float[np.ndarray, "*b d"]
    cov: Float[np.ndarray, "*b d d"]
    pooled_mean: Float[np.ndarray, "*b d"]
    pooled_cov: Float[np.ndarray, "*b d d"]


def generated_gaussians(seen: Seen, guidance: float, steps: int, grid: str = "uniform") -> Moments:
    """What linear learners generate on the cosine path by DPM-Solver++(2M) in `steps` steps, at guidance w >= 0.

    Exact up to the steps, and to the signal of 1e-4 at the first time. `grid`: "uniform" is the best for variances near
    1; small or vanishing ones need the small noise levels of "log_snr". Float64; leading axes as `seen`'s.
    """
    shape, d = seen.mean.shape[:-1], seen.mean.shape[-1]
    flat = [np.reshape(part, (-1, *part.shape[len(shape) :])) for part in seen]
    path = VPCosine()
    times = time_grid(path, steps, grid, first=path.t_range[1])
    parts = []
    for start in range(0, len(flat[0]), BATCH):
        rows = np.minimum(np.arange(start, start + BATCH), len(flat[0]) - 1)
        law = _linear_images(path, times, Seen(*(part[rows] for part in flat)), jnp.asarray(guidance))
        parts.append((np.asarray(law.mean), np.asarray(law.cov)))
    mean, cov = (np.concatenate(part)[: len(flat[0])] for part in zip(*parts, strict=True))
    return Moments(mean.reshape(*shape, d), cov.reshape(*shape, d, d))


@eqx.filter_jit
def _linear_images(path: VPCosine, times: Array, seen: Seen, guidance: Array) -> Gaussian:
    def one(law: Seen) -> Gaussian:
        pooled = Gaussian(jnp.asarray(law.pooled_mean), jnp.asarray(law.pooled_cov))
        linear = LinearDenoiser(path, law.mean[None], law.cov[None], pooled)
        return affine_image(
            Guided(linear, guidance), path, DPMSolverPP2M(), times, jnp.zeros(law.mean.size), cond=jnp.asarray(0)
        )

    return jax.vmap(one)(jax.tree.map(jnp.asarray, seen))


def _distance(mean: Array, cov: Array, target_mean: Array, target_cov: Array) -> Array:
    return wasserstein2_squared(Gaussian(mean, cov), Gaussian(target_mean, target_cov))


@jax.jit
def _distances(generated: Moments, target: Moments) -> Array:
    return jax.vmap(_distance)(*map(jnp.asarray, (*generated, *target)))


def gaussian_losses(generated: Moments, target: Moments) -> Float[np.ndarray, "*b"]:
    """W2² between Gaussians, in batches of one size; `target` broadcasts against the leading axes of `generated`."""
    shape, d = generated.mean.shape[:-1], generated.mean.shape[-1]
    means = np.broadcast_to(target.mean, (*shape, d)).reshape(-1, d)
    covs = np.broadcast_to(target.cov, (*shape, d, d)).reshape(-1, d, d)
    own = generated.mean.reshape(-1, d), generated.cov.reshape(-1, d, d)
    losses = []
    for start in range(0, len(means), BATCH):
        rows = np.minimum(np.arange(start, start + BATCH), len(means) - 1)
        made, wanted = Moments(own[0][rows], own[1][rows]), Moments(means[rows], covs[rows])
        losses.append(np.asarray(_distances(made, wanted)))
    return np.concatenate(losses)[: len(means)].reshape(shape)


class LineLaws(NamedTuple):
    """Batch of guided mixtures on the line: class weights shown (B, K), the class asked for (B), guidance (B)."""

    weights: Float[np.ndarray, "B K"]
    target: Int[np.ndarray, " B"]
    guidance: Float[np.ndarray, " B"]


def line_losses(places: Float[np.ndarray, " K"], laws: LineLaws, steps: int) -> Float[np.ndarray, " B"]:
    """W2² to N(places[target], 1) of what the exact learner generates from the mixture of N(places[k], 1) with the
    weights shown, guided against the mixture of all classes alike (as it is whatever labels were flipped).

    DPM-Solver++(2M) in `steps` uniform steps, and the quadrature of the module's text; any d with all means on one line
    reduces to this. Float64.
    """
    path = VPCosine()
    times = time_grid(path, steps, first=path.t_range[1])
    losses = []
    for start in range(0, len(laws.target), BATCH // 4):
        rows = np.minimum(np.arange(start, start + BATCH // 4), len(laws.target) - 1)
        ends = np.asarray(_line_images(path, times, jnp.asarray(places), LineLaws(*(a[rows] for a in laws))))
        gap = ends - places[laws.target[rows], None] - SCORES
        losses.append(gap**2 @ (np.exp(-(SCORES**2) / 2) / np.sqrt(2 * np.pi)) * (SCORES[1] - SCORES[0]))
    return np.concatenate(losses)[: len(laws.target)]


@eqx.filter_jit
def _line_images(path: VPCosine, times: Array, places: Array, laws: LineLaws) -> Float[Array, "B n"]:
    k = places.size
    mixture = GaussianMixture(jnp.full(k, 1 / k), places[:, None], jnp.ones((k, 1, 1)))

    def one(law: LineLaws) -> Float[Array, " n"]:
        guided = Guided(MixtureDenoiser(path, mixture, law.weights[None]), law.guidance)
        cond = jnp.zeros(SCORES.size, int)
        ends = sample(guided, path, DPMSolverPP2M(), times, jnp.asarray(SCORES)[:, None], jax.random.key(0), cond)
        return jnp.asarray(ends)[:, 0]

    return jax.vmap(one)(jax.tree.map(jnp.asarray, laws))


def points_loss(
    points: Float[np.ndarray, "*b m"], weights: Float[np.ndarray, "*#b m"], mean: float, std: float = 1.0
) -> Float[np.ndarray, "*b"]:
    """Exact W2² between weighted points on the line (weights >= 0 with sum 1, not checked) and N(mean, std²)."""
    order = np.argsort(points, axis=-1)
    y = np.take_along_axis(points, order, -1) - mean
    p = np.take_along_axis(np.broadcast_to(weights, points.shape), order, -1)
    scores = ndtri(np.clip(np.cumsum(p, axis=-1), 0.0, 1.0)[..., :-1])
    inner = np.exp(-(scores**2) / 2) / np.sqrt(2 * np.pi)
    heights = np.concatenate([0 * y[..., :1], inner, 0 * y[..., :1]], axis=-1)
    return np.asarray(np.sum(p * y**2, axis=-1) + std**2 + 2 * std * np.sum(y * np.diff(heights, axis=-1), axis=-1))


class _Noisier(eqx.Module):
    """The gains of a path with √(1+γ²) times its noise: what a network under input perturbation is shown."""

    path: ScalarPath
    gamma: ScalarLike

    def signal(self, t: Time) -> Gain:
        """A."""
        return self.path.signal(t)

    def noise(self, t: Time) -> Gain:
        """S √(1+γ²)."""
        return jnp.sqrt(1 + jnp.asarray(self.gamma) ** 2) * self.path.noise(t)


class InputPerturbed(eqx.Module):
    """The linear optimum for classes N(means[c], covs[c]) under input perturbation, a denoiser `(xt, t, cond) -> x̂0`.

    **Arguments:** `path` with signal at every time used; `means` (C, d), `covs` (C, d, d); `gamma` >= 0. Float64.
    """

    optimum: PathDenoiser
    path: ScalarPath
    gamma: ScalarLike

    def __init__(
        self, path: ScalarPath, means: Float[Array, "C d"], covs: Float[Array, "C d d"], gamma: ScalarLike
    ) -> None:
        """The optimum for the noise that training shows; see the class."""
        self.optimum, self.path, self.gamma = PathDenoiser(means, covs, _Noisier(path, gamma)), path, gamma

    def __call__(self, xt: Float[Array, " d"], t: Time, cond: Int[Array, ""]) -> Float[Array, " d"]:
        """(D + γ² x_t/A)/(1+γ²)."""
        square = jnp.asarray(self.gamma) ** 2
        return (self.optimum(xt, t, cond) + square * xt / self.path.signal(t)) / (1 + square)


def perturbed_gaussian(
    mean: Float[Array, " d"], cov: Float[Array, "d d"], gamma: ScalarLike, q: ScalarLike
) -> Gaussian:
    """The closed form under input perturbation: what the flow makes of N(0, I) from S²/A² = `q` down to no noise."""
    square = jnp.asarray(gamma) ** 2
    values, vectors = jnp.linalg.eigh(cov)
    values = jnp.maximum(values, 0.0)
    g = (values / (values + (1 + square) * q)) ** (1 / (2 * (1 + square)))
    return Gaussian(mean - vectors @ (g * (vectors.T @ mean)), (vectors * (1 + q) * g**2) @ vectors.T)


def perturbed_gaussians(
    means: Float[np.ndarray, "B d"], covs: Float[np.ndarray, "B d d"], gammas: Float[np.ndarray, " B"], steps: int
) -> tuple[Moments, Moments]:
    """(sampled, closed form) under input perturbation on the linear VP path, from its noisiest time; leading axis B."""
    path = VPLinear()
    times = time_grid(path, steps, "log_snr")
    laws = _perturbed(path, times, jnp.asarray(means), jnp.asarray(covs), jnp.asarray(gammas))
    sampled, exact = (Moments(np.asarray(law.mean), np.asarray(law.cov)) for law in laws)
    return sampled, exact


@eqx.filter_jit
def _perturbed(path: VPLinear, times: Array, means: Array, covs: Array, gammas: Array) -> tuple[Gaussian, Gaussian]:
    q = jnp.exp(-path.log_snr(times[0]))

    def one(law: tuple[Array, Array, Array]) -> tuple[Gaussian, Gaussian]:
        mean, cov, gamma = law
        denoiser = InputPerturbed(path, mean[None], cov[None], gamma)
        sampled = affine_image(denoiser, path, DPMSolverPP2M(), times, jnp.zeros(mean.size), cond=jnp.asarray(0))
        return sampled, perturbed_gaussian(mean, cov, gamma, q)

    return jax.lax.map(one, (means, covs, gammas), batch_size=BATCH)
