"""The fourth-order Hermite method of stellar dynamics, for q̈ = a(t, q, v) with its jerk j = ȧ.

predict    q_p = q + h v + h² a/2 + h³ j/6,    v_p = v + h a + h² j/2
evaluate   a₁, j₁ at (q_p, v_p)
correct    v₁ = v + h (a + a₁)/2 + h² (j − j₁)/12
           q₁ = q + h (v + v₁)/2 + h² (a − a₁)/12
"""

from typing import Any, ClassVar

import diffrax as dfx
import jax
import jax.numpy as jnp


class Hermite4(dfx.AbstractAdaptiveSolver):
    """Order 4 with one evaluation of the acceleration and its jerk a step.

    The term's field is f(t, (q, v), args) = (v, a). The jerk is its derivative along the solution,
    by forward mode, which costs about as much as a itself. What is evaluated at the prediction
    also serves the next step, as is usual (P(EC)¹).

    The error estimate is what the third derivative of a, by Hermite interpolation, contributes to
    the step: h⁴ a⁽³⁾/24 to v and h⁵ a⁽³⁾/120 to q. So `diffrax.PIDController` can drive it; `NBody`
    has a `time_scale` for step sizes without one.

    Makino and Aarseth, PASJ 44 (1992) 141.

    **Raises:** `ValueError` for a state that is not a pair of equal shapes.
    """

    term_structure: ClassVar = dfx.AbstractTerm
    interpolation_cls: ClassVar = dfx.ThirdOrderHermitePolynomialInterpolation

    def order(self, terms: Any) -> int:
        """4."""
        return 4

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """(v, a)."""
        return terms.vf(t0, y0, args)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """Acceleration and jerk at the start."""
        if not (isinstance(y0, tuple) and len(y0) == 2) or (
            jax.tree.map(jnp.shape, y0[0]) != jax.tree.map(jnp.shape, y0[1])
        ):
            raise ValueError("y0: expected a pair (positions, velocities) of equal shapes")
        return _acceleration_and_jerk(terms, t0, y0, args)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Any, Any, dict[str, Any], Any, dfx.RESULTS]:
        """Predict, evaluate, correct."""
        q, v = y0
        if made_jump is False:
            a, j = solver_state
        else:
            a, j = jax.lax.cond(
                made_jump,
                lambda: _acceleration_and_jerk(terms, t0, y0, args),
                lambda: solver_state,
            )
        h = t1 - t0
        over = jax.tree.map
        ahead = (
            over(lambda q, v, a, j: q + h * (v + h * (a / 2 + h * j / 6)), q, v, a, j),
            over(lambda v, a, j: v + h * (a + h * j / 2), v, a, j),
        )
        a1, j1 = _acceleration_and_jerk(terms, t1, ahead, args)
        v1 = over(
            lambda v, a, a1, j, j1: v + h * ((a + a1) / 2 + h * (j - j1) / 12), v, a, a1, j, j1
        )
        q1 = over(
            lambda q, v, v1, a, a1: q + h * ((v + v1) / 2 + h * (a - a1) / 12), q, v, v1, a, a1
        )
        # h⁴ a⁽³⁾/24
        error_v = over(lambda a, a1, j, j1: h * ((a - a1) / 2 + h * (j + j1) / 4), a, a1, j, j1)
        error_q = over(lambda e: h * e / 5, error_v)
        y1 = (q1, v1)
        dense = {
            "y0": y0,
            "y1": y1,
            "k0": over(lambda d: h * d, (v, a)),
            "k1": over(lambda d: h * d, (v1, a1)),
        }
        return y1, (error_q, error_v), dense, (a1, j1), dfx.RESULTS.successful


def _acceleration_and_jerk(terms: Any, t: Any, y: Any, args: Any) -> tuple[Any, Any]:
    t = jnp.asarray(t)
    direction = terms.vf(t, y, args)
    _, (_, jerk) = jax.jvp(lambda t, y: terms.vf(t, y, args), (t, y), (jnp.ones_like(t), direction))
    return direction[1], jerk
