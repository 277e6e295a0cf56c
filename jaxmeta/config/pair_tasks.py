"""Tasks of pairs, questions and plain text, one for each language, from whatever source a config names."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxmeta import data
from jaxmeta.config.kinds import kind_of
from jaxmeta.config.schema import Config
from jaxmeta.config.tasks import (
    data_path,
    make_tokenizer,
    named_columns,
    read_prepared,
    repeats_of,
    scripts_read,
    weighting_of,
)
from jaxmeta.core.batches import pad_batch
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data import LanguageSplit, PairEpisodes, Table, Tokenizer, Windows
from jaxmeta.data.sequences import with_length
from jaxmeta.run.units import LANGUAGE

# Rows of the train languages that are replayed while a method adapts; they become part of what is compiled.
_REPLAYED = 2048
_REPLAYED_QUESTIONS = 512  # whose contexts are described by many numbers
_WHOLE = 2**31 - 1  # tokens, where nothing is cut


class PairTasks:
    """Tasks of every kind but classification (implements `run.plan.Tasks`).

    Rows that are trained on and say what a judged row says, in any language, are left out of training.
    """

    unit = LANGUAGE

    def __init__(self, config: Config):
        self.config = config
        if config.task.kind == "question_answering" and config.tokenizer.kind != "bytes":
            raise InputError('Questions are read by words; leave `tokenizer.kind` at "bytes" for question answering.')
        table, split = self._divided()
        # Rows keep their numbers whichever sources are left out.
        self.table, self.shared = data.without_overlap(table, split)
        self.split = data.without_sources(split, config.task.left_out_languages)
        self.overlap = data.check_overlap(self.table, self.split)
        seen = [text for texts in self._texts_of("train").values() for text in texts]
        self.tokenizer: Tokenizer = make_tokenizer(config, seen)
        self.judged = self._episodes(config.seed)
        self.judged.check_shots()
        self._windows: dict[tuple[str, str], tuple[Windows, np.ndarray]] = {}

    def batches(self, seed: int, first: int, *, augmented: bool) -> Callable[[int], Iterator[Episode]]:
        """Returns what `train_phase` takes as `make_batches`, for a phase whose first step is number `first`."""
        del augmented  # pretended languages are for classification
        episodes = self.judged if seed == self.config.seed else self._episodes(seed)
        per_step = self.config.task.tasks_per_step
        return lambda start: data.batches(episodes, split="train", tasks_per_step=per_step, start=first + start)

    def languages(self, split: str) -> Sequence[str]:
        """Returns the languages, or the pairs of languages, of `split`."""
        return getattr(self.split, split)

    def codes(self, language: str) -> tuple[str, ...]:
        """Returns the codes of the languages of a pair, or of a language its own."""
        return self.table.codes(language)

    def episode(self, language: str, *, shots: int, draw: int, split: str) -> Episode:
        """Returns the `draw`-th few-shot problem of a language."""
        support, query = self.rows(language, shots=shots, draw=draw, split=split)
        episode = self.judged.episode_of(language, support, query, shots=shots)
        if self.config.task.kind != "question_answering":
            return episode
        found, _ = self.windows(language, split)
        batch = {"inputs": found.inputs, "targets": {"start": found.start, "end": found.end}}
        return Episode(episode.support, pad_batch(batch, self._most_windows))

    def windows(self, language: str, split: str) -> tuple[Windows, np.ndarray]:
        """Returns all windows of the contexts that a language is judged on, and the rows of the questions."""
        if (language, split) not in self._windows:
            query = self.judged_rows(language, split)
            self._windows[language, split] = self.judged.windows(query), query
        return self._windows[language, split]

    def judged_rows(self, language: str, split: str) -> np.ndarray:
        """Returns the rows that a language is judged on, the same for every draw of shots."""
        return self.judged.query_rows(language, split=split, max_queries=self.config.evaluate.max_queries)

    def references(self, language: str, split: str) -> list[str]:
        """Returns the texts that are to be written, of translations and summaries."""
        return self.table.texts(self.table.schema.texts[-1], self.judged_rows(language, split))

    def rows(self, language: str, *, shots: int, draw: int, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows of the table that `episode` is made of: support and query, the latter for every draw."""
        return self.judged.evaluation_rows(
            language, shots=shots, draw=draw, split=split, max_queries=self.config.evaluate.max_queries
        )

    def source_rows(self) -> np.ndarray:
        """Returns the train rows of the train languages: what a baseline that reads the source may read."""
        return np.concatenate([self.table.rows(code, "train") for code in self.languages("train")])

    def source(self) -> Batch:
        """Returns train rows of the train languages, for baselines that replay them."""
        asks = self.config.task.kind == "question_answering"
        return self.judged.pool("train", _REPLAYED_QUESTIONS if asks else _REPLAYED)

    def facts(self) -> dict[str, Any]:
        """Returns what the report says of the data; its texts are those that the run may read."""
        table, texts = self.table, {role: self._texts_of(role) for role in self.split._fields}
        seen = [text for found in texts["train"].values() for text in found]
        facts = {
            "corpus": f"{table.name}: {len(table) + self.shared} rows, {len(table.languages())} languages",
            "languages": {role: len(codes) for role, codes in self.split._asdict().items()},
            "overlap": f"{self.overlap}; {self.shared} rows that say what a judged row says left out of training",
            "repeats": repeats_of(table, self.split),
            "tokenizer": self.tokenizer.statistics(seen),
            "texts": {role: sum(map(len, found.values())) for role, found in texts.items()},
            "truncated_texts": {role: self._count_cut(found) for role, found in texts.items()},
            "scripts": scripts_read(*self._texts_by_reader()),
        }
        if self.judged.left_out:
            facts["answers_longer_than_a_window"] = str(self.judged.left_out)
        if self.config.task.lexicon:
            facts["lexicon"] = "all trained methods read sources through one of the shots, zero_shot without a step too"
        return facts

    def _divided(self) -> tuple[Table, LanguageSplit]:
        """Returns the rows, and the roles of the languages, or the pairs of languages, that they are in."""
        table, task = read_pairs(self.config), self.config.task
        return table, data.split_pairs(
            table, test=task.test_languages, dev=task.dev_languages, train=task.train_languages, seed=self.config.seed
        )

    @functools.cached_property
    def _most_windows(self) -> int:
        # One number of rows for all problems is one compilation.
        held_out = [(code, role) for role in ("dev", "test") for code in self.languages(role)]
        return max(len(self.windows(*of)[0].group) for of in held_out)

    def _texts_of(self, role: str) -> dict[str, list[str]]:
        """Returns the different texts of each column that are read in languages of a role."""
        chosen = self._rows_of(role)
        return {c: list(dict.fromkeys(self.table.texts(c, chosen))) for c in self.table.schema.texts}

    def _rows_of(self, role: str) -> np.ndarray:
        # Every language is adapted to on its train rows; those held out are judged on the rows of their role.
        rows = [self.table.rows(code, part) for code in self.languages(role) for part in dict.fromkeys(("train", role))]
        return np.concatenate(rows)

    def _readers(self) -> dict[str, Tokenizer]:
        """Returns what reads each column of text, as much of it as there is room for."""
        kind, columns = self.config.task.kind, self.table.schema.texts
        if kind == "question_answering":  # contexts are read in windows, and questions whole
            return dict.fromkeys(("context", "question"), with_length(self.tokenizer, _WHOLE))
        readers = dict.fromkeys(columns, self.tokenizer)
        if kind_of(self.config).writes:
            readers[columns[-1]] = self.judged.targets_tokenizer
        return readers

    def _texts_by_reader(self) -> list[tuple[Tokenizer, dict[str, list[str]]]]:
        chosen = np.concatenate([self._rows_of(role) for role in self.split._fields])
        return [(read, data.texts_by_language(self.table, chosen, (c,))) for c, read in self._readers().items()]

    def _count_cut(self, texts: dict[str, list[str]]) -> int:
        """Returns how many texts are longer than what is read of their column."""
        return sum(data.count_cut(reader, texts[column]) for column, reader in self._readers().items())

    def _episodes(self, seed: int) -> PairEpisodes:
        return self._episodes_of(self.table, self.split, seed)

    def _episodes_of(self, table: Table, split: LanguageSplit, seed: int) -> PairEpisodes:
        task = self.config.task
        return PairEpisodes(
            table, self.tokenizer, split,
            shots=task.shots, queries=task.queries, target_length=self.config.tokenizer.target_length or None,
            weighting=weighting_of(self.config), lexicon=task.lexicon, seed=seed,
        )  # fmt: skip


def read_pairs(config: Config) -> Table:
    """Returns the rows of a config whose kind is not classification.

    Raises:
      InputError: the file is missing or malformed, or what is embedded has no such rows.
    """
    task = config.task
    if task.source == "cldr":
        if task.kind not in data.CLDR_PAIR_TASKS:
            known = ", ".join(("classification", *data.CLDR_PAIR_TASKS))
            raise InputError(
                f'`task.kind` "{task.kind}" is not in the embedded data, which has {known}; set `task.source` to '
                '"tsv" and name a file in `task.path`.'
            )
        return data.cldr_pairs(task.kind, seed=config.seed)
    named = {
        "columns": named_columns(config, data.SCHEMAS[task.kind].columns), "language": task.language or None
    }  # fmt: skip
    if task.source == "tsv":
        table = data.read_table(data_path(config), task.kind, name=config.name, parallel=task.parallel, **named)
    else:
        table = read_prepared(config, task.kind, **named)
        assert isinstance(table, Table)
    return data.translated_from(table, task.source_language) if task.source_language else table
