"""Closures: what the scales that a coarse model does not resolve do to those that it does."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Field = Float[Array, "c *grid"]


class Closure(eqx.Module):
    """A coarse model and a correction, du/dt = N(u) + K(u): a vector field for diffrax.

    N is known and solved as ever; K stands for r = G N_fine(u_fine) − N(G u_fine), the effect of
    what the filter G leaves out (`unresolved`). A network for K that is a neural operator, such as
    an `FNO`, sees all of u, on any grid.

    ```python
    net = Normalised(FNO(1, 1, 1, width=32, modes=4, key=key), scale_in, scale_out)
    model = Closure(lorenz, net)
    solution = diffrax.diffeqsolve(diffrax.ODETerm(model), diffrax.Tsit5(), 0.0, 1.0, 0.005, u0)
    ```

    **Arguments:**

    - `resolved`: N, called as `resolved(t, u, args)`, or `resolved(u)` if `autonomous`.
    - `correction`: K, a map u ↦ "c *grid".
    - `autonomous`: whether `resolved` takes u alone.

    Reference: arXiv 2207.11417.
    """

    resolved: Callable[..., Array]
    correction: Callable[[Array], Array]
    autonomous: bool = eqx.field(static=True, default=True)

    def __call__(self, t: Any, u: Field, args: Any = None) -> Field:
        """N(u) + K(u)."""
        known = self.resolved(u) if self.autonomous else self.resolved(t, u, args)
        correction = self.correction(u)
        if correction.shape != known.shape:
            raise ValueError(
                f"Closure: correction returns shape {correction.shape}, resolved {known.shape}"
            )
        return known + correction


def unresolved(
    fine: Callable[[Array], Array],
    coarse: Callable[[Array], Array],
    coarsen: Callable[[Array], Array],
    u: Array,
) -> Field:
    """R = G N_fine(u) − N(G u), what a closure is trained on.

    **Arguments:**

    - `fine`, `coarse`: the tendencies N_fine and N.
    - `coarsen`: G, linear, from the fine state to the coarse one.
    - `u`: a fine state.

    **Raises:** `ValueError` if `coarsen` does not return what `coarse` takes.
    """
    small = coarsen(u)
    ours, theirs = coarse(small), jax.jvp(coarsen, (u,), (fine(u),))[1]
    if ours.shape != theirs.shape:
        raise ValueError(
            f"unresolved: coarsen(fine(u)) has shape {theirs.shape}, "
            f"coarse(coarsen(u)) {ours.shape}"
        )
    return theirs - ours


class PolynomialClosure(eqx.Module):
    """K(u)(x) = Σᵢ cᵢ u(x)ⁱ, i ≤ degree: the local closure of Wilks (2005).

    With degree 0 it is the mean of the unresolved part (climatology). Made by `fit`.
    """

    coefficients: Float[Array, " degree+1"]
    centre: Float[Array, ""]
    scale: Float[Array, ""]

    @staticmethod
    def fit(
        u: Float[Array, "n c *grid"], r: Float[Array, "n c *grid"], degree: int
    ) -> "PolynomialClosure":
        """The least-squares fit to all values of all samples alike.

        **Arguments:**

        - `u`, `r`: coarse states and what they lack, of one shape.
        - `degree`: 0 for the mean, 4 as in Wilks (2005).

        **Raises:** `ValueError` for different shapes, a negative degree or too few values.
        """
        if u.shape != r.shape:
            raise ValueError(f"PolynomialClosure: u has shape {u.shape}, r has {r.shape}")
        if isinstance(degree, bool) or not isinstance(degree, int) or degree < 0:
            raise ValueError(f"PolynomialClosure: degree must not be negative, got {degree!r}")
        if u.size <= degree:
            raise ValueError(f"PolynomialClosure: {u.size} values do not determine degree {degree}")
        # Powers of a value of size 1 keep the system well conditioned in single precision.
        centre, scale = jnp.mean(u), jnp.maximum(jnp.std(u), jnp.finfo(u.dtype).tiny)
        powers = jnp.vander((u.ravel() - centre) / scale, degree + 1, increasing=True)
        return PolynomialClosure(jnp.linalg.lstsq(powers, r.ravel())[0], centre, scale)

    def __call__(self, u: Field) -> Field:
        """The polynomial at every point."""
        return jnp.polyval(self.coefficients[::-1], (u - self.centre) / self.scale)


def no_closure(u: Field) -> Field:
    """K = 0: the coarse model alone."""
    return jnp.zeros_like(u)
