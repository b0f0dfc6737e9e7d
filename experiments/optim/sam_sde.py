"""An SDE for Modeling SAM: Theory and Insights

Compagnoni, Biggio, Orvieto, Proske, Kersting, Lucchi, arXiv:2301.08203 (ICML 2023).

**Claim.** SAM, USAM and DNSAM follow SDEs, with a drift that adds the norm of the gradients to the
loss and a noise that depends on the Hessian; SAM is attracted by saddles.

**What is compared with what.**

1. *Saddles*: full-batch SAM on (x₁² − x₂²)/2, started at a range of radii: the largest radius from
   which it ends at the saddle, against ρ l.
2. *Stationary variance* of USAM on a quadratic with noise s² I, simulated by many paths, against
   that of its SDE, (η s²/2) H⁻¹ (I + ρ H): the relative gap halves with η (weak order 1). What USAM
   has exactly is a formula as well, and its gap is compared with the simulated one.
3. *Learning curves* of USAM, DNSAM and SAM (the project's own optimisers) in linear regression
   with one sample a step, against their SDEs, and against those with the noise of SGD, without the
   Hessian in it, by the mean loss of many paths. ρ of DNSAM is a quarter of SAM's: it divides by
   the norm of the whole gradient, which vanishes at the solution, and the SDE holds for small ρ.
"""

from dataclasses import dataclass
from itertools import pairwise
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
from jaxsci.optim import dnsam, dnsam_sde, saddle_radius, sam, sam_sde, simulate, usam, usam_sde


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes of the three parts."""

    float64: bool = True
    radii: Annotated[int, Between(3)] = 41
    """starting points on the unstable axis, within 10 % of ρ l"""
    saddle_steps: Annotated[int, Between(10)] = 5000
    """steps of size 10⁻³"""
    variance_paths: Annotated[int, Between(10)] = 20_000
    """paths for the stationary variance"""
    samples: Annotated[int, Between(4)] = 16
    """samples of the regression"""
    dimension: Annotated[int, Between(2)] = 4
    """its weights"""
    paths: Annotated[int, Between(10)] = 2000
    """paths of its curves"""
    steps: Annotated[int, Between(8)] = 160
    """their steps"""
    rate: Annotated[float, Above(0)] = 0.01
    """their learning rate"""
    rho: Annotated[float, Above(0)] = 0.1
    """ρ of USAM"""
    methods: tuple[str, ...] = ("USAM", "DNSAM", "SAM")
    """the methods whose curves are compared"""
    rho_normalised: Annotated[float, Above(0)] = 0.2
    """ρ of DNSAM and SAM"""


PRESETS = {
    "smoke": Config(
        radii=5, saddle_steps=200, variance_paths=100, paths=20, steps=16, methods=("SAM",)
    ),
    "quick": Config(),
    "full": Config(variance_paths=200_000, paths=20_000, steps=480, rate=0.005),
    "paper": Config(
        variance_paths=1_000_000, samples=100, dimension=10, paths=100_000, steps=2000, rate=0.002
    ),
}


def trapped(config: Config, rho: float) -> tuple[Float[Array, " radii"], Array]:
    """Starting radii, and whether SAM ends at the saddle."""
    H = jnp.diag(jnp.array([1.0, -1.0]))
    limit = saddle_radius(H, rho)
    radii = limit * jnp.linspace(0.9, 1.1, config.radii)
    tx = sam(optax.sgd(1e-3), rho)

    def path(radius: Array) -> Array:
        x = jnp.array([0.0, radius])

        def f(x):
            return x @ H @ x / 2

        def body(carry, _):
            x, state = carry
            updates, state = tx.update(jax.grad(f)(x), state, x, value_fn=f)
            return (x + jnp.asarray(updates), state), None

        return jax.lax.scan(body, (x, tx.init(x)), length=config.saddle_steps)[0][0]

    ends = jax.jit(jax.vmap(path))(radii)
    return radii, jnp.linalg.norm(ends, axis=1) < radii


def variance_gaps(config: Config, key: PRNGKeyArray) -> tuple[list[float], list[float]]:
    """Relative gaps of USAM's stationary variance to the SDE's for η = 0.1, 0.05, 0.025: simulated,
    and by the formula. The largest of two directions."""
    h, rho, s = jnp.array([1.0, 0.3]), 0.2, 0.5
    simulated, exact = [], []
    for eta in (0.1, 0.05, 0.025):
        factor = 1 + rho * h
        model = eta * s**2 / 2 * factor / h

        def body(x, key, eta=eta, factor=factor):
            g = h * x + s * jr.normal(key, x.shape)
            return x - eta * factor * g, None

        keys = jr.split(jr.fold_in(key, round(1000 * eta)), round(12 / eta))
        start = jnp.sqrt(model) * jr.normal(key, (config.variance_paths, 2))
        end = jax.jit(lambda x, k, b=body: jax.lax.scan(b, x, k)[0])(start, keys)
        truth = (eta * s * factor) ** 2 / (1 - (1 - eta * h * factor) ** 2)
        simulated.append(float(jnp.max(jnp.abs(jnp.mean(end**2, 0) / model - 1))))
        exact.append(float(jnp.max(jnp.abs(truth / model - 1))))
    return simulated, exact


def regression(config: Config, key: PRNGKeyArray) -> tuple[dict[str, Array], Array]:
    x_key, w_key, noise_key, start_key = jr.split(key, 4)
    x = jr.normal(x_key, (config.samples, config.dimension))
    y = x @ jr.normal(w_key, (config.dimension,)) + 0.6 * jr.normal(noise_key, (config.samples,))
    return {"x": x, "y": y}, jr.normal(start_key, (config.dimension,))


def sample_loss(w: Array, sample: dict[str, Array]) -> Array:
    return (sample["x"] @ w - sample["y"]) ** 2 / 2


def curves(config: Config, key: PRNGKeyArray) -> dict[str, dict[str, Array]]:
    """Mean loss on a grid of times, and its standard error: discrete, SDE, SDE with SGD's noise."""
    data_key, *keys = jr.split(key, 10)
    data, start = regression(config, data_key)
    eta, saves = config.rate, 8

    def f(w: Array) -> Array:
        return jnp.mean(jax.vmap(sample_loss, (None, 0))(w, data))

    small = config.rho_normalised
    methods = {
        "USAM": (usam(optax.sgd(eta), config.rho), usam_sde, config.rho),
        "DNSAM": (dnsam(optax.sgd(eta), small / 4), dnsam_sde, small / 4),
        "SAM": (sam(optax.sgd(eta), small), sam_sde, small),
    }
    found = {}
    for i, name in enumerate(config.methods):
        tx, make, rho = methods[name]

        def path(key, tx=tx):
            def body(carry, key):
                w, state = carry
                sample = jax.tree.map(lambda a: a[jr.randint(key, (), 0, len(a))], data)
                gradient = jax.grad(sample_loss)(w, sample)
                updates, state = tx.update(
                    gradient,
                    state,
                    w,
                    value_fn=lambda w: sample_loss(w, sample),
                    full_grad=jax.grad(f)(w),
                )
                w = w + jnp.asarray(updates)
                return (w, state), w

            keys = jr.split(key, config.steps)
            points = jax.lax.scan(body, (start, tx.init(start)), keys)[1]
            return points[config.steps // saves - 1 :: config.steps // saves]

        ways: dict[str, Any] = {"discrete": jax.vmap(path)}
        for kind, noise in (("SDE", True), ("SDE, noise of SGD", False)):
            sde = make(sample_loss, data, eta, rho, noise)
            ways[kind] = lambda k, sde=sde: simulate(
                sde, start, config.steps, k[0], paths=config.paths, saves=saves
            )
        found[name] = {}
        for j, (kind, way) in enumerate(ways.items()):
            points = jax.jit(way)(jr.split(keys[3 * i + j], config.paths))
            losses = jax.vmap(jax.vmap(f))(points)
            error = jnp.std(losses, 0) / config.paths**0.5
            found[name][kind] = jnp.stack([jnp.mean(losses, 0), error])
    return found


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    variance_key, curve_key = jr.split(key)
    rho = 0.1
    radii, inside = trapped(config, rho)
    limit = float(jnp.max(jnp.where(inside, radii, 0)))
    log.say(f"SAM is trapped up to a radius of {limit:.4f}; ρ l = {rho}")
    simulated, exact = variance_gaps(config, variance_key)
    log.say(f"relative gaps of the variance, simulated {simulated}, exactly {exact}")
    found = curves(config, curve_key)
    deviation = {
        (name, kind): float(jnp.max(jnp.abs(values[kind][0] / values["discrete"][0] - 1)))
        for name, values in found.items()
        for kind in ("SDE", "SDE, noise of SGD")
    }
    for (name, kind), value in deviation.items():
        log.say(f"{name}: mean loss of {kind} is at most {100 * value:.1f} % off")
    claims = [
        Claim(
            "the radius that traps SAM",
            abs(limit / rho - 1),
            "<=",
            0.02,
            "relative deviation from ρ l",
        ),
        Claim(
            "USAM's variance: the gap to the SDE halves with η, by the formula",
            max(abs(a / b - 2) for a, b in pairwise(exact)),
            "<=",
            0.3,
            "|ratio − 2| of successive gaps",
        ),
        Claim(
            "and the simulated gaps are the formula's",
            max(abs(a - b) for a, b in zip(simulated, exact, strict=True)),
            "<=",
            6 * (2 / config.variance_paths) ** 0.5,
            "target: six standard errors of a variance",
        ),
    ]
    for name in found:
        claims.append(
            Claim(
                f"{name}: its SDE has its learning curve",
                deviation[name, "SDE"],
                "<=",
                0.1,
                "largest relative deviation of the mean loss",
            )
        )
    with_hessian, without = (
        sum(deviation[name, kind] for name in found) / len(found)
        for kind in ("SDE", "SDE, noise of SGD")
    )
    claims.append(
        Claim(
            "without the Hessian in the noise the SDEs are further off",
            without,
            ">",
            with_hessian,
            "largest relative deviation, mean of the three methods; target: that of the SDEs",
        )
    )
    metrics = {"trap_radius": limit}
    metrics |= {f"variance_gap_{i}": gap for i, gap in enumerate(simulated)}
    for (name, kind), value in deviation.items():
        metrics[f"{name.lower()}_{'sde' if kind == 'SDE' else 'sgd_noise'}"] = value
    arrays = {
        f"{name.lower()}_{kind.lower().replace(', ', '_').replace(' ', '_')}": np.asarray(curve)
        for name, values in found.items()
        for kind, curve in values.items()
    }
    figures = {"sdes": draw(config, radii, inside, simulated, exact, found)}
    return Result(claims, metrics, arrays, figures)


def draw(
    config: Config,
    radii: Array,
    inside: Array,
    simulated: list[float],
    exact: list[float],
    found: dict[str, dict[str, Array]],
) -> Figure:
    """The saddle, the variance, and the learning curves."""
    figure, axes = plt.subplots(1, 5, figsize=(19, 3.8), layout="constrained")
    axes[0].plot(radii, inside, "o", ms=3)
    axes[0].axvline(0.1, color="grey", ls=":", label="ρ l")
    axes[0].set(xlabel="distance of the start", title="Does the saddle trap SAM?")
    axes[0].set_yticks([0, 1], ["no", "yes"])
    axes[0].legend()
    etas = np.array([0.1, 0.05, 0.025])
    axes[1].loglog(etas, exact, label="formula")
    axes[1].loglog(etas, simulated, "o", label="simulated")
    axes[1].loglog(etas, exact[0] * etas / 0.1, "k:", lw=0.8, label="slope 1")
    axes[1].set(xlabel="η", ylabel="relative gap", title="Variance of USAM against its SDE")
    axes[1].set_xticks(etas, etas)
    axes[1].xaxis.set_minor_formatter("")
    axes[1].legend()
    for axis, (name, values) in zip(axes[2:], found.items(), strict=False):
        truth, error = values["discrete"]
        for style, kind in zip(("C1o-", "C2s:"), ("SDE", "SDE, noise of SGD"), strict=True):
            curve, own = values[kind]
            t = config.steps / len(curve) * np.arange(1, len(curve) + 1)
            bar = 200 * np.hypot(error / truth, own / curve)
            gap = 100 * (curve / truth - 1)
            axis.errorbar(t, gap, bar, fmt=style, ms=4, capsize=2, label=kind)
        axis.axhline(0, color="grey", lw=0.8)
        axis.set(xlabel="step", title=f"{name}: mean loss of SDEs against it")
        axis.legend()
    axes[2].set(ylabel="deviation in %, ± 2 standard errors")
    return figure
