"""Exact match and F1 of answers in words, as SQuAD, XQuAD and MLQA define them.

    convention   published figures of   punctuation                       articles left out   words
    "squad"      SQuAD 1.1, XQuAD       ASCII                             a, an, the          between spaces
    "mlqa"       MLQA                   ASCII and Unicode's category P    of the language     of the language

Both lower the text, take punctuation out, then articles, and compare what is left between spaces (Rajpurkar et al.
2016, arXiv 1606.05250; Lewis et al. 2020, arXiv 1910.07475). XQuAD (Artetxe et al. 2020, arXiv 1910.11856) is scored
by the first in all its languages, English articles included, as in XTREME (Hu et al. 2020, arXiv 2003.11080): a Chinese
answer is then mostly one word, and its F1 close to its exact match.

The second knows the articles of English, Spanish, Vietnamese, German and Arabic (there, every "ال", wherever it stands)
and takes a Chinese character for a word; Hindi has neither. MLQA has no other languages. Here those have no articles
(Russian and Turkish need none), and in Japanese, Thai, Khmer, Lao and Burmese, which put no spaces between words, a
character is a word too.
"""

import collections
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence

from jaxmeta.core.checks import check_one_of

CONVENTIONS = ("squad", "mlqa")

_ARTICLES = {
    "en": r"\b(?:a|an|the)\b",
    "es": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(?:của|là|cái|chiếc|những)\b",
    "de": r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": "ال",
}
# Scripts whose every character is a word, as ranges of a regular expression.
_SINGLE = {
    "zh": "\u4e00-\u9fa5",
    "ja": "\u4e00-\u9fa5\u3040-\u30ff",
    "th": "\u0e00-\u0e7f",
    "km": "\u1780-\u17ff",
    "lo": "\u0e80-\u0eff",
    "my": "\u1000-\u109f",
}


def normalized_words(text: str, language: str = "en", convention: str = "squad") -> list[str]:
    """Returns the words of an answer that count, in their order.

    Args:
      text: the answer.
      language: its code, such as "de" or "zh-Hans"; "squad" does not mind it.
      convention: "squad" or "mlqa".

    Raises:
      ValueError: if there is no such convention.
    """
    check_one_of("convention", convention, CONVENTIONS)
    language = re.split("[-_]", language.lower())[0] if convention == "mlqa" else "en"
    text = "".join(c for c in text.lower() if not _is_punctuation(c, convention))
    if language in _ARTICLES:
        text = re.sub(_ARTICLES[language], " ", text)
    if single := _SINGLE.get(language):
        return re.findall(rf"[{single}]|[^\s{single}]+", text)
    return text.split()


def answer_counts(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    language: str = "en",
    convention: str = "squad",
) -> dict[str, float]:
    """Compares each prediction with the best of its references.

    Args:
      predictions: an answer for each question.
      references: for each question the answers that are right, one at least.
      language: see `normalized_words`.
      convention: see `normalized_words`.

    Returns:
      Sums over questions that may be added up: "n", "exact_match" and "f1".

    Raises:
      ValueError: if there is not one list of references, with something in it, for each prediction.
    """
    if len(predictions) != len(references):
        raise ValueError(f"`references` must be as many as predictions, {len(predictions)}, got {len(references)}")
    if not all(references):
        raise ValueError("`references` must have an answer for every question, got an empty list")
    exact = f1 = 0.0
    for prediction, right in zip(predictions, references, strict=True):
        said = normalized_words(prediction, language, convention)
        wanted = [normalized_words(answer, language, convention) for answer in right]
        exact += said in wanted
        f1 += max(_f1(said, words) for words in wanted)
    return {"n": float(len(predictions)), "exact_match": exact, "f1": f1}


def answer_scores(counts: Mapping[str, float]) -> dict[str, float]:
    """Returns "exact_match" and "f1" between 0 and 1, of a sum of what `answer_counts` returns; NaN of no question."""
    n = counts["n"]
    return {name: counts[name] / n if n else float("nan") for name in ("exact_match", "f1")}


def _is_punctuation(character: str, convention: str) -> bool:
    if character in string.punctuation:
        return True
    return convention == "mlqa" and unicodedata.category(character).startswith("P")


def _f1(said: Sequence[str], wanted: Sequence[str]) -> float:
    # Two empty answers have no word in common, and so an F1 of zero: SQuAD 1.1 has it so, 2.0 has not.
    common = (collections.Counter(said) & collections.Counter(wanted)).total()
    return 2 * common / (len(said) + len(wanted)) if common else 0.0
