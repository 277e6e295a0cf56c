"""Meta-learners of policies: any that takes gradient steps, on rollouts that are drawn anew for each of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.core.masks import masked_sum, real_examples
from jaxmeta.core.rollouts import Rollouts, with_fresh_seeds
from jaxmeta.core.trees import stop_gradient
from jaxmeta.core.types import MetaAlgorithm, TaskState


class Credited(NamedTuple):
    """What adaptation changes, and how likely the rollouts were that it saw."""

    base: TaskState
    # [], zero: its derivative is that of the logarithm of their probability.
    score: jax.Array


def policy_gradient(base: MetaAlgorithm, *, sampling_term: bool = False) -> MetaAlgorithm:
    """Adapts by `base` on fresh rollouts of the policy as it is at each step, and judges it by fresh rollouts too.

    A support of S examples is S rollouts of one task, drawn by the key of the step; those of the query are of the
    adapted policy. `predict` plays by the seeds that it is given.

    The meta-parameters change which rollouts adaptation sees, and the derivative has to know. With the objective
    `control(coupling=1.0)` the second derivative of the inner loss does, which is unbiased for a step along the
    *expected* policy gradient: the gradient goes to that of many rollouts. With `sampling_term`, and
    `control(coupling=None, baseline="none", normalize=False)`, the outer gradient is unbiased for the step along the
    gradient of these few rollouts (E-MAML, Stadie et al. 2018, arXiv 1803.01118), at a variance that grows with their
    number. Both at once would count it twice.

    Args:
      base: an algorithm that takes gradient steps (`maml` and its relatives, `cavia`, `reptile`), built on
        `playing(policy, environment)` and `control()`.
      sampling_term: see above.

    Returns:
      An algorithm with the states of `base`, or with `Credited` ones. It has no minimum to differentiate: what it goes
      down to is known by samples only.

    Raises:
      ValueError: when adapting if `base` does not play.
    """

    def drawn(key, meta_params, state, batch) -> tuple[dict, Rollouts]:
        """Returns a batch whose inputs are rollouts of the policy, and the rollouts with their derivative."""
        batch = with_fresh_seeds(key, batch)
        rollouts = base.predict(meta_params, state, batch["inputs"])
        if not isinstance(rollouts, Rollouts):
            raise ValueError(
                "`policy_gradient` needs an algorithm whose `predict` plays; build it on `playing(policy, environment)`"
            )
        return {**batch, "inputs": stop_gradient(rollouts)}, rollouts

    def step(key, meta_params, state, support):
        draw_key, step_key = jax.random.split(key)
        return base.step(step_key, meta_params, state, drawn(draw_key, meta_params, state, support)[0])

    def loss(key, meta_params, state, query):
        draw_key, loss_key = jax.random.split(key)
        return base.loss(loss_key, meta_params, state, drawn(draw_key, meta_params, state, query)[0])

    algorithm = base._replace(step=step, loss=loss, stationary=None)
    if not sampling_term:
        return algorithm

    def credited_begin(key, meta_params, support):
        state = base.begin(key, meta_params, support)
        dtype = jax.tree.leaves(meta_params)[0].dtype
        return Credited(state, jnp.zeros((), dtype))

    def credited_step(key, meta_params, state: Credited, support):
        draw_key, step_key = jax.random.split(key)
        batch, rollouts = drawn(draw_key, meta_params, state.base, support)
        log_probs = jnp.sum(rollouts.log_probs, axis=1)
        told = log_probs - jax.lax.stop_gradient(log_probs)
        score = state.score + masked_sum(told, real_examples(batch, len(told)))
        found, metrics = base.step(step_key, meta_params, state.base, batch)
        return Credited(found, score), metrics

    def credited_loss(key, meta_params, state: Credited, query):
        value, metrics = loss(key, meta_params, state.base, query)
        return value + state.score * jax.lax.stop_gradient(value), metrics

    def predict(meta_params, state: Credited, inputs):
        return base.predict(meta_params, state.base, inputs)

    return algorithm._replace(begin=credited_begin, step=credited_step, loss=credited_loss, predict=predict)
