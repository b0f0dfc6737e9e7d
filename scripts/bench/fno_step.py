"""One FNO training step against its peers: 64 × 64, width 32, 12 modes, batch 16, float32.

Forward, backward and AdamW update, for the original block and for neuraloperator's block with its
MLP over channels; peers are neuraloperator (PyTorch) and pdequinox (JAX). Two threads each. The JAX
contestants run five steps in a dispatch, as `jaxsci.train.fit` does (one allocation of the
activations instead of five); "single" is a dispatch for every step.

    python scripts/bench/fno_step.py --torch-python PATH --pdequinox-path DIR

`--torch-python` is a Python that has torch and neuraloperator 2.0.0; `--pdequinox-path` a folder
made by `pip install --no-deps --target DIR pdequinox`. A peer without its option is left out.
"""

import argparse
import os
import resource
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
from interleaved import compete, serve, table

BATCH, SIZE, WIDTH, MODES, PER_TURN = 16, 64, 32, 12, 5


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def jax_worker(which: str, single: bool) -> None:
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    key = jax.random.key(0)
    if which == "pdequinox":
        import pdequinox

        model = pdequinox.arch.ClassicFNO(
            2, 1, 1, hidden_channels=WIDTH, num_modes=MODES, num_blocks=4, key=key
        )
    else:
        from jaxsci.operators import FNO

        options = {
            "jaxsci-mlp": {"channel_mlp": 0.5},
            "jaxsci-plain": {},
            "jaxsci-bare": {"lifting": None, "projection": None, "grid": False},
        }[which]
        model = FNO(2, 1, 1, width=WIDTH, modes=MODES, key=key, **options)
    optimizer = optax.adamw(1e-3)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    x, y = jax.random.normal(key, (2, BATCH, 1, SIZE, SIZE))
    model, static = eqx.partition(model, eqx.is_inexact_array)

    steps = 1 if single else 5

    def step(model, state, x, y):
        def loss(model):
            return jnp.mean((jax.vmap(eqx.combine(model, static))(x) - y) ** 2)

        def one(carry, _):
            model, state = carry
            grads = jax.grad(loss)(model)
            updates, state = optimizer.update(grads, state, model)
            return (eqx.apply_updates(model, updates), state), None

        if single:
            return one((model, state), None)[0]
        return jax.lax.scan(one, (model, state), None, length=steps)[0]

    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(model, state, x, y).compile()
    seconds = time.perf_counter() - start
    carry = compiled(model, state, x, y)

    def repetition():
        nonlocal carry
        carry = jax.block_until_ready(compiled(*carry, x, y))

    for _ in range(3):
        repetition()
    temp = compiled.memory_analysis().temp_size_in_bytes / 2**20
    facts = {"compile_s": round(seconds, 2), "temp_MiB": round(temp), "peak_MB": peak_mb()}
    serve(repetition, facts, PER_TURN // steps, steps)


def torch_worker(mlp: bool) -> None:
    import torch
    from neuralop.models import FNO

    torch.set_num_threads(2)
    model = FNO(
        n_modes=(2 * MODES, 2 * MODES),
        in_channels=1,
        out_channels=1,
        hidden_channels=WIDTH,
        n_layers=4,
        use_channel_mlp=mlp,
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    x, y = torch.randn(2, BATCH, 1, SIZE, SIZE)

    def repetition():
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()

    base = peak_mb()
    for _ in range(3):
        repetition()
    serve(repetition, {"step_MB": peak_mb() - base, "peak_MB": peak_mb()}, PER_TURN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python")
    parser.add_argument("--pdequinox-path")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        if args.worker.startswith("neuralop"):
            torch_worker(args.worker == "neuralop-mlp")
        else:
            jax_worker(args.worker.removesuffix("-single"), args.worker.endswith("-single"))
        return

    def command(python: str, worker: str) -> list[str]:
        return [python, __file__, "--worker", worker]

    env = dict(os.environ, OMP_NUM_THREADS="2")
    if args.pdequinox_path:
        env["PYTHONPATH"] = args.pdequinox_path
    for block in ("plain", "mlp"):
        names = (f"jaxsci-{block}", f"jaxsci-{block}-single")
        commands = {name: command(sys.executable, name) for name in names}
        if args.torch_python:
            commands[f"neuralop-{block}"] = command(args.torch_python, f"neuralop-{block}")
        results = compete(commands, turns=args.turns, env=env)
        print(table(results, f"FNO training step, {block} block"))
    if args.pdequinox_path:
        # pdequinox has no lifting network and no coordinates: so neither has ours here.
        names = ("jaxsci-bare", "pdequinox", "jaxsci-bare-single", "pdequinox-single")
        commands = {name: command(sys.executable, name) for name in names}
        results = compete(commands, turns=args.turns, env=env)
        print(table(results, "FNO training step, single affine maps as lifting and projection"))


if __name__ == "__main__":
    main()
