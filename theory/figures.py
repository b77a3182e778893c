"""One figure per result of the theory, for the report and the notebooks. Each function returns a matplotlib `Figure`.

Everything drawn is computed here from the library's public functions; nothing is a stored number. Float64 is needed.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory import classifier, discretisation, flips, linear, training_sets
from theory.canvas import DASHES, PALETTE, new_figure
from theory.data import cut_patches
from theory.fisher import fisher_rao_connect, fisher_rao_exponential
from theory.gaussian import Gaussian
from theory.paths import PATHS, Path
from theory.spectra import PowerLaw, fit_power_law, power_spectrum
from theory.total_variation import Line, contraction, contraction_printed, total_variation

CIFAR_SPECTRUM = PowerLaw(1.59, 0.0086, 2.0)
"""The spectrum of 32 x 32 natural images in [-1, 1] that the SPD paper fits (section 4)."""


def _gaussian(mean: ArrayLike, cov: ArrayLike) -> Gaussian:
    return Gaussian(jnp.asarray(mean, float), jnp.asarray(cov, float))


def _ellipse(law: Gaussian) -> Float[np.ndarray, "2 k"]:
    """Points one standard deviation around a 2-D Gaussian."""
    angle = np.linspace(0, 2 * np.pi, 181)
    values, vectors = np.linalg.eigh(np.asarray(law.cov))
    circle = np.stack([np.cos(angle), np.sin(angle)])
    return np.asarray(law.mean)[:, None] + (vectors * np.sqrt(np.maximum(values, 0))) @ circle


def _draw(axis: Axes, law: Gaussian, label: str, style: int) -> None:
    colour = PALETTE[style]
    axis.plot(*_ellipse(law), color=colour, linestyle=DASHES[style % 4], label=label)
    axis.plot(*np.asarray(law.mean)[:, None], "o", color=colour, markersize=4)


def printed_corruption(mean: Float[np.ndarray, " d"], cov: Float[np.ndarray, "d d"], s: float) -> Gaussian:
    """The law that Lemma 2 of SC prints: mean (1-s) m, covariance S + s |m|² I (wrong for d >= 2)."""
    return _gaussian((1 - s) * mean, cov + s * float(mean @ mean) * np.eye(len(mean)))


def _loss(weight: np.ndarray, law: Gaussian, signal: float, noise: float) -> float:
    """The exact loss of eq. 25 at W, with the best V: tr W A W^T - 2 noise tr W + d, A of the true S + s m m^T."""
    d = law.dim
    A = noise**2 * np.eye(d) + signal**2 * np.asarray(law.cov)
    return float(np.trace(weight @ A @ weight.T) - 2 * noise * np.trace(weight) + d)


def lemma_two(*, mean_square: float = 4.0, noise_std: float = 0.7) -> Figure:
    """One line of Lemma 2: loss at the printed and at the true optimum, and what each generates (d = 2, S = I)."""
    mean, cov = np.sqrt(mean_square) * np.eye(2)[0], np.eye(2)
    s = float(linear.condition_noise_ratio(noise_std))
    true, printed = linear.corrupted_moments(mean, cov, s), printed_corruption(mean, cov, s)
    figure, (left, right) = new_figure(rows=2)
    times = np.linspace(0.02, 2.5, 60)
    for law, label, style in ((true, "rank-one term (true)", 0), (printed, "as printed", 1)):
        losses = []
        for time in times:
            signal, noise = np.exp(-time), np.sqrt(-np.expm1(-2 * time))
            weight = np.asarray(linear.denoiser_for(law, signal, noise).weight)
            losses.append(_loss(weight, true, signal, noise))
        left.plot(times, losses, color=PALETTE[style], linestyle=DASHES[style], label=label)
    left.set(xlabel="Ornstein-Uhlenbeck time t", ylabel="training loss at the candidate", xlim=(0, 2.5))
    left.legend()
    _draw(right, _gaussian(mean, cov), "clean", 2)
    _draw(right, true, "corrupted (true)", 0)
    _draw(right, printed, "corrupted as printed", 1)
    right.set(xlabel="x, along the class mean", ylabel="y", aspect="equal", xlim=(-1, 8))
    right.legend(loc="center right")
    return figure


def entropy_gap(*, noise_std: float = 0.1, mean_square: float = 1.0) -> Figure:
    """SC-T1: the expected entropy gap against d at fixed n/d, over noise_std²; printed is growth like d."""
    figure, (axis,) = new_figure()
    dimensions = 2 ** np.arange(10)
    for style, ratio in enumerate((2, 4, 16)):
        gap = [training_sets.entropy_gap(ratio * int(d), int(d), mean_square, noise_std) for d in dimensions]
        axis.plot(dimensions, np.array(gap) / noise_std**2, "o-", color=PALETTE[style], label=f"exact, n = {ratio} d")
    axis.plot(dimensions, 0.5 * dimensions, ":", color="black", label="printed rate: proportional to d")
    axis.set(xscale="log", yscale="log", xlabel="dimension d", ylabel="entropy gap / noise_std² (nats)")
    axis.legend()
    return figure


def gain(*, d: int = 8, mean_square: float = 4.0) -> Figure:
    """SC-T2: n times the expected gain in W2² against noise_std √n, for several n, with 95 % bands."""
    figure, (axis,) = new_figure()
    for style, n in enumerate((10, 30, 100, 1000)):
        scaled = np.linspace(0, 3.2, 25)
        estimates = [training_sets.wasserstein_gain(n, d, mean_square, x / np.sqrt(n)) for x in scaled]
        value = n * np.array([e.value for e in estimates])
        error = 1.96 * n * np.array([e.standard_error for e in estimates])
        axis.plot(scaled, value, DASHES[style], color=PALETTE[style], label=f"n = {n}")
        axis.fill_between(scaled, value - error, value + error, color=PALETTE[style], alpha=0.25, linewidth=0)
    axis.axhline(0, color="black", linewidth=0.8)
    label = "n × gain in W2² (squared unit of the data)"
    axis.set(xlabel="noise_std × √n", ylabel=label, title=f"d = {d}, squared norm of the mean = {mean_square:g}")
    axis.legend()
    return figure


def label_flips(*, mean_square: float = 4.0) -> Figure:
    """SC-F: change of W2² by flipped labels, at small n without guidance, and in the population with guidance."""
    figure, (left, right) = new_figure(rows=2)
    eta = np.linspace(0, 0.2, 21)
    for style, n in enumerate((10, 100)):
        change = [flips.flip_change(n, 8, mean_square, float(x)) for x in eta]
        value, error = (np.array(part) for part in zip(*change, strict=True))
        left.plot(eta * 100, value, color=PALETTE[style], label=f"no guidance, n = {n}, d = 8")
        band = value - 1.96 * error, value + 1.96 * error
        left.fill_between(eta * 100, *band, color=PALETTE[style], alpha=0.25, linewidth=0)
        bound = [flips.flip_change_bound(n, 8, mean_square, float(x)) for x in eta]
        left.plot(eta * 100, bound, ":", color=PALETTE[style], label=f"its lower bound, n = {n}")
    for style, guidance in enumerate((0.0, 0.5, 1.0, 3.0)):
        change_at = [flips.guided_flip_change(mean_square, float(x), guidance) for x in eta]
        right.plot(eta * 100, change_at, DASHES[style], color=PALETTE[style], label=f"w = {guidance:g}, n → ∞")
    for axis in (left, right):
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(xlabel="flipped labels (%)", ylabel="change of W2² (above 0: worse)")
        axis.legend()
    return figure


def _geodesic(p: Gaussian, q: Gaussian, points: int) -> Gaussian:
    """A batch of Gaussians along the geodesic: solved for once, then followed."""
    found = fisher_rao_connect(p, q)
    follow = jax.vmap(lambda t: fisher_rao_exponential(p, found.mean_velocity, found.cov_velocity, t))
    return follow(jnp.linspace(0.0, 1.0, points))


def geodesics() -> Figure:
    """Fisher-Rao geodesics: N(m, s²) in the half-plane of means and deviations, and ellipses along one in the plane."""
    figure, (left, right) = new_figure(rows=2)
    for style, shift in enumerate((1.0, 2.0, 4.0)):
        p, q = _gaussian(np.zeros(1), np.eye(1) * 0.25), _gaussian(np.array([shift]), np.eye(1))
        curve = _geodesic(p, q, 41)
        left.plot(curve.mean[:, 0], jnp.sqrt(curve.cov[:, 0, 0]), DASHES[style], color=PALETTE[style])
        left.plot([0, shift], [0.5, 1.0], "o", color=PALETTE[style], markersize=4)
    left.set(xlabel="mean", ylabel="standard deviation", ylim=(0, None), title="geodesics of N(m, s²)")
    p = _gaussian(np.zeros(2), np.diag([0.09, 1.0]))
    q = _gaussian(np.array([5.0, 1.0]), np.array([[1.0, 0.55], [0.55, 0.4]]))
    curve = _geodesic(p, q, 7)
    for mean, cov in zip(curve.mean, curve.cov, strict=True):
        right.plot(*_ellipse(_gaussian(mean, cov)), color=PALETTE[0])
    right.plot(*curve.mean.T, "o", color=PALETTE[1], markersize=3)
    right.set(xlabel="x", ylabel="y", aspect="equal", title="ellipses along a geodesic")
    return figure


def path_errors(*, shape: tuple[int, int] = (32, 32)) -> Figure:
    """SPD-C1, SPD-C2: KL(generated to data) against steps on the image spectrum, for three samplers, all paths."""
    figure, axes = new_figure(rows=3, share_x=True)
    spectrum = jnp.asarray(CIFAR_SPECTRUM.spectrum(shape))
    steps = (5, 20, 100, 500)
    for axis, sampler in zip(axes, ("ddim", "ancestral_large", "euler"), strict=True):
        for style, (name, make) in enumerate(_compared_paths().items()):
            path: Path = make(spectrum)
            errors = [discretisation.sampling_error(path, spectrum, n, sampler).kl_generated_data for n in steps]
            shown = np.maximum(np.array(errors, dtype=float), 1e-9)
            axis.plot(steps, shown, DASHES[style % 4] + "o", markersize=3, color=PALETTE[style], label=name)
        axis.set(xscale="log", yscale="log", ylabel="KL (nats per image)", title=sampler.replace("_", ", "))
    axes[-1].set(xlabel="sampling steps")
    axes[0].legend(ncols=2, fontsize="small")
    return figure


def _compared_paths() -> dict:
    return {name: make for name, make in PATHS.items() if name != "ornstein_uhlenbeck"}


def contracted_distance() -> Figure:
    """AO-T2: total variation after noise, exact for two laws on [0, 1], with the printed and the sharp bound."""
    figure, (axis,) = new_figure()
    p, q = Line.points([0.0, 0.3, 1.0], [0.6, 0.2, 0.2]), Line.points([0.0, 0.7, 1.0], [0.2, 0.2, 0.6])
    start = 0.6
    noise = np.geomspace(0.05, 5, 40)
    exact = [total_variation(p, q, noise_std=float(s)) for s in noise]
    axis.plot(noise, exact, "-", color=PALETTE[0], label="exact")
    axis.plot(noise, [contraction(start, 1.0, float(s)) for s in noise], "--", color=PALETTE[1], label="sharp bound")
    printed = [min(1.0, contraction_printed(start, 1.0, float(s))) for s in noise]
    axis.plot(noise, printed, ":", color=PALETTE[2], label="bound as printed")
    axis.set(xscale="log", xlabel="noise level σ (unit of the data)", ylabel="total variation", ylim=(0, 1.02))
    axis.legend()
    return figure


def ideal_classifier() -> Figure:
    """AO-K: what the ideal classifier says on corrupted data against noise, and what the paper takes it for."""
    figure, (axis,) = new_figure()
    p, q = Line.mixture([0.5, 0.5], [-1.0, 1.0], [0.1, 0.1]), Line.mixture([0.5, 0.5], [-0.7, 0.7], [0.3, 0.3])
    noise = np.geomspace(0.02, 5, 50)
    clean = [
        classifier.probability_clean(classifier.triangular_discrimination(p, q, noise_std=float(s))) for s in noise
    ]
    taken = [0.5 - total_variation(p, q, noise_std=float(s)) for s in noise]
    axis.plot(noise, clean, "-", color=PALETTE[0], label="mean probability “clean”, exact")
    axis.plot(noise, taken, "--", color=PALETTE[1], label="½ − total variation (the paper's reading)")
    axis.axhline(0.45, color="black", linewidth=0.8, linestyle=":", label="threshold 0.45")
    axis.set(xscale="log", xlabel="noise level σ (unit of the data)", ylabel="on corrupted data")
    axis.legend()
    return figure


def corrupted_photograph(*, side: int = 256, frames: int = 7, seed: int = 0) -> Figure:
    """A photograph corrupted along each path, frame by frame: one row per path, time from 0 (clean) to 1 (noise).

    The spectrum is a power law fitted to all `side` x `side` patches of both bundled photographs; the same noise is
    used in all frames, and each frame is scaled to its own range, since some paths grow (EDM) and others fade (heat).
    """
    from sklearn.datasets import load_sample_images

    photographs = [cut_patches(image / 127.5 - 1.0, side) for image in load_sample_images().images]
    law = fit_power_law(power_spectrum(np.concatenate(photographs)))
    spectrum = jnp.asarray(law.spectrum((side, side)))
    photograph = jnp.asarray(photographs[0][0])
    noise = jax.random.normal(jax.random.key(seed), photograph.shape)
    times = np.linspace(0, 1, frames)
    figure, axes = new_figure(rows=len(_compared_paths()), columns=frames, size=(8.0, 8.6))
    figure.set_dpi(80)  # noise does not compress
    for row, (name, make) in enumerate(_compared_paths().items()):
        path = make(spectrum)
        for column, t in enumerate(times):
            axis = axes[row * frames + column]
            axis.imshow(_as_picture(path.corrupt(photograph, float(t), noise)))
            axis.set(xticks=[], yticks=[], title=f"t = {t:.2f}" if row == 0 else "")
        axes[row * frames].set_ylabel(name.replace("_", " "), fontsize="small")
    return figure


def _as_picture(image: Float[jax.Array, "h w c"]) -> Float[np.ndarray, "h w c"]:
    low, high = np.percentile(np.asarray(image), [1, 99])
    return np.clip((np.asarray(image) - low) / (high - low), 0, 1)
