"""Answers to questions without a neural network: what stands among the words that the question uses.

In the style of the sliding window that SQuAD has as a baseline (Rajpurkar et al. 2016, arXiv 1606.05250, after
Richardson et al. 2013), for any language: words are compared by their character n-grams, so that inflection does not
hide them, and nothing is parsed.
"""

import collections
import math
from collections.abc import Iterable, Sequence

import numpy as np

from jaxmeta.core.words import Word, sentences, words

_ALIKE = 0.5  # words with a Dice coefficient below this have nothing to do with each other


def overlap_spans(
    questions: Sequence[str],
    contexts: Sequence[str],
    *,
    max_words: int = 6,
    decay: float = 0.98,
    price: float = 0.5,
) -> list[tuple[int, int]]:
    """Finds an answer to each question in its context.

    A word counts as much as it is rare among the sentences of all contexts (inverse document frequency), times how
    much it is like a word of the question. An answer is a run of words of one sentence. It scores what the words of the
    question found in its sentence count for; what the words around it count for, less the further away they are; minus
    twice what words of the question inside of it count for; plus what makes rare words of its own likely answers, minus
    a price for each word.

    Args:
      questions: N texts.
      contexts: N texts; a context may occur with several questions.
      max_words: words in an answer, at most.
      decay: how much less a word of the question counts for each word that it is further away.
      price: of each word in an answer, beside what its rarity is worth.

    Returns:
      For each question the place of its answer in the context, `(start, end)` in code points, `context[start:end]`.
    """
    by_context = {context: sentences(context) for context in set(contexts)}
    rarity = _Rarity(sentence for found in by_context.values() for sentence in found)
    return [
        _answer(words(question), by_context[context], rarity, max_words, decay, price)
        for question, context in zip(questions, contexts, strict=True)
    ]


class _Rarity:
    """How rare words are among sentences, by their inverse document frequency."""

    def __init__(self, sentences: Iterable[Sequence[Word]]):
        self._containing: collections.Counter[frozenset[str]] = collections.Counter()
        self._size = 0
        for sentence in sentences:
            self._containing.update({word.ngrams for word in sentence})
            self._size += 1

    def __call__(self, word: Word) -> float:
        return math.log((1 + self._size) / (1 + self._containing[word.ngrams]))


def _likeness(first: Word, second: Word) -> float:
    """Returns the Dice coefficient of the n-grams of two words, zero if it is small."""
    dice = 2 * len(first.ngrams & second.ngrams) / (len(first.ngrams) + len(second.ngrams))
    return dice if dice >= _ALIKE else 0.0


def _answer(
    question: Sequence[Word],
    context: Sequence[Sequence[Word]],
    rarity: _Rarity,
    max_words: int,
    decay: float,
    price: float,
) -> tuple[int, int]:
    best, best_score = (0, 0), -math.inf
    asked = np.array([rarity(word) for word in question])
    for sentence in context:
        likeness = np.array([[_likeness(q, w) for w in sentence] for q in question]).reshape(
            len(question), len(sentence)
        )
        rare = np.array([rarity(word) for word in sentence])
        found = likeness.max(axis=0, initial=0.0)
        covered = float((asked * likeness.max(axis=1, initial=0.0)).sum())
        start, size, score = _best_run(found * rare, rare * (1 - found), max_words, decay, price)
        if covered + score > best_score:
            best_score = covered + score
            best = (sentence[start].start, sentence[start + size - 1].end)
    return best


def _best_run(
    of_question: np.ndarray, own: np.ndarray, max_words: int, decay: float, price: float
) -> tuple[int, int, float]:
    """Returns where the best run of words of a sentence begins, how many words it has, and its score.

    Args:
      of_question: `[W]`, what each word counts for as a word of the question.
      own: `[W]`, what it counts for as one that is not.
      max_words: see `overlap_spans`.
      decay: see `overlap_spans`.
      price: see `overlap_spans`.
    """
    count = len(own)
    before, after = np.zeros(count + 1), np.zeros(count + 1)
    for place in range(count):
        before[place + 1] = decay * (before[place] + of_question[place])  # heard by what begins at place + 1
        after[count - place - 1] = decay * (after[count - place] + of_question[count - place - 1])
    inside = np.concatenate([[0.0], np.cumsum(own / (1 + own) - 2 * of_question - price)])
    best = (0, 1, -math.inf)
    for size in range(1, min(max_words, count) + 1):
        scores = before[: count - size + 1] + after[size:] + inside[size:] - inside[: count - size + 1]
        start = int(scores.argmax())
        if scores[start] > best[2]:
            best = (start, size, float(scores[start]))
    return best
