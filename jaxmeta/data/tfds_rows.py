"""Rows that stay in a prepared set of tensorflow-datasets, whose examples are read by number."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from jaxmeta.core.checks import InputError, check_one_of, check_positive
from jaxmeta.data.lines import Path
from jaxmeta.data.row_files import STREAMED, Cell, Chunk, Fields, cell_of
from jaxmeta.data.tfds_builders import NUMBERED, choose_set
from jaxmeta.data.tfds_sets import intact, open_split, texts_of


class _Place(NamedTuple):
    """Examples of a split, by number."""

    split: int  # its number among those that are read
    start: int
    stop: int
    line: int  # the number of the first one among those of all splits, from 1 up


class TfdsRows:
    """The rows of a prepared set of text as for `read_tfds`, split by split (implements `RowSource`)."""

    complete = False

    def __init__(
        self,
        source: Path,
        schema: str,
        *,
        columns: Mapping[str, str] | None = None,
        language: str | None = None,
        splits: Mapping[str, str] | None = None,
        data_dir: Path | None = None,
        chunk: int = 8,
    ):
        """Opens the set.

        Args:
            source: its folder, or its name in `data_dir`.
            schema: "classification" or one of `SCHEMAS`.
            columns: as for `read_tfds`.
            language: as for `read_tfds`.
            splits: as for `read_tfds`.
            data_dir: as for `read_tfds`.
            chunk: examples that are read for a row.

        Raises:
            InputError: there is no such set, it needs TensorFlow, or it lacks a column.
        """
        check_positive("chunk", chunk)
        check_one_of("schema", schema, tuple(STREAMED))
        self._set = choose_set(source, columns or {}, schema, language, splits, data_dir)
        self.name, self.schema, self.chunk, self.title = source, STREAMED[schema], chunk, self._set.builder.name
        names = getattr(self._set.feature("label"), "names", None) if schema == "classification" else None
        self.labels: tuple[str, ...] | None = tuple(names) if names else None
        self._numbered = NUMBERED if set(NUMBERED) <= set(self._set.features) else ()
        self._stored: dict[str, Any] = {}

    def scan(self) -> Iterator[Chunk]:
        """Yields all rows in their order, a chunk at a time."""
        line = 1
        for number, split in enumerate(self._set.parts):
            self._stored[split] = open_split(self._set, split)
            count = len(self._stored[split])
            for start in range(0, count, self.chunk):
                place = _Place(number, start, min(start + self.chunk, count), line)
                rows = list(self._rows(place))
                line += len(rows)
                yield Chunk(self.name, place, rows)
        if line == 1:
            raise InputError(f"{self.name} has no examples in {', '.join(self._set.parts)}; name other splits.")

    def read(self, place: tuple[int, ...], cells: Collection[Cell]) -> Iterator[tuple[int, Cell, Fields]]:
        """Yields line, cell and fields of the rows of some cells in a chunk, in their order."""
        for line, fields in self._rows(_Place(*place)):
            cell = cell_of(self.schema, fields)
            if cell in cells:
                yield line, cell, fields

    def fields(self, raw: Fields, line: int) -> Fields:
        """Returns the fields of what `read` yields."""
        del line
        return raw

    def _rows(self, place: _Place) -> Iterator[tuple[int, Fields]]:
        split, part = list(self._set.parts.items())[place.split]
        found = self._stored[split]
        with intact(self._set.source):
            examples = found.__getitems__(range(place.start, place.stop))
        for line, example in enumerate(examples, start=place.line):
            texts = texts_of(self._set, line, example, self._set.wanted)
            numbers = {name: str(int(example[name])) for name in self._numbered}
            yield line, {**self._set.fixed, "line": str(line), **texts, **numbers, "split": part}
