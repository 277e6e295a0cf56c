"""Tasks of plain text whose rows of train languages stay on disk, for files larger than memory."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxmeta import data
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.tasks import data_paths, named_columns, weighting_of
from jaxmeta.core.types import Episode
from jaxmeta.data import LanguageSplit, StreamedRows, StreamEpisodes, Table
from jaxmeta.data.stream_rows import COLUMNS, numbers_without

# Train rows that are held in memory for what needs no more: the tokenizer, replay, what the report says of texts.
_SAMPLE = 4096


class StreamTasks(PairTasks):
    """`PairTasks` that meta-train on rows as they are drawn, out of the file (implements `run.plan.Tasks`).

    The rows of languages that are held out are in memory, and so is a sample of those of train languages.
    """

    def batches(self, seed: int, first: int, *, augmented: bool) -> Callable[[int], Iterator[Episode]]:
        """Returns what `train_phase` takes as `make_batches`, for a phase whose first step is number `first`."""
        del augmented  # pretended languages are for classification
        task = self.config.task
        episodes = StreamEpisodes(
            self.rows_on_disk, self.tokenizer, self.split.train,
            shots=task.shots, queries=task.queries, target_length=self.config.tokenizer.target_length or None,
            weighting=weighting_of(self.config), left_out=self._left_out, seed=seed,
        )  # fmt: skip
        per_step = task.tasks_per_step
        return lambda start: data.batches(episodes, split="train", tasks_per_step=per_step, start=first + start)

    def facts(self) -> dict[str, Any]:
        """Returns what the report says of the data; of train languages, texts are those of the sample."""
        left_out = sum(map(len, self._left_out.values()))
        rows, sampled = self.rows_on_disk, sum(len(self.table.rows(code, "train")) for code in self.split.train)
        trained = sum(rows.count(code, "train") for code in self.split.train) - left_out
        return {
            **super().facts(),
            "corpus": f"{self.config.name}: {len(rows)} rows, {len(rows.languages())} languages, on disk",
            "overlap": f"{left_out} of {trained + left_out} rows that say what a judged row says left out of training",
            "sample": f"texts, tokenizer and scripts of train languages are those of {sampled} of {trained} rows",
        }

    def _divided(self) -> tuple[Table, LanguageSplit]:
        config, task = self.config, self.config.task
        self.rows_on_disk = StreamedRows(
            data_paths(config), columns=named_columns(config, COLUMNS), language=task.language or None
        )
        rows = self.rows_on_disk
        split = data.split_languages(
            rows.languages(),
            test=task.test_languages, dev=task.dev_languages, train=task.train_languages, seed=config.seed,
        )  # fmt: skip
        held_out = [(code, part) for code in (*split.dev, *split.test) for part in data.SPLITS]
        judged = rows.texts([(code, "test") for code in split.test])
        same = rows.equal_rows([(code, "train") for code in split.train], judged)
        self._left_out = {language: numbers for (language, _), numbers in same.items()}
        counts = {code: rows.count(code, "train") - len(self._left_out[code]) for code in split.train}
        sample = {}
        for code, count in counts.items():
            sample[code, "train"] = numbers_without(self._left_out[code], _spread(count, counts))
        return rows.table(config.name, held_out, sample), split


def _spread(count: int, counts: dict[str, int]) -> np.ndarray:
    """Returns the share of the sample of a language with `count` rows, as numbers that are spread over them."""
    size = min(count, max(1, round(_SAMPLE * count / max(sum(counts.values()), 1))))
    return np.linspace(0, max(count - 1, 0), size).astype(np.int64)
