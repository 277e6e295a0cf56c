"""Configs: files, presets, overrides, what is refused, and that every method has the same budget."""

import pathlib
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from shipped import CONFIGS, presets_of
from tiny_run import toy_lines, write_lines

from jaxmeta.config import Config, build, difference, dump, load, load_jobs
from jaxmeta.config.acting import ENVIRONMENTS, returns
from jaxmeta.config.child_methods import rules
from jaxmeta.config.classical import CLASSICAL
from jaxmeta.config.classical_text import tfidf
from jaxmeta.config.generating import described
from jaxmeta.config.kinds import CLASSES, KINDS, kind_of, make_model, settled
from jaxmeta.config.methods import baselines, known_methods, phases_and_methods
from jaxmeta.config.presets import PRESETS
from jaxmeta.config.read import changed, known_keys
from jaxmeta.config.recipes import how_of, learner_of, recipes
from jaxmeta.config.setting import Setting, make_setting
from jaxmeta.config.tasks import TextTasks
from jaxmeta.core.batches import stack_episodes
from jaxmeta.core.checks import InputError
from jaxmeta.core.rollouts import Rollouts
from jaxmeta.core.select import path_of
from jaxmeta.core.types import Episode
from jaxmeta.run.plan import BASELINE, META, chain_of, training_cost

# Every config there is: a file or the embedded job, with none or one of its presets, and each job of a file.
JOBS = [
    (path, preset, job)
    for path in (None, *CONFIGS)
    for preset in (None, *presets_of(path))
    for job in load_jobs(path).configs
]
NEEDS = {"half_cheetah": "brax"}  # what a config's environment is simulated by
NAMES = ["-".join(filter(None, (path.stem if path else "default", preset, job))) for path, preset, job in JOBS]


@pytest.fixture(params=JOBS, ids=NAMES)
def config(request) -> Config:
    path, preset, job = request.param
    if path is not None and path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem], reason="its environment is not installed", exc_type=ImportError)
    return load_jobs(path, preset=preset).configs[job]


def setting_of(config: Config, classes: int = 4) -> Setting:
    """Returns what methods are made of, without the data."""
    config, text = settled(config), config.task.source not in ("sinusoid", "children", *ENVIRONMENTS)
    source = {"inputs": np.ones((1, 1), np.int32), "targets": np.zeros(1, np.int32)} if text else None
    if source and described(config):
        source["descriptor"] = np.ones((1, 5), np.float32)
    of_classes = kind_of(config).head == CLASSES
    return make_setting(config, classes=classes if of_classes else 1, vocab_size=257, source=source)


def with_all_methods(config: Config) -> Setting:
    setting = setting_of(config)
    names = [name for name in known_methods(setting) if name not in setting.kind.classical]
    return setting._replace(config=changed(config, {"evaluate.methods": names}, "here"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_kinds_that_write_are_those_whose_models_decode(kind):
    source = "synthetic_digits" if kind == "recognition" else "tsv"
    config = changed(Config(), {"task.kind": kind, "task.source": source}, "here")
    assert (make_model(config, 4, 257).generate is not None) == kind_of(config).writes


def test_there_are_configs_and_presets():
    assert len(CONFIGS) >= 2
    assert set(PRESETS) == {"quick", "full"}


def test_a_config_is_read_back_as_it_was_written(config, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(dump(config), encoding="utf-8")
    assert load(path) == config
    assert difference(load(path), config) == []


def test_the_default_job_is_the_defaults():
    assert load() == Config()
    assert load(changes={}) == Config()


def test_presets_change_what_they_say():
    assert load(preset="quick").task.test_languages == PRESETS["quick"]["task"]["test_languages"]
    assert load(preset="full").train.seeds == 3
    changes = difference(load(), load(preset="quick"))
    assert f"train.steps: {Config().train.steps} against {PRESETS['quick']['train']['steps']}" in changes
    assert all(line.split(":")[0] in known_keys() for line in changes)


def test_a_preset_of_a_file_is_applied_over_it(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text('name = "mine"\n[train]\nsteps = 7\nseeds = 2\n[presets.long.train]\nsteps = 70\n')
    assert load(path).train.steps == 7
    long = load(path, preset="long")
    assert (long.name, long.train.steps, long.train.seeds) == ("mine", 70, 2)
    assert "presets" not in dump(long)


def test_changes_come_after_the_preset_and_the_preset_after_the_file(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text("[train]\nsteps = 7\nseeds = 2\n[presets.long.train]\nsteps = 70\nseeds = 3\n")
    config = load(path, preset="long", changes={"train.steps": 700, "seed": 5})
    assert (config.train.steps, config.train.seeds, config.seed) == (700, 3, 5)
    assert load(path, changes={"train.steps": 8}).train == load(path).train.model_copy(update={"steps": 8})


def test_difference_names_every_key_and_both_values():
    other = changed(Config(), {"train.steps": 3, "evaluate.methods": ["ridge"], "task.test_languages": ["fr"]}, "here")
    assert difference(Config(), other) == [
        f"task.test_languages: {Config().task.test_languages!r} against ('fr',)",
        f"train.steps: {Config().train.steps} against 3",
        f"evaluate.methods: {Config().evaluate.methods!r} against ('ridge',)",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[train]\nstesp = 3", ["unknown key `train.stesp`", "did you mean `train.steps`?"]),
        ("nmae = 'x'", ["unknown key `nmae`", "did you mean `name`?"]),
        ("[training]\nzzzzzzzzz = 3", ["unknown key `training`"]),
        ("[train]\nsteps = 'many'", ["`train.steps`", "valid integer", "'many'"]),
        ("[train]\nsteps = 0", ["`train.steps`", "greater than 0", "got 0"]),
        ("[train]\nlearning_rate = nan", ["`train.learning_rate`", "greater than 0", "nan"]),
        ("train = 3", ["`train`", "a table", "got 3"]),
        ("[task]\nsource = 'web'", ["`task.source`", "'cldr', 'tsv',", "or 'half_cheetah'", "'web'"]),
        ("[task]\ntest_languages = 'fr'", ["`task.test_languages`", "a list", "'fr'"]),
        ("[task]\ntest_languages = 2.5", ["`task.test_languages`", "2.5"]),
        ("[evaluate]\nsteps = 5", ["`evaluate.steps`", "a list", "got 5"]),
        ("[evaluate]\nsteps = [0, 'x']", ["`evaluate.steps.1`", "'x'"]),
        ("name = 'a/b'", ["`name`", "'a/b'"]),
        ("[train]\nsteps = 3\nsteps = 4\n", ["not TOML", "line 3"]),
        ("presets = 3", ["`presets`", "[presets.NAME]"]),
        ("[presets]\nquick = 3", ["`presets`", "[presets.NAME]"]),
    ],
)
def test_what_is_wrong_in_a_file_is_one_sentence_that_names_it(tmp_path, text, says):
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        load(path)
    message = str(refused.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for part in says:
        assert part in message


def test_a_wrong_key_in_a_preset_says_which_preset(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text("[presets.long.train]\nstepps = 70\n")
    assert load(path).train.steps == Config().train.steps
    with pytest.raises(InputError, match=r"my\.toml with preset long: unknown key `train\.stepps`.*`train\.steps`"):
        load(path, preset="long")
    with pytest.raises(InputError, match=r"my\.toml has no preset 'short'; it has long"):
        load(path, preset="short")


def test_every_method_known_has_a_phase_and_is_what_it_is_called(config):
    setting = with_all_methods(config)
    phases, methods = phases_and_methods(setting)
    assert [method.name for method in methods] == list(setting.config.evaluate.methods)
    names = [phase.name for phase in phases]
    assert len(set(names)) == len(names)
    for method in methods:
        assert method.phase is None or method.phase in names
        assert method.kind == (META if method.name in {*recipes(setting), *rules(config)} else BASELINE)
        assert method.steps[0] >= 0
        assert method.steps == tuple(sorted(method.steps))
        method.build(method.learning_rates[0])
    for phase in phases:  # a phase starts from one that is trained before it
        assert phase.start_from is None or names.index(phase.start_from) < names.index(phase.name)


def test_phases_of_as_many_steps_are_one_program():
    names = {"train.warm_start": 0.5, "evaluate.methods": ["joint_finetune", "joint_cipher_finetune", "maml"]}
    phases, _ = phases_and_methods(setting_of(load(changes={"train.steps": 10, **names})))
    by_name = {phase.name: phase.learner for phase in phases}
    assert by_name["warm_start"] is by_name["joint"] is by_name["joint_cipher"]
    assert by_name["maml"] is not by_name["joint"]


def test_every_phase_chain_costs_the_same_within_half_a_step(config):
    setting = with_all_methods(config)
    if setting.kind.children:
        pytest.skip("ordinary optimizers are tuned and not trained, so there is no budget to share")
    phases, methods = phases_and_methods(setting)
    budget = config.train.steps * config.task.tasks_per_step * (setting.support + setting.query)
    by_name = {phase.name: phase for phase in phases}
    trained = [method for method in methods if method.phase is not None]
    assert len(trained) > 5
    for method in trained:
        cost = training_cost(phases, method.phase)
        assert abs(cost - budget) <= by_name[method.phase].gradients_per_step * 0.5001, method.name
        warm = chain_of(phases, method.phase)[:-1]
        assert sum(link.steps for link in warm) == round(config.train.warm_start * config.train.steps)


def test_the_methods_of_every_config_are_known(config):
    setting = setting_of(config)
    known, evaluate = set(known_methods(setting)), setting.config.evaluate
    assert set(evaluate.methods) <= known
    assert evaluate.main in evaluate.methods
    assert evaluate.metric in setting.kind.metrics


def test_every_method_is_in_the_table_of_algorithms():
    text = (pathlib.Path(__file__).parents[1] / "docs" / "algorithms.md").read_text("utf-8")
    table = re.findall(r"`(\w+)`", "\n".join(line for line in text.splitlines() if line.startswith("| `")))
    installed = [job for job in JOBS if job[0] is None or job[0].stem not in NEEDS]  # and environments are alike
    jobs = [load_jobs(path, preset=preset).configs[job] for path, preset, job in installed]
    wanted = {name for job in jobs for name in known_methods(setting_of(job))} | CLASSICAL.keys()
    assert wanted - set(table) == set()


def test_an_inner_step_is_charged_for_what_it_computes():
    setting = with_all_methods(load())
    cost = {method.name: method.gradients_per_step for method in phases_and_methods(setting)[1]}
    for name in (
        "maml",
        "boil",
        "maml_plus_plus",
        "imaml",
        "proto_maml",
        "meta_sgd",
        "fomaml",
        "reptile",
        "joint_finetune",
        "target_only",
    ):
        assert cost[name] == setting.support
    assert cost["source_and_target"] == 2 * setting.support
    # The encoder under an adapted head runs once, whatever the number of steps, and there is no way back.
    assert cost["anil"] == cost["fo_anil"] == cost["linear_head"] == 0
    # A context's gradient needs none of the weights.
    assert cost["cavia"] == pytest.approx(2 * setting.support / 3)
    assert cost["ridge"] == cost["protonet"] == cost["linear_head"] == 0


def test_maml_plus_plus_costs_what_its_three_stretches_cost():
    setting = with_all_methods(load())
    steps, support, query = setting.config.inner.steps, setting.support, setting.query
    first, second = steps * support + query, 3 * steps * support + query
    want = 0.1 * (first + (steps - 1) * query) + (1 / 3 - 0.1) * first + 2 / 3 * second
    assert recipes(setting)["maml_plus_plus"].cost == pytest.approx(want)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(
            (name, "mlp")
            for name in ("boil", "cavia", "imaml", "maml_plus_plus", "meta_curvature", "fo_meta_curvature")
        ),
        ("cavia", "transformer"),
        pytest.param("maml_plus_plus", "transformer", marks=pytest.mark.slow),
    ],
)
def test_every_gradient_based_meta_learner_takes_an_outer_step(name, kind, standard_promotion):
    small = {"model.width": 8, "inner.steps": 2, "gradient.task_axis": "vmap"}
    waves = {"task.source": "sinusoid", "model.kind": "mlp"} if kind == "mlp" else {}
    setting = setting_of(changed(Config(), small | waves, "here"))
    rng, sizes = np.random.default_rng(0), (2, setting.support)
    if kind == "mlp":
        side = {"inputs": np.ones((*sizes, 1), np.float32), "targets": np.ones((*sizes, 1), np.float32)}
    else:
        tokens = rng.integers(1, 257, (*sizes, 64), dtype=np.int32)
        side = {"inputs": tokens, "targets": np.zeros(sizes, np.int32)}
    recipe = recipes(setting)[name]
    learner = learner_of(setting, recipe, how_of(setting, name, recipe), 100)
    before = jax.eval_shape(learner.init, jax.random.key(0), Episode(side, side))
    after, metrics = jax.eval_shape(learner.update, before, Episode(side, side))
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, before)
    assert "loss" in metrics
    # What is measured to choose how the gradient is computed is the estimator of most steps.
    typical = learner_of(setting, recipe, how_of(setting, name, recipe), 100, typical=True)
    assert jax.eval_shape(typical.init, jax.random.key(0), Episode(side, side)).estimator_state == ()


@pytest.mark.parametrize("kind", ["classification", "question_answering", "translation", "generation"])
def test_maml_plus_plus_has_all_norms_of_a_model_for_each_step(kind, standard_promotion):
    setting = setting_of(changed(Config(), {"task.kind": kind, "model.width": 8, "inner.steps": 2}, "here"))
    tokens = np.ones((3, 64), np.int32)
    asked = {
        "words": np.ones((3, 9, 4), np.float32), "sentence": np.ones((3, 9), np.int32),
        "question": np.ones((3, 2), np.float32), "asked": np.ones((3, 5), np.int32),
    }  # fmt: skip
    pair = {"source": tokens, "previous": tokens}
    inputs = {"classification": tokens, "question_answering": asked}.get(kind, pair)
    episode = Episode({"inputs": inputs}, {"inputs": inputs})
    algorithm = recipes(setting)["maml_plus_plus"].algorithm(0.1)
    meta_params = jax.eval_shape(algorithm.init, jax.random.key(0), episode)
    paths = lambda tree: {path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}  # noqa: E731
    scales = {path for path in paths(meta_params["params"]) if re.search("norm", path, re.IGNORECASE)}
    assert scales == paths(meta_params.get("offsets", {}))
    assert bool(scales) == (kind != "question_answering")


@pytest.mark.parametrize(("solver", "products"), [("neumann", 2), ("conjugate_gradient", 2), ("gauss_newton", 1)])
def test_the_solver_of_the_config_reaches_imaml(solver, products, standard_promotion):
    """A loop of its steps in the update, of known length; and its price."""
    changes = {"task.source": "sinusoid", "model.kind": "mlp", "model.width": 8}
    changes |= {"inner.solver": solver, "inner.solver_steps": 7, "inner.steps": 11, "inner.newton_steps": 13}
    setting = setting_of(changed(Config(), changes, "here"))
    recipe = recipes(setting)["imaml"]
    learner = learner_of(setting, recipe, how_of(setting, "imaml", recipe), 100)
    side = {name: np.ones((2, 5, 1), np.float32) for name in ("inputs", "targets")}
    state = jax.eval_shape(learner.init, jax.random.key(0), Episode(side, side))
    loops = re.findall(r"length=(\d+)", str(jax.make_jaxpr(learner.update)(state, Episode(side, side))))
    assert loops.count("7") == (2 if solver == "gauss_newton" else 1)
    steps, step = (13, 1 + 7 + 4 / 3) if solver == "gauss_newton" else (11, 1)
    assert recipe.cost == pytest.approx((steps * step + 1 + products * 7) * setting.support + setting.query)
    assert (recipe.rated, recipe.step_cost) == (solver != "gauss_newton", pytest.approx(step))


def test_a_new_head_tries_rates_of_its_own():
    changes = {"evaluate.learning_rates": [0.5], "evaluate.head_learning_rates": [0.1, 0.7]}
    found = baselines(setting_of(changed(Config(), changes, "here")))
    assert found["linear_head"].learning_rates == (0.1, 0.7)
    assert found["joint_finetune"].learning_rates == (0.5,)
    assert max(Config().evaluate.head_learning_rates) > 0.1


def test_a_context_steps_at_a_rate_of_its_own_in_training_and_in_judgement():
    config = load(
        changes={"evaluate.methods": ("maml", "cavia"), "inner.context_learning_rate": 2.0, "inner.context": 7}
    )
    setting = setting_of(config)
    recipe = recipes(setting)["cavia"]
    assert recipe.rate == 2.0
    maml, cavia = phases_and_methods(setting)[1]
    wider = 2.0 / config.inner.learning_rate
    assert cavia.learning_rates == pytest.approx([wider * rate for rate in maml.learning_rates])
    task = Episode(*[{"inputs": np.ones((2, 8), np.int32)}] * 2)
    maps = jax.eval_shape(recipe.algorithm(recipe.rate).init, jax.random.key(0), task)["maps"]
    assert {leaf.shape[0] for leaf in jax.tree.leaves(maps)} == {7}


def test_a_run_of_waves_is_built_whole():
    config = load(next(path for path in CONFIGS if path.stem == "sinusoid"))
    experiment = build(changed(config, {"train.steps": 2}, "here")).experiment
    assert experiment.main == settled(config).evaluate.main
    assert len(experiment.tasks.languages("test")) == config.task.test_languages
    batch = next(experiment.tasks.batches(0, 0, augmented=False)(0))
    assert batch.support["inputs"].shape == (config.task.tasks_per_step, config.task.shots, 1)


def test_a_run_of_policies_is_built_whole_and_refuses_what_reads_vectors():
    config = load(next(path for path in CONFIGS if path.stem == "navigation_2d"))
    named = {"evaluate.methods": ["zero_shot", "maml", "rl2", "es_maml"], "evaluate.main": "maml"}
    experiment, tasks, setting = build(changed(config, named, "here"))
    assert [phase.name for phase in experiment.phases] == ["joint", "maml", "rl2", "es_maml"]
    # Two sides, of three steps on 20 rollouts each and a query of 20 without a derivative, for ten tasks.
    assert experiment.phases[-1].gradients_per_step == pytest.approx(10 * 2 * (3 * 20 + 20 / 3))
    assert list(tasks.languages("dev"))[:2] == ["task 0", "task 1"]
    batch = next(tasks.batches(0, 0, augmented=False)(0))
    shape = (config.task.tasks_per_step, config.task.shots)
    assert batch.support["inputs"]["task"]["goal"].shape == (*shape, 2)
    assert batch.support["inputs"]["seed"].shape == shape
    splits = [tasks.episode("task 0", shots=2, draw=0, split=split) for split in ("dev", "test")]
    assert np.any(splits[0].support["inputs"]["task"]["goal"] != splits[1].support["inputs"]["task"]["goal"])
    assert setting.kind.metrics == {"return": True}
    for name in ("ridge", "imaml", "protonet"):
        with pytest.raises(InputError, match=f"no method '{name}' for environments"):
            build(changed(config, {"evaluate.methods": ["zero_shot", name]}, "here"))
    with pytest.raises(InputError, match="is about languages, and environments have none"):
        build(changed(config, {"task.train_languages": ["a"]}, "here"))
    with pytest.raises(InputError, match=r'`model.precision` must be "float32" in environments'):
        build(changed(config, {"model.precision": "bfloat16"}, "here"))


@pytest.mark.parametrize("kind", ["classification", "translation", "summaries", "generation"])
def test_label_smoothing_reaches_the_objective(kind):
    def loss(share):
        config = changed(Config(), {"train.label_smoothing": share}, "here")
        targets, logits = np.arange(3, dtype=np.int32), 10.0 * np.eye(3, dtype=np.float32)
        if kind == "classification":
            objective = KINDS[kind].objective(config, 3, 0)
        else:  # one text of two tokens, for zero is padding; the vocabulary has two more than a tokenizer
            objective, targets, logits = KINDS[kind].objective(config, 0, 1), targets[None, 1:], logits[None, 1:]
        return float(objective.loss(logits, {"targets": targets})[0])

    # The right logit is ten, and all three are that over three on average.
    assert loss(0.3) - loss(0.0) == pytest.approx(0.3 * (10 - 10 / 3), rel=1e-3)


def test_past_actions_share_in_what_comes_later_as_the_config_says():
    config = load(next(path for path in CONFIGS if path.stem == "navigation_2d"))
    rollouts = Rollouts(
        observations=np.zeros((1, 3, 2), np.float32), actions=np.zeros((1, 3, 2), np.float32),
        rewards=np.array([[0.0, 0.0, 1.0]], np.float32), alive=np.ones((1, 3), bool),
        log_probs=np.zeros((1, 3), np.float32),
    )  # fmt: skip

    def curvature(coupling):
        """Of the loss, by the first action's probability and the last's together."""
        objective = returns(changed(config, {"inner.coupling": coupling}, "here"), 0, 0)
        loss = lambda logs: objective.loss(rollouts._replace(log_probs=logs), {})[0]  # noqa: E731
        return abs(float(jax.hessian(loss)(rollouts.log_probs)[0, 0, 0, 2]))

    assert curvature(0.0) == 0
    assert 1e-3 < curvature(0.5) < curvature(1.0)


def test_the_default_run_is_built_whole():
    config = settled(load(preset="quick"))
    experiment, tasks, setting = build(config)
    assert {role: len(codes) for role, codes in tasks.split._asdict().items() if role != "train"} == {
        "test": config.task.test_languages,
        "dev": config.task.dev_languages,
    }
    assert len(tasks.split.train) > 200
    assert tasks.overlap.shared_sentences == 0
    assert (setting.num_outputs, setting.support) == (12, 12 * config.task.shots)
    assert {method.name for method in experiment.methods} <= set(config.evaluate.methods)
    assert [classical.name for classical in experiment.classical] == ["tfidf"]
    problems = [experiment.tasks.episode(code, shots=2, draw=0, split="test") for code in tasks.split.test[:2]]
    assert stack_episodes(problems).support["inputs"].shape == (2, 24, config.tokenizer.length)
    # Judged rows are not those adapted on, whatever the draw.
    support, query = tasks.judged.evaluation_rows(tasks.split.test[0], shots=2, draw=1, split="test")
    assert not set(support.tolist()) & set(query.tolist())


@pytest.mark.parametrize("split", ["dev", "test"])
def test_baselines_outside_jax_are_given_the_texts_of_the_same_problems(split):
    experiment, tasks, setting = build(load(preset="quick"))
    language = tasks.languages(split)[0]
    support, labels, queries, query = tasks.texts(language, shots=2, draw=1, split=split)
    episode = tasks.episode(language, shots=2, draw=1, split=split)
    real = episode.support["mask"]
    by_text = sorted(zip(tasks.tokenizer.encode(support).tolist(), labels.tolist(), strict=True))
    inputs, targets = (episode.support[name][real].tolist() for name in ("inputs", "targets"))
    assert by_text == sorted(zip(inputs, targets, strict=True))
    np.testing.assert_array_equal(tasks.tokenizer.encode(queries), episode.query["inputs"])
    for name, values in episode.query.items():
        np.testing.assert_array_equal(query[name], values)
    (outside,) = experiment.classical
    counts = {value: outside.counts(value, language, 2, 1, split) for value in outside.values}
    assert all(int(found["n"]) == len(queries) for found in counts.values())
    assert len({float(found["nll"]) for found in counts.values()}) == len(outside.values)
    scores = [setting.objective.scores(found)["accuracy"] for found in counts.values()]
    assert max(scores) > 2 / 12  # better than guessing


def test_a_support_of_one_class_is_answered_with_it():
    class OneClass:
        corpus = SimpleNamespace(labels=("bad", "fair", "good"))

        def texts(self, language, *, shots, draw, split, held_out=None):
            query = {"inputs": np.zeros((3, 1)), "targets": np.array([1, 1, 2], np.int32)}
            return ["a", "b"], np.array([1, 1]), ["a", "c", "d"], query

    counts = tfidf(OneClass()).counts(1.0, "aa", 2, 0, "dev")
    assert np.asarray(counts["confusion"]).tolist() == [[0, 0, 0, 0], [0, 2, 0, 0], [0, 1, 0, 0]]


def test_texts_that_are_cut_are_counted_in_every_role(tmp_path):
    write_lines(tmp_path / "toy.tsv", toy_lines())
    changes = {
        "task.source": "tsv",
        "task.path": str(tmp_path / "toy.tsv"),
        "task.test_languages": ["aa"],
        "task.dev_languages": ["bb"],
        "tokenizer.length": 10,  # "aabbb aa 0" has ten bytes; numbers of two digits, of dev and test rows, one more
    }
    facts = TextTasks(changed(Config(), changes, "here")).facts()
    assert facts["texts"] == {"train": 4 * 12, "dev": 12 + 6, "test": 12 + 6}
    assert facts["truncated_texts"] == {"train": 0, "dev": 6, "test": 6}
    assert facts["tokenizer"]["truncation_rate"] == 0


def test_training_seeds_draw_other_episodes_of_the_same_languages():
    tasks = build(load(preset="quick")).tasks
    first, again, other = (next(tasks.batches(seed, 0, augmented=False)(0)) for seed in (0, 0, 1))
    assert (first.support["inputs"] == again.support["inputs"]).all()
    assert (first.support["inputs"] != other.support["inputs"]).any()
    later = next(tasks.batches(0, 0, augmented=False)(3))
    offset = next(tasks.batches(0, 3, augmented=False)(0))
    assert (later.support["inputs"] == offset.support["inputs"]).all()
