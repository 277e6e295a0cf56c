"""Text larger than memory, of every kind: a run on rows that stay on disk has the batches of one in memory."""

import dataclasses
import itertools
import tracemalloc

import jax
import numpy as np
import pytest
from tiny_run import evaluation, jaxmeta, metrics, train, write_lines

from jaxmeta import data
from jaxmeta.config import load
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.stream_tasks import StreamTasks, StreamTextTasks
from jaxmeta.config.tasks import TextTasks
from jaxmeta.core.checks import InputError
from jaxmeta.data.links import number_sentences
from jaxmeta.data.row_files import STREAMED, Cell, TsvRows
from jaxmeta.data.splits import checked_report
from jaxmeta.data.stream_overlap import overlap_on_disk
from jaxmeta.data.stream_rows import StreamedRows

LANGUAGES = ("aa", "bb", "cc", "dd", "ee", "ff")
SIZES = {"aa": 23, "bb": 5, "cc": 1, "dd": 9, "ee": 9, "ff": 6}
WORDS = ("ab", "größe", "zwei", "drei", "vier", "fünf", "sechs", "x")


def a_row(kind, code, split, number):
    """A row of some kind; of retrieval and translation some texts are those of other rows, of any split."""
    text = f" {code} {split} {WORDS[number % len(WORDS)]} {number} "
    answer = f"{number} " + "lang " * (number % 4)
    row = {
        "language": code,
        "split": split,
        "text": text,
        "line": f"{number}",
        "label": ("no", "yes", "so")[number % 3],
    }
    row |= {
        "src_lang": "eng",
        "tgt_lang": code,
        "src": f"Word {split} {number % 17}",
        "tgt": f"{code} {number % 11} {split}",
    }
    row |= {"english": f"word  {split} {number % 13}", "summary": f"{code} {number}", "score": f"{number / 7:.3f}"}
    row |= {"first": text, "second": f"{code} second {number}", "question": f"Wie {number}?"}
    start = f"Das in {code} {split} ist "
    row |= {"context": f"{start}{answer} und mehr.", "answer": answer.strip(), "answer_start": str(len(start))}
    return row


def lines_of(kind, sizes=SIZES):
    """The header and the rows, languages by turns, with labels that some languages lack and rows that are judged."""
    columns = STREAMED[kind].columns
    cells = [(n, c, s) for c, size in sizes.items() for s, count in (("train", size), ("dev", 4), ("test", 4))
             for n in range(count)]  # fmt: skip
    rows = [a_row(kind, code, split, number) for number, code, split in sorted(cells)]
    rows = [row | ({"label": "yes"} if row["language"] == "bb" else {}) for row in rows]
    # What is said by a judged row, and what is linked to that by one that is in no role.
    said = {column: a_row(kind, "ff", "test", 1)[column].upper() for column in ("text", "first", "context", "answer")}
    rows.append(a_row(kind, "aa", "train", 40) | said | {"answer_start": "19"})
    rows.append(a_row(kind, "aa", "train", 41) | {"src": "linked", "tgt": "other", "english": "linked"})
    rows.append(
        a_row(kind, "dd", "dev", 42) | {"src": "linked", "tgt": "between", "english": "linked", "text": "between"}
    )
    rows.append(
        a_row(kind, "dd", "train", 43) | {"src": "third", "tgt": "between", "english": "third", "text": "between"}
    )
    rows.append(a_row(kind, "ff", "test", 44) | {"src": "third", "tgt": "last", "english": "third"})
    return ["\t".join(columns), *("\t".join(row[column] for column in columns) for row in rows)]


def config_of(kind, path, *, stream, **changes):
    return load(changes={
        "task.kind": kind, "task.source": "tsv", "task.path": str(path), "task.stream": stream, "tokenizer.length": 16,
        "task.test_languages": ("ff",), "task.dev_languages": ("ee",), "task.shots": 3, "task.queries": 2,
        "task.tasks_per_step": 2, **changes,
    })  # fmt: skip


def both(kind, path, **changes):
    """The tasks of a run in memory and of one on rows that stay on disk."""
    of_kind = (TextTasks, StreamTextTasks) if kind == "classification" else (PairTasks, StreamTasks)
    return [make(config_of(kind, path, stream=make is of_kind[1], **changes)) for make in of_kind]


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


OPTIONS = {
    "classification": ({}, {"train.cipher": 0.5}, {"task.train_languages": ("aa", "bb")}),
    "translation": ({}, {"task.lexicon": True, "tokenizer.target_length": 12}),
    "generation": ({"tokenizer.target_length": 20}, {"task.sampling": "unimax"}),
    "retrieval": ({}, {"task.left_out_languages": ("bb",)}),
    "question_answering": ({"tokenizer.length": 3},),
}


@pytest.mark.parametrize(("kind", "number"), [(k, n) for k in STREAMED for n in range(len(OPTIONS.get(k, ({},))))])
def test_a_streamed_run_has_the_batches_of_one_in_memory(kind, number, tmp_path):
    write_lines(tmp_path / "rows.tsv", lines_of(kind))
    options = OPTIONS.get(kind, ({},))[number]
    memory, streamed = both(kind, tmp_path / "rows.tsv", **{"train.cipher": 0, **options})
    assert streamed.split == memory.split
    augmented = bool(options.get("train.cipher"))
    for seed in (0, 1):
        pairs = zip(*(tasks.batches(seed, 5, augmented=augmented)(2) for tasks in (memory, streamed)), strict=False)
        for one, other in itertools.islice(pairs, 40):
            same(one, other)
    for role in ("dev", "test"):
        for code in memory.languages(role):
            same(*(tasks.episode(code, shots=3, draw=1, split=role) for tasks in (memory, streamed)))
    # All rows are few enough to be the sample.
    same(memory.source(), streamed.source())
    assert memory.tokenizer.state() == streamed.tokenizer.state()
    ours, theirs = streamed.facts(), memory.facts()
    assert ours.pop("sample").startswith("texts, tokenizer and scripts of train languages are those of ")
    assert ours.pop("corpus") == f"{theirs.pop('corpus')}, on disk"
    if kind == "classification":
        assert streamed.corpus.labels == memory.corpus.labels
    else:
        shared = sum(len(of) for cell, of in streamed._shared.items() if cell.language in memory.split.train)
        assert memory.shared > 0
        assert sum(map(len, streamed._shared.values())) == memory.shared
        assert ours.pop("overlap").startswith(f"{shared} of ")
        del theirs["overlap"]
    if kind == "question_answering":  # what no window answers is in no sample
        assert int(ours["answers_longer_than_a_window"]) > 5
        ours, theirs = ({key: facts[key] for key in ("languages", "answers_longer_than_a_window")}
                        for facts in (ours, theirs))  # fmt: skip
    assert ours == theirs


def opened(*paths, kind, **options):
    return StreamedRows(TsvRows(paths, kind, **options), name="rows")


def test_rows_that_say_the_same_have_the_numbers_of_all_rows_in_memory(tmp_path):
    # Few texts, so that links go through many rows.
    generator = np.random.default_rng(0)
    words = [f"w{number}" for number in range(120)]
    rows = [f"{'abc'[n % 3]}\ttrain\t{generator.choice(words)}\t{generator.choice(words).upper()}" for n in range(150)]
    write_lines(tmp_path / "rows.tsv", ["language\tsplit\ttext\tenglish", *rows])
    table = data.read_table(tmp_path / "rows.tsv", "retrieval")
    assert 5 < len(set(table.sentence.tolist())) < 100
    streamed = opened(tmp_path / "rows.tsv", kind="retrieval", chunk=100)
    numbers = number_sentences(streamed.schema, streamed.read())
    for code in table.languages():
        cell = Cell(code, "train")
        np.testing.assert_array_equal(numbers[cell], table.sentence[table.rows(code, "train")])
        np.testing.assert_array_equal(streamed.rows({cell: np.array([0, 7, 9])}).sentence, numbers[cell][[0, 7, 9]])


def test_several_files_are_read_as_one_and_columns_have_names_of_their_own(tmp_path):
    header, *body = lines_of("translation")
    write_lines(tmp_path / "all.tsv", [header, *body])
    turned = "\t".join(reversed(header.replace("tgt_lang", "to").split("\t")))
    for number, of in enumerate((body[:60], body[60:])):
        write_lines(tmp_path / f"{number}.tsv", [turned, *("\t".join(reversed(line.split("\t"))) for line in of)])
    memory = PairTasks(config_of("translation", tmp_path / "all.tsv", stream=False))
    paths = (str(tmp_path / "0.tsv"), str(tmp_path / "1.tsv"))
    streamed = StreamTasks(
        config_of("translation", "", stream=True, **{"task.path": paths, "task.columns": {"tgt_lang": "to"}})
    )
    pairs = zip(*(tasks.batches(0, 0, augmented=False)(0) for tasks in (memory, streamed)), strict=False)
    for one, other in itertools.islice(pairs, 20):
        same(one, other)


RUNS = {
    "classification": ("zero_shot", "tfidf_source"),
    "translation": ("zero_shot", "lexicon"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_a_streamed_run_comes_to_what_one_in_memory_comes_to(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "rows.tsv", lines_of(kind))
    changes = {
        "task.kind": kind, "task.path": "rows.tsv", "task.shots": 3, "task.queries": 2, "task.tasks-per-step": 2,
        "task.test-languages": ("ff",), "task.dev-languages": ("ee",), "train.cipher": 0,
        "evaluate.methods": RUNS[kind], "tokenizer.target-length": 6,
    }  # fmt: skip
    found = {}
    for stream in (False, True):
        assert jaxmeta(*train(f"run{stream}", changes | {"task.stream": stream})) == 0
        found[stream] = evaluation(tmp_path / f"run{stream}")
        about = found[stream].pop("data")
        assert ("on disk" in about["corpus"]) == stream
    assert found[True] == found[False]
    assert metrics(tmp_path / "runTrue") == metrics(tmp_path / "runFalse")


# --- Memory.


@pytest.mark.parametrize("kind", ["classification", "translation", "summaries", "retrieval"])
def test_rows_that_are_trained_on_are_not_held(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxmeta.config.stream_tasks._SAMPLE", 64)
    columns, path, wide = STREAMED[kind].columns, tmp_path / "rows.tsv", "ab" * 1700
    with path.open("w", encoding="utf-8") as file:
        file.write("\t".join(columns) + "\n")
        for number in range(1_600):
            code = "abcd"[number % 4] if number < 100 else "ab"[number % 2]
            row = {"language": code, "split": ("train", "dev", "test")[number // 4 % 3] if code in "cd" else "train",
                   "label": "yn"[number // 4 % 2], "src_lang": "eng", "tgt_lang": code}  # fmt: skip
            row |= {name: f"{name} {number} {wide}" for name in columns if name not in row}
            file.write("\t".join(row[column] for column in columns) + "\n")
    make = StreamTextTasks if kind == "classification" else StreamTasks
    write_lines(tmp_path / "small.tsv", lines_of(kind))
    small = make(config_of(kind, tmp_path / "small.tsv", stream=True, **{"train.cipher": 0}))
    next(small.batches(0, 0, augmented=False)(0))  # what is imported is not measured
    roles = {"task.test_languages": ("d",), "task.dev_languages": ("c",), "train.cipher": 0}
    config = config_of(kind, path, stream=True, **roles)
    tracemalloc.start()
    try:
        tasks = make(config)
        next(tasks.batches(0, 0, augmented=False)(0))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    rows = tasks.rows_on_disk
    cells = [cell for code in tasks.split.train for cell in rows.cells(code, "train")]
    held = tasks.corpus if kind == "classification" else tasks.table
    assert sum(map(rows.count, cells)) == 1_550
    assert sum(len(held.rows(code, "train")) for code in tasks.split.train) == 64
    assert len(held) == 64 + 50
    assert path.stat().st_size > 5e6
    assert most < path.stat().st_size / 2


@pytest.mark.parametrize("kind", ["classification", "generation"])
def test_rows_keep_their_numbers_whichever_sources_are_left_out(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxmeta.config.stream_tasks._SAMPLE", 16)
    write_lines(tmp_path / "rows.tsv", lines_of(kind))
    make = StreamTextTasks if kind == "classification" else StreamTasks
    held, whole = [], make(config_of(kind, tmp_path / "rows.tsv", stream=True))
    # Problems on disk name rows by number.
    manifest = data.make_manifest(whole.judged, shots=[1], draws=2)
    for left_out in ((), ("aa",), ("bb", "cc")):
        tasks = make(config_of(kind, tmp_path / "rows.tsv", stream=True, **{"task.left_out_languages": left_out}))
        assert set(tasks.split.train) == {"aa", "bb", "cc", "dd"} - set(left_out)
        rows = tasks.judged.corpus
        data.check_manifest(manifest, rows)
        held.append((rows.language.tolist(), list(rows.text if kind == "classification" else rows.texts("text"))))
    assert held[0] == held[1] == held[2]


# --- Prepared sets.


@pytest.mark.parametrize("kind", STREAMED)
def test_a_prepared_set_stays_on_disk_too(kind, tmp_path):
    write_lines(tmp_path / f"{kind}.tsv", lines_of(kind))
    folder = data.build_tfds(kind, tmp_path, tmp_path / "sets")
    options = {"task.source": "tfds", "train.cipher": 0, "tokenizer.length": 6}
    memory, streamed = both(kind, folder, **options)
    assert streamed.split == memory.split
    pairs = zip(*(tasks.batches(0, 0, augmented=False)(0) for tasks in (memory, streamed)), strict=False)
    for one, other in itertools.islice(pairs, 20):
        same(one, other)
    for code in memory.languages("test"):
        same(*(tasks.episode(code, shots=3, draw=1, split="test") for tasks in (memory, streamed)))
    same(memory.source(), streamed.source())
    assert streamed.facts()["corpus"] == f"{memory.facts()['corpus']}, on disk"
    if kind == "classification":
        assert streamed.facts()["overlap"] == memory.facts()["overlap"]
    else:
        assert sum(map(len, streamed._shared.values())) == memory.shared


@pytest.mark.parametrize("kind", ["classification", "generation"])
def test_splits_are_joined_in_the_order_of_their_file(kind, tmp_path):
    write_lines(tmp_path / f"{kind}.tsv", lines_of(kind))
    folder = data.build_tfds(kind, tmp_path, tmp_path / "sets")
    splits = {"train[50%:]": "train", "dev": "dev", "train[:50%]": "train", "test": "test"}
    memory, streamed = both(
        kind, folder, **{"task.source": "tfds", "task.splits": splits, "train.cipher": 0, "tokenizer.length": 6}
    )
    pairs = zip(*(tasks.batches(0, 0, augmented=False)(0) for tasks in (memory, streamed)), strict=False)
    for one, other in itertools.islice(pairs, 20):
        same(one, other)
    same(memory.source(), streamed.source())


def test_sentences_of_a_parallel_set_are_kept_apart(tmp_path):
    rows = [
        f"{code}\t{split}\t{'ny'[n % 2]}\t{code} {split} {n % 5}"
        for split in data.SPLITS
        for n in range(6)
        for code in ("aa", "bb", "ee", "ff")
    ]
    write_lines(tmp_path / "sheet.tsv", ["language\tsplit\tlabel\ttext", *rows])
    folder = data.build_tfds("sheet", tmp_path, tmp_path / "sets", parallel=True)
    options = {"task.source": "tfds", "train.cipher": 0}
    memory, streamed = both("classification", folder, **options)
    assert streamed.facts()["overlap"] == memory.facts()["overlap"]
    assert memory.overlap.linked
    assert streamed.facts()["shots"] == memory.facts()["shots"]
    assert memory.facts()["shots"].startswith("6 of 6 ")
    with pytest.raises(InputError, match="must name one place"):
        StreamTextTasks(config_of("classification", "", stream=True, **options | {"task.path": (str(folder), "b")}))


def test_judged_rows_that_are_translations_of_train_rows_are_refused(tmp_path):
    # The first row of a language is of another split in the other one.
    rows = [
        f"{code}\t{split}\t{'ny'[n % 2]}\t{code} {split} {n}"
        for code, parts in (("aa", ("train", "dev", "test")), ("ee", data.SPLITS), ("ff", ("test", "train", "dev")))
        for split in parts
        for n in range(4)
    ]
    write_lines(tmp_path / "mixed.tsv", ["language\tsplit\tlabel\ttext", *rows])
    read = data.read_rows(tmp_path / "mixed.tsv", name="mixed")
    assert isinstance(read, data.Corpus)
    place = np.concatenate([np.arange(12)] * 3)
    mixed = dataclasses.replace(read, sentence=place)
    with pytest.raises(InputError) as error:
        data.check_overlap(mixed, data.LanguageSplit(("aa",), ("ee",), ("ff",)))

    class Numbered(TsvRows):
        """A file whose rows have the sentence numbers of their places."""

        def scan(self):
            for chunk in super().scan():
                rows = [(line, fields | {"sentence": str((line - 2) % 12)}) for line, fields in chunk.rows]
                yield chunk._replace(rows=rows)

        def fields(self, raw, line):
            return super().fields(raw, line) | {"sentence": str((line - 2) % 12)}

    rows = StreamedRows(Numbered([tmp_path / "mixed.tsv"], "classification"), name="mixed")
    report, shots = overlap_on_disk(rows, data.LanguageSplit(("aa",), ("ee",), ("ff",)))
    assert report == data.overlap(mixed, data.LanguageSplit(("aa",), ("ee",), ("ff",)))
    assert shots == data.translated_shots(mixed, data.LanguageSplit(("aa",), ("ee",), ("ff",)))
    with pytest.raises(InputError) as again:
        checked_report(report, rows.name)
    assert str(again.value) == str(error.value)


# --- What is refused.

WRONG = {
    "a label alone": ("classification", {"label": "yes"}, "has rows of one label only, 'yes'"),
    "a pair of one language": (
        "translation",
        {"src_lang": "aa", "tgt_lang": "aa"},
        "src_lang and tgt_lang are both aa",
    ),
    "a score in words": ("scored_pairs", {"score": "good"}, "the score is 'good'; it must be a number"),
    "an answer elsewhere": ("question_answering", {"answer_start": "3"}, "is not at answer_start 3 of the context"),
    "a line that is none": ("generation", {"line": "one"}, "the line is 'one'; it must be a whole number"),
    "an unknown split": ("summaries", {"split": "tset"}, "the split is 'tset'"),
    "an empty text": ("retrieval", {"english": " "}, "the english is empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_the_same_sentence_as_in_memory(name, tmp_path):
    kind, wrong, says = WRONG[name]
    columns, rows = STREAMED[kind].columns, [a_row(kind, "aa", "train", number) for number in range(5)]
    rows = [row | (wrong if number == 3 or kind == "classification" else {}) for number, row in enumerate(rows)]
    write_lines(tmp_path / "rows.tsv", ["\t".join(columns), *("\t".join(row[c] for c in columns) for row in rows)])
    said = []
    for read in (
        lambda path: data.read_tsv(path) if kind == "classification" else data.read_table(path, kind),
        lambda path: opened(path, kind=kind),
    ):
        with pytest.raises(InputError) as error:
            read(tmp_path / "rows.tsv")
        said.append(str(error.value))
    assert said[0] == said[1]
    assert says in said[0]
    assert ("rows.tsv, line 5: " in said[0]) == (kind != "classification")
