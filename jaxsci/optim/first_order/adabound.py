"""AdaBound and AMSBound: Adam's rate of each weight, clipped between bounds that close on SGD's.

    m ← b1 m + (1−b1) g,   v ← b2 v + (1−b2) g²,   (AMSBound: v̂ ← max(v̂, v))
    rate = clip( lr (1−b2ᵗ)^½/(1−b1ᵗ) / (v^½ + ε),  r (1 − 1/(γ t + 1)),  r (1 + 1/(γ t)) )
    θ ← θ − rate m,    r = final_lr · lr_t / base_lr

(Luo et al., arXiv:1902.09843; the constants are those of the authors' code.)
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from .post import check_adam


class AdaBoundState(NamedTuple):
    """Steps, first and second moment, and AMSBound's largest second moment (else `None`)."""

    count: Int[Array, ""]
    mu: PyTree
    nu: PyTree
    nu_max: PyTree


def scale_by_adabound(
    final_ratio: float = 100.0,
    b1: float = 0.9,
    b2: float = 0.999,
    gamma: float = 1e-3,
    eps: float = 1e-8,
    amsbound: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Rate · m / lr in place of the gradient, with bounds in units of the learning rate.

    **Arguments:** `final_ratio`: final_lr / base_lr; the others as for `adabound`.
    """
    check_adam(b1, b2, eps)
    if isinstance(gamma, int | float) and not 0 < gamma < 1:
        raise ValueError(f"gamma = {gamma}: expected a number in (0, 1)")
    if isinstance(final_ratio, int | float) and not final_ratio > 0:
        raise ValueError(f"final_ratio = {final_ratio}: expected a positive number")

    def init(params: PyTree) -> AdaBoundState:
        def real_zeros() -> PyTree:
            return jax.tree.map(lambda p: jnp.zeros_like(jnp.real(p)), params)

        # Two buffers and not one twice, so that a state can be donated.
        zeros = jax.tree.map(jnp.zeros_like, params)
        nu_max = real_zeros() if amsbound else None
        return AdaBoundState(jnp.zeros((), jnp.int32), zeros, real_zeros(), nu_max)

    def update(
        updates: PyTree, state: AdaBoundState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, AdaBoundState]:
        count = jnp.asarray(optax.safe_increment(state.count))
        mu = jax.tree.map(lambda m, g: (b1 * m + (1 - b1) * g).astype(m.dtype), state.mu, updates)
        nu = jax.tree.map(
            lambda v, g: (b2 * v + (1 - b2) * jnp.real(g * jnp.conj(g))).astype(v.dtype),
            state.nu,
            updates,
        )
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu) if amsbound else None

        def bounded(m: Array, v: Array) -> Array:
            dtype = jnp.promote_types(v.dtype, jnp.float32)
            t = count.astype(dtype)
            # 1 − bᵗ without cancellation; log1p as b = 0.999 itself is rounded in float32.
            one, two = (-jnp.expm1(t * jnp.log1p(-jnp.asarray(1 - b, dtype))) for b in (b1, b2))
            rate = jnp.sqrt(two) / one / (jnp.sqrt(v.astype(dtype)) + eps)
            lower, upper = 1 - 1 / (gamma * t + 1), 1 + 1 / (gamma * t)
            rate = jnp.clip(rate, final_ratio * lower, final_ratio * upper)
            return (rate * m).astype(m.dtype)

        new = jax.tree.map(bounded, mu, nu_max if amsbound else nu)
        return new, AdaBoundState(count, mu, nu, nu_max)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def adabound(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    final_lr: float = 0.1,
    b1: float = 0.9,
    b2: float = 0.999,
    gamma: float = 1e-3,
    eps: float = 1e-8,
    amsbound: bool = False,
    base_lr: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam that turns into SGD: fast at the start, free of Adam's failure to converge at the end.

    **Arguments:**

    - `learning_rate`: Adam's; 1e-3 is a good value. The bounds follow a schedule.
    - `final_lr`: the rate of SGD at the end, for `learning_rate == base_lr`.
    - `b1`, `b2`, `eps`: as for Adam. `gamma`: in (0, 1), how fast the bounds close.
    - `amsbound`: keep the largest v, as AMSGrad does.
    - `base_lr`: what `final_lr` refers to; `None` is the learning rate, or a schedule's first.

    **Returns:** an optax transformation, with Adam's memory (AMSBound: one buffer more).

    **Raises:** `ValueError` for arguments out of range.
    """
    for name, value in (("final_lr", final_lr), ("base_lr", base_lr)):
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{name} = {value}: expected a positive number")
    if base_lr is None:
        first: Any = learning_rate(jnp.zeros((), int)) if callable(learning_rate) else learning_rate
    else:
        first = base_lr
    return optax.chain(
        scale_by_adabound(final_lr / first, b1, b2, gamma, eps, amsbound),
        optax.scale_by_learning_rate(learning_rate),
    )
