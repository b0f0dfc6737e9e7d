"""Fit a field to values at points; fit thousands of small fields at once.

min_θ  mean_i |u_θ(x_i) − y_i|²
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


class Fitted(NamedTuple):
    """The field (or fields, stacked along a leading axis), and the loss before every step."""

    field: Any
    losses: Float[Array, "*n steps"]


def fit_field(
    field: Callable[[Any], Array],
    coords: PyTree[Float[Array, "n ..."]],
    values: Float[Array, "n *c"],
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
) -> Fitted:
    """Fits a field to values, as one `lax.scan`: it may be jitted and vmapped.

    **Arguments:**

    - `field`: u with weights.
    - `coords`, `values`: points, shape (n, d), and what the field shall be there. Points may be a
        pytree of arrays with n rows, if the field takes that (`NeuRBF.locate`).
    - `optimizer`: Adam with a rate of 10⁻³ to 10⁻⁴ for `Siren`, 5·10⁻³ to 2·10⁻² for `Wire`.
    - `steps`: updates. `batch_size`: points in a step, with `key`; `None` is all.

    **Raises:** `ValueError` for shapes that do not fit, a batch size out of range or without key.
    """
    coords, values = jax.tree.map(jnp.asarray, coords), jnp.asarray(values)
    _check_data(coords, values, steps)
    n = values.shape[0]
    if batch_size is not None and (key is None or not 1 <= batch_size <= n):
        raise ValueError(f"batch_size = {batch_size}: expected from 1 to {n}, and a key")
    params, rest = eqx.partition(field, eqx.is_inexact_array)

    def loss(params: PyTree, x: PyTree, y: Array) -> Array:
        u = eqx.combine(params, rest)
        return jnp.mean((jax.vmap(u)(x) - y) ** 2)

    def step(carry: Any, i: Array) -> tuple[Any, Array]:
        params, state = carry
        x, y = coords, values
        if batch_size is not None:
            assert key is not None
            chosen = jr.randint(jr.fold_in(key, i), (batch_size,), 0, n)
            x, y = jax.tree.map(lambda a: a[chosen], (coords, values))
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))
    return Fitted(eqx.combine(params, rest), losses)


def fit_many(
    field: Callable[[Array], Array],
    coords: PyTree[Float[Array, "n ..."]],
    values: Float[Array, "many n *c"],
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
) -> Fitted:
    """Fits one small field to each of many signals, all at once, from the same start.

    The shared start makes the weights of the fields comparable, as data for models of fields;
    `weights_matrix` flattens them.

    **Arguments:** as `fit_field`; `values` has one more axis in front.

    **Returns:** the fields, stacked: `jax.vmap` evaluates them all, `field_at(fields, i)` is one.

    **Raises:** as `fit_field`.
    """
    coords, values = jax.tree.map(jnp.asarray, coords), jnp.asarray(values)
    if values.ndim < 2:
        raise ValueError(f"fit_many: values of shape {values.shape}, expected (many, n, …)")

    @eqx.filter_jit
    def run(field: Any, coords: PyTree, values: Array) -> Fitted:
        params, rest = eqx.partition(field, eqx.is_array)

        def one(y: Array) -> Any:
            start = eqx.combine(params, rest)
            fitted = fit_field(
                start, coords, y, optimizer, steps=steps, batch_size=batch_size, key=key
            )
            return eqx.filter(fitted.field, eqx.is_array), fitted.losses

        found, losses = jax.vmap(one)(values)
        return Fitted(eqx.combine(found, rest), losses)

    return run(field, coords, values)


def field_at(fields: PyTree, i: int) -> Any:
    """The i-th of stacked fields."""
    return jax.tree.map(lambda a: a[i] if eqx.is_array(a) else a, fields)


def weights_matrix(fields: PyTree) -> tuple[Float[Array, "many w"], Callable[[Array], Any]]:
    """The weights of stacked fields as rows, in a fixed order, and what makes a field of a row."""
    params, rest = eqx.partition(fields, eqx.is_inexact_array)
    rows = jax.vmap(lambda p: ravel_pytree(p)[0])(params)
    first, static = field_at(params, 0), field_at(rest, 0)
    unravel = ravel_pytree(first)[1]
    return rows, lambda row: eqx.combine(unravel(row), static)


def image_coordinates(height: int, width: int) -> Float[Array, "n 2"]:
    """The centres of an image's pixels in [−1, 1]², row by row: (down, right).

    **Raises:** `ValueError` for sizes below 1.
    """
    if height < 1 or width < 1:
        raise ValueError(f"image_coordinates: {height} × {width}, expected at least one pixel")
    axes = [(jnp.arange(n) + 0.5) / n * 2 - 1 for n in (height, width)]
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def psnr(
    found: Float[Array, "*n"], wanted: Float[Array, "*n"], peak: float = 1.0
) -> Float[Array, ""]:
    """Peak signal-to-noise ratio in decibels, 10 log₁₀(peak²/mean (found − wanted)²).

    **Raises:** `ValueError` for different shapes or a peak that is not positive.
    """
    if jnp.shape(found) != jnp.shape(wanted) or not peak > 0:
        raise ValueError(
            f"psnr: shapes {jnp.shape(found)} and {jnp.shape(wanted)}, peak {peak}: expected equal "
            "shapes and a positive peak"
        )
    return 10 * jnp.log10(peak**2 / jnp.mean((found - wanted) ** 2))


def _check_data(coords: PyTree, values: Array, steps: int) -> None:
    shapes = [a.shape for a in jax.tree.leaves(coords)]
    alone = isinstance(coords, Array)
    fits = values.ndim >= 1 and all(shape[:1] == values.shape[:1] for shape in shapes)
    if not shapes or not fits or (alone and coords.ndim != 2):
        shown = shapes[0] if alone else shapes
        raise ValueError(
            f"coords of shape {shown} and values of shape {values.shape}: expected (n, d), (n, …)"
        )
    if steps < 1:
        raise ValueError(f"steps = {steps}: expected at least 1")
