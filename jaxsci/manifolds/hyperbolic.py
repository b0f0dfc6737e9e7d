"""Hyperbolic space of curvature −c: the Poincaré ball, the hyperboloid, the maps between them."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .base import AbstractManifold, normal
from .smooth import asinhc, cosh, norm, root, sinhc, tanhc


class Poincare(AbstractManifold):
    """The ball {x ∈ ℝⁿ : c|x|² < 1} with the metric λ_x² ⟨u, v⟩,  λ_x = 2/(1 − c|x|²).

    With Möbius addition, written so that nothing cancels (c = 1, g_x = 1 − |x|², s = x + y):

        x ⊕ y = (|s|² x + g_x s) / (|s|² + g_x g_y)
        exp_x(v) = x ⊕ tanh(λ_x|v|/2) v/|v|
        d(x, y) = 2 asinh r,   r² = |x − y|²/(g_x g_y)
        log_x(y) = (asinh r/r) (g_x e − |e|² x) / (g_y (|e|² + g_x g_y))^½,   e = y − x
        transport of v:  (g_y/g_x) gyr[y, −x] v
        retraction:  x + v;   Riemannian gradient:  g/λ_x²

    The usual formulas with artanh|−x ⊕ y| and 1 + 2⟨x, y⟩ + |x|²|y|² lose all digits of float32
    near the boundary.

    Points end at the norm 1 − 1e-5 in float32 and 1 − 1e-10 in float64 (times c^−½), where the
    distance from the origin is 12.2 and 23.7: exp and `project` clip, for beyond, 1 − |x|² has no
    digits. What needs more radius takes `Hyperboloid` in float64.

    **Arguments:**

    - `dim`: n.
    - `c`: minus the curvature; 1 is a good value. It may be an array, and learned.

    **Raises:** `ValueError` for `dim` < 1 or `c` <= 0.
    """

    dim: int = eqx.field(static=True)
    c: Any = 1.0

    def __check_init__(self):
        _check("Poincare", self.dim, self.c)

    @property
    def ambient_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    @property
    def cut_distance(self) -> float:
        return math.inf

    def origin(self) -> Float[Array, " n"]:
        return jnp.zeros(self.dim)

    def random_point(self, key: PRNGKeyArray) -> Float[Array, " n"]:
        return self._exp(self.origin(), self._random_tangent(key, self.origin()))

    def log_volume(self) -> float:
        return math.inf

    def _gap(self, x):
        """1 − c|x|², positive also where rounding has put x on the boundary."""
        return jnp.maximum(1 - self.c * jnp.sum(x * x), _margin(x.dtype))

    def _exp(self, x, v):
        half = jnp.sum(v * v) * self.c / self._gap(x) ** 2  # (√c λ|v|/2)²
        y = tanhc(half) / self._gap(x) * v
        # 1 − tanh² = cosh⁻², which does not cancel; cosh is cut off before it overflows.
        gap = 1 / cosh(jnp.minimum(half, 600)) ** 2
        return self._project(self._add(x, y, self._gap(x), gap))

    def _add(self, x, y, gap_x, gap_y):
        s = x + y
        squares = self.c * jnp.sum(s * s)
        return (squares * x + gap_x * s) / (squares + gap_x * gap_y)

    def _log(self, x, y):
        e, gap_x, gap_y = y - x, self._gap(x), self._gap(y)
        squares = self.c * jnp.sum(e * e)
        scale = asinhc(squares / (gap_x * gap_y)) / jnp.sqrt(gap_y * (squares + gap_x * gap_y))
        return scale * jnp.sqrt(gap_x) * (gap_x * e - squares * x)

    def _dist(self, x, y):
        r = root(self.c * jnp.sum((x - y) ** 2) / (self._gap(x) * self._gap(y)))
        return 2 * jnp.arcsinh(r) / jnp.sqrt(self.c)

    def _inner(self, x, u, v):
        return 4 * jnp.sum(u * v) / self._gap(x) ** 2

    def _transport(self, x, y, v):
        e, gap_x, gap_y = y - x, self._gap(x), self._gap(y)
        squares = self.c * jnp.sum(e * e)
        a, b = self.c * jnp.sum(x * v), self.c * jnp.sum(e * v)
        # gyr[y, −x] v − v, after the terms of Ungar's formula that cancel have been taken out.
        along = (b * gap_x - a * squares) * x - (b * (1 - gap_x) + a * (gap_y + squares)) * e
        return gap_y / gap_x * (v + 2 * along / (squares + gap_x * gap_y))

    def _project(self, x):
        size = norm(x)
        limit = (1 - _margin(x.dtype)) / jnp.sqrt(jnp.asarray(self.c, x.dtype))
        return jnp.where(size > limit, limit / jnp.where(size > limit, size, 1) * x, x)

    def _tangent(self, x, a):
        return a

    def _egrad_to_rgrad(self, x, g):
        return self._gap(x) ** 2 / 4 * g

    def _retract(self, x, v):
        return self._project(x + v)

    def _random_tangent(self, key, x):
        return self._gap(x) / 2 * normal(key, x)

    def _violation(self, x):
        return jnp.maximum(norm(x) - 1 / jnp.sqrt(self.c), 0)


class Hyperboloid(AbstractManifold):
    """{x ∈ ℝⁿ⁺¹ : ⟨x, x⟩ = −1/c, x₀ > 0} with ⟨u, v⟩ = −u₀v₀ + u₁v₁ + … + u_n v_n.

    The Lorentz model of hyperbolic space. With e = y − x, s = c⟨e, e⟩/4 and |v|² = ⟨v, v⟩, c = 1:

        exp_x(v) = cosh|v| x + sinh|v| v/|v|
        d(x, y) = 2 asinh s^½
        log_x(y) = (asinh s^½/s^½) (e − 2 s x) / (1 + s)^½
        transport of v:  v + ⟨y, v⟩/(2 + 2s) (x + y)
        tangent part:  a + ⟨x, a⟩ x;   Riemannian gradient: that of (−g₀, g₁, …, g_n)
        retraction:  exp, as it is cheap

    The distance needs no arccosh of a number near 1. Where x₀² exceeds the digits of the format,
    the constraint is lost: stay within 18 of the origin in float64, and within 8 in float32.

    **Arguments:**

    - `dim`: n; points have n + 1 coordinates.
    - `c`: minus the curvature; 1 is a good value. It may be an array, and learned.

    **Raises:** `ValueError` for `dim` < 1 or `c` <= 0.
    """

    dim: int = eqx.field(static=True)
    c: Any = 1.0

    def __check_init__(self):
        _check("Hyperboloid", self.dim, self.c)

    @property
    def ambient_shape(self) -> tuple[int, ...]:
        return (self.dim + 1,)

    @property
    def cut_distance(self) -> float:
        return math.inf

    def origin(self) -> Float[Array, " n"]:
        return jnp.zeros(self.dim + 1).at[0].set(1 / jnp.sqrt(self.c))

    def random_point(self, key: PRNGKeyArray) -> Float[Array, " n"]:
        x = self.origin()
        return self._exp(x, _with_first(0, jr.normal(key, x.shape)))

    def log_volume(self) -> float:
        return math.inf

    def _quarter(self, x, y):
        """The number s = c⟨e, e⟩/4, with e₀ from the others, which has the smaller error."""
        space = _signs(x, 0, 1)
        e = (y - x) * space
        first = jnp.sum(e * (x + y)) / (x[0] + y[0])
        return self.c / 4 * _positive(jnp.sum(e * e) - first**2)

    def _exp(self, x, v):
        s = self.c * _positive(_lorentz(v, v))
        return self._project(cosh(s) * x + sinhc(s) * v)

    def _log(self, x, y):
        s = self._quarter(x, y)
        return self._tangent(x, asinhc(s) / jnp.sqrt(1 + s) * (y - x - 2 * s * x))

    def _dist(self, x, y):
        return 2 * jnp.arcsinh(root(self._quarter(x, y))) / jnp.sqrt(self.c)

    def _inner(self, x, u, v):
        return _lorentz(u, v)

    def _transport(self, x, y, v):
        return v + self.c * _lorentz(y, v) / (2 + 2 * self._quarter(x, y)) * (x + y)

    def _project(self, x):
        return _with_first(jnp.sqrt(1 / self.c + jnp.sum(x**2 * _signs(x, 0, 1))), x)

    def _tangent(self, x, a):
        return a + self.c * _lorentz(x, a) * x

    def _egrad_to_rgrad(self, x, g):
        return self._tangent(x, _with_first(-g[0], g))

    def _retract(self, x, v):
        return self._exp(x, v)

    def _random_tangent(self, key, x):
        at_origin = _with_first(0, normal(key, x))
        return self._transport(self.origin().astype(x.dtype), x, at_origin)

    def _violation(self, x):
        # Relative to x₀², as the rounding of x₀ and |x| alone gives that times ε.
        off = jnp.abs(self.c * _lorentz(x, x) + 1) / (1 + self.c * x[0] ** 2)
        return jnp.where(x[0] <= 0, jnp.inf, off)


def to_lorentz(x: Float[Array, " n"], c: float | Float[Array, ""] = 1.0) -> Float[Array, " n+1"]:
    """From the Poincaré ball to the hyperboloid: (1 + c|x|², 2 c^½ x) / (c^½ (1 − c|x|²)).

    **Arguments:** `x`: a point of `Poincare(n, c)`. **Returns:** the point of `Hyperboloid(n, c)`.

    **Raises:** `ValueError` if x is not one vector.
    """
    _vector("to_lorentz", x)
    gap = jnp.maximum(1 - c * jnp.sum(x * x), _margin(x.dtype))
    return jnp.concatenate([((2 - gap) / jnp.sqrt(c))[None], 2 * x]) / gap


def to_poincare(x: Float[Array, " n+1"], c: float | Float[Array, ""] = 1.0) -> Float[Array, " n"]:
    """From the hyperboloid to the Poincaré ball: (x₁, …, x_n) / (1 + c^½ x₀).

    **Arguments:** `x`: a point of `Hyperboloid(n, c)`. **Returns:** the point of `Poincare(n, c)`.

    **Raises:** `ValueError` if x is not one vector.
    """
    _vector("to_poincare", x)
    return x[1:] / (1 + jnp.sqrt(c) * x[0])


def to_klein(x: Float[Array, " n+1"], c: float | Float[Array, ""] = 1.0) -> Float[Array, " n"]:
    """From the hyperboloid to the Klein ball, whose geodesics are straight: (x₁, …)/(c^½ x₀).

    **Arguments:** `x`: a point of `Hyperboloid(n, c)`. **Returns:** a point of the ball c|k|² < 1.

    **Raises:** `ValueError` if x is not one vector.
    """
    _vector("to_klein", x)
    return x[1:] / (jnp.sqrt(c) * x[0])


def _margin(dtype: Any) -> float:
    """How close points of the ball come to its boundary, relative to the radius."""
    eps = float(jnp.finfo(dtype).eps)
    return {2.0**-52: 1e-10, 2.0**-23: 1e-5}.get(eps, 4 * eps)


def _signs(v: Float[Array, " n"], first: int, others: int) -> Float[Array, " n"]:
    return jnp.asarray([first] + [others] * (v.size - 1), v.dtype)


def _lorentz(u: Float[Array, " n"], v: Float[Array, " n"]) -> Float[Array, ""]:
    """−u₀v₀ + u₁v₁ + … + u_n v_n.

    A sum over all entries with signs: `jnp.sum(u[1:] * v[1:]) - u[0] * v[0]`, mapped over more than
    8192 vectors, is compiled to a program with wrong results by XLA for CPUs (jaxlib 0.10.2).
    """
    return jnp.sum(u * v * _signs(u, -1, 1))


def _with_first(first: Any, v: Float[Array, " n"]) -> Float[Array, " n"]:
    """The vector v with another first entry."""
    return first * _signs(v, 1, 0) + v * _signs(v, 0, 1)


def _positive(s: Float[Array, ""]) -> Float[Array, ""]:
    """max(s, 0) with derivative 1, and not 1/2, at s = 0."""
    return jnp.where(s < 0, 0, s)


def _check(name: str, dim: int, c: Any) -> None:
    if dim < 1:
        raise ValueError(f"{name}: dim = {dim}: expected at least 1")
    if isinstance(c, int | float) and not c > 0:
        raise ValueError(f"{name}: c = {c}: expected a positive number (minus the curvature)")


def _vector(name: str, x: Any) -> None:
    if jnp.ndim(x) != 1 or jnp.size(x) < 1:
        raise ValueError(f"{name}: x has shape {jnp.shape(x)}, expected one vector")
