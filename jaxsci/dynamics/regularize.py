"""Penalties that make learnt dynamics easy to solve, as values: `NeuralODE(regulariser=…)`.

    LocalError       h · E or the stiffness of one step at one random time, through that step alone
    GlobalError      Σ |h| E over all accepted steps,         through the whole solve
    GlobalStiffness  Σ |h| S over all accepted steps,         through the whole solve
    STEER            no penalty: a random end time
    TaylorReg(K)     ∫ |dᴷy/dtᴷ|² dt / dim
    Kinetic          ∫ |f|² dt / dim

with E = ‖error estimate‖, scaled by the tolerances and root mean square over components, and
S = ‖k_s − k_{s−1}‖/‖g_s − g_{s−1}‖ from the last two stages g and their fields k = f(g).
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxsci.autodiff import jet

from .nde.problem import AbstractRegulariser, InitialValueProblem, NDEOutput, ReversibleAdjoint

Kind = Literal["error", "stiffness"]


class LocalError(AbstractRegulariser):
    """The error (or stiffness) of one step of the solver from y(t) at one random time t.

        penalty = h E(t, y(t), h),    gradient through this step only

    y(t) and the step h (the solver's automatic first step from there) are taken as given, so that
    the solve stays a closed box: any adjoint will do, and training costs one step more.

    - `sampling`: `"unbiased"` draws t uniformly from the span; `"biased"` from the solver's own
        step times, which crowd where the equation is hard. The latter needs an adjoint that can
        save steps (not `BacksolveAdjoint`), and memory for `max_steps` states.
    - `kind`: `"error"` or `"stiffness"` (S of the last two stages, for Runge-Kutta methods).

    y(t) is interpolated, so that the steps of the solve do not change, but for `ReversibleAdjoint`,
    with which a step ends at t.

    Pal, Edelman and Rackauckas, arXiv:2303.02262.

    **Raises:** `ValueError` for unknown options; in `solve`, for a solver without an error
    estimate, a controller without tolerances, a missing key, or an adjoint that cannot serve.
    """

    sampling: Literal["unbiased", "biased"] = eqx.field(default="unbiased", static=True)
    kind: Kind = eqx.field(default="error", static=True)

    def __check_init__(self):
        if self.sampling not in ("unbiased", "biased"):
            raise ValueError(f"sampling = {self.sampling!r}: expected 'unbiased' or 'biased'")
        _check_kind(self.kind)

    def solve(self, problem: InitialValueProblem, *, key: PRNGKeyArray | None) -> NDEOutput:
        """Solves as it stands and looks at one step."""
        key = _need_key("LocalError", key)
        _need_error_estimate(problem, self.kind)
        if self.sampling == "unbiased":
            t = jax.random.uniform(key, minval=problem.t0, maxval=problem.t1)
            ys, y, stats = self._with_one_more_time(problem, t)
        else:
            ys, t, y, stats = self._with_all_steps(problem, key)
        reg = local_penalty(problem, t, y, self.kind)
        return NDEOutput(ys, reg, stats)

    def _with_one_more_time(self, problem: InitialValueProblem, t: Array) -> Any:
        forwards = jnp.sign(jnp.asarray(problem.t1 - problem.t0, t.dtype))
        wanted = jnp.asarray(problem.t1, t.dtype)[None] if problem.ts is None else problem.ts
        place = jnp.searchsorted(forwards * wanted, forwards * t)
        # In increasing order, as diffrax wants it; a last time before t1 may come before t.
        ts = jnp.sort(forwards * jnp.append(wanted, t)) * forwards
        ys, stats = dataclasses.replace(problem, ts=ts).solve()
        rows = jnp.arange(wanted.shape[0])
        rows = rows + (rows >= place)
        kept = jax.tree.map(lambda a: a[rows[0]] if problem.ts is None else a[rows], ys)
        return kept, jax.tree.map(lambda a: a[place], ys), stats

    def _with_all_steps(self, problem: InitialValueProblem, key: PRNGKeyArray) -> Any:
        if isinstance(problem.adjoint, dfx.BacksolveAdjoint | ReversibleAdjoint):
            raise ValueError(
                f"adjoint: {type(problem.adjoint).__name__} keeps no steps to sample from; "
                "expected sampling='unbiased' with it"
            )
        save = dfx.SubSaveAt(t1=True) if problem.ts is None else dfx.SubSaveAt(ts=problem.ts)
        closed = lambda t, y, args: jax.lax.stop_gradient(y)  # noqa: E731
        steps = dfx.SubSaveAt(t0=True, steps=True, fn=closed)
        sol: Any = problem.diffeqsolve(dfx.SaveAt(subs={"wanted": save, "steps": steps}))
        ys = sol.ys["wanted"]
        ys = jax.tree.map(lambda a: a[0], ys) if problem.ts is None else ys
        # The last step time is the end, from where there is nothing to step to.
        row = jax.random.randint(key, (), 0, sol.stats["num_accepted_steps"])
        t = jax.lax.stop_gradient(sol.ts["steps"][row])
        return ys, t, jax.tree.map(lambda a: a[row], sol.ys["steps"]), sol.stats


def local_penalty(
    problem: InitialValueProblem, t: Array, y: PyTree[Array], kind: Kind = "error"
) -> Float[Array, ""]:
    """H E, or S, of one step from (t, y) with the solver's automatic first step size h.

    The gradient flows through the step only, not through h.

    **Raises:** `ValueError` for a solver without an error estimate or no tolerances.
    """
    _need_error_estimate(problem, kind)
    controller, solver = _tolerances(problem), problem.solver
    t, t1 = jnp.asarray(t), jnp.asarray(problem.t1)
    # Time is made to run forwards, as diffrax does.
    sign = jnp.where(problem.t1 >= problem.t0, 1.0, -1.0).astype(t.dtype)
    term = dfx.ODETerm(lambda s, y, args: _signed(sign, problem.term.vf(sign * s, y, args)))
    y = jax.lax.stop_gradient(y)
    stop, _ = controller.init(
        term,
        sign * t,
        sign * t1,
        y,
        None,
        problem.args,
        solver.func,
        solver.error_order(term),
    )
    stop = jax.lax.stop_gradient(jnp.where(stop > sign * t1, sign * t1, stop))
    state = solver.init(term, sign * t, stop, y, problem.args)
    y1, error, dense, _, _ = solver.step(
        term, sign * t, stop, y, problem.args, state, jnp.array(True)
    )
    if kind == "stiffness":
        return _stiffness(solver, dense, stop - sign * t)
    return (stop - sign * t) * _scaled_error(controller.rtol, controller.atol, y, y1, error)


class GlobalError(AbstractRegulariser):
    """Σ |h_j| E_j over the accepted steps, differentiated through the whole solve (ERNODE).

    Needs discretise-then-optimise: an adjoint of diffrax other than `BacksolveAdjoint`.

    Pal, Ma, Shah and Rackauckas, arXiv:2105.03918.

    **Raises:** in `solve`, `ValueError` as `LocalError`.
    """

    def solve(self, problem: InitialValueProblem, *, key: PRNGKeyArray | None) -> NDEOutput:
        """Solves with a solver that adds up its error."""
        return _accumulate(problem, "error")


class GlobalStiffness(AbstractRegulariser):
    """Σ |h_j| S_j over the accepted steps, differentiated through the whole solve (SRNODE).

    Pal, Ma, Shah and Rackauckas, arXiv:2105.03918.

    **Raises:** in `solve`, `ValueError` as `LocalError`.
    """

    def solve(self, problem: InitialValueProblem, *, key: PRNGKeyArray | None) -> NDEOutput:
        """Solves with a solver that adds up its stiffness."""
        return _accumulate(problem, "stiffness")


class STEER(AbstractRegulariser):
    """A random end of the span, t₁ ~ U(t₁ − b, t₁ + b), and no penalty.

    - `b`: less than the length of the span. A quarter of it is a good value.

    Ghosh and others, arXiv:2006.10711.

    **Raises:** `ValueError` for b ≤ 0; in `solve`, for a missing key, b too large, or `ts`.
    """

    b: float = 0.25

    def __check_init__(self):
        if not self.b > 0:
            raise ValueError(f"b = {self.b}: expected a positive number")

    def solve(self, problem: InitialValueProblem, *, key: PRNGKeyArray | None) -> NDEOutput:
        """Solves to the random end."""
        key = _need_key("STEER", key)
        if problem.ts is not None:
            raise ValueError("ts: expected None, as STEER moves the only time there is")
        length = jnp.abs(problem.t1 - problem.t0)
        t1 = problem.t1 + jax.random.uniform(key, minval=-self.b, maxval=self.b)
        t1 = eqx.error_if(t1, length <= self.b, "STEER: b is not less than the span")
        ys, stats = dataclasses.replace(problem, t1=t1).solve()
        return NDEOutput(ys, jnp.zeros(()), stats)


class _Quadrature(AbstractRegulariser):
    """∫ g(t, y) dt / dim, carried along as one more component of the state."""

    @abc.abstractmethod
    def density(self, field: Callable[[Any, Any], Any], t: Array, y: PyTree[Array]) -> Array:
        """g, from the field with its arguments filled in."""

    def solve(self, problem: InitialValueProblem, *, key: PRNGKeyArray | None) -> NDEOutput:
        """Solves the problem and the integral together, by the same steps and adjoint."""
        backwards = jnp.where(problem.t1 >= problem.t0, 1.0, -1.0)

        def augmented(t: Any, state: Any, packed: Any) -> Any:
            term, args = packed
            field = lambda t, y: term.vf(t, y, args)  # noqa: E731
            dim = ravel_pytree(state[0])[0].size
            return field(t, state[0]), self.density(field, t, state[0]) / dim * backwards

        y0 = jax.tree.map(jnp.asarray, problem.y0)
        zero = jnp.zeros((), jax.tree.leaves(y0)[0].dtype)
        ys, stats = dataclasses.replace(
            problem,
            term=dfx.ODETerm(augmented),
            y0=(y0, zero),
            args=(problem.term, problem.args),
        ).solve()
        reg = ys[1] if problem.ts is None else ys[1][-1]
        return NDEOutput(ys[0], reg, stats)


class TaylorReg(_Quadrature):
    """∫ |dᴷy/dtᴷ|² dt / dim along the solution, by Taylor mode (TayNODE).

    - `order`: K ≥ 1; that of the solver is a good value, 3 for `Bosh3`. 1 is `Kinetic`.

    Kelly, Bettencourt, Johnson and Duvenaud, arXiv:2007.04504.

    **Raises:** `ValueError` for an order < 1.
    """

    order: int = eqx.field(default=3, static=True)

    def __check_init__(self):
        if self.order < 1:
            raise ValueError(f"order = {self.order}: expected an integer >= 1")

    def density(self, field: Callable[[Any, Any], Any], t: Array, y: PyTree[Array]) -> Array:
        """|dᴷy/dtᴷ|², where y' = f(t, y)."""
        return jnp.sum(total_derivative(field, t, y, self.order) ** 2)


class Kinetic(_Quadrature):
    """∫ |f|² dt / dim along the solution: short paths at even speed (RNODE without its Jacobian).

    Finlay, Jacobsen, Nurbekyan and Oberman, arXiv:2002.02798.
    """

    def density(self, field: Callable[[Any, Any], Any], t: Array, y: PyTree[Array]) -> Array:
        """|f|²."""
        return jnp.sum(ravel_pytree(field(t, y))[0] ** 2)


def total_derivative(
    field: Callable[[Any, Any], Any], t: Array, y: PyTree[Array], order: int
) -> Float[Array, " dim"]:
    """dᴷy/dtᴷ of the solution of y' = f(t, y) through (t, y), flat, by jets of f.

    With x = (t, y), the first K − 1 derivatives of y determine the next one: one jet each.
    """
    flat, unravel = ravel_pytree(y)

    def autonomous(x: Float[Array, " dim_plus_1"]) -> Float[Array, " dim_plus_1"]:
        dy, _ = ravel_pytree(field(x[0], unravel(x[1:])))
        return jnp.concatenate([jnp.ones((1,), x.dtype), dy])

    x = jnp.concatenate([jnp.asarray(t, flat.dtype)[None], flat])
    derivatives: list[Array] = [autonomous(x)]
    while len(derivatives) < order:
        _, outs = jet(autonomous, x, derivatives)
        derivatives.append(outs[-1])
    return derivatives[-1][1:]


class _First(dfx.AbstractTerm):
    """The equation of y, from that of (y, r)."""

    term: dfx.AbstractTerm
    r: Array

    def vf(self, t: Any, y: Any, args: Any) -> Any:
        return self.term.vf(t, (y, self.r), args)[0]

    def contr(self, t0: Any, t1: Any, **kwargs: Any) -> Any:
        return self.term.contr(t0, t1, **kwargs)

    def prod(self, vf: Any, control: Any) -> Any:
        return self.term.prod((vf, jnp.zeros_like(self.r)), control)[0]


class _Accumulating(dfx.AbstractAdaptiveSolver):
    """A solver of (y, r) that moves y by the wrapped solver and r by |h| times E or S."""

    solver: dfx.AbstractSolver
    rtol: Any
    atol: Any
    kind: Kind = eqx.field(static=True)
    term_structure: ClassVar = dfx.AbstractTerm
    interpolation_cls: ClassVar = dfx.LocalLinearInterpolation

    def order(self, terms: Any) -> Any:
        return self.solver.order(terms)

    def error_order(self, terms: Any) -> Any:
        return self.solver.error_order(terms)

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        field = self.solver.func(_First(terms, y0[1]), t0, y0[0], args)
        return field, jnp.zeros_like(y0[1])

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        return self.solver.init(_First(terms, y0[1]), t0, t1, y0[0], args)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> Any:
        y1, error, dense, state, result = self.solver.step(
            _First(terms, y0[1]), t0, t1, y0[0], args, solver_state, made_jump
        )
        h = t1 - t0
        if self.kind == "stiffness":
            more = _stiffness(self.solver, dense, h)
        else:
            more = _scaled_error(self.rtol, self.atol, y0[0], y1, error)
        after = (y1, y0[1] + jnp.abs(h) * more)
        return after, (error, jnp.zeros_like(y0[1])), {"y0": y0, "y1": after}, state, result


def _accumulate(problem: InitialValueProblem, kind: Kind) -> NDEOutput:
    _need_error_estimate(problem, kind)
    if isinstance(problem.adjoint, dfx.BacksolveAdjoint | ReversibleAdjoint):
        raise ValueError(
            f"adjoint: {type(problem.adjoint).__name__} does not differentiate the error of the "
            "steps; expected one like RecursiveCheckpointAdjoint"
        )
    if problem.ts is not None:
        raise ValueError("ts: expected None, as the sum over steps belongs to one end")
    controller = _tolerances(problem)
    solver = _Accumulating(problem.solver, controller.rtol, controller.atol, kind)
    y0 = jax.tree.map(jnp.asarray, problem.y0)
    zero = jnp.zeros((), jax.tree.leaves(y0)[0].dtype)
    # The steps must be those of the solve without the sum.
    norm, term = controller.norm, problem.term

    def augmented(t: Any, state: Any, packed: Any) -> Any:
        term, args = packed
        return term.vf(t, state[0], args), jnp.zeros_like(state[1])

    only_y = dataclasses.replace(controller, norm=lambda state: norm(state[0]))
    ys, stats = dataclasses.replace(
        problem,
        term=dfx.ODETerm(augmented),
        y0=(y0, zero),
        args=(term, problem.args),
        solver=solver,
        controller=only_y,
    ).solve()
    return NDEOutput(ys[0], ys[1], stats)


def _scaled_error(rtol: Any, atol: Any, y0: Any, y1: Any, error: Any) -> Array:
    def scale(a: Array, b: Array, e: Array) -> Array:
        size = jnp.maximum(jnp.abs(a), jnp.abs(b))
        return e / (atol + rtol * size)

    return optx.rms_norm(jax.tree.map(scale, y0, y1, error))


def _stiffness(solver: Any, dense: Any, h: Array) -> Array:
    """‖k_s − k_{s−1}‖/‖g_s − g_{s−1}‖; diffrax keeps h k for every stage."""
    rows = [jnp.asarray(row) for row in solver.tableau.a_lower[-2:]]
    stages = dense["k"]

    def place(k: Array, row: Array) -> Array:
        return jnp.tensordot(row.astype(k.dtype), k[: row.shape[0]], 1)

    fields = jax.tree.map(lambda k: k[-1] - k[-2], stages)
    places = jax.tree.map(lambda k: place(k, rows[1]) - place(k, rows[0]), stages)
    above, below = optx.rms_norm(fields), optx.rms_norm(places)
    still = below == 0
    return jnp.where(still, 0, above / jnp.where(still, 1, h * below))


def _signed(sign: Array, tree: Any) -> Any:
    return jax.tree.map(lambda a: sign.astype(a.dtype) * a, tree)


def _tolerances(problem: InitialValueProblem) -> dfx.PIDController:
    controller = problem.controller
    if isinstance(controller, dfx.ClipStepSizeController):
        controller = controller.controller
    if not isinstance(controller, dfx.PIDController):
        raise ValueError(
            f"controller: expected one with tolerances (PIDController), "
            f"got {type(controller).__name__}"
        )
    return controller


def _check_kind(kind: str) -> None:
    if kind not in ("error", "stiffness"):
        raise ValueError(f"kind = {kind!r}: expected 'error' or 'stiffness'")


def _need_key(name: str, key: PRNGKeyArray | None) -> PRNGKeyArray:
    if key is None:
        raise ValueError(f"{name}: expected a key, got None")
    return key


def _need_error_estimate(problem: InitialValueProblem, kind: Kind) -> None:
    _tolerances(problem)
    solver = problem.solver
    if not isinstance(problem.term, dfx.ODETerm):
        raise ValueError(f"term: expected an ODETerm, got {type(problem.term).__name__}")
    if not isinstance(solver, dfx.AbstractAdaptiveSolver):
        raise ValueError(
            f"solver: expected one with an error estimate, got {type(solver).__name__}"
        )
    if kind == "stiffness" and not isinstance(solver, dfx.AbstractERK):
        raise ValueError(
            f"solver: stiffness is that of an explicit Runge-Kutta method, "
            f"got {type(solver).__name__}"
        )
