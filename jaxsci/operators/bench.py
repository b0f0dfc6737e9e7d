"""Operators against classical solvers, at equal error: tables of errors, seconds and break-even.

```python
from jaxsci.operators import bench

table = bench.compare(
    test,  # a jaxsci.pde.Dataset that nothing was trained on
    {"FNO": bench.Operator(fno, data_seconds=40.0, train_seconds=300.0)},
    {f"{n} points": coarse_solver(n) for n in (16, 32, 64, 128, 1024)},
    naive="1024 points",
)
print(table)
```

An operator that was trained on the answers of an accurate solver has an error that a much coarser
solver has as well; "1000 times faster than the solver" then compares two accuracies. Here the
solver brings its whole curve of errors and seconds, and the operator is compared with the cheapest
point of it that is at least as accurate (`error_matched`). Both map the same inputs to the same
outputs on one device in one precision, compiled, and mapped over the same batch by `jax.vmap`; what
a coarse solver needs to come down to its grid and up again is part of its time.

What training and its data cost is paid back after

    n = (t_data + t_train) / (t_solver - t_op)

answers (`break_even`), or never.

Reference: McGreivy & Hakim, arXiv:2407.07218, on baselines that are too weak.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsci.pde import Dataset

from .metrics import relative_h1, relative_l2

# Turns that a median needs, whatever the budget.
_FEWEST_TURNS = 3


class Operator(eqx.Module):
    """A learned operator, and what it cost before its first answer.

    **Arguments:**

    - `solve`: a function `"c_in *grid"` to `"c_out *grid"`; its arrays are arguments of the
        compiled program, not constants.
    - `data_seconds`: for the solutions that it was trained on; 0 without data, or for a method
        that starts anew for every input.
    - `train_seconds`: for training.

    **Raises:** `TypeError` if `solve` is not callable, `ValueError` for negative seconds.
    """

    solve: Callable[[Float[Array, "c_in *grid"]], Float[Array, "c_out *grid"]]
    data_seconds: float = eqx.field(default=0.0, static=True)
    train_seconds: float = eqx.field(default=0.0, static=True)

    def __check_init__(self):
        if not callable(self.solve):
            raise TypeError(f"Operator: solve must be callable, got {self.solve!r}")
        _check_seconds(data_seconds=self.data_seconds, train_seconds=self.train_seconds)


class Point(NamedTuple):
    """One setting of a solver: its name, its mean relative L2 error, its seconds an answer."""

    name: str
    error: float
    seconds: float


class Timing(NamedTuple):
    """What `time_in_turns` measures of one program, in seconds."""

    first: float
    """the first call, with compilation"""
    turns: tuple[float, ...]
    """the calls after it"""


class Row(NamedTuple):
    """What `compare` finds for one operator; what depends on the batch has one entry a batch."""

    errors: tuple[float, ...]
    """mean relative L2 error, for each stride"""
    error_95: float
    """the 95th percentile over the inputs, for the first stride"""
    error_h1: float
    """mean relative H1 error, for the first stride"""
    parameters: int
    """floating-point numbers in its arrays"""
    compile_seconds: float
    """for the first batch; in no other number"""
    seconds: tuple[float, ...]
    """of one answer"""
    naive_speedup: tuple[float, ...]
    """the naive solver's seconds over the operator's, whatever their errors"""
    matched: tuple[Point | None, ...]
    """the cheapest setting of the solver with at most the operator's error, if there is one"""
    speedup: tuple[float, ...]
    """the matched setting's seconds over the operator's; NaN without one"""
    break_even: tuple[float, ...]
    """answers until the operator has cost less than the matched setting; NaN without one"""


class Table(NamedTuple):
    """What `compare` returns; `str` of it is a table in Markdown."""

    rows: dict[str, Row]
    curves: tuple[tuple[Point, ...], ...]
    """the solver's settings, for each batch"""
    strides: tuple[int, ...]
    batches: tuple[int, ...]

    def __str__(self) -> str:
        errors = [f"error, stride {s}" for s in self.strides]
        title = ["operator", *errors, "95 %", "H1", "parameters", "batch", "seconds"]
        title += [
            "naive speed-up",
            "solver of equal error",
            "speed-up at equal error",
            "break-even",
        ]
        lines = [title, ["---"] * len(title)]
        for name, row in self.rows.items():
            numbers = [f"{e:.2g}" for e in (*row.errors, row.error_95, row.error_h1)]
            for i, batch in enumerate(self.batches):
                point = row.matched[i]
                matched = "none is" if point is None else f"{point.name} ({point.error:.2g})"
                cost = [str(batch), f"{row.seconds[i]:.2g}", f"{row.naive_speedup[i]:.3g}"]
                fair = [matched, f"{row.speedup[i]:.3g}", f"{row.break_even[i]:.3g}"]
                lines.append([name, *numbers, str(row.parameters), *cost, *fair])
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def break_even(t_data: float, t_train: float, t_solver: float, t_op: float) -> float:
    """How many answers pay back an operator's training, n = (t_data + t_train)/(t_solver - t_op).

    The least whole number of answers is the ceiling of it. Infinite if an answer of the operator
    costs as much as one of the solver, or more.

    **Arguments:** seconds for the training data, for the training, and for one answer of the
    solver *with the operator's error* and of the operator.

    **Raises:** `ValueError` for seconds that are negative or not finite.
    """
    _check_seconds(t_data=t_data, t_train=t_train, t_solver=t_solver, t_op=t_op)
    gain = t_solver - t_op
    return (t_data + t_train) / gain if gain > 0 else math.inf


def error_matched(curve: Sequence[Point], error: float) -> Point:
    """The cheapest setting of a solver with at most this error; its `seconds` are the fair cost.

    Nothing is interpolated: the setting can be run, and is somewhat too accurate rather than too
    cheap. Settings that blew up (an error that is not finite) do not count.

    **Raises:** `ValueError` if no setting is as accurate, since nothing is extrapolated either; if
    the curve is empty; or if the error is not a positive number.
    """
    if not curve:
        raise ValueError("error_matched: the curve has no points")
    if not error > 0:
        raise ValueError(f"error_matched: error must be positive, got {error}")
    reached = [point for point in curve if point.error <= error]
    if not reached:
        best = min((p.error for p in curve if math.isfinite(p.error)), default=math.nan)
        raise ValueError(
            f"error_matched: none of the {len(curve)} settings has an error of {error:.3g} or "
            f"less; the most accurate has {best:.3g}. Add finer settings: nothing is extrapolated"
        )
    return min(reached, key=lambda point: point.seconds)


def time_in_turns(
    calls: Mapping[str, Callable[[], Any]], *, turns: int = 10, budget_s: float = math.inf
) -> dict[str, Timing]:
    """Seconds of several programs, one call of each in every turn, so that drift hits all alike.

    Every call is waited for. The first one of each, which compiles, is kept apart. Compare medians
    over turns.

    **Arguments:**

    - `calls`: programs without arguments; what they return is waited for.
    - `turns`: the number of them, if time allows.
    - `budget_s`: no further turn begins after so many seconds, but there are three at least.

    **Raises:** `ValueError` for `turns` < 1.
    """
    if turns < 1:
        raise ValueError(f"time_in_turns: turns must be positive, got {turns}")

    def seconds(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - start

    first = {name: seconds(call) for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for turn in range(turns):
        if turn >= _FEWEST_TURNS and time.perf_counter() - begin > budget_s:
            break
        for name, call in calls.items():
            found[name].append(seconds(call))
    return {name: Timing(first[name], tuple(found[name])) for name in calls}


def compare(
    test: Dataset,
    operators: Mapping[str, Operator],
    solver: Mapping[str, Callable[[Float[Array, "c_in *grid"]], Float[Array, "c_out *grid"]]],
    *,
    naive: str,
    strides: Sequence[int] = (1,),
    batches: Sequence[int] = (1, 64),
    turns: int = 10,
    budget_s: float = math.inf,
) -> Table:
    """Measures operators and the settings of a solver on the same inputs, and matches their errors.

    Medians over turns (`time_in_turns`), all programs of a batch in the same turns. A setting is
    chosen by the turns of even number and timed by the others, so that the smallest of many noisy
    numbers is not taken for the cost.

    **Arguments:**

    - `test`: inputs and trusted answers.
    - `operators`: by name.
    - `solver`: settings of a classical solver by name, from coarse and cheap to as accurate as the
        best operator: functions as the operators', in the operators' precision.
    - `naive`: the setting of the naive speed-up, in papers the one that made the data.
    - `strides`: of the grid, for `Dataset.subsample`; the solver and all seconds belong to the
        first. Operators are asked on every one.
    - `batches`: how many answers are asked for at once.
    - `turns`, `budget_s`: as for `time_in_turns`; the budget is that of all batches together.

    **Raises:** `ValueError` if `naive` is no setting, if nothing is to be compared, if a batch is
    larger than the test set, or if answers differ in shape, precision or device.
    """
    if not operators or naive not in solver:
        raise ValueError(
            f"compare: expected operators, and naive={naive!r} among the settings {list(solver)}"
        )
    both = sorted(set(operators) & set(solver))
    if both:
        raise ValueError(f"compare: operators and settings have the same names {both}")
    if not strides or not batches or not 1 <= min(batches) <= max(batches) <= test.n:
        raise ValueError(
            f"compare: expected strides, and batches from 1 to the {test.n} test pairs, got "
            f"{tuple(strides)} and {tuple(batches)}"
        )
    solves: dict[str, Any] = {name: entry.solve for name, entry in operators.items()} | dict(solver)
    grids = [test.subsample(stride) if stride > 1 else test for stride in strides]
    inputs = jnp.asarray(grids[0].inputs)
    answers = {name: _answers(solve, inputs) for name, solve in solves.items()}
    _check_alike(answers)
    errors = {name: _errors(answer, grids[0]) for name, answer in answers.items()}

    times = []
    for batch in batches:
        given = inputs[:batch]
        calls = {
            name: (lambda solve=solve, given=given: _answers(solve, given))
            for name, solve in solves.items()
        }
        times.append(time_in_turns(calls, turns=turns, budget_s=budget_s / len(batches)))

    def per_answer(name: str, i: int, part: slice = slice(None)) -> float:
        seconds = times[i][name].turns
        return statistics.median(seconds[part] or seconds) / batches[i]

    chosen_by, timed_by = slice(0, None, 2), slice(1, None, 2)
    rows = {}
    for name, entry in operators.items():
        elsewhere = [
            _errors(_answers(entry.solve, jnp.asarray(data.inputs)), data)[0] for data in grids[1:]
        ]
        means = tuple(float(e.mean()) for e in (errors[name][0], *elsewhere))
        seconds = tuple(per_answer(name, i) for i in range(len(batches)))
        matched = []
        for i in range(len(batches)):
            curve = [
                Point(s, float(errors[s][0].mean()), per_answer(s, i, chosen_by)) for s in solver
            ]
            point = None
            if any(p.error <= means[0] for p in curve):
                point = error_matched(curve, means[0])
                point = point._replace(seconds=per_answer(point.name, i, timed_by))
            matched.append(point)
        rows[name] = Row(
            errors=means,
            error_95=float(np.percentile(errors[name][0], 95)),
            error_h1=float(errors[name][1].mean()),
            parameters=_parameters(entry.solve),
            compile_seconds=times[0][name].first - seconds[0] * batches[0],
            seconds=seconds,
            naive_speedup=tuple(per_answer(naive, i) / s for i, s in enumerate(seconds)),
            matched=tuple(matched),
            speedup=tuple(
                math.nan if p is None else p.seconds / s
                for p, s in zip(matched, seconds, strict=True)
            ),
            break_even=tuple(
                math.nan
                if p is None
                else break_even(entry.data_seconds, entry.train_seconds, p.seconds, s)
                for p, s in zip(matched, seconds, strict=True)
            ),
        )
    curves = tuple(
        tuple(Point(s, float(errors[s][0].mean()), per_answer(s, i)) for s in solver)
        for i in range(len(batches))
    )
    return Table(rows, curves, tuple(strides), tuple(batches))


@eqx.filter_jit
def _answers(solve: Callable[[Array], Array], inputs: Float[Array, "n c *grid"]):
    return jax.vmap(solve)(inputs)


def _errors(answers: Array, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Relative L2 and H1 errors of each answer."""
    truth = jnp.asarray(data.outputs, answers.dtype)
    if answers.shape != truth.shape:
        raise ValueError(f"compare: expected answers of shape {truth.shape}, got {answers.shape}")
    grid = data.grid
    # relative_h1's spacing is length / points, on every kind of axis.
    lengths = tuple(h * n for h, n in zip(grid.spacing, grid.shape, strict=True))
    l2, h1 = _l2_and_h1(answers, truth, grid.periodic, lengths)
    return np.asarray(l2), np.asarray(h1)


@eqx.filter_jit
def _l2_and_h1(answers, truth, periodic, lengths):
    def h1(answer, target):
        return relative_h1(answer, target, periodic=periodic, lengths=lengths)

    return jax.vmap(relative_l2)(answers, truth), jax.vmap(h1)(answers, truth)


def _check_alike(answers: Mapping[str, Array]) -> None:
    """One precision and one device for all, or their seconds are not to be compared."""
    kinds = {name: (str(a.dtype), sorted(map(str, a.devices()))) for name, a in answers.items()}
    first_name, first = next(iter(kinds.items()))
    for name, kind in kinds.items():
        if kind != first:
            raise ValueError(
                f"compare: {name} answers in {kind[0]} on {kind[1]}, {first_name} in {first[0]} on "
                f"{first[1]}; expected one precision and one device"
            )


def _parameters(solve: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(solve, eqx.is_inexact_array)))


def _check_seconds(**values: float) -> None:
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be 0 or more seconds, got {value}")
