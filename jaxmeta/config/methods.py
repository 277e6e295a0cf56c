"""The methods a config can name: how each is trained, what it costs, and how it adapts."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jaxmeta import algorithms, estimators
from jaxmeta.algorithms import LearnedRates
from jaxmeta.config.schema import Config
from jaxmeta.core import gradients
from jaxmeta.core.learner import build_learner
from jaxmeta.core.select import everything, matching
from jaxmeta.core.types import Batch, GradientEstimator, MetaAlgorithm, Model, Objective
from jaxmeta.run.plan import BASELINE, META, Method, Phase

JOINT, JOINT_CIPHER, WARM = "joint", "joint_cipher", "warm_start"


class Setting(NamedTuple):
    """What the methods of one run have in common."""

    config: Config
    model: Model
    objective: Objective
    num_outputs: int
    classify: bool
    support: int  # S
    query: int  # Q
    source: Batch | None  # examples of the train languages, for those that replay them


class Recipe(NamedTuple):
    """A meta-learner: its algorithm by inner learning rate, its estimator, and what one task of a step costs.

    Costs are in gradient examples, the gradient of one example's loss: three times a forward pass (F). An inner step
    differentiated to second order costs 9F an example, so 3; through an adapted head alone, F for the step and 3F
    for its derivative, so 4/3; to first order 3F, so 1.
    """

    algorithm: Callable[[Any], MetaAlgorithm]
    estimator: Callable[[MetaAlgorithm], GradientEstimator]
    cost: float
    inner: bool = True  # whether it takes inner steps
    augmented: bool = True  # whether it is trained on pretended languages too


def recipes(setting: Setting) -> dict[str, Recipe]:
    """Returns every meta-learner that a config can name."""
    config, inner = setting.config, setting.config.inner
    steps, support, query = inner.steps, setting.support, setting.query
    model, objective, classes = setting.model, setting.objective, setting.num_outputs

    def maml(cost: float, **options) -> Recipe:
        return Recipe(
            lambda rate: algorithms.maml(model, objective, inner_optimizer(config, rate), **options),
            lambda a: estimators.backprop(a, num_steps=steps, memory=inner.memory),
            cost * steps * support + query,
        )

    def closed_form(build: Callable[[], MetaAlgorithm]) -> Recipe:
        return Recipe(lambda rate: build(), lambda a: estimators.backprop(a, num_steps=0), support + query, inner=False)

    solved = closed_form(lambda: algorithms.ridge(model, objective, num_outputs=classes, classify=setting.classify))
    found = {
        "maml": maml(3, select=everything),
        "maml_rates": maml(3, rates=LearnedRates("leaf", steps)),
        "meta_sgd": maml(3, rates=LearnedRates("element")),
        "anil": maml(4 / 3, select=matching("^head/")),
        "fomaml": maml(1, gradient=gradients.first_order),
        "reptile": Recipe(
            lambda rate: algorithms.reptile(model, objective, inner_optimizer(config, rate), batch_size=support),
            lambda a: estimators.displacement(a, num_steps=steps),
            steps * support,
        ),
        "ridge": solved,
        "ridge_no_cipher": solved._replace(augmented=False),
    }
    if setting.classify:
        found["protonet"] = closed_form(lambda: algorithms.protonet(model, objective, num_classes=classes))
    return found


def inner_optimizer(config: Config, learning_rate: Any) -> optax.GradientTransformation:
    """Returns the optimizer of the inner loop during meta-training."""
    if config.inner.optimizer == "adam":
        # Without `eps_root` the square root in Adam has no derivative at zero.
        return optax.adam(learning_rate, eps_root=1e-8)
    return optax.sgd(learning_rate)


def outer_optimizer(config: Config, steps: int) -> optax.GradientTransformation:
    """Returns the optimizer of a phase: clipped AdamW with warm-up and cosine decay, the same for every method."""
    train = config.train
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, train.learning_rate, min(50, steps // 5), steps, 0.05 * train.learning_rate
    )
    return optax.chain(optax.clip_by_global_norm(train.clip), optax.adamw(schedule, weight_decay=train.weight_decay))


def finetuned(setting: Setting, learning_rate: Any) -> MetaAlgorithm:
    """Ordinary fine-tuning with Adam: what joint training adapts by."""
    return algorithms.maml(setting.model, setting.objective, optax.adam(learning_rate), gradient=gradients.first_order)


def baselines(setting: Setting) -> dict[str, Method]:
    """Returns every baseline that a config can name; all but `target_only` start from joint training."""
    evaluate = setting.config.evaluate
    model, objective = setting.model, setting.objective
    rates, steps = evaluate.learning_rates, evaluate.steps
    # A new head on unit-length features needs larger steps than a trained network.
    head_rates = tuple(10 * rate for rate in rates)

    def with_source(rate):
        assert setting.source is not None
        return algorithms.source_replay(finetuned(setting, rate), setting.source, num_examples=setting.support)

    found = {
        "zero_shot": Method("zero_shot", BASELINE, JOINT, lambda r: finetuned(setting, r), rates[:1], (0,)),
        "joint_finetune": Method(
            "joint_finetune", BASELINE, JOINT, lambda r: finetuned(setting, r), rates, steps, setting.support
        ),
        "target_only": Method(
            "target_only", BASELINE, None,
            lambda r: algorithms.target_only(model, objective, optax.adam(r)), rates, steps, setting.support,
        ),
        "linear_head": Method(
            "linear_head", BASELINE, JOINT,
            lambda r: algorithms.linear_head(model, objective, optax.adam(r), num_outputs=setting.num_outputs),
            # Its steps cost nothing to speak of: the encoder is frozen, and its features are computed once.
            head_rates, steps,
        ),
    }  # fmt: skip
    # Whether pretended languages help joint training too is for the dev languages to say.
    found["joint_cipher_finetune"] = found["joint_finetune"]._replace(name="joint_cipher_finetune", phase=JOINT_CIPHER)
    if setting.source is not None:
        found["source_and_target"] = Method(
            "source_and_target", BASELINE, JOINT, with_source, rates, steps, 2 * setting.support
        )
    if setting.classify:
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

    def add(
        name: str, algorithm: MetaAlgorithm, estimator: GradientEstimator, cost: float, steps: int, augmented=False
    ):
        learner = build_learner(algorithm, estimator, outer_optimizer(config, steps))
        start = WARM if warm_steps and name != WARM else None
        phases.append(Phase(name, learner, steps, tasks * joint_cost, tasks * cost, start, augmented))

    joint = finetuned(setting, config.evaluate.learning_rates[0])
    joint_steps = config.train.steps - warm_steps
    if warm_steps:
        add(WARM, joint, estimators.pooled(joint), joint_cost, warm_steps)
    wanted = {known_baselines[name].phase for name in config.evaluate.methods if name in known_baselines}
    if JOINT in wanted:
        add(JOINT, joint, estimators.pooled(joint), joint_cost, joint_steps)
    if JOINT_CIPHER in wanted:
        add(JOINT_CIPHER, joint, estimators.pooled(joint), joint_cost, joint_steps, augmented=True)
    methods = []
    for name in config.evaluate.methods:
        if name in known_baselines:
            methods.append(known_baselines[name])
        elif name in known_recipes:
            recipe = known_recipes[name]
            algorithm = recipe.algorithm(config.inner.learning_rate)
            steps = max(1, round((budget - warm_steps * joint_cost) / recipe.cost))
            add(name, algorithm, recipe.estimator(algorithm), recipe.cost, steps, recipe.augmented)
            methods.append(
                Method(
                    name, META, name, recipe.algorithm,
                    config.evaluate.sgd_learning_rates if recipe.inner else (config.inner.learning_rate,),
                    config.evaluate.steps if recipe.inner else (0,),
                    setting.support if recipe.inner else 0,
                )
            )  # fmt: skip
    return tuple(phases), tuple(methods)
