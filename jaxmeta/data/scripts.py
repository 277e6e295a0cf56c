"""What a tokenizer makes of each script: how long texts become, what is unknown and what is cut."""

import collections
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxmeta.data.corpus import Corpus, Rows
from jaxmeta.data.table import Table
from jaxmeta.data.tokenize import Tokenizer

# What follows the script in the name of a letter: "LATIN SMALL LETTER A", "OL CHIKI LETTER LA", "HANGUL SYLLABLE GA".
_AFTER = re.compile(
    r" (?:SMALL|CAPITAL|LETTER|SYLLABLE|SYLLABICS|IDEOGRAPH|UNIFIED|COMPATIBILITY|VOWEL|CHARACTER|INDEPENDENT|SIGN|"
    r"CONSONANT|MODIFIER|LIGATURE|CHOSEONG|PHONETIC|FINAL|SUBJOINED)\b"
)
# Japanese mixes three.
_JAPANESE = {"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}
# Scripts whose words are not parted by spaces.
UNSPACED = frozenset({"CJK", "JAPANESE", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"})


class ScriptFacts(NamedTuple):
    """What becomes of the texts of one script; averages are over all of its texts together."""

    script: str
    languages: tuple[str, ...]
    texts: int
    bytes_per_character: float
    tokens_per_character: float
    tokens_per_word: float | None  # None where words are not parted by spaces
    unknown_rate: float  # of tokens
    truncation_rate: float  # of texts


def script_of(texts: Sequence[str]) -> str:
    """Returns the script that most letters of `texts` are of, by the names that Unicode gives them; "NONE" without any.

    Han letters are "CJK", and "JAPANESE" where one in twenty letters is kana.
    """
    scripts: collections.Counter[str] = collections.Counter()
    for letter, times in collections.Counter("".join(texts)).items():
        if unicodedata.category(letter) not in ("Lo", "Lu", "Ll"):
            continue
        name = unicodedata.name(letter, "NONE")
        script = _AFTER.split(name)[0]
        scripts["JAPANESE" if script in _JAPANESE else script] += times
    if not scripts:
        return "NONE"
    if scripts["JAPANESE"] * 20 >= scripts.total():
        return "JAPANESE"
    return max(sorted(scripts), key=lambda script: scripts[script])


def texts_by_language(rows: Rows, chosen: np.ndarray, columns: Sequence[str] = ()) -> dict[str, list[str]]:
    """Returns the different texts of some rows by the language that they are in: of a pair each side under its own.

    Args:
        rows: a corpus or a table.
        chosen: the numbers of the rows `[n]`.
        columns: the columns of a table to read; all of its texts by default.
    """
    found: dict[str, dict[str, None]] = collections.defaultdict(dict)
    if isinstance(rows, Corpus):
        for row in chosen:
            found[str(rows.language[row])][rows.text[row]] = None
    elif isinstance(rows, Table):
        for column in columns or rows.schema.texts:
            says = rows.schema.sides.get(column) or "language"  # the column of the code, or the code itself
            codes = rows.language if says == "language" else rows.columns.get(says)
            for row, text in zip(chosen, rows.texts(column, chosen), strict=True):
                found[says if codes is None else str(codes[row])][text] = None
    return {language: [*texts] for language, texts in found.items()}


def script_facts(*read: tuple[Tokenizer, Mapping[str, Sequence[str]]]) -> list[ScriptFacts]:
    """Returns a row for each script, by name.

    Args:
        *read: texts by language, each time with the tokenizer that reads them; a language may come several times.
    """
    by_language: dict[str, list[tuple[Tokenizer, Sequence[str]]]] = collections.defaultdict(list)
    for tokenizer, texts in read:
        for language, found in texts.items():
            by_language[language].append((tokenizer, found))
    by_script: dict[str, list[str]] = collections.defaultdict(list)
    for language in sorted(by_language):
        by_script[script_of([text for _, texts in by_language[language] for text in texts])].append(language)
    return [
        _facts(script, languages, [part for language in languages for part in by_language[language]])
        for script, languages in sorted(by_script.items())
    ]


def _facts(script: str, languages: Sequence[str], parts: Sequence[tuple[Tokenizer, Sequence[str]]]) -> ScriptFacts:
    texts = [text for _, found in parts for text in found]
    counts = [tokenizer.lengths(found) for tokenizer, found in parts]
    tokens, words = sum(map(sum, counts)), sum(len(text.split()) for text in texts)
    unknown = sum(
        tokenizer.statistics(found)["unknown_rate"] * sum(lengths)
        for (tokenizer, found), lengths in zip(parts, counts, strict=True)
    )
    cut = sum(
        length > tokenizer.length for (tokenizer, _), lengths in zip(parts, counts, strict=True) for length in lengths
    )
    characters = max(sum(map(len, texts)), 1)
    return ScriptFacts(
        script=script,
        languages=tuple(languages),
        texts=len(texts),
        bytes_per_character=sum(len(text.encode()) for text in texts) / characters,
        tokens_per_character=tokens / characters,
        tokens_per_word=None if script in UNSPACED else tokens / max(words, 1),
        unknown_rate=unknown / max(tokens, 1),
        truncation_rate=cut / max(len(texts), 1),
    )
