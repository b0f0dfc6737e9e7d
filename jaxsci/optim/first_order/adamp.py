"""AdamP and SGDP: updates of scale-invariant weights without their radial part.

    u ← u − (ŵᵀu) ŵ,  ŵ = w/(‖w‖ + ε),     if  max |cos(g, w)| < δ / n^½

for a weight w of n entries: each row of a matrix (a channel), or else the whole array (a layer).
A loss that does not change with the length of w (before a normalisation layer) has gradients
orthogonal to w; momentum adds a radial part that only makes w longer and so the steps shorter
(Heo et al., arXiv:2006.08217).
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from .post import check_adam, post


def project_scale_invariant(
    update: Float[Array, "out *rest"],
    gradient: Float[Array, "out *rest"],
    weight: Float[Array, "out *rest"],
    delta: float = 0.1,
    eps: float = 1e-8,
    channel_axis: int = 0,
) -> tuple[Float[Array, "out *rest"], Array]:
    """The update without its radial part where the weight looks scale-invariant.

    Channels are tried first, then the whole layer; else the update is left as it is. Arrays of
    fewer than two axes (biases, gains) always are.

    **Arguments:**

    - `update`, `gradient`, `weight`: u, the raw g, and w, of one shape.
    - `delta`: threshold; `eps`: see above. `channel_axis`: 0 for Equinox and PyTorch, −1 for Flax.

    **Returns:** the update, and whether it was projected.
    """
    if weight.ndim < 2:
        return update, jnp.zeros((), bool)
    axis = channel_axis % weight.ndim
    others = tuple(i for i in range(weight.ndim) if i != axis)
    size = weight.shape[axis]

    def coefficient(ww: Array, gg: Array, gw: Array, wu: Array, n: int) -> tuple[Array, Array]:
        """β with u − β w the projected update, and whether w looks scale-invariant."""
        norms = jnp.maximum(jnp.sqrt(ww), eps) * jnp.maximum(jnp.sqrt(gg), eps)
        passed = jnp.max(jnp.abs(gw) / norms) < delta / jnp.sqrt(n)
        return wu / (jnp.sqrt(ww) + eps) ** 2, passed

    dtype = jnp.promote_types(weight.dtype, jnp.float32)
    u, g, w = (x.astype(dtype) for x in (update, gradient, weight))
    # One reduction of four sums: the arrays are read once and no product is stored. What the whole
    # layer needs are sums of those of its channels.
    ww, gg, gw, wu = jax.lax.reduce(
        (w * w, g * g, g * w, w * u),
        (jnp.zeros((), dtype),) * 4,
        lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)),
        others,
    )
    by_channel, channel = coefficient(ww, gg, gw, wu, weight.size // max(size, 1))
    whole = jnp.sum(jnp.stack([ww, gg, gw, wu]), 1)
    by_layer, layer = coefficient(whole[0], whole[1], whole[2], whole[3], weight.size)
    beta = jnp.where(channel, by_channel, jnp.where(layer, by_layer, 0))
    new = u - jnp.expand_dims(beta, others) * w
    return new.astype(update.dtype), channel | layer


def _projected(
    inner: optax.GradientTransformation,
    weight_decay: float,
    delta: float,
    wd_ratio: float,
    eps: float,
    channel_axis: int,
    decay_scale: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    if isinstance(delta, int | float) and not delta > 0:
        raise ValueError(f"delta = {delta}: expected a positive number")
    if isinstance(wd_ratio, int | float) and not 0 <= wd_ratio <= 1:
        raise ValueError(f"wd_ratio = {wd_ratio}: expected a number in [0, 1]")
    if isinstance(weight_decay, int | float) and not weight_decay >= 0:
        raise ValueError(f"weight_decay = {weight_decay}: expected a number >= 0")

    def correct(update: PyTree, gradient: PyTree, params: PyTree, own: PyTree):
        def one(u: Array, g: Array, w: Array) -> Array:
            if jnp.issubdtype(w.dtype, jnp.complexfloating):
                raise TypeError(f"adamp: expected real parameters, got dtype {w.dtype}")
            u, projected = project_scale_invariant(u, g, w, delta, eps, channel_axis)
            factor = weight_decay * decay_scale * jnp.where(projected, wd_ratio, 1.0)
            return u + (factor * w).astype(u.dtype)

        return jax.tree.map(one, update, gradient, params), own

    def check(params: PyTree) -> PyTree:
        for leaf in jax.tree.leaves(params):
            if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
                raise TypeError(
                    f"adamp: expected real parameters, got dtype {jnp.result_type(leaf)}"
                )
        return ()

    return post(inner, correct, check)


def adamp(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
    channel_axis: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Adam with the projection above, and decoupled weight decay.

    **Arguments:**

    - `learning_rate`, `b1`, `b2`, `eps`: as for Adam.
    - `weight_decay`: decoupled, as in AdamW; times `wd_ratio` where the update was projected, as
        decay does nothing good to a scale-invariant weight.
    - `delta`, `channel_axis`: see `project_scale_invariant`.

    **Returns:** an optax transformation, with Adam's memory.

    **Raises:** `ValueError` for arguments out of range, `TypeError` for complex parameters.
    """
    check_adam(b1, b2, eps)
    inner = optax.scale_by_adam(b1, b2, eps)
    return optax.chain(
        _projected(inner, weight_decay, delta, wd_ratio, eps, channel_axis),
        optax.scale_by_learning_rate(learning_rate),
    )


def sgdp(
    learning_rate: optax.ScalarOrSchedule = 0.1,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
    eps: float = 1e-8,
    channel_axis: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum and the projection above; weight decay is divided by 1 − momentum.

    The momentum itself is not projected, as in the paper; the authors' code projects it as well
    where `nesterov` is off, since it writes into the buffer.

    **Arguments:** as for `adamp`; `momentum` in [0, 1), `nesterov` as in `optax.sgd`.

    **Returns, Raises:** as `adamp`.
    """
    check_adam(momentum, 0.0, eps)
    inner = optax.trace(momentum, nesterov)
    scale = 1 / (1 - momentum)
    return optax.chain(
        _projected(inner, weight_decay, delta, wd_ratio, eps, channel_axis, scale),
        optax.scale_by_learning_rate(learning_rate),
    )
