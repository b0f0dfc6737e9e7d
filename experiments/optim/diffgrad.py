"""diffGrad: An Optimization Method for Convolutional Neural Networks

Dubey, Chakraborty, Roy, Mukherjee, Singh, Chaudhuri, arXiv:1909.11015.

**Claim.** A friction that shrinks Adam's step where the gradient has stopped changing keeps the
iterate from overshooting into worse minima.

**What is compared with what.** Adam and diffGrad, same learning rate and moments, on two functions
of one variable with a global and a local minimum in the way, as in the paper's analysis:

    F₁ = (x + 0.3)² for x ≤ 0, else (x − 0.2)² + 0.05
    F₂ = −40 x − 35.15 for x ≤ −0.9, else x³ + x sin 8x + 0.85

from random starting points around −1, with momentum b1 = 0.95.

**Finding.** It depends on the momentum: with b1 = 0.9 both methods stop in F₁'s global minimum, so
the advantage is one of a heavier damping, for which a smaller rate or momentum of Adam serves as
well. The fraction of starts at the global minimum is shown over b1.
"""

from collections.abc import Callable
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
from jaxsci.optim import diffgrad, trajectory


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Starting points, steps, and the rates of both methods."""

    float64: bool = True
    starts: Annotated[int, Between(1)] = 101
    """random starting points"""
    spread: Annotated[float, Between(0.0, 1.0)] = 0.02
    """they lie in −1 ± this"""
    steps: Annotated[int, Between(2)] = 300
    """steps of each run"""
    rate: Annotated[float, Above(0)] = 0.1
    """learning rate"""
    momentum: Annotated[float, Between(0.0, 0.999)] = 0.95
    """b1 of the claims"""


PRESETS = {
    "smoke": Config(starts=3, steps=100),
    "quick": Config(),
    "full": Config(starts=2001, steps=3000),
    "paper": Config(starts=1, spread=0.0),
}


def two_parabolas(x: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(x <= 0, (x + 0.3) ** 2, (x - 0.2) ** 2 + 0.05)


def ripples(x: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(x <= -0.9, -40 * x - 35.15, x**3 + x * jnp.sin(8 * x) + 0.85)


FUNCTIONS = {"F1": two_parabolas, "F2": ripples}


METHODS = {"Adam": optax.adam, "diffGrad": diffgrad}
MOMENTA = np.array([0.8, 0.85, 0.9, 0.925, 0.95, 0.975])


def paths(config: Config, make: Callable, function: Callable, starts: Float[Array, "seeds n"]):
    """Points of all runs and the function there, for a maker of optimisers over b1."""

    @jax.jit
    def run(b1):
        tx = make(config.rate, b1=b1)
        points = jax.vmap(lambda x: trajectory(tx, function, x, config.steps)[0])(starts.ravel())
        values = jax.vmap(jax.vmap(function))(points)
        shape = (*starts.shape, -1)
        return points.reshape(shape), values.reshape(shape)

    return run


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    return run_seeds(config, keys=key[None], log=log)[0]


def run_seeds(config: Config, *, keys: PRNGKeyArray, log: Logger) -> list[Result]:
    """Several seeds in one program: the starting points of all lie in one batch."""
    low, high = -config.spread, config.spread
    starts = -1.0 + jnp.stack(
        [jr.uniform(key, (config.starts,), minval=low, maxval=high) for key in keys]
    )
    final, ends, shown = {}, {}, {}
    for name, function in FUNCTIONS.items():
        for method, make in METHODS.items():
            solve = paths(config, make, function, starts)
            points, values = solve(config.momentum)
            final[name, method] = np.asarray(values[..., -1])
            shown[name, method] = np.asarray(points[:, 0])
            ends[name, method] = np.stack([np.asarray(solve(b1)[1][..., -1]) for b1 in MOMENTA])

    def of_seed(i: int) -> Result:
        # F1's two minima are 0 and 0.05.
        fraction = {pair: np.mean(end[:, i] < 0.025, axis=1) for pair, end in ends.items()}
        return result(
            {pair: value[i] for pair, value in final.items()},
            fraction,
            {pair: path[i] for pair, path in shown.items()},
            log,
        )

    return [of_seed(i) for i in range(len(keys))]


def result(final: dict, fraction: dict, shown: dict, log: Logger) -> Result:
    """Claims, metrics and figure of one seed."""
    median = {pair: float(np.median(values)) for pair, values in final.items()}
    log.say(str(median))
    # F2's minima are 0.0001, 0.47 and 0.85.
    reached = {method: float(np.mean(final["F2", method] < 0.1)) for method in ("Adam", "diffGrad")}
    claims = [
        Claim(
            "F1: Adam stops in the local minimum",
            median["F1", "Adam"],
            ">",
            0.045,
            "median of f at the end; the local minimum has 0.05",
        ),
        Claim(
            "F1: diffGrad finds the global minimum",
            median["F1", "diffGrad"],
            "<",
            1e-3,
            "median of f at the end; the global minimum has 0",
        ),
        Claim(
            "F2: diffGrad finds the global minimum from more starts than Adam",
            reached["diffGrad"],
            ">",
            reached["Adam"],
            "fractions of the random starts",
        ),
    ]
    metrics = {f"{name}_{method}": value for (name, method), value in median.items()}
    metrics |= {f"F2_global_{method}": value for method, value in reached.items()}
    for b1, adam, ours in zip(
        MOMENTA, fraction["F1", "Adam"], fraction["F1", "diffGrad"], strict=True
    ):
        metrics[f"F1_global_b1_{b1:g}_Adam"] = float(adam)
        metrics[f"F1_global_b1_{b1:g}_diffGrad"] = float(ours)
    return Result(claims, metrics, {}, {"paths": draw(shown, MOMENTA, fraction)})


def draw(shown: dict, momenta: np.ndarray, fraction: dict) -> Figure:
    """One run on each function, and how often F1's global minimum is found over b1."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for axis, (name, function) in zip(axes, FUNCTIONS.items(), strict=False):
        x = np.linspace(-1.05, 0.8, 600)
        axis.plot(x, jax.vmap(function)(jnp.asarray(x)), color="grey", lw=1)
        for method in ("Adam", "diffGrad"):
            path = shown[name, method]
            heights = np.asarray(jax.vmap(function)(jnp.asarray(path)))
            line = axis.plot(path, heights, ".", ms=3, alpha=0.6, label=method)[0]
            axis.plot(path[-1], heights[-1], "o", ms=9, mfc="none", color=line.get_color())
        axis.set(title=f"{name}; rings: the end", xlabel="$x$", ylim=(-0.2, 1.6))
        axis.legend()
    for method in ("Adam", "diffGrad"):
        axes[2].plot(momenta, fraction["F1", method], "o-", label=method)
    axes[2].set(xlabel="$b_1$", ylabel="fraction at F1's global minimum")
    axes[2].legend()
    return figure
