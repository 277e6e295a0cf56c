"""Decoding with a cache of keys and values beside decoding without one, which reads all of a text for every token.

    python benchmarks/decoding.py                            # 64 sentences of 64 tokens, two layers of width 128
    python benchmarks/decoding.py --sentences 1 --repeats 9

Both write the same tokens, which is checked before anything is timed, and as many: no sentence may end. Turns
alternate; the medians are printed, and in brackets the fastest and the slowest turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import models

VOCABULARY = 259  # bytes, padding, and the tokens that begin and end a sentence
BOS, EOS = VOCABULARY - 2, VOCABULARY - 1


def main() -> None:
    """Prints a row for each model."""
    args = _arguments()
    sentences, length, width = (4, 6, 8) if args.tiny else (args.sentences, args.length, args.width)
    sizes = {"vocab_size": VOCABULARY, "width": width, "layers": 2, "heads": 4}
    print(f"{jax.devices()[0].device_kind}, {sentences} sentences of {length} tokens, 2 layers of width {width}")
    print("| model | with a cache ms | without ms | times as fast | beams of 4, with a cache ms |")
    print("|---|---:|---:|---:|---:|")
    pointing = partial(models.seq2seq, pointer=True, tied=True)
    builds = {"seq2seq": models.seq2seq, "pointer": pointing, "language_model": models.language_model}
    for name, build in builds.items():
        options = sizes | {"max_length": length}
        model = build(**options)
        inputs = inputs_of(name, sentences, length)
        params = endless(jax.jit(model.init)(jax.random.key(0), inputs))
        ways = {
            "with": jax.jit(model.generate),
            "without": jax.jit(lambda params, inputs, model=model: uncached(model, params, inputs, length)),
            "beams": jax.jit(build(search=models.beam_search(4), **options).generate),
        }
        tokens = {way: np.asarray(run(params, inputs)) for way, run in ways.items()}
        agreement = np.mean(tokens["with"] == tokens["without"])
        if agreement < 0.999 or not tokens["with"].all():
            raise SystemExit(f"{name}: only {agreement:.1%} of the tokens agree")
        seconds = timed(ways, (params, inputs), args.repeats)
        cells = {way: _cell(found) for way, found in seconds.items()}
        ratio = statistics.median(seconds["without"]) / statistics.median(seconds["with"])
        print(f"| {name} | {cells['with']} | {cells['without']} | {ratio:.1f} | {cells['beams']} |", flush=True)


def inputs_of(name: str, sentences: int, length: int) -> dict[str, np.ndarray]:
    """Returns sources of all lengths up to `length`, or prompts that are the beginning alone."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, BOS, (sentences, length), dtype=np.int32)
    real = np.arange(length)[None] < rng.integers(1, length + 1, (sentences, 1))
    first = {"previous": np.full((sentences, 1), BOS, np.int32)}
    return first | ({"source": np.where(real, tokens, 0)} if name != "language_model" else {})


def endless(params):
    """Returns parameters under which no sentence ends, so that both ways write the same number of tokens."""
    bias = params["head"]["bias"].at[EOS].set(-1e9)
    found = {**params, "head": {**params["head"], "bias": bias}}
    if "copying" in params:  # a source has an end, so it may be pointed at but not copied
        shut = {**params["copying"]["gate"], "bias": jnp.full(1, -1e9)}
        found["copying"] = {**params["copying"], "gate": shut}
    return found


def uncached(model, params, inputs, length: int) -> jax.Array:
    """Writes `length` tokens greedily; the model reads all of them for each."""
    allowed = ~np.isin(np.arange(VOCABULARY), [0, BOS])

    def write(place, previous):
        logits = model.apply(params, {**inputs, "previous": previous[:, :length]})
        now = jax.lax.dynamic_index_in_dim(logits, place, axis=1, keepdims=False)
        token = jnp.argmax(jnp.where(allowed[None], now, -jnp.inf), axis=-1).astype(jnp.int32)
        return jax.lax.dynamic_update_slice_in_dim(previous, token[:, None], place + 1, axis=1)

    previous = jnp.pad(inputs["previous"], ((0, 0), (0, length)))
    return jax.lax.fori_loop(0, length, write, previous)[:, 1:]


def timed(ways: dict[str, Callable], arguments: tuple, repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of each turn of each way."""
    found = {way: [] for way in ways}
    for _ in range(repeats):
        for way, run in ways.items():
            began = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            found[way].append(time.perf_counter() - began)
    return found


def _cell(seconds: list[float]) -> str:
    low, middle, high = (1e3 * value for value in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=64, help="how many in a batch")
    parser.add_argument("--length", type=int, default=64, help="tokens of a source at most, and of what is written")
    parser.add_argument("--width", type=int, default=128, help="of the vectors")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way")
    parser.add_argument("--tiny", action="store_true", help="small ones, to see that everything runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
