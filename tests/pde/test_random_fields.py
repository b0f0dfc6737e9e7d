"""Oracles: Green's functions in closed form, since (−Δ + τ²)⁻¹ is an integral operator with one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pde import GaussianRandomField, Grid

N_SAMPLES = 20_000


def green_torus(r, tau, length=1.0):
    return np.cosh(tau * (length / 2 - r)) / (2 * tau * np.sinh(tau * length / 2))


def green_neumann(x, y, tau):
    low, high = np.minimum(x, y), np.maximum(x, y)
    return np.cosh(tau * low) * np.cosh(tau * (1 - high)) / (tau * np.sinh(tau))


def green_dirichlet(x, y, tau):
    low, high = np.minimum(x, y), np.maximum(x, y)
    return np.sinh(tau * low) * np.sinh(tau * (1 - high)) / (tau * np.sinh(tau))


def check_covariance(law, grid, points, expected, tail):
    """The sample covariance at `points` lies within 4.5 standard errors of `expected`.

    The standard error of Σ uᵢuⱼ/n is √((Cᵢᵢ Cⱼⱼ + Cᵢⱼ²)/n) for a Gaussian field. `tail` bounds
    what the modes that the grid lacks would add.
    """
    keys = jax.random.split(jax.random.key(7), N_SAMPLES)
    fields = jax.jit(jax.vmap(lambda k: law.sample(k, grid)))(keys)
    assert fields.shape == (N_SAMPLES, 1, *grid.shape)
    values = np.asarray(fields.reshape(N_SAMPLES, -1)[:, points], float)
    variance = np.diag(expected)
    error = np.sqrt((np.outer(variance, variance) + expected**2) / N_SAMPLES)
    np.testing.assert_array_less(abs(values.T @ values / N_SAMPLES - expected), 4.5 * error + tail)
    np.testing.assert_array_less(abs(values.mean(0)), 4.5 * np.sqrt(variance / N_SAMPLES))


@pytest.mark.parametrize("zero_mean", [True, False])
def test_covariance_on_a_torus_of_length_two(zero_mean):
    tau, sigma2, length = 3.0, 2.0, 2.0
    grid = Grid(1.0, 3.0, 64, periodic=True)
    law = GaussianRandomField(1.0, tau, variance_scale=sigma2, zero_mean=zero_mean)
    points = [0, 5, 20, 40]
    x = grid.axis(0)[points]
    r = abs(x[:, None] - x)
    expected = sigma2 * green_torus(r, tau, length)
    if zero_mean:
        expected -= sigma2 / tau**2 / length
    # Σ_{|k|>31} σ² (2πk/L)^-2 / L < 2 σ² L / (4π² 31)
    check_covariance(law, grid, points, expected, 2 * sigma2 * length / (4 * np.pi**2 * 31))


def test_covariance_of_alpha_two_is_the_derivative_in_tau():
    tau, step = 5.0, 1e-4
    grid = Grid(0.0, 1.0, 64, periodic=True)
    law = GaussianRandomField(2.0, tau, variance_scale=625.0)
    points = [0, 3, 16, 32]
    x = grid.axis(0)[points]
    r = abs(x[:, None] - x)
    # (−Δ+τ²)⁻² = −(1/2τ) d/dτ (−Δ+τ²)⁻¹; the zero mode has 625/5⁴ = 1.
    slope = (green_torus(r, tau + step) - green_torus(r, tau - step)) / (2 * step)
    check_covariance(law, grid, points, -625 * slope / (2 * tau) - 1.0, 1e-4)


@pytest.mark.parametrize("endpoint", [True, False])
def test_covariance_with_zero_normal_derivative(endpoint):
    tau = 3.0
    grid = Grid(0.0, 1.0, 65, endpoint=endpoint)
    law = GaussianRandomField(1.0, tau, variance_scale=1.0, boundary="neumann", zero_mean=False)
    points = [0, 10, 32, 60]
    x = grid.axis(0)[points]
    expected = green_neumann(x[:, None], x, tau)
    # 2 Σ_{k≥65} (πk)^-2 < 2 / (64 π²)
    check_covariance(law, grid, points, expected, 2 / (64 * np.pi**2))


@pytest.mark.parametrize("endpoint", [True, False])
def test_covariance_with_zero_boundary_values(endpoint):
    tau = 3.0
    grid = Grid(0.0, 1.0, 65, endpoint=endpoint)
    law = GaussianRandomField(1.0, tau, variance_scale=1.0, boundary="dirichlet")
    points = [5, 10, 32, 60]
    x = grid.axis(0)[points]
    expected = green_dirichlet(x[:, None], x, tau)
    check_covariance(law, grid, points, expected, 2 / (63 * np.pi**2))
    if endpoint:
        field = law.sample(jax.random.key(0), grid)
        np.testing.assert_allclose(field[0, [0, -1]], 0, atol=1e-5)


def test_spectrum_in_two_dimensions():
    """The vorticity of the papers: E|û_k|² = 7³ (4π²|k|² + 49)^(−2.5), for every mode."""
    grid = Grid(0.0, 1.0, (16, 16), periodic=True)
    law = GaussianRandomField(2.5, 7.0)
    n = 4000
    keys = jax.random.split(jax.random.key(3), n)
    fields = np.asarray(jax.jit(jax.vmap(lambda k: law.sample(k, grid)))(keys)[:, 0], float)
    power = (abs(np.fft.fft2(fields, norm="forward")) ** 2).mean(0)
    k = np.fft.fftfreq(16) * 16
    squares = k[:, None] ** 2 + k**2
    expected = 343 * (4 * np.pi**2 * squares + 49) ** -2.5
    inside = (abs(k[:, None]) < 8) & (abs(k) < 8) & (squares > 0)
    # |û|² is exponentially distributed: relative standard error 1/√n; 113 independent modes.
    ratio = power[inside] / expected[inside]
    assert abs(ratio - 1).max() < 4.5 / np.sqrt(n)
    assert abs(ratio.mean() - 1) < 4.5 / np.sqrt(n * inside.sum() / 2)
    np.testing.assert_allclose(power[~inside], 0, atol=1e-12)
    np.testing.assert_allclose(law.eigenvalues(grid).sum(), expected[inside].sum(), rtol=1e-12)


def test_neumann_field_in_two_dimensions_is_the_published_generators():
    """Its definition: the orthonormal inverse DCT of s τ^(α−1) (π²|k|² + τ²)^(−α/2) ξ."""
    from scipy.fft import dctn

    grid = Grid(0.0, 1.0, (12, 12), endpoint=False)
    law = GaussianRandomField(2.0, 3.0, boundary="neumann")
    n = 4000
    keys = jax.random.split(jax.random.key(4), n)
    fields = np.asarray(jax.jit(jax.vmap(lambda k: law.sample(k, grid)))(keys)[:, 0], float)
    power = (dctn(fields, axes=(1, 2), norm="ortho") ** 2).mean(0)
    k = np.arange(12)
    scale = 12 * 3.0 ** (2 - 1) * (np.pi**2 * (k[:, None] ** 2 + k**2) + 9) ** (-2 / 2)
    scale[0, 0] = 0
    assert power[0, 0] < 1e-9
    ratio = power.ravel()[1:] / scale.ravel()[1:] ** 2
    # A squared normal has relative standard deviation √2.
    assert abs(ratio - 1).max() < 4.5 * math.sqrt(2 / n)


@pytest.mark.parametrize("boundary", ["periodic", "neumann", "dirichlet"])
@pytest.mark.parametrize("n_dims", [1, 2, 3])
def test_same_key_on_a_finer_grid_is_the_same_field(x64, boundary, n_dims):
    del x64
    key = jax.random.key(5)
    coarse = Grid(0.0, 1.0, (9,) * n_dims, periodic=boundary == "periodic")
    window = (slice(None), *(slice(None, None, 3),) * n_dims)
    # Four modes are resolved, six are not (they alias on a torus): equal at common points anyway.
    for n_modes in (4, 6) if n_dims < 3 else (4,):
        law = GaussianRandomField(2.0, 5.0, boundary=boundary, n_modes=n_modes)
        fine = law.sample(key, coarse.refine(3))[window]
        np.testing.assert_allclose(law.sample(key, coarse), fine, atol=1e-12)


def test_finer_grid_adds_modes_and_keeps_the_others(x64):
    del x64
    law = GaussianRandomField(2.0, 5.0)
    key = jax.random.key(5)
    coarse, fine = (
        np.fft.rfft2(law.sample(key, Grid(0.0, 1.0, (n, n), periodic=True))[0], norm="forward")
        for n in (16, 32)
    )
    k = np.arange(-7, 8)
    np.testing.assert_allclose(fine[k, :8], coarse[k, :8], atol=1e-14)
    assert abs(fine[8, 3]) > 1e-5


def test_works_under_jit_vmap_and_in_both_precisions():
    law = GaussianRandomField(2.0, 3.0)
    grid = Grid(0.0, 1.0, 16, periodic=True)
    key = jax.random.key(1)
    eager = law.sample(key, grid)
    assert eager.dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(law.sample, static_argnums=1)(key, grid), eager, atol=1e-6)
    with jax.enable_x64(True):
        assert law.sample(key, grid).dtype == jnp.float64
        assert law.sample(key, grid, jnp.float32).dtype == jnp.float32


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0.0, 3.0), {}, "alpha must be positive"),
        ((2.0, -1.0), {}, "tau must be positive"),
        ((2.0, float("nan")), {}, "tau must be positive"),
        ((2.0, 3.0), {"variance_scale": 0.0}, "variance_scale must be positive"),
        ((2.0, 3.0), {"boundary": "robin"}, "boundary must be one of"),
        ((2.0, 3.0), {"n_modes": 0}, "n_modes must be at least 1"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        GaussianRandomField(*arguments, **options)


def test_bad_grids():
    key = jax.random.key(0)
    torus, box = Grid(0, 1, (8, 8), periodic=True), Grid(0, 1, (8, 8))
    with pytest.raises(ValueError, match="does not fit"):
        GaussianRandomField(2.0, 3.0).sample(key, box)
    with pytest.raises(ValueError, match="does not fit"):
        GaussianRandomField(2.0, 3.0, boundary="neumann").sample(key, torus)
    with pytest.raises(ValueError, match="must exceed d/2"):
        GaussianRandomField(1.0, 3.0).sample(key, torus)
    with pytest.raises(TypeError, match="expected a Grid"):
        GaussianRandomField(2.0, 3.0).sample(key, (8, 8))  # type: ignore[arg-type]
