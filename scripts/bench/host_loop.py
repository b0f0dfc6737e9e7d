"""Overhead of fit's host loop against a bare jitted loop, on a step of about 5 ms.

    python scripts/bench/host_loop.py

All run the same step of the same model. The bare loop is what one writes by hand: a jitted step
with donated state, called once a step from Python, nothing read back until the end. One scan over
all steps shows what the device needs without a host. `fit` draws batches, guards against
non-finite numbers, records every step's metrics to a JSONL file and shows progress; once more with
an asynchronous checkpoint every 100 steps. The kinds alternate, so that other load on the machine
hits all of them, and the medians are compared.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from jaxsci.experiment import JsonLines, Logger
from jaxsci.train import ArraySource, Checkpoints, fit, init_state, make_step, make_steps


def loss(model, batch, key):
    x, y = batch
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def bare(step, state, source, steps):
    """Seconds a step of a plain loop, compilation apart."""

    @eqx.filter_jit(donate="all-except-first")
    def one(source, state):
        batch, data = source.next(state.data)
        state, metrics = step(state, batch)
        return eqx.tree_at(lambda s: s.data, state, data), metrics["loss"]

    state, value = one(source, state)
    jax.block_until_ready(value)
    start = time.perf_counter()
    for _ in range(steps):
        state, value = one(source, state)
    jax.block_until_ready(value)
    return (time.perf_counter() - start) / steps


def scanned(step, state, source, steps):
    """Seconds a step of one `lax.scan` over all steps: the device without any host."""
    run = eqx.filter_jit(make_steps(step, source, steps))
    jax.block_until_ready(run(state)[1])
    start = time.perf_counter()
    jax.block_until_ready(run(state)[1])
    return (time.perf_counter() - start) / steps


def fitted(model, optimizer, source, steps, key, checkpoint):
    """Seconds a step of `fit`, from the first evaluation (compilation is over) to the last."""
    seen = []

    def evaluate(model):
        seen.append(time.perf_counter())
        return {}

    with tempfile.TemporaryDirectory() as folder:
        log = Logger(folder, sinks=[JsonLines(Path(folder) / "log.jsonl")], quiet=True)
        fit(
            model,
            loss,
            optimizer,
            source,
            steps=2 * steps,
            key=key,
            evaluate=evaluate,
            evaluate_every=steps,
            log=log,
            log_every=1,
            checkpoint=Checkpoints(folder=Path(folder) / "c", every=100) if checkpoint else False,
        )
        log.close()
    return (seen[1] - seen[0]) / steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    arguments = parser.parse_args()
    key = jax.random.key(0)
    model = eqx.nn.MLP(16, 1, arguments.width, 3, key=key)
    x = jax.random.normal(key, (4096, 16))
    source = ArraySource((x, jnp.sin(x[:, :1])), arguments.batch)
    optimizer = optax.adam(1e-3)
    step = make_step(loss, optimizer)
    times = {"bare": [], "one scan, no host": [], "fit": [], "fit with checkpoints": []}
    for _ in range(arguments.repeats):
        state = init_state(model, optimizer, key=key, source=source)
        times["one scan, no host"].append(scanned(step, state, source, arguments.steps))
        times["bare"].append(bare(step, state, source, arguments.steps))
        for name, checkpoint in (("fit", False), ("fit with checkpoints", True)):
            times[name].append(fitted(model, optimizer, source, arguments.steps, key, checkpoint))
    base = statistics.median(times["bare"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{name:22s} {1e3 * median:7.3f} ms a step   ratio {median / base:.3f}")


if __name__ == "__main__":
    main()
