"""A lexicon of words out of a few translations, and texts whose words it has exchanged.

Word alignments are those of IBM's second model (Brown et al. 1993) near the diagonal (Dyer et al. 2013), found
by expectation maximisation. Words that stand on both sides count as their own translation from the start, so the
closer two languages are the less there is to find out.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

_ROUNDS, _DRIFT, _SAME, _KEPT = 4, 4.0, 5.0, 0.6
# Python's \w leaves out the marks that many scripts write vowels with.
_MARKS = r"\s!-/:-@\[-`{-~…–—«»“”‘’।،؟؛。、"
_WORD = re.compile(rf"[^{_MARKS}]+")


class Lexicon(NamedTuple):
    """What words become, in lower case; those that stay as they are are left out."""

    words: dict[str, str]
    without: list[dict[str, str]]  # the same for the words of each pair, by the alignments of the other pairs


def learn_lexicon(sources: Sequence[str], targets: Sequence[str], *, kept: float = _KEPT) -> Lexicon:
    """Learns what the words of `sources` become in `targets`, their translations.

    A word is exchanged for the word that it was aligned with most, if that was more often than with itself by `kept`
    times.

    Example:
      assert learn_lexicon(["satu kucing"] * 2, ["sa kucing"] * 2).words == {"satu": "sa"}
    """
    read, written = ([_words(text) for text in texts] for texts in (sources, targets))
    names, says = (sorted({word for words in side for word in words}) for side in (read, written))
    number = [{word: place for place, word in enumerate(side)} for side in (names, says)]
    parts = [_cells(number, *pair) for pair in zip(read, written, strict=True)]
    if not any(len(near) for _, near, _ in parts):
        return Lexicon({}, [{} for _ in sources])
    cells, near = (np.concatenate([part[field] for part in parts]) for field in (0, 1))
    ends = np.cumsum([0, *(part[2] for part in parts)])
    groups = np.concatenate([
        start + np.tile(np.arange(part[2]), len(part[0]) // max(part[2], 1))
        for start, part in zip(ends, parts, strict=False)
    ])  # fmt: skip
    of_pair = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    cells, inverse = np.unique(cells, return_inverse=True)
    source, target = np.divmod(cells, len(says))
    same = np.array([names[x] == says[y] for x, y in zip(source, target, strict=True)])
    likely, count = np.where(same, _SAME, 1.0), np.zeros(len(cells))
    shares = near
    for _ in range(_ROUNDS):
        shares = near * (likely[inverse] + 1e-7)
        shares = shares / np.bincount(groups, shares)[groups]
        count = np.bincount(inverse, shares, len(cells))
        likely = count / np.bincount(source, count)[source]
    first = np.searchsorted(source, np.arange(len(names) + 1))

    def exchanged(words: Sequence[str], count: np.ndarray) -> dict[str, str]:
        found = {}
        for word in words:
            own = slice(first[number[0][word]], first[number[0][word] + 1])
            worth = count[own] + kept * same[own]
            best = int(np.argmax(worth)) if len(worth) else 0
            if len(worth) and not same[own][best] and worth[best] > kept:
                found[word] = says[target[own][best]]
        return found

    without = []
    for pair, words in enumerate(read):
        mine = of_pair == pair
        rest = count.copy()
        np.subtract.at(rest, inverse[mine], shares[mine])
        without.append(exchanged(sorted(set(words)), rest))
    return Lexicon(exchanged(names, count), without)


def exchange_words(text: str, words: Mapping[str, str]) -> str:
    """Returns a text with its words exchanged; what stands between them and capitals stay as they are."""

    def instead(match: re.Match) -> str:
        word = match.group()
        other = words.get(word.lower())
        if other is None:
            return word
        return other[:1].upper() + other[1:] if word[:1].isupper() else other

    return _WORD.sub(instead, text)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _cells(number: list[dict[str, int]], read: list[str], written: list[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the pairs of words of a pair of texts as numbers, how near their places are, and the words written."""
    sides = zip(number, (read, written), strict=True)
    x, y = (np.array([known[word] for word in words], np.int64) for known, words in sides)
    places = np.arange(len(x))[:, None] / max(len(x), 1) - np.arange(len(y))[None] / max(len(y), 1)
    cells = x[:, None] * len(number[1]) + y[None]
    return cells.ravel(), np.exp(-_DRIFT * np.abs(places)).ravel(), len(y)
