"""Neural ordinary differential equations: y' = f(t, y, args) with a learnt f."""

from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Real

from .problem import AbstractNDE, AbstractRegulariser, NDEOutput, ReversibleAdjoint, solve

Field = Callable[[Any, Any, Any], Any]


class NeuralODE(AbstractNDE):
    """y(t₁), or y at given times, of dy/dt = f(t, y, args), y(t₀) = y₀.

    - `field`: f, a module or a function `(t, y, args) -> dy`; y may be any pytree, also a whole
        batch, which then shares its steps. A last layer that starts small keeps the first solves
        cheap.
    - `t0`, `t1`: the span, by default [0, 1].
    - `regulariser`: an `AbstractRegulariser` such as `LocalError()`, or `None`.
    - `solver`, `controller`, `dt0`, `max_steps`: as for diffrax.
    - `adjoint`: one of diffrax, or `ReversibleAdjoint`.

    Chen and others, arXiv:1806.07366; Kidger, arXiv:2202.02435.

    **Raises:** `ValueError` for an empty span.
    """

    field: Field
    t0: float | Array = 0.0
    t1: float | Array = 1.0
    regulariser: AbstractRegulariser | None = None
    solver: dfx.AbstractSolver = dfx.Tsit5()
    controller: dfx.AbstractStepSizeController = dfx.PIDController(rtol=1e-3, atol=1e-6)
    adjoint: dfx.AbstractAdjoint | ReversibleAdjoint = dfx.RecursiveCheckpointAdjoint()
    dt0: float | None = None
    max_steps: int = eqx.field(default=4096, static=True)

    def __check_init__(self):
        check_span(self.t0, self.t1)

    def __call__(
        self,
        y0: PyTree[Array],
        args: Any = None,
        *,
        ts: Real[Array, " times"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> NDEOutput:
        """Solves from y₀.

        **Arguments:**

        - `y0`: initial values. `args`: passed to the field.
        - `ts`: increasing times from t₀ on; `None` is t₁ alone.
        - `key`: given in training, when the regulariser is wanted; without one there is no penalty.

        **Returns:** `NDEOutput(ys, reg, stats)`.
        """
        problem = self.problem(dfx.ODETerm(self.field), y0, args, self.t0, self.t1, ts)
        return solve(problem, self.regulariser, key)


class AugmentedNODE(AbstractNDE):
    """A neural ODE on (y, 0) with some extra dimensions, which let trajectories pass each other.

    d/dt (y, a) = f(t, (y, a)), a(t₀) = 0: without them the map y(t₀) ↦ y(t₁) is a homeomorphism,
    which cannot nest or cross.

    - `field`: f on vectors of length d + `extra`.
    - `extra`: the number of dimensions added. 1 to 5 are good values.
    - the rest as in `NeuralODE`.

    Dupont, Doucet and Teh, arXiv:1904.01681.

    **Raises:** `ValueError` for `extra` < 1 and for an empty span.
    """

    field: Field
    extra: int = eqx.field(static=True)
    t0: float | Array = 0.0
    t1: float | Array = 1.0
    regulariser: AbstractRegulariser | None = None
    solver: dfx.AbstractSolver = dfx.Tsit5()
    controller: dfx.AbstractStepSizeController = dfx.PIDController(rtol=1e-3, atol=1e-6)
    adjoint: dfx.AbstractAdjoint | ReversibleAdjoint = dfx.RecursiveCheckpointAdjoint()
    dt0: float | None = None
    max_steps: int = eqx.field(default=4096, static=True)

    def __check_init__(self):
        if self.extra < 1:
            raise ValueError(f"extra = {self.extra}: expected an integer >= 1")
        check_span(self.t0, self.t1)

    def __call__(
        self,
        y0: Float[Array, " d"],
        args: Any = None,
        *,
        ts: Real[Array, " times"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> NDEOutput:
        """Solves from (y₀, 0); `ys` has length d + `extra` along its last axis."""
        start = jnp.concatenate([y0, jnp.zeros((self.extra,), y0.dtype)])
        problem = self.problem(dfx.ODETerm(self.field), start, args, self.t0, self.t1, ts)
        return solve(problem, self.regulariser, key)


def check_span(t0: Any, t1: Any) -> None:
    """Refuses an empty span where it is known while tracing."""
    if not isinstance(t0, jax.Array) and not isinstance(t1, jax.Array) and t0 == t1:
        raise ValueError(f"t1 = {t1}: expected a time other than t0")
