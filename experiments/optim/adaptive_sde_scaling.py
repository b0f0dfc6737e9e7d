"""On the SDEs and Scaling Rules for Adaptive Gradient Algorithms

Malladi, Lyu, Panigrahi, Arora, arXiv:2205.10287 (NeurIPS 2022).

**Claim.** RMSprop and Adam follow SDEs, from which comes how their hyperparameters have to change
with the batch size: the rate as the square root, and 1 − b1, 1 − b2 in proportion.

**What is compared with what.** Adam on a quadratic with noisy gradients whose standard deviation
jumps from 1 to 6 at half-time, so that the second moment has to follow. The mean loss of many paths
at common times (samples seen) for batches κ = 2, 4, 8 times as large against κ = 1: with the whole
rule, with the rate scaled alone, and with the rate scaled linearly. The measure is the largest
relative deviation on a grid of times; two runs of κ = 1 with different noise give its floor.

The SDEs themselves: Adam's, by diffrax, against Adam with the hyperparameters of a larger batch;
and SVAG (ℓ = 2, 4 times as many steps with 4 times the variance), whose curve is the same if the
SDE describes Adam.

The paper's image and language models are not repeated here.
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
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.experiment import Above, Between, Claim, Logger, Result
from jaxsci.optim import HyperScale, adam_sde, simulate, svag, svag_gradient

CURVATURE = jnp.array([1.0, 0.3, 0.1])


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Lengths, hyperparameters and batches."""

    steps: Annotated[int, Between(64)] = 4096
    """steps at the smallest batch"""
    paths: Annotated[int, Between(2)] = 2000
    """independent runs, whose mean is compared"""
    times: Annotated[int, Between(2)] = 32
    """times at which the curves are compared"""
    rate: Annotated[float, Above(0)] = 0.014
    """learning rate at the smallest batch"""
    b1: Annotated[float, Between(0.0, 1.0)] = 0.9
    b2: Annotated[float, Between(0.0, 1.0)] = 0.998
    eps: Annotated[float, Above(0)] = 1e-6
    jump: Annotated[float, Above(0)] = 6.0
    """the noise's standard deviation in the second half; 1 in the first"""
    kappas: tuple[int, ...] = (2, 4, 8)
    """how many times larger the batches are"""


PRESETS = {
    "smoke": Config(steps=128, paths=4, times=4),
    "quick": Config(),
    "full": Config(steps=8192, paths=10_000, rate=0.01, b2=0.999),
    "paper": Config(
        steps=32_768, paths=40_000, rate=0.005, b1=0.98, b2=0.9995, kappas=(2, 4, 8, 16, 32)
    ),
}


def deviation(step: Array, steps: int, jump: float) -> Array:
    """The noise's standard deviation at a step."""
    return jnp.where(step < steps // 2, 1.0, jump)


def adam_curve(
    config: Config, kappa: float, ell: int = 1
) -> Callable[[HyperScale, PRNGKeyArray], Float[Array, " times"]]:
    """(hyperparameters, key) ↦ mean loss of Adam, from v = 1 / κ, the gradient noise's variance."""
    steps = round(config.steps * ell**2 / kappa)
    every = steps // config.times

    def curve(hyper: HyperScale, key: PRNGKeyArray) -> Array:
        tx = optax.scale_by_adam(hyper.b1, hyper.b2, hyper.eps)
        x = jnp.ones((config.paths, 3))
        state: Any = tx.init(x)
        # v = Var g, after so many steps that the bias corrections are one.
        nu = jnp.full_like(x, ell**2 / kappa)
        state = state._replace(count=jnp.asarray(10**6, jnp.int32), nu=nu)

        def one(carry, step):
            x, state, key = carry
            key, first, second = jr.split(key, 3)
            size = deviation(step, steps, config.jump) / kappa**0.5
            g = CURVATURE * x + size * jr.normal(first, x.shape)
            if ell > 1:
                g = svag_gradient(g, CURVATURE * x + size * jr.normal(second, x.shape), ell)
            updates, state = tx.update(g, state)
            return (x - hyper.lr * updates, state, key), None

        def part(carry, start):
            carry = jax.lax.scan(one, carry, start + jnp.arange(every))[0]
            return carry, jnp.mean(jnp.sum(CURVATURE * carry[0] ** 2, 1)) / 2

        return jax.lax.scan(part, (x, state, key), every * jnp.arange(config.times))[1]

    return jax.jit(curve)


def sde_curve(config: Config, hyper: HyperScale, kappa: int, key: PRNGKeyArray) -> Array:
    """Mean loss of Adam's SDE, in two parts: the noise is constant in each."""
    steps, times = config.steps // kappa // 2, config.times // 2

    def one(x, u0, std, key, t0_steps):
        sde = adam_sde(
            lambda x: CURVATURE * x,
            std**2 * jnp.ones(3),
            eta=hyper.lr,
            sigma=kappa**-0.5,
            b1=hyper.b1,
            b2=hyper.b2,
            eps=hyper.eps,
            u0=u0,
            t0_steps=t0_steps,
        )
        return simulate(sde, x, steps, key, paths=1, saves=times)[0]

    # So late that the bias corrections are one.
    late = round(40 / (1 - hyper.b2))

    def path(key):
        first_key, second_key = jr.split(key)
        first = one(jnp.ones(3), 1.0, 1.0, first_key, late)
        second = one(first[-1], 1.0, config.jump, second_key, late)
        x = jnp.concatenate([first, second])
        return jnp.sum(CURVATURE * x**2, 1) / 2

    return jnp.mean(jax.jit(jax.vmap(path))(jr.split(key, config.paths)), 0)


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    base = HyperScale(config.rate, b1=config.b1, b2=config.b2, eps=config.eps)
    keys = iter(jr.split(key, 8 + 4 * len(config.kappas)))
    single = adam_curve(config, 1)
    curves = {"κ = 1": single(base, next(keys))}
    again = single(base, next(keys))
    reference = (curves["κ = 1"] + again) / 2

    def distance(curve: Array, other: Array) -> float:
        return float(jnp.max(jnp.abs(curve / other - 1)))

    floor = distance(again, curves["κ = 1"])
    rule, rate_only, linear = [], [], []
    for kappa in config.kappas:
        curve = adam_curve(config, kappa)
        whole = base.to_batch(kappa, "adam-sqrt")
        variants = {
            "whole rule": whole,
            "rate only": HyperScale(whole.lr, b1=base.b1, b2=base.b2, eps=whole.eps),
            "linear rate": HyperScale(kappa * base.lr, b1=base.b1, b2=base.b2, eps=base.eps),
        }
        for (name, hyper), found in zip(variants.items(), (rule, rate_only, linear), strict=True):
            curves[f"κ = {kappa}, {name}"] = curve(hyper, next(keys))
            found.append(distance(curves[f"κ = {kappa}, {name}"], reference))
    middle = config.kappas[len(config.kappas) // 2]
    hyper = base.to_batch(middle, "adam-sqrt")
    curves["SVAG, ℓ = 2"] = adam_curve(config, middle, 2)(svag(hyper, 2), next(keys))
    curves["SDE"] = sde_curve(config, hyper, middle, next(keys))
    adam = curves[f"κ = {middle}, whole rule"]
    svag_gap, sde_gap = distance(curves["SVAG, ℓ = 2"], adam), distance(curves["SDE"], adam)
    for name, found in (("rule", rule), ("rate only", rate_only), ("linear", linear)):
        log.say(f"{name}: largest relative deviations {[round(d, 3) for d in found]}")
    log.say(f"two seeds {floor:.3f}, SVAG {svag_gap:.3f}, SDE {sde_gap:.3f}")
    claims = [
        Claim(
            "the whole rule keeps the curve, all κ",
            max(rule),
            "<=",
            0.5 * min(rate_only),
            "largest relative deviation; target: half of the least with the rate alone "
            f"(two seeds differ by {floor:.3f})",
        ),
        Claim("the rate alone does not, any κ", min(rate_only), ">=", 0.2),
        Claim("a linear rate does not, any κ", min(linear), ">=", 0.4),
        Claim("SVAG's curve is Adam's", svag_gap, "<=", 0.2, "largest relative deviation"),
        Claim("the SDE's curve is Adam's", sde_gap, "<=", 0.2, "largest relative deviation"),
    ]
    metrics = {"floor": floor, "svag": svag_gap, "sde": sde_gap}
    for kappa, a, b, c in zip(config.kappas, rule, rate_only, linear, strict=True):
        metrics |= {f"rule_{kappa}": a, f"rate_only_{kappa}": b, f"linear_{kappa}": c}
    arrays = {f"curve_{i}": np.asarray(curve) for i, curve in enumerate(curves.values())}
    return Result(claims, metrics, arrays, {"curves": draw(config, curves)})


def draw(config: Config, curves: dict[str, Array]) -> Figure:
    """Mean loss over samples for every rule, and for the SDE and SVAG."""
    figure, axes = plt.subplots(1, 4, figsize=(16, 4), layout="constrained", sharey=True)
    times = np.arange(1, config.times + 1) / config.times
    kinds = ("whole rule", "rate only", "linear rate")
    for axis, kind in zip(axes, kinds, strict=False):
        axis.semilogy(times, curves["κ = 1"], "k", lw=2, label="κ = 1")
        for kappa in config.kappas:
            axis.semilogy(times, curves[f"κ = {kappa}, {kind}"], label=f"κ = {kappa}")
        axis.set(title=kind.capitalize())
    middle = config.kappas[len(config.kappas) // 2]
    adam = curves[f"κ = {middle}, whole rule"]
    axes[3].semilogy(times, adam, "k", lw=2, label=f"Adam, κ = {middle}")
    axes[3].semilogy(times, curves["SVAG, ℓ = 2"], label="SVAG, ℓ = 2")
    axes[3].semilogy(times, curves["SDE"], "--", label="SDE")
    axes[3].set(title="SDE and SVAG")
    axes[0].set(ylabel="mean loss")
    for axis in axes:
        axis.axvline(0.5, color="grey", lw=0.8, ls=":")
        axis.set(xlabel="samples seen (the noise jumps at ½)")
        axis.legend()
    return figure
