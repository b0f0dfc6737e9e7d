"""Sums of waves: against polynomials of NumPy, transforms on grids, and bounds from the theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pinn import (
    Energy,
    SpectralFunction,
    descend_on_grid,
    from_grid,
    merge,
    multiply,
    to_two_layer,
    variational_descent,
)


def plane(n):
    """Points of [0, 2π)², (n, n, 2)."""
    side = 2 * np.pi * np.arange(n) / n
    return np.stack(np.meshgrid(side, side, indexing="ij"), -1)


def random_sum(seed, n, d, low=-2, high=3):
    rng = np.random.default_rng(seed)
    coefs = (rng.normal(size=n) + 1j * rng.normal(size=n)) / n
    freqs = rng.integers(low, high, (n, d))
    return merge(SpectralFunction(jnp.asarray(freqs), jnp.asarray(coefs)), n)[0]


def two_sided(u):
    """The Laurent polynomial's coefficients for −K, …, K, of a sum in one dimension."""
    k, c = np.asarray(u.freqs)[:, 0], np.asarray(u.coefs)
    top = int(np.abs(k).max())
    full = np.zeros(2 * top + 1, complex)
    np.add.at(full, top + k, c / 2)
    np.add.at(full, top - k, np.conj(c) / 2)
    return full


def test_coefficients_of_products_are_numpys(x64):
    u, v = random_sum(0, 5, 1), random_sum(1, 5, 1)
    make = jax.jit(lambda u, v: (*multiply(u, v, 40), *u.compose_poly((0.3, 0.0, -1.0, 2.0), 40)))
    product, lost, cubic, more = make(u, v)
    wanted = np.convolve(two_sided(u), two_sided(v))
    found = two_sided(product)
    gap = (len(wanted) - len(found)) // 2
    np.testing.assert_allclose(np.pad(found, gap), wanted, atol=1e-14)
    values = np.convolve(np.convolve(two_sided(u), two_sided(u)), two_sided(u)) * 2
    square = np.convolve(two_sided(u), two_sided(u))
    side = (len(values) - len(square)) // 2
    values -= np.pad(square, side)
    values[len(values) // 2] += 0.3
    found = two_sided(cubic)
    np.testing.assert_allclose(np.pad(found, (len(values) - len(found)) // 2), values, atol=1e-14)
    assert float(lost) < 1e-14 and float(more) < 1e-14


def test_in_two_dimensions_waves_are_what_a_grid_says(x64):
    u = random_sum(2, 6, 2)
    points = jnp.asarray(plane(12)).reshape(-1, 2)

    @jax.jit
    def measure(u):
        values, slopes = jax.vmap(jax.value_and_grad(u))(points)
        again = from_grid(values.reshape(12, 12))
        squared, _ = multiply(u, u, 100, gradients=True)
        norms = u.barron_norm(), u.sobolev_norm(0.0), u.sobolev_norm()
        x = jnp.array([0.3, 2.2])
        pair = again(x), u(x)
        return values, slopes, jax.vmap(squared)(points), again.barron_norm(), norms, pair

    values, slopes, squared, barron, norms, pair = measure(u)
    np.testing.assert_allclose(*pair, atol=1e-13)
    np.testing.assert_allclose(barron, norms[0], rtol=1e-12)
    np.testing.assert_allclose(norms[1], np.sqrt(np.mean(values**2)), rtol=1e-12)
    np.testing.assert_allclose(squared, np.sum(slopes**2, -1), atol=1e-12)
    energy = np.mean(values**2) + np.mean(np.sum(slopes**2, -1))
    np.testing.assert_allclose(norms[2] ** 2, energy, rtol=1e-12)


def test_descent_on_waves_is_descent_on_a_grid_and_contracts(x64):
    energy = Energy((0.1, 1.0, 0.2), 1.0, 0.3)
    f = SpectralFunction(jnp.array([[1, 0], [1, -1]]), jnp.array([0.4, 0.3j]))
    points = jnp.asarray(plane(32)).reshape(-1, 2)

    @jax.jit
    def run(f):
        eta = 0.6
        found = variational_descent(energy, f, eta, 6, capacity=60, prune=1e-9, most_lost=0.1)
        values = jax.vmap(f)(points).reshape(32, 32)
        grid = descend_on_grid(energy, values, eta, 40)
        return found, grid, jax.vmap(found.u)(points).reshape(32, 32)

    found, grid, last = run(f)
    # Of 6 steps, each loses at most this much in a norm above all others.
    assert np.max(np.abs(last - grid[5])) <= np.sum(found.lost) + 1e-12
    assert np.sum(found.lost) < 1e-2
    assert np.max(np.abs(last - grid[5])) < 1e-4
    # The reference is 40 steps on the grid; on its values the step's contraction is known.
    u = np.concatenate([np.zeros((1, 32, 32)), grid])
    k = np.fft.fftfreq(32, 1 / 32)
    weight = 1 + k[:, None] ** 2 + k**2
    size = np.sqrt(np.sum(weight * np.abs(np.fft.fft2(u - u[-1])) ** 2, (1, 2)))
    m, big = energy.constants(float(found.u.barron_norm()))
    rate = max(abs(1 - 0.6 * m), abs(1 - 0.6 * big))
    assert rate < 0.95
    assert np.all(size[1:10] <= rate * size[:9])
    # b ← b + η (‖∂_u L‖ + ‖div ∂_p L‖ + ‖f‖), each preconditioned: the step that the proof takes.
    norms = np.concatenate([[0.0], found.barron])
    grown = 0.1 + 2 * norms + 0.2 * norms**2 + 0.3 * norms**3
    assert np.all(norms[1:] <= norms[:-1] + 0.6 * (grown[:-1] + float(f.barron_norm())))


def test_a_reaction_that_is_no_polynomial_contracts_by_its_strength(x64):
    x = 2 * jnp.pi * jnp.arange(64) / 64
    exact = jnp.cos(x) + 0.5 * jnp.sin(2 * x)
    a = 0.6
    energy = Energy(lambda u: u + a * jnp.sin(u))
    f = jnp.cos(x) + 2 * jnp.sin(2 * x) + energy.rate(exact)
    iterates = jax.jit(lambda f: descend_on_grid(energy, f, 1.0, 6))(f)
    gaps = np.concatenate([exact[None], exact - iterates])
    weight = 1 + np.fft.rfftfreq(64, 1 / 64) ** 2
    errors = np.sqrt(np.sum(weight * np.abs(np.fft.rfft(gaps)) ** 2, -1))
    assert np.all(errors[1:] / errors[:-1] <= a)
    assert errors[-1] < a**6 * errors[0]
    low, high = energy.constants(np.pi)
    np.testing.assert_allclose([low, high], [1 - a, 1 + a], rtol=1e-5)


def test_networks_have_their_function_as_mean_and_barrons_error(key, x64):
    u = merge(
        SpectralFunction(
            jnp.array([[0, 0, 0], [1, 0, 2], [-1, 1, 0]]), jnp.array([0.4, 0.3 + 0.4j, -0.6])
        ),
        3,
    )[0]
    size = np.abs(np.asarray(u.coefs)) * np.any(np.asarray(u.freqs), -1)
    reach = np.pi * np.abs(np.asarray(u.freqs)).sum(-1)

    @jax.jit
    def networks(key):
        x = jax.random.uniform(key, (100, 3), minval=-jnp.pi, maxval=jnp.pi)
        keys = jax.random.split(key, 200)

        def gaps(kind):
            return jax.vmap(lambda k: jax.vmap(to_two_layer(u, 64, k, kind))(x))(keys) - exact

        exact = jax.vmap(u)(x)
        return gaps("step"), gaps("cosine")

    bounds = 2 * np.sum(size * reach), np.sum(size)
    for gaps, bound in zip(networks(key), bounds, strict=True):
        error = np.sqrt(np.mean(gaps**2))
        assert 0.1 * bound / 8 < error <= bound / 8
        # The mean of 200 networks is 14 times closer.
        assert np.sqrt(np.mean(np.mean(gaps, 0) ** 2)) < 2 * error / 14


def test_frequencies_are_merged_where_all_entries_agree_and_counted_where_they_go():
    freqs = jnp.array([[1, 0], [-1, 0], [0, 1], [1, 0], [0, 0]])
    u, lost = merge(SpectralFunction(freqs, jnp.array([1.0, 1j, 0.1, 1.0, 2 + 1j])), 2)
    found = {tuple(k): complex(c) for k, c in zip(u.freqs.tolist(), u.coefs, strict=True)}
    assert found == {(1, 0): 2 - 1j, (0, 0): 2}
    np.testing.assert_allclose(lost, 0.2, rtol=1e-5)  # a difference of float32
    assert int(u.terms()) == 2


def test_bad_input(key):
    u = SpectralFunction(jnp.array([[1], [2]]), jnp.array([0.5, 0.5j]))
    with pytest.raises(ValueError, match=r"not convex: m = -0.5"):
        Energy((0.0, -0.5)).step_size(1.0)
    with pytest.raises(ValueError, match="reaction is a function"):
        Energy(jnp.sin).variation(u, 4)
    with pytest.raises(ValueError, match="eta = 0"):
        variational_descent(Energy(), u, 0.0, 3, capacity=4)
    with pytest.raises(ValueError, match="capacity = 0"):
        variational_descent(Energy(), u, 1.0, 3, capacity=0)
    with pytest.raises(ValueError, match="expected integers"):
        SpectralFunction(jnp.array([[1.0]]), jnp.array([1j]))
    with pytest.raises(ValueError, match=r"expected \(m, d\) and \(m,\)"):
        SpectralFunction(jnp.array([[1]]), jnp.array([1j, 2.0]))
    with pytest.raises(ValueError, match="activation = 'relu'"):
        to_two_layer(u, 4, key, "relu")
    with pytest.raises(RuntimeError, match="pruning to 1 waves"):
        variational_descent(Energy(), u, 1.0, 1, capacity=1, most_lost=0.1)
