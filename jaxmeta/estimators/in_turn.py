"""One estimator after another, as training goes on."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import GradientEstimator


def in_turn(*early: tuple[GradientEstimator, int], then: GradientEstimator) -> GradientEstimator:
    """Each of `early` for its number of outer steps, `then` for all that follow.

    With `backprop` of one algorithm to first order and then to second order this is the derivative-order annealing of
    MAML++ (Antoniou et al. 2019, arXiv 1810.09502). All are compiled, one of them runs.

    Args:
      *early: pairs of an estimator and how many outer steps it is used for. All have the same meta-parameters.
      then: the last one.

    Returns:
      An estimator whose state counts outer steps and holds the states of all, and whose metrics are those that all
      report.

    Raises:
      ValueError: if a number of steps is not positive.

    Example:
      >>> jm.in_turn((jm.backprop(to_first_order, num_steps=5), 1000), then=jm.backprop(to_second_order, num_steps=5))
    """
    for _, steps in early:
        check_positive("steps", steps)
    estimators = [*(estimator for estimator, _ in early), then]
    ends = np.cumsum([steps for _, steps in early], dtype=np.int32)

    def init(key, meta_params, episodes):
        keys = jax.random.split(key, len(estimators))
        pairs = zip(estimators, keys, strict=True)
        states = tuple(estimator.init(key, meta_params, episodes) for estimator, key in pairs)
        return jnp.zeros((), jnp.int32), states

    def estimate(key, meta_params, state, episodes):
        done, states = state

        def branch(number: int):
            def run():
                gradient, new, metrics = estimators[number].estimate(key, meta_params, states[number], episodes)
                kept = {name: metrics[name] for name in sorted(common)}
                return gradient, (*states[:number], new, *states[number + 1 :]), kept

            return run

        reported = [
            jax.eval_shape(estimator.estimate, key, meta_params, own, episodes)[2]
            for estimator, own in zip(estimators, states, strict=True)
        ]
        common = set.intersection(*map(set, reported))
        now = jnp.sum(done >= jnp.asarray(ends), dtype=jnp.int32)
        gradient, states, metrics = jax.lax.switch(now, [branch(number) for number in range(len(estimators))])
        return gradient, (done + 1, states), metrics

    return GradientEstimator(init, estimate)
