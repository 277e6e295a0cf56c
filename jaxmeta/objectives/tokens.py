"""What objectives of sequences share: cross-entropy over real tokens, and counts of what was predicted right."""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmeta.core.checks import check_positive, check_share, is_traced
from jaxmeta.core.masks import masked_mean, masked_sum, real_examples
from jaxmeta.core.trees import at_least_float32
from jaxmeta.core.types import PADDING, ArrayTree, Batch, Metrics, Objective


class Tokens(NamedTuple):
    """Predictions of a batch, harmless where there is no token."""

    logits: jax.Array  # [N, M, V], in float32 at least
    targets: jax.Array  # [N, M]
    mask: jax.Array  # [N, M] bool, real tokens of real examples


def token_prediction(vocab_size: int, *, label_smoothing: Any = 0.0) -> Objective:
    """Judges logits `[N, M, V]` against tokens `[N, M]`, of which 0 is padding; sequences are teacher-forced.

    * `loss`: the mean softmax cross-entropy over the real tokens of real examples, and the metric "token_accuracy".
    * `counts`: sums: "n" examples, "tokens", "nll" of the unsmoothed targets, "correct" tokens, and "exact" examples
      whose every token is right.
    * `scores`: "nll" for each token, "perplexity", "token_accuracy", and "exact_match", a share of the examples. All
      are NaN where there is no token.

    Args:
      vocab_size: V.
      label_smoothing: the share of each target that is spread evenly over the vocabulary (Szegedy et al. 2016); a
        number or a traced scalar.

    Raises:
      ValueError: if `vocab_size` is not positive, or `label_smoothing` is not in [0, 1).
    """
    check_positive("vocab_size", vocab_size)
    check_share("label_smoothing", label_smoothing)

    def prepare(outputs: ArrayTree, batch: Batch) -> Tokens:
        logits, targets = at_least_float32(outputs), jnp.asarray(batch["targets"])
        chex.assert_shape(logits, (None, None, vocab_size))
        chex.assert_shape(targets, logits.shape[:2])
        mask = real_examples(batch)[:, None] & (targets != PADDING)
        # Zeroed before anything is computed: a mask on the result alone lets NaN through in the derivative.
        logits = jnp.where(mask[..., None], logits, jnp.zeros((), logits.dtype))
        return Tokens(logits, jnp.where(mask, targets, jnp.zeros((), targets.dtype)), mask)

    def loss(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, Metrics]:
        logits, targets, mask = prepare(outputs, batch)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        if is_traced(label_smoothing) or label_smoothing:
            evenly = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
            losses = (1 - label_smoothing) * losses + label_smoothing * evenly
        right = (jnp.argmax(logits, axis=-1).astype(targets.dtype) == targets).astype(logits.dtype)
        return masked_mean(losses, mask), {"token_accuracy": masked_mean(right, mask)}

    def counts(outputs: ArrayTree, batch: Batch) -> dict[str, jax.Array]:
        logits, targets, mask = prepare(outputs, batch)
        right = (jnp.argmax(logits, axis=-1).astype(targets.dtype) == targets) & mask
        some = jnp.any(mask, axis=1)
        return {
            "n": jnp.sum(some, dtype=jnp.int32),
            "tokens": jnp.sum(mask, dtype=jnp.int32),
            "nll": masked_sum(optax.softmax_cross_entropy_with_integer_labels(logits, targets), mask),
            "correct": jnp.sum(right, dtype=jnp.int32),
            "exact": jnp.sum(some & jnp.all(right == mask, axis=1), dtype=jnp.int32),
        }

    return Objective(loss, counts, token_scores)


def token_scores(counts: ArrayTree) -> dict[str, float]:
    """Returns the scores that `token_prediction` names, of its counts."""
    totals = {name: np.asarray(value, np.float64).item() for name, value in counts.items()}
    if not totals["tokens"]:
        return dict.fromkeys(("nll", "perplexity", "token_accuracy", "exact_match"), math.nan)
    nll = totals["nll"] / totals["tokens"]
    return {
        "nll": nll,
        "perplexity": math.exp(nll) if nll < math.log(np.finfo(np.float64).max) else math.inf,
        "token_accuracy": totals["correct"] / totals["tokens"],
        "exact_match": totals["exact"] / totals["n"],
    }
