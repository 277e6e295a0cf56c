"""The meta-learners a config can name: how each is trained, and what it costs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from jaxmeta import algorithms, estimators
from jaxmeta.algorithms import LearnedRates
from jaxmeta.algorithms.imaml import PARTS
from jaxmeta.config.acting import REMEMBERED, on_fresh_rollouts, remembering_policy
from jaxmeta.config.generating import generated
from jaxmeta.config.kinds import CLASSES
from jaxmeta.config.schema import Config
from jaxmeta.config.setting import How, Setting
from jaxmeta.config.transferring import ROOT
from jaxmeta.core import gradients
from jaxmeta.core.learner import build_learner
from jaxmeta.core.select import everything, excluding, matching
from jaxmeta.core.types import GradientEstimator, MetaAlgorithm, MetaLearner
from jaxmeta.run.plan import Tells

STRATEGIES: dict[str, gradients.Strategy] = {
    "forward_over_reverse": gradients.forward_over_reverse,
    "linearized": gradients.linearized,
    "reverse": gradients.reverse,
    "first_order": gradients.first_order,
}
_SECOND_ORDER = ("forward_over_reverse", "linearized", "reverse")
# What CAVIA's context is added to, and what MAML++ has anew for each step: names of Flax.
_CONTEXT, _NORMS = r"(^|/)(bias|scale|log_weight)$", r"((^|/)(LayerNorm_\d+|norm)|block_\d)/(bias|scale)$"
_SEVERAL, _FIRST_ORDER = 0.1, 1 / 3  # shares of the outer steps of MAML++


class Recipe(NamedTuple):
    """A meta-learner: its algorithm by inner learning rate, its estimator, and what one task of a step costs.

    Costs are in gradient examples, the gradient of one example's loss: three times a forward pass (F). An inner step
    differentiated to second order costs 9F an example, so 3; to first order 3F, so 1. In judgement there is no
    derivative of a step, which leaves 1. Of an adapted head alone all steps together cost F, for the trunk below it is
    run once, and 2F more where it is differentiated; in judgement they count for nothing, as those of a linear head do.
    """

    algorithm: Callable[..., MetaAlgorithm]  # (inner learning rate, **how inner gradients are taken)
    # The number is that of outer steps; 0 asks for what most of them are taken by.
    estimator: Callable[[MetaAlgorithm, How, int], GradientEstimator]
    cost: float
    strategies: tuple[str, ...] = ()  # how its inner steps may be differentiated, the default first; none: they are not
    inner: bool = True  # whether it takes inner steps
    rated: bool = True  # whether its inner steps have a learning rate
    step_cost: float = 1.0  # what one inner step costs in judgement, for each support example
    augmented: bool = True  # whether it is trained on pretended languages too
    whole: bool = True  # whether an inner step reads the whole support, and not S examples of it
    judged: Callable[[Any], MetaAlgorithm] | None = None  # what is judged, where it is not what is trained
    rates: tuple[float, ...] = ()  # inner learning rates to try on the dev languages, where it has its own
    rate: float | None = None  # inner learning rate in meta-training, where it has its own
    tells: Tells | None = None  # what is reported of its task states, see `Method`


def recipes(setting: Setting) -> dict[str, Recipe]:
    """Returns every meta-learner that a config can name; learned optimizers are made in `child_methods`."""
    if setting.kind.children:
        return {}
    config, steps = setting.config, setting.config.inner.steps
    support, query = setting.support, setting.query
    model, objective, outputs = setting.model, setting.objective, setting.num_outputs
    classify = setting.kind.head == CLASSES
    rows = matching(config.gradient.rows) if config.gradient.rows else None
    head = setting.kind.last_layer

    def through_steps(build: Callable[..., MetaAlgorithm], cost: float, strategies=_SECOND_ORDER, **options) -> Recipe:
        return Recipe(
            lambda rate, **how: build(model, objective, inner_optimizer(config, rate), **options, **how),
            lambda a, how, outer: estimators.backprop(a, num_steps=steps, **how.along_tasks()),
            cost * steps * support + query,
            strategies,
        )

    def maml(cost: float, strategies: tuple[str, ...] = _SECOND_ORDER, **options) -> Recipe:
        return through_steps(algorithms.maml, cost, strategies, rows=rows, **options)

    def cavia(cost: float, strategies: tuple[str, ...] = _SECOND_ORDER) -> Recipe:
        inner = config.inner
        recipe = through_steps(algorithms.cavia, cost, strategies, size=inner.context, select=matching(_CONTEXT))
        # As many rates are tried as for the others, as far from the one of training. Of a step's 3F, 2F are left: it
        # needs no gradient of the weights.
        wider = inner.context_learning_rate / inner.learning_rate
        rates = tuple(wider * rate for rate in config.evaluate.sgd_learning_rates)
        return recipe._replace(step_cost=2 / 3, rate=inner.context_learning_rate, rates=rates)

    def solved(**options) -> Recipe:
        return closed_form(
            lambda: algorithms.ridge(model, objective, num_outputs=outputs, classify=classify, **options)
        )

    def metric(build: Callable[..., MetaAlgorithm]) -> Recipe:
        return closed_form(lambda: build(model, objective, num_classes=outputs))

    def closed_form(build: Callable[[], MetaAlgorithm]) -> Recipe:
        return Recipe(
            lambda rate: build(),
            lambda a, how, outer: estimators.backprop(a, num_steps=0, task_axis=how.task_axis),
            support + query,
            inner=False,
            rated=False,
        )

    found = {
        "maml": maml(3, select=everything),
        "maml_rates": maml(3, rates=LearnedRates("leaf", steps)),
        "meta_sgd": maml(3, rates=LearnedRates("element")),
        "anil": maml(0, select=matching(head))._replace(cost=support + query, step_cost=0.0),
        "boil": maml(3, select=excluding(head)),
        "meta_curvature": through_steps(algorithms.meta_curvature, 3),
        "cavia": cavia(8 / 3),
        "maml_plus_plus": maml_plus_plus(setting),
        "imaml": imaml(setting),
        "fomaml": maml(1, ("first_order",)),
        "fo_anil": maml(0, ("first_order",), select=matching(head))._replace(cost=support / 3 + query, step_cost=0.0),
        "fo_boil": maml(1, ("first_order",), select=excluding(head)),
        "fo_cavia": cavia(2 / 3, ("first_order",)),
        "fo_meta_sgd": maml(1, ("first_order",), rates=LearnedRates("element")),
        "fo_meta_curvature": through_steps(algorithms.meta_curvature, 1, ("first_order",)),
        "reptile": Recipe(
            lambda rate: algorithms.reptile(model, objective, inner_optimizer(config, rate), batch_size=support),
            lambda a, how, outer: estimators.displacement(a, num_steps=steps),
            steps * support,
            whole=False,
        ),
    }
    found |= {name: Recipe(**parts) for name, parts in generated(setting).items()}
    if setting.kind.head:
        found |= {
            "ridge": solved(),
            "ridge_prior": solved(prior=True),
            "ridge_whitened": solved(whiten=True),
            "ridge_prior_whitened": solved(prior=True, whiten=True),
        }
    if setting.kind.cipher:
        found["ridge_no_cipher"] = found["ridge"]._replace(augmented=False)
    if setting.kind.pairs:
        found["ridge_alignment"] = closed_form(lambda: algorithms.ridge_alignment(model, objective))
    if setting.kind.continues:
        found["ngram_memory"] = closed_form(lambda: algorithms.ngram_memory(model, objective))
    if classify:
        proto_maml = through_steps(algorithms.proto_maml, 3, num_classes=outputs)
        found |= {
            "protonet": metric(algorithms.protonet),
            "transductive_protonet": metric(algorithms.transductive_protonet),
            "matching_network": metric(algorithms.matching_network),
            "relation_network": metric(algorithms.relation_network),
            "logistic": metric(algorithms.logistic),
            "proto_maml": proto_maml._replace(cost=proto_maml.cost + support),  # the prototypes' gradient too
        }
    if setting.kind.acts:
        # What policies go down to is known by samples only, and a perceptron has nothing that normalises.
        del found["imaml"], found["maml_plus_plus"]
        found = {name: r._replace(algorithm=on_fresh_rollouts(r.algorithm)) for name, r in found.items()}
        played, remembered = min(REMEMBERED, support), config.evaluate.steps[-1]
        found["rl2"] = Recipe(
            lambda rate: remembering_policy(config),
            # It is trained on trials as long as those that it is judged on.
            lambda a, how, outer: estimators.backprop(a, num_steps=remembered, task_axis="vmap"),
            remembered * played + query,
            rated=False,
            step_cost=0.0,
        )
        inner, first_order = config.inner, found["fomaml"]
        found["es_maml"] = first_order._replace(
            estimator=lambda a, how, outer: estimators.evolution(
                a,
                num_steps=steps,
                scale=inner.perturbation,
                pairs=inner.pairs,
                task_axis=how.task_axis,
                unroll=how.unroll,
            ),
            # Both sides of a pair take the steps, and play a query of which nothing is differentiated.
            cost=2 * inner.pairs * (steps * support + query / 3),
        )
    return found


def maml_plus_plus(setting: Setting) -> Recipe:
    """Returns MAML++: rates, scales and shifts for each step, and the two annealings of its paper.

    Of the outer steps, a tenth has a multi-step loss, and a third, those first ones among it, is to first order.
    """
    config, steps, support, query = setting.config, setting.config.inner.steps, setting.support, setting.query
    # The other models have nothing that normalises, nor has what scores answers.
    normed = config.model.kind in ("transformer", "conv4") and config.task.kind != "question_answering"
    rows = matching(config.gradient.rows) if config.gradient.rows else None

    def algorithm(rate, **how) -> MetaAlgorithm:
        base = algorithms.maml(
            setting.model, setting.objective, inner_optimizer(config, rate), rows=rows,
            select=excluding(_NORMS) if normed else everything, rates=LearnedRates("leaf", steps), **how,
        )  # fmt: skip
        return algorithms.per_step(base, select=matching(_NORMS), steps=steps + 1) if normed else base

    def estimator(second: MetaAlgorithm, how: How, outer: int) -> GradientEstimator:
        first = algorithm(
            config.inner.learning_rate, gradient=gradients.first_order, microbatches=config.gradient.microbatches
        )
        options = {"num_steps": steps, **how.along_tasks()}
        if not outer:
            return estimators.backprop(second, **options)
        several, before = max(1, round(_SEVERAL * outer)), max(1, round((_FIRST_ORDER - _SEVERAL) * outer))
        return estimators.in_turn(
            (estimators.multistep(first, anneal_over=several, **options), several),
            (estimators.backprop(first, **options), before),
            then=estimators.backprop(second, **options),
        )

    inner = (3 - 2 * _FIRST_ORDER) * steps * support
    return Recipe(algorithm, estimator, inner + (1 + _SEVERAL * (steps - 1)) * query, _SECOND_ORDER)


def imaml(setting: Setting) -> Recipe:
    """Returns implicit MAML: K steps to first order, a gradient, and the products of the solver.

    A product with the second derivative costs two gradients; with the Gauss-Newton matrix one, and a step that is made
    of such products tries a few ends, a third of a gradient each.
    """
    config, inner = setting.config, setting.config.inner
    newton = inner.solver == "gauss_newton"
    steps = inner.newton_steps if newton else inner.steps
    if inner.solver == "neumann":
        solve = estimators.neumann(inner.learning_rate, inner.solver_steps)
    else:
        solve = estimators.conjugate_gradient(inner.solver_steps)

    def algorithm(rate, **how) -> MetaAlgorithm:
        optimizer = solve if newton else inner_optimizer(config, rate)
        return algorithms.imaml(setting.model, setting.objective, optimizer, strength=inner.proximal, **how)

    def estimator(algorithm: MetaAlgorithm, how: How, outer: int) -> GradientEstimator:
        del outer
        axes = {"task_axis": how.task_axis, "unroll": how.unroll}
        curvature = "gauss_newton" if newton else "exact"
        return estimators.implicit(algorithm, num_steps=steps, solve=solve, curvature=curvature, **axes)

    product = 1 if newton else 2
    step = 1 + inner.solver_steps + len(PARTS) / 3 if newton else 1.0
    cost = (steps * step + 1 + product * inner.solver_steps) * setting.support + setting.query
    return Recipe(algorithm, estimator, cost, rated=not newton, step_cost=step)


def how_of(setting: Setting, name: str, recipe: Recipe) -> How:
    """Returns how the gradient of a meta-learner is computed: as was chosen for it, or as the config says."""
    if name in setting.chosen:
        return setting.chosen[name]
    wanted = setting.config.gradient
    strategy = wanted.strategy if wanted.strategy in recipe.strategies else next(iter(recipe.strategies), "")
    return How(strategy, wanted.memory, wanted.task_axis, wanted.unroll)


def learner_of(setting: Setting, recipe: Recipe, how: How, steps: int, *, typical: bool = False) -> MetaLearner:
    """Returns what meta-trains a recipe for a number of outer steps, or takes a typical one of them again and again."""
    config, options = setting.config, {}
    if recipe.strategies:
        options = {"gradient": STRATEGIES[how.strategy], "microbatches": config.gradient.microbatches}
    algorithm = recipe.algorithm(rate_of_training(config, recipe), **options)
    return build_learner(
        algorithm,
        recipe.estimator(algorithm, how, 0 if typical else steps),
        outer_optimizer(config, steps, exact=setting.exact),
    )


def rate_of_training(config: Config, recipe: Recipe) -> Any:
    """Returns the inner learning rate that a recipe is meta-trained with."""
    return config.inner.learning_rate if recipe.rate is None else recipe.rate


def inner_optimizer(config: Config, learning_rate: Any) -> optax.GradientTransformation:
    """Returns the optimizer of the inner loop during meta-training."""
    if config.inner.optimizer == "adam":
        # Without `eps_root` the square root in Adam has no derivative at zero.
        return optax.adam(learning_rate, eps_root=1e-8)
    return optax.sgd(learning_rate)


def outer_optimizer(config: Config, steps: int, *, exact: bool = False) -> optax.GradientTransformation:
    """Returns the optimizer of a phase: clipped AdamW with warm-up and cosine decay, the same for every method."""
    train = config.train
    warm_up, peak = min(50, steps // 5), train.learning_rate
    # Not `warmup_cosine_decay_schedule`: it asks whether the peak is zero, and here it may be traced.
    parts = [optax.linear_schedule(0.0, peak, warm_up), optax.cosine_decay_schedule(peak, steps - warm_up, 0.05)]
    schedule = optax.join_schedules(parts, [warm_up])
    adam_w = optax.adamw(schedule, weight_decay=train.weight_decay, eps_root=ROOT if exact else 0.0)
    return optax.chain(optax.clip_by_global_norm(train.clip), adam_w)
