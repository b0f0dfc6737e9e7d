"""Trees of weights as one vector of a common real format, for methods that need a matrix."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree


def work_dtype(params: PyTree, owner: str) -> jnp.dtype:
    """The common format of all leaves, at least float32: linear algebra knows no bfloat16.

    **Raises:** `TypeError` naming the optimiser `owner` if a leaf is not a real floating array.
    """
    leaves = jax.tree.leaves(params)
    for leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"{owner}: expected real floating parameters, got a leaf of dtype "
                f"{jnp.result_type(leaf)}"
            )
    return jnp.result_type(jnp.float32, *(jnp.result_type(leaf) for leaf in leaves))


def at_least_float32(leaf: Any) -> jnp.dtype:
    """The format in which statistics of a leaf are kept: its own, or float32 for a shorter one."""
    return jnp.promote_types(jnp.result_type(leaf), jnp.float32)


def ravel(tree: PyTree, dtype: jnp.dtype) -> Float[Array, " d"]:
    """All leaves one after the other."""
    return ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, dtype), tree))[0].astype(dtype)


def unraveller(params: PyTree, dtype: jnp.dtype) -> Callable[[Float[Array, " d"]], PyTree]:
    """The inverse of `ravel`: a tree like `params`, each leaf in its own format."""
    unravel = ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, dtype), params))[1]

    def to_tree(x: Float[Array, " d"]) -> PyTree:
        return jax.tree.map(lambda new, old: new.astype(jnp.result_type(old)), unravel(x), params)

    return to_tree


def flat_extra(
    extra: Mapping[str, Any], unravel: Callable[[Float[Array, " d"]], PyTree], dtype: jnp.dtype
) -> dict[str, Any]:
    """The extra arguments of an optimiser as functions of the vector instead of the tree."""
    found = {name: value for name, value in extra.items() if value is not None}
    flat: dict[str, Any] = {}
    if "value_fn" in found:
        flat["value_fn"] = lambda x: found["value_fn"](unravel(x))
    if "hvp_fn" in found:
        flat["hvp_fn"] = lambda x, v: ravel(found["hvp_fn"](unravel(x), unravel(v)), dtype)
    if "model_fn" in found:
        flat["model_fn"] = lambda x: found["model_fn"](unravel(x))
    if "outer_fn" in found:
        flat["outer_fn"] = found["outer_fn"]
    if "loss_grads" in found:
        flat["loss_grads"] = jax.vmap(lambda g: ravel(g, dtype))(found["loss_grads"])
    return flat
