"""`jaxmeta search`: settings of a config chosen by cross-validation over languages."""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxmeta.config.build import Built, build, check_device
from jaxmeta.config.child_tasks import ChildTasks
from jaxmeta.config.kinds import settled
from jaxmeta.config.methods import READ_SOURCES, phases_and_methods
from jaxmeta.config.read import Jobs, changed, dump
from jaxmeta.config.recipes import rate_of_training, recipes
from jaxmeta.config.schema import Config
from jaxmeta.config.search_space import ADAPTING, LISTED, TRACED, SearchConfig, settings, space_of
from jaxmeta.config.setting import with_numbers
from jaxmeta.config.tasks import WaveTasks
from jaxmeta.config.turns import takes_turns
from jaxmeta.core.checks import InputError
from jaxmeta.run import figure_style
from jaxmeta.run.files import write_json, write_whole
from jaxmeta.run.logging import progress
from jaxmeta.run.samplers import OPTUNA, Space, Trial, descended, draw, promoted, rungs, suggested
from jaxmeta.run.search_figure import parallel_coordinates
from jaxmeta.run.trials import SideBySide, Values, Variant

SHOWN = 10  # trials in the table


class Pending(NamedTuple):
    """A trial that has not run."""

    number: int
    rung: int
    steps: int
    values: dict[str, Any]


def search_jobs(jobs: Jobs, search: SearchConfig, out: str | None) -> None:
    """Searches the settings of a file of one run, see `search_run`.

    Raises:
      InputError: the file asks for several runs, or as of `search_run`.
    """
    if jobs.several:
        raise InputError(
            f"{jobs.name} asks for several runs, {', '.join(jobs.configs)}; search settings in a file of one run."
        )
    search_run(jobs.configs[""], search, out)


def search_run(config: Config, search: SearchConfig, out: str | None) -> None:
    """Tries settings and writes what they came to; goes on where an earlier search of the same kind was cut off.

    The folder gets `trials.jsonl` (a line for each trial, written when it is over), `best.toml` (the config with the
    best values, for `jaxmeta train`) and `trials.png` (parallel coordinates, where matplotlib is installed).

    Raises:
      InputError: the config or the space cannot be carried out, or the folder holds another search.
    """
    config = settled(config)
    config = of_method(config, search)
    space = space_of(search, config)
    check_device(config)
    runner = _Runner(config, search)
    if search.sampler == "hypergradient":
        _check_exact(runner.built)
    folder = pathlib.Path(out or f"searches/{config.name}")
    done = _opened(folder, config, search)
    higher = runner.built.experiment.judging.higher_is_better
    ladder = (
        rungs(search.trials, config.train.steps)
        if search.sampler == "halving"
        else [(search.trials, config.train.steps)]
    )
    with progress() as display:
        display.begin("search", steps=sum(count for count, _ in ladder), start=len(done))
        for rung, (count, steps) in enumerate(ladder):
            for pending in _proposed(space, search, config.seed, done, rung, count, steps, higher=higher):
                done += runner.run(pending)
                _write(folder, done)
                display.update(len(done))
        display.end()
    _report(folder, config, done, space, runner.built.experiment.judging.metric, higher=higher)


def of_method(config: Config, search: SearchConfig) -> Config:
    """Returns the config of the one method that a search tries settings of, without what a report would add.

    Raises:
      InputError: the config makes several runs, or a key is not allowed.
    """
    if takes_turns(config):
        raise InputError('`task.test_languages` "each" makes several runs; name those that are never looked at.')
    method = search.method or config.evaluate.main
    # What a report would add to the judgement is not asked for, nor problems that are written down: folds have others.
    unasked = ("shot_curve", "curve_methods", "temperature_methods", "guard_methods", "leave_out")
    return changed(
        config,
        {
            "evaluate.methods": (method,),
            "evaluate.main": method,
            "evaluate.similarity": False,
            "evaluate.manifest": "",
            "train.seeds": 1,
            **{f"evaluate.{key}": () for key in unasked},
        },
        "the command line",
    )


def _proposed(space, search: SearchConfig, seed: int, done: list[Trial], rung: int, count: int, steps: int, *, higher):
    """Yields what runs next, together; a caller that has run it adds to `done` before it asks again."""
    if search.sampler == "hypergradient":
        yield from _descending(space, search, seed, done, count, steps)
        return
    here = [trial for trial in done if trial.rung == rung]
    if rung == 0 and search.sampler in OPTUNA:
        while len(done) < count:
            size = min(search.at_once, count - len(done))
            values = suggested(search.sampler, space, done, size, seed=seed, higher_is_better=higher)
            yield [Pending(len(done) + k, 0, steps, value) for k, value in enumerate(values)]
        return
    if rung == 0:
        wanted = [(number, draw(space, seed, number)) for number in range(count)]
    else:
        below = [trial for trial in done if trial.rung == rung - 1]
        wanted = [(trial.number, trial.values) for trial in promoted(below, count, higher_is_better=higher)]
    known = {trial.number for trial in here}
    pending = [Pending(number, rung, steps, values) for number, values in wanted if number not in known]
    # Those that share a program, one after another.
    pending.sort(key=lambda trial: (repr(_static(trial.values)), trial.number))
    for trials in _runs(pending):
        for start in range(0, len(trials), search.at_once):
            yield trials[start : start + search.at_once]


def _descending(space, search: SearchConfig, seed: int, done: list[Trial], count: int, steps: int):
    """Yields the next step of all descents, those that run together; see `_proposed`."""
    for first in range(0, count, search.starts):
        values = descended(space, done, search.starts, first // search.starts, seed=seed, rate=search.descent_rate)
        known = {trial.number for trial in done}
        pending = [Pending(first + k, 0, steps, value) for k, value in enumerate(values[: count - first])]
        pending = [trial for trial in pending if trial.number not in known]
        for start in range(0, len(pending), search.at_once):
            yield pending[start : start + search.at_once]


def _static(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in TRACED}


def _runs(pending: Sequence[Pending]) -> Iterator[list[Pending]]:
    group: list[Pending] = []
    for trial in pending:
        if group and _static(group[0].values) != _static(trial.values):
            yield group
            group = []
        group.append(trial)
    if group:
        yield group


class _Runner:
    """Runs trials on every fold; what was built and compiled for one program is kept until another is needed."""

    def __init__(self, config: Config, search: SearchConfig):
        self._config, self._search = config, search
        self.built = build(config)
        self._folds = _fold_changes(self.built, search)
        self._current: tuple[Any, list[SideBySide], list[Built]] | None = None

    def run(self, pending: Sequence[Pending]) -> list[Trial]:
        programs, folds = self._programs(_static(pending[0].values), pending[0].steps)
        # Of a size that was compiled before: the last trial fills up.
        descends = self._search.sampler == "hypergradient"
        size = min(self._search.at_once, self._search.starts) if descends else self._search.at_once
        padded = [*pending, *[pending[-1]] * (size - len(pending))]
        traced = {key for key in pending[0].values if key in TRACED} | {TRACED[0]}
        values = {
            key: np.array([_value(trial.values, key, self._config) for trial in padded]) for key in sorted(traced)
        }
        seed = self._config.seed
        found = [
            program.scores(values, fold.tasks, training_seed=seed, seed=seed, judged=len(pending))
            for program, fold in zip(programs, folds, strict=True)
        ]
        scores = np.stack([of_fold.scores for of_fold in found], axis=1)
        trials = [
            Trial(trial.number, trial.rung, trial.values, tuple(map(float, row)), float(row.mean()))
            for trial, row in zip(pending, scores, strict=True)
        ]
        if not found[0].slopes:
            return trials
        losses = np.mean([of_fold.losses for of_fold in found], axis=0)
        slopes = {key: np.mean([of_fold.slopes[key] for of_fold in found], axis=0) for key in found[0].slopes}
        return [
            trial._replace(loss=float(losses[k]), slopes={key: float(slope[k]) for key, slope in slopes.items()})
            for k, trial in enumerate(trials)
        ]

    def _programs(self, static: dict[str, Any], steps: int) -> tuple[list[SideBySide], list[Built]]:
        """Returns what runs the trials of each fold, and the folds."""
        key = (static, steps)
        if self._current is None or self._current[0] != key:
            self._current = None  # let go of the old one first
            changes = {**settings(static), "train.steps": steps}
            folds = [build(changed(self._config, {**changes, **fold}, "`search.space`")) for fold in self._folds]
            by_slope = tuple(self._search.space) if self._search.sampler == "hypergradient" else ()
            alike = all(key in ADAPTING or key not in TRACED for key in self._search.space)
            if self._config.evaluate.main in READ_SOURCES:
                # A program holds the examples that it replays, and those of another fold are of its held-out languages.
                programs = [side_by_side(fold, by_slope, alike=alike) for fold in folds]
            else:
                programs = [side_by_side(folds[0], by_slope, alike=alike)] * len(folds)
            self._current = key, programs, folds
        return self._current[1], self._current[2]


def _check_exact(built: Built) -> None:
    """Refuses methods whose own gradient leaves something out: its derivative would not be that of what it does."""
    name = built.experiment.main
    recipe = recipes(built.setting).get(name)
    if recipe is not None and recipe.inner and ("reverse" not in recipe.strategies or name == "maml_plus_plus"):
        raise InputError(
            f"The sampler hypergradient differentiates training, and {name} takes inner gradients to first order or "
            "solves for them; use another sampler, or a method such as maml, ridge or joint_finetune."
        )


def side_by_side(built: Built, differentiated: Sequence[str] = (), *, alike: bool = False) -> SideBySide:
    """Returns what runs variants of the only method of a run, and differentiates by some of its numbers."""
    setting = built.setting
    if differentiated:
        exact = setting.config.gradient.model_copy(update={"strategy": "reverse"})  # the one with a forward mode
        config = setting.config.model_copy(update={"gradient": exact})
        setting = setting._replace(config=config, exact=True, chosen={})

    def variant(values: Values) -> Variant:
        own = with_numbers(setting, _with(setting.config, values))
        phases, (method,) = phases_and_methods(own)
        recipe = recipes(own).get(method.name)
        return Variant(phases, method, rate_of_training(own.config, recipe) if recipe else method.learning_rates[0])

    experiment = built.experiment
    return SideBySide(
        variant, {}, experiment.readout, experiment.judging, differentiated=differentiated,
        in_training=lambda key: key not in ADAPTING, alike=alike,
    )  # fmt: skip


def _with(config: Config, values: Values) -> Config:
    """Returns a config with some numbers replaced, unchecked: they may be traced."""
    for key, value in settings(values).items():
        section, _, name = key.partition(".")
        config = config.model_copy(update={section: getattr(config, section).model_copy(update={name: value})})
    return config


def _value(values: Mapping[str, Any], key: str, config: Config) -> float:
    section, _, name = key.partition(".")
    given = getattr(getattr(config, section), name)
    return float(values.get(key, given[0] if key in LISTED else given))


def _fold_changes(built: Built, search: SearchConfig) -> list[dict[str, Any]]:
    if search.folds == 1:
        return [{}]
    if isinstance(built.tasks, WaveTasks | ChildTasks) or built.setting.config.task.mixed:
        raise InputError("`search.folds` must be 1 where tasks have no names.")
    names = sorted((*built.tasks.languages("train"), *built.tasks.languages("dev")))
    if len(names) < 2 * search.folds:
        raise InputError(
            f"`search.folds` {search.folds}: there are {len(names)} train and dev languages; at most {len(names) // 2}."
        )
    order = np.random.default_rng(built.setting.config.seed).permutation(names).tolist()
    test = tuple(built.tasks.languages("test"))
    held_out = [tuple(sorted(order[k :: search.folds])) for k in range(search.folds)]
    return [
        {
            "task.test_languages": test,
            "task.dev_languages": dev,
            "task.train_languages": tuple(name for name in names if name not in dev),
            "task.left_out_languages": (),  # they are not among the names
        }
        for dev in held_out
    ]


def _opened(folder: pathlib.Path, config: Config, search: SearchConfig) -> list[Trial]:
    """Returns the trials that an earlier search of the same kind has finished; makes the folder."""
    # How many run at once changes no result.
    identity = {"config": config.model_dump(mode="json"), "search": search.model_dump(mode="json", exclude={"at_once"})}
    path = folder / "search.json"
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} exists and is not a search; give another folder with --out.")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, identity)
        return []
    if json.loads(path.read_text("utf-8")) != json.loads(json.dumps(identity)):
        raise InputError(f"{folder} holds another search; give another folder with --out, or the same command.")
    lines = folder / "trials.jsonl"
    if not lines.exists():
        return []
    return [_trial(json.loads(line)) for line in lines.read_text("utf-8").splitlines()]


def _trial(line: dict[str, Any]) -> Trial:
    def number(value: float | None) -> float:
        return math.nan if value is None else value

    trial = Trial(
        line["trial"], line["rung"], line["values"], tuple(map(number, line["scores"])), number(line["score"])
    )
    if "slopes" not in line:
        return trial
    slopes = {key: number(slope) for key, slope in line["slopes"].items()}
    return trial._replace(loss=number(line["loss"]), slopes=slopes)


def _write(folder: pathlib.Path, done: Sequence[Trial]) -> None:
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    def sloping(trial: Trial) -> dict[str, Any]:
        slopes = {key: finite(slope) for key, slope in trial.slopes.items()}
        return {"loss": finite(trial.loss), "slopes": slopes} if slopes else {}

    lines = [
        {
            "trial": trial.number, "rung": trial.rung, "values": trial.values,
            "scores": [finite(score) for score in trial.scores], "score": finite(trial.score), **sloping(trial),
        }
        for trial in done
    ]  # fmt: skip
    write_whole(folder / "trials.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _report(folder: pathlib.Path, config: Config, done: Sequence[Trial], space: Space, metric: str, *, higher: bool):
    keys = list(space)
    last = [trial for trial in done if trial.rung == max(trial.rung for trial in done)]
    order = promoted(last, len(last), higher_is_better=higher)
    table = Table(title=f"{config.evaluate.main} on {config.name}: the best of {len({t.number for t in done})} trials")
    for heading in ("trial", f"dev {metric}", "folds", *keys):
        table.add_column(heading, justify="right")
    for trial in order[:SHOWN]:
        folds = " ".join(f"{score:.4g}" for score in trial.scores)
        table.add_row(str(trial.number), f"{trial.score:.4g}", folds, *(_shown(trial.values[key]) for key in keys))
    best = order[0]
    if math.isnan(best.score):
        raise InputError("Every trial diverged; lower the rates in `search.space`.")
    write_whole(folder / "best.toml", dump(changed(config, settings(best.values), "the best trial")))
    _draw(folder, last, space, metric, higher=higher)
    console = Console()
    console.print(table)
    console.print(f"Best: {folder / 'best.toml'}; every trial: {folder / 'trials.jsonl'}", soft_wrap=True)


def _draw(folder: pathlib.Path, trials: Sequence[Trial], space: Space, metric: str, *, higher: bool) -> None:
    try:
        figure_style.require_matplotlib()
    except InputError as error:
        Console(stderr=True).print(f"No picture: {error}", highlight=False, soft_wrap=True, markup=False)
        return
    with figure_style.style(figure_style.LIGHT):
        figure = parallel_coordinates(trials, space, metric, higher_is_better=higher)
        write_whole(folder / "trials.png", figure_style.png(figure))


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
