"""Parameters that are others at each inner step: the per-step batch normalisation of MAML++ without its statistics.

Antoniou et al. 2019, arXiv 1810.09502, let every inner step have its own scale and shift of each normalisation. What
they also keep for each step, running statistics, is state that a query would share with its support; the models here
have none.
"""

import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_positive
from jaxmeta.core.select import Predicate, merge, partition, path_of
from jaxmeta.core.types import Episode, MetaAlgorithm, MetaParams


def per_step(base: MetaAlgorithm, *, select: Predicate, steps: int) -> MetaAlgorithm:
    """Gives each step of `base` its own values of some parameters that do not adapt.

    Step k reads `params + offsets[k]`, and so does whoever asks for an answer after k steps. Offsets begin at zero.

    Args:
      base: an algorithm with the task state of `maml`, in which the selected parameters do not adapt (`select` of
        `maml`).
      select: which parameters differ from step to step, by path.
      steps: numbers of steps taken that have their own, K + 1 of K steps; more steps use the last.

    Returns:
      `base` with meta-parameters `"offsets"`, `[steps, ...]` for each parameter selected.

    Raises:
      ValueError: if `steps` is not positive; at `init` if `select` matches no parameter; when adapting if a parameter
        that is selected adapts.
    """
    check_positive("steps", steps)

    def without(meta_params: MetaParams) -> MetaParams:
        return {name: part for name, part in meta_params.items() if name != "offsets"}

    def at(meta_params: MetaParams, state) -> MetaParams:
        now = jnp.minimum(state.step, steps - 1)
        selected, rest = partition(meta_params["params"], select)
        moved = jax.tree.map(lambda leaf, offset: leaf + offset[now], selected, meta_params["offsets"])
        return {**without(meta_params), "params": merge(moved, rest)}

    def init(key, episode: Episode):
        meta_params = base.init(key, episode)
        selected, _ = partition(meta_params["params"], select)
        offsets = jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), leaf.dtype), selected)
        return {**meta_params, "offsets": offsets}

    def begin(key, meta_params, support):
        state = base.begin(key, without(meta_params), support)
        both = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.fast) if select(path_of(path))]
        if both:
            raise ValueError(f"`per_step` is for parameters that do not adapt, and these do: {', '.join(both[:8])}")
        return state

    def step(key, meta_params, state, support):
        return base.step(key, at(meta_params, state), state, support)

    def loss(key, meta_params, state, query):
        return base.loss(key, at(meta_params, state), state, query)

    def predict(meta_params, state, inputs):
        return base.predict(at(meta_params, state), state, inputs)

    def compact(meta_params, episode):
        assert base.compact is not None
        own, episode = base.compact(without(meta_params), episode)
        return {**own, "offsets": jax.tree.map(lambda _: None, meta_params["offsets"])}, episode

    return MetaAlgorithm(init, begin, step, loss, predict, compact=compact if base.compact else None)
