"""A second-order-like optimizer with adaptive gradient scaling for deep learning

Bolte, Boustany, Pauwels, Purica, arXiv:2410.08871.

**Claim.** INNAprop, an inertial Newton method without Hessians and with RMSprop's scaling, matches
or beats AdamW with AdamW's own schedules and hardly any tuning, at the same memory.

**What is compared with what.** An MLP on handwritten digits, mini-batches, cosine rates, the same
weight decay: INNAprop with (α, β) = (0.1, 0.9), the paper's choice for short trainings, and (2, 2),
its choice for long ones, against AdamW. Each takes the best of the same three rates. Means over
seeds of the steps until the training loss that AdamW has after half of them, and of the validation
accuracy at the end.

The paper's ImageNet and GPT-2 trainings are not repeated here.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.experiment import Between, Claim, Logger, Result
from jaxsci.optim import innaprop
from jaxsci.train import digits


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """The network and its training."""

    seeds: Annotated[int, Between(1, 100)] = 4
    """networks with other samples and weights"""
    train: Annotated[int, Between(50, 1400)] = 1000
    """training samples"""
    width: Annotated[int, Between(4)] = 64
    """width of the two hidden layers"""
    batch: Annotated[int, Between(1)] = 50
    """samples of a mini-batch"""
    looks: Annotated[int, Between(4)] = 40
    """so often the losses are measured"""
    stretch: Annotated[int, Between(1)] = 15
    """steps between two looks"""
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """rates that each method may choose from"""


PRESETS = {
    "smoke": Config(seeds=1, train=50, width=8, looks=4, stretch=2, rates=(1e-3,)),
    "quick": Config(),
    "full": Config(seeds=20, width=256, stretch=50),
    "paper": Config(seeds=50, train=1400, width=2048, stretch=500),
}

METHODS = ("AdamW", "INNAprop (0.1, 0.9)", "INNAprop (2, 2)")


def network(key: PRNGKeyArray, sizes: tuple[int, ...]) -> list[dict[str, Array]]:
    keys = jr.split(key, len(sizes) - 1)
    return [
        {"w": jr.normal(k, (m, n)) * jnp.sqrt(2 / m), "b": jnp.zeros(n)}
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def logits(net: Any, x: Float[Array, "n d"]) -> Float[Array, "n classes"]:
    for layer in net[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ net[-1]["w"] + net[-1]["b"]


def cross_entropy(net: Any, x, y) -> Float[Array, ""]:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(net, x), y))


def problem(config: Config, key: PRNGKeyArray) -> dict[str, Any]:
    """Samples, first weights, and the order of the batches."""
    split_key, net_key, batch_key = jr.split(key, 3)
    images, labels = digits(split_key)
    shape = (config.looks, config.stretch, config.batch)
    return {
        "train": (images[: config.train], labels[: config.train]),
        "validation": (images[config.train :], labels[config.train :]),
        "net": network(net_key, (64, config.width, config.width, 10)),
        "batches": jr.randint(batch_key, shape, 0, config.train),
    }


def train(tx: optax.GradientTransformation, data: dict[str, Any]):
    """Training loss and validation accuracy at the looks."""
    x, y = data["train"]

    def body(carry, pick):
        net, state = carry
        updates, state = tx.update(jax.grad(cross_entropy)(net, x[pick], y[pick]), state, net)
        return (optax.apply_updates(net, updates), state), None

    def look(carry, picks):
        carry, _ = jax.lax.scan(body, carry, picks)
        images, labels = data["validation"]
        accuracy = jnp.mean(jnp.argmax(logits(carry[0], images), 1) == labels)
        return carry, jnp.stack([cross_entropy(carry[0], x, y), accuracy])

    return jax.lax.scan(look, (data["net"], tx.init(data["net"])), data["batches"])[1]


def make(config: Config, method: str, rate) -> optax.GradientTransformation:
    shape = optax.cosine_decay_schedule(1.0, config.looks * config.stretch)

    def schedule(count):
        return rate * shape(count)

    if method == "AdamW":
        return optax.adamw(schedule, weight_decay=0.01)
    alpha, beta = (2.0, 2.0) if "(2, 2)" in method else (0.1, 0.9)
    return innaprop(schedule, alpha, beta, weight_decay=0.01)


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    data = jax.jit(jax.vmap(lambda k: problem(config, k)))(jr.split(key, config.seeds))
    curves, metrics = {}, {}
    for method in METHODS:

        def one(rate, data, method=method):
            return train(make(config, method, rate), data)

        go = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))
        found = np.asarray(go(jnp.asarray(config.rates), data)).mean(1)  # rate, look, part
        best = int(np.nanargmin(found[:, -1, 0]))
        curves[method] = found[best]
        metrics[f"loss_{method}"] = float(found[best, -1, 0])
        metrics[f"accuracy_{method}"] = float(found[best, -1, 1])
        metrics[f"rate_{method}"] = config.rates[best]
        log.say(f"{method}: losses {found[:, -1, 0]}, accuracies {found[:, -1, 1]}")
    half = config.looks // 2
    target = curves["AdamW"][half - 1, 0]
    steps = {}
    for method, curve in curves.items():
        reached = np.flatnonzero(curve[:, 0] <= target)
        look = reached[0] + 1 if reached.size else np.inf
        steps[method] = float(min(look, 10 * config.looks)) * config.stretch
    metrics |= {f"steps_{method}": value for method, value in steps.items()}
    fast, long = METHODS[1], METHODS[2]
    claims = [
        Claim(
            "(0.1, 0.9) is as fast as AdamW",
            steps[fast],
            "<=",
            1.1 * steps["AdamW"],
            "steps to the training loss that AdamW has after half of them",
        ),
        *(
            Claim(
                f"{method} ends as well as AdamW",
                metrics[f"accuracy_{method}"],
                ">=",
                metrics["accuracy_AdamW"] - 0.02,
                "validation accuracy",
            )
            for method in (fast, long)
        ),
    ]
    return Result(claims, metrics, {}, {"training": draw(config, curves)})


def draw(config: Config, curves: dict[str, np.ndarray]) -> Figure:
    """Training loss and validation accuracy over the steps."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    steps = config.stretch * np.arange(1, config.looks + 1)
    for method, curve in curves.items():
        axes[0].semilogy(steps, curve[:, 0], label=method)
        axes[1].plot(steps, 100 * curve[:, 1], label=method)
    axes[0].set(xlabel="step", ylabel="training loss", title="MLP on digits, best rates")
    axes[1].set(xlabel="step", ylabel="validation accuracy in %", ylim=(85, 100))
    for axis in axes:
        axis.legend()
    return figure
