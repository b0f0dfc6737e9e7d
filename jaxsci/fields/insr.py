"""Time steppers whose state is a network: each step fits its weights to an integrator's equation.

    θ_{n+1} = argmin_θ  mean_x |r(u_θ, u_{θ_n}, x)|² + mean_{x on walls} |r_wall(u_θ, u_{θ_n}, x)|²

at random points x, from the weights of the step before; r vanishes where a classical integrator in
time is satisfied (Chen et al., arXiv:2210.00124). There are no data and no mesh. A scheme that
splits a step solves several such problems one after the other.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jaxsci.autodiff import laplacian
from jaxsci.pde import AbstractDomain, AbstractStepper, Grid

Field = Callable[[Float[Array, " d"]], Array]
Fields = Mapping[str, Field]


class Stage(eqx.Module):
    """One fit of a step.

    - `fits`: the name of the field that is fitted.
    - `residual`: `residual(u, old, x)` at a point inside, a number or a vector: u is the new field,
        `old` has all fields by name as they are before this stage.
    - `wall`: `wall(u, old, x, normal)` at a point of the boundary, or `None`.
    - `scale`: the size of the residual where the field's error is 1: a fit ends at `scale` times
        the stepper's `target`.
    """

    fits: str = eqx.field(static=True)
    residual: Callable[[Field, Fields, Array], Array]
    wall: Callable[[Field, Fields, Array, Array], Array] | None = None
    scale: float = eqx.field(static=True, default=1.0)


class AbstractScheme(eqx.Module):
    """A classical integrator in time, as the stages of one step."""

    @property
    @abc.abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """The fits of a step, in order; the first one's field is what `u0` is."""

    def remember(self, new: Fields, old: Fields) -> Fields:
        """What the next step starts from; by default the new fields."""
        del old
        return new


def _positive(owner: str, dt: float) -> None:
    if not dt > 0:
        raise ValueError(f"{owner}: dt = {dt}, expected a positive number")


class ImplicitMidpointAdvection(AbstractScheme):
    """u_t + v·∇u = 0 by r = (u − uₙ)/Δt + v·(∇u + ∇uₙ)/2.

    Its phase error is (v k Δt)²/12 for a wave number k, whatever the network: a pulse of width σ
    needs Δt well below σ/|v|.

    - `velocity`: v, shape (d,), or a function of a point. `dt`: Δt.
    - `walls`: u = 0 on the boundary; without, for fields that are periodic by construction.

    **Raises:** `ValueError` for a `dt` that is not positive.
    """

    velocity: Float[Array, " d"] | Callable[[Array], Array]
    dt: float = eqx.field(static=True)
    walls: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        _positive("ImplicitMidpointAdvection", self.dt)

    @property
    def stages(self) -> tuple[Stage, ...]:
        def residual(u: Field, old: Fields, x: Array) -> Array:
            v = self.velocity(x) if callable(self.velocity) else self.velocity
            now, slope = jax.jvp(u, (x,), (v,))
            before, old_slope = jax.jvp(old["u"], (x,), (v,))
            return (now - before) / self.dt + (slope + old_slope) / 2

        return (Stage("u", residual, _zero if self.walls else None, scale=1 / self.dt),)


class SemiLagrangianAdvection(AbstractScheme):
    """u_t + v·∇u = 0 by r = u(x) − uₙ(x − Δt v(x)), exact in time for a constant v.

    - `velocity`, `dt`, `walls`: as for `ImplicitMidpointAdvection`.
    - `domain`: paths that leave its box end on the box.

    **Raises:** `ValueError` for a `dt` that is not positive.
    """

    velocity: Float[Array, " d"] | Callable[[Array], Array]
    dt: float = eqx.field(static=True)
    domain: AbstractDomain
    walls: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        _positive("SemiLagrangianAdvection", self.dt)

    @property
    def stages(self) -> tuple[Stage, ...]:
        def residual(u: Field, old: Fields, x: Array) -> Array:
            v = self.velocity(x) if callable(self.velocity) else self.velocity
            return u(x) - old["u"](_within(self.domain, x - self.dt * v))

        return (Stage("u", residual, _zero if self.walls else None),)


class SemiLagrangianFluid(AbstractScheme):
    """The inviscid, incompressible u_t + u·∇u = −∇p, ∇·u = 0 in three fits of a step,

        advect    u ← uₙ(x − Δt uₙ(x))
        pressure  Δp = ∇·u,  ∂p/∂n = 0        (p has Δt and the density in it)
        project   u ← u − ∇p

    with u·n = 0 on walls. Fields: `"u"` (d values) and `"p"` (a number). First order in time.

    - `dt`: Δt. `domain`: paths that leave its box end on the box.

    **Raises:** `ValueError` for a `dt` that is not positive.
    """

    dt: float = eqx.field(static=True)
    domain: AbstractDomain

    def __check_init__(self):
        _positive("SemiLagrangianFluid", self.dt)

    @property
    def stages(self) -> tuple[Stage, ...]:
        def through_wall(u: Field, old: Fields, x: Array, normal: Array) -> Array:
            return u(x) @ normal

        def advect(u: Field, old: Fields, x: Array) -> Array:
            return u(x) - old["u"](_within(self.domain, x - self.dt * old["u"](x)))

        def pressure(p: Field, old: Fields, x: Array) -> Array:
            return laplacian(p, x) - jnp.trace(jax.jacfwd(old["u"])(x))

        def no_force(p: Field, old: Fields, x: Array, normal: Array) -> Array:
            return jax.jvp(p, (x,), (normal,))[1]

        def project(u: Field, old: Fields, x: Array) -> Array:
            return u(x) - old["u"](x) + jax.grad(old["p"])(x)

        # Two derivatives of p are ∇·u: one of ∇p, for waves half as long as the box.
        side = np.max(self.domain.upper - self.domain.lower)
        return (
            Stage("u", advect, through_wall),
            Stage("p", pressure, no_force, scale=float(4 * np.pi / side)),
            Stage("u", project, through_wall),
        )


def _zero(u: Field, old: Fields, x: Array, normal: Array) -> Array:
    return u(x)


def _within(domain: AbstractDomain, x: Array) -> Array:
    return jnp.clip(x, jnp.asarray(domain.lower, x.dtype), jnp.asarray(domain.upper, x.dtype))


class INSRState(eqx.Module):
    """Weights of all fields, and how well the stages of the last step were solved.

    - `residuals`: root mean square of each stage's residual, walls included.
    - `iterations`: updates of each stage.
    """

    weights: dict[str, PyTree]
    residuals: Float[Array, " stages"]
    iterations: Int[Array, " stages"]


class INSRStepper(AbstractStepper):
    """A stepper for `rollout` whose state is the weights of networks (formulas above).

    ```python
    field = Siren(1, "scalar", width=20, depth=2, key=key)
    domain = Interval(-2.0, 2.0)
    scheme = SemiLagrangianAdvection(jnp.array([0.25]), 0.05, domain)
    stepper = INSRStepper(scheme, {"u": field}, domain, Grid(-2.0, 2.0, 200))
    frames = rollout(stepper, u0, 20, key=key)  # u0 on the grid
    ```

    `start` fits a function at random points instead of values on the grid.

    **Arguments:**

    - `scheme`: the integrator. `fields`: networks by the names that it uses.
    - `domain`: where points are drawn. `grid`: where `init` reads and `output` evaluates the first
        stage's field.
    - `optimizer`: gets `value`, `value_fn`, `model_fn` and `jacobian_fn`; Levenberg-Marquardt needs
        tens of updates where Adam (1e-4, with `optax.contrib.reduce_on_plateau`) needs thousands.
    - `max_iterations`: of a fit. `patience`: updates without a new lowest loss until it ends.
        `target`: it ends at this root mean square, times the stage's scale.
    - `points`: in each update, new ones; more than weights, else Levenberg-Marquardt fits the draw.
    - `wall_points`: on the boundary, drawn in the same way.
    - `limit`: a stage that ends above it raises, since its error would stay in all later steps.

    **Raises:** `ValueError` for sizes below 1 or fields that a stage does not find; in `step`, for
    a missing key.
    """

    scheme: AbstractScheme
    fields: dict[str, Any]
    domain: AbstractDomain
    grid: Grid = eqx.field(static=True)
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    max_iterations: int = eqx.field(static=True)
    patience: int = eqx.field(static=True)
    target: float = eqx.field(static=True)
    points: int = eqx.field(static=True)
    wall_points: int = eqx.field(static=True)
    limit: float | None = eqx.field(static=True)

    def __init__(
        self,
        scheme: AbstractScheme,
        fields: Mapping[str, Field],
        domain: AbstractDomain,
        grid: Grid,
        optimizer: optax.GradientTransformation,
        *,
        max_iterations: int = 30,
        patience: int = 5,
        target: float = 1e-5,
        points: int = 2000,
        wall_points: int = 20,
        limit: float | None = None,
    ):
        sizes = {"max_iterations": max_iterations, "patience": patience}
        for name, value in (sizes | {"points": points, "wall_points": wall_points}).items():
            if value < 1:
                raise ValueError(f"INSRStepper: {name} = {value}, expected at least 1")
        for stage in scheme.stages:
            if stage.fits not in fields:
                raise ValueError(
                    f"INSRStepper: the scheme fits {stage.fits!r}, fields has only {list(fields)}"
                )
        self.scheme, self.fields, self.domain, self.grid = scheme, dict(fields), domain, grid
        self.optimizer, self.max_iterations, self.patience = optimizer, max_iterations, patience
        self.target, self.points, self.wall_points, self.limit = target, points, wall_points, limit

    def init(self, u0: Float[Array, "c *grid"], args: Any = None) -> INSRState:
        """Fits the first stage's field to values on the grid, for `4 max_iterations` updates.

        **Raises:** `ValueError` if they are not of the grid's shape.
        """
        del args
        u0 = jnp.asarray(u0)
        if u0.shape[1:] != self.grid.shape:
            raise ValueError(f"INSRStepper: u0 has shape {u0.shape}, expected {self.grid.shape}")
        x, y = self._grid_points(), jnp.moveaxis(u0, 0, -1).reshape(-1, u0.shape[0])

        def residual(u: Field, old: Fields, row: Array) -> Array:
            d = x.shape[1]
            return jnp.atleast_1d(u(row[:d])) - row[d:]

        rows = jnp.concatenate([x, y], 1)
        return self._begin(Stage(self._main, residual), lambda key: rows, jr.key(0))

    def start(self, function: Field, key: PRNGKeyArray) -> INSRState:
        """Fits the first stage's field to a function at random points."""

        def residual(u: Field, old: Fields, x: Array) -> Array:
            return u(x) - function(x)

        draw = lambda key: self.domain.sample(key, self.points)  # noqa: E731
        return self._begin(Stage(self._main, residual), draw, key)

    def step(
        self, state: INSRState, args: Any = None, *, key: PRNGKeyArray | None = None
    ) -> INSRState:
        """All stages, one after the other. `args` is not used."""
        del args
        if key is None:
            raise ValueError("INSRStepper: step needs a key, since its points are random")
        before = self._restore(state.weights)
        fields: dict[str, Any] = dict(before)
        residuals, iterations = [], []
        for i, stage in enumerate(self.scheme.stages):
            found, rms, n = self._fit(
                stage,
                fields,
                lambda key: self.domain.sample(key, self.points),
                jr.fold_in(key, i),
                self.max_iterations,
            )
            fields[stage.fits] = found
            residuals.append(rms)
            iterations.append(n)
        fields = dict(self.scheme.remember(fields, before))
        rms = jnp.stack(residuals)
        if self.limit is not None:
            rms = eqx.error_if(
                rms, ~jnp.all(rms <= self.limit), "INSRStepper: a stage's residual is above limit"
            )
        return INSRState(self._weights(fields), rms, jnp.stack(iterations))

    def output(self, state: INSRState) -> Float[Array, "c *grid"]:
        """The first stage's field on the grid."""
        values = jax.vmap(self.at(state))(self._grid_points())
        return jnp.moveaxis(values.reshape(*self.grid.shape, -1), -1, 0)

    def at(self, state: INSRState, name: str | None = None) -> Any:
        """A field of a state as a function of a point; by default the first stage's."""
        return self._restore(state.weights)[self._main if name is None else name]

    @property
    def _main(self) -> str:
        return self.scheme.stages[0].fits

    def _grid_points(self) -> Float[Array, "n d"]:
        return jnp.stack([c.ravel() for c in self.grid.coords()], -1)

    def _weights(self, fields: Fields) -> dict[str, PyTree]:
        return {name: eqx.filter(field, eqx.is_inexact_array) for name, field in fields.items()}

    def _restore(self, weights: Mapping[str, PyTree]) -> dict[str, Any]:
        return {name: eqx.combine(w, self.fields[name]) for name, w in weights.items()}

    def _begin(self, stage: Stage, draw: Callable, key: PRNGKeyArray) -> INSRState:
        found, rms, n = self._fit(stage, self.fields, draw, key, 4 * self.max_iterations)
        fields = dict(self.scheme.remember(self.fields | {stage.fits: found}, self.fields))
        stages = len(self.scheme.stages)
        return INSRState(
            self._weights(fields), jnp.full(stages, rms), jnp.full(stages, n, jnp.int32)
        )

    def _fit(
        self,
        stage: Stage,
        old: Fields,
        draw: Callable[[PRNGKeyArray], Array],
        key: PRNGKeyArray,
        max_iterations: int,
    ) -> tuple[Any, Float[Array, ""], Int[Array, ""]]:
        """The fitted field, the root mean square of its residual, and the number of updates."""
        params, rest = eqx.partition(old[stage.fits], eqx.is_inexact_array)
        transform = optax.with_extra_args_support(self.optimizer)

        def parts(key: PRNGKeyArray) -> list[tuple[Callable, tuple[Array, ...]]]:
            """Residuals of a point, and the points, whose squares add up to the loss."""
            inside_key, wall_key = jr.split(key)

            def inside(params: PyTree, x: Array) -> Array:
                return jnp.atleast_1d(stage.residual(eqx.combine(params, rest), old, x))

            found: list[tuple[Callable, tuple[Array, ...]]] = [(inside, (draw(inside_key),))]
            wall = stage.wall
            if wall is not None:
                edge = self.domain.sample_boundary(wall_key, self.wall_points)

                def on_wall(params: PyTree, x: Array, normal: Array) -> Array:
                    return jnp.atleast_1d(wall(eqx.combine(params, rest), old, x, normal))

                found.append((on_wall, (edge.x, edge.normal)))
            return found

        def update(carry: Any) -> Any:
            i, params, opt_state, best, since, _ = carry
            here = parts(jr.fold_in(key, i))

            def model_fn(params: PyTree) -> Float[Array, " n"]:
                return jnp.concatenate([_scaled(f, params, points) for f, points in here])

            def jacobian_fn(params: PyTree) -> PyTree:
                rows = [_rows(f, params, points) for f, points in here]
                return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *rows)

            def value_fn(params: PyTree) -> Float[Array, ""]:
                return jnp.sum(model_fn(params) ** 2)

            value, grads = jax.value_and_grad(value_fn)(params)
            updates, opt_state = transform.update(
                grads,
                opt_state,
                params,
                value=value,
                grad=grads,
                value_fn=value_fn,
                model_fn=model_fn,
                outer_fn=lambda r: jnp.sum(r**2),
                jacobian_fn=jacobian_fn,
            )
            better = value < best
            return (
                i + 1,
                optax.apply_updates(params, updates),
                opt_state,
                jnp.where(better, value, best),
                jnp.where(better, 0, since + 1),
                value,
            )

        def proceed(carry: Any) -> Array:
            i, _, _, best, since, _ = carry
            return (
                (i < max_iterations)
                & (since < self.patience)
                & (best > (stage.scale * self.target) ** 2)
            )

        dtype = jnp.result_type(*jax.tree.leaves(params))
        zero, infinity = jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf, dtype)
        start = (zero, params, transform.init(params), infinity, zero, infinity)
        n, params, *_, value = jax.lax.while_loop(proceed, update, start)
        return eqx.combine(params, rest), jnp.sqrt(value), n


def _scaled(f: Callable, params: PyTree, points: tuple[Array, ...]) -> Float[Array, " n"]:
    """Residuals over √n, so that their squares add up to a mean."""
    r = jax.vmap(lambda *x: f(params, *x))(*points)
    return r.ravel() * points[0].shape[0] ** -0.5


def _rows(f: Callable, params: PyTree, points: tuple[Array, ...]) -> PyTree:
    """Derivatives of `_scaled`, with the residuals as the first axis of every leaf."""
    scale = points[0].shape[0] ** -0.5
    found = jax.vmap(lambda *x: jax.jacrev(f)(params, *x))(*points)
    return jax.tree.map(lambda j: scale * j.reshape(-1, *j.shape[2:]), found)
