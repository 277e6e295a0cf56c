"""The benchmarks: that they run whole, count right, and time nobody whose gradient is wrong."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import environment

from jaxmeta.run.arithmetic import operations

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The files of the folder import one another by their names."""
    monkeypatch.syspath_prepend(str(FOLDER))


def benchmark(out: pathlib.Path, *arguments: str) -> tuple[dict, str]:
    """Runs the harness on small workloads; returns its JSON and its Markdown."""
    command = [sys.executable, str(FOLDER / "run.py"), "--tiny", "--device", "cpu", "--repeats", "2", "--turn", "0.01"]
    command += ["--workloads", "W1", "--steps", "2", "--out", str(out), *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text("utf-8")), done.stdout


def test_right_sides_are_timed_and_wrong_ones_are_not(tmp_path):
    report, table = benchmark(tmp_path / "results.json", "--sides", "ours", "hand_first_order", "learn2learn",
                              "--exact", "--peers", str(tmp_path / "nowhere"))  # fmt: skip
    ours, wrong, missing = report["results"]
    assert ours["status"] == "timed"
    assert len(ours["seconds"]) == 2
    assert 0 < ours["low"] <= ours["median"] <= ours["high"]
    assert ours["ratio"] == 1
    assert min(ours[key] for key in ("flops", "temporary_bytes", "compile_seconds", "peak_fraction")) > 0
    assert ours["difference"] < 1e-5
    assert wrong["status"] == "wrong"
    assert wrong["difference"] > 1e-2
    assert "seconds" not in wrong
    assert missing["status"] == "missing"
    assert missing["reason"].startswith("no interpreter at")
    assert "| `ours` |" in table
    assert "| wrong: the gradient is" in table
    assert "| missing: no interpreter at" in table


def test_a_gradient_is_judged_by_its_largest_entry():
    from run import judged

    reference = {"a": np.array([1.0, -10.0]), "b": np.array([1e-9])}
    near = {"a": np.array([1.0, -10.001]), "b": np.array([2e-9])}
    assert judged(near, reference, 1e-3) == {"difference": pytest.approx(1e-4)}
    assert judged(near, reference, 1e-5)["status"] == "wrong"
    assert judged({**near, "b": np.array([np.nan])}, reference, 1e-3)["reason"] == "the gradient is not finite"
    assert judged({"a": near["a"]}, reference, 1e-3)["status"] == "wrong"


def test_arithmetic_in_a_loop_counts_as_often_as_it_runs():
    def looped(a, b):
        unread = a @ b  # no part of what is computed
        del unread
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, b), None), a, length=7)[0]

    a, b = jnp.ones((3, 5)), jnp.ones((5, 5))
    assert operations(jax.make_jaxpr(looped)(a, b)) == 7 * 2 * 3 * 5 * 5
    batched = jax.vmap(looped, in_axes=(0, None))
    assert operations(jax.make_jaxpr(batched)(jnp.ones((4, 3, 5)), b)) == 4 * 7 * 2 * 3 * 5 * 5


def test_arithmetic_of_a_convolution_counts_its_groups():
    def convolution(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=layout, feature_group_count=2
        )

    found = operations(jax.make_jaxpr(convolution)(jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 3, 10))))
    assert found == 2 * (2 * 4 * 4 * 10) * (3 * 3 * 3)


@pytest.mark.parametrize("name", ["W1", "W2", "W3"])
@pytest.mark.parametrize("convolution", ["patches", "lax"])
def test_networks_answer_for_every_example(name, convolution, standard_promotion):
    from networks import network
    from workloads import episodes, find, parameters

    workload = find(name, tiny=True)
    support, query = episodes(workload)
    outputs = jax.eval_shape(network(workload, convolution), parameters(workload), support["inputs"][0])
    assert outputs.shape == (workload.classes * workload.shots, workload.classes)
    assert query["inputs"].shape[:2] == (workload.tasks, workload.classes * workload.queries)


def test_sides_are_found_by_name():
    from sides import differentiated_steps, expand, parse

    side = parse("ours:gradient=linearized,memory=truncated(2),rows=^tokens$")
    assert side.options == {"gradient": "linearized", "memory": "truncated(2)", "rows": "^tokens$"}
    assert [differentiated_steps(side, count) for count in (1, 5)] == [1, 2]
    assert differentiated_steps(parse("ours:gradient=first_order"), 5) == 0
    assert differentiated_steps(parse("hand_mixed"), 5) == 5
    assert len(expand(["hand", "hand"])) == 8
    for wrong in ("theirs", "ours:colour=red", "hand_naive:task_axis=auto", "ours:gradient"):
        with pytest.raises(ValueError, match="side"):
            parse(wrong)


def test_a_picture_is_drawn_of_every_workload(tmp_path):
    pytest.importorskip("matplotlib")
    from plot import drawn

    rows = [
        {"inner_steps": steps, "side": side, "median": 0.1 * steps, "temporary_bytes": 1000 * steps}
        for steps in (1, 5)
        for side in ("ours", "hand_naive")
    ]
    # Too large to be timed, and not measured by a compiler.
    rows += [{"inner_steps": 64, "side": "ours", "temporary_bytes": 10**12}, {"inner_steps": 1, "side": "higher"}]
    memory, seconds = drawn("W3", rows).axes
    assert [list(line.get_xdata()) for line in memory.lines] == [[1, 5, 64], [1, 5], []]
    assert [list(line.get_xdata()) for line in seconds.lines] == [[1, 5], [1, 5], []]


def test_two_starts_share_their_programs(capsys, monkeypatch):
    import second_start

    monkeypatch.setattr(sys, "argv", ["second_start.py", "--workloads", "W1", "--steps", "1", "--tiny"])
    second_start.main()
    *_, row = capsys.readouterr().out.splitlines()
    cells = row.strip("| ").split(" | ")
    assert cells[0] == "W1, K = 1"
    assert len(cells) == 6


@pytest.mark.slow
def test_plans_are_checked_by_running_every_way(tmp_path, capsys, monkeypatch, standard_promotion):
    import plan_check

    small = {**plan_check.WAVES, "inner.steps": 1, "model.width": 8, "task.tasks_per_step": 2}
    monkeypatch.setattr(plan_check, "CASES", [("small waves", "maml", small)])
    out = tmp_path / "found.json"
    # Whatever the times come to, a plan is right with so much slack.
    monkeypatch.setattr(sys, "argv", ["plan_check.py", "--repeats", "1", "--slack", "1e9", "--out", str(out)])
    plan_check.main()
    first, *_ = json.loads(out.read_text("utf-8"))
    assert first["named_bytes"] <= first["limit"]
    assert first["fastest_ms"] <= first["named_ms"]
    assert "plans name the fastest that fits" in capsys.readouterr().out


@pytest.mark.slow
def test_decoding_with_a_cache_is_timed_beside_decoding_without(capsys, monkeypatch):
    import decoding

    monkeypatch.setattr(sys, "argv", ["decoding.py", "--tiny", "--repeats", "1"])
    decoding.main()
    rows = capsys.readouterr().out.splitlines()[-3:]
    for row, name in zip(rows, ("seq2seq", "pointer", "language_model"), strict=True):
        cells = row.strip("| ").split(" | ")
        assert cells[0] == name
        assert float(cells[3]) > 0
