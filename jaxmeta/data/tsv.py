"""Labelled text from tab-separated files, with one clear sentence for whatever is wrong in them."""

import os
import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxmeta.core.checks import InputError
from jaxmeta.data.corpus import SPLITS, Corpus
from jaxmeta.data.lines import Path, Source, fixed_codes, read_fields, read_lines, where

COLUMNS = ("language", "split", "label", "text")


class _Row(NamedTuple):
    path: Path
    line: int
    language: str
    split: str
    label: str
    text: str


def read_tsv(
    path: Path | Sequence[Path],
    *,
    name: str | None = None,
    labels: Sequence[str] | None = None,
    require_splits: bool = True,
    parallel: bool = False,
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
    languages: Collection[str] = (),
    unaligned: Collection[str] = (),
) -> Corpus:
    """Reads a file whose first line names the columns `language`, `split`, `label` and `text`, in any order.

    UTF-8, one row per line, fields separated by TAB and never quoted; other columns are left out.

    Args:
        path: the file, or several that are read as one.
        name: what to call the corpus; the (first) file's name without its ending by default.
        labels: the labels there may be, in order; those of the file, sorted, by default.
        require_splits: ask for a `split` column and for train rows in every language; otherwise a file
            without the column is all train.
        parallel: row `k` of a split says the same in every language, so that these rows share a sentence
            number; then every language that has a split must have it in the same length and with the same
            labels.
        columns: what one of the four columns is called in the file, where it is called otherwise.
        language: the language of all rows where the file has no column for it.
        languages: those to keep, if the file has them all; every one by default.
        unaligned: languages that are not parallel to the others, whose rows have sentence numbers of their own.

    Raises:
        InputError: anything in the file is not so.
    """
    optional = [*fixed_codes(("language",), language), *(() if require_splits else ("split",))]
    called = {column: (columns or {}).get(column, column) for column in COLUMNS}
    needed = [called[column] for column in COLUMNS if column not in optional]
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    files = [
        list(_rows(file, _renamed(read_fields(file, needed, optional=[called[c] for c in optional]), called), language))
        for file in paths
    ]
    rows = [row for file in files for row in file]
    if require_splits:
        trained = {row.language for row in rows if row.split == "train"}
        for file, found in zip(paths, files, strict=True):
            check_trained(file, ((row.line, row.language, row.split) for row in found), trained)
    if languages and set(languages) <= {row.language for row in rows}:
        rows = [row for row in rows if row.language in languages]
    corpus = _corpus(paths[0], name, labels, rows)
    return _paralleled(corpus, rows, unaligned) if parallel else corpus


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
    rows = list(_rows(path, read_fields(path, ("label", "text"), optional=("language",)), language))
    for row in rows:
        if row.language != rows[0].language:
            raise InputError(
                f"{path}, line {row.line}: the language is {row.language} and was {rows[0].language} before; "
                "give each language a file of its own."
            )
    return _corpus(path, name, labels, rows)


def read_unlabelled(path: Path) -> list[str]:
    """Reads texts of one new language out of a file that needs no column but `text`; no other is read.

    Raises:
        InputError: the file is malformed.
    """
    return [fields["text"].strip() for _, fields in read_fields(path, ("text",))]


def read_plain(path: Source) -> list[str]:
    """Reads one text per line from a file, from an open stream, or from standard input where `path` is "-".

    Raises:
        InputError: the source is missing, empty or not UTF-8, or a line is empty.
    """
    lines = read_lines(path)
    for number, line in lines:
        if not line.strip():
            raise InputError(f"{where(path)}, line {number}: the line is empty; remove it or write a text.")
    return [line.strip() for _, line in lines]


def check_split(path: object, line: int, split: str) -> None:
    """Raises `InputError` unless `split` is train, dev or test."""
    if split not in SPLITS:
        raise InputError(f"{path}, line {line}: the split is {split!r}; it must be one of {', '.join(SPLITS)}.")


def check_trained(path: object, rows: Iterable[tuple[int, str, str]], trained: Collection[str] = ()) -> None:
    """Raises `InputError` unless the language of each `(line, language, split)` has train rows, or is in `trained`."""
    rows = list(rows)
    trained = {*trained, *(language for _, language, split in rows if split == "train")}
    for line, language, _ in rows:
        if language not in trained:
            raise InputError(
                f"{path}, line {line}: the language {language} has no train rows; mark some "
                "of its rows as train, or remove the language."
            )


def check_labels(path: object, found: Collection[str]) -> None:
    """Raises `InputError` unless there are two labels at least."""
    if len(found) < 2:
        raise InputError(f"{path} has rows of one label only, {min(found)!r}; add rows of at least one other label.")


def make_corpus(
    where: Path, fields: Iterable[tuple[int, dict[str, str]]], *, name: str | None, labels: Sequence[str] | None
) -> Corpus:
    """Returns the corpus of numbered rows of the columns `language`, `split`, `label` and `text`.

    Raises:
        InputError: a split or a label is unknown, or there is one label only.
    """
    return _corpus(where, name, labels, list(_rows(where, fields)))


def _renamed(
    rows: Iterable[tuple[int, dict[str, str]]], called: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, str]]]:
    for number, fields in rows:
        yield number, {column: fields[field] for column, field in called.items() if field in fields}


def _rows(path: Path, rows: Iterable[tuple[int, dict[str, str]]], language: str | None = None) -> Iterator[_Row]:
    for number, fields in rows:
        values = {column: field.strip() for column, field in fields.items()}
        split = values.get("split", "train")
        check_split(path, number, split)
        yield _Row(path, number, values.get("language", language or ""), split, values["label"], values["text"])


def _corpus(path: Path, name: str | None, labels: Sequence[str] | None, rows: list[_Row]) -> Corpus:
    found = sorted({row.label for row in rows})
    known = tuple(found if labels is None else labels)
    numbers = {label: number for number, label in enumerate(known)}
    for row in rows:
        if row.label not in numbers:
            raise InputError(
                f"{row.path}, line {row.line}: the label {row.label!r} is unknown; "
                f"it must be one of {', '.join(known)}."
            )
    check_labels(path, found)
    return Corpus(
        name=name if name is not None else pathlib.Path(path).stem,
        labels=known,
        language=np.array([row.language for row in rows], str),
        split=np.array([row.split for row in rows], str),
        label=np.array([numbers[row.label] for row in rows], np.int32),
        text=tuple(row.text for row in rows),
        sentence=np.arange(len(rows), dtype=np.int64),
    )


def _paralleled(corpus: Corpus, rows: list[_Row], unaligned: Collection[str]) -> Corpus:
    sentence = corpus.sentence + len(rows)  # beyond the numbers that are shared
    first_number = 0
    aligned = [language for language in corpus.languages() if language not in unaligned]
    for split in SPLITS:
        cells = [(language, corpus.rows(language, split)) for language in aligned]
        cells = [(language, cell) for language, cell in cells if len(cell)]
        if not cells:
            continue
        model, expected = cells[0]
        for language, cell in cells:
            if len(cell) != len(expected):
                raise InputError(
                    f"{rows[cell[0]].path} is not parallel: {language} has {len(cell)} {split} rows and {model} has "
                    f"{len(expected)}; give all languages the same sentences, or read it with parallel=False."
                )
            differing = np.flatnonzero(corpus.label[cell] != corpus.label[expected])
            if len(differing):
                here, there = rows[cell[differing[0]]], rows[expected[differing[0]]]
                raise InputError(
                    f"{here.path}, line {here.line}: not parallel, for the label is {here.label} in {language} "
                    f"and {there.label} in {model} (line {there.line}); put the rows of every language in "
                    "the same order, or read it with parallel=False."
                )
            sentence[cell] = first_number + np.arange(len(cell))
        first_number += len(expected)
    return Corpus(corpus.name, corpus.labels, corpus.language, corpus.split, corpus.label, corpus.text, sentence)
