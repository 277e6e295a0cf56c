"""What scores are averaged over, as sentences call it: languages, and elsewhere speakers, waves or children."""

from collections.abc import Mapping
from typing import Any

LANGUAGE = "language"
_IRREGULAR = {"child": "children"}


def unit(evaluation: Mapping[str, Any]) -> str:
    """Returns what one of the judged things of an evaluation is."""
    return evaluation.get("unit", LANGUAGE)


def units(evaluation: Mapping[str, Any]) -> str:
    """Returns what several are."""
    return plural(unit(evaluation))


def plural(noun: str) -> str:
    """Returns a noun, with what stands before it, for several."""
    before, space, last = noun.rpartition(" ")
    return before + space + _IRREGULAR.get(last, f"{last}s")


def counted(count: int, noun: str) -> str:
    """Returns a count with its noun: "1 shot", "2 shots"."""
    return f"{count} {noun if count == 1 else plural(noun)}"
