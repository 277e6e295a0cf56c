"""What rows that stay on disk share with those that are judged: what `splits` finds of rows in memory."""

import collections
from array import array
from collections.abc import Sequence

import numpy as np

from jaxmeta.data.links import links_of, texts_of
from jaxmeta.data.read_table import checked_rows
from jaxmeta.data.row_files import Cell
from jaxmeta.data.spans import Question, learning_windows
from jaxmeta.data.splits import LanguageSplit, OverlapReport
from jaxmeta.data.stream_rows import StreamedRows


def shared_rows(rows: StreamedRows, split: LanguageSplit) -> dict[Cell, np.ndarray]:
    """Returns the numbers of the rows that `without_overlap` leaves out, ascending, by cell of those trained on.

    What is held is what links judged rows to others, by any number of steps. All rows are read until there is no more
    of it: once for plain text, and rarely more than three times for pairs.
    """
    seen, judged = _cells(rows, split.train, "train"), _cells(rows, split.test, "test")
    texts: set[str] = set()
    linked: set[tuple[str, ...]] = set()
    for _, fields in rows.read(judged):
        texts.update(texts_of(rows.schema, fields))
        linked.update(links_of(rows.schema, fields))
    while True:
        known, numbers = len(linked), collections.Counter()
        found: dict[Cell, list[int]] = {cell: [] for cell in seen}
        for cell, fields in rows.read():
            links = links_of(rows.schema, fields)
            if same := any(link in linked for link in links):
                linked.update(links)
            if cell in found:
                if same or any(text in texts for text in texts_of(rows.schema, fields)):
                    found[cell].append(numbers[cell])
                numbers[cell] += 1
        if len(linked) == known:
            return {cell: np.array(of, np.int64) for cell, of in found.items()}


def longer_answers(rows: StreamedRows, split: LanguageSplit, length: int) -> dict[Cell, np.ndarray]:
    """Returns the numbers of the questions that no window of `length` words of the context answers, by cell."""
    found: dict[Cell, list[int]] = {cell: [] for cell in _cells(rows, split.train, "train")}
    numbers = collections.Counter()
    for cell, fields in rows.read(found):
        for row in checked_rows(rows.source.name, rows.schema, [(0, fields)]):
            context, question, answer = (row.values[column] for column in ("context", "question", "answer"))
            asked = Question(context, question, answer, int(row.numbers["answer_start"]))
            if learning_windows([asked], length)[0] < 0:
                found[cell].append(numbers[cell])
        numbers[cell] += 1
    return {cell: np.array(of, np.int64) for cell, of in found.items()}


def overlap_on_disk(rows: StreamedRows, split: LanguageSplit) -> tuple[OverlapReport, tuple[int, int]]:
    """Returns what `overlap` and `translated_shots` return of all rows, which are read once.

    Where rows come with sentence numbers these are held while they are compared.
    """
    seen = set(_cells(rows, split.train, "train"))
    judged = [(texts_of(rows.schema, f), f.get("sentence")) for _, f in rows.read(_cells(rows, split.test, "test"))]
    shots = [fields.get("sentence") for _, fields in rows.read(_cells(rows, split.test, "train"))]
    texts, sentences = {text for of, _ in judged for text in of}, {*shots, *(said for _, said in judged)} - {None}
    texts_seen: set[str] = set()
    sentences_seen: set[str | None] = set()
    numbers, languages = array("q"), array("l")
    codes = {language: number for number, language in enumerate(rows.languages())}
    for cell, fields in rows.read():
        sentence = fields.get("sentence")
        if sentence is not None:
            numbers.append(int(sentence))
            languages.append(codes[cell.language])
        if cell in seen:
            texts_seen.update(texts.intersection(texts_of(rows.schema, fields)))
            sentences_seen.update(sentences.intersection([sentence]))
    said = np.unique(np.array(numbers, np.int64))
    report = OverlapReport(
        train_rows=sum(map(rows.count, seen)),
        judged_rows=len(judged),
        shared_sentences=sum(sentence in sentences_seen for _, sentence in judged),
        shared_texts=sum(any(text in texts_seen for text in of) for of, _ in judged),
        # A sentence of two languages is one more pair than there are sentences.
        linked=len(np.unique(np.array([numbers, languages], np.int64), axis=1).T) > len(said),
    )
    return report, (sum(sentence in sentences_seen for sentence in shots), len(shots))


def _cells(rows: StreamedRows, languages: Sequence[str], split: str) -> list[Cell]:
    return [cell for language in languages for cell in rows.cells(language, split)]
