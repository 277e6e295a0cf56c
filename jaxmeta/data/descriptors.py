"""What can be told of a language without a label: its script, its characters, and its family where it is given."""

import functools
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from jaxmeta.data.scripts import script_of

# The scripts with a place of their own, by the names of their letters in Unicode; all others share the last one.
SCRIPTS = (
    *("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "SYRIAC", "ETHIOPIC", "DEVANAGARI", "BENGALI", "GURMUKHI"),
    *("GUJARATI", "ORIYA", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "SINHALA", "THAI", "LAO", "TIBETAN", "MYANMAR"),
    *("KHMER", "GEORGIAN", "ARMENIAN", "HANGUL", "CJK", "JAPANESE", "CHEROKEE", "CANADIAN", "TIFINAGH", "NKO"),
    *("OL CHIKI", "OTHER"),
)
NGRAM_BUCKETS = 256
_LONGEST = 3
_BASE, _FACTOR = 0x9E3779B1, 0x85EBCA6B  # odd, far from powers of two


def describe(
    texts: Sequence[str], languages: Sequence[str] = (), families: Mapping[str, str] | None = None
) -> np.ndarray:
    """Returns what is told of each text: the mean over unlabelled texts of a language describes the language.

    Three parts stand side by side: the share of its letters in each of `SCRIPTS`; its character 1- to 3-grams within
    words, hashed, as the roots of their counts at length one; and where `families` are given, a one at the family of
    its language. The first two need nothing but the text.

    Args:
        texts: N of them.
        languages: the code of each text's language; read only where there are families.
        families: the family of each language that has one, as the user knows it (the CLDR does not say).

    Returns:
        `[N, P]` float32, P = 33 + 256 + the number of families.
    """
    codes, owner = _characters(texts)
    distinct, place = np.unique(codes, return_inverse=True)
    scripts = np.array([_script(int(code)) for code in distinct], np.int64)[place]
    letters = scripts >= 0
    shares = _counted(owner[letters], scripts[letters], len(texts), len(SCRIPTS))
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1)
    inside = np.array([unicodedata.category(chr(code))[0] in "LM" for code in distinct.tolist()], bool)[place]
    ngrams = np.sqrt(_ngrams(np.where(inside, codes, ord(" ")), owner, len(texts)))
    ngrams /= np.maximum(np.linalg.norm(ngrams, axis=1, keepdims=True), 1e-6)
    return np.concatenate([shares, ngrams, _families(len(texts), languages, families or {})], axis=1, dtype=np.float32)


def script_shares(texts: Sequence[str]) -> np.ndarray:
    """Returns which share of the letters of all texts is in each of `SCRIPTS`, `[33]`; zero without a letter."""
    return describe(["\n".join(texts)])[0, : len(SCRIPTS)]


def _characters(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the code points of all texts, each between spaces, and which text they are of."""
    padded = [f" {text.lower()} " for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "replace"), np.uint32)
    return codes, np.repeat(np.arange(len(padded)), [len(text) for text in padded])


@functools.cache
def _script(code: int) -> int:
    """Returns the place of a character's script, -1 if it is no letter."""
    name = script_of([chr(code)])
    if name == "NONE":
        return -1
    return SCRIPTS.index(name) if name in SCRIPTS else len(SCRIPTS) - 1


def _ngrams(codes: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    found = np.zeros((count, NGRAM_BUCKETS), np.float32)
    hashed = np.zeros(len(codes), np.uint32)
    blank = codes == ord(" ")
    for offset in range(_LONGEST):
        end = len(codes) - offset
        hashed = hashed[:end] * np.uint32(_BASE) + codes[offset:].astype(np.uint32) + np.uint32(1)
        # Within one text, and no space but at its ends; a space alone, or two, say nothing.
        whole = (owner[:end] == owner[offset:]) & ~(blank[:end] & blank[offset:])
        for middle in range(1, offset):
            whole &= ~blank[middle : middle + end]
        mixed = (hashed ^ (hashed >> np.uint32(16))) * np.uint32(_FACTOR)
        bucket = (mixed ^ (mixed >> np.uint32(13))) % np.uint32(NGRAM_BUCKETS)
        found += _counted(owner[:end][whole], bucket[whole].astype(np.int64), count, NGRAM_BUCKETS)
    return found


def _counted(rows: np.ndarray, columns: np.ndarray, count: int, width: int) -> np.ndarray:
    places = np.bincount(rows * width + columns, minlength=count * width)
    return places.reshape(count, width).astype(np.float32)


def _families(count: int, languages: Sequence[str], families: Mapping[str, str]) -> np.ndarray:
    known = sorted(set(families.values()))
    found = np.zeros((count, len(known)), np.float32)
    for row, language in enumerate(languages if known else ()):
        if language in families:
            found[row, known.index(families[language])] = 1
    return found
