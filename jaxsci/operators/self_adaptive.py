"""Self-adaptive weights of a loss: one for each sample, climbing while the network descends.

    min_θ max_λ  (1/n) Σ_i λ_i ℓ_i(θ),    lo ≤ λ_i ≤ hi

A weight grows as long as its sample has a loss, so that what is hard counts more and more.
"""

from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree


class SelfAdaptive(eqx.Module):
    """A model and one weight for each of n samples, all 1 at the start.

    ```python
    source = ArraySource((points, values, jnp.arange(n)), 1000)

    def loss(both, batch, key):
        points, values, index = batch
        return both.weighted(squared_errors(both.model, points, values), index)

    result = fit(SelfAdaptive.of(model, n), loss, self_adaptive(optax.adam(1e-3)), source, ...)
    trained = result.model.model
    ```
    """

    model: PyTree
    weights: Float[Array, " n"]

    @classmethod
    def of(cls, model: PyTree, n: int) -> Self:
        """With n weights of 1. **Raises:** `ValueError` if n is below 1."""
        if n < 1:
            raise ValueError(f"SelfAdaptive: expected at least one sample, got n = {n}")
        return cls(model, jnp.ones(n))

    def weighted(self, losses: Float[Array, " b"], index: Int[Array, " b"]) -> Float[Array, ""]:
        """The mean of λ_i ℓ_i over the samples `index` of a batch."""
        if losses.shape != index.shape:
            raise ValueError(
                f"SelfAdaptive: losses and index must have one shape, got {losses.shape} and "
                f"{index.shape}"
            )
        return jnp.mean(self.weights[index].astype(losses.dtype) * losses)


def self_adaptive(
    optimizer: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule = 1e-5,
    clip: tuple[float, float] = (0.0, 1000.0),
) -> optax.GradientTransformation:
    """The optimiser of a `SelfAdaptive`: `optimizer` for the model, Adam uphill for the weights.

    **Arguments:**

    - `optimizer`: for the model alone; it never sees the weights (nor does a clip by global norm
        inside it).
    - `learning_rate`: of the weights: 1e-5 in the paper on sound (70000 updates, so that no weight
        leaves [0.3, 1.7]); 1e-3 where they should matter within thousands of updates.
    - `clip`: the interval [lo, hi] that the weights stay in.

    **Raises:** `ValueError` for an empty or negative interval; when updated, if called without
    params.

    Reference: McClenny & Braga-Neto, arXiv:2009.04544.
    """
    lo, hi = clip
    if not 0 <= lo < hi:
        raise ValueError(f"self_adaptive: clip must be 0 <= lo < hi, got {clip}")

    def project(updates: PyTree, params: PyTree):
        return jax.tree.map(lambda u, w: jnp.clip(w + u, lo, hi) - w, updates, params)

    uphill = optax.chain(optax.scale(-1.0), optax.adam(learning_rate), optax.stateless(project))
    labels: Any = SelfAdaptive("model", "weights")  # pyright: ignore[reportArgumentType]
    return optax.multi_transform({"model": optimizer, "weights": uphill}, labels)
