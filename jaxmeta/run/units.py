"""How scores are told of: what they are averaged over (languages, elsewhere speakers, waves or children), in percent or
not, and with how many digits.
"""

import math
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

LANGUAGE = "language"
_IRREGULAR = {"child": "children"}
# How the names of scores end that are shares; they are shown in percent.
_PERCENT = (
    *("accuracy", "precision", "recall", "f1", "recall_at_1", "recall_at_10", "exact_match", "exact_span"),
    "error_rate",
)


def scale_of(score: str) -> float:
    """Returns what a score is multiplied by to be shown: 100 for shares, which are told in percent."""
    return 100.0 if score.endswith(_PERCENT) else 1.0


def score_digits(score: str, means: list[float]) -> int:
    """Returns how many decimals tell methods apart: one of percents and other large scores, three of small ones."""
    sizes = [abs(mean) for mean in means if math.isfinite(mean)] or [0.0]
    # One method that diverged must not take the digits from the others, so the median counts.
    return 1 if scale_of(score) > 1 or median(sizes) >= 10 else 3


def score_format(evaluation: Mapping[str, Any]) -> Callable[[float], str]:
    """Returns the function that writes a score of an evaluation."""
    digits = _digits(evaluation)
    return lambda value: f"{value:.{digits}f}"


def difference_format(evaluation: Mapping[str, Any]) -> Callable[[float], str]:
    """Returns the function that writes a difference of scores in a sentence: small ones are what it is about."""
    digits = max(2, _digits(evaluation))
    return lambda value: f"{value:.{digits}f}"


def _digits(evaluation: Mapping[str, Any]) -> int:
    return score_digits(evaluation["metric"], [method["mean"] for method in evaluation["methods"].values()])


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
