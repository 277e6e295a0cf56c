"""Augmentation of speech on the device: pure functions of a key, each example drawn for itself."""

import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_not_negative
from jaxmeta.core.types import Key
from jaxmeta.models.log_mel import amplitudes


def spec_augment(
    key: Key,
    mel: jax.Array,
    real: jax.Array,
    *,
    frequency_masks: int = 2,
    frequency_width: int = 8,
    time_masks: int = 2,
    time_width: int = 20,
    time_share: float = 0.2,
    value: float = 0.0,
) -> jax.Array:
    """Masks bands of frequencies and stretches of time (SpecAugment, Park et al. 2019, arXiv 1904.08779).

    The width of a mask is uniform between nothing and the widest, its place uniform where it fits, among the real
    frames for time.

    Args:
      key: consumed.
      mel: `[N, T, M]`.
      real: `[N, T]` bool, true for the first frames and false for the rest.
      frequency_masks: how many bands.
      frequency_width: filters that a band covers at most.
      time_masks: how many stretches.
      time_width: frames that a stretch covers at most.
      time_share: and the share of the real frames that it covers at most.
      value: what masked places hold; the mean of normalised features is zero.

    Returns:
      `[N, T, M]`.

    Raises:
      ValueError: a number is negative, or `time_share` more than one.
    """
    options = {"frequency_masks": frequency_masks, "frequency_width": frequency_width, "time_masks": time_masks}
    for name, number in {**options, "time_width": time_width, "time_share": time_share}.items():
        check_not_negative(name, number)
    if time_share > 1:
        raise ValueError(f"`time_share` must be at most 1, got {time_share}")
    count, frames, bins = mel.shape
    frequency_key, time_key = jax.random.split(key)
    spoken = jnp.sum(real, axis=1, dtype=jnp.int32)
    longest = jnp.minimum((spoken.astype(jnp.float32) * time_share).astype(jnp.int32), time_width)
    all_bins = jnp.full((count,), bins, jnp.int32)
    bands = _bands(frequency_key, frequency_masks, jnp.minimum(frequency_width, all_bins), all_bins, bins)
    stretches = _bands(time_key, time_masks, longest, spoken, frames)
    masked = bands[:, None, :] | stretches[:, :, None]
    return jnp.where(masked, jnp.asarray(value, mel.dtype), mel)


def augment_audio(
    key: Key,
    audio: jax.Array,
    samples: jax.Array,
    *,
    noise: tuple[float, float] | None = None,
    gain: float = 0.0,
    shift: int = 0,
) -> jax.Array:
    """Adds noise, changes loudness, and moves speech within its real samples.

    Args:
      key: consumed.
      audio: `[N, samples]`, amplitudes in [-1, 1], or int16.
      samples: `[N]` int, how many of them are real; it stays what it is.
      noise: least and largest ratio of speech to white noise, in decibels, drawn evenly between; None adds none.
      gain: decibels that loudness changes by at most, up or down.
      shift: samples that speech moves by at most, either way; zeros come in, and what leaves is lost.

    Returns:
      `[N, samples]`, amplitudes, float32 at least.

    Raises:
      ValueError: `gain` or `shift` is negative.
    """
    check_not_negative("gain", gain)
    check_not_negative("shift", shift)
    audio, samples = amplitudes(audio), jnp.asarray(samples)
    count, length = audio.shape
    noise_key, ratio_key, gain_key, shift_key = jax.random.split(key, 4)
    place = jnp.arange(length, dtype=jnp.int32)
    present = place[None] < samples.astype(jnp.int32)[:, None]
    zero = jnp.zeros((), audio.dtype)
    audio = jnp.where(present, audio, zero)
    if shift:
        moved = jax.random.randint(shift_key, (count, 1), -shift, shift + 1, jnp.int32)
        source = place[None] - moved
        found = jnp.take_along_axis(audio, jnp.clip(source, 0, length - 1), axis=1)
        audio = jnp.where((source >= 0) & (source < length), found, zero)
    if noise is not None:
        power = jnp.sum(jnp.square(audio), axis=1) / jnp.maximum(samples, 1).astype(audio.dtype)
        ratio = jax.random.uniform(ratio_key, (count,), audio.dtype, *noise)
        # Inside of the root, so that silence has a derivative.
        level = jnp.sqrt(power * 10.0 ** (-ratio / 10.0) + 1e-12)
        audio = audio + level[:, None] * jax.random.normal(noise_key, audio.shape, audio.dtype)
    if gain:
        decibels = jax.random.uniform(gain_key, (count, 1), audio.dtype, -gain, gain)
        audio = audio * 10.0 ** (decibels / 20.0)
    return jnp.where(present, audio, zero)


def _bands(key: Key, masks: int, widest: jax.Array, sizes: jax.Array, length: int) -> jax.Array:
    """Draws `masks` intervals at most `widest [N]` long among the first `sizes [N]` places: `[N, length]` bool."""
    width_key, start_key = jax.random.split(key)
    shape = (len(sizes), masks)

    def up_to(key: Key, most: jax.Array) -> jax.Array:
        drawn = jax.random.uniform(key, shape, jnp.float32) * (most + 1).astype(jnp.float32)
        return jnp.minimum(drawn.astype(jnp.int32), most)

    width = up_to(width_key, jnp.broadcast_to(widest[:, None], shape))
    start = up_to(start_key, sizes[:, None] - width)
    place = jnp.arange(length, dtype=jnp.int32)[None, None]
    return jnp.any((place >= start[..., None]) & (place < (start + width)[..., None]), axis=1)
