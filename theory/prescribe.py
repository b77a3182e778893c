"""What to do for *your* data: statistics in, recommendation out.

`prescribe` puts together the class statistics (`theory.whitening`), the advice on condition corruption
(`theory.conditions`, for two classes or more) and, for images, the advice from their power spectrum
(`theory.image_advice`). `Prescription.text` says it in words, `to_json` in numbers; `theory.plots` draws it. The
prediction is about optimal linear denoisers: for a network it is a starting point to be tried, not a promise, and
`theory.conditions` holds it against the data so that a reader can judge.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from theory._checks import InputError
from theory.conditions import Conditions, advise_conditions
from theory.data import DataSet
from theory.image_advice import ImageAdvice, advise_images
from theory.settings import Settings
from theory.whitening import ClassStatistics, Coordinates, class_statistics, principal_coordinates

__all__ = ["Prescription", "Settings", "prescribe"]


@dataclass(frozen=True)
class Prescription:
    """Everything `prescribe` found out.

    **Fields:**

    - `name`, `description`, `n`, `d`, `image_shape`: the data set.
    - `rank`, `data_rank`, `limited_by`, `discarded`, `total_variance`: the principal components retained, see
      `Coordinates`.
    - `classes`: statistics of each class.
    - `conditions`: advice on condition corruption, None with a single class.
    - `images`: advice from the power spectrum, None for plain features.
    - `notes`: what to be careful about, one sentence each.
    - `settings`: the choices made.
    """

    name: str
    description: str
    n: int
    d: int
    image_shape: tuple[int, ...] | None
    rank: int
    data_rank: int
    limited_by: str
    discarded: float
    total_variance: float
    classes: tuple[ClassStatistics, ...]
    conditions: Conditions | None
    images: ImageAdvice | None
    notes: tuple[str, ...]
    settings: Settings

    def to_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists, numbers and strings; infinity is the string "inf", an undefined
        number None.
        """
        return _plain(dataclasses.asdict(self))

    def text(self) -> str:
        """The same as readable text."""
        from theory.prescription_text import render

        return render(self)


def prescribe(data: DataSet, settings: Settings | None = None) -> Prescription:
    """Prescription for a data set; deterministic given `settings.seed`. Needs float64 for images.

    Raises `ValueError` (`theory.data.DataError` where it is about the data) for data that do not vary.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):  # thousands of small matrices: threads would only get in each other's way
        return _prescribe(data, Settings() if settings is None else settings)


def _prescribe(data: DataSet, settings: Settings) -> Prescription:
    coordinates = principal_coordinates(data, retain=settings.retain)
    statistics = class_statistics(data, coordinates)
    conditions = advise_conditions(data, coordinates, statistics, settings) if data.n_classes > 1 else None
    images, trouble = _images(data, settings)
    return Prescription(
        name=data.name,
        description=data.description,
        n=data.n,
        d=data.d,
        image_shape=data.image_shape,
        rank=coordinates.rank,
        data_rank=coordinates.data_rank,
        limited_by=coordinates.limited_by,
        discarded=coordinates.discarded,
        total_variance=coordinates.total_variance,
        classes=statistics,
        conditions=conditions,
        images=images,
        notes=(*_notes(data, coordinates, statistics), *trouble),
        settings=settings,
    )


def _images(data: DataSet, settings: Settings) -> tuple[ImageAdvice | None, tuple[str, ...]]:
    if data.image_shape is None:
        return None, ()
    try:
        return advise_images(data, settings), ()
    except InputError as error:
        return None, (f"No advice from the power spectrum: {error}",)


def _notes(data: DataSet, coordinates: Coordinates, statistics: tuple[ClassStatistics, ...]) -> tuple[str, ...]:
    rank = coordinates.rank
    few = [c.name for c in statistics if c.n <= rank]
    flat = [c.name for c in statistics if c.whitened_extremes[0] <= 1e-10 * c.whitened_extremes[1]]
    notes = []
    if data.n_classes == 1:
        notes.append("There is one class only, so there is no condition to corrupt.")
    if coordinates.limited_by != "variance":
        notes.append("Fewer components are retained than asked for: classes do not vary along the others.")
    if few:
        notes.append(
            f"Not more points than the {rank} retained dimensions in class {', '.join(few)}: the clean Gaussian is "
            "degenerate, its entropy change undefined, and the plug-in estimate sees nothing outside the sample's span."
        )
    elif flat and data.n_classes > 1:
        notes.append(
            f"Class {', '.join(flat)} does not vary along some retained direction: its entropy change is undefined."
        )
    return tuple(notes)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
