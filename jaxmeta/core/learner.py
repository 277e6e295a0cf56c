"""The outer loop's step: an algorithm, an estimator and an optax optimizer make a learner."""

import jax
import jax.numpy as jnp
import optax

from jaxmeta.core.trees import owned, strip_weak_types
from jaxmeta.core.types import (
    Episode,
    GradientEstimator,
    Key,
    LearnerState,
    MetaAlgorithm,
    MetaLearner,
    MetaParams,
    Metrics,
)


def build_learner(
    algorithm: MetaAlgorithm,
    estimator: GradientEstimator,
    outer_optimizer: optax.GradientTransformation,
) -> MetaLearner:
    """Returns the pair of pure functions that meta-train `algorithm`.

    `init(key, episodes)` and `update(state, episodes)` take a batch of tasks, leaves `[T, S, ...]` and `[T, Q, ...]`.
    `update` is meant to be jitted (donate the state), and reports the estimator's metrics and `gradient_norm`.

    Example:
      >>> learner = jm.build_learner(algorithm, jm.backprop(algorithm, num_steps=5), optax.adam(1e-3))
      >>> state = learner.init(key, episodes)
      >>> state, metrics = jax.jit(learner.update)(state, episodes)
    """

    def init(key: Key, episodes: Episode) -> LearnerState:
        first = jax.tree.map(lambda leaf: leaf[0], episodes)
        params_key, estimator_key, key = jax.random.split(key, 3)
        meta_params = strip_weak_types(algorithm.init(params_key, first))
        return start(key, meta_params, estimator.init(estimator_key, meta_params, episodes))

    def start(key: Key, meta_params: MetaParams, estimator_state) -> LearnerState:
        state = LearnerState(
            step=jnp.zeros((), jnp.int32),
            key=jax.random.key_data(key),
            meta_params=meta_params,
            opt_state=outer_optimizer.init(meta_params),
            estimator_state=estimator_state,
        )
        # A model may give out its parameters as they are, an optimizer keep them, an estimator the episodes; a state
        # that is donated must not take those with it.
        return owned(state)

    def update(state: LearnerState, episodes: Episode) -> tuple[LearnerState, Metrics]:
        # A key per step is a function of the step's number: a resumed run draws what an uninterrupted one draws.
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        gradient, estimator_state, metrics = estimator.estimate(key, state.meta_params, state.estimator_state, episodes)
        updates, opt_state = outer_optimizer.update(gradient, state.opt_state, state.meta_params)
        meta_params = optax.apply_updates(state.meta_params, updates)
        metrics = {**metrics, "gradient_norm": optax.tree.norm(gradient)}
        return LearnerState(state.step + 1, state.key, meta_params, opt_state, estimator_state), metrics

    return MetaLearner(init, update)
