"""Rows of plain text out of files larger than memory: how many each language has, and any of them by its number."""

import collections
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from jaxmeta.core.checks import InputError, check_not_negative, check_one_of, check_positive
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data.few_shot import support_share
from jaxmeta.data.lines import Path, check_header, decode_line, fixed_codes, open_file, read_header, split_fields
from jaxmeta.data.read_table import make_table
from jaxmeta.data.sequences import count_bytes, ended, previous, specials, with_length
from jaxmeta.data.streams import stream
from jaxmeta.data.table import SCHEMAS, Table, normalised
from jaxmeta.data.tokenize import Tokenizer
from jaxmeta.data.tsv import check_split, check_trained
from jaxmeta.data.weighting import Weighting

Cell = tuple[str, str]  # a language and a split
COLUMNS = ("language", "split", "text")  # the line of a row is that of its file
_SCHEMA = SCHEMAS["generation"]


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Whole lines of a file."""

    file: int
    start: int  # bytes
    stop: int
    line: int  # the number of the first one


class StreamedRows:
    """The rows of some files with the columns `language`, `split` and `text`, which stay on disk.

    All that is held in memory is how many rows of each language and split every chunk of a file has. A row is read by
    reading the chunk that it is in, whether the file is sorted by language or not.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        columns: Mapping[str, str] | None = None,
        language: str | None = None,
        chunk: int = 2**16,
    ):
        """Reads the files once, and checks every line.

        Args:
            paths: tab-separated files as for `read_table`; other columns are left out.
            columns: what one of the three columns is called in the files, where it is called otherwise.
            language: the language of all rows where a file has no column for it.
            chunk: bytes that are read for a row, about.

        Raises:
            InputError: a file is missing, or anything in it is not as it should be.
        """
        check_positive("chunk", chunk)
        self.paths, self._called = tuple(paths), {c: (columns or {}).get(c, c) for c in COLUMNS}
        self._fixed = fixed_codes(_SCHEMA.language, language)
        self._headers: list[list[str]] = []
        self._chunks: list[_Chunk] = []
        found: dict[Cell, list[tuple[int, int]]] = collections.defaultdict(list)
        first: dict[Cell, tuple[Path, int]] = {}
        for number, path in enumerate(self.paths):
            counts: collections.Counter[Cell] = collections.Counter()
            begun, stop = None, 0
            for start, stop, line, raw in self._lines(number):  # noqa: B007
                if begun is None or start - begun.start >= chunk:
                    self._close(begun, start, counts, found)
                    begun = _Chunk(number, start, start, line)
                cell = self._cell(number, line, raw)
                counts[cell] += 1
                first.setdefault(cell, (path, line))
            if begun is None:
                raise InputError(f"{path} has a header and no rows; add rows under it.")
            self._close(begun, stop, counts, found)
        # Of each cell the chunks that have rows of it, and how many rows are before each.
        self._where = {cell: np.array([chunk for chunk, _ in of], np.int64) for cell, of in found.items()}
        self._before = {
            cell: np.concatenate([[0], np.cumsum([count for _, count in of])]) for cell, of in found.items()
        }
        trained = {language for language, split in found if split == "train"}
        for (language, split), (path, line) in first.items():
            check_trained(path, [(line, language, split)], trained)

    def languages(self) -> tuple[str, ...]:
        """Returns the codes of all languages, sorted."""
        return tuple(sorted({language for language, _ in self._where}))

    def count(self, language: str, split: str) -> int:
        """Returns how many rows a language's split has."""
        before = self._before.get((language, split))
        return 0 if before is None else int(before[-1])

    def __len__(self) -> int:
        return sum(int(before[-1]) for before in self._before.values())

    def text(self, language: str, split: str, number: int) -> str:
        """Returns the text of row `number` of a language's split."""
        cell, before = (language, split), self._before[language, split]
        place = int(np.searchsorted(before, number, side="right")) - 1
        texts = [text for _, _, text in self._rows(int(self._where[cell][place]), {cell})]
        if number - int(before[place]) >= len(texts):
            path = self.paths[self._chunks[int(self._where[cell][place])].file]
            raise InputError(f"{path} has changed since it was first read; leave it as it is, and start again.")
        return texts[number - int(before[place])]

    def table(self, name: str, cells: Collection[Cell], sample: Mapping[Cell, np.ndarray]) -> Table:
        """Returns all rows of some cells, and the rows of the given numbers of others, in memory and in their order."""
        wanted = {*cells, *sample}
        chunks = sorted({int(chunk) for cell in wanted for chunk in self._where.get(cell, ())})
        keep = {cell: set(numbers.tolist()) for cell, numbers in sample.items()}
        seen: collections.Counter[Cell] = collections.Counter()
        rows = []
        for chunk in chunks:
            for line, cell, text in self._rows(chunk, wanted):
                if cell in cells or seen[cell] in keep[cell]:
                    language, split = cell
                    rows.append((line, {"language": language, "split": split, "text": text, "line": str(line)}))
                seen[cell] += 1
        return make_table(self.paths[0], _SCHEMA, rows, name=name, check_train=False)

    def texts(self, cells: Collection[Cell]) -> list[str]:
        """Returns the texts of all rows of some cells, in their order."""
        chunks = sorted({int(chunk) for cell in cells for chunk in self._where.get(cell, ())})
        return [text for chunk in chunks for _, _, text in self._rows(chunk, set(cells))]

    def equal_rows(self, cells: Collection[Cell], texts: Collection[str]) -> dict[Cell, np.ndarray]:
        """Returns the numbers of the rows of some cells whose text is, but for case and spaces, one of `texts`."""
        wanted, same = set(cells), {normalised(text) for text in texts}
        seen: collections.Counter[Cell] = collections.Counter()
        found: dict[Cell, list[int]] = {cell: [] for cell in cells}
        for chunk in range(len(self._chunks)):
            for _, cell, text in self._rows(chunk, wanted):
                if normalised(text) in same:
                    found[cell].append(seen[cell])
                seen[cell] += 1
        return {cell: np.array(numbers, np.int64) for cell, numbers in found.items()}

    def _close(self, chunk: _Chunk | None, stop: int, counts: collections.Counter[Cell], found) -> None:
        if chunk is None:
            return
        for cell, count in counts.items():
            found[cell].append((len(self._chunks), count))
        self._chunks.append(dataclasses.replace(chunk, stop=stop))
        counts.clear()

    def _lines(self, number: int) -> Iterator[tuple[int, int, int, bytes]]:
        """Yields where each row of a file begins and ends, its line and its bytes; reads the header."""
        path, blank = self.paths[number], 0
        with open_file(path) as file:
            head = file.readline()
            if not head.strip():
                raise InputError(f"{path} is empty; write at least one line of text into it.")
            header = read_header(path, decode_line(str(path), 1, head.removeprefix(b"\xef\xbb\xbf").rstrip(b"\n")))
            optional = [self._called[column] for column in self._fixed]
            check_header(path, header, [c for c in self._called.values() if c not in optional], optional)
            self._headers.append(header)
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

    def _cell(self, file: int, line: int, raw: bytes) -> Cell:
        """Returns whose a row is, once all of it was checked."""
        header, path = self._headers[file], self.paths[file]
        read = [column for column in self._called.values() if column in header]
        values = split_fields(path, line, decode_line(str(path), line, raw.rstrip(b"\n")), header, read)
        fields = {**self._fixed, **{c: values[name].strip() for c, name in self._called.items() if name in values}}
        check_split(path, line, fields["split"])
        return fields["language"], fields["split"]

    def _rows(self, number: int, cells: set[Cell]) -> Iterator[tuple[int, Cell, str]]:
        """Yields the line, the cell and the text of the rows of some cells in a chunk."""
        chunk = self._chunks[number]
        header = self._headers[chunk.file]
        places = {c: header.index(name) for c, name in self._called.items() if name in header}
        fixed = self._fixed.get("language", "").encode()
        wanted = {(language.encode(), split.encode()): (language, split) for language, split in cells}
        with open_file(self.paths[chunk.file]) as file:
            file.seek(chunk.start)
            lines = file.read(chunk.stop - chunk.start).split(b"\n")
        for line, raw in enumerate(lines, start=chunk.line):
            fields = raw.split(b"\t")  # they were checked before
            if len(fields) != len(header):
                continue
            language = fields[places["language"]].strip() if "language" in places else fixed
            if cell := wanted.get((language, fields[places["split"]].strip())):
                yield line, cell, fields[places["text"]].decode("utf-8", "replace").strip()


class StreamEpisodes:
    """A `TaskDistribution` of the train rows of some languages, read as they are drawn, pure in `(seed, index)`.

    Batches are those of `PairEpisodes` for plain text. An episode is of one language; its rows are different ones.
    """

    def __init__(
        self,
        rows: StreamedRows,
        tokenizer: Tokenizer,
        languages: Sequence[str],
        *,
        shots: int,
        queries: int,
        weighting: Weighting,
        target_length: int | None = None,
        left_out: Mapping[str, np.ndarray] | None = None,
        seed: int = 0,
    ):
        """Counts the rows.

        Args:
            rows: where they come from.
            tokenizer: what turns them into tokens.
            languages: whose train rows are drawn.
            shots: support examples.
            queries: query examples.
            weighting: how often each language is drawn, by its number of train rows.
            target_length: tokens of a text; as many as the tokenizer's rows have by default.
            left_out: numbers of train rows that are not drawn, ascending, by language.
            seed: what every draw depends on.

        Raises:
            InputError: a language has no rows to draw.
        """
        self.rows, self.languages, self.shots, self.queries, self.seed = rows, tuple(languages), shots, queries, seed
        self._tokenizer = with_length(tokenizer, target_length or tokenizer.length)
        out = left_out or {}
        self._left_out = {language: out.get(language, np.zeros(0, np.int64)) for language in self.languages}
        self._counts = {code: rows.count(code, "train") - len(out) for code, out in self._left_out.items()}
        for language, count in self._counts.items():
            if count < 1:
                raise InputError(f"The train language {language} has no train rows; add some, or leave it out.")
        self.weights = weighting(np.array([*self._counts.values()], np.float64))

    def __call__(self, index: int, *, split: str = "train") -> Episode:
        """Returns the `index`-th episode."""
        check_not_negative("index", index)
        check_one_of("split", split, ("train",))
        generator = stream(self.seed, "streamed episode", index=index)
        language = self.languages[int(generator.choice(len(self.languages), p=self.weights))]
        count = self._counts[language]
        drawn = generator.choice(count, min(count, self.shots + self.queries), replace=False)
        numbers = numbers_without(self._left_out[language], drawn)
        shots = support_share(count, self.shots, self.queries)
        return Episode(
            self._batch(language, numbers[:shots], self.shots), self._batch(language, numbers[shots:], self.queries)
        )

    def _batch(self, language: str, numbers: np.ndarray, places: int) -> Batch:
        texts = [self.rows.text(language, "train", int(number)) for number in numbers]
        mask = np.arange(places) < len(texts)
        if not texts:  # a language of a single row, which is in the support: nothing is judged
            texts = [
                self.rows.text(
                    language, "train", int(numbers_without(self._left_out[language], np.zeros(1, np.int64))[0])
                )
            ]
        texts += texts[:1] * (places - len(texts))
        targets = ended(self._tokenizer, texts)
        before = previous(targets, specials(self._tokenizer).bos)
        return {
            "targets": targets,
            "bytes": count_bytes(self._tokenizer, texts),
            "inputs": {"previous": before},
            "mask": mask,
        }


def numbers_without(left_out: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Returns the numbers of the `drawn`-th rows of those that are not in `left_out`, which is ascending."""
    # How many are left out before each of them: so far must the numbers behind it be moved.
    return drawn + np.searchsorted(left_out - np.arange(len(left_out)), drawn, side="right")
