"""Numbers of a run shown elsewhere while it trains: TensorBoard files, or Weights & Biases.

Both get what `metrics.jsonl` and `speed.jsonl` get, at the same steps, and are optional: `metrics.jsonl` says it all.
Install `patina-diffusion[track]`.

    tensorboard   event files in FOLDER/tensorboard; `tensorboard --logdir runs` shows all runs side by side
    wandb         project "patina", a run named as the folder; its settings are those of its environment variables
"""

import dataclasses
import hashlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from imagegen.config import Config
from theory._checks import require

Numbers = Mapping[str, int | float | None]
"""By name; None is not finite, and left out."""


@runtime_checkable
class Tracker(Protocol):
    """Where numbers go."""

    def log(self, step: int, numbers: Numbers) -> None:
        """Show the numbers of a step."""

    def close(self) -> None:
        """Write what is left, and stop the threads."""


def require_tracker(name: str) -> None:
    """Raise `InputError` where the library of this tracker is not installed."""
    library = LIBRARIES.get(name)
    there = library is None or importlib.util.find_spec(library) is not None
    require(there, "track", name, f"one whose library is installed: pip install {library}")


def make_tracker(name: str, config: Config, folder: Path, done: int) -> Tracker:
    """The tracker of this name for a run in `folder` that goes on after step `done`.

    Raises `InputError` as `require_tracker` does.
    """
    require_tracker(name)
    return _TRACKERS[name](config, folder, done)


class _Nothing:
    def log(self, step: int, numbers: Numbers) -> None:
        pass

    def close(self) -> None:
        pass


class _TensorBoard:
    def __init__(self, config: Config, folder: Path, done: int) -> None:
        from tensorboardX import SummaryWriter

        # what was shown of steps after the checkpoint is done again
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)

    def log(self, step: int, numbers: Numbers) -> None:
        for name, number in finite(numbers).items():
            self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, config: Config, folder: Path, done: int) -> None:
        import wandb

        known = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]  # the same run when it goes on
        self._run = wandb.init(
            project="patina", name=folder.name, id=known, resume="allow", config=dataclasses.asdict(config),
            dir=str(folder),
        )  # fmt: skip

    def log(self, step: int, numbers: Numbers) -> None:
        self._run.log(finite(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


def finite(numbers: Numbers) -> dict[str, float]:
    """The numbers that are finite, without the step."""
    return {name: float(x) for name, x in numbers.items() if name != "step" and x is not None and math.isfinite(x)}


_TRACKERS: dict[str, Callable[[Config, Path, int], Tracker]] = {
    "none": lambda config, folder, done: _Nothing(),
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
}
LIBRARIES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
