"""Policy Evaluation and Temporal-Difference Learning in Continuous Time and Space: A Martingale Approach

Jia and Zhou, arXiv:2108.06655.

**Claim.** In continuous time the mean square of the temporal difference error is the wrong thing to
minimise: with finer steps its minimiser tends to the value function of least quadratic variation,
whatever the rewards. The martingale loss and the orthogonality conditions (CTD, CLSTD) converge to
the right one, at O(dt).

**What is compared with what.** dX = −m X dt + dW with m random near 1, stationary, sampled by its
exact transitions so that there is no second error of order dt; rewards x², horizon 1. The value is
known: J = x² a + (τ − a)/(2m), a = (1 − e^{−2mτ})/(2m), τ = 1 − t.

1. *One parameter*, J_θ = θ J: the minimiser of the martingale loss, CLSTD(0) and CLSTD(½), whose
   θ − 1 should fall like dt, and the minimiser of the mean square TD error, which should go to 0.
   With infinitely many paths they follow from moments of normal variables; the rates are fitted to
   those, since sampling hides them (fitted to sampled estimates, a first version gave exponents of
   0.58 to 0.74), and the estimates from sampled paths must agree with them.
2. *Online*: CTD(½), path after path, against CLSTD(½).
3. *Six features*, (x², 1) times τ, τ², τ³: the error of the value itself, at the sampled states.
"""  # noqa: E501

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxsci import experiment
from jaxsci.dynamics import (
    Path,
    PolicyEvaluation,
    clstd,
    ctd_lambda,
    martingale_loss,
    mean_square_td,
)
from jaxsci.experiment import Between, Claim, Logger, Result


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    float64: bool = True
    steps: tuple[int, ...] = (20, 40, 80, 160, 320)
    """numbers of steps the rates are fitted to"""
    sampled: Annotated[int, Between(2, 10_000)] = 40
    """number of steps of the sampled paths"""
    finest: Annotated[int, Between(10, 10_000)] = 640
    """number of steps at which the mean square TD error is judged"""
    paths: Annotated[int, Between(10, 10_000_000)] = 40_000
    """trajectories"""
    finest_paths: Annotated[int, Between(10, 10_000_000)] = 2000
    """trajectories with the finest steps"""
    online_paths: Annotated[int, Between(10, 10_000_000)] = 40_000
    """trajectories of the online method"""


PRESETS = {
    "smoke": Config(
        steps=(4, 8), sampled=8, finest=16, paths=200, finest_paths=50, online_paths=99
    ),
    "quick": Config(),
    "full": Config(steps=(20, 40, 80, 160, 320, 640), paths=200_000, online_paths=100_000),
    "paper": Config(steps=(20, 40, 80, 160, 320, 640), paths=1_000_000, online_paths=1_000_000),
}


def exact(t, x, m):
    tau = 1 - t
    a = -jnp.expm1(-2 * m * tau) / (2 * m)
    return x**2 * a + (tau - a) / (2 * m)


def features(t, x):
    powers = (1 - t) ** jnp.arange(1, 4)
    return jnp.concatenate([x**2 * powers, powers])


def simulate(key: PRNGKeyArray, m, n: int, count: int) -> Path:
    start_key, noise_key = jr.split(key)
    variance = -jnp.expm1(-2 * m / n) / (2 * m)
    noise = jr.normal(noise_key, (n, count)) * jnp.sqrt(variance)

    def move(x, xi):
        x = jnp.exp(-m / n) * x + xi
        return x, x

    x0 = jr.normal(start_key, (count,)) / jnp.sqrt(2 * m)
    _, later = jax.lax.scan(move, x0, noise)
    xs = jnp.concatenate([x0[None], later]).T
    return Path(jnp.linspace(0, 1, n + 1), xs, xs[:, :-1] ** 2, jnp.zeros(count))


def parabola(loss):
    """The minimiser of a parabola, from its slopes at 0 and 1."""
    slope = jax.grad(loss)
    return slope(0.0) / (slope(0.0) - slope(1.0))


def estimates(key, m, n, count):
    paths = simulate(key, m, n, count)
    model = PolicyEvaluation(lambda theta, t, x: theta * exact(t, x, m))

    def one(t, x):
        return exact(t, x, m)[None]

    return {
        "martingale loss": parabola(lambda th: martingale_loss(model, th, paths)),
        "CLSTD(0)": clstd(one, paths)[0],
        "CLSTD(0.5)": clstd(one, paths, lam=0.5)[0],
        "mean square TD error": parabola(lambda th: mean_square_td(model, th, paths)),
    }


def expected(m, n):
    """The same four numbers for infinitely many paths."""
    t, dt, s = np.linspace(0, 1, n + 1), 1 / n, 1 / (2 * m)
    tau = 1 - t
    a = -np.expm1(-2 * m * tau) / (2 * m)
    b = (tau - a) / (2 * m)
    # E xᵢ² xⱼ² of the stationary process, E J J, E J x².
    fourth = s**2 * (1 + 2 * np.exp(-2 * m * np.abs(t[:, None] - t)))
    jj = a[:, None] * a * fourth + s * (np.outer(a, b) + np.outer(b, a)) + np.outer(b, b)
    jx = a[:, None] * fourth + s * b[:, None]
    change = (jj[:, :-1] - jj[:, 1:])[:-1]  # E Jᵢ (J_k − J_{k+1})
    reward = jx[:-1, :-1] * dt
    later = np.triu(np.ones((n, n)))  # i ≤ k
    trace = later * 0.5 ** ((t[None, :-1] - t[:-1, None]) * later) * dt
    squares = np.diag(jj)[1:] + np.diag(jj)[:-1] - 2 * np.diag(jj, 1)
    return {
        "martingale loss": np.sum(later * reward) / np.trace(jj[:-1, :-1]),
        "CLSTD(0)": np.trace(reward) / np.trace(change),
        "CLSTD(0.5)": np.sum(trace * reward) / np.sum(trace * change),
        "mean square TD error": dt * np.sum(np.diag(jx)[:-1] - np.diag(jx, -1)) / np.sum(squares),
    }


def value_errors(key, m, n, count):
    """Relative errors of J with six features: CLSTD, and the least mean square TD error."""
    paths = simulate(key, m, n, count)
    model = PolicyEvaluation(lambda theta, t, x: theta @ features(t, x))
    loss = lambda theta: mean_square_td(model, theta, paths)  # noqa: E731
    zero = jnp.zeros(6)
    found = {
        "CLSTD(0)": clstd(features, paths),
        "mean square TD error": -jnp.linalg.solve(jax.hessian(loss)(zero), jax.grad(loss)(zero)),
    }
    every = jax.vmap(jax.vmap(lambda t, x: (exact(t, x, m), features(t, x))), (None, 0))
    true, phi = every(paths.ts[:-1], paths.xs[:, :-1])
    return {
        name: jnp.sqrt(jnp.mean((phi @ theta - true) ** 2) / jnp.mean(true**2))
        for name, theta in found.items()
    }


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    mean_key, path_key, fine_key, online_key = jr.split(key, 4)
    m = jr.uniform(mean_key, minval=0.8, maxval=1.2)
    fast = lambda k: jr.key(jr.bits(k), impl="rbg")  # noqa: E731
    right = ("martingale loss", "CLSTD(0)", "CLSTD(0.5)")
    table = {n: expected(float(m), n) for n in (*config.steps, config.finest)}
    jitted = jax.jit(estimates, static_argnums=(2, 3))
    n = config.sampled
    sampled = jitted(fast(path_key), m, n, config.paths)
    fine = jitted(fast(fine_key), m, config.finest, config.finest_paths)
    limit = expected(float(m), n)
    for name in sampled:
        log.say(f"{name}: {float(sampled[name]):.4f} sampled, {limit[name]:.4f} expected")

    def rate(name):
        gaps = [abs(table[n][name] - 1) for n in config.steps]
        return float(-np.polyfit(np.log(config.steps), np.log(gaps), 1)[0])

    online_paths = simulate(fast(online_key), m, n, config.online_paths)
    model = PolicyEvaluation(lambda theta, t, x: theta * exact(t, x, m))
    online = jax.jit(
        lambda paths: ctd_lambda(model, jnp.zeros(()), paths, lambda k: 1.0 / (1 + k / 40), 0.5)
    )(online_paths)
    batch = clstd(lambda t, x: exact(t, x, m)[None], online_paths, lam=0.5)[0]
    value_error = jax.jit(value_errors, static_argnums=(2, 3))(
        fast(jr.fold_in(fine_key, 1)), m, n, config.paths // 4
    )
    claims = [
        Claim(f"{name}: the error falls like dt", rate(name), ">=", 0.8,
              f"fitted exponent of |theta - 1|, dt = 1/{config.steps[0]} and finer")
        for name in right
    ] + [
        Claim("the mean square TD error leads to nothing",
              abs(fine["mean square TD error"]), "<", 0.05,
              f"theta from paths with dt = 1/{config.finest}; 1 is right"),
        Claim("sampled estimates agree with the expected ones",
              max(abs(sampled[name] - limit[name]) for name in right), "<", 0.05,
              f"largest of the three gaps, dt = 1/{n}; about five standard errors"),
        Claim("online CTD(0.5) finds what CLSTD(0.5) finds", abs(online / batch - 1), "<=", 0.03),
        Claim("six features: CLSTD(0) has a fifth of the error of the least TD error",
              value_error["CLSTD(0)"], "<", 0.2 * value_error["mean square TD error"],
              "relative mean square error of the value"),
    ]  # fmt: skip
    metrics = {f"{name}, dt = 1/{n}": v for n, row in table.items() for name, v in row.items()}
    metrics |= {f"{name}, sampled": v for name, v in sampled.items()}
    metrics |= {"online CTD(0.5)": online, "CLSTD(0.5) on the same paths": batch}
    metrics |= {f"error of the value, {name}": v for name, v in value_error.items()}
    return Result(claims, metrics, {}, {"convergence": plot(table, n, sampled)})


def plot(table, n, sampled):
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.7), layout="constrained")
    steps = np.array(list(table))
    for name in next(iter(table.values())):
        theta = np.array([float(table[n][name]) for n in table])
        (line,) = axes[0].semilogx(1 / steps, theta, "o-", label=name)
        axes[0].plot(1 / n, float(sampled[name]), "x", ms=11, color=line.get_color())
        axes[1].loglog(1 / steps, np.abs(theta - 1), "o-", label=name)
    axes[0].axhline(1, color="k", ls=":", lw=1)
    axes[0].set(
        xlabel="time step",
        ylabel=r"$\theta$",
        title=r"$\theta$ of $\theta J$: 1 is right (crosses: sampled)",
    )
    axes[1].loglog(1 / steps, 0.5 / steps, "k:", label="slope 1")
    axes[1].set(xlabel="time step", ylabel=r"$|\theta - 1|$", title="error")
    axes[1].legend(fontsize=8)
    for axis in axes:
        axis.set_xticks(
            [0.002, 0.005, 0.01, 0.02, 0.05], ["0.002", "0.005", "0.01", "0.02", "0.05"]
        )
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    return figure
