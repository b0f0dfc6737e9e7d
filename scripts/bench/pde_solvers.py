"""Times the generators of `jaxsci.pde` against scipy and against the floor of their transforms.

    python scripts/bench/pde_solvers.py [--quick]

Prints one line a measurement: medians of repeated runs after compilation, and ratios of times
taken in the same process. All in double precision.
"""

import argparse
import statistics
import time

import exponax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import spsolve

from jaxsci.pde import (
    BurgersOperator,
    DarcyFlow,
    ExponaxStepper,
    GaussianRandomField,
    Grid,
    NavierStokesVorticity,
    rollout,
)


def median_seconds(function, repeats):
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def burgers(n):
    """Whole calls of `generate`, compilation included, as a user waits for them."""
    for n_steps in (50, 200):
        problem = BurgersOperator(resolution=1024, n_steps=n_steps)
        start = time.perf_counter()
        problem.generate(jax.random.key(0), n)
        seconds = time.perf_counter() - start
        print(f"Burgers 1024 points, {n_steps} steps: {1000 * seconds / n:.2f} s per 1000 samples")


def five_point_matrix(a, h):
    n = a.shape[0] - 2
    number = -np.ones(a.shape, int)
    number[1:-1, 1:-1] = np.arange(n * n).reshape(n, n)
    rows, columns, values = [], [], []
    for axis in range(2):
        lower = tuple(slice(None, -1) if k == axis else slice(1, -1) for k in range(2))
        upper = tuple(slice(1, None) if k == axis else slice(1, -1) for k in range(2))
        weight = ((a[lower] + a[upper]) / (2 * h**2)).ravel()
        i, j = number[lower].ravel(), number[upper].ravel()
        for row, column, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            both = (row >= 0) & (column >= 0)
            rows.append(row[both])
            columns.append(column[both])
            values.append(sign * weight[both])
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return sparse.csc_matrix(entries)


def darcy(sizes, repeats):
    for size in sizes:
        problem = DarcyFlow(resolution=size)
        a = problem.medium(jax.random.key(0))
        solve = jax.jit(problem.solve)
        ours = median_seconds(lambda: solve(a), repeats)  # noqa: B023
        matrix = five_point_matrix(np.asarray(a[0]), 1 / (size - 1))
        right = np.ones(matrix.shape[0])
        direct = median_seconds(lambda: spsolve(matrix, right), max(1, repeats // 3))  # noqa: B023
        peer = spsolve(matrix, right).reshape(size - 2, size - 2)
        error = abs(np.asarray(solve(a))[0, 1:-1, 1:-1] - peer).max() / peer.max()
        print(
            f"Darcy {size}^2: {1e3 * ours:.1f} ms a solve, scipy spsolve {1e3 * direct:.1f} ms, "
            f"ratio {ours / direct:.2f}, difference {error:.1e}"
        )


def navier_stokes(sizes, repeats):
    """An ETDRK4 step against its twenty real transforms: four stages of four back, one forth."""
    steps = 50
    for size in sizes:
        problem = NavierStokesVorticity(
            final_time=1.0, resolution=size, solver_resolution=size, steps_per_unit=steps
        )
        w0 = problem.law.sample(jax.random.key(0), problem.solver_grid)
        solve = jax.jit(problem.solve)
        step = median_seconds(lambda: solve(w0), repeats) / steps  # noqa: B023

        def transforms(w):
            def once(w, _):
                for _ in range(10):
                    w = jnp.fft.irfftn(jnp.fft.rfftn(w), s=w.shape)
                return w, None

            return jax.lax.scan(once, w, length=steps)[0]

        compiled = jax.jit(transforms)
        floor = median_seconds(lambda: compiled(w0[0]), repeats) / steps  # noqa: B023
        print(
            f"Navier-Stokes {size}^2: {1e3 * step:.3f} ms a step, 20 transforms "
            f"{1e3 * floor:.3f} ms, ratio {step / floor:.2f}"
        )


def loop(repeats):
    """`rollout` against exponax's own loop, on the same stepper and field."""
    stepper = exponax.stepper.Burgers(1, 1.0, 256, 1e-3, diffusivity=0.01, order=4)
    grid = Grid(0.0, 1.0, 256, periodic=True)
    u0 = GaussianRandomField(2.5, 7.0).sample(jax.random.key(0), grid)
    mine = jax.jit(lambda u: rollout(ExponaxStepper(stepper, fourier=True), u, 1000))
    theirs = jax.jit(exponax.rollout(stepper, 1000))
    ours, peer = (median_seconds(lambda: f(u0), repeats) for f in (mine, theirs))  # noqa: B023
    print(
        f"rollout of 1000 Burgers steps: {1e3 * ours:.1f} ms, exponax.rollout {1e3 * peer:.1f} ms, "
        f"ratio {ours / peer:.2f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats")
    quick = parser.parse_args().quick
    repeats = 3 if quick else 9
    burgers(100 if quick else 1000)
    with jax.enable_x64(True):
        darcy((85, 141) if quick else (85, 141, 241, 421), repeats)
        navier_stokes((64,) if quick else (64, 128, 256), repeats)
        loop(repeats)


if __name__ == "__main__":
    main()
