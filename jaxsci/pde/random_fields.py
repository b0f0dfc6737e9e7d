"""Gaussian random fields on a box by their Karhunen-Loève series, as in the neural-operator papers.

A centred Gaussian field with covariance operator C = σ² (−Δ + τ²)^(−α) is the sum

    u(x) = Σₖ √λₖ ξₖ φₖ(x),   ξₖ ~ N(0, 1) independent,   λₖ = σ² (|κₖ|² + τ²)^(−α),

over the orthonormal eigenfunctions φₖ of the Laplacian: complex exponentials with κ = 2πk/L on a
torus, products of cosines with κ = πk/L for zero normal derivative, products of sines for zero
boundary values.
"""

import math
from functools import partial
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, PRNGKeyArray

from .grid import Grid

Boundary = Literal["periodic", "neumann", "dirichlet"]


class GaussianRandomField(eqx.Module):
    """The law N(0, σ² (−Δ + τ²)^(−α)) on a box with periodic, Neumann or Dirichlet boundaries.

    α sets the smoothness (samples have just under α − d/2 derivatives), 1/τ the correlation
    length, and σ² = τ^(2α−d) (the default) makes the variance roughly independent of both.

    Each coefficient ξₖ is drawn from a key of its own, found by folding the mode number k into the
    sample's key. So the same key on a finer grid is the same field with more of its series: the
    coefficients of the modes that both grids resolve are equal, and with `n_modes` given the two
    fields are equal at common points. (Single and double precision draw different numbers.)

    ```python
    law = GaussianRandomField(alpha=2.0, tau=5.0, variance_scale=625.0)  # Burgers in the FNO paper
    grid = Grid(0.0, 1.0, 1024, periodic=True)
    u0 = law.sample(key, grid)  # shape (1, 1024)
    ```

    Reference: arXiv 2010.08895, section 5 and appendix A.3; the convention for σ² is that of the
    data generators published with it.
    """

    alpha: float = eqx.field(static=True)
    tau: float = eqx.field(static=True)
    variance_scale: float | None = eqx.field(static=True)
    boundary: Boundary = eqx.field(static=True)
    zero_mean: bool = eqx.field(static=True)
    n_modes: int | None = eqx.field(static=True)

    def __init__(
        self,
        alpha: float,
        tau: float,
        *,
        variance_scale: float | None = None,
        boundary: Boundary = "periodic",
        zero_mean: bool = True,
        n_modes: int | None = None,
    ):
        """**Arguments:**

        - `alpha`: smoothness, above d/2 (else the series does not converge). Good values: 2 to 4.
        - `tau`: inverse correlation length, positive. Good values: 3 to 10 on the unit box.
        - `variance_scale`: σ²; `None` means τ^(2α−d).
        - `boundary`: `"periodic"`, `"neumann"` (zero normal derivative) or `"dirichlet"` (zero).
        - `zero_mean`: leave out the constant mode, as the published generators do.
        - `n_modes`: keep the mode numbers |k| ≤ `n_modes` along each axis; `None` keeps those that
            the grid resolves.

        **Raises:** `ValueError` for values out of range.
        """
        for name, value in (("alpha", alpha), ("tau", tau), ("variance_scale", variance_scale)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"GaussianRandomField: {name} must be positive, got {value!r}")
        if boundary not in get_args(Boundary):
            raise ValueError(
                f"GaussianRandomField: boundary must be one of {get_args(Boundary)}, "
                f"got {boundary!r}"
            )
        if n_modes is not None and (isinstance(n_modes, bool) or not n_modes >= 1):
            raise ValueError(f"GaussianRandomField: n_modes must be at least 1, got {n_modes!r}")
        self.alpha = float(alpha)
        self.tau = float(tau)
        self.variance_scale = None if variance_scale is None else float(variance_scale)
        self.boundary = boundary
        self.zero_mean = bool(zero_mean)
        self.n_modes = None if n_modes is None else int(n_modes)

    def modes(self, grid: Grid) -> tuple[np.ndarray, ...]:
        """The mode numbers k along each axis that a sample on `grid` has.

        Periodic: −m … m with m the largest below the Nyquist number; Neumann 0 … N−1; Dirichlet
        1 … (number of interior points). `n_modes` replaces the upper end.

        **Raises:** `ValueError` if the grid does not fit the boundary or α ≤ d/2.
        """
        self._check(grid)
        result = []
        for count, end in zip(grid.shape, grid.endpoint, strict=True):
            if self.boundary == "periodic":
                top = (count - 1) // 2 if self.n_modes is None else self.n_modes
                result.append(np.arange(-top, top + 1))
            elif self.boundary == "neumann":
                top = count - 1 if self.n_modes is None else self.n_modes
                result.append(np.arange(top + 1))
            else:
                top = (count - 2 if end else count) if self.n_modes is None else self.n_modes
                result.append(np.arange(1, top + 1))
        return tuple(result)

    def eigenvalues(self, grid: Grid) -> Float64[np.ndarray, "*modes"]:
        """λₖ for the mode numbers of `modes(grid)`, with λ = 0 for the constant if it is left out.

        The pointwise variance of a sample is Σₖ λₖ φₖ(x)²; on a torus of volume V, Σₖ λₖ / V.
        """
        modes = self.modes(grid)
        factor = 2 * np.pi if self.boundary == "periodic" else np.pi
        kappa2 = np.zeros(())
        for k, length in zip(modes, grid.lengths, strict=True):
            kappa2 = np.add.outer(kappa2, (factor * k / length) ** 2)
        scale = self.variance_scale
        if scale is None:
            scale = self.tau ** (2 * self.alpha - grid.n_dims)
        values = scale * (kappa2 + self.tau**2) ** (-self.alpha)
        if self.zero_mean and self.boundary != "dirichlet":
            values[kappa2 == 0] = 0.0
        return values

    def sample(self, key: PRNGKeyArray, grid: Grid, dtype=None) -> Float[Array, "1 *grid"]:
        """One field on `grid`; many by `jax.vmap` over keys.

        **Arguments:**

        - `key`: a random key.
        - `grid`: periodic along all axes for `"periodic"`, along none otherwise.
        - `dtype`: by default JAX's default floating type.

        **Raises:** `ValueError` as `modes` does.
        """
        self._check(grid)
        return _sample(self, key, grid, jnp.zeros((), dtype).dtype)

    def _torus(self, coefficients: Array, grid: Grid) -> Array:
        """Re Σₖ cₖ exp(2πi k·(x−lo)/L) at the grid points.

        Coefficients of k and −k are drawn independently, and taking the real part leaves
        ξₖ cos − ηₖ sin for each of them: together √2 (ξ cos − η sin), the real series.
        """
        for axis, count in enumerate(grid.shape):
            top = coefficients.shape[axis] // 2
            # Modes that differ by a multiple of N coincide at the points: fold them together.
            folds = -(-coefficients.shape[axis] // count)
            padding = [(0, 0)] * coefficients.ndim
            padding[axis] = (0, folds * count - coefficients.shape[axis])
            padded = jnp.pad(coefficients, padding)
            shape = (*padded.shape[:axis], folds, count, *padded.shape[axis + 1 :])
            coefficients = jnp.roll(padded.reshape(shape).sum(axis), -top, axis=axis)
        volume = math.prod(grid.lengths)
        return jnp.fft.ifftn(coefficients, norm="forward").real / math.sqrt(volume)

    def _basis(self, grid: Grid, axis: int, k: np.ndarray) -> np.ndarray:
        """Orthonormal cosines or sines at the points of one axis, "point mode"."""
        length = grid.lengths[axis]
        phase = np.outer((grid.axis(axis) - grid.lo[axis]) * (np.pi / length), k)
        if self.boundary == "dirichlet":
            return math.sqrt(2 / length) * np.sin(phase)
        return np.where(k == 0, 1.0, math.sqrt(2)) / math.sqrt(length) * np.cos(phase)

    def _check(self, grid: Grid) -> None:
        if not isinstance(grid, Grid):
            raise TypeError(f"GaussianRandomField: expected a Grid, got {type(grid).__name__}")
        if any(wraps != (self.boundary == "periodic") for wraps in grid.periodic):
            raise ValueError(
                f"GaussianRandomField: boundary {self.boundary!r} does not fit a grid with "
                f"periodic={grid.periodic}"
            )
        if self.alpha <= grid.n_dims / 2:
            raise ValueError(
                f"GaussianRandomField: alpha={self.alpha} must exceed d/2 = {grid.n_dims / 2}, "
                "else the variance is infinite"
            )


@partial(jax.jit, static_argnums=(0, 2, 3))
def _sample(law: GaussianRandomField, key: PRNGKeyArray, grid: Grid, dtype) -> Array:
    """Compiled here, because eagerly a key for each mode would be thousands of small calls."""
    modes = law.modes(grid)
    amplitudes = jnp.asarray(np.sqrt(law.eigenvalues(grid)), dtype)
    if law.boundary == "periodic":
        parts = _normals(key, modes, (2,), dtype)
        return law._torus(amplitudes * jax.lax.complex(parts[..., 0], parts[..., 1]), grid)[None]
    field = amplitudes * _normals(key, modes, (), dtype)
    for axis, k in enumerate(modes):
        basis = jnp.asarray(law._basis(grid, axis, k), dtype)
        field = jnp.moveaxis(jnp.tensordot(field, basis, axes=([axis], [1])), -1, axis)
    return field[None]


def _normals(key: PRNGKeyArray, modes: tuple[np.ndarray, ...], shape: tuple, dtype) -> Array:
    """Standard normals of `shape` for each mode, each from its own key: "*modes *shape"."""

    # 0, 1, −1, 2, −2, … ↦ 0, 1, 2, 3, 4, …: `fold_in` takes a non-negative number.
    codes = [np.where(k > 0, 2 * k - 1, -2 * k) for k in modes]
    codes = np.stack([code.ravel() for code in np.meshgrid(*codes, indexing="ij")])
    # A scan over the axes, so that the hash is compiled once and not once an axis.
    fold = jax.vmap(jax.random.fold_in)
    keys, _ = jax.lax.scan(
        lambda keys, code: (fold(keys, code), None),
        jnp.broadcast_to(key, codes.shape[1:]),
        jnp.asarray(codes, jnp.uint32),
    )
    draws = jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
    return draws.reshape(*(k.size for k in modes), *shape)
