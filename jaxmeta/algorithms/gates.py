"""Gates that remove parts of a model: relaxed to be learned, discrete to be used, and what their openness costs.

They are stretched concrete variables (hard concrete, Louizos, Welling and Kingma 2018, arXiv 1712.01312): a logistic
variable that is stretched beyond 0 and 1 and cut off there, so that a gate may be shut, or open, exactly.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.core.select import Predicate, path_of
from jaxmeta.core.types import ArrayTree, Key

# Temperature and stretch of the paper.
_TEMPERATURE, _LOW, _HIGH = 2 / 3, -0.1, 1.1
_AWAY_FROM_ENDS = 1e-6  # of the uniform numbers that are drawn


class Part(NamedTuple):
    """A part of a model that a gate can remove: a layer, or each of some that lie side by side.

    Attributes:
      name: of the gate.
      scales: the parameters that what the part adds is proportional to: with these at zero it adds nothing. Those of a
        residual layer are its last ones, and what is left is the way around it.
      whole: all its parameters, which it saves where it is removed.
      axis: along which the parts lie side by side in each parameter that `scales` selects, a gate for each; None for
        one gate.
    """

    name: str
    scales: Predicate
    whole: Predicate
    axis: int | None = None


def relaxed(logits: jax.Array) -> jax.Array:
    """Returns gates in [0, 1] without chance or temperature, as the paper uses them after training."""
    return _stretched(jax.nn.sigmoid(logits))


def sampled(key: Key, logits: jax.Array) -> jax.Array:
    """Returns gates in [0, 1] drawn from the stretched concrete distribution; a derivative goes through the draw."""
    uniform = jax.random.uniform(key, logits.shape, logits.dtype, _AWAY_FROM_ENDS, 1 - _AWAY_FROM_ENDS)
    noise = jnp.log(uniform) - jnp.log1p(-uniform)
    return _stretched(jax.nn.sigmoid((noise + logits) / _TEMPERATURE))


def discrete(logits: jax.Array) -> jax.Array:
    """Returns gates of 0 and 1: open where `relaxed` is at least one half. They have no derivative."""
    return (logits >= 0).astype(logits.dtype)


def open_probability(logits: jax.Array) -> jax.Array:
    """Returns the probability that a drawn gate is not shut, in closed form (their equation 12)."""
    return jax.nn.sigmoid(logits - _TEMPERATURE * jnp.log(-_LOW / _HIGH))


def _stretched(gate: jax.Array) -> jax.Array:
    return jnp.clip(gate * (_HIGH - _LOW) + _LOW, 0, 1)


def check_parts(params: ArrayTree, parts: tuple[Part, ...]) -> dict[str, tuple[int, int]]:
    """Returns of each part how many gates it has, and how many numbers each of them removes.

    Raises:
      ValueError: if a part scales nothing, has a name that another has, or its parameters differ along its axis.
    """
    leaves = [(path_of(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    found = {}
    for part in parts:
        shapes = [leaf.shape for path, leaf in leaves if part.scales(path)]
        counts = {1 if part.axis is None else shape[part.axis] for shape in shapes}
        if len(counts) != 1 or part.name in found:
            raise ValueError(
                f"the part {part.name!r} must have a name of its own and scale parameters of one size along its axis, "
                f"got the shapes {shapes}"
            )
        (count,) = counts
        found[part.name] = (count, sum(leaf.size for path, leaf in leaves if part.whole(path)) // count)
    return found


def remove_parts(params: ArrayTree, parts: tuple[Part, ...], gates: dict[str, jax.Array]) -> ArrayTree:
    """Returns parameters with each part as open as its gates say, `[number of gates]` by its name."""
    scale: Callable = lambda path, leaf: _scaled(path_of(path), leaf, parts, gates)  # noqa: E731
    return jax.tree_util.tree_map_with_path(scale, params) if parts else params


def _scaled(path: str, leaf: jax.Array, parts: tuple[Part, ...], gates: dict[str, jax.Array]) -> jax.Array:
    for part in parts:
        if part.scales(path):
            shape = [1] * leaf.ndim
            if part.axis is not None:
                shape[part.axis] = leaf.shape[part.axis]
            leaf = leaf * jnp.reshape(gates[part.name], shape)
    return leaf
