import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pde import NavierStokesVorticity, Problem

SMALL = NavierStokesVorticity(
    viscosity=5e-3, final_time=1.0, resolution=32, solver_resolution=32, steps_per_unit=40
)


def solution(problem, w0):
    with jax.enable_x64(True):
        return np.asarray(jax.jit(problem.solve)(jnp.asarray(w0)[None]))


def coordinates(n):
    x = np.arange(n) / n
    return x[:, None] + 0 * x, 0 * x[:, None] + x


def vortices(n, amplitude=4.0):
    """Six low modes, strong enough that convection governs the flow."""
    x, y = coordinates(n)
    w = np.zeros((n, n))
    for k, l, phase, size in ((1, 0, 0.3, 1), (0, 1, 1.0, 1), (1, 1, 2.0, 0.7), (2, -1, 0.5, 0.7),
                              (1, 2, 4.0, 0.5), (-3, 1, 5.0, 0.3)):  # fmt: skip
        w += size * np.cos(2 * np.pi * (k * x + l * y) + phase)
    return amplitude * w


def crank_nicolson(w0, viscosity, time, n_steps):
    """The papers' scheme: convection by explicit Euler, viscosity by Crank-Nicolson, in numpy."""
    n = w0.shape[0]
    k = np.fft.fftfreq(n) * n
    dx, dy = 2j * np.pi * k[:, None], 2j * np.pi * k
    laplacian = (dx**2 + dy**2).real
    inverse = -1 / np.where(laplacian == 0, -1, laplacian)
    mask = (abs(k[:, None]) <= n / 3) & (abs(k) <= n / 3)
    x, y = coordinates(n)
    force = 0.1 * (np.sin(2 * np.pi * (x + y)) + np.cos(2 * np.pi * (x + y)))
    f, w, dt = np.fft.fft2(force), np.fft.fft2(w0), time / n_steps

    def physical(hat):
        return np.fft.ifft2(hat).real

    for _ in range(n_steps):
        psi = inverse * w
        velocity = physical(dy * psi), physical(-dx * psi)
        gradient = physical(dx * w), physical(dy * w)
        convection = mask * np.fft.fft2(velocity[0] * gradient[0] + velocity[1] * gradient[1])
        half = 0.5 * dt * viscosity * laplacian
        w = ((1 + half) * w + dt * (f - convection)) / (1 - half)
    return physical(w)


def test_against_the_papers_scheme():
    """Decides the sign of the velocity, the scales, and the forcing; converges at its order one."""
    w0 = vortices(32)
    frame = solution(SMALL, w0)[0]
    coarse, fine = (crank_nicolson(w0, 5e-3, 1.0, n) for n in (500, 1000))
    norm = np.linalg.norm(frame)
    errors = [np.linalg.norm(frame - peer) / norm for peer in (coarse, fine)]
    assert abs(np.log2(errors[0] / errors[1]) - 1) < 0.1, errors
    # Extrapolated to dt = 0, up to its second-order term and the different treatment of the
    # modes above a third of the points, both of order 1e-4.
    assert np.linalg.norm(2 * fine - coarse - frame) / norm < 5e-4
    # Convection matters: the flow is far from where viscosity alone would have taken it.
    assert np.linalg.norm(frame - w0) / norm > 1


def test_taylor_green_vortices_decay_exactly():
    x, y = coordinates(32)
    w0 = np.cos(2 * np.pi * x) * np.cos(2 * np.pi * y)
    problem = dataclasses.replace(SMALL, forcing=0.0, final_time=2.0)
    frames = solution(problem, w0)
    exact = np.exp(-8 * np.pi**2 * 5e-3 * np.array([1, 2]))[:, None, None] * w0
    # The convection of an eigenfunction of the Laplacian vanishes: rounding over 80 steps.
    np.testing.assert_allclose(frames, exact, atol=1e-13)


def test_forced_shear_flow_is_exact():
    """For w along the forcing convection vanishes: A' = −8π²ν A + 0.1."""
    x, y = coordinates(32)
    shape = np.sin(2 * np.pi * (x + y)) + np.cos(2 * np.pi * (x + y))
    frames = solution(dataclasses.replace(SMALL, final_time=2.0), 0.7 * shape)
    rate = 8 * np.pi**2 * 5e-3
    for frame, time in zip(frames, (1, 2), strict=True):
        amplitude = 0.7 * np.exp(-rate * time) - 0.1 / rate * np.expm1(-rate * time)
        np.testing.assert_allclose(frame, amplitude * shape, atol=1e-13)


def test_temporal_order_is_four():
    w0 = vortices(32)
    reference = solution(dataclasses.replace(SMALL, steps_per_unit=320), w0)
    errors = [
        np.linalg.norm(solution(dataclasses.replace(SMALL, steps_per_unit=n), w0) - reference)
        for n in (20, 40, 80)
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert ((orders > 3.7) & (orders < 4.5)).all(), orders


def test_generate(key):
    problem = dataclasses.replace(SMALL, resolution=16, final_time=2.0)
    assert isinstance(problem, Problem)
    data = problem.generate(key, 3, dtype=np.float64)
    assert data.inputs.shape == (3, 1, 16, 16) and data.outputs.shape == (3, 2, 16, 16)
    assert data.grid == problem.grid and problem.solver_grid.shape == (32, 32)
    again = problem.generate(key, 1)
    assert again.outputs.dtype == np.float32
    np.testing.assert_allclose(again.outputs, data.outputs[:1], rtol=1e-5, atol=1e-6)
    # The recorded points are a sub-grid of the solver's.
    with jax.enable_x64(True):
        w0 = problem.law.sample(jax.random.fold_in(key, 1), problem.solver_grid)
    np.testing.assert_array_equal(data.inputs[1, 0], np.asarray(w0)[0, ::2, ::2])
    frames = solution(problem, np.asarray(w0)[0])
    np.testing.assert_allclose(data.outputs[1], frames[:, ::2, ::2], atol=1e-13)
    # No mean flow of vorticity appears: initial value, forcing and convection have none.
    assert abs(frames.mean((1, 2))).max() < 1e-15


def test_initial_vorticity_has_the_generators_variance():
    """Σ_{k≠0} 7³ (4π²|k|² + 49)^(−2.5), summed here over a lattice."""
    k = np.arange(-31, 32)
    squares = k[:, None] ** 2 + k**2
    lattice = 343 * (4 * np.pi**2 * squares + 49) ** -2.5
    problem = NavierStokesVorticity(solver_resolution=64)
    total = problem.law.eigenvalues(problem.solver_grid).sum()
    assert np.isclose(total, lattice[squares > 0].sum(), rtol=1e-12)


def test_accuracy(key):
    errors = dataclasses.replace(SMALL, variance_scale=3430.0).accuracy(key, 1)
    assert set(errors) == {
        "halved_dt_mean", "halved_dt_max", "halved_dx_mean", "halved_dx_max",
    }  # fmt: skip
    assert 0 < errors["halved_dt_max"] < 1e-5
    # The field's own modes up to 15 are more than 32 points carry under the 2/3 rule.
    assert 1e-8 < errors["halved_dx_max"] < 0.05


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"viscosity": 0.0}, ValueError, "viscosity"),
        ({"final_time": 2.5}, ValueError, "whole number"),
        ({"final_time": -1.0}, ValueError, "final_time"),
        ({"resolution": 48}, ValueError, "divide"),
        ({"resolution": 2}, ValueError, "at least 4"),
        ({"solver_resolution": 64.0}, TypeError, "solver_resolution"),
        ({"steps_per_unit": 0}, ValueError, "steps_per_unit"),
        ({"forcing": float("nan")}, ValueError, "forcing"),
        ({"forcing": "0.1"}, ValueError, "forcing"),
    ],
)
def test_bad_fields(fields, error, message):
    with pytest.raises(error, match=message):
        NavierStokesVorticity(**fields)


def test_bad_calls(key):
    with pytest.raises(ValueError, match="expected \\(1, 32, 32\\)"):
        SMALL.solve(jnp.zeros((32, 32)))
    with pytest.raises(ValueError, match="n must be at least 1"):
        SMALL.generate(key, 0)
    too_long = dataclasses.replace(SMALL, steps_per_unit=3, variance_scale=1e9, final_time=4.0)
    with pytest.raises(FloatingPointError, match="non-finite"):
        too_long.generate(key, 1)
