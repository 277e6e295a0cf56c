"""A perceptron that is asked for every parameter what its next step shall be.

What it is told follows Metz et al. 2020 (arXiv 2009.11243) and 2022 (arXiv 2203.11860, `small_fc_lopt` and
`adafac_mlp_lopt`): momenta, second moments whole and factored, the parameter, the time. That it corrects the step of
Adam, and so begins as an optimizer that works, is of Harrison, Metz and Sohl-Dickstein 2022 (arXiv 2209.11208).
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.algorithms.update_rules import UpdateRule, dtype_of
from jaxmeta.core.checks import check_positive

_DECAYS = (0.5, 0.9, 0.99)  # of the momenta; the second one is that of Adam
_ADAM = 1
_DECAY_SQUARES = 0.99  # of the second moments
_TINY = 1e-8
_LARGEST = 3.0  # what a step's logarithm, or a correction, is held below
_OF_NUMBERS = 4 + 3 * len(_DECAYS)
_OF_ARRAYS = 3 + len(_DECAYS)


class Memory(NamedTuple):
    """What is remembered of `N` parameters in `A` arrays, which stand one after another; `D` momenta."""

    step: jax.Array  # [] int32
    momenta: jax.Array  # [D, N]
    squares: jax.Array  # [N]
    rows: tuple[jax.Array, ...]  # A times [..., 1]: squares averaged over the last axis; of vectors [...]
    columns: tuple[jax.Array, ...]  # A times averages over the axis before it; of vectors []


def mlp_rule(
    hidden: tuple[int, ...] = (16, 16),
    *,
    rate: float = 3e-3,
    timescales: tuple[float, ...] = (1, 3, 10, 30, 100),
) -> UpdateRule:
    """A perceptron for each parameter on what is known of its gradients.

    With `d` the direction of Adam and `r` its root mean square over the array, the update of a parameter is

        - exp(log_rate) (exp(a) d + b r)        (a, b) = the perceptron's answer, each held between -3 and 3

    so that it begins as Adam at `rate`, makes the step of each number longer or shorter (a), and goes elsewhere (b),
    by less where the gradients contradict each other. It is told of the number: the gradient, the parameter, momenta of
    three decays, these over roots of second moments, whole and factored; of the array: the scales of the parameters and
    of the gradients, how far gradient and momenta agree; and the time, `tanh(step / timescale)`. What has a scale is
    divided by its root mean square over the array.

    Args:
      hidden: widths of the hidden layers.
      rate: the learning rate of Adam that it begins as; learned with the rest.
      timescales: of the time. Below the horizon that it is trained for: what is beyond, it has never seen.

    Returns:
      A rule whose weights are `{"log_rate": [], "layers": {"layer_0": {"kernel", "bias"}, ...}}`.

    Raises:
      ValueError: a width, the rate or a timescale is not positive.
    """
    for name, values in {"hidden": hidden, "rate": (rate,), "timescales": timescales}.items():
        for value in values:
            check_positive(name, value)
    sizes = (_OF_NUMBERS + _OF_ARRAYS + len(timescales), *hidden, 2)

    def init(key, dtype):
        keys = jax.random.split(key, len(sizes) - 1)
        layers = {}
        for number, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            # Close to Adam at first: the last layer has nearly nothing to say.
            scale = 0.01 if number == len(sizes) - 2 else 1.0
            kernel = jax.random.normal(keys[number], (fan_in, fan_out), dtype) * (scale / fan_in**0.5)
            layers[layer_name(number)] = {"kernel": kernel, "bias": jnp.zeros(fan_out, dtype)}
        return {"log_rate": jnp.full((), math.log(rate), dtype), "layers": layers}

    def begin(weights, params):
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
        zeros = functools.partial(jnp.zeros, dtype=dtype_of(weights))
        number = sum(map(math.prod, shapes))
        sides = [(of, ()) if len(of) < 2 else ((*of[:-1], 1), (*of[:-2], 1, of[-1])) for of in shapes]
        rows, columns = zip(*sides, strict=True)
        return Memory(
            jnp.zeros((), jnp.int32), zeros((len(_DECAYS), number)), zeros(number),
            tuple(map(zeros, rows)), tuple(map(zeros, columns)),
        )  # fmt: skip

    def update(weights, memory: Memory, gradients, params):
        dtype = dtype_of(weights)
        leaves, structure = jax.tree.flatten(params)
        arrays = _Arrays([jnp.shape(leaf) for leaf in leaves])
        slopes = [leaf.astype(dtype) for leaf in structure.flatten_up_to(gradients)]
        memory, told, direction = _told(arrays, memory, slopes, arrays.joined([leaf.astype(dtype) for leaf in leaves]))
        time = jnp.tanh(memory.step.astype(dtype) / jnp.array(timescales, dtype))
        told = jnp.concatenate([told, jnp.broadcast_to(time[:, None], (len(timescales), told.shape[1]))])
        answer = _LARGEST * jnp.tanh(_perceptron(weights["layers"], told.T) / _LARGEST)
        typical = arrays.spread(jnp.sqrt(arrays.means(jnp.square(direction)[None]) + _TINY**2))[0]
        moved = jnp.exp(answer[:, 0]) * direction + answer[:, 1] * typical
        updates = arrays.cut(-jnp.exp(weights["log_rate"]) * moved)
        return structure.unflatten([u.astype(p.dtype) for u, p in zip(updates, leaves, strict=True)]), memory

    return UpdateRule(init, begin, update)


class _Arrays:
    """Arrays that stand one after another in rows of numbers, so that few operations serve all of them."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]):
        self.shapes = shapes
        sizes = [math.prod(shape) for shape in shapes]
        self._ends = np.cumsum(sizes)
        self._of = np.repeat(np.arange(len(sizes)), sizes)

    def joined(self, arrays: Sequence[jax.Array]) -> jax.Array:
        """Returns `[N]`."""
        return jnp.concatenate([jnp.broadcast_to(a, of).reshape(-1) for a, of in zip(arrays, self.shapes, strict=True)])

    def cut(self, row: jax.Array) -> list[jax.Array]:
        """Returns the arrays of `[N]`."""
        return [part.reshape(of) for part, of in zip(jnp.split(row, self._ends[:-1]), self.shapes, strict=True)]

    def means(self, rows: jax.Array) -> jax.Array:
        """Averages `[F, N]` over each array, `[F, A]`."""
        return jnp.stack([part.mean(axis=1) for part in jnp.split(rows, self._ends[:-1], axis=1)], axis=1)

    def spread(self, values: jax.Array) -> jax.Array:
        """Gives every number the value of its array: `[F, A]` to `[F, N]`."""
        return values[:, self._of]


def _told(arrays: _Arrays, memory: Memory, slopes: Sequence[jax.Array], param: jax.Array):
    """Returns the memory with a gradient, what is told of each number `[F, N]`, and Adam's direction `[N]`."""
    gradient = arrays.joined(slopes)
    decays = jnp.array(_DECAYS, gradient.dtype)[:, None]
    step = memory.step + 1

    def averaged(old, new):
        return _DECAY_SQUARES * old + (1 - _DECAY_SQUARES) * new

    momenta = decays * memory.momenta + (1 - decays) * gradient[None]
    squares = averaged(memory.squares, jnp.square(gradient))
    rows, columns, factored = [], [], []
    for slope, row, column in zip(slopes, memory.rows, memory.columns, strict=True):
        square = jnp.square(slope)
        if slope.ndim < 2:
            row = whole = averaged(row, square)
        else:
            row = averaged(row, jnp.mean(square, axis=-1, keepdims=True))
            column = averaged(column, jnp.mean(square, axis=-2, keepdims=True))
            whole = row * column / (jnp.mean(row, axis=-2, keepdims=True) + _TINY**2)
        for found, part in ((rows, row), (columns, column), (factored, whole)):
            found.append(part)
    # Averages of few numbers began at zero; divided by the share that they have seen they are averages.
    count = step.astype(gradient.dtype)
    unbiased = momenta / (1 - decays ** count[None, None])
    share = 1 - _DECAY_SQUARES**count
    inverse, inverse_factored = (jax.lax.rsqrt(of / share + _TINY**2) for of in (squares, arrays.joined(factored)))
    by_squares, by_factored = unbiased * inverse[None], unbiased * inverse_factored[None]
    scaled = jnp.concatenate([jnp.stack([gradient, param, inverse, inverse_factored]), momenta])
    # One pass over the arrays for all that is averaged: squares, and products with the gradient.
    means = arrays.means(
        jnp.concatenate([jnp.square(scaled), jnp.square(by_squares[_ADAM])[None],
                         jnp.square(memory.momenta), gradient[None] * memory.momenta])
    )  # fmt: skip
    size, products = jnp.sqrt(means[: -len(_DECAYS)] + _TINY**2), means[-len(_DECAYS) :]
    of_scaled, snr, before = size[: len(scaled)], size[len(scaled)], size[len(scaled) + 1 :]
    agreement = products / (of_scaled[:1] * before + _TINY**2)
    of_array = jnp.concatenate([jnp.tanh(jnp.log(jnp.stack([of_scaled[1], of_scaled[0], snr])) / 5), agreement])
    told = [scaled / arrays.spread(of_scaled), jnp.tanh(by_squares), jnp.tanh(by_factored), arrays.spread(of_array)]
    memory = Memory(step, momenta, squares, tuple(rows), tuple(columns))
    return memory, jnp.concatenate(told), by_squares[_ADAM]


def layer_name(number: int) -> str:
    """Returns what a layer is called in weights, which are dicts all through, as checkpoints give them back."""
    return f"layer_{number}"


def _perceptron(layers, x: jax.Array) -> jax.Array:
    for number in range(len(layers)):
        layer = layers[layer_name(number)]
        x = jnp.tanh(x) if number else x
        x = x @ layer["kernel"] + layer["bias"][None]
    return x
