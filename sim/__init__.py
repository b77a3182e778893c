"""Exact small-scale diffusions: exact denoisers, samplers, losses and optimal transport, compared with `theory`.

Nothing is here yet: the denoisers, samplers, losses and experiments come with the next floor of the project. It will
import `theory` and be imported by `imagegen`, never the other way.
"""

__all__: list[str] = []
