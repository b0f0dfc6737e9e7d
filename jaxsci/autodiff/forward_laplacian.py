"""The Laplacian in one forward pass: value, gradient and Laplacian travel together.

For y = h(x) with the gradient matrix J_x (one row for each direction) and Laplacian L_x,

    J_y = J_x ∂h,    L_y = L_x ∂h + Σ_i ∂²h [J_x,i, J_x,i].

Where the function is linear the last sum vanishes, and elsewhere it acts entry by entry: a
Laplacian costs about d directional derivatives rather than d second ones (arXiv:2307.08214).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .jets.interpreter import AbstractAlgebra, evaluate, rule_of
from .jets.rules import ELEMENTWISE, bind
from .jets.series import Series


class LaplacianValue(eqx.Module):
    """A value with its derivatives in m directions and its Laplacian.

    With `diagonal`, the value is the vector of all coordinates or an entrywise function of it, and
    `gradient` is the diagonal of its (d, d) matrix of derivatives.
    """

    primal: Array
    gradient: Array | None
    laplacian: Array | None
    diagonal: bool = eqx.field(static=True, default=False)

    @property
    def active(self) -> bool:
        """Whether it may depend on the input."""
        return self.gradient is not None or self.laplacian is not None

    def dense(self) -> "LaplacianValue":
        """With the whole matrix of derivatives."""
        if not self.diagonal or self.gradient is None:
            return self
        return LaplacianValue(self.primal, jnp.diag(self.gradient), self.laplacian)


class ForwardLaplacian(AbstractAlgebra):
    """Values with derivatives in `directions` directions and a Laplacian."""

    directions: int = eqx.field(static=True)

    def constant(self, primal: Array) -> LaplacianValue:
        return LaplacianValue(primal, None, None)

    def fill(self, value: LaplacianValue) -> LaplacianValue:
        value = value.dense()
        primal = jnp.asarray(value.primal)
        if not jnp.issubdtype(primal.dtype, jnp.inexact):
            return LaplacianValue(primal, None, None)
        gradient, laplacian = value.gradient, value.laplacian
        if gradient is None:
            gradient = jnp.zeros((self.directions, *primal.shape), primal.dtype)
        return LaplacianValue(
            primal, gradient, jnp.zeros_like(primal) if laplacian is None else laplacian
        )

    def slices(self, value: LaplacianValue) -> LaplacianValue:
        value = value.dense()
        if value.gradient is None:
            return value
        return LaplacianValue(value.primal, jnp.moveaxis(value.gradient, 1, 0), value.laplacian)

    def unsliced(self, value: LaplacianValue) -> LaplacianValue:
        return self.slices(value)

    def apply(self, eqn: Any, values: list[LaplacianValue]) -> list[LaplacianValue]:
        rule = rule_of(eqn, values)
        if any(v.diagonal for v in values):
            outs = self._diagonal(eqn, values, rule)
            if outs is not None:
                return outs
            values = [v.dense() for v in values]

        def along(gradients: list[Array | None]) -> list[tuple[Any, Any]]:
            series = [Series(v.primal, (g, None)) for v, g in zip(values, gradients, strict=True)]
            return [out.coefficients for out in rule(eqn, series, 2)]  # type: ignore[misc]

        gradients = [v.gradient for v in values]
        first: Sequence[tuple[Any, Any]]
        if any(g is not None for g in gradients):
            first = jax.vmap(along, axis_size=self.directions)(gradients)
        else:
            first = [(None, None)] * len(eqn.outvars)
        primals = bind(eqn, [v.primal for v in values])
        moved = self._moved(eqn, values, rule, len(primals))
        out = []
        for primal, (gradient, curved), laplacian in zip(primals, first, moved, strict=True):
            if curved is not None:
                bent = 2 * jnp.sum(curved, 0)
                laplacian = bent if laplacian is None else laplacian + bent
            out.append(LaplacianValue(primal, gradient, laplacian))
        return out

    def _moved(self, eqn: Any, values: list[LaplacianValue], rule: Any, count: int) -> list[Any]:
        """L_x ∂h."""
        if all(v.laplacian is None for v in values):
            return [None] * count
        return [
            out.coefficients[0]
            for out in rule(eqn, [Series(v.primal, (v.laplacian,)) for v in values], 1)
        ]

    def _diagonal(
        self, eqn: Any, values: list[LaplacianValue], rule: Any
    ) -> list[LaplacianValue] | None:
        """The few primitives that need not see the (d, d) matrix."""
        name = eqn.primitive.name
        if any(v.gradient is not None and not v.diagonal for v in values):
            return None
        shape = next(v.primal.shape for v in values if v.diagonal)
        if name in ELEMENTWISE and all(jnp.shape(v.primal) in (shape, ()) for v in values):
            outs = rule(eqn, [Series(v.primal, (v.gradient, None)) for v in values], 2)
            moved = self._moved(eqn, values, rule, len(outs))
            result = []
            for out, laplacian in zip(outs, moved, strict=True):
                gradient, curved = out.coefficients
                if curved is not None:
                    laplacian = 2 * curved if laplacian is None else laplacian + 2 * curved
                result.append(LaplacianValue(out.primal, gradient, laplacian, True))
            return result
        if name == "reduce_sum":
            (x,) = values
            moved = None if x.laplacian is None else jnp.sum(x.laplacian)
            return [LaplacianValue(bind(eqn, [x.primal])[0], x.gradient, moved)]
        if name == "dot_general" and sum(v.active for v in values) == 1:
            (contract, batch) = eqn.params["dimension_numbers"]
            if any(batch) or not all(contract):
                return None
            which = 0 if values[0].diagonal else 1
            matrix, axis = values[1 - which].primal, contract[1 - which][0]
            diagonal = values[which].gradient
            assert diagonal is not None
            columns = jnp.moveaxis(matrix, axis, 0)
            gradient = diagonal.reshape(-1, *(1,) * (columns.ndim - 1)) * columns
            (moved,) = self._moved(eqn, values, rule, 1)
            primal = bind(eqn, [v.primal for v in values])[0]
            return [LaplacianValue(primal, gradient, moved)]
        return None


class ValueGradientLaplacian(NamedTuple):
    """f(x), its derivatives in each direction (a leading axis), and Σ_k D²f[v_k, v_k]."""

    value: PyTree
    gradient: PyTree
    laplacian: PyTree


def forward_laplacian(
    f: Callable[[Array], PyTree],
    x: Float[Array, " d"],
    directions: Float[Array, "m d"] | None = None,
) -> ValueGradientLaplacian:
    """f(x), ∇f(x) and Δf(x) in one forward pass.

    **Arguments:**

    - `f`: a function of one vector.
    - `x`: where.
    - `directions`: the rows v_k of a matrix; the sum Σ_k D²f[v_k, v_k] = tr(V ∇²f Vᵀ) takes the
        place of the Laplacian. `None` is all axes.

    **Returns:** `(value, gradient, laplacian)`; the gradient has a leading axis of directions.

    Memory grows with d times the widest layer; `laplacian(method="jet", batch_size=…)` needs less.

    **Raises:** `ValueError` if x is no vector or the directions do not fit it, `TypeError` if it is
    not real and floating.
    """
    x = jnp.asarray(x)
    if x.ndim != 1:
        raise ValueError(f"forward_laplacian: x must be a vector, got shape {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"forward_laplacian: x must be real and floating, got {x.dtype}")
    if directions is None:
        m, start = x.size, LaplacianValue(x, jnp.ones_like(x), None, True)
    else:
        if directions.ndim != 2 or directions.shape[1] != x.size:
            raise ValueError(
                f"directions: expected shape (m, {x.size}), got {jnp.shape(directions)}"
            )
        m, start = directions.shape[0], LaplacianValue(x, directions.astype(x.dtype), None)
    closed, shape = jax.make_jaxpr(f, return_shape=True)(x)
    algebra = ForwardLaplacian(m)
    outs = [algebra.fill(v) for v in evaluate(algebra, closed.jaxpr, closed.consts, [start])]
    structure = jax.tree.structure(shape)

    def tree(leaves: list[Any]) -> PyTree:
        return jax.tree.unflatten(structure, leaves)

    return ValueGradientLaplacian(
        tree([v.primal for v in outs]),
        tree([v.gradient for v in outs]),
        tree([v.laplacian for v in outs]),
    )
