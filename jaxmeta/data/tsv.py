"""Labelled text from tab-separated files, with one clear sentence for whatever is wrong in them."""

import io
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxmeta.core.checks import InputError
from jaxmeta.data.corpus import SPLITS, Corpus

Path = str | os.PathLike[str]


class _Row(NamedTuple):
    line: int
    language: str
    split: str
    label: str
    text: str


def read_tsv(
    path: Path,
    *,
    name: str | None = None,
    labels: Sequence[str] | None = None,
    require_splits: bool = True,
    parallel: bool = False,
) -> Corpus:
    """Reads a file whose first line names the columns `language`, `split`, `label` and `text`, in any order.

    UTF-8, one row per line, fields separated by TAB and never quoted; other columns are left out.

    Args:
        path: the file.
        name: what to call the corpus; the file's name without its ending by default.
        labels: the labels there may be, in order; those of the file, sorted, by default.
        require_splits: ask for a `split` column and for train rows in every language; otherwise a file
            without the column is all train.
        parallel: row `k` of a split says the same in every language, so that these rows share a sentence
            number; then every language that has a split must have it in the same length and with the same
            labels.

    Raises:
        InputError: anything in the file is not so.
    """
    rows = list(_rows(path, ("language", "label", "text"), optional=("split",), need_split=require_splits))
    if require_splits:
        trained = {row.language for row in rows if row.split == "train"}
        for row in rows:
            if row.language not in trained:
                raise InputError(
                    f"{path}, line {row.line}: the language {row.language} has no train rows; mark some "
                    "of its rows as train, or remove the language."
                )
    corpus = _corpus(path, name, labels, rows)
    return _paralleled(path, corpus, rows) if parallel else corpus


def read_shots(
    path: Path,
    labels: Sequence[str] | None = None,
    *,
    name: str | None = None,
    language: str = "new",
) -> Corpus:
    """Reads the few labelled examples of one new language; all of them are train rows.

    Args:
        path: a file as for `read_tsv`, of which the columns `label` and `text` are enough.
        labels: the labels the model knows, in its order; those of the file, sorted, by default.
        name: what to call the corpus; the file's name without its ending by default.
        language: the code of the language where the file has no such column.

    Raises:
        InputError: the file is malformed, has a label that is not in `labels`, or more than one language.
    """
    rows = list(_rows(path, ("label", "text"), optional=("language",), language=language))
    for row in rows:
        if row.language != rows[0].language:
            raise InputError(
                f"{path}, line {row.line}: the language is {row.language} and was {rows[0].language} before; "
                "give each language a file of its own."
            )
    return _corpus(path, name, labels, rows)


def read_plain(path: Path | io.TextIOBase | io.BufferedIOBase) -> list[str]:
    """Reads one text per line from a file, from an open stream, or from standard input where `path` is "-".

    Raises:
        InputError: the source is missing, empty or not UTF-8, or a line is empty.
    """
    lines = list(_lines(path))
    for number, line in lines:
        if not line.strip():
            raise InputError(f"{_where(path)}, line {number}: the line is empty; remove it or write a text.")
    return [line.strip() for _, line in lines]


def _where(path: object) -> str:
    if isinstance(path, (str, os.PathLike)) and os.fspath(path) != "-":
        return os.fspath(path)
    return "standard input"


def _bytes(path: Path | io.TextIOBase | io.BufferedIOBase) -> bytes:
    if isinstance(path, io.TextIOBase):
        return path.read().encode("utf-8", "surrogateescape")
    if isinstance(path, io.BufferedIOBase):
        return path.read()
    if os.fspath(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; correct the path.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory; name a file in it.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}); correct the path or its permissions.") from None


def _lines(path: Path | io.TextIOBase | io.BufferedIOBase) -> list[tuple[int, str]]:
    """Returns the numbered lines. Only LF and CRLF end one: a text may hold U+2028 and the like."""
    where = _where(path)
    raw = _bytes(path)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{where}, line 1: the file is UTF-16; save it as UTF-8.")
    out = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if b"\0" in line:
            raise InputError(f"{where}, line {number}: there is a NUL byte, so this is not text; save it as UTF-8.")
        try:
            out.append((number, line.removesuffix(b"\r").decode("utf-8")))
        except UnicodeDecodeError as error:
            raise InputError(
                f"{where}, line {number}: byte {error.start + 1} of the line is not UTF-8; save it as UTF-8."
            ) from None
    while out and not out[-1][1].strip():
        out.pop()
    if not out:
        raise InputError(f"{where} is empty; write at least one line of text into it.")
    return out


def _rows(
    path: Path,
    required: tuple[str, ...],
    *,
    optional: tuple[str, ...],
    need_split: bool = False,
    language: str = "",
) -> Iterator[_Row]:
    lines = _lines(path)
    header = [column.strip() for column in lines[0][1].split("\t")]
    needed = (*required, "split") if need_split else required
    for column in needed:
        if column not in header:
            raise InputError(
                f"{path}, line 1: there is no column {column!r} among {', '.join(map(repr, header))}; the "
                f"first line must name the columns {', '.join(needed)}, separated by TAB."
            )
    for column in (*required, *optional):
        if header.count(column) > 1:
            raise InputError(f"{path}, line 1: the column {column!r} is there twice; rename or remove one.")
    if len(lines) == 1:
        raise InputError(f"{path} has a header and no rows; add rows under it.")
    for number, line in lines[1:]:
        fields = line.split("\t")
        if len(fields) != len(header):
            raise InputError(
                f"{path}, line {number}: {len(fields)} fields where the header has {len(header)}; separate "
                "fields by one TAB each, and replace TABs and line breaks inside a text by spaces."
            )
        values = {column: field.strip() for column, field in zip(header, fields, strict=True)}
        for column in (*required, *optional):
            if column in values and not values[column]:
                raise InputError(f"{path}, line {number}: the {column} is empty; fill it in or remove the line.")
        split = values.get("split", "train") if "split" in (*required, *optional) else "train"
        if split not in SPLITS:
            raise InputError(f"{path}, line {number}: the split is {split!r}; it must be one of {', '.join(SPLITS)}.")
        yield _Row(number, values.get("language", language), split, values["label"], values["text"])


def _corpus(path: Path, name: str | None, labels: Sequence[str] | None, rows: list[_Row]) -> Corpus:
    found = sorted({row.label for row in rows})
    known = tuple(found if labels is None else labels)
    numbers = {label: number for number, label in enumerate(known)}
    for row in rows:
        if row.label not in numbers:
            raise InputError(
                f"{path}, line {row.line}: the label {row.label!r} is unknown; it must be one of {', '.join(known)}."
            )
    if len(found) < 2:
        raise InputError(f"{path} has rows of one label only, {found[0]!r}; add rows of at least one other label.")
    return Corpus(
        name=name if name is not None else pathlib.Path(path).stem,
        labels=known,
        language=np.array([row.language for row in rows], str),
        split=np.array([row.split for row in rows], str),
        label=np.array([numbers[row.label] for row in rows], np.int32),
        text=tuple(row.text for row in rows),
        sentence=np.arange(len(rows), dtype=np.int64),
    )


def _paralleled(path: Path, corpus: Corpus, rows: list[_Row]) -> Corpus:
    sentence = corpus.sentence.copy()
    first_number = 0
    for split in SPLITS:
        cells = [(language, corpus.rows(language, split)) for language in corpus.languages()]
        cells = [(language, cell) for language, cell in cells if len(cell)]
        if not cells:
            continue
        model, expected = cells[0]
        for language, cell in cells:
            if len(cell) != len(expected):
                raise InputError(
                    f"{path} is not parallel: {language} has {len(cell)} {split} rows and {model} has "
                    f"{len(expected)}; give all languages the same sentences, or read it with parallel=False."
                )
            differing = np.flatnonzero(corpus.label[cell] != corpus.label[expected])
            if len(differing):
                here, there = rows[cell[differing[0]]], rows[expected[differing[0]]]
                raise InputError(
                    f"{path}, line {here.line}: not parallel, for the label is {here.label} in {language} "
                    f"and {there.label} in {model} (line {there.line}); put the rows of every language in "
                    "the same order, or read it with parallel=False."
                )
            sentence[cell] = first_number + np.arange(len(cell))
        first_number += len(expected)
    return Corpus(corpus.name, corpus.labels, corpus.language, corpus.split, corpus.label, corpus.text, sentence)
