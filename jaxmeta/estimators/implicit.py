"""The gradient at the minimum that adaptation goes down to (implicit differentiation; iMAML, Rajeswaran et al. 2019).

With `G(φ, θ)` what adaptation minimises over φ, and `φ*` where its gradient is zero,

    d L(φ*; q) / dθ  =  ∂L/∂θ - (∂²G/∂θ∂φ) v,        v solves  (∂²G/∂φ²) v = ∂L/∂φ

so the way to the minimum is neither kept nor differentiated. How `v` is found is an argument.
"""

import jax
import jax.numpy as jnp
import optax

from jaxmeta.core.adapt import adapt, check_unroll
from jaxmeta.core.checks import check_one_of
from jaxmeta.core.gradients import naming_the_switch
from jaxmeta.core.solvers import Solve, conjugate_gradient
from jaxmeta.core.task_axis import check_task_axis, chunk_size, mean_in_chunks
from jaxmeta.core.task_products import fused_products
from jaxmeta.core.trees import leading_size, mean_over_tasks
from jaxmeta.core.types import GradientEstimator, MetaAlgorithm


def implicit(
    algorithm: MetaAlgorithm,
    *,
    num_steps: int,
    solve: Solve | None = None,
    curvature: str = "exact",
    task_axis: str = "auto",
    unroll: int | str = "auto",
) -> GradientEstimator:
    """The gradient of the mean query loss where adaptation ends, taken for the minimum that it goes down to.

    Memory does not depend on `num_steps`: it is that of the derivative of one inner gradient.

    Args:
      algorithm: a meta-learner with a minimum that the meta-parameters place (`imaml`, `cavia` with `decay`).
      num_steps: inner steps K, enough to come near the minimum; `inner_gradient_norm` among the metrics says how near.
      solve: `conjugate_gradient(...)` (the default) or `neumann(...)`.
      curvature: "exact", the second derivative of what is minimised, or "gauss_newton", its part that curves nowhere
        downwards: conjugate gradients are then stable wherever adaptation has come to, and near the minimum of a
        support that is fitted well the two agree.
      task_axis: how many tasks are worked on at once, see `jaxmeta.core.task_axis.chunk_size`.
      unroll: inner steps that are compiled without a loop, a number or "auto", see `jaxmeta.core.adapt.adapt`.

    Returns:
      An estimator whose metrics are the algorithm's query metrics, `loss` and `inner_gradient_norm`, averaged over
      tasks.

    Raises:
      ValueError: if `algorithm` has no such minimum, or `curvature`, `task_axis` or `unroll` is unknown.
    """
    stationary = algorithm.stationary
    if stationary is None:
        raise ValueError(
            "`implicit` needs an algorithm whose steps go down to a minimum that the meta-parameters place (imaml, "
            "cavia with `decay`); use `backprop`, which differentiates the steps themselves"
        )
    check_one_of("curvature", curvature, ("exact", "gauss_newton"))
    check_unroll(unroll, "none")
    check_task_axis(task_axis)
    solve = solve or conjugate_gradient()

    def init(key, meta_params, episodes):
        del key, meta_params, episodes
        return ()

    def query_loss(meta_params, solution, state, key, episode):
        state = state._replace(**{stationary.field: solution})
        loss, metrics = algorithm.loss(key, meta_params, state, episode.query)
        return loss, {**metrics, "loss": loss}

    def mean_loss(meta_params, solutions, *tasks):
        losses, metrics = jax.vmap(query_loss, in_axes=(None, 0, 0, 0, 0))(meta_params, solutions, *tasks)
        return losses.mean(), mean_over_tasks(metrics)

    def estimate(key, meta_params, state, episodes):
        def adapted(key, episode):
            return adapt(algorithm, key, meta_params, episode.support, num_steps=num_steps, unroll=unroll)[0]

        def direction(solution, cotangent, episode):
            """Returns v, and how far from zero the inner gradient is."""
            if curvature == "gauss_newton":
                gradient, product = stationary.gauss_newton(meta_params, solution, episode.support)
            else:
                slope = jax.grad(lambda solution: stationary.objective(meta_params, solution, episode.support))
                gradient, product = jax.linearize(slope, solution)
            return solve(product, cotangent), optax.tree.norm(gradient)

        def change(meta_params, solutions, directions, episodes):
            """The sum over tasks of `∂G/∂φ v`, a number, whose gradient is the mixed term."""

            def one(solution, direction, episode):
                value = lambda solution: stationary.objective(meta_params, solution, episode.support)  # noqa: E731
                return jax.jvp(value, (solution,), (direction,))[1]

            return jax.vmap(one)(solutions, directions, episodes).sum()

        def chunk_gradient(keys, episodes):
            adapt_keys, loss_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
            states = jax.vmap(adapted)(adapt_keys, episodes)
            solutions = getattr(states, stationary.field)
            tasks = (states, loss_keys, episodes)
            (direct, cotangents), metrics = jax.grad(mean_loss, argnums=(0, 1), has_aux=True)(
                meta_params, solutions, *tasks
            )
            directions, norms = jax.vmap(direction)(solutions, cotangents, episodes)
            mixed = jax.grad(change)(meta_params, solutions, directions, episodes)
            gradient = jax.tree.map(jnp.subtract, direct, mixed)
            return gradient, {**metrics, "inner_gradient_norm": norms.mean()}

        def chunk(tasks):
            with naming_the_switch():
                function = fused_products(chunk_gradient) if leading_size(tasks) > 1 else chunk_gradient
                return function(*tasks), ()

        tasks = (jax.random.split(key, leading_size(episodes)), episodes)
        (gradient, metrics), _ = mean_in_chunks(chunk, tasks, chunk_size(task_axis, episodes))
        return gradient, state, metrics

    return GradientEstimator(init, estimate)
