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
from jaxmeta.core.rows import check_by_row, compact, reading_rows
from jaxmeta.core.select import Predicate, everything, merge, partition
from jaxmeta.core.trees import leading_size, strip_weak_types
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
    rows: Predicate | None = None,
    microbatches: int = 1,
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
      rows: selects tables, `[V, ...]`, that the model looks up row by row (embeddings). `backprop` then adapts and
        differentiates only the rows that an episode reads, which is exact.
      microbatches: parts that the support is cut into, one after another, for the inner gradient: for supports whose
        intermediates do not fit at once. The objective's loss must be a mean over the real examples.

    Returns:
      An algorithm whose meta-parameters are `{"params": ..., "log_rates": ...}` (the latter with `rates` only).

    Raises:
      ValueError: if `rates` or `microbatches` is malformed; at `init` if `select` matches no parameter; when `backprop`
        runs if `rows` cannot be exact with this model and inner optimizer; when adapting if `microbatches` does not
        divide the support.
    """
    check_positive("microbatches", microbatches)
    if rates is not None:
        check_one_of("rates.per", rates.per, ("leaf", "element"))
        check_positive("rates.steps", rates.steps)

    if rows is not None:
        model = reading_rows(model, rows)

    def support_loss(fast, rest, support: Batch):
        return objective.loss(model.apply(merge(fast, rest), support["inputs"]), support)

    support_gradient = _in_parts(gradient(support_loss), microbatches)

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

    by_row = None if rows is None else partial(_compacted, model, inner_optimizer, select, rows)
    return MetaAlgorithm(init, begin, step, loss, predict, compact=by_row)


def _compacted(model, inner_optimizer, select: Predicate, tables: Predicate, meta_params, episode: Episode):
    params = meta_params["params"]
    check_by_row(inner_optimizer, partition(params, select)[0], tables)
    rows, episode = compact(model, tables, params, episode)
    own = {"params": _rows_of(params, rows, axis=0)}
    if "log_rates" in meta_params:
        own["log_rates"] = _rows_of(meta_params["log_rates"], rows, axis=1)
    return own, episode


def _rows_of(tree: ArrayTree, rows: ArrayTree, axis: int) -> ArrayTree:
    """Returns the rows of the tables in `tree`, None elsewhere (and where `tree` has None)."""

    def rows_of(leaf, of_it):
        # One rate for a whole array has no axis of rows.
        if leaf is None or of_it is None or leaf.ndim <= axis:
            return None
        return jnp.take(leaf, of_it, axis=axis, mode="clip")

    return jax.tree.map(rows_of, tree, rows, is_leaf=lambda leaf: leaf is None)


def _in_parts(support_gradient, parts: int):
    """The same gradient, a part of the support after the other: the mean weighted by the real examples of each."""
    if parts == 1:
        return support_gradient

    def gradient(fast, rest, support: Batch):
        size = leading_size(support)
        if size % parts:
            raise ValueError(f"`microbatches` must divide the support, got {parts} for {size} examples")
        cut = jax.tree.map(lambda leaf: jnp.reshape(leaf, (parts, size // parts, *jnp.shape(leaf)[1:])), dict(support))
        real = jnp.sum(cut["mask"], axis=1) if "mask" in cut else jnp.full(parts, size // parts)

        def add(total, part):
            batch, count = part
            found = support_gradient(fast, rest, batch)
            share = count / jnp.maximum(jnp.sum(real), 1)
            return jax.tree.map(lambda t, leaf: t + share.astype(t.dtype) * leaf, total, found), None

        first = jax.tree.map(lambda leaf: leaf[0], cut)
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(support_gradient, fast, rest, first))
        return jax.lax.scan(add, zeros, (cut, real))[0]

    return gradient


def _log_rates(rates: LearnedRates, leaf: jax.Array) -> jax.Array:
    return jnp.zeros((rates.steps, *(leaf.shape if rates.per == "element" else ())), leaf.dtype)


def _like(rate: jax.Array, update: jax.Array) -> jax.Array:
    return jnp.broadcast_to(rate, update.shape).astype(update.dtype)
