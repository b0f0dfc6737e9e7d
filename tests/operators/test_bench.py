"""The comparison by hand: errors of exact solutions, seconds of a clock that the tests set."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.operators import bench
from jaxsci.operators.bench import Operator, Point
from jaxsci.pde import Dataset, Grid


def test_break_even_and_matched_errors_by_hand():
    # 30 s of data, 70 s of training; 0.25 s saved with each answer.
    n = bench.break_even(30.0, 70.0, 0.5, 0.25)
    assert n == 400
    assert 30 + 70 + n * 0.25 == n * 0.5
    # A solver twice as fast saves nothing, however cheap the training.
    assert bench.break_even(30.0, 70.0, 0.25, 0.25) == math.inf
    assert bench.break_even(0.0, 0.0, 0.1, 0.25) == math.inf
    assert bench.break_even(0.0, 0.0, 0.5, 0.25) == 0
    with pytest.raises(ValueError, match="t_train"):
        bench.break_even(1.0, -1.0, 0.5, 0.25)

    # Error 1/n², cost n: for an error e it is the first n with n ≥ e^(-1/2), and never between.
    curve = [Point(f"n={n}", n**-2.0, float(n)) for n in (40, 10, 80, 20)]
    assert bench.error_matched(curve, 1 / 30**2) == curve[0]
    assert bench.error_matched(curve, 1 / 20**2).seconds == 20
    assert bench.error_matched(curve, 10.0).name == "n=10"
    # What blows up is cheap, and does not count.
    blown = [*curve, Point("n=5", math.nan, 5.0)]
    assert bench.error_matched(blown, 10.0).name == "n=10"
    with pytest.raises(ValueError, match=r"4 settings.*0\.000156"):
        bench.error_matched(curve, 1e-5)
    with pytest.raises(ValueError, match="positive"):
        bench.error_matched(curve, math.nan)


class Clock:
    """A clock that only moves when a program says so, as real ones make a test a matter of luck."""

    def __init__(self):
        self.now = 0.0

    def sleep(self, seconds: float):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("jaxsci.operators.bench.time.perf_counter", lambda: clock.now)
    return clock


def test_turns_are_taken_in_turn_and_end_with_the_budget(clock):
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    timing = bench.time_in_turns(calls, turns=4)
    assert order == list("abababab" + "ab")  # a first call each, and four turns
    assert len(timing["a"].turns) == 4
    slow = bench.time_in_turns({"a": lambda: clock.sleep(0.25)}, turns=1000, budget_s=0.25)
    assert slow["a"] == (0.25, (0.25, 0.25, 0.25))


GRID = Grid(0.0, 1.0, 32, periodic=True)
RATE = 2.0  # of uₜ = -RATE u


def sleeping(clock: Clock, seconds: float, factor: float):
    """U ↦ factor · u, which takes so many seconds for any batch."""

    def host(u):
        clock.sleep(seconds)
        return u

    def solve(u):
        shape = jax.ShapeDtypeStruct(u.shape, u.dtype)
        return factor * jax.pure_callback(host, shape, u, vmap_method="broadcast_all")

    return solve


def euler(n: int) -> float:
    """What n explicit steps make of u = 1 until t = 1; the error is known."""
    return (1 - RATE / n) ** n


def decaying(n: int = 4) -> Dataset:
    u = np.sin(2 * np.pi * np.arange(1, n + 1)[:, None, None] * GRID.axis(0))
    return Dataset(u.astype(np.float32), (np.exp(-RATE) * u).astype(np.float32), GRID)


def test_errors_seconds_and_counts_of_a_table(clock):
    test = decaying()
    exact = math.exp(-RATE)
    seconds = {"8 steps": 0.02, "100 steps": 0.06, "1000 steps": 0.2}
    solver = {
        name: sleeping(clock, cost, euler(int(name.split()[0]))) for name, cost in seconds.items()
    }
    operators = {
        "two percent": Operator(sleeping(clock, 0.03, 1.03 * exact), 3.0, 6.0),
        "too good": Operator(sleeping(clock, 0.01, exact)),
    }
    table = bench.compare(
        test, operators, solver, naive="1000 steps", strides=(1, 2), batches=(2,), turns=4
    )
    row = table.rows["two percent"]
    # Float32 rounding of answers and norms; the sines at half the points have the same norms.
    np.testing.assert_allclose([*row.errors, row.error_95, row.error_h1], 0.03, rtol=1e-4)
    for point, steps in zip(table.curves[0], (8, 100, 1000), strict=True):
        np.testing.assert_allclose(point.error, abs(euler(steps) / exact - 1), rtol=1e-3)
    # 8 steps have 26 % error, 100 have 2 %: the latter is the fair baseline.
    assert [p and p.name for p in row.matched] == ["100 steps"]
    # To the rounding of the clock's sums.
    np.testing.assert_allclose(row.seconds, 0.03 / 2, rtol=1e-9)
    np.testing.assert_allclose(row.speedup, 0.06 / 0.03, rtol=1e-9)
    np.testing.assert_allclose(row.naive_speedup, 0.2 / 0.03, rtol=1e-9)
    np.testing.assert_allclose(row.break_even, 9.0 / (0.06 / 2 - 0.03 / 2), rtol=1e-9)
    unmatched = table.rows["too good"]
    assert unmatched.matched == (None,)
    assert math.isnan(unmatched.speedup[0]) and math.isnan(unmatched.break_even[0])
    lines = str(table).splitlines()
    assert len(lines) == 4 and "100 steps (0.02)" in lines[2] and "none is" in lines[3]


def test_what_is_chosen_by_luck_is_timed_without(clock):
    """A setting that is quick in the turns that choose, and slow in the others."""
    calls = []

    def lucky(u):
        calls.append(u)  # for the errors, the first call, and then turn by turn
        return clock.sleep(0.05 if len(calls) % 2 == 0 else 0.01) or u

    def solve(u):
        shape = jax.ShapeDtypeStruct(u.shape, u.dtype)
        return math.exp(-RATE) * jax.pure_callback(lucky, shape, u, vmap_method="broadcast_all")

    solver = {"lucky": solve, "steady": sleeping(clock, 0.03, math.exp(-RATE))}
    op = Operator(sleeping(clock, 0.01, 1.03 * math.exp(-RATE)))
    table = bench.compare(decaying(), {"op": op}, solver, naive="steady", batches=(1,), turns=4)
    (point,) = table.rows["op"].matched
    assert point is not None and point.name == "lucky"
    np.testing.assert_allclose(point.seconds, 0.05, rtol=1e-9)


def test_weights_are_arguments_and_nothing_compiles_twice():
    traces = []

    class Scaled(eqx.Module):
        factor: jax.Array

        def __call__(self, u):
            traces.append(u.shape)
            return self.factor * u

    test = decaying()
    operators = {f"{f}": Operator(Scaled(jnp.array(f))) for f in (0.1, 0.2)}
    table = bench.compare(
        test, operators, {"exact": Scaled(jnp.array(0.3))}, naive="exact", batches=(4,), turns=2
    )
    assert len(traces) == 1
    assert [row.parameters for row in table.rows.values()] == [1, 1]


def test_what_is_not_comparable_is_refused():
    test, same = decaying(), {"same": lambda u: u}

    def compare(operators, solver=same, **options):
        options = {"naive": "same", "batches": (1,), "turns": 1} | options
        return bench.compare(test, operators, solver, **options)

    with pytest.raises(ValueError, match="float16"):
        compare({"half": Operator(lambda u: u.astype(jnp.float16))})
    with pytest.raises(ValueError, match="shape"):
        compare({"short": Operator(lambda u: u[:, ::2])})
    with pytest.raises(ValueError, match="naive='other'"):
        compare({"op": Operator(lambda u: u)}, naive="other")
    with pytest.raises(ValueError, match="same names"):
        compare({"same": Operator(lambda u: u)})
    with pytest.raises(ValueError, match="4 test pairs"):
        compare({"op": Operator(lambda u: u)}, batches=(64,))
    with pytest.raises(ValueError, match="data_seconds"):
        Operator(lambda u: u, data_seconds=-1.0)
