"""Regularizing Neural Networks via Adversarial Model Perturbation

Zheng, Zhang, Mao, arXiv:2010.04925 (CVPR 2021).

**Claim.** Minimising the largest loss in a ball around the weights finds flatter minima, with a
lower test error than plain training and than other regularisers.

**What is compared with what.** An MLP on handwritten digits, a fifth of the training labels wrong,
the same SGD with momentum for all: plain training (ERM), AMP with one ascent step, SAM, and the
gradient's norm as a forward difference (F-GR). Each method has three strengths and takes the one
with the smallest error on a validation set (mean over seeds), the same for all. Measured are the
mean test error, the largest eigenvalue of the Hessian of the training loss (by Lanczos) on the way,
and the expected calibration error.

**Finding.** Flatness has to be compared at equal training loss. Plain training goes on to fit the
wrong labels, and where the loss is nearly 0 so is its Hessian, flat or not: after equally many
updates the eigenvalue of AMP (`sharpness_AMP`) may be the larger one. SAM and F-GR, each with its
own strength, come within a point or so of AMP.

The paper's convolutional networks on SVHN and CIFAR are not repeated here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.autodiff import Hessian, lanczos
from jaxsci.experiment import Above, Between, Claim, Logger, Result
from jaxsci.optim import amp, gradient_regularisation, sam
from jaxsci.train import digits


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """The network, its training, and the strengths that each method may choose from."""

    seeds: Annotated[int, Between(1, 100)] = 5
    """networks of each kind, with other samples, wrong labels and weights"""
    train: Annotated[int, Between(50, 1000)] = 400
    """training samples"""
    noise: Annotated[float, Between(0.0, 0.9)] = 0.2
    """fraction of wrong training labels"""
    width: Annotated[int, Between(4)] = 64
    """width of the two hidden layers"""
    updates: Annotated[int, Between(10)] = 1500
    """updates with mini-batches"""
    looks: Annotated[int, Between(1)] = 10
    """so often training loss and sharpness are measured on the way"""
    batch: Annotated[int, Between(1)] = 50
    """samples of a mini-batch"""
    rate: Annotated[float, Above(0)] = 0.05
    """learning rate of SGD with momentum 0.9"""
    epsilons: tuple[float, ...] = (0.1, 0.5, 1.0)
    """AMP's radii"""
    radii: tuple[float, ...] = (0.2, 0.5, 1.0)
    """SAM's ρ"""
    gammas: tuple[float, ...] = (0.1, 0.3, 1.0)
    """γ of F-GR, with ε = 0.1"""
    inner_steps: tuple[int, ...] = (1,)
    """ascent steps of AMP; the claims are for the first"""


PRESETS = {
    "smoke": Config(seeds=1, train=60, width=8, updates=20, looks=2, epsilons=(0.5,)),
    "quick": Config(),
    "full": Config(seeds=20, updates=3000, inner_steps=(1, 2, 3)),
    "paper": Config(seeds=100, train=1000, width=512, updates=20_000, inner_steps=(1, 2, 3)),
}


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


def calibration_error(scores: Float[Array, "n classes"], y, bins: int = 10) -> Float[Array, ""]:
    """Mean distance of confidence and accuracy over bins of equal width."""
    confidence = jnp.max(jax.nn.softmax(scores), 1)
    gap = confidence - (jnp.argmax(scores, 1) == y)
    index = jnp.clip(jnp.floor(confidence * bins), 0, bins - 1).astype(int)
    return jnp.sum(jnp.abs(jnp.zeros(bins).at[index].add(gap))) / len(y)


def sharpness(net: Any, x, y, direction: Any) -> Float[Array, ""]:
    """The largest eigenvalue of the Hessian of the training loss, by Lanczos' method."""
    flat, unravel = ravel_pytree(net)
    operator = Hessian().at(flat, value_fn=lambda p: cross_entropy(unravel(p), x, y))
    krylov = lanczos(operator, ravel_pytree(direction)[0], 20)
    off = jnp.diag(krylov.off, 1)
    return jnp.max(jnp.linalg.eigvalsh(jnp.diag(krylov.diag) + off + off.T))


def problem(config: Config, key: PRNGKeyArray) -> dict[str, Any]:
    """Samples, some of the training labels wrong; first weights; the order of the batches."""
    split_key, noise_key, label_key, net_key, other_key, batch_key = jr.split(key, 6)
    images, labels = digits(split_key)
    held_out = config.train + 400
    y = labels[: config.train]
    wrong = jr.uniform(noise_key, y.shape) < config.noise
    sizes = (64, config.width, config.width, 10)
    return {
        "train": (
            images[: config.train],
            jnp.where(wrong, (y + jr.randint(label_key, y.shape, 1, 10)) % 10, y),
        ),
        "validation": (images[config.train : held_out], labels[config.train : held_out]),
        "test": (images[held_out:], labels[held_out:]),
        "net": network(net_key, sizes),
        "direction": network(other_key, sizes),
        "batches": jr.randint(
            batch_key, (config.looks, config.updates // config.looks, config.batch), 0, config.train
        ),
    }


def train(config: Config, wrapper: Callable, strength, data: dict[str, Any]):
    """One network: what is measured at the end."""
    x, y = data["train"]
    tx = optax.with_extra_args_support(wrapper(optax.sgd(config.rate, 0.9), strength))

    def body(carry, pick):
        net, state = carry

        def loss(net):
            return cross_entropy(net, x[pick], y[pick])

        updates, state = tx.update(jax.grad(loss)(net), state, net, value_fn=loss)
        return (optax.apply_updates(net, updates), state), None

    def stretch(carry, batches):
        (net, state), _ = jax.lax.scan(body, carry, batches)
        at = (cross_entropy(net, x, y), sharpness(net, x, y, data["direction"]))
        return (net, state), at

    carry = (data["net"], tx.init(data["net"]))
    (net, _), (train_loss, eigenvalue) = jax.lax.scan(stretch, carry, data["batches"])

    def error(part):
        return jnp.mean(jnp.argmax(logits(net, data[part][0]), 1) != data[part][1])

    return {
        "validation": error("validation"),
        "test": error("test"),
        "train_loss": train_loss,
        "sharpness": eigenvalue,
        "calibration": calibration_error(logits(net, data["test"][0]), data["test"][1]),
    }


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    data = jax.jit(jax.vmap(lambda k: problem(config, k)))(jr.split(key, config.seeds))
    methods: dict[str, tuple[Callable, tuple[float, ...]]] = {"ERM": (lambda tx, _: tx, (0.0,))}
    for n in config.inner_steps:
        name = "AMP" if n == config.inner_steps[0] else f"AMP, {n} steps"
        methods[name] = (lambda tx, s, n=n: amp(tx, s, inner_steps=n), config.epsilons)
    methods["SAM"] = (sam, config.radii)
    methods["F-GR"] = (lambda tx, s: gradient_regularisation(tx, s, 0.1), config.gammas)

    metrics, found, chosen, curves = {}, {}, {}, {}
    for name, (wrapper, strengths) in methods.items():
        go = jax.vmap(
            jax.vmap(lambda s, d, w=wrapper: train(config, w, s, d), (None, 0)), (0, None)
        )
        result = jax.tree.map(np.asarray, jax.jit(go)(jnp.asarray(strengths), data))
        best = int(np.argmin(result["validation"].mean(1)))
        found[name] = (strengths, best, result)
        chosen[name] = {
            part: float((array[best] if array.ndim == 2 else array[best, :, -1]).mean())
            for part, array in result.items()
        }
        curves[name] = {
            part: np.exp(np.log(result[part][best]).mean(0)) for part in ("train_loss", "sharpness")
        }
        metrics[f"strength_{name}"] = strengths[best]
        metrics |= {f"{part}_{name}": value for part, value in chosen[name].items()}
        log.say(f"{name}, {strengths[best]}: {chosen[name]}; errors {result['test'].mean(1)}")
    # Where plain training had the training loss that AMP ends with.
    order = np.argsort(curves["ERM"]["train_loss"])
    erm = np.exp(
        np.interp(
            np.log(curves["AMP"]["train_loss"][-1]),
            np.log(curves["ERM"]["train_loss"][order]),
            np.log(curves["ERM"]["sharpness"][order]),
        )
    )
    claims = [
        Claim(
            "AMP's test error is a point below plain training's",
            chosen["AMP"]["test"],
            "<=",
            chosen["ERM"]["test"] - 0.01,
            "mean over seeds, radius chosen on a validation set",
        ),
        Claim(
            "AMP's weights are flatter at equal training loss",
            float(curves["AMP"]["sharpness"][-1]),
            "<=",
            0.7 * float(erm),
            "largest eigenvalue of the Hessian at equal training loss; target 0.7 of ERM's",
        ),
        Claim(
            "AMP is better calibrated",
            chosen["AMP"]["calibration"],
            "<",
            chosen["ERM"]["calibration"],
            "expected calibration error on test samples",
        ),
        *(
            Claim(
                f"AMP's test error is not above {name}'s",
                chosen["AMP"]["test"],
                "<=",
                chosen[name]["test"] + 0.01,
                "a point is the noise of five seeds",
            )
            for name in ("SAM", "F-GR")
        ),
    ]
    return Result(claims, metrics, {}, {"comparison": draw(found, curves)})


def draw(found: dict, curves: dict) -> Figure:
    """Test error of every method and strength; sharpness over the training loss."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    for name, (strengths, best, result) in found.items():
        test = 100 * result["test"]
        spread = test.std(1) / np.sqrt(test.shape[1])
        if name == "ERM":
            axes[0].axhline(test.mean(), color="grey", ls="--", label="ERM")
            color = "grey"
        else:
            line = axes[0].errorbar(
                strengths, test.mean(1), spread, marker="o", ms=4, capsize=3, label=name
            )
            color = line[0].get_color()
            axes[0].plot(strengths[best], test.mean(1)[best], "o", ms=11, mfc="none", color=color)
        curve = curves[name]
        axes[1].loglog(curve["train_loss"], curve["sharpness"], ".-", color=color, label=name)
        axes[1].plot(curve["train_loss"][-1], curve["sharpness"][-1], "o", ms=9, color=color)
    axes[0].set(
        xscale="log",
        xlabel="strength: ε of AMP, ρ of SAM, γ of F-GR",
        ylabel="test error in %",
        title="Rings: chosen on the validation set",
    )
    axes[1].set(
        xlabel="training loss (training runs to the left; dots: the end)",
        ylabel="largest eigenvalue of the Hessian",
        title="Sharpness on the way",
    )
    for axis in axes:
        axis.legend()
    return figure
