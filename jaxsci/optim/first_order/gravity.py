"""Gravity: a velocity driven by gradients whose largest entries are damped.

    m = 1 / max |g|  over an array,      ζ = g / (1 + (g/m)²)
    V ← b V + (1 − b) ζ,  b = (β t + 1)/(t + 2),      W ← W − lr V

for t = 0, 1, …, from V₀ ~ N(0, (α/lr)²) (Bahrami, Pouriyan Zadeh, arXiv:2101.09192). With
G = max |g|, ζ of the largest entry is G/(1 + G⁴): the method damps *large* gradients, so that it
depends on the scale of the loss, and hardly moves where a gradient is much larger than 1.
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree


class GravityState(NamedTuple):
    """Steps, and the velocity V."""

    count: Int[Array, ""]
    velocity: PyTree


def gravity(
    learning_rate: optax.ScalarOrSchedule = 0.1,
    alpha: float = 0.01,
    beta: float = 0.9,
    t0: int = 0,
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The Gravity optimiser, made to be used with its defaults. Memory: one buffer.

    **Arguments:**

    - `learning_rate`: 0.1; the first velocity of a schedule is for its first value, > 0.
    - `alpha`: scale of the first velocity, >= 0: a first step of size α. `beta`: in [0, 1].
    - `t0`: the first t. 0 is the author's code, 1 that of the PyPI package pytorch-optimizer.
    - `key`: for V₀; `None` is `jax.random.key(0)`.

    **Returns:** an optax transformation.

    **Raises:** `ValueError` for arguments out of range.
    """
    first: Any = learning_rate(jnp.zeros((), int)) if callable(learning_rate) else learning_rate
    if isinstance(first, int | float) and not first > 0:
        raise ValueError(f"learning_rate = {first}: expected a positive number")
    if isinstance(alpha, int | float) and not alpha >= 0:
        raise ValueError(f"alpha = {alpha}: expected a number >= 0")
    if isinstance(beta, int | float) and not 0 <= beta <= 1:
        raise ValueError(f"beta = {beta}: expected a number in [0, 1]")
    if isinstance(t0, int) and t0 < 0:
        raise ValueError(f"t0 = {t0}: expected an integer >= 0")

    def init(params: PyTree) -> GravityState:
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(0) if key is None else key, max(len(leaves), 1))
        velocity = [
            ((alpha / first) * jax.random.normal(k, jnp.shape(p), jnp.result_type(p))).astype(
                jnp.result_type(p)
            )
            for k, p in zip(keys, leaves, strict=False)
        ]
        return GravityState(jnp.zeros((), jnp.int32), jax.tree.unflatten(treedef, velocity))

    def update(
        updates: PyTree, state: GravityState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, GravityState]:
        t = (state.count + t0).astype(float)
        average = (beta * t + 1) / (t + 2)
        rate: Any = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def push(velocity: Array, g: Array) -> Array:
            # 1/m; a gradient of zeros has no largest entry, and none is needed.
            ratio = jnp.abs(g) * _largest(g)
            zeta = g / (1 + ratio**2)
            return (average * velocity + (1 - average) * zeta).astype(velocity.dtype)

        velocity = jax.tree.map(push, state.velocity, updates)
        new = jax.tree.map(lambda v: (-rate * v).astype(v.dtype), velocity)
        return new, GravityState(jnp.asarray(optax.safe_increment(state.count)), velocity)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def _largest(g: Array) -> Array:
    """The largest |g|, 0 for no entries."""
    if jnp.iscomplexobj(g):
        return jnp.max(jnp.abs(g), initial=0)
    # The largest and the smallest in one pass: |g| would be stored before it is reduced.
    zero = jnp.zeros((), g.dtype)
    high, low = jax.lax.reduce(
        (g, g),
        (zero, zero),
        lambda a, b: (jnp.maximum(a[0], b[0]), jnp.minimum(a[1], b[1])),
        tuple(range(g.ndim)),
    )
    return jnp.maximum(high, -low)
