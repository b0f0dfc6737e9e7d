"""Sampled control of linear systems, against scipy and Riccati's equation."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.signal

from jaxsci.dynamics import IntegralCost, closed_loop, hold, mpc

A = np.array([[0.0, 1.0], [1.0, -0.2]])  # unstable
B = np.array([[0.0], [1.0]])
H = 0.25
AD, BD, *_ = scipy.signal.cont2discrete((A, B, np.eye(2), np.zeros((2, 1))), H)
GAIN = np.array([[2.5, 1.5]])


def field(t, x, u):
    return jnp.asarray(A) @ x + jnp.asarray(B) @ u


def test_a_held_control_is_that_of_scipy(x64):
    x0 = jnp.array([1.0, -0.5])

    @jax.jit
    def loop(gain, x0):
        return closed_loop(
            field, lambda t, x: -gain @ x, dfx.Dopri8(), x0, h=H, steps=12, substeps=2
        )

    path = loop(GAIN, x0)
    expected = [np.asarray(x0)]
    for _ in range(12):
        expected.append((AD - BD @ GAIN) @ expected[-1])
    # Two steps of 0.125 with a method of order 8.
    np.testing.assert_allclose(path.xs, expected, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(path.us, -np.array(expected[:-1]) @ GAIN.T, atol=1e-11)
    np.testing.assert_allclose(path.ts, H * np.arange(13))
    assert path.us.shape == (12, 1)
    slope = jax.jacrev(lambda g: loop(g, x0).xs[-1])(GAIN)[:, 0, 0]
    e = 1e-6
    numeric = (loop(GAIN + np.array([[e, 0]]), x0).xs[-1] - loop(GAIN, x0).xs[-1]) / e
    np.testing.assert_allclose(slope, numeric, rtol=1e-4)


def test_substeps_converge_with_the_order(x64):
    x, u = jnp.array([1.0, -0.5]), jnp.array([0.3])
    exact = AD @ x + BD @ u
    steps = [4, 8]
    errors = [
        float(jnp.linalg.norm(hold(field, dfx.Midpoint(), 0.0, x, u, H, n) - exact)) for n in steps
    ]
    assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.1


def test_a_receding_horizon_is_riccatis_gain(x64):
    """Quadratic cost of the horizon: the first control of the plan is −K x, K by recursion."""
    horizon, r = 6, 0.1
    # P |x_n|² + Q mean |x|² + R mean |u|², as sums over the horizon.
    P = np.eye(2) * (1.0 + 1.0 / horizon)
    for _ in range(horizon):
        K = np.linalg.solve(r / horizon * np.eye(1) + BD.T @ P @ BD, BD.T @ P @ AD)
        P = AD.T @ P @ (AD - BD @ K) + np.eye(2) / horizon  # the state that the next step starts at
    cost = IntegralCost(P=1.0, Q=1.0, R=r, power=2)
    plant = lambda t, x, u: hold(field, dfx.Dopri8(), t, x, u, H)  # noqa: E731
    x0 = jnp.array([1.0, -0.5])
    path = jax.jit(
        lambda x0: mpc(
            field,
            cost,
            dfx.Dopri8(),
            plant,
            x0,
            jnp.zeros((horizon, 1)),
            h=H,
            steps=4,
            optimizer=optax.sgd(0.4, momentum=0.9),
            iterations=400,
        )
    )(x0)
    np.testing.assert_allclose(path.us[0], -K @ path.xs[0], rtol=1e-6)
    np.testing.assert_allclose(path.us, -path.xs[:-1] @ K.T, rtol=1e-4)
    np.testing.assert_allclose(path.xs[1:], path.xs[:-1] @ (AD - BD @ K).T, rtol=1e-4)


def test_costs():
    xs, us = jnp.array([[9.0, 9.0], [3.0, 4.0], [0.0, 0.0]]), jnp.array([[2.0], [-4.0]])
    assert IntegralCost(P=1.0, Q=2.0, R=3.0)(xs, us) == 0 + 2 * 2.5 + 3 * 3
    assert IntegralCost(jnp.array([0.0, 1.0]), power=2)(xs, us) == 1 + (18 + 1) / 2
    gradient = jax.grad(lambda x: IntegralCost()(x, us))(xs)
    assert np.isfinite(gradient).all() and np.all(gradient[2] == 0)  # at the target


def test_what_is_refused():
    x, stay = jnp.zeros(2), lambda t, x: jnp.zeros(1)
    with pytest.raises(ValueError, match="steps = 0"):
        closed_loop(field, stay, dfx.Euler(), x, h=H, steps=0)
    with pytest.raises(ValueError, match="substeps = 0"):
        hold(field, dfx.Euler(), 0.0, x, jnp.zeros(1), H, 0)
    with pytest.raises(ValueError, match=r"R = -1"):
        IntegralCost(R=-1)
    with pytest.raises(ValueError, match="power = 3"):
        IntegralCost(power=3)
    with pytest.raises(ValueError, match="iterations = 0"):
        mpc(field, IntegralCost(), dfx.Euler(), lambda t, x, u: x, x, jnp.zeros((3, 1)), h=H,
            steps=1, optimizer=optax.sgd(0.1), iterations=0)  # fmt: skip
