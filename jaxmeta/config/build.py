"""From a config to the objects of a run."""

import difflib
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxmeta.config.acting import ENVIRONMENTS
from jaxmeta.config.child_tasks import ChildTasks
from jaxmeta.config.classical import CLASSICAL
from jaxmeta.config.control_tasks import ControlTasks
from jaxmeta.config.generating import MEAN, ZERO_SHOT, reads_descriptors
from jaxmeta.config.image_tasks import ImageTasks
from jaxmeta.config.kinds import CLASSES, RECORDED, UNSCALED, kind_of, settled
from jaxmeta.config.language_texts import nearest_train_languages
from jaxmeta.config.methods import known_methods, phases_and_methods
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.problems import AnyTasks, follow_manifest, shot_curve
from jaxmeta.config.readouts import readout_for
from jaxmeta.config.recipes import recipes
from jaxmeta.config.schema import Config
from jaxmeta.config.setting import Setting, make_setting
from jaxmeta.config.speech_tasks import SpeechTasks
from jaxmeta.config.stream_tasks import StreamTasks, StreamTextTasks, check_stream
from jaxmeta.config.tasks import TextTasks, WaveTasks, check_source
from jaxmeta.config.transferring import NEAREST, UNFREEZING, check_transfer, check_unfreezing
from jaxmeta.core.adapt import check_unroll, memory_policy
from jaxmeta.core.checks import InputError
from jaxmeta.core.task_axis import chunk_size
from jaxmeta.core.types import Episode
from jaxmeta.data import CHILD_CLASSES
from jaxmeta.run.plan import Experiment, Judging, Phase
from jaxmeta.run.similarity import gradient_method
from jaxmeta.run.transfer import ALONE
from jaxmeta.run.versions import versions

_SHOWN = 15  # methods that a sentence names
_CIPHERED = ("joint_cipher_finetune", "ridge_no_cipher")  # other methods once more, where no languages are pretended


class Built(NamedTuple):
    """A run, and the tasks it was made from."""

    experiment: Experiment
    tasks: AnyTasks
    setting: Setting


def build(config: Config) -> Built:
    """Makes every object of a run.

    Raises:
      InputError: a file is malformed, or settings contradict each other.
    """
    config = settled(config)
    check_numbers(config)
    check_source(config)
    check_stream(config)
    check_gradient(config)
    check_transfer(config)
    tasks, setting = tasks_and_setting(config)
    problems = follow_manifest(tasks, config)
    check_methods(config, setting)
    check_guard(config, setting)
    check_rows(config, setting, tasks)
    if UNFREEZING in config.evaluate.methods:
        check_unfreezing(setting, first_episode(config, tasks))
    phases, methods = phases_and_methods(setting)
    if not phases:
        raise InputError("`evaluate.methods` names no method that is trained; add one, such as joint_finetune.")
    if setting.kind.cipher:
        check_cipher(config, phases)
    readout = readout_for(tasks, setting.objective)
    evaluate = config.evaluate
    experiment = Experiment(
        name=config.name,
        seed=config.seed,
        training_seeds=tuple(range(config.seed, config.seed + config.train.seeds)),
        phases=phases,
        methods=methods,
        classical=tuple(CLASSICAL[name](tasks) for name in evaluate.methods if name in setting.kind.classical),
        main=evaluate.main,
        tasks=tasks,
        readout=readout,
        judging=Judging(
            metric=evaluate.metric,
            higher_is_better=setting.kind.metrics[evaluate.metric],
            shots=config.task.shots,
            draws=evaluate.draws,
            dev_draws=evaluate.dev_draws,
            shot_curve=shot_curve(tasks, config),
            curve_methods=evaluate.curve_methods if evaluate.shot_curve else (),
            tasks_at_once=evaluate.tasks_at_once,
            temperature_methods=evaluate.temperature_methods,
            guard_methods=evaluate.guard_methods,
        ),
        log_every=config.train.log_every,
        save_every=config.train.save_every,
        data_facts=tasks.facts() | problems | {"versions": versions("jaxmeta", "jax", "jaxlib", "babel")},
        at_once=config.train.at_once,
    )
    if evaluate.similarity and gradient_method(experiment) is None:
        raise InputError(
            "`evaluate.similarity` compares task gradients, and no method of the run takes inner steps from what was "
            "trained; add one to `evaluate.methods`, such as joint_finetune or maml."
        )
    return Built(experiment, tasks, setting)


def suitable_methods(config: Config) -> tuple[str, ...]:
    """Returns the names of every method that can be trained and judged on the tasks of a config.

    Raises:
      InputError: what `build` raises.
    """
    built = build(config)
    names = known_methods(built.setting)
    if reads_descriptors(config) and MEAN not in names:  # it is known where what generates it is named
        names.insert(names.index(ZERO_SHOT) + 1, MEAN)
    if not config.train.cipher:
        names = [name for name in names if name not in _CIPHERED]
    if UNFREEZING in names:
        try:
            check_unfreezing(built.setting, first_episode(config, built.tasks))
        except InputError:  # the model has no such groups of parameters
            names.remove(UNFREEZING)
    return tuple(names)


def tasks_and_setting(config: Config) -> tuple[AnyTasks, Setting]:
    """Returns the tasks of a config, and what its methods have in common."""
    if config.task.source == "sinusoid":
        return WaveTasks(config), make_setting(config)
    if config.task.source == "children":
        return ChildTasks(config), make_setting(config, classes=CHILD_CLASSES)
    if config.task.source in ENVIRONMENTS:
        return ControlTasks(config), make_setting(config)
    if config.task.source == "omniglot":
        images = ImageTasks(config)
        return images, make_setting(config, classes=config.task.ways, source_classes=images.judged.source_classes)
    if config.task.source in RECORDED:
        speakers = SpeechTasks(config)
        read = 0 if speakers.tokenizer is None else speakers.tokenizer.vocab_size
        classes = len(speakers.recordings.labels)
        return speakers, make_setting(config, classes=classes, vocab_size=read, source=speakers.source())
    if config.task.kind == "classification":
        tasks = (StreamTextTasks if config.task.stream else TextTasks)(config)
        setting = make_setting(
            config, classes=len(tasks.corpus.labels), vocab_size=tasks.tokenizer.vocab_size, source=tasks.source()
        )
        if NEAREST in config.evaluate.methods:
            tasks.near = nearest_train_languages(tasks, config)
            setting = setting._replace(source_languages=tasks.source_languages())
        return tasks, setting
    pairs = (StreamTasks if config.task.stream else PairTasks)(config)
    return pairs, make_setting(config, vocab_size=pairs.tokenizer.vocab_size, source=pairs.source())


def check_numbers(config: Config) -> None:
    """Refuses numbers that no run can be made of.

    Raises:
      InputError: with the key and what is allowed.
    """
    if config.seed + config.train.seeds > 2**31:
        raise InputError(f"`seed` must be below 2**31, got {config.seed}.")
    for key in ("test_languages", "dev_languages"):
        held_out = getattr(config.task, key)
        if held_out == "each":
            raise InputError(f'`task.{key}` "each" makes several runs; name languages here, or say how many.')
        if (held_out if isinstance(held_out, int) else len(held_out)) < 1:
            raise InputError(f"`task.{key}` must set at least one aside, got {held_out!r}.")
    if round(config.train.warm_start * config.train.steps) >= config.train.steps:
        raise InputError(
            f"`train.warm_start` {config.train.warm_start} takes all of {config.train.steps} steps; lower it."
        )
    if config.train.warm_start and kind_of(config).renamed:
        raise InputError(
            "`train.warm_start` must be 0 for images: their classes are others in every task, so joint training has "
            "another last layer than meta-learners."
        )
    if min(config.evaluate.shot_curve, default=1) < 1:
        raise InputError(f"`evaluate.shot_curve` must be positive numbers, got {list(config.evaluate.shot_curve)}.")


def check_gradient(config: Config) -> None:
    """Refuses words under `[gradient]` that mean nothing.

    Raises:
      InputError: with the key and what is allowed.
    """
    wanted = config.gradient
    try:
        memory_policy(wanted.memory)
        check_unroll(wanted.unroll, wanted.memory)
        chunk_size(wanted.task_axis, np.zeros((1, 1)))
    except ValueError as error:
        # The library names its argument, which is called as the key is.
        raise InputError(f"{str(error).replace('`', '`gradient.', 1)}.") from None
    try:
        re.compile(wanted.rows)
    except re.error as error:
        raise InputError(f"`gradient.rows` must be a regular expression, got {wanted.rows!r} ({error}).") from None
    if wanted.strategy == "auto" and (wanted.memory, wanted.task_axis, wanted.unroll) != ("none", "auto", "auto"):
        raise InputError(
            '`gradient.strategy` "auto" chooses `gradient.memory`, `gradient.task_axis` and `gradient.unroll` too; '
            "leave them out, or name a strategy."
        )


def check_cipher(config: Config, phases: Sequence[Phase]) -> None:
    """Refuses pretended languages where text is not read as bytes.

    Raises:
      InputError: with the key and what is allowed.
    """
    if config.train.cipher and config.tokenizer.kind != "bytes" and any(phase.augmented for phase in phases):
        raise InputError('`train.cipher` exchanges bytes; set it to 0, or `tokenizer.kind` to "bytes".')


def check_guard(config: Config, setting: Setting) -> None:
    """Refuses guards of what does not transfer or cannot be compared.

    Raises:
      InputError: with the key and what is allowed.
    """
    evaluate, kind = config.evaluate, setting.kind
    known = [] if kind.head != CLASSES or ALONE not in evaluate.methods else evaluate.methods
    allowed = [name for name in known if name not in kind.classical and name != ALONE]
    if unknown := [name for name in evaluate.guard_methods if name not in allowed]:
        said = f"some of {', '.join(allowed)}" if allowed else f"empty without {ALONE} or classes to compare by"
        raise InputError(f"`evaluate.guard_methods` must be {said}, got {', '.join(unknown)}.")
    if evaluate.guard_methods and config.task.shots < 2:
        raise InputError("`evaluate.guard_methods` needs folds of the shots; set `task.shots` to 2 or more.")


def check_rows(config: Config, setting: Setting, tasks: AnyTasks) -> None:
    """Refuses `gradient.rows` where no table is looked up row by row, or where that would not be exact.

    Raises:
      InputError: with the key and what is wrong.
    """
    pattern = config.gradient.rows
    if not pattern:
        return
    episode = first_episode(config, tasks)
    for name in config.evaluate.methods:
        recipe = recipes(setting).get(name)
        compact = recipe and (algorithm := recipe.algorithm(config.inner.learning_rate)).compact
        if not compact:
            continue
        try:
            meta_params = jax.eval_shape(algorithm.init, jax.random.key(0), episode)
            jax.eval_shape(compact, meta_params, episode)
        except ValueError as error:
            reason = str(error).removeprefix("`rows`").removeprefix(": ").strip()
            raise InputError(f"`gradient.rows` {pattern!r} with {name}: {reason}.") from None


def first_episode(config: Config, tasks: AnyTasks) -> Episode:
    """Returns an episode of training, for its shapes."""
    return jax.tree.map(lambda leaf: leaf[0], next(tasks.batches(config.seed, 0, augmented=False)(0)))


def check_device(config: Config) -> None:
    """Refuses what the device cannot do.

    Raises:
      InputError: with the key and what to do.
    """
    if config.gradient.memory == "offload" and jax.default_backend() == "cpu":
        raise InputError(
            '`gradient.memory` "offload" moves what is kept to the memory of the host, and a CPU has no other; '
            'use "nested".'
        )


def check_methods(config: Config, setting: Setting) -> None:
    """Refuses names and numbers under `[evaluate]` that no method or score answers to.

    Raises:
      InputError: with the key and what is allowed.
    """
    evaluate, kind = config.evaluate, setting.kind
    known = known_methods(setting)
    for name in evaluate.methods:
        if name not in known:
            # Those that look like it come first, and a sentence does not hold them all.
            like = dict.fromkeys((*difflib.get_close_matches(name, known), *known))
            shown, more = list(like)[:_SHOWN], len(known) - _SHOWN
            raise InputError(
                f"`evaluate.methods`: there is no method {name!r} for {kind.title}; known are {', '.join(shown)}"
                f"{f' and {more} more' if more > 0 else ''}."
            )
    if MEAN in evaluate.methods and ZERO_SHOT not in evaluate.methods:
        raise InputError(f"`evaluate.methods`: {MEAN} is generated by {ZERO_SHOT}; name that too.")
    if len(set(evaluate.methods)) < len(evaluate.methods):
        raise InputError(f"`evaluate.methods` must name each method once, got {', '.join(evaluate.methods)}.")
    parts = config.gradient.microbatches
    if parts > 1 and not kind.head:
        raise InputError(
            f"`gradient.microbatches` must be 1 for {kind.title}, got {parts}: only of classes and of numbers is the "
            "loss of a support the mean of those of its parts."
        )
    if setting.support % parts:
        raise InputError(
            f"`gradient.microbatches` must divide the {setting.support} examples of a support, got {parts}."
        )
    trainable = [name for name in evaluate.methods if name not in kind.classical]
    if not trainable:
        raise InputError("`evaluate.methods` names no method that is trained; add one, such as joint_finetune.")
    if evaluate.main not in trainable:
        raise InputError(f"`evaluate.main` must be one of {', '.join(trainable)}, got {evaluate.main!r}.")
    calibrated = [name for name in evaluate.methods if name not in UNSCALED] if kind.head == CLASSES else []
    if unknown := [name for name in evaluate.temperature_methods if name not in calibrated]:
        allowed = f"some of {', '.join(calibrated)}" if calibrated else "empty, for nothing answers with classes"
        raise InputError(f"`evaluate.temperature_methods` must be {allowed}, got {', '.join(unknown)}.")
    if evaluate.metric not in kind.metrics:
        allowed = ", ".join(kind.metrics)
        raise InputError(f"`evaluate.metric` must be one of {allowed} for {kind.title}, got {evaluate.metric!r}.")
    steps = evaluate.steps
    if not steps or sorted(set(steps)) != list(steps) or steps[0] < 0:
        raise InputError(f"`evaluate.steps` must be ascending numbers from 0 up, got {list(steps)}.")
    for key in ("learning_rates", "head_learning_rates", "sgd_learning_rates"):
        rates = getattr(evaluate, key)
        if not rates or not all(0 < rate < math.inf for rate in rates):
            raise InputError(f"`evaluate.{key}` must be positive numbers, at least one, got {list(rates)}.")
