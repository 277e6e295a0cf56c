"""Regression of sine waves, the smallest few-shot problem (Finn, Abbeel & Levine, 2017)."""

import numpy as np

from jaxmeta.core.checks import check_not_negative, check_one_of, check_positive
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data.corpus import SPLITS
from jaxmeta.data.streams import stream


class Sinusoid:
    """A `TaskDistribution` of waves `amplitude * sin(x - phase)`, pure in `(seed, split, index)`.

    The amplitude is uniform in [0.1, 5], the phase in [0, pi] and `x` in [-5, 5]. A batch has `inputs [N, 1]`
    and `targets [N, 1]`, float32.
    """

    def __init__(self, shots: int = 10, queries: int = 10, seed: int = 0):
        check_positive("shots", shots)
        check_positive("queries", queries)
        self.shots, self.queries, self.seed = shots, queries, seed

    def __call__(self, index: int, *, split: str = "train") -> Episode:
        """Returns the `index`-th wave of `split`, at `shots` points to adapt on and `queries` to judge on."""
        check_not_negative("index", index)
        check_one_of("split", split, SPLITS)
        generator = stream(self.seed, "sinusoid", split, index=index)
        amplitude, phase = self._wave(generator)
        x = generator.uniform(-5.0, 5.0, self.shots + self.queries)
        return Episode(_batch(amplitude, phase, x[: self.shots]), _batch(amplitude, phase, x[self.shots :]))

    def evaluation_episode(self, task: int, *, shots: int, draw: int, points: int = 100) -> Episode:
        """Returns the `task`-th wave of the test split, judged on an even grid of `points`.

        The support depends on the seed, `task` and `draw` alone; with fewer shots it is a prefix of the one
        with more.
        """
        check_not_negative("task", task)
        check_positive("shots", shots)
        amplitude, phase = self._wave(stream(self.seed, "sinusoid", "test", index=task))
        x = stream(self.seed, "sinusoid", "support", task, index=draw).uniform(-5.0, 5.0, shots)
        return Episode(_batch(amplitude, phase, x), _batch(amplitude, phase, np.linspace(-5.0, 5.0, points)))

    def _wave(self, generator: np.random.Generator) -> tuple[float, float]:
        return generator.uniform(0.1, 5.0), generator.uniform(0.0, np.pi)


def _batch(amplitude: float, phase: float, x: np.ndarray) -> Batch:
    y = amplitude * np.sin(x - phase)
    return {"inputs": x[:, None].astype(np.float32), "targets": y[:, None].astype(np.float32)}
