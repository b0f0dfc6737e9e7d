"""NeuralStagger: Accelerating Physics-constrained Neural PDE Solver with Spatial-temporal Decomposition

Huang et al., arXiv:2302.10255.

**Claim.** A fine prediction splits into coarse, independent ones: s tiles on each axis and s_T times,
each with a network of its own, trained together by the residual of a numerical scheme. Each takes a
small part of the time of the whole, and the prediction is nearly as good.

**What is compared with what.** Burgers' equation on a circle. Random initial fields are followed
for all `frames` by the network itself; the loss is the defect of the midpoint rule on the fine grid
and the fine time step. No solution is seen. Split networks (`splits`: pairs s, s_T) against one
network for the whole field (s = s_T = 1); all are Fourier neural operators of one size, with the
same fields, updates and rate: 1e-2 was the best of 3e-3, 1e-2, 3e-2 for each of them, with a seed
that no result is reported for. The tiles' networks are either the paper's, one for each
(*separate*), or one for all tiles of a time (*shared*). Errors are those of the last frame, for
unseen fields, against a solver in small time steps.

Costs are floating-point operations, for one frame, as XLA counts them: of one subtask alone (what
there is to wait for if every subtask has a device), and of all subtasks (what a single busy device
has to do; more than the whole).

**Found.** With one network for all tiles the claim holds: with seeds 8, 9, 10 the medians of five
trainings are 0.0151, 0.0142, 0.0110 for s = s_T = 2 and 0.0106, 0.0147, 0.0115 for the whole. (Of
three trainings they were 1.36, 1.35 and 1.55 times the whole's, with seeds 5, 6, 7; that is why
there are five.) s costs nearly nothing (1.04 for s = 2 alone, in one training with shorter frames),
s_T does: the second frame is a longer step.

With a network for each tile, as the paper has it, the claim does not hold at this budget: 0.21 to
0.24, not far from standing still (0.5); after 1600 updates, again in one training with shorter
frames, it was 0.08, and the whole 0.003. The tiles' networks differ at the start, so the field that
they are put together to has a ripple from point to point (`energy_above_2`, more than a hundred times
the whole's), which weighs most in a residual with second derivatives: it seems that training first
has to make the networks agree. A shared network commutes with shifts, so that its tiles agree from
the start.

All subtasks together cost a little more than the whole: what is gained is the wait for one of them.
"""  # noqa: E501

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import exponax
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
from jaxsci.operators import (
    FNO,
    Staggered,
    energy_above_tiles,
    forecast,
    physics_residual,
    relative_l2,
)
from jaxsci.pde import ExponaxStepper, GaussianRandomField, Grid, burgers_residual, rollout
from jaxsci.train import ArraySource, fit


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes and budgets."""

    splits: tuple[tuple[int, int], ...] = ((2, 2),)
    """pairs (s, s_T) that are compared with (1, 1)"""
    seeds: Annotated[int, Between(1, 32)] = 5
    """trainings of each; medians are compared"""
    points: Annotated[int, Between(16, 4096)] = 64
    """grid points"""
    frames: Annotated[int, Between(2, 1000)] = 12
    """length of the rollout, in frames; every s_T must divide it"""
    dt: Annotated[float, Above(0)] = 0.025
    """time between frames"""
    viscosity: Annotated[float, Above(0)] = 0.01
    """ν, on the unit circle"""
    width: Annotated[int, Between(2, 512)] = 16
    """channels of each network"""
    modes: Annotated[int, Between(1, 1024)] = 12
    """wavenumbers of each network"""
    depth: Annotated[int, Between(1, 32)] = 2
    """layers of each network"""
    separate: bool = True
    """also with a network for each tile"""
    steps: Annotated[int, Between(1)] = 300
    """updates"""
    batch: Annotated[int, Between(1)] = 4
    """initial fields in a batch"""
    fields: Annotated[int, Between(1)] = 2048
    """initial fields to train with"""
    tests: Annotated[int, Between(1)] = 16
    """unseen initial fields"""
    rate: Annotated[float, Above(0)] = 1e-2
    """learning rate of Adam"""

    def __post_init__(self):
        super().__post_init__()
        for s, s_t in self.splits:
            if self.points % s or self.frames % s_t:
                raise ValueError(
                    f"splits: s must divide points={self.points} and s_T frames={self.frames}, "
                    f"got {(s, s_t)}"
                )


PRESETS = {
    "smoke": Config(
        separate=False,
        seeds=1,
        points=16,
        frames=2,
        width=4,
        modes=4,
        depth=1,
        steps=2,
        batch=2,
        tests=2,
        fields=4,
    ),
    "quick": Config(),
    "full": Config(splits=((2, 1), (2, 2), (4, 1), (4, 4)), steps=1500),
    "paper": Config(
        splits=((2, 1), (2, 2), (4, 1), (4, 2), (8, 4)),
        points=1024,
        frames=64,
        width=64,
        modes=32,
        depth=4,
        steps=50000,
        batch=64,
        tests=128,
    ),
}

# Fields of about eight waves, whose size is of order one.
LAW = GaussianRandomField(alpha=2.5, tau=7.0, n_modes=8)


class Kind(NamedTuple):
    """How a prediction is split."""

    s: int
    s_t: int
    shared: bool

    @property
    def name(self) -> str:
        return f"s{self.s}_t{self.s_t}" + ("" if self.shared else "_separate")

    @property
    def label(self) -> str:
        if self == WHOLE:
            return "whole"
        return f"s = {self.s}, $s_T$ = {self.s_t}, " + ("shared" if self.shared else "separate")


WHOLE = Kind(1, 1, True)


def make_stepper(kind: Kind, config: Config, key: PRNGKeyArray) -> Staggered:
    def make_net(key):
        return FNO(
            1,
            1,
            1,
            width=config.width,
            modes=config.modes,
            depth=config.depth,
            lifting=None,
            grid=False,
            key=key,
        )

    return Staggered(make_net, *kind, residual=0.1, ndim=1, key=key)


def stack(models: list[Any]) -> Any:
    """Models of one kind as one model, whose arrays have a leading axis."""
    arrays, static = zip(*(eqx.partition(model, eqx.is_array) for model in models), strict=True)
    return eqx.combine(jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *arrays), static[0])


def train(
    kind: Kind,
    fields: Float[Array, "n 1 x"],
    config: Config,
    make_key: PRNGKeyArray,
    train_key: PRNGKeyArray,
    log: Logger,
) -> Staggered:
    """Trains all seeds at once: their losses are added up, and Adam works entry by entry."""
    steppers = stack([make_stepper(kind, config, k) for k in jr.split(make_key, config.seeds)])
    residual = burgers_residual(config.dt, config.viscosity)
    recipe = physics_residual(residual, config.frames // kind.s_t, cut_every=1)

    def loss(steppers, batch, key):
        del key
        (fields,) = batch

        def one(stepper):
            return jnp.mean(jax.vmap(lambda u: recipe(stepper, u[None])[0])(fields))

        # In units of the change in a step, which is about dt.
        return jnp.sum(eqx.filter_vmap(one)(steppers)) / config.dt**2

    # Random fields in the order in which they were drawn.
    source = ArraySource((fields,), config.batch, shuffle=False)
    optimizer = optax.adam(optax.cosine_decay_schedule(config.rate, config.steps, 0.01))
    return fit(
        steppers,
        loss,
        optimizer,
        source,
        steps=config.steps,
        key=train_key,
        log=log,
        steps_per_dispatch=1,
    ).model


@eqx.filter_jit
def judge(steppers: Staggered, fields: Float[Array, "n 1 x"], truth: Float[Array, "n t 1 x"]):
    """Of all seeds: relative errors "seeds t", the last frames' energy above the tiles' Nyquist
    wavenumber of s = 2, and the first field's last frame of the first seed."""

    def one(stepper):
        found = jax.vmap(lambda u: forecast(stepper, u[None], truth.shape[1]))(fields)
        errors = jax.vmap(jax.vmap(relative_l2))(found, truth)
        above = jax.vmap(lambda u: energy_above_tiles(u, 2))(found[:, -1])
        return jnp.mean(errors, 0), jnp.median(above), found[0, -1, 0]

    errors, above, last = eqx.filter_vmap(one)(steppers)
    return errors, jnp.median(above), last[0]


def solve(config: Config, fields: Float[Array, "n 1 x"]):
    """The true frames "n frames 1 x", the last one's distance from the first, and its energy above
    the tiles' Nyquist wavenumber of s = 2."""
    substeps = 20
    solver = exponax.stepper.Burgers(
        1, 1.0, config.points, config.dt / substeps, diffusivity=config.viscosity
    )

    def run(u):
        frames = rollout(ExponaxStepper(solver), u, config.frames * substeps, every=substeps)
        return frames, relative_l2(u, frames[-1]), energy_above_tiles(frames[-1], 2)

    frames, still, above = jax.jit(jax.vmap(run))(fields)
    return frames, jnp.mean(still), jnp.median(above)


def costs(kind: Kind, config: Config, key: PRNGKeyArray) -> tuple[float, float]:
    """Operations for a frame, as XLA counts them: of one subtask, and of all of them."""
    stepper = make_stepper(kind, config, key)
    u = jnp.ones((1, config.points))
    arrays, static = eqx.partition(stepper, eqx.is_array)

    def one(arrays, u):
        return eqx.combine(arrays, static).subtask(u, 0, 1)

    def everything(arrays, u):
        return eqx.combine(arrays, static).predict(u[None])

    found = []
    for function in (one, everything):
        cost: Any = jax.jit(function).lower(arrays, u).cost_analysis()
        # Both are asked for once in s_T frames.
        found.append(float(cost["flops"]) / kind.s_t)
    return found[0], found[1]


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    make_key, train_key, field_key = jr.split(key, 3)
    grid = Grid(0.0, 1.0, config.points, periodic=True)
    sample = jax.jit(jax.vmap(lambda k: LAW.sample(k, grid)))
    drawn = sample(jr.split(field_key, config.tests + config.fields))
    fields, training = drawn[: config.tests], drawn[config.tests :]
    truth, still, energy = solve(config, fields)
    kinds = [WHOLE, *(Kind(s, s_t, True) for s, s_t in config.splits)]
    if config.separate:
        kinds += [Kind(s, s_t, False) for s, s_t in config.splits]
    errors, shown, alone = {}, {}, {}
    metrics = {"error_of_standing_still": float(still), "energy_above_2_solver": float(energy)}
    for kind in kinds:
        steppers = train(kind, training, config, make_key, train_key, log.scope(kind.name))
        found, above, last = judge(steppers, fields, truth)
        errors[kind], shown[kind] = np.asarray(found), np.asarray(last)
        alone[kind], total = costs(kind, config, make_key)
        metrics |= {
            f"error_{kind.name}": float(np.median(errors[kind][:, -1])),
            f"energy_above_2_{kind.name}": float(above),
            f"operations_subtask_{kind.name}": alone[kind],
            f"operations_all_{kind.name}": total,
        }
    whole = metrics[f"error_{WHOLE.name}"]
    claims = []
    for kind in kinds[1:]:
        networks = "one network for all tiles" if kind.shared else "a network for each tile"
        claims.append(
            Claim(
                f"s = {kind.s}, s_T = {kind.s_t}, {networks}: nearly as good as the whole",
                metrics[f"error_{kind.name}"],
                "<=",
                1.5 * whole,
                f"relative L2 error of the last frame; target: 1.5 x {whole:.3g}",
            )
        )
        if kind.shared:
            claims.append(
                Claim(
                    f"s = {kind.s}, s_T = {kind.s_t}: what one subtask costs",
                    alone[kind],
                    "<=",
                    alone[WHOLE] / (0.8 * kind.s * kind.s_t),
                    f"operations for a frame; target: {alone[WHOLE]:.3g} over 0.8 s s_T",
                )
            )
    arrays = {f"errors_{kind.name}": found for kind, found in errors.items()}
    figure = draw(errors, shown, np.asarray(fields[0, 0]), np.asarray(truth[0, -1, 0]), config)
    return Result(claims, metrics, arrays, {"rollout": figure})


def draw(errors: dict, shown: dict, first: np.ndarray, truth: np.ndarray, config: Config) -> Figure:
    """One unseen field at the end, and how errors grow."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    x = np.arange(config.points) / config.points
    times = config.dt * np.arange(1, config.frames + 1)
    left.plot(x, first, color="grey", ls=":", label="initial")
    left.plot(x, truth, color="black", label="solver")
    for number, (kind, found) in enumerate(errors.items()):
        color = f"C{number}"
        left.plot(x, shown[kind], color=color, ls="--", label=kind.label)
        right.semilogy(times, found.T, color=color, alpha=0.6)
    left.set(xlabel="$x$", ylabel="$u$", title=f"an unseen field at t = {times[-1]:.2g}")
    right.set(xlabel="$t$", ylabel="relative $L^2$ error", title="unseen fields, a line a training")
    # Curves are elsewhere for every seed.
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    return figure
