"""Proto-MAML (Triantafillou et al. 2020, arXiv 1903.03096): prototypes to start with, then gradient steps on all."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmeta.algorithms.features import features_of
from jaxmeta.algorithms.maml import FastWeights, maml
from jaxmeta.algorithms.protonet import Prototypes, protonet
from jaxmeta.core.gradients import Strategy, forward_over_reverse
from jaxmeta.core.types import IMPOSSIBLE, ArrayTree, Batch, MetaAlgorithm, Model, Objective


class Adapting(NamedTuple):
    """What takes the steps."""

    trunk: ArrayTree  # the model's parameters
    kernel: jax.Array  # [D, C] of the head
    bias: jax.Array  # [C]


def proto_maml(
    model: Model,
    objective: Objective,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_classes: int,
    gradient: Strategy = forward_over_reverse,
    microbatches: int = 1,
    initial_scale: float = 10.0,
) -> MetaAlgorithm:
    """Takes gradient steps on the encoder and on a linear head that begins as the nearest class mean.

    Up to what is the same for every class, `-s |f(x) - m_c|^2` is linear in `f(x)`: the head begins with the weights
    `2 s m_c` and the biases `-s |m_c|^2`, where `s = exp(log_scale) / D`. So without a step it is `protonet`, and the
    start of the head suits classes of any meaning, which MAML has to learn one for. The outer gradient goes through the
    means too.

    Args:
      model: its `features` are read (or its outputs where it names none).
      objective: classification.
      inner_optimizer: any optax optimizer; see `maml`.
      num_classes: C.
      gradient: the inner-gradient strategy, see `jaxmeta.core.gradients`.
      microbatches: parts that the support is cut into for an inner gradient, see `maml`.
      initial_scale: where the scale starts.

    Raises:
      ValueError: if `num_classes`, `microbatches` or `initial_scale` is not positive.
    """
    features = features_of(model)
    prototypes = protonet(model, objective, num_classes=num_classes, initial_scale=initial_scale)

    def apply(params: Adapting, inputs):
        return features(params.trunk, inputs) @ params.kernel + params.bias[None]

    # Everything adapts, so what adapts is all that the steps and the answers read.
    steps = maml(Model(model.init, apply), objective, inner_optimizer, gradient=gradient, microbatches=microbatches)

    def begin(key, meta_params, support: Batch):
        found: Prototypes = prototypes.begin(key, meta_params, support)
        scale = jnp.exp(meta_params["log_scale"]) / found.means.shape[-1]
        bias = -scale * jnp.sum(jnp.square(found.means), axis=-1)
        # A class without an example is out of reach, and as its probability is zero, no step changes that.
        bias = jnp.where(found.present, bias, jnp.asarray(IMPOSSIBLE, bias.dtype))
        start = Adapting(meta_params["params"], 2 * scale * found.means.T, bias)
        return steps.begin(key, {"params": start}, support)

    def step(key, meta_params, state: FastWeights, support: Batch):
        del meta_params
        return steps.step(key, {"params": state.fast}, state, support)

    def loss(key, meta_params, state: FastWeights, query: Batch):
        del meta_params
        return steps.loss(key, {"params": state.fast}, state, query)

    def predict(meta_params, state: FastWeights, inputs):
        del meta_params
        return steps.predict({"params": state.fast}, state, inputs)

    return MetaAlgorithm(prototypes.init, begin, step, loss, predict)
