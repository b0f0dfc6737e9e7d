"""Low-pass plus band-pass, and wavelets that start where the signal is singular.

    u(x) = u_low(x) + u_band(x)

Products of progressive wavelets (of one-sided spectrum) stay progressive: a deep wavelet network
makes no frequencies near zero, and none where its first layer has no atoms. So a separate branch
carries the low frequencies, and the first layer's atoms, centred at W x + b = 0, are put on edges
(arXiv:2310.00545).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .networks import Wire


class SplitField(eqx.Module):
    """The sum of a low-pass field and a band-pass one, trained together.

    - `lowpass`: smooth, few weights: `GaussNet` with a small `sigma0`, or `Siren` with a small ω₀.
    - `bandpass`: a `Wire`.
    """

    lowpass: Callable[[Array], Array]
    bandpass: Callable[[Array], Array]

    def __call__(self, x: Float[Array, " d"]) -> Array:
        return self.lowpass(x) + self.bandpass(x)


def init_at_singularities(
    field: Wire,
    points: Float[Array, "p d"],
    normals: Float[Array, "p d"],
    scales: tuple[float, float] = (0.3, 1.0),
    *,
    key: PRNGKeyArray,
) -> Wire:
    """The wavelets of the first layer, exp(iω₀z − |σ₀z|²) with z = s n·(x − p), put on edges.

    **Arguments:**

    - `field`: a `Wire`.
    - `points`: where the signal jumps. `normals`: unit directions across the edge.
    - `scales`: the range of s, drawn log-uniformly; 1 is the default layer's largest weight.

    **Returns:** the field with a new first layer; its units draw points with replacement.

    **Raises:** `ValueError` for no points, shapes that do not fit, or scales that are not positive;
    `TypeError` for another field.
    """
    if not isinstance(field, Wire):
        raise TypeError(f"init_at_singularities: expected a Wire, got {type(field).__name__}")
    points, normals = jnp.asarray(points), jnp.asarray(normals)
    width, d = field.first.weight.shape
    if points.ndim != 2 or not points.shape[0]:
        raise ValueError("init_at_singularities: the list of points is empty")
    if points.shape != normals.shape or points.shape[1] != d:
        raise ValueError(
            f"init_at_singularities: points {points.shape} and normals {normals.shape}, expected "
            f"(p, {d}) both"
        )
    if not 0 < scales[0] <= scales[1]:
        raise ValueError(f"init_at_singularities: scales = {scales}, expected 0 < low <= high")
    choice_key, scale_key, sign_key = jr.split(key, 3)
    chosen = jr.randint(choice_key, (width,), 0, points.shape[0])
    logs = jr.uniform(scale_key, (width, 1), minval=jnp.log(scales[0]), maxval=jnp.log(scales[1]))
    sign = jr.rademacher(sign_key, (width, 1), points.dtype)
    weight = sign * jnp.exp(logs) * normals[chosen]
    bias = -jnp.sum(weight * points[chosen], 1)
    return eqx.tree_at(lambda f: (f.first.weight, f.first.bias), field, (weight, bias))


def edge_points(
    image: Float[Array, "*grid"], share: float = 0.1
) -> tuple[Float[Array, "p d"], Float[Array, "p d"]]:
    """The pixels with the largest gradients that are maxima along it, and the gradient's direction.

    **Arguments:**

    - `image`: grey values on the grid of `image_coordinates`, or a signal in one dimension, on the
        centres of equal cells of [−1, 1].
    - `share`: of the pixels that may be edges, those of the largest gradients; 0.05 to 0.2.

    **Returns:** points in [−1, 1]^d and unit normals. Not jittable: how many there are depends on
    the image.

    **Raises:** `ValueError` for a share outside (0, 1], more than two dimensions, or an image
    without edges.
    """
    if not 0 < share <= 1:
        raise ValueError(f"edge_points: share = {share}, expected a number in (0, 1]")
    image = jnp.asarray(image)
    d = image.ndim
    if d not in (1, 2):
        raise ValueError(f"edge_points: image of shape {image.shape}, expected one or two axes")
    if image.size == 0 or min(image.shape) < 2:
        raise ValueError(f"edge_points: image of shape {image.shape}, expected two pixels a side")
    size, ridge, places, normal = map(np.asarray, _ridges(image))
    candidates = size[ridge]
    if candidates.size == 0:
        raise ValueError("edge_points: the image has no edges")
    keep = ridge & (size >= np.quantile(candidates, 1 - share))
    return jnp.asarray(places[keep]), jnp.asarray(normal[keep])


@jax.jit
def _ridges(image: Array) -> tuple[Array, Array, Array, Array]:
    """The gradient's size, where it is a maximum along itself, places, and unit normals."""
    d, smooth = image.ndim, image
    for axis in range(d):  # binomial smoothing, so that single noisy pixels are no edges
        n = image.shape[axis]
        padded = jnp.pad(smooth, [(int(i == axis),) * 2 for i in range(d)], mode="edge")
        before, here, after = (
            jax.lax.slice_in_dim(padded, start, start + n, axis=axis) for start in range(3)
        )
        smooth = (before + 2 * here + after) / 4
    slopes = jnp.stack([jnp.asarray(jnp.gradient(smooth, axis=axis)) for axis in range(d)], -1)
    size = jnp.linalg.norm(slopes, axis=-1)
    unit = slopes / jnp.maximum(size, 1e-12)[..., None]
    index = jnp.stack(jnp.meshgrid(*map(jnp.arange, image.shape), indexing="ij"), -1)

    def beside(sign: int) -> Array:
        where = list(jnp.moveaxis(index + sign * unit, -1, 0))
        return jax.scipy.ndimage.map_coordinates(size, where, order=1, mode="nearest")

    ridge = (size >= beside(1)) & (size >= beside(-1)) & (size > 0)
    shape = jnp.array(image.shape)
    # Pixels may be oblong in [−1, 1]²; normals are of the coordinates.
    normal = unit * shape / 2
    normal = normal / jnp.maximum(jnp.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    return size, ridge, (index + 0.5) / shape * 2 - 1, normal
