"""Rows of text out of data larger than memory: how many each language has, and any of them by its number."""

import collections
import dataclasses
from array import array
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from jaxmeta.core.checks import InputError
from jaxmeta.data.corpus import SPLITS, Corpus
from jaxmeta.data.lines import Path
from jaxmeta.data.links import number_sentences
from jaxmeta.data.read_table import checked_rows, make_table
from jaxmeta.data.row_files import Cell, Fields, RowSource
from jaxmeta.data.table import LABELLED, Table
from jaxmeta.data.tsv import check_labels, check_trained


class StreamedRows:
    """The rows of a source, which stay on disk.

    All that is held in memory is how many rows of each cell (a language, a split, and a label if there are labels)
    every chunk of the source has. A row is read by reading the chunk that it is in, whether the rows are sorted by
    language or not. Of retrieval a sentence number for each row is held too, see `number_sentences`.

    Attributes:
        schema: what the columns hold.
        labels: the names of all labels, in the order of their numbers; none where rows have no labels.
    """

    def __init__(self, source: RowSource, *, name: str, languages: Collection[str] = ()):
        """Reads the source once, and checks every row.

        Args:
            source: where the rows are.
            name: what to call them in reports.
            languages: those to keep, if the source has them all; every one by default.

        Raises:
            InputError: a file is missing, or anything in it is not as it should be.
        """
        self.source, self.schema, self.name = source, source.schema, name
        self._codes: dict[str, tuple[str, ...]] = {}
        # Of each cell the chunks that have rows of it, and how many rows are before each and in all. Arrays grow in
        # place, and a number takes a fifth of what it takes in a list.
        found: dict[Cell, tuple[array[int], array[int]]] = {}
        places, chunks = array("q"), 0
        first: dict[tuple[str, str], tuple[Path, int]] = {}
        for chunk in source.scan():
            counts: collections.Counter[Cell] = collections.Counter()
            for row in checked_rows(chunk.path, self.schema, chunk.rows):
                counts[Cell(row.language, row.split, row.values.get("label", ""))] += 1
                first.setdefault((row.language, row.split), (chunk.path, row.line))
                if len(self.schema.language) > 1 and row.language not in self._codes:
                    self._codes[row.language] = tuple(row.values[column] for column in self.schema.language)
            for cell, count in counts.items():
                where, before = found.setdefault(cell, (array("i"), array("q", [0])))
                where.append(chunks)
                before.append(before[-1] + count)
            places.extend(chunk.place)
            chunks += 1
        self._places = np.frombuffer(places, np.int64).reshape(chunks, -1)
        trained = {language for language, split in first if split == "train"}
        for (language, split), (path, line) in first.items() if source.complete else ():
            check_trained(path, [(line, language, split)], trained)
        if languages and set(languages) <= {cell.language for cell in found}:
            found = {cell: of for cell, of in found.items() if cell.language in languages}
        self._where = {cell: np.frombuffer(where, np.int32) for cell, (where, _) in found.items()}
        self._before = {cell: np.frombuffer(before, np.int64) for cell, (_, before) in found.items()}
        self.labels: tuple[str, ...] = ()
        if self.schema is LABELLED:
            known = {cell.label for cell in found}
            check_labels(source.name, known)
            self.labels = source.labels or tuple(sorted(known))
        self._sentences: dict[Cell, np.ndarray] = {}
        if self.schema.name == "retrieval":
            self._sentences = number_sentences(self.schema, self.read())

    def languages(self) -> tuple[str, ...]:
        """Returns the codes of all languages (of all pairs of them), sorted."""
        return tuple(sorted({cell.language for cell in self._where}))

    def codes(self, language: str) -> tuple[str, ...]:
        """Returns the codes of the languages of a pair, or of a language its own."""
        return self._codes.get(language, (language,))

    def cells(self, language: str, split: str) -> list[Cell]:
        """Returns the cells of a language's split: one for each of `labels`, or one."""
        return [Cell(language, split, label) for label in self.labels or ("",)]

    def count(self, cell: Cell) -> int:
        """Returns how many rows a cell has."""
        before = self._before.get(cell)
        return 0 if before is None else int(before[-1])

    def __len__(self) -> int:
        return sum(map(self.count, self._before))

    def present(self, language: str) -> np.ndarray:
        """Returns which labels a language has in any split, `[C]` bool."""
        counts = [[self.count(cell) for cell in self.cells(language, split)] for split in SPLITS]
        return np.sum(counts, axis=0) > 0

    def read(self, cells: Collection[Cell] | None = None) -> Iterator[tuple[Cell, Fields]]:
        """Yields the cell and the fields of all rows of some cells, or of all, in the order of the source."""
        wanted = set(self._where if cells is None else cells)
        chunks = [self._where[cell] for cell in wanted if cell in self._where]
        for chunk in np.unique(np.concatenate(chunks)).tolist() if chunks else ():
            for line, cell, raw in self.source.read(self._place(chunk), wanted):
                yield cell, self.source.fields(raw, line)

    def pick(self, numbers: Mapping[Cell, np.ndarray]) -> Iterator[tuple[Cell, int, int, Fields]]:
        """Yields cell, number, line and fields of rows by their numbers in their cells, in the order of the source."""
        wanted: dict[int, dict[Cell, dict[int, int]]] = collections.defaultdict(dict)
        for cell, of in numbers.items():
            places = np.searchsorted(self._before[cell], of, side="right") - 1 if len(of) else of
            for number, place in zip(of.tolist(), places.tolist(), strict=True):
                of_chunk = wanted[int(self._where[cell][place])].setdefault(cell, {})
                of_chunk[number - int(self._before[cell][place])] = number
        for chunk in sorted(wanted):
            cells, seen, found = wanted[chunk], collections.Counter(), 0
            for line, cell, raw in self.source.read(self._place(chunk), cells):
                if seen[cell] in cells[cell]:
                    found += 1
                    yield cell, cells[cell][seen[cell]], line, self.source.fields(raw, line)
                seen[cell] += 1
            if found < sum(map(len, cells.values())):
                raise InputError(
                    f"{self.source.name} has changed since it was first read; leave it as it is, and start again."
                )

    def _place(self, chunk: int) -> tuple[int, ...]:
        return tuple(self._places[chunk].tolist())

    def rows(self, numbers: Mapping[Cell, np.ndarray]) -> Corpus | Table:
        """Returns rows by their numbers in their cells, in memory and in the order of the source."""
        picked = list(self.pick(numbers))
        if self._sentences:
            known = [int(self._sentences[cell][number]) for cell, number, _, _ in picked]
        elif any("sentence" in fields for *_, fields in picked):
            known = [int(fields["sentence"]) for *_, fields in picked]
        else:
            known = list(range(len(picked)))
        sentence = np.array(known, np.int64)
        if self.schema is LABELLED:
            return Corpus(
                name=self.name,
                labels=self.labels,
                language=np.array([cell.language for cell, *_ in picked], str),
                split=np.array([cell.split for cell, *_ in picked], str),
                label=np.array([self.labels.index(cell.label) for cell, *_ in picked], np.int32),
                text=tuple(fields["text"].strip() for *_, fields in picked),
                sentence=sentence,
            )
        fields = ((line, fields) for _, _, line, fields in picked)
        table = make_table(self.source.name, self.schema, fields, name=self.name, check_train=False, sentence=sentence)
        # What few rows say of each other is not what all say.
        return dataclasses.replace(table, sentence=sentence) if self._sentences else table
