"""Sound propagation in realistic interactive 3D scenes with parameterized sources using deep neural operators

Borrel-Jensen, Goswami, Engsig-Karup, Karniadakis & Jeong, PNAS 121 (2024), arXiv:2308.05141.

**Claim.** A DeepONet that has learned a room answers where a source sits with the pressure at any
place and time, for sources that it has not seen: errors of 0.02 to 0.10 Pa (source: 1 Pa) in a
cube, an L-shaped, a furnished and a domed room, at the cost of one network.

**What is compared with what.** A pulse exp(−|x − x₀|²/s₀²) at rest is the input, its position the
only thing that changes.

1. *One dimension*: one rigid wall and one that reflects half (ξ = 3), 1.5 lengths of the room in
   time; `train_sources` places in a row, `test_sources` random ones. The net is held to the
   recorded answer to the nearest trained source; interpolation between the two nearest is reported.
2. Presets `full` and up: *a rectangle and an L* in two dimensions, sides four wavelengths long,
   all walls ξ = 10; there also the net without Fourier features, and the number of operations for
   1000 points against those of the solver that made the data.

**Found.** The number of updates matters less than the optimiser. With Adam (best of 2e-3, 5e-3;
AdamW with the paper's rate 1e-3 and clip of gradients needs its 70000 updates) the net is no better
than the lookup after 2000 updates (0.021 against 0.021). Muon (`optax.contrib.muon`: momentum made
orthogonal, matrix by matrix) gets to 0.0033 in 1000 (rates 5e-3, 2e-2, 5e-2 tried, the last is
best); so it is used here, with a seed that no result is reported for. With three other seeds the quick
preset has 0.0044, 0.0050, 0.0047, the nearest source 0.021, 0.019, 0.024 and interpolation, which
knows how the sources are placed, 0.006.

In two dimensions (L-shape, 150 sources, 400 updates instead of 1500, one seed) the error is 0.029,
below the paper's bounds; but the nearest source has 0.018, and without Fourier features it is
0.030, so that the claim for these does not hold there.

Operations: in a small room the solver is cheaper than a network (see the metrics); the paper's gain
is in three dimensions, where the solver's cost grows with the fourth power of the frequency.
"""  # noqa: E501

import functools
import math
from dataclasses import dataclass
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
import optax.contrib
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.experiment import Between, Claim, Logger, Result
from jaxsci.operators import DeepONet, ModifiedMLP, fourier_features
from jaxsci.pde import Grid, SoundRoom, rollout
from jaxsci.train import ArraySource, fit


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes and budgets."""

    train_sources: Annotated[int, Between(2, 10000)] = 40
    """places of the source in the training data"""
    test_sources: Annotated[int, Between(1, 10000)] = 20
    """unseen places"""
    pulse: Annotated[float, Between(0.01, 0.2)] = 0.04
    """s₀ over the length of the room"""
    cells: Annotated[int, Between(16, 4096)] = 256
    """cells of the solver"""
    duration: Annotated[float, Between(0.1, 10.0)] = 1.5
    """time over the time that sound takes along the room"""
    width: Annotated[int, Between(2, 4096)] = 128
    """hidden units of branch and trunk"""
    products: Annotated[int, Between(1, 4096)] = 100
    """p, the number of products"""
    steps: Annotated[int, Between(1)] = 800
    """updates"""
    points: Annotated[int, Between(1)] = 400
    """places and times in a batch, for all sources at once"""
    rate: Annotated[float, Between(1e-6, 1.0)] = 5e-2
    """learning rate of Muon for matrices; a tenth of it is Adam's for the other weights"""
    rooms: tuple[str, ...] = ()
    """of "rectangle", "l-shape": rooms in two dimensions"""
    room_cells: Annotated[int, Between(8, 1024)] = 64
    """cells along their longer side"""
    room_sources: Annotated[int, Between(2, 100000)] = 150
    """training sources there"""
    room_steps: Annotated[int, Between(1)] = 1500
    """updates there"""


PRESETS = {
    "smoke": Config(
        train_sources=4,
        test_sources=2,
        pulse=0.1,
        cells=32,
        duration=0.5,
        width=8,
        products=5,
        steps=3,
        points=20,
    ),
    "quick": Config(),
    "full": Config(steps=2000, rooms=("rectangle", "l-shape")),
    "paper": Config(
        width=2048,
        steps=70000,
        rooms=("rectangle", "l-shape"),
        room_cells=256,
        room_sources=1849,
        room_steps=70000,
        points=1500,
    ),
}

# The paper's three frequencies are f, f/2, f/3 of its highest; the pulse has little above this one.
HIGHEST = 0.5  # times 1/s₀


class Room(eqx.Module):
    """A room, its recordings for some sources, and what the net is given of them."""

    solver: SoundRoom
    pulse: float = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    every: int = eqx.field(static=True)

    @property
    def grid(self) -> Grid:
        return self.solver.grid

    def initial(self, source: Float[Array, " d"]) -> Float[Array, "1 *grid"]:
        distance = jnp.sum((jnp.moveaxis(self.grid.coords(), 0, -1) - source) ** 2, -1)
        return jnp.exp(-distance / self.pulse**2)[None]

    def record(self, source: Float[Array, " d"]) -> Float[Array, " t*n"]:
        """The pressure in every cell of the room, frame after frame."""
        frames = rollout(
            self.solver, self.initial(source), self.steps, every=self.every, include_initial=True
        )
        return frames[:, 0][:, self.solver.inside].ravel()

    def sensors(self, source: Float[Array, " d"]) -> Float[Array, " s"]:
        """The pulse on a coarse grid: about two samples to s₀."""
        stride = max(1, int(self.pulse / 2 / self.grid.spacing[0]))
        strides = (slice(stride // 2, None, stride),) * self.grid.n_dims
        return self.initial(source)[0][strides].ravel()

    def points(self) -> Float[np.ndarray, "t*n d+1"]:
        """(x, t) of what `record` returns."""
        cells = np.asarray(self.grid.coords())[:, self.solver.inside].T
        times = np.arange(0, self.steps + 1, self.every) * self.solver.dt
        x = np.tile(cells, (len(times), 1))
        return np.concatenate([x, np.repeat(times, len(cells))[:, None]], 1).astype(np.float32)

    def sources(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        """Random places, two pulses away from all walls."""
        margin = 2 * self.pulse
        lo, hi = jnp.asarray(self.grid.lo) + margin, jnp.asarray(self.grid.hi) - margin
        drawn = jr.uniform(key, (20 * n, self.grid.n_dims), minval=lo, maxval=hi)
        spacing = np.asarray(self.grid.spacing)
        inside = jnp.asarray(self.solver.inside)
        free = jnp.ones(len(drawn), bool)
        for corner in np.ndindex((3,) * self.grid.n_dims):
            moved = drawn + margin * (np.asarray(corner) - 1)
            cell = jnp.floor((moved - jnp.asarray(self.grid.lo)) / spacing).astype(int)
            free &= inside[tuple(jnp.clip(cell, 0, np.asarray(self.grid.shape) - 1).T)]
        return drawn[jnp.argsort(~free, stable=True)[:n]]


def make_net(room: Room, config: Config, features: bool, key: PRNGKeyArray) -> DeepONet:
    branch_key, trunk_key = jr.split(key)
    points = room.points()
    lo, hi = points.min(0), points.max(0)
    middle, half = (hi + lo) / 2, float(np.max(hi - lo)) / 2
    frequency = HIGHEST / room.pulse * half
    waves = functools.partial(
        fourier_features, frequencies=(frequency, frequency / 2, frequency / 3)
    )
    n_sensors = jax.eval_shape(room.sensors, jnp.zeros(room.grid.n_dims)).shape[0]
    sizes: dict[str, Any] = {"width": config.width}
    branch = ModifiedMLP(n_sensors, config.products, depth=1, omega0=1.0, key=branch_key, **sizes)
    trunk = ModifiedMLP(
        points.shape[1],
        config.products,
        depth=2,
        omega0=3.0 if features else 30.0,
        features=waves if features else None,
        key=trunk_key,
        **sizes,
    )
    net = DeepONet(branch, trunk, p=config.products, shift=middle, scale=half)
    # Sums of p products are then of order one at the start.
    shrunk = branch.head.weight / config.products**0.5
    return eqx.tree_at(lambda m: m.branches[0].head.weight, net, shrunk)


def train(net, room, sources, recordings, steps, config: Config, key, log):
    sensors = jax.vmap(room.sensors)(sources)

    def loss(net, batch, key):
        points, pressures = batch
        basis = net.basis(points)
        predicted = jax.vmap(lambda u: net.decode(net.encode(u), basis)[0])(sensors)
        return jnp.mean((predicted - pressures.T) ** 2)

    rate = optax.cosine_decay_schedule(config.rate, steps, 1e-3)
    other = optax.cosine_decay_schedule(config.rate / 10, steps, 1e-3)
    data = ArraySource((room.points(), np.asarray(recordings).T), config.points)
    return fit(
        net,
        loss,
        optax.contrib.muon(rate, adam_learning_rate=other),
        data,
        steps=steps,
        key=key,
        log=log,
    ).model


@eqx.filter_jit
def answers(net: DeepONet, sensors: Float[Array, "n s"], points: Float[Array, "m d"]):
    basis = net.basis(points)
    return jax.vmap(lambda u: net.decode(net.encode(u), basis)[0])(sensors)


def rmse(a: Array, b: Array) -> float:
    return float(jnp.sqrt(jnp.mean((a - b) ** 2)))


def one_dimension(config: Config, key: PRNGKeyArray, log: Logger):
    test_key, net_key, train_key = jr.split(key, 3)
    n, s = config.cells, config.pulse
    grid = Grid(0.0, 1.0, n, endpoint=False)
    steps = max(8, round(config.duration * n / 8) * 8)
    room = Room(SoundRoom(grid, 1 / n, impedance=[(math.inf, 3.0)]), s, steps, 4)
    trained = jnp.linspace(2 * s, 1 - 2 * s, config.train_sources)[:, None]
    unseen = jnp.sort(room.sources(test_key, config.test_sources), 0)
    record = jax.jit(jax.vmap(room.record))
    known, wanted = record(trained), record(unseen)
    net = make_net(room, config, False, net_key)
    net = train(net, room, trained, known, config.steps, config, train_key, log.scope("1d"))
    found = answers(net, jax.vmap(room.sensors)(unseen), jnp.asarray(room.points()))
    place = (unseen - trained[0]) / (trained[1] - trained[0])
    left = jnp.clip(jnp.floor(place[:, 0]).astype(int), 0, config.train_sources - 2)
    part = place - left[:, None]
    between = (1 - part) * known[left] + part * known[left + 1]
    nearest = known[jnp.round(place[:, 0]).astype(int)]
    errors = {
        "1d_net": rmse(found, wanted),
        "1d_nearest": rmse(nearest, wanted),
        "1d_interpolated": rmse(between, wanted),
        "1d_rms_pressure": rmse(wanted, jnp.zeros_like(wanted)),
    }
    middle = config.test_sources // 2
    shown = [np.asarray(a[middle]).reshape(-1, n) for a in (wanted, found, nearest)]
    return errors, draw_line(shown, room, float(unseen[middle, 0]))


def two_dimensions(name: str, config: Config, key: PRNGKeyArray, log: Logger):
    train_key, test_key, net_key, fit_key = jr.split(key, 4)
    n = config.room_cells
    shape, size = ((n, n), (1.0, 1.0)) if name == "l-shape" else ((n, 3 * n // 4), (1.0, 0.75))
    grid = Grid((0.0, 0.0), size, shape, endpoint=False)
    x, y = grid.coords()
    inside = (x < 0.5) | (y < 0.5) if name == "l-shape" else np.ones(shape, bool)
    # A pulse with most of its sound at wavelengths above a quarter of the side: k s₀/2 ≈ 1.
    s = 0.08
    dt = 0.5 / n
    solver = SoundRoom(grid, dt, impedance=10.0, inside=inside)
    steps = max(8, round(config.duration / dt / 8) * 8)
    room = Room(solver, s, steps, 8)
    trained, unseen = (
        room.sources(k, m)
        for k, m in ((train_key, config.room_sources), (test_key, config.test_sources))
    )
    record = jax.jit(jax.vmap(room.record))
    known, wanted = record(trained), record(unseen)
    nearest = known[jnp.argmin(jnp.sum((unseen[:, None] - trained) ** 2, -1), 1)]
    errors = {f"{name}_nearest": rmse(nearest, wanted)}
    sensors, points = jax.vmap(room.sensors)(unseen), jnp.asarray(room.points())
    shown = {}
    for kind, features in (("net", True), ("plain", False)):
        net = make_net(room, config, features, net_key)
        scope = log.scope(f"{name}-{kind}")
        net = train(net, room, trained, known, config.room_steps, config, fit_key, scope)
        found = jnp.stack([answers(net, u[None], points)[0] for u in sensors])
        errors[f"{name}_{kind}"] = rmse(found, wanted)
        shown[kind] = np.asarray(found[0])
        weights = sum(w.size for w in jax.tree.leaves(eqx.filter(net.trunk, eqx.is_array)))
        errors[f"{name}_{kind}_operations_of_1000_points"] = 2e3 * weights
    # For each cell and step: two velocities of four operations and a divergence of five.
    errors[f"{name}_solver_operations"] = 13.0 * int(np.sum(inside)) * steps
    figure = draw_room(np.asarray(wanted[0]), shown["net"], room, np.asarray(unseen[0]))
    return errors, figure


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    keys = jr.split(key, 1 + len(config.rooms))
    metrics, figure = one_dimension(config, keys[0], log)
    figures = {"line": figure}
    claims = [
        Claim(
            "one dimension: error for unseen sources",
            metrics["1d_net"],
            "<=",
            0.06,
            f"RMSE, the source's peak is 1 (RMS pressure: {metrics['1d_rms_pressure']:.3g})",
        ),
        Claim(
            "one dimension: against the nearest trained source",
            metrics["1d_net"],
            "<=",
            metrics["1d_nearest"] / 3,
            f"RMSE; target: a third of {metrics['1d_nearest']:.3g}",
        ),
    ]
    for name, room_key in zip(config.rooms, keys[1:], strict=True):
        found, figures[name] = two_dimensions(name, config, room_key, log)
        metrics |= found
        net, plain = found[f"{name}_net"], found[f"{name}_plain"]
        operations = found[f"{name}_net_operations_of_1000_points"]
        claims += [
            Claim(f"{name}: error for unseen sources", net, "<=", 0.10, "RMSE, peak 1"),
            Claim(
                f"{name}: without Fourier features it is worse",
                plain,
                ">=",
                1.5 * net,
                f"RMSE; target: 1.5 x {net:.3g}",
            ),
            Claim(
                f"{name}: 1000 points cost less than the solver",
                operations,
                "<",
                found[f"{name}_solver_operations"],
                "floating-point operations",
            ),
        ]
    return Result(claims, metrics, figures=figures)


def draw_line(shown: list[np.ndarray], room: Room, source: float) -> Figure:
    """Pressure over place and time: exact, the net's, and the nearest recording's error."""
    exact, net, nearest = shown
    figure, axes = plt.subplots(1, 4, figsize=(14, 4), layout="constrained", sharey=True)
    extent = (0.0, 1.0, 0.0, room.steps * room.solver.dt)
    peak = np.abs(exact).max()
    worst = max(np.abs(nearest - exact).max(), 1e-12)
    panels = (
        ("solver", exact, peak),
        ("DeepONet", net, peak),
        ("error of DeepONet", net - exact, worst),
        ("error of the nearest trained source", nearest - exact, worst),
    )
    for axis, (title, values, limit) in zip(axes, panels, strict=True):
        image = axis.imshow(
            values,
            origin="lower",
            aspect="auto",
            extent=extent,
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
        )
        axis.set(title=title, xlabel="place $x/L$")
        figure.colorbar(image, ax=axis)
    axes[0].set_ylabel("time $c\\,t/L$")
    figure.suptitle(f"Pressure after a pulse at x = {source:.2f}: rigid wall left, ξ = 3 right")
    return figure


def draw_room(exact: np.ndarray, net: np.ndarray, room: Room, source: np.ndarray) -> Figure:
    """Three moments of the solver's pressure, the net's below."""
    inside = np.asarray(room.solver.inside)
    n = inside.sum()
    frames = len(exact) // n
    figure, axes = plt.subplots(2, 3, figsize=(10, 6), layout="constrained")
    extent = (room.grid.lo[0], room.grid.hi[0], room.grid.lo[1], room.grid.hi[1])
    for column, frame in enumerate((frames // 6, frames // 2, frames - 1)):
        pictures = []
        for values in (exact, net):
            picture = np.full(inside.shape, np.nan)
            picture[inside] = values.reshape(frames, n)[frame]
            pictures.append(picture.T)
        limit = np.nanmax(np.abs(pictures[0]))
        for axis, picture, name in zip(
            axes[:, column], pictures, ("solver", "DeepONet"), strict=True
        ):
            image = axis.imshow(
                picture, origin="lower", extent=extent, cmap="RdBu_r", vmin=-limit, vmax=limit
            )
            axis.plot(*source, "k+")
            time = frame * room.every * room.solver.dt
            axis.set(title=f"{name}, t = {time:.2f} L/c", xlabel="x", ylabel="y")
            figure.colorbar(image, ax=axis)
    return figure
