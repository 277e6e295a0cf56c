"""Steps on minibatches of the support, for any method."""

import jax
import jax.numpy as jnp

from jaxmeta.algorithms.features import check_takes_steps
from jaxmeta.core.checks import check_positive
from jaxmeta.core.trees import leading_size
from jaxmeta.core.types import Batch, Key, MetaAlgorithm


def on_minibatches(algorithm: MetaAlgorithm, size: int | None) -> MetaAlgorithm:
    """Returns an algorithm each of whose steps reads a few examples of the support.

    Args:
      algorithm: any that takes steps.
      size: examples in each step, drawn without replacement; None takes the whole support.

    Raises:
      ValueError: if `size` is not positive, or the algorithm takes no steps.
    """
    if size is None:
        return algorithm
    check_positive("size", size)
    check_takes_steps("size", algorithm)

    def step(key, meta_params, state, support):
        draw_key, step_key = jax.random.split(key)
        return algorithm.step(step_key, meta_params, state, minibatch(draw_key, support, size))

    return algorithm._replace(step=step)


def minibatch(key: Key, batch: Batch, size: int) -> Batch:
    """Draws `size` examples of `batch` without replacement, real ones before padding; all of them if it has fewer."""
    num_examples = leading_size(batch)
    if size >= num_examples:
        return batch
    scores = jax.random.uniform(key, (num_examples,))
    if "mask" in batch:
        scores = scores + batch["mask"].astype(scores.dtype)
    chosen = jax.lax.top_k(scores, size)[1]
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], batch)
