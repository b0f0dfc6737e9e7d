"""A training run for the kill test, also a program: `python long_run.py FOLDER`.

It saves every second step and dawdles, so that a signal finds it at any point of a save.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsci.experiment import Logger
from jaxsci.train import ArraySource, Checkpoints, FitResult, fit

STEPS = 60


def loss(weights, batch, key):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ weights["in"]) @ weights["out"] - y) ** 2)


def run(folder, pause: float = 0.0) -> FitResult:
    """Starts or resumes the run in `folder`; without a folder keeps nothing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)).astype(np.float32)
    weights = {
        "in": jnp.asarray(rng.normal(size=(3, 400)), jnp.float32),
        "out": jnp.asarray(rng.normal(size=400), jnp.float32),
    }

    def evaluate(model):
        time.sleep(pause)
        return {"norm": jnp.sum(model["in"] ** 2)}

    return fit(
        weights,
        loss,
        optax.adam(1e-3),
        ArraySource((x, np.sin(x[:, 0])), 8),
        steps=STEPS,
        key=jax.random.key(1),
        ema_decay=0.9,
        evaluate=evaluate,
        evaluate_every=2,
        log=Logger(None),
        checkpoint=Checkpoints(folder=folder, resume=True, best="norm") if folder else False,
    )


if __name__ == "__main__":
    run(sys.argv[1], pause=0.02)
