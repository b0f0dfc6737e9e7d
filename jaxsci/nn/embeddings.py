"""Coordinates, times, parameters and classes as features a network can use, and FiLM.

Two kinds of things live here. *Features* are fixed or random expansions of coordinates and times
(`append_coordinates`, `SinusoidalEmbedding`, `FourierFeatures`). *Embeddings*
(`AbstractEmbedding`: `TimeEmbedding`, `ParameterEmbedding`, `ClassEmbedding`, and their sum) turn
a condition into ONE vector of static `size`; every conditioned network of the room takes such a
vector.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree

from jaxsci.nn.buffer import Buffer


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return value


def _per_axis(name: str, value, n_axes: int) -> tuple:
    values = tuple(value) if isinstance(value, list | tuple | np.ndarray) else (value,) * n_axes
    if len(values) != n_axes:
        raise ValueError(f"{name} needs one value or {n_axes} (one a grid axis), got {value!r}")
    return values


def append_coordinates(
    u: Float[Array, "c *grid"],
    lo: float | Sequence[float] = 0.0,
    hi: float | Sequence[float] = 1.0,
    endpoint: bool | Sequence[bool] = False,
) -> Float[Array, "c+d *grid"]:
    """The field with its grid's coordinates as d further channels.

    Point i of n on an axis has x = lo + (hi - lo) i/n, or lo + (hi - lo) i/(n-1) with `endpoint`;
    a physical point so keeps its coordinates at every resolution, which is what lets one set of
    weights serve them all.

    **Arguments:**

    - `u`: the field, channels first.
    - `lo`, `hi`: the domain's ends, one for all axes or one each.
    - `endpoint`: whether the last point lies on `hi` (walls) or one spacing before it (periodic
      axes, the default); one for all axes or one each.

    **Returns:** `u` followed by one channel for each axis, in `u`'s dtype.

    **Raises:** `ValueError` if `u` has no grid axis, if a per-axis argument has another length, or
    if an axis with `endpoint` has a single point; `TypeError` if `u` is not floating point.
    """
    u = jnp.asarray(u)
    n_dims = u.ndim - 1
    if n_dims < 1:
        raise ValueError(f"u must have shape (c, *grid) with a grid axis, got shape {u.shape}")
    if not jnp.issubdtype(u.dtype, jnp.floating):
        raise TypeError(f"u must be a floating-point array, got dtype {u.dtype}")
    los, his = _per_axis("lo", lo, n_dims), _per_axis("hi", hi, n_dims)
    ends = _per_axis("endpoint", endpoint, n_dims)
    if any(end and n < 2 for end, n in zip(ends, u.shape[1:], strict=True)):
        raise ValueError(f"endpoint=True needs two points or more on its axis, got {u.shape[1:]}")
    # Made in NumPy's float64, so that bf16 or float32 sees a correctly rounded coordinate.
    axes = [
        np.linspace(a, b, n, endpoint=bool(end))
        for a, b, end, n in zip(los, his, ends, u.shape[1:], strict=True)
    ]
    x = np.stack(np.meshgrid(*axes, indexing="ij"))
    return jnp.concatenate([u, jnp.asarray(x, u.dtype)])


class GridEmbedding(eqx.Module):
    """`append_coordinates` as a layer: (c, *grid) -> (c + d, *grid).

    **Arguments:** `lo`, `hi`, `endpoint` as in `append_coordinates`.
    """

    lo: float | tuple[float, ...] = eqx.field(static=True, default=0.0)
    hi: float | tuple[float, ...] = eqx.field(static=True, default=1.0)
    endpoint: bool | tuple[bool, ...] = eqx.field(static=True, default=False)

    def __call__(
        self, u: Float[Array, "c *grid"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "c+d *grid"]:
        """`u` followed by its coordinates; `key` is not used."""
        del key
        return append_coordinates(u, self.lo, self.hi, self.endpoint)


class SinusoidalEmbedding(eqx.Module):
    """Sines and cosines of a scalar (a diffusion time, a position) at geometric frequencies.

        ω_k = max_period^(-k / (K - shift)),  k = 0 … K-1,  K = size/2
        φ(t) = [cos(s t ω_0) … cos(s t ω_{K-1}),  sin(s t ω_0) … sin(s t ω_{K-1})]

    Conventions differ between code bases and weights do not carry over; the defaults (cosines
    first, shift 0) are those of guided diffusion. DDPM: `order="sin_cos", shift=1`. Tensor2tensor:
    the same. `scale` s stretches a time in [0, 1] to the range [0, 1000] the frequencies are made
    for: 1000 is a good value there, 1 for step indices.

    **Arguments:**

    - `size`: number of features, even. Good values: 32 to 256.
    - `max_period`: longest period over 2π; 1e4 is the habit.
    - `scale`, `order`, `shift`: see above.

    **Raises:** `ValueError` for an odd or non-positive size, max_period <= 1, an unknown order, or
    shift >= size/2.

    Vaswani et al. 2017, arXiv 1706.03762; Ho, Jain & Abbeel 2020, arXiv 2006.11239.
    """

    size: int = eqx.field(static=True)
    max_period: float = eqx.field(static=True, default=1e4)
    scale: float = eqx.field(static=True, default=1.0)
    order: Literal["cos_sin", "sin_cos"] = eqx.field(static=True, default="cos_sin")
    shift: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        if _positive("size", self.size) % 2:
            raise ValueError(f"size must be even (a sine and a cosine each), got {self.size}")
        if not self.max_period > 1:
            raise ValueError(f"max_period must be larger than 1, got {self.max_period}")
        if self.order not in ("cos_sin", "sin_cos"):
            raise ValueError(f'order must be "cos_sin" or "sin_cos", got {self.order!r}')
        if not self.shift < self.size // 2:
            raise ValueError(f"shift must be below size/2 = {self.size // 2}, got {self.shift}")

    def __call__(
        self, t: Float[ArrayLike, ""], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " size"]:
        """φ(t) for one scalar; vmap for several. `key` is not used."""
        del key
        t = _scalar("t", t)
        half = self.size // 2
        frequencies = self.max_period ** (-np.arange(half) / (half - self.shift))
        angles = self.scale * t * jnp.asarray(frequencies, t.dtype)
        first, second = jnp.cos(angles), jnp.sin(angles)
        if self.order == "sin_cos":
            first, second = second, first
        return jnp.concatenate([first, second])


class FourierFeatures(eqx.Module):
    """Random Fourier features of coordinates, times or parameters.

        φ(x) = [cos(2π B x), sin(2π B x)],   B_ij ~ N(0, scale²)

    Their inner products estimate a Gaussian kernel of bandwidth 1/(2π scale), so `scale` sets how
    fine a structure a network on top can fit.

    **Arguments:**

    - `c_in`: number of input channels (a scalar counts as one).
    - `n_frequencies`: rows of B; the output has twice as many channels. Good values: 16 to 256.
    - `scale`: standard deviation of B. Good values: 1 to 10 for coordinates in [0, 1], 16 for the
      logarithm of a noise level.
    - `trainable`: whether B is a parameter; otherwise it is a `Buffer`, which no optimiser touches.

    **Raises:** `ValueError` for counts that are not positive or scale <= 0, and when the input has
    another number of channels; `TypeError` when it is not floating point.

    Rahimi & Recht 2007; Tancik et al. 2020, arXiv 2006.10739.
    """

    frequencies: Float[Array, "n c_in"] | Buffer
    c_in: int = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __init__(
        self,
        c_in: int,
        n_frequencies: int,
        *,
        scale: float = 1.0,
        trainable: bool = False,
        key: PRNGKeyArray,
    ):
        self.c_in = _positive("c_in", c_in)
        self.size = 2 * _positive("n_frequencies", n_frequencies)
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        frequencies = scale * jax.random.normal(key, (n_frequencies, c_in))
        self.frequencies = frequencies if trainable else Buffer(frequencies)

    def __call__(
        self, x: Float[Array, "c_in *points"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "size *points"]:
        """φ at one point (c_in,) or at all points of a grid (c_in, *grid). `key` is not used."""
        del key
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"x must be a floating-point array, got dtype {x.dtype}")
        if x.ndim == 0:
            x = x[None]
        if x.shape[0] != self.c_in:
            raise ValueError(f"x must have {self.c_in} channels, got shape {x.shape}")
        frequencies = self.frequencies
        if isinstance(frequencies, Buffer):
            frequencies = frequencies.value
        angles = 2 * jnp.pi * jnp.tensordot(frequencies.astype(x.dtype), x, axes=1)
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


class AbstractEmbedding(eqx.Module):
    """A map from a condition (a time, parameters, a class, or a tuple) to one vector."""

    size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def __call__(self, cond: PyTree, *, key: PRNGKeyArray | None = None) -> Float[Array, " size"]:
        """The condition's vector."""


class TimeEmbedding(AbstractEmbedding):
    """A scalar (diffusion time, noise level, time step, viscosity) through features and an MLP.

        e(t) = W_2 σ(W_1 φ(t) + b_1) + b_2

    **Arguments:**

    - `size`: length of the vector. Good value: 4 times the network's first width.
    - `features`: φ, a `SinusoidalEmbedding` (the default, with `size` features) or
      `FourierFeatures(1, …)`.
    - `activation`: σ.

    **Raises:** `ValueError` for a size that is not positive or when t is not a scalar.

    Ho, Jain & Abbeel 2020, arXiv 2006.11239.
    """

    features: SinusoidalEmbedding | FourierFeatures
    hidden: eqx.nn.Linear
    out: eqx.nn.Linear
    activation: Callable[[Array], Array] = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        features: SinusoidalEmbedding | FourierFeatures | None = None,
        *,
        activation: Callable[[Array], Array] = jax.nn.silu,
        key: PRNGKeyArray,
    ):
        self.size = _positive("size", size)
        self.features = SinusoidalEmbedding(2 * -(-size // 2)) if features is None else features
        key_1, key_2 = jax.random.split(key)
        self.hidden = eqx.nn.Linear(self.features.size, size, key=key_1)
        self.out = eqx.nn.Linear(size, size, key=key_2)
        self.activation = activation

    def __call__(
        self, cond: Float[ArrayLike, ""], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " size"]:
        """e(t). `key` is not used."""
        del key
        features = self.features(_scalar("cond", cond))
        return self.out(self.activation(self.hidden(features)))


class ParameterEmbedding(AbstractEmbedding):
    """A vector of p real parameters through an MLP: e(λ) = W_2 σ(W_1 λ + b_1) + b_2.

    The parameters should be of order one: scale a viscosity by its logarithm first.

    **Arguments:**

    - `n_parameters`: p.
    - `size`: length of the vector.
    - `activation`: σ.

    **Raises:** `ValueError` for counts that are not positive or when λ has another shape.
    """

    hidden: eqx.nn.Linear
    out: eqx.nn.Linear
    activation: Callable[[Array], Array] = eqx.field(static=True)
    n_parameters: int = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __init__(
        self,
        n_parameters: int,
        size: int,
        *,
        activation: Callable[[Array], Array] = jax.nn.silu,
        key: PRNGKeyArray,
    ):
        self.n_parameters = _positive("n_parameters", n_parameters)
        self.size = _positive("size", size)
        key_1, key_2 = jax.random.split(key)
        self.hidden = eqx.nn.Linear(n_parameters, size, key=key_1)
        self.out = eqx.nn.Linear(size, size, key=key_2)
        self.activation = activation

    def __call__(
        self, cond: Float[Array, " p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " size"]:
        """e(λ). `key` is not used."""
        del key
        cond = jnp.asarray(cond)
        if cond.shape != (self.n_parameters,):
            raise ValueError(f"cond must have shape ({self.n_parameters},), got {cond.shape}")
        return self.out(self.activation(self.hidden(cond)))


class ClassEmbedding(AbstractEmbedding):
    """A learned vector for each of n classes, and one more, index n, for "no class".

    The extra row is what classifier-free guidance trains with and samples against. An index
    outside 0 … n gives NaN, not the nearest class.

    **Arguments:**

    - `n_classes`: n.
    - `size`: length of the vectors.

    **Raises:** `ValueError` for counts that are not positive or an index that is no scalar,
    `TypeError` for an index that is no integer.
    """

    table: Float[Array, "n+1 size"]
    n_classes: int = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __init__(self, n_classes: int, size: int, *, key: PRNGKeyArray):
        self.n_classes = _positive("n_classes", n_classes)
        self.size = _positive("size", size)
        # Standard deviation 1: the same order as the time embedding's features.
        self.table = jax.random.normal(key, (n_classes + 1, size))

    def __call__(
        self, cond: Int[ArrayLike, ""], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " size"]:
        """The class's vector. `key` is not used."""
        del key
        cond = jnp.asarray(cond)
        if not jnp.issubdtype(cond.dtype, jnp.integer):
            raise TypeError(f"cond must be an integer class index, got dtype {cond.dtype}")
        if cond.ndim != 0:
            raise ValueError(f"cond must be a scalar class index, got shape {cond.shape}")
        # A negative index would wrap around before the fill mode sees it.
        row = jnp.where(cond < 0, self.n_classes + 1, cond)
        return jnp.take(self.table, row, axis=0, mode="fill", fill_value=jnp.nan)


class SumEmbedding(AbstractEmbedding):
    """The sum of several embeddings, each with its own condition: e(a, b, …) = e_1(a) + e_2(b) + …

    PDE-Refiner's condition is `SumEmbedding(TimeEmbedding(…), TimeEmbedding(…), …)` called with
    `(level, dt, dx)`, a class-conditional diffusion model's is time plus class.

    **Arguments:** the embeddings, of equal size.

    **Raises:** `ValueError` if none is given, if sizes differ, or if the condition is not a tuple
    with one entry for each.
    """

    parts: tuple[AbstractEmbedding, ...]
    size: int = eqx.field(static=True)

    def __init__(self, *parts: AbstractEmbedding):
        sizes = {part.size for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"parts must be embeddings of one size, got sizes {sorted(sizes)}")
        self.parts = parts
        (self.size,) = sizes

    def __call__(
        self, cond: Sequence[PyTree], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " size"]:
        """The sum over the conditions. `key` is not used."""
        del key
        if not isinstance(cond, tuple | list) or len(cond) != len(self.parts):
            raise ValueError(f"cond must be a tuple of {len(self.parts)} conditions, got {cond!r}")
        vectors = [part(c) for part, c in zip(self.parts, cond, strict=True)]
        return sum(vectors[1:], vectors[0])


class FiLM(eqx.Module):
    """Feature-wise linear modulation of a field by a condition vector.

        y_c = x_c (1 + γ_c) + β_c,   (γ, β) = W e + b

    **Arguments:**

    - `c_cond`: length of e.
    - `c`: number of channels of x.
    - `zero_init`: start at the identity (W = b = 0); a good value for deep stacks.

    **Raises:** `ValueError` for counts that are not positive, and when x or e has another size.

    Perez et al. 2018, arXiv 1709.07871.
    """

    linear: eqx.nn.Linear
    c_cond: int = eqx.field(static=True)
    c: int = eqx.field(static=True)

    def __init__(self, c_cond: int, c: int, *, zero_init: bool = True, key: PRNGKeyArray):
        self.c_cond, self.c = _positive("c_cond", c_cond), _positive("c", c)
        linear = eqx.nn.Linear(c_cond, 2 * c, key=key)
        self.linear = jax.tree.map(jnp.zeros_like, linear) if zero_init else linear

    def __call__(
        self,
        x: Float[Array, "c *grid"],
        cond: Float[Array, " c_cond"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c *grid"]:
        """The field, scaled and shifted by the condition. `key` is not used."""
        del key
        if x.ndim < 1 or x.shape[0] != self.c:
            raise ValueError(f"x must have {self.c} channels, got shape {x.shape}")
        if cond.shape != (self.c_cond,):
            raise ValueError(f"cond must have shape ({self.c_cond},), got {cond.shape}")
        scale, shift = jnp.split(self.linear(cond), 2)
        over_grid = (self.c,) + (1,) * (x.ndim - 1)
        return x * (1 + scale.reshape(over_grid)) + shift.reshape(over_grid)


def _scalar(name: str, t: Float[ArrayLike, ""]) -> Float[Array, ""]:
    t = jnp.asarray(t)
    if t.ndim != 0:
        raise ValueError(f"{name} must be a scalar (vmap for several), got shape {t.shape}")
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(jnp.result_type(float))
