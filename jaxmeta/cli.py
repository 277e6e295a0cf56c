"""The command line: train, compare, plan, search, evaluate, adapt, predict, export, serve, data."""

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import pydantic
import tyro

from jaxmeta.config.commands import adapt_run, predict_texts
from jaxmeta.config.compare_methods import compare_methods
from jaxmeta.config.complaints import sentence
from jaxmeta.config.data_commands import build_data, check_data, list_data, show_data, show_scripts, write_problems
from jaxmeta.config.exported import PLATFORMS, Platform, export
from jaxmeta.config.jobs import evaluate_jobs, plan_jobs, train_jobs
from jaxmeta.config.read import Jobs, changed, load_jobs, refusal
from jaxmeta.config.schema import Config, DecodeConfig, TextSearch
from jaxmeta.config.search_space import Sampler, load_search
from jaxmeta.config.searching import search_jobs
from jaxmeta.config.serving import serve
from jaxmeta.core.checks import InputError
from jaxmeta.run.loop import TrainingError


@dataclasses.dataclass(frozen=True)
class Train:
    """Meta-train every method of a config, judge them on held-out tasks, and write a report.

    Without a config it runs the embedded job: the month of a date in 40 languages never seen. A folder with an
    unfinished run of the same config is continued; what a finished one came to is shown again.

    A config may ask for several runs that share its settings, with a table [jobs.NAME] of what differs for each. They
    run one after another in folders of the run folder, whose report shows them all. Options here change every one; the
    defaults below are those of the first.
    """

    config_file: tyro.conf.Positional[str | None] = None
    """A TOML file; none for the embedded job."""
    out: str | None = None
    """The run folder; runs/NAME by default."""
    preset: str | None = None
    """A named set of changes from the config (of the embedded job: quick, full)."""
    steps: int | None = None
    """Short for --train.steps."""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


@dataclasses.dataclass(frozen=True)
class Compare:
    """Meta-train some methods on the task of a config at equal compute, and print how they compare.

    The table says how far each is behind the one that did best on the dev languages, with paired intervals, and what it
    costs in gradients and in memory; the sentence under it says what won and whether the difference is real. It trains
    and judges as `train` does, into a run folder like any other.
    """

    config_file: tyro.conf.Positional[str | None] = None
    """A TOML file; none for the embedded job."""
    methods: tuple[str, ...] = ()
    """Two methods or more, by the names that `evaluate.methods` knows; all: every one that suits the task."""
    out: str | None = None
    """The run folder; runs/NAME_compared by default."""
    preset: str | None = None
    """A named set of changes from the config (of the embedded job: quick, full)."""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Measure the ways to compute the gradient of a meta-learner, and print the fastest that fits in memory.

    It prints what the compiler says each way needs for temporary arrays and results, the arithmetic of its products,
    and the time of one outer step; and the lines for the config. With `gradient.strategy = "auto"`, `train` does it
    for itself.
    """

    config_file: tyro.conf.Positional[str | None] = None
    """A TOML file; none for the embedded job."""
    memory: str | None = None
    """What a step may need, such as 8GiB, 512MB or 2e9; all that the device has by default."""
    method: str | None = None
    """A method whose inner steps are differentiated; the first of the config by default, or maml."""
    preset: str | None = None
    """A named set of changes from the config (of the embedded job: quick, full)."""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


@dataclasses.dataclass(frozen=True)
class Search:
    """Choose settings of a config by cross-validation over languages; the test languages are never looked at.

    What is searched stands in the config's [search] table. Trials that differ in plain numbers alone are trained
    side by side in one compiled program. A folder with an unfinished search of the same kind is continued.
    """

    config_file: tyro.conf.Positional[str | None] = None
    """A TOML file; none for the embedded job."""
    out: str | None = None
    """The folder of the search; searches/NAME by default."""
    trials: int | None = None
    """How many settings are tried; as [search] says by default (32), like the next four."""
    sampler: Sampler | None = None
    """How they are drawn: at random, by successive halving, by a sampler of Optuna (tpe, cmaes, quasi_random), or down
    the gradient of the held-out loss."""
    folds: int | None = None
    """Parts of the train and dev languages, each of which is held out in turn; 1: the dev languages alone."""
    at_once: int | None = None
    """Trials that run side by side."""
    method: str | None = None
    """The method; the main one of the config by default."""
    preset: str | None = None
    """A named set of changes from the config (of the embedded job: quick, full)."""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Judge a finished run again, and write its report again.

    The options are added to what the config of the run asks for, in this judgement alone.
    """

    run: tyro.conf.Positional[str]
    """The run folder."""
    similarity: bool = False
    """Compare languages by task gradients and by what adaptation changes too, as `--evaluate.similarity True`."""
    leave_out: tuple[str, ...] = ()
    """Train the main method without these source languages, one at a time, as `--evaluate.leave-out`."""
    manifest: str = ""
    """Judge on the problems of this file, as `--evaluate.manifest`."""


@dataclasses.dataclass(frozen=True)
class Adapt:
    """Adapt a trained run to a new language from a few examples."""

    run: tyro.conf.Positional[str]
    """The run folder."""
    shots: str
    """A TSV file with the columns label and text, of which meta_network_zero_shot reads text alone, or those of the
    run's kind of task without language and split; of recordings an npz file with the arrays audio, offset, digit
    (integers, or labels by name) and rate."""
    out: str
    """Where to write the adapted model."""
    method: str | None = None
    """A method of the run; its main one by default."""
    family: str = ""
    """The family of the language, one of `generator.families` of the run's config."""


@dataclasses.dataclass(frozen=True)
class Predict:
    """Label lines of text with an adapted model: one line each of label, probability, text.

    A model of another kind prints what it answers before each line: a translation, a summary, how a text goes on; the
    answer to `context TAB question`; the score of `first TAB second`; or, of lines `text TAB english`, the nearest
    English text in the file and its cosine.
    """

    model: tyro.conf.Positional[str]
    """The folder that `jaxmeta adapt` wrote."""
    input: str = "-"
    """A text file, one text in a line; - for standard input. Of recordings an npz file with audio, offset and
    rate, and where texts are found for them `transcripts`, strings, as many as there are to choose from."""
    all: bool = False
    """Print the probability of every label instead of the best one's."""
    search: TextSearch | None = None
    """How text is written; as [decode] of the run's config says by default, like the next six."""
    beams: int | None = None
    """Continuations that are kept of each text (beam)."""
    length_penalty: float | None = None
    """0 takes the likeliest text, more a longer one (beam)."""
    temperature: float | None = None
    """What logits are divided by (sample)."""
    top_p: float | None = None
    """Probability of the nucleus that tokens are drawn from (sample)."""
    seed: int | None = None
    """Of the random numbers (sample)."""
    answers: int | None = None
    """How many answers to a question are printed, each with its share: "first=0.7 | second=0.3"; of retrieval, how many
    of the nearest texts, each with its cosine."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Write an adapted model as one program with its parameters (StableHLO), which needs JAX to run and not jaxmeta.

    `predict` and `serve` read what it writes as they read an adapted model.
    """

    model: tyro.conf.Positional[str]
    """The folder that `jaxmeta adapt` wrote."""
    out: str
    """Where to write the exported model."""
    platforms: tuple[Platform, ...] = PLATFORMS
    """What it can run on."""


@dataclasses.dataclass(frozen=True)
class Serve:
    """Answer lines of text over HTTP, and adapt a run to examples that are posted.

    `POST /predict {"lines": [...]}` answers as `predict` prints. Of a run folder, `POST /adapt {"name": ..., "shots":
    ...}` adapts first, and `{"model": name}` says which model is asked. `GET /` says what there is.
    """

    model: tyro.conf.Positional[str]
    """A run folder, or a folder that `jaxmeta adapt` or `jaxmeta export` wrote."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 for all of the machine's."""
    port: int = 8000
    """The port to listen on."""


@dataclasses.dataclass(frozen=True)
class Data:
    """List what data there is, show examples of it, check a file, say what a tokenizer makes of each script in it,
    build a set of tensorflow-datasets out of one, or write the problems that a config is judged on (manifest), for
    `--evaluate.manifest` to read.

    Where there is no omniglot.npz, `build omniglot` makes one out of the folders that Omniglot is published as.
    """

    action: tyro.conf.Positional[Literal["list", "show", "check", "scripts", "build", "manifest"]]
    """What to do."""
    what: tyro.conf.Positional[str | None] = None
    """A CLDR task (month, weekday, kind, retrieval, ...), a TSV file of any kind, or an npz file of recordings or
    images; what to build is the name of a set; scripts are those of a CLDR task, a TSV file or a run; of a manifest, a
    config or a run folder, or nothing for the embedded job."""
    rows: int = 10
    """Examples to show."""
    length: int = 64
    """Bytes of a text that are read, to say how many texts of a script would be cut."""
    source: Annotated[str, tyro.conf.arg(name="from")] = "."
    """The folder that has NAME.tsv or NAME.npz, or a folder NAME with it, or several that are called NAME_..., or the
    sets of Omniglot, to build from; looked up in JAXMETA_DATA too."""
    out: str | None = None
    """The folder of prepared sets to build into, tfds by default; the file of a manifest, manifest.json by default."""
    preset: str | None = None
    """A named set of changes from the config of a manifest."""


DESCRIPTION = "Meta-learning in JAX: models that learn a new task, such as a new language, from a few examples."
CONFIGURED = {"train": Train, "compare": Compare, "plan": Plan, "search": Search}  # those that read a config
Configured = Train | Compare | Plan | Search
COMMANDS = {
    **CONFIGURED,
    "evaluate": Evaluate,
    "adapt": Adapt,
    "predict": Predict,
    "export": Export,
    "serve": Serve,
    "data": Data,
}
_RESUMED = ("train", "compare", "search")  # those that go on where they were cut off


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 where training failed, 2 for bad input, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _run(*_parsed(arguments))
    except InputError as error:
        return _complain(error, 2)
    except TrainingError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        goes_on = arguments[:1] and arguments[0] in _RESUMED
        return _complain("stopped; the same command goes on where it was." if goes_on else "stopped.", 130)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); Python must not complain when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        # A full disk, a path through a file, a folder that may not be written to: the system says it best.
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _complain(f"{what}; make room or give another path.", 2)
    return 0


def _run(command, jobs: Jobs) -> None:
    match command:
        case Train():
            train_jobs(jobs, command.out)
        case Compare():
            compare_methods(jobs, command.methods, command.out)
        case Plan():
            plan_jobs(jobs, command.method, command.memory)
        case Search():
            given = _given(command, ("trials", "sampler", "folds", "at_once", "method"))
            search_jobs(jobs, load_search(command.config_file, command.preset, given), command.out)
        case Evaluate():
            evaluate_jobs(command.run, _asked(command))
        case Adapt():
            adapt_run(command.run, command.shots, command.out, command.method, command.family)
        case Predict():
            decode = _given(command, DecodeConfig.model_fields)
            predict_texts(command.model, command.input, every_label=command.all, decode=decode)
        case Export():
            print(export(command.model, command.out, command.platforms))
        case Serve():
            serve(command.model, command.host, command.port)
        case Data(action="list"):
            list_data()
        case Data(action="show"):
            show_data(command.what, command.rows)
        case Data(action="check"):
            check_data(command.what)
        case Data(action="scripts"):
            show_scripts(command.what, command.length)
        case Data(action="build"):
            build_data(command.what, command.source, command.out or "tfds")
        case Data(action="manifest"):
            write_problems(command.what, command.preset, command.out or "manifest.json")


def _given(command: Search | Predict, names: Iterable[str]) -> dict[str, object]:
    """Returns the options that somebody gave."""
    return {name: value for name in names if (value := getattr(command, name)) is not None}


def _asked(command: Evaluate) -> dict[str, object]:
    """Returns the changes of `[evaluate]` that a judgement is asked for, by dotted key."""
    asked = {"similarity": command.similarity, "leave_out": command.leave_out, "manifest": command.manifest}
    return {f"evaluate.{key}": value for key, value in asked.items() if value}


def _parsed(arguments: list[str]) -> tuple[Any, Jobs]:
    """Parses arguments with tyro; where there is a config, over the values of its file and the preset, for each job."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            if name not in COMMANDS:
                # Unknown words and the overall help; a known command never comes here.
                tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="jaxmeta", description=DESCRIPTION, args=[name])
            if name in CONFIGURED:
                return _parsed_over_config(name, rest)
            return tyro.cli(COMMANDS[name], prog=f"jaxmeta {name}", args=rest), Jobs("", {})
    except SystemExit as end:
        if end.code:
            raise InputError(
                sentence(errors.getvalue(), name, configured=name in CONFIGURED, known=name in COMMANDS)
            ) from None
        raise
    except pydantic.ValidationError as error:
        raise refusal(error, "the command line") from None


def _parsed_over_config(name: str, rest: list[str]) -> tuple[Configured, Jobs]:
    # The config and the preset decide what the other options default to, so they are read before the rest.
    kind = CONFIGURED[name]
    default = kind(config_file=rest[0] if rest and not rest[0].startswith("-") else None)
    while True:
        jobs = load_jobs(default.config_file, preset=default.preset)
        # Whoever turns a setting off writes what a config file says: `--task.parallel False`.
        options = {"prog": f"jaxmeta {name}", "args": rest, "config": (tyro.conf.FlagConversionOff,)}
        commands = {
            job: tyro.cli(kind, default=dataclasses.replace(default, config=config), **options)
            for job, config in jobs.configs.items()
        }
        command = next(iter(commands.values()))
        if (command.config_file, command.preset) == (default.config_file, default.preset):
            return command, _renamed(jobs, {job: _with_steps(each) for job, each in commands.items()})
        default = kind(config_file=command.config_file, preset=command.preset)


def _with_steps(command: Configured) -> Config:
    if not isinstance(command, Train) or command.steps is None:
        return command.config
    return changed(command.config, {"train.steps": command.steps}, "the command line")


def _renamed(jobs: Jobs, configs: dict[str, Config]) -> Jobs:
    """Returns jobs with other configs; a name from the command line is that of the file, not of each job."""
    job, config = next(iter(configs.items()))
    if config.name == jobs.configs[job].name:
        return Jobs(jobs.name, configs)
    if not jobs.several:
        return Jobs(config.name, configs)
    return Jobs(config.name, {job: changed(c, {"name": f"{config.name}.{job}"}, job) for job, c in configs.items()})


def _complain(what: object, code: int) -> int:
    print(f"jaxmeta: {what}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
