"""Learned optimizers and tuned ones in configs: the children they train, their estimators, their costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import optax

from jaxmeta import algorithms, estimators, models
from jaxmeta.algorithms import UpdateRule
from jaxmeta.core.checks import InputError
from jaxmeta.core.learner import build_learner
from jaxmeta.core.types import GradientEstimator, MetaAlgorithm, Model
from jaxmeta.data import CHILD_CLASSES
from jaxmeta.run.plan import BASELINE, META, Method, Phase

if TYPE_CHECKING:
    from jaxmeta.config.schema import Config
    from jaxmeta.config.setting import Setting

MLP_RULE, LSTM_RULE = "learned_optimizer", "lstm_optimizer"
_BYTES = 257  # token numbers of bytes
_CEILING = 5.0  # of a child's loss, about twice that of knowing nothing of twelve classes
_DECAY = 0.01  # of AdamW


def rules(config: Config) -> dict[str, UpdateRule]:
    """Returns every learned optimizer that a config can name."""
    # Of the time no more is told than training sees, so that nothing is new beyond it.
    scales = [scale for scale in (1.0, 3.0, 10.0, 30.0, 100.0, 300.0) if 3 * scale <= config.children.horizon]
    return {
        MLP_RULE: algorithms.mlp_rule((config.children.width,) * 2, timescales=tuple(scales) or (1.0,)),
        LSTM_RULE: algorithms.lstm_rule(),
    }


def optimizers(config: Config) -> dict[str, tuple[Callable[..., optax.GradientTransformation], tuple[float, ...]]]:
    """Returns every ordinary optimizer that a config can name, by its rate, and the rates to try."""
    evaluate = config.evaluate
    return {
        "sgd": (lambda rate: optax.sgd(rate, momentum=0.9), evaluate.sgd_learning_rates),
        "adam": (optax.adam, evaluate.learning_rates),
        "adamw": (lambda rate: optax.adamw(rate, weight_decay=_DECAY), evaluate.learning_rates),
    }


def child_model(text: str) -> Model:
    """Returns a child by its name, such as "mlp 16 16", two hidden layers on n-grams, or "transformer 16" on bytes.

    Raises:
      InputError: it means nothing.
    """
    kind, *sizes = text.split()
    widths = tuple(int(size) for size in sizes if size.isdecimal() and int(size))
    if kind not in ("mlp", "transformer") or not widths or len(widths) != len(sizes) or len(set(widths)) > 1:
        raise InputError(
            '`children`: a child is "mlp" or "transformer" and the width of each layer, all alike, such as '
            f'"mlp 16 16"; got {text!r}.'
        )
    if kind == "mlp":
        return _reading("counts", models.mlp(widths, CHILD_CLASSES))
    width = widths[0]
    if width % 4:
        raise InputError(f"`children`: the width of a transformer must be a multiple of 4, got {text!r}.")
    network = models.transformer(
        vocab_size=_BYTES, outputs=CHILD_CLASSES, width=width, layers=len(widths), heads=2, window=3, stride=4,
        embedding_width=width // 2,
    )  # fmt: skip
    return _reading("tokens", network)


def _reading(name: str, network: Model) -> Model:
    """Returns a model of a part of the inputs."""
    return Model(
        lambda key, inputs: network.init(key, inputs[name]), lambda params, inputs: network.apply(params, inputs[name])
    )


def rule_algorithm(setting: Setting, rule: UpdateRule, model: Model) -> MetaAlgorithm:
    """Returns a rule that trains children of one kind."""
    return algorithms.learned_optimizer(
        rule, model, setting.objective, batch_size=setting.config.children.batch_size, ceiling=_CEILING
    )


def rule_estimator(config: Config, algorithm: MetaAlgorithm) -> tuple[GradientEstimator, float]:
    """Returns what trains a rule on one kind of children, and what a child of an outer step costs."""
    children = config.children
    window = {"num_steps": children.window, "horizon": children.horizon, "task_axis": config.gradient.task_axis}
    random = {"scale": children.scale, "pairs": children.pairs}
    steps, sides = children.window, 2 * children.pairs
    if children.estimator == "truncated_backprop":
        found = estimators.truncated_backprop(algorithm, memory=config.gradient.memory, **window)
        sides = 1  # the child's gradient is held constant, so its derivative is never taken
    elif children.estimator == "persistent_evolution":
        found = estimators.persistent_evolution(algorithm, **window, **random)
    else:
        steps = children.horizon
        found = estimators.evolution(algorithm, num_steps=steps, task_axis=config.gradient.task_axis, **random)
    return found, sides * (steps * children.batch_size + config.task.queries)


def child_phases_and_methods(
    setting: Setting, outer_optimizer: Callable[[Config, int], optax.GradientTransformation]
) -> tuple[tuple[Phase, ...], tuple[Method, ...]]:
    """Returns what to train and what to judge. Optimizers without weights are tuned, and nothing else."""
    config, children, evaluate = setting.config, setting.config.children, setting.config.evaluate
    steps, tasks = config.train.steps, config.task.tasks_per_step
    if tasks % len(children.trained):
        raise InputError(
            f"`task.tasks_per_step` must be a multiple of the {len(children.trained)} kinds of `children.trained`, "
            f"got {tasks}."
        )
    if children.horizon % children.window:
        raise InputError(
            f"`children.horizon` must be a multiple of `children.window`, got {children.horizon} and {children.window}."
        )
    phases, methods = [], []
    for name in evaluate.methods:
        if name in rules(config):
            rule = rules(config)[name]
            each = [rule_algorithm(setting, rule, child_model(kind)) for kind in children.trained]
            found = [rule_estimator(config, algorithm) for algorithm in each]
            estimator, cost = estimators.together(*(one for one, _ in found)), found[0][1]
            learner = build_learner(each[0], estimator, outer_optimizer(config, steps))
            phases.append(Phase(name, learner, steps, tasks * (setting.support + setting.query), tasks * cost))
            build, rates = lambda rate, rule=rule: rule_algorithm(setting, rule, setting.model), (1.0,)
            methods.append(Method(name, META, name, build, rates, evaluate.steps, children.batch_size))
        elif name in optimizers(config):
            make, rates = optimizers(config)[name]
            build = lambda rate, make=make: algorithms.on_minibatches(  # noqa: E731
                algorithms.target_only(setting.model, setting.objective, make(rate)), children.batch_size
            )
            methods.append(Method(name, BASELINE, None, build, rates, evaluate.steps, children.batch_size))
    return tuple(phases), tuple(methods)
