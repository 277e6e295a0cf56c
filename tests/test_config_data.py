"""Every config is built with the data that it names, in each of its sizes."""

import tomllib

import jax
import numpy as np
import pytest
from shipped import CONFIGS, presets_of

from jaxmeta.config import build, load_jobs
from jaxmeta.config.build import first_episode
from jaxmeta.config.search_space import TRACED, load_search, space_of
from jaxmeta.config.turns import one_turn

# Those of the kinds of tasks that there are, which come as a look, as a run for two cores, and for an accelerator.
KINDS = (
    *("en_es_to_fr", "gnome_help_summaries", "mlqe_matching", "nusax_sentiment", "nusax_translation"),
    *("sentiment_en_zh", "sib200_topics", "spoken_digit_strings", "spoken_digits", "spoken_string_retrieval"),
    *("tatoeba_retrieval", "tico19_translation", "udhr_generation", "xed_sentiment", "xquad_answers"),
)
# The table of settings to search, of a config or of one of its presets.
SEARCHED = [
    (path, preset)
    for path in CONFIGS
    for preset in (None, *presets_of(path))
    if "search" in tomllib.loads(path.read_text("utf-8"))
]
ABSENT = ("omniglot_full", "half_cheetah")  # data that a user makes, and a world of the extra `rl`


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_comes_in_three_sizes(name):
    (path,) = (path for path in CONFIGS if path.stem == name)
    assert {"quick", "gpu"} <= presets_of(path).keys()
    looked, whole = (load_jobs(path, preset=preset).configs.values() for preset in ("quick", None))
    assert {job.train.seeds for job in looked} == {1}
    assert {job.train.seeds for job in whole} == {3}


def test_a_config_comes_with_a_search():
    assert {preset for _, preset in SEARCHED} >= {None, "quick"}


@pytest.mark.parametrize(("path", "preset"), SEARCHED, ids=lambda part: getattr(part, "stem", str(part)))
def test_a_search_is_allowed_by_its_config(path, preset):
    (config,) = load_jobs(path, preset=preset).configs.values()
    search = load_search(str(path), preset, {})
    assert {*space_of(search, config)} <= {*TRACED}  # in one program
    assert search.trials > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "preset"),
    [(path, preset) for path in CONFIGS for preset in (None, *presets_of(path))],
    ids=lambda part: getattr(part, "stem", str(part)),
)
def test_it_is_built_and_its_steps_are_traced(path, preset, data_dir, monkeypatch):
    monkeypatch.setenv("JAXMETA_DATA", str(data_dir))
    if path.stem in ABSENT:
        pytest.skip("a user makes or installs this")
    for config in load_jobs(path, preset=preset).configs.values():
        built = build(one_turn(config))
        names = {method.name for method in built.experiment.methods} | {way.name for way in built.experiment.classical}
        assert names >= set(built.setting.config.evaluate.methods)
        episode = first_episode(built.setting.config, built.tasks)
        assert all(np.all(np.isfinite(leaf)) for leaf in map(np.asarray, jax.tree.leaves(episode)))
        if preset in ("quick", "gpu"):  # the same methods, or fewer
            continue
        batch = next(built.tasks.batches(0, 0, augmented=False)(0))
        for phase in built.experiment.phases:
            with jax.numpy_dtype_promotion("standard"):
                state = jax.eval_shape(phase.learner.init, jax.random.key(0), batch)
                after, _ = jax.eval_shape(phase.learner.update, state, batch)
            assert jax.tree.structure(after) == jax.tree.structure(state)
