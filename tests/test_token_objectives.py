"""Translation and generation against a loop over tokens in numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxmeta.objectives import generation, translation

VOCABULARY, SMOOTHING = 7, 0.15


def random_case(seed, size=5, length=6):
    """Returns logits and a batch: targets end in padding, one has none but padding, one example is masked."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (size, length, VOCABULARY)).astype(np.float32)
    targets = random.integers(1, VOCABULARY, (size, length), dtype=np.int32)
    lengths = np.array([length, 0, *random.integers(1, length, size - 2)])
    targets[np.arange(length)[None] >= lengths[:, None]] = 0
    targets[0] = logits[0].argmax(axis=-1)  # every token right
    targets[0][targets[0] == 0] = 1
    logits[0, np.arange(length), targets[0]] += 20
    mask = np.arange(size) != size - 2
    return logits, {"targets": targets, "mask": mask, "bytes": random.integers(3, 30, size)}


def by_hand(logits, batch, smoothing):
    """Goes from token to token."""
    found = {"n": 0, "tokens": 0, "nll": 0.0, "correct": 0, "exact": 0, "bytes": 0}
    loss = 0.0
    for rows, targets, real, size in zip(logits, batch["targets"], batch["mask"], batch["bytes"], strict=True):
        if not real:
            continue
        found["bytes"] += int(size)
        rights = []
        for row, target in zip(rows.astype(np.float64), targets, strict=True):
            if target == 0:
                continue
            logs = row - math.log(sum(math.exp(value) for value in row))
            share = [smoothing / VOCABULARY] * VOCABULARY
            share[target] += 1 - smoothing
            loss -= sum(s * log for s, log in zip(share, logs, strict=True))
            found["nll"] -= logs[target]
            found["tokens"] += 1
            rights.append(int(np.argmax(row)) == target)
        found["correct"] += sum(rights)
        found["n"] += bool(rights)
        found["exact"] += bool(rights) and all(rights)
    return loss / found["tokens"], found


@pytest.mark.parametrize("build", [translation, generation])
def test_smoothing_may_be_traced(build):
    logits, batch = random_case(0)
    loss = jax.jit(lambda smoothing: build(VOCABULARY, label_smoothing=smoothing).loss(logits, batch)[0])
    for smoothing in (0.0, SMOOTHING):
        expected, _ = build(VOCABULARY, label_smoothing=smoothing).loss(logits, batch)
        np.testing.assert_allclose(loss(smoothing), expected, rtol=1e-6)


@pytest.fixture(scope="module")
def compiled():
    objective = generation(VOCABULARY, label_smoothing=SMOOTHING)
    value_and_grad = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    return objective._replace(loss=value_and_grad, counts=jax.jit(objective.counts))


def test_loss_counts_and_scores_are_those_of_a_loop(compiled):
    for seed in range(5):
        logits, batch = random_case(seed)
        want_loss, want = by_hand(logits, batch, SMOOTHING)
        (loss, metrics), _ = compiled.loss(logits, batch)
        assert float(loss) == pytest.approx(want_loss, rel=1e-5)
        counts = compiled.counts(logits, batch)
        assert {name: float(value) for name, value in counts.items()} == pytest.approx(want, rel=1e-5)
        assert want["exact"] >= 1
        assert want["n"] == 3
        scores = compiled.scores(counts)
        nll = want["nll"] / want["tokens"]
        expected = {
            "nll": nll,
            "perplexity": math.exp(nll),
            "token_accuracy": want["correct"] / want["tokens"],
            "exact_match": want["exact"] / want["n"],
            "bits_per_byte": want["nll"] / math.log(2) / want["bytes"],
        }
        assert scores == pytest.approx(expected, rel=1e-5)
        assert all(type(value) is float for value in scores.values())
        assert float(metrics["token_accuracy"]) == pytest.approx(scores["token_accuracy"])


def test_translation_is_generation_without_bytes(compiled):
    logits, batch = random_case(0)
    objective = translation(VOCABULARY, label_smoothing=SMOOTHING)
    assert objective.loss(logits, batch)[0] == pytest.approx(float(compiled.loss(logits, batch)[0][0]), rel=1e-6)
    counts, more = objective.counts(logits, batch), compiled.counts(logits, batch)
    assert set(more) - set(counts) == {"bytes"}
    assert set(compiled.scores(more)) - set(objective.scores(counts)) == {"bits_per_byte"}


def test_counts_add_up_over_batches(compiled):
    logits, batch = random_case(1)
    whole = compiled.counts(logits, batch)
    parts = [
        compiled.counts(logits[part], {name: leaf[part] for name, leaf in batch.items()})
        for part in (slice(0, 2), slice(2, None))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), jax.tree.map(jnp.add, *parts), whole)


@pytest.mark.parametrize("rubbish", [3.0, np.inf, np.nan])
def test_padding_of_both_kinds_changes_no_number(rubbish, compiled):
    logits, batch = random_case(2)
    (value, metrics), gradient = compiled.loss(logits, batch)
    wide = np.pad(logits, ((0, 2), (0, 3), (0, 0)), constant_values=rubbish)
    padded = {
        "targets": np.pad(batch["targets"], ((0, 0), (0, 3))),
        "mask": np.pad(batch["mask"], (0, 2)),
        "bytes": np.pad(batch["bytes"], (0, 2), constant_values=99),
    }
    padded["targets"] = np.pad(padded["targets"], ((0, 2), (0, 0)), constant_values=99)
    wide[:5][padded["targets"][:5] == 0] = rubbish
    wide[3] = rubbish  # the example that is masked
    padded["targets"][3] = -5
    (wide_value, wide_metrics), wide_gradient = compiled.loss(wide, padded)
    np.testing.assert_allclose(wide_value, value, rtol=1e-6)
    np.testing.assert_allclose(wide_metrics["token_accuracy"], metrics["token_accuracy"], rtol=1e-6)
    np.testing.assert_allclose(wide_gradient[:5, :6], gradient, rtol=1e-5, atol=1e-7)
    assert not np.any(wide_gradient[5:])
    assert not np.any(wide_gradient[:, 6:])
    counts = compiled.counts(logits, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), compiled.counts(wide, padded), counts)


def test_tokens_are_bytes_where_nobody_counted_them():
    logits, batch = random_case(3)
    del batch["bytes"]
    objective = generation(VOCABULARY)
    counts = objective.counts(logits, batch)
    assert counts["bytes"] == counts["tokens"]
    scores = objective.scores(counts)
    assert scores["bits_per_byte"] == pytest.approx(scores["nll"] / math.log(2))


def test_scores_without_tokens_are_nan(compiled):
    logits, batch = random_case(4)
    batch["mask"][:] = False
    (loss, _), gradient = compiled.loss(logits, batch)
    assert loss == 0
    assert not np.any(gradient)
    scores = compiled.scores(compiled.counts(logits, batch))
    assert len(scores) == 5
    assert all(math.isnan(value) for value in scores.values())


def test_a_hopeless_model_has_infinite_perplexity():
    logits = np.zeros((1, 1, VOCABULARY), np.float32)
    logits[0, 0, 1] = 1e4
    objective = translation(VOCABULARY)
    scores = objective.scores(objective.counts(logits, {"targets": np.array([[2]])}))
    assert scores["perplexity"] == math.inf
    assert scores["nll"] == pytest.approx(1e4)


def test_gradients_in_float64_against_finite_differences(x64):
    logits, batch = random_case(0, size=4, length=3)
    objective = translation(VOCABULARY, label_smoothing=SMOOTHING)
    logits = jnp.asarray(logits, jnp.float64)
    assert objective.loss(logits, batch)[0].dtype == jnp.float64
    check_grads(jax.jit(lambda logits: objective.loss(logits, batch)[0]), (logits,), order=2, modes=["rev"])


def test_half_precision_outputs_are_judged_in_single():
    logits, batch = random_case(0)
    objective = generation(VOCABULARY)
    assert objective.loss(jnp.asarray(logits, jnp.bfloat16), batch)[0].dtype == jnp.float32
    assert objective.counts(jnp.asarray(logits, jnp.bfloat16), batch)["nll"].dtype == jnp.float32


def test_wrong_arguments_and_shapes_are_refused():
    for build in (translation, generation):
        with pytest.raises(ValueError, match="`vocab_size` must be positive, got 0"):
            build(0)
        with pytest.raises(ValueError, match=r"`label_smoothing` must be at least 0 and less than 1, got 1.0"):
            build(3, label_smoothing=1.0)
        with pytest.raises(AssertionError):
            build(3).loss(jnp.zeros((2, 4, 3)), {"targets": jnp.ones((2, 3), jnp.int32)})
        with pytest.raises(AssertionError):
            build(3).loss(jnp.zeros((2, 4, 2)), {"targets": jnp.ones((2, 4), jnp.int32)})
