"""A dual encoder whose left side is brought to the right one by a ridge regression on the support's pairs.

A linear map between the vectors of two languages is how word translations are found from a seed dictionary (Mikolov et
al. 2013, arXiv 1309.4168). Here it is solved in closed form for each task, drawn to the identity, and the encoder is
trained through the solution, as R2D2 trains a head (Bertinetto et al. 2019, arXiv 1805.08136).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.algorithms.features import closed_form, real_rows
from jaxmeta.core.checks import check_positive
from jaxmeta.core.trees import at_least_float32, unit
from jaxmeta.core.types import Batch, Episode, MetaAlgorithm, Model, Objective


class Alignment(NamedTuple):
    """The solved map, in its dual form: `x` becomes `x + (x left^T) dual`."""

    left: jax.Array  # [S, D], zero for padding
    dual: jax.Array  # [S, D]


def ridge_alignment(
    model: Model, objective: Objective, *, initial_ridge: float = 0.5, initial_gain: float = 1.0
) -> MetaAlgorithm:
    """Solves `W = argmin |X (I + W) - g Y|^2 + exp(log_ridge) |W|^2` on the support's pairs; `num_steps=0`.

    `X` and `Y` are the vectors of the left and right sides `[S, D]`. A left vector `x` is then `x (I + W)`, at length
    one. The ridge and the gain `g` are meta-learned with the encoder. The system solved is `S x S`
    (`W = X^T (X X^T + ridge)^-1 (g Y - X)`), and `W` itself, `D x D`, is never made.

    Without a map (an infinite ridge) this is the encoder by itself, which is what few pairs of a far language fall
    back to.

    Args:
      model: a dual encoder, see `jaxmeta.models.paired`.
      objective: retrieval.
      initial_ridge: where the ridge starts.
      initial_gain: where `g` starts.

    Raises:
      ValueError: if `initial_ridge` or `initial_gain` is not positive.
    """
    check_positive("initial_ridge", initial_ridge)
    check_positive("initial_gain", initial_gain)

    def init(key, episode: Episode):
        params = model.init(key, episode.support["inputs"])
        dtype = jax.tree.leaves(params)[0].dtype
        return {"params": params, **alignment_start(initial_ridge, initial_gain, dtype)}

    def begin(key, meta_params, support: Batch):
        del key
        outputs = model.apply(meta_params["params"], support["inputs"])
        left, right = (at_least_float32(outputs[side]) for side in ("left", "right"))
        # A row of zeros on both sides of the equation takes no part in the solution.
        left, right = real_rows(left, support), real_rows(right, support)
        gram, identity = left @ left.T, jnp.eye(left.shape[0], dtype=left.dtype)
        # The small inverse and a product: a triangular solution with D right sides is many times slower where D is
        # large, and the ridge keeps the system well conditioned.
        inverse = jax.scipy.linalg.solve(gram + jnp.exp(meta_params["log_ridge"]) * identity, identity, assume_a="pos")
        return Alignment(left, inverse @ (jnp.exp(meta_params["log_gain"]) * right - left))

    def predict(meta_params, state: Alignment, inputs):
        outputs = model.apply(meta_params["params"], inputs)
        moved = outputs["left"] + (outputs["left"] @ state.left.T) @ state.dual
        return {**outputs, "left": unit(at_least_float32(moved))}

    return closed_form(objective, init, begin, predict)


def alignment_start(ridge: float = 0.5, gain: float = 1.0, dtype=jnp.float32) -> dict[str, jax.Array]:
    """Returns what `ridge_alignment` learns beside the encoder, where it starts."""
    return {"log_ridge": jnp.full((), math.log(ridge), dtype), "log_gain": jnp.full((), math.log(gain), dtype)}
