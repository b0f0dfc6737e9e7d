"""Continuous normalising flows: a density carried along by an ordinary differential equation.

dx/dt = f(t, x),    d log p(x(t))/dt = −tr ∂f/∂x
"""

from typing import Any, Literal

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci.autodiff import hutchinson_diag

from .ode import Field, check_span
from .problem import (
    AbstractNDE,
    AbstractRegulariser,
    InitialValueProblem,
    NDEOutput,
    ReversibleAdjoint,
    solve,
)


class CNF(AbstractNDE):
    """The law of x(t₁), where x(t₀) ~ N(0, I) and dx/dt = f(t, x, args).

    log p(x(t₁)) = log N(x(t₀)) − ∫ tr ∂f/∂x dt.

    - `field`: f on vectors of length d.
    - `dim`: d.
    - `trace`: `"exact"` costs d Jacobian-vector products a step; `"hutchinson"` costs `probes`, the
        same random signs throughout a solve, and is unbiased.
    - the rest as in `NeuralODE`.

    Chen and others, arXiv:1806.07366; Grathwohl and others, arXiv:1810.01367.

    **Raises:** `ValueError` for an unknown `trace`, `dim` or `probes` < 1, an empty span.
    """

    field: Field
    dim: int = eqx.field(static=True)
    trace: Literal["exact", "hutchinson"] = eqx.field(default="exact", static=True)
    probes: int = eqx.field(default=1, static=True)
    t0: float | Array = 0.0
    t1: float | Array = 1.0
    regulariser: AbstractRegulariser | None = None
    solver: dfx.AbstractSolver = dfx.Tsit5()
    controller: dfx.AbstractStepSizeController = dfx.PIDController(rtol=1e-3, atol=1e-6)
    adjoint: dfx.AbstractAdjoint | ReversibleAdjoint = dfx.RecursiveCheckpointAdjoint()
    dt0: float | None = None
    max_steps: int = eqx.field(default=4096, static=True)

    def __check_init__(self):
        for name in ("dim", "probes"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} = {value}: expected an integer >= 1")
        if self.trace not in ("exact", "hutchinson"):
            raise ValueError(f"trace = {self.trace!r}: expected 'exact' or 'hutchinson'")
        check_span(self.t0, self.t1)

    def __call__(
        self, x: Float[Array, " d"], args: Any = None, *, key: PRNGKeyArray | None = None
    ) -> NDEOutput:
        """Log p(x), with the penalty of the regulariser and the statistics of the solve.

        **Arguments:**

        - `x`: one point. `args`: passed to the field, such as what the law is conditioned on.
        - `key`: for the random signs and the regulariser.

        **Raises:** `ValueError` for x of another length, and without a key for Hutchinson's trace.
        """
        if x.shape != (self.dim,):
            raise ValueError(f"x: expected shape ({self.dim},), got {x.shape}")
        signs, draw = (None, None) if key is None else jax.random.split(key)
        problem = self._problem(x, args, self.t1, self.t0, signs)
        out = solve(problem, self.regulariser, draw)
        z, log_det = out.ys
        log_base = -jnp.sum(z**2 + jnp.log(2 * jnp.pi)) / 2
        # Backwards in time, log_det is minus the integral from t₀ to t₁.
        return NDEOutput(log_base + log_det, out.reg, out.stats)

    def log_prob(
        self, x: Float[Array, " d"], args: Any = None, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, ""]:
        """Log p(x) alone; with Hutchinson's trace an unbiased estimate."""
        return self(x, args, key=key).ys

    def transport(
        self, z: Float[Array, " d"], args: Any = None, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """x(t₁) from x(t₀) = z, and log |det ∂x(t₁)/∂z|."""
        ys, _ = self._problem(z, args, self.t0, self.t1, key).solve()
        return ys

    def sample(self, key: PRNGKeyArray, args: Any = None) -> Float[Array, " d"]:
        """One sample of the law."""
        z = jax.random.normal(key, (self.dim,))
        ys, _ = self.problem(dfx.ODETerm(self.field), z, args, self.t0, self.t1).solve()
        return ys

    def _problem(
        self, y: Float[Array, " d"], args: Any, start: Any, stop: Any, key: PRNGKeyArray | None
    ) -> InitialValueProblem:
        if self.trace == "hutchinson" and key is None:
            raise ValueError("key: expected one for the random signs of trace='hutchinson'")

        def augmented(t: Any, state: tuple[Array, Array], packed: Any) -> tuple[Array, Array]:
            field, key, args = packed
            dy, jvp = jax.linearize(lambda y: field(t, y, args), state[0])
            if key is None:
                return dy, jnp.trace(jax.vmap(jvp)(jnp.eye(self.dim, dtype=dy.dtype)))
            jacobian = lx.FunctionLinearOperator(jvp, jax.eval_shape(lambda: dy))
            return dy, jnp.sum(hutchinson_diag(jacobian, key, self.probes))

        packed = (self.field, key if self.trace == "hutchinson" else None, args)
        state = (y, jnp.zeros((), y.dtype))
        return self.problem(dfx.ODETerm(augmented), state, packed, start, stop)
