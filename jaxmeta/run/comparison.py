"""Methods side by side: which won, by how much each of the others is behind, and what each costs."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from jaxmeta.run.planner import size_text
from jaxmeta.run.statistics import Paired, paired_difference
from jaxmeta.run.table import Evaluation, count_text, framed, interval_text, ranked, title
from jaxmeta.run.units import counted, difference_format, score_format, unit, units

HEADERS = (
    *("method", "mean", "95% interval", "behind by", "95% interval", "worse in", "better in"),
    *("gradients", "memory"),
)


class Comparison(NamedTuple):
    """What an evaluation says of the method that was the best on the dev languages, against each of the others."""

    winner: str
    behind: dict[str, Paired]  # of each other method, how much better the winner is on the test languages


def best_on_dev(methods: Mapping[str, Mapping[str, Any]], *, higher_is_better: bool) -> str:
    """Returns the method that did best on the dev languages, of those that have a finite score on the test languages.

    It is not picked on the test languages, so that its luck there is not counted as merit. Where none has one, all
    count.
    """
    sign = 1.0 if higher_is_better else -1.0

    def merit(name: str) -> float:
        score = sign * methods[name]["adaptation"]["dev_score"]
        return score if np.isfinite(score) else -np.inf

    return max([name for name in methods if np.isfinite(methods[name]["mean"])] or list(methods), key=merit)


def diverged(evaluation: Evaluation, names: Iterable[str]) -> str:
    """Returns a sentence for those methods that have no finite score somewhere, of which no mean can be told; "" where
    there is none."""
    found = []
    for name in names:
        scores = evaluation["methods"][name]["per_language"].values()
        if bad := sum(not np.isfinite(score) for score in scores):
            found.append(f"{name} in {bad} of {counted(len(scores), unit(evaluation))}")
    return f"Without a finite score, and so not compared: {', '.join(found)}." if found else ""


def compare(evaluation: Evaluation) -> Comparison:
    """Returns how far each method is behind the one that did best on the dev languages."""
    methods, higher = evaluation["methods"], evaluation["higher_is_better"]
    winner = best_on_dev(methods, higher_is_better=higher)
    grids = {name: np.array(list(method["repetitions"].values())) for name, method in methods.items()}
    behind = {
        name: paired_difference(
            grids[winner], grids[name], higher_is_better=higher, training_seeds=len(evaluation["training_seeds"])
        )
        for name in ranked(evaluation)
        if name != winner
    }
    return Comparison(winner, behind)


def sentence(evaluation: Evaluation, found: Comparison) -> str:
    """Returns what won, by how much, and whether the difference is real: whether its interval leaves zero out."""
    said = _sentence(evaluation, found._replace(behind={n: p for n, p in found.behind.items() if np.isfinite(p.mean)}))
    return " ".join(filter(None, (said, diverged(evaluation, (found.winner, *found.behind)))))


def _sentence(evaluation: Evaluation, found: Comparison) -> str:
    winner, behind, others = found.winner, found.behind, units(evaluation)
    if not behind:
        return f"There is nothing to compare {winner} with."
    figures = partial(figures_text, evaluation)
    if is_single(evaluation):  # no interval, and nothing to call real
        name = min(behind, key=lambda name: abs(behind[name].mean))
        ahead, pair = (name, behind[name].reversed()) if behind[name].mean < 0 else (winner, behind[name])
        return (
            f"{winner} was the best on the dev {others}, {name} is the nearest to it, and {ahead} is ahead by "
            f"{figures(pair)}: one score of each, which says nothing of what is real."
        )
    here = "" if len(evaluation["languages"]) > 1 else f" in this one {unit(evaluation)}"
    better = [name for name, pair in behind.items() if pair.high < 0]
    if better:
        first, ahead = better[0], figures(behind[better[0]].reversed())
        best = f"{winner}, which was the best on the dev {others}"
        if len(behind) == 1:
            return (
                f"{first} won: it is ahead of {best}, by {ahead}; the difference is real{here}, though the dev "
                f"{others} did not foresee it."
            )
        # Which of them is best, if any, was not asked of the dev tasks.
        if len(better) == 1:
            return (
                f"{first} is ahead of {best}, by {ahead}; the difference is real{here}, though the dev {others} did "
                f"not foresee it, and cannot say that {first} is the best."
            )
        return (
            f"{', '.join(better)} are ahead of {best}, {first} by {ahead}; the differences are real{here}, though the "
            f"dev {others} did not foresee them, and cannot say which of these is the best."
        )
    open_ = [name for name, pair in behind.items() if not pair.low > 0]
    if not open_:
        name = min(behind, key=lambda name: behind[name].mean)
        return (
            f"{winner} won: the next one, {name}, is behind by {figures(behind[name])}; the difference is real{here}."
        )
    beaten = [name for name in behind if name not in open_]
    least = min(open_, key=lambda name: behind[name].mean)
    rest = f" It is ahead of {', '.join(beaten)}, and that is real{here}." if beaten else ""
    return (
        f"Nothing won alone: {winner}, the best on the dev {others}, cannot be told apart from {', '.join(open_)}; "
        f"from {least} it differs by {figures(behind[least])}.{rest}"
    )


def is_single(evaluation: Evaluation) -> bool:
    """Whether each method has a single score, so that there is no interval."""
    return len(evaluation["languages"]) * len(evaluation["training_seeds"]) * len(evaluation["shot_seeds"]) == 1


def figures_text(evaluation: Evaluation, pair: Paired, more: str = "") -> str:
    """Returns a difference with its interval, and what else there is to say of it, in brackets."""
    show = difference_format(evaluation)
    inside = "" if is_single(evaluation) else f"95% interval {show(pair.low)} to {show(pair.high)}"
    inside = "; ".join(filter(None, (inside, more)))
    return f"{show(pair.mean)} {evaluation['metric']}" + (f" ({inside})" if inside else "")


def comparison_table(evaluation: Evaluation) -> Table:
    """Returns the table for the terminal, the best mean first, with the sentence under it."""
    found, show = compare(evaluation), score_format(evaluation)
    caption = Text(
        f"behind: paired by {unit(evaluation)}, draw and seed, each interval by itself; gradients: of one example, in "
        "training; memory: temporary arrays of one step of it, as compiled\n",
        style="dim",
    )
    caption.append(sentence(evaluation, found), style="bold")
    table = framed(title(evaluation), caption)
    for place, header in enumerate(HEADERS):
        if place:
            table.add_column(header.replace(" ", "\n"), justify="right", no_wrap=True)
        else:  # a name that is cut might be that of another method
            table.add_column(header, overflow="fold", min_width=len(header))
    for name in ranked(evaluation):
        method: Mapping[str, Any] = evaluation["methods"][name]
        compute = method["compute"]
        paired = [""] * 4
        if name != found.winner:
            pair = found.behind[name]
            paired = [show(pair.mean), interval_text(pair[1:3], show), str(pair.wins), str(pair.losses)]
        table.add_row(
            name,
            show(method["mean"]),
            interval_text(method["ci95"], show),
            *paired,
            count_text(compute["gradient_examples"]),
            size_text(compute["step_bytes"]) if "step_bytes" in compute else "",
            style="bold" if name == found.winner else "",
        )
    return table
