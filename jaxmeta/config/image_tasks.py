"""Tasks of drawn characters: some classes of an alphabet never seen, from a few drawings of each."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxmeta import data
from jaxmeta.config.schema import Config
from jaxmeta.config.tasks import data_path, is_prepared, named_columns, read_prepared
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Episode
from jaxmeta.data import ImageEpisodes, Images
from jaxmeta.data.image_episodes import MIXED
from jaxmeta.models import SMALLEST_IMAGE

_PROBLEM = "problem "


class ImageTasks:
    """Tasks of images, drawn from one alphabet each, or from all of a split (implements `run.plan.Tasks`)."""

    rowless = "Classes of images have no rows of their own"

    def __init__(self, config: Config):
        self.config, task = config, config.task
        self.unit = "problem" if task.mixed else "alphabet"
        if task.ways < 2:
            raise InputError(f"`task.ways` must be at least 2, got {task.ways}.")
        self.images = _images_of(config)
        if min(self.images.image.shape[1:]) < SMALLEST_IMAGE:
            height, width = self.images.image.shape[1:]
            raise InputError(
                f"Images of {self.images.name} are {height} x {width} pixels, and the model halves them four times; "
                f"enlarge them to {SMALLEST_IMAGE} at least."
            )
        assert task.test_languages != "each"  # `build` refuses it
        split = data.split_languages(
            self.images.alphabets(),
            test=task.test_languages,
            dev=task.dev_languages,
            train=task.train_languages,
            seed=config.seed,
        )
        self.split = data.without_sources(split, task.left_out_languages)
        self.judged = self._episodes(config.seed)

    def batches(self, seed: int, first: int, *, augmented: bool) -> Callable[[int], Iterator[Episode]]:
        """Returns what `train_phase` takes as `make_batches`, for a phase whose first step is number `first`."""
        del augmented  # turned characters are classes, not pretended ones
        episodes, per_step = self._episodes(seed), self.config.task.tasks_per_step
        return lambda start: data.batches(episodes, split="train", tasks_per_step=per_step, start=first + start)

    def languages(self, split: str) -> Sequence[str]:
        """Returns the alphabets of `split`, or the problems where alphabets are mixed: what is averaged over."""
        if self.config.task.mixed and split != "train":
            return [f"{_PROBLEM}{number}" for number in range(self.config.task.problems)]
        return self.split.train if split == "train" else self.judged.names(split)

    def episode(self, language: str, *, shots: int, draw: int, split: str) -> Episode:
        """Returns the `draw`-th few-shot problem of an alphabet."""
        if self.config.task.mixed:
            draw = int(language.removeprefix(_PROBLEM)) + draw * self.config.task.problems
            language = MIXED
        return self.judged.evaluation_episode(
            language, shots=shots, draw=draw, split=split, max_queries=self.config.evaluate.max_queries
        )

    def facts(self) -> dict[str, Any]:
        """Returns what the report says of the data."""
        images, split = self.images, self.split
        characters = {role: len(images.characters(names)) for role, names in split._asdict().items()}
        repeats = images.count_repeats(split.test, split.train)
        return {
            "corpus": f"{images.name}: {len(images)} images, {len(images.alphabets())} alphabets",
            "alphabets": {role: len(names) for role, names in split._asdict().items()},
            "characters": characters,
            "classes": f"{self.judged.source_classes} to train on, {self.config.task.ways} in an episode",
            "overlap": f"overlap of meta-training images with judged images: {repeats} the same",
        }

    def _episodes(self, seed: int) -> ImageEpisodes:
        task = self.config.task
        return ImageEpisodes(
            self.images, self.split,
            ways=task.ways, shots=task.shots, queries=task.queries, rotations=task.rotations, mixed=task.mixed,
            seed=seed,
        )  # fmt: skip


def _images_of(config: Config) -> Images:
    if not is_prepared(config):
        return data.read_images(data_path(config))
    found = read_prepared(config, "images", columns=named_columns(config, data.ARRAY_COLUMNS["images"]))
    assert isinstance(found, Images)
    return found
