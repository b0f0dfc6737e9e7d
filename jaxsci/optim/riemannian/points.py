"""Which leaf holds points of which manifold, and how a function of one point acts on a leaf."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Int, PyTree

from jaxsci.manifolds import AbstractManifold, Euclidean, Power, Product

Retraction = Literal["exp", "retract"]


def manifolds_of(name: str, manifolds: PyTree, params: PyTree) -> list[AbstractManifold]:
    """The manifold of each leaf of `params`: a leaf's last axes are a point, the others a batch.

    Products are taken apart into their factors, powers into their copies.

    **Arguments:** `manifolds`: a prefix of `params`; `None` is `Euclidean()` for every number.

    **Raises:** `ValueError` if it is no prefix or a leaf's last axes are no point, `TypeError` for
    anything else than manifolds in it and for leaves that are not real.
    """
    if not jax.tree.leaves(params):  # also the stand-in for params in optax.tree.map_params
        return []
    found: list[AbstractManifold] = []
    try:
        jax.tree.map(
            lambda manifold, part: found.extend(_spread(name, manifold, part)),
            manifolds,
            params,
            is_leaf=lambda node: node is None or isinstance(node, AbstractManifold),
        )
    except ValueError as error:
        if str(error).startswith(name):
            raise
        raise ValueError(f"{name}: manifolds is no prefix of the tree of params: {error}") from None
    return found


def _spread(name: str, manifold: Any, part: PyTree) -> list[AbstractManifold]:
    leaves = jax.tree.leaves(part)
    if not leaves:
        return []
    if manifold is None:
        manifold = Euclidean()
    if not isinstance(manifold, AbstractManifold):
        raise TypeError(f"{name}: manifolds has a leaf {manifold!r}, expected a manifold or None")
    if isinstance(manifold, Power):
        return _spread(name, manifold.base, part)
    if isinstance(manifold, Product):
        if not isinstance(part, tuple | list) or len(part) != len(manifold.factors):
            raise ValueError(f"{name}: {manifold} needs a tuple of {len(manifold.factors)} leaves")
        pairs = zip(manifold.factors, part, strict=True)
        return [m for factor, child in pairs for m in _spread(name, factor, child)]
    shape = manifold.ambient_shape
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"{name}: a leaf has dtype {leaf.dtype}, expected a real floating one")
        if leaf.shape[leaf.ndim - len(shape) :] != shape or leaf.ndim < len(shape):
            raise ValueError(
                f"{name}: a leaf has shape {leaf.shape}, expected points of {manifold}: shape "
                f"{('...', *shape)}"
            )
    return [manifold] * len(leaves)


def batch_shape(manifold: AbstractManifold, leaf: Array) -> tuple[int, ...]:
    """How the points of a leaf are arranged."""
    return leaf.shape[: leaf.ndim - len(manifold.ambient_shape)]


def over_points(manifold: AbstractManifold, leaf: Array, function: Callable) -> Callable:
    """A function of one point (and of what belongs to it) for all points of a leaf."""
    for _ in batch_shape(manifold, leaf):
        function = jax.vmap(function)
    return function


def start_count(name: str, manifolds: list[AbstractManifold], params: PyTree) -> Int[Array, ""]:
    """The step 0, after a check that the points are on their manifolds.

    **Raises:** `ValueError` if they are not; under `jax.jit` by `equinox.error_if`.
    """
    count = jnp.zeros((), jnp.int32)
    for manifold, leaf in zip(manifolds, jax.tree.leaves(params), strict=True):
        if isinstance(manifold, Euclidean):
            continue
        good = jnp.all(over_points(manifold, leaf, manifold.is_point)(leaf))
        message = f"{name}: a leaf of shape {leaf.shape} has points off {manifold}"
        if isinstance(good, Tracer):
            count = eqx.error_if(count, ~good, message)
        elif not good:
            worst = jnp.max(over_points(manifold, leaf, manifold.violation)(leaf))
            raise ValueError(f"{message}, by {float(worst):.3g}; project them first")
    return count


def mover(manifold: AbstractManifold, retraction: Retraction) -> Callable[[Array, Array], Array]:
    """The function (x, v) ↦ exp_x(v), or its cheaper stand-in."""
    return manifold.exp if retraction == "exp" else manifold.retract


def check_retraction(retraction: Any) -> None:
    """Raises `ValueError` for an unknown retraction."""
    if retraction not in ("exp", "retract"):
        raise ValueError(f"retraction = {retraction!r}: expected 'exp' or 'retract'")


def working(leaf: Array) -> Array:
    """The leaf in float32 at least: half precision has too few digits for curved formulas."""
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def rate_at(learning_rate: optax.ScalarOrSchedule, count: Array) -> Any:
    """The learning rate of the step after `count` others."""
    return learning_rate(count) if callable(learning_rate) else learning_rate


def apply_riemannian_updates(
    params: PyTree, updates: PyTree, manifolds: PyTree = None, retraction: Retraction = "exp"
) -> PyTree:
    """The points exp_x(u) for updates u that are tangent vectors.

    For optimisers made with `as_additive=False`; by default updates are differences, and
    `optax.apply_updates` adds them.

    **Arguments:** as those of the optimiser.

    **Returns:** the new params. **Raises:** as the optimiser.
    """
    check_retraction(retraction)
    kinds = manifolds_of("apply_riemannian_updates", manifolds, params)
    leaves, treedef = jax.tree.flatten(params)

    def move(manifold: AbstractManifold, x: Array, u: Array) -> Array:
        new = over_points(manifold, x, mover(manifold, retraction))(working(x), working(u))
        return new.astype(x.dtype)

    rows = zip(kinds, leaves, treedef.flatten_up_to(updates), strict=True)
    return jax.tree.unflatten(treedef, [move(*row) for row in rows])
