"""Judging a whole run: every method on the same held-out tasks, and what the comparison comes to."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmeta.core.types import Episode, MetaParams
from jaxmeta.run import guard, temperature
from jaxmeta.run.comparison import best_on_dev, compare, diverged, figures_text, is_single, sentence
from jaxmeta.run.evaluate import (
    Choice,
    Grid,
    Posed,
    alike,
    call_size,
    classical_grid,
    classical_on_edge,
    evaluator,
    on_edge,
    pose,
    score_grid,
    told_of,
    tune,
    tune_classical,
)
from jaxmeta.run.experiment import Trained
from jaxmeta.run.judgements import Judged, Judgements
from jaxmeta.run.logging import ProgressDisplay
from jaxmeta.run.plan import BASELINE, META, Classical, Experiment, Method, chain_of, told, training_cost
from jaxmeta.run.statistics import bootstrap_interval, paired_difference, worst_language, worst_quartile
from jaxmeta.run.transfer import ALONE
from jaxmeta.run.units import counted, scale_of, unit, units


class Problems(NamedTuple):
    """The few-shot problems that every method is given."""

    languages: list[str]  # of the test problems
    dev_languages: list[str]
    dev: Posed
    test: Posed
    by_shots: dict[int, Posed]  # one draw each


def evaluate(
    experiment: Experiment, trained: Trained, progress: ProgressDisplay, kept: Judgements | None = None
) -> dict[str, Any]:
    """Judges every method on the test tasks and returns what `evaluation.json` holds.

    Args:
      experiment: says what is judged, and how.
      trained: what its phases came to.
      progress: is told of every method.
      kept: gets each method's scores, and gives those that it has.
    """
    problems = _problems(experiment)
    judged: dict[str, Judged] = {}
    progress.begin("evaluate", steps=len(experiment.methods) + len(experiment.classical), start=0)
    ways = {method.name: partial(_judge, experiment, trained, problems, method) for method in experiment.methods}
    ways |= {way.name: partial(_judge_classical, experiment, problems, way) for way in experiment.classical}
    for name, judge in ways.items():
        progress.update(len(judged), doing=name)
        judged[name] = judge() if kept is None else kept.of(name, judge)
    progress.update(len(judged))
    progress.end()
    curves = {
        "inner_steps": {name: found.by_steps for name, found in judged.items() if found.by_steps},
        "shots": {name: found.by_shots for name, found in judged.items() if found.by_shots},
    }
    judging = experiment.judging
    facts = {
        "task": experiment.name,
        "metric": judging.metric,
        "higher_is_better": judging.higher_is_better,
        "languages": problems.languages,
        "unit": experiment.tasks.unit,
        "training_seeds": list(experiment.training_seeds),
        "shot_seeds": list(range(judging.draws)),
        "shots": judging.shots,
    }
    scores = {name: found.scores for name, found in judged.items()}
    temperatures = {name: found.temperature for name, found in judged.items() if found.temperature}
    return conclusion(facts, scores, {name: found.result for name, found in judged.items()}) | {
        "curves": {name: curve for name, curve in curves.items() if curve},
        "calibration": {name: found.calibration for name, found in judged.items() if found.calibration},
        **({"temperature": temperature.summarized(temperatures, judging.shots)} if temperatures else {}),
        **_guard(experiment, judged),
        "data": experiment.data_facts,
    }


def _problems(experiment: Experiment) -> Problems:
    judging, tasks = experiment.judging, experiment.tasks
    languages, dev_languages = list(tasks.languages("test")), list(tasks.languages("dev"))
    others = [shots for shots in judging.shot_curve if shots != judging.shots]
    dev, test = alike(
        pose(tasks, "dev", dev_languages, judging.shots, judging.dev_draws),
        pose(tasks, "test", languages, judging.shots, judging.draws),
    )
    return Problems(
        languages,
        dev_languages,
        dev,
        test,
        {shots: pose(tasks, "test", languages, shots, 1) for shots in others},
    )


def _judge(experiment: Experiment, trained: Trained, problems: Problems, method: Method) -> Judged:
    judging, readout, seeds = experiment.judging, experiment.readout, experiment.training_seeds
    scale = scale_of(judging.metric)
    run = evaluator(method, readout, method.steps, judging.tasks_at_once)
    params = [method.complete(trained[seed, method.phase]) if method.phase else {} for seed in seeds]
    # Settings are chosen once, on the first training seed, as a user would.
    numbers = (len(problems.dev.cells), len(problems.test.cells))  # dev and test share a compilation
    size = {"tasks_per_call": call_size(numbers, judging.tasks_at_once)}
    choice, dev_score = tune(run, method, readout, judging, params[0], problems.dev, seed=experiment.seed, **size)
    grids = [
        score_grid(run, readout, p, choice.learning_rate, problems.test, seed=experiment.seed + seed, **size)
        for seed, p in zip(seeds, params, strict=True)
    ]
    place = method.steps.index(choice.steps)
    grid = scale * np.concatenate([g.scores[judging.metric] for g in grids], axis=1)  # [L, R, P]
    links = chain_of(experiment.phases, method.phase)
    seconds = np.mean([sum(trained.seconds[seed, link.name] for link in links) for seed in seeds])
    result = summary(
        judging.metric, judging.higher_is_better, method.kind, grid[..., place], problems.languages,
        training_seeds=len(seeds), gradient_examples=training_cost(experiment.phases, method.phase), seconds=seconds,
        step_bytes=trained.step_bytes.get((seeds[0], method.phase or "")),
    )  # fmt: skip
    result["adaptation"] = {
        **told(choice.learning_rate),
        "steps": choice.steps,
        "gradient_examples": choice.steps * method.gradients_per_step,
        "seconds_per_task": sum(g.seconds for g in grids) / grid[..., 0].size,
        "dev_score": scale * dev_score,
        "trials": len(method.learning_rates) * len(method.steps),
        "on_edge": on_edge(method, choice),
    }
    result["scores"] = {
        name: float(scale_of(name) * np.mean([g.scores[name][..., place] for g in grids])) for name in grids[0].scores
    }
    if told_here := told_of(method, params[0], choice.learning_rate, problems.test, seed=experiment.seed):
        result["told"] = told_here
    curves = grid.mean(axis=1).tolist()
    result["by_steps"] = {
        "steps": list(method.steps),
        "per_language": dict(zip(problems.languages, curves, strict=True)),
    }
    by_steps = [_point(steps, grid[..., i], len(seeds)) for i, steps in enumerate(method.steps)]
    by_shots = []
    if method.name in judging.curve_methods:
        here = _point(judging.shots, grid[..., place], len(seeds))
        by_shots = [here, *_shot_curve(experiment, method, choice, params[0], problems)]
    return Judged(
        grid[..., place],
        result,
        _calibration(experiment, grids, place),
        by_steps if len(by_steps) > 1 else [],
        sorted(by_shots, key=lambda point: point["x"]),
        _temperature(experiment, problems, method, choice, params[0], grids[0], place),
        _right_of_folds(experiment, problems, method, choice, params[0]),
    )


def _judge_classical(experiment: Experiment, problems: Problems, classical: Classical) -> Judged:
    judging, readout = experiment.judging, experiment.readout
    scale = scale_of(judging.metric)
    value, dev_score = tune_classical(classical, readout, judging, problems.dev_languages)

    def on_test(shots: int, draws: int) -> Grid:
        return classical_grid(classical, value, readout, problems.languages, shots=shots, draws=draws, split="test")

    grid = on_test(judging.shots, judging.draws)
    # It has no training seed: the same scores stand beside each.
    scores = np.tile(scale * grid.scores[judging.metric][..., 0], (1, len(experiment.training_seeds)))
    result = summary(
        judging.metric,
        judging.higher_is_better,
        BASELINE,
        scores,
        problems.languages,
        training_seeds=len(experiment.training_seeds),
        gradient_examples=0.0,
        seconds=0.0,
    )
    result["adaptation"] = {
        classical.setting: value,
        "gradient_examples": 0.0,
        "seconds_per_task": grid.seconds / (len(problems.languages) * judging.draws),
        "dev_score": scale * dev_score,
        "trials": len(classical.values),
        "on_edge": classical_on_edge(classical, value),
    }
    result["scores"] = {name: float(scale_of(name) * found.mean()) for name, found in grid.scores.items()}
    by_shots = []
    if classical.name in judging.curve_methods:
        by_shots.append(_point(judging.shots, scores, len(experiment.training_seeds)))
        for shots in problems.by_shots:
            by_shots.append(_point(shots, scale * on_test(shots, 1).scores[judging.metric][..., 0]))
    by_shots.sort(key=lambda point: point["x"])
    folds, scaled = temperature.number_of_folds(judging.shots), None
    if classical.name in judging.temperature_methods and folds > 1:
        scaled = temperature.of_classical(
            readout, classical, value, problems.languages, shots=judging.shots, folds=folds
        )
    return Judged(scores, result, _calibration(experiment, [grid], 0), by_shots=by_shots, temperature=scaled)


def _temperature(experiment, problems: Problems, method: Method, choice: Choice, params, grid: Grid, place: int):
    """Returns the calibration of a method with temperatures, on the first draw of each test language."""
    judging, posed = experiment.judging, problems.test
    folds = temperature.number_of_folds(judging.shots)
    if method.name not in judging.temperature_methods or folds < 2:
        return None
    first = list(range(0, len(posed.cells), posed.shape[1]))
    cells = [posed.cells[task] for task in first]
    episodes = jax.tree.map(lambda leaf: np.asarray(leaf)[first], posed.episodes)
    logits = grid.read["logits"][first, place]
    answered = partial(_logits_of_folds, experiment, method, choice, params, cells, folds)
    return temperature.of_method(experiment.readout, episodes, logits, folds, answered)


def _right_of_folds(experiment, problems: Problems, method: Method, choice: Choice, params) -> list[np.ndarray]:
    """Returns for each test problem which of its shots a method answers right by folds, where a guard asks for it."""
    judging, posed = experiment.judging, problems.test
    folds = temperature.number_of_folds(judging.shots)
    if folds < 2 or method.name not in (*judging.guard_methods, *([ALONE] if judging.guard_methods else [])):
        return []
    asked = temperature.fold_problems(posed.episodes.support, folds)
    logits = _logits_of_folds(experiment, method, choice, params, posed.cells, folds, asked)
    query, places = asked.query, np.arange(len(logits)).reshape(-1, folds)
    # What is no number answers nothing, though `argmax` makes a class of it.
    right = (logits.argmax(-1) == query["targets"]) & np.isfinite(logits.max(-1))
    return [right[of][query["mask"][of]] for of in places]


def _logits_of_folds(experiment, method: Method, choice: Choice, params, cells, folds: int, episodes: Episode):
    """Returns what a method answers `[T * folds, Q, C]` to folds of `T` problems, at the settings it has chosen."""
    # A program of its own: the query is a few shots, and one number of steps is read.
    own = evaluator(method, experiment.readout, (choice.steps,), experiment.judging.tasks_at_once)
    each = [cell for cell in cells for _ in range(folds)]
    found = score_grid(
        own, experiment.readout, params, choice.learning_rate, Posed(episodes, each, (len(cells), folds)),
        seed=experiment.seed, tasks_per_call=call_size((len(each),), experiment.judging.tasks_at_once),
    )  # fmt: skip
    return found.read["logits"][:, 0]


def _guard(experiment: Experiment, judged: Mapping[str, Judged]) -> dict[str, Any]:
    judging, right = experiment.judging, {name: found.right for name, found in judged.items() if found.right}
    if not right:
        return {}
    return {
        "guard": guard.guarded(
            {name: found.scores for name, found in judged.items()}, right, judging.guard_methods,
            draws=judging.draws, folds=temperature.number_of_folds(judging.shots), metric=judging.metric,
            higher_is_better=judging.higher_is_better,
        )
    }  # fmt: skip


def _shot_curve(experiment: Experiment, method: Method, choice: Choice, params: MetaParams, problems: Problems):
    run = evaluator(method, experiment.readout, (choice.steps,), experiment.judging.tasks_at_once)
    metric, points = experiment.judging.metric, []
    for shots, posed in problems.by_shots.items():
        grid = score_grid(
            run, experiment.readout, params, choice.learning_rate, posed, seed=experiment.seed,
            tasks_per_call=call_size((len(posed.cells),), experiment.judging.tasks_at_once),
        )  # fmt: skip
        points.append(_point(shots, scale_of(metric) * grid.scores[metric][..., 0]))
    return points


def summary(
    metric: str, higher: bool, kind: str, grid: np.ndarray, languages: Sequence[str], *, training_seeds: int,
    gradient_examples, seconds, step_bytes=None,
) -> dict[str, Any]:  # fmt: skip
    """Returns what `evaluation.json` says of a method whose scores are `grid` `[L, R]`, see `bootstrap_interval`."""
    interval = bootstrap_interval(grid, training_seeds=training_seeds)
    return {
        "metric": metric,
        "kind": kind,
        "mean": interval.mean,
        "ci95": [interval.low, interval.high],
        "worst_language": worst_language(grid, languages, higher_is_better=higher).score,
        "worst_quartile": worst_quartile(grid, higher_is_better=higher),
        "per_language": dict(zip(languages, grid.mean(axis=1).tolist(), strict=True)),
        "repetitions": dict(zip(languages, grid.tolist(), strict=True)),
        "compute": {"gradient_examples": float(gradient_examples), "seconds": float(seconds)}
        | ({} if step_bytes is None else {"step_bytes": int(step_bytes)}),
    }


def _calibration(experiment: Experiment, grids: Sequence[Grid], place: int) -> dict[str, float]:
    counts = jax.tree.map(lambda *leaves: np.sum([leaf[place] for leaf in leaves], axis=0), *[g.counts for g in grids])
    scores = experiment.readout.scores(counts)
    # Others have an nll too, of tokens or of places, which says nothing of how sure a method may be.
    return {name: scores[name] for name in ("nll", "brier", "ece")} if "ece" in scores else {}


def _point(x: float, grid: np.ndarray, training_seeds: int = 1) -> dict[str, Any]:
    interval = bootstrap_interval(grid, training_seeds=training_seeds, resamples=2000)
    return {"x": x, "mean": interval.mean, "ci95": [interval.low, interval.high]}


def conclusion(
    facts: Mapping[str, Any], scores: Mapping[str, np.ndarray], results: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Returns what `evaluation.json` holds of methods, their differences and a verdict.

    Args:
      facts: what there was to judge by: "metric", "higher_is_better" and more, which is returned too.
      scores: `[L, R]` of each method.
      results: what `summary` returned, with the "adaptation" that was chosen.
    """
    higher = facts["higher_is_better"]
    best = {}
    for kind in (META, BASELINE):
        of_kind = {n: r for n, r in results.items() if r["kind"] == kind}
        best[kind] = best_on_dev(of_kind, higher_is_better=higher) if of_kind else None
    metas = [n for n, r in results.items() if r["kind"] == META]
    pairs = {
        (a, b): paired_difference(
            scores[a], scores[b], higher_is_better=higher, training_seeds=len(facts["training_seeds"])
        )
        for a in metas
        for b in results
        if b not in metas
    }
    found = {
        **facts,
        "methods": dict(results),
        "paired": {
            f"{a} - {b}": {"mean": pair.mean, "ci95": [pair.low, pair.high], "wins": pair.wins, "losses": pair.losses}
            for (a, b), pair in pairs.items()
        },
        "best_meta_learner": best[META],
        "best_baseline": best[BASELINE],
    }
    if len(results) == 1:
        verdict = "There is nothing to compare: a verdict needs two methods."
    elif None in best.values():
        verdict = sentence(found, compare(found))
    else:
        verdict = " ".join(filter(None, (_verdict(best, pairs, found), diverged(found, results))))
    return found | {"verdict": verdict}


def _verdict(best, pairs, found: Mapping[str, Any]) -> str:
    meta, baseline = best[META], best[BASELINE]
    pair, results, dev = pairs[meta, baseline], found["methods"], f"on the dev {units(found)}"
    if not np.isfinite(pair.mean):
        return f"{meta}, the best meta-learner {dev}, and {baseline}, the best baseline there, cannot be compared."
    # One language cannot say who wins in others, and one score of each not even that.
    only = f", in the one held-out {unit(found)}" if len(found["languages"]) == 1 else ""
    ahead, name = (pair.reversed(), baseline) if pair.mean < 0 else (pair, meta)
    counts = "" if only else f"better in {counted(ahead.wins, unit(found))}, worse in {ahead.losses}"
    by = f"by {figures_text(found, ahead, counts)}{only}"
    if is_single(found):
        if not pair.mean:
            return f"{meta} and {baseline} have the same score{only}, one of each."
        return f"{name}, with one score of each, is ahead of {meta if name == baseline else baseline} {by}."
    if pair.low > 0:
        beats = "is ahead of" if only else "beats"
        verdict = f"{meta}, the best meta-learner {dev}, {beats} {baseline}, the best baseline there, {by}."
    elif pair.high < 0:
        wins = "is ahead" if only else "wins"
        verdict = f"A baseline {wins}: {baseline} is ahead of {meta}, the best meta-learner {dev}, {by}."
    else:
        verdict = f"{meta} and {baseline}, the best meta-learner and baseline {dev}, cannot be told apart: "
        verdict += f"{name} is ahead {by}." if pair.mean else f"they differ {by}."
    # The best baseline was picked on the dev languages; one that does better on test must not go unmentioned.
    others = {n: pairs[meta, n] for n, r in results.items() if r["kind"] == BASELINE and n != baseline}
    winners = [n for n, other in others.items() if other.high < 0]
    level = [n for n, other in others.items() if other.low <= 0 <= other.high]
    if winners:
        too = "Ahead of it too" if pair.high < 0 else f"But ahead of {meta}, though not the best {dev}"
        verdict += f" {too}, each interval by itself: {', '.join(winners)}."
    if level:
        verdict += f" Not told apart from {meta}: {', '.join(level)}."
    return verdict
