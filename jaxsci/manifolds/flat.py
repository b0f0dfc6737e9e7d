"""Flat manifolds: Euclidean space and the torus."""

import math

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .base import AbstractManifold, normal
from .smooth import norm


class Euclidean(AbstractManifold):
    """ℝⁿ, or arrays of any shape:   exp_x(v) = x + v,   d(x, y) = |x − y|.

    ```python
    Euclidean((3, 2)).dist(jnp.zeros((3, 2)), jnp.ones((3, 2)))  # √6
    ```

    **Arguments:** `shape`: that of a point; an integer n stands for (n,), and () is the real line.

    **Raises:** `ValueError` for a negative size.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def __init__(self, shape: int | tuple[int, ...] = ()):
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if any(n < 0 for n in self.shape):
            raise ValueError(f"Euclidean: shape = {self.shape}: expected sizes >= 0")
        self.dim = math.prod(self.shape)

    @property
    def ambient_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def cut_distance(self) -> float:
        return math.inf

    def origin(self) -> Float[Array, "*shape"]:
        return jnp.zeros(self.shape)

    def random_point(self, key: PRNGKeyArray) -> Float[Array, "*shape"]:
        return jr.normal(key, self.shape)

    def log_volume(self) -> float:
        return math.inf

    def _exp(self, x, v):
        return x + v

    def _log(self, x, y):
        return y - x

    def _dist(self, x, y):
        return norm(x - y)

    def _inner(self, x, u, v):
        return jnp.sum(u * v)

    def _transport(self, x, y, v):
        return v

    def _project(self, x):
        return x

    def _tangent(self, x, a):
        return a

    def _egrad_to_rgrad(self, x, g):
        return g

    def _retract(self, x, v):
        return x + v

    def _random_tangent(self, key, x):
        return normal(key, x)

    def _violation(self, x):
        return jnp.zeros((), x.dtype)

    def _heat_kernel(self, t, x, y):
        # The exponent first: its parts alone may leave the range of the floats.
        return jnp.exp(-jnp.sum((x - y) ** 2) / (2 * t) - self.dim / 2 * jnp.log(2 * jnp.pi * t))


class Torus(AbstractManifold):
    """Tⁿ: n angles in [−π, π), each a circle of length 2π.

        exp_x(v) = wrap(x + v),   log_x(y) = wrap(y − x),   wrap(a) = a − 2π ⌊a/2π + ½⌋

    **Arguments:** `dim`: n, the number of angles.

    **Raises:** `ValueError` for `dim` < 1.
    """

    dim: int = eqx.field(static=True)

    def __check_init__(self):
        if self.dim < 1:
            raise ValueError(f"Torus: dim = {self.dim}: expected at least 1")

    @property
    def ambient_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    @property
    def cut_distance(self) -> float:
        return math.pi

    def origin(self) -> Float[Array, " n"]:
        return jnp.zeros(self.dim)

    def random_point(self, key: PRNGKeyArray) -> Float[Array, " n"]:
        return jr.uniform(key, (self.dim,), minval=-jnp.pi, maxval=jnp.pi)

    def log_volume(self) -> float:
        return self.dim * math.log(2 * math.pi)

    def _exp(self, x, v):
        return _wrap(x + v)

    def _log(self, x, y):
        return _wrap(y - x)

    def _dist(self, x, y):
        return norm(_wrap(y - x))

    def _inner(self, x, u, v):
        return jnp.sum(u * v)

    def _transport(self, x, y, v):
        return v

    def _project(self, x):
        return _wrap(x)

    def _tangent(self, x, a):
        return a

    def _egrad_to_rgrad(self, x, g):
        return g

    def _retract(self, x, v):
        return _wrap(x + v)

    def _random_tangent(self, key, x):
        return normal(key, x)

    def _violation(self, x):
        return jnp.max(jnp.abs(x - _wrap(x)))

    def _heat_kernel(self, t, x, y):
        """∏ Σ_k N(xᵢ − yᵢ + 2πk; 0, t) for t < 3, else by its Fourier series; to rounding."""
        a = _wrap(y - x)[:, None]
        k = jnp.arange(-4, 5)
        images = jnp.sum(jnp.exp(-((a + 2 * jnp.pi * k) ** 2) / (2 * t)), 1)
        images = images / jnp.sqrt(2 * jnp.pi * t)
        waves = jnp.sum(jnp.exp(-(k**2) * t / 2) * jnp.cos(k * a), 1) / (2 * jnp.pi)
        return jnp.prod(jnp.where(t < 3, images, waves))


def _wrap(a: Float[Array, " n"]) -> Float[Array, " n"]:
    return a - 2 * jnp.pi * jnp.floor(a / (2 * jnp.pi) + 0.5)
