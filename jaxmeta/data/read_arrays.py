"""Arrays of npz files, or the sentence that says what is wrong with the file."""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from jaxmeta.core.checks import InputError
from jaxmeta.data.lines import Path


def read_arrays(path: Path, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads the arrays called `wanted` of an npz file; whatever else it holds is not read.

    Raises:
        InputError: there is no such file, it is damaged, or an array is missing.
    """
    with _opened(path) as file:
        missing = [array for array in wanted if array not in file.files]
        if missing:
            raise InputError(f"{path} has no array {', '.join(map(repr, missing))}; it must hold {', '.join(wanted)}.")
        return {array: file[array] for array in wanted}


def array_names(path: Path) -> tuple[str, ...]:
    """Returns the names of the arrays of an npz file.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    with _opened(path) as file:
        return tuple(file.files)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    spoilt = f"{path} is not an npz file that numpy can read; save the arrays by `numpy.savez_compressed`."
    try:
        # Opened here, because numpy leaves a damaged file open.
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise InputError(spoilt)
            yield file
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; correct the path.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory; name a file in it.") from None
    except InputError:
        raise
    # What numpy and zipfile raise for files that are cut off, damaged, or of another kind.
    # Of a zip file with a password, or packed in a way that Python does not know, it is a RuntimeError.
    except (ValueError, EOFError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile, zlib.error):
        raise InputError(spoilt) from None
    except OSError as error:
        reason = error.strerror or "it is damaged"
        raise InputError(f"{path} cannot be read ({reason}); correct the path or its permissions.") from None
