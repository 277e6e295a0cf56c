"""The methods a config can name: how each is trained, what it costs, and how it adapts."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jaxmeta import algorithms, estimators
from jaxmeta.algorithms import LearnedRates
from jaxmeta.config.augmenting import augmenting
from jaxmeta.config.kinds import CLASSES, Kind
from jaxmeta.config.schema import Config
from jaxmeta.core import gradients
from jaxmeta.core.learner import build_learner
from jaxmeta.core.select import everything, matching
from jaxmeta.core.types import Batch, GradientEstimator, MetaAlgorithm, MetaLearner, Model, Objective
from jaxmeta.run.plan import BASELINE, META, Method, Phase

JOINT, JOINT_CIPHER, WARM = "joint", "joint_cipher", "warm_start"
STRATEGIES: dict[str, gradients.Strategy] = {
    "forward_over_reverse": gradients.forward_over_reverse,
    "linearized": gradients.linearized,
    "reverse": gradients.reverse,
    "first_order": gradients.first_order,
}
_SECOND_ORDER = ("forward_over_reverse", "linearized", "reverse")


class How(NamedTuple):
    """How the gradient of a meta-learner is computed, in the words of `[gradient]`."""

    strategy: str  # a key of STRATEGIES
    memory: str
    task_axis: str
    unroll: int | str  # "auto", or how many steps


class Setting(NamedTuple):
    """What the methods of one run have in common."""

    config: Config
    model: Model
    objective: Objective
    kind: Kind
    num_outputs: int
    support: int  # S
    query: int  # Q
    adapted: int  # examples that held-out tasks adapt to: S, or more strings of as many recordings
    source: Batch | None  # examples of the train languages, for those that replay them
    chosen: Mapping[str, How] = {}  # what was measured to be best, by method; for others the config says it


class Recipe(NamedTuple):
    """A meta-learner: its algorithm by inner learning rate, its estimator, and what one task of a step costs.

    Costs are in gradient examples, the gradient of one example's loss: three times a forward pass (F). An inner step
    differentiated to second order costs 9F an example, so 3; through an adapted head alone, F for the step and 3F
    for its derivative, so 4/3; to first order 3F, so 1. In judgement there is no derivative of a step, which leaves 1,
    and 1/3 through an adapted head alone.
    """

    algorithm: Callable[..., MetaAlgorithm]  # (inner learning rate, **how inner gradients are taken)
    estimator: Callable[[MetaAlgorithm, How], GradientEstimator]
    cost: float
    strategies: tuple[str, ...] = ()  # how its inner steps may be differentiated, the default first; none: they are not
    inner: bool = True  # whether it takes inner steps
    step_cost: float = 1.0  # what one inner step costs in judgement, for each support example
    augmented: bool = True  # whether it is trained on pretended languages too
    whole: bool = True  # whether an inner step reads the whole support, and not S examples of it


def recipes(setting: Setting) -> dict[str, Recipe]:
    """Returns every meta-learner that a config can name."""
    config, steps = setting.config, setting.config.inner.steps
    support, query = setting.support, setting.query
    model, objective, outputs = setting.model, setting.objective, setting.num_outputs
    classify = setting.kind.head == CLASSES
    rows = matching(config.gradient.rows) if config.gradient.rows else None

    def maml(cost: float, strategies: tuple[str, ...] = _SECOND_ORDER, **options) -> Recipe:
        return Recipe(
            lambda rate, **how: algorithms.maml(
                model, objective, inner_optimizer(config, rate), rows=rows, **options, **how
            ),
            lambda a, how: estimators.backprop(
                a, num_steps=steps, memory=how.memory, task_axis=how.task_axis, unroll=how.unroll
            ),
            cost * steps * support + query,
            strategies,
        )

    def solved(**options) -> Recipe:
        return closed_form(
            lambda: algorithms.ridge(model, objective, num_outputs=outputs, classify=classify, **options)
        )

    def closed_form(build: Callable[[], MetaAlgorithm]) -> Recipe:
        return Recipe(
            lambda rate: build(),
            lambda a, how: estimators.backprop(a, num_steps=0, task_axis=how.task_axis),
            support + query,
            inner=False,
        )

    found = {
        "maml": maml(3, select=everything),
        "maml_rates": maml(3, rates=LearnedRates("leaf", steps)),
        "meta_sgd": maml(3, rates=LearnedRates("element")),
        "anil": maml(4 / 3, select=matching(setting.kind.last_layer))._replace(step_cost=1 / 3),
        "fomaml": maml(1, ("first_order",)),
        "reptile": Recipe(
            lambda rate: algorithms.reptile(model, objective, inner_optimizer(config, rate), batch_size=support),
            lambda a, how: estimators.displacement(a, num_steps=steps),
            steps * support,
            whole=False,
        ),
    }
    if setting.kind.head:
        found |= {
            "ridge": solved(),
            "ridge_prior": solved(prior=True),
            "ridge_whitened": solved(whiten=True),
            "ridge_prior_whitened": solved(prior=True, whiten=True),
        }
    if setting.kind.cipher:
        found["ridge_no_cipher"] = found["ridge"]._replace(augmented=False)
    if classify:
        found["protonet"] = closed_form(lambda: algorithms.protonet(model, objective, num_classes=outputs))
    return found


def how_of(setting: Setting, name: str, recipe: Recipe) -> How:
    """Returns how the gradient of a meta-learner is computed: as was chosen for it, or as the config says."""
    if name in setting.chosen:
        return setting.chosen[name]
    wanted = setting.config.gradient
    strategy = wanted.strategy if wanted.strategy in recipe.strategies else next(iter(recipe.strategies), "")
    return How(strategy, wanted.memory, wanted.task_axis, wanted.unroll)


def learner_of(setting: Setting, recipe: Recipe, how: How, steps: int) -> MetaLearner:
    """Returns what meta-trains a recipe for a number of outer steps."""
    config, options = setting.config, {}
    if recipe.strategies:
        options = {"gradient": STRATEGIES[how.strategy], "microbatches": config.gradient.microbatches}
    algorithm = recipe.algorithm(config.inner.learning_rate, **options)
    return build_learner(algorithm, recipe.estimator(algorithm, how), outer_optimizer(config, steps))


def inner_optimizer(config: Config, learning_rate: Any) -> optax.GradientTransformation:
    """Returns the optimizer of the inner loop during meta-training."""
    if config.inner.optimizer == "adam":
        # Without `eps_root` the square root in Adam has no derivative at zero.
        return optax.adam(learning_rate, eps_root=1e-8)
    return optax.sgd(learning_rate)


def outer_optimizer(config: Config, steps: int) -> optax.GradientTransformation:
    """Returns the optimizer of a phase: clipped AdamW with warm-up and cosine decay, the same for every method."""
    train = config.train
    warm_up, peak = min(50, steps // 5), train.learning_rate
    # Not `warmup_cosine_decay_schedule`: it asks whether the peak is zero, and here it may be traced.
    parts = [optax.linear_schedule(0.0, peak, warm_up), optax.cosine_decay_schedule(peak, steps - warm_up, 0.05)]
    schedule = optax.join_schedules(parts, [warm_up])
    return optax.chain(optax.clip_by_global_norm(train.clip), optax.adamw(schedule, weight_decay=train.weight_decay))


def finetuned(setting: Setting, learning_rate: Any) -> MetaAlgorithm:
    """Ordinary fine-tuning with Adam: what joint training adapts by."""
    return algorithms.maml(setting.model, setting.objective, optax.adam(learning_rate), gradient=gradients.first_order)


def baselines(setting: Setting) -> dict[str, Method]:
    """Returns every baseline that a config can name; all but `target_only` start from joint training."""
    evaluate = setting.config.evaluate
    model, objective = setting.model, setting.objective
    rates, steps = evaluate.learning_rates, evaluate.steps

    found = {
        "zero_shot": Method("zero_shot", BASELINE, JOINT, lambda r: finetuned(setting, r), rates[:1], (0,)),
        "joint_finetune": Method(
            "joint_finetune", BASELINE, JOINT, lambda r: finetuned(setting, r), rates, steps, setting.adapted
        ),
        "target_only": Method(
            "target_only", BASELINE, None,
            lambda r: algorithms.target_only(model, objective, optax.adam(r)), rates, steps, setting.adapted,
        ),
    }  # fmt: skip
    if setting.kind.head:
        found["linear_head"] = Method(
            "linear_head", BASELINE, JOINT,
            lambda r: algorithms.linear_head(model, objective, optax.adam(r), num_outputs=setting.num_outputs),
            # Its steps cost nothing to speak of: the encoder is frozen, and its features are computed once. They are of
            # unit length, so its rates are larger than those of a whole network.
            evaluate.head_learning_rates, steps,
        )  # fmt: skip
    source = setting.source
    if source is not None:
        found["source_and_target"] = Method(
            "source_and_target", BASELINE, JOINT,
            lambda r: algorithms.source_replay(finetuned(setting, r), source, num_examples=setting.adapted),
            rates, steps, 2 * setting.adapted,
        )  # fmt: skip
    if setting.kind.cipher:
        # Whether pretended languages help joint training too is for the dev languages to say.
        with_cipher = found["joint_finetune"]._replace(name="joint_cipher_finetune", phase=JOINT_CIPHER)
        found["joint_cipher_finetune"] = with_cipher
    if setting.kind.head == CLASSES:
        found["prototypes"] = Method(
            "prototypes", BASELINE, JOINT,
            lambda r: algorithms.protonet(model, objective, num_classes=setting.num_outputs), rates[:1], (0,),
            # Joint training knows no scale of distances; it changes probabilities, never an answer.
            complete=lambda meta_params: {**meta_params, "log_scale": jnp.full((), math.log(10.0))},
        )  # fmt: skip
    return found


def phases_and_methods(setting: Setting) -> tuple[tuple[Phase, ...], tuple[Method, ...]]:
    """Returns what to train and what to judge; every phase chain costs the same budget of gradient examples."""
    config = setting.config
    tasks, joint_cost = config.task.tasks_per_step, setting.support + setting.query
    budget = config.train.steps * joint_cost
    warm_steps = round(config.train.warm_start * config.train.steps)
    known_baselines, known_recipes = baselines(setting), recipes(setting)
    phases: list[Phase] = []

    def add(name: str, learner: MetaLearner, cost: float, steps: int, augmented=False):
        start = WARM if warm_steps and name != WARM else None
        learner = augmenting(learner, config)
        phases.append(Phase(name, learner, steps, tasks * joint_cost, tasks * cost, start, augmented))

    def joint(steps: int) -> MetaLearner:
        algorithm = finetuned(setting, config.evaluate.learning_rates[0])
        return build_learner(algorithm, estimators.pooled(algorithm), outer_optimizer(config, steps))

    joint_steps = config.train.steps - warm_steps
    if warm_steps:
        add(WARM, joint(warm_steps), joint_cost, warm_steps)
    wanted = {known_baselines[name].phase for name in config.evaluate.methods if name in known_baselines}
    if JOINT in wanted:
        add(JOINT, joint(joint_steps), joint_cost, joint_steps)
    if JOINT_CIPHER in wanted:
        add(JOINT_CIPHER, joint(joint_steps), joint_cost, joint_steps, augmented=True)
    methods = []
    for name in config.evaluate.methods:
        if name in known_baselines:
            methods.append(known_baselines[name])
        elif name in known_recipes:
            recipe = known_recipes[name]
            steps = max(1, round((budget - warm_steps * joint_cost) / recipe.cost))
            learner = learner_of(setting, recipe, how_of(setting, name, recipe), steps)
            add(name, learner, recipe.cost, steps, recipe.augmented)
            methods.append(
                Method(
                    name, META, name, recipe.algorithm,
                    config.evaluate.sgd_learning_rates if recipe.inner else (config.inner.learning_rate,),
                    config.evaluate.steps if recipe.inner else (0,),
                    recipe.step_cost * (setting.adapted if recipe.whole else setting.support) if recipe.inner else 0.0,
                )
            )  # fmt: skip
    return tuple(phases), tuple(methods)
