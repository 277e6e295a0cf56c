"""Whether what was learned from other languages helps in a language, or hurts: against training on its shots alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxmeta.run.comparison import best_on_dev
from jaxmeta.run.statistics import gains, paired_difference
from jaxmeta.run.units import counted, unit

ALONE = "target_only"
_NAMED = 12  # languages that a sentence names


def transfer(
    evaluation: Mapping[str, Any], nearest: Mapping[str, Sequence[tuple[str, float]]]
) -> dict[str, Any] | None:
    """Returns what `evaluation.json` says of transfer; nothing where `target_only` was not judged.

    Args:
      evaluation: what `conclusion` returned.
      nearest: the source languages most like each judged one; none where there are no texts.

    Returns:
      "over", the method without transfer; "method", whose gains are listed: the best meta-learner on the dev languages,
      or else the best baseline that is trained on others by gradients; "per_language" with "gain" (see
      `statistics.gains`) and "nearest";
      "methods" with "mean", "ci95", "helped", "hurt" and "hurt_languages"; and "says", a sentence.
    """
    methods = evaluation["methods"]
    trained = [name for name, method in methods.items() if method["compute"]["gradient_examples"] > 0]
    if ALONE not in methods or not trained:
        return None
    higher = evaluation["higher_is_better"]
    grids = {name: np.array(list(methods[name]["repetitions"].values())) for name in (*trained, ALONE)}
    found, gained = {}, {}
    for name in trained:
        pair = paired_difference(
            grids[name], grids[ALONE], higher_is_better=higher, training_seeds=len(evaluation["training_seeds"])
        )
        gained[name] = gains(grids[name], grids[ALONE], higher_is_better=higher)
        hurt = [language for language, gain in zip(evaluation["languages"], gained[name], strict=True) if gain < 0]
        found[name] = {
            "mean": pair.mean,
            "ci95": [pair.low, pair.high],
            "helped": pair.wins,
            "hurt": pair.losses,
            "hurt_languages": hurt,
        }
    chosen = evaluation["best_meta_learner"]
    if chosen not in found:
        chosen = best_on_dev({name: methods[name] for name in trained}, higher_is_better=higher)
    per_language = {
        language: {"gain": float(gain), "nearest": [list(pair) for pair in nearest.get(language, ())]}
        for language, gain in zip(evaluation["languages"], gained[chosen], strict=True)
    }
    return {
        "over": ALONE,
        "method": chosen,
        "per_language": per_language,
        "methods": found,
        "says": _sentence(chosen, found[chosen], per_language, unit(evaluation)),
    }


def _sentence(name: str, result: Mapping[str, Any], per_language: Mapping[str, Mapping[str, Any]], one: str) -> str:
    hurt = sorted(result["hurt_languages"], key=lambda language: per_language[language]["gain"])
    shown = []
    for language in hurt[:_NAMED]:
        sources = ", ".join(source for source, _ in per_language[language]["nearest"])
        shown.append(f"{language}, nearest sources {sources}" if sources else language)
    more = f"; and {len(hurt) - _NAMED} more" if len(hurt) > _NAMED else ""
    listed = f" ({'; '.join(shown)}{more})" if shown else ""
    helped = counted(result["helped"], one)
    return f"Transfer over {ALONE}, by {name}: helped in {helped}, hurt in {result['hurt']}{listed}."
