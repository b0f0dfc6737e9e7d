"""Time of updates and of their compilation; lazy Newton over m; Newton's methods and their peers.

    python scripts/bench/optim.py [--sections first lazy peers] [--parameters 10_000_000]
        [--dimension 500] [--dimensions 100 200] [--repeats 15]

- `first`: one update of each first-order method on a tree of ten matrices (jitted, states donated),
  in turns with optax.adam; medians, and ratios to Adam's. Factored states and averages of weights
  are not of Adam's size, and the gradients are constant.
- `lazy`: lazy Newton on a logistic regression, seconds per step for m from 1 to d, and the time
  that its floating-point operations would take at the speed of a matrix product in the same run.
- `peers`: to ‖∇f‖ ≤ 1e-8 in double precision: lazy and damped Newton, optax.lbfgs, optimistix's
  BFGS and LBFGS, scipy's trust-exact and Newton-CG, and jaxopt's BFGS and LBFGS where it is
  installed (`pip install --no-deps jaxopt==0.8.5`), on the problems of the experiment
  `lazy-hessian`. Counted are gradients, with a product with a Hessian as one and a Hessian as d;
  for optimistix values of the function, with or without a gradient. Times are without compilation:
  the second run of each.

The load of the machine is printed, since it is part of any time.
"""

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import optimistix
import scipy.optimize

from jaxsci import optim
from jaxsci.optim import lazy_newton, minimise_lazy, trajectory

FIRST_ORDER = {
    "optax.sgd": lambda: optax.sgd(1e-3, 0.9),
    "adabound": lambda: optim.adabound(1e-3),
    "amsbound": lambda: optim.adabound(1e-3, amsbound=True),
    "diffgrad": lambda: optim.diffgrad(1e-3),
    "adamp": lambda: optim.adamp(1e-3),
    "sgdp": lambda: optim.sgdp(1e-3),
    "innaprop": lambda: optim.innaprop(1e-3),
    "gravity": lambda: optim.gravity(1e-3),
    "paper_adafactor": lambda: optim.paper_adafactor(1e-3),
    "multiadam": lambda: optim.multiadam(1e-3, groups=1),
    "accelerated": lambda: optim.accelerated(1e-3),
    "rmsprop_schedule": lambda: optim.rmsprop_schedule(1000),
    "adam_schedule": lambda: optim.adam_schedule(1000),
    "sania": lambda: optim.sania(1e-3),
    "adam, param_ema": lambda: optax.chain(optax.adam(1e-3), optim.param_ema(0.999)),
}


def first_order(parameters: int, repeats: int) -> None:
    side = int((parameters / 10) ** 0.5)
    grads = {f"w{i}": jnp.full((side, side), 0.1) for i in range(10)}

    def prepare(tx: optax.GradientTransformation):
        tx = optax.with_extra_args_support(tx)

        def step(params, state, grads):
            updates, state = tx.update(grads, state, params, value=jnp.ones(()))
            return optax.apply_updates(params, updates), state

        params = jax.tree.map(jnp.ones_like, grads)
        state = tx.init(params)
        start = time.perf_counter()
        program = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, grads).compile()
        return program, program(params, state, grads), time.perf_counter() - start

    def turn(program, carry):
        start = time.perf_counter()
        carry = jax.block_until_ready(program(*carry, grads))
        return carry, time.perf_counter() - start

    print(f"\n{10 * side**2} parameters, float32, one update")
    print(f"{'':20}{'ms':>8}{'adam ms':>9}{'ratio':>7}{'compile s':>11}{'ratio':>7}")
    for name, make in FIRST_ORDER.items():
        adam, adam_carry, adam_compiled = prepare(optax.adam(1e-3))
        own, own_carry, own_compiled = prepare(make())
        times = []
        for _ in range(repeats):
            adam_carry, adam_time = turn(adam, adam_carry)
            own_carry, own_time = turn(own, own_carry)
            times.append((own_time, adam_time))
        mine, base = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        print(
            f"{name:20}{1e3 * mine:8.1f}{1e3 * base:9.1f}{ratio:7.2f}"
            f"{own_compiled:11.2f}{own_compiled / adam_compiled:7.2f}",
            flush=True,
        )


def lazy(d: int) -> None:
    n = 2 * d
    features = jr.normal(jr.key(0), (n, d))
    labels = jnp.sign(features[:, 0] + 0.1)

    def value(x):
        return jnp.mean(jnp.logaddexp(0, -labels * (features @ x))) + 1e-3 * x @ x

    square = jr.normal(jr.key(1), (1000, 1000))
    product = jax.jit(jnp.matmul)
    speed = 2 * 1000**3 / timed(lambda: product(square, square), 9)
    # A gradient and two products with the eigenvectors; d columns of a Hessian, and about 9 d³
    # operations of a dense eigendecomposition.
    step, snapshot = 4 * n * d + 4 * d**2, 4 * n * d**2 + 9 * d**3
    print(f"\nlazy_newton, d = {d}, float32; matrix products at {speed / 1e9:.0f} GFLOP/s")
    print(f"{'m':>8}{'ms a step':>12}{'floor ms':>10}{'ratio':>8}{'gain over m = 1':>17}")
    first = None
    for m in sorted({1, 4, 16, 64, d}):
        steps = d if m > 16 else 32
        run = jax.jit(lambda x, m=m, s=steps: trajectory(lazy_newton(m=m), value, x, s)[1])
        run(jnp.zeros(d))
        seconds = timed(lambda run=run: run(jnp.zeros(d)), 3) / steps
        floor = (step + snapshot * -(-steps // m) / steps) / speed
        first = first or seconds
        print(
            f"{m:8}{1e3 * seconds:12.2f}{1e3 * floor:10.2f}{seconds / floor:8.1f}"
            f"{first / seconds:17.1f}",
            flush=True,
        )


def timed(run: Callable, repeats: int = 1) -> float:
    """The shortest of several runs; the first, which may compile, is not among them."""
    jax.block_until_ready(run())
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - start)
    return min(found)


GTOL, LIMIT = 1e-8, 20_000


def logistic_problem(d: int):
    """Features of very different scales, as in the experiment `lazy-hessian`."""
    keys = jr.split(jr.key(3), 4)
    features = jr.normal(keys[0], (5 * d, d))
    score = features @ jr.normal(keys[1], (d,)) / jnp.sqrt(d) + jr.normal(keys[2], (5 * d,))
    features, labels = features * jnp.exp(jr.normal(keys[3], (d,))), jnp.sign(score)

    def value(x):
        return jnp.mean(jnp.logaddexp(0, -labels * (features @ x))) + 5e-4 * x @ x

    return value, jnp.zeros(d)


def chain_problem(d: int):
    """Rosenbrock's chain, from its usual starting point."""

    def value(x):
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    return value, jnp.where(jnp.arange(d) % 2 == 0, -1.2, 1.0)


def by_optax(make: Callable, value, x0, cost: Callable):
    """Steps of an optax optimiser until the gradient is small: point, gradients counted."""
    tx = optax.with_extra_args_support(make())
    gradient = jax.value_and_grad(value)

    def proceed(carry):
        *_, g, _, steps = carry
        return (jnp.linalg.norm(g) > GTOL) & (steps < LIMIT)

    def body(carry):
        x, state, f, g, spent, steps = carry
        updates, new = tx.update(g, state, x, value=f, grad=g, value_fn=value)
        x = optax.apply_updates(x, updates)
        return x, new, *gradient(x), spent + cost(state, new), steps + 1

    @jax.jit
    def solve(x0):
        f, g = gradient(x0)
        start = (x0, tx.init(x0), f, g, jnp.ones(()), jnp.zeros((), int))
        found = jax.lax.while_loop(proceed, body, start)
        return found[0], found[4]

    return lambda: solve(x0)


def by_optimistix(make: Callable, value, x0):
    """Its criterion is on steps and values: the loosest tolerance that reaches the gradient.

    Where none does, the tightest: the column of gradients shows where it stops.
    """
    norm = jax.jit(lambda x: jnp.linalg.norm(jax.grad(value)(x)))
    calls = []

    def function(x, counted):
        jax.lax.cond(counted, lambda: jax.debug.callback(lambda: calls.append(1)), lambda: None)
        return value(x)

    @jax.jit
    def solve(x0, tolerance, counted):
        solver = make(rtol=0.0, atol=tolerance)
        return optimistix.minimise(function, solver, x0, counted, max_steps=2000, throw=False).value

    for tolerance in (1e-6, 1e-8, 1e-10, 1e-12):
        if norm(solve(x0, tolerance, False)) <= GTOL:
            break
    jax.block_until_ready(solve(x0, tolerance, True))
    jax.effects_barrier()
    return lambda: (solve(x0, tolerance, False), float(len(calls)))


def by_jaxopt(name: str, value, x0):
    import jaxopt

    # Its step needs a full line search, and its criterion is the norm of the gradient.
    solver = getattr(jaxopt, name)(value, tol=GTOL, maxiter=LIMIT, linesearch="zoom")

    @jax.jit
    def solve(x0):
        found = solver.run(x0)
        return found.params, found.state.num_grad_eval

    return lambda: solve(x0)


class Reached(Exception):
    """Raised by a gradient that is small enough."""


def by_scipy(method: str, value, x0):
    gradient = jax.jit(jax.grad(value))
    hessian, jitted = jax.jit(jax.hessian(value)), jax.jit(value)
    product = jax.jit(lambda x, v: jax.jvp(jax.grad(value), (x,), (v,))[1])
    d = x0.size

    def solve():
        spent, last = [0.0], [np.asarray(x0)]

        def jac(x):
            spent[0] += 1
            g = np.asarray(gradient(x))
            if np.linalg.norm(g) <= GTOL:
                last[0] = x
                raise Reached
            return g

        def hess(x):
            spent[0] += d
            return np.asarray(hessian(x))

        def hessp(x, v):
            spent[0] += 1
            return np.asarray(product(x, v))

        second = {"hess": hess} if method == "trust-exact" else {"hessp": hessp}
        options = {"maxiter": LIMIT} | ({"gtol": 0.0} if method == "trust-exact" else {"xtol": 0.0})
        try:
            found = scipy.optimize.minimize(
                lambda x: float(jitted(x)),
                np.asarray(x0),
                jac=jac,
                method=method,
                options=options,
                **second,
            )
            last[0] = found.x
        except Reached:
            pass
        return last[0], spent[0]

    return solve


def by_lazy(value, x0, m: int | None):
    @jax.jit
    def solve(x0):
        found = minimise_lazy(value, x0, m=m, gtol=GTOL, max_phases=1000)
        return found.x, found.n_grad + found.n_hvp

    return lambda: solve(x0)


def peers(dimensions: Sequence[int]) -> None:
    problems = {f"logistic regression, d = {d}": logistic_problem(d) for d in dimensions}
    problems["Rosenbrock's chain, d = 30"] = chain_problem(30)
    for title, (value, x0) in problems.items():
        d = x0.size
        entrants = {
            "lazy_newton, m = d": lambda f, x, d=d: by_lazy(f, x, d),
            "lazy_newton, m = 1": lambda f, x: by_lazy(f, x, 1),
            "lazy_lbfgs": lambda f, x, d=d: by_optax(
                optim.lazy_lbfgs,
                f,
                x,
                lambda old, new, d=d: (
                    new[-1].info.num_linesearch_steps + d * (new[0].refreshes - old[0].refreshes)
                ),
            ),
            "damped_newton": lambda f, x, d=d: by_optax(
                lambda: optim.damped_newton(step=optim.Backtracking(), convexify="abs"),
                f,
                x,
                lambda old, new: 1 + d + new[0].metrics["trials"] - old[0].metrics["trials"],
            ),
            "optax.lbfgs": lambda f, x: by_optax(
                optax.lbfgs, f, x, lambda old, new: new[-1].info.num_linesearch_steps
            ),
            "optimistix.BFGS": partial(by_optimistix, optimistix.BFGS),
            "optimistix.LBFGS": partial(by_optimistix, optimistix.LBFGS),
            "scipy trust-exact": partial(by_scipy, "trust-exact"),
            "scipy Newton-CG": partial(by_scipy, "Newton-CG"),
        }
        if importlib.util.find_spec("jaxopt"):
            for name in ("BFGS", "LBFGS"):
                entrants[f"jaxopt.{name}"] = partial(by_jaxopt, name)
        print(f"\n{title}, to a gradient of {GTOL:g}, float64")
        print(f"{'':22}{'gradients':>11}{'ms':>10}{'gradient':>11}{'value':>16}")
        norm = jax.jit(lambda x, value=value: jnp.linalg.norm(jax.grad(value)(x)))
        for name, make in entrants.items():
            run = make(value, x0)
            x, spent = run()
            seconds = timed(run)
            print(
                f"{name:22}{float(spent):11.0f}{1e3 * seconds:10.1f}"
                f"{float(norm(x)):11.1e}{float(value(x)):16.9g}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sections = ("first", "lazy", "peers")
    parser.add_argument("--sections", nargs="+", choices=sections, default=sections)
    parser.add_argument("--dimensions", type=int, nargs="+", default=(100, 200))
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--dimension", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, load {load}")
    if "first" in arguments.sections:
        first_order(arguments.parameters, arguments.repeats)
    if "lazy" in arguments.sections:
        lazy(arguments.dimension)
    if "peers" in arguments.sections:
        with jax.enable_x64(True):
            peers(arguments.dimensions)


if __name__ == "__main__":
    main()
