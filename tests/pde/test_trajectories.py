"""Time-dependent benchmark problems: each solver against a closed form, SciPy or its own order."""

import dataclasses
from typing import Any

import exponax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate

from jaxsci.pde import (
    ETDRK4,
    BurgersOperator,
    ExponaxStepper,
    Grid,
    Trajectories,
    TwoScaleLorenz96,
    WaveBox,
    benchmarks,
    korteweg_de_vries_step,
    rollout,
)


def last(problem, u0, cond, steps=None):
    """The field after a frame, by the problem's own solver."""
    return jax.jit(
        lambda u: rollout(problem.stepper(jnp.asarray(cond)), u, steps or problem.substeps)[-1]
    )(u0)


def test_heat_and_advection(x64):
    del x64
    (x,) = Grid(0.0, 1.0, 32, periodic=True).coords()
    wave, t = 2 * jnp.pi * 3, 0.05
    heat = benchmarks.heat(resolution=32)
    # Linear equations are solved exactly: rounding.
    np.testing.assert_allclose(
        last(heat, jnp.sin(wave * x)[None], [0.02])[0],
        jnp.exp(-0.02 * wave**2 * t) * jnp.sin(wave * x),
        atol=1e-14,
    )
    advection = benchmarks.advection(resolution=32)
    np.testing.assert_allclose(
        last(advection, jnp.sin(wave * x)[None], [3.0])[0], jnp.sin(wave * (x - 3 * t)), atol=1e-13
    )


def test_burgers_against_cole_and_hopf(x64):
    """U = -2ν θ_x/θ with θ = 2 + e^(-ν k² t) cos k x solves the heat equation for θ."""
    del x64
    nu, k, t = 0.02, 2 * jnp.pi, 0.05
    (x,) = Grid(0.0, 1.0, 128, periodic=True).coords()

    def exact(t):
        decay = jnp.exp(-nu * k**2 * t)
        return 2 * nu * k * decay * jnp.sin(k * x) / (2 + decay * jnp.cos(k * x))

    problem = benchmarks.burgers(resolution=128, oversample=1)
    # A fourth-order method with twenty steps on a gentle wave.
    np.testing.assert_allclose(last(problem, exact(0.0)[None], [nu])[0], exact(t), atol=1e-11)


def test_kuramoto_sivashinsky_grows_as_its_dispersion_relation_says(x64):
    """A tiny wave e^(iκx) grows at the rate κ² - κ⁴."""
    del x64
    problem = benchmarks.kuramoto_sivashinsky(resolution=64, length=2 * np.pi * 8)
    (x,) = problem.grid.coords()
    kappa = 5 / 8
    u0 = 1e-8 * jnp.cos(kappa * x)[None]
    found = last(problem, u0, [1.0, 1.0], 10) / u0[0, 0]
    # The nonlinear term is 1e-8 of the linear one.
    np.testing.assert_allclose(
        found[0], np.exp((kappa**2 - kappa**4) * 1.0) * jnp.cos(kappa * x), atol=1e-7
    )


def test_fisher_kpp_without_space_is_logistic(x64):
    del x64
    problem = benchmarks.fisher_kpp(resolution=16, oversample=1)
    u0 = jnp.full((1, 16), 0.2)
    growth = np.exp(2.0 * 0.1)
    exact = 0.2 * growth / (1 - 0.2 + 0.2 * growth)
    # Four steps of a fourth-order method with r dt = 0.05: 0.05⁵ each.
    np.testing.assert_allclose(last(problem, u0, [0.01, 2.0]), exact, atol=1e-8)


def test_kolmogorov_flow_has_the_tendency_of_its_equation(x64):
    """(w(dt) - w(0))/dt against -v·∇w + νΔw - μw - 4 cos 4y, written out with NumPy's FFT."""
    del x64
    problem = benchmarks.kolmogorov_flow(resolution=32, oversample=1, n_modes=3)
    w0 = np.asarray(problem.initial(jr.key(0)))[0]
    nu, drag, dt = 0.03, 0.2, 1e-4
    stepper = problem.stepper(jnp.array([nu, drag]), dt)
    found = (rollout(stepper, jnp.asarray(w0)[None], 2) - w0) / (dt * np.array([1, 2]))[
        :, None, None, None
    ]
    first_order = 2 * found[0] - found[1]  # Richardson: the tendency up to dt²

    k = np.fft.fftfreq(32, 1 / 32)
    kx, ky = k[:, None], k[None]
    square = np.where(kx**2 + ky**2 == 0, 1, kx**2 + ky**2)
    w_hat = np.fft.fft2(w0)
    psi_hat = w_hat / square

    def field(c):
        return np.fft.ifft2(c).real

    u, v = field(1j * ky * psi_hat), -field(1j * kx * psi_hat)
    _, y = problem.grid.coords()
    tendency = -(u * field(1j * kx * w_hat) + v * field(1j * ky * w_hat))
    tendency += field(-nu * square * w_hat) - drag * w0 - 4 * np.cos(4 * np.asarray(y))
    # dt² times third derivatives of a flow of order ten.
    np.testing.assert_allclose(first_order[0], tendency, atol=1e-4)


def soliton(x, c, t=0.0):
    return c / 2 / jnp.cosh(jnp.sqrt(c) / 2 * (x - 10 - c * t)) ** 2


def test_a_soliton_travels_unchanged_with_fourth_order(x64):
    del x64
    (x,) = Grid(0.0, 20.0, 128, periodic=True).coords()
    c, t = 4.0, 0.5  # tails of e^(-2·10): 2e-9 where the circle closes

    def error(steps):
        stepper = korteweg_de_vries_step(20.0, 128, t / steps)
        found = rollout(stepper, soliton(x, c)[None], steps)[-1, 0]
        return float(jnp.max(jnp.abs(found - soliton(x, c, t))))

    coarse, fine = error(40), error(80)
    assert np.log2(coarse / fine) == pytest.approx(4, abs=0.5)  # asymptotic order at these steps
    assert fine < 1e-4


def test_exponax_is_first_order_for_dispersion(x64):
    """Errata: its coefficients are real parts; for diffusion they are right, here they are not."""
    del x64
    (x,) = Grid(0.0, 20.0, 128, periodic=True).coords()

    def error(steps):
        stepper = exponax.stepper.KortewegDeVries(
            1, 20.0, 128, 0.5 / steps, convection_scale=6.0, hyper_diffusivity=0.0, order=4
        )
        found = rollout(ExponaxStepper(stepper), soliton(x, 4.0)[None], steps)[-1, 0]
        return float(jnp.max(jnp.abs(found - soliton(x, 4.0, 0.5))))

    coarse, fine = error(80), error(160)
    assert 0.5 < np.log2(coarse / fine) < 1.5
    assert fine > 1e-2


def test_etdrk4_agrees_with_exponax_where_the_linear_part_is_real(x64):
    del x64
    n, nu, dt = 64, 0.05, 0.01
    k = 2 * np.pi * np.arange(n // 2 + 1)
    factor = jnp.asarray(-0.5j * k * (3 * np.arange(n // 2 + 1) < n))

    def nonlinear(u_hat):
        u = jnp.fft.irfft(u_hat * (factor != 0), n, axis=-1)
        return factor * jnp.fft.rfft(u**2, axis=-1)

    (x,) = Grid(0.0, 1.0, n, periodic=True).coords()
    u0 = jnp.sin(2 * jnp.pi * x)[None]
    ours = rollout(ETDRK4(jnp.asarray(-nu * k**2), nonlinear, dt, (n,)), u0, 10)[-1]
    theirs = exponax.stepper.Burgers(1, 1.0, n, dt, diffusivity=nu, conservative=True, order=4)
    # Two evaluations of the coefficients, 16 and 64 points on a circle: rounding.
    np.testing.assert_allclose(ours, rollout(ExponaxStepper(theirs), u0, 10)[-1], atol=1e-10)


@pytest.mark.parametrize("walls", ["dirichlet", "neumann"])
def test_standing_waves_and_energy(x64, walls):
    del x64
    grid = Grid((0.0, 0.0), (1.0, 2.0), (12, 16), endpoint=False)
    x, y = grid.coords()
    shape = jnp.sin if walls == "dirichlet" else jnp.cos
    mode = shape(3 * jnp.pi * x) * shape(2 * jnp.pi * y / 2)
    omega = 1.5 * np.pi * np.hypot(3, 1)
    box = WaveBox(grid, 0.7, 1.5, walls)
    frames = rollout(box, jnp.stack([mode, 0 * mode]), 5)
    t = 0.7 * np.arange(1, 6)[:, None, None]
    np.testing.assert_allclose(frames[:, 0], np.cos(omega * t) * mode, atol=1e-12)
    np.testing.assert_allclose(frames[:, 1], -omega * np.sin(omega * t) * mode, atol=1e-11)
    noise = jr.normal(jr.key(0), (2, 12, 16))
    kept = jax.vmap(box.energy)(rollout(box, noise, 3))
    np.testing.assert_allclose(kept, box.energy(noise), rtol=1e-12)


@pytest.mark.parametrize(("walls", "sign"), [("dirichlet", -1), ("neumann", 1)])
def test_pulses_come_back_from_the_wall(x64, walls, sign):
    """D'Alembert: after a period of 2L/c everything is back, at half of it mirrored."""
    del x64
    grid = Grid(0.0, 1.0, 64, endpoint=False)
    (x,) = grid.coords()
    pulse = jnp.exp(-200 * (x - 0.3) ** 2)
    frames = rollout(WaveBox(grid, 0.5, 2.0, walls), jnp.stack([pulse, 0 * pulse]), 2)
    np.testing.assert_allclose(frames[0, 0], sign * pulse[::-1], atol=1e-12)
    np.testing.assert_allclose(frames[1, 0], pulse, atol=1e-12)


def test_the_constant_wave_drifts(x64):
    """With free walls the mode of frequency zero moves at its own speed."""
    del x64
    box = WaveBox(Grid(0.0, 1.0, 8, endpoint=False), 0.5, walls="neumann")
    frames = rollout(box, jnp.stack([jnp.zeros(8), jnp.ones(8)]), 2)
    np.testing.assert_allclose(frames[:, 0, 0], [0.5, 1.0], atol=1e-13)


def test_lorenz_against_scipy(x64, key):
    """The equations, written a second time with index loops, by SciPy's DOP853."""
    del x64
    n, j_fast, f, h, c, b = 5, 3, 8.0, 0.7, 4.0, 6.0
    u0 = np.asarray(jr.normal(key, (1 + j_fast, n)))

    def tendency(_, flat):
        x, y = flat[:n], flat[n:]  # y_{j,k} at k J + j
        dx, dy, total = np.zeros(n), np.zeros(n * j_fast), n * j_fast
        for k in range(n):
            own = sum(y[k * j_fast + j] for j in range(j_fast))
            dx[k] = -x[k - 1] * (x[k - 2] - x[(k + 1) % n]) - x[k] + f - h * c / b * own
        for i in range(total):
            turn = y[(i + 1) % total] * (y[(i + 2) % total] - y[i - 1])
            dy[i] = -c * b * turn - c * y[i] + h * c / b * x[i // j_fast]
        return np.concatenate([dx, dy])

    start = np.concatenate([u0[0], u0[1:].T.ravel()])
    exact = scipy.integrate.solve_ivp(
        tendency, (0, 0.2), start, method="DOP853", rtol=1e-12, atol=1e-12
    ).y[:, -1]

    def error(steps):
        stepper = TwoScaleLorenz96(0.2, j_fast, f, h, c, b, substeps=steps)
        found = np.asarray(rollout(stepper, jnp.asarray(u0), 1)[-1])
        return np.abs(np.concatenate([found[0], found[1:].T.ravel()]) - exact).max()

    errors = [error(steps) for steps in (40, 80)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.4)
    assert errors[1] < 1e-4


SMALL = {
    "heat": benchmarks.heat(n_frames=2, resolution=16, n_dims=2),
    "burgers": benchmarks.burgers([0.02, 0.05, 0.1], n_frames=3, resolution=32, substeps=4),
    "fisher-kpp": benchmarks.fisher_kpp(n_frames=2, resolution=32),
    "korteweg-de-vries": benchmarks.korteweg_de_vries(n_frames=2, resolution=64),
    "lorenz-96": benchmarks.lorenz_96(n_frames=2, resolution=8, n_fast=3, warmup=0),
    "wave": benchmarks.wave_box(n_frames=2, resolution=16),
}


@pytest.mark.parametrize("name", SMALL)
def test_accuracy_of_small_variants(key, name):
    errors = SMALL[name].accuracy(key, 2)
    assert ("halved_dx_max" in errors) == (name not in ("lorenz-96", "wave"))
    # Far below what a network reaches.
    assert max(errors.values()) < 2e-3


def test_trajectories_take_parameters_in_turn_and_do_not_depend_on_n(tmp_path):
    problem = SMALL["burgers"]
    data = benchmarks.trajectories(problem, train=5, test=2, folder=tmp_path)
    assert data.train.frames.shape == (5, 4, 1, 32)
    assert data.train.frames.dtype == np.float32
    np.testing.assert_allclose(data.train.cond[:, 0], [0.02, 0.05, 0.1, 0.02, 0.05])
    assert data.valid is None and data.test is not None
    again = benchmarks.trajectories(problem, train=3, folder=tmp_path)
    np.testing.assert_array_equal(again.train.frames, data.train.frames[:3])
    assert not np.allclose(data.test.frames, data.train.frames[:2])
    # What frame follows another is what the solver with those parameters makes of it.
    fine = dataclasses.replace(problem, oversample=1)
    with jax.enable_x64(True):
        following = last(fine, jnp.asarray(data.train.frames[1, 1], jnp.float64), [0.05])
    # On half of the solver's points: its error in space; another viscosity is ten times as far.
    np.testing.assert_allclose(following, data.train.frames[1, 2], atol=1e-2)
    files = sorted(path.name for path in tmp_path.iterdir())
    benchmarks.trajectories(problem, train=5, test=2, folder=tmp_path)
    assert files == sorted(path.name for path in tmp_path.iterdir())  # read, not made again
    windows = data.train.windows(2)
    assert windows.frames.shape == (15, 2, 1, 32)
    np.testing.assert_array_equal(windows.frames[5:10, 1], data.train.frames[:, 2])
    np.testing.assert_array_equal(windows.cond[5:10], data.train.cond)
    assert data.train.windows(2, stride=2).n == 10


def test_unseen_parameters_make_a_test_set(tmp_path):
    unseen = dataclasses.replace(SMALL["burgers"], parameters=((0.07,),))
    data = benchmarks.trajectories(
        SMALL["burgers"], train=1, test=2, unseen=unseen, folder=tmp_path
    )
    assert data.test is not None
    np.testing.assert_allclose(data.test.cond, 0.07)


def test_pairs_of_any_problem(tmp_path):
    problem = BurgersOperator(resolution=16, n_steps=20)
    data = benchmarks.pairs(problem, train=3, valid=2, test=1, seed=4, folder=tmp_path)
    assert data.valid is not None and data.test is not None
    assert [part.n for part in data] == [3, 2, 1]
    assert len(list(tmp_path.iterdir())) == 3
    other = benchmarks.pairs(problem, train=3, seed=5, folder=tmp_path)
    assert not np.allclose(other.train.inputs, data.train.inputs)


GRID = Grid(0.0, 1.0, 8, endpoint=False)
WRONG: Any = 3
BAD: list[tuple[Any, type, str]] = [
    (lambda: Trajectories("navier", ((1.0,),)), ValueError, "equation must be one of"),
    (lambda: Trajectories("heat", ((1.0, 2.0),)), ValueError, "parameters must be rows of"),
    (lambda: Trajectories("heat", ()), ValueError, "parameters must be rows of"),
    (lambda: benchmarks.heat(float("nan")), ValueError, "parameters must be finite"),
    (lambda: benchmarks.heat(resolution=0), ValueError, "resolution must be at least 1"),
    (lambda: benchmarks.heat(dt=-1.0), ValueError, "dt must be positive"),
    (lambda: benchmarks.heat(warmup=-1), ValueError, "warmup must be an integer >= 0"),
    (lambda: benchmarks.wave_box(oversample=2), ValueError, "oversample must be 1"),
    (lambda: benchmarks.pairs(SMALL["heat"], train=0), ValueError, "train: expected an integer"),
    (lambda: benchmarks.pairs(SMALL["heat"], train=1, test=-1), ValueError, "test: expected"),
    (lambda: benchmarks.pairs(SMALL["heat"], train=1, seed=-1), ValueError, "seed: expected"),
    (lambda: benchmarks.trajectories(WRONG, train=1), TypeError, "problem: expected Trajectories"),
    (
        lambda: benchmarks.trajectories(SMALL["heat"], train=1, unseen=WRONG),
        TypeError,
        "unseen: expected Trajectories",
    ),
    (lambda: WaveBox(WRONG, 0.1), TypeError, "grid must be a Grid"),
    (lambda: WaveBox(Grid(0.0, 1.0, 8), 0.1), ValueError, "grid must have midpoints"),
    (lambda: WaveBox(GRID, 0.0), ValueError, "dt must be positive"),
    (lambda: WaveBox(GRID, 0.1, walls=WRONG), ValueError, "walls must be"),
    (lambda: rollout(WaveBox(GRID, 0.1), jnp.ones((1, 8)), 1), ValueError, "u0 must have shape"),
    (lambda: TwoScaleLorenz96(0.0), ValueError, "dt must be positive"),
    (lambda: TwoScaleLorenz96(0.1, 0), ValueError, "n_fast must be at least 1"),
    (lambda: TwoScaleLorenz96(0.1, substeps=0), ValueError, "substeps must be at least 1"),
    (lambda: rollout(TwoScaleLorenz96(0.1), jnp.ones((2, 8)), 1), ValueError, "expected 11"),
    (lambda: ETDRK4(jnp.zeros(4), jnp.sin, 0.1, (8,)), ValueError, "linear must have shape"),
    (
        lambda: rollout(korteweg_de_vries_step(1.0, 8, 0.1), jnp.ones((1, 4)), 1),
        ValueError,
        "must have the grid",
    ),
    (lambda: korteweg_de_vries_step(1.0, 2, 0.1), ValueError, "n must be 4 or more"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_bad_windows(tmp_path):
    data = benchmarks.trajectories(SMALL["burgers"], train=1, folder=tmp_path).train
    with pytest.raises(ValueError, match="length=5 is more than the 4 frames"):
        data.windows(5)
    with pytest.raises(ValueError, match="stride must be at least 1"):
        data.windows(2, 0)
