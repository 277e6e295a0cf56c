"""How a held-out loss changes with the numbers of a run: derivatives carried forward through training and adaptation.

Forward mode (Franceschi et al. 2017, arXiv 1703.01785) costs one pass more for each number and keeps nothing of the
steps, so it goes through as many of them as there are. It is exact: what training has come to, the optimizer's moments
included, has a tangent for each number, and each step moves both.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.core.adapt import adapt
from jaxmeta.core.select import merge
from jaxmeta.core.trees import blank, leading_size
from jaxmeta.core.types import ArrayTree, Episode, LearnerState, MetaAlgorithm, MetaLearner, MetaParams, Metrics

Numbers = Mapping[str, Any]  # scalars by name


class Carried(NamedTuple):
    """What training carries, and how it changes with `n` numbers."""

    state: LearnerState
    tangents: ArrayTree  # of the floating leaves of the state, [n, ...]; None elsewhere


def begun(state: LearnerState, names: Sequence[str]) -> Carried:
    """Returns a fresh state, which no number has changed."""
    return Carried(state, blank(floating(state), len(names)))


def floating(tree: ArrayTree) -> ArrayTree:
    """Returns the leaves of a tree that have a derivative, None elsewhere."""
    return jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, tree)


def updated(
    learner: Callable[[Numbers], MetaLearner], names: Sequence[str], values: Numbers, carried: Carried, batch: Episode
) -> tuple[Carried, Metrics]:
    """Takes a step of training, tangents included.

    Args:
      learner: of numbers.
      names: of those whose derivatives are carried.
      values: all of the numbers.
      carried: what there was before the step.
      batch: of tasks.
    """
    state = carried.state
    still = jax.tree.map(lambda leaf: None if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf, state)

    def step(values, moving):
        after, metrics = learner(values).update(merge(moving, still), batch)
        return floating(after), (after, metrics)

    def along(direction, tangent):
        _, tangent, (after, metrics) = jax.jvp(
            step, (values, floating(state)), (direction, tangent), has_aux=True
        )  # fmt: skip
        return after, metrics, tangent

    # What does not depend on the direction is computed once.
    each = jax.vmap(along, (0, 0), (None, None, 0))
    after, metrics, tangents = each(_directions(values, names), carried.tangents)
    return Carried(after, tangents), metrics


def held_out_loss(
    algorithm: Callable[[Numbers], MetaAlgorithm],
    names: Sequence[str],
    values: Numbers,
    meta_params: MetaParams,
    tangents: ArrayTree,
    key: jax.Array,
    episodes: Episode,
    *,
    num_steps: int,
    tasks_at_once: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the mean query loss after adaptation, and its derivative with respect to each of `n` numbers.

    Args:
      algorithm: of numbers.
      names: of the `n` numbers.
      values: all of the numbers.
      meta_params: what adaptation starts from; all of its leaves are floating.
      tangents: how they change with each of the numbers, `[n, ...]`.
      key: consumed.
      episodes: leaves `[T, ...]`.
      num_steps: of adaptation.
      tasks_at_once: adapted side by side.
    """
    keys = jax.random.split(key, leading_size(episodes))

    def loss(values, meta_params):
        def of_task(task):
            (adapt_key, loss_key), episode = jax.random.split(task[0]), task[1]
            learned = algorithm(values)
            state, _ = adapt(learned, adapt_key, meta_params, episode.support, num_steps=num_steps)
            return learned.loss(loss_key, meta_params, state, episode.query)[0]

        return jax.lax.map(of_task, (keys, episodes), batch_size=min(tasks_at_once, len(keys))).mean()

    def along(direction, tangent):
        return jax.jvp(loss, (values, meta_params), (direction, tangent))

    value, slopes = jax.vmap(along, (0, 0), (None, 0))(_directions(values, names), tangents)
    return value, {name: slopes[place] for place, name in enumerate(names)}


def _directions(values: Numbers, names: Sequence[str]) -> dict[str, jax.Array]:
    """Returns `[n]` of each number: one in the direction of its own name, zero elsewhere."""
    return {
        name: jnp.stack([jnp.ones_like(value) if name == own else jnp.zeros_like(value) for own in names])
        for name, value in values.items()
    }
