"""A whole run: train every phase once, judge every method, write what a run folder holds."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxmeta.core.batches import stack_episodes
from jaxmeta.core.types import LearnerState, MetaParams
from jaxmeta.run.checkpoint import Checkpoints, tree_sha256
from jaxmeta.run.evaluate import Choice, Grid, classical_grid, evaluator, score_grid, tune
from jaxmeta.run.logging import MetricsLog, ProgressDisplay
from jaxmeta.run.loop import train_phase
from jaxmeta.run.plan import BASELINE, META, Experiment, Method, Phase, chain_of, training_cost
from jaxmeta.run.statistics import (
    bootstrap_interval,
    paired_difference,
    worst_language,
    worst_quartile,
)

PERCENT = ("accuracy", "macro_precision", "macro_recall", "macro_f1")


def checkpoints_of(folder: str | os.PathLike, seed: int, phase: str, **options) -> Checkpoints:
    """Returns where a run keeps the checkpoints of one phase and training seed."""
    return Checkpoints(pathlib.Path(folder) / "checkpoints" / f"seed_{seed}" / phase, **options)


class Trained(dict[tuple[int, str], MetaParams]):
    """Meta-parameters by `(training seed, phase)`, and the seconds each took."""

    def __init__(self):
        super().__init__()
        self.seconds: dict[tuple[int, str], float] = {}


def train(experiment: Experiment, folder: pathlib.Path, log: MetricsLog, progress: ProgressDisplay) -> Trained:
    """Trains all phases of all training seeds, from wherever an earlier run was cut off.

    The last line of the log is about the phase of the main method, in the first training seed.
    """
    trained = Trained()
    result = {}
    for seed in experiment.training_seeds:
        for number, phase in enumerate(experiment.phases):
            name = phase.name if len(experiment.training_seeds) == 1 else f"{phase.name}/seed_{seed}"
            with checkpoints_of(folder, seed, phase.name) as checkpoints:
                result[seed, phase.name] = train_phase(
                    name,
                    phase.learner,
                    experiment.tasks.batches(seed, _steps_before(experiment, phase)),
                    # Phases that start alike draw alike; what they draw first is their initial parameters.
                    key=jax.random.fold_in(jax.random.key(seed), number),
                    steps=phase.steps,
                    examples_per_step=phase.examples_per_step,
                    checkpoints=checkpoints,
                    log=log,
                    log_every=experiment.log_every,
                    save_every=experiment.save_every,
                    on_init=_warm_start(trained, seed, phase.start_from),
                    progress=progress,
                )
            trained[seed, phase.name] = result[seed, phase.name].state.meta_params
            trained.seconds[seed, phase.name] = result[seed, phase.name].seconds
    main = (
        experiment.training_seeds[0],
        _method(experiment, experiment.main).phase or experiment.phases[-1].name,
    )
    log.final(
        main[1],
        step=int(result[main].state.step),
        loss=result[main].loss,
        params_sha256=tree_sha256(trained[main]),
    )
    return trained


def restore(experiment: Experiment, folder: pathlib.Path) -> Trained:
    """Reads the phases that an earlier run trained.

    Raises:
      InputError: one of them is missing or unusable.
    """
    trained = Trained()
    for seed in experiment.training_seeds:
        for phase in experiment.phases:
            with checkpoints_of(folder, seed, phase.name) as checkpoints:
                restored = checkpoints.read()
            trained[seed, phase.name] = restored.tree["meta_params"]
            trained.seconds[seed, phase.name] = restored.extra["seconds"]
    return trained


def evaluate(experiment: Experiment, trained: Trained, progress: ProgressDisplay) -> dict[str, Any]:
    """Judges every method on the test tasks and returns what `evaluation.json` holds."""
    judging, tasks = experiment.judging, experiment.tasks
    languages = list(tasks.languages("test"))
    seeds = experiment.training_seeds
    scale = 100.0 if judging.metric in PERCENT else 1.0
    dev_languages = list(tasks.languages("dev"))
    dev = _episodes(experiment, "dev", dev_languages, judging.shots, judging.dev_draws)
    test = _episodes(experiment, "test", languages, judging.shots, judging.draws)
    by_shots = {shots: _episodes(experiment, "test", languages, shots, 1) for shots in judging.shot_curve}

    scores: dict[str, np.ndarray] = {}  # [L, seeds * draws]
    results: dict[str, Any] = {}
    curves: dict[str, dict[str, list]] = {"inner_steps": {}, "shots": {}}
    calibration: dict[str, dict[str, float]] = {}
    progress.begin("evaluate", steps=len(experiment.methods) + len(experiment.classical), start=0)
    for number, method in enumerate(experiment.methods, start=1):
        run = evaluator(method, experiment.objective, method.steps, judging.tasks_at_once)
        params = {seed: method.complete(trained[seed, method.phase]) if method.phase else {} for seed in seeds}
        # Settings are chosen once, on the first training seed, as a user would.
        choice, dev_score = tune(
            run, method, experiment.objective, judging, params[seeds[0]], dev,
            shape=(len(dev_languages), judging.dev_draws), seed=experiment.seed,
        )  # fmt: skip
        grids = [
            score_grid(
                run, experiment.objective, params[seed], choice.learning_rate, test,
                shape=(len(languages), judging.draws), seed=experiment.seed + seed,
            )
            for seed in seeds
        ]  # fmt: skip
        place = method.steps.index(choice.steps)
        grid = scale * np.concatenate([g.scores[judging.metric] for g in grids], axis=1)  # [L, R, P]
        scores[method.name] = grid[..., place]
        results[method.name] = _summary(
            experiment, method.kind, grid[..., place], languages,
            gradient_examples=training_cost(experiment.phases, method.phase),
            seconds=np.mean([_seconds(experiment, trained, seed, method.phase) for seed in seeds]),
        ) | {
            "adaptation": {
                "learning_rate": choice.learning_rate,
                "steps": choice.steps,
                "gradient_examples": choice.steps * method.gradients_per_step,
                "seconds_per_task": sum(g.seconds for g in grids) / (len(seeds) * len(languages) * judging.draws),
                "dev_score": scale * dev_score,
                "trials": len(method.learning_rates) * len(method.steps),
            },
            "scores": {
                name: float((scale if name in PERCENT else 1.0) * np.mean([g.scores[name][..., place] for g in grids]))
                for name in grids[0].scores
            },
        }  # fmt: skip
        calibration[method.name] = _calibration(experiment, grids, place)
        if len(method.steps) > 1:
            curves["inner_steps"][method.name] = [_point(steps, grid[..., i]) for i, steps in enumerate(method.steps)]
        if by_shots:
            curves["shots"][method.name] = _shot_curve(experiment, method, choice, params[seeds[0]], by_shots, scale)
        progress.update(number)
    for number, classical in enumerate(experiment.classical, start=len(experiment.methods) + 1):
        grid = classical_grid(classical, experiment.objective, tasks, judging, shots=judging.shots)
        # It has no training seed: the same scores stand beside each.
        scores[classical.name] = np.tile(scale * grid.scores[judging.metric][..., 0], (1, len(seeds)))
        results[classical.name] = _summary(
            experiment,
            BASELINE,
            scores[classical.name],
            languages,
            gradient_examples=0.0,
            seconds=grid.seconds,
        )
        calibration[classical.name] = _calibration(experiment, [grid], 0)
        progress.update(number)
    progress.end()
    return _conclusion(experiment, languages, scores, results) | {
        "curves": {name: curve for name, curve in curves.items() if curve},
        "calibration": {name: values for name, values in calibration.items() if values},
        "data": experiment.data_facts,
    }


def write_evaluation(folder: pathlib.Path, evaluation: Mapping[str, Any]) -> None:
    """Writes `evaluation.json` whole or not at all."""
    scratch = folder / "evaluation.json.part"
    scratch.write_text(json.dumps(evaluation, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(scratch, folder / "evaluation.json")


def _warm_start(trained: Trained, seed: int, source: str | None):
    if source is None:
        return None

    def start(state: LearnerState) -> LearnerState:
        # Heads, scales and rates that the source has not stay as the algorithm began them.
        shared = jax.tree.map(np.asarray, trained[seed, source]["params"])
        return state._replace(meta_params={**state.meta_params, "params": jax.tree.map(jax.numpy.asarray, shared)})

    return start


def _steps_before(experiment: Experiment, phase: Phase) -> int:
    # A phase goes on where the one it starts from left off, so that it meets no episode twice.
    return sum(link.steps for link in chain_of(experiment.phases, phase.start_from))


def _method(experiment: Experiment, name: str) -> Method:
    return next(method for method in experiment.methods if method.name == name)


def _episodes(experiment: Experiment, split: str, languages: Sequence[str], shots: int, draws: int):
    episodes = [
        experiment.tasks.episode(language, shots=shots, draw=draw, split=split)
        for language in languages
        for draw in range(draws)
    ]
    return stack_episodes(episodes)


def _seconds(experiment: Experiment, trained: Trained, seed: int, phase: str | None) -> float:
    return sum(trained.seconds[seed, link.name] for link in chain_of(experiment.phases, phase))


def _summary(experiment: Experiment, kind: str, grid: np.ndarray, languages, *, gradient_examples, seconds):
    higher = experiment.judging.higher_is_better
    interval = bootstrap_interval(grid)
    return {
        "metric": experiment.judging.metric,
        "kind": kind,
        "mean": interval.mean,
        "ci95": [interval.low, interval.high],
        "worst_language": worst_language(grid, languages, higher_is_better=higher).score,
        "worst_quartile": worst_quartile(grid, higher_is_better=higher),
        "per_language": dict(zip(languages, grid.mean(axis=1).tolist(), strict=True)),
        "compute": {"gradient_examples": float(gradient_examples), "seconds": float(seconds)},
    }


def _calibration(experiment: Experiment, grids: Sequence[Grid], place: int) -> dict[str, float]:
    counts = jax.tree.map(lambda *leaves: np.sum([leaf[place] for leaf in leaves], axis=0), *[g.counts for g in grids])
    scores = experiment.objective.scores(counts)
    return {name: scores[name] for name in ("nll", "brier", "ece") if name in scores}


def _point(x: float, grid: np.ndarray) -> dict[str, Any]:
    interval = bootstrap_interval(grid, resamples=2000)
    return {"x": x, "mean": interval.mean, "ci95": [interval.low, interval.high]}


def _shot_curve(experiment: Experiment, method: Method, choice: Choice, params, by_shots, scale):
    run = evaluator(method, experiment.objective, (choice.steps,), experiment.judging.tasks_at_once)
    points = []
    for shots, episodes in by_shots.items():
        num_tasks = jax.tree.leaves(episodes)[0].shape[0]
        grid = score_grid(
            run, experiment.objective, params, choice.learning_rate, episodes,
            shape=(num_tasks, 1), seed=experiment.seed,
        )  # fmt: skip
        points.append(_point(shots, scale * grid.scores[experiment.judging.metric][..., 0]))
    return points


def _conclusion(experiment: Experiment, languages, scores: Mapping[str, np.ndarray], results) -> dict[str, Any]:
    judging = experiment.judging
    sign = 1.0 if judging.higher_is_better else -1.0
    # The best of each kind is picked on the dev languages, so that the winner's luck on test is not counted twice.
    best = {}
    for kind in (META, BASELINE):
        names = [n for n, r in results.items() if r["kind"] == kind and "adaptation" in r]
        best[kind] = max(names, key=lambda n: sign * results[n]["adaptation"]["dev_score"], default=None)
    pairs = {}
    metas = [n for n, r in results.items() if r["kind"] == META]
    for a in metas:
        for b in results:
            if b not in metas:
                difference = paired_difference(scores[a], scores[b], higher_is_better=judging.higher_is_better)
                pairs[f"{a} - {b}"] = {
                    "mean": difference.mean,
                    "ci95": [difference.low, difference.high],
                    "wins": difference.wins,
                    "losses": difference.losses,
                }
    return {
        "task": experiment.name,
        "metric": judging.metric,
        "higher_is_better": judging.higher_is_better,
        "languages": languages,
        "training_seeds": list(experiment.training_seeds),
        "shot_seeds": list(range(judging.draws)),
        "shots": judging.shots,
        "methods": results,
        "paired": pairs,
        "best_meta_learner": best[META],
        "best_baseline": best[BASELINE],
        "verdict": _verdict(best, pairs, results, judging),
    }


def _verdict(best, pairs, results, judging) -> str:
    meta, baseline = best[META], best[BASELINE]
    if meta is None or baseline is None:
        return "There is nothing to compare: a verdict needs a meta-learner and a baseline."
    pair = pairs[f"{meta} - {baseline}"]
    low, high = pair["ci95"]
    figures = (
        f"by {abs(pair['mean']):.2f} {judging.metric} (95% interval {low:.2f} to {high:.2f}; better in {pair['wins']} "
        f"languages, worse in {pair['losses']})"
    )
    if low > 0:
        verdict = f"{meta}, the best meta-learner on the dev languages, beats {baseline}, the best baseline, {figures}."
    elif high < 0:
        verdict = f"A baseline wins: {baseline} beats {meta}, the best meta-learner on the dev languages, {figures}."
    else:
        verdict = f"{meta} and the best baseline, {baseline}, cannot be told apart: they differ {figures}."
    sign = 1.0 if judging.higher_is_better else -1.0
    above = [
        name
        for name, result in results.items()
        if result["kind"] == BASELINE and sign * result["mean"] > sign * results[meta]["mean"] and name != baseline
    ]
    return verdict + (f" Baselines with a better mean than {meta}: {', '.join(above)}." if above else "")
