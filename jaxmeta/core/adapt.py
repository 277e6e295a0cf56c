"""The inner loop: the only one there is."""

from functools import partial
from typing import Literal

import jax

from jaxmeta.core.checks import check_not_negative, check_one_of
from jaxmeta.core.trees import stop_gradient
from jaxmeta.core.types import Batch, Key, MetaAlgorithm, MetaParams, Metrics, TaskState

Memory = Literal["none", "per_step"]
MEMORY_POLICIES = ("none", "per_step")


def adapt(
    algorithm: MetaAlgorithm,
    key: Key,
    meta_params: MetaParams,
    support: Batch,
    *,
    num_steps: int,
    memory: Memory = "none",
    trace: bool = False,
) -> tuple[TaskState, Metrics]:
    """Adapts to one task: `begin`, then `num_steps` times `step`, scanned.

    Args:
      algorithm: the meta-learner.
      key: consumed.
      meta_params: what was meta-learned.
      support: leaves `[S, ...]`.
      num_steps: inner steps K; zero gives what `begin` gives.
      memory: what is kept for the outer derivative. "none" keeps every intermediate; "per_step" keeps each step's
        state and recomputes within the step, so memory grows with K only by the size of the state.
      trace: also return every state.

    Returns:
      The adapted task state and the metrics of each step, leaves `[K, ...]`. With `trace`, the states from before the
      first step to after the last, leaves `[K + 1, ...]`, in place of the last one.

    Raises:
      ValueError: if `num_steps` is negative or `memory` unknown.
    """
    check_not_negative("num_steps", num_steps)
    check_one_of("memory", memory, MEMORY_POLICIES)
    begin_key, key = jax.random.split(key)
    begun = algorithm.begin(begin_key, meta_params, support)

    def step(state, key):
        new_state, metrics = algorithm.step(key, meta_params, state, support)
        # Metrics are for reporting: cut here, they cost the outer derivative nothing.
        return new_state, (stop_gradient(metrics), new_state if trace else None)

    if memory == "per_step":
        # A scan is its own barrier, so the optimisation barriers that checkpoint adds by default only cost time.
        step = jax.checkpoint(step, prevent_cse=False)
    state, (metrics, states) = jax.lax.scan(step, begun, jax.random.split(key, num_steps))
    if trace:
        state = jax.tree.map(partial(_prepend), begun, states)
    return state, metrics


def _prepend(first: jax.Array, others: jax.Array) -> jax.Array:
    return jax.numpy.concatenate([first[None], others])
