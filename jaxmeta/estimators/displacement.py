"""The direction from the meta-parameters to where adaptation leads."""

import jax
import jax.numpy as jnp

from jaxmeta.core.adapt import adapt
from jaxmeta.core.select import merge
from jaxmeta.core.trees import joined, leading_size, mean_over_tasks
from jaxmeta.core.types import ArrayTree, GradientEstimator, MetaAlgorithm


def displacement(algorithm: MetaAlgorithm, *, num_steps: int) -> GradientEstimator:
    """Reptile's outer "gradient": the mean over tasks of `params - adapted params` (Nichol et al. 2018).

    Nothing is differentiated through adaptation. Every example of the episode, support and query, is adapted on, as
    Reptile does; the loss reported is the one after adaptation, on the query.

    Args:
      algorithm: a meta-learner whose task state has `fast`, the adapted subset of `meta_params["params"]`, with None
        where a parameter does not adapt (`maml`, `reptile`).
      num_steps: inner steps K.

    Raises:
      ValueError: when the task state has no `fast` parameters to compare with.
    """

    def init(key, meta_params, episodes):
        del key, meta_params, episodes
        return ()

    def estimate(key, meta_params, state, episodes):
        def one_task(key, episode):
            adapt_key, loss_key = jax.random.split(key)
            examples = joined(episode.support, episode.query)
            task_state, _ = adapt(algorithm, adapt_key, meta_params, examples, num_steps=num_steps)
            if not _is_copy(getattr(task_state, "fast", None), meta_params["params"]):
                raise ValueError(
                    "`displacement` needs an algorithm that adapts a copy of its parameters (maml, reptile)"
                )
            loss, metrics = algorithm.loss(loss_key, meta_params, task_state, episode.query)
            return task_state.fast, {**metrics, "loss": loss}

        num_tasks = leading_size(episodes)
        fast, metrics = jax.vmap(one_task)(jax.random.split(key, num_tasks), episodes)
        adapted = mean_over_tasks(fast)
        gradient = jax.tree.map(jnp.zeros_like, meta_params)
        moved = jax.tree.map(
            lambda new, old: None if new is None else old - new,
            adapted,
            meta_params["params"],
            is_leaf=lambda leaf: leaf is None,
        )
        still = jax.tree.map(
            lambda new, zero: zero if new is None else None,
            adapted,
            gradient["params"],
            is_leaf=lambda leaf: leaf is None,
        )
        gradient = {**gradient, "params": merge(moved, still)}
        return gradient, state, mean_over_tasks(metrics)

    return GradientEstimator(init, estimate)


def _is_copy(fast: ArrayTree, params: ArrayTree) -> bool:
    """Returns whether what adapts has a place for each parameter, nothing where one does not adapt."""
    one, other = (jax.tree.structure(tree, is_leaf=lambda leaf: leaf is None) for tree in (fast, params))
    return one == other
