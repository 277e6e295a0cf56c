"""Text larger than memory: rows read as they are drawn are those of the file, and a run on them is cut and goes on."""

import collections
import json
import os
import re
import signal
import subprocess
import time
import tracemalloc

import jax
import numpy as np
import pytest
from tiny_run import environment, evaluation, files, jaxmeta, metrics, process, train, write_lines

from jaxmeta import data
from jaxmeta.config import build, load
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.stream_tasks import StreamTasks
from jaxmeta.core.checks import InputError
from jaxmeta.data.few_shot import deal
from jaxmeta.data.row_files import STREAMED, Cell, Chunk, TsvRows, cell_of
from jaxmeta.data.stream_episodes import StreamEpisodes, numbers_without
from jaxmeta.data.stream_rows import StreamedRows

SIZES = {"aa": 30, "bb": 3, "cc": 1, "dd": 12, "ee": 12}
HEADER = "language\tsplit\tline\ttext"


def text_lines(shared=True):
    """A file in languages of different sizes, by turns; the last row of each train part may be one that is judged."""
    rows = [
        (number, code, split)
        for code, size in SIZES.items()
        for split, count in (("train", size), ("dev", 4), ("test", 4))
        for number in range(count)
    ]
    lines = [f"{c}\t{s}\t{n}\t {c} {s} größer {n} {'x' * (7 * n % 30)}" for n, c, s in sorted(rows)]
    if shared:
        lines += ["aa\ttrain\t99\tEE  test größer 2 xxxxxxxxxxxxxx", "bb\ttrain\t99\tee test größer 1 xxxxxxx"]
    return [HEADER, *lines]


def opened(*paths, kind="generation", languages=(), **options):
    return StreamedRows(TsvRows(paths, kind, **options), name="rows", languages=languages)


def text(rows, cell, number):
    ((_, _, _, fields),) = rows.pick({Cell(*cell): np.array([number])})
    return fields["text"].strip()


@pytest.fixture
def file(tmp_path):
    write_lines(tmp_path / "rows.tsv", text_lines())
    return tmp_path / "rows.tsv"


def cells_of(table):
    return {
        (code, split): table.texts("text", table.rows(code, split))
        for code in table.languages()
        for split in data.SPLITS
    }


@pytest.mark.parametrize("chunk", [1, 50, 333, 10**6])
def test_every_row_is_had_by_its_number(file, chunk):
    rows, table = opened(file, chunk=chunk), data.read_table(file, "generation")
    assert (rows.languages(), len(rows)) == (table.languages(), len(table))
    for cell, texts in cells_of(table).items():
        assert rows.count(Cell(*cell)) == len(texts)
        order = np.random.default_rng(0).permutation(len(texts))
        assert [text(rows, cell, int(number)) for number in order] == [texts[number] for number in order]
    assert rows.count(Cell("zz", "train")) == 0


def test_several_files_windows_line_ends_and_other_headers_are_read_as_one(tmp_path):
    write_lines(tmp_path / "all.tsv", text_lines())
    body = text_lines()[1:]
    heads = ("\ufefflanguage\tsplit\tline\ttext", "text\tline\tlanguage\tsplit")
    turned = ["\t".join((t, n, c, s)) for c, s, n, t in (line.split("\t") for line in body[40:])]
    for number, (head, part) in enumerate(zip(heads, (body[:40], turned), strict=True)):
        (tmp_path / f"{number}.tsv").write_bytes("\r\n".join([head, *part, "", ""]).encode())
    rows = opened(tmp_path / "0.tsv", tmp_path / "1.tsv", chunk=100)
    whole = cells_of(data.read_table(tmp_path / "all.tsv", "generation"))
    for cell, texts in whole.items():
        assert [text(rows, cell, number) for number in range(rows.count(Cell(*cell)))] == texts
    write_lines(tmp_path / "other.tsv", ["part\tbody", "train\tone", "test\ttwo"])
    other = opened(tmp_path / "other.tsv", columns={"split": "part", "text": "body"}, language="eng")
    assert (other.languages(), text(other, ("eng", "test"), 0)) == (("eng",), "two")


def test_some_rows_are_a_table_in_the_order_of_the_file(file):
    rows, whole = opened(file, chunk=60), cells_of(data.read_table(file, "generation"))
    held = {Cell("ee", part): np.arange(4 if part != "train" else 12) for part in data.SPLITS}
    picked = {Cell("aa", "train"): np.array([29, 0, 7]), Cell("bb", "train"): np.array([2])}
    table = rows.rows(held | picked)
    assert table.languages() == ("aa", "bb", "ee")
    assert table.texts("text", table.rows("aa", "train")) == [whole["aa", "train"][k] for k in (0, 7, 29)]
    assert table.texts("text", table.rows("bb", "train")) == [whole["bb", "train"][2]]
    for part in data.SPLITS:
        assert table.texts("text", table.rows("ee", part)) == whole["ee", part]
    read = [fields["text"].strip() for _, fields in rows.read([Cell("ee", "test"), Cell("cc", "train")])]
    assert read == sorted((*whole["ee", "test"], *whole["cc", "train"]), key=lambda t: whole_line(file, t))
    places = [whole_line(file, t) for t in table.texts("text")]
    assert places == sorted(places)


def whole_line(file, text):
    return next(n for n, line in enumerate(file.read_text("utf-8").splitlines()) if line.strip().endswith(text))


class Mixed:
    """Rows of many languages by turns, in chunks of few, none of which is held (implements `RowSource`)."""

    name, schema, labels, complete = "mixed", STREAMED["generation"], None, False

    def __init__(self, chunks):
        self.chunks = chunks

    def scan(self):
        for chunk in range(self.chunks):
            yield Chunk("mixed", (0, chunk, chunk + 1, 8 * chunk + 1), list(self.lines(chunk)))

    def lines(self, chunk):
        for line in range(8 * chunk + 1, 8 * chunk + 9):
            yield line, {"language": f"l{line % 8}", "split": "train", "line": str(line), "text": f"text {line}"}

    def read(self, place, cells):
        for line, fields in self.lines(place[1]):
            if (cell := cell_of(self.schema, fields)) in cells:
                yield line, cell, fields

    def fields(self, raw, line):
        return raw


def test_few_bytes_are_held_of_a_row_of_mixed_languages():
    size = 5_000
    StreamedRows(Mixed(10), name="mixed")  # what is made once
    tracemalloc.start()
    try:
        rows = StreamedRows(Mixed(size), name="mixed")
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows) == 8 * size
    assert text(rows, ("l3", "train"), 4_321) == f"text {8 * 4_321 + 3}"
    # Of each row that is alone in its chunk 12 bytes, an eighth of 32 for the chunk, and room for arrays to grow.
    assert held < 20 * len(rows)
    assert most < 24 * len(rows)


def test_numbers_pass_over_those_that_are_left_out():
    left_out = np.array([0, 3, 4, 9])
    kept = [number for number in range(12) if number not in left_out]
    assert numbers_without(left_out, np.arange(8)).tolist() == kept
    assert numbers_without(np.zeros(0, np.int64), np.arange(4)).tolist() == [0, 1, 2, 3]


def test_memory_is_that_of_the_index_and_a_row_costs_one_chunk(tmp_path, monkeypatch):
    body = [f"{'ab'[n % 2]}\ttrain\t{n}\t{'text ' * 20}{n}" for n in range(20_000)]
    write_lines(tmp_path / "large.tsv", [HEADER, *body])
    rows = opened(tmp_path / "large.tsv", chunk=2**14)
    held = sum(len(array) for of in (rows._where, rows._before) for array in of.values())
    assert held < 1000 < len(rows), "fewer numbers than rows"
    sizes = []
    whole = data.row_files.open_file

    def watched(path):
        handle = whole(path)
        read = handle.read

        class Watched:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                handle.close()

            def seek(self, place):
                handle.seek(place)

            def read(self, size):
                sizes.append(size)
                return read(size)

        return Watched()

    monkeypatch.setattr(data.row_files, "open_file", watched)
    assert text(rows, ("b", "train"), 9_999).endswith(" 19999")
    assert len(sizes) == 1
    assert sizes[0] < 2**14 + 200


# --- Episodes.


def episodes_of(file, languages=("aa", "bb", "cc", "dd"), **options):
    settings = {"shots": 3, "queries": 2, "seed": 5} | options

    def make(rows, split):
        kept = {name: value for name, value in settings.items() if name != "left_out"}
        return data.PairEpisodes(rows, data.ByteTokenizer(24), split, **kept)

    return StreamEpisodes(opened(file, chunk=80), languages, make, weighting=data.tempered(1.0), **settings)


def test_an_episode_holds_different_rows_of_one_language_as_in_memory(file):
    table = data.read_table(file, "generation")
    split = data.LanguageSplit(("aa", "bb", "cc", "dd"), (), ())
    memory = data.PairEpisodes(table, data.ByteTokenizer(24), split, shots=3, queries=2, seed=5)
    streamed, drawn = episodes_of(file), collections.Counter()
    np.testing.assert_allclose(streamed.weights, memory.weights("train"))
    texts = {code: {t for (c, _), of in cells_of(table).items() if c == code for t in of} for code in split.train}
    for index in range(200):
        episode = streamed(index)
        jax.tree.map(np.testing.assert_array_equal, episode, memory(index))
        read = [t for part in episode
                for t in data.decode_sequence(data.ByteTokenizer(24), part["targets"][part["mask"]])]  # fmt: skip
        (code,) = [c for c, of in texts.items() if all(any(whole.startswith(t) for whole in of) for t in read)]
        drawn[code] += 1
        assert len(read) == min(SIZES[code] + (code in ("aa", "bb")), 5)
    # 31, 4, 1 and 12 rows.
    assert drawn["aa"] > drawn["dd"] > drawn["bb"] > drawn["cc"] > 0
    alone = episodes_of(file, ("cc",))(0)
    assert alone.support["mask"].tolist() == [True, False, False]
    assert not alone.query["mask"].any()


def test_very_many_rows_are_drawn_without_an_order_of_all():
    generator = np.random.default_rng(0)
    support, query = deal(generator, 10**12, 5, 10)
    assert (len(support), len(query), len({*support.tolist(), *query.tolist()})) == (5, 10, 15)
    assert max(*support, *query) > 2**32
    with_all = np.random.default_rng(0).permutation(50)
    np.testing.assert_array_equal(np.concatenate(deal(np.random.default_rng(0), 50, 5, 10)), with_all[:15])


def test_an_episode_follows_from_its_number_and_the_seed(file):
    one, again, other = episodes_of(file), episodes_of(file), episodes_of(file, seed=6)
    for index in (0, 7, 10**9):
        jax.tree.map(np.testing.assert_array_equal, one(index), again(index))
    assert any((one(k).support["targets"] != other(k).support["targets"]).any() for k in range(5))
    assert any((one(k).support["targets"] != one(k + 1).support["targets"]).any() for k in range(5))


def test_rows_that_are_left_out_are_never_drawn(file):
    left_out = {Cell("aa", "train"): np.arange(1, 31), Cell("dd", "train"): np.array([0, 5])}
    streamed, table = episodes_of(file, left_out=left_out), data.read_table(file, "generation")
    tokens = {t: data.ByteTokenizer(23).encode([t])[0].tobytes() for t in table.texts("text")}
    banned = {tokens[table.texts("text", table.rows(c, "train"))[k]] for (c, *_), ks in left_out.items() for k in ks}
    seen = {row[:23].tobytes() for k in range(200) for part in streamed(k) for row in part["targets"]}
    assert not seen & banned
    assert len(seen) > 10
    with pytest.raises(InputError, match="The train language bb of rows has no train rows"):
        episodes_of(file, left_out={Cell("bb", "train"): np.arange(4)})


# --- Runs.

CHANGES = {
    "task.kind": "generation", "task.path": "rows.tsv", "task.stream": True, "task.shots": 3, "task.queries": 2,
    "task.tasks-per-step": 2, "task.test-languages": ("ee",), "task.dev-languages": ("dd",), "train.cipher": 0,
    "evaluate.methods": ("zero_shot", "token_ngrams", "reptile"), "train.steps": 12, "train.save-every": 2,
}  # fmt: skip


def config_of(file, **changes):
    keys = {key.replace("-", "_"): value for key, value in CHANGES.items()}
    return load(changes={"task.source": "tsv", **keys, "task.path": str(file), **changes})


def test_a_streamed_run_judges_what_a_run_in_memory_does(file):
    memory, streamed = PairTasks(config_of(file, **{"task.stream": False})), StreamTasks(config_of(file))
    assert streamed.split == memory.split
    for role in ("dev", "test"):
        (code,) = memory.languages(role)
        episodes = [tasks.episode(code, shots=3, draw=1, split=role) for tasks in (memory, streamed)]
        jax.tree.map(np.testing.assert_array_equal, *(episode.query for episode in episodes))
        # The shots are drawn by what stands in memory, whose rows of a language that is held out are all there.
        jax.tree.map(np.testing.assert_array_equal, *(episode.support for episode in episodes))
    assert memory.shared == 2
    assert {cell.language: of.tolist() for cell, of in streamed._left_out.items()} == {"aa": [30], "bb": [3], "cc": []}
    facts = streamed.facts()
    assert facts["overlap"] == "2 of 36 rows that say what a judged row says left out of training"
    assert facts["corpus"] == "cldr_months: 100 rows, 5 languages, on disk"
    assert facts["sample"].endswith("are those of 34 of 34 rows")
    judged = {data.table.normalised(t) for t in memory.table.texts("text", memory.table.rows("ee", "test"))}
    batches = streamed.batches(0, 0, augmented=False)(0)
    texts = [t for _, episodes in zip(range(40), batches, strict=False) for part in episodes
             for t in data.decode_sequence(streamed.tokenizer, part["targets"].reshape(-1, 64))]  # fmt: skip
    assert len(set(texts)) > 20
    assert not {data.table.normalised(t) for t in texts} & judged


def test_a_sample_is_spread_over_a_large_file(tmp_path):
    rows = [f"{'ab'[n % 10 == 0]}\ttrain\t{n}\tnumber {n}" for n in range(12_000)]
    held = [f"{c}\t{s}\t0\theld {c} {s}" for c in "cd" for s in data.SPLITS]
    write_lines(tmp_path / "rows.tsv", [HEADER, *rows, *held])
    tasks = StreamTasks(
        config_of(tmp_path / "rows.tsv", **{"task.test_languages": ("c",), "task.dev_languages": ("d",)})
    )
    sizes = [len(tasks.table.rows(code, "train")) for code in "ab"]
    assert sizes == [3686, 410]
    numbers = [int(text.split()[1]) for text in tasks.table.texts("text", tasks.table.rows("a", "train"))]
    assert (numbers[0], numbers[-1]) == (1, 11_999)
    assert len(tasks.source()["targets"]) == 2048
    assert "4096 of 12000 rows" in tasks.facts()["sample"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A streamed run that nothing has cut, in a process of its own like the one that is cut."""
    folder = tmp_path_factory.mktemp("stream")
    write_lines(folder / "rows.tsv", text_lines())
    words = process(*train("run", CHANGES))
    subprocess.run(words, cwd=folder, env=environment(), check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_a_streamed_run_that_is_killed_ends_with_the_same_bits(finished, tmp_path):
    write_lines(tmp_path / "rows.tsv", text_lines())
    words = process(*train("run", CHANGES))
    started = subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while not [*(tmp_path / "run").glob("checkpoints/*/joint/*2/digests.json")] and time.monotonic() < until:
        assert started.poll() is None, "over before it could be killed"
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    assert not (tmp_path / "run" / "evaluation.json").exists()
    done = subprocess.run(words, cwd=tmp_path, env=environment(), check=True, capture_output=True, text=True)
    assert "Continuing toy in run" in done.stderr
    whole = [json.dumps(line) for line in metrics(finished / "run")]
    assert metrics(tmp_path / "run")[-1] == metrics(finished / "run")[-1], "the digest of all parameters"
    assert {json.dumps(line) for line in metrics(tmp_path / "run")} == set(whole)
    assert evaluation(tmp_path / "run") == evaluation(finished / "run")


@pytest.mark.slow
def test_a_streamed_run_is_judged_again_and_adapts(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    monkeypatch.setattr("jaxmeta.config.commands.write_report", lambda run: run)
    before = evaluation(finished / "run")
    assert before["languages"] == ["ee"]
    assert re.match(r"2 of 36 rows", before["data"]["overlap"])
    assert jaxmeta("evaluate", "run") == 0
    assert evaluation(finished / "run") == before
    write_lines(tmp_path / "shots.tsv", ["text", "zz one", "zz two"])
    assert jaxmeta("adapt", "run", "--shots", str(tmp_path / "shots.tsv"), "--out", str(tmp_path / "mine")) == 0


def test_pieces_are_learned_from_the_sample(file):
    changes = {"tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 300, "tokenizer.target_length": 20}
    built = build(config_of(file, **changes))
    assert isinstance(built.tasks, StreamTasks)
    batch = next(built.tasks.batches(0, 0, augmented=False)(0)).support
    assert batch["targets"].shape == (2, 3, 20)
    decoded = data.decode_sequence(built.tasks.tokenizer, batch["targets"][0])
    assert all("train" in text for text in decoded)


# --- What is refused.

GOOD = ["aa\ttrain\t0\tone", "aa\ttest\t1\ttwo", "bb\ttrain\t0\tthree"]
WRONG = {
    "empty": ("", "rows.tsv is empty; write at least one line"),
    "blank header": ("\n\n", "rows.tsv is empty; write at least one line"),
    "header only": (HEADER, "has a header and no rows; add rows"),
    "no column": ("\n".join(["language\tsplit\tbody", *GOOD]), "line 1: there is no column 'text' among 'language'"),
    "a column twice": ("\n".join([f"{HEADER}\ttext", *GOOD]), "line 1: the column 'text' is there twice"),
    "too few fields": ("\n".join([HEADER, *GOOD, "aa\ttrain\tx"]), "line 5: 3 fields where the header has 4"),
    "too many fields": ("\n".join([HEADER, *GOOD, "aa\ttrain\tx\ty\tz"]), "line 5: 5 fields where the header has 4"),
    "a blank line": ("\n".join([HEADER, GOOD[0], "", GOOD[1]]), "line 3: 1 fields where the header has 4"),
    "an empty text": ("\n".join([HEADER, *GOOD, "aa\ttrain\t1\t "]), "line 5: the text is empty"),
    "an empty language": ("\n".join([HEADER, *GOOD, " \ttrain\t1\tx"]), "line 5: the language is empty"),
    "unknown split": ("\n".join([HEADER, *GOOD, "aa\ttrian\t1\tx"]), "line 5: the split is 'trian'"),
    "no train rows": ("\n".join([HEADER, *GOOD, "cc\ttest\t1\tx"]), "line 5: the language cc has no train rows"),
    "not UTF-8": ("\n".join([HEADER, *GOOD]).encode() + b"\naa\ttrain\t1\t\xff", "line 5: byte"),
    "UTF-16": ("\n".join([HEADER, *GOOD]).encode("utf-16"), "line 1: the file is UTF-16"),
    "a NUL byte": ("\n".join([HEADER, *GOOD, "aa\ttrain\t1\ta\0b"]), "line 5: there is a NUL byte"),
    "CR alone": ("\r".join([HEADER, *GOOD]), "line 1: lines end with CR alone"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_whatever_is_wrong_in_a_file_is_one_sentence(tmp_path, name):
    content, says = WRONG[name]
    (tmp_path / "rows.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        opened(tmp_path / "rows.tsv")
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


def test_a_file_that_changes_is_noticed(file):
    rows = opened(file, chunk=10**6)
    write_lines(file, text_lines()[:4])
    with pytest.raises(InputError, match=r"rows\.tsv has changed since it was first read"):
        text(rows, ("aa", "train"), 20)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task.kind": "summaries"}, "line 1: there is no column 'summary' among 'language', 'split', 'line', 'text'"),
        ({"task.source": "cldr"}, '`task.stream` is for text from TSV files or a prepared set, not for `task.source`'),
        ({"task.kind": "translation", "task.source-language": "aa"}, "`task.source_language` pairs all rows anew"),
        ({"task.parallel": True}, "`task.parallel` compares all rows, and `task.stream` never holds them"),
        ({"task.columns": ("summary", "x")}, "there is no column 'summary' in generation, which has language"),
        ({"task.columns": ("text", "body")}, "line 1: there is no column 'body' among 'language'"),
        ({"task.path": ("rows.tsv", "no.tsv")}, "no file at no.tsv"),
        ({"task.path": ""}, "`task.path` is empty"),
        ({"task.test-languages": ("zz",)}, "The test languages zz are not in the data"),
        ({"task.train-languages": ("aa", "ee")}, "ee cannot be a test and a train language at once"),
        ({"task.dev-languages": ("dd", "bb", "cc", "aa")}, "which leaves none to train on"),
    ],
)  # fmt: skip
def test_what_cannot_be_streamed_is_one_sentence(file, monkeypatch, capsys, changes, says):
    monkeypatch.chdir(file.parent)
    monkeypatch.delenv("JAXMETA_DATA", raising=False)
    before = files(file.parent)
    assert jaxmeta(*train("new", CHANGES | changes)) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert files(file.parent) == before
