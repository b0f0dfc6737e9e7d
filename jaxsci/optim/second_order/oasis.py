"""OASIS: the Hessian's diagonal as preconditioner, and a step size from the change of the gradient.

    D₀ = mean of several z ⊙ H₀z,    D_t = b2 D_{t−1} + (1 − b2) z ⊙ H_t z,    z random signs
    D̂ = max(|D_t|, α)
    η_t = min{ (1 + θ_{t−1})^½ η_{t−1},  ½ ‖w_t − w_{t−1}‖_D̂ / ‖g_t − g_{t−1}‖_D̂⁻¹ }
    θ_t = η_t/η_{t−1}
    w_{t+1} = w_t − η_t D̂⁻¹ g_t

with ‖x‖²_D̂ = Σ D̂_i x_i². Both gradients in the step size are of one batch. With D̂ = I this is
adaptive gradient descent (Malitsky, Mishchenko, arXiv:1910.09529). Jahani et al., arXiv:2109.05198.
"""

from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jaxsci.autodiff import Hessian, hutchinson_diag

from ..flat import at_least_float32, work_dtype

# θ₀ is infinite in the paper, which would leave NaN in derivatives of a run; its root is a
# thousandfold growth of the step size in the first step.
FIRST_THETA = 1e6


class OasisState(NamedTuple):
    """State of `scale_by_oasis`; all but `count` and `previous` at least in float32.

    - `count`: steps so far. `diagonal`: D. `momentum`: the averaged gradient, `None` if b1 = 0.
    - `previous`: the last weights, and `previous_grad` (only with `full_batch`) the gradient there;
        both `None` if the step size is given.
    - `eta`, `theta`: the step size and its last growth.
    """

    count: Int[Array, ""]
    diagonal: PyTree
    momentum: PyTree
    previous: PyTree
    previous_grad: PyTree
    eta: Float[Array, ""]
    theta: Float[Array, ""]


def scale_by_oasis(
    *,
    adaptive: bool = True,
    b1: float = 0.0,
    b2: float = 0.99,
    alpha: float = 1e-3,
    n_probes: int = 1,
    warm_probes: int = 10,
    eta0: float = 1e-3,
    full_batch: bool = False,
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformationExtraArgs:
    """η D̂⁻¹ g in place of the gradient (η = 1 if not `adaptive`); `oasis` explains all else."""
    for name, value in (("b1", b1), ("b2", b2)):
        if isinstance(value, int | float) and not 0 <= value < 1:
            raise ValueError(f"{name} = {value}: expected a number in [0, 1)")
    for name, value in (("alpha", alpha), ("eta0", eta0)):
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{name} = {value}: expected a positive number")
    for name, value in (("n_probes", n_probes), ("warm_probes", warm_probes)):
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{name} = {value!r}: expected an integer >= 1")
    use_momentum = not (isinstance(b1, int | float) and b1 == 0)
    root_key = jax.random.key(0) if key is None else key

    def init(params: PyTree) -> OasisState:
        dtype = work_dtype(params, "oasis")

        def zeros() -> PyTree:
            return jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), at_least_float32(p)), params)

        return OasisState(
            count=jnp.zeros((), jnp.int32),
            diagonal=zeros(),
            momentum=zeros() if use_momentum else None,
            previous=jax.tree.map(jnp.zeros_like, params) if adaptive else None,
            previous_grad=zeros() if adaptive and full_batch else None,
            eta=jnp.asarray(eta0 if adaptive else 1.0, dtype),
            theta=jnp.asarray(FIRST_THETA, dtype),
        )

    def update(
        updates: PyTree, state: OasisState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, OasisState]:
        if params is None:
            raise ValueError("oasis: update needs params, got None")
        count = jnp.asarray(optax.safe_increment(state.count))
        if not jax.tree.leaves(params):
            return updates, state._replace(count=count)
        first = state.count == 0
        operator = Hessian().at(params, **extra)
        given = extra.get("key")
        probe_key = jax.random.fold_in(root_key, state.count) if given is None else given

        def warm() -> PyTree:
            return _up(hutchinson_diag(operator, probe_key, warm_probes))

        def averaged() -> PyTree:
            sample = _up(hutchinson_diag(operator, probe_key, n_probes))
            return jax.tree.map(
                lambda d, s: (b2 * d + (1 - b2) * s).astype(d.dtype), state.diagonal, sample
            )

        # A counter shared by the lanes of a vmap keeps this a branch and not a select.
        diagonal = jax.lax.cond(first, warm, averaged)
        weights = jax.tree.map(lambda d: jnp.maximum(jnp.abs(d), alpha).astype(d.dtype), diagonal)

        grads = _up(updates)
        momentum = state.momentum
        if use_momentum:
            momentum = jax.tree.map(
                lambda m, g: jnp.where(first, g, b1 * m + (1 - b1) * g).astype(m.dtype),
                momentum,
                grads,
            )
            grads = momentum
        eta, theta = state.eta, state.theta
        previous_grad = state.previous_grad
        if adaptive:
            raw = _up(updates if extra.get("grad") is None else extra["grad"])
            if full_batch:
                before, previous_grad = previous_grad, raw
            elif extra.get("value_fn") is None:
                raise ValueError(
                    "oasis needs the keyword argument value_fn for its step size, unless "
                    "full_batch=True; it is missing"
                )
            else:
                before = _up(jax.grad(extra["value_fn"])(state.previous))
            moved = jax.tree.map(jnp.subtract, _up(params), _up(state.previous))
            changed = jax.tree.map(jnp.subtract, raw, before)
            eta, theta = _step_size(state, moved, changed, weights, first)
        direction = jax.tree.map(lambda g, d: g / d, grads, weights)
        new = jax.tree.map(lambda n, g: (eta * n).astype(g.dtype), direction, updates)
        previous = params if adaptive else None
        return new, OasisState(count, diagonal, momentum, previous, previous_grad, eta, theta)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def oasis(
    learning_rate: optax.ScalarOrSchedule | Literal["adaptive"] = "adaptive",
    *,
    b1: float = 0.0,
    b2: float = 0.99,
    alpha: float = 1e-3,
    n_probes: int = 1,
    warm_probes: int = 10,
    eta0: float = 1e-3,
    full_batch: bool = False,
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent scaled by a running estimate of the Hessian's diagonal, without a rate.

    For smooth problems whose variables have different scales. With noisy mini-batches the adaptive
    rate does not fall, and a tuned fixed one or a schedule ends lower. `update` needs `value_fn`
    (or `hvp_fn` and `full_batch`). Cost of a step: a gradient, a Hessian-vector product for each
    probe, and one gradient more at the last weights, which `full_batch` saves. Memory: 2 buffers,
    3 with `full_batch`.

    **Arguments:**

    - `learning_rate`: `"adaptive"`, or a number or schedule in place of η_t.
    - `b1`: momentum, in [0, 1); 0 is the method. With the adaptive rate it is not covered by the
        theory.
    - `b2`: memory of the diagonal; 0.95 to 0.999.
    - `alpha`: the least entry of D̂, in units of curvature; 1e-3 is a good first value, and matters
        more than `b2`. Far too small, and directions without curvature are run through.
    - `n_probes`, `warm_probes`: random signs in each step, and in the first.
    - `eta0`: the first step size; it is soon forgotten.
    - `full_batch`: the loss is the same function in each step, so that the last gradient can be
        kept. With mini-batches it would be one of another batch, and η mostly noise.
    - `key`: for the probes; step t uses `fold_in(key, t)`.

    **Returns:** an optax transformation; `state[0]` is an `OasisState`, with the step size in it.

    **Raises:** `ValueError` for options out of range or a missing `value_fn`; `TypeError` for
    parameters that are not real floating arrays.
    """
    if isinstance(learning_rate, str) and learning_rate != "adaptive":
        raise ValueError(
            f"learning_rate = {learning_rate!r}: expected 'adaptive', a number or a schedule"
        )
    return optax.chain(
        scale_by_oasis(
            adaptive=isinstance(learning_rate, str),
            b1=b1,
            b2=b2,
            alpha=alpha,
            n_probes=n_probes,
            warm_probes=warm_probes,
            eta0=eta0,
            full_batch=full_batch,
            key=key,
        ),
        optax.scale(-1.0)
        if isinstance(learning_rate, str)
        else optax.scale_by_learning_rate(learning_rate),
    )


def _step_size(
    state: OasisState, moved: PyTree, changed: PyTree, weights: PyTree, first: Array
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """η_t and θ_t."""
    dtype = state.eta.dtype
    along = _total(jax.tree.map(lambda x, d: jnp.sum(d * x**2).astype(dtype), moved, weights))
    across = _total(jax.tree.map(lambda y, d: jnp.sum(y**2 / d).astype(dtype), changed, weights))
    flat = across == 0
    ratio = jnp.sqrt(along / jnp.where(flat, 1, across)) / 2
    # No change of the gradient at all: at a minimum, to rounding. The step size stays.
    eta = jnp.where(flat, state.eta, jnp.minimum(jnp.sqrt(1 + state.theta) * state.eta, ratio))
    theta = jnp.where(flat, state.theta, eta / state.eta)
    return jnp.where(first, state.eta, eta), jnp.where(first, state.theta, theta)


def _total(tree: PyTree) -> Array:
    return jax.tree.reduce(jnp.add, tree)


def _up(tree: PyTree) -> PyTree:
    """All leaves at least in float32."""
    return jax.tree.map(lambda leaf: leaf.astype(at_least_float32(leaf)), tree)
