"""How similar languages are: profiles counted by hand, gradients and displacements that follow from a formula."""

import collections
import math

import jax
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta.data import script_shares
from jaxmeta.run.comparison_figures import clusters, readable, similarity
from jaxmeta.run.figure_style import LIGHT, png, style
from jaxmeta.run.plan import BASELINE, META, Method
from jaxmeta.run.records import read_similarity
from jaxmeta.run.similarity import (
    closeness,
    cosines,
    displacements,
    gradient_method,
    gram_matrix,
    nearest_sources,
    overlaps,
    task_gradients,
    text_similarity,
)

# Slopes of the lines y = slope * x that supports are made of.
SLOPES = (2.0, 2.0, -1.0, 0.5)


def profile(texts):
    """Counts n-grams of one to four characters of words with a space at either end."""
    counts = collections.Counter()
    for word in " ".join(texts).lower().split():
        padded = f" {word} "
        counts.update(padded[at : at + n] for n in range(1, 5) for at in range(len(padded) - n + 1))
    return {ngram: 1 + math.log(count) for ngram, count in counts.items()}


def cosine(one, other):
    product = sum(weight * other.get(ngram, 0) for ngram, weight in one.items())
    return product / math.sqrt(sum(w * w for w in one.values()) * sum(w * w for w in other.values()))


def test_texts_are_compared_by_their_ngrams():
    texts = [["Abend rot", "roter Abend"], ["avond rood"], ["Abend rot", "roter Abend"], ["ξηψω"], []]
    found = text_similarity(texts)
    profiles = [profile(of_language) for of_language in texts[:4]]
    expected = [[cosine(one, other) for other in profiles] for one in profiles]
    np.testing.assert_allclose(found[:4, :4], expected, rtol=1e-5, atol=1e-6)
    assert found[0, 2] == pytest.approx(1)
    assert found[0, 1] > found[0, 3] > 0  # the space around words alone
    assert found[4].tolist() == [0] * 5


@pytest.mark.parametrize("limit", [4 * 3, 4 * 3 * 2, 4 * 3 * 100])
def test_vectors_need_not_fit_together(limit):
    vectors = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    asked = []

    def some(rows):
        asked.append(len(rows))
        return vectors[rows]

    np.testing.assert_allclose(gram_matrix(some, 7, 3, limit=limit), vectors @ vectors.T, rtol=1e-5)
    assert max(asked) * 3 * 4 <= limit
    assert len(asked) == 1 or limit < 4 * 3 * 7


def test_what_has_no_length_is_like_nothing():
    found, norms = cosines(np.array([[4.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(found, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(norms, [2, 1, 0])
    for broken in (np.nan, np.inf):
        found, norms = cosines(np.array([[4.0, 2.0, broken], [2.0, 1.0, broken], [broken, broken, broken]]))
        np.testing.assert_allclose(found, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
        np.testing.assert_allclose(norms, [2, 1, 0])


def line(slope, axis=0):
    x = np.zeros((4, 2), np.float32)
    x[:, axis] = (-2, -1, 1, 2)
    return {"inputs": x, "targets": slope * x[:, axis : axis + 1]}


def of_lines():
    """Returns MAML on a line through zero that starts at the slopes (1, 1), and supports along one axis each."""
    model = jm.models.plain(
        init=lambda key, inputs: {"slope": np.ones((2, 1), np.float32)}, apply=lambda params, x: x @ params["slope"]
    )
    method = Method("maml", META, "maml", lambda rate: jm.maml(model, jm.objectives.regression(), optax.sgd(rate)),
                    (0.1,), (0, 2))  # fmt: skip
    supports = [line(slope) for slope in SLOPES] + [line(3.0, axis=1)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *supports)
    return method, {"params": {"slope": np.ones((2, 1), np.float32)}}, stacked


def test_gradients_are_those_of_the_formula():
    method, meta_params, supports = of_lines()
    found, norms = task_gradients(method, meta_params, supports, learning_rate=0.1)
    # The mean squared error of a slope w is (w - slope)^2 times the mean of x^2, which is 2.5.
    np.testing.assert_allclose(norms, [abs(2 * 2.5 * (1 - slope)) for slope in (*SLOPES, 3.0)], rtol=1e-5)
    signs = np.sign([1 - slope for slope in SLOPES])
    np.testing.assert_allclose(found[:4, :4], np.outer(signs, signs), atol=1e-6)
    np.testing.assert_allclose(found[4], [0, 0, 0, 0, 1], atol=1e-6)


def test_displacements_are_those_of_the_formula():
    method, meta_params, supports = of_lines()
    found, norms = displacements(method, meta_params, supports, learning_rate=0.1, steps=2)
    # A step halves the distance to the slope: 1 - 0.1 * 2 * 2.5 = 0.5.
    np.testing.assert_allclose(norms, [abs((slope - 1) * 0.75) for slope in (*SLOPES, 3.0)], rtol=1e-5)
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 2] == pytest.approx(-1)
    assert found[0, 4] == pytest.approx(0, abs=1e-6)


def test_what_an_optimizer_remembers_is_no_displacement(standard_promotion):
    method, meta_params, supports = of_lines()
    model = jm.models.plain(
        init=lambda key, inputs: {"slope": np.ones((2, 1), np.float32)},
        apply=lambda params, x: x @ params["slope"],
        features=lambda params, x: x,
    )
    head = method._replace(
        build=lambda rate: jm.linear_head(model, jm.objectives.regression(), optax.adam(rate), num_outputs=1)
    )
    _, norms = displacements(head, meta_params, supports, learning_rate=0.1, steps=2)
    # Adam moves each of three numbers by its rate at first; its counter, and its moments, are not among them.
    assert np.all(norms < 0.2 * 3**0.5)


def test_how_close_vectors_end_is_that_of_the_formula():
    vectors = np.array([[1.0, 0.0], [3.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    cosine, norms = cosines(vectors @ vectors.T)
    found = closeness(cosine, norms)
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    total = norms[:, None] + norms[None]
    np.testing.assert_allclose(found[:4, :4], 1 - apart[:4, :4] / total[:4, :4], atol=1e-12)
    np.testing.assert_allclose(found[0, :4], [1, 0.5, 0, 1 - 5**0.5 / 3])
    np.testing.assert_array_equal(found[4], [0, 0, 0, 0, 1])
    # Two that diverged are not alike for that.
    np.testing.assert_array_equal(closeness(np.zeros((2, 2)), np.zeros(2)), np.eye(2))


def test_scripts_overlap_by_their_shares():
    shares = np.stack([script_shares(texts) for texts in (["abcd"], ["ab", "βγ"], ["βγδ"], ["12"])])
    np.testing.assert_allclose(overlaps(shares)[:3, :3], [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]])
    assert not overlaps(shares)[3].any()


def test_the_nearest_are_by_what_adaptation_changes_where_there_are_no_texts():
    measures = {"displacements": FOUND["measures"]["texts"], "scripts": FOUND["measures"]["texts"]}
    assert nearest_sources({**FOUND, "measures": measures}, at_most=1) == {"ta": [("sb", 0.8)], "tb": [("sa", 0.7)]}


def test_gradients_are_of_the_main_method_or_of_one_that_takes_steps():
    def method(name, kind=META, phase="p", steps=(0, 5)):
        return Method(name, kind, phase, lambda rate: rate, (0.1,), steps)

    class Run:
        main = "ridge"
        methods = (method("target_only", BASELINE, None), method("joint", BASELINE), method("ridge", steps=(0,)),
                   method("maml"))  # fmt: skip

    assert gradient_method(Run).name == "maml"
    Run.main = "joint"
    assert gradient_method(Run).name == "joint"
    Run.methods = Run.methods[:1]
    assert gradient_method(Run) is None


FOUND = {
    "languages": ["ta", "tb", "sa", "sb", "sc"], "roles": ["test"] * 2 + ["train"] * 3, "scripts": ["LATIN"] * 5,
    "measures": {"texts": {"says": "Cosine.", "matrix": [
        [1, .9, .2, .8, .5], [.9, 1, .7, .1, .3], [.2, .7, 1, 0, 0], [.8, .1, 0, 1, .4], [.5, .3, 0, .4, 1],
    ]}},
}  # fmt: skip


def test_the_nearest_are_sources():
    assert nearest_sources(FOUND, at_most=2) == {"ta": [("sb", 0.8), ("sc", 0.5)], "tb": [("sa", 0.7), ("sc", 0.3)]}
    assert nearest_sources({**FOUND, "measures": {}}) == {}


def test_the_picture_has_relatives_side_by_side():
    matrix = np.array(FOUND["measures"]["texts"]["matrix"])
    leaves = clusters(matrix)["leaves"]
    assert abs(leaves.index(0) - leaves.index(1)) == 1
    assert readable(matrix, FOUND["roles"], most=3).tolist() == [0, 1, 3]
    with style(LIGHT):
        figure = similarity(FOUND, "texts")
        assert png(figure).startswith(b"\x89PNG")
    labels = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert labels == [FOUND["languages"][place] for place in leaves]
    assert similarity(FOUND, "gradients") is None


@pytest.mark.parametrize("damage", ["{", '{"languages": []}', None])
def test_a_damaged_file_is_one_sentence(tmp_path, damage):
    import json

    assert read_similarity(tmp_path)["measures"] == {}
    shorter = {**FOUND, "roles": ["test"]}
    (tmp_path / "similarity.json").write_text(damage or json.dumps(shorter))
    with pytest.raises(jm.InputError, match="is damaged") as error:
        read_similarity(tmp_path)
    assert "\n" not in str(error.value)
