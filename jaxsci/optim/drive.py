"""Whole minimisations in one compiled loop: phases of lazy Newton, trajectories of any optimiser.

`minimise_lazy` is lazy Newton as a program of its own: an outer loop over snapshots, an inner one
over the m cheap steps that share a factorisation. There is no branch around the factorisation, so
it may be mapped (`vmap`) over problems and starting points without computing Hessians in vain.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree, Scalar

from jaxsci.autodiff import AbstractCurvature, Hessian

from .factor import FactorKind, factorise
from .flat import flat_extra, ravel, unraveller, work_dtype
from .second_order.lazy_newton import (
    Regulariser,
    check_dimension,
    check_options,
    lazy_step,
    sufficient_decrease,
)


class LazyResult(NamedTuple):
    """What `minimise_lazy` found.

    - `x`, `value`, `grad_norm`: the last accepted point (a tree like `x0`) and the loss there.
    - `n_grad`, `n_hess`, `n_hvp`: gradients and Hessians computed, and the products with Hessians
      that these took (d for a dense factor, its rank for Ritz pairs).
    - `M`: the last regularisation constant. `converged`: whether ‖∇f‖ ≤ gtol.
    - `trace`: after each phase `value`, `grad_norm`, `n_grad`, `M`; NaN (or −1) where none was.
    """

    x: PyTree
    value: Float[Array, ""]
    grad_norm: Float[Array, ""]
    n_grad: Int[Array, ""]
    n_hess: Int[Array, ""]
    n_hvp: Int[Array, ""]
    M: Float[Array, ""]
    converged: Array
    trace: dict[str, Array]


def minimise_lazy(
    value_fn: Callable[[PyTree], Scalar],
    x0: PyTree,
    *,
    m: int | Int[Array, ""] | None = None,
    regulariser: Regulariser = "cubic",
    M: float | Literal["adaptive"] = "adaptive",
    M0: float = 1.0,
    curvature: AbstractCurvature | None = None,
    factor: FactorKind = "eigh",
    rank: int | None = None,
    nonconvex: Literal["shift", "abs", "clip"] = "shift",
    batch_size: int | None = None,
    gtol: float = 1e-8,
    max_phases: int = 200,
    max_trials: int = 60,
    **extra: Any,
) -> LazyResult:
    """Minimises f by Newton's method with lazy Hessians; `lazy_newton` has the formulas.

    **Arguments:** those of `lazy_newton` (here `m` may also be traced), and

    - `value_fn`: f, pure, of a tree like `x0`. A `curvature` other than the Hessian takes its
        arguments from `extra`: `model_fn` and `outer_fn` for `GaussNewton()`.
    - `gtol`: stop once ‖∇f‖ ≤ gtol, also inside a phase.
    - `max_phases`, `max_trials`: at most so many snapshots, and so many doublings of M for one.

    **Returns:** a `LazyResult`. Jittable; compiled anew for each new `value_fn`.

    **Raises:** as `lazy_newton`, and `ValueError` for `gtol` < 0 or `max_phases`, `max_trials` < 1.
    """
    check_options(m, regulariser, M, M0, factor, rank, nonconvex)
    if gtol < 0 or max_phases < 1 or max_trials < 1:
        raise ValueError(
            f"gtol = {gtol}, max_phases = {max_phases}, max_trials = {max_trials}: expected "
            "gtol >= 0 and at least one phase and trial"
        )
    dtype = work_dtype(x0, "minimise_lazy")
    start, unravel = ravel(x0, dtype), unraveller(x0, dtype)
    d = start.size
    check_dimension(d, factor, rank)
    matrix = Hessian() if curvature is None else curvature
    adaptive = isinstance(M, str)
    length = min(d, 64) if m is None else m
    products = d if rank is None or factor != "ritz" else rank

    def function(x: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.asarray(value_fn(unravel(x)), dtype)

    gradient = jax.value_and_grad(function)
    known = {**flat_extra(extra, unravel, dtype), "value_fn": function}

    def phase(x, f, g, factorised, constant):
        """Up to m steps; stops where the gradient is small or no longer finite."""

        def proceed(carry):
            i, _, _, g, _ = carry
            norm = jnp.linalg.norm(g)
            return (i < length) & (norm > gtol) & jnp.isfinite(norm)

        def body(carry):
            i, x, _, g, cubes = carry
            step = lazy_step(factorised, g, constant, regulariser)
            x = x + step
            f, g = gradient(x)
            return i + 1, x, f, g, cubes + jnp.linalg.norm(step) ** 3

        return jax.lax.while_loop(
            proceed, body, (jnp.zeros((), jnp.int32), x, f, g, jnp.zeros((), dtype))
        )

    def outer(carry):
        k, x, f, g, n_grad, constant, trace = carry
        factorised = factorise(
            matrix.at(x, **known),
            g,
            factor,
            rank=rank,
            nonconvex=nonconvex,
            batch_size=batch_size,
        )

        def trial(carry):
            j, _, _, _, n_grad, constant, _ = carry
            constant = jnp.where(j == 0, constant, 2 * constant)
            steps, x_new, f_new, g_new, cubes = phase(x, f, g, factorised, constant)
            accepted = sufficient_decrease(f, f_new, constant, cubes) | (not adaptive)
            return j + 1, x_new, f_new, g_new, n_grad + steps, constant, accepted

        def rejected(carry):
            return ~carry[-1] & (carry[0] < max_trials)

        _, x_new, f_new, g_new, n_grad, constant, accepted = jax.lax.while_loop(
            rejected,
            trial,
            (jnp.zeros((), jnp.int32), x, f, g, n_grad, constant, jnp.zeros((), bool)),
        )
        x, f, g = (jnp.where(accepted, a, b) for a, b in ((x_new, x), (f_new, f), (g_new, g)))
        entries = {"value": f, "grad_norm": jnp.linalg.norm(g), "n_grad": n_grad, "M": constant}
        trace = {name: trace[name].at[k].set(entry) for name, entry in entries.items()}
        if adaptive:
            constant = jnp.maximum(constant / 2, jnp.finfo(dtype).eps)
        # A phase that no M could mend ends the run: the next one would be the same.
        return jnp.where(accepted, k + 1, max_phases), x, f, g, n_grad, constant, trace

    def unfinished(carry):
        k, _, _, g, *_ = carry
        norm = jnp.linalg.norm(g)
        return (k < max_phases) & (norm > gtol) & jnp.isfinite(norm)

    f, g = gradient(start)
    nan = jnp.full(max_phases, jnp.nan, dtype)
    trace = {"value": nan, "grad_norm": nan, "n_grad": jnp.full(max_phases, -1), "M": nan}
    _, x, f, g, n_grad, constant, trace = jax.lax.while_loop(
        unfinished,
        outer,
        (
            jnp.zeros((), jnp.int32),
            start,
            f,
            g,
            jnp.ones((), jnp.int32),
            jnp.asarray(M0 if adaptive else M, dtype),
            trace,
        ),
    )
    n_hess = jnp.sum(trace["n_grad"] >= 0)
    norm = jnp.linalg.norm(g)
    return LazyResult(
        unravel(x), f, norm, n_grad, n_hess, products * n_hess, constant, norm <= gtol, trace
    )


def trajectory(
    optimizer: optax.GradientTransformation,
    value_fn: Callable[[PyTree], Scalar],
    x0: PyTree,
    steps: int,
    **extra: Any,
) -> tuple[PyTree, Float[Array, " steps"]]:
    """All iterates of an optimiser on one fixed function, as one `lax.scan`.

    **Arguments:**

    - `optimizer`: any optax transformation; it gets `value`, `grad` and `value_fn`.
    - `value_fn`: f, real and pure. `x0`: where to start. `steps`: how many.
    - `extra`: more arguments for `update`.

    **Returns:** x₁ … x_steps stacked along a leading axis, and f before each step.

    **Raises:** `ValueError` for `steps` < 1.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: expected an integer >= 1")
    transform = optax.with_extra_args_support(optimizer)

    def body(carry, _):
        x, state = carry
        value, grads = jax.value_and_grad(value_fn)(x)
        grads = jax.tree.map(jnp.conj, grads)
        arguments = {"value": value, "grad": grads, "value_fn": value_fn, **extra}
        updates, state = transform.update(grads, state, x, **arguments)
        x = optax.apply_updates(x, updates)
        return (x, state), (x, value)

    _, (points, values) = jax.lax.scan(body, (x0, transform.init(x0)), length=steps)
    return points, values
