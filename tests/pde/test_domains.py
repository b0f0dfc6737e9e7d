"""Domains: moments of uniform points, areas, normals, signed distances, combinations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pde import (
    Ball,
    Box,
    Interval,
    Simplex,
    SpaceTime,
    difference,
    intersection,
    union,
)

N = 20000
DOMAINS = {
    "interval": Interval(-1.0, 3.0),
    "box": Box((0.0, -1.0, 2.0), (1.0, 3.0, 2.5)),
    "disc": Ball((1.0, -2.0), 1.5),
    "ball": Ball((0.0, 0.0, 0.5), 0.5),
    "simplex": Simplex(3),
    "space-time": SpaceTime(Ball((1.0, -2.0), 1.5), 0.5, 2.0),
    "holed": difference(Box((0.0, 0.0), (2.0, 1.0)), Ball((1.0, 0.5), 0.25)),
    "lens": intersection(Ball((0.0, 0.0)), Ball((1.0, 0.0))),
    "two": union(Box((0.0, 0.0), (1.0, 1.0)), Box((0.5, 0.5), (2.0, 2.0))),
}
LENS = 2 * math.pi / 3 - math.sqrt(3) / 2
VOLUMES = {
    "interval": 4.0,
    "box": 2.0,
    "disc": math.pi * 1.5**2,
    "ball": 4 / 3 * math.pi / 8,
    "simplex": 1 / 6,
    "space-time": 1.5 * math.pi * 1.5**2,
    "holed": 2 - math.pi / 16,
    "lens": LENS,
    "two": 1 + 2.25 - 0.25,
}
AREAS = {
    "interval": 2.0,
    "box": 2 * (4 + 0.5 + 2),
    "disc": 3 * math.pi,
    "ball": math.pi,
    "simplex": 1.5 + math.sqrt(3) / 2,
    "space-time": 1.5 * 3 * math.pi,
    "holed": 6 + math.pi / 2,
    "lens": 4 * math.pi / 3,
    "two": 4 + 6 - 2,
}


@pytest.fixture(scope="module", params=DOMAINS)
def drawn(request):
    domain = DOMAINS[request.param]
    inside = domain.sample(jax.random.key(1), N)
    return request.param, domain, inside, domain.sample_boundary(jax.random.key(2), N)


def test_points_and_measures(drawn):
    name, domain, inside, boundary = drawn
    assert inside.shape == boundary.x.shape == (N, domain.dim)
    assert np.all(domain.contains(inside)) and np.all(domain.contains(boundary.x))
    assert np.all(inside >= domain.lower - 1e-6) and np.all(inside <= domain.upper + 1e-6)
    combined = name in ("holed", "lens", "two")
    np.testing.assert_allclose(domain.measure(), VOLUMES[name], rtol=0.01 if combined else 1e-12)
    area = domain.boundary_measure()
    np.testing.assert_allclose(area, AREAS[name], rtol=0.03 if combined else 1e-12)


def test_the_divergence_theorem(drawn):
    """∫_Ω div F = ∫_∂Ω F·n ties points, normals and measures together."""
    name, domain, inside, boundary = drawn
    space = domain.dim - (name == "space-time")

    def field(x):
        y = x[:space]
        return jnp.zeros(domain.dim).at[:space].set(y * (1 + jnp.sin(y[0])) + y[-1] ** 2)

    def divergence(x):
        return jnp.trace(jax.jacfwd(field)(x))

    volume = np.asarray(jax.vmap(divergence)(inside)) * VOLUMES[name]
    flux = np.asarray(jax.vmap(lambda x, n: field(x) @ n)(boundary.x, boundary.normal))
    flux = flux * AREAS[name]
    # Two means of N samples each: five standard errors.
    error = math.hypot(volume.std(), flux.std()) / math.sqrt(N)
    assert abs(volume.mean() - flux.mean()) < 5 * error
    np.testing.assert_allclose(np.linalg.norm(boundary.normal, axis=1), 1, rtol=1e-5)


def test_normals_leave_the_domain(drawn):
    _, domain, _, boundary = drawn
    step = 1e-3
    out = np.asarray(jax.vmap(domain.sdf)(boundary.x + step * boundary.normal))
    inside = np.asarray(jax.vmap(domain.sdf)(boundary.x - step * boundary.normal))
    # Corners, where a step along one normal crosses another face, are rare.
    assert np.mean(out > 0) > 0.99 and np.mean(inside < 0) > 0.99
    assert np.all(np.abs(out) < 1.01 * step + 1e-5)


def test_moments_of_uniform_points():
    ball = np.asarray(Ball((0.0,) * 3).sample(jax.random.key(0), N))
    np.testing.assert_allclose(np.mean(np.sum(ball**2, 1)), 3 / 5, rtol=0.02)
    radial = np.asarray(Ball((0.0,) * 50, 2.0, "radius").sample(jax.random.key(0), N))
    radii = np.sort(np.linalg.norm(radial, axis=1))
    assert np.max(np.abs(radii - 2 * np.arange(N) / N)) < 0.04  # Kolmogorov's distance, 2·2.8/√N
    simplex = np.asarray(Simplex(3).sample(jax.random.key(0), N))
    np.testing.assert_allclose(simplex.mean(0), 1 / 4, rtol=0.02)
    np.testing.assert_allclose(np.mean(simplex[:, 0] * simplex[:, 1]), 1 / 20, rtol=0.04)
    initial = SpaceTime(Interval(0, 1), 0.5).sample_initial(jax.random.key(0), 10)
    assert np.all(initial[:, 1] == 0.5)


def test_tags_name_the_faces():
    box = Box((0.0, 0.0), (1.0, 3.0))
    x, normal, tag = box.sample_boundary(jax.random.key(0), N)
    for face, (axis, value) in enumerate([(0, 0.0), (0, 1.0), (1, 0.0), (1, 3.0)]):
        on = np.asarray(tag) == face
        assert np.all(np.asarray(x)[on, axis] == value)
        assert np.all(np.asarray(normal)[on, axis] == (1 if value else -1))
        np.testing.assert_allclose(on.mean(), (3 if axis == 0 else 1) / 8, rtol=0.06)
    tags = DOMAINS["holed"].sample_boundary(jax.random.key(0), 500).tag
    assert set(np.asarray(tags).tolist()) == {0, 1, 2, 3, 4}


def test_distances_and_their_gradients():
    box = Box((0.0, 0.0), (2.0, 1.0))
    for x, wanted in (((1.0, 0.5), -0.5), ((3.0, 0.5), 1.0), ((3.0, 2.0), math.sqrt(2))):
        np.testing.assert_allclose(box.sdf(jnp.array(x)), wanted, rtol=1e-6)
    assert np.all(np.isfinite(jax.grad(Ball((0.0, 0.0)).sdf)(jnp.zeros(2))))
    np.testing.assert_allclose(Simplex(2).sdf(jnp.array([0.25, 0.25])), -0.25, rtol=1e-6)
    cylinder = SpaceTime(Interval(0.0, 1.0), 0.0, 1.0)
    np.testing.assert_allclose(cylinder.sdf(jnp.array([1.3, 1.4])), 0.5, rtol=1e-6)


def test_sampling_is_jittable_and_vmappable():
    domain = DOMAINS["holed"]
    keys = jax.random.split(jax.random.key(0), 3)
    points = jax.jit(jax.vmap(lambda k: domain.sample(k, 10)))(keys)
    assert points.shape == (3, 10, 2) and np.all(domain.contains(points))


def test_bad_input():
    with pytest.raises(ValueError, match="same length"):
        Box((0.0,), (1.0, 2.0))
    with pytest.raises(ValueError, match="expected finite lo < hi"):
        Interval(1.0, 1.0)
    with pytest.raises(ValueError, match="radius > 0"):
        Ball((0.0,), 0.0)
    with pytest.raises(ValueError, match="law = 'normal'"):
        Ball((0.0,), 1.0, "normal")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected at least 1"):
        Simplex(0)
    with pytest.raises(ValueError, match="expected t0 < t1"):
        SpaceTime(Interval(0, 1), 1.0, 1.0)
    with pytest.raises(ValueError, match="dimensions differ, 1 and 2"):
        union(Interval(0, 1), Ball((0.0, 0.0)))
    with pytest.raises(ValueError, match="do not meet"):
        intersection(Interval(0, 1), Interval(2, 3))
    with pytest.raises(ValueError, match="points have 3 coordinates, not 2"):
        Ball((0.0, 0.0)).contains(jnp.zeros(3))
    for domain in (Interval(0, 1), Ball((0.0,)), Simplex(2)):
        for draw in (domain.sample, domain.sample_boundary):
            with pytest.raises(ValueError, match="n = 0"):
                draw(jax.random.key(0), 0)
    empty = difference(Ball((0.0, 0.0)), Box((-2.0, -2.0), (2.0, 2.0)))
    with pytest.raises(Exception, match="empty"):
        jax.block_until_ready(empty.sample(jax.random.key(0), 2))
