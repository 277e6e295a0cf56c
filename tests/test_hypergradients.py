"""Hypergradients: against finite differences in float64 through training and adaptation, and the descents they make."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_search import jaxmeta, lines, toml
from tiny_run import toy_lines, write_lines

from jaxmeta.algorithms import knowledge_transfer, l2_sp, maml
from jaxmeta.config import load
from jaxmeta.config import searching as searching_module
from jaxmeta.core.gradients import reverse
from jaxmeta.core.learner import build_learner
from jaxmeta.core.types import Episode
from jaxmeta.estimators import backprop, pooled
from jaxmeta.models import mlp
from jaxmeta.objectives import regression
from jaxmeta.run.plan import META, Judging, Method, Phase, Pulled, readout_of
from jaxmeta.run.samplers import Between, Trial, descended, share
from jaxmeta.run.trials import SideBySide, Variant

OUTPUTS, TASKS = 2, 3
MODEL = mlp((4,), OUTPUTS, activation=jnp.tanh, param_dtype=np.float64)
JUDGING = Judging("mse", False, shots=5, draws=1, dev_draws=1, shot_curve=(), curve_methods=(), tasks_at_once=2)


def problem(seed):
    rng = np.random.default_rng(seed)
    made = [{"inputs": rng.normal(size=(n, 3)), "targets": rng.normal(size=(n, OUTPUTS))} for n in (5, 4)]
    return Episode(*made)


class Problems:
    """Random regressions."""

    def batches(self, seed, first, *, augmented):
        def after(start):
            for number in range(start, 1000):
                of_step = [problem(100 + TASKS * (first + number) + k) for k in range(TASKS)]
                yield jax.tree.map(lambda *leaves: np.stack(leaves), *of_step)

        return after

    def languages(self, split):
        return ["a", "b"]

    def episode(self, language, *, shots, draw, split):
        return problem("ab".index(language))


def variant(kind):
    """Returns a run of numbers: joint training and L2-SP after it, or MAML after joint training."""

    def of(values) -> Variant:
        adam_w = optax.adamw(
            values["train.learning_rate"], weight_decay=values["train.weight_decay"], eps_root=1e-30
        )  # fmt: skip
        outer = optax.chain(optax.clip_by_global_norm(0.5), adam_w)
        joint = maml(MODEL, regression(), optax.sgd(0.1), gradient=reverse)
        warm = Phase("joint", build_learner(joint, pooled(joint), outer), 4, 1, 1.0)
        if kind == "transfer":
            build = lambda rate: knowledge_transfer(  # noqa: E731
                MODEL, regression(), optax.adam(rate.learning_rate, eps_root=1e-30), l2_sp, strength=rate.strength,
                gradient=reverse,
            )  # fmt: skip
            rate = Pulled(values["evaluate.learning_rates"], values["transfer.strengths"])
            return Variant((warm,), Method("l2_sp", META, "joint", build, (rate,), (3,)), rate)
        algorithm = maml(MODEL, regression(), optax.sgd(values["inner.learning_rate"]), gradient=reverse)
        learner = build_learner(algorithm, backprop(algorithm, num_steps=2), outer)
        build = lambda rate: maml(MODEL, regression(), optax.sgd(rate), gradient=reverse)  # noqa: E731
        rate = values["inner.learning_rate"]
        phases = (warm, Phase("maml", learner, 3, 1, 1.0, "joint"))
        return Variant(phases, Method("maml", META, "maml", build, (rate,), (2,)), rate)

    return of


NUMBERS = {
    "transfer": {
        "train.learning_rate": 0.02, "train.weight_decay": 0.3, "evaluate.learning_rates": 0.05,
        "transfer.strengths": 0.7,
    },
    "maml": {"train.learning_rate": 0.02, "train.weight_decay": 0.3, "inner.learning_rate": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["transfer", "maml"])
def test_they_are_the_finite_differences(kind, standard_promotion):
    values, step = NUMBERS[kind], 1e-5
    with jax.enable_x64(True):
        adapting = ("evaluate.learning_rates", "transfer.strengths")
        program = SideBySide(
            variant(kind), values, readout_of(regression()), JUDGING, differentiated=tuple(values),
            in_training=lambda name: name not in adapting,
        )  # fmt: skip
        # The run itself, then each number a little more and a little less, all side by side.
        columns = {name: [value] for name, value in values.items()}
        for own in values:
            for sign in (1, -1):
                for name, value in values.items():
                    columns[name].append(value * (1 + sign * step * (name == own)))
        found = program.scores({n: np.array(c) for n, c in columns.items()}, Problems(), training_seed=0, seed=0)
    assert found.losses.dtype == np.float64
    for place, (name, value) in enumerate(values.items()):
        above, below = found.losses[1 + 2 * place : 3 + 2 * place]
        by_log = (above - below) / (2 * step)  # of the logarithm
        assert found.slopes[name][0] * value == pytest.approx(by_log, rel=2e-5, abs=1e-10), name
        assert abs(by_log) > 1e-5


def test_what_differs_in_adaptation_alone_is_trained_once(standard_promotion):
    values, adapting = NUMBERS["transfer"], ("evaluate.learning_rates", "transfer.strengths")
    drawn = []

    class Counted(Problems):
        def batches(self, seed, first, *, augmented):
            drawn.append(first)
            return super().batches(seed, first, augmented=augmented)

    with jax.enable_x64(True):
        program = SideBySide(
            variant("transfer"), values, readout_of(regression()), JUDGING, differentiated=adapting,
            in_training=lambda name: name not in adapting, alike=True,
        )  # fmt: skip
        tasks = Counted()
        for strengths in ((0.7, 0.71), (0.69, 2.0)):
            columns = {name: np.full(2, value) for name, value in values.items()} | {
                "transfer.strengths": np.array(strengths)
            }
            found = program.scores(columns, tasks, training_seed=0, seed=0)
            assert set(found.slopes) == set(adapting)
            assert found.losses[0] != found.losses[1]
            assert np.abs(found.slopes["transfer.strengths"]).min() > 1e-5
        assert drawn == [0]


# -- descents


SPACE = {"rate": Between(1e-4, 1.0, log=True), "pull": Between(0.0, 4.0)}


def bowl(values):
    """A loss with its minimum at rate 0.01 and pull 1, and its slopes."""
    away = math.log(values["rate"] / 0.01), values["pull"] - 1
    return sum(a * a for a in away), {"rate": 2 * away[0] / values["rate"], "pull": 2 * away[1]}


def went(steps, starts=3, broken=()):
    done = []
    for step in range(steps):
        for k, values in enumerate(descended(SPACE, done, starts, step, seed=0, rate=0.05)):
            loss, slopes = bowl(values)
            number = starts * step + k
            loss = math.nan if number in broken else loss
            done.append(Trial(number, 0, values, (), -loss, loss, slopes))
    return done


def test_descents_go_down_to_the_minimum_and_stay_in_the_range(standard_promotion):
    done = went(60)
    for trial in done[-3:]:
        assert trial.values["rate"] == pytest.approx(0.01, rel=0.1)
        assert trial.values["pull"] == pytest.approx(1.0, abs=0.1)
    assert all(0 <= share(SPACE[key], trial.values[key]) <= 1 for trial in done for key in SPACE)
    assert len({trial.values["rate"] for trial in done[:3]}) == 3


def test_a_descent_that_diverges_begins_anew_elsewhere(standard_promotion):
    whole, broken = went(3), went(3, broken=(1,))
    assert [t.values for t in broken[:4]] == [t.values for t in whole[:4]]
    away = [share(d, broken[4].values[key]) - share(d, whole[1].values[key]) for key, d in SPACE.items()]
    assert np.abs(away).max() > 0.06  # further than a step
    assert broken[5].values == whole[5].values  # the others do not mind


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "toy.tsv"
    write_lines(path, toy_lines())
    return path


RATE, PULL = Between(1e-3, 1e-1, log=True), Between(0.01, 10.0, log=True)
DOMAINS = {"train.learning_rate": RATE, "evaluate.learning_rates": RATE, "transfer.strengths": PULL}
SEARCH = """[search]
trials = 5
sampler = "hypergradient"
starts = 2
folds = 2
at_once = 2
method = "l2_sp"
space = { "train.learning_rate" = { low = 1e-3, high = 1e-1, log = true }, \
"evaluate.learning_rates" = { low = 1e-3, high = 1e-1, log = true }, \
"transfer.strengths" = { low = 0.01, high = 10.0, log = true } }
"""


@pytest.mark.slow
def test_a_search_by_hypergradients_goes_on_where_it_was_cut_off(toy, tmp_path, monkeypatch):
    path = toml(toy, tmp_path / "toy.toml", SEARCH)
    assert jaxmeta("search", str(path), "--out", str(tmp_path / "whole")) == 0
    whole = lines(tmp_path / "whole")
    assert [line["trial"] for line in whole] == [0, 1, 2, 3, 4]
    for line in whole:
        assert set(line["slopes"]) == {"train.learning_rate", "evaluate.learning_rates", "transfer.strengths"}
        assert line["loss"] > 0
        assert all(np.isfinite(list(line["slopes"].values())))
    # Against the slope, by a tenth of the range: Adam's first step.
    for start in range(2):
        before, after = whole[start], whole[start + 2]
        for key, domain in DOMAINS.items():
            way = share(domain, after["values"][key]) - share(domain, before["values"][key])
            assert way * before["slopes"][key] < 0
            assert abs(way) < 0.1 + 1e-3
        way = share(RATE, after["values"]["train.learning_rate"]) - share(RATE, before["values"]["train.learning_rate"])
        assert abs(way) == pytest.approx(0.1, abs=1e-3)
    best = max(whole, key=lambda line: line["score"])
    written = load(tmp_path / "whole" / "best.toml")
    assert written.transfer.strengths == (best["values"]["transfer.strengths"],)
    assert (tmp_path / "whole" / "trials.png").stat().st_size > 1000

    # As a kill leaves it behind the first three, in the middle of a step of the descents.
    again = tmp_path / "again"
    again.mkdir()
    (again / "search.json").write_bytes((tmp_path / "whole" / "search.json").read_bytes())
    kept = (tmp_path / "whole" / "trials.jsonl").read_text("utf-8").splitlines(keepends=True)[:3]
    (again / "trials.jsonl").write_text("".join(kept), "utf-8")
    finished, ran = searching_module._Runner.run, []
    monkeypatch.setattr(
        searching_module._Runner, "run", lambda self, p: (ran.append([t.number for t in p]), finished(self, p))[1]
    )
    assert jaxmeta("search", str(path), "--out", str(again)) == 0
    assert ran == [[3], [4]]
    # The third trial stood beside another one before, and a sum over lanes of the processor ends in other last bits.
    for ours, theirs in zip(lines(again), whole, strict=True):
        for part in ("values", "slopes"):
            assert ours.pop(part) == pytest.approx(theirs.pop(part), rel=1e-4, abs=1e-6)
        assert ours.pop("loss") == pytest.approx(theirs.pop("loss"), rel=1e-5)
        assert ours == theirs


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "fomaml"), "to first order"),
        (("--method", "reptile"), "to first order"),
    ],
)
def test_what_has_no_exact_gradient_is_refused(toy, tmp_path, capsys, words, said):
    path = toml(toy, tmp_path / "toy.toml", '[search]\nsampler = "hypergradient"\nfolds = 1\n')
    assert jaxmeta("search", str(path), "--out", str(tmp_path / "out"), *words) == 2
    assert said in capsys.readouterr().err


def test_choices_have_no_gradient(toy, tmp_path, capsys):
    for space, said in (('"inner.steps" = [1, 2]', "there are hypergradients of"),
                        ('"train.clip" = [1.0, 2.0]', "needs a range")):  # fmt: skip
        path = toml(toy, tmp_path / "toy.toml", f'[search]\nsampler = "hypergradient"\nspace = {{ {space} }}\n')
        assert jaxmeta("search", str(path), "--out", str(tmp_path / "out")) == 2
        assert said in capsys.readouterr().err
