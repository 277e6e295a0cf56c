"""Counter-based random numbers named by what they are for, so that no draw depends on the one before it."""

import hashlib
import operator

import numpy as np


def digest(*names: object, size: int = 8) -> int:
    """Returns an unsigned integer of `size` bytes for `names`, the same in every process, unlike `hash`."""
    text = "\x1f".join(str(name) for name in names)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size).digest(), "little")


def stream(*names: object, index: int = 0) -> np.random.Generator:
    """Returns the `index`-th independent generator of the family called `names`.

    The names become the Philox key and `index` the top word of its counter, so that two indices are 2**192
    draws apart (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
    """
    index = operator.index(index)  # one of numpy would be shifted out of its 64 bits, to zero
    if index < 0:
        raise ValueError(f"`index` must be zero or more, got {index}")
    return np.random.Generator(np.random.Philox(key=digest(*names, size=16), counter=index << 192))
