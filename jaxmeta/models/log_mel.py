"""Log-mel features of waveforms, as a pure function that can be differentiated twice."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.checks import check_one_of, check_positive
from jaxmeta.core.trees import sum_dtype

NORMALIZATIONS = ("none", "level", "mean", "mean_variance")
FULL_SCALE = 32768  # of int16
EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class MelSettings:
    """How waveforms become log-mel frames.

    Attributes:
      rate: samples in a second.
      window: samples of a frame, weighted by a periodic Hann window.
      hop: samples from the start of a frame to the next. Framing is cheapest where it shares a large divisor with
        `window`.
      bins: M, filters of the bank: triangles in hertz with a peak of one, whose corners are evenly spaced on the mel
        scale of HTK, `2595 log10(1 + f / 700)`.
      low: where the first filter begins, in hertz.
      high: where the last one ends, in hertz; half of `rate` by default.
      floor: added to the power in each filter before the logarithm. Full scale is an amplitude of one; the last bit
        of 16 has a power of about 1e-7 in a window of 200 samples.
      normalization: of each utterance over its real frames: "none"; "level", one mean over all filters is subtracted,
        which takes loudness away; "mean", that of each filter, which takes the colour of a microphone away, and with
        it much of a short word; or "mean_variance", which also divides by each filter's deviation.
    """

    rate: int = 8000
    window: int = 200
    hop: int = 80
    bins: int = 40
    low: float = 60.0
    high: float | None = None
    floor: float = 1e-6
    normalization: str = "level"

    def __post_init__(self):
        """Checks the numbers."""
        for name in ("rate", "window", "hop", "bins", "floor"):
            check_positive(name, getattr(self, name))
        check_one_of("normalization", self.normalization, NORMALIZATIONS)
        if not 0 <= self.low < self.top <= self.rate / 2:
            raise ValueError(
                f"`low` and `high` must satisfy 0 <= low < high <= {self.rate / 2}, got {self.low} and {self.top}"
            )

    @property
    def top(self) -> float:
        """Where the last filter ends, in hertz."""
        return self.rate / 2 if self.high is None else self.high

    @property
    def points(self) -> int:
        """Points of the discrete Fourier transform: the power of two that holds a window."""
        return 1 << (self.window - 1).bit_length()


def log_mel(
    audio: jax.Array,
    samples: jax.Array,
    settings: MelSettings = MelSettings(),
) -> dict[str, jax.Array]:
    """Turns waveforms into log-mel frames; what lies after the real samples changes no number.

    The Fourier transform is a product with a matrix: real numbers alone, and for windows of this size as fast on a CPU
    as a fast transform (derivatives by the audio, which training does not take, are a fifth slower). The precision is
    float32 at least.

    Args:
      audio: `[N, samples]`, amplitudes in [-1, 1], or int16.
      samples: `[N]` int, how many of them are real.
      settings: how.

    Returns:
      "mel" `[N, T, M]`, zero where no frame is, and "real" `[N, T]` bool. A frame is real if all of its samples are;
      an utterance that is shorter than a window has one.
    """
    audio, samples = amplitudes(audio), jnp.asarray(samples)
    audio = jnp.pad(audio, ((0, 0), (0, max(0, settings.window - audio.shape[1]))))
    present = jnp.arange(audio.shape[1], dtype=samples.dtype)[None] < samples[:, None]
    frames = framed(jnp.where(present, audio, jnp.zeros((), audio.dtype)), settings.window, settings.hop)
    count, places, _ = frames.shape
    starts = jnp.arange(places, dtype=samples.dtype) * settings.hop
    real = starts[None] + settings.window <= samples[:, None]
    real = real.at[:, 0].set(samples > 0)
    spectrum = frames.reshape(count * places, settings.window) @ jnp.asarray(_fourier(settings), audio.dtype)
    cosines, sines = jnp.split(jnp.square(spectrum), 2, axis=-1)
    power = (cosines + sines) @ jnp.asarray(mel_filters(settings), audio.dtype)
    mel = jnp.log(power + settings.floor).reshape(count, places, settings.bins)
    return {"mel": normalized(mel, real, settings.normalization), "real": real}


def amplitudes(audio: jax.Array) -> jax.Array:
    """Returns audio as numbers in [-1, 1], float32 at least, from int16 or from any floating type."""
    audio = jnp.asarray(audio)
    if jnp.issubdtype(audio.dtype, jnp.integer):
        return audio.astype(jnp.float32) / FULL_SCALE
    return audio.astype(sum_dtype(audio.dtype))


def framed(audio: jax.Array, window: int, hop: int) -> jax.Array:
    """Cuts `[N, samples]` into the overlapping frames that are whole, `[N, T, window]`."""
    # Slices of blocks that frames are whole numbers of: gathering single samples is slow, and its derivative slower.
    size = math.gcd(window, hop)
    step, blocks = hop // size, window // size
    places = 1 + (audio.shape[1] - window) // hop
    last = (places - 1) * step
    whole = audio[:, : (last + blocks) * size].reshape(len(audio), last + blocks, size)
    return jnp.concatenate([whole[:, k : k + last + 1 : step] for k in range(blocks)], axis=-1)


def normalized(mel: jax.Array, real: jax.Array, normalization: str) -> jax.Array:
    """Normalises each utterance of `[N, T, M]` over its real frames, `[N, T]`, and zeroes the others."""
    weight = real[..., None].astype(mel.dtype)
    mel = mel * weight
    if normalization == "none":
        return mel
    count = jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1)
    mean = jnp.sum(mel, axis=1, keepdims=True) / count
    if normalization == "level":
        mean = jnp.mean(mean, axis=-1, keepdims=True)
    centred = (mel - mean) * weight
    if normalization in ("level", "mean"):
        return centred
    return centred * jax.lax.rsqrt(jnp.sum(jnp.square(centred), axis=1, keepdims=True) / count + EPSILON)


@functools.cache
def mel_filters(settings: MelSettings) -> np.ndarray:
    """Returns the filter bank, `[points / 2 + 1, M]` float64.

    Raises:
      ValueError: a filter is so narrow that it holds no point of the transform.
    """
    points = np.arange(settings.points // 2 + 1) * settings.rate / settings.points
    first, last = 2595.0 * np.log10(1.0 + np.array([settings.low, settings.top]) / 700.0)
    corners = 700.0 * (10.0 ** (np.linspace(first, last, settings.bins + 2) / 2595.0) - 1.0)
    low, peak, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (points[:, None] - low[None]) / (peak - low)[None]
    falling = (high[None] - points[:, None]) / (high - peak)[None]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if empty := int((filters.sum(axis=0) == 0).sum()):
        raise ValueError(
            f"`bins` must be fewer or `window` longer: {empty} of {settings.bins} filters hold none of the "
            f"{len(points)} frequencies of a window of {settings.window} samples"
        )
    return filters


@functools.cache
def _fourier(settings: MelSettings) -> np.ndarray:
    """The Hann window and the real Fourier transform as one matrix: `[window, 2 (points / 2 + 1)]`."""
    times = np.arange(settings.window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * times / settings.window)
    angles = 2 * np.pi * np.outer(times, np.arange(settings.points // 2 + 1)) / settings.points
    return hann[:, None] * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
