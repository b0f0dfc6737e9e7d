"""NeuRBF: kernels of scipy, clusters of scikit-learn, nearest of a k-d tree, by hand, fits."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree
from sklearn.cluster import KMeans

from jaxsci.fields import Kernels, NeuRBF, fit_field, image_coordinates, init_kernels

RNG = np.random.default_rng(3)
POINTS = RNG.uniform(-1, 1, (400, 2)).astype(np.float32)
WEIGHTS = np.exp(-8 * np.sum((POINTS - 0.3) ** 2, 1)).astype(np.float32)
SMALL = {"features": 5, "width": 7, "coarsest": 2, "finest": 4, "table": 32}


@pytest.fixture(scope="module")
def kernels():
    return init_kernels(POINTS, WEIGHTS, 20, key=jax.random.key(0))


def test_clusters(kernels):
    """Lloyd's algorithm of scikit-learn, which goes on from ours, gains little; covariances."""
    centres = np.asarray(kernels.centres)
    squared = ((POINTS[:, None] - centres) ** 2).sum(-1)
    inertia = (WEIGHTS * squared.min(1)).sum()
    best = KMeans(20, init=centres, n_init=1, max_iter=300).fit(POINTS, sample_weight=WEIGHTS)
    assert best.inertia_ <= inertia < 1.02 * best.inertia_  # the entry's margin after ten sweeps
    # Most kernels are where the weight is.
    assert np.mean(np.linalg.norm(centres - 0.3, axis=1) < 0.6) > 0.6
    label = squared.argmin(1)
    for k in range(20):
        chosen = label == k
        if chosen.sum() < 3:
            continue
        covariance = np.cov(POINTS[chosen].T, aweights=WEIGHTS[chosen], ddof=0)
        values, vectors = np.linalg.eigh(
            covariance
            + np.outer(*[np.average(POINTS[chosen], 0, WEIGHTS[chosen]) - centres[k]] * 2)
        )
        # The floor: a fifth of the distance of 20 points on a grid over the box of the points.
        least = 0.04 * np.prod(np.ptp(POINTS, axis=0)) / 20
        wanted = vectors @ np.diag(0.5 / np.maximum(values, least)) @ vectors.T
        np.testing.assert_allclose(kernels.shapes[k], wanted, rtol=2e-3, atol=2e-2)


def test_kernels_are_scipys(key):
    """φ before the normaliser, from the ratio of two kernels at the same point."""
    centres = np.array([[0.0, 0.0], [0.5, -0.2]], np.float32)
    kernels = Kernels(centres, np.tile(4 * np.eye(2, dtype=np.float32), (2, 1, 1)))
    x = np.array([0.3, 0.4], np.float32)
    names = {"ivq": "inverse_quadratic", "ivmq": "inverse_multiquadric", "gauss": "gaussian"}
    for ours, theirs in names.items():
        field = NeuRBF(kernels, 1, nearest=2, kernel=ours, frequencies=None, **SMALL, key=key)
        found = field.locate(x)
        # An interpolant with a single centre and value 1 there is the kernel itself. Its Gaussian
        # is exp(−(εr)²), ours exp(−q/2).
        epsilon = np.sqrt(2) if ours == "gauss" else 2.0
        phi = np.array(
            [
                RBFInterpolator(c[None], [1.0], kernel=theirs, epsilon=epsilon, degree=-1)(x[None])[
                    0
                ]
                for c in centres
            ]
        )
        np.testing.assert_allclose(found.waves[:, 0], (phi / phi.sum())[found.index], rtol=1e-5)


def test_neighbours_and_formula(kernels, key):
    """The nearest four of a k-d tree; features and the perceptron in numpy."""
    field = NeuRBF(kernels, 3, **SMALL, depth=2, frequencies=(0.5, 40.0), key=key)
    field = eqx.tree_at(
        lambda f: (f.coefficients, f.bias),
        field,
        (jax.random.normal(key, (20, 5)), jnp.linspace(-1, 1, 9)),
    )
    queries = image_coordinates(9, 9)
    located = jax.vmap(field.locate)(queries)
    tree = cKDTree(np.asarray(kernels.centres))
    np.testing.assert_array_equal(np.sort(located.index), np.sort(tree.query(queries, 4)[1]))

    x = np.asarray(queries[30], float)
    index = np.asarray(located.index[30])
    away = x - np.asarray(kernels.centres, float)[index]
    phi = 1 / (1 + np.einsum("ki,kij,kj->k", away, np.asarray(kernels.shapes, float)[index], away))
    m = 0.5 * 80.0 ** (np.arange(5) / 4)
    a = np.asarray(field.coefficients, float)[index]
    radial = (a * np.sin(phi[:, None] / phi.sum() * m)).sum(0)
    h = np.concatenate([radial, field.grid(queries[30])]) + np.linspace(-1, 1, 9)
    first, second, last = [
        (np.asarray(layer.weight, float), np.asarray(layer.bias, float)) for layer in field.layers
    ]
    h = first[0] @ h + first[1]
    h = h + np.sin(h * 10 ** (1 + np.arange(7) / 6))
    h = np.maximum(second[0] @ h + second[1], 0)
    # Frequencies up to 100 of single precision.
    np.testing.assert_allclose(field(queries[30]), last[0] @ h + last[1], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        jax.vmap(field)(located), jax.vmap(field)(queries), rtol=1e-4, atol=1e-4
    )


def test_fits_with_waves_computed_once(kernels, key):
    """The kernels stay where they are, the located points train as points do."""
    field = NeuRBF(kernels, "scalar", **SMALL, key=key)
    x = image_coordinates(12, 12)
    y = jnp.sign(x[:, 0]) * jnp.cos(2 * x[:, 1])
    run = eqx.filter_jit(lambda f, x: fit_field(f, x, y, optax.adam(1e-2), steps=200))
    fitted = run(field, jax.vmap(field.locate)(x))
    assert fitted.losses[-1] < 0.1 * fitted.losses[0]
    np.testing.assert_array_equal(fitted.field.centres.value, kernels.centres)
    trained = sum(a.size for a in jax.tree.leaves(eqx.filter(field, eqx.is_inexact_array)))
    assert trained == 20 * 5 + 2 * 32 * 2 + 9 + (9 * 7 + 7) + (7 * 7 + 7) + (7 + 1)


def test_bad_input(kernels, key):
    with pytest.raises(ValueError, match=r"expected \(p, d\), \(p,\)"):
        init_kernels(POINTS, WEIGHTS[1:], 3, key=key)
    with pytest.raises(ValueError, match="n = 500 kernels of 400 points"):
        init_kernels(POINTS, WEIGHTS, 500, key=key)
    with pytest.raises(RuntimeError, match="at least n of them positive"):
        init_kernels(POINTS, np.where(np.arange(400) < 5, 1.0, 0.0), 6, key=key)
    with pytest.raises(ValueError, match="nearest = 21 of 20"):
        NeuRBF(kernels, 1, nearest=21, key=key)
    with pytest.raises(ValueError, match="kernel = 'thin'"):
        NeuRBF(kernels, 1, kernel="thin", key=key)
    with pytest.raises(ValueError, match="expected 0 < low <= high"):
        NeuRBF(kernels, 1, frequencies=(0.0, 1.0), key=key)
    with pytest.raises(ValueError, match=r"expected \(k, d\)"):
        NeuRBF(Kernels(kernels.centres, kernels.shapes[:3]), 1, key=key)
    with pytest.raises(RuntimeError, match="not positive definite"):
        NeuRBF(Kernels(kernels.centres, -kernels.shapes), 1, key=key)
    field = NeuRBF(kernels, "scalar", **SMALL, key=key)
    located = jax.vmap(field.locate)(POINTS)
    with pytest.raises(ValueError, match="expected"):
        fit_field(field, located, jnp.zeros(5), optax.sgd(0.1), steps=1)
