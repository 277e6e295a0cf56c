"""Tasks of pairs, questions and plain text, one for each language, from whatever source a config names."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxmeta import data
from jaxmeta.config.schema import Config
from jaxmeta.config.tasks import data_path, make_tokenizer
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data import PairEpisodes, Table, Tokenizer

# Rows of the train languages that are replayed while a method adapts; they become part of what is compiled.
_REPLAYED = 2048


class PairTasks:
    """Tasks of every kind but classification (implements `run.plan.Tasks`).

    Rows that are trained on and say what a judged row says, in any language, are left out of training.
    """

    def __init__(self, config: Config):
        self.config = config
        table = read_pairs(config)
        self.split = data.split_pairs(
            table, test=config.task.test_languages, dev=config.task.dev_languages, seed=config.seed
        )
        self.table, self.shared = data.without_overlap(table, self.split)
        self.overlap = data.check_overlap(self.table, self.split)
        self.tokenizer: Tokenizer = make_tokenizer(config, self._texts_of("train"))
        self.judged = self._episodes(config.seed)

    def batches(self, seed: int, first: int, *, augmented: bool) -> Callable[[int], Iterator[Episode]]:
        """Returns what `train_phase` takes as `make_batches`, for a phase whose first step is number `first`."""
        del augmented  # pretended languages are for classification
        episodes = self.judged if seed == self.config.seed else self._episodes(seed)
        per_step = self.config.task.tasks_per_step
        return lambda start: data.batches(episodes, split="train", tasks_per_step=per_step, start=first + start)

    def languages(self, split: str) -> Sequence[str]:
        """Returns the languages, or the pairs of languages, of `split`."""
        return getattr(self.split, split)

    def episode(self, language: str, *, shots: int, draw: int, split: str) -> Episode:
        """Returns the `draw`-th few-shot problem of a language."""
        support, query = self.rows(language, shots=shots, draw=draw, split=split)
        return self.judged.episode_of(language, support, query, shots=shots)

    def rows(self, language: str, *, shots: int, draw: int, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows of the table that `episode` is made of: support and query, the latter for every draw."""
        return self.judged.evaluation_rows(
            language, shots=shots, draw=draw, split=split, max_queries=self.config.evaluate.max_queries
        )

    def source(self) -> Batch:
        """Returns train rows of the train languages, for baselines that replay them."""
        return self.judged.pool("train", _REPLAYED)

    def facts(self) -> dict[str, Any]:
        """Returns what the report says of the data; its texts are those that the run may read."""
        table, texts = self.table, {role: self._texts_of(role) for role in self.split._fields}
        found = {
            "corpus": f"{table.name}: {len(table) + self.shared} rows, {len(table.languages())} languages",
            "languages": {role: len(codes) for role, codes in self.split._asdict().items()},
            "overlap": f"{self.overlap}; {self.shared} rows that say what a judged row says left out of training",
            "tokenizer": self.tokenizer.statistics(texts["train"]),
            "texts": {role: len(found) for role, found in texts.items()},
            "truncated_texts": {role: data.count_cut(self.tokenizer, found) for role, found in texts.items()},
        }
        return found

    def _texts_of(self, role: str) -> list[str]:
        # Every language is adapted to on its train rows; those held out are judged on the rows of their role.
        rows = [self.table.rows(code, part) for code in self.languages(role) for part in dict.fromkeys(("train", role))]
        chosen = np.concatenate(rows)
        return [text for column in self.table.schema.texts for text in self.table.texts(column, chosen)]

    def _episodes(self, seed: int) -> PairEpisodes:
        task = self.config.task
        return PairEpisodes(
            self.table, self.tokenizer, self.split,
            shots=task.shots, queries=task.queries, temperature=task.temperature, seed=seed,
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
    path = data_path(config)
    if task.source == "tsv":
        return data.read_table(path, task.kind, name=config.name, parallel=task.parallel)
    table = data.read_tfds(path, schema=task.kind)
    assert isinstance(table, Table)
    return table
