"""Closures: the filter identity, the fit against NumPy's, the vector field in diffrax."""

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.operators import Closure, PolynomialClosure, no_closure, unresolved
from jaxsci.pde import TwoScaleLorenz96

FINE = TwoScaleLorenz96(dt=0.005, n_fast=6, forcing=20.0, coupling=0.7, time_scale=8.0)


def coarse(x):
    return -jnp.roll(x, 1) * (jnp.roll(x, 2) - jnp.roll(x, -1)) - x + 20.0


def test_what_lorenz_leaves_out_is_the_coupling_term(x64, key):
    u = 3 * jr.normal(key, (7, 9))
    found = unresolved(FINE.tendency, lambda x: coarse(x[0])[None], lambda u: u[:1], u)
    # h c/b = 0.7 · 8/10; rounding alone.
    np.testing.assert_allclose(found[0], -0.56 * jnp.sum(u[1:], axis=0), rtol=1e-12, atol=1e-12)


def test_a_linear_filter_of_a_product(x64):
    """R of Burgers' flux under a spectral cut-off, against the same by NumPy."""
    n, cut = 32, 5
    u = np.random.default_rng(0).normal(size=n)

    def low(v, xp):
        spectrum = xp.fft.rfft(v)
        return xp.fft.irfft(xp.where(xp.arange(n // 2 + 1) <= cut, spectrum, 0), n)

    found = unresolved(lambda v: v**2, lambda v: v**2, lambda v: low(v, jnp), jnp.asarray(u))
    # G of the tendency, G being linear, minus the tendency of G u.
    np.testing.assert_allclose(found, low(u**2, np) - low(u, np) ** 2, atol=1e-13)


@pytest.mark.parametrize("degree", [0, 1, 4])
def test_the_polynomial_is_numpys(x64, key, degree):
    u = 3 + 7 * jr.normal(key, (20, 1, 8))
    r = jnp.sin(u) + 0.1 * jr.normal(jr.key(1), u.shape)
    fitted = PolynomialClosure.fit(u, r, degree)
    expected = np.polynomial.Polynomial.fit(np.ravel(u), np.ravel(r), degree)
    probe = jnp.linspace(-10, 15, 12).reshape(1, 12)
    # The same least-squares problem in another basis: rounding times its condition number.
    np.testing.assert_allclose(fitted(probe), expected(np.asarray(probe)), rtol=1e-8, atol=1e-9)


def test_single_precision_suffices(key):
    u = 100 + 7 * jr.normal(key, (200, 1, 8))
    fitted = PolynomialClosure.fit(u, 2 + 0.5 * u, 4)
    # Powers up to 4 of uncentred values of 100 would lose all of float32's 7 digits.
    np.testing.assert_allclose(fitted(u[0]), 2 + 0.5 * u[0], rtol=1e-4)


def test_with_the_exact_correction_the_coarse_model_is_the_fine_one(x64, key):
    """A fine model with frozen fast variables has a constant r; diffrax then gives equal paths."""
    fast = jr.normal(key, (6, 9))
    x0 = 5 * jr.normal(jr.key(1), (9,))
    r = -0.56 * jnp.sum(fast, 0)

    def solve(field):
        return diffrax.diffeqsolve(diffrax.ODETerm(field), diffrax.Tsit5(), 0.0, 0.3, 0.01, x0).ys

    exact = solve(lambda t, x, args: FINE.tendency(jnp.concatenate([x[None], fast]))[0])
    closed = solve(Closure(coarse, lambda x: r))
    driven = solve(Closure(lambda t, x, args: coarse(x), lambda x: r, autonomous=False))
    np.testing.assert_allclose(closed, exact, rtol=1e-11)
    np.testing.assert_allclose(driven, closed, rtol=1e-13)
    assert jnp.max(jnp.abs(solve(Closure(coarse, no_closure)) - exact)) > 0.1


def test_what_is_refused(key):
    u = jnp.ones((3, 1, 8))
    with pytest.raises(ValueError, match="PolynomialClosure: u has shape"):
        PolynomialClosure.fit(u, u[:2], 1)
    with pytest.raises(ValueError, match="degree must not be negative"):
        PolynomialClosure.fit(u, u, -1)
    with pytest.raises(ValueError, match="1 values do not determine degree 4"):
        PolynomialClosure.fit(u[:1, :, :1], u[:1, :, :1], 4)
    with pytest.raises(ValueError, match=r"unresolved: .* \(1, 8\), .* \(1, 4\)"):
        unresolved(jnp.sin, lambda v: v[:, ::2], lambda v: v, u[0])
    with pytest.raises(ValueError, match="Closure: correction returns shape"):
        Closure(jnp.sin, lambda v: v[:, :4])(0.0, u[0])
    assert jax.eval_shape(no_closure, u[0]).shape == (1, 8)
