"""Pairs of texts, questions with answers and plain text in many languages: rows of a schema, as parallel columns."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from jaxmeta.core.checks import InputError
from jaxmeta.data.corpus import Rows


class Schema(NamedTuple):
    """What the columns of one kind of data are called, and what they hold.

    Attributes:
        name: what to call it.
        language: the column of the language, or the two columns of a pair of languages.
        texts: the columns of text.
        numbers: the columns of numbers, with their dtype: int64 or float32.
        sides: which text identifies a sentence: the column with what its language is called, the column that holds it
            or a code. Two rows that have a side in common say the same thing.
    """

    name: str
    language: tuple[str, ...]
    texts: tuple[str, ...]
    numbers: Mapping[str, type]
    sides: Mapping[str, str]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, `split` included, as a file has them."""
        return (*self.language, "split", *self.texts, *self.numbers)


SCHEMAS = {
    schema.name: schema
    for schema in (
        Schema("translation", ("src_lang", "tgt_lang"), ("src", "tgt"), {}, {"src": "src_lang", "tgt": "tgt_lang"}),
        Schema("retrieval", ("language",), ("text", "english"), {}, {"text": "language", "english": "eng"}),
        Schema(
            "question_answering",
            ("language",),
            ("context", "question", "answer"),
            {"answer_start": np.int64},
            {"context": "language"},
        ),
        # Either side may be in either language, so that they are told apart by their text alone.
        Schema("scored_pairs", ("language",), ("first", "second"), {"score": np.float32}, {"first": "", "second": ""}),
        Schema("summaries", ("language",), ("text", "summary"), {}, {"text": "language"}),
        Schema("generation", ("language",), ("text",), {"line": np.int64}, {"text": "language"}),
    )
}

# Labelled text, whose rows are held as a `Corpus`.
LABELLED = Schema("classification", ("language",), ("label", "text"), {}, {"text": "language"})


@dataclasses.dataclass(frozen=True, eq=False)
class Table(Rows):
    """Rows of one schema; `N` rows.

    Attributes:
        name: what to call it in reports.
        schema: what its columns hold.
        language: `[N]` str, the code of each row's language; of a pair of languages, "SOURCE-TARGET".
        split: `[N]` str, "train", "dev" or "test".
        columns: by name, `N` strings or numbers `[N]`; the columns of languages are among them where there are two.
        sentence: `[N]` int64; rows with the same number say the same thing.
    """

    name: str
    schema: Schema
    language: np.ndarray
    split: np.ndarray
    columns: dict[str, tuple[str, ...] | np.ndarray]
    sentence: np.ndarray
    per_row: ClassVar[tuple[str, ...]] = ("columns",)

    def __post_init__(self):
        self._check(len(self.language))
        for column in (*self.schema.texts, *self.schema.numbers):
            if column not in self.columns:
                raise ValueError(f"`columns` must have {column!r} for {self.schema.name}, got {sorted(self.columns)}")
        for column, values in self.columns.items():
            if len(values) != len(self.language):
                raise ValueError(f"`columns` must have {len(self.language)} rows each, got {len(values)} of {column!r}")

    def texts(self, column: str, rows: np.ndarray | None = None) -> list[str]:
        """Returns the texts of a column, of all rows by default."""
        values = self.columns[column]
        return [str(value) for value in values] if rows is None else [str(values[row]) for row in rows]

    def numbers(self, column: str) -> np.ndarray:
        """Returns the numbers of a column `[N]`."""
        return np.asarray(self.columns[column])

    def texts_of(self, row: int) -> tuple[str, ...]:
        """Returns the texts that identify a row: both sides of a pair, the context of a question."""
        return tuple(str(self.columns[column][row]) for column in self.schema.sides)

    def codes(self, language: str) -> tuple[str, ...]:
        """Returns the codes of the languages of a pair, or of a language its own."""
        return self._codes.get(language, (language,))

    @functools.cached_property
    def _codes(self) -> dict[str, tuple[str, ...]]:
        if len(self.schema.language) == 1:
            return {}
        first = np.unique(self.language, return_index=True)
        codes = [tuple(str(self.columns[column][row]) for column in self.schema.language) for row in first[1]]
        return dict(zip(first[0].tolist(), codes, strict=True))


def translated_from(table: Table, language: str) -> Table:
    """Returns pairs whose source is another language, of rows that pair the same texts with many languages.

    A row "SOURCE-TARGET" becomes "LANGUAGE-TARGET", with what the row of the same split and source says in `language`.
    Where there is none the row is left out, as are the rows of `language` itself.

    Args:
        table: translations.
        language: the code of a target language of `table`.

    Raises:
        InputError: no other language has a text in common with that.
    """
    columns = {column: np.asarray(values, object) for column, values in table.columns.items()}
    pivots, keys = columns["tgt_lang"] == language, list(zip(table.split.tolist(), columns["src"], strict=True))
    says = {keys[row]: columns["tgt"][row] for row in np.flatnonzero(pivots)}
    kept = np.array([row for row in np.flatnonzero(~pivots) if keys[row] in says], np.int64)
    if not len(kept):
        known = ", ".join(sorted(set(columns["tgt_lang"])))
        raise InputError(
            f"No pair of {table.name} can be translated from {language!r}; name one of its languages ({known}) whose "
            "source texts others share."
        )
    found = table.take(kept)
    texts = {"src_lang": (language,) * len(kept), "src": tuple(says[keys[row]] for row in kept)}
    names = np.array([f"{language}-{target}" for target in columns["tgt_lang"][kept]], str)
    return dataclasses.replace(found, language=names, columns={**found.columns, **texts})


def normalised(text: str) -> str:
    """Returns a text without what may differ between two copies of it: case and spaces."""
    return " ".join(text.casefold().split())


def link_sentences(schema: Schema, columns: Mapping[str, Sequence[str]], sentence: np.ndarray) -> np.ndarray:
    """Returns sentence numbers `[N]`, 0, 1, ... by first row: equal for rows that are linked by any number of steps.

    A step links two rows of one `sentence` number, or two with the same text in the same language. So rows of English
    with many languages are one sentence for each English text, and two English texts with the same translation are one.

    Args:
        schema: says by which texts.
        columns: the columns, `N` entries each, those of languages included.
        sentence: numbers `[N]` that are known already; all different where none are.
    """
    parent = list(range(len(sentence)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[object, int] = {}
    known = sentence.tolist()
    sides = [(columns[text], columns.get(language), language) for text, language in schema.sides.items()]
    for row in range(len(parent)):
        keys: list[object] = [known[row]]
        keys += [(codes[row] if codes is not None else constant, normalised(t[row])) for t, codes, constant in sides]
        for key in keys:
            one, other = sorted((root(row), root(first.setdefault(key, row))))
            parent[other] = one
    roots = np.array([root(row) for row in range(len(parent))], np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64).reshape(-1)
