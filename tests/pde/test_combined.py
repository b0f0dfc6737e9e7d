"""The combined equation: WENO5's weights and order, exponax, closed forms."""

import exponax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pde import CombinedEquation, Forcing
from jaxsci.pde.problems.combined import face_weights, godunov, weno5

SILENT = Forcing(*(jnp.zeros(1),) * 4)


def sine_averages(n, length=1.0):
    """Averages of sin(2πx/L) + ½ cos(4πx/L) over n cells, and the values at their right faces."""
    faces = np.arange(n + 1) * length / n
    k = 2 * np.pi / length
    primitive = -np.cos(k * faces) / k + 0.5 * np.sin(2 * k * faces) / (2 * k)
    return np.diff(primitive) * n / length, np.sin(k * faces[1:]) + 0.5 * np.cos(2 * k * faces[1:])


def test_weno_is_fifth_order_where_smooth_and_keeps_jumps(x64):
    errors = []
    for n in (40, 80):
        averages, values = sine_averages(n)
        errors.append(np.abs(weno5(jnp.asarray(averages)) - values).max())
    # 2⁵ = 32, less what the weights' own error adds.
    assert errors[0] / errors[1] > 24 and errors[1] < 3e-5
    # The linear weights (1, 6, 3)/10 give the classical fifth-order upwind formula.
    tiny = 1e-8 * jax.random.normal(jax.random.key(0), (20,))  # far below ε: weights are linear
    upwind = sum(
        c * jnp.roll(tiny, s) for c, s in zip((2, -13, 47, 27, -3), (2, 1, 0, -1, -2), strict=True)
    )
    np.testing.assert_allclose(weno5(tiny), upwind / 60, atol=1e-15)
    step = jnp.where(jnp.arange(40) < 20, 1.0, 0.0)
    assert float(weno5(step).max()) < 1 + 1e-4 and float(weno5(step).min()) > -1e-4


def test_godunovs_flux_is_that_of_the_riemann_problem():
    for left, right, flux in [
        (2.0, 1.0, 2.0),  # a shock to the right
        (1.0, -2.0, 2.0),  # a shock to the left
        (-1.0, 1.0, 0.0),  # a fan with the sonic point inside
        (1.0, 2.0, 0.5),  # a fan to the right
        (-2.0, -1.0, 0.5),  # a fan to the left
    ]:
        assert float(godunov(jnp.asarray(left), jnp.asarray(right))) == flux


def test_face_weights_are_the_known_ones():
    np.testing.assert_allclose(face_weights(0, 2) * 12, [-1, 7, 7, -1], atol=1e-12)
    np.testing.assert_allclose(face_weights(1, 2) * 12, [1, -15, 15, -1], atol=1e-12)
    np.testing.assert_allclose(face_weights(2, 2) * 2, [1, -1, -1, 1], atol=1e-12)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        face_weights(4, 2)


def test_convection_diffusion_dispersion_against_exponax(x64):
    """E3's equation without forcing, from smooth data; both in exact cell averages."""
    length, theta = 16.0, (1.5, 0.25, 0.6)

    def ours(n):
        problem = CombinedEquation(
            *theta, final_time=1.0, n_frames=2, resolution=n, solver_resolution=n, length=length
        )
        u0 = jnp.asarray(sine_averages(n, length)[0])
        return jax.jit(problem.solve)(u0, SILENT, jnp.asarray(theta))[-1]

    def peer(n, steps):
        # uₜ = −α/2 (u²)ₓ + β uₓₓ − γ uₓₓₓ on 2n points
        stepper = exponax.stepper.generic.GeneralConvectionStepper(
            1,
            length,
            2 * n,
            1 / steps,
            linear_coefficients=(0.0, 0.0, theta[1], -theta[2]),
            convection_scale=theta[0],
            conservative=True,
        )
        k_x = 2 * jnp.pi * jnp.arange(2 * n) / (2 * n)
        u = jnp.sin(k_x) + 0.5 * jnp.cos(2 * k_x)
        u = jax.jit(exponax.repeat(stepper, steps))(u[None])[0]
        # Its values to averages over [x_i, x_i + h): one factor for each wavenumber.
        h, k = length / n, np.fft.rfftfreq(2 * n, length / (2 * n)) * 2 * np.pi
        factor = np.where(k > 0, (np.exp(1j * k * h) - 1) / (1j * np.where(k > 0, k, 1) * h), 1)
        return np.fft.irfft(np.fft.rfft(u) * factor, 2 * n)[::2]

    errors = []
    for n in (96, 192):
        coarse, fine = peer(n, 2000), peer(n, 8000)
        extrapolated = fine + (fine - coarse) / 3  # first order in time for a dispersive term
        errors.append(np.abs(ours(n) - extrapolated).max())
    # Measured 5.8e-4 and 3.4e-5: fourth order. A wrong sign or factor of a term gives above 0.05.
    assert errors[1] < 6e-5 and errors[0] / errors[1] > 12


def test_forcing_alone_has_a_closed_form(x64):
    problem = CombinedEquation(
        0.0, 0.0, 0.0, final_time=2.0, n_frames=8, resolution=20, solver_resolution=20
    )
    forcing, _ = problem.sample(jax.random.key(3))
    frames = jax.jit(problem.solve)(jnp.zeros(20), forcing, jnp.zeros(3))
    t = np.linspace(0, 2, 9)[:, None, None]
    w, k, p = (np.asarray(v)[:, None] for v in forcing[1:])
    faces = np.arange(21) * 16.0 / 20
    # ∫ dt ∫ dx sin(ωt + κx + φ) = −(…)/(ωκ), differences of both ends over the cell's width
    kappa = 2 * np.pi * k / 16
    double = -np.sin(w * t + kappa * faces + p) + np.sin(kappa * faces + p)
    exact = np.einsum("j,tjx->tx", forcing.amplitude, double / (w * kappa))
    exact = np.diff(exact, axis=-1) / 0.8
    np.testing.assert_allclose(frames, exact, atol=1e-8)  # Runge-Kutta's fourth order


def test_a_shock_keeps_mass_and_creates_no_extremes(x64):
    problem = CombinedEquation(
        final_time=2.0, n_frames=4, resolution=50, solver_resolution=100, length=1.0
    )
    u0 = jnp.asarray(sine_averages(100)[0])
    frames = jax.jit(problem.solve)(u0, SILENT, jnp.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(frames.mean(1), u0.mean(), atol=1e-14)
    assert float(frames.max()) < float(u0.max()) + 1e-3
    coarse = problem.coarsen(frames)
    np.testing.assert_allclose(coarse[:, 0], (frames[:, 0] + frames[:, 1]) / 2, atol=1e-15)


def test_generate_draws_from_the_stated_laws():
    problem = CombinedEquation.e2(
        resolution=20, solver_resolution=40, n_frames=4, final_time=0.4, wavenumbers=2
    )
    data = problem.generate(jax.random.key(0), 3)
    assert data.frames.shape == (3, 5, 1, 20) and data.dt == pytest.approx(0.1)
    np.testing.assert_array_equal(data.cond[:, [0, 2]], [[1, 0]] * 3)
    assert (0 <= data.cond[:, 1]).all() and (data.cond[:, 1] <= 0.2).all()
    more = problem.generate(jax.random.key(0), 4)
    np.testing.assert_array_equal(more.frames[:3], data.frames)
    with jax.enable_x64(True):
        laws, _ = jax.device_get(jax.vmap(problem.sample)(jax.random.split(jax.random.key(1), 500)))
    assert set(np.unique(laws.wavenumber)) == {1, 2}
    assert 0.45 < laws.amplitude.max() <= 0.5 and -0.4 <= laws.frequency.min() < -0.36
    e3 = CombinedEquation.e3()
    assert (e3.alpha, e3.beta, e3.gamma, e3.final_time) == ((0, 6), (0.1, 0.4), (0, 1), 2)
    assert CombinedEquation.e1().final_time == 4


def test_the_solvers_own_error():
    problem = CombinedEquation.e2(resolution=25, n_frames=4, solver_resolution=100)
    errors = problem.accuracy(jax.random.key(2), 2)
    # β may be near 0 in a sample, where shocks are first order in L¹.
    assert errors["halved_dt_max"] < 1e-4 and errors["halved_dx_max"] < 0.02


def test_bad_input_is_named():
    for words, options in [
        ("alpha must", {"alpha": -1.0}),
        ("beta must", {"beta": (0.2, 0.1)}),
        ("multiple of resolution=30", {"resolution": 30}),
        ("n_frames", {"n_frames": 0}),
        ("final_time", {"final_time": 0.0}),
    ]:
        with pytest.raises(ValueError, match=words):
            CombinedEquation(**options)
    with pytest.raises(ValueError, match=r"expected \(200,\)"):
        CombinedEquation().solve(jnp.zeros(3), SILENT, jnp.zeros(3))
    slow, fast = (CombinedEquation.e2(n_frames=4, resolution=20, beta=b) for b in (0.1, 50.0))
    assert fast.steps_per_frame > 100 * slow.steps_per_frame  # a stable step
