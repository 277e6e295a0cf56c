"""How the driver and a worker speak: one line of JSON each way, one answer for each request.

A worker prepares itself, says so, and then computes only when it is told to: whoever is not asked is asleep, so many
workers can be timed in turn without disturbing one another.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

SAID_AT_MOST = 300  # characters of an error in a report


class TooLarge(Exception):
    """A side needs more memory than there is."""

    def __init__(self, needed: int, facts: dict[str, Any]):
        """Takes the bytes that it needs, and what is known all the same."""
        super().__init__(f"needs {needed / 1e9:.1f} GB of temporary memory")
        self.facts = facts


class Prepared(NamedTuple):
    """What a worker has ready.

    Attributes:
      step: computes once, and returns when the result is there.
      facts: what is known before anything is timed.
      more_facts: what is known after.
    """

    step: Callable[[], Any]
    facts: dict[str, Any]
    more_facts: Callable[[], dict[str, Any]] = dict


def serve(prepare: Callable[[], Prepared]) -> None:
    """Answers on standard output, to which nothing else is written, until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes where errors go

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    try:
        prepared = prepare()
    except ModuleNotFoundError as error:
        answer(status="missing", reason=str(error))
        return
    except TooLarge as error:
        answer(status="too large", reason=str(error), **error.facts)
        return
    except Exception as error:  # whatever it is, it is what this side came to
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        answer(status="failed", reason=said[:SAID_AT_MOST])
        return
    answer(status="ready", **prepared.facts)
    for line in sys.stdin:
        seconds = _timed(prepared.step, float(line))
        answer(seconds=seconds, peak_rss_bytes=peak_rss(), **prepared.more_facts())


def _timed(step: Callable[[], Any], turn: float) -> list[float]:
    """Times steps, one at least, for about `turn` seconds, the first of which are not counted if there are more."""
    seconds, end = [_time_once(step)], time.perf_counter() + turn
    if seconds[0] < turn / 4:
        seconds = []  # it woke the machine up
    while not seconds or time.perf_counter() < end:
        seconds.append(_time_once(step))
    return seconds


def _time_once(step: Callable[[], Any]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def peak_rss() -> int | None:
    """Returns the largest resident memory of this process, in bytes, or None where the system does not say."""
    try:
        # Not `getrusage`: its maximum is inherited from the process that started this one.
        with open("/proc/self/status") as file:
            found = [line.split()[1] for line in file if line.startswith("VmHWM:")]
    except OSError:
        return None
    return int(found[0]) * 1024 if found else None


def free_memory() -> float:
    """Returns the bytes of memory that a process could still have; infinity where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            found = [line.split()[1] for line in file if line.startswith("MemAvailable:")]
    except OSError:
        found = []
    return int(found[0]) * 1024 if found else math.inf


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a gradient where the driver reads it."""
    savez: Callable[..., None] = np.savez  # its own options have names too
    savez(path, **arrays)


class Worker:
    """A worker, seen from the driver.

    Attributes:
      facts: what it said when it was ready; "status" is "ready", or "missing", "too large" or "failed" with a "reason".
    """

    def __init__(self, command: list[str], environment: dict[str, str], limit: float):
        """Starts a worker and waits until it is ready.

        Args:
          command: the interpreter, the file and its arguments.
          environment: its environment variables.
          limit: seconds to wait for an answer.
        """
        self._limit = limit
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._late = False
        self.facts: dict[str, Any]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment, text=True
            )
        except FileNotFoundError:
            self._process = None
            self.facts = {"status": "missing", "reason": f"no interpreter at {command[0]}"}
            return
        self.facts = self._answer()

    def time(self, turn: float) -> dict[str, Any]:
        """Asks for steps during `turn` seconds; returns "seconds" and "peak_rss_bytes", or why not."""
        assert self._process
        assert self._process.stdin
        try:
            print(turn, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return self._failure()
        return self._answer()

    def stop(self) -> None:
        """Ends the process."""
        if self._process:
            assert self._process.stdin
            assert self._process.stdout
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process
        assert self._process.stdout
        timer = threading.Timer(self._limit, self._give_up)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        return json.loads(line) if line else self._failure()

    def _give_up(self) -> None:
        assert self._process
        self._late = True
        self._process.kill()

    def _failure(self) -> dict[str, Any]:
        assert self._process
        code = self._process.wait()
        self._errors.seek(0)
        said = [line.strip() for line in self._errors if line.strip()]
        reason = said[-1] if said and code > 0 else f"ended with code {code}"
        if self._late:
            reason = f"no answer within {self._limit:.0f} s"
        elif code == -9:
            reason = "killed, as for want of memory"
        return {"status": "failed", "reason": reason[:SAID_AT_MOST]}
