"""Differentiation through adaptation."""

import jax

from jaxmeta.core.adapt import Memory, adapt
from jaxmeta.core.trees import mean_over_tasks
from jaxmeta.core.types import GradientEstimator, MetaAlgorithm


def backprop(algorithm: MetaAlgorithm, *, num_steps: int, memory: Memory = "none") -> GradientEstimator:
    """The gradient of the mean query loss after `num_steps` inner steps, differentiated through all of them.

    How each inner gradient is differentiated (second order, first order) is the algorithm's strategy, not this
    estimator's. Metric and closed-form learners use `num_steps=0`: all their adaptation is in `begin`.

    Args:
      algorithm: the meta-learner.
      num_steps: inner steps K.
      memory: see `jaxmeta.core.adapt.adapt`.

    Returns:
      An estimator whose metrics are the algorithm's query metrics and `loss`, averaged over tasks.
    """

    def init(key, meta_params, episodes):
        del key, meta_params, episodes
        return ()

    def estimate(key, meta_params, state, episodes):
        def task_loss(meta_params, key, episode):
            adapt_key, loss_key = jax.random.split(key)
            task_state, _ = adapt(
                algorithm, adapt_key, meta_params, episode.support, num_steps=num_steps, memory=memory
            )
            loss, metrics = algorithm.loss(loss_key, meta_params, task_state, episode.query)
            return loss, {**metrics, "loss": loss}

        def mean_loss(meta_params):
            keys = jax.random.split(key, _num_tasks(episodes))
            losses, metrics = jax.vmap(task_loss, in_axes=(None, 0, 0))(meta_params, keys, episodes)
            return losses.mean(), mean_over_tasks(metrics)

        gradient, metrics = jax.grad(mean_loss, has_aux=True)(meta_params)
        return gradient, state, metrics

    return GradientEstimator(init, estimate)


def _num_tasks(episodes) -> int:
    return jax.tree.leaves(episodes)[0].shape[0]
