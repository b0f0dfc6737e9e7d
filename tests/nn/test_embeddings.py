"""Coordinates, features and condition vectors against their formulas."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.nn.embeddings import (
    ClassEmbedding,
    FiLM,
    FourierFeatures,
    GridEmbedding,
    ParameterEmbedding,
    SinusoidalEmbedding,
    SumEmbedding,
    TimeEmbedding,
    append_coordinates,
)


def test_coordinates_of_a_point_do_not_depend_on_the_resolution():
    coarse = append_coordinates(jnp.zeros((1, 4, 8)))
    fine = append_coordinates(jnp.zeros((1, 8, 16)))
    assert coarse.shape == (3, 4, 8)
    np.testing.assert_array_equal(coarse, fine[:, ::2, ::2])
    np.testing.assert_array_equal(coarse[1, :, 0], [0, 0.25, 0.5, 0.75])
    walls = append_coordinates(jnp.zeros((1, 5)), -1.0, 1.0, endpoint=True)
    np.testing.assert_array_equal(walls[1], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_array_equal(
        walls[:, ::2], append_coordinates(jnp.zeros((1, 3)), -1.0, 1.0, endpoint=True)
    )


def test_coordinates_axis_by_axis_and_dtype():
    u = jnp.zeros((1, 2, 3), jnp.bfloat16)
    out = GridEmbedding((0.0, 1.0), (2.0, 3.0), (False, True))(u)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out[1, :, 0], [0, 1])
    np.testing.assert_array_equal(out[2, 0], [1, 2, 3])


def test_coordinates_bad_input():
    with pytest.raises(ValueError, match="grid axis"):
        append_coordinates(jnp.zeros(3))
    with pytest.raises(ValueError, match="lo needs"):
        append_coordinates(jnp.zeros((1, 4, 4)), (0.0,))
    with pytest.raises(ValueError, match="hi needs"):
        append_coordinates(jnp.zeros((1, 4, 4)), 0.0, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="two points"):
        append_coordinates(jnp.zeros((1, 1)), endpoint=True)
    with pytest.raises(TypeError, match="floating-point"):
        append_coordinates(jnp.zeros((1, 4), jnp.int32))
    with pytest.raises(ValueError, match="endpoint needs"):
        GridEmbedding(endpoint=(True,))(jnp.zeros((1, 4, 4)))


def test_sinusoidal_embedding_is_its_formula(x64):
    t, k = 0.7, np.arange(4)
    omega = 1e4 ** (-k / 4)
    out = SinusoidalEmbedding(8, scale=1000.0)(t)
    expected = np.concatenate([np.cos(700 * omega), np.sin(700 * omega)])
    # rounding of an angle of 700: 700 · 2^-53
    np.testing.assert_allclose(out, expected, atol=1e-12)
    ddpm = SinusoidalEmbedding(8, order="sin_cos", shift=1)(t)
    omega = np.exp(-np.log(1e4) * k / 3)
    expected = np.concatenate([np.sin(t * omega), np.cos(t * omega)])
    np.testing.assert_allclose(ddpm, expected, atol=1e-14)


def test_sinusoidal_bad_input():
    for bad in (dict(size=7), dict(size=0), dict(size=8, max_period=1.0), dict(size=8, shift=4)):
        with pytest.raises(ValueError, match=r"size|max_period|shift"):
            SinusoidalEmbedding(**bad)
    with pytest.raises(ValueError, match="order"):
        SinusoidalEmbedding(8, order="cos")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="t must be a scalar"):
        SinusoidalEmbedding(8)(jnp.zeros(2))


def test_fourier_features_estimate_a_gaussian_kernel(x64, key):
    n, scale = 20_000, 0.3
    features = FourierFeatures(2, n, scale=scale, key=key)
    x, y = jnp.array([0.1, -0.4]), jnp.array([0.5, 0.3])
    estimate = features(x) @ features(y) / n
    exact = jnp.exp(-2 * (jnp.pi * scale) ** 2 * jnp.sum((x - y) ** 2))
    # Monte Carlo with 20000 cosines of variance below 1/2: four standard errors.
    assert abs(estimate - exact) < 4 * (0.5 / n) ** 0.5


def test_fourier_features_on_a_grid_and_fixed(key):
    features = FourierFeatures(2, 3, key=key)
    x = jax.random.normal(key, (2, 4, 5))
    assert features(x).shape == (6, 4, 5)
    # float32 angles of order 10
    np.testing.assert_allclose(features(x)[:, 1, 2], features(x[:, 1, 2]), atol=1e-5)
    assert jax.tree.leaves(eqx.filter(features, eqx.is_inexact_array)) == []
    trainable = FourierFeatures(2, 3, trainable=True, key=key)
    np.testing.assert_array_equal(trainable.frequencies, features.frequencies.value)
    np.testing.assert_array_equal(trainable(x), features(x))
    assert FourierFeatures(1, 3, key=key)(0.3).shape == (6,)


def test_fourier_features_bad_input(key):
    for name, arguments, scale in [
        ("c_in", (0, 3), 1.0),
        ("n_frequencies", (2, 0), 1.0),
        ("scale", (2, 3), 0.0),
    ]:
        with pytest.raises(ValueError, match=name):
            FourierFeatures(*arguments, scale=scale, key=key)
    features = FourierFeatures(2, 3, key=key)
    with pytest.raises(ValueError, match="2 channels"):
        features(jnp.zeros(3))
    with pytest.raises(TypeError, match="floating-point"):
        features(jnp.zeros(2, int))


def test_embeddings_have_their_size_and_add_up(key):
    time, parameters, label = (
        TimeEmbedding(6, key=key),
        ParameterEmbedding(2, 6, key=key),
        ClassEmbedding(3, 6, key=key),
    )
    both = SumEmbedding(time, parameters, label)
    assert both.size == 6
    cond = (0.3, jnp.array([1.0, 2.0]), 1)
    expected = time(0.3) + parameters(cond[1]) + label.table[1]
    np.testing.assert_allclose(both(cond), expected, rtol=1e-6)
    np.testing.assert_array_equal(time(3), time(3.0))
    hidden = jax.nn.silu(time.hidden.weight @ time.features(0.3) + time.hidden.bias)
    np.testing.assert_allclose(time(0.3), time.out.weight @ hidden + time.out.bias, rtol=1e-5)
    learned = TimeEmbedding(6, FourierFeatures(1, 4, key=key), key=key)
    assert learned(0.3).shape == (6,)


def test_class_embedding_outside_its_range_is_nan_not_a_neighbour(key):
    label = ClassEmbedding(3, 4, key=key)
    rows = jax.vmap(label)(jnp.arange(-1, 5))
    np.testing.assert_array_equal(rows[1:5], label.table)
    assert bool(jnp.all(jnp.isnan(rows[0]))) and bool(jnp.all(jnp.isnan(rows[5])))


def test_embeddings_bad_input(key):
    with pytest.raises(ValueError, match="size"):
        TimeEmbedding(0, key=key)
    with pytest.raises(ValueError, match="size"):
        ParameterEmbedding(2, -1, key=key)
    with pytest.raises(ValueError, match="n_parameters"):
        ParameterEmbedding(0, 4, key=key)
    with pytest.raises(ValueError, match="n_classes"):
        ClassEmbedding(0, 4, key=key)
    time = TimeEmbedding(4, key=key)
    with pytest.raises(ValueError, match="scalar"):
        time(jnp.zeros(3))
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        ParameterEmbedding(2, 4, key=key)(jnp.zeros(3))
    with pytest.raises(TypeError, match="integer class index"):
        ClassEmbedding(3, 4, key=key)(1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="scalar class index"):
        ClassEmbedding(3, 4, key=key)(jnp.zeros(2, int))
    with pytest.raises(ValueError, match="one size"):
        SumEmbedding(time, ClassEmbedding(3, 6, key=key))
    with pytest.raises(ValueError, match="one size"):
        SumEmbedding()
    with pytest.raises(ValueError, match="tuple of 1"):
        SumEmbedding(time)(0.3)  # pyright: ignore[reportArgumentType]


def test_film_scales_and_shifts_channels(key):
    x, e = jax.random.normal(key, (3, 4, 5)), jnp.array([0.5, -1.0])
    np.testing.assert_array_equal(FiLM(2, 3, key=key)(x, e), x)
    film = FiLM(2, 3, zero_init=False, key=key)
    scale, shift = np.split(film.linear.weight @ e + film.linear.bias, 2)
    expected = x * (1 + scale[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(film(x, e), expected, rtol=1e-6, atol=1e-6)


def test_film_learns_from_the_identity(key):
    film, x, e = FiLM(1, 1, key=key), jnp.ones((1, 4)), jnp.ones(1)
    gradient = eqx.filter_grad(lambda f: jnp.sum((f(x, e) - 3.0) ** 2))(film)
    assert float(optax.tree.norm(gradient)) > 0


def test_film_bad_input(key):
    with pytest.raises(ValueError, match="c_cond"):
        FiLM(0, 3, key=key)
    with pytest.raises(ValueError, match="c must be"):
        FiLM(2, 0, key=key)
    film = FiLM(2, 3, key=key)
    with pytest.raises(ValueError, match="3 channels"):
        film(jnp.zeros((2, 4)), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        film(jnp.zeros((3, 4)), jnp.zeros(3))
