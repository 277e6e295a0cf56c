"""The problems that a run is judged on, as a file: written for others, and judged on in place of drawn ones."""

from collections.abc import Iterator, Sequence

from jaxmeta import data
from jaxmeta.config.child_tasks import ChildTasks
from jaxmeta.config.image_tasks import ImageTasks
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.schema import Config
from jaxmeta.config.speech_tasks import SpeechTasks
from jaxmeta.config.tasks import TextTasks, WaveTasks, find_file
from jaxmeta.core.checks import InputError

AnyTasks = TextTasks | WaveTasks | PairTasks | SpeechTasks | ImageTasks | ChildTasks
ROWLESS = WaveTasks | ImageTasks | ChildTasks  # tasks without rows of text or recordings that could be named


def manifest_of(tasks: AnyTasks, config: Config) -> data.Manifest:
    """Returns every problem that a run of a config is judged on, those of the dev languages and of curves included.

    Raises:
      InputError: the tasks are no rows of data.
    """
    judged = _judged(tasks)
    name, parts = judged.corpus.name, []
    for split, shots, draws in _wanted(tasks, config):
        queries = config.evaluate.max_queries
        made = data.make_manifest(judged, shots=[shots], draws=draws, split=split, max_queries=queries)
        parts += made.problems
    return data.Manifest(name, tuple(parts))


def joined(manifests: Sequence[data.Manifest]) -> data.Manifest:
    """Returns the problems of several manifests of the same data, each once."""
    found = {
        (problem.language, problem.shots, problem.draw, problem.split): problem
        for manifest in manifests
        for problem in manifest.problems
    }
    return data.Manifest(manifests[0].data, tuple(found.values()))


def follow_manifest(tasks: AnyTasks, config: Config) -> dict[str, str]:
    """Makes the problems of `evaluate.manifest` those that the tasks are judged on; of none there is nothing to do.

    Returns:
      What the report says of it.

    Raises:
      InputError: the file is unusable, was written for other data, or lacks a problem that the config asks for.
    """
    if not config.evaluate.manifest:
        return {}
    judged, path = _judged(tasks), find_file(config.evaluate.manifest)
    manifest = data.read_manifest(path)
    try:
        fixed = data.with_problems(judged, manifest, str(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    for split, shots, draws in _wanted(tasks, config):
        for language in getattr(judged.split, split):
            for draw in range(draws):
                fixed.evaluation_rows(
                    language, shots=shots, draw=draw, split=split, max_queries=config.evaluate.max_queries
                )
    assert not isinstance(tasks, ROWLESS)
    tasks.judged = fixed  # pyright: ignore[reportAttributeAccessIssue]
    return {"problems": f"{len(manifest.problems)} of {path.name}"}


def _judged(tasks: AnyTasks) -> data.FewShot:
    if isinstance(tasks, ROWLESS):
        raise InputError(f"{tasks.rowless} that a manifest could name; leave `evaluate.manifest` empty.")
    return tasks.judged


def shot_curve(tasks: AnyTasks, config: Config) -> tuple[int, ...]:
    """Returns the shots of the curve that is drawn: those of the config, as far as the data have them."""
    evaluate = config.evaluate
    if not evaluate.curve_methods:
        return ()
    if isinstance(tasks, ROWLESS) and not isinstance(tasks, ImageTasks):
        return evaluate.shot_curve
    return tuple(shots for shots in evaluate.shot_curve if shots <= tasks.judged.most_shots())


def _wanted(tasks: AnyTasks, config: Config) -> Iterator[tuple[str, int, int]]:
    """Yields split, shots and number of draws of the problems that a run is judged on."""
    evaluate, shots = config.evaluate, config.task.shots
    yield "dev", shots, evaluate.dev_draws
    yield "test", shots, evaluate.draws
    for other in dict.fromkeys(shot_curve(tasks, config)):
        if other != shots:
            yield "test", other, 1
