"""How the adapted states of each kind of task are judged: by what the objective counts, or by texts on the host."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import data, objectives
from jaxmeta.config.image_tasks import ImageTasks
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.speech_tasks import SpeechTasks
from jaxmeta.config.tasks import TextTasks
from jaxmeta.core.types import ArrayTree, Batch, Objective
from jaxmeta.run.answer_scores import answer_counts, answer_scores
from jaxmeta.run.correlation import spearman
from jaxmeta.run.plan import Cell, Readout, readout_of
from jaxmeta.run.temperature import classified
from jaxmeta.run.text_scores import TextScores, text_scores


@functools.cache
def class_counts(classes: int) -> Callable[[ArrayTree, Batch], ArrayTree]:
    """Returns what classification counts of logits and a query, compiled, for baselines that compute outside JAX."""
    return jax.jit(objectives.classification(classes).counts)


def ranked(tasks: PairTasks, objective: Objective) -> Readout:
    """Judges numbers by what their objective counts, and by the rank correlation in each problem.

    Ranks are among all examples of a problem, so "spearman" of several problems is the mean of theirs.
    """
    del tasks

    def read(algorithm, meta_params, state, query):
        outputs = algorithm.predict(meta_params, state, query["inputs"])
        return ranks_of(objective, outputs, query)

    def scores(counts: ArrayTree) -> dict[str, float]:
        own = {name: value for name, value in counts.items() if name not in ("ranks", "problems")}
        return {**objective.scores(own), "spearman": float(counts["ranks"]) / int(counts["problems"])}

    return Readout(read, lambda arrays, cell: rank_counts(arrays), scores)


def ranks_of(objective: Objective, outputs: ArrayTree, query: Any) -> ArrayTree:
    """Returns what an objective counts of outputs `[N, 1]`, beside what ranks are made of."""
    kept = {"outputs": jnp.reshape(outputs, (-1,)), "targets": query["targets"], "mask": query["mask"]}
    return {"counts": objective.counts(outputs, query), **kept}


def rank_counts(arrays: ArrayTree) -> ArrayTree:
    """Returns the sums that `ranked` scores, of what `ranks_of` returned."""
    real = np.asarray(arrays["mask"], bool)
    ranks = spearman(np.asarray(arrays["outputs"])[real], np.asarray(arrays["targets"])[real])
    return {**arrays["counts"], "ranks": np.float64(ranks), "problems": np.int64(1)}


def answers(tasks: PairTasks, objective: Objective) -> Readout:
    """Judges spans over all windows of each context, in words (see `jaxmeta.run.answer_scores`)."""
    del objective  # it compares places in one window

    def read(algorithm, meta_params, state, query):
        return objectives.best_spans(algorithm.predict(meta_params, state, query["inputs"]))

    def counts(arrays: ArrayTree, cell: Cell) -> ArrayTree:
        windows, query = tasks.windows(cell.language, cell.split)
        found = [best.text for (best,) in data.best_answers(windows, tasks.table.texts("context", query), arrays)]
        return answers_judged(tasks, found, cell.language, cell.split)

    return Readout(read, counts, answer_scores)


def answers_judged(tasks: PairTasks, found: list[str], language: str, split: str) -> dict[str, float]:
    """Returns the sums that answers to the questions of a language come to."""
    _, query = tasks.windows(language, split)
    return answer_counts(found, [[answer] for answer in tasks.table.texts("answer", query)], language=language)


def written(tasks: PairTasks, objective: Objective) -> Readout:
    """Judges what a model writes by itself, as `decode` says, against one reference each."""
    del objective  # it judges each token given those before it
    judge = judge_of_texts(tasks)

    def read(algorithm, meta_params, state, query):
        # Without the tokens before each other one, the model decodes: see `jaxmeta.config.kinds.writing`.
        return algorithm.predict(meta_params, state, {"source": query["inputs"]["source"]})

    def counts(tokens: ArrayTree, cell: Cell) -> ArrayTree:
        references = tasks.references(cell.language, cell.split)
        texts = data.decode_sequence(tasks.judged.targets_tokenizer, np.asarray(tokens)[: len(references)])
        return judge.counts(texts, references)

    return Readout(read, counts, judge.scores)


def judge_of_texts(tasks: PairTasks) -> TextScores:
    """Returns what judges the texts of a kind (see `jaxmeta.run.text_scores`): ROUGE is about summaries.

    BLEU is about words, which sacrebleu finds by the script of the references: of Chinese as it is usual there, and of
    other scripts without spaces every character is one.
    """
    names = ("13a", "zh", "char")
    judges = {name: text_scores(tokenize=name, rouge=tasks.config.task.kind == "summaries") for name in names}

    def counts(written: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        script = data.script_of(references)
        spaced = "char" if script in data.UNSPACED else "13a"
        return judges["zh" if script == "CJK" else spaced].counts(written, references)

    return TextScores(counts, judges["13a"].scores)


_READOUTS: dict[str, Callable[[PairTasks, Objective], Readout]] = {
    "scored_pairs": ranked,
    "question_answering": answers,
    "translation": written,
    "summaries": written,
}


def readout_for(tasks: object, objective: Objective) -> Readout:
    """Returns how the adapted states of a run are judged."""
    if isinstance(tasks, PairTasks) and tasks.config.task.kind in _READOUTS:
        return _READOUTS[tasks.config.task.kind](tasks, objective)
    if isinstance(tasks, TextTasks | SpeechTasks | ImageTasks) and tasks.config.task.kind == "classification":
        return classified(objective)
    return readout_of(objective)
