"""PINNacle's problems with coefficients that jump: Poisson in many squares, waves in two media."""

import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from jaxsci.autodiff import derivatives, laplacian

from ...domains import Box, SpaceTime
from ..field_problem import Ansatz, Condition, FieldProblem, Point, along, at_all_times, on
from .elliptic import SOURCE
from .geometry import box_normal, slope
from .references import recorded, recorded_array

# Where the coefficient of `poisson_2d_ms` jumps, in both coordinates.
INTERFACES = (-6.0, -2.0, 2.0, 6.0)
# How far to both sides of an interface one looks; far above rounding in single precision.
BESIDE = 1e-3


def poisson_2d_ms() -> FieldProblem:
    """∇·(a ∇u) + f = 0 in [−10, 10]², ∂u/∂n + u = 0 on the boundary (PINNacle's Poisson2d-MS): a is
    a constant, 0.13 to 88, in each of 25 squares, f = f₀ + f₁ sin sin there, in one half wave each.
    Across the sides of the squares, u and a ∂u/∂n are continuous.

    The code of PINNacle takes a Δu + f = 0 in the squares and nothing on their sides. What a smooth
    network then tends to is another function, 140 % away; its reference is the solution of what is
    stated here (errata). The ansatz may have kinks on the sides.
    """
    square = Box((-10.0, -10.0), (10.0, 10.0))
    lines = [((c, -10.0), (c, 10.0)) for c in INTERFACES]
    lines += [((-10.0, c), (10.0, c)) for c in INTERFACES]

    def equation(u, x):
        a, f = squares(x)
        return a * laplacian(u, x) + f

    def flux(u, x):
        apart = jnp.abs(x[:, None] - jnp.asarray(INTERFACES, x.dtype))
        normal = jnp.zeros_like(x).at[jnp.argmin(apart.min(1))].set(1.0)
        after, before = x + BESIDE * normal, x - BESIDE * normal
        return squares(after)[0] * slope(u, after, normal) - squares(before)[0] * slope(
            u, before, normal
        )

    def form(net, x):
        kinks = jnp.abs(x[:, None] - jnp.asarray(INTERFACES, x.dtype))
        return net(jnp.concatenate([x, kinks.ravel()]) / 10)

    return FieldProblem(
        "poisson_2d_ms",
        SOURCE,
        square,
        ("u",),
        equation,
        (
            Condition(
                "boundary", lambda u, x: slope(u, x, box_normal(square, x)) + u(x), on(square)
            ),
            Condition("interfaces", flux, along(*lines)),
        ),
        lambda: recorded("poisson_2d_ms"),
        Ansatz(form, 10, ()),
    )


def squares(x: Point) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The coefficient a and the source f of `poisson_2d_ms` at a point."""
    scaled = (x + 10) / 4
    i, j = jnp.clip(jnp.floor(scaled), 0, 4).astype(jnp.int32)
    table = jnp.asarray(recorded_array("poisson_2d_ms_coefficients"), x.dtype)
    a, constant, wave = table[:, i, j]
    return a, constant + wave * jnp.prod(jnp.sin(jnp.pi * (scaled - jnp.floor(scaled))))


def wave_2d_cg() -> FieldProblem:
    """u_tt = c Δu in [−1, 1]², t in [0, 5], from rest at u = exp(−|x − (−½, 0)|²/0.18), with
    ∂u/∂n = 0 on the sides (PINNacle's Wave2d-CG). c is 1 or 12, in a pattern of 256² values
    between which it is linear.

    So PINNacle's paper and code. Its reference solves u_tt = ∇·(c ∇u), another equation where c
    varies (errata).
    """
    square = Box((-1.0, -1.0), (1.0, 1.0))
    domain = SpaceTime(square, 0.0, 5.0)

    def start(x):
        return jnp.exp(-((x[0] + 0.5) ** 2 + x[1] ** 2) / 0.18)

    def equation(u, x):
        d = derivatives(u, x, [(2, 2), (0, 0), (1, 1)])
        return d[0, 0] + d[1, 1] - d[2, 2] / wave_coefficient(x[:2])

    def wall(u, x):
        return slope(u, x, jnp.append(box_normal(square, x[:2]), 0.0))

    def form(net, x):
        # t² at first leaves u and u_t as they are at t = 0.
        return start(x) + jnp.tanh(x[2]) ** 2 * net(jnp.append(x[:2], x[2] / 2.5 - 1))

    return FieldProblem(
        "wave_2d_cg",
        SOURCE,
        domain,
        ("u",),
        equation,
        (
            Condition("initial", lambda u, x: u(x) - start(x), domain.sample_initial),
            Condition("at rest", lambda u, x: derivatives(u, x, [(2,)])[2,], domain.sample_initial),
            Condition("walls", wall, at_all_times(on(square), 0.0, 5.0)),
        ),
        lambda: recorded("wave_2d_cg"),
        Ansatz(form, 3, ("initial", "at rest")),
    )


def wave_coefficient(x: Point) -> Float[Array, ""]:
    """The coefficient c of `wave_2d_cg` at a place."""
    table = jnp.asarray(recorded_array("wave_2d_cg_coefficient"), x.dtype)
    return map_coordinates(table, list((x + 1) / 2 * (len(table) - 1)), order=1, mode="nearest")
