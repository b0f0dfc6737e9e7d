"""Records Laplacians computed by folx, an independent forward Laplacian, for tests/autodiff.

pip install folx==0.2.30 jax==0.10.2
python tests/oracles/record_folx.py
"""

from importlib.metadata import version
from pathlib import Path

import folx
import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(7)
D, WIDTH = 6, 8
w1, w2, w3 = rng.normal(size=(WIDTH, D)), rng.normal(size=(WIDTH, WIDTH)), rng.normal(size=WIDTH)
points = rng.normal(size=(5, D)) / 2


def network(activation):
    def f(x):
        h = activation(w1 @ x)
        return jnp.dot(w3, activation(w2 @ h / 3)) * (1 - jnp.sum(x**2))

    return f


record = {"w1": w1, "w2": w2, "w3": w3, "points": points}
for name in ("tanh", "silu", "gelu", "softplus", "sin"):
    activation = getattr(jax.nn, name, None) or getattr(jnp, name)
    forward = folx.forward_laplacian(network(activation))
    results = [forward(jnp.asarray(x)) for x in points]
    record[f"value_{name}"] = np.array([float(r.x) for r in results])
    record[f"gradient_{name}"] = np.stack([np.asarray(r.dense_jacobian) for r in results])
    record[f"laplacian_{name}"] = np.array([float(r.laplacian) for r in results])
record["versions"] = np.array(f"folx {version('folx')}, jax {jax.__version__}")
np.savez_compressed(Path(__file__).parent / "data" / "folx.npz", **record)
