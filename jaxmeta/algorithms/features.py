"""What the metric and closed-form learners share: no steps, a model's features, and the classes the support holds."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmeta.core.types import IMPOSSIBLE, ArrayTree, Batch, Episode, Key, MetaAlgorithm, MetaParams, Model, Objective

FEATURE_FLOOR = 1e-6  # of `unit`: features that are nearly zero stay so, and have a moderate derivative


def closed_form(objective: Objective, init: Callable, begin: Callable, predict: Callable) -> MetaAlgorithm:
    """Returns the algorithm that has adapted when it begins: its steps do nothing, its loss is that of its answers."""

    def step(key, meta_params, state, support):
        del key, meta_params, support
        return state, {}

    def loss(key, meta_params, state, query):
        del key
        return objective.loss(predict(meta_params, state, query["inputs"]), query)

    return MetaAlgorithm(init, begin, step, loss, predict)


def scaled(model: Model, initial_scale: float) -> Callable[[Key, Episode], MetaParams]:
    """Returns the `init` of learners by similarity: a model, and the logarithm of what they multiply by."""

    def init(key, episode):
        params = model.init(key, episode.support["inputs"])
        dtype = jax.tree.leaves(params)[0].dtype
        return {"params": params, "log_scale": jnp.full((), math.log(initial_scale), dtype)}

    return init


def features_of(model: Model) -> Callable[[ArrayTree, ArrayTree], jax.Array]:
    """Returns `(params, inputs [N, ...]) -> [N, D]`: the model's features, or its outputs where it names none."""
    return model.features or model.apply


def with_constant(vectors: jax.Array) -> jax.Array:
    """Returns vectors `[N, D]` with a one appended, `[N, D + 1]`, whose weight is a head's intercept."""
    return jnp.concatenate([vectors, jnp.ones((*vectors.shape[:-1], 1), vectors.dtype)], axis=-1)


def scaled_design(raw: jax.Array) -> jax.Array:
    """Returns features `[N, D]` as what a closed-form head is fitted to: divided by `sqrt(D)`, a one appended."""
    return with_constant(raw / raw.shape[-1] ** 0.5)


def masked_one_hot(batch: Batch, num_classes: int, dtype) -> jax.Array:
    """Returns the targets as `[N, C]`, rows of padding all zero."""
    one_hot = jax.nn.one_hot(batch["targets"], num_classes, dtype=dtype)
    if "mask" in batch:
        one_hot = one_hot * batch["mask"].astype(dtype)[:, None]
    return one_hot


def without_absent(logits: jax.Array, present: jax.Array) -> jax.Array:
    """Puts classes that the support does not hold out of reach: logits `[N, C]`, present `[C]`."""
    return jnp.where(present[None], logits, jnp.asarray(IMPOSSIBLE, logits.dtype))
