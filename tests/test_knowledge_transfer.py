"""Knowledge transfer: closed forms, both ends of the strength, what is frozen when, nearest sources, the guard."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_run import TINY, jaxmeta, toy_lines, toy_shots, train, write_lines

from jaxmeta.algorithms import (
    Unfreezing,
    distillation,
    feature_matching,
    knowledge_transfer,
    l2_sp,
    maml,
    source_replay,
)
from jaxmeta.config import build, load
from jaxmeta.config.methods import phases_and_methods
from jaxmeta.config.transferring import pairs
from jaxmeta.core.adapt import adapt
from jaxmeta.core.checks import InputError
from jaxmeta.core.select import matching
from jaxmeta.core.types import Episode
from jaxmeta.models import mlp, plain
from jaxmeta.objectives import classification, regression
from jaxmeta.run.guard import guarded, says_alone
from jaxmeta.run.plan import Pulled
from jaxmeta.run.records import read_evaluation

EXAMPLES, CLASSES = 7, 3
LINEAR = plain(
    init=lambda key, inputs: {"w": jax.random.normal(key, (inputs.shape[-1], CLASSES), inputs.dtype)},
    apply=lambda params, inputs: inputs @ params["w"],
)


@pytest.fixture
def doubles():
    with jax.enable_x64(True):
        yield np.random.default_rng(0)


def examples(rng, *, classes=False):
    """Random examples, the last of which is padding."""
    targets = np.arange(EXAMPLES, dtype=np.int32) % CLASSES if classes else rng.normal(size=(EXAMPLES, CLASSES))
    mask = np.arange(EXAMPLES) < EXAMPLES - 1
    return {"inputs": rng.normal(size=(EXAMPLES, 4)), "targets": targets, "mask": mask}


def stepped(algorithm, source, support, steps):
    """Returns the parameters after some steps from those of a source model."""
    state, _ = adapt(algorithm, jax.random.key(0), {"params": source}, support, num_steps=steps)
    return state.fast


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


# -- gradients, by what a step of SGD of rate 1 changes


def gradient_at(regularizer, objective, source, now, support, strength):
    """Returns the gradient of `(L + λ R) / (1 + λ)` at parameters that are not those of the source model."""
    algorithm = knowledge_transfer(LINEAR, objective, optax.sgd(1.0), regularizer, strength=strength)
    meta_params = {"params": {"w": source}}
    state = algorithm.begin(jax.random.key(0), meta_params, support)._replace(fast={"w": now})
    after, _ = algorithm.step(jax.random.key(0), meta_params, state, support)
    return now - after.fast["w"]


def closed_form(name, source, now, support, temperature):
    """Returns the gradient of R by hand, for outputs `x W`."""
    x = support["inputs"][:-1]
    if name == "l2_sp":
        return now - source
    if name == "feature_matching":  # a linear model's features are its outputs
        return 2 * x.T @ (x @ (now - source)) / (len(x) * CLASSES)
    ours, theirs = (softmax(x @ w / temperature) for w in (now, source))
    return temperature * x.T @ (ours - theirs) / len(x)


@pytest.mark.parametrize("name", ["l2_sp", "distillation", "feature_matching"])
@pytest.mark.parametrize("strength", [0.3, 20.0])
def test_the_gradient_is_that_of_the_closed_form(doubles, name, strength):
    temperature = 3.0
    made = {"l2_sp": l2_sp, "distillation": distillation(temperature), "feature_matching": feature_matching()}
    support, source, now = examples(doubles), doubles.normal(size=(4, CLASSES)), doubles.normal(size=(4, CLASSES))
    x, y = support["inputs"][:-1], support["targets"][:-1]
    found = gradient_at(made[name], regression(), jnp.asarray(source), jnp.asarray(now), support, strength)
    plain_gradient = 2 * x.T @ (x @ now - y) / (len(x) * CLASSES)
    expected = plain_gradient + strength * closed_form(name, source, now, support, temperature)
    np.testing.assert_allclose((1 + strength) * np.asarray(found), expected, rtol=1e-10, atol=1e-12)


def test_l2_sp_goes_to_the_minimum_of_its_quadratic(doubles):
    support, source, strength = examples(doubles), doubles.normal(size=(4, CLASSES)), 0.7
    x, y = support["inputs"][:-1], support["targets"][:-1]
    algorithm = knowledge_transfer(LINEAR, regression(), optax.sgd(0.5), l2_sp, strength=strength)
    found = stepped(algorithm, {"w": jnp.asarray(source)}, support, 400)["w"]
    scale = 2 / (len(x) * CLASSES)
    minimum = np.linalg.solve(scale * x.T @ x + strength * np.eye(4), scale * x.T @ y + strength * source)
    np.testing.assert_allclose(found, minimum, rtol=1e-9)


def test_teachers_may_be_asked_about_other_inputs(doubles):
    support, source, now = examples(doubles), doubles.normal(size=(4, CLASSES)), doubles.normal(size=(4, CLASSES))
    unlabelled = {"inputs": doubles.normal(size=(5, 4))}
    found = feature_matching(unlabelled)(LINEAR, {"w": now}, {"w": source}, support)
    assert found == pytest.approx(np.mean((unlabelled["inputs"] @ (now - source)) ** 2))
    away = distillation(2.0, unlabelled)(LINEAR, {"w": jnp.asarray(now)}, {"w": jnp.asarray(source)}, support)
    ours, theirs = (softmax(unlabelled["inputs"] @ w / 2.0) for w in (now, source))
    assert away == pytest.approx(4 * np.mean(np.sum(theirs * np.log(theirs / ours), axis=1)))


def test_absent_classes_have_no_say(doubles):
    support, source, now = (
        examples(doubles, classes=True),
        doubles.normal(size=(4, CLASSES)),
        doubles.normal(size=(4, CLASSES)),
    )
    support["classes"] = np.tile(np.array([True, True, False]), (EXAMPLES, 1))
    found = distillation(1.0)(LINEAR, {"w": jnp.asarray(now)}, {"w": jnp.asarray(source)}, support)
    two = {**support, "classes": np.ones((EXAMPLES, 2), bool)}
    of_two = distillation(1.0)(LINEAR, {"w": jnp.asarray(now[:, :2])}, {"w": jnp.asarray(source[:, :2])}, two)
    assert found == pytest.approx(of_two)


# -- the two ends of the strength


@pytest.mark.parametrize("regularizer", [l2_sp, distillation(), feature_matching()])
@pytest.mark.parametrize("zero", [0, jnp.float32(0.0)])
def test_without_strength_it_is_fine_tuning_bit_for_bit(regularizer, zero):
    rng = np.random.default_rng(1)
    support = jax.tree.map(lambda leaf: leaf.astype(np.float32) if leaf.dtype == float else leaf,
                           examples(rng, classes=True))  # fmt: skip
    model, optimizer = mlp((5,), CLASSES), optax.adam(0.05)
    source = model.init(jax.random.key(3), support["inputs"])
    with jax.numpy_dtype_promotion("standard"):  # Adam's own
        held = knowledge_transfer(model, classification(CLASSES), optimizer, regularizer, strength=zero)
        tuned = maml(model, classification(CLASSES), optimizer)
        found, expected = (stepped(algorithm, source, support, 6) for algorithm in (held, tuned))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(source), strict=True))


@pytest.mark.parametrize("regularizer", [l2_sp, distillation(), feature_matching()])
def test_with_all_strength_it_stays_at_the_source(doubles, regularizer):
    support, source = examples(doubles, classes=True), doubles.normal(size=(4, CLASSES))

    def moved(strength):
        algorithm = knowledge_transfer(LINEAR, classification(CLASSES), optax.sgd(0.3), regularizer, strength=strength)
        return jnp.abs(stepped(algorithm, {"w": jnp.asarray(source)}, support, 20)["w"] - source).max()

    far = jax.jit(jax.vmap(moved))(np.array([1.0, 1e3, 1e6, 1e12])).tolist()
    assert far == sorted(far, reverse=True)
    assert far[0] > 1e-2
    assert far[-1] < 1e-10


# -- unfreezing


def test_what_is_frozen_stays_to_the_bit_and_the_rest_moves(doubles):
    every, support = 2, examples(doubles, classes=True)
    model = mlp((5, 4), CLASSES, activation=jnp.tanh, param_dtype=np.float64)
    source = model.init(jax.random.key(0), support["inputs"])
    schedule = Unfreezing(tuple(matching(f"^{name}/") for name in reversed(source)), every)
    algorithm = knowledge_transfer(
        model, classification(CLASSES), optax.sgd(0.1, momentum=0.9), unfreezing=schedule, strength=0
    )
    states, _ = adapt(algorithm, jax.random.key(0), {"params": source}, support, num_steps=3 * every, trace=True)
    names = list(reversed(source))
    for step in range(3 * every):
        thawed = set(names[: step // every + 1])
        for name in names:
            before, after = (jax.tree.map(lambda leaf, k=k: leaf[k], states.fast[name]) for k in (step, step + 1))
            same = [np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]
            assert all(same) if name not in thawed else not any(same), (step, name)


def test_what_is_in_no_group_comes_last(doubles):
    support = examples(doubles, classes=True)
    model = mlp((5,), CLASSES, param_dtype=np.float64)
    source = model.init(jax.random.key(0), support["inputs"])
    algorithm = knowledge_transfer(
        model, classification(CLASSES), optax.sgd(0.1), unfreezing=Unfreezing((matching("^head/"),), 2)
    )
    (hidden,) = (name for name in source if name != "head")
    for steps, moved in ((2, False), (3, True)):
        found = stepped(algorithm, source, support, steps)
        assert np.array_equal(found[hidden]["kernel"], source[hidden]["kernel"]) is not moved
        assert not np.array_equal(found["head"]["kernel"], source["head"]["kernel"])


def test_wrong_arguments_are_named():
    build_it = functools.partial(knowledge_transfer, LINEAR, regression(), optax.sgd(0.1))
    with pytest.raises(ValueError, match="`strength` must be zero or more"):
        build_it(l2_sp, strength=-1.0)
    with pytest.raises(ValueError, match=r"`unfreezing.every` must be positive"):
        build_it(unfreezing=Unfreezing((matching("w"),), 0))
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        distillation(0.0)
    batch = {"inputs": np.ones((2, 4), np.float32), "targets": np.ones((2, 3), np.float32)}
    with pytest.raises(ValueError, match="matches no parameter"):
        build_it(unfreezing=Unfreezing((matching("tail"),), 1)).init(jax.random.key(0), Episode(batch, batch))


@pytest.mark.parametrize("name", ["distillation", "feature_matching"])
def test_sequences_of_vectors_are_not_compared(name):
    """Of the places of a sequence some are padding, which no mask of examples tells."""
    regularizer = distillation() if name == "distillation" else feature_matching()
    batch = {"inputs": np.ones((2, 5, 4), np.float32), "mask": np.ones(2, bool), "classes": np.ones((2, 3), bool)}
    params = {"w": np.ones((4, 3), np.float32)}
    with pytest.raises(ValueError, match=rf"`{name}` compares one vector for each example, .* \(2, 5, 3\)"):
        regularizer(LINEAR, params, params, batch)


# -- nearest sources


def test_replay_draws_from_the_languages_that_the_support_names():
    languages = np.array([2, 0, 1, 2, 0, 2])
    source = {"inputs": np.stack([languages, np.arange(6)], axis=1).astype(np.float32),
              "targets": np.zeros(6, np.int32)}  # fmt: skip
    seen = []

    base = maml(LINEAR, classification(CLASSES), optax.sgd(0.1))

    def watched(key, meta_params, state, support):
        seen.append(np.asarray(support["inputs"]))
        return state, {}

    replay = source_replay(base._replace(step=watched), source, num_examples=64, languages=languages)
    support = {"inputs": np.full((2, 2), 9, np.float32), "targets": np.zeros(2, np.int32),
               "near": np.array([[2, 1], [2, 1]], np.int32)}  # fmt: skip
    replay.step(jax.random.key(0), {}, (), support)
    rows = seen[0][2:]
    assert set(rows[:, 0].tolist()) == {1.0, 2.0}
    assert set(rows[rows[:, 0] == 2][:, 1].tolist()) == {0.0, 3.0, 5.0}
    assert 0.3 < np.mean(rows[:, 0] == 1) < 0.7  # each language alike, however many rows it has
    replay.step(jax.random.key(0), {}, (), {name: leaf for name, leaf in support.items() if name != "near"})
    assert set(seen[1][2:, 0].tolist()) == {0.0, 1.0, 2.0}
    with pytest.raises(ValueError, match="one for each example"):
        source_replay(base, source, num_examples=1, languages=languages[:2])


# -- in configs


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "toy.tsv"
    write_lines(path, toy_lines())
    return path


def config_of(toy, *methods, **changes):
    keys = TINY | {"task.path": str(toy), "evaluate.methods": ("joint_finetune", *methods)} | changes
    keys |= {"evaluate.learning-rates": (0.003, 0.01, 0.03), "evaluate.sgd-learning-rates": (0.05,)}
    return load(changes={key.replace("-", "_"): value for key, value in keys.items()})


def test_pairs_are_no_more_than_rates():
    assert pairs((1, 2, 3), (10, 20, 30)) == [Pulled(2, 10), Pulled(2, 20), Pulled(2, 30)]
    assert pairs(range(9), (1, 2)) == [Pulled(r, s) for r in (1, 3, 5, 7) for s in (1, 2)]
    assert pairs((1,), (1, 2)) == [Pulled(1, 1), Pulled(1, 2)]
    assert all(len(pairs(range(r), range(s))) <= r for r in range(1, 12) for s in range(1, r + 1))


def test_a_config_names_them_and_none_is_given_more_trials(toy):
    names = ("l2_sp", "distillation", "feature_matching", "gradual_unfreezing", "nearest_sources")
    built = build(config_of(toy, *names))
    _, methods = phases_and_methods(built.setting)
    assert {method.phase for method in methods} == {"joint"}
    assert {len(method.learning_rates) * len(method.steps) for method in methods} == {6}
    train_languages = list(built.tasks.languages("train"))
    episode = built.tasks.episode(built.tasks.languages("test")[0], shots=2, draw=0, split="test")
    assert episode.support["near"].shape == (6, min(3, len(train_languages)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"transfer.unfreeze": ("^tail/",)}, "`transfer.unfreeze`"),
        ({"transfer.unfreeze": ("(",)}, "no regular expression"),
        ({"transfer.strengths": ()}, "`transfer.strengths`"),
        ({"transfer.strengths": (-1.0,)}, "`transfer.strengths`"),
        ({"evaluate.guard_methods": ("tfidf",)}, "`evaluate.guard_methods`"),
        (
            {
                "evaluate.guard_methods": ("gradual_unfreezing",),
                "evaluate.methods": ("gradual_unfreezing", "target_only"),
                "task.shots": 1,
            },
            "needs folds of the shots",
        ),
    ],
)
def test_wrong_settings_are_one_sentence(toy, changes, said):
    with pytest.raises(InputError, match=said):
        build(config_of(toy, "gradual_unfreezing", **changes))


# -- the guard


def answered(*counts):
    """Returns which of ten shots are answered right, the first so many of each."""
    return [np.arange(10) < count for count in counts]


def test_the_guard_believes_more_than_chance():
    assert not says_alone(*answered(5, 5))
    assert not says_alone(*answered(5, 6))  # one shot ahead is one standard error
    assert says_alone(*answered(5, 8))
    assert not says_alone(*answered(8, 5))
    # Eight right of ten and none that both have: five ahead, three behind.
    ours, alone = np.array([1] * 4 + [0] * 5 + [1], bool), np.array([0] * 4 + [1] * 5 + [1], bool)
    assert not says_alone(ours, alone)


@pytest.mark.parametrize("higher", [True, False])
def test_the_guard_takes_the_shots_alone_where_they_say_so(higher):
    sign = 1.0 if higher else -1.0
    # Two languages of two draws, two training seeds.
    own = sign * np.array([[50, 60, 50, 60], [80, 80, 80, 80]], float)
    alone = sign * np.array([[70, 55, 70, 65], [20, 20, 20, 90]], float)
    right = {"joint": answered(3, 3, 9, 3), "target_only": answered(9, 9, 3, 3)}
    found = guarded({"joint": own, "target_only": alone}, right, ["joint"], draws=2, folds=2, metric="accuracy",
                    higher_is_better=higher)  # fmt: skip
    result = found["methods"]["joint"]
    assert (result["problems"], result["alone"], result["hurt"], result["caught"]) == (8, 4, 4, 3)
    assert result["mean"] == pytest.approx(sign * np.mean([70, 55, 70, 65, 80, 80, 80, 80]))
    assert result["gain"] == pytest.approx((20 - 5 + 20 + 5) / 8)
    assert "target_only in 4 of 8 problems, right in 3 of them; it does better in 4" in found["says"]


@pytest.mark.slow
def test_a_run_tells_what_each_way_of_transfer_came_to(toy, tmp_path):
    changes = {
        "task.path": str(toy), "evaluate.methods": ("target_only", "l2_sp", "nearest_sources"),
        "evaluate.guard-methods": "l2_sp", "evaluate.temperature-methods": (), "evaluate.steps": 2,
        "evaluate.learning-rates": (0.003, 0.01, 0.03),
        "evaluate.main": "l2_sp", "task.queries": 2,
    }  # fmt: skip
    assert jaxmeta(*train(str(tmp_path / "run"), changes)) == 0
    found = read_evaluation(tmp_path / "run")
    chosen = found["methods"]["l2_sp"]["adaptation"]
    assert chosen["strength"] in (0.01, 0.1, 1.0)
    assert chosen["learning_rate"] == 0.01
    assert found["guard"]["folds"] == 2
    assert {name: result["problems"] for name, result in found["guard"]["methods"].items()} == {"l2_sp": 2}
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Negative-transfer guard" in page
    assert found["guard"]["says"] in page.replace("&#x27;", "'")
    # What was chosen is what a user's language is adapted by.
    write_lines(tmp_path / "shots.tsv", toy_shots())
    words = ("adapt", str(tmp_path / "run"), "--shots", str(tmp_path / "shots.tsv"), "--out", str(tmp_path / "zz"))
    assert jaxmeta(*words) == 0
    assert json.loads((tmp_path / "zz" / "adapted.json").read_text("utf-8"))["strength"] == chosen["strength"]
    write_lines(tmp_path / "new.txt", ["zzbbb zz 1"])
    assert jaxmeta("predict", str(tmp_path / "zz"), "--input", str(tmp_path / "new.txt")) == 0
