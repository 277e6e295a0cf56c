"""An adapted model as a program of its own, for whatever runs StableHLO."""

import pathlib
import shutil
from collections.abc import Sequence
from typing import Literal

import jax
import jax.export
import numpy as np

from jaxmeta.config import adapted
from jaxmeta.config.answering import blank_inputs
from jaxmeta.config.spoken import blank_spoken
from jaxmeta.core.checks import InputError
from jaxmeta.core.types import ArrayTree
from jaxmeta.run.files import new_folder

Platform = Literal["cpu", "cuda", "rocm", "tpu"]
PLATFORMS: tuple[Platform, ...] = ("cpu", "cuda", "tpu")


def export(model: str, out: str, platforms: Sequence[Platform] = PLATFORMS) -> str:
    """Writes an adapted model to a new folder, its parameters and all of its computation in one file.

    `jaxmeta predict` and `jaxmeta serve` read the folder as they read an adapted one; so does any program that has JAX
    and not this library, by `jax.export.deserialize(...).call(inputs, mask)`, for `ROWS` examples at a time.

    Args:
      model: the folder that `jaxmeta adapt` wrote.
      out: the folder to write.
      platforms: what the program can run on.

    Returns:
      What was done, in a sentence.

    Raises:
      InputError: the model is unusable, the folder exists, or the model does not compile for a platform.
    """
    folder, target = pathlib.Path(model), pathlib.Path(out)
    with new_folder(target) as whole:
        loaded = adapted.load(folder)
        if (folder / adapted.COMPILED).exists():
            raise InputError(f"{folder} is exported already; name a folder that `jaxmeta adapt` wrote.")
        mask = jax.ShapeDtypeStruct((adapted.ROWS,), bool)
        try:
            program = jax.export.export(jax.jit(loaded.rows), platforms=tuple(platforms))(blank(loaded), mask)
            found = program.serialize()
        except ImportError:
            raise InputError("`jaxmeta export` needs flatbuffers; `pip install 'jaxmeta[export]'` brings it.") from None
        except (NotImplementedError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{folder} does not compile for {', '.join(platforms)} ({reason}); name fewer.") from None
        whole.mkdir()
        shutil.copyfile(folder / "adapted.json", whole / "adapted.json")
        (whole / adapted.COMPILED).write_bytes(found)
    return f"Wrote {target}: {len(found):,} bytes that run on {', '.join(program.platforms)}."


def blank(model: adapted.Adapted) -> ArrayTree:
    """Returns the shapes of what a model is asked about."""
    if model.tokenizer is None:
        inputs = blank_spoken(model.config, len(model.labels), adapted.ROWS)["inputs"]
    elif model.labels:
        inputs = model.tokenizer.encode([""] * adapted.ROWS)
    else:
        inputs = blank_inputs(model.config, model.tokenizer, adapted.ROWS)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), np.asarray(leaf).dtype), inputs)
