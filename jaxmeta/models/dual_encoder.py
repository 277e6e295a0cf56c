"""Dual encoders: two inputs, a unit vector for each, and how close the two are (Bromley et al. 1993; CLIP, Radford et
al. 2021, arXiv 2103.00020).

The scale of similarities (the inverse temperature of a softmax over them) is a parameter of the model, not of the
objective: whatever is learned lives in the meta-parameters, where the outer optimizer, selections and checkpoints find
it, and objectives have no parameters. Each example carries it in the outputs, because every leaf of an output has the
example axis first.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_positive
from jaxmeta.core.trees import at_least_float32, leading_size, unit
from jaxmeta.core.types import ArrayTree, Key, Model
from jaxmeta.models.transformer import transformer

_MAX_SCALE = 100.0  # as in Radford et al. 2021


def paired(left: Model, right: Model | None = None, *, initial_scale: float = 1 / 0.07) -> Model:
    """Makes a dual encoder of any encoders.

    Reads `{"left": [N, ...], "right": [N, ...]}` and answers `{"left": [N, D], "right": [N, D], "scale": [N]}`: unit
    vectors, and what their products are multiplied by in a softmax, the same number for every example. Parameters are
    `{"tower": ..., "log_scale": []}`, or with two towers `{"left": ..., "right": ..., "log_scale": []}`.

    Args:
      left: reads the left side, and the right one too if there is no other; answers `[N, D]`.
      right: reads the right side.
      initial_scale: where the scale starts; it never exceeds 100.

    Raises:
      ValueError: if `initial_scale` is not positive.
    """
    check_positive("initial_scale", initial_scale)
    both = towers(left, right)

    def init(key: Key, inputs: ArrayTree) -> ArrayTree:
        params = both.init(key, inputs)
        dtype = jax.tree.leaves(params)[0].dtype
        return {**params, "log_scale": jnp.full((), math.log(initial_scale), dtype)}

    def apply(params: ArrayTree, inputs: ArrayTree) -> ArrayTree:
        vectors = {side: unit(at_least_float32(vector)) for side, vector in both.apply(params, inputs).items()}
        # Held as the number it stands for would be: beyond the largest scale it can still come back.
        over = jax.nn.relu(params["log_scale"] - math.log(_MAX_SCALE))
        scale = jnp.exp(params["log_scale"] - jax.lax.stop_gradient(over))
        return {**vectors, "scale": jnp.broadcast_to(scale, (leading_size(vectors),))}

    return Model(init, apply)


def towers(left: Model, right: Model | None = None) -> Model:
    """Returns `{"left": [N, D], "right": [N, D]}` of two inputs, by one encoder (parameters `{"tower"}`) or by two
    (`{"left", "right"}`).
    """

    def init(key: Key, inputs: ArrayTree) -> ArrayTree:
        if right is None:
            return {"tower": left.init(key, inputs["left"])}
        left_key, right_key = jax.random.split(key)
        return {"left": left.init(left_key, inputs["left"]), "right": right.init(right_key, inputs["right"])}

    def apply(params: ArrayTree, inputs: ArrayTree) -> ArrayTree:
        # A call for each side, not one of both together: their lengths may differ, and where rows of an embedding
        # adapt alone, lookups have to keep the example axis.
        other = left if right is None else right
        return {
            "left": left.apply(params["tower" if right is None else "left"], inputs["left"]),
            "right": other.apply(params["tower" if right is None else "right"], inputs["right"]),
        }

    return Model(init, apply)


def dual_encoder(*, shared: bool = True, initial_scale: float = 1 / 0.07, **options: Any) -> Model:
    """Returns a dual encoder of texts `{"left": [N, L], "right": [N, L']}` (int32, 0 is padding).

    Args:
      shared: whether one encoder reads both sides.
      initial_scale: see `paired`, which also says what comes out.
      **options: of `jaxmeta.models.TextEncoder`; its `outputs` are the D of the vectors.
    """
    return paired(transformer(**options), None if shared else transformer(**options), initial_scale=initial_scale)
