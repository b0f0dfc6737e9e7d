"""Elliptic problems in divergence form on a box: conservative finite volumes, solved by CG."""

from functools import partial
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from .grid import Grid

FaceMean = Literal["arithmetic", "harmonic"]


def solve_elliptic(
    coefficient: Float[Array, "*grid"],
    source: Float[Array, "*grid"],
    grid: Grid,
    *,
    face_mean: FaceMean = "arithmetic",
    rtol: float | None = None,
    max_steps: int = 500,
) -> Float[Array, "*grid"]:
    """Solves −∇·(a ∇u) = f in a box with u = 0 on its boundary.

    Around each interior point xᵢ lies a cell whose faces are midway to the neighbours. The flux
    through a face is a difference quotient, so that what leaves a cell enters the next:

        (1/h²) Σ_faces a_face (uᵢ − u_neighbour) = fᵢ,

    in two dimensions the 5-point scheme, second-order accurate for smooth a. For `a_face` the
    arithmetic mean of the two points' values is what the neural-operator papers' generator takes;
    the harmonic mean gives the exact flux in one dimension when a jumps at the face. Where a jumps
    elsewhere, both are first-order.

    The system is solved by conjugate gradients, preconditioned by the Laplacian, which sine
    transforms invert exactly. So the number of iterations does not depend on the grid, and grows
    like √(max a / min a) log(1/rtol): about 20 for the papers' coefficients (12 and 3). The
    derivative with respect to `coefficient` and `source` is that of the exact solution of the
    discrete system, by one more solve, whatever the number of iterations.

    **Arguments:**

    - `coefficient`: a > 0 at the grid points.
    - `source`: f at the grid points; its boundary values are not used.
    - `grid`: not periodic, endpoints included, at least 3 points on each axis.
    - `face_mean`: `"arithmetic"` or `"harmonic"`.
    - `rtol`: bound on the residual relative to f, and on the last correction relative to u, both
        in the maximum norm. `None` means 1e-12 in double and 1e-5 in single precision.
    - `max_steps`: bound on the iterations.

    **Returns:** u at the grid points, zero on the boundary. Batches by `jax.vmap`.

    **Raises:** `ValueError`, `TypeError` for arrays that do not fit the grid or options out of
    range; at run time an error if a is somewhere not positive, or `max_steps` do not suffice.
    """
    coefficient, source = jnp.asarray(coefficient), jnp.asarray(source)
    _check(coefficient, source, grid, face_mean, max_steps)
    dtype = jnp.result_type(coefficient, source)
    if rtol is None:
        rtol = 1e-12 if dtype == jnp.float64 else 1e-5
    if not 0 < rtol < 1:
        raise ValueError(f"solve_elliptic: rtol must lie between 0 and 1, got {rtol!r}")
    coefficient, source = coefficient.astype(dtype), source.astype(dtype)
    return _solve(coefficient, source, grid, face_mean, rtol, max_steps)


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _solve(
    coefficient: Array, source: Array, grid: Grid, face_mean: FaceMean, rtol: float, max_steps: int
) -> Array:
    """Compiled here, so that a call outside of `jax.jit` costs no more than one inside."""
    dtype = coefficient.dtype
    coefficient = eqx.error_if(
        coefficient,
        ~jnp.all(coefficient > 0),
        "solve_elliptic: coefficient must be positive at every grid point",
    )
    mean = jax.lax.stop_gradient(jnp.mean(coefficient))
    # The size of u for constant a and f = 1: it cancels, and only gives tolerances a meaning.
    size = 1 / (mean * sum((np.pi / length) ** 2 for length in grid.lengths))
    inverse_poisson = _InversePoisson(grid, dtype, 1 / (mean * size))
    # The residual is updated by its recurrence alone: recomputed, it would stall at rounding level
    # (condition number times epsilon), above the tolerance on fine grids.
    solver = lx.CG(rtol, rtol, stabilise_every=None, max_steps=max_steps)

    def conjugate_gradients(operator, right):
        # Right side and solution are brought to size one, here and not outside, since this also
        # solves the systems for derivatives, whose right sides may be tiny.
        strength = jnp.max(jnp.abs(right))
        strength = jnp.where(strength > 0, strength, 1)
        structure = jax.ShapeDtypeStruct(right.shape, dtype)
        symmetric = lx.positive_semidefinite_tag
        scaled = lx.FunctionLinearOperator(lambda w: operator(size * w), structure, symmetric)
        preconditioner = lx.FunctionLinearOperator(inverse_poisson, structure, symmetric)
        solution = lx.linear_solve(
            scaled, right / strength, solver, options={"preconditioner": preconditioner}
        )
        return size * strength * solution.value

    u = jax.lax.custom_linear_solve(
        FluxDifference(coefficient, grid, face_mean),
        source[(slice(1, -1),) * grid.n_dims],
        conjugate_gradients,
        symmetric=True,
    )
    return jnp.pad(u, 1)


class FluxDifference(eqx.Module):
    """The discrete operator u ↦ −∇·(a ∇u) at the interior points, for u = 0 on the boundary.

    Symmetric and positive definite for a > 0.
    """

    coefficient: Float[Array, "*grid"]
    grid: Grid = eqx.field(static=True)
    face_mean: FaceMean = eqx.field(default="arithmetic", static=True)

    def __call__(self, u: Float[Array, "*interior"]) -> Float[Array, "*interior"]:
        """Applies the operator to the interior values."""
        total = jnp.zeros_like(u)
        for axis, step in enumerate(self.grid.spacing):
            rim = tuple((1, 1) if a == axis else (0, 0) for a in range(u.ndim))
            flux = self._faces(axis) * jnp.diff(jnp.pad(u, rim), axis=axis)
            total = total - jnp.diff(flux, axis=axis) / step**2
        return total

    def _faces(self, axis: int) -> Array:
        """The coefficient on the faces across `axis`, between the interior lines of the others."""
        lines = tuple(
            slice(None) if a == axis else slice(1, -1) for a in range(self.coefficient.ndim)
        )
        a = jnp.moveaxis(self.coefficient[lines], axis, 0)
        left, right = a[:-1], a[1:]
        if self.face_mean == "harmonic":
            mean = 2 * left * right / (left + right)
        else:
            mean = (left + right) / 2
        return jnp.moveaxis(mean, 0, axis)


class _InversePoisson(eqx.Module):
    """u ↦ s (−Δₕ)⁻¹ u by sine transforms, with the same finite differences as `FluxDifference`.

    The transforms are products with the orthonormal, symmetric matrix √(2/(n+1)) sin(πjk/(n+1)),
    split into even and odd halves: a grid line's even part has only odd k, its odd part only
    even k, which halves the work. Up to some thousand points this beats an FFT.
    """

    scale: Float[Array, ""]
    grid: Grid = eqx.field(static=True)
    dtype: np.dtype = eqx.field(static=True)

    def __init__(self, grid: Grid, dtype, scale: Float[Array, ""] | float = 1.0):
        self.grid = grid
        self.dtype = np.dtype(dtype)
        self.scale = jnp.asarray(scale, dtype)

    def __call__(self, u: Float[Array, "*interior"]) -> Float[Array, "*interior"]:
        symbol = np.zeros(())
        for count, step in zip(self.grid.shape, self.grid.spacing, strict=True):
            # Ordered as the transform orders them: odd k first.
            k = np.concatenate([np.arange(1, count - 1, 2), np.arange(2, count - 1, 2)])
            along = (2 * np.sin(np.pi * k / (2 * (count - 1))) / step) ** 2
            symbol = np.add.outer(symbol, along)
        for axis in range(u.ndim):
            u = _sine_analysis(u, axis)
        u = u * (self.scale / jnp.asarray(symbol, self.dtype))
        for axis in range(u.ndim):
            u = _sine_synthesis(u, axis)
        return u


def _half_sines(n: int, dtype) -> tuple[Array, Array]:
    """The transform restricted to even lines (odd k) and to odd lines (even k)."""
    j = np.arange(1, (n + 1) // 2 + 1)
    even = np.sqrt(2 / (n + 1)) * np.sin(np.pi * np.outer(np.arange(1, n + 1, 2), j) / (n + 1))
    j = np.arange(1, n // 2 + 1)
    odd = np.sqrt(2 / (n + 1)) * np.sin(np.pi * np.outer(np.arange(2, n + 1, 2), j) / (n + 1))
    return jnp.asarray(even, dtype), jnp.asarray(odd, dtype)


def _sine_analysis(u: Array, axis: int) -> Array:
    n = u.shape[axis]
    even, odd = _half_sines(n, u.dtype)
    u = jnp.moveaxis(u, axis, 0)
    half = n // 2
    first, last = u[:half], u[::-1][:half]
    middle = u[half : n - half]  # one line if n is odd, none else
    sums = jnp.concatenate([first + last, middle])
    coefficients = [jnp.tensordot(even, sums, 1), jnp.tensordot(odd, first - last, 1)]
    return jnp.moveaxis(jnp.concatenate(coefficients), 0, axis)


def _sine_synthesis(u: Array, axis: int) -> Array:
    n = u.shape[axis]
    even, odd = _half_sines(n, u.dtype)
    u = jnp.moveaxis(u, axis, 0)
    half = n // 2
    sums = jnp.tensordot(even.T, u[: n - half], 1)
    differences = jnp.tensordot(odd.T, u[n - half :], 1)
    first, last = sums[:half] + differences, sums[:half] - differences
    return jnp.moveaxis(jnp.concatenate([first, sums[half:], last[::-1]]), 0, axis)


def _check(coefficient, source, grid, face_mean, max_steps) -> None:
    if not isinstance(grid, Grid):
        raise TypeError(f"solve_elliptic: grid must be a Grid, got {type(grid).__name__}")
    if any(grid.periodic) or not all(grid.endpoint) or min(grid.shape) < 3:
        raise ValueError(
            "solve_elliptic: grid must include its endpoints, be periodic along no axis and have "
            f"at least 3 points on each, got {grid}"
        )
    for name, array in (("coefficient", coefficient), ("source", source)):
        if array.shape != grid.shape:
            raise ValueError(
                f"solve_elliptic: {name} has shape {array.shape}, expected the grid's {grid.shape}"
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"solve_elliptic: {name} must be real floating, got {array.dtype}")
    if face_mean not in get_args(FaceMean):
        raise ValueError(
            f"solve_elliptic: face_mean must be one of {get_args(FaceMean)}, got {face_mean!r}"
        )
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"solve_elliptic: max_steps must be a positive integer, got {max_steps!r}")
