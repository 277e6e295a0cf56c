"""Measures ways to compute the same thing, and finds the fastest that fits in memory."""

import concurrent.futures
import os
import pathlib
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax

from jaxmeta.core.checks import InputError
from jaxmeta.run.arithmetic import operations

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
# Slower by this in the first round is out: what else the machine does seldom makes up for more.
_FAR_BEHIND = 1.5


class Candidate(NamedTuple):
    """One way to compute something."""

    labels: tuple[Any, ...]
    function: Callable[..., Any]


class Measured(NamedTuple):
    """What a candidate costs."""

    labels: tuple[Any, ...]
    bytes: int  # see `memory_of`
    operations: float  # see `jaxmeta.run.arithmetic`
    seconds: float | None  # median; None where it does not fit and was not run


def measure(candidates: Sequence[Candidate], arguments: tuple, limit: int, *, repeats: int = 5) -> list[Measured]:
    """Compiles every candidate, and times those that need no more than `limit` bytes.

    They are timed in turn, so that whatever else the machine does falls on all of them alike. Those that are far behind
    after the first round are timed no more.

    Args:
      candidates: ways to compute the same thing.
      arguments: what each is called with; arrays.
      limit: bytes.
      repeats: rounds.

    Returns:
      What each costs, in the order of the candidates. One that comes to the same program as an earlier one is left out.
    """
    programs: dict[str, tuple[Candidate, float, jax.stages.Lowered]] = {}
    for candidate in candidates:
        traced = jax.jit(candidate.function).trace(*arguments)
        lowered = traced.lower()
        programs.setdefault(lowered.as_text(), (candidate, operations(traced.jaxpr), lowered))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = list(pool.map(lambda program: program[-1].compile(), programs.values()))
    found = [
        Measured(candidate.labels, memory_of(step), count, None)
        for (candidate, count, _), step in zip(programs.values(), compiled, strict=True)
    ]
    runs = {place: compiled[place] for place, each in enumerate(found) if each.bytes <= limit}
    medians = _timed(runs, jax.device_put(arguments), repeats)
    return [each._replace(seconds=medians.get(place)) for place, each in enumerate(found)]


def in_words(labels: Iterable[Any]) -> str:
    """Returns the labels of a candidate as they are said."""
    return ", ".join(map(str, labels))


def fastest(measured: Sequence[Measured], what: str, limit: int) -> Measured:
    """Returns the fastest of those that fit; of two as fast, the one that needs less.

    Raises:
      InputError: none fits. `what` was to be computed.
    """
    timed = [(each.seconds, each.bytes, place) for place, each in enumerate(measured) if each.seconds is not None]
    if not timed:
        least = min(measured, key=lambda each: each.bytes)
        raise InputError(
            f"{what} does not fit in {size_text(limit)}: the least that it needs is {size_text(least.bytes)} "
            f"({in_words(least.labels)}); give it more memory, or lower `inner.steps` or `task.tasks_per_step`."
        )
    return measured[min(timed)[2]]


def memory_of(compiled: jax.stages.Compiled) -> int:
    """Returns the bytes of temporary arrays and of results, as the compiler reports them.

    What a function is called with is not counted: in training its largest part, the state, becomes the result.
    """
    analysis: Any = compiled.memory_analysis()
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def parse_size(text: str) -> int:
    """Returns the bytes that a text such as "8GiB", "512MB" or "2e9" speaks of.

    Raises:
      InputError: it speaks of none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d{1,2})?)\s*([kmgt]?i?)b?", text.strip(), re.IGNORECASE)
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None or float(found[1]) * unit < 1:
        raise InputError(f"`--memory` must be a size such as 8GiB, 512MB or 2e9 (bytes), got {text!r}.")
    return int(float(found[1]) * unit)


def size_text(size: float) -> str:
    """Returns a number of bytes as people read it."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.{1 if size < 100 * unit else 0}f} {name}"
    return f"{size:.0f} B"


def device_memory() -> int:
    """Returns the bytes that the device has, or those that are free on this machine where the device does not say."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit:
        return limit
    try:
        free = re.search(r"MemAvailable:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text("utf-8"))
    except OSError:
        free = None
    return 1024 * int(free[1]) if free else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _timed(runs: dict[int, Callable[..., Any]], arguments: tuple, repeats: int) -> dict[int, float]:
    for run in runs.values():
        jax.block_until_ready(run(*arguments))
    seconds = {name: [_seconds(run, arguments)] for name, run in runs.items()}
    best = min((first for (first,) in seconds.values()), default=0.0)
    close = [name for name, (first,) in seconds.items() if first <= _FAR_BEHIND * best]
    for _ in range(repeats - 1 if len(close) > 1 else 0):
        for name in close:
            seconds[name].append(_seconds(runs[name], arguments))
    return {name: statistics.median(each) for name, each in seconds.items()}


def _seconds(run: Callable[..., Any], arguments: tuple) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run(*arguments))
    return time.perf_counter() - began
