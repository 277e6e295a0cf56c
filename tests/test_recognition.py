"""CTC against a sum over all alignments; a decoder and edit distances against slow ones."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import assert_derivatives

from jaxmeta.objectives import best_path, ctc, edit_distance, recognition

SYMBOLS, FRAMES, LABELS = 3, 6, 4  # two symbols and the blank


def collapsed(path):
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)


def by_all_alignments(logits):
    """The probability of every sequence: the sum over all paths of one example, `[T, V]`."""
    steps = np.exp(logits - logits.max(axis=1, keepdims=True))
    steps /= steps.sum(axis=1, keepdims=True)
    found = {}
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        probability = math.prod(steps[t, symbol] for t, symbol in enumerate(path))
        found[collapsed(path)] = found.get(collapsed(path), 0.0) + probability
    return found


def padded(sequence, width=LABELS):
    return np.pad(np.array(sequence, np.int32), (0, width - len(sequence)))


def slow_distance(first, second):
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    table[:, 0], table[0] = np.arange(len(first) + 1), np.arange(len(second) + 1)
    for i, a in enumerate(first, 1):
        for j, b in enumerate(second, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b))
    return int(table[-1, -1])


@pytest.fixture(scope="module")
def cases():
    """200 random examples, with the loss of each by enumeration: NaN where there is no alignment."""
    rng = np.random.default_rng(0)
    sequences = [tuple(rng.integers(1, SYMBOLS, rng.integers(0, LABELS + 1)).tolist()) for _ in range(200)]
    frames = rng.integers(0, FRAMES + 1, len(sequences))
    logits = rng.normal(0, 1.5, (len(sequences), FRAMES, SYMBOLS))
    losses = [
        -math.log(found[s]) if s in (found := by_all_alignments(logits[n, : frames[n]])) else np.nan
        for n, s in enumerate(sequences)
    ]
    real = np.arange(FRAMES)[None] < frames[:, None]
    return logits, real, np.stack([padded(s) for s in sequences]), np.array(losses)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_ctc_is_the_sum_over_all_alignments(cases, dtype, x64):
    logits, real, targets, expected = cases
    losses, aligned = jax.jit(ctc)(logits.astype(dtype), real, targets)
    assert losses.dtype == dtype
    np.testing.assert_array_equal(aligned, np.isfinite(expected))
    assert 100 < aligned.sum() < 180, "some sequences fit and some do not"
    tolerance = 1e-10 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(losses, np.nan_to_num(expected), rtol=tolerance, atol=tolerance)


def test_ctc_in_single_precision_alone(cases):
    logits, real, targets, expected = cases
    losses, _ = jax.jit(ctc)(logits.astype(np.float32), real, targets)
    assert losses.dtype == np.float32
    np.testing.assert_allclose(losses, np.nan_to_num(expected), rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_mean_for_each_symbol_over_the_examples_that_align(cases, x64):
    logits, real, targets, expected = cases
    mask = np.arange(len(targets)) % 4 != 1
    outputs = {"logits": np.where(mask[:, None, None] & real[..., None], logits, np.nan), "real": real}
    objective = recognition(SYMBOLS)

    def loss(logits):
        return objective.loss({**outputs, "logits": logits}, {"targets": targets, "mask": mask})

    (value, metrics), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(outputs["logits"])
    lengths = np.maximum((targets > 0).sum(axis=1), 1)
    assert value == pytest.approx(np.nanmean(np.where(mask, expected / lengths, np.nan)), rel=1e-10)
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[~mask | np.isnan(expected)], 0)
    assert (slope[mask & real.any(axis=1) & np.isfinite(expected)] != 0).any(axis=(1, 2)).all()
    read = [collapsed(np.argmax(row[rows], axis=1)) for row, rows in zip(logits, real, strict=True)]
    exact = np.array([padded(r, FRAMES)[:LABELS].tolist() == t.tolist() and len(r) <= LABELS
                      for r, t in zip(read, targets, strict=True)])  # fmt: skip
    assert metrics["exact"] == pytest.approx(exact[mask].mean())


def test_ctc_can_be_differentiated_twice_over_a_task_axis(cases, x64):
    logits, _, targets, _ = cases
    objective = recognition(SYMBOLS)
    chosen = np.arange(6).reshape(2, 3)
    batch = {"targets": targets[chosen], "real": np.ones((2, 3, FRAMES), bool), "mask": np.arange(6).reshape(2, 3) != 4}

    def losses(logits):
        return jnp.sum(jax.vmap(lambda one, b: objective.loss({"logits": one, "real": b["real"]}, b)[0])(logits, batch))

    assert_derivatives(losses, logits[chosen])


def test_counts_add_up_and_scores_are_what_they_say(cases):
    logits, real, targets, expected = cases
    objective = recognition(SYMBOLS)
    count = jax.jit(objective.counts)
    mask = np.arange(len(targets)) % 5 != 0
    whole = count({"logits": logits.astype(np.float32), "real": real}, {"targets": targets, "mask": mask})
    halves = [
        count(
            {"logits": logits.astype(np.float32), "real": real}, {"targets": targets, "mask": mask & half}
        )
        for half in (np.arange(len(targets)) < 90, np.arange(len(targets)) >= 90)
    ]  # fmt: skip
    jax.tree.map(lambda a, b, c: np.testing.assert_allclose(a, b + c, rtol=1e-5), whole, *halves)
    read = [collapsed(np.argmax(row[rows], axis=1)) for row, rows in zip(logits, real, strict=True)]
    said = [tuple(row[row > 0].tolist()) for row in targets]
    distances = np.array([slow_distance(a, b) for a, b in zip(read, said, strict=True)])
    scores = objective.scores(whole)
    assert scores["word_error_rate"] == pytest.approx(distances[mask].sum() / (targets[mask] > 0).sum())
    assert scores["exact"] == pytest.approx((distances == 0)[mask].mean())
    assert scores["nll"] == pytest.approx(np.nanmean(np.where(mask, expected, np.nan)), rel=1e-4)
    assert all(type(score) is float for score in scores.values())
    of_characters = recognition(SYMBOLS, unit="character").scores(whole)
    assert of_characters == {**{k: v for k, v in scores.items() if k != "word_error_rate"},
                             "character_error_rate": scores["word_error_rate"]}  # fmt: skip
    nothing = objective.scores(count({"logits": logits.astype(np.float32), "real": real},
                                     {"targets": targets, "mask": np.zeros(len(targets), bool)}))  # fmt: skip
    assert set(nothing) == set(scores)
    assert all(np.isnan(score) for score in nothing.values())


def test_greedy_collapses_repeats_and_removes_blanks():
    rng = np.random.default_rng(1)
    best = rng.integers(0, 4, (60, 9))
    real = np.arange(9)[None] < rng.integers(0, 10, 60)[:, None]
    found = jax.jit(best_path)(np.eye(4, dtype=np.float32)[best], real)
    for row, path, rows in zip(np.asarray(found), best, real, strict=True):
        np.testing.assert_array_equal(row, padded(collapsed(path[rows]), 9))


def test_the_edit_distance_is_the_textbooks_on_200_random_pairs():
    rng = np.random.default_rng(2)
    first, second = (
        [rng.integers(1, 4, rng.integers(0, width + 1)) for _ in range(200)] for width in (9, 6)
    )  # fmt: skip
    found = jax.jit(edit_distance)(np.stack([padded(s, 9) for s in first]), np.stack([padded(s, 6) for s in second]))
    expected = [slow_distance(a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_array_equal(found, expected)
    assert len(set(expected)) > 5


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`num_symbols` must be at least 2, the blank and one symbol, got 1"):
        recognition(1)
    with pytest.raises(ValueError, match="`unit` must be one of 'word', 'character', got 'phone'"):
        recognition(3, unit="phone")
    outputs = {"logits": jnp.zeros((2, 3, 4)), "real": jnp.ones((2, 3), bool)}
    with pytest.raises(AssertionError):
        recognition(3).loss(outputs, {"targets": jnp.zeros((2, 2), jnp.int32)})
    with pytest.raises(AssertionError):
        recognition(4).loss(outputs, {"targets": jnp.zeros((3, 2), jnp.int32)})
