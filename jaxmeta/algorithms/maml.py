"""Model-agnostic meta-learning (Finn et al. 2017, arXiv 1703.03400), and what differs from it by an argument.

    FOMAML      gradient=first_order                              (Finn et al. 2017, section 5.2)
    ANIL        select=matching("^head/")                         (Raghu et al. 2020, arXiv 1909.09157)
    Meta-SGD    rates=LearnedRates(per="element")                 (Li et al. 2017, arXiv 1707.09835)
    LSLR        rates=LearnedRates(per="leaf", steps=K)           (MAML++, Antoniou et al. 2019, arXiv 1810.09502)

Trained with the `pooled` estimator instead of `backprop`, the same five functions are joint training, whose adaptation
is fine-tuning.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmeta.core.checks import check_one_of, check_positive
from jaxmeta.core.gradients import Strategy, forward_over_reverse
from jaxmeta.core.select import Predicate, everything, merge, partition
from jaxmeta.core.trees import strip_weak_types
from jaxmeta.core.types import ArrayTree, Batch, Episode, MetaAlgorithm, Model, Objective


class FastWeights(NamedTuple):
    """What adaptation changes."""

    fast: ArrayTree  # the adapted subset of the parameters, None where a parameter does not adapt
    opt_state: ArrayTree
    step: jax.Array  # [] int32


class LearnedRates(NamedTuple):
    """Multipliers of the inner optimizer's updates, meta-learned in log space from one.

    Attributes:
      per: "leaf", one for each parameter array; "element", one for each number in it.
      steps: how many inner steps have their own; later steps use the last.
    """

    per: Literal["leaf", "element"] = "leaf"
    steps: int = 1


def maml(
    model: Model,
    objective: Objective,
    inner_optimizer: optax.GradientTransformation,
    *,
    select: Predicate = everything,
    gradient: Strategy = forward_over_reverse,
    rates: LearnedRates | None = None,
) -> MetaAlgorithm:
    """Gradient steps on the support from meta-learned parameters.

    Args:
      model: what maps inputs to outputs.
      objective: what the outputs are for.
      inner_optimizer: any optax optimizer; its state starts anew for each task. Adam needs `eps_root > 0`, because
        the square root in it has no derivative at zero.
      select: which parameters adapt, by path.
      gradient: the inner-gradient strategy, see `jaxmeta.core.gradients`.
      rates: multipliers of the updates that are meta-learned too.

    Returns:
      An algorithm whose meta-parameters are `{"params": ..., "log_rates": ...}` (the latter with `rates` only).

    Raises:
      ValueError: if `rates` is malformed, or at `init` if `select` matches no parameter.
    """
    if rates is not None:
        check_one_of("rates.per", rates.per, ("leaf", "element"))
        check_positive("rates.steps", rates.steps)

    def support_loss(fast, rest, support: Batch):
        return objective.loss(model.apply(merge(fast, rest), support["inputs"]), support)

    support_gradient = gradient(support_loss)

    def init(key, episode: Episode):
        params = model.init(key, episode.support["inputs"])
        selected, _ = partition(params, select)
        if rates is None:
            return {"params": params}
        return {"params": params, "log_rates": jax.tree.map(partial(_log_rates, rates), selected)}

    def begin(key, meta_params, support):
        del key, support
        fast, _ = partition(meta_params["params"], select)
        opt_state = strip_weak_types(inner_optimizer.init(fast))
        return FastWeights(fast, opt_state, jnp.zeros((), jnp.int32))

    def step(key, meta_params, state: FastWeights, support):
        del key
        _, rest = partition(meta_params["params"], select)
        (loss, metrics), grads = support_gradient(state.fast, rest, support)
        updates, opt_state = inner_optimizer.update(grads, state.opt_state, state.fast)
        if rates is not None:
            now = jnp.minimum(state.step, rates.steps - 1)
            updates = jax.tree.map(lambda u, log: u * _like(jnp.exp(log[now]), u), updates, meta_params["log_rates"])
        fast = optax.apply_updates(state.fast, updates)
        return FastWeights(fast, opt_state, state.step + 1), {**metrics, "loss": loss}

    def loss(key, meta_params, state: FastWeights, query):
        del key
        return objective.loss(predict(meta_params, state, query["inputs"]), query)

    def predict(meta_params, state: FastWeights, inputs):
        _, rest = partition(meta_params["params"], select)
        return model.apply(merge(state.fast, rest), inputs)

    return MetaAlgorithm(init, begin, step, loss, predict)


def _log_rates(rates: LearnedRates, leaf: jax.Array) -> jax.Array:
    return jnp.zeros((rates.steps, *(leaf.shape if rates.per == "element" else ())), leaf.dtype)


def _like(rate: jax.Array, update: jax.Array) -> jax.Array:
    return jnp.broadcast_to(rate, update.shape).astype(update.dtype)
