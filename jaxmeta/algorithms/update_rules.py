"""Rules that turn gradients into updates and are learned themselves, and how one becomes an optax optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jaxmeta.core.types import ArrayTree, Key


class UpdateRule(NamedTuple):
    """A learned optimizer as three pure functions; its weights serve parameters of any tree and any shapes."""

    init: Callable[[Key, Any], ArrayTree]  # (key, dtype) -> weights
    begin: Callable[[ArrayTree, ArrayTree], ArrayTree]  # (weights, params) -> memory
    # (weights, memory, gradients, params) -> (updates to add to the parameters, memory)
    update: Callable[[ArrayTree, ArrayTree, ArrayTree, ArrayTree], tuple[ArrayTree, ArrayTree]]


def as_optax(rule: UpdateRule, weights: ArrayTree) -> optax.GradientTransformation:
    """Returns a rule with its weights as an optimizer for any training loop; it has no learning rate to tune.

    Its `update` needs the parameters: `optimizer.update(gradients, state, params)`.

    Example:
      >>> optimizer = jm.as_optax(jm.mlp_rule(), state.meta_params["params"])
      >>> opt_state = optimizer.init(params)
      >>> updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
      >>> params = optax.apply_updates(params, updates)
    """

    def update(updates, state, params=None):  # optax calls gradients so
        if params is None:
            raise ValueError("a learned optimizer reads the parameters too: `update(gradients, state, params)`")
        return rule.update(weights, state, updates, params)

    return optax.GradientTransformation(lambda params: rule.begin(weights, params), update)


def dtype_of(weights: ArrayTree) -> Any:
    """Returns the precision that a rule computes and remembers in, whatever that of the parameters is."""
    return jax.tree.leaves(weights)[0].dtype
