"""One of several processes that train a model together: `python many_processes.py FOLDER [STEPS]`.

Who takes part is in the environment, as a launcher sets it. Each process reads its own rows.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

from jaxsci.experiment import JsonLines, Logger, is_first, join_processes, process_count
from jaxsci.train import ArraySource, Sharding, fit, make_mesh

BATCH, ROWS = 8, 64


class Rows:
    """Batches of which each process has its own rows; knows its position, as grain does."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(ROWS, 4)).astype(np.float32)
        self.y = (self.x @ np.array([1.0, -2.0, 0.5, 3.0], np.float32)) + 0.1
        self.at = 0

    def __iter__(self):
        return self

    def __next__(self):
        share = BATCH // process_count()
        start = (self.at * BATCH) % ROWS + jax.process_index() * share
        self.at += 1
        return self.x[start : start + share], self.y[start : start + share]

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]


def loss(weights, batch, key):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ weights["in"]) @ weights["out"] - y) ** 2)


def whole(array):
    """Its values, where it is split over the processes too."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def main(folder, kind, steps):
    join_processes()
    rng = np.random.default_rng(1)
    weights = {
        "in": jnp.asarray(rng.normal(size=(4, 32)), jnp.float32),
        "out": jnp.asarray(rng.normal(size=32) / 6, jnp.float32),
    }
    rows = Rows()
    data = rows if kind == "host" else ArraySource((rows.x, rows.y), BATCH)

    def evaluate(model):
        time.sleep(float(os.environ.get("DAWDLE", "0")))
        return {"norm": jnp.sum(model["in"] ** 2)}

    sinks = [JsonLines(Path(folder) / "log.jsonl", append=True)] if is_first() else []
    result = fit(
        weights,
        loss,
        optax.adam(1e-2),
        data,
        steps=steps,
        key=jax.random.key(0),
        evaluate=evaluate,
        evaluate_every=5,
        log_every=1,
        sharding=Sharding(make_mesh(), fsdp=True, min_size=0) if kind == "fsdp" else None,
        log=Logger(folder, resume=True, sinks=sinks, quiet=not is_first()),
    )
    name = f"result-{jax.process_index()}-of-{process_count()}.json"
    (Path(folder) / name).write_text(
        json.dumps(
            {
                "loss": result.history["loss"].tolist(),
                "norm": result.evaluations["norm"].tolist(),
                "weights": whole(result.model["out"]).tolist(),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
