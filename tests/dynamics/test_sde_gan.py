"""Neural SDEs against exact laws, and the parts of their training."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.dynamics import SDEGAN, NeuralCDE, NeuralSDE, clip_linear, lipswish


def test_lipschitz_constants(key):
    mlp = eqx.nn.MLP(4, 3, 32, 2, lipswish, key=key)

    @eqx.filter_jit
    def everything(mlp):
        slopes = jax.vmap(jax.grad(lipswish))(jnp.linspace(-8, 8, 4001))
        wild = jax.tree.map(lambda a: 10 * a if eqx.is_array(a) else a, mlp)
        tame = clip_linear(wild)
        points, moves = jr.normal(key, (2, 256, 4))
        size = 1e-2 * jnp.max(jnp.abs(moves), 1)

        def ratio(mlp):
            change = jax.vmap(mlp)(points + 1e-2 * moves) - jax.vmap(mlp)(points)
            return jnp.max(jnp.max(jnp.abs(change), 1) / size)

        same = jnp.array_equal(tame.layers[0].bias, wild.layers[0].bias)
        # The bound is reached, layer by layer: row sums of |W| are at most n/n.
        sums = [jnp.max(jnp.sum(jnp.abs(layer.weight), 1)) for layer in tame.layers]
        return jnp.max(slopes), jnp.min(slopes), ratio(tame), ratio(wild), same, jnp.stack(sums)

    top, low, tame, wild, biases_are_free, sums = everything(mlp)
    assert jnp.all((sums > 0.5) & (sums < 1 + 1e-6))
    assert 0.999 < top <= 1 and low > -0.1 and biases_are_free
    assert tame < 1 + 1e-4 < wild  # rounding of differences of 1e-2


def test_the_law_is_that_of_stratonovich():
    """Of dx = √(1 + x²) (a dt + b ∘ dW): asinh x(t) ~ N(a t, b² t).

    In the sense of Itô asinh x would be pulled to 0, to a mean of 0.54 and a variance of 0.55 at
    the end.
    """
    a, b = 0.5, 0.8
    model = NeuralSDE(
        lambda v: jnp.sinh(0.1 * v),
        lambda t, x: a * jnp.sqrt(1 + x**2),
        lambda t, x: b * jnp.sqrt(1 + x**2)[:, None],
        jnp.arcsinh,
        initial_noise=1,
        noise=1,
        dt0=0.05,
    )
    ts = jnp.array([0.5, 1.0, 2.0])
    n = 1024
    paths = jax.jit(jax.vmap(lambda k: model.sample(k, ts)))(jr.split(jr.key(3, impl="rbg"), n))
    found, span = np.asarray(paths)[..., 0], np.asarray(ts - ts[0])
    variance = 0.01 + b**2 * span
    # Four standard errors, and the error of thirty steps.
    np.testing.assert_array_less(np.abs(found.mean(0) - a * span), 4 * np.sqrt(variance / n) + 0.01)
    np.testing.assert_allclose(found.var(0), variance, rtol=4 * np.sqrt(2 / n) + 0.02)


def test_a_gan_step():
    """Against the same gap of a discriminator that is known: D = ∫ t dy, and signs of gradients."""

    class Drift(eqx.Module):
        slope: jax.Array

        def __call__(self, t, x):
            return jnp.full((1,), self.slope)

    class Linear(eqx.Module):
        weight: jax.Array

        def __call__(self, t, z, args):
            return jnp.stack([jnp.zeros(()), self.weight * z[0]]).reshape(1, 2)

    generator = NeuralSDE(
        lambda v: 0 * v, Drift(jnp.array(0.7)), lambda t, x: jnp.zeros((1, 1)), lambda x: x,
        initial_noise=1, noise=1, dt0=0.25, solver=dfx.EulerHeun(),
        adjoint=dfx.DirectAdjoint(), max_steps=8,
    )  # fmt: skip
    discriminator = NeuralCDE(
        lambda x: jnp.ones(1), Linear(jnp.array(0.5)), lambda z: z[0], "linear",
        solver=dfx.Heun(), controller=dfx.ConstantStepSize(), dt0=0.02, max_steps=64,
        adjoint=dfx.DirectAdjoint(),
    )  # fmt: skip
    model = SDEGAN(generator, discriminator)
    ts = jnp.linspace(0, 1, 5)
    ys = jnp.stack([0.3 * ts, 0.9 * ts])[..., None]
    run = eqx.filter_jit(
        eqx.filter_value_and_grad(lambda m: m.gap(ts, ys, key=jr.key(0, impl="rbg")))
    )
    gap, gradient = run(model)
    # dz = w z dy, z(0) = 1: D = exp(w (y(1) − y(0))).
    mean = (np.exp(0.15) + np.exp(0.45)) / 2
    np.testing.assert_allclose(gap, mean - np.exp(0.35), atol=1e-4)
    slope = gradient.generator.field.slope
    np.testing.assert_allclose(slope, -0.5 * np.exp(0.35), rtol=1e-3)
    weight = (0.3 * np.exp(0.15) + 0.9 * np.exp(0.45)) / 2 - 0.7 * np.exp(0.35)
    np.testing.assert_allclose(gradient.discriminator.field.weight, weight, atol=1e-3)
    turned = model.saddle(gradient)
    assert turned.generator.field.slope == slope
    assert turned.discriminator.field.weight == -gradient.discriminator.field.weight


def test_what_is_refused():
    parts = [lambda *a: jnp.ones(1)] * 4
    with pytest.raises(ValueError, match=r"dt0 = 0\.0: expected a positive"):
        NeuralSDE(*parts, 1, 1, dt0=0.0)
    with pytest.raises(ValueError, match="for Stratonovich equations, got Euler"):
        NeuralSDE(*parts, 1, 1, dt0=0.1, solver=dfx.Euler())
