"""Long series in few steps: the log-ODE method

Morrill, Salvi, Kidger, Foster and Lyons, arXiv:2009.08295; chapter 3 of Kidger's thesis,
arXiv:2202.02435.

**Claims.** A controlled differential equation (CDE) may take a long window of readings in one step
if it is given the window's log-signature. Its second level, the areas that the readings sweep in a
window, holds what subsampling loses; and as the steps are few, so trained it is more accurate than
a CDE that steps through all readings for at least as long.

**Problem.** Dead reckoning. A robot reports how far its wheels have rolled, s, and its heading, θ:

    dx = cos θ ds,    dy = sin θ ds

A slow trip is overlaid with a fast wobble of both, whose phase lag changes slowly. As when one
parks a car in many small moves, the wobble carries the robot sideways, by an area per cycle. From
the readings of (s, θ) the end (x, y) is to be predicted. Between readings the motion is uniform, so
the truth is exact.

**What is compared with what.** All see the same training series. The error is the root mean square
over test series relative to that of predicting (0, 0).

1. *The equations known*: `LogODE` with the true field, depths 1 and 2, one window a step. No
   training: what the windows let through.
2. *The equations learnt*: `LogODE` of depths 1 and 2; a `NeuralCDE` that takes a step from reading
   to reading, with an eighth of their updates, which still take longer; and a recurrent network
   (GRU, about as many weights) that reads the same log-signatures, with eight times the updates.
   Each has its learning rate chosen on validation series, the same ones being tried.

**Found** (quick, seeds 3, 4, 11, 12; about two minutes). With the true field the windows of depth
2 leave an error of 0.08 to 0.09, those of depth 1 one of 0.76 to 0.82. Learnt, depth 2 has 0.21,
0.23, 0.23, 0.21, depth 1 0.79 to 0.85, the CDE on all readings 0.51, 0.42, 0.42, 0.52 in twice the
time of depth 2: an update teaches it as much, but with as many of them it would take 16 times as
long. The recurrent network learns its 256 series by heart (training error 0.03 or less) and has
0.87 to 1.0 on others; one that read all readings had 0.94. The problem is a controlled equation by
nature, so this is the best case of a CDE: where the data follow no such law, the order may be
another. `full` and `paper` have not been run.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci import experiment
from jaxsci.dynamics import CDEField, LogODE, NeuralCDE
from jaxsci.experiment import Between, Claim, Logger, Result


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    readings: Annotated[int, Between(8, 100_000)] = 512
    """steps of a series"""
    window: Annotated[int, Between(2, 1000)] = 32
    """steps of a series that are taken at once"""
    seeds: Annotated[int, Between(0, 100)] = 3
    """trainings with each learning rate, each on series of its own; 0 leaves the networks out"""
    rates: tuple[float, ...] = (1e-2, 3e-2)
    """learning rates that are tried"""
    updates: Annotated[int, Between(8)] = 200
    """updates in a training"""
    share: Annotated[int, Between(1, 100)] = 8
    """the CDE on all readings has this fraction of the updates"""
    longer: Annotated[int, Between(1, 100)] = 8
    """the recurrent network on log-signatures has so many times the updates"""
    batch: Annotated[int, Between(1)] = 32
    """series in an update"""
    series: Annotated[int, Between(8)] = 256
    """series for training"""
    test: Annotated[int, Between(8)] = 300
    """series for the test, as many for validation"""


PRESETS = {
    "smoke": Config(readings=16, window=8, seeds=0, series=8, test=8),
    "quick": Config(),
    "full": Config(readings=1024, rates=(3e-3, 1e-2, 3e-2, 1e-1), updates=400, series=1024),
    "paper": Config(
        readings=8192, window=64, seeds=5, rates=(1e-3, 3e-3, 1e-2, 3e-2), updates=5000, series=4096
    ),
}  # fmt: skip
HIDDEN = 12
UNITS = 20
"""of a GRU: as many weights as the CDE has, or more"""
READINGS_PER_CYCLE = 21
"""of the wobble, so that a window has one or two cycles"""

Data = tuple[Float[Array, "series n 2"], Any, Float[Array, "series 2"]]
"""readings, their windows of depth 2, and ends; for training, validation and test in a row"""


def trips(
    key: PRNGKeyArray, count: int, readings: int
) -> tuple[Float[Array, "count n 2"], Float[Array, "count 2"]]:
    """Readings of (s, θ) over a unit of time, from (0, 0), and the end (x, y)."""

    def slow(key: PRNGKeyArray) -> Float[Array, " n"]:
        waves = jnp.arange(1, 4)[:, None]
        size_key, phase_key = jr.split(key)
        angle = jnp.pi * waves * t + jr.uniform(phase_key, (3, 1), maxval=2 * jnp.pi)
        return jnp.sum(jr.normal(size_key, (3, 1)) / waves * jnp.sin(angle), axis=0)

    def one(key: PRNGKeyArray) -> tuple[Array, Array]:
        keys = jr.split(key, 5)
        cycles = readings / READINGS_PER_CYCLE * jr.uniform(keys[0], minval=0.8, maxval=1.2)
        angle = 2 * jnp.pi * (cycles * t + jr.uniform(keys[1]))
        distance = slow(keys[2]) + 0.15 * jnp.cos(angle)
        heading = slow(keys[3]) + 0.5 * jnp.sin(angle + jnp.pi * slow(keys[4]))
        u = jnp.stack([distance - distance[0], heading - heading[0]], axis=1)
        return u, dead_reckoning(u)[-1]

    t = jnp.linspace(0, 1, readings + 1)
    return jax.vmap(one)(jr.split(key, count))


def dead_reckoning(u: Float[Array, "n 2"]) -> Float[Array, "n-1 2"]:
    """Where the robot is after each reading but the first, if it moves on arcs between them."""
    ds, turn = jnp.diff(u, axis=0).T
    chord = ds * jnp.sinc(turn / 2 / jnp.pi)
    middle = u[:-1, 1] + turn / 2
    return jnp.cumsum(chord[:, None] * jnp.stack([jnp.cos(middle), jnp.sin(middle)], axis=1), 0)


def kinematics(t: Any, z: Float[Array, " 3"], args: Any) -> Float[Array, "3 3"]:
    """The true field, of z = (x, y, θ) along (t, s, θ)."""
    zero, one = jnp.zeros(()), jnp.ones(())
    rows = ([zero, jnp.cos(z[2]), zero], [zero, jnp.sin(z[2]), zero], [zero, zero, one])
    return jnp.stack([jnp.stack(row) for row in rows])


class GRU(eqx.Module):
    """Reads the log-signatures of one window after the other, then two numbers."""

    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear

    def __init__(self, key: PRNGKeyArray):
        keys = jr.split(key)
        self.cell = eqx.nn.GRUCell(6, UNITS, key=keys[0])
        self.readout = eqx.nn.Linear(UNITS, 2, key=keys[1])

    def __call__(self, rows: Float[Array, "n 6"]) -> Float[Array, " 2"]:
        h, _ = jax.lax.scan(lambda h, row: (self.cell(row, h), None), jnp.zeros(UNITS), rows)
        return self.readout(h)


@dataclass(frozen=True)
class Method:
    """A network, and what it reads of a series: of the readings and of the windows of depth 2."""

    make: Callable[[PRNGKeyArray], Any]
    reads: Callable[[Float[Array, "n 2"], Any], Any]
    apply: Callable[[Any, Any], Float[Array, " 2"]]
    updates: int


def cde_parts(key: PRNGKeyArray) -> dict[str, Any]:
    keys = jr.split(key, 3)
    return {
        "initial": eqx.nn.Linear(3, HIDDEN, key=keys[0]),
        "field": CDEField(HIDDEN, 3, 32, 1, key=keys[1]),
        "readout": eqx.nn.Linear(HIDDEN, 2, key=keys[2]),
    }


def methods(config: Config) -> dict[str, Method]:
    """What is compared, by name."""
    ts = jnp.linspace(0, 1, config.readings + 1)

    def all_readings(key: PRNGKeyArray) -> NeuralCDE:
        return NeuralCDE(
            **cde_parts(key),
            interpolation="linear",
            solver=dfx.Heun(),
            controller=dfx.ConstantStepSize(),
            adjoint=dfx.RecursiveCheckpointAdjoint(checkpoints=config.readings + 1),
            dt0=1 / config.readings,
            max_steps=config.readings + 2,
        )

    def signatures(u: Array, windows: Any) -> Float[Array, "n 6"]:
        increments, areas = windows[0]
        upper = [areas[:, i, j] for i, j in ((0, 1), (0, 2), (1, 2))]
        rows = jnp.concatenate([increments, jnp.stack(upper, axis=1)], axis=1)
        # What a recurrent network likes: columns of mean square one.
        return rows / jnp.sqrt(jnp.mean(rows**2, axis=0) + 1e-12)

    table = {
        "log-ODE, depth 2": Method(
            lambda key: LogODE(
                **cde_parts(key),
                window=config.window,
                max_steps=1,
                adjoint=dfx.RecursiveCheckpointAdjoint(checkpoints=1),
            ),
            lambda u, windows: windows,
            lambda model, windows: model.from_windows(*windows).ys,
            config.updates,
        ),
        "CDE, all readings": Method(
            all_readings,
            lambda u, windows: u,
            lambda model, u: model(ts, u).ys,
            max(1, config.updates // config.share),
        ),
        "GRU, log-signatures": Method(
            GRU, signatures, lambda model, rows: model(rows), config.longer * config.updates
        ),
    }
    return table


def train(
    method: Method, rate: Float[Array, ""], data: Data, key: PRNGKeyArray, config: Config
) -> tuple[Float[Array, " 2"], Float[Array, " updates"], Float[Array, "test 2"]]:
    """Errors on the validation and the test series, the losses, and the predictions of the test."""
    readings, windows, ends = data
    features = jax.vmap(method.reads)(readings, windows)
    model_key, batch_key = jr.split(key)
    moving, static = eqx.partition(method.make(model_key), eqx.is_inexact_array)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(rate, method.updates)),  # pyright: ignore
    )

    def predict(moving: Any, rows: Any) -> Float[Array, "b 2"]:
        return jax.vmap(lambda f: method.apply(eqx.combine(moving, static), f))(rows)

    def loss(moving: Any, rows: Array) -> Float[Array, ""]:
        chosen = jax.tree.map(lambda a: a[rows], features)
        return jnp.mean((predict(moving, chosen) - ends[rows]) ** 2)

    def update(carry: Any, key: PRNGKeyArray) -> tuple[Any, Array]:
        moving, state = carry
        rows = jr.randint(key, (config.batch,), 0, config.series)
        value, gradient = jax.value_and_grad(loss)(moving, rows)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(moving, updates), state), value

    keys = jr.split(batch_key, method.updates)
    (moving, _), losses = jax.lax.scan(update, (moving, optimizer.init(moving)), keys)
    unseen = jax.tree.map(lambda a: a[config.series :], (features, ends))
    found = predict(moving, unseen[0])
    halves = [slice(0, config.test), slice(config.test, None)]  # validation, test
    errors = [relative_error(found[rows], unseen[1][rows]) for rows in halves]
    return jnp.stack(errors), losses, found[config.test :]


def relative_error(found: Float[Array, "n 2"], true: Float[Array, "n 2"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.mean((found - true) ** 2) / jnp.mean(true**2))


def without_areas(levels: Any) -> Any:
    """Depth 1 is depth 2 without areas: one program for both."""
    return levels[0], jnp.zeros_like(levels[1])


def known(data: Data) -> tuple[dict[str, float], dict[str, Array]]:
    """Errors of the log-ODE with the true field, and the ends that it predicts."""
    _, (levels, starts), ends = data

    def end(levels: Any, start: Array) -> Float[Array, " 2"]:
        model = LogODE(
            initial=lambda start: jnp.zeros(3),
            field=kinematics,
            readout=lambda z: z[:2],
            solver=dfx.Tsit5(),
            dt0=0.25,
        )
        return model.from_windows(levels, start).ys

    both = jax.tree.map(lambda *a: jnp.stack(a), without_areas(levels), levels)
    found = jax.jit(jax.vmap(jax.vmap(end), (0, None)))(both, starts)
    by_depth = {f"true field, depth {depth}": found[depth - 1] for depth in (1, 2)}
    return {name: float(relative_error(f, ends)) for name, f in by_depth.items()}, by_depth


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    # This generator compiles in a fraction of the default one's time.
    data_key, fit_key = jr.split(jr.key(jr.bits(key), impl="rbg"))
    ts = jnp.linspace(0, 1, config.readings + 1)
    signatures = LogODE(**cde_parts(data_key), window=config.window)

    @jax.jit
    @jax.vmap
    def draw(key: PRNGKeyArray) -> Data:
        u, ends = trips(key, config.series + 2 * config.test, config.readings)
        windows = jax.vmap(lambda u: signatures.windows(ts, u))(u)
        return u, windows, ends

    data = draw(jr.split(data_key, max(1, config.seeds)))
    shown = jax.tree.map(lambda a: a[0, -config.test :], data)
    metrics, by_depth = known(shown)
    figure, axis = plt.subplots(figsize=(5, 4), layout="constrained")
    draw_trip(axis, np.asarray(shown[0]), np.asarray(shown[2]), by_depth)
    figures: dict[str, Any] = {"true_field": figure}
    spread = jnp.std(data[2][:, : config.series], axis=(1, 2), keepdims=True)
    data = (*data[:2], data[2] / spread)
    for name, value in metrics.items():
        log.say(f"{name}: {value:.3f}")
    steps = f"{config.readings} readings, {config.window} a step"
    claims = [
        Claim("equations known: the areas hold what subsampling loses",
              metrics["true field, depth 2"], "<=", 0.3 * metrics["true field, depth 1"],
              f"{steps}; target: 0.3 of depth 1"),
    ]  # fmt: skip
    if config.seeds == 0:
        return Result(claims, metrics, {}, figures)
    rows = {}
    levels, starts = data[1]
    runs = [(name, method, data) for name, method in methods(config).items()]
    flat = (data[0], (without_areas(levels), starts), data[2])
    runs.insert(0, ("log-ODE, depth 1", runs[0][1], flat))
    keys, rates = jr.split(fit_key, config.seeds), jnp.array(config.rates)

    @functools.cache
    def program(method: Method) -> Any:
        def one(rate: Array, data: Any, key: PRNGKeyArray) -> Any:
            return train(method, rate, data, key, config)

        over_seeds = jax.vmap(one, (None, 0, 0))
        over_rates = jax.vmap(over_seeds, (0, None, None))
        return jax.jit(over_rates).lower(rates, data, keys).compile()

    with log.progress(len(runs), "networks") as bar:
        for name, method, read in runs:
            compiled = program(method)
            start = time.perf_counter()
            errors, losses, ends = jax.block_until_ready(compiled(rates, read, keys))
            seconds = time.perf_counter() - start
            # A rate that diverged is not chosen.
            best = int(jnp.argmin(jnp.nan_to_num(jnp.median(errors[:, :, 0], axis=1), nan=jnp.inf)))
            rows[name] = row = {
                "error": float(jnp.median(errors[best, :, 1])),
                "rate": config.rates[best],
                "updates": method.updates,
                "seconds": seconds / config.seeds / len(config.rates),
                "weights": weights(method.make(jr.key(0))),
                "losses": np.asarray(losses[best]),
                "ends": np.asarray(ends[best, 0]),
            }
            log.say(f"{name}: {row['error']:.3f}, {row['seconds']:.2f} s a training")
            bar.update(len(rows))

    two, one, full = (
        rows[name]["error"]
        for name in ("log-ODE, depth 2", "log-ODE, depth 1", "CDE, all readings")
    )
    claims += [
        Claim("equations learnt: depth 2 better than depth 1", two, "<=", 0.6 * one,
              f"{steps}; target: 0.6 of depth 1"),
        Claim("better than a CDE on all readings in less time", two, "<", full,
              f"which has 1/{config.share} of the updates"),
        Claim("better than a recurrent network on the same log-signatures",
              two, "<", rows["GRU, log-signatures"]["error"],
              f"which has {config.longer} times the updates"),
    ]  # fmt: skip
    for name, row in rows.items():
        metrics |= {f"{name}, {k}": v for k, v in row.items() if k not in ("losses", "ends")}
    sample = [np.asarray(a[0, -config.test :]) for a in (data[0], data[2])]
    figures["log_ode"] = plot(rows, sample)
    return Result(claims, metrics, {}, figures)


def weights(model: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def draw_trip(
    axis: Any,
    readings: Float[np.ndarray, "trips n 2"],
    ends: Float[np.ndarray, "trips 2"],
    found: dict[str, Any],
) -> None:
    """The trip on which the first of the predictions has its median error."""
    first = np.asarray(next(iter(found.values())))
    row = int(np.argsort(np.sum((first - ends) ** 2, axis=1))[len(ends) // 2])
    path = np.asarray(dead_reckoning(jnp.asarray(readings[row])))
    # Networks are trained in units of the ends' spread.
    scale = np.linalg.norm(ends[row]) / np.linalg.norm(path[-1])
    axis.plot(*(path.T * scale), lw=0.8, color="gray", label="true path")
    axis.plot(*ends[row], "ks", label="its end")
    for (name, predicted), marker in zip(found.items(), "xo^", strict=False):
        axis.plot(*np.asarray(predicted[row]), marker, label=name, ms=7)
    axis.plot(0, 0, "k.", ms=4)
    axis.set(xlabel="$x$", ylabel="$y$", title="a trip, median error of depth 1")
    axis.set_aspect("equal", adjustable="datalim")
    axis.legend(fontsize=7)


def plot(rows: dict[str, dict[str, Any]], sample: list[Any]) -> Any:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    names = ("log-ODE, depth 1", "log-ODE, depth 2", "CDE, all readings")
    draw_trip(axes[0], sample[0], sample[1], {name: rows[name]["ends"] for name in names})
    names = list(rows)
    axes[1].barh(names, [rows[name]["error"] for name in names], color="tab:blue")
    for i, name in enumerate(names):
        label = f" {rows[name]['error']:.2f}  ({rows[name]['seconds']:.1f} s)"
        axes[1].text(rows[name]["error"], i, label, va="center", fontsize=8)
    axes[1].invert_yaxis()
    axes[1].set(xlabel="relative error", title="test series (time of a training)", xlim=(0, 1.5))
    for name in names:
        curve = np.median(rows[name]["losses"], axis=0)
        span = max(1, len(curve) // 20)
        smooth = np.convolve(curve, np.ones(span) / span, mode="valid")
        at = np.linspace(0, rows[name]["seconds"], len(curve))[span - 1 :]
        axes[2].semilogy(at, smooth, label=name)
    axes[2].set(xlabel="seconds", ylabel="mean square error", title="training, median over seeds")
    axes[2].legend(fontsize=7)
    axes[2].grid(alpha=0.3, which="both")
    return figure
