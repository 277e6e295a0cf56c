"""The results of an evaluation as a table: for the terminal, and as rows for the report.

An *evaluation* is what `evaluation.json` holds; `jaxmeta.run.records.read_evaluation` reads and checks it.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from jaxmeta.run.plan import BASELINE, META
from jaxmeta.run.units import counted, score_format, unit, units

Evaluation = Mapping[str, Any]

_STYLES = {META: "bold cyan", BASELINE: "yellow", "": ""}
_MARKS = {META: "●", BASELINE: "○", "": " "}
# How a choice on the edge of its grid is named, by what `evaluation.json` calls the setting.
_EXTREMES = {
    "steps": "the largest number of inner steps",
    "learning_rate": "the smallest or largest learning rate",
    "strength": "the smallest or largest strength",
}


class Row(NamedTuple):
    """One method of the table, every cell as the text that is shown."""

    method: str
    kind: str  # META, BASELINE, or "" where the evaluation does not say
    mean: str
    interval: str
    worst_language: str
    worst_quartile: str
    gradient_examples: str
    seconds: str


SCRIPT_HEADERS = (
    *("script", "languages", "texts", "bytes per character", "tokens per character", "tokens per word"),
    *("unknown tokens", "texts cut"),
)


def headers(evaluation: Evaluation) -> tuple[str, ...]:
    """Returns what stands over the columns of the table."""
    worst = f"worst {unit(evaluation)}"
    return ("method", "mean", "95% interval", worst, "worst quarter", "gradient examples", "seconds")


def script_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the texts under `SCRIPT_HEADERS` of what a tokenizer makes of one script."""
    per_word = row["tokens_per_word"]
    return (
        row["script"].capitalize() if len(row["script"]) > 3 else row["script"],  # CJK
        str(len(row["languages"])),
        f"{row['texts']:,}",
        f"{row['bytes_per_character']:.2f}",
        f"{row['tokens_per_character']:.2f}",
        "" if per_word is None else f"{per_word:.2f}",
        *(f"{100 * row[rate]:.1f}%" for rate in ("unknown_rate", "truncation_rate")),
    )


def framed(heading: str, caption: Text | None = None) -> Table:
    """Returns an empty table for the terminal, as all of them look."""
    return Table(
        title=Text(heading, style="bold"),
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )


def results_table(evaluation: Evaluation) -> Table:
    """Returns the table for the terminal, best method first, with what to know of it and the verdict under it.

    Meta-learners carry a filled mark, baselines a hollow one, so the two stay apart without colour.
    """
    caption = Text()
    rows = table_rows(evaluation)
    if any(row.kind for row in rows):
        caption.append(f"{_MARKS[META]} {META}   {_MARKS[BASELINE]} {BASELINE}\n", style="dim")
    for note in filter(None, (edge_note(evaluation), unit_note(evaluation))):
        caption.append(f"{note}\n", style="dim")
    caption.append("\n".join((evaluation["verdict"], *further_sentences(evaluation))), style="bold")
    table = framed(title(evaluation), caption)
    first, *others = headers(evaluation)
    table.add_column(first, overflow="fold", min_width=len(first))
    for header in others:
        # Headings in two lines and numbers in one leave a narrow terminal the room for names.
        table.add_column(header.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        name = Text(f"{_MARKS[row.kind]} {row.method}", style=_STYLES[row.kind])
        table.add_row(name, *(Text(cell) for cell in cells(row)))
    return table


def table_rows(evaluation: Evaluation) -> list[Row]:
    """Returns one row for each method, the best first."""
    show = score_format(evaluation)
    rows = []
    for name in ranked(evaluation):
        method = evaluation["methods"][name]
        language, score = _worst(method["per_language"], evaluation["higher_is_better"])
        rows.append(
            Row(
                method=name,
                kind=kind_of(evaluation, name),
                mean=show(method["mean"]),
                interval=interval_text(method["ci95"], show),
                worst_language=f"{show(score)} {language}",
                worst_quartile=show(method["worst_quartile"]),
                gradient_examples=count_text(method["compute"]["gradient_examples"]),
                seconds=count_text(method["compute"]["seconds"]),
            )
        )
    return rows


def steps_cells(evaluation: Evaluation) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns headers and rows of scores after each number of inner steps, with intervals, the best method first."""
    show, curves = score_format(evaluation), evaluation.get("curves", {}).get("inner_steps", {})
    places = sorted({point["x"] for curve in curves.values() for point in curve})
    rows = []
    for name in (name for name in ranked(evaluation) if name in curves):
        found = {point["x"]: point for point in curves[name]}
        cells = (f"{show(found[x]['mean'])} ({interval_text(found[x]['ci95'], show)})" if x in found else ""
                 for x in places)  # fmt: skip
        rows.append((name, *cells))
    return ("method", *(counted(x, "step") for x in places)), rows


def steps_table(evaluation: Evaluation) -> Table:
    """Returns those for the terminal."""
    headers, rows = steps_cells(evaluation)
    table = framed(f"{evaluation['metric']} after inner steps, with 95% intervals")
    for header in headers:
        table.add_column(header)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def title(evaluation: Evaluation) -> str:
    """Returns one line that says what was measured, in which direction, on how much."""
    metric = evaluation["metric"]
    direction = "higher" if evaluation["higher_is_better"] else "lower"
    counts = (
        counted(len(evaluation["languages"]), f"held-out {unit(evaluation)}"),
        counted(evaluation["shots"], "shot"),
        counted(len(evaluation["training_seeds"]), "training seed"),
        counted(len(evaluation["shot_seeds"]), "draw") + " of shots",
    )
    return f"{evaluation['task']}: {metric} ({direction} is better), {', '.join(counts)}"


def ranked(evaluation: Evaluation) -> list[str]:
    """Returns the names of the methods, the best mean first; one that is not a number comes last."""
    sign = -1 if evaluation["higher_is_better"] else 1

    def merit(name: str) -> float:
        mean = evaluation["methods"][name]["mean"]
        return math.inf if math.isnan(mean) else sign * mean

    return sorted(evaluation["methods"], key=merit)


def edge_note(evaluation: Evaluation) -> str:
    """Returns a sentence that names the methods whose choice lies on the edge of what was tried; "" without any."""
    parts, edges = [], {name: _on_edge(evaluation["methods"][name]) for name in ranked(evaluation)}
    # What only classical baselines choose has the name that they give it.
    for setting in dict.fromkeys((*_EXTREMES, *(edge for found in edges.values() for edge in found))):
        names = [name for name, found in edges.items() if setting in found]
        if names:
            extreme = _EXTREMES.get(setting, f"the smallest or largest {setting.replace('_', ' ')}")
            parts.append(f"{', '.join(names)} chose {extreme} offered")
    return f"{'; '.join(parts)}: with others they may do better." if parts else ""


def unit_note(evaluation: Evaluation) -> str:
    """Returns what the intervals of a single language, or speaker, and of a single training seed do not say; "" where
    there are several of both."""
    one, others, notes = unit(evaluation), units(evaluation), []
    if len(evaluation["languages"]) == 1:
        notes.append(
            f"One held-out {one}: intervals are over its draws and training seeds, and say nothing of other {others}."
        )
    trained = any(method["compute"]["gradient_examples"] > 0 for method in evaluation["methods"].values())
    if trained and len(evaluation["training_seeds"]) == 1:
        notes.append("One training seed: intervals do not say how other trainings would do.")
    return " ".join(notes)


def further_sentences(evaluation: Evaluation) -> list[str]:
    """Returns what there is to say beside the verdict: of transfer and its guard, of sources, of who is sooner."""
    told = ("transfer", "guard", "leave_one_out", "reaching")
    generated = [
        _generated(name, r["told"]) for name, r in evaluation["methods"].items() if "numbers" in r.get("told", {})
    ]
    return [evaluation[key]["says"] for key in told if key in evaluation] + generated


def _generated(name: str, told: Mapping[str, float]) -> str:
    shares = (f"{100 * told[key]:.0f}% of {key.removesuffix('_open')}" for key in told if key.endswith("_open"))
    return (
        f"{name} uses {told['numbers']:,.0f} of {told['of']:,.0f} numbers that it could generate: {', '.join(shares)}."
    )


def kind_of(evaluation: Evaluation, name: str) -> str:
    """Returns META, BASELINE or "": what the method says of itself, or what it was the best of."""
    said = evaluation["methods"][name].get("kind")
    if said:
        return said
    return {evaluation["best_meta_learner"]: META, evaluation["best_baseline"]: BASELINE}.get(name, "")


def interval_text(ends, show) -> str:
    """Returns `low - high` with a dash that keeps negative numbers readable."""
    low, high = ends
    return f"{show(low)} to {show(high)}"


def cells(row: Row) -> tuple[str, ...]:
    """Returns the texts under `headers`, all but the first."""
    return (
        row.mean,
        row.interval,
        row.worst_language,
        row.worst_quartile,
        row.gradient_examples,
        row.seconds,
    )


def _on_edge(method: Mapping[str, Any]) -> list[str]:
    return method.get("adaptation", {}).get("on_edge", [])


def _worst(per_language: Mapping[str, float], higher_is_better: bool) -> tuple[str, float]:
    # A score that is not a number is worse than any number.
    def badness(item: tuple[str, float]) -> float:
        score = item[1]
        return math.inf if math.isnan(score) else -score if higher_is_better else score

    return max(per_language.items(), key=badness)


def count_text(value: float) -> str:
    """Returns a count as it is read at a glance: 1.20M."""
    if not math.isfinite(value):
        return str(value)
    for size, suffix in ((1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.2f}{suffix}"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
