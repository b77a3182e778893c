"""Every run that has been thought through, in one table: what to train, how long it takes, what it should reach."""

from typing import NamedTuple

from imagegen.config import Config


class Preset(NamedTuple):
    """A config with its `command`, the time it takes, and the score to expect (or that none is known)."""

    config: Config
    command: str
    time: str
    score: str


def _preset(name: str, config: Config, time: str, score: str) -> tuple[str, Preset]:
    return name, Preset(config, f"python -m imagegen train {name}", time, score)


PRESETS: dict[str, Preset] = dict(
    [
        _preset(
            "digits",
            Config(),
            "a minute on 2 cores",
            "debiased W2² per class 1.59 [1.39, 1.79], 96 % recognised (25 steps, w=0, 5 seeds)",
        ),
        _preset(
            "digits-cep",
            Config(condition="cep-g", strength=1.0),
            "a minute on 2 cores",
            "debiased W2² per class 1.52 [1.34, 1.70], 95 % recognised (25 steps, w=0, 5 seeds)",
        ),
        _preset(
            "photographs",
            Config(data="photographs", network="dit-patches", steps=2000, learning_rate=3e-4, samples_every=500),
            "two hours on 2 cores (37 images/s)",
            "none known",
        ),
        _preset(
            "shapes",
            Config(data="shapes", network="dit-patches", steps=2000, learning_rate=3e-4, samples_every=500),
            "two hours on 2 cores (37 images/s)",
            "none known",
        ),
        _preset(
            "shapes-text",
            Config(
                data="shapes",
                text="train",
                text_length=16,
                network="dit-patches",
                steps=2000,
                learning_rate=3e-4,
                samples_every=500,
            ),
            "not measured",
            "none known",
        ),
    ]
)
"""Presets by name."""
