"""Images of characters, held as parallel columns; from an npz file, with one sentence for whatever is wrong with it."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxmeta.core.checks import InputError
from jaxmeta.data.lines import Path
from jaxmeta.data.read_arrays import read_arrays

_ARRAYS = ("image", "character", "alphabet", "alphabet_names")


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Drawings of characters; `N` images, each of one character of one alphabet.

    Attributes:
        name: what to call them in reports.
        image: `[N, H, W]` uint8, 255 where there is ink.
        character: `[N]` int64, the character of each image; no two alphabets have one in common.
        alphabet: `[N]` str, the alphabet of each image.
    """

    name: str
    image: np.ndarray
    character: np.ndarray
    alphabet: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def alphabets(self) -> tuple[str, ...]:
        """Returns the names of the alphabets, sorted."""
        return tuple(sorted(set(self.alphabet.tolist())))

    def characters(self, alphabets: Sequence[str]) -> list[np.ndarray]:
        """Returns the image numbers of each character of some alphabets, in the order of the characters' numbers."""
        rows = np.flatnonzero(np.isin(self.alphabet, alphabets))
        if not len(rows):
            return []
        rows = rows[np.argsort(self.character[rows], kind="stable")]
        return np.split(rows, np.flatnonzero(np.diff(self.character[rows])) + 1)

    def count_repeats(self, alphabets: Sequence[str], others: Sequence[str]) -> int:
        """Returns how many images of `alphabets` are, pixel by pixel, an image of `others`."""
        known = {self.image[row].tobytes() for row in np.flatnonzero(np.isin(self.alphabet, others))}
        return sum(self.image[row].tobytes() in known for row in np.flatnonzero(np.isin(self.alphabet, alphabets)))


def read_images(path: Path, *, name: str | None = None) -> Images:
    """Reads a numpy .npz file of drawn characters, such as Omniglot (Lake, Salakhutdinov & Tenenbaum 2015).

    Its arrays are `image` uint8 `[N, H, W]`, 255 where there is ink; `character` and `alphabet`, integers, one for each
    image; and `alphabet_names`, strings. Whatever else it holds is not read.

    Args:
        path: the file.
        name: what to call it; the file's name without its ending by default.

    Raises:
        InputError: anything in the file is not so.
    """
    arrays = read_arrays(path, _ARRAYS)
    image, names = arrays["image"], arrays["alphabet_names"]
    if image.dtype != np.uint8 or image.ndim != 3:
        raise InputError(
            f"{path}: `image` is {image.dtype.name} of {image.ndim} axes; store uint8 of three: image, row, column."
        )
    if not image.size:
        raise InputError(f"{path} has no images; add some.")
    columns = {column: _column(path, column, arrays[column], len(image)) for column in ("character", "alphabet")}
    words = names.dtype.kind == "U" and names.ndim == 1
    if not words or len({name for name in names.tolist() if name.strip()}) < len(names):
        raise InputError(f"{path}: `alphabet_names` is no row of different strings; store the name of each alphabet.")
    wrong = (columns["alphabet"] < 0) | (columns["alphabet"] >= len(names))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{path}, image {row}: `alphabet` is {columns['alphabet'][row]} where {len(names)} `alphabet_names` are; "
            "correct the number."
        )
    found = Images(
        name=name if name is not None else pathlib.Path(path).stem,
        image=image,
        character=columns["character"],
        alphabet=names[columns["alphabet"]],
    )
    check_characters(path, found)
    return found


def _column(path: Path, name: str, values: np.ndarray, count: int) -> np.ndarray:
    if not np.issubdtype(values.dtype, np.integer) or values.shape != (count,):
        raise InputError(
            f"{path}: `{name}` is {values.dtype.name} of the shape {list(values.shape)} where there are {count} "
            "images; store an integer for each."
        )
    return values.astype(np.int64)


def check_characters(where: Path, images: Images) -> None:
    """Refuses a character in two alphabets, which might be trained on and judged.

    Raises:
        InputError: there is one.
    """
    alphabet_of: dict[int, str] = {}
    for character, alphabet in zip(images.character.tolist(), images.alphabet.tolist(), strict=True):
        if alphabet_of.setdefault(character, alphabet) != alphabet:
            raise InputError(
                f"{where}: character {character} is in {alphabet_of[character]} and in {alphabet}; number the "
                "characters of all alphabets one after another."
            )
