"""Regression: squared error to learn by; squared and absolute error to be judged by."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.masks import masked_mean, masked_sum, real_examples
from jaxmeta.core.trees import at_least_float32
from jaxmeta.core.types import ArrayTree, Batch, Metrics, Objective


def regression() -> Objective:
    """Judges outputs `[N, ...]` against targets of the same shape.

    * `loss`: the mean squared error over examples and dimensions, and the metric "mse".
    * `counts`: "n", the numbers compared (examples times dimensions), and the sums "squared" and "absolute".
    * `scores`: "mse" and "mae", NaN where there is no example.
    """

    def errors(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns outputs minus targets as `[N, D]`, zero for padding, and the mask `[N]`."""
        outputs = at_least_float32(outputs)
        targets = jnp.asarray(batch["targets"])
        chex.assert_equal_shape([outputs, targets])
        mask = real_examples(batch)
        difference = outputs - targets.astype(outputs.dtype)
        difference = difference.reshape(outputs.shape[0], math.prod(outputs.shape[1:]))
        return jnp.where(mask[:, None], difference, jnp.zeros((), difference.dtype)), mask

    def loss(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, Metrics]:
        difference, mask = errors(outputs, batch)
        mse = masked_mean(jnp.mean(jnp.square(difference), axis=-1), mask)
        return mse, {"mse": mse}

    def counts(outputs: ArrayTree, batch: Batch) -> dict[str, jax.Array]:
        difference, mask = errors(outputs, batch)
        return {
            "n": jnp.sum(mask, dtype=jnp.int32) * difference.shape[1],
            "squared": masked_sum(jnp.sum(jnp.square(difference), axis=-1), mask),
            "absolute": masked_sum(jnp.sum(jnp.abs(difference), axis=-1), mask),
        }

    return Objective(loss, counts, _scores)


def _scores(counts: ArrayTree) -> dict[str, float]:
    n = int(counts["n"])
    if n == 0:
        return {"mse": math.nan, "mae": math.nan}
    return {
        "mse": float(np.asarray(counts["squared"], np.float64) / n),
        "mae": float(np.asarray(counts["absolute"], np.float64) / n),
    }
