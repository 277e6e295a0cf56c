"""Arithmetic in a lower precision than the parameters are kept in."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.core.trees import sum_dtype
from jaxmeta.core.types import ArrayTree, Model


def cast(model: Model, dtype: Any) -> Model:
    """Returns `model` with its arithmetic in `dtype`, such as `jnp.bfloat16`.

    Parameters and gradients stay what they are (float32 masters): only the copies that `apply`, `features` and
    `generate` compute with are cast, and what they return is cast back to float32 at least. Works for a model of any
    library that computes in the precision of its parameters and inputs; one that fixes its own keeps it.

    Args:
      model: what to cast.
      dtype: a floating dtype.

    Raises:
      ValueError: `dtype` is not a floating one.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"`dtype` must be a floating one, got {jnp.dtype(dtype).name}")

    def lowered(tree: ArrayTree) -> ArrayTree:
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if _is_floating(leaf) else leaf, tree)

    def raised(tree: ArrayTree) -> ArrayTree:
        wide = sum_dtype(dtype)
        return jax.tree.map(lambda leaf: leaf.astype(wide) if _is_floating(leaf) else leaf, tree)

    features, generate = model.features, model.generate
    return Model(
        init=model.init,
        apply=lambda params, inputs: raised(model.apply(lowered(params), lowered(inputs))),
        features=None if features is None else lambda p, inputs: raised(features(lowered(p), lowered(inputs))),
        generate=None if generate is None else lambda p, inputs, *more: generate(lowered(p), lowered(inputs), *more),
    )


def _is_floating(leaf) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
