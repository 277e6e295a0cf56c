"""Words and sentences of a text in any language, with nothing parsed and nothing learned."""

import itertools
import re
import unicodedata
from typing import NamedTuple

# Ideographs and kana have no spaces between words: each of them is one.
_SINGLE = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
# After a full stop and space, in the scripts that have these; or after an ideographic one.
_END_OF_SENTENCE = re.compile(r"(?<=[.!?؟।])\s+|(?<=[。！？])")


class Word(NamedTuple):
    """A word, its place in a text (code points, the end exclusive), and its n-grams."""

    start: int
    end: int
    ngrams: frozenset[str]


def words(text: str) -> list[Word]:
    """Returns the words of a text: runs of letters, marks and digits; an ideograph or kana is a word by itself."""
    found, start = [], None
    for place, character in enumerate(itertools.chain(text, " ")):
        single = bool(_SINGLE.match(character))
        inside = not single and unicodedata.category(character)[0] in "LMN"
        if start is not None and not inside:
            found.append(_word(text, start, place))
            start = None
        if single:
            found.append(_word(text, place, place + 1))
        elif inside and start is None:
            start = place
    return found


def sentences(text: str) -> list[list[Word]]:
    """Returns the words of every sentence that has some."""
    ends = [match.end() for match in _END_OF_SENTENCE.finditer(text)] + [len(text)]
    found: list[list[Word]] = [[] for _ in ends]
    number = 0
    for word in words(text):
        while word.end > ends[number]:
            number += 1
        found[number].append(word)
    return [sentence for sentence in found if sentence]


def first_sentence(text: str) -> str:
    """Returns the first sentence that has words, with what it ends in; a text without words as it is."""
    found = sentences(text)
    return text[: found[1][0].start].strip() if len(found) > 1 else text


def _word(text: str, start: int, end: int) -> Word:
    padded = f"<{text[start:end].lower()}>"
    ngrams = {padded[i : i + n] for n in (2, 3, 4) for i in range(len(padded) - n + 1)}
    return Word(start, end, frozenset(ngrams))
