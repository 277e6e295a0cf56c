"""Blocks of bytes for language modelling out of files larger than memory, by number and in any order."""

import io
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxmeta.core.checks import InputError, check_not_negative, check_positive
from jaxmeta.data.lines import Path, check_header, decode_line, open_file, read_header
from jaxmeta.data.sequences import previous, specials
from jaxmeta.data.tokenize import ByteTokenizer

_PIECE = 4096  # bytes that are read at once in search of the end of a line


class TextBatch(NamedTuple):
    """Blocks to learn from, and where to go on."""

    batch: dict  # inputs: previous [N, M]; targets [N, M], 0 for padding; bytes [N]
    position: int  # of the block after the last of these: start there to go on


class TextBlocks:
    """The blocks of some files; block `i` depends on `i` and the files alone.

    Block `i` is the text that stands in bytes `i * M` to `i * M + M - 1` of a file, with an end after each line. So no
    byte is lost or read twice, and blocks need no index. Of a tab-separated file only the column of text counts, and of
    its rows those of the languages and the split that are asked for; blocks are shorter by what is left out, and may
    be empty.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        length: int,
        *,
        column: str | None = None,
        languages: Collection[str] | None = None,
        split: str = "train",
        open_bytes: Callable[[Path], io.BufferedIOBase] = open_file,
    ):
        """Reads the first lines of the files.

        Args:
            paths: the files, UTF-8, one text per line.
            length: `M`, bytes in a block.
            column: the column of text of tab-separated files whose first line names their columns; plain text where it
                is None.
            languages: which rows count, by the column `language`; all by default.
            split: which rows count, where there is a column `split`.
            open_bytes: opens a file for reading bytes.

        Raises:
            InputError: a file is missing or empty, or lacks a column.
        """
        check_positive("length", length)
        if not paths:
            raise ValueError("`paths` must have at least one file, got none")
        if column is None and languages is not None:
            raise ValueError("`languages` must be None for plain text, which has no such column")
        self.paths, self.length, self.column = tuple(paths), length, column
        self.languages, self.split = None if languages is None else frozenset(languages), split
        self._open = open_bytes
        self._sizes, self._headers, self._first = [], [], []
        for path in self.paths:
            with self._open(path) as file:
                size = file.seek(0, os.SEEK_END)
                if not size:
                    raise InputError(f"{path} is empty; write at least one line of text into it.")
                header, first = [], 0
                if column is not None:
                    file.seek(0)
                    line = file.readline()
                    first = len(line)
                    text = decode_line(str(path), 1, line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\n"))
                    header = read_header(path, text)
                    check_header(path, header, (*(() if languages is None else ("language",)), column), ("split",))
            self._sizes.append(size)
            self._headers.append(header)
            self._first.append(first)
        counts = [-(-size // length) for size in self._sizes]
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns block `index` as tokens `[<= M]` int32: a byte `b` is `b + 1`, the end of a line that of a text."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        place = index - (int(self._ends[number - 1]) if number else 0)
        start = place * self.length
        stop = min(start + self.length, self._sizes[number])
        with self._open(self.paths[number]) as file:
            if self.column is None:
                file.seek(start)
                text = file.read(stop - start).replace(b"\r", b"")
                return _tokens(text if start else text.removeprefix(b"\xef\xbb\xbf"))
            return _tokens(self._column(file, number, start, stop))

    def _column(self, file: io.BufferedIOBase, number: int, start: int, stop: int) -> bytes:
        """Returns what the column of text has between two bytes of a file."""
        header, path = self._headers[number], self.paths[number]
        begin = max(_line_start(file, start), self._first[number])
        file.seek(begin)
        kept = []
        while begin < stop:
            line = file.readline()
            if not line:
                break
            fields = line.rstrip(b"\r\n").split(b"\t")
            if len(fields) != len(header):
                if line.strip():
                    raise InputError(
                        f"{path}, the line at byte {begin}: {len(fields)} fields where the header has {len(header)}; "
                        "separate fields by one TAB each."
                    )
            elif self._counts(dict(zip(header, fields, strict=True))):
                place = header.index(str(self.column))
                first = begin + sum(len(field) + 1 for field in fields[:place])
                text = fields[place] + b"\n"
                kept.append(text[max(start - first, 0) : max(stop - first, 0)])
            begin += len(line)
        return b"".join(kept)

    def _counts(self, row: dict[str, bytes]) -> bool:
        if row.get("split", self.split.encode()).strip() != self.split.encode():
            return False
        return self.languages is None or row["language"].strip().decode(errors="replace") in self.languages


def _line_start(file: io.BufferedIOBase, place: int) -> int:
    """Returns where the line begins that byte `place` is in."""
    while place > 0:
        before = max(place - _PIECE, 0)
        file.seek(before)
        found = file.read(place - before).rfind(b"\n")
        if found >= 0:
            return before + found + 1
        place = before
    return 0


def _tokens(text: bytes) -> np.ndarray:
    tokens = np.frombuffer(text, np.uint8).astype(np.int32) + 1
    return np.where(tokens == ord("\n") + 1, np.int32(specials(ByteTokenizer(1)).eos), tokens)


def text_batches(
    blocks: TextBlocks, *, batch_size: int, seed: int = 0, start: int = 0, threads: int = 2, buffer: int = 16
) -> Iterator[TextBatch]:
    """Yields batches of blocks without end, in another order each time around, from position `start` on.

    The order follows from `seed`, and a position from nothing else, so that starting at the position of one batch gives
    the batches after it.

    Args:
        blocks: where they come from; empty ones are left out.
        batch_size: `N`.
        seed: what the order depends on, below 2**32.
        start: the position of the first block.
        threads: how many read ahead; 0 reads each block when it is asked for.
        buffer: how many blocks to hold ready.

    Raises:
        InputError: all blocks are empty.
    """
    check_positive("batch_size", batch_size)
    check_not_negative("start", start)
    check_not_negative("threads", threads)
    import grain

    count, length = len(blocks), blocks.length
    numbers: Any = grain.MapDataset.range(count).seed(seed).shuffle().repeat()

    def read(position: int) -> tuple[int, np.ndarray]:
        return position, blocks[int(numbers[position])]

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer if threads else 0)
    # A range as long as anybody can wait: the whole of a `repeat` has no length that can be cut.
    iterator: Any = iter(grain.MapDataset.range(start, 2**62).map(read).to_iter_dataset(options))
    targets, filled, empty = np.zeros((batch_size, length), np.int32), 0, 0
    bos, eos, _ = specials(ByteTokenizer(length))
    try:
        for position, tokens in iterator:
            empty = 0 if len(tokens) else empty + 1
            if empty >= 2 * count:
                raise InputError(
                    f"There is no text for {blocks.split} in {', '.join(map(str, blocks.paths))}; name other languages "
                    "or another split."
                )
            if not len(tokens):
                continue
            targets[filled, : len(tokens)] = tokens
            filled += 1
            if filled == batch_size:
                read_bytes = ((targets > 0) & (targets != eos)).sum(1).astype(np.int32)
                batch = {"inputs": {"previous": previous(targets, bos)}, "targets": targets, "bytes": read_bytes}
                yield TextBatch(batch, int(position) + 1)
                targets, filled = np.zeros((batch_size, length), np.int32), 0
    finally:
        iterator.close()
