"""Where a config's tasks come from: text in many languages, or sine waves."""

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxmeta import data
from jaxmeta.config.acting import ENVIRONMENTS
from jaxmeta.config.generating import described
from jaxmeta.config.schema import Config
from jaxmeta.core.checks import InputError
from jaxmeta.core.trees import leading_size
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data import (
    Corpus,
    Images,
    LanguageSplit,
    Recordings,
    Sinusoid,
    Table,
    TextEpisodes,
    Tokenizer,
    Weighting,
)
from jaxmeta.run.units import LANGUAGE

HeldOut = Callable[[np.ndarray], np.ndarray]  # labels [S] -> which of them are held out [S] bool
# Dev and test waves are numbered apart.
_WAVES = {"dev": 1_000_000, "test": 0}


class TextTasks:
    """Tasks of classification, one for each language (implements `run.plan.Tasks`)."""

    unit = LANGUAGE

    def __init__(self, config: Config):
        self.config = config
        self.corpus = self._read()
        self.overlap, self.shots_known = self._compared()
        seen = (t for code in self.split.train for t in self.corpus.texts(self.corpus.rows(code, "train")))
        self.tokenizer = make_tokenizer(config, seen)
        self.judged = self._episodes(config.seed)
        self.judged.check_shots()
        # Numbers of the train languages that are nearest to a held-out one, where a method asks for them.
        self.near: Mapping[str, np.ndarray] = {}

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
        episode = self.judged.evaluation_episode(
            language, shots=shots, draw=draw, split=split, max_queries=self.config.evaluate.max_queries
        )
        if language not in self.near:
            return episode
        near = np.tile(self.near[language], (leading_size(episode.support), 1))
        return episode._replace(support={**episode.support, "near": near})

    def texts(
        self, language: str, *, shots: int, draw: int, split: str, held_out: HeldOut | None = None
    ) -> tuple[Sequence[str], np.ndarray, Sequence[str], Batch]:
        """Returns what `episode` is made of, as text: support texts and labels, query texts and their batch.

        Where `held_out` says of the labels which shots are held out, these are the query, and the others the support.
        """
        support, query = self.judged.evaluation_rows(
            language, shots=shots, draw=draw, split=split, max_queries=self.config.evaluate.max_queries
        )
        corpus = self.corpus
        if held_out is not None:
            hidden = held_out(corpus.label[support])
            support, query = support[~hidden], support[hidden]
        return corpus.texts(support), corpus.label[support], corpus.texts(query), self.judged.batch(query)

    def queries(self, language: str, split: str) -> tuple[Sequence[str], Batch]:
        """Returns the query texts of a language and their batch, the same for every draw of shots."""
        query = self.judged.query_rows(language, split=split, max_queries=self.config.evaluate.max_queries)
        return self.corpus.texts(query), self.judged.batch(query)

    def source_texts(self) -> tuple[Sequence[str], np.ndarray]:
        """Returns what `source` is made of, as text: texts and labels."""
        rows = np.concatenate([self.corpus.rows(code, "train") for code in self.split.train])
        return self.corpus.texts(rows), self.corpus.label[rows]

    def source(self) -> Batch:
        """Returns the train rows of the train languages, for baselines that replay them."""
        return self.judged.pool("train")

    def source_languages(self) -> np.ndarray:
        """Returns the number of the train language of each row of `source`, `[P]`."""
        names = self.split.train
        rows = np.sort(np.concatenate([self.judged.rows(name, "train") for name in names]))
        numbers = {name: number for number, name in enumerate(names)}
        return np.array([numbers[name] for name in self.corpus.language[rows].tolist()], np.int32)

    def facts(self) -> dict[str, Any]:
        """Returns what the report says of the data; its texts are those that the run may read."""
        texts = {role: self._texts_of(role) for role in self.split._fields}
        known, shots = self.shots_known
        return {
            "corpus": f"{self.corpus.name}: {len(self.corpus)} rows, {len(self.corpus.languages())} languages",
            "languages": {role: len(codes) for role, codes in self.split._asdict().items()},
            "overlap": str(self.overlap),
            "shots": f"{known} of {shots} rows to adapt to say what a row that is trained on says",
            "repeats": repeats_of(self.corpus, self.split),
            "tokenizer": self.tokenizer.statistics(texts["train"]),
            "texts": {role: len(found) for role, found in texts.items()},
            "truncated_texts": {role: data.count_cut(self.tokenizer, found) for role, found in texts.items()},
            "scripts": scripts_read((self.tokenizer, self._by_language())),
        }

    def _read(self) -> Corpus:
        """Returns the rows that are in memory, and sets the roles of the languages."""
        corpus = read_corpus(self.config)
        self.split = data.without_sources(
            split_of(self.config, corpus.languages()), self.config.task.left_out_languages
        )
        return corpus

    def _compared(self) -> tuple[data.OverlapReport, tuple[int, int]]:
        """Returns what judged rows share with those that are trained on, and how many of the shots do, of how many."""
        return data.check_overlap(self.corpus, self.split), data.translated_shots(self.corpus, self.split)

    def _by_language(self) -> dict[str, list[str]]:
        rows = [self.corpus.rows(code, part) for role in self.split._fields for code, part in self._parts(role)]
        return data.texts_by_language(self.corpus, np.concatenate(rows))

    def _texts_of(self, role: str) -> list[str]:
        return [text for of in self._parts(role) for text in self.corpus.texts(self.corpus.rows(*of))]

    def _parts(self, role: str) -> list[tuple[str, str]]:
        # Every language is adapted to on its train rows; those held out are judged on the rows of their role.
        return [(code, part) for code in self.languages(role) for part in dict.fromkeys(("train", role))]

    def _episodes(self, seed: int, *, cipher: float = 0.0) -> TextEpisodes:
        return self._episodes_of(self.corpus, self.split, seed, cipher=cipher)

    def _episodes_of(
        self, corpus: Corpus, split: LanguageSplit, seed: int, *, cipher: float = 0.0,
        present: Mapping[str, np.ndarray] | None = None,
    ) -> TextEpisodes:  # fmt: skip
        task = self.config.task
        return TextEpisodes(
            corpus, self.tokenizer, split,
            shots=task.shots, queries=task.queries, weighting=weighting_of(self.config, len(corpus.labels)),
            cipher=cipher, present=present, seed=seed,
            # Whoever learns from exchanged letters does not read what is told of the letters.
            families=self.config.generator.families if described(self.config) and not cipher else None,
        )  # fmt: skip


class WaveTasks:
    """Tasks of regression, one for each sine wave (implements `run.plan.Tasks`)."""

    unit = "wave"
    rowless = "Waves have no rows"

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
        return [f"{self.unit} {number}" for number in range(self.counts[split])]

    def episode(self, language: str, *, shots: int, draw: int, split: str) -> Episode:
        """Returns a wave at random points to adapt on, and at an even grid to judge on."""
        number = _WAVES[split] + int(language.removeprefix(f"{self.unit} "))
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
        raise InputError(f"`task.{split}_languages`: these have no names; give a number of them.")
    return count


def repeats_of(rows: data.Rows, split: data.LanguageSplit) -> str:
    """Returns what the report says of shots that are judged rows too."""
    repeated, shots = data.repeated_shots(rows, split)
    return f"{repeated} of {shots} rows that held-out languages adapt to are among those they are judged on"


def read_corpus(config: Config) -> Corpus:
    """Returns the labelled text of a config.

    Raises:
      InputError: the file is missing or malformed.
    """
    task = config.task
    if task.source == "cldr":
        return data.cldr(task.cldr, seed=config.seed)
    named = {"columns": named_columns(config, data.COLUMNS), "language": task.language or None}
    if task.source == "tsv":
        return data.read_tsv(
            data_paths(config), name=config.name, parallel=task.parallel, languages=named_languages(config),
            unaligned=task.left_out_languages, **named,
        )  # fmt: skip
    corpus = read_prepared(config, "classification", **named)
    assert isinstance(corpus, Corpus)
    return corpus


def split_of(config: Config, languages: Sequence[str]) -> LanguageSplit:
    """Returns the roles of languages that are no pairs; those that are left out are train languages."""
    task = config.task
    return data.split_languages(
        languages, test=task.test_languages, dev=task.dev_languages, train=task.train_languages, seed=config.seed
    )


def named_languages(config: Config) -> list[str]:
    """Returns the languages that are trained on or judged, if a config names them all; others need not be parallel."""
    task = config.task
    roles = (task.train_languages, task.dev_languages, task.test_languages)
    named = [codes for codes in roles if isinstance(codes, tuple) and codes]
    return [code for codes in named for code in codes] if len(named) == len(roles) else []


def is_prepared(config: Config) -> bool:
    """Returns whether the data of a config are prepared sets of tensorflow-datasets, and not files."""
    path, source = config.task.path, config.task.source
    if source not in ("npz", "omniglot"):
        return source == "tfds"
    if not isinstance(path, str) or not path or path.endswith(".npz"):
        return False
    return not any(place.is_file() for place in _places(path))


def data_paths(config: Config) -> list[pathlib.Path]:
    """Returns where the data of a config are that does not read what is embedded; several are read as one.

    Raises:
      InputError: it names none, or there is nothing.
    """
    task = config.task
    named = {
        "tsv": ("a TSV file", "cldr"),
        "npz": ("an npz file, or the folder of a prepared set", "synthetic_digits"),
        "omniglot": ("an npz file, or the folder of a prepared set", "cldr"),
    }
    what, instead = named.get(task.source, ("the folder of a prepared set", "cldr"))
    if not task.path:
        raise InputError(f'`task.path` is empty; name {what} (or set `task.source = "{instead}"`).')
    names = [task.path] if isinstance(task.path, str) else task.path
    if is_prepared(config):
        # Or it is the name of a set in TFDS's own folder, which knows it.
        return [next((path for path in _places(name) if path.is_dir()), pathlib.Path(name)) for name in names]
    return [find_file(name) for name in names]


def data_path(config: Config) -> pathlib.Path:
    """Returns the one place where the data of a config are.

    Raises:
      InputError: it names none, or several, or there is nothing.
    """
    path = config.task.path
    if path and not isinstance(path, str):
        raise InputError(
            f"`task.path` must name one place, got {list(path)}; several are read as one for classification of "
            "text, and several TSV files for every kind of text with `task.stream`."
        )
    return data_paths(config)[0]


def read_prepared(config: Config, schema: str, **named: Any) -> Corpus | Table | Recordings | Images:
    """Returns the rows of prepared TFDS sets: of one, or of several of classification.

    Raises:
      InputError: there is no such set, or it lacks a column or a split.
    """
    places = data_paths(config) if schema == "classification" else data_path(config)
    return data.read_tfds(places, schema=schema, splits=config.task.splits or None, **named)


def _places(name: str) -> list[pathlib.Path]:
    """Returns where a file or folder may be: as it is given, or under the folder that JAXMETA_DATA names."""
    home = os.environ.get("JAXMETA_DATA")
    return [pathlib.Path(name), *([pathlib.Path(home) / name] if home else [])]


def find_file(name: str, *, folder: bool = False) -> pathlib.Path:
    """Returns the path of a data file or folder: as it is given, or under the folder that JAXMETA_DATA names.

    Raises:
      InputError: it is at neither place.
    """
    tried = _places(name)
    for path in tried:
        if path.is_dir() if folder else path.is_file():
            return path
    places = " nor at ".join(map(str, tried))
    hint = "" if len(tried) > 1 else " (or set JAXMETA_DATA to the folder it is under)"
    raise InputError(f"There is no {'folder' if folder else 'file'} at {places}; correct the path{hint}.")


def check_source(config: Config) -> None:
    """Refuses settings of data that their source has not.

    Raises:
      InputError: with the key and what is allowed.
    """
    task = config.task
    prepared = is_prepared(config)
    for key, given in (("columns", task.source == "tsv" or prepared), ("language", task.source in ("tsv", "tfds"))):
        if getattr(task, key) and not given:
            raise InputError(
                f'`task.{key}` is about a file or a prepared set; leave it out with `task.source` "{task.source}", or '
                'set that to "tsv" or "tfds".'
            )
    if task.splits and not prepared:
        raise InputError("`task.splits` is about the splits of a prepared set (source tfds); leave it out.")
    if task.parallel and task.source != "tsv":
        raise InputError(
            f'`task.parallel` is about the order of rows in TSV files; leave it out with `task.source` "{task.source}".'
        )
    if task.lexicon and task.kind != "translation":
        raise InputError("`task.lexicon` is about translations; leave it out.")
    if task.source_language and (task.kind != "translation" or task.source not in ("tsv", "tfds")):
        raise InputError("`task.source_language` is about translations in files; leave it out.")
    of_languages = {
        "train_languages": task.train_languages,
        "left_out_languages": task.left_out_languages,
        "sampling": task.sampling != "temperature",
    }
    if task.source in ("sinusoid", *ENVIRONMENTS) and any(of_languages.values()):
        key = next(key for key, given in of_languages.items() if given)
        what = "waves" if task.source == "sinusoid" else "environments"
        raise InputError(f"`task.{key}` is about languages, and {what} have none; leave it out.")


def weighting_of(config: Config, classes: int = 1) -> Weighting:
    """Returns how often each language is drawn in training; an episode has its rows of each of so many classes."""
    task = config.task
    if task.sampling == "temperature":
        return data.tempered(task.temperature)
    return data.unimax(config.train.steps * task.tasks_per_step * (task.shots + task.queries) * classes, task.epochs)


def scripts_read(*read: tuple[Tokenizer, Mapping[str, Sequence[str]]]) -> list[dict[str, Any]]:
    """Returns what tokenizers make of each script, as the report has it."""
    return [{**row._asdict(), "languages": list(row.languages)} for row in data.script_facts(*read)]


def named_columns(config: Config, known: Sequence[str]) -> dict[str, str]:
    """Returns what the columns of a kind are called in the data of a config, where they are called otherwise.

    Raises:
      InputError: it names a column that the kind has not.
    """
    columns = config.task.columns
    for column in columns:
        if column not in known:
            raise InputError(
                f"`task.columns`: there is no column {column!r} in {config.task.kind}, which has {', '.join(known)}; "
                'write each as COLUMN = "its name in the data".'
            )
    return columns


def make_tokenizer(config: Config, texts: Iterable[str]) -> Tokenizer:
    """Returns the tokenizer of a config; a trained one has seen `texts` alone, train rows of train languages."""
    settings = config.tokenizer
    if settings.kind == "bytes":
        return data.ByteTokenizer(settings.length)
    return data.SentencePieceTokenizer.train(texts, settings.vocab_size, settings.length)
