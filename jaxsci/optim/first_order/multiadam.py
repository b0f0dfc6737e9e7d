"""MultiAdam: Adam's moments for each group of losses, and the mean of the groups' steps.

    mᵢ ← b1 mᵢ + (1−b1) gᵢ,   vᵢ ← b2 vᵢ + (1−b2) gᵢ²,     gᵢ = ∇Lᵢ
    θ ← θ − lr Σᵢ wᵢ m̂ᵢ / (v̂ᵢ^½ + ε)

The step does not change when a loss is multiplied by a constant: for physics-informed networks the
units of the domain no longer decide whether residual or boundary is learned (Yao et al.,
arXiv:2306.02816).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree, Scalar

from .post import check_adam


class MultiAdamState(NamedTuple):
    """Steps; first and second moments and AMSGrad's largest second moments, a group each."""

    count: Int[Array, ""]
    mu: PyTree
    nu: PyTree
    nu_max: PyTree


def grouped_value_and_grad(
    fns: Sequence[Callable[[PyTree], Scalar]] | Callable[[PyTree], Float[Array, " groups"]],
) -> Callable[[PyTree], tuple[Float[Array, " groups"], PyTree]]:
    """Values and gradients of several losses from one forward pass.

    **Arguments:** `fns`: functions params ↦ loss, or one params ↦ vector of losses, which shares
    more of the work.

    **Returns:** params ↦ (losses, gradients with a leading axis): the `loss_grads` of `multiadam`.

    **Raises:** `ValueError` for no function, or if the losses are no vector.
    """
    if not callable(fns) and len(fns) == 0:
        raise ValueError("fns: expected at least one function")

    def losses(params: PyTree) -> Array:
        if callable(fns):
            return jnp.asarray(fns(params))
        return jnp.stack([jnp.asarray(fn(params)) for fn in fns])

    def evaluate(params: PyTree) -> tuple[Array, PyTree]:
        values, pullback = jax.vjp(losses, params)
        if values.ndim != 1:
            raise ValueError(f"fns: expected a vector of losses, got shape {values.shape}")
        grads = jax.vmap(lambda row: pullback(row)[0])(jnp.eye(values.size, dtype=values.dtype))
        return values, jax.tree.map(jnp.conj, grads)

    return evaluate


def scale_by_multiadam(
    groups: int,
    b1: float = 0.99,
    b2: float = 0.99,
    eps: float = 1e-8,
    group_weights: Sequence[float] | None = None,
    amsgrad: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Σ wᵢ m̂ᵢ/(v̂ᵢ^½ + ε) in place of the gradient; see `multiadam`."""
    check_adam(b1, b2, eps)
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups = {groups}: expected an integer >= 1")
    weights = (1 / groups,) * groups if group_weights is None else tuple(group_weights)
    if len(weights) != groups:
        raise ValueError(f"group_weights: expected {groups} numbers, got {len(weights)}")
    if any(isinstance(w, int | float) and not w >= 0 for w in weights):
        raise ValueError(f"group_weights = {weights}: expected numbers >= 0")

    def init(params: PyTree) -> MultiAdamState:
        def real() -> PyTree:
            return jax.tree.map(
                lambda p: jnp.zeros((groups, *jnp.shape(p)), jnp.real(p).dtype), params
            )

        mu = jax.tree.map(lambda p: jnp.zeros((groups, *jnp.shape(p)), p.dtype), params)
        return MultiAdamState(jnp.zeros((), jnp.int32), mu, real(), real() if amsgrad else None)

    def update(
        updates: PyTree, state: MultiAdamState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, MultiAdamState]:
        grads = extra.get("loss_grads")
        if grads is None and groups == 1:
            grads = jax.tree.map(lambda g: g[None], updates)
        if grads is None:
            raise ValueError(
                "multiadam: update needs the keyword argument loss_grads (gradients of the groups "
                "along a leading axis, see grouped_value_and_grad); it is missing"
            )
        for g, m in zip(jax.tree.leaves(grads), jax.tree.leaves(state.mu), strict=True):
            if g.shape != m.shape:
                raise ValueError(f"loss_grads: expected a leaf of shape {m.shape}, got {g.shape}")
        count = jnp.asarray(optax.safe_increment(state.count))
        mu = jax.tree.map(lambda m, g: (b1 * m + (1 - b1) * g).astype(m.dtype), state.mu, grads)
        nu = jax.tree.map(
            lambda v, g: (b2 * v + (1 - b2) * jnp.real(g * jnp.conj(g))).astype(v.dtype),
            state.nu,
            grads,
        )
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu) if amsgrad else None

        def step(m: Array, v: Array) -> Array:
            dtype = jnp.promote_types(v.dtype, jnp.float32)
            t = count.astype(dtype)
            # 1 − bᵗ without cancellation; log1p as b = 0.999 itself is rounded in float32.
            one, two = (-jnp.expm1(t * jnp.log1p(-jnp.asarray(1 - b, dtype))) for b in (b1, b2))
            root = jnp.sqrt(v.astype(dtype) / two) + eps
            # A group without a gradient here makes no step, also with eps = 0.
            scaled = jnp.where(root > 0, (m / one) / jnp.where(root > 0, root, 1), 0)
            return jnp.tensordot(jnp.asarray(weights, dtype), scaled, 1).astype(m.dtype)

        new = jax.tree.map(step, mu, nu_max if amsgrad else nu)
        return new, MultiAdamState(count, mu, nu, nu_max)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def multiadam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    groups: int = 2,
    b1: float = 0.99,
    b2: float = 0.99,
    eps: float = 1e-8,
    group_weights: Sequence[float] | None = None,
    amsgrad: bool = False,
    agg_betas: tuple[float, float] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam for a sum of losses of different scales, such as residual and boundary of a PINN.

    The steps of all groups have the same size, so weights of the losses no longer set priorities:
    `group_weights` do. Memory: Adam's, times the number of groups.

        value, grads = grouped_value_and_grad([residual, boundary])(params)
        updates, state = tx.update(mean_of_grads, state, params, loss_grads=grads)

    In `jaxsci.train.fit` the gradients come from `make_step(..., extra_args=...)`.

    **Arguments:**

    - `learning_rate`: as for Adam. `groups`: how many; one is Adam, and needs no `loss_grads`.
    - `b1`, `b2`: 0.99 both, slower than Adam's 0.9 for the first.
    - `eps`: below the gradients of the smallest loss; 0 makes the steps independent of all scales.
    - `group_weights`: w, numbers >= 0; `None` is 1/groups each.
    - `amsgrad`: divide by the largest v̂ so far.
    - `agg_betas`: (b1, b2) of a second Adam that is given the mean step; `None` for none.

    **Returns:** an optax transformation; `update` needs `loss_grads`, a tree like the weights with
    a leading axis of length `groups`.

    **Raises:** `ValueError` for arguments out of range, and without `loss_grads` of that shape.
    """
    parts: list[optax.GradientTransformation] = [
        scale_by_multiadam(groups, b1, b2, eps, group_weights, amsgrad)
    ]
    if agg_betas is not None:
        check_adam(*agg_betas, eps)
        parts.append(optax.scale_by_adam(*agg_betas, eps))
    return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))
