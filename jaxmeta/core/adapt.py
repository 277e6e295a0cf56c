"""The inner loop: the only one there is, and what is kept of it for the outer derivative."""

import itertools
import math
import re
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxmeta.core.checks import InputError, check_not_negative
from jaxmeta.core.gradients import INNER_GRADIENT
from jaxmeta.core.hoist import opened
from jaxmeta.core.trees import stop_gradient
from jaxmeta.core.types import Batch, Key, MetaAlgorithm, MetaParams, Metrics, TaskState

MEMORY_POLICIES = ("none", "products", "per_step", "nested", "offload", "truncated(n)")
_INNER_STATE = "inner_state"
# Numbers of a task (its state and its support) and steps up to which a loop over them costs more than its steps do.
_TINY_TASK, FEW_STEPS = 2048, 10


class Memory(NamedTuple):
    """A memory policy, parsed."""

    name: str
    last: int = 0  # of "truncated": the steps that are differentiated


def memory_policy(text: str) -> Memory:
    """Parses the name of a memory policy.

        none           every intermediate that the derivative needs
        products       the results of each step's products and convolutions; what is cheap is computed again. For
                       `linearized` and `reverse`: `forward_over_reverse` keeps less as it is
        per_step       each step's state and inner gradient; the rest of a step is computed again
        nested         the state at the start of every group of about sqrt(K) steps; within a group as per_step, so a
                       step's gradient is computed once more, and memory grows with sqrt(K)
        offload        as per_step, but kept in the memory of the host
        truncated(n)   the derivative of the last n steps; what earlier ones added is taken as a constant, which is
                       first order for them (Shaban et al. 2019, arXiv 1810.10667). n = 0 is FOMAML for what
                       adapts; what steps read besides (learned rates) learns from the last n alone

    Raises:
      ValueError: it is none of these.
    """
    found = re.fullmatch(r"truncated\((\d+)\)", text)
    if found:
        return Memory("truncated", int(found.group(1)))
    if text not in MEMORY_POLICIES[:-1]:
        raise ValueError(f"`memory` must be one of {', '.join(MEMORY_POLICIES)} (n a number), got {text!r}")
    return Memory(text)


def check_unroll(unroll: int | str, memory: str) -> None:
    """Refuses what is no number of steps, or has no use for it.

    Raises:
      ValueError: `unroll` is neither a positive number nor "auto", or `memory` recomputes: only a loop keeps a compiler
        from doing so long before it is needed.
    """
    if unroll != "auto" and not (isinstance(unroll, int) and unroll > 0):
        raise ValueError(f'`unroll` must be a positive number of steps or "auto", got {unroll!r}')
    if unroll not in ("auto", 1) and not _is_free(memory_policy(memory)):
        raise ValueError(f'`unroll` must be 1 or "auto" where memory is saved by {memory!r}, got {unroll!r}')


def _is_free(policy: Memory) -> bool:
    """Whether nothing is recomputed."""
    return policy.name in ("none", "truncated")


def adapt(
    algorithm: MetaAlgorithm,
    key: Key,
    meta_params: MetaParams,
    support: Batch,
    *,
    num_steps: int,
    memory: str = "none",
    unroll: int | str = "auto",
    trace: bool | Sequence[int] = False,
) -> tuple[TaskState, Metrics]:
    """Adapts to one task: `begin`, then `num_steps` times `step`, scanned.

    What a step computes from the meta-parameters and the support alone (the features of a frozen trunk) is computed
    once, before the first step.

    Args:
      algorithm: the meta-learner.
      key: consumed.
      meta_params: what was meta-learned.
      support: leaves `[S, ...]`.
      num_steps: inner steps K; zero gives what `begin` gives.
      memory: what is kept for the outer derivative, see `memory_policy`.
      unroll: steps that are compiled one after another instead of as a loop. What one step hands to another, or to
        the derivative, then needs no copy: faster, for the time to compile and, where steps are not recomputed, for
        memory. "auto" is all of few steps of a tiny task, where memory is not to be saved; else one.
      trace: also return every state; or those after some numbers of steps, ascending, the last of which is K. Of a
        long adaptation no others are kept then; it is not meant to be differentiated, and `memory` and `unroll` do not
        matter.

    Returns:
      The adapted task state and the metrics of each step, leaves `[K, ...]`. With `trace`, the states from before the
      first step to after the last, leaves `[K + 1, ...]`, in place of the last one; or `[P, ...]` of those asked for.

    Raises:
      ValueError: if `num_steps` is negative, `trace` malformed, `memory` unknown, or `unroll` neither positive nor
        "auto", or more than 1 with a `memory` that recomputes.
      InputError: if `memory` is "offload" and the device has no host memory beside its own.
    """
    check_not_negative("num_steps", num_steps)
    policy = memory_policy(memory)
    check_unroll(unroll, memory)
    begin_key, key = jax.random.split(key)
    begun = algorithm.begin(begin_key, meta_params, support)
    if not isinstance(unroll, int):
        pays = _is_free(policy) and num_steps <= FEW_STEPS and _is_tiny(begun, support)
        unroll = num_steps if pays else 1

    if not isinstance(trace, bool):
        _check_places(trace, num_steps)
        step = _step_of(algorithm, meta_params, support, begun, key)
        return _traced_at(step, begun, jax.random.split(key, num_steps), np.asarray(trace, np.int32))

    def body(meta_params, support):
        step = _step_of(algorithm, meta_params, support, begun, key)

        def recorded(state, key):
            new_state, metrics = step(state, key)
            # Metrics are for reporting: cut here, they cost the outer derivative nothing.
            return new_state, (stop_gradient(metrics), new_state if trace else None)

        return recorded

    keys = jax.random.split(key, num_steps)
    if policy.name == "truncated":
        early = max(0, num_steps - policy.last)
        cut = stop_gradient((meta_params, support))
        state, first = _scan(body(*cut), stop_gradient(begun), keys[:early], unroll)
        if trace:  # a loss after one of these steps is differentiated to first order too
            metrics, states = first
            first = metrics, jax.tree.map(lambda leaf, of_all: _constant_step(leaf[None], of_all), begun, states)
        state = jax.tree.map(_constant_step, begun, state)
        state, second = _scan(body(meta_params, support), state, keys[early:], unroll)
        metrics, states = _joined([first, second])
    elif policy.name == "none":
        state, (metrics, states) = _scan(body(meta_params, support), begun, keys, unroll)
    else:
        state, (metrics, states) = _SCANS[policy.name](body(meta_params, support), begun, keys)
    if trace:
        state = jax.tree.map(_prepend, begun, states)
    return state, metrics


def _check_places(places: Sequence[int], num_steps: int) -> None:
    steps = [-1, *places]
    if steps[-1] != num_steps or any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise ValueError(
            f"`trace` must name numbers of steps in ascending order, the last of them {num_steps}, got {[*places]}"
        )


def _step_of(algorithm, meta_params, support, begun, key):
    """Returns `(state, key) -> (state, metrics)`, its constant part done."""

    def step(varying, meta_params, support):
        state, key = varying
        return algorithm.step(key, meta_params, state, support)

    found = opened(step, (begun, key), meta_params, support)
    out_tree = jax.tree.structure(found.shapes)
    return lambda *varying: jax.tree.unflatten(out_tree, found.run(found.constants, *jax.tree.leaves(varying)))


def _traced_at(step, begun, keys, places: np.ndarray):
    """Returns the states after the numbers of steps in `places`, and the metrics of each step."""
    kept = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(places), *leaf.shape)), begun)

    def recorded(carry, key):
        state, kept, done = carry
        state, metrics = step(state, key)
        # Every state is written where the next one that is wanted belongs; the last to be written there is that one.
        slot = jnp.sum(places <= done, dtype=jnp.int32)
        kept = jax.tree.map(lambda whole, leaf: whole.at[slot].set(leaf), kept, state)
        return (state, kept, done + 1), metrics

    (_, kept, _), metrics = jax.lax.scan(recorded, (begun, kept, jnp.zeros((), jnp.int32)), keys)
    return kept, metrics


def _is_tiny(*trees) -> bool:
    return sum(jnp.size(leaf) for leaf in jax.tree.leaves(trees)) <= _TINY_TASK


def _scan(body, state, keys, unroll: int):
    if not 0 < len(keys) <= unroll:
        return jax.lax.scan(body, state, keys, unroll=unroll)
    # Written out, not a scan that is unrolled whole: that gives every task a copy of what all of them begin with.
    recorded = []
    for step_key in keys:
        state, found = body(state, step_key)
        recorded.append(found)
    return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *recorded)


# A loop is its own barrier, so the optimisation barriers that checkpoint adds by default only cost time.
_checkpoint = partial(jax.checkpoint, prevent_cse=False)
_keep_products = partial(_checkpoint, policy=jax.checkpoint_policies.dots_saveable)
_keep_gradients = partial(_checkpoint, policy=jax.checkpoint_policies.save_only_these_names(INNER_GRADIENT))


def _scan_products(body, state, keys):
    return jax.lax.scan(_keep_products(body), state, keys)


def _scan_per_step(body, state, keys):
    return jax.lax.scan(_keep_gradients(body), state, keys)


def _scan_nested(body, state, keys):
    num_steps = len(keys)
    size = max(1, math.isqrt(num_steps))
    groups = num_steps // size
    group = _checkpoint(lambda state, keys: _scan_per_step(body, state, keys))
    state, first = jax.lax.scan(group, state, keys[: groups * size].reshape(groups, size))
    first = jax.tree.map(lambda leaf: leaf.reshape(groups * size, *leaf.shape[2:]), first)
    state, second = _scan_per_step(body, state, keys[groups * size :])
    return state, _joined([first, second])


def _scan_offload(body, state, keys):
    if jax.default_backend() == "cpu":
        raise InputError(
            'memory "offload" moves what is kept to the memory of the host, and a CPU has no other; use "nested".'
        )
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[INNER_GRADIENT, _INNER_STATE],
        offload_src="device",
        offload_dst="pinned_host",
    )

    def named(state, key):
        return body(jax.tree.map(partial(checkpoint_name, name=_INNER_STATE), state), key)

    return jax.lax.scan(_checkpoint(named, policy=policy), state, keys)


_SCANS = {
    "products": _scan_products,
    "per_step": _scan_per_step,
    "nested": _scan_nested,
    "offload": _scan_offload,
}


def _constant_step(begun: jax.Array, state: jax.Array) -> jax.Array:
    """Returns `state`, whose derivative is that of `begun`."""
    if not jnp.issubdtype(state.dtype, jnp.inexact):
        return state
    return begun + jax.lax.stop_gradient(state - begun)


def _joined(parts):
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _prepend(first: jax.Array, others: jax.Array) -> jax.Array:
    return jnp.concatenate([first[None], others])
