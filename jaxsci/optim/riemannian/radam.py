"""Riemannian Adam, AMSGrad and AdamNC on products of manifolds.

For each point x of a factor of the product, with g = grad f(x), its Riemannian gradient:

    m = b1 τ + (1 − b1) g,   v ← b2 v + (1 − b2) |g|²_x,   (AMSGrad: v̂ ← max(v̂, v))
    x⁺ = exp_x( −lr m̂ / (v̂^½ + ε) ),   τ ← m, transported along the geodesic from x to x⁺

v is *one number a point*: coordinates have no meaning on a manifold, so a step is adapted to each
factor and not to each of its coordinates (Bécigneul and Ganea, arXiv:1810.00760). With every number
a factor of its own this is Adam. AdamNC has b2 = 1 − 1/t, v the mean of all |g|².
"""

from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from jaxsci.manifolds import AbstractManifold

from ..first_order.post import check_adam
from .points import (
    Retraction,
    batch_shape,
    check_retraction,
    manifolds_of,
    mover,
    over_points,
    rate_at,
    start_count,
    working,
)


class RiemannianAdamState(NamedTuple):
    """Steps, the momentum τ (a tangent vector at each point), and a second moment for each point.

    `mu` is `None` for b1 = 0, `nu_max` is `None` but for AMSGrad.
    """

    count: Int[Array, ""]
    mu: PyTree
    nu: PyTree
    nu_max: PyTree


def riemannian_adam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    manifolds: PyTree = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    variant: Literal["adam", "amsgrad", "adamnc"] = "adam",
    retraction: Retraction = "exp",
    bias_correction: bool = True,
    sparse: bool = False,
    as_additive: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Adam for weights on manifolds: embeddings in hyperbolic space, directions on a sphere.

        riemannian_adam(0.1, {"nodes": Poincare(5), "scale": None})

    takes weights of which `nodes` has shape (…, 5), and plain gradients of `jax.grad`. Its updates
    are x⁺ − x, so that `optax.apply_updates` gives x⁺: nothing else in a program changes. Gradients
    may be clipped or averaged before it; what scales updates *after* it leaves the manifold.
    Weight decay has no meaning off flat space, and is not offered.

    **Arguments:**

    - `learning_rate`: the Riemannian length of a step is about this; 1e-3 to 0.3. The theorems have
      lr/t^½.
    - `manifolds`: a prefix of the weights; `None` for numbers of their own (Adam's). A leaf's last
      axes are a point, the axes before them number the points. A `Product` takes a tuple.
    - `b1`, `b2`, `eps`: as for Adam. With b1 = 0 no momentum is stored.
    - `variant`: "amsgrad" keeps the largest v, "adamnc" averages |g|² without forgetting.
    - `retraction`: "exp", or "retract" for a cheaper step that agrees to first order.
    - `bias_correction`: divide by 1 − b1ᵗ and 1 − b2ᵗ, as is usual; the theorems do not.
    - `sparse`: points whose gradient is 0 stand still, and their moments. For batches that touch
      few rows of an embedding.
    - `as_additive`: `False` gives tangent vectors, for `apply_riemannian_updates`.

    **Returns:** an optax transformation. Its state is less than Adam's: v has one number a point.

    **Raises:** `ValueError` for arguments out of range, for `manifolds` that do not fit the
    weights, and for points off their manifold, with the distance; `TypeError` for weights that are
    not real.
    """
    check_adam(b1, b2, eps)
    check_retraction(retraction)
    if variant not in ("adam", "amsgrad", "adamnc"):
        raise ValueError(f"variant = {variant!r}: expected 'adam', 'amsgrad' or 'adamnc'")
    has_momentum = not (isinstance(b1, int | float) and b1 == 0)
    name = "riemannian_adam"

    def init(params: PyTree) -> RiemannianAdamState:
        kinds = manifolds_of(name, manifolds, params)
        leaves, treedef = jax.tree.flatten(params)

        def zeros() -> PyTree:
            rows = zip(kinds, leaves, strict=True)
            return treedef.unflatten([jnp.zeros(batch_shape(m, x), x.dtype) for m, x in rows])

        mu = jax.tree.map(jnp.zeros_like, params) if has_momentum else None
        nu_max = zeros() if variant == "amsgrad" else None
        return RiemannianAdamState(start_count(name, kinds, params), mu, zeros(), nu_max)

    def update(
        updates: PyTree, state: RiemannianAdamState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, RiemannianAdamState]:
        if params is None:
            raise ValueError(f"{name}: update needs params, got None")
        kinds = manifolds_of(name, manifolds, params)
        leaves, treedef = jax.tree.flatten(params)
        lr = rate_at(learning_rate, state.count)
        count = jnp.asarray(optax.safe_increment(state.count))

        def one_leaf(manifold: AbstractManifold, x: Array, g: Array, *moments: Array | None):
            dtype = jnp.promote_types(x.dtype, jnp.float32)
            t = count.astype(dtype)
            one, two = (
                # 1 − bᵗ without cancellation; log1p as b = 0.999 itself is rounded in float32.
                -jnp.expm1(t * jnp.log1p(-jnp.asarray(1 - b, dtype))) if bias_correction else 1.0
                for b in (b1, b2)
            )
            keep, two = (1 - 1 / t, 1.0) if variant == "adamnc" else (b2, two)
            move = mover(manifold, retraction)

            def one_point(x, g, tau, v, v_max):
                touched = jnp.any(g != 0) if sparse else True
                g = manifold.egrad_to_rgrad(x, g)
                m = g if tau is None else b1 * tau + (1 - b1) * g
                new_v = keep * v + (1 - keep) * manifold.inner(x, g, g)
                new_max = None if v_max is None else jnp.maximum(v_max, new_v)
                size = jnp.sqrt((new_v if new_max is None else new_max) / two) + eps
                # 0/0, without eps and before the first gradient, is no step.
                step = -lr / one * m / jnp.where(size > 0, size, 1)
                step = jnp.where(touched, step, 0).astype(x.dtype)
                new_x = move(x, step)
                transported = None if tau is None else manifold.transport(x, new_x, m)
                old, new = (tau, v, v_max), (transported, new_v, new_max)
                moments = jax.tree.map(lambda a, b: jnp.where(touched, b, a), old, new)
                return jnp.where(touched, new_x - x, 0) if as_additive else step, *moments

            rows = jax.tree.map(working, (x, g, *moments))
            new = over_points(manifold, x, one_point)(*rows)
            return jax.tree.map(lambda leaf: leaf.astype(x.dtype), new)

        tau, v, v_max = (_leaves(tree, treedef) for tree in state[1:])
        rows = zip(kinds, leaves, treedef.flatten_up_to(updates), tau, v, v_max, strict=True)
        new = [one_leaf(*row) for row in rows]

        def gather(i: int) -> PyTree:
            return treedef.unflatten([row[i] for row in new])

        moments = (None if t is None else gather(i) for i, t in enumerate(state[1:], 1))
        return gather(0), RiemannianAdamState(count, *moments)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def _leaves(tree: PyTree, treedef: Any) -> list:
    """The leaves of a tree of moments; `None` for each where there are none."""
    return [None] * treedef.num_leaves if tree is None else treedef.flatten_up_to(tree)


def riemannian_amsgrad(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    manifolds: PyTree = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    retraction: Retraction = "exp",
    bias_correction: bool = True,
    sparse: bool = False,
    as_additive: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """RAMSGrad: `riemannian_adam` with the largest v so far, as in the regret bounds.

    **Arguments, Returns, Raises:** those of `riemannian_adam`.
    """
    return riemannian_adam(
        learning_rate, manifolds, b1, b2, eps, "amsgrad", retraction, bias_correction, sparse,
        as_additive,
    )  # fmt: skip
