"""Where a config's tasks come from: text in many languages, or sine waves."""

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxmeta import data
from jaxmeta.config.schema import Config
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data import Corpus, LanguageSplit, Sinusoid, TextEpisodes, Tokenizer

# Dev and test waves are numbered apart.
_WAVES = {"dev": 1_000_000, "test": 0}


class TextTasks:
    """Tasks of classification, one for each language (implements `run.plan.Tasks`)."""

    def __init__(self, config: Config):
        self.config = config
        self.corpus = read_corpus(config)
        languages = self.corpus.languages()
        self.split: LanguageSplit = data.split_languages(
            languages,
            test=config.task.test_languages,
            dev=config.task.dev_languages,
            seed=config.seed,
        )
        self.overlap = data.check_overlap(self.corpus, self.split)
        seen = (t for code in self.split.train for t in self.corpus.texts(self.corpus.rows(code, "train")))
        self.tokenizer = make_tokenizer(config, seen)
        self.judged = self._episodes(config.seed)

    def batches(self, seed: int, first: int, *, augmented: bool) -> Callable[[int], Iterator[Episode]]:
        """Returns what `train_phase` takes as `make_batches`, for a phase whose first step is number `first`."""
        # Training seeds draw other episodes; the languages and the judged episodes stay.
        episodes = self._episodes(seed, cipher=self.config.train.cipher if augmented else 0.0)
        per_step = self.config.task.tasks_per_step
        return lambda start: data.batches(episodes, split="train", tasks_per_step=per_step, start=first + start)

    def languages(self, split: str) -> Sequence[str]:
        """Returns the languages of `split`."""
        return getattr(self.split, split)

    def episode(self, language: str, *, shots: int, draw: int, split: str) -> Episode:
        """Returns the `draw`-th few-shot problem of a language."""
        return self.judged.evaluation_episode(
            language, shots=shots, draw=draw, split=split, max_queries=self.config.evaluate.max_queries
        )

    def texts(
        self, language: str, *, shots: int, draw: int, split: str
    ) -> tuple[Sequence[str], np.ndarray, Sequence[str], Batch]:
        """Returns what `episode` is made of, as text: support texts and labels, query texts and their batch."""
        support, query = self.judged.evaluation_rows(
            language, shots=shots, draw=draw, split=split, max_queries=self.config.evaluate.max_queries
        )
        corpus = self.corpus
        return corpus.texts(support), corpus.label[support], corpus.texts(query), self.judged.batch(query)

    def source_texts(self) -> tuple[Sequence[str], np.ndarray]:
        """Returns what `source` is made of, as text: texts and labels."""
        rows = np.concatenate([self.corpus.rows(code, "train") for code in self.split.train])
        return self.corpus.texts(rows), self.corpus.label[rows]

    def source(self) -> Batch:
        """Returns the train rows of the train languages, for baselines that replay them."""
        return self.judged.pool("train")

    def facts(self) -> dict[str, Any]:
        """Returns what the report says of the data; its texts are those that the run may read."""
        texts = {role: self._texts_of(role) for role in self.split._fields}
        return {
            "corpus": f"{self.corpus.name}: {len(self.corpus)} rows, {len(self.corpus.languages())} languages",
            "languages": {role: len(codes) for role, codes in self.split._asdict().items()},
            "overlap": str(self.overlap),
            "tokenizer": self.tokenizer.statistics(texts["train"]),
            "texts": {role: len(found) for role, found in texts.items()},
            "truncated_texts": {role: data.count_cut(self.tokenizer, found) for role, found in texts.items()},
        }

    def _texts_of(self, role: str) -> list[str]:
        # Every language is adapted to on its train rows; those held out are judged on the rows of their role.
        parts = dict.fromkeys(("train", role))
        return [
            text
            for code in self.languages(role)
            for part in parts
            for text in self.corpus.texts(self.corpus.rows(code, part))
        ]

    def _episodes(self, seed: int, *, cipher: float = 0.0) -> TextEpisodes:
        task = self.config.task
        return TextEpisodes(
            self.corpus, self.tokenizer, self.split,
            shots=task.shots, queries=task.queries, temperature=task.temperature, cipher=cipher, seed=seed,
        )  # fmt: skip


class WaveTasks:
    """Tasks of regression, one for each sine wave (implements `run.plan.Tasks`)."""

    def __init__(self, config: Config):
        self.config = config
        self.counts = {split: number_of_waves(config, split) for split in _WAVES}
        self.waves = Sinusoid(config.task.shots, config.task.queries, config.seed)

    def batches(self, seed: int, first: int, *, augmented: bool) -> Callable[[int], Iterator[Episode]]:
        """Returns what `train_phase` takes as `make_batches`, for a phase whose first step is number `first`."""
        del augmented  # waves are drawn without end as it is
        waves = Sinusoid(self.config.task.shots, self.config.task.queries, seed)
        per_step = self.config.task.tasks_per_step
        return lambda start: data.batches(waves, split="train", tasks_per_step=per_step, start=first + start)

    def languages(self, split: str) -> Sequence[str]:
        """Returns a name for each wave of `split`."""
        return [f"wave {number}" for number in range(self.counts[split])]

    def episode(self, language: str, *, shots: int, draw: int, split: str) -> Episode:
        """Returns a wave at random points to adapt on, and at an even grid to judge on."""
        number = _WAVES[split] + int(language.removeprefix("wave "))
        return self.waves.evaluation_episode(number, shots=shots, draw=draw)

    def facts(self) -> dict[str, Any]:
        """Returns what the report says of the data: nothing."""
        return {}


def number_of_waves(config: Config, split: str) -> int:
    """Returns how many waves are set aside as `split`.

    Raises:
      InputError: they are given by name.
    """
    count = getattr(config.task, f"{split}_languages")
    if not isinstance(count, int):
        raise InputError(f"`task.{split}_languages`: waves have no names; give a number of them.")
    return count


def read_corpus(config: Config) -> Corpus:
    """Returns the labelled text of a config.

    Raises:
      InputError: the file is missing or malformed.
    """
    task = config.task
    if task.source == "cldr":
        return data.cldr(task.cldr, seed=config.seed)
    if task.source == "tsv":
        paths = [find_file(path) for path in task.path] if isinstance(task.path, tuple) else []
        return data.read_tsv(paths or data_path(config), name=config.name, parallel=task.parallel)
    corpus = data.read_tfds(data_path(config), schema="classification")
    assert isinstance(corpus, Corpus)
    return corpus


def data_path(config: Config) -> pathlib.Path:
    """Returns where the data of a config are that does not read what is embedded.

    Raises:
      InputError: it names none, or there is nothing.
    """
    task = config.task
    named = {
        "tsv": ("a TSV file", "cldr"),
        "npz": ("an npz file", "synthetic_digits"),
        "omniglot": ("an npz file", "cldr"),
    }
    what, instead = named.get(task.source, ("the folder of a prepared set", "cldr"))
    if not task.path:
        raise InputError(f'`task.path` is empty; name {what} (or set `task.source = "{instead}"`).')
    if not isinstance(task.path, str):
        raise InputError(
            f"`task.path` must name one place, got {list(task.path)}; several TSV files are for classification alone."
        )
    return find_file(task.path, folder=task.source == "tfds")


def find_file(name: str, *, folder: bool = False) -> pathlib.Path:
    """Returns the path of a data file or folder: as it is given, or under the folder that JAXMETA_DATA names.

    Raises:
      InputError: it is at neither place.
    """
    tried = [pathlib.Path(name)]
    if home := os.environ.get("JAXMETA_DATA"):
        tried.append(pathlib.Path(home) / name)
    for path in tried:
        if path.is_dir() if folder else path.is_file():
            return path
    places = " nor at ".join(map(str, tried))
    hint = "" if home else " (or set JAXMETA_DATA to the folder it is under)"
    raise InputError(f"There is no {'folder' if folder else 'file'} at {places}; correct the path{hint}.")


def make_tokenizer(config: Config, texts: Iterable[str]) -> Tokenizer:
    """Returns the tokenizer of a config; a trained one has seen `texts` alone, train rows of train languages."""
    settings = config.tokenizer
    if settings.kind == "bytes":
        return data.ByteTokenizer(settings.length)
    return data.SentencePieceTokenizer.train(texts, settings.vocab_size, settings.length)
