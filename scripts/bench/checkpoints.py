"""What checkpoints cost: how long training stands still for them, and how soon it goes on from one.

    python scripts/bench/checkpoints.py                 # an MLP of 0.2 million weights, 5 ms a step
    python scripts/bench/checkpoints.py --width 1024    # 3 million weights
    python scripts/bench/checkpoints.py --resume-only

Stalls: the same training without checkpoints and with an asynchronous one every 100 steps. The two
take turns in one process, a few hundred steps each, so that other load on the machine hits both
alike; the share is the median over turns of (with / without) − 1. A third, which is the first once
more, says how far two equal programs differ. The processor's seconds of all threads tell what is
lost where training needs the same cores, as on a CPU, and the waiting of other programs is not in
them.

Resuming: a process that has imported JAX calls `fit` on a run that was stopped. Counted are the
seconds until the metrics of its first new step are there, less what JAX spent on compilation.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from jaxsci.experiment import CompileClock, Logger
from jaxsci.train import ArraySource, Checkpoints, fit
from jaxsci.train.checkpoint import Checkpointer


def loss(model, batch, key):
    x, y = batch
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def problem(width, batch):
    key = jax.random.key(0)
    x = jax.random.normal(key, (4096, 16))
    model = eqx.nn.MLP(16, 1, width, 3, key=key)
    return model, ArraySource((x, jnp.sin(x[:, :1])), batch)


def now():
    """Seconds of the clock, and of the processor in all threads."""
    return time.perf_counter(), time.process_time()


class Turns:
    """Trainings in threads of which one runs at a time; they change over in `evaluate`."""

    def __init__(self, names):
        self.times = {name: [] for name in names}
        self._names = names
        self._turn = threading.Condition()
        self._whose = names[0]
        self._begin = (0.0, 0.0)

    def wait_for(self, name):
        """Returns when it is this training's turn."""
        with self._turn:
            self._turn.wait_for(lambda: self._whose == name)
        self._begin = now()

    def hand_over(self, name):
        """Ends this training's turn."""
        self.times[name].append(tuple(b - a for a, b in zip(self._begin, now(), strict=True)))
        with self._turn:
            self._whose = self._names[(self._names.index(name) + 1) % len(self._names)]
            self._turn.notify_all()


def stalls(arguments):
    """Prints the share of the time that checkpoints take."""
    plans = {"without": False, "with": True, "without again": False}
    turns = Turns(list(plans))
    model, source = problem(arguments.width, arguments.batch)
    held = []
    save = Checkpointer.save

    def timed(self, *args, **kwargs):
        begin = time.perf_counter()
        save(self, *args, **kwargs)
        held.append(time.perf_counter() - begin)

    Checkpointer.save = timed

    def train(name, checkpoint):
        turns.wait_for(name)

        def evaluate(model):
            turns.hand_over(name)
            turns.wait_for(name)
            return {}

        fit(
            model,
            loss,
            optax.adam(1e-3),
            source,
            steps=arguments.steps * (arguments.turns + 2),
            key=jax.random.key(1),
            evaluate=evaluate,
            evaluate_every=arguments.steps,
            log=Logger.silent(),
            checkpoint=checkpoint,
        )
        turns.hand_over(name)

    with tempfile.TemporaryDirectory() as folder:
        threads = [
            threading.Thread(
                target=train,
                args=(name, Checkpoints(folder=folder, every=arguments.every) if saves else False),
            )
            for name, saves in plans.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    Checkpointer.save = save
    # The first turn compiles, the last one is cut short or waits for the disk.
    times = {name: t[1 : arguments.turns + 1] for name, t in turns.times.items()}
    step = statistics.median(wall for wall, _ in times["without"]) / arguments.steps
    print(
        f"width {arguments.width}: {1e3 * step:.2f} ms a step, two checkpoints {size / 1e6:.1f} MB,"
        f" one every {arguments.every} steps, {arguments.turns} turns of {arguments.steps} steps"
    )
    for name in ("with", "without again"):
        for i, kind in enumerate(("time", "processor")):
            pairs = zip(times[name], times["without"], strict=True)
            shares = [100 * (a[i] / b[i] - 1) for a, b in pairs]
            low, middle, high = statistics.quantiles(shares, n=4)
            print(
                f"  {name:14} {kind:10} {middle:+6.2f} % (half of turns {low:+.2f} to {high:+.2f})"
            )
    print(f"  the loop is held {1e3 * statistics.median(held):.2f} ms for a checkpoint (median)")


class FirstMetrics:
    """A sink that notes when the first metrics come, and what was spent on compiling until then."""

    def __init__(self, clock):
        self.at, self.compiling, self._clock = None, None, clock

    def metrics(self, scope, step, values, seconds):
        if self.at is None:
            self.at, self.compiling = time.perf_counter(), self._clock.seconds

    def say(self, scope, text, seconds): ...

    def close(self): ...


def one_run(width, batch, folder, steps):
    """Trains from where the folder is; returns the seconds to the first step, and of compiling."""
    model, source = problem(width, batch)
    jax.block_until_ready(model.layers[0].weight)
    with CompileClock() as clock:
        sink = FirstMetrics(clock)
        begin = time.perf_counter()
        fit(
            model,
            loss,
            optax.adam(1e-3),
            source,
            steps=steps,
            key=jax.random.key(1),
            log=Logger(folder, resume=True, sinks=[sink], quiet=True),
            log_every=1,
            checkpoint=Checkpoints(folder=folder, every=100),
        )
        return sink.at - begin, sink.compiling


def resuming(arguments):
    """Prints the time from a resumed `fit` to its first step, each time in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--worker", folder]
        command += ["--width", str(arguments.width), "--batch", str(arguments.batch)]
        found = []
        for steps in range(100, 100 * (arguments.resumes + 2), 100):
            done = subprocess.run(
                [*command, "--steps", str(steps)], capture_output=True, text=True, check=True
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
    beyond = [total - compiling for total, compiling in found[1:]]
    print(
        f"width {arguments.width}: from resuming to the first step beyond compilation "
        f"{statistics.median(beyond):.2f} s (median of {len(beyond)}, largest {max(beyond):.2f} s;"
        f" compilation {statistics.median(c for _, c in found[1:]):.2f} s)"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=384)
    parser.add_argument("--steps", type=int, default=300, help="steps of each in a turn")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--resumes", type=int, default=5)
    parser.add_argument("--resume-only", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(
            json.dumps(one_run(arguments.width, arguments.batch, arguments.worker, arguments.steps))
        )
        return
    if not arguments.resume_only:
        stalls(arguments)
    resuming(arguments)


if __name__ == "__main__":
    main()
