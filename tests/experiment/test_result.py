"""A result takes claims, scalars, arrays and figures, and nothing else."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from jaxsci.experiment import Claim, Result

GOOD, BAD = Claim("good", 1, "<", 2), Claim("bad", 2, "<", 1)


def test_holds_when_every_claim_does():
    assert Result([GOOD]).holds
    assert not Result([GOOD, BAD]).holds
    assert Result().holds


def test_values_are_brought_to_plain_types():
    result = Result([GOOD], metrics={"a": jnp.float32(2)}, arrays={"x": jnp.ones(3)})
    assert type(result.metrics["a"]) is float and isinstance(result.arrays["x"], np.ndarray)
    assert isinstance(result.claims, tuple)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"claims": ["x"]}, TypeError, "claims: expected Claim objects, got str"),
        ({"claims": [GOOD, GOOD]}, ValueError, "claims: two claims are called 'good'"),
        ({"metrics": {"a": np.ones(2)}}, TypeError, r"metrics\['a'\]: expected one number"),
        ({"arrays": {"a/b": np.ones(2)}}, ValueError, "arrays: the name 'a/b' cannot be a file's"),
        ({"arrays": {"file": np.ones(2)}}, ValueError, "arrays: the name 'file' cannot be"),
        ({"figures": {"../x": None}}, ValueError, r"figures: the name '\.\./x' cannot be a file's"),
        (
            {"figures": {"x": 3}},
            TypeError,
            r"figures\['x'\]: expected a matplotlib figure, got int",
        ),
    ],
)
def test_bad_entries_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        Result(**arguments)


def test_a_figure_is_kept():
    figure = plt.figure()
    assert Result(figures={"x": figure}).figures["x"] is figure
    plt.close(figure)
