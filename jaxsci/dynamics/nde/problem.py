"""An initial value problem as a value, and what may be done to it: solve, or solve with a penalty.

dy/dt = f(t, y, args),   y(t₀) = y₀,   wanted at t₁ or at given times
"""

import abc
from typing import Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Real

from ..adjoints import reversible_solve


class ReversibleAdjoint(eqx.Module):
    """Says that a model is differentiated by `reversible_solve`, in memory of one step.

    - `l`: the coupling of `Reversible`, 0 < l ≤ 1. Errors of reconstruction grow as l⁻ⁿ.

    McCallum and Foster, arXiv:2410.11648.

    **Raises:** `ValueError` for l out of range.
    """

    l: float = 0.999

    def __check_init__(self):
        if not 0 < self.l <= 1:
            raise ValueError(f"l = {self.l}: expected a number with 0 < l <= 1")


class NDEOutput(NamedTuple):
    """What a differential equation model returns.

    - `ys`: the result, at t₁ or, along a first axis, at the times asked for.
    - `reg`: the value of the regulariser, 0 without one.
    - `stats`: diffrax's statistics of the solve, such as `num_steps`.
    """

    ys: PyTree[Array]
    reg: Float[Array, ""]
    stats: dict[str, Any]


class InitialValueProblem(eqx.Module):
    """Everything that one solve needs.

    - `term`, `y0`, `args`, `t0`, `t1`, `dt0`, `solver`, `controller`, `max_steps`: as for
        `diffrax.diffeqsolve`. `dt0=None` lets an adaptive controller choose.
    - `ts`: increasing times at which y is wanted; `None` is t₁ alone.
    - `adjoint`: of diffrax, or `ReversibleAdjoint`. With the latter and `ts` the solver is started
        anew at every time, and steps end there.
    """

    term: PyTree[dfx.AbstractTerm]
    y0: PyTree[Array]
    args: Any
    t0: Any
    t1: Any
    ts: Real[Array, " times"] | None
    dt0: Any
    solver: dfx.AbstractSolver
    controller: dfx.AbstractStepSizeController
    adjoint: dfx.AbstractAdjoint | ReversibleAdjoint
    max_steps: int = eqx.field(static=True)

    def solve(self) -> tuple[PyTree[Array], dict[str, Any]]:
        """Y at t₁ (or at all `ts`, along a first axis), and the statistics.

        **Raises:** what `diffeqsolve` and `reversible_solve` raise.
        """
        if isinstance(self.adjoint, ReversibleAdjoint):
            return self._solve_reversibly(self.adjoint.l)
        sol = self.diffeqsolve(dfx.SaveAt(t1=True) if self.ts is None else dfx.SaveAt(ts=self.ts))
        ys = jax.tree.map(lambda y: y[0], sol.ys) if self.ts is None else sol.ys
        return ys, sol.stats

    def diffeqsolve(self, saveat: dfx.SaveAt) -> dfx.Solution:
        """Diffrax's solution, saved where `saveat` says."""
        if isinstance(self.adjoint, ReversibleAdjoint):
            raise ValueError("adjoint: expected one of diffrax, got ReversibleAdjoint")
        return dfx.diffeqsolve(
            self.term,
            self.solver,
            self.t0,
            self.t1,
            self.dt0,
            self.y0,
            self.args,
            saveat=saveat,
            stepsize_controller=self.controller,
            adjoint=self.adjoint,
            max_steps=self.max_steps,
        )

    def _solve_reversibly(self, l: float) -> tuple[PyTree[Array], dict[str, Any]]:
        def advance(y: PyTree[Array], start: Any, stop: Any) -> Any:
            return reversible_solve(
                self.term,
                self.solver,
                start,
                stop,
                self.dt0,
                y,
                self.args,
                l=l,
                stepsize_controller=self.controller,
                max_steps=self.max_steps,
            )

        if self.ts is None:
            out = advance(self.y0, self.t0, self.t1)
            return out.y, out.stats

        def leg(y: PyTree[Array], span: tuple[Array, Array]) -> Any:
            out = advance(y, *span)
            return out.y, (out.y, out.stats)

        starts = jnp.concatenate([jnp.asarray(self.t0, self.ts.dtype)[None], self.ts[:-1]])
        y0 = jax.tree.map(jnp.asarray, self.y0)
        _, (ys, stats) = jax.lax.scan(leg, y0, (starts, self.ts))
        total = {k: v[0] if k == "max_steps" else jnp.sum(v) for k, v in stats.items()}
        return ys, total


class AbstractRegulariser(eqx.Module):
    """A penalty on how a problem is solved, for training; prediction uses none.

    One method: solve the problem (perhaps another one, that carries the penalty along) and return
    the result together with the penalty.
    """

    @abc.abstractmethod
    def solve(self, problem: InitialValueProblem, *, key: PRNGKeyArray | None) -> NDEOutput:
        """The solution of the problem and the penalty.

        - `key`: for penalties that draw something; those raise `ValueError` without one.
        """


class AbstractNDE(eqx.Module):
    """A model whose forward pass is a differential equation.

    - `field`: what is learnt: the vector field.
    - `solver`, `controller`, `adjoint`, `dt0`, `max_steps`: how it is solved, as for diffrax;
        `adjoint` may also be `ReversibleAdjoint`.
    """

    field: eqx.AbstractVar[Any]
    solver: eqx.AbstractVar[dfx.AbstractSolver]
    controller: eqx.AbstractVar[dfx.AbstractStepSizeController]
    adjoint: eqx.AbstractVar[dfx.AbstractAdjoint | ReversibleAdjoint]
    dt0: eqx.AbstractVar[float | None]
    max_steps: eqx.AbstractVar[int]

    def problem(
        self,
        term: PyTree[dfx.AbstractTerm],
        y0: PyTree[Array],
        args: Any,
        t0: Any,
        t1: Any,
        ts: Real[Array, " times"] | None = None,
        controller: dfx.AbstractStepSizeController | None = None,
    ) -> InitialValueProblem:
        """The problem with this model's way of solving; `controller` takes the place of its own."""
        return InitialValueProblem(
            term,
            y0,
            args,
            t0,
            t1,
            ts,
            self.dt0,
            self.solver,
            self.controller if controller is None else controller,
            self.adjoint,
            self.max_steps,
        )


def solve(
    problem: InitialValueProblem,
    regulariser: AbstractRegulariser | None,
    key: PRNGKeyArray | None,
) -> NDEOutput:
    """With the regulariser if there are one and a key (training), without otherwise."""
    if regulariser is None or key is None:
        ys, stats = problem.solve()
        return NDEOutput(ys, jnp.zeros(()), stats)
    return regulariser.solve(problem, key=key)
