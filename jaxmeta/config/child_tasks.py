"""A config's children as Tasks: small models that learn to read dates and names, for a learned optimizer."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxmeta import data
from jaxmeta.config.schema import Config
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Episode
from jaxmeta.data import ChildEpisodes


class ChildTasks:
    """Tasks of child models, each of a few languages (implements `run.plan.Tasks`)."""

    unit = "child"

    rowless = "Children draw their rows"

    def __init__(self, config: Config):
        self.config, task = config, config.task
        for key in ("test_languages", "dev_languages"):
            if not isinstance(getattr(task, key), int):
                raise InputError(f"`task.{key}`: children share their languages out; give a number of them.")
        for key in ("train_languages", "left_out_languages"):
            if getattr(task, key):
                raise InputError(f"`task.{key}`: children are trained on all languages left; leave it out.")
        self.judged = self._episodes(config.seed)

    def batches(self, seed: int, first: int, *, augmented: bool) -> Callable[[int], Iterator[Episode]]:
        """Returns what `train_phase` takes as `make_batches`, for a phase whose first step is number `first`."""
        del augmented
        # Training seeds draw other children; the languages and the judged children stay.
        episodes, per_step = self.judged.drawn_by(seed), self.config.task.tasks_per_step
        return lambda start: data.batches(episodes, split="train", tasks_per_step=per_step, start=first + start)

    def languages(self, split: str) -> Sequence[str]:
        """Returns the names of the children of `split`, "TASK:LANGUAGE+LANGUAGE"."""
        return self.judged.names[split]

    def episode(self, language: str, *, shots: int, draw: int, split: str) -> Episode:
        """Returns a child's problem; its examples are as many as the config says."""
        del shots
        return self.judged.evaluation_episode(language, draw=draw, split=split)

    def facts(self) -> dict[str, Any]:
        """Returns what the report says of the data."""
        split = self.judged.split
        return {
            "corpus": "names and dates of the Unicode CLDR",
            "languages": {role: len(codes) for role, codes in split._asdict().items()},
            "children": {role: len(names) for role, names in self.judged.names.items() if role != "train"},
        }

    def _episodes(self, seed: int) -> ChildEpisodes:
        config = self.config
        test, dev = config.task.test_languages, config.task.dev_languages
        assert isinstance(test, int)
        assert isinstance(dev, int)
        return ChildEpisodes(
            examples=config.task.shots, queries=config.task.queries, buckets=config.model.buckets,
            length=config.tokenizer.length, each=config.children.languages, test=test, dev=dev, seed=seed,
        )  # fmt: skip
