"""Gravity Optimizer: a Kinematic Approach on Optimization in Deep Learning

Bahrami, Pouriyan Zadeh, arXiv:2101.09192.

**Claim.** With its default parameters untouched, Gravity trains deep networks with a more stable
validation accuracy than Adam and RMSProp.

**What is compared with what.** Three networks on handwritten digits (a perceptron with one hidden
layer, a deep one with four, a small convolutional one), Gravity with its defaults against Adam and
RMSProp with the defaults of their libraries (rate 10⁻³) and with the best of three rates, chosen by
the validation accuracy at the end. Measured over several seeds: the accuracy on the training set,
and the standard deviation of the validation accuracy over the last third of the epochs.

**Found.** Gravity's defaults train all three networks. Its accuracy is steadier than RMSProp's for
most seeds but not for all, and not steadier than Adam's, nor better; Adam and RMSProp with a
rate that was chosen have the better accuracy.

Gravity depends on the scale of the loss, see its docstring; here it is the mean cross-entropy. The
paper's VGG networks are not repeated.
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
from jaxsci.optim import gravity
from jaxsci.train import digits


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Networks and training."""

    seeds: Annotated[int, Between(1, 100)] = 3
    """networks of each kind, with other samples and weights"""
    train: Annotated[int, Between(50, 1400)] = 1000
    """training samples"""
    batch: Annotated[int, Between(1)] = 50
    """samples of a mini-batch"""
    epochs: Annotated[int, Between(3)] = 45
    """passes through the training samples"""
    width: Annotated[int, Between(4)] = 48
    """hidden units of a layer"""
    channels: Annotated[int, Between(1)] = 8
    """channels of the convolutional network"""
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    """rates of Adam and RMSProp; the second is the default"""


PRESETS = {
    "smoke": Config(seeds=1, train=50, epochs=3, width=8, channels=2),
    "quick": Config(),
    "full": Config(seeds=10, epochs=90, width=128, channels=16),
    "paper": Config(seeds=20, train=1400, epochs=300, width=512, channels=64),
}


def dense(key: PRNGKeyArray, m: int, n: int) -> dict[str, Array]:
    return {"w": jr.normal(key, (m, n)) * jnp.sqrt(2 / m), "b": jnp.zeros(n)}


def networks(config: Config, key: PRNGKeyArray) -> dict[str, Any]:
    """First weights of the three networks."""
    keys = jr.split(key, 10)
    w, c = config.width, config.channels
    return {
        "shallow": [dense(keys[0], 64, w), dense(keys[1], w, 10)],
        "deep": [dense(k, m, w) for k, m in zip(keys[2:6], (64, w, w, w), strict=True)]
        + [dense(keys[6], w, 10)],
        "convolutional": {
            "kernel": jr.normal(keys[7], (3, 3, 1, c)) / 3,
            "head": [dense(keys[8], 16 * c, w), dense(keys[9], w, 10)],
        },
    }


def logits(net: Any, x: Float[Array, "n 64"]) -> Float[Array, "n classes"]:
    if isinstance(net, dict):
        image = x.reshape(-1, 8, 8, 1)
        dimensions = ("NHWC", "HWIO", "NHWC")
        maps = jax.lax.conv_general_dilated(
            image, net["kernel"], (2, 2), "SAME", dimension_numbers=dimensions
        )
        return logits(net["head"], jax.nn.relu(maps).reshape(len(x), -1))
    for layer in net[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ net[-1]["w"] + net[-1]["b"]


def problem(config: Config, key: PRNGKeyArray) -> dict[str, Any]:
    """Samples, first weights, and the order of the batches."""
    split_key, net_key, batch_key = jr.split(key, 3)
    images, labels = digits(split_key)
    shape = (config.epochs, config.train // config.batch, config.batch)
    return {
        "train": (images[: config.train], labels[: config.train]),
        "validation": (images[config.train :], labels[config.train :]),
        "nets": networks(config, net_key),
        "batches": jr.randint(batch_key, shape, 0, config.train),
    }


def train(tx: optax.GradientTransformation, net: Any, data: dict[str, Any]):
    """Accuracies on training and validation samples after every epoch."""
    x, y = data["train"]

    def body(carry, pick):
        net, state = carry

        def loss(net):
            scores = logits(net, x[pick])
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, y[pick]))

        updates, state = tx.update(jax.grad(loss)(net), state, net)
        return (optax.apply_updates(net, updates), state), None

    def epoch(carry, picks):
        carry, _ = jax.lax.scan(body, carry, picks)
        hits = [
            jnp.mean(jnp.argmax(logits(carry[0], data[part][0]), 1) == data[part][1])
            for part in ("train", "validation")
        ]
        return carry, jnp.stack(hits)

    return jax.lax.scan(epoch, (net, tx.init(net)), data["batches"])[1]


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    data_key, velocity_key = jr.split(key)
    data = jax.jit(jax.vmap(lambda k: problem(config, k)))(jr.split(data_key, config.seeds))
    names = list(data["nets"])
    rates = jnp.asarray(config.rates)
    last = config.epochs // 3

    def everything(make, rates):
        """Rate, seed, epoch, part; for each network."""

        def one(rate, data):
            return {name: train(make(rate), data["nets"][name], data) for name in names}

        both = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
        return jax.tree.map(np.asarray, jax.jit(both)(rates, data))

    found = {
        "Gravity": everything(lambda _: gravity(key=velocity_key), jnp.zeros(1)),
        "Adam": everything(optax.adam, rates),
        "RMSProp": everything(lambda rate: optax.rmsprop(rate, 0.9), rates),
    }
    claims, metrics = [], {}
    shown, steadiness = {}, []
    for name in names:
        accuracy, spread = {}, {}
        for method, result in found.items():
            runs = result[name]
            default = 0 if method == "Gravity" else min(1, len(config.rates) - 1)
            best = int(np.argmax(runs[:, :, -1, 1].mean(1)))
            shown[name, method] = runs[default]
            for label, index in (("", default), (", tuned", best)):
                tail = runs[index, :, -last:, :]
                accuracy[method + label] = float(tail[..., 1].mean())
                spread[method + label] = float(tail[..., 1].std(1).mean())
                metrics[f"{name}_train_{method}{label}"] = float(tail[:, -1, 0].mean())
        metrics |= {f"{name}_accuracy_{m}": value for m, value in accuracy.items()}
        metrics |= {f"{name}_std_{m}": value for m, value in spread.items()}
        log.say(f"{name}: validation accuracy {accuracy}, standard deviation {spread}")
        claims += [
            Claim(
                f"{name}: Gravity's defaults fit the training set",
                metrics[f"{name}_train_Gravity"],
                ">=",
                0.95,
                "accuracy at the end",
            ),
        ]
        steadiness.append(spread)
    mean = {m: float(np.mean([spread[m] for spread in steadiness])) for m in steadiness[0]}
    metrics |= {f"std_{method}": value for method, value in mean.items()}
    for method in ("RMSProp", "Adam"):
        claims.append(
            Claim(
                f"Gravity is steadier than {method}",
                mean["Gravity"],
                "<=",
                0.9 * mean[method],
                "standard deviation of the validation accuracy over the last epochs, mean over "
                "networks and seeds, defaults; the target is 0.9 of the other's",
            )
        )
    return Result(claims, metrics, {}, {"accuracy": draw(names, shown)})


def draw(names: list[str], shown: dict) -> Figure:
    """Validation accuracy of one run of each method on each network."""
    figure, axes = plt.subplots(1, len(names), figsize=(13, 3.8), layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        for method in ("Adam", "RMSProp", "Gravity"):
            curve = 100 * shown[name, method][0, :, 1]
            axis.plot(np.arange(1, len(curve) + 1), curve, lw=1.2, label=method)
        top = max(100 * shown[name, m][0, :, 1].max() for m in ("Adam", "RMSProp", "Gravity"))
        axis.set(
            title=f"{name} network",
            xlabel="epoch",
            ylabel="validation accuracy in %",
            ylim=(top - 12, top + 1),
        )
        axis.legend()
    return figure
