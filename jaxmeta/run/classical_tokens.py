"""Language models without a neural network: how often tokens followed each other in some texts."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from jaxmeta.core.types import PADDING

_Context = tuple[int, ...]


class KneserNey:
    """An interpolated n-gram model with the counts of Kneser and Ney (1995).

    A text begins with a token of its own, which is never predicted. Contexts of `order - 1` tokens, and those at the
    beginning of a text, count how often each token followed; shorter ones, after how many different tokens they did so.
    Each count is less by a discount, for contexts of one length `n1 / (n1 + 2 n2)` where `n1` and `n2` counts are one
    and two (Ney, Essen & Kneser 1994), and what is gained by that goes to the next shorter context; that of the empty
    one, to the uniform distribution.
    """

    def __init__(self, texts: np.ndarray, *, vocab_size: int, order: int):
        """Counts.

        Args:
          texts: `[S, M]` int, tokens to count; 0 is padding at the end.
          vocab_size: V: tokens are below it, and padding is never predicted.
          order: tokens of the longest n-gram.
        """
        self.order = order
        self._uniform = np.full(vocab_size, 1 / (vocab_size - 1))
        self._uniform[PADDING] = 0.0
        self._followers: dict[_Context, collections.Counter[int]] = collections.defaultdict(collections.Counter)
        longer: set[_Context] = set()
        for tokens in map(_begun, texts.tolist()):
            for place in range(1, len(tokens)):
                for size in range(min(order, place + 1)):
                    first = place - size
                    if size < order - 1 and first:
                        ngram = tokens[first - 1 : place + 1]
                        if ngram in longer:
                            continue
                        longer.add(ngram)
                    self._followers[tokens[first:place]][tokens[place]] += 1
        seen = np.zeros((order, 3))
        for context, counts in self._followers.items():
            for count in counts.values():
                seen[len(context), min(count, 3) - 1] += 1
        once, twice = seen[:, 0], seen[:, 1]
        # Where nothing was seen twice, or all was, the estimate is no discount at all, or a whole count.
        self._discounts = np.clip(once / np.maximum(once + 2 * twice, 1), 0.05, 0.95)
        self._known: dict[_Context, np.ndarray] = {}

    def predicted(self, context: _Context) -> np.ndarray:
        """Returns the probability of each token after a context of at most `order - 1` tokens, `[V]`."""
        if context not in self._known:
            shorter = self.predicted(context[1:]) if context else self._uniform
            if context in self._followers:
                seen = self._followers[context]
                counts = np.zeros(len(shorter))
                counts[list(seen)] = list(seen.values())
                discounted = np.minimum(counts, self._discounts[len(context)])
                shorter = (counts - discounted + discounted.sum() * shorter) / counts.sum()
            self._known[context] = shorter
        return self._known[context]


def ngram_prediction(
    models: Sequence[KneserNey], weights: Sequence[float], queries: np.ndarray
) -> Mapping[str, np.ndarray]:
    """Predicts every token of some texts from those before it, by a weighted mean of n-gram models.

    Args:
      models: what was counted.
      weights: of each.
      queries: `[Q, M]` int, tokens to predict; 0 is padding at the end.

    Returns:
      "nll" `[Q]`, the sum over the tokens of each query of minus the log-probability, and "correct" `[Q]`, how many of
      them were the likeliest.
    """
    nll, correct = np.zeros(len(queries)), np.zeros(len(queries), np.int64)
    for number, tokens in enumerate(map(_begun, queries.tolist())):
        for place in range(1, len(tokens)):
            parts = [model.predicted(tokens[max(place - model.order + 1, 0) : place]) for model in models]
            probabilities = np.average(parts, axis=0, weights=weights)
            nll[number] -= np.log(probabilities[tokens[place]])
            correct[number] += int(np.argmax(probabilities)) == tokens[place]
    return {"nll": nll, "correct": correct}


def _begun(row: Sequence[int]) -> _Context:
    """Returns the tokens of a row after one that begins every text; padding stands for it."""
    return (PADDING, *(token for token in row if token != PADDING))
