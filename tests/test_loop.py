"""A phase that is cut off anywhere ends with the same bits and the same log as one that is not."""

import contextlib
import functools
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from jaxmeta.core.checks import InputError
from jaxmeta.core.types import Episode, LearnerState, MetaLearner
from jaxmeta.run import logging as run_logging
from jaxmeta.run.checkpoint import Checkpoints, tree_sha256
from jaxmeta.run.logging import MetricsLog
from jaxmeta.run.loop import PhaseResult, TrainingError, train_phase

TIMES = {"seconds", "examples_per_second"}
STEPS = 40


@functools.cache  # the same functions every time, so that they compile once
def linear_learner() -> MetaLearner:
    """A linear model under Adam, with a random direction in every step so that the key matters."""
    optimizer = optax.adam(0.05)

    def init(key, episodes):
        size = episodes.support["inputs"].shape[-1]
        params = {"w": jax.random.normal(key, (size,)), "b": jnp.zeros(())}
        return LearnerState(
            jnp.zeros((), jnp.int32), jax.random.key_data(key), params, optimizer.init(params), {"seen": 0.0}
        )

    def update(state, episodes):
        def loss(params):
            predicted = episodes.support["inputs"] @ params["w"] + params["b"][None]
            return jnp.mean((predicted - episodes.support["targets"]) ** 2)

        value, gradient = jax.value_and_grad(loss)(state.meta_params)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        noise = jax.random.normal(key, gradient["w"].shape)
        gradient = {**gradient, "w": gradient["w"] + 0.1 * noise}
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int
            updates, opt_state = optimizer.update(gradient, state.opt_state)
        params = optax.apply_updates(state.meta_params, updates)
        seen = {"seen": state.estimator_state["seen"] + 1}
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
        return LearnerState(state.step + 1, state.key, params, opt_state, seen), metrics

    return MetaLearner(init, update)


def make_batches(start: int, *, pause: float = 0.0) -> Iterator[Episode]:
    """The batch of each step is a function of its number."""
    for step in range(start, sys.maxsize):
        time.sleep(pause)
        inputs = np.random.default_rng(step).normal(size=(4, 3)).astype(np.float32)
        batch = {"inputs": inputs, "targets": inputs.sum(-1)}
        yield Episode(batch, batch)


def train(folder: pathlib.Path, *, batches=make_batches, learner=None, phase="meta", **options) -> PhaseResult:
    options = {"steps": STEPS, "log_every": 5, "save_every": 8} | options
    with Checkpoints(folder / phase) as checkpoints, MetricsLog(folder, tensorboard=False) as log:
        return train_phase(
            phase,
            learner or linear_learner(),
            batches,
            key=jax.random.key(1),
            examples_per_step=4,
            checkpoints=checkpoints,
            log=log,
            **options,
        )


def lines(folder: pathlib.Path) -> list[dict]:
    """The lines of the log without what depends on the clock."""
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[str, list[dict]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return tree_sha256(train(folder).state), lines(folder)


def act_before(step: int, action) -> object:
    """Batches like `make_batches`, with something that happens while that of `step` is prepared."""

    def batches(start):
        for number, batch in enumerate(make_batches(start), start + 1):
            if number == step:
                action()
            yield batch

    return batches


def interrupt():
    raise KeyboardInterrupt


def crash():
    raise ZeroDivisionError


def test_the_log_has_means_and_times(tmp_path):
    result = train(tmp_path, steps=12, log_every=5)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [5, 10, 12]
    assert set(records[0]) == {"phase", "step", "loss", "gradient_norm"} | TIMES

    learner, state, losses = linear_learner(), None, []
    update = jax.jit(learner.update)
    for _, batch in zip(range(12), make_batches(0), strict=False):
        state = learner.init(jax.random.key(1), batch) if state is None else state
        state, metrics = update(state, batch)
        losses.append(float(metrics["loss"]))
    means = [np.mean(losses[:5]), np.mean(losses[5:10]), np.mean(losses[10:])]
    np.testing.assert_allclose([record["loss"] for record in records], means, rtol=1e-6)
    assert result.loss == records[-1]["loss"]
    assert result.resumed_from is None
    assert int(result.state.step) == 12
    assert 0 < records[0]["seconds"] < records[2]["seconds"] <= result.seconds


@pytest.mark.parametrize("at", [2, 8, 17, 25, 40])
@pytest.mark.parametrize("how", [interrupt, crash, functools.partial(os.kill, os.getpid(), signal.SIGTERM)])
def test_resumed_equals_uninterrupted(tmp_path, uninterrupted, at, how):
    expected = (SystemExit, KeyboardInterrupt, ZeroDivisionError)
    with pytest.raises(expected) as raised:
        train(tmp_path, batches=act_before(at, how))
    saved = Checkpoints(tmp_path / "meta").steps()
    if raised.type is SystemExit:
        assert raised.value.code == 143
        assert saved[-1] == at  # the step that was being prepared is still done, then saved
    elif raised.type is KeyboardInterrupt:
        assert saved[-1] == at - 1
    else:
        assert saved[-1:] == ([(at - 1) // 8 * 8] if at > 8 else [])
    result = train(tmp_path)
    assert result.resumed_from == (saved[-1] if saved else None)
    assert (tree_sha256(result.state), lines(tmp_path)) == uninterrupted


def test_cut_into_many_pieces(tmp_path, uninterrupted):
    for at in range(4, STEPS, 5):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, batches=act_before(at, interrupt))
    assert (tree_sha256(train(tmp_path).state), lines(tmp_path)) == uninterrupted


def test_resumes_from_an_older_checkpoint(tmp_path, uninterrupted, caplog):
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, batches=act_before(36, crash))
    (tmp_path / "meta" / "00000032" / "digests.json").unlink()
    result = train(tmp_path)
    assert result.resumed_from == 24
    assert "00000032: digests.json is missing" in caplog.text
    assert (tree_sha256(result.state), lines(tmp_path)) == uninterrupted


def test_the_memory_of_a_step_is_told_and_kept(tmp_path):
    begun = train(tmp_path, steps=10)
    assert isinstance(begun.step_bytes, int)
    assert begun.step_bytes >= 0
    assert train(tmp_path, steps=10).step_bytes == begun.step_bytes  # without a step
    assert train(tmp_path, steps=20).step_bytes == begun.step_bytes


def test_a_compiler_that_tells_nothing_is_trained_with_too(tmp_path, uninterrupted, monkeypatch):
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
    asked = []

    def room(size):
        asked.append(size)
        return contextlib.nullcontext()

    result = train(tmp_path, room=room)
    assert (result.step_bytes, asked) == (None, [None])
    assert (tree_sha256(result.state), lines(tmp_path)) == uninterrupted


def test_a_finished_phase_returns_at_once(tmp_path):
    first = train(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def update(state, episodes):
        raise AssertionError

    second = train(tmp_path, learner=MetaLearner(linear_learner().init, update))
    assert second.resumed_from == STEPS
    assert (second.seconds, second.loss) == (first.seconds, first.loss)
    assert tree_sha256(second.state) == tree_sha256(first.state)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    with pytest.raises(InputError, match="is at step 40, beyond the 30 steps of phase `meta`"):
        train(tmp_path, steps=30)


def test_seconds_are_those_of_all_runs(tmp_path):
    def slowly(start):
        return make_batches(start, pause=0.02)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, steps=20, batches=act_before(15, interrupt), save_every=5)
    before = Checkpoints(tmp_path / "meta").read().extra["seconds"]
    began = time.monotonic()
    result = train(tmp_path, steps=20, batches=slowly)
    assert before + 6 * 0.02 <= result.seconds <= before + time.monotonic() - began


def test_warm_start_happens_once_and_leaves_the_callers_arrays(tmp_path):
    trained = {"w": jnp.ones(3), "b": jnp.ones(())}
    calls = []

    def on_init(state):
        calls.append(state)
        return state._replace(meta_params=trained, estimator_state={"seen": 5.0})

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, batches=act_before(20, interrupt), on_init=on_init)
    cut = train(tmp_path, on_init=on_init)
    whole = train(tmp_path, phase="other", on_init=on_init)
    assert len(calls) == 2
    assert float(trained["w"].sum()) == 3
    assert tree_sha256(cut.state) == tree_sha256(whole.state)
    assert float(whole.state.estimator_state["seen"]) == 5 + STEPS


def test_another_model_is_refused(tmp_path):
    train(tmp_path)

    def wider(start):
        for episode in make_batches(start):
            batch = {"inputs": np.ones((4, 5), np.float32), "targets": episode.support["targets"]}
            yield Episode(batch, batch)

    with pytest.raises(InputError, match=r"meta_params/w is float32\[3\] in it, float32\[5\] in this model"):
        train(tmp_path, batches=wider)


def test_values_are_fetched_at_log_lines_only(tmp_path, monkeypatch):
    fetched = []
    get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(tree) or get(tree))
    train(tmp_path, steps=40, log_every=20, save_every=40)
    assert [len(tree) for tree in fetched if isinstance(tree, list) and tree] == [20, 20]
    assert len(fetched) <= 5


@pytest.mark.parametrize(("bad", "save_every", "kept"), [(13, 5, 10), (13, 4, 12), (1, 5, None)])
def test_a_loss_that_is_not_finite(tmp_path, bad, save_every, kept):
    def batches(start):
        for step, episode in enumerate(make_batches(start), start + 1):
            if step == bad:
                episode.support["inputs"][0, 0] = np.inf
            yield episode

    with pytest.raises(TrainingError, match=rf"Phase `meta` .* at step {bad}\. Lower the learning rate"):
        train(tmp_path, batches=batches, log_every=5, save_every=save_every)
    with Checkpoints(tmp_path / "meta") as checkpoints:
        assert checkpoints.steps()[-1:] == ([kept] if kept else [])
        if kept:
            assert np.isfinite(checkpoints.read().tree["meta_params"]["w"]).all()


def test_a_parameter_that_is_not_finite_is_not_saved(tmp_path):
    learner = linear_learner()

    def update(state, episodes):
        state, metrics = learner.update(state, episodes)
        broken = jnp.where(state.step == 16, jnp.nan, state.meta_params["b"])
        return state._replace(meta_params={**state.meta_params, "b": broken}), metrics

    with pytest.raises(TrainingError, match="a meta-parameter is not finite at step 16"):
        train(tmp_path, learner=MetaLearner(learner.init, update))
    assert Checkpoints(tmp_path / "meta").steps() == [8]


def test_handlers_are_given_back(tmp_path):
    def mine(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with pytest.raises(SystemExit):
            train(tmp_path, batches=act_before(9, functools.partial(os.kill, os.getpid(), signal.SIGTERM)))
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, batches=act_before(19, functools.partial(os.kill, os.getpid(), signal.SIGINT)))
    assert Checkpoints(tmp_path / "meta").steps()[-1] == 19
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_runs_outside_the_main_thread(tmp_path, uninterrupted):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(tmp_path)))
    thread.start()
    thread.join()
    assert tree_sha256(results[0].state) == uninterrupted[0]


def test_wrong_arguments(tmp_path):
    for argument in ("steps", "log_every", "save_every"):
        with pytest.raises(ValueError, match=f"`{argument}` must be positive, got 0"):
            train(tmp_path, **{argument: 0})
    with pytest.raises(ValueError, match=r"`make_batches\(0\)` must last until step 40, it ended before 4"):
        train(tmp_path, batches=lambda start: iter([next(make_batches(0))] * 3))
    learner = linear_learner()
    nameless = MetaLearner(learner.init, lambda state, batch: (learner.update(state, batch)[0], {"error": 0.0}))
    with pytest.raises(ValueError, match=r"must have `loss`, got \['error'\]"):
        train(tmp_path, learner=nameless)


def test_progress_on_a_terminal_is_a_bar(tmp_path):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, color_system=None)
    with run_logging.progress(console) as bar:
        train(tmp_path, steps=10, progress=bar)
    assert "meta" in text.getvalue()
    assert "10/10" in text.getvalue()
    assert "examples/s" in text.getvalue()


# Real processes, really killed.


def start_process(folder: pathlib.Path) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, __file__, str(folder)], env=env, stdout=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen, word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return
    raise AssertionError(f"the process ended with {process.wait()}")


def finish(folder: pathlib.Path) -> str:
    output, _ = (process := start_process(folder)).communicate()
    assert process.returncode == 0
    return output.split()[-1]


def test_sigterm_to_a_process(tmp_path):
    process = start_process(tmp_path / "cut")
    wait_for(process, "step 20")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    step = Checkpoints(tmp_path / "cut" / "meta").steps()[-1]
    assert 20 <= step < PROCESS_STEPS
    whole, cut = (train(tmp_path / name, steps=PROCESS_STEPS, save_every=100) for name in ("whole", "cut"))
    assert cut.resumed_from == step
    assert tree_sha256(cut.state) == tree_sha256(whole.state)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


@pytest.mark.slow
def test_sigkill_at_five_random_moments(tmp_path):
    random = np.random.default_rng(7)
    for _ in range(5):
        process = start_process(tmp_path / "cut")
        wait_for(process, "step ")
        time.sleep(random.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    digest = finish(tmp_path / "cut")
    whole = train(tmp_path / "whole", steps=PROCESS_STEPS, save_every=100)
    assert digest == tree_sha256(whole.state.meta_params)
    assert lines(tmp_path / "cut")[:-1] == lines(tmp_path / "whole")


PROCESS_STEPS = 300


def main() -> None:
    """What the killed processes run: slow steps, a save every few of them."""
    folder = pathlib.Path(sys.argv[1])

    class Display:
        def begin(self, phase, *, steps, start):
            pass

        def update(self, step, *, loss=None, rate=None):
            print(f"step {step}", flush=True)

        def end(self):
            pass

    batches = functools.partial(make_batches, pause=0.01)
    result = train(folder, steps=PROCESS_STEPS, save_every=3, batches=batches, progress=Display())
    digest = tree_sha256(result.state.meta_params)
    with MetricsLog(folder, tensorboard=False) as log:
        log.final("meta", step=PROCESS_STEPS, loss=result.loss, params_sha256=digest)
    print(digest)


if __name__ == "__main__":
    main()
