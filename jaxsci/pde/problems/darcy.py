"""Darcy flow through a random two-phase medium, a benchmark of the neural-operator papers."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..elliptic import FaceMean, solve_elliptic
from ..grid import Grid
from ..random_fields import GaussianRandomField
from .dataset import (
    Dataset,
    Progress,
    check_count,
    check_positive,
    relative_errors,
    solve_in_chunks,
)

# Unknowns that are solved for together: 2^20 doubles are 8 MB a buffer.
_POINTS_AT_ONCE = 2**20


class DarcyFlow(eqx.Module):
    """The map a ↦ u of steady flow through a porous medium:

        −∇·(a ∇u) = f in (0, 1)²,   u = 0 on the boundary,   f = 1,
        a = 12 where z ≥ 0 and 3 where z < 0,   z ~ N(0, (−Δ + 9)⁻²) with ∂z/∂n = 0.

    Solved by the conservative 5-point scheme of `solve_elliptic` on the nodes (i, j)/(N−1), in
    double precision to rounding. The paper's coarser grids are sub-grids of 421² nodes:
    `dataset.subsample(5)` is 85², `subsample(3)` is 141², `subsample(2)` is 211².

    How it differs from the published generator: that one draws z on cell centres, and takes the
    two-valued a to the nodes, and u back, by cubic splines, which smear and overshoot the jumps;
    here z is drawn at the nodes, a has two values, and u is exactly zero on the boundary. The mean
    of neighbouring values on the faces is the same (arithmetic). The scale of z does not matter.

    Since a jumps, the discretisation error is of first order in h: about 1 % at N = 85, and less
    than half of that with `face_mean="harmonic"` (see `accuracy`). A model's error against such
    data says nothing about the equation below that.

    ```python
    data = DarcyFlow(resolution=85).generate(jax.random.key(0), 100)
    data.inputs.shape, data.outputs.shape  # (100, 1, 85, 85), (100, 1, 85, 85)
    ```

    Reference: arXiv 2010.08895, section 5.2; arXiv 2108.08481.
    """

    resolution: int = eqx.field(default=421, static=True)
    alpha: float = eqx.field(default=2.0, static=True)
    tau: float = eqx.field(default=3.0, static=True)
    high: float = eqx.field(default=12.0, static=True)
    low: float = eqx.field(default=3.0, static=True)
    forcing: float = eqx.field(default=1.0, static=True)
    face_mean: FaceMean = eqx.field(default="arithmetic", static=True)

    def __check_init__(self):
        for name in ("alpha", "tau", "high", "low", "forcing"):
            check_positive(f"DarcyFlow: {name}", getattr(self, name))
        check_count("DarcyFlow: resolution", self.resolution)
        if self.resolution < 3:
            raise ValueError(f"DarcyFlow: resolution must be >= 3, got {self.resolution}")
        if self.face_mean not in ("arithmetic", "harmonic"):
            raise ValueError(
                f"DarcyFlow: face_mean must be 'arithmetic' or 'harmonic', got {self.face_mean!r}"
            )

    @property
    def version(self) -> str:
        """Identifies the numbers that `generate` returns."""
        return "darcy-1"

    @property
    def grid(self) -> Grid:
        """The nodes of inputs and outputs, boundary included."""
        return Grid(0.0, 1.0, (self.resolution, self.resolution))

    @property
    def law(self) -> GaussianRandomField:
        """The law of the field z whose sign separates the two phases."""
        return GaussianRandomField(
            self.alpha, self.tau, boundary="neumann", n_modes=self.resolution - 1
        )

    def medium(self, key: PRNGKeyArray, grid: Grid | None = None) -> Float[Array, "1 x y"]:
        """A random coefficient a on `grid` (by default the problem's)."""
        z = self.law.sample(key, self.grid if grid is None else grid)
        return jnp.where(z >= 0, self.high, self.low).astype(z.dtype)

    def solve(self, a: Float[Array, "1 x y"]) -> Float[Array, "1 x y"]:
        """The solution u for a coefficient a > 0 on the problem's grid, in the precision of `a`.

        Pure: it may be jitted and mapped over a batch; its derivative with respect to `a` is the
        implicit one.

        **Raises:** `ValueError` if the shape is not (1, resolution, resolution).
        """
        if a.shape != (1, self.resolution, self.resolution):
            raise ValueError(
                f"DarcyFlow.solve: a has shape {a.shape}, "
                f"expected (1, {self.resolution}, {self.resolution})"
            )
        source = jnp.full_like(a[0], self.forcing)
        return solve_elliptic(a[0], source, self.grid, face_mean=self.face_mean)[None]

    def generate(
        self,
        key: PRNGKeyArray,
        n: int,
        *,
        dtype=np.float32,
        progress: Progress | None = None,
    ) -> Dataset:
        """`n` pairs (a, u), computed in double precision whatever JAX's flags are.

        **Arguments:**

        - `key`: pair i depends on `fold_in(key, i)` alone.
        - `n`: number of pairs.
        - `dtype`: floating type of the result.
        - `progress`: called as `progress(done, n)` after each chunk.

        **Returns:** inputs and outputs "n 1 x y".

        **Raises:** `ValueError`, `TypeError` for a bad `n` or `dtype`.
        """

        def pair(key):
            a = self.medium(key)
            return a, self.solve(a)

        inputs, outputs = solve_in_chunks(
            pair, key, n, chunk=self._chunk, dtype=dtype, progress=progress
        )
        return Dataset(inputs, outputs, self.grid)

    def accuracy(self, key: PRNGKeyArray, n: int) -> dict[str, float]:
        """Relative L² distance of the solver's outputs from those with h halved.

        On the finer grid the phases are separated by the same field z, evaluated at more nodes.

        **Returns:** `halved_dx_mean` and `halved_dx_max` over `n` inputs (the same as
        `generate`'s with this key).
        """
        finer = dataclasses.replace(self, resolution=2 * self.resolution - 1)

        def solutions(key):
            return self.solve(self.medium(key)), finer.solve(self.medium(key, finer.grid))

        base, fine = solve_in_chunks(solutions, key, n, chunk=self._chunk, dtype=np.float64)
        errors = relative_errors(base, fine[:, :, ::2, ::2])
        return {f"halved_dx_{statistic}": value for statistic, value in errors.items()}

    @property
    def _chunk(self) -> int:
        return max(1, _POINTS_AT_ONCE // self.resolution**2)
