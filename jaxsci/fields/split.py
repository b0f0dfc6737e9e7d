"""Low-pass plus band-pass, and wavelets that start where the signal is singular.

    u(x) = u_low(x) + u_band(x)

Products of progressive wavelets (of one-sided spectrum) stay progressive: a deep wavelet network
makes no frequencies near zero, and none where its first layer has no atoms. So a separate branch
carries the low frequencies, and the first layer's atoms, centred at W x + b = 0, are put on edges
(arXiv:2310.00545).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
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
    image: Float[Array, "h w"], share: float = 0.1
) -> tuple[Float[Array, "p 2"], Float[Array, "p 2"]]:
    """The pixels with the largest gradients that are maxima along it, and the gradient's direction.

    **Arguments:**

    - `image`: grey values on the grid of `image_coordinates`.
    - `share`: of the pixels that may be edges, those of the largest gradients; 0.05 to 0.2.

    **Returns:** points in [−1, 1]² and unit normals. Not jittable: how many there are depends on
    the image.

    **Raises:** `ValueError` for a share outside (0, 1], or an image without edges.
    """
    if not 0 < share <= 1:
        raise ValueError(f"edge_points: share = {share}, expected a number in (0, 1]")
    image = jnp.asarray(image)
    smooth = image
    for axis in (0, 1):  # binomial smoothing, so that single noisy pixels are no edges
        before = jnp.roll(smooth, 1, axis)
        after = jnp.roll(smooth, -1, axis)
        smooth = (before + 2 * smooth + after) / 4
    down, right = jnp.gradient(smooth)
    down, right = (
        g.at[jnp.array([0, -1])].set(0).at[:, jnp.array([0, -1])].set(0) for g in (down, right)
    )
    size = jnp.hypot(down, right)
    unit = jnp.stack([down, right], -1) / jnp.maximum(size, 1e-12)[..., None]
    rows, columns = jnp.meshgrid(*map(jnp.arange, image.shape), indexing="ij")

    def beside(sign: int) -> Array:
        where = [rows + sign * unit[..., 0], columns + sign * unit[..., 1]]
        return jax.scipy.ndimage.map_coordinates(size, where, order=1, mode="nearest")

    ridge = (size >= beside(1)) & (size >= beside(-1)) & (size > 0)
    candidates = size[ridge]
    if candidates.size == 0:
        raise ValueError("edge_points: the image has no edges")
    keep = ridge & (size >= jnp.quantile(candidates, 1 - share))
    height, width = image.shape
    places: Any = jnp.stack([(rows + 0.5) / height, (columns + 0.5) / width], -1) * 2 - 1
    # Pixels may be oblong in [−1, 1]²; normals are of the coordinates.
    normal = unit * jnp.array([height, width]) / 2
    normal = normal / jnp.linalg.norm(normal, axis=-1, keepdims=True)
    return places[keep], normal[keep]
