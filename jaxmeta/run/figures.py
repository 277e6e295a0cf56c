"""The pictures of a report. Each function draws one figure, or returns None where its data are absent.

Lines are labelled at their ends, not in a legend; baselines are hollow and dashed, so that the two kinds stay
apart without colour.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxmeta.run.figure_style import LIGHT, Figure, Theme, heading, label_ends, log_scale, new_figure
from jaxmeta.run.plan import BASELINE, META
from jaxmeta.run.table import Evaluation, interval_text, kind_of, ranked
from jaxmeta.run.units import counted, score_format, unit, units

_LANGUAGES_PER_ROW = 40
_SHARES = ("accuracy", "recall_at_1", "exact_span", "token_accuracy")  # what training reports of what was right
_SHORT: dict[str, str] = {
    name.lower(): name for name in ("BLEU", "chrF", "chrF++", "CSLS", "F1", "MAE", "MRR", "MSE", "NLL", "RMSE", "ROUGE")
}  # how names of scores are spelled in headings


def learning_curves(records: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> Figure | None:
    """Draws the loss, and the share that was right, against the step: one line for each phase, the mean of its seeds.

    Args:
      records: the lines of `metrics.jsonl` that carry a `phase` (`name`, or `name/seed_n` where there are several), a
        `step` and a `loss`.
      theme: the colours.
    """
    phases = list(dict.fromkeys(_without_seed(record["phase"]) for record in records))
    if not phases:
        return None
    keys = ["loss", *(key for key in _SHARES if any(key in record for record in records))][:2]
    figure = new_figure(theme, 4.9 * len(keys) + 0.4, max(3.5, 1.1 + 0.2 * len(phases)))
    for axes, key in zip(np.ravel(figure.subplots(1, len(keys))), keys, strict=True):
        ends = []
        for index, phase in enumerate(phases):
            own = [record for record in records if _without_seed(record["phase"]) == phase and key in record]
            steps, values = _mean_over_seeds(own, key)
            if not len(steps):
                continue
            colour = theme.lines[index % len(theme.lines)]
            smooth = _smooth(values)
            if len(values) > len(_WINDOW) * 2:
                axes.plot(steps, values, color=colour, alpha=0.22, linewidth=0.8)
            axes.plot(steps, smooth, color=colour, linewidth=1.8)
            ends.append((steps[-1], smooth[-1], phase, colour))
        if key != "loss":
            from matplotlib.ticker import PercentFormatter

            # In training it is a share; one that passes 1 was written in percent already.
            axes.yaxis.set_major_formatter(PercentFormatter(1 if axes.dataLim.y1 <= 1 else 100, decimals=0))
        label_ends(axes, ends)
        axes.set_xlabel("step", color=theme.quiet)
        heading(axes, theme, f"{key[:1].upper()}{key[1:]} in training")
    return figure


def methods(evaluation: Evaluation, theme: Theme = LIGHT) -> Figure | None:
    """Draws the mean of every method with its interval, the best on top."""
    names = [name for name in ranked(evaluation) if np.isfinite(evaluation["methods"][name]["mean"])]
    if not names:
        return None
    show = score_format(evaluation)
    figure = new_figure(theme, 8.6, 0.9 + 0.36 * len(names))
    axes = figure.subplots()
    for row, name in enumerate(names):
        method = evaluation["methods"][name]
        kind = kind_of(evaluation, name)
        colour = {META: theme.meta, BASELINE: theme.baseline}.get(kind, theme.quiet)
        axes.plot(method["ci95"], [row, row], color=colour, linewidth=2.4, alpha=0.55, solid_capstyle="butt")
        # A hollow dot says "baseline" to readers who do not see the colour.
        face = theme.paper if kind == BASELINE else colour
        axes.plot(method["mean"], row, "o", markersize=7, color=colour, markerfacecolor=face, markeredgewidth=1.8)
        text = f"{show(method['mean'])}  ({interval_text(method['ci95'], show)})"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", color=theme.ink, fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.06)
    heading(axes, theme, f"{_metric(evaluation)} of all methods, with 95% intervals over {units(evaluation)}")
    if any(kind_of(evaluation, name) for name in names):
        axes.set_xlabel("filled: meta-learner      hollow: baseline", color=theme.quiet)
    return figure


def gains(evaluation: Evaluation, theme: Theme = LIGHT) -> Figure | None:
    """Draws, language by language, what the best meta-learner gains over the best baseline, sorted.

    The band is the paired interval of the mean.
    """
    winner, rival = evaluation["best_meta_learner"], evaluation["best_baseline"]
    if not winner or not rival:
        return None
    ours, theirs = (evaluation["methods"][name]["per_language"] for name in (winner, rival))
    sign = 1 if evaluation["higher_is_better"] else -1
    gain = {language: sign * (ours[language] - theirs[language]) for language in ours if language in theirs}
    gain = dict(sorted(((k, v) for k, v in gain.items() if np.isfinite(v)), key=lambda item: -item[1]))
    if not gain:
        return None
    paired = evaluation["paired"].get(f"{winner} - {rival}", {})
    num_rows = -(-len(gain) // _LANGUAGES_PER_ROW)
    per_row = -(-len(gain) // num_rows)
    width = max(7.0, 1.4 + 0.235 * per_row)
    figure = new_figure(theme, width, 1.1 + 2.35 * num_rows)
    grid = figure.subplots(num_rows, 1, sharey=True, squeeze=False)[:, 0]
    languages = list(gain)
    upright = sum(map(len, languages)) * 0.11 + 0.25 * len(languages) < width - 1
    for row, axes in enumerate(grid):
        part = languages[row * per_row : (row + 1) * per_row]
        if paired and np.isfinite(paired["ci95"]).all():
            axes.axhspan(*paired["ci95"], color=theme.quiet, alpha=0.16, linewidth=0)
            axes.axhline(paired["mean"], color=theme.quiet, linewidth=1, linestyle=(0, (5, 3)))
        heights = np.array([gain[language] for language in part])
        colours = [theme.meta if height >= 0 else theme.baseline for height in heights]
        axes.bar(range(len(part)), heights, width=min(0.72, 0.06 * per_row), color=colours, zorder=2)
        axes.axhline(0, color=theme.ink, linewidth=0.9, zorder=3)
        axes.set_xticks(range(len(part)), part, rotation=0 if upright else 90, fontsize=8.5)
        axes.set_xlim(-0.7, per_row - 0.3)
        axes.tick_params(axis="x", length=0)
        axes.spines["bottom"].set_visible(False)
        axes.grid(visible=False, axis="x")
    wins, losses = sum(v > 0 for v in gain.values()), sum(v < 0 for v in gain.values())
    won = counted(wins, unit(evaluation))
    text = f"What {winner} gains over {rival} in {evaluation['metric']}\n{won} win, {losses} lose"
    if paired:
        show = score_format(evaluation)
        text += f"; mean gain {show(paired['mean'])} (95%: {interval_text(paired['ci95'], show)})"
    heading(grid[0], theme, text)
    return figure


def curve(evaluation: Evaluation, name: str, theme: Theme = LIGHT) -> Figure | None:
    """Draws the score against `inner_steps` or `shots`, a line with its band for each method."""
    curves = {k: v for k, v in evaluation.get("curves", {}).get(name, {}).items() if v}
    if not curves:
        return None
    label = {"inner_steps": "inner steps", "shots": "shots"}.get(name, name)
    figure = new_figure(theme, 7.6, max(4.0, 1.2 + 0.24 * len(curves)))
    axes = figure.subplots()
    order = [method for method in ranked(evaluation) if method in curves]
    order += [method for method in curves if method not in order]
    ends = []
    colours = {META: iter(theme.lines * 9), BASELINE: iter(theme.lines[::-1] * 9), "": iter(theme.lines * 9)}
    for method in order:
        kind = kind_of(evaluation, method) if method in evaluation["methods"] else ""
        points = sorted(curves[method], key=lambda point: point["x"])
        xs = np.array([point["x"] for point in points], float)
        means = np.array([point["mean"] for point in points], float)
        ends_of_band = np.array([point["ci95"] for point in points], float)
        colour = next(colours[kind])
        alpha = min(0.13, 0.6 / len(curves))
        axes.fill_between(xs, ends_of_band[:, 0], ends_of_band[:, 1], color=colour, alpha=alpha, linewidth=0)
        line = (0, (4, 2)) if kind == BASELINE else "-"
        face = theme.paper if kind == BASELINE else colour
        axes.plot(xs, means, "o", linestyle=line, color=colour, linewidth=1.8, ms=4.5, markerfacecolor=face)
        ends.append((xs[-1], means[-1], method, colour))
    ticks = sorted({float(point["x"]) for points in curves.values() for point in points})
    if ticks[-1] > 12 and len(ticks) > 2:
        # Few steps and few shots are the interesting ones: give them room.
        axes.set_xscale("symlog", base=2, linthresh=max(1.0, ticks[0]))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.tick_params(axis="x", which="minor", length=0)
    heights = [end[1] for end in ends if end[1] > 0]
    if not evaluation["higher_is_better"] and heights and max(heights) > 8 * min(heights):
        log_scale(axes)
    label_ends(axes, ends)
    key = "      solid: meta-learner, dashed: baseline" if any(kind_of(evaluation, m) for m in order) else ""
    axes.set_xlabel(label + key, color=theme.quiet)
    heading(axes, theme, f"{_metric(evaluation)} against {label}")
    return figure


def fits(examples: Sequence[Mapping[str, Any]], theme: Theme = LIGHT, *, at_most: int = 6) -> Figure | None:
    """Draws regression tasks before and after adaptation: truth, support points, predictions."""
    examples = list(examples)[:at_most]
    if not examples:
        return None
    columns = min(3, len(examples))
    rows = -(-len(examples) // columns)
    figure = new_figure(theme, 3.4 * columns + 0.4, 2.5 * rows + 0.7)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    names = list(examples[0]["predictions"])
    # From pale before to full strength after: the order of the steps is the order of the shades.
    shades = dict(zip(names, np.linspace(0.55, 1.0, len(names)), strict=True))
    handles = {}
    for axes, example in zip(grid, examples, strict=False):
        (handles["truth"],) = axes.plot(example["x"], example["truth"], color=theme.ink, linewidth=1.2, zorder=3)
        for name, values in example["predictions"].items():
            last = name == names[-1]
            style = "-" if last else (0, (4, 2)) if name == names[0] else (0, (1, 1))
            (handles[name],) = axes.plot(
                example["x"],
                values,
                color=theme.meta if last else theme.baseline,
                alpha=shades.get(name, 1.0),
                linewidth=3.2 if last else 1.5,
                linestyle=style,
            )
        (handles["support points"],) = axes.plot(
            example["support_x"], example["support_y"], "^", color=theme.lines[2], markersize=6, zorder=4
        )
    for axes in grid[len(examples) :]:
        axes.set_visible(False)
    heading(grid[0], theme, "Before and after adaptation")
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(6, len(handles)),
        frameon=False,
    )
    return figure


_WINDOW = np.hanning(9)[1:-1]


def _without_seed(phase: str) -> str:
    return phase.partition("/")[0]


def _mean_over_seeds(records: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    # A resumed run writes the steps after its checkpoint again: the later line counts.
    last = {(record["step"], record["phase"]): record[key] for record in records}
    steps = np.array(sorted({step for step, _ in last}), float)
    values = [np.mean([value for (step, _), value in last.items() if step == at]) for at in steps]
    return steps, np.array(values, float)


def _smooth(values: np.ndarray) -> np.ndarray:
    if len(values) <= 2 * len(_WINDOW):
        return values
    weight = np.convolve(np.ones(len(values)), _WINDOW, mode="same")
    return np.convolve(values, _WINDOW, mode="same") / weight


def _metric(evaluation: Evaluation) -> str:
    metric: str = evaluation["metric"]
    first, *others = metric.replace("_at_", "@").split("_")
    return " ".join([_SHORT.get(first, first.capitalize()), *(_SHORT.get(word, word) for word in others)])
