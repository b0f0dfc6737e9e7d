"""Fields: one-layer formulas in numpy, initial laws, tables, fitting, edges, bad input."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage
import skimage

from jaxsci.autodiff import laplacian
from jaxsci.fields import (
    FourierField,
    GaussNet,
    HashGrid,
    ProgressiveField,
    Siren,
    SplitField,
    Wire,
    edge_points,
    field_at,
    fit_field,
    fit_many,
    image_coordinates,
    init_at_singularities,
    psnr,
    weights_matrix,
)

X = np.array([0.3, -0.6], np.float32)


def affine(layer, h):
    return np.asarray(layer.weight, np.float64) @ h + np.asarray(layer.bias, np.float64)


def complex_affine(layer, h):
    """W h + b with complex W and b."""
    w = np.asarray(layer.real.weight, float) + 1j * np.asarray(layer.imaginary.weight, float)
    return w @ h + np.asarray(layer.real.bias, float) + 1j * np.asarray(layer.imaginary.bias, float)


def test_wire_is_its_formula(key):
    field = Wire(2, 3, width=5, depth=2, omega0=7.0, sigma0=2.0, key=key)
    z = affine(field.first, X).astype(complex)
    h = np.exp(7j * z - np.abs(2 * z) ** 2)
    z = complex_affine(field.hidden[0], h)
    h = np.exp(7j * z - np.abs(2 * z) ** 2)
    np.testing.assert_allclose(field(X), complex_affine(field.head, h).real, rtol=1e-4, atol=1e-5)
    real = Wire(2, 3, width=5, depth=2, omega0=7.0, sigma0=2.0, complex=False, key=key)
    h = affine(real.first, X)
    h = np.cos(7 * h) * np.exp(-((2 * h) ** 2))
    h = affine(real.hidden[0], h)
    h = np.cos(7 * h) * np.exp(-((2 * h) ** 2))
    np.testing.assert_allclose(real(X), affine(real.head, h), rtol=1e-4, atol=1e-5)


def test_siren_and_gaussian_are_their_formulas(key):
    siren = Siren(2, 2, width=6, depth=2, omega0=20.0, omega_first=10.0, key=key)
    h = np.sin(10 * affine(siren.layers[0], X))
    h = np.sin(20 * affine(siren.layers[1], h))
    np.testing.assert_allclose(siren(X), affine(siren.layers[2], h), rtol=1e-4, atol=1e-5)
    gauss = GaussNet(2, "scalar", width=6, depth=1, sigma0=3.0, key=key)
    h = np.exp(-((3 * affine(gauss.layers[0], X)) ** 2))
    np.testing.assert_allclose(gauss(X), affine(gauss.layers[1], h)[0], rtol=1e-4)


def test_siren_starts_normal_in_every_layer(key):
    """Pre-activations ω₀(Wh) of deep layers have variance near 1, whatever the depth."""
    field = Siren(2, 1, width=256, depth=6, key=key)
    h = np.random.default_rng(0).uniform(-1, 1, (500, 2))
    for i, layer in enumerate(field.layers[:-1]):
        z = 30 * (h @ np.asarray(layer.weight).T)
        if i > 0:
            # U(±√(6/n)/ω₀) has variance 2/(n ω₀²), and E sin² = 1/2.
            np.testing.assert_allclose(z.std(), 1.0, rtol=0.15)
        h = np.sin(z)


FIELDS = {
    "siren": lambda k: Siren(2, "scalar", width=16, key=k),
    "wire": lambda k: Wire(2, "scalar", width=12, omega0=4.0, sigma0=4.0, key=k),
    "real wire": lambda k: Wire(2, "scalar", width=16, complex=False, key=k),
    "gauss": lambda k: GaussNet(2, "scalar", width=16, sigma0=4.0, key=k),
    "fourier": lambda k: FourierField(2, "scalar", features=16, width=16, key=k),
    "hash": lambda k: HashGrid(2, "scalar", levels=4, finest=32, table=256, width=16, key=k),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_fit_and_have_jets(name, key):
    field = FIELDS[name](key)
    x = image_coordinates(12, 12)
    y = jnp.sin(3 * x[:, 0]) * jnp.cos(2 * x[:, 1])
    run = eqx.filter_jit(lambda f: fit_field(f, x, y, optax.adam(3e-3), steps=150))
    fitted = run(field)
    assert fitted.losses[-1] < 0.2 * fitted.losses[0]
    if name not in ("hash", "fourier"):  # piecewise linear ones have no second derivative
        hessian = jax.hessian(field)(jnp.asarray(X))
        np.testing.assert_allclose(
            laplacian(field, X), jnp.trace(hessian), rtol=2e-3, atol=2e-3 * jnp.abs(hessian).max()
        )


def test_hash_grid_interpolates(key):
    """Without collisions the encoding is bilinear: exact for tables that hold x and y."""
    grid = HashGrid(2, 1, levels=1, coarsest=4, finest=4, table=32, features=2, key=key)
    corners = np.stack(np.meshgrid(np.arange(5), np.arange(5), indexing="ij"), -1).reshape(-1, 2)
    table = np.zeros((1, 32, 2), np.float32)
    table[0, : len(corners)] = corners / 2 - 1
    grid = eqx.tree_at(lambda g: g.encode.tables, grid, jnp.asarray(table))
    points = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    np.testing.assert_allclose(jax.vmap(grid.encode)(points), points, atol=1e-6)
    np.testing.assert_allclose(grid.encode(jnp.array([1.0, -1.0])), [1, -1], atol=1e-6)
    hashed = HashGrid(3, 1, levels=2, coarsest=16, finest=32, table=64, key=key)
    ones = eqx.tree_at(lambda g: g.encode.tables, hashed, jnp.ones_like(hashed.encode.tables))
    # The weights of the corners sum to one, whichever entries they share.
    np.testing.assert_allclose(ones.encode(jnp.array([0.1, 0.2, -0.7])), 1, rtol=1e-6)


def test_many_fields_at_once_are_single_ones(key):
    field = Siren(1, "scalar", width=8, depth=1, omega0=5.0, key=key)
    x = jnp.linspace(-1, 1, 20)[:, None]
    signals = jnp.stack([jnp.sin(3 * x[:, 0]), x[:, 0] ** 2, jnp.cos(x[:, 0])])
    many = fit_many(field, x, signals, optax.adam(1e-2), steps=60)
    assert many.losses.shape == (3, 60)
    one = eqx.filter_jit(lambda f, y: fit_field(f, x, y, optax.adam(1e-2), steps=60))(
        field, signals[1]
    )
    np.testing.assert_allclose(many.losses[1], one.losses, rtol=1e-3, atol=1e-6)
    rows, rebuild = weights_matrix(many.field)
    assert rows.shape == (3, 8 + 8 + 8 + 1)
    np.testing.assert_allclose(rebuild(rows[2])(x[3]), field_at(many.field, 2)(x[3]), rtol=1e-6)


def test_batches(key):
    field = Siren(1, "scalar", width=8, depth=1, omega0=5.0, key=key)
    x = jnp.linspace(-1, 1, 64)[:, None]
    fitted = fit_field(
        field, x, jnp.sin(2 * x[:, 0]), optax.adam(1e-2), steps=100, batch_size=16, key=key
    )
    assert fitted.losses[-10:].mean() < 0.2 * fitted.losses[:10].mean()


def test_edges_and_wavelets_on_them(key):
    """A disc: edges lie on the circle, with radial normals, and first-layer centres on edges."""
    x = image_coordinates(64, 64)
    image = (jnp.linalg.norm(x, axis=1) < 0.6).astype(jnp.float32).reshape(64, 64)
    points, normals = edge_points(image, 1.0)
    radius = np.linalg.norm(points, axis=1)
    assert len(points) > 50 and np.all(np.abs(radius - 0.6) < 0.06)
    radial = np.abs(np.sum(np.asarray(points) / radius[:, None] * normals, 1))
    assert np.mean(radial) > 0.97
    field = init_at_singularities(Wire(2, "scalar", width=40, key=key), points, normals, key=key)
    weight, bias = np.asarray(field.first.weight), np.asarray(field.first.bias)
    size = np.linalg.norm(weight, axis=1)
    assert np.all((size > 0.29) & (size < 1.01))
    # Every unit's line W x + b = 0 touches the circle: its distance from the origin is the radius.
    distance = np.abs(bias) / size
    assert np.median(np.abs(distance - 0.6)) < 0.05
    # Canny's edges of a photograph: almost all of ours lie on or beside one.
    photo = skimage.data.camera()[60:188, 160:288] / 255
    points, _ = edge_points(jnp.asarray(photo, jnp.float32))
    canny = skimage.feature.canny(photo, sigma=1.0)
    far = scipy.ndimage.distance_transform_edt(~canny)
    rows, columns = np.asarray((points + 1) / 2 * 128 - 0.5).round().astype(int).T
    assert np.mean(far[rows, columns] <= 1.5) > 0.9
    jumps, sign = edge_points(jnp.where(jnp.arange(40) < 13, 0.0, 1.0), 1.0)
    assert np.all(np.abs(jumps + 1 - 13 * 2 / 40) < 0.06) and np.all(sign == 1)


def test_progressive_fields_are_their_formula_and_one_sided(key):
    """Numpy's complex powers; its FFT of the network on a wide window, where all atoms decay."""
    field = ProgressiveField(
        2, 2, width=6, depth=2, order=5, frequencies=(10.0, 40.0), key=jax.random.fold_in(key, 1)
    )
    t = np.asarray(field.weight, float) @ X + np.asarray(field.bias, float)
    z = (np.asarray(field.hidden[0], float)[0] + 1j * field.hidden[0][1]) @ (1 - 1j * t) ** -6
    h = z + z**2 / 2
    found = (np.asarray(field.head, float)[0] + 1j * field.head[1]) @ h
    np.testing.assert_allclose(field(X), found.real, rtol=1e-4, atol=1e-5)
    assert np.all(field.weight[:, 0] > 0)

    n, x = 8192, np.linspace(-4, 4, 8192, endpoint=False, dtype=np.float32)[:, None]
    line = ProgressiveField(1, "scalar", width=8, depth=3, frequencies=(40.0, 200.0), key=key)

    def energies(h):
        """The shares of ω < 0, and of ω = 0."""
        spectrum = np.abs(np.fft.fft(h)) ** 2
        negative = np.fft.fftfreq(n) < 0
        return spectrum[negative].sum() / spectrum.sum(), spectrum[0] / spectrum.sum()

    re, im = jax.jit(jax.vmap(line.analytic))(x)
    wrong, zero = energies(np.asarray(re + 1j * im)[:, 0])
    # Rounding of float32, squared. The same polynomial of the real parts has both sides, and beats.
    assert wrong < 1e-10 and zero < 1e-10
    real = np.asarray(re)[:, 0]
    assert energies(real + real**2 / 2)[1] > 1e-4
    np.testing.assert_allclose(
        laplacian(field, X),
        jnp.trace(jax.hessian(field)(jnp.asarray(X)), axis1=1, axis2=2),
        rtol=2e-3,
        atol=0.1,
    )


def test_split_and_psnr(key):
    low, high = GaussNet(1, "scalar", width=4, key=key), Wire(1, "scalar", width=4, key=key)
    x = jnp.array([0.2])
    np.testing.assert_allclose(SplitField(low, high)(x), low(x) + high(x))
    a, b = jnp.zeros(100), jnp.full(100, 0.1)
    np.testing.assert_allclose(psnr(a, b), 20.0, rtol=1e-6)
    wanted = skimage.metrics.peak_signal_noise_ratio(np.asarray(b), np.asarray(a), data_range=2.0)
    np.testing.assert_allclose(psnr(a, b, 2.0), wanted, rtol=1e-6)


def test_bad_input(key):
    with pytest.raises(ValueError, match="Siren: width = 0"):
        Siren(2, 1, width=0, key=key)
    with pytest.raises(ValueError, match="Wire: omega0 = 0"):
        Wire(2, 1, omega0=0.0, key=key)
    with pytest.raises(ValueError, match="GaussNet: sigma0 = -1"):
        GaussNet(2, 1, sigma0=-1.0, key=key)
    with pytest.raises(ValueError, match="ProgressiveField: order = 0"):
        ProgressiveField(2, 1, order=0, key=key)
    with pytest.raises(ValueError, match="expected low <= high"):
        ProgressiveField(2, 1, frequencies=(5.0, 4.0), key=key)
    with pytest.raises(ValueError, match="expected one or two axes"):
        edge_points(jnp.zeros((4, 4, 4)))
    with pytest.raises(ValueError, match="FourierField: features = 0"):
        FourierField(2, 1, features=0, key=key)
    with pytest.raises(ValueError, match="expected from 1 to 4"):
        HashGrid(5, 1, key=key)
    with pytest.raises(ValueError, match="power of two"):
        HashGrid(2, 1, table=100, key=key)
    with pytest.raises(ValueError, match="out of range"):
        HashGrid(2, 1, coarsest=8, finest=4, key=key)
    field, x = Siren(1, "scalar", width=4, key=key), jnp.zeros((5, 1))
    with pytest.raises(ValueError, match=r"values of shape \(4,\)"):
        fit_field(field, x, jnp.zeros(4), optax.sgd(0.1), steps=1)
    with pytest.raises(ValueError, match="steps = 0"):
        fit_field(field, x, jnp.zeros(5), optax.sgd(0.1), steps=0)
    with pytest.raises(ValueError, match="batch_size = 3"):
        fit_field(field, x, jnp.zeros(5), optax.sgd(0.1), steps=1, batch_size=3)
    with pytest.raises(ValueError, match="expected \\(many, n"):
        fit_many(field, x, jnp.zeros(5), optax.sgd(0.1), steps=1)
    with pytest.raises(ValueError, match="at least one pixel"):
        image_coordinates(0, 2)
    with pytest.raises(ValueError, match="expected equal shapes"):
        psnr(jnp.zeros(2), jnp.zeros(3))
    wire = Wire(2, "scalar", width=4, key=key)
    with pytest.raises(ValueError, match="the list of points is empty"):
        init_at_singularities(wire, jnp.zeros((0, 2)), jnp.zeros((0, 2)), key=key)
    with pytest.raises(ValueError, match=r"expected \(p, 2\) both"):
        init_at_singularities(wire, jnp.zeros((3, 1)), jnp.zeros((3, 1)), key=key)
    with pytest.raises(ValueError, match="expected 0 < low <= high"):
        init_at_singularities(wire, jnp.zeros((3, 2)), jnp.ones((3, 2)), (0.0, 1.0), key=key)
    with pytest.raises(TypeError, match="expected a Wire, got Siren"):
        init_at_singularities(field, jnp.zeros((3, 1)), jnp.ones((3, 1)), key=key)
    with pytest.raises(ValueError, match="share = 0"):
        edge_points(jnp.zeros((4, 4)), 0)
    with pytest.raises(ValueError, match="no edges"):
        edge_points(jnp.zeros((8, 8)))
