"""A ridge-regression head solved in closed form (R2D2, Bertinetto et al. 2019, arXiv 1805.08136)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.algorithms.features import features_of, masked_one_hot, without_absent
from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import Batch, Episode, MetaAlgorithm, Model, Objective


class RidgeHead(NamedTuple):
    """The solved head."""

    weights: jax.Array  # [D + 1, C], the last row for the constant feature
    present: jax.Array  # [C] bool: the support holds an example (all true for regression)


def ridge(
    model: Model,
    objective: Objective,
    *,
    num_outputs: int,
    classify: bool = True,
    initial_ridge: float = 0.1,
    initial_scale: float = 10.0,
) -> MetaAlgorithm:
    """Solves `W = argmin |X W - Y|^2 + exp(log_ridge) |W|^2` on the support's features; `num_steps=0`.

    `X` are the features scaled by `1/sqrt(D)` with a constant one appended, `Y` the one-hot classes or the targets.
    The ridge, and an output scale and shift (classification), are meta-learned with the encoder. The system solved is
    `S x S` (`W = X^T (X X^T + ridge)^-1 Y`), because a support is smaller than a feature vector is long.

    Args:
      model: its `features` are read (or its outputs where it names none).
      objective: classification or regression.
      num_outputs: C, classes or dimensions.
      classify: whether targets are classes.
      initial_ridge: where the ridge starts.
      initial_scale: where the output scale starts. Solutions lie between 0 and 1, so logits need to be stretched
        before a softmax can be sure of anything.

    Raises:
      ValueError: if `num_outputs`, `initial_ridge` or `initial_scale` is not positive.
    """
    check_positive("num_outputs", num_outputs)
    check_positive("initial_ridge", initial_ridge)
    check_positive("initial_scale", initial_scale)
    features = features_of(model)

    def embed(meta_params, inputs):
        raw = features(meta_params["params"], inputs)
        scaled = raw / raw.shape[-1] ** 0.5
        return jnp.concatenate([scaled, jnp.ones((*raw.shape[:-1], 1), raw.dtype)], axis=-1)

    def init(key, episode: Episode):
        params = model.init(key, episode.support["inputs"])
        dtype = jax.tree.leaves(params)[0].dtype
        return {
            "params": params,
            "log_ridge": jnp.full((), math.log(initial_ridge), dtype),
            "log_scale": jnp.full((), math.log(initial_scale), dtype),
            "shift": jnp.zeros((), dtype),
        }

    def begin(key, meta_params, support: Batch):
        del key
        design = embed(meta_params, support["inputs"])
        if classify:
            answers = masked_one_hot(support, num_outputs, design.dtype)
        else:  # one number for each example may come without an axis of its own
            answers = jnp.reshape(support["targets"], (design.shape[0], num_outputs))
        if "mask" in support:
            # A row of zeros on both sides of the equation takes no part in the solution.
            rows = support["mask"].astype(design.dtype)[:, None]
            design, answers = design * rows, answers * rows
        present = jnp.any(answers != 0, axis=0) if classify else jnp.ones((num_outputs,), bool)
        gram = design @ design.T
        gram = gram + jnp.exp(meta_params["log_ridge"]) * jnp.eye(gram.shape[0], dtype=gram.dtype)
        dual = jax.scipy.linalg.solve(gram, answers, assume_a="pos")
        return RidgeHead(design.T @ dual, present)

    def step(key, meta_params, state, support):
        del key, meta_params, support
        return state, {}

    def loss(key, meta_params, state, query):
        del key
        return objective.loss(predict(meta_params, state, query["inputs"]), query)

    def predict(meta_params, state: RidgeHead, inputs):
        solved = embed(meta_params, inputs) @ state.weights
        if not classify:
            return solved
        logits = jnp.exp(meta_params["log_scale"]) * solved + meta_params["shift"]
        return without_absent(logits, state.present)

    return MetaAlgorithm(init, begin, step, loss, predict)
