"""Joint fine-tuning on source and target: every adaptation step also sees examples of the training tasks."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.algorithms.features import check_takes_steps
from jaxmeta.core.checks import check_positive
from jaxmeta.core.trees import joined, leading_size
from jaxmeta.core.types import Batch, MetaAlgorithm


def source_replay(
    base: MetaAlgorithm, source: Batch, *, num_examples: int, languages: np.ndarray | None = None
) -> MetaAlgorithm:
    """Adds `num_examples` random source examples to the support at each step of `base`.

    Fine-tuning on both together beats fine-tuning on the target alone in cross-lingual transfer (Schmidt et al. 2022,
    "Don't stop fine-tuning", EMNLP), so a comparison without it flatters the meta-learner.

    Args:
      base: an algorithm that takes gradient steps (`maml`).
      source: examples of the training tasks, leaves `[P, ...]`, with the same keys as the support.
      num_examples: drawn anew, with replacement, at each step.
      languages: the number of the language of each source example, `[P]`. Then the examples are of the languages that
        the support names as `near [S, M]`, every one of these alike; of all where it names none.

    Raises:
      ValueError: if `num_examples` is not positive, `base` takes no steps, or `languages` does not have one number for
        each example.
    """
    check_positive("num_examples", num_examples)
    check_takes_steps("source_replay", base)
    source = jax.tree.map(jnp.asarray, dict(source))
    size = leading_size(source)
    if languages is not None:
        if languages.shape != (size,):
            raise ValueError(f"`languages` must have the shape ({size},), one for each example, got {languages.shape}")
        by_language = np.argsort(languages, kind="stable").astype(np.int32)
        counts = np.bincount(languages)
        first, counts = (values.astype(np.int32) for values in (np.cumsum(counts) - counts, counts))

    def drawn(key, near: jax.Array | None) -> jax.Array:
        if near is None or languages is None:
            return jax.random.randint(key, (num_examples,), 0, size)
        keys = jax.random.split(key)
        language = jax.random.choice(keys[0], near[0], (num_examples,))
        # A place below each language's own number of examples.
        place = jax.random.randint(keys[1], (num_examples,), 0, jnp.asarray(counts)[language])
        return jnp.asarray(by_language)[jnp.asarray(first)[language] + place]

    def step(key, meta_params, state, support):
        draw_key, step_key = jax.random.split(key)
        support = dict(support)
        chosen = drawn(draw_key, support.pop("near", None))
        replayed = jax.tree.map(lambda leaf: leaf[chosen], source)
        return base.step(step_key, meta_params, state, joined(support, replayed))

    # It goes to no minimum of the support's loss, and the source's rows are not those of an episode.
    return base._replace(step=step, stationary=None, compact=None)
