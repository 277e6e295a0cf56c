"""Persistent evolution strategies (Vicol, Metz and Sohl-Dickstein 2021, arXiv 2112.13835).

A long adaptation is cut into windows, one for each outer step. In window `w` a particle is moved by `σ ε_w` from the
meta-parameters, and with `L_w` the query loss at the end of the window

    g_w  =  (ε_1 + ... + ε_w) (L_w of one side - L_w of the other) / (2 σ)

The sum of all perturbations so far stands where evolution strategies have the last one: what an early step does to a
late loss is not lost, as it is where windows are taken for themselves. Over the windows of a task the mean of `g_w` is
an unbiased estimate of the gradient of the mean of `L_w`, smoothed, through the whole unrolled task.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.core.adapt import check_unroll
from jaxmeta.core.checks import check_positive
from jaxmeta.core.task_axis import check_task_axis, chunk_size, mean_in_chunks
from jaxmeta.core.trees import blank, chosen, leading_size, mean_over_tasks
from jaxmeta.core.types import ArrayTree, GradientEstimator, MetaAlgorithm, TaskState
from jaxmeta.estimators.carried import Slot, check_steps, check_windows, first_slots, opened, window
from jaxmeta.estimators.evolution import SIDES, moved, noise_like, slope, weighted


class Particles(NamedTuple):
    """The antithetic pairs of one task."""

    states: TaskState  # leaves [P, 2, ...]
    total: ArrayTree  # the sum of the perturbations since the task began, leaves [P, ...]


def persistent_evolution(
    algorithm: MetaAlgorithm,
    *,
    num_steps: int,
    horizon: int,
    scale: float = 0.01,
    pairs: int = 1,
    task_axis: str = "auto",
    unroll: int | str = "auto",
) -> GradientEstimator:
    """The gradient of the query losses along a long adaptation, a window of it in each outer step, without bias.

    Both sides of a pair live their own life from one outer step to the next, with the same random numbers; every pair
    has random numbers of its own. With `horizon` equal to `num_steps` it is `evolution`.

    Args:
      algorithm: a meta-learner that takes inner steps.
      num_steps: steps of a window.
      horizon: steps after which a task begins anew, on the episode that the batch then offers.
      scale: σ, the standard deviation of the perturbations.
      pairs: antithetic pairs for each task, worked on side by side.
      task_axis: how many tasks are worked on at once, see `jaxmeta.core.task_axis.chunk_size`.
      unroll: inner steps that are compiled without a loop, a number or "auto", see `jaxmeta.core.adapt.adapt`.

    Returns:
      An estimator whose state holds the particles and their episodes, all of whose batches have the same shapes, and
      whose metrics are the algorithm's query metrics and `loss` at the end of the window, averaged over pairs and
      tasks.

    Raises:
      ValueError: a number is not positive, or `horizon` no multiple of `num_steps`; `task_axis` or `unroll` is unknown;
        at `init` if the algorithm's steps do nothing.
    """
    windows = check_windows(num_steps, horizon)
    check_positive("scale", scale)
    check_positive("pairs", pairs)
    check_unroll(unroll, "none")
    check_task_axis(task_axis)

    def init(key, meta_params, episodes):
        state = check_steps("persistent_evolution", algorithm, key, meta_params, episodes)
        return first_slots(Particles(blank(state, pairs, 2), blank(meta_params, pairs)), episodes, windows)

    def estimate(key, meta_params, slots, episodes):
        def task(keys, slot: Slot, offered):
            anew, episode, age = opened(slot, offered, windows)

            def pair(key, particles: Particles):
                noise_key, begin_key, adapt_key, loss_key = jax.random.split(key, 4)
                noise = noise_like(noise_key, meta_params)
                total = jax.tree.map(lambda t, n: jnp.where(anew, 0, t) + n, particles.total, noise)

                def side(sign, state):
                    # One set of keys for both sides: common random numbers.
                    here = moved(meta_params, noise, sign, scale)
                    state = chosen(anew, algorithm.begin(begin_key, here, episode.support), state)
                    state = window(
                        algorithm, adapt_key, here, state, episode.support, num_steps=num_steps, unroll=unroll
                    )
                    loss, metrics = algorithm.loss(loss_key, here, state, episode.query)
                    return state, loss, {**metrics, "loss": loss}

                states, losses, metrics = jax.vmap(side)(SIDES, particles.states)
                return (weighted(total, slope(losses, scale)), mean_over_tasks(metrics)), Particles(states, total)

            found, particles = jax.vmap(pair)(keys, slot.task)
            return mean_over_tasks(found), Slot(particles, episode, age)

        def chunk(tasks):
            found, slots = jax.vmap(task)(*tasks)
            return mean_over_tasks(found), slots

        tasks = (jax.random.split(key, (leading_size(episodes), pairs)), slots, episodes)
        (gradient, metrics), slots = mean_in_chunks(chunk, tasks, chunk_size(task_axis, episodes))
        return gradient, slots, metrics

    return GradientEstimator(init, estimate)
