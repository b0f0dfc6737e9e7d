"""Radial basis functions where the data need them, each spread over many frequencies.

    φ_k(x) = 1/(1 + (x − c_k)ᵀ S_k (x − c_k)),     f_j(x) = Σ_k a_kj sin(m_j φ_k(x)/Σφ),
    u(x) = MLP([f(x), h(x)] + b),   h a small hash grid,   k over the nearest few centres

(arXiv:2309.15426). Centres and shapes come from a weighted k-means of the data and stay fixed.
"""

import math
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxsci.nn import Buffer

from .hashgrid import HashEncoding
from .networks import check_positive, check_sizes


class Kernels(NamedTuple):
    """Centres c_k, and symmetric positive definite shapes S_k."""

    centres: Float[Array, "k d"]
    shapes: Float[Array, "k d d"]


class Located(NamedTuple):
    """A point, its nearest kernels, and sin(m_j φ_k) there: what does not change in training."""

    x: Float[Array, " d"]
    index: Int[Array, " nearest"]
    waves: Float[Array, "nearest f"]


def init_kernels(
    points: Float[Array, "p d"],
    weights: Float[Array, " p"],
    n: int,
    *,
    iters: int = 10,
    narrowest: float | None = None,
    key: PRNGKeyArray,
) -> Kernels:
    """Kernels of weighted k-means clusters: c_k their means, S_k = ½ (their covariance)⁻¹.

    **Arguments:**

    - `points`, `weights`: where the data are, and how much each point matters: the size of the
        gradient for an image, 1/(|distance| + ε) for a shape. Weights of 0 are left out.
    - `n`: clusters. `iters`: sweeps of Lloyd's algorithm; 10.
    - `narrowest`: the least standard deviation of a kernel in any direction; by default a fifth of
        the distance of n points on a regular grid.

    **Returns:** `Kernels`. A cluster that has lost its points keeps its centre and is of the least
    width.

    **Raises:** `ValueError` for shapes that do not fit, negative weights, or fewer points of
    positive weight than `n`.
    """
    points, weights = jnp.asarray(points), jnp.asarray(weights)
    if points.ndim != 2 or weights.shape != points.shape[:1]:
        raise ValueError(
            f"init_kernels: points {points.shape}, weights {weights.shape}, expected (p, d), (p,)"
        )
    check_sizes("init_kernels", n=n, iters=iters)
    if n > points.shape[0]:
        raise ValueError(f"init_kernels: n = {n} kernels of {points.shape[0]} points")
    weights = eqx.error_if(
        weights,
        jnp.any(weights < 0) | (jnp.sum(weights > 0) < n),
        "init_kernels: weights must not be negative, and at least n of them positive",
    )
    if narrowest is None:
        span = jnp.max(points, 0) - jnp.min(points, 0)
        narrow = 0.2 * (jnp.prod(span) / n) ** (1 / points.shape[1])
    else:
        check_positive("init_kernels", narrowest=narrowest)
        narrow = jnp.asarray(narrowest)
    # Sampling without replacement by weight: the n largest of log w plus Gumbel noise.
    score = jnp.log(weights) + jr.gumbel(key, weights.shape)
    centres = points[jax.lax.top_k(score, n)[1]]

    def totals(values: Array, label: Array) -> Array:
        return jax.ops.segment_sum(values, label, n)

    def nearest(centres: Array) -> Array:
        # |x − c|² without |x|²; no array of shape (p, n, d).
        return jnp.argmin(jnp.sum(centres**2, 1) - 2 * points @ centres.T, 1)

    def lloyd(centres: Array, _: None) -> tuple[Array, None]:
        label = nearest(centres)
        mass = totals(weights, label)[:, None]
        mean = totals(weights[:, None] * points, label) / jnp.where(mass > 0, mass, 1)
        return jnp.where(mass > 0, mean, centres), None

    centres = jax.lax.scan(lloyd, centres, None, iters)[0]
    label = nearest(centres)
    mass = totals(weights, label)[:, None, None]
    away = points - centres[label]
    outer = weights[:, None, None] * away[:, :, None] * away[:, None, :]
    covariance = totals(outer, label) / jnp.where(mass > 0, mass, 1)
    values, vectors = jnp.linalg.eigh(covariance)
    values = jnp.maximum(values, narrow**2)
    return Kernels(centres, (vectors * (0.5 / values)[:, None, :]) @ jnp.swapaxes(vectors, 1, 2))


class NeuRBF(eqx.Module):
    """A field of adaptive radial basis functions, a small hash grid, and a perceptron.

    **Arguments:**

    - `kernels`: of `init_kernels`.
    - `c_out`: channels, or `"scalar"`.
    - `features`: frequencies m_j, logarithmically from `frequencies[0]` to `frequencies[1]`; with
        `None` for the latter, f_j = Σ_k a_kj φ_k/Σφ of one frequency.
    - `nearest`: how many kernels act on a point; 4.
    - `kernel`: `"ivq"` 1/(1 + q), `"ivmq"` 1/√(1 + q), `"gauss"` e^(−q/2), with
        q = (x − c)ᵀS(x − c).
    - `levels`, `coarsest`, `finest`, `table`: of the grid, two numbers in an entry.
    - `width`, `depth`: hidden layers of the perceptron. The first one is h + sin(ω_j h) with ω_j
        from 10 to 100, the others are ReLU.
    - `lo`, `hi`: corners of the box; points outside are clipped to it.

    The field takes a point, or `locate(x)`, which holds all that stays the same in training:
    `fit_field(field, jax.vmap(field.locate)(coords), values, …)` computes it once.

    **Raises:** `ValueError` for sizes out of range, more nearest kernels than there are, an unknown
    kernel; `eqx.error_if` for shapes that are not positive definite.
    """

    coefficients: Float[Array, "k f"]
    grid: HashEncoding
    bias: Float[Array, " i"]
    layers: tuple[eqx.nn.Linear, ...]
    centres: Buffer
    shapes: Buffer
    frequencies: tuple[float, float] | None = eqx.field(static=True)
    nearest: int = eqx.field(static=True)
    kernel: str = eqx.field(static=True)
    lo: float = eqx.field(static=True)
    hi: float = eqx.field(static=True)

    def __init__(
        self,
        kernels: Kernels,
        c_out: int | Literal["scalar"],
        *,
        features: int = 32,
        frequencies: tuple[float, float] | None = (2.0**-3, 2.0**12),
        nearest: int = 4,
        kernel: Literal["ivq", "ivmq", "gauss"] = "ivq",
        levels: int = 2,
        coarsest: int = 8,
        finest: int = 16,
        table: int = 2**8,
        width: int = 64,
        depth: int = 2,
        lo: float = -1.0,
        hi: float = 1.0,
        key: PRNGKeyArray,
    ):
        centres, shapes = map(jnp.asarray, kernels)
        check_sizes("NeuRBF", features=features, nearest=nearest, width=width, depth=depth)
        n, d = centres.shape
        if shapes.shape != (n, d, d):
            raise ValueError(
                f"NeuRBF: centres {centres.shape} and shapes {shapes.shape}, expected (k, d) and "
                "(k, d, d)"
            )
        if nearest > n:
            raise ValueError(f"NeuRBF: nearest = {nearest} of {n} kernels")
        if kernel not in _KERNELS:
            raise ValueError(f"NeuRBF: kernel = {kernel!r}, expected one of {list(_KERNELS)}")
        if frequencies is not None and not 0 < frequencies[0] <= frequencies[1]:
            raise ValueError(f"NeuRBF: frequencies = {frequencies}, expected 0 < low <= high")
        lowest = jnp.linalg.eigvalsh((shapes + jnp.swapaxes(shapes, 1, 2)) / 2)[:, 0]
        shapes = eqx.error_if(
            shapes, ~jnp.all(lowest > 0), "NeuRBF: a shape is not positive definite"
        )
        a_key, grid_key, *keys = jr.split(key, depth + 3)
        self.centres, self.shapes = Buffer(centres), Buffer(shapes)
        self.coefficients = jr.uniform(a_key, (n, features), minval=-1e-4, maxval=1e-4)
        self.grid = HashEncoding(
            d,
            levels=levels,
            coarsest=coarsest,
            finest=finest,
            table=table,
            features=2,
            lo=lo,
            hi=hi,
            key=grid_key,
        )
        inputs = features + 2 * levels
        self.bias = jnp.zeros(inputs)
        sizes = [inputs, *[width] * depth, c_out]
        self.layers = tuple(
            eqx.nn.Linear(a, b, key=k) for a, b, k in zip(sizes[:-1], sizes[1:], keys, strict=True)
        )
        self.frequencies, self.nearest, self.kernel = frequencies, nearest, kernel
        self.lo, self.hi = lo, hi

    def locate(self, x: Float[Array, " d"]) -> Located:
        """The nearest kernels of a point and their waves; nothing of it depends on weights."""
        x = jnp.clip(x, self.lo, self.hi)
        away = x - self.centres.value
        index = jax.lax.top_k(-jnp.sum(jax.lax.stop_gradient(away) ** 2, 1), self.nearest)[1]
        away = away[index]
        squared = jnp.einsum("ki,kij,kj->k", away, self.shapes.value[index], away)
        phi = _KERNELS[self.kernel](squared)
        phi = phi / (jax.lax.stop_gradient(jnp.sum(phi)) + 1e-8)
        features = self.coefficients.shape[1]
        if self.frequencies is None:
            return Located(x, index, jnp.broadcast_to(phi[:, None], (self.nearest, features)))
        low, high = map(math.log, self.frequencies)
        return Located(x, index, jnp.sin(phi[:, None] * jnp.exp(jnp.linspace(low, high, features))))

    def encode(self, x: Float[Array, " d"] | Located) -> Float[Array, " i"]:
        """The features of a point: of kernels, then of the grid, plus a bias."""
        point, index, waves = x if isinstance(x, Located) else self.locate(x)
        radial = jnp.sum(self.coefficients[index] * waves, 0)
        return jnp.concatenate([radial, self.grid(point)]) + self.bias

    def __call__(self, x: Float[Array, " d"] | Located) -> Float[Array, "*c"]:
        h = self.layers[0](self.encode(x))
        h = h + jnp.sin(h * jnp.exp(jnp.linspace(math.log(10), math.log(100), h.shape[0])))
        for layer in self.layers[1:-1]:
            h = jax.nn.relu(layer(h))
        return self.layers[-1](h)


_KERNELS = {
    "ivq": lambda q: 1 / (1 + q),
    "ivmq": lambda q: jax.lax.rsqrt(1 + q),
    "gauss": lambda q: jnp.exp(-q / 2),
}
