"""Tasks of acting: a world that is drawn by number, and seeds for rollouts in it."""

from collections.abc import Callable

import jax
import numpy as np

from jaxmeta.core.checks import check_not_negative, check_one_of, check_positive
from jaxmeta.core.types import ArrayTree, Batch, Episode, Key
from jaxmeta.data.corpus import SPLITS
from jaxmeta.data.streams import stream


class RolloutEpisodes:
    """A `TaskDistribution` of worlds, pure in `(seed, split, index)`.

    An example is a rollout: a batch has `inputs` `{"task": leaves [N, ...], "seed": [N] int32}`, all of one task.

    Args:
      draw: from a key to a task, as `Environment.draw`.
      shots: rollouts to adapt on at each step.
      queries: rollouts to be judged on.
      seed: of the tasks and of the rollouts.
    """

    def __init__(self, draw: Callable[[Key], ArrayTree], shots: int = 20, queries: int = 20, seed: int = 0):
        check_positive("shots", shots)
        check_positive("queries", queries)
        self.shots, self.queries, self.seed = shots, queries, seed
        self._draw = jax.jit(lambda number: draw(jax.random.key(number)))

    def __call__(self, index: int, *, split: str = "train") -> Episode:
        """Returns the `index`-th task of `split`."""
        return self._episode(split, index, self.shots, draw=0)

    def evaluation_episode(self, task: int, *, shots: int, draw: int, split: str) -> Episode:
        """Returns the `task`-th task of `split` with other rollouts for every `draw`."""
        check_positive("shots", shots)
        return self._episode(split, task, shots, draw)

    def _episode(self, split: str, index: int, shots: int, draw: int) -> Episode:
        check_not_negative("index", index)
        check_one_of("split", split, SPLITS)
        number = stream(self.seed, "world", split, index=index).integers(2**31, dtype=np.int32)
        task = jax.device_get(self._draw(number))
        seeds = stream(self.seed, "rollouts", split, draw, index=index).integers(2**31, size=shots + self.queries)
        return Episode(_batch(task, seeds[:shots]), _batch(task, seeds[shots:]))


def _batch(task: ArrayTree, seeds: np.ndarray) -> Batch:
    tasks = jax.tree.map(lambda leaf: np.repeat(leaf[None], len(seeds), axis=0), task)
    return {"inputs": {"task": tasks, "seed": seeds.astype(np.int32)}}
