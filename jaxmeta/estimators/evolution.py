"""Evolution strategies: the outer gradient from losses alone (Salimans et al. 2017, arXiv 1703.03864).

With `F(θ)` the loss of a task, `ε` normal numbers and `σ` their scale, an antithetic pair gives

    g  =  ε (F(θ + σ ε) - F(θ - σ ε)) / (2 σ)        E g  =  the gradient of  E F(θ + σ ε)

the exact gradient of a smoothed loss, of whatever `F` is: it need not be differentiable, and the loss of a long
adaptation may be as rough as it likes.
"""

import jax
import numpy as np

from jaxmeta.core.adapt import check_unroll
from jaxmeta.core.checks import check_positive
from jaxmeta.core.task_axis import check_task_axis, chunk_size, mean_in_chunks
from jaxmeta.core.trees import leading_size, mean_over_tasks
from jaxmeta.core.types import ArrayTree, GradientEstimator, Key, MetaAlgorithm, MetaParams
from jaxmeta.estimators.backprop import loss_after


def evolution(
    algorithm: MetaAlgorithm,
    *,
    num_steps: int,
    scale: float = 0.01,
    pairs: int = 1,
    task_axis: str = "auto",
    unroll: int | str = "auto",
) -> GradientEstimator:
    """The gradient of the mean query loss after `num_steps` inner steps, smoothed over meta-parameters.

    The two sides of a pair draw the same random numbers wherever the algorithm draws any, so that only the
    perturbation sets them apart. Every pair of every task has a perturbation of its own.

    Args:
      algorithm: any meta-learner; nothing of it is differentiated but what its steps differentiate themselves.
      num_steps: inner steps K.
      scale: σ, the standard deviation of the perturbations.
      pairs: antithetic pairs for each task, worked on side by side.
      task_axis: how many tasks are worked on at once, see `jaxmeta.core.task_axis.chunk_size`.
      unroll: inner steps that are compiled without a loop, a number or "auto", see `jaxmeta.core.adapt.adapt`.

    Returns:
      An estimator whose metrics are the algorithm's query metrics and `loss`, averaged over pairs and tasks.

    Raises:
      ValueError: `scale` or `pairs` is not positive; `task_axis` or `unroll` is unknown.
    """
    check_positive("scale", scale)
    check_positive("pairs", pairs)
    check_unroll(unroll, "none")
    check_task_axis(task_axis)
    task_loss = loss_after(algorithm, num_steps=num_steps, unroll=unroll)

    def init(key, meta_params, episodes):
        del key, meta_params, episodes
        return ()

    def estimate(key, meta_params, state, episodes):
        def pair(key, episode):
            noise_key, run_key = jax.random.split(key)
            noise = noise_like(noise_key, meta_params)

            def side(sign):
                # One key for both sides: common random numbers.
                return task_loss(moved(meta_params, noise, sign, scale), run_key, episode)

            losses, metrics = jax.vmap(side)(SIDES)
            return weighted(noise, slope(losses, scale)), mean_over_tasks(metrics)

        def chunk(tasks):
            keys, episodes = tasks
            each = jax.vmap(jax.vmap(pair, in_axes=(0, None)))(keys, episodes)
            return mean_over_tasks(mean_over_tasks(each)), ()

        tasks = (jax.random.split(key, (leading_size(episodes), pairs)), episodes)
        (gradient, metrics), _ = mean_in_chunks(chunk, tasks, chunk_size(task_axis, episodes))
        return gradient, state, metrics

    return GradientEstimator(init, estimate)


SIDES = np.array([1, -1], np.int32)  # of an antithetic pair


def noise_like(key: Key, tree: ArrayTree) -> ArrayTree:
    """Draws normal numbers in the shapes and types of `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def moved(meta_params: MetaParams, noise: ArrayTree, sign: jax.Array, scale: float) -> MetaParams:
    """Returns `meta_params + sign scale noise`."""
    return jax.tree.map(lambda leaf, n: leaf + sign.astype(leaf.dtype) * (scale * n), meta_params, noise)


def weighted(noise: ArrayTree, weight: jax.Array) -> ArrayTree:
    """Returns `weight noise`, in the types of the noise."""
    return jax.tree.map(lambda leaf: weight.astype(leaf.dtype) * leaf, noise)


def slope(losses: jax.Array, scale: float) -> jax.Array:
    """Returns how the loss changes along the noise, from those of the two sides `[2]`."""
    return (losses[0] - losses[1]) / (2 * scale)
