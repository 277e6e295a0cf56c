"""Searches for what a model would write: greedy, beam search, and sampling from the nucleus.

A search asks for one token after another and knows nothing of the model but `Steps`. All are pure, and run under `jit`
and `vmap`, so that a task's adapted parameters decode like any others.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_not_negative, check_positive
from jaxmeta.core.products import folded
from jaxmeta.core.trees import sum_dtype
from jaxmeta.core.types import PADDING, ArrayTree, Mixing
from jaxmeta.models.decoder import empty_cache


class Steps(NamedTuple):
    """A model that is asked for one token after another. N sentences have B continuations each, of V tokens."""

    logits: jax.Array  # [N, V], of the first token
    cache: Callable[[int], ArrayTree]  # B -> what the continuations keep, leaves [N, B, ...]
    step: Callable[[ArrayTree, jax.Array, jax.Array], tuple[jax.Array, ArrayTree]]
    # (cache, token number `place` of each continuation [N, B], place []) -> logits of the next token [N, B, V], cache
    length: int  # how many tokens at most
    eos: int  # the token that ends a sentence


# -> tokens [N, length] int32, 0 from the end of the sentence on; the end itself is not among them.
Search = Callable[[Steps], jax.Array]


def generation(
    module: Any, search: Search, *, bos: int, eos: int, max_new_tokens: int | None = None
) -> Callable[..., jax.Array]:
    """Returns the field `generate` of the `Model` of a Linen module: `(params, inputs, mixing=None) -> tokens [N, M]`.

    Neither padding nor `bos` is ever written. With a `Mixing`, the tokens of `inputs["previous"]` are those before.

    Args:
      module: has `max_length`, and the methods `begin` `(inputs) -> (logits [N, V], context)` and `step` `(context,
        cache, tokens [N, B], place) -> (logits [N, B, V], cache)`.
      search: how to choose tokens.
      bos: the token that begins a sentence.
      eos: the token that ends one.
      max_new_tokens: M; without it, as many as `max_length` leaves room for.
    """
    if max_new_tokens is not None:
        check_positive("max_new_tokens", max_new_tokens)

    def generate(params: ArrayTree, inputs: ArrayTree, mixing: Mixing | None = None) -> jax.Array:
        def call(method: str, params: ArrayTree, *args: Any) -> Any:
            return module.apply({"params": params}, *args, method=method)

        logits, context = folded(lambda params, inputs: call("begin", params, inputs))(params, inputs)
        # The last token is not read again, so it needs no place.
        room = module.max_length + 1 - context.width_of_prompt
        length = room if max_new_tokens is None else max_new_tokens
        if not 0 < length <= room:
            raise ValueError(
                f"`max_new_tokens` must be at most {room}, what `max_length` = {module.max_length} leaves after a "
                f"prompt of {context.width_of_prompt} tokens, got {max_new_tokens}"
            )

        def step(cache, tokens, place):
            return folded(lambda *args: call("step", params, context, *args))(cache, tokens, place)

        steps = Steps(logits, partial(empty_cache, context, size=length), step, length, eos)
        if mixing is not None:
            steps = _mixed(steps, mixing, inputs["previous"])
        return search(_written(steps, bos))

    return generate


def _mixed(steps: Steps, mixing: Mixing, prompts: jax.Array) -> Steps:
    """Lets something else have a say in every token, given those before it: of the prompts `[N, P]`, then its own."""
    before = _last(prompts, mixing.read)[:, None]

    # The last tokens of each continuation are kept beside its cache, so that a search carries them along.
    def cache(beams):
        return steps.cache(beams), jnp.repeat(before, beams, axis=1)

    def step(kept, tokens, place):
        cache, before = kept
        before = jnp.concatenate([before, tokens[..., None]], axis=-1)[..., 1:]
        logits, cache = steps.step(cache, tokens, place)
        return mixing.mixed(logits, before), (cache, before)

    return steps._replace(logits=mixing.mixed(steps.logits[:, None], before)[:, 0], cache=cache, step=step)


def _last(tokens: jax.Array, size: int) -> jax.Array:
    """Returns the last `size` tokens of `[N, P]` before the padding, `[N, size]`, 0 where there are fewer."""
    padded = jnp.pad(tokens.astype(jnp.int32), ((0, 0), (size, 0)))
    lengths = jnp.sum(tokens != PADDING, axis=1, dtype=jnp.int32)
    return jax.vmap(lambda row, length: jax.lax.dynamic_slice_in_dim(row, length, size))(padded, lengths)


def greedy(steps: Steps) -> jax.Array:
    """Takes the likeliest token at every step."""
    return _one_by_one(steps, lambda logits, place: jnp.argmax(logits, axis=-1).astype(jnp.int32))


def sampling(key: jax.Array, *, temperature: float = 1.0, top_p: float = 1.0) -> Search:
    """Returns a search that draws every token from the nucleus (Holtzman et al. 2020, arXiv 1904.09751).

    The n-th sentence has random numbers of its own, whatever stands beside it.

    Args:
      key: of the random numbers; build the search under `jit` to have it traced.
      temperature: what logits are divided by; near zero it is greedy.
      top_p: the probability of the nucleus, which is the smallest set of likeliest tokens that has it; 1 for all.

    Raises:
      ValueError: if `temperature` is not positive, or `top_p` is not in (0, 1].
    """
    check_positive("temperature", temperature)
    if not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must be above 0 and at most 1, got {top_p}")

    def choose(logits: jax.Array, place: jax.Array) -> jax.Array:
        examples = jnp.arange(logits.shape[0], dtype=jnp.uint32)
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.fold_in(key, n), place))(examples)
        logits = logits / temperature
        if top_p == 1:
            return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
        logits, tokens = jax.lax.top_k(logits, logits.shape[-1])
        probabilities = jax.nn.softmax(logits, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        # The likeliest stays whatever rounding makes of nothing.
        inside = (before < top_p).at[:, 0].set(True)
        ranks = jax.vmap(jax.random.categorical)(keys, jnp.where(inside, logits, -jnp.inf))
        return jnp.take_along_axis(tokens, ranks[:, None], axis=1)[:, 0].astype(jnp.int32)

    return lambda steps: _one_by_one(steps, choose)


def beam_search(size: int, *, length_penalty: float = 0.6) -> Search:
    """Returns a search that keeps the best continuations of each sentence.

    A continuation of log-probability p and length l (its end included) is worth `p / ((5 + l) / 6) ** length_penalty`
    (Wu et al. 2016, arXiv 1609.08144). One that has ended stays as it is, and in the running, until `size` better ones
    are found. The search stops where no sentence's best can change any more: when all of its continuations have ended,
    or when none of those that go on can become worth more than one that ended. `size` 1 is `greedy`.

    Args:
      size: how many continuations to keep.
      length_penalty: 0 takes the likeliest, more takes longer ones.

    Raises:
      ValueError: if `size` is not positive, or `length_penalty` is negative.
    """
    check_positive("size", size)
    check_not_negative("length_penalty", length_penalty)

    def penalty(lengths: jax.Array, dtype) -> jax.Array:
        return ((5 + lengths.astype(dtype)) / 6) ** length_penalty

    def search(steps: Steps) -> jax.Array:
        examples, vocabulary = steps.logits.shape
        dtype = steps.logits.dtype
        never = jnp.asarray(-jnp.inf, dtype)

        def extended(beams: "_Beams", logits: jax.Array, place: jax.Array) -> "_Beams":
            """Takes the best of all continuations by one token, given its logits `[N, B, V]`."""
            # What has ended goes on with padding alone, at no cost.
            after_end = jnp.where(jnp.arange(vocabulary) == PADDING, jnp.zeros((), dtype), never)
            gain = jnp.where(beams.ended[..., None], after_end[None, None], jax.nn.log_softmax(logits, axis=-1))
            total = (beams.scores[..., None] + gain).reshape(examples, size * vocabulary)
            lengths = jnp.where(beams.ended, beams.lengths, place + 1)
            worth = total / jnp.repeat(penalty(lengths, dtype), vocabulary, axis=1)
            _, best = jax.lax.top_k(worth, size)
            parents, token = best // vocabulary, (best % vocabulary).astype(jnp.int32)
            kept = _reordered(beams._replace(lengths=lengths), parents)
            over = token == steps.eos
            tokens = _put(kept.tokens, jnp.where(over, PADDING, token), place)
            scores = jnp.take_along_axis(total, best, axis=1)
            return kept._replace(tokens=tokens, last=token, scores=scores, ended=kept.ended | over)

        def worths(beams: "_Beams") -> jax.Array:
            return beams.scores / penalty(beams.lengths, dtype)

        def settled(beams: "_Beams") -> jax.Array:
            """Whether the best of each sentence has ended and cannot be beaten, `[N]`: log-probabilities only fall."""
            best_ended = jnp.max(jnp.where(beams.ended, worths(beams), never), axis=1)
            longest = penalty(jnp.full((), steps.length, jnp.int32), dtype)
            best_hope = jnp.max(jnp.where(beams.ended, never, beams.scores), axis=1) / longest
            return best_ended >= best_hope

        def goes_on(carry):
            place, beams = carry
            return (place < steps.length) & ~jnp.all(settled(beams))

        def body(carry):
            place, beams = carry
            logits, cache = steps.step(beams.cache, beams.last, place - 1)
            return place + 1, extended(beams._replace(cache=cache), logits, place)

        # One continuation at the beginning, and places for others.
        first = jnp.where(jnp.arange(size) == 0, jnp.zeros((), dtype), never)
        beams = _Beams(
            tokens=jnp.zeros((examples, size, steps.length), jnp.int32),
            last=jnp.zeros((examples, size), jnp.int32),
            scores=jnp.broadcast_to(first, (examples, size)),
            lengths=jnp.zeros((examples, size), jnp.int32),
            ended=jnp.zeros((examples, size), bool),
            cache=steps.cache(size),
        )
        logits = jnp.broadcast_to(steps.logits[:, None], (examples, size, vocabulary))
        start = jnp.ones((), jnp.int32), extended(beams, logits, jnp.zeros((), jnp.int32))
        _, beams = jax.lax.while_loop(goes_on, body, start)
        best = jnp.argmax(worths(beams), axis=1)
        return jnp.take_along_axis(beams.tokens, best[:, None, None], axis=1)[:, 0]

    return search


class _Beams(NamedTuple):
    """B continuations of each of N sentences."""

    tokens: jax.Array  # [N, B, T] int32
    last: jax.Array  # [N, B] int32, the token that was taken last
    scores: jax.Array  # [N, B], log-probabilities
    lengths: jax.Array  # [N, B] int32, ends included
    ended: jax.Array  # [N, B] bool
    cache: ArrayTree  # leaves [N, B, ...]


def _reordered(beams: _Beams, parents: jax.Array) -> _Beams:
    """Returns the continuations that go on from `parents [N, B]`."""
    if parents.shape[1] == 1:
        return beams
    return jax.tree.map(lambda leaf: jax.vmap(lambda rows, chosen: rows[chosen])(leaf, parents), beams)


def _one_by_one(steps: Steps, choose: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """Writes the tokens that `choose` takes, `(logits [N, V], place) -> [N]`, until every sentence has ended."""
    examples = steps.logits.shape[0]

    def written(tokens, ended, logits, place):
        token = choose(logits, place)
        ended = ended | (token == steps.eos)
        token = jnp.where(ended, PADDING, token)
        return _put(tokens, token, place), ended, token

    def goes_on(carry):
        place, _, ended, _, _ = carry
        return (place < steps.length) & ~jnp.all(ended)

    def body(carry):
        place, tokens, ended, token, cache = carry
        logits, cache = steps.step(cache, token[:, None], place - 1)
        return place + 1, *written(tokens, ended, logits[:, 0], place), cache

    tokens = jnp.zeros((examples, steps.length), jnp.int32)
    start = written(tokens, jnp.zeros(examples, bool), steps.logits, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(goes_on, body, (jnp.ones((), jnp.int32), *start, steps.cache(1)))[1]


def _put(tokens: jax.Array, token: jax.Array, place: jax.Array) -> jax.Array:
    """Writes `token [...]` in column `place` of `tokens [..., T]`."""
    return jax.lax.dynamic_update_slice_in_dim(tokens, token[..., None], place, axis=tokens.ndim - 1)


def _written(steps: Steps, bos: int) -> Steps:
    """Returns steps, in float32 at least, in which padding and `bos` are out of the question."""

    def without(logits):
        return logits.astype(sum_dtype(logits.dtype)).at[..., jnp.array([PADDING, bos])].set(-jnp.inf)

    def step(cache, tokens, place):
        logits, cache = steps.step(cache, tokens, place)
        return without(logits), cache

    return steps._replace(logits=without(steps.logits), step=step)
