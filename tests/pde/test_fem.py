"""Finite element spaces: element matrices by hand, quadrature of others, orders of convergence."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skfem
from scipy.integrate import dblquad

from jaxsci.pde import fem

SKEWED = [[0.1, 0.0], [1.3, 0.2], [0.4, 0.9]]


def dense(matrix):
    """On the host: nothing is compiled."""
    a = np.zeros(matrix.shape)
    np.add.at(a, tuple(np.asarray(matrix.indices).T), np.asarray(matrix.data))
    return a


def norm(space, u, order=0):
    a = dense(space.mass) + (dense(space.stiffness) if order else 0)
    return np.sqrt(np.sum(u * (a @ u)))


def polynomial(degree):
    if degree == 1:
        return lambda x: 1 - 2 * x[0] + 3 * x[1]
    return lambda x: 1 - 2 * x[0] + 3 * x[1] + x[0] ** 2 - 5 * x[0] * x[1] + 2 * x[1] ** 2


def test_element_matrices_by_hand(x64):
    del x64
    space = fem.FunctionSpace(fem.triangulation(SKEWED, [[0, 1, 2]]))
    x = np.asarray(space.pos)
    edge = np.roll(x, -1, 0) - np.roll(x, 1, 0)  # opposite to each vertex
    area = abs(np.linalg.det(x[1:] - x[0])) / 2
    mass, stiffness = dense(space.mass), dense(space.stiffness)
    np.testing.assert_allclose(mass, area / 12 * (1 + np.eye(3)), rtol=1e-12)
    np.testing.assert_allclose(stiffness, edge @ edge.T / (4 * area), rtol=1e-12, atol=1e-14)
    # P2: ∫ψ of a vertex is 0 and of an edge |T|/3; polynomials have their own energies.
    space = fem.FunctionSpace(fem.triangulation(SKEWED, [[0, 1, 2]]), degree=2)
    integrals = dense(space.mass).sum(1)
    np.testing.assert_allclose(integrals, [0, 0, 0, *[area / 3] * 3], atol=1e-14)
    u = np.asarray(space.interpolate(lambda x: x[0] ** 2))
    exact = dblquad(  # ∫ |∇x²|² = ∫ 4x², over the triangle's image of the unit one
        lambda t, s: 4 * (x[0] + s * (x[1] - x[0]) + t * (x[2] - x[0]))[0] ** 2 * 2 * area,
        0, 1, 0, lambda s: 1 - s,
    )[0]  # fmt: skip
    assert u @ dense(space.stiffness) @ u == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("coarse_degree, fine_degree", [(1, 1), (1, 2), (2, 2)])
def test_prolongation_is_an_embedding(x64, coarse_degree, fine_degree):
    del x64
    coarse = fem.FunctionSpace(fem.l_shape(4), coarse_degree)
    fine = coarse.refined(2, fine_degree)
    p = dense(fem.prolongation(coarse, fine))
    f = polynomial(coarse_degree)
    of_coarse, of_fine = (np.asarray(space.interpolate(f)) for space in (coarse, fine))
    np.testing.assert_allclose(p @ of_coarse, of_fine, atol=1e-12)
    u = np.random.default_rng(0).normal(size=(coarse.n_dofs, 2))
    for order in (0, 1):  # any function keeps its norms, of several components, too
        assert norm(fine, p @ u, order) == pytest.approx(norm(coarse, u, order), rel=1e-12)
    np.testing.assert_allclose(p, dense(coarse.evaluation(np.asarray(fine.pos))), atol=1e-12)
    # Functionals are restricted by the transpose: Galerkin's identity.
    galerkin = p.T @ dense(fine.stiffness) @ p
    np.testing.assert_allclose(galerkin, dense(coarse.stiffness), atol=1e-12)


@pytest.mark.parametrize("degree", [1, 2])
def test_orders_of_convergence(x64, degree):
    """Interpolation, projection and the solver: ‖u_h − u‖ = O(h^{k+1}) in L², O(h^k) in H¹."""
    del x64

    def u(x):
        return np.sin(np.pi * x[0]) * np.exp(x[1])

    reference = fem.FunctionSpace(fem.square(16), 2)
    errors = []
    for n in (4, 8):
        space = fem.FunctionSpace(fem.square(n), degree)
        lift = dense(fem.prolongation(space, reference))
        source = (np.pi**2 - 1) * np.asarray(space.interpolate(u))
        solved = fem.solve_poisson(space, source, np.asarray(space.interpolate(u)))
        gaps = [
            lift @ np.asarray(dofs) - np.asarray(reference.interpolate(u))
            for dofs in (space.interpolate(u), space.project(u), solved)
        ]
        errors.append([[norm(reference, gap, order) for gap in gaps] for order in (0, 1)])
    slopes = np.log2(np.asarray(errors[0]) / np.asarray(errors[1]))
    # The last h is 1/8: rates are within 0.25 of their limits.
    np.testing.assert_allclose(slopes[0], degree + 1, atol=0.25)
    np.testing.assert_allclose(slopes[1], degree, atol=0.25)


def test_boundaries_and_mixed_conditions():
    space = fem.FunctionSpace(fem.l_shape(4), 2)
    assert set(space.tags) == {"left", "right", "bottom", "top", "reentrant"}
    pos = np.asarray(space.pos)
    left = pos[space.boundary_dofs("left")]
    assert len(left) == 9 and np.all(left[:, 0] == 0)
    corner = pos[space.boundary_dofs("reentrant")]
    assert len(corner) == 9 and np.all(corner.min(1) == 0.5)
    # u = x is harmonic, with ∂u/∂n = 0 on horizontal walls.
    square = fem.FunctionSpace(fem.square(4))
    x = np.asarray(square.interpolate(lambda x: x[0]))
    given = np.where(np.isin(np.arange(25), square.boundary_dofs(["left", "right"])), x, 7.0)
    u = fem.solve_poisson(square, np.zeros(25), given, ["left", "right"])
    np.testing.assert_allclose(u, x, atol=1e-7)  # x is in single precision
    with pytest.raises(ValueError, match="no boundary 'inlet'"):
        space.boundary_dofs("inlet")


def test_in_compiled_and_batched_functions():
    space = fem.FunctionSpace(fem.square(3), 2)
    traces = []

    @eqx.filter_jit
    def energy(space, u):
        traces.append(None)
        return jax.vmap(jax.value_and_grad(lambda v: space.inner(v, v, 1)))(u)

    u = jnp.asarray(np.random.default_rng(1).normal(size=(2, space.n_dofs)), jnp.float32)
    value, gradient = energy(space, u)
    energy(space, 2 * u)
    assert len(traces) == 1
    np.testing.assert_allclose(value, [norm(space, v, 1) ** 2 for v in np.asarray(u)], rtol=1e-5)
    np.testing.assert_allclose(np.sum(u * gradient, 1), 2 * np.asarray(value), rtol=1e-5)
    assert value.dtype == jnp.float32
    assert jax.tree.all(jax.tree.map(lambda a: np.asarray(a).dtype.itemsize <= 4, space))


def test_bad_input_is_named():
    points = [[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5]]
    with pytest.raises(ValueError, match="1 of 2 triangles are inverted or flat; triangle 1"):
        fem.triangulation(points, [[0, 1, 2], [0, 3, 2]])
    hanging = fem.triangulation(points, [[0, 1, 2], [0, 4, 3], [4, 2, 3]])
    with pytest.raises(ValueError, match=r"1 vertices hang in the middle of an edge.*vertex 4"):
        fem.FunctionSpace(hanging)
    with pytest.raises(ValueError, match="1 vertices belong to no triangle"):
        fem.FunctionSpace(fem.triangulation(points, [[0, 1, 2], [0, 2, 3]]))
    with pytest.raises(TypeError, match="MeshQuad"):
        fem.FunctionSpace(skfem.MeshQuad())  # pyright: ignore[reportArgumentType]
    one, two = fem.FunctionSpace(fem.square(2)), fem.FunctionSpace(fem.square(2), 2)
    for coarse, fine, message in (
        (one, fem.FunctionSpace(fem.square(3)), "not nested"),
        (two, one.refined(), "at least the degree"),
        (one, fem.FunctionSpace(fem.l_shape(4)), "covers"),
        (fem.FunctionSpace(fem.l_shape(2)), one, "outside"),
    ):
        with pytest.raises(ValueError, match=message):
            fem.prolongation(coarse, fine)
    with pytest.raises(ValueError, match=r"v: expected 9 dofs \(P1\).*\(25,\)"):
        one.inner(np.ones(9), np.ones(25))
    with pytest.raises(ValueError, match="x: some of 1 points lie outside"):
        one.evaluation(np.asarray([[2.0, 0.0]]))
    with pytest.raises(ValueError, match="degree: expected 1 or 2, got 3"):
        fem.FunctionSpace(fem.square(2), 3)
