"""Order, energy and phase space volume of the symplectic methods."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.dynamics import BlanesMoan4, BlanesMoan6, Leapfrog, Yoshida4, Yoshida6, Yoshida8

METHODS = [Leapfrog(), Yoshida4(), Yoshida6(), Yoshida8(), BlanesMoan4(), BlanesMoan6()]
methods = pytest.mark.parametrize("solver", METHODS, ids=lambda s: type(s).__name__)


def force(t, q, args):  # Kepler's problem
    return -q / jnp.sum(q**2) ** 1.5


def motion(t, p, args):
    return p


TERMS = (dfx.ODETerm(force), dfx.ODETerm(motion))


def start(eccentricity):
    q = jnp.array([1 - eccentricity, 0.0])
    return jnp.array([0.0, np.sqrt((1 + eccentricity) / (1 - eccentricity))]), q


def energy(p, q):
    return jnp.sum(p**2, -1) / 2 - 1 / jnp.sqrt(jnp.sum(q**2, -1))


@methods
def test_coefficients(solver):
    for row in (solver.kicks, solver.drifts):
        np.testing.assert_allclose(row.sum(), 1, atol=1e-13)
    np.testing.assert_allclose(
        solver.kicks, solver.kicks[::-1], atol=1e-15
    )  # symmetric: even order
    np.testing.assert_allclose(solver.drifts[:-1], solver.drifts[:-1][::-1], atol=1e-15)


@methods
def test_order_on_a_kepler_orbit(x64, solver):
    @jax.jit
    def error(dt0):
        sol = dfx.diffeqsolve(TERMS, solver, 0.0, 2 * np.pi, dt0, start(0.2), max_steps=None)
        return jnp.linalg.norm(sol.ys[1][0] - start(0.2)[1])  # the orbit closes after 2π

    # Few steps for high orders, so that errors stay above the coefficients' 15 digits.
    steps = {2: [100, 200], 4: [60, 120], 6: [40, 80], 8: [40, 60]}[solver.p]
    errors = [float(error(2 * np.pi / n)) for n in steps]
    found = np.log(errors[0] / errors[1]) / np.log(steps[1] / steps[0])
    assert abs(found - solver.p) < 0.6


@methods
def test_time_dependent_terms(x64, solver):
    # p' = −q + cos(3t), q' = p (1 + sin t /2): against Dopri8.
    terms = (
        dfx.ODETerm(lambda t, q, args: -q + jnp.cos(3 * t)),
        dfx.ODETerm(lambda t, p, args: p * (1 + jnp.sin(t) / 2)),
    )
    y0 = (jnp.array(0.2), jnp.array(1.0))
    joint = dfx.ODETerm(lambda t, y, args: (terms[0].vf(t, y[1], args), terms[1].vf(t, y[0], args)))
    tight = dfx.PIDController(rtol=1e-13, atol=1e-13)
    true = dfx.diffeqsolve(joint, dfx.Dopri8(), 0.0, 3.0, 0.01, y0, stepsize_controller=tight).ys

    @jax.jit
    def error(dt0):
        ys = dfx.diffeqsolve(terms, solver, 0.0, 3.0, dt0, y0, max_steps=None).ys
        return jnp.abs(ys[1][0] - true[1][0]) + jnp.abs(ys[0][0] - true[0][0])

    steps = {2: [60, 120], 4: [30, 60], 6: [20, 40], 8: [20, 30]}[solver.p]
    errors = [float(error(3.0 / n)) for n in steps]
    assert np.log(errors[0] / errors[1]) / np.log(steps[1] / steps[0]) > solver.p - 0.6


def test_energy_does_not_drift(x64):
    # 100 orbits of eccentricity 0.6, 600 evaluations of the force each.
    n, orbits = 100, 100
    pairs = dfx.ODETerm(lambda t, y, args: (force(t, y[1], args), motion(t, y[0], args)))

    @jax.jit
    def worst(first):
        """The largest energy error in each tenth of the time."""
        found = []
        for terms, solver in ((TERMS, BlanesMoan4()), (pairs, dfx.Tsit5())):
            saveat = dfx.SaveAt(steps=4)
            kwargs = dict(saveat=saveat, max_steps=n * orbits)
            step = 2 * np.pi / n
            sol = dfx.diffeqsolve(terms, solver, 0.0, n * orbits * step, step, first, **kwargs)
            error = jnp.abs(energy(*sol.ys) - energy(*first))
            found.append(jnp.max(error.reshape(10, -1), 1))
        return found

    symplectic, plain = worst(start(0.6))
    assert symplectic[-1] < 1.1 * symplectic[0]
    assert plain[-1] > 5 * plain[0]


def test_volume_and_dense_output(x64):
    def step(y):
        solver = BlanesMoan6()
        p, q = y[:2], y[2:]
        (p, q), *_ = solver.step(TERMS, 0.0, 0.3, (p, q), None, None, False)
        return jnp.concatenate([p, q])

    J = jax.jit(jax.jacfwd(step))(jnp.array([0.1, 1.1, 0.9, 0.2]))
    omega = np.block([[np.zeros((2, 2)), -np.eye(2)], [np.eye(2), np.zeros((2, 2))]])
    np.testing.assert_allclose(J.T @ omega @ J, omega, atol=1e-13)  # symplectic, to rounding
    ts = jnp.array([0.77, 2.3])
    sol = dfx.diffeqsolve(
        TERMS, BlanesMoan4(), 0.0, 3.0, 0.05, start(0.0), saveat=dfx.SaveAt(ts=ts)
    )
    # A circle; the cubic between steps of 0.05 is as good as 0.05⁴/384.
    np.testing.assert_allclose(sol.ys[1][:, 0], jnp.cos(ts), atol=1e-6)
    with pytest.raises(RuntimeError, match="error estimates"):
        dfx.diffeqsolve(
            TERMS,
            Yoshida4(),
            0.0,
            1.0,
            0.1,
            start(0.0),
            stepsize_controller=dfx.PIDController(rtol=1e-3, atol=1e-3),
        )
