"""Model-agnostic meta-learning (Finn et al. 2017, arXiv 1703.03400), and what differs from it by an argument.

    FOMAML      gradient=first_order                              (Finn et al. 2017, section 5.2)
    ANIL        select=matching("^head/")                         (Raghu et al. 2020, arXiv 1909.09157)
    BOIL        select=excluding("^head/")                        (Oh et al. 2021, arXiv 2008.08882)
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

from jaxmeta.algorithms.descent import FastWeights, descent
from jaxmeta.core.checks import check_one_of, check_positive
from jaxmeta.core.gradients import Strategy, forward_over_reverse
from jaxmeta.core.rows import check_by_row, compact, reading_rows
from jaxmeta.core.select import Predicate, everything, partition
from jaxmeta.core.types import ArrayTree, Episode, MetaAlgorithm, Model, Objective


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
    if rates is not None:
        check_one_of("rates.per", rates.per, ("leaf", "element"))
        check_positive("rates.steps", rates.steps)
    if rows is not None:
        model = reading_rows(model, rows)

    last = rates.steps - 1 if rates is not None else 0

    def at_its_rate(meta_params, state: FastWeights, updates):
        now = jnp.minimum(state.step, last)
        return jax.tree.map(lambda u, log: u * _like(jnp.exp(log[now]), u), updates, meta_params["log_rates"])

    base = descent(
        model, objective, inner_optimizer, select=select, gradient=gradient, microbatches=microbatches,
        of_update=None if rates is None else at_its_rate,
    )  # fmt: skip

    def init(key, episode: Episode):
        meta_params = base.init(key, episode)
        if rates is None:
            return meta_params
        selected, _ = partition(meta_params["params"], select)
        return {**meta_params, "log_rates": jax.tree.map(partial(_log_rates, rates), selected)}

    by_row = None if rows is None else partial(_compacted, model, inner_optimizer, select, rows)
    return base._replace(init=init, compact=by_row)


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


def _log_rates(rates: LearnedRates, leaf: jax.Array) -> jax.Array:
    return jnp.zeros((rates.steps, *(leaf.shape if rates.per == "element" else ())), leaf.dtype)


def _like(rate: jax.Array, update: jax.Array) -> jax.Array:
    return jnp.broadcast_to(rate, update.shape).astype(update.dtype)
