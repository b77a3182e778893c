"""Degraded samples in a data set: blur, JPEG, motion blur, hidden pixels and boxes; which, and how, fixed by nature.

With share p of n samples, exactly round(p·n) are degraded: the first ones of a permutation drawn from the seed, so that
a larger share degrades the same ones and more. What is random in a degradation (a mask, a direction) is drawn from
(seed, index) alone. So a sample is the same whenever it is read, in every epoch and on every machine.

A degradation maps one image (H, W, C) in [-1, 1] and a generator to such an image; the functions are those of
`sim.patches`, and strengths are in their units.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import SupportsIndex

import numpy as np
from jaxtyping import Bool, Float

from imagegen._names import require_one_of
from imagegen.data.source import ArraySource, Record, Source, SourceWrapper, Subset, read_record
from theory._checks import require, require_between

Image = Float[np.ndarray, "h w c"]
Degradation = Callable[[Image, np.random.Generator], Image]
"""One image, and a generator for what is random, to the degraded image."""


@dataclass(frozen=True)
class Blur:
    """Gaussian blur of standard deviation `std` >= 0 pixels (AO: 0.4 to 1 at 32 x 32).

    Raises `ValueError` for another `std`.
    """

    std: float

    def __post_init__(self) -> None:
        require(0 <= self.std < math.inf, "std", self.std, "finite and >= 0 pixels")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """The blurred image."""
        from sim.patches import gaussian_blur

        return gaussian_blur(image[None], self.std)[0]


@dataclass(frozen=True)
class JPEG:
    """JPEG of this `quality`, a whole number from 1 (worst) to 95 (AO: 15 to 90), for images of 1 or 3 channels.

    Raises `ValueError` for another quality and, when called, other numbers of channels.
    """

    quality: int | float

    def __post_init__(self) -> None:
        whole = 1 <= self.quality <= 95 and self.quality == int(self.quality)
        require(whole, "quality", self.quality, "a whole number from 1 to 95")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """The image after compression."""
        from sim.patches import jpeg

        return jpeg(image[None], int(self.quality))[0]


@dataclass(frozen=True)
class MotionBlur:
    """Average along a line of `length` >= 0 pixels, at `angle` radians, or for each sample at one of its own if None.

    Raises `ValueError` for another length, or an angle that is not finite.
    """

    length: float
    angle: float | None = None

    def __post_init__(self) -> None:
        require(0 <= self.length < math.inf, "length", self.length, "finite and >= 0 pixels")
        require(self.angle is None or math.isfinite(self.angle), "angle", self.angle, "finite, or None")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """The blurred image."""
        from sim.patches import motion_blur

        angle = rng.uniform(0, math.pi) if self.angle is None else self.angle
        return motion_blur(image[None], self.length, angle=angle)[0]


@dataclass(frozen=True)
class Mask:
    """A `share` in [0, 1] of the pixels, drawn uniformly, becomes mid-grey (0): round(share·H·W) of them.

    Raises `ValueError` for another share.
    """

    share: float

    def __post_init__(self) -> None:
        require_between("share", self.share, 0.0, 1.0)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """The image without the hidden pixels."""
        height, width = image.shape[:2]
        hidden = rng.permutation(height * width)[: round(self.share * height * width)]
        masked = image.reshape(height * width, -1).copy()
        masked[hidden] = 0
        return masked.reshape(image.shape)


@dataclass(frozen=True)
class Box:
    """One box of the image's proportions, of about a `share` in [0, 1] of its area, at a random place within it,
    becomes mid-grey (0): round(H·√share) x round(W·√share) pixels. Raises `ValueError` for another share.
    """

    share: float

    def __post_init__(self) -> None:
        require_between("share", self.share, 0.0, 1.0)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """The image without what the box hides."""
        sides = [round(size * math.sqrt(self.share)) for size in image.shape[:2]]
        top, left = (int(rng.integers(size - side + 1)) for size, side in zip(image.shape, sides, strict=False))
        masked = image.copy()
        masked[top : top + sides[0], left : left + sides[1]] = 0
        return masked


DEGRADATIONS: dict[str, Callable[[float], Degradation]] = {
    "blur": Blur,
    "jpeg": JPEG,
    "motion": MotionBlur,
    "mask": Mask,
    "box": Box,
}
"""Degradations by name, as functions of their strength: pixels, quality, pixels (at random angles), shares."""


def make_degradation(name: str, strength: float) -> Degradation:
    """The degradation of this name (one of `DEGRADATIONS`).

    Raises `ValueError` for another name, suggesting the nearest, and for a strength outside its range.
    """
    require_one_of("degradation", name, DEGRADATIONS)
    return DEGRADATIONS[name](strength)


@dataclass(frozen=True, eq=False)
class Degraded(SourceWrapper):
    """`source` with a `share` in [0, 1] of its samples degraded (module's top); its records say whether: `degraded`.

    A sample that `source` calls degraded already remains so. `in_memory(Degraded(...))` degrades once instead of at
    every reading. Raises `ValueError` for another share, a negative seed, and images that the degradation refuses.
    """

    source: Source
    degradation: Degradation
    share: float
    seed: int

    def __post_init__(self) -> None:
        require_between("share", self.share, 0.0, 1.0)
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        if self.degraded.any():
            self[int(np.argmax(self.degraded))]  # what does not suit the images is refused now

    @cached_property
    def degraded(self) -> Bool[np.ndarray, " n"]:
        """Which samples are degraded here."""
        n = len(self.source)
        chosen = self._rng(0, 1).permutation(n)[: round(self.share * n)]
        return np.isin(np.arange(n), chosen)

    def __getitem__(self, index: SupportsIndex) -> Record:
        record = read_record(self.source, index)
        number, image = int(record["index"]), record["image"]
        chosen = bool(self.degraded[number])
        if chosen:
            image = np.clip(self.degradation(image, self._rng(number, 2)), -1, 1)
        return {**record, "image": image, "degraded": np.bool_(chosen or record.get("degraded", False))}

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        """`purpose`: 1 to choose, 2 to degrade; 0 is left to generated sources, which may have the same seed."""
        return np.random.default_rng((self.seed, index, purpose))


def degraded_flags(source: Source) -> Bool[np.ndarray, " n"] | None:
    """Which samples are degraded, without reading an image; None where nothing says so."""
    if isinstance(source, ArraySource):
        return source.extras.get("degraded")
    if not isinstance(source, SourceWrapper):
        return None
    before = degraded_flags(source.source)
    if isinstance(source, Subset):
        return None if before is None else before[source.indices]
    if not isinstance(source, Degraded):
        return before
    return source.degraded if before is None else source.degraded | before
