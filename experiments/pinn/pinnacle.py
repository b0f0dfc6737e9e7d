"""PINNacle's problems: Gauss-Newton and an ansatz against a plain network of the same seconds

No paper's claim but the project's own; the problems are those of PINNacle, Hao and others,
arXiv:2306.08827.

**Claim.** With conditions met by construction and Levenberg-Marquardt steps, a network of some 600
weights solves what a plain physics-informed network of the same seconds does not: half at least of
the problems on which that one errs by more than a half come below a tenth.

**What is compared with what.** For each problem, two trainings:

1. *Ours*: the problem's ansatz, R3 points, `levenberg_marquardt` in double precision, a given
   number of steps.
2. *Plain*: soft conditions of weight 1, new uniform points in each step, Adam in single precision,
   for the seconds that ours took, compilation left out on both sides; of several learning rates the
   one that ends best. So where there are two rates, it has twice the seconds.

Errors are relative L2 norms over all components against the problem's reference. Seconds decide
here, so that numbers differ from machine to machine.

**Found** (quick, two free cores, 6 to 7 s a training). Burgers 1d-C: 0.0068 and 0.0037 against 0.46
and 0.48 of the plain network (seeds 90901 and 90902). Poisson 2d-C depends on the start: 0.0073
against 0.537 (90902), but 0.81 (90901), so that the claims on it hold for one seed and fail for the
other. Of three other starts one stayed at 0.76, two came to 0.0099 and 0.0046: the loss stands
still near that of the ansatz for a hundred steps before it falls. A smaller first damping (1e-6)
does not help: 0.058, 0.074, 0.014, 0.67, 0.75. Longer trainings get off it (280 steps: 7e-4 in
`scripts/bench/pinnacle_deepxde.py`, one seed); several starts, of which the one with the lowest
residual is kept, are not done yet. There ours left 0.29 on `heat_2d_vc` after 98 steps and 0.56 on
`wave_1d_c` after 37. `full` and `paper` have not been run.
"""

import time
from dataclasses import dataclass
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jaxtyping import PRNGKeyArray
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.experiment import Above, Between, Claim, Logger, Result
from jaxsci.optim import levenberg_marquardt
from jaxsci.pde import benchmarks
from jaxsci.pinn import R3, Problem, Solver


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes of both trainings."""

    float64: bool = True
    """double precision: Gauss-Newton squares condition numbers"""
    problems: tuple[str, ...] = ("poisson_2d_c", "burgers_1d")
    """names in jaxsci.pde.benchmarks.pinnacle"""
    steps: Annotated[int, Between(1)] = 120
    """Levenberg-Marquardt steps"""
    width: Annotated[int, Between(2)] = 16
    """width of our hidden layers"""
    depth: Annotated[int, Between(1)] = 3
    """our hidden layers"""
    points: Annotated[int, Between(4)] = 800
    """our points of the equation"""
    frequency: Annotated[float, Above(0)] = 2.0
    """factor of the first layer's weights at the start"""
    plain_width: Annotated[int, Between(2)] = 50
    """width of the plain network's hidden layers"""
    plain_depth: Annotated[int, Between(1)] = 4
    """hidden layers of the plain network"""
    plain_points: Annotated[int, Between(4)] = 2000
    """the plain network's points of the equation, 600 of each condition"""
    rates: tuple[float, ...] = (1e-3,)
    """Adam's learning rates"""


ALL = (
    "burgers_1d",
    "burgers_2d",
    "poisson_2d_c",
    "poisson_2d_cg",
    "heat_2d_vc",
    "ns_2d_c",
    "wave_1d_c",
    "ks",
)
PRESETS = {
    "smoke": Config(
        problems=("wave_1d_c",),
        steps=1,
        width=3,
        depth=1,
        points=8,
        plain_width=3,
        plain_depth=1,
        plain_points=8,
    ),
    "quick": Config(),
    "full": Config(
        problems=("burgers_1d", "poisson_2d_c", "poisson_2d_cg", "heat_2d_vc", "ns_2d_c"),
        steps=250,
    ),
    "paper": Config(
        problems=ALL,
        steps=2000,
        width=24,
        points=3000,
        plain_width=100,
        plain_depth=5,
        plain_points=8192,
        rates=(1e-3, 3e-4),
    ),
}


def network(inputs: int, outputs: int, width: int, depth: int, key: PRNGKeyArray) -> eqx.nn.MLP:
    out = outputs if outputs > 1 else "scalar"
    return eqx.nn.MLP(inputs, out, width, depth, jnp.tanh, key=key)


def compiled(solver: Solver, field: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
    """The first state and a compiled step."""
    state = eqx.filter_jit(solver.init)(field, key)
    return state, eqx.filter_jit(solver.step).lower(state).compile()


def ours(
    config: Config, statement: benchmarks.FieldProblem, key: PRNGKeyArray, log: Logger
) -> dict[str, float]:
    """Error, seconds without compilation, and steps of the ansatz with Levenberg-Marquardt."""
    assert statement.ansatz is not None
    net_key, key = jr.split(key)
    net = network(
        statement.ansatz.inputs, len(statement.components), config.width, config.depth, net_key
    )
    net = eqx.tree_at(lambda m: m.layers[0].weight, net, replace_fn=lambda w: config.frequency * w)
    problem = Problem.of(statement, n=config.points, shaped=True, sampler=R3())
    solver = Solver(problem, levenberg_marquardt(), curvature=True)
    state, step = compiled(solver, statement.shaped(net), key)
    start = time.perf_counter()
    with log.progress(config.steps, statement.name) as bar:
        for i in range(config.steps):
            state, metrics = step(state)
            if i % 10 == 9:
                bar.update(i + 1, loss=float(metrics["loss"]))
                log.metrics(i + 1, {name: float(v) for name, v in metrics.items()})
    jax.block_until_ready(state.field)
    seconds = time.perf_counter() - start
    error = float(statement.relative_error(state.field))
    return {"error": error, "seconds": seconds, "steps": config.steps}


def plain(
    config: Config,
    statement: benchmarks.FieldProblem,
    key: PRNGKeyArray,
    seconds: float,
    log: Logger,
) -> dict[str, float]:
    """The same for the plain network, with the best of the learning rates."""
    found = []
    with jax.enable_x64(False):
        for rate in config.rates:
            net_key, run_key = jr.split(key)
            net = network(
                statement.domain.dim,
                len(statement.components),
                config.plain_width,
                config.plain_depth,
                net_key,
            )
            n = config.plain_points
            problem = Problem.of(statement, n=n, boundary=max(4, 3 * n // 10))
            solver = Solver(problem, optax.adam(rate))
            state, step = compiled(solver, statement.plain(net), run_key)
            start, steps = time.perf_counter(), 0
            while steps == 0 or time.perf_counter() - start < seconds:
                state, metrics = step(state)
                jax.block_until_ready(metrics)
                steps += 1
            error = float(statement.relative_error(state.field))
            found.append({"error": error, "seconds": seconds, "steps": steps})
            log.metrics(steps, {"rate": rate, "error": error})
    return min(found, key=lambda row: row["error"])


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    rows = {}
    for i, name in enumerate(config.problems):
        statement = getattr(benchmarks.pinnacle, name)()
        own_key, plain_key = jr.split(jr.fold_in(key, i))
        a = ours(config, statement, own_key, log.scope(f"{name}-ours"))
        # Float32 keys and weights: the plain network's numbers are drawn in its own precision.
        b = plain(config, statement, plain_key, a["seconds"], log.scope(f"{name}-plain"))
        rows[name] = (a, b)
        log.say(
            f"{name}: ours {a['error']:.2e} after {a['steps']:.0f} steps, {a['seconds']:.1f} s; "
            f"plain {b['error']:.2e} after {b['steps']:.0f} steps"
        )
    failed = [name for name, (_, b) in rows.items() if b["error"] > 0.5]
    saved = [name for name in failed if rows[name][0]["error"] < 0.1]
    claims = [
        Claim(
            f"{name}: ours against the plain network",
            a["error"],
            "<",
            b["error"],
            f"relative L2 errors after {a['seconds']:.0f} s",
        )
        for name, (a, b) in rows.items()
    ]
    if failed:
        claims.append(
            Claim(
                "problems that the plain network fails are solved",
                len(saved) / len(failed),
                ">=",
                0.5,
                f"below 0.1: {', '.join(saved) or 'none'}; above 0.5 before: {', '.join(failed)}",
            )
        )
    metrics = {}
    for name, (a, b) in rows.items():
        metrics |= {f"ours_{name}": a["error"], f"plain_{name}": b["error"]}
        metrics |= {f"seconds_{name}": a["seconds"], f"plain_steps_{name}": b["steps"]}
    return Result(claims, metrics, {}, {"errors": draw(rows)})


def draw(rows: dict[str, tuple[dict[str, float], dict[str, float]]]) -> Figure:
    """Both errors of every problem, with the bounds of what counts as failed and as solved."""
    figure, axis = plt.subplots(figsize=(1.5 + 1.3 * max(4, len(rows)), 4), layout="constrained")
    places = np.arange(len(rows))
    for shift, index, label, color in ((-0.2, 1, "plain, Adam", "C7"), (0.2, 0, "ours", "C0")):
        heights = [pair[index]["error"] for pair in rows.values()]
        bars = axis.bar(places + shift, heights, 0.38, color=color, label=label)
        axis.bar_label(bars, [f"{h:.1e}" for h in heights], fontsize=8)
    for level, text in ((0.5, "failed above"), (0.1, "solved below")):
        axis.axhline(level, color="k", lw=0.7, ls=":")
        axis.text(len(rows) - 0.5, level, text, fontsize=8, ha="right", va="bottom")
    seconds = [f"{name}\n{pair[0]['seconds']:.0f} s" for name, pair in rows.items()]
    axis.set_xticks(places, seconds)
    axis.set(yscale="log", ylabel="relative L2 error", title="The same seconds for both")
    axis.margins(y=0.15)
    axis.legend()
    return figure
