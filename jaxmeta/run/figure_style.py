"""How the figures of a report look: colours, labels at the ends of lines, PNG.

Colours are Okabe and Ito's, which stay apart for colour-blind readers. Nothing here touches `pyplot`, so
there is no global state and no display.
"""

import io
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxmeta.core.checks import InputError

Figure = Any  # matplotlib.figure.Figure, which is imported only when something is drawn
Axes = Any  # matplotlib.axes.Axes


class Theme(NamedTuple):
    """The colours of one appearance."""

    paper: str
    ink: str
    quiet: str
    grid: str
    meta: str
    baseline: str
    lines: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1b1f24",
    quiet="#626b76",
    grid="#e6e9ed",
    meta="#0072b2",
    baseline="#d55e00",
    lines=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b08a00", "#3a9bd9", "#5b5b5b", "#7a3fa0"),
)
DARK = Theme(
    paper="#161b22",
    ink="#e6edf3",
    quiet="#98a2ae",
    grid="#2b323b",
    meta="#56b4e9",
    baseline="#f0894a",
    lines=("#56b4e9", "#f0894a", "#2fc79a", "#e39bc4", "#e6c229", "#a9d6f5", "#b8bec6", "#b794e0"),
)


def require_matplotlib() -> None:
    """Raises `InputError` naming the extra where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InputError('pictures need matplotlib: pip install "jaxmeta[viz]"') from None


def new_figure(theme: Theme, width: float, height: float) -> Figure:
    """Returns an empty figure, in inches."""
    from matplotlib.figure import Figure as MatplotlibFigure

    return MatplotlibFigure(figsize=(width, height), layout="constrained", facecolor=theme.paper)


def heading(axes: Axes, theme: Theme, text: str) -> None:
    """Writes a title over the left end of the axes."""
    axes.set_title(text, loc="left", color=theme.ink, fontsize=10.5, fontweight="bold", pad=9)


def log_scale(axes: Axes) -> None:
    """Makes the vertical axis logarithmic, with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes names to the right of the axes, each with a thin line from the end of its curve.

    Args:
      axes: where the curves are drawn already; its limits are fixed by this.
      ends: x, y, name and colour of every curve's last point.
    """
    shown = [end for end in ends if np.isfinite(end[1])]
    if not shown:
        return
    # Limits are lazy: settle them before a height is read off.
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    to_fraction = axes.transScale + axes.transLimits
    heights = [to_fraction.transform((x, y))[1] for x, y, _, _ in shown]
    gap = 0.18 / (axes.figure.get_figheight() - 0.8)
    line = {"arrowstyle": "-", "linewidth": 0.7, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 4}
    for height, (x, y, name, colour) in zip(spread_labels(heights, gap), shown, strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(1.03, height),
            textcoords=axes.transAxes,
            annotation_clip=False,
            color=colour,
            fontsize=9,
            fontweight="bold",
            va="center",
            arrowprops=line | {"color": colour},
        )


def png(figure: Figure, *, dpi: int = 144) -> bytes:
    """Returns the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A language named in a script that the font lacks is drawn as boxes; the tables still hold its name.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def style(theme: Theme):
    """Returns the context in which figures of a theme are made and saved."""
    import matplotlib

    return matplotlib.rc_context(
        {
            "font.size": 9.5,
            "text.parse_math": False,
            "text.color": theme.ink,
            "axes.facecolor": theme.paper,
            "axes.edgecolor": theme.quiet,
            "axes.labelcolor": theme.quiet,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.8,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.labelsize": 9,
            "grid.color": theme.grid,
            "grid.linewidth": 0.8,
            "xtick.color": theme.quiet,
            "ytick.color": theme.quiet,
            "xtick.labelcolor": theme.ink,
            "ytick.labelcolor": theme.ink,
            "xtick.major.size": 3,
            "ytick.major.size": 0,
        }
    )


def spread_labels(heights: Sequence[float], gap: float) -> np.ndarray:
    """Moves heights in [0, 1] as little as possible (least squares) until neighbours are `gap` apart.

    All stay in [0, 1] where they fit there.
    """
    order = np.argsort(heights, kind="stable")
    offsets = gap * np.arange(len(order))
    # Heights less their offsets must not fall: an isotonic regression, by pooling adjacent violators.
    blocks: list[tuple[float, int]] = []
    for value in np.asarray(heights, float)[order] - offsets:
        mean, count = float(value), 1
        while blocks and blocks[-1][0] > mean:
            before, size = blocks.pop()
            mean, count = (mean * count + before * size) / (count + size), count + size
        blocks.append((mean, count))
    moved = np.concatenate([np.full(count, mean) for mean, count in blocks])
    moved = np.clip(moved, 0, max(0.0, 1 - offsets[-1])) + offsets
    result = np.empty(len(order))
    result[order] = moved
    return result
