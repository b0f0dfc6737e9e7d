"""Memory and accuracy of gradients through a solve: reversible, checkpointed, continuous adjoint.

    python scripts/bench/adjoints.py

A field tanh(A y) on 64 x 256 numbers in float32, Heun's method with constant steps. Prints the
temporary memory of the compiled gradient, in units of one y, for 100 and 800 steps, and how far the
gradient is from that of the discrete solution (`reversible_solve`: of its own discrete solution).
"""

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
        gradients = {}
        for method in (*methods, "reversible steps, log n"):
            compiled = jax.jit(jax.grad(objective(method, steps))).lower(MATRIX).compile()
            gradients[method] = compiled(MATRIX)
            memory = compiled.memory_analysis().temp_size_in_bytes / (4 * Y0.size)
            print(f"{steps:4} steps  {method:24} {memory:8.1f} y", flush=True)
        size = jnp.abs(gradients["checkpoints, log n"]).max()
        for method, other in (
            ("reversible_solve", "reversible steps, log n"),
            ("backsolve", "checkpoints, log n"),
        ):
            gap = jnp.abs(gradients[method] - gradients[other]).max() / size
            print(f"{steps:4} steps  {method} against {other}: {gap:.1e}", flush=True)


if __name__ == "__main__":
    main()
