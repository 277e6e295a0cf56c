"""Measures ways to compute the same thing, and finds the fastest that fits in memory."""

import concurrent.futures
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmeta.core.checks import InputError
from jaxmeta.run.arithmetic import operations

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
# After so many rounds, whose best turn is slower than the best of all by more than this is timed no more.
_BEHIND = {2: 1.5, 4: 1.25, 8: 1.12}
# A turn is long enough for the clock and for what a core does first, and quick programs have more turns.
_TURN_SECONDS, _ALL_SECONDS, _MOST_ROUNDS = 0.02, 3.0, 25


class Candidate(NamedTuple):
    """One way to compute something."""

    labels: tuple[Any, ...]
    function: Callable[..., Any]


class Memory(NamedTuple):
    """The bytes that a compiled program takes beside what it is called with."""

    temporary: int
    results: int

    @property
    def total(self) -> int:
        """All of them. In training the largest part of what is called with, the state, becomes the result."""
        return self.temporary + self.results


class Measured(NamedTuple):
    """What a candidate costs."""

    labels: tuple[Any, ...]
    bytes: int  # see `Memory.total`; 0 where the compiler tells nothing, which fits everywhere
    operations: float  # see `jaxmeta.run.arithmetic`
    seconds: float | None  # lower quartile; None where it does not fit and was not run


class Race:
    """Programs that compute the same thing: compiled once, and timed in turn as often as one likes."""

    def __init__(self, arguments: tuple, limit: int):
        """Takes arrays to call every program with, and the bytes beyond which none is run."""
        self._arguments, self._limit = arguments, limit
        self._runs: list[jax.stages.Compiled] = []
        self._found: list[Measured] = []
        self._texts: set[str] = set()

    def add(self, candidates: Sequence[Candidate]) -> list[Measured]:
        """Compiles candidates, and returns what they need; one that comes to an earlier one's program is left out."""
        programs: dict[str, tuple[Candidate, float, jax.stages.Lowered]] = {}
        for candidate in candidates:
            traced = jax.jit(candidate.function).trace(*self._arguments)
            lowered = traced.lower()
            text = lowered.as_text()
            if text not in self._texts:
                programs.setdefault(text, (candidate, operations(traced.jaxpr), lowered))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            self._runs += pool.map(lambda program: program[-1].compile(), programs.values())
        self._texts |= programs.keys()
        counted = [(candidate.labels, count) for candidate, count, _ in programs.values()]
        memories = [memory_of(run) for run in self._runs[len(self._found) :]]
        found = [
            Measured(labels, memory.total if memory else 0, count, None)
            for (labels, count), memory in zip(counted, memories, strict=True)
        ]
        self._found += found
        return found

    def run(self, repeats: int = 5) -> list[Measured]:
        """Times those that fit, and returns what each costs, in the order in which they were added.

        They take turns, so that whatever else the machine does falls on all of them alike; since that only ever adds to
        a time, the lower quartile of its turns is what a program costs. Those that are far behind after some rounds are
        timed no more.

        Args:
          repeats: rounds at least; quick programs have more.
        """
        runs = {place: self._runs[place] for place, each in enumerate(self._found) if each.bytes <= self._limit}
        seconds = _timed(runs, jax.device_put(self._arguments), repeats)
        return [each._replace(seconds=seconds.get(place)) for place, each in enumerate(self._found)]


def measure(candidates: Sequence[Candidate], arguments: tuple, limit: int, *, repeats: int = 5) -> list[Measured]:
    """Compiles every candidate, and times those that need no more than `limit` bytes: a `Race` of one run."""
    race = Race(arguments, limit)
    race.add(candidates)
    return race.run(repeats)


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


def memory_of(compiled: jax.stages.Compiled) -> Memory | None:
    """Returns the memory of a compiled program as the compiler reports it, None where it tells nothing."""
    analysis: Any = compiled.memory_analysis()
    return None if analysis is None else Memory(analysis.temp_size_in_bytes, analysis.output_size_in_bytes)


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
    turns: dict[int, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        jax.block_until_ready(run(*arguments))
    calls = {name: max(1, round(_TURN_SECONDS / _seconds(run, arguments))) for name, run in runs.items()}
    running, rounds, done = list(runs), repeats, 0
    while running and done < (rounds if len(running) > 1 else 1):
        began = time.perf_counter()
        for name in running:
            turns[name].append(_seconds(runs[name], arguments, calls[name]))
        done += 1
        if done in _BEHIND:
            best = min(min(turns[name]) for name in running)
            running = [name for name in running if min(turns[name]) <= _BEHIND[done] * best]
            rounds = max(repeats, min(_MOST_ROUNDS, round(_ALL_SECONDS / (time.perf_counter() - began))))
    return {name: float(np.quantile(each, 0.25)) for name, each in turns.items()}


def _seconds(run: Callable[..., Any], arguments: tuple, calls: int = 1) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(run(*arguments))
    return (time.perf_counter() - began) / calls
