"""A run that is killed again and again ends with the same bits as one that never was."""

import concurrent.futures
import pathlib
import random
import signal
import subprocess
import threading
import time

import pytest
from tiny_run import environment, evaluation, metrics, process, toy_lines, train, write_lines

from jaxmeta.run.checkpoint import Checkpoints, tree_digests
from jaxmeta.run.experiment import Room
from jaxmeta.run.judgements import JUDGING

PHASES = ("warm_start", "joint", "ridge")
COMMAND = train("run", {"train.steps": 100, "train.save-every": 7, "seed": 3})
LINES = 40 + 60 + 60 + 1  # the warm start, what follows it twice, and the result
LIMIT = 240  # seconds that no step of this test may take


def lines(folder: pathlib.Path) -> int:
    """Returns how many lines the metrics have, none while there are none."""
    try:
        return (folder / "run" / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


class Runs:
    """Starts runs in folders that share their compiled programs."""

    def __init__(self, programs: pathlib.Path):
        self.environment = environment(
            JAX_COMPILATION_CACHE_DIR=str(programs), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0"
        )

    def start(self, folder: pathlib.Path, *more: str) -> subprocess.Popen:
        with open(folder / "log.txt", "ab") as log:
            words = process(*COMMAND, *more)
            return subprocess.Popen(words, cwd=folder, env=self.environment, stdout=log, stderr=log)

    def finish(self, folder: pathlib.Path, *more: str) -> None:
        code = self.start(folder, *more).wait(LIMIT)
        assert code == 0, (folder / "log.txt").read_text()

    def kill(self, folder: pathlib.Path, after: int, delay: float, file: str = "config.toml") -> None:
        """Starts a run and kills it `delay` seconds after it has `after` lines of metrics and a file."""
        running = self.start(folder)
        try:
            deadline = time.monotonic() + LIMIT
            while lines(folder) < after or not (folder / "run" / file).exists():
                assert running.poll() is None, (folder / "log.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(delay)
        finally:
            running.kill()
        assert running.wait(LIMIT) == -signal.SIGKILL


def result(folder: pathlib.Path) -> dict:
    """Returns all that a run comes to, but for what is a time."""
    states = {}
    for phase in PHASES:
        with Checkpoints(folder / "run" / "checkpoints" / "seed_3" / phase) as checkpoints:
            states[phase] = tree_digests(checkpoints.read().tree)
    return {"metrics": metrics(folder / "run"), "evaluation": evaluation(folder / "run"), "states": states}


@pytest.mark.slow
def test_a_run_killed_at_six_moments_ends_with_the_same_bits(tmp_path):
    runs = Runs(tmp_path / "programs")
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder in (whole, pieces):
        folder.mkdir()
        write_lines(folder / "toy.tsv", toy_lines())
    runs.finish(whole)
    expected = result(whole)
    assert len(expected["metrics"]) == LINES

    generator = random.Random(20)
    # Before there is anything, in the warm start, twice in what follows it, and in the last phase.
    moments = [
        0,
        generator.randrange(1, 40),
        *sorted(generator.sample(range(41, 100), 2)),
        generator.randrange(115, 140),
    ]
    for after in moments:
        runs.kill(pieces, after, generator.uniform(0, 0.3))
        assert not (pieces / "run" / "evaluation.json").exists()
    # While it is judged: what was judged by then is taken as it is.
    runs.kill(pieces, LINES, 0, f"{JUDGING}/zero_shot.json")
    runs.finish(pieces)
    assert not (pieces / "run" / JUDGING).exists()

    found = result(pieces)
    assert found["metrics"][-1]["final"] is True
    assert found["metrics"][-1]["params_sha256"] == expected["metrics"][-1]["params_sha256"]
    assert found["states"] == expected["states"]
    assert found["metrics"] == expected["metrics"]
    assert found["evaluation"] == expected["evaluation"]
    assert "resumed" in (pieces / "log.txt").read_text()


@pytest.mark.slow
def test_methods_that_are_trained_at_once_come_to_the_same(tmp_path):
    """Whether they are told to stop in between or not; how many there are at once may change."""
    runs = Runs(tmp_path / "programs")
    alone, together, stopped = (tmp_path / name for name in ("alone", "together", "stopped"))
    for folder in (alone, together, stopped):
        folder.mkdir()
        write_lines(folder / "toy.tsv", toy_lines())
    runs.finish(alone)
    runs.finish(together, "--train.at-once", "2")
    running = runs.start(stopped, "--train.at-once", "3")
    deadline = time.monotonic() + LIMIT
    while lines(stopped) < 50:  # the warm start is over, and what follows is trained
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    running.terminate()
    assert running.wait(LIMIT) == 128 + signal.SIGTERM, (stopped / "log.txt").read_text()
    runs.finish(stopped)
    expected = _in_order(result(alone))
    assert _in_order(result(together)) == expected
    assert _in_order(result(stopped)) == expected


def _in_order(found: dict) -> dict:
    """Returns a result with the lines of each phase together."""
    by_phase = sorted(found["metrics"], key=lambda line: ("final" in line, line["phase"], line["step"]))
    return {**found, "metrics": by_phase}


def test_who_does_not_fit_waits_and_who_is_alone_does_not():
    room, entered, leave = Room(10, lambda: False), threading.Event(), threading.Event()

    def take(size):
        with room.taken(size):
            entered.set()
            assert leave.wait(LIMIT)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        with room.taken(50):  # more than there is, and alone
            large = pool.submit(take, 8)
            assert not entered.wait(0.2)
        assert entered.wait(LIMIT)
        with room.taken(2):  # beside the other one
            pass
        entered.clear()
        medium = pool.submit(take, 5)
        assert not entered.wait(0.2)
        leave.set()
        assert entered.wait(LIMIT)
        large.result(LIMIT)
        medium.result(LIMIT)


def test_who_does_not_know_what_it_needs_takes_all():
    room, entered = Room(10, lambda: False), threading.Event()

    def take():
        with room.taken(1):
            entered.set()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with room.taken(None):
            small = pool.submit(take)
            assert not entered.wait(0.2)
        small.result(LIMIT)
    assert entered.is_set()


def test_who_is_to_stop_waits_no_longer():
    room = Room(10, lambda: True)
    with room.taken(8), room.taken(8):
        pass
