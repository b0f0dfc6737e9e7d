"""Transform Once: SciPy's transform, Parseval, and that initial layers keep variances."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.fft

from jaxsci.operators import (
    T1,
    T1Layer,
    dct,
    idct,
    modes_for,
    relative_l2,
    relative_l2_coef,
    variance_preserving_std,
)


@pytest.mark.parametrize("shape", [(16,), (9, 12), (4, 5, 6)])
def test_scipys_transform(x64, key, shape):
    del x64
    u = jr.normal(key, (2, *shape))
    expected = scipy.fft.dctn(np.asarray(u), axes=range(1, u.ndim), norm="ortho")
    # The same sums in float64.
    np.testing.assert_allclose(dct(u), expected, atol=1e-13)
    np.testing.assert_allclose(idct(dct(u), shape), u, atol=1e-13)
    first = (slice(None), *(slice(3) for _ in shape))
    np.testing.assert_allclose(dct(u, 3), expected[first], atol=1e-13)


def test_a_cosine_is_one_mode(x64):
    del x64
    x = (jnp.arange(20) + 0.5) / 20
    coef = dct(jnp.cos(jnp.pi * 7 * x)[None])[0]
    np.testing.assert_allclose(coef, np.sqrt(10) * np.eye(20)[7], atol=1e-13)
    assert modes_for(np.asarray(jnp.cos(jnp.pi * 7 * x))[None, None]) == 8
    assert modes_for(np.random.default_rng(0).normal(size=(5, 1, 6, 6)), 1.0) == 6


def test_the_loss_on_coefficients_is_the_loss_on_functions(x64, key):
    del x64
    p, u = jr.normal(key, (2, 2, 12, 10))
    short = dct(p, 5)
    np.testing.assert_allclose(
        relative_l2_coef(short, dct(u)), relative_l2(idct(short, (12, 10)), u), rtol=1e-12
    )
    assert relative_l2_coef(dct(u), dct(u)) == 0
    assert np.all(np.isfinite(jax.grad(relative_l2_coef)(dct(u), dct(u))))


@pytest.mark.parametrize(("shape", "modes"), [((256,), 24), ((32, 32), 8)])
def test_a_first_layer_keeps_the_variance_of_white_noise(key, shape, modes):
    """Output variance over input variance, mean over fields; the naive layer gives 1e-6."""
    c, n, m = 16, int(np.prod(shape)), modes ** len(shape)
    noise_key, weight_key = jr.split(key)
    u = jr.normal(noise_key, (64, c, *shape))
    std = variance_preserving_std(n, m, c)

    def ratio(std):
        layer = T1Layer(len(shape), modes, c, std=std, activation=lambda h: h, key=weight_key)
        out = jax.vmap(lambda v: idct(layer(dct(v, modes)) - dct(v, modes), shape))(u)
        # The mixers are square and keep variances by themselves.
        return float(jnp.var(out) / jnp.var(u))

    # Relative deviation: m c weights rows and as many mixers, about √(2/(c m) + 2d/m) each.
    spread = np.sqrt(2 / (c * m) + 2 * len(shape) / (c * modes))
    assert ratio(std) == pytest.approx(1.0, abs=3 * spread)
    assert ratio(None) < 1e-2


def test_layers_against_index_loops(x64, key):
    del x64
    layer = T1Layer(2, 3, 2, std=1.0, activation=jnp.tanh, key=key)
    z = np.asarray(jr.normal(key, (2, 3, 3)))
    w, (s1, s2) = np.asarray(layer.weight), map(np.asarray, layer.mixers)
    h = np.zeros_like(z)
    for o, a, b in np.ndindex(2, 3, 3):
        h[o, a, b] = np.tanh(sum(z[i, a, b] * w[a, b, i, o] for i in range(2)))
    first, second = np.zeros_like(z), np.zeros_like(z)
    for c, a, b in np.ndindex(2, 3, 3):
        first[c, a, b] = sum(h[c, k, b] * s1[c, k, a] for k in range(3))
    for c, a, b in np.ndindex(2, 3, 3):
        second[c, a, b] = sum(first[c, a, k] * s2[c, k, b] for k in range(3))
    np.testing.assert_allclose(layer(jnp.asarray(z)), z + second, atol=1e-13)


def test_both_outputs_and_the_lift(x64, key):
    del x64
    model = T1(1, 2, 1, modes=6, width=5, depth=2, head=7, key=key)
    model = eqx.tree_at(lambda m: m.last, model, model.hidden)  # 7 channels of visible size
    model = eqx.tree_at(lambda m: m.hidden, model, model.lift.__class__(5, 5, key=key))
    u = jr.normal(key, (2, 16))
    coef = eqx.filter_jit(model)(u)
    assert coef.shape == (7, 6)
    np.testing.assert_allclose(model.field(u), idct(coef, (16,)), atol=1e-14)
    # The lift before the transform, as the paper has it.
    x = jnp.arange(16) / 16
    z = dct(model.lift(jnp.concatenate([u, x[None]])), 6)
    for layer in model.layers:
        z = layer(z)
    np.testing.assert_allclose(coef, model.last(jnp.sin(model.hidden(z))), atol=1e-12)


def test_resolutions_agree_where_points_are_given(x64, key):
    """Same function, same answer: up to the corners that sampled coordinates make."""
    del x64
    model = T1(1, 1, 1, modes=6, width=5, depth=2, head=7, points=64, output="field", key=key)
    model = eqx.tree_at(lambda m: m.last.weight, model, 1e8 * model.last.weight)
    answers = []
    for n in (64, 128):
        x = (jnp.arange(n) + 0.5) / n
        answer = eqx.filter_jit(model)(jnp.cos(jnp.pi * 3 * x)[None])
        answers.append(dct(answer, 6) / np.sqrt(n))
    # The appended coordinate i/n is half a point off the midpoints: 1/128 and 1/256.
    np.testing.assert_allclose(answers[0], answers[1], rtol=0.1, atol=0.02)


def test_first_gradients_are_alive(key):
    """The last map starts at 1e-8; its own gradient does not."""
    model = T1(1, 1, 1, modes=6, width=8, depth=2, head=16, key=key)
    u = jr.normal(key, (1, 32))
    gradient = eqx.filter_jit(eqx.filter_grad(lambda m: relative_l2_coef(m(u), dct(u))))(model)
    assert jnp.max(jnp.abs(gradient.last.weight)) > 1e-3


WRONG: Any = "x"
U = jnp.ones((1, 8))
SMALL: dict[str, Any] = {"modes": 4, "width": 2, "depth": 1, "head": 2}
BAD: list[tuple[Any, type, str]] = [
    (lambda k: dct(U[0]), ValueError, "expected a function"),
    (lambda k: dct(U, 9), ValueError, "9 modes are more than"),
    (lambda k: dct(U, 0), ValueError, "modes must be a positive integer"),
    (lambda k: idct(U, (4,)), ValueError, "do not fit"),
    (lambda k: variance_preserving_std(4, 8, 1), ValueError, "cannot be kept"),
    (lambda k: variance_preserving_std(4, 0, 1), ValueError, "m must be a positive"),
    (lambda k: relative_l2_coef(U, U[:, :4]), ValueError, "at least its modes"),
    (lambda k: modes_for(np.ones((2, 1, 4)), 0.0), ValueError, "energy must lie in"),
    (lambda k: modes_for(np.ones(4)), ValueError, "expected examples"),
    (lambda k: T1(0, 1, 1, key=k), ValueError, "ndim must be a positive integer"),
    (lambda k: T1(1, 1, 1, output=WRONG, key=k), ValueError, "output must be"),
    (lambda k: T1(1, 1, 1, init=WRONG, key=k), ValueError, "init must be"),
    (lambda k: T1(1, 1, 1, **SMALL, key=k)(U[0]), ValueError, "grid axes"),
    (lambda k: T1(1, 1, 1, **SMALL, key=k)(U[:, :3]), ValueError, "modes are more than"),
    (lambda k: T1(1, 1, 1, **SMALL, key=k)(U.astype(int)), TypeError, "floating-point"),
    (lambda k: T1(1, 1, 1, **SMALL, key=k)(U, cond=WRONG), ValueError, "neither parameters"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(key, call, error, message):
    with pytest.raises(error, match=message):
        call(key)
