"""What the methods of one run have in common."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxmeta.config.kinds import Kind, kind_of, make_model
from jaxmeta.config.schema import Config
from jaxmeta.config.speech_tasks import string_count
from jaxmeta.core.types import Batch, Model, Objective


class How(NamedTuple):
    """How the gradient of a meta-learner is computed, in the words of `[gradient]`."""

    strategy: str  # a key of STRATEGIES
    memory: str
    task_axis: str
    unroll: int | str  # "auto", or how many steps

    def along_tasks(self) -> dict[str, Any]:
        """Returns what is not the algorithm's business but the estimator's."""
        return {"memory": self.memory, "task_axis": self.task_axis, "unroll": self.unroll}


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
    pretraining: tuple[Model, Objective] | None = None  # of joint training, where a class is another in every task
    source_languages: np.ndarray | None = None  # [P], of the examples of `source`, where a method asks for them
    exact: bool = False  # whether what is fine-tuned is differentiated, in forward mode
    chosen: Mapping[str, How] = {}  # what was measured to be best, by method; for others the config says it
    vocab_size: int = 0  # token numbers, of what reads or writes text
    source_classes: int = 0  # that there are to train on, where a class is another in every task


def make_setting(
    config: Config, *, classes: int = 1, vocab_size: int = 0, source: Batch | None = None, source_classes: int = 0
) -> Setting:
    """Returns what the methods of a run have in common.

    Args:
      config: the config.
      classes: how many there are, or how many words; one for kinds without.
      vocab_size: token numbers of the tokenizer.
      source: examples of the train languages.
      source_classes: how many classes there are to train on, where a class is another one in every task.
    """
    kind = kind_of(config)
    pretraining = None
    if source_classes:
        pretraining = (
            make_model(config, source_classes),
            naming_sources(kind.objective(config, source_classes, vocab_size)),
        )
    # Of a child it is said how many examples it has in all.
    each = 1 if kind.children else classes
    return Setting(
        config, make_model(config, classes, vocab_size), kind.objective(config, classes, vocab_size), kind,
        num_outputs=classes,
        support=string_count(config, config.task.shots * each),
        query=string_count(config, config.task.queries * each),
        adapted=string_count(config, config.task.shots * each, config.task.repeats), source=source,
        pretraining=pretraining, vocab_size=vocab_size, source_classes=source_classes,
    )  # fmt: skip


def with_numbers(setting: Setting, config: Config) -> Setting:
    """Returns the same for a config that differs in numbers alone, which may be traced."""

    def objective(outputs: int) -> Objective:
        return setting.kind.objective(config, outputs, setting.vocab_size)

    pretraining = setting.pretraining
    if pretraining:
        pretraining = (pretraining[0], naming_sources(objective(setting.source_classes)))
    return setting._replace(config=config, objective=objective(setting.num_outputs), pretraining=pretraining)


def naming_sources(objective: Objective) -> Objective:
    """Returns an objective whose targets are the classes among all that are trained on."""
    return objective._replace(
        loss=lambda outputs, batch: objective.loss(outputs, {**batch, "targets": batch["source_class"]})
    )
