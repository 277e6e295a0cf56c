"""Decoding of CTC by prefix beam search (Graves 2012; Hannun et al. 2014, arXiv 1408.2873), on the host."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from jaxmeta.core.checks import check_positive

BLANK = 0
_NOTHING = -math.inf


def ctc_beam_search(
    log_probabilities: np.ndarray,
    *,
    beam: int = 16,
    language_model: Callable[[Sequence[int], int], float] | None = None,
) -> list[tuple[tuple[int, ...], float]]:
    """Finds likely sequences, each by the sum over its alignments.

    Args:
      log_probabilities: `[T, V]` of one example's real frames; symbol 0 is the blank.
      beam: sequences that are kept after each frame.
      language_model: `(prefix, symbol) -> log probability`, added whenever a symbol is appended.

    Returns:
      The sequences that were kept, best first, with the logarithm of the probability of the alignments that the beam
      held on to, plus what the language model says.

    Raises:
      ValueError: `beam` is not positive, or `log_probabilities` has another shape.
    """
    check_positive("beam", beam)
    frames = np.asarray(log_probabilities, np.float64)
    if frames.ndim != 2:
        raise ValueError(f"`log_probabilities` must have the shape [T, V], got {list(frames.shape)}")
    # For each prefix: the log probability of its alignments that end in a blank, and of those that end in its symbol.
    kept: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, _NOTHING)}
    for frame in frames:
        found: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [_NOTHING, _NOTHING])
        for prefix, (blank, symbol) in kept.items():
            either = np.logaddexp(blank, symbol)
            same = found[prefix]
            same[0] = np.logaddexp(same[0], either + frame[BLANK])
            if prefix:
                same[1] = np.logaddexp(same[1], symbol + frame[prefix[-1]])
            for other in range(1, len(frame)):
                # The same symbol again is a new one only after a blank.
                before = blank if prefix and other == prefix[-1] else either
                if before == _NOTHING:
                    continue
                longer = found[*prefix, other]
                bonus = language_model(prefix, other) if language_model else 0.0
                longer[1] = np.logaddexp(longer[1], before + frame[other] + bonus)
        best = sorted(found.items(), key=lambda item: -np.logaddexp(item[1][0], item[1][1]))[:beam]
        kept = {prefix: (blank, symbol) for prefix, (blank, symbol) in best}
    return [(prefix, float(np.logaddexp(blank, symbol))) for prefix, (blank, symbol) in kept.items()]
