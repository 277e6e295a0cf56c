"""Knowledge transfer as methods of a config: what a jointly trained model is held by while it adapts to its shots."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import optax

from jaxmeta import algorithms
from jaxmeta.algorithms import Unfreezing, distillation, feature_matching, l2_sp
from jaxmeta.config.kinds import CLASSES
from jaxmeta.config.schema import AUTO, Config
from jaxmeta.core.checks import InputError
from jaxmeta.core.gradients import Strategy, first_order, reverse
from jaxmeta.core.select import matching
from jaxmeta.core.types import Episode, MetaAlgorithm
from jaxmeta.run.plan import BASELINE, Method, Pulled, Rate

if TYPE_CHECKING:
    from jaxmeta.config.setting import Setting

UNFREEZING, NEAREST = "gradual_unfreezing", "nearest_sources"
# What Adam adds under its square root, which has no derivative at zero: too little to change a number.
ROOT = 1e-30


def transfer_methods(setting: Setting, phase: str) -> dict[str, Method]:
    """Returns the methods that adapt the model of a phase by `L + λ R`, or part by part.

    A strength is a setting like a rate, and is paid for like one: all pairs together are no more than the rates that
    fine-tuning tries.
    """
    config = setting.config
    regularizers: dict[str, Any] = {"l2_sp": l2_sp}
    if setting.kind.head:
        regularizers["feature_matching"] = feature_matching()
    if setting.kind.head == CLASSES:
        regularizers["distillation"] = distillation(config.transfer.temperature)
    rates, steps = config.evaluate.learning_rates, config.evaluate.steps

    def method(name: str, build, tried: Sequence[Rate]) -> Method:
        return Method(name, BASELINE, phase, build, tuple(tried), steps, setting.adapted)

    found = {
        name: method(
            name,
            lambda pulled, term=term: held(setting, pulled.learning_rate, term, strength=pulled.strength),
            pairs(rates, config.transfer.strengths),
        )
        for name, term in regularizers.items()
    }
    found[UNFREEZING] = method(UNFREEZING, lambda r: held(setting, r, unfreezing=unfreezing_of(setting)), rates)
    source, languages = setting.source, setting.source_languages
    # Whose texts are near is known where text is classified; `build` adds whose examples they are.
    if source is not None and setting.kind.cipher:
        replaying = method(
            NEAREST,
            lambda r: algorithms.source_replay(
                held(setting, r), source, num_examples=setting.adapted, languages=languages
            ),
            rates,
        )
        found[NEAREST] = replaying._replace(gradients_per_step=2 * setting.adapted)
    return found


def held(setting: Setting, learning_rate: Any, *term: Any, **options: Any) -> MetaAlgorithm:
    """Returns fine-tuning with Adam by a transfer term, or part by part."""
    model, objective = setting.model, setting.objective
    return algorithms.knowledge_transfer(
        model, objective, adam(setting, learning_rate), *term, gradient=fine_gradient(setting), **options
    )


def fine_gradient(setting: Setting) -> Strategy:
    """Returns how an inner gradient of fine-tuning is differentiated: not at all, as a rule."""
    return reverse if setting.exact else first_order


def adam(setting: Setting, learning_rate: Any) -> optax.GradientTransformation:
    """Returns the optimizer of whatever is fine-tuned."""
    return optax.adam(learning_rate, eps_root=ROOT if setting.exact else 0.0)


def pairs(rates: Sequence[Any], strengths: Sequence[Any]) -> list[Pulled]:
    """Returns what is tried of rates and strengths: no more pairs than rates, but each strength once at least.

    The rates are from the middle of equal parts of the list.
    """
    count = max(1, len(rates) // len(strengths))
    # Without rates there is nothing to try, which `check_methods` will say.
    chosen = [rates[(2 * part + 1) * len(rates) // (2 * count)] for part in range(count)] if rates else []
    return [Pulled(rate, strength) for rate in chosen for strength in strengths]


def unfreezing_of(setting: Setting) -> Unfreezing:
    """Returns which parameters adapt from which inner step on."""
    config = setting.config
    patterns = config.transfer.unfreeze
    if patterns == (AUTO,):
        blocks = range(config.model.layers) if config.model.kind == "transformer" and setting.kind.head else ()
        patterns = (setting.kind.last_layer, *(f"(^|/)block_{number}/" for number in reversed(blocks)))
    return Unfreezing(tuple(matching(pattern) for pattern in patterns), config.transfer.unfreeze_every)


def check_transfer(config: Config) -> None:
    """Refuses settings of `[transfer]` that no method can be made of.

    Raises:
      InputError: with the key and what is allowed.
    """
    strengths = config.transfer.strengths
    if not strengths or not all(0 <= strength < math.inf for strength in strengths):
        raise InputError(f"`transfer.strengths` must be numbers from 0 up, at least one, got {list(strengths)}.")
    for pattern in config.transfer.unfreeze:
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"`transfer.unfreeze`: {pattern!r} is no regular expression ({error}).") from None


def check_unfreezing(setting: Setting, episode: Episode) -> None:
    """Refuses groups of gradual unfreezing that no parameter is in.

    Raises:
      InputError: with the key and names that there are.
    """
    algorithm = held(setting, 0.1, unfreezing=unfreezing_of(setting))
    try:
        jax.eval_shape(algorithm.init, jax.random.key(0), episode)
    except ValueError as error:
        raise InputError(f"`transfer.unfreeze` {list(setting.config.transfer.unfreeze)}: {error}.") from None
