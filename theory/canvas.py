"""The look that all figures share: colours that everybody can tell apart, and no global matplotlib state.

The style is applied through a context, and figures are sized so that text stays readable at the width of a phone.
Colours are Okabe and Ito's (2008). `save` writes a PNG, `png` gives its bytes.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""Okabe and Ito's colours, yellow left out: it is too pale for lines on white."""
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":")
STYLE: dict[Any, Any] = {
    "figure.figsize": (5.2, 3.7),
    "figure.dpi": 160,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "axes.formatter.useoffset": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Apply `STYLE` within a `with` block; matplotlib's settings are as before afterwards."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def new_figure(
    *, rows: int = 1, columns: int = 1, size: tuple[float, float] | None = None, share_x: bool = False
) -> "tuple[Figure, list[Axes]]":
    """An empty figure in the shared style and its axes, row by row; `size` in inches (by default 5.2 wide)."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=size or (5.2, 0.9 + 2.8 * rows))
        axes = figure.subplots(rows, columns, squeeze=False, sharex=share_x)
    return figure, list(axes.flat)


def png(figure: "Figure") -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def save(figure: "Figure", path: str | Path) -> Path:
    """Write the figure as PNG and return the path."""
    file = Path(path)
    file.write_bytes(png(figure))
    return file
