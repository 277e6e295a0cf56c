"""Questions and contexts as rows of described words, with the words where the answer begins and ends.

A row is a window of the words of a context, each described with regard to the question in the whole of its context (see
`jaxmeta.data.span_features`). Contexts may be longer than a row. To learn from, the window holds the answer, anywhere
in it. To be judged on, it must not be chosen by the answer: it is the one that has most in common with the question,
and a question whose answer lies elsewhere counts as wrong. Or all windows are read, `strided_windows`, and
`best_answers` chooses among them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxmeta.data.span_features import ASKED, QUESTION_FEATURES, WORD_FEATURES, describe, word_places
from jaxmeta.data.streams import stream


class Windows(NamedTuple):
    """Rows to find answers in; `R` rows of `L` words.

    Attributes:
        inputs: what a model reads: `words` `[R, L, WORD_FEATURES]` and `question` `[R, QUESTION_FEATURES]`, float32;
            `sentence` `[R, L]` int32, the sentence that each word is in, 0 for padding; `asked` `[R, ASKED]` int32.
        start: `[R]` int32, the place in the row of the answer's first word; -1 if the window does not hold the answer.
        end: `[R]` int32, the place of its last word; -1 likewise.
        group: `[R]` int32, which question it is.
        places: `[R, L, 2]` int32, where each word begins and ends in its context (code points, the end exclusive).
    """

    inputs: dict[str, np.ndarray]
    start: np.ndarray
    end: np.ndarray
    group: np.ndarray
    places: np.ndarray


class Question(NamedTuple):
    """A question about a context; the answer begins at code point `answer_start` of it, or is not known (-1)."""

    context: str
    question: str
    answer: str = ""
    answer_start: int = -1

    @property
    def span(self) -> tuple[int, int]:
        """The words of the context `[first, end)` that have a part of the answer; (-1, -1) where there are none."""
        if self.answer_start >= 0:
            starts, ends = word_places(self.context).T
            inside = np.flatnonzero((ends > self.answer_start) & (starts < self.answer_start + len(self.answer)))
            if len(inside):
                return int(inside[0]), int(inside[-1]) + 1
        return -1, -1


def window_starts(count: int, length: int, parts: int = 2) -> list[int]:
    """Returns where windows of `count` words begin, `parts` to the length of one; the last reaches the end."""
    last = max(count - length, 0)
    return list(dict.fromkeys([*range(0, last, max(length // parts, 1)), last]))


def learning_windows(questions: Sequence[Question], length: int) -> np.ndarray:
    """Returns a word `[N]` of each context from which on a window holds the answer; -1 where none does.

    Which of those that do follows from the question alone, as if at random.
    """
    starts = np.full(len(questions), -1, np.int64)
    for number, question in enumerate(questions):
        count, (first, end) = len(word_places(question.context)), question.span
        if first >= 0 and end - first <= length:
            low, high = max(end - length, 0), min(first, max(count - length, 0))
            generator = stream("window", question.context, question.question)
            starts[number] = generator.integers(min(low, high), high + 1)
    return starts


def likely_windows(questions: Sequence[Question], length: int) -> np.ndarray:
    """Returns the word `[N]` of each context where the window begins that has most in common with the question.

    Where several have as much in common it is the middle one, which has most words around.
    """
    starts = np.zeros(len(questions), np.int64)
    for number, question in enumerate(questions):
        places = window_starts(len(word_places(question.context)), length, parts=8)
        if len(places) > 1:
            alike = describe(question.question, question.context).words[:, 0].astype(np.float32)
            sums = np.array([alike[p : p + length].sum() for p in places])
            best = np.flatnonzero(sums >= sums.max() - 1e-6)
            starts[number] = places[best[len(best) // 2]]
    return starts


def encode_windows(questions: Sequence[Question], starts: np.ndarray, length: int) -> Windows:
    """Returns one row `[N, L]` for each question, whose window begins at the word `starts` `[N]` of its context."""
    count = len(questions)
    described = np.zeros((count, length, WORD_FEATURES), np.float32)
    sentence, places = np.zeros((count, length), np.int32), np.zeros((count, length, 2), np.int32)
    about, asked = np.zeros((count, QUESTION_FEATURES), np.float32), np.zeros((count, ASKED), np.int32)
    spans = np.full((2, count), -1, np.int32)
    for number, (question, first) in enumerate(zip(questions, starts.tolist(), strict=True)):
        first, found = max(first, 0), describe(question.question, question.context)
        size = len(found.sentence[first : first + length])
        described[number, :size] = found.words[first : first + length]
        sentence[number, :size] = found.sentence[first : first + length]
        places[number, :size] = found.places[first : first + length]
        about[number], asked[number] = found.question, found.asked
        begin, end = question.span
        if first <= begin and end <= first + size:
            spans[:, number] = begin - first, end - 1 - first
    inputs = {"words": described, "sentence": sentence, "question": about, "asked": asked}
    return Windows(inputs, spans[0], spans[1], np.arange(count, dtype=np.int32), places)


def strided_windows(questions: Sequence[Question], length: int) -> Windows:
    """Returns all windows of all questions, `R` rows; `group` says which question each is of."""
    rows = [
        (number, start)
        for number, q in enumerate(questions)
        for start in window_starts(len(word_places(q.context)), length)
    ]
    group = np.array([number for number, _ in rows], np.int32)
    windows = encode_windows([questions[n] for n, _ in rows], np.array([start for _, start in rows], np.int64), length)
    return windows._replace(group=group)


class Answer(NamedTuple):
    """A text out of a context, and its score."""

    text: str
    score: float


def best_answers(
    windows: Windows, contexts: Sequence[str], spans: Sequence[np.ndarray], count: int = 1
) -> list[list[Answer]]:
    """Returns the best answers to each of `N` questions, over all of its windows, the best first; no text twice.

    Args:
        windows: `R` windows.
        contexts: `N` texts.
        spans: first word, last word and score of the best n spans of each row, `[R, n]` each; scores on a scale that
            windows share (logits, not softmax).
        count: how many answers, if there are so many.
    """
    start, end, score = (np.asarray(values)[: len(windows.group)] for values in spans)
    found = []
    for number, context in enumerate(contexts):
        rows = np.flatnonzero(windows.group == number)
        answers: dict[str, Answer] = {}
        for place in np.argsort(-score[rows], axis=None, kind="stable"):
            row, rank = rows[place // score.shape[1]], place % score.shape[1]
            text = context[windows.places[row, start[row, rank], 0] : windows.places[row, end[row, rank], 1]]
            answers.setdefault(text, Answer(text, float(score[row, rank])))
            if len(answers) == count:
                break
        found.append([*answers.values()])
    return found
