"""Metrics of long rollouts against exponax, SciPy and closed forms; the pictures' curves."""

from typing import Any

import exponax
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats

from jaxsci.operators import (
    accumulated_mse,
    correlation,
    correlation_time,
    energy_spectrum,
    error_growth,
    plot_error_growth,
    plot_spectrum,
)


@pytest.fixture
def pair(key):
    return 2.0 + jr.normal(key, (2, 2, 8, 8))


def test_correlations_of_others(x64, pair):
    del x64
    p, u = pair
    flat = np.asarray(p).reshape(2, -1), np.asarray(u).reshape(2, -1)
    pearson = np.mean([scipy.stats.pearsonr(flat[0][c], flat[1][c])[0] for c in (0, 1)])
    # The same sums in another order, in double and single precision.
    np.testing.assert_allclose(correlation(p, u), pearson, rtol=1e-6)
    np.testing.assert_allclose(
        correlation(p, u, "cosine"), exponax.metrics.correlation(p, u), rtol=1e-6
    )
    assert correlation(p, u, "cosine") > 0.7 > abs(correlation(p, u))


def test_correlation_of_large_constant_and_broken_fields(pair):
    p, u = pair
    huge = 1e30 * (p - 2) + 1e30
    np.testing.assert_allclose(correlation(huge, u), correlation(p, u), atol=1e-5)  # float32
    assert correlation(jnp.ones_like(u), u) == 0
    for bad in (jnp.nan, jnp.inf):
        assert correlation(p.at[:, 0].set(bad), u) == 0


def test_correlation_time_of_a_turning_wave():
    """Cos(x + φ) has the correlation cos φ with cos x: below 0.8 from φ = 0.6435 on."""
    x = 2 * jnp.pi * jnp.arange(64) / 64
    phase = 0.1 * jnp.arange(1, 21)
    truth = jnp.broadcast_to(jnp.cos(x), (20, 1, 64))
    turning = jnp.cos(x + phase[:, None])[:, None]
    assert correlation_time(turning, truth, 0.5) == 7 * 0.5
    assert correlation_time(turning, truth, threshold=0.99) == 2
    assert correlation_time(truth, truth, 0.5) == 20 * 0.5
    assert correlation_time(turning.at[3].set(jnp.nan), truth) == 4
    # The mean that cosine similarity keeps flatters.
    assert correlation_time(turning + 3, truth + 3) == 7
    assert correlation_time(turning + 3, truth + 3, kind="cosine") == 20


def test_accumulated_mse_and_growth():
    truth = jnp.ones((3, 2, 5))
    prediction = truth + jnp.array([1.0, 2.0, 3.0])[:, None, None]
    # Two channels of 1 + 4 + 9.
    np.testing.assert_allclose(accumulated_mse(prediction, truth), 28.0)
    np.testing.assert_allclose(error_growth(prediction, truth), [1, 2, 3], rtol=1e-6)


def test_spectrum_of_single_waves_and_parseval(x64, key):
    del x64
    x = jnp.arange(16) / 16
    wave = jnp.cos(2 * jnp.pi * (3 * x[:, None] + 4 * x))[None]
    np.testing.assert_allclose(energy_spectrum(wave), 0.5 * np.eye(9)[5], atol=1e-15)
    u = jr.normal(key, (2, 33), jnp.float64)
    np.testing.assert_allclose(
        jnp.sum(energy_spectrum(u)), jnp.sum(jnp.mean(u**2, 1)), rtol=1e-13
    )  # one axis has no corners: Parseval to rounding


def test_pictures(key):
    truth = 1 + jr.normal(key, (3, 6, 1, 32))
    broken = truth.at[1, 4:].set(jnp.nan)
    predictions = {"good": 1.1 * truth, "broken": broken}
    growth = plot_error_growth(predictions, truth, dt=0.5)
    left, right = growth.axes
    lines: Any = left.lines
    good, bad = lines
    np.testing.assert_allclose(good.get_xdata(), 0.5 * np.arange(1, 7))
    np.testing.assert_allclose(good.get_ydata(), 0.1, rtol=1e-4)  # float32
    assert len(bad.get_xdata()) == 4  # it ends where one of the predictions does
    assert left.get_legend_handles_labels()[1] == ["good", "broken"]
    assert left.get_xlabel() == right.get_xlabel() == "time"
    spectra = plot_spectrum(predictions, truth, frame=2)
    curves: Any = [axis.lines for axis in spectra.axes]
    exact = curves[0][0].get_ydata()
    np.testing.assert_allclose(curves[0][1].get_ydata(), 1.21 * exact, rtol=1e-4)
    np.testing.assert_allclose(curves[1][1].get_ydata(), 0.01 * exact, rtol=1e-3)
    plt.close("all")


def test_bad_input(pair):
    p, u = pair
    wrong: Any = "spearman"
    with pytest.raises(ValueError, match="kind: expected"):
        correlation(p, u, wrong)
    with pytest.raises(ValueError, match="equal shapes"):
        correlation(p, u[:1])
    for metric in (accumulated_mse, error_growth, correlation_time):
        with pytest.raises(ValueError, match="equal shapes"):
            metric(p[0], u[0])
    with pytest.raises(ValueError, match="dt must be positive"):
        correlation_time(p, u, 0.0)
    with pytest.raises(ValueError, match="threshold must lie"):
        correlation_time(p, u, threshold=1.0)
    with pytest.raises(ValueError, match="expected a field"):
        energy_spectrum(jnp.ones(3))
    frames = jnp.ones((2, 3, 1, 4))
    with pytest.raises(ValueError, match="got 0 steppers"):
        plot_error_growth({}, frames)
    with pytest.raises(ValueError, match="expected the truth's shape"):
        plot_error_growth({"a": frames[:1]}, frames)
    with pytest.raises(ValueError, match="expected one of 3 frames"):
        plot_spectrum({"a": frames}, frames, 3)


def test_metrics_run_in_a_program(pair):
    frames = jnp.stack([pair, pair])
    times = jax.jit(jax.vmap(correlation_time))(frames, frames)
    np.testing.assert_array_equal(times, 2.0)
