"""Where rows that stay on disk are: chunks of tab-separated files, each read again by itself."""

import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from jaxmeta.core.checks import InputError, check_one_of, check_positive
from jaxmeta.data.lines import (
    Path,
    check_header,
    check_pair,
    decode_line,
    fixed_codes,
    open_file,
    read_header,
    split_fields,
)
from jaxmeta.data.table import LABELLED, SCHEMAS, Schema

STREAMED = {**SCHEMAS, LABELLED.name: LABELLED}  # kinds of rows that can stay on disk
Fields = dict[str, str]  # by the columns of a schema; "sentence" too, where rows come with a number of it


class Cell(NamedTuple):
    """What rows are drawn from: those of a language (or a pair), a split and, where there are labels, a label."""

    language: str
    split: str
    label: str = ""


class Chunk(NamedTuple):
    """Rows that lie together and are read at once."""

    path: Path  # of the file, for sentences on what is wrong
    place: tuple[int, ...]  # what its source finds it by, as many numbers for each chunk
    rows: list[tuple[int, Fields]]  # each with its line


class RowSource(Protocol):
    """Rows of a schema on disk. Several threads read at once."""

    name: Path  # where, for sentences on what is wrong
    schema: Schema
    labels: tuple[str, ...] | None  # all that there may be, in order, where that is known
    complete: bool  # whether every language must have train rows

    def scan(self) -> Iterator[Chunk]:
        """Yields all rows in their order; checks whatever is not a matter of what a column holds.

        Raises:
            InputError: something is missing, or not as it should be.
        """
        ...

    def read(self, place: tuple[int, ...], cells: Collection[Cell]) -> Iterator[tuple[int, Cell, Any]]:
        """Yields line, cell and raw content of the rows of some cells in a chunk that was scanned, in their order."""
        ...

    def fields(self, raw: Any, line: int) -> Fields:
        """Returns the fields of what `read` yields."""
        ...


def cell_of(schema: Schema, fields: Mapping[str, str]) -> Cell:
    """Returns whose a row is."""
    language = "-".join(fields[column].strip() for column in schema.language)
    return Cell(language, fields["split"].strip(), fields.get("label", "").strip())


class _Place(NamedTuple):
    """Whole lines of a file."""

    file: int
    start: int  # bytes
    stop: int
    line: int  # the number of the first one


class _Layout(NamedTuple):
    """What is where in the lines of a file."""

    header: list[str]
    columns: dict[str, int]  # the place of each column of the schema
    key: Callable[[list[bytes]], Any]  # what stands in the columns that say the cell
    cells: dict[Any, Cell]  # by what stands there


class TsvRows:
    """The rows of tab-separated files as for `read_table`, read as one (implements `RowSource`).

    Of plain text the line of a row is that of its file where there is no column for it.
    """

    complete = True
    labels: tuple[str, ...] | None = None

    def __init__(
        self,
        paths: Sequence[Path],
        schema: str,
        *,
        columns: Mapping[str, str] | None = None,
        language: str | None = None,
        chunk: int = 2**15,
    ):
        """Opens nothing yet.

        Args:
            paths: the files.
            schema: "classification" or one of `SCHEMAS`.
            columns: what a column of the schema is called in the files, where it is called otherwise.
            language: the language of all rows where a file has no column for it; of a pair, "SOURCE-TARGET".
            chunk: bytes that are read for a row, about.
        """
        check_positive("chunk", chunk)
        check_one_of("schema", schema, tuple(STREAMED))
        self.paths, self.schema, self.chunk, self.name = tuple(paths), STREAMED[schema], chunk, paths[0]
        self._called = {column: (columns or {}).get(column, column) for column in self.schema.columns}
        check_pair(self.schema.language, language)
        self._fixed = fixed_codes(self.schema.language, language)
        self._layouts: list[_Layout] = []

    def scan(self) -> Iterator[Chunk]:
        """Yields all rows in their order, a chunk at a time."""
        for file, path in enumerate(self.paths):
            first, start, end, rows = 0, 0, 0, []
            for at, stop, line, raw in self._lines(file):
                if rows and at - start >= self.chunk:
                    yield Chunk(path, _Place(file, start, end, first), rows)
                    rows = []
                if not rows:
                    first, start = line, at
                rows.append((line, self._checked(file, line, raw)))
                end = stop
            if not rows:
                raise InputError(f"{path} has a header and no rows; add rows under it.")
            yield Chunk(path, _Place(file, start, end, first), rows)

    def read(
        self, place: tuple[int, ...], cells: Collection[Cell]
    ) -> Iterator[tuple[int, Cell, tuple[int, list[bytes]]]]:
        """Yields line, cell and raw content of the rows of some cells in a chunk, in their order."""
        at = _Place(*place)
        layout = self._layouts[at.file]
        wanted = {key: cell for key, cell in layout.cells.items() if cell in cells}
        with open_file(self.paths[at.file]) as file:
            file.seek(at.start)
            lines = file.read(at.stop - at.start).split(b"\n")
        for line, raw in enumerate(lines, start=at.line):
            values = raw.removesuffix(b"\r").split(b"\t")  # they were checked before
            if len(values) == len(layout.header) and (cell := wanted.get(layout.key(values))):
                yield line, cell, (at.file, values)

    def fields(self, raw: tuple[int, list[bytes]], line: int) -> Fields:
        """Returns the fields of what `read` yields."""
        file, values = raw
        columns = self._layouts[file].columns
        found = {column: values[place].decode("utf-8", "replace") for column, place in columns.items()}
        return {**self._fixed, "line": str(line), **found}

    def _lines(self, number: int) -> Iterator[tuple[int, int, int, bytes]]:
        """Yields where each row of a file begins and ends, its line and its bytes; reads the header."""
        path, blank = self.paths[number], 0
        with open_file(path) as file:
            head = file.readline()
            if not head.strip():
                raise InputError(f"{path} is empty; write at least one line of text into it.")
            header = read_header(path, decode_line(str(path), 1, head.removeprefix(b"\xef\xbb\xbf").rstrip(b"\n")))
            left_out = (*self._fixed, *(("line",) if "line" in self.schema.numbers else ()))
            needed = [called for column, called in self._called.items() if column not in left_out]
            check_header(path, header, needed, [self._called[column] for column in left_out])
            columns = {column: header.index(name) for column, name in self._called.items() if name in header}
            says = [columns[c] for c in (*self.schema.language, "split", "label") if c in columns]
            self._layouts[number:] = [_Layout(header, columns, operator.itemgetter(*says), {})]
            place = len(head)
            for line, raw in enumerate(file, start=2):
                end = place + len(raw)
                if raw.strip():
                    if blank:  # only the last lines may be blank
                        split_fields(path, blank, "", header, ())
                    yield place, end, line, raw
                else:
                    blank = blank or line
                place = end

    def _checked(self, file: int, line: int, raw: bytes) -> Fields:
        """Returns the fields of a line, and remembers how its cell is written."""
        path, layout, raw = self.paths[file], self._layouts[file], raw.removesuffix(b"\n").removesuffix(b"\r")
        names = {column: self._called[column] for column in layout.columns}
        values = split_fields(path, line, decode_line(str(path), line, raw), layout.header, tuple(names.values()))
        fields = {**self._fixed, "line": str(line), **{column: values[name] for column, name in names.items()}}
        key = layout.key(raw.split(b"\t"))
        if key not in layout.cells:
            layout.cells[key] = cell_of(self.schema, fields)
        return fields
