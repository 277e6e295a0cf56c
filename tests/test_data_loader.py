"""The loader: the same stream from wherever it starts, however many threads, and none of them left behind."""

import gc
import threading
import time

import jax
import numpy as np
import pytest

from jaxmeta.core.types import Episode
from jaxmeta.data.loader import batches
from jaxmeta.data.sinusoid import Sinusoid


def _leaves_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_steps_are_made_of_the_episodes_with_their_numbers():
    waves = Sinusoid(shots=2, queries=3)
    steps = list(batches(waves, split="train", tasks_per_step=4, stop=5))
    assert len(steps) == 5
    for number, step in enumerate(steps):
        assert step.support["inputs"].shape == (4, 2, 1)
        for task in range(4):
            single = waves(4 * number + task, split="train")
            _leaves_equal(jax.tree.map(lambda leaf, task=task: leaf[task], step), single)


@pytest.mark.parametrize(("threads", "buffer"), [(0, 1), (1, 1), (4, 3)])
def test_starting_is_skipping_whatever_the_threads(threads, buffer):
    waves = Sinusoid()
    whole = list(batches(waves, split="train", tasks_per_step=3, stop=9))
    rest = list(batches(waves, split="train", tasks_per_step=3, start=4, stop=9, threads=threads, buffer=buffer))
    assert len(rest) == 5
    _leaves_equal(rest, whole[4:])
    assert list(batches(waves, split="train", tasks_per_step=3, start=4, stop=4, threads=threads)) == []


def test_order_holds_when_steps_take_different_times():
    def slow_first(index, *, split):
        time.sleep(0.02 * (index % 3 == 0))
        return Episode({"inputs": np.array([index])}, {"inputs": np.array([index])})

    numbers = [
        int(step.query["inputs"][0, 0])
        for step in batches(slow_first, split="train", tasks_per_step=1, stop=12, threads=4, buffer=4)
    ]
    assert numbers == list(range(12))


def test_threads_end_when_the_iterator_is_dropped():
    before = set(threading.enumerate())
    endless = batches(Sinusoid(), split="train", tasks_per_step=2, start=1000)
    for _ in range(3):
        next(endless)
    assert set(threading.enumerate()) - before
    del endless
    gc.collect()
    deadline = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left


@pytest.mark.parametrize("threads", [0, 2])
def test_errors_of_the_distribution_arrive(threads):
    def broken(index, *, split):
        if index == 2:
            raise KeyError("episode 2")
        return Sinusoid()(index, split=split)

    steps = batches(broken, split="train", tasks_per_step=1, threads=threads)
    with pytest.raises(KeyError, match="episode 2"):
        list(steps)


def test_wrong_arguments_are_found_at_once():
    for arguments in (
        {"tasks_per_step": 0},
        {"start": -1},
        {"threads": -1},
        {"buffer": 0},
        {"start": 3, "stop": 2},
    ):
        with pytest.raises(ValueError, match="must be"):
            batches(Sinusoid(), **{"split": "train", "tasks_per_step": 1, **arguments})
