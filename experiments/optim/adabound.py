"""Adaptive Gradient Methods with Dynamic Bound of Learning Rate

Luo, Xiong, Liu, Sun, arXiv:1902.09843 (ICLR 2019).

**Claim.** Adam does not converge on some convex problems; clipping its rates between bounds that
close on a rate of SGD mends that and keeps its fast start.

**What is compared with what.**

1. *Reddi's online problem*: losses f_t(x) = 4x in one round of three and −x in the others, on
   [−1, 1]; the best point is −1. All methods have the rate ½/√t, b1 = 0, b2 = 1/17; the
   mean of x over the last tenth of the rounds is compared. The order of the rounds is fixed, as in
   the proof, and every starting point is random.
2. *An ill-conditioned least-squares problem* with mini-batches: the loss after few steps against
   SGD's (the fast start), and at the end against Adam's.

The paper's image classification is not repeated here.
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
from jaxsci.experiment import Between, Claim, Logger, Result
from jaxsci.optim import adabound


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Lengths of the two comparisons."""

    rounds: Annotated[int, Between(30)] = 20_000
    """rounds of the online problem"""
    starts: Annotated[int, Between(1, 1000)] = 5
    """random starting points of the online problem, and regression problems"""
    steps: Annotated[int, Between(20)] = 4000
    """mini-batch steps of the regression"""
    dimension: Annotated[int, Between(2)] = 30
    """its weights"""
    batch: Annotated[int, Between(1)] = 16
    """its batch size"""


PRESETS = {
    "smoke": Config(rounds=300, starts=1, steps=50, dimension=4),
    "quick": Config(),
    "full": Config(rounds=200_000, starts=20, steps=20_000, dimension=100),
    "paper": Config(rounds=5_000_000, starts=20, steps=200_000, dimension=100),
}


def decaying(rate: float) -> optax.Schedule:
    return lambda count: rate / jnp.sqrt(count + 1.0)


def online(config: Config, tx: optax.GradientTransformation, x0: Float[Array, " starts"]):
    """The points x_t, projected to [−1, 1] after each step."""

    def body(carry, t):
        x, state = carry
        slope = jnp.where(t % 3 == 0, 4.0, -1.0)
        updates, state = tx.update(slope * jnp.ones_like(x), state, x)
        x = optax.projections.projection_box(optax.apply_updates(x, updates), -1.0, 1.0)
        return (x, state), x

    return jax.lax.scan(body, (x0, tx.init(x0)), jnp.arange(config.rounds))[1]


def regression(config: Config, tx: optax.GradientTransformation, key: PRNGKeyArray):
    """Expected loss Σ c_i (w_i − w*_i)²/2 over steps with the gradients of mini-batches."""
    curvature = jnp.geomspace(0.01, 1, config.dimension)
    target_key, batch_key = jr.split(key)
    target = jr.normal(target_key, (config.dimension,))

    def body(carry, key):
        w, state = carry
        x = jr.normal(key, (config.batch, config.dimension)) * jnp.sqrt(curvature)
        noise = 0.5 * jr.normal(jr.fold_in(key, 1), (config.batch,))
        gradient = x.T @ (x @ (w - target) - noise) / config.batch
        updates, state = tx.update(gradient, state, w)
        w = w + jnp.asarray(updates)
        return (w, state), jnp.sum(curvature * (w - target) ** 2) / 2

    w0 = jnp.zeros(config.dimension)
    return jax.lax.scan(body, (w0, tx.init(w0)), jr.split(batch_key, config.steps))[1]


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    start_key, data_key = jr.split(key)
    x0 = jr.uniform(start_key, (config.starts,), minval=-1.0)
    b1, b2 = 0.0, 1 / 17
    rate = decaying(0.5)
    methods = {
        "Adam": optax.adam(rate, b1, b2),
        "AMSGrad": optax.amsgrad(rate, b1, b2),
        "SGD": optax.sgd(rate),
        "AdaBound": adabound(rate, 0.5, b1, b2, base_lr=0.5),
        "AMSBound": adabound(rate, 0.5, b1, b2, base_lr=0.5, amsbound=True),
    }
    paths = {
        name: np.asarray(jax.jit(lambda x, tx=tx: online(config, tx, x))(x0))
        for name, tx in methods.items()
    }
    tail = {name: path[-config.rounds // 10 :].mean(0) for name, path in paths.items()}
    log.say(f"online, mean of the last tenth: { {n: t.tolist() for n, t in tail.items()} }")
    claims = [
        Claim("online: Adam runs to the worst point", tail["Adam"].min(), ">", 0.9, "best is −1"),
        *(
            Claim(f"online: {name} finds the best point", tail[name].max(), "<", -0.9)
            for name in ("AMSGrad", "SGD", "AdaBound", "AMSBound")
        ),
    ]

    keys = jr.split(data_key, config.starts)
    methods = {
        "SGD": optax.sgd(0.05),
        "Adam": optax.adam(0.05),
        "AdaBound": adabound(0.05, final_lr=0.05, gamma=5e-3),
    }
    losses = {
        name: np.asarray(jax.jit(jax.vmap(lambda k, tx=tx: regression(config, tx, k)))(keys))
        for name, tx in methods.items()
    }
    early, late = config.steps // 20, config.steps // 10
    start = {name: float(np.median(loss[:, early])) for name, loss in losses.items()}
    end = {name: float(np.median(loss[:, -late:].mean(1))) for name, loss in losses.items()}
    claims += [
        Claim(
            "regression: AdaBound starts faster than SGD",
            start["AdaBound"],
            "<",
            start["SGD"],
            f"loss after {early} steps",
        ),
        Claim(
            "regression: AdaBound ends below Adam",
            end["AdaBound"],
            "<",
            end["Adam"],
            f"mean loss of the last {late} steps",
        ),
    ]
    metrics = {f"online_{name}": float(np.median(value)) for name, value in tail.items()}
    metrics |= {f"regression_end_{name}": value for name, value in end.items()}
    return Result(claims, metrics, {}, {"paths": draw(paths, losses)})


def draw(paths: dict[str, np.ndarray], losses: dict[str, np.ndarray]) -> Figure:
    """The points of the online problem, and the losses of the regression."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, path in paths.items():
        mean = path[: len(path) // 3 * 3, 0].reshape(-1, 3).mean(1)
        axes[0].semilogx(3 * np.arange(1, len(mean) + 1), mean, label=name)
    axes[0].set(xlabel="round", ylabel="$x$, mean of three rounds", title="Online problem")
    for name, loss in losses.items():
        axes[1].loglog(np.arange(1, loss.shape[1] + 1), np.median(loss, 0), label=name, lw=1)
    axes[1].set(xlabel="step", ylabel="loss above the optimum", title="Regression, mini-batches")
    for axis in axes:
        axis.legend()
    return figure
