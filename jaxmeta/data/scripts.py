"""What a tokenizer makes of each script: how long texts become, what is unknown and what is cut."""

import collections
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxmeta.data.tokenize import Tokenizer, count_cut

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
    letters = collections.Counter(letter for text in texts for letter in text if unicodedata.category(letter) == "Lo"
                                  or unicodedata.category(letter) in ("Lu", "Ll"))  # fmt: skip
    scripts: collections.Counter[str] = collections.Counter()
    for letter, times in letters.items():
        name = unicodedata.name(letter, "NONE")
        script = _AFTER.split(name)[0]
        scripts["JAPANESE" if script in _JAPANESE else script] += times
    if not scripts:
        return "NONE"
    if scripts["JAPANESE"] * 20 >= scripts.total():
        return "JAPANESE"
    return max(sorted(scripts), key=lambda script: scripts[script])


def script_facts(tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]]) -> list[ScriptFacts]:
    """Returns a row for each script, by name, of the texts of each language.

    Args:
        tokenizer: what turns them into tokens.
        texts: by language.
    """
    by_script: dict[str, list[str]] = collections.defaultdict(list)
    for language in sorted(texts):
        by_script[script_of(texts[language])].append(language)
    facts = []
    for script, languages in sorted(by_script.items()):
        found = [text for language in languages for text in texts[language]]
        statistics = tokenizer.statistics(found)
        tokens, words = sum(tokenizer.lengths(found)), sum(len(text.split()) for text in found)
        characters = max(sum(map(len, found)), 1)
        facts.append(
            ScriptFacts(
                script=script,
                languages=tuple(languages),
                texts=len(found),
                bytes_per_character=sum(len(text.encode()) for text in found) / characters,
                tokens_per_character=tokens / characters,
                tokens_per_word=None if script in UNSPACED else tokens / max(words, 1),
                unknown_rate=statistics["unknown_rate"],
                truncation_rate=count_cut(tokenizer, found) / max(len(found), 1),
            )
        )
    return facts
