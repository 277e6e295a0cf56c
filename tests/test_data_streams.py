"""Text larger than memory, in blocks; and what tokenizers make of each script."""

import io
import itertools

import numpy as np
import pytest

from jaxmeta.core.checks import InputError
from jaxmeta.data.scripts import script_facts, script_of
from jaxmeta.data.stream_text import TextBlocks, text_batches
from jaxmeta.data.tokenize import ByteTokenizer, SentencePieceTokenizer

EOS = 258


def plain(tokens):
    return bytes((np.where(tokens == EOS, ord("\n") + 1, tokens) - 1).astype(np.uint8))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.txt").write_bytes("".join(f"línea {k} — {'x' * (k % 60)}\n" for k in range(200)).encode())
    (tmp_path / "b.txt").write_bytes("\ufeffone\r\ntwo".encode())
    rows = [f"{'abc'[k % 3]}\t{'text' * (k % 9)}é{k}\t{k}\t{'test' if k % 5 == 0 else 'train'}" for k in range(300)]
    (tmp_path / "c.tsv").write_bytes(("language\ttext\tnote\tsplit\n" + "\r\n".join(rows)).encode())
    return tmp_path


def test_blocks_hold_every_byte_once(files):
    blocks = TextBlocks([files / "a.txt", files / "b.txt"], 64)
    text = b"".join(plain(blocks[k]) for k in range(len(blocks)))
    assert text == (files / "a.txt").read_bytes() + b"one\ntwo"
    assert {len(blocks[k]) for k in range(len(blocks) - 2)} == {64}


@pytest.mark.parametrize("length", [7, 64, 100_000])
@pytest.mark.parametrize("languages", [None, ("a", "c")])
def test_blocks_of_a_column_hold_its_train_rows_once(files, length, languages):
    blocks = TextBlocks([files / "c.tsv"], length, column="text", languages=languages)
    rows = [line.split("\t") for line in (files / "c.tsv").read_text("utf-8").splitlines()[1:]]
    expected = [row[1] for row in rows if row[3] == "train" and (languages is None or row[0] in languages)]
    assert b"".join(plain(blocks[k]) for k in range(len(blocks))).decode().splitlines() == expected


class Counted(io.BytesIO):
    """A file that remembers how much was read of it at once, and in all."""

    largest = total = 0

    def read(self, size=-1):
        found = super().read(size)
        Counted.largest, Counted.total = max(Counted.largest, len(found)), Counted.total + len(found)
        return found

    def readline(self, size=-1):
        found = super().readline(size)
        Counted.largest, Counted.total = max(Counted.largest, len(found)), Counted.total + len(found)
        return found


@pytest.mark.parametrize("column", [None, "text"])
def test_a_block_is_read_without_the_rest_of_the_file(column):
    rows = [b"language\tsplit\ttext", *(b"a\ttrain\t" + b"word " * 12 for _ in range(40_000))]
    raw = b"\n".join(rows)
    Counted.largest = Counted.total = 0
    blocks = TextBlocks(["big"], 256, column=column, open_bytes=lambda path: Counted(raw))
    assert len(blocks) > 10_000
    for index in (0, 5_000, len(blocks) - 1):
        assert len(blocks[index])
    assert Counted.largest <= 4096
    assert Counted.total < 20_000 < len(raw) / 100


def test_batches_go_on_from_any_position(files):
    blocks = TextBlocks([files / "c.tsv"], 40, column="text", languages=("a",))
    batches = list(itertools.islice(text_batches(blocks, batch_size=3, seed=5), 100))
    assert all(batch["targets"].shape == (3, 40) for batch, _ in batches)
    assert batches[-1].position > 2 * len(blocks), "around more than once"
    for threads in (0, 3):
        start = batches[20].position
        again = list(itertools.islice(text_batches(blocks, batch_size=3, seed=5, start=start, threads=threads), 79))
        for one, other in zip(batches[21:], again, strict=True):
            assert one.position == other.position
            np.testing.assert_array_equal(one.batch["targets"], other.batch["targets"])
    other = next(text_batches(blocks, batch_size=3, seed=6)).batch["targets"]
    assert (other != batches[0].batch["targets"]).any()
    batch = batches[0].batch
    assert batch["inputs"]["previous"][:, 0].tolist() == [257] * 3
    real = batch["targets"][:, 1:] > 0
    np.testing.assert_array_equal(batch["inputs"]["previous"][:, 1:][real], batch["targets"][:, :-1][real])
    assert batch["bytes"].tolist() == [int(((row > 0) & (row != EOS)).sum()) for row in batch["targets"]]


def test_each_round_has_every_block_in_another_order(files):
    blocks = TextBlocks([files / "a.txt"], 64)
    count = len(blocks)
    rows = [b.batch["targets"][0].tobytes() for b in itertools.islice(text_batches(blocks, batch_size=1), 2 * count)]
    assert sorted(rows[:count]) == sorted(rows[count:]) and rows[:count] != rows[count:]  # noqa: PT018
    assert len(set(rows)) > count - 5


def test_wrong_files_and_arguments(files, tmp_path):
    with pytest.raises(InputError, match=r"no\.txt does not exist"):
        TextBlocks([files / "no.txt"], 8)
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty\.txt is empty"):
        TextBlocks([tmp_path / "empty.txt"], 8)
    with pytest.raises(InputError, match=r"c\.tsv, line 1: there is no column 'body'"):
        TextBlocks([files / "c.tsv"], 8, column="body")
    (tmp_path / "bad.tsv").write_bytes(b"text\tsplit\nx\ttrain\ny\n")
    blocks = TextBlocks([tmp_path / "bad.tsv"], 100, column="text")
    with pytest.raises(InputError, match=r"bad\.tsv, the line at byte 19: 1 fields where the header has 2"):
        blocks[0]
    with pytest.raises(InputError, match="There is no text for train"):
        next(text_batches(TextBlocks([files / "c.tsv"], 40, column="text", languages=("zz",)), batch_size=1))
    with pytest.raises(ValueError, match="`languages` must be None"):
        TextBlocks([files / "a.txt"], 8, languages=("a",))
    with pytest.raises(ValueError, match="`paths`"):
        TextBlocks([], 8)


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
