"""Tensor bases: the Chebyshev series of NumPy and SciPy, NumPy's FFT, products by quadrature."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.fft
from numpy.polynomial import chebyshev, legendre

from jaxsci.nn import ChebyshevAxis, DenseMixing, FourierAxis, SpectralConv, TensorBasis

MIXED = TensorBasis((ChebyshevAxis(6), FourierAxis(7)))


def test_scipys_cosine_transform_and_numpys_series(x64, key):
    del x64
    basis = TensorBasis((ChebyshevAxis(9),))
    u = np.asarray(jr.normal(key, (2, 9)))
    coef = basis.forward(jnp.asarray(u))
    # Our nodes rise, SciPy's angles do: the values are turned around.
    expected = (
        np.asarray(scipy.fft.dct(u[:, ::-1], axis=1)) / 9 * np.where(np.arange(9) == 0, 0.5, 1)
    )
    # The same sums in float64, here and below.
    np.testing.assert_allclose(coef, expected, atol=1e-13)
    np.testing.assert_allclose(basis.inverse(coef, (9,)), u, atol=1e-13)
    x = np.linspace(0, 1, 12)
    series = chebyshev.chebval(2 * x - 1, np.asarray(coef).T)
    np.testing.assert_allclose(basis.evaluate(coef, jnp.asarray(x)[:, None]), series, atol=1e-12)
    slopes = 2 * chebyshev.chebder(np.asarray(coef), axis=1)
    np.testing.assert_allclose(basis.derivative(coef, 0)[:, :-1], slopes, atol=1e-11)


@pytest.mark.parametrize("points", [7, 10])
def test_numpys_fourier_transform(x64, key, points):
    del x64
    basis = TensorBasis((FourierAxis(7),))
    u = np.asarray(jr.normal(key, (1, points)))
    c = np.fft.rfft(u, norm="forward")[:, 1:4]
    waves = np.sqrt(2) * np.stack([c.real, -c.imag], -1).reshape(1, 6)
    expected = np.concatenate([u.mean(1, keepdims=True), waves], 1)
    np.testing.assert_allclose(basis.forward(jnp.asarray(u)), expected, atol=1e-14)


def test_derivatives_of_functions(x64):
    del x64
    t, x = MIXED.nodes()
    u = MIXED.forward(jnp.asarray(t**3 * np.sin(4 * np.pi * x))[None])
    for axis, order, expected in (
        (0, 2, 6 * t * np.sin(4 * np.pi * x)),
        (1, 1, 4 * np.pi * t**3 * np.cos(4 * np.pi * x)),
        (1, 2, -16 * np.pi**2 * t**3 * np.sin(4 * np.pi * x)),
    ):
        found = MIXED.inverse(MIXED.derivative(u, axis, order), MIXED.modes)[0]
        np.testing.assert_allclose(found, expected, atol=1e-11)


def test_products_and_their_norm_by_quadrature(x64, key):
    """Parseval: the norm of u² in coefficients is Gauss' and the trapezoidal rule's integral."""
    del x64
    u = jr.normal(key, (1, *MIXED.modes))
    square = MIXED.multiply(u, u)
    assert square.shape == (1, 11, 13)
    y, weights = legendre.leggauss(24)
    t, x = (1 + y) / 2, np.arange(40) / 40
    points = tuple(jnp.asarray(p) for p in (t, x))
    values = MIXED.evaluate_product(u, points)
    larger = MIXED.resized((11, 13))
    np.testing.assert_allclose(larger.evaluate_product(square, points), values**2, atol=1e-11)
    integral = np.einsum("i,cij->", weights / 2, np.asarray(values) ** 4) / 40
    np.testing.assert_allclose(larger.inner(square, square), integral, rtol=1e-12)
    # Aliased at the nodes of u, its square has another norm.
    at_nodes = MIXED.forward(MIXED.inverse(u, MIXED.modes) ** 2)
    assert abs(MIXED.inner(at_nodes, at_nodes) / integral - 1) > 1e-2


def test_the_plain_sum_is_not_the_norm(x64):
    del x64
    basis = TensorBasis((ChebyshevAxis(3),))
    linear = basis.forward(jnp.asarray(2 * basis.nodes() - 1))  # ∫ (2x − 1)² = 1/3
    np.testing.assert_allclose(basis.inner(linear, linear), 1 / 3, rtol=1e-14)
    np.testing.assert_allclose(basis.inner(linear, linear, "coef"), 1.0, rtol=1e-14)


def test_truncation_is_a_slice_and_padding_its_inverse(x64, key):
    del x64
    u = jr.normal(key, (1, *MIXED.modes))
    more = MIXED.pad(u, (8, 9))
    points = tuple(jnp.linspace(0, 1, 5) for _ in range(2))
    found = MIXED.resized((8, 9)).evaluate_product(more, points)
    np.testing.assert_allclose(found, MIXED.evaluate_product(u, points), atol=1e-14)
    # A coarse grid has the first coefficients of a function that it resolves.
    coarse = MIXED.inverse(u[:, :4, :5], (4, 6))
    np.testing.assert_allclose(MIXED.forward(coarse), u[:, :4, :5], atol=1e-14)
    scattered = jnp.stack(jnp.meshgrid(*points, indexing="ij"), -1).reshape(-1, 2)
    found = MIXED.evaluate(u, scattered).reshape(1, 5, 5)
    np.testing.assert_allclose(found, MIXED.evaluate_product(u, points), atol=1e-13)


def test_convolutions_take_it_as_any_transform(x64, key):
    del x64
    layer = SpectralConv(MIXED, 2, 3, key=key)
    assert isinstance(layer.mixing, DenseMixing)
    u = jr.normal(key, (2, 8, 8))
    out = eqx.filter_jit(layer)(u)
    expected = np.einsum(
        "iab,abio->oab", np.asarray(MIXED.forward(u)), np.asarray(layer.mixing.tensor())
    )
    np.testing.assert_allclose(MIXED.forward(out), expected, atol=1e-13)


def test_derivatives_exist_at_the_ends_of_an_interval(x64):
    del x64
    basis = TensorBasis((ChebyshevAxis(5),))
    coef = jnp.asarray([[1.0, -2.0, 3.0, 0.5, 1.0]])
    slope = jax.vmap(jax.grad(lambda x: basis.evaluate(coef, x[None, None])[0, 0]))
    ends = jnp.asarray([0.0, 1.0])
    expected = basis.evaluate(basis.derivative(coef, 0), ends[:, None])[0]
    np.testing.assert_allclose(slope(ends), expected, rtol=1e-13)


WRONG: Any = "x"
U = jnp.ones((1, 6, 7))
BAD: list[tuple[Any, type, str]] = [
    (lambda: ChebyshevAxis(1), ValueError, "at least 2"),
    (lambda: FourierAxis(4), ValueError, "odd number"),
    (lambda: FourierAxis(0), ValueError, "positive number"),
    (lambda: TensorBasis(()), ValueError, "at least one axis"),
    (lambda: TensorBasis((WRONG,)), TypeError, "FourierAxis or ChebyshevAxis"),
    (lambda: MIXED.forward(U[0]), ValueError, "2 grid axes"),
    (lambda: MIXED.forward(U.astype(int)), TypeError, "floating-point"),
    (lambda: MIXED.inverse(U, (4, 4)), ValueError, "has coefficients"),
    (lambda: MIXED.derivative(U, 2), ValueError, "axis: expected"),
    (lambda: MIXED.derivative(U, 0, -1), ValueError, "order: expected"),
    (lambda: MIXED.derivative(U[:, 1:], 0), ValueError, "expected coefficients"),
    (lambda: MIXED.pad(U, (5, 7)), ValueError, "at least"),
    (lambda: MIXED.inner(U, U[:, 1:]), ValueError, "equal shapes"),
    (lambda: MIXED.inner(U, U, WRONG), ValueError, "norm: expected"),
    (lambda: MIXED.evaluate(U, jnp.ones((3, 1))), ValueError, "expected points"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
