"""Data parallelism: overhead of eight host devices, and weak scaling on paper.

    python scripts/bench/scaling.py
    python scripts/bench/scaling.py --batch 128       more work for the same sums and updates
    python scripts/bench/scaling.py --step-ms 20      with a step time measured on one real chip

Eight devices made of one processor share its cores, so at equal total work they can only be slower
than one device: what is measured is the overhead of partitioning and of the sums between them, in
emulation. With replicated weights every device also repeats the optimiser's update of all of them,
on the same cores; with `fsdp` each updates its own eighth, as one device does in all. The
contestants run in processes of their own, in turn.

The table for larger machines is computed, not measured. With a fixed batch a chip, a ring of n
chips with links of b bytes/s and latency l adds the sum of the gradients, of G bytes,

    t(n) = t(1) + 2 (n - 1)/n G/b + 2 (n - 1) l,    efficiency = t(1) / t(n),

without any overlap of communication and computation, which is the worst case.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time


def contestant(devices: int, fsdp: bool, steps: int, batch: int) -> None:
    """Times a training step on so many host devices and prints it with the gradients' bytes."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_NUM_CPU_DEVICES"] = str(devices)
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from jaxsci.operators import FNO
    from jaxsci.train import ArraySource, Sharding, fit, make_mesh

    def loss(model, batch, key):
        u, v = batch
        return jnp.mean((jax.vmap(model)(u) - v) ** 2)

    u = np.random.default_rng(0).normal(size=(batch, 1, 64, 64)).astype(np.float32)
    model = FNO(2, 1, 1, width=32, modes=12, depth=4, key=jax.random.key(0))
    times, processor = [0.0], [0.0]

    def evaluate(_):
        times.append(time.perf_counter())
        processor.append(time.process_time())
        return {}

    fit(
        model,
        loss,
        optax.adam(1e-3),
        ArraySource((u, u), batch, shuffle=False),
        steps=8 * steps,
        key=jax.random.key(1),
        evaluate=evaluate,
        evaluate_every=steps,
        sharding=Sharding(make_mesh(), fsdp=True) if fsdp else None,
    )

    def median(clock):
        return statistics.median((b - a) / steps for a, b in itertools.pairwise(clock[2:]))

    size = sum(x.nbytes for x in jax.tree.leaves(model) if hasattr(x, "nbytes"))
    found = {"seconds": median(times), "processor": median(processor), "bytes": size}
    print(json.dumps(found))  # Both medians leave the compilation out.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contestant", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--fsdp", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=4, help="steps in one timing")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32, help="samples of a step, in all")
    parser.add_argument("--step-ms", type=float, help="t(1) for the table, default: as measured")
    parser.add_argument("--bandwidth", type=float, default=45e9, help="b, bytes/s of a link")
    parser.add_argument("--latency", type=float, default=1e-6, help="l, seconds of a hop")
    arguments = parser.parse_args()
    if arguments.contestant:
        contestant(arguments.contestant, arguments.fsdp, arguments.steps, arguments.batch)
        return
    times: dict[str, list[tuple[float, float]]] = {"1": [], "8": [], "8 --fsdp": []}
    size = 0
    for _ in range(arguments.turns):
        for name, found in times.items():
            command = [sys.executable, __file__, "--contestant", *name.split()]
            command += ["--steps", str(arguments.steps), "--batch", str(arguments.batch)]
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            line = json.loads(done.stdout.splitlines()[-1])
            found.append((line["seconds"], line["processor"]))
            size = line["bytes"]
    best = {
        name: [min(clock) for clock in zip(*found, strict=True)] for name, found in times.items()
    }
    one, busy = best["1"]
    cores = f"{os.cpu_count()} cores, a step, best of {arguments.turns}"
    print(f"FNO, batch {arguments.batch} of 64 x 64, {cores}")
    print("(eight devices are emulated)    ms  ratio  ms of all cores  ratio")
    for name, words in (("1", "1 device"), ("8", "8 devices"), ("8 --fsdp", "8 devices with fsdp")):
        wall, cores = best[name]
        print(f"{words:24} {1e3 * wall:9.1f} {wall / one:6.2f}", end="")
        print(f" {1e3 * cores:16.1f} {cores / busy:6.2f}")
    start = one if arguments.step_ms is None else arguments.step_ms / 1e3
    print(f"\non paper: t(1) = {1e3 * start:.1f} ms, G = {size / 1e6:.1f} MB")
    print("chips  t(n) in ms  efficiency")
    for n in (1, 8, 64, 256):
        total = start + 2 * (n - 1) / n * size / arguments.bandwidth
        total += 2 * (n - 1) * arguments.latency
        print(f"{n:5d}  {1e3 * total:10.2f}  {start / total:10.3f}")


if __name__ == "__main__":
    main()
