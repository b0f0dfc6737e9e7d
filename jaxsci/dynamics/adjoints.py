"""Gradients through a solve with memory that does not grow with the number of steps."""

from typing import Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .solvers.reversible import Reversible


class ReversibleSolution(NamedTuple):
    """What `reversible_solve` returns: y at t₁, diffrax's statistics and its result."""

    y: PyTree[Array]
    stats: dict[str, Any]
    result: dfx.RESULTS


class _Job(eqx.Module):
    """What a solve consists of, apart from what is differentiated."""

    solver: Reversible
    t0: Any
    t1: Any
    dt0: Any
    controller: dfx.AbstractStepSizeController
    max_steps: int = eqx.field(static=True)
    throw: bool = eqx.field(static=True)


def reversible_solve(
    terms: PyTree[dfx.AbstractTerm],
    solver: dfx.AbstractSolver,
    t0: Any,
    t1: Any,
    dt0: Any,
    y0: PyTree[Array],
    args: Any = None,
    *,
    l: float = 0.999,
    stepsize_controller: dfx.AbstractStepSizeController | None = None,
    max_steps: int = 4096,
    throw: bool = True,
) -> ReversibleSolution:
    """`diffrax.diffeqsolve` with a reversible solver, differentiated by running it backwards.

    The gradient is that of the discrete solution, as with `RecursiveCheckpointAdjoint`, up to
    rounding; memory is that of one step, plus one number a step for the times. The backward pass
    costs a step and its vector-Jacobian product for every step: they share their evaluations.

    **Arguments:**

    - `terms`, `t0`, `t1`, `dt0`, `y0`, `args`: as for `diffeqsolve`. Gradients flow to `terms`,
        `y0` and `args`, not to the times and step sizes.
    - `solver`: explicit; it is wrapped in `Reversible(solver, l)`.
    - `l`: coupling of the wrapper.
    - `stepsize_controller`: constant steps by default; an adaptive one needs a solver with an error
        estimate.
    - `max_steps`, `throw`: as for `diffeqsolve`.

    **Returns:** y(t₁), statistics, result.

    **Raises:** `ValueError` for an implicit solver, l outside (0, 1], or terms with noise;
    what `diffeqsolve` raises.
    """
    if isinstance(solver, Reversible):
        raise ValueError("solver: expected the explicit solver itself, not yet Reversible")
    path = dfx.AbstractBrownianPath
    if any(
        isinstance(x, path) for x in jax.tree.leaves(terms, is_leaf=lambda x: isinstance(x, path))
    ):
        raise ValueError("terms: expected equations without noise")
    controller = dfx.ConstantStepSize() if stepsize_controller is None else stepsize_controller
    job = _Job(Reversible(solver, l), t0, t1, dt0, controller, max_steps, throw)
    y0 = jax.tree.map(jnp.asarray, y0)
    y, (stats, result) = _solve((y0, args, terms), job)
    return ReversibleSolution(y, stats, result)


def _run(moving: Any, job: _Job) -> Any:
    y0, args, terms = moving
    return dfx.diffeqsolve(
        terms,
        job.solver,
        job.t0,
        job.t1,
        job.dt0,
        y0,
        args,
        saveat=dfx.SaveAt(
            subs={
                "end": dfx.SubSaveAt(t1=True),
                # Of the steps only their times are kept.
                "steps": dfx.SubSaveAt(t0=True, steps=True, fn=lambda t, y, args: None),
            },
            solver_state=True,
        ),
        stepsize_controller=job.controller,
        max_steps=job.max_steps,
        throw=job.throw,
        # The steps are not differentiated, so nothing need be kept for that.
        adjoint=dfx.ForwardMode(),
    )


def _outputs(solution: Any) -> Any:
    y = jax.tree.map(lambda x: x[0], solution.ys["end"])
    return y, (solution.stats, solution.result)


@eqx.filter_custom_vjp
def _solve(moving: Any, job: _Job) -> Any:
    return _outputs(_run(moving, job))


@_solve.def_fwd
def _forward(perturbed: Any, moving: Any, job: _Job) -> Any:
    solution = _run(moving, job)
    y, extra = _outputs(solution)
    times: Float[Array, " steps"] = solution.ts["steps"]
    return (y, extra), (y, solution.solver_state, times, solution.stats["num_accepted_steps"])


@_solve.def_bwd
def _backward(residuals: Any, cotangents: Any, perturbed: Any, moving: Any, job: _Job) -> Any:
    y1, z1, times, count = residuals
    _, args, terms = moving
    parameters, static = eqx.partition((args, terms), eqx.is_inexact_array)

    l = job.solver.l

    def increment(t0: Any, t1: Any, y: Any) -> Any:
        """Ψ from t0 to t1 at y, and its vector-Jacobian product."""

        def value(y: Any, parameters: Any) -> Any:
            args, terms = eqx.combine(parameters, static)
            return job.solver.increment(terms, t0, t1, y, args)[0]

        return jax.vjp(value, y, parameters)

    def undo(n: Any, carry: Any) -> Any:
        # The pair is found again by the two increments whose derivatives are needed, so both are
        # evaluated once: `Reversible.backward`, and its transpose on the way.
        y1, z1, (y_bar, z_bar), gradient = carry
        start, stop = times[count - 1 - n], times[count - n]
        back, pull_back = increment(stop, start, y1)
        z = jax.tree.map(jnp.add, z1, back)
        ahead, pull_ahead = increment(start, stop, z)
        y = jax.tree.map(lambda y, z, d: (y - (1 - l) * z - d) / l, y1, z, ahead)
        from_back, more_back = pull_back(jax.tree.map(jnp.negative, z_bar))
        y_bar = jax.tree.map(jnp.add, y_bar, from_back)
        from_ahead, more_ahead = pull_ahead(y_bar)
        z_bar = jax.tree.map(lambda z, y, d: z + (1 - l) * y + d, z_bar, y_bar, from_ahead)
        y_bar = jax.tree.map(lambda y: l * y, y_bar)
        gradient = jax.tree.map(lambda g, a, b: g + a + b, gradient, more_back, more_ahead)
        return y, z, (y_bar, z_bar), gradient

    y_bar = jax.tree.map(
        lambda y, bar: jnp.zeros_like(y) if bar is None else bar,
        y1,
        cotangents[0],
    )
    carry = (
        y1,
        z1,
        (y_bar, jax.tree.map(jnp.zeros_like, y1)),
        jax.tree.map(jnp.zeros_like, parameters),
    )
    _, _, (y_bar, z_bar), (args_bar, terms_bar) = jax.lax.fori_loop(0, count, undo, carry)
    return jax.tree.map(jnp.add, y_bar, z_bar), args_bar, terms_bar
