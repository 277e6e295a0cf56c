"""Joint fine-tuning on source and target: every adaptation step also sees examples of the training tasks."""

import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_positive
from jaxmeta.core.trees import joined, leading_size
from jaxmeta.core.types import Batch, MetaAlgorithm


def source_replay(base: MetaAlgorithm, source: Batch, *, num_examples: int) -> MetaAlgorithm:
    """Adds `num_examples` random source examples to the support at each step of `base`.

    Fine-tuning on both together beats fine-tuning on the target alone in cross-lingual transfer (Schmidt et al. 2022,
    "Don't stop fine-tuning", EMNLP), so a comparison without it flatters the meta-learner.

    Args:
      base: an algorithm that takes gradient steps (`maml`).
      source: examples of the training tasks, leaves `[P, ...]`, with the same keys as the support.
      num_examples: drawn anew, with replacement, at each step.

    Raises:
      ValueError: if `num_examples` is not positive.
    """
    check_positive("num_examples", num_examples)
    source = jax.tree.map(jnp.asarray, dict(source))
    size = leading_size(source)

    def step(key, meta_params, state, support):
        draw_key, step_key = jax.random.split(key)
        chosen = jax.random.randint(draw_key, (num_examples,), 0, size)
        replayed = jax.tree.map(lambda leaf: leaf[chosen], source)
        return base.step(step_key, meta_params, state, joined(support, replayed))

    return base._replace(step=step)
