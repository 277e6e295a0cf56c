"""The methods a config can name, and what is trained for them."""

import math
from functools import cache, partial
from typing import Any

import jax.numpy as jnp

from jaxmeta import algorithms, estimators
from jaxmeta.algorithms.ridge_alignment import alignment_start
from jaxmeta.config.acting import on_fresh_rollouts
from jaxmeta.config.augmenting import augmenting
from jaxmeta.config.child_methods import child_phases_and_methods, optimizers, rules
from jaxmeta.config.generating import mean_language
from jaxmeta.config.kinds import CLASSES
from jaxmeta.config.recipes import how_of, learner_of, outer_optimizer, recipes
from jaxmeta.config.setting import Setting
from jaxmeta.config.transferring import NEAREST, adam, fine_gradient, transfer_methods
from jaxmeta.core import gradients
from jaxmeta.core.learner import build_learner
from jaxmeta.core.types import MetaAlgorithm, MetaLearner
from jaxmeta.run.plan import BASELINE, META, Method, Phase

JOINT, JOINT_CIPHER, WARM = "joint", "joint_cipher", "warm_start"
READ_SOURCES = ("source_and_target", NEAREST)  # methods that see examples of the train languages while they adapt


def finetuned(setting: Setting, learning_rate: Any) -> MetaAlgorithm:
    """Ordinary fine-tuning with Adam: what joint training adapts by."""
    model, objective = setting.pretraining or (setting.model, setting.objective)
    tuned = algorithms.maml(model, objective, adam(setting, learning_rate), gradient=fine_gradient(setting))
    return algorithms.policy_gradient(tuned) if setting.kind.acts else tuned


def baselines(setting: Setting) -> dict[str, Method]:
    """Returns every baseline that a config can name; all but `target_only` start from joint training.

    Where a class is another one in every task, joint training tells all classes of the train tasks apart (Chen et al.
    2019, arXiv 1904.04232), and what it has learned is read through its features.
    """
    if setting.kind.children:
        return {}
    evaluate = setting.config.evaluate
    model, objective = setting.model, setting.objective
    rates, steps = evaluate.learning_rates, evaluate.steps

    def few(algorithm: MetaAlgorithm) -> MetaAlgorithm:
        # Many strings are made of few recordings for the variety; reading all of them in each step buys nothing.
        return algorithms.on_minibatches(algorithm, setting.support) if setting.adapted > setting.support else algorithm

    found = {
        "zero_shot": Method("zero_shot", BASELINE, JOINT, lambda r: finetuned(setting, r), rates[:1], (0,)),
        "joint_finetune": Method(
            "joint_finetune", BASELINE, JOINT, lambda r: few(finetuned(setting, r)), rates, steps, setting.support
        ),
        "target_only": Method(
            "target_only", BASELINE, None,
            lambda r: few(
                algorithms.target_only(model, objective, adam(setting, r), gradient=fine_gradient(setting))
            ), rates, steps, setting.support,
        ),
    }  # fmt: skip
    if setting.kind.head:
        found["linear_head"] = Method(
            "linear_head", BASELINE, JOINT,
            lambda r: algorithms.linear_head(model, objective, adam(setting, r), num_outputs=setting.num_outputs),
            # Its steps cost nothing to speak of: the encoder is frozen, and its features are computed once. They are of
            # unit length, so its rates are larger than those of a whole network.
            evaluate.head_learning_rates, steps,
        )  # fmt: skip
    source = setting.source
    if source is not None:
        found["source_and_target"] = Method(
            "source_and_target", BASELINE, JOINT,
            lambda r: few(algorithms.source_replay(finetuned(setting, r), source, num_examples=setting.support)),
            rates, steps, 2 * setting.support,
        )  # fmt: skip
    found |= transfer_methods(setting, JOINT)
    found |= mean_language(setting)
    if setting.kind.pairs:
        found["joint_alignment"] = Method(
            "joint_alignment", BASELINE, JOINT, lambda r: algorithms.ridge_alignment(model, objective), rates[:1], (0,),
            complete=lambda meta_params: {**meta_params, **alignment_start()},
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
    if setting.kind.acts:
        alone = found["target_only"]
        found["target_only"] = alone._replace(build=on_fresh_rollouts(alone.build))
    if setting.kind.renamed:
        found = {name: method for name, method in found.items() if name in ("target_only", "linear_head", "prototypes")}
    return found


def known_methods(setting: Setting) -> list[str]:
    """Returns the names of every method that a config of this kind can name."""
    of_children = [*optimizers(setting.config), *rules(setting.config)] if setting.kind.children else []
    return [*baselines(setting), *recipes(setting), *setting.kind.classical, *of_children]


def phases_and_methods(setting: Setting) -> tuple[tuple[Phase, ...], tuple[Method, ...]]:
    """Returns what to train and what to judge; every phase chain costs the same budget of gradient examples."""
    config = setting.config
    if setting.kind.children:
        return child_phases_and_methods(setting, outer_optimizer)
    tasks, joint_cost = config.task.tasks_per_step, setting.support + setting.query
    budget = config.train.steps * joint_cost
    warm_steps = round(config.train.warm_start * config.train.steps)
    known_baselines, known_recipes = baselines(setting), recipes(setting)
    phases: list[Phase] = []

    def add(name: str, learner: MetaLearner, cost: float, steps: int, augmented=False):
        start = WARM if warm_steps and name != WARM else None
        learner = augmenting(learner, config)
        phases.append(Phase(name, learner, steps, tasks * joint_cost, tasks * cost, start, augmented))

    @cache  # phases of as many steps are one program
    def joint(steps: int) -> MetaLearner:
        algorithm = finetuned(setting, config.evaluate.learning_rates[0])
        optimizer = outer_optimizer(config, steps, exact=setting.exact)
        return build_learner(algorithm, estimators.pooled(algorithm), optimizer)

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
            adapting = {"gradient": gradients.reverse} if setting.exact and recipe.strategies else {}
            methods.append(
                Method(
                    name, META, name, partial(recipe.judged or recipe.algorithm, **adapting),
                    (recipe.rates or config.evaluate.sgd_learning_rates)
                    if recipe.rated else (config.inner.learning_rate,),
                    config.evaluate.steps if recipe.inner else (0,),
                    recipe.step_cost * (setting.adapted if recipe.whole else setting.support) if recipe.inner else 0.0,
                    tells=recipe.tells,
                )
            )  # fmt: skip
    return tuple(phases), tuple(methods)
