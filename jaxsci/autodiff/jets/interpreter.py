"""Walks through a jaxpr with values that carry more than a number.

One interpreter serves every kind of value (power series, gradients with Laplacians); an algebra
says what a primitive does to them. Calls, checkpoints and control flow are common to all.
"""

import abc
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.extend.core
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .rules import DIFFERENTIATED, RULES, Rule, bind, on_support
from .series import Series, constant

MAX_JET_ORDER = 24


class AbstractAlgebra(eqx.Module):
    """What a primitive does to values of one kind. A value has `primal` and `active`."""

    @abc.abstractmethod
    def constant(self, primal: Array) -> Any:
        """A value that does not depend on the input."""

    @abc.abstractmethod
    def apply(self, eqn: Any, values: list[Any]) -> list[Any]:
        """The outputs of a primitive, at least one of whose inputs is active."""

    @abc.abstractmethod
    def fill(self, value: Any) -> Any:
        """The same value with every component an array, as loops need them."""

    @abc.abstractmethod
    def slices(self, value: Any) -> Any:
        """The same value with axis 0 of its primal in front in all its arrays, to be scanned."""

    @abc.abstractmethod
    def unsliced(self, value: Any) -> Any:
        """The inverse of `slices`."""


def evaluate(
    algebra: AbstractAlgebra, jaxpr: Any, consts: Sequence[Any], values: Sequence[Any]
) -> list[Any]:
    """The outputs of a jaxpr for values of the algebra."""
    known: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        if hasattr(atom, "val"):  # a literal
            return algebra.constant(atom.val)
        return known[atom]

    known.update(
        zip(jaxpr.constvars, (algebra.constant(jnp.asarray(c)) for c in consts), strict=True)
    )
    known.update(zip(jaxpr.invars, values, strict=True))
    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        if any(v.active for v in inputs):
            outputs = _apply(algebra, eqn, inputs)
        else:
            outputs = [algebra.constant(p) for p in bind(eqn, [v.primal for v in inputs])]
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(algebra: AbstractAlgebra, eqn: Any, values: list[Any]) -> list[Any]:
    structured = _STRUCTURED.get(eqn.primitive.name)
    if structured is None:
        return algebra.apply(eqn, values)
    return structured(algebra, eqn, values)


def _inner(algebra: AbstractAlgebra, closed: Any, values: Sequence[Any]) -> list[Any]:
    if hasattr(closed, "consts"):
        return evaluate(algebra, closed.jaxpr, closed.consts, values)
    return evaluate(algebra, closed, (), values)


def _call(algebra: AbstractAlgebra, eqn: Any, values: list[Any]) -> list[Any]:
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return _inner(algebra, inner, values)


def _checkpoint(algebra: AbstractAlgebra, eqn: Any, values: list[Any]) -> list[Any]:
    inner = eqn.params["jaxpr"]
    again = jax.checkpoint(
        lambda inputs: _inner(algebra, inner, inputs),
        prevent_cse=eqn.params["prevent_cse"],
        policy=eqn.params["policy"],
    )
    return again(values)


def _cond(algebra: AbstractAlgebra, eqn: Any, values: list[Any]) -> list[Any]:
    index, *operands = values
    branches = [
        lambda inputs, branch=branch: [algebra.fill(v) for v in _inner(algebra, branch, inputs)]
        for branch in eqn.params["branches"]
    ]
    return jax.lax.switch(index.primal, branches, operands)


def _scan(algebra: AbstractAlgebra, eqn: Any, values: list[Any]) -> list[Any]:
    p = eqn.params
    n, m = p["num_consts"], p["num_consts"] + p["num_carry"]
    consts, carry, xs = values[:n], values[n:m], values[m:]

    def body(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        outs = _inner(algebra, p["jaxpr"], [*consts, *carry, *xs])
        outs = [algebra.fill(v) for v in outs]
        return outs[: len(carry)], outs[len(carry) :]

    final, stacked = jax.lax.scan(
        body,
        [algebra.fill(v) for v in carry],
        [algebra.slices(v) for v in xs],
        length=p["length"],
        reverse=p["reverse"],
        unroll=p["unroll"],
    )
    return [*final, *(algebra.unsliced(v) for v in stacked)]


def _while(algebra: AbstractAlgebra, eqn: Any, values: list[Any]) -> list[Any]:
    p = eqn.params
    n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    cond_consts, body_consts, carry = values[:n], values[n:m], values[m:]

    def proceed(carry: list[Any]) -> Array:
        primals = [v.primal for v in (*cond_consts, *carry)]
        return jax.extend.core.jaxpr_as_fun(p["cond_jaxpr"])(*primals)[0]

    def body(carry: list[Any]) -> list[Any]:
        outs = _inner(algebra, p["body_jaxpr"], [*body_consts, *carry])
        return [algebra.fill(v) for v in outs]

    return jax.lax.while_loop(proceed, body, [algebra.fill(v) for v in carry])


_STRUCTURED: dict[str, Callable[[AbstractAlgebra, Any, list[Any]], list[Any]]] = {
    "jit": _call,
    "pjit": _call,
    "closed_call": _call,
    "core_call": _call,
    "custom_vjp_call": _call,
    "checkpoint": _checkpoint,
    "remat2": _checkpoint,
    "remat": _checkpoint,
    "cond": _cond,
    "scan": _scan,
    "while": _while,
}


class Taylor(AbstractAlgebra):
    """Power series to a fixed order."""

    order: int = eqx.field(static=True)

    def constant(self, primal: Array) -> Series:
        return constant(primal, self.order)

    def fill(self, value: Series) -> Series:
        if not jnp.issubdtype(jnp.result_type(value.primal), jnp.inexact):
            return Series(jnp.asarray(value.primal), value.coefficients)
        return Series(jnp.asarray(value.primal), value.coefficients, value.support).filled()

    def slices(self, value: Series) -> Series:
        return value.dense()

    def unsliced(self, value: Series) -> Series:
        return value

    def apply(self, eqn: Any, values: list[Series]) -> list[Series]:
        rule = rule_of(eqn, values)
        if any(v.support is not None for v in values):
            outs = on_support(eqn, values, self.order, rule)
            if outs is not None:
                return outs
            values = [v.dense() for v in values]
        return rule(eqn, values, self.order)


def rule_of(eqn: Any, values: list[Any]) -> Rule:
    """What the primitive does to a power series; with a warning where nobody has looked."""
    name = eqn.primitive.name
    if name == "abs" and jnp.iscomplexobj(values[0].primal):
        return _differentiated
    rule = RULES.get(name)
    if rule is None:
        if name not in DIFFERENTIATED:
            warnings.warn(
                f"jet: the primitive {name!r} has no rule for power series; it is differentiated "
                "by jax.jvp once for every order",
                stacklevel=2,
            )
        return _differentiated
    return rule


def _differentiated(eqn: Any, values: list[Series], order: int) -> list[Series]:
    """y(t) from y'(t) = jvp(x(t), x'(t)), whose series is needed to one order less.

    Right for every primitive with a rule for `jax.jvp`, and for functions with a custom one.
    """
    moving = [i for i, v in enumerate(values) if v.active]

    def function(*operands: Array) -> list[Array]:
        full = [v.primal for v in values]
        for i, operand in zip(moving, operands, strict=True):
            full[i] = operand
        return bind(eqn, full)

    primals = [values[i].primal for i in moving]
    slopes = []
    for i in moving:
        first = values[i].coefficients[0]
        rest = tuple(
            None if c is None else (k + 1) * c for k, c in enumerate(values[i].coefficients[1:], 1)
        )
        slopes.append(Series(jnp.zeros_like(values[i].primal) if first is None else first, rest))
    lower = [Series(values[i].primal, values[i].coefficients[:-1]) for i in moving]

    def tangent(primals: list[Array], tangents: list[Array]) -> list[Array]:
        outs = jax.jvp(lambda *a: tuple(_inexact(function(*a))), tuple(primals), tuple(tangents))
        return list(outs[1])

    y = function(*primals)
    closed = jax.make_jaxpr(tangent)(primals, [slope.primal for slope in slopes])
    rates = evaluate(Taylor(order - 1), closed.jaxpr, closed.consts, [*lower, *slopes])
    rates = [rate.dense() for rate in rates]
    result, remaining = [], iter(rates)
    for out in y:
        if not jnp.issubdtype(jnp.result_type(out), jnp.inexact):
            result.append(constant(out, order))
            continue
        rate = next(remaining)
        whole = (rate.primal, *rate.coefficients)
        result.append(
            Series(out, tuple(None if c is None else c / k for k, c in enumerate(whole, 1)))
        )
    return result


def _inexact(outs: list[Array]) -> list[Array]:
    return [out for out in outs if jnp.issubdtype(jnp.result_type(out), jnp.inexact)]


class OneHot(eqx.Module):
    """The vector scale · e_i of length d, as the direction of a jet.

    It stays one number until it meets a matrix, of which it takes one column: a derivative along
    one of a million axes costs no multiplication by a million zeros.

    - `index`: i, an integer, also a traced one; or several different ones, with a `scale` for each.
    - `scale`: what it is multiplied by; 0 is allowed.
    """

    index: Int[Array, "*s"]
    scale: Float[Array, "*s"] | float = 1.0


Direction = PyTree | OneHot | None


def jet(
    f: Callable[[PyTree], PyTree], x: PyTree, series: Sequence[Direction]
) -> tuple[PyTree, list[PyTree]]:
    """The first K derivatives of f along a curve,

        y⁽ᵏ⁾(0) = (d/dt)ᵏ f(g(t)) |_{t=0},   g(0) = x,  g⁽ᵖ⁾(0) = series[p − 1].

    With series = [v, None, None, …] these are f, Df[v], D²f[v, v], D³f[v, v, v], …. The cost grows
    like K², where nested `jax.jvp` needs 2ᴷ. Control flow, checkpoints, custom derivative rules,
    complex numbers inside and any transformation around are supported.

    **Arguments:**

    - `f`: any JAX function of one argument.
    - `x`: where; an array or a pytree of real floating arrays.
    - `series`: the derivatives of the curve, each a pytree like x, `None` for zero, or (if x is a
        vector) a `OneHot`; all `OneHot`s must be on the same axes.

    **Returns:** `f(x)` and the list of the K derivatives, pytrees like `f(x)`.

    **Raises:** `ValueError` for no order or more than 24, or shapes that do not fit; `TypeError`
    for an x that is not real and floating. A primitive without a rule for power series gives a
    warning that names it, and is differentiated by `jax.jvp`.

    Own rules rather than `jax.experimental.jet`: that module is experimental, and (jax 0.10.2) it
    refuses scan, while loops, cond, checkpoints, `jax.nn.relu`, `softplus` and `sinc`.
    """
    order = len(series)
    if not 1 <= order <= MAX_JET_ORDER:
        raise ValueError(f"series: expected from 1 to {MAX_JET_ORDER} derivatives, got {order}")
    leaves, structure = jax.tree.flatten(x)
    for leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"jet: x must be real and floating, got an array of {jnp.result_type(leaf)}"
            )
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    closed, shape = jax.make_jaxpr(f, return_shape=True)(jax.tree.unflatten(structure, leaves))
    one_hot = [v for v in series if isinstance(v, OneHot)]
    if one_hot:
        values = [_on_axes(leaves, series, one_hot)]
    else:
        values = _curve(leaves, structure, series)
    outs = evaluate(Taylor(order), closed.jaxpr, closed.consts, values)
    out_structure = jax.tree.structure(shape)
    algebra = Taylor(order)
    filled = [algebra.fill(v) for v in outs]
    y = jax.tree.unflatten(out_structure, [v.primal for v in filled])
    derivatives = []
    for k in range(order):
        parts = []
        for v in filled:
            c = v.coefficients[k]
            parts.append(
                jnp.zeros_like(v.primal) if c is None else float(math.factorial(k + 1)) * c
            )
        derivatives.append(jax.tree.unflatten(out_structure, parts))
    return y, derivatives


def _on_axes(leaves: list[Array], series: Sequence[Direction], one_hot: list[OneHot]) -> Series:
    if len(leaves) != 1 or leaves[0].ndim != 1:
        raise ValueError(
            f"series: OneHot needs x to be one vector, got shapes {[a.shape for a in leaves]}"
        )
    (x,) = leaves
    index = one_hot[0].index
    if any(v.index is not index for v in one_hot) or len(one_hot) != sum(
        v is not None for v in series
    ):
        raise ValueError("series: OneHot directions must share one index, with no dense ones")
    support = jnp.atleast_1d(jnp.asarray(index))
    coefficients = []
    for k, v in enumerate(series, 1):
        if v is None:
            coefficients.append(None)
            continue
        scale = jnp.asarray(v.scale, x.dtype) / math.factorial(k)
        coefficients.append(jnp.broadcast_to(scale, support.shape))
    return Series(x, tuple(coefficients), support)


def _curve(leaves: list[Array], structure: Any, series: Sequence[Direction]) -> list[Series]:
    columns: list[list[Array | None]] = [[] for _ in leaves]
    for k, v in enumerate(series, 1):
        parts = [None] * len(leaves) if v is None else jax.tree.leaves(v)
        if v is not None and jax.tree.structure(v) != structure:
            raise ValueError(
                f"series[{k - 1}]: expected a tree like x, {structure}, got {jax.tree.structure(v)}"
            )
        for column, part, leaf in zip(columns, parts, leaves, strict=True):
            if part is not None and jnp.shape(part) != leaf.shape:
                raise ValueError(
                    f"series[{k - 1}]: expected shape {leaf.shape}, got {jnp.shape(part)}"
                )
            scaled = None if part is None else jnp.asarray(part, leaf.dtype) / math.factorial(k)
            column.append(scaled)
    return [Series(leaf, tuple(c)) for leaf, c in zip(leaves, columns, strict=True)]


def mixed_jet(
    f: Callable[[Array], PyTree], x: Float[Array, " d"], axes: Sequence[int], orders: Sequence[int]
) -> dict[tuple[int, ...], PyTree]:
    """All ∂^α f(x) with α ≤ orders along a few axes, by jets inside jets.

    The cost is Π (order + 1)-fold, without differences or large coefficients.

    **Arguments:**

    - `f`: a function of one vector.
    - `x`: where.
    - `axes`: different axes, `orders`: the highest order of each, at least 1.

    **Returns:** {α: ∂^α f(x)} for all α between 0 and `orders`.

    **Raises:** `ValueError` for axes that repeat or lie outside x, or orders below 1.
    """
    (d,) = x.shape
    if len(axes) != len(orders) or len(set(axes)) != len(axes) or not axes:
        raise ValueError(f"axes = {tuple(axes)}, orders = {tuple(orders)}: expected as many orders")
    if any(not 0 <= a < d for a in axes) or any(n < 1 for n in orders):
        raise ValueError(
            f"axes = {tuple(axes)}, orders = {tuple(orders)}: expected axes from 0 to {d - 1} and "
            "positive orders"
        )

    def inner(x: Array) -> PyTree:
        return mixed_jet(f, x, axes[1:], orders[1:]) if len(axes) > 1 else {(): f(x)}

    direction = OneHot(jnp.asarray(axes[0]))
    y, derivatives = jet(inner, x, [direction, *[None] * (orders[0] - 1)])
    return {
        (k, *rest): value
        for k, part in enumerate([y, *derivatives])
        for rest, value in part.items()
    }
