"""Scored pairs: squared error to learn by; correlation with people's scores to be judged by."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.masks import masked_sum, real_examples
from jaxmeta.core.trees import at_least_float32
from jaxmeta.core.types import ArrayTree, Batch, Metrics, Objective
from jaxmeta.objectives.regression import regression

# Numbers that differ by less than this share of their size are taken for one number, rounded differently.
_ROUNDING = 1e-6
# The same of batches: their sums of squares, in float32, know nothing of smaller differences.
_ROUNDING_OF_BATCHES = 1e-3


def scored_pair(center: float = 0.0) -> Objective:
    """Judges outputs `[N]` or `[N, 1]` against scores `[N]` or `[N, 1]`.

    * `loss`: that of `regression`, the mean squared error.
    * `counts`: those of `regression`, and for Pearson's correlation of outputs and targets "batches", one; "sum" `[2]`,
      their sums; "within" `[3]`, the squares and products of their deviations from the means of the batch; and
      "between" `[3]`, what the means of the batch add to those. All may be added up: the correlation over many batches
      is that of all examples at once. Deviations are taken before they are squared, so that within a batch nothing
      cancels out (Chan et al. 1983, doi 10.1080/00031305.1983.10483115); between batches a relative error of about
      1e-7 times the square of mean over spread is left.
    * `scores`: "pearson", "mae" and "rmse". Where outputs or targets are all the same they tell nothing of each other,
      and the correlation is zero; over several batches, so they count where their spread is less than a thousandth of
      their distance from `center`. With no example (for "pearson", fewer than two) a score is NaN.

    Args:
      center: about where scores lie; it keeps digits where batches are many and scores far from zero.
    """
    base = regression()

    def flat(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, dict]:
        outputs, targets = at_least_float32(outputs), jnp.asarray(batch["targets"])
        size = outputs.shape[0]
        for values in (outputs, targets):
            chex.assert_size(values, size)
        return outputs.reshape(size), {**batch, "targets": targets.reshape(size)}

    def loss(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, Metrics]:
        return base.loss(*flat(outputs, batch))

    def counts(outputs: ArrayTree, batch: Batch) -> dict[str, jax.Array]:
        outputs, batch = flat(outputs, batch)
        mask = real_examples(batch)
        n = jnp.maximum(jnp.sum(mask), 1).astype(outputs.dtype)
        sums, deviations = [], []
        for values in (outputs, batch["targets"].astype(outputs.dtype)):
            values = jnp.where(mask, values - center, jnp.zeros((), outputs.dtype))
            sums.append(masked_sum(values, mask))
            deviations.append(jnp.where(mask, values - sums[-1] / n, jnp.zeros((), outputs.dtype)))
        pairs = [(0, 0), (1, 1), (0, 1)]
        return {
            **base.counts(outputs, batch),
            "batches": jnp.any(mask).astype(jnp.int32),
            "sum": jnp.stack(sums),
            "within": jnp.stack([jnp.sum(deviations[i] * deviations[j]) for i, j in pairs]),
            "between": jnp.stack([sums[i] * sums[j] / n for i, j in pairs]),
        }

    def scores(counts: ArrayTree) -> dict[str, float]:
        errors = base.scores(counts)
        return {"pearson": _pearson(counts, center), "mae": errors["mae"], "rmse": math.sqrt(errors["mse"])}

    return Objective(loss, counts, scores)


def _pearson(counts: ArrayTree, center: float) -> float:
    n = int(counts["n"])
    if n < 2:
        return math.nan
    sums, within, between = (np.asarray(counts[name], np.float64) for name in ("sum", "within", "between"))
    means = sums / n
    several = int(counts["batches"]) > 1
    moments, limit = within, np.square(_ROUNDING * (np.abs(means) + abs(center)))
    if several:
        moments = within + between - np.array([sums[0] ** 2, sums[1] ** 2, sums[0] * sums[1]]) / n
        limit = np.maximum(limit, np.square(_ROUNDING_OF_BATCHES * means))
    # NaN is no constant: it compares as False.
    if np.any(moments[:2] <= n * limit):
        return 0.0
    return float(np.clip(moments[2] / np.sqrt(moments[0] * moments[1]), -1, 1))
