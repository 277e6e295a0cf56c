"""The task axis: how many tasks of a batch are worked on side by side."""

import re
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from jaxmeta.core.trees import leading_size, sum_dtype, zeros_of
from jaxmeta.core.types import ArrayTree

TASK_AXES = ("vmap", "chunked(n)", "sequential", "auto")

# Examples (support and query) times numbers in one example beyond which one task fills the caches of a CPU.
_SMALL_TASK = 512


def chunk_size(text: str, batch: ArrayTree) -> int:
    """Parses the name of a task axis: how many tasks of `batch`, leaves `[T, ...]`, are worked on at once.

        vmap         all of them
        chunked(n)   n at a time, gradients accumulated
        sequential   one at a time
        auto         all of them on an accelerator, which they fill; on a CPU, one at a time unless tasks are tiny

    Raises:
      ValueError: it is none of these.
    """
    check_task_axis(text)
    num_tasks = leading_size(batch)
    if text == "auto":
        numbers = sum(leaf.size for leaf in jax.tree.leaves(batch)) // num_tasks
        text = "vmap" if jax.default_backend() != "cpu" or numbers <= _SMALL_TASK else "sequential"
    size = {"vmap": num_tasks, "sequential": 1}.get(text) or _in_chunk(text)
    return min(size, num_tasks)


def check_task_axis(text: str) -> None:
    """Refuses what is no name of a task axis.

    Raises:
      ValueError: it is none.
    """
    if text not in ("vmap", "sequential", "auto") and not _in_chunk(text):
        raise ValueError(f"`task_axis` must be one of {', '.join(TASK_AXES)} (n a positive number), got {text!r}")


def _in_chunk(text: str) -> int:
    """Returns n of "chunked(n)", and 0 of what is not that."""
    found = re.fullmatch(r"chunked\((\d+)\)", text)
    return int(found.group(1)) if found else 0


def mean_in_chunks(
    function: Callable[[ArrayTree], tuple[ArrayTree, ArrayTree]], batch: ArrayTree, size: int
) -> tuple[ArrayTree, ArrayTree]:
    """Applies `function` to `size` tasks at a time.

    Args:
      function: from a batch of tasks to `(means, each)`: means over its tasks, and what each of them gave.
      batch: leaves `[T, ...]`.
      size: tasks at a time; if it does not divide T, the last chunk is smaller.

    Returns:
      The means over all tasks, accumulated in float32 at least, and what each task gave, leaves `[T, ...]`.
    """
    num_tasks = leading_size(batch)
    chunks, left = divmod(num_tasks, size)
    if chunks == 1 and not left:
        return function(batch)
    head = jax.tree.map(lambda leaf: leaf[: chunks * size].reshape(chunks, size, *leaf.shape[1:]), batch)
    # Traced once: for the shape of a sum, and for the loop. To differentiate it is most of the time before it compiles.
    closed, found = jax.make_jaxpr(function, return_shape=True)(jax.tree.map(lambda leaf: leaf[0], head))

    def traced(chunk):
        return jax.tree.unflatten(jax.tree.structure(found), jaxpr_as_fun(closed)(*jax.tree.leaves(chunk)))

    def add(of_chunk, total, chunk):
        means, each = of_chunk(chunk)
        share = leading_size(chunk) / num_tasks
        return jax.tree.map(lambda t, m: t + share * m.astype(t.dtype), total, means), each

    shapes, _ = found
    zeros = jax.tree.map(lambda shape: zeros_of(shape, sum_dtype(shape.dtype)), shapes)
    total, each = jax.lax.scan(partial(add, traced), zeros, head)
    each = jax.tree.map(lambda leaf: leaf.reshape(chunks * size, *leaf.shape[2:]), each)
    if left:
        total, last = add(function, total, jax.tree.map(lambda leaf: leaf[chunks * size :], batch))
        each = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), each, last)
    return jax.tree.map(lambda leaf, shape: leaf.astype(shape.dtype), total, shapes), each
