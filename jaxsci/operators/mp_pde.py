"""The message-passing neural PDE solver: a graph network that predicts a bundle of frames.

    f_i ← enc([u_i^{n−K+1..n}, x_i/L, θ])
    m_ij = φ([f_i, f_j, u_i − u_j, x_i − x_j, θ]),    f_i ← norm(f_i + ψ([f_i, mean_j m_ij, θ]))
    u_i^{n+l} = u_i^n + l Δt d_i^l,    d_i = CNN(f_i),    l = 1 … K

Differences u_i − u_j and x_i − x_j make a layer a learned finite-difference stencil.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci.nn import (
    AbstractLayout,
    Box,
    Buffer,
    InstanceNorm,
    RowLinear,
    RowMLP,
    displacement,
    grid_layout,
)
from jaxsci.pde import Grid

from .stepping import AbstractHistoryStepper

# Window K: (first kernel, stride, second kernel) of the paper's decoders, for 128 features.
_DECODERS = {20: (15, 4, 10), 25: (16, 3, 14), 50: (12, 2, 10)}


class MPPDEPoints(eqx.Module):
    """The points that the solver works on, and who talks to whom.

    - `layout`: the graph. `pos`: positions. `box`: periodic axes. `scale`: the length L that
      positions are divided by.
    """

    layout: AbstractLayout
    pos: Buffer
    scale: float = eqx.field(static=True)
    box: Box | None = eqx.field(static=True, default=None)

    @staticmethod
    def of_grid(grid: Grid, reach: int = 3) -> "MPPDEPoints":
        """All points of a one-dimensional grid, each with `reach` neighbours to either side.

        Periodic axes wrap. (The reference's graph does not: the first point has no left neighbour
        there.)

        **Raises:** `ValueError` for a grid of more dimensions, reach < 1, or too few points.
        """
        if grid.n_dims != 1:
            raise ValueError(f"MPPDEPoints: expected a grid with one axis, got {grid.n_dims}")
        if reach < 1 or grid.shape[0] <= 2 * reach:
            raise ValueError(
                f"MPPDEPoints: reach must lie in 1..{(grid.shape[0] - 1) // 2} for "
                f"{grid.shape[0]} points, got {reach}"
            )
        stencil = [k for k in range(-reach, reach + 1) if k]
        box = Box(grid.lengths) if grid.periodic[0] else None
        with jax.ensure_compile_time_eval():
            pos = Buffer(grid.coords().T)
            return MPPDEPoints(grid_layout(grid, stencil), pos, grid.lengths[0], box)


class MPPDELayer(eqx.Module):
    """One round of messages; see the module.

    The first affine map of φ is split, so that nothing of twice the feature length is made for any
    edge: W [f_i, f_j, u_i − u_j, …] = (A f_i + C u_i) + (B f_j − C u_j) + ….
    """

    to_receiver: RowLinear
    to_sender: RowLinear
    difference: RowLinear
    offset: RowLinear
    parameters: RowLinear | None
    message: RowLinear
    update: RowMLP
    norm: InstanceNorm
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        hidden: int,
        c_window: int,
        n_dims: int,
        n_params: int,
        activation: Callable[[Array], Array],
        *,
        key: PRNGKeyArray,
    ):
        keys = jr.split(key, 4)
        # One matrix, drawn as one and cut: every part has the bounds of the whole.
        sizes = np.cumsum([0, hidden, hidden, c_window, n_dims, n_params])
        whole = RowLinear(int(sizes[-1]), hidden, key=keys[0])

        def part(i: int, bias: Array | None = None) -> RowLinear:
            cut = RowLinear(1, 1, use_bias=False, key=keys[0])
            weight = whole.weight[:, sizes[i] : sizes[i + 1]]
            return eqx.tree_at(
                lambda m: (m.weight, m.bias), cut, (weight, bias), is_leaf=lambda x: x is None
            )

        self.to_receiver, self.to_sender = part(0, whole.bias), part(1)
        self.difference, self.offset = part(2), part(3)
        self.parameters = part(4) if n_params else None
        self.message = RowLinear(hidden, hidden, key=keys[1])
        self.update = RowMLP(
            2 * hidden + n_params,
            hidden,
            hidden=hidden,
            activation=activation,
            activate_last=True,
            key=keys[2],
        )
        self.norm = InstanceNorm(hidden, affine=False)
        self.activation = activation

    def __call__(
        self,
        layout: AbstractLayout,
        f: Float[Array, "n h"],
        u: Float[Array, "n k"],
        gap: Float[Array, "*edges d"],
        theta: Float[Array, " p"],
    ) -> Float[Array, "n h"]:
        """New features of the nodes."""
        change = self.difference(u)
        m = layout.dst(self.to_receiver(f) + change) + layout.src(self.to_sender(f) - change)
        m = m + self.offset(gap)
        if self.parameters is not None:
            m = m + self.parameters(theta)
        m = self.activation(self.message(self.activation(m)))
        heard = layout.reduce(m, "mean")
        constant = jnp.broadcast_to(theta, (f.shape[0], theta.shape[0])).astype(f.dtype)
        f = f + self.update(jnp.concatenate([f, heard, constant], axis=-1))
        return self.norm(f.T).T


class BundleDecoder(eqx.Module):
    """d = conv₂(σ(conv₁(f))) along the features: 1 channel to 8 to c, K numbers of each.

    A convolution over so few numbers is a product with a banded matrix, which is what is done: XLA
    has no fast small convolution on CPUs.

    **Arguments:** `hidden`: features; `window`: K; `c`: channels.

    **Raises:** `ValueError` if kernels that give K numbers do not fit into the features.
    """

    first: Float[Array, "8 k1"]
    first_bias: Float[Array, " 8"]
    second: Float[Array, "c 8 k2"]
    second_bias: Float[Array, " c"]
    stride: int = eqx.field(static=True)
    window: int = eqx.field(static=True)
    hidden: int = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        hidden: int,
        window: int,
        c: int,
        activation: Callable[[Array], Array],
        *,
        key: PRNGKeyArray,
    ):
        k1, self.stride, k2 = decoder_kernels(hidden, window)
        keys = jr.split(key, 4)
        limits = k1**-0.5, (8 * k2) ** -0.5
        self.first = jr.uniform(keys[0], (8, k1), minval=-limits[0], maxval=limits[0])
        self.first_bias = jr.uniform(keys[1], (8,), minval=-limits[0], maxval=limits[0])
        self.second = jr.uniform(keys[2], (c, 8, k2), minval=-limits[1], maxval=limits[1])
        self.second_bias = jr.uniform(keys[3], (c,), minval=-limits[1], maxval=limits[1])
        self.hidden, self.window, self.activation = hidden, window, activation

    def __call__(self, f: Float[Array, "n h"]) -> Float[Array, "n c k"]:
        """The bundle of every node."""
        k1 = self.first.shape[1]
        middle = (self.hidden - k1) // self.stride + 1
        a = _banded(self.first, self.hidden, middle, self.stride)  # 8 middle h
        b = _banded(self.second, middle, self.window, 1)  # c 8 K middle
        x = jnp.einsum("nh,amh->nam", f, a) + self.first_bias[:, None].astype(f.dtype)
        x = self.activation(x)
        return jnp.einsum("nam,cakm->nck", x, b) + self.second_bias[:, None].astype(f.dtype)


def decoder_kernels(hidden: int, window: int) -> tuple[int, int, int]:
    """(first kernel, stride, second kernel) of the decoder: the paper's where it has any.

    **Raises:** `ValueError` if none fit.
    """
    if hidden == 128 and window in _DECODERS:
        return _DECODERS[window]
    k1 = max(2, hidden // 8)
    stride = max(1, round(hidden / (1.65 * window)))
    k2 = (hidden - k1) // stride + 1 - window + 1
    if window < 1 or k2 < 2:
        raise ValueError(
            f"MPPDE: a bundle of {window} frames does not fit into hidden={hidden} features; "
            f"take hidden of at least {max(4, 2 * window + 4)}"
        )
    return k1, stride, k2


class MPPDE(AbstractHistoryStepper):
    """The message-passing neural PDE solver (see the module): K frames in, K frames out.

    A stepper with a history, so `jaxsci.operators.forecast` and all recipes drive it. Frames are
    "c n": channels and points; `args` are the equation's parameters θ (already scaled to order
    one).

    ```python
    points = MPPDEPoints.of_grid(Grid(0.0, 16.0, 40, periodic=True))
    solver = MPPDE(points, time_window=25, dt=0.016, n_params=1, key=jax.random.key(0))
    frames = forecast(solver, history, 200, theta)  # history: (25, 1, 40)
    ```

    **Arguments:**

    - `points`: `MPPDEPoints`. The same weights serve other points: see `on`.
    - `time_window`: K; 25 is the paper's. `dt`: Δt between frames.
    - `hidden`, `layers`: 128 and 6 in the paper.
    - `c`: channels. `n_params`: length of θ.
    - `with_time`: whether the last channel of the frames is the time (the same at all points),
      given to the network divided by `time_scale` and moved on by the solver: for equations whose
      coefficients depend on it. The paper always gives it.
    - `differences`: whether a node's K values are given to the network as the last one and the
      K − 1 differences (u^{k+1} − u^k)/Δt. That is an invertible linear map of the paper's inputs
      (`False`), so the network represents the same functions; but the rate of change, from which it
      has to extrapolate, is then of order one and not a small difference of large numbers. After
      few updates a bundle's error is several times smaller, while long rollouts are no better.
    - `activation`: Swish in the paper.

    **Raises:** `ValueError` for sizes that are not positive, a bundle that does not fit into
    `hidden`, or points without neighbours; the call for frames or parameters of other sizes.

    Reference: Brandstetter, Worrall & Welling, arXiv:2202.03376.
    """

    points: MPPDEPoints
    encoder: RowMLP
    blocks: MPPDELayer
    decoder: BundleDecoder
    n_history: int = eqx.field(static=True)
    n_bundle: int = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    c: int = eqx.field(static=True)
    n_params: int = eqx.field(static=True)
    with_time: bool = eqx.field(static=True)
    time_scale: float = eqx.field(static=True)
    differences: bool = eqx.field(static=True)

    def __init__(
        self,
        points: MPPDEPoints,
        *,
        time_window: int = 25,
        dt: float,
        hidden: int = 128,
        layers: int = 6,
        c: int = 1,
        n_params: int = 0,
        with_time: bool = False,
        time_scale: float = 1.0,
        differences: bool = False,
        activation: Callable[[Array], Array] = jax.nn.silu,
        key: PRNGKeyArray,
    ):
        for name, n in (("layers", layers), ("hidden", hidden), ("c", c)):
            if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
                raise ValueError(f"MPPDE: {name} must be a positive integer, got {n!r}")
        if n_params < 0 or not dt > 0 or not time_scale > 0:
            raise ValueError(
                f"MPPDE: expected n_params >= 0, dt > 0 and time_scale > 0, got {n_params}, {dt} "
                f"and {time_scale}"
            )
        _check_neighbours(points)
        encoder_key, layer_key, decoder_key = jr.split(key, 3)
        n_dims = points.pos.value.shape[1]
        n_theta = n_params + int(with_time)
        self.points = points
        self.encoder = RowMLP(
            time_window * c + n_dims + n_theta,
            hidden,
            hidden=hidden,
            activation=activation,
            activate_last=True,
            key=encoder_key,
        )

        def layer(k: PRNGKeyArray) -> MPPDELayer:
            return MPPDELayer(hidden, time_window * c, n_dims, n_theta, activation, key=k)

        self.blocks = eqx.filter_vmap(layer)(jr.split(layer_key, layers))
        self.decoder = BundleDecoder(hidden, time_window, c, activation, key=decoder_key)
        self.n_history = self.n_bundle = time_window
        self.dt, self.c, self.n_params = dt, c, n_params
        self.with_time, self.time_scale, self.differences = with_time, time_scale, differences

    def on(self, points: MPPDEPoints) -> "MPPDE":
        """The same weights on other points.

        **Raises:** `ValueError` for points without neighbours.
        """
        _check_neighbours(points)
        return eqx.tree_at(lambda m: m.points, self, points)

    def predict(
        self,
        history: Float[Array, "k c n"],
        args: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "k c n"]:
        """The K frames that follow."""
        del key
        layout, pos = self.points.layout, self.points.pos.value.astype(history.dtype)
        channels, n = self.c + int(self.with_time), layout.n_src
        if history.shape != (self.n_history, channels, n):
            raise ValueError(
                f"MPPDE: expected frames {(self.n_history, channels, n)}, got {history.shape}"
            )
        theta = jnp.zeros(0) if args is None else jnp.asarray(args)
        if theta.shape != (self.n_params,):
            raise ValueError(
                f"MPPDE: expected {self.n_params} parameters as args, got shape {theta.shape}"
            )
        theta = theta.astype(history.dtype)
        if self.with_time:
            theta = jnp.concatenate([theta, history[-1, -1, :1] / self.time_scale])
        field = history[:, : self.c]
        seen = field
        if self.differences:
            seen = jnp.concatenate([jnp.diff(field, axis=0) / self.dt, field[-1:]])
        u = seen.reshape(-1, n).T  # K c numbers for each node
        scaled = pos / self.points.scale
        constant = jnp.broadcast_to(theta, (n, theta.shape[0]))
        gap = displacement(layout.dst(pos), layout.src(pos), self.points.box) / self.points.scale
        f = self.encoder(jnp.concatenate([u, scaled, constant], axis=-1))
        weights, static = eqx.partition(self.blocks, eqx.is_array)

        def body(f: Array, block) -> tuple[Array, None]:
            return eqx.combine(block, static)(layout, f, u, gap, theta), None

        f, _ = jax.lax.scan(body, f, weights)
        change = jnp.transpose(self.decoder(f), (2, 1, 0))  # K c n
        ahead = self.dt * jnp.arange(1, self.n_bundle + 1, dtype=history.dtype)[:, None, None]
        new = field[-1:] + ahead * change
        if self.with_time:
            time = jnp.broadcast_to(history[-1:, -1:] + ahead, (self.n_bundle, 1, n))
            new = jnp.concatenate([new, time], axis=1)
        return new


def append_time(
    frames: Float[Array, "t c *grid"], dt: float, start: float | Float[Array, ""] = 0.0
) -> Float[Array, "t d *grid"]:
    """Frames with their time as one more channel, start + k Δt: what `with_time` expects."""
    k = jnp.arange(frames.shape[0], dtype=frames.dtype)
    time = (start + dt * k).reshape(-1, 1, *(1,) * (frames.ndim - 2))
    time = jnp.broadcast_to(time, (frames.shape[0], 1, *frames.shape[2:]))
    return jnp.concatenate([frames, time.astype(frames.dtype)], axis=1)


def _banded(
    kernel: Float[Array, "*c k"], n_in: int, n_out: int, stride: int
) -> Float[Array, "*c n_out n_in"]:
    """The matrices of valid convolutions: row m holds the kernel from column stride·m on."""
    place = np.arange(n_in) - stride * np.arange(n_out)[:, None]
    k = kernel.shape[-1]
    entries = jnp.take(kernel, np.clip(place, 0, k - 1), axis=-1)
    return jnp.where((place >= 0) & (place < k), entries, 0)


def _check_neighbours(points: MPPDEPoints) -> None:
    try:
        with jax.ensure_compile_time_eval():
            alone = int(jnp.sum(points.layout.degree() == 0))
    except jax.errors.ConcretizationTypeError:  # a traced graph tells nothing
        return
    if alone:
        raise ValueError(f"MPPDE: {alone} of {points.layout.n_dst} points have no neighbour")
