"""One number for a pair of inputs: two encodings are compared, and a perceptron reads the comparison."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.core.trees import at_least_float32, unit
from jaxmeta.core.types import ArrayTree, Key, Model
from jaxmeta.models.dual_encoder import towers
from jaxmeta.models.mlp import mlp
from jaxmeta.models.transformer import transformer


def compared(
    left: Model,
    right: Model | None = None,
    *,
    hidden: tuple[int, ...] = (64,),
    symmetric: bool = True,
    dtype: Any = None,
) -> Model:
    """Makes a regressor of pairs `{"left": [N, ...], "right": [N, ...]}` of any encoders; it answers `[N, 1]`.

    The encodings `u` and `v` are brought to a mean square of one, so that neither their lengths nor their number of
    dimensions matter to what follows. The perceptron reads `|u - v|` and `u * v`, whose mean is the cosine (Tai et al.
    2015, arXiv 1503.00075), or `u`, `v`, `|u - v|` and `u * v` (Conneau et al. 2017, arXiv 1705.02364). `features` are
    its last hidden layer. Parameters are those of the encoders under "tower" (or "left" and "right") beside those of
    the perceptron, "layer_0", ..., "head".

    Args:
      left: reads the left side, and the right one too if there is no other; answers `[N, D]`.
      right: reads the right side.
      hidden: widths of the perceptron's hidden layers; with none of them `features` are the comparison.
      symmetric: whether the sides are interchangeable, so that `u` and `v` are only seen compared.
      dtype: of the perceptron's parameters; float32 if not given.
    """
    both = towers(left, right)
    top = mlp(hidden, 1, param_dtype=jnp.float32 if dtype is None else dtype)
    assert top.features is not None  # every perceptron has them
    read_top = top.features

    def compare(params: ArrayTree, inputs: ArrayTree) -> jax.Array:
        vectors = both.apply(params, inputs)
        sides = (at_least_float32(vectors[side]) for side in ("left", "right"))
        u, v = (unit(side) * side.shape[-1] ** 0.5 for side in sides)
        parts = [jnp.abs(u - v), u * v] if symmetric else [u, v, jnp.abs(u - v), u * v]
        return jnp.concatenate(parts, axis=-1)

    def init(key: Key, inputs: ArrayTree) -> ArrayTree:
        tower_key, top_key = jax.random.split(key)
        params = both.init(tower_key, inputs)
        return {**params, **top.init(top_key, compare(params, inputs))}

    def perceptron(params: ArrayTree) -> ArrayTree:
        return {name: part for name, part in params.items() if name not in ("tower", "left", "right")}

    return Model(
        init,
        lambda params, inputs: top.apply(perceptron(params), compare(params, inputs)),
        lambda params, inputs: read_top(perceptron(params), compare(params, inputs)),
    )


def pair_regressor(
    *, hidden: tuple[int, ...] = (64,), shared: bool = True, symmetric: bool = True, **options: Any
) -> Model:
    """Returns a regressor of pairs of texts `{"left": [N, L], "right": [N, L']}` (int32, 0 is padding): `[N, 1]`.

    Args:
      hidden: see `compared`, which says what is read of the texts.
      shared: whether one encoder reads both sides.
      symmetric: see `compared`.
      **options: of `jaxmeta.models.TextEncoder`; its `outputs` are the width of the vectors that are compared.
    """
    right = None if shared else transformer(**options)
    return compared(transformer(**options), right, hidden=hidden, symmetric=symmetric, dtype=options.get("dtype"))
