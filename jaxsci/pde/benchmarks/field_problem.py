"""A boundary value problem as data: what a field shall satisfy, where, and what it then is.

    r(u, x) = 0 in Ω,    b_j(u, x) = 0 on Γ_j,    j = 1, 2, …

It knows nothing of networks: `jaxsci.pinn.Problem.of` makes terms of a loss from it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci.autodiff import derivatives

from ..domains import AbstractDomain, Box, SpaceTime, difference

Point = Float[Array, " d"]
Field = Callable[[Point], Array]
Residual = Callable[[Any, Float[Array, " d"]], Array]
Draw = Callable[[PRNGKeyArray, int], Float[Array, "n d"]]


class Reference(NamedTuple):
    """The solution at points that guide no training, in double precision."""

    x: Float[np.ndarray, "m d"]
    values: Float[np.ndarray, "m k"]


class Condition(eqx.Module):
    """A boundary or initial condition.

    - `name`: for logs. `residual`: `residual(u, x)`, zero where it holds. `draw`: `draw(key, n)`,
        uniform points of the part Γ of the boundary.
    """

    name: str = eqx.field(static=True)
    residual: Residual = eqx.field(static=True)
    draw: Draw


class Ansatz(eqx.Module):
    """A form u(x) = form(net, x) that meets some conditions whatever the network is.

    - `form`: from a network, or any function of `inputs` numbers, and a point to the field there.
    - `inputs`: how many numbers the network takes; periodic coordinates give two.
    - `meets`: the names of the conditions that hold by construction.
    """

    form: Callable[[Field, Float[Array, " d"]], Array] = eqx.field(static=True)
    inputs: int = eqx.field(static=True)
    meets: tuple[str, ...] = eqx.field(static=True)


class Evolution(eqx.Module):
    """A form that begins with a given state, so that a problem can be solved for one window of
    time after the other:

        u(x, t) = form(net, start, t − a, b − a, x),   form(net, start, 0, b − a, x) = start(x)

    on the window [a, b]. It meets all boundary conditions whatever the network is.

    - `form`: from a network, a start, the time since a, the window's length and a place to the
        field there.
    - `inputs`, `outputs`: of the network.
    - `initial`: the state at the first time, a function of place.
    - `restart`: from a function of place to a start; what u is at b begins the next window. A start
        is a module, whose arrays are all that differs between windows.
    """

    form: Callable[[Any, Any, Array, Array, Float[Array, " d"]], Array] = eqx.field(static=True)
    inputs: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True)
    initial: Field = eqx.field(static=True)
    restart: Callable[[Field], Any] = eqx.field(static=True)


class Shaped(eqx.Module):
    """The field of an `Ansatz` and a network."""

    net: Field
    form: Callable[[Field, Float[Array, " d"]], Array] = eqx.field(static=True)

    def __call__(self, x: Float[Array, " d"]) -> Array:
        return self.form(self.net, x)


class FieldProblem(eqx.Module):
    """A boundary value problem, time included as the last coordinate.

    - `name`, and `source`: where it was defined.
    - `domain`: Ω. `components`: names of the field's k components.
    - `equation`: `equation(u, x)`, the residuals of the differential equations at a point.
    - `conditions`: on the boundary and at the first time.
    - `solve`: computes or loads the `Reference`; `reference()` keeps what it returns.
    - `ansatz`: a form that meets conditions by construction, where there is a natural one.
    - `evolution`: the same for windows of time, where it can be restarted.
    """

    name: str = eqx.field(static=True)
    source: str = eqx.field(static=True)
    domain: AbstractDomain
    components: tuple[str, ...] = eqx.field(static=True)
    equation: Residual = eqx.field(static=True)
    conditions: tuple[Condition, ...]
    solve: Callable[[], Reference] = eqx.field(static=True)
    ansatz: Ansatz | None = None
    evolution: Evolution | None = None

    def reference(self) -> Reference:
        """The solution at points spread over Ω, from a method that is not a network."""
        return self.solve()

    def plain(self, net: Field) -> Field:
        """The network as a field, with coordinates scaled to [−1, 1]. It meets no condition."""
        lower, upper = self.domain.lower, self.domain.upper
        middle, half = (lower + upper) / 2, (upper - lower) / 2

        def form(net: Field, x: Float[Array, " d"]) -> Array:
            return net((x - jnp.asarray(middle, x.dtype)) / jnp.asarray(half, x.dtype))

        return Shaped(net, form)

    def shaped(self, net: Field) -> Field:
        """The network in the form of `ansatz`. **Raises:** `ValueError` if there is none."""
        if self.ansatz is None:
            raise ValueError(f"{self.name}: the problem has no ansatz, only soft conditions")
        return Shaped(net, self.ansatz.form)

    def relative_error(self, field: Field) -> Float[Array, ""]:
        """‖u − u_ref‖/‖u_ref‖ over the reference's points, all components together."""
        x, wanted = (jnp.asarray(a, float) for a in self.reference())
        found = jax.vmap(lambda x: jnp.atleast_1d(field(x)))(x)
        return jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted)


def without(whole: AbstractDomain, holes: Sequence[AbstractDomain]) -> AbstractDomain:
    """A domain without some others."""
    for hole in holes:
        whole = difference(whole, hole)
    return whole


def on(*parts: AbstractDomain) -> Draw:
    """Uniform points on the boundaries of domains, none of which may hide another's."""
    areas = np.array([part.boundary_measure() for part in parts])

    def draw(key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        choice_key, *keys = jr.split(key, 1 + len(parts))
        drawn = [part.sample_boundary(k, n).x for part, k in zip(parts, keys, strict=True)]
        which = jr.choice(choice_key, len(parts), (n,), p=jnp.asarray(areas / areas.sum()))
        return jnp.stack(drawn)[which, jnp.arange(n)]

    return draw


def at(domain: Box | SpaceTime, axis: int, value: float) -> Draw:
    """Uniform points of a domain's section x_axis = value."""
    return lambda key, n: domain.sample(key, n).at[:, axis].set(value)


def periodic(axis: int, low: float, high: float, orders: int) -> Residual:
    """Differences between opposite faces, of u and its normal derivatives below an order."""
    wanted = [(axis,) * k for k in range(orders)]

    def residual(u: Field, x: Point) -> Array:
        left, right = (derivatives(u, x.at[axis].set(side), wanted) for side in (low, high))
        return jnp.ravel(jnp.stack([left[a] - right[a] for a in wanted]))

    return residual


def at_all_times(draw: Draw, t0: float, t1: float) -> Draw:
    """Points of a part of space, each with a uniform time."""

    def with_time(key: PRNGKeyArray, n: int) -> Float[Array, "n d1"]:
        space_key, time_key = jr.split(key)
        x = draw(space_key, n)
        t = jr.uniform(time_key, (n, 1), x.dtype, t0, t1)
        return jnp.concatenate([x, t], 1)

    return with_time


def along(*segments: tuple[tuple[float, float], tuple[float, float]]) -> Draw:
    """Uniform points on segments of the plane, each given by its two ends."""
    ends = np.array(segments)
    lengths = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)

    def draw(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
        choice_key, key = jr.split(key)
        which = jr.choice(choice_key, len(lengths), (n,), p=jnp.asarray(lengths / lengths.sum()))
        share = jr.uniform(key, (n, 1))
        start, end = jnp.asarray(ends[:, 0])[which], jnp.asarray(ends[:, 1])[which]
        return start + share.astype(start.dtype) * (end - start)

    return draw
