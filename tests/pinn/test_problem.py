"""Problems end to end: known solutions, inverse problems, Gauss-Newton, `fit`, bad input."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from jaxsci.autodiff import GaussNewton, derivatives
from jaxsci.optim import lazy_newton
from jaxsci.pde import Ball, Box, Interval, SpaceTime
from jaxsci.pde.benchmarks import pinnacle
from jaxsci.pinn import (
    R3,
    Constrained,
    Fixed,
    Problem,
    Solver,
    Term,
    WithParameters,
    dirichlet,
    solve,
)
from jaxsci.train import Checkpoints, OnlineSource, fit, train

GRID = np.linspace(0, np.pi, 50)[:, None]


def net(key, width=12, d=1):
    return eqx.nn.MLP(d, "scalar", width, 2, jnp.tanh, key=key)


def poisson(u, x):
    return derivatives(u, x, [(0, 0)])[0, 0] + jnp.sin(x[0])


def zero(x):
    return 0.0 * x[0]


def bump(x):
    return x[0] * (jnp.pi - x[0])


def hard_poisson(key):
    field = Constrained(net(key), zero, bump)
    term = Term("poisson", poisson, Interval(0.0, float(np.pi)), 40)
    return Problem(term, exact=lambda x: jnp.sin(x[0])), field


GAUSS_NEWTON = lazy_newton(m=1, M="adaptive", curvature=GaussNewton())


def test_gauss_newton_with_hard_boundaries(key, x64):
    problem, field = hard_poisson(key)
    seen = []
    solution = solve(
        eqx.tree_at(lambda p: p.terms[0].sampler, problem, Fixed()),
        field,
        GAUSS_NEWTON,
        steps=20,
        key=key,
        curvature=True,
        every=10,
        report=lambda step, values: seen.append((step, values["loss"])),
        evaluate=lambda u: {"error": problem.relative_error(u, GRID)},
    )
    assert [step for step, _ in seen] == [10, 20] == solution.history["step"].tolist()
    assert solution.history["error"][-1] < 3e-4
    assert float(solution.field(jnp.zeros(1))) == 0.0


def test_train_repeats_a_solver_s_step_and_resumes_it(key, tmp_path, x64):
    """The loop with bars and checkpoints does what `solve` does, also in two halves."""
    problem, field = hard_poisson(key)
    problem = eqx.tree_at(lambda p: p.terms[0].sampler, problem, R3())
    solver = Solver(problem, optax.adam(1e-2))
    expected = solve(problem, field, solver.optimizer, steps=8, key=key, every=4)
    steps = {
        "checkpoint": Checkpoints(folder=tmp_path, every=4, resume=True),
        "steps_per_dispatch": 4,
    }
    start = solver.init(field, key)
    train(solver.step, start, None, steps=4, **steps)
    result = train(solver.step, start, None, steps=8, **steps)
    for found, wanted in zip(
        jax.tree.leaves(eqx.filter(result.model, eqx.is_array)),
        jax.tree.leaves(eqx.filter(expected.field, eqx.is_array)),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)  # Two programs, rounding.
    assert result.history["step"].tolist() == list(range(1, 9))
    assert set(result.history) == {"step", "loss", "poisson"}


def test_adam_and_r3_with_soft_boundaries(key):
    """Heat equation with both kinds of terms; 1000 steps of Adam give some percent."""
    domain = SpaceTime(Interval(0.0, 1.0), 0.0, 0.2)

    def exact(x):
        return jnp.sin(jnp.pi * x[0]) * jnp.exp(-(jnp.pi**2) * x[1])

    def heat(u, x):
        d = derivatives(u, x, [(1,), (0, 0)])
        return d[1,] - d[0, 0]

    walls = dirichlet(domain, {0: zero, 1: zero, "initial": exact}, n=32, weight=20.0)
    problem = Problem(Term("heat", heat, domain, 64, sampler=R3()), *walls, exact=exact)
    solution = solve(
        problem,
        net(key, 16, 2),
        optax.adam(optax.cosine_decay_schedule(1e-2, 1000)),
        steps=1000,
        key=key,
        every=1000,
    )
    points = domain.sample(jax.random.key(5), 500)
    assert float(problem.relative_error(solution.field, points)) < 0.25
    assert set(solution.history) == {"step", "loss", "heat", "face 0", "face 1", "initial"}


def test_an_unknown_coefficient_is_found(key, x64):
    """ν u″ = −sin x with u given at some points: ν = 1/2 for u = 2 sin x."""

    def residual(u, x):
        return u.params["nu"] * derivatives(u, x, [(0, 0)])[0, 0] + jnp.sin(x[0])

    field = WithParameters(Constrained(net(key), zero, bump), {"nu": jnp.asarray(1.0)})
    data = jnp.linspace(0.3, 2.8, 8)[:, None]
    domain = Interval(0.0, float(np.pi))
    problem = Problem(
        Term("equation", residual, domain, 30, sampler=Fixed()),
        Term("data", lambda u, x: u(x) - 2 * jnp.sin(x[0]), domain, 8, sampler=Fixed(data)),
    )
    solution = solve(problem, field, GAUSS_NEWTON, steps=40, key=key, curvature=True, every=40)
    assert abs(float(solution.field.params["nu"]) - 0.5) < 1e-3


def test_loss_in_fit_and_solver_under_vmap(key):
    problem, field = hard_poisson(key)
    result = fit(
        field, problem.loss, optax.adam(1e-2), OnlineSource(problem.sample, 1), steps=100, key=key
    )
    assert float(problem.relative_error(result.model, GRID)) < 0.3
    solver = Solver(problem, optax.adam(1e-2))

    def run(key):
        params, rest = eqx.partition(net(key), eqx.is_array)
        state = solver.init(Constrained(eqx.combine(params, rest), zero, bump), key)
        dynamic, static = eqx.partition(state, eqx.is_array)

        def body(dynamic, _):
            state, metrics = solver.step(eqx.combine(dynamic, static))
            return eqx.filter(state, eqx.is_array), metrics["loss"]

        return jax.lax.scan(body, dynamic, length=100)[1]

    losses = jax.jit(jax.vmap(run))(jax.random.split(key, 2))
    assert losses.shape == (2, 100) and np.all(losses[:, -1] < 0.2 * losses[:, 0])
    value, parts = problem.loss(field, None, key)
    np.testing.assert_allclose(value, parts["poisson"])


def test_bad_input(key):
    domain = Box((0.0, 0.0), (1.0, 1.0))
    with pytest.raises(
        ValueError, match="2 of 3 points lie outside the domain; the first is point 1"
    ):
        points = jnp.array([[0.5, 0.5], [2.0, 0.0], [0.0, -1.0]])
        Term("t", poisson, domain, 3, sampler=Fixed(points))
    with pytest.raises(ValueError, match="n = 0"):
        Term("t", poisson, domain, 0)
    with pytest.raises(ValueError, match="is negative"):
        Term("t", poisson, domain, 1, -1.0)
    term = Term("t", poisson, domain)
    for terms in ((), (term, term)):
        with pytest.raises(ValueError, match="terms with different names"):
            Problem(*terms)
    with pytest.raises(ValueError, match="no exact solution"):
        Problem(term).relative_error(zero, GRID)
    with pytest.raises(ValueError, match=r"contradict each other at \(0.0, 0.0\)"):
        dirichlet(domain, {0: lambda x: x[1] + 1, 2: lambda x: x[0]})
    assert len(dirichlet(domain, {0: lambda x: x[1] + 1, 2: lambda x: x[0] + 1})) == 2
    with pytest.raises(ValueError, match="'initial' contradict"):
        dirichlet(SpaceTime(Interval(0, 1)), {0: lambda x: x[1] + 1, "initial": zero})
    with pytest.raises(ValueError, match="there is no face 4"):
        dirichlet(domain, {4: zero})
    with pytest.raises(TypeError, match="expected a Box"):
        dirichlet(Ball((0.0, 0.0)), {0: zero})  # type: ignore[arg-type]
    problem, field = hard_poisson(key)
    for bad in ({"steps": 0}, {"steps": 5, "every": 0}):
        with pytest.raises(ValueError, match="expected an integer >= 1"):
            solve(problem, field, optax.sgd(1.0), key=key, **bad)
    with pytest.raises(FloatingPointError, match="the loss is"):
        solve(problem, field, optax.sgd(1e30), steps=20, key=key)


def test_rows_of_the_jacobian_belong_to_the_residuals(key, x64):
    """Point by point or of the whole batch: the same derivatives, in the same order."""
    statement = pinnacle.wave_1d_c()
    problem = Problem.of(statement, n=5, boundary=3, weight=2.0, sampler=R3())
    assert [t.name for t in problem.terms] == ["equation", "initial", "at rest", "ends"]
    field, states = statement.plain(net(key, 3, 2)), problem.init(key)
    params, rest = eqx.partition(field, eqx.is_inexact_array)

    def residuals(params):
        return ravel_pytree(problem.weighted(eqx.combine(params, rest), states)[0])[0]

    expected = jax.jit(jax.jacfwd(residuals))(params)
    found = eqx.filter_jit(problem.jacobian)(field, states)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_a_statement_becomes_a_problem(key):
    statement = pinnacle.heat_nd(2)
    shaped = Problem.of(statement, n=7, boundary=4, shaped=True)
    assert [(t.name, t.n) for t in shaped.terms] == [("equation", 7), ("flux", 4)]
    with pytest.raises(ValueError, match="poisson_nd has no ansatz"):
        Problem.of(pinnacle.poisson_nd(2), shaped=True)
