"""Regions of space: uniform points inside and on the boundary, and signed distances.

A domain Ω has a signed distance φ, negative inside. Sets are combined by

    φ_{A∪B} = min(φ_A, φ_B),   φ_{A∩B} = max(φ_A, φ_B),   φ_{A∖B} = max(φ_A, −φ_B),

which have the right sign and zero set everywhere and bound the distance from below.
"""

import abc
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class BoundaryPoints(NamedTuple):
    """Points on a boundary, outward unit normals, and which part of it each is on."""

    x: Float[Array, "n d"]
    normal: Float[Array, "n d"]
    tag: Int[Array, " n"]


class AbstractDomain(eqx.Module):
    """A bounded region Ω of d-dimensional space."""

    @property
    @abc.abstractmethod
    def lower(self) -> np.ndarray:
        """Lower corner of a box around it."""

    @property
    @abc.abstractmethod
    def upper(self) -> np.ndarray:
        """Upper corner of a box around it."""

    @abc.abstractmethod
    def sdf(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Signed distance of a point to the boundary, negative inside."""

    @abc.abstractmethod
    def measure(self) -> float:
        """Its volume."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        """Independent uniform points inside.

        **Raises:** `ValueError` for n < 1.
        """

    @abc.abstractmethod
    def boundary_measure(self) -> float:
        """The area of its boundary."""

    @abc.abstractmethod
    def sample_boundary(self, key: PRNGKeyArray, n: int) -> BoundaryPoints:
        """Independent uniform points on the boundary, with normals and tags.

        **Raises:** `ValueError` for n < 1.
        """

    @property
    def dim(self) -> int:
        """The number d of coordinates."""
        return len(self.lower)

    def contains(self, x: Float[Array, "*n d"]) -> Bool[Array, "*n"]:
        """Whether points are inside or on the boundary, up to rounding.

        **Raises:** `ValueError` for points of another dimension.
        """
        x = jnp.asarray(x)
        if x.shape[-1] != self.dim:
            raise ValueError(f"contains: points have {x.shape[-1]} coordinates, not {self.dim}")
        distance = jnp.vectorize(self.sdf, signature="(d)->()")(x)
        return distance <= _tolerance(self, x.dtype)


class Box(AbstractDomain):
    """The box ∏ [lo_i, hi_i]. Tag of the face x_i = lo_i is 2i, of x_i = hi_i it is 2i + 1.

    **Raises:** `ValueError` if lo and hi differ in length, or lo is not below hi.
    """

    lo: tuple[float, ...] = eqx.field(static=True)
    hi: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, lo: Sequence[float], hi: Sequence[float]):
        self.lo, self.hi = tuple(map(float, lo)), tuple(map(float, hi))
        if len(self.lo) != len(self.hi) or not self.lo:
            raise ValueError(f"Box: lo = {self.lo} and hi = {self.hi} must have the same length")
        if not all(a < b and math.isfinite(b - a) for a, b in zip(self.lo, self.hi, strict=True)):
            raise ValueError(f"Box: expected finite lo < hi, got {self.lo} and {self.hi}")

    @property
    def lower(self) -> np.ndarray:
        return np.array(self.lo)

    @property
    def upper(self) -> np.ndarray:
        return np.array(self.hi)

    def sdf(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        out = jnp.maximum(jnp.asarray(self.lo, x.dtype) - x, x - jnp.asarray(self.hi, x.dtype))
        return _length(jnp.maximum(out, 0)) + jnp.minimum(jnp.max(out), 0)

    def measure(self) -> float:
        return float(np.prod(self.upper - self.lower))

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        _check(n)
        u = jr.uniform(key, (n, self.dim))
        return jnp.asarray(self.lo, u.dtype) + u * jnp.asarray(self.upper - self.lower, u.dtype)

    def boundary_measure(self) -> float:
        return float(2 * np.sum(self._faces()))

    def sample_boundary(self, key: PRNGKeyArray, n: int) -> BoundaryPoints:
        point_key, face_key = jr.split(key)
        x = self.sample(point_key, n)
        areas = np.repeat(self._faces(), 2)
        tag = jr.choice(face_key, 2 * self.dim, (n,), p=jnp.asarray(areas / areas.sum()))
        axis, side = tag // 2, tag % 2
        rows = jnp.arange(n)
        wall = jnp.where(side == 1, jnp.asarray(self.hi)[axis], jnp.asarray(self.lo)[axis])
        normal = jnp.zeros_like(x).at[rows, axis].set(2.0 * side - 1)
        return BoundaryPoints(x.at[rows, axis].set(wall.astype(x.dtype)), normal, tag)

    def _faces(self) -> np.ndarray:
        widths = self.upper - self.lower
        return np.array([np.prod(np.delete(widths, i)) for i in range(self.dim)])


def Interval(lo: float, hi: float) -> Box:
    """The interval [lo, hi], a box with one coordinate."""
    return Box((lo,), (hi,))


class Ball(AbstractDomain):
    """The ball |x − center| ≤ radius.

    - `law`: `"volume"`: points are uniform; `"radius"`: their direction and radius are, so that
        most are not near the surface in many dimensions (the test law of arXiv:2412.00088).

    **Raises:** `ValueError` for a radius that is not positive, an empty center or another law.
    """

    center: tuple[float, ...] = eqx.field(static=True)
    radius: float = eqx.field(static=True, default=1.0)
    law: Literal["volume", "radius"] = eqx.field(static=True, default="volume")

    def __check_init__(self):
        if not self.radius > 0 or not self.center:
            raise ValueError(f"Ball: expected radius > 0 and a center, got {self.radius}")
        if self.law not in ("volume", "radius"):
            raise ValueError(f"Ball: law = {self.law!r}, expected 'volume' or 'radius'")

    @property
    def lower(self) -> np.ndarray:
        return np.array(self.center) - self.radius

    @property
    def upper(self) -> np.ndarray:
        return np.array(self.center) + self.radius

    def sdf(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return _length(x - jnp.asarray(self.center, x.dtype)) - self.radius

    def measure(self) -> float:
        d = self.dim
        return math.exp(d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)) * self.radius**d

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        _check(n)
        direction_key, radius_key = jr.split(key)
        v = self._directions(direction_key, n)
        r = jr.uniform(radius_key, (n, 1), v.dtype)
        if self.law == "volume":
            r = r ** (1 / self.dim)
        return jnp.asarray(self.center, v.dtype) + self.radius * r * v

    def boundary_measure(self) -> float:
        return self.measure() * self.dim / self.radius

    def sample_boundary(self, key: PRNGKeyArray, n: int) -> BoundaryPoints:
        _check(n)
        v = self._directions(key, n)
        x = jnp.asarray(self.center, v.dtype) + self.radius * v
        return BoundaryPoints(x, v, jnp.zeros(n, jnp.int32))

    def _directions(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        v = jr.normal(key, (n, self.dim))
        return v / jnp.linalg.norm(v, axis=1, keepdims=True)


class Simplex(AbstractDomain):
    """The simplex x_i ≥ 0, Σ x_i ≤ 1. Tag i is the face x_i = 0, tag d the slanted one.

    **Raises:** `ValueError` for a dimension below 1.
    """

    dimension: int = eqx.field(static=True)

    def __check_init__(self):
        if self.dimension < 1:
            raise ValueError(f"Simplex: dimension = {self.dimension}, expected at least 1")

    @property
    def lower(self) -> np.ndarray:
        return np.zeros(self.dimension)

    @property
    def upper(self) -> np.ndarray:
        return np.ones(self.dimension)

    def sdf(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """The distance inside; outside the largest distance to a face's plane, a lower bound."""
        return jnp.maximum(jnp.max(-x), (jnp.sum(x) - 1) / math.sqrt(self.dimension))

    def measure(self) -> float:
        return 1 / math.factorial(self.dimension)

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        _check(n)
        gaps = jr.exponential(key, (n, self.dimension + 1))
        return gaps[:, :-1] / jnp.sum(gaps, 1, keepdims=True)

    def boundary_measure(self) -> float:
        face = 1 / math.factorial(self.dimension - 1)
        return face * (self.dimension + math.sqrt(self.dimension))

    def sample_boundary(self, key: PRNGKeyArray, n: int) -> BoundaryPoints:
        _check(n)
        d = self.dimension
        tag_key, point_key = jr.split(key)
        weights = np.array([1.0] * d + [math.sqrt(d)])
        tag = jr.choice(tag_key, d + 1, (n,), p=jnp.asarray(weights / weights.sum()))
        # Barycentric coordinates with the one that belongs to the face set to zero.
        gaps = jr.exponential(point_key, (n, d + 1)).at[jnp.arange(n), tag].set(0)
        x = gaps[:, :-1] / jnp.sum(gaps, 1, keepdims=True)
        normals = np.concatenate([-np.eye(d), np.full((1, d), 1 / math.sqrt(d))])
        return BoundaryPoints(x, jnp.asarray(normals, x.dtype)[tag], tag)


class SpaceTime(AbstractDomain):
    """Ω × [t0, t1], with time as the last coordinate.

    The boundary is that of space at all times, with space's tags and no normal component in time;
    `sample_initial` draws points at t0.

    **Raises:** `ValueError` if t0 is not below t1.
    """

    space: AbstractDomain
    t0: float = eqx.field(static=True, default=0.0)
    t1: float = eqx.field(static=True, default=1.0)

    def __check_init__(self):
        if not self.t0 < self.t1:
            raise ValueError(f"SpaceTime: expected t0 < t1, got {self.t0} and {self.t1}")

    @property
    def lower(self) -> np.ndarray:
        return np.append(self.space.lower, self.t0)

    @property
    def upper(self) -> np.ndarray:
        return np.append(self.space.upper, self.t1)

    def sdf(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        time = jnp.maximum(self.t0 - x[-1], x[-1] - self.t1)
        space = self.space.sdf(x[:-1])
        outside = _length(jnp.maximum(jnp.stack([space, time]), 0))
        return outside + jnp.minimum(jnp.maximum(space, time), 0)

    def measure(self) -> float:
        return self.space.measure() * (self.t1 - self.t0)

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        space_key, time_key = jr.split(key)
        x = self.space.sample(space_key, n)
        return jnp.concatenate([x, self._times(time_key, n)], 1)

    def sample_initial(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        """Uniform points at the time t0."""
        x = self.space.sample(key, n)
        return jnp.concatenate([x, jnp.full((n, 1), self.t0, x.dtype)], 1)

    def boundary_measure(self) -> float:
        return self.space.boundary_measure() * (self.t1 - self.t0)

    def sample_boundary(self, key: PRNGKeyArray, n: int) -> BoundaryPoints:
        space_key, time_key = jr.split(key)
        x, normal, tag = self.space.sample_boundary(space_key, n)
        zero = jnp.zeros((n, 1), normal.dtype)
        x = jnp.concatenate([x, self._times(time_key, n)], 1)
        return BoundaryPoints(x, jnp.concatenate([normal, zero], 1), tag)

    def _times(self, key: PRNGKeyArray, n: int) -> Float[Array, "n 1"]:
        return jr.uniform(key, (n, 1), minval=self.t0, maxval=self.t1)


class Combined(AbstractDomain):
    """A union, an intersection or a difference; made by `union`, `intersection`, `difference`.

    Points are drawn from the box around it, or from the boundaries of its parts, until they fit.
    Tags are numbered through the parts, `part_tags` apart.
    """

    kind: Literal["union", "intersection", "difference"] = eqx.field(static=True)
    first: AbstractDomain
    second: AbstractDomain

    def __check_init__(self):
        if self.first.dim != self.second.dim:
            raise ValueError(
                f"{self.kind}: dimensions differ, {self.first.dim} and {self.second.dim}"
            )

    @property
    def lower(self) -> np.ndarray:
        if self.kind == "difference":
            return self.first.lower
        choose = np.minimum if self.kind == "union" else np.maximum
        return choose(self.first.lower, self.second.lower)

    @property
    def upper(self) -> np.ndarray:
        if self.kind == "difference":
            return self.first.upper
        choose = np.maximum if self.kind == "union" else np.minimum
        return choose(self.first.upper, self.second.upper)

    def sdf(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        a, b = self.first.sdf(x), self.second.sdf(x)
        if self.kind == "union":
            return jnp.minimum(a, b)
        return jnp.maximum(a, b if self.kind == "intersection" else -b)

    def measure(self) -> float:
        """From 2¹⁶ points of a lattice in the box around it, good to about a percent."""
        n, d = 2**16, self.dim
        # Additive recurrence with the root of t^{d+1} = t + 1: evenly spread in every dimension.
        root = 2.0
        for _ in range(60):
            root = (1 + root) ** (1 / (d + 1))
        steps = root ** -np.arange(1, d + 1)
        u = np.mod(0.5 + np.outer(np.arange(n), steps), 1)
        x = jnp.asarray(self.lower + u * (self.upper - self.lower))
        share = float(jnp.mean(jax.vmap(self.sdf)(x) <= 0))
        return share * float(np.prod(self.upper - self.lower))

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        box = Box(self.lower.tolist(), self.upper.tolist())

        def draw(key: PRNGKeyArray) -> tuple[Array, Array]:
            x = box.sample(key, n)
            return x, jax.vmap(self.sdf)(x) <= 0

        return _until(draw, key)

    def boundary_measure(self) -> float:
        """From 2¹⁴ points on the boundaries of the parts."""
        total = sum(part.boundary_measure() for part, _ in self._parts())
        x, _, _ = self._candidates(jr.key(0), 2**14)
        return total * float(jnp.mean(self._on_boundary(x)))

    def sample_boundary(self, key: PRNGKeyArray, n: int) -> BoundaryPoints:
        _check(n)

        def draw(key: PRNGKeyArray) -> tuple[BoundaryPoints, Array]:
            points = self._candidates(key, n)
            return points, self._on_boundary(points.x)

        return _until(draw, key)

    def _parts(self) -> list[tuple[AbstractDomain, int]]:
        """The simple domains, and −1 for those that are taken away."""
        parts = []
        for part, sign in ((self.first, 1), (self.second, -1 if self.kind == "difference" else 1)):
            inner = part._parts() if isinstance(part, Combined) else [(part, 1)]
            parts += [(domain, sign * s) for domain, s in inner]
        return parts

    def _candidates(self, key: PRNGKeyArray, n: int) -> BoundaryPoints:
        parts = self._parts()
        choice_key, *keys = jr.split(key, 1 + len(parts))
        areas = np.array([part.boundary_measure() for part, _ in parts])
        which = jr.choice(choice_key, len(parts), (n,), p=jnp.asarray(areas / areas.sum()))
        xs, normals, tags, offset = [], [], [], 0
        for (part, sign), part_key in zip(parts, keys, strict=True):
            x, normal, tag = part.sample_boundary(part_key, n)
            xs.append(x)
            normals.append(sign * normal)
            tags.append(tag + offset)
            offset += part_tags(part)
        rows = jnp.arange(n)
        return BoundaryPoints(
            jnp.stack(xs)[which, rows],
            jnp.stack(normals)[which, rows],
            jnp.stack(tags)[which, rows],
        )

    def _on_boundary(self, x: Float[Array, "n d"]) -> Bool[Array, " n"]:
        return jnp.abs(jax.vmap(self.sdf)(x)) <= _tolerance(self, x.dtype)


def union(first: AbstractDomain, second: AbstractDomain) -> Combined:
    """A ∪ B. **Raises:** `ValueError` for domains of different dimensions."""
    return Combined("union", first, second)


def intersection(first: AbstractDomain, second: AbstractDomain) -> Combined:
    """A ∩ B. **Raises:** `ValueError` for different dimensions, or boxes that do not meet."""
    domain = Combined("intersection", first, second)
    if np.any(domain.lower >= domain.upper):
        raise ValueError("intersection: the domains do not meet")
    return domain


def difference(first: AbstractDomain, second: AbstractDomain) -> Combined:
    """A ∖ B. **Raises:** `ValueError` for domains of different dimensions."""
    return Combined("difference", first, second)


def part_tags(domain: AbstractDomain) -> int:
    """How many tags the boundary points of a simple domain have."""
    if isinstance(domain, SpaceTime):
        return part_tags(domain.space)
    if isinstance(domain, Combined):
        return sum(part_tags(part) for part, _ in domain._parts())
    return {Box: 2 * domain.dim, Simplex: domain.dim + 1}.get(type(domain), 1)


def _until(draw, key: PRNGKeyArray):
    """Draws again what does not fit, up to 1000 times, and raises at run time if that fails."""

    def again(carry):
        key, found, fits, count = carry
        key, draw_key = jr.split(key)
        new, new_fits = draw(draw_key)

        def mix(old: Array, new: Array) -> Array:
            return jnp.where(fits.reshape(-1, *(1,) * (old.ndim - 1)), old, new)

        return key, jax.tree.map(mix, found, new), fits | new_fits, count + 1

    first_key, key = jr.split(key)
    found, fits = draw(first_key)
    _, found, fits, _ = jax.lax.while_loop(
        lambda c: ~jnp.all(c[2]) & (c[3] < 1000), again, (key, found, fits, jnp.zeros((), int))
    )
    return eqx.error_if(found, ~jnp.all(fits), "the domain is (nearly) empty: no points were found")


def _length(x: Float[Array, " d"]) -> Float[Array, ""]:
    """The norm, with a derivative of zero at zero."""
    squared = jnp.sum(x**2)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


def _tolerance(domain: AbstractDomain, dtype) -> float:
    size = np.max(np.maximum(np.abs(domain.lower), np.abs(domain.upper)))
    return float(16 * jnp.finfo(dtype).eps * max(size, 1e-30) * math.sqrt(domain.dim))


def _check(n: int) -> None:
    if n < 1:
        raise ValueError(f"n = {n}: expected at least one point")
