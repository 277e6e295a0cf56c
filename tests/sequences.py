"""Small sequence models for tests, their inputs, and decoding as slow and plain as can be: without a cache."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import models
from jaxmeta.core.select import path_of

VOCABULARY, BOS, EOS, LENGTH = 9, 7, 8, 6
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "width": 8, "layers": 2, "heads": 2, "expansion": 2}
BUILDERS = {
    "seq2seq": models.seq2seq,
    "pointer": partial(models.seq2seq, pointer=True, tied=True),
    "language_model": models.language_model,
}


def model_of(kind: str, *, max_length: int = 2 * LENGTH, **options):
    """Builds a tiny model of a kind."""
    return BUILDERS[kind](max_length=max_length, **{**SIZES, **options})


def random_params(model, inputs, dtype=jnp.float64, seed: int = 0):
    """Draws every parameter, so that tokens depend on what was read, on their places and on one another."""
    rng = np.random.default_rng(seed)

    def drawn(path, leaf):
        noise = jnp.asarray(rng.normal(size=leaf.shape), dtype)
        name = path_of(path).rpartition("/")[2]
        return 1 + 0.2 * noise if name == "scale" else (0.2 if name == "bias" else 1.0) * noise

    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
    return jax.tree_util.tree_map_with_path(drawn, shapes)


def ragged(rng: np.random.Generator, size: int, length: int, first: int | None = None) -> np.ndarray:
    """Draws `[size, length]` tokens that end in padding, the first row longest; `first` begins each."""
    tokens = rng.integers(1, BOS, (size, length), dtype=np.int32)
    if first is not None:
        tokens[:, 0] = first
    lengths = np.concatenate([[length], rng.integers(2, length, size - 1)])
    return np.where(np.arange(length)[None] < lengths[:, None], tokens, 0)


def inputs_of(kind: str, seed: int = 0, size: int = 3) -> dict[str, np.ndarray]:
    """Draws inputs of a kind of model; sentences differ in length."""
    rng = np.random.default_rng(seed)
    found = {} if kind == "language_model" else {"source": ragged(rng, size, LENGTH)}
    return found | {"previous": ragged(rng, size, LENGTH, BOS)}


def next_logits(kind: str, model, dtype=np.float64):
    """Returns `(params, one sentence, continuations) -> logits [B, V]` of the next tokens, by reading everything anew.

    A sentence is a row of inputs, continuations are lists of tokens, all of one length.
    """
    apply = jax.jit(model.apply)

    def logits(params, sentence: dict[str, np.ndarray], continuations: list[list[int]]) -> np.ndarray:
        prompt = [int(token) for token in sentence["previous"] if token] if kind == "language_model" else [BOS]
        rows = np.zeros((len(continuations), 2 * LENGTH), np.int32)
        for row, tokens in zip(rows, continuations, strict=True):
            row[: len(prompt) + len(tokens)] = prompt + tokens
        inputs = {"previous": rows}
        if kind != "language_model":
            inputs["source"] = np.tile(sentence["source"], (len(rows), 1))
        found = np.array(apply(params, inputs), dtype)[:, len(prompt) + len(continuations[0]) - 1]
        found[:, [0, BOS]] = -np.inf
        return found

    return logits


def greedy_reference(logits, params, inputs, length: int) -> np.ndarray:
    """Writes greedily, a sentence after another."""
    return beam_reference(logits, params, inputs, length, size=1, penalty=0.0)


def beam_reference(logits, params, inputs, length: int, *, size: int, penalty: float) -> np.ndarray:
    """Searches with beams, a sentence after another, in lists, and to the last step."""
    written = np.zeros((len(inputs["previous"]), length), np.int32)
    for number, row in enumerate(written):
        sentence = {name: leaf[number] for name, leaf in inputs.items()}
        beams = [((), 0.0, False)]  # tokens, log-probability, whether it has ended
        for place in range(length):
            going = [tokens for tokens, _, ended in beams if not ended]
            if not going:
                break
            # Rows are filled up, so that there is one shape to compile.
            rows = [list(tokens) for tokens in going] + [[1] * place] * (size - len(going))
            found = dict(zip(going, logits(params, sentence, rows), strict=False))
            candidates = [beam for beam in beams if beam[2]]
            for tokens, score, ended in beams:
                if not ended:
                    finite = found[tokens] - np.max(found[tokens])
                    gains = finite - np.log(np.sum(np.exp(finite)))
                    candidates += [((*tokens, t), score + gain, t == EOS) for t, gain in enumerate(gains)]
            candidates.sort(key=lambda beam: -beam[1] / ((5 + len(beam[0])) / 6) ** penalty)
            beams = candidates[:size]
        best = [token for token in beams[0][0] if token != EOS]
        row[: len(best)] = best
    return written
