"""Batches of episodes, prepared in the background; `grain` only prefetches, the numbers decide what comes."""

import sys
from collections.abc import Iterator

from jaxmeta.core.batches import stack_episodes
from jaxmeta.core.checks import check_not_negative, check_positive
from jaxmeta.core.types import Episode, TaskDistribution


def batches(
    distribution: TaskDistribution,
    *,
    split: str,
    tasks_per_step: int,
    start: int = 0,
    stop: int | None = None,
    threads: int = 2,
    buffer: int = 8,
) -> Iterator[Episode]:
    """Returns the batches of episodes of the outer steps `start`, `start + 1`, ... below `stop`.

    Step `s` has the episodes `s * T` to `s * T + T - 1`, so that starting at a step is the same as skipping
    to it. Leaves have a leading task axis, `[T, S, ...]` and `[T, Q, ...]`. The threads end with the
    iterator.

    Args:
        distribution: gives episodes by number; several threads call it at once.
        split: which split of it.
        tasks_per_step: `T`.
        start: the first step.
        stop: the step to end before; it never ends by default.
        threads: how many prepare batches ahead; 0 prepares each when asked for.
        buffer: how many batches to hold ready.
    """
    check_positive("tasks_per_step", tasks_per_step)
    check_not_negative("start", start)
    check_not_negative("threads", threads)
    check_positive("buffer", buffer)
    if stop is not None and stop < start:
        raise ValueError(f"`stop` must be at least `start`, got {stop} and {start}")

    def step(number: int) -> Episode:
        first = number * tasks_per_step
        return stack_episodes([distribution(first + task, split=split) for task in range(tasks_per_step)])

    return _prefetched(step, start, sys.maxsize if stop is None else stop, threads, buffer)


def _prefetched(step, start: int, stop: int, threads: int, buffer: int) -> Iterator[Episode]:
    if start == stop:
        return
    import grain

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer if threads else 0)
    iterator = iter(grain.MapDataset.range(start, stop).map(step).to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()
