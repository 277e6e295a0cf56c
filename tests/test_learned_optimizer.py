"""Learned optimizers: what a rule computes, how it fits other people's loops, the children, a run and its files."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shipped import FOLDER
from tiny_run import jaxmeta

import jaxmeta as jm
from jaxmeta.algorithms import on_minibatches
from jaxmeta.algorithms.mlp_rule import mlp_rule
from jaxmeta.config import build, dump, load, load_optimizer
from jaxmeta.config.child_methods import child_model
from jaxmeta.config.commands import train_run
from jaxmeta.config.kinds import settled
from jaxmeta.config.planning import method_to_plan
from jaxmeta.config.read import changed
from jaxmeta.config.setting import make_setting
from jaxmeta.core.checks import InputError
from jaxmeta.data import CHILD_CLASSES, ChildEpisodes
from jaxmeta.data.children import hashed_ngrams
from jaxmeta.run.experiment import checkpoints_of
from jaxmeta.run.reaching import reaching

PARAMS = {
    "kernel": np.arange(12, dtype=np.float32).reshape(4, 3) / 10 - 0.5,
    "bias": np.ones(3, np.float32),
    "scale": np.float32(2.0),
}


def target(params) -> jax.Array:
    """A loss with a minimum, of every shape of parameter."""
    return jnp.sum(jnp.square(params["kernel"].sum(axis=0) - params["scale"] * params["bias"] + 1))


def trained(optimizer: optax.GradientTransformation, params=PARAMS, steps: int = 30):
    @jax.jit
    def run(params):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(target)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0]

    return run(params)


def still_weights(rule, rate: float):
    """A perceptron with nothing to say."""
    shapes = jax.eval_shape(lambda key: rule.init(key, jnp.float32), jax.random.key(0))
    weights = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return {**weights, "log_rate": np.log(np.float32(rate))}


def test_a_rule_whose_perceptron_says_nothing_is_adam(standard_promotion):
    rule = mlp_rule((5,))
    got = trained(jm.as_optax(rule, still_weights(rule, 0.02)))
    want = trained(optax.adam(0.02, b1=0.9, b2=0.99))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


@pytest.mark.parametrize("rule", [jm.mlp_rule((4,)), jm.lstm_rule(3, 2, rate=1.0)], ids=["mlp", "lstm"])
def test_a_rule_serves_any_tree_in_any_precision_inside_a_chain(rule, standard_promotion):
    weights = rule.init(jax.random.key(1), jnp.float32)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), jm.as_optax(rule, weights))
    params = [{"a": jnp.ones((2, 3, 4), jnp.bfloat16)}, (jnp.ones(()), None, jnp.ones(5))]
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.tree.map(lambda p: p * 3, params), state, params)
        return optax.apply_updates(params, updates), state

    new, later = step(*step(params, state))
    types = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)  # noqa: E731
    assert types(new) == types(params)
    assert types(later) == types(jax.eval_shape(lambda s: s, state))
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(params), strict=True))


def test_a_rule_without_parameters_says_what_it_needs():
    rule = mlp_rule((4,))
    optimizer = jm.as_optax(rule, rule.init(jax.random.key(0), jnp.float32))
    with pytest.raises(ValueError, match="reads the parameters too"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))


def first_update(rule, weights, gradients, params):
    return jax.jit(lambda *args: rule.update(weights, rule.begin(weights, params), *args)[0])(gradients, params)


def test_steps_of_the_perceptron_do_not_depend_on_the_scale_of_the_loss():
    """All it is told of gradients is relative, but for their size in the array, which is left out here.

    So are the inverse roots of the second moments, whose smallest are held above zero.
    """
    rule = mlp_rule((5,))
    weights = rule.init(jax.random.key(3), jnp.float32)
    first, last = weights["layers"]["layer_0"], weights["layers"]["layer_1"]
    first = {**first, "kernel": first["kernel"].at[np.array([2, 3, 14])].set(0.0)}
    weights = {**weights, "layers": {"layer_0": first, "layer_1": jax.tree.map(lambda leaf: 30 * leaf, last)}}
    slopes = jax.grad(target)(PARAMS)
    one, other = (
        first_update(rule, weights, jax.tree.map(lambda g, s=s: s * g, slopes), PARAMS) for s in (1.0, 1000.0)
    )
    assert any(np.any(a != 0) for a in jax.tree.leaves(one))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6), one, other)


def test_an_lstm_reads_signs_and_logarithms():
    rule = jm.lstm_rule(4, 1, rate=1.0)
    weights = rule.init(jax.random.key(0), jnp.float32)
    params = jnp.zeros(3)
    update = lambda g: first_update(rule, weights, g, params)  # noqa: E731
    # Equal gradients have equal updates; below the smallest logarithm they are read as they are, without a jump.
    small = np.exp(-10.0)
    near = update(jnp.array([1.0001 * small, 0.9999 * small, small]))
    np.testing.assert_allclose(near, near[:1].repeat(3), atol=1e-3)
    assert abs(float(update(jnp.full(3, 1.0))[0] - update(jnp.full(3, -1.0))[0])) > 1e-3


def waves(seed: int, tasks: int) -> jm.Episode:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tasks, 24, 2)).astype(np.float32)
    y = np.sin(x @ rng.normal(size=(tasks, 2, 1)).astype(np.float32))
    return jm.Episode(*({"inputs": x[:, part], "targets": y[:, part]} for part in (slice(16), slice(16, 24))))


def test_a_loss_that_diverged_is_the_ceiling():
    model = jm.models.mlp((4,), 1)
    algorithm = jm.learned_optimizer(mlp_rule((3,)), model, jm.objectives.regression(), ceiling=2.0)
    task = jax.tree.map(lambda leaf: leaf[0], waves(0, 1))

    @jax.jit
    def losses(key):
        meta_params = algorithm.init(key, task)
        state = algorithm.begin(key, meta_params, task.support)
        broken = state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.params))
        return [algorithm.loss(key, meta_params, child, task.query)[0] for child in (state, broken)]

    good, bad = losses(jax.random.key(0))
    assert good < 2.0
    assert bad == 2.0


def test_a_child_that_diverged_has_no_say_in_the_gradient():
    """Of three children whose gradients are added up, one goes on from numbers that are none."""
    model, task = jm.models.mlp((4,), 1), jax.tree.map(lambda leaf: leaf[0], waves(0, 1))
    algorithm = jm.learned_optimizer(mlp_rule((3,)), model, jm.objectives.regression(), ceiling=1e6)
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), task)

    def loss(meta_params, key, damage):
        """After a step, what was found broken, and two more steps."""
        keys = jax.random.split(key, 4)
        state = algorithm.begin(keys[0], meta_params, task.support)
        state = algorithm.step(keys[1], meta_params, state, task.support)[0]
        state = state._replace(params=jax.tree.map(lambda leaf: leaf * damage, state.params))
        for step_key in keys[2:]:
            state = algorithm.step(step_key, meta_params, state, task.support)[0]
        return algorithm.loss(key, meta_params, state, task.query)[0]

    @jax.jit
    def gradient(damages):
        keys = jax.random.split(jax.random.key(1), 3)[: len(damages)]
        return jax.grad(lambda p: jnp.sum(jax.vmap(loss, in_axes=(None, 0, 0))(p, keys, damages)))(meta_params)

    sound = gradient(jnp.ones(2))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(sound))
    for broken in (jnp.nan, 1e30):
        got = gradient(jnp.array([1, 1, broken]))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8), got, sound)
    assert not any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient(jnp.full(3, jnp.inf))))


def test_a_rule_meets_the_child_and_the_minibatches_that_an_ordinary_optimizer_meets(standard_promotion):
    model, objective = jm.models.mlp((4,), 1), jm.objectives.regression()
    rule = mlp_rule((3,))
    task = jax.tree.map(lambda leaf: leaf[0], waves(0, 1))
    ours = jm.learned_optimizer(rule, model, objective, batch_size=4)
    theirs = on_minibatches(jm.target_only(model, objective, optax.adam(0.01, b2=0.99)), 4)
    key = jax.random.key(5)
    run = lambda algorithm: jax.jit(lambda p: jm.adapt(algorithm, key, p, task.support, num_steps=8)[0])  # noqa: E731
    got, want = run(ours)({"params": still_weights(rule, 0.01)}), run(theirs)({})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got.params, want.fast)


@pytest.mark.slow
def test_together_is_the_mean_of_estimators_on_shares_of_the_tasks():
    rule, objective = mlp_rule((3,)), jm.objectives.regression()
    children = [jm.learned_optimizer(rule, jm.models.mlp((width,), 1), objective) for width in (2, 5)]
    each = [jm.evolution(child, num_steps=2, scale=0.1) for child in children]
    episodes = waves(1, 4)
    meta_params = {"params": rule.init(jax.random.key(0), jnp.float32)}
    key, both = jax.random.key(7), jm.together(*each)
    state = both.init(key, meta_params, episodes)
    got, _, metrics = jax.jit(both.estimate)(key, meta_params, state, episodes)
    parts = [
        jax.jit(one.estimate)(own, meta_params, (), jax.tree.map(lambda leaf, n=n: leaf[2 * n : 2 * n + 2], episodes))
        for n, (one, own) in enumerate(zip(each, jax.random.split(key, 2), strict=True))
    ]
    want = jax.tree.map(lambda a, b: (a + b) / 2, parts[0][0], parts[1][0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)
    np.testing.assert_allclose(metrics["loss"], (parts[0][2]["loss"] + parts[1][2]["loss"]) / 2, rtol=1e-6)
    with pytest.raises(ValueError, match="`together` deals tasks out in equal shares, got 3 for 2"):
        both.init(key, meta_params, waves(1, 3))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (lambda child: jm.displacement(child, num_steps=1), "adapts a copy of its parameters"),
        (lambda child: jm.implicit(child, num_steps=1), "a minimum that the meta-parameters place"),
        (jm.pooled, "no inner step"),
    ],
    ids=["displacement", "implicit", "pooled"],
)
def test_estimators_that_mean_nothing_for_it_are_refused(estimator, message):
    child = jm.learned_optimizer(mlp_rule((3,)), jm.models.mlp((2,), 1), jm.objectives.regression())

    def train():
        learner = jm.build_learner(child, estimator(child), optax.sgd(0.1))
        jax.eval_shape(learner.update, jax.eval_shape(learner.init, jax.random.key(0), waves(0, 2)), waves(0, 2))

    with pytest.raises(ValueError, match=message):
        train()


@pytest.fixture(scope="module")
def children():
    return ChildEpisodes(examples=40, queries=12, buckets=16, length=24, each=2, test=6, dev=4)


def test_children_share_no_language_and_no_sentence_with_those_that_are_judged(children):
    split = children.split
    assert not set(split.train) & set(split.dev) | set(split.dev) & set(split.test) | set(split.train) & set(split.test)
    assert len(children.names["test"]) == 9
    assert set("+".join(n.partition(":")[2] for n in children.names["test"]).split("+")) == set(split.test)
    for task, corpus in children.corpora.items():
        sentences = {role: set(corpus.sentence[corpus.split == role].tolist()) for role in ("train", "dev", "test")}
        assert not sentences["train"] & sentences["test"], task
        assert not sentences["dev"] & sentences["test"], task


def test_children_are_pure_in_their_number(children):
    one, again, other = children(3), children(3), children(4)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert np.any(one.support["inputs"]["tokens"] != other.support["inputs"]["tokens"])
    assert np.any(children.drawn_by(1)(3).support["inputs"]["tokens"] != one.support["inputs"]["tokens"])
    judged = children.evaluation_episode(children.names["dev"][0], draw=0, split="dev")
    assert judged.support["inputs"]["counts"].shape == (40, 16)
    assert judged.query["classes"].shape == (12, CHILD_CLASSES)
    real = judged.support["mask"]
    np.testing.assert_allclose(np.square(judged.support["inputs"]["counts"][real]).mean(axis=1), 1, rtol=1e-5)


def test_hashed_ngrams_count_what_stands_there():
    texts = np.array([[1, 2, 0, 0], [2, 1, 0, 0], [1, 2, 1, 2], [0, 0, 0, 0]])
    bags = hashed_ngrams(texts, 4096)
    assert (bags[0] > 0).sum() == 3  # two letters and the pair
    assert np.any(bags[0] != bags[1])
    assert (bags[2] > 0).sum() == 2 + 2 + 2
    assert not bags[3].any()


def test_reaching_counts_children_and_steps():
    def method(kind, steps, curves, end):
        return {"kind": kind, "adaptation": {"steps": end}, "by_steps": {"steps": steps, "per_language": curves}}

    steps = [0, 10, 20, 40]
    ours = {"a:x": [3, 1, 1, 2], "a:y": [3, 3, 3, 3], "b:x": [3, 2, 1, 0]}
    theirs = {"a:x": [3, 2, 1, 1], "a:y": [3, 2, 1, 1], "b:x": [3, 2, 0.5, 1]}
    methods = {"ours": method("meta-learner", steps, ours, 20), "adam": method("baseline", steps, theirs, 40)}
    found = reaching({"methods": methods}, horizon=20)
    pair = found["pairs"]["ours - adam"]
    assert (pair["reached"], pair["children"], pair["steps"]) == (2, 3, 20)
    assert pair["by_task"] == {"a": [1, 2], "b": [1, 1]}
    assert found["growth"]["ours"]["above_the_horizon"] == 1
    assert "on 2 of 3 children" in found["says"]
    ours["a:x"][-1] = float("inf")
    ours["b:x"][-1] = float("nan")
    found = reaching({"methods": methods}, horizon=20)
    assert found["growth"]["ours"] == {"children": 3, "above_the_horizon": 2, "not_finite": 2, "from": 20, "to": 40}
    assert found["says"].endswith("rises on 2 of 3 children, and on 2 of them it is not finite.")


TINY = {
    "task.test_languages": 2, "task.dev_languages": 2, "task.shots": 24, "task.queries": 8, "task.tasks_per_step": 1,
    "tokenizer.length": 16, "model.buckets": 12, "children.trained": ("mlp 4",), "children.judged": "mlp 5",
    "children.languages": 1, "children.batch_size": 4, "children.window": 2, "children.horizon": 4, "children.width": 3,
    "children.estimator": "persistent_evolution", "train.steps": 4, "train.save_every": 2, "train.log_every": 2,
    "evaluate.steps": (0, 2, 101), "evaluate.learning_rates": (0.01,), "evaluate.sgd_learning_rates": (0.1,),
    "evaluate.methods": ("sgd", "learned_optimizer"), "evaluate.tasks_at_once": 6,
}  # fmt: skip


def tiny(**more):
    config = load(str(FOLDER / "learned_optimizer.toml"))
    return changed(config, {**TINY, **more}, "the test")


@pytest.mark.slow
def test_a_run_is_trained_judged_resumed_and_loaded(tmp_path, standard_promotion):
    train_run(tiny(), tmp_path / "whole")
    evaluation = json.loads((tmp_path / "whole" / "evaluation.json").read_text())
    curve = evaluation["methods"]["sgd"]["by_steps"]
    assert curve["steps"] == [0, 2, 101]
    assert len(curve["per_language"]) == 6
    assert "reaches the loss that tuned sgd ends with" in evaluation["reaching"]["says"]
    assert (tmp_path / "whole" / "report.html").exists()

    # As it was when it had been cut off behind its first checkpoint.
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "seed_0" / "learned_optimizer" / "00000004")
    (tmp_path / "cut" / "evaluation.json").unlink()
    train_run(tiny(), tmp_path / "cut")
    whole, cut = (checkpoints_of(tmp_path / name, 0, "learned_optimizer").read().tree for name in ("whole", "cut"))
    jax.tree.map(np.testing.assert_array_equal, whole, cut)

    optimizer = load_optimizer(tmp_path / "whole")
    got = trained(optimizer, steps=3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    with pytest.raises(InputError, match="no learned optimizer 'adam'; it has learned_optimizer"):
        load_optimizer(tmp_path / "whole", "adam")


@pytest.mark.parametrize("estimator", ["truncated_backprop", "persistent_evolution", "evolution"])
def test_every_rule_is_trained_by_every_estimator_that_a_config_names(estimator, standard_promotion):
    methods = ("sgd", "learned_optimizer", "lstm_optimizer")
    built = build(tiny(**{"children.estimator": estimator, "evaluate.methods": methods}))
    episodes = next(built.tasks.batches(0, 0, augmented=True)(0))
    assert [phase.name for phase in built.experiment.phases] == list(methods[1:])
    for phase in built.experiment.phases:
        state = jax.eval_shape(phase.learner.init, jax.random.key(0), episodes)
        after, metrics = jax.eval_shape(phase.learner.update, state, episodes)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        assert metrics["loss"].shape == ()


@pytest.mark.slow
def test_a_search_by_hypergradients_is_refused(tmp_path, capsys):
    path = tmp_path / "children.toml"
    path.write_text(dump(tiny()) + '\n[search]\nsampler = "hypergradient"\nfolds = 1\n')
    assert jaxmeta("search", str(path), "--out", str(tmp_path / "out")) == 2
    assert "learned_optimizer takes inner gradients to first order" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlp", "width of each layer"),
        ("mlp 3 x", "width of each layer"),
        ("cnn 3", "width of each"),
        ("transformer 6", "multiple of 4"),
    ],
)
def test_children_that_mean_nothing_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        child_model(name)


def test_transformers_are_children_too(children):
    task = children(0)
    model = child_model("transformer 8 8")
    params = jax.eval_shape(model.init, jax.random.key(0), task.support["inputs"])
    assert jax.eval_shape(model.apply, params, task.support["inputs"]).shape == (40, CHILD_CLASSES)


def test_there_is_nothing_to_plan_for_children():
    setting = make_setting(settled(tiny()), classes=CHILD_CLASSES)
    with pytest.raises(InputError, match="nothing to plan for children of a learned optimizer"):
        method_to_plan(setting, None)
