"""What `jaxmeta data` does: looks at data, builds sets of tensorflow-datasets, writes problems for others to repeat."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tomli_w
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxmeta import data
from jaxmeta.config.build import build
from jaxmeta.config.kinds import settled
from jaxmeta.config.problems import joined, manifest_of
from jaxmeta.config.read import load_jobs
from jaxmeta.config.run_folder import read_run_config
from jaxmeta.config.tasks import find_file, scripts_read
from jaxmeta.config.turns import takes_turns, turns_of
from jaxmeta.core.checks import InputError
from jaxmeta.data.cldr_pairs import pair_languages
from jaxmeta.data.read_arrays import array_names
from jaxmeta.run.records import read_evaluation
from jaxmeta.run.table import SCRIPT_HEADERS, script_cells


def list_data() -> None:
    """Prints the tasks that come with the package and the TSV and npz files under JAXMETA_DATA."""
    table = Table(box=None)
    for heading in ("name", "languages", "labels", "rows"):
        table.add_column(heading, justify="left" if heading == "name" else "right")
    for task in data.CLDR_TASKS:
        corpus = data.cldr(task)
        table.add_row(task, *map(str, (len(corpus.languages()), len(corpus.labels), len(corpus))))
    for task in data.CLDR_PAIR_TASKS:
        table.add_row(task, str(len(pair_languages(task))), "", "")
    console = Console()
    console.print(table)
    folder = os.environ.get("JAXMETA_DATA")
    if not folder:
        console.print("Set JAXMETA_DATA to a folder of TSV and npz files to see them here.")
        return
    found = sorted((*pathlib.Path(folder).rglob("*.tsv"), *pathlib.Path(folder).rglob("*.npz")))
    if not found:
        console.print(f"JAXMETA_DATA is {escape(folder)}, where there is no TSV or npz file.")
    for path in found:
        print(path.relative_to(folder))  # whole, and with any bracket that it has


def show_data(what: str | None, rows: int) -> None:
    """Prints the first labelled examples of some languages.

    Raises:
      InputError: there is no such data.
    """
    if rows < 1:
        raise InputError(f"`--rows` must be positive, got {rows}.")
    found = _rows(what)
    table = Table(box=None)
    if isinstance(found, data.Images):
        for heading in ("alphabet", "characters", "drawings"):
            table.add_column(heading)
        for name in found.alphabets()[:rows]:
            drawn = found.characters((name,))
            table.add_row(escape(name), str(len(drawn)), str(sum(map(len, drawn))))
        Console().print(table)
        return
    columns = _columns(found)
    for heading in ("language", "split", *columns):
        table.add_column(heading)
    # A stride shows many languages instead of the first alone.
    for row in range(0, len(found), max(1, len(found) // rows))[:rows]:
        values = (str(values[row]) for values in columns.values())
        table.add_row(*map(escape, (str(found.language[row]), str(found.split[row]), *values)))
    Console().print(table)


def check_data(what: str | None) -> None:
    """Prints what a file holds, or what is wrong with it.

    Raises:
      InputError: it is malformed.
    """
    found = _rows(what)
    if isinstance(found, data.Images):
        drawn = [len(rows) for rows in found.characters(found.alphabets())]
        print(f"{found.name}: {len(found)} images, {len(drawn)} characters, {len(found.alphabets())} alphabets")
        print(f"  {min(drawn)} to {max(drawn)} drawings of a character")
        return
    labels = f"of {found.schema.name}" if isinstance(found, data.Table) else f"labels {', '.join(found.labels)}"
    print(f"{found.name}: {len(found)} rows, {len(found.languages())} languages, {labels}")
    for split in data.SPLITS:
        counts = [len(found.rows(language, split)) for language in found.languages()]
        print(f"  {split}: {sum(counts)} rows, {min(counts)} to {max(counts)} in a language")


def show_scripts(what: str | None, length: int) -> None:
    """Prints what a tokenizer makes of each script: of a run the one that it reads with, of other data bytes.

    Raises:
      InputError: there is no such data, or they are not text.
    """
    if length < 1:
        raise InputError(f"`--length` must be positive, got {length}.")
    if what is not None and (pathlib.Path(what) / "config.toml").exists():
        facts = read_evaluation(what).get("data", {}).get("scripts", [])
    elif isinstance(rows := _rows(what), data.Recordings | data.Images):
        facts = []
    else:
        by_language = data.texts_by_language(rows, np.arange(len(rows)))
        facts = scripts_read((data.ByteTokenizer(length), by_language))
    if not facts:
        raise InputError(f"{what} has no text; name a file of text, or a run that reads some.")
    table = Table(box=None)
    for heading in SCRIPT_HEADERS:
        table.add_column(heading.replace(" ", "\n"), justify="left" if heading == "script" else "right")
    for row in facts:
        table.add_row(*script_cells(row))
    Console().print(table)


def build_data(name: str | None, source: str, out: str) -> None:
    """Builds a set of tensorflow-datasets out of a file, several out of files whose names begin alike, or where there
    is none an npz file of Omniglot out of its folders, and prints the lines of a config that read each.

    Raises:
      InputError: there is no such file, it is malformed, or the set is there already.
    """
    if name is None:
        raise InputError(
            "Name the set to build: NAME of NAME.tsv or NAME.npz, such as `jaxmeta data build reviews --from FOLDER`."
        )
    place = find_file(source, folder=True)
    if name == "omniglot" and data.find_source(name, place) is None:
        built = data.build_omniglot(place, out)
        _tell_built(built, data.read_images(built))
        return
    names = data.find_sets(name, place)
    for each in names:
        if len(names) > 1 and (there := pathlib.Path(out) / each).exists():
            raise InputError(f"{there} is there already; remove it, build into another folder, or name the others.")
    for number, each in enumerate(names):
        built = data.build_tfds(each, place, out)
        if number:
            print()
        _tell_built(built, data.read_tfds(built, dev=0))


def _tell_built(built: pathlib.Path, rows: data.Rows | data.Images) -> None:
    print(f"Built {built}. In a config:\n")
    print(tomli_w.dumps({"task": {**_task_of(rows), "path": str(built)}}), end="")


def _task_of(rows: data.Rows | data.Images) -> dict[str, Any]:
    """Returns what a config says of rows of a kind beside where they are."""
    if isinstance(rows, data.Images):
        return {"source": "omniglot"}
    if isinstance(rows, data.Recordings):
        return {"kind": "classification", "source": "npz", "rate": rows.rate}
    return {"kind": rows.schema.name if isinstance(rows, data.Table) else "classification", "source": "tfds"}


def write_problems(what: str | None, preset: str | None, out: str) -> None:
    """Writes the problems that a run of a config is judged on; `[evaluate] manifest` reads the file.

    Args:
      what: a config, a run folder, or None for the embedded job.
      preset: of the config.
      out: the file to write.

    Raises:
      InputError: the config cannot be carried out, or asks for several runs, or the file exists.
    """
    target = pathlib.Path(out)
    if target.exists():
        raise InputError(f"{target} exists; give another file with --out, or remove it.")
    if what is not None and pathlib.Path(what).is_dir():
        if preset is not None:
            raise InputError(f"{what} is a run, whose preset is settled; leave out --preset.")
        config = settled(read_run_config(pathlib.Path(what)))
    else:
        jobs = load_jobs(what, preset=preset)
        if jobs.several:
            raise InputError(
                f"{what} asks for several runs ({', '.join(jobs.configs)}), which are judged on problems of their own; "
                "train them, and name the folder of one."
            )
        config = settled(jobs.configs[""])
    turns = turns_of(config).values() if takes_turns(config) else [config]
    manifest = joined([manifest_of(build(turn).tasks, turn) for turn in turns])
    target.parent.mkdir(parents=True, exist_ok=True)
    data.write_manifest(target, manifest)
    languages = len({problem.language for problem in manifest.problems})
    print(f"Wrote {len(manifest.problems)} problems in {languages} languages to {target}. In a config:\n")
    print(tomli_w.dumps({"evaluate": {"manifest": str(target)}}), end="")


def _rows(what: str | None) -> data.Corpus | data.Table | data.Recordings | data.Images:
    if what is None:
        raise InputError(f"Say what to look at: {', '.join((*data.CLDR_TASKS, *data.CLDR_PAIR_TASKS))}, or a file.")
    if what in data.CLDR_TASKS:
        return data.cldr(what)
    if what in data.CLDR_PAIR_TASKS:
        return data.cldr_pairs(what)
    path = find_file(what)
    if path.suffix == ".npz":
        return data.read_images(path) if "image" in array_names(path) else data.read_recordings(path)
    return data.read_rows(path)


def _columns(found: data.Corpus | data.Table | data.Recordings) -> dict[str, Sequence]:
    """Returns what the rows hold beside their language and split, by column."""
    if not isinstance(found, data.Table):
        labels = [found.labels[number] for number in found.label]
        if isinstance(found, data.Corpus):
            return {"label": labels, "text": found.text}
        return {"label": labels, "seconds": [f"{count / found.rate:.2f}" for count in found.samples]}
    return {column: found.columns[column] for column in (*found.schema.texts, *found.schema.numbers)}  # pyright: ignore
