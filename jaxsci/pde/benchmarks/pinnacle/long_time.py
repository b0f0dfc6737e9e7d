"""PINNacle's problems over long times: a driven reaction, Gray-Scott's patterns, flow, waves."""

import jax.numpy as jnp

from jaxsci.autodiff import derivatives

from ...domains import Box, SpaceTime
from ..field_problem import (
    Ansatz,
    Condition,
    FieldProblem,
    along,
    at_all_times,
    on,
    periodic,
)
from .elliptic import SOURCE, navier_stokes
from .references import recorded
from .references import wave_2d_ms as wave_2d_ms_reference


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


def ns_2d_lt() -> FieldProblem:
    """Flow that an inlet drives to and fro: w_t + (w·∇)w + ∇p = Δw/100 + (0, f), ∇·w = 0 for
    w = (u, v) in [0, 2] × [0, 1], t in [0, 5], from rest (PINNacle's NS2d-LT),

        f = −sin πx sin πy sin πt,   u = sin πy (sin πt + sin 3πt + sin 5πt), v = 0 at x = 0,

    w = 0 at y = 0 and 1. At the outlet x = 2 PINNacle's code has p = 0, one condition where two are
    needed; here v = 0 too, as in `ns_2d_cg`. Its p = 0 at t = 0 is left out, for it contradicts the
    rest: the inlet accelerates by 9π sin πy, and so p_x = −9π sin πy there (errata).
    """
    square = Box((0.0, 0.0), (2.0, 1.0))
    domain = SpaceTime(square, 0.0, 5.0)

    def inflow(x):
        phase = jnp.pi * x[2]
        drive = jnp.sin(phase) + jnp.sin(3 * phase) + jnp.sin(5 * phase)
        return jnp.stack([jnp.sin(jnp.pi * x[1]) * drive, 0 * x[0]])

    def equation(u, x):
        space = navier_stokes(lambda y: u(jnp.append(y, x[2])), x[:2], 0.01)
        force = jnp.prod(jnp.sin(jnp.pi * x))
        return space.at[:2].add(derivatives(u, x, [(2,)])[2,][:2]).at[1].add(force)

    def form(net, x):
        phase = jnp.pi * x[2]
        out = net(
            jnp.stack([x[0] - 1, 2 * x[1] - 1, x[2] / 2.5 - 1, jnp.sin(phase), jnp.cos(phase)])
        )
        mask = 4 * x[0] * x[1] * (1 - x[1]) * jnp.tanh(5 * x[2])
        velocity = inflow(x) + mask * jnp.stack([out[0], (2 - x[0]) * out[1]])
        return jnp.append(velocity, 10 * (2 - x[0]) * out[2])

    def anywhen(*segments):
        return at_all_times(along(*segments), 0.0, 5.0)

    return FieldProblem(
        "ns_2d_lt",
        SOURCE,
        domain,
        ("u", "v", "p"),
        equation,
        (
            Condition("initial", lambda u, x: u(x)[:2], domain.sample_initial),
            Condition(
                "inlet", lambda u, x: u(x)[:2] - inflow(x), anywhen(((0.0, 0.0), (0.0, 1.0)))
            ),
            Condition(
                "walls",
                lambda u, x: u(x)[:2],
                anywhen(((0.0, 0.0), (2.0, 0.0)), ((0.0, 1.0), (2.0, 1.0))),
            ),
            Condition("outlet", lambda u, x: u(x)[1:], anywhen(((2.0, 0.0), (2.0, 1.0)))),
        ),
        lambda: recorded("ns_2d_lt"),
        Ansatz(form, 5, ("initial", "inlet", "walls", "outlet")),
    )


def wave_2d_ms() -> FieldProblem:
    """u_tt = u_xx + 2u_yy in the unit square, t in [0, 100], with u = w cos πt on the boundary,
    u = w and u_t = 0 at t = 0, w = sin πx sinh πy + sinh 3πx sin 2πy (PINNacle's Wave2d-MS).

    PINNacle takes w cos πt for the solution, which it is not, and states nothing for u_t (errata).
    """
    domain = SpaceTime(Box((0.0, 0.0), (1.0, 1.0)), 0.0, 100.0)

    def given(x):
        a, b = jnp.pi * x[:2]
        w = jnp.sin(a) * jnp.sinh(b) + jnp.sinh(3 * a) * jnp.sin(2 * b)
        return w * jnp.cos(jnp.pi * x[2])

    def equation(u, x):
        d = derivatives(u, x, [(2, 2), (0, 0), (1, 1)])
        return d[2, 2] - d[0, 0] - 2 * d[1, 1]

    def form(net, x):
        # 300 is about the height of what is to be added, some 100 on the average.
        mask = 16 * x[0] * (1 - x[0]) * x[1] * (1 - x[1]) * jnp.tanh(x[2]) ** 2
        z = jnp.stack([2 * x[0] - 1, 2 * x[1] - 1, x[2] / 50 - 1])
        return given(x) + 300 * mask * net(z)

    return FieldProblem(
        "wave_2d_ms",
        SOURCE,
        domain,
        ("u",),
        equation,
        (
            Condition("initial", lambda u, x: u(x) - given(x), domain.sample_initial),
            Condition("at rest", lambda u, x: derivatives(u, x, [(2,)])[2,], domain.sample_initial),
            Condition("boundary", lambda u, x: u(x) - given(x), on(domain)),
        ),
        wave_2d_ms_reference,
        Ansatz(form, 3, ("initial", "at rest", "boundary")),
    )
