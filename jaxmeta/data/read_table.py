"""Translations, pairs, questions, summaries and plain text from tab-separated files."""

import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxmeta.core.checks import InputError, check_one_of
from jaxmeta.data.corpus import SPLITS
from jaxmeta.data.lines import Path, check_pair, fixed_codes, read_fields, read_header, read_lines, where
from jaxmeta.data.table import SCHEMAS, Schema, Table, link_sentences
from jaxmeta.data.tsv import check_split, check_trained

_LARGEST = 1e30  # score, which is stored, squared and added up in 32 bits


class CheckedRow(NamedTuple):
    """A row whose fields are what their columns hold."""

    line: int
    language: str
    split: str
    values: dict[str, str]  # texts, and the codes of a pair of languages
    numbers: dict[str, float]


def read_table(
    path: Path,
    schema: str | None = None,
    *,
    name: str | None = None,
    require_splits: bool = True,
    parallel: bool = False,
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
) -> Table:
    """Reads a file whose first line names the columns of a schema, in any order; other columns are left out.

    UTF-8, one row per line, fields separated by TAB and never quoted. The schemas, beside `split`:

        translation          src_lang, tgt_lang, src, tgt
        retrieval            language, text, english
        question_answering   language, context, question, answer, answer_start (in code points)
        scored_pairs         language, first, second, score
        summaries            language, text, summary
        generation           language, text, line

    Args:
        path: the file.
        schema: the name of one of them; by default the one whose columns the file has.
        name: what to call the rows; the file's name without its ending by default.
        require_splits: ask for a `split` column and for train rows in every language; otherwise a file without the
            column is all train.
        parallel: row `k` of a split says the same in every language, so that these rows share a sentence number.
        columns: what a column of the schema is called in the file, where it is called otherwise.
        language: the language of all rows where the file has no column for it; of a pair, "SOURCE-TARGET".

    Raises:
        InputError: anything in the file is not so.
    """
    if schema is not None:
        check_one_of("schema", schema, tuple(SCHEMAS))
    columns = columns or {}
    if schema is None:
        found = find_schema(path, read_header(path, read_lines(path)[0][1]), columns, language)
    else:
        found = SCHEMAS[schema]
    called = {column: columns.get(column, column) for column in found.columns}
    check_pair(found.language, language)
    fixed = fixed_codes(found.language, language)
    optional = [*([] if require_splits else ["split"]), *fixed]
    if "line" in found.numbers and not require_splits:  # the place in a document is the place in the file
        optional.append("line")
    needed = [called[column] for column in found.columns if column not in optional]
    fields = read_fields(path, needed, optional=[called[column] for column in optional])
    renamed = (
        (line, {**fixed, "line": str(line), **{c: row[field] for c, field in called.items() if field in row}})
        for line, row in fields
    )
    name = name if name is not None else pathlib.Path(path).stem
    return make_table(path, found, renamed, name=name, check_train=require_splits, parallel=parallel)


def make_table(
    path: Path,
    schema: Schema,
    fields: Iterable[tuple[int, Mapping[str, str]]],
    *,
    name: str,
    check_train: bool = True,
    parallel: bool = False,
    sentence: np.ndarray | None = None,
) -> Table:
    """Returns the table of numbered rows of the columns of `schema`, wherever they come from.

    Args:
        path: where, for sentences on what is wrong.
        schema: what the columns hold.
        fields: the rows, each with its line.
        name: what to call the table.
        check_train: ask for train rows in every language.
        parallel: row `k` of a split says the same in every language.
        sentence: the sentence numbers `[N]`, where they are known.

    Raises:
        InputError: a field is not what its column holds.
    """
    rows = list(checked_rows(path, schema, fields))
    if check_train:
        check_trained(path, ((row.line, row.language, row.split) for row in rows))
    language, split = ([getattr(row, field) for row in rows] for field in ("language", "split"))
    texts = {column: tuple(row.values[column] for row in rows) for column in rows[0].values}
    numbers = {column: np.array([row.numbers[column] for row in rows], of) for column, of in schema.numbers.items()}
    if sentence is None:
        sentence = _places(path, language, split) if parallel else np.arange(len(rows), dtype=np.int64)
    return Table(
        name=name,
        schema=schema,
        language=np.array(language, str),
        split=np.array(split, str),
        columns={**texts, **numbers},
        sentence=link_sentences(schema, {**texts, "language": language}, sentence),
    )


def find_schema(path: object, header: Sequence[str], columns: Mapping[str, str], language: str | None = None) -> Schema:
    """Returns the schema whose columns, called as `columns` says, are all in `header`; the one that reads most of it.

    Args:
        path: where they are, for the sentence.
        header: the columns of the file.
        columns: what a column of a schema is called in it, where it is called otherwise.
        language: of all rows, as for `read_table`; then no column need say it.

    Raises:
        InputError: there is none.
    """
    have = {column: columns.get(column, column) for schema in SCHEMAS.values() for column in schema.columns}
    needed = {
        schema.name: {have[c] for c in schema.columns if c not in ("split", *fixed_codes(schema.language, language))}
        for schema in SCHEMAS.values()
    }
    fits = [schema for schema in SCHEMAS.values() if needed[schema.name] <= {*header}]
    if not fits:
        kinds = "; ".join(f"{s.name}: {', '.join(s.columns)}" for s in SCHEMAS.values())
        raise InputError(
            f"{where(path)}, line 1: the columns {', '.join(map(repr, header))} are those of no kind of data that is "
            f"known ({kinds}); name the columns so in the first line, separated by TAB."
        )
    return max(fits, key=lambda schema: sum(have[column] in header for column in schema.columns))


def checked_rows(path: Path, schema: Schema, fields: Iterable[tuple[int, Mapping[str, str]]]) -> Iterator[CheckedRow]:
    """Yields the numbered rows of the columns of `schema`; see `make_table`.

    Raises:
        InputError: a field is not what its column holds.
    """
    for line, raw in fields:
        values = {column: raw[column].strip() for column in (*schema.language, *schema.texts)}
        split = raw.get("split", "train").strip()
        check_split(path, line, split)
        language = "-".join(values[column] for column in schema.language)
        if len(schema.language) == 1:
            del values[schema.language[0]]
        elif len({values[column] for column in schema.language}) == 1:
            raise InputError(
                f"{where(path)}, line {line}: {' and '.join(schema.language)} are both {raw[schema.language[0]]}; "
                "a pair is of two languages, so correct one of them."
            )
        numbers = {column: _NUMBERS[column](where(path), line, raw) for column in schema.numbers}
        yield CheckedRow(line, language, split, values, numbers)


def _score(name: str, line: int, raw: Mapping[str, str]) -> float:
    try:
        score = float(raw["score"])
    except ValueError:
        score = math.nan
    if not abs(score) < _LARGEST:  # which NaN is not either
        raise InputError(
            f"{name}, line {line}: the score is {raw['score'].strip()!r}; it must be a number, and a smaller one than "
            f"{_LARGEST:g}, such as -0.5."
        )
    return score


def _whole(name: str, line: int, raw: Mapping[str, str], column: str) -> int:
    text = raw[column].strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 18:  # so many digits fit into 64 bits
        shown = text if len(text) < 40 else f"{text[:20]}..."
        raise InputError(
            f"{name}, line {line}: the {column} is {shown!r}; it must be a whole number, zero or more, of at most 18 "
            "digits."
        )
    return int(text)


def _answer_start(name: str, line: int, raw: Mapping[str, str]) -> int:
    """Returns where the answer starts in the context, both without spaces around them."""
    start, context, answer = _whole(name, line, raw, "answer_start"), raw["context"], raw["answer"]
    if not context.startswith(answer, start) or start >= len(context):
        place = context.find(answer)
        remedy = f"it is at {place}" if place >= 0 else "the context does not hold it"
        raise InputError(
            f"{name}, line {line}: the answer {answer.strip()!r} is not at answer_start {start} of the context, in "
            f"code points from 0 ({remedy}); correct one of them."
        )
    return start + (len(answer) - len(answer.lstrip())) - (len(context) - len(context.lstrip()))


_NUMBERS: dict[str, Callable[[str, int, Mapping[str, str]], float]] = {
    "score": _score,
    "line": lambda name, line, raw: _whole(name, line, raw, "line"),
    "answer_start": _answer_start,
}


def _places(path: Path, language: list[str], split: list[str]) -> np.ndarray:
    """Returns sentence numbers `[N]` by the place of each row among those of its language and split."""
    counts: dict[tuple[str, str], int] = {}
    places = []
    for cell in zip(language, split, strict=True):
        places.append((cell[1], counts.get(cell, 0)))
        counts[cell] = places[-1][1] + 1
    for part in SPLITS:
        sizes = {code: count for (code, of), count in counts.items() if of == part}
        if len(set(sizes.values())) > 1:
            few, many = (choose(sizes, key=lambda code: sizes[code]) for choose in (min, max))
            raise InputError(
                f"{where(path)} is not parallel: {few} has {sizes[few]} {part} rows and {many} has {sizes[many]}; give "
                "all languages the same sentences, or read it with parallel=False."
            )
    numbers = {place: number for number, place in enumerate(dict.fromkeys(places))}
    return np.array([numbers[place] for place in places], np.int64)
