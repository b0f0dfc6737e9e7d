"""Training on eight host devices, a program for test_sharding.py: `python sharded_run.py FOLDER`.

One process for all checks, because starting JAX and compiling take longer than the checks. It
writes `numbers.json`: losses of every kind of sharding, memory per device, and the communication
in the compiled programs.
"""

import json
import os
import re
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from jaxsci.nn import UNet
from jaxsci.operators import FNO
from jaxsci.train import ArraySource, Checkpoints, Sharding, fit, init_state, make_mesh, make_step
from jaxsci.train.loop import Loop

BATCH, CHANNELS, N = 8, 1, 64


def loss(model, batch, key):
    u, v = batch
    return jnp.mean((jax.vmap(model)(u) - v) ** 2)


def data():
    x = np.random.default_rng(0).normal(size=(16, CHANNELS, N, N)).astype(np.float32)
    return ArraySource((x, np.roll(x, 1, -1)), BATCH)


def optimizer():
    # The eps keeps Adam from making whole steps of gradients that are zero but for rounding, as
    # those of a bias before a normalisation.
    return optax.adam(1e-3, eps=1e-4)


def models():
    key = jax.random.key(0)
    return {
        "fno": FNO(2, 1, 1, width=32, modes=6, depth=3, key=key),
        "unet": UNet(2, 1, 1, (16, 32), key=key),
    }


def kinds():
    return {
        "data": Sharding(make_mesh()),
        "fsdp": Sharding(make_mesh(), fsdp=True),
        "model": Sharding(make_mesh(data=2, model=4)),
        "space": Sharding(make_mesh(data=2, space=4)),
        "fsdp and model": Sharding(make_mesh(data=2, model=4), fsdp=True),
        "fsdp and space": Sharding(make_mesh(data=2, space=4), fsdp=True),
    }


def collectives(text):
    """The collective operations in a compiled program: kind, and the largest number of elements."""
    found = {}
    for line in text.splitlines():
        match = re.search(
            r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
            r"(?:-start)?\(",
            line,
        )
        if match:
            shapes = re.findall(r"\w+\[([\d,]*)\]", match.group(1))
            sizes = [int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes]
            kind = found.setdefault(match.group(2), {"count": 0, "largest": 0})
            kind["count"] += 1
            kind["largest"] = max(kind["largest"], *sizes)
    return found


def measure(model, sharding):
    """Memory per device and communication of the compiled training step."""
    source = data()
    state = init_state(model, optimizer(), key=jax.random.key(1), source=source)
    if sharding is not None:
        state = sharding.place(state)
    gathered = loss
    if sharding is not None and sharding.fsdp:

        def gathered(model, batch, key):
            return loss(sharding.gathered(model), batch, key)

    compiled = Loop(make_step(gathered, optimizer()), state, source, sharding).compiled()
    memory = compiled.memory_analysis()
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "collectives": collectives(compiled.as_text()),
    }


def train(model, sharding, steps=6, **options):
    result = fit(
        model,
        loss,
        optimizer(),
        data(),
        steps=steps,
        key=jax.random.key(1),
        sharding=sharding,
        log_every=1,
        **options,
    )
    return result, result.history["loss"].tolist()


def main(folder):
    numbers = {"devices": jax.device_count()}
    for name, model in models().items():
        arrays = [x for x in jax.tree.leaves(model) if hasattr(x, "nbytes")]
        numbers[name] = {
            "weights": sum(x.nbytes for x in arrays),
            "largest weight": max(x.size for x in arrays),
            "one": {"loss": train(model, False)[1]},
        }
        numbers[name]["one"] |= measure(model, None)
        for kind, sharding in kinds().items():
            if name == "unet" and " and " in kind:
                continue
            numbers[name][kind] = {"loss": train(model, sharding)[1], **measure(model, sharding)}

    model = models()["fno"]
    # What happens when nothing is asked for, and where the result is then.
    result, losses = train(model, None)
    numbers["default"] = {
        "loss": losses,
        "devices": len(jax.tree.leaves(result.model)[0].sharding.device_set),
    }
    # Saved on eight devices in one way, resumed in another way, and on one device.
    one_way, other_way = kinds()["fsdp"], kinds()["model"]
    for name, second in (("other", other_way), ("one", False)):
        plan = Checkpoints(folder=Path(folder) / name, every=3)
        train(model, one_way, steps=3, checkpoint=plan)
        plan = Checkpoints(folder=Path(folder) / name, every=3, resume=True)
        numbers[f"resumed on {name}"] = train(model, second, checkpoint=plan)[1]

    rule = Sharding(make_mesh(model=8), rules=((r"mixing\.weight", PartitionSpec()),))
    specs = {
        "default": kinds()["fsdp and model"].of_model(model),
        "rule": rule.of_model(model),
    }
    numbers["specs"] = {
        name: {
            "spectral": [str(s) for s in spec.last.spectral.mixing.weight.spec],
            "bias": [str(s) for s in spec.last.bias.spec],
        }
        for name, spec in specs.items()
    }
    (Path(folder) / "numbers.json").write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
