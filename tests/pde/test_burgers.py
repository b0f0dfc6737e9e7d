import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from jaxsci.pde import BurgersOperator, Dataset, Problem


def cole_hopf(u0, antiderivative, viscosity, time, x, n=2048):
    """u(x, t) = ∫ (x−y)/t G φ₀ dy / ∫ G φ₀ dy with φ₀ = exp(−∫u₀/2ν) and the heat kernel G.

    Quadrature over three periods by the trapezoidal rule, which converges faster than any power
    here; a mean-free u₀ makes φ₀ periodic.
    """
    y = np.arange(-n, 2 * n) / n
    kernel = np.exp(-((x[:, None] - y) ** 2) / (4 * viscosity * time))
    phi = np.exp(-antiderivative(y) / (2 * viscosity))
    return (kernel * (x[:, None] - y) / time) @ phi / (kernel @ phi)


def smooth(x, xp=np):
    return xp.sin(2 * np.pi * x) + 0.5 * xp.cos(4 * np.pi * x + 1)


def smooth_integral(x):
    return -np.cos(2 * np.pi * x) / (2 * np.pi) + np.sin(4 * np.pi * x + 1) / (8 * np.pi)


def solution(problem):
    with jax.enable_x64(True):
        u0 = jnp.asarray(smooth(problem.grid.axis(0)))[None]
        return np.asarray(jax.jit(problem.solve)(u0))


def test_cole_hopf():
    problem = BurgersOperator(
        viscosity=0.02, final_time=0.25, resolution=256, n_steps=100, n_frames=2
    )
    frames = solution(problem)
    assert frames.shape == (2, 256)
    x = problem.grid.axis(0)
    for frame, time in zip(frames, (0.125, 0.25), strict=True):
        exact = cole_hopf(smooth, smooth_integral, 0.02, time, x)
        # dt = 2.5e-3 gives 3e-8 here (the next test shows the order); 256 points resolve more.
        np.testing.assert_allclose(frame, exact, atol=2e-7)
    assert abs(frames[1] - frames[0]).max() > 0.3


def test_temporal_order_is_four():
    problem = BurgersOperator(viscosity=0.02, final_time=0.25, resolution=256)
    exact = cole_hopf(smooth, smooth_integral, 0.02, 0.25, problem.grid.axis(0))
    errors = [
        abs(solution(dataclasses.replace(problem, n_steps=n))[0] - exact).max()
        for n in (10, 20, 40, 80)
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    # Fourth order, which an exponential integrator reaches from below on a stiff problem.
    assert ((orders > 3.5) & (orders < 4.6)).all(), orders


def test_against_radau_with_another_nonlinear_form():
    """The method of lines with u uₓ by numpy and scipy's implicit solver."""
    n, nu = 64, 0.05
    problem = BurgersOperator(viscosity=nu, final_time=0.2, resolution=n, n_steps=200)
    k = 2j * np.pi * np.arange(n // 2 + 1)

    def rhs(t, u):
        hat = np.fft.rfft(u)
        ux, uxx = np.fft.irfft(k * hat, n), np.fft.irfft(k**2 * hat, n)
        return nu * uxx - u * ux

    u0 = smooth(problem.grid.axis(0))
    peer = solve_ivp(rhs, (0, 0.2), u0, method="Radau", rtol=1e-9, atol=1e-11).y[:, -1]
    # Radau's own tolerance over some fifty steps.
    np.testing.assert_allclose(solution(problem)[0], peer, atol=1e-7)


def test_generate_is_in_double_precision_and_independent_of_chunks(key):
    problem = BurgersOperator(resolution=32, n_steps=20)
    data = problem.generate(key, 5)
    assert isinstance(data, Dataset) and isinstance(problem, Problem)
    assert data.inputs.shape == data.outputs.shape == (5, 1, 32)
    assert data.inputs.dtype == data.outputs.dtype == np.float32
    assert data.grid == problem.grid
    double = problem.generate(key, 3, dtype=np.float64)
    assert double.outputs.dtype == np.float64
    # The float32 set is the rounded float64 one, and the first samples do not depend on n.
    np.testing.assert_allclose(data.outputs[:3], double.outputs, rtol=1e-6, atol=1e-9)
    assert not jax.config.read("jax_enable_x64")
    with jax.enable_x64(True):
        u = jax.jit(problem.solve)(jnp.asarray(double.inputs[2]))
    np.testing.assert_allclose(u, double.outputs[2], atol=1e-13)


def test_progress_and_chunks(key, monkeypatch):
    from jaxsci.pde.problems import burgers

    problem = BurgersOperator(resolution=32, n_steps=20)
    whole = problem.generate(key, 5, dtype=np.float64)
    monkeypatch.setattr(burgers, "_POINTS_AT_ONCE", 64)
    calls = []
    parts = problem.generate(
        key, 5, dtype=np.float64, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(2, 5), (4, 5), (5, 5)]
    np.testing.assert_allclose(parts.outputs, whole.outputs, atol=1e-13)


def test_accuracy_of_a_small_setting(key):
    errors = BurgersOperator(resolution=128, n_steps=100).accuracy(key, 2)
    assert set(errors) == {
        "halved_dt_mean", "halved_dt_max", "halved_dx_mean", "halved_dx_max",
    }  # fmt: skip
    assert all(0 < value < 1e-5 for value in errors.values()), errors
    assert errors["halved_dt_mean"] <= errors["halved_dt_max"]


def test_gradient_with_respect_to_the_initial_value():
    problem = BurgersOperator(resolution=16, n_steps=10, final_time=0.1)
    with jax.enable_x64(True):
        u0 = jnp.asarray(smooth(problem.grid.axis(0)))[None]
        direction = jax.random.normal(jax.random.key(0), u0.shape)
        weight = jnp.asarray(np.cos(np.arange(16.0)))
        loss = jax.jit(lambda u: jnp.sum(weight * problem.solve(u)[0]))
        slope = jnp.sum(jax.grad(loss)(u0) * direction)
        step = 1e-5
        difference = (loss(u0 + step * direction) - loss(u0 - step * direction)) / (2 * step)
    # Central difference: h² + rounding/h = 1e-10.
    assert np.isclose(slope, difference, rtol=1e-7)


def test_mean_is_conserved_and_zero_mean_can_be_kept(key):
    problem = BurgersOperator(resolution=32, n_steps=20, zero_mean=False)
    data = problem.generate(key, 4, dtype=np.float64)
    means = data.inputs.mean(-1)
    assert abs(means).min() > 1e-3
    np.testing.assert_allclose(data.outputs.mean(-1), means, atol=1e-14)
    # Eigenvalue of the constant mode: 625 / 25² = 1.
    assert np.isclose(problem.law.eigenvalues(problem.grid).max(), 1.0)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"viscosity": 0.0}, ValueError),
        ({"viscosity": "0.1"}, TypeError),
        ({"final_time": -1.0}, ValueError),
        ({"resolution": 2}, ValueError),
        ({"resolution": 64.0}, TypeError),
        ({"n_steps": 0}, ValueError),
        ({"n_steps": 10, "n_frames": 3}, ValueError),
        ({"tau": float("nan")}, ValueError),
    ],
)
def test_bad_fields(fields, error):
    with pytest.raises(error, match=next(iter(fields)).replace("n_steps", "n_")):
        BurgersOperator(**fields)


def test_bad_calls(key):
    problem = BurgersOperator(resolution=32, n_steps=4)
    for bad in (0, -3):
        with pytest.raises(ValueError, match="n must be at least 1"):
            problem.generate(key, bad)
    with pytest.raises(TypeError, match="n must be an integer"):
        problem.generate(key, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="floating"):
        problem.generate(key, 2, dtype=np.int32)
    with pytest.raises(ValueError, match="expected \\(1, 32\\)"):
        problem.solve(jnp.zeros(32))
    unstable = BurgersOperator(resolution=64, n_steps=2, viscosity=1e-6, variance_scale=1e12)
    with pytest.raises(FloatingPointError, match="non-finite"):
        unstable.generate(key, 1)


def test_dataset_split_and_subsample(key):
    data = BurgersOperator(resolution=32, n_steps=4).generate(key, 3)
    train, test = data.split(2)
    assert (data.n, train.n, test.n) == (3, 2, 1)
    coarse = data.subsample(4)
    assert coarse.grid.shape == (8,) and coarse.inputs.shape == (3, 1, 8)
    np.testing.assert_array_equal(coarse.outputs, data.outputs[..., ::4])
    for bad in (0, 3):
        with pytest.raises(ValueError, match="n_first"):
            data.split(bad)
    with pytest.raises(ValueError, match="does not divide"):
        data.subsample(5)
