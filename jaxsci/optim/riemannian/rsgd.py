"""Riemannian gradient descent, with momentum that is transported.

    m = μ τ + g,   x⁺ = exp_x(−lr m),   τ ← m, transported from x to x⁺      (g = grad f(x))
    Nesterov:  x⁺ = exp_x(−lr (g + μ m))

(Bonnabel, arXiv:1111.5280; for μ = 0.)
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from jaxsci.manifolds import AbstractManifold

from .points import (
    Retraction,
    check_retraction,
    manifolds_of,
    mover,
    over_points,
    rate_at,
    start_count,
    working,
)


class RiemannianSGDState(NamedTuple):
    """Steps, and the momentum τ, a tangent vector at each point (`None` without)."""

    count: Int[Array, ""]
    mu: PyTree


def riemannian_sgd(
    learning_rate: optax.ScalarOrSchedule,
    manifolds: PyTree = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    retraction: Retraction = "exp",
    as_additive: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent along geodesics.

    **Arguments:**

    - `learning_rate`, `manifolds`, `retraction`, `as_additive`: as for `riemannian_adam`.
    - `momentum`: μ; 0.9 is a good value, 0 is none. `nesterov`: take the gradient once more.

    **Returns:** an optax transformation whose updates are x⁺ − x.

    **Raises:** `ValueError` for arguments out of range, for `manifolds` that do not fit the
    weights, and for points off their manifold, with the distance; `TypeError` for weights that are
    not real.
    """
    check_retraction(retraction)
    if isinstance(momentum, int | float) and not 0 <= momentum < 1:
        raise ValueError(f"momentum = {momentum}: expected a number in [0, 1)")
    has_momentum = not (isinstance(momentum, int | float) and momentum == 0)
    name = "riemannian_sgd"

    def init(params: PyTree) -> RiemannianSGDState:
        kinds = manifolds_of(name, manifolds, params)
        mu = jax.tree.map(jnp.zeros_like, params) if has_momentum else None
        return RiemannianSGDState(start_count(name, kinds, params), mu)

    def update(
        updates: PyTree, state: RiemannianSGDState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, RiemannianSGDState]:
        if params is None:
            raise ValueError(f"{name}: update needs params, got None")
        kinds = manifolds_of(name, manifolds, params)
        leaves, treedef = jax.tree.flatten(params)
        lr = rate_at(learning_rate, state.count)

        def one_leaf(manifold: AbstractManifold, x: Array, g: Array, tau: Array | None):
            move = mover(manifold, retraction)

            def one_point(x, g, tau):
                g = manifold.egrad_to_rgrad(x, g)
                m = g if tau is None else momentum * tau + g
                step = (-lr * (g + momentum * m if nesterov else m)).astype(x.dtype)
                new_x = move(x, step)
                transported = None if tau is None else manifold.transport(x, new_x, m)
                return new_x - x if as_additive else step, transported

            rows = jax.tree.map(working, (x, g, tau))
            new = over_points(manifold, x, one_point)(*rows)
            return jax.tree.map(lambda leaf: leaf.astype(x.dtype), new)

        tau = treedef.flatten_up_to(state.mu) if has_momentum else [None] * len(leaves)
        rows = zip(kinds, leaves, treedef.flatten_up_to(updates), tau, strict=True)
        new = [one_leaf(*row) for row in rows]
        steps = treedef.unflatten([step for step, _ in new])
        mu = treedef.unflatten([m for _, m in new]) if has_momentum else None
        return steps, RiemannianSGDState(jnp.asarray(optax.safe_increment(state.count)), mu)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))
