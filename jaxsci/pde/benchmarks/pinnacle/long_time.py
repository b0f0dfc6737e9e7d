"""PINNacle's problems over long times: a driven reaction, and Gray-Scott's patterns."""

import jax.numpy as jnp

from jaxsci.autodiff import derivatives

from ...domains import Box, SpaceTime
from ..field_problem import Ansatz, Condition, FieldProblem, on, periodic
from .elliptic import SOURCE
from .references import recorded


def heat_2d_lt() -> FieldProblem:
    """u_t = 0.001 Δu + 5 sin(u²) (1 + 2 sin(πt/4)) sin(4πx) sin(2πy) in the unit square, t in
    [0, 100], u = sin(4πx) sin(3πy) at t = 0, u = 0 on the boundary (PINNacle's Heat2d-LT)."""
    domain = SpaceTime(Box((0.0, 0.0), (1.0, 1.0)), 0.0, 100.0)

    def start(x):
        return jnp.sin(4 * jnp.pi * x[0]) * jnp.sin(3 * jnp.pi * x[1])

    def equation(u, x):
        d = derivatives(u, x, [(), (2,), (0, 0), (1, 1)])
        drive = 1 + 2 * jnp.sin(jnp.pi * x[2] / 4)
        shape = jnp.sin(4 * jnp.pi * x[0]) * jnp.sin(2 * jnp.pi * x[1])
        reaction = 5 * jnp.sin(d[()] ** 2) * drive * shape
        return d[2,] - 0.001 * (d[0, 0] + d[1, 1]) - reaction

    def form(net, x):
        mask = 16 * x[0] * (1 - x[0]) * x[1] * (1 - x[1]) * jnp.tanh(x[2])
        return start(x) + mask * net(jnp.stack([2 * x[0] - 1, 2 * x[1] - 1, x[2] / 50 - 1]))

    return FieldProblem(
        "heat_2d_lt",
        SOURCE,
        domain,
        ("u",),
        equation,
        (
            Condition("initial", lambda u, x: u(x) - start(x), domain.sample_initial),
            Condition("boundary", lambda u, x: u(x), on(domain)),
        ),
        lambda: recorded("heat_2d_lt"),
        Ansatz(form, 3, ("initial", "boundary")),
    )


def gs() -> FieldProblem:
    """Gray and Scott's reaction in [−1, 1]², t in [0, 200] (PINNacle's GS),

        u_t = 10⁻⁵ Δu + 0.04 (1 − u) − u v²,     v_t = 5·10⁻⁶ Δv − 0.1 v + u v²,

    with 1 − u and v Gaussian peaks of height 1 at t = 0. PINNacle's code states no boundary
    conditions; here u and v are periodic, and the peaks, e⁻⁷⁰ at the sides, so too.
    """
    domain = SpaceTime(Box((-1.0, -1.0), (1.0, 1.0)), 0.0, 200.0)

    def start(x):
        first = jnp.exp(-80 * ((x[0] + 0.05) ** 2 + (x[1] + 0.02) ** 2))
        second = jnp.exp(-80 * ((x[0] - 0.05) ** 2 + (x[1] - 0.02) ** 2))
        return jnp.stack([1 - first, second])

    def equation(u, x):
        d = derivatives(u, x, [(), (2,), (0, 0), (1, 1)])
        (a, b), diffusion = d[()], d[0, 0] + d[1, 1]
        reaction = a * b**2
        return d[2,] - jnp.stack(
            [
                1e-5 * diffusion[0] + 0.04 * (1 - a) - reaction,
                5e-6 * diffusion[1] - 0.1 * b + reaction,
            ]
        )

    def form(net, x):
        angle = jnp.pi * x[:2]
        z = jnp.concatenate([jnp.sin(angle), jnp.cos(angle), x[2:] / 100 - 1])
        return start(x) + jnp.tanh(x[2] / 10) * net(z)

    return FieldProblem(
        "gs",
        SOURCE,
        domain,
        ("u", "v"),
        equation,
        (
            Condition("initial", lambda u, x: u(x) - start(x), domain.sample_initial),
            Condition("period x", periodic(0, -1.0, 1.0, 2), domain.sample),
            Condition("period y", periodic(1, -1.0, 1.0, 2), domain.sample),
        ),
        lambda: recorded("gs"),
        Ansatz(form, 5, ("initial", "period x", "period y")),
    )
