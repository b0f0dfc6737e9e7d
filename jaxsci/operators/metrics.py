"""How far one function is from another: the losses and metrics of operator learning.

    relative L2:  ‖p - u‖ / ‖u‖
    relative H1:  √(‖p - u‖² + ‖∇p - ∇u‖²) / √(‖u‖² + ‖∇u‖²)

All act on one pair of functions `"c *grid"` and return one number; average over a batch with
`jax.vmap` and `jnp.mean`. Their gradient at p = u is zero, not NaN.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def relative_l2(
    prediction: Float[Array, "c *grid"], target: Float[Array, "c *grid"]
) -> Float[Array, ""]:
    """‖p - u‖ / ‖u‖, with norms over channels and grid points.

    On a uniform grid the quadrature weights cancel. A zero target gives infinity.

    **Raises:** `ValueError` if the shapes differ or there is no grid axis.
    """
    prediction, target = _check(prediction, target)
    return _ratio(jnp.sum((prediction - target) ** 2), jnp.sum(target**2))


def relative_h1(
    prediction: Float[Array, "c *grid"],
    target: Float[Array, "c *grid"],
    *,
    periodic: bool | Sequence[bool] = True,
    lengths: float | Sequence[float] = 1.0,
) -> Float[Array, ""]:
    """√(‖p - u‖² + ‖∇p - ∇u‖²) / √(‖u‖² + ‖∇u‖²), gradients by second-order differences.

    **Arguments:**

    - `periodic`: for all axes or for each: central differences wrap around, or become one-sided
      differences of third order at the walls.
    - `lengths`: the domain's sides; the spacing is length / number of points.

    **Raises:** `ValueError` if the shapes differ, an option has a wrong length, or a wall axis has
    fewer than 4 points.
    """
    prediction, target = _check(prediction, target)
    n_dims = target.ndim - 1
    periodic, lengths = _each(periodic, n_dims, "periodic"), _each(lengths, n_dims, "lengths")
    error = prediction - target
    above, below = jnp.sum(error**2), jnp.sum(target**2)
    for axis in range(n_dims):
        spacing = lengths[axis] / target.shape[axis + 1]
        above += jnp.sum(difference(error, axis + 1, spacing, periodic[axis]) ** 2)
        below += jnp.sum(difference(target, axis + 1, spacing, periodic[axis]) ** 2)
    return _ratio(above, below)


def normalised_rmse(
    prediction: Float[Array, "c *grid"], target: Float[Array, "c *grid"]
) -> Float[Array, ""]:
    """The mean over channels of ‖p_c - u_c‖ / ‖u_c‖: every channel counts alike.

    **Raises:** `ValueError` if the shapes differ or there is no grid axis.
    """
    prediction, target = _check(prediction, target)
    axes = tuple(range(1, target.ndim))
    above = jnp.sum((prediction - target) ** 2, axes)
    return jnp.mean(_ratio(above, jnp.sum(target**2, axes)))


def band_errors(
    prediction: Float[Array, "c *grid"],
    target: Float[Array, "c *grid"],
    edges: Sequence[float] = (0, 4, 12),
) -> Float[Array, " bands"]:
    """Root mean square error by band of wavenumbers, √(Σ_{|k| in band} |p̂_k - û_k|²).

    The squares add up to the mean square error, summed over channels.

    **Arguments:** `edges`: lower ends of the bands of |k|, ascending, from 0; the last band is
    open.

    **Raises:** `ValueError` if the shapes differ or the edges do not ascend from 0.
    """
    prediction, target = _check(prediction, target)
    edges = tuple(edges)
    if not edges or edges[0] != 0 or any(a >= b for a, b in itertools.pairwise(edges)):
        raise ValueError(f"edges: expected ascending numbers from 0, got {edges}")
    shape = target.shape[1:]
    coef = jnp.fft.fftn(prediction - target, axes=range(1, target.ndim), norm="forward")
    energy = jnp.sum(jnp.abs(coef) ** 2, 0)
    k = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij")
    band = np.digitize(np.sqrt(sum(q**2 for q in k)), edges) - 1
    return jnp.stack([_sqrt(jnp.sum(energy * (band == b))) for b in range(len(edges))])


def difference(
    u: Float[Array, "c *grid"], axis: int, spacing: float, periodic: bool
) -> Float[Array, "c *grid"]:
    """∂u/∂x along one axis: central differences, (u_{i+1} - u_{i-1}) / 2h.

    At walls (`periodic=False`) the one-sided difference of third order,
    (-11 u_0 + 18 u_1 - 9 u_2 + 2 u_3) / 6h, and its mirror image.
    """
    if periodic:
        return (jnp.roll(u, -1, axis) - jnp.roll(u, 1, axis)) / (2 * spacing)
    if u.shape[axis] < 4:
        raise ValueError(f"a wall axis needs at least 4 points, got {u.shape[axis]}")
    u = jnp.moveaxis(u, axis, -1)
    inside = (u[..., 2:] - u[..., :-2]) / 2
    stencil = jnp.asarray([-11, 18, -9, 2], u.dtype) / 6
    first = u[..., :4] @ stencil
    last = -(u[..., -4:] @ stencil[::-1])
    return jnp.moveaxis(
        jnp.concatenate([first[..., None], inside, last[..., None]], -1) / spacing, -1, axis
    )


def _sqrt(x: Array) -> Array:
    # The derivative of √ at 0 is infinite; a perfect prediction wants 0, and NaN stays NaN.
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))


def _ratio(above: Array, below: Array) -> Array:
    return _sqrt(above) / jnp.sqrt(below)


def _check(prediction: Array, target: Array) -> tuple[Array, Array]:
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    if prediction.shape != target.shape or target.ndim < 2:
        raise ValueError(
            "prediction and target: expected equal shapes (c, *grid), got "
            f"{prediction.shape} and {target.shape}"
        )
    return prediction, target


def _each(value, n_dims: int, name: str) -> tuple:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * n_dims
    if len(values) != n_dims:
        raise ValueError(f"{name}: expected one value or {n_dims}, got {value}")
    return values
