"""The look that all figures share: colours that everybody can tell apart, and no global matplotlib state."""

from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
"""Okabe and Ito's colour-blind-safe palette (2008), darkest contrasts first."""

STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
}


def new_figure(
    *, rows: int = 1, columns: int = 1, size: tuple[float, float] | None = None, share_x: bool = False
) -> tuple[Figure, list[Axes]]:
    """An empty figure in the shared style and its axes, row by row; `size` in inches (by default 6.4 wide)."""
    with rc_context(STYLE):
        figure = Figure(figsize=size or (6.4, 1.2 + 2.6 * rows))
        axes = figure.subplots(rows, columns, squeeze=False, sharex=share_x)
    return figure, list(axes.flat)
