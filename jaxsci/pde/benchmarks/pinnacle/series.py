"""Real Fourier series on a box of one or two periods: what a window of time starts from.

    u(x) = Σ c_i φ_i(x),   φ = (1, cos ωx, …, cos mωx, sin ωx, …, sin mωx),   ω = 2π/period,

in two dimensions with products φ_i(x) φ_j(y).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class PeriodicSeries(eqx.Module):
    """The trigonometric polynomial through a function's values at equidistant points.

    - `coefficients`: with an axis for each coordinate, and then one for the components, if any.
    - `period`: of all coordinates.
    """

    coefficients: Float[Array, "m *rest"]
    period: float = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    @classmethod
    def through(
        cls, f: Callable[[Float[Array, " d"]], Array], modes: int, period: float, dim: int = 1
    ) -> "PeriodicSeries":
        """**Arguments:** a function of a point; the highest frequency, in units of 1/period."""
        n = 2 * modes + 1
        side = period * np.arange(n) / n
        grid = np.stack(np.meshgrid(*[side] * dim, indexing="ij"), -1)
        values = jax.vmap(f)(jnp.asarray(grid.reshape(-1, dim), float))
        values = values.reshape(*[n] * dim, *values.shape[1:])
        basis = jax.vmap(lambda x: waves(x, modes, period))(jnp.asarray(side, float))
        # The columns are orthogonal: n/2 is their square, and n that of the constant.
        weights = jnp.full(n, 2 / n).at[0].set(1 / n)
        for axis in range(dim):
            moved = jnp.tensordot(weights[:, None] * basis.T, values, (1, axis))
            values = jnp.moveaxis(moved, 0, axis)
        return cls(values, period, dim)

    def __call__(self, x: Float[Array, " d"]) -> Array:
        value = self.coefficients
        modes = (value.shape[0] - 1) // 2
        for axis in range(self.dim):
            value = jnp.tensordot(waves(x[axis], modes, self.period), value, 1)
        return value


def waves(x: Float[Array, ""], modes: int, period: float) -> Float[Array, " m"]:
    """1, cos ωx, …, cos mωx, sin ωx, …, sin mωx."""
    phase = 2 * jnp.pi / period * jnp.arange(1, modes + 1) * x
    return jnp.concatenate([jnp.ones_like(x)[None], jnp.cos(phase), jnp.sin(phase)])
