"""Tasks of recordings, one for each speaker: what single ones say, or strings of them, alone or beside their text."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxmeta import data
from jaxmeta.config.kinds import RECORDED
from jaxmeta.config.networks import samples_of
from jaxmeta.config.schema import Config
from jaxmeta.config.tasks import data_path, is_prepared, make_tokenizer, named_columns, read_prepared, weighting_of
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data import AudioEpisodes, Recordings, StringEpisodes, Tokenizer, TranscriptEpisodes

# Recordings of the train speakers that are replayed while a method adapts; they become part of what is compiled.
_REPLAYED = 512
_MORE_VOICES = 16  # synthetic ones, to train on


class SpeechTasks:
    """Tasks of recordings, one for each speaker (implements `run.plan.Tasks`)."""

    unit = "speaker"

    def __init__(self, config: Config):
        self.config = config
        self.recordings, test = recordings_of(config), config.task.test_languages
        assert test != "each"  # `build` refuses it
        split = data.split_languages(
            self.recordings.languages(),
            test=test,
            dev=config.task.dev_languages,
            train=config.task.train_languages,
            seed=config.seed,
        )
        self.split = data.without_sources(split, config.task.left_out_languages)
        self.overlap = data.check_overlap(self.recordings, self.split)
        self.tokenizer = transcript_tokenizer(config)  # none where nothing is read but recordings
        self.judged = self._episodes(config.seed, repeats=config.task.repeats)
        self.judged.check_shots()

    def batches(self, seed: int, first: int, *, augmented: bool) -> Callable[[int], Iterator[Episode]]:
        """Returns what `train_phase` takes as `make_batches`, for a phase whose first step is number `first`."""
        del augmented  # joint training gains by pretended speakers as meta-learners do, so all have them
        episodes = self._episodes(seed, voices=self.config.train.voices)
        per_step = self.config.task.tasks_per_step
        return lambda start: data.batches(episodes, split="train", tasks_per_step=per_step, start=first + start)

    def languages(self, split: str) -> Sequence[str]:
        """Returns the speakers of `split`."""
        return getattr(self.split, split)

    def episode(self, language: str, *, shots: int, draw: int, split: str) -> Episode:
        """Returns the `draw`-th few-shot problem of a speaker."""
        return self.judged.evaluation_episode(
            language, shots=shots, draw=draw, split=split, max_queries=self.config.evaluate.max_queries
        )

    def rows(self, language: str, *, shots: int, draw: int, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the recordings that `episode` is made of: support and query, the latter for every draw."""
        return self.judged.evaluation_rows(
            language, shots=shots, draw=draw, split=split, max_queries=self.config.evaluate.max_queries
        )

    def source(self) -> Batch:
        """Returns train recordings of the train speakers, or strings of them, for baselines that replay them."""
        return self.judged.pool("train", _REPLAYED)

    def facts(self) -> dict[str, Any]:
        """Returns what the report says of the data."""
        recordings = self.recordings
        return {
            "corpus": f"{recordings.name}: {len(recordings)} recordings, {len(recordings.languages())} speakers",
            "speakers": {role: len(names) for role, names in self.split._asdict().items()},
            "overlap": str(self.overlap),
            "cut_recordings": str(recordings.count_cut(self.judged.length)),
        }

    def _episodes(self, seed: int, *, voices: float = 0.0, repeats: float = 1.0) -> AudioEpisodes:
        task = self.config.task
        options: dict[str, Any] = {
            "shots": task.shots, "queries": task.queries, "length": samples_of(self.config), "voices": voices,
            "weighting": weighting_of(self.config, len(self.recordings.labels)), "seed": seed,
        }  # fmt: skip
        if task.kind == "recognition":
            return StringEpisodes(self.recordings, self.split, repeats=repeats, **options)
        if self.tokenizer is not None:
            return TranscriptEpisodes(self.recordings, self.split, self.tokenizer, repeats=repeats, **options)
        return AudioEpisodes(self.recordings, self.split, **options)


def recordings_of(config: Config) -> Recordings:
    """Returns the recordings of a config.

    Raises:
      InputError: the file or the prepared set is missing or malformed, or has another rate.
    """
    task = config.task
    if task.source == "synthetic_digits":
        held_out = (task.test_languages, task.dev_languages)
        wanted = task.speakers or _MORE_VOICES + sum(n if isinstance(n, int) else len(n) for n in held_out)
        # A fifth of the recordings is for test and a fifth for dev; the rest has to hold an episode.
        needed = max(task.shots + task.queries, *config.evaluate.shot_curve, 1)
        found = data.synthetic_digits(wanted, recordings=max(3, -(-needed * 5 // 3)), seed=config.seed)
        remedy = f"set it to {found.rate}"
    else:
        if is_prepared(config):
            found = read_prepared(config, "recordings", columns=named_columns(config, data.ARRAY_COLUMNS["recordings"]))
            assert isinstance(found, Recordings)
        else:
            found = data.read_recordings(data_path(config))
        remedy = f"set it to {found.rate}, or resample them"
    if found.rate != task.rate:
        raise InputError(
            f"{found.name} has {found.rate} samples in a second of its recordings, and `task.rate` is {task.rate}; "
            f"{remedy}."
        )
    return found


def transcript_tokenizer(config: Config) -> Tokenizer | None:
    """Returns what reads transcripts, where recordings stand beside them.

    Raises:
      InputError: it is not one of bytes.
    """
    if config.task.source not in RECORDED or config.task.kind != "retrieval":
        return None
    if config.tokenizer.kind != "bytes":
        raise InputError('Transcripts have few words; leave `tokenizer.kind` at "bytes" for retrieval of recordings.')
    return make_tokenizer(config, ())


def in_strings(config: Config) -> bool:
    """Returns whether recordings are dealt into strings."""
    return config.task.source in RECORDED and config.task.kind in ("recognition", "retrieval")


def string_count(config: Config, recordings: int, repeats: float = 1.0) -> int:
    """Returns how many examples so many recordings are made into: strings, where they are dealt into such."""
    return data.number_of_strings(recordings, repeats=repeats) if in_strings(config) else recordings
