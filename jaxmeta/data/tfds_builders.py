"""Text as tensorflow-datasets, without TensorFlow: built as array_record from files, read by number."""

import contextlib
import functools
import io
import pathlib
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from jaxmeta.core.checks import InputError, check_one_of
from jaxmeta.data.corpus import SPLITS, Corpus, Rows
from jaxmeta.data.lines import Path, fixed_codes, read_header, read_lines
from jaxmeta.data.read_table import make_table, read_table
from jaxmeta.data.table import SCHEMAS, Table
from jaxmeta.data.tsv import COLUMNS, make_corpus, read_tsv

# Sets whose rows are in one order in every language, so that sentence numbers can be stored with them.
# Here of each the languages that are not: one of SIB-200 lacks a row.
PARALLEL: Mapping[str, tuple[str, ...]] = {"nusax_senti": (), "nusax_mt": (), "xquad": (), "sib200": ("sat_Olck",)}
# What others call the splits.
_SPLIT_NAMES = {**{split: split for split in SPLITS}, "validation": "dev", "valid": "dev", "val": "dev"}
_KINDS: dict[str, tuple[str, ...]] = {
    "classification": COLUMNS,
    **{n: s.columns for n, s in SCHEMAS.items()},
}
# What `build_tfds` keeps of each row beside its columns.
_NUMBERED = ("row", "sentence")


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


def build_tfds(name: str, source_dir: Path, out_dir: Path, *, parallel: bool | None = None) -> pathlib.Path:
    """Builds the set `name` out of `source_dir/name.tsv` and returns its folder, `out_dir/name/1.0.0`.

    `tfds.builder_from_directory(folder)` and `tfds.data_source(name, data_dir=out_dir)` read it. Each row keeps its
    number and its sentence number, so that `read_tfds` gives what the file gives. A README.md of the source, which
    says whose the text is, comes along.

    Args:
        name: what to call it: the file's name without its ending; letters, digits and underscores.
        source_dir: the folder that the file is in, or the folder of a folder `name` that it is in.
        out_dir: the folder of TFDS sets.
        parallel: row `k` of a split says the same in every language; by default where the set is known to be so.

    Raises:
        InputError: the file is missing or malformed, or the set is there already.
    """
    folder = pathlib.Path(source_dir)
    source = next((p for p in (folder, folder / name) if (p / f"{name}.tsv").is_file()), folder)
    rows = read_rows(
        source / f"{name}.tsv", name=name, parallel=name in PARALLEL if parallel is None else parallel,
        unaligned=PARALLEL.get(name, ()),
    )  # fmt: skip
    tfds = _tfds()
    if not (name.isidentifier() and name == name.lower()):
        raise InputError(f"A TFDS set cannot be called {name!r}; use small letters, digits and underscores.")
    made = pathlib.Path(out_dir) / name / str(_builder_class().VERSION)
    if made.exists():
        raise InputError(f"{made} is there already; remove it, or build into another folder.")
    tfds.disable_progress_bar()
    readme = source / "README.md"
    with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
        builder = _builder_class()(rows, name, data_dir=str(out_dir), file_format="array_record")
        builder.download_and_prepare(download_dir=downloads)
    if readme.is_file():
        shutil.copy(readme, made / "README.md")
    return made


def read_tfds(
    source: Path,
    *,
    columns: Mapping[str, str] | None = None,
    schema: str | None = None,
    language: str | None = None,
    splits: Mapping[str, str] | None = None,
    data_dir: Path | None = None,
) -> Corpus | Table:
    """Reads a prepared TFDS set, by `build_tfds` or by others, as the corpus or the table that its columns make.

    Args:
        source: its folder, or its name in `data_dir` ("glue/sst2").
        columns: which feature is which column, where they are not called the same: `{"text": "sentence"}`, and
            `{"src": "translation/en"}` for one inside another.
        schema: "classification" or one of `SCHEMAS`; by default the one whose columns the set has.
        language: the language of all rows, where no feature says it; of a pair, "SOURCE-TARGET", or "SOURCE-" where
            a feature says the target.
        splits: which of train, dev and test each of its splits is; by default what their names say.
        data_dir: the folder of TFDS sets; TFDS's own by default.

    Raises:
        InputError: there is no such set, it needs TensorFlow, or it lacks a column.
    """
    builder = _open(source, data_dir)
    parts = dict(splits) if splits else {n: _SPLIT_NAMES[n] for n in builder.info.splits if n in _SPLIT_NAMES}
    if not parts or set(parts) - set(builder.info.splits) or set(parts.values()) - set(SPLITS):
        raise InputError(
            f"{source} has the splits {', '.join(builder.info.splits)}; say in `splits` which of them are "
            f"{', '.join(SPLITS)}."
        )
    features = _flat(builder.info.features)
    kind, wanted, fixed = _columns(source, features, dict(columns or {}), schema, language)
    rows = list(_examples(source, builder, parts, features, wanted, fixed))
    if not rows:
        raise InputError(f"{source} has no examples in {', '.join(parts)}; name other splits.")
    sentence = None
    if set(_NUMBERED) <= set(features):  # as they were in the file, whatever their split
        rows.sort(key=lambda row: int(row[1]["row"]))
        sentence = np.array([int(row["sentence"]) for _, row in rows], np.int64)
    where, name = pathlib.Path(source), builder.name
    if kind != "classification":
        return make_table(where, SCHEMAS[kind], rows, name=name, check_train=False, sentence=sentence)
    corpus = make_corpus(where, rows, name=name, labels=getattr(features[wanted["label"]], "names", None))
    if sentence is None:
        return corpus
    return Corpus(name, corpus.labels, corpus.language, corpus.split, corpus.label, corpus.text, sentence)


def _tfds() -> Any:
    import tensorflow_datasets

    return tensorflow_datasets


def _open(source: Path, data_dir: Path | None) -> Any:
    tfds = _tfds()
    folder = pathlib.Path(source)
    found = sorted(folder.rglob("dataset_info.json")) if folder.is_dir() else []
    if len(found) > 1:
        raise InputError(f"{source} holds {len(found)} TFDS sets; name the folder of one, such as {found[0].parent}.")
    try:
        if found:
            return tfds.builder_from_directory(found[0].parent)
        return tfds.builder(str(source), data_dir=None if data_dir is None else str(data_dir))
    except (ValueError, tfds.core.registered.DatasetNotFoundError, FileNotFoundError, AttributeError) as error:
        where = "TFDS's own folder" if data_dir is None else data_dir
        raise InputError(
            f"There is no TFDS set {source}, neither as a folder nor by this name in {where} "
            f"({type(error).__name__}); correct the name, or build it."
        ) from None


def _flat(features: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat = {}
    for name, feature in features.items():
        is_tree = isinstance(feature, Mapping) or hasattr(feature, "items")
        flat |= _flat(feature, f"{before}{name}/") if is_tree else {before + name: feature}
    return flat


def _columns(
    source: Path, features: dict[str, Any], columns: dict[str, str], name: str | None, language: str | None
) -> tuple[str, dict[str, str], dict[str, str]]:
    """Returns the kind of data, the feature of each of its columns, and its columns that are the same for all rows."""
    if name is not None:
        check_one_of("schema", name, tuple(_KINDS))
    called = {column: columns.get(column, column) for names in _KINDS.values() for column in names}
    for column, feature in columns.items():
        if feature not in features:
            raise InputError(
                f"{source} has no feature {feature!r}, which is to be the {column}, among "
                f"{', '.join(sorted(features))}; correct its name."
            )
    fixed = fixed_codes(("language",), language) | fixed_codes(("src_lang", "tgt_lang"), language)
    have = {c for c, feature in called.items() if feature in features} | set(fixed) | {"split", "line"}
    fits = [kind for kind in ([name] if name else _KINDS) if set(_KINDS[kind]) <= have]
    if not fits:
        lacks = f", and lacks {', '.join(sorted(set(_KINDS[name]) - have))}" if name else ""
        raise InputError(
            f"{source} has the features {', '.join(sorted(features))}{lacks}; say in `columns` which feature is which "
            f"column of {name or 'a schema'}, and in `language` which language it is in."
        )
    kind = max(fits, key=lambda kind: len(_KINDS[kind]))
    wanted = {c: called[c] for c in _KINDS[kind] if called[c] in features and c != "split"}
    return kind, wanted, {c: value for c, value in fixed.items() if c in _KINDS[kind] and c not in wanted}


def _examples(
    source: Path,
    builder,
    parts: dict[str, str],
    features: dict[str, Any],
    wanted: dict[str, str],
    fixed: dict[str, str],
) -> Iterator[tuple[int, dict[str, str]]]:
    own = {name: name for name in _NUMBERED} if set(_NUMBERED) <= set(features) else {}
    number = 0
    for split, part in parts.items():
        try:
            examples = builder.as_data_source(split=split)
        except (NotImplementedError, ValueError):
            raise InputError(
                f"{source} is not stored as array_record, and other formats need TensorFlow; prepare it again with "
                "file_format=array_record."
            ) from None
        for example in examples:
            number += 1
            row = {column: _text(example, feature, features[feature]) for column, feature in {**wanted, **own}.items()}
            if empty := [column for column in wanted if not row[column].strip()]:
                raise InputError(f"{source}, example {number}: the {empty[0]} is empty; leave such examples out of it.")
            yield number, {**fixed, "line": str(number), **row, "split": part}


def _text(example: Mapping[str, Any], name: str, feature: Any) -> str:
    value: Any = functools.reduce(lambda tree, key: tree[key], name.split("/"), example)
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if hasattr(feature, "int2str"):
        return feature.int2str(int(value)) if value >= 0 else ""
    return repr(value.item()) if isinstance(value, np.generic) else str(value)


@functools.cache
def _builder_class() -> Any:
    tfds = _tfds()

    class TextBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore
        """Writes the rows of a corpus or a table."""

        VERSION = tfds.core.Version("1.0.0")

        def __init__(self, rows: Rows, name: str, **options):
            self.rows, self.name = rows, name
            super().__init__(**options)

        def _info(self):
            text, number = tfds.features.Text, np.int64
            features: dict[str, Any] = {"row": number, "sentence": number}
            if isinstance(self.rows, Corpus):
                features |= {"language": text(), "text": text()}
                features["label"] = tfds.features.ClassLabel(names=list(self.rows.labels))
            elif isinstance(self.rows, Table):
                schema = self.rows.schema
                features |= {column: text() for column in (*schema.language, *schema.texts)} | dict(schema.numbers)
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{self.name}: {len(self.rows)} rows of text in {len(self.rows.languages())} languages.",
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            present = [split for split in SPLITS if (self.rows.split == split).any()]
            return {split: self._generate_examples(split) for split in present}

        def _generate_examples(self, split):
            for row in np.flatnonzero(self.rows.split == split).tolist():
                yield row, {"row": row, "sentence": int(self.rows.sentence[row]), **_fields(self.rows, row)}

    return TextBuilder


def _fields(rows: Rows, row: int) -> dict[str, Any]:
    language = str(rows.language[row])
    if isinstance(rows, Corpus):
        return {"language": language, "text": rows.text[row], "label": rows.labels[rows.label[row]]}
    assert isinstance(rows, Table)
    texts = {column: str(rows.columns[column][row]) for column in rows.schema.texts}
    numbers = {column: rows.numbers(column)[row].item() for column in rows.schema.numbers}
    return {**dict(zip(rows.schema.language, rows.codes(language), strict=True)), **texts, **numbers}
