"""Overhead of fit's host loop against a bare jitted loop, on a step of about 5 ms.

    python scripts/bench/host_loop.py

All run the same step of the same model. The bare loop is what one writes by hand: a jitted step
with donated state, called once a step from Python, nothing read back until the end. One scan shows
what the device needs without a host. `fit` draws batches, guards against non-finite numbers and
records every step's metrics to a JSONL file; once more with an asynchronous checkpoint every 100
steps. The contestants run in turn inside one process, a fraction of a second each: `fit`'s
evaluation callback times the other two. Ratios are taken within a turn and their median is shown,
so that other load on the machine hits all alike.
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


class Turns:
    """An evaluation callback that times `fit` since the last call, and then the other loops."""

    def __init__(self, model, optimizer, source, steps, key):
        step = make_step(loss, optimizer)
        self._source, self._steps = source, steps
        self._state = init_state(model, optimizer, key=key, source=source)
        self._scan = eqx.filter_jit(make_steps(step, source, steps), donate="all")

        @eqx.filter_jit(donate="all-except-first")
        def one(source, state):
            batch, data = source.next(state.data)
            state, metrics = step(state, batch)
            return eqx.tree_at(lambda s: s.data, state, data), metrics["loss"]

        self._one = one
        self.times = {"fit": [], "bare": [], "scan": []}
        self._start = None

    def _bare(self):
        for _ in range(self._steps):
            self._state, value = self._one(self._source, self._state)
        jax.block_until_ready(value)

    def _scanned(self):
        self._state, metrics = self._scan(self._state)
        jax.block_until_ready(metrics)

    def __call__(self, model):
        now = time.perf_counter()
        if self._start is None:  # Compilation.
            self._bare()
            self._scanned()
        else:
            self.times["fit"].append(now - self._start)
            for name, run in (("bare", self._bare), ("scan", self._scanned)):
                start = time.perf_counter()
                run()
                self.times[name].append(time.perf_counter() - start)
        self._start = time.perf_counter()
        return {}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100, help="steps of each in a turn")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=384)
    arguments = parser.parse_args()
    key = jax.random.key(0)
    model = eqx.nn.MLP(16, 1, arguments.width, 3, key=key)
    x = jax.random.normal(key, (4096, 16))
    source = ArraySource((x, jnp.sin(x[:, :1])), arguments.batch)
    optimizer = optax.adam(1e-3)
    for checkpoints in (False, True):
        turns = Turns(model, optimizer, source, arguments.steps, key)
        with tempfile.TemporaryDirectory() as folder:
            log = Logger(folder, sinks=[JsonLines(Path(folder) / "log.jsonl")], quiet=True)
            fit(
                model,
                loss,
                optimizer,
                source,
                steps=arguments.steps * (arguments.turns + 1),
                key=key,
                evaluate=turns,
                evaluate_every=arguments.steps,
                log=log,
                log_every=1,
                checkpoint=Checkpoints(folder=f"{folder}/c", every=100) if checkpoints else False,
            )
            log.close()
        print("fit with a checkpoint every 100 steps" if checkpoints else "fit")
        for name, times in turns.times.items():
            ratios = [a / b for a, b in zip(turns.times["fit"], times, strict=True)]
            print(
                f"  {name:5s} {1e3 * statistics.median(times) / arguments.steps:7.3f} ms a step, "
                f"fit / {name} {statistics.median(ratios):.3f}"
            )


if __name__ == "__main__":
    main()
