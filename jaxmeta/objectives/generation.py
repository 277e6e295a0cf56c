"""Generation: the cross-entropy of a text's tokens to learn by; bits for each byte to compare tokenizers by."""

import math

import jax.numpy as jnp
import numpy as np

from jaxmeta.core.masks import masked_sum, real_examples
from jaxmeta.core.types import ArrayTree, Batch, Objective
from jaxmeta.objectives.tokens import token_prediction, token_scores


def generation(vocab_size: int, *, label_smoothing: float = 0.0) -> Objective:
    """Judges logits `[N, M, V]` against a text's tokens `[N, M]`; 0 is padding.

    To what `jaxmeta.objectives.tokens.token_prediction` counts and scores it adds the sum "bytes" and the score
    "bits_per_byte", which does not depend on how a text is cut into tokens.

    Args:
      vocab_size: V.
      label_smoothing: the share of each target token that is spread evenly over the vocabulary.

    Returns:
      An objective that takes how many bytes each text has from the leaf "bytes" `[N]` of a batch. Where there is none,
      every token counts as a byte, an end of the text among the targets too.

    Raises:
      ValueError: if `vocab_size` is not positive, or `label_smoothing` is not in [0, 1).
    """
    tokens = token_prediction(vocab_size, label_smoothing=label_smoothing)

    def counts(outputs: ArrayTree, batch: Batch):
        found = tokens.counts(outputs, batch)
        if "bytes" not in batch:
            return {**found, "bytes": found["tokens"]}
        return {**found, "bytes": masked_sum(jnp.asarray(batch["bytes"], jnp.int32), real_examples(batch))}

    return tokens._replace(counts=counts, scores=_scores)


def _scores(counts: ArrayTree) -> dict[str, float]:
    nll, bytes_of_text = np.asarray(counts["nll"], np.float64).item(), int(counts["bytes"])
    bits = nll / math.log(2) / bytes_of_text if bytes_of_text else math.nan
    return {**token_scores(counts), "bits_per_byte": bits}
