"""Pretended languages: a text under another alphabet says the same with other letters."""

import numpy as np

# What may stand for what in UTF-8: letters for letters, so that digits, spaces and marks keep their meaning, and bytes
# for bytes of the same role in a character.
_SMALL = np.arange(ord("a"), ord("z") + 1)
_CAPITAL = np.arange(ord("A"), ord("Z") + 1)
_CONTINUATION = np.arange(0x80, 0xC0)
_LEAD = np.arange(0xC2, 0xF5)


def byte_cipher(generator: np.random.Generator) -> np.ndarray:
    """Draws a substitution of the tokens of `ByteTokenizer`: `[257]` int32, the token that stands for each.

    Used for every text of an episode alike it makes a task of a language that nobody speaks: words are new, and are
    still the same words in support and query. A learner that only knows its training languages' words by heart is lost
    there; one that has learned to compare is not (task augmentation; compare Rajendran et al. 2020, arXiv 2007.05549).
    """
    table = np.arange(257, dtype=np.int32)
    order = generator.permutation(len(_SMALL))
    # A capital follows its small letter. Token b + 1 is byte b.
    for letters in (_SMALL, _CAPITAL):
        table[letters + 1] = letters[order] + 1
    for group in (_CONTINUATION, _LEAD):
        table[group + 1] = generator.permutation(group) + 1
    return table
