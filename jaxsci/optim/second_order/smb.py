"""SMB: where a step of SGD fails, a model of two points chooses length and direction anew.

    trial:   s = −lr g,   accepted if f(x + s) ≤ f(x) − c lr ‖g‖²
    else, for each tensor with y = ∇f(x + s) − g:

    x⁺ = x − B⁻¹ g,   B = (2σ/‖s‖²) I + (s yᵀ + y sᵀ)/‖s‖²,   2σ = ‖s‖(‖y‖ + ‖g‖/η) − yᵀs

B is positive definite and the new step at most η times as long as the trial, so that it is always
downhill. It costs one gradient more and no memory. (Birbil, Martin, Onay, Öztoprak,
arXiv:2111.07058.)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..flat import at_least_float32

# Below this norm of the gradient no trial is questioned: the test would compare rounding errors.
STATIONARY = 1e-8

# A model step shorter than this, compared with the trial, says that the gradient there is a million
# times the one here: such a rate would be tried for ever.
USELESS = 1e-6


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
    finite, or whose gradient is a million times the one before, is not modelled: the weights stay
    and the rate halves.

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
            pending_grad = jax.tree.map(
                lambda p: jnp.zeros(jnp.shape(p), at_least_float32(p)), params
            )
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
        g = jax.tree.map(lambda leaf: leaf.astype(at_least_float32(leaf)), updates)
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
            """−B⁻¹ target, and whether it is of use: finite, and not lost beside the trial."""
            slope = jax.tree.map(jnp.conj, jax.grad(value_fn)(trial))
            y = jax.tree.map(lambda a, b: a.astype(b.dtype) - b, slope, g)
            step = _model_step(target, g, s, y, labels, eta)
            leaves = jax.tree.leaves(step), jax.tree.leaves(s)
            length, tried = (jnp.sqrt(_dots(x, x)) for x in leaves)
            useful = jnp.isfinite(length) & (length > USELESS * tried)
            return jax.tree.map(lambda a: jnp.where(useful, a, 0), step), useful

        pending, pending_grad = state.pending, state.pending_grad
        yes, no = jnp.array(True), jnp.array(False)
        if pending is None:
            good = accepted()
            step, useful = jax.lax.cond(good, lambda: (s, yes), lambda: model(g))
            modelled = ~good
        else:

            def new_trial() -> tuple[PyTree, Array, Array]:
                good = accepted()
                return jax.tree.map(lambda a: jnp.where(good, a, 0), s), yes, ~good

            def postponed() -> tuple[PyTree, Array, Array]:
                return *model(state.pending_grad), no

            modelled = pending
            step, useful, pending = jax.lax.cond(modelled, postponed, new_trial)
            pending_grad = g
        scale = jnp.where(useful, state.scale, state.scale / 2)
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
    """−B⁻¹ `target`, leaf by leaf with the numbers of its group.

    In the basis e₁ = s/‖s‖, e₂ (y = y₁ e₁ + y₂ e₂) and with T = ‖y‖ + r, r = ‖g‖/η, the matrix is

        ‖s‖ B = [[T + y₁, y₂], [y₂, T − y₁]] ⊕ (T − y₁) I,     determinant q = r (2‖y‖ + r)

    The sum c_g g + c_s s + c_y y of the paper is the same, but loses all digits where g, s and y
    are nearly parallel.
    """
    treedef = jax.tree.structure(target)
    parts = list(zip(*map(jax.tree.leaves, (target, g, s, y)), strict=True))
    step: list[Any] = [None] * len(parts)
    for label in dict.fromkeys(labels):
        members = [i for i, other in enumerate(labels) if other == label]
        targets, gs, ss, ys = zip(*(parts[i] for i in members), strict=True)
        norm_g, norm_s, norm_y = (jnp.sqrt(_dots(x, x)) for x in (gs, ss, ys))
        r = norm_g / eta
        active = (norm_s > 0) & (r > 0)
        a, r = (jnp.where(active, x, 1) for x in (norm_s, r))
        e1 = [leaf / a for leaf in ss]
        y1 = _dots(ys, e1)
        # Twice, so that rounding leaves nothing along e₁ where y is nearly parallel to it.
        across = _without(_without(ys, e1), e1)
        y2 = jnp.sqrt(_dots(across, across))
        y2 = jnp.where(y2 > 8 * jnp.finfo(y2.dtype).eps * norm_y, y2, 0)
        e2 = [jnp.where(y2 > 0, leaf / jnp.where(y2 > 0, y2, 1), 0) for leaf in across]
        t1, t2 = _dots(targets, e1), _dots(targets, e2)
        rest = _without(_without(targets, e1), e2)
        # ‖y‖ ∓ y₁ without cancellation.
        small = y2**2 / jnp.where(norm_y > 0, norm_y + jnp.abs(y1), 1)
        minus = r + jnp.where(y1 > 0, small, norm_y - y1)
        plus = r + jnp.where(y1 < 0, small, norm_y + y1)
        q = r * (2 * norm_y + r)
        along1, along2 = (minus * t1 - y2 * t2) / q, (plus * t2 - y2 * t1) / q
        for i, e1_leaf, e2_leaf, left in zip(members, e1, e2, rest, strict=True):
            solution = along1 * e1_leaf + along2 * e2_leaf + left / minus
            # An overflow must not pass for a step of length zero.
            solution = jnp.where(jnp.isfinite(norm_y), solution, jnp.nan)
            step[i] = jnp.where(active, -a * solution, 0).astype(parts[i][0].dtype)
    return jax.tree.unflatten(treedef, step)


def _dots(a: Sequence[Array], b: Sequence[Array]) -> Any:
    return sum(_dot(x, y) for x, y in zip(a, b, strict=True))


def _without(v: Sequence[Array], e: Sequence[Array]) -> list[Array]:
    """The part of v across a vector e of length one, v − (vᵀe) e."""
    along = _dots(v, e)
    return [x - along * y for x, y in zip(v, e, strict=True)]


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


def _common_dtype(params: PyTree) -> jnp.dtype:
    """The real format of scalars: that of the widest leaf, at least float32."""
    return jnp.result_type(
        jnp.float32, *(jnp.finfo(at_least_float32(leaf)).dtype for leaf in jax.tree.leaves(params))
    )
