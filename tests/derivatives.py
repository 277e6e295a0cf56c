"""Whether losses have right derivatives, by finite differences."""

import jax
import numpy as np
from jax.flatten_util import ravel_pytree


def assert_derivatives(loss, params) -> None:
    """Compares the gradient of `loss(params)` and its product with a direction with differences, in float64."""
    flat, unravel = ravel_pytree(params)

    def of_flat(flat):
        return loss(unravel(flat))

    random = np.random.default_rng(2)
    flat, direction = flat + 0.1 * random.normal(size=flat.shape), random.normal(size=flat.shape)
    both = jax.jit(lambda flat: (of_flat(flat), *jax.jvp(jax.grad(of_flat), (flat,), (direction,))))
    _, gradient, product = both(flat)
    (above, gradient_above, _), (below, gradient_below, _) = (
        both(flat + 1e-6 * direction),
        both(flat - 1e-6 * direction),
    )
    np.testing.assert_allclose(gradient @ direction, (above - below) / 2e-6, rtol=1e-6)
    np.testing.assert_allclose(product, (gradient_above - gradient_below) / 2e-6, rtol=1e-4, atol=1e-5)
    assert np.abs(product).max() > 1e-2


def texts(seed: int, size: int, length: int) -> np.ndarray:
    """Returns random tokens `[size, length]` below 13, at least two in a row, which ends in padding."""
    random = np.random.default_rng(seed)
    tokens = random.integers(1, 13, (size, length), dtype=np.int32)
    return np.where(np.arange(length)[None] < random.integers(2, length + 1, (size, 1)), tokens, 0)
