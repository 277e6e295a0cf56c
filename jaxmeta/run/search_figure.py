"""The picture of a search: a line for each trial through everything that was varied, to its score."""

import math
from collections.abc import Sequence

import numpy as np

from jaxmeta.run.figure_style import LIGHT, Figure, Theme, new_figure
from jaxmeta.run.samplers import Between, Space, Trial, share


def parallel_coordinates(
    trials: Sequence[Trial], space: Space, metric: str, *, higher_is_better: bool, theme: Theme = LIGHT
) -> Figure:
    """Draws parallel coordinates (Inselberg 1985): better trials in stronger colour, on top; no diverged ones."""
    shown = sorted(
        (trial for trial in trials if math.isfinite(trial.score)),
        key=lambda trial: trial.rank(higher_is_better=higher_is_better),
    )
    keys = list(space)
    scores = np.array([trial.score for trial in shown])
    low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 1.0)
    figure = new_figure(theme, 2.2 * (len(keys) + 1), 4.0)
    axes = figure.subplots(1, 1)
    for place, trial in enumerate(shown):
        heights = [share(space[key], trial.values[key]) for key in keys]
        heights.append((trial.score - low) / (high - low) if high > low else 0.5)
        best = place == len(shown) - 1
        axes.plot(
            range(len(heights)), heights, color=theme.baseline if best else theme.meta,
            alpha=1.0 if best else 0.15 + 0.5 * place / len(shown), linewidth=2.2 if best else 1.2,
        )  # fmt: skip
    for place, key in enumerate(keys):
        bottom, top = _ends(space[key])
        axes.annotate(bottom, (place, -0.04), ha="center", va="top", color=theme.quiet, fontsize=8)
        axes.annotate(top, (place, 1.04), ha="center", va="bottom", color=theme.quiet, fontsize=8)
    for text, height, side in ((f"{low:.4g}", -0.04, "top"), (f"{high:.4g}", 1.04, "bottom")):
        axes.annotate(text, (len(keys), height), ha="center", va=side, color=theme.quiet, fontsize=8)
    for place in range(len(keys) + 1):
        axes.axvline(place, color=theme.grid, linewidth=1.0, zorder=0)
    axes.set_xticks(range(len(keys) + 1), [*keys, f"dev {metric}"])
    axes.set_ylim(-0.15, 1.15)
    axes.set_yticks([])
    axes.grid(visible=False)
    return figure


def _ends(domain) -> tuple[str, str]:
    first, last = (domain.low, domain.high) if isinstance(domain, Between) else (domain[0], domain[-1])
    return _shown(first), _shown(last)


def _shown(end) -> str:
    return f"{end:.3g}" if isinstance(end, float) else str(end)
