"""Synthetic digits that need no file: not speech, but harmonics shaped by gliding formants, in many voices."""

from typing import NamedTuple

import numpy as np

from jaxmeta.core.checks import check_positive
from jaxmeta.data.recordings import Recordings
from jaxmeta.data.streams import stream

_RATE = 8000
_DIGITS = 10
# Formants of vowels in hertz, of the first three resonances, as languages have them in common (compare Peterson and
# Barney 1952): the corners and the middle of the usual chart.
_VOWELS = np.array(
    [
        (280, 2250, 2900), (400, 2000, 2600), (550, 1800, 2500), (700, 1650, 2450), (750, 1200, 2500),
        (600, 900, 2450), (450, 800, 2400), (320, 800, 2300), (500, 1400, 2400), (300, 1700, 2200),
    ],
    np.float64,
)  # fmt: skip
_WIDTHS = np.array([80.0, 110.0, 150.0])  # of the resonances, in hertz
_LOUDNESS = np.array([1.0, 0.6, 0.3])


class _Voice(NamedTuple):
    """What all words of a voice have in common."""

    pitch: float  # hertz
    formants: float  # factor of every formant
    speed: float  # factor of every duration
    tilt: float  # decibels that an octave loses


class _Word(NamedTuple):
    """How a digit is said: for each syllable from which vowel to which, how pitch moves, and how long."""

    vowels: np.ndarray  # [syllables, 2] places in _VOWELS
    contour: np.ndarray  # [syllables, 2] pitch at start and end, as a factor
    seconds: np.ndarray  # [syllables]
    hiss: np.ndarray  # [syllables] bool: whether noise comes before it


def synthetic_digits(voices: int = 20, *, recordings: int = 15, own_words: bool = True, seed: int = 0) -> Recordings:
    """Makes recordings of ten digits by synthetic voices, which no human being has spoken.

    Harmonics of a pitch are shaped by gliding resonances, with noise before some syllables. A voice has a pitch, a
    length of the vocal tract, a speed and a tilt of its own. A word is one or two syllables; recordings of a word
    differ in everything a little, and in noise. Voice `i` is the same however many there are.

    Args:
        voices: how many; they are the speakers "voice000", "voice001", ...
        recordings: of each digit by each voice: the first fifth, at least one, is test, the next fifth dev.
        own_words: whether every voice has words of its own, as if each spoke a language that nobody knows, so that
            nothing but its shots tells what they mean; otherwise all say the same words and differ in voice alone.
        seed: what every draw depends on, together with the number of the voice.

    Raises:
        ValueError: there are fewer than three recordings.
    """
    check_positive("voices", voices)
    if recordings < 3:
        raise ValueError(f"`recordings` must be at least 3, one for each split, got {recordings}")
    held_out = max(1, recordings // 5)
    order = np.array([*["test"] * held_out, *["dev"] * held_out, *["train"] * (recordings - 2 * held_out)])
    clips = [clip for voice in range(voices) for clip in _clips(voice, recordings, own_words, seed)]
    samples = np.array([len(clip) for clip in clips], np.int64)
    return Recordings(
        name="synthetic_digits",
        labels=tuple(map(str, range(_DIGITS))),
        language=np.repeat([f"voice{voice:03d}" for voice in range(voices)], _DIGITS * recordings),
        split=np.tile(order, voices * _DIGITS),
        label=np.tile(np.repeat(np.arange(_DIGITS, dtype=np.int32), recordings), voices),
        start=np.cumsum(samples) - samples,
        samples=samples,
        sentence=np.arange(len(clips), dtype=np.int64),
        audio=np.concatenate(clips),
        rate=_RATE,
    )


def _clips(number: int, recordings: int, own_words: bool, seed: int) -> list[np.ndarray]:
    """Returns the clips of a voice, int16: every recording of 0, then of 1, and so on."""
    generator = stream(seed, "voice", index=number)
    voice = _Voice(
        pitch=float(np.exp(generator.uniform(np.log(90.0), np.log(230.0)))),
        formants=float(generator.uniform(0.88, 1.15)),
        speed=float(generator.uniform(0.8, 1.25)),
        tilt=float(generator.uniform(4.0, 9.0)),
    )
    lexicon = stream(seed, "words", index=number) if own_words else stream(seed, "words of all")
    words = [_word(lexicon) for _ in range(_DIGITS)]
    return [
        _spoken(stream(seed, "clip", number, digit, own_words, index=recording), word, voice)
        for digit, word in enumerate(words)
        for recording in range(recordings)
    ]


def _word(generator: np.random.Generator) -> _Word:
    syllables = int(generator.integers(1, 3))
    return _Word(
        vowels=generator.integers(0, len(_VOWELS), (syllables, 2)),
        contour=np.exp(generator.uniform(-0.25, 0.25, (syllables, 2))),
        seconds=generator.uniform(0.12, 0.24, syllables),
        hiss=generator.random(syllables) < 0.4,
    )


def _spoken(generator: np.random.Generator, word: _Word, voice: _Voice) -> np.ndarray:
    """Says a word once: nobody says it twice alike."""
    pitch = voice.pitch * np.exp(generator.normal(0.0, 0.05))
    formants = voice.formants * np.exp(generator.normal(0.0, 0.03, 3))
    parts = []
    for vowels, contour, seconds, hiss in zip(*word, strict=True):
        seconds = seconds * voice.speed * np.exp(generator.normal(0.0, 0.12))
        if hiss:
            parts.append(0.05 * generator.normal(size=round(0.25 * seconds * _RATE)))
        parts.append(_syllable(round(seconds * _RATE), pitch * contour, _VOWELS[vowels] * formants[None], voice.tilt))
    sound = np.concatenate(parts)
    sound = sound / np.abs(sound).max() * np.exp(generator.uniform(np.log(0.1), np.log(0.6)))
    around = generator.integers(80, 640, 2)  # silence before and after
    sound = np.pad(sound, tuple(around)) + 0.002 * generator.normal(size=len(sound) + int(around.sum()))
    return np.clip(sound * 32767, -32768, 32767).astype(np.int16)


def _syllable(count: int, pitches: np.ndarray, formants: np.ndarray, tilt: float) -> np.ndarray:
    """Adds harmonics up, `[count]`: pitch and formants glide from `[0]` to `[1]`."""
    along = np.linspace(0.0, 1.0, count)
    pitch = pitches[0] + (pitches[1] - pitches[0]) * along
    phase = 2 * np.pi * np.cumsum(pitch) / _RATE
    resonances = formants[0][None] + (formants[1] - formants[0])[None] * along[:, None]  # [count, 3]
    sound = np.zeros(count)
    for harmonic in range(1, int(0.48 * _RATE / pitch.max()) + 1):
        frequency = harmonic * pitch
        response = _LOUDNESS[None] / (1.0 + np.square((frequency[:, None] - resonances) / _WIDTHS[None]))
        sound += response.sum(axis=1) * 10 ** (-tilt * np.log2(harmonic) / 20) * np.sin(harmonic * phase)
    rise = min(count // 4, 200)
    envelope = np.minimum(1.0, np.minimum(np.arange(count), np.arange(count)[::-1]) / max(rise, 1))
    return sound * envelope
