"""One update of the weights, as a pure function."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree, Shaped

from .data.sources import AbstractSource
from .precision import Precision
from .state import TrainState

Loss = Callable[[Any, Any, PRNGKeyArray], Any]
Metrics = dict[str, Array]
Step = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


class StepContext(NamedTuple):
    """What an optimiser may ask about the step that it is part of (see `extra_args`).

    - `params`: the weights θ, as the optimiser sees them (None at the other leaves).
    - `value_fn`: θ ↦ L(θ) on this step's whole batch with this step's key; pure.
    - `build`: θ ↦ the model as the loss sees it, for Gauss-Newton products and the like.
    - `batch`, `key`, `step`: those of this step.
    """

    params: PyTree
    value_fn: Callable[[PyTree], Array]
    build: Callable[[PyTree], Any]
    batch: Any
    key: PRNGKeyArray
    step: Array


ExtraArgs = Callable[[StepContext], Mapping[str, Any]]


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    ema_decay: float | None = None,
    precision: Precision | None = None,
    extra_args: ExtraArgs | None = None,
) -> Step:
    """One optimisation step,

        g = ∇_θ L(θ; batch, key),   θ ← θ + optimizer(g),   θ̄ ← θ̄ + w_t (θ − θ̄),
        w_t = (1 − d) / (1 − dᵗ),

    where θ̄ is the exponential moving average with decay d: the recursion gives
    θ̄_t = Σ_s d^(t−s) θ_s / Σ_s d^(t−s) directly, so the average of the first steps is not biased
    towards the initial weights or towards zero.

    **Arguments:**

    - `loss`: `loss(model, batch, key) -> scalar`, or `(scalar, {name: scalar})`. A mean over the
        batch, if the batch is to be split.
    - `optimizer`: any optax transformation. One with extra arguments gets `value` = L, `grad` = g
        and `value_fn` = θ ↦ L(θ) on the same batch, so line searches (`optax.lbfgs`) and
        second-order methods work.
    - `accumulate`: the batch is split into so many parts whose gradients are averaged: the memory
        of a small batch, the update of the big one. Part i takes every `accumulate`-th sample from
        i on (so a batch that is spread over devices stays spread), and the key `fold_in(key, i)`.
    - `ema_decay`: d in [0, 1), 0.999 is a good value; None keeps no average.
    - `precision`: mixed precision; None computes in the weights' own format.
    - `extra_args`: more keyword arguments for the optimiser, made from a `StepContext`: for
        example `lambda c: {"obj_fn": c.value_fn}`, or `{"hvp_fn": ..., "model_fn": ...}` for
        curvature. They are off by default because optax's line searches refuse unknown ones.

    **Returns:** `step(state, batch) -> (state, metrics)`, pure and jittable. `metrics` has `loss`,
    `grad_norm` and what the loss adds.

    **Raises:** `ValueError` for `accumulate` < 1, a decay outside [0, 1), a batch that does not
    split evenly, or a loss that is not a real scalar (when the step is traced); `TypeError` if
    `optimizer` is no optax transformation.
    """
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"make_step: accumulate={accumulate!r}, expected an integer >= 1")
    if ema_decay is not None and not 0 <= ema_decay < 1:
        raise ValueError(f"make_step: ema_decay={ema_decay!r}, expected a number in [0, 1)")
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"make_step: optimizer must be an optax transformation, got {optimizer!r}")
    transform = optax.with_extra_args_support(optimizer)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        params, rest = eqx.partition(state.model, eqx.is_inexact_array)
        key = jax.random.fold_in(state.key, state.step)

        def build(params):
            model = eqx.combine(params, rest)
            return model if precision is None else precision.wrap(model)

        def objective(params, part, key):
            return _value_and_metrics(loss(build(params), part, key), params)

        gradient = jax.value_and_grad(objective, has_aux=True)
        parts: Any = None
        keys: Any = None
        if accumulate == 1:
            (value, metrics), grads = gradient(params, batch, key)
        else:
            parts = jax.tree.map(lambda leaf: _split(leaf, accumulate), batch)
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(accumulate))
            (value, metrics), grads = _mean(
                lambda part, key: gradient(params, part, key), parts, keys
            )

        def value_fn(params):
            if accumulate == 1:
                return objective(params, batch, key)[0]
            # Remat: the derivative of this mean needs the memory of one part, as the step's does.
            one = jax.checkpoint(lambda part, key: objective(params, part, key)[0])
            return _mean(one, parts, keys)

        more = {}
        if extra_args is not None:
            more = dict(extra_args(StepContext(params, value_fn, build, batch, key, state.step)))
        # JAX's gradient of a real function of complex weights is the conjugate of the direction
        # of ascent; optimisers want the latter.
        grads = jax.tree.map(jnp.conj, grads)
        updates, opt_state = transform.update(
            grads, state.opt_state, params, value=value, grad=grads, value_fn=value_fn, **more
        )
        params = optax.apply_updates(params, updates)
        count = state.step + 1
        new = TrainState(
            model=eqx.combine(params, rest),
            opt_state=opt_state,
            step=count,
            key=state.key,
            ema=state.ema if ema_decay is None else _average(state.ema, params, ema_decay, count),
            data=state.data,
        )
        return new, {"loss": value, "grad_norm": optax.tree.norm(grads), **metrics}

    return step


def make_steps(
    step: Step, source: AbstractSource, n_steps: int
) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
    """Several steps in one program: a `lax.scan` that draws a batch and steps, n times.

    **Arguments:**

    - `step`: from `make_step`.
    - `source`: a pure source; its state is `state.data`.
    - `n_steps`: how many steps.

    **Returns:** `steps(state) -> (state, metrics)`, where every metric has a leading axis of
    length n.

    **Raises:** `ValueError` for `n_steps` < 1.
    """
    if n_steps < 1:
        raise ValueError(f"make_steps: n_steps={n_steps!r}, expected an integer >= 1")

    def steps(state: TrainState) -> tuple[TrainState, Metrics]:
        dynamic, static = eqx.partition(state, eqx.is_array)

        def body(dynamic, _):
            state = eqx.combine(dynamic, static)
            batch, data = source.next(state.data)
            state, metrics = step(state, batch)
            state = eqx.tree_at(lambda s: s.data, state, data, is_leaf=lambda x: x is None)
            return eqx.filter(state, eqx.is_array), metrics

        dynamic, metrics = jax.lax.scan(body, dynamic, length=n_steps)
        return eqx.combine(dynamic, static), metrics

    return steps


def _value_and_metrics(result: Any, params: PyTree) -> tuple[Array, Metrics]:
    """Checks what the loss returned; the value at least in single precision."""
    value, metrics = result if isinstance(result, tuple) else (result, {})
    value = jnp.asarray(value)
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"loss must return a real scalar, got shape {value.shape} and dtype {value.dtype}"
        )
    if not isinstance(metrics, Mapping):
        raise ValueError(
            f"loss must return scalar or (scalar, dict of scalars), got {type(metrics).__name__} "
            "as the second item"
        )
    checked = {}
    for name, metric in metrics.items():
        metric = jnp.asarray(metric)
        if name in ("loss", "grad_norm", "step"):
            raise ValueError(f"loss returned a metric named {name!r}, a name that fit itself uses")
        if metric.shape != ():
            raise ValueError(f"loss returned metric {name!r} of shape {metric.shape}, not a scalar")
        if jnp.issubdtype(metric.dtype, jnp.complexfloating):
            raise ValueError(f"loss returned metric {name!r} of dtype {metric.dtype}, not real")
        checked[name] = metric.astype(jnp.promote_types(metric.dtype, jnp.float32))
    return value.astype(jnp.promote_types(value.dtype, jnp.float32)), checked


def _split(leaf: Shaped[Array, "batch ..."], parts: int) -> Shaped[Array, "parts share ..."]:
    if jnp.ndim(leaf) == 0 or leaf.shape[0] % parts != 0:
        raise ValueError(
            f"accumulate={parts} must divide the batch axis; the batch has an array of shape "
            f"{jnp.shape(leaf)}"
        )
    return jnp.moveaxis(leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]), 1, 0)


def _mean(function: Callable, parts: PyTree, keys: PRNGKeyArray) -> PyTree:
    """Mean of `function(part, key)` over the leading axis, one part at a time."""
    n = keys.shape[0]
    first = jax.tree.map(lambda leaf: leaf[0], parts)
    shapes = jax.eval_shape(function, first, keys[0])
    total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def body(total, part_and_key):
        return jax.tree.map(jnp.add, total, function(*part_and_key)), None

    total, _ = jax.lax.scan(body, total, (parts, keys))
    return jax.tree.map(lambda leaf: leaf / n, total)


def _average(ema: PyTree, params: PyTree, decay: float, count: Array) -> PyTree:
    """One step of the average; 1 − dᵗ as −expm1(t log d), which does not cancel for d near 1."""
    if ema is None:
        raise ValueError("make_step: ema_decay is given but the state keeps no average (ema=True)")
    if decay == 0:
        return params
    steps = count.astype(jnp.float32)
    weight = (1 - decay) / -jnp.expm1(steps * jnp.log(jnp.float32(decay)))
    return jax.tree.map(lambda m, p: m + weight.astype(jnp.real(m).dtype) * (p - m), ema, params)
