"""Hypersolvers: a cheap explicit step, and a network that knows the error it makes.

    y₁ = y₀ + h Ψ_h(t₀, y₀) + h^(p+1) g(h, t₀, y₀, f(t₀, y₀), args),    p the order of Ψ

The network is fitted to the residual of the local error, R = (Φ_h(y₀) − y₀ − h Ψ_h)/h^(p+1), with
the exact flow Φ. Where |R − g| ≤ δ, the local error is at most δ h^(p+1): the order is that of Ψ,
with a constant δ instead of |R|.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._abstract import AbstractVar

Correction = Callable[[Any, Any, Any, Any, Any], Any]
InnerCorrection = Callable[[Any, Any, Any, Any], Any]


class AbstractHyperSolver(dfx.AbstractSolver):
    """An explicit Runge-Kutta step with a correction, as a solver for diffrax at constant steps.

    **Raises:** `ValueError` for a base that is not `diffrax.Euler` or an explicit Runge-Kutta
    method, and for a correction whose shape is not that of y; a runtime error for steps that differ
    from `h` by more than a thousandth; what diffrax raises for an adaptive controller, as there is
    no error estimate.
    """

    base: AbstractVar[dfx.AbstractSolver]
    hypernet: AbstractVar[Correction]
    h: AbstractVar[float | None]
    term_structure: ClassVar = dfx.AbstractTerm
    interpolation_cls: ClassVar = dfx.LocalLinearInterpolation

    def __check_init__(self):
        if not isinstance(self.base, dfx.Euler | dfx.AbstractERK):
            raise ValueError(
                "base: expected diffrax.Euler or an explicit Runge-Kutta method, got "
                f"{type(self.base).__name__}"
            )

    def model(self, terms: Any) -> Any:
        """The term that the base solves."""
        return terms

    def order(self, terms: Any) -> int:
        """Order of the base."""
        order = self.base.order(terms)
        assert order is not None
        return order

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """The vector field that the base solves."""
        return self.model(terms).vf(t0, y0, args)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> None:
        """Nothing."""
        return None

    def uncorrected(
        self, model: Any, t0: Any, t1: Any, y0: Any, args: Any
    ) -> tuple[Any, Any, dfx.RESULTS]:
        """The base's step of a term, the field at its start (evaluated once), and a result."""
        control = model.contr(t0, t1)
        if isinstance(self.base, dfx.Euler):
            dy = model.vf(t0, y0, args)
            y1 = jax.tree.map(lambda y, d: y + d, y0, model.prod(dy, control))
            return y1, dy, dfx.RESULTS.successful
        # The corrected y₁ is not where a method with "first same as last" has evaluated the field.
        state = self.base.init(model, t0, t1, y0, args)
        y1, _, dense, _, result = self.base.step(model, t0, t1, y0, args, state, True)
        return y1, jax.tree.map(lambda k: k[0] / control, dense["k"]), result

    def correction(self, h: Any, t: Any, y: Any, dy: Any, args: Any) -> Any:
        """What the network says of the residual, g(h, t, y, f(t, y), args)."""
        g = self.hypernet(h, t, y, dy, args)
        got, expected = jax.tree.map(jnp.shape, g), jax.tree.map(jnp.shape, y)
        if got != expected:
            raise ValueError(f"hypernet: expected a result of shape {expected}, as y, got {got}")
        return g

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Any, None, dict[str, Any], None, dfx.RESULTS]:
        """One corrected step."""
        h = t1 - t0
        if self.h is not None:
            # The last step of a solve is shorter by rounding.
            other = jnp.abs(h - self.h) > 1e-3 * abs(self.h)
            h = eqx.error_if(h, other, f"the hypernet was trained with steps of {self.h}")
        y1, dy, result = self.uncorrected(self.model(terms), t0, t1, y0, args)
        g = self.correction(h, t0, y0, dy, args)
        scale = h ** (self.order(terms) + 1)
        y1 = jax.tree.map(lambda y, g: y + scale * g, y1, g)
        return y1, None, {"y0": y0, "y1": y1}, None, result


class HyperSolver(AbstractHyperSolver):
    """An explicit Runge-Kutta method whose local error a network corrects.

    - `base`: `diffrax.Euler()` or any explicit Runge-Kutta method, such as `diffrax.Midpoint()`.
    - `hypernet`: `g(h, t, y, dy, args)`, of the shape of y. `dy` is f(t, y, args), which the step
        needs anyway.
    - `h`: the step that the network was trained with, if it was only one; others are refused.

    Worth its while where evaluations of f cost more than the network, and where many solves with
    large steps of nearby problems are to come: gradients through closed loops, control.

    Berto, Massaroli, Poli and Park, arXiv:2203.08072; Poli and others, arXiv:2007.09601.
    """

    base: dfx.AbstractSolver
    hypernet: Correction
    h: float | None = None


class MultistageHyperSolver(AbstractHyperSolver):
    """A hypersolver for dynamics that are known in part: f + `inner` is solved, and corrected.

    - `base`, `hypernet`, `h`: as in `HyperSolver`.
    - `inner`: `(t, y, dy, args) -> correction of dy`, what the known field leaves out. It is
        evaluated in every stage of the base.

    Berto, Massaroli, Poli and Park, arXiv:2203.08072.
    """

    base: dfx.AbstractSolver
    inner: InnerCorrection
    hypernet: Correction
    h: float | None = None

    def model(self, terms: Any) -> Any:
        def field(t: Any, y: Any, args: Any) -> Any:
            dy = terms.vf(t, y, args)
            return jax.tree.map(lambda a, b: a + b, dy, self.inner(t, y, dy, args))

        return dfx.ODETerm(field)


def step_residual(
    solver: AbstractHyperSolver,
    terms: Any,
    h: Any,
    y: PyTree[Array],
    args: Any = None,
    *,
    t: Any = 0.0,
    reference: dfx.AbstractSolver | None = None,
    steps: int = 2,
    truth: Any = None,
) -> tuple[PyTree[Array], PyTree[Array]]:
    """The residual of the local error, R = (Φ_h(y) − y − h Ψ_h(t, y))/h^(p+1), and g beside it.

    Both increments are computed as such, from a start at 0, so that the digits of y are not lost in
    the difference of two nearby states.

    **Arguments:**

    - `solver`: whose base and network are meant.
    - `terms`: an ODE term. `args` may hold a control, which is constant over the step.
    - `h`, `t`: the step and where it starts.
    - `y`: the state.
    - `reference`: an explicit solver for Φ, by default `diffrax.Dopri8()`, in `steps` equal steps.
    - `truth`: the term that Φ belongs to, where `terms` is known in part only.

    **Returns:** (R, g), each of the shape of y.

    **Raises:** `ValueError` for `steps` < 1.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: expected an integer >= 1")
    chosen = dfx.Dopri8() if reference is None else reference

    def from_zero(term: Any) -> Any:
        shift = lambda d: jax.tree.map(lambda a, b: a + b, y, d)  # noqa: E731
        return dfx.ODETerm(lambda t, d, args: term.vf(t, shift(d), args))

    zero = jax.tree.map(jnp.zeros_like, y)
    exact = from_zero(terms if truth is None else truth)

    def advance(d: Any, k: Any) -> tuple[Any, None]:
        start, stop = t + k * h / steps, t + (k + 1) * h / steps
        state = chosen.init(exact, start, stop, d, args)
        return chosen.step(exact, start, stop, d, args, state, True)[0], None

    far, _ = jax.lax.scan(advance, zero, jnp.arange(steps))
    near, dy, _ = solver.uncorrected(from_zero(solver.model(terms)), t, t + h, zero, args)
    scale = h ** (solver.order(terms) + 1)
    residual = jax.tree.map(lambda a, b: (a - b) / scale, far, near)
    return residual, solver.correction(h, t, y, dy, args)


def residual_loss(
    solver: AbstractHyperSolver,
    terms: Any,
    h: Any,
    y: PyTree[Array],
    args: Any = None,
    **kwargs: Any,
) -> Float[Array, ""]:
    """Mean square of R − g over a batch: what a hypersolver is trained with.

    **Arguments:**

    - `y`, `args`: states and arguments (controls) with a leading axis of the batch; the states
        should come from a larger box than the trajectories will fill.
    - the rest as in `step_residual`.

    **Returns:** the loss. Only the hypernet has a gradient worth following; R is held fixed.
    """

    def one(y: Any, args: Any) -> Array:
        residual, g = step_residual(solver, terms, h, y, args, **kwargs)
        squares = jax.tree.map(
            lambda r, g: jnp.mean((jax.lax.stop_gradient(r) - g) ** 2), residual, g
        )
        return jnp.mean(jnp.stack(jax.tree.leaves(squares)))

    return jnp.mean(jax.vmap(one)(y, args))
