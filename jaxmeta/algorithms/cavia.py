"""Context adaptation (CAVIA, Zintgraf et al. 2019, arXiv 1810.03642): a task is a short vector."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmeta.algorithms.descent import in_parts
from jaxmeta.core.checks import check_not_negative, check_positive
from jaxmeta.core.curvature import gauss_newton
from jaxmeta.core.gradients import Strategy, forward_over_reverse
from jaxmeta.core.select import Predicate, matching, merge, partition
from jaxmeta.core.trees import strip_weak_types, zeros_of
from jaxmeta.core.types import Batch, Episode, MetaAlgorithm, Model, Objective, Stationary

BIASES = matching(r"(^|/)bias$")


class Context(NamedTuple):
    """What adaptation changes."""

    context: jax.Array  # [C]
    opt_state: optax.OptState


def cavia(
    model: Model,
    objective: Objective,
    inner_optimizer: optax.GradientTransformation,
    *,
    size: int = 5,
    select: Predicate = BIASES,
    decay: float = 0.0,
    gradient: Strategy = forward_over_reverse,
    microbatches: int = 1,
) -> MetaAlgorithm:
    """Gradient steps on a context vector alone, which starts from zero in every task.

    The context reaches the model through some of its parameters, to each of which it adds a learned linear map of
    itself. So any model of any library has a context, at no change to it. On the bias of the first layer this is the
    context concatenated to the inputs, exactly; on the scales and biases behind a normalisation it is FiLM, exactly:
    the two ways of the paper.

    Args:
      model: what maps inputs to outputs.
      objective: what the outputs are for.
      inner_optimizer: any optax optimizer; its state starts anew for each task.
      size: C, the numbers in a context.
      select: which parameters the context is added to, by path.
      decay: of the context, as `decay/2 |c|²` in what the steps go down. With it there is a minimum, which the
        `implicit` estimator may differentiate.
      gradient: the inner-gradient strategy, see `jaxmeta.core.gradients`.
      microbatches: parts that the support is cut into, one after another, for the inner gradient. The objective's
        loss must then be a mean over the real examples.

    Returns:
      An algorithm whose meta-parameters are `{"params": ..., "maps": ...}`, maps `[C, ...]` for each parameter that is
      selected, drawn from a normal distribution of variance `1/C`.

    Raises:
      ValueError: if `size` or `microbatches` is not positive, or `decay` negative; at `init` if `select` matches no
        parameter.
    """
    check_positive("size", size)
    check_not_negative("decay", decay)

    def outputs(context, meta_params, inputs):
        selected, rest = partition(meta_params["params"], select)
        moved = jax.tree.map(lambda leaf, m: leaf + jnp.tensordot(context, m, axes=1), selected, meta_params["maps"])
        return model.apply(merge(moved, rest), inputs)

    def support_loss(context, meta_params, support: Batch):
        return objective.loss(outputs(context, meta_params, support["inputs"]), support)

    support_gradient = in_parts(gradient(support_loss), microbatches)

    def init(key, episode: Episode):
        params_key, maps_key = jax.random.split(key)
        params = model.init(params_key, episode.support["inputs"])
        selected, _ = partition(params, select)
        leaves, treedef = jax.tree.flatten(selected)
        keys = jax.random.split(maps_key, len(leaves))
        maps = [
            jax.random.normal(key, (size, *leaf.shape), leaf.dtype) / size**0.5
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        return {"params": params, "maps": jax.tree.unflatten(treedef, maps)}

    def begin(key, meta_params, support):
        del key, support
        first = jax.tree.leaves(meta_params["maps"])[0].reshape(size, -1)[:, 0]
        context = zeros_of(jax.typeof(first), first.dtype)
        return Context(context, strip_weak_types(inner_optimizer.init(context)))

    def step(key, meta_params, state: Context, support):
        del key
        (loss, metrics), grad = support_gradient(state.context, meta_params, support)
        update, opt_state = inner_optimizer.update(grad + decay * state.context, state.opt_state, state.context)
        return Context(jnp.asarray(optax.apply_updates(state.context, update)), opt_state), {**metrics, "loss": loss}

    def loss(key, meta_params, state: Context, query):
        del key
        return objective.loss(predict(meta_params, state, query["inputs"]), query)

    def predict(meta_params, state: Context, inputs):
        return outputs(state.context, meta_params, inputs)

    def inner_objective(meta_params, context, support):
        return support_loss(context, meta_params, support)[0] + 0.5 * decay * jnp.sum(jnp.square(context))

    def quadratic(meta_params, context, support):
        _, slope, product = gauss_newton(
            lambda context: outputs(context, meta_params, support["inputs"]),
            lambda found: objective.loss(found, support),
            context,
        )
        return slope + decay * context, lambda vector: product(vector) + decay * vector

    stationary = Stationary("context", inner_objective, quadratic) if decay else None
    return MetaAlgorithm(init, begin, step, loss, predict, stationary=stationary)
