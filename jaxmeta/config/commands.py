"""What the commands of the command line do."""

import os
import pathlib
import tempfile
import tomllib
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxmeta import data
from jaxmeta.config import adapted, planning
from jaxmeta.config.build import Built, build, check_device
from jaxmeta.config.kinds import settled
from jaxmeta.config.read import difference, dump, validated
from jaxmeta.config.schema import Config
from jaxmeta.config.tasks import TextTasks, WaveTasks, find_file
from jaxmeta.core.checks import InputError
from jaxmeta.run.experiment import Trained, restore, train
from jaxmeta.run.files import PART, write_json, write_whole
from jaxmeta.run.fits import fits
from jaxmeta.run.judge import evaluate
from jaxmeta.run.logging import MetricsLog, progress
from jaxmeta.run.planner import device_memory, fastest, parse_size, size_text
from jaxmeta.run.records import read_evaluation
from jaxmeta.run.report import write_report
from jaxmeta.run.table import results_table


def train_run(config: Config, out: str | None) -> None:
    """Trains, judges and reports; goes on where an earlier run of the same config was cut off.

    Raises:
      InputError: the folder holds a run of another config, or the config cannot be carried out.
    """
    folder = pathlib.Path(out or f"runs/{config.name}")
    config = settled(config)
    found = (folder / "config.toml").exists()
    if found:
        _check_same(folder, config)
    elif folder.exists() and not _is_free(folder):
        raise InputError(f"{folder} exists and is not a run; give another folder with --out.")
    console = Console(stderr=True)
    check_device(config)
    built = build(config)
    chosen = _chosen(built, folder, console) if config.gradient.strategy == "auto" else {}
    if chosen:
        built = planning.with_choices(built, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.toml", dump(config))
    if chosen:
        write_json(folder / planning.CHOICES, {name: how._asdict() for name, how in chosen.items()})
        console.print(planning.choices_text(chosen), highlight=False, soft_wrap=True, markup=False)
    if isinstance(built.tasks, TextTasks):
        adapted.write_task(folder, built.tasks.corpus.labels, built.tasks.tokenizer)
    console.print(f"{'Continuing' if found else 'Training'} {config.name} in {folder}", highlight=False, soft_wrap=True)
    if overlap := built.experiment.data_facts.get("overlap"):
        console.print(overlap, highlight=False, soft_wrap=True)
    with MetricsLog(folder) as log, progress() as display:
        trained = train(built.experiment, folder, log, display)
    _judge(built, trained, folder)


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
    built = build(read_run_config(folder))
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
    """Prints a label and its probability for each line of a text.

    Raises:
      InputError: the model or the text is unusable.
    """
    # First, so that nobody types texts for a model that is not there.
    loaded = adapted.load(pathlib.Path(model))
    texts = data.read_plain(source)
    if note := adapted.cut_note(loaded.tokenizer, texts):
        Console(stderr=True).print(note, highlight=False, soft_wrap=True)
    labels, probabilities = loaded.labels, adapted.predict(loaded, texts)
    for text, row in zip(texts, probabilities, strict=True):
        if every_label:
            shown = " ".join(f"{label}={p:.4f}" for label, p in zip(labels, row, strict=True))
            print(f"{shown}\t{text}")
        else:
            print(f"{labels[row.argmax()]}\t{row.max():.4f}\t{text}")


def list_data() -> None:
    """Prints the tasks that come with the package and the TSV files under JAXMETA_DATA."""
    table = Table(box=None)
    for heading in ("name", "languages", "labels", "rows"):
        table.add_column(heading, justify="left" if heading == "name" else "right")
    for task in data.CLDR_TASKS:
        corpus = data.cldr(task)
        table.add_row(task, *map(str, (len(corpus.languages()), len(corpus.labels), len(corpus))))
    console = Console()
    console.print(table)
    folder = os.environ.get("JAXMETA_DATA")
    if not folder:
        console.print("Set JAXMETA_DATA to a folder of TSV files to see them here.")
        return
    for path in sorted(pathlib.Path(folder).rglob("*.tsv")):
        console.print(str(path.relative_to(folder)), highlight=False)


def show_data(what: str | None, rows: int) -> None:
    """Prints the first labelled examples of some languages.

    Raises:
      InputError: there is no such data.
    """
    corpus = _corpus(what)
    table = Table(box=None)
    for heading in ("language", "split", "label", "text"):
        table.add_column(heading)
    # A stride shows many languages instead of the first alone.
    for row in range(0, len(corpus), max(1, len(corpus) // max(1, rows)))[:rows]:
        label = corpus.labels[corpus.label[row]]
        table.add_row(str(corpus.language[row]), str(corpus.split[row]), label, corpus.text[row])
    Console().print(table)


def check_data(what: str | None) -> None:
    """Prints what a file holds, or what is wrong with it.

    Raises:
      InputError: it is malformed.
    """
    corpus = _corpus(what)
    languages, labels = len(corpus.languages()), ", ".join(corpus.labels)
    print(f"{corpus.name}: {len(corpus)} rows, {languages} languages, labels {labels}")
    for split in data.SPLITS:
        counts = [len(corpus.rows(language, split)) for language in corpus.languages()]
        print(f"  {split}: {sum(counts)} rows, {min(counts)} to {max(counts)} in a language")


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


def _corpus(what: str | None) -> data.Corpus:
    if what is None:
        raise InputError(f"Say what to look at: {', '.join(data.CLDR_TASKS)}, or a TSV file.")
    return data.cldr(what) if what in data.CLDR_TASKS else data.read_tsv(find_file(what), require_splits=False)


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


def _judge(built: Built, trained: Trained, folder: pathlib.Path) -> None:
    with progress() as display:
        evaluation: dict[str, Any] = evaluate(built.experiment, trained, display)
    if isinstance(built.tasks, WaveTasks):
        evaluation["fits"] = fits(built.experiment, trained, evaluation)
    write_json(folder / "evaluation.json", evaluation)
    page = write_report(folder)
    console = Console()
    console.print(results_table(read_evaluation(folder)))
    console.print(f"Report: {page}", highlight=False, soft_wrap=True)
