"""Windows of time: against a solution in closed form, what holds by construction, bad input."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.autodiff import derivatives
from jaxsci.pde import Interval, SpaceTime, benchmarks
from jaxsci.pde.benchmarks import pinnacle
from jaxsci.pde.benchmarks.pinnacle.series import PeriodicSeries, waves
from jaxsci.pinn import march

PERIOD = 2 * float(np.pi)


def drift(traces):
    """u_t + u_x = u_xx/10 + (1 + t) cos x, u = sin x at t = 0; counts its traces."""

    def equation(u, x):
        traces.append(1)
        d = derivatives(u, x, [(1,), (0,), (0, 0)])
        return d[1,] + d[0,] - d[0, 0] / 10 - (1 + x[1]) * jnp.cos(x[0])

    def form(net, start, since, length, x):
        s = since / length
        return start(x) + s * (net(s ** jnp.arange(6)) @ waves(x[0], 1, PERIOD))

    return benchmarks.FieldProblem(
        "drift",
        "this test",
        SpaceTime(Interval(0.0, PERIOD), 0.0, 2.0),
        ("u",),
        equation,
        (),
        lambda: benchmarks.Reference(np.zeros((1, 2)), np.zeros((1, 1))),
        evolution=benchmarks.Evolution(
            form, 6, 3, lambda x: jnp.sin(x[0]), lambda f: PeriodicSeries.through(f, 2, PERIOD)
        ),
    )


def exact(x, t):
    """With u = Im(c e^{ix}): c' = −(i + 1/10) c + i (1 + t), c(0) = 1."""
    rate = 0.1 + 1j
    # c = α + β t + γ e^{−rate t}
    beta = 1j / rate
    alpha = (1j - beta) / rate
    c = alpha + beta * t + (1 - alpha) * np.exp(-rate * t)
    return np.imag(c * np.exp(1j * x))


def make(key):
    """Three polynomials of time."""
    return eqx.nn.Linear(6, 3, use_bias=False, key=key)


def least_squares():
    """One Gauss-Newton step is exact for residuals that are linear in the weights."""

    def update(grads, state, params, *, jacobian_fn, **extra):
        (leaf,) = jax.tree.leaves(jacobian_fn(params))
        jacobian = leaf.reshape(leaf.shape[0], -1)
        (grad,) = jax.tree.leaves(grads)
        # The loss is the sum of squares: its gradient is 2 Jᵀr.
        step = -jnp.linalg.solve(jacobian.T @ jacobian, grad.ravel() / 2)
        return jax.tree.map(lambda g: step.reshape(g.shape), grads), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def test_windows_solve_an_equation_whose_source_depends_on_time(key, x64):
    traces, seen = [], []
    statement = drift(traces)
    field = march(
        statement,
        make,
        least_squares(),
        windows=3,
        steps=3,
        n=40,
        key=key,
        curvature=True,
        report=lambda i, loss: seen.append((i, loss, len(traces))),
    )
    assert [i for i, _, _ in seen] == [0, 1, 2]
    assert seen[0][2] == seen[2][2]  # the later windows are the first one's program
    x = np.stack(np.meshgrid(np.linspace(0, 6, 13), np.linspace(0, 2, 25), indexing="ij"), -1)
    points = jnp.asarray(x.reshape(-1, 2))
    values = jax.jit(jax.vmap(field))
    found = np.asarray(values(points))
    wanted = exact(*x.reshape(-1, 2).T)
    # Polynomials of degree six in a third of the time.
    assert max(loss for _, loss, _ in seen) < 1e-12
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    start = points.at[:, 1].set(0.0)
    np.testing.assert_allclose(values(start), np.sin(start[:, 0]), atol=1e-12)
    # Nothing jumps at an edge.
    edge = np.array([[1.0, 2 / 3 - 1e-9], [1.0, 2 / 3 + 1e-9]])
    before, after = values(jnp.asarray(edge))
    assert abs(before - after) < 1e-7


def test_a_series_goes_through_values_at_its_points(x64):
    def f(x):
        wave = jnp.sin(jnp.pi * (x[0] + 2 * x[1])) + 0.3
        return jnp.stack([wave, jnp.cos(jnp.pi * x[0]) * jnp.sin(2 * jnp.pi * x[1])])

    @jax.jit
    def both(x):
        return PeriodicSeries.through(f, 3, 2.0, dim=2)(x), f(x)

    found, wanted = both(jnp.array([0.123, 1.77]))
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("name", ["ks", "burgers_2d"])
def test_starts_are_the_problem_s_initial_values(name, key, x64):
    problem = getattr(pinnacle, name)()
    initial = next(c for c in problem.conditions if c.name == "initial")
    evolution = problem.evolution

    @jax.jit
    def residuals(key):
        start = evolution.restart(evolution.initial)

        def field(x):
            value = start(x[:-1])
            # Any network: at the first time it counts for nothing.
            net = evolution.form(lambda z: jnp.ones(evolution.outputs), start, x[-1], 1.0, x[:-1])
            return 0.5 * (value + net)

        return jax.vmap(lambda x: initial.residual(field, x))(initial.draw(key, 5))

    assert np.max(np.abs(residuals(key))) < 1e-10


def test_bad_input(key):
    with pytest.raises(ValueError, match="poisson_nd cannot be restarted"):
        march(pinnacle.poisson_nd(), make, optax.adam(1e-3), windows=2, steps=2, key=key)
    with pytest.raises(ValueError, match="windows = 0"):
        march(drift([]), make, optax.adam(1e-3), windows=0, steps=2, key=key)
    endless = dataclasses.replace(drift([]), equation=lambda u, x: u(x) / 0.0)
    with pytest.raises(FloatingPointError, match="loss of window 0"):
        march(endless, make, optax.sgd(1.0), windows=2, steps=1, n=4, key=key)
