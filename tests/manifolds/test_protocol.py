"""Identities of every manifold, at random points and where points coincide; what is refused."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.manifolds import (
    AbstractManifold,
    Euclidean,
    Hyperboloid,
    Poincare,
    Power,
    Product,
    Sphere,
    Torus,
)

MANIFOLDS = {
    "euclidean": Euclidean((2, 2)),
    "torus": Torus(3),
    "sphere": Sphere(3),
    "poincare": Poincare(3, 0.7),
    "hyperboloid": Hyperboloid(3, 0.7),
    "product": Product((Sphere(2), Torus(2), Euclidean())),
    "power": Power(Sphere(2), 3),
}
each = pytest.mark.parametrize("name", MANIFOLDS)
POINTS = 8


def largest(tree):
    return max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(tree))


def distance(a, b):
    return largest(jax.tree.map(lambda x, y: np.asarray(x) - np.asarray(y), a, b))


def scaled(t, v):
    return jax.tree.map(lambda leaf: t * leaf, v)


def measure(M: AbstractManifold, key):
    """Everything that the identities need, at one random pair of points."""
    keys = jr.split(key, 6)
    x, y, z = (M.random_point(k) for k in keys[:3])
    u, v = (M.random_tangent(k, x) for k in keys[3:5])
    a = jax.tree.map(lambda leaf: jr.normal(keys[5], leaf.shape), x)

    def f(x):
        return sum(jnp.sum(jnp.sin(leaf + 0.3)) for leaf in jax.tree.leaves(x))

    def along(move):
        """The function f on the curve t ↦ move(x, t u), and the curve's velocity, at t = 0."""
        point, velocity = jax.jvp(lambda t: move(x, scaled(t, u)), (0.0,), (1.0,))
        return point, velocity, jax.jvp(f, (point,), (velocity,))[1]

    w = M.log(x, y)
    rgrad = M.egrad_to_rgrad(x, jax.grad(f)(x))
    half_square = jax.grad(lambda x: M.dist(x, y) ** 2 / 2)(x)
    at_y = M.transport(x, y, v)
    return dict(
        x=x, y=y, z=z, u=u, v=v, w=w, rgrad=rgrad, at_y=at_y,
        tangent=M.tangent(x, a),
        tangent_twice=M.tangent(x, M.tangent(x, a)),
        tangent_u=M.tangent(x, u),
        at_y_tangent=M.tangent(y, at_y),
        projected=M.project(x),
        back=M.exp(x, w),
        middle=M.geodesic(x, y, 0.5),
        to_middle=(M.dist(x, M.geodesic(x, y, 0.3)), M.dist(M.geodesic(x, y, 0.3), y)),
        d=M.dist(x, y), d_back=M.dist(y, x), d_xz=M.dist(x, z), d_zy=M.dist(z, y),
        w_norm=M.norm(x, w),
        w_at_y=M.transport(x, y, w), w_from_y=scaled(-1, M.log(y, x)),
        inner=M.inner(x, u, v), inner_at_y=M.inner(y, M.transport(x, y, u), at_y),
        there_and_back=M.transport(y, x, at_y),
        slope=M.inner(x, rgrad, u),
        along_exp=along(M.exp), along_retract=along(M.retract),
        log_as_gradient=scaled(-1, M.egrad_to_rgrad(x, half_square)),
        violation=jnp.stack([M.violation(p) for p in (x, y, M.exp(x, u), M.retract(x, u))]),
    )  # fmt: skip


@functools.cache
def measured(name):
    with jax.enable_x64(True):
        keys = jr.split(jr.key(1), POINTS)
        found = jax.jit(jax.vmap(functools.partial(measure, MANIFOLDS[name])))(keys)
        return jax.tree.map(np.asarray, found)  # NumPy's, to be used outside of 64-bit mode


# Rounding at distances of a few units; on the hyperboloid times x₀², here up to about 300.
TOLERANCE = 1e-10


@each
def test_exp_and_log_are_inverse_and_log_has_the_length_of_the_geodesic(name):
    r = measured(name)
    assert distance(r["back"], r["y"]) < TOLERANCE
    np.testing.assert_allclose(r["w_norm"], r["d"], atol=TOLERANCE)
    assert largest(r["violation"]) < TOLERANCE
    assert distance(r["projected"], r["x"]) < TOLERANCE


@each
def test_distances_are_a_metric_and_add_up_along_geodesics(name):
    r = measured(name)
    np.testing.assert_allclose(r["d"], r["d_back"], atol=TOLERANCE)
    assert np.all(r["d"] <= r["d_xz"] + r["d_zy"] + TOLERANCE)
    first, second = r["to_middle"]
    np.testing.assert_allclose(first, 0.3 * r["d"], atol=TOLERANCE)
    np.testing.assert_allclose(second, 0.7 * r["d"], atol=TOLERANCE)


@each
def test_transport_is_an_isometry_that_takes_the_geodesic_along(name):
    r = measured(name)
    np.testing.assert_allclose(r["inner_at_y"], r["inner"], atol=TOLERANCE)
    assert distance(r["w_at_y"], r["w_from_y"]) < TOLERANCE
    assert distance(r["there_and_back"], r["v"]) < TOLERANCE
    assert distance(r["at_y_tangent"], r["at_y"]) < TOLERANCE


@each
def test_tangents_and_gradients(name):
    r = measured(name)
    assert distance(r["tangent"], r["tangent_twice"]) < TOLERANCE
    assert distance(r["tangent_u"], r["u"]) < TOLERANCE
    for curve in ("along_exp", "along_retract"):
        point, velocity, slope = r[curve]
        assert distance(point, r["x"]) < TOLERANCE  # exp_x(0) = x
        assert distance(velocity, r["u"]) < TOLERANCE  # with derivative 1
        np.testing.assert_allclose(r["slope"], slope, atol=TOLERANCE)
    # grad d(x, y)²/2 = −log_x(y): the metric, the gradient, the distance and log together.
    assert distance(r["log_as_gradient"], r["w"]) < TOLERANCE


@each
def test_coincident_points(name, x64, key):
    """Nothing divides by zero, and log has the derivative that it should have."""
    M = MANIFOLDS[name]
    x = M.random_point(key)
    v = M.random_tangent(jr.key(1), x)

    @jax.jit
    def go(x):
        dist_grad = jax.grad(lambda y: M.dist(x, y))(x)
        square_grad = jax.grad(lambda y: M.dist(x, y) ** 2)(x)
        zero = scaled(0.0, v)
        along = jax.jvp(lambda t: M.log(x, M.exp(x, scaled(t, v))), (0.0,), (1.0,))
        # The second derivative of t ↦ exp_x(t v) at 0, through the functions of |v|².
        bend = jax.jvp(
            lambda s: jax.jvp(lambda t: M.exp(x, scaled(t, v)), (s,), (1.0,))[1], (0.0,), (1.0,)
        )[1]
        bend_far = jax.jvp(
            lambda s: jax.jvp(lambda t: M.exp(x, scaled(t, v)), (s,), (1.0,))[1], (1e-5,), (1.0,)
        )[1]
        transport_grad = jax.jacfwd(lambda y: M.transport(x, y, v))(x)
        return dict(
            d=M.dist(x, x), log=M.log(x, x), same=M.transport(x, x, v), exp=M.exp(x, zero),
            grads=(dist_grad, square_grad, transport_grad), along=along, bend=bend, far=bend_far,
            norm_grad=jax.grad(lambda v: M.norm(x, v))(zero),
        )  # fmt: skip

    r = go(x)
    assert r["d"] == 0 and largest(r["log"]) < 1e-15
    assert distance(r["same"], v) < 1e-14 and distance(r["exp"], x) < 1e-14
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(r))
    assert largest(r["grads"][:2]) < 1e-12
    assert largest(r["along"][0]) < 1e-14 and distance(r["along"][1], v) < 1e-12
    # A curve with three derivatives: its curvature changes by O(1e-5) over 1e-5.
    assert distance(r["bend"], r["far"]) < 1e-2


@each
def test_random_vectors_are_standard_normal(name, key):
    M = MANIFOLDS[name]
    x = M.random_point(jr.key(3))
    u = M.random_tangent(jr.key(4), x)
    u = scaled(1 / M.norm(x, u), u)

    @jax.jit
    @jax.vmap
    def draw(key):
        v = M.random_tangent(key, x)
        return M.inner(x, v, v), M.inner(x, u, v)

    square, along = draw(jr.split(key, 20_000))
    # Five standard errors of 20,000 draws.
    assert float(jnp.mean(square)) == pytest.approx(M.dim, abs=5 * math.sqrt(2 * M.dim / 20_000))
    assert float(jnp.mean(along**2)) == pytest.approx(1, abs=5 * math.sqrt(2 / 20_000))
    assert float(jnp.mean(along)) == pytest.approx(0, abs=5 / math.sqrt(20_000))


@each
def test_one_program_and_pairwise_distances(name, key):
    M = MANIFOLDS[name]
    points = jax.vmap(M.random_point)(jr.split(key, 3))
    traced = []

    @jax.jit
    def table(points):
        traced.append(points)
        return M.pairwise(points)

    found = table(points)
    table(scaled(1.0, points))
    assert len(traced) == 1
    assert found.shape == (3, 3) and largest(jnp.diag(found)) == 0
    one, two = (jax.tree.map(lambda leaf, i=i: leaf[i], points) for i in (0, 2))
    np.testing.assert_allclose(found[0, 2], M.dist(one, two), rtol=1e-5)
    assert M.is_point(M.origin()) and M.is_point(one)
    assert jax.tree.map(jnp.shape, one) == M.ambient_shape
    assert M.pairwise(points, jax.tree.map(lambda leaf: leaf[:1], points)).shape == (3, 1)


@each
def test_shapes_and_dtypes_are_checked(name):
    M = MANIFOLDS[name]
    x = M.origin()
    wrong = jax.tree.map(lambda leaf: jnp.ones((*leaf.shape, 2)), x)
    calls = {
        "exp": dict(x=x, v=wrong), "log": dict(x=x, y=wrong), "dist": dict(x=wrong, y=x),
        "inner": dict(x=x, u=x, v=wrong), "norm": dict(x=x, v=wrong),
        "transport": dict(x=x, y=wrong, v=x), "project": dict(x=wrong),
        "tangent": dict(x=x, a=wrong), "egrad_to_rgrad": dict(x=x, g=wrong),
        "retract": dict(x=x, v=wrong), "violation": dict(x=wrong), "is_point": dict(x=wrong),
        "check_point": dict(x=wrong), "check_tangent": dict(x=x, v=wrong),
    }  # fmt: skip
    for method, arguments in calls.items():
        bad = next(key for key, value in arguments.items() if value is wrong)
        with pytest.raises(ValueError, match=rf": {bad} has shape .* expected"):
            getattr(M, method)(**arguments)
    with pytest.raises(ValueError, match="y has shape"):
        M.geodesic(x, wrong, 0.5)
    with pytest.raises(ValueError, match="y has shape"):
        M.heat_kernel(1.0, x, wrong)
    for method in (M.random_tangent, lambda k, x: M.brownian_step(k, x, 0.1)):
        with pytest.raises(ValueError, match="x has shape"):
            method(jr.key(0), wrong)
    with pytest.raises(TypeError, match="int32"):
        M.project(jax.tree.map(lambda leaf: leaf.astype(jnp.int32), x))


@pytest.mark.parametrize("name", ["sphere", "poincare", "hyperboloid", "torus", "power"])
def test_points_off_the_manifold_are_refused(name):
    M = MANIFOLDS[name]
    x = M.random_point(jr.key(0))
    np.testing.assert_array_equal(M.check_point(x), x)
    off = x.at[(0,) * x.ndim].add(9.0)
    assert not M.is_point(off)
    with pytest.raises(ValueError, match=r"x is off it by \d"):
        M.check_point(off)
    with pytest.raises(ValueError, match="off it by nan"):
        M.check_point(x * jnp.nan)
    with pytest.raises(eqx.EquinoxRuntimeError, match="x is off it by more"):
        jax.block_until_ready(eqx.filter_jit(M.check_point)(off))
    assert M.is_point(off, tol=1e3) or name == "hyperboloid"
    assert M.is_point(M.project(off))


def test_normal_vectors_are_refused():
    M = Sphere(2)
    x = M.random_point(jr.key(0))
    v = M.random_tangent(jr.key(1), x)
    np.testing.assert_array_equal(M.check_tangent(x, v), v)
    with pytest.raises(ValueError, match="v is not tangent at x by"):
        M.check_tangent(x, v + 0.01 * x)
    M.check_tangent(x, v + 0.01 * x, tol=0.1)


def test_arguments_are_checked():
    for make in (Sphere, Torus, Poincare, Hyperboloid):
        with pytest.raises(ValueError, match="dim = 0"):
            make(0)
    for make in (Poincare, Hyperboloid):
        with pytest.raises(ValueError, match=r"c = -1.0: expected a positive"):
            make(2, -1.0)
    with pytest.raises(ValueError, match="terms = 1"):
        Sphere(2, terms=1)
    with pytest.raises(ValueError, match="shape"):
        Euclidean(-1)
    with pytest.raises(ValueError, match="no factors"):
        Product(())
    with pytest.raises(TypeError, match="no manifold"):
        Product((Sphere(2), 3))
    with pytest.raises(TypeError, match="no manifold"):
        Power("S2", 3)
    with pytest.raises(ValueError, match="n = 0"):
        Power(Sphere(2), 0)


def test_dimensions_volumes_and_cut_distances():
    nested = Power(MANIFOLDS["product"], 2)
    assert nested.ambient_shape == ((2, 3), (2, 2), (2,)) and nested.dim == 10
    assert nested.dist(nested.origin(), nested.random_point(jr.key(0))) > 0
    volumes = {Sphere(1): 2 * np.pi, Sphere(2): 4 * np.pi, Sphere(3): 2 * np.pi**2}
    volumes |= {Torus(2): 4 * np.pi**2, Product((Sphere(2), Torus(1))): 8 * np.pi**2}
    volumes |= {Power(Sphere(1), 3): 8 * np.pi**3}
    for M, volume in volumes.items():
        assert math.exp(M.log_volume()) == pytest.approx(volume)
        assert M.cut_distance == math.pi
    for name in ("euclidean", "poincare", "hyperboloid", "product"):
        assert MANIFOLDS[name].log_volume() == math.inf
    assert MANIFOLDS["product"].cut_distance == math.pi
    assert Poincare(2).cut_distance == Hyperboloid(2).cut_distance == math.inf
    assert Euclidean(3).cut_distance == math.inf


def test_projections_of_many_vectors(key):
    """More than 8192 vectors at one point, where XLA for CPUs breaks the textbook's form."""
    M = Hyperboloid(3)
    x = M.random_point(key)
    vectors = jr.normal(key, (10_000, 4))
    found = jax.jit(jax.vmap(lambda v: M.tangent(x, v)))(vectors)
    p, v = np.asarray(x, np.float64), np.asarray(vectors, np.float64)
    expected = v + (v @ (p * [-1, 1, 1, 1]))[:, None] * p
    # Rounding of float32, relative to the products that are summed.
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.max(np.abs(p)) ** 2)
