"""Losses and metrics against neuraloperator's recorded values and closed forms."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.operators import (
    Normalised,
    Normaliser,
    band_errors,
    normalised_rmse,
    relative_h1,
    relative_l2,
)


@pytest.fixture(scope="module")
def recorded():
    path = Path(__file__).parent.parent / "oracles" / "data" / "neuralop_fno.npz"
    with np.load(path) as file:
        return {k.removeprefix("losses/"): v for k, v in file.items() if k.startswith("losses/")}


def test_relative_l2_is_neuralops(recorded):
    got = jax.vmap(relative_l2)(recorded["x"], recorded["y"])
    np.testing.assert_allclose(got, recorded["l2"], rtol=1e-5)  # float32 sums of 56 terms


@pytest.mark.parametrize(("periodic", "name"), [(True, "h1_periodic"), (False, "h1_walls")])
def test_relative_h1_is_neuralops(recorded, periodic, name):
    got = jax.vmap(lambda x, y: relative_h1(x, y, periodic=periodic))(recorded["x"], recorded["y"])
    np.testing.assert_allclose(got, recorded[name], rtol=1e-5)


@pytest.mark.parametrize(("periodic", "order"), [(True, 2), (False, 2)])
def test_the_h1_norm_converges_at_second_order(periodic, order, x64):
    # ‖u‖_H1 of u = sin(2πx + 0.4) against 0.1: the ratio of norms in closed form.
    exact = 0.1

    def error(n):
        x = jnp.arange(n) / n
        u = jnp.sin(2 * jnp.pi * x + 0.4)[None]
        v = u + 0.1 * jnp.sin(2 * jnp.pi * 2 * x)[None]
        # Below and above differ in wavenumber, so the discrete ratio is not exact.
        ratio = exact * np.sqrt((1 + (4 * np.pi) ** 2) / (1 + (2 * np.pi) ** 2))
        return abs(float(relative_h1(v, u, periodic=periodic)) - ratio)

    rates = np.log2([error(64) / error(128), error(128) / error(256)])
    # At walls the end points carry a half-weight error of first order in the sum itself.
    assert rates.min() > (order if periodic else 1) - 0.2


def test_a_perfect_prediction_has_zero_error_and_gradient():
    u = jax.random.normal(jax.random.key(0), (2, 6, 5))
    for metric in (relative_l2, relative_h1, normalised_rmse):
        value, grad = jax.value_and_grad(metric)(u, u)
        assert value == 0 and np.isfinite(grad).all() and not np.any(grad)


def test_normalised_rmse_weighs_channels_alike():
    u = jnp.stack([jnp.full((4,), 1e-3), jnp.full((4,), 1e3)])
    p = u * jnp.array([[1.1], [1.3]])
    np.testing.assert_allclose(normalised_rmse(p, u), 0.2, rtol=1e-3)


def test_band_errors_split_the_mean_square_error(x64):
    x = np.arange(32) / 32
    u = jnp.zeros((1, 32))
    p = jnp.asarray(3 * np.cos(2 * np.pi * 2 * x) + np.sin(2 * np.pi * 7 * x) + 0.5)[None]
    bands = band_errors(p, u, (0, 4, 12))
    # A cosine of amplitude A has mean square A²/2.
    np.testing.assert_allclose(bands, [np.sqrt(9 / 2 + 0.25), np.sqrt(0.5), 0], atol=1e-12)
    p = jax.random.normal(jax.random.key(1), (2, 8, 9), jnp.float64)
    total = jnp.sum(band_errors(p, 0 * p) ** 2)
    np.testing.assert_allclose(total, jnp.sum(jnp.mean(p**2, (1, 2))), rtol=1e-12)


def test_normaliser_standardises_and_is_not_trained():
    values = np.random.default_rng(0).normal((3.0, -1.0), (2.0, 0.5), (50, 7, 2))
    values = np.moveaxis(values, -1, 1).astype(np.float32)
    normaliser = Normaliser.fit(values)
    encoded = jax.vmap(normaliser.encode)(values)
    np.testing.assert_allclose(encoded.mean((0, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(encoded.std((0, 2)), 1, atol=1e-5)
    decoded = jax.vmap(normaliser.decode)(encoded)
    np.testing.assert_allclose(decoded, values, atol=1e-5)
    model = Normalised(lambda u: 2 * u, normaliser, normaliser)
    u = jnp.asarray(values[0])
    mean = normaliser.mean.value[:, None]
    np.testing.assert_allclose(model(u), mean + 2 * (u - mean), rtol=1e-5)
    leaves = [x for x in jax.tree.leaves(normaliser) if jnp.issubdtype(x.dtype, jnp.inexact)]
    assert not leaves
    constant = Normaliser.fit(np.ones((3, 1, 4), np.float32))
    assert constant.std.value == 1


def test_bad_input():
    u = jnp.ones((1, 4))
    for metric in (relative_l2, relative_h1, normalised_rmse, band_errors):
        with pytest.raises(ValueError, match="expected equal shapes"):
            metric(u, jnp.ones((1, 5)))
        with pytest.raises(ValueError, match="expected equal shapes"):
            metric(u[0], u[0])
    with pytest.raises(ValueError, match="at least 4 points"):
        relative_h1(u[:, :3], u[:, :3], periodic=False)
    with pytest.raises(ValueError, match="periodic: expected one value or 1"):
        relative_h1(u, u, periodic=(True, False))
    with pytest.raises(ValueError, match="edges: expected ascending"):
        band_errors(u, u, (1, 2))
    with pytest.raises(ValueError, match="expected examples"):
        Normaliser.fit(np.zeros((0, 1, 4)))
    with pytest.raises(ValueError, match="found NaN"):
        Normaliser.fit(np.full((2, 1, 4), np.nan))
    with pytest.raises(ValueError, match="positive"):
        Normaliser([0.0], [0.0])
    with pytest.raises(ValueError, match="one number per channel"):
        Normaliser([0.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="u: expected 1 channels"):
        Normaliser([0.0], [1.0]).encode(jnp.ones((2, 4)))


@pytest.mark.parametrize("metric", [relative_l2, relative_h1, normalised_rmse])
def test_a_prediction_that_is_nan_is_no_perfect_one(metric):
    assert jnp.isnan(metric(jnp.full((1, 8), jnp.nan), jnp.ones((1, 8))))
