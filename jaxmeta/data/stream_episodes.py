"""Few-shot episodes of rows that stay on disk, read as they are drawn."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxmeta.core.checks import InputError, check_not_negative, check_one_of
from jaxmeta.core.types import Episode
from jaxmeta.data.few_shot import FewShot, deal
from jaxmeta.data.row_files import Cell
from jaxmeta.data.splits import LanguageSplit
from jaxmeta.data.stream_rows import StreamedRows
from jaxmeta.data.streams import stream
from jaxmeta.data.weighting import Weighting


class StreamEpisodes:
    """A `TaskDistribution` of the train rows of some languages, read as they are drawn, pure in `(seed, index)`.

    Episodes are those that `make` gives of all rows in memory, bit for bit.
    """

    def __init__(
        self,
        rows: StreamedRows,
        languages: Sequence[str],
        make: Callable[[Any, LanguageSplit], FewShot[Any]],
        *,
        shots: int,
        queries: int,
        weighting: Weighting,
        left_out: Mapping[Cell, np.ndarray] | None = None,
        seed: int = 0,
    ):
        """Counts the rows.

        Args:
            rows: where they come from.
            languages: whose train rows are drawn.
            make: returns the episodes of a few rows in memory: `lambda rows, split: PairEpisodes(rows, tokenizer,
                split, shots=5, queries=10)`. Their numbers of shots and queries and their seed are those below.
            shots: support examples, of each class where there are classes.
            queries: query examples.
            weighting: how often each language is drawn, by its number of train rows.
            left_out: numbers of train rows that are not drawn, ascending, by cell.
            seed: what every draw depends on.

        Raises:
            InputError: a language has no rows to draw.
        """
        self.rows, self.languages, self.shots, self.queries, self.seed = rows, tuple(languages), shots, queries, seed
        self._make, self._left_out = make, left_out or {}
        for language in self.languages:
            if not sum(self._counts(language)):
                raise InputError(
                    f"The train language {language} of {rows.name} has no train rows; add some, or leave the language "
                    "out."
                )
        self.weights = weighting(np.array([sum(self._counts(code)) for code in self.languages], np.float64))

    def __call__(self, index: int, *, split: str = "train") -> Episode:
        """Returns the `index`-th episode."""
        check_not_negative("index", index)
        check_one_of("split", split, ("train",))
        generator = stream(self.seed, "episode", split, index=index)
        language = self.languages[int(generator.choice(len(self.languages), p=self.weights))]
        drawn = [deal(generator, count, self.shots, self.queries) for count in self._counts(language)]
        cells = self.rows.cells(language, "train")
        numbers = {cell: np.sort(np.concatenate(of)) for cell, of in zip(cells, drawn, strict=True)}
        rows = self.rows.rows({cell: self._kept(cell, of) for cell, of in numbers.items() if len(of)})
        few = self._make(rows, LanguageSplit((language,), (), ()))
        # The rows of a cell stand in the order of their numbers.
        places = [few.class_rows(language, number) for number in range(len(cells))]
        sides = [
            [
                place[np.searchsorted(numbers[cell], of[side])]
                for cell, place, of in zip(cells, places, drawn, strict=True)
            ]
            for side in range(2)
        ]
        return few.augmented(generator, few.dealt(language, *sides))

    def _counts(self, language: str) -> list[int]:
        return [
            self.rows.count(cell) - len(self._left_out.get(cell, ())) for cell in self.rows.cells(language, "train")
        ]

    def _kept(self, cell: Cell, numbers: np.ndarray) -> np.ndarray:
        return numbers_without(self._left_out[cell], numbers) if cell in self._left_out else numbers


def numbers_without(left_out: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Returns the numbers of the `drawn`-th rows of those that are not in `left_out`, which is ascending."""
    # How many are left out before each of them: so far must the numbers behind it be moved.
    return drawn + np.searchsorted(left_out - np.arange(len(left_out)), drawn, side="right")
