"""HiPPO matrices against projections by quadrature, steps against scipy, and what is foretold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.signal
from numpy.polynomial import legendre

from jaxsci.dynamics import Prophecy, convolve_states, discretize, hippo, scan_states

DT = 1e-3
T = np.arange(0, 4, DT)
N = 13


def signal(t):
    return np.sin(2 * np.pi * t) + 0.5 * np.cos(3.4 * np.pi * t)


def derivative(t):
    return 2 * np.pi * np.cos(2 * np.pi * t) - 1.7 * np.pi * np.sin(3.4 * np.pi * t)


def rms(x):
    return float(np.sqrt(np.mean(np.asarray(x) ** 2)))


def projection(f, start, stop, n):
    """√(2n + 1) times the mean of f Pₙ over an interval, by Gauss's rule."""
    x, w = legendre.leggauss(60)
    values = f(start + (stop - start) * (x + 1) / 2) * w / 2
    return np.sqrt(2 * np.arange(n) + 1) * (legendre.legvander(x, n - 1).T @ values)


def test_states_are_projections_of_the_window(x64):
    theta = 0.8
    A, B, readout = hippo("legt", N, theta)
    for method in ("foh", "bilinear"):
        c = scan_states(discretize(A, B, DT, method), jnp.asarray(signal(T)))
        for i in (2500, 3999):
            exact = projection(signal, T[i] - theta, T[i], N)
            # 13 functions hold a period and a half to 1e-5; the samples' error is Δ² f''/12 = 5e-6.
            np.testing.assert_allclose(c[i], exact, atol=2e-5)
            np.testing.assert_allclose(c[i] @ readout, signal(T[i]), atol=1e-3)


def test_the_whole_past(x64):
    """LegS, c' = (A c + B f)/t, from the projection at t = 1, against the projection at t = 3."""
    A, B, _ = hippo("legs", N)
    start = projection(signal, 0.0, 1.0, N)
    sol = scipy.integrate.solve_ivp(
        lambda t, c: (A @ c + B * signal(t)) / t, (1.0, 3.0), start, "Radau", rtol=1e-8, atol=1e-10
    )
    # LegS is lower triangular: the first coefficients do not know of the cut.
    np.testing.assert_allclose(sol.y[:, -1], projection(signal, 0.0, 3.0, N), atol=1e-6)


@pytest.mark.parametrize("method", ["foh", "zoh", "bilinear", "s4"])
def test_steps_against_scipy(x64, method):
    A, B, readout = hippo("legt", N)
    f = signal(T[:300])
    ours = discretize(A, B, DT, method)
    cs = scan_states(ours, jnp.asarray(f))
    if method == "s4":  # scipy's bilinear is the two-sample rule in other coordinates
        both = discretize(A, B, DT, "bilinear")
        np.testing.assert_allclose(ours.B1, both.B0 + both.B1, rtol=1e-12)
        np.testing.assert_allclose(ours.A, both.A, rtol=1e-12)
    else:
        *system, _ = scipy.signal.cont2discrete((A, B[:, None], readout[None], [[0.0]]), DT, method)
        _, expected, _ = scipy.signal.dlsim((*system, DT), f)
        # From rest: the transforms of foh and bilinear count f₀ as a sample after zeros.
        free = scan_states(ours, jnp.zeros(300), ours.B1 * f[0]) if method != "zoh" else 0 * cs
        np.testing.assert_allclose((cs + free) @ readout, expected[:, 0], atol=1e-11)
    np.testing.assert_allclose(convolve_states(ours, jnp.asarray(f)), cs, atol=1e-11)


def test_derivatives_of_polynomials_and_convergence(x64):
    """The equation differentiates polynomials of degree < n exactly; the bilinear rule up to Δ²."""
    exact = Prophecy("legt", 5, 1.0, DT)
    cubic = lambda t: t**3 - 2 * t**2 + t  # noqa: E731
    found = exact.derivative(jnp.asarray(cubic(T)))
    # The bilinear rule of a cubic: its derivative to Δ²/4 f''' = 1.5e-6. The past is forgotten.
    np.testing.assert_allclose(found[3000:], (3 * T**2 - 4 * T + 1)[3000:], atol=1e-4)
    errors = {}
    for n in (9, 13):
        found = Prophecy("legt", n, 1.0, DT).derivative(jnp.asarray(signal(T)))
        errors[n] = rms((found - derivative(T))[3000:])
    assert errors[9] > 50 * errors[13]


def test_the_next_value_has_no_error_of_the_step(x64):
    f = jnp.asarray(signal(T))
    error = {}
    for method, implicit in (("bilinear", True), ("foh", True), ("s4", False)):
        found = Prophecy("legt", 25, 1.0, DT, method=method, implicit=implicit)(f)
        error[method] = rms((found[:-1] - f[1:])[3000:])
    assert error["bilinear"] < 1e-11  # rounding, times n²
    assert error["foh"] > 1e-7 and error["s4"] > 1e-6
    # f₊ − f = gᵀ(c₊ − c): the reconstruction's error stays as it is.
    model, readout = Prophecy("legt", 9, 1.0, DT), hippo("legt", 9)[2]
    following = model(f)
    c = model.states(f)
    d = model.discrete
    ahead = c @ d.A.T + f[:, None] * d.B0 + following[:, None] * d.B1
    np.testing.assert_allclose(following - f, (ahead - c) @ readout, atol=1e-12)


def test_fourier_windows_are_for_periodic_signals(x64):
    def error(n, dt, f, slope):
        t = np.arange(0, 12, dt)
        found = Prophecy("fout", n, 1.0, dt).derivative(jnp.asarray(f(t)))
        return np.max(np.abs(found - slope(t))[-int(1 / dt) :])

    wave = lambda t: np.cos(2 * np.pi * t) - 0.5 * np.sin(4 * np.pi * t)  # noqa: E731
    slope = lambda t: -2 * np.pi * (np.sin(2 * np.pi * t) + np.cos(4 * np.pi * t))  # noqa: E731
    # Only the bilinear rule's warped frequencies are between the two: second order.
    coarse, fine = error(5, 4e-3, wave, slope), error(5, 2e-3, wave, slope)
    assert fine < 3e-3 and abs(coarse / fine - 4) < 0.2
    # More functions do not help where the two ends of the window differ.
    assert error(5, 2e-3, signal, derivative) > 1 and error(17, 2e-3, signal, derivative) > 1


def test_maps_gradients_and_single_precision():
    model = Prophecy("legt", 13, 1.0, 1e-2)
    t = jnp.arange(0, 4, 1e-2)
    fs = jnp.stack([jnp.sin(t), jnp.cos(2 * t)])
    found = jax.jit(jax.vmap(model))(fs)
    # Rounding of 1e-7, times D Δ = n² Δ/θ = 1.7 and the memory of some steps.
    np.testing.assert_allclose(found[:, 200:-1], fs[:, 201:], atol=1e-4)
    influence = jax.grad(lambda f: model(f)[-1])(fs[0])
    assert np.isfinite(influence).all()


def test_what_is_refused():
    for build, message in [
        (lambda: hippo("fout", 4), "n = 4: expected an odd"),
        (lambda: hippo("legt", 0), "n = 0"),
        (lambda: hippo("legt", 3, -1.0), "theta = -1.0"),
        (lambda: hippo("chebt", 3), "measure = 'chebt'"),
        (lambda: Prophecy("legs", 3, 1.0, 0.1), "measure = 'legs'"),
        (lambda: Prophecy("legt", 17, 1.0, 0.01, method="s4", implicit=False), "less than 0.0069"),
        (lambda: discretize(*hippo("legt", 3)[:2], 0.0), "dt = 0.0"),
        (lambda: discretize(*hippo("legt", 3)[:2], 0.1, "euler"), "method = 'euler'"),
        (lambda: discretize(np.eye(2), np.ones(3), 0.1), "A, B: expected shapes"),
        (lambda: Prophecy("legt", 3, 1.0, 0.1)(jnp.ones(5)), "f: expected more than theta/dt = 10"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
