"""Temperatures: known ones are found, folds hold out what they say, and nothing of the query is read."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxmeta.core.types import IMPOSSIBLE, Episode
from jaxmeta.objectives import classification
from jaxmeta.run import temperature as temperature_module
from jaxmeta.run.plan import Classical
from jaxmeta.run.temperature import (
    classified,
    fit_temperature,
    fold_problems,
    held_out,
    of_classical,
    of_method,
    pooled,
    with_temperatures,
)

READOUT = classified(classification(3))


def drawn(temperature, count, seed=0):
    """Returns logits that are `temperature` times too large, and targets drawn as they should be."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, 3))
    targets = np.argmax(logits + generator.gumbel(size=(count, 3)), axis=1).astype(np.int32)
    return logits * temperature, targets


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_a_known_temperature_is_found(temperature):
    assert fit_temperature(*drawn(temperature, 4000)) == pytest.approx(temperature, rel=0.08)


def test_few_answers_say_little():
    right = np.array([[1.0, 0.0, 0.0]])
    few, many = (fit_temperature(np.repeat(right, n, axis=0), np.zeros(n, int)) for n in (1, 100))
    assert 0.5 < few < 1  # all are right, and nothing keeps the likelihood from growing but the prior
    assert many < 0.3
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1


def test_a_class_out_of_reach_says_nothing():
    logits, targets = drawn(3.0, 200)
    beyond = np.array([[0.0, 1.0, IMPOSSIBLE]])
    same = fit_temperature(np.concatenate([logits, beyond]), np.append(targets, 2))
    assert same == pytest.approx(fit_temperature(logits, targets))


def test_folds_part_every_class():
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 0])
    folds = np.array([held_out(labels, fold, 2) for fold in range(2)])
    assert (folds.sum(axis=0) == 1).all()
    assert folds[0].tolist() == [True, True, True, False, False, False, True, True, False]


def episodes():
    """Two tasks of three classes and two shots, one place of them empty."""
    support = {
        "inputs": np.arange(12).reshape(2, 6, 1), "targets": np.tile(np.array([0, 1, 2], np.int32), (2, 2)),
        "mask": np.ones((2, 6), bool), "classes": np.ones((2, 6, 3), bool),
    }  # fmt: skip
    support["mask"][1, 5] = False
    query = {
        "inputs": 100 + np.arange(10).reshape(2, 5, 1), "targets": np.tile(np.array([0, 1, 2, 0, 1], np.int32), (2, 1)),
        "mask": np.ones((2, 5), bool), "classes": np.ones((2, 5, 3), bool),
    }  # fmt: skip
    return Episode(support, query)


def test_a_fold_asks_what_it_does_not_show():
    found = fold_problems(episodes().support, 2)
    assert found.support["mask"].shape == (4, 6)
    assert found.query["inputs"].shape == (4, 3, 1)
    shown = [found.support["inputs"][n][found.support["mask"][n]].ravel().tolist() for n in range(4)]
    asked = [found.query["inputs"][n][found.query["mask"][n]].ravel().tolist() for n in range(4)]
    assert shown == [[3, 4, 5], [0, 1, 2], [9, 10], [6, 7, 8]]
    assert asked == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]


def test_what_is_too_sure_gets_better_and_answers_the_same():
    logits, targets = drawn(5.0, 400)
    query = {"targets": targets[200:], "mask": np.ones(200, bool)}
    found = with_temperatures(READOUT, [(logits[200:], query, logits[:200], targets[:200])])
    assert found["temperature"]["mean"] == pytest.approx(5, rel=0.25)
    for score in ("nll", "brier", "ece"):
        assert found["after"][score] < found["before"][score]
    bins = [found[when]["bins"] for when in ("before", "after")]
    assert sum(bins[0]["correct"]) == sum(bins[1]["correct"])
    assert sum(bins[0]["count"]) == sum(bins[1]["count"]) == 200


def test_runs_together_are_what_their_problems_are():
    rng = np.random.default_rng(3)
    problems = []
    for _ in range(4):
        logits, targets = 3 * rng.normal(size=(50, 3)), rng.integers(0, 3, 50).astype(np.int32)
        query = {"targets": targets, "mask": np.ones(50, bool), "classes": np.ones((50, 3), bool)}
        problems.append((logits.astype(np.float32), query, rng.normal(size=(20, 3)), rng.integers(0, 3, 20)))
    together = pooled([with_temperatures(READOUT, part) for part in (problems[:2], problems[2:])])
    expected = with_temperatures(READOUT, problems)
    assert jax.tree.structure(together) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), together, expected)


def test_a_method_is_asked_for_its_folds_alone():
    posed, asked = episodes(), []

    def run(problems):
        asked.append(problems)
        # Sure of the class that is right, in every fold; so it may be surer of its answers to the query.
        return 2.0 * np.eye(3)[problems.query["targets"]]

    logits = np.eye(3)[[[0, 1, 2, 1, 1], [0, 1, 2, 0, 0]]]
    found = of_method(READOUT, posed, logits, 2, run)
    assert len(asked) == 1
    assert not (asked[0].query["inputs"] >= 100).any()
    assert found["temperature"]["high"] < 1
    wrong = of_method(READOUT, posed, logits, 2, lambda problems: 5.0 - run(problems))
    assert wrong["temperature"]["low"] > 1


def test_a_baseline_outside_jax_is_asked_the_same():
    labels, seen = np.array([0, 0, 1, 1, 2, 2]), []

    def logits(value, language, shots, draw, split, held):
        assert (value, shots, draw, split) == (7.0, 2, 0, "test")
        seen.append((language, held is None))
        hidden = np.ones(4, bool) if held is None else held(labels)
        targets = np.array([0, 1, 2, 2], np.int32) if held is None else labels[hidden].astype(np.int32)
        return 3.0 * np.eye(3)[targets], {"targets": targets, "mask": np.ones(len(targets), bool)}

    outside = Classical("tfidf", "C", (7.0,), lambda *where: None, logits)
    found = of_classical(READOUT, outside, 7.0, ["aa", "bb"], shots=2, folds=2)
    assert seen == [(code, last) for code in ("aa", "bb") for last in (False, False, True)]
    assert sum(found["after"]["bins"]["correct"]) == 8
    assert found["temperature"]["mean"] < 1


@pytest.mark.parametrize("absent", [-1e9, 0.0, 6.0, np.nan])
def test_logits_of_classes_that_a_language_lacks_change_nothing(absent):
    """They get no gradient, so that they are whatever the start has."""
    classes = np.tile([True, True, False], (4, 1))
    batch = {"targets": np.array([0, 1, 0, 1], np.int32), "mask": np.ones(4, bool), "classes": classes}
    logits = np.array([[2.0, 0, absent], [0, 1, absent], [0, 1, absent], [0, 3, absent]])

    def of(value, language, shots, draw, split, held):
        rows = np.arange(4) if held is None else np.flatnonzero(held(batch["targets"]))
        return logits[rows], {name: leaf[rows] for name, leaf in batch.items()}

    found = of_classical(READOUT, Classical("tfidf", "C", (1.0,), of, of), 1.0, ["aa"], shots=2, folds=2)
    alone = fit_temperature(logits[:, :2], batch["targets"])
    assert found["temperature"]["mean"] == pytest.approx(alone, rel=1e-5)
    algorithm = SimpleNamespace(transduce=None, predict=lambda meta_params, state, inputs: inputs)
    arrays = READOUT.read(algorithm, {}, (), {**batch, "inputs": logits})
    assert np.asarray(arrays["logits"]).argmax(-1).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(("labels", "asked"), [([0, 0, 1], 2), ([0, 1], 1), ([0, 0, 0, 0, 0], 3)])
def test_folds_beyond_the_shots_of_every_class_are_not_asked(labels, asked):
    """What they hold out is nothing, and scikit-learn refuses to answer that."""
    held = []

    def logits(held_out):
        held.append(held_out(np.array(labels)))
        return np.zeros((int(held[-1].sum()), 2)), {"targets": np.array(labels)[held[-1]]}

    found = temperature_module._of_folds(logits, 3)
    assert len(found) == asked
    assert all(len(targets) for _, targets in found)
    np.testing.assert_array_equal(np.sum(held, axis=0), 1)  # every shot once
