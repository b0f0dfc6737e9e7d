"""Adafactor as in its paper, on top of optax's: relative steps, a cap on the decay, bytes of state.

    R ← b R + (1 − b) mean_cols(g² + ε),  C ← b C + (1 − b) mean_rows(g² + ε)
    V = R Cᵀ / mean(R),  U = g / V^½,  U ← U / max(1, RMS(U)/d)
    θ ← θ − max(ε₂, RMS(θ)) ρ_t U,   ρ_t = min(10⁻², t^−½),   b_t = 1 − t^−0.8

with n + m numbers of state for an n × m matrix (Shazeer, Stern, arXiv:1804.04235). The work is
optax's; `optax.adafactor` by default leaves matrices with an axis below 128 unfactored, and its
learning rate is to be given.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree


def relative_step(warmup_init: bool = False) -> optax.Schedule:
    """The paper's relative rate ρ_t = min(10⁻², t^−½), t = 1 for the first step.

    **Arguments:** `warmup_init`: min(10⁻⁶ t, t^−½) instead, for trainings that need a slow start.

    **Returns:** a schedule of the step, counted from 0 as optax does.
    """

    def schedule(count: Any) -> Array:
        t = jnp.asarray(count).astype(float) + 1
        return jnp.minimum(1e-6 * t if warmup_init else 1e-2, 1 / jnp.sqrt(t))

    return schedule


def b2_cap(cap: float = 0.999):
    """A decay b_t = min(cap, 1 − t^−c) for `optax.scale_by_factored_rms(decay_rate_fn=...)`.

    Without a cap the second moment ends up remembering everything, and no longer follows.

    **Arguments:** `cap`: in (0, 1]; 0.999 or 0.99 for long trainings.

    **Returns:** (count, c) ↦ b_t.

    **Raises:** `ValueError` for a cap outside (0, 1].
    """
    if isinstance(cap, int | float) and not 0 < cap <= 1:
        raise ValueError(f"cap = {cap}: expected a number in (0, 1]")

    def decay(count: Any, exponent: Any) -> Array:
        t = jnp.asarray(count).astype(float) + 1
        return jnp.minimum(1 - t ** (-exponent), cap)

    return decay


def paper_adafactor(
    learning_rate: optax.ScalarOrSchedule | None = None,
    warmup_init: bool = False,
    decay_rate: float = 0.8,
    cap: float = 1.0,
    clipping_threshold: float | None = 1.0,
    min_dim_size_to_factor: int = 1,
    momentum: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adafactor with the paper's defaults; `optax.adafactor` where `cap` is 1.

    **Arguments:**

    - `learning_rate`: relative to the RMS of a weight; `None` is `relative_step(warmup_init)`.
    - `decay_rate`: c of b_t = 1 − t^−c. `cap`: see `b2_cap`.
    - `clipping_threshold`: d >= 1, the largest RMS of an update; `None` for none.
    - `min_dim_size_to_factor`: matrices with a smaller axis keep a full second moment. 1 saves the
        most; 128 is optax's.
    - `momentum`: in [0, 1), for one more buffer; `None` for none.

    **Returns:** an optax transformation; `update` needs `params`.

    **Raises:** `ValueError` for arguments out of range, `TypeError` for complex parameters.
    """
    if isinstance(clipping_threshold, int | float) and not clipping_threshold >= 1:
        raise ValueError(f"clipping_threshold = {clipping_threshold}: expected a number >= 1")
    if isinstance(min_dim_size_to_factor, int) and min_dim_size_to_factor < 1:
        raise ValueError(f"min_dim_size_to_factor = {min_dim_size_to_factor}: expected >= 1")
    if isinstance(decay_rate, int | float) and not decay_rate > 0:
        raise ValueError(f"decay_rate = {decay_rate}: expected a positive number")
    if isinstance(momentum, int | float) and not 0 <= momentum < 1:
        raise ValueError(f"momentum = {momentum}: expected a number in [0, 1)")
    rate = relative_step(warmup_init) if learning_rate is None else learning_rate
    parts: list[optax.GradientTransformation] = [
        optax.scale_by_factored_rms(
            decay_rate=decay_rate,
            min_dim_size_to_factor=min_dim_size_to_factor,
            decay_rate_fn=b2_cap(cap),
        )
    ]
    if clipping_threshold is not None:
        parts.append(optax.clip_by_block_rms(clipping_threshold))
    parts += [optax.scale_by_learning_rate(rate), optax.scale_by_param_block_rms()]
    if momentum is not None:
        parts.append(optax.ema(momentum, debias=False))
    chain = optax.chain(*parts)

    def init(params: PyTree) -> optax.OptState:
        for leaf in jax.tree.leaves(params):
            if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
                raise TypeError(
                    "paper_adafactor: expected real parameters, got dtype "
                    f"{jnp.result_type(leaf)}; see optax.contrib.split_real_and_imaginary"
                )
        return chain.init(params)

    return optax.GradientTransformationExtraArgs(init, chain.update)


def state_bytes(optimizer: optax.GradientTransformation, params: PyTree) -> int:
    """Bytes of an optimiser's state for some weights; nothing is allocated.

    **Arguments:** `optimizer`: any optax transformation. `params`: weights, or their
    `jax.ShapeDtypeStruct`.

    **Returns:** the number of bytes.
    """
    leaves = jax.tree.leaves(jax.eval_shape(optimizer.init, params))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
