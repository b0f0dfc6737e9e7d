"""How long a rollout stays near the truth: the metrics of learned time steppers.

    accumulated MSE     Σ_t 1/N Σ_x |û - u|²
    error growth        ‖ûⁿ - uⁿ‖ / ‖uⁿ‖ for each n
    correlation         ⟨û - ⟨û⟩, u - ⟨u⟩⟩ / (‖û - ⟨û⟩‖ ‖u - ⟨u⟩‖)          (Pearson)
                        ⟨û, u⟩ / (‖û‖ ‖u‖)                                 (cosine)
    correlation time    the first t at which the correlation is below a threshold
    energy spectrum     E(κ) = Σ_{round |k| = κ} |û_k|²

All take one trajectory; average over trajectories with `jax.vmap` and `jnp.mean`. A prediction that
is not finite has no correlation with anything.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .metrics import relative_l2

Correlation = Literal["pearson", "cosine"]


def accumulated_mse(
    prediction: Float[Array, "t c *grid"], target: Float[Array, "t c *grid"]
) -> Float[Array, ""]:
    """Σ_t 1/N Σ_x |û(t, x) - u(t, x)|²: summed over frames and channels, mean over points.

    **Raises:** `ValueError` if the shapes differ or have no frames and grid.

    Reference: Brandstetter, Worrall & Welling, arXiv:2202.03376.
    """
    prediction, target = _check(prediction, target)
    return jnp.sum(jnp.mean((prediction - target) ** 2, tuple(range(2, target.ndim))))


def error_growth(
    prediction: Float[Array, "t c *grid"], target: Float[Array, "t c *grid"]
) -> Float[Array, " t"]:
    """The relative L2 error of each frame.

    **Raises:** `ValueError` if the shapes differ or have no frames and grid.
    """
    prediction, target = _check(prediction, target)
    return jax.vmap(relative_l2)(prediction, target)


def correlation(
    prediction: Float[Array, "c *grid"],
    target: Float[Array, "c *grid"],
    kind: Correlation = "pearson",
) -> Float[Array, ""]:
    """The correlation of two fields over the points, averaged over channels.

    **Arguments:** `kind`: "pearson" takes each channel's mean out first; "cosine" does not, which
    flatters a prediction of the right mean. (`exponax.metrics.correlation` is the second.)

    **Raises:** `ValueError` if the shapes differ or for an unknown kind.
    """
    if prediction.shape != target.shape or target.ndim < 2:
        raise ValueError(
            "prediction and target: expected equal shapes (c, *grid), got "
            f"{prediction.shape} and {target.shape}"
        )
    if kind not in ("pearson", "cosine"):
        raise ValueError(f"kind: expected 'pearson' or 'cosine', got {kind!r}")
    p, u = (a.reshape(a.shape[0], -1) for a in (prediction, target))
    if kind == "pearson":
        p, u = (a - jnp.mean(a, 1, keepdims=True) for a in (p, u))
    # Each is scaled first: a product of norms overflows where a diverging prediction does not yet.
    p, u = (a / jnp.maximum(jnp.max(jnp.abs(a), 1, keepdims=True), _tiny(a)) for a in (p, u))
    below = jnp.sqrt(jnp.sum(p**2, 1)) * jnp.sqrt(jnp.sum(u**2, 1))
    each = jnp.sum(p * u, 1) / jnp.where(below > 0, below, 1)
    return jnp.mean(jnp.where(jnp.isfinite(each), each, 0))


def correlation_time(
    prediction: Float[Array, "t c *grid"],
    target: Float[Array, "t c *grid"],
    dt: float = 1.0,
    *,
    threshold: float = 0.8,
    kind: Correlation = "pearson",
) -> Float[Array, ""]:
    """The time of the first frame whose correlation with the truth is below the threshold.

    Frame n (from 0) is at time (n + 1) dt. A trajectory that never falls below has the time of its
    last frame: make it long enough.

    **Arguments:** `dt`: the time between frames; `threshold`: 0.8 is usual; `kind`: see
    `correlation`.

    **Raises:** `ValueError` if the shapes differ, dt is not positive, the threshold lies outside
    (-1, 1), or for an unknown kind.

    References: Kochkov et al., arXiv:2102.01010; Lippe et al., arXiv:2308.05732.
    """
    prediction, target = _check(prediction, target)
    if isinstance(dt, int | float) and not dt > 0:
        raise ValueError(f"dt must be positive, got {dt}")
    if not -1 < threshold < 1:
        raise ValueError(f"threshold must lie in (-1, 1), got {threshold}")
    found = jax.vmap(lambda p, u: correlation(p, u, kind))(prediction, target)
    below = found < threshold
    first = jnp.where(jnp.any(below), jnp.argmax(below) + 1, below.size)
    return first * jnp.asarray(dt, found.dtype)


def energy_spectrum(u: Float[Array, "c *grid"]) -> Float[Array, " k"]:
    """E(κ) = Σ_{round |k| = κ} |û_k|² for κ = 0 … n/2, summed over channels.

    n is the shortest axis; on a cube of side L wavenumber κ is 2πκ/L. Σ_κ E(κ) is the mean of |u|²
    over the points, less what lies in the corners |k| > n/2.

    **Raises:** `ValueError` if there is no grid axis.
    """
    u = jnp.asarray(u)
    if u.ndim < 2:
        raise ValueError(f"u: expected a field (c, *grid), got shape {u.shape}")
    shape = u.shape[1:]
    energy = jnp.sum(jnp.abs(jnp.fft.fftn(u, axes=range(1, u.ndim), norm="forward")) ** 2, 0)
    k = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij")
    shell = np.round(np.sqrt(sum(q**2 for q in k))).astype(int).ravel()
    count = min(shape) // 2 + 1
    # Shells beyond the last are dropped.
    return jax.ops.segment_sum(energy.ravel(), jnp.asarray(shell), count)


def _tiny(a: Array) -> Array:
    return jnp.asarray(jnp.finfo(a.dtype).tiny, a.dtype)


def _check(prediction: Array, target: Array) -> tuple[Array, Array]:
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    if prediction.shape != target.shape or target.ndim < 3:
        raise ValueError(
            "prediction and target: expected equal shapes (t, c, *grid), got "
            f"{prediction.shape} and {target.shape}"
        )
    return prediction, target
