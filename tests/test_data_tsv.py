"""Reading files: what is good comes in whole; whatever is wrong is named with its file, line and remedy."""

import io

import numpy as np
import pytest

from jaxmeta.core.checks import InputError
from jaxmeta.data.tsv import read_plain, read_shots, read_tsv

GOOD = "language\tsplit\tlabel\ttext\na\ttrain\tyes\tone\na\ttest\tno\ttwo\nb\ttrain\tno\tthree\n"


@pytest.fixture
def write(tmp_path):
    def write(content, name="rows.tsv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_a_good_file(write):
    corpus = read_tsv(write(GOOD))
    assert corpus.name == "rows"
    assert corpus.labels == ("no", "yes")
    assert corpus.languages() == ("a", "b")
    assert corpus.label.tolist() == [1, 0, 0]
    assert corpus.text == ("one", "two", "three")
    assert corpus.sentence.tolist() == [0, 1, 2]
    assert corpus.rows("a", "test").tolist() == [1]
    assert corpus.rows("b", "test").tolist() == []


def test_several_files_are_one_corpus(write):
    more = "language\tsplit\tlabel\ttext\nb\ttest\tmaybe\tfour\n"
    corpus = read_tsv([write(GOOD), write(more, "more.tsv")])
    assert (corpus.name, corpus.labels) == ("rows", ("maybe", "no", "yes"))
    assert corpus.text == ("one", "two", "three", "four")
    assert corpus.rows("b", "test").tolist() == [3]
    with pytest.raises(InputError, match=r"more.tsv, line 2: the language c has no train rows"):
        read_tsv([write(GOOD), write(more.replace("b\t", "c\t"), "more.tsv")])
    with pytest.raises(InputError, match=r"more.tsv, line 2: the label 'maybe' is unknown"):
        read_tsv([write(GOOD), write(more, "more.tsv")], labels=("no", "yes"))


def test_columns_in_any_order_bom_crlf_quotes_and_odd_line_separators(write):
    header = "\ufefftext\tnote\tlabel\tlanguage\tsplit\r\n"
    content = header + '"so\u2028it\x85is\t\tyes\ta\ttrain\r\ntwo\tn\tno\ta\ttrain\r\n\r\n'
    corpus = read_tsv(write(content), name="mine", labels=("yes", "no", "maybe"))
    assert corpus.name == "mine"
    assert corpus.text == ('"so\u2028it\x85is', "two")
    assert corpus.labels == ("yes", "no", "maybe")
    assert corpus.label.tolist() == [0, 1]


def test_without_splits_all_is_train(write):
    path = write("language\tlabel\ttext\na\tyes\tone\nb\tno\ttwo\n")
    assert set(read_tsv(path, require_splits=False).split) == {"train"}
    with pytest.raises(InputError, match="no column 'split'"):
        read_tsv(path)


H = "language\tsplit\tlabel\ttext\n"
ROW = "a\ttrain\tyes\tone\n"
MALFORMED = {
    "empty": ("", "is empty"),
    "blank": ("\n \n\n", "is empty"),
    "only a bom": ("\ufeff", "is empty"),
    "header only": (H, "has a header and no rows"),
    "no header": (ROW + ROW, "line 1: there is no column 'language'"),
    "missing column": ("language\tsplit\ttext\na\ttrain\tx\n", "line 1: there is no column 'label'"),
    "spaces for tabs": ("language split label text\na train yes one\n", "separated by TAB"),
    "duplicate column": ("text\t" + H + "a\tb\ttrain\tc\td\n", "line 1: the column 'text' is there twice"),
    "too few fields": (H + ROW + "a\ttrain\tno\n", "line 3: 3 fields where the header has 4"),
    "too many fields": (H + "a\ttrain\tno\tb\tc\n" + ROW, "line 2: 5 fields where the header has 4"),
    "blank line inside": (H + ROW + "\n" + ROW, "line 3: 1 fields where the header has 4"),
    "unknown split": (H + ROW + "a\tvalid\tno\tx\n", "line 3: the split is 'valid'; it must be one of"),
    "empty split": (H + ROW + "a\t\tno\tx\n", "line 3: the split is empty"),
    "empty text": (H + ROW + "a\ttrain\tno\t  \n", "line 3: the text is empty"),
    "empty label": (H + ROW + "a\ttrain\t\tx\n", "line 3: the label is empty"),
    "empty language": (H + ROW + "\ttrain\tno\tx\n", "line 3: the language is empty"),
    "latin-1": ((H + ROW + "a\ttrain\tno\tGröße\n").encode("latin-1"), "line 3: byte 14 of the line is not"),
    "utf-16": (GOOD.encode("utf-16"), "line 1: the file is UTF-16"),
    "nul": (H.encode() + b"a\ttrain\tyes\t\0\n", "line 2: there is a NUL byte"),
    "one class": (H + ROW + ROW, "rows of one label only, 'yes'"),
    "no train rows": (H + ROW + "a\ttrain\tno\tx\nb\ttest\tno\ty\n", "line 4: the language b has no train"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(write, case):
    content, message = MALFORMED[case]
    path = write(content)
    with pytest.raises(InputError) as error:
        read_tsv(path)
    sentence = str(error.value)
    assert message in sentence
    assert str(path) in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_unknown_label(write):
    with pytest.raises(InputError, match="line 3: the label 'no' is unknown; it must be one of yes, maybe"):
        read_tsv(write(GOOD), labels=("yes", "maybe"))


@pytest.mark.parametrize("read", [read_tsv, read_shots, read_plain])
def test_paths_that_are_no_files(read, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "nothing.tsv")
    with pytest.raises(InputError, match="is a directory"):
        read(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read("a\0b")


def _parallel(*cells):
    return H + "".join(
        f"{language}\t{split}\t{label}\t{language}{k}\n"
        for language, split, labels in cells
        for k, label in enumerate(labels)
    )


def test_parallel_rows_share_their_numbers(write):
    trains = [(language, "train", "xyx") for language in "abc"]
    content = _parallel(("a", "test", "xy"), *trains, ("c", "test", "xy"))
    corpus = read_tsv(write(content), parallel=True)
    for split in ("train", "test"):
        numbers = {tuple(corpus.sentence[corpus.rows(la, split)]) for la in "abc"} - {()}
        assert len(numbers) == 1
    assert not set(corpus.sentence[corpus.split == "train"]) & set(corpus.sentence[corpus.split == "test"])
    alone = read_tsv(write(content))
    np.testing.assert_array_equal(alone.sentence, np.arange(len(alone)))


def test_what_is_not_parallel(write):
    counts = write(_parallel(("a", "train", "xyx"), ("b", "train", "xy")))
    with pytest.raises(InputError, match="not parallel: b has 2 train rows and a has 3"):
        read_tsv(counts, parallel=True)
    corpus = read_tsv(counts, parallel=True, unaligned=["b"])
    assert len(set(corpus.sentence.tolist())) == 5, "the rows of b are sentences of their own"
    labels = write(_parallel(("a", "train", "xyx"), ("b", "train", "xyy")))
    with pytest.raises(InputError, match=r"line 7: not parallel, for the label is y in b and x in a \(line 4\)"):
        read_tsv(labels, parallel=True)


def test_shots(write):
    path = write("text\tlabel\none\tyes\ntwo\tno\n")
    corpus = read_shots(path, ("no", "maybe", "yes"))
    assert corpus.labels == ("no", "maybe", "yes")
    assert corpus.label.tolist() == [2, 0]
    assert corpus.languages() == ("new",)
    assert corpus.rows("new", "train").tolist() == [0, 1]
    assert read_shots(path, language="bug").languages() == ("bug",)
    named = write("language\tlabel\ttext\nban\tyes\tone\nban\tno\ttwo\n", "named.tsv")
    assert read_shots(named).languages() == ("ban",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\none\n", "no column 'label'"),
        ("text\tlabel\none\tgood\ntwo\tno\n", "line 2: the label 'good' is unknown"),
        ("text\tlabel\none\tno\ntwo\tno\n", "one label only"),
        ("language\ttext\tlabel\na\tone\tno\nb\ttwo\tyes\n", "line 3: the language is b and was a before"),
        ("label\ttext\nno\tone\nyes\n", "line 3: 1 fields"),
    ],
)
def test_malformed_shots(write, content, message):
    with pytest.raises(InputError, match=message):
        read_shots(write(content), ("no", "yes"))


def test_plain_lines(write, monkeypatch):
    assert read_plain(write(" one \ntwo\tof it\r\n\n", "plain.txt")) == ["one", "two\tof it"]
    assert read_plain(io.StringIO("one\ntwo")) == ["one", "two"]
    assert read_plain(io.BytesIO("é\n".encode())) == ["é"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from\nthe pipe\n")))
    assert read_plain("-") == ["from", "the pipe"]


def test_malformed_plain_lines(write):
    with pytest.raises(InputError, match=r"plain\.txt, line 2: the line is empty"):
        read_plain(write("one\n\ntwo\n", "plain.txt"))
    with pytest.raises(InputError, match="standard input is empty"):
        read_plain(io.StringIO(""))
    with pytest.raises(InputError, match="standard input, line 2: byte 1 of the line is not UTF-8"):
        read_plain(io.BytesIO(b"a\n\xff\n"))
