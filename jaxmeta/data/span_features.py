"""What the words of a context have to do with a question, in numbers that mean the same in every language.

No word of a context is known here. What is told of each is how much it, its neighbours and its sentence have in common
with the question, by character n-grams and by common substrings; how rare it is in its context; whether it has digits
or capitals or another script than the rest; what punctuation stands on either side; and where it stands. A scorer of
answers that reads nothing else reads a language that it has never seen (compare the features of the logistic regression
of Rajpurkar et al. 2016, arXiv 1606.05250, and of the reader of Chen et al. 2017, arXiv 1704.00051).
"""

import collections
import functools
import unicodedata
import zlib
from typing import NamedTuple

import numpy as np

from jaxmeta.core.words import Word, sentences, words

WORD_FEATURES, QUESTION_FEATURES = 59, 3
BUCKETS, ASKED = 2**14, 24  # what the words of a question are hashed to, and how many of them are kept
_ALIKE = 0.5  # words with a Dice coefficient below this have nothing to do with each other
_DECAYS = (0.6, 0.85, 0.95)  # of what neighbours have in common with the question, for each word of distance
_LONGEST = 20  # characters of a common substring
_QUOTES, _COMMAS, _STOPS = frozenset("\"'“”«»„‘’「」『』《》"), frozenset(",،，、;；:："), frozenset(".?!。？！।؟")
_GAPS = 9  # kinds of what stands between two words


class Described(NamedTuple):
    """A context, described with regard to a question; `W` words.

    Attributes:
        places: `[W, 2]` int32, where each word begins and ends in the context (code points, the end exclusive).
        sentence: `[W]` int32, the sentence of each word, from 1.
        words: `[W, WORD_FEATURES]` float16; the first says how much a word is like one of the question.
        question: `[QUESTION_FEATURES]` float16.
        asked: `[ASKED]` int32, the hashed words of the question, from 1 to `BUCKETS`; 0 is padding.
    """

    places: np.ndarray
    sentence: np.ndarray
    words: np.ndarray
    question: np.ndarray
    asked: np.ndarray


class _Context(NamedTuple):
    """A context by itself; `U` different words."""

    places: np.ndarray  # [W, 2], where each begins and ends
    sentence: np.ndarray  # [W], from 0
    which: np.ndarray  # [W], which of the different words each is
    having: dict[str, list[int]]  # the different words that have an n-gram
    sizes: np.ndarray  # [U], how many n-grams a word has
    rare: np.ndarray  # [U], about 0 for what is in every sentence, 1 for what is in one
    described: np.ndarray  # [W, ...], what does not depend on the question


@functools.lru_cache(maxsize=4096)
def describe(question: str, context: str) -> Described:
    """Returns what stands in a context, with regard to a question."""
    read = _read(context)
    asked = words(question)
    about = np.array([any(c.isdigit() for c in question), min(len(asked), 30) / 15, bool(_QUOTES & set(question))])
    about = about.astype(np.float16)
    hashed = [zlib.crc32(question[word.start : word.end].lower().encode()) % BUCKETS + 1 for word in asked[:ASKED]]
    hashed = np.array(hashed + [0] * (ASKED - len(hashed)), np.int32)
    sentence = read.sentence.astype(np.int32) + 1
    if not len(sentence):
        return Described(read.places, sentence, np.zeros((0, WORD_FEATURES), np.float16), about, hashed)
    likeness = _likeness(asked, read)
    found = np.where(likeness >= _ALIKE, likeness, 0.0)
    several = int(read.sentence[-1]) + 1
    # How rare a word of the question is among the sentences, by whatever is like it there.
    present = np.stack([found[:, read.which[read.sentence == s]].max(axis=1) for s in range(several)], axis=1)  # [Q, S]
    worth = _rarity((present > 0).sum(axis=1), several)
    alike, weighted = found.max(axis=0)[read.which], (found * worth[:, None]).max(axis=0)[read.which]
    loosely, rare = likeness.max(axis=0)[read.which], read.rare[read.which]
    common = _common_substrings(_lowered(question), _lowered(context))
    common = np.array([common[start:end].max() for start, end in read.places])
    longer = np.clip(common - 1, 0, 6) / 6 * (loosely > 0) * rare
    columns = [alike, alike > 0.99, weighted, loosely, np.minimum(common, 10) / 10, longer, rare]
    for signal in (weighted, longer):
        for decay in _DECAYS:
            columns += [2 * (1 - decay) * side for side in _around(signal, decay)]
    of_substrings = np.bincount(read.sentence, longer, several)
    for covered in (
        (worth[:, None] * present).sum(axis=0) / max(worth.sum(), 1e-6),
        present.mean(axis=0),
        of_substrings / max(of_substrings.max(), 1e-6),
    ):
        columns += [covered[read.sentence], (covered - covered.max())[read.sentence]]
    columns.append((worth @ present >= (worth @ present).max() - 1e-9)[read.sentence])
    features = np.concatenate([np.stack(columns, axis=1), read.described], axis=1).astype(np.float16)
    return Described(read.places, sentence, features, about, hashed)


def word_places(context: str) -> np.ndarray:
    """Returns where each word of a context begins and ends, `[W, 2]`, as `describe` does."""
    return _read(context).places


@functools.lru_cache(maxsize=2048)
def _read(context: str) -> _Context:
    by_sentence = sentences(context)
    found = [word for sentence in by_sentence for word in sentence]
    sentence = np.repeat(np.arange(len(by_sentence)), [len(part) for part in by_sentence])
    numbers: dict[frozenset[str], int] = {}
    which = np.array([numbers.setdefault(word.ngrams, len(numbers)) for word in found], int)
    having: dict[str, list[int]] = collections.defaultdict(list)
    for ngrams, number in numbers.items():
        for ngram in ngrams:
            having[ngram].append(number)
    sizes = np.array([len(ngrams) for ngrams in numbers], float)
    within = np.zeros((len(numbers), max(len(by_sentence), 1)), bool)
    within[which, sentence] = True
    rare = _rarity(within.sum(axis=1), within.shape[1])
    described = _described(context, found, sentence, which, within.mean(axis=1)) if found else np.zeros((0, 0))
    places = np.array([(word.start, word.end) for word in found], np.int32).reshape(len(found), 2)
    return _Context(places, sentence, which, having, sizes, rare, described)


def _described(
    context: str, found: list[Word], sentence: np.ndarray, which: np.ndarray, spread: np.ndarray
) -> np.ndarray:
    texts = [context[word.start : word.end] for word in found]
    first = np.diff(sentence, prepend=-1) > 0
    capital = np.array([text[0].isupper() for text in texts])
    scripts = [_script(text) for text in texts]
    usual = collections.Counter(scripts).most_common(1)[0][0]
    ends = [0, *(word.end for word in found)]
    starts = [*(word.start for word in found), len(context)]
    gaps = [context[end:start] for end, start in zip(ends, starts, strict=True)]
    quoted, depth = [], []
    inside = nested = 0
    for gap in gaps[:-1]:
        for character in gap:
            if character in '"“„«”»':
                inside = 1 - inside if character == '"' else int(character in "“„«")
            nested = max(nested + (character in "(（") - (character in ")）"), 0)
        quoted.append(inside)
        depth.append(min(nested, 1))
    columns = [
        [any(c.isdigit() for c in text) for text in texts],
        [len(text) == 4 and text.isdigit() for text in texts],
        capital & ~first,
        capital & first,
        [len(text) > 1 and text.isupper() for text in texts],
        [min(len(text), 15) / 10 for text in texts],
        [script not in (usual, "DIGIT") for script in scripts],
        first,
        np.diff(sentence, append=sentence[-1] + 1) > 0,
        np.log(np.bincount(which)[which]),
        spread[which],
        quoted,
        depth,
        sentence / max(int(sentence[-1]), 1),
        np.arange(len(found)) / len(found),
    ]
    between = np.eye(_GAPS)
    before = between[[_gap(gap[::-1]) for gap in gaps[:-1]]]
    after = between[[_gap(gap) for gap in gaps[1:]]]
    return np.concatenate([np.stack([np.asarray(column, float) for column in columns], axis=1), before, after], axis=1)


def _script(word: str) -> str:
    letter = next((character for character in word if character.isalpha()), "1")
    return unicodedata.name(letter, "?").split()[0]


def _gap(text: str) -> int:
    """Returns the kind of what is nearest to a word in the gap beside it."""
    if not text.strip():
        return int(bool(text))
    nearest = text.strip()[0]
    for kind, characters in enumerate((_QUOTES, _COMMAS, _STOPS), start=2):
        if nearest in characters:
            return kind
    return {"Ps": 5, "Pe": 6, "Pd": 7}.get(unicodedata.category(nearest), 8)


def _rarity(containing: np.ndarray, several: int) -> np.ndarray:
    """Returns an inverse document frequency among sentences, 1 for what is in none of them."""
    return np.log((1 + several) / (0.5 + containing)) / np.log(2 * (1 + several))


def _likeness(asked: list[Word], read: _Context) -> np.ndarray:
    """Returns the Dice coefficients of the n-grams of words of the question and of the context, `[Q, U]`, `Q > 0`."""
    shared = np.zeros((max(len(asked), 1), len(read.sizes)))
    for number, word in enumerate(asked):
        for ngram in word.ngrams:
            shared[number, read.having.get(ngram, [])] += 1
        shared[number] *= 2 / (len(word.ngrams) + read.sizes)
    return shared


def _common_substrings(first: str, second: str) -> np.ndarray:
    """Returns for each character of the second text the length of the longest substring around it that both have.

    One character alone is none, and those that are longer than `_LONGEST` count as much as that.
    """
    starts: dict[str, list[int]] = collections.defaultdict(list)
    for place in range(len(first) - 1):
        starts[first[place : place + 2]].append(place)
    longest = np.zeros(len(second) + 1, int)
    for place in range(len(second) - 1):
        for other in starts.get(second[place : place + 2], ()):
            length = 2
            while length < _LONGEST and second[place + length : place + length + 1] == (
                first[other + length : other + length + 1] or None
            ):
                length += 1
            longest[place : place + length] = np.maximum(longest[place : place + length], length)
    return longest


def _lowered(text: str) -> str:
    """Returns a text without capitals that is as long as before, which `lower` of a Turkish one is not."""
    return "".join(character.lower()[0] for character in text)


def _around(signal: np.ndarray, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sums of what stands before and of what stands after each place, less the further away it is."""
    before, after = np.zeros((2, len(signal)))
    for place in range(1, len(signal)):
        before[place] = decay * (before[place - 1] + signal[place - 1])
        after[-1 - place] = decay * (after[-place] + signal[-place])
    return before, after
