"""Which parameters adapt: predicates on their paths.

A predicate takes a path such as `"encoder/block_0/kernel"` and says whether the parameter under it adapts. Predicates
are plain functions: compose them with `lambda path: a(path) and not b(path)`.
"""

import re
from collections.abc import Callable

import jax

from jaxmeta.core.types import ArrayTree

Predicate = Callable[[str], bool]


def everything(path: str) -> bool:
    """The predicate of full adaptation (MAML)."""
    del path
    return True


def matching(*patterns: str) -> Predicate:
    """A predicate that holds where any regular expression is found in the path.

    Example: `matching("^head/")` adapts the last layer alone, which is ANIL (Raghu et al. 2020).
    """
    compiled = [re.compile(pattern) for pattern in patterns]
    return lambda path: any(pattern.search(path) for pattern in compiled)


def excluding(*patterns: str) -> Predicate:
    """A predicate that holds where no regular expression is found in the path.

    Example: `excluding("^head/")` adapts all but the last layer, which is BOIL (Oh et al. 2021).
    """
    found = matching(*patterns)
    return lambda path: not found(path)


def path_of(key_path: tuple) -> str:
    """Returns a jax key path as `"a/b/c"`, whatever mixture of dicts, sequences and attributes it crosses."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def partition(params: ArrayTree, predicate: Predicate) -> tuple[ArrayTree, ArrayTree]:
    """Splits `params` in two trees of the same structure: what adapts and what stays, None where the other has a leaf.

    Args:
      params: a tree of arrays.
      predicate: path to bool.

    Returns:
      `(selected, rest)`. A None is an empty subtree to jax, so both can be mapped, differentiated and optimised.

    Raises:
      ValueError: if nothing is selected; the message shows some of the paths there are.
    """
    chosen = jax.tree_util.tree_map_with_path(lambda path, _: bool(predicate(path_of(path))), params)
    if not any(jax.tree.leaves(chosen)):
        paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        raise ValueError(f"the selection matches no parameter; paths are such as {', '.join(paths[:8])}")
    selected = jax.tree.map(lambda leaf, take: leaf if take else None, params, chosen)
    rest = jax.tree.map(lambda leaf, take: None if take else leaf, params, chosen)
    return selected, rest


def merge(selected: ArrayTree, rest: ArrayTree) -> ArrayTree:
    """Undoes `partition`."""
    return jax.tree.map(lambda a, b: b if a is None else a, selected, rest, is_leaf=lambda leaf: leaf is None)


def unselected(tree: ArrayTree, selected: ArrayTree) -> ArrayTree:
    """Returns `tree` with None wherever `selected`, of the same structure, is not None."""
    return jax.tree.map(lambda a, b: b if a is None else None, selected, tree, is_leaf=lambda leaf: leaf is None)
