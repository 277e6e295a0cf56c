"""Runs in which every speaker is held out in turn, by a model that is trained anew."""

from jaxmeta.config.kinds import RECORDED
from jaxmeta.config.read import changed
from jaxmeta.config.schema import Config
from jaxmeta.config.speech_tasks import recordings_of
from jaxmeta.core.checks import InputError


def takes_turns(config: Config) -> bool:
    """Whether every speaker is held out in turn."""
    return config.task.test_languages == "each"


def one_turn(config: Config) -> Config:
    """Returns the config of the first turn, or the config itself where it takes none: all have the same methods."""
    return next(iter(turns_of(config).values())) if takes_turns(config) else config


def turns_of(config: Config) -> dict[str, Config]:
    """Returns the config of each turn by the speaker that is held out; the next ones are its dev speakers.

    Raises:
      InputError: there are no speakers, or too few of them, or some are named that have a turn as well.
    """
    task = config.task
    if task.source not in RECORDED:
        raise InputError('`task.test_languages` "each" is for recordings; name languages, or say how many.')
    if task.source == "synthetic_digits" and not task.speakers:
        raise InputError('`task.speakers` must say how many voices there are where `task.test_languages` is "each".')
    if not isinstance(task.dev_languages, int):
        raise InputError('`task.dev_languages` must be a number where `task.test_languages` is "each".')
    # Said now, and not by the turn of the one that is named, when those before it are over.
    named = {
        "task.train_languages": task.train_languages,
        "task.left_out_languages": task.left_out_languages,
        "evaluate.leave_out": config.evaluate.leave_out,
    }
    for key, sources in named.items():
        if sources:
            raise InputError(
                f'`{key}` names {", ".join(sources)}, and where `task.test_languages` is "each" every speaker is held '
                "out in turn; leave it out."
            )
    if config.evaluate.guard_methods:
        raise InputError(
            '`evaluate.guard_methods` must be empty where `task.test_languages` is "each": a guard is judged over the '
            "speakers of one run."
        )
    names = recordings_of(config).languages()
    if len(names) < task.dev_languages + 2:
        raise InputError(
            f"{len(names)} speakers are too few: in each turn one is for test and {task.dev_languages} for dev, "
            "which leaves none to train on; lower `task.dev_languages`."
        )
    return {
        name: changed(
            config,
            {
                "task.test_languages": (name,),
                "task.dev_languages": tuple((names * 2)[place + 1 : place + 1 + task.dev_languages]),
            },
            f"the turn of {name}",
        )
        for place, name in enumerate(names)
    }
