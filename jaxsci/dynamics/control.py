"""Optimal control by gradients through a solver: sampled feedback, costs, receding horizons.

    x' = f(t, x, u_k) for t in [t_k, t_k + h),   u_k = π(t_k, x(t_k))

A control acts on a real system through a computer, which holds it between two samples. So the
problem is the same for every solver, and a policy that was optimised with a cheap one can be judged
by an accurate one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

ControlledField = Callable[[Any, Any, Any], Any]
Policy = Callable[[Any, Any], Any]


class Trajectory(NamedTuple):
    """States at the sampling times and the controls between them.

    - `ts`: n + 1 times. `xs`: the states then. `us`: n controls, held from tₖ to tₖ₊₁.
    """

    ts: Float[Array, " n+1"]
    xs: Float[Array, "n+1 d"]
    us: Float[Array, "n m"]


class IntegralCost(eqx.Module):
    """J = P |x_n − x*| + Q mean_{k ≥ 1} |x_k − x*| + R mean_k |u_k|, or the same with squares.

    - `target`: x*.
    - `P`, `Q`, `R`: weights of the end, of the way, and of the control.
    - `power`: 1 for Euclidean norms, 2 for their squares.

    Norms have gradient 0 where they vanish.

    **Raises:** `ValueError` for a negative weight and for another power.
    """

    target: Float[Array, " d"] | float = 0.0
    P: float = 1.0
    Q: float = 1.0
    R: float = 0.0
    power: int = eqx.field(default=1, static=True)

    def __check_init__(self):
        for name in ("P", "Q", "R"):
            weight = getattr(self, name)
            if isinstance(weight, int | float) and weight < 0:
                raise ValueError(f"{name} = {weight}: expected a number >= 0")
        if self.power not in (1, 2):
            raise ValueError(f"power = {self.power}: expected 1 or 2")

    def __call__(self, xs: Float[Array, "n+1 d"], us: Float[Array, "n m"]) -> Float[Array, ""]:
        """The cost of a trajectory."""
        away = _size(xs[1:] - self.target, self.power)
        return (
            self.P * away[-1] + self.Q * jnp.mean(away) + self.R * jnp.mean(_size(us, self.power))
        )


def _size(v: Float[Array, "n d"], power: int) -> Float[Array, " n"]:
    squares = jnp.sum(v**2, -1)
    if power == 2:
        return squares
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def hold(
    field: ControlledField,
    solver: dfx.AbstractSolver,
    t: Any,
    x: Float[Array, " d"],
    u: Any,
    h: Any,
    substeps: int = 1,
) -> Float[Array, " d"]:
    """The state at t + h after a control that is held from t on, in `substeps` equal steps.

    **Arguments:**

    - `field`: f(t, x, u), so that `u` takes the place of diffrax's `args`.
    - `solver`: any explicit solver of diffrax or of this room. Diffrax's Runge-Kutta methods are
        differentiated backwards; `Midpoint(scan_kind="lax")` is forwards.

    **Returns:** x(t + h).

    **Raises:** `ValueError` for `substeps` < 1.
    """
    if substeps < 1:
        raise ValueError(f"substeps = {substeps}: expected an integer >= 1")
    term, small = dfx.ODETerm(field), h / substeps

    def advance(x: Any, k: Any) -> tuple[Any, None]:
        start = t + k * small
        state = solver.init(term, start, start + small, x, u)
        # A field that was kept from the step before belongs to the control before.
        return solver.step(term, start, start + small, x, u, state, True)[0], None

    if substeps == 1:
        return advance(x, 0)[0]
    return jax.lax.scan(advance, x, jnp.arange(substeps))[0]


def closed_loop(
    field: ControlledField,
    policy: Policy,
    solver: dfx.AbstractSolver,
    x0: Float[Array, " d"],
    *,
    h: Any,
    steps: int,
    t0: Any = 0.0,
    substeps: int = 1,
) -> Trajectory:
    """The trajectory under a policy that is asked every h and whose answer is held in between.

    **Arguments:**

    - `field`: f(t, x, u). `policy`: π(t, x), a module or a function.
    - `solver`: what integrates from sample to sample, in `substeps` steps.
    - `x0`: the state at t₀.
    - `steps`: the number of samples.

    **Returns:** a `Trajectory`, differentiable in the policy and in x₀.

    **Raises:** `ValueError` for `steps` or `substeps` < 1.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: expected an integer >= 1")
    ts = t0 + h * jnp.arange(steps + 1)

    def advance(x: Any, t: Any) -> tuple[Any, Any]:
        u = policy(t, x)
        x1 = hold(field, solver, t, x, u, h, substeps)
        return x1, (x1, u)

    _, (xs, us) = jax.lax.scan(advance, x0, ts[:-1])
    return Trajectory(ts, jnp.concatenate([x0[None], xs]), us)


def mpc(
    field: ControlledField,
    cost: Callable[[Any, Any], Any],
    solver: dfx.AbstractSolver,
    plant: Callable[[Any, Any, Any], Any],
    x0: Float[Array, " d"],
    plan: Float[Array, "horizon m"],
    *,
    h: Any,
    steps: int,
    optimizer: optax.GradientTransformation,
    iterations: int,
    squash: Callable[[Any], Any] = lambda v: v,
) -> Trajectory:
    """Control with a receding horizon: plan with a cheap solver, act, measure, plan again.

    At every sample the controls of the next `horizon` samples are improved by some gradient steps
    on the cost that `solver` predicts from the measured state; the first is applied to the plant;
    the others, moved up by one, are the next start.

    **Arguments:**

    - `field`, `solver`, `h`: the model, f(t, x, u), and how it is solved, one step a sample.
    - `cost`: of the predicted `(xs, us)`, such as `IntegralCost`.
    - `plant`: the system itself, `(t, x, u) -> x(t + h)`; for instance `hold` with an accurate
        solver.
    - `x0`, `plan`: the first state and the first plan, before `squash`.
    - `steps`: the number of samples.
    - `optimizer`, `iterations`: started anew at each sample.
    - `squash`: from plan to controls; `lambda v: 5 * jnp.tanh(v)` keeps them in bounds.

    **Returns:** the `Trajectory` of the plant.

    **Raises:** `ValueError` for `steps` or `iterations` < 1.
    """
    for name, value in (("steps", steps), ("iterations", iterations)):
        if value < 1:
            raise ValueError(f"{name} = {value}: expected an integer >= 1")
    ts = h * jnp.arange(steps + 1)

    def predicted(plan: Array, t: Any, x: Array) -> Any:
        us = squash(plan)

        def advance(x: Any, inputs: Any) -> tuple[Any, Any]:
            k, u = inputs
            x1 = hold(field, solver, t + k * h, x, u, h)
            return x1, x1

        _, xs = jax.lax.scan(advance, x, (jnp.arange(plan.shape[0]), us))
        return cost(jnp.concatenate([x[None], xs]), us)

    def act(carry: Any, t: Any) -> tuple[Any, Any]:
        x, plan = carry

        def improve(carry: Any, _: None) -> tuple[Any, None]:
            plan, state = carry
            gradient = jax.grad(predicted)(plan, t, x)
            updates, state = optimizer.update(gradient, state, plan)
            return (optax.apply_updates(plan, updates), state), None

        start = (plan, optimizer.init(plan))
        (plan, _), _ = jax.lax.scan(improve, start, length=iterations)
        u = squash(plan)[0]
        x1 = plant(t, x, u)
        return (x1, jnp.concatenate([plan[1:], plan[-1:]])), (x1, u)

    _, (xs, us) = jax.lax.scan(act, (x0, plan), ts[:-1])
    return Trajectory(ts, jnp.concatenate([x0[None], xs]), us)
