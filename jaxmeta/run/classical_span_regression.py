"""Answers by logistic regression on what is told of spans (as SQuAD has it, Rajpurkar et al. 2016, arXiv 1606.05250).

What a neural scorer of the same words is worth beside them shows in the difference.
"""

from collections.abc import Mapping

import numpy as np


def span_regression(
    inputs: Mapping[str, np.ndarray],
    start: np.ndarray,
    end: np.ndarray,
    *,
    strength: float,
    longest: int = 10,
    others: int = 16,
    seed: int = 0,
) -> np.ndarray:
    """Fits the weights that tell answers from other spans of their contexts.

    Args:
      inputs: described words, `words` `[N, L, F]` and `sentence` `[N, L]`, 0 for padding.
      start: first word of each answer, `[N]`; -1 where there is none.
      end: its last word, `[N]`.
      strength: of the regularisation, inverse: scikit-learn's C.
      longest: words in an answer, at most; longer ones are not learned from.
      others: spans that are no answer, for each that is, at random.
      seed: of what is random.

    Returns:
      `[5 * F + longest]`, what `span_scores` reads.
    """
    from sklearn.linear_model import LogisticRegression

    words, random = np.asarray(inputs["words"]), np.random.default_rng(seed)
    described, answers = [], []
    for row in np.flatnonzero((start >= 0) & (end - start < longest)):
        first, more = np.nonzero(_possible(inputs["sentence"][row], longest))
        wrong = np.flatnonzero((first != start[row]) | (more != end[row] - start[row]))
        wrong = random.permutation(wrong)[:others]
        places = np.append(first[wrong], start[row]), np.append(more[wrong], end[row] - start[row])
        described.append(_described(words[row], *places, longest))
        answers.append(np.arange(len(places[0])) == len(wrong))
    model = LogisticRegression(C=strength, max_iter=200)
    return model.fit(np.concatenate(described), np.concatenate(answers)).coef_[0]


def span_scores(weights: np.ndarray, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns how likely each span is the answer, `[N, L, longest]`, without a scale; -inf for what is none."""
    words, features = inputs["words"], inputs["words"].shape[2]
    longest = len(weights) - 5 * features
    scores = np.full((*words.shape[:2], longest), -np.inf)
    for row in range(len(words)):
        first, more = np.nonzero(_possible(inputs["sentence"][row], longest))
        # Linear in its words, so that they are weighted before they are brought together.
        parts = np.pad(words[row], ((1, 1), (0, 0))) @ weights[: 5 * features].reshape(5, features).T
        before = np.concatenate([[0.0], np.cumsum(parts[:, 4])])
        last = first + more
        scores[row, first, more] = (
            parts[first + 1, 0] + parts[first, 1] + parts[last + 1, 2] + parts[last + 2, 3]
            + (before[last + 2] - before[first + 1]) / (more + 1) + weights[5 * features + more]
        )  # fmt: skip
    return scores


def _possible(sentence: np.ndarray, longest: int) -> np.ndarray:
    """Returns which spans lie in one sentence, `[L, longest]`."""
    after = np.pad(sentence, (0, longest))
    ends = np.stack([after[more : more + len(sentence)] for more in range(longest)], axis=1)
    return (sentence[:, None] > 0) & (ends == sentence[:, None])


def _described(words: np.ndarray, first: np.ndarray, more: np.ndarray, longest: int) -> np.ndarray:
    """Returns the first word, that before it, the last, that after it, their mean, and how many there are."""
    padded, last = np.pad(words, ((1, 1), (0, 0))), first + more
    before = np.concatenate([np.zeros((1, words.shape[1])), np.cumsum(words, axis=0)])
    mean = (before[last + 1] - before[first]) / (more + 1)[:, None]
    sizes = np.eye(longest)[more]
    return np.concatenate([padded[first + 1], padded[first], padded[last + 1], padded[last + 2], mean, sizes], axis=1)
