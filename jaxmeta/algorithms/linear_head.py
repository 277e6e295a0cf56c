"""A linear classifier on frozen features (Tian et al. 2020, arXiv 2003.11539), which beats many meta-learners."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmeta.algorithms.features import FEATURE_FLOOR, features_of, real_rows
from jaxmeta.core.checks import check_positive
from jaxmeta.core.trees import strip_weak_types, unit
from jaxmeta.core.types import ArrayTree, Batch, Episode, MetaAlgorithm, Model, Objective


class HeadState(NamedTuple):
    """The head, and the support's features, which are computed once because the encoder is frozen."""

    head: ArrayTree  # kernel [D, C], bias [C]
    opt_state: ArrayTree
    features: jax.Array  # [S, D]


def linear_head(
    model: Model,
    objective: Objective,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_outputs: int,
) -> MetaAlgorithm:
    """Fits a new linear layer, from zero, to the unit-length features of the support.

    Args:
      model: its `features` are read (or its outputs where it has none).
      objective: what the outputs are for.
      inner_optimizer: any optax optimizer.
      num_outputs: C, classes or dimensions.

    Raises:
      ValueError: if `num_outputs` is not positive.
    """
    check_positive("num_outputs", num_outputs)
    features = features_of(model)

    def embed(meta_params, inputs):
        return unit(features(meta_params["params"], inputs), floor=FEATURE_FLOOR)

    def init(key, episode: Episode):
        return {"params": model.init(key, episode.support["inputs"])}

    def begin(key, meta_params, support: Batch):
        del key
        embedded = real_rows(embed(meta_params, support["inputs"]), support)
        head = {
            "kernel": jnp.zeros((embedded.shape[-1], num_outputs), embedded.dtype),
            "bias": jnp.zeros((num_outputs,), embedded.dtype),
        }
        return HeadState(head, strip_weak_types(inner_optimizer.init(head)), embedded)

    def step(key, meta_params, state: HeadState, support: Batch):
        del key, meta_params

        def head_loss(head):
            return objective.loss(_apply(head, state.features), support)

        (loss, metrics), grads = jax.value_and_grad(head_loss, has_aux=True)(state.head)
        updates, opt_state = inner_optimizer.update(grads, state.opt_state, state.head)
        head = optax.apply_updates(state.head, updates)
        return HeadState(head, opt_state, state.features), {**metrics, "loss": loss}

    def loss(key, meta_params, state: HeadState, query: Batch):
        del key
        return objective.loss(predict(meta_params, state, query["inputs"]), query)

    def predict(meta_params, state: HeadState, inputs):
        return _apply(state.head, embed(meta_params, inputs))

    return MetaAlgorithm(init, begin, step, loss, predict)


def _apply(head, embedded: jax.Array) -> jax.Array:
    return embedded @ head["kernel"] + head["bias"][None]
