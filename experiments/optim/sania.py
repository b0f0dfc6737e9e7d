"""SANIA: Polyak-type Optimization Framework Leads to Scale Invariant Stochastic Algorithms

Abdukhakimov, Xiang, Kamzolov, Gower, Takáč, arXiv:2312.17369.

**Claim.** Polyak's step size in the norm of a preconditioner needs no tuning; with the *squared*
matrices of AdaGrad and Adam (no root) the method does not see the units of the features, and is as
fast as tuned Adam.

**What is compared with what.** Separable logistic regression with mini-batches (so that f* = 0 for
each of them), with features of equal scale and with the same features times exp(U(−s, s)):

1. the losses of both runs, step by step, for the squared variants: equal but for rounding where
   weights without a gradient stand still (`eps="zero-safe"`), and far apart with ε = 1e-8 added to
   the diagonal, as in the paper;
2. Adam-SQR against SANIA with Adam's root, and against optax.adam at the best rate of a grid, on
   both data sets.

Medians over several data sets.

**Found besides.** With features of equal scale, where there is nothing to gain, tuned Adam is as
good (either of the two wins by up to a factor of two, depending on the draw). AdaGrad-SQR is nearly
as fast as Adam-SQR here. How much ε = 1e-8 spoils depends on how small the gradients become: 10⁻²
in the loss at this size, where rounding is 10⁻¹⁴. SANIA needs f* = 0 to be true: the data here are
separable.
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
from jaxsci.optim import sania


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes of the problems and the budget."""

    float64: bool = True
    problems: Annotated[int, Between(1, 64)] = 20
    """data sets; medians are compared"""
    samples: Annotated[int, Between(10)] = 200
    """samples of the logistic regression"""
    dimension: Annotated[int, Between(2)] = 20
    """features"""
    spread: Annotated[float, Between(0.0)] = 3.0
    """s: the scales of the features are exp(U(−s, s))"""
    batch: Annotated[int, Between(1)] = 32
    """samples in a mini-batch"""
    steps: Annotated[int, Between(10)] = 200
    """mini-batch steps"""
    rates: tuple[float, ...] = (1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
    """rates tried for optax.adam"""


PRESETS = {
    "smoke": Config(problems=1, samples=40, dimension=3, steps=20, rates=(0.1,)),
    "quick": Config(),
    "full": Config(problems=20, samples=2000, dimension=100, steps=2000, batch=64),
    "paper": Config(
        problems=20, samples=20_000, dimension=500, steps=20_000, batch=128, spread=6.0
    ),
}


def dataset(key: PRNGKeyArray, config: Config) -> tuple[Array, Array, Array, Array]:
    """Features of equal scale, labels ±1 of a linear rule, scales, and the rows of each batch."""
    features_key, rule_key, scale_key, batch_key = jr.split(key, 4)
    features = jr.normal(features_key, (config.samples, config.dimension))
    labels = jnp.sign(features @ jr.normal(rule_key, (config.dimension,)))
    s = config.spread
    scales = jnp.exp(jr.uniform(scale_key, (config.dimension,), minval=-s, maxval=s))
    return (
        features,
        labels,
        scales,
        jr.randint(batch_key, (config.steps, config.batch), 0, config.samples),
    )


def losses(
    tx: optax.GradientTransformation, data: tuple[Array, Array, Array, Array], scaled: Array
):
    """The loss on all samples before each step; `scaled` says whether the features are."""
    features, labels, scales, batches = data
    features = features * jnp.where(scaled, scales, 1)
    update = optax.with_extra_args_support(tx).update

    def loss(w: Float[Array, " d"], rows: Array) -> Float[Array, ""]:
        return jnp.mean(jax.nn.softplus(-labels[rows] * (features[rows] @ w)))

    def body(carry, rows):
        w, state = carry
        value, grad = jax.value_and_grad(loss)(w, rows)
        updates, state = update(
            grad, state, w, value=value, grad=grad, value_fn=lambda w: loss(w, rows)
        )
        return (optax.apply_updates(w, updates), state), loss(w, jnp.arange(len(labels)))

    w = jnp.zeros(features.shape[1])
    return jax.lax.scan(body, (w, tx.init(w)), batches)[1]


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    keys = jr.split(key, config.problems)
    data = jax.jit(jax.vmap(lambda key: dataset(key, config)))(keys)
    scaled = jnp.array([False, True])

    def both(tx: optax.GradientTransformation, data) -> Array:
        """(problems, 2, steps): with features of equal scale, and of different scales."""
        return jax.vmap(jax.vmap(lambda d, s: losses(tx, d, s), (None, 0)), (0, None))(data, scaled)

    methods = {
        "Adam-SQR": sania(precond="adam-sqr", eps="zero-safe"),
        "Adam-SQR, ε = 1e-8": sania(precond="adam-sqr", eps=1e-8, floor="add"),
        "AdaGrad-SQR": sania(precond="adagrad-sqr", eps="zero-safe"),
        "Adam with root": sania(precond="adam", eps="zero-safe"),
    }
    found = {
        name: np.asarray(jax.jit(lambda data, tx=tx: both(tx, data))(data))
        for name, tx in methods.items()
    }
    by_rate = jax.jit(
        lambda rates, data: jax.vmap(lambda rate: both(optax.adam(rate), data))(rates)
    )(jnp.array(config.rates), data)
    tail = max(config.steps // 10, 1)
    adam = np.asarray(by_rate)
    best = np.median(adam[..., -tail:].mean(-1), 1).argmin(0)
    found["optax.adam, best rate"] = np.stack([adam[best[j], :, j] for j in range(2)], 1)

    end = {name: np.median(c[..., -tail:].mean(-1), 0) for name, c in found.items()}
    apart = {
        name: float(np.median(np.max(np.abs(c[:, 1] / c[:, 0] - 1), -1)))
        for name, c in found.items()
    }
    log.say(f"mean loss of the last {tail} steps, equal and different scales: {end}")
    log.say(f"largest relative distance of the two loss curves: {apart}")
    log.say(f"best rates of optax.adam: {[config.rates[i] for i in best]}")
    claims = [
        *(
            Claim(f"{name} does not see the units", apart[name], "<=", 1e-6, "losses of both runs")
            for name in ("Adam-SQR", "AdaGrad-SQR")
        ),
        Claim(
            "an ε on the diagonal spoils the invariance",
            apart["Adam-SQR, ε = 1e-8"],
            ">=",
            1e-5,
            "losses of both runs",
        ),
        Claim(
            "different scales: no root is better than Adam's root",
            end["Adam-SQR"][1],
            "<=",
            end["Adam with root"][1] / 3,
            "loss at the end; target: a third of SANIA's with Adam's root",
        ),
        Claim(
            "different scales: Adam-SQR, untuned, against tuned Adam",
            end["Adam-SQR"][1],
            "<=",
            end["optax.adam, best rate"][1],
            f"loss at the end; Adam's rate is {config.rates[best[1]]:g}",
        ),
        Claim(
            "equal scales: Adam-SQR, untuned, is not far behind tuned Adam",
            end["Adam-SQR"][0],
            "<=",
            4 * end["optax.adam, best rate"][0],
            f"loss at the end; target: four times that of Adam with rate {config.rates[best[0]]:g}",
        ),
    ]
    metrics = {
        f"{name}_{scale}".lower(): float(end[name][j])
        for name in end
        for j, scale in enumerate(("equal", "different"))
    }
    metrics |= {f"{name}_apart".lower(): value for name, value in apart.items()}
    arrays = {f"losses_{i}": c for i, c in enumerate(found.values())}
    return Result(claims, metrics, arrays, {"losses": draw(found)})


def draw(found: dict[str, np.ndarray]) -> Figure:
    """The losses in both units, medians over the data sets."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
    titles = ("Features of equal scale", "The same features in other units")
    for j, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        for name, c in found.items():
            style = "--" if "ε" in name else "-"
            axis.semilogy(np.median(c[:, j], 0), style, label=name, lw=1)
        axis.set(title=title, xlabel="mini-batch step", ylabel="loss on all samples")
    axes[0].legend()
    return figure
