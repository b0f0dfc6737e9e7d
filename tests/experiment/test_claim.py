"""A claim compares two measured numbers; NaN never holds."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.experiment import Claim

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("op", "below", "equal", "above"),
    [
        ("<", True, False, False),
        ("<=", True, True, False),
        (">", False, False, True),
        (">=", False, True, True),
        ("==", False, True, False),
    ],
)
def test_every_comparison(op, below, equal, above):
    assert Claim("c", 1.0, op, 2.0).holds is below
    assert Claim("c", 2.0, op, 2.0).holds is equal
    assert Claim("c", 3.0, op, 2.0).holds is above
    for measured, target in [(NAN, 1.0), (1.0, NAN), (NAN, NAN)]:
        assert Claim("c", measured, op, target).holds is False


def test_infinity_is_a_number():
    assert Claim("a baseline that diverged is beaten", 1.0, "<", INF).holds
    assert not Claim("what diverged beats nothing", INF, "<", 1.0).holds


@pytest.mark.parametrize("value", [2, np.float32(2), jnp.float32(2), jnp.asarray(2), np.array(2)])
def test_scalars_of_all_kinds_become_floats(value):
    claim = Claim("c", value, "==", value)
    assert type(claim.measured) is float and type(claim.target) is float and claim.holds


@pytest.mark.parametrize("value", [np.ones(1), jnp.ones((2, 2)), "3", None, [1.0], 1j])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="measured: expected one number"):
        Claim("c", value, "<", 1.0)
    with pytest.raises(TypeError, match="target: expected one number"):
        Claim("c", 1.0, "<", value)


def test_bad_operator_and_name():
    with pytest.raises(ValueError, match=r"op = '!=': expected one of <, <=, >, >=, =="):
        Claim("c", 1.0, "!=", 1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="name = ' ': expected the claim in words"):
        Claim(" ", 1.0, "<", 1.0)
