"""Systems of a symmetric matrix that is known by its products with trees."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import ArrayTree

Product = Callable[[ArrayTree], ArrayTree]
# (product of a symmetric matrix with a tree, right side) -> about the matrix' inverse times the right side
Solve = Callable[[Product, ArrayTree], ArrayTree]


def conjugate_gradient(iterations: int = 5, tolerance: float = 1e-6) -> Solve:
    """Solves by conjugate gradients: exact after as many iterations as there are numbers, near it after a few.

    Unlike JAX's own, it is a loop of known length, whose derivative is that of the iterations done and not of an exact
    solution.

    Args:
      iterations: as many products; those after the tolerance is met change nothing.
      tolerance: of the residual, as a part of the right side, below which it stays.

    Raises:
      ValueError: if `iterations` is not positive.
    """
    check_positive("iterations", iterations)

    def solve(product, right):
        size = optax.tree.norm(right, squared=True)
        enough = tolerance**2 * size

        def iterate(carry, _):
            found, residual, direction, left = carry
            along = product(direction)
            going = left > enough
            curvature = optax.tree.vdot(direction, along)
            length = jnp.where(going, left / jnp.where(going, curvature, 1), 0)
            found = optax.tree.add_scale(found, length, direction)
            residual = optax.tree.add_scale(residual, -length, along)
            now = optax.tree.norm(residual, squared=True)
            direction = optax.tree.add_scale(residual, jnp.where(going, now / jnp.where(going, left, 1), 0), direction)
            return (found, residual, direction, jnp.where(going, now, left)), None

        first = (optax.tree.zeros_like(right), right, right, size)
        return jax.lax.scan(iterate, first, length=iterations)[0][0]

    return solve


def neumann(rate: float, iterations: int = 20) -> Solve:
    """Solves by the first terms of `H⁻¹ = rate (1 + (1 - rate H) + (1 - rate H)² + ...)` (Lorraine et al. 2020, arXiv
    1911.02590).

    Cut off after n terms it is what differentiating n more gradient steps at the minimum gives.

    Args:
      rate: below two divided by the largest curvature, as the rate of gradient steps that converge is.
      iterations: terms after the first.

    Raises:
      ValueError: if `rate` or `iterations` is not positive.
    """
    check_positive("rate", rate)
    check_positive("iterations", iterations)

    def solve(product, right):
        def add(found, _):
            term, total = found
            term = jax.tree.map(lambda old, step: old - rate * step, term, product(term))
            return (term, jax.tree.map(jnp.add, total, term)), None

        (_, total), _ = jax.lax.scan(add, (right, right), length=iterations)
        return jax.tree.map(lambda leaf: rate * leaf, total)

    return solve
