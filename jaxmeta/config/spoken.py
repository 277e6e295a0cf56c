"""What an adapted model reads from a user's npz files of recordings, and what it answers."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxmeta import data
from jaxmeta.config.answering import Run, Support
from jaxmeta.config.networks import samples_of
from jaxmeta.config.schema import Config
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Batch
from jaxmeta.data import AudioEpisodes, LanguageSplit, Recordings, StringEpisodes
from jaxmeta.data.string_episodes import LABELS
from jaxmeta.objectives import best_path


def read_spoken(config: Config, labels: Sequence[str], path: str) -> Support:
    """Reads the recordings of a user's voice to adapt to; for recognition they are dealt into strings.

    Raises:
      InputError: the file is malformed, has another rate, or says what the run does not know.
    """
    recordings = _checked(config, data.read_clips(path, labels), path)
    split, length = LanguageSplit(train=recordings.languages(), dev=(), test=()), samples_of(config)
    if config.task.kind == "recognition":
        episodes = StringEpisodes(
            recordings, split, shots=1, queries=1, length=length, repeats=config.task.repeats, seed=config.seed
        )
    else:
        episodes = AudioEpisodes(recordings, split, shots=1, queries=1, length=length)
    batch = dict(episodes.batch(np.arange(len(recordings))))
    if "classes" in batch:
        batch["classes"] = np.ones_like(batch["classes"])
    return Support(batch, [])


def blank_spoken(config: Config, labels: int, count: int) -> Batch:
    """Returns a batch that is shaped like what `read_spoken` reads, of `count` examples."""
    length, one = samples_of(config), np.ones(count, np.int32)
    batch = {
        "inputs": {"audio": np.ones((count, length), np.int16), "samples": one * length},
        "mask": np.ones(count, bool),
    }
    if config.task.kind == "recognition":
        return {**batch, "targets": np.ones((count, LABELS[1]), np.int32)}
    return {**batch, "targets": one * 0, "classes": np.ones((count, labels), bool)}


def heard(config: Config, labels: Sequence[str], run: Run, path: str, show: Callable[[np.ndarray], str]) -> list[str]:
    """Returns what a model hears in each recording of a file.

    Args:
      config: of the run that was adapted.
      labels: what a recording may say.
      run: the adapted model.
      path: the npz file.
      show: writes the probabilities of the labels `[C]`, where one recording has one of them.

    Raises:
      InputError: the file is malformed, or has another rate.
    """
    recordings = _checked(config, data.read_clips(path, labels, labelled=False), path)
    found = run(recordings.clips(np.arange(len(recordings)), samples_of(config)))
    if config.task.kind != "recognition":
        return [show(row) for row in np.asarray(jax.nn.softmax(found))]
    words = np.asarray(best_path(found["logits"], found["real"]))
    return [" ".join(labels[int(word) - 1] for word in row if word) for row in words]


def _checked(config: Config, recordings: Recordings, path: str) -> Recordings:
    if recordings.rate != config.task.rate:
        raise InputError(
            f"{path} has {recordings.rate} samples in a second, and this run has heard {config.task.rate}; resample it."
        )
    return recordings
