"""Factorised symmetric matrices that can be shifted cheaply: the lasting part of a lazy Hessian.

A factorisation H = Q diag(w) Qᵀ is paid for once. Afterwards every regularised Newton step with it,

    s = −(H + λ I)⁻¹ g       or       s = argmin_s gᵀs + sᵀH s / 2 + (M/6) ‖s‖³,

costs two products with Q and a problem for diagonal matrices, whatever λ and M are in that step.
"""

import abc
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from jaxsci.autodiff import lanczos, materialise

FactorKind = Literal["eigh", "cholesky", "ritz"]


class AbstractFactor(eqx.Module):
    """A factorised symmetric matrix H."""

    @abc.abstractmethod
    def solve(self, g: Float[Array, " d"]) -> Float[Array, " d"]:
        """H⁻¹ g."""


class AbstractSpectralFactor(AbstractFactor):
    """H in coordinates in which it is diagonal; k of them are enough for any one gradient."""

    @abc.abstractmethod
    def spectrum(self) -> Float[Array, " k"]:
        """The eigenvalues w."""

    @abc.abstractmethod
    def coordinates(self, g: Float[Array, " d"]) -> Float[Array, " k"]:
        """The c with g = Σ c_i q_i for orthonormal eigenvectors q_i."""

    @abc.abstractmethod
    def vector(self, c: Float[Array, " k"], g: Float[Array, " d"]) -> Float[Array, " d"]:
        """Σ c_i q_i, for coordinates that were made from those of `g`."""

    def solve(self, g: Float[Array, " d"]) -> Float[Array, " d"]:
        return self.solve_shifted(g, 0)

    def solve_shifted(self, g: Float[Array, " d"], shift: Float[Array, ""] | float):
        """(H + λ I)⁻¹ g. Zero divided by zero is zero here: no force, no step."""
        return self.vector(_divide(self.coordinates(g), self.spectrum() + shift), g)

    def cubic_step(self, g: Float[Array, " d"], M: Float[Array, ""] | float):
        """The global minimiser s of gᵀs + sᵀH s/2 + (M/6)‖s‖³, also where H is indefinite."""
        return self.vector(cubic_step(self.spectrum(), self.coordinates(g), M), g)


class DenseEigh(AbstractSpectralFactor):
    """H = Q diag(w) Qᵀ with all d eigenvectors as columns of Q: d² + d numbers."""

    basis: Float[Array, "d d"]
    eigenvalues: Float[Array, " d"]

    def spectrum(self) -> Float[Array, " d"]:
        return self.eigenvalues

    def coordinates(self, g: Float[Array, " d"]) -> Float[Array, " d"]:
        return self.basis.T @ g

    def vector(self, c: Float[Array, " d"], g: Float[Array, " d"]) -> Float[Array, " d"]:
        return self.basis @ c


class Ritz(AbstractSpectralFactor):
    """H ≈ Uᵀ diag(θ) U + φ (I − Uᵀ U): p Ritz vectors as rows of U, one value φ for the rest.

    The part of a gradient outside the p vectors counts as one more eigenvector, with value φ ≥ 0.
    """

    basis: Float[Array, "p d"]
    values: Float[Array, " p"]
    floor: Float[Array, ""]

    def spectrum(self) -> Float[Array, " p_plus_1"]:
        return jnp.append(self.values, self.floor)

    def coordinates(self, g: Float[Array, " d"]) -> Float[Array, " p_plus_1"]:
        inside = self.basis @ g
        return jnp.append(inside, jnp.linalg.norm(g - inside @ self.basis))

    def vector(self, c: Float[Array, " p_plus_1"], g: Float[Array, " d"]) -> Float[Array, " d"]:
        outside = g - (self.basis @ g) @ self.basis
        return c[:-1] @ self.basis + c[-1] * _divide(outside, jnp.linalg.norm(outside))


class Diagonal(AbstractSpectralFactor):
    """H = diag(w)."""

    eigenvalues: Float[Array, " d"]

    def spectrum(self) -> Float[Array, " d"]:
        return self.eigenvalues

    def coordinates(self, g: Float[Array, " d"]) -> Float[Array, " d"]:
        return g

    def vector(self, c: Float[Array, " d"], g: Float[Array, " d"]) -> Float[Array, " d"]:
        return c


class Cholesky(AbstractFactor):
    """H = L Lᵀ, positive definite: the cheapest to make (d³/3), but it cannot be shifted."""

    lower: Float[Array, "d d"]

    def solve(self, g: Float[Array, " d"]) -> Float[Array, " d"]:
        return jax.scipy.linalg.cho_solve((self.lower, True), g)


def factorise(
    operator: lx.AbstractLinearOperator,
    start: Float[Array, " d"],
    kind: FactorKind = "eigh",
    *,
    rank: int | None = None,
    nonconvex: Literal["shift", "abs", "clip"] = "shift",
    batch_size: int | None = None,
) -> AbstractFactor:
    """Factorises a symmetric operator on flat vectors.

    **Arguments:**

    - `operator`: H, on vectors of length d.
    - `start`: the vector from which `"ritz"` spans its Krylov space; the gradient is good.
    - `kind`: `"eigh"` (d products, about 10 d³), `"cholesky"` (d products, d³/3; H must be
        positive definite), `"ritz"` (`rank` products, O(d rank²)).
    - `rank`: dimension of the Krylov space.
    - `nonconvex`: negative eigenvalues are kept (`"shift"`), replaced by their absolute value
        (`"abs"`) or by zero (`"clip"`).
    - `batch_size`: columns of the dense matrix that are computed at once.

    **Returns:** the factor.

    **Raises:** `ValueError` for an unknown kind or for `"ritz"` without a rank.
    """
    if kind == "cholesky":
        return Cholesky(jnp.linalg.cholesky(materialise(operator, batch_size)))
    if kind == "eigh":
        values, basis = jnp.linalg.eigh(materialise(operator, batch_size))
        return DenseEigh(basis, _convexify(values, nonconvex))
    if kind != "ritz" or rank is None:
        raise ValueError(f"factor = {kind!r} with rank = {rank}: expected eigh, cholesky or ritz")
    krylov, diag, off = lanczos(operator, start, rank)
    values, vectors = jnp.linalg.eigh(jnp.diag(diag) + jnp.diag(off, 1) + jnp.diag(off, -1))
    basis = vectors.T @ krylov
    # After a breakdown of the recursion some Ritz vectors are zero: they carry no information.
    real = jnp.sum(basis**2, 1) > 0.5
    # What the recursion saw last, α + β of the youngest vector, stands for all it did not see:
    # the smallest Ritz value would make the steps outside the space far too long.
    last = jnp.maximum(jnp.sum(jnp.any(krylov != 0, 1)) - 1, 0)
    floor = diag[last] + jnp.append(off, 0)[jnp.maximum(last - 1, 0)]
    floor = jnp.maximum(jnp.minimum(floor, jnp.max(values)), 0)
    basis = jnp.where(real[:, None], basis, 0)
    return Ritz(basis, jnp.where(real, _convexify(values, nonconvex), floor), floor)


def identity_factor(d: int, dtype: jnp.dtype, kind: FactorKind, rank: int | None) -> AbstractFactor:
    """The factor of I, in the form that `factorise` gives: what a state holds at the start."""
    if kind == "eigh":
        return DenseEigh(jnp.eye(d, dtype=dtype), jnp.ones(d, dtype))
    if kind == "cholesky":
        return Cholesky(jnp.eye(d, dtype=dtype))
    p = min(rank or 0, d)
    return Ritz(jnp.eye(p, d, dtype=dtype), jnp.ones(p, dtype), jnp.ones((), dtype))


def cubic_step(
    w: Float[Array, " k"], c: Float[Array, " k"], M: Float[Array, ""] | float
) -> Float[Array, " k"]:
    """The global minimiser of cᵀs + Σ w_i s_i²/2 + (M/6)‖s‖³.

    It is s_i = −c_i / (w_i + M r/2) with r = ‖s‖ ≥ r₀ = max(0, −2 w_min/M). With r = r₀ + δ the
    denominators are (w_i − w_min) + max(w_min, 0) + M δ/2, which do not cancel, and δ is the root
    of the increasing, concave 1/‖s(δ)‖ − 1/(r₀ + δ) in [0, (2‖c‖/M)^½], found by Newton's method
    inside a bracket. If there is no root (the "hard case": c has no part along the lowest
    eigenvector, w_min < 0), then r = r₀, and that eigenvector makes up for the missing length.

    Differentiable by the implicit function theorem, away from the hard case.

    **Arguments:**

    - `w`, `c`: the eigenvalues and the gradient's coordinates.
    - `M`: > 0.

    **Returns:** s.
    """
    w, c = jnp.asarray(w), jnp.asarray(c)
    M = jnp.asarray(M, w.dtype)
    eps, tiny = jnp.finfo(w.dtype).eps, jnp.finfo(w.dtype).tiny

    def shifted(w, M):
        lowest = jnp.min(w)
        return (w - lowest) + jnp.maximum(lowest, 0), jnp.maximum(0, -2 * lowest / M)

    def residual(delta, w, c, M):
        """1/‖s‖ − 1/r, with its derivative in δ."""
        gaps, r0 = shifted(w, M)
        s = _divide(c, gaps + M * delta / 2)
        size = jnp.maximum(jnp.linalg.norm(s), tiny**0.25)
        r = jnp.maximum(r0 + delta, tiny**0.25)
        slope = (M / 2) * jnp.sum(s / size * _divide(s / size, gaps + M * delta / 2)) / size
        return 1 / size - 1 / r, slope + 1 / r**2

    def root(w, c, M):
        gaps, r0 = shifted(w, M)
        high = jnp.sqrt(2 * jnp.linalg.norm(c) / M)
        low = jnp.maximum(jnp.linalg.norm(_divide(c, gaps + M * high / 2)) - r0, 0)

        def proceed(carry):
            i, _, _, delta, change = carry
            return (i < 80) & (change > 2 * eps * delta) & (delta > eps * r0)

        def body(carry):
            i, low, high, delta, _ = carry
            value, slope = residual(delta, w, c, M)
            low, high = jnp.where(value < 0, delta, low), jnp.where(value < 0, high, delta)
            new = delta - value / slope
            new = jnp.where((new >= low) & (new <= high), new, (low + high) / 2)
            return i + 1, low, high, new, jnp.abs(new - delta)

        start = jnp.maximum(low, 1e-3 * high)
        return jax.lax.while_loop(proceed, body, (0, low, high, start, jnp.inf * high))[3]

    held = jax.lax.stop_gradient((w, c, M))
    delta = root(*held)
    # The root does not move to first order under one more Newton step, whose derivatives with
    # respect to w, c and M are those of the implicit function.
    slope = residual(delta, *held)[1]
    value = residual(delta, w, c, M)[0]
    delta = delta - (value - jax.lax.stop_gradient(value)) / slope
    easy = -_divide(c, shifted(w, M)[0] + M * delta / 2)

    w, c, M = held
    gaps, r0 = shifted(w, M)
    lowest_space = gaps <= 4 * eps * jnp.max(jnp.abs(w))
    rest = jnp.where(lowest_space, 0, -_divide(c, gaps))
    missing = jnp.sqrt(jnp.maximum(r0**2 - jnp.sum(rest**2), tiny))
    lowest = jnp.argmin(w)
    hard = rest.at[lowest].set(-jnp.where(c[lowest] < 0, -missing, missing))
    at_bound = jnp.linalg.norm(_divide(c, gaps + M * eps * r0 / 2))
    return jnp.where((r0 > 0) & (at_bound < r0), hard, easy)


def _convexify(values: Float[Array, " k"], nonconvex: str) -> Float[Array, " k"]:
    if nonconvex == "shift":
        return values
    if nonconvex == "abs":
        return jnp.abs(values)
    if nonconvex == "clip":
        return jnp.maximum(values, 0)
    raise ValueError(f"nonconvex = {nonconvex!r}: expected 'shift', 'abs' or 'clip'")


def _divide(a: Array, b: Array) -> Array:
    """a/b, with 0/0 = 0."""
    return a / jnp.where((a == 0) & (b == 0), 1, b)
