"""Order, energy and phase space volume of the symplectic methods."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from scipy.integrate import solve_ivp

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


def march(solver, terms, t1, steps, y0):
    """Equal steps from 0: diffrax's loop, without what it compiles for everything else."""
    h, state = t1 / steps, solver.init(terms, 0.0, t1, y0, None)

    def step(k, carry):
        y, state = carry
        y, _, _, state, _ = solver.step(terms, k * h, (k + 1) * h, y, None, state, False)
        return y, state

    return jax.lax.fori_loop(0, steps, step, (y0, state))[0]


@pytest.fixture(scope="module")
def swing():
    """p(3), q(3) of p' = −q + cos(3t), q' = p (1 + sin t /2), by SciPy."""
    field = lambda t, y: [-y[1] + np.cos(3 * t), y[0] * (1 + np.sin(t) / 2)]  # noqa: E731
    return solve_ivp(field, (0, 3), [0.2, 1.0], "DOP853", rtol=1e-13, atol=1e-13).y[:, -1]


@methods
def test_time_dependent_terms(x64, swing, solver):
    terms = (
        dfx.ODETerm(lambda t, q, args: -q + jnp.cos(3 * t)),
        dfx.ODETerm(lambda t, p, args: p * (1 + jnp.sin(t) / 2)),
    )
    end = jax.jit(lambda n: march(solver, terms, 3.0, n, (jnp.array(0.2), jnp.array(1.0))))
    steps = {2: [60, 120], 4: [30, 60], 6: [20, 40], 8: [20, 30]}[solver.p]
    errors = [np.sum(np.abs(np.array(end(n)) - swing)) for n in steps]
    assert np.log(errors[0] / errors[1]) / np.log(steps[1] / steps[0]) > solver.p - 0.6


def test_energy_does_not_drift(x64):
    # 100 orbits of eccentricity 0.6, 600 evaluations of the force each.
    n, orbits = 100, 100
    pairs = dfx.ODETerm(lambda t, y, args: (force(t, y[1], args), motion(t, y[0], args)))

    @jax.jit
    def worst(first):
        """The largest energy error in each tenth of the time, looked at every 16th step."""
        found = []
        for terms, solver in ((TERMS, BlanesMoan4()), (pairs, dfx.Tsit5())):

            def some_steps(y, _, terms=terms, solver=solver):
                y = march(solver, terms, 2 * np.pi * 16 / n, 16, y)
                return y, jnp.abs(energy(*y) - energy(*first))

            errors = jax.lax.scan(some_steps, first, length=n * orbits // 16)[1]
            found.append(jnp.max(errors[:620].reshape(10, -1), 1))
        return found

    symplectic, plain = worst(start(0.6))
    assert symplectic[-1] < 1.1 * symplectic[0]
    assert plain[-1] > 5 * plain[0]


def test_a_step_keeps_volume(x64):
    def step(y):
        p, q = y[:2], y[2:]
        (p, q), *_ = BlanesMoan6().step(TERMS, 0.0, 0.3, (p, q), None, None, False)
        return jnp.concatenate([p, q])

    J = jax.jit(jax.jacfwd(step))(jnp.array([0.1, 1.1, 0.9, 0.2]))
    omega = np.block([[np.zeros((2, 2)), -np.eye(2)], [np.eye(2), np.zeros((2, 2))]])
    np.testing.assert_allclose(J.T @ omega @ J, omega, atol=1e-13)  # symplectic, to rounding


def test_dense_output_events_and_backwards(x64):
    def solve(t0, t1, dt0, y0, **kwargs):
        return dfx.diffeqsolve(TERMS, BlanesMoan4(), t0, t1, dt0, y0, **kwargs)

    # A circle; the cubic between steps of 0.05 is as good as 0.05⁴/384.
    @jax.jit
    def there_and_back(t0, t1, dt0, y0):
        places = t0 + (t1 - t0) * jnp.array([0.26, 0.77, 1.0])
        sol = solve(t0, t1, dt0, y0, saveat=dfx.SaveAt(ts=places), max_steps=64)
        return places, sol.ys

    ts, ys = there_and_back(0.0, 3.0, 0.05, start(0.0))
    np.testing.assert_allclose(ys[1][:, 0], jnp.cos(ts), atol=1e-6)
    # A symmetric method backwards undoes its steps, to rounding.
    _, back = there_and_back(3.0, 0.0, -0.05, jax.tree.map(lambda y: y[-1], ys))
    for found, expected in zip(back, start(0.0), strict=True):
        np.testing.assert_allclose(found[-1], expected, atol=1e-13)
    event = dfx.Event(lambda t, y, args, **kwargs: y[1][0], optx.Newton(1e-10, 1e-10))
    stopped = solve(0.0, 3.0, 0.05, start(0.0), event=event)
    assert stopped.result == dfx.RESULTS.event_occurred
    np.testing.assert_allclose(stopped.ts[0], np.pi / 2, atol=1e-6)
    with pytest.raises(RuntimeError, match="error estimates"):
        controller = dfx.PIDController(rtol=1e-3, atol=1e-3)
        solve(0.0, 1.0, 0.1, start(0.0), stepsize_controller=controller)
