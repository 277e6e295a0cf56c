"""Tasks of text whose rows of train languages stay on disk, for corpora larger than memory."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxmeta import data
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.schema import Config
from jaxmeta.config.tasks import (
    TextTasks,
    data_path,
    data_paths,
    is_prepared,
    named_columns,
    named_languages,
    split_of,
    weighting_of,
)
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Episode
from jaxmeta.data import Corpus, FewShot, LanguageSplit, StreamedRows, StreamEpisodes, Table, TextEpisodes
from jaxmeta.data.row_files import STREAMED, Cell
from jaxmeta.data.splits import OverlapReport, checked_report
from jaxmeta.data.stream_episodes import numbers_without
from jaxmeta.data.stream_overlap import longer_answers, overlap_on_disk, shared_rows

# Train rows that are held in memory for what needs no more: the tokenizer, replay, what the report says of texts.
_SAMPLE = 4096


class StreamTasks(PairTasks):
    """`PairTasks` that meta-train on rows as they are drawn (implements `run.plan.Tasks`).

    The rows of languages that are held out are in memory, and so is a sample of those of train languages.
    """

    def batches(self, seed: int, first: int, *, augmented: bool) -> Callable[[int], Iterator[Episode]]:
        """Returns what `train_phase` takes as `make_batches`, for a phase whose first step is number `first`."""
        del augmented  # pretended languages are for classification
        make = functools.partial(self._episodes_of, seed=seed)
        return drawn(self.config, self.rows_on_disk, self.split, make, seed, first, self._left_out)

    def codes(self, language: str) -> tuple[str, ...]:
        """Returns the codes of the languages of a pair, or of a language its own."""
        return self.rows_on_disk.codes(language)

    def facts(self) -> dict[str, Any]:
        """Returns what the report says of the data; of train languages, texts are those of the sample."""
        cells = [cell for code in self.split.train for cell in self.rows_on_disk.cells(code, "train")]
        rows, shared = (sum(map(count, cells)) for count in (self.rows_on_disk.count, lambda c: len(self._shared[c])))
        trained = rows - sum(len(self._left_out[cell]) for cell in cells)
        facts = {
            **super().facts(),
            **facts_on_disk(self.rows_on_disk, self.table, self.split, trained),
            "overlap": f"{shared} of {rows} rows that say what a judged row says left out of training",
        }
        if longer := self.judged.left_out + rows - shared - trained:
            facts["answers_longer_than_a_window"] = str(longer)
        return facts

    def _divided(self) -> tuple[Table, LanguageSplit]:
        task = self.config.task
        self.rows_on_disk = rows = open_rows(self.config)
        split = data.split_pairs(
            rows, test=task.test_languages, dev=task.dev_languages, train=task.train_languages, seed=self.config.seed
        )
        self._left_out = self._shared = shared_rows(rows, split)
        if self.config.task.kind == "question_answering":
            longer = longer_answers(rows, split, self.config.tokenizer.length)
            self._left_out = {cell: np.union1d(of, longer[cell]) for cell, of in self._shared.items()}
        table = rows.rows(held_out(rows, split) | sample(rows, split, self._left_out))
        assert isinstance(table, Table)
        return table, split


class StreamTextTasks(TextTasks):
    """`TextTasks` that meta-train on rows as they are drawn (implements `run.plan.Tasks`); see `StreamTasks`."""

    def batches(self, seed: int, first: int, *, augmented: bool) -> Callable[[int], Iterator[Episode]]:
        """Returns what `train_phase` takes as `make_batches`, for a phase whose first step is number `first`."""
        cipher = self.config.train.cipher if augmented else 0.0
        make = functools.partial(self._episodes_of, seed=seed, cipher=cipher)
        return drawn(self.config, self.rows_on_disk, self.split, make, seed, first)

    def facts(self) -> dict[str, Any]:
        """Returns what the report says of the data; of train languages, texts are those of the sample."""
        trained = self.overlap.train_rows
        return {**super().facts(), **facts_on_disk(self.rows_on_disk, self.corpus, self.split, trained)}

    def _read(self) -> Corpus:
        self.rows_on_disk = rows = open_rows(self.config)
        split = split_of(self.config, rows.languages())
        self.split = data.without_sources(split, self.config.task.left_out_languages)
        self._present = {language: rows.present(language) for language in rows.languages()}
        # Rows keep their numbers whichever sources are left out.
        corpus = rows.rows(held_out(rows, split) | sample(rows, split, {}))
        assert isinstance(corpus, Corpus)
        return corpus

    def _compared(self) -> tuple[OverlapReport, tuple[int, int]]:
        report, shots = overlap_on_disk(self.rows_on_disk, self.split)
        return checked_report(report, self.rows_on_disk.name), shots

    def _episodes_of(self, corpus: Corpus, split: LanguageSplit, seed: int, **options: Any) -> TextEpisodes:
        return super()._episodes_of(corpus, split, seed, **options, present=self._present)


def check_stream(config: Config) -> None:
    """Refuses rows that stay on disk where they cannot.

    Raises:
      InputError: with the key and what is allowed.
    """
    task = config.task
    if not task.stream:
        return
    if task.source not in ("tsv", "tfds"):
        raise InputError(
            "`task.stream` is for text from TSV files or a prepared set, not for `task.source` "
            f'"{task.source}"; leave it out.'
        )
    if task.parallel:
        raise InputError("`task.parallel` compares all rows, and `task.stream` never holds them; leave one out.")
    if task.source_language:
        raise InputError(
            "`task.source_language` pairs all rows anew, and `task.stream` never holds them; leave one out."
        )


def open_rows(config: Config) -> StreamedRows:
    """Returns the rows of a config, which stay on disk.

    Raises:
      InputError: there are none, or anything in them is not as it should be.
    """
    task = config.task
    columns = named_columns(config, STREAMED[task.kind].columns)
    named = {"columns": columns, "language": task.language or None}
    if is_prepared(config):
        source = data.TfdsRows(data_path(config), task.kind, splits=task.splits or None, **named)
        return StreamedRows(source, name=source.title)
    languages = named_languages(config) if task.kind == "classification" else ()
    return StreamedRows(data.TsvRows(data_paths(config), task.kind, **named), name=config.name, languages=languages)


def drawn(
    config: Config,
    rows: StreamedRows,
    split: LanguageSplit,
    make: Callable[[Any, LanguageSplit], FewShot[Any]],
    seed: int,
    first: int,
    left_out: Mapping[Cell, np.ndarray] | None = None,
) -> Callable[[int], Iterator[Episode]]:
    """Returns what gives the batches of meta-training, of rows that are read as they are drawn."""
    task = config.task
    episodes = StreamEpisodes(
        rows, split.train, make, shots=task.shots, queries=task.queries,
        weighting=weighting_of(config, max(len(rows.labels), 1)), left_out=left_out, seed=seed,
    )  # fmt: skip
    return lambda start: data.batches(episodes, split="train", tasks_per_step=task.tasks_per_step, start=first + start)


def held_out(rows: StreamedRows, split: LanguageSplit) -> dict[Cell, np.ndarray]:
    """Returns the numbers of all rows of languages that are held out."""
    codes, parts = (*split.dev, *split.test), data.SPLITS
    cells = [cell for code in codes for part in parts for cell in rows.cells(code, part)]
    return {cell: np.arange(rows.count(cell)) for cell in cells}


def sample(rows: StreamedRows, split: LanguageSplit, left_out: Mapping[Cell, np.ndarray]) -> dict[Cell, np.ndarray]:
    """Returns numbers of rows that are trained on, spread over each cell, which has its share of them."""
    cells = [cell for code in split.train for cell in rows.cells(code, "train")]
    counts = {cell: rows.count(cell) - len(left_out.get(cell, ())) for cell in cells}
    found = {}
    for cell, count in counts.items():
        size = min(count, max(1, round(_SAMPLE * count / max(sum(counts.values()), 1))))
        spread = np.linspace(0, max(count - 1, 0), size).astype(np.int64)
        found[cell] = numbers_without(left_out.get(cell, np.zeros(0, np.int64)), spread)
    return found


def facts_on_disk(rows: StreamedRows, held: Corpus | Table, split: LanguageSplit, trained: int) -> dict[str, str]:
    """Returns what the report says of rows on disk, of which `trained` are trained on."""
    sampled = sum(len(held.rows(code, "train")) for code in split.train)
    return {
        "corpus": f"{rows.name}: {len(rows)} rows, {len(rows.languages())} languages, on disk",
        "sample": f"texts, tokenizer and scripts of train languages are those of {sampled} of {trained} rows",
    }
