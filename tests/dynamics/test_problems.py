"""The stiff problems: two ways to evaluate them, and published end values."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.dynamics import brusselator, hires, stiff_problems, van_der_pol

# Mazzia and Magherini, Test Set for IVP Solvers: y at the end.
PUBLISHED = {
    "van-der-pol": [1.706167732170469, -0.8928097010248125e-3],
    "hires": [0.7371312573325668e-3, 0.1442485726316185e-3],
    "orego": [1.000814870318523, 1228.178521549917, 132.0554942846706],
}


def test_fields_and_references(x64):
    problems = {p.name: p for p in stiff_problems()}
    assert list(problems) == [
        "van-der-pol", "robertson", "hires", "orego", "allen-cahn", "brusselator",
    ]  # fmt: skip
    for problem in problems.values():
        y = problem.y0 + 0.1 * problem.scale
        mine = problem.field(0.0, jnp.asarray(y))
        # The same expression, up to rounding of terms as large as the largest rate.
        np.testing.assert_allclose(mine, problem.numpy_field(0.0, y), rtol=1e-9, atol=1e-9)
        end = problem.reference()
        assert end.shape == problem.y0.shape and problem.error(end) == 0
        assert problem.error(end + problem.scale) > 1e-6
    for name, values in PUBLISHED.items():
        np.testing.assert_allclose(problems[name].reference()[: len(values)], values, rtol=1e-9)
    # Concentrations of Robertson's problem add up to one.
    np.testing.assert_allclose(problems["robertson"].reference().sum(), 1, atol=1e-12)


def test_a_problem_without_reference(x64):
    assert brusselator(8).y0.shape == (16,) and hires().y0.shape == (8,)
    odd = van_der_pol(5.0)
    object.__setattr__(odd, "name", "another")
    with pytest.raises(KeyError, match="another"):
        odd.reference()
