"""PINNacle's problems by `jaxsci.pinn` and by DeepXDE, in turns: error and seconds.

    python -m venv peer && peer/bin/pip install torch==2.13.0 deepxde==1.15.0
    python scripts/bench/pinnacle_deepxde.py --peer peer/bin/python [NAME ...] [--seconds 30]

Ours: the recipes of `experiments/pinn/pinnacle.py`, each for `--seconds` of processor time at most,
plus compilation and waiting. DeepXDE gets twice the total, compilation included: soft conditions
with weight 1, Adam (rate 1e-3) for two thirds of it and L-BFGS for the rest, 4 × 50 tanh,
2000 + 600 points; with `--large` PINNacle's own 5 × 100, 8192 + 2048 points and Adam alone. A line
is `name, error, seconds (compiling)`.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# The same for both, also where other work shares the machine.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
NAMES = ("burgers_2d", "poisson_2d_c", "heat_2d_vc", "ns_2d_c", "wave_1d_c", "ks")
NAMES += ("burgers_1d", "poisson_2d_cg")


def ours(name: str, seconds: float, seed: int) -> dict:
    import jax
    import jax.random as jr

    from jaxsci.experiment import Logger, find, load
    from jaxsci.pde.benchmarks import pinnacle

    jax.config.update("jax_enable_x64", True)
    loaded = load(find("pinnacle"))
    config = dataclasses.replace(loaded.preset("full"), seconds=seconds)
    statement = getattr(pinnacle, name)()
    statement.reference()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        # One thread: its processor time is the time that it runs.
        found = sys.modules[loaded.run.__module__].ours(
            config, statement, jr.key(seed), Logger.silent(folder)
        )
    total = time.perf_counter() - start
    return {
        "error": found["error"],
        "seconds": total,
        "compiling": total - found["seconds"],
        "steps": found["steps"],
    }


def data(name: str, folder: Path) -> Path:
    """What the peer needs to know of a problem, in a file."""
    from jaxsci.pde.benchmarks import pinnacle
    from jaxsci.pde.benchmarks.pinnacle.evolution import burgers_2d_coefficients, heat_modes

    x, values = getattr(pinnacle, name)().reference()
    waves, amplitudes, phases = heat_modes()
    sines, cosines, mean = burgers_2d_coefficients()
    path = folder / f"{name}.npz"
    np.savez(
        path, x=x, values=values, waves=waves, amplitudes=amplitudes, phases=phases,
        sines=sines, cosines=cosines, mean=mean,
    )  # fmt: skip
    return path


def peer(name: str, seconds: float, seed: int, path: Path, large: bool) -> dict:
    """DeepXDE's side, run by the other environment."""
    import deepxde as dde
    import torch

    known = np.load(path)
    dde.config.set_random_seed(seed)
    second, first = dde.grad.hessian, dde.grad.jacobian

    def anywhere(x, on_boundary):
        return on_boundary

    def dirichlet(geometry, value, where=anywhere, component=0):
        return dde.icbc.DirichletBC(geometry, value, where, component=component)

    def laplace(u, x, component=0):
        parts = (second(u, x, component=component, i=i, j=i) for i in range(2))
        return sum(parts)

    space, times, outputs = None, None, 1
    if name in ("poisson_2d_c", "poisson_2d_cg"):
        classic = name == "poisson_2d_c"
        half = 0.5 if classic else 1.0
        circles = [(a, b, 0.1) for a in (0.3, -0.3) for b in (0.3, -0.3)]
        if not classic:
            circles = [(0.5, 0.5, 0.2), (0.4, -0.4, 0.4), (-0.2, -0.7, 0.1), (-0.6, 0.5, 0.3)]
        space = dde.geometry.Rectangle([-half, -half], [half, half])
        for a, b, r in circles:
            space = space - dde.geometry.Disk([a, b], r)

        def equation(x, u):
            if classic:
                return laplace(u, x)
            waves = torch.sin(torch.pi * x[:, :1]) * torch.sin(4 * torch.pi * x[:, 1:])
            source = 10 * (17 + (x**2).sum(1, keepdim=True)) * waves
            return -laplace(u, x) + 64 * u - source

        def square(x, on_boundary):
            return on_boundary and bool(np.isclose(np.max(np.abs(x)), half))

        outer, inner = (1.0, 0.0) if classic else (0.2, 1.0)
        conditions = [
            dirichlet(space, lambda x: outer, square),
            dirichlet(space, lambda x: inner, lambda x, on: on and not square(x, on)),
        ]
    elif name == "ns_2d_c":
        outputs = 3
        space = dde.geometry.Rectangle([0, 0], [1, 1])

        def equation(x, w):
            found = []
            for i in (0, 1):
                convection = w[:, :1] * first(w, x, i=i, j=0) + w[:, 1:2] * first(w, x, i=i, j=1)
                found.append(convection + first(w, x, i=2, j=i) - 0.01 * laplace(w, x, i))
            return [*found, first(w, x, i=0, j=0) + first(w, x, i=1, j=1)]

        def lid(x, on):
            return on and bool(np.isclose(x[1], 1))

        conditions = [
            dirichlet(space, lambda x: 4 * x[:, :1] * (1 - x[:, :1]), lid),
            dirichlet(space, lambda x: 0, lambda x, on: on and not lid(x, on)),
            dirichlet(space, lambda x: 0, component=1),
            dde.icbc.PointSetBC(np.zeros((1, 2)), np.zeros((1, 1)), component=2),
        ]
    else:
        boxes = {
            "burgers_1d": ([-1], [1], 1),
            "wave_1d_c": ([0], [1], 1),
            "ks": ([0], [2 * np.pi], 1),
            "heat_2d_vc": ([0, 0], [1, 1], 5),
            "burgers_2d": ([0, 0], [4, 4], 1),
        }
        low, high, end = boxes[name]
        plain = (
            dde.geometry.Interval(low[0], high[0])
            if len(low) == 1
            else dde.geometry.Rectangle(low, high)
        )
        times = dde.geometry.TimeDomain(0, end)
        space = dde.geometry.GeometryXTime(plain, times)

        def start(value, component=0):
            return dde.icbc.IC(space, value, lambda _, on: on, component=component)

        def period(axis, component=0, order=0):
            def on_axis(x, on):
                edges = (low[axis], high[axis])
                return on and any(bool(np.isclose(x[axis], edge)) for edge in edges)

            return dde.icbc.PeriodicBC(
                space, axis, on_axis, derivative_order=order, component=component
            )

        if name == "burgers_1d":

            def equation(x, u):
                transport = first(u, x, j=1) + u * first(u, x, j=0)
                return transport - 0.01 / np.pi * second(u, x, i=0, j=0)

            conditions = [
                start(lambda x: -np.sin(np.pi * x[:, :1])),
                dirichlet(space, lambda x: 0),
            ]
        elif name == "wave_1d_c":

            def equation(x, u):
                return second(u, x, i=1, j=1) - 4 * second(u, x, i=0, j=0)

            def shape(x):
                return np.sin(np.pi * x[:, :1]) + np.sin(4 * np.pi * x[:, :1]) / 2

            rest = dde.icbc.OperatorBC(
                space, lambda x, u, _: first(u, x, j=1), lambda x, _: bool(np.isclose(x[1], 0))
            )
            conditions = [start(shape), rest, dirichlet(space, lambda x: 0)]
        elif name == "ks":

            def equation(x, u):
                xx = second(u, x, i=0, j=0)
                transport = first(u, x, j=1) + 100 / 16 * u * first(u, x, j=0)
                return transport + 100 / 256 * xx + 100 / 16**4 * second(xx, x, i=0, j=0)

            conditions = [
                start(lambda x: np.cos(x[:, :1]) * (1 + np.sin(x[:, :1]))),
                period(0),
                period(0, order=1),
            ]
        elif name == "heat_2d_vc":
            waves, amplitudes, phases = (
                torch.tensor(known[key], dtype=torch.float32)
                for key in ("waves", "amplitudes", "phases")
            )

            def equation(x, u):
                angles = 2 * torch.pi * x[:, :2] @ waves.T + phases
                a = torch.exp(torch.cos(angles) @ amplitudes)[:, None]
                shape = torch.sin(torch.pi * x[:, :1]) * torch.sin(5 * torch.pi * x[:, 1:2])
                source = 200 * shape * torch.sin(torch.pi * x[:, 2:])
                return first(u, x, j=2) - a * laplace(u, x) - source

            conditions = [start(lambda x: 0), dirichlet(space, lambda x: 0)]
        else:
            outputs = 2
            i, j = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")

            def values(x, c):
                phase = 2 * np.pi * (x[:, :1] * i.ravel() + x[:, 1:2] * j.ravel())
                sums = np.sin(phase) @ known["sines"][c] + np.cos(phase) @ known["cosines"][c]
                return sums[:, None] + known["mean"][c]

            def equation(x, w):
                found = []
                for c in (0, 1):
                    transport = w[:, :1] * first(w, x, i=c, j=0) + w[:, 1:] * first(w, x, i=c, j=1)
                    found.append(first(w, x, i=c, j=2) + transport - 0.001 * laplace(w, x, c))
                return found

            # DeepXDE counts arguments: a default for c would be taken for a second one.
            conditions = [start(lambda x: values(x, 0), 0), start(lambda x: values(x, 1), 1)]
            conditions += [period(axis, c) for axis in (0, 1) for c in (0, 1)]
    inside, edge, layers = (8192, 2048, [100] * 5) if large else (2000, 600, [50] * 4)
    if times is None:
        pde = dde.data.PDE(space, equation, conditions, num_domain=inside, num_boundary=edge)
    else:
        pde = dde.data.TimePDE(
            space, equation, conditions, num_domain=inside, num_boundary=edge, num_initial=edge
        )
    inputs = known["x"].shape[1]
    net = dde.nn.FNN([inputs, *layers, outputs], "tanh", "Glorot normal")
    model = dde.Model(pde, net)

    class Limit(dde.callbacks.Callback):
        """Ends a training at a time."""

        def __init__(self, end):
            super().__init__()
            self.end = end

        def on_batch_end(self):
            if time.perf_counter() > self.end:
                self.model.stop_training = True

    share = 1.0 if large else 2 / 3
    model.compile("adam", lr=1e-3, verbose=0)
    # The first step imports a good part of torch, which is no cost of a method.
    model.train(iterations=1, display_every=10**9, verbose=0)
    began = time.perf_counter()
    model.train(
        iterations=10**7, display_every=10**9, verbose=0,
        callbacks=[Limit(began + share * seconds)],
    )  # fmt: skip
    steps = model.train_state.step
    if not large:
        dde.optimizers.set_LBFGS_options(maxiter=10**7, ftol=0, gtol=0, maxfun=10**7)
        # One call of L-BFGS does many iterations between two looks at the clock.
        dde.optimizers.config.LBFGS_options["iter_per_step"] = 10
        model.compile("L-BFGS", verbose=0)
        model.train(display_every=10**9, verbose=0, callbacks=[Limit(began + seconds)])
    total = time.perf_counter() - began
    found = model.predict(known["x"].astype(np.float32))
    error = np.linalg.norm(found - known["values"]) / np.linalg.norm(known["values"])
    return {"error": float(error), "seconds": total, "compiling": 0.0, "steps": int(steps)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--worker", choices=["ours", "peer"])
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    if options.worker:
        name = options.names[0]
        if options.worker == "ours":
            found = ours(name, options.seconds, options.seed)
        else:
            found = peer(name, options.seconds, options.seed, options.data, options.large)
        print("\n" + json.dumps(found))
        return

    def work(python: str, *arguments: str) -> dict:
        command = [python, __file__, *arguments, "--seed", str(options.seed)]
        command += ["--large"] * options.large
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ONE_THREAD)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        return json.loads(done.stdout.strip().splitlines()[-1])

    with tempfile.TemporaryDirectory() as folder:
        for name in options.names:
            seconds = str(options.seconds)
            path = data(name, Path(folder))
            rows = {"jaxsci": work(sys.executable, name, "--worker", "ours", "--seconds", seconds)}
            budget = str(2 * rows["jaxsci"]["seconds"])
            rows["DeepXDE"] = work(
                options.peer, name, "--worker", "peer", "--seconds", budget, "--data", str(path)
            )
            for who, row in rows.items():
                print(
                    f"{name:14} {who:8} {row['error']:.2e} {row['seconds']:6.1f} s "
                    f"({row['compiling']:.1f} compiling), {row['steps']} steps",
                    flush=True,
                )


if __name__ == "__main__":
    main()
