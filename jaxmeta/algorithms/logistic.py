"""A logistic-regression head by Newton's method (LR-D2, Bertinetto et al. 2019, arXiv 1805.08136)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.algorithms.features import (
    closed_form,
    features_of,
    masked_one_hot,
    real_rows,
    scaled_design,
    without_absent,
)
from jaxmeta.core.checks import check_positive
from jaxmeta.core.masks import real_examples
from jaxmeta.core.types import Batch, Episode, MetaAlgorithm, Model, Objective


class LogisticHead(NamedTuple):
    """The fitted head."""

    weights: jax.Array  # [D + 1, C], the last row for the constant feature
    present: jax.Array  # [C] bool: the support holds an example


def logistic(
    model: Model,
    objective: Objective,
    *,
    num_classes: int,
    newton_steps: int = 5,
    initial_ridge: float = 0.1,
    initial_scale: float = 1.0,
) -> MetaAlgorithm:
    """Fits each class against the others on the support's features by Newton's method; `num_steps=0`.

    For each class it is `w_c = argmin sum_i log(1 + exp(-y_i x_i w)) + exp(log_ridge) / 2 |w|^2` with `y_i` one for the
    class and minus one for others, `x` the features scaled by `1/sqrt(D)` with a constant one appended. A step is a
    weighted ridge regression (iteratively reweighted least squares); a few come close, and the outer gradient goes
    through all of them. The systems are `S x S`, one for each class. The ridge and an output scale are meta-learned.

    Args:
      model: its `features` are read (or its outputs where it names none).
      objective: classification.
      num_classes: C.
      newton_steps: from zero.
      initial_ridge: where the ridge starts.
      initial_scale: where the output scale starts.

    Raises:
      ValueError: if `num_classes`, `newton_steps`, `initial_ridge` or `initial_scale` is not positive.
    """
    check_positive("num_classes", num_classes)
    check_positive("newton_steps", newton_steps)
    check_positive("initial_ridge", initial_ridge)
    check_positive("initial_scale", initial_scale)
    features = features_of(model)

    def init(key, episode: Episode):
        params = model.init(key, episode.support["inputs"])
        dtype = jax.tree.leaves(params)[0].dtype
        return {
            "params": params,
            "log_ridge": jnp.full((), math.log(initial_ridge), dtype),
            "log_scale": jnp.full((), math.log(initial_scale), dtype),
        }

    def begin(key, meta_params, support: Batch):
        del key
        design = scaled_design(features(meta_params["params"], support["inputs"]))
        members = masked_one_hot(support, num_classes, design.dtype)
        # A row of zeros whose answer counts for nothing takes no part in the solution.
        design, real = real_rows(design, support), real_examples(support, len(design)).astype(design.dtype)
        kernel = (design @ design.T) * jnp.exp(-meta_params["log_ridge"])
        fitted = jax.vmap(lambda of_class: _newton(kernel, of_class, real, newton_steps), 1, 1)(members)
        weights = design.T @ fitted * jnp.exp(-meta_params["log_ridge"])
        return LogisticHead(weights, jnp.any(members != 0, axis=0))

    def predict(meta_params, state: LogisticHead, inputs):
        logits = scaled_design(features(meta_params["params"], inputs)) @ state.weights
        return without_absent(jnp.exp(meta_params["log_scale"]) * logits, state.present)

    return closed_form(objective, init, begin, predict)


def _newton(kernel: jax.Array, of_class: jax.Array, real: jax.Array, steps: int) -> jax.Array:
    """Returns `a [S]` such that `kernel a` are the logits of the support: kernel `[S, S]`, of_class and real `[S]`.

    Nothing is divided by the curvature, which vanishes where an answer is sure (Rasmussen & Williams 2006, alg. 3.1).
    """

    def step(a, _):
        logits = kernel @ a
        # sqrt(p (1 - p)) without the root, which has no derivative at zero.
        root = real * jnp.exp((jax.nn.log_sigmoid(logits) + jax.nn.log_sigmoid(-logits)) / 2)
        towards = jnp.square(root) * logits + real * (of_class - jax.nn.sigmoid(logits))
        system = jnp.eye(len(root), dtype=root.dtype) + root[:, None] * kernel * root[None]
        return towards - root * jax.scipy.linalg.solve(system, root * (kernel @ towards), assume_a="pos"), None

    return jax.lax.scan(step, jnp.zeros_like(of_class), length=steps)[0]
