"""Networks against their peers': training step, inference and compilation, turn by turn in one run.

    python -m venv peer && peer/bin/pip install torch==2.13.0 neuraloperator==2.0.0
    pip install --no-deps --target DIR pdequinox==0.1.2
    python scripts/bench/operator_steps.py --torch-python peer/bin/python --pdequinox-path DIR

Every network that we have and pdequinox or neuraloperator has, with as many weights (both counts
are printed), on the same data: 16 functions at 256 points in one dimension, 4 at 64 × 64 in two,
float32. A training step is forward, backward and AdamW update of a mean square error, and one
dispatch; `--steps 5` gives JAX's five in a dispatch, as `jaxsci.train.fit` may do, which allocates
the activations once for all five. (Not for convolutions: XLA's CPU compiler gives them to its fast
library only outside of compiled loops.) Each contestant has one core, and times are processor time,
so that other programs on the machine matter little.

Left out: pdequinox's MLP (ours is Equinox's, as theirs is) and its ClassicResNet (activations after
the sum); of neuraloperator UNO, SFNO, CODANO and LocalNO, which we do not have, and GINO and
FNOGNO, which are its FNO beside the layer that is measured here as "gno". That layer runs without
torch_scatter, which is not installed: its fallback is a Python loop.

A line is `{"net", "peer", "phase", "ratio", …}`, appended to `--out`; what stands there is not run
again. `ratio` is our time over the peer's, the median over turns; `spread` its quartiles.
"""

import argparse
import functools
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(__file__))
from interleaved import compete_in_phases, serve

DEPTH = 4
BATCH = {1: 16, 2: 4}
SIZES = {1: (256,), 2: (64, 64)}
FNO_WIDTH, FNO_MODES = {1: 64, 2: 32}, {1: 16, 2: 12}
POINTS, REACH = 1024, 0.1
WITH_PDEQUINOX = [
    f"{net}-{dim}d"
    for dim in (1, 2)
    for net in ("fno", "unet", "modern-unet", "resnet", "dilated", "convnet")
]
WITH_NEURALOP = [*(f"{net}-{d}d" for d in (1, 2) for net in ("fno", "fno-mlp", "tfno")), "gno-2d"]


def cloud():
    import numpy as np

    return np.random.default_rng(0).uniform(size=(POINTS, 2)).astype(np.float32)


def ours(net: str, dim: int, peer: str, key):
    """Our network, in the form and size of the peer's."""
    import jax

    from jaxsci.nn import (
        ConvBlock,
        NearestConv,
        ResidualBlock,
        StridedConv,
        UNet,
        group_norm,
        radius,
    )
    from jaxsci.operators import FNO, DilatedResNet, KernelIntegral

    options = {"padding": "wrap", "norm": functools.partial(group_norm, groups=1), "key": key}
    residual = functools.partial(ResidualBlock, activation=jax.nn.relu)
    match net:
        case "fno" | "fno-mlp" | "tfno":
            sizes = {"width": FNO_WIDTH[dim], "modes": FNO_MODES[dim], "depth": DEPTH}
            if peer == "pdequinox":  # which has no lifting network and no coordinates
                sizes |= {"lifting": None, "projection": None, "grid": False}
            if net != "fno":
                sizes |= {"channel_mlp": 0.5}
            if net == "tfno":
                sizes |= {"mixing": "tucker", "rank": 0.1}
            return FNO(dim, 1, 1, key=key, **sizes)
        case "unet":
            return UNet(dim, 1, 1, (16, 32, 64), down=StridedConv, up=NearestConv, **options)
        case "modern-unet":
            return UNet(dim, 1, 1, (16, 32, 64), block=residual, down=StridedConv, **options)
        case "resnet":
            return UNet(dim, 1, 1, (32,), block=residual, n_blocks=4, **options)
        case "convnet":
            return UNet(dim, 1, 1, (32,), block=ConvBlock, n_blocks=3, **options | {"norm": "none"})
        case "dilated":
            return DilatedResNet(dim, 1, 1, width=32, blocks=1, padding="wrap", key=key)
        case "gno":
            layout, _ = radius(cloud(), r=REACH, engine="host", loops=True)
            integral = KernelIntegral(2, 32, 32, matrix=False, hidden=64, n_layers=3, key=key)
            return functools.partial(call_integral, layout, cloud()), integral
    raise ValueError(net)


def call_integral(layout, points, integral, v):
    return integral(layout, v, points)


def pdequinox_net(net: str, dim: int, key):
    from pdequinox import arch

    match net:
        case "fno":
            return arch.ClassicFNO(
                dim, 1, 1, hidden_channels=FNO_WIDTH[dim], num_modes=FNO_MODES[dim],
                num_blocks=DEPTH, key=key,
            )  # fmt: skip
        case "unet":
            return arch.ClassicUNet(dim, 1, 1, hidden_channels=16, num_levels=2, key=key)
        case "modern-unet":
            return arch.ModernUNet(
                dim, 1, 1, hidden_channels=16, num_levels=2, num_blocks=1, key=key
            )
        case "resnet":
            return arch.ModernResNet(dim, 1, 1, hidden_channels=32, num_blocks=4, key=key)
        case "convnet":
            return arch.ConvNet(dim, 1, 1, hidden_channels=32, depth=6, key=key)
        case "dilated":
            return arch.DilatedResNet(
                dim, 1, 1, hidden_channels=32, num_blocks=1, use_norm=False, key=key
            )
    raise ValueError(net)


def per_turn(repetition) -> int:
    """So many repetitions take half a second, after one for warmth."""
    repetition()
    start = time.process_time()
    repetition()
    return max(1, min(10, round(0.5 / (time.process_time() - start))))


def jax_worker(net: str, dim: int, who: str, peer: str, steps: int) -> None:
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    key = jax.random.key(0)
    model = ours(net, dim, peer, key) if who == "jaxsci" else pdequinox_net(net, dim, key)
    call, model = model if isinstance(model, tuple) else (lambda model, u: model(u), model)
    shape = (POINTS, 32) if net == "gno" else (1, *SIZES[dim])
    x, y = jax.random.normal(key, (2, BATCH[dim], *shape))
    weights, static = eqx.partition(model, eqx.is_inexact_array)
    count = sum(a.size for a in jax.tree.leaves(weights))
    optimizer = optax.adamw(1e-3)

    def predict(weights, x):
        return jax.vmap(functools.partial(call, eqx.combine(weights, static)))(x)

    def step(carry, x, y):
        weights, state = carry
        grads = jax.grad(lambda w: jnp.mean((predict(w, x) - y) ** 2))(weights)
        updates, state = optimizer.update(grads, state, weights)
        return eqx.apply_updates(weights, updates), state

    def several(carry, x, y):
        def one(carry, _):
            return step(carry, x, y), None

        return step(carry, x, y) if steps == 1 else jax.lax.scan(one, carry, length=steps)[0]

    start = time.process_time()
    infer = jax.jit(predict).lower(weights, x).compile()
    between = time.process_time()
    carry = (weights, optimizer.init(weights))
    train = jax.jit(several).lower(carry, x, y).compile()
    facts = {
        "weights": count,
        "compile_infer_s": round(between - start, 2),
        "compile_train_s": round(time.process_time() - between, 2),
        "temp_MiB": round(train.memory_analysis().temp_size_in_bytes / 2**20),
    }
    repetitions = {
        "train": lambda: jax.block_until_ready(train(carry, x, y)),
        "infer": lambda: jax.block_until_ready(infer(weights, x)),
    }
    repetitions["infer"]()
    # Where steps are several, the parent asks for training alone.
    serve(repetitions, facts, per_turn(repetitions["train"]), steps, clock=time.process_time)


def torch_worker(net: str, dim: int) -> None:
    import torch
    from neuralop.layers.integral_transform import IntegralTransform
    from neuralop.layers.neighbor_search import native_neighbor_search
    from neuralop.models import FNO, TFNO

    torch.set_num_threads(1)
    if net == "gno":
        points = torch.from_numpy(cloud())
        near = native_neighbor_search(points, points, REACH)
        model = IntegralTransform(channel_mlp_layers=[4, 64, 64, 32], use_torch_scatter=False)
        x, y = torch.randn(2, BATCH[dim], POINTS, 32)

        def predict(x):
            return model(points, near, f_y=x)
    else:
        make = functools.partial(TFNO, factorization="Tucker", rank=0.1) if net == "tfno" else FNO
        model = predict = make(
            n_modes=(2 * FNO_MODES[dim],) * dim,
            in_channels=1,
            out_channels=1,
            hidden_channels=FNO_WIDTH[dim],
            n_layers=DEPTH,
            use_channel_mlp=net != "fno",
        )
        x, y = torch.randn(2, BATCH[dim], 1, *SIZES[dim])
    count = sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def train():
        optimizer.zero_grad()
        ((predict(x) - y) ** 2).mean().backward()
        optimizer.step()

    def infer():
        with torch.no_grad():
            predict(x)

    infer()
    serve(
        {"train": train, "infer": infer},
        {"weights": count},
        per_turn(train),
        clock=time.process_time,
    )


def main() -> None:
    nets = {"pdequinox": WITH_PDEQUINOX, "neuralop": WITH_NEURALOP}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python")
    parser.add_argument("--pdequinox-path")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--net", nargs="+", default=[*{}.fromkeys(WITH_NEURALOP + WITH_PDEQUINOX)])
    parser.add_argument("--steps", type=int, default=1, help="JAX's training steps in a dispatch")
    parser.add_argument("--out", type=Path, default=Path("operator_steps.jsonl"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        # Before any library counts the cores.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        net, dim, who, peer = args.worker.split(",")
        if who == "neuralop":
            torch_worker(net, int(dim))
        else:
            jax_worker(net, int(dim), who, peer, args.steps)
        return

    env = dict(os.environ, OMP_NUM_THREADS="1", JAX_ENABLE_COMPILATION_CACHE="false")
    if args.pdequinox_path:
        env["PYTHONPATH"] = args.pdequinox_path
    pythons = {"pdequinox": args.pdequinox_path and sys.executable, "neuralop": args.torch_python}
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(row["net"], row["peer"], row["steps"]) for row in map(json.loads, lines)}
    for name in args.net:
        for peer, python in pythons.items():
            if python is None or name not in nets[peer] or (name, peer, args.steps) in done:
                continue
            net, dim = name.removesuffix("d").rsplit("-", 1)

            def command(who, python, label=f"{net},{dim},{{}},{peer}"):
                options = ["--steps", str(args.steps), "--worker", label.format(who)]
                return [python, __file__, *options]

            commands = {"jaxsci": command("jaxsci", sys.executable), peer: command(peer, python)}
            phases = ("train", "infer") if args.steps == 1 else ("train",)
            results = compete_in_phases(commands, phases, turns=args.turns, env=env)
            for phase, result in results.items():
                mine, their = result["jaxsci"], result[peer]
                row = dict(
                    net=name, peer=peer, phase=phase, steps=args.steps,
                    ratio=round(their["ratio"], 3),
                    spread=[round(quartile, 3) for quartile in their["quartiles"]],
                    ours_ms=round(mine["median_ms"], 2), peer_ms=round(their["median_ms"], 2),
                    per_second=round(1e3 * BATCH[int(dim)] / mine["median_ms"]),
                    ours=mine["facts"], peers=their["facts"],
                )  # fmt: skip
                print(json.dumps(row), flush=True)
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
