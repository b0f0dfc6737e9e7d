"""Thermodynamic Natural Gradient Descent

Donatella, Duffield, Aifer, Melanson, Crooks, Coles, arXiv:2405.13817.

**Claim.** An Ornstein-Uhlenbeck process, which an analog device runs by itself, solves the linear
system of natural gradient descent; the time it is given interpolates between gradient descent and
the natural gradient.

**What is compared with what.**

1. *One direction*, for a matrix with eigenvalues from 0.1 to 10 in a random basis: its cosine with
   the gradient and with the natural gradient over time, its error at a late time, and Euler's
   method on both sides of its limit of stability, 2/λ_max.
2. *Training* a small network on handwritten digits with mini-batches and the Gauss-Newton matrix:
   loss over all training data after equally many steps for several times t at one learning rate,
   against the natural gradient from converged conjugate gradients at the same. For context Adam,
   and the paper's hybrid (TNGD's direction given to Adam), each with the best of several rates:
   both end below the natural gradient with its fixed rate. Medians over several seeds.

The device is simulated, so nothing here is about speed: the number of products with the matrix that
the simulation took is reported. The paper's larger networks and language models are not repeated.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import PRNGKeyArray
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.autodiff import GaussNewton
from jaxsci.experiment import Above, Between, Claim, Logger, Result
from jaxsci.optim import ou_euler, ou_exact, scale_by_tngd, tngd
from jaxsci.train import digits


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes of the two comparisons."""

    dimension: Annotated[int, Between(2)] = 8
    """of the single direction"""
    times: tuple[float, ...] = (0.0, 1.0, 10.0, 100.0)
    """times t of the training; each tenfold or so"""
    width: Annotated[int, Between(1)] = 16
    """neurons of the network's hidden layer"""
    batch: Annotated[int, Between(1, 1297)] = 64
    """samples in a mini-batch"""
    steps: Annotated[int, Between(1)] = 100
    """mini-batch steps"""
    rate: Annotated[float, Above(0)] = 0.2
    """learning rate of all times and of the natural gradient"""
    damping: Annotated[float, Above(0)] = 0.1
    """damping λ"""
    rank: Annotated[int, Between(1)] = 20
    """products with the matrix for one direction"""
    iterations: Annotated[int, Between(1)] = 60
    """at most so many iterations of conjugate gradients"""
    seeds: Annotated[int, Between(1, 32)] = 3
    """trainings side by side"""
    context: bool = True
    """also train with Adam and with the hybrid"""


PRESETS = {
    "smoke": Config(
        times=(0.0, 10.0), width=4, batch=16, steps=3, seeds=1, rank=5, iterations=10, context=False
    ),
    "quick": Config(),
    "full": Config(width=32, steps=300, seeds=5, rank=40, iterations=150),
    "paper": Config(width=256, steps=2000, seeds=5, rank=100, iterations=500),
}
TRAINING = 1297


def one_direction(config: Config, key: PRNGKeyArray):
    """Cosines over time, the late error, and Euler's results below and above the limit."""
    basis_key, b_key = jr.split(key)
    d = config.dimension
    basis = jnp.linalg.qr(jr.normal(basis_key, (d, d)))[0]
    matrix = basis @ jnp.diag(jnp.geomspace(0.1, 10, d)) @ basis.T
    # All eigenvectors take part, so that the picture is that of the spectrum and not of chance.
    b = basis @ jnp.sign(jr.normal(b_key, (d,)))
    natural = basis @ ((basis.T @ b) / jnp.geomspace(0.1, 10, d))
    operator = lx.FunctionLinearOperator(
        lambda v: matrix @ v, jax.eval_shape(lambda: b), lx.symmetric_tag
    )

    def cosine(x, y):
        return x @ y / jnp.linalg.norm(x) / jnp.linalg.norm(y)

    times = jnp.append(0.0, jnp.geomspace(1e-2, 100, 60))
    found = jax.vmap(lambda t: ou_exact(operator, b, b, t, rank=d))(times)
    cosines = jax.vmap(lambda x: jnp.array([cosine(x, b), cosine(x, natural)]))(found)
    error = jnp.linalg.norm(found[-1] - natural) / jnp.linalg.norm(natural)
    euler = [
        jnp.linalg.norm(ou_euler(operator, b, b, dt, 2000) - natural) / jnp.linalg.norm(natural)
        for dt in (0.19, 0.21)
    ]
    return times, cosines, error, euler


def training_digits(key: PRNGKeyArray):
    images, labels = digits(key)
    return images[:TRAINING] - 0.3, labels[:TRAINING]  # about centred


def natural_gradient(config: Config) -> optax.GradientTransformationExtraArgs:
    """(G + λ I)⁻¹ g by conjugate gradients, the baseline."""

    def update(updates, state, params=None, **extra):
        matrix = GaussNewton().at(params, **extra)
        flat, unravel = ravel_pytree(updates)

        def product(v):
            return ravel_pytree(matrix.mv(unravel(v)))[0] + config.damping * v

        x, _ = jax.scipy.sparse.linalg.cg(product, flat, tol=1e-6, maxiter=config.iterations)
        return unravel(-config.rate * x), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def starts(config: Config, keys: PRNGKeyArray):
    """Data, weights and a key for each seed, stacked; and the network without its weights."""

    def network(key: PRNGKeyArray):
        return eqx.nn.MLP(64, 10, config.width, 1, activation=jnp.tanh, key=key)

    def one(key: PRNGKeyArray):
        data_key, model_key, batch_key = jr.split(key, 3)
        params = eqx.filter(network(model_key), eqx.is_inexact_array)
        return {"data": training_digits(data_key), "params": params, "key": batch_key}

    static = eqx.filter(network(keys[0]), eqx.is_inexact_array, inverse=True)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(one, keys)), static


def train(config: Config, tx, static, start):
    """The loss over all training data, 20 times in a training."""
    images, labels = start["data"]
    tx = optax.with_extra_args_support(tx)

    def logits(params, images):
        return jax.vmap(eqx.combine(params, static))(images)

    def loss(outputs, labels):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))

    def body(carry, chosen):
        params, state = carry
        grads = jax.grad(lambda p: loss(logits(p, images[chosen]), labels[chosen]))(params)
        updates, state = tx.update(
            grads,
            state,
            params,
            model_fn=lambda p: logits(p, images[chosen]),
            outer_fn=lambda outputs: loss(outputs, labels[chosen]),
        )
        return (optax.apply_updates(params, updates), state), None

    def several(carry, chosen):
        carry, _ = jax.lax.scan(body, carry, chosen)
        return carry, loss(logits(carry[0], images), labels)

    per = max(1, config.steps // 20)
    chosen = jr.randint(start["key"], (config.steps // per, per, config.batch), 0, TRAINING)
    params = start["params"]
    return jax.lax.scan(several, (params, tx.init(params)), chosen)[1]


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    direction_key, *seeds = jr.split(key, config.seeds + 1)
    begin, static = starts(config, jnp.stack(seeds))
    times, cosines, error, (stable, unstable) = one_direction(config, direction_key)
    log.say(f"cosines with the gradient and the natural gradient: {cosines[0]} to {cosines[-1]}")

    def curves(make, values):
        both = jax.vmap(
            jax.vmap(lambda v, start: train(config, make(v), static, start), (None, 0)), (0, None)
        )
        return np.asarray(jax.jit(both)(jnp.asarray(values), begin))

    def optimizer(time):
        return tngd(config.rate, config.damping, time, rank=config.rank, init="gradient")

    def hybrid(rate):
        direction = scale_by_tngd(config.damping, 100.0, rank=config.rank, init="gradient")
        return optax.chain(direction, optax.scale_by_adam(), optax.scale(-rate))

    tngd_curves = curves(optimizer, config.times)
    natural = curves(lambda _: natural_gradient(config), [0.0])[0]
    rates = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    others = {"Adam": optax.adam, "t = 100, then Adam": hybrid} if config.context else {}
    best = {}
    for name, make in others.items():
        found = curves(make, rates)
        best[name] = found[int(np.argmin(np.median(found[..., -1], 1)))]
    finals = [float(np.median(curve[:, -1])) for curve in tngd_curves]
    exact = float(np.median(natural[:, -1]))
    log.say(f"losses at times {config.times}: {finals}; natural gradient: {exact}")

    worst = max(b / a for a, b in pairwise(finals))
    claims = [
        Claim("t = 0 is the gradient", float(cosines[0, 0]), ">=", 1 - 1e-5, "cosine"),
        Claim("t = 100 is the natural gradient", error, "<=", 1e-3, "relative error"),
        Claim(
            "in between, the cosine with the natural gradient grows",
            float(np.min(np.diff(cosines[:, 1]))),
            ">=",
            -1e-5,
            "least increase from one of 61 times to the next; target: rounding",
        ),
        Claim("Euler's method is stable below 2/λ_max", stable, "<=", 1e-3, "error at dt = 0.19"),
        Claim(
            "and not above",
            float(np.where(unstable < 1e30, unstable, 1e30)),
            ">=",
            1e3,
            "error after 2000 steps at dt = 0.21",
        ),
        Claim(
            "training: a longer time gives a lower loss",
            worst,
            "<=",
            1.05,
            "largest ratio of the loss at one time to that at the time before, medians over seeds",
        ),
        Claim(
            "training: the longest time is as good as converged conjugate gradients",
            abs(finals[-1] / exact - 1),
            "<=",
            0.05,
            "relative difference of the median losses",
        ),
    ]
    metrics = {f"loss_t{time:g}": loss for time, loss in zip(config.times, finals, strict=True)}
    metrics |= {
        "loss_natural_gradient": exact,
        "products_per_step": config.rank + 1,
    }
    losses = zip(("loss_adam", "loss_tngd_adam"), best.values(), strict=False)
    metrics |= {name: float(np.median(curve[:, -1])) for name, curve in losses}
    lines = {f"t = {t:g}": c for t, c in zip(config.times, tngd_curves, strict=True)}
    lines |= {"natural gradient (CG)": natural, **best}
    return Result(claims, metrics, {}, {"times": draw(config, times, cosines, lines)})


def draw(config: Config, times, cosines, lines) -> Figure:
    """Cosines over time, and losses over steps."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    axes[0].semilogx(times[1:], cosines[1:, 0], label="with the gradient")
    axes[0].semilogx(times[1:], cosines[1:, 1], label="with the natural gradient")
    axes[0].set(xlabel="time $t$ of the process", ylabel="cosine of the direction",
                title="From the gradient to the natural gradient")  # fmt: skip
    axes[0].legend()
    per = max(1, config.steps // 20)
    for name, curve in lines.items():
        steps = per * np.arange(1, curve.shape[1] + 1)
        style = "--" if "natural" in name else ":" if "Adam" in name else "-"
        axes[1].semilogy(steps, np.median(curve, 0), style, label=name)
    axes[1].set(xlabel="step", ylabel="training loss", title="Digits, medians over seeds")
    axes[1].legend(loc="lower left", fontsize="small")
    return figure
