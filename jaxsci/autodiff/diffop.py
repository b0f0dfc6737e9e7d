"""Differential operators as data: exact values and unbiased estimates behind one call.

L u = Σ terms,    or    N(u) = combine(x, L₁ u, L₂ u, …).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .forward_laplacian import forward_laplacian
from .jets.interpreter import OneHot, jet, mixed_jet
from .terms import (
    METHODS,
    AbstractTerm,
    Coefficient,
    Field,
    Method,
    Partial,
    Polylaplacian,
    weight,
)

Linear = AbstractTerm | tuple[int, ...] | Mapping[tuple[int, ...], Coefficient] | Sequence[Any]


class DiffOp(eqx.Module):
    """A differential operator, stated as data.

    ```python
    heat = DiffOp({(2,): 1.0, (0, 0): -1.0, (1, 1): -1.0})  # u_t − u_xx − u_yy on (x, y, t)
    burgers = DiffOp(
        {"u": (), "u_t": (1,), "u_x": (0,), "u_xx": (0, 0)},
        lambda x, u, u_t, u_x, u_xx: u_t + u * u_x - 0.01 * u_xx,
    )
    sine_gordon = DiffOp({"u": (), "lap": Polylaplacian(1)}, lambda x, u, lap: lap + jnp.sin(u))
    ```

    **Arguments:**

    - `terms`: a linear operator: {axes: coefficient}, where `axes` lists the axes to differentiate
        along with repetition and a coefficient is a number or a function of x; or one of the terms
        `Partial`, `PowerSum`, `Polylaplacian`, `Diffusion`, `GradientSquare`, or several in a list.
        With `combine`, {name: linear operator}.
    - `combine`: `combine(x, **parts)`, where each part is the value of the operator of that name.

    Estimates of the parts are unbiased; a `combine` that is not linear in an estimated part is not.

    **Raises:** `ValueError` for orders above 12, no terms, or named parts without `combine`.
    """

    parts: dict[str, tuple[AbstractTerm, ...]]
    combine: Callable[..., Any] | None

    def __init__(
        self, terms: Linear | Mapping[str, Linear], combine: Callable[..., Any] | None = None
    ):
        if isinstance(terms, Mapping) and not terms:
            raise ValueError("DiffOp: no terms")
        named = isinstance(terms, Mapping) and all(isinstance(k, str) for k in terms)
        if named != (combine is not None):
            raise ValueError("DiffOp: named parts need `combine`, and `combine` needs named parts")
        mapping: Any = terms if named else {"": terms}
        self.parts = {name: _terms(part) for name, part in mapping.items()}
        self.combine = combine

    @property
    def order(self) -> int:
        """The highest order of a derivative."""
        return max(term.order for part in self.parts.values() for term in part)

    def __add__(self, other: "DiffOp") -> "DiffOp":
        if self.combine is not None or other.combine is not None:
            raise ValueError("DiffOp: only operators without `combine` can be added")
        return DiffOp([*self.parts[""], *other.parts[""]])


def _terms(part: Any) -> tuple[AbstractTerm, ...]:
    if isinstance(part, AbstractTerm):
        return (part,)
    if isinstance(part, Mapping):
        found = tuple(Partial(axes, c) for axes, c in part.items())
    elif isinstance(part, tuple) and all(isinstance(a, int) for a in part):
        found = (Partial(part),)
    else:
        found = tuple(t for item in part for t in _terms(item))
    if not found:
        raise ValueError("DiffOp: no terms")
    return found


def exact(op: DiffOp, f: Field, x: Float[Array, " d"], *, batch_size: int | None = None) -> Array:
    """The operator's value at a point, by jets and forward Laplacians.

    **Arguments:**

    - `op`: the operator.
    - `f`: a function of one vector; scalar or array-valued.
    - `x`: the point.
    - `batch_size`: so many directions of a sum over axes at once, for little memory.

    **Returns:** the value; of the shape of f(x), or what `combine` gives.

    **Raises:** `ValueError` for axes that x does not have or `batch_size` < 1, `TypeError` if x is
    not real and floating.
    """
    x = _point(op, x)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: expected None or an integer >= 1")
    return _value(op, f, x, lambda term, _: term.exact(f, x, batch_size))


def estimate(
    op: DiffOp,
    f: Field,
    x: Float[Array, " d"],
    key: PRNGKeyArray,
    n: int,
    method: Method = "sparse",
) -> Array:
    """The operator's value from n random directions in each of its sums over axes.

    **Arguments:**

    - `op`, `f`, `x`: as for `exact`.
    - `key`: for the directions. The same key at all points of a batch shares them, which is faster.
    - `n`: how many; the standard deviation falls with its root. 16 is a good value.
    - `method`:
        - `"sparse"`: axes, drawn with replacement; for every operator. With a first layer that is
            a matrix the cost does not depend on the dimension (but for f itself).
        - `"rademacher"`: random signs, order 2 at most; for f whose Hessian is nearly diagonal.
        - `"gaussian"`: normal directions; also for powers of the Laplacian.
        - `"sdgd"`, `"hutchinson"`: axes without replacement, and random signs, by nested reverse
            and forward mode as in the older methods of these names; order 2 at most, scalar f.

    **Returns:** an unbiased estimate; with `combine`, what it makes of unbiased estimates.

    **Raises:** as `exact`, and `ValueError` for n < 1, an unknown method, one that is biased for
    the operator, or more draws without replacement than axes.
    """
    x = _point(op, x)
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n = {n!r}: expected an integer >= 1")
    if method not in METHODS:
        raise ValueError(f"method = {method!r}: expected one of {', '.join(METHODS)}")
    return _value(op, f, x, lambda term, i: term.estimate(f, x, jr.fold_in(key, i), n, method))


def _value(op: DiffOp, f: Field, x: Array, of_term: Callable[[AbstractTerm, int], Array]) -> Any:
    wanted = [t.axes for p in op.parts.values() for t in p if isinstance(t, Partial) and t.axes]
    known = derivatives(f, x, wanted) if wanted else {}
    parts, count = {}, 0
    for name, terms in op.parts.items():
        total = None
        for term in terms:
            if isinstance(term, Partial) and term.axes:
                value = weight(term.coefficient, x) * known[term.axes]
            else:
                value = of_term(term, count)
            count += 1
            total = value if total is None else total + value
        parts[name] = total
    return parts[""] if op.combine is None else op.combine(x, **parts)


def _point(op: DiffOp, x: Array) -> Array:
    x = jnp.asarray(x)
    if x.ndim != 1:
        raise ValueError(f"x: expected a vector, got shape {x.shape} (jax.vmap takes many)")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x: expected real floating numbers, got {x.dtype}")
    for part in op.parts.values():
        for term in part:
            if isinstance(term, Partial) and any(a >= x.size for a in term.axes):
                raise ValueError(f"axes = {term.axes}: x has only {x.size} entries")
    return x


def derivatives(
    f: Field, x: Float[Array, " d"], axes: Sequence[tuple[int, ...]]
) -> dict[tuple[int, ...], Array]:
    """Several partial derivatives at a point, with as few jets as hold them all.

    **Arguments:**

    - `f`: a function of one vector.
    - `x`: the point.
    - `axes`: for each derivative the axes to differentiate along, with repetition: `(0, 0, 1)` is
        ∂³f/∂x₀²∂x₁, and `()` the value.

    **Returns:** {axes: value}.

    **Raises:** `ValueError` for orders above 12 or axes that x does not have.
    """
    x = jnp.asarray(x)
    wanted = {a: Partial(a) for a in axes}
    _point(DiffOp(list(wanted.values())), x) if wanted else None
    found: dict[tuple[tuple[int, int], ...], Array] = {}

    def name(a: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        return tuple((axis, a.count(axis)) for axis in sorted(set(a)))

    for a in sorted(wanted, key=lambda a: (-len(set(a)), -len(a))):
        if name(a) in found:
            continue
        if not a:
            found[()] = f(x)
            continue
        along, orders = zip(*name(a), strict=True)
        if len(along) == 1:
            # The highest order along this axis holds all the others.
            top = max(b.count(along[0]) for b in wanted if set(b) == {along[0]})
            y, rest = jet(f, x, [OneHot(jnp.asarray(along[0])), *[None] * (top - 1)])
            values = {(k,): v for k, v in enumerate([y, *rest])}
        else:
            values = mixed_jet(f, x, along, orders)
        for alpha, value in values.items():
            key = tuple((i, k) for i, k in zip(along, alpha, strict=True) if k)
            found.setdefault(key, value)
    return {a: found[name(a)] for a in wanted}


def laplacian(
    f: Field,
    x: Float[Array, " d"],
    *,
    method: str = "forward",
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    n: int = 16,
) -> Array:
    """Δf(x) = Σ_i ∂²f/∂x_i².

    **Arguments:**

    - `f`, `x`: a function of one vector, and the point.
    - `method`: `"forward"` (one pass, the fastest exact one), `"jet"` (a second-order jet for each
        axis; with `batch_size` it needs little memory), or one of `estimate`'s.
    - `batch_size`: axes at once for `"jet"`. `key`, `n`: for an estimate.

    **Raises:** `ValueError` for an unknown method or a missing key, and as `exact`.
    """
    op = DiffOp(Polylaplacian(1))
    if method == "forward":
        return forward_laplacian(f, x).laplacian
    if method == "jet":
        return exact(op, f, x, batch_size=x.size if batch_size is None else batch_size)
    if key is None:
        raise ValueError(f"laplacian: method {method!r} needs a key")
    return estimate(op, f, x, key, n, method)  # type: ignore[arg-type]


def unbiased_square(residual: Callable[[PRNGKeyArray], Array], key: PRNGKeyArray) -> Array:
    """r(key₁) r(key₂), whose mean is (E r)²; the square of one estimate adds its variance.

    **Arguments:**

    - `residual`: a random residual as a function of its key.
    - `key`: split into two.
    """
    first, second = jr.split(key)
    return residual(first) * residual(second)
