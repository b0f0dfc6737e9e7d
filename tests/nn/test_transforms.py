"""Transforms against closed forms and numpy's FFT: even and odd grids, above Nyquist, 1-3 D."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from jaxsci.nn import Cosine, Fourier, wavenumbers

# Double precision sums of a few hundred terms of size one.
TOLERANCE = 1e-12
SHAPES = [((16,), (5,)), ((15,), (5,)), ((6,), (5,)), ((5,), (5,)), ((12, 9), (4, 5)),
          ((7, 6), (4, 5)), ((6, 5, 8), (2, 3, 3))]  # fmt: skip


def random_field(shape, channels=2):
    return np.random.default_rng(0).standard_normal((channels, *shape))


def fft_coefficients(u, modes):
    """The definition, from numpy's full FFT: pick the wavenumbers that the grid resolves."""
    shape = u.shape[1:]
    coef = np.fft.fftn(u, axes=range(1, u.ndim), norm="forward")
    for axis, (m, n) in enumerate(zip(modes, shape, strict=True)):
        if axis < len(modes) - 1:
            k = [k for k in wavenumbers(m) if -(n // 2) <= k <= (n - 1) // 2]
        else:
            k = [k for k in range(m) if k <= n // 2]
        coef = np.take(coef, np.array(k) % n, axis + 1)
    return coef


@pytest.mark.parametrize("method", ["dft", "fft"])
@pytest.mark.parametrize(("shape", "modes"), SHAPES)
def test_fourier_coefficients_are_numpys(shape, modes, method, x64):
    u = random_field(shape)
    expected = fft_coefficients(u, modes)
    np.testing.assert_allclose(Fourier(modes, method).forward(u), expected, atol=TOLERANCE)


@pytest.mark.parametrize("method", ["dft", "fft"])
@pytest.mark.parametrize(("shape", "modes"), SHAPES)
def test_fourier_inverse_is_irfft(shape, modes, method, x64):
    # Arbitrary coefficients, also where Hermitian symmetry fails: what irfftn drops, we drop.
    transform = Fourier(modes, method)
    kept = transform.kept(shape)
    size = (2, *(len(k) for k in kept))
    rng = np.random.default_rng(1)
    coef = rng.standard_normal(size) + 1j * rng.standard_normal(size)
    full = np.zeros((2, *shape[:-1], shape[-1] // 2 + 1), complex)
    where = [wavenumbers(m)[k] % n for m, k, n in zip(modes, kept, shape, strict=True)]
    where[-1] = kept[-1]
    full[(slice(None), *np.ix_(*where))] = coef
    expected = np.fft.irfftn(full, s=shape, axes=range(1, len(shape) + 1), norm="forward")
    np.testing.assert_allclose(transform.inverse(coef, shape), expected, atol=TOLERANCE)


def test_float32_matrices_are_as_good_as_the_fft():
    # The matrix is made in double precision with a reduced angle, so what is left is rounding: the
    # partial sums are at most 0.02, and 8192 additions in float32 err by 0.02 · 6e-8 · √8192 = 1e-7
    # if they come one after the other (less in blocks). Twice that is 1e-5 of a coefficient.
    u = random_field((8192,), 1).astype(np.float32)
    exact = np.fft.rfft(u.astype(np.float64), norm="forward")[:, :16]
    np.testing.assert_allclose(Fourier((16,), "dft").forward(u), exact, atol=2e-7)


@pytest.mark.parametrize("modes", [(5,), (3, 4)])
def test_fourier_at_points_and_derivatives(modes, x64):
    # A trigonometric polynomial, its derivatives by hand, at points off the grid.
    d = len(modes)
    x = np.random.default_rng(2).uniform(size=(7, d))

    def u(x, *, derivative):
        phase = 2 * np.pi * (2 * x[..., -1] + (x[..., 0] if d > 1 else 0)) + 0.3
        return (4 * np.pi) ** derivative * np.cos(phase + derivative * np.pi / 2)

    grid = np.stack(np.meshgrid(*(np.arange(n) / n for n in (16, 12)[:d]), indexing="ij"), -1)
    transform = Fourier(modes)
    coef = transform.forward(jnp.asarray(u(grid, derivative=0))[None])
    for order in (0, 1, 2, 3):
        got = transform.evaluate(transform.derivative(coef, d - 1, order), jnp.asarray(x))
        # The derivative multiplies rounding by (2πk)^order.
        expected = u(x, derivative=order)
        np.testing.assert_allclose(got[0], expected, atol=TOLERANCE * 50**order)


@pytest.mark.parametrize(("shape", "modes"), [((9,), (4,)), ((6, 8), (6, 3)), ((3,), (5,))])
def test_cosine_is_scipys_dct(shape, modes, x64):
    u = random_field(shape)
    window = tuple(slice(min(m, n)) for m, n in zip(modes, shape, strict=True))
    # scipy's orthonormal DCT-II has unit sums over points, ours unit integrals: a factor √N.
    expected = scipy.fft.dctn(u, axes=range(1, u.ndim), norm="ortho") / np.sqrt(np.prod(shape))
    transform = Cosine(modes)
    coef = transform.forward(u)
    np.testing.assert_allclose(coef, expected[(slice(None), *window)], atol=TOLERANCE)
    back = np.zeros_like(expected)
    back[(slice(None), *window)] = coef
    back = scipy.fft.idctn(back, axes=range(1, u.ndim), norm="ortho") * np.sqrt(np.prod(shape))
    np.testing.assert_allclose(transform.inverse(coef, shape), back, atol=TOLERANCE)


def test_cosine_at_points_and_second_derivative(x64):
    transform = Cosine((4, 3))
    coef = jnp.zeros((1, 4, 3)).at[0, 3, 1].set(1.0)
    x = np.random.default_rng(3).uniform(size=(6, 2))
    expected = 2 * np.cos(3 * np.pi * x[:, 0]) * np.cos(np.pi * x[:, 1])
    np.testing.assert_allclose(transform.evaluate(coef, jnp.asarray(x))[0], expected, atol=1e-12)
    second = transform.evaluate(transform.derivative(coef, 0, 2), jnp.asarray(x))[0]
    np.testing.assert_allclose(second, -((3 * np.pi) ** 2) * expected, atol=1e-10)


@pytest.mark.parametrize("transform", [Fourier((5,)), Cosine((4, 5))])
def test_jit_vmap_grad_and_resolutions(transform):
    shape = (16,) * transform.n_dims

    def smooth(coef):
        return transform.inverse(coef, shape)

    u = jax.random.normal(jax.random.key(0), (3, 1, *shape))
    coef = jax.jit(jax.vmap(transform.forward))(u)
    low = jax.vmap(smooth)(coef)
    # A projection: applying it again changes nothing but rounding in float32.
    again = jax.vmap(smooth)(jax.vmap(transform.forward)(low))
    np.testing.assert_allclose(again, low, atol=2e-6)
    grad = jax.grad(lambda u: jnp.sum(smooth(transform.forward(u)) ** 2))(u[0])
    # The projection is orthogonal: the gradient of ‖Pu‖² is 2Pu.
    np.testing.assert_allclose(grad, 2 * low[0], atol=1e-5)


def test_auto_chooses_by_size():
    few, many = Fourier((16,)), Fourier((400,))
    assert few._by_matrix((1024,)) and not many._by_matrix((1024,))


def test_bad_input():
    for modes in (0, -2, (4, 0), (), 2.0, True, (3, 1.5)):
        with pytest.raises((ValueError, TypeError), match=r"modes|iterable"):
            Fourier(modes)
    with pytest.raises(ValueError, match="method: expected one of"):
        Fourier((4,), "fast")
    transform = Fourier((4, 4))
    with pytest.raises(ValueError, match="expected 2 grid axes"):
        transform.forward(jnp.ones((1, 8)))
    with pytest.raises(TypeError, match="u: expected real floating-point"):
        transform.forward(jnp.ones((1, 8, 8), int))
    with pytest.raises(TypeError, match="u: expected real floating-point"):
        transform.forward(jnp.ones((1, 8, 8), complex))
    with pytest.raises(ValueError, match="has coefficients"):
        transform.inverse(jnp.ones((1, 3, 3), complex), (8, 8))
    with pytest.raises(ValueError, match="axis: expected"):
        transform.derivative(jnp.ones((1, 8, 4), complex), 2)
    with pytest.raises(ValueError, match="expected points of shape"):
        transform.evaluate(jnp.ones((1, 8, 4), complex), jnp.ones((3, 1)))
    with pytest.raises(ValueError, match="odd derivatives"):
        Cosine((4,)).derivative(jnp.ones((1, 4)), 0, 1)
