"""AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights

Heo, Chun, Oh, Han, Yun, Kim, Uh, Ha, arXiv:2006.08217 (ICLR 2021).

**Claim.** For weights before a normalisation, momentum makes the norm grow much faster than the
gradients alone would, which shrinks the effective step; projecting the radial part of the update
away stops that, at no cost in accuracy.

**What is compared with what.**

1. *A scale-invariant function*, −cos(w, w*) with noisy gradients orthogonal to w: the growth of
   ‖w‖² under SGD, under SGD with momentum β, and under SGDP. For uncorrelated gradients theory
   gives (1 + 2β/(1−β)) = 19 times as much for momentum at β = 0.9 at equal ‖update‖; SGDP has only
   the updates' own length.
2. *A network* whose layers normalise their weights' rows, on a made-up classification task: norms
   of the weights after training and test error, for SGD with momentum against SGDP and Adam against
   AdamP, same rates with
   cosine decay, as the paper has it; medians over several seeds.

The paper's image, language and audio benchmarks are not repeated here.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.experiment import Above, Between, Claim, Logger, Result
from jaxsci.optim import adamp, sgdp


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes of the two comparisons."""

    toy_steps: Annotated[int, Between(10)] = 3000
    """steps on the scale-invariant function"""
    toy_dimension: Annotated[int, Between(2)] = 50
    """its dimension"""
    seeds: Annotated[int, Between(1, 64)] = 5
    """networks side by side"""
    samples: Annotated[int, Between(20)] = 1000
    """training samples, and as many for testing"""
    features: Annotated[int, Between(2)] = 20
    """inputs of the network"""
    width: Annotated[int, Between(2)] = 32
    """neurons of its two hidden layers"""
    steps: Annotated[int, Between(2)] = 1500
    """mini-batch steps"""
    sgd_rate: Annotated[float, Above(0)] = 0.1
    """learning rate of SGD with momentum, and SGDP"""
    adam_rate: Annotated[float, Above(0)] = 3e-3
    """learning rate of Adam and AdamP"""


PRESETS = {
    "smoke": Config(toy_steps=50, seeds=1, samples=40, width=4, steps=10),
    "quick": Config(),
    "full": Config(toy_steps=100_000, seeds=15, samples=4000, width=128, steps=10_000),
    "paper": Config(toy_steps=1_000_000, seeds=15, samples=50_000, width=512, steps=100_000),
}


def norm_growth(config: Config, tx: optax.GradientTransformation, key: PRNGKeyArray):
    """‖w_T‖² − ‖w₀‖² and Σ‖update‖² for gradients that are pure noise orthogonal to w."""
    w = jnp.ones((1, config.toy_dimension))

    def body(carry, key):
        w, state, lengths = carry
        noise = jr.normal(key, w.shape)
        unit = w / jnp.linalg.norm(w)
        gradient = (noise - unit * jnp.sum(noise * unit)) / jnp.linalg.norm(w)
        updates, state = tx.update(gradient, state, w)
        w = w + jnp.asarray(updates)
        return (w, state, lengths + jnp.sum(jnp.asarray(updates) ** 2)), jnp.sum(w**2)

    (end, _, lengths), squares = jax.lax.scan(
        body, (w, tx.init(w), jnp.zeros(())), jr.split(key, config.toy_steps)
    )
    return jnp.sum(end**2) - jnp.sum(w**2), lengths, squares


def network(params: list[Float[Array, "out in"]], x: Float[Array, " features"]):
    """Three layers; the rows of the first two are normalised: their lengths do not matter."""
    for w in params[:-1]:
        x = w @ x / jnp.linalg.norm(w, axis=1)
        x = jax.nn.relu(2 * x)
    return params[-1] @ x


def train(config: Config, tx: optax.GradientTransformation, key: PRNGKeyArray):
    """The mean squared row norm of the normalised layers over steps, and the test error."""
    teacher_key, data_key, init_key, batch_key = jr.split(key, 4)
    sizes = [config.features, config.width, config.width, 4]
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    teacher = [jr.normal(k, s) for k, s in zip(jr.split(teacher_key, 3), shapes, strict=True)]
    x = jr.normal(data_key, (2 * config.samples, config.features))
    labels = jnp.argmax(jax.vmap(lambda x: network(teacher, x))(x), -1)
    params = [
        jr.normal(k, s) / jnp.sqrt(s[1]) for k, s in zip(jr.split(init_key, 3), shapes, strict=True)
    ]
    n = config.samples

    def loss(params, chosen):
        out = jax.vmap(lambda x: network(params, x))(x[chosen])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out, labels[chosen]))

    def body(carry, key):
        params, state = carry
        grads = jax.grad(loss)(params, jr.randint(key, (64,), 0, n))
        updates, state = tx.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        return (params, state), jnp.mean(jnp.sum(params[1] ** 2, 1))

    (params, _), norms = jax.lax.scan(
        body, (params, tx.init(params)), jr.split(batch_key, config.steps)
    )
    out = jax.vmap(lambda x: network(params, x))(x[n:])
    return norms, jnp.mean(jnp.argmax(out, -1) != labels[n:])


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    toy_key, net_key = jr.split(key)
    toy = {
        "SGD": optax.sgd(0.05),
        "momentum": optax.sgd(0.05, 0.9),
        "SGDP": sgdp(0.05, 0.9),
    }
    growth = {
        name: [
            np.asarray(part) for part in jax.jit(lambda k, t=t: norm_growth(config, t, k))(toy_key)
        ]
        for name, t in toy.items()
    }
    ratio = {name: float(found[0] / found[1]) for name, found in growth.items()}

    sgd_rate = optax.cosine_decay_schedule(config.sgd_rate, config.steps)
    adam_rate = optax.cosine_decay_schedule(config.adam_rate, config.steps)
    methods = {
        "SGDM": optax.sgd(sgd_rate, 0.9),
        "SGDP": sgdp(sgd_rate, 0.9),
        "Adam": optax.adam(adam_rate),
        "AdamP": adamp(adam_rate),
    }
    keys = jr.split(net_key, config.seeds)
    trained = {
        name: [
            np.asarray(part) for part in jax.jit(jax.vmap(lambda k, t=t: train(config, t, k)))(keys)
        ]
        for name, t in methods.items()
    }
    grown = {name: float(np.median(norms[:, -1])) for name, (norms, _) in trained.items()}
    error = {name: float(np.median(errors)) for name, (_, errors) in trained.items()}
    log.say(f"squared norms {grown}, test errors {error}")
    claims = [
        Claim(
            "toy: SGDP's norm grows by its updates' lengths alone",
            abs(ratio["SGDP"] - 1),
            "<",
            0.01,
            "|(‖w_T‖² − ‖w₀‖²) / Σ‖update‖² − 1|",
        ),
        Claim(
            "toy: momentum adds a multiple of that",
            ratio["momentum"],
            ">",
            5 * ratio["SGDP"],
            "(‖w_T‖² − ‖w₀‖²) / Σ‖update‖²; 19 for a fixed direction of w",
        ),
    ]
    for plain, ours in (("SGDM", "SGDP"), ("Adam", "AdamP")):
        claims += [
            Claim(
                f"network: {ours}'s weights stay shorter than {plain}'s",
                grown[ours],
                "<",
                grown[plain],
                "mean squared norm of a row, after training",
            ),
            Claim(
                f"network: {ours} is no worse than {plain}",
                error[ours],
                "<=",
                error[plain] + 0.02,
                "test error; target: the baseline's + 0.02",
            ),
        ]
    metrics = {f"toy_growth_{name}": value for name, value in ratio.items()}
    metrics |= {f"norm_{name}": value for name, value in grown.items()}
    metrics |= {f"error_{name}": value for name, value in error.items()}
    return Result(claims, metrics, {}, {"norms": draw(growth, trained)})


def draw(growth: dict, trained: dict) -> Figure:
    """Squared norms over steps, of the function's weight and of the network's rows."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, (_, _, squares) in growth.items():
        axes[0].loglog(np.arange(1, len(squares) + 1), squares, label=name)
    axes[0].set(title="Scale-invariant function", ylabel=r"$\|w\|^2$")
    for name, (norms, _) in trained.items():
        style = "--" if name.endswith("P") else "-"
        color = "C0" if name.startswith("SGD") else "C1"
        axes[1].plot(np.median(norms, 0), style, color=color, label=name)
    axes[1].set(title="Network with normalised rows", ylabel="mean squared norm of a row")
    for axis in axes:
        axis.set_xlabel("step")
        axis.legend()
    return figure
