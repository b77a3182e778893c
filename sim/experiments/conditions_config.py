"""Sizes and grid of the experiment on condition corruption."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sim.experiments.base import Cell

Strengths = tuple[float, ...]


@dataclass(frozen=True)
class ConditionsConfig:
    """Sizes of the experiment.

    - `noise_stds`, `etas`, `rates`, `gammas`: strengths of CEP (per coordinate, on codes of norm 1), of flips, of
      dropout and label smoothing, and of input perturbation; each starts with 0, the clean learner.
    - `guidances`: w >= 0, the first 0. `mean_square`: ||mu||² of the settings below.
    - `settings`: (n per class, d, condition number of Σ) of CEP on the linear learner.
    - `overlapping`: a small ||mu||², for classes that overlap.
    - `sets`: training sets of the linear learner; `line_sets`: of the memorising learner.
    - `steps`: of the sampler, for the linear and exact learners.
    - `networks`: training sets of the network; `network_settings`: its (n, d), the first for all operators, the others
      for CEP; `network_*`: its strengths, equally many of each kind, sizes, training, and samples for its W2.

    `FAST` took 110 CPU seconds beside other work; `FULL` would take about one and a half hours, estimated
    from one cell of each learner there, with 2 of the 48 networks, 20 of the 2000 sets and all other sizes full.
    """

    noise_stds: Strengths = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
    etas: Strengths = (0.0, 0.025, 0.05, 0.1, 0.2)
    rates: Strengths = (0.0, 0.05, 0.1, 0.2, 0.4)
    gammas: Strengths = (0.0, 0.05, 0.1, 0.2)
    guidances: tuple[float, ...] = (0.0, 1.0)
    mean_square: float = 1.0
    overlapping: float = 0.05
    settings: tuple[tuple[int, int, float], ...] = ((10, 4, 1.0), (3, 4, 1.0), (10, 4, 100.0))
    sets: int = 200
    line_sets: int = 4000
    steps: int = 64
    networks: int = 8
    network_width: int = 32
    network_depth: int = 2
    network_steps: int = 500
    network_batch: int = 32
    network_settings: tuple[tuple[int, int], ...] = ((10, 1),)
    network_noise: Strengths = (0.0, 0.1, 0.2, 0.5)
    network_etas: Strengths = (0.0, 0.05, 0.1, 0.2)
    network_rates: Strengths = (0.0, 0.1, 0.2, 0.4)
    network_gammas: Strengths = (0.0, 0.05, 0.1, 0.2)
    network_samples: int = 128


FAST = ConditionsConfig()
FULL = ConditionsConfig(
    guidances=(0.0, 0.5, 1.0, 2.0),
    settings=((10, 4, 1.0), (3, 4, 1.0), (10, 4, 100.0), (50, 4, 1.0), (10, 16, 1.0), (40, 16, 1.0)),
    sets=2000,
    line_sets=40000,
    steps=128,
    networks=48,
    network_width=64,
    network_steps=2000,
    network_batch=64,
    network_settings=((10, 1), (10, 4), (50, 4)),
    network_samples=256,
)


def cells(config: ConditionsConfig) -> Sequence[Cell]:
    """The grid: learner, operator, fixed or fresh, classes, n (0: infinitely many), d, ||mu||², condition number."""
    return [
        {"learner": learner, "operator": operator, "drawn": drawn, "classes": geometry, "n": n, "d": d,
         "mean_square": a, "condition": condition}
        for learner, operator, drawn, geometry, n, d, a, condition in (*_perturbations(config), *_flips(config))
    ]  # fmt: skip


Entry = tuple[str, str, str, str, int, int, float, float]


def _perturbations(config: ConditionsConfig) -> Iterator[Entry]:
    a = config.mean_square
    n, d, _ = config.settings[0]
    others = ("dropout", "label smoothing", "input perturbation")
    for points, dim, condition in config.settings:
        yield "linear", "cep-g", "fresh", "opposite", points, dim, a, condition
    for operator in ("cep-g", "partial cep-g"):
        yield "linear", operator, "fixed", "opposite", n, d, a, 1.0
    for operator in others:
        yield "linear", operator, "fresh", "opposite", n, d, a, 1.0
    for operator in ("cep-g", "cep-u"):
        yield "exact", operator, "fresh", "opposite", 0, 1, a, 1.0
    for square in (a, config.overlapping):
        yield "memorising", "cep-g", "fresh", "opposite", n, 1, square, 1.0
    for points, dim in config.network_settings:
        yield "network", "cep-g", "fresh", "opposite", points, dim, a, 1.0
    points, dim = config.network_settings[0]
    yield "network", "cep-g", "fixed", "opposite", points, dim, a, 1.0
    for operator in others:
        yield "network", operator, "fresh", "opposite", points, dim, a, 1.0


def _flips(config: ConditionsConfig) -> Iterator[Entry]:
    a, flip = config.mean_square, "symmetric flip"
    n, d, _ = config.settings[0]
    for geometry in ("opposite", "line", "orthogonal"):
        yield "linear limit", flip, "fresh", geometry, 0, d, a, 1.0
        for drawn in ("fixed", "fresh"):
            yield "linear", flip, drawn, geometry, n, d, a, 1.0
    yield "linear limit", "asymmetric flip", "fresh", "orthogonal", 0, d, a, 1.0
    for drawn in ("fixed", "fresh"):
        yield "linear", "asymmetric flip", drawn, "orthogonal", n, d, a, 1.0
    for geometry in ("opposite", "line"):
        yield "exact", flip, "fresh", geometry, 0, 1, a, 1.0
    yield "exact", "asymmetric flip", "fresh", "line", 0, 1, a, 1.0
    for square in (a, config.overlapping):
        for drawn in ("fixed", "fresh"):
            yield "memorising", flip, drawn, "opposite", n, 1, square, 1.0
    for points, dim in config.network_settings[:1]:
        for drawn in ("fixed", "fresh"):
            yield "network", flip, drawn, "opposite", points, dim, a, 1.0


def is_flip(cell: Cell) -> bool:
    """Whether labels are flipped, rather than codes or inputs perturbed."""
    return bool(cell["operator"].endswith("flip"))


def strengths_of(config: ConditionsConfig, cell: Cell) -> Strengths:
    """The strengths of a cell, the clean learner first."""
    network, operator = cell["learner"] == "network", "flip" if is_flip(cell) else cell["operator"]
    rates = config.network_rates if network else config.rates
    named = {
        "flip": config.network_etas if network else config.etas,
        "dropout": rates,
        "label smoothing": rates,
        "input perturbation": config.network_gammas if network else config.gammas,
    }
    return named.get(operator, config.network_noise if network else config.noise_stds)
