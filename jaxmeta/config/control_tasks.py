"""A config's environment as Tasks."""

from collections.abc import Callable, Iterator

from jaxmeta import data
from jaxmeta.config.acting import environment_of
from jaxmeta.config.tasks import WaveTasks
from jaxmeta.core.types import Episode


class ControlTasks(WaveTasks):
    """Tasks of acting, drawn by number (implements `run.plan.Tasks`)."""

    unit = "task"
    rowless = "Tasks have no rows"

    def batches(self, seed: int, first: int, *, augmented: bool) -> Callable[[int], Iterator[Episode]]:
        """Returns what `train_phase` takes as `make_batches`, for a phase whose first step is number `first`."""
        del augmented
        episodes, per_step = self._drawn(seed), self.config.task.tasks_per_step
        return lambda start: data.batches(episodes, split="train", tasks_per_step=per_step, start=first + start)

    def episode(self, language: str, *, shots: int, draw: int, split: str) -> Episode:
        """Returns a task, and seeds for its rollouts."""
        number = int(language.removeprefix(f"{self.unit} "))
        return self._drawn(self.config.seed).evaluation_episode(number, shots=shots, draw=draw, split=split)

    def _drawn(self, seed: int) -> data.RolloutEpisodes:
        task = self.config.task
        return data.RolloutEpisodes(environment_of(task.source).draw, task.shots, task.queries, seed)
