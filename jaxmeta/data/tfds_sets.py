"""Sets of tensorflow-datasets, whatever is in them: opened, read and written without TensorFlow."""

import contextlib
import functools
import importlib.util
import io
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxmeta.core.checks import InputError
from jaxmeta.data.corpus import SPLITS
from jaxmeta.data.lines import Path

# What others call the splits.
_SPLIT_NAMES = {**{split: split for split in SPLITS}, "validation": "dev", "valid": "dev", "val": "dev"}
_VERSION = "1.0.0"


@functools.cache
def library() -> Any:
    """Returns `tensorflow_datasets`, which is slow to import."""
    import tensorflow_datasets

    if importlib.util.find_spec("tensorflow") is None:
        _read_audio_as_stored(tensorflow_datasets)
    return tensorflow_datasets


class Chosen(NamedTuple):
    """A prepared set, and what is read of it."""

    source: Path
    builder: Any
    kind: str
    parts: Mapping[str, str]  # train, dev or test by split
    features: Mapping[str, Any]  # all that it has, by name
    wanted: Mapping[str, str]  # the feature of each column
    fixed: Mapping[str, str]  # columns that are the same for all rows

    def feature(self, column: str) -> Any:
        """Returns the feature that a column is."""
        return self.features[self.wanted[column]]


class Contents(NamedTuple):
    """What a set is to hold: features of `tensorflow_datasets`, the examples of each split, a sentence for people."""

    features: Mapping[str, Any]
    splits: Mapping[str, Iterable[Mapping[str, Any]]]
    description: str


@contextlib.contextmanager
def intact(source: Path) -> Iterator[None]:
    """Says in one sentence what TFDS, and what it reads files by, say in many ways: that a set is damaged."""
    try:
        yield
    except (InputError, ImportError, MemoryError):
        raise
    except Exception as error:  # what damage raises has no class in common
        why = f"{type(error).__name__}: {error}".partition("\n")[0].partition(". ")[0].rstrip(".")
        raise InputError(f"{source} cannot be read, as if it were damaged ({why}); copy or build it again.") from None


def open_set(source: Path, data_dir: Path | None) -> Any:
    """Returns the builder of a prepared set, by its folder or its name in `data_dir` (TFDS's own by default).

    Raises:
        InputError: there is no such set, it is damaged, or a feature of it needs TensorFlow.
    """
    with intact(source):
        return _opened(source, data_dir)


def _opened(source: Path, data_dir: Path | None) -> Any:
    tfds = library()
    folder = pathlib.Path(source)
    found = sorted(folder.rglob("dataset_info.json")) if folder.is_dir() else []
    if len(found) > 1:
        raise InputError(f"{source} holds {len(found)} TFDS sets; name the folder of one, such as {found[0].parent}.")
    try:
        if found:
            return tfds.builder_from_directory(found[0].parent)
        return tfds.builder(str(source), data_dir=None if data_dir is None else str(data_dir))
    except (InputError, json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ImportError as error:
        # TFDS does not name what it lacks.
        raise InputError(f"{source} needs {error.name or 'tensorflow'} to be read; install it.") from None
    except (ValueError, tfds.core.registered.DatasetNotFoundError, FileNotFoundError, AttributeError) as error:
        if found:
            raise
        where = "TFDS's own folder" if data_dir is None else data_dir
        raise InputError(
            f"There is no TFDS set {source}, neither as a folder nor by this name in {where} "
            f"({type(error).__name__}); correct the name, or build it."
        ) from None


def parts_of(source: Path, builder: Any, splits: Mapping[str, str] | None) -> dict[str, str]:
    """Returns which of train, dev and test each split of a set is, or each part of one, such as "train[:10%]".

    Raises:
        InputError: there is no such split, or none that is known by its name.
    """
    parts = dict(splits) if splits else {n: _SPLIT_NAMES[n] for n in builder.info.splits if n in _SPLIT_NAMES}
    try:
        known = [builder.info.splits[name] for name in parts if name.partition("[")[0] in builder.info.splits]
    except ValueError:  # the part that is named is none
        known = []
    if not known or len(known) < len(parts) or set(parts.values()) - set(SPLITS):
        raise InputError(
            f"{source} has the splits {', '.join(builder.info.splits)}; say in `splits` which of them are "
            f"{', '.join(SPLITS)}."
        )
    _check_apart(source, dict(zip(parts, known, strict=True)))
    return parts


def _check_apart(source: Path, parts: Mapping[str, Any]) -> None:
    """Refuses parts of one split that have examples in common, which would be learned from and judged on."""
    seen: dict[str, list[tuple[int, int, str]]] = {}
    for name, part in parts.items():
        for piece in part.file_instructions:
            start, end = piece.skip, piece.skip + piece.take
            for first, last, other in seen.setdefault(piece.filename, []):
                if start < last and first < end:
                    raise InputError(
                        f"{source}: the parts {other!r} and {name!r} have examples in common; name parts that have "
                        "none."
                    )
            seen[piece.filename].append((start, end, name))


def flat(features: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Returns the features of a set by name, "a/b" where b is inside a."""
    found = {}
    for name, feature in features.items():
        is_tree = isinstance(feature, Mapping) or hasattr(feature, "items")
        found |= flat(feature, f"{before}{name}/") if is_tree else {before + name: feature}
    return found


def open_split(chosen: Chosen, split: str) -> Any:
    """Returns the examples of a split, by number from 0 up.

    Raises:
        InputError: reading needs TensorFlow, or the set is damaged.
    """
    with intact(chosen.source):
        try:
            return chosen.builder.as_data_source(split=split)
        except (NotImplementedError, ValueError):
            raise InputError(
                f"{chosen.source} is not stored as array_record, and other formats need TensorFlow; prepare it again "
                "with file_format=array_record."
            ) from None


def examples(chosen: Chosen) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Yields the examples of a set: their number, from 1 up, whether they are train, dev or test, and themselves.

    Raises:
        InputError: there are none, the set is damaged, or reading needs TensorFlow, or a library for images.
    """
    source, number = chosen.source, 0
    for split, part in chosen.parts.items():
        stored = open_split(chosen, split)
        try:
            with intact(source):
                for example in stored:
                    number += 1
                    yield number, part, example
        except ImportError:
            raise InputError(
                f"{source} has images as PNG or JPEG, which Pillow reads, and that is not installed; `pip install "
                "pillow`."
            ) from None
    if not number:
        raise InputError(f"{source} has no examples in {', '.join(chosen.parts)}; name other splits.")


def value_of(chosen: Chosen, example: Mapping[str, Any], column: str) -> Any:
    """Returns what an example has in a column."""
    return functools.reduce(lambda tree, key: tree[key], chosen.wanted[column].split("/"), example)


def texts_of(chosen: Chosen, number: int, example: Mapping[str, Any], columns: Iterable[str]) -> dict[str, str]:
    """Returns what an example has in some columns, as text: of a class its name.

    Raises:
        InputError: one of them is empty, is no text, or has no class.
    """
    found = {}
    for column in columns:
        value, where = value_of(chosen, example, column), f"{chosen.source}, example {number}: the {column}"
        if value is None:  # of a file that ends before it
            raise InputError(f"{where} is missing, as if the set were damaged; copy or build it again.")
        if np.ndim(value):
            raise InputError(f"{where} is a list in {chosen.wanted[column]!r}; name a feature that has one text.")
        try:
            found[column] = _text(chosen.feature(column), value)
        except UnicodeDecodeError:
            raise InputError(f"{where} is not UTF-8; store it as UTF-8, or leave such examples out.") from None
    if empty := [column for column, text in found.items() if not text.strip()]:
        raise InputError(f"{chosen.source}, example {number}: the {empty[0]} is empty; leave such examples out of it.")
    return found


def _text(feature: Any, value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if hasattr(feature, "int2str"):
        return feature.int2str(int(value)) if value >= 0 else ""
    return repr(value.item()) if isinstance(value, np.generic) else str(value)


def write_set(name: str, out_dir: Path, contents: Contents, readme: pathlib.Path) -> pathlib.Path:
    """Writes the set `name` as array_record, whole or not at all, and returns its folder, `out_dir/name/1.0.0`.

    Args:
        name: letters, digits and underscores.
        out_dir: the folder of TFDS sets.
        contents: what it is to hold.
        readme: a file that says whose the data are, which comes along where it is.

    Raises:
        InputError: it cannot be called so, or is there already.
    """
    if not (name.isidentifier() and name == name.lower()):
        raise InputError(f"A TFDS set cannot be called {name!r}; use small letters, digits and underscores.")
    made = pathlib.Path(out_dir) / name / _VERSION
    if made.exists():
        raise InputError(f"{made} is there already; remove it, or build into another folder.")
    library().disable_progress_bar()
    with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
        builder = _builder_class()(name, contents, data_dir=str(out_dir), file_format="array_record")
        builder.download_and_prepare(download_dir=downloads)
    if readme.is_file():
        shutil.copy(readme, made / "README.md")
    return made


@functools.cache
def _builder_class() -> Any:
    tfds = library()

    class SetBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore
        """Writes examples in the order that they are given in."""

        VERSION = tfds.core.Version(_VERSION)

        def __init__(self, name: str, contents: Contents, **options):
            self.name, self._contents = name, contents
            super().__init__(**options)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=self._contents.description,
                features=tfds.features.FeaturesDict(dict(self._contents.features)),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {split: self._generate_examples(split) for split in self._contents.splits}

        def _generate_examples(self, split):
            yield from enumerate(self._contents.splits[split])

    return SetBuilder


def _read_audio_as_stored(tfds: Any) -> None:
    """Lets features `Audio` of others be read: TFDS asks for TensorFlow before it looks at the arrays that they are.

    TFDS has aliases for features that have moved. Without TensorFlow its own class could not be made at all.
    """
    audio = tfds.features.Audio

    class StoredAudio(tfds.features.Tensor):
        """Samples, and how many a second has, where the set says so."""

        ALIASES: tuple[str, ...] = (f"{audio.__module__}.{audio.__name__}",)
        sample_rate: int | None = None

        @classmethod
        def from_json_content(cls, value):
            content = value if isinstance(value, dict) else _fields_of(value)
            if content.get("lazy_decode"):
                raise InputError(
                    f"A TFDS set keeps {content.get('file_format') or 'audio'} files, which need TensorFlow to be "
                    "read; prepare it again with lazy_decode=False, or install tensorflow."
                )
            shape = tuple(None if size in (None, -1) else size for size in content["shape"])
            found = cls(shape=shape, dtype=np.dtype(content["dtype"]), encoding=content.get("encoding") or "none")
            found.sample_rate = content.get("sample_rate") or None
            return found


def _fields_of(message: Any) -> dict[str, Any]:
    """Returns the fields of a protocol buffer of audio."""
    names = ("dtype", "encoding", "sample_rate", "file_format", "lazy_decode")
    return {"shape": list(message.shape.dimensions), **{name: getattr(message, name) for name in names}}
