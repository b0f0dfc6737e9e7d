"""The two-scale Lorenz-96 system: slow weather and the fast eddies that it cannot resolve."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .problems.dataset import check_count
from .stepper import AbstractStepper


class TwoScaleLorenz96(AbstractStepper):
    """K slow variables on a circle, each driving J fast ones.

        dX_k/dt     = -X_{k-1} (X_{k-2} - X_{k+1}) - X_k + F - (h c/b) Σ_j Y_{j,k}
        dY_{j,k}/dt = -c b Y_{j+1,k} (Y_{j+2,k} - Y_{j-1,k}) - c Y_{j,k} + (h c/b) X_k

    The Y form one circle of K J variables, so that Y_{J+1,k} is Y_{1,k+1}. A state is a field on K
    points with 1 + J channels: X first, then Y_1 … Y_J. By the classical Runge-Kutta method of
    fourth order.

    **Arguments:**

    - `dt`: of a step; 0.005 is stable for the standard constants (the fast scale is c times
      faster than the slow one).
    - `n_fast`: J.
    - `forcing`: F; 20 makes both scales chaotic. `coupling`: h. `time_scale`: c. `amplitude`: b.
      Numbers or traced arrays; the usual values are h = 1, c = b = 10.
    - `substeps`: Runge-Kutta steps within dt.

    **Raises:** `ValueError` for counts below 1 or dt that is not positive; `init` for another
    number of channels or fewer than 4 points.

    Reference: Lorenz 1996, "Predictability: a problem partly solved".
    """

    dt: float | Float[Array, ""]
    n_fast: int = eqx.field(static=True, default=10)
    forcing: float | Float[Array, ""] = 20.0
    coupling: float | Float[Array, ""] = 1.0
    time_scale: float | Float[Array, ""] = 10.0
    amplitude: float | Float[Array, ""] = 10.0
    substeps: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        check_count("TwoScaleLorenz96: n_fast", self.n_fast)
        check_count("TwoScaleLorenz96: substeps", self.substeps)
        if isinstance(self.dt, int | float) and not self.dt > 0:
            raise ValueError(f"TwoScaleLorenz96: dt must be positive, got {self.dt}")

    def init(self, u0: Float[Array, "1+J K"], args: Any = None) -> Float[Array, "1+J K"]:
        """The field itself."""
        del args
        if u0.ndim != 2 or u0.shape[0] != 1 + self.n_fast or u0.shape[1] < 4:
            raise ValueError(
                f"TwoScaleLorenz96: expected {1 + self.n_fast} channels on 4 points or more, "
                f"got shape {u0.shape}"
            )
        return u0

    def tendency(self, state: Float[Array, "1+J K"]) -> Float[Array, "1+J K"]:
        """The right-hand side."""
        x, fast = state[0], state[1:]
        y = fast.T.ravel()  # Y_{1,1} … Y_{J,1}, Y_{1,2} …
        link = self.coupling * self.time_scale / self.amplitude
        dx = -jnp.roll(x, 1) * (jnp.roll(x, 2) - jnp.roll(x, -1)) - x + self.forcing
        dx = dx - link * jnp.sum(fast, 0)
        convection = -self.amplitude * jnp.roll(y, -1) * (jnp.roll(y, -2) - jnp.roll(y, 1))
        dy = self.time_scale * (convection - y) + link * jnp.repeat(x, self.n_fast)
        return jnp.concatenate([dx[None], dy.reshape(-1, self.n_fast).T])

    def step(
        self, state: Float[Array, "1+J K"], args: Any = None, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "1+J K"]:
        """The state dt later; `args` and `key` are not used."""
        del args, key
        h = self.dt / self.substeps

        def runge_kutta(u, _):
            a = self.tendency(u)
            b = self.tendency(u + h / 2 * a)
            c = self.tendency(u + h / 2 * b)
            d = self.tendency(u + h * c)
            return u + h / 6 * (a + 2 * b + 2 * c + d), None

        if self.substeps == 1:
            return runge_kutta(state, None)[0]
        return jax.lax.scan(runge_kutta, state, None, self.substeps)[0]
