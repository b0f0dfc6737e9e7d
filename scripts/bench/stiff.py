"""Work-precision of stiff solvers: error at the end against time, on six problems.

    python scripts/bench/stiff.py [--problems hires,orego] [--turns 1] [--save stiff.json]

Ours, diffrax's implicit solvers and SciPy's, all in double precision, in variables scaled to their
typical sizes, with the same absolute and relative tolerance from 1e-3 to 1e-10, exact Jacobians,
and (in JAX) the same step size controller. JAX programs are compiled before they are timed; the
tolerance is an argument, so one program serves all. Time is CPU time of the process on one thread,
which other work on the machine disturbs less than the clock; short runs are repeated and the least
counts. Errors are the largest of |yᵢ − refᵢ|/(scaleᵢ + |refᵢ|) at the end; the references are
SciPy's Radau at 1e-12 and below.

Prints, for each problem and error, the time of every solver that reaches it (interpolated between
tolerances) and the ratio of the best of diffrax and SciPy to the best of ours; keeps what was
measured in `--save`, where problems already there are not measured again; writes the figure.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
_flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("XLA_FLAGS", _flags)

import diffrax as dfx  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
from scipy.integrate import solve_ivp  # noqa: E402

from jaxsci.dynamics import (  # noqa: E402
    MSRKTASE3,
    BlockCyclicReduction,
    Rodas4,
    Rodas5P,
    banded_jacobian,
    stiff_problems,
)

TOLERANCES = 10.0 ** -np.arange(3.0, 10.1, 1.0)
SCIPY_TOLERANCES = 10.0 ** -np.arange(4.0, 10.1, 2.0)
LEVELS = (1e-4, 1e-5, 1e-6, 1e-7)
PATIENCE = 1.5  # seconds; tighter tolerances of a solver that needed more are left out
MAX_STEPS = 100_000  # of one run: a solver that needs more has failed
STYLES = {
    "Rodas5P": ("C3", "o-"),
    "Rodas4": ("C1", "o-"),
    "MSRKTASE3": ("C8", "o-"),
    "Rodas5P, banded": ("C3", "s:"),
    "Kvaerno3": ("C0", "x-"),
    "Kvaerno5": ("C9", "x-"),
    "KenCarp4": ("C2", "x-"),
    "SciPy Radau": ("0.2", "+--"),
    "SciPy BDF": ("0.45", "+--"),
    "SciPy LSODA": ("0.7", "+--"),
}
OURS = ("Rodas5P", "Rodas4", "MSRKTASE3", "Rodas5P, banded")


def jax_program(problem, solver, split=False):
    scale = jnp.asarray(problem.scale)

    def field(t, z, args):
        return problem.field(t, z * scale) / scale

    if solver == "banded":
        options = {"jacobian": banded_jacobian(field, *problem.band)}
        solver = Rodas5P(linear_solver=BlockCyclicReduction(), **options)
    term = dfx.ODETerm(field)
    if split:  # KenCarp's methods are for two parts; here the explicit one is nothing
        term = dfx.MultiTerm(dfx.ODETerm(lambda t, z, args: jnp.zeros_like(z)), term)

    @jax.jit
    def program(tolerance):
        sol = dfx.diffeqsolve(
            term,
            solver,
            0.0,
            problem.t1,
            1e-6,
            jnp.asarray(problem.y0) / scale,
            stepsize_controller=dfx.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=MAX_STEPS,
            throw=False,
        )
        return sol.ys[0] * scale, sol.stats["num_steps"], sol.result == dfx.RESULTS.successful

    def run(tolerance):
        y, steps, okay = jax.block_until_ready(program(jnp.asarray(tolerance)))
        return np.asarray(y) if okay else np.full_like(problem.y0, np.nan), int(steps)

    return run


def scipy_program(problem, method):
    scale = problem.scale
    derivative = jax.jit(jax.jacfwd(lambda z: problem.field(0.0, z * jnp.asarray(scale)) / scale))

    def jacobian(t, z):
        return np.asarray(derivative(z))

    def run(tolerance):
        sol = solve_ivp(
            lambda t, z: problem.numpy_field(t, z * scale) / scale,
            (0, problem.t1),
            problem.y0 / scale,
            method=method,
            rtol=tolerance,
            atol=tolerance,
            jac=jacobian,
        )
        return sol.y[:, -1] * scale, len(sol.t) - 1

    return run


def contestants(problem):
    programs = {
        "Rodas5P": jax_program(problem, Rodas5P()),
        "Rodas4": jax_program(problem, Rodas4()),
        "MSRKTASE3": jax_program(problem, MSRKTASE3()),
        "Kvaerno3": jax_program(problem, dfx.Kvaerno3()),
        "Kvaerno5": jax_program(problem, dfx.Kvaerno5()),
        "KenCarp4": jax_program(problem, dfx.KenCarp4(), split=True),
        "SciPy Radau": scipy_program(problem, "Radau"),
        "SciPy BDF": scipy_program(problem, "BDF"),
        "SciPy LSODA": scipy_program(problem, "LSODA"),
    }
    if problem.band is not None:
        programs["Rodas5P, banded"] = jax_program(problem, "banded")
    return programs


def measure(problem, turns):
    """Solver -> (errors, seconds, steps), one entry a tolerance."""
    programs = contestants(problem)
    for name, run in programs.items():
        start = time.monotonic()
        run(TOLERANCES[0])  # compiles
        took = time.monotonic() - start
        print(f"{problem.name}: {name} compiled, {took:.1f} s", file=sys.stderr, flush=True)
    found = {name: {} for name in programs}
    for _ in range(turns):
        for name, run in programs.items():
            print(f"{problem.name}: {name}", file=sys.stderr, flush=True)
            for tolerance in SCIPY_TOLERANCES if name.startswith("SciPy") else TOLERANCES:
                seconds, spent = np.inf, 0.0
                while spent < 0.1:
                    start = time.process_time()
                    y, steps = run(tolerance)
                    passed = time.process_time() - start
                    seconds, spent = min(seconds, passed), spent + passed
                _, best, _ = found[name].get(tolerance, (0, np.inf, 0))
                found[name][tolerance] = problem.error(y), min(seconds, best), steps
                if seconds > PATIENCE:
                    break
    return {name: np.array(list(points.values())).T.tolist() for name, points in found.items()}


def time_at(level, errors, seconds):
    """Seconds for an error, on the lower left edge of the points; infinity if out of reach."""
    good = np.isfinite(errors)
    errors, seconds = errors[good], seconds[good]
    if not np.any(errors <= level):
        return np.inf
    least = min(seconds[errors <= level])
    above = errors > level
    if not np.any(above):
        return least
    # Between the points on both sides of the level, on logarithmic axes.
    first = int(np.argmax(errors <= level))
    if first == 0 or not errors[first - 1] > level:
        return least
    x = np.log(errors[[first - 1, first]])
    y = np.log(seconds[[first - 1, first]])
    between = np.exp(y[0] + (np.log(level) - x[0]) * (y[1] - y[0]) / (x[1] - x[0]))
    return min(least, between) if between > 0 else least


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--problems", default="")
    folder = Path(__file__).parents[2] / "docs" / "images"
    parser.add_argument("--figure", type=Path, default=folder / "work_precision.png")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    wanted = options.problems.split(",") if options.problems else None
    chosen = [p for p in stiff_problems() if wanted is None or p.name in wanted]
    measured = {}
    if options.save is not None and options.save.exists():
        measured = json.loads(options.save.read_text())
    for problem in chosen:
        if problem.name not in measured:
            measured[problem.name] = measure(problem, options.turns)
            if options.save is not None:
                options.save.write_text(json.dumps(measured))
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(4.6 * columns, 3.9 * rows + 0.5),
        layout="constrained",
        squeeze=False,
    )
    handles = {}
    for problem, axis in zip(chosen, axes.flat, strict=False):
        results = {n: np.array(r) for n, r in measured[problem.name].items()}
        print(f"\n{problem.name}, {len(problem.y0)} unknowns: milliseconds for an error of")
        print(f"{'':18}" + "".join(f"{level:>10.0e}" for level in LEVELS))
        times = {n: [time_at(level, *r[:2]) for level in LEVELS] for n, r in results.items()}
        for name, row in times.items():
            print(f"{name:18}" + "".join(f"{1e3 * t:>10.2f}" for t in row))
        for label, prefix in (("diffrax", ("K",)), ("SciPy", ("SciPy",))):
            ratio = [
                min(times[n][i] for n in times if n.startswith(prefix))
                / min(times[n][i] for n in OURS if n in times)
                for i in range(len(LEVELS))
            ]
            print(f"best {label} / best ours" + "".join(f"{r:>9.1f}" for r in ratio), flush=True)
        for name, (errors, seconds, _) in results.items():
            colour, style = STYLES[name]
            (handles[name],) = axis.loglog(errors, 1e3 * seconds, style, color=colour, ms=4, lw=1.2)
        axis.set(title=f"{problem.name} ({len(problem.y0)})", xlim=(3e-2, 1e-10))
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("CPU time, milliseconds")
    for axis in axes[-1]:
        axis.set_xlabel("relative error at the end")
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False
    )
    options.figure.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.figure, dpi=110)


if __name__ == "__main__":
    main()
