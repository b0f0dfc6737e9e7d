"""What each primitive does to a power series.

Linear primitives act on every coefficient, products make Cauchy sums, elementary functions follow
their differential equations (`series`), and piecewise linear ones choose by the value. Everything
else goes through `Differentiated` in `interpreter`: y' by `jax.jvp`, and the series of y' to one
order less.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from . import series as s
from .series import Series, constant

Rule = Callable[[Any, list[Series], int], list[Series]]


def bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The outputs of one equation of a jaxpr."""
    found = eqn.primitive.get_bind_params(eqn.params)
    # Older JAX returns the functions inside apart from the other parameters.
    subfuns, params = found if isinstance(found, tuple) else ((), found)
    out = eqn.primitive.bind(*subfuns, *values, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def _linear(eqn: Any, values: list[Series], order: int) -> list[Series]:
    """A primitive that is linear in all its active operands together."""
    moving = [v.active for v in values]
    if all(not jnp.issubdtype(out.aval.dtype, jnp.inexact) for out in eqn.outvars):
        return _constant(eqn, values, order)
    primals = bind(eqn, [v.primal for v in values])
    coefficients: list[list[Any]] = [[] for _ in primals]
    for k in range(order):
        parts = [v.coefficients[k] for v in values]
        if all(p is None for p in parts):
            outs: list[Any] = [None] * len(primals)
        else:
            operands = []
            for v, part, moves in zip(values, parts, moving, strict=True):
                # Operands that do not move are indices, or additive constants.
                additive = jnp.issubdtype(jnp.result_type(v.primal), jnp.inexact)
                zero = jnp.zeros_like(v.primal) if additive or moves else v.primal
                operands.append(zero if part is None else part)
            outs = bind(eqn, operands)
        for column, out in zip(coefficients, outs, strict=True):
            column.append(out)
    return [Series(p, tuple(c)) for p, c in zip(primals, coefficients, strict=True)]


def _add(eqn: Any, values: list[Series], order: int) -> list[Series]:
    a, b = values
    sign = -1 if eqn.primitive.name == "sub" else 1
    out = []
    for x, y in zip(a.coefficients, b.coefficients, strict=True):
        if y is None:
            out.append(x)
        elif x is None:
            out.append(y if sign == 1 else -y)
        else:
            out.append(x + y if sign == 1 else x - y)
    return [Series(bind(eqn, [a.primal, b.primal])[0], tuple(out))]


def _bilinear(eqn: Any, values: list[Series], order: int) -> list[Series]:
    a, b = values
    return [s.bilinear(lambda x, y: bind(eqn, [x, y])[0], a, b)]


def _unary(function: Callable[[Series], Series]) -> Rule:
    return lambda eqn, values, order: [function(values[0])]


def _integer_pow(eqn: Any, values: list[Series], order: int) -> list[Series]:
    return [s.integer_power(values[0], eqn.params["y"])]


def _fixed_power(exponent: float) -> Rule:
    def rule(eqn: Any, values: list[Series], order: int) -> list[Series]:
        return [s.power(values[0], exponent, bind(eqn, [values[0].primal])[0])]

    return rule


def _logistic(eqn: Any, values: list[Series], order: int) -> list[Series]:
    return [s.logistic(values[0], bind(eqn, [values[0].primal])[0])]


def _extremum(eqn: Any, values: list[Series], order: int) -> list[Series]:
    """A maximum follows the operand that is chosen, the mean of both if they are equal."""
    a, b = values
    larger = a.primal > b.primal if eqn.primitive.name == "max" else a.primal < b.primal
    share = jnp.where(a.primal == b.primal, 0.5, larger).astype(jnp.result_type(a.primal))
    out = []
    for x, y in zip(a.coefficients, b.coefficients, strict=True):
        parts = [] if x is None else [share * x]
        out.append(s.total(parts if y is None else [*parts, (1 - share) * y]))
    return [Series(bind(eqn, [a.primal, b.primal])[0], tuple(out))]


def _clamp(eqn: Any, values: list[Series], order: int) -> list[Series]:
    low, x, high = values
    inside = ((x.primal > low.primal) & (x.primal < high.primal)).astype(x.primal.dtype)
    # Bounds that move are rare; they are the values' own maximum and minimum.
    primal = bind(eqn, [low.primal, x.primal, high.primal])[0]
    if low.active or high.active:
        raise ValueError("jet: clip with bounds that depend on the input is not supported")
    return [Series(primal, tuple(None if c is None else inside * c for c in x.coefficients))]


def _abs(eqn: Any, values: list[Series], order: int) -> list[Series]:
    (x,) = values
    sign = jnp.sign(x.primal)
    out = tuple(None if c is None else sign * c for c in x.coefficients)
    return [Series(bind(eqn, [x.primal])[0], out)]


def _constant(eqn: Any, values: list[Series], order: int) -> list[Series]:
    return [constant(p, order) for p in bind(eqn, [v.primal for v in values])]


LINEAR = """
    neg reshape squeeze broadcast_in_dim transpose reduce_sum convert_element_type slice rev real
    imag conj copy copy_p cumsum fft reduce_window_sum concatenate pad select_n gather
    dynamic_slice dynamic_update_slice scatter-add complex split expand_dims reduce_precision
    device_put sharding_constraint reshard optimization_barrier stack unstack pvary psum psum2
    psum_invariant all_gather ppermute all_to_all tile
""".split()

CONSTANT = """
    stop_gradient sign floor ceil round is_finite eq ne lt le gt ge and or not xor argmax argmin
    shift_left shift_right_logical shift_right_arithmetic population_count clz nextafter iota
    random_bits random_wrap random_unwrap random_seed random_fold_in random_split eq_to lt_to le_to
    bitcast_convert_type
""".split()

# Known to be right by differentiation: no warning, although they have no recurrence of their own.
DIFFERENTIATED = """
    asin acos atan asinh acosh atanh atan2 erf erfc erf_inv lgamma digamma igamma igammac
    bessel_i0e bessel_i1e pow cbrt reduce_max reduce_min reduce_prod sort cumprod cummax cummin
    cumlogsumexp rem scatter scatter-mul scatter_mul scatter_min scatter_max top_k
    triangular_solve cholesky lu custom_linear_solve custom_jvp_call logsumexp polygamma
    custom_lin householder_product eigh qr svd square_root
""".split()

RULES: dict[str, Rule] = {name: _linear for name in LINEAR}
RULES |= {name: _constant for name in CONSTANT}
RULES |= {
    "add": _add,
    "add_any": _add,
    "sub": _add,
    "mul": lambda eqn, values, order: [s.multiply(*values)],
    "div": lambda eqn, values, order: [s.divide(*values)],
    "dot_general": _bilinear,
    "conv_general_dilated": _bilinear,
    "square": _unary(s.square),
    "integer_pow": _integer_pow,
    "exp": _unary(s.exp),
    "exp2": _unary(lambda x: s.exp(x, math.log(2))),
    "expm1": lambda eqn, values, order: [
        Series(bind(eqn, [values[0].primal])[0], s.exp(values[0]).coefficients)
    ],
    "log": _unary(s.log),
    "log1p": _unary(s.log1p),
    "tanh": _unary(s.tanh),
    "tan": _unary(s.tan),
    "logistic": _logistic,
    "sin": _unary(lambda x: s.sine_cosine(x, -1)[0]),
    "cos": _unary(lambda x: s.sine_cosine(x, -1)[1]),
    "sinh": _unary(lambda x: s.sine_cosine(x, 1)[0]),
    "cosh": _unary(lambda x: s.sine_cosine(x, 1)[1]),
    "sqrt": _fixed_power(0.5),
    "rsqrt": _fixed_power(-0.5),
    "max": _extremum,
    "min": _extremum,
    "clamp": _clamp,
    "abs": _abs,
}

# Primitives that act on each entry alone: a series with a support keeps it.
ELEMENTWISE = frozenset(
    """neg add sub add_any mul div square integer_pow exp exp2 expm1 log log1p tanh tan logistic sin
    cos sinh cosh sqrt rsqrt max min clamp abs convert_element_type copy select_n asin acos atan
    asinh acosh atanh atan2 erf erfc erf_inv lgamma digamma pow cbrt""".split()
)


def on_support(eqn: Any, values: list[Series], order: int, rule: Rule) -> list[Series] | None:
    """The series of a primitive on vectors whose coefficients live on a few positions.

    **Returns:** `None` where these must be filled in first.
    """
    sparse = [v for v in values if v.support is not None]
    support = sparse[0].support
    assert support is not None
    if any(v.active and v.support is not support for v in values):
        return None
    name = eqn.primitive.name
    shape = sparse[0].primal.shape
    if name in ELEMENTWISE and all(jnp.shape(v.primal) in (shape, ()) for v in values):
        there = [
            Series(v.primal[support] if jnp.ndim(v.primal) else v.primal, v.coefficients)
            for v in values
        ]
        primals = bind(eqn, [v.primal for v in values])
        outs = rule(_Resized(eqn), there, order)
        return [Series(p, out.coefficients, support) for p, out in zip(primals, outs, strict=True)]
    if name == "reduce_sum":
        (x,) = values
        out = tuple(None if c is None else jnp.sum(c, 0) for c in x.coefficients)
        return [Series(bind(eqn, [x.primal])[0], out)]
    if name == "reshape" and eqn.params["new_sizes"] == shape:
        return values
    if name == "dot_general":
        return _gather_columns(eqn, values, support)
    return None


class _Resized:
    """An elementwise equation on operands of another size."""

    def __init__(self, eqn: Any):
        self.primitive, self.params, self.invars = eqn.primitive, eqn.params, eqn.invars
        self.outvars = eqn.outvars
        self.ctx = getattr(eqn, "ctx", None)


def _gather_columns(eqn: Any, values: list[Series], support: Array) -> list[Series] | None:
    (contract, batch) = eqn.params["dimension_numbers"]
    if any(batch) or not all(contract):
        return None
    primal = bind(eqn, [v.primal for v in values])[0]

    def columns(v: Series, axes: Sequence[int]) -> Series:
        part = jnp.moveaxis(jnp.take(v.primal, support, axis=axes[0]), axes[0], 0)
        return Series(part, v.coefficients)

    if any(v.primal.ndim != 1 for v in values if v.support is not None):
        return None
    left, right = (columns(v, axes) for v, axes in zip(values, contract, strict=True))
    product = s.bilinear(lambda a, b: jnp.tensordot(a, b, ((0,), (0,))), left, right)
    dtype = primal.dtype
    out = tuple(None if c is None else c.astype(dtype) for c in product.coefficients)
    return [Series(primal, out)]
