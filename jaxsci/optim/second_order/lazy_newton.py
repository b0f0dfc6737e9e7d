"""Newton's method with lazy Hessians: one factorisation for m steps.

    z_k = x_{k − (k mod m)},        H = ∇²f(z_k),        g = ∇f(x_k)
    cubic:      x⁺ = argmin_y gᵀ(y − x) + (y − x)ᵀH(y − x)/2 + (M/6)‖y − x‖³
    quadratic:  x⁺ = x − (H + λ I)⁻¹ g,   λ = (M‖g‖)^½
    gradient:   x⁺ = x − (H + λ I)⁻¹ g,   λ = M‖g‖
    none:       x⁺ = x − H⁻¹ g

The gradient is fresh in every step, the Hessian and its factorisation are those of the last
snapshot. If a Hessian costs d gradients, m = d is best: to reach ‖∇f‖ ≤ ε the total cost falls by
√d against Newton's method (Doikov, Chayti, Jaggi, arXiv:2212.00781, ICML 2023).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.autodiff import AbstractCurvature, Hessian

from ..factor import (
    AbstractFactor,
    AbstractSpectralFactor,
    FactorKind,
    factorise,
    identity_factor,
)
from ..flat import flat_extra, ravel, unraveller, work_dtype

Regulariser = Literal["cubic", "quadratic", "gradient", "none"]
DENSE_LIMIT = 4096


class Anchor(NamedTuple):
    """The snapshot that an adaptive phase started from, and Σ‖step‖³ since then."""

    x: Float[Array, " d"]
    g: Float[Array, " d"]
    cubes: Float[Array, ""]


class LazyNewtonState(NamedTuple):
    """State of `scale_by_lazy_newton`.

    - `count`: steps so far. `factor`: of the last snapshot's Hessian. `M`: the constant in use.
    - `anchor`: of an adaptive phase, else `None`.
    - `metrics`: `step_norm` and the number of `refreshes` (Hessians), for logs.
    """

    count: Int[Array, ""]
    factor: AbstractFactor
    M: Float[Array, ""]
    anchor: Anchor | None
    metrics: dict[str, Array]


def lazy_step(
    factor: AbstractFactor,
    g: Float[Array, " d"],
    M: Float[Array, ""] | float,
    regulariser: Regulariser,
) -> Float[Array, " d"]:
    """One step s = x⁺ − x with a given factorisation: O(d²) for a dense one, O(d p) for Ritz pairs.

    Where the matrix is indefinite, λ grows by −w_min, so that a regularised step goes downhill.
    """
    if regulariser == "none":
        return -factor.solve(g)
    spectral = cast(AbstractSpectralFactor, factor)
    if regulariser == "cubic":
        return spectral.cubic_step(g, M)
    norm = jnp.linalg.norm(g)
    shift = jnp.sqrt(M * norm) if regulariser == "quadratic" else M * norm
    return -spectral.solve_shifted(g, shift + jnp.maximum(0, -jnp.min(spectral.spectrum())))


def scale_by_lazy_newton(
    *,
    m: int | None = None,
    regulariser: Regulariser = "cubic",
    M: float | Literal["adaptive"] = 1.0,
    M0: float = 1.0,
    curvature: AbstractCurvature | None = None,
    factor: FactorKind = "eigh",
    rank: int | None = None,
    nonconvex: Literal["shift", "abs", "clip"] = "shift",
    batch_size: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Newton directions with a lazily refreshed Hessian; see `lazy_newton`, the same with −1.

    **Arguments, Raises:** as for `lazy_newton`.

    **Returns:** a transformation that replaces the gradient by −s; `optax.scale(-1)` follows it.
    """
    check_options(m, regulariser, M, M0, factor, rank, nonconvex)
    curvature = Hessian() if curvature is None else curvature
    adaptive = isinstance(M, str)
    owner = "lazy_newton"

    def init(params: PyTree) -> LazyNewtonState:
        dtype = work_dtype(params, owner)
        d = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
        check_dimension(d, factor, rank)
        # Each array a buffer of its own, so that a state can be donated.
        anchor = Anchor(jnp.zeros(d, dtype), jnp.zeros(d, dtype), jnp.zeros((), dtype))
        return LazyNewtonState(
            count=jnp.zeros((), jnp.int32),
            factor=identity_factor(d, dtype, factor, rank),
            M=jnp.asarray(M0 if adaptive else M, dtype),
            anchor=anchor if adaptive else None,
            metrics={
                "step_norm": jnp.zeros((), dtype),
                "refreshes": jnp.zeros((), jnp.int32),
            },
        )

    def update(
        updates: PyTree, state: LazyNewtonState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, LazyNewtonState]:
        if params is None:
            raise ValueError(f"{owner}: update needs params, got None")
        if not jax.tree.leaves(params):
            return updates, state._replace(count=state.count + 1)
        dtype = work_dtype(params, owner)
        x, g = ravel(params, dtype), ravel(updates, dtype)
        flat = flat_extra(extra, unraveller(params, dtype), dtype)
        constant = state.M if adaptive else jnp.asarray(M, dtype)
        phase = min(x.size, 64) if m is None else m

        def refresh() -> AbstractFactor:
            return factorise(
                curvature.at(x, **flat),
                g,
                factor,
                rank=rank,
                nonconvex=nonconvex,
                batch_size=batch_size,
            )

        at_snapshot = state.count % phase == 0
        if not adaptive:
            # A counter shared by the lanes of a vmap keeps this a branch and not a select.
            new_factor = jax.lax.cond(at_snapshot, refresh, lambda: state.factor)
            base, anchor, refreshed = x, None, at_snapshot
        else:
            base, g, new_factor, anchor, constant, refreshed = _phase_end(
                state, x, g, flat.get("value_fn"), refresh, at_snapshot
            )
        step = lazy_step(new_factor, g, constant, regulariser)
        norm = jnp.linalg.norm(step)
        if anchor is not None:
            # Weights that are not finite could not come back: they wait till the phase is refused.
            finite = jnp.isfinite(norm)
            step, norm = jnp.where(finite, step, 0), jnp.where(finite, norm, jnp.inf)
            anchor = anchor._replace(cubes=anchor.cubes + norm**3)
        new_state = LazyNewtonState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            factor=new_factor,
            M=constant,
            anchor=anchor,
            metrics={
                "step_norm": norm,
                "refreshes": state.metrics["refreshes"] + refreshed.astype(jnp.int32),
            },
        )
        return unraveller(params, dtype)(x - base - step), new_state

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def lazy_newton(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    m: int | None = None,
    regulariser: Regulariser = "cubic",
    M: float | Literal["adaptive"] = 1.0,
    M0: float = 1.0,
    curvature: AbstractCurvature | None = None,
    factor: FactorKind = "eigh",
    rank: int | None = None,
    nonconvex: Literal["shift", "abs", "clip"] = "shift",
    batch_size: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Newton's method whose Hessian is computed and factorised only every m steps (formulas above).

    `update` needs `value_fn` (or what the curvature asks for). Cost of a step: a gradient and
    O(d²); at a snapshot also d Hessian-vector products and one eigendecomposition. Memory: d² + d
    numbers. With `factor="ritz"`: `rank` products at a snapshot, O(d rank) per step and in memory.

    A mini-batch's Hessian is used with other batches' gradients until the next snapshot; the
    theory is for one fixed function.

    **Arguments:**

    - `learning_rate`: factor of the step; 1 is the method.
    - `m`: steps per snapshot; `None` is min(d, 64), 1 is Newton's method at every step.
    - `regulariser`: `"cubic"` (global guarantees for non-convex functions), `"quadratic"` (the same
        for convex ones, without an inner root), `"gradient"` (better locally), `"none"`.
    - `M`: with an L-Lipschitz Hessian the theorems ask for 6 m L (cubic) and 3 m L (quadratic); in
        practice much less does. `"adaptive"`: starting at `M0`, a phase of m steps is kept if

            f(z) − f(x) ≥ (M/12) Σ ‖step‖³   (which every M ≥ 6 m L passes),

        and then M is halved; else the weights return to z, M is doubled, and the phase is done
        again with the same factorisation. (The paper's own test is on gradient norms; this one
        needs values alone, one more at the end of a phase.)
    - `curvature`: `Hessian()`, `GaussNewton()` or `EmpiricalFisher()` from `jaxsci.autodiff`.
    - `factor`: `"eigh"`, `"ritz"`, or `"cholesky"` (for `"none"` only, as it cannot be shifted).
    - `rank`: dimension of the Krylov space of `"ritz"`; 20 to 100 are good values.
    - `nonconvex`: what becomes of negative eigenvalues; `"shift"` is the method, `"abs"` and
        `"clip"` change the matrix before regularising.
    - `batch_size`: columns of the Hessian computed at once; `None` is all of them.

    **Returns:** an optax transformation; its state is a chain's, `state[0]` a `LazyNewtonState`.

    **Raises:** `ValueError` for options out of range, a missing `value_fn`, a dense factor of more
    than 4096 parameters, or an adaptive M with a `learning_rate` other than 1; `TypeError` for
    parameters that are not real floating arrays.
    """
    if isinstance(M, str) and isinstance(learning_rate, int | float) and learning_rate != 1:
        raise ValueError(
            f"learning_rate = {learning_rate}: expected 1 with M='adaptive', which undoes steps"
        )
    return optax.chain(
        scale_by_lazy_newton(
            m=m,
            regulariser=regulariser,
            M=M,
            M0=M0,
            curvature=curvature,
            factor=factor,
            rank=rank,
            nonconvex=nonconvex,
            batch_size=batch_size,
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


def sufficient_decrease(
    before: Float[Array, ""],
    after: Float[Array, ""],
    M: Float[Array, ""] | float,
    cubes: Float[Array, ""],
) -> Array:
    """The test of an adaptive phase, f(z) − f(x) ≥ (M/12) Σ‖step‖³, up to the rounding of f."""
    slack = 4 * jnp.finfo(before.dtype).eps * jnp.abs(before)
    return before - after >= M / 12 * cubes - slack


def _phase_end(
    state: LazyNewtonState,
    x: Float[Array, " d"],
    g: Float[Array, " d"],
    value_fn: Callable[[Array], Array] | None,
    refresh: Callable[[], AbstractFactor],
    at_snapshot: Array,
) -> tuple:
    """Base point, gradient there, factor, anchor and M of the next step; was H computed anew?"""
    if value_fn is None:
        raise ValueError("lazy_newton: M='adaptive' needs the keyword argument value_fn")
    anchor = state.anchor
    assert anchor is not None

    def decide():
        # Both values on the batch of this step, so that its noise does not enter the comparison.
        passed = sufficient_decrease(value_fn(anchor.x), value_fn(x), state.M, anchor.cubes)
        accepted = (state.count == 0) | passed
        smallest = jnp.finfo(x.dtype).eps
        changed = jnp.where(accepted, jnp.maximum(state.M / 2, smallest), 2 * state.M)
        constant = jnp.where(state.count == 0, state.M, changed)
        new_factor = jax.lax.cond(accepted, refresh, lambda: state.factor)
        base, gradient = jnp.where(accepted, x, anchor.x), jnp.where(accepted, g, anchor.g)
        new_anchor = Anchor(base, gradient, jnp.zeros_like(anchor.cubes))
        return base, gradient, new_factor, new_anchor, constant, accepted

    def keep():
        return x, g, state.factor, anchor, state.M, jnp.zeros((), bool)

    return jax.lax.cond(at_snapshot, decide, keep)


def check_options(m, regulariser, M, M0, factor, rank, nonconvex) -> None:
    """Raises `ValueError` for options of lazy Newton that make no sense; values may be traced."""
    if m is not None and not isinstance(m, jax.Array) and not (isinstance(m, int) and m >= 1):
        raise ValueError(f"m = {m!r}: expected None or an integer >= 1")
    if regulariser not in ("cubic", "quadratic", "gradient", "none"):
        raise ValueError(
            f"regulariser = {regulariser!r}: expected 'cubic', 'quadratic', 'gradient' or 'none'"
        )
    if isinstance(M, str) and M != "adaptive":
        raise ValueError(f"M = {M!r}: expected a positive number or 'adaptive'")
    for name, value in (("M", M), ("M0", M0)):
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{name} = {value!r}: expected a positive number")
    check_factor(factor, rank)
    if factor == "cholesky" and regulariser != "none":
        raise ValueError(
            f"factor = 'cholesky' cannot be shifted anew for regulariser = {regulariser!r}; "
            "expected 'eigh' or 'ritz'"
        )
    if nonconvex not in ("shift", "abs", "clip"):
        raise ValueError(f"nonconvex = {nonconvex!r}: expected 'shift', 'abs' or 'clip'")


def check_factor(factor: FactorKind, rank: int | None) -> None:
    """Raises `ValueError` for an unknown factor, or `"ritz"` without a rank."""
    if factor not in ("eigh", "cholesky", "ritz"):
        raise ValueError(f"factor = {factor!r}: expected 'eigh', 'cholesky' or 'ritz'")
    if factor == "ritz" and not (isinstance(rank, int) and rank >= 1):
        raise ValueError(f"rank = {rank!r}: factor = 'ritz' expects an integer >= 1")


def check_dimension(d: int, factor: FactorKind, rank: int | None) -> None:
    """Raises `ValueError` if d parameters are too many for a dense factor, or fewer than `rank`."""
    if factor != "ritz" and d > DENSE_LIMIT:
        raise ValueError(
            f"{d} parameters: factor = {factor!r} keeps a dense matrix and takes at most "
            f"{DENSE_LIMIT}; use factor='ritz' with a rank"
        )
    if factor == "ritz" and rank is not None and 0 < d < rank:
        raise ValueError(f"rank = {rank}: expected at most the number of parameters, {d}")
