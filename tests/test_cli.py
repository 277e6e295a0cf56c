"""The command line from end to end: a run, what it leaves, what can be done with it, and what is refused."""

import contextlib
import html.parser
import importlib.metadata
import io
import itertools
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib
from typing import NamedTuple

import numpy as np
import pytest
from malformed_table import MALFORMED, Row
from tiny_run import (
    LABELS,
    METHODS,
    WAVES,
    environment,
    evaluation,
    files,
    jaxmeta,
    metrics,
    process,
    toy_lines,
    toy_shots,
    toy_text,
    train,
    write_lines,
)

from jaxmeta import data
from jaxmeta.cli import COMMANDS, main
from jaxmeta.config import commands, load
from jaxmeta.run.files import PART

TEXTS = [toy_text("zz", label, number) for number, label in enumerate(LABELS * 40)]  # more than are labelled at once
CHANGES = {"evaluate.methods": METHODS}
# How long the phases are: four steps of joint training pay for each chain, and two of them are the warm start.
STEPS = {"warm_start": 2, "joint": 2, "ridge": 2, "protonet": 2, "maml": 1}


class Kept(NamedTuple):
    """A folder with a run in `run`, made by the command line from the files beside it."""

    folder: pathlib.Path
    run: pathlib.Path
    shown: str  # what the command printed


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Kept:
    folder = tmp_path_factory.mktemp("kept")
    write_lines(folder / "toy.tsv", toy_lines())
    write_lines(folder / "shots.tsv", toy_shots())
    write_lines(folder / "texts.txt", TEXTS)
    shown = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(shown):
        assert jaxmeta(*train("run", CHANGES)) == 0
        assert jaxmeta("adapt", "run", "--shots", "shots.tsv", "--out", "adapted") == 0
    return Kept(folder, folder / "run", shown.getvalue())


@pytest.fixture
def here(kept, tmp_path, monkeypatch) -> pathlib.Path:
    """A copy of the kept folder, as the working folder."""
    shutil.copytree(kept.folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAXMETA_DATA", raising=False)
    return tmp_path


def typed(monkeypatch, raw: bytes) -> None:
    """Makes `raw` what is typed at the next command."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))


# --- A run and what it leaves.


def test_a_run_leaves_its_files(kept):
    assert {path.name for path in kept.run.iterdir()} == {
        *("config.toml", "metrics.jsonl", "checkpoints", "evaluation.json", "report.html", "figures"),
        *("task.json", "tensorboard", "similarity.json"),
    }
    assert {str(path.relative_to(kept.run)) for path in kept.run.glob("checkpoints/*/*/*")} == {
        f"checkpoints/seed_0/{phase}/{step:08d}" for phase, step in STEPS.items()
    }
    assert not [path for path in kept.run.rglob("*") if path.suffix in (PART, ".tmp")]


def test_the_config_of_a_run_is_the_one_it_was_started_with(kept):
    config = load(kept.run / "config.toml")
    assert (config.name, config.task.path, config.train.steps) == ("toy", "toy.tsv", 4)
    assert config.evaluate.methods == METHODS
    assert config.evaluate.shot_curve == ()


def test_the_last_line_of_the_metrics_is_the_result(kept):
    lines = metrics(kept.run)
    assert [(line["phase"], line["step"]) for line in lines[:-1]] == [
        (phase, step) for phase, steps in STEPS.items() for step in range(1, steps + 1)
    ]
    assert all(math.isfinite(line["loss"]) for line in lines)
    last = lines[-1]
    assert (last["final"], last["phase"], last["step"]) == (True, "ridge", 2)
    assert last["loss"] == [line["loss"] for line in lines if line["phase"] == "ridge"][-2]
    assert len(last["params_sha256"]) == 64
    assert int(last["params_sha256"], 16) >= 0
    assert not any(line.get("final") for line in lines[:-1])


def test_the_evaluation_has_the_shape_that_is_promised(kept):
    found = json.loads((kept.run / "evaluation.json").read_text("utf-8"))
    assert (found["task"], found["training_seeds"], found["shot_seeds"], found["shots"]) == ("toy", [0], [0], 2)
    assert len(found["languages"]) == 2
    assert list(found["methods"]) == [*(name for name in METHODS if name != "tfidf"), "tfidf"]
    for name, method in found["methods"].items():
        assert method["metric"] == "accuracy"
        assert list(method["per_language"]) == found["languages"]
        scores = list(method["per_language"].values())
        assert all(0 <= score <= 100 for score in scores)
        assert method["mean"] == pytest.approx(np.mean(scores))
        assert method["worst_language"] == pytest.approx(min(scores))
        assert method["worst_quartile"] <= method["mean"]
        low, high = method["ci95"]
        assert low <= method["mean"] <= high
        trained = name not in ("target_only", "tfidf")
        assert (method["compute"]["seconds"] > 0) == trained
        assert (method["compute"]["gradient_examples"] > 0) == trained
        adaptation = method["adaptation"]
        assert 0 <= adaptation["dev_score"] <= 100
        assert adaptation["seconds_per_task"] > 0
        # Of no step and two, two is the edge, and every method of inner steps tries both.
        assert ("steps" in adaptation["on_edge"]) == (adaptation.get("steps") == 2)
    assert found["methods"]["tfidf"]["adaptation"]["C"] in (1.0, 10.0, 100.0)
    budgets = {
        name: method["compute"]["gradient_examples"]
        for name, method in found["methods"].items()
        if method["compute"]["gradient_examples"]
    }
    # Four steps of eight tasks of three classes, two shots and four queries; MAML's step is the largest.
    assert budgets["joint_finetune"] == budgets["ridge"] == budgets["zero_shot"] == 4 * 8 * 3 * 6
    assert budgets["maml"] == pytest.approx(budgets["ridge"], rel=0.1)


def test_every_meta_learner_is_paired_with_every_baseline(kept):
    found = evaluation(kept.run)
    metas, baselines = ("ridge", "protonet", "maml"), tuple(set(METHODS) - {"ridge", "protonet", "maml"})
    assert set(found["paired"]) == {f"{a} - {b}" for a, b in itertools.product(metas, baselines)}
    for name, pair in found["paired"].items():
        a, b = (found["methods"][method]["per_language"] for method in name.split(" - "))
        gains = [a[language] - b[language] for language in found["languages"]]
        assert pair["mean"] == pytest.approx(np.mean(gains))
        assert pair["ci95"][0] <= pair["mean"] <= pair["ci95"][1]
        assert (pair["wins"], pair["losses"]) == (sum(g > 0 for g in gains), sum(g < 0 for g in gains))
    assert found["best_meta_learner"] in metas
    on_dev = {name: found["methods"][name]["adaptation"]["dev_score"] for name in baselines}
    assert on_dev[found["best_baseline"]] == max(on_dev.values())


class References(html.parser.HTMLParser):
    """Collects what a page would load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "iframe", "object")
        self.found += [value for name, value in attrs if name in ("src", "srcset", "href", "data", "poster")]


def test_the_report_needs_nothing_beside_itself(kept):
    page = (kept.run / "report.html").read_text("utf-8")
    references = References()
    references.feed(page)
    assert len(references.found) >= 2 * 4  # each picture for light and for dark screens
    assert all(value.startswith("data:image/png;base64,") for value in references.found)
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    for name in METHODS:
        assert name in page


def test_the_figures_are_pictures(kept):
    figures = list((kept.run / "figures").iterdir())
    names = ("methods", "gains", "inner_steps", "learning_curves", "reliability", "similarity_texts")
    assert {path.name for path in figures} == {f"{name}.png" for name in names}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)


def test_the_evaluation_says_what_was_read_and_cut(kept):
    data = evaluation(kept.run)["data"]
    # Twelve train rows in each language, and six to be judged on in those held out.
    assert data["texts"] == {"train": 24, "dev": 36, "test": 36}
    assert data["truncated_texts"] == {"train": 0, "dev": 0, "test": 0}
    # The embedded data is what Babel ships, another in each of its versions.
    assert data["versions"]["babel"] == importlib.metadata.version("babel")


def test_the_table_is_printed(kept):
    for name in METHODS:
        assert name in kept.shown
    assert "Report: run/report.html" in kept.shown


# --- What can be done with a run.


def test_the_same_command_again_shows_what_was_judged(here, kept, capsys, monkeypatch):
    monkeypatch.setattr(commands, "build", lambda *_: pytest.fail("nothing is left to do"))
    before, written = files(here / "run"), (here / "run" / "report.html").stat().st_mtime_ns
    assert jaxmeta(*train("run", CHANGES)) == 0
    shown, said = capsys.readouterr()
    assert "Report: run/report.html" in shown
    assert kept.shown.endswith(shown)
    assert said == "toy in run is judged already; `jaxmeta evaluate run` judges it again.\n"
    assert files(here / "run") == before
    assert (here / "run" / "report.html").stat().st_mtime_ns == written
    # It may have been cut off before there was a page, or while the pictures were drawn.
    (here / "run" / "report.html").unlink()
    assert jaxmeta(*train("run", CHANGES)) == 0
    assert files(here / "run").keys() == before.keys()
    os.utime(here / "run" / "report.html", ns=(0, 0))
    assert jaxmeta(*train("run", CHANGES)) == 0
    assert (here / "run" / "report.html").stat().st_mtime_ns > written


@pytest.mark.slow
def test_a_run_that_was_cut_off_while_it_was_judged_comes_to_the_same(here, capsys):
    before, scores, lines = files(here / "run" / "checkpoints"), evaluation(here / "run"), metrics(here / "run")
    (here / "run" / "evaluation.json").unlink()
    assert jaxmeta(*train("run", CHANGES)) == 0
    assert "Continuing toy in run" in capsys.readouterr().err
    assert files(here / "run" / "checkpoints") == before
    assert evaluation(here / "run") == scores
    assert metrics(here / "run") == lines


@pytest.mark.slow
def test_evaluate_writes_the_same_again(here):
    scores, trained = evaluation(here / "run"), files(here / "run" / "checkpoints")
    (here / "run" / "evaluation.json").unlink()
    (here / "run" / "report.html").unlink()
    shutil.rmtree(here / "run" / "figures")
    assert jaxmeta("evaluate", "run") == 0
    assert evaluation(here / "run") == scores
    assert (here / "run" / "report.html").exists()
    assert (here / "run" / "figures" / "methods.png").exists()
    assert files(here / "run" / "checkpoints") == trained


@pytest.mark.parametrize("method", ["ridge", "joint_finetune", "target_only", "linear_head", "protonet", "maml"])
def test_a_run_adapts_to_a_language_of_ones_own(here, kept, capsys, monkeypatch, method):
    before, folder = files(here / "run"), kept.folder
    assert jaxmeta("adapt", "run", "--shots", "shots.tsv", "--out", "mine", "--method", method) == 0
    assert f"Adapted {method} to 20 examples" in capsys.readouterr().err
    assert files(here / "run") == before
    assert {path.name for path in here.iterdir()} == {path.name for path in folder.iterdir()} | {"mine"}

    assert jaxmeta("predict", "mine", "--input", "texts.txt") == 0
    shown = capsys.readouterr()
    rows = [line.split("\t") for line in shown.out.splitlines()]
    assert shown.err == ""
    assert [text for _, _, text in rows] == TEXTS
    assert all(label in LABELS and 1 / 3 <= float(probability) <= 1 for label, probability, _ in rows)

    assert jaxmeta("predict", "mine", "--input", "texts.txt", "--all") == 0
    everything = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    for (label, probability, text), (listed, same_text) in zip(rows, everything, strict=True):
        of_label = {name: float(p) for name, p in (pair.split("=") for pair in listed.split(" "))}
        assert same_text == text
        assert sum(of_label.values()) == pytest.approx(1, abs=2e-4)
        assert of_label[label] == float(probability) == max(of_label.values())

    typed(monkeypatch, f"{TEXTS[1]}\r\n{TEXTS[0]}".encode())
    assert jaxmeta("predict", "mine") == 0
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [rows[1], rows[0]]


def test_what_is_predicted_follows_from_the_shots(here, capsys):
    swapped = {"good": "bad", "bad": "good", "fair": "fair"}
    rows = [line.split("\t") for line in toy_shots()[1:]]
    write_lines(here / "swapped.tsv", ["label\ttext", *(f"{swapped[label]}\t{text}" for label, text in rows)])
    labels = {}
    for name in ("shots", "swapped"):
        assert jaxmeta("adapt", "run", "--shots", f"{name}.tsv", "--out", name, "--method", "protonet") == 0
        assert jaxmeta("predict", name, "--input", "texts.txt") == 0
        labels[name] = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert [swapped[label] for label in labels["shots"]] == labels["swapped"]
    assert len(set(labels["shots"])) > 1


def test_labels_without_an_example_are_mentioned(here, capsys):
    write_lines(here / "shots.tsv", ["text\tlabel", "zz a\tbad", "zz b\tfair"])
    assert jaxmeta("adapt", "run", "--shots", "shots.tsv", "--out", "a/folder/of/mine") == 0
    assert "No example is labelled good." in capsys.readouterr().err
    assert {path.name for path in (here / "a" / "folder" / "of").iterdir()} == {"mine"}


def test_texts_that_are_cut_are_counted(here, capsys):
    long = "a text that is longer than sixteen bytes"
    lines = (here / "shots.tsv").read_text("utf-8").splitlines()
    write_lines(here / "shots.tsv", [*lines[:-1], f"good\t{long}"])
    assert jaxmeta("adapt", "run", "--shots", "shots.tsv", "--out", "mine") == 0
    assert "1 of 20 texts was longer than 16 tokens and was cut. Wrote mine." in capsys.readouterr().err
    write_lines(here / "texts.txt", [long, "a short one", f"{long}, too"])
    assert jaxmeta("predict", "mine", "--input", "texts.txt") == 0
    shown = capsys.readouterr()
    assert shown.err == "2 of 3 texts were longer than 16 tokens and were cut.\n"
    assert [line.split("\t")[2] for line in shown.out.splitlines()] == [long, "a short one", f"{long}, too"]


def test_waves_are_learned_and_shown(here, capsys):
    changes = {"evaluate.methods": ("zero_shot", "maml"), "evaluate.main": "maml", "evaluate.curve-methods": "maml"}
    assert jaxmeta(*train("waves", WAVES | changes)) == 0
    found = evaluation(here / "waves")
    assert found["higher_is_better"] is False
    assert found["metric"] == "mse"
    assert set(found["curves"]["shots"]) == {"maml"}
    # Above zero the meta-learner is better, and here a lower score is.
    error = {name: method["mean"] for name, method in found["methods"].items()}
    assert found["paired"]["maml - zero_shot"]["mean"] == pytest.approx(error["zero_shot"] - error["maml"])
    first = found["fits"][0]
    assert {"before", "after 1 step"} <= set(first["predictions"])
    assert len(first["x"]) == len(first["truth"]) == len(first["predictions"]["before"])
    assert first["predictions"]["before"] != first["predictions"]["after 1 step"]
    assert {"fits.png", "shots.png"} <= {path.name for path in (here / "waves" / "figures").iterdir()}
    capsys.readouterr()
    assert jaxmeta("adapt", "waves", "--shots", "shots.tsv", "--out", "mine") == 2
    assert "only a run on text" in capsys.readouterr().err


def test_training_that_diverges_says_so_with_exit_code_1(here, capsys):
    assert jaxmeta(*train("waves", WAVES | {"train.learning-rate": 1e38, "train.steps": 9})) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("jaxmeta: Phase `")
    assert "Lower the learning rate" in error
    assert not (here / "waves" / "evaluation.json").exists()


def test_a_config_file_may_stand_anywhere_and_options_come_after_it(here, capsys):
    (here / "my.toml").write_text("name = 'mine'\n[train]\nsteps = 3\nseeds = 2\n[presets.x.train]\nseeds = 5\n")
    for words in (["my.toml", "--out", "run", "--preset", "x"], ["--out", "run", "--preset=x", "my.toml"]):
        assert jaxmeta("train", *words, "--steps", "7") == 2
        error = capsys.readouterr().err
        assert "name: 'toy' against 'mine'" in error
    (here / "run" / "config.toml").write_bytes((here / "my.toml").read_bytes().partition(b"[presets")[0])
    assert jaxmeta("train", "--out", "run", "--preset=x", "my.toml", "--steps", "7") == 2
    assert "(train.steps: 3 against 7; train.seeds: 2 against 5)" in capsys.readouterr().err
    assert jaxmeta("train", "--out", "run", "my.toml", "--train.seeds", "4", "--seed", "3") == 2
    assert "(seed: 0 against 3; train.seeds: 2 against 4)" in capsys.readouterr().err


def test_help_is_printed_for_every_command(capsys):
    for words in ([], ["--help"], *([name, "--help"] for name in COMMANDS)):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0
        shown = capsys.readouterr()
        assert "usage: jaxmeta" in shown.out
        assert shown.err == ""


def test_a_set_of_tfds_is_built_and_named_for_a_config(here, capsys):
    assert jaxmeta("data", "build", "toy", "--from", str(here), "--out", "sets") == 0
    head, _, lines = capsys.readouterr().out.partition("\n\n")
    assert head == f"Built {pathlib.Path('sets', 'toy', '1.0.0')}. In a config:"
    task = tomllib.loads(lines)["task"]
    assert task == {"kind": "classification", "source": "tfds", "path": "sets/toy/1.0.0"}
    rows = data.read_tfds(task["path"])
    np.testing.assert_array_equal(rows.text, data.read_tsv("toy.tsv").text)
    assert jaxmeta("data", "build", "toy", "--from", str(here), "--out", "sets") == 2
    assert "is there already" in capsys.readouterr().err
    # A name that several begin with, one of them in a folder of its own.
    (here / "pair_b").mkdir()
    for copy in ("pair_a.tsv", "pair_b/pair_b.tsv", "pair_c/other.tsv"):
        (here / copy).parent.mkdir(exist_ok=True)
        (here / copy).write_bytes((here / "toy.tsv").read_bytes())
    assert jaxmeta("data", "build", "pair", "--out", "sets") == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("Built")] == [
        "sets/pair_a/1.0.0.", "sets/pair_b/1.0.0."
    ]  # fmt: skip
    assert sorted(path.name for path in (here / "sets").iterdir() if path.name != "downloads") == [
        "pair_a", "pair_b", "toy",
    ]  # fmt: skip
    shutil.rmtree(here / "sets" / "pair_a")
    assert jaxmeta("data", "build", "pair", "--out", "sets") == 2
    assert "sets/pair_b is there already; remove it" in capsys.readouterr().err
    assert not (here / "sets" / "pair_a").exists()


def test_data_is_listed_shown_and_checked(here, capsys, monkeypatch):
    assert jaxmeta("data", "check", "toy.tsv") == 0
    assert "toy: 144 rows, 6 languages, labels bad, fair, good" in capsys.readouterr().out
    assert jaxmeta("data", "show", "toy.tsv", "--rows", "3") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 3
    # A column beside those of a kind is left out, whatever it is called.
    write_lines(here / "pairs[final].tsv", ["src_lang\ttgt_lang\tsrc\ttgt\tlabel", "en\tde\tcat\tKatze\tgood"])
    assert jaxmeta("data", "check", "pairs[final].tsv") == 0
    assert "1 rows, 1 languages, of translation" in capsys.readouterr().out
    monkeypatch.setenv("JAXMETA_DATA", str(here))
    monkeypatch.chdir("/")
    assert jaxmeta("data", "check", "toy.tsv") == 0
    capsys.readouterr()
    assert jaxmeta("data", "list") == 0
    shown = capsys.readouterr().out
    for name in ("month", "weekday", "kind", "toy.tsv", "shots.tsv", "pairs[final].tsv"):
        assert name in shown
    (here / "nothing").mkdir()
    monkeypatch.setenv("JAXMETA_DATA", str(here / "nothing"))
    assert jaxmeta("data", "list") == 0
    assert "where there is no TSV or npz file" in " ".join(capsys.readouterr().out.split())


# --- What is refused.


def check_refusal(row: Row, code: int, out: str, err: str, folder: pathlib.Path) -> None:
    assert code == 2
    assert out == ""
    assert err.startswith("jaxmeta: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    message = err.removeprefix("jaxmeta: ").rstrip().replace(f"{folder}/", "")
    assert len(message) <= 400
    assert "Traceback" not in message
    for part in row.says:
        assert part in message


def test_there_are_many_malformed_inputs():
    assert len(MALFORMED) >= 40
    assert len({row.name for row in MALFORMED}) == len(MALFORMED)


@pytest.mark.parametrize("row", MALFORMED, ids=str)
def test_malformed_input_is_one_sentence_and_changes_nothing(here, capsys, monkeypatch, row):
    if row.damage is not None:
        row.damage()
    typed(monkeypatch, row.stdin)
    before = files(here)
    capsys.readouterr()
    code = jaxmeta(*row.words)
    shown = capsys.readouterr()
    check_refusal(row, code, shown.out, shown.err, here)
    assert files(here) == before


@pytest.mark.parametrize("name", ["config: unknown key", "adapt: unknown label", "command: unknown"])
def test_a_process_answers_malformed_input_the_same(here, name):
    row = next(row for row in MALFORMED if row.name == name)
    if row.damage is not None:
        row.damage()
    before = files(here)
    done = subprocess.run(process(*row.words), capture_output=True, text=True, env=environment(), check=False)
    check_refusal(row, done.returncode, done.stdout, done.stderr, here)
    assert files(here) == before
