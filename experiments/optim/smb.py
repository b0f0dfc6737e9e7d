"""Bolstering Stochastic Gradient Descent with Model Building

Birbil, Martin, Onay, Öztoprak, arXiv:2111.07058.

**Claim.** SGD whose failed steps are mended by a model of two points needs less tuning than SGD and
Adam: it is robust to the learning rate, and no worse at its best.

**What is compared with what.** A network for a classification with ten classes (labels of a random
teacher), trained with mini-batches by SGD, Adam, SMB, SMB with its own schedule, and SMBi (the
model is made with the next batch). Each gets the same steps and seven rates: from 10⁻² to 10, Adam
from 10⁻⁴ to 10⁻¹, which is its customary range. A rate is good if the loss on all samples at the
end is at most twice that of SGD at its best rate. Several seeds (data, network, batches).

A model step takes one gradient more than a step of SGD; the share of such steps is in the metrics.

**Found besides.** What is gained is on the side of large rates: up to SGD's best rate hardly a
trial fails and SMB is SGD, unless the schedule raises the rate. At its best rate, three times that
of SGD, one step in six is a model step. SMBi, which throws a failed step away, is no better than
SGD here.
"""

from dataclasses import dataclass
from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.experiment import Between, Claim, Logger, Result
from jaxsci.optim import AutoSchedule, SmbState, smb


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes of the problem, and the rates."""

    seeds: Annotated[int, Between(1, 64)] = 5
    """data sets and networks; medians are compared"""
    samples: Annotated[int, Between(10)] = 1024
    """samples"""
    features: Annotated[int, Between(2)] = 20
    """features of a sample"""
    width: Annotated[int, Between(1)] = 64
    """hidden units of the network"""
    batch: Annotated[int, Between(1)] = 64
    """samples in a mini-batch"""
    steps: Annotated[int, Between(10)] = 500
    """mini-batch steps"""
    rates: Annotated[int, Between(1)] = 7
    """learning rates, over three decades in equal ratios"""


PRESETS = {
    "smoke": Config(seeds=1, samples=64, features=3, width=4, batch=16, steps=20, rates=2),
    "quick": Config(),
    "full": Config(seeds=10, samples=4096, width=128, steps=3000),
    "paper": Config(seeds=10, samples=60_000, features=784, width=512, batch=128, steps=94_000),
}


def problem(key: PRNGKeyArray, config: Config) -> dict[str, Array]:
    """Samples, their classes by a random network, and the rows of each mini-batch."""
    sample_key, teacher_key, batch_key, model_key = jr.split(key, 4)
    x = jr.normal(sample_key, (config.samples, config.features))
    teacher = eqx.nn.MLP(config.features, 10, 32, 1, key=teacher_key)
    # Large weights, so that the classes are not nearly linear.
    teacher = jax.tree.map(lambda leaf: 3 * leaf if eqx.is_array(leaf) else leaf, teacher)
    classes = jnp.argmax(jax.vmap(teacher)(x), -1)
    rows = jr.randint(batch_key, (config.steps, config.batch), 0, config.samples)
    return {"x": x, "classes": classes, "rows": rows, "key": jr.key_data(model_key)}


def train(config: Config, tx: optax.GradientTransformation, data: dict[str, Array]):
    """The losses of the mini-batches, the loss on all samples at the end, the share of models."""
    key = jr.wrap_key_data(data["key"])
    model = eqx.nn.MLP(config.features, 10, config.width, 1, key=key)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    update = optax.with_extra_args_support(tx).update

    def loss(params, rows):
        logits = jax.vmap(eqx.combine(params, static))(data["x"][rows])
        return jnp.mean(
            optax.softmax_cross_entropy_with_integer_labels(logits, data["classes"][rows])
        )

    def step(carry, rows):
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params, rows)
        updates, state = update(
            grad, state, params, value=value, grad=grad, value_fn=lambda p: loss(p, rows)
        )
        return (optax.apply_updates(params, updates), state), value

    (params, state), losses = jax.lax.scan(step, (params, tx.init(params)), data["rows"])
    share = jnp.zeros(())
    if isinstance(state, SmbState):
        share = state.metrics["model_steps"] / state.count
    return losses, loss(params, slice(None)), share


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    keys = jr.split(key, config.seeds)
    data = jax.jit(jax.vmap(lambda key: problem(key, config)))(keys)
    rates = np.geomspace(1e-2, 10, config.rates)
    methods = {
        "SGD": optax.sgd,
        "Adam": lambda rate: optax.adam(rate / 100),
        "SMB": smb,
        "SMB, scheduled": lambda rate: smb(rate, autoschedule=AutoSchedule(window=15)),
        "SMBi": lambda rate: smb(rate, independent_batch=True),
    }
    curves, ends, shares = {}, {}, {}
    for name, make in methods.items():

        def each(rates, data, make=make):
            # One after the other, so that a model step costs only those that take one.
            def with_rate(rate):
                return jax.lax.map(lambda d: train(config, make(rate), d), data)

            return jax.lax.map(with_rate, rates)

        losses, end, share = (np.asarray(a) for a in jax.jit(each)(jnp.asarray(rates), data))
        curves[name] = np.median(np.where(np.isfinite(losses), losses, np.inf), 1)
        ends[name] = np.where(np.isfinite(end), end, np.inf)  # (rates, seeds)
        shares[name] = np.median(share, 1)
    bar = 2 * ends["SGD"].min(0)
    good = {name: float(np.mean(end <= bar)) for name, end in ends.items()}
    best = {name: float(np.median(end.min(0))) for name, end in ends.items()}
    log.say(f"share of good rates: {good}")
    log.say(f"loss at the best rate: {best}")
    for name in methods:
        log.say(f"{name}: loss by rate {np.median(ends[name], 1).tolist()}")
    log.say(f"model steps of SMB by rate: {shares['SMB'].tolist()}")

    claims = [
        Claim("SMB works with more rates than SGD", good["SMB"], ">", good["SGD"], "good rates"),
        Claim(
            "SMB, scheduled, works with more rates than SGD",
            good["SMB, scheduled"],
            ">=",
            good["SGD"] + 0.2,
            "share of good rates; target: SGD's + 0.2",
        ),
        Claim(
            "SMB, scheduled, works with as many rates as Adam",
            good["SMB, scheduled"],
            ">=",
            good["Adam"],
            "share of good rates",
        ),
        *(
            Claim(
                f"SMB at its best rate against {other} at its own",
                best["SMB"],
                "<=",
                best[other],
                "loss on all samples",
            )
            for other in ("SGD", "Adam")
        ),
    ]
    metrics = {f"good_{name}": value for name, value in good.items()}
    metrics |= {f"best_{name}": value for name, value in best.items()}
    metrics |= {
        f"model_steps_smb_{rate:.2g}": float(share)
        for rate, share in zip(rates, shares["SMB"], strict=True)
    }
    arrays = {f"curves_{i}": c for i, c in enumerate(curves.values())}
    return Result(claims, metrics, arrays, {"rates": draw(rates, ends, curves)})


def draw(rates: np.ndarray, ends: dict[str, np.ndarray], curves: dict[str, np.ndarray]) -> Figure:
    """The loss at the end over the rate, and over the steps at each method's best rate."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, end in ends.items():
        median = np.median(end, 1)
        best = int(median.argmin())
        shown = rates / 100 if name == "Adam" else rates
        label = "Adam, rate × 100" if name == "Adam" else name
        axes[0].loglog(rates, np.minimum(median, 10), "o-", label=label)
        smooth = np.convolve(curves[name][best], np.ones(15) / 15, "valid")
        axes[1].semilogy(smooth, label=f"{name}, {shown[best]:.2g}")
    axes[0].set(xlabel="learning rate", title="After training", ylabel="loss on all samples")
    axes[1].set(xlabel="step", title="At the best rate", ylabel="mean loss of 15 mini-batches")
    for axis in axes:
        axis.legend(fontsize="small")
    return figure
