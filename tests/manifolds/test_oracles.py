"""Against geoopt's recorded numbers, SciPy, exact densities, and between models of one space."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from jaxsci.manifolds import (
    Euclidean,
    Hyperboloid,
    Poincare,
    Power,
    Product,
    Sphere,
    Torus,
    to_klein,
    to_lorentz,
    to_poincare,
)
from jaxsci.manifolds.smooth import asinc, asinhc, cos, cosh, norm, sinc, sinhc, tanhc

DATA = np.load(Path(__file__).parents[1] / "oracles" / "data" / "manifolds.npz")
C = 0.7  # of the recorded hyperbolic spaces


@pytest.mark.parametrize(
    "name, M, tolerance",
    [
        # Rounding; distances up to 11 in the ball amplify it by cosh² (1e-16 × 1e3).
        ("ball", Poincare(3, C), 1e-13),
        # Points are of the size 200, products of two of them of 4e4, and cancel.
        ("lorentz", Hyperboloid(3, C), 1e-10),
        ("sphere", Sphere(3), 1e-14),
    ],
)
def test_the_maps_of_geoopt(x64, name, M, tolerance):
    x, y, v, u, g = (jnp.asarray(DATA[f"{name}_{part}"]) for part in "xyvug")
    calls = {
        "exp": (M.exp, x, v), "log": (M.log, x, y), "dist": (M.dist, x, y),
        "inner": (M.inner, x, u, v), "rgrad": (M.egrad_to_rgrad, x, g),
        "transport": (M.transport, x, y, v),
    }  # fmt: skip
    found = jax.jit(lambda: {key: jax.vmap(f)(*args) for key, (f, *args) in calls.items()})()
    compared = [key for key in calls if f"{name}_{key}" in DATA]
    assert len(compared) >= 5
    for key in compared:
        theirs = DATA[f"{name}_{key}"]
        np.testing.assert_array_less(np.abs(found[key] - theirs) / (1 + np.abs(theirs)), tolerance)


def test_transport_on_the_sphere_turns_the_plane_of_the_geodesic_and_nothing_else(x64, key):
    M = Sphere(4)
    x, y = jax.vmap(M.random_point)(jr.split(key))
    basis, _ = jnp.linalg.qr(jnp.stack([x, y], 1), mode="complete")
    for v in basis.T[2:]:  # orthogonal to x and y: carried along unchanged
        np.testing.assert_allclose(M.transport(x, y, v), v, atol=1e-15)


def test_the_antipode(x64):
    """Of all geodesics log takes one; close to it nothing is lost, where arccos has half digits."""
    M = Sphere(2)
    x = jnp.array([0.6, 0.0, 0.8])
    v = M.log(x, -x)
    assert float(M.norm(x, v)) == pytest.approx(np.pi) == float(M.dist(x, -x))
    np.testing.assert_allclose(M.exp(x, v), -x, atol=1e-15)
    w = M.transport(x, -x, v)
    assert np.all(np.isfinite(w)) and np.all(np.isfinite(jax.jacfwd(lambda y: M.log(x, y))(-x)))
    near = M.exp(x, (np.pi - 1e-9) / np.pi * v)
    assert float(np.pi - M.dist(x, near)) == pytest.approx(1e-9, rel=1e-6)
    assert float(np.pi - M.norm(x, M.log(x, near))) == pytest.approx(1e-9, rel=1e-6)


def test_ball_hyperboloid_and_klein_are_one_space(x64, key):
    B, H = Poincare(3, C), Hyperboloid(3, C)

    @jax.jit
    @jax.vmap
    def go(key):
        keys = jr.split(key, 3)
        x, y = B.random_point(keys[0]), B.random_point(keys[1])
        v = B.random_tangent(keys[2], x)
        to = functools.partial(to_lorentz, c=C)
        X, V = jax.jvp(to, (x,), (v,))
        Y, W = jax.jvp(to, (y,), (B.transport(x, y, v),))
        ends = [to_klein(p, C) for p in (X, Y, H.geodesic(X, Y, 0.3))]
        return dict(
            dist=(B.dist(x, y), H.dist(X, Y)), norm=(B.norm(x, v), H.norm(X, V)),
            exp=(to(B.exp(x, v)), H.exp(X, V)), transport=(W, H.transport(X, Y, V)),
            back=(to_poincare(X, C), x), on=(H.violation(X), 0.0 * C), ends=ends,
        )  # fmt: skip

    found = go(jr.split(key, 10))
    a, b, middle = found.pop("ends")
    for one, other in found.values():
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    # Geodesics are straight in the Klein ball: the sides of the triangle add up.
    sides = [np.linalg.norm(p - q, axis=1) for p, q in ((a, middle), (middle, b), (a, b))]
    np.testing.assert_allclose(sides[0] + sides[1], sides[2], rtol=1e-12)
    for function in (to_lorentz, to_poincare, to_klein):
        with pytest.raises(ValueError, match=rf"{function.__name__}: x has shape \(2, 2\)"):
            function(jnp.ones((2, 2)))


def test_curvature(x64):
    """A right triangle of hyperbolic geometry: cosh c = cosh a cosh b in units of c^−½. And the
    curvature may be learned: the derivative of a distance with respect to it is right."""
    for M in (Poincare(2, C), Hyperboloid(2, C)):
        o = M.origin()
        first, second = (jnp.eye(o.size)[i - 2] for i in (0, 1))
        scale = M.norm(o, first)
        x, y = (M.exp(o, length / scale * v) for length, v in ((1.3, first), (0.8, second)))
        legs = np.cosh(np.sqrt(C) * 1.3) * np.cosh(np.sqrt(C) * 0.8)
        assert float(M.dist(x, y)) == pytest.approx(np.arccosh(legs) / np.sqrt(C), rel=1e-12)
    x, y = jnp.array([0.1, 0.4]), jnp.array([-0.3, 0.2])
    slope = jax.grad(lambda c: Poincare(2, c).dist(x, y))(C)
    step = 1e-6
    central = (Poincare(2, C + step).dist(x, y) - Poincare(2, C - step).dist(x, y)) / (2 * step)
    assert float(slope) == pytest.approx(float(central), rel=1e-8)


def test_functions_of_a_square_and_their_derivatives(x64):
    """Both sides of where the series ends, against NumPy; derivatives by differences in r."""
    s = jnp.asarray([0.0, 1e-12, 1e-4, 0.00999, 0.01001, 0.5, 0.9])
    r = np.sqrt(np.maximum(s, 1e-12))
    pairs = {
        sinc: lambda r: np.sin(r) / r, sinhc: lambda r: np.sinh(r) / r, cos: np.cos,
        tanhc: lambda r: np.tanh(r) / r, asinhc: lambda r: np.arcsinh(r) / r, cosh: np.cosh,
        asinc: lambda r: np.arcsin(r) / r,
    }  # fmt: skip
    for ours, theirs in pairs.items():
        np.testing.assert_allclose(ours(s), theirs(r), rtol=1e-12)
        # The first three derivatives are continuous across the seam at s = 0.01.
        slope, bend = jax.grad(ours), jax.grad(jax.grad(ours))
        for derivative, tolerance in ((slope, 1e-12), (bend, 1e-9)):
            below, above = derivative(0.01 - 1e-13), derivative(0.01)
            assert float(below) == pytest.approx(float(above), rel=tolerance)
    assert jnp.isnan(norm(jnp.array([jnp.nan, 1.0])))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_heat_kernel_of_the_sphere(x64, dim):
    """It integrates to 1; on S² it is SciPy's series, on S¹ the wrapped normal density."""
    M = Sphere(dim)
    x = M.origin()
    angles, weights = scipy.special.roots_legendre(80)
    angles, weights = (angles + 1) * np.pi / 2, weights * np.pi / 2

    def at(angle):
        return jnp.cos(angle) * x + jnp.sin(angle) * jnp.zeros(dim + 1).at[1].set(1)

    kernel = jax.jit(
        lambda t: jax.vmap(lambda angle: M.heat_kernel(t, x, at(angle)))(jnp.asarray(angles))
    )
    shell = 2 * np.pi ** (dim / 2) / scipy.special.gamma(dim / 2)  # area of Sⁿ⁻¹
    for t in (0.05, 0.7, 3.0):
        density = np.asarray(kernel(t))
        mass = shell * np.sum(weights * density * np.sin(angles) ** (dim - 1))
        assert mass == pytest.approx(1, abs=1e-12)
        if dim == 2:
            l = np.arange(64)[:, None]
            series = (2 * l + 1) / (4 * np.pi) * np.exp(-l * (l + 1) * t / 2)
            exact = np.sum(series * scipy.special.eval_legendre(l, np.cos(angles)), 0)
            np.testing.assert_allclose(density, exact, atol=1e-13)
        if dim == 1:
            images = scipy.stats.norm.pdf(
                angles + 2 * np.pi * np.arange(-9, 10)[:, None], 0, t**0.5
            )
            np.testing.assert_allclose(density, images.sum(0), atol=1e-12)


def test_other_heat_kernels(x64, key):
    x, y = jr.normal(key, (2, 3))
    line = Euclidean(3).heat_kernel(0.4, x, y)
    exact = scipy.stats.multivariate_normal(np.asarray(x), 0.4 * np.eye(3)).pdf(np.asarray(y))
    assert float(line) == pytest.approx(exact, rel=1e-12)
    wrapped = jax.jit(Torus(3).heat_kernel)
    for t in (0.1, 2.99, 3.01, 40.0):
        images = np.asarray(y - x)[:, None] + 2 * np.pi * np.arange(-30, 31)
        exact = np.prod(np.sum(scipy.stats.norm.pdf(images, 0, t**0.5), 1))
        # The images and the waves that are left out at t = 3 are below 1e-15.
        assert float(wrapped(t, x, y)) == pytest.approx(exact, rel=1e-12)
    M = Product((Euclidean(3), Torus(3)))
    both = M.heat_kernel(0.4, (x, x), (y, y))
    assert float(both) == pytest.approx(float(line * wrapped(0.4, x, y)), rel=1e-12)
    power = Power(Euclidean(3), 2).heat_kernel(0.4, jnp.stack([x, x]), jnp.stack([y, y]))
    assert float(power) == pytest.approx(float(line) ** 2, rel=1e-12)
    assert Poincare(3).heat_kernel(1.0, 0 * x, 0 * x) is None
    assert Product((Sphere(2), Poincare(3))).heat_kernel(1.0, (x, x), (x, x)) is None
    assert Power(Poincare(3), 2).heat_kernel(1.0, jnp.zeros((2, 3)), jnp.zeros((2, 3))) is None


def test_brownian_motion_on_the_sphere_decays_as_its_first_eigenvalue(key):
    """E⟨x_t, x_0⟩ = exp(−n t/2) on Sⁿ: the generator is half of the Laplacian."""
    M, t, steps = Sphere(2), 0.5, 40
    x0 = M.origin()

    @jax.jit
    @jax.vmap
    def walk(key):
        step = lambda x, k: (M.brownian_step(k, x, t / steps), None)  # noqa: E731
        return jax.lax.scan(step, x0, jr.split(key, steps))[0] @ x0

    found = walk(jr.split(key, 20_000))
    # Five standard errors, 0.5/√20000 each, and the walk's own error of order dt.
    assert float(jnp.mean(found)) == pytest.approx(np.exp(-t), abs=5 * 0.0035 + 0.005)


def test_float32_keeps_its_digits(key):
    """Close pairs, far pairs, and pairs near the boundary of the ball, against float64."""
    cases = {
        "sphere close": (Sphere(2), [0.6, 0.0, 0.8], [0.6 + 1e-5, 1e-5, 0.8 - 0.75e-5]),
        "sphere far": (Sphere(2), [0.6, 0.0, 0.8], [-0.6 + 4e-4, 1e-3, -0.8 - 3e-4]),
        "ball close": (Poincare(2), [0.5, 0.3], [0.50001, 0.30001]),
        # 1 − |x|² of a float32 x has a relative error of 6e-8/(1 − |x|), here 6e-4.
        "ball edge": (Poincare(2), [0.99988, 0.0], [0.0, 0.99985]),
        "ball edge, close": (Poincare(2), [0.99988, 0.0], [0.99988, 1e-7]),
        "hyperboloid close": (Hyperboloid(2), [0.0, 0.5, 0.3], [0.0, 0.50001, 0.30001]),
    }
    for name, (M, x, y) in cases.items():
        x, y = (np.asarray(M.project(jnp.asarray(p, jnp.float32)), np.float64) for p in (x, y))

        def measure(x, y, M=M):
            v = M.log(x, y)
            g = jax.grad(lambda x: M.dist(x, y) ** 2)(x)
            return M.dist(x, y), v, M.exp(x, v), M.norm(x, M.transport(x, y, v)), g

        single = measure(*(jnp.asarray(p, jnp.float32) for p in (x, y)))
        with jax.enable_x64(True):
            double = jax.tree.map(np.asarray, measure(jnp.asarray(x), jnp.asarray(y)))
        for ours, exact in zip(single, double, strict=True):
            assert ours.dtype == jnp.float32
            error = np.max(np.abs(ours - exact)) / np.max(np.abs(exact))
            assert error < (2e-3 if "edge" in name else 2e-5), name


def test_float32_steps_end_inside_the_ball(key):
    """From anywhere, over any length: inside, finite, and with finite derivatives."""
    M = Poincare(3)
    starts = jnp.array([0.0, 0.5, 0.99, 0.9999, 0.99999, 1.0, 1.5])
    lengths = jnp.array([0.0, 1e-6, 1.0, 10.0, 1e3, 1e9])
    direction = jnp.array([0.6, 0.8, 0.0])

    @jax.jit
    def go(radius, length):
        x = radius * jnp.array([1.0, 0.0, 0.0])
        v = length * M.random_tangent(key, x)
        y = M.exp(x, -length * direction)
        slope = jax.grad(lambda v: M.dist(M.exp(x, v), x))(v)
        return y, M.exp(x, v), M.log(x, y), M.transport(x, y, v), slope, M.dist(x, y)

    found = jax.vmap(lambda r: jax.vmap(lambda l: go(r, l))(lengths))(starts)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in found)
    inside = jnp.linalg.norm(jnp.concatenate([found[0], found[1]]), axis=-1)
    assert float(jnp.max(inside)) <= 1 - 0.9e-5
    # Inwards from near the boundary, where the textbook's denominator cancels: back at the origin.
    x = jnp.array([0.99988, 0.0, 0.0])
    back = M.exp(x, M.log(x, jnp.zeros(3)))
    assert float(M.dist(back, jnp.zeros(3))) < 2e-3
