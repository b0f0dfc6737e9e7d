"""The loop: an update of the field, and then of the collocation points."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .problem import Field, Problem
from .samplers import SamplerState


class SolverState(eqx.Module):
    """The field, the optimiser's state, the points, the number of updates, and the key."""

    field: Any
    opt_state: PyTree
    samplers: dict[str, SamplerState]
    step: Int[Array, ""]
    key: PRNGKeyArray

    @property
    def model(self) -> Any:
        """The field, by the name that `jaxsci.train` knows it by."""
        return self.field

    def averaged(self) -> Any:
        """The field: no average is kept."""
        return self.field


class Solver(eqx.Module):
    """Pure `init` and `step` of a physics-informed training; `jax.vmap` over keys trains many.

    `jaxsci.train.train(solver.step, solver.init(field, key), None, steps=..., log=log)` shows the
    progress of every term and keeps checkpoints to go on from.

    - `problem`: what is solved.
    - `optimizer`: an optax transformation.
    - `curvature`: pass `model_fn` (the weighted residuals), `outer_fn` (their sum of squares) and
        `jacobian_fn` (their derivatives, point by point) to the optimiser, for Gauss-Newton steps:
        `jaxsci.optim.levenberg_marquardt()`.
    """

    problem: Problem
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    curvature: bool = eqx.field(static=True, default=False)

    def init(self, field: Field, key: PRNGKeyArray) -> SolverState:
        """The state before the first update."""
        sampler_key, run_key = jr.split(key)
        params = eqx.filter(field, eqx.is_inexact_array)
        state = self.optimizer.init(params)
        return SolverState(
            field, state, self.problem.init(sampler_key), jnp.zeros((), jnp.int32), run_key
        )

    def step(self, state: SolverState, batch: None = None) -> tuple[SolverState, dict[str, Array]]:
        """One update. It draws its own points; `batch` is there for loops that pass one.

        **Returns:** the new state, and the loss and each term's mean square before the update.
        """
        params, rest = eqx.partition(state.field, eqx.is_inexact_array)

        def residuals(params: PyTree) -> tuple[Any, Any]:
            return self.problem.weighted(eqx.combine(params, rest), state.samplers)

        def outer(r: PyTree) -> Float[Array, ""]:
            return sum((jnp.sum(part**2) for part in jax.tree.leaves(r)), start=jnp.zeros(()))

        def objective(params: PyTree) -> tuple[Array, Any]:
            r, scores = residuals(params)
            return outer(r), scores

        def value_fn(params: PyTree) -> Array:
            return objective(params)[0]

        (value, scores), grads = jax.value_and_grad(objective, has_aux=True)(params)
        extra: dict[str, Any] = {"value": value, "grad": grads, "value_fn": value_fn}
        if self.curvature:
            extra |= {
                "model_fn": lambda p: residuals(p)[0],
                "outer_fn": outer,
                "jacobian_fn": lambda p: self.problem.jacobian(
                    eqx.combine(p, rest), state.samplers
                ),
            }
        transform = optax.with_extra_args_support(self.optimizer)
        updates, opt_state = transform.update(grads, state.opt_state, params, **extra)
        field: Any = eqx.combine(optax.apply_updates(params, updates), rest)
        key = jr.fold_in(state.key, state.step)
        samplers = self.problem.advance(field, state.samplers, scores, key)
        metrics = {"loss": value} | {name: jnp.mean(score**2) for name, score in scores.items()}
        return SolverState(field, opt_state, samplers, state.step + 1, state.key), metrics


class Solution(NamedTuple):
    """The field, the history {name: values} with `history["step"]`, and the last state."""

    field: Any
    history: dict[str, np.ndarray]
    state: SolverState


def solve(
    problem: Problem,
    field: Field,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    key: PRNGKeyArray,
    curvature: bool = False,
    every: int = 100,
    report: Callable[[int, dict[str, float]], Any] | None = None,
    evaluate: Callable[[Any], dict[str, Any]] | None = None,
) -> Solution:
    """Trains a field until the residuals of a problem vanish.

    **Arguments:**

    - `problem`, `optimizer`, `curvature`: as for `Solver`. Up to some 2000 weights, Gauss-Newton
        (`levenberg_marquardt()`) needs tens of steps where Adam needs thousands.
    - `field`: u, a function of a point with weights (any pytree that can be called).
    - `steps`: updates. `key`: for points.
    - `every`: updates in one dispatch, after which the history grows.
    - `report`: `report(step, values)` with the loss and each term's mean square, e.g.
        `log.metrics`; `evaluate`: `evaluate(field) -> {name: value}` is added to them.

    **Returns:** a `Solution`.

    **Raises:** `ValueError` for steps or every < 1; `FloatingPointError` when a loss is not finite.
    """
    for name, value in (("steps", steps), ("every", every)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"solve: {name} = {value!r}, expected an integer >= 1")
    solver = Solver(problem, optimizer, curvature)
    dynamic, static = eqx.partition(solver.init(field, key), eqx.is_array)

    @eqx.filter_jit
    def dispatch(solver: Solver, dynamic: PyTree, n: Array) -> tuple[PyTree, dict[str, Array]]:
        def body(carry):
            i, dynamic, _ = carry
            state, metrics = solver.step(eqx.combine(dynamic, static))
            return i + 1, eqx.filter(state, eqx.is_array), metrics

        shapes = eqx.filter_eval_shape(lambda d: solver.step(eqx.combine(d, static))[1], dynamic)
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        _, dynamic, metrics = jax.lax.while_loop(
            lambda c: c[0] < n, body, (jnp.zeros((), jnp.int32), dynamic, zero)
        )
        return dynamic, metrics

    done, rows = 0, []
    while done < steps:
        n = min(every, steps - done)
        dynamic, metrics = dispatch(solver, dynamic, jnp.asarray(n, jnp.int32))
        done += n
        values = {name: float(v) for name, v in metrics.items()}
        if not np.isfinite(values["loss"]):
            raise FloatingPointError(f"solve: the loss is {values['loss']} after {done} updates")
        if evaluate is not None:
            found = evaluate(eqx.combine(dynamic, static).field)
            values |= {name: float(v) for name, v in found.items()}
        if report is not None:
            report(done, values)
        rows.append({"step": done, **values})
    state = eqx.combine(dynamic, static)
    history = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Solution(state.field, history, state)
