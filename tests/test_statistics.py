"""Intervals against simulation, closed forms and scipy."""

import json

import numpy as np
import pytest
import scipy.stats

from jaxmeta.run import statistics


def _simulate(rng, num_languages, num_repetitions, *, between=1.0, within=0.5, mean=3.0):
    languages = rng.normal(mean, between, (num_languages, 1))
    return languages + rng.normal(0, within, (num_languages, num_repetitions))


@pytest.mark.parametrize(("level", "low", "high"), [(0.95, 0.92, 0.98), (0.8, 0.74, 0.86)])
def test_interval_covers_the_true_mean(level, low, high):
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(500):
        grid = _simulate(rng, 40, 3)
        interval = statistics.bootstrap_interval(grid, level=level, resamples=400, seed=trial)
        hits += interval.low <= 3.0 <= interval.high
    assert low <= hits / 500 <= high


def test_few_languages_cover_as_the_docstring_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(500):
        interval = statistics.bootstrap_interval(_simulate(rng, 4, 3), resamples=400, seed=trial)
        hits += interval.low <= 3.0 <= interval.high
    assert 0.80 <= hits / 500 <= 0.90


def test_more_repetitions_do_not_narrow_what_languages_spread():
    rng = np.random.default_rng(2)
    column = rng.normal(0, 1, (20, 1))
    few = statistics.bootstrap_interval(column, seed=0)
    many = statistics.bootstrap_interval(np.tile(column, (1, 50)), seed=1)
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.05)


def test_repetitions_alone_have_width_too():
    rng = np.random.default_rng(3)
    grid = np.tile(rng.normal(0, 1, (1, 10)), (5, 1))
    grid = rng.permuted(grid, axis=1)  # every language has the same mean and differs by repetition only
    interval = statistics.bootstrap_interval(grid)
    expected = 2 * 1.96 * grid[0].std() / np.sqrt(50)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.1)


def test_flat_case_agrees_with_scipy():
    column = np.random.default_rng(4).normal(10, 2, 35)
    ours = statistics.bootstrap_interval(column, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (column,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(9)
    ).confidence_interval
    assert ours.mean == pytest.approx(column.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_chunks_cover_every_resample(monkeypatch):
    grid = _simulate(np.random.default_rng(5), 6, 2)
    whole = statistics.bootstrap_interval(grid, resamples=1000)
    monkeypatch.setattr(statistics, "_CHUNK", 12 * 7)  # 1000 is no multiple of 7
    cut = statistics.bootstrap_interval(grid, resamples=1000)
    assert cut == pytest.approx(whole, abs=0.15)
    assert np.isfinite(cut).all()


def test_constant_scores_have_no_width():
    assert statistics.bootstrap_interval(np.full((7, 3), 42.0)) == (42.0, 42.0, 42.0)


def test_same_seed_same_numbers():
    grid = _simulate(np.random.default_rng(6), 9, 3)
    assert statistics.bootstrap_interval(grid, seed=5) == statistics.bootstrap_interval(grid, seed=5)
    assert statistics.bootstrap_interval(grid, seed=5) != statistics.bootstrap_interval(grid, seed=6)


def test_what_is_said_again_for_every_seed_tells_no_more():
    """A method without training seeds stands beside each of them; its interval is that of its draws alone."""
    draws = np.random.default_rng(9).normal(50, 5, (3, 4))
    alone = statistics.bootstrap_interval(draws)
    tiled = statistics.bootstrap_interval(np.tile(draws, (1, 6)), training_seeds=6)
    assert tiled.high - tiled.low == pytest.approx(alone.high - alone.low, rel=0.05)
    as_if = statistics.bootstrap_interval(np.tile(draws[:1], (1, 6)))
    of_one = statistics.bootstrap_interval(np.tile(draws[:1], (1, 6)), training_seeds=6)
    assert of_one.high - of_one.low > 2 * (as_if.high - as_if.low)


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_of_seeds_and_draws_hold_the_truth(seeds):
    rng, held = np.random.default_rng(11), 0
    for number in range(200):
        of_seed, of_draw = rng.normal(size=(12, seeds, 1)), rng.normal(size=(12, 1, 4))
        grid = rng.normal(size=(12, 1, 1)) + of_seed + of_draw + 0.1 * rng.normal(size=(12, seeds, 4))
        found = statistics.bootstrap_interval(grid.reshape(12, -1), training_seeds=seeds, resamples=500, seed=number)
        held += found.low <= 0 <= found.high
    assert held >= 0.86 * 200


def test_seeds_divide_the_repetitions():
    with pytest.raises(ValueError, match="`training_seeds` must divide the 4 repetitions, got 3"):
        statistics.bootstrap_interval(np.ones((2, 4)), training_seeds=3)


def test_paired_removes_what_both_share():
    rng = np.random.default_rng(8)
    base = rng.normal(60, 15, (30, 3))
    better = base + rng.normal(2, 0.5, (30, 3))
    paired = statistics.paired_difference(better, base)
    assert paired.low > 1.5
    assert paired.high < 2.5
    assert (paired.wins, paired.losses) == (30, 0)
    alone = statistics.bootstrap_interval(better)
    assert alone.high - alone.low > 5 * (paired.high - paired.low)


def test_paired_counts_languages_not_cells():
    a = [[3.0, 0.0], [1.0, 1.0], [0.0, 1.0], [5.0, 5.0]]
    b = [[0.0, 1.0], [1.0, 1.0], [2.0, 0.0], [4.0, 4.0]]
    paired = statistics.paired_difference(a, b)
    assert (paired.wins, paired.losses) == (2, 1)  # and one tie
    assert paired.mean == pytest.approx(0.375)


def test_lower_is_better_flips_the_sign():
    a, b = [[1.0], [2.0], [9.0]], [[2.0], [4.0], [8.0]]
    up = statistics.paired_difference(a, b)
    down = statistics.paired_difference(a, b, higher_is_better=False)
    assert down.mean == pytest.approx(-up.mean)
    assert (down.low, down.high) == pytest.approx((-up.high, -up.low))
    assert (down.wins, down.losses) == (up.losses, up.wins) == (2, 1)


def test_worst_language_and_quartile():
    scores, names = [[90.0, 80.0], [40.0, 60.0], [70.0, 10.0], [99.0, 99.0], [41.0, 41.0]], list("abcde")
    assert statistics.worst_language(scores, names) == ("c", 40.0)
    assert statistics.worst_language(scores, names, higher_is_better=False) == ("d", 99.0)
    assert statistics.worst_quartile(scores) == pytest.approx((40.0 + 41.0) / 2)  # a quarter of 5 is 2
    assert statistics.worst_quartile(scores, higher_is_better=False) == pytest.approx((99.0 + 85.0) / 2)
    assert statistics.worst_quartile([[1.0]]) == 1.0


def test_a_score_that_is_not_a_number_is_shown():
    scores = [[1.0], [np.nan], [3.0]]
    assert np.isnan(statistics.bootstrap_interval(scores)).all()
    assert statistics.worst_language(scores, ["a", "b", "c"]).language == "b"
    paired = statistics.paired_difference(scores, [[0.0], [0.0], [0.0]])
    assert np.isnan(paired.mean)
    assert (paired.wins, paired.losses) == (2, 1)  # a language in which it diverged is lost
    assert statistics.paired_difference([[0.0], [0.0]], [[np.inf], [1.0]], higher_is_better=False).wins == 2
    nowhere = statistics.paired_difference([[np.nan], [1.0]], [[np.inf], [1.0]])
    assert (nowhere.wins, nowhere.losses) == (0, 0)


def test_rounding_wins_nothing():
    first, second = [[0.1 + 0.2]], [[0.3]]
    assert first != second
    paired = statistics.paired_difference(first, second)
    assert (paired.wins, paired.losses) == (0, 0)
    assert statistics.gains([[1.0]], [[1.0 - 1e-6]])[0] > 0


def test_what_differs_between_trainings_does_not_average_out_over_languages():
    """With many languages that are alike, the interval of seeds is that of the seeds alone."""
    rng = np.random.default_rng(5)
    seeds = rng.normal(0, 2, 8)
    grid = np.tile(seeds, (40, 1)) + 0.01 * rng.normal(size=(40, 8))
    crossed = statistics.bootstrap_interval(grid, training_seeds=8)
    alone = statistics.bootstrap_interval(seeds)
    assert crossed.high - crossed.low == pytest.approx(alone.high - alone.low, rel=0.05)
    as_draws = statistics.bootstrap_interval(grid)
    assert as_draws.high - as_draws.low < 0.3 * (crossed.high - crossed.low)


def test_results_are_plain_numbers():
    paired = statistics.paired_difference([[1.0], [2.0]], [[0.0], [3.0]])
    assert json.loads(json.dumps(paired)) == list(paired)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.bootstrap_interval(np.zeros((0, 3))), "got shape"),
        (lambda: statistics.bootstrap_interval(np.zeros((2, 3, 4))), "got shape"),
        (lambda: statistics.bootstrap_interval([1.0], level=1.0), "`level`"),
        (lambda: statistics.bootstrap_interval([1.0], resamples=0), "`resamples`"),
        (lambda: statistics.paired_difference([1.0, 2.0], [1.0]), "same shape"),
        (lambda: statistics.worst_language([1.0, 2.0], ["a"]), "2 rows"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
