"""Convergence Guarantees for RMSProp and Adam in Generalized-smooth Non-convex Optimization with Affine Noise Variance

Zhang, Zhou, Zou, arXiv:2404.01436.

**Claim.** With η = c/T^½ and 1 − b2 = 1/T^½, RMSProp and Adam reach (1/T) Σ E‖∇f‖ = O(T^(−1/4)),
without a bound on the gradients, for functions whose smoothness grows with the gradient and noise
that does as well.

**What is compared with what.** f = Σ cosh x_i from far away (gradients up to 200), with noise
E g_i² = D0 + D1 (∂_i f)²; the mean of ‖∇f‖ over *all* steps, for several T, of RMSProp, Adam, and
SGD with the same η. The slope in T is compared with −1/4. On that function and noise, the
estimators of (L0, L1) and (D0, D1) are compared with the constants, which are known there.
"""  # noqa: E501

from collections.abc import Callable
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
from jaxsci.optim import (
    adam_schedule,
    estimate_affine_noise,
    estimate_generalised_smoothness,
    rmsprop_schedule,
    trajectory,
)


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Lengths of the runs and the noise."""

    lengths: tuple[int, ...] = (1000, 4000, 16_000)
    """numbers of steps T"""
    paths: Annotated[int, Between(1)] = 40
    """independent runs, whose mean is taken"""
    dimension: Annotated[int, Between(1)] = 10
    """variables"""
    D0: Annotated[float, Between(0.0)] = 1.0
    """noise at gradient zero"""
    D1: Annotated[float, Between(1.0)] = 4.0
    """E g² relative to (∂f)² for large gradients; 1 is no noise"""


PRESETS = {
    "smoke": Config(lengths=(16, 64), paths=2, dimension=2),
    "quick": Config(),
    "full": Config(lengths=(1000, 4000, 16_000, 64_000), paths=100),
    "paper": Config(lengths=(1000, 4000, 16_000, 64_000, 256_000, 1_024_000), paths=400),
}


def cosh_sum(x: Float[Array, " d"]) -> Array:
    """The sum of cosh x_i, of which |f''| ≤ 1 + |f'| in every coordinate."""
    return jnp.sum(jnp.cosh(x))


def noisy(config: Config, gradient: Array, key: PRNGKeyArray) -> Array:
    """The gradient g with E g = ∂f and E g² = D0 + D1 (∂f)²."""
    first, second = jr.normal(key, (2, *gradient.shape))
    return gradient * (1 + (config.D1 - 1) ** 0.5 * first) + config.D0**0.5 * second


def mean_norm(config: Config, make: Callable[[int], Any], T: int, key: PRNGKeyArray) -> Array:
    """The mean of ‖∇f‖ over all steps, for every path."""
    tx = make(T)

    def path(key: PRNGKeyArray) -> Array:
        start_key, noise_key = jr.split(key)
        x = jr.uniform(start_key, (config.dimension,), minval=3.0, maxval=6.0)

        def body(carry, key):
            x, state, total = carry
            gradient = jnp.sinh(x)
            updates, state = tx.update(noisy(config, gradient, key), state, x)
            return (x + updates, state, total + jnp.linalg.norm(gradient)), None

        carry = (x, tx.init(x), jnp.zeros(()))
        return jax.lax.scan(body, carry, jr.split(noise_key, T))[0][2] / T

    return jax.jit(jax.vmap(path))(jr.split(key, config.paths))


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    methods = {
        "RMSProp": rmsprop_schedule,
        "Adam": adam_schedule,
        "SGD": lambda T: optax.sgd(T**-0.5),
    }
    norms = {name: [] for name in methods}
    for name, make in methods.items():
        for T in config.lengths:
            found = mean_norm(config, make, T, jr.fold_in(key, T))
            norms[name].append(float(jnp.mean(found)))
        log.say(f"{name}: mean of |∇f| for T = {config.lengths}: {norms[name]}")
    slopes = {
        name: float(np.polyfit(np.log(config.lengths), np.log(norms[name]), 1)[0])
        for name in ("RMSProp", "Adam")
    }

    # The assumptions, along a run of RMSProp.
    path_key, noise_key = jr.split(jr.fold_in(key, 0))
    T = config.lengths[0]
    start = jnp.linspace(3.0, 6.0, config.dimension)
    points, _ = jax.jit(lambda x: trajectory(rmsprop_schedule(T), cosh_sum, x, T))(start)
    every = points[:: max(1, T // 400)]
    L0, L1 = jax.jit(lambda p: estimate_generalised_smoothness(cosh_sum, p, path_key))(every)
    levels = jnp.linspace(0, 10, 40)[:, None, None] * jnp.ones((1, 2000, config.dimension))
    D0, D1 = estimate_affine_noise(noisy(config, levels, noise_key))
    constants = {
        name: float(jnp.median(value))
        for name, value in {"L0": L0, "L1": L1, "D0": D0, "D1": D1}.items()
    }
    log.say(f"slopes in T {slopes}; constants {constants}")
    finite = sum(bool(np.isfinite(v)) for v in norms["SGD"])
    claims = [
        *(
            Claim(
                f"{name}: slope of the mean gradient norm in T",
                slope,
                "<=",
                -0.22,
                "the guarantee is −1/4; target with a margin for few T",
            )
            for name, slope in slopes.items()
        ),
        Claim("SGD with the same rate diverges", finite, "==", 0, "runs that stay finite"),
        Claim("L1 of cosh", abs(constants["L1"] - 1), "<=", 0.3, "deviation from 1"),
        Claim(
            "D1 of the noise",
            abs(constants["D1"] / config.D1 - 1),
            "<=",
            0.1,
            "relative deviation from the true one",
        ),
    ]
    metrics = {f"slope_{name.lower()}": slope for name, slope in slopes.items()}
    for name in ("RMSProp", "Adam"):
        for T, value in zip(config.lengths, norms[name], strict=True):
            metrics[f"norm_{name.lower()}_{T}"] = value
    metrics |= constants
    arrays = {name.lower(): np.array(values) for name, values in norms.items()}
    figure = draw(config, norms, slopes, every, constants)
    return Result(claims, metrics, arrays, {"convergence": figure})


def draw(
    config: Config,
    norms: dict[str, list[float]],
    slopes: dict[str, float],
    points: Float[Array, "n d"],
    constants: dict[str, float],
) -> Figure:
    """Mean gradient norms over T, and the curvature over the gradient with the fitted line."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, slope in slopes.items():
        axes[0].loglog(config.lengths, norms[name], "o-", label=f"{name}, slope {slope:.2f}")
    T = np.array(config.lengths)
    guarantee = norms["RMSProp"][0] * (T / T[0]) ** -0.25
    axes[0].loglog(T, guarantee, "k:", label="slope −1/4")
    axes[0].set(
        xlabel="steps $T$",
        ylabel="mean of $|\\nabla f|$ over all steps",
        title="Convergence (SGD with this rate diverges)",
    )
    axes[0].set_xticks(T, T)
    axes[0].xaxis.set_minor_formatter("")
    axes[0].legend()
    slope = np.abs(np.sinh(np.asarray(points))).ravel()
    axes[1].plot(slope, np.cosh(np.asarray(points)).ravel(), ".", ms=3, label="along a run")
    line = np.linspace(0, slope.max(), 2)
    fitted = constants["L0"] + constants["L1"] * line
    axes[1].plot(line, fitted, label=f"{constants['L0']:.2g} + {constants['L1']:.3g} |∂f|")
    axes[1].set(xlabel="|∂f|", ylabel="|∂²f|", title="Generalised smoothness of cosh")
    axes[1].legend()
    return figure
