"""An exponential moving average of the weights, as a part of an optimiser.

    ζ_t = ρ ζ_{t−1} + (1 − ρ) θ_t,   ζ₀ = θ₀

with θ_t the weights *after* the update. For another batch size ρ becomes ρ^κ
(`jaxsci.optim.HyperScale`; Busbridge et al., arXiv:2307.13813).
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree


class ParamEmaState(NamedTuple):
    """Steps; the weight that the average already has (1 without debiasing); the average."""

    count: Int[Array, ""]
    mass: Float[Array, ""]
    ema_params: PyTree


def param_ema(
    rho: optax.ScalarOrSchedule = 0.999,
    debias: bool = False,
    start_step: int = 0,
    every: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """Averages the weights and leaves the updates as they are; the *last* part of a chain.

        tx = optax.chain(optax.adam(1e-3), param_ema(0.999))
        averaged = ema_of(state)

    (`optax.ema` averages updates; this one params.) Averages of half-precision weights are kept in
    single precision, where (1 − ρ)(θ − ζ) is not lost against ζ.

    **Arguments:**

    - `rho`: ρ in [0, 1), or a schedule of the step. A number is best for ρ close to 1: 1 − ρ is
        then formed in double precision, in a schedule with an error of 1e-7.
    - `debias`: leave θ₀ out: ζ_t = Σ_s c_s θ_s / Σ_s c_s over s = 1 … t. It is another method in
        the first 1/(1 − ρ) steps.
    - `start_step`: up to that step the average is the weights themselves.
    - `every`: average every so many steps only, with ρ^every.

    **Returns:** an optax transformation with a `ParamEmaState`.

    **Raises:** `ValueError` for `rho` outside [0, 1), `start_step` < 0, `every` < 1, or if
    `update` gets no params.
    """
    if isinstance(rho, int | float) and not 0 <= rho < 1:
        raise ValueError(f"rho = {rho}: expected a number in [0, 1)")
    if isinstance(start_step, int) and start_step < 0:
        raise ValueError(f"start_step = {start_step}: expected an integer >= 0")
    if isinstance(every, int) and every < 1:
        raise ValueError(f"every = {every}: expected an integer >= 1")

    def wide(leaf: Any) -> Array:
        return jnp.array(leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32))

    def init(params: PyTree) -> ParamEmaState:
        average = jax.tree.map(lambda leaf: jnp.array(wide(leaf), copy=True), params)
        mass = jnp.zeros(()) if debias else jnp.ones(())
        return ParamEmaState(jnp.zeros((), jnp.int32), mass, average)

    def update(
        updates: PyTree, state: ParamEmaState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, ParamEmaState]:
        if params is None:
            raise ValueError("param_ema: update needs params, got None")
        count = jnp.asarray(optax.safe_increment(state.count))
        fresh, kept = _weights(rho, every, count)
        due = count % every == 0
        copied = count <= start_step
        mass = jnp.where(due, kept * state.mass + fresh, state.mass)
        # After a copy the average is one of one point, or (without debiasing) the start itself.
        mass = jnp.where(copied, state.mass, mass).astype(state.mass.dtype)
        weight = jnp.where(due, fresh / jnp.where(mass > 0, mass, 1), 0)

        def average(zeta: Array, theta: Array, step: Array) -> Array:
            new = (theta + step).astype(theta.dtype).astype(zeta.dtype)
            moved = zeta + weight.astype(jnp.real(zeta).dtype) * (new - zeta)
            return jnp.where(copied, new, moved)

        averaged = jax.tree.map(average, state.ema_params, params, updates)
        return updates, ParamEmaState(count, mass, averaged)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def _weights(rho: Any, every: Any, count: Array) -> tuple[Array, Array]:
    """1 − ρ^every and ρ^every."""
    if isinstance(rho, int | float) and isinstance(every, int):
        # (1 − ρ) itself where there is no power: no rounding of ρ^1.
        kept = float(rho) ** every
        return jnp.asarray(1 - kept, float), jnp.asarray(kept, float)
    now = jnp.asarray(rho(count - 1) if callable(rho) else rho, float)
    kept = now**every
    return 1 - kept, kept


def ema_of(state: optax.OptState, like: PyTree | None = None) -> PyTree:
    """The averaged weights in the state of an optimiser that has a `param_ema` somewhere.

    **Arguments:**

    - `state`: the optimiser's state, however nested.
    - `like`: weights whose formats the average shall have; `None` leaves it in its own.

    **Returns:** a tree like the weights.

    **Raises:** `ValueError` if there is no average in the state, or more than one.
    """
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, ParamEmaState))
    found = [leaf for leaf in leaves if isinstance(leaf, ParamEmaState)]
    if len(found) != 1:
        raise ValueError(f"state: expected one ParamEmaState in it, found {len(found)}")
    average = found[0].ema_params
    if like is None:
        return average
    return jax.tree.map(lambda z, p: z.astype(jnp.result_type(p)), average, like)
