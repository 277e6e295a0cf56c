"""Which settings a search tries next: at random, by successive halving, or as one of Optuna's samplers says."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmeta.core.checks import InputError

ETA = 3  # of successive halving: one in so many goes on, with so many times the steps
LEARNING = ("tpe", "cmaes")  # each trial follows from those before it
OPTUNA = (*LEARNING, "quasi_random")
_FEWEST = 8  # scored trials that a covariance is taken of; before there are so many, trials are at random


class Between(NamedTuple):
    """A range of numbers."""

    low: float
    high: float
    log: bool = False  # drawn evenly in the logarithm
    whole: bool = False  # integers, both ends included


Space = Mapping[str, Between | Sequence[Any]]  # ranges, or the values that may be chosen from


class Trial(NamedTuple):
    """One set of values with what it came to."""

    number: int
    rung: int  # of successive halving, from 0 up; 0 otherwise
    values: dict[str, Any]
    scores: tuple[float, ...]  # of each fold, NaN where training diverged
    score: float  # their mean
    loss: float = math.nan  # mean over folds of the held-out loss, where it is descended
    slopes: Mapping[str, float] = {}  # how that changes with each value

    def rank(self, *, higher_is_better: bool) -> float:
        """Returns what is larger for a better trial."""
        if math.isnan(self.score):
            return -math.inf
        return self.score if higher_is_better else -self.score


def draw(space: Space, seed: int, number: int) -> dict[str, Any]:
    """Returns the values of a random trial, which depend on its number alone: a search that resumes draws the same."""
    rng = np.random.default_rng((seed, number))
    return {key: _drawn(rng, domain) for key, domain in space.items()}


def _drawn(rng: np.random.Generator, domain: Between | Sequence[Any]) -> Any:
    if not isinstance(domain, Between):
        return domain[int(rng.integers(len(domain)))]
    low, high = domain.low, domain.high
    if domain.whole and not domain.log:
        return int(rng.integers(int(low), int(high) + 1))
    value = math.exp(rng.uniform(math.log(low), math.log(high))) if domain.log else float(rng.uniform(low, high))
    return min(max(round(value), int(low)), int(high)) if domain.whole else value


def rungs(trials: int, steps: int) -> list[tuple[int, int]]:
    """Returns `(trials, steps)` of each rung of successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943).

    The last rung has all the steps; each before it a third of them, and three times the trials.
    """
    count = int(math.log(trials, ETA) + 1e-9) + 1
    found = [(max(1, trials // ETA**k), max(1, round(steps / ETA ** (count - 1 - k)))) for k in range(count)]
    # Short runs may round to the same number of steps; a rung that adds none decides nothing.
    return [rung for place, rung in enumerate(found) if place == 0 or rung[1] > found[place - 1][1]]


def promoted(done: Sequence[Trial], count: int, *, higher_is_better: bool) -> list[Trial]:
    """Returns the `count` best trials of a rung, the best first; of equals the earlier ones."""
    order = sorted(done, key=lambda trial: (-trial.rank(higher_is_better=higher_is_better), trial.number))
    return order[:count]


def descended(
    space: Mapping[str, Between], done: Sequence[Trial], starts: int, step: int, *, seed: int, rate: float
) -> list[dict[str, Any]]:
    """Returns the values of `starts` descents of the held-out loss after so many steps of Adam.

    A descent begins at a random trial, goes by shares of each range (of its logarithm where that is drawn from), and
    stops at its ends. One that has met a loss or slope that is not a number begins anew at another random trial. It
    depends on the trials before alone: one that is resumed goes the same way.

    Args:
      space: ranges that are not whole.
      done: trials with slopes; trial `starts * s + k` is that of descent k after s steps.
      starts: how many descents there are.
      step: how many steps they have taken.
      seed: of where they begin.
      rate: of Adam.
    """
    by_number = {trial.number: trial for trial in done}
    optimizer = optax.adam(rate)
    found = []
    for start in range(starts):
        place = _place(space, draw(space, seed, start))
        state = optimizer.init(place)
        for trial in (by_number[starts * before + start] for before in range(step)):
            slope = _slope(space, trial)
            if not np.isfinite([trial.loss, *slope]).all():
                place = _place(space, draw(space, seed, trial.number + starts))
                state = optimizer.init(place)
                continue
            update, state = optimizer.update(jnp.asarray(slope, jnp.float32), state)
            place = jnp.clip(jnp.asarray(optax.apply_updates(place, update)), 0.0, 1.0)
        found.append(_at(space, place))
    return found


def _place(space: Mapping[str, Between], values: Mapping[str, Any]) -> jax.Array:
    """Returns where values lie in their ranges, from 0 to 1 `[n]`."""
    return jnp.asarray([share(domain, values[key]) for key, domain in space.items()], jnp.float32)


def _at(space: Mapping[str, Between], place: jax.Array) -> dict[str, float]:
    found = {}
    for (key, domain), at in zip(space.items(), np.asarray(place, np.float64).tolist(), strict=True):
        low, high = map(math.log, (domain.low, domain.high)) if domain.log else (domain.low, domain.high)
        value = low + at * (high - low)
        found[key] = min(max(math.exp(value) if domain.log else value, domain.low), domain.high)
    return found


def _slope(space: Mapping[str, Between], trial: Trial) -> list[float]:
    """Returns the slopes of a trial by the share of each range."""
    found = []
    for key, domain in space.items():
        per_share = domain.high - domain.low
        if domain.log:
            per_share = trial.values[key] * math.log(domain.high / domain.low)
        found.append(trial.slopes[key] * per_share)
    return found


def share(domain: Between | Sequence[Any], value: Any) -> float:
    """Returns where a value lies in its range (in its logarithm where that is drawn from), or among the choices."""
    if not isinstance(domain, Between):
        return list(domain).index(value) / (len(domain) - 1)
    if domain.log:
        return math.log(value / domain.low) / math.log(domain.high / domain.low)
    return (value - domain.low) / (domain.high - domain.low)


def suggested(
    sampler: str, space: Space, done: Sequence[Trial], count: int, *, seed: int, higher_is_better: bool
) -> list[dict[str, Any]]:
    """Returns what a sampler of Optuna tries next, `count` trials at once; it depends on the trials before alone.

    Args:
      sampler: "tpe", the tree of Parzen estimators (Bergstra et al. 2011); "cmaes", evolution of a covariance matrix,
        begun from the best trials so far (Nomura et al. 2021, arXiv 2012.06932), where values that are chosen from a
        list are drawn at random; or "quasi_random", Sobol's sequence, which fills a space more evenly than chance.
      space: what is searched.
      done: the trials so far.
      count: how many are asked for before any of them is told.
      seed: of the sampler.
      higher_is_better: of scores.

    Raises:
      InputError: Optuna, or what the sampler needs beside it, is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise InputError(
            f"The sampler {sampler} needs Optuna; install jaxmeta[search], or use random or halving."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    told = _told(optuna, space, done)
    direction = "maximize" if higher_is_better else "minimize"
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        made = _sampler(optuna, sampler, space, done, seed)
    study = optuna.create_study(sampler=made, direction=direction)
    before = 0
    if sampler == "quasi_random":
        before = len(done)  # a sequence is the same from its beginning, whatever it led to
    else:
        study.add_trials(told)
    distributions = _distributions(optuna, space)
    asked = [study.ask(distributions) for _ in range(before + count)][before:]
    return [{key: _value(space[key], trial.params[key]) for key in space} for trial in asked]


def _sampler(optuna, name: str, space: Space, done: Sequence[Trial], seed: int):
    if name == "quasi_random":
        return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
    if name == "tpe":
        # Several are asked for before any is told: those that run are taken to be bad, so that they differ.
        return optuna.samplers.TPESampler(seed=seed + len(done), constant_liar=True)
    ranges = {key: domain for key, domain in space.items() if isinstance(domain, Between)}
    scored = [trial for trial in done if not math.isnan(trial.score)]
    if not ranges or len(scored) < _FEWEST:
        return optuna.samplers.RandomSampler(seed=seed + len(done))
    try:
        import cmaes  # noqa: F401
    except ModuleNotFoundError:
        raise InputError("The sampler cmaes needs the package cmaes; install jaxmeta[search], or use tpe.") from None
    return optuna.samplers.CmaEsSampler(
        seed=seed + len(done), source_trials=_told(optuna, ranges, scored), warn_independent_sampling=False
    )


def _told(optuna, space: Space, done: Sequence[Trial]) -> list[Any]:
    """Returns trials as Optuna has them, with the values of a space alone."""
    states = optuna.trial.TrialState
    return [
        optuna.trial.create_trial(
            params={key: _index(space[key], trial.values[key]) for key in space},
            distributions=_distributions(optuna, space),
            value=None if math.isnan(trial.score) else trial.score,
            state=states.FAIL if math.isnan(trial.score) else states.COMPLETE,
        )
        for trial in done
    ]


def _distributions(optuna, space: Space) -> dict[str, Any]:
    return {key: _distribution(optuna.distributions, domain) for key, domain in space.items()}


def _distribution(distributions, domain: Between | Sequence[Any]):
    if not isinstance(domain, Between):
        # By number: values may be of any type.
        return distributions.CategoricalDistribution(range(len(domain)))
    if domain.whole:
        return distributions.IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return distributions.FloatDistribution(domain.low, domain.high, log=domain.log)


def _index(domain: Between | Sequence[Any], value: Any) -> Any:
    return value if isinstance(domain, Between) else list(domain).index(value)


def _value(domain: Between | Sequence[Any], found: Any) -> Any:
    return found if isinstance(domain, Between) else domain[found]
