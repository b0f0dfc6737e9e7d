"""Cost of one answer against the resolution, beside the power of n that theory gives.

    python scripts/bench/operator_resolution.py [--save times.json] [--figure FILE]

One function in, one out, float32, one core, processor time, the median of repetitions that fill a
fifth of a second; the sizes are taken in turns, so that drift hits all alike. With n points in all,

- FNO: its transforms are matrices of m × n for m fixed modes, and so n (an FFT has n log n).
- U-Net, dilated ResNet, MP-PDE (six neighbours): n.
- DeepONet (32 sensors): n, one evaluation of the trunk for each point.
- LNO (rank 4): n. GNO: all pairs nearer than a radius that stays, n².
- T1: its layers act on coefficients, only the transform on points; from 0 to 1.

The slope is a straight line's through the three largest sizes, on logarithmic axes. Below them the
cost of a call counts.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import equinox as eqx
import jax
import matplotlib
import numpy as np

from jaxsci.nn import UNet
from jaxsci.operators import (
    FNO,
    GNO,
    LNO,
    MPPDE,
    T1,
    DeepONet,
    DilatedResNet,
    ModifiedMLP,
    MPPDEPoints,
)
from jaxsci.pde import Grid

SIDES = {1: (64, 128, 256, 512, 1024, 2048, 4096), 2: (16, 32, 64, 128)}
GNO_LARGEST = {1: 1024, 2: 64}
# The powers of n; of T1 the layers alone do not depend on n.
THEORY = {
    "FNO": "1", "U-Net": "1", "dilated ResNet": "1", "MP-PDE": "1", "DeepONet": "1", "LNO": "1",
    "GNO": "2", "T1": "0 to 1",
}  # fmt: skip


def program(name: str, dim: int, side: int):
    """A function of one input, jitted, and that input; None where the size is out of reach."""
    grid = Grid((0.0,) * dim, (1.0,) * dim, (side,) * dim, periodic=True)
    key = jax.random.key(0)
    u = jax.random.normal(key, (1, *grid.shape))
    match name:
        case "FNO":
            op = FNO(dim, 1, 1, width=32, modes=12 if dim == 1 else 4, key=key)
        case "U-Net":
            op = UNet(dim, 1, 1, (16, 32, 64), padding="wrap", key=key)
        case "dilated ResNet":
            op = DilatedResNet(dim, 1, 1, width=32, blocks=1, padding="wrap", key=key)
        case "MP-PDE":
            if dim > 1:
                return None
            solver = MPPDE(
                MPPDEPoints.of_grid(grid), time_window=1, dt=1.0, hidden=32, layers=4, key=key
            )
            return eqx.filter_jit(lambda u: solver.predict(u[None])[0]), u
        case "DeepONet":
            branch = eqx.nn.MLP(32, 64, 64, 3, key=key)
            net = DeepONet(branch, ModifiedMLP(dim, 64, width=64, key=key), p=64)
            points = grid.coords().reshape(dim, -1).T
            # The points are an argument, so that nothing is computed in advance.
            call = eqx.filter_jit(lambda points: net(u.reshape(1, -1)[:, :32], out=points))
            return call, jax.numpy.asarray(points)
        case "LNO":
            op = LNO(grid, 1, 1, width=16, depth=2, kernel_hidden=32, key=key)
        case "GNO":
            if side > GNO_LARGEST[dim]:
                return None
            radius = 0.05 if dim == 1 else 0.15
            op = GNO(
                grid, 1, 1, radius=radius, width=16, depth=2, matrix=False, kernel_hidden=32,
                key=key,
            )  # fmt: skip
        case "T1":
            op = T1(dim, 1, 1, modes=12 if dim == 1 else 6, width=32, depth=4, key=key)
        case _:
            raise ValueError(name)
    # Weights as arguments: as constants, XLA would compute what depends on them alone in advance.
    arrays, static = eqx.partition(op, eqx.is_array)
    call = jax.jit(lambda arrays, u: eqx.combine(arrays, static)(u))
    return (lambda u: call(arrays, u)), u


def measure(name: str, dim: int, turns: int) -> dict[int, float]:
    """Milliseconds of one answer for each number of points."""
    programs = {}
    for side in SIDES[dim]:
        made = program(name, dim, side)
        if made is not None:
            call, u = made
            jax.block_until_ready(call(u))
            programs[side**dim] = call, u
    times = {n: [] for n in programs}
    for _ in range(turns):
        for n, (call, u) in programs.items():
            spent, count = 0.0, 0
            while spent < 0.2 / turns or not count:
                start = time.process_time()
                jax.block_until_ready(call(u))
                spent, count = spent + time.process_time() - start, count + 1
            times[n].append(1e3 * spent / count)
    return {n: statistics.median(t) for n, t in times.items()}


def slope(times: dict[int, float]) -> float:
    n, t = np.log(np.array(list(times.items())[-3:])).T
    return float(np.polyfit(n, t, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--save", type=Path, help="what stands there is not measured again")
    folder = Path(__file__).parents[2] / "docs" / "images"
    parser.add_argument("--figure", type=Path, default=folder / "operator_resolution.png")
    options = parser.parse_args()
    # Before JAX first runs, which is when it counts the cores.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    measured = {}
    if options.save is not None and options.save.exists():
        measured = json.loads(options.save.read_text())
    for dim in SIDES:
        for name in THEORY:
            label = f"{name}, {dim}-D"
            if label in measured:
                continue
            measured[label] = {str(n): t for n, t in measure(name, dim, options.turns).items()}
            if options.save is not None:
                options.save.write_text(json.dumps(measured))
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12.5, 4.6), layout="constrained", sharey=True)
    for dim, axis in zip(SIDES, axes, strict=True):
        for index, (name, power) in enumerate(THEORY.items()):
            times = {int(n): t for n, t in measured[f"{name}, {dim}-D"].items()}
            if not times:
                continue
            found = slope(times)
            print(f"{name}, {dim}-D: slope {found:.2f}, theory {power}; ms: {times}")
            n, t = np.array(list(times.items())).T
            axis.loglog(
                n, t, "o-", color=f"C{index}", ms=4, label=f"{name}: {found:.2f}  ({power})"
            )
            if power.isdigit():
                line = t[-1] * (n[-3:] / n[-1]) ** int(power)
                axis.loglog(n[-3:], line, ":", color=f"C{index}", lw=1)
        axis.set(xlabel="points $n$", title=f"{dim}-D")
        axis.legend(
            title="slope (theory, dotted)", fontsize=8, loc="upper left", bbox_to_anchor=(1, 1)
        )
    axes[0].set_ylabel("milliseconds of one answer, one core")
    figure.savefig(options.figure, dpi=110)


if __name__ == "__main__":
    main()
