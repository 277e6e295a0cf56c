"""Sets of tensorflow-datasets out of files of any kind, and the rows of any kind out of such sets."""

import dataclasses
import os
import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxmeta.core.checks import InputError, check_one_of
from jaxmeta.data import tfds_arrays
from jaxmeta.data.corpus import SPLITS, Corpus
from jaxmeta.data.images import Images
from jaxmeta.data.lines import Path, check_pair, fixed_codes, read_header, read_lines
from jaxmeta.data.read_table import make_table, read_table
from jaxmeta.data.recordings import Recordings
from jaxmeta.data.table import SCHEMAS, Table
from jaxmeta.data.tfds_sets import (
    Chosen,
    Contents,
    examples,
    flat,
    intact,
    library,
    open_set,
    open_split,
    parts_of,
    texts_of,
    write_set,
)
from jaxmeta.data.tsv import COLUMNS, make_corpus, read_tsv

# Sets whose rows are in one order in every language, so that sentence numbers can be stored with them.
# Here of each the languages that are not: one of SIB-200 lacks a row.
PARALLEL: Mapping[str, tuple[str, ...]] = {"nusax_senti": (), "nusax_mt": (), "xquad": (), "sib200": ("sat_Olck",)}
_KINDS: dict[str, tuple[str, ...]] = {
    "classification": COLUMNS,
    **{n: s.columns for n, s in SCHEMAS.items()},
    **tfds_arrays.ARRAY_COLUMNS,
}
# What `build_tfds` keeps of each row of text beside its columns.
NUMBERED = ("row", "sentence")


def read_rows(
    path: Path, *, name: str | None = None, parallel: bool = False, unaligned: Collection[str] = ()
) -> Corpus | Table:
    """Reads a tab-separated file of any schema, told by its columns; it need not have train rows in every language.

    Raises:
        InputError: the file is missing or malformed, or its columns are those of no schema.
    """
    header = read_header(path, read_lines(path)[0][1])
    if {"label", "text"} <= set(header):
        return read_tsv(path, name=name, require_splits=False, parallel=parallel, unaligned=unaligned)
    return read_table(path, name=name, require_splits=False, parallel=parallel)


def find_source(name: str, source_dir: Path) -> pathlib.Path | None:
    """Returns `name.tsv` or `name.npz` of a folder, or of the folder `name` in it."""
    folder = pathlib.Path(source_dir)
    files = [place / f"{name}{ending}" for place in (folder, folder / name) for ending in (".tsv", ".npz")]
    return next((file for file in files if file.is_file()), None)


def find_sets(name: str, source_dir: Path) -> tuple[str, ...]:
    """Returns the sets that a name is of: the one whose file is called so, or where there is none, all that are called
    `name_...`, such as nusax_mt and nusax_senti by "nusax"; itself if there are none either."""
    if find_source(name, source_dir):
        return (name,)
    folder = pathlib.Path(source_dir)
    files = (file for place in ("", "*/") for ending in ("tsv", "npz") for file in folder.glob(f"{place}*.{ending}"))
    stems = {file.stem for file in files if file.stem.startswith(f"{name}_")}
    return tuple(sorted(stem for stem in stems if find_source(stem, folder))) or (name,)


def build_tfds(name: str, source_dir: Path, out_dir: Path, *, parallel: bool | None = None) -> pathlib.Path:
    """Builds the set `name` out of `source_dir/name.tsv`, or `name.npz`, and returns its folder, `out_dir/name/1.0.0`.

    `tfds.builder_from_directory(folder)` and `tfds.data_source(name, data_dir=out_dir)` read it. Each row keeps its
    number and its sentence number, or the number of the recording, so that `read_tfds` gives what the file gives. A
    README.md of the source, which says whose the data are, comes along.

    Args:
        name: what to call it: the file's name without its ending; letters, digits and underscores.
        source_dir: the folder that the file is in, or the folder of a folder `name` that it is in.
        out_dir: the folder of TFDS sets.
        parallel: of text: row `k` of a split says the same in every language; by default where the set is known to be
            so.

    Raises:
        InputError: the file is missing or malformed, or the set is there already.
    """
    source = find_source(name, source_dir)
    if source is None:
        place = pathlib.Path(source_dir) / name
        raise InputError(f"{place}.tsv does not exist, nor {name}.npz; correct the path to the folder of one.")
    if source.suffix == ".npz":
        contents = tfds_arrays.contents_of(source, name)
    else:
        parallel = name in PARALLEL if parallel is None else parallel
        contents = _contents(read_rows(source, name=name, parallel=parallel, unaligned=PARALLEL.get(name, ())))
    return write_set(name, out_dir, contents, source.parent / "README.md")


def read_tfds(
    source: Path | Sequence[Path],
    *,
    columns: Mapping[str, str] | None = None,
    schema: str | None = None,
    language: str | None = None,
    splits: Mapping[str, str] | None = None,
    data_dir: Path | None = None,
    dev: int = 5,
) -> Corpus | Table | Recordings | Images:
    """Reads a prepared TFDS set, by `build_tfds` or by others, as the rows that its columns make.

    Args:
        source: its folder, or its name in `data_dir` ("glue/sst2"); or several of classification, which are read as
            one.
        columns: which feature is which column, where they are not called the same: `{"text": "sentence"}`, and
            `{"src": "translation/en"}` for one inside another.
        schema: "classification", one of `SCHEMAS`, "recordings" or "images"; by default the one whose columns the set
            has.
        language: the language of all rows, where no feature says it; of a pair, "SOURCE-TARGET", or "SOURCE-" where
            a feature says the target.
        splits: which of train, dev and test each of its splits is; by default what their names say. Parts of a split
            are named as TFDS does it, `{"train[:10%]": "test", "train[10%:]": "train"}`.
        data_dir: the folder of TFDS sets; TFDS's own by default.
        dev: of recordings, as for `read_recordings`.

    Raises:
        InputError: there is no such set, it needs TensorFlow, or it lacks a column.
    """
    sources = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    sets = [choose_set(each, columns or {}, schema, language, splits, data_dir) for each in sources]
    first = sets[0]
    if other := [one for one in sets if one.kind != "classification"]:
        if len(sets) > 1:
            raise InputError(
                f"{other[0].source} is a set of {other[0].kind}, and several are read as one where all are of "
                "classification; name one."
            )
        if first.kind == tfds_arrays.RECORDINGS:
            return tfds_arrays.read_recordings_of(first, dev)
        if first.kind == tfds_arrays.IMAGES:
            return tfds_arrays.read_images_of(first)
        rows, sentence = _rows(first)
        where, name = pathlib.Path(first.source), first.builder.name
        return make_table(where, SCHEMAS[first.kind], rows, name=name, check_train=False, sentence=sentence)
    return _corpus(sets)


def choose_set(
    source: Path,
    columns: Mapping[str, str],
    schema: str | None,
    language: str | None,
    splits: Mapping[str, str] | None,
    data_dir: Path | None,
) -> Chosen:
    """Returns a prepared set and what is read of it; see `read_tfds`.

    Raises:
        InputError: there is no such set, it needs TensorFlow, or it lacks a column.
    """
    builder = open_set(source, data_dir)
    parts = parts_of(source, builder, splits)
    features = flat(builder.info.features)
    kind, wanted, fixed = _columns(source, features, dict(columns), schema, language)
    return _in_order(Chosen(source, builder, kind, parts, features, wanted, fixed))


def _in_order(chosen: Chosen) -> Chosen:
    """Returns a set whose splits that are joined are in the order of their rows, where these have kept their number."""
    parts = chosen.parts
    if len(set(parts.values())) == len(parts) or not set(NUMBERED) <= set(chosen.features):
        return chosen

    def first(split: str) -> int:
        stored = open_split(chosen, split)
        with intact(chosen.source):
            return int(stored[0]["row"]) if len(stored) else 0

    return chosen._replace(parts={split: parts[split] for split in sorted(parts, key=first)})


def _corpus(sets: Sequence[Chosen]) -> Corpus:
    """Returns the rows of one set, or of several in turn, which share neither rows nor sentences."""
    read = [_rows(one) for one in sets]
    known = {tuple(getattr(one.feature("label"), "names", None) or ()) for one in sets}
    labels = next(iter(known)) if len(known) == 1 else ()
    corpus = make_corpus(
        pathlib.Path(sets[0].source), [row for rows, _ in read for row in rows],
        name="+".join(one.builder.name for one in sets), labels=labels or None,
    )  # fmt: skip
    sentences, first = [], 0
    for rows, sentence in read:
        sentences.append(first + (np.arange(len(rows)) if sentence is None else sentence))
        first = int(sentences[-1].max()) + 1
    return dataclasses.replace(corpus, sentence=np.concatenate(sentences))


def _rows(chosen: Chosen) -> tuple[list[tuple[int, dict[str, str]]], np.ndarray | None]:
    """Returns the numbered rows of a set of text, and their sentence numbers where it has them."""
    numbered = set(NUMBERED) <= set(chosen.features)
    rows, places = [], []
    for number, part, example in examples(chosen):
        texts = texts_of(chosen, number, example, chosen.wanted)
        rows.append((number, {**chosen.fixed, "line": str(number), **texts, "split": part}))
        places.append([int(example[name]) for name in NUMBERED] if numbered else [number, 0])
    row, sentence = np.array(places, np.int64).T
    order = np.argsort(row, kind="stable")  # as they were in the file, whatever their split
    return [rows[place] for place in order], sentence[order] if numbered else None


def _columns(
    source: Path, features: dict[str, Any], columns: dict[str, str], name: str | None, language: str | None
) -> tuple[str, dict[str, str], dict[str, str]]:
    """Returns the kind of data, the feature of each of its columns, and its columns that are the same for all rows."""
    if name is not None:
        check_one_of("schema", name, tuple(_KINDS))
    called = {column: columns.get(column, column) for names in _KINDS.values() for column in names}
    for column, feature in columns.items():
        if column == "split":
            raise InputError(
                f"`columns` says that {feature!r} is the split of a row, and {source} has splits of its own; say in "
                "`splits` (`task.splits`) which of them, or which parts of them, are train, dev and test."
            )
        if feature not in features:
            raise InputError(
                f"{source} has no feature {feature!r}, which is to be the {column}, among "
                f"{', '.join(sorted(features))}; correct its name."
            )
    fixed = fixed_codes(("language",), language) | fixed_codes(("src_lang", "tgt_lang"), language)
    have = {c for c, feature in called.items() if feature in features} | set(fixed) | {"split", "line"}
    if getattr(features.get(called["audio"]), "sample_rate", None):
        have.add("rate")
    fits = [kind for kind in _KINDS if set(_KINDS[kind]) <= have]
    if not fits or name not in (None, *fits):
        lacks = f", and lacks {', '.join(sorted(set(_KINDS[name]) - have))}" if name else ""
        lacks += f" (it has all of {' and of '.join(fits)})" if fits else ""
        of_text = "" if name in tfds_arrays.ARRAY_COLUMNS else ", and in `language` which language it is in"
        raise InputError(
            f"{source} has the features {', '.join(sorted(features))}{lacks}; say in `columns` which feature is which "
            f"column of {name or 'a schema'}{of_text}."
        )
    kind = name or max(fits, key=lambda kind: len(_KINDS[kind]))
    if kind in SCHEMAS:
        check_pair(SCHEMAS[kind].language, language)
    wanted = {c: called[c] for c in _KINDS[kind] if called[c] in features and c != "split"}
    return kind, wanted, {c: value for c, value in fixed.items() if c in _KINDS[kind] and c not in wanted}


def _contents(rows: Corpus | Table) -> Contents:
    tfds = library()
    text, number = tfds.features.Text, np.int64
    features: dict[str, Any] = {"row": number, "sentence": number}
    if isinstance(rows, Corpus):
        features |= {"language": text(), "text": text()}
        features["label"] = tfds.features.ClassLabel(names=list(rows.labels))
    else:
        features |= {column: text() for column in (*rows.schema.language, *rows.schema.texts)}
        features |= dict(rows.schema.numbers)
    numbers = {split: np.flatnonzero(rows.split == split).tolist() for split in SPLITS}
    return Contents(
        features,
        {split: _examples(rows, found) for split, found in numbers.items() if found},
        f"{rows.name}: {len(rows)} rows of text in {len(rows.languages())} languages.",
    )


def _examples(rows: Corpus | Table, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
    for row in numbers:
        yield {"row": row, "sentence": int(rows.sentence[row]), **_fields(rows, row)}


def _fields(rows: Corpus | Table, row: int) -> dict[str, Any]:
    language = str(rows.language[row])
    if isinstance(rows, Corpus):
        return {"language": language, "text": rows.text[row], "label": rows.labels[rows.label[row]]}
    texts = {column: str(rows.columns[column][row]) for column in rows.schema.texts}
    numbers = {column: rows.numbers(column)[row].item() for column in rows.schema.numbers}
    return {**dict(zip(rows.schema.language, rows.codes(language), strict=True)), **texts, **numbers}
