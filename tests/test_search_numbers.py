"""Settings that one compiled program is given: side by side they give what runs of their own give."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from shipped import FOLDER
from test_learned_optimizer import TINY as CHILDREN
from test_search import config_of, of_its_own
from tiny_run import environment, toy_lines, write_lines

from jaxmeta.config import build, load
from jaxmeta.config.read import changed
from jaxmeta.config.search_space import LISTED, SLOPED, TRACED
from jaxmeta.config.searching import side_by_side

# A method, and the numbers that it reads beside its rates, each as it is in a run of its own.
READ = {
    "joint_finetune": {"train.label_smoothing": 0.3},
    "distillation": {"train.label_smoothing": 0.3, "transfer.temperature": 9.0},
    "cavia": {"inner.context_learning_rate": 5.0},
    "imaml": {"inner.proximal": 4.0},
    # Of such a weight nothing but the gates learns.
    "meta_network": {"generator.learning_rate": 0.3, "generator.cost_weight": 1e10},
    "maml": {"inner.coupling": 1.0},
    "es_maml": {"inner.perturbation": 1.0},
    "learned_optimizer": {"children.scale": 1.0},
}
OWN_RATES = {"cavia": "inner.context_learning_rate", "meta_network": "generator.learning_rate"}
POLICIES = {
    "task.shots": 3, "task.queries": 3, "task.tasks_per_step": 2, "task.test_languages": 2, "task.dev_languages": 2,
    "model.width": 4, "model.layers": 1, "train.steps": 8, "train.learning_rate": 0.03, "inner.steps": 1,
    "evaluate.steps": (1,),
}  # fmt: skip
LONGER = {"evaluate.steps": (40,), "train.learning_rate": 0.3}  # so that what a rule has learned is seen


def small(tmp_path, method, more):
    """Returns a config of a method and of nothing else, of few numbers."""
    alone = {"evaluate.methods": (method,), "evaluate.main": method}
    if method in ("maml", "es_maml", "learned_optimizer"):
        name, few = (method, CHILDREN | LONGER) if method == "learned_optimizer" else ("navigation_2d", POLICIES)
        return changed(load(str(FOLDER / f"{name}.toml")), {**few, **alone, **more}, "the test")
    path = tmp_path / "toy.tsv"
    write_lines(path, toy_lines())
    # Fine-tuning goes far from where it began, and is held back.
    far = {"evaluate.learning-rates": 0.3, "transfer.strengths": (3.0,), "evaluate.steps": (3,)}
    few = {"model.kind": "ngrams", "model.buckets": 64, "train.learning_rate": 0.03, "train.warm_start": 0.0}
    return config_of(path, **alone, **far, **few, **more)


def judged_finely(built):
    """Judges classes by a score that every number changes."""
    judging = built.experiment.judging
    if judging.metric == "accuracy":
        judging = judging._replace(metric="nll", higher_is_better=False)
    return built._replace(experiment=built.experiment._replace(judging=judging))


def number(config, key):
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def test_every_number_is_tried():
    assert {key for others in READ.values() for key in others} == {*TRACED} - {*SLOPED}
    assert {*LISTED} <= {*SLOPED}


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(READ.keys() - {"meta_network"}))
def test_whatever_is_a_number_runs_side_by_side(tmp_path, standard_promotion, method):
    compare(method, tmp_path)


@pytest.mark.slow
def test_the_numbers_of_a_meta_network_run_side_by_side(tmp_path):
    """In a process of its own, which compiles in full: as tests compile, one score of these differs by 0.2%."""
    code = (
        f"import pathlib, test_search_numbers as these; these.compare('meta_network', pathlib.Path({str(tmp_path)!r}))"
    )
    tests = str(pathlib.Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tests, env=environment(XLA_FLAGS=""), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def compare(method, folder):
    """Asserts that a method's defaults, and each of its numbers in turn, score side by side what they score alone."""
    others = READ[method]
    configs = [small(folder, method, more) for more in ({}, *({key: value} for key, value in others.items()))]
    values = {key: np.array([number(config, key) for config in configs]) for key in ("train.learning_rate", *others)}
    built = judged_finely(build(configs[0]))
    found = side_by_side(built).scores(values, built.tasks, training_seed=0, seed=0).scores
    assert np.diff(np.sort(found)).min() > max(1e-3, 2e-4 * np.abs(found).max())
    for place, config in enumerate(configs):
        rate = number(config, OWN_RATES.get(method, "inner.learning_rate"))
        expected = of_its_own(judged_finely(build(config)).experiment, folder / str(place), rate)
        assert found[place] == pytest.approx(expected, rel=1e-4)
