"""More training data by covariance: a solved problem, seen in other coordinates, is another one."""

from collections.abc import Mapping
from typing import Literal

import equinox as eqx
import interpax
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci.pde import AbstractCovariantLaw, Grid

# How much of the random displacement is tried in turn until the map is invertible.
_STRENGTHS = (1.0, 0.75, 0.5, 0.25, 0.125, 0.0625, 0.0)
# Where invertibility is looked at: the displacement has few modes.
_PROBES = 33


def _displacement(coefficients: Float[Array, "2 m"], power: float, s: Array) -> Array:
    """Σₖ [aₖ sin 2πks + bₖ (1 − cos 2πks)]/(2πk)ᵖ, zero at both ends of [0, 1]."""
    sines, cosines = coefficients
    k = 2 * jnp.pi * jnp.arange(1, sines.shape[0] + 1, dtype=s.dtype)
    return jnp.sum((sines * jnp.sin(k * s) + cosines * (1 - jnp.cos(k * s))) / k**power)


class SmoothCoordinates(eqx.Module):
    """A smooth invertible map ξ ↦ x(ξ) of the unit interval or square onto itself.

    In one dimension x(ξ) = ξ + g(ξ). In two, curves x = ξ + g are given on the sides and blended:
    x = (1−η) f₁(ξ) + η f₂(ξ), y = (1−ξ) f₃(η) + ξ f₄(η). Made by `RandomCoordinates.sample`.
    """

    coefficients: Float[Array, "curves 2 m"]
    power: float = eqx.field(static=True)

    def map(self, xi: Float[Array, " d"]) -> Float[Array, " d"]:
        """x(ξ) for one point."""

        def curve(i, s):
            return s + _displacement(self.coefficients[i], self.power, s)

        if self.coefficients.shape[0] == 1:
            return curve(0, xi[0])[None]
        a, b = xi
        x = (1 - b) * curve(0, a) + b * curve(1, a)
        y = (1 - a) * curve(2, b) + a * curve(3, b)
        return jnp.stack([x, y])

    def jacobian(self, xi: Float[Array, " d"]) -> Float[Array, "d d"]:
        """∂xⁱ/∂ξᵃ, indices (i, a)."""
        return jax.jacfwd(self.map)(xi)

    def hessian(self, xi: Float[Array, " d"]) -> Float[Array, "d d d"]:
        """∂²xⁱ/∂ξᵃ∂ξᵇ, indices (i, a, b)."""
        return jax.jacfwd(self.jacobian)(xi)


class RandomCoordinates(eqx.Module):
    """The law of random smooth coordinates on the unit interval or square.

    Every curve is x(ξ) = ξ + Σₖ [aₖ sin 2πkξ + bₖ (1 − cos 2πkξ)]/(2πk)ᵖ, k ≤ M, with normal
    coefficients divided by Σₖ (|aₖ| + |bₖ|)/(2πk)^(p−1) + β. So |x′ − 1| < 1: a curve is monotone
    and keeps its ends. On the square that does not suffice for an invertible map; there all
    displacements are scaled down together until J ≥ `least` on a grid of 33 × 33 points.

    ```python
    change = RandomCoordinates(1, modes=5).sample(key)
    more = augment({"a": a[None, None], "f": f, "u": u}, Elliptic(), change, grid)
    ```

    **Arguments:**

    - `dim`: 1 or 2.
    - `modes`: M. Good values: 1 (gentle) to 10.
    - `beta`: β > 0, larger is gentler. Good values: 1e-5 (elliptic), 0.25 to 15.
    - `power`: p ≥ 1, the decay of the coefficients. Good values: 1 (elliptic), 2.
    - `least`: bound on J on the square, in (0, 1).

    **Raises:** `ValueError` for values out of range.

    Reference: arXiv 2301.12730. Its published code does not look at the sign of J on the square.
    """

    dim: int = eqx.field(static=True)
    modes: int = eqx.field(static=True, default=5)
    beta: float = eqx.field(static=True, default=1e-5)
    power: float = eqx.field(static=True, default=1.0)
    least: float = eqx.field(static=True, default=0.05)

    def __check_init__(self):
        if self.dim not in (1, 2):
            raise ValueError(f"RandomCoordinates: dim must be 1 or 2, got {self.dim!r}")
        if isinstance(self.modes, bool) or not isinstance(self.modes, int) or self.modes < 1:
            raise ValueError(f"RandomCoordinates: modes must be at least 1, got {self.modes!r}")
        if not self.beta > 0:
            raise ValueError(f"RandomCoordinates: beta must be positive, got {self.beta!r}")
        if not self.power >= 1:
            raise ValueError(f"RandomCoordinates: power must be at least 1, got {self.power!r}")
        if not 0 < self.least < 1:
            raise ValueError(f"RandomCoordinates: least must lie in (0, 1), got {self.least!r}")

    def sample(self, key: PRNGKeyArray) -> SmoothCoordinates:
        """One random map."""
        curves = 1 if self.dim == 1 else 4
        coefficients = jr.normal(key, (curves, 2, self.modes))
        k = 2 * jnp.pi * jnp.arange(1, self.modes + 1)
        steepest = jnp.sum(jnp.abs(coefficients) / k ** (self.power - 1), axis=(1, 2))
        coefficients = coefficients / (steepest + self.beta)[:, None, None]
        if self.dim == 2:
            coefficients = self._invertible(coefficients)
        return SmoothCoordinates(coefficients, self.power)

    def _invertible(self, coefficients: Array) -> Array:
        side = jnp.linspace(0, 1, _PROBES)
        points = jnp.stack(jnp.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)

        def smallest(strength):
            change = SmoothCoordinates(strength * coefficients, self.power)
            return jnp.min(jnp.linalg.det(jax.vmap(change.jacobian)(points)))

        strengths = jnp.asarray(_STRENGTHS)
        good = jax.vmap(smallest)(strengths) >= self.least  # the last, the identity, always is
        return strengths[jnp.argmax(good)] * coefficients


def augment(
    fields: Mapping[str, Array],
    law: AbstractCovariantLaw,
    change: SmoothCoordinates,
    grid: Grid,
    *,
    method: Literal["cubic", "linear"] = "cubic",
) -> dict[str, Array]:
    """The same solved problem in other coordinates: φ(x) ↦ law(φ(x(ξ)), ∂x/∂ξ, ∂²x/∂ξ²).

    Exact but for the interpolation, whose error falls like h² (linear) or faster (cubic, at least
    h³ for smooth fields). A batch: `jax.vmap` over `fields` and `change`.

    **Arguments:**

    - `fields`: the problem's fields on `grid`, as `law.ranks` says.
    - `law`: `Elliptic()`, `ConvectionDiffusion()` or `Wave()`.
    - `change`: from `RandomCoordinates(...).sample(key)`.
    - `grid`: the unit interval or square with its ends.
    - `method`: "linear" keeps the bounds of a field that jumps; "cubic" keeps the height of
        smooth bumps, which linear interpolation lowers.

    **Returns:** the new problem's fields, on the same grid.

    **Raises:** `ValueError` for a grid that is periodic, without its ends, not the unit box or of
    another dimension than `change`; for fields that do not fit the law or the grid.
    """
    dim = 1 if change.coefficients.shape[0] == 1 else 2
    if grid.n_dims != dim:
        raise ValueError(f"augment: change has dimension {dim}, the grid {grid.n_dims}")
    box = all(grid.endpoint) and set(grid.lo) == {0.0} and set(grid.hi) == {1.0}
    if not box:
        raise ValueError(
            "augment: grid must be the unit box with its end points, as the coordinates keep its "
            f"sides in place; got {grid}"
        )
    if method not in ("cubic", "linear"):
        raise ValueError(f"augment: method must be 'cubic' or 'linear', got {method!r}")
    for name, field in fields.items():
        if field.shape[-dim:] != grid.shape:
            raise ValueError(
                f"augment: field {name!r} must end in the grid's shape {grid.shape}, "
                f"got {field.shape}"
            )
    xi = grid.coords().reshape(dim, -1).T
    points = jax.vmap(change.map)(xi)
    new = {name: _sample(field, points, grid, method) for name, field in fields.items()}
    jacobian, hessian = (
        jnp.moveaxis(jax.vmap(derivative)(xi), 0, -1).reshape((dim,) * rank + grid.shape)
        for rank, derivative in ((2, change.jacobian), (3, change.hessian))
    )
    return law(new, jacobian, hessian)


def _sample(field: Array, points: Float[Array, "n d"], grid: Grid, method: str) -> Array:
    """The field at scattered points of the box, in the shape that it had on the grid."""
    dim = grid.n_dims
    axes = [jnp.linspace(0.0, 1.0, n, dtype=field.dtype) for n in grid.shape]
    values = jnp.moveaxis(field.reshape(-1, *grid.shape), 0, -1)
    queries = jnp.clip(points, 0.0, 1.0).T  # rounding may put an end outside
    if dim == 1:
        sampled = interpax.interp1d(queries[0], axes[0], values, method=method)
    else:
        (xi, eta), (x, y) = queries, axes
        sampled = interpax.interp2d(xi, eta, x, y, values, method=method)
    return jnp.moveaxis(sampled, -1, 0).reshape(field.shape)
