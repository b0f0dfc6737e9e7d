"""A small regression that trains for as long as it is told, for tests of signals and devices."""

import dataclasses
import os
import time
from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from jaxsci import experiment
from jaxsci.experiment import Above, Between, Claim, Result
from jaxsci.train import ArraySource, fit


@dataclasses.dataclass(frozen=True)
class Config(experiment.Config):
    steps: Annotated[int, Between(1)] = 12
    """Updates."""

    rate: Annotated[float, Above(0)] = 0.05
    """Learning rate of gradient descent."""

    batch: Annotated[int, Between(1, 64)] = 16
    """Samples in a batch."""


PRESETS = {"smoke": Config()}


def loss(weights, batch, key):
    x, y = batch
    return jnp.mean((x @ weights - y) ** 2)


def run(config, *, key, log):
    x = jax.random.normal(key, (64, 4))

    def evaluate(weights):
        time.sleep(float(os.environ.get("DAWDLE", "0")))
        if os.environ.get("BREAK"):
            raise RuntimeError("broken on purpose")
        return {"norm": jnp.sum(weights**2)}

    result = fit(
        jnp.zeros(4),
        loss,
        optax.sgd(config.rate),
        ArraySource((x, x @ jnp.arange(4.0)), config.batch),
        steps=config.steps,
        key=key,
        evaluate=evaluate,
        evaluate_every=4,
        log=log.scope("line"),
    )
    final = result.history["loss"][-1]
    return Result(
        [Claim("the loss falls", final, "<", result.history["loss"][0])],
        {"loss": final, "devices": len(result.model.sharding.device_set)},
    )
