"""A language model without a neural network: how often tokens followed each other in a few texts."""

import collections
from collections.abc import Mapping

import numpy as np


def ngram_language_model(
    texts: np.ndarray, queries: np.ndarray, *, vocab_size: int, order: int
) -> Mapping[str, np.ndarray]:
    """Counts the n-grams of some texts and predicts every token of others from those before it.

    Probabilities are interpolated from the longest context to the empty one and to the uniform distribution, with the
    weights of Witten and Bell (1991): a context is trusted the more, the oftener it was seen and the fewer different
    tokens followed it.

    Args:
      texts: `[S, M]` int, tokens to count; 0 is padding at the end.
      queries: `[Q, M]` int, tokens to predict.
      vocab_size: V: tokens are below it, and padding is never predicted.
      order: the longest context has one token less.

    Returns:
      "nll" `[Q]`, the sum over the tokens of each query of minus the log-probability, and "correct" `[Q]`, how many of
      them were the likeliest.
    """
    followers: dict[tuple[int, ...], collections.Counter[int]] = collections.defaultdict(collections.Counter)
    for row in texts.tolist():
        tokens = [token for token in row if token]
        for place, token in enumerate(tokens):
            for size in range(min(order, place + 1)):
                followers[tuple(tokens[place - size : place])][token] += 1
    uniform = np.full(vocab_size, 1 / (vocab_size - 1))
    uniform[0] = 0.0
    cache: dict[tuple[int, ...], np.ndarray] = {}

    def predicted(context: tuple[int, ...]) -> np.ndarray:
        """Returns the probability of each token after a context, `[V]`."""
        if context not in cache:
            shorter = predicted(context[1:]) if context else uniform
            seen = followers.get(context)
            if seen:
                counts = np.zeros(vocab_size)
                counts[list(seen)] = list(seen.values())
                shorter = (counts + len(seen) * shorter) / (counts.sum() + len(seen))
            cache[context] = shorter
        return cache[context]

    nll, correct = np.zeros(len(queries)), np.zeros(len(queries), np.int64)
    for number, row in enumerate(queries.tolist()):
        tokens = [token for token in row if token]
        for place, token in enumerate(tokens):
            probabilities = predicted(tuple(tokens[max(place - order + 1, 0) : place]))
            nll[number] -= np.log(probabilities[token])
            correct[number] += int(probabilities.argmax()) == token
    return {"nll": nll, "correct": correct}
