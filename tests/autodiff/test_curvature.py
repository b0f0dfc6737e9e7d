"""Curvature operators against closed forms and numpy's dense linear algebra."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from jaxsci.autodiff import (
    EmpiricalFisher,
    GaussNewton,
    Hessian,
    hutchinson_diag,
    lanczos,
    materialise,
    value_gradient_hessian,
)

RNG = np.random.default_rng(0)
SYMMETRIC = (lambda a: a + a.T)(RNG.normal(size=(6, 6)))


def quartic(p):
    """Σ a⁴/12 + (Σ a)(Σ b²)/2: Hessian by hand below."""
    return jnp.sum(p["a"] ** 4) / 12 + jnp.sum(p["a"]) * jnp.sum(p["b"] ** 2) / 2


def dense(matrix):
    matrix = jnp.asarray(matrix)
    structure = jax.ShapeDtypeStruct((matrix.shape[0],), matrix.dtype)
    return lx.FunctionLinearOperator(lambda v: matrix @ v, structure, lx.symmetric_tag)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_hessian_of_a_quartic(x64, batch_size):
    a, b = np.array([1.0, -2.0]), np.array([[0.5, 3.0, 1.0]])
    params = {"a": jnp.asarray(a), "b": jnp.asarray(b)}
    value, grads, operator = value_gradient_hessian(quartic, params)
    cross = np.ones((2, 1)) * b
    by_hand = np.block([[np.diag(a**2), cross], [cross.T, a.sum() * np.eye(3)]])
    # Rounding only: entries of size 10.
    np.testing.assert_allclose(materialise(operator, batch_size), by_hand, atol=1e-13)
    np.testing.assert_allclose(value, (a**4).sum() / 12 + a.sum() * (b**2).sum() / 2, rtol=1e-14)
    np.testing.assert_allclose(grads["a"], a**3 / 3 + (b**2).sum() / 2, rtol=1e-14)
    by_hvp = Hessian().at(params, hvp_fn=lambda p, v: jax.jvp(jax.grad(quartic), (p,), (v,))[1])
    np.testing.assert_allclose(materialise(by_hvp), by_hand, atol=1e-13)


def test_gauss_newton_is_the_normal_matrix_and_fisher_the_second_moment(x64):
    design, params = RNG.normal(size=(7, 3)), jnp.asarray([0.3, -1.0, 0.2])

    def model(p):
        return jnp.tanh(jnp.asarray(design) @ p)

    operator = GaussNewton().at(params, model_fn=model, outer_fn=lambda y: jnp.sum(y**2))
    jacobian = (1 - np.tanh(design @ np.asarray(params)) ** 2)[:, None] * design
    np.testing.assert_allclose(materialise(operator), 2 * jacobian.T @ jacobian, rtol=1e-12)
    fisher = EmpiricalFisher().at(params, loss_grads=jnp.asarray(jacobian))
    np.testing.assert_allclose(materialise(fisher), jacobian.T @ jacobian / 7, rtol=1e-12)
    assert lx.is_positive_semidefinite(fisher)


def test_operator_passes_through_jit_and_costs_no_second_primal(x64):
    operator = eqx.filter_jit(lambda p: Hessian().at(p, value_fn=lambda x: jnp.sum(jnp.exp(x))))(
        jnp.arange(3.0)
    )
    np.testing.assert_allclose(operator.mv(jnp.ones(3)), np.exp(np.arange(3.0)), rtol=1e-14)
    # The exponentials are inputs of the linear map, not part of it.
    assert "exp" not in str(jax.make_jaxpr(operator.mv)(jnp.ones(3)))


def test_hutchinson_is_exact_for_a_diagonal_and_unbiased_otherwise(x64, key):
    diagonal = np.arange(1.0, 7.0)
    np.testing.assert_array_equal(hutchinson_diag(dense(np.diag(diagonal)), key), diagonal)
    n = 4000
    estimate = hutchinson_diag(dense(SYMMETRIC), key, n)
    # Five standard deviations of the mean: Var = Σ_{j≠i} A_ij² / n.
    off = SYMMETRIC - np.diag(np.diag(SYMMETRIC))
    error = np.abs(estimate - np.diag(SYMMETRIC))
    assert np.all(error < 5 * np.sqrt((off**2).sum(1) / n))


def test_lanczos_full_space_gives_the_spectrum(x64):
    basis, diag, off = lanczos(dense(SYMMETRIC), jnp.ones(6), 6)
    tridiagonal = np.diag(diag) + np.diag(off, 1) + np.diag(off, -1)
    # Rounding times the norm of A (about 5) and the dimension.
    np.testing.assert_allclose(basis @ basis.T, np.eye(6), atol=1e-13)
    np.testing.assert_allclose(basis @ SYMMETRIC @ basis.T, tridiagonal, atol=1e-12)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(tridiagonal), np.linalg.eigvalsh(SYMMETRIC), atol=1e-12
    )


def test_lanczos_stops_where_the_krylov_space_ends(x64):
    basis, diag, off = lanczos(dense(np.diag([1.0, 1.0, 4.0, 4.0])), jnp.asarray([1.0, 2, 3, 4]), 4)
    assert np.count_nonzero(np.linalg.norm(basis, axis=1)) == 2  # two distinct eigenvalues
    np.testing.assert_array_equal(diag[2:], 0)
    np.testing.assert_array_equal(off[1:], 0)
    small = np.diag(diag[:2]) + np.diag(off[:1], 1) + np.diag(off[:1], -1)
    np.testing.assert_allclose(np.linalg.eigvalsh(small), [1, 4], rtol=1e-12)
    assert not np.any(lanczos(dense(SYMMETRIC), jnp.zeros(6), 3).basis)


def test_what_is_refused():
    x = jnp.ones(3)
    with pytest.raises(ValueError, match="value_fn"):
        Hessian().at(x)
    with pytest.raises(ValueError, match="scalar"):
        Hessian().at(x, value_fn=lambda p: p)
    with pytest.raises(TypeError, match="int32"):
        Hessian().at(jnp.arange(3), value_fn=jnp.sum)
    with pytest.raises(TypeError, match="complex64"):
        Hessian().at(x + 0j, hvp_fn=lambda p, v: v)
    with pytest.raises(ValueError, match="outer_fn"):
        GaussNewton().at(x, model_fn=lambda p: p)
    with pytest.raises(ValueError, match="loss_grads"):
        EmpiricalFisher().at(x, loss_grads=jnp.ones((5, 2)))
    operator = Hessian().at(x, value_fn=lambda p: jnp.sum(p**2))
    with pytest.raises(ValueError, match="batch_size = 0"):
        materialise(operator, 0)
    with pytest.raises(ValueError, match="n_probes = 0"):
        hutchinson_diag(operator, jax.random.key(0), 0)
    with pytest.raises(ValueError, match="p = 4"):
        lanczos(operator, x, 4)
