"""The unit sphere."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .base import AbstractManifold, normal
from .smooth import asinc, cos, norm, sinc


class Sphere(AbstractManifold):
    """Sⁿ = {x ∈ ℝⁿ⁺¹ : |x| = 1} with the metric of ℝⁿ⁺¹.

        exp_x(v) = cos|v| x + sin|v| v/|v|,   d(x, y) = 2 atan2(|x − y|, |x + y|)
        transport of v:  v − 2 ⟨x + y, v⟩ / |x + y|² (x + y)
        retraction:  (x + v) / |x + v|

    The distance by atan2 keeps its digits near 0 and near π, where arccos ⟨x, y⟩ loses half of
    them. At the antipode log takes one of the geodesics, and transport leaves v as it is.

    The heat kernel is a series in Legendre polynomials P_l of n + 1 dimensions, cut at `terms`:

        p_t(x, y) = Σ_l N_l exp(−l (l + n − 1) t/2) P_l(⟨x, y⟩) / vol,   N_l harmonics of degree l

    which is exact to rounding for t ≥ 80/terms² in float64 and 40/terms² in float32.

    **Arguments:**

    - `dim`: n; 2 is the sphere in ℝ³.
    - `terms`: of the heat kernel.

    **Raises:** `ValueError` for `dim` < 1 or `terms` < 2.
    """

    dim: int = eqx.field(static=True)
    terms: int = eqx.field(static=True, default=64)

    def __check_init__(self):
        if self.dim < 1:
            raise ValueError(f"Sphere: dim = {self.dim}: expected at least 1")
        if self.terms < 2:
            raise ValueError(f"Sphere: terms = {self.terms}: expected at least 2")

    @property
    def ambient_shape(self) -> tuple[int, ...]:
        return (self.dim + 1,)

    @property
    def cut_distance(self) -> float:
        return math.pi

    def origin(self) -> Float[Array, " n"]:
        return jnp.zeros(self.dim + 1).at[0].set(1)

    def random_point(self, key: PRNGKeyArray) -> Float[Array, " n"]:
        return self._project(jr.normal(key, (self.dim + 1,)))

    def log_volume(self) -> float:
        half = (self.dim + 1) / 2
        return math.log(2) + half * math.log(math.pi) - math.lgamma(half)

    def _exp(self, x, v):
        s = jnp.sum(v * v)
        return self._project(cos(s) * x + sinc(s) * v)

    def _log(self, x, y):
        near = jnp.sum(x * y) > 0
        # y − x and y + x have the same tangent part; the shorter one has fewer rounding errors.
        u = self._tangent(x, jnp.where(near, y - x, y + x))
        s = jnp.sum(u * u)  # sin² of the distance
        opposite = ~near & (s == 0)
        far = jnp.where(near | opposite, 1, s)
        angle = jnp.arctan2(jnp.sqrt(far), jnp.where(near, 0, jnp.sum(x * y)))
        factor = jnp.where(near, asinc(jnp.where(near, s, 0)), angle / jnp.sqrt(far))
        # At the antipode: any direction, for example along the axis that x is farthest from.
        axis = jax.nn.one_hot(jnp.argmin(jnp.abs(x)), x.size, dtype=x.dtype)
        return jnp.where(opposite, jnp.pi * self._project(self._tangent(x, axis)), factor * u)

    def _dist(self, x, y):
        return 2 * jnp.arctan2(norm(x - y), norm(x + y))

    def _inner(self, x, u, v):
        return jnp.sum(u * v)

    def _transport(self, x, y, v):
        # A reflection, which keeps lengths whatever the rounding errors of x and y.
        w = x + y
        s = jnp.sum(w * w)
        return self._tangent(y, v - 2 * jnp.sum(w * v) / jnp.where(s == 0, 1, s) * w)

    def _project(self, x):
        size = norm(x)
        scaled = x / jnp.where(size == 0, 1, size)
        return jnp.where(size == 0, self.origin().astype(x.dtype), scaled)

    def _tangent(self, x, a):
        return a - jnp.sum(x * a) * x

    def _egrad_to_rgrad(self, x, g):
        return self._tangent(x, g)

    def _retract(self, x, v):
        return self._project(x + v)

    def _random_tangent(self, key, x):
        return self._tangent(x, normal(key, x))

    def _violation(self, x):
        return jnp.abs(norm(x) - 1)

    def _heat_kernel(self, t, x, y):
        n, z = self.dim, jnp.sum(x * y)
        l = np.arange(1, self.terms)
        count = [(2 * k + n - 1) / k * math.comb(k + n - 2, k - 1) for k in l.tolist()]
        rates = jnp.asarray(l * (l + n - 1) / 2, z.dtype)
        weight = jnp.asarray(count, z.dtype) * jnp.exp(-rates * t)

        def add(carry, coefficients):
            total, before, now = carry
            weight, a, b = coefficients
            return (total + weight * now, now, a * z * now - b * before), None

        # (l + n − 1) P_{l+1} = (2l + n − 1) z P_l − l P_{l−1}
        a, b = (2 * l + n - 1) / (l + n - 1), l / (l + n - 1)
        rows = weight, jnp.asarray(a, z.dtype), jnp.asarray(b, z.dtype)
        one = jnp.ones_like(z)
        total = jax.lax.scan(add, (one, one, z), rows)[0][0]
        return total * math.exp(-self.log_volume())
