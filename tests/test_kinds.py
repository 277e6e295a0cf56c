"""Kinds of tasks beside classification: a tiny run of each through the command line, on data that need no download."""

import contextlib
import io
import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from tiny_run import evaluation, files, jaxmeta, kept_programs, metrics, train

from jaxmeta.config import build, load
from jaxmeta.run.experiment import restore

METHODS = ("zero_shot", "maml")
CHANGES = {
    "task.source": "cldr", "task.path": "", "task.test-languages": 2, "task.dev-languages": 1, "task.shots": 3,
    "task.queries": 3, "task.tasks-per-step": 2, "train.steps": 2, "train.warm-start": 0, "evaluate.steps": (0, 1),
    "evaluate.max-queries": 12, "tokenizer.length": 24,
}  # fmt: skip


def recalled(outputs, batch) -> float:
    """Returns the share of sides, in both directions, that are closest to one of their own, in percent."""
    left, right, group = np.asarray(outputs["left"]), np.asarray(outputs["right"]), batch["group"]
    hits = []
    for one, other in ((left, right), (right, left)):
        for row in range(len(one)):
            close = [float(one[row] @ other[place]) for place in range(len(other))]
            wrong = [value for place, value in enumerate(close) if group[place] != group[row]]
            own = [value for place, value in enumerate(close) if group[place] == group[row]]
            hits.append(max(own) > max(wrong))
    return 100 * float(np.mean(hits))


class Case(NamedTuple):
    """A kind of task, with what is judged of a model's outputs on a query, computed another way."""

    kind: str
    metric: str
    higher: bool
    classical: tuple[str, ...]
    score: object
    changes: tuple[tuple[str, Any], ...] = ()


CASES = [Case("retrieval", "recall_at_1", True, ("ngram_overlap",), recalled)]


class Run(NamedTuple):
    """A finished run."""

    case: Case
    folder: pathlib.Path
    words: list[str]
    shown: str


@pytest.fixture(scope="module", params=CASES, ids=[case.kind for case in CASES])
def run(request, tmp_path_factory) -> Run:
    case, folder = request.param, tmp_path_factory.mktemp(request.param.kind)
    changes = {"task.kind": case.kind, "evaluate.methods": (*METHODS, *case.classical)}
    words = train(str(folder / "run"), CHANGES | changes | dict(case.changes))
    shown = io.StringIO()
    with kept_programs(folder / "programs"), contextlib.redirect_stdout(shown):
        assert jaxmeta(*words) == 0
    return Run(case, folder / "run", words, shown.getvalue())


def test_a_kind_is_trained_and_judged_like_any_other(run):
    found = json.loads((run.folder / "evaluation.json").read_text("utf-8"))
    assert (found["metric"], found["higher_is_better"]) == (run.case.metric, run.case.higher)
    assert set(found["methods"]) == {*METHODS, *run.case.classical}
    assert set(found["paired"]) == {f"maml - {name}" for name in ("zero_shot", *run.case.classical)}
    assert all(np.isfinite(method["mean"]) for method in found["methods"].values())
    assert found["calibration"] == {}
    assert {"methods.png", "gains.png", "learning_curves.png"} <= {p.name for p in (run.folder / "figures").iterdir()}
    assert run.case.metric in (run.folder / "report.html").read_text("utf-8")
    assert run.case.metric in run.shown
    assert [line["phase"] for line in metrics(run.folder)][-1] == "maml"


def test_no_row_that_is_trained_on_says_what_a_judged_one_says(run):
    tasks = build(load(run.folder / "config.toml")).tasks
    assert tasks.overlap.shared_sentences == tasks.overlap.shared_texts == 0
    assert f"{tasks.shared} rows that say what a judged row says" in evaluation(run.folder)["data"]["overlap"]


def test_scores_are_those_of_the_outputs(run):
    built = build(load(run.folder / "config.toml"))
    trained = restore(built.experiment, run.folder)
    params = trained[0, "joint"]["params"]
    apply = jax.jit(built.setting.model.apply)
    found = evaluation(run.folder)["methods"]["zero_shot"]["per_language"]
    for language in built.tasks.languages("test"):
        query = built.tasks.episode(language, shots=3, draw=0, split="test").query
        with jax.numpy_dtype_promotion("standard"):
            outputs = apply(params, query["inputs"])
        assert found[language] == pytest.approx(run.case.score(outputs, query), abs=1e-3)


def test_the_same_command_again_changes_nothing(run):
    before, scores = files(run.folder / "checkpoints"), evaluation(run.folder)
    with kept_programs(run.folder.parent / "programs"), contextlib.redirect_stdout(io.StringIO()):
        assert jaxmeta(*run.words) == 0
    assert files(run.folder / "checkpoints") == before
    assert evaluation(run.folder) == scores
