"""A generator of coloured shapes with captions: "a large red circle at the upper left on a grey background".

A record depends on (seed, index) alone. Its class is shape x colour, that of `index` modulo the number of classes, so
that classes are equally many; size, place and background are drawn, and the exact centre, radius and tilt within what
the words allow. Edges are anti-aliased: with s the signed distance of a pixel's centre to the outline, in pixels,
negative inside, the pixel is covered by clip(1/2 - s, 0, 1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float, Int

from imagegen.data.source import Record, position
from theory._checks import require

SIDE = 32
"""Side of the images in pixels."""
Grid = Float[np.ndarray, "h w"]


def _triangle(u: Grid, v: Grid, radius: float) -> Grid:
    sides = [u * np.cos(angle) + v * np.sin(angle) for angle in np.deg2rad([-90, 30, 150])]
    return np.max(sides, axis=0) - 0.6 * radius


def _cross(u: Grid, v: Grid, radius: float) -> Grid:
    bar = lambda x, y: np.maximum(np.abs(x) - radius, np.abs(y) - 0.35 * radius)  # noqa: E731
    return np.minimum(bar(u, v), bar(v, u))


OUTLINES: dict[str, Callable[[Grid, Grid, float], Grid]] = {
    "circle": lambda u, v, radius: np.hypot(u, v) - radius,
    "square": lambda u, v, radius: np.maximum(np.abs(u), np.abs(v)) - 0.85 * radius,
    "triangle": _triangle,
    "cross": _cross,
}
"""Signed distances to the outlines, (u to the right, v up, radius), in pixels; no point of a shape is farther than 1.21
radii from its centre."""
COLOURS = {"red": (0.8, -0.7, -0.7), "green": (-0.7, 0.6, -0.7), "blue": (-0.7, -0.5, 0.9), "yellow": (0.9, 0.8, -0.7)}
BACKGROUNDS = {"black": (-0.9,) * 3, "grey": (0.0,) * 3, "white": (0.9,) * 3}
"""Red, green and blue, in [-1, 1]."""
RADII = {"small": (3.5, 4.5), "large": (7.0, 8.5)}
"""Ranges in pixels."""
PLACES = {
    "centre": (0, 0),
    "upper left": (-1, 1),
    "upper right": (1, 1),
    "lower left": (-1, -1),
    "lower right": (1, -1),
}
"""Directions from the middle: (right, up)."""
SHIFT, JITTER, TILT = 4.0, 1.0, 0.25
"""How far, in pixels, a place is from the middle and a centre from its place, per axis; tilts in radians, up to."""
CLASS_NAMES = tuple(f"{colour} {shape}" for shape in OUTLINES for colour in COLOURS)
"""Shape x colour."""


@dataclass(frozen=True)
class Shapes:
    """`n` >= 1 captioned shapes, 32 x 32 colour, drawn as they are read; other seeds give other images.

    Raises `ValueError` for n < 1 and a negative seed.
    """

    n: int
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least 1")
        require(self.seed >= 0, "seed", self.seed, "at least 0")

    @property
    def name(self) -> str:
        """ "shapes"."""
        return "shapes"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(32, 32, 3)."""
        return (SIDE, SIDE, 3)

    @property
    def classes(self) -> int:
        """16."""
        return len(CLASS_NAMES)

    @property
    def class_names(self) -> tuple[str, ...]:
        """ "red circle", ..., "yellow cross"."""
        return CLASS_NAMES

    @cached_property
    def labels(self) -> Int[np.ndarray, " n"]:
        """Index modulo the number of classes."""
        return (np.arange(self.n) % self.classes).astype(np.int32)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: SupportsIndex) -> Record:
        index = position(index, self.n)
        rng, label = np.random.default_rng((self.seed, index)), index % self.classes
        colour, shape = CLASS_NAMES[label].split()
        size, place, background = (list(words)[rng.integers(len(words))] for words in (RADII, PLACES, BACKGROUNDS))
        caption = f"a {size} {colour} {shape} at the {place} on a {background} background"
        covered = _coverage(shape, size, place, rng)[..., None]
        image = covered * np.array(COLOURS[colour]) + (1 - covered) * np.array(BACKGROUNDS[background])
        return {
            "image": image.astype(np.float32),
            "label": np.int32(label),
            "index": np.int32(index),
            "caption": caption,
        }


def _coverage(shape: str, size: str, place: str, rng: np.random.Generator) -> Grid:
    """How much of each pixel the shape covers."""
    right, up = SHIFT * np.array(PLACES[place]) + rng.uniform(-JITTER, JITTER, 2)
    radius, tilt = rng.uniform(*RADII[size]), rng.uniform(-TILT, TILT)
    middle = np.arange(SIDE) + 0.5 - SIDE / 2
    x, y = middle[None, :] - right, -middle[:, None] - up
    u, v = np.cos(tilt) * x + np.sin(tilt) * y, np.cos(tilt) * y - np.sin(tilt) * x
    return np.clip(0.5 - OUTLINES[shape](u, v, radius), 0, 1)
