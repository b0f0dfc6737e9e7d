"""The coefficients: order conditions, published numbers, stability."""

import numpy as np
import pytest

from jaxsci.dynamics import (
    MSRKTASE2,
    MSRKTASE3,
    RKTASE,
    ROS3P,
    Rodas4,
    Rodas5P,
    SinglyRKTASE,
    WTableau,
    tase_tableau,
    w_order_conditions,
)
from jaxsci.dynamics.solvers.tableau import density, rooted_trees

METHODS = {
    "ROS3P": (ROS3P(), 3),
    "Rodas4": (Rodas4(), 4),
    "Rodas5P": (Rodas5P(), 5),
    "RKTASE2": (RKTASE(2), 2),
    "RKTASE3": (RKTASE(3), 3),
    "RKTASE4": (RKTASE(4), 4),
    "SinglyRKTASE2": (SinglyRKTASE(2), 2),
    "SinglyRKTASE3": (SinglyRKTASE(3), 3),
    "SinglyRKTASE4": (SinglyRKTASE(4), 4),
    "MSRKTASE2": (MSRKTASE2(), 2),
    "MSRKTASE2b": (MSRKTASE2(1.2), 2),
    "MSRKTASE3": (MSRKTASE3(), 3),
}
methods = pytest.mark.parametrize("solver, order", METHODS.values(), ids=METHODS)


def test_trees():
    # Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I, table II.2.1 and 2.2.
    assert [len(rooted_trees(p)) for p in range(1, 7)] == [1, 1, 2, 4, 9, 20]
    assert sorted(density(t) for t in rooted_trees(4)) == [4, 8, 12, 24]


@methods
def test_order_conditions_and_dense_output(solver, order):
    tableau = solver.tableau
    residuals = w_order_conditions(tableau)
    # Published coefficients have 16 digits, and sums of numbers of size 1e2.
    assert max(residuals[p] for p in range(1, order + 1)) < 1e-11
    assert residuals[order + 1] > 1e-4  # and no order more
    for p in range(1, order):
        for weights, value in tableau.conditions(p):
            for k, row in enumerate(tableau.dense):
                assert abs(row @ weights - (value if k + 1 == p else 0)) < 1e-11
    np.testing.assert_allclose(tableau.dense.sum(0), tableau.b, atol=1e-11)
    # Embedded methods: one order less, but two for four stages.
    assert tableau.error_order == (3 if order == 4 and len(tableau.b) == 17 else order)


@pytest.mark.parametrize(
    "solver, alpha, d",
    [
        (ROS3P(), [0, 1, 1], [0.7886751345948129, -0.2113248654051871, -1.077350269189626]),
        (Rodas4(), [0, 0.386, 0.21, 0.63, 1, 1], [0.25, -0.1043, 0.1035, -0.0362, 0, 0]),
        (
            Rodas5P(),
            [
                0,
                0.6358126895828704,
                0.4095798393397535,
                0.9769306725060716,
                0.4288403609558664,
                1,
                1,
                1,
            ],
            [
                0.21193756319429014,
                -0.42387512638858027,
                -0.3384627126235924,
                1.8046452872882734,
                2.325825639765069,
                0,
                0,
                0,
            ],
        ),
    ],
)
def test_times_are_the_published_ones(solver, alpha, d):
    # Nothing of these was put in: they follow from a, c and γ, and check them.
    np.testing.assert_allclose(solver.tableau.alpha, alpha, atol=1e-13)
    np.testing.assert_allclose(solver.tableau.d, d, atol=1e-13)


@methods
def test_stability(solver, order):
    tableau = solver.tableau
    for z in (-0.6, 0.4 + 0.3j):  # R(z) is exp(z) up to the order
        # The errors of RKTASE and SinglyRKTASE settle later.
        scales = (32, 64) if isinstance(solver, RKTASE | SinglyRKTASE) else (4, 8)
        errors = [abs(tableau.stability(z / k) - np.exp(z / k)) for k in scales]
        # Order p + 1, seen over one halving, so that the next term shows too (Rodas5P has a very
        # small first one).
        assert order + 0.5 < np.log2(errors[0] / errors[1]) < order + 2.4
    name = type(solver).__name__
    axis = max(abs(tableau.stability(1j * y)) for y in np.logspace(-3, 5, 200))
    if name in ("ROS3P", "Rodas4", "Rodas5P", "MSRKTASE2", "MSRKTASE3") or order == 2:
        assert axis < 1 + 1e-10  # A-stable
    else:  # A(θ)-stable
        angle = np.exp(1j * np.pi * (0.5 + 3.1 / 180))
        ray = max(abs(tableau.stability(y * angle)) for y in np.logspace(-3, 5, 200))
        assert axis > 1.001 and ray < 1
    limits = {"ROS3P": 0.7320508, "RKTASE2": 0.5, "SinglyRKTASE2": 1.0}
    expected = limits.get(name, limits.get(f"{name}{order}", 0.0))
    if "TASE" in name and order == 4:
        expected = 0.2703947  # x⁴/24 at the root of 1 − x + x²/2 − x³/6: the least there is
    # α of RKTASE has six digits.
    assert abs(abs(tableau.stability(np.inf)) - expected) < 1e-6


def test_what_is_refused():
    good = MSRKTASE2().tableau
    fields = dict(
        a=good.a, c=good.c, b=good.b, b_error=good.b_error, gamma=good.gamma, order=2, kind="w"
    )
    fields["evaluate"] = good.evaluate
    WTableau(**fields)
    for change, message in [
        ({"order": 3}, "order = 3: a condition"),
        ({"a": np.eye(4)}, "a: expected a strictly lower"),
        ({"c": np.zeros((3, 3))}, "c: expected a strictly lower"),
        ({"b_error": good.b_error[:2]}, "b_error, evaluate"),
        ({"b_error": good.b}, "no consistent method"),
        ({"gamma": -1.0}, "gamma = "),
        ({"kind": "x"}, "kind = 'x'"),
        ({"dense": np.zeros((1, 3))}, "dense: expected rows of 4"),
        ({"dense": np.zeros((1, 4))}, "whose sum is b"),
    ]:
        with pytest.raises(ValueError, match=message):
            WTableau(**{**fields, **change})
    with pytest.raises(ValueError, match="a condition"):
        tase_tableau([[], [0.5]], [0.1, 0.9], [[1.0], [1.0]], 0.5, [-1, 1], 2)
    with pytest.raises(ValueError, match="order = 0"):
        rooted_trees(0)
    for build, message in [
        (lambda: RKTASE(5), "p = 5"),
        (lambda: SinglyRKTASE(1), "p = 1"),
        (lambda: SinglyRKTASE(2, -1.0), "gamma = -1.0"),
        (lambda: MSRKTASE2(1.0), "b2 = 1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
