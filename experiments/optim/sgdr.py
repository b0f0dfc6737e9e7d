"""SGDR: Stochastic Gradient Descent with Warm Restarts

Loshchilov, Hutter, arXiv:1608.03983 (ICLR 2017).

**Claim.** A cosine rate with warm restarts has a good model at every restart, without knowing in
advance how long the training will be, and the last models before restarts make a free ensemble.

**What is compared with what.** SGD with Nesterov momentum 0.9 on handwritten digits; the
test error at the ends of SGDR's cycles (5, 15, 35, 75 epochs for T₀ = 5, T_mult = 2), against a
constant rate and against a rate that falls by five at 30, 60 and 80 % of *the whole* budget, both
stopped at the same epochs. Every method has the same rates and takes the one with the smallest
validation error in the mean over these epochs. Means over seeds. Then the mean softmax of the last
three snapshots against the last one alone.

The paper's wide residual networks on CIFAR are not repeated here.
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
from jaxsci.optim import cycle_ends, sgdr, snapshots, snapshots_of
from jaxsci.train import digits


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """The network, the cycles, and the rates that each method may choose from."""

    seeds: Annotated[int, Between(1, 100)] = 8
    """networks of each kind, with other samples, wrong labels and weights"""
    train: Annotated[int, Between(50, 1000)] = 500
    """training samples"""
    noise: Annotated[float, Between(0.0, 0.9)] = 0.0
    """fraction of wrong training labels"""
    width: Annotated[int, Between(4)] = 64
    """hidden units"""
    batch: Annotated[int, Between(1)] = 20
    """samples of a mini-batch"""
    first: Annotated[int, Between(1)] = 5
    """epochs of the first cycle"""
    cycles: Annotated[int, Between(2, 10)] = 4
    """cycles, each twice as long as the one before"""
    rates: tuple[float, ...] = (0.03, 0.1, 0.3)
    """learning rates tried"""


PRESETS = {
    "smoke": Config(seeds=1, train=60, width=8, first=1, cycles=2, rates=(0.1,)),
    "quick": Config(),
    "full": Config(seeds=40, cycles=5, rates=(0.01, 0.03, 0.1, 0.3)),
    "paper": Config(seeds=100, train=1000, width=512, first=10, cycles=6),
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


def problem(config: Config, steps: int, key: PRNGKeyArray) -> dict[str, Any]:
    """Samples, some of the training labels wrong; first weights; the order of the batches."""
    split_key, noise_key, label_key, net_key, batch_key = jr.split(key, 5)
    images, labels = digits(split_key)
    held_out = config.train + 400
    y = labels[: config.train]
    wrong = jr.uniform(noise_key, y.shape) < config.noise
    other = (y + jr.randint(label_key, y.shape, 1, 10)) % 10
    return {
        "train": (images[: config.train], jnp.where(wrong, other, y)),
        "validation": (images[config.train : held_out], labels[config.train : held_out]),
        "test": (images[held_out:], labels[held_out:]),
        "net": network(net_key, (64, config.width, 10)),
        "batches": jr.randint(batch_key, (steps, config.batch), 0, config.train),
    }


def train(config: Config, kind: str, rate, data: dict[str, Any]):
    """Errors at the ends of the cycles, and of the ensemble of the last snapshots there."""
    x, y = data["train"]
    per_epoch = config.train // config.batch
    length = config.first * per_epoch
    ends = cycle_ends(length, 2, config.cycles)
    falls = {int(part * ends[-1]): 0.2 for part in (0.3, 0.6, 0.8)}
    schedule = {
        "constant": lambda count: rate,
        "steps": lambda count: rate * optax.piecewise_constant_schedule(1.0, falls)(count),
        "SGDR": sgdr(rate, length, 2),
    }[kind]
    members = min(3, config.cycles)
    tx = optax.chain(optax.sgd(schedule, 0.9, nesterov=True), snapshots(length, 2, k=members))

    def body(carry, pick):
        net, state = carry

        def loss(net):
            scores = logits(net, x[pick])
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, y[pick]))

        updates, state = tx.update(jax.grad(loss)(net), state, net)
        return (optax.apply_updates(net, updates), state), None

    def errors(part, net, kept):
        images, labels = data[part]
        single = jnp.argmax(logits(net, images), 1)
        together = jax.vmap(lambda member: jax.nn.softmax(logits(member, images)))(kept).mean(0)
        return jnp.mean(single != labels), jnp.mean(jnp.argmax(together, 1) != labels)

    carry, found = (data["net"], tx.init(data["net"])), []
    for begin, end in zip((0, *ends[:-1]), ends, strict=True):
        carry, _ = jax.lax.scan(body, carry, data["batches"][begin:end])
        net, state = carry
        found.append([errors(part, net, snapshots_of(state)) for part in ("validation", "test")])
    return jnp.array(found)


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    per_epoch = config.train // config.batch
    steps = cycle_ends(config.first * per_epoch, 2, config.cycles)[-1]
    epochs = [end for end in cycle_ends(config.first, 2, config.cycles)]
    data = jax.jit(jax.vmap(lambda k: problem(config, steps, k)))(jr.split(key, config.seeds))
    rates = jnp.asarray(config.rates)
    single, ensemble, chosen = {}, {}, {}
    for kind in ("constant", "steps", "SGDR"):
        go = jax.vmap(jax.vmap(lambda r, d, k=kind: train(config, k, r, d), (None, 0)), (0, None))
        found = np.asarray(jax.jit(go)(rates, data))  # rate, seed, cycle, part, single or ensemble
        best = int(np.argmin(found[..., 0, 0].mean((1, 2))))
        chosen[kind] = config.rates[best]
        single[kind], ensemble[kind] = found[best, :, :, 1, 0], found[best, :, :, 1, 1]
        log.say(f"{kind}, rate {chosen[kind]}: test errors {single[kind].mean(0)}")
    mean = {kind: error.mean(0) for kind, error in single.items()}
    claims = []
    for i, epoch in enumerate(epochs[:-1]):
        claims += [
            Claim(
                f"{epoch} epochs: SGDR is not above a constant rate",
                float(mean["SGDR"][i]),
                "<=",
                float(mean["constant"][i]) + 0.005,
                "mean test error; half a point is two standard errors",
            ),
            Claim(
                f"{epoch} epochs: SGDR is not above the falling rate",
                float(mean["SGDR"][i]),
                "<=",
                float(mean["steps"][i]) + 0.005,
                "which knows the whole budget, and is stopped here",
            ),
        ]
    claims.append(
        Claim(
            "three snapshots together are not above the last one",
            float(ensemble["SGDR"][:, -1].mean()),
            "<=",
            float(mean["SGDR"][-1]) + 0.005,
            "mean test error at the end",
        )
    )
    metrics = {f"rate_{kind}": rate for kind, rate in chosen.items()}
    for kind, error in mean.items():
        metrics |= {f"error_{kind}_{e}": float(v) for e, v in zip(epochs, error, strict=True)}
    metrics["error_ensemble"] = float(ensemble["SGDR"][:, -1].mean())
    figure = draw(config, per_epoch, epochs, chosen, single, ensemble)
    return Result(claims, metrics, {}, {"restarts": figure})


def draw(config: Config, per_epoch: int, epochs, chosen, single, ensemble) -> Figure:
    """The rates over time, and the errors at the ends of the cycles."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    count = np.arange(epochs[-1] * per_epoch)
    rate = jax.vmap(sgdr(chosen["SGDR"], config.first * per_epoch, 2))(jnp.asarray(count))
    axes[0].plot(count / per_epoch, rate, color="C2")
    for epoch in epochs:
        axes[0].axvline(epoch, color="grey", ls=":")
    axes[0].set(xlabel="epoch", ylabel="learning rate", title="SGDR; dotted: snapshots")
    for kind, error in single.items():
        values = 100 * error
        spread = values.std(0) / np.sqrt(len(values))
        axes[1].errorbar(epochs, values.mean(0), spread, marker="o", capsize=3, label=kind)
    axes[1].plot(
        epochs[2:], 100 * ensemble["SGDR"].mean(0)[2:], "k*--", label="SGDR, three snapshots"
    )
    axes[1].set(xscale="log", xlabel="epochs", ylabel="test error in %", title="Digits")
    axes[1].set_xticks(epochs, [str(epoch) for epoch in epochs])
    axes[1].minorticks_off()
    axes[1].legend()
    return figure
