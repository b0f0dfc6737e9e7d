"""Newton's method with a step size computed from the Newton decrement.

    n = H⁻¹ g,    d = (gᵀ n)^½ (the decrement),    x⁺ = x − α(d) n

    RootNewton      α = 1/(1 + θ),  θ = (9 M)^{1/(q−1)} d^{(q−2)/(q−1)}
    AICN            α = 2/(1 + (1 + 2 L d)^½)
    SelfConcordant  α = 1/(1 + L d)
    Backtracking    α = 1/(1 + θ),  θ = cʲ σ d^β with the first j that is accepted

All are invariant under affine changes of the variables. Root Newton converges as O(k^{−(q−1)}) for
convex functions, k⁻³ for q = 4, without a line search (arXiv:2405.18926).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.autodiff import AbstractCurvature, Hessian

from ..factor import AbstractFactor, factorise, identity_factor
from ..flat import flat_extra, ravel, unraveller, work_dtype
from .lazy_newton import check_dimension


class RootNewton(eqx.Module):
    """α = 1/(1 + (9 M)^{1/(q−1)} d^{(q−2)/(q−1)}).

    - `q`: from 2 to 4; 3 is a Lipschitz Hessian, 4 a Lipschitz third derivative, measured in the
        local norm of the Hessian.
    - `M`: the constant of that smoothness.
    """

    q: float | Array = 4.0
    M: float | Array = 1.0

    def __check_init__(self):
        if isinstance(self.q, int | float) and not 2 <= self.q <= 4:
            raise ValueError(f"q = {self.q}: expected a number from 2 to 4")
        _positive("M", self.M)

    def __call__(self, d: Float[Array, ""]) -> Float[Array, ""]:
        power = 1 / (self.q - 1)
        return 1 / (1 + (9 * self.M) ** power * d ** ((self.q - 2) * power))


class AICN(eqx.Module):
    """α = 2/(1 + (1 + 2 L d)^½): affine-invariant cubic Newton (arXiv:2211.00140)."""

    L: float | Array = 1.0

    def __check_init__(self):
        _positive("L", self.L)

    def __call__(self, d: Float[Array, ""]) -> Float[Array, ""]:
        return 2 / (1 + jnp.sqrt(1 + 2 * self.L * d))


class SelfConcordant(eqx.Module):
    """α = 1/(1 + L d): the classical damping; L = 1 for self-concordant functions."""

    L: float | Array = 1.0

    def __check_init__(self):
        _positive("L", self.L)

    def __call__(self, d: Float[Array, ""]) -> Float[Array, ""]:
        return 1 / (1 + self.L * d)


class Backtracking(eqx.Module):
    """α = 1/(1 + θ), θ = cʲ σ d^β, with the first j = 0, 1, … whose new gradient g' satisfies

        g'ᵀ n ≥ g'ᵀ H⁻¹ g' / (2 α θ);

    the next σ is c^{j−1} σ. It needs no constant of the function; a trial costs a gradient and a
    solve with the same factorisation.

    - `beta`: 2/3 to 1. `sigma0`: the first σ. `c` > 1. `max_trials`: the last is taken in any case.
    """

    beta: float = 2 / 3
    sigma0: float = 1.0
    c: float = 2.0
    max_trials: int = 40

    def __check_init__(self):
        if not 2 / 3 <= self.beta <= 1:
            raise ValueError(f"beta = {self.beta}: expected a number from 2/3 to 1")
        _positive("sigma0", self.sigma0)
        if not self.c > 1:
            raise ValueError(f"c = {self.c}: expected a number > 1, or θ would never grow")
        if self.max_trials < 1:
            raise ValueError(f"max_trials = {self.max_trials}: expected an integer >= 1")


StepRule = RootNewton | AICN | SelfConcordant | Backtracking | float


class DampedNewtonState(NamedTuple):
    """State of `scale_by_damped_newton`.

    - `count`: steps so far. `factor`: of the Hessian. `sigma`: of `Backtracking`.
    - `metrics`: the last `decrement` d, step size `alpha`, and all `trials` (gradients) so far.
    """

    count: Int[Array, ""]
    factor: AbstractFactor
    sigma: Float[Array, ""]
    metrics: dict[str, Array]


def scale_by_damped_newton(
    step: StepRule | None = None,
    *,
    curvature: AbstractCurvature | None = None,
    refresh: int = 1,
    convexify: Literal["abs"] | None = None,
    batch_size: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """α n in place of the gradient; `damped_newton` is the same with −1, and explains all."""
    rule: Any = RootNewton() if step is None else step
    if not isinstance(rule, RootNewton | AICN | SelfConcordant | Backtracking | int | float):
        raise ValueError(f"step = {step!r}: expected a step rule or a positive number")
    if isinstance(rule, int | float):
        _positive("step", rule)
    if not (isinstance(refresh, int) and refresh >= 1):
        raise ValueError(f"refresh = {refresh!r}: expected an integer >= 1")
    if convexify not in (None, "abs"):
        raise ValueError(f"convexify = {convexify!r}: expected None or 'abs'")
    matrix = Hessian() if curvature is None else curvature
    kind: Literal["cholesky", "eigh"] = "cholesky" if convexify is None else "eigh"

    def init(params: PyTree) -> DampedNewtonState:
        dtype = work_dtype(params, "damped_newton")
        d = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
        check_dimension(d, kind, None)
        sigma = rule.sigma0 if isinstance(rule, Backtracking) else 0.0
        return DampedNewtonState(
            jnp.zeros((), jnp.int32),
            identity_factor(d, dtype, kind, None),
            jnp.asarray(sigma, dtype),
            {
                "decrement": jnp.zeros((), dtype),
                "alpha": jnp.zeros((), dtype),
                "trials": jnp.zeros((), jnp.int32),
            },
        )

    def update(
        updates: PyTree, state: DampedNewtonState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, DampedNewtonState]:
        if params is None:
            raise ValueError("damped_newton: update needs params, got None")
        if not jax.tree.leaves(params):
            return updates, state._replace(count=state.count + 1)
        dtype = work_dtype(params, "damped_newton")
        unravel = unraveller(params, dtype)
        x, g = ravel(params, dtype), ravel(updates, dtype)
        flat = flat_extra(extra, unravel, dtype)

        def new_factor() -> AbstractFactor:
            operator = matrix.at(x, **flat)
            return factorise(
                operator, g, kind, nonconvex=convexify or "shift", batch_size=batch_size
            )

        factor = jax.lax.cond(state.count % refresh == 0, new_factor, lambda: state.factor)
        direction = factor.solve(g)
        # Rounding near the minimum can make gᵀ H⁻¹ g negative.
        squared = g @ direction
        direction = eqx.error_if(
            direction,
            ~jnp.isfinite(squared) & jnp.all(jnp.isfinite(g)),
            "damped_newton: the Hessian is not positive definite; convexify='abs' replaces its "
            "eigenvalues by their absolute values",
        )
        decrement = jnp.sqrt(jnp.maximum(squared, 0))
        sigma, trials = state.sigma, jnp.zeros((), jnp.int32)
        if isinstance(rule, Backtracking):
            alpha, sigma, trials = _backtrack(
                rule, flat.get("value_fn"), factor, x, direction, decrement, sigma
            )
        else:
            alpha = jnp.asarray(rule(decrement) if callable(rule) else rule, dtype)
        metrics = {
            "decrement": decrement,
            "alpha": alpha,
            "trials": state.metrics["trials"] + trials,
        }
        new_state = DampedNewtonState(
            jnp.asarray(optax.safe_increment(state.count)), factor, sigma, metrics
        )
        return unravel(alpha * direction), new_state

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def damped_newton(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    step: StepRule | None = None,
    curvature: AbstractCurvature | None = None,
    refresh: int = 1,
    convexify: Literal["abs"] | None = None,
    batch_size: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Newton's method with a step size from the decrement, for convex functions.

    `update` needs `value_fn` (or what the curvature asks for). Cost of a step: a gradient, d
    Hessian-vector products and d³/3; memory d².

    **Arguments:**

    - `learning_rate`: factor of the step; 1 is the method.
    - `step`: `RootNewton(q, M)` (the default; q = 4, M = 1), `AICN(L)`, `SelfConcordant(L)`,
        `Backtracking()` (no constant to choose: the one to try first), or a fixed number.
    - `curvature`: `Hessian()` or another of `jaxsci.autodiff`.
    - `refresh`: steps that share a factorisation (with more than 1 the rates are not proven).
    - `convexify`: `"abs"` replaces negative eigenvalues by their absolute values, for functions
        that are not convex; there is no theory for that. `None` raises there.
    - `batch_size`: columns of the Hessian computed at once; `None` is all.

    **Returns:** an optax transformation; `state[0]` is a `DampedNewtonState`.

    **Raises:** `ValueError` for options out of range, a missing `value_fn` or more than 4096
    parameters; `TypeError` for parameters that are not real floating arrays; at run time if the
    Hessian is not positive definite.
    """
    return optax.chain(
        scale_by_damped_newton(
            step,
            curvature=curvature,
            refresh=refresh,
            convexify=convexify,
            batch_size=batch_size,
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


def _backtrack(
    rule: Backtracking,
    value_fn: Callable[[Array], Array] | None,
    factor: AbstractFactor,
    x: Float[Array, " d"],
    direction: Float[Array, " d"],
    decrement: Float[Array, ""],
    sigma: Float[Array, ""],
) -> tuple[Array, Array, Array]:
    """α, the next σ, and the number of trials."""
    if value_fn is None:
        raise ValueError("damped_newton: Backtracking needs the keyword argument value_fn")
    gradient = jax.grad(value_fn)

    def theta(j: Array) -> Array:
        return rule.c**j * sigma * decrement**rule.beta

    def trial(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        j, _ = carry
        t = theta(j)
        g = gradient(x - direction / (1 + t))
        accepted = 2 * t / (1 + t) * (g @ direction) >= g @ factor.solve(g)
        return j + 1, accepted | (decrement == 0)

    def proceed(carry: tuple[Array, Array]) -> Array:
        return ~carry[1] & (carry[0] < rule.max_trials)

    trials, _ = jax.lax.while_loop(proceed, trial, (jnp.zeros((), jnp.int32), jnp.array(False)))
    j = trials - 1
    # σ must not vanish, or no number of trials could bring it back.
    smallest = jnp.asarray(jnp.finfo(x.dtype).eps, x.dtype)
    exponent = (j - 1).astype(x.dtype)
    return 1 / (1 + theta(j)), jnp.maximum(rule.c**exponent * sigma, smallest), trials


def _positive(name: str, value: Any) -> None:
    if isinstance(value, int | float) and not value > 0:
        raise ValueError(f"{name} = {value}: expected a positive number")
