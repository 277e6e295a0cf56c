"""Tables of every schema: what is good comes in whole; whatever is wrong is named with its file, line and remedy."""

import numpy as np
import pytest

from jaxmeta.core.checks import InputError
from jaxmeta.data.read_table import read_table
from jaxmeta.data.splits import LanguageSplit, check_overlap, overlap, split_pairs, without_overlap
from jaxmeta.data.table import SCHEMAS, Table, link_sentences, translated_from

GOOD = {
    "translation": {"src_lang": "eng", "tgt_lang": "bug", "split": "train", "src": "a cat", "tgt": "meong"},
    "retrieval": {"language": "ban", "split": "train", "text": "meng", "english": "a cat"},
    "question_answering": {
        "language": "de", "split": "train", "context": "Die Größe ist 7 m.", "question": "Wie groß?", "answer": "7 m",
        "answer_start": "14",
    },
    "scored_pairs": {"language": "cs", "split": "train", "first": "a cat", "second": "kočka", "score": "-0.25"},
    "summaries": {"language": "ta", "split": "train", "text": "long text", "summary": "short"},
    "generation": {"language": "abk", "split": "train", "line": "3", "text": "a paragraph"},
}  # fmt: skip


def content(schema, *rows, drop=(), header=None):
    """A file with the good row of a schema, and that row again for each of `rows` with what it changes."""
    columns = [column for column in GOOD[schema] if column not in drop]
    lines = [header if header is not None else "\t".join(columns)]
    lines += ["\t".join({**GOOD[schema], **row}[column] for column in columns) for row in ({}, *rows)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="rows.tsv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_good_file_of_every_schema_told_by_its_columns(write, schema):
    text = content(schema, {"split": "test"}).replace("\n", "\r\n")
    table = read_table(write("\ufeff" + text))
    assert table.schema == SCHEMAS[schema] == read_table(write(text), schema).schema
    assert table.name == "rows"
    assert len(table) == 2
    code = "eng-bug" if schema == "translation" else GOOD[schema]["language"]
    assert table.languages() == (code,)
    assert table.rows(code, "test").tolist() == [1]
    assert table.sentence.tolist() == [0, 0], "the same text is the same sentence"
    for column in table.schema.texts:
        assert table.texts(column) == [GOOD[schema][column]] * 2
    for column, dtype in table.schema.numbers.items():
        assert table.numbers(column).dtype == dtype
        assert table.numbers(column).tolist() == [float(GOOD[schema][column])] * 2
    assert table.codes(code) == (("eng", "bug") if schema == "translation" else (code,))


def broken(schema):
    """Mistakes that any schema can have, as (name, content, what the sentence says)."""
    good, columns = GOOD[schema], list(GOOD[schema])
    last, text = columns[-1], SCHEMAS[schema].texts[0]
    first = SCHEMAS[schema].language[0]
    header, row = "\t".join(columns), "\t".join(good.values())
    yield "empty", "", "rows.tsv is empty; write at least one line"
    yield "header only", header + "\n", "has a header and no rows; add rows"
    yield "missing column", content(schema, drop=(last,)), f"line 1: there is no column {last!r} among"
    yield "no split", content(schema, drop=("split",)), "line 1: there is no column 'split' among"
    yield "column twice", f"{header}\t{text}\n{row}\tx\n", f"line 1: the column {text!r} is there twice"
    yield "too few fields", f"{header}\n{row}\n{row.rpartition(chr(9))[0]}\n", f"line 3: {len(columns) - 1} fields"
    yield "too many fields", f"{header}\n{row}\tx\n", f"line 2: {len(columns) + 1} fields where the header has"
    yield "unknown split", content(schema, {"split": "valid"}), "line 3: the split is 'valid'; it must be one of train"
    yield "empty text", content(schema, {text: "  "}), f"line 3: the {text} is empty; fill it in or remove the line"
    yield "empty code", content(schema, {first: ""}), f"line 3: the {first} is empty"
    yield "no train rows", content(schema, {first: "xx", "split": "test"}), "line 3: the language xx"
    yield "not UTF-8", f"{header}\n{row}\n".encode() + row.encode() + b"\xff\n", "line 3: byte "
    yield "UTF-16", content(schema).encode("utf-16"), "line 1: the file is UTF-16; save it as UTF-8"
    yield "NUL", content(schema, {text: "a\0b"}), "line 3: there is a NUL byte, so this is not text"
    yield "CR alone", content(schema).replace("\n", "\r"), "line 1: lines end with CR alone"


CASES = [(s, *case) for s in SCHEMAS for case in broken(s)]
QA, PAIR = "question_answering", "scored_pairs"
CASES += [
    (s, f"{column} {value}", content(s, {column: value}), message)
    for s, column, value, message in [
        (QA, "answer_start", "13", "line 3: the answer '7 m' is not at answer_start 13 of the context, in code points "
         "from 0 (it is at 14)"),
        (QA, "answer_start", "15", "(it is at 14); correct one of them"),
        (QA, "answer_start", "999", "is not at answer_start 999"),
        (QA, "answer_start", "-1", "line 3: the answer_start is '-1'; it must be a whole number, zero or more"),
        (QA, "answer_start", "14.0", "the answer_start is '14.0'"),
        (QA, "answer_start", "vier", "the answer_start is 'vier'"),
        (QA, "answer_start", "9" * 30, "whole number"),
        (QA, "answer", "8 m", "(the context does not hold it)"),
        (PAIR, "score", "good", "line 3: the score is 'good'; it must be a number"),
        (PAIR, "score", "0,5", "line 3: the score is '0,5'"),
        (PAIR, "score", "nan", "the score is 'nan'"),
        (PAIR, "score", "inf", "the score is 'inf'"),
        (PAIR, "score", "-1e300", "the score is '-1e300'"),
        (QA, "answer_start", "9" * 5000, "the answer_start is '99999999999999999999...'; it must be a whole number"),
        ("generation", "line", "first", "line 3: the line is 'first'; it must be a whole number"),
        ("generation", "line", "²", "the line is '²'"),
        ("translation", "tgt_lang", "eng", "line 3: src_lang and tgt_lang are both eng; a pair is of two languages"),
    ]
]  # fmt: skip


@pytest.mark.parametrize(("schema", "text", "message"), [(s, t, m) for s, _, t, m in CASES],
                         ids=[f"{s}: {name}"[:60] for s, name, _, _ in CASES])  # fmt: skip
def test_malformed(write, schema, text, message):
    path = write(text)
    with pytest.raises(InputError) as error:
        read_table(path, schema)
    sentence = str(error.value)
    assert message in sentence
    assert str(path) in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_columns_of_no_schema_and_of_other_names(write):
    with pytest.raises(
        InputError, match=r"line 1: the columns 'a', 'b' are those of no kind of data .*translation: src"
    ):
        read_table(write("a\tb\n1\t2\n"))
    with pytest.raises(ValueError, match="`schema` must be one of"):
        read_table(write(content("retrieval")), "riddles")
    renamed = content("retrieval", header="code\tpart\tsentence\ten")
    names = {"language": "code", "split": "part", "text": "sentence", "english": "en"}
    assert read_table(write(renamed), columns=names).texts("english") == ["a cat"]
    alone = read_table(write(content("retrieval", drop=("split",))), require_splits=False)
    assert alone.split.tolist() == ["train"]
    # What is said of all rows need not stand in the file for its columns to be known.
    unsaid = read_table(write(content("retrieval", drop=("language",))), language="bug")
    assert (unsaid.schema.name, unsaid.languages()) == ("retrieval", ("bug",))
    unsaid = read_table(write(content("retrieval", drop=("language",))), language="sr-Latn-RS")
    assert unsaid.languages() == ("sr-Latn-RS",)
    # Nothing is read as plain text that only lacks a column of another kind.
    with pytest.raises(InputError, match="are those of no kind of data"):
        read_table(write("language\ttext\tEnglish\nbug\tone\ttwo\n"), require_splits=False)
    places = read_table(write(content("generation", drop=("line",))), "generation", require_splits=False)
    assert places.numbers("line").tolist() == [2]
    with pytest.raises(InputError, match="'zh-Hans-en' may be several pairs of languages; name one side alone"):
        read_table(write(content("translation", drop=("src_lang", "tgt_lang"))), language="zh-Hans-en")
    for said, pair in (("-zh-Hans", "eng-zh-Hans"), ("zh-Hans-", "zh-Hans-bug")):
        other = "src_lang" if said.startswith("-") else "tgt_lang"
        dropped = {"src_lang", "tgt_lang"} - {other}
        assert read_table(write(content("translation", drop=(*dropped,))), language=said).languages() == (pair,)


def test_spaces_around_a_context_move_the_answer(write):
    row = {"context": "  Die Größe ist 7 m.", "answer": " 7 m", "answer_start": "15"}
    table = read_table(write(content("question_answering", row)))
    assert table.texts("context")[0] == table.texts("context")[1]
    assert table.numbers("answer_start").tolist() == [14, 14]
    assert table.texts("answer") == ["7 m", "7 m"]


def _translations(rows):
    source, target, split, src, tgt = zip(*rows, strict=True)
    schema = SCHEMAS["translation"]
    columns = {"src_lang": source, "tgt_lang": target, "src": src, "tgt": tgt}
    pairs = np.array([f"{a}-{b}" for a, b in zip(source, target, strict=True)])
    return Table(
        "made-up", schema, pairs, np.array(split), columns, link_sentences(schema, columns, np.arange(len(src)))
    )


ROWS = [
    ("eng", "aa", "train", "A cat", "kata"),
    ("eng", "bb", "test", "a  cat", "kotu"),  # the same English
    ("eng", "aa", "test", "a dog", "doga"),
    ("eng", "bb", "train", "a dog", "kata"),  # the same word, but of another language
    ("aa", "bb", "test", "KATA", "miau"),  # Aa on the other side
    ("eng", "cc", "train", "one", "un"),
]


def test_sentences_are_linked_by_either_side_in_their_language():
    table = _translations(ROWS)
    assert table.sentence.tolist() == [0, 0, 1, 1, 0, 2]
    assert table.texts_of(1) == ("a  cat", "kotu")


def test_overlap_of_pairs_counts_both_sides_and_can_be_removed():
    table = _translations(ROWS)
    split = LanguageSplit(("eng-aa", "eng-cc"), (), ("aa-bb", "eng-bb"))
    assert overlap(table, split) == (2, 2, 2, 2, True)
    with pytest.raises(InputError, match="2 of 2 judged rows of made-up are translations of rows that are trained on"):
        check_overlap(table, split)
    rest, removed = without_overlap(table, split)
    assert removed == 1
    assert check_overlap(rest, split) == (1, 2, 0, 0, True)
    assert rest.texts("src") == [row[3] for row in ROWS[1:]]
    assert rest.columns["tgt_lang"][0] == "bb"
    same, none = without_overlap(rest, split)
    assert (len(same), none) == (len(rest), 0)


def test_pairs_follow_their_languages():
    codes = "abcdef"
    rows = [(x, y, "train", f"{x}{y}", f"{y}{x}") for x in codes for y in codes if x != y]
    table = _translations(rows)
    split = split_pairs(table, test=["a"], dev=["b"])
    assert set(split.test) == {f"{x}-{y}" for x in codes for y in codes if x != y and "a" in x + y and "b" not in x + y}
    assert set(split.dev) == {f"{x}-{y}" for x in codes for y in codes if x != y and "b" in x + y and "a" not in x + y}
    assert set(split.train) == {f"{x}-{y}" for x in "cdef" for y in "cdef" if x != y}
    pivot = _translations([row for row in rows if row[0] == "c"])
    drawn = split_pairs(pivot, test=2, dev=1, seed=3)
    assert [len(part) for part in drawn] == [2, 1, 2]
    assert all(pair.startswith("c-") for part in drawn for pair in part)
    for held_out in ({"test": ["c"], "dev": 1}, {"test": 1, "dev": ["c"]}):
        with pytest.raises(InputError, match=r"c cannot be for (test|dev): pairs of made-up to train on have it too"):
            split_pairs(pivot, **held_out)
    with pytest.raises(InputError, match="Nothing but c is to be trained on, which all pairs of made-up have"):
        split_pairs(pivot, test=1, dev=1, train=["c"])
    with pytest.raises(InputError, match="No pair of languages of made-up is left for train"):
        split_pairs(
            _translations([("a", "b", "train", "x", "y"), ("c", "d", "train", "z", "w")]), test=["a"], dev=["c"]
        )


def test_rows_in_parallel_share_their_number(write):
    # English is the same in train, and another text in every language in test.
    rows = [
        f"{code}\t{split}\t{code}{split}{place}\t{split if split == 'train' else code}{place}"
        for code in "ab" for split in ("train", "test") for place in range(2)
    ]  # fmt: skip
    path = write("\n".join(["language\tsplit\ttext\tenglish", *rows]))
    assert read_table(path).sentence.tolist() == [0, 1, 2, 3, 0, 1, 4, 5]
    assert read_table(path, parallel=True).sentence.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    path = write("\n".join(["language\tsplit\ttext\tenglish", *rows[:-1]]))
    with pytest.raises(InputError, match="not parallel: b has 1 test rows and a has 2; give all languages"):
        read_table(path, parallel=True)


def test_pairs_by_another_source_say_what_the_rows_of_their_common_source_say(write):
    columns, rows = ("tgt_lang", "split", "src", "tgt"), [
        ("ind", "train", "a cat", "kucing"), ("ind", "test", "a cat", "seekor kucing"),
        ("ind", "test", "a dog", "anjing"), ("ban", "test", "a cat", "meng"), ("ban", "train", "a dog", "cicing"),
    ]  # fmt: skip
    table = read_table(write(content("translation", *(dict(zip(columns, row, strict=True)) for row in rows))))
    found = translated_from(table, "ind")
    # Another split is no help, and nothing is translated into the source.
    assert found.languages() == ("ind-ban", "ind-bug")
    assert found.texts("src") == ["kucing", "seekor kucing"]
    assert found.texts("tgt") == ["meong", "meng"]
    assert found.codes("ind-bug") == ("ind", "bug")
    assert found.sentence[0] == found.sentence[1], "still translations of one text"
    with pytest.raises(InputError, match=r"can be translated from 'jav'; name one of its languages \(ban, bug, ind\)"):
        translated_from(table, "jav")


def test_wrong_columns():
    with pytest.raises(ValueError, match="`columns` must have 'english' for retrieval"):
        Table("x", SCHEMAS["retrieval"], np.array(["a"]), np.array(["train"]), {"text": ("t",)}, np.array([0]))
    with pytest.raises(ValueError, match="1 rows each, got 2 of 'text'"):
        Table("x", SCHEMAS["retrieval"], np.array(["a"]), np.array(["train"]),
              {"text": ("t", "u"), "english": ("e",)}, np.array([0]))  # fmt: skip
    with pytest.raises(ValueError, match="`sentence` must have the shape"):
        Table("x", SCHEMAS["generation"], np.array(["a"]), np.array(["train"]),
              {"text": ("t",), "line": np.array([1])}, np.array([0, 1]))  # fmt: skip


# What the READMEs of the sets say of them: rows, languages, and whether rows are in one order in every language.
SETS = {
    "nusax_mt": ("translation", 11_000, 11, True),
    "tico19": ("translation", 11_515, 12, False),
    "tatoeba": ("retrieval", 60_816, 74, False),
    "xquad": ("question_answering", 9_520, 8, True),
    "mlqe_pe": ("scored_pairs", 19_346, 4, False),
    "gnome_help": ("summaries", 5_063, 25, False),
    "udhr": ("generation", 7_386, 120, False),
}


@pytest.mark.parametrize("name", SETS)
def test_real_sets_are_read_and_share_nothing_with_what_is_judged(data_folder, name):
    schema, rows, languages, parallel = SETS[name]
    table = read_table(data_folder(name), parallel=parallel)
    assert (table.schema.name, len(table), len(table.languages())) == (schema, rows, languages)
    split = split_pairs(table, test=max(languages // 4, 1), dev=1)
    report = overlap(table, split)
    assert min(report.train_rows, report.judged_rows) > 0
    # Tatoeba gives some sentences two English translations, of which one is trained on and the other is judged.
    assert report.shared_sentences <= (report.judged_rows // 1000 if name == "tatoeba" else 0)
    assert report.shared_texts <= report.judged_rows // 500
    clean, removed = without_overlap(table, split)
    assert removed < report.train_rows // 500
    # Pages of help and declarations are in many languages, and nothing in their files says which belong together.
    linked = name not in ("gnome_help", "udhr")
    assert check_overlap(clean, split) == (report.train_rows - removed, report.judged_rows, 0, 0, linked)
    if parallel:
        assert len(np.unique(table.sentence)) <= rows // languages
    # A language that is trained on in its test rows gives the judged sentences away, where others share them.
    if name in ("nusax_mt", "tico19", "tatoeba", "xquad"):
        moved = Table(table.name, table.schema, table.language, np.full(rows, "train"), table.columns, table.sentence)
        judged = np.isin(table.language, split.test) & (table.split == "test")
        moved.split[judged] = "test"
        with pytest.raises(InputError, match="translations of rows that are trained on"):
            check_overlap(moved, split)
