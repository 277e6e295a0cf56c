"""What a run writes of its metrics, and what it shows of its progress."""

import io
import json
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxmeta.run import logging as run_logging
from jaxmeta.run.logging import MetricsLog


def lines(folder: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_plain_json_lines(tmp_path):
    with MetricsLog(tmp_path / "run", tensorboard=False) as log:
        log.write("a", 1, {"loss": jnp.float32(0.5), "worst": np.float64("nan"), "rate": float("inf"), "n": None})
        assert lines(tmp_path / "run") == [
            {"phase": "a", "step": 1, "loss": 0.5, "worst": None, "rate": None, "n": None}
        ]


def test_rewinding_the_log(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        for phase in "ab":
            for step in (5, 10, 15):
                log.write(phase, step, {"loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"phase": "b", "step": 20, "lo')
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.rewind("b", 5)
        log.write("b", 10, {"loss": 2.0})
    seen = [(line["phase"], line["step"], line["loss"]) for line in lines(tmp_path)]
    assert seen == [("a", 5, 1), ("a", 10, 1), ("a", 15, 1), ("b", 5, 1), ("b", 10, 2)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_the_final_line_is_last_and_one(tmp_path):
    for loss in (1.0, 2.0):
        with MetricsLog(tmp_path, tensorboard=False) as log:
            log.rewind("a", 3)
            log.write("a", 4, {"loss": loss})
            log.final("a", step=4, loss=loss, params_sha256="00ff", seconds=1.5)
    *others, last = lines(tmp_path)
    assert last == {"phase": "a", "final": True, "step": 4, "loss": 2.0, "params_sha256": "00ff", "seconds": 1.5}
    assert not any("final" in line for line in others)


def test_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    with MetricsLog(tmp_path / "with") as log:
        log.write("meta", 1, {"loss": 0.5, "none": None})
    (events,) = (tmp_path / "with" / "tensorboard" / "meta").iterdir()
    assert b"loss" in events.read_bytes()
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with MetricsLog(tmp_path / "without") as log:
        log.write("meta", 1, {"loss": 0.5})
    assert [path.name for path in (tmp_path / "without").iterdir()] == ["metrics.jsonl"]


def test_progress_without_a_terminal_is_plain_lines(tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 4))
    monkeypatch.setattr(run_logging.time, "monotonic", lambda: next(clock))
    text = io.StringIO()
    with run_logging.progress(Console(file=text), every_seconds=10) as bar:
        bar.begin("meta [x]", steps=9, start=3)
        for step in range(4, 10):
            bar.update(step, loss=0.25 if step == 5 else None, rate=1234.5 if step == 6 else None)
        bar.end()
    first, *middle, last = text.getvalue().splitlines()
    assert first == "meta [x]: step 3/9, resumed"
    assert last == "meta [x]: step 9/9, loss 0.2500, 1,234 examples/s"
    assert 1 <= len(middle) <= 3
    assert all("left" in line and "loss 0.2500" in line for line in middle)


def test_progress_names_what_is_being_done_at_once():
    text = io.StringIO()
    with run_logging.progress(Console(file=text)) as bar:
        bar.begin("evaluate", steps=2, start=0)
        for step, name in enumerate(("ridge", "maml")):
            bar.update(step, doing=name)
            bar.update(step + 1)
        bar.end()
    _, first, second, last = text.getvalue().splitlines()
    assert first == "evaluate: step 0/2; ridge"
    assert second.startswith("evaluate: step 1/2,")
    assert second.endswith("left; maml")
    assert last == "evaluate: step 2/2"
