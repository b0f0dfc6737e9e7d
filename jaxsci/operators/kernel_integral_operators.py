"""Neural operators whose layers are kernel integrals: GNO, LNO and MGNO.

    v₀ = P(a(x), x),    v_{l+1} = σ(W_l v_l + b_l + K_l v_l),    G(a) = Q(v_L)

with no σ after the last layer. They differ in K: balls (GNO), low rank (LNO), several lengths
(MGNO). Each acts on grids of any resolution and on scattered points.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci.nn import AbstractLayout, Box, RowLinear, RowMLP, radius
from jaxsci.pde import Grid

from .kernel_integral import (
    KernelIntegral,
    LowRankIntegral,
    Multilevel,
    MultipoleVCycle,
    grid_subsets,
    multilevel,
)


class KernelDomain(NamedTuple):
    """Points, and what an operator's integrals need to know about them.

    - `pos`, `weights`: the points and their quadrature weights.
    - `graph`: a layout (GNO), levels (MGNO) or nothing (LNO).
    - `box`: periodic axes.
    """

    pos: Float[Array, "n d"]
    weights: Float[Array, " n"]
    graph: AbstractLayout | Multilevel | None
    box: Box | None


class AbstractReach(eqx.Module):
    """Which points an operator's integrals see: makes their graph from positions, on the host."""

    @abc.abstractmethod
    def graph(
        self,
        pos: Float[np.ndarray, "n d"],
        weights: Float[np.ndarray, " n"],
        box: Box | None,
        grid: Grid | None,
    ) -> AbstractLayout | Multilevel | None:
        """The graph; `grid` if the points are those of one."""

    @abc.abstractmethod
    def integrate(
        self, integral: Any, domain: KernelDomain, v: Float[Array, "n c"], a: Array | None
    ) -> Float[Array, "n c"]:
        """The integral of v on such points."""


class Ball(AbstractReach):
    """All points within `radius`, the point itself included."""

    radius: float = eqx.field(static=True)

    def graph(self, pos, weights, box, grid) -> AbstractLayout:
        """The radius graph.

        **Raises:** `ValueError` if some point sees no other.
        """
        del weights, grid
        layout, _ = radius(pos, r=self.radius, box=box, engine="host", loops=True)
        alone = int(jnp.sum(layout.degree() <= 1))
        if alone:
            raise ValueError(
                f"GNO: radius={self.radius} is so small that {alone} of {len(pos)} points have no "
                "neighbour"
            )
        return layout

    def integrate(self, integral, domain, v, a):
        """∫ over the ball."""
        return integral(
            domain.graph, v, domain.pos, weights=domain.weights, a_src=a, box=domain.box
        )


class Everywhere(AbstractReach):
    """All points."""

    def graph(self, pos, weights, box, grid) -> None:
        """Nothing is needed."""
        del pos, weights, box, grid

    def integrate(self, integral, domain, v, a):
        """∫ over the domain."""
        return integral(v, domain.pos, weights=domain.weights, a_src=a)


class Multipole(AbstractReach):
    """Levels of ever fewer points, with radii that double.

    - `radius`: of the finest level. `levels`: their number.
    """

    radius: float = eqx.field(static=True)
    levels: int = eqx.field(static=True)

    def graph(self, pos, weights, box, grid) -> Multilevel:
        """Every second point along each axis of a grid, or a fixed random 2⁻ᵈ of the points."""
        if grid is not None:
            subsets = grid_subsets(grid, self.levels)
        else:
            n, d = pos.shape
            rng, subsets = np.random.default_rng(0), []
            for _ in range(self.levels - 1):
                m = max(1, round(n / 2**d))
                subsets.append(np.sort(rng.permutation(n)[:m]))
                n = m
        radii = [self.radius * 2**level for level in range(self.levels)]
        if box is not None:
            radii = [min(r, box.periods.min() / 2) for r in radii]
        return multilevel(pos, subsets, radii, weights=weights, box=box)

    def integrate(self, integral, domain, v, a):
        """The V-cycle."""
        return integral(domain.graph, v, a)


class KernelOperator(eqx.Module):
    """The operator G(a) = Q(v_L) of layers v ← σ(W v + b + K v) with integrals K; see `GNO`."""

    lift: RowMLP
    skips: tuple[RowLinear, ...]
    integrals: tuple[Any, ...]
    project: RowMLP
    reach: AbstractReach
    grid: Grid = eqx.field(static=True)
    c_in: int = eqx.field(static=True)
    kernel_sees_input: bool = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def domain(
        self,
        pos: Float[np.ndarray, "n d"],
        weights: Float[np.ndarray, " n"] | None = None,
        box: Box | None = None,
    ) -> KernelDomain:
        """Scattered points, prepared on the host for `on_points`.

        **Arguments:** `pos`; `weights`: quadrature weights, `None` for equal ones with the volume
        of the operator's grid box as their sum; `box`: periodic axes.
        """
        if weights is None:
            weights = np.full(len(pos), np.prod(self.grid.lengths) / len(pos))
        return self._domain(np.asarray(pos), np.asarray(weights), box, None)

    def on_points(self, a: Float[Array, "n c_in"], domain: KernelDomain) -> Float[Array, "n c_out"]:
        """The operator on scattered points: rows in, rows out.

        **Raises:** `ValueError` if `a` has not one row of `c_in` numbers for each point.
        """
        if a.shape != (domain.pos.shape[0], self.c_in):
            raise ValueError(f"a: expected shape {(domain.pos.shape[0], self.c_in)}, got {a.shape}")
        domain = domain._replace(
            pos=domain.pos.astype(a.dtype), weights=domain.weights.astype(a.dtype)
        )
        v = self.lift(jnp.concatenate([a, domain.pos], axis=-1))
        extra = a if self.kernel_sees_input else None
        last = len(self.integrals) - 1
        for layer, (skip, integral) in enumerate(zip(self.skips, self.integrals, strict=True)):
            v = skip(v) + self.reach.integrate(integral, domain, v, extra)
            v = self.activation(v) if layer < last else v
        return self.project(v)

    def __call__(
        self,
        u: Float[Array, "c_in *grid"],
        *,
        cond: None = None,
        out: None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c_out *grid"]:
        """The operator on a grid of any resolution; `cond`, `out` and `key` are not used."""
        del cond, out, key
        grid = self.grid
        if u.ndim != grid.n_dims + 1 or u.shape[0] != self.c_in:
            raise ValueError(
                f"u: expected {self.c_in} channels and {grid.n_dims} grid axes, got shape {u.shape}"
            )
        if not jnp.issubdtype(u.dtype, jnp.floating):
            raise TypeError(f"u: expected floating-point values, got dtype {u.dtype}")
        shape = u.shape[1:]
        here = Grid(grid.lo, grid.hi, shape, grid.periodic, grid.endpoint)
        box = Box(grid.lengths, grid.periodic) if any(grid.periodic) else None
        with jax.ensure_compile_time_eval():
            pos = np.asarray(here.coords()).reshape(grid.n_dims, -1).T
            weights = np.asarray(here.weights()).reshape(-1)
            domain = self._domain(pos, weights, box, here)
        rows = self.on_points(u.reshape(self.c_in, -1).T, domain)
        return rows.T.reshape(-1, *shape)

    def _domain(self, pos, weights, box, grid) -> KernelDomain:
        graph = self.reach.graph(pos, weights, box, grid)
        return KernelDomain(jnp.asarray(pos), jnp.asarray(weights), graph, box)


def GNO(
    grid: Grid,
    c_in: int,
    c_out: int,
    *,
    radius: float,
    width: int = 32,
    depth: int = 4,
    matrix: bool = True,
    kernel_hidden: int = 64,
    kernel_layers: int = 3,
    kernel_sees_input: bool = False,
    activation: Callable[[Array], Array] = jax.nn.gelu,
    key: PRNGKeyArray,
) -> KernelOperator:
    """The graph neural operator: integrals over balls of a fixed radius.

    The radius has the unit of the coordinates, so a finer grid has more neighbours in the same
    ball and the operator stays the same one.

    **Arguments:**

    - `grid`: the box, its periodic axes and layout; its resolution does not matter.
    - `c_in`, `c_out`: channels. `width`: channels inside. `depth`: layers.
    - `radius`: of the balls, a tenth to a quarter of the domain.
    - `matrix`: kernels with values in the matrices, or diagonal ones.
    - `kernel_hidden`, `kernel_layers`: the perceptron of each kernel.
    - `kernel_sees_input`: whether k depends on a(x) and a(y) as in the paper. Without it the
      kernel is the same for all functions of a batch, so it is evaluated once for all of them.
    - `activation`: σ.

    **Raises:** `ValueError` for sizes that are not positive; the call for a radius so small that a
    point has no neighbour.

    References: arXiv:2003.03485, arXiv:2108.08481.
    """
    if not radius > 0:
        raise ValueError(f"GNO: radius must be positive, got {radius}")

    def integral(k: PRNGKeyArray) -> KernelIntegral:
        return KernelIntegral(
            grid.n_dims,
            width,
            width,
            matrix=matrix,
            c_extra=c_in if kernel_sees_input else 0,
            hidden=kernel_hidden,
            n_layers=kernel_layers,
            activation=activation,
            key=k,
        )

    return _operator(
        Ball(float(radius)), integral, grid, c_in, c_out, width, depth, kernel_sees_input,
        activation, key,
    )  # fmt: skip


def LNO(
    grid: Grid,
    c_in: int,
    c_out: int,
    *,
    rank: int = 4,
    width: int = 32,
    depth: int = 4,
    kernel_hidden: int = 64,
    kernel_layers: int = 3,
    kernel_sees_input: bool = False,
    activation: Callable[[Array], Array] = jax.nn.gelu,
    key: PRNGKeyArray,
) -> KernelOperator:
    """The low-rank neural operator: integrals over the whole domain of kernels of rank r.

    **Arguments:** as for `GNO`; `rank`: r.

    **Raises:** `ValueError` for sizes that are not positive.

    Reference: arXiv:2108.08481.
    """

    def integral(k: PRNGKeyArray) -> LowRankIntegral:
        return LowRankIntegral(
            grid.n_dims,
            width,
            width,
            rank=rank,
            c_extra=c_in if kernel_sees_input else 0,
            hidden=kernel_hidden,
            n_layers=kernel_layers,
            activation=activation,
            key=k,
        )

    return _operator(
        Everywhere(), integral, grid, c_in, c_out, width, depth, kernel_sees_input, activation, key
    )


def MGNO(
    grid: Grid,
    c_in: int,
    c_out: int,
    *,
    radius: float,
    levels: int = 3,
    width: int = 32,
    depth: int = 4,
    matrix: bool = True,
    kernel_hidden: int = 64,
    kernel_layers: int = 3,
    kernel_sees_input: bool = False,
    activation: Callable[[Array], Array] = jax.nn.gelu,
    key: PRNGKeyArray,
) -> KernelOperator:
    """The multipole graph neural operator: a V-cycle of integrals in every layer.

    **Arguments:** as for `GNO`; `levels`: of points; `radius`: on the finest, doubled on each
    coarser one (at most half of a period).

    **Raises:** `ValueError` for sizes that are not positive; the call for a radius so small that a
    point of some level has no neighbour, or too few points for the levels.

    Reference: arXiv:2006.09535.
    """
    if not radius > 0:
        raise ValueError(f"MGNO: radius must be positive, got {radius}")

    def integral(k: PRNGKeyArray) -> MultipoleVCycle:
        return MultipoleVCycle(
            grid.n_dims,
            width,
            levels=levels,
            matrix=matrix,
            c_extra=c_in if kernel_sees_input else 0,
            hidden=kernel_hidden,
            n_layers=kernel_layers,
            activation=activation,
            key=k,
        )

    return _operator(
        Multipole(float(radius), levels), integral, grid, c_in, c_out, width, depth,
        kernel_sees_input, activation, key,
    )  # fmt: skip


def _operator(
    reach, integral, grid, c_in, c_out, width, depth, kernel_sees_input, activation, key
) -> KernelOperator:
    for name, n in (("c_in", c_in), ("c_out", c_out), ("width", width), ("depth", depth)):
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"{name}: expected a positive integer, got {n!r}")
    lift_key, project_key, skip_key, integral_key = jr.split(key, 4)
    mlp = dict(hidden=2 * width, activation=activation)
    return KernelOperator(
        RowMLP(c_in + grid.n_dims, width, **mlp, key=lift_key),
        tuple(RowLinear(width, width, key=k) for k in jr.split(skip_key, depth)),
        tuple(integral(k) for k in jr.split(integral_key, depth)),
        RowMLP(width, c_out, **mlp, key=project_key),
        reach,
        grid,
        c_in,
        kernel_sees_input,
        activation,
    )
