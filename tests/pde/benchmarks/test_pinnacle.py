"""PINNacle's problems: exact solutions, ansätze, and references against ones made by others."""

from pathlib import Path

import equinox as eqx
import exponax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.integrate
import scipy.interpolate
import scipy.sparse as sp
import scipy.sparse.linalg as spl

from jaxsci.pde.benchmarks import pinnacle
from jaxsci.pde.benchmarks.pinnacle.evolution import burgers_2d_coefficients, heat_coefficient
from jaxsci.pde.benchmarks.pinnacle.heterogeneous import squares
from jaxsci.pde.benchmarks.pinnacle.references import (
    cole_hopf,
    driven_waves,
    kuramoto_sivashinsky_spectral,
    recorded_array,
)

PUBLISHED = np.load(Path(__file__).parents[2] / "oracles/data/pinnacle.npz")


def wave(x):
    first = jnp.sin(jnp.pi * x[0]) * jnp.cos(2 * jnp.pi * x[1])
    return first + jnp.sin(4 * jnp.pi * x[0]) * jnp.cos(8 * jnp.pi * x[1]) / 2


def multiscale(x):
    decay = jnp.exp(-(0.04**2 + 1) * x[2])
    return jnp.sin(20 * jnp.pi * x[0]) * jnp.sin(jnp.pi * x[1]) * decay


EXACT = {
    "wave_1d_c": wave,
    "heat_2d_ms": multiscale,
    "heat_nd": lambda x: jnp.exp(x[:-1] @ x[:-1] / 2 + x[-1]),
    "poisson_nd": lambda x: jnp.sum(jnp.sin(jnp.pi / 2 * x)),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_solutions_satisfy_everything(name, key, x64):
    problem, exact = getattr(pinnacle, name)(), EXACT[name]
    x = problem.domain.sample(key, 20)
    size = float(jnp.max(jnp.abs(jax.vmap(exact)(x))))
    # Fourth powers of 8π times rounding.
    assert jnp.max(jnp.abs(jax.vmap(lambda x: problem.equation(exact, x))(x))) < 1e-9 * size
    for condition in problem.conditions:
        r = jax.vmap(lambda x, c=condition: c.residual(exact, x))(condition.draw(key, 20))
        assert jnp.max(jnp.abs(r)) < 1e-9 * size, condition.name
    assert problem.relative_error(exact) < 1e-12


@pytest.mark.parametrize(
    "name",
    [
        "burgers_2d",
        "gs",
        "heat_2d_cg",
        "heat_2d_lt",
        "heat_nd",
        "ks",
        "ns_2d_c",
        "ns_2d_lt",
        "poisson_2d_cg",
        "wave_1d_c",
        "wave_2d_cg",
        "wave_2d_ms",
    ],
)
def test_an_ansatz_meets_its_conditions_for_any_network(name, key, x64):
    problem = getattr(pinnacle, name)()
    k = len(problem.components)
    out = k if k > 1 else "scalar"
    net = eqx.nn.MLP(problem.ansatz.inputs, out, 4, 1, jnp.tanh, key=key)
    field = problem.shaped(net)
    soft = []
    for condition in problem.conditions:
        x = condition.draw(key, 10)
        assert bool(jnp.all(problem.domain.contains(x)))
        r = jax.jit(jax.vmap(lambda x, c=condition: c.residual(field, x)))(x)
        if condition.name in problem.ansatz.meets:
            # Of values up to 6000 in wave_2d_ms.
            assert jnp.max(jnp.abs(r)) < 1e-10 * (1 + 1e3 * (name == "wave_2d_ms")), condition.name
        else:
            soft.append(condition.name)
    exchange = ["large circles", "small circles", "rectangle"]
    left = {"heat_nd": ["flux"], "heat_2d_cg": exchange, "wave_2d_cg": ["walls"]}
    assert soft == left.get(name, [])


@pytest.mark.parametrize(
    ("name", "tolerance"),
    # The recording found 3e-5, 1e-4 and 2e-3, the last for a pressure that is infinite at the lid's
    # ends; and 6e-2 for the flow over a step, whose outlet is another one there.
    [("poisson_2d_c", 1e-4), ("poisson_2d_cg", 3e-4), ("ns_2d_c", 4e-3), ("ns_2d_cg", 8e-2)],
)
def test_recorded_solutions_agree_with_pinnacle_s(name, tolerance):
    x, values = getattr(pinnacle, name)().reference()
    k = values.shape[1]
    places, theirs, ours = np.split(PUBLISHED[name], [2, 2 + k], axis=1)
    size = np.linalg.norm(ours)
    assert np.linalg.norm(theirs - ours) < tolerance * size
    # That what was compared is what is shipped, as far as interpolation can tell.
    spline = scipy.interpolate.RBFInterpolator(x, values, neighbors=30)
    assert np.linalg.norm(spline(places.astype(float)) - ours) < 0.02 * size


def test_a_flow_over_a_step_is_pinnacle_s_if_it_has_its_outlet():
    """The same solver with the pressure of PINNacle's data at the outlet, on its coarser grid:
    that errs by 1.5e-3; the recording found 9e-3. So the 6e-2 above are the outlet's."""
    places, theirs, ours = np.split(PUBLISHED["ns_2d_cg_their_outlet"], [2, 5], axis=1)
    assert places.shape == (300, 2)
    assert np.linalg.norm(theirs - ours) < 1.2e-2 * np.linalg.norm(ours)


def test_cole_hopf_solves_burgers_and_pinnacle_s_data_do_not():
    """Differences of fourth order leave a residual that falls with h; PINNacle's COMSOL values are
    9 % of the amplitude off at the steep front."""
    nu, h = 0.01 / np.pi, 1e-3
    x, t = np.linspace(-0.9, 0.9, 19)[:, None], np.linspace(0.1, 0.9, 9)[None]
    stencil = np.array([1, -8, 8, -1]) / 12
    places = np.array([-2, -1, 1, 2]) * h

    def along(dx, dt):
        return [cole_hopf(x + dx * s, t + dt * s, nu) for s in places]

    u = cole_hopf(x, t, nu)
    ux = sum(c * v for c, v in zip(stencil, along(1, 0), strict=True)) / h
    ut = sum(c * v for c, v in zip(stencil, along(0, 1), strict=True)) / h
    second = sum(c * v for c, v in zip([-1, 16, 16, -1], along(1, 0), strict=True))
    uxx = (second - 30 * u) / (12 * h**2)
    away = np.abs(x) > 0.05 + 0 * t
    assert np.max(np.abs(ut + u * ux - nu * uxx)[away]) < 1e-4
    theirs = PUBLISHED["burgers_1d"]
    ours = cole_hopf(theirs[:, :1], np.linspace(0, 1, 11)[None], nu)
    assert 0.05 < np.max(np.abs(ours - theirs[:, 1:])) < 0.1
    assert 0.01 < np.linalg.norm(ours - theirs[:, 1:]) / np.linalg.norm(ours) < 0.02


def test_kuramoto_sivashinsky_against_exponax_and_finer_steps(x64):
    times = np.array([0.0, 0.1, 1.0])
    found = kuramoto_sivashinsky_spectral(times)
    coarse = kuramoto_sivashinsky_spectral(times, steps=4000)
    # Fourth order: what 8000 steps err by is a fifteenth of the difference; it grows a hundredfold
    # until t = 1, because the equation is chaotic.
    np.testing.assert_allclose(coarse[1], found[1], atol=1e-4)
    np.testing.assert_allclose(coarse[2], found[2], atol=4e-3)
    stepper = exponax.stepper.generic.GeneralConvectionStepper(
        1, 2 * np.pi, 256, 1e-4, linear_coefficients=(0, 0, -100 / 256, 0, -100 / 16**4),
        convection_scale=100 / 16, conservative=True, order=4,
    )  # fmt: skip
    start = jnp.asarray(found[0])[None]
    peer = jax.jit(exponax.repeat(stepper, 1000))(start)[0]
    np.testing.assert_allclose(found[1], peer, atol=1e-5)


def test_heat_with_varying_coefficient_against_finite_differences(x64):
    """Five-point differences and the implicit midpoint rule: 2 % at h = 1/32."""
    n, steps = 32, 100
    side = np.arange(1, n) / n
    xx, yy = np.meshgrid(side, side, indexing="ij")
    a = np.asarray(jax.vmap(heat_coefficient)(jnp.stack([xx.ravel(), yy.ravel()], 1)))
    one = sp.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(n - 1, n - 1)) * n**2
    laplacian = sp.kron(one, sp.eye(n - 1)) + sp.kron(sp.eye(n - 1), one)
    operator, eye = sp.diags(a) @ laplacian, sp.eye((n - 1) ** 2)
    h = 1 / steps
    factor = spl.splu((eye - h / 2 * operator).tocsc())
    shape = 200 * (np.sin(np.pi * xx) * np.sin(5 * np.pi * yy)).ravel()
    u = np.zeros(a.size)
    for i in range(steps):
        u = factor.solve(u + h / 2 * (operator @ u) + h * np.sin(np.pi * (i + 0.5) * h) * shape)
    x, values = pinnacle.heat_2d_vc().reference()
    now = np.isclose(x[:, 2], 1.0)
    full = np.pad(u.reshape(n - 1, n - 1), 1)
    grid = np.linspace(0, 1, n + 1)
    spline = scipy.interpolate.RectBivariateSpline(grid, grid, full)
    found = spline(x[now, 0], x[now, 1], grid=False)
    error = np.linalg.norm(found - values[now, 0]) / np.linalg.norm(values[now, 0])
    assert error < 0.02


def test_burgers_2d_against_exponax_as_fronts_form():
    """The recorded values at t = 0.05 against a peer on 256² points of the unit cell,
    half as many on each side as the recording had; the front is some 4 of them wide."""
    problem = pinnacle.burgers_2d()
    x, values = problem.reference()
    first = np.isclose(x[:, 2], 0.0)
    lift = jax.vmap(problem.shaped(lambda z: jnp.zeros(2)))(jnp.asarray(x[first]))
    np.testing.assert_allclose(values[first], lift, atol=1e-5)
    n = 256
    side = np.arange(n) / n
    grid = jnp.asarray(np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2))
    grid = jnp.concatenate([grid, jnp.zeros((n * n, 1))], 1)
    start = jax.vmap(problem.shaped(lambda z: jnp.zeros(2)))(grid).T.reshape(2, n, n)
    stepper = exponax.stepper.Burgers(2, 1.0, n, 1e-3, diffusivity=1e-3, order=2)
    end = np.asarray(jax.jit(exponax.repeat(stepper, 50))(start))
    now = np.isclose(x[:, 2], 0.05)
    cells = np.round(x[now, :2] * 256).astype(int) % 256
    peer = end[:, cells[:, 0], cells[:, 1]].T
    assert np.linalg.norm(peer - values[now]) < 0.01 * np.linalg.norm(peer)
    assert burgers_2d_coefficients()[0].shape == (2, 16)


def sines(*factors):
    """Π sin(π f_i x_i) over the coordinates."""
    return lambda x: np.prod(np.sin(np.pi * np.array(factors) * x))


def poisson_source_3d(x):
    waves = np.sin(np.pi * np.array([1, 10, 5]) * x)
    return 20 * np.exp(waves.sum()) * (x @ x - 1) / (x @ x + 1) + 100 * waves.prod()


def flow(s, c, k, nu):
    """Momentum and continuity for (u, v, p)."""
    u, v, _ = s
    momentum = [
        u * k[i, 0] * c[i] + v * k[i, 1] * c[i] + k[2, i] * c[2] + nu * (k[i] @ k[i]) * s[i]
        for i in (0, 1)
    ]
    return [*momentum, k[0, 0] * c[0] + k[1, 1] * c[1]]


def heat(s, c, k):
    """u_t and −Δu of one component in two dimensions."""
    return k[0, 2] * c[0], (k[0, :2] @ k[0, :2]) * s[0]


def gray_scott(s, c, k):
    (a, b), square = s, np.sum(k[:, :2] ** 2, 1)
    return [
        k[0, 2] * c[0] + 1e-5 * square[0] * a - 0.04 * (1 - a) + a * b**2,
        k[1, 2] * c[1] + 5e-6 * square[1] * b + 0.1 * b - a * b**2,
    ]


def driven(x, s, c, k):
    """Navier-Stokes with time, and a force in the second direction."""
    first, second, third = flow(s, c, k[:, :2], 0.01)
    return [first + k[0, 2] * c[0], second + k[1, 2] * c[1] + sines(1, 1, 1)(x), third]


def poisson_in_squares(x, curvature):
    """A Δu + f for Δu = −curvature, from PINNacle's table, square by square."""
    i, j = (int(v // 4) for v in x + 10)
    a, constant, wave = recorded_array("poisson_2d_ms_coefficients")[:, i, j]
    return constant + wave * sines(1 / 4, 1 / 4)(x + 10 - [4 * i, 4 * j]) - a * curvature


def medium(x):
    table, side = recorded_array("wave_2d_cg_coefficient"), np.linspace(-1, 1, 256)
    return scipy.interpolate.RegularGridInterpolator((side, side), table)(x[:2])[0]


# The equations as stated, for components sin(k·x + φ): x, sines, cosines, wave vectors.
STATED = {
    "burgers_1d": lambda x, s, c, k: [
        k[0, 1] * c[0] + s[0] * k[0, 0] * c[0] + 0.01 / np.pi * k[0, 0] ** 2 * s[0]
    ],
    "burgers_2d": lambda x, s, c, k: [
        (k[i, 2] + s @ k[i, :2]) * c[i] + 1e-3 * (k[i, :2] @ k[i, :2]) * s[i] for i in (0, 1)
    ],
    "gs": lambda x, s, c, k: gray_scott(s, c, k),
    "heat_2d_cg": lambda x, s, c, k: [sum(heat(s, c, k))],
    "heat_2d_lt": lambda x, s, c, k: [
        heat(s, c, k)[0] + 1e-3 * heat(s, c, k)[1]
        - 5 * np.sin(s[0] ** 2) * (1 + 2 * np.sin(np.pi * x[2] / 4)) * sines(4, 2)(x[:2])
    ],
    "heat_2d_vc": lambda x, s, c, k: [
        heat(s, c, k)[0] + float(heat_coefficient(jnp.asarray(x[:2]))) * heat(s, c, k)[1]
        - 200 * sines(1, 5, 1)(x)
    ],
    "ks": lambda x, s, c, k: [
        k[0, 1] * c[0] + 100 / 16 * s[0] * k[0, 0] * c[0]
        - 100 / 16**2 * k[0, 0] ** 2 * s[0] + 100 / 16**4 * k[0, 0] ** 4 * s[0]
    ],
    "ns_2d_c": lambda x, s, c, k: flow(s, c, k, 0.01),
    "ns_2d_cg": lambda x, s, c, k: flow(s, c, k, 0.01),
    "ns_2d_lt": lambda x, s, c, k: driven(x, s, c, k),
    "poisson_2d_c": lambda x, s, c, k: [-(k[0] @ k[0]) * s[0]],
    "poisson_2d_cg": lambda x, s, c, k: [
        (k[0] @ k[0] + 64) * s[0] - 10 * (17 + x @ x) * sines(1, 4)(x)
    ],
    "poisson_2d_ms": lambda x, s, c, k: [poisson_in_squares(x, (k[0] @ k[0]) * s[0])],
    "wave_2d_cg": lambda x, s, c, k: [
        (k[0, 2] ** 2 / medium(x) - k[0, :2] @ k[0, :2]) * s[0]
    ],
    "wave_2d_ms": lambda x, s, c, k: [(k[0] ** 2 @ [1, 2, -1]) * s[0]],
    "poisson_3d_cg": lambda x, s, c, k: [
        (k[0] @ k[0] + (64 if x[2] < 0.5 else 100)) * s[0] - poisson_source_3d(x)
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", STATED)
def test_equations_are_the_stated_ones(name, key, x64):
    problem = getattr(pinnacle, name)()
    rng = np.random.default_rng(0)
    components, dim = len(problem.components), len(problem.domain.lower)
    k, phase = rng.normal(size=(components, dim)), rng.normal(size=components)

    def field(x):
        u = jnp.sin(k @ x + phase)
        return u if components > 1 else u[0]

    places = np.asarray(problem.domain.sample(key, 6))
    found = jax.jit(jax.vmap(lambda x: problem.equation(field, x)))(places)
    expected = [STATED[name](x, np.sin(k @ x + phase), np.cos(k @ x + phase), k) for x in places]
    np.testing.assert_allclose(found.reshape(6, -1), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "condition", "radius", "outside"),
    [
        ("poisson_3d_cg", "balls", None, None),
        ("heat_2d_cg", "large circles", 1.0, 5.0),
        ("heat_2d_cg", "small circles", 0.4, 1.0),
    ],
)
def test_slopes_are_along_the_normal_into_the_holes(name, condition, radius, outside, key, x64):
    problem = getattr(pinnacle, name)()
    (chosen,) = (c for c in problem.conditions if c.name == condition)
    slope = np.array([1.0, -2.0, 0.5])
    if name == "heat_2d_cg":
        centres = {
            1.0: [(a, b) for a in (-4, 4) for b in (-9, -3, 3, 9)] + [(0, -6), (0, 0), (0, 6)],
            0.4: [(a, b) for a in (-3.2, 3.2) for b in (-6, 0, 6)],
        }[radius]
        holes = np.array([(*c, radius) for c in centres])
    else:
        holes = np.array([(0.4, 0.3, 0.6, 0.2), (0.6, 0.7, 0.6, 0.2), (0.2, 0.8, 0.7, 0.1),
                          (0.6, 0.2, 0.3, 0.1)])  # fmt: skip
    dim = holes.shape[1] - 1
    for x in np.asarray(chosen.draw(key, 12)):
        apart = holes[:, :-1] - x[:dim]
        i = np.argmin(np.abs(np.linalg.norm(apart, axis=1) - holes[:, -1]))
        expected = slope[:dim] @ apart[i] / holes[i, -1]
        if outside is not None:
            expected += slope @ x - outside
        found = chosen.residual(lambda x: jnp.asarray(slope) @ x, jnp.asarray(x))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_maximum_principle():
    """Of a plate that exchanges heat with surroundings at 0.1 to 5, from 0."""
    x, values = pinnacle.heat_2d_cg().reference()
    assert np.all(values > -1e-3) and np.all(values < 5)
    assert np.mean(values[x[:, 2] > 2.5]) > 2 * np.mean(values[x[:, 2] < 0.5])


def test_gray_scott_against_exponax():
    x, values = pinnacle.gs().reference()
    chosen = x[:, 2] == 50.0
    stepper = exponax.stepper.reaction.GrayScott(
        2, 2.0, 192, 0.5, diffusivity_1=1e-5, diffusivity_2=5e-6, feed_rate=0.04, kill_rate=0.06,
        dealiasing_fraction=1.0,
    )  # fmt: skip
    side = -1 + np.arange(192) / 96
    peaks = [
        np.exp(-80 * ((side[:, None] + s * 0.05) ** 2 + (side + s * 0.02) ** 2)) for s in (1, -1)
    ]
    start = jnp.asarray(np.stack([1 - peaks[0], peaks[1]]), jnp.float32)
    after = np.asarray(jax.jit(exponax.repeat(stepper, 100))(start))
    i, j = np.rint((x[chosen, :2] + 1) * 96).astype(int).T
    found, expected = after[:, i, j].T, values[chosen]
    # exponax's steps and the reference's coarser grid (2.5e-3 over all times).
    error = np.linalg.norm(found - expected, axis=0) / np.linalg.norm(expected, axis=0)
    assert np.all(error < 5e-3)
    assert np.ptp(expected[:, 1]) > 0.1  # a pattern has grown


def test_a_reaction_with_sharp_fronts_against_finite_differences():
    """Heat2d-LT at its first time, in central differences on two grids."""
    x, values = pinnacle.heat_2d_lt().reference()
    time = np.unique(x[:, 2])[1]
    chosen = x[:, 2] == time

    def solve(n):
        side = np.arange(1, n) / n
        second = sp.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(n - 1, n - 1)) * n**2
        laplacian = sp.kronsum(second, second).tocsr()
        wave = np.sin(4 * np.pi * side)[:, None]
        shape = (wave * np.sin(2 * np.pi * side)).ravel()

        def rate(t, u):
            drive = 1 + 2 * np.sin(np.pi * t / 4)
            return 1e-3 * (laplacian @ u) + 5 * np.sin(u**2) * drive * shape

        start = (wave * np.sin(3 * np.pi * side)).ravel()
        u = scipy.integrate.solve_ivp(rate, (0, time), start, rtol=1e-6, atol=1e-6).y[:, -1]
        return np.pad(u.reshape(n - 1, n - 1), 1)

    coarse, fine = solve(80), solve(160)[::2, ::2]
    i, j = np.rint(x[chosen, :2] * 80).astype(int).T
    ours = ((4 * fine - coarse) / 3)[i, j]
    # The grids alone are 7 % and 1.9 % off; of the fourth-order value a tenth of that remains.
    error = np.linalg.norm(ours - values[chosen, 0])
    assert error < 1.5e-2 * np.linalg.norm(ours)


def test_what_pinnacle_calls_the_solution_of_wave_2d_ms_is_none(key, x64):
    """u_tt − u_xx − 2u_yy = −2π² of each part, not 0; the solution is 12 % away."""

    def theirs(x):
        first = jnp.sin(jnp.pi * x[0]) * jnp.sinh(jnp.pi * x[1])
        second = jnp.sinh(3 * jnp.pi * x[0]) * jnp.sin(2 * jnp.pi * x[1])
        return (first + second) * jnp.cos(jnp.pi * x[2])

    problem = pinnacle.wave_2d_ms()
    x = jnp.array([0.3, 0.6, 0.2])
    residual = jax.jit(lambda x: problem.equation(theirs, x))(x)
    np.testing.assert_allclose(residual, -2 * jnp.pi**2 * theirs(x), rtol=1e-10)
    assert 0.1 < jax.jit(lambda: problem.relative_error(theirs))() < 0.14


def test_waves_in_a_driven_square_against_finite_differences():
    """Central differences: second order, and none of the series."""

    def error(n, steps):
        side = np.arange(n + 1) / n
        x, y = np.meshgrid(np.pi * side, np.pi * side, indexing="ij")
        w = np.sin(x) * np.sinh(y) + np.sinh(3 * x) * np.sin(2 * y)
        h = 1 / steps
        inner = np.s_[1:-1, 1:-1]

        def force(u):
            xx = u[2:, 1:-1] - 2 * u[inner] + u[:-2, 1:-1]
            yy = u[1:-1, 2:] - 2 * u[inner] + u[1:-1, :-2]
            return h**2 * n**2 * (xx + 2 * yy)

        before, now = w, w * np.cos(np.pi * h)
        now[inner] = w[inner] + force(w) / 2
        for i in range(2, steps + 1):
            new = w * np.cos(np.pi * i * h)
            new[inner] = 2 * now[inner] - before[inner] + force(now)
            before, now = now, new
        found = now[:: n // 8, :: n // 8]
        places = np.stack(np.meshgrid(*[np.arange(9) / 8] * 2, indexing="ij"), -1).reshape(-1, 2)
        points = np.concatenate([places, np.ones((81, 1))], 1)
        exact = driven_waves(points).reshape(9, 9)
        return np.linalg.norm(found - exact) / np.linalg.norm(exact)

    coarse, fine = error(64, 128), error(128, 256)
    assert fine < 2e-3 and fine < 0.4 * coarse


def test_poisson_in_squares_against_finite_volumes_and_pinnacle_s_data():
    """Fluxes between cells by harmonic means, on two grids. PINNacle's data have the fluxes of
    −∇·(a ∇u) = f, and are 140 % away from −Δu = f/a, what its residual tends to."""
    x, values = pinnacle.poisson_2d_ms().reference()

    def error(n):
        """With n cells on the side of each square."""
        m, h = 5 * n, 4 / n
        centres = -10 + h * (np.arange(m) + 0.5)
        places = np.stack(np.meshgrid(centres, centres, indexing="ij"), -1).reshape(-1, 2)
        a, f = (np.asarray(v) for v in jax.vmap(squares)(jnp.asarray(places)))
        index = np.arange(m * m).reshape(m, m)
        matrix = sp.csr_matrix((m * m, m * m))
        for left, right in ((index[:-1], index[1:]), (index[:, :-1], index[:, 1:])):
            i, j = left.ravel(), right.ravel()
            link = 2 * a[i] * a[j] / (a[i] + a[j])
            matrix += sp.csr_matrix((-np.r_[link, link], (np.r_[i, j], np.r_[j, i])), matrix.shape)
            matrix += sp.csr_matrix((np.r_[link, link], (np.r_[i, j], np.r_[i, j])), matrix.shape)
        for side in (index[0], index[-1], index[:, 0], index[:, -1]):
            # a (u − u_s)/(h/2) = a u_s: what leaves is a u/(1 + h/2).
            leaves = a[side] * h / (1 + h / 2)
            matrix += sp.csr_matrix((leaves, (side, side)), matrix.shape)
        u = spl.spsolve(matrix.tocsc(), h**2 * f).reshape(m, m)
        # Linear between centres, and so not across sides of squares, where u has kinks.
        inside = np.all(np.abs((x + 8) % 4 - 2) > 0.3, 1) & np.all(np.abs(x) < 9.7, 1)
        probe = scipy.interpolate.RegularGridInterpolator((centres, centres), u)
        found, wanted = probe(x[inside]), values[inside, 0]
        return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)

    coarse, fine = error(8), error(24)
    # u is not smooth at the corners of the squares: less than second order.
    assert fine < 0.02 and fine < 0.5 * coarse
    _, theirs, ours, smooth = np.split(PUBLISHED["poisson_2d_ms"], [2, 3, 4], axis=1)
    assert np.linalg.norm(theirs - ours) < 0.01 * np.linalg.norm(ours)
    assert np.linalg.norm(smooth - ours) > 1.3 * np.linalg.norm(ours)


def test_sides_of_squares_and_walls_as_stated(x64):
    """The flux's jump of a field with kinks, from both slopes and the table."""
    problem = pinnacle.poisson_2d_ms()
    (interfaces,) = (c for c in problem.conditions if c.name == "interfaces")
    (boundary,) = (c for c in problem.conditions if c.name == "boundary")
    a = recorded_array("poisson_2d_ms_coefficients")[0]

    def field(x):
        return 3 * x[0] + 2 * jnp.abs(x[0] - 2) + x[1]

    # Beside x = 2 at y = 7, squares (2, 4) and (3, 4); beside y = −6 at x = 0, (2, 0) and (2, 1).
    places = jnp.array([[2.0, 7.0], [0.0, -6.0]])
    jumps = jax.jit(jax.vmap(lambda x: interfaces.residual(field, x)))(places)
    np.testing.assert_allclose(jumps, [5 * a[3, 4] - a[2, 4], a[2, 1] - a[2, 0]], rtol=1e-9)
    side = jax.jit(lambda x: boundary.residual(field, x))(jnp.array([-10.0, 1.0]))
    np.testing.assert_allclose(side, -1 - 30 + 24 + 1)
    (walls,) = (c for c in pinnacle.wave_2d_cg().conditions if c.name == "walls")
    plane = jnp.array([3.0, 5.0, 1.0])
    slope = jax.jit(lambda x: walls.residual(lambda x: plane @ x, x))(jnp.array([0.1, -1.0, 2.0]))
    np.testing.assert_allclose(slope, -5.0)


def test_waves_in_two_media_against_cosines():
    """The recorded values at t = 0.2 in cosine series, c at the pattern's own places: no
    differences in place. The slope of the start on the wall is none of cosines'."""
    x, values = pinnacle.wave_2d_cg().reference()
    table, n = recorded_array("wave_2d_cg_coefficient"), 255
    k = np.pi / 2 * np.arange(n + 1)
    symbol = -(k[:, None] ** 2 + k**2)

    def force(u):
        return table * scipy.fft.idctn(symbol * scipy.fft.dctn(u, type=1), type=1)

    side = np.linspace(-1, 1, n + 1)
    now = np.exp(-((side[:, None] + 0.5) ** 2 + side**2) / 0.18)
    steps = 200
    before, now = now, now + (0.2 / steps) ** 2 / 2 * force(now)
    for _ in range(steps - 1):
        before, now = now, 2 * now - before + (0.2 / steps) ** 2 * force(now)
    chosen = np.isclose(x[:, 2], 0.2)
    i, j = np.rint((x[chosen, :2] + 1) / 2 * n).astype(int).T
    wanted = values[chosen, 0]
    assert np.linalg.norm(now[i, j] - wanted) < 0.02 * np.linalg.norm(wanted)


def test_waves_of_pinnacle_s_data_are_those_of_another_equation():
    """Its COMSOL values have u_tt = ∇·(c ∇u), up to their grid; its code's u_tt = c Δu is 90 %
    away."""
    theirs, stated, conservative = PUBLISHED["wave_2d_cg"]
    assert np.linalg.norm(theirs - conservative) < 0.2 * np.linalg.norm(theirs)
    assert np.linalg.norm(theirs - stated) > 0.8 * np.linalg.norm(theirs)


def test_a_driven_flow_against_pinnacle_s_data():
    """COMSOL's velocities, with a free v at the outlet; closely at first, before that matters. The
    pressure agrees but at ten of fifty times, when the inlet draws: it is off by 40 to 110 then."""
    theirs, ours = PUBLISHED["ns_2d_lt"]
    first, along = np.s_[:1, :, :2], np.s_[:, :, 0]
    assert np.linalg.norm((theirs - ours)[first]) < 0.02 * np.linalg.norm(ours[first])
    assert np.linalg.norm((theirs - ours)[along]) < 0.09 * np.linalg.norm(ours[along])
    apart = np.abs(theirs - ours)[..., 2].mean(1)
    drawing = ours[..., 0].mean(1) < -0.4
    assert np.sum(drawing) == 10
    assert np.all(apart[drawing] > 35) and np.all(apart[~drawing] < 6)
    assert np.median(apart) < 0.05 * np.mean(np.abs(ours[..., 2]))
    # Nor is the pressure 0 at the start, as its code wants: the inlet drives it up at once.
    assert np.mean(ours[0, :, 2]) > 5


def test_bodies_of_pinnacle_s_data():
    """Heat in a plate is ours to a thousandth. Its cube lacks the two small holes, for it has
    nodes in them; away from these the solutions agree, and beside them they do not."""
    index, theirs = PUBLISHED["heat_2d_cg"].T
    _, values = pinnacle.heat_2d_cg().reference()
    wanted = values[index.astype(int), 0]
    assert np.linalg.norm(theirs - wanted) < 2e-3 * np.linalg.norm(wanted)
    index, theirs = PUBLISHED["poisson_3d_cg"].T
    x, values = pinnacle.poisson_3d_cg().reference()
    x, wanted = x[index.astype(int)], values[index.astype(int), 0]
    small = np.array([[0.2, 0.8, 0.7], [0.6, 0.2, 0.3]])
    far = np.linalg.norm(x[:, None] - small, axis=2).min(1) > 0.3
    assert np.linalg.norm((theirs - wanted)[far]) < 6e-3 * np.linalg.norm(wanted[far])
    beside = np.linalg.norm(x[:, None] - small, axis=2).min(1) < 0.12
    assert np.linalg.norm((theirs - wanted)[beside]) > 0.2 * np.linalg.norm(wanted[beside])
    nodes = PUBLISHED["poisson_3d_cg_nodes_in_small_balls"]
    assert len(nodes) > 300
    assert not np.any(pinnacle.poisson_3d_cg().domain.contains(jnp.asarray(nodes)))


def test_bad_input():
    with pytest.raises(ValueError, match="dim = 0"):
        pinnacle.poisson_nd(0)
    with pytest.raises(ValueError, match="frequency = 0"):
        pinnacle.wave_1d_c(0)
    with pytest.raises(ValueError, match="nu = 0"):
        pinnacle.ns_2d_c(nu=0.0)
    with pytest.raises(ValueError, match="poisson_nd: the problem has no ansatz"):
        pinnacle.poisson_nd().shaped(jnp.sum)
