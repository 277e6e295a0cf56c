"""What a tokenizer makes of each script: of whose texts, in the report of a run, and on the command line."""

import json
import re

import numpy as np
import pytest
from tiny_run import jaxmeta, toy_lines, train, write_lines

from jaxmeta import data
from jaxmeta.config import load
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.tasks import TextTasks
from jaxmeta.core.checks import InputError
from jaxmeta.data.scripts import script_facts, script_of
from jaxmeta.data.tokenize import ByteTokenizer, SentencePieceTokenizer
from jaxmeta.run.records import read_evaluation
from jaxmeta.run.report import write_report
from jaxmeta.run.table import script_cells

SPLITS = {"train": 1, "dev": 2, "test": 3}
LABELS = [
    "language\tsplit\tlabel\ttext",
    *(f"{code}\t{split}\t{label}\t{word} {number} {'.' * (label == 'b')}{word}" for code, word in (
        ("en", "cat"), ("ru", "кот"), ("zh", "很好"), ("de", "ßa")
    ) for split, number in SPLITS.items() for label in ("a", "b")),
]  # fmt: skip
PAIRS = [
    "src_lang\ttgt_lang\tsplit\tsrc\ttgt",
    *(f"en\t{code}\t{split}\tcat {number}{k}\t{word} {number}{k}" for code, word in (
        ("ru", "кот"), ("el", "γάτα"), ("bg", "котка")
    ) for split, number in SPLITS.items() for k in range(4)),
]  # fmt: skip
QUESTIONS = [
    "language\tsplit\tcontext\tquestion\tanswer\tanswer_start",
    *(f"{code}\t{split}\t{word} {number}{k} {word}\t{word} {word} {word}?\t{word}\t0" for code, word in (
        ("ru", "кот"), ("el", "γάτα"), ("bg", "котка")
    ) for split, number in SPLITS.items() for k in range(4)),
]  # fmt: skip


def facts_of(folder, lines, kind="classification", **changes):
    write_lines(folder / "rows.tsv", lines)
    held = {"task.test_languages": 1, "task.dev_languages": 1, "tokenizer.length": 15}
    settings = {"task.kind": kind, "task.source": "tsv", "task.path": str(folder / "rows.tsv"), **held, **changes}
    tasks = (TextTasks if kind == "classification" else PairTasks)(load(changes=settings))
    return tasks, {row["script"]: row for row in tasks.facts()["scripts"]}


def test_a_run_counts_the_texts_that_it_may_read(tmp_path):
    roles = {"task.test_languages": ("zh",), "task.dev_languages": ("ru",)}
    tasks, facts = facts_of(tmp_path, LABELS, **roles, **{"task.shots": 1})
    assert {script: row["languages"] for script, row in facts.items()} == {
        "CJK": ["zh"], "CYRILLIC": ["ru"], "LATIN": ["de", "en"]
    }  # fmt: skip
    # Of train languages the two train rows; of those held out those they adapt to and those they are judged on.
    assert [row["texts"] for row in facts.values()] == [4, 4, 4]
    texts = [text for part in ("train", "dev") for text in tasks.corpus.texts(tasks.corpus.rows("ru", part))]
    sizes, row = [len(text.encode()) for text in texts], facts["CYRILLIC"]
    assert row["bytes_per_character"] == pytest.approx(sum(sizes) / sum(map(len, texts)))
    assert row["tokens_per_word"] == pytest.approx(sum(sizes) / 12)
    assert facts["CJK"]["tokens_per_word"] is None
    assert row["unknown_rate"] == 0
    assert row["truncation_rate"] == sum(size > 15 for size in sizes) / 4 == 0.5


def test_either_side_of_a_pair_is_of_its_own_language(tmp_path):
    roles = {"task.test_languages": ("el",), "task.dev_languages": ("bg",)}
    _, facts = facts_of(tmp_path, PAIRS, "translation", **roles, **{"tokenizer.target_length": 10})
    assert {script: row["languages"] for script, row in facts.items()} == {
        "CYRILLIC": ["bg", "ru"], "GREEK": ["el"], "LATIN": ["en"]
    }  # fmt: skip
    # Sources are read to 15 bytes and targets written to 10; the sources of a split are the same in every language.
    assert (facts["LATIN"]["texts"], facts["LATIN"]["truncation_rate"]) == (12, 0)
    assert (facts["GREEK"]["texts"], facts["GREEK"]["truncation_rate"]) == (8, 1)
    assert facts["CYRILLIC"]["texts"] == 4 + 8
    assert facts["CYRILLIC"]["truncation_rate"] == pytest.approx(8 / 12)


def test_contexts_are_read_in_windows_and_never_cut(tmp_path):
    roles = {"task.test_languages": ("el",), "task.dev_languages": ("bg",), "tokenizer.length": 32}
    _, facts = facts_of(tmp_path, QUESTIONS, "question_answering", **roles)
    assert facts["GREEK"]["texts"] == 8 + 1  # and one question that all share
    assert facts["GREEK"]["truncation_rate"] == 0, "questions are read whole"


def test_unknown_pieces_are_counted_over_all_that_is_read():
    class Odd(data.ByteTokenizer):
        """Knows no letter of Cyrillic."""

        def statistics(self, texts):
            unknown = sum(byte > 127 for text in texts for byte in text.encode())
            return {**super().statistics(texts), "unknown_rate": unknown / sum(self.lengths(texts))}

    (row,) = data.script_facts((Odd(4), {"ru": ["ab", "кот"]}), (Odd(9), {"ru": ["кот", "кот", "ко"]}))
    assert (row.script, row.texts) == ("CYRILLIC", 5)
    assert row.unknown_rate == pytest.approx(22 / 24)
    assert row.truncation_rate == 1 / 5
    assert data.script_facts() == []


def test_cells_are_shown_as_they_are_read():
    row = {
        "script": "OL CHIKI", "languages": ["sat"], "texts": 1003, "bytes_per_character": 2.6449,
        "tokens_per_character": 2.0, "tokens_per_word": None, "unknown_rate": 0.0125, "truncation_rate": 1.0,
    }  # fmt: skip
    assert script_cells(row) == ("Ol chiki", "1", "1,003", "2.64", "2.00", "", "1.2%", "100.0%")
    assert script_cells({**row, "script": "CJK", "tokens_per_word": 7})[::5] == ("CJK", "7.00")


@pytest.mark.slow
def test_scripts_are_in_the_report_and_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxmeta.config.commands.write_report", lambda run: run)
    write_lines(tmp_path / "toy.tsv", toy_lines())
    assert jaxmeta(*train("run", {"train.steps": 2})) == 0
    (row,) = read_evaluation("run")["data"]["scripts"]
    assert (row["script"], row["languages"], row["texts"]) == (
        "LATIN",
        ["aa", "bb", "cc", "dd", "ee", "ff"],
        24 + 36 + 36,
    )
    page = write_report(tmp_path / "run").read_text("utf-8")
    assert re.search(
        r"<h2>Scripts</h2>.*<th scope=\"row\">Latin</th><td>6</td><td>96</td><td>1\.00</td>", page, re.DOTALL
    )
    assert "<dt>scripts</dt>" not in page
    capsys.readouterr()
    assert jaxmeta("data", "scripts", "run") == 0
    of_run = capsys.readouterr().out
    assert jaxmeta("data", "scripts", "toy.tsv", "--length", "9") == 0
    of_file = capsys.readouterr().out
    assert re.search(r"Latin +6 +96 +1\.00", of_run)
    assert re.search(r"Latin +6 +144 +1\.00", of_file)
    assert of_run.split()[-1] == "0.0%"
    assert of_file.split()[-1] != "0.0%"


def test_where_there_is_no_text_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recordings = data.synthetic_digits(2, recordings=3)
    audio = np.concatenate([recordings.clips(np.array([k]), 100)["audio"][0] for k in range(len(recordings))])
    np.savez(
        "digits.npz", audio=audio, offset=100 * np.arange(len(recordings) + 1), digit=recordings.label,
        speaker=np.zeros(len(recordings), np.int64), speaker_names=["x"], split=np.zeros(len(recordings), np.int64),
        index=np.arange(len(recordings)), rate=recordings.rate,
    )  # fmt: skip
    write_lines(tmp_path / "toy.tsv", toy_lines())
    for words, says in (
        (("digits.npz",), "digits.npz has no text; name a file of text"),
        (("toy.tsv", "--length", "0"), "`--length` must be positive, got 0."),
        ((), "Say what to look at: month, weekday"),
        (("no.tsv",), "no file at no.tsv"),
    ):
        assert jaxmeta("data", "scripts", *words) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_damaged_facts_of_scripts_are_one_sentence(tmp_path):
    evaluation = {
        "task": "t", "metric": "accuracy", "higher_is_better": True, "languages": ["a"], "training_seeds": [0],
        "shot_seeds": [0], "shots": 1, "paired": {}, "best_meta_learner": None, "best_baseline": None, "verdict": "",
        "methods": {"m": {"metric": "accuracy", "mean": 1.0, "ci95": [1.0, 1.0], "worst_quartile": 1.0,
                          "repetitions": {"a": [1.0]}, "adaptation": {"dev_score": 1.0},
                          "per_language": {"a": 1.0}, "compute": {"gradient_examples": 0.0, "seconds": 0.0}}},
        "data": {"scripts": [{"script": "LATIN"}]},
    }  # fmt: skip
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    with pytest.raises(InputError, match=r"`data\.scripts\.0\.languages`: field required"):
        read_evaluation(tmp_path)


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
