"""Coefficients of linearly implicit methods, and the conditions on them.

    (M − γₛ h J) uₛ = h f(t + αₛ h, y + Σ aₛᵣ uᵣ) + M Σ cₛᵣ uᵣ + dₛ h² f_t,    y₁ = y + Σ bₛ uₛ

(r < s; the term with f is missing where `evaluate` is false). This one form holds the Rosenbrock
methods, where c couples the stages, and the TASE methods, where stages without f are the powers of
L = (I − γ h J)⁻¹. α and d follow from the others, because time is one more component of y.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations_with_replacement
from math import prod
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

Tree = tuple[Any, ...]


@lru_cache
def rooted_trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees of `order` nodes; a tree is the sorted tuple of its branches.

    **Arguments:**

    - `order`: number of nodes, at least 1.

    **Returns:** the trees; 1, 1, 2, 4, 9 of them for the orders 1 to 5.

    **Raises:** `ValueError` if the order is less than 1.
    """
    if order < 1:
        raise ValueError(f"order = {order}: expected an integer >= 1")

    def forests(nodes: int, largest: int) -> list[tuple[Tree, ...]]:
        if nodes == 0:
            return [()]
        found = []
        for size in range(min(nodes, largest), 0, -1):
            for copies in range(1, nodes // size + 1):
                heads = combinations_with_replacement(rooted_trees(size), copies)
                tails = forests(nodes - size * copies, size - 1)
                found += [head + tail for head in heads for tail in tails]
        return found

    return tuple(tuple(sorted(f)) for f in forests(order - 1, order - 1))


def _nodes(tree: Tree) -> int:
    return 1 + sum(_nodes(t) for t in tree)


def density(tree: Tree) -> int:
    """γ(τ): number of nodes times the densities of the branches; Σ b Φ(τ) = 1/γ(τ) is the order
    condition of the tree τ."""
    return _nodes(tree) * prod(density(t) for t in tree)


@dataclass(frozen=True)
class WTableau:
    """Coefficients of one linearly implicit method; checked when made.

    - `a`: lower triangle, of the points where f is evaluated. `c`: lower triangle, the coupling.
    - `b`: weights of the solution. `b_error`: weights of the error estimate.
    - `gamma`: one number, or one a stage; equal numbers share a factorisation.
    - `order`: claimed order. `kind`: `"rosenbrock"` if it needs the exact Jacobian, `"w"` if it has
        the order with any matrix in its place.
    - `evaluate`: which stages evaluate f; by default all.
    - `dense`: the row k − 1 holds weights B_k of the continuous solution y + Σ_k θᵏ Σ_s B_ks uₛ,
        0 ≤ θ ≤ 1; by default the one of least norm with one order less than the method.

    `alpha`, `d` and `error_order` (one more than the order of the embedded method) are found.

    **Raises:** `ValueError` if a shape does not fit, a γ is not positive, an order condition up to
    `order` does not hold, or the dense output does not end in y₁.
    """

    a: Float[np.ndarray, "s s"]
    c: Float[np.ndarray, "s s"]
    b: Float[np.ndarray, " s"]
    b_error: Float[np.ndarray, " s"]
    gamma: Any
    order: int
    kind: Literal["rosenbrock", "w"]
    evaluate: Any = None
    dense: Any = None
    alpha: Float[np.ndarray, " s"] = field(init=False)
    d: Float[np.ndarray, " s"] = field(init=False)
    error_order: int = field(init=False)

    def __post_init__(self):
        s = len(self.b)
        put = object.__setattr__
        for name in ("a", "c"):
            matrix = np.asarray(getattr(self, name), float)
            if matrix.shape != (s, s) or np.any(np.triu(matrix)):
                raise ValueError(f"{name}: expected a strictly lower triangle of shape ({s}, {s})")
            put(self, name, matrix)
        put(self, "b", np.asarray(self.b, float))
        put(self, "b_error", np.asarray(self.b_error, float))
        put(self, "gamma", np.broadcast_to(np.asarray(self.gamma, float), (s,)))
        evaluate = np.ones(s, bool) if self.evaluate is None else np.asarray(self.evaluate, bool)
        put(self, "evaluate", evaluate)
        if self.b_error.shape != (s,) or evaluate.shape != (s,):
            raise ValueError(f"b_error, evaluate: expected {s} entries, as b has")
        if not np.all(self.gamma > 0):
            raise ValueError(f"gamma = {self.gamma}: expected positive numbers")
        if self.kind not in ("rosenbrock", "w"):
            raise ValueError(f"kind = {self.kind!r}: expected 'rosenbrock' or 'w'")
        stages = self.elementary_weights((), True)
        put(self, "alpha", self.a @ stages)
        put(self, "d", self.gamma * stages)
        embedded = 0
        while embedded < self.order and self._worst(self.b - self.b_error, embedded + 1) < 1e-10:
            embedded += 1
        put(self, "error_order", embedded + 1)
        worst = max(self._worst(self.b, p) for p in range(1, self.order + 1))
        if worst > 1e-10:
            raise ValueError(f"order = {self.order}: a condition is violated by {worst:.1e}")
        if embedded < 1:
            raise ValueError("b_error: b - b_error is no consistent method")
        if self.dense is None:
            put(self, "dense", self._continuous())
        elif np.shape(self.dense)[1:] != (s,):
            raise ValueError(f"dense: expected rows of {s} entries, got {np.shape(self.dense)}")
        elif not np.allclose(np.sum(self.dense, 0), self.b, atol=1e-10):
            raise ValueError("dense: expected rows whose sum is b, so that θ = 1 gives y₁")

    def elementary_weights(self, tree: Tree, f_root: bool) -> Float[np.ndarray, " s"]:
        """Φ(τ) of the stages for a tree whose root, and other nodes with one branch, may be a
        derivative of f (`f_root`) or the matrix; with the exact Jacobian they are one tree, and
        `conditions` adds them up."""
        solve = np.linalg.inv(np.eye(len(self.b)) - self.c)
        if not f_root:
            (branch,) = tree
            return solve @ (self.gamma * self._weights(branch))
        inner = np.ones(len(self.b))
        for branch in tree:
            inner = inner * (self.a @ self._weights(branch))
        return solve @ (self.evaluate * inner)

    def _weights(self, tree: Tree) -> Float[np.ndarray, " s"]:
        # A coloured tree is ("W", branch) or ("f", branches); a plain one sums over the colours.
        if tree and tree[0] in ("f", "W"):
            return self.elementary_weights(tuple(tree[1:]), tree[0] == "f")
        total = self.elementary_weights(tree, True)
        if len(tree) == 1:
            total = total + self.elementary_weights(tree, False)
        return total

    def conditions(self, order: int) -> list[tuple[Float[np.ndarray, " s"], float]]:
        """The order conditions b·Φ = r of exactly `order`, as pairs (Φ, r).

        **Arguments:** `order`, at least 1. For the kind `"w"` there is one condition for every
        colouring, with r = 0 if the matrix occurs.
        """
        if self.kind == "rosenbrock":
            return [(self._weights(t), 1 / density(t)) for t in rooted_trees(order)]

        def colourings(tree: Tree) -> list[Tree]:
            branches: list[Tree] = [()]
            for t in tree:
                branches = [(*rest, choice) for rest in branches for choice in colourings(t)]
            found: list[Tree] = [("f", *b) for b in branches]
            if len(tree) == 1:
                found += [("W", *b) for b in branches]
            return found

        pairs = []
        for tree in rooted_trees(order):
            for coloured in colourings(tree):
                plain = "W" not in str(coloured)
                pairs.append((self._weights(coloured), 1 / density(tree) if plain else 0.0))
        return pairs

    def _worst(self, b: np.ndarray, order: int) -> float:
        return max(float(abs(b @ weights - right)) for weights, right in self.conditions(order))

    def _continuous(self) -> Float[np.ndarray, "k s"]:
        degree, s = max(self.order - 1, 1), len(self.b)
        rows, right = [np.tile(np.eye(s), degree)], [self.b]
        for p in range(1, degree + 1):
            for weights, value in self.conditions(p):
                for k in range(degree):
                    row = np.zeros((1, degree * s))
                    row[0, k * s : (k + 1) * s] = weights
                    rows.append(row)
                    right.append(np.array([value if k + 1 == p else 0.0]))
        solution, *_ = np.linalg.lstsq(np.concatenate(rows), np.concatenate(right), rcond=1e-12)
        return solution.reshape(degree, s)

    def stability(self, z: complex) -> complex:
        """R(z): one step of y' = λ y with z = λ h takes y to R(z) y.

        **Arguments:** `z`, any complex number, or infinity (the limit).
        """
        e = self.evaluate.astype(float)
        if np.isinf(z):
            matrix = -np.diag(self.gamma) - e[:, None] * self.a
            return 1 + self.b @ np.linalg.solve(matrix, e)
        matrix = np.diag(1 - z * self.gamma) - self.c - z * e[:, None] * self.a
        return 1 + self.b @ np.linalg.solve(matrix, z * e)


def w_order_conditions(tableau: WTableau, order: int | None = None) -> dict[int, float]:
    """How far the order conditions are from holding: the largest residual of each order.

    **Arguments:**

    - `tableau`: of either kind; its kind says which conditions.
    - `order`: the last one; by default one more than the tableau's, which should not hold.

    **Returns:** `{1: residual, 2: …}`.
    """
    last = tableau.order + 1 if order is None else order
    return {p: tableau._worst(tableau.b, p) for p in range(1, last + 1)}
