"""Questions and contexts as rows of bytes, with the bytes where the answer begins and ends.

A row is the question, the token that ends it, and a window of the context. Contexts are often longer than a row. To
learn from, the window holds the answer, anywhere in it. To be judged on, it must not be chosen by the answer: it is the
one whose pairs of letters have most in common with the question, and a question whose answer lies elsewhere counts as
wrong. Or all windows are read, `strided_windows`, and `best_answers` chooses among them.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxmeta.data.sequences import specials
from jaxmeta.data.streams import stream
from jaxmeta.data.tokenize import ByteTokenizer


class Windows(NamedTuple):
    """Rows to find answers in; `R` rows of `L` tokens.

    Attributes:
        tokens: `[R, L]` int32.
        segment: `[R, L]` int32, 1 where the context is, 0 for the question and for padding.
        start: `[R]` int32, the place in the row of the answer's first byte; -1 if the window does not hold the answer.
        end: `[R]` int32, the place of its last byte; -1 likewise.
        group: `[R]` int32, which question it is.
    """

    tokens: np.ndarray
    segment: np.ndarray
    start: np.ndarray
    end: np.ndarray
    group: np.ndarray


class Question(NamedTuple):
    """A question about a context; the answer begins at code point `answer_start` of it, or is not known (-1)."""

    context: str
    question: str
    answer: str = ""
    answer_start: int = -1

    @property
    def span(self) -> tuple[int, int]:
        """The bytes of the context `[begin, end)` that are the answer; (-1, -1) where it is not known."""
        if self.answer_start < 0:
            return -1, -1
        begin = len(self.context[: self.answer_start].encode())
        return begin, begin + len(self.answer.encode())


def _room(question: Question, length: int) -> tuple[bytes, int]:
    """Returns the bytes of the question, cut to half a row at most, and how many are left for the context."""
    asked = question.question.encode()[: max(length // 2 - 1, 1)]
    return asked, length - len(asked) - 1


def _character(context: bytes, place: int) -> int:
    """Returns the first place from `place` on where a character begins."""
    while place < len(context) and context[place] & 0xC0 == 0x80:
        place += 1
    return place


def window_starts(question: Question, length: int, parts: int = 2) -> list[int]:
    """Returns the bytes where windows of the context begin, `parts` to a window; the last reaches its end."""
    context, (_, room) = question.context.encode(), _room(question, length)
    last = max(len(context) - room, 0)
    starts = [*range(0, last, max(room // parts, 1)), last]
    return list(dict.fromkeys(_character(context, start) for start in starts))


def learning_windows(questions: Sequence[Question], length: int, seed: int) -> np.ndarray:
    """Returns a byte `[N]` of each context from which on a window holds the answer, at random; -1 where none does."""
    starts = np.full(len(questions), -1, np.int64)
    for number, question in enumerate(questions):
        context, (_, room), (begin, end) = question.context.encode(), _room(question, length), question.span
        if begin >= 0 and end - begin <= room:
            low, high = max(end - room, 0), min(begin, max(len(context) - room, max(end - room, 0)))
            generator = stream(seed, "window", question.context, question.question)
            starts[number] = _character(context, int(generator.integers(low, high + 1)))
    return starts


def likely_windows(questions: Sequence[Question], length: int) -> np.ndarray:
    """Returns the byte `[N]` of each context where the window begins that has most in common with the question.

    What counts are pairs of letters that are in both, the more the fewer windows they are in. Where several have as
    much in common it is the middle one, which has most text around.
    """
    starts = np.zeros(len(questions), np.int64)
    for number, question in enumerate(questions):
        places = window_starts(question, length, parts=8)
        if len(places) > 1:
            room, context = _room(question, length)[1], question.context.encode()
            asked = _pairs(question.question)
            common = [asked & _pairs(context[p : p + room].decode(errors="ignore")) for p in places]
            times = collections.Counter(pair for has in common for pair in has)
            worth = {pair: np.log(len(places) / count) for pair, count in times.items()}
            # Sorted, for sums of floats depend on their order and sets have none.
            sums = np.array([sum(worth[pair] for pair in sorted(has)) for has in common])
            best = np.flatnonzero(sums >= sums.max() - 1e-9)
            starts[number] = places[best[len(best) // 2]]
    return starts


def _pairs(text: str) -> set[str]:
    text = text.casefold()
    return {text[i : i + 2] for i in range(len(text) - 1)}


def encode_windows(questions: Sequence[Question], starts: np.ndarray, length: int) -> Windows:
    """Returns one row `[N, L]` for each question, whose window begins at the byte `starts` `[N]` of its context."""
    eos = specials(ByteTokenizer(length)).eos
    tokens, segment = np.zeros((2, len(questions), length), np.int32)
    spans = np.full((2, len(questions)), -1, np.int32)
    for number, (question, first) in enumerate(zip(questions, starts.tolist(), strict=True)):
        first = max(first, 0)
        asked, room = _room(question, length)
        window = question.context.encode()[first : first + room]
        place = len(asked) + 1
        tokens[number, : place - 1] = np.frombuffer(asked, np.uint8).astype(np.int32) + 1
        tokens[number, place - 1] = eos
        tokens[number, place : place + len(window)] = np.frombuffer(window, np.uint8).astype(np.int32) + 1
        segment[number, place : place + len(window)] = 1
        begin, end = question.span
        if first <= begin and end <= first + len(window):
            spans[:, number] = place + begin - first, place + end - first - 1
    return Windows(tokens, segment, spans[0], spans[1], np.arange(len(questions), dtype=np.int32))


def strided_windows(questions: Sequence[Question], length: int) -> Windows:
    """Returns all windows of all questions, `[R, L]`; `group` says which question each is of."""
    rows = [(number, start) for number, q in enumerate(questions) for start in window_starts(q, length)]
    group = np.array([number for number, _ in rows], np.int32)
    windows = encode_windows([questions[n] for n, _ in rows], np.array([start for _, start in rows], np.int64), length)
    return windows._replace(group=group)


def best_answers(windows: Windows, start: np.ndarray, end: np.ndarray, *, longest: int = 256) -> np.ndarray:
    """Returns row, first and last place of the best answer of each question, `[N, 3]`, over all of its windows.

    Args:
        windows: `R` windows of `N` questions.
        start: how likely each place begins the answer, `[R, L]`, on a scale that windows share (logits, not softmax).
        end: how likely it ends it.
        longest: how many bytes an answer may have.
    """
    found = np.zeros((int(windows.group.max(initial=-1)) + 1, 3), np.int64)
    best = np.full(len(found), -np.inf)
    for row, group in enumerate(windows.group.tolist()):
        places = np.flatnonzero(windows.segment[row])
        width = places[None] - places[:, None]
        worth = start[row, places][:, None] + end[row, places][None]
        worth = np.where((width >= 0) & (width < longest), worth, -np.inf)
        if worth.size and worth.max() > best[group]:
            first, last = np.unravel_index(int(np.argmax(worth)), worth.shape)
            best[group], found[group] = worth.max(), (row, places[first], places[last])
    return found


def span_text(tokens: np.ndarray, start: int, end: int) -> str:
    """Returns the text from place `start` to place `end` of a row of tokens `[L]`; it is empty if `end` is before."""
    kept = tokens[start : end + 1]
    return bytes((kept[(kept > 0) & (kept <= 256)] - 1).astype(np.uint8)).decode(errors="replace").strip()
