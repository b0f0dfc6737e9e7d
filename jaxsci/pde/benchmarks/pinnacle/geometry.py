"""PINNacle's bodies with holes and steps: Poisson in a cube, heat in a plate, flow over a step."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsci.autodiff import derivatives, laplacian

from ...domains import Ball, Box, SpaceTime, difference
from ..field_problem import (
    Ansatz,
    Condition,
    FieldProblem,
    Point,
    along,
    at_all_times,
    on,
    without,
)
from .elliptic import SOURCE, navier_stokes
from .references import recorded

SPHERES = ((0.4, 0.3, 0.6, 0.2), (0.6, 0.7, 0.6, 0.2), (0.2, 0.8, 0.7, 0.1), (0.6, 0.2, 0.3, 0.1))
LARGE = tuple((float(a), float(b), 1.0) for a in (-4, 4) for b in (-9, -3, 3, 9)) + tuple(
    (0.0, float(b), 1.0) for b in (-6, 0, 6)
)
SMALL = tuple((a, b, 0.4) for a in (-3.2, 3.2) for b in (-6.0, 0.0, 6.0))


def poisson_3d_cg() -> FieldProblem:
    """−Δu + k² u = f in [0, 1]³ without four balls, ∂u/∂n = 0 on all of the boundary, k = 8 below
    z = ½ and 10 above (PINNacle's Poisson3d-CG, a Poisson-Boltzmann equation), with

        f = 20 exp(sin πx + sin 10πy + sin 5πz) (|x|² − 1)/(|x|² + 1) + 100 sin πx sin 10πy sin 5πz.

    u and its gradient are continuous at z = ½.
    """
    cube = Box((0.0,) * 3, (1.0,) * 3)
    balls = [Ball(s[:3], s[3]) for s in SPHERES]

    def equation(u, x):
        square = x @ x
        s = jnp.sin(jnp.pi * jnp.array([1.0, 10.0, 5.0], x.dtype) * x)
        source = 20 * jnp.exp(jnp.sum(s)) * (square - 1) / (square + 1) + 100 * jnp.prod(s)
        return -laplacian(u, x) + jnp.where(x[2] < 0.5, 64.0, 100.0) * u(x) - source

    return FieldProblem(
        "poisson_3d_cg",
        SOURCE,
        without(cube, balls),
        ("u",),
        equation,
        (
            Condition("cube", lambda u, x: slope(u, x, box_normal(cube, x)), on(cube)),
            Condition("balls", lambda u, x: slope(u, x, _into_balls(SPHERES, x)), on(*balls)),
        ),
        lambda: recorded("poisson_3d_cg"),
    )


def heat_2d_cg() -> FieldProblem:
    """u_t = Δu in [−8, 8] × [−12, 12] without eleven discs of radius 1 and six of radius 0.4, t in
    [0, 3], from u = 0, with ∂u/∂n = g − u on the boundary: g = 5 on the large circles, 1 on the
    small ones, 0.1 on the rectangle (PINNacle's Heat2d-CG; n points out of the domain)."""
    plate = Box((-8.0, -12.0), (8.0, 12.0))
    large, small = ([Ball(c[:2], c[2]) for c in group] for group in (LARGE, SMALL))
    domain = SpaceTime(without(plate, large + small), 0.0, 3.0)

    def equation(u, x):
        d = derivatives(u, x, [(2,), (0, 0), (1, 1)])
        return d[2,] - d[0, 0] - d[1, 1]

    def exchange(normal, outside):
        def residual(u, x):
            return slope(u, x, jnp.append(normal(x[:2]), 0.0)) + u(x) - outside

        return residual

    def form(net, x):
        z = jnp.stack([x[0] / 8, x[1] / 12, x[2] / 1.5 - 1])
        return jnp.tanh(x[2]) * net(z)

    return FieldProblem(
        "heat_2d_cg",
        SOURCE,
        domain,
        ("u",),
        equation,
        (
            Condition("initial", lambda u, x: u(x), domain.sample_initial),
            Condition(
                "large circles",
                exchange(lambda x: _into_balls(LARGE, x), 5.0),
                at_all_times(on(*large), 0.0, 3.0),
            ),
            Condition(
                "small circles",
                exchange(lambda x: _into_balls(SMALL, x), 1.0),
                at_all_times(on(*small), 0.0, 3.0),
            ),
            Condition(
                "rectangle",
                exchange(lambda x: box_normal(plate, x), 0.1),
                at_all_times(on(plate), 0.0, 3.0),
            ),
        ),
        lambda: recorded("heat_2d_cg"),
        Ansatz(form, 3, ("initial",)),
    )


def ns_2d_cg() -> FieldProblem:
    """Flow over a backward step: (w·∇)w + ∇p = Δw/100, ∇·w = 0 in [0, 4] × [0, 2] without
    [0, 2] × [1, 2], w = (4y(1 − y), 0) at x = 0, w = 0 on the walls (PINNacle's NS2d-CG).

    At the outlet x = 4 PINNacle's code has p = 0, one condition where two are needed. Here v = 0
    too, as its reference has; that one in turn leaves p = 0 where the flow comes back in (errata).
    """
    domain = difference(Box((0.0, 0.0), (4.0, 2.0)), Box((-1.0, 1.0), (2.0, 3.0)))
    walls = (((0.0, 0.0), (4.0, 0.0)), ((0.0, 1.0), (2.0, 1.0)), ((2.0, 1.0), (2.0, 2.0)),
             ((2.0, 2.0), (4.0, 2.0)))  # fmt: skip

    def inflow(x):
        return jnp.stack([4 * x[1] * (1 - x[1]), 0 * x[0]])

    return FieldProblem(
        "ns_2d_cg",
        SOURCE,
        domain,
        ("u", "v", "p"),
        lambda u, x: navier_stokes(u, x, 0.01),
        (
            Condition("inlet", lambda u, x: u(x)[:2] - inflow(x), along(((0.0, 0.0), (0.0, 1.0)))),
            Condition("walls", lambda u, x: u(x)[:2], along(*walls)),
            Condition("outlet", lambda u, x: u(x)[1:], along(((4.0, 0.0), (4.0, 2.0)))),
        ),
        lambda: recorded("ns_2d_cg"),
    )


def slope(u, x: Point, normal: Point) -> Array:
    """∂u/∂n."""
    return jax.jvp(u, (x,), (normal,))[1]


def _into_balls(balls: tuple[tuple[float, ...], ...], x: Point) -> Point:
    """At a point on one of several spheres, the unit vector to its centre."""
    centres, radii = jnp.asarray(np.array(balls)[:, :-1]), jnp.asarray(np.array(balls)[:, -1])
    inward = centres.astype(x.dtype) - x
    nearest = jnp.argmin(jnp.abs(jnp.linalg.norm(inward, axis=1) - radii))
    return inward[nearest] / jnp.linalg.norm(inward[nearest])


def box_normal(box: Box, x: Point) -> Float[Array, " d"]:
    """At a point on a face, the outward normal."""
    middle = jnp.asarray((box.lower + box.upper) / 2, x.dtype)
    scaled = (x - middle) / jnp.asarray((box.upper - box.lower) / 2, x.dtype)
    face = jnp.argmax(jnp.abs(scaled))
    return jnp.zeros_like(x).at[face].set(jnp.sign(scaled[face]))
