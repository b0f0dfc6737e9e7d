"""The terms a differential operator is a sum of, each with an exact value and an unbiased estimate.

    Partial          c ∂^α u                    one mixed derivative
    PowerSum         Σ_i c_i ∂_i^k u            the same derivative along all axes
    Polylaplacian    c Δᵐ u                     Laplacian, biharmonic, …
    Diffusion        c tr(σᵀ ∇²u σ)             any second-order operator
    GradientSquare   c |∇u|²                    not linear, but estimated in the same way

Estimates (arXiv:2412.00088) contract the derivative tensor with random directions whose moments
are those of the operator; each direction costs one jet.
"""

import abc
import math
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .forward_laplacian import forward_laplacian
from .jets.interpreter import OneHot, jet, mixed_jet

Method = Literal["sparse", "sdgd", "rademacher", "gaussian", "hutchinson"]
METHODS = ("sparse", "sdgd", "rademacher", "gaussian", "hutchinson")
Field = Callable[[Array], Array]
Coefficient = float | Array | Callable[[Array], Any]

MAX_ORDER = 12
"""The highest order of a derivative in an operator."""


class AbstractTerm(eqx.Module):
    """One term of a `DiffOp`."""

    @property
    @abc.abstractmethod
    def order(self) -> int:
        """The order of its derivatives."""

    @abc.abstractmethod
    def exact(self, f: Field, x: Float[Array, " d"], batch_size: int | None) -> Array:
        """Its value at x; at most `batch_size` directions at once."""

    @abc.abstractmethod
    def estimate(
        self, f: Field, x: Float[Array, " d"], key: PRNGKeyArray, n: int, method: Method
    ) -> Array:
        """An unbiased estimate of it from n directions."""


class Partial(AbstractTerm):
    """c(x) ∂^α u, with α given as the axes to differentiate along, with repetition.

    `axes = (0, 0, 1)` is ∂³/∂x₀² ∂x₁, and `()` is u itself. Estimates are exact.
    """

    axes: tuple[int, ...] = eqx.field(static=True)
    coefficient: Coefficient = 1.0

    def __init__(self, axes: tuple[int, ...], coefficient: Coefficient = 1.0):
        if not isinstance(axes, tuple) or not all(isinstance(a, int) and a >= 0 for a in axes):
            raise ValueError(f"Partial: expected a tuple of axes, integers >= 0, got {axes!r}")
        _check_order("Partial", len(axes))
        self.axes, self.coefficient = axes, coefficient

    @property
    def order(self) -> int:
        return len(self.axes)

    def exact(self, f: Field, x: Float[Array, " d"], batch_size: int | None) -> Array:
        if not self.axes:
            return weight(self.coefficient, x) * f(x)
        along = tuple(sorted(set(self.axes)))
        orders = tuple(self.axes.count(a) for a in along)
        return weight(self.coefficient, x) * mixed_jet(f, x, along, orders)[orders]

    def estimate(
        self, f: Field, x: Float[Array, " d"], key: PRNGKeyArray, n: int, method: Method
    ) -> Array:
        return self.exact(f, x, None)


class PowerSum(AbstractTerm):
    """Σ_i c_i(x) ∂_i^k u over the axes from `start` to before `stop` (all by default).

    `coefficient`: one number or one for each of these axes, or a function of x that gives them.
    """

    k: int = eqx.field(static=True)
    coefficient: Coefficient = 1.0
    start: int = eqx.field(static=True, default=0)
    stop: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.k < 1:
            raise ValueError(f"PowerSum: k = {self.k}, expected an integer >= 1")
        _check_order("PowerSum", self.k)

    @property
    def order(self) -> int:
        return self.k

    def exact(self, f: Field, x: Float[Array, " d"], batch_size: int | None) -> Array:
        axes = _axes(x, self.start, self.stop)
        c = jnp.broadcast_to(weight(self.coefficient, x), axes.shape)

        def along(i: Int[Array, ""], c: Float[Array, ""]) -> Array:
            return c * _pure(f, x, i, self.k)

        return _summed(along, (axes, c), batch_size)

    def estimate(
        self, f: Field, x: Float[Array, " d"], key: PRNGKeyArray, n: int, method: Method
    ) -> Array:
        axes = _axes(x, self.start, self.stop)
        c = jnp.broadcast_to(weight(self.coefficient, x), axes.shape)
        m = axes.size
        if method in ("sparse", "sdgd"):
            _check_draws(method, n, m)
            chosen = _draw(key, n, m, method == "sparse")
            scaled = c[chosen] * (m / n)
            if method == "sdgd":
                one = jax.vmap(lambda i, c: c * _nested(f, x, i, self.k))
            else:
                one = jax.vmap(lambda i, c: c * _pure(f, x, i, self.k))
            return jnp.sum(one(axes[chosen], scaled), 0)
        if self.k == 1:
            # E[(v·c)(v·∇u)] = Σ c_i ∂_i u
            def first(v: Float[Array, " d"]) -> Array:
                return jnp.dot(c, v[axes]) * jax.jvp(f, (x,), (v,))[1]

            return jnp.mean(jax.vmap(first)(_directions(key, n, x, axes, method)), 0)
        if self.k > 2:
            raise ValueError(
                f"estimate: method {method!r} is biased for Σ ∂_i^{self.k}; use 'sparse'"
            )
        if c.size and not callable(self.coefficient) and jnp.ndim(self.coefficient) == 0:
            quadratic = jax.vmap(lambda v: _quadratic(f, x, v, method))
            return c[0] * jnp.mean(quadratic(_directions(key, n, x, axes, method)), 0)

        # D²f[cv, v] = (D²f[v + cv] − D²f[v − cv]) / 4, for coefficients of any sign.
        def polarised(v: Float[Array, " d"]) -> Array:
            w = jnp.zeros_like(x).at[axes].set(c) * v
            plus, minus = _quadratic(f, x, v + w, method), _quadratic(f, x, v - w, method)
            return (plus - minus) / 4

        return jnp.mean(jax.vmap(polarised)(_directions(key, n, x, axes, method)), 0)


class Polylaplacian(AbstractTerm):
    """c(x) Δᵐ u over the axes from `start` to before `stop`: m = 1 Laplacian, 2 biharmonic."""

    m: int = eqx.field(static=True)
    coefficient: Coefficient = 1.0
    start: int = eqx.field(static=True, default=0)
    stop: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.m < 1:
            raise ValueError(f"Polylaplacian: m = {self.m}, expected an integer >= 1")
        _check_order("Polylaplacian", 2 * self.m)

    @property
    def order(self) -> int:
        return 2 * self.m

    def exact(self, f: Field, x: Float[Array, " d"], batch_size: int | None) -> Array:
        axes = _axes(x, self.start, self.stop)
        c = weight(self.coefficient, x)

        def once(g: Field) -> Field:
            if batch_size is not None:
                return lambda x: _summed(lambda i: _pure(g, x, i, 2), (axes,), batch_size)
            if axes.size == x.size:
                return lambda x: forward_laplacian(g, x).laplacian
            rows = jnp.eye(x.size, dtype=x.dtype)[self.start : self.stop]
            return lambda x: forward_laplacian(g, x, rows).laplacian

        for _ in range(self.m):
            f = once(f)
        return c * f(x)

    def estimate(
        self, f: Field, x: Float[Array, " d"], key: PRNGKeyArray, n: int, method: Method
    ) -> Array:
        axes = _axes(x, self.start, self.stop)
        c, size = weight(self.coefficient, x), axes.size
        if method in ("sparse", "sdgd"):
            _check_draws(method, n, size)
            if self.m == 1:
                return c * PowerSum(2, 1.0, self.start, self.stop).estimate(f, x, key, n, method)
            if method == "sdgd":
                raise ValueError("estimate: method 'sdgd' is for operators of order 2 at most")
            chosen = axes[jr.randint(key, (n, self.m), 0, size)]

            def product(indices: Int[Array, " m"]) -> Array:
                g = f
                for level in range(self.m):
                    g = _second(g, indices[level])
                return g(x)

            return c * size**self.m * jnp.mean(jax.vmap(product)(chosen), 0)
        directions = _directions(key, n, x, axes, method)
        if self.m == 1:
            return c * jnp.mean(jax.vmap(lambda v: _quadratic(f, x, v, method))(directions), 0)
        if method != "gaussian":
            raise ValueError(
                f"estimate: method {method!r} is biased for the order {self.order}: its fourth "
                "moments are not those of the normal distribution; use 'gaussian' or 'sparse'"
            )
        # E (v·∇)^{2m} = (2m − 1)!! Δᵐ
        moment = math.prod(range(1, 2 * self.m, 2))

        def power(v: Float[Array, " d"]) -> Array:
            return jet(f, x, [v, *[None] * (2 * self.m - 1)])[1][-1]

        return c * jnp.mean(jax.vmap(power)(directions), 0) / moment


class Diffusion(AbstractTerm):
    """c(x) tr(σᵀ ∇²u σ) = c Σ_k D²u[σ_k, σ_k], with the columns σ_k of a (d, m) matrix or of a
    function of x that gives one."""

    sigma: Float[Array, "d m"] | Callable[[Array], Array]
    coefficient: Coefficient = 1.0

    @property
    def order(self) -> int:
        return 2

    def exact(self, f: Field, x: Float[Array, " d"], batch_size: int | None) -> Array:
        c, columns = weight(self.coefficient, x), self._at(x).T
        if batch_size is None:
            return c * forward_laplacian(f, x, columns).laplacian
        return c * _summed(lambda v: _quadratic(f, x, v, "gaussian"), (columns,), batch_size)

    def estimate(
        self, f: Field, x: Float[Array, " d"], key: PRNGKeyArray, n: int, method: Method
    ) -> Array:
        sigma = self._at(x)
        m = sigma.shape[1]
        if method in ("sparse", "sdgd"):
            _check_draws(method, n, m)
            columns = sigma.T[_draw(key, n, m, method == "sparse")]
            factor = jnp.asarray(m, x.dtype)
        else:
            probes = _random(key, (n, m), x.dtype, method)
            columns, factor = probes @ sigma.T, jnp.asarray(1, x.dtype)
        values = jax.vmap(lambda v: _quadratic(f, x, v, method))(columns)
        return weight(self.coefficient, x) * factor * jnp.mean(values, 0)

    def _at(self, x: Array) -> Float[Array, "d m"]:
        sigma = jnp.asarray(self.sigma(x) if callable(self.sigma) else self.sigma, x.dtype)
        if sigma.ndim != 2 or sigma.shape[0] != x.size:
            raise ValueError(f"Diffusion: sigma has shape {sigma.shape}, expected ({x.size}, m)")
        return sigma


class GradientSquare(AbstractTerm):
    """c(x) |∇u|² over the axes from `start` to before `stop`, for a scalar u."""

    coefficient: Coefficient = 1.0
    start: int = eqx.field(static=True, default=0)
    stop: int | None = eqx.field(static=True, default=None)

    @property
    def order(self) -> int:
        return 1

    def exact(self, f: Field, x: Float[Array, " d"], batch_size: int | None) -> Array:
        gradient = jax.grad(f)(x)[self.start : self.stop]
        return weight(self.coefficient, x) * jnp.sum(gradient**2)

    def estimate(
        self, f: Field, x: Float[Array, " d"], key: PRNGKeyArray, n: int, method: Method
    ) -> Array:
        axes = _axes(x, self.start, self.stop)
        c = weight(self.coefficient, x)
        if method in ("sparse", "sdgd"):
            _check_draws(method, n, axes.size)
            chosen = axes[_draw(key, n, axes.size, method == "sparse")]
            slopes = jax.vmap(lambda i: _pure(f, x, i, 1))(chosen)
            return c * axes.size * jnp.mean(slopes**2, 0)
        directions = _directions(key, n, x, axes, method)
        slopes = jax.vmap(lambda v: jax.jvp(f, (x,), (v,))[1])(directions)
        return c * jnp.mean(slopes**2, 0)


def weight(coefficient: Coefficient, x: Array) -> Array:
    """The coefficient at x."""
    value = coefficient(x) if callable(coefficient) else coefficient
    return jnp.asarray(value, x.dtype)


def _check_order(name: str, order: int) -> None:
    if order > MAX_ORDER:
        raise ValueError(f"{name}: order {order} is above the highest supported, {MAX_ORDER}")


def _check_draws(method: str, n: int, size: int) -> None:
    if method == "sdgd" and n > size:
        raise ValueError(f"n = {n}: only {size} axes can be drawn without replacement")


def _axes(x: Array, start: int, stop: int | None) -> Int[Array, " m"]:
    axes = jnp.arange(x.size)[start:stop]
    if not axes.size:
        raise ValueError(f"axes from {start} to {stop}: none of the {x.size} axes of x")
    return axes


def _draw(key: PRNGKeyArray, n: int, m: int, replace: bool) -> Int[Array, " n"]:
    return jr.randint(key, (n,), 0, m) if replace else jr.choice(key, m, (n,), replace=False)


def _random(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any, method: Method) -> Array:
    return (
        jr.normal(key, shape, dtype) if method == "gaussian" else jr.rademacher(key, shape, dtype)
    )


def _directions(
    key: PRNGKeyArray, n: int, x: Array, axes: Array, method: Method
) -> Float[Array, "n d"]:
    probes = _random(key, (n, axes.size), x.dtype, method)
    if axes.size == x.size:
        return probes
    return jnp.zeros((n, x.size), x.dtype).at[:, axes].set(probes)


def _pure(f: Field, x: Array, i: Array, k: int) -> Array:
    """∂_i^k f."""
    return jet(f, x, [OneHot(i), *[None] * (k - 1)])[1][-1]


def _second(f: Field, i: Array) -> Field:
    return lambda x: _pure(f, x, i, 2)


def _quadratic(f: Field, x: Array, v: Array, method: Method) -> Array:
    """D²f[v, v], by a jet, or by a product with the Hessian for Hutchinson's method."""
    if method == "hutchinson":
        return jnp.vdot(v, jax.jvp(jax.grad(f), (x,), (v,))[1])
    return jet(f, x, [v, None])[1][1]


def _nested(f: Field, x: Array, i: Array, k: int) -> Array:
    """∂_i^k f by reverse mode for the first derivative and forward mode for the others."""
    if k > 2:
        raise ValueError("estimate: method 'sdgd' is for operators of order 2 at most")
    if k == 1:
        return jax.grad(f)(x)[i]
    e = jnp.zeros_like(x).at[i].set(1)
    return jax.jvp(jax.grad(f), (x,), (e,))[1][i]


def _summed(one: Callable[..., Array], arguments: tuple[Array, ...], batch_size: int | None):
    """The sum over a leading axis, a few entries at a time."""
    if batch_size is None or batch_size >= arguments[0].shape[0]:
        return jnp.sum(jax.vmap(one)(*arguments), 0)
    count = arguments[0].shape[0] // batch_size
    whole = count * batch_size
    head = tuple(a[:whole].reshape(count, batch_size, *a.shape[1:]) for a in arguments)

    # A scan that keeps the sum alone; its derivative computes each part again.
    @jax.checkpoint
    def part(chunk: tuple[Array, ...]) -> Array:
        return jnp.sum(jax.vmap(one)(*chunk), 0)

    shape = jax.eval_shape(part, tuple(a[0] for a in head))
    total, _ = jax.lax.scan(
        lambda s, chunk: (s + part(chunk), None), jnp.zeros(shape.shape, shape.dtype), head
    )
    if whole < arguments[0].shape[0]:
        total = total + part(tuple(a[whole:] for a in arguments))
    return total
