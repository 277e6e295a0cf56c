"""What the commands of the command line do."""

import functools
import json
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxmeta import data
from jaxmeta.config import adapted, planning
from jaxmeta.config.answering import answers
from jaxmeta.config.build import Built, build, check_device
from jaxmeta.config.child_tasks import ChildTasks
from jaxmeta.config.comparing import similarity_of
from jaxmeta.config.kinds import settled
from jaxmeta.config.problems import ROWLESS
from jaxmeta.config.read import Jobs, changed, dump
from jaxmeta.config.run_folder import (
    check_parts,
    is_begun,
    is_judged,
    is_reported,
    read_adaptable_config,
    read_run_config,
)
from jaxmeta.config.schema import Config
from jaxmeta.config.sources import sources_to_leave_out, without_source
from jaxmeta.config.speech_tasks import SpeechTasks
from jaxmeta.config.spoken import heard
from jaxmeta.config.tasks import TextTasks, WaveTasks
from jaxmeta.config.turns import one_turn, takes_turns, turns_of
from jaxmeta.core.checks import InputError
from jaxmeta.run.checkpoint import tree_sha256
from jaxmeta.run.experiment import Trained, restore, train
from jaxmeta.run.files import new_folder, write_json, write_whole
from jaxmeta.run.fits import fits
from jaxmeta.run.judge import evaluate
from jaxmeta.run.judgements import JUDGING, Judgements
from jaxmeta.run.leave_out import leave_one_out
from jaxmeta.run.logging import MetricsLog, progress
from jaxmeta.run.planner import device_memory, fastest, parse_size, size_text
from jaxmeta.run.reaching import reaching
from jaxmeta.run.records import read_evaluation
from jaxmeta.run.report import PAGE, write_report
from jaxmeta.run.similarity import SIMILARITY, nearest_sources
from jaxmeta.run.table import Evaluation, results_table, steps_table
from jaxmeta.run.transfer import transfer
from jaxmeta.run.turns import pooled

AsTable = Callable[[Evaluation], Table]  # what is printed of an evaluation


def train_run(config: Config, folder: pathlib.Path, table: AsTable = results_table, built: Built | None = None) -> None:
    """Trains, judges and reports; goes on where an earlier run of the same config was cut off.

    Of a run that is judged it shows what it came to: to judge again is for `evaluate_run`.

    Args:
      config: of the run.
      folder: of the run.
      table: makes what is printed in the end of the evaluation.
      built: what `check_built` made of the config, if it was asked.

    Raises:
      InputError: the folder holds a run of another config, or the config cannot be carried out.
    """
    config = settled(config)
    turns = turns_of(config) if takes_turns(config) else {}
    found = is_begun(folder, Jobs(config.name, {"": config}))
    console = Console(stderr=True)
    if turns:
        first, ready = next(iter(turns)), {}
        if not is_judged(folder / first, turns[first]):
            ready, built = {first: built or check_built(config)}, None  # held nowhere else than in `ready`
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "config.toml", dump(config))
        train_parts(folder, turns, ready)
        _report_turns(folder, turns, table)
        return
    if is_judged(folder, config):
        says = f"{config.name} in {folder} is judged already; `jaxmeta evaluate {folder}` judges it again."
        console.print(says, highlight=False, soft_wrap=True)
        _show(folder, table) if is_reported(folder) else _report(folder, table)
        if config.evaluate.leave_out and "leave_one_out" not in read_evaluation(folder):
            built = built or build(config)
            _train_without(sources_to_leave_out(built), built, folder, table)
        return
    check_device(config)
    built = built or build(config)
    sources = sources_to_leave_out(built)
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
    elif not isinstance(built.tasks, ROWLESS):
        labels = built.tasks.corpus.labels if isinstance(built.tasks, TextTasks) else ()
        adapted.write_task(folder, labels, built.tasks.tokenizer)
    console.print(f"{'Continuing' if found else 'Training'} {config.name} in {folder}", highlight=False, soft_wrap=True)
    if overlap := built.experiment.data_facts.get("overlap"):
        console.print(overlap, highlight=False, soft_wrap=True)
    with MetricsLog(folder) as log, progress() as display:
        trained = train(built.experiment, folder, log, display)
    _judge(built, trained, folder, table)
    _train_without(sources, built, folder, table)


def train_parts(folder: pathlib.Path, parts: Mapping[str, Config], ready: dict[str, Built]) -> None:
    """Trains runs one after another, each in the folder of its name in `folder`.

    `ready` has what `check_built` made of some, which is not made again; each is taken out of it, so that it is let go
    when its run is over.
    """
    for name, config in parts.items():
        train_run(config, folder / name, built=ready.pop(name, None))


def check_built(config: Config) -> Built:
    """Returns every object of a run, or of its first turn, so that whatever is wrong is said before there is a folder.

    Raises:
      InputError: the config cannot be carried out.
    """
    built = build(one_turn(config))
    sources_to_leave_out(built)
    return built


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


def evaluate_run(folder: pathlib.Path, changes: Mapping[str, Any] = types.MappingProxyType({})) -> None:
    """Judges a finished run again.

    Args:
      folder: of the run.
      changes: of its config, by dotted key, for this judgement; sources to leave out are added to its own.

    Raises:
      InputError: there is no run, or it is not finished.
    """
    own = config = settled(read_run_config(folder))
    if sources := changes.get("evaluate.leave_out"):
        changes = {**changes, "evaluate.leave_out": tuple(dict.fromkeys((*config.evaluate.leave_out, *sources)))}
    config = changed(config, changes, "the command line")
    if takes_turns(config):
        turns = turns_of(config)
        check_parts(folder, turns)
        for name in turns:
            evaluate_run(folder / name, changes)
        _report_turns(folder, turns)
        return
    built = build(config)
    sources = sources_to_leave_out(built)
    _judge(built, restore(built.experiment, folder), folder)
    for source in sources:
        part = _folder_without(folder, source)
        if not (trained := (part / "evaluation.json").exists()):
            train_run(without_source(own, source), part)
        if trained or config.evaluate.manifest != own.evaluate.manifest:
            evaluate_run(part, {"evaluate.manifest": config.evaluate.manifest})
    _report_sources(built, folder, sources)


def adapt_run(run: str, shots: str, out: str, method: str | None, family: str = "") -> None:
    """Adapts a method of a run to the examples of a file and writes the result to a new folder.

    Raises:
      InputError: the run or the file is unusable, or the folder exists.
    """
    folder, target = pathlib.Path(run), pathlib.Path(out)
    config = read_adaptable_config(folder)
    with new_folder(target) as whole:
        summary = adapted.adapt(folder, config, shots, whole, method or config.evaluate.main, family)
    Console(stderr=True).print(f"{summary} Wrote {target}.", highlight=False, soft_wrap=True)


def predict_texts(
    model: str, source: str, *, every_label: bool, decode: Mapping[str, Any] = types.MappingProxyType({})
) -> None:
    """Prints a label and its probability, or what a model of another kind answers, for each line of a text.

    Args:
      model: the folder of an adapted model.
      source: the file, or - for standard input.
      every_label: whether all labels are printed.
      decode: keys of the config's table `[decode]` that are to be others than those of the run.

    Raises:
      InputError: the model or the text is unusable.
    """
    # First, so that nobody types texts for a model that is not there.
    loaded = adapted.load(pathlib.Path(model), decode)
    if loaded.tokenizer is None:
        _predict_recordings(loaded, source, every_label=every_label)
        return
    texts = data.read_plain(source)
    if every_label and not loaded.labels:
        raise InputError("`--all` prints the probabilities of labels, and this model has none; leave it out.")
    if loaded.labels and (note := adapted.cut_note(loaded.tokenizer, texts)):
        Console(stderr=True).print(note, highlight=False, soft_wrap=True)
    for answer, text in zip(answered(loaded, texts, source, every_label=every_label), texts, strict=True):
        print(f"{answer}\t{text}")


def answered(loaded: adapted.Adapted, texts: Sequence[str], source: str, *, every_label: bool = False) -> list[str]:
    """Returns what a model of texts answers to each: a label and its probability, or as its kind of task does.

    Raises:
      InputError: a text has too many fields or too few.
    """
    if loaded.labels:
        return [_shown(loaded.labels, row, every_label=every_label) for row in adapted.predict(loaded, texts)]
    assert loaded.tokenizer is not None
    run = functools.partial(adapted.outputs, loaded)
    return answers(loaded.config, loaded.tokenizer, run, texts, source, loaded.words)


def _predict_recordings(loaded: adapted.Adapted, source: str, *, every_label: bool) -> None:
    if every_label and loaded.config.task.kind != "classification":
        raise InputError("`--all` prints the probabilities of labels, and this model answers in words; leave it out.")
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


def _chosen(built: Built, folder: pathlib.Path, console: Console) -> dict[str, planning.How]:
    """Returns how each gradient is computed: as the run began, or as is measured now."""
    methods = planning.methods_to_choose_for(built)
    found = planning.read_choices(folder, methods)
    if found is not None:
        return found
    limit = device_memory()
    with console.status("Measuring how to compute gradients"):
        return {name: planning.choose(built, name, limit) for name in methods}


def _judge(built: Built, trained: Trained, folder: pathlib.Path, table: AsTable = results_table) -> None:
    kept = Judgements(
        folder / JUDGING,
        {
            "config": dump(built.setting.config),
            "data": built.experiment.data_facts,
            "trained": {f"{seed}/{phase}": tree_sha256(params) for (seed, phase), params in trained.items()},
        },
    )
    with progress() as display:
        evaluation: dict[str, Any] = evaluate(built.experiment, trained, display, kept)
    evaluation["manifest"] = built.setting.config.evaluate.manifest
    if isinstance(built.tasks, WaveTasks) and not built.setting.kind.acts:
        evaluation["fits"] = fits(built.experiment, trained, evaluation)
    if isinstance(built.tasks, ChildTasks) and not evaluation["higher_is_better"]:
        evaluation["reaching"] = reaching(evaluation, built.setting.config.children.horizon)
    similarity = similarity_of(built, trained, evaluation)
    if similarity is None:
        (folder / SIMILARITY).unlink(missing_ok=True)
    else:
        # Without indentation: matrices have one number for every two languages.
        write_whole(folder / SIMILARITY, json.dumps(similarity, ensure_ascii=False) + "\n")
    nearest = {} if similarity is None else nearest_sources(similarity)
    _write_evaluation(folder, evaluation, nearest)
    kept.remove()
    _report(folder, table)


def _write_evaluation(folder: pathlib.Path, evaluation: dict[str, Any], nearest: Mapping[str, Any]) -> None:
    found = transfer(evaluation, nearest)
    if nearest:
        evaluation["nearest_sources"] = nearest
    if found is not None:
        evaluation["transfer"] = found
    write_json(folder / "evaluation.json", evaluation)


def _train_without(sources: Sequence[str], built: Built, folder: pathlib.Path, table: AsTable) -> None:
    for source in sources:
        train_run(without_source(built.setting.config, source), _folder_without(folder, source))
    _report_sources(built, folder, sources, table)


def _folder_without(folder: pathlib.Path, source: str) -> pathlib.Path:
    return folder / f"without_{source}"


def _report_sources(built: Built, folder: pathlib.Path, sources: Sequence[str], table: AsTable = results_table) -> None:
    """Adds to what a run has judged what each of some sources is worth, from the runs without them."""
    if not sources:
        return
    evaluation = read_evaluation(folder)
    without = {source: read_evaluation(_folder_without(folder, source)) for source in sources}
    nearest = evaluation.get("nearest_sources", {})
    evaluation["leave_one_out"] = leave_one_out(evaluation, without, built.experiment.main, nearest)
    write_json(folder / "evaluation.json", evaluation)
    _report(folder, table)


def _report_turns(folder: pathlib.Path, turns: Iterable[str], table: AsTable = results_table) -> None:
    _write_evaluation(folder, pooled([read_evaluation(folder / name) for name in turns]), {})
    _report(folder, table)


def _report(folder: pathlib.Path, table: AsTable) -> None:
    write_report(folder)
    _show(folder, table)


def _show(folder: pathlib.Path, table: AsTable) -> None:
    console, evaluation = Console(), read_evaluation(folder)
    console.print(table(evaluation))
    if evaluation["metric"] == "return":  # how soon a policy learns is what is asked of it
        console.print(steps_table(evaluation))
    console.print(f"Report: {folder / PAGE}", highlight=False, soft_wrap=True)
