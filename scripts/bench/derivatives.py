"""A training step on a Laplacian residual in many dimensions: jets against nested autodiff.

Both sides in one run, turn by turn, each in a process of its own:

- `nested`: v·∇²f v along one-hot directions by forward over reverse mode (`jax.jvp(jax.grad)`),
  the usual way; all d of them for the exact Laplacian, or as many as the estimate draws (SDGD).
- `forward`: the exact Laplacian by one forward pass.
- `stde`: the estimate by sparse second-order jets.

    python scripts/bench/derivatives.py                       # d = 10,000: stde against nested
    python scripts/bench/derivatives.py --dimension 1000 --contestants stde forward nested
    python scripts/bench/derivatives.py --million             # steps of Adam at d = 1,000,000

The network is (1 − |x|²)·MLP(128, 128, 128, tanh); a step is one gradient of the mean squared
residual Δu + sin u − g over the points. Memory is the peak of the process's resident set beyond
what it was before the step was compiled.
"""

import argparse
import functools
import os
import resource
import sys
import time

from interleaved import compete, serve, table


def parameters(d, width):
    import jax.numpy as jnp
    import jax.random as jr

    keys = jr.split(jr.wrap_key_data(jnp.arange(4, dtype=jnp.uint32), impl="rbg"), 4)
    sizes = [(width, d), (width, width), (width, width), (1, width)]
    return [
        (jr.normal(k, s) / jnp.sqrt(s[1]), jnp.zeros(s[0]))
        for k, s in zip(keys, sizes, strict=True)
    ]


def network(weights, x):
    import jax.numpy as jnp

    h = x
    for w, b in weights[:-1]:
        h = jnp.tanh(w @ h + b)
    w, b = weights[-1]
    return (1 - jnp.sum(x**2)) * (w @ h + b)[0]


def loss_of(method, n):
    import jax
    import jax.numpy as jnp

    from jaxsci.autodiff import DiffOp, Polylaplacian, estimate, exact, forward_laplacian

    lap = DiffOp(Polylaplacian(1))

    def laplacian(f, x, key):
        if method == "stde":
            return estimate(lap, f, x, key, n)
        if method == "sdgd":
            return estimate(lap, f, x, key, n, "sdgd")
        if method == "forward":
            return forward_laplacian(f, x).laplacian
        if method == "jet":
            return exact(lap, f, x, batch_size=256)
        # The exact trace by Hessian-vector products, in parts that are computed again for the
        # gradient: all at once would need d² numbers for every point.
        gradient = jax.grad(f)

        @jax.checkpoint
        def second(i):
            e = jnp.zeros_like(x).at[i].set(1)
            return jax.jvp(gradient, (x,), (e,))[1][i]

        def add(total, chunk):
            return total + jnp.sum(jax.vmap(second)(chunk)), None

        size = next(c for c in range(100, 0, -1) if x.size % c == 0)
        return jax.lax.scan(add, 0.0, jnp.arange(x.size).reshape(-1, size))[0]

    def loss(weights, points, key):
        def residual(x):
            u = functools.partial(network, weights)
            return laplacian(u, x, key) + jnp.sin(u(x))

        return jnp.mean(jax.vmap(residual)(points) ** 2)

    return loss


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(options):
    import jax
    import jax.numpy as jnp
    import jax.random as jr

    d, name = options.dimension, options.work
    weights = parameters(d, options.width)
    points = jnp.ones((options.points, d)) / d
    step = jax.jit(jax.grad(loss_of(name, options.draws)))
    jax.block_until_ready((weights, points))
    before = peak_mib()
    key = jr.wrap_key_data(jnp.arange(4, dtype=jnp.uint32), impl="rbg")
    start = time.perf_counter()
    jax.block_until_ready(step(weights, points, key))
    first = time.perf_counter() - start
    facts = {"MiB": round(peak_mib() - before), "first call s": round(first, 1)}
    serve(lambda: jax.block_until_ready(step(weights, points, key)), facts, options.repeats)


def million(options):
    """Adam at d = 1,000,000, the first layer's weights and all."""
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    import optax

    d = 1_000_000
    weights = parameters(d, options.width)
    optimizer = optax.adam(1e-3)
    state = optimizer.init(weights)
    loss = loss_of("stde", options.draws)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(weights, state, key):
        points = jr.normal(key, (options.points, d)) / jnp.sqrt(2 * d)
        value, grads = jax.value_and_grad(loss)(weights, points, jr.fold_in(key, 1))
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(weights, updates), state, value

    key = jr.wrap_key_data(jnp.arange(4, dtype=jnp.uint32), impl="rbg")
    print(f"weights: {sum(w.size + b.size for w, b in weights) * 4 / 2**20:.0f} MiB")
    for i in range(options.steps):
        start = time.perf_counter()
        weights, state, value = step(weights, state, jr.fold_in(key, i))
        value = float(value)
        print(
            f"step {i}: loss {value:.4e}, {time.perf_counter() - start:.2f} s, "
            f"peak {peak_mib() / 1024:.2f} GiB",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimension", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--contestants", nargs="+", default=["stde", "sdgd", "nested"])
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.million:
        return million(options)
    if options.work:
        return work(options)
    shared = [sys.executable, __file__]
    for name in ("dimension", "points", "draws", "width", "repeats"):
        shared += [f"--{name}", str(getattr(options, name))]
    commands = {name: [*shared, "--work", name] for name in options.contestants}
    results = compete(commands, turns=options.turns, env=dict(os.environ))
    print(
        table(
            results,
            f"gradient of the residual's mean square, d = {options.dimension}, "
            f"{options.points} points, {options.draws} draws",
        )
    )


if __name__ == "__main__":
    main()
