"""Stationary problems of PINNacle: Poisson, Poisson-Boltzmann, Navier-Stokes."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsci.autodiff import derivatives, laplacian

from ...domains import Ball, Box
from ..field_problem import Ansatz, Condition, FieldProblem, Point, along, at, on, without
from .references import closed_form, recorded, uniform_points

SOURCE = "PINNacle, arXiv:2306.08827; code github.com/i207M/PINNacle"


def poisson_2d_c() -> FieldProblem:
    """Δu = 0 in the square [−½, ½]² without four discs of radius 0.1 around (±0.3, ±0.3), u = 1 on
    the square, u = 0 on the circles (PINNacle's Poisson2d-C)."""
    square = Box((-0.5, -0.5), (0.5, 0.5))
    discs = [Ball((a, b), 0.1) for a in (0.3, -0.3) for b in (0.3, -0.3)]

    def form(net, x):
        outside = 16 * (0.25 - x[0] ** 2) * (0.25 - x[1] ** 2)
        holes = jnp.stack([_beyond(disc, x) for disc in discs])
        inside = jnp.prod(holes)
        return inside / (inside + outside) + inside * outside * net(2 * x)

    return FieldProblem(
        "poisson_2d_c",
        SOURCE,
        without(square, discs),
        ("u",),
        lambda u, x: laplacian(u, x),
        (
            Condition("square", lambda u, x: u(x) - 1, on(square)),
            Condition("circles", lambda u, x: u(x), on(*discs)),
        ),
        lambda: recorded("poisson_2d_c"),
        Ansatz(form, 2, ("square", "circles")),
    )


def poisson_2d_cg() -> FieldProblem:
    """−Δu + 64 u = 10 (17 + |x|²) sin(πx) sin(4πy) in [−1, 1]² without four discs, u = 0.2 on the
    square, u = 1 on the circles (PINNacle's Poisson2d-CG, a Poisson-Boltzmann equation)."""
    square = Box((-1.0, -1.0), (1.0, 1.0))
    circles = ((0.5, 0.5, 0.2), (0.4, -0.4, 0.4), (-0.2, -0.7, 0.1), (-0.6, 0.5, 0.3))
    discs = [Ball((a, b), r) for a, b, r in circles]

    def equation(u, x):
        source = 10 * (17 + x @ x) * jnp.sin(jnp.pi * x[0]) * jnp.sin(4 * jnp.pi * x[1])
        return -laplacian(u, x) + 64 * u(x) - source

    def form(net, x):
        outside = (1 - x[0] ** 2) * (1 - x[1] ** 2)
        inside = jnp.prod(jnp.stack([_beyond(disc, x) for disc in discs]))
        lift = (0.2 * inside + outside) / (inside + outside)
        return lift + inside * outside * net(x)

    return FieldProblem(
        "poisson_2d_cg",
        SOURCE,
        without(square, discs),
        ("u",),
        equation,
        (
            Condition("square", lambda u, x: u(x) - 0.2, on(square)),
            Condition("circles", lambda u, x: u(x) - 1, on(*discs)),
        ),
        lambda: recorded("poisson_2d_cg"),
        Ansatz(form, 2, ("square", "circles")),
    )


def poisson_nd(dim: int = 5) -> FieldProblem:
    """Δu = −(π²/4) Σ sin(πx_i/2) in [0, 1]^d, with u = Σ sin(πx_i/2) on the boundary and so
    everywhere (PINNacle's PNd, d = 5).

    **Raises:** `ValueError` for a dimension below 1.
    """
    if dim < 1:
        raise ValueError(f"poisson_nd: dim = {dim}, expected at least 1")
    cube = Box((0.0,) * dim, (1.0,) * dim)

    def exact(x):
        return jnp.sum(jnp.sin(jnp.pi / 2 * x))

    return FieldProblem(
        "poisson_nd",
        SOURCE,
        cube,
        ("u",),
        lambda u, x: laplacian(u, x) + jnp.pi**2 / 4 * exact(x),
        (Condition("boundary", lambda u, x: u(x) - exact(x), on(cube)),),
        closed_form(
            lambda x: np.sum(np.sin(np.pi / 2 * x), 1), uniform_points((0,) * dim, (1,) * dim)
        ),
    )


def ns_2d_c(lid: float = 4.0, nu: float = 0.01) -> FieldProblem:
    """The lid-driven cavity, (w·∇)w + ∇p = ν Δw, ∇·w = 0 in [0, 1]² for w = (u, v): the lid y = 1
    moves with u = a x (1 − x), the other walls rest, and p(0, 0) = 0 (PINNacle's NS2d-C, a = 4,
    ν = 1/100, which alone has a reference).

    **Raises:** `ValueError` for a viscosity that is not positive.
    """
    if not nu > 0:
        raise ValueError(f"ns_2d_c: nu = {nu}, expected a positive viscosity")
    square = Box((0.0, 0.0), (1.0, 1.0))

    walls = along(((0.0, 1.0), (0.0, 0.0)), ((0.0, 0.0), (1.0, 0.0)), ((1.0, 0.0), (1.0, 1.0)))

    def moving(x):
        return jnp.stack([lid * x[0] * (1 - x[0]), 0 * x[0]])

    def form(net, x):
        def raw(x):
            return net(2 * x - 1)

        out = raw(x)
        mask = 16 * x[0] * (1 - x[0]) * x[1] * (1 - x[1])
        velocity = moving(x) * x[1] ** 2 + mask * out[:2]
        pressure = out[2:] - raw(jnp.zeros_like(x))[2:]
        return jnp.concatenate([velocity, pressure])

    return FieldProblem(
        "ns_2d_c",
        SOURCE,
        square,
        ("u", "v", "p"),
        lambda u, x: navier_stokes(u, x, nu),
        (
            Condition("lid", lambda u, x: u(x)[:2] - moving(x), at(square, 1, 1.0)),
            Condition("walls", lambda u, x: u(x)[:2], walls),
            Condition("pressure", lambda u, x: u(x)[2], lambda key, n: jnp.zeros((n, 2))),
        ),
        lambda: recorded("ns_2d_c"),
        Ansatz(form, 2, ("lid", "walls", "pressure")),
    )


def navier_stokes(u, x: Point, nu: float) -> Float[Array, " 3"]:
    """The residuals of both momentum equations and of continuity, for u = (u, v, p)."""
    d = derivatives(u, x, [(), (0,), (1,), (0, 0), (1, 1)])
    w, dx, dy = d[()], d[0,], d[1,]
    gradient = jnp.stack([dx[2], dy[2]])
    momentum = w[0] * dx[:2] + w[1] * dy[:2] + gradient - nu * (d[0, 0] + d[1, 1])[:2]
    return jnp.append(momentum, dx[0] + dy[1])


def _beyond(disc: Ball, x: Point) -> Float[Array, ""]:
    """A smooth function that vanishes on a circle and grows to about 1 away from it."""
    squared = jnp.sum((x - jnp.asarray(disc.center, x.dtype)) ** 2) - disc.radius**2
    return squared / (squared + disc.radius)
