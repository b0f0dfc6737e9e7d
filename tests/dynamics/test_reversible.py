"""The reversible wrapper and its gradient, against differentiating the same steps by diffrax."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest

from jaxsci.dynamics import Reversible, Rodas4, reversible_solve


def oscillator(t, y, args):
    x, v = y["x"], y["v"]
    return {"x": v, "v": -args["k"] * jnp.sin(x) - args["c"] * v + jnp.cos(t)}


Y0 = {"x": jnp.array([1.0, 0.3]), "v": jnp.array([0.0, -0.5])}
ARGS = {"k": jnp.array([1.0, 2.0]), "c": jnp.array(0.1)}


@pytest.fixture
def problem(x64):
    double = lambda tree: jax.tree.map(lambda x: x.astype(float), tree)  # noqa: E731
    return double(Y0), double(ARGS)


def loss(y):
    return jnp.sum(y["x"] ** 2) + jnp.sum(jnp.sin(y["v"]))


@pytest.mark.parametrize("solver", [dfx.Midpoint(), dfx.Tsit5()], ids=["Midpoint", "Tsit5"])
def test_gradient_is_that_of_the_steps(problem, solver):
    y0, args = problem
    term = dfx.ODETerm(oscillator)

    def reversible(y0, args):
        return loss(reversible_solve(term, solver, 0.0, 4.0, 0.02, y0, args, max_steps=256).y)

    def checkpointed(y0, args):
        sol = dfx.diffeqsolve(term, Reversible(solver), 0.0, 4.0, 0.02, y0, args, max_steps=256)
        return loss(jax.tree.map(lambda x: x[0], sol.ys))

    both = [
        jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(y0, args) for f in (reversible, checkpointed)
    ]
    # 200 steps: reconstruction multiplies rounding by 0.999⁻²⁰⁰ = 1.2.
    for a, b in zip(jax.tree.leaves(both[0]), jax.tree.leaves(both[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


def test_adaptive_steps_and_backsolve(problem):
    y0, args = problem
    term, controller = dfx.ODETerm(oscillator), dfx.PIDController(rtol=1e-6, atol=1e-6)
    common = dict(stepsize_controller=controller, max_steps=512)

    def reversible(args):
        return loss(reversible_solve(term, dfx.Tsit5(), 0.0, 6.0, 0.1, y0, args, **common).y)

    def with_adjoint(adjoint, solver, args):
        sol = dfx.diffeqsolve(term, solver, 0.0, 6.0, 0.1, y0, args, adjoint=adjoint, **common)
        return loss(jax.tree.map(lambda x: x[0], sol.ys))

    gradient = jax.jit(jax.grad(reversible))(args)
    exact = jax.jit(
        jax.grad(
            lambda a: with_adjoint(dfx.RecursiveCheckpointAdjoint(), Reversible(dfx.Tsit5()), a)
        )
    )(args)
    coarse = dict(stepsize_controller=dfx.PIDController(rtol=1e-3, atol=1e-6), max_steps=512)
    common = coarse
    continuous = jax.jit(jax.grad(lambda a: with_adjoint(dfx.BacksolveAdjoint(), dfx.Tsit5(), a)))(
        args
    )
    # The step sizes are taken as given here and differentiated there; they move by 1e-6.
    np.testing.assert_allclose(gradient["k"], exact["k"], rtol=1e-5)
    # The continuous adjoint has the error of its own solve.
    assert np.max(np.abs(continuous["k"] / exact["k"] - 1)) > 1e-4


def test_round_trip_and_order(x64):
    solver, term = Reversible(dfx.Midpoint()), dfx.ODETerm(lambda t, y, args: jnp.sin(t) - y**2)
    start = jnp.array([0.5]), jnp.array([0.5])
    h = 0.01

    def there(n, pair):
        return solver.forward(term, n * h, (n + 1) * h, *pair, None)[:2]

    def back(n, pair, steps):
        k = steps - 1 - n
        return solver.backward(term, k * h, (k + 1) * h, *pair, None)

    @jax.jit
    def round_trip(steps):
        end = jax.lax.fori_loop(0, steps, there, start)
        return jax.lax.fori_loop(0, steps, lambda n, p: back(n, p, steps), end)

    for steps, bound in ((50, 1e-13), (400, 1e-12)):  # grows as 0.999⁻ⁿ and with the steps
        np.testing.assert_allclose(round_trip(steps)[0], 0.5, atol=bound)

    growth = dfx.ODETerm(lambda t, y, args: jnp.cos(t) * y)  # y = exp(sin t)

    @jax.jit
    def end(dt0):
        return dfx.diffeqsolve(growth, solver, 0.0, 2.0, dt0, jnp.ones(1), max_steps=None).ys[0, 0]

    errors = [abs(float(end(2 / n)) - np.exp(np.sin(2))) for n in (50, 100, 200)]
    # Second order as the midpoint rule: errors fall by four.
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 4, rtol=0.15)


def test_memory_does_not_grow_with_the_steps():
    matrix = jr.normal(jr.key(1, impl="rbg"), (64, 64)) / 8
    term = dfx.ODETerm(lambda t, y, A: jnp.tanh(A @ y))
    y0 = jnp.ones((64, 256))

    def size(steps, reversible):
        def value(A):
            if reversible:
                sol = reversible_solve(
                    term, dfx.Midpoint(), 0.0, 1.0, 1 / steps, y0, A, max_steps=steps + 1
                )
                return jnp.sum(sol.y)
            return jnp.sum(
                dfx.diffeqsolve(
                    term,
                    dfx.Midpoint(),
                    0.0,
                    1.0,
                    1 / steps,
                    y0,
                    A,
                    max_steps=steps + 1,
                    adjoint=dfx.RecursiveCheckpointAdjoint(checkpoints=steps + 1),
                ).ys
            )

        compiled = jax.jit(jax.grad(value)).lower(matrix).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert size(400, True) < 1.1 * size(100, True)
    assert size(100, False) > 3 * size(100, True)  # what keeping the steps takes


def test_what_is_refused(x64):
    term = dfx.ODETerm(lambda t, y, args: -y)
    for build, message in [
        (lambda: Reversible(dfx.Kvaerno3()), "solver: expected an explicit one"),
        (lambda: Reversible(Rodas4()), "solver: expected an explicit one"),
        (lambda: Reversible(dfx.Euler(), 0.0), "l = 0.0"),
        (
            lambda: reversible_solve(term, Reversible(dfx.Euler()), 0, 1, 0.1, jnp.ones(1)),
            "not yet Reversible",
        ),
        (
            lambda: reversible_solve(
                dfx.ControlTerm(
                    lambda t, y, args: y, dfx.VirtualBrownianTree(0.0, 1.0, 0.1, (), jr.key(0))
                ),
                dfx.Euler(),
                0,
                1,
                0.1,
                jnp.ones(()),
            ),
            "without noise",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    result = reversible_solve(
        term, dfx.Euler(), 0.0, 1.0, 0.01, jnp.ones(1), max_steps=5, throw=False
    ).result
    assert result == dfx.RESULTS.max_steps_reached


def test_backwards_and_to_an_event(x64):
    """Of x'' = −x: cos t from t = 1 back to 0, its gradient, and its first root, π/2."""
    term = dfx.ODETerm(lambda t, y, args: args * jnp.stack([y[1], -y[0]]))
    start = jnp.stack([jnp.cos(1.0), -jnp.sin(1.0)])

    def back(args):
        return reversible_solve(term, dfx.Tsit5(), 1.0, 0.0, -0.02, start, args, max_steps=64).y[0]

    value, slope = jax.jit(jax.value_and_grad(back))(jnp.asarray(1.0))
    # Tsit5's error in 50 steps of 0.02. x(0) = cos(args − 1), so the slope is −sin 0.
    assert value == pytest.approx(1, abs=1e-9)
    assert slope == pytest.approx(0, abs=1e-9)
    event = dfx.Event(lambda t, y, args, **kwargs: y[0], optx.Newton(1e-9, 1e-9))
    found = dfx.diffeqsolve(
        term, Reversible(dfx.Tsit5()), 0.0, 3.0, 0.02, jnp.array([1.0, 0.0]), 1.0, event=event
    )
    # The interpolant of a reversible step is a straight line: 0.02²/8 of the curvature at most.
    assert found.ts[0] == pytest.approx(np.pi / 2, abs=1e-4)
    assert found.result == dfx.RESULTS.event_occurred


def test_a_gradient_alone_says_that_the_steps_ran_out(x64):
    """For y' = a y to t = 10 it is 10 exp(10 a); 16 steps do not get there."""
    term = dfx.ODETerm(lambda t, y, a: a * y)
    common = dict(t0=0.0, t1=10.0, dt0=0.01, y0=jnp.ones(1), max_steps=16)

    def theirs(a):
        return jnp.sum(dfx.diffeqsolve(term, dfx.Tsit5(), args=a, **common).ys)

    def ours(a):
        return jnp.sum(reversible_solve(term, dfx.Tsit5(), args=a, **common).y)

    a = jnp.asarray(-0.5)
    # The erratum: with the value the compiled program raises, without it there is a number.
    with pytest.raises(Exception, match=r"maximum number of solver steps|CpuCallback"):
        jax.block_until_ready(jax.jit(jax.value_and_grad(theirs))(a))
    assert abs(jax.jit(jax.grad(theirs))(a) / (10 * jnp.exp(10 * a)) - 1) > 0.1
    with pytest.raises(Exception, match=r"maximum number of solver steps|CpuCallback"):
        jax.block_until_ready(jax.jit(jax.grad(ours))(a))
