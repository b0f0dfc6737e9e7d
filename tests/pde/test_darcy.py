import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pde import DarcyFlow, Problem


@pytest.fixture(scope="module")
def problem():
    return DarcyFlow(resolution=31)


@pytest.fixture(scope="module")
def data(problem):
    return problem.generate(jax.random.key(0), 40, dtype=np.float64)


def test_pairs_solve_the_equation(problem, data):
    assert isinstance(problem, Problem)
    assert data.inputs.shape == data.outputs.shape == (40, 1, 31, 31)
    assert set(np.unique(data.inputs)) == {3.0, 12.0}
    # The residual of the 5-point scheme, written out.
    a, u = data.inputs[:, 0], data.outputs[:, 0]
    centre = (slice(None), slice(1, -1), slice(1, -1))
    total = 0
    for shift, axis in ((1, 1), (-1, 1), (1, 2), (-1, 2)):
        face = (a + np.roll(a, shift, axis)) / 2
        total = total + (face * (u - np.roll(u, shift, axis)))[centre] * 30**2
    np.testing.assert_allclose(total, 1.0, atol=1e-10)
    for edge in (u[:, 0], u[:, -1], u[:, :, 0], u[:, :, -1]):
        assert not edge.any()
    # Between the solutions for a = 12 and a = 3, whose maximum is 0.0737/a.
    assert 0.0737 / 12 < u.max((1, 2)).min() and u.max() < 0.0737 / 3


def test_phases_are_equally_likely(data):
    """By symmetry of z; a sample's mean fraction has standard deviation below 1/2."""
    fractions = (data.inputs == 12).mean((1, 2, 3))
    assert abs(fractions.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(40)
    assert fractions.std() > 0.05


def test_finer_grid_has_the_same_medium(problem):
    key = jax.random.key(1)
    with jax.enable_x64(True):
        coarse = problem.medium(key)
        fine = problem.medium(key, problem.grid.refine(2))
    # Equal but for points where z is a rounding error.
    assert (coarse != fine[:, ::2, ::2]).mean() < 1e-3


def test_first_samples_do_not_depend_on_n_and_float32_is_rounded(problem, data):
    again = problem.generate(jax.random.key(0), 2)
    assert again.inputs.dtype == np.float32
    np.testing.assert_array_equal(again.inputs, data.inputs[:2])
    np.testing.assert_allclose(again.outputs, data.outputs[:2], rtol=1e-6)


def test_accuracy_is_first_order_and_harmonic_is_better(problem):
    key = jax.random.key(2)
    arithmetic = problem.accuracy(key, 4)
    harmonic = dataclasses.replace(problem, face_mean="harmonic").accuracy(key, 4)
    assert set(arithmetic) == {"halved_dx_mean", "halved_dx_max"}
    # Some per cent at 31 points: first order (0.55 % at 85), not the 0.1 % of second order.
    assert 0.005 < harmonic["halved_dx_mean"] < arithmetic["halved_dx_mean"] < 0.05


def test_sub_grids_of_the_papers(problem, data):
    coarse = data.subsample(3)
    assert coarse.grid.shape == (11, 11) and coarse.outputs.shape == (40, 1, 11, 11)
    assert [DarcyFlow().grid.subsample(s).shape[0] for s in (5, 3, 2)] == [85, 141, 211]


def test_gradient_with_respect_to_the_medium(problem, data):
    """The solution is homogeneous of degree −1 in a, so ⟨dJ/da, a⟩ = −J for a linear J."""
    with jax.enable_x64(True):
        a = jnp.asarray(data.inputs[0])
        loss, slope = jax.jit(jax.value_and_grad(lambda a: problem.solve(a).mean()))(a)
    assert np.isclose(np.sum(np.asarray(slope) * data.inputs[0]), -float(loss), rtol=1e-9)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"resolution": 2}, ValueError),
        ({"resolution": 31.0}, TypeError),
        ({"low": 0.0}, ValueError),
        ({"high": float("inf")}, ValueError),
        ({"forcing": -1.0}, ValueError),
        ({"face_mean": "mean"}, ValueError),
    ],
)
def test_bad_fields(fields, error):
    with pytest.raises(error, match=next(iter(fields))):
        DarcyFlow(**fields)


def test_bad_calls(problem):
    with pytest.raises(ValueError, match="expected \\(1, 31, 31\\)"):
        problem.solve(jnp.ones((31, 31)))
    with pytest.raises(ValueError, match="n must be at least 1"):
        problem.generate(jax.random.key(0), 0)
