"""Problems of PINNacle in time: Burgers, heat, waves, Kuramoto-Sivashinsky. Time comes last."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsci.autodiff import derivatives, laplacian

from ...domains import Ball, Box, Interval, SpaceTime
from ..field_problem import Ansatz, Condition, Evolution, FieldProblem, on, periodic
from .elliptic import SOURCE
from .references import (
    ball_points,
    closed_form,
    kuramoto_sivashinsky,
    recorded,
    uniform_points,
)
from .references import (
    burgers_1d as burgers_1d_reference,
)
from .series import PeriodicSeries, waves


def burgers_1d() -> FieldProblem:
    """u_t + u u_x = ν u_xx on [−1, 1] × [0, 1], ν = 0.01/π, u(x, 0) = −sin πx, u(±1, t) = 0
    (PINNacle's Burgers1d-C)."""
    domain = SpaceTime(Interval(-1.0, 1.0), 0.0, 1.0)

    def start(x):
        return -jnp.sin(jnp.pi * x[0])

    def equation(u, x):
        d = derivatives(u, x, [(), (1,), (0,), (0, 0)])
        return d[1,] + d[()] * d[0,] - 0.01 / jnp.pi * d[0, 0]

    def form(net, x):
        z = jnp.stack([x[0], 2 * x[1] - 1])
        return start(x) + x[1] * (1 - x[0] ** 2) * net(z)

    return FieldProblem(
        "burgers_1d",
        SOURCE,
        domain,
        ("u",),
        equation,
        (
            Condition("initial", lambda u, x: u(x) - start(x), domain.sample_initial),
            Condition("ends", lambda u, x: u(x), on(domain)),
        ),
        burgers_1d_reference,
        Ansatz(form, 2, ("initial", "ends")),
    )


def burgers_2d() -> FieldProblem:
    """w_t + (w·∇)w = 0.001 Δw for w = (u, v), periodic on [0, 4]², t in [0, 1]; w(x, y, 0) is a
    random trigonometric polynomial (PINNacle's Burgers2d-C).

    The law of the initial values is PINNacle's, w = 2 w̃/max w̃ + c with normal a, b, c and
    w̃ = Σ a_ij sin 2π(ix + jy) + b_ij cos 2π(ix + jy), i, j < 4; the draw is ours. All are
    1-periodic, so that [0, 4]² holds sixteen copies of the solution.
    """
    domain = SpaceTime(Box((0.0, 0.0), (4.0, 4.0)), 0.0, 1.0)
    sines, cosines, mean = burgers_2d_coefficients()
    waves = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1).reshape(16, 2)

    def start(x):
        phase = 2 * jnp.pi * jnp.asarray(waves, x.dtype) @ x[:2]
        sums = jnp.asarray(sines, x.dtype) @ jnp.sin(phase)
        return sums + jnp.asarray(cosines, x.dtype) @ jnp.cos(phase) + jnp.asarray(mean, x.dtype)

    def equation(u, x):
        d = derivatives(u, x, [(), (2,), (0,), (1,), (0, 0), (1, 1)])
        w = d[()]
        return d[2,] + w[0] * d[0,] + w[1] * d[1,] - 0.001 * (d[0, 0] + d[1, 1])

    def form(net, x):
        angle = 2 * jnp.pi * x[:2]
        z = jnp.concatenate([jnp.sin(angle), jnp.cos(angle), 2 * x[2:] - 1])
        return start(x) + x[2] * net(z)

    def from_start(net, start, since, length, x):
        angle, s = 2 * jnp.pi * x, since / length
        return start(x) + s * net(
            jnp.concatenate([jnp.sin(angle), jnp.cos(angle), 2 * s[None] - 1])
        )

    return FieldProblem(
        "burgers_2d",
        SOURCE,
        domain,
        ("u", "v"),
        equation,
        (
            Condition("initial", lambda u, x: u(x) - start(x), domain.sample_initial),
            Condition("period x", periodic(0, 0.0, 4.0, 1), domain.sample),
            Condition("period y", periodic(1, 0.0, 4.0, 1), domain.sample),
        ),
        lambda: recorded("burgers_2d"),
        Ansatz(form, 5, ("initial", "period x", "period y")),
        Evolution(from_start, 5, 2, start, lambda f: PeriodicSeries.through(f, 24, 1.0, 2)),
    )


def burgers_2d_coefficients() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A and b for both components over 16 waves, and c, scaled: the draw of `burgers_2d`."""
    rng = np.random.default_rng(0)
    sines, cosines = rng.normal(size=(2, 2, 16))
    mean = rng.normal(size=2)
    x = np.arange(128) / 128
    i, j = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
    phase = 2 * np.pi * np.add.outer(np.multiply.outer(i.ravel(), x), np.zeros(128))
    phase = phase + 2 * np.pi * np.multiply.outer(j.ravel(), x)[:, None, :]
    top = np.max(np.tensordot(sines, np.sin(phase), 1) + np.tensordot(cosines, np.cos(phase), 1))
    return 2 * sines / top, 2 * cosines / top, mean


def heat_2d_vc() -> FieldProblem:
    """u_t − a(x, y) Δu = 200 sin(πx) sin(5πy) sin(πt) in the unit square, t in [0, 5], u = 0 at
    t = 0 and on the boundary (PINNacle's Heat2d-VC).

    As there, log a is a Gaussian random field of mean 0 and variance 1 whose modes fall like |k|⁻²
    (there a table of 256² values, here a trigonometric polynomial with |k_i| ≤ 8, drawn anew): see
    `heat_coefficient`.
    """
    domain = SpaceTime(Box((0.0, 0.0), (1.0, 1.0)), 0.0, 5.0)

    def equation(u, x):
        d = derivatives(u, x, [(2,), (0, 0), (1, 1)])
        source = jnp.sin(jnp.pi * x[0]) * jnp.sin(5 * jnp.pi * x[1]) * jnp.sin(jnp.pi * x[2])
        return d[2,] - heat_coefficient(x[:2]) * (d[0, 0] + d[1, 1]) - 200 * source

    def form(net, x):
        mask = 16 * x[0] * (1 - x[0]) * x[1] * (1 - x[1]) * jnp.tanh(x[2])
        return mask * net(jnp.stack([2 * x[0] - 1, 2 * x[1] - 1, x[2] / 2.5 - 1]))

    return FieldProblem(
        "heat_2d_vc",
        SOURCE,
        domain,
        ("u",),
        equation,
        (
            Condition("initial", lambda u, x: u(x), domain.sample_initial),
            Condition("boundary", lambda u, x: u(x), on(domain)),
        ),
        lambda: recorded("heat_2d_vc"),
        Ansatz(form, 3, ("initial", "boundary")),
    )


def heat_coefficient(x):
    """A = exp g at a point, g a periodic Gaussian field with modes ∝ |k|⁻², |k_i| ≤ 8."""
    waves, amplitudes, phases = heat_modes()
    angles = 2 * jnp.pi * jnp.asarray(waves, x.dtype) @ x + jnp.asarray(phases, x.dtype)
    return jnp.exp(jnp.asarray(amplitudes, x.dtype) @ jnp.cos(angles))


def heat_modes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wave vectors, amplitudes and phases of log a in `heat_2d_vc`."""
    i, j = np.meshgrid(np.arange(-8, 9), np.arange(0, 9), indexing="ij")
    half = (j > 0) | (i > 0)
    waves = np.stack([i[half], j[half]], -1)
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(2, len(waves))) / np.sum(waves**2, 1)
    amplitudes = np.hypot(*draws)
    # A sum of cosines with these amplitudes has half the sum of their squares as its variance.
    return waves, amplitudes / np.sqrt(np.sum(amplitudes**2) / 2), np.arctan2(draws[1], draws[0])


def heat_2d_ms() -> FieldProblem:
    """u_t = u_xx/(500π)² + u_yy/π² in the unit square, t in [0, 5], u = 0 on the boundary,
    u = sin(20πx) sin(πy) at t = 0 (PINNacle's Heat2d-MS)."""
    domain = SpaceTime(Box((0.0, 0.0), (1.0, 1.0)), 0.0, 5.0)

    def start(x):
        return jnp.sin(20 * jnp.pi * x[0]) * jnp.sin(jnp.pi * x[1])

    def equation(u, x):
        d = derivatives(u, x, [(2,), (0, 0), (1, 1)])
        return d[2,] - d[0, 0] / (500 * jnp.pi) ** 2 - d[1, 1] / jnp.pi**2

    def exact(x):
        decay = np.exp(-((20 / 500) ** 2 + 1) * x[:, 2])
        return np.sin(20 * np.pi * x[:, 0]) * np.sin(np.pi * x[:, 1]) * decay

    def form(net, x):
        mask = 16 * x[0] * (1 - x[0]) * x[1] * (1 - x[1]) * jnp.tanh(x[2])
        z = jnp.stack([2 * x[0] - 1, 2 * x[1] - 1, x[2] / 2.5 - 1])
        return start(x) + mask * net(z)

    return FieldProblem(
        "heat_2d_ms",
        SOURCE,
        domain,
        ("u",),
        equation,
        (
            Condition("initial", lambda u, x: u(x) - start(x), domain.sample_initial),
            Condition("boundary", lambda u, x: u(x), on(domain)),
        ),
        closed_form(exact, uniform_points((0, 0, 0), (1, 1, 5))),
        Ansatz(form, 3, ("initial", "boundary")),
    )


def heat_nd(dim: int = 5) -> FieldProblem:
    """u_t = Δu/d − |x|² e^{|x|²/2 + t}/d in the unit ball, t in [0, 1], with u = e^{|x|²/2} at
    t = 0 and ∂u/∂n = e^{½ + t} on the sphere; u = e^{|x|²/2 + t} (PINNacle's HNd, d = 5).

    **Raises:** `ValueError` for a dimension below 1.
    """
    if dim < 1:
        raise ValueError(f"heat_nd: dim = {dim}, expected at least 1")
    domain = SpaceTime(Ball((0.0,) * dim), 0.0, 1.0)

    def exact(x):
        return jnp.exp(x[:-1] @ x[:-1] / 2 + x[-1])

    def equation(u, x):
        space = laplacian(lambda y: u(jnp.append(y, x[-1])), x[:-1])
        time = derivatives(u, x, [(dim,)])[dim,]
        return time - space / dim + x[:-1] @ x[:-1] / dim * exact(x)

    def flux(u, x):
        normal = x.at[-1].set(0.0)
        return jax.jvp(u, (x,), (normal,))[1] - exact(x)

    def form(net, x):
        return exact(x.at[-1].set(0.0)) + x[-1] * net(x.at[-1].set(2 * x[-1] - 1))

    return FieldProblem(
        "heat_nd",
        SOURCE,
        domain,
        ("u",),
        equation,
        (
            Condition("initial", lambda u, x: u(x) - exact(x), domain.sample_initial),
            Condition("flux", flux, on(domain)),
        ),
        closed_form(
            lambda x: np.exp(np.sum(x[:, :-1] ** 2, 1) / 2 + x[:, -1]), ball_points(dim, 1.0)
        ),
        Ansatz(form, dim + 1, ("initial",)),
    )


def wave_1d_c(frequency: int = 4) -> FieldProblem:
    """u_tt = 4 u_xx on [0, 1]², u(0, t) = u(1, t) = 0, u_t(x, 0) = 0: two standing waves,
    u = sin(πx) cos(2πt) + ½ sin(aπx) cos(2aπt), a = 4 (PINNacle's Wave1d-C).

    **Raises:** `ValueError` for a frequency below 1: the ends would move.
    """
    if frequency < 1:
        raise ValueError(f"wave_1d_c: frequency = {frequency}, expected an integer, at least 1")
    domain = SpaceTime(Interval(0.0, 1.0), 0.0, 1.0)
    a = frequency

    def start(x):
        return jnp.sin(jnp.pi * x[0]) + jnp.sin(a * jnp.pi * x[0]) / 2

    def equation(u, x):
        d = derivatives(u, x, [(0, 0), (1, 1)])
        return d[1, 1] - 4 * d[0, 0]

    def exact(x):
        first = np.sin(np.pi * x[:, 0]) * np.cos(2 * np.pi * x[:, 1])
        second = np.sin(a * np.pi * x[:, 0]) * np.cos(2 * a * np.pi * x[:, 1])
        return first + second / 2

    def form(net, x):
        # t² leaves u and u_t as they are at t = 0.
        return start(x) + x[1] ** 2 * 4 * x[0] * (1 - x[0]) * net(2 * x - 1)

    return FieldProblem(
        "wave_1d_c",
        SOURCE,
        domain,
        ("u",),
        equation,
        (
            Condition("initial", lambda u, x: u(x) - start(x), domain.sample_initial),
            Condition("at rest", lambda u, x: derivatives(u, x, [(1,)])[1,], domain.sample_initial),
            Condition("ends", lambda u, x: u(x), on(domain)),
        ),
        closed_form(exact, uniform_points((0, 0), (1, 1))),
        Ansatz(form, 2, ("initial", "at rest", "ends")),
    )


def ks() -> FieldProblem:
    """u_t + α u u_x + β u_xx + γ u_xxxx = 0, periodic on [0, 2π], t in [0, 1], α = 100/16,
    β = 100/16², γ = 100/16⁴, u(x, 0) = cos x (1 + sin x) (PINNacle's KS).

    PINNacle's code states no boundary conditions; its reference and this one are periodic. A
    condition for u, u_x, u_xx and u_xxx says so here.
    """
    domain = SpaceTime(Interval(0.0, 2 * float(np.pi)), 0.0, 1.0)

    def start(x):
        return jnp.cos(x[0]) * (1 + jnp.sin(x[0]))

    def equation(u, x):
        d = derivatives(u, x, [(), (1,), (0,), (0, 0), (0, 0, 0, 0)])
        growth = 100 / 16**2 * d[0, 0] + 100 / 16**4 * d[0, 0, 0, 0]
        return d[1,] + 100 / 16 * d[()] * d[0,] + growth

    def form(net, x):
        z = jnp.stack([jnp.sin(x[0]), jnp.cos(x[0]), 2 * x[1] - 1])
        return start(x) + x[1] * net(z)

    wavenumbers = np.tile(np.arange(1, 65), 2)
    growth = np.append(0.0, 100 / 16**2 * wavenumbers**2 - 100 / 16**4 * wavenumbers**4)

    def from_start(net, start, since, length, x):
        # What the linear terms alone make of the start, and from the network, which sees nothing
        # but time, amplitudes of 64 waves, scaled so that each changes the residual by as much.
        rates = jnp.asarray(growth, x.dtype)
        basis = waves(x[0], 64, 2 * float(np.pi))
        free = (jnp.exp(since * rates) * start.coefficients) @ basis
        scales = 1 / (1 + length * jnp.abs(rates))
        s = since / length
        return free + s * (scales * net(2 * s[None] - 1)) @ basis

    return FieldProblem(
        "ks",
        SOURCE,
        domain,
        ("u",),
        equation,
        (
            Condition("initial", lambda u, x: u(x) - start(x), domain.sample_initial),
            Condition("period", periodic(0, 0.0, 2 * float(np.pi), 4), domain.sample),
        ),
        kuramoto_sivashinsky,
        Ansatz(form, 3, ("initial", "period")),
        Evolution(
            from_start, 1, 129, start, lambda f: PeriodicSeries.through(f, 64, 2 * float(np.pi))
        ),
    )
