"""A small LSTM for every parameter, all with the same weights (Andrychowicz et al. 2016, arXiv 1606.04474)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.algorithms.mlp_rule import layer_name
from jaxmeta.algorithms.update_rules import UpdateRule, dtype_of
from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import ArrayTree

_RANGE = 10.0  # powers of e that a gradient's logarithm is read over, as in the paper


class Cell(NamedTuple):
    """What a layer remembers of an array of shape `[...]`; leaves `[..., H]`."""

    hidden: jax.Array
    carry: jax.Array


def lstm_rule(hidden: int = 20, layers: int = 2, *, rate: float = 0.01) -> UpdateRule:
    """An LSTM that reads the gradients of one parameter as a sequence, and writes its updates.

    It is told the sign and the logarithm of a gradient, or, of tiny ones, the gradient itself, as in appendix A of the
    paper. What it learns of a learning rate schedule it learns by heart: it is for horizons like those that it is
    trained for, and for models like its children.

    Args:
      hidden: H, numbers that a layer remembers of each parameter, twice.
      layers: of the LSTM.
      rate: what its answers are multiplied by at first; learned with the rest.

    Returns:
      A rule whose weights are `{"log_rate": [], "layers": {"layer_0": {"kernel", "bias"}, ...}, "head": ...}`.

    Raises:
      ValueError: a number is not positive.
    """
    for name, value in {"hidden": hidden, "layers": layers, "rate": rate}.items():
        check_positive(name, value)

    def init(key, dtype):
        *keys, head_key = jax.random.split(key, layers + 1)

        def dense(key, fan_in, fan_out):
            kernel = jax.random.normal(key, (fan_in, fan_out), dtype) / fan_in**0.5
            return {"kernel": kernel, "bias": jnp.zeros(fan_out, dtype)}

        cells = {
            layer_name(number): dense(key, (hidden if number else 2) + hidden, 4 * hidden)
            for number, key in enumerate(keys)
        }
        return {"log_rate": jnp.full((), math.log(rate), dtype), "layers": cells, "head": dense(head_key, hidden, 1)}

    def begin(weights, params):
        def cells(param):
            zeros = jnp.zeros((*jnp.shape(param), hidden), dtype_of(weights))
            return [Cell(zeros, zeros)] * layers

        return jax.tree.map(cells, params)

    def update(weights, memory: ArrayTree, gradients, params):
        def one(gradient, param, cells):
            x, new = _read(gradient.astype(dtype_of(weights))), []
            for number, cell in enumerate(cells):
                cell = _remember(weights["layers"][layer_name(number)], cell, x)
                new.append(cell)
                x = cell.hidden
            answer = (x @ weights["head"]["kernel"])[..., 0] + weights["head"]["bias"][0]
            return (jnp.exp(weights["log_rate"]) * answer).astype(param.dtype), new

        leaves, structure = jax.tree.flatten(params)
        of_each = zip(structure.flatten_up_to(gradients), leaves, structure.flatten_up_to(memory), strict=True)
        updates, cells = zip(*(one(*each) for each in of_each), strict=True)
        return structure.unflatten(updates), structure.unflatten(cells)

    return UpdateRule(init, begin, update)


def _read(gradient: jax.Array) -> jax.Array:
    """Returns what an LSTM is told of gradients `[...]`, `[..., 2]`."""
    size = jnp.abs(gradient)
    large = size >= math.exp(-_RANGE)
    logarithm = jnp.log(jnp.where(large, size, 1)) / _RANGE
    return jnp.stack(
        [jnp.where(large, logarithm, -1), jnp.where(large, jnp.sign(gradient), math.exp(_RANGE) * gradient)], axis=-1
    )


def _remember(layer: ArrayTree, cell: Cell, x: jax.Array) -> Cell:
    read = jnp.concatenate([x, cell.hidden], axis=-1) @ layer["kernel"]
    read = read + layer["bias"].reshape(*[1] * (read.ndim - 1), -1)
    write, forget, value, show = jnp.split(read, 4, axis=-1)
    # It keeps what it has unless it learns to forget (Jozefowicz et al. 2015).
    carry = jax.nn.sigmoid(forget + 1) * cell.carry + jax.nn.sigmoid(write) * jnp.tanh(value)
    return Cell(jax.nn.sigmoid(show) * jnp.tanh(carry), carry)
