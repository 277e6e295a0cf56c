"""Bringing batches and episodes to one shape on the host: padding that a mask marks, and a task axis."""

from collections.abc import Sequence

import jax
import numpy as np

from jaxmeta.core.types import Batch, Episode


def pad_batch(batch: Batch, size: int) -> dict:
    """Returns `batch` with `size` examples and a mask `[size]` that is False on those that were added.

    Added examples repeat the first one, so that no model meets an empty text or a class that does not exist.
    """
    leaves = jax.tree.leaves(batch)
    count = len(leaves[0])
    if not count:
        raise ValueError("`batch` must have at least one example, got none")
    if size < count:
        raise ValueError(f"`size` must be at least {count}, the examples of the batch, got {size}")
    mask = np.arange(size) < count
    if "mask" in batch:
        mask[:count] &= np.asarray(batch["mask"])
    take = np.where(np.arange(size) < count, np.arange(size), 0)
    return {**jax.tree.map(lambda leaf: np.asarray(leaf)[take], dict(batch)), "mask": mask}


def stack_episodes(episodes: Sequence[Episode]) -> Episode:
    """Returns one batch of tasks, leaves `[T, S, ...]` and `[T, Q, ...]`, padded to the longest."""
    if not episodes:
        raise ValueError("`episodes` must have at least one episode, got none")

    def stack(batches: list[Batch]) -> Batch:
        sizes = {len(jax.tree.leaves(batch)[0]) for batch in batches}
        if len(sizes) > 1 or len({"mask" in batch for batch in batches}) > 1:
            batches = [pad_batch(batch, max(sizes)) for batch in batches]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *map(dict, batches))

    return Episode(stack([e.support for e in episodes]), stack([e.query for e in episodes]))
