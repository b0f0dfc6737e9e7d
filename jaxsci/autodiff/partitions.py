"""Which derivatives a univariate Taylor expansion contains: Faà di Bruno's formula.

For a curve g with derivatives g⁽ᵖ⁾(0) = v_p, the K-th derivative of f ∘ g at 0 is a sum over the
partitions of K into n_p parts of size p,

    (f ∘ g)⁽ᴷ⁾ = Σ  c · D^{Σ n_p} f [v_1, …, v_1, v_2, …],   c = K! / Π_p n_p! (p!)^{n_p}.

A jet whose curve is v_p = e_i at a few orders p and zero at all others thus contains mixed partial
derivatives, each with an integer in front; `JetPlan` finds curves that hold one derivative alone.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import equinox as eqx

MAX_ORDER = 24
"""The highest order of a jet that a plan may use; coefficients pass 10²⁰ beyond it."""


def partitions(order: int, parts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All ways to write `order` as Σ n_p p with the given different parts, as tuples of the n_p.

    **Raises:** `ValueError` for a negative order, or parts that repeat or are not positive.
    """
    if order < 0:
        raise ValueError(f"order = {order}: expected an integer >= 0")
    if len(set(parts)) != len(parts) or any(p < 1 for p in parts):
        raise ValueError(f"parts = {tuple(parts)}: expected different positive integers")
    return _partitions(order, tuple(parts))


def _partitions(order: int, parts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if not parts:
        if order == 0:
            yield ()
        return
    for count in range(order // parts[0] + 1):
        for rest in _partitions(order - count * parts[0], parts[1:]):
            yield (count, *rest)


def faa_di_bruno(order: int, counts: Mapping[int, int]) -> int:
    """The number in front of one partition, K! / Π_p n_p! (p!)^{n_p}.

    **Arguments:**

    - `order`: K.
    - `counts`: {p: n_p}, how often the p-th derivative of the inner curve occurs; Σ n_p p = K.

    **Returns:** an exact integer.

    **Raises:** `ValueError` if the counts are no partition of the order.
    """
    if sum(p * n for p, n in counts.items()) != order or any(n < 0 for n in counts.values()):
        raise ValueError(f"counts = {dict(counts)}: expected a partition of order = {order}")
    below = math.prod(math.factorial(n) * math.factorial(p) ** n for p, n in counts.items())
    return math.factorial(order) // below


class JetPlan(eqx.Module):
    """One jet that contains one mixed partial derivative and nothing else at its last order,

        ∂^α f(x) = (f ∘ g)⁽ᴷ⁾(0) / coefficient,   g⁽ᵖ⁾(0) = e_i for (i, p) in `placements`.

    - `index`: α, as the orders along the axes of the plan.
    - `placements`: the order p at which each axis enters the curve.
    - `order`: K. `coefficient`: what the derivative is multiplied by.
    """

    index: tuple[int, ...] = eqx.field(static=True)
    placements: tuple[int, ...] = eqx.field(static=True)
    order: int = eqx.field(static=True)
    coefficient: int = eqx.field(static=True)

    @staticmethod
    def contents(placements: Sequence[int], order: int) -> dict[tuple[int, ...], int]:
        """All derivatives in the last coefficient of a jet, with the numbers in front of them.

        **Arguments:**

        - `placements`: one order p for each axis.
        - `order`: K.

        **Returns:** {α: c} with (f ∘ g)⁽ᴷ⁾ = Σ c ∂^α f.

        **Raises:** `ValueError` for placements that repeat.
        """
        return {
            counts: faa_di_bruno(order, dict(zip(placements, counts, strict=True)))
            for counts in partitions(order, tuple(placements))
        }

    @staticmethod
    def for_index(index: Sequence[int]) -> "JetPlan":
        """The jet of the lowest order that holds ∂^α alone.

        All placements are tried and all partitions of each are listed, so that nothing else can be
        in the result.

        **Arguments:**

        - `index`: α, one positive order for each axis, e.g. (3, 1) for ∂³/∂x³ ∂/∂y.

        **Raises:** `ValueError` for an empty or non-positive index, or one that would need a jet of
        more than 24 orders.
        """
        return _plan(tuple(index))


@functools.cache
def _plan(index: tuple[int, ...]) -> JetPlan:
    if not index or any(n < 1 for n in index):
        raise ValueError(f"index = {index}: expected a positive order for each axis")
    candidates = []
    for placements in itertools.permutations(range(1, MAX_ORDER), len(index)):
        order = sum(n * p for n, p in zip(index, placements, strict=True))
        if order <= MAX_ORDER:
            candidates.append((order, placements))
    for order, placements in sorted(candidates):
        if len(list(itertools.islice(partitions(order, placements), 2))) == 1:
            coefficient = JetPlan.contents(placements, order)[index]
            return JetPlan(index, placements, order, coefficient)
    raise ValueError(
        f"index = {index}: no jet of at most {MAX_ORDER} orders holds this derivative alone; "
        "nested jets have no such limit (jaxsci.autodiff.mixed_jet)"
    )
