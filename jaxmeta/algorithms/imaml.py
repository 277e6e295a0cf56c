"""Implicit MAML (Rajeswaran et al. 2019, arXiv 1909.04630): adaptation that is held to its start."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxmeta.algorithms.descent import FastWeights, descent
from jaxmeta.core.checks import check_positive
from jaxmeta.core.curvature import gauss_newton
from jaxmeta.core.gradients import Strategy, forward_over_reverse
from jaxmeta.core.select import Predicate, everything, merge, partition
from jaxmeta.core.solvers import Solve
from jaxmeta.core.types import ArrayTree, Batch, Episode, MetaAlgorithm, MetaParams, Model, Objective, Stationary

# How much of a Gauss-Newton step is tried, longest first. Where nothing of it helps, the best is taken all the same to
# leave a kink behind, unless it makes what is minimised more than twice as large.
PARTS = (1.0, 0.5, 0.25, 0.1)
_ALIKE = 1e-4  # losses so near the best, as a part of it, are as good: which is the least of those is rounding


def imaml(
    model: Model,
    objective: Objective,
    inner_optimizer: optax.GradientTransformation | Solve,
    *,
    strength: float = 1.0,
    learn_strength: bool = False,
    select: Predicate = everything,
    gradient: Strategy = forward_over_reverse,
    microbatches: int = 1,
) -> MetaAlgorithm:
    """Steps down `L(φ; s) + strength/2 |φ - θ|²`; meant for the `implicit` estimator.

    The meta-gradient at the minimum does not depend on the steps that led there, so with `implicit` their number costs
    no memory. Steps that do not come near the minimum make it biased. Under `backprop` the same five functions are MAML
    with a pull to the start.

    Gauss-Newton steps (the paper's Hessian-free optimisation; Martens 2010, ICML) come near it in a few, where gradient
    steps need hundreds: each solves for the minimum of the objective made quadratic where it is, and goes all of the
    way, or a half, a quarter or a tenth of it, whatever is best; where that is no good at all it stays.

    Args:
      model: what maps inputs to outputs.
      objective: what the outputs are for; for Gauss-Newton steps its loss is convex in the outputs.
      inner_optimizer: any optax optimizer, whose state starts anew for each task; or a solver, such as
        `conjugate_gradient(6)`, for Gauss-Newton steps.
      strength: of the pull; for gradient steps larger than what the loss curves downwards anywhere, so that there is
        one minimum.
      learn_strength: whether it is meta-learned, in log space.
      select: which parameters adapt, by path.
      gradient: the inner-gradient strategy, for gradient steps under `backprop` alone.
      microbatches: parts that the support is cut into, one after another, for the inner gradient. The objective's
        loss must then be a mean over the real examples.

    Returns:
      An algorithm whose meta-parameters are `{"params": ..., "log_strength": []}` (the latter if it is learned), with
      the task state of `maml`.

    Raises:
      ValueError: if `strength` or `microbatches` is not positive, or `microbatches` is not 1 with Gauss-Newton steps;
        at `init` if `select` matches no parameter.
    """
    check_positive("strength", strength)
    if isinstance(inner_optimizer, optax.GradientTransformation):
        optimizer, solve = inner_optimizer, None
    else:
        optimizer, solve = optax.identity(), inner_optimizer
    if solve and microbatches != 1:
        raise ValueError(f"`microbatches` must be 1 for Gauss-Newton steps, got {microbatches}")

    def pull_of(meta_params: MetaParams):
        return jnp.exp(meta_params["log_strength"]) if learn_strength else strength

    def moved(meta_params: MetaParams, fast: ArrayTree) -> ArrayTree:
        return optax.tree.sub(fast, partition(meta_params["params"], select)[0])

    def pull(meta_params: MetaParams, fast: ArrayTree) -> ArrayTree:
        return optax.tree.scale(pull_of(meta_params), moved(meta_params, fast))

    def with_pull(loss: jax.Array, meta_params: MetaParams, fast: ArrayTree) -> jax.Array:
        return loss + 0.5 * pull_of(meta_params) * optax.tree.norm(moved(meta_params, fast), squared=True)

    def outputs(meta_params: MetaParams, fast: ArrayTree, support: Batch):
        return model.apply(merge(fast, partition(meta_params["params"], select)[1]), support["inputs"])

    def inner_objective(meta_params: MetaParams, fast: ArrayTree, support: Batch):
        return with_pull(objective.loss(outputs(meta_params, fast, support), support)[0], meta_params, fast)

    def quadratic(meta_params: MetaParams, fast: ArrayTree, support: Batch):
        reported, slope, product = gauss_newton(
            lambda fast: outputs(meta_params, fast, support), lambda found: objective.loss(found, support), fast
        )
        held = pull_of(meta_params)
        slope = optax.tree.add(slope, pull(meta_params, fast))
        return reported, slope, lambda vector: optax.tree.add_scale(product(vector), held, vector)

    base = descent(
        model, objective, optimizer,
        select=select, gradient=gradient, microbatches=microbatches,
        of_gradient=lambda meta_params, state, grads: optax.tree.add(grads, pull(meta_params, state.fast)),
    )  # fmt: skip

    def init(key, episode: Episode):
        meta_params = base.init(key, episode)
        if not learn_strength:
            return meta_params
        dtype = jax.tree.leaves(meta_params["params"])[0].dtype
        return {**meta_params, "log_strength": jnp.full((), math.log(strength), dtype)}

    def newton_step(solve: Solve, key, meta_params, state: FastWeights, support):
        del key
        (loss, metrics), slope, product = quadratic(meta_params, state.fast, support)
        way = solve(product, slope)

        def after(part):
            return optax.tree.add_scale(state.fast, -part, way)

        parts = jnp.array(PARTS, loss.dtype)
        losses = jax.vmap(lambda part: inner_objective(meta_params, after(part), support))(parts)
        losses = jnp.where(jnp.isnan(losses), jnp.inf, losses)
        least = jnp.min(losses)
        longest = parts[jnp.argmax(losses <= least + _ALIKE * jnp.abs(least))]
        now = with_pull(loss, meta_params, state.fast)
        goes = least <= now + jnp.abs(now)
        # Chosen number by number: no share of a way that is not finite is nothing.
        fast = jax.tree.map(lambda new, old: jnp.where(goes, new, old), after(longest), state.fast)
        return FastWeights(fast, state.opt_state, state.step + 1), {**metrics, "loss": loss}

    stationary = Stationary("fast", inner_objective, lambda *point: quadratic(*point)[1:])
    step = partial(newton_step, solve) if solve else base.step
    return base._replace(init=init, step=step, stationary=stationary)
