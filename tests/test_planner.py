"""Choosing how gradients are computed: sizes, arithmetic, what is measured, what is chosen, and that it is kept."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_run import TINY, WAVES, files, jaxmeta, metrics, toy_lines, train, write_lines

import jaxmeta as jm
from jaxmeta.config import build, load, planning
from jaxmeta.config.recipes import how_of, learner_of, recipes
from jaxmeta.config.setting import How
from jaxmeta.core.checks import InputError
from jaxmeta.run import plan_cache
from jaxmeta.run.arithmetic import operations
from jaxmeta.run.planner import Candidate, Measured, fastest, measure, memory_of, parse_size, size_text

# One inner step and two tasks: three strategies along two task axes, and few programs to compile.
SMALL = WAVES | {
    "evaluate.methods": ("zero_shot", "maml"),
    "evaluate.main": "maml",
    "evaluate.shot-curve": (),
    "task.tasks-per-step": 2,
    "model.width": 8,
}
AUTO = SMALL | {"gradient.strategy": "auto"}


@pytest.fixture
def here(tmp_path, monkeypatch) -> pathlib.Path:
    """A working folder, and a cache of its own beside it."""
    folder = tmp_path / "here"
    folder.mkdir()
    write_lines(folder / "toy.tsv", toy_lines())
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JAXMETA_CACHE", str(tmp_path / "cache"))
    return folder


def plan(*words: str) -> list[str]:
    """Returns the words that plan the small job."""
    return ["plan", *train("unused", SMALL)[3:], *words]


# --- Sizes and arithmetic.


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 * 2**30), ("512MB", 512e6), ("2e9", 2e9), ("1.5 kb", 1500), ("3", 3), ("2KiB", 2048), ("1T", 1e12)],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "GiB", "-1GB", "0", "8 GiBB", "8XB", "5iB", "1e999", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match=f"`--memory` must be a size such as 8GiB.*, got '{re.escape(text)}'"):
        parse_size(text)


@pytest.mark.parametrize(("size", "text"), [(12, "12 B"), (2048, "2.0 kB"), (123_456_789, "123 MB"), (8e9, "8.0 GB")])
def test_sizes_are_written(size, text):
    assert size_text(size) == text


def test_products_are_counted_as_often_as_they_run():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 4))

    def count(function, *arguments):
        return operations(jax.make_jaxpr(function)(*arguments))

    assert count(lambda a, b: a @ b, a, b) == 2 * 3 * 4 * 4
    assert count(jax.jit(lambda a, b: a @ b @ b), a, b) == 2 * 2 * 3 * 4 * 4
    assert count(lambda a, b: jax.lax.scan(lambda c, _: (c @ b, None), a, None, length=7)[0], a, b) == 7 * 96
    assert count(jax.vmap(lambda a, b: a @ b, (0, None)), jnp.ones((5, 3, 4)), b) == 5 * 96
    assert count(lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: a @ b @ b), a, b) == 2 * 96
    image, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    layout = ("NHWC", "HWIO", "NHWC")
    assert count(
        lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout), image, kernel
    ) == 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)


def test_second_order_costs_about_three_times_first_order():
    """The floor of docs/algorithms.md: 9K + 3 against 3K + 3."""
    episode = jm.Episode(*({"inputs": jnp.ones((1, 64, 32)), "targets": jnp.ones((1, 64, 1))} for _ in range(2)))

    def count(gradient):
        algorithm = jm.maml(jm.models.mlp((64, 64), 1), jm.objectives.regression(), optax.sgd(0.1), gradient=gradient)
        learner = jm.build_learner(algorithm, jm.backprop(algorithm, num_steps=5), optax.sgd(0.1))
        state = jax.eval_shape(learner.init, jax.random.key(0), episode)
        return operations(jax.make_jaxpr(learner.update)(state, episode))

    assert 2 < count(jm.linearized) / count(jm.first_order) < 3
    assert count(jm.forward_over_reverse) > count(jm.linearized)


# --- Measuring.


def slow_and_large(rounds):
    def function(x):
        states = jax.lax.scan(lambda c, _: (jnp.tanh(c @ x), c), x, None, length=rounds)[1]
        return states.sum()

    return function


def tells_nothing(monkeypatch):
    """Makes compiled programs say nothing of their memory, as some backends do."""
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)


def test_what_does_not_fit_is_not_run_and_the_fastest_that_fits_is_chosen():
    x = jnp.ones((100, 100))
    candidates = [Candidate((f"{rounds} rounds",), slow_and_large(rounds)) for rounds in (2000, 1, 100)]
    memories = [memory_of(jax.jit(slow_and_large(rounds)).lower(x).compile()) for rounds in (1, 100)]
    one, hundred = (memory.total for memory in memories if memory)
    found = measure(candidates, (x,), hundred)
    assert [each.seconds is None for each in found] == [True, False, False]
    assert [each.bytes for each in found[1:]] == [one, hundred]
    assert [each.operations for each in found] == [2e6 * rounds for rounds in (2000, 1, 100)]
    assert fastest(found, "It", hundred).labels == ("1 rounds",)
    with pytest.raises(InputError, match=r"^It does not fit in 1 B: the least that it needs is .* \(1 rounds\)"):
        fastest(measure(candidates, (x,), 1), "It", 1)


def test_where_the_compiler_tells_nothing_everything_is_timed(monkeypatch):
    tells_nothing(monkeypatch)
    x = jnp.ones((100, 100))
    assert memory_of(jax.jit(slow_and_large(1)).lower(x).compile()) is None
    found = measure([Candidate((f"{rounds} rounds",), slow_and_large(rounds)) for rounds in (100, 1)], (x,), 1)
    assert all(each.seconds is not None for each in found)
    best = fastest(found, "It", 1)
    assert best.labels == ("1 rounds",)
    labelled = [each._replace(labels=(*each.labels, "none", "vmap", 1)) for each in found]
    assert list(planning.plan_table(labelled, labelled[1], "ways").columns[5].cells) == ["not told"] * 2


def test_the_same_program_is_measured_once():
    doubled = [Candidate((name,), lambda x: 2 * x) for name in "ab"]
    assert [each.labels for each in measure(doubled, (jnp.ones(3),), 2**30)] == [("a",)]


def test_of_two_as_fast_the_smaller_is_chosen():
    found = [Measured(("a",), 9, 1.0, 0.5), Measured(("b",), 8, 1.0, 0.5), Measured(("c",), 1, 1.0, None)]
    assert fastest(found, "It", 9).labels == ("b",)


# --- Plans.


def test_ways_that_cannot_pay_are_left_out(here):
    recipe = recipes(build(load(changes={"task.source": "sinusoid", "model.kind": "mlp", "evaluate.metric": "mse",
        "evaluate.methods": ["maml"], "evaluate.main": "maml"})).setting)  # fmt: skip
    ways = {(how.strategy, how.memory) for how in planning.ways(recipe["maml"], 5, 8)}
    assert ways == {("forward_over_reverse", memory) for memory in ("none", "per_step", "nested")} | {
        ("linearized", "none"), ("linearized", "products"), ("reverse", "none"), ("reverse", "per_step")
    }  # fmt: skip
    assert {how.memory for how in planning.ways(recipe["maml"], 3, 8)} == {"none", "products", "per_step"}
    assert {how.memory for how in planning.ways(recipe["maml"], 1, 8)} == {"none", "products"}
    # Without a loop there are few steps, and memory is not what is short.
    unrolled = {(how.memory, how.unroll) for how in planning.ways(recipe["maml"], 5, 8)}
    assert unrolled == {("none", 1), ("none", 5), ("products", 1), ("per_step", 1), ("nested", 1)}
    assert {how.unroll for steps in (1, 11) for how in planning.ways(recipe["maml"], steps, 8)} == {1}
    assert {how.strategy for how in planning.ways(recipe["fomaml"], 5, 8)} == {"first_order"}
    assert planning.ways(recipe["reptile"], 5, 8) == planning.ways(recipe["ridge"], 5, 8) == []
    axes = [how.task_axis for how in planning.ways(recipe["fomaml"], 5, 32) if how.unroll == 1]
    assert axes == ["vmap", "chunked(2)", "chunked(8)", "sequential"]
    assert [how.task_axis for how in planning.ways(recipe["fomaml"], 1, 1)] == ["vmap"]


ROW = re.compile(r"^ (→| )\s+(\w+)\s+(\w+)\s+([\w()]+)\s+(\d+)\s+([\d.]+ \wB)\s+([\d.e-]+)\s+([\d.]+|too large)\s*$")


def rows(shown: str) -> list[tuple[str, ...]]:
    """Returns the rows of a plan's table: mark, strategy, memory, task axis, unroll, needs, GFLOP, ms."""
    return [found.groups() for found in map(ROW.match, shown.splitlines()) if found]


@pytest.mark.slow
def test_a_plan_names_the_fastest_that_fits_and_what_it_needs(here, capsys):
    before = files(here)
    assert jaxmeta(*plan("--memory", "1GiB")) == 0
    shown = capsys.readouterr().out
    table = rows(shown)
    assert 4 <= len(table) <= 8
    assert len({row[1:5] for row in table}) == len(table)
    (chosen,) = (row for row in table if row[0] == "→")
    assert float(chosen[-1]) == min(float(row[-1]) for row in table)
    *words, unroll = chosen[1:5]
    lines = [f'{key} = "{word}"' for key, word in zip(How._fields, words, strict=False)]
    assert shown.splitlines()[-5:] == ["[gradient]", *lines, f"unroll = {unroll}"]
    assert files(here) == before

    # With less than the largest needs, it and its like are not run. The task axes are always tried, with the default.
    needs = {row[1:5]: parse_size(row[5]) for row in table}
    axes = [size for how, size in needs.items() if how[:2] == ("forward_over_reverse", "none")]
    limit = (min(axes) + max(axes)) // 2
    assert jaxmeta(*plan("--memory", str(limit))) == 0
    again = rows(capsys.readouterr().out)
    needs_again = {row[1:5]: parse_size(row[5]) for row in again}
    assert all(needs[how] == needs_again[how] for how in needs.keys() & needs_again.keys())
    large = [row for row in again if needs_again[row[1:5]] > limit]
    assert large
    assert {row[-1] for row in large} == {"too large"}
    (chosen,) = (row for row in again if row[0] == "→")
    assert needs_again[chosen[1:5]] <= limit


@pytest.mark.slow
def test_what_is_said_to_be_needed_is_what_the_compiler_says(here, standard_promotion):
    changes = {key.replace("-", "_"): value for key, value in (TINY | SMALL).items()}
    built = build(load(changes=changes | {"evaluate.learning_rates": (0.01,), "evaluate.sgd_learning_rates": (0.05,)}))
    found = planning.measured_ways(built, "maml", 2**30)
    recipe = recipes(built.setting)["maml"]
    episodes = next(built.experiment.tasks.batches(0, 0, augmented=False)(0))
    for each in found:
        learner = learner_of(built.setting, recipe, How(*each.labels), 4)
        state = learner.init(jax.random.key(0), episodes)
        analysis = jax.jit(learner.update).lower(state, episodes).compile().memory_analysis()
        assert each.bytes == analysis.temp_size_in_bytes + analysis.output_size_in_bytes
        assert each.seconds is not None


def test_a_plan_that_does_not_fit_is_one_sentence_with_the_least_there_is(here, capsys):
    before = files(here)
    assert jaxmeta(*plan("--memory", "1kB")) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(
        r"jaxmeta: An outer step of maml does not fit in 1\.0 kB: the least that it needs is [\d.]+ kB \(.*\n",
        shown.err,
    )
    assert files(here) == before


# --- `gradient.strategy = "auto"`.


def result(folder: pathlib.Path) -> str:
    return metrics(folder)[-1]["params_sha256"]


@pytest.mark.slow
def test_auto_is_measured_once_kept_with_the_run_and_taken_up_again(here, capsys, monkeypatch):
    calls = []
    measured_ways = planning.measured_ways
    monkeypatch.setattr(planning, "measured_ways", lambda *words: calls.append(1) or measured_ways(*words))
    assert jaxmeta(*train("run", AUTO)) == 0
    assert calls == [1]
    chosen = json.loads((here / "run" / "gradient.json").read_text("utf-8"))
    assert list(chosen) == ["maml"]
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Gradients: ")]
    assert shown == [f"Gradients: maml by {', '.join(map(str, chosen['maml'].values()))}"]
    (entry,) = json.loads(plan_cache.cache_file().read_text("utf-8")).values()
    assert entry["choice"] == chosen["maml"]

    # A second run of the same step reads the cache, with the same choice and so the same bits.
    assert jaxmeta(*train("run2", AUTO | {"seed": 1})) == 0
    assert jaxmeta(*train("run3", AUTO)) == 0
    assert calls == [1]
    assert result(here / "run3") == result(here / "run") != result(here / "run2")

    # Whatever the cache says meanwhile, a run that began goes on as it began.
    plan_cache.cache_file().unlink()
    built = []
    with_choices = planning.with_choices
    monkeypatch.setattr(planning, "with_choices", lambda b, chosen: built.append(chosen) or with_choices(b, chosen))
    other = {"maml": {"strategy": "reverse", "memory": "none", "task_axis": "chunked(2)", "unroll": 2}}
    (here / "run" / "gradient.json").write_text(json.dumps(other))
    (here / "run" / "evaluation.json").unlink()
    assert jaxmeta(*train("run", AUTO)) == 0
    assert calls == [1]
    assert built == [{"maml": How("reverse", "none", "chunked(2)", 2)}]
    assert json.loads((here / "run" / "gradient.json").read_text("utf-8")) == other
    assert jaxmeta("evaluate", "run") == 0

    # Without the file there is no telling how it began.
    (here / "run" / "evaluation.json").unlink()
    for damage, says in (("{", "is damaged"), ("[]", "is damaged"), ('{"maml": {"memory": "x"}}', "is damaged"),
                         (None, "is missing")):  # fmt: skip
        path = here / "run" / "gradient.json"
        if damage is None:
            path.unlink()
        else:
            path.write_text(damage)
        capsys.readouterr()
        assert jaxmeta(*train("run", AUTO)) == 2
        error = capsys.readouterr().err
        assert f"run/gradient.json {says}; put it back" in error
        assert error.count("\n") == 1


def test_auto_that_does_not_fit_leaves_nothing(here, capsys, monkeypatch):
    monkeypatch.setattr("jaxmeta.config.commands.device_memory", lambda: 1000)
    before = files(here)
    assert jaxmeta(*train("run", AUTO)) == 2
    assert "An outer step of maml does not fit in 1.0 kB" in capsys.readouterr().err
    assert files(here) == before


def test_what_is_remembered_holds_while_nothing_else_fits(here, tmp_path, monkeypatch):
    found = {"choice": How("reverse", "none", "vmap", 1)._asdict(), "bytes": 50, "limit": 70, "largest": 100}
    assert [planning.still_holds(found, limit) for limit in (40, 50, 70, 71, 200)] == [False, True, True, False, False]
    assert planning.still_holds({**found, "limit": 100}, 10**12)
    assert not planning.still_holds({**found, "choice": {**found["choice"], "memory": "all"}}, 60)
    assert not planning.still_holds({}, 60)
    plan_cache.remember({"a": 1}, found)
    assert plan_cache.recall({"a": 1})["choice"] == found["choice"]
    assert plan_cache.recall({"a": 2}) is None
    plan_cache.cache_file().write_text("{")
    assert plan_cache.recall({"a": 1}) is None
    plan_cache.remember({"a": 2}, found)
    assert plan_cache.recall({"a": 2})["bytes"] == 50
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXMETA_CACHE", str(tmp_path / "file"))
    plan_cache.remember({"a": 3}, found)  # cannot be written, which is no error
    assert plan_cache.recall({"a": 3}) is None
    monkeypatch.delenv("JAXMETA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert plan_cache.cache_file() == pathlib.Path("/caches/jaxmeta/plans.json")


def test_the_words_of_the_config_reach_the_gradient(here):
    changes = {"evaluate.methods": ["zero_shot", "maml", "anil", "fomaml", "reptile", "ridge"], "task.source": "tsv",
               "task.path": "toy.tsv", "task.test_languages": 2, "task.dev_languages": 2, "model.width": 8,
               "gradient.memory": "all"}  # fmt: skip
    with pytest.raises(InputError, match=r"`gradient\.memory` must be one of none, products, per_step"):
        build(load(changes=changes))
    setting = build(load(changes=changes | {"gradient.strategy": "linearized", "gradient.memory": "none",
                                            "gradient.task_axis": "chunked(3)",
                                            "gradient.unroll": 2})).setting  # fmt: skip
    how = {name: how_of(setting, name, recipe) for name, recipe in recipes(setting).items()}
    assert how["maml"] == how["anil"] == How("linearized", "none", "chunked(3)", 2)
    assert how["fomaml"] == How("first_order", "none", "chunked(3)", 2)
    assert planning.methods_to_choose_for(build(load(changes=changes | {"gradient.memory": "none"}))) == [
        "maml", "anil", "fomaml"
    ]  # fmt: skip


@pytest.mark.slow
def test_rows_and_precision_of_a_config_reach_the_step(here, standard_promotion):
    changes = {"evaluate.methods": ["zero_shot", "ridge", "maml"], "task.source": "tsv", "task.path": "toy.tsv",
               "task.test_languages": 2, "task.dev_languages": 2, "model.width": 8, "inner.steps": 2}  # fmt: skip

    def step(**more):
        built = build(load(changes=changes | more))
        (learner,) = (phase.learner for phase in built.experiment.phases if phase.name == "maml")
        episodes = next(built.tasks.batches(0, 0, augmented=False)(0))
        state = jax.jit(learner.init)(jax.random.key(0), episodes)
        lowered = jax.jit(learner.update).lower(state, episodes).as_text()
        # The outer optimizer's moments hold the gradient; its rate is zero at the first step.
        return lowered, jax.jit(learner.update)(state, episodes)[0].opt_state

    whole, moments = step()
    by_row, same = step(**{"gradient.rows": "^embedding/"})
    assert whole != by_row
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7), same, moments)
    half, _ = step(**{"model.precision": "bfloat16"})
    assert "bf16" in half
    assert "bf16" not in whole
