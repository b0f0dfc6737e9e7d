"""Symbolic regression: formulas of a vector field, found by regularised evolution.

    y'ᵢ = fᵢ(y),    fᵢ an expression of constants, variables and operators

A formula is a pair of arrays, so that a whole population is bred, evaluated and fitted in one
compiled loop. The usual order of work: fit a neural ODE to the series, `discover` formulas of its
field, `refit` their constants to the series themselves.

Real, Aggarwal, Huang and Le, arXiv:1802.01548; Cranmer, arXiv:2305.01582; Kidger, arXiv:2202.02435.
"""

from collections.abc import Sequence
from typing import Any, Literal

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.scipy as jsp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Real

Operator = Literal["+", "-", "*", "/", "sin", "cos", "exp", "log"]
_FUNCTIONS: dict[str, tuple[int, Any]] = {
    "+": (2, jnp.add),
    "-": (2, jnp.subtract),
    "*": (2, jnp.multiply),
    "/": (2, jnp.divide),
    "sin": (1, lambda a, b: jnp.sin(a)),
    "cos": (1, lambda a, b: jnp.cos(a)),
    "exp": (1, lambda a, b: jnp.exp(a)),
    "log": (1, lambda a, b: jnp.log(a)),
}


class Expression(eqx.Module):
    """A formula as a binary tree in a heap: the children of node i are 2 i + 1 and 2 i + 2.

    - `codes`: of the 2^levels − 1 nodes: 0 a constant, 1, …, d a variable, d + 1, … an operator.
        Nodes below a constant or a variable, and the right child of a function, are not used.
    - `constants`: the values of those that are constants.
    - `variables`: d.
    - `operators`: of "+", "-", "*", "/", "sin", "cos", "exp", "log", those that may stand.
    """

    codes: Int[Array, " n"]
    constants: Float[Array, " n"]
    variables: int = eqx.field(static=True)
    operators: tuple[Operator, ...] = eqx.field(static=True)

    def __call__(self, y: Float[Array, " d"]) -> Float[Array, ""]:
        """The value at y; not finite where the formula is not defined."""
        leaves = jnp.concatenate([jnp.zeros((1,), y.dtype), y])
        known = leaves[jnp.minimum(self.codes, self.variables)]
        plain = jnp.where(self.codes == 0, self.constants, known)
        n = self.codes.size // 2
        inner = self.codes[:n]

        def level(_: Any, values: Array) -> Array:
            row = plain[:n]
            for number, name in enumerate(self.operators, self.variables + 1):
                # An unused branch must not spoil the derivative of the used one.
                here = inner == number
                a, b = (jnp.where(here, side, 1.0) for side in (values[1::2], values[2::2]))
                row = jnp.where(here, _FUNCTIONS[name][1](a, b), row)
            return values.at[:n].set(row)

        # Every round makes one more level right, from the lowest on.
        return jax.lax.fori_loop(0, _levels(self.codes.size) - 1, level, plain)[0]

    def used(self) -> Bool[Array, " n"]:
        """Which nodes take part."""
        arity = self._arity(self.codes)
        live = jnp.ones(1, bool)
        rows = [live]
        for level in range(_levels(self.codes.size) - 1):
            here = arity[2**level - 1 : 2 ** (level + 1) - 1]
            live = jnp.stack([live & (here >= 1), live & (here == 2)], 1).ravel()
            rows.append(live)
        return jnp.concatenate(rows)

    def complexity(self) -> Int[Array, ""]:
        """The number of nodes."""
        return jnp.sum(self.used())

    def text(self, names: Sequence[str], digits: int = 3) -> str:
        """The formula to be read, with these names of the variables."""

        def node(i: int) -> str:
            code = int(self.codes[i])
            if code == 0:
                return f"{float(self.constants[i]):.{digits}g}"
            if code <= self.variables:
                return names[code - 1]
            name = self.operators[code - self.variables - 1]
            if _FUNCTIONS[name][0] == 1:
                return f"{name}({node(2 * i + 1)})"
            return f"({node(2 * i + 1)} {name} {node(2 * i + 2)})"

        return node(0)

    def _arity(self, codes: Int[Array, "..."]) -> Int[Array, "..."]:
        table = [0] * (self.variables + 1) + [_FUNCTIONS[name][0] for name in self.operators]
        return jnp.array(table)[codes]


class SymbolicField(eqx.Module):
    """f(t, y, args) whose components are the expressions (along their arrays' first axis)."""

    expressions: Expression

    def __call__(self, t: Any, y: Float[Array, " d"], args: Any = None) -> Float[Array, " d"]:
        return jax.vmap(lambda e: e(y))(self.expressions)

    def text(self, names: Sequence[str], digits: int = 3) -> list[str]:
        """A formula for each component."""
        rows = range(self.expressions.codes.shape[0])
        return [
            jax.tree.map(lambda a, row=row: a[row], self.expressions).text(names, digits)
            for row in rows
        ]


class Front(eqx.Module):
    """The best expression of every number of nodes; without one the loss is infinite.

    - `expressions`: along their arrays' first axis, of 1, 2, … nodes.
    - `losses`: their mean squares.
    """

    expressions: Expression
    losses: Float[Array, " n"]

    def best(self, slack: float = 1.5) -> Expression:
        """The one that gained most per node, of those with a loss within `slack` of the least.

        The gain is the fall of log loss from the front before it, divided by the nodes added.
        """
        logs = jnp.log(jnp.maximum(self.losses, jnp.finfo(self.losses.dtype).tiny))
        lowest = jax.lax.cummin(logs)
        before = jnp.concatenate([lowest[:1], lowest[:-1]])
        improves = jnp.isfinite(logs) & (logs < before)
        improves = improves.at[0].set(jnp.isfinite(logs[0]))
        nodes = jnp.arange(1, logs.size + 1)
        last = jax.lax.cummax(jnp.where(improves, nodes, 0))
        last = jnp.concatenate([jnp.zeros(1, last.dtype), last[:-1]])
        gain = jnp.where(improves, (before - logs) / (nodes - last), -jnp.inf)
        near = self.losses <= slack * jnp.min(self.losses)
        chosen = jnp.argmax(jnp.where(near & improves, gain, -jnp.inf))
        return jax.tree.map(lambda a: a[chosen], self.expressions)


def regularised_evolution(
    key: PRNGKeyArray,
    xs: Float[Array, "m d"],
    targets: Float[Array, " m"],
    *,
    operators: tuple[Operator, ...] = ("+", "-", "*", "/"),
    levels: int = 4,
    population: int = 256,
    children: int = 64,
    generations: int = 200,
    tournament: int = 8,
    parsimony: float = 0.05,
    crowding: float = 5.0,
    fits: int = 4,
    starts: int = 3,
) -> Front:
    """Formulas for targets ≈ e(x), by mutation, crossover, tournaments, and death of the oldest.

    **Arguments:**

    - `xs`, `targets`: the points and the values there. Variables of order one are best.
    - `operators`: that formulas may use.
    - `levels`: of a tree; a formula has at most 2^levels − 1 nodes.
    - `population`: how many live. `children`: born, and as many of the oldest die, in each of
        `generations`.
    - `tournament`: how many compete to be a parent, by log loss + `parsimony` × nodes
        + `crowding` × the share of the living that have as many nodes.
    - `fits`: Levenberg-Marquardt steps on the constants of a child, from `starts` values of them:
        its parent's, and normal numbers times two. A fit does not cross a pole: with one start
        most searches for x/(1 + x) fail.

    **Returns:** the `Front` of all that ever lived.

    **Raises:** `ValueError` for shapes that do not fit, an unknown operator, levels < 2,
    starts < 1, or a population that is no multiple of `children`.
    """
    if jnp.ndim(xs) != 2 or jnp.shape(targets) != xs.shape[:1]:
        raise ValueError(
            "xs, targets: expected shapes (m, d) and (m,), "
            f"got {jnp.shape(xs)} and {jnp.shape(targets)}"
        )
    unknown = [name for name in operators if name not in _FUNCTIONS]
    if unknown or not operators:
        raise ValueError(f"operators = {operators}: expected some of {tuple(_FUNCTIONS)}")
    if starts < 1:
        raise ValueError(f"starts = {starts}: expected an integer >= 1")
    if levels < 2:
        raise ValueError(f"levels = {levels}: expected an integer >= 2")
    if children < 1 or population % children:
        raise ValueError(
            f"population = {population}: expected a multiple of children = {children} >= 1"
        )
    d, size = xs.shape[1], 2**levels - 1
    breed = _Breeder(d, tuple(operators), levels)

    def misfit(constants: Array, codes: Array) -> Float[Array, " m"]:
        return jax.vmap(Expression(codes, constants, d, breed.operators))(xs) - targets

    def mean_square(rest: Float[Array, " m"]) -> Float[Array, ""]:
        value = jnp.mean(rest**2)
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    def fitted(e: Expression, others: Float[Array, "s n"]) -> tuple[Expression, Float[Array, ""]]:
        """Levenberg-Marquardt steps on the constants, each kept if it helps; the best start."""

        def improve(_: Any, carry: Any) -> Any:
            constants, rest, damping = carry
            slopes = jax.jacfwd(misfit)(constants, e.codes)
            # Of points where the formula is not defined there is nothing to learn.
            slopes, known = (jnp.where(jnp.isfinite(a), a, 0) for a in (slopes, rest))
            normal = slopes.T @ slopes
            scale = damping * jnp.diag(normal) + 1e-6 * jnp.trace(normal) / size + 1e-12
            factor = jsp.linalg.cho_factor(normal + jnp.diag(scale))
            move = jsp.linalg.cho_solve(factor, slopes.T @ known)
            new = constants - jnp.where(jnp.isfinite(move), move, 0)
            new_rest = misfit(new, e.codes)
            better = mean_square(new_rest) < mean_square(rest)
            return jax.tree.map(
                lambda a, b: jnp.where(better, a, b),
                (new, new_rest, damping / 10),
                (constants, rest, damping * 10),
            )

        def descend(constants: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, ""]]:
            start = (constants, misfit(constants, e.codes), jnp.asarray(1e-2, xs.dtype))
            constants, rest, _ = jax.lax.fori_loop(0, fits, improve, start)
            return constants, mean_square(rest)

        ends, losses = jax.vmap(descend)(jnp.concatenate([e.constants[None], others]))
        best = jnp.argmin(losses)
        return _with_constants(e, ends[best]), losses[best]

    def champions(front: Front, who: Expression, losses: Float[Array, " k"]) -> Front:
        nodes = jax.vmap(Expression.complexity)(who)
        table = jnp.where(nodes == jnp.arange(1, size + 1)[:, None], losses, jnp.inf)
        row, least = jnp.argmin(table, axis=1), jnp.min(table, axis=1)
        better = least < front.losses
        best = jax.tree.map(
            lambda new, old: jnp.where(better[:, None], new[row], old), who, front.expressions
        )
        return Front(best, jnp.minimum(least, front.losses))

    def generation(carry: Any, key: PRNGKeyArray) -> tuple[Any, None]:
        living, losses, front, oldest = carry
        choose_key, breed_key, start_key = jr.split(key, 3)
        nodes = jax.vmap(Expression.complexity)(living)
        shares = jnp.bincount(nodes, length=size + 1) / population
        rank = jnp.log(losses + 1e-12) + parsimony * nodes + crowding * shares[nodes]
        rivals = jr.randint(choose_key, (2, children, tournament), 0, population)
        winners = jnp.take_along_axis(rivals, jnp.argmin(rank[rivals], -1)[..., None], -1)[..., 0]
        mothers, fathers = (jax.tree.map(lambda a, w=w: a[w], living) for w in winners)
        born = jax.vmap(breed)(_Dice.roll(breed_key, children, size), mothers, fathers)
        others = 2 * jr.normal(start_key, (children, starts - 1, size), xs.dtype)
        born, new = jax.vmap(fitted)(born, others)
        rows = oldest + jnp.arange(children)
        living = jax.tree.map(lambda a, b: a.at[rows].set(b), living, born)
        losses = losses.at[rows].set(new)
        return (living, losses, champions(front, born, new), (oldest + children) % population), None

    first_key, run_key = jr.split(key)
    # The first ones are not judged: whoever takes part in a tournament among them may win.
    living = jax.vmap(breed.grown)(_Dice.roll(first_key, population, size))
    losses = jnp.full(population, jnp.inf, xs.dtype)
    nobody = jax.tree.map(lambda a: jnp.zeros((size, size), a.dtype), living)
    front = Front(nobody, jnp.full(size, jnp.inf, xs.dtype))
    start = (living, losses, front, jnp.array(0))
    return jax.lax.scan(generation, start, jr.split(run_key, generations))[0][2]


def discover(
    key: PRNGKeyArray,
    xs: Float[Array, "m d"],
    slopes: Float[Array, "m k"],
    *,
    searches: int = 1,
    **settings: Any,
) -> tuple[SymbolicField, Front]:
    """A formula for every component of a vector field, and the fronts they were chosen from.

    **Arguments:**

    - `xs`, `slopes`: points, such as those of trajectories, and a field there, such as that of a
        fitted `NeuralODE`.
    - `searches`: populations that do not know of each other; a front has the best of all. A search
        may stay in a formula that is nearly right, so 4 are safer.
    - `settings`: of `regularised_evolution`.

    **Returns:** the field of `Front.best`, and the fronts, along their arrays' first axis.

    **Raises:** `ValueError` for searches < 1, and as `regularised_evolution`.
    """
    if searches < 1:
        raise ValueError(f"searches = {searches}: expected an integer >= 1")

    return _discover(jr.split(key, (slopes.shape[1], searches)), xs, slopes.T, settings)


@eqx.filter_jit
def _discover(
    keys: PRNGKeyArray,
    xs: Float[Array, "m d"],
    targets: Float[Array, "k m"],
    settings: dict[str, Any],
) -> tuple[SymbolicField, Front]:
    """`discover` with the keys (k, searches)."""

    def front(keys: PRNGKeyArray, targets: Float[Array, " m"]) -> Front:
        found = jax.vmap(lambda k: regularised_evolution(k, xs, targets, **settings))(keys)
        best = jnp.argmin(found.losses, axis=0), jnp.arange(found.losses.shape[1])
        return jax.tree.map(lambda a: a[best], found)

    fronts = jax.vmap(front)(keys, targets)
    return SymbolicField(jax.vmap(Front.best)(fronts)), fronts


def refit(
    field: SymbolicField,
    ts: Real[Array, " n"],
    ys: Float[Array, "s n d"],
    *,
    solver: dfx.AbstractSolver | None = None,
    rtol: float = 1e-6,
    max_steps: int = 256,
) -> SymbolicField:
    """The constants for which the solutions from ys[:, 0] fit the series best, by BFGS.

    **Arguments:**

    - `field`: formulas whose constants are near.
    - `ts`: increasing times. `ys`: series at these times, the first values taken as exact.
    - `solver`: `diffrax.Tsit5()` by default, at the tolerance `rtol`.
    - `max_steps`: of BFGS; the best found until then is returned.
    """
    controller = dfx.PIDController(rtol=rtol, atol=rtol)

    def misfit(constants: Array, _: None) -> Float[Array, ""]:
        moved = SymbolicField(_with_constants(field.expressions, constants))

        def solution(y0: Array) -> Any:
            return dfx.diffeqsolve(
                dfx.ODETerm(moved),
                dfx.Tsit5() if solver is None else solver,
                ts[0],
                ts[-1],
                None,
                y0,
                saveat=dfx.SaveAt(ts=ts),
                stepsize_controller=controller,
                adjoint=dfx.ForwardMode(),
                throw=False,
            ).ys

        return jnp.mean((jax.vmap(solution)(ys[:, 0]) - ys) ** 2)

    start = field.expressions.constants
    found = optx.minimise(
        misfit,
        optx.BFGS(rtol=rtol, atol=rtol),
        start,
        max_steps=max_steps,
        throw=False,
        # Few constants: forwards it is compiled in a third of the time.
        options={"autodiff_mode": "fwd"},
    )
    return SymbolicField(_with_constants(field.expressions, found.value))


class _Dice(eqx.Module):
    """The chance in a birth, drawn for many at once: a generator is slow to compile."""

    choices: Float[Array, " 5"]
    nodes: Float[Array, "6 n"]
    constants: Float[Array, "2 n"]

    @staticmethod
    def roll(key: PRNGKeyArray, births: int, size: int) -> "_Dice":
        """Uniform numbers, but for the constants, which are normal."""
        uniform = jr.uniform(key, (births, 5 + 6 * size))
        normal = jr.normal(jr.fold_in(key, 1), (births, 2, size))
        return _Dice(uniform[:, :5], uniform[:, 5:].reshape(births, 6, size), normal)


class _Breeder(eqx.Module):
    """Makes formulas of others."""

    variables: int
    operators: tuple[Operator, ...]
    levels: int

    def __call__(self, dice: _Dice, mother: Expression, father: Expression) -> Expression:
        size = 2**self.levels - 1
        at, other_at = _some_node(dice.choices[0], mother), _some_node(dice.choices[1], father)
        child = jnp.minimum(2 * at + 1 + (dice.choices[2] < 0.5), size - 1)
        operator = self._operators(dice.choices[3])
        kind = (6 * dice.choices[4]).astype(int)
        fresh = self.grown(dice)
        leaf = self._expression(*self._leaves(dice.nodes[2:4], dice.constants[1]))
        sprout = self._expression(leaf.codes.at[0].set(operator), leaf.constants)

        # Crossover, a new subtree, a leaf, the subtree of a child, an operator above the subtree.
        sources = jax.tree.map(lambda *a: jnp.stack(a), father, fresh, leaf, mother, sprout)
        source = jax.tree.map(lambda a: a[jnp.minimum(kind, 4)], sources)
        place = jnp.stack([other_at, 0, 0, child, 0])[jnp.minimum(kind, 4)]
        changed = self._graft(mother, at, source, place, leaf)
        above = self._graft(changed, child, mother, at, leaf)
        changed = jax.tree.map(lambda a, b: jnp.where(kind == 4, a, b), above, changed)
        # Or one node becomes another of its kind, and its constant moves.
        new = jnp.where(mother.codes[at] > self.variables, operator, leaf.codes[at])
        moved = self._expression(
            mother.codes.at[at].set(new), mother.constants.at[at].multiply(1 + leaf.constants[at])
        )
        return jax.tree.map(lambda a, b: jnp.where(kind == 5, a, b), moved, changed)

    def grown(self, dice: _Dice) -> Expression:
        """A formula by chance."""
        codes, constants = self._leaves(dice.nodes[:2], dice.constants[0])
        inner = (dice.nodes[4] < 0.5) & (jnp.arange(codes.size) < codes.size // 2)
        return self._expression(jnp.where(inner, self._operators(dice.nodes[5]), codes), constants)

    def _expression(self, codes: Array, constants: Array) -> Expression:
        return Expression(codes, constants, self.variables, self.operators)

    def _leaves(self, nodes: Array, constants: Array) -> tuple[Array, Array]:
        variable = 1 + (self.variables * nodes[0]).astype(int)
        return jnp.where(nodes[1] < 0.4, 0, variable), constants

    def _operators(self, uniform: Array) -> Array:
        return 1 + self.variables + (len(self.operators) * uniform).astype(int)

    def _graft(
        self, tree: Expression, at: Any, source: Expression, place: Any, filler: Expression
    ) -> Expression:
        """The subtree of `source` at `place` instead of that of `tree` at `at`.

        Where it would reach below the last level, leaves of `filler` end it.
        """
        size = 2**self.levels - 1
        heap = jnp.arange(1, size + 1)
        depth = jnp.floor(jnp.log2(heap + 0.5)).astype(int)
        below = depth - depth[at]
        shift = jnp.maximum(below, 0)
        inside = (below >= 0) & ((heap >> shift) == at + 1)
        # In binary a node's number is the path to it from the root.
        rows = ((place + 1) << shift) + heap - ((at + 1) << shift) - 1
        rows_inside = jnp.clip(rows, 0, size - 1)
        codes = jnp.where(inside, source.codes[rows_inside], tree.codes)
        constants = jnp.where(inside, source.constants[rows_inside], tree.constants)
        last = jnp.arange(size) >= size // 2
        cut = inside & ((rows >= size) | (last & (codes > self.variables)))
        return self._expression(
            jnp.where(cut, filler.codes, codes), jnp.where(cut, filler.constants, constants)
        )


def _some_node(uniform: Float[Array, ""], e: Expression) -> Int[Array, ""]:
    """One of the nodes that take part."""
    count = jnp.cumsum(e.used())
    return jnp.argmax(count > uniform * count[-1])


def _with_constants(e: Expression, constants: Array) -> Expression:
    return Expression(e.codes, constants, e.variables, e.operators)


def _levels(size: int) -> int:
    return (size + 1).bit_length() - 1
