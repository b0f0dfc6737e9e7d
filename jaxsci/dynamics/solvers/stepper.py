"""The step of every linearly implicit method: one Jacobian, one factorisation, a solve a stage."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
from equinox import AbstractVar
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Inexact, PyTree

from .tableau import WTableau

Jacobian = Literal["exact", "frozen", "matrix-free"] | Callable[[Any, Any, Any], Any]


class StageInterpolation(dfx.AbstractLocalInterpolation):
    """y(θ) = y₀ + Σ_k θᵏ p_k, θ = (t − t₀)/(t₁ − t₀): dense output from the stages of a step."""

    t0: Any
    t1: Any
    y0: PyTree[Array]
    p: tuple[PyTree[Array], ...]

    def evaluate(self, t0: Any, t1: Any | None = None, left: bool = True) -> PyTree[Array]:
        """The solution at `t0`, or what it grows by from `t0` to `t1`."""
        if t1 is not None:
            return jax.tree.map(lambda a, b: b - a, self.evaluate(t0), self.evaluate(t1))
        span = self.t1 - self.t0
        theta = (t0 - self.t0) / jnp.where(span == 0, 1, span)

        def horner(y0: Array, *p: Array) -> Array:
            total = jnp.zeros_like(y0)
            for coefficient in reversed(p):
                total = (total + coefficient) * theta.astype(y0.real.dtype)
            return y0 + total

        return jax.tree.map(horner, self.y0, *self.p)


class AbstractWMethod(dfx.AbstractAdaptiveSolver):
    """Linearly implicit methods for stiff equations M y' = f(t, y), as solvers for diffrax.

        (M − γₛ h J) uₛ = h f(t + αₛ h, y + Σ aₛᵣ uᵣ) + M Σ cₛᵣ uᵣ + dₛ h² f_t,  y₁ = y + Σ bₛ uₛ

    J is computed and M − γ h J factorised once a step. There is no Newton iteration, so nothing to
    converge and no tolerance but that of the step size controller.

    **Arguments** (all by keyword):

    - `jacobian`: `"exact"` (dense, by forward differentiation); `"matrix-free"` (only products,
        for `linear_solver=lineax.GMRES(rtol, atol)` and the like); `"frozen"` (of the start, kept;
        for W-methods); or a function (t, y, args) -> `lineax.AbstractLinearOperator` for the
        Jacobian of f, for instance a `lineax.TridiagonalLinearOperator` or a `BandedOperator`.
    - `linear_solver`: of lineax; the default chooses by the operator's structure (dense: LU).
    - `mass`: constant M as a matrix (acting on the raveled y) or a lineax operator; `None` is the
        identity. It may be singular (index 1, consistent initial values); then give `dt0` too.
    - `time_derivative`: whether to use f_t. Without it, a Rosenbrock method is right only for
        autonomous equations, a W-method keeps its order but loses accuracy on stiff ones.
    - `refresh`: accepted steps that share a `"frozen"` Jacobian; `None` computes it once, and again
        after jumps.

    The y of the equation may be any pytree of real or of complex arrays (then f must be
    holomorphic). Where a solve fails, or the step is not finite, an adaptive controller takes
    smaller steps, and with constant steps the result is `RESULTS.singular`.

    **Raises:** `ValueError` for an unknown `jacobian`, `refresh` without a frozen one, a mass of a
    wrong shape, equations with noise, and operators that do not fit y.
    """

    jacobian: Jacobian = eqx.field(default="exact", kw_only=True)
    linear_solver: lx.AbstractLinearSolver = eqx.field(
        default=lx.AutoLinearSolver(True), kw_only=True
    )
    mass: Any = eqx.field(default=None, kw_only=True)
    time_derivative: bool = eqx.field(default=True, kw_only=True)
    refresh: int | None = eqx.field(default=None, kw_only=True)

    term_structure: ClassVar = dfx.AbstractTerm

    if TYPE_CHECKING:  # else a type checker takes it for an argument
        tableau: ClassVar[Any]
    else:
        tableau: AbstractVar[WTableau]

    def __check_init__(self):
        if not (callable(self.jacobian) or self.jacobian in ("exact", "frozen", "matrix-free")):
            raise ValueError(
                f"jacobian = {self.jacobian!r}: expected 'exact', 'frozen', 'matrix-free' or a "
                "function (t, y, args) -> lineax operator"
            )
        if self.refresh is not None:
            if self.jacobian != "frozen":
                raise ValueError("refresh: only jacobian='frozen' has something to refresh")
            if not (isinstance(self.refresh, int) and self.refresh >= 1):
                raise ValueError(f"refresh = {self.refresh!r}: expected an integer >= 1")
        if self.mass is not None and not isinstance(self.mass, lx.AbstractLinearOperator):
            shape = np.shape(self.mass)
            if len(shape) != 2 or shape[0] != shape[1]:
                raise ValueError(f"mass: expected a square matrix, got the shape {shape}")
        solver = self.linear_solver
        if not isinstance(solver, lx.AbstractLinearSolver):
            raise ValueError(f"linear_solver = {solver!r}: expected a solver of lineax")

    @property
    def interpolation_cls(self) -> Any:
        return StageInterpolation

    def order(self, terms: Any) -> int:
        """Order of convergence."""
        return self.tableau.order

    def error_order(self, terms: Any) -> int:
        """Order of the local error estimate."""
        return self.tableau.error_order

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """f(t, y)."""
        return terms.vf(t0, y0, args)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """The frozen Jacobian with its age in steps; else nothing."""
        if any(
            isinstance(leaf, dfx.AbstractBrownianPath)
            for leaf in jax.tree.leaves(
                terms, is_leaf=lambda x: isinstance(x, dfx.AbstractBrownianPath)
            )
        ):
            raise ValueError("linearly implicit methods solve equations without noise")
        leaves = [jnp.result_type(leaf) for leaf in jax.tree.leaves(y0)]
        complex_leaves = [jnp.issubdtype(d, jnp.complexfloating) for d in leaves]
        if any(complex_leaves) and not all(complex_leaves):
            raise ValueError(f"y0: expected all arrays real or all complex, got {leaves}")
        if self.jacobian != "frozen":
            return None
        return _jacobian(terms, t0, y0, args), jnp.zeros((), jnp.int32)

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Any,
        args: Any,
        solver_state: Any,
        made_jump: Any,
    ) -> tuple[Any, Any, dict[str, Any], Any, dfx.RESULTS]:
        """One step from t0 to t1."""
        tableau, dt = self.tableau, t1 - t0
        control = terms.contr(t0, t1)
        y, unravel = ravel_pytree(y0)

        def field(t: Any, z: Array) -> Array:
            """H f, between raveled arrays."""
            return ravel_pytree(terms.vf_prod(t, unravel(z), args, control))[0]

        if self.time_derivative:
            slope, drift = jax.jvp(lambda t: field(t, y), (t0,), (dt,))
        else:
            slope, drift = field(t0, y), None
        system, solver_state = self._linearise(
            terms, field, (t0, dt, y0, args, control), solver_state, made_jump
        )
        solves = {g: system.factorise(g, self.linear_solver) for g in set(tableau.gamma.tolist())}

        # Stages that evaluate f at the same point share the value.
        slopes = {tableau.a[0].tobytes(): slope}
        stages: list[Array] = []
        result = dfx.RESULTS.successful
        for s, gamma in enumerate(tableau.gamma.tolist()):
            terms_of_right = []
            coupled = _combine(tableau.c[s], stages)
            if coupled is not None:
                terms_of_right.append(system.apply_mass(coupled))
            if tableau.evaluate[s]:
                point = tableau.a[s].tobytes()
                if point not in slopes:
                    increment = _combine(tableau.a[s], stages)
                    z = y if increment is None else y + increment
                    slopes[point] = field(_time(t0, t1, float(tableau.alpha[s])), z)
                terms_of_right.append(slopes[point])
            if drift is not None and abs(tableau.d[s]) > 1e-12:
                terms_of_right.append(float(tableau.d[s]) * drift)
            stage, solved = solves[gamma](sum(terms_of_right[1:], terms_of_right[0]))
            result = dfx.RESULTS.where(result == dfx.RESULTS.successful, solved, result)
            stages.append(stage)

        y1 = y + _combine(tableau.b, stages)
        result = dfx.RESULTS.where(
            jnp.all(jnp.isfinite(y1)) | (result != dfx.RESULTS.successful), result, _SINGULAR
        )
        okay = result == dfx.RESULTS.successful
        error = jnp.where(okay, _combine(tableau.b_error, stages), jnp.inf)
        dense = tuple(unravel(_combine(row, stages)) for row in tableau.dense)
        return unravel(y1), unravel(error), {"y0": y0, "p": dense}, solver_state, result

    def _linearise(
        self,
        terms: Any,
        field: Callable[[Any, Array], Array],
        at: tuple[Any, ...],
        state: Any,
        jump: Any,
    ) -> tuple["_System", Any]:
        """M and h J at the start of the step, and the solver's next state."""
        t0, dt, y0, args, control = at
        y, unravel = ravel_pytree(y0)
        if callable(self.jacobian):
            h = _step_size(control)
            # Backwards in time, diffrax runs on −t.
            operator = self.jacobian(jnp.where(h * dt < 0, -t0, t0), y0, args)
            return _System(self._mass_like(y0), _times(h, operator, y0), unravel, True), state
        if self.jacobian == "matrix-free":
            _, push = jax.linearize(lambda z: field(t0, z), y)
            structure = jax.ShapeDtypeStruct(y.shape, y.dtype)
            operator = lx.FunctionLinearOperator(push, structure)
        elif self.jacobian == "frozen":
            matrix, age = state
            if self.refresh is not None or jump is not False:
                old = False if self.refresh is None else age >= self.refresh
                fresh = lambda: (_jacobian(terms, t0, y0, args), jnp.zeros_like(age))  # noqa: E731
                matrix, age = jax.lax.cond(jnp.asarray(jump) | old, fresh, lambda: (matrix, age))
            state = matrix, age + 1
            operator = lx.MatrixLinearOperator(_step_size(control) * matrix)
        else:
            operator = lx.MatrixLinearOperator(_columns(lambda z: field(t0, z), y))
        return _System(self._raveled_mass(y, unravel), operator, unravel, False), state

    def _mass_like(self, y0: Any) -> lx.AbstractLinearOperator | None:
        """M on arrays as y, for operators that act on them."""
        if self.mass is None or isinstance(self.mass, lx.AbstractLinearOperator):
            mass = self.mass
        else:
            mass = lx.MatrixLinearOperator(jnp.asarray(self.mass))
        structure = jax.eval_shape(lambda: y0)
        if mass is not None and mass.in_structure() != structure:
            raise ValueError(
                f"mass: expected an operator on {structure}, got {mass.in_structure()}"
            )
        return mass

    def _raveled_mass(self, y: Array, unravel: Any) -> lx.AbstractLinearOperator | None:
        """M on raveled arrays."""
        if self.mass is None:
            return None
        if isinstance(self.mass, lx.AbstractLinearOperator):
            mass = self.mass
            if mass.in_size() == y.size and self.jacobian == "matrix-free":
                structure = jax.ShapeDtypeStruct(y.shape, y.dtype)
                return lx.FunctionLinearOperator(
                    lambda v: ravel_pytree(mass.mv(unravel(v)))[0], structure
                )
            matrix = mass.as_matrix()
        else:
            matrix = jnp.asarray(self.mass)
        if matrix.shape != (y.size, y.size):
            raise ValueError(f"mass: expected shape {(y.size, y.size)}, got {matrix.shape}")
        return lx.MatrixLinearOperator(matrix.astype(y.dtype))


class _System(eqx.Module):
    """M − γ h J for any γ, between raveled arrays; M = `None` is the identity."""

    mass: lx.AbstractLinearOperator | None
    jacobian: lx.AbstractLinearOperator
    unravel: Any
    structured: bool

    def apply_mass(self, v: Array) -> Array:
        if self.mass is None:
            return v
        if self.structured:
            return ravel_pytree(self.mass.mv(self.unravel(v)))[0]
        return self.mass.mv(v)

    def factorise(self, gamma: float, solver: lx.AbstractLinearSolver) -> Any:
        """V ↦ (M − γ h J)⁻¹ v with a result code; the factorisation is made here, once."""
        mass, jacobian = self.mass, self.jacobian
        dense = lx.MatrixLinearOperator
        if isinstance(jacobian, dense) and (mass is None or isinstance(mass, dense)):
            n = jacobian.in_size()
            left = jnp.eye(n, dtype=jacobian.matrix.dtype) if mass is None else mass.as_matrix()
            operator: Any = dense(left - gamma * jacobian.matrix)
        else:
            if mass is None:
                mass = lx.IdentityLinearOperator(jacobian.in_structure())
            operator = mass - gamma * jacobian
        state = solver.init(operator, options={})
        dynamic, static = eqx.partition(state, eqx.is_array)
        state = eqx.combine(jax.lax.stop_gradient(dynamic), static)

        def solve(v: Array) -> tuple[Array, dfx.RESULTS]:
            right = self.unravel(v) if self.structured else v
            solution = lx.linear_solve(operator, right, solver, state=state, throw=False)
            value = ravel_pytree(solution.value)[0]
            return value, dfx.RESULTS.promote(optx.RESULTS.promote(solution.result))

        return solve


_SINGULAR = dfx.RESULTS.promote(optx.RESULTS.promote(lx.RESULTS.singular))


def _combine(weights: Any, stages: list[Array]) -> Any:
    """Σ weights·stages without the zeros, or `None`."""
    total = None
    for weight, stage in zip(weights, stages, strict=False):
        if weight != 0:
            product = float(weight) * stage
            total = product if total is None else total + product
    return total


def _time(t0: Any, t1: Any, alpha: float) -> Any:
    # No rounding where a stage lies at an end of the step.
    if abs(alpha) < 1e-12:
        return t0
    return t1 if abs(alpha - 1) < 1e-12 else t0 + alpha * (t1 - t0)


def _step_size(control: Any) -> Any:
    if jax.tree.structure(control) != jax.tree.structure(0) or jnp.shape(control) != ():
        raise ValueError("a given or frozen Jacobian needs one ODETerm, whose control is a number")
    return control


def _times(h: Any, operator: Any, y0: Any) -> lx.AbstractLinearOperator:
    structure = jax.eval_shape(lambda: y0)
    if not isinstance(operator, lx.AbstractLinearOperator):
        raise ValueError(f"jacobian: expected it to return a lineax operator, got {operator!r}")
    for found in (operator.in_structure(), operator.out_structure()):
        if found != structure:
            raise ValueError(f"jacobian: expected an operator on {structure}, got {found}")
    if isinstance(operator, lx.MatrixLinearOperator):
        return lx.MatrixLinearOperator(h * operator.matrix, operator.tags)
    return h * operator


def _columns(field: Callable[[Array], Array], y: Array) -> Inexact[Array, "n n"]:
    basis = jnp.eye(y.size, dtype=y.dtype)
    return jax.vmap(lambda v: jax.jvp(field, (y,), (v,))[1], out_axes=1)(basis)


def _jacobian(terms: Any, t0: Any, y0: Any, args: Any) -> Inexact[Array, "n n"]:
    y, unravel = ravel_pytree(y0)
    return _columns(lambda z: ravel_pytree(terms.vf(t0, unravel(z), args))[0], y)
