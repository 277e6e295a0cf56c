"""Span question answering: which words of a text are the answer (Rajpurkar et al. 2016, arXiv 1606.05250)."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.checks import check_not_negative
from jaxmeta.core.masks import masked_mean, masked_sum, real_examples
from jaxmeta.core.trees import at_least_float32
from jaxmeta.core.types import IMPOSSIBLE, ArrayTree, Batch, Metrics, Objective


class Spans(NamedTuple):
    """The best n spans of each example, the best first."""

    start: jax.Array  # [N, n] int32
    end: jax.Array  # [N, n] int32, inclusive
    score: jax.Array  # [N, n], their logits


def best_spans(logits: jax.Array, count: int = 1) -> Spans:
    """Finds the likeliest spans; of equals the one that begins first, then the shortest.

    Args:
      logits: `[N, L, K]`, for an answer to begin at each word and to have 1 to K words.
      count: n, how many; all that there are if they are fewer.
    """
    chex.assert_rank(logits, 3)
    flat = logits.reshape(logits.shape[0], -1)
    score, best = jax.lax.top_k(flat, min(count, flat.shape[1]))
    start, more = best // logits.shape[2], best % logits.shape[2]
    return Spans(start, jnp.minimum(start + more, logits.shape[1] - 1), score)


def span_qa(overlap: float = 4.0) -> Objective:
    """Judges logits `[N, L, K]` against `{"start": [N], "end": [N]}` (int), the first and last word of the answer.

    A logit is for an answer to begin at a word and to have 1 to K words; -1e9 says that there is none such. Where a
    window of a longer context lacks the answer both targets are -1. There is nothing to learn from such an example, and
    whatever is found in it is wrong: it is left out of the loss (as SQuAD 1.1 is commonly trained on, Devlin et al.
    2019, arXiv 1810.04805) and counts in the scores.

    * `loss`: the mean over the examples that have an answer of the negative log-likelihood of the answer, plus
      `overlap` times one minus the F1 that is to be expected of a span that is drawn by its probability (minimum risk
      training, as Shen et al. 2016, arXiv 1512.02433, have it): what is almost right is worth something. Where no span
      is the answer, because it has too many words, those that have most in common with it are taken for it. The metric
      "exact_span" is the share of all examples whose likeliest span is the answer.
    * `counts`: sums over examples: "n" and "answered", those that have an answer; "exact" and "f1" of the likeliest
      span, the latter the F1 of its places against those of the answer; "nll" of those that have an answer.
    * `scores`: "exact_span" and "span_f1", shares of all examples; "nll", the mean over those that have an answer. NaN
      where there are none of them. They compare places, not words: two places with the same words are different.
      `jaxmeta.run.answer_scores` compares words, as published figures do.

    Args:
      overlap: what the expected F1 is worth beside the likelihood.

    Raises:
      ValueError: if `overlap` is negative.
    """
    check_not_negative("overlap", overlap)

    def prepare(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, ...]:
        """Returns logits and the F1 of each span `[N, L * K]`; which examples are real and which have an answer `[N]`.

        What stands where there is no answer is harmless.
        """
        logits = at_least_float32(outputs)
        chex.assert_rank(logits, 3)
        start, end = (jnp.asarray(batch["targets"][name]) for name in ("start", "end"))
        chex.assert_shape([start, end], logits.shape[:1])
        mask = real_examples(batch)
        answered = mask & (start >= 0)
        # Zeroed before anything is computed: a mask on the result alone lets NaN through in the derivative.
        logits = jnp.where(answered[:, None, None], logits, jnp.zeros((), logits.dtype))
        first = jnp.arange(logits.shape[1], dtype=start.dtype)[None, :, None]
        more = jnp.arange(logits.shape[2], dtype=start.dtype)[None, None]
        start, end = start[:, None, None], end[:, None, None]
        common = jnp.maximum(jnp.minimum(first + more, end) - jnp.maximum(first, start) + 1, 0)
        both = (more + 1) + jnp.maximum(end - start + 1, 1)
        f1 = 2 * common.astype(logits.dtype) / both.astype(logits.dtype)
        f1 = jnp.where(logits > IMPOSSIBLE / 2, f1, jnp.zeros_like(f1))
        flat = (logits.shape[0], -1)
        f1 = jnp.reshape(f1, flat)
        return jnp.reshape(logits, flat), f1, mask, answered & jnp.any(f1 > 0, axis=1)

    def entropies(logits: jax.Array, f1: jax.Array) -> jax.Array:
        nearest = f1 >= jnp.max(f1, axis=1, keepdims=True) - 1e-6
        chosen = jnp.where(nearest, logits, jnp.asarray(IMPOSSIBLE, logits.dtype))
        return jax.nn.logsumexp(logits, axis=1) - jax.nn.logsumexp(chosen, axis=1)

    def of_likeliest(logits: jax.Array, f1: jax.Array) -> jax.Array:
        return jnp.take_along_axis(f1, jnp.argmax(logits, axis=1)[:, None], axis=1)[:, 0]

    def loss(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, Metrics]:
        logits, f1, mask, answered = prepare(outputs, batch)
        expected = jnp.sum(jax.nn.softmax(logits, axis=1) * f1, axis=1)
        exact = masked_mean((answered & (of_likeliest(logits, f1) == 1)).astype(logits.dtype), mask)
        value = masked_mean(entropies(logits, f1) + overlap * (1 - expected), answered)
        return value, {"exact_span": exact}

    def counts(outputs: ArrayTree, batch: Batch) -> dict[str, jax.Array]:
        logits, f1, mask, answered = prepare(outputs, batch)
        found = of_likeliest(logits, f1)
        return {
            "n": jnp.sum(mask, dtype=jnp.int32),
            "answered": jnp.sum(answered, dtype=jnp.int32),
            "exact": jnp.sum(answered & (found == 1), dtype=jnp.int32),
            "f1": masked_sum(found, answered),
            "nll": masked_sum(entropies(logits, f1), answered),
        }

    return Objective(loss, counts, _scores)


def _scores(counts: ArrayTree) -> dict[str, float]:
    named = {"exact_span": ("exact", "n"), "span_f1": ("f1", "n"), "nll": ("nll", "answered")}
    totals = {name: np.asarray(value, np.float64).item() for name, value in counts.items()}
    return {score: totals[part] / totals[of] if totals[of] else float("nan") for score, (part, of) in named.items()}
