"""Tasks that go on from one outer step to the next: a slot for each task of a batch, begun anew at the horizon.

What an outer step gets is a batch of episodes. A slot takes the episode at its place only when it begins anew; until
then it holds the one that it began with, and passes over what the batch offers. So a stream of episodes, numbered as
ever, is all that is needed, the position of every task is in the estimator's state, and a run that was cut off goes
on with the same bits. The price is a copy of `T` episodes in the state, and in every checkpoint.

Slots begin at different places: slot `t` of `T` has its first task for a shorter time, so that at any outer step the
tasks are spread over all ages.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.core.adapt import adapt
from jaxmeta.core.checks import check_positive
from jaxmeta.core.trees import blank, chosen, leading_size
from jaxmeta.core.types import ArrayTree, Batch, Episode, Key, MetaAlgorithm, MetaParams, TaskState


class Slot(NamedTuple):
    """Where one task stands; with a task axis in front, a batch of them."""

    task: ArrayTree  # what is carried of it: its state, and what an estimator adds up
    episode: Episode  # what it is about
    age: jax.Array  # [] int32: windows that are over; -1 - n before its first window, for one that begins n late


def check_windows(num_steps: int, horizon: int) -> int:
    """Returns how many windows a task lasts.

    Raises:
      ValueError: one of them is not positive, or the horizon is not a number of windows.
    """
    check_positive("num_steps", num_steps)
    check_positive("horizon", horizon)
    if horizon % num_steps:
        raise ValueError(
            f"`horizon` must be a multiple of `num_steps`, the steps of a window, got {horizon} and {num_steps}"
        )
    return horizon // num_steps


def check_steps(name: str, algorithm: MetaAlgorithm, key: Key, meta_params: MetaParams, episodes: Episode) -> TaskState:
    """Refuses algorithms whose steps give back the state that they were given.

    Returns:
      The shapes and types of a task state.

    Raises:
      ValueError: it is one.
    """
    support = jax.tree.map(lambda leaf: leaf[0], episodes.support)
    begun = jax.eval_shape(algorithm.begin, key, meta_params, support)
    traced = jax.make_jaxpr(lambda state: algorithm.step(key, meta_params, state, support)[0])(begun).jaxpr
    if all(new is old for new, old in zip(traced.outvars, traced.invars, strict=True)):
        raise ValueError(
            f"`{name}` is about what each inner step adds, and this algorithm's steps do nothing; use `backprop` or "
            "`evolution` with `num_steps=0`"
        )
    return begun


def first_slots(task: ArrayTree, episodes: Episode, windows: int) -> Slot:
    """Returns slots that have not begun; leaves `[T, ...]`.

    Args:
      task: the shapes and types of what will be carried of each.
      episodes: as many as there are slots.
      windows: that a task lasts.
    """
    num_tasks = leading_size(episodes)
    late = jnp.arange(num_tasks, dtype=jnp.int32) * windows // num_tasks
    return Slot(blank(task, num_tasks), jax.tree.map(jnp.asarray, episodes), -1 - late)


def opened(slot: Slot, offered: Episode, windows: int) -> tuple[jax.Array, Episode, jax.Array]:
    """Returns whether a slot begins anew, the episode that it is about now, and its age after this window."""
    anew = (slot.age < 0) | (slot.age >= windows)
    began = jnp.where(slot.age < 0, -1 - slot.age, 0)
    return anew, chosen(anew, offered, slot.episode), jnp.where(anew, began, slot.age) + 1


def window(
    algorithm: MetaAlgorithm, key: Key, meta_params: MetaParams, state: TaskState, support: Batch, **options
) -> TaskState:
    """Goes on from a task state by the steps of a window; the options are those of `adapt`."""
    return adapt(algorithm._replace(begin=lambda *_: state), key, meta_params, support, **options)[0]
