"""Memory, time and accuracy of gradients through a solve: reversible, checkpointed, continuous.

    python scripts/bench/adjoints.py

A field tanh(A y) on 64 x 256 numbers in float32, Heun's method with constant steps. Prints the
temporary memory of the compiled gradient, in units of one y, for 100 and 800 steps; its processor
time, in units of that of a solve without a gradient (methods take turns, the least of five); and
how far the gradient is from that of the discrete solution (`reversible_solve`: of its own).
"""

import time

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr

from jaxsci.dynamics import Reversible, reversible_solve

MATRIX = jr.normal(jr.key(0, impl="rbg"), (64, 64)) / 8
Y0 = jnp.ones((64, 256)) * jnp.linspace(-1, 1, 256)
TERM = dfx.ODETerm(lambda t, y, A: jnp.tanh(A @ y))


def objective(method, steps):
    def value(A):
        common = (0.0, 2.0, 2.0 / steps, Y0, A)
        if method == "reversible_solve":
            return jnp.sum(reversible_solve(TERM, dfx.Heun(), *common, max_steps=steps + 1).y ** 2)
        solver, adjoint = {
            "checkpoints, log n": (dfx.Heun(), dfx.RecursiveCheckpointAdjoint()),
            "checkpoints, all steps": (dfx.Heun(), dfx.RecursiveCheckpointAdjoint(steps + 1)),
            "backsolve": (dfx.Heun(), dfx.BacksolveAdjoint()),
            "reversible steps, log n": (Reversible(dfx.Heun()), dfx.RecursiveCheckpointAdjoint()),
        }[method]
        sol = dfx.diffeqsolve(TERM, solver, *common, max_steps=steps + 1, adjoint=adjoint)
        return jnp.sum(sol.ys[0] ** 2)

    return value


def main():
    methods = ("reversible_solve", "checkpoints, log n", "checkpoints, all steps", "backsolve")
    for steps in (100, 800):
        programs = {"no gradient": jax.jit(objective("checkpoints, log n", steps))}
        for method in (*methods, "reversible steps, log n"):
            programs[method] = jax.jit(jax.grad(objective(method, steps)))
        compiled = {name: f.lower(MATRIX).compile() for name, f in programs.items()}
        gradients = {name: program(MATRIX) for name, program in compiled.items()}
        seconds = dict.fromkeys(compiled, float("inf"))
        for _ in range(5):
            for name, program in compiled.items():
                start = time.process_time()
                jax.block_until_ready(program(MATRIX))
                seconds[name] = min(seconds[name], time.process_time() - start)
        for name, program in compiled.items():
            memory = program.memory_analysis().temp_size_in_bytes / (4 * Y0.size)
            ratio = seconds[name] / seconds["no gradient"]
            print(f"{steps:4} steps  {name:24} {memory:8.1f} y {ratio:6.2f} solves", flush=True)
        size = jnp.abs(gradients["checkpoints, log n"]).max()
        for method, other in (
            ("reversible_solve", "reversible steps, log n"),
            ("backsolve", "checkpoints, log n"),
        ):
            gap = jnp.abs(gradients[method] - gradients[other]).max() / size
            print(f"{steps:4} steps  {method} against {other}: {gap:.1e}", flush=True)


if __name__ == "__main__":
    main()
