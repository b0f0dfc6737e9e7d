"""Adversarial Adaptive Sampling: Unify PINN and Optimal Transport for the Approximation of PDEs

Tang, Zhai, Wan and Yang, arXiv:2305.18702.

**Claim.** Let the sampling density p be the opponent of the network in a game,
min over u, max over p of ∫ r² p − β ∫ |∇p|²: a normalizing flow p then puts points where residuals
are, the residual becomes flat, and a solution with sharp peaks is found more exactly than from as
many uniform or residual-adapted points.

**What is compared with what.**

1. *The flow alone*, against a residual r² that does not move, two bumps in a square: the L1
   distance of the trained density to the maximiser, which solves a Poisson equation, and the same
   distance of the uniform density.
2. *A peak*, −Δu = s in [−1, 1]² with u = exp(−k |x − x₀|²), x₀ = (½, ½), boundary values by
   construction: the same networks, Levenberg-Marquardt steps in double precision and number of
   points with uniform points, R3, RAD and adversarial ones; several seeds, medians compared. The
   best of several settings counts for each: uniform points that are new in each step, in each
   `period` of RAD, or never; two c of RAD; two β of AAS; R3 has none. RAD also evaluates residuals
   at `pool` points in each period, and AAS trains its flow: neither is counted. Residuals on a
   grid: their coefficient of variation, the deviation of r² over its mean, says how flat they are.

**Found** (quick, seeds 2 to 4 and 41, three networks each). The flow comes within 0.005 to 0.008 of
the maximiser, where the uniform density is 0.28 away. Median errors:

| seed | uniform | R3 | RAD | AAS |
|---|---|---|---|---|
| 2 | 0.079 | 0.022 | 0.071 | 0.014 |
| 3 | 0.153 | 0.030 | 0.028 | 0.026 |
| 4 | 0.067 | 0.026 | 0.046 | 0.028 |
| 41 | 0.053 | 0.024 | 0.060 | 0.028 |

AAS has less than half of the error of uniform points with three seeds and 0.52 of it with 41; less
than 0.8 of RAD's with three, not with 3: networks differ by more than these samplers do, and
neither claim is sure to hold. R3, which costs nothing, is as good as AAS with seeds 4 and 41 and
close with 3. What AAS alone does is to flatten the residual: its variation is 3.2 to 5.8,
against 15 to 17 for uniform points, 8 to 11 for R3, and 11 to 15 for RAD. Uniform points that are
new in every step, or that stay, leave errors above 1 (seeds 4 and 41): against these alone every
rule would look good. `full` and `paper` have not been run.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.autodiff import laplacian
from jaxsci.experiment import Above, Between, Claim, Logger, Result
from jaxsci.optim import levenberg_marquardt
from jaxsci.pde import Box
from jaxsci.pinn import (
    R3,
    RAD,
    AbstractSampler,
    AdversarialSampler,
    BoundedFlow,
    Constrained,
    Fixed,
    Problem,
    Solver,
    Term,
    Uniform,
    neumann_poisson_density,
)

SQUARE = Box((-1.0, -1.0), (1.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes of the two parts."""

    flow_steps: Annotated[int, Between(1)] = 800
    """updates of the flow alone"""
    flow_beta: Annotated[float, Above(0)] = 0.06
    """its β; the maximiser must stay positive"""
    blocks: Annotated[int, Between(1)] = 1
    """pairs of couplings in the flows"""
    bins: Annotated[int, Between(2)] = 12
    """bins of the couplings"""
    flow_width: Annotated[int, Between(2)] = 8
    """width of the flows' networks"""
    float64: bool = True
    """double precision: Gauss-Newton squares condition numbers"""
    sharpness: Annotated[float, Above(0)] = 100.0
    """k of the peak"""
    points: Annotated[int, Between(10)] = 400
    """collocation points"""
    width: Annotated[int, Between(2)] = 16
    """width of the hidden layers"""
    depth: Annotated[int, Between(1)] = 2
    """hidden layers"""
    steps: Annotated[int, Between(1)] = 200
    """updates of the network"""
    betas: tuple[float, ...] = (1e-3, 1e-2)
    """β of the adversarial sampler; the better one counts"""
    shares: tuple[float, ...] = (1.0, 0.0)
    """c of RAD, its share of uniform points; the better one counts"""
    period: Annotated[int, Between(1)] = 10
    """of RAD"""
    pool: Annotated[int, Between(10)] = 2000
    """of RAD"""
    flow_rate: Annotated[float, Above(0)] = 5e-3
    """Adam's learning rate for the flows"""
    seeds: Annotated[int, Between(1, 64)] = 3
    """trainings for each sampler"""


PRESETS = {
    "smoke": Config(
        flow_steps=2,
        bins=2,
        flow_width=2,
        points=20,
        width=2,
        depth=1,
        steps=2,
        betas=(1e-3,),
        shares=(1.0,),
        period=1,
        pool=20,
        seeds=1,
    ),
    "quick": Config(),
    "full": Config(
        flow_steps=4000, blocks=2, flow_width=16, points=500, width=20, steps=400, seeds=5
    ),
    "paper": Config(
        sharpness=1000.0,
        flow_steps=20_000,
        blocks=4,
        flow_width=32,
        points=2000,
        width=40,
        depth=3,
        steps=2000,
        seeds=5,
    ),
}


def midpoints(n: int) -> Float[Array, "n n 2"]:
    """The midpoints of n × n cells of the square."""
    side = -1 + (2 * jnp.arange(n) + 1) / n
    return jnp.stack(jnp.meshgrid(side, side, indexing="ij"), -1)


def bumps(x: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    """r² of the first part."""
    first = jnp.sum((x - jnp.array([0.4, 0.4])) ** 2, -1)
    second = jnp.sum((x + jnp.array([0.5, 0.3])) ** 2, -1)
    return jnp.exp(-20 * first) + 0.5 * jnp.exp(-20 * second) + 0.02


def make_flow(config: Config, key: PRNGKeyArray) -> BoundedFlow:
    return BoundedFlow(
        SQUARE, blocks=config.blocks, bins=config.bins, width=config.flow_width, key=key
    )


@jax.jit
def bumpy(x: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    return jnp.sqrt(bumps(x))


def flow_alone(
    trainer: "Trainer", flow: BoundedFlow, optimizer: optax.GradientTransformation
) -> dict[str, Any]:
    """The trained densities, the maximiser, and the distances of them and of the uniform one."""
    config = trainer.config
    beta: Any = jnp.asarray(config.flow_beta, float)
    sampler = AdversarialSampler(flow, beta, optimizer)
    rate = optax.cosine_decay_schedule(4 * config.flow_rate, config.flow_steps, 0.02)
    memory = trainer.begin(sampler)
    for i in range(config.flow_steps):
        params, state = memory.memory
        rates = jnp.full(config.seeds, rate(i), float)
        state = state._replace(hyperparams=state.hyperparams | {"learning_rate": rates})
        memory = dataclasses.replace(memory, memory=(params, state))
        key = jr.fold_in(trainer.key, i)
        # The field is not asked for: it is there so that the program is that of the second part.
        memory = trainer.move(sampler, memory, bumpy(memory.x), trainer.start.field, key)
    grid = midpoints(64)

    @eqx.filter_jit
    @eqx.filter_vmap
    def density(memory: Any) -> Array:
        return jnp.exp(jax.vmap(jax.vmap(sampler.density(memory).log_prob))(grid))

    found = density(memory)
    squared = bumps(grid)
    # In the sampler's units, r² over its mean, and β times volume and squared side.
    scaled = config.flow_beta * SQUARE.measure() * 4.0
    best = neumann_poisson_density(squared / jnp.mean(squared), scaled, SQUARE)
    cell = SQUARE.measure() / best.size
    distances = cell * jnp.sum(jnp.abs(found - best), (1, 2))
    return {
        "found": np.asarray(found[0]),
        "best": np.asarray(best),
        "points": np.asarray(memory.x[0]),
        "distance": float(jnp.median(distances)),
        "uniform": float(cell * jnp.sum(jnp.abs(1 / SQUARE.measure() - best))),
        "mass": float(cell * jnp.sum(found[0])),
        "least": float(jnp.min(best)),
    }


def peak(config: Config, sampler: AbstractSampler) -> Problem:
    """−Δu = s for the peak."""
    k = config.sharpness

    def exact(x: Array) -> Array:
        return jnp.exp(-k * jnp.sum((x - 0.5) ** 2))

    def equation(u: Any, x: Array) -> Array:
        squared = jnp.sum((x - 0.5) ** 2)
        source = (4 * k - 4 * k**2 * squared) * exact(x)
        # In units of the source at the peak.
        return (laplacian(u, x) + source) / (4 * k)

    return Problem(Term("equation", equation, SQUARE, config.points, sampler=sampler), exact=exact)


class Trainer:
    """Trainings that share their programs: the network's steps know nothing of the sampler."""

    def __init__(self, config: Config, key: PRNGKeyArray):
        self.config, self.key = config, key
        # These points stay where they are within a step; the samplers move them afterwards.
        self.problem = peak(config, Fixed())
        self.term = self.problem.terms[0]
        self.solver = Solver(self.problem, levenberg_marquardt(), curvature=True)
        self.grid = midpoints(100).reshape(-1, 2)

    @functools.cached_property
    def start(self) -> Any:
        """The first states of all seeds: their networks are the same for every sampler."""

        @eqx.filter_jit
        @eqx.filter_vmap
        def init(key: PRNGKeyArray) -> Any:
            net = network(self.config, key)
            return self.solver.init(Constrained(net, lambda x: jnp.zeros(()), mask), key)

        return init(jr.split(self.key, self.config.seeds))

    @functools.cached_property
    def step(self) -> Any:
        @eqx.filter_jit
        @eqx.filter_vmap
        def step(state: Any) -> tuple[Any, Array]:
            score = self.term.score(state.field, state.samplers["equation"].x)
            return self.solver.step(state)[0], score

        return step

    @functools.cached_property
    def measure(self) -> Any:
        @eqx.filter_jit
        @eqx.filter_vmap
        def measure(net: Any) -> dict[str, Array]:
            squared = self.term.score(net, self.grid) ** 2
            variation = jnp.std(squared) / jnp.mean(squared)
            error = self.problem.relative_error(net, self.grid)
            return {"error": error, "variation": variation, "squared": squared}

        return measure

    @functools.cached_property
    def move(self) -> Any:
        """The samplers' updates, one seed after the other: under vmap RAD would look at its pool in
        every step."""

        @eqx.filter_jit
        def move(sampler: AbstractSampler, memory: Any, score: Any, net: Any, key: Any) -> Any:
            arrays, rest = eqx.partition(net, eqx.is_array)

            def one(row: Any) -> Any:
                memory, score, arrays, key = row
                field = eqx.combine(arrays, rest)

                def evaluate(x: Array) -> Array:
                    return self.term.score(field, x)

                return sampler.update(memory, score, key, SQUARE.sample, evaluate)

            keys = jr.split(key, self.config.seeds)
            return jax.lax.map(one, (memory, score, arrays, keys))

        return move

    @functools.cached_property
    def begin(self) -> Any:
        """The samplers' first states."""
        keys, points = jr.split(self.key, self.config.seeds), self.config.points

        @eqx.filter_jit
        def begin(sampler: AbstractSampler) -> Any:
            states = eqx.filter_vmap(lambda key: sampler.init(key, SQUARE.sample, points))(keys)
            # Without weak types, which would make another program of the first update.
            return jax.tree.map(lambda a: jax.lax.convert_element_type(a, a.dtype), states)

        return begin

    def train(self, sampler: AbstractSampler, log: Logger, title: str) -> dict[str, np.ndarray]:
        """All seeds of one sampler: errors, and how uneven the residuals are in the end."""
        steps = self.config.steps
        memory = self.begin(sampler)
        state = self.start
        with log.progress(steps, title) as bar:
            for done in range(1, steps + 1):
                here = {"equation": dataclasses.replace(memory, memory=None)}
                state, score = self.step(dataclasses.replace(state, samplers=here))
                key = jr.fold_in(self.key, done)
                memory = self.move(sampler, memory, score, state.field, key)
                if done % 50 == 0 or done == steps:
                    error = float(jnp.median(self.measure(state.field)["error"]))
                    bar.update(done, error=error)
                    log.metrics(done, {"error": error})
        found = self.measure(state.field) | {"points": state.samplers["equation"].x[0]}
        return {name: np.asarray(value) for name, value in found.items()}


def network(config: Config, key: PRNGKeyArray) -> eqx.nn.MLP:
    """A tanh network whose first layer has its ridges in the square, in all directions."""
    net_key, weight_key, place_key = jr.split(key, 3)
    net = eqx.nn.MLP(2, "scalar", config.width, config.depth, jnp.tanh, key=net_key)
    weight = 3 * jr.normal(weight_key, (config.width, 2))
    places = jr.uniform(place_key, (config.width, 2), minval=-1, maxval=1)
    first = (weight, -jnp.sum(weight * places, 1))
    return eqx.tree_at(lambda m: (m.layers[0].weight, m.layers[0].bias), net, first)


def mask(x: Float[Array, " 2"]) -> Float[Array, ""]:
    return (1 - x[0] ** 2) * (1 - x[1] ** 2)


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    flow_key, key = jr.split(key)
    trainer = Trainer(config, key)
    flow = make_flow(config, flow_key)
    # Rates and other numbers as arrays: one program for all of a sampler's settings.
    adam = optax.inject_hyperparams(optax.adam)(learning_rate=config.flow_rate)
    alone = flow_alone(trainer, flow, adam)
    log.say(
        f"flow alone: L1 distance {alone['distance']:.3f} to the maximiser, uniform "
        f"{alone['uniform']:.3f}; mass {alone['mass']:.4f}, least value {alone['least']:.3f}"
    )
    shares, betas = (jnp.asarray(v, float) for v in (config.shares, config.betas))

    def rad(k: Any, c: Any) -> RAD:
        return RAD(k, c, config.pool, config.period)

    samplers: dict[str, list[AbstractSampler]] = {
        # RAD with k = 0 draws uniform points, as rarely as it does.
        "uniform": [Uniform(), Fixed(), rad(jnp.zeros(()), shares[0])],
        "R3": [R3()],
        "RAD": [rad(jnp.ones(()), c) for c in shares],
        "AAS": [AdversarialSampler(flow, beta, adam) for beta in betas],
    }
    found = {}
    for name, variants in samplers.items():
        tried = [
            trainer.train(sampler, log.scope(f"{name}-{i}"), f"peak, {name}")
            for i, sampler in enumerate(variants)
        ]
        medians = [float(np.median(row["error"])) for row in tried]
        found[name] = tried[int(np.argmin(medians))]
        log.say(
            f"peak, {name}: medians of its settings {np.round(medians, 4)}, best errors "
            f"{np.round(found[name]['error'], 4)}, "
            f"variation of r² {np.round(found[name]['variation'], 1)}"
        )
    errors = {name: float(np.median(row["error"])) for name, row in found.items()}
    uneven = {name: float(np.median(row["variation"])) for name, row in found.items()}
    claims = [
        Claim(
            "flow alone: the maximiser is found",
            alone["distance"],
            "<",
            0.1,
            "L1 distance to it, median",
        ),
        Claim(
            "flow alone: against the uniform density",
            alone["distance"],
            "<=",
            alone["uniform"] / 3,
            f"target: a third of {alone['uniform']:.3f}",
        ),
        Claim(
            "peak: AAS against uniform points",
            errors["AAS"],
            "<=",
            0.5 * errors["uniform"],
            f"relative L2 errors, medians; target: half of {errors['uniform']:.4f}",
        ),
        Claim(
            "peak: AAS against RAD",
            errors["AAS"],
            "<=",
            0.8 * errors["RAD"],
            f"relative L2 errors, medians; target: 0.8 of {errors['RAD']:.4f}",
        ),
        Claim(
            "peak: the residual is flatter than from uniform points",
            uneven["AAS"],
            "<=",
            uneven["uniform"] / 2,
            f"standard deviation of r² over its mean; target: half of {uneven['uniform']:.3g}",
        ),
    ]
    metrics = {f"error_{name}": value for name, value in errors.items()}
    metrics |= {f"variation_{name}": value for name, value in uneven.items()}
    metrics |= {name: alone[name] for name in ("distance", "uniform", "mass", "least")}
    arrays = {f"errors_{name}": row["error"] for name, row in found.items()}
    figures = {"flow": draw_flow(alone), "peak": draw_peak(config, found)}
    return Result(claims, metrics, arrays, figures)


def draw_flow(alone: dict[str, Any]) -> Figure:
    """The maximiser, the first seed's density with its points, and the difference."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.5), layout="constrained")
    side = np.asarray(midpoints(64)[:, 0, 0])
    top = float(alone["best"].max())
    mesh = None
    for axis, name in zip(axes, ("best", "found"), strict=False):
        mesh = axis.pcolormesh(side, side, alone[name].T, vmin=0, vmax=top, rasterized=True)
    assert mesh is not None
    axes[1].plot(*alone["points"][:300].T, ".", ms=2, color="w")
    figure.colorbar(mesh, ax=axes[:2], label="density")
    gap = (alone["found"] - alone["best"]).T
    bound = float(np.abs(gap).max())
    mesh = axes[2].pcolormesh(
        side, side, gap, vmin=-bound, vmax=bound, cmap="RdBu", rasterized=True
    )
    figure.colorbar(mesh, ax=axes[2])
    for axis, title in zip(
        axes,
        (
            "maximiser",
            "flow and its points",
            f"flow − maximiser (L1: {alone['distance']:.4f})",
        ),
        strict=True,
    ):
        axis.set(title=title, aspect="equal", xlabel="x")
    axes[0].set_ylabel("y")
    return figure


def draw_peak(config: Config, found: dict[str, dict[str, np.ndarray]]) -> Figure:
    """The first seed's residuals and last points for each sampler, and all errors."""
    figure, axes = plt.subplots(1, 5, figsize=(17, 3.6), layout="constrained")
    side = np.asarray(midpoints(100)[:, 0, 0])
    fields = {n: np.log10(row["squared"][0] + 1e-16).reshape(100, 100) for n, row in found.items()}
    low, high = (pick(list(fields.values())) for pick in (np.min, np.max))
    mesh = None
    for axis, (name, field) in zip(axes, fields.items(), strict=False):
        mesh = axis.pcolormesh(
            side, side, field.T, vmin=max(low, high - 8), vmax=high, rasterized=True
        )
        axis.plot(*found[name]["points"].T, ".", ms=2, color="tab:red")
        axis.set(title=name, aspect="equal", xlabel="x")
    axes[0].set_ylabel("y")
    assert mesh is not None
    figure.colorbar(mesh, ax=axes[:4], label="log₁₀ r²")
    for i, row in enumerate(found.values()):
        axes[4].semilogy(np.full(len(row["error"]), i), row["error"], "o", alpha=0.7)
    axes[4].set_xticks(range(len(found)), list(found))
    axes[4].set(title=f"relative L2 error, {config.steps} steps", ylabel="all seeds")
    return figure
