"""Integrals against learned kernels, on any points.

    (K v)(x) = ∫_{B(x)} k(x, y) v(y) dν(y) ≈ Σ_{j : y_j ∈ B(x)} w_j k(x, y_j) v(y_j)

with quadrature weights w, so that it is an integral and not a sum: more points in the same ball
refine the result and do not change its size. `KernelIntegral` takes balls of a given radius (a
graph), `LowRankIntegral` all points and a kernel of low rank, `MultipoleVCycle` balls that grow
while the points get fewer, for all lengths at a linear cost.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxsci.nn import AbstractLayout, Box, EdgeMLP, RowMLP, displacement, radius
from jaxsci.pde import Grid

KernelKind = Literal["linear", "kernel_only", "nonlinear", "nonlinear_kernel_only"]
Activation = Callable[[Array], Array]


class KernelIntegral(eqx.Module):
    """The integral of a kernel over the neighbours of each point. With r = x − y,

        "linear"                  ∫ k(x, r, a(x), a(y)) v(y) dν(y)
        "nonlinear"               ∫ k(x, r, a(x), a(y), v(y)) v(y) dν(y)
        "kernel_only"             ∫ k(x, r, a(x), a(y)) dν(y)
        "nonlinear_kernel_only"   ∫ k(x, r, a(x), a(y), v(y)) dν(y)

    k is a perceptron. Its values are matrices, or with `matrix=False` diagonal ones. r is taken the
    shortest way in a periodic box; (x, r) tells as much as (x, y).

    **Arguments:**

    - `n_dims`: coordinates of a point.
    - `c_in`, `c_out`: length of v's rows and of the result's.
    - `kind`: see above. `matrix`: c_out × c_in matrices, or diagonal ones (then c_in = c_out).
    - `c_extra`: length of the rows a, 0 for none.
    - `hidden`, `n_layers`, `activation`: of the perceptron.

    **Raises:** `ValueError` for sizes that are not positive, an unknown kind, or a diagonal kernel
    with c_in ≠ c_out; the call for rows of other lengths.

    References: arXiv:2003.03485, arXiv:2108.08481.
    """

    kernel: EdgeMLP
    c_in: int = eqx.field(static=True)
    c_out: int = eqx.field(static=True)
    kind: KernelKind = eqx.field(static=True)
    matrix: bool = eqx.field(static=True)

    def __init__(
        self,
        n_dims: int,
        c_in: int,
        c_out: int,
        *,
        kind: KernelKind = "linear",
        matrix: bool = True,
        c_extra: int = 0,
        hidden: int = 64,
        n_layers: int = 3,
        activation: Activation = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        if kind not in ("linear", "kernel_only", "nonlinear", "nonlinear_kernel_only"):
            raise ValueError(
                "KernelIntegral: kind must be 'linear', 'kernel_only', 'nonlinear' or "
                f"'nonlinear_kernel_only', got {kind!r}"
            )
        if min(n_dims, c_in, c_out) < 1:
            raise ValueError(
                f"KernelIntegral: sizes must be positive, got n_dims={n_dims}, c_in={c_in}, "
                f"c_out={c_out}"
            )
        multiplies = not kind.endswith("kernel_only")
        if multiplies and not matrix and c_in != c_out:
            raise ValueError(
                f"KernelIntegral: a diagonal kernel keeps the rows' length, got {c_in} and {c_out}"
            )
        self.kernel = EdgeMLP(
            n_dims + c_extra,
            c_extra + (c_in if kind.startswith("nonlinear") else 0),
            n_dims,
            c_out * c_in if multiplies and matrix else c_out,
            hidden=hidden,
            n_layers=n_layers,
            activation=activation,
            key=key,
        )
        self.c_in, self.c_out, self.kind, self.matrix = c_in, c_out, kind, matrix

    def __call__(
        self,
        layout: AbstractLayout,
        v: Float[Array, "n_src c_in"],
        y: Float[Array, "n_src d"],
        x: Float[Array, "n_dst d"] | None = None,
        *,
        weights: Float[Array, " n_src"] | None = None,
        a_src: Float[Array, "n_src a"] | None = None,
        a_dst: Float[Array, "n_dst a"] | None = None,
        box: Box | None = None,
    ) -> Float[Array, "n_dst c_out"]:
        """The integral at the destinations.

        **Arguments:**

        - `layout`: which sources y the integral at each destination x sees, from `radius`.
        - `v`: the function at the sources. `y`, `x`: positions; `x=None` are the sources.
        - `weights`: ν's quadrature weights at the sources; `None` is the mean over the neighbours
          (ν has mass 1 in every ball).
        - `a_src`, `a_dst`: the rows a(y), a(x); `a_dst=None` are the sources'.
        - `box`: periodic axes.
        """
        if v.ndim != 2 or v.shape[1] != self.c_in:
            raise ValueError(f"v: expected rows of {self.c_in}, got shape {v.shape}")
        if weights is not None and weights.shape != (layout.n_src,):
            raise ValueError(f"weights: expected shape ({layout.n_src},), got {weights.shape}")
        x = y if x is None else x
        a_dst = a_src if a_dst is None else a_dst
        gap = displacement(layout.dst(x), layout.src(y), box)
        nonlinear = self.kind.startswith("nonlinear")
        src = _beside(v, a_src) if nonlinear else a_src
        k = self.kernel(layout, src, _beside(x, a_dst), gap)
        if self.kind.endswith("kernel_only"):
            messages = k if weights is None else k * layout.src(weights)[..., None]
        else:
            values = layout.src(v if weights is None else v * weights[:, None])
            if self.matrix:
                k = k.reshape(*k.shape[:-1], self.c_out, self.c_in)
                messages = jnp.einsum("...oi,...i->...o", k, values)
            else:
                messages = k * values
        return layout.reduce(messages, "mean" if weights is None else "sum")


class LowRankIntegral(eqx.Module):
    """The integral of a kernel of rank r over all points, at a cost of O(N r):

        k(x, y) = Σ_{j ≤ r} φ_j(x) ψ_j(y)ᵀ,    (K v)(x) = Σ_j φ_j(x) ∫ ψ_j(y)ᵀ v(y) dν(y)

    φ and ψ are perceptrons of the position and of the rows a there.

    **Arguments:** `n_dims`, `c_in`, `c_out`, `c_extra`, `hidden`, `n_layers`, `activation` as for
    `KernelIntegral`; `rank`: r, 4 is usual.

    **Raises:** `ValueError` for sizes that are not positive; the call for rows of other lengths.

    Reference: arXiv:2108.08481, section 4.2.
    """

    phi: RowMLP
    psi: RowMLP
    c_in: int = eqx.field(static=True)
    c_out: int = eqx.field(static=True)
    rank: int = eqx.field(static=True)

    def __init__(
        self,
        n_dims: int,
        c_in: int,
        c_out: int,
        *,
        rank: int = 4,
        c_extra: int = 0,
        hidden: int = 64,
        n_layers: int = 3,
        activation: Activation = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        if min(n_dims, c_in, c_out, rank) < 1:
            raise ValueError(
                f"LowRankIntegral: sizes must be positive, got n_dims={n_dims}, c_in={c_in}, "
                f"c_out={c_out}, rank={rank}"
            )
        phi_key, psi_key = jr.split(key)

        def factor(c: int, k: PRNGKeyArray) -> RowMLP:
            return RowMLP(
                n_dims + c_extra,
                rank * c,
                hidden=hidden,
                n_layers=n_layers,
                activation=activation,
                key=k,
            )

        self.phi, self.psi = factor(c_out, phi_key), factor(c_in, psi_key)
        self.c_in, self.c_out, self.rank = c_in, c_out, rank

    def __call__(
        self,
        v: Float[Array, "n_src c_in"],
        y: Float[Array, "n_src d"],
        x: Float[Array, "n_dst d"] | None = None,
        *,
        weights: Float[Array, " n_src"] | None = None,
        a_src: Float[Array, "n_src a"] | None = None,
        a_dst: Float[Array, "n_dst a"] | None = None,
    ) -> Float[Array, "n_dst c_out"]:
        """The integral at the points x; the arguments are those of `KernelIntegral`."""
        if v.ndim != 2 or v.shape[1] != self.c_in:
            raise ValueError(f"v: expected rows of {self.c_in}, got shape {v.shape}")
        n = v.shape[0]
        if weights is not None and weights.shape != (n,):
            raise ValueError(f"weights: expected shape ({n},), got {weights.shape}")
        x = y if x is None else x
        a_dst = a_src if a_dst is None else a_dst
        psi = self.psi(_beside(y, a_src)).reshape(n, self.rank, self.c_in)
        phi = self.phi(_beside(x, a_dst)).reshape(x.shape[0], self.rank, self.c_out)
        weighted = v / n if weights is None else v * weights[:, None]
        moments = jnp.einsum("nri,ni->r", psi, weighted)
        return jnp.einsum("nro,r->no", phi, moments)


class Multilevel(eqx.Module):
    """Sets of points J₁ ⊃ J₂ ⊃ … that get coarser, and the graphs within and between them.

    - `pos`, `weights`: of every level.
    - `subset`: `subset[l]` are the rows of level l that level l + 1 keeps.
    - `within`: the graph of each level; `down`: from level l to l + 1; `up`: from l + 1 to l.
    - `box`: periodic axes.
    """

    pos: tuple[Float[Array, "n d"], ...]
    weights: tuple[Float[Array, " n"], ...]
    subset: tuple[Int[Array, " m"], ...]
    within: tuple[AbstractLayout, ...]
    down: tuple[AbstractLayout, ...]
    up: tuple[AbstractLayout, ...]
    box: Box | None = None

    @property
    def n_levels(self) -> int:
        """The number of levels."""
        return len(self.pos)


def multilevel(
    pos: Float[np.ndarray, "n d"],
    subsets: Sequence[Int[np.ndarray, " m"]],
    radii: Sequence[float],
    *,
    weights: Float[np.ndarray, " n"] | None = None,
    box: Box | None = None,
) -> Multilevel:
    """Nested levels of points with their graphs, made on the host.

    **Arguments:**

    - `pos`: the points of the finest level.
    - `subsets`: for every coarser level, the rows of the level before that it keeps.
    - `radii`: of the graphs, one for each level; the graphs between two levels have the coarser
      one's. Radii that grow as the spacing does keep the cost linear.
    - `weights`: quadrature weights; on coarser levels they are those of the points that stay, times
      a factor that keeps their sum. `None`: 1/n.
    - `box`: periodic axes.

    **Raises:** `ValueError` for another number of radii than levels, empty levels, or a level whose
    points have no neighbours (its size is told).
    """
    if len(radii) != len(subsets) + 1:
        raise ValueError(
            f"multilevel: expected {len(subsets) + 1} radii, one for each level, got {len(radii)}"
        )
    pos = np.asarray(pos)
    n = len(pos)
    weights = np.full(n, 1 / n) if weights is None else np.asarray(weights)
    total = weights.sum()
    levels, masses = [pos], [weights]
    for subset in subsets:
        kept = np.asarray(subset)
        if kept.size < 1:
            raise ValueError("multilevel: every level needs at least one point")
        levels.append(levels[-1][kept])
        masses.append(masses[-1][kept] * total / masses[-1][kept].sum())

    def graph(src, dst, r):
        layout, _ = radius(src, dst, r=r, box=box, engine="host", loops=True)
        empty = int(jnp.sum(layout.degree() == 0))
        if empty:
            raise ValueError(
                f"multilevel: radius {r} is so small that {empty} of {len(dst)} points have no "
                "neighbour"
            )
        return layout

    within = [graph(x, x, r) for x, r in zip(levels, radii, strict=True)]
    pairs = list(zip(levels[:-1], levels[1:], radii[1:], strict=True))
    return Multilevel(
        tuple(jnp.asarray(x) for x in levels),
        tuple(jnp.asarray(w) for w in masses),
        tuple(jnp.asarray(s, jnp.int32) for s in subsets),
        tuple(within),
        tuple(graph(fine, coarse, r) for fine, coarse, r in pairs),
        tuple(graph(coarse, fine, r) for fine, coarse, r in pairs),
        box,
    )


def grid_subsets(grid: Grid, n_levels: int) -> list[Int[np.ndarray, " m"]]:
    """Every second point along each axis, `n_levels − 1` times: the `subsets` of a grid's levels.

    **Raises:** `ValueError` for `n_levels` < 1 or an axis that runs out of points.
    """
    if n_levels < 1:
        raise ValueError(f"grid_subsets: n_levels must be positive, got {n_levels}")
    shape, subsets = grid.shape, []
    for level in range(1, n_levels):
        if min(shape) < 2:
            raise ValueError(f"grid_subsets: {grid.shape} points are too few for level {level}")
        index = np.arange(np.prod(shape)).reshape(shape)
        index = index[(slice(None, None, 2),) * len(shape)]
        subsets.append(index.reshape(-1))
        shape = index.shape
    return subsets


class MultipoleVCycle(eqx.Module):
    """Integrals at several lengths, down to few points and up again:

        w₁ = v,    w_{l+1} = K_{l+1,l} w_l                   (down)
        v_L = K_{L,L} w_L,    v_l = K_{l,l} w_l + K_{l,l+1} v_{l+1}    (up),    v₁ is the result

    All K are `KernelIntegral`s of kind "linear", over balls that grow as the points get fewer. It
    is K = K₁₁ + K₁₂ (K₂₂ + K₂₃ (…) K₃₂) K₂₁: the near field at full resolution, the far field at a
    coarse one, for a cost linear in the number of points.

    **Arguments:** `n_dims`, `c`: length of the rows; `levels`: L; others as for `KernelIntegral`.

    **Raises:** `ValueError` for `levels` < 1; the call for points of another number of levels.

    Reference: arXiv:2006.09535.
    """

    within: tuple[KernelIntegral, ...]
    down: tuple[KernelIntegral, ...]
    up: tuple[KernelIntegral, ...]

    def __init__(
        self,
        n_dims: int,
        c: int,
        *,
        levels: int = 3,
        matrix: bool = True,
        c_extra: int = 0,
        hidden: int = 64,
        n_layers: int = 3,
        activation: Activation = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        if levels < 1:
            raise ValueError(f"MultipoleVCycle: levels must be positive, got {levels}")

        def kernels(k: PRNGKeyArray, count: int) -> tuple[KernelIntegral, ...]:
            return tuple(
                KernelIntegral(
                    n_dims,
                    c,
                    c,
                    matrix=matrix,
                    c_extra=c_extra,
                    hidden=hidden,
                    n_layers=n_layers,
                    activation=activation,
                    key=jr.fold_in(k, i),
                )
                for i in range(count)
            )

        within_key, down_key, up_key = jr.split(key, 3)
        self.within = kernels(within_key, levels)
        self.down = kernels(down_key, levels - 1)
        self.up = kernels(up_key, levels - 1)

    def __call__(
        self,
        points: Multilevel,
        v: Float[Array, "n c"],
        a: Float[Array, "n a"] | None = None,
    ) -> Float[Array, "n c"]:
        """The result on the finest level; `a`: further rows for the kernels."""
        levels = len(self.within)
        if points.n_levels != levels:
            raise ValueError(f"points: expected {levels} levels, got {points.n_levels}")
        extras = [a]
        for subset in points.subset:
            extras.append(None if a is None else extras[-1][subset])  # pyright: ignore

        def integral(kernel, layout, values, i, j):
            return kernel(
                layout,
                values,
                points.pos[i],
                points.pos[j],
                weights=points.weights[i],
                a_src=extras[i],
                a_dst=extras[j],
                box=points.box,
            )

        w = [v]
        for i, kernel in enumerate(self.down):
            w.append(integral(kernel, points.down[i], w[i], i, i + 1))
        out = integral(self.within[-1], points.within[-1], w[-1], levels - 1, levels - 1)
        for i in reversed(range(levels - 1)):
            near = integral(self.within[i], points.within[i], w[i], i, i)
            out = near + integral(self.up[i], points.up[i], out, i + 1, i)
        return out


def _beside(x: Float[Array, "n c"], a: Float[Array, "n a"] | None) -> Float[Array, "n ca"]:
    """Rows side by side, if there are two."""
    return x if a is None else jnp.concatenate([x, a], axis=-1)
