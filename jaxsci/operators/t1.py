"""Transform Once: one cosine transform at the input, and every layer on its coefficients.

    z⁰ = [DCT P(u, x)]_{k<m},    z^{l+1} = z^l + S_d … S₁ σ(W z^l),    û = Q z^L

W mixes the channels of each mode, S_a the modes along axis a in each channel, and Q is one small
network for all modes. No transform is computed between the layers, none after the last if the loss
is taken on coefficients: the orthonormal transform keeps norms, so that relative errors there are
relative errors of the functions.
"""

import math
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci.nn import ChannelLinear, Cosine, append_coordinates

from .stepping import check_count

Init = Literal["vp", "uniform"]


def dct(u: Float[Array, "c *grid"], modes: int | None = None) -> Float[Array, "c *modes"]:
    """The orthonormal cosine transform (DCT-II) of every axis, its first `modes` coefficients.

    **Arguments:** `modes`: on every axis; `None`: all of them.

    **Raises:** `ValueError` for more modes than points or no grid axis.

    An even extension is assumed: a function whose slope at the walls is not zero, a periodic one
    for instance, has coefficients that fall as k⁻² only.
    """
    grid = _check_grid(u, modes)
    kept = tuple(n if modes is None else modes for n in grid)
    return Cosine(kept).forward(u) * math.sqrt(math.prod(grid))


def idct(coef: Float[Array, "c *modes"], shape: tuple[int, ...]) -> Float[Array, "c *grid"]:
    """The function on a grid of `shape` with these first coefficients: the inverse of `dct`.

    **Raises:** `ValueError` if there are more coefficients than points on an axis.
    """
    if len(shape) != coef.ndim - 1 or any(
        m > n for m, n in zip(coef.shape[1:], shape, strict=True)
    ):
        raise ValueError(
            f"idct: coefficients of shape {coef.shape} do not fit on a grid of shape {shape}"
        )
    return Cosine(coef.shape[1:]).inverse(coef, shape) / math.sqrt(math.prod(shape))


def variance_preserving_std(n: int, m: int, c: int) -> float:
    """√(n/(m c)): weights for which mixing c channels of m of n modes keeps a field's variance.

    A white field on n points has n coefficients of its own variance; m of them are kept, each the
    sum of c products. In several dimensions n and m are the numbers of all modes.

    **Raises:** `ValueError` for numbers that are not positive or m > n.
    """
    for name, value in (("n", n), ("m", m), ("c", c)):
        check_count(f"variance_preserving_std: {name}", value)
    if m > n:
        raise ValueError(f"variance_preserving_std: m={m} of n={n} modes cannot be kept")
    return math.sqrt(n / (m * c))


def relative_l2_coef(
    prediction: Float[Array, "c *modes"], target: Float[Array, "c *all_modes"]
) -> Float[Array, ""]:
    """The relative L2 error of a function given by its first coefficients, in coefficients.

        √( Σ_{k<m} |p_k - u_k|² + Σ_{k≥m} |u_k|² ) / ‖u‖

    Equal to `relative_l2` of the functions if both are orthonormal coefficients (`dct`).

    **Arguments:** `prediction`: m modes on each axis. `target`: as many or more.

    **Raises:** `ValueError` if the target has other channels, axes or fewer modes.
    """
    fits = prediction.ndim == target.ndim and prediction.shape[0] == target.shape[0]
    if not fits or any(m > n for m, n in zip(prediction.shape[1:], target.shape[1:], strict=True)):
        raise ValueError(
            "relative_l2_coef: the target must have the prediction's channels and at least its "
            f"modes, got {target.shape} for {prediction.shape}"
        )
    low = target[(slice(None), *(slice(m) for m in prediction.shape[1:]))]
    total = jnp.sum(target**2)
    # The rest is a difference of sums, and not below zero.
    rest = jnp.maximum(total - jnp.sum(low**2), 0)
    above = jnp.sum((prediction - low) ** 2) + rest
    return jnp.where(above == 0, 0, jnp.sqrt(jnp.where(above == 0, 1, above))) / jnp.sqrt(total)


def modes_for(values: Float[np.ndarray, "n c *grid"], energy: float = 0.99) -> int:
    """The fewest modes per axis whose block k < m holds a share of the data's energy.

    What the truncation leaves out cannot be learned: the paper chooses m by it.

    **Arguments:** `values`: examples of what is to be predicted. `energy`: the share, e.g. 0.99.

    **Raises:** `ValueError` for a share outside (0, 1] or no examples.
    """
    values = np.asarray(values)
    if not 0 < energy <= 1:
        raise ValueError(f"modes_for: energy must lie in (0, 1], got {energy}")
    if values.ndim < 3 or values.size == 0:
        raise ValueError(f"modes_for: expected examples (n, c, *grid), got {values.shape}")
    coef = np.asarray(jax.vmap(dct)(jnp.asarray(values)), np.float64)
    power = np.sum(coef**2, (0, 1))
    largest = max(power.shape)
    within = np.array([power[(slice(m),) * power.ndim].sum() for m in range(1, largest + 1)])
    # Rounding must not hide that all modes hold everything.
    return int(np.argmax(within >= energy * within[-1] * (1 - 1e-12))) + 1


class T1Layer(eqx.Module):
    """Z ← z + S_d … S₁ σ(W z): channels mixed mode by mode, then modes mixed channel by channel.

    `weight`: W, "*modes c c". `mixers`: one S_a, "c m m", for each axis.
    """

    weight: Float[Array, "*modes c c"]
    mixers: tuple[Float[Array, "c m m"], ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        ndim: int,
        modes: int,
        width: int,
        *,
        std: float | None,
        activation: Callable[[Array], Array],
        key: PRNGKeyArray,
    ):
        weight_key, *keys = jr.split(key, ndim + 1)
        shape = (*(modes,) * ndim, width, width)
        if std is None:
            self.weight = jr.uniform(weight_key, shape) / width**2
        else:
            self.weight = std * jr.normal(weight_key, shape)
        self.mixers = tuple(jr.normal(k, (width, modes, modes)) / math.sqrt(modes) for k in keys)
        self.activation = activation

    def __call__(self, z: Float[Array, "c *modes"]) -> Float[Array, "c *modes"]:
        """The layer on a block of coefficients."""
        h = self.activation(jnp.einsum("i...,...io->o...", z, self.weight))
        for axis, mixer in enumerate(self.mixers):
            moved = jnp.moveaxis(h, axis + 1, -1)
            mixed = jnp.einsum("c...k,ckj->c...j", moved, mixer)
            h = jnp.moveaxis(mixed, -1, axis + 1)
        return z + h


class T1(eqx.Module):
    """Transform Once: an operator whose layers all act on the first m cosine coefficients.

    Called as every operator, with a function "c_in *grid". With `output="coef"` it returns the
    coefficients "c_out *modes" (train with `relative_l2_coef` on `dct(target)`, transformed once
    with the data), with "field" the function; `field` gives the function either way.

    **Arguments:**

    - `ndim`: grid axes. `c_in`, `c_out`: channels.
    - `modes`: m on each axis; see `modes_for`. 24 for 64² points.
    - `width`: channels inside. `depth`: layers. 48 and 8 in the paper.
    - `output`: "coef" or "field".
    - `init`: "vp" keeps variances (`variance_preserving_std`); "uniform" is the Fourier neural
      operator's U[0, 1)/width², with which a layer returns next to nothing.
    - `ambient`: number of modes n that the input's variance is spread over, for the first layer's
      "vp"; by default m^ndim: smooth functions, which the modes hold. n points of noise have n.
    - `points`: coefficients are scaled as on so many points in all, whatever the grid is, so that
      the operator does not depend on the resolution; `None`: by the grid that it is given (the
      paper's orthonormal transform), one and the same grid then.
    - `head`: hidden channels of Q.
    - `activation`: σ.

    **Raises:** `ValueError` for sizes that are not positive, unknown choices, more modes than
    points, or a function of another shape; `TypeError` for values that are not floating point.

    Reference: Poli et al., arXiv:2211.14453.
    """

    lift: ChannelLinear
    layers: tuple[T1Layer, ...]
    hidden: ChannelLinear
    last: ChannelLinear
    ndim: int = eqx.field(static=True)
    c_in: int = eqx.field(static=True)
    modes: int = eqx.field(static=True)
    output: Literal["coef", "field"] = eqx.field(static=True)
    points: int | None = eqx.field(static=True)

    def __init__(
        self,
        ndim: int,
        c_in: int,
        c_out: int,
        modes: int = 24,
        width: int = 48,
        depth: int = 8,
        *,
        output: Literal["coef", "field"] = "coef",
        init: Init = "vp",
        ambient: int | None = None,
        points: int | None = None,
        head: int = 128,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        sizes = {"ndim": ndim, "c_in": c_in, "c_out": c_out, "modes": modes, "width": width}
        sizes |= {"depth": depth, "head": head, "points": 1 if points is None else points}
        for name, value in sizes.items():
            check_count(f"T1: {name}", value)
        if output not in ("coef", "field"):
            raise ValueError(f"T1: output must be 'coef' or 'field', got {output!r}")
        if init not in ("vp", "uniform"):
            raise ValueError(f"T1: init must be 'vp' or 'uniform', got {init!r}")
        kept = modes**ndim
        lift_key, hidden_key, last_key, *keys = jr.split(key, depth + 3)
        self.lift = ChannelLinear(c_in + ndim, width, key=lift_key)
        stds: list[float | None] = [None] * depth
        if init == "vp":
            first = variance_preserving_std(kept if ambient is None else ambient, kept, width)
            stds = [first, *[variance_preserving_std(kept, kept, width)] * (depth - 1)]
        self.layers = tuple(
            T1Layer(ndim, modes, width, std=std, activation=activation, key=k)
            for std, k in zip(stds, keys, strict=True)
        )
        self.hidden = ChannelLinear(width, head, key=hidden_key)
        # Only the last map starts next to zero: were both, the first gradients would vanish.
        last = ChannelLinear(head, c_out, key=last_key)
        self.last = jax.tree.map(lambda w: 1e-8 * w, last)
        self.ndim, self.c_in, self.modes = ndim, c_in, modes
        self.output, self.points = output, points

    def coefficients(self, u: Float[Array, "c_in *grid"]) -> Float[Array, "c_out *modes"]:
        """The first coefficients of the answer, orthonormal on the grid of `u`."""
        u = jnp.asarray(u)
        if u.ndim != self.ndim + 1 or u.shape[0] != self.c_in:
            raise ValueError(
                f"u: expected {self.c_in} channels and {self.ndim} grid axes, got shape {u.shape}"
            )
        if not jnp.issubdtype(u.dtype, jnp.floating):
            raise TypeError(f"u: expected floating-point values, got dtype {u.dtype}")
        scale = 1.0 if self.points is None else math.sqrt(self.points / math.prod(u.shape[1:]))
        # The lift acts on channels and the transform on the grid, so their order is free: the
        # transform goes first, on fewer channels. The constant's transform carries the bias.
        inputs = append_coordinates(u)
        inputs = jnp.concatenate([inputs, jnp.ones_like(inputs[:1])])
        coef = scale * dct(inputs, self.modes)
        bias = self.lift.bias
        assert bias is not None
        weight = jnp.concatenate([self.lift.weight, bias[:, None]], 1).astype(u.dtype)
        z = jnp.tensordot(weight, coef, 1)
        for layer in self.layers:
            z = layer(z)
        return self.last(jnp.sin(self.hidden(z))) / scale

    def field(self, u: Float[Array, "c_in *grid"]) -> Float[Array, "c_out *grid"]:
        """The answer on the grid of `u`."""
        return idct(self.coefficients(u), u.shape[1:])

    def __call__(
        self,
        u: Float[Array, "c_in *grid"],
        *,
        cond: None = None,
        out: None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c_out *points"]:
        """Coefficients or function, by `output`; `cond`, `out` and `key` are not used.

        **Raises:** also `ValueError` if `cond` or `out` is given.
        """
        del key
        if cond is not None or out is not None:
            raise ValueError("T1: takes neither parameters (cond) nor another grid (out)")
        return self.coefficients(u) if self.output == "coef" else self.field(u)


def _check_grid(u: Array, modes: int | None) -> tuple[int, ...]:
    if u.ndim < 2:
        raise ValueError(f"dct: expected a function (c, *grid), got shape {u.shape}")
    if modes is not None:
        check_count("dct: modes", modes)
        if modes > min(u.shape[1:]):
            raise ValueError(f"dct: {modes} modes are more than the grid {u.shape[1:]} has")
    return u.shape[1:]
