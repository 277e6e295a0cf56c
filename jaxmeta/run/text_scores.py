"""Scores of written text: BLEU, chrF and chrF++ of sacrebleu, ROUGE-L, exact matches; as sums that may be added up.

A corpus score is no mean of scores of its parts. So `counts` of batches, languages or draws are added, and `scores`
turns a sum into what sacrebleu says of all the texts together.
"""

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxmeta.core.checks import InputError, check_one_of

Counts = Mapping[str, np.ndarray]


class TextScores(NamedTuple):
    """A judge of texts, in two steps."""

    counts: Callable[[Sequence[str], Sequence[str]], dict[str, np.ndarray]]  # (written, references) -> sums
    scores: Callable[[Counts], dict[str, float]]


def text_scores(*, tokenize: str = "13a", rouge: bool = False) -> TextScores:
    """Judges texts by one reference each.

    * `counts`: sums over texts: "n", "exact", "bleu" `[10]`, "chrf" `[24]`, and with `rouge` "rouge_l".
    * `scores`: "bleu" (Papineni et al. 2002), "chrf" (Popović 2015) and "chrf++" (Popović 2017), from 0 to 100 with
      sacrebleu's defaults (Post 2018, arXiv 1804.08771); "exact_match", the share of texts that are their reference but
      for space around; and with `rouge` "rouge_l", the mean F-measure of the longest common subsequence of words (Lin
      2004), from 0 to 1. All are NaN where there is no text.

    Args:
      tokenize: how BLEU cuts texts into words: "13a", for text without spaces "char" or "zh", or another name that
        sacrebleu knows.
      rouge: whether to score ROUGE-L, which is about words: texts that write none apart need another score.

    Raises:
      InputError: if sacrebleu, or with `rouge` rouge-score, is not installed.
      ValueError: if sacrebleu knows no `tokenize` of that name.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise _missing("sacrebleu") from None
    check_one_of("tokenize", tokenize, tuple(BLEU.TOKENIZERS))
    bleu, chrf = BLEU(tokenize=tokenize, force=True), CHRF(word_order=2)
    # Statistics of chrF++ are those of chrF and then those of words.
    without_words = CHRF(word_order=0)
    sizes = {"bleu": 2 + 2 * bleu.max_ngram_order, "chrf": 3 * chrf.order}
    of_words = _longest_common_words() if rouge else None

    def counts(written: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        pairs = list(zip(written, references, strict=True))
        found = {
            "n": np.int64(len(pairs)),
            "exact": np.int64(sum(text.strip() == reference.strip() for text, reference in pairs)),
            "bleu": _summed(bleu, pairs, sizes["bleu"]),
            "chrf": _summed(chrf, pairs, sizes["chrf"]),
        }
        if of_words is not None:
            found["rouge_l"] = np.float64(sum(of_words(text, reference) for text, reference in pairs))
        return {name: np.asarray(value) for name, value in found.items()}

    def scores(counts: Counts) -> dict[str, float]:
        n = int(counts["n"])
        if not n:
            names = ["bleu", "chrf", "chrf++", "exact_match", *(["rouge_l"] if rouge else [])]
            return dict.fromkeys(names, math.nan)
        of_characters = counts["chrf"][: 3 * without_words.order]
        found = {
            "bleu": _score(bleu, counts["bleu"]),
            "chrf": _score(without_words, of_characters),
            "chrf++": _score(chrf, counts["chrf"]),
            "exact_match": float(counts["exact"]) / n,
        }
        return found | ({"rouge_l": float(counts["rouge_l"]) / n} if rouge else {})

    return TextScores(counts, scores)


def _missing(package: str) -> InputError:
    return InputError(f"Scores of text need {package}, which is not installed: run `pip install 'jaxmeta[eval]'`.")


def _summed(metric: Any, pairs: Sequence[tuple[str, str]], size: int) -> np.ndarray:
    """Returns the sum of sacrebleu's statistics of each text, `[size]`."""
    if not pairs:
        return np.zeros(size, np.int64)
    written, references = zip(*pairs, strict=True)
    return np.asarray(metric._extract_corpus_statistics(written, [references]), np.int64).sum(axis=0)


def _score(metric: Any, statistics: np.ndarray) -> float:
    return float(metric._compute_score_from_stats(statistics.tolist()).score)


class _Words:
    """Lowercase words of any script: what stands between spaces and punctuation, marks of vowels included."""

    def tokenize(self, text: str) -> list[str]:
        inside = (char if unicodedata.category(char)[0] in "LMN" else " " for char in text.lower())
        return "".join(inside).split()


def _longest_common_words() -> Callable[[str, str], float]:
    try:
        from rouge_score import rouge_scorer
    except ImportError:
        raise _missing("rouge-score") from None
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=_Words())
    return lambda text, reference: float(scorer.score(reference, text)["rougeL"].fmeasure)
