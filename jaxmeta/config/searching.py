"""`jaxmeta search`: settings of a config chosen by cross-validation over languages."""

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
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.problems import AnyTasks
from jaxmeta.config.read import Jobs, changed, dump
from jaxmeta.config.recipes import rate_of_training, recipes
from jaxmeta.config.schema import Config
from jaxmeta.config.search_space import ADAPTING, LISTED, TRACED, SearchConfig, ends, settings, space_of
from jaxmeta.config.setting import with_numbers
from jaxmeta.config.tasks import WaveTasks
from jaxmeta.config.turns import takes_turns
from jaxmeta.core.checks import InputError
from jaxmeta.data.splits import shared_codes
from jaxmeta.run import figure_style
from jaxmeta.run.files import write_whole
from jaxmeta.run.logging import progress
from jaxmeta.run.samplers import LEARNING, OPTUNA, Space, Trial, descended, draw, promoted, rungs, suggested
from jaxmeta.run.search_figure import parallel_coordinates
from jaxmeta.run.trial_log import opened, write_trials
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
    asked = settled(config)
    config = of_method(asked, search)
    space = space_of(search, config)
    check_device(config)
    runner = _Runner(config, search, space)
    if search.sampler == "hypergradient":
        _check_exact(runner.built)
    folder = pathlib.Path(out or f"searches/{config.name}")
    # How many run at once changes no result, but of samplers that learn from those that are over.
    identity = {
        "config": config.model_dump(mode="json"),
        "search": search.model_dump(mode="json", exclude=set() if search.sampler in LEARNING else {"at_once"}),
    }
    done = opened(folder, identity)
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
                write_trials(folder, done)
                display.update(len(done))
        display.end()
    _report(folder, asked, config.evaluate.main, done, space, runner.built.experiment.judging.metric, higher=higher)


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

    def __init__(self, config: Config, search: SearchConfig, space: Space):
        """Takes what is searched.

        Raises:
          InputError: a fold, or a choice of the space, makes no run.
        """
        self._config, self._search = config, search
        self.built = build(config)
        self._folds = _fold_changes(self.built, search)
        self._current: tuple[Any, list[SideBySide], list[Built]] | None = None
        # What is found when its turn comes would leave a search that cannot end: each choice, the others as they come
        # first, and each fold.
        choices = {key: ends(domain) for key, domain in space.items() if key not in TRACED}
        first = {key: of_key[0] for key, of_key in choices.items()}
        for fold in self._folds:
            self._build(first, fold)
        for key, of_key in choices.items():
            for choice in of_key[1:]:
                self._build({**first, key: choice}, self._folds[0])

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
            program.scores(
                values, fold.tasks, fold.experiment.readout, training_seed=seed, seed=seed, judged=len(pending)
            )
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
            folds = [self._build(static, {"train.steps": steps, **fold}) for fold in self._folds]
            by_slope = tuple(self._search.space) if self._search.sampler == "hypergradient" else ()
            alike = all(key in ADAPTING or key not in TRACED for key in self._search.space)
            setting = folds[0].setting
            of_its_own = setting.config.tokenizer.kind != "bytes" or setting.source_classes
            if self._config.evaluate.main in READ_SOURCES or of_its_own:
                # A program holds the examples that it replays, and those of another fold are of its held-out languages;
                # and pieces that are learned, and classes of images to train on, are others in every fold.
                programs = [side_by_side(fold, by_slope, alike=alike) for fold in folds]
            else:
                programs = [side_by_side(folds[0], by_slope, alike=alike)] * len(folds)
            self._current = key, programs, folds
        return self._current[1], self._current[2]

    def _build(self, static: Mapping[str, Any], changes: Mapping[str, Any]) -> Built:
        return build(changed(self._config, {**settings(static), **changes}, "`search.space`"))


def _check_exact(built: Built) -> None:
    """Refuses methods whose own gradient leaves something out: its derivative would not be that of what it does."""
    name = built.experiment.main
    recipe = recipes(built.setting).get(name)
    inexact = recipe is not None and recipe.inner and "reverse" not in recipe.strategies
    if inexact or name == "maml_plus_plus" or built.setting.kind.children:
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
    names, test, common = _codes(built.tasks)
    if len(names) < 2 * search.folds:
        raise InputError(
            f"`search.folds` {search.folds}: there are {len(names)} train and dev languages; at most {len(names) // 2}."
        )
    order = np.random.default_rng(built.setting.config.seed).permutation(names).tolist()
    held_out = [tuple(sorted(order[k :: search.folds])) for k in range(search.folds)]
    return [
        {
            "task.test_languages": test,
            "task.dev_languages": dev,
            "task.train_languages": (*(name for name in names if name not in dev), *common),
            "task.left_out_languages": (),  # they are not among the names
        }
        for dev in held_out
    ]


def _codes(tasks: AnyTasks) -> tuple[list[str], tuple[str, ...], tuple[str, ...]]:
    """Returns what a config names languages by: those of train and dev, those of test, and those that all pairs have.

    The partner of a test language that is also in a pair to train on is no test language.
    """
    of = tasks.codes if isinstance(tasks, PairTasks) else lambda name: (name,)
    found = {role: [set(of(name)) for name in tasks.languages(role)] for role in ("train", "dev", "test")}
    every = [codes for role in found.values() for codes in role]
    common = shared_codes(every)
    names = set().union(*found["train"], *found["dev"]) - common
    return sorted(names), tuple(sorted(set().union(*found["test"]) - names - common)), tuple(sorted(common))


def _report(
    folder: pathlib.Path, config: Config, method: str, done: Sequence[Trial], space: Space, metric: str, *, higher: bool
):
    keys = list(space)
    last = [trial for trial in done if trial.rung == max(trial.rung for trial in done)]
    order = promoted(last, len(last), higher_is_better=higher)
    table = Table(title=f"{method} on {config.name}: the best of {len({t.number for t in done})} trials")
    for heading in ("trial", f"dev {metric}", "folds", *keys):
        table.add_column(heading, justify="right")
    for trial in order[:SHOWN]:
        folds = " ".join(f"{score:.4g}" for score in trial.scores)
        table.add_row(str(trial.number), f"{trial.score:.4g}", folds, *(_shown(trial.values[key]) for key in keys))
    best = order[0]
    if math.isnan(best.score):
        raise InputError("Every trial diverged; lower the rates in `search.space`.")
    methods = tuple(dict.fromkeys((*config.evaluate.methods, method)))
    found = {**settings(best.values), "evaluate.methods": methods}
    write_whole(folder / "best.toml", dump(changed(config, found, "the best trial")))
    _draw(folder, last, space, metric, higher=higher)
    console = Console()
    console.print(table)
    console.print(f"Best: {folder / 'best.toml'}; every trial: {folder / 'trials.jsonl'}", soft_wrap=True)
    if len(methods) > 1:
        console.print(
            f"It is the best of {method}; the other methods of the config read the same settings, which were searched "
            "for none of them.",
            soft_wrap=True,
        )


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
