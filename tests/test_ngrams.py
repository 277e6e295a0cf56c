"""The bag of character n-grams against scikit-learn, and characters against Python's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta.data import ByteTokenizer
from jaxmeta.models import NgramEncoder, ngrams
from jaxmeta.models.ngrams import characters, ngram_counts
from jaxmeta.models.romanization import romanization_table, romanized

TEXTS = ["Tidak enak, tidak!", "a", "電車は速い 電車", "नमस्ते दुनिया", "çà et là", "aa aa aaa", "x" * 40]
BUCKETS, LONGEST = 2**17, 4


@pytest.fixture(scope="module")
def vectorizer():
    return pytest.importorskip("sklearn.feature_extraction.text")


def tokens(texts, length=64):
    return jnp.asarray(ByteTokenizer(length).encode(texts))


def lowered(text):
    """In lower case as far as ASCII goes."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def test_bytes_become_characters_whatever_the_script():
    numbers = np.asarray(jax.jit(characters)(tokens(TEXTS)))
    known = {}
    for row, text in zip(numbers, TEXTS, strict=True):
        assert (row[: len(text)] > 0).all()
        assert (row[len(text) :] == 0).all()
        for number, letter in zip(row[: len(text)].tolist(), lowered(text), strict=True):
            assert known.setdefault(letter, number) == number
    assert len(set(known.values())) == len(known)
    assert (known["a"], known[" "]) == (ord("a") + 1, 33)


def test_code_points_and_letters_for_them():
    texts = [*TEXTS, "Обама", "ओबामा", "ওবামা", "café 𝄞"]
    for row, text in zip(np.asarray(jax.jit(characters)(tokens(texts))), texts, strict=True):
        assert row[: len(text)].tolist() == [ord(letter) + 1 for letter in lowered(text)]
    read = np.asarray(jax.jit(lambda given: characters(given, romanization_table()))(tokens(texts)))
    spelled = ["".join(chr(code - 1) for code in row[row > 0]) for row in read]
    assert spelled == ["".join(romanized(letter) for letter in text) for text in texts]
    short = np.asarray(jax.jit(lambda given: characters(given, romanization_table(vowels=False)))(tokens(texts)))
    for row, whole in zip(short, spelled, strict=True):
        assert [chr(code - 1) for code in row[row > 0]] == [letter for letter in whole if letter not in "aeiouwy"]
    assert spelled[-4:] == ["obama", "obama", "obama", "cafe 𝄞"]
    assert [romanized(letter) for letter in "ßжلक中٣é"] == ["s", "z", "l", "k", "中", "3", "e"]


@pytest.mark.slow
def test_a_romanized_text_meets_another_script():
    own, both = (ngrams(2, buckets=2**14, romanize=romanize) for romanize in (False, True))
    read = tokens(["obama", "Обама", "ওবামা"])
    alike = [np.asarray(model.features(model.init(jax.random.key(0), read), read)) for model in (own, both)]
    apart, close = (features[0] @ features[1:].T / 2**14 for features in alike)
    assert (apart < 0.01).all()
    assert (close > 0.4).all()
    with pytest.raises(ValueError, match="`romanize` needs characters"):
        ngrams(2, from_bytes=False, romanize=True)


@pytest.mark.parametrize("length", [40, 80])
def test_counts_are_scikit_learns(vectorizer, length):
    def counted(read):
        return ngram_counts(characters(read), BUCKETS, longest=LONGEST, space=33)

    texts = [lowered(text) for text in TEXTS if len(text.encode()) <= 40]
    got = np.asarray(jax.jit(counted)(tokens(texts, length)))
    model = vectorizer.CountVectorizer(analyzer="char_wb", ngram_range=(1, LONGEST), lowercase=False)
    want = model.fit_transform(texts).toarray()
    want[:, model.vocabulary_[" "]] = 0  # a space alone says how many words there are
    for row, expected in zip(got, want, strict=True):
        np.testing.assert_array_equal(np.sort(row[row > 0]), np.sort(expected[expected > 0]))
    np.testing.assert_array_equal(got @ got.T, want @ want.T)  # which n-grams are the same


def test_features_are_weighted_sublinear_counts_of_one_length(vectorizer, x64):
    model = ngrams(3, buckets=BUCKETS, longest=LONGEST, dtype=jnp.float64)
    read = tokens(TEXTS)
    params = model.init(jax.random.key(0), read)
    features = np.asarray(jax.jit(model.features)(params, read))
    norms = np.linalg.norm(features, axis=1)
    np.testing.assert_allclose(norms, BUCKETS**0.5)
    fitted = vectorizer.TfidfVectorizer(
        analyzer="char_wb", ngram_range=(1, LONGEST), lowercase=False, sublinear_tf=True, use_idf=False, norm=None
    )
    want = fitted.fit_transform([lowered(text) for text in TEXTS]).toarray()
    want[:, fitted.vocabulary_[" "]] = 0
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(features @ features.T / BUCKETS, want @ want.T, atol=1e-9)
    # A bucket of weight zero takes no part in it.
    shared = (features[0] > 0).nonzero()[0][:3]
    heavier = params | {"log_weight": params["log_weight"].at[shared].add(-50.0)}
    changed = np.asarray(jax.jit(model.features)(heavier, read))[0]
    kept = np.delete(features[0], shared)
    np.testing.assert_allclose(np.delete(changed, shared), kept * BUCKETS**0.5 / np.linalg.norm(kept), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])
def test_a_text_without_characters_has_no_features_and_no_nan_in_derivatives(dtype, x64):
    model = ngrams(2, buckets=32, longest=2, dtype=dtype)
    read = tokens(["", "ab"], 4)
    params = model.init(jax.random.key(0), read)

    def loss(given):
        return jnp.sum(jnp.square(model.apply(given, read)))

    def twice(given):
        return jax.grad(lambda p: sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(jax.grad(loss)(p))))(given)

    assert not np.asarray(model.features(params, read))[0].any()
    for leaf in jax.tree.leaves(jax.jit(twice)(params)):
        assert leaf.dtype == dtype
        assert np.isfinite(leaf).all()


@pytest.mark.slow
def test_vmapped_is_looped_and_a_tail_of_padding_changes_nothing():
    model = ngrams(2, buckets=64, longest=3)
    params = model.init(jax.random.key(0), tokens(TEXTS))
    stacked = jnp.stack([tokens(TEXTS[:3]), tokens(TEXTS[3:6])])
    together = jax.jit(jax.vmap(model.apply, (None, 0)))(params, stacked)
    apart = jnp.stack([model.apply(params, batch) for batch in stacked])
    np.testing.assert_allclose(together, apart, rtol=1e-6)
    longer = jnp.pad(stacked[0], ((0, 0), (0, 9)))
    np.testing.assert_allclose(model.apply(params, longer), apart[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["outputs", "buckets", "longest"])
def test_sizes_are_checked(name):
    with pytest.raises(ValueError, match=f"`{name}` must be positive, got 0"):
        NgramEncoder(**{"outputs": 2, name: 0})
