"""Transforms between values on a grid and coefficients of a basis of smooth functions.

    û_k = Σ_x w(x) u(x) φ̄_k(x)   (forward),      u(x) = Σ_k û_k φ_k(x)   (inverse, evaluate)

A transform keeps a fixed number of modes per axis, whatever the grid's size, and its
coefficients do not depend on the resolution: that is what makes an operator built on them
discretisation-invariant. Two of them are here, as different as they come: `Fourier` (periodic,
complex, both signs of every wavenumber but the last axis') and `Cosine` (walls with zero normal
derivative, real).

**Why truncated matrices.** Keeping m ≪ n modes, the transform of one axis is a product with an
m × n matrix: O(n m) work that runs on the matrix unit, against O(n log n) for an FFT whose output
is then mostly thrown away. On CPUs it is two to four times faster than FFT and slice at the sizes
neural operators use, on TPUs more. For many modes the FFT wins; `method="auto"` chooses by the
shape, which is static.
"""

import abc
from functools import cache
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

Method = Literal["auto", "dft", "fft"]
_METHODS = ("auto", "dft", "fft")

# Above this many kept wavenumbers on an axis, an FFT does less work than a matrix product
# (measured on CPU: the curves cross between 100 and 200 for axes of 128 to 8192 points).
_DENSE_LIMIT = 128


def check_modes(modes: int | tuple[int, ...], name: str = "modes") -> tuple[int, ...]:
    """Returns `modes` as a tuple of positive integers, one per axis, or raises `ValueError`."""
    modes = (modes,) if isinstance(modes, (int, np.integer)) else tuple(modes)
    if not modes or any(
        isinstance(m, bool) or not isinstance(m, (int, np.integer)) or m <= 0 for m in modes
    ):
        raise ValueError(f"{name}: expected positive integers, one per axis, got {modes}")
    return tuple(int(m) for m in modes)


class AbstractTransform(eqx.Module):
    """A truncated expansion of functions on a grid; `modes` holds the coefficients' shape.

    Arrays are channels first: values `"c *grid"`, coefficients `"c *modes"`.
    """

    modes: eqx.AbstractVar[tuple[int, ...]]

    @property
    def n_dims(self) -> int:
        """The number of grid axes."""
        return len(self.modes)

    @property
    @abc.abstractmethod
    def coefficient_shape(self) -> tuple[int, ...]:
        """The shape of the coefficients on a grid that resolves all modes."""

    @property
    @abc.abstractmethod
    def is_complex(self) -> bool:
        """Whether the coefficients are complex numbers."""

    @abc.abstractmethod
    def kept(self, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """For each axis, the positions (in `coefficient_shape`) that a grid of `shape` resolves."""

    @abc.abstractmethod
    def forward(self, u: Float[Array, "c *grid"]) -> Inexact[Array, "c *modes"]:
        """The coefficients that the grid resolves, in the order of `kept`."""

    @abc.abstractmethod
    def inverse(
        self, coef: Inexact[Array, "c *modes"], shape: tuple[int, ...]
    ) -> Float[Array, "c *grid"]:
        """The values on a grid of `shape`; `coef` as `forward` gives them for that shape."""

    @abc.abstractmethod
    def evaluate(
        self, coef: Inexact[Array, "c *modes"], x: Float[Array, "n d"]
    ) -> Float[Array, "c n"]:
        """The values at scattered points of the unit box: the non-uniform inverse."""

    @abc.abstractmethod
    def derivative(
        self, coef: Inexact[Array, "c *modes"], axis: int, order: int = 1
    ) -> Inexact[Array, "c *modes"]:
        """The coefficients of ∂ᵒu/∂x_axisᵒ on the unit box (for even orders of real bases)."""

    def _check(self, shape: tuple[int, ...], what: str) -> None:
        if len(shape) != self.n_dims:
            raise ValueError(
                f"{what}: expected {self.n_dims} grid axes (modes={self.modes}), got shape {shape}"
            )

    def is_resolved(self, shape: tuple[int, ...]) -> bool:
        """Whether a grid of `shape` resolves every mode."""
        return all(
            len(kept) == full
            for kept, full in zip(self.kept(shape), self.coefficient_shape, strict=True)
        )


def check_values(u: Array, name: str) -> None:
    """Raises `TypeError` for values that are not real floating-point numbers."""
    if not jnp.issubdtype(u.dtype, jnp.floating):
        raise TypeError(f"{name}: expected real floating-point values, got dtype {u.dtype}")


def check_coefficients(
    coef: Array, expected: tuple[int, ...], shape: tuple[int, ...], modes: tuple[int, ...]
) -> None:
    """Raises `ValueError` for coefficients that are not of the expected shape."""
    if coef.shape[1:] != expected:
        raise ValueError(
            f"coef: a grid of shape {shape} has coefficients {expected} for "
            f"modes={modes}, got {coef.shape[1:]}"
        )


def _contract(u: Array, matrix: np.ndarray, axis: int) -> Array:
    """Multiplies `matrix` "k n" into one axis of `u`, at the dtype of `u` (real or complex)."""
    kind = jnp.complex128 if u.dtype in (jnp.float64, jnp.complex128) else jnp.complex64
    dtype = kind if np.iscomplexobj(matrix) else kind(0).real.dtype
    return jnp.moveaxis(jnp.tensordot(jnp.asarray(matrix, dtype), u, ([1], [axis])), 0, axis)


class Fourier(AbstractTransform):
    """Truncated real Fourier series on the unit torus.

        û_k = 1/N Σ_j u(x_j) e^{-2πi k·x_j},      u(x) = Σ_k û_k e^{2πi k·x},   x_j = j/N

    Every axis but the last keeps the wavenumbers 0 … m-1 and -m … -1 (in this order), the last
    one 0 … m-1 (the others follow from û_{-k} = conj û_k). This is the meaning of `modes` in the
    original Fourier neural operator. A grid too coarse for some modes simply has fewer
    coefficients.

    The imaginary parts of the last axis' k = 0 and Nyquist columns have no meaning for a real
    function: the inverse drops them, as `irfft` does.

    **Arguments:**

    - `modes`: m for each axis, e.g. `(12, 12)`.
    - `method`: `"dft"` (truncated matrices), `"fft"` (FFT and slice), or `"auto"` (by the size).

    **Raises:** `ValueError` if a mode count is not a positive integer or `method` is unknown;
    `forward` raises `TypeError` for values that are not real floating point.

    Reference: Li et al., arXiv:2010.08895.
    """

    modes: tuple[int, ...] = eqx.field(static=True, converter=check_modes)
    method: Method = eqx.field(static=True, default="auto")

    def __check_init__(self):
        if self.method not in _METHODS:
            raise ValueError(f"method: expected one of {_METHODS}, got {self.method!r}")

    @property
    def coefficient_shape(self) -> tuple[int, ...]:
        return (*(2 * m for m in self.modes[:-1]), self.modes[-1])

    @property
    def is_complex(self) -> bool:
        return True

    def kept(self, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        self._check(shape, "shape")
        *full, last = zip(self.modes, shape, strict=True)
        positions = []
        for m, n in full:
            k = wavenumbers(m)
            positions.append(np.flatnonzero((k >= -(n // 2)) & (k <= (n - 1) // 2)))
        m, n = last
        return (*positions, np.arange(min(m, n // 2 + 1)))

    def _wavenumbers(self, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """The wavenumbers of the coefficients that a grid of `shape` resolves, axis by axis."""
        *full, last = self.kept(shape)
        return (
            *(wavenumbers(m)[kept] for m, kept in zip(self.modes[:-1], full, strict=True)),
            last,
        )

    def _by_matrix(self, shape: tuple[int, ...]) -> bool:
        if self.method != "auto":
            return self.method == "dft"
        return max(len(kept) for kept in self.kept(shape)) <= _DENSE_LIMIT

    def forward(self, u: Float[Array, "c *grid"]) -> Complex[Array, "c *modes"]:
        check_values(u, "u")
        shape = u.shape[1:]
        k = self._wavenumbers(shape)
        if not self._by_matrix(shape):
            coef = jnp.fft.rfftn(u, axes=range(1, u.ndim), norm="forward")
            # Wavenumber k sits at position k mod n of an FFT.
            return coef[(slice(None), *np.ix_(*(q % n for q, n in zip(k, shape, strict=True))))]
        # The last axis first: it is real, and its product shrinks the data most.
        real_imag = _forward_matrix(tuple(k[-1]), shape[-1])
        coef = u @ jnp.asarray(np.concatenate([np.real(real_imag), np.imag(real_imag)]).T, u.dtype)
        m = len(k[-1])
        coef = jnp.reshape(coef, (*coef.shape[:-1], 2, m))
        coef = _as_complex(coef[..., 0, :], coef[..., 1, :])
        for axis in range(self.n_dims - 1, 0, -1):
            coef = _contract(coef, _forward_matrix(tuple(k[axis - 1]), shape[axis - 1]), axis)
        return coef

    def inverse(
        self, coef: Complex[Array, "c *modes"], shape: tuple[int, ...]
    ) -> Float[Array, "c *grid"]:
        k = self._wavenumbers(shape)
        expected = tuple(len(q) for q in k)
        check_coefficients(coef, expected, shape, self.modes)
        if not self._by_matrix(shape):
            half = (*shape[:-1], shape[-1] // 2 + 1)
            full = jnp.zeros((coef.shape[0], *half), coef.dtype)
            where = np.ix_(*(q % n for q, n in zip(k, shape, strict=True)))
            full = full.at[(slice(None), *where)].set(coef)
            return jnp.fft.irfftn(full, s=shape, axes=range(1, len(shape) + 1), norm="forward")
        for axis in range(1, self.n_dims):
            coef = _contract(coef, _inverse_matrix(tuple(k[axis - 1]), shape[axis - 1]), axis)
        matrix = _last_axis_weights(k[-1], shape[-1]) * _inverse_matrix(tuple(k[-1]), shape[-1])
        stacked = jnp.concatenate([coef.real, coef.imag], axis=-1)
        matrix = np.concatenate([np.real(matrix), -np.imag(matrix)], axis=1)
        return stacked @ jnp.asarray(matrix.T, stacked.dtype)

    def evaluate(
        self, coef: Complex[Array, "c *modes"], x: Float[Array, "n d"]
    ) -> Float[Array, "c n"]:
        if coef.shape[1:] != self.coefficient_shape:
            raise ValueError(
                f"coef: expected all coefficients {self.coefficient_shape} of "
                f"modes={self.modes}, got {coef.shape[1:]}"
            )
        if x.ndim != 2 or x.shape[1] != self.n_dims:
            raise ValueError(f"x: expected points of shape (n, {self.n_dims}), got {x.shape}")
        k = (*(wavenumbers(m) for m in self.modes[:-1]), np.arange(self.modes[-1]))
        # One axis at a time, the last first, so that no n × Πm array of exponentials is made.
        phase = [jnp.exp(2j * jnp.pi * x[:, j, None] * q) for j, q in enumerate(k)]
        weights = jnp.where(k[-1] == 0, 1.0, 2.0).astype(x.dtype)
        out = jnp.einsum("c...k,nk->c...n", coef, phase[-1] * weights)
        for axis in range(self.n_dims - 2, -1, -1):
            out = jnp.einsum("c...kn,nk->c...n", out, phase[axis])
        return out.real

    def derivative(
        self, coef: Complex[Array, "c *modes"], axis: int, order: int = 1
    ) -> Complex[Array, "c *modes"]:
        if not 0 <= axis < self.n_dims:
            raise ValueError(f"axis: expected 0 ≤ axis < {self.n_dims}, got {axis}")
        if coef.shape[1:] != self.coefficient_shape:
            raise ValueError(
                f"coef: expected all coefficients {self.coefficient_shape}, got {coef.shape[1:]}"
            )
        last = axis == self.n_dims - 1
        k = np.arange(self.modes[-1]) if last else wavenumbers(self.modes[axis])
        symbol = np.reshape((2j * np.pi * k) ** order, (-1, *(1,) * (self.n_dims - 1 - axis)))
        return coef * jnp.asarray(symbol, coef.dtype)


class Cosine(AbstractTransform):
    """Truncated cosine series on the unit box, for functions that are even about the walls.

        û_k = Σ_x u(x) Π_j s_{k_j}/N_j cos(π k_j x_j),    u(x) = Σ_k û_k Π_j s_{k_j} cos(π k_j x_j)

    with s_0 = 1, s_k = √2, at the midpoints x_i = (i + ½)/N: the basis is orthonormal on the box
    and discretely orthonormal on the grid (DCT-II). Coefficients are real.

    **Arguments:** `modes`: the number of cosines on each axis, the constant included.

    **Raises:** as `Fourier`; `derivative` takes even orders only (odd ones leave the basis).
    """

    modes: tuple[int, ...] = eqx.field(static=True, converter=check_modes)

    @property
    def coefficient_shape(self) -> tuple[int, ...]:
        return self.modes

    @property
    def is_complex(self) -> bool:
        return False

    def kept(self, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        self._check(shape, "shape")
        return tuple(np.arange(min(m, n)) for m, n in zip(self.modes, shape, strict=True))

    def forward(self, u: Float[Array, "c *grid"]) -> Float[Array, "c *modes"]:
        check_values(u, "u")
        for axis, (k, n) in enumerate(zip(self.kept(u.shape[1:]), u.shape[1:], strict=True)):
            u = _contract(u, _cosines(len(k), n) / n, axis + 1)
        return u

    def inverse(
        self, coef: Float[Array, "c *modes"], shape: tuple[int, ...]
    ) -> Float[Array, "c *grid"]:
        expected = tuple(len(k) for k in self.kept(shape))
        check_coefficients(coef, expected, shape, self.modes)
        for axis, (m, n) in enumerate(zip(expected, shape, strict=True)):
            coef = _contract(coef, _cosines(m, n).T, axis + 1)
        return coef

    def evaluate(
        self, coef: Float[Array, "c *modes"], x: Float[Array, "n d"]
    ) -> Float[Array, "c n"]:
        if coef.shape[1:] != self.modes:
            raise ValueError(f"coef: expected all coefficients {self.modes}, got {coef.shape[1:]}")
        if x.ndim != 2 or x.shape[1] != self.n_dims:
            raise ValueError(f"x: expected points of shape (n, {self.n_dims}), got {x.shape}")
        basis = [
            jnp.where(np.arange(m) == 0, 1.0, np.sqrt(2.0)).astype(x.dtype)
            * jnp.cos(jnp.pi * x[:, j, None] * np.arange(m))
            for j, m in enumerate(self.modes)
        ]
        out = jnp.einsum("c...k,nk->c...n", coef, basis[-1])
        for axis in range(self.n_dims - 2, -1, -1):
            out = jnp.einsum("c...kn,nk->c...n", out, basis[axis])
        return out

    def derivative(
        self, coef: Float[Array, "c *modes"], axis: int, order: int = 2
    ) -> Float[Array, "c *modes"]:
        if not 0 <= axis < self.n_dims:
            raise ValueError(f"axis: expected 0 ≤ axis < {self.n_dims}, got {axis}")
        if order % 2:
            raise ValueError(f"order: odd derivatives of cosines are sines, got order {order}")
        symbol = (-1) ** (order // 2) * (np.pi * np.arange(self.modes[axis])) ** order
        symbol = np.reshape(symbol, (-1, *(1,) * (self.n_dims - 1 - axis)))
        return coef * jnp.asarray(symbol, coef.dtype)


def wavenumbers(m: int) -> np.ndarray:
    """The 2m wavenumbers of a full axis, in the order 0 … m-1, -m … -1."""
    return np.concatenate([np.arange(m), np.arange(-m, 0)])


@cache
def _forward_matrix(k: tuple[int, ...], n: int) -> np.ndarray:
    return _inverse_matrix(k, n).conj().T / n


@cache
def _inverse_matrix(k: tuple[int, ...], n: int) -> np.ndarray:
    # k·j is reduced modulo n first, so that the angle stays exact for large grids.
    return np.exp(2j * np.pi * (np.outer(np.arange(n), k) % n) / n)


@cache
def _cosines(m: int, n: int) -> np.ndarray:
    scale = np.where(np.arange(m) == 0, 1.0, np.sqrt(2.0))
    return scale[:, None] * np.cos(np.pi * np.outer(np.arange(m), np.arange(n) + 0.5) / n)


def _last_axis_weights(k: np.ndarray, n: int) -> np.ndarray:
    """2 for the wavenumbers that stand for a conjugate pair, 1 for k = 0 and the Nyquist one."""
    return np.where((k == 0) | (2 * k == n), 1.0, 2.0)


def _as_complex(real: Array, imag: Array) -> Array:
    # Half precisions have no complex type: the coefficients are then float32.
    real, imag = (jnp.asarray(a, jnp.promote_types(a.dtype, jnp.float32)) for a in (real, imag))
    return jax.lax.complex(real, imag)
