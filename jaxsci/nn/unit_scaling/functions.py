"""Unit-scaled operations: inputs, outputs and gradients of size one go in and come out.

    y = s_y f(b_x x, …)        ∂L/∂x = b_x f'ᵀ ∂L/∂y

The factors depend on shapes and on the multiplier α of a nonlinearity (its "temperature") alone;
they are numbers when the program is compiled, and fold into its products. Multipliers are 1 by
default, which is a good value; sweep them one by one in factors of 2.

Leading axes are batch axes: apply these functions to whole batches. Where a layer is mapped over
examples by `vmap`, the size of the batch, which scales the gradients of weights, cannot be seen
from inside; give it as `tokens`.

Blake et al. 2024, arXiv:2407.17465, and their package `unit-scaling`, whose factors these are.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxsci.nn.norms import rms_normalise

from .float8 import Precision, float8_matmul
from .scales import Constraint, constrained, interpolate, positive, scale_bwd, scale_fwd

_RELU = (2 / (1 - 1 / math.pi)) ** 0.5  # 1 / standard deviation of max(z, 0), z ~ N(0, 1)


def _apply(fn, x, forward, backward, constraint):
    forward, backward = constrained(constraint, forward, backward)
    return scale_fwd(fn(scale_bwd(x, backward)), forward)


def elementwise(
    fn: Callable[[Array], Array], constraint: Constraint = "output"
) -> Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]:
    """Any activation, unit-scaled: y = f(x)/std f(z), z ~ N(0, 1); gradients by rms f'(z).

    The two moments come from Gauss-Hermite quadrature with 128 nodes, in the run's precision.

    **Arguments:** `fn`: a smooth function of each number, such as `jnp.tanh`. `constraint`: see
    `constrained`.

    **Returns:** the scaled function.

    **Raises:** `ValueError` if f is constant or has no finite moments.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(128)
    weights = weights / weights.sum()
    with jax.ensure_compile_time_eval():
        z = jnp.asarray(nodes)
        values, slopes = (np.asarray(a, float) for a in jax.jvp(fn, (z,), (jnp.ones_like(z),)))
    spread = float(np.sqrt(weights @ (values - weights @ values) ** 2))
    slope = float(np.sqrt(weights @ slopes**2))
    if not (0 < spread < math.inf and 0 < slope < math.inf):
        raise ValueError(f"fn has std {spread} and slope {slope} on N(0, 1): it cannot be scaled")

    def scaled(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return _apply(fn, x, 1 / spread, 1 / slope, constraint)

    return scaled


def gelu(
    x: Float[Array, "*shape"],
    mult: float = 1.0,
    *,
    approximate: bool = False,
    constraint: Constraint = "output",
) -> Float[Array, "*shape"]:
    """The function s(α) gelu(α x)/α, with s from 2 (linear, α → 0) to 1/std of the ReLU (α → ∞).

    **Arguments:** `mult`: α > 0. `approximate`: by tanh. `constraint`: see `constrained`.

    **Raises:** `ValueError` for α ≤ 0.
    """
    mult = positive("mult", mult)
    weight = 1 / (1 + 0.25 / mult**2)
    return _apply(
        lambda x: jax.nn.gelu(x * mult, approximate=approximate) / mult,
        x,
        interpolate(weight, 2, _RELU),
        interpolate(weight, 2, 2**0.5),
        constraint,
    )


def silu(
    x: Float[Array, "*shape"], mult: float = 1.0, *, constraint: Constraint = "output"
) -> Float[Array, "*shape"]:
    """Swish, s(α) x σ(α x), with s as for `gelu`; arguments as there."""
    mult = positive("mult", mult)
    return _apply(
        lambda x: x * jax.nn.sigmoid(x * mult),
        x,
        interpolate(1 / (1 + 0.25 / mult**2), 2, _RELU),
        interpolate(1 / (1 + 1 / mult**2), 2, 2**0.5),
        constraint,
    )


def silu_glu(
    x: Float[Array, "*shape"], gate: Float[Array, "*shape"], mult: float = 1.0
) -> Float[Array, "*shape"]:
    """The product s(α) x g σ(α g), the gated unit of SwiGLU networks, s from 2 to √2.

    **Arguments:** `x`, `gate`: of one shape. `mult`: α > 0.

    **Raises:** `ValueError` for α ≤ 0 or different shapes.
    """
    if jnp.shape(x) != jnp.shape(gate):
        raise ValueError(f"gate: expected the shape of x, {jnp.shape(x)}, got {jnp.shape(gate)}")
    mult = positive("mult", mult)
    scale = interpolate(1 / (1 + 1 / mult**2), 2, 2**0.5)
    x, gate = scale_bwd(x, scale), scale_bwd(gate, scale)
    return scale_fwd(x * gate * jax.nn.sigmoid(gate * mult), scale)


def softmax(
    x: Float[Array, "*shape"],
    mult: float = 1.0,
    *,
    axis: int = -1,
    constraint: Constraint = "output",
) -> Float[Array, "*shape"]:
    """The function s softmax(α x), s from n (flat, α → 0) to √n (one-hot, α → ∞); sums to s.

    **Arguments:** `mult`: α > 0. `axis`: the n classes. `constraint`: see `constrained`.

    **Raises:** `ValueError` for α ≤ 0.
    """
    mult = positive("mult", mult)
    n = x.shape[axis]
    weight = 1 / (1 + 4 / mult**2)
    return _apply(
        lambda x: jax.nn.softmax(x * mult, axis),
        x,
        interpolate(weight, n, n**0.5),
        interpolate(weight, n / mult, (n / mult) ** 0.5),
        constraint,
    )


def dropout(
    x: Float[Array, "*shape"], p: float, *, key: PRNGKeyArray | None
) -> Float[Array, "*shape"]:
    """Zeroes at random: x m/√(1−p), m ~ Bernoulli(1−p), which keeps the mean square.

    **Arguments:** `p`: in [0, 1), the share set to zero. `key`: `None` is inference, where the
    result is √(1−p) x.

    **Raises:** `ValueError` for p outside [0, 1).
    """
    if not 0 <= p < 1:
        raise ValueError(f"p = {p}: expected a number in [0, 1)")
    scale = (1 - p) ** 0.5
    if key is None:
        return x * scale
    return jnp.where(jr.bernoulli(key, 1 - p, x.shape), x / scale, jnp.zeros_like(x))


def matmul(
    left: Float[Array, "*batch m k"],
    right: Float[Array, "*batch k n"],
    *,
    constraint: Constraint = "output",
) -> Float[Array, "*batch m n"]:
    """A B/√k of two activations; gradients want 1/√n and 1/√m.

    **Arguments:** `left`, `right`: at least two axes each. `constraint`: see `constrained`.

    **Raises:** `ValueError` for other shapes.
    """
    if left.ndim < 2 or right.ndim < 2 or left.shape[-1] != right.shape[-2]:
        raise ValueError(f"right: {right.shape} does not follow left: {left.shape}")
    m, k, n = left.shape[-2], left.shape[-1], right.shape[-1]
    out, of_left, of_right = constrained(constraint, k**-0.5, n**-0.5, m**-0.5)
    return scale_fwd(scale_bwd(left, of_left) @ scale_bwd(right, of_right), out)


def linear(
    x: Float[Array, "*batch fan_in"],
    weight: Float[Array, "fan_out fan_in"],
    bias: Float[Array, " fan_out"] | None = None,
    *,
    constraint: Constraint = "output",
    power: float = 0.5,
    tokens: int | None = None,
    precision: Precision = None,
) -> Float[Array, "*batch fan_out"]:
    """The map y = fan_in^(−p) (x Wᵀ + b), ∂x by fan_out^(−1/2), ∂W and ∂b by 1/√tokens.

    **Arguments:**

    - `x`, `weight`, `bias`: W of size one; for b = 0 at the start.
    - `constraint`: see `constrained`; "output" for hidden layers, `None` for the network's last.
    - `power`: p, 1/2 for hidden layers and 1 for the network's last.
    - `tokens`: number of vectors x in a step; by default counted from the leading axes.
    - `precision`: `None` for that of the arrays, or see `float8_matmul`.

    **Raises:** `ValueError` for shapes that do not fit or `tokens` < 1.
    """
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"weight: {weight.shape} does not act on the last axis of x: {x.shape}")
    fan_out, fan_in = weight.shape
    forward, backward = constrained(constraint, fan_in**-power, fan_out**-0.5)
    of_weight = _count(tokens, x.shape[:-1]) ** -0.5
    x, weight = scale_bwd(x, backward), scale_bwd(weight, of_weight)
    y = x @ weight.T if precision is None else float8_matmul(x, weight, precision)
    if bias is not None:
        y = y + scale_bwd(bias, of_weight)
    return scale_fwd(y, forward)


def embedding(
    index: Int[Array, "*batch"],
    weight: Float[Array, "n c"],
    *,
    tokens: int | None = None,
) -> Float[Array, "*batch c"]:
    """Row `index` of W; the gradient of W is scaled by √(n/tokens): a row is met tokens/n times.

    **Arguments:** `index`: integers in [0, n). `weight`: of size one. `tokens`: see `linear`.

    **Raises:** `TypeError` if `index` is not of integers.
    """
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"index: expected integers, got dtype {index.dtype}")
    scale = (weight.shape[0] / _count(tokens, index.shape)) ** 0.5
    return scale_bwd(weight, scale)[index]


def layer_norm(
    x: Float[Array, "*batch c"],
    weight: Float[Array, " c"] | None = None,
    bias: Float[Array, " c"] | None = None,
    *,
    eps: float = 1e-5,
    tokens: int | None = None,
) -> Float[Array, "*batch c"]:
    """(x − mean)/√(var + ε) · g + b over the last axis; ∂g and ∂b by 1/√tokens.

    **Arguments:** `weight`, `bias`: g and b, if any. `eps`: ε. `tokens`: see `linear`.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = (wide - wide.mean(-1, keepdims=True)).astype(x.dtype)
    return _affine(
        rms_normalise(centred, eps=eps, eps_inside=True), weight, bias, _count(tokens, x.shape[:-1])
    )


def rms_norm(
    x: Float[Array, "*batch c"],
    weight: Float[Array, " c"] | None = None,
    *,
    eps: float = 1e-5,
    tokens: int | None = None,
) -> Float[Array, "*batch c"]:
    """x/√(mean x² + ε) · g over the last axis; ∂g by 1/√tokens. Arguments as for `layer_norm`."""
    normal = rms_normalise(x, eps=eps, eps_inside=True)
    return _affine(normal, weight, None, _count(tokens, x.shape[:-1]))


def attention(
    query: Float[Array, "*batch n heads d"],
    key: Float[Array, "*batch m heads d"],
    value: Float[Array, "*batch m heads d"],
    *,
    mult: float = 1.0,
    causal: bool = False,
    mask: Bool[Array, "*batch heads n m"] | None = None,
) -> Float[Array, "*batch n heads d"]:
    """Attention s Σ_j softmax_j(α q·k_j/d) v_j: over d, not √d, as trained q and k align.

    An average of m independent values shrinks, to √(log m/m) if causal (the harmonic sum of
    1/i over positions i) and to √(1/m) otherwise; sharp attention (α² ≫ 4d) does not. 1/s lies
    between.

    **Arguments:**

    - `query`, `key`, `value`: with the axes of `jax.nn.dot_product_attention`, which does the work.
    - `mult`: α > 0. `causal`: i attends to j ≤ i.
    - `mask`: pairs that attend; s does not know of it.

    **Raises:** `ValueError` for α ≤ 0 or shapes that do not fit.
    """
    if query.ndim < 3 or key.shape != value.shape or query.shape[-2:] != key.shape[-2:]:
        raise ValueError(
            "expected query (*batch, n, heads, d), key and value (*batch, m, heads, d), got "
            f"{query.shape}, {key.shape}, {value.shape}"
        )
    mult = positive("mult", mult)
    m, d = value.shape[-3], value.shape[-1]
    # log 1 = 0, but a single value is no average: it keeps its size.
    share = math.log(m) / m if causal and m > 1 else 1 / m
    scale = 1 / interpolate(1 / (1 + 4 * d / mult**2), share**0.5, 1.0)
    batch = query.shape[:-3]
    q, k, v = (scale_bwd(a, scale).reshape(-1, *a.shape[-3:]) for a in (query, key, value))
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*batch, *mask.shape[-3:])).reshape(-1, *mask.shape[-3:])
    out = jax.nn.dot_product_attention(q, k, v, mask=mask, scale=mult / d, is_causal=causal)
    return scale_fwd(out.reshape(query.shape), scale)


def cross_entropy(
    logits: Float[Array, "*batch classes"],
    labels: Int[Array, "*batch"],
    *,
    mult: float = 1.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Array, ""]:
    """Mean of −log softmax(α z)_label, with the gradient of the *sum*, times V/√(V−1).

    So the gradient with respect to the logits has size one for flat predictions, whatever the
    batch and the number of classes V.

    **Arguments:** `logits`, `labels`: a whole batch. `mult`: α > 0, the same at every width.

    **Raises:** `ValueError` for shapes that do not fit, fewer than two classes, α ≤ 0, or another
    reduction; `TypeError` for labels that are not integers.
    """
    if logits.ndim < 1 or logits.shape[:-1] != labels.shape:
        raise ValueError(f"labels: {labels.shape} do not fit logits: {logits.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels: expected integers, got dtype {labels.dtype}")
    classes = logits.shape[-1]
    if classes < 2:
        raise ValueError(f"logits: expected two classes or more, got {classes}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f'reduction = {reduction!r}: expected "mean" or "sum"')
    logits = scale_bwd(logits, classes / (classes - 1) ** 0.5)
    logits = jax.nn.log_softmax(scale_fwd(logits, positive("mult", mult)))
    total = -jnp.sum(jnp.take_along_axis(logits, labels[..., None], -1))
    return total if reduction == "sum" else scale_fwd(total, 1 / max(labels.size, 1))


def mse(
    prediction: Float[Array, "*shape"],
    target: Float[Array, "*shape"],
    *,
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Array, ""]:
    """Mean of (p − t)², with the gradient of the *sum*, over √8: size one for independent p, t.

    **Arguments:** `prediction`, `target`: whole batches, of size one.

    **Raises:** `ValueError` for different shapes or another reduction.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"target: expected shape {prediction.shape}, got {target.shape}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f'reduction = {reduction!r}: expected "mean" or "sum"')
    total = jnp.sum((scale_bwd(prediction, 8**-0.5) - scale_bwd(target, 8**-0.5)) ** 2)
    return total if reduction == "sum" else scale_fwd(total, 1 / max(target.size, 1))


def _count(tokens: int | None, batch: tuple[int, ...]) -> int:
    if tokens is None:
        return max(math.prod(batch), 1)
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise ValueError(f"tokens = {tokens!r}: expected a positive integer")
    return tokens


def _affine(normal, weight, bias, tokens):
    if weight is not None:
        normal = normal * scale_bwd(weight, tokens**-0.5).astype(normal.dtype)
    if bias is not None:
        normal = normal + scale_bwd(bias, tokens**-0.5).astype(normal.dtype)
    return normal
