"""Advice from the power spectrum of images: which path is how long, what a sampler loses on it, and sigma_min for a
blur.

Images are taken as a stationary Gaussian field (`theory.spectra`), one channel of it: D(f) is averaged over channels.
The power law fitted to D stands for the data in everything about paths, so that the numbers do not hang on single
noisy frequencies. Where no power law fits (the best one has c2 at the largest frequency, as on 8 x 8 digits), D as
measured does; sigma_min always uses D as measured. Real images are not Gaussian, nor periodic at their
borders: all this is about their spectrum alone.
"""

import math
from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory._checks import require
from theory.classifier import blur_transfer, gaussian_triangular_discrimination, probability_clean, sigma_min_for_blur
from theory.data import DataSet
from theory.discretisation import sampling_error
from theory.fisher import diagonal_path_length
from theory.path_base import Path
from theory.paths import PATHS
from theory.settings import Settings
from theory.spectra import PowerLaw, fit_power_law, integer_frequencies, power_spectrum

CURVE_POINTS = 41


@dataclass(frozen=True)
class PathAdvice:
    """One path on the fitted spectrum.

    **Fields:** `length` its Fisher-Rao length; `geodesic` the distance between its own end points (a VE path ends
    elsewhere than a VP path does); `kl` = KL(generated || data) and `kl_reverse` = KL(data || generated) in nats and
    `wasserstein2` in the data's units: the sampler's error per image and channel, started from the exact law at t =
    1.
    """

    name: str
    length: float
    geodesic: float
    kl: float
    kl_reverse: float
    wasserstein2: float


@dataclass(frozen=True)
class BlurAdvice:
    """From which noise on blurred images may train: `sigma_min`, and the ideal classifier's curve.

    **Fields:** `blur_std` in pixels; `tau`; `sigma_min` in the data's units; `sigma` and `probability_clean`, the mean
    probability "clean" that the ideal classifier gives to blurred images at each noise level.
    """

    blur_std: float
    tau: float
    sigma_min: float
    sigma: tuple[float, ...]
    probability_clean: tuple[float, ...]


@dataclass(frozen=True)
class ImageAdvice:
    """What the power spectrum says.

    **Fields:** `shape` (H, W); `radius`, `power`: |f| and the mean of D over frequencies of that radius (rounded to
    whole numbers); `law` the fit D = c1/(c2+|f|)^m and `fit_error` the root mean square of its error in log D, both
    None where none fits; `sampler` and its number of `steps`; `paths`; `blur`.
    """

    shape: tuple[int, int]
    radius: tuple[float, ...]
    power: tuple[float, ...]
    law: PowerLaw | None
    fit_error: float | None
    sampler: str
    steps: int
    paths: tuple[PathAdvice, ...]
    blur: BlurAdvice


def advise_images(data: DataSet, settings: Settings) -> ImageAdvice:
    """Advice for a data set of images of at least 2 x 2 pixels; needs float64.

    Raises `ValueError` if they are too small or have no power at some frequency.
    """
    spectrum = power_spectrum(data.images)
    height, width = spectrum.shape
    require(min(height, width) >= 2, "images", f"{height} x {width} pixels", "at least 2 x 2 pixels")
    require(float(spectrum.min()) > 0, "images", "no power at some frequency", "images with power at every frequency")
    law, error = fit_law(spectrum)
    modelled = spectrum if law is None else law.spectrum(spectrum.shape)
    radius, power = _radial(spectrum)
    return ImageAdvice(
        shape=(height, width),
        radius=radius,
        power=power,
        law=law,
        fit_error=error,
        sampler=settings.sampler,
        steps=settings.steps,
        paths=tuple(_one_path(name, modelled, settings.steps, settings.sampler) for name in PATHS),
        blur=advise_blur(spectrum, settings.blur_std, settings.tau),
    )


def fit_law(spectrum: Float[np.ndarray, "h w"]) -> tuple[PowerLaw | None, float | None]:
    """The fitted power law and the root mean square of its error in log D, or (None, None) where none fits: the best
    law lies at the limit of c2 or m.

    Raises `ValueError` where `fit_power_law` does.
    """
    law = fit_power_law(spectrum)
    return (None, None) if law.at_limit(spectrum.shape) else (law, law.error(spectrum))


def _radial(spectrum: Float[np.ndarray, "h w"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    rings = np.rint(integer_frequencies(spectrum.shape)).astype(int).ravel()
    counts, sums = np.bincount(rings), np.bincount(rings, weights=spectrum.ravel())
    kept = np.flatnonzero(counts)
    return tuple(map(float, kept)), tuple(float(v) for v in sums[kept] / counts[kept])


def _one_path(name: str, spectrum: Float[np.ndarray, "h w"], steps: int, sampler: str) -> PathAdvice:
    path = PATHS[name](jnp.asarray(spectrum))
    length, geodesic = path_lengths(path, spectrum)
    error = sampling_error(path, spectrum, steps, sampler)
    return PathAdvice(
        name,
        length,
        geodesic,
        float(error.kl_generated_data),
        float(error.kl_data_generated),
        float(error.wasserstein2),
    )


def path_lengths(path: Path, spectrum: Float[np.ndarray, "h w"]) -> tuple[float, float]:
    """(Fisher-Rao length of the path from t = 0 to 1, distance between its end points) for data N(0, diag spectrum)."""
    length, geodesic = _lengths(path, jnp.asarray(spectrum))
    return float(length), float(geodesic)


@eqx.filter_jit
def _lengths(path: Path, spectrum: Float[Array, "h w"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    def variance(t: Float[Array, ""]) -> Float[Array, "h w"]:
        signal, noise = path.powers(t)
        return signal * spectrum + noise

    ends = jnp.log(variance(jnp.asarray(1.0))) - jnp.log(variance(jnp.asarray(0.0)))
    return diagonal_path_length(variance, panels=32), jnp.sqrt(jnp.sum(ends**2) / 2)


def advise_blur(spectrum: Float[np.ndarray, "h w"], blur_std: float, tau: float) -> BlurAdvice:
    """sigma_min of a Gaussian blur and the ideal classifier's curve about it, for a power spectrum in squared data
    units.
    """
    level = sigma_min_for_blur(spectrum, blur_std, tau)
    centre = level if 0.0 < level < math.inf else math.sqrt(float(spectrum.max()))
    sigma = np.geomspace(centre / 30, centre * 10, CURVE_POINTS)
    blurred = spectrum * blur_transfer(spectrum.shape, blur_std) ** 2
    curve = [
        probability_clean(gaussian_triangular_discrimination((spectrum + x**2).ravel(), (blurred + x**2).ravel()))
        for x in sigma
    ]
    return BlurAdvice(blur_std, tau, level, tuple(map(float, sigma)), tuple(map(float, curve)))
