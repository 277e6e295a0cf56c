"""Training from scratch on the support alone: what the shots are worth without any other language."""

import optax

from jaxmeta.algorithms.maml import maml
from jaxmeta.core.gradients import Strategy, first_order
from jaxmeta.core.types import Episode, MetaAlgorithm, Model, Objective


def target_only(
    model: Model,
    objective: Objective,
    inner_optimizer: optax.GradientTransformation,
    *,
    gradient: Strategy = first_order,
) -> MetaAlgorithm:
    """Each task starts from freshly drawn parameters; there is nothing to meta-learn.

    Args:
      model: what maps inputs to outputs.
      objective: what the outputs are for.
      inner_optimizer: any optax optimizer.
      gradient: the inner-gradient strategy, for whoever differentiates with respect to a learning rate.

    Returns:
      An algorithm with empty meta-parameters and the task states of `maml`.
    """
    base = maml(model, objective, inner_optimizer, gradient=gradient)

    def init(key, episode):
        del key, episode
        return {}

    def begin(key, meta_params, support):
        del meta_params
        return base.begin(key, base.init(key, Episode(support, support)), support)

    # Every parameter adapts, so `base` finds all of them in the state and reads only the structure of these.
    def step(key, meta_params, state, support):
        del meta_params
        return base.step(key, {"params": state.fast}, state, support)

    def loss(key, meta_params, state, query):
        del meta_params
        return base.loss(key, {"params": state.fast}, state, query)

    def predict(meta_params, state, inputs):
        del meta_params
        return base.predict({"params": state.fast}, state, inputs)

    return MetaAlgorithm(init, begin, step, loss, predict)
