"""Incremental modes: a Fourier neural operator that switches on wavenumbers while it trains.

The weights hold `max_modes` wavenumbers from the start and a mask switches the first few on, so
adding one changes numbers, not shapes: nothing is compiled again, and both rules run inside a
jitted step. Reference: George et al., arXiv:2211.15188.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsci.nn import DenseMixing, DiagonalMixing, wavenumbers

from .fno import FNO


def grow_modes_by_loss(
    model: FNO, previous: Float[Array, ""], current: Float[Array, ""], *, gap: float = 1e-3
) -> FNO:
    """One more wavenumber on every axis if the loss has stalled: |previous - current| < gap.

    **Arguments:** `previous`, `current`: the losses of two successive epochs.

    **Raises:** `ValueError` if the model was made without `max_modes`, or `gap` is not positive.
    """
    if gap <= 0:
        raise ValueError(f"gap: expected a positive number, got {gap}")
    active = _active(model)
    return model.with_modes(active + (jnp.abs(previous - current) < gap))


def grow_modes_by_gradient(
    model: FNO, gradient: FNO, *, explained: float = 0.99, buffer: int = 1
) -> FNO:
    """One more wavenumber on an axis if the top ones carry a good part of the gradient.

    With e_k the gradient's squared norm at wavenumber |k| of an axis (over all layers), the n
    active ones are enough if

        Σ_{k < n - buffer} e_k ≥ explained · Σ_{k < n} e_k

    and one is added otherwise.

    **Arguments:**

    - `gradient`: of the loss, as `eqx.filter_grad` gives it.
    - `explained`: 0.9 to 0.999.
    - `buffer`: the number of top wavenumbers that are watched.

    **Raises:** `ValueError` if the model was made without `max_modes` or with a low-rank mixing,
    `explained` is not in (0, 1), or `buffer` is not positive.
    """
    if not 0 < explained < 1:
        raise ValueError(f"explained: expected a share between 0 and 1, got {explained}")
    if buffer < 1:
        raise ValueError(f"buffer: expected at least 1, got {buffer}")
    active, modes = _active(model), model.modes
    layers = [gradient.last] + ([gradient.blocks] if gradient.blocks is not None else [])
    mixings = [layer.spectral.mixing for layer in layers]
    weights = [mix.weight for mix in mixings if isinstance(mix, DenseMixing | DiagonalMixing)]
    if len(weights) < len(layers):
        raise ValueError("model: the gradient rule needs mixing='dense' or 'diagonal'")
    grow = []
    for axis, m in enumerate(modes):
        last = axis == len(modes) - 1
        size = np.arange(m) if last else np.abs(wavenumbers(m))
        energy = jnp.zeros(m + 1)
        for layer, weight in zip(layers, weights, strict=True):
            # Axes: (layers of a stack,) real and imaginary part, modes …, channels.
            offset = 1 + (layer is not gradient.last)
            others = tuple(i for i in range(weight.ndim) if i != offset + axis)
            energy = energy.at[size].add(jnp.sum(weight**2, others))
        k = np.arange(m + 1)
        below = jnp.sum(jnp.where(k < active[axis] - buffer, energy, 0))
        grow.append(below < explained * jnp.sum(jnp.where(k < active[axis], energy, 0)))
    return model.with_modes(active + jnp.stack(grow))


def _active(model: FNO) -> Array:
    if model.n_active is None:
        raise ValueError("model: made without max_modes, so it has no modes to switch on")
    return model.n_active
