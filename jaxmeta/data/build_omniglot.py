"""An npz file of Omniglot out of the folders that it is published as (github.com/brendenlake/omniglot)."""

import pathlib

import numpy as np

from jaxmeta.core.checks import InputError
from jaxmeta.data.lines import Path

# Whoever has all of it needs no part of it.
_SETS = (("images_background", "images_evaluation"), ("images_background_small1", "images_background_small2"))


def build_omniglot(source: Path, out: Path, *, size: int = 28) -> pathlib.Path:
    """Writes `omniglot.npz`, which `read_images` reads, out of folders `SET/ALPHABET/CHARACTER/*.png`.

    The sets are images_background and images_evaluation where they are, or else the two small background sets. Drawings
    are black on white; they are inverted, so that ink is 255, and made smaller by Lanczos's filter.

    Args:
        source: the folder of the unpacked sets.
        out: the folder to write to.
        size: pixels on a side.

    Returns:
        The path of the file.

    Raises:
        InputError: there are no such folders, a drawing cannot be read, the file is there already, or there is no
            Pillow.
    """
    try:
        from PIL import Image
    except ImportError:
        raise InputError("Drawings are read by Pillow, which is not installed; `pip install pillow`.") from None
    target = pathlib.Path(out) / "omniglot.npz"
    if target.exists():
        raise InputError(f"{target} exists; give another folder with --out, or remove it.")
    found = _drawings(pathlib.Path(source))
    images, places = [], []
    for (alphabet, character, _), path in sorted(found.items()):
        try:
            with Image.open(path) as drawn:
                small = (
                    drawn.convert("L").point(lambda value: 255 - value).resize((size, size), Image.Resampling.LANCZOS)
                )
        except OSError:
            raise InputError(f"{path} is not an image that Pillow can read; unpack the archive again.") from None
        images.append(np.asarray(small, np.uint8))
        places.append((alphabet, f"{alphabet}/{character}"))
    names, alphabet = np.unique([place[0] for place in places], return_inverse=True)
    _, character = np.unique([place[1] for place in places], return_inverse=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part.npz")
    np.savez_compressed(
        part,
        image=np.stack(images),
        character=character.astype(np.int16),
        alphabet=alphabet.astype(np.uint8),
        alphabet_names=names,
    )
    part.replace(target)  # whole or not at all
    return target


def _drawings(source: pathlib.Path) -> dict[tuple[str, str, str], pathlib.Path]:
    """Returns the file of each drawing by alphabet, character and name; the small sets have some in common."""
    for sets in _SETS:
        paths = [path for name in sets for path in sorted((source / name).glob("*/*/*.png"))]
        if paths:
            return {(path.parts[-3], path.parts[-2], path.name): path for path in paths}
    raise InputError(
        f"{source} has no folders {', '.join(name for sets in _SETS for name in sets)} with drawings in "
        "ALPHABET/CHARACTER/*.png; unpack the archives of Omniglot there."
    )
