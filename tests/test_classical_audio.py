"""Baselines for recordings outside JAX: mean spectra of parts, and templates of words end to end."""

import functools

import numpy as np

from jaxmeta.run.classical_audio import part_means
from jaxmeta.run.classical_strings import connected_words


def cheapest(templates, words, frames, price):
    """Returns the words of one string by trying every way through it, a frame at a time."""
    quiet = frames[np.argmin(frames.mean(axis=1))]
    places = [(k, j) for k, template in enumerate(templates) for j in range(len(template))]

    def far(time, place):
        target = quiet if place is None else templates[place[0]][place[1]]
        return float(np.mean((frames[time] - target) ** 2))

    def may_end(place):
        return place is None or place[1] == len(templates[place[0]]) - 1

    @functools.cache
    def best(time, place):
        """The cost of the best way that is at `place` at `time`, and its words."""
        ways = []
        first = place is not None and place[1] == 0
        if time == 0:
            if place is None:
                ways.append((0.0, ()))
            elif first:
                ways.append((price, (words[place[0]],)))
        else:
            if place is None or first:
                new = () if place is None else (words[place[0]],)
                for other in (None, *places):
                    if may_end(other):
                        cost, said = best(time - 1, other)
                        ways.append((cost + (price if new else 0.0), said + new))
            if place is not None:
                ways += [best(time - 1, (place[0], place[1] - jump)) for jump in (0, 1, 2) if place[1] >= jump]
        cost, said = min(ways, key=lambda way: way[0], default=(np.inf, ()))
        return cost + far(time, place), said

    last = len(frames) - 1
    return list(min((best(last, place) for place in (None, *places) if may_end(place)), key=lambda way: way[0])[1])


def test_words_end_to_end_are_the_cheapest_of_all_ways():
    generator = np.random.default_rng(0)
    templates = [generator.normal(size=(length, 3)) for length in (3, 5, 2, 4)]
    words = np.array([7, 2, 7, 5])
    strings, lengths = generator.normal(size=(6, 14, 3)), [14, 9, 12, 1, 14, 6]
    strings[0, :9] = np.concatenate([templates[1], np.full((1, 3), -4.0), templates[0]])
    real = np.arange(14)[None] < np.array(lengths)[:, None]
    strings[~real] = 99.0  # padding, which must change nothing
    found_by_price = []
    for price in (0.0, 0.5, 3.0):
        found = connected_words(templates, words, strings, real, price=price)
        for row, length in enumerate(lengths):
            assert found[row] == cheapest(templates, words, strings[row, :length], price), (price, row)
        found_by_price.append(found)
    assert sum(map(len, found_by_price[0])) > sum(map(len, found_by_price[2]))
    assert found_by_price[0][0][:2] == [2, 7]


def test_parts_are_averaged_apart_and_padding_is_not_read():
    frames = np.arange(24, dtype=float).reshape(1, 12, 2)
    real = np.arange(12)[None] < 7
    means = part_means(np.where(real[..., None], frames, np.nan), real, 3)
    np.testing.assert_allclose(
        means[0].reshape(3, 2), [frames[0, a:b].mean(axis=0) for a, b in ((0, 3), (3, 5), (5, 7))]
    )
    short = part_means(frames, np.arange(12)[None] < 2, 3)[0].reshape(3, 2)
    np.testing.assert_allclose(short[2], frames[0, :2].mean(axis=0))
