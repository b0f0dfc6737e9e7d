"""The one protocol of all manifolds."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .smooth import root


class AbstractManifold(eqx.Module):
    """A Riemannian manifold of points x in an ambient space, with tangent vectors v at x.

        exp_x(v): where the geodesic from x with velocity v is after time 1
        log_x(y): the shortest v with exp_x(v) = y,    d(x, y) = |log_x(y)|_x

    Every method acts on *one* point; `jax.vmap` takes it to many. A point is an array of shape
    `ambient_shape` (on a product: a tuple of them), and so is a tangent vector, in the same
    coordinates. All methods are pure, and may be jitted, mapped and differentiated, also where
    points coincide (there the derivative of d is set to 0). Where two points are joined by several
    shortest geodesics, one of them is taken.

    A new manifold is a subclass with the methods below that begin with an underscore; the public
    ones check shapes and call these. What a manifold cannot do raises `TypeError`.
    """

    dim: eqx.AbstractVar[int]
    """Its dimension, that of the tangent spaces."""

    @property
    @abc.abstractmethod
    def ambient_shape(self) -> tuple:
        """Shape of a point's array; a tuple of shapes on a product."""

    @property
    @abc.abstractmethod
    def cut_distance(self) -> float:
        """Closer points than this are joined by a unique shortest geodesic."""

    @abc.abstractmethod
    def origin(self) -> PyTree:
        """A distinguished point."""

    @abc.abstractmethod
    def random_point(self, key: PRNGKeyArray) -> PyTree:
        """A uniform point, or on manifolds of infinite volume a standard normal tangent vector of
        the origin, wrapped around the manifold by exp."""

    @abc.abstractmethod
    def log_volume(self) -> float:
        """Logarithm of the volume; `inf` where it is infinite."""

    @abc.abstractmethod
    def _exp(self, x: PyTree, v: PyTree) -> PyTree: ...

    @abc.abstractmethod
    def _log(self, x: PyTree, y: PyTree) -> PyTree: ...

    @abc.abstractmethod
    def _dist(self, x: PyTree, y: PyTree) -> Float[Array, ""]: ...

    @abc.abstractmethod
    def _inner(self, x: PyTree, u: PyTree, v: PyTree) -> Float[Array, ""]: ...

    @abc.abstractmethod
    def _transport(self, x: PyTree, y: PyTree, v: PyTree) -> PyTree: ...

    @abc.abstractmethod
    def _project(self, x: PyTree) -> PyTree: ...

    @abc.abstractmethod
    def _tangent(self, x: PyTree, a: PyTree) -> PyTree: ...

    @abc.abstractmethod
    def _egrad_to_rgrad(self, x: PyTree, g: PyTree) -> PyTree: ...

    @abc.abstractmethod
    def _retract(self, x: PyTree, v: PyTree) -> PyTree: ...

    @abc.abstractmethod
    def _random_tangent(self, key: PRNGKeyArray, x: PyTree) -> PyTree: ...

    @abc.abstractmethod
    def _violation(self, x: PyTree) -> Float[Array, ""]: ...

    def exp(self, x: PyTree, v: PyTree) -> PyTree:
        """The point exp_x(v). The result is projected, so that rounding does not add up."""
        self._shapes("exp", x=x, v=v)
        return self._exp(x, v)

    def log(self, x: PyTree, y: PyTree) -> PyTree:
        """The tangent vector log_x(y) at x, so that exp_x(log_x(y)) = y."""
        self._shapes("log", x=x, y=y)
        return self._log(x, y)

    def dist(self, x: PyTree, y: PyTree) -> Float[Array, ""]:
        """Geodesic distance, accurate for close points too."""
        self._shapes("dist", x=x, y=y)
        return self._dist(x, y)

    def inner(self, x: PyTree, u: PyTree, v: PyTree) -> Float[Array, ""]:
        """The metric ⟨u, v⟩_x of two tangent vectors at x."""
        self._shapes("inner", x=x, u=u, v=v)
        return self._inner(x, u, v)

    def norm(self, x: PyTree, v: PyTree) -> Float[Array, ""]:
        """|v|_x = ⟨v, v⟩_x^½."""
        self._shapes("norm", x=x, v=v)
        return root(self._inner(x, v, v))

    def transport(self, x: PyTree, y: PyTree, v: PyTree) -> PyTree:
        """Parallel transport of v along the shortest geodesic from x to y; an isometry."""
        self._shapes("transport", x=x, y=y, v=v)
        return self._transport(x, y, v)

    def project(self, x: PyTree) -> PyTree:
        """The point of the manifold nearest to the ambient point x, or nearly so."""
        self._shapes("project", x=x)
        return self._project(x)

    def tangent(self, x: PyTree, a: PyTree) -> PyTree:
        """The ambient vector a projected to the tangent space at x."""
        self._shapes("tangent", x=x, a=a)
        return self._tangent(x, a)

    def egrad_to_rgrad(self, x: PyTree, g: PyTree) -> PyTree:
        """The Riemannian gradient of f from g = ∂f/∂x, as `jax.grad` gives it:
        the tangent vector with ⟨grad f, v⟩_x = g·v for all tangent v."""
        self._shapes("egrad_to_rgrad", x=x, g=g)
        return self._egrad_to_rgrad(x, g)

    def retract(self, x: PyTree, v: PyTree) -> PyTree:
        """A cheaper point that agrees with exp_x(v) to first order at least."""
        self._shapes("retract", x=x, v=v)
        return self._retract(x, v)

    def random_tangent(self, key: PRNGKeyArray, x: PyTree) -> PyTree:
        """A standard normal tangent vector at x: E⟨u, v⟩_x² = |u|_x² for every tangent u."""
        self._shapes("random_tangent", x=x)
        return self._random_tangent(key, x)

    def geodesic(self, x: PyTree, y: PyTree, t: float | Float[Array, ""]) -> PyTree:
        """exp_x(t log_x(y)): x at t = 0, y at t = 1."""
        v = self.log(x, y)
        return self._exp(x, jax.tree.map(lambda leaf: t * leaf, v))

    def brownian_step(self, key: PRNGKeyArray, x: PyTree, dt: float | Float[Array, ""]) -> PyTree:
        """A step exp_x(dt^½ ξ) of the geodesic random walk, ξ standard normal at x.

        For dt → 0 it is Brownian motion, whose generator is half the Laplace-Beltrami operator.
        """
        noise = self.random_tangent(key, x)
        return self._exp(x, jax.tree.map(lambda leaf: jnp.sqrt(dt) * leaf, noise))

    def heat_kernel(
        self, t: float | Float[Array, ""], x: PyTree, y: PyTree
    ) -> Float[Array, ""] | None:
        """Density of Brownian motion from x at y after time t, or `None` where none is known here.

        The density is with respect to the volume, and solves ∂p/∂t = ½ Δ p.
        """
        self._shapes("heat_kernel", x=x, y=y)
        return self._heat_kernel(t, x, y)

    def _heat_kernel(
        self, t: float | Float[Array, ""], x: PyTree, y: PyTree
    ) -> Float[Array, ""] | None:
        """None, unless a subclass knows better."""
        return None

    def pairwise(self, points: PyTree, others: PyTree | None = None) -> Float[Array, "n m"]:
        """All distances between n points and m others (the same ones by default)."""
        others = points if others is None else others
        return jax.vmap(lambda x: jax.vmap(lambda y: self.dist(x, y))(others))(points)

    def violation(self, x: PyTree) -> Float[Array, ""]:
        """How far x is off the manifold: 0 on it."""
        self._shapes("violation", x=x)
        return self._violation(x)

    def is_point(self, x: PyTree, tol: float | None = None) -> Bool[Array, ""]:
        """Whether x is on the manifold within `tol` (default: 1e-4, and 1e-8 in float64)."""
        return self.violation(x) <= _tolerance(x, tol)

    def check_point(self, x: PyTree, tol: float | None = None) -> PyTree:
        """Gives x back.

        **Raises:** `ValueError` that says how far off the manifold it is, if that is more than
        `tol`; under `jax.jit` an error of `equinox.error_if`, which cannot say.
        """
        return _raise_above(x, self.violation(x), _tolerance(x, tol), f"{self}: x is off it")

    def check_tangent(self, x: PyTree, v: PyTree, tol: float | None = None) -> PyTree:
        """Gives v back.

        **Raises:** as `check_point`, if v has a normal part of more than `tol` (1 + |v|).
        """
        self._shapes("check_tangent", x=x, v=v)
        off = jax.tree.map(lambda a, b: a - b, v, self._tangent(x, v))
        size = jnp.sqrt(_squares(off)) / (1 + jnp.sqrt(_squares(v)))
        return _raise_above(v, size, _tolerance(x, tol), f"{self}: v is not tangent at x")

    def _shapes(self, method: str, **arguments: Any) -> None:
        for name, value in arguments.items():
            if (found := jax.tree.map(jnp.shape, value)) != self.ambient_shape:
                raise ValueError(
                    f"{type(self).__name__}.{method}: {name} has shape {found}, expected "
                    f"{self.ambient_shape} (one point; use jax.vmap for many)"
                )
            for leaf in jax.tree.leaves(value):
                if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                    raise TypeError(
                        f"{type(self).__name__}.{method}: {name} has dtype "
                        f"{jnp.result_type(leaf)}, expected a real floating one"
                    )


def _squares(tree: PyTree) -> Float[Array, ""]:
    return jnp.asarray(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def _tolerance(x: PyTree, tol: float | None) -> float:
    if tol is not None:
        return tol
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(x))
    return {2.0**-52: 1e-8, 2.0**-23: 1e-4}.get(eps, 8 * eps)


def _raise_above(value: PyTree, off: Float[Array, ""], tol: float, what: str) -> PyTree:
    if isinstance(off, Tracer):
        return eqx.error_if(value, ~(off <= tol), f"{what} by more than {tol:.3g}")
    if not off <= tol:
        raise ValueError(f"{what} by {float(off):.3g}, more than {tol:.3g}")
    return value


def normal(key: PRNGKeyArray, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Standard normal numbers of the shape and dtype of x."""
    return jr.normal(key, x.shape, x.dtype)
