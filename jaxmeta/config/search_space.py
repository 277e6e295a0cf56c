"""What `jaxmeta search` looks for and how: the `[search]` table of a config file, checked against the config."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pydantic
from pydantic import Field

from jaxmeta.config.read import changed, known_keys, nearest_key, read_toml, refusal
from jaxmeta.config.schema import Config, Count, Rate, Section
from jaxmeta.core.checks import InputError
from jaxmeta.run.samplers import Between

# Lists of what is tried on the dev languages, by what adapts the baselines: a trial has one number in place of each.
LISTED = ("evaluate.learning_rates", "evaluate.head_learning_rates", "transfer.strengths")
# Numbers that adaptation alone reads, and not training.
ADAPTING = (*LISTED, "transfer.temperature")
# Numbers that a held-out loss is differentiated by.
SLOPED = ("train.learning_rate", "train.weight_decay", "train.clip", "inner.learning_rate", *LISTED)
# Numbers that a compiled program can be given: trials that differ in these alone run side by side.
TRACED = (
    *SLOPED,
    *("train.label_smoothing", "inner.context_learning_rate", "inner.proximal", "inner.perturbation"),
    "inner.coupling",
    *("generator.learning_rate", "generator.cost_weight", "transfer.temperature", "children.scale"),
)
# What `[task]` says of training alone. Whoever may move the rest of it, or these others, finds the easier test, not the
# better method; the steps of training are said by `train.steps`, or by a rung.
_OF_TRAINING = ("queries", "tasks_per_step", "lexicon", "sampling", "temperature", "epochs")
_FIXED = (
    *("name", "seed", "train.steps", "train.seeds", "train.at_once"),
    *("children.judged", "children.languages", "children.batch_size"),
)
_QUERIES_NOT_JUDGED = ("cldr", "tsv", "tfds", "npz")  # sources whose problems are judged on other queries


Sampler = Literal["random", "halving", "tpe", "cmaes", "quasi_random", "hypergradient"]


class SearchConfig(Section):
    """What a search tries."""

    trials: Count = 32
    """How many settings are tried."""
    sampler: Sampler = "random"
    """At random (Bergstra and Bengio 2012); at random with few steps, of which a third goes on with three times as many
    (successive halving); by one of Optuna's: the tree of Parzen estimators (tpe), evolution of a covariance matrix
    (cmaes), Sobol's sequence (quasi_random); or down the gradient of the held-out loss."""
    starts: Count = 4
    """Descents side by side, from random values (sampler hypergradient); each has its share of the trials."""
    descent_rate: Rate = 0.1
    """Length of their steps (Adam), in shares of a range (sampler hypergradient)."""
    folds: Count = 3
    """Parts that the train and dev languages are cut into; each is held out in turn, and the mean of their scores
    counts. 1: the dev languages of the config are held out."""
    at_once: Count = 8
    """Trials that run side by side in one compiled program, where they differ in plain numbers alone."""
    method: str = ""
    """The method; empty: the main one of the config."""
    space: dict[str, Any] = Field(
        default={
            "train.learning_rate": {"low": 3e-4, "high": 3e-2, "log": True},
            "train.weight_decay": {"low": 1e-6, "high": 1e-1, "log": True},
        }
    )
    """Dotted keys of the config: each with a table of low, high, and log or whole if wanted, or a list of values."""


class _Range(Section):
    low: float
    high: float
    log: bool = False
    whole: bool = False


def load_search(path: str | None, preset: str | None, changes: Mapping[str, Any]) -> SearchConfig:
    """Returns the `[search]` table of a config file with some keys replaced; its defaults where there is none.

    Raises:
      InputError: a key or a value is not allowed.
    """
    where = str(path) if path is not None else "the default config"
    file = read_toml(pathlib.Path(path)) if path is not None else {}
    values = file.get("search", {})
    if not isinstance(values, dict):
        raise InputError(f"{where}: `search` must be a table; write it as [search].")
    if preset is not None:
        of_preset = file.get("presets", {}).get(preset, {}).get("search", {})
        if not isinstance(of_preset, dict):
            raise InputError(
                f"{where}: `presets.{preset}.search` must be a table; write it as [presets.{preset}.search]."
            )
        values |= of_preset
    try:
        return SearchConfig.model_validate({**values, **changes})
    except pydantic.ValidationError as error:
        raise refusal(error, f"{where}, [search]") from None


def space_of(search: SearchConfig, config: Config) -> dict[str, Between | tuple[Any, ...]]:
    """Returns what is searched, every end of a range and every choice being allowed by the config.

    Raises:
      InputError: with the key and what is wrong.
    """
    if not search.space:
        raise InputError(
            "`search.space` is empty; name a key, such as train.learning_rate = { low = 0.001, high = 0.1 }."
        )
    found = {}
    for key, domain in search.space.items():
        where = f"`search.space`, {key}"
        if key not in known_keys():
            raise InputError(f"{where}: unknown key; {nearest_key(key)}")
        if _is_fixed(key, config):
            raise InputError(f"{where}: trials are compared by it, so it must stay the same; leave it out.")
        found[key] = _domain(domain, where)
        for value in ends(found[key]):
            changed(config, settings({key: value}), where)
        if search.sampler == "hypergradient":
            _check_differentiable(key, found[key], where)
    return found


def ends(domain: Between | Sequence[Any]) -> tuple[Any, ...]:
    """Returns every choice, or both ends of a range."""
    if not isinstance(domain, Between):
        return tuple(domain)
    return tuple(int(end) if domain.whole else end for end in (domain.low, domain.high))


def settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the values of a trial are in a config."""
    return {key: (value,) if key in LISTED else value for key, value in values.items()}


def _is_fixed(key: str, config: Config) -> bool:
    section, _, name = key.partition(".")
    # What is read of a text is judged where each of its bytes is, and children are made of it.
    if config.task.kind == "generation" and section == "tokenizer":
        return True
    if config.task.source == "children" and key in ("tokenizer.length", "model.buckets"):
        return True
    if section == "task":
        return name not in _OF_TRAINING or (name == "queries" and config.task.source not in _QUERIES_NOT_JUDGED)
    return key in _FIXED or (section == "evaluate" and key not in LISTED)


def _check_differentiable(key: str, domain: Between | tuple[Any, ...], where: str) -> None:
    if key not in SLOPED:
        known = ", ".join(SLOPED)
        raise InputError(f"{where}: there are hypergradients of {known}; leave it out, or use another sampler.")
    if not isinstance(domain, Between) or domain.whole:
        raise InputError(f"{where}: a gradient needs a range of numbers; give low and high, or use another sampler.")


def _domain(domain: Any, where: str) -> Between | tuple[Any, ...]:
    if isinstance(domain, list | tuple):
        if len(domain) < 2 or any(domain.count(value) > 1 for value in domain):
            raise InputError(f"{where}: must list two different values at least, got {list(domain)}.")
        return tuple(domain)
    if not isinstance(domain, dict):
        raise InputError(f"{where}: must be a table of low and high, or a list of values, got {domain!r}.")
    try:
        range_ = _Range.model_validate(domain)
    except pydantic.ValidationError as error:
        raise refusal(error, where) from None
    low, high = range_.low, range_.high
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"{where}: low must be below high, got {low} and {high}.")
    if range_.log and low <= 0:
        raise InputError(f"{where}: a logarithmic range must begin above zero, got {low}.")
    return Between(low, high, range_.log, range_.whole)
