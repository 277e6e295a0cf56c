"""Differentiation through a window of a long adaptation (truncated backpropagation through time)."""

import jax

from jaxmeta.core.adapt import check_unroll, memory_policy
from jaxmeta.core.gradients import naming_the_switch
from jaxmeta.core.task_axis import check_task_axis, chunk_size, mean_in_chunks
from jaxmeta.core.task_products import fused_products
from jaxmeta.core.trees import chosen, leading_size, mean_over_tasks
from jaxmeta.core.types import GradientEstimator, MetaAlgorithm
from jaxmeta.estimators.carried import Slot, check_steps, check_windows, first_slots, opened, window


def truncated_backprop(
    algorithm: MetaAlgorithm,
    *,
    num_steps: int,
    horizon: int,
    memory: str = "none",
    task_axis: str = "auto",
    unroll: int | str = "auto",
) -> GradientEstimator:
    """The gradient of the query loss at the end of a window of steps, differentiated through that window alone.

    The task goes on in the next outer step where the window left it, until the horizon; what came before a window is
    taken as a constant. That is biased: what a step does to the losses of later windows is not seen.

    Args:
      algorithm: a meta-learner that takes inner steps.
      num_steps: steps of a window.
      horizon: steps after which a task begins anew, on the episode that the batch then offers.
      memory: what is kept for the derivative, see `jaxmeta.core.adapt.memory_policy`.
      task_axis: how many tasks are worked on at once, see `jaxmeta.core.task_axis.chunk_size`.
      unroll: inner steps that are compiled without a loop, a number or "auto", see `jaxmeta.core.adapt.adapt`.

    Returns:
      An estimator whose state holds the tasks and their episodes, all of whose batches have the same shapes, and whose
      metrics are the algorithm's query metrics and `loss` at the end of the window, averaged over tasks.

    Raises:
      ValueError: a number is not positive, or `horizon` no multiple of `num_steps`; `memory`, `task_axis` or `unroll`
        is unknown; at `init` if the algorithm's steps do nothing.
    """
    windows = check_windows(num_steps, horizon)
    memory_policy(memory)
    check_unroll(unroll, memory)
    check_task_axis(task_axis)
    options = {"num_steps": num_steps, "memory": memory, "unroll": unroll}

    def init(key, meta_params, episodes):
        state = check_steps("truncated_backprop", algorithm, key, meta_params, episodes)
        return first_slots(state, episodes, windows)

    def task_loss(meta_params, key, slot: Slot, offered):
        anew, episode, age = opened(slot, offered, windows)
        begin_key, adapt_key, loss_key = jax.random.split(key, 3)
        state = chosen(anew, algorithm.begin(begin_key, meta_params, episode.support), slot.task)
        state = window(algorithm, adapt_key, meta_params, state, episode.support, **options)
        loss, metrics = algorithm.loss(loss_key, meta_params, state, episode.query)
        return loss, ({**metrics, "loss": loss}, Slot(state, episode, age))

    def mean_loss(meta_params, *tasks):
        losses, (metrics, slots) = jax.vmap(task_loss, in_axes=(None, 0, 0, 0))(meta_params, *tasks)
        return losses.mean(), (mean_over_tasks(metrics), slots)

    def estimate(key, meta_params, slots, episodes):
        def chunk(tasks):
            with naming_the_switch():
                gradient = jax.grad(mean_loss, has_aux=True)
                gradient = fused_products(gradient) if leading_size(tasks) > 1 else gradient
                found, (metrics, slots) = gradient(meta_params, *tasks)
            return (found, metrics), slots

        tasks = (jax.random.split(key, leading_size(episodes)), slots, episodes)
        (gradient, metrics), slots = mean_in_chunks(chunk, tasks, chunk_size(task_axis, episodes))
        return gradient, slots, metrics

    return GradientEstimator(init, estimate)
