"""The mean of uniform random numbers tends to one half."""

import dataclasses
import json
import os
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from jaxsci import experiment
from jaxsci.experiment import Above, Between, Claim, Result


@dataclasses.dataclass(frozen=True)
class Draw:
    batch: Annotated[int, Between(1, 64)] = 4
    """Numbers drawn at once."""


@dataclasses.dataclass(frozen=True)
class Config(experiment.Config):
    steps: Annotated[int, Between(1, 1000)] = 12
    """Batches to draw."""

    scale: Annotated[float, Above(0)] = 1.0
    """Upper end of the distribution."""

    kind: Literal["mean", "median"] = "mean"
    """What is taken of a batch."""

    widths: tuple[int, ...] = (1, 2)
    draw: Draw = Draw()


PRESETS = {"smoke": Config(steps=2), "quick": Config(), "full": Config(steps=20)}


def run(config, *, key, log):
    state = log.path("state.json")
    values = json.loads(state.read_text()) if log.resume and state.exists() else []
    take = jax.jit(lambda key: getattr(jnp, config.kind)(jax.random.uniform(key, (4,))))
    scoped = log.scope("draws")
    with scoped.progress(config.steps, "drawing") as bar:
        for step in range(len(values), config.steps):
            if str(step) == os.environ.get("SAMPLE_STOPS_AT"):
                raise RuntimeError("stopped on purpose")
            values.append(float(take(jax.random.fold_in(key, step))) * config.scale)
            state.write_text(json.dumps(values))
            scoped.metrics(step, value=values[-1])
            bar.update(step + 1, value=values[-1])
    mean = sum(values) / len(values)
    figure, axes = plt.subplots()
    axes.plot(values)
    return Result(
        claims=[
            Claim("the mean is one half", abs(mean - 0.5 * config.scale), "<", 0.5 * config.scale),
            Claim("enough batches", config.steps, ">=", 2, "two are enough"),
        ],
        metrics={"mean": mean, "bits": jnp.finfo(jnp.result_type(float)).bits},
        arrays={"values": jnp.asarray(values), "half": jnp.ones(2, jnp.bfloat16)},
        figures={"values": figure},
    )
