"""A language model with a memory of n-grams: the support is counted, and how far to trust a count is meta-learned.

Interpolated n-grams with the counts of Kneser and Ney (1995) over a neural model, as a cache is (Grave et al. 2017,
arXiv 1612.04426), whose smoothing is trained on episodes of other languages.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.algorithms.features import closed_form
from jaxmeta.core.checks import check_not_negative, check_positive
from jaxmeta.core.masks import real_examples
from jaxmeta.core.trees import sum_dtype
from jaxmeta.core.types import PADDING, ArrayTree, Batch, Episode, MetaAlgorithm, Mixing, Model, Objective

_BASE = 0x9E3779B1  # odd and far from a power of two, so that products modulo 2^32 mix their bits
_RARE = 0.05  # what is added to a count before its logarithm, so that none is told from one
_FACTS = 5  # what a gate knows of the counts after a context, see `_gates`
_TINY = 1e-9  # under which no probability is told from zero


class Memory(NamedTuple):
    """How often each token followed each context of the support, by the context's length `k < K`."""

    contexts: jax.Array  # [K, P] int32, hashes of the contexts before the P tokens of the support, ascending
    counts: jax.Array  # [K, P, V], in the row of the first of equal contexts
    scales: jax.Array | None = None  # [D], how much each number of a context's vector means in this language


def ngram_memory(
    model: Model, objective: Objective, *, longest: int = 10, hidden: int = 32, buckets: int = 2**14, width: int = 32
) -> MetaAlgorithm:
    """Counts the n-grams of the support, and mixes what followed them into what a language model says; `num_steps=0`.

    From the empty context to one of `longest - 1` tokens, `p <- (1 - g_k) p + g_k c_k`, beginning with the
    probabilities of the model. `c_k` are the counts after the last `k` tokens, less a learned discount for each token
    that was seen, made to sum to one. But for the longest contexts it is counted before how many different tokens an
    n-gram was seen, and not how often. The gates `g_k` are a small network of what all the counts look like (how many,
    how many different ones, how many single ones, the largest share) and of how sure the model is. Discounts, gates and
    the model are meta-learned: nothing is tuned when a language is learned, and nothing is differentiated.

    What the train languages say of a context is learned too: to the logits of the model is added what is read off a
    vector, the sum of one for each of the last 1- to `longest - 1`-grams, hashed to a bucket. How much each of its
    numbers means in a language is read off the mean of those vectors in the support.

    Inputs without "previous" are written on by the model's `generate`, with the memory mixed into each token.

    Args:
      model: reads `{"previous": [N, M]}`, each token but the last after one that begins a text; answers `[N, M, V]`.
      objective: generation, of targets `[N, M]`.
      longest: K, tokens of the longest n-gram.
      hidden: width of the network of the gates.
      buckets: B, of the vectors of n-grams; 0 for none.
      width: of those vectors.

    Raises:
      ValueError: if `longest`, `hidden` or `width` is not positive, or `buckets` is negative.
    """
    check_not_negative("buckets", buckets)
    check_positive("width", width)
    check_positive("longest", longest)
    check_positive("hidden", hidden)
    lengths = longest - 1

    def outputs_of(params, support: Batch) -> int:
        return jax.eval_shape(model.apply, params, support["inputs"]).shape[-1]

    def init(key, episode: Episode):
        keys = jax.random.split(key, 3)
        params = model.init(keys[0], episode.support["inputs"])
        dtype = jax.tree.leaves(params)[0].dtype
        facts = _FACTS * longest + 2
        vocab_size = outputs_of(params, episode.support)
        # Nothing is added at first, so that what the model has learned before is where learning begins.
        vectors = {
            "table": jax.random.normal(keys[2], (lengths, buckets, width), dtype) / (lengths * width) ** 0.5,
            "read": jnp.zeros((width, vocab_size), dtype),
            "language": jnp.zeros((width, width), dtype),
        }
        return {
            "params": params,
            **(vectors if buckets and lengths else {}),
            "discount": jnp.zeros(longest, dtype),
            "gates": {
                # More tokens after a context are more to trust, more different ones are less (Witten & Bell 1991).
                "own": jnp.tile(jnp.array([0.3, -0.5, 0.0, 0.0, 0.0], dtype), (longest, 1)),
                "inner": jax.random.normal(keys[1], (facts, hidden), dtype) / facts**0.5,
                "inner_bias": jnp.zeros(hidden, dtype),
                "outer": jnp.zeros((hidden, longest), dtype),
                "outer_bias": jnp.zeros(longest, dtype),
            },
        }

    def begin(key, meta_params, support: Batch) -> Memory:
        del key
        targets = jnp.asarray(support["targets"])
        real = (targets != PADDING) & real_examples(support)[:, None]
        hashes, whole = _contexts(support["inputs"]["previous"], lengths)
        hashes, whole = hashes.reshape(longest, -1), whole.reshape(longest, -1)
        targets, real = targets.reshape(-1), real.reshape(-1)
        # An n-gram counts once for each token before it, and as often as it is seen where there is none to be read.
        counted = jnp.ones(hashes.shape, bool)
        repeated = jax.vmap(_repeated, (0, None))(_mixed(hashes[1:], targets[None]), real)
        counted = counted.at[:-1].set(~(repeated & whole[1:]))
        empty = jnp.zeros((hashes.shape[1], outputs_of(meta_params["params"], support)), meta_params["discount"].dtype)

        def counts_of(hashes, counted):
            order = jnp.argsort(hashes)
            ascending = hashes[order]
            rows = jnp.searchsorted(ascending, ascending)
            return ascending, empty.at[rows, targets[order]].add((real & counted)[order].astype(empty.dtype))

        scales = scales_of(meta_params, hashes, whole, real) if "table" in meta_params else None
        return Memory(*jax.vmap(counts_of)(hashes, counted), scales)

    def predict(meta_params, state: Memory, inputs):
        if "previous" not in inputs:
            assert model.generate is not None

            def mixed(logits, recent):
                hashes, whole = _contexts(recent, lengths)
                return remembering(meta_params, state, logits, hashes[..., -1], whole[..., -1])

            # The empty context has a last token too: a place to be asked for.
            return model.generate(meta_params["params"], inputs, Mixing(max(lengths, 1), mixed))
        logits = model.apply(meta_params["params"], inputs)
        return remembering(meta_params, state, logits, *_contexts(inputs["previous"], lengths))

    def remembering(meta_params, memory: Memory, logits, hashes, known):
        """Returns log-probabilities `[..., V]` of logits, given the contexts before each and which are whole."""
        if memory.scales is not None:
            vectors = vectors_of(meta_params, hashes, known)
            logits = logits + (vectors * memory.scales.reshape((1,) * (vectors.ndim - 1) + (-1,))) @ meta_params["read"]
        prior = jax.nn.log_softmax(logits.astype(sum_dtype(logits.dtype)))
        counts = jax.vmap(_found)(memory.contexts, memory.counts, hashes, known)  # [K, ..., V]
        facts = _facts(counts)
        discounts = jax.nn.sigmoid(meta_params["discount"]).reshape((longest,) + (1,) * (counts.ndim - 2))
        totals = facts.total - discounts * facts.different
        seen = totals > 0
        gates = _gates(meta_params["gates"], facts, prior) * seen.astype(prior.dtype)
        # What a length adds in the end: its own gate, and what all longer ones leave.
        left = jnp.cumprod((1 - gates)[::-1], axis=0)[::-1]
        shares = gates * jnp.concatenate([left[1:], jnp.ones_like(left[:1])]) / jnp.where(seen, totals, 1)
        probabilities = left[0][..., None] * jnp.exp(prior)
        for share, count, discount in zip(shares, counts, discounts, strict=True):
            probabilities += share[..., None] * (count - discount[..., None] * jnp.minimum(count, 1))
        return jnp.log(probabilities + _TINY)

    def vectors_of(meta_params, hashes, known):
        """Returns what the train languages say of contexts `[K, ...]`, `[..., D]`."""
        mixed = jax.lax.bitcast_convert_type(_mixed(hashes[1:], jnp.zeros_like(hashes[1:])), jnp.uint32)
        rows = (mixed % jnp.uint32(buckets)).astype(jnp.int32)
        found = jax.vmap(lambda table, rows: table[rows])(meta_params["table"], rows)
        return jnp.tanh(jnp.sum(found * known[1:, ..., None].astype(found.dtype), axis=0))

    def scales_of(meta_params, hashes, known, real):
        """Returns what the mean of the contexts of a support `[K, P]` says of its language, `[D]`."""
        vectors = vectors_of(meta_params, hashes, known) * real[:, None].astype(meta_params["table"].dtype)
        mean = jnp.sum(vectors, axis=0) / jnp.maximum(jnp.sum(real), 1).astype(vectors.dtype)
        return 2 * jax.nn.sigmoid(mean @ meta_params["language"])

    return closed_form(objective, init, begin, predict)


def _contexts(previous: jax.Array, longest: int) -> tuple[jax.Array, jax.Array]:
    """Returns hashes of the contexts that end at each token `[..., M]`, and which of them are whole, `[K, ..., M]`.

    The first is empty, the last has `longest` tokens.
    """
    tokens = jnp.asarray(previous)
    hashed = jnp.zeros(tokens.shape, jnp.uint32)
    hashes, whole = [hashed], [jnp.ones(tokens.shape, bool)]
    for back in range(longest):
        before = [(0, 0)] * (tokens.ndim - 1) + [(min(back, tokens.shape[-1]), 0)]
        earlier = jnp.pad(tokens[..., : max(tokens.shape[-1] - back, 0)], before, constant_values=PADDING)
        hashed = (hashed ^ (hashed >> jnp.uint32(15))) * jnp.uint32(_BASE) + earlier.astype(jnp.uint32) + jnp.uint32(1)
        hashes.append(hashed)
        whole.append(earlier != PADDING)
    return jax.lax.bitcast_convert_type(jnp.stack(hashes), jnp.int32), jnp.stack(whole)


def _mixed(hashes: jax.Array, tokens: jax.Array) -> jax.Array:
    """Returns hashes of contexts with a token after each, low bits and all."""
    number = jax.lax.bitcast_convert_type(hashes, jnp.uint32) * jnp.uint32(_BASE) + tokens.astype(jnp.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # the end of MurmurHash3 (Appleby 2011)
        number = (number ^ (number >> jnp.uint32(shift))) * jnp.uint32(factor)
    return jax.lax.bitcast_convert_type(number ^ (number >> jnp.uint32(16)), jnp.int32)


def _repeated(hashes: jax.Array, real: jax.Array) -> jax.Array:
    """Returns which of some hashes `[P]` are those of a real place before, in an order of their own."""
    order = jnp.lexsort((~real, hashes))
    ascending = hashes[order]
    same = jnp.concatenate([jnp.zeros(1, bool), ascending[1:] == ascending[:-1]])
    return jnp.zeros_like(real).at[order].set(same)


def _found(contexts: jax.Array, counts: jax.Array, hashes: jax.Array, known: jax.Array) -> jax.Array:
    """Returns the counts after contexts of one length, `[..., V]`: none where a context is new or not whole."""
    row = jnp.minimum(jnp.searchsorted(contexts, hashes), contexts.shape[0] - 1)
    hit = known & (contexts[row] == hashes)
    return jnp.where(hit[..., None], counts[row], jnp.zeros((), counts.dtype))


class _Facts(NamedTuple):
    """What counts look like."""

    total: jax.Array  # [K, ...]
    different: jax.Array  # tokens that were counted
    single: jax.Array  # those that were counted once
    largest: jax.Array


def _facts(counts: jax.Array) -> _Facts:
    """Returns what counts `[K, ..., V]` look like."""
    different, single = (jnp.sum(which.astype(counts.dtype), axis=-1) for which in (counts > 0, counts == 1))
    return _Facts(jnp.sum(counts, axis=-1), different, single, jnp.max(counts, axis=-1))


def _gates(weights: ArrayTree, facts: _Facts, prior: jax.Array) -> jax.Array:
    """Returns how far to trust the counts of each length, `[K, ...]`."""
    total, different, single, largest = facts
    share = largest / jnp.maximum(total, 1)
    own = jnp.stack(
        [jnp.log(total + _RARE), jnp.log1p(different), jnp.log1p(single), share, (total > 0).astype(total.dtype)], -1
    )
    sure = jnp.stack([jnp.max(prior, axis=-1), jnp.sum(jnp.exp(prior) * prior, axis=-1)], axis=-1)
    every = jnp.moveaxis(own, 0, -2).reshape(*sure.shape[:-1], -1)
    inner = jnp.tanh(_dense(jnp.concatenate([every, sure], axis=-1), weights["inner"], weights["inner_bias"]))
    together = jnp.moveaxis(_dense(inner, weights["outer"], weights["outer_bias"]), -1, 0)
    return jax.nn.sigmoid(jnp.einsum("k...f,kf->k...", own, weights["own"]) + together)


def _dense(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    return x @ kernel + bias.reshape((1,) * (x.ndim - 1) + (-1,))
