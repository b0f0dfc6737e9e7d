"""Reversible solvers: any explicit method, made invertible step by step.

    y' = l y + (1 − l) z + Ψ_h(t, z),    z' = z − Ψ_{−h}(t', y')

with the increment Ψ of the method, z₀ = y₀. A step is undone by z = z' + Ψ_{−h}(t', y') and
y = (y' − (1 − l) z − Ψ_h(t, z))/l, so that a gradient needs no memory of the steps.
"""

from typing import Any

import diffrax as dfx
import jax

from .stepper import AbstractWMethod


class Reversible(dfx.AbstractAdaptiveSolver):
    """Makes an explicit solver algebraically reversible, at its order and twice its cost.

    - `solver`: any explicit solver of diffrax or of this room.
    - `l`: coupling, 0 < l ≤ 1. Errors of reconstruction grow as l⁻ⁿ over n steps: 0.999 is good for
        thousands in float64; l = 1 does not grow but is less stable forwards.

    McCallum and Foster, arXiv:2410.11648.

    **Raises:** `ValueError` for an implicit solver and for l out of range.
    """

    solver: dfx.AbstractSolver
    l: float = 0.999

    def __check_init__(self):
        if isinstance(self.solver, dfx.AbstractImplicitSolver | AbstractWMethod):
            raise ValueError(
                f"solver: expected an explicit one, got {type(self.solver).__name__}, whose "
                "iteration cannot be undone"
            )
        if not 0 < self.l <= 1:
            raise ValueError(f"l = {self.l}: expected a number with 0 < l <= 1")

    @property
    def term_structure(self) -> Any:
        return self.solver.term_structure

    @property
    def term_compatible_contr_kwargs(self) -> Any:
        return self.solver.term_compatible_contr_kwargs

    @property
    def interpolation_cls(self) -> Any:
        return dfx.LocalLinearInterpolation

    def order(self, terms: Any) -> Any:
        """Order of the wrapped solver."""
        return self.solver.order(terms)

    def strong_order(self, terms: Any) -> Any:
        """Strong order of the wrapped solver."""
        return self.solver.strong_order(terms)

    def error_order(self, terms: Any) -> Any:
        """Error order of the wrapped solver."""
        return self.solver.error_order(terms)

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """The vector field."""
        return self.solver.func(terms, t0, y0, args)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """z₀ = y₀."""
        return y0

    def increment(self, terms: Any, t0: Any, t1: Any, y: Any, args: Any) -> tuple[Any, Any, Any]:
        """Ψ(y) of the wrapped solver from t0 to t1, its error estimate and its result."""
        state = self.solver.init(terms, t0, t1, y, args)
        # A field that was kept from the step before would not be there on the way back.
        y1, error, _, _, result = self.solver.step(terms, t0, t1, y, args, state, True)
        return jax.tree.map(lambda a, b: a - b, y1, y), error, result

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Any, Any, dict[str, Any], Any, dfx.RESULTS]:
        """One step of the pair."""
        y, z, error, result = self.forward(terms, t0, t1, y0, solver_state, args)
        return y, error, {"y0": y0, "y1": y}, z, result

    def forward(
        self, terms: Any, t0: Any, t1: Any, y: Any, z: Any, args: Any
    ) -> tuple[Any, Any, Any, Any]:
        """The pair at t1, an error estimate and a result."""
        ahead, error, result = self.increment(terms, t0, t1, z, args)
        y1 = jax.tree.map(lambda y, z, d: self.l * y + (1 - self.l) * z + d, y, z, ahead)
        back, _, _ = self.increment(terms, t1, t0, y1, args)
        return y1, jax.tree.map(lambda z, d: z - d, z, back), error, result

    def backward(
        self, terms: Any, t0: Any, t1: Any, y1: Any, z1: Any, args: Any
    ) -> tuple[Any, Any]:
        """The pair at t0 from that at t1: the inverse of `forward`."""
        back, _, _ = self.increment(terms, t1, t0, y1, args)
        z = jax.tree.map(lambda z, d: z + d, z1, back)
        ahead, _, _ = self.increment(terms, t0, t1, z, args)
        y = jax.tree.map(lambda y, z, d: (y - (1 - self.l) * z - d) / self.l, y1, z, ahead)
        return y, z
