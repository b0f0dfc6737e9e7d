"""Equations as computational graphs.

    u_t + c u_x = 0,  u(0, x) = g(x):      m₁ … m_L → u → ∂t → + → (= 0)
                                             u → ∂x → × → +,   c → ×
                                             u → initial → b₁ … b_N

An edge goes from an operand to the operation. The symbols are the kinds of the nodes; the numbers
(c, and g at a few points) are features of the nodes c and b₁ … b_N.

```python
from jaxsci.operators import equations as eq, pde_graph

u = eq.unknown()
burgers = eq.dt(u) + eq.dx(0.5 * u**2 - 0.1 * eq.dx(u))
graph = pde_graph(burgers, {u: jnp.sin(jnp.pi * x)}, x)
```
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

KINDS = (
    "filling",
    "unknown",
    "scalar",
    "initial",
    "field",
    "add",
    "multiply",
    "zero",
    "dt",
    "dx",
    "negate",
    "square",
    "exp",
    "sin",
    "cos",
)
"""What a node can be, apart from the b_j (up to 32) and the m_l (up to 16): in this order."""
_BRANCHES, _MODULATIONS = 32, 16
N_KINDS = len(KINDS) - 1 + _BRANCHES + _MODULATIONS
"""Kinds of nodes, without the filling."""


class Expression:
    """A term of an equation: sums and products of terms, and functions of them.

    Made by `unknown`, `scalar`, `field`, `dt`, `dx`, `square`, `exp`, `sin`, `cos`; combined by
    `+`, `-`, `*` and `**` (2 and 3). Numbers become scalars. a + b + c is one sum of three; two
    terms that are made alike from the same parts are one node.
    """

    kind: str
    operands: tuple["Expression", ...]
    value: Any
    # numpy's numbers leave `number * expression` to us.
    __array_ufunc__ = None

    def __init__(self, kind: str, operands: tuple["Expression", ...] = (), value: Any = None):
        if kind not in KINDS[1:]:
            raise ValueError(f"Expression: kind must be one of {KINDS[1:]}, got {kind!r}")
        self.kind, self.operands, self.value = kind, operands, value

    def __add__(self, other: "Expression | ArrayLike") -> "Expression":
        parts = [self, as_expression(other)]
        flat = [p.operands if p.kind == "add" else (p,) for p in parts]
        return Expression("add", sum(flat, ()))

    __radd__ = __add__

    def __neg__(self) -> "Expression":
        return Expression("negate", (self,))

    def __sub__(self, other: "Expression | ArrayLike") -> "Expression":
        return self + -as_expression(other)

    def __rsub__(self, other: "Expression | ArrayLike") -> "Expression":
        return as_expression(other) - self

    def __mul__(self, other: "Expression | ArrayLike") -> "Expression":
        other = as_expression(other)
        return square(self) if other is self else Expression("multiply", (other, self))

    __rmul__ = __mul__

    def __pow__(self, power: int) -> "Expression":
        if power not in (2, 3):
            raise ValueError(f"Expression: power must be 2 or 3, got {power!r}")
        return square(self) if power == 2 else self * square(self)


def as_expression(value: Expression | ArrayLike) -> Expression:
    """A number as a scalar; an expression as it is.

    **Raises:** `TypeError` for what is neither.
    """
    return value if isinstance(value, Expression) else scalar(value)


def unknown() -> Expression:
    """A function u(t, x) that the equations determine."""
    return Expression("unknown")


def scalar(value: ArrayLike) -> Expression:
    """A coefficient: a number, which may be traced.

    **Raises:** `TypeError` for what is not a number, `ValueError` for an array of numbers.
    """
    if not isinstance(value, int | float | np.ndarray | np.number | jax.Array):
        raise TypeError(f"scalar: value must be a number, got {value!r}")
    if np.shape(value) != ():
        raise ValueError(f"scalar: value must be one number, got shape {np.shape(value)}")
    return Expression("scalar", (), value)


def field(values: Float[ArrayLike, " x"]) -> Expression:
    """A coefficient that depends on x, by its values at the points of the initial values."""
    return Expression("field", (), values)


def dt(term: Expression) -> Expression:
    """∂/∂t."""
    return Expression("dt", (term,))


def dx(term: Expression) -> Expression:
    """∂/∂x."""
    return Expression("dx", (term,))


def square(term: Expression) -> Expression:
    """The square."""
    return Expression("square", (term,))


def exp(term: Expression) -> Expression:
    """The exponential function."""
    return Expression("exp", (term,))


def sin(term: Expression) -> Expression:
    """The sine."""
    return Expression("sin", (term,))


def cos(term: Expression) -> Expression:
    """The cosine."""
    return Expression("cos", (term,))


class PDEGraph(eqx.Module):
    """The graph of one equation or system, as arrays. Made by `pde_graph`.

    A batch has a leading axis everywhere, for `jax.vmap`. The order of the nodes has no meaning.

    **Arguments:**

    - `kind`: which of `KINDS`; then b₁ … b₃₂, then m₁ … m₁₆. 0: no node.
    - `in_degree`, `out_degree`: edges to and from a node.
    - `distance`: edges on the shortest path from i to j, −1 if there is none.
    - `scalar`: the number of a scalar, 0 for all other nodes.
    - `branch`: for the b_j of function f: N f + j; −1 for all other nodes.
    - `points`, `values`: of the functions.
    - `modulation`: where the m_l of each unknown are.
    """

    kind: Int[Array | np.ndarray, " n"]
    in_degree: Int[Array | np.ndarray, " n"]
    out_degree: Int[Array | np.ndarray, " n"]
    distance: Int[Array | np.ndarray, "n n"]
    scalar: Float[Array | np.ndarray, " n"]
    branch: Int[Array | np.ndarray, " n"]
    points: Float[Array | np.ndarray, " x"]
    values: Float[Array | np.ndarray, "f x"]
    modulation: Int[Array | np.ndarray, "u l"]

    def permuted(self, order: Int[np.ndarray, " n"]) -> "PDEGraph":
        """The same graph with its nodes in another order: node i is the old `order[i]`."""
        order = np.asarray(order)
        if sorted(order.tolist()) != list(range(np.shape(self.kind)[0])):
            raise ValueError(f"permuted: order must be a permutation of all nodes, got {order}")
        rows = {
            name: jnp.asarray(getattr(self, name))[order]
            for name in ("kind", "in_degree", "out_degree", "scalar", "branch")
        }
        return PDEGraph(
            **rows,
            distance=jnp.asarray(self.distance)[order][:, order],
            points=self.points,
            values=self.values,
            modulation=jnp.argsort(order)[jnp.asarray(self.modulation)],
        )


def pde_graph(
    equations: Expression | Sequence[Expression],
    initial: Mapping[Expression, Float[ArrayLike, " x"]],
    points: Float[ArrayLike, " x"],
    *,
    modulations: int = 8,
    branches: int = 16,
    n_nodes: int | None = None,
    n_functions: int | None = None,
) -> PDEGraph:
    """The graph of equations "expression = 0" with initial values.

    ```python
    u = unknown()
    graph = pde_graph(dt(u) + 0.5 * dx(u), {u: jnp.sin(jnp.pi * x)}, x)  # u_t + u_x/2 = 0
    ```

    The structure is found on the host and cached; coefficients and functions may be traced, so that
    it can be mapped, and differentiated by them.

    **Arguments:**

    - `equations`: the left-hand sides. Leave out a term whose coefficient is zero.
    - `initial`: the initial values of each unknown.
    - `points`: where these, and all `field`s, are given.
    - `modulations`: L, nodes that a model reads the solution from; its decoder's layers.
    - `branches`: N, nodes that a function is spread over.
    - `n_nodes`, `n_functions`: filled up to these numbers, to stack graphs of several equations.

    **Raises:** `TypeError` for equations that are no expressions; `ValueError` for numbers out of
    range, more nodes or functions than there is room for, unknowns without initial values or the
    other way round, functions that are not given at the points, or an equation without an unknown.
    """
    left = [equations] if isinstance(equations, Expression) else list(equations)
    if not left or not all(isinstance(e, Expression) for e in left):
        raise TypeError(f"pde_graph: equations must be expressions, got {equations!r}")
    for name, value, most in (
        ("modulations", modulations, _MODULATIONS),
        ("branches", branches, _BRANCHES),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"pde_graph: {name} must lie in 1..{most}, got {value}")
    nodes, edges, sources = _collect(left)
    unknowns = [i for i, kind in enumerate(nodes) if kind == "unknown"]
    if {id(sources[i]) for i in unknowns} != {id(u) for u in initial}:
        raise ValueError(
            f"pde_graph: {len(unknowns)} unknowns in the equations; initial must have exactly "
            f"these, got {len(initial)}"
        )
    if not unknowns:
        raise ValueError("pde_graph: the equations have no unknown")
    functions = [(i, sources[i].value) for i, kind in enumerate(nodes) if kind == "field"]
    for u in unknowns:
        edges.append((u, len(nodes)))
        functions.append((len(nodes), next(v for e, v in initial.items() if e is sources[u])))
        nodes.append("initial")
    kinds = [KINDS.index(kind) for kind in nodes]
    scalars = {i: sources[i].value for i in sources if nodes[i] == "scalar"}
    modulation = np.zeros((len(unknowns), modulations), np.int32)
    for row, u in enumerate(unknowns):
        for level in range(modulations):
            modulation[row, level] = len(kinds)
            edges.append((len(kinds), u))
            kinds.append(len(KINDS) + _BRANCHES + level)
    branch = [-1] * len(kinds)
    for number, (node, _) in enumerate(functions):
        for j in range(branches):
            # An initial value is an outcome of the unknown, a field is made of its values.
            here = len(kinds)
            edges.append((node, here) if nodes[node] == "initial" else (here, node))
            kinds.append(len(KINDS) + j)
            branch.append(branches * number + j)
    room = len(kinds) if n_nodes is None else n_nodes
    slots = len(functions) if n_functions is None else n_functions
    if len(kinds) > room:
        raise ValueError(f"pde_graph: {len(kinds)} nodes do not fit in n_nodes={n_nodes}")
    if len(functions) > slots:
        raise ValueError(
            f"pde_graph: {len(functions)} functions do not fit in n_functions={n_functions}"
        )
    for _, values in functions:
        if np.ndim(points) != 1 or np.shape(values) != np.shape(points):
            raise ValueError(
                f"pde_graph: points and functions must be lists of one length, got shapes "
                f"{np.shape(points)} and {np.shape(values)}"
            )
    in_degree, out_degree, distance = _structure(len(kinds), tuple(edges))
    spare = room - len(kinds)
    held = [values for _, values in functions]
    # Numpy stays numpy: thousands of graphs are made on the host. What is traced becomes JAX's.
    traced = any(isinstance(v, jax.Array) for v in (*held, *scalars.values(), points))
    xp: Any = jnp if traced else np
    dtype = jnp.result_type(float)
    numbers = [xp.asarray(scalars.get(i, 0.0), dtype) for i in range(room)]
    values = [xp.asarray(v, dtype) for v in held] + [
        xp.zeros(np.shape(points), dtype) for _ in range(slots - len(functions))
    ]
    return PDEGraph(
        kind=np.pad(np.asarray(kinds, np.int32), (0, spare)),
        in_degree=np.pad(in_degree, (0, spare)),
        out_degree=np.pad(out_degree, (0, spare)),
        distance=np.pad(distance, (0, spare), constant_values=-1),
        scalar=xp.stack(numbers),
        branch=np.pad(np.asarray(branch, np.int32), (0, spare), constant_values=-1),
        points=xp.asarray(points, dtype),
        values=xp.stack(values),
        modulation=modulation,
    )


def _collect(
    left: Sequence[Expression],
) -> tuple[list[str], list[tuple[int, int]], dict[int, Expression]]:
    """Kinds of the nodes, edges, and the expression of each node that is made of no others."""
    nodes: list[str] = []
    edges: list[tuple[int, int]] = []
    sources: dict[int, Expression] = {}
    seen: dict[Any, int] = {}

    def visit(expression: Expression) -> int:
        operands = tuple(visit(part) for part in expression.operands)
        # Of sums and products the order is of no consequence.
        shared = tuple(sorted(operands)) if operands else (id(expression),)
        name = (expression.kind, shared)
        if name not in seen:
            seen[name] = len(nodes)
            nodes.append(expression.kind)
            edges.extend((i, seen[name]) for i in operands)
            if not operands:
                sources[seen[name]] = expression
        return seen[name]

    for expression in left:
        total = visit(expression)
        edges.append((total, len(nodes)))
        nodes.append("zero")
    return nodes, edges, sources


@lru_cache(maxsize=1024)
def _structure(
    n: int, edges: tuple[tuple[int, int], ...]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, "n n"]]:
    """Degrees, and lengths of the shortest paths."""
    adjacent = np.zeros((n, n), bool)
    senders, receivers = np.asarray(edges).T
    adjacent[senders, receivers] = True
    distance = np.where(np.eye(n, dtype=bool), 0, -1).astype(np.int8)
    reached, steps = np.eye(n, dtype=bool), 0
    while (new := (reached @ adjacent) & (distance < 0)).any():
        steps += 1
        # Longer paths than a byte holds are cut, as every model does much sooner.
        distance[new] = min(steps, 127)
        reached = new
    return (
        adjacent.sum(0).astype(np.int32),
        adjacent.sum(1).astype(np.int32),
        distance,
    )
