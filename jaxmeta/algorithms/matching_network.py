"""Matching networks (Vinyals et al. 2016, arXiv 1606.04080): attention over the support, by the cosine of features.

The paper's full-context embeddings, LSTMs that read the support as a sequence, are left out: support and query share
one encoder that sees one example at a time, so the order of the shots changes nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.algorithms.features import (
    FEATURE_FLOOR,
    closed_form,
    features_of,
    masked_one_hot,
    scaled,
    without_absent,
)
from jaxmeta.core.checks import check_positive
from jaxmeta.core.trees import unit
from jaxmeta.core.types import IMPOSSIBLE, Batch, MetaAlgorithm, Model, Objective


class Memory(NamedTuple):
    """The support as it is: what attention looks up."""

    vectors: jax.Array  # [S, D], of unit length
    members: jax.Array  # [S, C] bool: the class of each example, none of padding


def matching_network(
    model: Model, objective: Objective, *, num_classes: int, initial_scale: float = 10.0
) -> MetaAlgorithm:
    """Answers with the classes of the support, each example weighted by attention; `num_steps=0`.

    The probability of class `c` is the sum of `softmax_i(exp(log_scale) * cos(f(x), f(x_i)))` over the support examples
    `i` of that class. The scale is meta-learned; the paper has none, which bounds how sure an answer can be.

    Args:
      model: its `features` are read (or its outputs where it names none).
      objective: classification.
      num_classes: C.
      initial_scale: where the scale starts.

    Raises:
      ValueError: if `num_classes` or `initial_scale` is not positive.
    """
    check_positive("num_classes", num_classes)
    check_positive("initial_scale", initial_scale)
    features = features_of(model)

    def begin(key, meta_params, support: Batch):
        del key
        vectors = unit(features(meta_params["params"], support["inputs"]), floor=FEATURE_FLOOR)
        return Memory(vectors, masked_one_hot(support, num_classes, vectors.dtype) > 0)

    def predict(meta_params, state: Memory, inputs):
        vectors = unit(features(meta_params["params"], inputs), floor=FEATURE_FLOOR)
        similar = jnp.exp(meta_params["log_scale"]) * (vectors @ state.vectors.T)
        of_class = jnp.where(state.members[None], similar[..., None], jnp.asarray(IMPOSSIBLE, similar.dtype))
        # The softmax of these logits is the sum of attention over each class, and they cannot underflow.
        return without_absent(jax.nn.logsumexp(of_class, axis=1), jnp.any(state.members, axis=0))

    return closed_form(objective, scaled(model, initial_scale), begin, predict)
