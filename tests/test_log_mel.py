"""Log-mel features against a loop over numpy's fft; masks that change no number; augmentation that is what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import assert_derivatives

from jaxmeta.models.augment_audio import augment_audio, spec_augment
from jaxmeta.models.log_mel import MelSettings, framed, log_mel, mel_filters

SETTINGS = {
    "default": MelSettings(),
    "no block in common": MelSettings(window=31, hop=10, bins=5, low=0.0, normalization="mean"),
    "mean and variance": MelSettings(window=160, bins=20, normalization="mean_variance"),
    "level": MelSettings(bins=24, high=3800.0, normalization="level"),
    "other rate": MelSettings(rate=16000, window=400, hop=160, bins=30, high=7000.0, normalization="none"),
}
SMALL = MelSettings(window=32, hop=16, bins=4, low=0.0)


def noise(count, length, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    samples = rng.integers(length // 3, length + 1, count).astype(np.int32)
    samples[0] = length
    audio = rng.normal(0, 0.1, (count, length)).cumsum(axis=1)
    audio = (audio / np.abs(audio).max()).astype(dtype)
    return np.where(np.arange(length)[None] < samples[:, None], audio, 0), samples


def slow_log_mel(audio, settings):
    """One real utterance `[samples]`, by numpy's fft and loops: `[frames, bins]`."""
    hann = np.hanning(settings.window + 1)[:-1]  # periodic
    hertz_to_mel = lambda f: 2595 * np.log10(1 + f / 700)  # noqa: E731
    top = settings.high or settings.rate / 2
    corners = [
        700 * (10 ** (mel / 2595) - 1)
        for mel in np.linspace(hertz_to_mel(settings.low), hertz_to_mel(top), settings.bins + 2)
    ]
    points = 2 ** int(np.ceil(np.log2(settings.window)))
    frequencies = np.fft.rfftfreq(points, 1 / settings.rate)
    rows = []
    for start in range(0, max(len(audio) - settings.window, 0) + 1, settings.hop):
        frame = np.zeros(settings.window)
        piece = audio[start : start + settings.window]
        frame[: len(piece)] = piece
        power = np.abs(np.fft.rfft(frame * hann, n=points)) ** 2
        row = [
            np.sum(power * np.interp(frequencies, corners[m : m + 3], [0, 1, 0], left=0, right=0))
            for m in range(settings.bins)
        ]
        rows.append(np.log(np.array(row) + settings.floor))
    mel = np.array(rows)
    if settings.normalization == "level":
        mel = mel - mel.mean()
    elif settings.normalization != "none":
        mel = mel - mel.mean(axis=0)
    if settings.normalization == "mean_variance":
        mel = mel / np.sqrt(mel.var(axis=0) + 1e-5)
    return mel


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_log_mel_is_numpys(settings, x64):
    audio, samples = noise(4, 1200)
    samples[1] = settings.window - 5  # shorter than a frame
    audio[1, samples[1] :] = 0
    found = jax.jit(log_mel, static_argnums=2)(audio, samples, settings)
    for n in range(4):
        expected = slow_log_mel(audio[n, : samples[n]], settings)
        assert found["real"][n].sum() == len(expected)
        assert found["real"][n][: len(expected)].all()
        np.testing.assert_allclose(found["mel"][n][: len(expected)], expected, rtol=1e-8, atol=1e-8)
        np.testing.assert_array_equal(found["mel"][n][len(expected) :], 0)


def test_single_precision_is_close_and_int16_is_the_same():
    audio, samples = noise(3, 1000, np.float32)
    whole = np.round(audio * 32767).astype(np.int16)
    of_int = log_mel(whole, samples)
    of_float = log_mel(whole.astype(np.float32) / 32768, samples)
    jax.tree.map(np.testing.assert_array_equal, of_int, of_float)
    assert of_int["mel"].dtype == jnp.float32
    expected = slow_log_mel(whole[0].astype(np.float64) / 32768, MelSettings())
    np.testing.assert_allclose(of_int["mel"][0], expected, rtol=2e-3, atol=2e-3)
    assert log_mel(jnp.asarray(audio, jnp.bfloat16), samples)["mel"].dtype == jnp.float32


def test_what_lies_after_the_samples_changes_no_number(x64):
    audio, samples = noise(3, 200)
    samples[2] = 0
    weights = np.random.default_rng(1).normal(size=(3, 15, 4))

    def value(audio):
        found = log_mel(audio, samples, SMALL)
        frames = found["mel"].shape[1]
        return jnp.sum(found["mel"] * weights[:, :frames]), found

    (total, found), slope = jax.jit(jax.value_and_grad(value, has_aux=True))(audio)
    rubbish = np.where(np.arange(200)[None] < samples[:, None], audio, np.nan)
    longer = np.pad(rubbish, ((0, 0), (0, 60)), constant_values=np.nan)
    for other in (rubbish, longer):
        (again, other_found), other_slope = jax.jit(jax.value_and_grad(value, has_aux=True))(other)
        assert again == pytest.approx(float(total), rel=1e-12)
        frames = found["mel"].shape[1]
        np.testing.assert_allclose(other_found["mel"][:, :frames], found["mel"], rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(other_found["mel"][:, frames:], 0)
        np.testing.assert_allclose(other_slope[:, :200], slope, rtol=1e-12, atol=1e-12)
        assert np.isfinite(other_slope).all()
    assert not found["real"][2].any()


def test_it_can_be_differentiated_twice_over_a_task_axis(x64):
    audio, samples = noise(4, 80)
    audio, samples = audio.reshape(2, 2, 80), samples.reshape(2, 2)
    mapped = jax.vmap(lambda audio, samples: jnp.sum(jnp.sin(log_mel(audio, samples, SMALL)["mel"])))
    assert_derivatives(lambda audio: jnp.sum(mapped(audio, samples)), audio)


def test_frames_are_windows_of_the_audio():
    audio = np.arange(2 * 50).reshape(2, 50)
    for window, hop in ((20, 8), (20, 20), (7, 3), (50, 10)):
        expected = np.lib.stride_tricks.sliding_window_view(audio, window, axis=1)[:, ::hop]
        np.testing.assert_array_equal(framed(jnp.asarray(audio), window, hop), expected)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="`hop` must be positive, got 0"):
        MelSettings(hop=0)
    with pytest.raises(ValueError, match=r"`low` and `high` must satisfy 0 <= low < high <= 4000.0, got 60.0 and 5000"):
        MelSettings(high=5000.0)
    with pytest.raises(ValueError, match=r"`normalization` must be one of 'none', 'level', .*, got 'batch'"):
        MelSettings(normalization="batch")
    with pytest.raises(ValueError, match=r"`bins` must be fewer or `window` longer: .* of 80 filters hold none"):
        mel_filters(MelSettings(window=64, bins=80))


# Augmentation


@pytest.fixture(scope="module")
def masked():
    """A thousand utterances of ones, masked with zeros, of which 0 to 40 frames are real."""
    real = np.arange(40)[None] < np.random.default_rng(0).integers(0, 41, 1000)[:, None]
    options = {"frequency_masks": 1, "frequency_width": 3, "time_masks": 2, "time_width": 6, "time_share": 0.25}
    masks = jax.jit(lambda key: spec_augment(key, jnp.ones((1000, 40, 10)), real, **options))
    return real, np.asarray(masks(jax.random.key(1))), masks


def test_masks_are_bands_and_stretches_of_the_allowed_widths(masked):
    real, found, _ = masked
    widths, stretches = [], []
    for spoken, ones in zip(real.sum(axis=1), found, strict=True):
        bins, frames = ~ones.any(axis=0), ~ones.any(axis=1)
        assert ((ones == 0) == (bins[None] | frames[:, None])).all(), "whole filters and whole frames"
        widths.append(bins.sum())
        assert np.diff(np.flatnonzero(bins)).max(initial=1) == 1, "one band"
        assert frames[spoken:].sum() == 0, "among the real frames"
        assert frames.sum() <= 2 * min(6, spoken // 4)
        stretches.append(frames.sum())
    assert sorted(set(widths)) == [0, 1, 2, 3]
    assert np.bincount(widths).min() > 200, "every width about as often"
    assert max(stretches) > 6, "two stretches"


def test_masks_depend_on_the_key_alone(masked):
    _, found, masks = masked
    np.testing.assert_array_equal(masks(jax.random.key(1)), found)
    assert (masks(jax.random.key(2)) != found).any()


def test_no_masks_change_nothing_and_masks_hold_the_value():
    mel = jax.random.normal(jax.random.key(0), (2, 9, 4))
    real = jnp.ones((2, 9), bool)
    none = spec_augment(jax.random.key(1), mel, real, frequency_masks=0, time_masks=0)
    np.testing.assert_array_equal(none, mel)
    some = spec_augment(jax.random.key(1), mel, real, time_share=1.0, time_width=9, time_masks=4, value=7.0)
    assert ((some == mel) | (some == 7.0)).all()
    assert (some == 7.0).any()
    with pytest.raises(ValueError, match="`time_share` must be at most 1"):
        spec_augment(jax.random.key(0), mel, real, time_share=1.5)
    with pytest.raises(ValueError, match="`time_width` must be zero or more"):
        spec_augment(jax.random.key(0), mel, real, time_width=-1)


def test_waveforms_get_the_noise_the_gain_and_the_shift_that_were_asked_for():
    audio, samples = noise(64, 800, np.float32)
    present = np.arange(800)[None] < samples[:, None]

    @jax.jit
    def variants(key, audio):
        return (
            augment_audio(key, audio, samples, noise=(10.0, 10.0)),
            augment_audio(key, audio, samples, gain=6.0),
            augment_audio(key, audio, samples, shift=50),
        )

    noisy, louder, moved = map(np.asarray, variants(jax.random.key(0), np.where(present, audio, 9.0)))
    for found in (noisy, louder, moved):
        np.testing.assert_array_equal(found[~present], 0)
    whole = np.round(audio * 32767).astype(np.int16)
    of_int = augment_audio(jax.random.key(0), whole, samples, shift=50)
    np.testing.assert_allclose(of_int, moved, atol=1e-4)
    power = (audio**2).sum(axis=1) / samples
    ratio = 10 * np.log10(power / (((noisy - audio) ** 2).sum(axis=1) / samples))
    np.testing.assert_allclose(ratio, 10.0, atol=1.2)
    decibels = 20 * np.log10(np.abs(louder).max(axis=1) / np.abs(audio).max(axis=1))
    assert -6 <= decibels.min() < -4
    assert 4 < decibels.max() <= 6
    shifts = set()
    for before, after, count in zip(audio, moved, samples, strict=True):
        candidates = [
            shift for shift in range(-50, 51)
            if np.array_equal(np.roll(np.pad(before, 50), shift)[50 : 50 + count], after[:count])
        ]  # fmt: skip
        assert len(candidates) == 1
        shifts.add(candidates[0])
    assert min(shifts) < -20
    assert max(shifts) > 20
    with pytest.raises(ValueError, match="`gain` must be zero or more"):
        augment_audio(jax.random.key(0), audio, samples, gain=-1.0)


def test_augmented_silence_has_a_derivative():
    def power(audio):
        return jnp.sum(augment_audio(jax.random.key(0), audio, jnp.array([5, 0]), noise=(0.0, 20.0), gain=3.0) ** 2)

    assert np.isfinite(jax.jit(jax.grad(power))(jnp.zeros((2, 8)))).all()
