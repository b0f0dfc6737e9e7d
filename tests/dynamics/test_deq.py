"""Equilibrium models against linear algebra, unrolled iteration and the ODE that settles there."""

import dataclasses

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest

from jaxsci.dynamics import DEQ, NeuralODE

RNG = np.random.default_rng(2)
N, M = 5, 3
A = RNG.normal(size=(N, N))
A *= 0.7 / np.linalg.norm(A, 2)  # a contraction
B, C = RNG.normal(size=(N, M)), RNG.normal(size=N)
X = RNG.normal(size=M)


class Layer(eqx.Module):
    """z ↦ σ(A z + B x + c)."""

    A: jax.Array
    B: jax.Array
    c: jax.Array
    activation: object = jnp.tanh

    def __call__(self, z, x):
        return self.activation(self.A @ z + self.B @ x + self.c)


def layer(activation):
    return Layer(*map(jnp.asarray, (A, B, C)), activation)


TIGHT = optx.FixedPointIteration(rtol=1e-12, atol=1e-12)


def test_a_linear_layer_is_a_linear_system(x64):
    """z* = (I − A)⁻¹ (B x + c), and with L = |z*|²: w = (I − A)⁻ᵀ 2z*, Ā = w z*ᵀ, x̄ = Bᵀ w."""

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def value(pair):
        model, x = pair
        out = model(x)
        return jnp.sum(out.ys**2), out

    z = np.linalg.solve(np.eye(N) - A, B @ X + C)
    w = np.linalg.solve(np.eye(N) - A.T, 2 * z)
    for model in (
        DEQ(layer(lambda z: z), jnp.zeros(N), solver=TIGHT),
        DEQ(
            layer(lambda z: z), jnp.ones(N), solver=optx.Newton(1e-10, 1e-10),
            linear_solver=lx.GMRES(1e-13, 1e-13),
        ),
    ):  # fmt: skip
        (_, out), (gradient, by_x) = value((model, jnp.asarray(X)))
        # The iteration stops at changes of 1e-12, within 1e-12 · 0.7/0.3 of the end.
        np.testing.assert_allclose(out.ys, z, rtol=1e-10)
        np.testing.assert_allclose(gradient.field.A, np.outer(w, z), rtol=1e-9)
        np.testing.assert_allclose(by_x, B.T @ w, rtol=1e-9)
        assert np.all(gradient.start == 0)
        # Newton's method is exact for a linear layer.
        assert out.stats["num_steps"] < (5 if isinstance(model.solver, optx.Newton) else 100)


def test_gradient_is_that_of_the_iteration(x64):
    """Differentiated through 120 applications of the layer, of which 0.7¹²⁰ = 3e-19 is left."""
    model = DEQ(layer(jnp.tanh), jnp.zeros(N), solver=TIGHT, readout=lambda z: jnp.sum(z**3))

    def unrolled(model, x):
        z = jax.lax.fori_loop(0, 120, lambda _, z: model.field(z, x), model.start)
        return model.readout(z)

    x = jnp.asarray(X)
    both = eqx.filter_jit(
        lambda m: [eqx.filter_value_and_grad(f)(m, x) for f in (lambda m, x: m(x).ys, unrolled)]
    )(model)
    for a, b in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_it_is_where_the_ode_settles(x64):
    """dz/dt = f(z, x) − z, contracting at a rate of at least 0.3: e⁻¹² = 6e-6 after t = 40."""
    field, x = layer(jnp.tanh), jnp.asarray(X)
    ode = NeuralODE(
        lambda t, z, x: field(z, x) - z, t1=40.0, controller=dfx.PIDController(1e-6, 1e-8)
    )
    model = DEQ(field, jnp.zeros(N), solver=TIGHT)
    there, found = jax.jit(lambda x: (ode(jnp.zeros(N), x).ys, jax.vmap(model)(x[None]).ys[0]))(x)
    np.testing.assert_allclose(found, there, atol=1e-5)


def test_what_is_refused():
    good = DEQ(layer(jnp.tanh), jnp.zeros(N))
    for build, message in [
        (lambda: dataclasses.replace(good, max_steps=0), "max_steps = 0"),
        (lambda: dataclasses.replace(good, solver=optx.BFGS(1e-3, 1e-3)), "fixed point solver or"),
        (lambda: DEQ(lambda z, x: z[:2], jnp.zeros(N))(X), "field: expected a result like z"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    runaway = DEQ(lambda z, x: 2 * z + x, jnp.ones(1), max_steps=20)
    with pytest.raises(Exception, match="maximum number of steps"):
        jax.block_until_ready(runaway(1.0).ys)
