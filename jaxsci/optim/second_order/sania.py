"""SANIA: Polyak's step size for any preconditioner, from the loss and its lowest value.

    x⁺ = argmin_y ½‖y − x‖²_B   subject to   f + gᵀ(y − x) + ½‖y − x‖²_B ≤ f*
       = x − α B⁻¹ g,   υ = 2 (f − f*)/(gᵀ B⁻¹ g),   α = 1 − (1 − υ)^½ if υ ≤ 1, else 1

    identity      B = I                        adagrad      B = diag (Σ g²)^½
    adagrad-sqr   B = diag Σ g²                adam         B = diag (EMA of g²)^½
    adam-sqr      B = diag (EMA of g²)         hutchinson   B = diag |EMA of z ⊙ H z|
    newton        B = |H|

Without a root (`-sqr` with `eps="zero-safe"`, `newton`) the units of the variables do not matter:
after a rescaling x = V z it makes the same steps, whatever the diagonal V (`newton`: any V). With a
linear constraint, f + gᵀ(y − x) ≤ f*, α is υ/2: the stochastic Polyak step (`rule="sps"`).
(Abdukhakimov et al., arXiv:2312.17369.)
"""

from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jaxsci.autodiff import Hessian, hutchinson_diag, materialise

from ..factor import DenseEigh
from ..flat import at_least_float32, flat_extra, ravel, unraveller, work_dtype
from .lazy_newton import check_dimension

Preconditioner = Literal[
    "identity", "adagrad", "adagrad-sqr", "adam", "adam-sqr", "hutchinson", "newton"
]
PRECONDITIONERS = ("identity", "adagrad", "adagrad-sqr", "adam", "adam-sqr", "hutchinson", "newton")


class SaniaState(NamedTuple):
    """State of `scale_by_sania`.

    - `count`: steps so far. `moment`: what B is made of (at least float32), `None` if B needs no
        memory.
    - `metrics`: the last step size `alpha` and ratio `upsilon`, for logs.
    """

    count: Int[Array, ""]
    moment: PyTree
    metrics: dict[str, Array]


def polyak_step(
    gap: Float[Array, ""], squared: Float[Array, ""], rule: Literal["sania", "sps"] = "sania"
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """α and υ = 2 (f − f*)/(gᵀ B⁻¹ g).

    **Arguments:**

    - `gap`: f − f*; a negative one counts as zero, as a mini-batch's may well be.
    - `squared`: gᵀ B⁻¹ g. Where it is zero there is no direction, and υ is given as zero.
    - `rule`: `"sania"` or `"sps"`, of the module's first lines.

    **Returns:** α and υ.

    **Raises:** `ValueError` for another rule.
    """
    if rule not in ("sania", "sps"):
        raise ValueError(f"rule = {rule!r}: expected 'sania' or 'sps'")
    upsilon = jnp.where(
        squared > 0, 2 * jnp.maximum(gap, 0) / jnp.where(squared > 0, squared, 1), 0
    )
    if rule == "sps":
        return upsilon / 2, upsilon
    # 1 − (1 − υ)^½, which as written would lose the digits of a small υ.
    alpha = upsilon / (1 + jnp.sqrt(jnp.maximum(1 - upsilon, 0)))
    return jnp.where(upsilon > 1, 1, alpha), upsilon


def scale_by_sania(
    precond: Preconditioner = "adam-sqr",
    *,
    f_star: float | optax.Schedule = 0.0,
    eps: float | Literal["zero-safe"] = 0.1,
    floor: Literal["add", "max"] = "max",
    b2: float = 0.999,
    rule: Literal["sania", "sps"] = "sania",
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformationExtraArgs:
    """α B⁻¹ g in place of the gradient; `sania` is the same with −1, and explains all."""
    if precond not in PRECONDITIONERS:
        raise ValueError(f"precond = {precond!r}: expected one of {PRECONDITIONERS}")
    if floor not in ("add", "max"):
        raise ValueError(f"floor = {floor!r}: expected 'add' or 'max'")
    if isinstance(eps, str) and eps != "zero-safe":
        raise ValueError(f"eps = {eps!r}: expected a number >= 0 or 'zero-safe'")
    if isinstance(eps, int | float) and not eps >= 0:
        raise ValueError(f"eps = {eps}: expected a number >= 0 or 'zero-safe'")
    if isinstance(b2, int | float) and not 0 <= b2 < 1:
        raise ValueError(f"b2 = {b2}: expected a number in [0, 1)")
    if rule not in ("sania", "sps"):
        raise ValueError(f"rule = {rule!r}: expected 'sania' or 'sps'")
    root = precond in ("adagrad", "adam")
    adds_up = precond in ("adagrad", "adagrad-sqr")
    diagonal = precond not in ("identity", "newton")
    needs_curvature = precond in ("hutchinson", "newton")
    root_key = jax.random.key(0) if key is None else key

    def init(params: PyTree) -> SaniaState:
        if needs_curvature:
            work_dtype(params, "sania")
        if precond == "newton":
            check_dimension(sum(jnp.size(p) for p in jax.tree.leaves(params)), "eigh", None)
        moment = None
        if diagonal:
            moment = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), _real_dtype(p)), params)
        dtype = jnp.result_type(jnp.float32, *map(_real_dtype, jax.tree.leaves(params)))
        metrics = {"alpha": jnp.zeros((), dtype), "upsilon": jnp.zeros((), dtype)}
        return SaniaState(jnp.zeros((), jnp.int32), moment, metrics)

    def update(
        updates: PyTree, state: SaniaState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, SaniaState]:
        value = extra.get("value")
        if value is None:
            raise ValueError("sania needs the keyword argument value (the loss); it is missing")
        count = jnp.asarray(optax.safe_increment(state.count))
        if not jax.tree.leaves(updates):
            return updates, state._replace(count=count)
        moment = state.moment

        def scaled(moment: PyTree) -> PyTree:
            """B⁻¹ g for a diagonal B."""
            unbiased = moment if adds_up else _unbias(moment, b2, count)
            return jax.tree.map(
                lambda g, v: _divide(g.astype(at_least_float32(g)), jnp.abs(v), root, eps, floor),
                updates,
                unbiased,
            )

        if precond == "newton":
            direction = _newton_direction(updates, params, extra)
        elif precond == "identity":
            direction = jax.tree.map(lambda g: g.astype(at_least_float32(g)), updates)
        else:
            if precond == "hutchinson":
                sample = _hutchinson_sample(params, extra, root_key, state.count)
            else:
                sample = jax.tree.map(lambda g: _abs2(g.astype(at_least_float32(g))), updates)
            if adds_up:
                moment = jax.tree.map(jnp.add, moment, sample)
            else:
                moment = jax.tree.map(
                    lambda v, s: (b2 * v + (1 - b2) * s).astype(v.dtype), moment, sample
                )
            direction = scaled(moment)
        dtype = state.metrics["alpha"].dtype
        products = jax.tree.map(
            lambda g, n: jnp.sum(jnp.real(jnp.conj(g) * n)).astype(dtype), updates, direction
        )
        squared = jax.tree.reduce(jnp.add, products)
        lowest = f_star(state.count) if callable(f_star) else f_star
        alpha, upsilon = polyak_step(jnp.asarray(value, dtype) - lowest, squared, rule)
        if diagonal:
            # α is a sum over all weights. B⁻¹ g is cheaper computed a second time than kept until
            # then; the barrier stops the compiler from making one of the two.
            moment, alpha = jax.lax.optimization_barrier((moment, alpha))
            direction = scaled(moment)
        new = jax.tree.map(lambda n, g: (alpha * n).astype(g.dtype), direction, updates)
        metrics = {"alpha": alpha.astype(dtype), "upsilon": upsilon.astype(dtype)}
        return new, SaniaState(count, moment, metrics)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def sania(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    precond: Preconditioner = "adam-sqr",
    *,
    f_star: float | optax.Schedule = 0.0,
    eps: float | Literal["zero-safe"] = 0.1,
    floor: Literal["add", "max"] = "max",
    b2: float = 0.999,
    rule: Literal["sania", "sps"] = "sania",
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Polyak's step size in the norm of a preconditioner: nothing to tune if f* is known.

    For models that can fit their data, where f* = 0 for each mini-batch. If they cannot, f* = 0 is
    too low and the steps too long. `update` needs `value`, of the same batch as the gradient and
    with the weight decay, if there is any, in it. Cost: Adam's and one sum; `hutchinson` takes a
    Hessian-vector product and `newton` d of them and a factorisation (d ≤ 4096), of `value_fn`.

    **Arguments:**

    - `learning_rate`: factor of the step; 1 is the method.
    - `precond`: the matrix B; `"adam-sqr"` is the one to try first; `"newton"` for convex losses.
    - `f_star`: the lowest value of the loss, or a function of the step number.
    - `eps`, `floor`: what keeps B away from zero. `"max"` replaces smaller sums or averages of
        squares by `eps`, before a root is taken; `"add"` adds `eps` to the diagonal of B (to the
        root, where B has one). 0.1 and `"max"` are the choice of the authors' package, and safe for
        networks. With `eps="zero-safe"` there is no such scale: weights that have had no gradient
        do not move, all others exactly as the formula says. Only that is invariant to the units;
        it suits (generalised) linear models, while a network, where some gradients are tiny but
        not zero, is thrown far away by it.
    - `b2`: memory of the averages, with a correction for their start.
    - `rule`: `"sania"`, or `"sps"` for α = (f − f*)/(gᵀ B⁻¹ g).
    - `key`: for the probes of `"hutchinson"`; step t uses `fold_in(key, t)`.

    **Returns:** an optax transformation; `state[0]` is a `SaniaState`.

    **Raises:** `ValueError` for options out of range or a missing `value` (`value_fn`);
    `TypeError` for complex parameters with `"hutchinson"` or `"newton"`.
    """
    return optax.chain(
        scale_by_sania(precond, f_star=f_star, eps=eps, floor=floor, b2=b2, rule=rule, key=key),
        optax.scale_by_learning_rate(learning_rate),
    )


def _newton_direction(updates: PyTree, params: PyTree | None, extra: dict[str, Any]) -> PyTree:
    """|H|⁻¹ g; where g and an eigenvalue are both zero there is no step."""
    if params is None:
        raise ValueError("sania: update needs params, got None")
    dtype = work_dtype(params, "sania")
    unravel = unraveller(jax.tree.map(lambda p: jnp.asarray(p, dtype), params), dtype)
    back = unraveller(params, dtype)
    flat = flat_extra(extra, back, dtype)
    values, basis = jnp.linalg.eigh(materialise(Hessian().at(ravel(params, dtype), **flat)))
    return unravel(DenseEigh(basis, jnp.abs(values)).solve(ravel(updates, dtype)))


def _hutchinson_sample(
    params: PyTree | None, extra: dict[str, Any], key: PRNGKeyArray, count: Int[Array, ""]
) -> PyTree:
    if params is None:
        raise ValueError("sania: update needs params, got None")
    given = extra.get("key")
    key = jax.random.fold_in(key, count) if given is None else given
    return hutchinson_diag(Hessian().at(params, **extra), key)


def _divide(g: Array, v: Array, root: bool, eps: Any, floor: str) -> Array:
    """B⁻¹ g for one leaf."""
    if isinstance(eps, str):
        v = jnp.where(v > 0, v, jnp.inf)
    elif floor == "max":
        v = jnp.maximum(v, eps)
    diagonal = jnp.sqrt(v) if root else v
    if isinstance(eps, str) or floor == "max":
        return g / diagonal
    return g / (diagonal + eps)


def _unbias(moment: PyTree, b2: Any, count: Int[Array, ""]) -> PyTree:
    def corrected(v: Array) -> Array:
        t = count.astype(v.dtype)
        # 1 − bᵗ without cancellation.
        return v / -jnp.expm1(t * jnp.log1p(-jnp.asarray(1 - b2, v.dtype)))

    return jax.tree.map(corrected, moment)


def _abs2(g: Array) -> Array:
    return jnp.real(g * jnp.conj(g))


def _real_dtype(leaf: Any) -> jnp.dtype:
    """float32 or float64, for complex leaves the format of their parts."""
    return jnp.finfo(at_least_float32(leaf)).dtype
