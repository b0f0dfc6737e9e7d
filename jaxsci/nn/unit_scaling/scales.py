"""Factors that differ between the forward and the backward pass, and how a graph constrains them.

    forward:  y = s x          backward:  ∂L/∂x = b ∂L/∂y

with s ≠ b on purpose: what flows through an operation has unit size both ways. Gradients stay
gradients (of a rescaled weight) as long as s = b on every cut edge of the graph, that is, on every
edge whose removal parts the graph; a `constraint` picks the common value there.

Blake, Orr & Luschi 2023, arXiv:2303.11257; Blake et al. 2024, arXiv:2407.17465.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Constraint = Literal["output", "input", "gmean"] | None


@jax.custom_jvp
def _scaled(x, forward, backward):
    del backward
    return x * forward


@_scaled.defjvp
def _scaled_jvp(primals, tangents):
    # A rule for tangents, linear in them: JAX transposes it into b ∂L/∂y, and forward mode,
    # Hessian-vector products and vmap work too.
    x, forward, backward = primals
    return _scaled(x, forward, backward), tangents[0] * backward


def _scale(x, forward, backward):
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(f"x: expected a floating-point array, got dtype {x.dtype}")
    return _scaled(x, jnp.asarray(forward, x.dtype), jnp.asarray(backward, x.dtype))


def scale_fwd(x: Float[Array, "*shape"], scale: float | Float[Array, ""]) -> Float[Array, "*shape"]:
    """The value s x, with the derivative of the identity.

    **Arguments:** `x`: floating point. `scale`: s, a number (a traced one is fine; no derivative
    is taken with respect to it).

    **Raises:** `TypeError` if `x` is not floating point.
    """
    return _scale(x, scale, 1.0)


def scale_bwd(x: Float[Array, "*shape"], scale: float | Float[Array, ""]) -> Float[Array, "*shape"]:
    """The value x, with the derivative of s x.

    **Arguments:** `x`: floating point. `scale`: s, the factor of the gradient.

    **Raises:** `TypeError` if `x` is not floating point.
    """
    return _scale(x, 1.0, scale)


def constrained(constraint: Constraint, forward: float, *backward: float) -> tuple[float, ...]:
    """The scales of an operation, (output, gradients of inputs …), after a constraint.

    **Arguments:**

    - `constraint`: "output" takes the output's scale for all, "input" that of the first input's
      gradient, "gmean" the geometric mean; `None` leaves them different, which is right only where
      another operation mirrors them (inside a two-layer branch) or at the end of the graph.
    - `forward`, `backward`: the ideal scales.

    **Raises:** `ValueError` for an unknown constraint.
    """
    scales = (forward, *backward)
    match constraint:
        case None:
            return scales
        case "output":
            return (forward,) * len(scales)
        case "input":
            return (backward[0],) * len(scales)
        case "gmean":
            return (math.prod(scales) ** (1 / len(scales)),) * len(scales)
    raise ValueError(f'constraint = {constraint!r}: expected "output", "input", "gmean" or None')


def interpolate(weight: float, low: float, high: float) -> float:
    """low^(1−w) high^w: between two limits of an operation's scale, on a logarithmic axis."""
    return math.exp((1 - weight) * math.log(low) + weight * math.log(high))


def positive(name: str, value: float) -> float:
    """`value`, if it is a finite number above 0.

    **Raises:** `TypeError` if it is not a number, `ValueError` if it is not positive.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} = {value!r}: expected a Python number, fixed when compiled")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} = {value}: expected a positive number")
    return float(value)
