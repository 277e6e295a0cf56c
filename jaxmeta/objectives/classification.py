"""Classification: cross-entropy to learn by; accuracy, macro scores and calibration to be judged by."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmeta.core.checks import check_positive, check_share, is_traced
from jaxmeta.core.masks import masked_mean, masked_sum, real_examples, within_reach
from jaxmeta.core.trees import at_least_float32
from jaxmeta.core.types import IMPOSSIBLE, ArrayTree, Batch, Metrics, Objective

CONFIDENCE_BINS = 15  # as in Guo et al. 2017


def classification(num_classes: int, *, label_smoothing: Any = 0.0) -> Objective:
    """Judges logits `[N, C]` against classes `[N]`.

    Classes that the batch says are absent (`classes [N, C]`) get no probability and no gradient.

    * `loss`: the mean softmax cross-entropy, and the metric "accuracy".
    * `counts`: sums over examples: "n"; "confusion" `[C, C + 1]`, a row for each true class and a column for each
      predicted one, the last for logits that are not finite and predict none; "nll" and "brier" of the unsmoothed
      targets; and for 15 equal bins of the winning probability "bin_count", "bin_confidence" and "bin_correct".
    * `scores`: "accuracy"; "macro_precision", "macro_recall" and "macro_f1", the means over the classes that
      occur among targets or predictions; "nll"; "brier", the squared distance from the one-hot target; "ece",
      the expected calibration error (Guo et al. 2017, arXiv 1706.04599). All are NaN where there is no
      example.

    Args:
      num_classes: C.
      label_smoothing: the share of each target that is spread evenly over the classes that are present; a number or a
        traced scalar.

    Raises:
      ValueError: if `num_classes` is not positive, or `label_smoothing` is not in [0, 1).
    """
    check_positive("num_classes", num_classes)
    check_share("label_smoothing", label_smoothing)

    def prepare(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns logits `[N, C]`, targets `[N]` and mask `[N]` in which padding is harmless."""
        logits = at_least_float32(outputs)
        targets = jnp.asarray(batch["targets"])
        chex.assert_shape(logits, (None, num_classes))
        chex.assert_shape(targets, logits.shape[:1])
        mask = real_examples(batch)
        # Zeroed before anything is computed: a mask on the result alone lets NaN through in the derivative.
        logits = jnp.where(mask[:, None], logits, jnp.zeros((), logits.dtype))
        return within_reach(logits, batch), jnp.where(mask, targets, jnp.zeros((), targets.dtype)), mask

    def smoothed(one_hot: jax.Array, logits: jax.Array) -> jax.Array:
        if not (is_traced(label_smoothing) or label_smoothing):
            return one_hot
        # Neither of those that do not exist, nor of those that a head has put out of reach, for want of an example.
        present = (logits > IMPOSSIBLE / 2).astype(one_hot.dtype)
        spread = present / jnp.maximum(jnp.sum(present, axis=-1, keepdims=True), 1)
        return (1 - label_smoothing) * one_hot + label_smoothing * spread

    def loss(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, Metrics]:
        logits, targets, mask = prepare(outputs, batch)
        one_hot = jax.nn.one_hot(targets, num_classes, dtype=logits.dtype)
        losses = optax.softmax_cross_entropy(logits, smoothed(one_hot, logits))
        correct = (_predicted(logits, targets.dtype) == targets).astype(logits.dtype)
        return masked_mean(losses, mask), {"accuracy": masked_mean(correct, mask)}

    def counts(outputs: ArrayTree, batch: Batch) -> dict[str, jax.Array]:
        logits, targets, mask = prepare(outputs, batch)
        one_hot = jax.nn.one_hot(targets, num_classes, dtype=logits.dtype)
        probabilities = jax.nn.softmax(logits, axis=-1)
        predicted = _predicted(logits, targets.dtype)
        confidence = jnp.max(probabilities, axis=-1)
        # Bin b holds the confidences in (b / 15, (b + 1) / 15].
        bins = jnp.ceil(confidence * CONFIDENCE_BINS).astype(jnp.int32) - 1
        bins = jnp.clip(bins, 0, CONFIDENCE_BINS - 1)
        one = mask.astype(jnp.int32)

        def binned(values: jax.Array) -> jax.Array:
            return jnp.zeros((CONFIDENCE_BINS,), values.dtype).at[bins].add(values)

        return {
            "n": jnp.sum(one, dtype=jnp.int32),
            "confusion": jnp.zeros((num_classes, num_classes + 1), jnp.int32).at[targets, predicted].add(one),
            "nll": masked_sum(optax.softmax_cross_entropy(logits, one_hot), mask),
            "brier": masked_sum(jnp.sum(jnp.square(probabilities - one_hot), axis=-1), mask),
            "bin_count": binned(one),
            "bin_confidence": binned(jnp.where(mask, confidence, jnp.zeros((), confidence.dtype))),
            "bin_correct": binned(jnp.where(predicted == targets, one, jnp.zeros((), one.dtype))),
        }

    return Objective(loss, counts, _scores)


def _predicted(logits: jax.Array, dtype: Any) -> jax.Array:
    """Returns the class that each of logits `[N, C]` predicts; `C`, which is none, where they are not finite.

    Of NaN `argmax` makes the first class, so that a model which has diverged would be right now and then.
    """
    best = jnp.isfinite(jnp.max(logits, axis=-1))
    return jnp.where(best, jnp.argmax(logits, axis=-1), logits.shape[-1]).astype(dtype)


def _scores(counts: ArrayTree) -> dict[str, float]:
    totals = {name: np.asarray(value, np.float64) for name, value in counts.items()}
    n, confusion = totals["n"], totals["confusion"]
    if n == 0:
        names = ("accuracy", "macro_precision", "macro_recall", "macro_f1", "nll", "brier", "ece")
        return dict.fromkeys(names, float("nan"))
    hits, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion[:, :-1].sum(axis=0)
    occurs = true + predicted > 0
    scores = {
        "accuracy": hits.sum() / n,
        "macro_precision": _ratio(hits, predicted)[occurs].mean(),
        "macro_recall": _ratio(hits, true)[occurs].mean(),
        "macro_f1": _ratio(2 * hits, true + predicted)[occurs].mean(),
        "nll": totals["nll"] / n,
        "brier": totals["brier"] / n,
        "ece": np.abs(totals["bin_confidence"] - totals["bin_correct"]).sum() / n,
    }
    return {name: float(value) for name, value in scores.items()}


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divides; zero where the denominator is, as scikit-learn has it."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
