"""Synthetic speech that needs no file: digits of made-up languages, each a few syllables of gliding formants."""

from typing import NamedTuple

import numpy as np

from jaxmeta.core.checks import check_not_negative, check_positive
from jaxmeta.data.audio import Recordings
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
    """What all words of a speaker have in common."""

    pitch: float  # hertz
    formants: float  # factor of every formant
    speed: float  # factor of every duration
    tilt: float  # decibels that an octave loses


class _Word(NamedTuple):
    """How a language says a digit: for each syllable from which vowel to which, how pitch moves, and how long."""

    vowels: np.ndarray  # [syllables, 2] places in _VOWELS
    contour: np.ndarray  # [syllables, 2] pitch at start and end, as a factor
    seconds: np.ndarray  # [syllables]
    hiss: np.ndarray  # [syllables] bool: whether noise comes before it


def tones(languages: int = 20, *, recordings: int = 15, seed: int = 0) -> Recordings:
    """Makes recordings of ten digits in languages that do not exist, each spoken by one synthetic speaker.

    This is no speech: harmonics of a pitch are shaped by gliding resonances, with noise before some syllables. A
    language is a random mapping of the digits to one or two syllables, so that nothing but its shots tells what they
    mean; its speaker has a pitch, a length of the vocal tract and a speed of their own; recordings of a word differ
    in all of them a little, and in noise. Language `i` is the same however many there are.

    Args:
        languages: how many.
        recordings: of each digit in each language: the first fifth, at least one, is test, the next fifth dev.
        seed: what every draw depends on, together with the number of the language.

    Raises:
        ValueError: there are fewer than three recordings.
    """
    check_positive("languages", languages)
    if recordings < 3:
        raise ValueError(f"`recordings` must be at least 3, one for each split, got {recordings}")
    held_out = max(1, recordings // 5)
    order = np.array([*["test"] * held_out, *["dev"] * held_out, *["train"] * (recordings - 2 * held_out)])
    clips = [clip for language in range(languages) for clip in language_clips(language, recordings, seed)]
    names = [f"tones{language:03d}" for language in range(languages)]
    return Recordings(
        name="tones",
        labels=tuple(map(str, range(_DIGITS))),
        language=np.repeat(names, _DIGITS * recordings),
        split=np.tile(order, languages * _DIGITS),
        label=np.tile(np.repeat(np.arange(_DIGITS, dtype=np.int32), recordings), languages),
        audio=np.concatenate(clips),
        offset=np.concatenate([[0], np.cumsum([len(clip) for clip in clips])]).astype(np.int64),
        rate=_RATE,
    )


def language_clips(language: int, recordings: int, seed: int) -> list[np.ndarray]:
    """Returns the clips of the `language`-th language, int16: every recording of 0, then of 1, and so on."""
    check_not_negative("language", language)
    generator = stream(seed, "tones", index=language)
    voice = _Voice(
        pitch=float(np.exp(generator.uniform(np.log(90.0), np.log(230.0)))),
        formants=float(generator.uniform(0.88, 1.15)),
        speed=float(generator.uniform(0.8, 1.25)),
        tilt=float(generator.uniform(4.0, 9.0)),
    )
    words = [_word(generator) for _ in range(_DIGITS)]
    return [
        _spoken(stream(seed, "tones", language, digit, index=number), word, voice)
        for digit, word in enumerate(words)
        for number in range(recordings)
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
