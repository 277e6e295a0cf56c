"""Recordings and images as sets of tensorflow-datasets: what is written of an npz file, and read of any such set."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxmeta.core.checks import InputError
from jaxmeta.data.corpus import SPLITS
from jaxmeta.data.images import Images, check_characters, read_images
from jaxmeta.data.lines import Path
from jaxmeta.data.read_arrays import array_names
from jaxmeta.data.read_recordings import check_recordings, read_numbered
from jaxmeta.data.recordings import Recordings, same_recordings
from jaxmeta.data.tfds_sets import Chosen, Contents, examples, library, texts_of, value_of

RECORDINGS, IMAGES = "recordings", "images"
# The columns of each kind, as `task.columns` names them; the rate may be said by the audio itself.
ARRAY_COLUMNS: Mapping[str, tuple[str, ...]] = {
    RECORDINGS: ("audio", "label", "speaker", "split", "rate"),
    IMAGES: ("image", "character", "alphabet"),
}
_KEPT = {RECORDINGS: ("row", "index"), IMAGES: ("row",)}  # beside the columns, in the sets that are written here
_WHOLE = "train"  # the one split of images, which configs divide by alphabet


def contents_of(path: Path, name: str) -> Contents:
    """Returns what a set is to hold of an npz file of recordings or of images, told by its arrays.

    Raises:
        InputError: the file is missing or malformed.
    """
    if "image" in array_names(path):
        return _image_contents(read_images(path, name=name))
    recordings, index = read_numbered(path, name=name)
    # Recordings that are set aside as dev are so when the set is read, as of a file.
    return _recording_contents(check_recordings(path, recordings, index, dev=0), index)


def read_recordings_of(chosen: Chosen, dev: int) -> Recordings:
    """Returns the recordings of a set, as `read_recordings` returns those of a file.

    Raises:
        InputError: an example lacks something, or the recordings cannot be trained and judged on.
    """
    source, audio, rates, splits, speakers, labels, places = chosen.source, [], [], [], [], [], []
    own, told = _is_own(chosen), [column for column in ("label", "speaker", "rate") if column in chosen.wanted]
    for number, part, example in examples(chosen):
        texts = texts_of(chosen, number, example, told)
        audio.append(_samples(source, number, value_of(chosen, example, "audio")))
        rates.append(texts["rate"] if "rate" in texts else str(chosen.feature("audio").sample_rate))
        splits.append(part)
        labels.append(texts["label"])
        speakers.append(texts["speaker"])
        places.append((int(example["row"]), int(example["index"])) if own else (number, number))
    if len(set(rates)) > 1 or not rates[0].isdecimal() or not int(rates[0]):
        raise InputError(
            f"{source} has recordings of {' and '.join(sorted(set(rates))[:2])} samples in a second; let it be one "
            "whole number for all."
        )
    row, index = np.array(places, np.int64).T
    order = np.argsort(row, kind="stable")  # as they were in the file, whatever their split
    names = getattr(chosen.feature("label"), "names", None) or sorted(set(labels), key=_by_number)
    numbers = {name: number for number, name in enumerate(names)}
    joined = np.concatenate([audio[place] for place in order])
    samples = np.array([len(audio[place]) for place in order], np.int64)
    start = np.cumsum(samples) - samples
    found = Recordings(
        name=chosen.builder.name,
        labels=tuple(names),
        language=np.array(speakers)[order],
        split=np.array(splits)[order],
        label=np.array([numbers[label] for label in labels], np.int32)[order],
        start=start,
        samples=samples,
        sentence=same_recordings(joined, start, samples),
        audio=joined,
        rate=int(rates[0]),
    )
    return check_recordings(source, found, index[order], dev)


def read_images_of(chosen: Chosen) -> Images:
    """Returns the images of a set, as `read_images` returns those of a file.

    Raises:
        InputError: an example lacks something, or images are not of one size.
    """
    source, images, characters, alphabets, rows = chosen.source, [], [], [], []
    own = _is_own(chosen)
    for number, _, example in examples(chosen):
        images.append(_pixels(source, number, value_of(chosen, example, "image")))
        if images[-1].shape != images[0].shape:
            raise InputError(
                f"{source}, example {number}: the image is {_size(images[-1])} pixels where the first one is "
                f"{_size(images[0])}; make all of one size."
            )
        character = np.asarray(value_of(chosen, example, "character"))
        if not np.issubdtype(character.dtype, np.integer):
            raise InputError(
                f"{source}, example {number}: the character is {character.dtype.name}; store an integer, "
                "another one for each character of all alphabets."
            )
        characters.append(int(character))
        alphabets.append(texts_of(chosen, number, example, ("alphabet",))["alphabet"])
        rows.append(int(example["row"]) if own else number)
    order = np.argsort(rows, kind="stable")
    found = Images(
        name=chosen.builder.name,
        image=np.stack([images[place] for place in order]),
        character=np.array(characters, np.int64)[order],
        alphabet=np.array(alphabets)[order],
    )
    check_characters(source, found)
    return found


def _is_own(chosen: Chosen) -> bool:
    """Returns whether a set was written here, and says in which order its file was."""
    return set(chosen.features) == {*ARRAY_COLUMNS[chosen.kind], *_KEPT[chosen.kind]} - {"split"}


def _recording_contents(recordings: Recordings, index: np.ndarray) -> Contents:
    tfds = library()
    features = {
        "row": np.int64,
        "index": np.int64,
        # Not `Audio`, which cannot be read without TensorFlow.
        "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="zlib"),
        "label": tfds.features.ClassLabel(names=list(recordings.labels)),
        "speaker": tfds.features.Text(),
        "rate": np.int64,
    }

    def clips(rows: Iterable[int]) -> Iterator[dict[str, Any]]:
        for row in rows:
            start, samples = recordings.start[row], recordings.samples[row]
            yield {
                "row": row,
                "index": int(index[row]),
                "audio": recordings.audio[start : start + samples],
                "label": recordings.labels[recordings.label[row]],
                "speaker": str(recordings.language[row]),
                "rate": recordings.rate,
            }

    rows = {split: np.flatnonzero(recordings.split == split).tolist() for split in SPLITS}
    return Contents(
        features,
        {split: clips(numbers) for split, numbers in rows.items() if numbers},
        f"{recordings.name}: {len(recordings)} recordings of {len(recordings.languages())} speakers.",
    )


def _image_contents(images: Images) -> Contents:
    tfds = library()
    height, width = images.image.shape[1:]
    features = {
        "row": np.int64,
        # Not `Image`, whose pixels are read by Pillow, which need not be there.
        "image": tfds.features.Tensor(shape=(height, width), dtype=np.uint8, encoding="zlib"),
        "character": np.int64,
        "alphabet": tfds.features.Text(),
    }
    drawn = (
        {
            "row": row,
            "image": images.image[row],
            "character": int(images.character[row]),
            "alphabet": str(images.alphabet[row]),
        }
        for row in range(len(images))
    )
    said = f"{images.name}: {len(images)} drawings of characters of {len(images.alphabets())} alphabets."
    return Contents(features, {_WHOLE: drawn}, said)


def _samples(source: Path, number: int, audio: Any) -> np.ndarray:
    audio = np.asarray(audio)
    if audio.ndim == 2 and audio.shape[1] == 1:  # one channel
        audio = audio[:, 0]
    whole = audio.ndim == 1 and np.issubdtype(audio.dtype, np.integer) and audio.size
    if not whole or audio.min() < np.iinfo(np.int16).min or audio.max() > np.iinfo(np.int16).max:
        raise InputError(
            f"{source}, example {number}: the audio is {audio.dtype.name} of the shape {list(audio.shape)}, and not "
            "some samples of 16 bits in one channel; convert it."
        )
    return audio.astype(np.int16)


def _pixels(source: Path, number: int, image: Any) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[2] == 1:  # one channel
        image = image[:, :, 0]
    if image.dtype != np.uint8 or image.ndim != 2:
        raise InputError(
            f"{source}, example {number}: the image is {image.dtype.name} of the shape {list(image.shape)}; store one "
            "channel of uint8, 255 where there is ink."
        )
    return image


def _size(image: np.ndarray) -> str:
    return " x ".join(map(str, image.shape))


def _by_number(label: str) -> tuple[int, str]:
    return (int(label), "") if label.isdecimal() else (-1, label)
