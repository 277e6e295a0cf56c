"""Kinds of tasks beside classification: a tiny run of each through the command line, on data that need no download."""

import contextlib
import io
import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from tiny_run import evaluation, files, jaxmeta, kept_programs, metrics, train, write_lines

from jaxmeta import data
from jaxmeta.config import build, load
from jaxmeta.run.answer_scores import answer_counts
from jaxmeta.run.experiment import restore

CHANGES = {
    "task.source": "cldr", "task.path": "", "task.test-languages": 2, "task.dev-languages": 1, "task.shots": 3,
    "task.queries": 3, "task.tasks-per-step": 2, "train.steps": 2, "train.warm-start": 0, "evaluate.steps": (0, 1),
    "evaluate.max-queries": 8, "tokenizer.length": 24,
}  # fmt: skip
ROWS = {"train": 6, "dev": 4, "test": 4}  # of each language in a file
LANGUAGES = ("aa", "bb", "cc", "dd")


def toy_file(columns: tuple[str, ...], fields) -> list[str]:
    """Returns the lines of a file: `fields(language, number)` are the last columns of row `number`, all different."""
    lines, number = ["\t".join(("language", "split", *columns))], 0
    for language in LANGUAGES:
        for split, count in ROWS.items():
            for _ in range(count):
                lines.append("\t".join((language, split, *map(str, fields(language, number)))))
                number += 1
    return lines


PAIRS = toy_file(("first", "second", "score"), lambda code, n: (f"text {n}", f"{code} {n} {n % 3}", (n * 7) % 5 - 2.5))
SUMMARIES = toy_file(("text", "summary"), lambda code, n: (f"{code} tells {n} of {n}. And {n + 1}.", f"{code} {n}"))


def recalled(built, params, language) -> float:
    """Returns the share of sides, in both directions, that are closest to one of their own, in percent."""
    query = built.tasks.episode(language, shots=3, draw=0, split="test").query
    outputs = jax.jit(built.setting.model.apply)(params, query["inputs"])
    left, right, group = np.asarray(outputs["left"]), np.asarray(outputs["right"]), query["group"]
    hits = []
    for one, other in ((left, right), (right, left)):
        for row in range(len(one)):
            close = [float(one[row] @ other[place]) for place in range(len(other))]
            wrong = [value for place, value in enumerate(close) if group[place] != group[row]]
            own = [value for place, value in enumerate(close) if group[place] == group[row]]
            hits.append(max(own) > max(wrong))
    return 100 * float(np.mean(hits))


def correlated(built, params, language) -> float:
    """Returns Pearson's correlation as numpy has it."""
    query = built.tasks.episode(language, shots=3, draw=0, split="test").query
    outputs = jax.jit(built.setting.model.apply)(params, query["inputs"])
    return float(np.corrcoef(np.asarray(outputs)[:, 0], query["targets"])[0, 1])


def bits(built, params, language) -> float:
    """Returns the bits that each byte takes, token by token."""
    query = built.tasks.episode(language, shots=3, draw=0, split="test").query
    outputs = jax.jit(built.setting.model.apply)(params, query["inputs"])
    spent = 0.0
    for row, targets in zip(np.asarray(outputs, np.float64), query["targets"], strict=True):
        for logits, target in zip(row, targets, strict=True):
            if target:
                spent += np.log2(np.exp(logits - logits[target]).sum())
    texts = built.tasks.table.texts("text", built.tasks.judged_rows(language, "test"))
    return spent / sum(min(len(text.encode()), 24) for text in texts)


def answered(built, params, language) -> float:
    """Returns the F1 of the best spans among all windows, by the search that runs on the host."""
    tasks = built.tasks
    rows = tasks.judged_rows(language, "test")
    windows = tasks.judged.windows(rows)
    assert len(windows.group) > len(rows)  # some context has several
    inputs = {"tokens": windows.tokens, "segment": windows.segment}
    logits = np.asarray(jax.jit(built.setting.model.apply)(params, inputs))
    best = data.best_answers(windows, logits[..., 0], logits[..., 1], longest=160)
    texts = [data.span_text(windows.tokens[row], start, end) for row, start, end in best]
    counts = answer_counts(texts, [[answer] for answer in tasks.table.texts("answer", rows)])
    return 100 * counts["f1"] / counts["n"]


def decoded(built, params, language) -> float:
    """Returns chrF, by sacrebleu, of what the model writes when it is asked directly."""
    from sacrebleu.metrics.chrf import CHRF

    tasks, model = built.tasks, built.setting.model
    query = tasks.episode(language, shots=3, draw=0, split="test").query
    tokens = np.asarray(jax.jit(model.generate)(params, {"source": query["inputs"]["source"]}))
    texts = data.decode_sequence(data.ByteTokenizer(tokens.shape[1]), tokens)
    return CHRF().corpus_score(texts, [tasks.references(language, "test")]).score


class Case(NamedTuple):
    """A kind of task, with its score computed another way."""

    kind: str
    metric: str
    higher: bool
    score: Any  # (built, params, language) -> the score of a model that has not adapted
    methods: tuple[str, ...]
    file: list[str] | None = None
    changes: tuple[tuple[str, Any], ...] = ()


CASES = [
    Case("retrieval", "recall_at_1", True, recalled, ("zero_shot", "ngram_overlap", "maml")),
    Case("scored_pairs", "pearson", True, correlated,
         ("zero_shot", "mean_score", "ngram_regression", "linear_head", "ridge"), PAIRS),
    Case("question_answering", "f1", True, answered, ("zero_shot", "word_overlap", "reptile"),
         changes=(("tokenizer.length", 64), ("task.shots", 3))),
    Case("translation", "chrf", True, decoded, ("zero_shot", "copied_source", "reptile")),
    Case("summaries", "chrf", True, decoded, ("zero_shot", "first_words", "reptile"), SUMMARIES),
    Case("generation", "bits_per_byte", False, bits, ("zero_shot", "token_ngrams", "reptile")),
]  # fmt: skip
# Compiling is what takes time: one kind is run whenever anything is tested.
PARAMS = [pytest.param(case, id=case.kind, marks=[pytest.mark.slow] if i else []) for i, case in enumerate(CASES)]


class Run(NamedTuple):
    """A finished run."""

    case: Case
    folder: pathlib.Path
    words: list[str]
    shown: str

    @property
    def main(self) -> str:
        return self.case.methods[-1]


@pytest.fixture(scope="module", params=PARAMS)
def run(request, tmp_path_factory) -> Run:
    case, folder = request.param, tmp_path_factory.mktemp(request.param.kind)
    changes = {"task.kind": case.kind, "evaluate.methods": case.methods, **dict(case.changes)}
    if case.file is not None:
        write_lines(folder / "rows.tsv", case.file)
        changes |= {"task.source": "tsv", "task.path": str(folder / "rows.tsv")}
    words = train(str(folder / "run"), CHANGES | changes)
    shown = io.StringIO()
    with kept_programs(folder / "programs"), contextlib.redirect_stdout(shown):
        assert jaxmeta(*words) == 0
    return Run(case, folder / "run", words, shown.getvalue())


def test_a_kind_is_trained_and_judged_like_any_other(run):
    found = json.loads((run.folder / "evaluation.json").read_text("utf-8"))
    assert (found["metric"], found["higher_is_better"]) == (run.case.metric, run.case.higher)
    assert set(found["methods"]) == set(run.case.methods)
    assert all(np.isfinite(method["mean"]) for method in found["methods"].values())
    assert run.main == found["best_meta_learner"]
    assert found["calibration"] == {}
    assert {"methods.png", "gains.png", "learning_curves.png"} <= {p.name for p in (run.folder / "figures").iterdir()}
    assert run.case.metric in (run.folder / "report.html").read_text("utf-8")
    assert run.case.metric in run.shown
    assert metrics(run.folder)[-1]["phase"] == run.main


def test_the_sign_of_a_difference_is_that_of_merit(run):
    found = evaluation(run.folder)
    means = {name: method["mean"] for name, method in found["methods"].items()}
    sign = 1 if run.case.higher else -1
    gain = found["paired"][f"{run.main} - zero_shot"]["mean"]
    assert gain == pytest.approx(sign * (means[run.main] - means["zero_shot"]))
    on_dev = {name: method["adaptation"]["dev_score"] for name, method in found["methods"].items() if name != run.main}
    assert sign * on_dev[found["best_baseline"]] == max(sign * score for score in on_dev.values())


def test_no_row_that_is_trained_on_says_what_a_judged_one_says(run):
    tasks = build(load(run.folder / "config.toml")).tasks
    assert tasks.overlap.shared_sentences == tasks.overlap.shared_texts == 0
    assert f"{tasks.shared} rows that say what a judged row says" in evaluation(run.folder)["data"]["overlap"]


def test_scores_are_those_of_the_outputs(run):
    built = build(load(run.folder / "config.toml"))
    params = restore(built.experiment, run.folder)[0, "joint"]["params"]
    found = evaluation(run.folder)["methods"]["zero_shot"]["per_language"]
    with jax.numpy_dtype_promotion("standard"):
        for language in built.tasks.languages("test"):
            assert found[language] == pytest.approx(run.case.score(built, params, language), abs=2e-3)


def test_the_same_command_again_changes_nothing(run):
    before, scores = files(run.folder / "checkpoints"), evaluation(run.folder)
    with kept_programs(run.folder.parent / "programs"), contextlib.redirect_stdout(io.StringIO()):
        assert jaxmeta(*run.words) == 0
    assert files(run.folder / "checkpoints") == before
    assert evaluation(run.folder) == scores
