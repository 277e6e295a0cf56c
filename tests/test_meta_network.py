"""The meta-network: what it generates, what that costs, and that it reads no label to do so."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_table import CLASSES, Setting, batch
from tiny_run import LABELS, jaxmeta, toy_lines, toy_shots, train, write_lines

import jaxmeta as jm
from jaxmeta import data
from jaxmeta.algorithms import gates as gating
from jaxmeta.algorithms.gates import Part
from jaxmeta.algorithms.meta_network import costs_of, expected_cost, kept_numbers, matrix_shape, meta_network
from jaxmeta.config.build import build, make_setting
from jaxmeta.config.generating import parts_of
from jaxmeta.config.kinds import make_model
from jaxmeta.config.read import load
from jaxmeta.config.recipes import recipes
from jaxmeta.core.adapt import adapt
from jaxmeta.core.checks import InputError
from jaxmeta.core.select import matching, path_of
from jaxmeta.models import transformer
from jaxmeta.run.table import further_sentences

SETTING = Setting(CLASSES, np.float64)
LAYERS = (
    Part("last_block", matching("block_1/(out|down)/"), matching("block_1/")),
    Part("heads", matching("block_0/out/kernel$"), matching("block_0/(qkv|out)/kernel$"), axis=0),
)


def of_vectors(**options):
    """Builds a meta-network on the perceptron."""
    options = {"rank": 2, "size": 2, "reads": "features", **options}
    return meta_network(SETTING.mlp(), SETTING.classify(), optax.sgd(0.3), **options)


def encoder(layers: int = 2):
    """Returns a Transformer of few numbers."""
    sizes = {"width": 8, "heads": 2, "expansion": 2, "max_length": 9}
    return transformer(vocab_size=11, outputs=CLASSES, layers=layers, dtype=np.float64, **sizes)


def of_text(gates: str, **options):
    """Builds a meta-network with gates on the Transformer."""
    return meta_network(
        encoder(), SETTING.classify(), optax.sgd(0.3), rank=2, size=2, reads="features", gates=gates, parts=LAYERS,
        **options,
    )  # fmt: skip


def drawn(algorithm, support):
    """Draws every number of the meta-parameters."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0), jm.Episode(support, support))
    return jax.tree.map(lambda leaf: 0.4 * rng.normal(size=leaf.shape), shapes)


def with_logits(meta_params, change):
    """Returns meta-parameters whose gates have `change(logits)`, whatever the code."""
    linear = meta_params["generator"]["gates"]
    still = {"base": change(linear["base"]), "maps": jax.tree.map(np.zeros_like, linear["maps"])}
    return {**meta_params, "generator": {**meta_params["generator"], "gates": still}}


def everywhere(value):
    return lambda logits: jax.tree.map(lambda leaf: np.full_like(leaf, value), logits)


def adapted(params, left, right):
    """Returns the parameters with the whole of their adapters."""

    def moved(key_path, leaf):
        path = path_of(key_path)
        return leaf + (left[path] @ right[path]).reshape(leaf.shape) if path in left else leaf

    return jax.tree_util.tree_map_with_path(moved, params)


def texts():
    return batch(0, 6, np.float64, reads="text")


def begun(algorithm, meta_params, support, key=0):
    return jax.jit(algorithm.begin)(jax.random.key(key), meta_params, support)


def test_adapters_are_what_is_written_out(x64):
    algorithm, support = of_vectors(), batch(0, 6, np.float64)
    support["mask"] = np.arange(6) < 4
    meta_params = drawn(algorithm, support)
    state = begun(algorithm, meta_params, support)

    params, generator = meta_params["params"], meta_params["generator"]
    mean = SETTING.mlp().features(params, support["inputs"][:4]).mean(axis=0)
    unit = mean / np.sqrt(np.sum(np.square(mean)) + 1e-6)
    z = np.tanh(unit @ generator["code"]["kernel"] + generator["code"]["bias"]) / 2
    factor = lambda side: jax.tree.map(  # noqa: E731
        lambda base, maps: base + np.einsum("e,e...->...", z, maps), generator[side]["base"], generator[side]["maps"]
    )
    explicit = adapted(params, factor("left"), factor("right"))
    want = SETTING.mlp().apply(explicit, support["inputs"])
    np.testing.assert_allclose(algorithm.predict(meta_params, state, support["inputs"]), want, rtol=1e-9)


def test_it_begins_as_its_trunk(x64):
    support = texts()
    algorithm = of_text("relaxed")
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), jm.Episode(support, support))
    got = algorithm.predict(meta_params, begun(algorithm, meta_params, support), support["inputs"])
    np.testing.assert_allclose(got, encoder().apply(meta_params["params"], support["inputs"]), rtol=1e-12)


def test_steps_change_the_adapters_alone(x64):
    algorithm, support = of_text("discrete"), texts()
    meta_params = drawn(algorithm, support)
    before = begun(algorithm, meta_params, support)
    steps = jax.jit(lambda key, meta_params: adapt(algorithm, key, meta_params, support, num_steps=3))
    after, metrics = steps(jax.random.key(0), meta_params)
    jax.tree.map(np.testing.assert_array_equal, after.gates, before.gates)
    moved = jax.tree.map(lambda a, b: np.any(a != b), after.adapters, before.adapters)
    assert any(jax.tree.leaves(moved))
    assert metrics["loss"].shape == (3,)


CUTS = {(): (1, 1), (7,): (1, 7), (4, 6): (4, 6), (8, 3, 2, 4): (8, 24), (2, 4, 8): (8, 8), (3, 3, 5, 6): (9, 30)}


@pytest.mark.parametrize(("shape", "want"), CUTS.items())
def test_a_parameter_is_cut_where_a_rank_is_cheapest(shape, want):
    assert matrix_shape(shape) == want


def test_no_label_is_read(x64):
    """Neither the labels nor the order of the support, which is that of labels."""
    algorithm, support = of_text("relaxed", centre=True), texts()
    meta_params = drawn(algorithm, support)
    state = begun(algorithm, meta_params, support)
    unlabelled = {"inputs": support["inputs"]}
    jax.tree.map(np.testing.assert_array_equal, begun(algorithm, meta_params, unlabelled), state)
    others = {**support, "targets": (support["targets"] + 1) % CLASSES}
    jax.tree.map(np.testing.assert_array_equal, begun(algorithm, meta_params, others), state)
    turned = {name: leaf[::-1] for name, leaf in support.items()}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), begun(algorithm, meta_params, turned), state)


def test_a_description_stands_for_that_of_the_support(x64):
    rng, support = np.random.default_rng(0), batch(0, 6, np.float64)
    described = np.tile(rng.normal(size=5), (6, 1))
    own = of_vectors(reads="descriptor")
    fixed = of_vectors(reads="descriptor", description=described[0])
    meta_params = drawn(own, {**support, "descriptor": described})
    want = begun(own, meta_params, {**support, "descriptor": described})
    got = begun(fixed, meta_params, support)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), got, want)
    other = begun(own, meta_params, {**support, "descriptor": described + 1})
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: np.any(a != b), other.adapters, want.adapters)))


def test_answers_are_centred_over_the_real_examples_of_the_support(x64):
    rng, support = np.random.default_rng(0), batch(0, 6, np.float64)
    support = {**support, "mask": np.arange(6) < 4, "descriptor": rng.normal(size=(6, 5))}
    plain, centred = of_vectors(reads="descriptor"), of_vectors(reads="descriptor", centre=True)
    meta_params = drawn(centred, support)
    raw = plain.predict(meta_params, begun(plain, meta_params, support), support["inputs"])
    got = centred.predict(meta_params, begun(centred, meta_params, support), support["inputs"])
    share = meta_params["generator"]["centre"]
    raw = np.asarray(raw)
    np.testing.assert_allclose(got, raw - share * raw[:4].mean(axis=0), rtol=1e-9)
    # Of the mean language there are no texts to centre over.
    fixed = of_vectors(reads="descriptor", centre=True, description=np.ones(5))
    assert not np.any(begun(fixed, meta_params, support).offset)


def test_a_layer_whose_gate_is_shut_is_not_there(x64):
    algorithm, support = of_text("discrete"), texts()

    def shut(logits):
        opened = everywhere(1.0)(logits)
        return {**opened, "parts": {**opened["parts"], "last_block": np.full(1, -1.0)}}

    meta_params = with_logits(drawn(algorithm, support), shut)
    state = begun(algorithm, meta_params, support)
    params = {
        name: part for name, part in adapted(meta_params["params"], **state.adapters).items() if name != "block_1"
    }
    want = encoder(layers=1).apply(params, support["inputs"])
    np.testing.assert_allclose(algorithm.predict(meta_params, state, support["inputs"]), want, rtol=1e-12)


def test_a_head_whose_gate_is_shut_is_not_there(x64):
    algorithm, support = of_text("discrete"), texts()

    def shut(logits):
        opened = everywhere(1.0)(logits)
        return {**opened, "parts": {**opened["parts"], "heads": np.array([1.0, -1.0])}}

    meta_params = with_logits(drawn(algorithm, support), shut)
    state = begun(algorithm, meta_params, support)
    params = adapted(meta_params["params"], **state.adapters)

    def outputs(junk):
        """Of the model without the head, which may then see whatever it likes."""
        kernel = params["block_0"]["out"]["kernel"]
        qkv = params["block_0"]["qkv"]["kernel"].at[:, :, 1].add(junk)
        block = {**params["block_0"], "out": {**params["block_0"]["out"], "kernel": kernel.at[1].set(0)}}
        block["qkv"] = {**block["qkv"], "kernel": qkv}
        return encoder().apply({**params, "block_0": block}, support["inputs"])

    got = algorithm.predict(meta_params, state, support["inputs"])
    np.testing.assert_allclose(got, outputs(0.0), rtol=1e-12)
    np.testing.assert_allclose(got, outputs(3.0), rtol=1e-12)


def test_shut_adapters_leave_the_trunk_and_open_ones_are_those_without_gates(x64):
    algorithm, support = of_text("discrete"), texts()
    drawn_params = drawn(algorithm, support)
    trunk = encoder().apply(drawn_params["params"], support["inputs"])

    def outputs(change):
        meta_params = with_logits(drawn_params, change)
        return algorithm.predict(meta_params, begun(algorithm, meta_params, support), support["inputs"])

    shut = lambda logits: {**everywhere(1.0)(logits), "adapters": everywhere(-1.0)(logits["adapters"])}  # noqa: E731
    np.testing.assert_allclose(outputs(shut), trunk, rtol=1e-12)
    plain = meta_network(encoder(), SETTING.classify(), optax.sgd(0.3), rank=2, size=2, reads="features")
    want = plain.predict(drawn_params, begun(plain, drawn_params, support), support["inputs"])
    np.testing.assert_allclose(outputs(everywhere(1.0)), want, rtol=1e-12)
    assert np.max(np.abs(want - trunk)) > 1e-3


def test_a_discrete_model_is_the_relaxed_one_where_gates_are_sure(x64):
    support, rng = texts(), np.random.default_rng(0)

    def sure(logits):
        return jax.tree.map(lambda leaf: rng.choice([-20.0, 20.0], leaf.shape), logits)

    meta_params = with_logits(drawn(of_text("discrete"), support), sure)
    states = {how: begun(of_text(how), meta_params, support) for how in ("discrete", "relaxed", "sampled")}
    for how in ("relaxed", "sampled"):
        jax.tree.map(np.testing.assert_array_equal, states[how].gates, states["discrete"].gates)
    kept = jax.tree.leaves(states["discrete"].gates)
    assert {float(gate) for leaf in kept for gate in np.ravel(leaf)} == {0.0, 1.0}


def test_cost_and_its_gradient_in_closed_form(x64):
    rng = np.random.default_rng(0)
    logits = {"a": rng.normal(size=3), "b": {"c": rng.normal(size=2)}}
    costs = {"a": 7, "b": {"c": 2}}
    q, gradient = jax.value_and_grad(expected_cost)(logits, costs)
    flat, sizes = np.concatenate([logits["a"], logits["b"]["c"]]), np.array([7, 7, 7, 2, 2])
    p = 1 / (1 + np.exp(-flat) * (0.1 / 1.1) ** (2 / 3))
    np.testing.assert_allclose(q, np.sum(sizes * p) / 25, rtol=1e-12)
    got = np.concatenate([gradient["a"], gradient["b"]["c"]])
    np.testing.assert_allclose(got, sizes * p * (1 - p) / 25, rtol=1e-12)


def test_cost_is_the_share_that_draws_keep():
    logits = jnp.linspace(-4.0, 3.0, 8)
    drawn_gates = jax.vmap(lambda key: gating.sampled(key, logits))(jax.random.split(jax.random.key(0), 20000))
    assert jnp.all((drawn_gates >= 0) & (drawn_gates <= 1))
    np.testing.assert_allclose(np.mean(drawn_gates > 0, axis=0), gating.open_probability(logits), atol=0.01)


def test_cost_counts_beside_the_loss(x64):
    support, query = texts(), batch(1, 5, np.float64, reads="text")
    free, priced = of_text("relaxed"), of_text("relaxed", cost_weight=0.7)
    meta_params = drawn(free, support)
    state = begun(free, meta_params, support)
    losses = [algorithm.loss(jax.random.key(0), meta_params, state, query) for algorithm in (free, priced)]
    np.testing.assert_allclose(losses[1][0] - losses[0][0], 0.7 * state.cost, rtol=1e-9)
    assert losses[0][1]["cost"] == state.cost


def test_what_is_kept_is_counted(x64):
    algorithm, support = of_text("discrete"), texts()
    meta_params = with_logits(drawn(algorithm, support), everywhere(1.0))
    state = begun(algorithm, meta_params, support)
    costs = costs_of(meta_params["params"], state.adapters, LAYERS)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    of_heads = count([meta_params["params"]["block_0"][name]["kernel"] for name in ("qkv", "out")])
    want = count(state.adapters) + count(meta_params["params"]["block_1"]) + of_heads
    assert kept_numbers(state.gates, costs) == want
    nothing = begun(algorithm, with_logits(meta_params, everywhere(-1.0)), support)
    assert kept_numbers(nothing.gates, costs) == 0


def test_what_cannot_be_is_a_sentence():
    support = batch(0, 6, np.float32)
    episode, key = jm.Episode(support, support), jax.random.key(0)
    model, objective = Setting(CLASSES, np.float32).mlp(), SETTING.classify()
    for options, says in [
        ({"rank": 0}, "`rank` must be positive"),
        ({"cost_weight": 1.0}, "need gates"),
        ({"parts": LAYERS}, "need gates"),
        ({"gates": "half"}, "`gates` must be one of"),
    ]:
        with pytest.raises(ValueError, match=says):
            meta_network(model, objective, optax.sgd(0.1), **options)
    without = model._replace(features=None)
    for trunk, options, says in [
        (model, {}, 'needs the leaf "descriptor"'),
        (without, {"reads": "features"}, "needs a model with features"),
        (model, {"reads": "features", "gates": "relaxed", "parts": LAYERS}, "'last_block' must have a name of its own"),
    ]:
        algorithm = meta_network(trunk, objective, optax.sgd(0.1), **options)
        with pytest.raises(ValueError, match=says):
            algorithm.init(key, episode)


def test_estimators_that_mean_nothing_for_it_say_so():
    algorithm = meta_network(
        Setting(CLASSES, np.float32).mlp(), SETTING.classify(), optax.sgd(0.1), reads="features", size=2
    )
    tasks = jm.stack_episodes([jm.Episode(batch(0, 6, np.float32), batch(1, 5, np.float32))] * 2)
    first = jax.tree.map(lambda leaf: leaf[0], tasks)
    meta_params = jax.eval_shape(algorithm.init, jax.random.key(0), first)
    displaced = jm.displacement(algorithm, num_steps=1)
    with pytest.raises(ValueError, match="adapts a copy of its parameters"):
        jax.eval_shape(displaced.estimate, jax.random.key(0), meta_params, (), tasks)
    with pytest.raises(ValueError, match="minimum"):
        jm.implicit(algorithm, num_steps=1, solve=jm.conjugate_gradient(2))


def test_texts_are_described_one_by_one():
    texts = ["Pazartesi, 5 Mayıs", "понедельник 5 мая", "月曜日", "", "12.34 !"]
    found = data.describe(texts, ["tr", "ru", "ja", "xx", "tr"], {"tr": "Turkic", "ru": "Indo-European"})
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :33].argmax(axis=1)[:3], [0, 1, 25])  # Latin, Cyrillic, Han
    np.testing.assert_allclose(found[:3, :33].sum(axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(found[:3, 33:-2], axis=1), 1, rtol=1e-6)
    assert not found[3:, :-2].any()  # neither has a letter
    np.testing.assert_array_equal(found[:, -2:], [[0, 1], [1, 0], [0, 0], [0, 0], [0, 1]])
    alone = np.concatenate([data.describe([text]) for text in texts])
    np.testing.assert_array_equal(found[:, :-2], alone)
    np.testing.assert_array_equal(data.describe(["MAY"]), data.describe(["may"]))
    assert np.any(data.describe(["may"]) != data.describe(["yam"]))


METHODS = ("zero_shot", "meta_network", "meta_network_zero_shot", "mean_language")


def config_with(*methods, **changes):
    """Returns the embedded job with few languages and these methods."""
    small = {"task.test_languages": 2, "task.dev_languages": 2, "task.cldr": "weekday", "evaluate.shot_curve": []}
    return load(changes={**small, "evaluate.methods": list(methods), "evaluate.main": methods[-1], **changes})


def test_a_config_trains_what_it_generates():
    built = build(config_with(*METHODS))
    phases = {phase.name: phase for phase in built.experiment.phases}
    methods = {method.name: method for method in built.experiment.methods}
    assert methods["mean_language"].phase == "meta_network_zero_shot"
    assert methods["meta_network_zero_shot"].steps == methods["mean_language"].steps == (0,)
    # Answers that are centred take one more pass of the support, of which it is charged.
    support, query = built.setting.support, built.setting.query
    assert phases["meta_network_zero_shot"].gradients_per_step == 8 * (2 * support + query)
    spent = [phases[name].steps * phases[name].gradients_per_step for name in ("joint", "meta_network")]
    assert spent[0] == pytest.approx(spent[1], rel=0.01)
    assert not phases["meta_network"].augmented
    first = next(built.tasks.batches(0, 0, augmented=False)(0))
    assert first.support["descriptor"].shape == (8, 14, 289)
    assert "descriptor" not in next(built.tasks.batches(0, 0, augmented=True)(0)).support
    assert len(parts_of(built.experiment and built.setting.config)) == 6


def test_the_gates_of_a_config_remove_blocks_heads_and_hidden_units():
    config = config_with("zero_shot", "meta_network", **{"model.width": 8, "model.heads": 2, "model.layers": 2})
    network, tokens = make_model(config, CLASSES, 257), texts()["inputs"]
    params = jax.tree.map(jnp.asarray, jax.device_get(jax.jit(network.init)(jax.random.key(0), tokens)))
    parts = parts_of(config)
    counts = gating.check_parts(params, parts)
    assert [counts[f"{name}_1"][0] for name in ("block", "heads", "hidden")] == [1, 2, 32]
    block = params["block_1"]
    unit_of = block["up"]["kernel"][:, 5], block["up"]["bias"][5], block["down"]["kernel"][5]
    assert counts["hidden_1"][1] == sum(jnp.size(leaf) for leaf in unit_of)

    def outputs(params):
        return jax.jit(network.apply)(params, tokens)

    gates = {name: jnp.ones(count) for name, (count, _) in counts.items()}
    shut = gating.remove_parts(params, parts, {**gates, "hidden_1": gates["hidden_1"].at[5].set(0)})
    zeroed = {**block["down"], "kernel": block["down"]["kernel"].at[5].set(0)}
    jax.tree.map(np.testing.assert_array_equal, shut, {**params, "block_1": {**block, "down": zeroed}})
    # The unit may then see whatever it likes.
    up = {"kernel": block["up"]["kernel"].at[:, 5].add(3.0), "bias": block["up"]["bias"].at[5].add(3.0)}
    np.testing.assert_allclose(outputs({**shut, "block_1": {**shut["block_1"], "up": up}}), outputs(shut), rtol=1e-6)
    assert jnp.abs(outputs({**params, "block_1": {**block, "up": up}}) - outputs(params)).max() > 1e-3


def test_the_report_tells_of_hidden_units():
    config = config_with("zero_shot", "meta_network", **{"model.width": 8, "model.heads": 2, "model.layers": 1})
    recipe = recipes(make_setting(config, classes=CLASSES, vocab_size=257))["meta_network"]
    assert recipe.judged
    assert recipe.tells
    algorithm, support = recipe.judged(0.1), batch(0, 6, np.float32, reads="text")
    support["descriptor"] = np.eye(6, dtype=np.float32)
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), jm.Episode(support, support))

    def shut(logits):
        return {**logits, "parts": {**logits["parts"], "hidden_0": logits["parts"]["hidden_0"].at[:8].set(-1.0)}}

    meta_params = with_logits(meta_params, shut)
    told = jax.device_get(recipe.tells(meta_params, begun(algorithm, meta_params, support)))
    assert (told["of"] - told["numbers"]) == 8 * (2 * 8 + 1)
    (sentence,) = further_sentences({"methods": {"meta_network": {"told": told}}})
    assert sentence.endswith("100% of block_0, 100% of heads_0, 75% of hidden_0, 100% of ranks.")


@pytest.mark.slow
def test_a_language_of_ones_own_is_described_and_adapted_to(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "toy.tsv", toy_lines())
    write_lines(tmp_path / "shots.tsv", toy_shots())
    write_lines(tmp_path / "texts.txt", ["zzbbb zz 1"])
    write_lines(tmp_path / "unlabelled.tsv", ["text", *(line.split("\t")[-1] for line in toy_shots()[1:])])
    write_lines(tmp_path / "families.toml", ["[generator.families]", 'aa = "one"', 'bb = "two"'])
    small = {"model.kind": "ngrams", "model.buckets": 64, "train.steps": 2, "train.warm-start": 0}
    asked = ("meta_network", "meta_network_zero_shot")
    words = [*train("run", {**small, "evaluate.methods": asked, "evaluate.main": asked[0]})]
    assert jaxmeta(words[0], "families.toml", *words[1:]) == 0
    told = json.loads((tmp_path / "run" / "evaluation.json").read_text())["methods"]["meta_network"]["told"]
    # A vector and a matrix of the bag's weights, and the head's, in ranks of m + n numbers each; all gates begin open.
    assert told.keys() == {"numbers", "of", "ranks_open"}
    assert 0 < told["numbers"] <= told["of"]
    assert told["ranks_open"] == 1
    assert jaxmeta("adapt", "run", "--shots", "shots.tsv", "--out", "mine") == 0
    assert "Adapted meta_network to 20 examples" in capsys.readouterr().err
    assert jaxmeta("predict", "mine", "--input", "texts.txt") == 0
    assert capsys.readouterr().out.split("\t")[0] in LABELS
    # Without labels, and with a family or another one.
    adapt = ("adapt", "run", "--shots", "unlabelled.tsv", "--out")
    assert jaxmeta(*adapt, "alone", "--method", "meta_network_zero_shot") == 0
    assert "Adapted meta_network_zero_shot to 20 examples without a gradient step. Wrote" in capsys.readouterr().err
    shown = []
    for family in ("one", "two"):
        assert jaxmeta(*adapt, family, "--method", "meta_network_zero_shot", "--family", family) == 0
        assert jaxmeta("predict", family, "--input", "texts.txt", "--all") == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] != shown[1]
    assert jaxmeta(*adapt, "none", "--method", "meta_network") == 2
    assert "label" in capsys.readouterr().err
    assert jaxmeta(*adapt, "none", "--method", "meta_network_zero_shot", "--family", "three") == 2
    assert "--family three: this run knows one, two;" in capsys.readouterr().err


def test_others_see_no_descriptor():
    built = build(config_with("zero_shot", "ridge"))
    assert "descriptor" not in next(built.tasks.batches(0, 0, augmented=False)(0)).support


def test_the_mean_language_needs_its_generator():
    with pytest.raises(InputError, match="mean_language is generated by meta_network_zero_shot"):
        build(config_with("zero_shot", "mean_language"))


def test_letters_that_are_exchanged_are_not_described():
    corpus = data.cldr("weekday", languages=["de", "fr", "it"])
    split = data.LanguageSplit(("de",), ("fr",), ("it",))
    with pytest.raises(ValueError, match="leave one out"):
        data.TextEpisodes(corpus, data.ByteTokenizer(16), split, shots=1, queries=1, cipher=0.5, families={})
