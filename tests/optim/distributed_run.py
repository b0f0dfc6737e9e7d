"""Optimisers on eight host devices, for test_powersgd.py and test_local_sgd.py:

    python distributed_run.py powersgd|local_sgd FILE

writes numbers to FILE (JSON): the weights by `shard_map` on a mesh and by `vmap` on one device,
and the messages in the compiled programs.
"""

import json
import os
import re
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
)

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from jaxsci.optim import (
    SyncSchedule,
    Workers,
    bytes_per_step,
    data_parallel,
    ef_sgd,
    local_updates,
    mean_gradients,
    mean_params,
    powersgd,
)

PARAMS = {
    "first": 0.3 * jax.random.normal(jax.random.key(1), (16, 12)),
    "second": 0.3 * jax.random.normal(jax.random.key(2), (12, 16)),
    "third": 0.3 * jax.random.normal(jax.random.key(3), (16, 12)),
    "bias": jnp.zeros(16),
}
X = jax.random.normal(jax.random.key(4), (6, 32, 12))
Y = jnp.roll(X, 1, -1)


def loss(params, batch, key):
    x, y = batch
    h = jnp.tanh(x @ params["first"].T + params["bias"])
    h = h + x @ params["third"].T
    return jnp.mean((h @ params["second"].T - y) ** 2)


def messages(text):
    """Numbers in each all-reduce of a compiled program, and whether one is inside a loop."""
    sizes, inside = [], False
    computation = ""
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))
    for line in text.splitlines():
        opening = re.match(r"\s*(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line)
        if opening:
            computation = opening.group(1)
        found = re.search(r"= (.*?) all-reduce(?:-start)?\(", line)
        if found:
            shapes = re.findall(r"\w+\[([\d,]*)\]", found.group(1))
            sizes += [int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes]
            inside |= computation in bodies
    assert not re.search(r"all-gather|all-to-all|collective-permute|reduce-scatter", text)
    return {"sizes": sizes, "in loop": inside}


def flat(tree):
    return jax.flatten_util.ravel_pytree(jax.device_get(tree))[0].tolist()


def on_both():
    return {"mesh": Workers(jax.make_mesh((8,), ("data",))), "one": Workers(8)}


def run_powersgd():
    out = {"bytes": list(bytes_per_step(PARAMS, 2, min_compression=1.0))}
    tx = ef_sgd(0.1, rank=2, min_compression=1.0)
    for name, workers in on_both().items():
        for kind, optimizer in (
            ("compressed", tx),
            ("alternating", ef_sgd(0.1, rank=2, min_compression=1.0, mode="alternating")),
            ("plain", optax.chain(mean_gradients(), optax.sgd(0.1))),
        ):
            parallel = data_parallel(loss, optimizer, workers)
            params, state = parallel.init(PARAMS)
            step = jax.jit(parallel.step)
            values = []
            for x, y in zip(X, Y, strict=True):
                params, state, value = step(params, state, (x, y), jax.random.key(0))
                values.append(float(value))
            found = {"params": flat(params), "values": values, "programs": step._cache_size()}
            if name == "mesh" and kind in ("compressed", "plain"):
                compiled = step.lower(params, state, (X[0], Y[0]), jax.random.key(0)).compile()
                found["messages"] = messages(compiled.as_text())
                found["errors"] = [
                    str(x.sharding.spec) for x in jax.tree.leaves(state) if x.shape[:1] == (8,)
                ]
            out[f"{kind}, {name}"] = found

    # The gradient that JAX has summed is refused.
    def wrong(params, x, y):
        grads = jax.grad(loss)(params, (x, y), None)
        return powersgd(rank=2).update(grads, powersgd(rank=2).init(params))[0]

    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    specs = (PartitionSpec(), PartitionSpec("data"), PartitionSpec("data"))
    try:
        jax.shard_map(wrong, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())(
            PARAMS, X[0], Y[0]
        )
        out["summed"] = ""
    except ValueError as error:
        out["summed"] = str(error)
    return out


def run_local_sgd():
    out = {}
    tx = optax.adam(0.01)
    for name, workers in on_both().items():
        local = local_updates(loss, tx, workers)
        state = local.init(PARAMS)
        state, losses = local.run(state, (X, Y), SyncSchedule((2, 3, 1)), jax.random.key(0))
        own = jax.tree.leaves(state.opt_state[0].mu)[0]
        out[name] = {
            "params": flat(mean_params(state)),
            "spread": float(max(jnp.max(jnp.std(x, 0)) for x in jax.tree.leaves(state.params))),
            "spread of moments": float(jnp.max(jnp.std(own, 0))),
            "losses": losses.tolist(),
            "programs": local.steps._cache_size(),
        }
        if name == "mesh":
            batches = (X[:4], Y[:4])
            text = local.steps.lower(state, batches, jax.random.key(0)).compile().as_text()
            out["steps"] = messages(text)
            out["average"] = messages(local.average.lower(state).compile().as_text())
    # H = 1 with SGD is data parallelism.
    workers = on_both()["mesh"]
    local = local_updates(loss, optax.sgd(0.1), workers)
    state, _ = local.run(local.init(PARAMS), (X, Y), 1, jax.random.key(0))
    parallel = data_parallel(loss, optax.chain(mean_gradients(), optax.sgd(0.1)), workers)
    params, opt_state = parallel.init(PARAMS)
    step = jax.jit(parallel.step)
    for x, y in zip(X, Y, strict=True):
        params, opt_state, _ = step(params, opt_state, (x, y), jax.random.key(0))
    out["local"], out["parallel"] = flat(mean_params(state)), flat(params)
    out["numbers"] = sum(x.size for x in jax.tree.leaves(PARAMS))
    return out


if __name__ == "__main__":
    found = {"powersgd": run_powersgd, "local_sgd": run_local_sgd}[sys.argv[1]]()
    Path(sys.argv[2]).write_text(json.dumps(found))
