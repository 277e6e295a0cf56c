"""A letter of the Latin alphabet for most characters of most scripts, out of the names that Unicode gives them.

"CYRILLIC SMALL LETTER DE", "ARABIC LETTER DAL" and "DEVANAGARI LETTER DA" all begin with the sound that they stand for.
So names of people and places, and words that travelled, look alike in texts that share no character. It is crude, and
no transliteration for people to read.
"""

import functools
import unicodedata

import numpy as np

TABLE_SIZE = 0x3100  # the alphabets; what is beyond are syllables and characters of words
_MARKS = (" LETTER ", " CHARACTER ", " VOWEL SIGN ", " SYLLABLE ", " VOWEL ")
_NASAL = ("ANUSVARA", "CANDRABINDU", "BINDI", "TIPPI")
# Words that stand before the name of the letter itself.
_QUALIFIERS = {
    "SHORT", "LONG", "FARSI", "VOCALIC", "CANDRA", "BARRED", "STRAIGHT", "UKRAINIAN", "BYELORUSSIAN-UKRAINIAN", "SHARP",
    "SMALL", "CAPITAL", "FINAL", "DOTLESS", "SARA",
}  # fmt: skip
_UNLIKE = {"SCHWA": "a", "AIN": "a", "AYIN": "a", "IE": "e", "IO": "e", "SOFT": "", "HARD": "", "MAI": ""}
_VOWELS = frozenset("aeiouwy")  # w and y are how scripts of consonants write the long ones
_CYRILLIC = ("EF", "EL", "EM", "EN", "ER", "ES")  # consonants whose names begin with a vowel


def romanized(character: str) -> str:
    """Returns one small letter for a character, none for a mark on another, or the character where it has no name."""
    base = unicodedata.normalize("NFKD", character)[0].lower()[0]
    if base.isascii():
        return base
    if unicodedata.category(base) == "Nd":
        return str(unicodedata.digit(base))
    name = unicodedata.name(base, "")
    if any(nasal in name for nasal in _NASAL):
        return "n"
    for mark in _MARKS:
        _, found, rest = name.partition(mark)
        words = [word for word in rest.split() if word not in _QUALIFIERS]
        if not found or not words:
            continue
        if words[0] in _UNLIKE:
            return _UNLIKE[words[0]]
        return words[0][name.startswith("CYRILLIC") and words[0] in _CYRILLIC].lower()
    return "" if unicodedata.category(base).startswith("M") else base


def respelled(text: str, *, vowels: bool = True) -> str:
    """Returns a text in small letters as `romanization_table` spells it."""
    table = romanization_table(vowels=vowels)
    codes = (ord(character) for character in text.lower())
    numbers = (int(table[code]) if code < len(table) else code + 1 for code in codes)
    return "".join(chr(number - 1) for number in numbers if number)


@functools.cache
def romanization_table(*, vowels: bool = True) -> np.ndarray:
    """Returns the code point plus one that stands for each code point below `TABLE_SIZE`, or 0 for none: int32.

    Args:
      vowels: whether they are kept. Scripts of consonants write few of them, and others only those that are not "a".
    """
    letters = [romanized(chr(code)) for code in range(TABLE_SIZE)]
    letters = [letter if vowels or letter not in _VOWELS else "" for letter in letters]
    table = np.array([ord(letter) + 1 if letter else 0 for letter in letters], np.int32)
    table.setflags(write=False)
    return table
