"""Products of manifolds: of different ones, and of many copies of one."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray, PyTree

from .base import AbstractManifold
from .smooth import norm


class Product(AbstractManifold):
    """M₁ × … × M_k with the sum of the metrics; a point is a tuple of points.

        ⟨u, v⟩ = Σ ⟨uᵢ, vᵢ⟩,   d² = Σ dᵢ²,   exp, log, transport, …: factor by factor

    ```python
    M = Product((Sphere(2), Poincare(5)))
    x = M.random_point(jax.random.key(0))  # a tuple of arrays of shapes (3,) and (5,)
    ```

    **Arguments:** `factors`: the manifolds.

    **Raises:** `ValueError` if there are none, `TypeError` if one is no manifold.
    """

    factors: tuple[AbstractManifold, ...]
    dim: int = eqx.field(static=True)

    def __init__(self, factors: Any):
        self.factors = tuple(factors)
        if not self.factors:
            raise ValueError("Product: no factors, expected one manifold at least")
        for factor in self.factors:
            if not isinstance(factor, AbstractManifold):
                raise TypeError(f"Product: {factor!r} is no manifold")
        self.dim = sum(factor.dim for factor in self.factors)

    @property
    def ambient_shape(self) -> tuple:
        return tuple(factor.ambient_shape for factor in self.factors)

    @property
    def cut_distance(self) -> float:
        return min(factor.cut_distance for factor in self.factors)

    def origin(self) -> tuple:
        return tuple(factor.origin() for factor in self.factors)

    def random_point(self, key: PRNGKeyArray) -> tuple:
        keys = jr.split(key, len(self.factors))
        return tuple(f.random_point(k) for f, k in zip(self.factors, keys, strict=True))

    def log_volume(self) -> float:
        return sum(factor.log_volume() for factor in self.factors)

    def _each(self, method: str, *points: PyTree) -> tuple:
        rows = zip(self.factors, *points, strict=True)
        return tuple(getattr(factor, method)(*row) for factor, *row in rows)

    def _exp(self, x, v):
        return self._each("exp", x, v)

    def _log(self, x, y):
        return self._each("log", x, y)

    def _dist(self, x, y):
        # The norm of the vector of distances, with a derivative where some are 0.
        return norm(jnp.stack(self._each("dist", x, y)))

    def _inner(self, x, u, v):
        return sum(self._each("inner", x, u, v))

    def _transport(self, x, y, v):
        return self._each("transport", x, y, v)

    def _project(self, x):
        return self._each("project", x)

    def _tangent(self, x, a):
        return self._each("tangent", x, a)

    def _egrad_to_rgrad(self, x, g):
        return self._each("egrad_to_rgrad", x, g)

    def _retract(self, x, v):
        return self._each("retract", x, v)

    def _random_tangent(self, key, x):
        return self._each("random_tangent", tuple(jr.split(key, len(self.factors))), x)

    def _violation(self, x):
        return jnp.max(jnp.stack(self._each("violation", x)))

    def _heat_kernel(self, t, x, y):
        kernels = self._each("heat_kernel", (t,) * len(self.factors), x, y)
        if any(kernel is None for kernel in kernels):
            return None
        return jnp.prod(jnp.stack(kernels))


class Power(AbstractManifold):
    """Mⁿ, n copies of one manifold; a point is an array of n points, along its first axis.

        ⟨u, v⟩ = Σ ⟨uᵢ, vᵢ⟩,   d² = Σ dᵢ²

    **Arguments:** `base`: M. `n`: the number of copies.

    **Raises:** `TypeError` if `base` is no manifold, `ValueError` for `n` < 1.
    """

    base: AbstractManifold
    n: int = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def __init__(self, base: AbstractManifold, n: int):
        if not isinstance(base, AbstractManifold):
            raise TypeError(f"Power: {base!r} is no manifold")
        if n < 1:
            raise ValueError(f"Power: n = {n}: expected at least 1")
        self.base, self.n, self.dim = base, n, n * base.dim

    @property
    def ambient_shape(self) -> tuple:
        return _lead(self.n, self.base.ambient_shape)

    @property
    def cut_distance(self) -> float:
        return self.base.cut_distance

    def origin(self) -> PyTree:
        def repeat(leaf):
            return jnp.broadcast_to(leaf, (self.n, *leaf.shape))

        return jax.tree.map(repeat, self.base.origin())

    def random_point(self, key: PRNGKeyArray) -> PyTree:
        return jax.vmap(self.base.random_point)(jr.split(key, self.n))

    def log_volume(self) -> float:
        return self.n * self.base.log_volume()

    def _exp(self, x, v):
        return jax.vmap(self.base.exp)(x, v)

    def _log(self, x, y):
        return jax.vmap(self.base.log)(x, y)

    def _dist(self, x, y):
        return norm(jax.vmap(self.base.dist)(x, y))

    def _inner(self, x, u, v):
        return jnp.sum(jax.vmap(self.base.inner)(x, u, v))

    def _transport(self, x, y, v):
        return jax.vmap(self.base.transport)(x, y, v)

    def _project(self, x):
        return jax.vmap(self.base.project)(x)

    def _tangent(self, x, a):
        return jax.vmap(self.base.tangent)(x, a)

    def _egrad_to_rgrad(self, x, g):
        return jax.vmap(self.base.egrad_to_rgrad)(x, g)

    def _retract(self, x, v):
        return jax.vmap(self.base.retract)(x, v)

    def _random_tangent(self, key, x):
        return jax.vmap(self.base.random_tangent)(jr.split(key, self.n), x)

    def _violation(self, x):
        return jnp.max(jax.vmap(self.base.violation)(x))

    def _heat_kernel(self, t, x, y):
        kernel: Callable = jax.vmap(lambda a, b: self.base.heat_kernel(t, a, b))
        values = kernel(x, y)
        return None if values is None else jnp.prod(values)


def _lead(n: int, shape: tuple) -> tuple:
    """The axis n in front of a shape, or of every shape of a tuple of shapes."""
    if any(isinstance(entry, tuple) for entry in shape):
        return tuple(_lead(n, entry) for entry in shape)
    return (n, *shape)
