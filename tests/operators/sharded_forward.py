"""Forward passes on a grid split over eight host devices; prints what test_sharding.py checks."""

import json
import os
import re

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxsci.nn import Fourier, SpectralConv
from jaxsci.operators import FNO
from jaxsci.train import make_mesh


def check(model, u):
    """The largest difference to one device, and the element counts of the collectives."""
    dynamic, static = eqx.partition(model, eqx.is_array)

    def forward(dynamic, u):
        return jax.vmap(eqx.combine(dynamic, static))(u)

    mesh = make_mesh(data=1, space=8)
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(None, None, "space"))
    compiled = (
        jax.jit(forward, out_shardings=split)
        .lower(jax.device_put(dynamic, whole), jax.device_put(u, split))
        .compile()
    )
    on_eight = compiled(jax.device_put(dynamic, whole), jax.device_put(u, split))
    found = {}
    for line in compiled.as_text().splitlines():
        match = re.search(
            r"= \(?\w+\[([\d,]*)\].* (all-[a-z]+|collective-permute)(-start)?\(", line
        )
        if match:
            size = int(np.prod([int(n) for n in match.group(1).split(",") if n]))
            found.setdefault(match.group(2), []).append(size)
    error = jnp.max(jnp.abs(np.asarray(on_eight) - np.asarray(jax.jit(forward)(dynamic, u))))
    return {"error": float(error), "collectives": found}


key = jax.random.key(0)
u = jax.random.normal(key, (2, 4, 64, 64))
print(
    json.dumps(
        {
            "fno": check(FNO(2, 4, 1, width=16, modes=6, depth=2, key=key), u),
            "dft": check(SpectralConv(Fourier((6, 6), method="dft"), 4, 4, key=key), u),
            "fft": check(SpectralConv(Fourier((6, 6), method="fft"), 4, 4, key=key), u),
        }
    )
)
