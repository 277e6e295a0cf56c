"""Pretended speakers: a whole episode played faster or slower, through another vocal tract and another microphone."""

from collections.abc import Callable

import numpy as np

Inputs = dict[str, np.ndarray]


def other_voice(
    generator: np.random.Generator, *, rate: int, speed: float = 0.2, colour: float = 6.0
) -> Callable[[Inputs], Inputs]:
    """Draws a change of `{"audio": [N, length] int16, "samples": [N] int32}` into the speech of somebody else.

    Audio is resampled, which changes pitch, formants and tempo together, as vocal tracts of other lengths do
    (Ko et al. 2015, "Audio augmentation for speech recognition"), and filtered by a smooth random curve of loudness
    over frequency. Used for every clip of an episode alike, it makes a speaker whom nobody knows, who says the same
    things in support and query. What no longer fits into `length` is cut.

    Args:
        generator: what is drawn from.
        rate: samples in a second.
        speed: the largest change of tempo, up or down, as a natural logarithm.
        colour: the deviation of the curve, in decibels.
    """
    ratio = float(np.exp(generator.uniform(-speed, speed)))
    curve = generator.normal(0.0, colour, 4)  # one for each octave-wide bump, from the lowest

    def change(inputs: Inputs) -> Inputs:
        audio, samples = inputs["audio"].astype(np.float32), inputs["samples"]
        length = audio.shape[1]
        size = max(1, round(length / ratio))
        spectrum = np.fft.rfft(audio, axis=1)
        kept = min(spectrum.shape[1], size // 2 + 1)
        gains = 10.0 ** (_bumps(np.fft.rfftfreq(length, 1.0 / rate)[:kept] * ratio, curve) / 20.0)
        # Fewer or more points of the inverse transform for the same frequencies: band-limited resampling.
        changed = np.fft.irfft(spectrum[:, :kept] * gains[None], n=size, axis=1) * (size / length)
        changed = changed[:, :length]
        changed = np.pad(changed, ((0, 0), (0, length - changed.shape[1])))
        real = np.clip(np.round(samples / ratio), samples > 0, length).astype(np.int32)
        changed[np.arange(length)[None] >= real[:, None]] = 0.0
        return {"audio": np.clip(np.round(changed), -32768, 32767).astype(np.int16), "samples": real}

    return change


def _bumps(frequencies: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """A curve of decibels that has a height at each of the octaves from 250 Hz up, and is smooth between."""
    octave = np.log2(np.maximum(frequencies, 1.0) / 250.0)
    weights = np.exp(-0.5 * (octave[:, None] - np.arange(len(heights))[None]) ** 2 / 0.5)
    return weights @ heights
