"""Drawn characters: files, episodes whose classes are others each time, and a run on them."""

import contextlib
import io

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tiny_run import evaluation, jaxmeta, train

from jaxmeta import data
from jaxmeta.config import build, commands, load
from jaxmeta.config.kinds import make_model
from jaxmeta.core.checks import InputError
from jaxmeta.data.image_episodes import MIXED
from jaxmeta.run.classical_images import pixel_regression
from jaxmeta.run.experiment import train as train_all
from jaxmeta.run.judge import evaluate
from jaxmeta.run.logging import MetricsLog, progress

ALPHABETS = ("Aa", "Bb", "Cc", "Dd")
CHARACTERS, DRAWINGS, SIZE = 6, 4, 16
SPLIT = data.LanguageSplit(train=("Aa", "Bb"), dev=("Cc",), test=("Dd",))


def arrays():
    """Images whose first pixels are what they are: the character and the drawing."""
    count = len(ALPHABETS) * CHARACTERS * DRAWINGS
    number = np.arange(count)
    image = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE), np.uint8)
    character = number // DRAWINGS
    image[:, 0, 0], image[:, 0, 1] = character, number % DRAWINGS
    alphabet = character // CHARACTERS
    return {"image": image, "character": character, "alphabet": alphabet, "alphabet_names": np.array(ALPHABETS)}


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "drawn.npz", **arrays())
    return tmp_path / "drawn.npz"


@pytest.fixture
def images(path):
    return data.read_images(path)


def episodes(images, **options):
    return data.ImageEpisodes(images, SPLIT, **{"ways": 3, "shots": 1, "queries": 2, **options})


def unturned(image):
    """Returns the character, the drawing and by how many quarters an image was turned."""
    corners = [np.rot90(image, -turn)[0, :2].tolist() for turn in range(4)]
    original = arrays()["image"]
    for turn, (character, drawing) in enumerate(corners):
        row = character * DRAWINGS + drawing
        if drawing < DRAWINGS and row < len(original) and (np.rot90(image, -turn) == original[row]).all():
            return character, drawing, turn
    raise AssertionError("no such image")


def same(first, second):
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


# Files


def test_a_file_is_read(images):
    assert (images.name, len(images), images.alphabets()) == ("drawn", 96, ALPHABETS)
    of_two = images.characters(("Dd", "Aa"))
    assert [images.character[rows].tolist() for rows in of_two] == [[c] * DRAWINGS for c in (*range(6), *range(18, 24))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "has no array 'image'; it must hold image, character, alphabet, alphabet_names"),
        ({"image": np.zeros((96, 16, 16))}, "`image` is float64 of 3 axes; store uint8"),
        ({"image": np.zeros((96, 256), np.uint8)}, "`image` is uint8 of 2 axes"),
        ({"image": np.zeros((0, 16, 16), np.uint8)}, "has no images"),
        ({"character": np.arange(95)}, "`character` is int64 of the shape .95. where there are 96 images"),
        ({"character": np.zeros(96)}, "`character` is float64"),
        ({"alphabet": np.full(96, 4)}, "image 0: `alphabet` is 4 where 4 `alphabet_names` are"),
        ({"alphabet_names": np.array(["Aa", "Aa", "Cc", "Dd"])}, "`alphabet_names` is no row of different strings"),
        ({"alphabet_names": np.arange(4)}, "`alphabet_names` is no row of different strings"),
        ({"character": np.arange(96) % 24}, "character 0 is in Aa and in Bb; number the characters of all alphabets"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_one_sentence(changes, message, tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, **{name: array for name, array in (arrays() | changes).items() if array is not None})
    with pytest.raises(InputError, match=message) as error:
        data.read_images(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_archive_is_refused(tmp_path, path):
    (tmp_path / "text.npz").write_text("nothing")
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:9000])
    for name in ("text.npz", "cut.npz"):
        with pytest.raises(InputError, match="is not an npz file that numpy can read"):
            data.read_images(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        data.read_images(tmp_path / "none.npz")


def test_the_command_line_looks_at_images(path, capsys):
    assert jaxmeta("data", "check", str(path)) == 0
    shown = capsys.readouterr().out
    assert "drawn: 96 images, 24 characters, 4 alphabets" in shown
    assert "4 to 4 drawings of a character" in shown
    assert jaxmeta("data", "show", str(path)) == 0
    assert "Cc" in capsys.readouterr().out


def test_omniglot_is_built_out_of_its_folders(tmp_path, capsys):
    image_library = pytest.importorskip("PIL.Image")
    source, out = tmp_path / "source", tmp_path / "built"
    for alphabet, characters in (("Aa", 2), ("Bb", 1)):
        for character in range(characters):
            folder = source / "images_background" / alphabet / f"character{character:02}"
            folder.mkdir(parents=True)
            for drawing in range(3):
                pixels = np.full((105, 105), 255, np.uint8)
                pixels[:52] = 0  # ink above
                image_library.fromarray(pixels).convert("1").save(folder / f"{character}_{drawing}.png")
    small = source / "images_background_small1" / "Cc" / "character01"
    small.mkdir(parents=True)
    (small / "0_0.png").write_bytes(b"is not read, for all of it is there")
    assert jaxmeta("data", "build", "omniglot", "--from", str(source), "--out", str(out)) == 0
    assert 'source = "omniglot"' in capsys.readouterr().out
    found = data.read_images(out / "omniglot.npz")
    assert found.image.shape == (9, 28, 28)
    assert found.image[:, :12].min() > 250  # inverted
    assert found.image[:, 16:].max() < 5
    assert found.character.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found.alphabet.tolist() == ["Aa"] * 6 + ["Bb"] * 3
    assert [path.name for path in out.iterdir()] == ["omniglot.npz"]
    assert jaxmeta("data", "build", "omniglot", "--from", str(source), "--out", str(out)) == 2
    assert "omniglot.npz exists" in capsys.readouterr().err
    with pytest.raises(InputError, match="has no folders images_background, images_evaluation"):
        data.build_omniglot(small, tmp_path / "other")
    (source / "images_background" / "Aa" / "character00" / "0_0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"0_0\.png is not an image that Pillow can read"):
        data.build_omniglot(source, tmp_path / "other")


# Episodes


@pytest.mark.parametrize("options", [{}, {"rotations": True}, {"mixed": True}, {"rotations": True, "mixed": True}])
def test_an_episode_has_its_own_classes_and_no_drawing_twice(images, options):
    found = episodes(images, **options)
    seen, alphabets = set(), set()
    for index in range(20):
        support, query = found(index)
        assert support["inputs"].shape == (3, SIZE, SIZE)
        assert query["inputs"].shape == (6, SIZE, SIZE)
        assert support["targets"].tolist() == [0, 1, 2]
        assert query["targets"].tolist() == [0, 1, 2] * 2
        of_target = {}
        drawn = [unturned(image) for side in (support, query) for image in side["inputs"]]
        targets = np.concatenate([support["targets"], query["targets"]])
        for (character, _, turn), target in zip(drawn, targets, strict=True):
            assert of_target.setdefault(int(target), (character, turn)) == (character, turn)
        assert len(set(of_target.values())) == 3
        assert len(set(drawn)) == 9
        assert {turn for _, _, turn in drawn} <= set(range(4 if "rotations" in options else 1))
        own = {ALPHABETS[character // CHARACTERS] for character, _, _ in drawn}
        assert own <= set(SPLIT.train)
        alphabets.add(len(own))
        seen |= set(of_target.values())
    assert (max(alphabets) > 1) == ("mixed" in options)
    assert len(seen) > (12 if "rotations" in options else 8)


def test_source_classes_tell_all_classes_of_the_train_alphabets_apart(images):
    found = episodes(images, rotations=True)
    assert found.source_classes == 2 * CHARACTERS * 4
    names = {}
    for index in range(100):
        for side in found(index):
            for image, number in zip(side["inputs"], side["source_class"].tolist(), strict=True):
                character, _, turn = unturned(image)
                assert names.setdefault(number, (character, turn)) == (character, turn)
    assert len(set(names.values())) == len(names)
    assert len(names) == found.source_classes
    assert set(names) == set(range(found.source_classes))
    assert "source_class" not in found.evaluation_episode("Dd", shots=1, draw=0).support


def test_episodes_are_pure_in_seed_split_and_number(images):
    first, again, other = (episodes(images, seed=seed) for seed in (0, 0, 1))
    same(first(7), again(7))
    assert (first(7).support["inputs"] != first(8).support["inputs"]).any()
    assert (first(7).support["inputs"] != other(7).support["inputs"]).any()
    same(first.evaluation_episode("Dd", shots=1, draw=3), again.evaluation_episode("Dd", shots=1, draw=3))


def test_fewer_shots_are_a_prefix_and_the_query_stays(images):
    found = episodes(images, queries=1)
    few, many = (found.evaluation_episode("Dd", shots=shots, draw=2) for shots in (1, 3))
    np.testing.assert_array_equal(many.support["inputs"][:3], few.support["inputs"])
    np.testing.assert_array_equal(many.query["inputs"], few.query["inputs"])
    drawn = [unturned(image)[:2] for side in many for image in side["inputs"]]
    assert len(set(drawn)) == 12
    assert {ALPHABETS[character // CHARACTERS] for character, _ in drawn} == {"Dd"}


def test_queries_may_be_fewer_but_each_class_has_one(images):
    found = episodes(images)
    assert len(found.evaluation_episode("Dd", shots=1, draw=0, max_queries=5).query["targets"]) == 3
    assert found.evaluation_episode("Dd", shots=1, draw=0, max_queries=1).query["targets"].tolist() == [0, 1, 2]


def test_splits_are_named_by_their_alphabets_or_by_all_of_them(images):
    assert episodes(images).names("train") == SPLIT.train
    assert episodes(images, mixed=True).names("train") == episodes(images, mixed=True).names("test") == (MIXED,)
    assert images.count_repeats(SPLIT.test, SPLIT.train) == 0
    assert images.count_repeats(SPLIT.test, ("Dd",)) == CHARACTERS * DRAWINGS
    # Nothing to choose settings on is no set of too few classes.
    alone = data.ImageEpisodes(images, SPLIT._replace(dev=()), ways=3, shots=1, queries=2, mixed=True)
    assert alone.names("dev") == ()
    assert images.characters(()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 7}, "Aa of drawn .train. has 6 classes where an episode has 7; lower the ways, count turned"),
        ({"ways": 13, "mixed": True}, "all alphabets of drawn .train. has 12 classes where an episode has 13"),
        ({"shots": 3}, "Character 0 of Aa in drawn .train. has 4 drawings where 3 shots and 2 queries are wanted"),
    ],
)
def test_too_few_classes_or_drawings_are_refused(images, options, message):
    with pytest.raises(InputError, match=message):
        episodes(images, **options)


def test_more_shots_than_there_are_drawings_are_refused(images):
    with pytest.raises(InputError, match="has 4 drawings where 3 shots"):
        episodes(images).evaluation_episode("Dd", shots=3, draw=0)
    with pytest.raises(InputError, match="Aa is no test alphabet of drawn; name one of the split"):
        episodes(images).evaluation_episode("Aa", shots=1, draw=0)


# Runs

DRAWN = {
    "task.source": "omniglot", "task.ways": 3, "task.shots": 1, "task.queries": 2, "task.tasks-per-step": 2,
    "task.test-languages": ("Dd",), "task.dev-languages": ("Cc",), "model.kind": "conv4", "model.width": 8,
    "model.heads": 4, "train.steps": 1, "train.warm-start": 0, "evaluate.steps": (0, 1), "evaluate.draws": 2,
    "evaluate.methods": ("linear_head", "prototypes", "pixels", "transductive_protonet"),
    "evaluate.head-learning-rates": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    np.savez(folder / "drawn.npz", **arrays())
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(commands, "write_report", lambda run: run)
        assert jaxmeta(*train(str(folder / "run"), DRAWN | {"task.path": str(folder / "drawn.npz")})) == 0
    return folder / "run"


def test_a_run_on_images_is_trained_and_judged(run, capsys):
    found = evaluation(run)
    assert set(found["methods"]) == set(DRAWN["evaluate.methods"])
    assert found["languages"] == ["Dd"]
    assert all(0 <= method["mean"] <= 100 for method in found["methods"].values())
    assert found["data"]["overlap"] == "overlap of meta-training images with judged images: 0 the same"
    assert found["data"]["characters"] == {"train": 12, "dev": 6, "test": 6}
    assert jaxmeta("adapt", str(run), "--shots", "mine.npz", "--out", "adapted") == 2
    assert "only a run on text or recordings can be adapted to a file" in capsys.readouterr().err


def test_a_curve_goes_as_far_as_the_drawings(run):
    changes = {"evaluate.shot_curve": (1, 2, 3), "evaluate.curve_methods": ("prototypes",)}
    assert build(load(run / "config.toml", changes=changes)).experiment.judging.shot_curve == (1, 2)


def test_problems_of_mixed_alphabets_are_the_unit_of_the_table(run):
    config = load(run / "config.toml", changes={"task.mixed": True, "task.problems": 3, "evaluate.draws": 2})
    tasks = build(config).tasks
    assert tasks.languages("test") == ["problem 0", "problem 1", "problem 2"]
    posed = [
        tasks.episode(name, shots=1, draw=draw, split="test") for name in tasks.languages("test") for draw in (0, 1)
    ]
    assert len({episode.support["inputs"].tobytes() for episode in posed}) == 6
    same(posed[1], tasks.judged.evaluation_episode(MIXED, shots=1, draw=3, split="test"))


@pytest.mark.parametrize(("precision", "short"), [("float32", "f32"), ("bfloat16", "bf16")])
def test_images_are_read_in_the_precision_that_is_asked_for(precision, short):
    changes = {"task.source": "omniglot", "model.kind": "conv4", "model.width": 8, "model.precision": precision}
    config = load(changes=changes)
    model = make_model(config, 3)
    images = np.zeros((2, 28, 28), np.uint8)
    params = jax.eval_shape(model.init, jax.random.key(0), images)
    program = str(jax.make_jaxpr(model.features)(params, images))
    products = [line for line in program.splitlines() if "dot_general" in line or "conv_general" in line]
    assert products
    assert all(f":{short}[" in line for line in products)
    assert jax.eval_shape(model.features, params, images).dtype == np.float32


@pytest.mark.slow
def test_calibration_is_shown_with_temperatures_from_folds_of_the_shots(run, tmp_path, standard_promotion):
    changes = {"task.shots": 2, "evaluate.temperature_methods": ("prototypes", "transductive_protonet")}
    built = build(load(run / "config.toml", changes=changes | {"evaluate.draws": 1}))
    (tmp_path / "run").mkdir()
    with MetricsLog(tmp_path / "run") as log, progress() as display:
        found = evaluate(built.experiment, train_all(built.experiment, tmp_path / "run", log, display), display)
    assert set(found["temperature"]["methods"]) == {"prototypes", "transductive_protonet"}
    for method in found["temperature"]["methods"].values():
        assert method["temperature"]["low"] > 0
        assert sum(method["after"]["bins"]["count"]) == 6  # queries of one problem


def test_alphabets_are_left_out_and_named_as_languages_are(run):
    config = load(run / "config.toml")
    names = build(config).tasks.languages("train")
    left_out = load(run / "config.toml", changes={"task.left_out_languages": names[:1]})
    assert list(build(left_out).tasks.languages("train")) == list(names[1:])
    named = load(run / "config.toml", changes={"task.train_languages": names[1:]})
    assert list(build(named).tasks.languages("train")) == list(names[1:])


def test_joint_training_tells_all_characters_apart(run):
    built = build(load(run / "config.toml"))
    phase = next(phase for phase in built.experiment.phases if phase.name == "joint")
    episode = next(built.tasks.batches(0, 0, augmented=False)(0))
    shapes = jax.eval_shape(phase.learner.init, jax.random.key(0), episode).meta_params["params"]
    assert shapes["head"]["kernel"].shape[-1] == 2 * CHARACTERS


MANY = {"task.path": "", "task.test_languages": 2, "task.dev_languages": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.kind": "transformer"}, '`model.kind` "transformer" reads text, not images; set it to "conv4"'),
        ({"task.source": "cldr", **MANY}, '`model.kind` "conv4" reads images, not text; set it to "transf'),
        ({"model.width": 12}, "`model.width` must be a multiple of 8 for images, got 12"),
        ({"train.warm_start": 0.5}, "`train.warm_start` must be 0 for images"),
        ({"task.ways": 1}, "`task.ways` must be at least 2, got 1"),
        ({"task.kind": "retrieval"}, '`task.kind` "retrieval" is not about images'),
        ({"evaluate.methods": ("zero_shot",)}, "there is no method 'zero_shot' for classification of images"),
        ({"task.path": ""}, "`task.path` is empty; name an npz file"),
        (
            {"evaluate.manifest": "problems.json"},
            "Classes of images have no rows of their own that a manifest",
        ),
    ],
)
def test_what_means_nothing_for_images_is_refused(run, changes, message):
    some = {"evaluate.methods": ("protonet",), "evaluate.main": "auto"}
    config = load(run / "config.toml", changes=some | changes)
    with pytest.raises(InputError, match=message):
        build(config)


def test_small_images_are_refused(tmp_path, run):
    small = arrays()
    np.savez(tmp_path / "small.npz", **{**small, "image": small["image"][:, :12, :12]})
    with pytest.raises(InputError, match="Images of small are 12 x 12 pixels"):
        build(load(run / "config.toml", changes={"task.path": str(tmp_path / "small.npz")}))


def test_the_two_small_background_sets_of_omniglot(data_dir):
    path = data_dir / "omniglot" / "omniglot.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    images = data.read_images(path)
    assert (len(images), len(images.alphabets())) == (4840, 8)
    assert {len(rows) for rows in images.characters(images.alphabets())} == {20}
    split = data.split_languages(images.alphabets(), test=("Early_Aramaic", "Tagalog"), dev=("Balinese",))
    assert images.count_repeats(split.test, split.train) == 0
    found = data.ImageEpisodes(images, split, ways=20, shots=5, queries=5, rotations=True)
    assert found.source_classes == 4 * 179
    assert found(0).support["inputs"].shape == (100, 28, 28)


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_a_regression_on_pixels_is_that_of_scikit_learn(strength):
    """On what the shots span it is the same, up to where its solver stops."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 3)
    shapes = rng.integers(0, 256, (4, 28, 28))
    images = np.clip(shapes[labels] + rng.normal(0, 60, (12, 28, 28)), 0, 255)
    query = np.clip(shapes[np.arange(8) % 4] + rng.normal(0, 60, (8, 28, 28)), 0, 255)
    flat = [part.reshape(len(part), -1) / 255.0 for part in (images, query)]
    whole = LogisticRegression(C=strength, max_iter=1000, tol=1e-8).fit(flat[0], labels).predict_proba(flat[1])
    found = np.exp(pixel_regression(images, labels, query, strength=strength))
    np.testing.assert_allclose(found, whole, atol=2e-3)
