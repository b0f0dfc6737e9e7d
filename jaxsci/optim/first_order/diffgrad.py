"""diffGrad: Adam whose step shrinks where the gradient stops changing.

    ξ_t = 1 / (1 + exp(−|g_{t−1} − g_t|)) ∈ [½, 1),  g₀ = 0
    θ ← θ − lr ξ_t m̂_t / (v̂_t^½ + ε)

with the moments m̂, v̂ of Adam (Dubey et al., arXiv:1909.11015).
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from .post import check_adam, post


def scale_by_diffgrad(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformationExtraArgs:
    """ξ m̂/(v̂^½ + ε) in place of the gradient; see `diffgrad`."""
    check_adam(b1, b2, eps)

    def friction(update: PyTree, gradient: PyTree, params: PyTree, previous: PyTree):
        damped = jax.tree.map(
            lambda u, g, old: u * jax.nn.sigmoid(jnp.abs(old - g)), update, gradient, previous
        )
        return damped, gradient

    def zeros(params: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, params)

    return post(optax.scale_by_adam(b1, b2, eps), friction, zeros)


def diffgrad(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """Adam with diffGrad's friction. Memory: one buffer more than Adam, the last gradient.

    At a constant gradient the step is half of Adam's; the learning rate is to be tuned anew.
    Published code divides by v^½ + ε *before* the bias correction of v, so its ε is ε/(1−b2ᵗ)^½
    here; the formula above is the paper's.

    **Arguments:**

    - `learning_rate`: 1e-3 is a good value. `b1`, `b2`, `eps`: as for Adam.

    **Returns:** an optax transformation. **Raises:** `ValueError` for moments outside [0, 1).
    """
    return optax.chain(scale_by_diffgrad(b1, b2, eps), optax.scale_by_learning_rate(learning_rate))
