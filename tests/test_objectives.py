"""Classification against scikit-learn and hand computation; regression; masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from jax.test_util import check_grads

from jaxmeta.objectives import classification, regression


def assert_close(first, second, rtol=1e-6, atol=1e-7):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), first, second)


def jitted(objective):
    return objective._replace(loss=jax.jit(objective.loss), counts=jax.jit(objective.counts))


def random_case(seed):
    """Returns C, logits and a batch with a mask; some classes may occur nowhere."""
    random = np.random.default_rng(seed)
    num_classes = int(random.integers(2, 8))
    n = int(random.integers(1, 40))
    logits = random.normal(0, 2, (n, num_classes)).astype(np.float32)
    batch = {"targets": random.integers(0, num_classes, n), "mask": random.random(n) < 0.7}
    batch["mask"][random.integers(n)] = True
    return num_classes, logits, batch


@pytest.fixture(scope="module")
def compiled():
    """Objectives compiled once for each C: cases are padded to one length, with rubbish in the padding."""
    cache = {}

    def counts(num_classes, logits, batch, length=40):
        if num_classes not in cache:
            objective = classification(num_classes)
            cache[num_classes] = jax.jit(objective.counts), jax.jit(objective.loss), objective.scores
        missing = length - len(logits)
        rubbish = np.full((missing, num_classes), np.nan, np.float32)
        padded = {
            "targets": np.concatenate([batch["targets"], np.full(missing, 99)]),
            "mask": np.concatenate([batch["mask"], np.zeros(missing, bool)]),
        }
        count, loss, scores = cache[num_classes]
        outputs = np.concatenate([logits, rubbish])
        return scores(count(outputs, padded)), loss(outputs, padded)

    return counts


def slow_calibration_error(probabilities, true):
    """Goes from bin to bin, as Guo et al. define it: each is open below and closed above."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    error = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_scores_are_scikit_learns(start, compiled):
    for seed in range(start, start + 50):
        num_classes, logits, batch = random_case(seed)
        scores, (loss, metrics) = compiled(num_classes, logits, batch)
        true, kept = batch["targets"][batch["mask"]], logits[batch["mask"]].astype(np.float64)
        predicted = kept.argmax(axis=1)
        probabilities = np.exp(kept) / np.exp(kept).sum(axis=1, keepdims=True)
        labels = np.arange(num_classes)
        macro = {"average": "macro", "zero_division": 0}
        nll = sklearn.metrics.log_loss(true, probabilities, labels=labels)
        assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
        assert scores["macro_precision"] == pytest.approx(sklearn.metrics.precision_score(true, predicted, **macro))
        assert scores["macro_recall"] == pytest.approx(sklearn.metrics.recall_score(true, predicted, **macro))
        assert scores["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(true, predicted, **macro))
        assert scores["nll"] == pytest.approx(nll, rel=1e-5)
        one_hot = np.eye(num_classes)[true]
        assert scores["brier"] == pytest.approx(np.mean(np.sum((probabilities - one_hot) ** 2, 1)), rel=1e-5)
        assert scores["ece"] == pytest.approx(slow_calibration_error(probabilities, true), rel=1e-4, abs=1e-6)
        assert float(loss) == pytest.approx(nll, rel=1e-5)
        assert float(metrics["accuracy"]) == pytest.approx(scores["accuracy"])
        assert all(type(value) is float for value in scores.values())


def test_logits_that_are_not_finite_predict_no_class():
    logits = jnp.array([[jnp.nan, 0, 0], [0, jnp.inf, 0], [-jnp.inf, 0, 1], [3.0, 0, 0]])
    batch = {"targets": jnp.array([0, 1, 2, 0])}
    objective = classification(3)
    counts = objective.counts(logits, batch)
    np.testing.assert_array_equal(counts["confusion"], [[1, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0]])
    scores = objective.scores(counts)
    assert scores["accuracy"] == 0.5
    assert scores["macro_recall"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert np.isnan(scores["nll"])
    assert objective.loss(logits, batch)[1]["accuracy"] == 0.5


def test_confusion_has_true_rows_and_predicted_columns():
    logits = jnp.array([[0.0, 9.0, 0.0], [0.0, 9.0, 0.0], [9.0, 0.0, 0.0]])
    counts = classification(3).counts(logits, {"targets": jnp.array([0, 1, 2])})
    np.testing.assert_array_equal(counts["confusion"], [[0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]])
    assert counts["n"] == 3


def test_expected_calibration_error_by_hand():
    # Two classes; bins of 1/15. Confidences .55 (bin 8), .58 (bin 8) and .95 (bin 14).
    confidence = np.array([0.55, 0.58, 0.95, 0.95])
    correct = np.array([True, False, True, False])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    targets = np.where(correct, 0, 1)
    objective = jitted(classification(2))
    counts = objective.counts(jnp.log(probabilities.astype(np.float32)), {"targets": targets})
    expected = np.zeros(15)
    expected[8], expected[14] = 2, 2
    np.testing.assert_array_equal(counts["bin_count"], expected)
    assert objective.scores(counts)["ece"] == pytest.approx(0.5 * abs(0.565 - 0.5) + 0.5 * abs(0.95 - 0.5), rel=1e-5)


def test_certainty_falls_in_the_last_bin_and_certain_hits_are_calibrated():
    logits = 1e4 * jnp.eye(3)
    objective = jitted(classification(3))
    counts = objective.counts(logits, {"targets": jnp.arange(3)})
    assert counts["bin_count"][-1] == 3
    scores = objective.scores(counts)
    assert scores["ece"] == 0
    assert scores["macro_f1"] == 1


def test_counts_add_up_over_batches(compiled):
    num_classes, logits, batch = random_case(3)
    objective = jitted(classification(num_classes))
    whole = objective.counts(logits, batch)
    first = objective.counts(logits[:5], {name: leaf[:5] for name, leaf in batch.items()})
    second = objective.counts(logits[5:], {name: leaf[5:] for name, leaf in batch.items()})
    assert_close(jax.tree.map(jnp.add, first, second), whole, rtol=1e-5)


def test_scores_without_examples_are_nan():
    outputs = jnp.zeros((2, 3))
    for objective, targets in (
        (jitted(classification(3)), jnp.zeros(2, jnp.int32)),
        (jitted(regression()), jnp.zeros((2, 3))),
    ):
        batch = {"targets": targets, "mask": jnp.zeros(2, bool)}
        loss, _ = objective.loss(outputs, batch)
        assert loss == 0
        some = objective.scores(objective.counts(outputs, {"targets": targets}))
        none = objective.scores(objective.counts(outputs, batch))
        assert set(none) == set(some)
        assert all(np.isnan(score) for score in none.values())


def test_absent_classes_take_no_part(key):
    logits = jax.random.normal(key, (6, 5))
    present = jnp.array([True, False, True, True, False])
    targets = jnp.array([0, 2, 3, 3, 0, 2])
    narrow = {"targets": jnp.array([0, 1, 2, 2, 0, 1])}
    wide = {"targets": targets, "classes": jnp.tile(present, (6, 1))}
    for smoothing in (0.0, 0.2):
        small, large = (jitted(classification(c, label_smoothing=smoothing)) for c in (3, 5))
        expected = jax.value_and_grad(small.loss, has_aux=True)(logits[:, present], narrow)
        (loss, metrics), grads = jax.value_and_grad(large.loss, has_aux=True)(logits, wide)
        assert_close((loss, metrics), expected[0])
        assert_close(grads[:, present], expected[1])
        np.testing.assert_array_equal(grads[:, ~present], 0)
        assert large.scores(large.counts(logits, wide)) == pytest.approx(
            small.scores(small.counts(logits[:, present], narrow))
        )


def test_absent_classes_have_finite_second_derivatives(key):
    logits = jax.random.normal(key, (2, 3))
    batch = {"targets": jnp.array([0, 1]), "classes": jnp.array([[True, True, False]] * 2)}
    hessian = jax.jit(jax.hessian(lambda logits: classification(3).loss(logits, batch)[0]))(logits)
    assert np.all(np.isfinite(hessian))
    np.testing.assert_array_equal(hessian[:, 2], 0)


def test_label_smoothing_may_be_traced():
    logits, batch = jnp.array([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]]), {"targets": jnp.array([1, 2])}
    loss = jax.jit(lambda smoothing: classification(3, label_smoothing=smoothing).loss(logits, batch)[0])
    for smoothing in (0.0, 0.3):
        expected, _ = classification(3, label_smoothing=smoothing).loss(logits, batch)
        np.testing.assert_allclose(loss(smoothing), expected, rtol=1e-6)


def test_label_smoothing_by_hand():
    logits = jnp.array([[1.0, 2.0, 0.5]])
    log_p = jax.nn.log_softmax(logits)[0]
    loss, _ = classification(3, label_smoothing=0.3).loss(logits, {"targets": jnp.array([1])})
    assert_close(loss, -(0.1 * log_p[0] + 0.8 * log_p[1] + 0.1 * log_p[2]))


@pytest.mark.parametrize("rubbish", [3.0, np.inf, np.nan])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_padding_changes_no_number(kind, rubbish, key):
    outputs = jax.random.normal(key, (4, 3))
    filling = jnp.full((2, 3), rubbish)
    if kind == "classification":
        objective = jitted(classification(3, label_smoothing=0.1))
        classes = jnp.array([[True, True, True]] * 3 + [[False, True, True]])
        batch = {"targets": jnp.array([0, 1, 2, 1]), "classes": classes}
        extra = {"targets": jnp.array([-1, 50]), "classes": jnp.zeros((2, 3), bool)}
    else:
        objective = jitted(regression())
        batch = {"targets": jnp.ones((4, 3))}
        extra = {"targets": jnp.full((2, 3), jnp.nan)}
    padded = {name: jnp.concatenate([leaf, extra[name]]) for name, leaf in batch.items()}
    padded["mask"] = jnp.arange(6) < 4
    value_and_grad = jax.value_and_grad(objective.loss, has_aux=True)
    value, grads = value_and_grad(outputs, batch)
    padded_value, padded_grads = value_and_grad(jnp.concatenate([outputs, filling]), padded)
    assert_close(padded_value, value)
    assert_close(padded_grads[:4], grads)
    np.testing.assert_array_equal(padded_grads[4:], 0)
    padded_counts = objective.counts(jnp.concatenate([outputs, filling]), padded)
    assert_close(padded_counts, objective.counts(outputs, batch))


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_gradients_in_float64_against_finite_differences(kind, key, x64):
    outputs = jax.random.normal(key, (4, 3), jnp.float64)
    mask = jnp.array([True, True, False, True])
    if kind == "classification":
        objective, targets = classification(3, label_smoothing=0.1), jnp.array([0, 1, 2, 1])
    else:
        objective, targets = regression(), jnp.ones((4, 3), jnp.float32)
    batch = {"targets": targets, "mask": mask}
    loss, metrics = objective.loss(outputs, batch)
    assert loss.dtype == jnp.float64
    assert all(metric.dtype == jnp.float64 for metric in metrics.values())
    check_grads(jax.jit(lambda outputs: objective.loss(outputs, batch)[0]), (outputs,), order=2)


def test_half_precision_outputs_are_judged_in_single():
    for objective, batch in (
        (classification(3), {"targets": jnp.zeros(2, jnp.int32)}),
        (regression(), {"targets": jnp.zeros((2, 3))}),
    ):
        outputs = jnp.ones((2, 3), jnp.bfloat16)
        assert objective.loss(outputs, batch)[0].dtype == jnp.float32
        assert objective.counts(outputs, batch)["n"].dtype == jnp.int32
        assert jax.grad(lambda o: objective.loss(o, batch)[0])(outputs).dtype == jnp.bfloat16  # noqa: B023


def test_tasks_can_be_vmapped(key):
    objective = jitted(classification(3))
    logits = jax.random.normal(key, (2, 4, 3))
    mask = jnp.array([[True] * 4, [True] * 3 + [False]])
    batch = {"targets": jnp.array([[0, 1, 2, 0], [2, 2, 1, 0]]), "mask": mask}
    mapped = jax.jit(jax.vmap(objective.counts))(logits, batch)
    for task in range(2):
        one = objective.counts(logits[task], {name: leaf[task] for name, leaf in batch.items()})
        assert_close(jax.tree.map(lambda leaf: leaf[task], mapped), one, rtol=1e-5)  # noqa: B023


def test_regression_is_scikit_learns():
    random = np.random.default_rng(0)
    for shape in ((7,), (7, 1), (7, 4), (7, 2, 3)):
        outputs, targets = (random.normal(size=shape).astype(np.float32) for _ in range(2))
        mask = np.array([True, True, False, True, False, True, True])
        batch = {"targets": targets, "mask": mask}
        objective = jitted(regression())
        true, predicted = (values[mask].reshape(5, -1) for values in (targets, outputs))
        mse = sklearn.metrics.mean_squared_error(true, predicted)
        loss, metrics = objective.loss(outputs, batch)
        assert float(loss) == pytest.approx(mse, rel=1e-5)
        assert float(metrics["mse"]) == pytest.approx(mse, rel=1e-5)
        scores = objective.scores(objective.counts(outputs, batch))
        mae = sklearn.metrics.mean_absolute_error(true, predicted)
        assert scores == pytest.approx({"mse": mse, "mae": mae}, rel=1e-5)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(AssertionError):
        regression().loss(jnp.zeros((4, 1)), {"targets": jnp.zeros(4)})
    with pytest.raises(AssertionError):
        classification(3).loss(jnp.zeros((4, 2)), {"targets": jnp.zeros(4, jnp.int32)})
    with pytest.raises(AssertionError):
        classification(3).loss(jnp.zeros((4, 3)), {"targets": jnp.zeros((4, 1), jnp.int32)})


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`num_classes` must be positive, got 0"):
        classification(0)
    with pytest.raises(ValueError, match=r"`label_smoothing` must be at least 0 and less than 1, got 1.0"):
        classification(2, label_smoothing=1.0)
