"""Products of one-dimensional bases in which derivatives, products and norms are exact.

    u(x) = Σ_k û_k φ_{k₁}(x₁) … φ_{k_d}(x_d),    x in the unit box

`FourierAxis` holds 1, √2 cos 2πx, √2 sin 2πx, … (periodic), `ChebyshevAxis` the polynomials
T_k(2x − 1) (anything smooth). What an equation does to a function is done to its coefficients
without an error but rounding: derivatives are matrices, a product has the sum of the degrees, and
the L2 norm is a quadratic form (Parseval). All matrices are small and made on the host.
"""

import abc
import math
from functools import cache
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64
from numpy.polynomial import chebyshev

from .transforms import AbstractTransform, check_coefficients, check_values

Norm = Literal["l2", "coef"]


def _check_size(name: str, n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"{name}: expected a positive number of functions, got {n!r}")
    return int(n)


class AbstractAxis(eqx.Module):
    """The first n functions φ₀ = 1, φ₁, … of a basis on [0, 1], and its nodes for N points."""

    n: eqx.AbstractVar[int]

    @abc.abstractmethod
    def resized(self, n: int) -> "AbstractAxis":
        """The same basis with n functions (for Fourier the next odd number)."""

    @abc.abstractmethod
    def resolved(self, points: int) -> int:
        """How many of the n functions N nodes tell apart."""

    @abc.abstractmethod
    def nodes(self, points: int) -> Float64[np.ndarray, " N"]:
        """The N nodes."""

    @abc.abstractmethod
    def values(self, x: Float[Array, " p"]) -> Float[Array, "p n"]:
        """φ_k(x)."""

    @abc.abstractmethod
    def synthesis(self, points: int) -> Float64[np.ndarray, "N resolved"]:
        """The functions that N nodes tell apart, at these nodes."""

    @abc.abstractmethod
    def analysis(self, points: int) -> Float64[np.ndarray, "resolved N"]:
        """Coefficients from values at N nodes: interpolation if all N functions are kept."""

    @abc.abstractmethod
    def differentiation(self) -> Float64[np.ndarray, "n n"]:
        """D with (Σ û_k φ_k)′ = Σ (D û)_k φ_k."""

    @abc.abstractmethod
    def gram(self) -> Float64[np.ndarray, "n n"]:
        """∫₀¹ φ_i φ_j dx."""


class FourierAxis(AbstractAxis):
    """1, √2 cos 2πx, √2 sin 2πx, √2 cos 4πx, …: orthonormal, real, periodic. Nodes are j/N.

    **Arguments:** `n`: the number of functions, odd, so that the highest wavenumber has both.

    **Raises:** `ValueError` for a number that is not positive and odd.
    """

    n: int = eqx.field(static=True)

    def __check_init__(self):
        if _check_size("FourierAxis", self.n) % 2 == 0:
            raise ValueError(f"FourierAxis: expected an odd number of functions, got {self.n}")

    def resized(self, n: int) -> "FourierAxis":
        return FourierAxis(n + 1 - n % 2)

    def resolved(self, points: int) -> int:
        return min(self.n, points - 1 + points % 2)

    def nodes(self, points: int) -> Float64[np.ndarray, " N"]:
        return np.arange(points) / points

    def values(self, x: Float[Array, " p"]) -> Float[Array, "p n"]:
        angle = 2 * math.pi * x[:, None] * np.arange(1, (self.n + 1) // 2)
        waves = math.sqrt(2) * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
        return jnp.concatenate([jnp.ones_like(x)[:, None], waves.reshape(x.size, self.n - 1)], 1)

    def synthesis(self, points: int) -> Float64[np.ndarray, "N resolved"]:
        return _fourier_values(self.resolved(points), points)

    def analysis(self, points: int) -> Float64[np.ndarray, "resolved N"]:
        return _fourier_values(self.resolved(points), points).T / points

    def differentiation(self) -> Float64[np.ndarray, "n n"]:
        matrix = np.zeros((self.n, self.n))
        k = np.arange(1, (self.n + 1) // 2)
        # cos′ = −2πk sin, sin′ = 2πk cos.
        matrix[2 * k, 2 * k - 1] = -2 * np.pi * k
        matrix[2 * k - 1, 2 * k] = 2 * np.pi * k
        return matrix

    def gram(self) -> Float64[np.ndarray, "n n"]:
        return np.eye(self.n)


class ChebyshevAxis(AbstractAxis):
    """T_k(2x − 1), k < n. Nodes are the roots of T_N, in rising order.

    Second derivatives amplify rounding by about n⁴: use float64 above 32 functions.

    **Arguments:** `n`: the number of polynomials, at least 2.

    **Raises:** `ValueError` for fewer.
    """

    n: int = eqx.field(static=True)

    def __check_init__(self):
        if _check_size("ChebyshevAxis", self.n) < 2:
            raise ValueError(f"ChebyshevAxis: expected at least 2 polynomials, got {self.n}")

    def resized(self, n: int) -> "ChebyshevAxis":
        return ChebyshevAxis(n)

    def resolved(self, points: int) -> int:
        return min(self.n, points)

    def nodes(self, points: int) -> Float64[np.ndarray, " N"]:
        return (1 - np.cos(np.pi * (np.arange(points) + 0.5) / points)) / 2

    def values(self, x: Float[Array, " p"]) -> Float[Array, "p n"]:
        # The recurrence, which unlike cos(k arccos) is differentiable at both ends.
        y = 2 * x - 1
        columns = [jnp.ones_like(y), y]
        for _ in range(self.n - 2):
            columns.append(2 * y * columns[-1] - columns[-2])
        return jnp.stack(columns, 1)

    def synthesis(self, points: int) -> Float64[np.ndarray, "N resolved"]:
        return _chebyshev_values(self.resolved(points), points)

    def analysis(self, points: int) -> Float64[np.ndarray, "resolved N"]:
        values = self.synthesis(points)
        return values.T * np.where(np.arange(values.shape[1]) == 0, 1, 2)[:, None] / points

    def differentiation(self) -> Float64[np.ndarray, "n n"]:
        matrix = np.zeros((self.n, self.n))
        matrix[:-1] = 2 * chebyshev.chebder(np.eye(self.n))
        return matrix

    def gram(self) -> Float64[np.ndarray, "n n"]:
        i, j = np.ogrid[: self.n, : self.n]
        even = (i + j) % 2 == 0
        # ∫ T_i T_j over [−1, 1], and half of it over [0, 1]. Odd sums vanish.
        inner = [1 / (1 - np.where(even, m, 0.0) ** 2) for m in (i + j, i - j)]
        return np.where(even, (inner[0] + inner[1]) / 2, 0.0)


class TensorBasis(AbstractTransform):
    """Products of one-dimensional bases on the unit box, one for each axis.

    Coefficients have shape "c *modes". A grid of a shape (N₁, …) has the nodes of each axis, so
    that `forward` and `inverse` are exact for what the grid resolves; functions of the first m ≤ n
    of each axis have their coefficients first, so that truncation is a slice.

    ```python
    basis = TensorBasis((ChebyshevAxis(16), FourierAxis(31)))  # (t, x)
    u = basis.forward(values)  # values: (1, 16, 31), at basis.nodes()
    u_t, u_xx = basis.derivative(u, 0), basis.derivative(u, 1, 2)
    square = basis.multiply(u, u)  # (1, 31, 61), of basis.resized((31, 61))
    ```

    **Arguments:** `axes`: the bases.

    **Raises:** `ValueError` for no axis; `TypeError` for one that is no basis.
    """

    axes: tuple[AbstractAxis, ...]
    modes: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, axes: tuple[AbstractAxis, ...]):
        if not axes:
            raise ValueError("TensorBasis: expected at least one axis")
        for axis in axes:
            if not isinstance(axis, AbstractAxis):
                raise TypeError(f"TensorBasis: expected FourierAxis or ChebyshevAxis, got {axis!r}")
        self.axes = tuple(axes)
        self.modes = tuple(axis.n for axis in axes)

    @property
    def coefficient_shape(self) -> tuple[int, ...]:
        return self.modes

    @property
    def is_complex(self) -> bool:
        return False

    def resized(self, modes: tuple[int, ...]) -> "TensorBasis":
        """The same bases with other numbers of functions."""
        self._check(modes, "TensorBasis.resized")
        return TensorBasis(tuple(a.resized(n) for a, n in zip(self.axes, modes, strict=True)))

    def nodes(self, shape: tuple[int, ...] | None = None) -> Float64[np.ndarray, "d *grid"]:
        """The nodes of a grid, by default with as many as there are functions."""
        shape = self.modes if shape is None else shape
        self._check(shape, "TensorBasis.nodes")
        each = [axis.nodes(n) for axis, n in zip(self.axes, shape, strict=True)]
        return np.stack(np.meshgrid(*each, indexing="ij"))

    def kept(self, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        self._check(shape, "shape")
        return tuple(np.arange(a.resolved(n)) for a, n in zip(self.axes, shape, strict=True))

    def forward(self, u: Float[Array, "c *grid"]) -> Float[Array, "c *modes"]:
        check_values(u, "u")
        self._check(u.shape[1:], "u")
        matrices = (a.analysis(n) for a, n in zip(self.axes, u.shape[1:], strict=True))
        return _along_axes(u, matrices)

    def inverse(
        self, coef: Float[Array, "c *modes"], shape: tuple[int, ...]
    ) -> Float[Array, "c *grid"]:
        expected = tuple(len(k) for k in self.kept(shape))
        check_coefficients(coef, expected, shape, self.modes)
        return _along_axes(coef, (a.synthesis(n) for a, n in zip(self.axes, shape, strict=True)))

    def evaluate(
        self, coef: Float[Array, "c *modes"], x: Float[Array, "n d"]
    ) -> Float[Array, "c n"]:
        self._check_coef("TensorBasis.evaluate", coef)
        if x.ndim != 2 or x.shape[1] != self.n_dims:
            raise ValueError(f"x: expected points of shape (n, {self.n_dims}), got {x.shape}")
        out = jnp.einsum("c...k,nk->c...n", coef, self.axes[-1].values(x[:, -1]))
        for j in range(self.n_dims - 2, -1, -1):
            out = jnp.einsum("c...kn,nk->c...n", out, self.axes[j].values(x[:, j]))
        return out

    def evaluate_product(
        self, coef: Float[Array, "c *modes"], points: tuple[Float[Array, " p"], ...]
    ) -> Float[Array, "c *points"]:
        """The values on any product grid, from its points along each axis.

        **Raises:** `ValueError` for other numbers of axes or of coefficients.
        """
        self._check_coef("TensorBasis.evaluate_product", coef)
        self._check(tuple(len(p) for p in points), "points")
        each = (a.values(jnp.asarray(p)) for a, p in zip(self.axes, points, strict=True))
        return _along_axes(coef, each)

    def derivative(
        self, coef: Float[Array, "c *modes"], axis: int, order: int = 1
    ) -> Float[Array, "c *modes"]:
        self._check_coef("TensorBasis.derivative", coef)
        if not 0 <= axis < self.n_dims:
            raise ValueError(f"axis: expected 0 ≤ axis < {self.n_dims}, got {axis}")
        if order < 0:
            raise ValueError(f"order: expected 0 or more, got {order}")
        matrix = np.linalg.matrix_power(self.axes[axis].differentiation(), order)
        return _along_axes(coef, [matrix], axis)

    def multiply(
        self, a: Float[Array, "c *modes_a"], b: Float[Array, "c *modes_b"]
    ) -> Float[Array, "c *modes_ab"]:
        """The coefficients of the product of two functions: n_a + n_b − 1 of them on each axis.

        Nothing is aliased: the product is formed at as many nodes as it has coefficients. `a` and
        `b` may have more or fewer functions than this basis, as other products and truncations do.

        **Raises:** `ValueError` for other numbers of axes.
        """
        self._check(a.shape[1:], "a")
        self._check(b.shape[1:], "b")
        modes = tuple(m + n - 1 for m, n in zip(a.shape[1:], b.shape[1:], strict=True))
        basis = self.resized(modes)
        x, y = (self.resized(f.shape[1:]).inverse(f, basis.modes) for f in (a, b))
        return basis.forward(x * y)

    def pad(
        self, coef: Float[Array, "c *modes"], modes: tuple[int, ...]
    ) -> Float[Array, "c *more_modes"]:
        """The same function with more coefficients, which are 0.

        **Raises:** `ValueError` for fewer.
        """
        self._check(modes, "modes")
        more = [m - n for m, n in zip(modes, coef.shape[1:], strict=True)]
        if min(more) < 0:
            raise ValueError(f"modes: expected at least {coef.shape[1:]}, got {modes}")
        return jnp.pad(coef, [(0, 0), *((0, k) for k in more)])

    def inner(
        self,
        a: Float[Array, "c *modes"],
        b: Float[Array, "c *modes"],
        norm: Norm = "l2",
    ) -> Float[Array, ""]:
        """Σ_c ∫ a_c b_c dx over the unit box, from coefficients of any (equal) number.

        **Arguments:** `norm`: "l2", or "coef": Σ_k â_k b̂_k, which is the same for Fourier axes; for
        Chebyshev axes it is 2/π ∫ a b w with the weight w = 1/√(1 − y²), but for factors ½ of the
        constants.

        **Raises:** `ValueError` for different shapes, another number of axes, or an unknown norm.
        """
        if norm not in ("l2", "coef"):
            raise ValueError(f"norm: expected 'l2' or 'coef', got {norm!r}")
        if a.shape != b.shape:
            raise ValueError(f"inner: expected equal shapes, got {a.shape} and {b.shape}")
        self._check(a.shape[1:], "a")
        if norm == "coef":
            return jnp.sum(a * b)
        grams = (axis.gram() for axis in self.resized(a.shape[1:]).axes)
        return jnp.sum(a * _along_axes(b, grams))

    def _check_coef(self, what: str, coef: Array) -> None:
        if coef.shape[1:] != self.modes:
            raise ValueError(f"{what}: expected coefficients {self.modes}, got {coef.shape[1:]}")


def _along_axes(u: Array, matrices, first: int = 0) -> Array:
    """One matrix for each axis, from the grid axis `first` on."""
    for axis, matrix in enumerate(matrices, first + 1):
        u = jnp.moveaxis(jnp.tensordot(jnp.asarray(matrix, u.dtype), u, ([1], [axis])), 0, axis)
    return u


@cache
def _fourier_values(n: int, points: int) -> np.ndarray:
    # The angle is reduced modulo the circle first, so that it stays exact on fine grids.
    k = np.arange(1, (n + 1) // 2)
    angle = 2 * np.pi * (np.outer(np.arange(points), k) % points) / points
    waves = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.concatenate([np.ones((points, 1)), waves.reshape(points, n - 1)], 1)


@cache
def _chebyshev_values(n: int, points: int) -> np.ndarray:
    angle = np.pi * (1 - (np.arange(points) + 0.5) / points)
    return np.cos(np.outer(angle, np.arange(n)))
