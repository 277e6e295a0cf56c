"""Methods side by side: which won, by how much each of the others is behind, and what each costs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from jaxmeta.run.planner import size_text
from jaxmeta.run.statistics import Paired, paired_difference
from jaxmeta.run.table import Evaluation, count_text, framed, interval_text, ranked, score_format, title
from jaxmeta.run.units import unit, units

HEADERS = (
    *("method", "mean", "95% interval", "behind by", "95% interval", "worse in", "better in"),
    *("gradients", "memory"),
)


class Comparison(NamedTuple):
    """What an evaluation says of the method that was the best on the dev languages, against each of the others."""

    winner: str
    behind: dict[str, Paired]  # of each other method, how much better the winner is on the test languages


def compare(evaluation: Evaluation) -> Comparison:
    """Returns how far each method is behind the one that did best on the dev languages.

    The winner is not picked on the test languages, so that its luck there is not counted as merit.
    """
    methods, higher = evaluation["methods"], evaluation["higher_is_better"]
    sign = 1.0 if higher else -1.0
    winner = max(methods, key=lambda name: sign * methods[name]["adaptation"]["dev_score"])
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
    winner, behind, metric, others = found.winner, found.behind, evaluation["metric"], units(evaluation)

    def figures(pair: Paired) -> str:
        return f"{pair.mean:.2f} {metric} (95% interval {pair.low:.2f} to {pair.high:.2f})"

    better = [name for name, pair in behind.items() if pair.high < 0]
    if len(better) > 1:  # which of them is best was not asked of the dev tasks
        return (
            f"{', '.join(better)} are ahead of {winner}, which was the best on the dev {others}, {better[0]} by "
            f"{figures(behind[better[0]].reversed())}; the differences are real, though the dev {others} did not "
            "foresee them, and cannot say which of these is the best."
        )
    if better:
        name = better[0]
        return (
            f"{name} won: it is ahead of {winner}, which was the best on the dev {others}, by "
            f"{figures(behind[name].reversed())}; the difference is real, though the dev {others} did not foresee it."
        )
    open_ = [name for name, pair in behind.items() if not pair.low > 0]
    if not open_:
        name = min(behind, key=lambda name: behind[name].mean)
        return f"{winner} won: the next one, {name}, is behind by {figures(behind[name])}; the difference is real."
    beaten = [name for name in behind if name not in open_]
    least = min(open_, key=lambda name: behind[name].mean)
    rest = f" It is ahead of {', '.join(beaten)}, and that is real." if beaten else ""
    return (
        f"Nothing won alone: {winner}, the best on the dev {others}, cannot be told apart from {', '.join(open_)}; "
        f"from {least} it differs by {figures(behind[least])}.{rest}"
    )


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
