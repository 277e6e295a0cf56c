"""Strings of words recognised by templates: connected words in one pass of dynamic time warping (Ney 1984)."""

import numpy as np

# A frame of the string may stay at a place of a template, go to the next, or jump over one.
_JUMPS = (1, 2)
_RANGE = 5.0  # below the level of speech, in nats of power: what is fainter is noise or silence, and all the same


def levelled(frames: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Returns log-mel frames `[N, T, M]` above the level of each recording's louder half, with what is faint cut off.

    The level must not depend on how much silence there is, for a word has less of it than a string.
    """
    loudness = np.where(real, frames.mean(axis=-1), np.nan)
    middle = (np.nanmin(loudness, axis=1) + np.nanmax(loudness, axis=1))[:, None] / 2
    level = np.nanmean(np.where(loudness >= middle, loudness, np.nan), axis=1)
    return np.where(real[..., None], np.maximum(frames - level[:, None, None], -_RANGE), 0.0)


def connected_words(
    templates: list[np.ndarray], words: np.ndarray, frames: np.ndarray, real: np.ndarray, *, price: float
) -> list[list[int]]:
    """Returns the words of each string whose templates, end to end, lie closest to its frames.

    Every frame belongs to a place of a template, or to silence, whose template is the quietest frame of the string.
    The best way through all is found in one pass over the frames, for all strings at once.

    Args:
      templates: `[T_k, M]` of each word that was shown, their frames.
      words: `[K]` int, what they say, not below zero.
      frames: `[N, T, M]` of the strings.
      real: `[N, T]` bool, true for the first frames and false for the rest.
      price: what a word costs beside its distance, in mean squared distances of a frame.

    See Ney, "The use of a one-stage dynamic programming algorithm for connected word recognition" (1984).
    """
    shown, longest = len(templates), max(map(len, templates))
    bins = frames.shape[-1]
    table = np.zeros((shown, longest, bins))
    outside = np.ones((shown, longest), bool)
    for number, template in enumerate(templates):
        table[number, : len(template)] = template
        outside[number, : len(template)] = False
    ends = np.array([len(template) - 1 for template in templates])
    flat = table.reshape(-1, bins)
    squares = np.square(flat).sum(axis=1)
    count, times = real.shape
    quiet = _quietest(frames, real)
    # What the way to each place costs, and the frame before the first one of its word.
    cost, start = np.full((count, shown, longest), np.inf), np.zeros((count, shown, longest), np.int64)
    silence, before = np.full(count, np.inf), np.zeros(count, np.int64)
    free = np.zeros(count)  # of all that may end before this frame
    came = np.zeros((times, count, 2), np.int64)  # of what ends best at each frame: its word, and the frame before it
    for time in range(times):
        frame = frames[:, time].astype(np.float64)
        far = (np.square(frame).sum(axis=1)[:, None] + squares[None] - 2 * frame @ flat.T) / bins
        cost, start = _stepped(cost, start, free + price, time)
        cost += far.reshape(count, shown, longest)
        cost[:, outside] = np.inf
        silent = np.square(frame - quiet).mean(axis=1)
        stays = silence <= free
        silence, before = np.where(stays, silence, free) + silent, np.where(stays, before, time)
        at_end = cost[:, np.arange(shown), ends]
        best = at_end.argmin(axis=1)
        row = np.arange(count)
        said = at_end[row, best] < silence
        free = np.where(said, at_end[row, best], silence)
        came[time, :, 0] = np.where(said, words[best], -1)
        came[time, :, 1] = np.where(said, start[row, best, ends[best]], before)
    return [_traced(came[:, row], int(real[row].sum())) for row in range(count)]


def _stepped(cost: np.ndarray, start: np.ndarray, entry: np.ndarray, time: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cheapest way to stand at each place at `time`, before the distance there is paid."""
    best, origin = cost.copy(), start.copy()
    for jump in _JUMPS:
        better = cost[..., :-jump] < best[..., jump:]
        np.copyto(best[..., jump:], cost[..., :-jump], where=better)
        np.copyto(origin[..., jump:], start[..., :-jump], where=better)
    better = entry[:, None] < best[..., 0]
    np.copyto(best[..., 0], entry[:, None], where=better)
    np.copyto(origin[..., 0], time, where=better)
    return best, origin


def _quietest(frames: np.ndarray, real: np.ndarray) -> np.ndarray:
    loudness = np.where(real, frames.mean(axis=-1), np.inf)
    return frames[np.arange(len(frames)), loudness.argmin(axis=1)].astype(np.float64)


def _traced(came: np.ndarray, length: int) -> list[int]:
    found: list[int] = []
    time = length
    while time > 0:
        word, time = came[time - 1]
        if word >= 0:
            found.append(int(word))
    return found[::-1]
