"""What the commands of the command line do."""

import os
import pathlib
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tomli_w
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxmeta import data
from jaxmeta.config import adapted, planning
from jaxmeta.config.answering import answers
from jaxmeta.config.build import Built, build, check_device
from jaxmeta.config.image_tasks import ImageTasks
from jaxmeta.config.kinds import settled
from jaxmeta.config.read import difference, dump, validated
from jaxmeta.config.schema import Config
from jaxmeta.config.speech_tasks import SpeechTasks
from jaxmeta.config.spoken import heard
from jaxmeta.config.tasks import TextTasks, WaveTasks, find_file
from jaxmeta.config.turns import takes_turns, turns_of
from jaxmeta.core.checks import InputError
from jaxmeta.data.cldr_pairs import pair_languages
from jaxmeta.data.lines import read_header, read_lines
from jaxmeta.data.read_arrays import array_names
from jaxmeta.run.experiment import Trained, restore, train
from jaxmeta.run.files import PART, write_json, write_whole
from jaxmeta.run.fits import fits
from jaxmeta.run.judge import evaluate
from jaxmeta.run.logging import MetricsLog, progress
from jaxmeta.run.planner import device_memory, fastest, parse_size, size_text
from jaxmeta.run.records import read_evaluation
from jaxmeta.run.report import write_report
from jaxmeta.run.table import Evaluation, results_table
from jaxmeta.run.turns import pooled


def train_run(config: Config, out: str | None, table: Callable[[Evaluation], Table] = results_table) -> None:
    """Trains, judges and reports; goes on where an earlier run of the same config was cut off.

    Args:
      config: the config.
      out: the run folder; runs/NAME by default.
      table: makes what is printed in the end of the evaluation.

    Raises:
      InputError: the folder holds a run of another config, or the config cannot be carried out.
    """
    folder = pathlib.Path(out or f"runs/{config.name}")
    config = settled(config)
    turns = turns_of(config) if takes_turns(config) else {}
    found = (folder / "config.toml").exists()
    if found:
        _check_same(folder, config)
    elif folder.exists() and not _is_free(folder):
        raise InputError(f"{folder} exists and is not a run; give another folder with --out.")
    console = Console(stderr=True)
    check_device(config)
    if turns:
        build(next(iter(turns.values())))  # whatever is wrong is said before there is a folder
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "config.toml", dump(config))
        for name, turn in turns.items():
            # A turn that is over is not judged again: a run that was cut off soon is where it was.
            if not (folder / name / "evaluation.json").exists():
                train_run(turn, str(folder / name))
        _report_turns(folder, turns, table)
        return
    built = build(config)
    chosen = _chosen(built, folder, console) if config.gradient.strategy == "auto" else {}
    if chosen:
        built = planning.with_choices(built, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.toml", dump(config))
    if chosen:
        write_json(folder / planning.CHOICES, {name: how._asdict() for name, how in chosen.items()})
        console.print(planning.choices_text(chosen), highlight=False, soft_wrap=True, markup=False)
    if isinstance(built.tasks, SpeechTasks):
        adapted.write_task(folder, built.tasks.recordings.labels, None)
    elif not isinstance(built.tasks, WaveTasks | ImageTasks):
        labels = built.tasks.corpus.labels if isinstance(built.tasks, TextTasks) else ()
        adapted.write_task(folder, labels, built.tasks.tokenizer)
    console.print(f"{'Continuing' if found else 'Training'} {config.name} in {folder}", highlight=False, soft_wrap=True)
    if overlap := built.experiment.data_facts.get("overlap"):
        console.print(overlap, highlight=False, soft_wrap=True)
    with MetricsLog(folder) as log, progress() as display:
        trained = train(built.experiment, folder, log, display)
    _judge(built, trained, folder, table)


def plan_gradient(config: Config, method: str | None, memory: str | None) -> None:
    """Prints what an outer step of a method costs, way by way, and the lines of a config for the fastest that fits.

    Raises:
      InputError: the config cannot be carried out, or nothing fits.
    """
    limit = device_memory() if memory is None else parse_size(memory)
    built = build(config)
    name = planning.method_to_plan(built.setting, method)
    with Console(stderr=True).status(f"Measuring an outer step of {name}"):
        measured = planning.measured_ways(built, name, limit)
    best = fastest(measured, f"An outer step of {name}", limit)
    title = (
        f"{name}: an outer step of {config.task.tasks_per_step} tasks and {config.inner.steps} inner steps, "
        f"in {size_text(limit)}"
    )
    Console().print(planning.plan_table(measured, best, title))
    print(planning.as_toml(planning.How(*best.labels)), end="")


def evaluate_run(run: str) -> None:
    """Judges a finished run again.

    Raises:
      InputError: there is no run, or it is not finished.
    """
    folder = pathlib.Path(run)
    config = read_run_config(folder)
    if takes_turns(config):
        turns = turns_of(config)
        for name in turns:
            evaluate_run(str(folder / name))
        _report_turns(folder, turns)
        return
    built = build(config)
    _judge(built, restore(built.experiment, folder), folder)


def adapt_run(run: str, shots: str, out: str, method: str | None) -> None:
    """Adapts a method of a run to the examples of a file and writes the result to a new folder.

    Raises:
      InputError: the run or the file is unusable, or the folder exists.
    """
    folder, target = pathlib.Path(run), pathlib.Path(out)
    config = read_run_config(folder)
    if target.exists():
        raise InputError(f"{target} exists; give another folder with --out, or remove it.")
    there = next(parent for parent in target.absolute().parents if parent.exists())
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=there) as scratch:
        whole = pathlib.Path(scratch) / "whole"
        summary = adapted.adapt(folder, config, shots, whole, method or config.evaluate.main)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(whole, target)
    Console(stderr=True).print(f"{summary} Wrote {target}.", highlight=False, soft_wrap=True)


def predict_texts(model: str, source: str, *, every_label: bool) -> None:
    """Prints a label and its probability, or what a model of another kind answers, for each line of a text.

    Raises:
      InputError: the model or the text is unusable.
    """
    # First, so that nobody types texts for a model that is not there.
    loaded = adapted.load(pathlib.Path(model))
    if loaded.tokenizer is None:
        _predict_recordings(loaded, source, every_label=every_label)
        return
    texts = data.read_plain(source)
    if not loaded.labels:
        if every_label:
            raise InputError("`--all` prints the probabilities of labels, and this model has none; leave it out.")
        found = answers(loaded.config, loaded.tokenizer, lambda inputs: adapted.outputs(loaded, inputs), texts, source)
        for answer, text in zip(found, texts, strict=True):
            print(f"{answer}\t{text}")
        return
    if note := adapted.cut_note(loaded.tokenizer, texts):
        Console(stderr=True).print(note, highlight=False, soft_wrap=True)
    labels, probabilities = loaded.labels, adapted.predict(loaded, texts)
    for text, row in zip(texts, probabilities, strict=True):
        print(f"{_shown(labels, row, every_label=every_label)}\t{text}")


def _predict_recordings(loaded: adapted.Adapted, source: str, *, every_label: bool) -> None:
    if every_label and loaded.config.task.kind == "recognition":
        raise InputError("`--all` prints the probabilities of labels, and this model writes words; leave it out.")
    if source == "-":
        raise InputError("This model reads recordings; name an npz file by --input.")
    labels = loaded.labels
    found = heard(
        loaded.config, labels, lambda inputs: adapted.outputs(loaded, inputs), source,
        lambda row: _shown(labels, row, every_label=every_label),
    )  # fmt: skip
    for number, answer in enumerate(found):
        print(f"{answer}\tclip {number}")


def _shown(labels: Sequence[str], row: np.ndarray, *, every_label: bool) -> str:
    if every_label:
        return " ".join(f"{label}={p:.4f}" for label, p in zip(labels, row, strict=True))
    return f"{labels[int(row.argmax())]}\t{row.max():.4f}"


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
    for path in sorted((*pathlib.Path(folder).rglob("*.tsv"), *pathlib.Path(folder).rglob("*.npz"))):
        console.print(str(path.relative_to(folder)), highlight=False)


def show_data(what: str | None, rows: int) -> None:
    """Prints the first labelled examples of some languages.

    Raises:
      InputError: there is no such data.
    """
    found = _rows(what)
    table = Table(box=None)
    if isinstance(found, data.Images):
        for heading in ("alphabet", "characters", "drawings"):
            table.add_column(heading)
        for name in found.alphabets()[:rows]:
            drawn = found.characters((name,))
            table.add_row(name, str(len(drawn)), str(sum(map(len, drawn))))
        Console().print(table)
        return
    columns = _columns(found)
    for heading in ("language", "split", *columns):
        table.add_column(heading)
    # A stride shows many languages instead of the first alone.
    for row in range(0, len(found), max(1, len(found) // max(1, rows)))[:rows]:
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


def build_data(name: str | None, source: str, out: str) -> None:
    """Builds a set of tensorflow-datasets out of a file, or an npz file of Omniglot out of its folders, and prints the
    lines of a config that read it.

    Raises:
      InputError: there is no such file, it is malformed, or the set is there already.
    """
    if name is None:
        raise InputError("Name the set to build: NAME of NAME.tsv, such as `jaxmeta data build reviews --from FOLDER`.")
    if name == "omniglot":
        path = data.build_omniglot(find_file(source, folder=True), out)
        print(f"Built {path}. In a config:\n")
        print(tomli_w.dumps({"task": {"source": "omniglot", "path": str(path)}}), end="")
        return
    folder = data.build_tfds(name, find_file(source, folder=True), out)
    kind = _kind_of(data.read_tfds(folder))
    print(f"Built {folder}. In a config:\n")
    print(tomli_w.dumps({"task": {"kind": kind, "source": "tfds", "path": str(folder)}}), end="")


def _kind_of(rows: data.Corpus | data.Table) -> str:
    return "classification" if isinstance(rows, data.Corpus) else rows.schema.name


def read_run_config(folder: pathlib.Path) -> Config:
    """Returns the config that a run was started with.

    Raises:
      InputError: the folder is no run, or its config is not one of this version.
    """
    path = folder / "config.toml"
    if not folder.is_dir():
        raise InputError(f"There is no run at {folder}; `jaxmeta train --out {folder}` makes one.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a run: it has no config.toml; name a folder that `jaxmeta train` wrote."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: {error}; restore it, or train again.") from None
    return validated(values, str(path))


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
    header = set(read_header(path, read_lines(path)[0][1]))
    known = any(set(schema.columns) - {"split"} <= header for schema in data.SCHEMAS.values())
    return data.read_rows(path) if known and "label" not in header else data.read_tsv(path, require_splits=False)


def _columns(found: data.Corpus | data.Table | data.Recordings) -> dict[str, Sequence]:
    """Returns what the rows hold beside their language and split, by column."""
    if not isinstance(found, data.Table):
        labels = [found.labels[number] for number in found.label]
        if isinstance(found, data.Corpus):
            return {"label": labels, "text": found.text}
        return {"label": labels, "seconds": [f"{count / found.rate:.2f}" for count in found.samples]}
    return {column: found.columns[column] for column in (*found.schema.texts, *found.schema.numbers)}  # pyright: ignore


def _check_same(folder: pathlib.Path, config: Config) -> None:
    differences = difference(settled(read_run_config(folder)), config)
    if differences:
        first, more = "; ".join(differences[:3]), len(differences) - 3
        raise InputError(
            f"{folder} holds a run of another config ({first}{f'; and {more} more' if more > 0 else ''}); "
            "give another folder with --out, or the same config to continue."
        )


def _chosen(built: Built, folder: pathlib.Path, console: Console) -> dict[str, planning.How]:
    """Returns how each gradient is computed: as the run began, or as is measured now."""
    methods = planning.methods_to_choose_for(built)
    found = planning.read_choices(folder, methods)
    if found is not None:
        return found
    limit = device_memory()
    with console.status("Measuring how to compute gradients"):
        return {name: planning.choose(built, name, limit) for name in methods}


def _is_free(folder: pathlib.Path) -> bool:
    # A run that was killed before it had a config has begun to write one.
    return folder.is_dir() and all(path.name == f"config.toml{PART}" for path in folder.iterdir())


def _judge(built: Built, trained: Trained, folder: pathlib.Path, table=results_table) -> None:
    with progress() as display:
        evaluation: dict[str, Any] = evaluate(built.experiment, trained, display)
    if isinstance(built.tasks, WaveTasks):
        evaluation["fits"] = fits(built.experiment, trained, evaluation)
    write_json(folder / "evaluation.json", evaluation)
    _report(folder, table)


def _report_turns(folder: pathlib.Path, turns: Iterable[str], table=results_table) -> None:
    write_json(folder / "evaluation.json", pooled([read_evaluation(folder / name) for name in turns]))
    _report(folder, table)


def _report(folder: pathlib.Path, table: Callable[[Evaluation], Table]) -> None:
    page = write_report(folder)
    console = Console()
    console.print(table(read_evaluation(folder)))
    console.print(f"Report: {page}", highlight=False, soft_wrap=True)
