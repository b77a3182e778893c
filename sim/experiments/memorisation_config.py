"""Sizes and grid of the memorisation experiment, and its sets."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
from jaxtyping import Array, Key

from sim.experiments.base import Cell
from sim.experiments.memorisation_sets import Sets, deal, draw, read_data, room
from theory._checks import require

OPERATORS = ("cep", "cep fixed", "flips", "dropout", "gate")
"""What corrupts the network's training: Gaussian CEP at every step or once per point, label flips (once per point),
the null code at every step, a noise gate on half of the points."""
Strengths = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class MemorisationConfig:
    """Sizes of the experiment; n = per_class x number of classes.

    **Fields:**

    - `studies`: which to do: "steps", "flips" and "gates" with exact denoisers, "points" with all, "learned".
    - `data`: a user's .npz with labels; else `builtin`, a bundled set; else `classes` Gaussians in `d` dimensions whose
      means lie `separation` apart.
    - `per_class`: training points per class, rising, each dividing the last. `corrupted_per_class`: one of them, for
      corrupted conditions; gates use the last. Real data: sizes that leave too few points are left out.
    - `samples_per_class`: samples (and fresh points) per class and repeat. `repeats`, `exact_repeats` >= 2: independent
      sets, the latter where no network is trained.
    - `ddim_steps`: numbers of steps of the exact denoiser; `steps`: for all else.
    - `flips`, `sigma_min`: strengths for the exact denoiser; `strengths`: operator -> strengths for the network, each
      beginning with 0.
    - `width`, `depth`, `training_steps`, `batch`, `rate`: the network, and its training by Adam.

    `FAST` took 100 CPU seconds beside other work; `FULL` would take about three quarters of an hour, estimated there
    from cells with 2 repeats and all other sizes full.

    Raises `ValueError` where the sizes do not divide the largest, a number of repeats is below 2, or an operator or its
    first strength is not as said.
    """

    studies: tuple[str, ...] = ("steps", "flips", "gates", "points", "learned")
    data: Path | None = None
    builtin: str | None = None
    d: int = 8
    classes: int = 4
    separation: float = 3.0
    per_class: tuple[int, ...] = (4, 8, 16)
    corrupted_per_class: int = 8
    samples_per_class: int = 64
    repeats: int = 4
    exact_repeats: int = 10
    ddim_steps: tuple[int, ...] = (2, 5, 20)
    steps: int = 30
    flips: Strengths = (0.0, 0.2, 0.5)
    sigma_min: Strengths = (0.1, 0.3, 1.0)
    strengths: tuple[tuple[str, Strengths], ...] = (
        ("cep", (0.0, 1.0, 3.0)),
        ("flips", (0.0, 0.2, 0.5)),
        ("dropout", (0.0, 0.5)),
        ("gate", (0.0, 0.3, 1.0)),
    )
    width: int = 64
    depth: int = 2
    training_steps: int = 800
    batch: int = 32
    rate: float = 1e-2

    def __post_init__(self) -> None:
        sizes, last = self.per_class, max(self.per_class, default=0)
        fits = len(sizes) > 0 and min(sizes) >= 2 and all(last % size == 0 for size in sizes)
        require(fits, "per_class", sizes, "numbers >= 2, each dividing the largest")
        require(self.corrupted_per_class in sizes, "corrupted_per_class", self.corrupted_per_class, f"one of {sizes}")
        for name, count in (("repeats", self.repeats), ("exact_repeats", self.exact_repeats)):
            require(count >= 2, name, count, "at least 2")
        for name, values in self.strengths:
            require(name in OPERATORS, "strengths", repr(name), f"for {', '.join(OPERATORS)}")
            require(values[:1] == (0.0,), f"strengths of {name}", values, "beginning with 0")


FAST = MemorisationConfig()
FULL = MemorisationConfig(
    builtin="digits",
    ddim_steps=(2, 5, 10, 20, 50),
    per_class=(4, 8, 16, 32, 64),
    corrupted_per_class=8,
    samples_per_class=30,
    repeats=6,
    exact_repeats=20,
    flips=(0.0, 0.1, 0.2, 0.5),
    sigma_min=(0.1, 0.3, 1.0, 3.0),
    strengths=(
        ("cep", (0.0, 0.3, 1.0, 3.0)),
        ("cep fixed", (0.0, 0.3, 1.0, 3.0)),
        ("flips", (0.0, 0.1, 0.2, 0.5)),
        ("dropout", (0.0, 0.1, 0.5)),
        ("gate", (0.0, 0.1, 0.3, 1.0)),
    ),
    width=128,
    depth=3,
    training_steps=4000,
    batch=64,
    rate=3e-3,
)


def sizes(config: MemorisationConfig) -> tuple[int, ...]:
    """Training points per class that the data allow. Raises `ValueError` where they allow none of the sizes."""
    data = read_data(config.data, config.builtin)
    if data is None:
        return config.per_class
    least = 2 * min(config.per_class) + config.samples_per_class
    require(room(data) >= least, "data", f"{room(data)} points in the smallest class", f"of at least {least} in each")
    return tuple(k for k in config.per_class if 2 * k + config.samples_per_class <= room(data))


def cells(config: MemorisationConfig) -> Sequence[Cell]:
    """The grid: what is studied, and at which strength."""
    grid: list[Cell] = [{"study": "steps", "steps": steps} for steps in config.ddim_steps]
    grid += [{"study": "flips", "eta": eta} for eta in config.flips]
    grid += [{"study": "gates", "sigma_min": sigma} for sigma in config.sigma_min]
    grid += [{"study": "points", "per_class": size} for size in sizes(config)]
    grid += [{"study": "learned", "operator": name} for name, _ in config.strengths]
    return [cell for cell in grid if cell["study"] in config.studies]


def draw_sets(
    config: MemorisationConfig, per_class: int, key: Key[Array, ""], repeats: int | None = None
) -> list[Sets]:
    """Independent sets, one per repeat."""
    data, keys = read_data(config.data, config.builtin), jax.random.split(key, repeats or config.repeats)
    if data is not None:
        return [deal(data, per_class, config.samples_per_class, k) for k in keys]
    return [draw(config.d, config.classes, config.separation, per_class, config.samples_per_class, k) for k in keys]


def rows_needed(config: MemorisationConfig) -> int:
    """Rows to which the sets of all sizes are repeated."""
    data = read_data(config.data, config.builtin)
    return max(sizes(config)) * (config.classes if data is None else data.n_classes)
