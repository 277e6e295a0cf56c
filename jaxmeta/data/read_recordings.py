"""An npz file of recordings, with one sentence for whatever is wrong with it."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxmeta.core.checks import InputError, check_not_negative
from jaxmeta.data.corpus import SPLITS
from jaxmeta.data.lines import Path
from jaxmeta.data.read_arrays import read_arrays
from jaxmeta.data.recordings import Recordings, same_recordings

_PLACES = {"digit": "label", "speaker": "speaker", "split": "split", "index": "recording number"}
_ARRAYS = ("audio", "offset", *_PLACES, "speaker_names", "rate")


def read_recordings(path: Path, *, name: str | None = None, dev: int = 5) -> Recordings:
    """Reads a numpy .npz file of recordings.

    Its arrays are `audio` int16, all clips end to end; `offset`, one more than there are clips, where each begins and
    the last one ends; `digit`, `speaker`, `index` (the number of the recording) and `split` (0 train, 1 dev, 2 test),
    integers, one for each clip; `speaker_names`, strings; `rate`, samples in a second.

    Args:
        path: the file.
        name: what to call it; the file's name without its ending by default.
        dev: if no clip of the file is dev, so many of the train recordings of every speaker and digit become dev, those
            of the highest numbers; 0 for none. Settings can then be chosen without the test recordings.

    Raises:
        InputError: anything in the file is not so.
    """
    recordings, index = read_numbered(path, name=name)
    return check_recordings(path, recordings, index, dev)


def read_numbered(path: Path, *, name: str | None = None) -> tuple[Recordings, np.ndarray]:
    """Reads such a file as it is, and the number of each recording [N], by which `check_recordings` goes.

    Raises:
        InputError: anything in the file is not so.
    """
    arrays = read_arrays(path, _ARRAYS)
    audio, offset = arrays["audio"], _offsets(path, arrays)
    count = len(offset) - 1
    columns = {column: _column(path, column, arrays[column], count) for column in _PLACES}
    names = _names(path, arrays["speaker_names"])
    _check_below(path, "speaker", columns["speaker"], len(names), "`speaker_names` are")
    _check_below(path, "split", columns["split"], len(SPLITS), "splits are, 0 train, 1 dev and 2 test")
    digits = np.unique(columns["digit"])
    found = Recordings(
        name=name if name is not None else pathlib.Path(path).stem,
        labels=tuple(map(str, digits.tolist())),
        language=names[columns["speaker"]],
        split=np.array(SPLITS)[columns["split"]],
        label=np.searchsorted(digits, columns["digit"]).astype(np.int32),
        start=offset[:-1],
        samples=np.diff(offset),
        sentence=same_recordings(audio, offset[:-1], np.diff(offset)),
        audio=audio,
        rate=_rate(path, arrays["rate"]),
    )
    return found, columns["index"]


def check_recordings(where: Path, recordings: Recordings, index: np.ndarray, dev: int) -> Recordings:
    """Returns recordings that can be trained and judged on, of which some are dev.

    Args:
        where: what they were read from.
        recordings: all of them.
        index: the number of each recording, [N].
        dev: as for `read_recordings`.

    Raises:
        InputError: all say the same, one is in two splits, or too few are left to train on.
    """
    check_not_negative("dev", dev)
    if len(said := np.unique(recordings.label)) < 2:
        raise InputError(
            f"{where}: every clip says {recordings.labels[said[0]]}; add clips of at least one other label."
        )
    if dev and not (recordings.split == "dev").any():
        recordings = dataclasses.replace(recordings, split=_with_dev(where, recordings, index, dev))
    _check_repeats(where, recordings)
    return recordings


def read_clips(path: Path, labels: Sequence[str], *, labelled: bool = True) -> Recordings:
    """Reads the recordings of one speaker from a numpy .npz file with `audio`, `offset`, `rate` and perhaps `digit`.

    They are as for `read_recordings`, but that `digit` may hold the names of labels instead, as strings ("yes", "turn
    left"). Whatever else the file holds is not read. All clips are train recordings of a speaker called "yours".

    Args:
        path: the file.
        labels: what clips may say, in the order of the numbers that are returned.
        labelled: whether to read `digit`; otherwise every clip has the label 0.

    Raises:
        InputError: anything in the file is not so, or a clip says what is not among `labels`.
    """
    arrays = read_arrays(path, ("audio", "offset", *(("digit",) if labelled else ()), "rate"))
    audio, offset = arrays["audio"], _offsets(path, arrays)
    count, label = len(offset) - 1, np.zeros(len(offset) - 1, np.int32)
    if labelled:
        numbers = {name: number for number, name in enumerate(labels)}
        for clip, said in enumerate(_said(path, arrays["digit"], count)):
            if said not in numbers:
                raise InputError(
                    f"{path}, clip {clip}: `digit` is {said}, and this model knows {', '.join(labels)}; correct it, "
                    "or leave the clip out."
                )
            label[clip] = numbers[said]
    return Recordings(
        name=pathlib.Path(path).stem,
        labels=tuple(labels),
        language=np.full(count, "yours"),
        split=np.full(count, "train"),
        label=label,
        start=offset[:-1],
        samples=np.diff(offset),
        sentence=np.arange(count),
        audio=audio,
        rate=_rate(path, arrays["rate"]),
    )


def _offsets(path: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    audio, offset = arrays["audio"], arrays["offset"]
    if audio.dtype != np.int16 or audio.ndim != 1:
        raise InputError(
            f"{path}: `audio` is {audio.dtype.name} of {audio.ndim} axes; store all clips end to end as one row of "
            "int16."
        )
    if not np.issubdtype(offset.dtype, np.integer) or offset.ndim != 1:
        raise InputError(f"{path}: `offset` is {offset.dtype.name} of {offset.ndim} axes; store one row of int64.")
    if len(offset) < 2 or not len(audio):
        raise InputError(f"{path} has no clips; add recordings, and an `offset` where each begins and the last ends.")
    offset = offset.astype(np.int64)
    if offset[0] != 0 or offset[-1] != len(audio):
        raise InputError(
            f"{path}: `offset` runs from {offset[0]} to {offset[-1]} and `audio` from 0 to {len(audio)}; let the first "
            "clip begin at 0 and the last one end where the audio ends."
        )
    lengths = np.diff(offset)
    if (lengths <= 0).any():
        clip = int(np.argmax(lengths <= 0))
        raise InputError(
            f"{path}, clip {clip}: `offset` goes from {offset[clip]} to {offset[clip + 1]}; let it grow from clip to "
            "clip, and leave empty clips out."
        )
    return offset


def _said(path: Path, values: np.ndarray, count: int) -> list[str]:
    """Returns the name of the label of each clip, which is stored as it is or as a number."""
    if values.dtype.kind != "U":
        return [str(number) for number in _column(path, "digit", values, count, "an integer or a string").tolist()]
    _check_shape(path, "digit", values, count)
    return values.tolist()


def _column(path: Path, name: str, values: np.ndarray, count: int, what: str = "an integer") -> np.ndarray:
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"{path}: `{name}` is {values.dtype.name}; store {what} for each clip.")
    _check_shape(path, name, values, count)
    return values.astype(np.int64)


def _check_shape(path: Path, name: str, values: np.ndarray, count: int) -> None:
    if values.shape != (count,):
        raise InputError(
            f"{path}: `{name}` has the shape {list(values.shape)} where `offset` has {count} clips; give each clip one "
            f"{_PLACES[name]}."
        )


def _names(path: Path, names: np.ndarray) -> np.ndarray:
    if names.dtype.kind != "U" or names.ndim != 1 or not len(names) or not all(map(str.strip, names.tolist())):
        raise InputError(f"{path}: `speaker_names` is no row of strings; store the name of each speaker.")
    if len(set(names.tolist())) < len(names):
        raise InputError(f"{path}: two of `speaker_names` are the same; give each speaker a name of its own.")
    return names


def _check_below(path: Path, name: str, values: np.ndarray, limit: int, what: str) -> None:
    wrong = (values < 0) | (values >= limit)
    if wrong.any():
        clip = int(np.argmax(wrong))
        raise InputError(f"{path}, clip {clip}: `{name}` is {values[clip]} where {limit} {what}; correct the number.")


def _rate(path: Path, rate: np.ndarray) -> int:
    if not np.issubdtype(rate.dtype, np.integer) or rate.size != 1 or rate.reshape(-1)[0] <= 0:
        raise InputError(f"{path}: `rate` is no positive whole number; store how many samples a second has.")
    return int(rate.reshape(-1)[0])


def _check_repeats(path: Path, recordings: Recordings) -> None:
    """Refuses a recording that is trained on and judged on."""
    for clip, first in enumerate(recordings.sentence.tolist()):
        if recordings.split[first] != recordings.split[clip]:
            raise InputError(
                f"{path}: clip {first} ({recordings.split[first]}) and clip {clip} ({recordings.split[clip]}) are the "
                "same recording; give it one split, or leave one out."
            )


def _with_dev(path: Path, recordings: Recordings, index: np.ndarray, dev: int) -> np.ndarray:
    split = recordings.split.copy()
    for speaker in recordings.languages():
        rows = recordings.rows(speaker, "train")
        for number, digit in enumerate(recordings.labels):
            cell = rows[recordings.label[rows] == number]
            if 0 < len(cell) <= dev:
                raise InputError(
                    f"{path}: {speaker} has {len(cell)} train recordings of {digit}, and {dev} are set aside as dev, "
                    "which leaves none to learn from; add some, or say yourself which are dev: in `split` of an npz "
                    "file, or of a prepared set in `task.splits`."
                )
            split[cell[np.argsort(index[cell], kind="stable")[len(cell) - dev :]]] = "dev"
    return split
