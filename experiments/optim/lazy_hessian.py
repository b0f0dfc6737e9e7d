"""Second-order optimization with lazy Hessians

Doikov, Chayti, Jaggi, arXiv:2212.00781 (ICML 2023).

**Claim.** Newton's method with cubic or quadratic regularisation may use one Hessian for m steps:
gradients stay few, Hessians become m times rarer, and with a Hessian costing d gradients the total
falls by √d at m = d.

**What is compared with what.** The unit of cost is a gradient; a Hessian counts d (as many
Hessian-vector products as it takes), a Krylov approximation its rank.

1. *Logistic regression* with features of very different scales, from 0 to ‖∇f‖ ≤ 10⁻¹⁰: m from 1
   (Newton's method at every step) to d, for both regularisations and several dimensions; and the
   wall time of m = 1 and m = d in one process.
2. *Rosenbrock's chain* (non-convex), adaptive cubic regularisation, from random starting points.
3. *Secants*: `lazy_lbfgs`, one Hessian that BFGS updates correct, on both of these problems, beside
   lazy Newton at m = d and L-BFGS with the same pairs and line search but without the Hessian.
4. *Large d*, matrix-free: Ritz pairs of a Krylov space in the place of the Hessian; L-BFGS of scipy
   beside it.

Medians over several problems, which differ in all their data.

**Finding.** √d is a gain in the worst case, and not one for every problem: on Rosenbrock's chain
the constant M has to grow with m as the theory says (M = 6 m L), the number of steps grows with it,
and in gradient-equivalents all m cost about the same. On logistic regression the gain at m = d is
larger than √d. Secants between the Hessians halve the cost of lazy Newton at m = d on logistic
regression (83 to 85 against 180 with five seeds; L-BFGS 340 to 500) and take a third of it on the
chain, where L-BFGS without any Hessian is cheaper still (250 against 160): a claim that is false.
Matrix-free, a Krylov space for 20 steps saves most of the products, but on this problem L-BFGS
needs fewer gradient-equivalents than even that.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure
from scipy.optimize import minimize

from jaxsci import experiment
from jaxsci.experiment import Between, Claim, Logger, Result
from jaxsci.optim import Regulariser, lazy_lbfgs, minimise_lazy


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes of the three problems."""

    float64: bool = True
    problems: Annotated[int, Between(1, 64)] = 3
    """problems side by side; medians are compared"""
    samples: Annotated[int, Between(10)] = 500
    """samples of the logistic regression"""
    dimensions: tuple[int, ...] = (15, 30, 60)
    """its dimensions; the curves over m are for the last"""
    ridge: Annotated[float, Between(0.0)] = 1e-3
    """its ridge penalty"""
    chain: Annotated[int, Between(2, 200)] = 20
    """variables of Rosenbrock's chain"""
    large: Annotated[int, Between(20)] = 1500
    """dimension of the matrix-free problem"""
    rank: Annotated[int, Between(1)] = 60
    """dimension of its Krylov space"""
    phases: Annotated[int, Between(1)] = 300
    """at most so many Hessians"""


PRESETS = {
    "smoke": Config(
        problems=1, samples=60, dimensions=(4, 8), chain=4, large=40, rank=10, phases=60
    ),
    "quick": Config(),
    "full": Config(problems=9, samples=2000, dimensions=(30, 60, 120, 240), large=3000, phases=400),
    "paper": Config(
        problems=9,
        samples=20000,
        dimensions=(100, 300, 1000, 3000),
        chain=100,
        large=20000,
        rank=100,
        phases=1000,
    ),
}


def logistic_data(key: PRNGKeyArray, n: int, d: int, spread: float = 1.0) -> dict[str, Array]:
    """Features with scales exp(spread · N(0, 1)); labels from a linear rule with noise."""
    features_key, scale_key, rule_key, noise_key = jr.split(key, 4)
    features = jr.normal(features_key, (n, d))
    score = features @ jr.normal(rule_key, (d,)) / jnp.sqrt(d) + jr.normal(noise_key, (n,))
    scales = jnp.exp(spread * jr.normal(scale_key, (d,)))
    return {"features": features * scales, "labels": jnp.sign(score)}


def logistic(x: Float[Array, " d"], data: dict[str, Array], ridge: float) -> Float[Array, ""]:
    margins = data["labels"] * (data["features"] @ x)
    return jnp.mean(jnp.logaddexp(0, -margins)) + ridge / 2 * x @ x


def rosenbrock(x: Float[Array, " d"]) -> Float[Array, ""]:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def doublings(d: int) -> list[int]:
    """1, 2, 4, … and d."""
    return sorted({d, *(2**i for i in range(int(np.log2(d)) + 1))})


def regularised(config: Config, key: PRNGKeyArray, d: int, regulariser: Regulariser, ms: list[int]):
    """Gradients, Hessians and convergence for each m and problem; wall times for the ends of ms."""
    data = jax.vmap(lambda k: logistic_data(k, config.samples, d))(jr.split(key, config.problems))

    @jax.jit
    def solve(data, m):
        return minimise_lazy(
            lambda x: logistic(x, data, config.ridge),
            jnp.zeros(d),
            m=m,
            regulariser=regulariser,
            M=1.0,
            gtol=1e-10,
            max_phases=config.phases,
        )

    one = [jax.tree.map(lambda leaf, i=i: leaf[i], data) for i in range(config.problems)]
    found = [[solve(p, jnp.asarray(m)) for p in one] for m in ms]
    counts = {
        name: np.array([[int(getattr(r, name)) for r in row] for row in found])
        for name in ("n_grad", "n_hess", "n_hvp", "converged")
    }
    seconds = {}
    for m in (ms[0], ms[-1]):
        times = []
        for p in one:
            start = time.perf_counter()
            jax.block_until_ready(solve(p, jnp.asarray(m)))
            times.append(time.perf_counter() - start)
        seconds[m] = float(np.min(times))
    return counts, seconds, [row[0].trace for row in found]


def chain_starts(config: Config, key: PRNGKeyArray) -> Float[Array, "problems d"]:
    d = config.chain
    base = jnp.where(jnp.arange(d) % 2 == 0, -1.2, 1.0)
    return base + 0.1 * jr.normal(key, (config.problems, d))


def on_rosenbrock(config: Config, key: PRNGKeyArray, ms: list[int]):
    """Adaptive cubic regularisation from random starting points."""
    starts = chain_starts(config, key)

    @jax.jit
    def solve(x0, m):
        return minimise_lazy(rosenbrock, x0, m=m, gtol=1e-8, max_phases=config.phases)

    found = [[solve(x0, jnp.asarray(m)) for x0 in starts] for m in ms]
    return {
        name: np.array([[float(getattr(r, name)) for r in row] for row in found])
        for name in ("n_grad", "n_hess", "n_hvp", "converged", "M")
    }


def with_line_search(make: Callable, value: Callable, starts, data, gtol: float) -> np.ndarray:
    """Gradients, Hessians and whether ‖∇f‖ ≤ gtol (rows) of an optax optimiser on each problem.

    Every step of the line search is a value with its gradient.
    """

    @jax.jit
    def solve(x0, data):
        def function(x):
            return value(x, data)

        def unfinished(carry):
            *_, g, spent = carry
            return (jnp.linalg.norm(g) > gtol) & (spent < 20_000)

        def body(carry):
            x, state, f, g, spent = carry
            updates, state = tx.update(g, state, x, value=f, grad=g, value_fn=function)
            x = optax.apply_updates(x, updates)
            new = jax.value_and_grad(function)(x)
            return x, state, *new, spent + state[-1].info.num_linesearch_steps

        tx = make()
        start = (x0, tx.init(x0), *jax.value_and_grad(function)(x0), jnp.ones((), int))
        _, state, _, g, spent = jax.lax.while_loop(unfinished, body, start)
        return spent, getattr(state[0], "refreshes", 0), jnp.linalg.norm(g) <= gtol

    problems = [jax.tree.map(lambda leaf, i=i: leaf[i], (starts, data)) for i in range(len(starts))]
    return np.array([solve(*problem) for problem in problems]).T


def secants(config: Config, logistic_key: PRNGKeyArray, chain_key: PRNGKeyArray):
    """For both problems: median cost and convergence, with the Hessian and without."""
    d, n = config.dimensions[-1], config.problems
    data = jax.vmap(lambda k: logistic_data(k, config.samples, d))(jr.split(logistic_key, n))
    problems = {
        "logistic": (partial(logistic, ridge=config.ridge), jnp.zeros((n, d)), data, 1e-10),
        "rosenbrock": (lambda x, _: rosenbrock(x), chain_starts(config, chain_key), {}, 1e-8),
    }
    methods = {"lazy_lbfgs": lazy_lbfgs, "lbfgs": partial(optax.lbfgs, memory_size=20)}
    found = {}
    for problem, (value, starts, data, gtol) in problems.items():
        for name, make in methods.items():
            gradients, hessians, converged = with_line_search(make, value, starts, data, gtol)
            cost = np.median(gradients + starts.shape[1] * hessians)
            found[problem, name] = float(cost), bool(converged.all())
    return found


def matrix_free(config: Config, key: PRNGKeyArray, ms: list[int]):
    """Ritz pairs in place of the Hessian, to ‖∇f‖ ≤ 10⁻⁶; scipy's L-BFGS on the same problem."""
    data = logistic_data(key, min(config.samples, 400), config.large)

    def value(x):
        return logistic(x, data, config.ridge)

    @jax.jit
    def solve(m):
        return minimise_lazy(
            value,
            jnp.zeros(config.large),
            m=m,
            M=0.1,
            factor="ritz",
            rank=config.rank,
            gtol=1e-6,
            max_phases=config.phases,
        )

    found = [solve(jnp.asarray(m)) for m in ms]
    counts = {
        name: np.array([int(getattr(r, name)) for r in found])
        for name in ("n_grad", "n_hvp", "converged")
    }
    gradient = jax.jit(jax.value_and_grad(value))
    norms = []

    def recorded(x):
        f, g = gradient(x)
        norms.append(float(jnp.linalg.norm(g)))
        return float(f), np.asarray(g)

    # Its own criterion is on the largest entry; counted are the gradients until ‖∇f‖ ≤ 1e-6.
    options = {"gtol": 1e-8, "ftol": 0.0, "maxcor": 20, "maxiter": 5000}
    minimize(recorded, np.zeros(config.large), jac=True, method="L-BFGS-B", options=options)
    return counts, int(np.argmax(np.array(norms) <= 1e-6)) + 1


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    logistic_key, chain_key, large_key = jr.split(key, 3)
    claims, metrics, arrays = [], {}, {}
    last = config.dimensions[-1]

    regularisers: tuple[Regulariser, ...] = ("quadratic", "cubic")
    gains: dict[str, dict[int, float]] = {}
    curves, traces = {}, {}
    for regulariser in regularisers:
        gains[regulariser] = {}
        for d in config.dimensions:
            ms = doublings(d) if d == last else [1, d]
            counts, seconds, trace = regularised(config, logistic_key, d, regulariser, ms)
            cost = counts["n_grad"] + counts["n_hvp"]
            gains[regulariser][d] = float(np.median(cost[0] / cost[-1]))
            log.say(f"{regulariser}, d = {d}: gain {gains[regulariser][d]:.1f}, {seconds}")
            metrics[f"{regulariser}_d{d}_gain"] = gains[regulariser][d]
            if d == last:
                for name, array in counts.items():
                    arrays[f"{regulariser}_{name}"] = array
                curves[regulariser] = (ms, counts, cost)
                traces[regulariser] = (ms, trace)
            claims.append(
                Claim(
                    f"{regulariser}, d = {d}: every m reaches the accuracy",
                    float(counts["converged"].min()),
                    "==",
                    1.0,
                )
            )
        for d, gain in gains[regulariser].items():
            claims.append(
                Claim(
                    f"{regulariser}, d = {d}: gain of m = d over m = 1 in gradient-equivalents",
                    gain,
                    ">=",
                    float(np.sqrt(d)),
                    "logistic regression; the target is √d",
                )
            )
        # Of the largest dimension, where a factorisation costs the most.
        metrics[f"{regulariser}_seconds_m1"] = seconds[ms[0]]
        metrics[f"{regulariser}_seconds_md"] = seconds[ms[-1]]
        claims.append(
            Claim(
                f"{regulariser}: m = d takes less wall time than m = 1",
                seconds[ms[-1]],
                "<",
                seconds[ms[0]],
                f"seconds, d = {config.dimensions[-1]}, without compilation",
            )
        )

    ms = doublings(config.chain)
    chain = on_rosenbrock(config, chain_key, ms)
    chain_cost = np.median(chain["n_grad"] + chain["n_hvp"], 1)
    for name, array in chain.items():
        arrays[f"rosenbrock_{name}"] = array
    for m, entry in zip(ms, chain_cost, strict=True):
        metrics[f"rosenbrock_cost_m{m}"] = float(entry)
    claims += [
        Claim(
            "Rosenbrock's chain: every m reaches a stationary point",
            float(chain["converged"].min()),
            "==",
            1.0,
            "‖∇f‖ ≤ 1e-8, adaptive cubic regularisation",
        ),
        Claim(
            "Rosenbrock's chain: fewer Hessians for m = d",
            float(np.median(chain["n_hess"][-1])),
            "<",
            float(np.median(chain["n_hess"][0])),
        ),
        Claim(
            "Rosenbrock's chain: M grows with m, as in M = 6 m L",
            float(np.median(chain["M"][-1])),
            ">",
            float(np.median(chain["M"][0])),
            "the constant that the adaptation ended with; m = d and m = 1",
        ),
    ]

    lazy_cost = {
        "logistic": min(float(np.median(cost[-1])) for *_, cost in curves.values()),
        "rosenbrock": float(np.min(chain_cost)),
    }
    found = secants(config, logistic_key, chain_key)
    for (problem, name), (entry, _) in found.items():
        metrics[f"{problem}_cost_{name}"] = entry
    claims.append(
        Claim(
            "with secants, every problem is solved",
            float(all(found[problem, "lazy_lbfgs"][1] for problem in lazy_cost)),
            "==",
            1.0,
        )
    )
    for problem, cost in lazy_cost.items():
        spent = found[problem, "lazy_lbfgs"][0]
        note = "gradient-equivalents, median over problems"
        claims += [
            Claim(f"{problem}: with secants, cheaper than lazy Newton", spent, "<", cost, note),
            Claim(
                f"{problem}: with a Hessian, L-BFGS is cheaper than without",
                spent,
                "<",
                found[problem, "lbfgs"][0],
                note,
            ),
        ]

    ritz_ms = [1, 5, 20]
    counts, lbfgs = matrix_free(config, large_key, ritz_ms)
    for name, array in counts.items():
        arrays[f"ritz_{name}"] = array
    metrics["lbfgs_gradients"] = float(lbfgs)
    for m, grads, products in zip(ritz_ms, counts["n_grad"], counts["n_hvp"], strict=True):
        metrics[f"ritz_m{m}_gradients"], metrics[f"ritz_m{m}_products"] = grads, products
    claims += [
        Claim("matrix-free: every m converges", float(counts["converged"].min()), "==", 1.0),
        Claim(
            "matrix-free: Hessian products of m = 20",
            counts["n_hvp"][-1],
            "<=",
            0.4 * counts["n_hvp"][0],
            f"d = {config.large}, rank {config.rank}; target: 0.4 × those of m = 1",
        ),
    ]
    figures = {
        "cost": draw(curves, gains, ms, chain, chain_cost, found),
        "convergence": draw_traces(traces, last),
    }
    return Result(claims, metrics, arrays, figures)


def draw(curves, gains, chain_ms, chain, chain_cost, secants) -> Figure:
    """Cost over m on both problems, and the gain over d against √d."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    for regulariser, (ms, counts, cost) in curves.items():
        line = axes[0].loglog(ms, np.median(cost, 1), "o-", label=f"{regulariser}: total")[0]
        axes[0].loglog(
            ms, np.median(counts["n_grad"], 1), "x:", color=line.get_color(), label="  gradients"
        )
    axes[0].set_title("Logistic regression")
    axes[1].loglog(chain_ms, chain_cost, "o-", color="C2", label="total")
    axes[1].loglog(chain_ms, np.median(chain["n_grad"], 1), "x:", color="C2", label="gradients")
    axes[1].set_title("Rosenbrock's chain")
    for (problem, name), (cost, _) in secants.items():
        axis, style = axes[0 if problem == "logistic" else 1], "-" if "lazy" in name else "--"
        label = "lazy, with secants" if "lazy" in name else "L-BFGS"
        axis.axhline(cost, color="C3", ls=style, label=label)
    for axis in axes[:2]:
        axis.set_xlabel("steps per Hessian $m$")
        axis.set_ylabel("gradient-equivalents")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=2, fontsize=9)
    for regulariser, by_dimension in gains.items():
        axes[2].loglog(list(by_dimension), list(by_dimension.values()), "o-", label=regulariser)
    ds = np.array(list(gains["cubic"]))
    axes[2].loglog(ds, np.sqrt(ds), "k--", label=r"$\sqrt{d}$")
    axes[2].set(xlabel="dimension $d$", ylabel="cost($m=1$) / cost($m=d$)", title="Gain")
    axes[2].legend()
    return figure


def draw_traces(traces, d: int) -> Figure:
    """The gradient's norm over gradient-equivalents, one curve for each m."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
    for axis, (regulariser, (ms, found)) in zip(axes, traces.items(), strict=True):
        for i, (m, trace) in enumerate(zip(ms, found, strict=True)):
            done = np.asarray(trace["n_grad"]) >= 0
            cost = np.asarray(trace["n_grad"])[done] + d * np.arange(1, done.sum() + 1)
            norm = np.asarray(trace["grad_norm"])[done]
            color = plt.get_cmap("viridis")(i / len(ms))
            axis.loglog(cost, norm, ".-", color=color, label=f"$m = {m}$")
        axis.set(title=regulariser, xlabel="gradient-equivalents")
    axes[0].set_ylabel(r"$\|\nabla f\|$ after each Hessian")
    axes[1].legend(fontsize=8)
    return figure
