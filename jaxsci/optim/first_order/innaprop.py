"""INNAprop: an inertial Newton method without Hessians, with RMSprop's scaling.

    θ ← θ (1 − η λ)
    v ← σ v + (1 − σ) g²,    d = g / ((v/(1 − σᵏ))^½ + ε)
    ψ ← (1 − η/β) ψ + η (1/β − α) θ
    θ ← (1 + η (1 − αβ)/(β − η)) θ − η/(β − η) ψ − η β d,        ψ₀ = (1 − αβ) θ₀

a discretisation, without second derivatives, of θ'' + α θ' + β d/dt ∇L + ∇L = 0: friction α, and
"Newton" friction β against changes of the gradient (Bolte et al., arXiv:2410.08871).
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from .post import check_adam


class INNApropState(NamedTuple):
    """Steps, the second moment v, and the auxiliary weights ψ (in the place of a momentum)."""

    count: Int[Array, ""]
    nu: PyTree
    psi: PyTree


def innaprop(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    alpha: float = 0.1,
    beta: float = 0.9,
    sigma: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> optax.GradientTransformationExtraArgs:
    """INNAprop, with AdamW's memory; α = β = 1 is AdamW with b1 = 0.

    Nothing that changes the weights belongs after it in a chain, since ψ refers to θ. The weight
    decay is inside for the same reason.

    **Arguments:**

    - `learning_rate`: η, always below β; AdamW's rates and schedules serve. A schedule that
        exceeds 0.99 β is cut there, since the method is singular at η = β.
    - `alpha`, `beta`: (0.1, 0.9) is fast, for short trainings; (2, 2) for the best end of long
        ones. α >= 0, β > 0.
    - `sigma`, `eps`: as `b2`, `eps` of Adam. `weight_decay`: λ, decoupled.

    **Returns:** an optax transformation; `update` needs `params`.

    **Raises:** `ValueError` for arguments out of range or without `params`.
    """
    check_adam(0.0, sigma, eps)
    for name, value in (("alpha", alpha), ("weight_decay", weight_decay)):
        if isinstance(value, int | float) and not value >= 0:
            raise ValueError(f"{name} = {value}: expected a number >= 0")
    if isinstance(beta, int | float) and not beta > 0:
        raise ValueError(f"beta = {beta}: expected a positive number")
    numbers = False
    if isinstance(learning_rate, int | float) and isinstance(beta, int | float):
        numbers = True
        if not 0 <= learning_rate < beta:
            raise ValueError(
                f"learning_rate = {learning_rate}: expected a number in [0, beta = {beta})"
            )

    def init(params: PyTree) -> INNApropState:
        def start(p: Array) -> Array:
            return ((1 - alpha * beta) * jnp.asarray(p)).astype(jnp.result_type(p))

        nu = jax.tree.map(lambda p: jnp.zeros_like(jnp.real(p)), params)
        return INNApropState(jnp.zeros((), jnp.int32), nu, jax.tree.map(start, params))

    def update(
        updates: PyTree, state: INNApropState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, INNApropState]:
        if params is None:
            raise ValueError("innaprop: update needs params, got None")
        eta: Any = learning_rate(state.count) if callable(learning_rate) else learning_rate
        if not numbers:
            eta = jnp.minimum(eta, 0.99 * beta)
        count = jnp.asarray(optax.safe_increment(state.count))
        nu = jax.tree.map(
            lambda v, g: (sigma * v + (1 - sigma) * jnp.real(g * jnp.conj(g))).astype(v.dtype),
            state.nu,
            updates,
        )

        def auxiliary(psi: Array, theta: Array) -> Array:
            decayed = theta - eta * weight_decay * theta
            new = psi - (eta / beta) * psi + eta * (1 / beta - alpha) * decayed
            return new.astype(psi.dtype)

        psi = jax.tree.map(auxiliary, state.psi, params)

        def step(g: Array, v: Array, new: Array, theta: Array) -> Array:
            dtype = jnp.promote_types(v.dtype, jnp.float32)
            t = count.astype(dtype)
            # 1 − σᵏ without cancellation; log1p as σ = 0.999 itself is rounded in float32.
            correction = -jnp.expm1(t * jnp.log1p(-jnp.asarray(1 - sigma, dtype)))
            scaled = g / (jnp.sqrt(v.astype(dtype) / correction) + eps)
            decay = -eta * weight_decay * theta
            decayed = theta + decay
            # η/(β − η) times the difference, so that θ and ψ cancel before and not after scaling.
            pull = eta / (beta - eta) * ((1 - alpha * beta) * decayed - new)
            return (decay + pull - eta * beta * scaled).astype(theta.dtype)

        new = jax.tree.map(step, updates, nu, psi, params)
        return new, INNApropState(count, nu, psi)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))
