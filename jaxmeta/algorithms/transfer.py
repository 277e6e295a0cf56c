"""Knowledge transfer: a source model adapts to a target's shots by `L + λ R`, where `R` holds it to what it knew.

    l2_sp               its parameters            (Li, Grandvalet and Davoine 2018, arXiv 1802.01483)
    distillation        its tempered answers      (Hinton, Vinyals and Dean 2015, arXiv 1503.02531)
    feature_matching    its features              (FitNets, Romero et al. 2015, arXiv 1412.6550)

and, with or without one of these, gradual unfreezing (ULMFiT, Howard and Ruder 2018, arXiv 1801.06146).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmeta.algorithms.descent import Change, FastWeights, descent
from jaxmeta.algorithms.features import features_of
from jaxmeta.core.checks import check_not_negative, check_positive
from jaxmeta.core.gradients import Strategy, forward_over_reverse
from jaxmeta.core.masks import real_examples
from jaxmeta.core.select import Predicate, everything, partition, path_of
from jaxmeta.core.trees import at_least_float32
from jaxmeta.core.types import IMPOSSIBLE, ArrayTree, Batch, Episode, MetaAlgorithm, MetaParams, Model, Objective

# (model, parameters now, parameters of the source model, support) -> scalar, zero where nothing has changed. A teacher
# of another shape is a function that closes over its own parameters.
Regularizer = Callable[[Model, ArrayTree, ArrayTree, Batch], jax.Array]


class Unfreezing(NamedTuple):
    """Which parameters are still frozen at an inner step.

    Attributes:
      groups: the first group adapts from the first step on, group g from step `g * every` on; parameters of no group
        begin after the last one, and those of several with the first.
      every: inner steps between two groups.
    """

    groups: tuple[Predicate, ...]
    every: int


def knowledge_transfer(
    model: Model,
    objective: Objective,
    inner_optimizer: optax.GradientTransformation,
    regularizer: Regularizer | None = None,
    *,
    strength: Any = 1.0,
    unfreezing: Unfreezing | None = None,
    select: Predicate = everything,
    gradient: Strategy = forward_over_reverse,
    microbatches: int = 1,
) -> MetaAlgorithm:
    """Gradient steps on `(L + λ R) / (1 + λ)` from the parameters of a source model.

    The divisor moves no minimum. It keeps steps of one rate stable whatever λ is, and those of SGD end at the source
    model where λ grows. With λ = 0 this is fine-tuning, bit for bit. `R` and its gradient are zero at the start, so
    training the source model (`pooled`) needs no such term.

    Args:
      model: what maps inputs to outputs, of source and target.
      objective: what the outputs are for.
      inner_optimizer: any optax optimizer; its state starts anew for each task.
      regularizer: R, such as `l2_sp`, `distillation()` or `feature_matching()`; none for fine-tuning.
      strength: λ, not negative; a number or a traced scalar.
      unfreezing: which parameters adapt from which step on; all from the first one by default. The optimizer sees the
        gradients of what is frozen, so that its moments are those of the gradients when it moves.
      select: which parameters adapt at all, by path.
      gradient: the inner-gradient strategy, see `jaxmeta.core.gradients`.
      microbatches: parts that the support is cut into, one after another, for the inner gradient. The objective's
        loss must then be a mean over the real examples.

    Returns:
      An algorithm whose meta-parameters are `{"params": ...}`, the source model, with the task state of `maml`.

    Raises:
      ValueError: if `strength` is negative or `unfreezing.every` not positive; at `init` if `select` or a group matches
        no parameter.
    """
    if isinstance(strength, int | float):
        check_not_negative("strength", strength)
        regularizer = regularizer if strength else None
    if unfreezing is not None:
        check_positive("unfreezing.every", unfreezing.every)

    def held(loss, params, source, support: Batch):
        assert regularizer is not None
        of_loss = jnp.asarray(strength).astype(loss.dtype)
        away = regularizer(model, params, source, support).astype(loss.dtype)
        return (loss + of_loss * away) / (1 + of_loss)

    base = descent(
        model, objective, inner_optimizer, select=select, gradient=gradient, microbatches=microbatches,
        of_loss=held if regularizer else None, of_update=_thawed(unfreezing) if unfreezing else None,
    )  # fmt: skip

    def init(key, episode: Episode):
        meta_params = base.init(key, episode)
        for group in unfreezing.groups if unfreezing else ():
            partition(meta_params["params"], group)  # says so where it matches nothing
        return meta_params

    return base._replace(init=init)


def l2_sp(model: Model, params: ArrayTree, source: ArrayTree, support: Batch) -> jax.Array:
    """The regularizer `1/2 |φ - θ|²`: half the squared distance of the parameters from those of the source model."""
    del model, support
    return 0.5 * optax.tree.norm(jax.tree.map(jnp.subtract, params, source), squared=True)


def distillation(temperature: float = 2.0, on: Batch | None = None) -> Regularizer:
    """The regularizer `T² KL(softmax(f_θ(x) / T) | softmax(f_φ(x) / T))`, a mean over real examples.

    The factor keeps its gradient of one size whatever the temperature is. Outputs are logits `[N, C]`; classes that
    the batch says are absent are left out.

    Args:
      temperature: T; more of it makes the wrong answers matter more.
      on: inputs that the two models are compared on, labels not read: `{"inputs": [N, ...]}`, with a mask and classes
        if need be; the support by default.

    Raises:
      ValueError: if `temperature` is not positive; when it is called if an example has more than one vector of logits,
        of which some would be padding.
    """
    check_positive("temperature", temperature)

    def regularizer(model: Model, params, source, support):
        batch = support if on is None else on
        outputs = [model.apply(p, batch["inputs"]) for p in (params, source)]
        _check_vectors("distillation", outputs[0])
        ours, theirs = (jax.nn.log_softmax(_present(logits, batch) / temperature) for logits in outputs)
        return temperature**2 * _mean(jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1), batch)

    return regularizer


def feature_matching(on: Batch | None = None) -> Regularizer:
    """The regularizer `|h_φ(x) - h_θ(x)|² / D`, a mean over real examples; of outputs where a model has no features.

    FitNets have a learned map between features of two widths; source and target are one model here, and need none.

    Args:
      on: inputs that the two models are compared on, see `distillation`.

    Raises:
      ValueError: when it is called if an example has more than one vector, of which some would be padding.
    """

    def regularizer(model: Model, params, source, support):
        batch = support if on is None else on
        ours, theirs = (features_of(model)(p, batch["inputs"]) for p in (params, source))
        _check_vectors("feature_matching", ours)
        return _mean(jnp.mean(jnp.square(ours - theirs), axis=1), batch)

    return regularizer


def _thawed(unfreezing: Unfreezing) -> Change:
    """Returns what takes the updates of all that is frozen at a step to zero."""

    def first_step(path: str) -> int:
        groups = [number for number, group in enumerate(unfreezing.groups) if group(path)]
        return unfreezing.every * min(groups, default=len(unfreezing.groups))

    def thawed(meta_params: MetaParams, state: FastWeights, updates):
        del meta_params

        def of_leaf(path, update):
            adapts = state.step >= first_step(path_of(path))
            return jnp.where(adapts, update, jnp.zeros((), update.dtype))

        return jax.tree_util.tree_map_with_path(of_leaf, updates)

    return thawed


def _present(logits: jax.Array, batch: Batch) -> jax.Array:
    logits = at_least_float32(logits)
    if "classes" not in batch:
        return logits
    present = jnp.asarray(batch["classes"], bool)
    return jnp.where(present, logits, jnp.asarray(IMPOSSIBLE, logits.dtype))


def _check_vectors(name: str, outputs: jax.Array) -> None:
    if outputs.ndim != 2:
        raise ValueError(f"`{name}` compares one vector for each example, [N, D]; the model's are {outputs.shape}")


def _mean(values: jax.Array, batch: Batch) -> jax.Array:
    """Returns the mean over real examples of values `[N]`."""
    real = real_examples(batch)
    count = jnp.maximum(jnp.sum(real), 1).astype(values.dtype)
    return jnp.sum(jnp.where(real, values, jnp.zeros((), values.dtype))) / count
