"""Regularisers against closed forms for a linear field and diffrax's own error estimates."""

import dataclasses

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

from jaxsci.dynamics import (
    STEER,
    GlobalError,
    GlobalStiffness,
    InitialValueProblem,
    Kinetic,
    LocalError,
    NeuralODE,
    ReversibleAdjoint,
    TaylorReg,
    local_penalty,
    total_derivative,
)

MATRIX = np.array([[-0.4, 2.3], [-1.7, 0.1]])
Y0 = np.array([1.0, -0.5])
RTOL, ATOL = 1e-4, 1e-6


class Linear(eqx.Module):
    A: jax.Array

    def __call__(self, t, y, args):
        return self.A @ y


def problem(solver=dfx.Tsit5(), adjoint=dfx.RecursiveCheckpointAdjoint(), ts=None, **changes):
    whole = InitialValueProblem(
        dfx.ODETerm(Linear(jnp.asarray(MATRIX))),
        jnp.asarray(Y0),
        None,
        0.0,
        2.0,
        ts,
        None,
        solver,
        dfx.PIDController(rtol=RTOL, atol=ATOL),
        adjoint,
        256,
    )
    return dataclasses.replace(whole, **changes)


def penalty_by_hand(y, h, kind, A=MATRIX):
    """Stage algebra: with f = A y the stages are polynomials in h A."""
    tableau = dfx.Tsit5.tableau
    k, g = [A @ y], [y]
    for row in tableau.a_lower:
        g.append(y + h * sum(a * ki for a, ki in zip(row, k, strict=True)))
        k.append(A @ g[-1])
    if kind == "stiffness":
        return np.linalg.norm(k[-1] - k[-2]) / np.linalg.norm(g[-1] - g[-2])
    y1 = y + h * sum(b * ki for b, ki in zip(tableau.b_sol, k, strict=True))
    error = h * sum(b * ki for b, ki in zip(tableau.b_error, k, strict=True))
    scaled = error / (ATOL + RTOL * np.maximum(abs(y), abs(y1)))
    return h * np.sqrt(np.mean(scaled**2))


def first_step(y):
    """Hairer, Nørsett and Wanner, II.4, with diffrax's numbers."""
    scale = ATOL + RTOL * abs(y)
    norm = lambda v: np.sqrt(np.mean((v / scale) ** 2))  # noqa: E731
    f0 = MATRIX @ y
    h0 = 0.01 * norm(y) / norm(f0)
    d2 = norm(MATRIX @ (y + h0 * f0) - f0) / h0
    return min(100 * h0, (0.01 / max(norm(f0), d2)) ** (1 / 5))


def test_the_penalty_of_one_step(x64):
    y = scipy.linalg.expm(MATRIX * 0.7) @ Y0
    h = first_step(y)
    both = eqx.filter_jit(
        lambda p, t, y: [local_penalty(p, t, y, kind) for kind in ("error", "stiffness")]
    )
    whole = problem()
    # In the error estimate six digits cancel.
    for found, kind in zip(both(whole, 0.7, jnp.asarray(y)), ("error", "stiffness"), strict=True):
        np.testing.assert_allclose(found, penalty_by_hand(y, h, kind), rtol=1e-7)
    # At t1 − h/2 the step ends at t1; backwards in time the field has the other sign.
    late, _ = both(whole, 2.0 - h / 2, jnp.asarray(y))
    np.testing.assert_allclose(late, penalty_by_hand(y, h / 2, "error"), rtol=1e-6)
    back, _ = both(problem(t0=2.0, t1=0.0), 0.7, jnp.asarray(y))
    np.testing.assert_allclose(back, penalty_by_hand(y, h, "error", -MATRIX), rtol=1e-7)

    # The gradient: through the stages, neither through h nor through y.
    def value(A):
        return local_penalty(problem(term=dfx.ODETerm(Linear(A))), 0.7, jnp.asarray(y))

    gradient = jax.jit(jax.grad(value))(jnp.asarray(MATRIX))
    shift = np.array([[0.0, 1e-3], [0.0, 0.0]])  # rounding: 1e-9 of the value
    slope = np.subtract(*(penalty_by_hand(y, h, "error", MATRIX + s * shift) for s in (1, -1)))
    np.testing.assert_allclose(gradient[0, 1], slope / 2e-3, rtol=1e-4)


@pytest.mark.parametrize("adjoint", [dfx.RecursiveCheckpointAdjoint(), dfx.BacksolveAdjoint()])
def test_unbiased_sampling_in_a_closed_box(x64, key, adjoint):
    ts = jnp.array([0.5, 1.0, 1.8])
    whole = problem(adjoint=adjoint)

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def value(term, whole, key):
        out = LocalError().solve(dataclasses.replace(whole, term=term, ts=ts), key=key)
        return out.reg, out

    (reg, out), gradient = value(whole.term, whole, key)
    t = jr.uniform(key, minval=0.0, maxval=2.0)
    y = scipy.linalg.expm(MATRIX * t) @ Y0
    # y(t) is interpolated by the solver, to its tolerance.
    np.testing.assert_allclose(reg, penalty_by_hand(y, first_step(y), "error"), rtol=1e-2)
    one_step = jax.jit(
        jax.grad(lambda A: local_penalty(problem(term=dfx.ODETerm(Linear(A))), t, jnp.asarray(y)))
    )(jnp.asarray(MATRIX))
    np.testing.assert_allclose(gradient.vector_field.A, one_step, rtol=2e-2)
    plain, stats = eqx.filter_jit(InitialValueProblem.solve)(dataclasses.replace(whole, ts=ts))
    np.testing.assert_allclose(out.ys, plain, rtol=1e-12)
    assert out.stats["num_steps"] == stats["num_steps"]


def test_sampling_of_times(x64, key):
    whole = problem()

    @jax.jit
    def draw(key):
        keys = jr.split(key, 4000)
        unbiased = jax.vmap(lambda k: LocalError().solve(whole, key=k).reg)(keys[:400])
        biased = jax.vmap(lambda k: LocalError("biased").solve(whole, key=k).reg)(keys)
        return unbiased, biased

    unbiased, biased = draw(key)
    grid = np.linspace(0, 2, 401)[:-1] + 2 / 800
    density = []
    for t in grid:
        y = scipy.linalg.expm(MATRIX * t) @ Y0
        density.append(penalty_by_hand(y, min(first_step(y), 2 - t), "error"))
    error = np.std(density) / np.sqrt(400)
    assert abs(np.mean(unbiased) - np.mean(density)) < 4 * error
    steps = dfx.SaveAt(t0=True, steps=True)
    sol = whole.diffeqsolve(steps)
    count = int(sol.stats["num_accepted_steps"])
    at_steps = [
        penalty_by_hand(np.asarray(y), min(first_step(np.asarray(y)), 2 - float(t)), "error")
        for t, y in zip(sol.ts[:count], sol.ys[:count], strict=True)
    ]
    found, counts = np.unique(np.round(biased, 12), return_counts=True)
    np.testing.assert_allclose(found, np.sort(at_steps), rtol=1e-6)
    # Each step as often as the others, within five standard deviations.
    assert np.all(abs(counts - 4000 / count) < 5 * np.sqrt(4000 / count))


def test_global_sums_over_the_accepted_steps(x64, key):
    whole = problem()
    sol = whole.diffeqsolve(dfx.SaveAt(t0=True, steps=True))
    count = int(sol.stats["num_accepted_steps"])
    ts, ys = np.asarray(sol.ts[: count + 1]), np.asarray(sol.ys[: count + 1])
    for regulariser, kind in ((GlobalError(), "error"), (GlobalStiffness(), "stiffness")):
        out = eqx.filter_jit(regulariser.solve)(whole, key=key)
        steps = np.diff(ts)
        parts = [penalty_by_hand(y, h, kind) for y, h in zip(ys[:-1], steps, strict=True)]
        exact = np.sum(parts) if kind == "error" else np.sum(steps * parts)
        np.testing.assert_allclose(out.reg, exact, rtol=1e-8)
        np.testing.assert_allclose(out.ys, ys[-1], rtol=1e-12)
        assert out.stats["num_steps"] == sol.stats["num_steps"]


def test_quadratures_along_the_solution(x64, key):
    whole = problem(controller=dfx.PIDController(rtol=1e-8, atol=1e-10))

    def integral(order):
        power = np.linalg.matrix_power(MATRIX, order)
        square = lambda t: np.sum((power @ scipy.linalg.expm(MATRIX * t) @ Y0) ** 2)  # noqa: E731
        return scipy.integrate.quad(square, 0, 2)[0] / 2

    solve = eqx.filter_jit(lambda regulariser: regulariser.solve(whole, key=key))
    np.testing.assert_allclose(solve(Kinetic()).reg, integral(1), rtol=1e-7)
    taylor = solve(TaylorReg(3))
    np.testing.assert_allclose(taylor.reg, integral(3), rtol=1e-7)
    np.testing.assert_allclose(taylor.ys, scipy.linalg.expm(2 * MATRIX) @ Y0, rtol=1e-7)
    # y' = t y²: y'' = y² + 2 t² y³, y''' = 6 t y³ + 6 t³ y⁴.
    field = lambda t, y: {"a": t * y["a"] ** 2}  # noqa: E731
    t, y = 0.7, 1.3
    third = total_derivative(field, jnp.array(t), {"a": jnp.array([y])}, 3)
    np.testing.assert_allclose(third, [6 * t * y**3 + 6 * t**3 * y**4], rtol=1e-12)


def test_steer_and_models(x64, key):
    field = Linear(jnp.asarray(MATRIX))
    model = NeuralODE(field, t1=2.0, regulariser=STEER(0.5))
    t1 = 2.0 + jr.uniform(key, minval=-0.5, maxval=0.5)
    run = eqx.filter_jit(lambda model, key: model(jnp.asarray(Y0), key=key))
    out = run(model, key)
    np.testing.assert_allclose(out.ys, scipy.linalg.expm(MATRIX * t1) @ Y0, rtol=1e-2)
    predicted = run(model, None)
    np.testing.assert_allclose(predicted.ys, scipy.linalg.expm(MATRIX * 2) @ Y0, rtol=1e-2)
    assert out.reg == predicted.reg == 0


def test_diffrax_never_computes_a_first_step():
    """Its rule is for an `ODETerm`, but it has wrapped the term in another class by then."""
    for rate in (1e-4, 1.0, 10.0):
        sol = dfx.diffeqsolve(
            dfx.ODETerm(lambda t, y, rate: -rate * y),
            dfx.Tsit5(),
            0.0,
            1.0,
            None,
            jnp.ones(1),
            rate,
            stepsize_controller=dfx.PIDController(rtol=1e-3, atol=1e-6),
            saveat=dfx.SaveAt(steps=True),
        )
        np.testing.assert_allclose(sol.ts[0], 0.01, rtol=1e-5)


def test_what_is_refused(key):
    whole = problem()
    constant = dict(controller=dfx.ConstantStepSize(), dt0=0.1)
    for call, message in [
        (lambda: LocalError("random"), "sampling = 'random'"),
        (lambda: LocalError(kind="jacobian"), "kind = 'jacobian'"),
        (lambda: STEER(0.0), "b = 0.0"),
        (lambda: TaylorReg(0), "order = 0"),
        (lambda: LocalError().solve(whole, key=None), "LocalError: expected a key"),
        (lambda: STEER().solve(whole, key=None), "STEER: expected a key"),
        (lambda: STEER().solve(problem(ts=jnp.ones(1)), key=key), "ts: expected None"),
        (lambda: LocalError().solve(problem(dfx.Euler()), key=key), "error estimate, got Euler"),
        (lambda: LocalError().solve(problem(**constant), key=key), "got ConstantStepSize"),
        (
            lambda: local_penalty(problem(dfx.Kvaerno3()), 0.0, Y0, "stiffness"),
            "Runge-Kutta method, got Kvaerno3",
        ),
        (
            lambda: LocalError("biased").solve(problem(adjoint=dfx.BacksolveAdjoint()), key=key),
            "BacksolveAdjoint keeps no steps",
        ),
        (
            lambda: GlobalError().solve(problem(adjoint=dfx.BacksolveAdjoint()), key=key),
            "BacksolveAdjoint does not",
        ),
        (
            lambda: GlobalStiffness().solve(problem(adjoint=ReversibleAdjoint()), key=key),
            "ReversibleAdjoint does not",
        ),
        (lambda: GlobalError().solve(problem(ts=jnp.ones(1)), key=key), "ts: expected None"),
        (
            lambda: GlobalError().solve(problem(term=dfx.MultiTerm(whole.term)), key=key),
            "expected an ODETerm, got MultiTerm",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(Exception, match="b is not less than the span"):
        jax.block_until_ready(STEER(3.0).solve(whole, key=key).ys)
