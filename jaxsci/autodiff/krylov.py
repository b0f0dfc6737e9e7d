"""What can be learnt of a symmetric operator from products with it: matrix, diagonal, Krylov space.

`lanczos` is our own since matfree's tridiagonalisation divides by zero once the Krylov space is
exhausted, which for an optimiser is an everyday case (H = 2 I after one step).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


def materialise(
    operator: lx.AbstractLinearOperator, batch_size: int | None = None
) -> Float[Array, "d d"]:
    """The dense matrix of a symmetric operator, in the order of `ravel_pytree`.

    **Arguments:**

    - `operator`: symmetric, on any pytree with d entries in all.
    - `batch_size`: columns computed at once; `None` is all d. Memory grows with it: a column needs
        about what a gradient needs.

    **Returns:** the symmetrised matrix (A + Aᵀ)/2, as rounding breaks the symmetry.

    **Raises:** `ValueError` for `batch_size` < 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: expected None or an integer >= 1")
    zero, unravel = ravel_pytree(_zeros(operator))
    columns = jnp.eye(zero.size, dtype=zero.dtype)

    def column(v: Float[Array, " d"]) -> Float[Array, " d"]:
        return ravel_pytree(operator.mv(unravel(v)))[0]

    if batch_size is None or batch_size >= zero.size:
        matrix = jax.vmap(column)(columns)
    else:
        matrix = jax.lax.map(column, columns, batch_size=batch_size)
    return (matrix + matrix.T) / 2


def hutchinson_diag(
    operator: lx.AbstractLinearOperator, key: PRNGKeyArray, n_probes: int = 1
) -> PyTree:
    """Hutchinson's estimate of the diagonal, E[z ⊙ A z] with random signs z.

    Unbiased, and exact with one probe where A is diagonal, since z² = 1.

    **Arguments:**

    - `operator`: symmetric, on any pytree.
    - `key`: for the signs.
    - `n_probes`: the standard deviation falls with its root.

    **Returns:** a pytree like the operator's input.

    **Raises:** `ValueError` for `n_probes` < 1.
    """
    if n_probes < 1:
        raise ValueError(f"n_probes = {n_probes}: expected an integer >= 1")
    zero, unravel = ravel_pytree(_zeros(operator))

    def probe(key: PRNGKeyArray) -> PyTree:
        z = unravel(jax.random.rademacher(key, zero.shape, zero.dtype))
        return jax.tree.map(jnp.multiply, z, operator.mv(z))

    if n_probes == 1:
        return probe(key)
    samples = jax.lax.map(probe, jax.random.split(key, n_probes))
    return jax.tree.map(lambda s: jnp.mean(s, 0), samples)


class Lanczos(NamedTuple):
    """Q A Qᵀ = T: orthonormal rows `basis` (zero after a breakdown), T with `diag` and `off`."""

    basis: Float[Array, "p d"]
    diag: Float[Array, " p"]
    off: Float[Array, " p_minus_1"]


def lanczos(operator: lx.AbstractLinearOperator, start: Float[Array, " d"], p: int) -> Lanczos:
    """The Krylov space of span{v, A v, …, Aᵖ⁻¹ v} by Lanczos' recursion,

        β_j q_{j+1} = A q_j − α_j q_j − β_{j−1} q_{j−1},   α_j = q_jᵀ A q_j,

    each new vector orthogonalised twice against all earlier ones. If the space is exhausted before
    p vectors, the rest of the basis, of `diag` and of `off` is zero.

    **Arguments:**

    - `operator`: symmetric, on flat vectors of length d.
    - `start`: v; zero gives a zero basis.
    - `p`: dimension of the space, static, at most d.

    **Returns:** `Lanczos(basis, diag, off)`.

    **Raises:** `ValueError` for p outside [1, d].
    """
    (d,) = start.shape
    if not 1 <= p <= d:
        raise ValueError(f"p = {p}: expected an integer from 1 to the dimension {d}")
    # Below this size, relative to ‖A q‖, a remainder is rounding error of the orthogonalisation.
    threshold = 50 * jnp.finfo(start.dtype).eps

    def normalised(v: Array, size: Array) -> tuple[Array, Array]:
        norm = jnp.linalg.norm(v)
        alive = norm > threshold * size
        beta = jnp.where(alive, norm, 0)
        return jnp.where(alive, v / jnp.where(alive, norm, 1), 0), beta

    def body(carry: tuple[Array, Array], j: Array):
        basis, q = carry
        basis = basis.at[j].set(q)
        product = operator.mv(q)
        alpha = q @ product
        rest = product - basis.T @ (basis @ product)
        rest = rest - basis.T @ (basis @ rest)
        q, beta = normalised(rest, jnp.linalg.norm(product))
        return (basis, q), (alpha, beta)

    first, _ = normalised(start, jnp.zeros((), start.dtype))
    (basis, _), (diag, off) = jax.lax.scan(
        body, (jnp.zeros((p, d), start.dtype), first), jnp.arange(p)
    )
    return Lanczos(basis, diag, off[:-1])


def _zeros(operator: lx.AbstractLinearOperator) -> PyTree:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure())
