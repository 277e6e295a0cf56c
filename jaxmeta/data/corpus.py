"""Labelled examples in many languages, held as parallel columns; text is one kind of them."""

import dataclasses
import functools

import numpy as np

SPLITS = ("train", "dev", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """Rows that have a language, a split and a label, whatever else they hold; `N` rows, `C` labels.

    Attributes:
        name: what to call it in reports.
        labels: the names of the `C` classes, in the order of their numbers.
        language: `[N]` str, the code of each row's language (of speech, its speaker).
        split: `[N]` str, "train", "dev" or "test".
        label: `[N]` int32 in `[0, C)`.
    """

    name: str
    labels: tuple[str, ...]
    language: np.ndarray
    split: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @functools.cached_property
    def _index(self) -> dict[tuple[str, str], np.ndarray]:
        if not len(self):
            return {}
        order = np.lexsort((self.split, self.language))  # stable: rows keep their order within a cell
        language, split = self.language[order], self.split[order]
        starts = np.flatnonzero((language[1:] != language[:-1]) | (split[1:] != split[:-1])) + 1
        return {(str(self.language[rows[0]]), str(self.split[rows[0]])): rows for rows in np.split(order, starts)}

    def languages(self) -> tuple[str, ...]:
        """Returns the codes of all languages, sorted."""
        return tuple(sorted({language for language, _ in self._index}))

    def rows(self, language: str, split: str) -> np.ndarray:
        """Returns the row numbers `[n]` of a language's split, in order; empty if it has none."""
        return self._index.get((language, split), np.zeros(0, np.int64))


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus(Labelled):
    """Rows of labelled text; `N` rows, `C` labels.

    Attributes:
        text: `N` strings.
        sentence: `[N]` int64; rows of different languages with the same number say the same thing.
    """

    text: tuple[str, ...]
    sentence: np.ndarray

    def __post_init__(self):
        for column in ("language", "split", "label", "sentence"):
            if np.shape(getattr(self, column)) != (len(self.text),):
                raise ValueError(
                    f"`{column}` must have the shape ({len(self.text)},) of `text`, "
                    f"got {np.shape(getattr(self, column))}"
                )
        if len(self.text) and not (self.label.min() >= 0 and self.label.max() < len(self.labels)):
            raise ValueError(f"`label` must lie in [0, {len(self.labels)}), the number of `labels`")
        if unknown := set(np.unique(self.split).tolist()) - set(SPLITS):
            raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, got {sorted(unknown)}")

    def texts(self, rows: np.ndarray) -> list[str]:
        """Returns the texts of `rows`."""
        return [self.text[row] for row in rows]
