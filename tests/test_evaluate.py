"""Judgement: settings are chosen on dev languages, baselines outside jax like all others, and edges are named."""

import json
import math

import jax
import numpy as np
import pytest

from jaxmeta.core.batches import stack_episodes
from jaxmeta.core.trees import leading_size
from jaxmeta.core.types import Episode
from jaxmeta.run.evaluate import (
    Choice,
    Posed,
    alike,
    call_size,
    classical_grid,
    classical_on_edge,
    on_edge,
    score_grid,
    tune_classical,
)
from jaxmeta.run.experiment import Trained
from jaxmeta.run.judge import evaluate
from jaxmeta.run.judgements import Judgements
from jaxmeta.run.plan import BASELINE, Cell, Classical, Experiment, Judging, Method, Readout

ROWS = 20  # that a problem is judged on
LANGUAGES = {"dev": ("da", "de"), "test": ("ta", "te", "ti")}
JUDGING = Judging(
    metric="accuracy", higher_is_better=True, shots=2, draws=2, dev_draws=1,
    shot_curve=(4, 1, 2), curve_methods=("letters",), tasks_at_once=1,
)  # fmt: skip
# Of twenty rows, by what is tried and by split: the setting that dev likes best is the worst on test.
RIGHT = {"dev": {1.0: 8, 10.0: 16, 100.0: 16}, "test": {1.0: 14, 10.0: 6, 100.0: 18}}

READOUT = Readout(
    read=lambda algorithm, meta_params, state, query: {},
    counts=lambda arrays, cell: arrays,
    scores=lambda counts: {"accuracy": float(counts["right"]) / float(counts["n"])},
)


class Silent:
    """Shows no progress."""

    def begin(self, phase, *, steps, start):
        pass

    def update(self, step, **shown):
        pass

    def end(self):
        pass


class Nothing:
    """Problems that nobody reads: baselines outside jax have texts of their own."""

    unit = "dialect"

    def languages(self, split):
        return LANGUAGES[split]

    def episode(self, language, *, shots, draw, split):
        return Episode({"inputs": np.zeros((shots, 1))}, {"inputs": np.zeros((ROWS, 1))})


def classical(right, name="letters", asked=None) -> Classical:
    """Returns a baseline with `right(value, language, shots, draw, split)` rows right, which notes what it is asked."""

    def counts(*question):
        if asked is not None:
            asked.append(question)
        return {"n": np.int32(ROWS), "right": np.int32(right(*question))}

    return Classical(name, "C", (1.0, 10.0, 100.0), counts)


def by_table(value, language, shots, draw, split):
    """Looks up what is right for two shots; each further shot and each language further on makes a row more."""
    return RIGHT[split][value] + shots - 2 + LANGUAGES[split].index(language)


def experiment(*classicals, seeds=(0,), judging=JUDGING) -> Experiment:
    return Experiment(
        name="toy", seed=0, training_seeds=seeds, phases=(), methods=(), classical=classicals, main="", tasks=Nothing(),
        readout=READOUT, judging=judging, log_every=1, save_every=1, data_facts={},
    )  # fmt: skip


def test_a_baseline_outside_jax_is_tuned_on_dev_and_judged_on_test():
    asked = []
    found = evaluate(experiment(classical(by_table, asked=asked), seeds=(0, 1)), Trained(), Silent())
    json.dumps(found)
    result = found["methods"]["letters"]
    assert result["kind"] == BASELINE
    # Of two settings that dev likes alike the first is taken, whatever they do on test.
    assert result["adaptation"]["C"] == 10.0
    assert result["adaptation"]["dev_score"] == pytest.approx(100 * 16.5 / ROWS)
    assert result["adaptation"]["trials"] == 3
    assert result["adaptation"]["on_edge"] == []
    assert result["compute"] == {"gradient_examples": 0.0, "seconds": 0.0}
    assert result["adaptation"]["seconds_per_task"] > 0
    assert list(result["per_language"].values()) == pytest.approx([30, 35, 40])
    assert result["scores"]["accuracy"] == pytest.approx(35)
    assert result["mean"] == pytest.approx(35)

    tuned = [question for question in asked if question[-1] == "dev"]
    assert tuned == [(value, language, 2, 0, "dev") for value in (1.0, 10.0, 100.0) for language in LANGUAGES["dev"]]
    judged = [(10.0, language, 2, draw, "test") for language in LANGUAGES["test"] for draw in (0, 1)]
    curve = [(10.0, language, shots, 0, "test") for shots in (4, 1) for language in LANGUAGES["test"]]
    assert asked == tuned + judged + curve
    points = found["curves"]["shots"]["letters"]
    assert [(point["x"], point["mean"]) for point in points] == [
        (shots, pytest.approx(mean)) for shots, mean in ((1, 30), (2, 35), (4, 45))
    ]


def test_baselines_alone_have_a_verdict_too():
    one, other = classical(by_table), classical(lambda *where: by_table(*where) + 3, name="words")
    alone = evaluate(experiment(one), Trained(), Silent())
    assert alone["verdict"] == "There is nothing to compare: a verdict needs two methods."
    both = evaluate(experiment(one, other), Trained(), Silent())
    assert both["best_meta_learner"] is None
    assert both["verdict"].startswith("words won: the next one, letters, is behind by 15.00 accuracy")


def without_times(found):
    for result in found["methods"].values():
        del result["adaptation"]["seconds_per_task"]
    return found


def test_a_judgement_that_is_cut_off_goes_on_with_the_next_method(tmp_path):
    def cut_off(*where):
        raise KeyboardInterrupt

    one, other = classical(by_table), classical(lambda *where: by_table(*where) + 3, "words")
    whole = without_times(evaluate(experiment(one, other), Trained(), Silent()))
    with pytest.raises(KeyboardInterrupt):
        evaluate(experiment(one, classical(cut_off, "words")), Trained(), Silent(), Judgements(tmp_path / "kept", {}))
    # What was judged is not asked again.
    kept = Judgements(tmp_path / "kept", {})
    found = evaluate(experiment(classical(cut_off), other), Trained(), Silent(), kept)
    assert without_times(found) == whole
    kept.remove()
    assert not (tmp_path / "kept").exists()


def test_judgements_of_anything_else_are_not_kept(tmp_path):
    asked, counts = [], []
    for config in ("one", "one", "another", "one"):
        before = len(asked)
        kept = Judgements(tmp_path / "kept", {"config": config})
        evaluate(experiment(classical(by_table, asked=asked)), Trained(), Silent(), kept)
        counts.append(len(asked) - before)
    assert counts[1] == 0
    assert counts[0] == counts[2] == counts[3] > 0


def test_the_curve_has_the_methods_that_are_named():
    asked = []
    judging = JUDGING._replace(curve_methods=("ridge",))
    found = evaluate(experiment(classical(by_table, asked=asked), judging=judging), Trained(), Silent())
    assert found["curves"] == {}
    assert {question[2] for question in asked} == {JUDGING.shots}


def test_the_best_baseline_is_picked_on_dev_whatever_it_runs_on():
    modest = classical(lambda value, language, shots, draw, split: {"dev": 10, "test": 20}[split], "modest")
    found = evaluate(experiment(modest, classical(by_table)), Trained(), Silent())
    assert found["methods"]["modest"]["mean"] > found["methods"]["letters"]["mean"]
    assert found["best_baseline"] == "letters"


@pytest.mark.parametrize(("higher", "scores", "expected"), [
    (True, (0.2, 0.9, 0.5), (10.0, 0.9)),
    (False, (0.2, 0.9, 0.1), (100.0, 0.1)),
    (True, (math.nan, 0.1, 0.1), (10.0, 0.1)),
    (False, (math.nan, math.nan, 0.7), (100.0, 0.7)),
])  # fmt: skip
def test_what_is_no_number_is_never_chosen(higher, scores, expected):
    readout = READOUT._replace(scores=lambda counts: {"accuracy": scores[int(counts["right"])]})
    outside = classical(lambda value, *_: (1.0, 10.0, 100.0).index(value))
    judging = JUDGING._replace(higher_is_better=higher)
    assert tune_classical(outside, readout, judging, ("da",)) == (expected[0], pytest.approx(expected[1]))


def test_draws_and_languages_have_their_places():
    outside = classical(lambda value, language, shots, draw, split: 2 * LANGUAGES[split].index(language) + draw)
    grid = classical_grid(outside, 1.0, READOUT, LANGUAGES["test"], shots=2, draws=2, split="test")
    np.testing.assert_allclose(grid.scores["accuracy"][..., 0] * ROWS, [[0, 1], [2, 3], [4, 5]])
    assert grid.counts["right"].tolist() == [15]
    assert grid.counts["n"].tolist() == [6 * ROWS]


@pytest.mark.parametrize(
    ("rates", "steps", "choice", "expected"),
    [
        ((0.1, 0.2, 0.3), (0, 5, 10), (0.2, 5), []),
        ((0.1, 0.2, 0.3), (0, 5, 10), (0.2, 10), ["steps"]),
        ((0.1, 0.2, 0.3), (0, 5, 10), (0.1, 5), ["learning_rate"]),
        ((0.3, 0.1, 0.2), (0, 5, 10), (0.3, 10), ["steps", "learning_rate"]),
        ((0.1, 0.2), (0, 5), (0.1, 0), []),  # no step: the rate is one that was not used
        ((0.1,), (0, 5), (0.1, 5), ["steps"]),
        ((0.1, 0.2), (5,), (0.2, 5), ["learning_rate"]),
        ((0.1,), (0,), (0.1, 0), []),
    ],
)
def test_edges_are_those_of_what_was_tried(rates, steps, choice, expected):
    method = Method("maml", BASELINE, None, lambda rate: rate, rates, steps)
    assert on_edge(method, Choice(*choice)) == expected


@pytest.mark.parametrize(("value", "expected"), [(1.0, ["C"]), (10.0, []), (100.0, ["C"])])
def test_edges_of_baselines_outside_jax_are_told_of_too(value, expected):
    outside = classical(lambda *_: 1)
    assert classical_on_edge(outside._replace(values=(10.0, 1.0, 100.0)), value) == expected
    assert classical_on_edge(outside._replace(values=(value,)), value) == []  # one value is no choice


def posed(tasks: int, queries: int, shots: int = 3) -> Posed:
    def batch(size: int) -> dict:
        inputs = np.arange(tasks * size, dtype=np.float32).reshape(tasks, size)
        return {"inputs": inputs, "mask": np.ones((tasks, size), bool)}

    return Posed(Episode(batch(shots), batch(queries)), [f"task {n}" for n in range(tasks)], (tasks, 1))


def test_queries_of_two_splits_get_one_size():
    dev, test = posed(2, 4), posed(3, 6)
    padded, same = alike(dev, test)
    assert padded.episodes.query["inputs"].shape == (2, 6)
    assert padded.episodes.query["mask"].tolist() == [[True] * 4 + [False] * 2] * 2
    np.testing.assert_array_equal(padded.episodes.query["inputs"][:, :4], dev.episodes.query["inputs"])
    np.testing.assert_array_equal(padded.episodes.support["inputs"], dev.episodes.support["inputs"])
    assert (padded.cells, padded.shape) == (dev.cells, dev.shape)
    np.testing.assert_array_equal(same.episodes.query["inputs"], test.episodes.query["inputs"])
    assert same.episodes.query["mask"].all()


@pytest.mark.parametrize("other", [posed(2, 17), posed(2, 6, shots=5)], ids=["much longer", "other shots"])
def test_splits_that_differ_too_much_are_left_as_they_are(other):
    one = posed(2, 4)
    left = alike(one, other)
    assert left[0] is one
    assert left[1] is other


@pytest.mark.parametrize(
    ("numbers", "at_once", "size"),
    [
        ((30, 120), 4, 8),  # two of 32 only fill up
        ((2, 25), 4, 4),
        ((5, 5), 4, 3),  # one of each six fills up, and no batch is of one
        ((1, 2), 4, 1),
        ((20, 40), 5, 20),
        ((20, 50), 50, 25),
        ((1, 40), 50, 20),  # rather than forty batches of one
        ((40,), 50, 40),
        ((100, 300), 50, 50),
    ],
)
def test_few_problems_only_fill_up_a_call(numbers, at_once, size):
    assert call_size(numbers, at_once) == size


def test_a_score_does_not_depend_on_how_many_are_judged_in_one_call():
    read, episode = [], Episode({"inputs": np.zeros((2, 1))}, {"inputs": np.zeros((ROWS, 1))})
    posed = Posed(stack_episodes([episode] * 23), [Cell("ta", 2, draw, "test") for draw in range(23)], (1, 23))

    def run(keys, meta_params, learning_rate, episodes):
        assert len(keys) == leading_size(episodes)
        return {"drawn": jax.vmap(lambda key: jax.random.uniform(key, (1,)))(keys)}

    readout = READOUT._replace(counts=lambda arrays, cell: {"right": arrays["drawn"], "n": np.float32(1)})
    for size in (1, 4, 23, 30):
        read.append(score_grid(run, readout, {}, 0.1, posed, seed=3, tasks_per_call=size).scores["accuracy"])
        np.testing.assert_array_equal(read[-1], read[0])
    assert len(np.unique(read[0])) == 23
    # By the keys that calls of twenty had.
    blocks = [jax.random.split(jax.random.fold_in(jax.random.key(3), block), 20) for block in (0, 1)]
    expected = [jax.random.uniform(blocks[draw // 20][draw % 20], (1,))[0] for draw in range(23)]
    np.testing.assert_array_equal(read[0].ravel(), np.asarray(expected))
