"""Differentiation through adaptation."""

from collections.abc import Callable

import jax

from jaxmeta.core.adapt import adapt, check_unroll, memory_policy
from jaxmeta.core.gradients import naming_the_switch
from jaxmeta.core.select import merge, unselected
from jaxmeta.core.task_axis import check_task_axis, chunk_size, mean_in_chunks
from jaxmeta.core.task_products import fused_products
from jaxmeta.core.trees import leading_size, mean_over_tasks
from jaxmeta.core.types import Episode, GradientEstimator, Key, MetaAlgorithm, MetaParams, Metrics


def backprop(
    algorithm: MetaAlgorithm,
    *,
    num_steps: int,
    memory: str = "none",
    task_axis: str = "auto",
    unroll: int | str = "auto",
) -> GradientEstimator:
    """The gradient of the mean query loss after `num_steps` inner steps, differentiated through all of them.

    How each inner gradient is differentiated (second order, first order) is the algorithm's strategy, not this
    estimator's. Metric and closed-form learners use `num_steps=0`: all their adaptation is in `begin`.

    Args:
      algorithm: the meta-learner.
      num_steps: inner steps K.
      memory: what is kept for the derivative, see `jaxmeta.core.adapt.memory_policy`.
      task_axis: how many tasks are worked on at once, see `jaxmeta.core.task_axis.chunk_size`.
      unroll: inner steps that are compiled without a loop, a number or "auto", see `jaxmeta.core.adapt.adapt`.

    Returns:
      An estimator whose metrics are the algorithm's query metrics and `loss`, averaged over tasks.

    Raises:
      ValueError: `memory`, `task_axis` or `unroll` is unknown, or the first and the last contradict each other.
    """
    memory_policy(memory)
    check_unroll(unroll, memory)
    check_task_axis(task_axis)

    def init(key, meta_params, episodes):
        del key, meta_params, episodes
        return ()

    task_loss = loss_after(algorithm, num_steps=num_steps, memory=memory, unroll=unroll)

    def estimate(key, meta_params, state, episodes):
        gradient, metrics = mean_gradient(algorithm, task_loss, task_axis, key, meta_params, episodes)
        return gradient, state, metrics

    return GradientEstimator(init, estimate)


def loss_after(
    algorithm: MetaAlgorithm, *, num_steps: int, memory: str = "none", unroll: int | str = "auto"
) -> Callable[[MetaParams, Key, Episode], tuple[jax.Array, Metrics]]:
    """Returns `(meta_params, key, episode) -> (query loss after so many inner steps, metrics with "loss")`."""

    def task_loss(meta_params, key, episode):
        adapt_key, loss_key = jax.random.split(key)
        task_state, _ = adapt(
            algorithm, adapt_key, meta_params, episode.support, num_steps=num_steps, memory=memory, unroll=unroll
        )
        loss, metrics = algorithm.loss(loss_key, meta_params, task_state, episode.query)
        return loss, {**metrics, "loss": loss}

    return task_loss


def mean_gradient(
    algorithm: MetaAlgorithm,
    task_loss: Callable[[MetaParams, Key, Episode], tuple[jax.Array, Metrics]],
    task_axis: str,
    key: Key,
    meta_params: MetaParams,
    episodes: Episode,
) -> tuple[MetaParams, Metrics]:
    """Returns the gradient of the mean of `task_loss(meta_params, key, episode)` over tasks, and its mean metrics."""
    own, expand, episodes = _compacted(algorithm, meta_params, episodes)
    shared = unselected(meta_params, own)
    num_tasks = leading_size(episodes)

    def mean_loss(shared, own, keys, episodes):
        each = jax.vmap(lambda own, key, episode: task_loss(merge(own, shared), key, episode))
        losses, metrics = each(own, keys, episodes)
        return losses.mean(), mean_over_tasks(metrics)

    def chunk_gradient(chunk):
        with naming_the_switch():
            gradient = jax.grad(mean_loss, argnums=(0, 1), has_aux=True)
            gradient = fused_products(gradient) if leading_size(chunk) > 1 else gradient
            (shared_gradient, own_gradient), metrics = gradient(shared, *chunk)
        share = leading_size(chunk) / num_tasks
        return (shared_gradient, metrics), jax.tree.map(lambda leaf: share * leaf, own_gradient)

    chunk = (own, jax.random.split(key, num_tasks), episodes)
    (gradient, metrics), own_gradient = mean_in_chunks(chunk_gradient, chunk, chunk_size(task_axis, episodes))
    return merge(expand(own_gradient), gradient), metrics


def _compacted(algorithm: MetaAlgorithm, meta_params: MetaParams, episodes: Episode):
    """Returns what each task has of its own in place of meta-parameters, the way back for its gradient, and episodes.

    Outside the loop over tasks, so that the way back (a scatter into a large array) is gone once, not once a task.
    """
    if algorithm.compact is None:
        nothing = jax.tree.map(lambda _: None, meta_params)
        return nothing, lambda gradient: gradient, episodes
    compact = jax.vmap(algorithm.compact, in_axes=(None, 0))
    own, way_back, episodes = jax.vjp(lambda meta_params: compact(meta_params, episodes), meta_params, has_aux=True)
    shared = unselected(meta_params, own)
    return own, lambda gradient: unselected(way_back(gradient)[0], shared), episodes
