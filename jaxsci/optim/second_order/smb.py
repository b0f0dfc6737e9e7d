"""SMB: where a step of SGD fails, a model of two points chooses length and direction anew.

    trial:   s = −lr g,   accepted if f(x + s) ≤ f(x) − c lr ‖g‖²
    else, for each tensor with y = ∇f(x + s) − g:

    x⁺ = x − B⁻¹ g,   B = (2σ/‖s‖²) I + (s yᵀ + y sᵀ)/‖s‖²,   2σ = ‖s‖(‖y‖ + ‖g‖/η) − yᵀs

B is positive definite and the new step at most η times as long as the trial, so that it is always
downhill. It costs one gradient more and no memory. (Birbil, Martin, Onay, Öztoprak,
arXiv:2111.07058.)
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

# Below this norm of the gradient no trial is questioned: the test would compare rounding errors.
STATIONARY = 1e-8


class AutoSchedule(NamedTuple):
    """After each `window` steps, lr ← lr β if the share of model steps was above γ, else lr/β.

    - `window`: steps of an epoch. `gamma`: in (0, 1). `beta`: in (0, 1).
    - `lr_max`: no growth beyond.
    """

    window: int
    gamma: float = 0.05
    beta: float = 0.9
    lr_max: float = 20.0


class SmbState(NamedTuple):
    """State of `smb`.

    - `count`: steps so far. `scale`: factor of the learning rate. `window`: steps, and model steps,
        of the present window of an `AutoSchedule`.
    - `pending`, `pending_grad`: of `independent_batch`: whether the last trial failed, and the
        gradient there; else `None`.
    - `metrics`: `model_steps` so far; the last `lr`.
    """

    count: Int[Array, ""]
    scale: Float[Array, ""]
    window: Int[Array, "2"]
    pending: Bool[Array, ""] | None
    pending_grad: PyTree
    metrics: dict[str, Array]


def smb(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    eta: float = 0.99,
    c: float = 0.1,
    independent_batch: bool = False,
    autoschedule: AutoSchedule | None = None,
    groups: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD that mends its own failed steps, and so forgives a learning rate that is too large.

    `update` needs `value_fn`, of the batch of the gradient, and takes raw gradients: in a chain it
    comes first. Cost: an accepted step takes a gradient and a value, a model step a gradient more;
    no memory beyond SGD's.

    **Arguments:**

    - `learning_rate`: of the trial step; 1 is the authors' choice, 0.1 to 1 for networks.
    - `eta`: in (0, 1): a model step is at most this times as long as the trial.
    - `c`: in (0, 1): the decrease that a trial must reach, as a share of lr ‖g‖².
    - `independent_batch`: a failed trial is undone and the model is made with the *next* batch
        (SMBi), which makes it independent of the gradient that it is applied to. It cannot be
        checked that the next `value_fn` is one of another batch.
    - `autoschedule`: an `AutoSchedule` that adapts the rate after each epoch; with
        `independent_batch` its `gamma` counts half.
    - `groups`: labels for the leaves (a tree like the weights or a prefix of it, or a function of
        them); leaves with one label share a model. `None`: each leaf has its own.

    **Returns:** an optax transformation with an `SmbState`. A trial whose loss or gradient is not
    finite is not modelled: the weights stay and the rate halves.

    **Raises:** `ValueError` for options out of range, or without params or `value_fn`.
    """
    for name, value in (("eta", eta), ("c", c)):
        if isinstance(value, int | float) and not 0 < value < 1:
            raise ValueError(f"{name} = {value}: expected a number in (0, 1)")
    if isinstance(learning_rate, int | float) and not learning_rate > 0:
        raise ValueError(f"learning_rate = {learning_rate}: expected a positive number")
    if autoschedule is not None:
        _check_schedule(autoschedule)

    def init(params: PyTree) -> SmbState:
        dtype = _common_dtype(params)
        pending_grad = None
        if independent_batch:
            pending_grad = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), _work(p)), params)
        return SmbState(
            count=jnp.zeros((), jnp.int32),
            scale=jnp.ones((), dtype),
            window=jnp.zeros(2, jnp.int32),
            pending=jnp.zeros((), bool) if independent_batch else None,
            pending_grad=pending_grad,
            metrics={"model_steps": jnp.zeros((), jnp.int32), "lr": jnp.zeros((), dtype)},
        )

    def update(
        updates: PyTree, state: SmbState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, SmbState]:
        value_fn = extra.get("value_fn")
        if params is None or value_fn is None:
            missing = "params" if params is None else "the keyword argument value_fn"
            raise ValueError(f"smb: update needs {missing}; it is missing")
        count = jnp.asarray(optax.safe_increment(state.count))
        if not jax.tree.leaves(params):
            return updates, state._replace(count=count)
        dtype = state.scale.dtype
        base = learning_rate(state.count) if callable(learning_rate) else learning_rate
        lr = (jnp.asarray(base, dtype) * state.scale).astype(dtype)
        g = jax.tree.map(lambda leaf: leaf.astype(_work(leaf)), updates)
        s = jax.tree.map(lambda leaf: (-lr * leaf).astype(leaf.dtype), g)
        trial = optax.apply_updates(params, s)
        labels = _labels(params, groups)
        value = extra.get("value")
        value = jnp.asarray(value_fn(params) if value is None else value, dtype)

        def accepted() -> Array:
            squared = sum(_dot(a, a).astype(dtype) for a in jax.tree.leaves(g))
            enough = value_fn(trial) <= value - c * lr * squared
            return enough | (squared < STATIONARY**2)

        def model(target: PyTree) -> tuple[PyTree, Array]:
            """−B⁻¹ target, and whether it is finite."""
            slope = jax.tree.map(jnp.conj, jax.grad(value_fn)(trial))
            y = jax.tree.map(lambda a, b: a.astype(b.dtype) - b, slope, g)
            step = _model_step(target, g, s, y, labels, eta)
            finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(step)]))
            return jax.tree.map(lambda a: jnp.where(finite, a, 0), step), finite

        pending, pending_grad = state.pending, state.pending_grad
        yes, no = jnp.array(True), jnp.array(False)
        if pending is None:
            good = accepted()
            step, finite = jax.lax.cond(good, lambda: (s, yes), lambda: model(g))
            modelled = ~good
        else:

            def new_trial() -> tuple[PyTree, Array, Array]:
                good = accepted()
                return jax.tree.map(lambda a: jnp.where(good, a, 0), s), yes, ~good

            def postponed() -> tuple[PyTree, Array, Array]:
                return *model(state.pending_grad), no

            modelled = pending
            step, finite, pending = jax.lax.cond(modelled, postponed, new_trial)
            pending_grad = g
        scale = jnp.where(finite, state.scale, state.scale / 2)
        window = state.window
        if autoschedule is not None:
            scale, window = _reschedule(
                autoschedule, window, modelled, lr, scale, 0.5 if independent_batch else 1.0
            )
        new_state = SmbState(
            count=count,
            scale=scale.astype(dtype),
            window=window,
            pending=pending,
            pending_grad=pending_grad,
            metrics={
                "model_steps": state.metrics["model_steps"] + modelled.astype(jnp.int32),
                "lr": lr,
            },
        )
        return jax.tree.map(lambda a, b: a.astype(b.dtype), step, updates), new_state

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def _model_step(
    target: PyTree, g: PyTree, s: PyTree, y: PyTree, labels: list[Any], eta: Any
) -> PyTree:
    """−B⁻¹ `target` = c_g target + c_s s + c_y y, leaf by leaf with the coefficients of its group.

    With T = ‖y‖ + r and r = ‖g‖/η, written so that nothing cancels and no fourth power appears:

        c_g = −‖s‖ / (T − yᵀs/‖s‖),     q = r (2‖y‖ + r)
        c_s = c_g (−T yᵀt/‖s‖ + ‖y‖² sᵀt/‖s‖²)/q,     c_y = c_g (−T sᵀt/‖s‖ + yᵀt)/q
    """
    treedef = jax.tree.structure(target)
    parts = list(zip(*map(jax.tree.leaves, (target, g, s, y)), strict=True))
    step: list[Any] = [None] * len(parts)
    for label in dict.fromkeys(labels):
        members = [i for i, other in enumerate(labels) if other == label]

        def total(a: int, b: int, members: list[int] = members) -> Any:
            return sum(_dot(parts[i][a], parts[i][b]) for i in members)

        st, yt, ys = total(2, 0), total(3, 0), total(3, 2)
        norm_g, norm_s, norm_y = (jnp.sqrt(total(k, k)) for k in (1, 2, 3))
        r = norm_g / eta
        active = (norm_s > 0) & (r > 0)
        a, r = (jnp.where(active, x, 1) for x in (norm_s, r))
        T, q = norm_y + r, r * (2 * norm_y + r)
        # At least r by the inequality of Cauchy and Schwarz, which rounding may violate.
        c_g = jnp.where(active, -a / jnp.maximum(T - ys / a, r), 0)
        c_s = c_g * (-T * (yt / a) + norm_y**2 * (st / a / a)) / q
        c_y = c_g * (-T * (st / a) + yt) / q
        for i in members:
            t, _, s_leaf, y_leaf = parts[i]
            step[i] = (c_g * t + c_s * s_leaf + c_y * y_leaf).astype(t.dtype)
    return jax.tree.unflatten(treedef, step)


def _reschedule(
    schedule: AutoSchedule,
    window: Int[Array, "2"],
    modelled: Array,
    lr: Array,
    scale: Array,
    share: float,
) -> tuple[Array, Array]:
    """The next factor of the rate, and the next window."""
    window = window + jnp.stack([jnp.ones((), jnp.int32), modelled.astype(jnp.int32)])
    full = window[0] >= schedule.window
    many = window[1] > share * schedule.gamma * window[0]
    grown = jnp.where(lr / schedule.beta <= schedule.lr_max, scale / schedule.beta, scale)
    new = jnp.where(full, jnp.where(many, scale * schedule.beta, grown), scale)
    return new, jnp.where(full, 0, window)


def _labels(params: PyTree, groups: PyTree | Callable[[PyTree], PyTree] | None) -> list[Any]:
    if groups is None:
        return list(range(len(jax.tree.leaves(params))))
    chosen = groups(params) if callable(groups) else groups
    spread = jax.tree.map(lambda label, part: jax.tree.map(lambda _: label, part), chosen, params)
    return jax.tree.leaves(spread)


def _check_schedule(schedule: AutoSchedule) -> None:
    if not (isinstance(schedule.window, int) and schedule.window >= 1):
        raise ValueError(f"window = {schedule.window!r}: expected an integer >= 1")
    for name, value in (("gamma", schedule.gamma), ("beta", schedule.beta)):
        if not 0 < value < 1:
            raise ValueError(f"{name} = {value}: expected a number in (0, 1)")
    if not schedule.lr_max > 0:
        raise ValueError(f"lr_max = {schedule.lr_max}: expected a positive number")


def _dot(a: Array, b: Array) -> Array:
    return jnp.real(jnp.vdot(a, b))


def _work(leaf: Any) -> jnp.dtype:
    return jnp.promote_types(jnp.result_type(leaf), jnp.float32)


def _common_dtype(params: PyTree) -> jnp.dtype:
    """The real format of scalars: that of the widest leaf, at least float32."""
    return jnp.result_type(
        jnp.float32, *(jnp.finfo(_work(leaf)).dtype for leaf in jax.tree.leaves(params))
    )
