"""L-BFGS whose first matrix is a lazily refreshed Hessian, corrected by secants in between.

    B₀ = |∇²f(z)| + M‖∇f(x_k)‖ I,  z the last snapshot,      B_{j+1} = BFGS(B_j; s_j, y_j)
    s_j = x_{j+1} − x_j,  y_j = ∇f(x_{j+1}) − ∇f(x_j),       direction −B_k⁻¹ ∇f(x_k)

A lazy Hessian ages: the further from its snapshot, the shorter the steps that it may take
(M = 6 m L). A secant pair costs nothing, as both gradients are there anyway, and corrects the
matrix just along the path. L-BFGS in turn gets a matrix that knows the scales of the problem, and
not one number. So one Hessian is enough for many steps. A line search replaces the theory's large
M; what remains of M is for Hessians that are nearly singular, and adapts itself: it grows fourfold
where the curvature sᵀy along a step was more than twice what B said, else it shrinks fourfold.

B_k⁻¹ g is the two-loop recursion (Nocedal, Math. Comp. 35, 1980; Nocedal and Wright, Numerical
Optimization, algorithm 7.4) with the solve of a factor where the recursion has a number.
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.autodiff import AbstractCurvature, Hessian

from ..factor import AbstractSpectralFactor, FactorKind, factorise, identity_factor
from ..flat import flat_extra, ravel, unraveller, work_dtype
from .lazy_newton import check_dimension, check_factor


class Secants(NamedTuple):
    """Pairs since the snapshot, the oldest first; 1/(sᵀy) is 0 where there is none."""

    s: Float[Array, "pairs d"]
    y: Float[Array, "pairs d"]
    reciprocal: Float[Array, " pairs"]


class LazyLBFGSState(NamedTuple):
    """State of `scale_by_lazy_lbfgs`.

    - `count`: steps so far. `factor`: |H| of the last snapshot. `secants`: pairs since then.
    - `M`: of the regularisation. `refreshes`: Hessians so far.
    - `x`, `g`, `direction`: weights, gradient and B⁻¹g of the step before.
    """

    count: Int[Array, ""]
    factor: AbstractSpectralFactor
    secants: Secants
    M: Float[Array, ""]
    refreshes: Int[Array, ""]
    x: Float[Array, " d"]
    g: Float[Array, " d"]
    direction: Float[Array, " d"]


def inverse_product(
    factor: AbstractSpectralFactor,
    shift: Float[Array, ""] | float,
    secants: Secants,
    g: Float[Array, " d"],
) -> Float[Array, " d"]:
    """B⁻¹ g for the BFGS updates, by the pairs, of the factor's matrix + shift · I."""

    def back(q, pair):
        s, y, reciprocal = pair
        weight = reciprocal * (s @ q)
        return q - weight * y, weight

    def forth(q, pair):
        (s, y, reciprocal), weight = pair
        return q + (weight - reciprocal * (y @ q)) * s, None

    q, weights = jax.lax.scan(back, g, secants, reverse=True)
    return jax.lax.scan(forth, factor.solve_shifted(q, shift), (secants, weights))[0]


def scale_by_lazy_lbfgs(
    *,
    m: int | None = None,
    memory_size: int = 20,
    M0: float = 1.0,
    curvature: AbstractCurvature | None = None,
    factor: FactorKind = "eigh",
    rank: int | None = None,
    batch_size: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Directions B⁻¹g; see `lazy_lbfgs`, which adds the sign and a line search.

    **Arguments, Raises:** as for `lazy_lbfgs`.

    **Returns:** a transformation that replaces the gradient by B⁻¹g.
    """
    for name, value in (("m", m), ("memory_size", memory_size)):
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{name} = {value!r}: expected an integer >= 1")
    if isinstance(M0, int | float) and not M0 > 0:
        raise ValueError(f"M0 = {M0!r}: expected a positive number")
    if factor == "cholesky":
        raise ValueError("factor = 'cholesky' needs a positive definite Hessian; expected 'eigh'")
    check_factor(factor, rank)
    curvature = Hessian() if curvature is None else curvature
    owner = "lazy_lbfgs"

    def init(params: PyTree) -> LazyLBFGSState:
        dtype = work_dtype(params, owner)
        d = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
        check_dimension(d, factor, rank)
        # Each array a buffer of its own, so that a state can be donated.
        pairs = (memory_size, d)
        return LazyLBFGSState(
            count=jnp.zeros((), jnp.int32),
            factor=cast(AbstractSpectralFactor, identity_factor(d, dtype, factor, rank)),
            secants=Secants(
                jnp.zeros(pairs, dtype), jnp.zeros(pairs, dtype), jnp.zeros(memory_size, dtype)
            ),
            M=jnp.asarray(M0, dtype),
            refreshes=jnp.zeros((), jnp.int32),
            x=jnp.zeros(d, dtype),
            g=jnp.zeros(d, dtype),
            direction=jnp.zeros(d, dtype),
        )

    def update(
        updates: PyTree, state: LazyLBFGSState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, LazyLBFGSState]:
        if params is None:
            raise ValueError(f"{owner}: update needs params, got None")
        if not jax.tree.leaves(params):
            return updates, state._replace(count=state.count + 1)
        dtype = work_dtype(params, owner)
        x, g = ravel(params, dtype), ravel(updates, dtype)
        flat = flat_extra(extra, unraveller(params, dtype), dtype)
        phase = m or (rank if factor == "ritz" else None) or x.size
        s, y = x - state.x, g - state.g
        eps, tiny = jnp.finfo(dtype).eps, jnp.finfo(dtype).tiny

        def refresh() -> tuple[AbstractSpectralFactor, Secants]:
            # The snapshot's Hessian knows what the older pairs say.
            made = factorise(
                curvature.at(x, **flat),
                g,
                factor,
                rank=rank,
                nonconvex="abs",
                batch_size=batch_size,
            )
            return cast(AbstractSpectralFactor, made), jax.tree.map(jnp.zeros_like, state.secants)

        def remember() -> tuple[AbstractSpectralFactor, Secants]:
            product = s @ y
            # Without this the matrix would not stay positive definite; NaN fails it as well.
            curved = product > eps * jnp.linalg.norm(s) * jnp.linalg.norm(y)
            pair = Secants(s, y, 1 / jnp.where(curved, product, 1))
            longer = jax.tree.map(
                lambda old, new: jnp.concatenate([old[1:], new[None]]), state.secants, pair
            )
            return state.factor, jax.tree.map(
                lambda new, old: jnp.where(curved, new, old), longer, state.secants
            )

        # A counter shared by the lanes of a vmap keeps this a branch and not a select.
        at_snapshot = state.count % phase == 0
        made, secants = jax.lax.cond(at_snapshot, refresh, remember)
        # s = −t B⁻¹g with the t of the line search, so that sᵀB s = −t sᵀg.
        t = jnp.linalg.norm(s) / jnp.maximum(jnp.linalg.norm(state.direction), tiny)
        factor_of_M = jnp.where(s @ y > -2 * t * (s @ state.g), 4.0, 0.25)
        M = jnp.where(state.count == 0, state.M, jnp.maximum(factor_of_M * state.M, eps))
        # Eigenvalues below their own rounding say nothing about the length of a step.
        shift = jnp.maximum(M * jnp.linalg.norm(g), 30 * eps * jnp.max(made.spectrum()))
        direction = inverse_product(made, shift, secants, g)
        new_state = LazyLBFGSState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            factor=made,
            secants=secants,
            M=M,
            refreshes=state.refreshes + at_snapshot.astype(jnp.int32),
            x=x,
            g=g,
            direction=direction,
        )
        return unraveller(params, dtype)(direction), new_state

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def lazy_lbfgs(
    learning_rate: optax.ScalarOrSchedule | None = None,
    *,
    m: int | None = None,
    memory_size: int = 20,
    M0: float = 1.0,
    curvature: AbstractCurvature | None = None,
    factor: FactorKind = "eigh",
    rank: int | None = None,
    batch_size: int | None = None,
    linesearch: optax.GradientTransformationExtraArgs | optax.GradientTransformation | None = (
        optax.scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")
    ),
) -> optax.GradientTransformationExtraArgs:
    """L-BFGS that starts from an exact Hessian, which is computed anew every m steps.

        x⁺ = x − t B⁻¹ ∇f(x),    B: the snapshot's |∇²f|, after BFGS updates by the pairs since then

    For a smooth function of up to some 4000 weights, full batch, where gradients are dear: on
    logistic regression it takes half of the gradient-equivalents of BFGS and less than half of lazy
    Newton's. `update` needs `value`, `grad` and `value_fn`, as `optax.lbfgs` does, and what the
    curvature asks for; `optax.value_and_grad_from_state` saves the gradients that the line search
    has computed. Cost of a step: the line search, mostly one gradient, and O(d² + d `memory_size`);
    every m steps d Hessian-vector products and an eigendecomposition. Memory: d² + 2 d
    `memory_size` numbers; with `factor="ritz"`, d (`rank` + 2 `memory_size`).

    **Arguments:**

    - `learning_rate`: factor of the direction before the line search; `None` is 1.
    - `m`: steps per Hessian; `None` is d (`rank` with `"ritz"`), for which Hessians cost as much
        as gradients.
    - `memory_size`: pairs kept; 10 to 50 are good values.
    - `M0`: the first M; the first direction is no longer than 1/M0.
    - `curvature`: `Hessian()`, `GaussNewton()` or `EmpiricalFisher()` from `jaxsci.autodiff`.
        Negative eigenvalues become their absolute value.
    - `factor`: `"eigh"`, or `"ritz"` for many weights, with `rank` Krylov vectors.
    - `batch_size`: columns of the Hessian computed at once; `None` is all of them.
    - `linesearch`: as in `optax.lbfgs`; `None` takes every step as it is.

    **Returns:** an optax transformation; its state is a chain's, `state[0]` a `LazyLBFGSState`.

    **Raises:** `ValueError` for options out of range or more than 4096 weights for a dense factor;
    `TypeError` for weights that are not real floating arrays.

    Source: ours, of the lazy Hessians of arXiv:2212.00781 and Nocedal's recursion (see the top).
    """
    scale = optax.scale(-1.0)
    if learning_rate is not None:
        scale = optax.scale_by_learning_rate(learning_rate)
    return optax.chain(
        scale_by_lazy_lbfgs(
            m=m,
            memory_size=memory_size,
            M0=M0,
            curvature=curvature,
            factor=factor,
            rank=rank,
            batch_size=batch_size,
        ),
        scale,
        optax.identity() if linesearch is None else _without_strangers(linesearch),
    )


def _without_strangers(
    linesearch: optax.GradientTransformationExtraArgs | optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """The line search with its three arguments: any others it would hand to the loss."""
    inner = optax.with_extra_args_support(linesearch)

    def init(params: PyTree) -> Any:
        # optax's line search looks at the first leaf, which an empty tree does not have, and some
        # of its numbers are weakly typed, so that a second step would be compiled anew.
        state = inner.init(params if jax.tree.leaves(params) else jnp.zeros(()))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any):
        if not jax.tree.leaves(updates):
            return updates, state
        missing = [name for name in ("value", "grad", "value_fn") if extra.get(name) is None]
        if missing:
            raise ValueError(f"lazy_lbfgs: the line search needs the keyword arguments {missing}")
        known = {name: extra[name] for name in ("value", "grad", "value_fn")}
        return inner.update(updates, state, params, **known)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))
