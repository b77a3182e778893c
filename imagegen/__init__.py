"""Training, sampling and evaluating image models with the operators of `theory` and the samplers and losses of `sim`.

Nothing is here yet: the trainer comes after `sim`. It will import both, and neither imports it.
"""

__all__: list[str] = []
