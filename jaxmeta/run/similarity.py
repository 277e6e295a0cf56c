"""How similar languages are: by their letters and n-grams, by their task gradients, by what adaptation changes.

Each is a matrix of languages, of ones on its diagonal. `similarity.json` of a run holds them:

    languages  N names, those that are judged first
    roles      N times "test" or "train"
    scripts    N names of scripts; none where there are no texts
    measures   "texts", "scripts", "gradients", "displacements", "distances": each with "says", a sentence; "of", what
               its numbers are; "matrix" [N, N]; and but for texts and scripts "method", and "norms" [N], the lengths of
               the vectors that are compared
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxmeta.core.adapt import adapt
from jaxmeta.core.trees import leading_size
from jaxmeta.core.types import ArrayTree, Batch, MetaParams, TaskState
from jaxmeta.run.plan import META, Experiment, Method, Rate

SIMILARITY = "similarity.json"  # the file of a run folder
TEXTS, SCRIPTS = "texts", "scripts"
GRADIENTS, DISPLACEMENTS, DISTANCES = "gradients", "displacements", "distances"
LONGEST_NGRAM = 4
_PER_CALL = 4  # languages in one call
_AT_ONCE = 2**28  # bytes of vectors that are held together, twice


def text_similarity(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """Returns cosines `[N, N]` of the profiles of N languages.

    A profile has `1 + log(count)` for each n-gram of up to four characters of a word with the spaces around it, in
    lower case. A language without a text is like none.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    options: dict[str, Any] = {"analyzer": "char_wb", "ngram_range": (1, LONGEST_NGRAM), "dtype": np.float32}
    profiles: Any = TfidfVectorizer(**options, sublinear_tf=True, use_idf=False)
    found = profiles.fit_transform(["\n".join(of_language) for of_language in texts])
    return (found @ found.T).toarray()


def gram_matrix(vectors: Callable[[np.ndarray], np.ndarray], count: int, size: int, *, limit: int = _AT_ONCE):
    """Returns the products `[count, count]` of vectors that need not fit in memory together.

    Args:
      vectors: returns those of some numbers, `[n, size]`; is asked again for what has been forgotten.
      count: how many there are.
      size: numbers of a vector.
      limit: bytes of vectors that may be held, twice.
    """
    per_block = max(1, limit // (4 * size))
    blocks = np.array_split(np.arange(count), math.ceil(count / per_block))
    gram = np.zeros((count, count))
    for number, rows in enumerate(blocks):
        first = vectors(rows)
        gram[np.ix_(rows, rows)] = first @ first.T
        for columns in blocks[:number]:
            part = first @ vectors(columns).T
            gram[np.ix_(rows, columns)], gram[np.ix_(columns, rows)] = part, part.T
    return gram


def cosines(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns cosines `[N, N]` and lengths `[N]` of vectors by their products; zero where there is no finite length.

    So a language in which adaptation diverges is like none, and the others can be drawn.
    """
    norms = np.sqrt(np.maximum(np.diag(gram), 0))
    norms = np.where(np.isfinite(norms), norms, 0.0)
    lengths = np.outer(norms, norms)
    return np.divide(gram, lengths, out=np.zeros_like(gram), where=lengths > 0), norms


def overlaps(shares: np.ndarray) -> np.ndarray:
    """Returns how much of each two distributions `[N, K]` is the same, `[N, N]`: the sum of the smaller shares."""
    return np.minimum(shares[:, None], shares[None]).sum(axis=-1)


def closeness(cosine: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Returns how close vectors end, `[N, N]`: one minus their distance as a share of the sum of their lengths.

    One where two are the same, zero where they point away from each other, or where one has no finite length.
    """
    first, second = norms[:, None], norms[None]
    distances = np.sqrt(np.maximum(first**2 + second**2 - 2 * first * second * cosine, 0))
    known = (first > 0) & (second > 0)
    found = 1 - np.divide(distances, first + second, out=np.ones_like(distances), where=known)
    np.fill_diagonal(found, 1.0)
    return found


def gradient_method(experiment: Experiment) -> Method | None:
    """Returns the main method if it is trained and takes inner steps, else the first that does, meta-learners first."""
    known = [m for m in experiment.methods if m.phase is not None and max(m.steps) > 0]
    order = {experiment.main: 0}
    return min(known, key=lambda m: (order.get(m.name, 1), m.kind != META), default=None)


def task_gradients(
    method: Method, meta_params: MetaParams, supports: Batch, *, learning_rate: Rate
) -> tuple[np.ndarray, np.ndarray]:
    """Returns cosines `[N, N]` and lengths `[N]` of the gradients of N supports where adaptation starts.

    Args:
      method: whose loss it is.
      meta_params: what it starts from.
      supports: leaves `[N, S, ...]`.
      learning_rate: of its inner optimizer, which takes no step.
    """
    algorithm, key = method.build(learning_rate), jax.random.key(0)

    def loss(params, meta_params, support):
        whole = meta_params | {"params": params} if _has_params(meta_params) else params
        return algorithm.loss(key, whole, algorithm.begin(key, whole, support), support)[0]

    def vector(meta_params, support):
        params = meta_params["params"] if _has_params(meta_params) else meta_params
        return ravel_pytree(jax.grad(loss)(params, meta_params, support))[0]

    return _compared(vector, meta_params, supports)


def displacements(
    method: Method, meta_params: MetaParams, supports: Batch, *, learning_rate: Rate, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns cosines `[N, N]` and lengths `[N]` of what `steps` inner steps change, see `task_gradients`."""
    algorithm, key = method.build(learning_rate), jax.random.key(0)

    def vector(meta_params, support):
        both, _ = adapt(algorithm, key, meta_params, support, num_steps=steps, trace=(0, steps))
        return ravel_pytree(jax.tree.map(lambda leaf: leaf[1] - leaf[0], _adapted(both)))[0]

    return _compared(vector, meta_params, supports)


def nearest_sources(similarity: Mapping[str, Any], *, at_most: int = 3) -> dict[str, list[tuple[str, float]]]:
    """Returns for each judged language its nearest source languages, with the cosine; best first.

    They are compared by their texts, and where there are none by what adaptation changes, if that is known.
    """
    measure = next((name for name in (TEXTS, DISPLACEMENTS) if name in similarity["measures"]), None)
    if measure is None:
        return {}
    names, matrix = similarity["languages"], np.asarray(similarity["measures"][measure]["matrix"])
    roles = np.array(similarity["roles"])
    sources = np.flatnonzero(roles == "train")
    found = {}
    for place in np.flatnonzero(roles == "test"):
        order = sources[np.argsort(-matrix[place, sources], kind="stable")][:at_most]
        found[names[place]] = [(names[source], float(matrix[place, source])) for source in order]
    return found


def rounded(values: np.ndarray) -> list:
    """Returns numbers as a file of them has them."""
    return np.round(np.asarray(values, np.float64), 4).tolist()


def _adapted(state: TaskState) -> ArrayTree:
    """Returns what adapts, without what an optimizer or a learned rule remembers and how often it stepped."""
    fields = state._asdict() if hasattr(state, "_asdict") else {"state": state}
    for whole in ("params", "memory"):  # of a child that is trained; of a policy that remembers
        if whole in fields:
            return fields[whole]
    return {name: value for name, value in fields.items() if name not in ("opt_state", "step")}


def _has_params(meta_params: MetaParams) -> bool:
    return isinstance(meta_params, Mapping) and "params" in meta_params


def _compared(vector: Callable, meta_params: MetaParams, supports: Batch) -> tuple[np.ndarray, np.ndarray]:
    count = leading_size(supports)

    @jax.jit
    def run(meta_params, some: Batch):
        return jax.lax.map(lambda support: vector(meta_params, support), some)

    def vectors(rows: np.ndarray) -> np.ndarray:
        found = []
        for first in range(0, len(rows), _PER_CALL):
            # Calls of one size share a compilation; what is too much is cut.
            chosen = np.resize(rows[first : first + _PER_CALL], _PER_CALL)
            part = run(meta_params, jax.tree.map(lambda leaf, chosen=chosen: jnp.asarray(leaf[chosen]), supports))
            found.append(jax.device_get(part)[: len(rows) - first])
        return np.concatenate(found)

    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), supports)
    size = jax.eval_shape(vector, meta_params, one).size
    return cosines(gram_matrix(vectors, count, size))
