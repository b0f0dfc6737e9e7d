"""A physics-informed problem: residuals, where they are taken, and their weights.

L(u) = Σ_terms  weight · mean_i (w_i |r(u, x_i)|)²
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxsci.pde import AbstractDomain, Box, SpaceTime, benchmarks

from .samplers import AbstractSampler, Draw, Fixed, SamplerState, Uniform

Field = Callable[[Float[Array, " d"]], Array]
Residual = Callable[[Any, Float[Array, " d"]], Array]


class Term(eqx.Module):
    """One residual that shall vanish.

    - `name`: for logs.
    - `residual`: `residual(u, x)` at one point, a number or a vector; u is the field.
    - `where`: a domain, or `draw(key, n)` that gives points.
    - `n`: points in a step. `weight`: its factor in the loss.
    - `sampler`: how points move; `Uniform()`, new ones in each step.

    **Raises:** `ValueError` for n < 1, a negative weight, or given points outside the domain.
    """

    name: str = eqx.field(static=True)
    residual: Residual
    where: AbstractDomain | Draw
    n: int = eqx.field(static=True, default=1000)
    weight: float | Array = 1.0
    sampler: AbstractSampler = Uniform()

    def __check_init__(self):
        if self.n < 1:
            raise ValueError(f"Term {self.name!r}: n = {self.n}, expected at least 1")
        if isinstance(self.weight, int | float) and self.weight < 0:
            raise ValueError(f"Term {self.name!r}: weight = {self.weight} is negative")
        given = self.sampler.given if isinstance(self.sampler, Fixed) else None
        if given is not None and isinstance(self.where, AbstractDomain):
            inside = np.asarray(self.where.contains(given))
            if not inside.all():
                first = int(np.flatnonzero(~inside)[0])
                raise ValueError(
                    f"Term {self.name!r}: {np.sum(~inside)} of {inside.size} points lie outside "
                    f"the domain; the first is point {first}, {np.asarray(given)[first]}"
                )

    def draw(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        """Uniform points."""
        where: Any = self.where
        return where.sample(key, n) if isinstance(where, AbstractDomain) else where(key, n)

    def values(self, field: Field, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """The residual at each point."""
        r = jax.vmap(lambda x: jnp.atleast_1d(self.residual(field, x)))(x)
        return r.reshape(x.shape[0], -1)

    def score(self, field: Field, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """|r| at each point."""
        return jnp.linalg.norm(self.values(field, x), axis=1)


class Problem(eqx.Module):
    """What a field shall satisfy.

    ```python
    def heat(u, x):  # on (position, time)
        d = derivatives(u, x, [(1,), (0, 0)])
        return d[1,] - d[0, 0]

    domain = SpaceTime(Interval(0.0, 1.0), 0.0, 1.0)
    problem = Problem(Term("heat", heat, domain), Term("start", initial, domain.sample_initial))
    ```

    - `terms`: at least one, with different names.
    - `exact`: the solution where it is known, for errors.

    **Raises:** `ValueError` for no terms or names that repeat.
    """

    terms: tuple[Term, ...]
    exact: Field | None

    def __init__(self, *terms: Term, exact: Field | None = None):
        names = [term.name for term in terms]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"Problem: expected terms with different names, got {names}")
        self.terms, self.exact = terms, exact

    @classmethod
    def of(
        cls,
        statement: benchmarks.FieldProblem,
        *,
        n: int = 1000,
        boundary: int = 200,
        weight: float = 1.0,
        shaped: bool = False,
        sampler: AbstractSampler | None = None,
    ) -> "Problem":
        """The loss of a boundary value problem, e.g. one of `jaxsci.pde.benchmarks.pinnacle`.

        **Arguments:**

        - `statement`: the problem as data.
        - `n`, `sampler`: points of the equation and how they move, new ones in each step if `None`.
        - `boundary`, `weight`: points of each condition, and its weight in the loss.
        - `shaped`: the field is `statement.shaped(net)`; conditions that it meets get no term.

        **Raises:** `ValueError` for `shaped` where the problem has no ansatz.
        """
        if shaped and statement.ansatz is None:
            raise ValueError(f"Problem.of: shaped, but {statement.name} has no ansatz")
        met = statement.ansatz.meets if shaped and statement.ansatz else ()
        moves = Uniform() if sampler is None else sampler
        equation = Term("equation", statement.equation, statement.domain, n, sampler=moves)
        conditions = [
            Term(c.name, c.residual, c.draw, boundary, weight)
            for c in statement.conditions
            if c.name not in met
        ]
        return cls(equation, *conditions)

    def init(self, key: PRNGKeyArray) -> dict[str, SamplerState]:
        """The first points of every term."""
        keys = jr.split(key, len(self.terms))
        return {
            t.name: t.sampler.init(k, t.draw, t.n) for t, k in zip(self.terms, keys, strict=True)
        }

    def sample(self, key: PRNGKeyArray) -> dict[str, Float[Array, "n d"]]:
        """Uniform points for every term: a batch for `loss`."""
        return {name: state.x for name, state in self.init(key).items()}

    def loss(
        self, field: Field, batch: Mapping[str, Array] | None, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """L and the mean square of each term: a loss for `jaxsci.train.fit`, with
        `OnlineSource(problem.sample, 1)` as its data.

        Samplers that remember something need `solve` instead.
        """
        points = self.sample(key) if batch is None else batch
        total, parts = jnp.zeros(()), {}
        for term in self.terms:
            x = points[term.name]
            r = term.values(field, x.reshape(-1, x.shape[-1]))
            parts[term.name] = jnp.mean(jnp.sum(r**2, 1))
            total = total + term.weight * parts[term.name]
        return total, parts

    def weighted(
        self, field: Field, states: Mapping[str, SamplerState]
    ) -> tuple[dict[str, Float[Array, "n k"]], dict[str, Float[Array, " n"]]]:
        """√(weight/n) w_i r_i of every term, whose squares add up to the loss, and the |r_i|."""
        scaled, scores = {}, {}
        for term in self.terms:
            state = states[term.name]
            r = term.values(field, state.x)
            score = jax.lax.stop_gradient(jnp.linalg.norm(r, axis=1))
            w = jax.lax.stop_gradient(term.sampler.weights(state, score))
            scaled[term.name] = jnp.sqrt(term.weight / r.shape[0]) * w[:, None] * r
            scores[term.name] = score
        return scaled, scores

    def jacobian(self, field: Any, states: Mapping[str, SamplerState]) -> PyTree:
        """The derivatives of the scaled residuals of `weighted` in the field's weights: a pytree
        like these, each leaf with an axis in front. It runs over terms by name, points, components,
        as `ravel_pytree` of the residuals does.

        Each row is one reverse pass at one point, so that all m of them cost about m gradients at a
        point; by products with J, all would cost p times the batch, or m times.
        """
        params, rest = eqx.partition(field, eqx.is_inexact_array)

        def rows(term: Term) -> PyTree:
            def residual(params: PyTree, x: Array) -> tuple[Array, Array]:
                r = jnp.ravel(term.residual(eqx.combine(params, rest), x))
                return r, r

            state = states[term.name]
            jacobian, r = jax.vmap(jax.jacrev(residual, has_aux=True), (None, 0))(params, state.x)
            w = term.sampler.weights(state, jnp.linalg.norm(r, axis=1))
            scale = jnp.sqrt(term.weight / r.shape[0]) * w

            def flat(leaf: Array) -> Array:
                scaled = scale.reshape(-1, *(1,) * (leaf.ndim - 1)) * leaf
                return scaled.reshape(-1, *leaf.shape[2:])

            return jax.tree.map(flat, jacobian)

        parts = [rows(term) for term in sorted(self.terms, key=lambda term: term.name)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def advance(
        self,
        field: Field,
        states: Mapping[str, SamplerState],
        scores: Mapping[str, Array],
        key: PRNGKeyArray,
    ) -> dict[str, SamplerState]:
        """The points of the next step."""
        keys = jr.split(key, len(self.terms))
        return {
            t.name: t.sampler.update(
                states[t.name], scores[t.name], k, t.draw, lambda x, t=t: t.score(field, x)
            )
            for t, k in zip(self.terms, keys, strict=True)
        }

    def relative_error(self, field: Field, x: Float[Array, "n d"]) -> Float[Array, ""]:
        """‖u − exact‖/‖exact‖ over points. **Raises:** `ValueError` if there is no solution."""
        if self.exact is None:
            raise ValueError("relative_error: the problem has no exact solution")
        wanted = jax.vmap(self.exact)(x)
        return jnp.linalg.norm(jax.vmap(field)(x) - wanted) / jnp.linalg.norm(wanted)


class Constrained(eqx.Module):
    """A field that satisfies boundary conditions by construction, lift(x) + mask(x) · field(x).

    - `lift`: any function with the right values on the boundary.
    - `mask`: vanishes on the boundary and nowhere else, e.g. `lambda x: 1 − |x|²`, or minus a
        domain's `sdf`.
    """

    field: Field
    lift: Field = eqx.field(static=True)
    mask: Field = eqx.field(static=True)

    def __call__(self, x: Float[Array, " d"]) -> Array:
        return self.lift(x) + self.mask(x) * self.field(x)


class WithParameters(eqx.Module):
    """A field with unknown numbers beside it: inverse problems. A residual reads `u.params`."""

    field: Field
    params: PyTree

    def __call__(self, x: Float[Array, " d"]) -> Array:
        return self.field(x)


def dirichlet(
    domain: Box | SpaceTime,
    values: Mapping[int | str, Field],
    *,
    n: int = 256,
    weight: float = 1.0,
) -> tuple[Term, ...]:
    """Terms u = g on faces of a box, or on its walls at all times, and at the first time.

    **Arguments:**

    - `domain`: a `Box`, or `SpaceTime` of one.
    - `values`: {tag of a face: g}, and {"initial": g} with time.
    - `n`, `weight`: for each of the terms.

    **Raises:** `ValueError` for a face that does not exist, or values that contradict each other at
    a corner that two faces share (NaN there counts as no contradiction); `TypeError` for another
    domain.
    """
    box = domain.space if isinstance(domain, SpaceTime) else domain
    if not isinstance(box, Box):
        raise TypeError(f"dirichlet: expected a Box or SpaceTime of one, got {domain!r}")
    allowed: list[int | str] = [*range(2 * box.dim)]
    if isinstance(domain, SpaceTime):
        allowed.append("initial")
    for tag in values:
        if tag not in allowed:
            raise ValueError(f"dirichlet: there is no face {tag!r}, only {allowed}")
    _check_corners(domain, values)
    return tuple(
        Term(f"face {tag}" if isinstance(tag, int) else tag, _minus(g), _on(domain, tag), n, weight)
        for tag, g in values.items()
    )


def _minus(g: Field) -> Residual:
    return lambda u, x: u(x) - g(x)


def _plane(domain: Box | SpaceTime, tag: int | str) -> tuple[int, float]:
    if tag == "initial":
        return domain.dim - 1, float(domain.lower[-1])
    axis, side = divmod(int(tag), 2)
    return axis, float((domain.upper if side else domain.lower)[axis])


def _on(domain: Box | SpaceTime, tag: int | str) -> Draw:
    axis, value = _plane(domain, tag)
    return lambda key, n: domain.sample(key, n).at[:, axis].set(value)


def _check_corners(domain: Box | SpaceTime, values: Mapping[int | str, Field]) -> None:
    corners = itertools.product(*zip(domain.lower, domain.upper, strict=True))
    for corner in itertools.islice(corners, 4096):
        x = jnp.asarray(corner)
        here = {}
        for tag, g in values.items():
            axis, value = _plane(domain, tag)
            if corner[axis] == value:
                here[tag] = np.asarray(g(x))
        for (tag_a, a), (tag_b, b) in itertools.combinations(here.items(), 2):
            if np.any(np.abs(a - b) > 1e-4 * (1 + np.abs(a))):
                raise ValueError(
                    f"dirichlet: faces {tag_a!r} and {tag_b!r} contradict each other at "
                    f"{tuple(map(float, corner))}: {a} and {b}"
                )
