"""What tokenizers make of each script."""

import pytest

from jaxmeta.data.scripts import script_facts, script_of
from jaxmeta.data.tokenize import ByteTokenizer, SentencePieceTokenizer


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Größe, 12", "LATIN"), ("Ελλάδα", "GREEK"), ("Жук в лесу", "CYRILLIC"), ("שלום", "HEBREW"),
        ("سلام", "ARABIC"), ("नमस्ते", "DEVANAGARI"), ("ᱥᱟᱱᱛᱟᱲᱤ", "OL CHIKI"), ("ᨅᨔ ᨕᨘᨁᨗ", "BUGINESE"),
        ("中文很好", "CJK"), ("東京に行きます", "JAPANESE"), ("한국어", "HANGUL"), ("ߒߞߏ", "NKO"),
        ("ภาษาไทย", "THAI"), ("မြန်မာ", "MYANMAR"), ("ᐃᓄᒃᑎᑐᑦ", "CANADIAN"), ("ትግርኛ", "ETHIOPIC"), ("12 + 3", "NONE"),
    ],
)  # fmt: skip
def test_scripts_by_the_names_of_their_letters(text, script):
    assert script_of([text]) == script


def test_facts_by_script():
    texts = {"de": ["Größe und", "so"], "en": ["one two three"], "ru": ["два слова"], "zh": ["中文很好"]}
    facts = {row.script: row for row in script_facts((ByteTokenizer(12), texts))}
    assert list(facts) == ["CJK", "CYRILLIC", "LATIN"]
    latin = facts["LATIN"]
    assert latin.languages == ("de", "en")
    assert latin.texts == 3
    assert latin.bytes_per_character == pytest.approx((11 + 2 + 13) / (9 + 2 + 13))
    assert latin.tokens_per_character == latin.bytes_per_character
    assert latin.tokens_per_word == pytest.approx(26 / 6)
    assert latin.truncation_rate == pytest.approx(1 / 3)
    assert facts["CYRILLIC"].bytes_per_character == pytest.approx(17 / 9)
    assert facts["CJK"].bytes_per_character == 3
    assert facts["CJK"].tokens_per_word is None
    assert {row.unknown_rate for row in facts.values()} == {0.0}
    pieces = SentencePieceTokenizer.train(["one two three " * 3] * 20, 280, 12)
    facts = {row.script: row for row in script_facts((pieces, texts))}
    assert facts["LATIN"].tokens_per_word < facts["CYRILLIC"].tokens_per_word
