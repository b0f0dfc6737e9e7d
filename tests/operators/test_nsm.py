"""Neural spectral methods: layers on coefficients, exact residuals, any answer's resolution."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from jaxsci.nn import ChebyshevAxis, FourierAxis, TensorBasis
from jaxsci.operators import NSM
from jaxsci.pde import Grid

BASIS = TensorBasis((ChebyshevAxis(5), FourierAxis(7)))
SMALL: dict[str, Any] = {"width": 3, "depth": 2}


def test_the_papers_layers_on_coefficients(x64, key):
    """All maps act on coefficients, biases on the mean mode; only activations see values."""
    del x64
    model = NSM(BASIS, 2, 1, **SMALL, scale=0.5, key=key)
    u = jr.normal(key, (2, *BASIS.modes))

    def activate(v):
        values = np.asarray(BASIS.inverse(jnp.asarray(v), BASIS.modes))
        return np.asarray(BASIS.forward(jax.nn.gelu(jnp.asarray(values))))

    def linear(layer, v):
        out = np.einsum("oi,iab->oab", np.asarray(layer.weight), v)
        out[:, 0, 0] += np.asarray(layer.bias)
        return out

    # T₁(2t − 1), and √2/2 times the first cosine and sine.
    places = np.zeros((3, *BASIS.modes))
    places[0, 1, 0], places[1, 0, 1], places[2, 0, 2] = 1, np.sqrt(0.5), np.sqrt(0.5)
    v = np.concatenate([np.asarray(u), places])
    for layer in model.lift:
        v = activate(linear(layer, v))
    for index in range(SMALL["depth"]):
        spectral, skip = jax.tree.map(
            lambda w, i=index: w[i], eqx.filter(model.layers, eqx.is_array)
        )
        v = activate(
            np.einsum("iab,abio->oab", v, np.asarray(spectral.mixing.weight[0])) + linear(skip, v)
        )
    for layer in model.head[:-1]:
        v = activate(linear(layer, v))
    expected = 0.5 * linear(model.head[-1], v)
    # Equal in exact arithmetic; a dozen transforms in float64.
    np.testing.assert_allclose(eqx.filter_jit(model)(u), expected, atol=1e-12)


def test_answers_anywhere(x64, key):
    del x64
    model = NSM(BASIS, 1, 1, **SMALL, key=key)
    u = jr.normal(key, (1, *BASIS.modes))
    coef = model(u)
    grid = Grid((0.0, 0.0), (1.0, 1.0), (4, 6), periodic=(False, True))
    values = model(u, out=grid)
    assert values.shape == (1, 4, 6)
    points = grid.coords().reshape(2, -1).T
    np.testing.assert_allclose(model(u, out=points), values.reshape(1, -1), atol=1e-13)
    np.testing.assert_allclose(BASIS.evaluate(coef, points), values.reshape(1, -1), atol=1e-13)


def test_it_learns_a_solution_without_data(key):
    """−u″ = f on a circle, by the residual alone; the solution is known mode by mode."""
    basis = TensorBasis((FourierAxis(9),))
    k = (np.arange(9) + 1) // 2
    inverse = np.where(k == 0, 0, 1 / np.maximum(2 * np.pi * k, 1) ** 2)
    model = NSM(basis, 1, 1, width=16, depth=1, key=key)

    def residual_norm(model, f):
        u = model(f).at[:, 0].set(0)
        r = basis.derivative(u, 0, 2) + f
        return basis.inner(r, r)

    def error(model, f):
        u = model(f).at[:, 0].set(0)
        return jnp.linalg.norm(u - inverse * f) / jnp.linalg.norm(inverse * f)

    def sample(key):
        return jr.normal(key, (1, 9)).at[:, 0].set(0) / (1 + k**2)

    optimizer = optax.adam(1e-2)

    @eqx.filter_jit
    def train(model):
        def step(carry, key):
            arrays, state = carry
            batch = jax.vmap(sample)(jr.split(key, 16))

            def loss(arrays):
                m = eqx.combine(arrays, static)
                return jnp.mean(jax.vmap(lambda f: residual_norm(m, f))(batch))

            updates, state = optimizer.update(jax.grad(loss)(arrays), state)
            return (optax.apply_updates(arrays, updates), state), None

        arrays, static = eqx.partition(model, eqx.is_inexact_array)
        start = (arrays, optimizer.init(arrays))
        (arrays, _), _ = jax.lax.scan(step, start, jr.split(key, 300))
        return eqx.combine(arrays, static)

    tests = jax.vmap(sample)(jr.split(jr.key(1), 32))

    def mean_error(model):
        return float(jnp.mean(jax.vmap(lambda f: error(model, f))(tests)))

    # A trivial answer has error 1.
    assert mean_error(model) > 0.8
    assert mean_error(train(model)) < 0.2


def test_it_is_traced_once(key):
    traced = []
    model = NSM(BASIS, 1, 1, **SMALL, key=key)

    @eqx.filter_jit
    def predict(model, u):
        traced.append(None)
        return jax.vmap(model)(u)

    for scale in (1.0, 2.0):
        assert predict(model, scale * jnp.ones((3, 1, *BASIS.modes))).shape == (3, 1, 5, 7)
    assert len(traced) == 1


WRONG: Any = "x"
U = jnp.ones((1, 5, 7))
BAD: list[tuple[Any, type, str]] = [
    (lambda k: NSM(WRONG, 1, 1, key=k), TypeError, "must be a TensorBasis"),
    (lambda k: NSM(BASIS, 0, 1, key=k), ValueError, "c_in must be a positive"),
    (lambda k: NSM(BASIS, 1, 1, width=0, key=k), ValueError, "width must be a positive"),
    (lambda k: NSM(BASIS, 1, 1, **SMALL, key=k)(U[:, 1:]), ValueError, "expected coefficients"),
    (lambda k: NSM(BASIS, 1, 1, **SMALL, key=k)(U, cond=U), ValueError, "takes no cond"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(key, call, error, message):
    with pytest.raises(error, match=message):
        call(key)
