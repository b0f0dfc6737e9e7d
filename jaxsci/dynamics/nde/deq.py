"""Deep equilibrium models: a layer that is applied until nothing changes any more.

z* = f(z*, x),   the end of dz/dt = f(z, x) − z if that settles
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx
from jaxtyping import Array, PyTree

from .problem import NDEOutput


class DEQ(eqx.Module):
    """The readout of z*, where z* = f(z*, x).

    The gradient is that of the implicit function theorem: with v the cotangent of z*,

        w = v + (∂f/∂z)ᵀ w,    x̄ = (∂f/∂x)ᵀ w,    θ̄ = (∂f/∂θ)ᵀ w

    at z* alone, so that neither memory nor the gradient depends on how z* was found.

    - `field`: f, a module or a function `(z, x) -> z`; z may be any pytree. A layer that contracts
        (linear maps with singular values below 1) has one fixed point, and iteration finds it.
    - `start`: z where the search begins; its shape is that of z. Not learnt.
    - `readout`: of z*; by default z* itself.
    - `solver`: of optimistix: `FixedPointIteration` for contractions, `Newton` for short z.
    - `linear_solver`: of lineax, for w. By default the Jacobian is written out; for long z take
        `lineax.GMRES(rtol, atol)`, which needs products only.
    - `max_steps`: iterations after which the search is given up.

    Bai, Kolter and Koltun, arXiv:1909.01377; Kidger, arXiv:2202.02435.

    **Raises:** `ValueError` for a solver of another kind, `max_steps` < 1, and a field whose result
    is not of the shape of z; at run time, if there is no fixed point to the solver's tolerance
    after `max_steps` iterations, or none at all. This check belongs to the value: a program that is
    compiled for the gradient alone drops it, so take `value_and_grad` and use the value.
    """

    field: Callable[[Any, Any], Any]
    start: PyTree[Array] = eqx.field(converter=lambda z: jax.tree.map(jnp.asarray, z))
    readout: Callable[[Any], Any] = lambda z: z
    solver: optx.AbstractFixedPointSolver | optx.AbstractRootFinder = optx.FixedPointIteration(
        rtol=1e-5, atol=1e-5
    )
    linear_solver: lx.AbstractLinearSolver = lx.AutoLinearSolver(well_posed=None)
    max_steps: int = eqx.field(default=256, static=True)

    def __check_init__(self):
        if not isinstance(self.solver, optx.AbstractFixedPointSolver | optx.AbstractRootFinder):
            raise ValueError(
                f"solver = {self.solver!r}: expected a fixed point solver or root finder of "
                "optimistix"
            )
        if self.max_steps < 1:
            raise ValueError(f"max_steps = {self.max_steps}: expected an integer >= 1")

    def __call__(self, x: Any, *, start: PyTree[Array] | None = None) -> NDEOutput:
        """Finds z* for one x.

        **Arguments:**

        - `x`: the input, any pytree.
        - `start`: begins the search elsewhere, for instance at the z* of a similar x.

        **Returns:** `NDEOutput(ys, reg, stats)`: the readout, 0, and the number of steps.
        """
        start = jax.lax.stop_gradient(self.start if start is None else start)
        found = jax.eval_shape(self.field, start, x)
        expected = jax.eval_shape(lambda: start)
        if found != expected:
            raise ValueError(f"field: expected a result like z, {expected}, got {found}")
        solution = optx.fixed_point(
            lambda z, packed: packed[0](z, packed[1]),
            self.solver,
            start,
            (self.field, x),
            max_steps=self.max_steps,
            adjoint=optx.ImplicitAdjoint(self.linear_solver),
        )
        steps = {"num_steps": solution.stats["num_steps"]}
        return NDEOutput(self.readout(solution.value), jnp.zeros(()), steps)
