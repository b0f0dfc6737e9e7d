"""NeuralStagger: a fine prediction as many coarse, independent ones.

    tiles          u_i = u[i₁::s, i₂::s, …],    i ∈ {0 … s-1}^d
    subtasks       u_i(t + k Δt) = f_{i,k}(u_i(t)),    k = 1 … s_T
    prediction     the tiles put back in their places

The s^d s_T subtasks do not talk to each other: each needs the work of a grid that is s^d times
smaller, for a time s_T times longer. Together they are trained by the residual of a numerical
scheme on the fine grid and the fine time step (`physics_residual`), which needs no data.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .stepping import AbstractHistoryStepper, check_count


def space_to_depth(u: Float[Array, "c *grid"], s: int) -> Float[Array, "tiles c *coarse"]:
    """The s^d tiles u[:, i₁::s, …, i_d::s], the last index running fastest.

    (In two dimensions `torch.nn.PixelUnshuffle` has the same tiles, with the channel before the
    tile.)

    **Raises:** `ValueError` if s is not positive or does not divide every axis.
    """
    check_count("space_to_depth: s", s)
    c, *grid = u.shape
    if not grid or any(n % s for n in grid):
        raise ValueError(f"space_to_depth: s={s} must divide every axis of the grid {tuple(grid)}")
    d = len(grid)
    split = u.reshape(c, *(size for n in grid for size in (n // s, s)))
    # c, n₁, s₁, n₂, s₂ … → s₁, s₂ …, c, n₁, n₂ …
    order = [2 + 2 * a for a in range(d)] + [0] + [1 + 2 * a for a in range(d)]
    return split.transpose(order).reshape(s**d, c, *(n // s for n in grid))


def depth_to_space(tiles: Float[Array, "tiles c *coarse"], s: int) -> Float[Array, "c *grid"]:
    """The field with these tiles: the inverse of `space_to_depth`.

    **Raises:** `ValueError` if there are not s^d tiles.
    """
    check_count("depth_to_space: s", s)
    count, c, *coarse = tiles.shape
    d = len(coarse)
    if d < 1 or count != s**d:
        raise ValueError(f"depth_to_space: expected s^d = {s**d} tiles, got shape {tiles.shape}")
    split = tiles.reshape(*(s,) * d, c, *coarse)
    order = [d] + [axis for a in range(d) for axis in (d + 1 + a, a)]
    return split.transpose(order).reshape(c, *(n * s for n in coarse))


def energy_above_tiles(u: Float[Array, "c *grid"], s: int) -> Float[Array, ""]:
    """The share of Σ|û_k|² beyond the tiles' Nyquist wavenumber n/(2s) on any axis.

    Networks that differ from tile to tile leave a checkerboard there. 0 for a zero field.

    **Raises:** `ValueError` if s is not positive or does not divide every axis.
    """
    check_count("energy_above_tiles: s", s)
    grid = u.shape[1:]
    if not grid or any(n % s for n in grid):
        raise ValueError(f"energy_above_tiles: s={s} must divide every axis of the grid {grid}")
    energy = jnp.sum(jnp.abs(jnp.fft.fftn(u, axes=range(1, u.ndim))) ** 2, 0)
    low = jnp.ones((), bool)
    for n in grid:
        k = jnp.abs(jnp.fft.fftfreq(n, 1 / n))
        low = low[..., None] & (k <= n / (2 * s))
    total = jnp.sum(energy)
    return jnp.where(total > 0, jnp.sum(jnp.where(low, 0, energy)) / total, 0)


class Staggered(AbstractHistoryStepper):
    """A stepper of one frame in and s_T out, made of one network for each tile and time.

        tile i of u(t + k Δt) = f_{i,k}(u_i(t)),    or u_i(t) + r f_{i,k}(u_i(t)) with residual=r

    What it saves: one subtask costs what the plain network costs on a grid of 1/s^d the points,
    once in s_T steps. On one busy device all of them together cost as much as before (half as
    much for s_T = 2, …); with a device for each, or for a view of a single tile, the wait is
    1/(s^d s_T) of it. `subtask` computes one alone.

    **Arguments:**

    - `make_net`: `make_net(key)` makes one network, an operator from "c *coarse" to "c *coarse".
    - `s`: tiles on each axis. 1 splits nothing. Good values: 2; more where fields are smooth.
    - `s_t`: s_T, frames a step.
    - `shared`: one network for all tiles (still one for each k). If it commutes with shifts the
      tiles fit together from the start; separate ones have to learn that, slowly.
    - `residual`: r, or `None`.
    - `ndim`: grid axes.
    - `key`: for the networks' weights.

    **Raises:** `ValueError` for sizes that are not positive, a grid that s does not divide, an
    unknown subtask, or networks that change the shape; `TypeError` if `make_net` is not callable.

    Reference: Huang et al., arXiv:2302.10255.
    """

    nets: Any
    n_history: int = eqx.field(static=True)
    n_bundle: int = eqx.field(static=True)
    s: int = eqx.field(static=True)
    ndim: int = eqx.field(static=True)
    shared: bool = eqx.field(static=True)
    residual: float | None = eqx.field(static=True)

    def __init__(
        self,
        make_net: Callable[[PRNGKeyArray], Callable[..., Array]],
        s: int,
        s_t: int,
        shared: bool = False,
        *,
        residual: float | None = None,
        ndim: int = 2,
        key: PRNGKeyArray,
    ):
        if not callable(make_net):
            raise TypeError(f"Staggered: make_net must be callable, got {make_net!r}")
        for name, value in (("s", s), ("s_t", s_t), ("ndim", ndim)):
            check_count(f"Staggered: {name}", value)
        tiles = 1 if shared else s**ndim
        # One after the other: mapped draws of random numbers take XLA much longer to compile.
        made = [eqx.partition(make_net(k), eqx.is_array) for k in jr.split(key, tiles * s_t)]
        stacked = jax.jit(_stack, static_argnums=1)([arrays for arrays, _ in made], (tiles, s_t))
        self.nets = eqx.combine(stacked, made[0][1])
        self.n_history, self.n_bundle = 1, s_t
        self.s, self.ndim, self.shared, self.residual = s, ndim, shared, residual

    def predict(
        self,
        history: Float[Array, "1 c *grid"],
        args: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "s_t c *grid"]:
        """The next s_T frames: all subtasks at once, as one batched network."""
        del key
        tiles = space_to_depth(self._check(history[0]), self.s)
        nets = self.nets
        if self.shared:
            nets = jax.tree.map(lambda x: x[0] if eqx.is_array(x) else x, nets)

            def shared(tile):
                return eqx.filter_vmap(lambda net: self._apply(net, tile, args))(nets)

            new = jax.vmap(shared)(tiles)
        else:
            each_time = eqx.filter_vmap(
                lambda net, tile: self._apply(net, tile, args), in_axes=(eqx.if_array(0), None)
            )
            new = eqx.filter_vmap(each_time)(nets, tiles)
        return jax.vmap(lambda at: depth_to_space(at, self.s), 1)(new)

    def subtask(
        self, u: Float[Array, "c *grid"], tile: int, k: int, args: Any = None
    ) -> Float[Array, "c *coarse"]:
        """One tile of the frame k steps on (k = 1 … s_T), computed alone."""
        if not 0 <= tile < self.s**self.ndim or not 1 <= k <= self.n_bundle:
            raise ValueError(
                f"Staggered.subtask: there are tiles 0 … {self.s**self.ndim - 1} and times "
                f"1 … {self.n_bundle}, got tile {tile} and k={k}"
            )
        which = (0 if self.shared else tile, k - 1)
        net = jax.tree.map(lambda x: x[which] if eqx.is_array(x) else x, self.nets)
        return self._apply(net, space_to_depth(self._check(u), self.s)[tile], args)

    def _apply(self, net: Callable[..., Array], tile: Array, args: Any) -> Array:
        new = net(tile) if args is None else net(tile, cond=args)
        if new.shape != tile.shape:
            raise ValueError(
                f"Staggered: a network must keep a tile's shape {tile.shape}, got {new.shape}"
            )
        return new if self.residual is None else tile + self.residual * new

    def _check(self, u: Array) -> Array:
        if u.ndim != self.ndim + 1:
            raise ValueError(f"Staggered: expected {self.ndim} grid axes, got shape {u.shape}")
        return u


def _stack(trees: list[PyTree], shape: tuple[int, ...]) -> PyTree:
    return jax.tree.map(lambda *a: jnp.stack(a).reshape(*shape, *a[0].shape), *trees)
