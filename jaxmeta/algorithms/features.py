"""What the metric and closed-form learners share: no steps, a model's features, and the classes the support holds."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmeta.core.masks import real_examples
from jaxmeta.core.trees import at_least_float32
from jaxmeta.core.types import IMPOSSIBLE, ArrayTree, Batch, Episode, Key, MetaAlgorithm, MetaParams, Model, Objective

FEATURE_FLOOR = 1e-6  # of `unit`: features that are nearly zero stay so, and have a moderate derivative


def closed_form(objective: Objective, init: Callable, begin: Callable, predict: Callable) -> MetaAlgorithm:
    """Returns the algorithm that has adapted when it begins: its steps do nothing, its loss is that of its answers."""

    def loss(key, meta_params, state, query):
        del key
        return objective.loss(predict(meta_params, state, query["inputs"]), query)

    return MetaAlgorithm(init, begin, no_step, loss, predict)


def no_step(key, meta_params, state, support):
    """The inner step of what has adapted when it begins."""
    del key, meta_params, support
    return state, {}


def check_takes_steps(name: str, algorithm: MetaAlgorithm) -> None:
    """Refuses an algorithm that has adapted when it begins.

    Raises:
      ValueError: it is one.
    """
    if algorithm.step is no_step:
        raise ValueError(f"`{name}` changes what inner steps read, and this algorithm takes none; leave it out")


def scaled(model: Model, initial_scale: float) -> Callable[[Key, Episode], MetaParams]:
    """Returns the `init` of learners by similarity: a model, and the logarithm of what they multiply by."""

    def init(key, episode):
        params = model.init(key, episode.support["inputs"])
        dtype = jax.tree.leaves(params)[0].dtype
        return {"params": params, "log_scale": jnp.full((), math.log(initial_scale), dtype)}

    return init


def features_of(model: Model) -> Callable[[ArrayTree, ArrayTree], jax.Array]:
    """Returns `(params, inputs [N, ...]) -> [N, D]`: the model's features, or its outputs where it names none.

    In float32 at least: distances and solutions of what a model computes in half precision are not to be.
    """
    read = model.features or model.apply
    return lambda params, inputs: at_least_float32(read(params, inputs))


def with_constant(vectors: jax.Array) -> jax.Array:
    """Returns vectors `[N, D]` with a one appended, `[N, D + 1]`, whose weight is a head's intercept."""
    return jnp.concatenate([vectors, jnp.ones((*vectors.shape[:-1], 1), vectors.dtype)], axis=-1)


def scaled_design(raw: jax.Array) -> jax.Array:
    """Returns features `[N, D]` as what a closed-form head is fitted to: divided by `sqrt(D)`, a one appended."""
    return with_constant(raw / raw.shape[-1] ** 0.5)


def real_rows(values: jax.Array, batch: Batch) -> jax.Array:
    """Returns `values [N, D]` with zeros in the place of padding, whatever a model made of it."""
    return jnp.where(real_examples(batch, len(values))[:, None], values, jnp.zeros((), values.dtype))


def masked_one_hot(batch: Batch, num_classes: int, dtype) -> jax.Array:
    """Returns the targets as `[N, C]`, rows of padding all zero."""
    return real_rows(jax.nn.one_hot(batch["targets"], num_classes, dtype=dtype), batch)


def without_absent(logits: jax.Array, present: jax.Array) -> jax.Array:
    """Puts classes that the support does not hold out of reach: logits `[N, C]`, present `[C]`."""
    return jnp.where(present[None], logits, jnp.asarray(IMPOSSIBLE, logits.dtype))
