"""Sqrt(d) Dimension Dependence of Langevin Monte Carlo

Li, Zha and Tao, arXiv:2109.03839.

**Claim.** For a strongly convex, smooth U whose third derivatives grow at most linearly, unadjusted
Langevin is off by W₂ ≤ C d^½ h, and so reaches ε in Õ(d^½/ε) steps, without a warm start. Earlier
bounds had (h d)^½ or h d.

**What is compared with what.** No W₂ is estimated from samples (hopeless in many dimensions):

1. *Normal targets* with random precisions in [1, 4]: the law of the k-th step is known, and so the
   least number of steps to W₂ ≤ ε over all h, from a start at the mode. The exponents of d and 1/ε
   are fitted after the factor log(W₂(0)/ε) is divided out, as in the theorem's Õ.
2. *A product*, U = Σ xᵢ²/2 + log cosh(m xᵢ), m random: the stationary law of a coordinate from its
   transition density; W₂ is d^½ times that of a coordinate. The exponent of h.
3. *Not a product*, U = |x|²/2 + log(1 + exp(aᵀx)), a random of length 3: the mean square distance
   to a chain with steps of h/16 that is driven by the same noise (it bounds W₂). Exponents of h, d.

**Found.** A first run with d from 4 and h up to 0.4 gave the exponents 0.45 of d and 1.095 of h in
the second and third part: the ridge adds an error that does not depend on d, and h = 0.4 is not yet
asymptotic. The sizes here are d from 16 and h up to 0.2; the targets are unchanged.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxsci import experiment
from jaxsci.dynamics import stationary_law_1d, ula_gaussian_law, w2_1d, w2_gaussian
from jaxsci.experiment import Between, Claim, Logger, Result


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    float64: bool = True
    dimensions: tuple[int, ...] = (64, 256, 1024, 4096)
    """of the normal targets"""
    accuracies: tuple[float, ...] = (0.3, 0.1, 0.03, 0.01)
    """values of ε"""
    steps: tuple[float, ...] = (0.2, 0.1, 0.05, 0.025)
    """values of h of the product"""
    grid: Annotated[int, Between(101, 10001)] = 601
    """points of the transition density"""
    coupled_dimensions: tuple[int, ...] = (16, 64, 256)
    """of the target that is no product"""
    coupled_steps: tuple[float, ...] = (0.2, 0.1, 0.05)
    """values of h of the coupled chains"""
    chains: Annotated[int, Between(1, 100_000)] = 8
    """coupled chains; each counts its last half of the time"""
    duration: Annotated[float, Between(1.0)] = 16.0
    """time of the coupled chains"""


PRESETS = {
    "smoke": Config(
        dimensions=(4, 16),
        accuracies=(0.3, 0.1),
        steps=(0.4, 0.2),
        grid=301,
        coupled_dimensions=(2, 4),
        coupled_steps=(0.2, 0.1),
        chains=4,
        duration=2.0,
    ),
    "quick": Config(),
    "full": Config(dimensions=(16, 64, 256, 1024, 4096, 16384), chains=256, duration=32.0),
    "paper": Config(
        dimensions=(16, 64, 256, 1024, 4096, 16384, 65536),
        accuracies=(0.3, 0.1, 0.03, 0.01, 0.003, 0.001),
        coupled_dimensions=(16, 64, 256, 1024, 4096),
        chains=1024,
        duration=64.0,
    ),
}


def least_steps(precisions, accuracy):
    """Steps to W₂ ≤ ε from the mode, for the best of many step sizes."""
    target = 1 / precisions
    # The bias decides the largest useful h; the best is a constant factor below it.
    unit = w2_gaussian(ula_gaussian_law(precisions, 1e-3, np.inf), target) / 1e-3
    best = np.inf
    for h in accuracy / unit * np.geomspace(0.1, 1.5, 80):
        if h >= 2 / precisions.max():
            continue

        def far(k, h=h):
            return w2_gaussian(ula_gaussian_law(precisions, h, k), target) > accuracy

        low, high = 0, 1
        while far(high) and high < min(best, 1e8):
            low, high = high, 2 * high
        while high - low > 1 and not far(high):
            middle = (low + high) // 2
            low, high = (middle, high) if far(middle) else (low, middle)
        if not far(high):
            best = min(best, high)
    return best


def exponent(x, y):
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def coupled_distance(key, direction, h, config):
    """Root mean square of |X − Y|, X with steps h and Y with h/16, in the last half of the time."""
    ratio, d = 16, direction.shape[0]

    def drift(x):
        return x + jax.nn.sigmoid(x @ direction)[:, None] * direction

    def coarse(carry, key):
        x, y = carry
        noise = jr.normal(key, (ratio, config.chains, d)) * jnp.sqrt(2 * h / ratio)

        def fine(y, xi):
            return y - h / ratio * drift(y) + xi, None

        x = x - h * drift(x) + jnp.sum(noise, 0)
        y, _ = jax.lax.scan(fine, y, noise)
        return (x, y), jnp.mean(jnp.sum((x - y) ** 2, 1))

    start = jnp.zeros((config.chains, d))
    keys = jr.split(key, round(config.duration / h))
    _, squares = jax.lax.scan(coarse, (start, start), keys)
    return jnp.sqrt(jnp.mean(squares[len(keys) // 2 :]))


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    keys = jr.split(key, 4)
    rng = np.random.default_rng(np.asarray(jr.bits(keys[0], (2,))))
    counts = np.empty((len(config.dimensions), len(config.accuracies)))
    scaled = np.empty_like(counts)
    for i, d in enumerate(config.dimensions):
        precisions = rng.uniform(1, 4, d)
        first = np.sqrt(np.sum(1 / precisions))
        for j, accuracy in enumerate(config.accuracies):
            counts[i, j] = least_steps(precisions, accuracy)
            scaled[i, j] = counts[i, j] / np.log(first / accuracy)
    in_d = exponent(config.dimensions, scaled[:, -1])
    in_accuracy = exponent(1 / np.array(config.accuracies), scaled[-1])
    log.say(f"normal targets: steps as d^{in_d:.3f} and (1/eps)^{in_accuracy:.3f}")

    m = float(rng.uniform(0.7, 1.3))
    grid = np.linspace(-8, 8, config.grid)
    true = np.exp(-(grid**2) / 2) / np.cosh(m * grid)
    product = [
        w2_1d(grid, stationary_law_1d(lambda x: x + m * np.tanh(m * x), h, grid), true)
        for h in config.steps
    ]
    in_h = exponent(config.steps, product)
    log.say("product: W2 of a coordinate " + "  ".join(f"{w:.4f}" for w in product))

    distances = np.empty((len(config.coupled_dimensions), len(config.coupled_steps)))
    jitted = jax.jit(coupled_distance, static_argnums=(2, 3))
    for i, d in enumerate(config.coupled_dimensions):
        direction = jr.normal(jr.fold_in(keys[1], d), (d,))
        direction = 3 * direction / jnp.linalg.norm(direction)
        for j, h in enumerate(config.coupled_steps):
            noise_key = jr.key(jr.bits(jr.fold_in(keys[2], 100 * d + j)), impl="rbg")
            distances[i, j] = jitted(noise_key, direction, h, config)
    coupled_h = exponent(config.coupled_steps, distances[-1])
    coupled_d = exponent(config.coupled_dimensions, distances[:, -1])

    target = 0.05
    claims = [
        Claim("normal: steps grow as the square root of d", abs(in_d - 0.5), "<=", target,
              f"exponent {in_d:.3f}"),
        Claim("normal: steps grow as 1/eps", abs(in_accuracy - 1), "<=", 0.1,
              f"exponent {in_accuracy:.3f}"),
        Claim("product: the error is proportional to h", abs(in_h - 1), "<=", 0.1,
              f"exponent {in_h:.3f}"),
        Claim("not a product: the error is proportional to h", abs(coupled_h - 1), "<=", 0.1,
              f"exponent {coupled_h:.3f}, of a coupling with steps of h/16"),
        Claim("not a product: the error grows as the square root of d", abs(coupled_d - 0.5), "<=",
              target, f"exponent {coupled_d:.3f}"),
    ]  # fmt: skip
    metrics = {
        "exponent of d": in_d,
        "exponent of 1/eps": in_accuracy,
        "exponent of h, product": in_h,
        "exponent of h, coupled": coupled_h,
        "exponent of d, coupled": coupled_d,
    }
    arrays = {"steps": counts, "product": np.array(product), "coupled": distances}
    return Result(claims, metrics, arrays, {"exponents": plot(config, counts, product, distances)})


def plot(config, counts, product, distances):
    figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.7), layout="constrained")
    d = np.array(config.dimensions)
    for j, accuracy in enumerate(config.accuracies):
        axes[0].loglog(d, counts[:, j], "o-", label=f"$W_2 \\leq {accuracy:g}$")
    axes[0].loglog(d, counts[0, 0] * np.sqrt(d / d[0]) / 2, "k:", label="slope 1/2")
    axes[0].set(title="Normal: least number of steps", xlabel="dimension $d$", ylabel="steps")
    h = np.array(config.steps)
    axes[1].loglog(h, product, "o-", label="one coordinate")
    axes[1].loglog(h, product[-1] * h / h[-1], "k:", label="slope 1")
    axes[1].set(title="Product: error of the stationary law", xlabel="step $h$", ylabel="$W_2$")
    d = np.array(config.coupled_dimensions)
    for j, step in enumerate(config.coupled_steps):
        axes[2].loglog(d, distances[:, j], "o-", label=f"$h = {step:g}$")
    axes[2].loglog(d, distances[0, 0] * np.sqrt(d / d[0]) * 1.3, "k:", label="slope 1/2")
    axes[2].set(title="Not a product: coupled chains", xlabel="dimension $d$", ylabel="distance")
    axes[1].set_xticks(h, [f"{x:g}" for x in h])
    axes[2].set_xticks(d, [str(x) for x in d])
    for axis in axes[1:]:
        axis.xaxis.set_minor_formatter("")
    for axis in axes:
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    return figure
