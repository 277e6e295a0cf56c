"""The multi-step loss of MAML++ (Antoniou et al. 2019, arXiv 1810.09502)."""

import jax
import jax.numpy as jnp

from jaxmeta.core.adapt import adapt, check_unroll, memory_policy
from jaxmeta.core.checks import check_positive
from jaxmeta.core.task_axis import check_task_axis
from jaxmeta.core.types import GradientEstimator, MetaAlgorithm
from jaxmeta.estimators.backprop import mean_gradient
from jaxmeta.estimators.carried import check_steps


def multistep(
    algorithm: MetaAlgorithm,
    *,
    num_steps: int,
    anneal_over: int,
    memory: str = "none",
    task_axis: str = "auto",
    unroll: int | str = "auto",
) -> GradientEstimator:
    """The gradient of a weighted sum of the query losses after every inner step.

    All K weights are `1/K` at first. In the course of `anneal_over` outer steps those of all steps but the last fall to
    zero, in a line, and the last one rises to one; from then on it is the gradient of `backprop`, at the cost of K
    query losses, so put `backprop` behind it with `in_turn`.

    Args:
      algorithm: a meta-learner that takes inner steps.
      num_steps: inner steps K.
      anneal_over: outer steps.
      memory: what is kept for the derivative, see `jaxmeta.core.adapt.memory_policy`.
      task_axis: how many tasks are worked on at once, see `jaxmeta.core.task_axis.chunk_size`.
      unroll: inner steps that are compiled without a loop, a number or "auto", see `jaxmeta.core.adapt.adapt`.

    Returns:
      An estimator whose state counts its outer steps, and whose metrics are the algorithm's query metrics after the
      last step and `loss`, the weighted sum, averaged over tasks.

    Raises:
      ValueError: `num_steps` or `anneal_over` is not positive; `memory`, `task_axis` or `unroll` is unknown; when it
        runs, if the algorithm's steps do nothing.
    """
    check_positive("num_steps", num_steps)
    check_positive("anneal_over", anneal_over)
    memory_policy(memory)
    check_unroll(unroll, memory)
    check_task_axis(task_axis)

    def init(key, meta_params, episodes):
        del key, meta_params, episodes
        return jnp.zeros((), jnp.int32)

    def estimate(key, meta_params, done, episodes):
        check_steps("multistep", algorithm, key, meta_params, episodes)

        def task_loss(meta_params, key, episode):
            adapt_key, loss_key = jax.random.split(key)
            states, _ = adapt(
                algorithm, adapt_key, meta_params, episode.support,
                num_steps=num_steps, memory=memory, unroll=unroll, trace=True,
            )  # fmt: skip
            after = jax.tree.map(lambda leaf: leaf[1:], states)
            losses, metrics = jax.lax.map(
                lambda state: algorithm.loss(loss_key, meta_params, state, episode.query), after
            )
            loss = losses @ step_weights(done, num_steps, anneal_over, losses.dtype)
            return loss, {**jax.tree.map(lambda leaf: leaf[-1], metrics), "loss": loss}

        gradient, metrics = mean_gradient(algorithm, task_loss, task_axis, key, meta_params, episodes)
        return gradient, done + 1, metrics

    return GradientEstimator(init, estimate)


def step_weights(done: jax.Array, num_steps: int, anneal_over: int, dtype=jnp.float32) -> jax.Array:
    """Returns the weights `[K]` of the query losses when `done` of `anneal_over` outer steps are over."""
    left = jnp.maximum(1 - done.astype(dtype) / anneal_over, 0.0)
    return jnp.full((num_steps,), left / num_steps).at[-1].add(1 - left)
