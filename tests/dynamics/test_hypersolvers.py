"""Hypersolvers against exact flows of linear systems and against diffrax's own steps."""

from pathlib import Path

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxsci.dynamics import (
    HyperSolver,
    MultistageHyperSolver,
    Reversible,
    residual_loss,
    step_residual,
)

A = np.array([[0.0, 1.0], [-2.0, -0.3]])
B = np.array([[0.0], [1.0]])
H = 0.2
JOINT = np.block([[A, B], [np.zeros((1, 3))]])  # (x, u)' with u held
FLOW = scipy.linalg.expm(JOINT * H)[:2]


def linear(t, y, u):
    return jnp.asarray(A) @ y + jnp.asarray(B) @ u


def taylor(order):
    """The residual matrix of (x, u): (exp − its Taylor polynomial)/h^(p+1), for p = 1, 2."""
    partial = np.eye(3) + H * JOINT + (H**2 / 2 * JOINT @ JOINT if order == 2 else 0)
    return (FLOW - partial[:2]) / H ** (order + 1)


class Linear(eqx.Module):
    matrix: jax.Array

    def __call__(self, h, t, y, dy, u):
        return self.matrix @ jnp.concatenate([y, u])


def nothing(h, t, y, dy, u):
    return jax.tree.map(jnp.zeros_like, y)


@pytest.mark.parametrize("base", [dfx.Euler(), dfx.Midpoint()], ids=["Euler", "Midpoint"])
def test_exact_residual_and_flow_of_a_linear_system(x64, base):
    p = base.order(None)
    exact, term = Linear(jnp.asarray(taylor(p))), dfx.ODETerm(linear)
    solver = HyperSolver(base, exact, H)
    y, u = jnp.array([0.7, -1.1]), jnp.array([0.4])
    # The midpoint rule is the Taylor polynomial for a linear field. Dopri8's own error is 1e-14.
    residual, g = jax.jit(lambda y, u: step_residual(solver, term, H, y, u))(y, u)
    np.testing.assert_allclose(residual, taylor(p) @ np.r_[y, u], rtol=1e-9)
    np.testing.assert_allclose(g, residual, rtol=1e-9)
    sol = dfx.diffeqsolve(term, solver, 0.0, 2.0, H, y, u)
    expected = scipy.linalg.expm(JOINT * 2.0)[:2] @ np.r_[y, u]
    np.testing.assert_allclose(sol.ys[0], expected, rtol=1e-12)
    # A residual that is off by δ costs δ h^(p+1) in a step.
    off = HyperSolver(base, lambda *a: exact(*a) + jnp.array([0.0, 0.01]))
    y1 = off.step(term, 0.0, H, y, u, None, True)[0]
    np.testing.assert_allclose(y1[1] - FLOW[1] @ np.r_[y, u], 0.01 * H ** (p + 1), rtol=1e-9)


def test_the_loss_is_least_at_the_exact_residual(x64):
    rng = np.random.default_rng(0)
    y, u = jnp.asarray(rng.normal(size=(64, 2))), jnp.asarray(rng.normal(size=(64, 1)))

    def loss(matrix):
        solver = HyperSolver(dfx.Euler(), Linear(matrix), H)
        return residual_loss(solver, dfx.ODETerm(linear), H, y, u)

    zero = jnp.zeros((2, 3))
    gradient, hessian = jax.jit(lambda m: (jax.grad(loss)(m), jax.hessian(loss)(m)))(zero)
    newton = -np.linalg.solve(hessian.reshape(6, 6), gradient.ravel()).reshape(2, 3)
    np.testing.assert_allclose(newton, taylor(1), atol=1e-9)  # a quadratic: one step
    assert loss(zero) > 0.1 and loss(newton) < 1e-18


@pytest.mark.parametrize(
    "base", [dfx.Euler(), dfx.Midpoint(), dfx.Bosh3()], ids=["Euler", "Midpoint", "Bosh3"]
)
def test_without_a_correction_it_is_the_base_bit_for_bit(base):
    term = dfx.ODETerm(lambda t, y, args: {"q": y["p"], "p": -jnp.sin(y["q"]) + jnp.cos(t)})
    y0 = {"q": jnp.array([1.0, 0.2]), "p": jnp.array([0.0, 0.5])}

    @jax.jit
    def both(y0):
        solve = lambda s: dfx.diffeqsolve(term, s, 0.0, 3.0, 0.1, y0).ys  # noqa: E731
        return solve(HyperSolver(base, nothing)), solve(base)

    for ours, theirs in zip(*map(jax.tree.leaves, both(y0)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_field_is_evaluated_once_and_shared(x64):
    traced = []

    def field(t, y, u):
        traced.append(1)
        return linear(t, y, u)

    seen = []
    net = lambda h, t, y, dy, u: seen.append(dy) or jnp.zeros_like(y)  # noqa: E731
    y, u = jnp.ones(2), jnp.ones(1)
    HyperSolver(dfx.Euler(), net).step(dfx.ODETerm(field), 0.0, H, y, u, None, True)
    assert len(traced) == 1
    HyperSolver(dfx.Midpoint(), net).step(dfx.ODETerm(linear), 0.0, H, y, u, None, True)
    for dy in seen:
        np.testing.assert_allclose(dy, linear(0.0, y, u), rtol=1e-6)


def test_dynamics_that_are_known_in_part(x64):
    """The friction −0.3 v is not in the field; inner and outer corrections bring the exact flow."""
    known = dfx.ODETerm(lambda t, y, u: linear(t, y, u) + jnp.array([0.0, 0.3 * y[1]]))
    true = dfx.ODETerm(linear)
    inner = lambda t, y, dy, u: jnp.array([0.0, -0.3 * y[1]])  # noqa: E731
    y, u = jnp.array([0.7, -1.1]), jnp.array([0.4])
    both = MultistageHyperSolver(dfx.Euler(), inner, Linear(jnp.asarray(taylor(1))))
    y1 = both.step(known, 0.0, H, y, u, None, True)[0]
    np.testing.assert_allclose(y1, FLOW @ np.r_[y, u], rtol=1e-12)
    residual, g = step_residual(both, known, H, y, u, truth=true)
    np.testing.assert_allclose(residual, g, rtol=1e-9)
    np.testing.assert_allclose(both.func(known, 0.0, y, u), linear(0.0, y, u), rtol=1e-14)
    # Without the inner correction the residual against the truth holds h × what is missing.
    plain, _ = step_residual(HyperSolver(dfx.Euler(), nothing), known, H, y, u, truth=true)
    np.testing.assert_allclose(plain[1] - residual[1], -0.3 * y[1] / H, rtol=1e-9)


def test_residuals_keep_their_digits_in_single_precision():
    """Far from 0, where the difference of two states of size 1000 would lose five digits."""
    far = jnp.array([1000.0, 0.3])
    swing = dfx.ODETerm(lambda t, y, args: jnp.stack([y[1], -jnp.sin(y[0])]))
    net = HyperSolver(dfx.Euler(), nothing)
    found = jax.jit(lambda y: step_residual(net, swing, 0.01, y)[0])(far)
    with jax.enable_x64(True):
        exact = step_residual(net, swing, 0.01, jnp.asarray(np.asarray(far), float))[0]
    # sin(1000) alone has an error of 6e-5 for an angle rounded to single precision; the steps'
    # own rounding is 1e-7 h/h² = 1e-5. From the states: 6e-5/h² = 0.6.
    np.testing.assert_allclose(found, exact, atol=1e-2)


def test_what_is_refused():
    for base in (dfx.Kvaerno3(), Reversible(dfx.Euler())):
        with pytest.raises(ValueError, match="base: expected diffrax"):
            HyperSolver(base, nothing)
    term, y = dfx.ODETerm(lambda t, y, args: -y), jnp.ones(2)
    with pytest.raises(ValueError, match=r"hypernet: expected a result of shape \(2,\)"):
        dfx.diffeqsolve(term, HyperSolver(dfx.Euler(), lambda *a: jnp.ones(3)), 0, 1, 0.1, y)
    solver = HyperSolver(dfx.Euler(), nothing, 0.1)
    dfx.diffeqsolve(term, solver, 0.0, 1.0, 0.1, y)  # the last step is 0.1 up to rounding
    with pytest.raises(RuntimeError, match=r"trained with steps of 0\.1"):
        dfx.diffeqsolve(term, solver, 0.0, 1.0, 0.2, y)
    with pytest.raises(RuntimeError, match="error estimates"):
        controller = dfx.PIDController(rtol=1e-3, atol=1e-3)
        dfx.diffeqsolve(term, solver, 0.0, 1.0, 0.1, y, stepsize_controller=controller)
    with pytest.raises(ValueError, match="steps = 0"):
        step_residual(solver, term, 0.1, y, steps=0)


@pytest.mark.parametrize("base", [dfx.Euler(), dfx.Midpoint()], ids=["Euler", "Midpoint"])
def test_steps_of_torchdyn(x64, base):
    """Recorded by tests/oracles/record_torchdyn.py: a network of fixed weights on a pendulum."""
    record = np.load(Path(__file__).parents[1] / "oracles" / "data" / "torchdyn.npz")
    W, b, V = (jnp.asarray(record[f"weights/{name}"]) for name in "WbV")
    name = type(base).__name__
    path, plain = record[f"{name}/corrected"], record[f"{name}/plain"]

    def field(t, x, args):
        return jnp.stack([x[1], -9.81 * jnp.sin(x[0]) - 0.1 * t * x[1]])

    def hypernet(h, t, x, dx, args):
        return V @ jnp.tanh(W @ jnp.append(t, x) + b)

    @jax.jit
    @jax.vmap
    def solve(x0):
        saveat = dfx.SaveAt(t0=True, steps=True)
        term, solver = dfx.ODETerm(field), HyperSolver(base, hypernet, H)
        return dfx.diffeqsolve(term, solver, 0.0, 2.0, H, x0, saveat=saveat, max_steps=10).ys

    found = solve(jnp.asarray(record["start"]))
    # Rounding of ten steps, in which states grow apart by less than a thousandfold.
    np.testing.assert_allclose(found, np.moveaxis(path, 0, 1), rtol=1e-11, atol=1e-11)
    assert np.abs(path - plain).max() > 0.1
