"""Banded Jacobians: coloured differentiation, and a direct solver by block cyclic reduction.

A matrix with `lower` and `upper` diagonals is block tridiagonal with blocks of size
b = max(lower, upper). Cyclic reduction eliminates every second block at once, so that a system of n
unknowns takes log₂(n/b) vectorised passes, on CPUs and GPUs alike, and O(n b²) work.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Inexact


class BandedOperator(lx.AbstractLinearOperator):
    """A square matrix A with few diagonals: `bands[k, i]` is A[i, i + k − lower].

    **Arguments:**

    - `bands`: one row a diagonal, from the lowest up; entries outside the matrix are ignored.
    - `lower`: number of diagonals below the main one.

    **Raises:** `ValueError` if the bands do not contain the main diagonal or are more than the
    matrix has.
    """

    bands: Inexact[Array, "bands n"]
    lower: int

    def __init__(self, bands: Inexact[Array, "bands n"], lower: int):
        if bands.ndim != 2 or not 0 <= lower < bands.shape[0]:
            raise ValueError(f"bands, lower: got the shape {bands.shape} and lower = {lower}")
        width, n = bands.shape
        if max(lower, width - 1 - lower) >= n:
            raise ValueError(f"bands: {width} diagonals, but the matrix has only {n} rows")
        columns = np.arange(n)[None] + np.arange(width)[:, None] - lower
        self.bands = jnp.where((columns >= 0) & (columns < n), bands, 0)
        self.lower = lower

    @property
    def upper(self) -> int:
        """Number of diagonals above the main one."""
        return self.bands.shape[0] - 1 - self.lower

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
        """A v."""
        n = vector.shape[0]
        padded = jnp.pad(vector, (self.lower, self.upper))
        return sum(
            (band * padded[k : k + n] for k, band in enumerate(self.bands)), jnp.zeros_like(vector)
        )

    def as_matrix(self) -> Inexact[Array, "n n"]:
        """A, dense."""
        n = self.bands.shape[1]
        rows = np.arange(n)
        matrix = jnp.zeros((n, n + self.lower + self.upper), self.bands.dtype)
        for k, band in enumerate(self.bands):
            matrix = matrix.at[rows, rows + k].set(band)
        return matrix[:, self.lower : self.lower + n]

    def transpose(self) -> "BandedOperator":
        """Aᵀ."""
        bands = [jnp.roll(band, k - self.lower) for k, band in enumerate(self.bands)]
        return BandedOperator(jnp.stack(bands[::-1]), self.upper)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.bands.shape[1:], self.bands.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.in_structure()


for _question in (
    lx.is_symmetric,
    lx.is_diagonal,
    lx.is_tridiagonal,
    lx.has_unit_diagonal,
    lx.is_lower_triangular,
    lx.is_upper_triangular,
    lx.is_positive_semidefinite,
    lx.is_negative_semidefinite,
):
    _question.register(BandedOperator)(lambda operator: False)
for _same in (lx.linearise, lx.materialise):
    _same.register(BandedOperator)(lambda operator: operator)
lx.diagonal.register(BandedOperator)(lambda operator: operator.bands[operator.lower])
lx.conj.register(BandedOperator)(
    lambda operator: BandedOperator(operator.bands.conj(), operator.lower)
)


def as_banded(operator: lx.AbstractLinearOperator) -> BandedOperator:
    """Sums and multiples of banded, tridiagonal and diagonal operators as one `BandedOperator`.

    **Arguments:** `operator`, of lineax.

    **Raises:** `ValueError` for an operator whose diagonals are not known.
    """
    if isinstance(operator, BandedOperator):
        return operator
    if isinstance(operator, lx.AddLinearOperator):
        left, right = as_banded(operator.operator1), as_banded(operator.operator2)
        lower, upper = max(left.lower, right.lower), max(left.upper, right.upper)
        pads = [((lower - a.lower, upper - a.upper), (0, 0)) for a in (left, right)]
        return BandedOperator(jnp.pad(left.bands, pads[0]) + jnp.pad(right.bands, pads[1]), lower)
    if isinstance(operator, lx.NegLinearOperator):
        inner = as_banded(operator.operator)
        return BandedOperator(-inner.bands, inner.lower)
    if isinstance(operator, lx.MulLinearOperator | lx.DivLinearOperator):
        inner, scalar = as_banded(operator.operator), operator.scalar
        factor = scalar if isinstance(operator, lx.MulLinearOperator) else 1 / scalar
        return BandedOperator(factor * inner.bands, inner.lower)
    if isinstance(operator, lx.TaggedLinearOperator):
        return as_banded(operator.operator)
    if lx.is_diagonal(operator):
        return BandedOperator(lx.diagonal(operator)[None], 0)
    if lx.is_tridiagonal(operator):
        main, below, above = lx.tridiagonal(operator)
        rows = [jnp.pad(below, (1, 0)), main, jnp.pad(above, (0, 1))]
        return BandedOperator(jnp.stack(rows), 1)
    raise ValueError(f"operator: expected a banded one, got {type(operator).__name__}")


def banded_jacobian(
    field: Callable[[Any, Array, Any], Array], lower: int, upper: int
) -> Callable[[Any, Array, Any], BandedOperator]:
    """The banded Jacobian of f(t, y, args) by lower + upper + 1 products J v, however long y is.

    **Arguments:**

    - `field`: f, from arrays of shape (n,) to such. That fᵢ depends only on
        y_{i−lower}, …, y_{i+upper} is taken on trust; what it owes to others is lost or misplaced.
    - `lower`, `upper`: numbers of diagonals.

    **Returns:** a function (t, y, args) -> `BandedOperator`, to be the `jacobian` of a solver.

    **Raises:** `ValueError` for negative widths, or a y that is no vector.
    """
    if lower < 0 or upper < 0:
        raise ValueError(f"lower = {lower}, upper = {upper}: expected integers >= 0")
    width = lower + upper + 1

    def jacobian(t: Any, y: Array, args: Any) -> BandedOperator:
        if jnp.ndim(y) != 1:
            raise ValueError(f"y: expected one vector, got {jax.tree.map(jnp.shape, y)}")
        n = y.shape[0]
        # Columns of the same colour are `width` apart, so that their entries do not overlap.
        colours = (np.arange(n)[None] % width == np.arange(width)[:, None]).astype(y.dtype)
        products = jax.vmap(lambda v: jax.jvp(lambda z: field(t, z, args), (y,), (v,))[1])(
            jnp.asarray(colours)
        )
        columns = np.arange(n)[None] + np.arange(width)[:, None] - lower
        return BandedOperator(products[columns % width, np.arange(n)[None]], lower)

    return jacobian


_Blocks = tuple[Array, Array, Array]


class BlockCyclicReduction(lx.AbstractLinearSolver):
    """Direct solver for banded systems, for M − γ h J with few diagonals.

    There is no exchange of blocks, so the matrix should not be far from diagonally dominant, as
    I − γ h J is for diffusion and for small steps.
    """

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> Any:
        """The factorisation."""
        blocks = _blocks(as_banded(operator))
        return blocks, _reduce(blocks), None

    def compute(
        self, state: Any, vector: Array, options: dict[str, Any]
    ) -> tuple[Array, lx.RESULTS, dict[str, Any]]:
        """A⁻¹ v."""
        (_, middle, _), levels, _ = state
        padding = middle.shape[0] * middle.shape[1] - vector.shape[0]
        right = jnp.pad(vector, (0, padding)).reshape(middle.shape[0], middle.shape[1])
        solution = _substitute(levels, right).reshape(-1)[: vector.shape[0]]
        return solution, lx.RESULTS.successful, {}

    def transpose(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The state for Aᵀ."""
        below, middle, above = (jnp.swapaxes(x, 1, 2) for x in state[0])
        blocks = jnp.roll(above, 1, 0), middle, jnp.roll(below, -1, 0)
        return (blocks, _reduce(blocks), None), options

    def conj(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The state for the conjugate of A."""
        return jax.tree.map(jnp.conj, state), options

    def assume_full_rank(self) -> bool:
        return True


def _blocks(a: BandedOperator) -> _Blocks:
    """Blocks below, on and above the diagonal; 2^k − 1 of each, padded with the identity."""
    n, size = a.bands.shape[1], max(a.lower, a.upper, 1)
    count = 2 ** int(np.ceil(np.log2(-(-n // size) + 1))) - 1
    rows = np.arange(count * size).reshape(count, size, 1)
    bands = jnp.pad(a.bands, ((0, 0), (0, count * size - n)))
    main = a.lower
    bands = bands.at[main, n:].set(1)
    found = []
    for shift in (-1, 0, 1):
        columns = (rows // size + shift) * size + np.arange(size)
        k = columns - rows + main
        inside = (k >= 0) & (k < a.bands.shape[0]) & (columns >= 0)
        picked = bands[np.clip(k, 0, a.bands.shape[0] - 1), rows]
        found.append(jnp.where(inside, picked, 0))
    return found[0], found[1], found[2]


def _inverse(blocks: Array) -> Array:
    size = blocks.shape[-1]
    if size == 1:
        return 1 / blocks
    if size == 2:
        a, b, c, d = (blocks[:, i, j] for i in range(2) for j in range(2))
        adjugate = jnp.stack([jnp.stack([d, -b], -1), jnp.stack([-c, a], -1)], -2)
        return adjugate / (a * d - b * c)[:, None, None]
    return jnp.linalg.inv(blocks)


def _product(a: Array, b: Array) -> Array:
    # Broadcast and sum: faster than batched products of small matrices, and never in low precision.
    return jnp.sum(a[:, :, :, None] * b[:, None, :, :], axis=2)


def _apply(a: Array, v: Array) -> Array:
    return jnp.sum(a * v[:, None, :], axis=2)


def _reduce(blocks: _Blocks) -> list[tuple[Array, ...]]:
    below, middle, above = blocks
    levels = []
    while middle.shape[0] > 1:
        inverse = _inverse(middle[::2])
        left = _product(below[1::2], inverse[:-1])
        right = _product(above[1::2], inverse[1:])
        levels.append((inverse, below[::2], above[::2], left, right))
        middle = middle[1::2] - _product(left, above[:-1:2]) - _product(right, below[2::2])
        below, above = -_product(left, below[:-1:2]), -_product(right, above[2::2])
    levels.append((_inverse(middle),))
    return levels


def _substitute(levels: list[tuple[Array, ...]], right: Array) -> Array:
    kept = []
    for _, _, _, left, after in levels[:-1]:
        even, odd = right[::2], right[1::2]
        kept.append(even)
        right = odd - _apply(left, even[:-1]) - _apply(after, even[1:])
    x = _apply(levels[-1][0], right)
    for (inverse, below, above, _, _), even in zip(levels[-2::-1], kept[::-1], strict=True):
        zero = jnp.zeros_like(x[:1])
        before, behind = jnp.concatenate([zero, x]), jnp.concatenate([x, zero])
        eliminated = _apply(inverse, even - _apply(below, before) - _apply(above, behind))
        pairs = jnp.stack([eliminated[:-1], x], 1).reshape(-1, x.shape[1])
        x = jnp.concatenate([pairs, eliminated[-1:]])
    return x
