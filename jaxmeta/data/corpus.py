"""Rows of text in many languages, held as parallel columns."""

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

SPLITS = ("train", "dev", "test")


class Rows(abc.ABC):
    """What rows of any kind have; `N` rows.

    Attributes:
        name: what to call them in reports.
        language: `[N]` str, the code of each row's language; of a pair of languages, "SOURCE-TARGET".
        split: `[N]` str, "train", "dev" or "test".
        sentence: `[N]` int64; rows with the same number say the same thing.
    """

    name: str
    language: np.ndarray
    split: np.ndarray
    sentence: np.ndarray

    # Of the data that are held beside what is above, those with one entry for each row.
    per_row: ClassVar[tuple[str, ...]] = ()

    def _check(self, count: int) -> None:
        for column in ("language", "split", *self.per_row, "sentence"):
            value = getattr(self, column)
            if isinstance(value, np.ndarray) and value.shape != (count,):
                raise ValueError(f"`{column}` must have the shape ({count},), one for each row, got {value.shape}")
        if unknown := set(np.unique(self.split).tolist()) - set(SPLITS):
            raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, got {sorted(unknown)}")

    def __len__(self) -> int:
        return len(self.language)

    @functools.cached_property
    def _index(self) -> dict[tuple[str, str], np.ndarray]:
        if not len(self):
            return {}
        order = np.lexsort((self.split, self.language))  # stable: rows keep their order within a cell
        language, split = self.language[order], self.split[order]
        starts = np.flatnonzero((language[1:] != language[:-1]) | (split[1:] != split[:-1])) + 1
        return {(str(self.language[rows[0]]), str(self.split[rows[0]])): rows for rows in np.split(order, starts)}

    def languages(self) -> tuple[str, ...]:
        """Returns the codes of all languages (of all pairs of them), sorted."""
        return tuple(sorted({language for language, _ in self._index}))

    def rows(self, language: str, split: str) -> np.ndarray:
        """Returns the row numbers `[n]` of a language's split, in order; empty if it has none."""
        return self._index.get((language, split), np.zeros(0, np.int64))

    @abc.abstractmethod
    def texts_of(self, row: int) -> tuple[str, ...]:
        """Returns every text of a row."""

    def take(self, rows: np.ndarray) -> Self:
        """Returns `rows` alone, in that order."""
        columns = ("language", "split", "sentence", *self.per_row)
        return dataclasses.replace(self, **{name: _take(getattr(self, name), rows) for name in columns})  # pyright: ignore


def _take(column: Sequence[str] | np.ndarray | dict, rows: np.ndarray):
    if isinstance(column, dict):
        return {name: _take(values, rows) for name, values in column.items()}
    return column[rows] if isinstance(column, np.ndarray) else tuple(column[row] for row in rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus(Rows):
    """Rows of labelled text; `N` rows, `C` labels.

    Attributes:
        name: what to call it in reports.
        labels: the names of the `C` classes, in the order of their numbers.
        language: `[N]` str, the code of each row's language.
        split: `[N]` str, "train", "dev" or "test".
        label: `[N]` int32 in `[0, C)`.
        text: `N` strings.
        sentence: `[N]` int64; rows of different languages with the same number say the same thing.
    """

    name: str
    labels: tuple[str, ...]
    language: np.ndarray
    split: np.ndarray
    label: np.ndarray
    text: tuple[str, ...]
    sentence: np.ndarray
    per_row: ClassVar[tuple[str, ...]] = ("label", "text")

    def __post_init__(self):
        self._check(len(self.text))
        if len(self.text) and not (self.label.min() >= 0 and self.label.max() < len(self.labels)):
            raise ValueError(f"`label` must lie in [0, {len(self.labels)}), the number of `labels`")

    def texts(self, rows: np.ndarray) -> list[str]:
        """Returns the texts of `rows`."""
        return [self.text[row] for row in rows]

    def texts_of(self, row: int) -> tuple[str, ...]:
        """Returns the text of a row."""
        return (self.text[row],)
