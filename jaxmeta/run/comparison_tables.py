"""The tables of how languages and sources compare, and of calibration, as the page of a report shows them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxmeta.run.table import interval_text, steps_cells
from jaxmeta.run.units import score_format, unit, units

_TITLES = {"nll": "negative log-likelihood", "brier": "Brier score", "ece": "calibration error (ECE)"}


class Section(NamedTuple):
    """A table with a heading and a note."""

    heading: str
    note: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]


def comparison_tables(evaluation: Mapping[str, Any]) -> Iterator[Section]:
    """Yields what there is: scores by steps, calibration, temperatures, transfer, its guard, and sources left out."""
    note = "By the learning rate that was chosen, with 95% intervals; zero steps is no adaptation."
    yield Section("Scores by inner steps", note, *steps_cells(evaluation))
    yield _calibration(evaluation.get("calibration", {}))
    if "temperature" in evaluation:
        yield _temperature(evaluation["temperature"])
    if "transfer" in evaluation:
        yield from _transfer(evaluation)
    if "guard" in evaluation:
        yield _guard(evaluation)
    if "leave_one_out" in evaluation:
        yield _left_out(evaluation)


def _calibration(scores: Mapping[str, Mapping[str, float]]) -> Section:
    names = list(dict.fromkeys(name for row in scores.values() for name in row))
    rows = [(method, *(f"{row[name]:.3f}" if name in row else "" for name in names)) for method, row in scores.items()]
    headers = ["method", *(_TITLES.get(name) or name for name in names)]
    return Section("Calibration", "Lower is better in every column.", headers, rows)


def _temperature(found: Mapping[str, Any]) -> Section:
    rows = []
    for method, result in found["methods"].items():
        before, after, spread = result["before"], result["after"], result["temperature"]
        pairs = [f"{before[name]:.3f} → {after[name]:.3f}" for name in ("nll", "brier", "ece")]
        rows.append((method, f"{spread['mean']:.2f} ({spread['low']:.2f} to {spread['high']:.2f})", *pairs))
    headers = ("method", "temperature", *(_TITLES[name] for name in ("nll", "brier", "ece")))
    return Section("Calibration by a temperature", found["says"], headers, rows)


def _transfer(evaluation: Mapping[str, Any]) -> Iterator[Section]:
    found, show = evaluation["transfer"], score_format(evaluation)
    rows = [
        (name, show(result["mean"]), interval_text(result["ci95"], show), result["helped"], result["hurt"],
         ", ".join(result["hurt_languages"][:8]) + (", ..." if result["hurt"] > 8 else ""))
        for name, result in found["methods"].items()
    ]  # fmt: skip
    one, others = unit(evaluation), units(evaluation)
    note = f"Against {found['over']}, which sees the shots alone. Above zero, what other {others} taught is a help."
    headers = ("method", "gain", "95% interval", "helped", "hurt", f"hurt {others}")
    yield Section("Transfer", note, headers, rows)
    rows = [
        (language, show(result["gain"]), ", ".join(f"{source} {value:.2f}" for source, value in result["nearest"]))
        for language, result in sorted(found["per_language"].items(), key=lambda item: item[1]["gain"])
    ]
    note = (
        f"What {found['method']} gains over {found['over']}, the least first, with the sources that write most alike."
    )
    yield Section(f"Transfer by {one}", note, (one, "gain", "nearest sources"), rows)


def _guard(evaluation: Mapping[str, Any]) -> Section:
    found, show = evaluation["guard"], score_format(evaluation)
    rows = [
        (name, show(result["mean"]), interval_text(result["ci95"], show), show(result["gain"]),
         interval_text(result["gain_ci95"], show), f"{result['alone']} of {result['problems']}", result["hurt"],
         result["caught"])
        for name, result in found["methods"].items()
    ]  # fmt: skip
    note = (
        f"{found['over']} instead of a method in those problems whose {found['folds']} folds of the support speak for "
        "it by more than a standard error. No query is read."
    )
    headers = (
        *("method", "mean with the guard", "95% interval", "gain", "95% interval"),
        *(f"says {found['over']}", "in truth better", "both"),
    )
    return Section("Negative-transfer guard", note, headers, rows)


def _left_out(evaluation: Mapping[str, Any]) -> Section:
    found, show = evaluation["leave_one_out"], score_format(evaluation)
    rows = [
        (source, show(result["mean"]), interval_text(result["ci95"], show), result["wins"], result["losses"],
         ", ".join(f"{language} {show(value)}" for language, value in _most(result["per_language"])))
        for source, result in found["sources"].items()
    ]  # fmt: skip
    if found["nearest"]:
        result = found["nearest"]
        each = ", ".join(f"{language} {show(result['per_language'][language])} (without {source})"
                         for language, source in list(result["removed"].items())[:8])  # fmt: skip
        rows.append(
            ("the nearest of each language", show(result["mean"]), interval_text(result["ci95"], show), result["wins"],
             result["losses"], each)
        )  # fmt: skip
    note = f"What {found['method']} loses when it is trained without a source; below zero, the source does harm."
    headers = ("without", "loss", "95% interval", "worse off", "better off", "languages")
    return Section("Sources left out", note, headers, rows)


def _most(per_language: Mapping[str, float], count: int = 5) -> list[tuple[str, float]]:
    return sorted(per_language.items(), key=lambda item: -abs(item[1]))[:count]
