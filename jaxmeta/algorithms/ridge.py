"""A ridge-regression head solved in closed form (R2D2, Bertinetto et al. 2019, arXiv 1805.08136).

With a prior it is drawn to what the model answers instead of to zero (biased regularisation, Denevi et al. 2019, arXiv
1903.10399), so that few shots correct a classifier of the source tasks.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.algorithms.features import (
    FEATURE_FLOOR,
    closed_form,
    features_of,
    masked_one_hot,
    real_rows,
    scaled_design,
    with_constant,
    without_absent,
)
from jaxmeta.core.checks import check_positive
from jaxmeta.core.masks import real_examples
from jaxmeta.core.trees import unit
from jaxmeta.core.types import Batch, Episode, MetaAlgorithm, Model, Objective


class RidgeHead(NamedTuple):
    """The solved head."""

    weights: jax.Array  # [D + 1, C], the last row for the constant feature; beside the prior's, where there is one
    present: jax.Array  # [C] bool: the support holds an example (all true for regression)
    scales: jax.Array | None = None  # [D], what features are multiplied by where they are whitened


def ridge(
    model: Model,
    objective: Objective,
    *,
    num_outputs: int,
    classify: bool = True,
    prior: bool = False,
    whiten: bool = False,
    initial_ridge: float = 0.1,
    initial_scale: float = 10.0,
    initial_prior: float = 0.1,
) -> MetaAlgorithm:
    """Solves `W = argmin |X W - Y|^2 + exp(log_ridge) |W|^2` on the support's features; `num_steps=0`.

    `X` are the features scaled by `1/sqrt(D)` with a constant one appended, `Y` the one-hot classes or the targets.
    The ridge, and an output scale and shift (classification), are meta-learned with the encoder. The system solved is
    `S x S` (`W = X^T (X X^T + ridge)^-1 Y`), because a support is smaller than a feature vector is long.

    With a prior, `Y` are what is left of the classes or targets when the model's own outputs, times a meta-learned
    factor, are taken from them, and these are added to what the head says: for a linear last layer `W0` it is
    `argmin |X W - Y|^2 + exp(log_ridge) |W - W0|^2`.

    Whitened features `x` are first multiplied by `(exp(log_floor) + m)^(-power / 2)`, where `m` is the mean of `x^2` in
    the support and both numbers are meta-learned, and are then of unit length. So what is rare in a task counts for
    more there, as an IDF has it, whatever was rare in training.

    Args:
      model: its `features` are read (or its outputs where it names none).
      objective: classification or regression.
      num_outputs: C, classes or dimensions.
      classify: whether targets are classes.
      prior: whether the head is drawn to the model's outputs, `[N, C]`.
      whiten: whether features are weighted by how rare they are in the support.
      initial_ridge: where the ridge starts.
      initial_scale: where the output scale starts. Solutions lie between 0 and 1, so logits need to be stretched
        before a softmax can be sure of anything.
      initial_prior: where the factor of the outputs starts for classes, which turns logits into what is near zero and
        one. Outputs of a regression are not stretched.

    Raises:
      ValueError: if `num_outputs`, `initial_ridge`, `initial_scale` or `initial_prior` is not positive.
    """
    check_positive("num_outputs", num_outputs)
    check_positive("initial_ridge", initial_ridge)
    check_positive("initial_scale", initial_scale)
    check_positive("initial_prior", initial_prior)
    features = features_of(model)

    def embed(raw, scales):
        return scaled_design(raw) if scales is None else with_constant(unit(raw * scales[None], floor=FEATURE_FLOOR))

    def scales_of(meta_params, raw, support: Batch):
        """Returns what features, zero in the place of padding, are multiplied by, `[D]`, or nothing."""
        if not whiten:
            return None
        rows = real_examples(support, len(raw))
        mean = jnp.sum(jnp.square(raw), axis=0) / jnp.maximum(jnp.sum(rows.astype(raw.dtype)), 1)
        return jnp.exp(-meta_params["power"] / 2 * jnp.log(jnp.exp(meta_params["log_floor"]) + mean))

    def believed(meta_params, inputs):
        """Returns what the head says without a shot, or nothing."""
        if not prior:
            return None
        return jnp.exp(meta_params["log_prior"]) * model.apply(meta_params["params"], inputs)

    def init(key, episode: Episode):
        params = model.init(key, episode.support["inputs"])
        dtype = jax.tree.leaves(params)[0].dtype
        found = {
            "params": params,
            "log_ridge": jnp.full((), math.log(initial_ridge), dtype),
            "log_scale": jnp.full((), math.log(initial_scale), dtype),
            "shift": jnp.zeros((), dtype),
        }
        if whiten:
            found |= {"log_floor": jnp.zeros((), dtype), "power": jnp.ones((), dtype)}
        if prior:
            found["log_prior"] = jnp.full((), math.log(initial_prior) if classify else 0.0, dtype)
        return found

    def begin(key, meta_params, support: Batch):
        del key
        raw = real_rows(features(meta_params["params"], support["inputs"]), support)
        scales = scales_of(meta_params, raw, support)
        design = embed(raw, scales)
        if classify:
            answers = masked_one_hot(support, num_outputs, design.dtype)
        else:  # one number for each example may come without an axis of its own
            answers = jnp.reshape(support["targets"], (design.shape[0], num_outputs))
        present = jnp.any(answers != 0, axis=0) if classify else jnp.ones((num_outputs,), bool)
        known = believed(meta_params, support["inputs"])
        answers = answers if known is None else answers - known
        # A row of zeros on both sides of the equation takes no part in the solution.
        design, answers = real_rows(design, support), real_rows(answers, support)
        gram = design @ design.T
        gram = gram + jnp.exp(meta_params["log_ridge"]) * jnp.eye(gram.shape[0], dtype=gram.dtype)
        dual = jax.scipy.linalg.solve(gram, answers, assume_a="pos")
        return RidgeHead(design.T @ dual, present, scales)

    def predict(meta_params, state: RidgeHead, inputs):
        solved = embed(features(meta_params["params"], inputs), state.scales) @ state.weights
        known = believed(meta_params, inputs)
        solved = solved if known is None else solved + known
        if not classify:
            return solved
        logits = jnp.exp(meta_params["log_scale"]) * solved + meta_params["shift"]
        return without_absent(logits, state.present)

    return closed_form(objective, init, begin, predict)
