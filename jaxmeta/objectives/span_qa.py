"""Span question answering: where an answer begins and ends in a text (Rajpurkar et al. 2016, arXiv 1606.05250)."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import ArrayTree, Batch, Metrics, Objective
from jaxmeta.objectives.masks import at_least_float32, masked_mean, masked_sum, real_examples


class Spans(NamedTuple):
    """The best spans of each example, the best one first."""

    start: jax.Array  # [N, k] int32
    end: jax.Array  # [N, k] int32, inclusive
    score: jax.Array  # [N, k], the sum of both logits


@functools.partial(jax.jit, static_argnames=("max_length", "k"))
def best_spans(logits: jax.Array, max_length: int, k: int = 1) -> Spans:
    """Finds the spans of at most `max_length` tokens whose two logits have the largest sums.

    Of spans with one score the earliest comes first, then the shortest. Where there are fewer than k spans of finite
    score, others with the score -inf fill the rest.

    Args:
      logits: `[N, L, 2]`, for an answer to begin and to end at each token.
      max_length: tokens.
      k: how many spans.

    Raises:
      ValueError: if `max_length` or `k` is not positive, or there are not k spans to begin with.
    """
    check_positive("max_length", max_length)
    check_positive("k", k)
    chex.assert_shape(logits, (None, None, 2))
    size, length, _ = logits.shape
    starts = min(k, length)
    if k > starts * min(max_length, length):
        raise ValueError(f"`k` must be at most {starts * min(max_length, length)} for {length} tokens, got {k}")
    max_length = min(max_length, length)
    begin, end = logits[..., 0], logits[..., 1]
    # A span among the k best begins at one of the k starts whose best spans are best; the others need not be listed.
    after = ((0, 0), (0, max_length - 1))
    reach = jax.lax.reduce_window(end, np.array(-np.inf, end.dtype), jax.lax.max, (1, max_length), (1, 1), after)
    _, chosen = jax.lax.top_k(begin + reach, starts)
    chosen = jnp.sort(chosen, axis=-1)  # the earlier of two equals is to come first
    places = chosen[..., None] + jnp.arange(max_length, dtype=chosen.dtype)[None, None]  # [N, starts, max_length]
    ends = jnp.pad(end, after, constant_values=-jnp.inf)
    rows = jnp.arange(size, dtype=chosen.dtype)
    scores = jnp.take_along_axis(begin, chosen, axis=1)[..., None] + ends[rows[:, None, None], places]
    best, number = jax.lax.top_k(scores.reshape(size, starts * max_length), k)
    start = jnp.take_along_axis(chosen, number // max_length, axis=1)
    stop = start + number % max_length
    return Spans(start.astype(jnp.int32), jnp.minimum(stop, length - 1).astype(jnp.int32), best)


def span_qa(max_length: int = 64) -> Objective:
    """Judges logits `[N, L, 2]` against `{"start": [N], "end": [N]}` (int), the first and last token of the answer.

    Answers have to lie in the context: outside of it a reader has no probability to give. Where a window of a longer
    context lacks the answer both targets are -1. There is nothing to learn from such an example, and whatever is found
    in it is wrong: it is left out of the loss (as SQuAD 1.1 is commonly trained on, Devlin et al. 2019, arXiv
    1810.04805) and counts in the scores.

    * `loss`: the mean of the cross-entropies of both ends over the examples that have an answer, and the metric
      "exact_span", the share of all examples whose two ends are the likeliest ones.
    * `counts`: sums over examples: "n" and "answered", those that have an answer; "start_hits" and "end_hits" of the
      likeliest ends; "exact" and "f1" of the best span, the latter the F1 of its tokens against those of the answer;
      "nll" of those that have an answer.
    * `scores`: "exact_span", "span_f1", "start_accuracy" and "end_accuracy", shares of all examples; "nll", the mean
      over those that have an answer. NaN where there are none of them. They compare places, not words: two places with
      the same words are different. `jaxmeta.run.answer_scores` compares words, as published figures do.

    Args:
      max_length: tokens in an answer, at most.

    Raises:
      ValueError: if `max_length` is not positive.
    """
    check_positive("max_length", max_length)

    def prepare(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, ...]:
        """Returns logits `[N, L, 2]`; first and last tokens; which examples are real, and which of them have an answer.

        All but the logits are `[N]`. What stands where there is no answer is harmless.
        """
        logits = at_least_float32(outputs)
        chex.assert_shape(logits, (None, None, 2))
        start, end = (jnp.asarray(batch["targets"][name]) for name in ("start", "end"))
        chex.assert_shape([start, end], logits.shape[:1])
        mask = real_examples(batch)
        answered = mask & (start >= 0)
        # Zeroed before anything is computed: a mask on the result alone lets NaN through in the derivative.
        logits = jnp.where(answered[:, None, None], logits, jnp.zeros((), logits.dtype))
        start, end = (jnp.where(answered, place, jnp.zeros((), place.dtype)) for place in (start, end))
        return logits, start, end, mask, answered

    def entropies(logits: jax.Array, start: jax.Array, end: jax.Array) -> jax.Array:
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        return (cross_entropy(logits[..., 0], start) + cross_entropy(logits[..., 1], end)) / 2

    def hits(logits: jax.Array, start: jax.Array, end: jax.Array) -> tuple[jax.Array, jax.Array]:
        likeliest = jnp.argmax(logits, axis=1)
        return likeliest[:, 0].astype(start.dtype) == start, likeliest[:, 1].astype(end.dtype) == end

    def loss(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, Metrics]:
        logits, start, end, mask, answered = prepare(outputs, batch)
        first, last = hits(logits, start, end)
        exact = masked_mean((answered & first & last).astype(logits.dtype), mask)
        return masked_mean(entropies(logits, start, end), answered), {"exact_span": exact}

    def counts(outputs: ArrayTree, batch: Batch) -> dict[str, jax.Array]:
        logits, start, end, mask, answered = prepare(outputs, batch)
        first, last = hits(logits, start, end)
        found = best_spans(logits, max_length)
        begin, stop = found.start[:, 0].astype(start.dtype), found.end[:, 0].astype(end.dtype)
        common = jnp.maximum(jnp.minimum(stop, end) - jnp.maximum(begin, start) + 1, 0)
        both = (stop - begin + 1) + (end - start + 1)
        return {
            "n": jnp.sum(mask, dtype=jnp.int32),
            "answered": jnp.sum(answered, dtype=jnp.int32),
            "start_hits": jnp.sum(answered & first, dtype=jnp.int32),
            "end_hits": jnp.sum(answered & last, dtype=jnp.int32),
            "exact": jnp.sum(answered & (begin == start) & (stop == end), dtype=jnp.int32),
            "f1": masked_sum(2 * common.astype(logits.dtype) / both.astype(logits.dtype), answered),
            "nll": masked_sum(entropies(logits, start, end), answered),
        }

    return Objective(loss, counts, _scores)


def _scores(counts: ArrayTree) -> dict[str, float]:
    named = {
        "exact_span": ("exact", "n"),
        "span_f1": ("f1", "n"),
        "start_accuracy": ("start_hits", "n"),
        "end_accuracy": ("end_hits", "n"),
        "nll": ("nll", "answered"),
    }
    totals = {name: np.asarray(value, np.float64).item() for name, value in counts.items()}
    return {score: totals[part] / totals[of] if totals[of] else float("nan") for score, (part, of) in named.items()}
