"""Retrieval: of all the right sides in a batch, which is the translation of this left side; and the other way round."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.masks import masked_mean, masked_sum, real_examples
from jaxmeta.core.trees import at_least_float32
from jaxmeta.core.types import IMPOSSIBLE, ArrayTree, Batch, Metrics, Objective

DIRECTIONS = ("left_to_right", "right_to_left")
CSLS = "csls_"  # how the names of scores by CSLS begin
_DEPTH, _NEIGHBOURS = 10, 10


def retrieval() -> Objective:
    """Judges `{"left": [N, D], "right": [N, D], "scale": [N]}`: example i's two sides belong together.

    Every real example of the batch is an anchor, and its candidates are the other sides of all real examples. Padding
    is neither. A batch needs no targets. It may have `group [N]` int, numbered over all the data of a task: candidates
    in the group of the anchor are as right as its own (one English sentence may be the translation of two).

    * `loss`: InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) in both directions, as in CLIP (Radford et al. 2021,
      arXiv 2103.00020): minus the log-probability that a softmax over the candidates, of logits `scale * left . right`,
      gives to all the right ones together; the mean over anchors and directions. The metric "recall_at_1".
    * `counts`: "n", the anchors of either direction, and for "left_to_right" and "right_to_left" the sums "hits_at_1",
      "hits_at_10" and "reciprocal_ranks". The rank of an anchor is one more than the wrong candidates that are at least
      as close as its closest right one. So ties count against it: a model that gives everything the same vector finds
      nothing. Ranks are among the candidates of the batch; judge a test set as one batch.
      "csls" has the same of the ranks by twice the similarity less, of either side, its mean similarity to the ten
      nearest of the other (Conneau et al. 2018, arXiv 1710.04087): a text that is near to all is no answer to each.
      It reads all texts of the batch at once, judged ones too.
    * `scores`: "recall_at_1", "recall_at_10" and "mrr" (the mean reciprocal rank), each the mean of the two directions,
      and each for a direction, such as "left_to_right_recall_at_1"; and all of them by CSLS, as "csls_recall_at_1". All
      are NaN where there is no example.
    """

    def loss(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, Metrics]:
        left, right, scale, mask = _prepared(outputs, batch)
        similarities, same = left @ right.T, _same(batch, mask)
        losses, hits = [], []
        for one_way in (similarities, similarities.T):
            logits = jnp.where(mask[None], scale[:, None] * one_way, jnp.asarray(IMPOSSIBLE, left.dtype))
            of_right = jnp.where(same, logits, jnp.asarray(IMPOSSIBLE, left.dtype))
            found = jax.nn.logsumexp(of_right, axis=-1)
            losses.append(masked_mean(jax.nn.logsumexp(logits, axis=-1) - found, mask))
            hits.append(masked_mean((_ranks(one_way, same, mask) == 1).astype(left.dtype), mask))
        return (losses[0] + losses[1]) / 2, {"recall_at_1": (hits[0] + hits[1]) / 2}

    def counts(outputs: ArrayTree, batch: Batch) -> ArrayTree:
        left, right, _, mask = _prepared(outputs, batch)
        return similarity_counts(left @ right.T, {**batch, "mask": mask})

    return Objective(loss, counts, _scores)


def similarity_counts(similarities: jax.Array, batch: Batch) -> ArrayTree:
    """Returns what `retrieval` counts, of similarities that something else computed.

    Args:
      similarities: `[N, N]`, a row for each left side and a column for each right one.
      batch: its "mask" and "group" are read, where it has them.
    """
    similarities = at_least_float32(similarities)
    size = similarities.shape[0]
    chex.assert_shape(similarities, (size, size))
    mask = real_examples(batch, size)
    same = _same(batch, mask)

    def ranked(similarities: jax.Array) -> dict[str, ArrayTree]:
        counted = {}
        for direction, one_way in zip(DIRECTIONS, (similarities, similarities.T), strict=True):
            ranks = _ranks(one_way, same, mask)
            counted[direction] = {
                "hits_at_1": jnp.sum(mask & (ranks == 1), dtype=jnp.int32),
                f"hits_at_{_DEPTH}": jnp.sum(mask & (ranks <= _DEPTH), dtype=jnp.int32),
                "reciprocal_ranks": masked_sum(1 / ranks.astype(similarities.dtype), mask),
            }
        return counted

    nearness = [_nearness(one_way, mask) for one_way in (similarities, similarities.T)]
    csls = 2 * similarities - nearness[0][:, None] - nearness[1][None]
    return {"n": jnp.sum(mask, dtype=jnp.int32), **ranked(similarities), "csls": ranked(csls)}


def _prepared(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns both sides `[N, D]`, the scale `[N]` and the mask `[N]`, in which padding is harmless."""
    left, right, scale = (at_least_float32(outputs[name]) for name in ("left", "right", "scale"))
    chex.assert_rank(left, 2)
    chex.assert_equal_shape([left, right])
    chex.assert_shape(scale, left.shape[:1])
    mask = real_examples(batch, left.shape[0])
    # Zeroed before anything is computed: a mask on the result alone lets NaN through in the derivative.
    left, right = (jnp.where(mask[:, None], side, jnp.zeros((), side.dtype)) for side in (left, right))
    return left, right, jnp.where(mask, scale, jnp.zeros((), scale.dtype)), mask


def _same(batch: Batch, mask: jax.Array) -> jax.Array:
    """Returns which candidates are right for which anchors, `[N, N]` bool, symmetric."""
    same = jnp.eye(mask.shape[0], dtype=bool)
    if "group" in batch:
        group = jnp.asarray(batch["group"])
        chex.assert_shape(group, mask.shape)
        same = same | (group[:, None] == group[None])
    return same & mask[:, None] & mask[None]


def _ranks(similarities: jax.Array, same: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the ranks of the closest right candidates, `[N]` int32; rows of padding mean nothing."""
    similarities = jax.lax.stop_gradient(similarities)
    best = jnp.max(jnp.where(same, similarities, -jnp.inf), axis=-1, keepdims=True)
    # "Not below", so that a candidate whose similarity is NaN counts against the anchor, and so does a NaN of its own.
    not_below = ~(similarities < best)
    return 1 + jnp.sum(not_below & ~same & mask[None], axis=-1, dtype=jnp.int32)


def _nearness(similarities: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the mean similarity of each row to its nearest real candidates, `[N]`."""
    near = jax.lax.top_k(jnp.where(mask[None], similarities, -jnp.inf), min(_NEIGHBOURS, len(mask)))[0]
    real = jnp.arange(near.shape[1]) < jnp.sum(mask)
    return jax.vmap(masked_mean, (0, None))(near, real)


def _scores(counts: ArrayTree) -> dict[str, float]:
    n = int(counts["n"])
    return _of_ranks(counts, n) | {f"{CSLS}{name}": score for name, score in _of_ranks(counts["csls"], n).items()}


def _of_ranks(counts: ArrayTree, n: int) -> dict[str, float]:
    named = {"recall_at_1": "hits_at_1", f"recall_at_{_DEPTH}": f"hits_at_{_DEPTH}", "mrr": "reciprocal_ranks"}
    by_direction = {
        f"{direction}_{score}": float(np.asarray(counts[direction][count], np.float64) / n) if n else float("nan")
        for direction in DIRECTIONS
        for score, count in named.items()
    }
    means = {score: sum(by_direction[f"{d}_{score}"] for d in DIRECTIONS) / len(DIRECTIONS) for score in named}
    return means | by_direction
