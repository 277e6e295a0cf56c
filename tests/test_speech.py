"""The speech encoder: padding changes no number, heads fit on it, and log-mel is computed once for an episode."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta.core.gradients import forward_over_reverse, reverse
from jaxmeta.models import MelSettings, cast, log_mel, speech_classifier, speech_recognizer
from jaxmeta.models.speech import shared_out
from jaxmeta.objectives import classification, recognition

MEL = MelSettings(window=32, hop=16, bins=4, low=0.0, normalization="mean")
SIZES = {"width": 8, "layers": 1, "heads": 2, "expansion": 2, "kernel": 3, "max_places": 32, "mel": MEL}
CLASSES, EXAMPLES, LENGTH = 3, 6, 320


def speech(dtype=np.float32, length=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    samples = rng.integers(length // 3, length + 1, EXAMPLES).astype(np.int32)
    samples[0] = length
    audio = rng.normal(0, 0.1, (EXAMPLES, length)).astype(dtype)
    return {"audio": np.where(np.arange(length)[None] < samples[:, None], audio, 0).astype(dtype), "samples": samples}


def longer(inputs, extra, fill=0.0):
    rubbish = np.arange(LENGTH)[None] >= inputs["samples"][:, None]
    audio = np.where(rubbish, fill, inputs["audio"]).astype(inputs["audio"].dtype)
    return {**inputs, "audio": np.pad(audio, ((0, 0), (0, extra)), constant_values=fill)}


@pytest.fixture(scope="module")
def classifier():
    model = speech_classifier(CLASSES, segments=2, **SIZES)
    params = jax.jit(model.init)(jax.random.key(0), speech())
    return model, params, jax.jit(model.apply), jax.jit(model.features)


def everything_of(outputs):
    """The outputs of an encoder as numbers, `[N, ...]`, zero where nothing is real."""
    if isinstance(outputs, dict):
        return jnp.where(outputs["real"][..., None], outputs["logits"], 0)
    return outputs


@pytest.mark.parametrize("build", [speech_classifier, speech_recognizer])
def test_padding_changes_no_number(build, x64):
    model = build(CLASSES, dtype=jnp.float64, **SIZES)
    inputs = speech(np.float64)
    inputs["samples"][3] = 0
    params = jax.jit(model.init)(jax.random.key(0), inputs)

    @jax.jit
    def value_and_grad(params, inputs):
        def loss(params):
            found = everything_of(model.apply(params, inputs))
            return jnp.sum(jnp.sin(found)), found

        (value, found), slope = jax.value_and_grad(loss, has_aux=True)(params)
        return value, slope, found

    value, slope, found = value_and_grad(params, inputs)
    assert len(np.unique(np.round(found, 9), axis=0)) == EXAMPLES
    again, other_slope, other_found = value_and_grad(params, longer(inputs, 75, np.nan))
    assert again == pytest.approx(float(value), rel=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), other_slope, slope)
    if found.ndim == 3:
        np.testing.assert_array_equal(other_found[:, found.shape[1] :], 0)
        other_found = other_found[:, : found.shape[1]]
    np.testing.assert_allclose(other_found, found, rtol=1e-9, atol=1e-12)


def test_an_utterance_does_not_see_the_others(classifier):
    _, params, apply, _ = classifier
    inputs = speech()
    changed = {**inputs, "audio": np.where(np.arange(EXAMPLES)[:, None] == 2, 0.5, inputs["audio"])}
    before, after = apply(params, inputs), apply(params, changed)
    np.testing.assert_array_equal(np.delete(after, 2, axis=0), np.delete(before, 2, axis=0))
    assert (after[2] != before[2]).any()


def test_frames_that_were_computed_before_give_the_same(classifier):
    model, params, apply, _ = classifier
    inputs = speech()
    frames = log_mel(inputs["audio"], inputs["samples"], MEL)
    np.testing.assert_allclose(jax.jit(model.apply)(params, frames), apply(params, inputs), rtol=1e-5, atol=1e-6)


def slow_segments(weight, segments):
    """How much of each place falls into each of the segments of equal weight, by ten thousand points."""
    points = (np.arange(10_000) + 0.5) / 10_000
    places = np.searchsorted(np.cumsum(weight) / weight.sum(), points)
    found = np.zeros((len(weight), segments))
    np.add.at(found, (np.minimum(places, len(weight) - 1), (points * segments).astype(int)), segments / 10_000)
    return found


def test_segments_have_equal_weight_and_places_on_a_border_belong_to_both():
    np.testing.assert_allclose(shared_out(jnp.ones((1, 4)), 2)[0], [[0.5, 0], [0.5, 0], [0, 0.5], [0, 0.5]])
    np.testing.assert_allclose(shared_out(jnp.ones((1, 3)), 2)[0], [[2 / 3, 0], [1 / 3, 1 / 3], [0, 2 / 3]], rtol=1e-6)
    np.testing.assert_array_equal(shared_out(jnp.zeros((1, 3)), 2), 0)
    weight = np.random.default_rng(0).uniform(0, 1, (5, 9)) * (np.random.default_rng(1).random((5, 9)) < 0.7)
    for segments in (1, 3, 4):
        found = shared_out(jnp.asarray(weight, jnp.float32), segments)
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(found, [slow_segments(row, segments) for row in weight], atol=1e-3)


def test_features_are_means_over_the_segments_of_the_real_places(classifier):
    _, params, _, features = classifier
    inputs = speech()
    recognizer = speech_recognizer(CLASSES, **SIZES)
    # A head that hands on what it is given: the places' vectors themselves.
    wide = {**params, "head": {"kernel": jnp.eye(8), "bias": jnp.zeros(8)}}
    outputs = jax.jit(speech_recognizer(8, **SIZES).apply)(wide, inputs)
    assert recognizer.features is None
    params = {**params, "loudness": jnp.float32(1.7)}
    found = features(params, inputs)
    assert found.shape == (EXAMPLES, 2 * (8 + 4))
    frames = log_mel(inputs["audio"], inputs["samples"], MEL)
    mel, spoken = np.asarray(frames["mel"]), np.asarray(frames["real"])
    loud = 1 / (1 + np.exp(-1.7 * mel.mean(axis=-1)))
    for n, (vectors, real) in enumerate(zip(*map(np.asarray, outputs.values()), strict=True)):
        expected = slow_segments(real * loud[n, ::4], 2).T @ vectors
        np.testing.assert_allclose(found[n, :16], expected.reshape(-1), rtol=1e-3, atol=3e-3)
        expected = slow_segments(spoken[n] * loud[n], 2).T @ mel[n]
        np.testing.assert_allclose(found[n, 16:], expected.reshape(-1), rtol=1e-3, atol=3e-3)
    encoded = speech_classifier(CLASSES, segments=2, skip=False, **SIZES)
    np.testing.assert_array_equal(jax.jit(encoded.features)(params, inputs), found[:, :16])


def test_silence_around_a_word_hardly_changes_its_features():
    """Where all is as loud, segments are equal parts of time; silence before a word moves them then."""
    mel = MelSettings(window=32, hop=16, bins=4, low=0.0, normalization="none")
    model = speech_classifier(CLASSES, segments=3, **{**SIZES, "layers": 0, "mel": mel})
    rng = np.random.default_rng(0)
    word = np.concatenate([np.sin(np.arange(240) * step) for step in (0.3, 1.0, 2.0)]) * 0.5
    quiet = 0.001 * rng.normal(size=(2, 1920))
    quiet[0, 200:920] += word
    quiet[1, 968:1688] += word
    inputs = {"audio": quiet.astype(np.float32), "samples": np.array([1120, 1920], np.int32)}
    params = jax.jit(model.init)(jax.random.key(0), inputs)
    features = jax.jit(model.features)

    def distance(loudness):
        first, second = features({**params, "loudness": jnp.float32(loudness)}, inputs)
        return np.abs(first - second).max()  # of both the encoder's vectors and the frames

    assert distance(1.0) < 0.3 * distance(0.0)


def test_as_many_places_are_real_as_the_strides_leave(classifier):
    model = speech_recognizer(CLASSES, **{**SIZES, "strides": (2, 3)})
    inputs = speech()
    params = jax.jit(model.init)(jax.random.key(0), inputs)
    real = np.asarray(jax.jit(model.apply)(params, inputs)["real"]).sum(axis=1)
    frames = 1 + (inputs["samples"] - 32) // 16
    np.testing.assert_array_equal(real, np.ceil(np.ceil(frames / 2) / 3))


def episode_of(targets, dtype=np.float32, tasks=None):
    sides = [
        {"inputs": speech(dtype, seed=seed), "targets": targets, "mask": np.arange(EXAMPLES) < 5} for seed in (0, 1)
    ]
    episode = jm.Episode(*sides)
    return episode if tasks is None else jm.stack_episodes([episode] * tasks)


def test_every_head_learns_from_it(classifier):
    model, params, _, _ = classifier
    objective = classification(CLASSES)
    episode = episode_of(np.arange(EXAMPLES, dtype=np.int32) % CLASSES)
    heads = {
        "ridge": (jm.ridge(model, objective, num_outputs=CLASSES), 0),
        "protonet": (jm.protonet(model, objective, num_classes=CLASSES), 0),
        "linear_head": (jm.linear_head(model, objective, optax.sgd(0.5), num_outputs=CLASSES), 3),
    }
    extra = {"log_ridge": jnp.log(0.01), "log_scale": jnp.log(10.0), "shift": jnp.zeros(())}

    def losses(params):
        found = {}
        for name, (algorithm, steps) in heads.items():
            meta_params = {"params": params, **extra}
            state, _ = jm.adapt(algorithm, jax.random.key(0), meta_params, episode.support, num_steps=steps)
            found[name] = algorithm.loss(jax.random.key(1), meta_params, state, episode.support)[0]
        return found

    found = jax.jit(losses)(params)
    assert all(value < np.log(CLASSES) for value in found.values()), found


@pytest.mark.slow
def test_the_strategies_agree_on_a_recognizer(x64, standard_promotion):
    """CTC inside of the inner loop, differentiated twice."""
    targets = np.array([[1, 2, 0], [2, 2, 0], [1, 0, 0], [0, 0, 0], [1, 2, 1], [1, 1, 1]], np.int32)
    model = speech_recognizer(CLASSES, dtype=jnp.float64, **{**SIZES, "layers": 1, "strides": (2,)})
    episodes = episode_of(targets, np.float64, tasks=2)
    found = []
    for strategy in (reverse, forward_over_reverse):
        algorithm = jm.maml(model, recognition(CLASSES), optax.sgd(0.1), gradient=strategy)
        if not found:
            one = jax.tree.map(lambda leaf: leaf[0], episodes)
            meta_params = jax.jit(algorithm.init)(jax.random.key(0), one)
        estimator = jm.backprop(algorithm, num_steps=2, task_axis="vmap")
        found.append(jax.jit(estimator.estimate)(jax.random.key(1), meta_params, (), episodes))
    (first, _, metrics), (second, _, _) = found
    assert np.isfinite(metrics["loss"])
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(first)) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), first, second)


@pytest.mark.parametrize("adapted", [lambda path: True, jm.matching("^head/")], ids=["all", "head"])
def test_log_mel_is_computed_once_for_an_episode(adapted):
    """Products with the Fourier matrix and the filter bank, counted in the program, outside and inside of the loop."""
    model = speech_classifier(CLASSES, **SIZES)
    algorithm = jm.maml(model, classification(CLASSES), optax.sgd(0.1), select=adapted)
    episodes = episode_of(np.zeros(EXAMPLES, np.int32), tasks=2)
    one = jax.tree.map(lambda leaf: leaf[0], episodes)
    meta_params = jax.jit(algorithm.init)(jax.random.key(0), one)
    estimate = jm.backprop(algorithm, num_steps=4, task_axis="vmap").estimate
    jaxpr = jax.make_jaxpr(lambda m, e: estimate(jax.random.key(1), m, (), e)[0])(meta_params, episodes).jaxpr
    fourier, filters = (MEL.window, 2 * (MEL.points // 2 + 1)), (MEL.points // 2 + 1, MEL.bins)

    def products(jaxpr, shape, looped=False):
        found = []
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general" and any(var.aval.shape == shape for var in eqn.invars):
                found.append(looped)
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    found += products(inner, shape, looped or eqn.primitive.name in ("scan", "while"))
        return found

    for shape in (fourier, filters):
        places = products(jaxpr, shape)
        assert len(places) == 2, "once for the support, once for the query"
        assert not any(places), "and not in the loop over steps"


def test_half_precision_is_close(classifier):
    model, params, apply, _ = classifier
    inputs = speech()
    whole = {**inputs, "audio": np.round(inputs["audio"] * 32767).astype(np.int16)}
    with jax.numpy_dtype_promotion("standard"):
        lowered = jax.jit(cast(model, jnp.bfloat16).apply)(params, whole)
    assert lowered.dtype == jnp.float32
    np.testing.assert_allclose(lowered, apply(params, inputs), atol=0.1)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"`heads` must divide `width` \(8\), got 3"):
        speech_classifier(2, width=8, heads=3)
    with pytest.raises(ValueError, match="`kernel` must be odd, got 4"):
        speech_classifier(2, kernel=4)
    with pytest.raises(ValueError, match="`outputs` must be positive, got 0"):
        speech_recognizer(0)
    with pytest.raises(ValueError, match="`segments` must be positive, got 0"):
        speech_classifier(2, segments=0)
    model = speech_classifier(2, **{**SIZES, "max_places": 2})
    with pytest.raises(ValueError, match="`max_places` must be at least 5 for inputs of this length"):
        model.init(jax.random.key(0), speech())
