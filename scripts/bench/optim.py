"""Time and compilation of an update: first-order methods against optax.adam, lazy Newton over m.

    python scripts/bench/optim.py [--parameters 10_000_000] [--dimension 500] [--repeats 15]

First-order updates on one tree (jitted, states donated, turns interleaved, medians); then lazy
Newton on a logistic regression, seconds per step for m from 1 to d.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import optax

from jaxsci.optim import adabound, adamp, diffgrad, lazy_newton, sgdp, trajectory


def first_order(parameters: int, repeats: int) -> None:
    methods = {
        "optax.adam": optax.adam(1e-3),
        "adabound": adabound(1e-3),
        "amsbound": adabound(1e-3, amsbound=True),
        "diffgrad": diffgrad(1e-3),
        "adamp": adamp(1e-3),
        "sgdp": sgdp(1e-3),
    }
    side = int((parameters / 10) ** 0.5)
    grads = {f"w{i}": jnp.full((side, side), 0.1) for i in range(10)}
    running, compiled, times = {}, {}, {name: [] for name in methods}
    for name, tx in methods.items():

        def step(params, state, grads, tx=tx):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        params = jax.tree.map(jnp.ones_like, grads)
        state = tx.init(params)
        start = time.perf_counter()
        program = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, grads).compile()
        compiled[name] = time.perf_counter() - start
        running[name] = (program, *program(params, state, grads))
    for _ in range(repeats):
        for name, (program, params, state) in running.items():
            start = time.perf_counter()
            params, state = jax.block_until_ready(program(params, state, grads))
            times[name].append(time.perf_counter() - start)
            running[name] = (program, params, state)
    base = statistics.median(times["optax.adam"])
    print(f"{10 * side**2} parameters")
    print(f"{'':12}{'ms':>10}{'/ adam':>10}{'compile s':>12}{'/ adam':>10}")
    for name, found in times.items():
        seconds = statistics.median(found)
        print(
            f"{name:12}{1e3 * seconds:10.1f}{seconds / base:10.2f}{compiled[name]:12.2f}"
            f"{compiled[name] / compiled['optax.adam']:10.2f}"
        )


def lazy(d: int) -> None:
    features = jax.random.normal(jax.random.key(0), (2 * d, d))
    labels = jnp.sign(features[:, 0] + 0.1)

    def value(x):
        return jnp.mean(jnp.logaddexp(0, -labels * (features @ x))) + 1e-3 * x @ x

    print(f"\nlazy_newton, d = {d}, float32")
    for m in sorted({1, 4, 16, 64, d}):
        steps = d if m > 16 else 32
        run = jax.jit(lambda x, m=m, s=steps: trajectory(lazy_newton(m=m), value, x, s)[1])
        jax.block_until_ready(run(jnp.zeros(d)))
        start = time.perf_counter()
        jax.block_until_ready(run(jnp.zeros(d)))
        print(f"m = {m:5}: {1e3 * (time.perf_counter() - start) / steps:8.2f} ms a step")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--dimension", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    first_order(arguments.parameters, arguments.repeats)
    lazy(arguments.dimension)
