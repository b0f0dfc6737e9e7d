"""The matrix that governs gradient descent on a physics-informed loss, and preconditioners for it.

For L = ½ ∫_Ω |Du − f|² + (λ/2) ∫_∂Ω |u − g|² and φ_i = ∂u/∂θ_i,

    A_ij = ⟨Dφ_i, Dφ_j⟩_Ω + λ ⟨φ_i, φ_j⟩_∂Ω,    error of step k ≤ (1 − c/κ(A))ᵏ.

A is the operator D*D + λ 1_∂Ω seen through the model: a second-order equation is of fourth order in
its conditioning (arXiv:2310.05801).
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from jaxsci.autodiff import GaussNewton, materialise

from .problem import Problem
from .samplers import SamplerState

Symbol = Callable[[np.ndarray], Any]


def gram(
    problem: Problem, field: PyTree, states: Mapping[str, SamplerState]
) -> lx.FunctionLinearOperator:
    """A at the field's present weights and at given points: half the Gauss-Newton matrix of the
    problem's loss, so that gradient descent on it is governed by 2A.

    **Arguments:**

    - `problem`: the problem; a residual that is not linear in u is linearised at `field`.
    - `field`: a field with weights.
    - `states`: the points, from `problem.init(key)`.

    **Returns:** a symmetric lineax operator on the field's weights; a product costs about two
    gradients, nothing is assembled.
    """
    params, rest = eqx.partition(field, eqx.is_inexact_array)

    def model(params: PyTree) -> PyTree:
        return problem.weighted(eqx.combine(params, rest), states)[0]

    def outer(residuals: PyTree) -> Array:
        return sum((jnp.sum(r**2) for r in jax.tree.leaves(residuals)), start=jnp.zeros(())) / 2

    return GaussNewton().at(params, model_fn=model, outer_fn=outer)


def spectrum(
    operator: lx.AbstractLinearOperator | Float[Array, "n n"], batch_size: int | None = None
) -> Float[Array, " n"]:
    """All eigenvalues of a symmetric operator or matrix, in ascending order.

    **Arguments:** `batch_size`: columns of an operator computed at once.

    **Raises:** `ValueError` for more than 4096 of them: take `jaxsci.autodiff.lanczos`.
    """
    if isinstance(operator, lx.AbstractLinearOperator):
        n = operator.in_size()
        if n > 4096:
            raise ValueError(f"spectrum: {n} weights, expected at most 4096 (lanczos has no limit)")
        matrix = materialise(operator, batch_size)
    else:
        matrix = jnp.asarray(operator)
    return jnp.linalg.eigvalsh(matrix)


def condition_number(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """λ_max/λ_min of a symmetric positive definite matrix.

    **Raises:** `ValueError` if it is not square; at run time if it is singular, or if in single
    precision the result is above 10⁷, where it would mean nothing.
    """
    matrix = jnp.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"condition_number: expected a square matrix, got shape {matrix.shape}")
    values = jnp.linalg.eigvalsh(matrix)
    kappa = values[-1] / values[0]
    resolved = 0.1 / jnp.finfo(matrix.dtype).eps * (10 if matrix.dtype == jnp.float32 else 1)
    kappa = eqx.error_if(
        kappa,
        (values[0] <= 0) | (kappa > resolved),
        "condition_number: the matrix is singular in this precision; a weight λ > 0 on the "
        "boundary removes the kernel of the operator, and float64 resolves numbers above 10⁷",
    )
    return kappa


def rate_bound(kappa: Array | float, c: float = 1.0) -> Array | float:
    """The factor 1 − c/κ by which a step of gradient descent with the size c/λ_max shrinks the
    error at least. **Raises:** `ValueError` for c outside (0, 2)."""
    if not 0 < c < 2:
        raise ValueError(f"rate_bound: c = {c}, expected a number between 0 and 2")
    return 1 - c / kappa


def half_lattice(modes: Sequence[int]) -> np.ndarray:
    """One of w and −w for every non-zero integer vector w with |w_i| ≤ modes_i."""
    ranges = [range(-k, k + 1) for k in modes]
    zero = (0,) * len(modes)
    return np.array([w for w in itertools.product(*ranges) if w > zero])


class FourierModel(eqx.Module):
    """u(x) = θ_0/√V + √(2/V) Σ_w (a_w cos w·x + b_w sin w·x) on (−π, π)^d, V = (2π)^d.

    The basis is orthonormal, and differential operators with constant coefficients are diagonal in
    it: the model that conditioning can be computed for by hand.

    - `modes`: the largest |w_i| along each axis.
    - `theta`: θ_0, all a_w, all b_w; zero at first.

    **Raises:** `ValueError` for modes < 1.
    """

    theta: Float[Array, " n"]
    modes: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, *modes: int, dtype: Any = None):
        if not modes or any(k < 1 for k in modes):
            raise ValueError(f"FourierModel: modes = {modes}, expected at least 1 along each axis")
        self.modes = modes
        self.theta = jnp.zeros(1 + 2 * len(half_lattice(modes)), dtype)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        waves = jnp.asarray(half_lattice(self.modes), x.dtype)
        volume = (2 * math.pi) ** len(self.modes)
        phase = waves @ x
        n = waves.shape[0]
        a, b = self.theta[1 : n + 1], self.theta[n + 1 :]
        oscillating = jnp.dot(a, jnp.cos(phase)) + jnp.dot(b, jnp.sin(phase))
        return self.theta[0] / math.sqrt(volume) + math.sqrt(2 / volume) * oscillating


def fourier_symbol(modes: Sequence[int], symbol: Symbol) -> np.ndarray:
    """The symbol of an operator for each weight of a `FourierModel`.

    `symbol(w)` maps integer vectors (n, d) to the size |D e^{iw·x}|, e.g. |w|² for the Laplacian.
    """
    waves = half_lattice(modes)
    zero = np.asarray(symbol(np.zeros((1, len(modes)))), float)
    values = np.asarray(symbol(waves), float)
    return np.concatenate([zero, values, values])


def fourier_matrix(
    modes: Sequence[int] | int, symbol: Symbol, boundary: Float[np.ndarray, "p d"], weight: float
) -> Float[np.ndarray, "n n"]:
    """A of a `FourierModel`: diag(|symbol|²) + λ Σ_p φ(x_p) φ(x_p)ᵀ.

    **Arguments:**

    - `modes`, `symbol`: as for `FourierModel` and `fourier_symbol`.
    - `boundary`: points x_p on which values are prescribed, e.g. `[[π]]`.
    - `weight`: λ.

    **Raises:** `ValueError` for a weight that is not positive if the operator has a kernel.
    """
    modes = (modes,) if isinstance(modes, int) else tuple(modes)
    values = fourier_symbol(modes, symbol)
    if weight <= 0 and np.any(values == 0):
        raise ValueError(f"fourier_matrix: weight = {weight}, but the operator has a kernel")
    waves, volume = half_lattice(modes), (2 * math.pi) ** len(modes)
    phase = np.asarray(boundary) @ waves.T
    ones = np.full((phase.shape[0], 1), 1 / math.sqrt(volume))
    scale = math.sqrt(2 / volume)
    phi = np.concatenate([ones, scale * np.cos(phase), scale * np.sin(phase)], 1)
    return np.diag(values**2) + weight * phi.T @ phi


def diag_precondition(
    modes: Sequence[int] | int, symbol: Symbol, gamma: float
) -> Float[np.ndarray, " n"]:
    """P of θ = P θ̂ for a `FourierModel`: 1/|symbol|, and γ where the symbol is zero.

    With a small λ on the boundary and γ = (V/(λ |∂Ω|))^½ the matrix P A P is close to the identity.

    **Raises:** `ValueError` for γ that is not positive.
    """
    if not gamma > 0:
        raise ValueError(f"diag_precondition: gamma = {gamma}, expected a positive number")
    modes = (modes,) if isinstance(modes, int) else tuple(modes)
    values = fourier_symbol(modes, symbol)
    return np.where(values == 0, gamma, 1 / np.where(values == 0, 1, values))


def precondition(scale: PyTree) -> optax.GradientTransformation:
    """Gradient descent in θ̂ with θ = P θ̂, seen from θ: g ← P² g, for a diagonal P.

    Put it in front of a step: `optax.chain(precondition(P), optax.sgd(0.5))`.

    **Arguments:** `scale`: P, one number for each weight, a tree like the weights.

    **Raises:** `ValueError` if shapes do not fit.
    """

    def init(params: PyTree) -> optax.EmptyState:
        shapes = jax.tree.map(jnp.shape, params), jax.tree.map(jnp.shape, scale)
        if jax.tree.leaves(shapes[0]) != jax.tree.leaves(shapes[1]):
            raise ValueError(f"precondition: weights {shapes[0]} and scale {shapes[1]} differ")
        return optax.EmptyState()

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        factors = jax.tree.leaves(scale)
        leaves, structure = jax.tree.flatten(updates)
        scaled = [g * jnp.asarray(p, g.dtype) ** 2 for g, p in zip(leaves, factors, strict=True)]
        return jax.tree.unflatten(structure, scaled), state

    return optax.GradientTransformation(cast(Any, init), cast(Any, update))
