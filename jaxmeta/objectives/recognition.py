"""Recognition of sequences from frames: CTC to learn by (Graves et al. 2006), the edit distance to be judged by."""

import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmeta.core.checks import check_one_of
from jaxmeta.core.masks import masked_mean, masked_sum, real_examples
from jaxmeta.core.trees import at_least_float32
from jaxmeta.core.types import ArrayTree, Batch, Metrics, Objective
from jaxmeta.objectives.edit_distance import edit_distance

BLANK = 0
UNITS = ("word", "character")


def recognition(num_symbols: int, *, unit: str = "word") -> Objective:
    """Judges `{"logits": [N, T, V], "real": [N, T]}` against sequences `targets [N, L]`.

    Symbol 0 is the blank of CTC in the outputs and padding, on the right, in the targets. The real frames are the
    first ones of each example.

    * `loss`: the mean over examples of `-log p(sequence) / max(length, 1)`, summed over all alignments, and the metric
      "exact", the share of examples on the best path without an error. An example whose sequence is too
      long for its frames has no alignment, and takes no part in the loss.
    * `counts`: sums over examples: "n"; "aligned", those that have an alignment; "nll", `-log p(sequence)` of those;
      "exact"; "edits", the edit distances of the best path; "symbols", the lengths of the targets.
    * `scores`: "word_error_rate" or "character_error_rate", edits for each symbol, which may exceed one; "exact"; "nll"
      for each example. NaN where there is none.

    Args:
      num_symbols: V, the blank counted.
      unit: what a symbol is, "word" (so are spoken digits) or "character".

    Raises:
      ValueError: `num_symbols` is less than 2, or `unit` is unknown.
    """
    check_one_of("unit", unit, UNITS)
    if num_symbols < 2:
        raise ValueError(f"`num_symbols` must be at least 2, the blank and one symbol, got {num_symbols}")

    def prepare(outputs: ArrayTree, batch: Batch):
        """Returns logits, real frames, targets and mask in which padding is harmless."""
        logits, mask = at_least_float32(outputs["logits"]), real_examples(batch)
        targets = jnp.asarray(batch["targets"]).astype(jnp.int32)
        chex.assert_shape(logits, (None, None, num_symbols))
        chex.assert_shape(targets, (len(logits), None))
        real = jnp.asarray(outputs["real"], bool) & mask[:, None]
        logits = jnp.where(real[..., None], logits, jnp.zeros((), logits.dtype))
        return logits, real, jnp.where(mask[:, None], targets, BLANK), mask

    def loss(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, Metrics]:
        logits, real, targets, mask = prepare(outputs, batch)
        losses, aligned = ctc(logits, real, targets)
        lengths = jnp.maximum(jnp.sum(targets != BLANK, axis=1), 1).astype(losses.dtype)
        exact = jnp.all(_padded_to(best_path(logits, real), targets) == _padded_to(targets, logits[..., 0]), axis=1)
        return masked_mean(losses / lengths, mask & aligned), {"exact": masked_mean(exact.astype(losses.dtype), mask)}

    def counts(outputs: ArrayTree, batch: Batch) -> dict[str, jax.Array]:
        logits, real, targets, mask = prepare(outputs, batch)
        losses, aligned = ctc(logits, real, targets)
        edits = edit_distance(best_path(logits, real), targets)

        def number(true: jax.Array) -> jax.Array:
            return jnp.sum(true, dtype=jnp.int32)

        return {
            "n": number(mask),
            "aligned": number(mask & aligned),
            "nll": masked_sum(losses, mask & aligned),
            "exact": number(mask & (edits == 0)),
            "edits": jnp.sum(jnp.where(mask, edits, 0), dtype=jnp.int32),
            "symbols": number(targets != BLANK),
        }

    return Objective(loss, counts, partial(_scores, f"{unit}_error_rate"))


def ctc(logits: jax.Array, real: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `-log p(targets)` of each example, summed over all alignments, and whether there is any.

    Args:
      logits: `[N, T, V]`; symbol 0 is the blank.
      real: `[N, T]` bool, true for the first frames and false for the rest.
      targets: `[N, L]` int32, padded with 0 on the right.

    Returns:
      `[N]`, zero where there is no alignment, and `[N]` bool.
    """
    padding = targets == BLANK
    # A symbol needs a frame, and the same symbol twice a blank between.
    repeated = (targets[:, 1:] == targets[:, :-1]) & ~padding[:, 1:]
    needed = jnp.sum(~padding, axis=1, dtype=jnp.int32) + jnp.sum(repeated, axis=1, dtype=jnp.int32)
    aligned = jnp.sum(real, axis=1, dtype=jnp.int32) >= needed
    # Where nothing aligns, an empty target stands in: finite, and its loss is not used.
    padding = padding | ~aligned[:, None]
    with jax.numpy_dtype_promotion("standard"):  # optax makes its constants in float32
        losses = optax.ctc_loss(
            logits, (~real).astype(logits.dtype), jnp.where(padding, BLANK, targets), padding.astype(logits.dtype)
        )
    return jnp.where(aligned, losses, 0).astype(logits.dtype), aligned


def best_path(logits: jax.Array, real: jax.Array) -> jax.Array:
    """Reads the likeliest symbol of each real frame, collapses repeats and removes blanks: `[N, T]` int32, padded.

    Args:
      logits: `[N, T, V]`; symbol 0 is the blank.
      real: `[N, T]` bool.
    """
    best = jnp.where(real, jnp.argmax(logits, axis=-1).astype(jnp.int32), BLANK)
    before = jnp.pad(best[:, :-1], ((0, 0), (1, 0)), constant_values=BLANK)
    kept = (best != BLANK) & (best != before)
    frames = best.shape[1]
    place = jnp.where(kept, jnp.cumsum(kept, axis=1, dtype=jnp.int32) - 1, frames)
    row = jnp.arange(len(best), dtype=jnp.int32)[:, None]
    return jnp.full_like(best, BLANK).at[row, place].set(best, mode="drop")


def _padded_to(sequences: jax.Array, other: jax.Array) -> jax.Array:
    """Returns `sequences [N, A]` as `[N, max(A, B)]` for `other [N, B]`."""
    return jnp.pad(sequences, ((0, 0), (0, max(0, other.shape[1] - sequences.shape[1]))), constant_values=BLANK)


def _scores(error_rate: str, counts: ArrayTree) -> dict[str, float]:
    totals = {name: float(np.asarray(value, np.float64)) for name, value in counts.items()}

    def ratio(numerator: str, denominator: str) -> float:
        return totals[numerator] / totals[denominator] if totals[denominator] else math.nan

    return {
        error_rate: ratio("edits", "symbols"),
        "exact": ratio("exact", "n"),
        "nll": ratio("nll", "aligned"),
    }
