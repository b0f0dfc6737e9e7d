"""How a run on eight host devices begins, a program for test_sharding.py: prints JSON."""

import json
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from jaxsci.train import ArraySource, Sharding, init_state, make_mesh


def mlp(width, *, key):
    return eqx.nn.MLP(4, 1, width, 2, key=key)


def leaves(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))


def same(a, b):
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(leaves(a), leaves(b), strict=True)
    )


def main():
    key = jax.random.key(0)
    rules = ((r"^model\.layers\[1\]\.weight$", PartitionSpec(None, "data")),)
    sharding = Sharding(make_mesh(), fsdp=True, rules=rules)
    source = ArraySource((np.ones((16, 4), np.float32), np.ones((16, 1), np.float32)), 8)
    adam, model, seen = optax.adam(1e-3), mlp(64, key=key), []

    def init(weights):
        seen.append(isinstance(weights.layers[1].weight, jax.core.Tracer))
        return adam.init(weights)

    optimizer = optax.GradientTransformation(init, adam.update)
    options = {"key": key, "source": source, "ema": True}
    state = init_state(model, optimizer, **options, sharding=sharding)
    plain = init_state(model, adam, **options)
    expected = sharding.of_state(plain)
    parts = [
        (leaf.sharding.spec, of.spec)
        for name in ("model", "opt_state", "ema")
        for leaf, of in zip(
            jax.tree.leaves(eqx.filter(getattr(state, name), eqx.is_array)),
            jax.tree.leaves(getattr(expected, name)),
            strict=True,
        )
    ]
    x = jnp.ones(4)
    built = sharding.build(mlp, 64, key=key)
    print(
        json.dumps(
            {
                "same numbers": same(state, plain) and same(sharding.place(plain), state),
                "optimiser's init is traced": bool(seen) and all(seen),
                "where it belongs": all(spec == wanted for spec, wanted in parts),
                "split": sum("data" in spec for spec, _ in parts),
                "rule": str(built.layers[1].weight.sharding.spec),
                "part": built.layers[1].weight.addressable_shards[0].data.shape,
                "built": max(
                    float(jnp.max(jnp.abs(np.asarray(a) - np.asarray(b))))
                    for a, b in zip(leaves(built), leaves(model), strict=True)
                ),
                "prediction": float(jnp.max(jnp.abs(built(x) - model(x)))),
            }
        )
    )


if __name__ == "__main__":
    main()
