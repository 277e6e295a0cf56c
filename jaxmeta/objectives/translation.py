"""Translation: the cross-entropy of the target's tokens to learn by; what was predicted right to be judged by."""

from jaxmeta.core.types import Objective
from jaxmeta.objectives.tokens import token_prediction


def translation(vocab_size: int, *, label_smoothing: float = 0.0) -> Objective:
    """Judges logits `[N, M, V]` against the target's tokens `[N, M]`, its end among them; 0 is padding.

    The loss, counts and scores ("nll", "perplexity", "token_accuracy", "exact_match") are those of
    `jaxmeta.objectives.tokens.token_prediction`: of predictions that are given the target's earlier tokens. What a
    model writes by itself is judged by `jaxmeta.run.text_scores`.

    Args:
      vocab_size: V.
      label_smoothing: the share of each target token that is spread evenly over the vocabulary.

    Raises:
      ValueError: if `vocab_size` is not positive, or `label_smoothing` is not in [0, 1).
    """
    return token_prediction(vocab_size, label_smoothing=label_smoothing)
