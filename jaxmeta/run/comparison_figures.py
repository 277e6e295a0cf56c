"""Pictures of how languages compare: a dendrogram beside a heat map; and of how sure methods are: reliability."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxmeta.run.figure_style import LIGHT, Figure, Theme, heading, new_figure

_MOST_LANGUAGES = 48  # of a heat map whose labels can be read
_FEW_LANGUAGES = 16  # whose numbers fit into their cells


def similarity(found: Mapping[str, Any], name: str, theme: Theme = LIGHT) -> Figure | None:
    """Draws one measure of `similarity.json` as a heat map, ordered by the dendrogram beside it.

    Judged languages are marked. Of more languages than can be read, the judged ones are drawn with the sources nearest
    to them.
    """
    from matplotlib.ticker import MaxNLocator

    measure = found["measures"].get(name)
    if measure is None or len(found["languages"]) < 2:
        return None
    matrix = np.asarray(measure["matrix"], float)
    kept = readable(matrix, found["roles"])
    matrix, names = matrix[np.ix_(kept, kept)], [found["languages"][place] for place in kept]
    judged = [found["roles"][place] == "test" for place in kept]
    scripts = [found["scripts"][place] for place in kept] if found["scripts"] else []
    if len(set(scripts)) > 1:
        names = [f"{language} ({script.title()})" for language, script in zip(names, scripts, strict=True)]
    tree = clusters(matrix)
    order = tree["leaves"]
    size = 2.6 + (0.42 if len(kept) <= _FEW_LANGUAGES else 0.2) * len(kept)
    width = max(size + 1.8, 6.5)
    figure = new_figure(theme, width, size)
    left, right = figure.subplots(1, 2, width_ratios=(1, 4))
    for xs, ys in zip(tree["icoord"], tree["dcoord"], strict=True):
        # scipy puts leaves at 5, 15, 25, ...: here they stand beside the rows.
        left.plot(ys, (np.array(xs) - 5) / 10, color=theme.quiet, linewidth=1.1)
    left.invert_xaxis()
    left.set_ylim(len(kept) - 0.5, -0.5)
    left.set_yticks([])
    of = measure.get("of", "cosine")
    left.set_xlabel(f"1 - {of}", color=theme.quiet)
    left.spines["left"].set_visible(False)
    left.grid(visible=False)
    image = _heat_map(right, matrix[np.ix_(order, order)], theme)
    right.yaxis.tick_right()
    right.set_yticks(range(len(order)), [names[place] for place in order], fontsize=8.5)
    right.set_xticks(range(len(order)), [names[place] for place in order], fontsize=8.5, rotation=90)
    for axis in (right.get_xticklabels(), right.get_yticklabels()):
        for label, place in zip(axis, order, strict=True):
            label.set_color(theme.meta if judged[place] else theme.ink)
            label.set_fontweight("bold" if judged[place] else "normal")
    right.tick_params(length=0)
    right.grid(visible=False)
    for side in right.spines.values():
        side.set_visible(False)
    less = f" ({len(kept)} of {len(found['languages'])} languages)" if len(kept) < len(found["languages"]) else ""
    bar = figure.colorbar(image, ax=right, location="bottom", shrink=0.6, aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(4)
    bar.ax.set_xlabel(f"{of}; bold: judged languages", color=theme.quiet)
    lines = textwrap.fill(measure["says"].rstrip(".") + less, int(11 * width))
    figure.suptitle(lines, x=0.01, ha="left", color=theme.ink, fontsize=10.5, fontweight="bold")
    return figure


def readable(matrix: np.ndarray, roles: Sequence[str], *, most: int = _MOST_LANGUAGES) -> np.ndarray:
    """Returns the places of at most `most` languages: judged ones, then the sources nearest to any of them."""
    judged = [place for place, role in enumerate(roles) if role == "test"]
    others = [place for place, role in enumerate(roles) if role != "test"]
    if judged:
        others.sort(key=lambda place: -float(matrix[judged, place].max()))
    return np.sort(np.array([*judged, *others][:most]))


def clusters(matrix: np.ndarray) -> dict[str, Any]:
    """Returns scipy's dendrogram of cosines `[N, N]`: average linkage of one minus the cosine."""
    from scipy.cluster.hierarchy import dendrogram, linkage
    from scipy.spatial.distance import squareform

    distance = np.clip(1 - matrix, 0, 2)
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0)
    return dendrogram(linkage(squareform(distance, checks=False), "average"), no_plot=True)


def reliability(calibrated: Mapping[str, Any], theme: Theme = LIGHT) -> Figure | None:
    """Draws how often answers are right against how sure they are, before and after a temperature, by method.

    Args:
      calibrated: under "temperature" of `evaluation.json`.
      theme: the colours.
    """
    methods = calibrated.get("methods", {})
    if not methods:
        return None
    columns = min(3, len(methods))
    rows = -(-len(methods) // columns)
    figure = new_figure(theme, 3.3 * columns + 0.3, 3.3 * rows + 0.5)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (name, result) in zip(grid, methods.items(), strict=False):
        axes.plot([0, 1], [0, 1], color=theme.quiet, linewidth=0.9, linestyle=(0, (2, 3)))
        for when, colour, marker in (("before", theme.baseline, "o"), ("after", theme.meta, "s")):
            bins = result[when]["bins"]
            count = np.array(bins["count"], float)
            there = count > 0
            sure, right = (np.array(bins[key])[there] / count[there] for key in ("confidence", "correct"))
            axes.plot(sure, right, color=colour, linewidth=1.3, alpha=0.8)
            # The area of a dot is the share of answers that are so sure.
            share = count[there] / count.sum()
            label = f"{when}: ECE {result[when]['ece']:.3f}"
            face = theme.paper if when == "before" else colour
            axes.scatter(
                sure, right, s=12 + 160 * share, marker=marker, color=face, edgecolors=colour, zorder=3, clip_on=False
            )
            axes.plot([], [], marker=marker, color=colour, markerfacecolor=face, label=label)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.legend(frameon=False, fontsize=8, loc="upper left", labelcolor=theme.ink)
        heading(axes, theme, f"{name}, T = {result['temperature']['mean']:.2f}")
    for axes in grid[len(methods) :]:
        axes.set_visible(False)
    figure.supxlabel("how sure", color=theme.quiet, fontsize=9)
    figure.supylabel("how often right", color=theme.quiet, fontsize=9)
    return figure


def _heat_map(axes: Any, matrix: np.ndarray, theme: Theme) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    off = matrix[~np.eye(len(matrix), dtype=bool)]
    # That a language is like itself says nothing, and would use up the colours.
    lowest, largest = float(off.min()), max(float(np.abs(off).max()), 1e-6)
    shades = [theme.paper, theme.meta] if lowest >= 0 else [theme.baseline, theme.paper, theme.meta]
    lowest = min(lowest, 0.99 * largest) if lowest >= 0 else -largest
    shown = np.ma.masked_array(matrix, np.eye(len(matrix), dtype=bool))
    colours = LinearSegmentedColormap.from_list("", shades)
    image = axes.imshow(shown, cmap=colours, vmin=lowest, vmax=largest, aspect="auto")
    for row, values in enumerate(matrix if len(matrix) <= _FEW_LANGUAGES else ()):
        for column, value in enumerate(values):
            if row != column:
                pale = max(lowest, 0.0)
                strong = value > pale + 0.6 * (largest - pale) or value < -0.6 * largest
                text = f"{value:.2f}".replace("0.", ".")
                ink = theme.paper if strong else theme.ink
                axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=ink)
    return image
