"""Which source languages are left out of training, one at a time, and the run of each."""

from jaxmeta.config.build import Built
from jaxmeta.config.child_tasks import ChildTasks
from jaxmeta.config.comparing import text_measures
from jaxmeta.config.read import changed
from jaxmeta.config.schema import Config
from jaxmeta.config.tasks import WaveTasks
from jaxmeta.core.checks import InputError
from jaxmeta.run.leave_out import EACH, NEAREST
from jaxmeta.run.similarity import nearest_sources
from jaxmeta.run.units import plural


def sources_to_leave_out(built: Built) -> tuple[str, ...]:
    """Returns the source languages that `evaluate.leave_out` means, each once.

    Raises:
      InputError: it names what is no source, or asks for what the tasks do not have.
    """
    config, tasks = built.setting.config, built.tasks
    wanted = config.evaluate.leave_out
    if not wanted:
        return ()
    if isinstance(tasks, WaveTasks | ChildTasks):
        what = plural(tasks.unit).capitalize()
        raise InputError(f"{what} have no sources that could be left out; leave `evaluate.leave_out` empty.")
    main = next(method for method in built.experiment.methods if method.name == config.evaluate.main)
    if main.phase is None:
        raise InputError(
            f"`evaluate.leave_out` trains the main method without a source, and {main.name} has none; set "
            "`evaluate.main` to one that is trained on other languages."
        )
    found: dict[str, None] = {}
    for name in wanted:
        if name == EACH:
            found |= dict.fromkeys(tasks.languages("train"))
        elif name == NEAREST:
            measures = text_measures(tasks, config)
            if measures is None:
                raise InputError(
                    '`evaluate.leave_out` "nearest" compares texts, and there are none; name sources, or "each".'
                )
            found |= dict.fromkeys(nearest[0][0] for nearest in nearest_sources(measures).values())
        else:
            found[name] = None
    sources = tasks.languages("train")
    if unknown := [name for name in found if name not in sources]:
        raise InputError(
            f"`evaluate.leave_out`: {', '.join(unknown)} is no source language; name some of {', '.join(sources[:12])}."
        )
    if len(sources) < 2:
        raise InputError(f"`evaluate.leave_out`: {sources[0]} is the only source language; leave the list empty.")
    return tuple(found)


def without_source(config: Config, source: str) -> Config:
    """Returns the config of the run that trains and judges the main method alone, without a source language."""
    return changed(
        config,
        {
            "task.left_out_languages": (*config.task.left_out_languages, source),
            "evaluate.methods": (config.evaluate.main,),
            "evaluate.leave_out": (),
            "evaluate.similarity": False,
            "evaluate.curve_methods": (),
            "evaluate.temperature_methods": (),
            "evaluate.guard_methods": (),
        },
        f"the run without {source}",
    )
