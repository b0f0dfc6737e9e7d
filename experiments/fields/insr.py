"""Implicit Neural Spatial Representations for Time-dependent PDEs

Chen, Wu, Grinspun, Zheng & Chen, arXiv:2210.00124.

**Claim.** A network as the state of a time stepper, fitted anew in every step to an integrator's
equation, is more accurate than a grid of as many numbers.

**What is compared with what.** The paper's 1-D case: a Gaussian of width 0.1 moves with v = 0.25
on [−2, 2], Δt = 0.05, a SIREN (481 weights in `quick`, the paper's 901 in `full`) against as many
grid values, the largest error after `steps` steps. Each of two integrators in time is done by the
network and by grids: semi-Lagrangian (the grid interpolates linearly, or by cubic splines), and the
implicit midpoint rule (the grid has central differences); besides, upwind differences with steps of
a stable size. Fits are by Levenberg-Marquardt; one step is also fitted by Adam, which the paper
uses, with the better of two learning rates. `full` adds the Taylor-Green vortex, a steady flow
without viscosity, in the paper's three fits a step, against a staggered grid with as many numbers
in u, v and p, each compared with the exact flow where it has values: how much energy changes, and
the relative L² error of the velocity.

**Found** (quick, seeds 3, 11, 12). With the same integrator the field's largest error is 0.023 to
0.035 of that of linear interpolation (4e-4 to 6e-4 against 1.7e-2), 0.55 to 0.63 of that of central
differences, where most of it is the midpoint rule's own phase error, and 0.2 of upwind's. But cubic
splines on as many points are 40 to 60 times better than the field (1e-5): a pulse that a grid
resolves is no case for a network, and the claim is true of low-order grids alone. Each fit ends
at a root mean square of `target`, and these errors add up. Levenberg-Marquardt takes 4 to 9 updates
a step where Adam has not come as far in 1000 (it was at 1.1e-4 to 4.8e-3 instead of 5e-5).
"""

from dataclasses import dataclass
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from interpax import interp1d
from jax.scipy.fft import dctn, idctn
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.experiment import Between, Claim, Logger, Result
from jaxsci.fields import (
    ImplicitMidpointAdvection,
    INSRState,
    INSRStepper,
    SemiLagrangianAdvection,
    SemiLagrangianFluid,
    Siren,
)
from jaxsci.optim import levenberg_marquardt
from jaxsci.pde import Box, Grid, Interval

VELOCITY, CENTRE, SIGMA = 0.25, -1.5, 0.1
ADAM_RATES = (1e-4, 1e-3)
"""The authors' rate, and a larger one for fewer updates."""


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes and budgets."""

    dt: Annotated[float, Between(1e-4, 1.0)] = 0.05
    """time step"""
    steps: Annotated[int, Between(1)] = 20
    """time steps of the Gaussian; 240 in the paper"""
    width: Annotated[int, Between(2)] = 20
    """hidden units of the SIREN for the Gaussian"""
    depth: Annotated[int, Between(1)] = 2
    """its hidden layers; 3 in the paper"""
    points: Annotated[int, Between(8)] = 1500
    """points of one update, for the Gaussian and for the vortex; more than weights"""
    iterations: Annotated[int, Between(1)] = 30
    """updates of a fit, at most"""
    target: Annotated[float, Between(0.0)] = 5e-5
    """root mean square of u at which a fit ends"""
    adam_iterations: Annotated[int, Between(1)] = 1000
    """updates by Adam in the step that is fitted by it too"""
    vortex_steps: Annotated[int, Between(0)] = 0
    """time steps of the Taylor-Green vortex"""
    vortex_width: Annotated[int, Between(2)] = 20
    """hidden units of the two SIRENs for the vortex"""


PRESETS = {
    "smoke": Config(steps=2, width=4, points=32, iterations=2, adam_iterations=2),
    "quick": Config(),
    "full": Config(steps=40, depth=3, vortex_steps=20, adam_iterations=5000),
    "paper": Config(
        steps=240,
        depth=3,
        points=5000,
        iterations=100,
        adam_iterations=20_000,
        vortex_steps=100,
        vortex_width=32,
    ),
}


def pulse(x: Array) -> Array:
    return jnp.exp(-0.5 * ((x - CENTRE) / SIGMA) ** 2)


def size(fields: Any) -> int:
    leaves = jax.tree.leaves(eqx.filter(fields, eqx.is_inexact_array))
    return sum(leaf.size for leaf in leaves)


@eqx.filter_jit
def fit_start(stepper: INSRStepper, function: Any, key: PRNGKeyArray) -> INSRState:
    return stepper.start(function, key)


@eqx.filter_jit
def advance(stepper: INSRStepper, state: INSRState, key: PRNGKeyArray) -> INSRState:
    return stepper.step(state, key=key)


def march(
    stepper: INSRStepper, state: INSRState, steps: int, key: PRNGKeyArray, log: Logger, name: str
) -> tuple[INSRState, list[INSRState]]:
    """All steps, with a progress bar; the states."""
    states = [state]
    with log.progress(steps, name) as bar:
        for n in range(steps):
            states.append(advance(stepper, states[-1], jr.fold_in(key, n)))
            bar.update(n + 1)
    return states[-1], states


def on_grids(
    config: Config, x: Float[Array, " n"], limits: tuple[float, float]
) -> dict[str, np.ndarray]:
    """The Gaussian after all steps by four methods on grid points."""
    h, shift = float(x[1] - x[0]), VELOCITY * config.dt
    back = jnp.clip(x - shift, *limits)
    # (I + Δt v D/2) u⁺ = (I − Δt v D/2) u with central differences, u = 0 at both ends.
    d = (np.eye(x.size, k=1) - np.eye(x.size, k=-1)) / (2 * h)
    d[[0, -1]] = 0
    midpoint = jnp.asarray(
        np.linalg.solve(np.eye(x.size) + shift / 2 * d, np.eye(x.size) - shift / 2 * d)
    )
    parts = int(np.ceil(shift / h))

    def upwind(u: Array) -> Array:
        for _ in range(parts):
            u = u - shift / parts / h * (u - jnp.concatenate([jnp.zeros(1), u[:-1]]))
        return u

    methods = {
        "semi-Lagrangian, linear": lambda u: interp1d(back, x, u, method="linear"),
        "semi-Lagrangian, cubic": lambda u: interp1d(back, x, u, method="cubic2"),
        "midpoint, central": lambda u: midpoint @ u,
        "upwind": upwind,
    }
    return {
        name: np.asarray(jax.jit(lambda u, m=method: iterate(m, u, config.steps))(pulse(x)))
        for name, method in methods.items()
    }


def iterate(method: Any, u: Any, steps: int) -> Any:
    return jax.lax.fori_loop(0, steps, lambda _, u: method(u), u)


def taylor_green(x: Float[Array, " 2"]) -> Float[Array, " 2"]:
    """A steady flow in [−1, 1]² whose walls are streamlines, of speed at most 1/π."""
    a = jnp.pi * (x + 1)
    u = jnp.sin(a[0]) * jnp.cos(a[1])
    return jnp.stack([u, -jnp.cos(a[0]) * jnp.sin(a[1])]) / jnp.pi


class Staggered(eqx.Module):
    """Semi-Lagrangian flow on a staggered grid of n² cells of [−1, 1]²: bilinear interpolation of
    the velocity, an exact projection by cosines, no flow through walls."""

    n: int = eqx.field(static=True)
    dt: float = eqx.field(static=True)

    def places(self) -> list[Float[Array, "2 ..."]]:
        """Where the components are, in units of cells from the corner: faces' midpoints."""
        faces, middles = jnp.arange(self.n + 1.0), jnp.arange(self.n) + 0.5
        pairs = ((faces, middles), (middles, faces))
        return [jnp.stack(jnp.meshgrid(a, b, indexing="ij")) for a, b in pairs]

    def velocity(self, flow: list[Array], where: Float[Array, "2 ..."]) -> Float[Array, "2 ..."]:
        offsets = (jnp.array([0.0, 0.5]), jnp.array([0.5, 0.0]))
        found = []
        for component, offset in zip(flow, offsets, strict=True):
            index = where - offset.reshape(2, *[1] * (where.ndim - 1))
            found.append(map_coordinates(component, list(index), order=1, mode="nearest"))
        return jnp.stack(found)

    def start(self) -> list[Array]:
        h = 2 / self.n
        at = jax.vmap(jax.vmap(taylor_green, 1, 1), 1, 1)
        return [at(place * h - 1)[i] for i, place in enumerate(self.places())]

    def step(self, flow: list[Array]) -> list[Array]:
        h = 2 / self.n
        moved = []
        for i, place in enumerate(self.places()):
            back = place - self.dt / h * self.velocity(flow, place)
            moved.append(self.velocity(flow, jnp.clip(back, 0, self.n))[i])
        u = moved[0].at[jnp.array([0, -1])].set(0)
        v = moved[1].at[:, jnp.array([0, -1])].set(0)
        divergence = (jnp.diff(u, axis=0) + jnp.diff(v, axis=1)) / h
        k = jnp.arange(self.n)
        one = (2 * jnp.cos(jnp.pi * k / self.n) - 2) / h**2
        symbol = one[:, None] + one[None]
        p = idctn(dctn(divergence) / symbol.at[0, 0].set(1).T)
        u = u.at[1:-1].add(-jnp.diff(p, axis=0) / h)
        return [u, v.at[:, 1:-1].add(-jnp.diff(p, axis=1) / h)]


def flow_errors(u: list[Array], exact: list[Array]) -> tuple[float, float]:
    """How much energy changed, relative, and the relative L² error."""

    def energy(parts: list[Array]) -> Array:
        return jnp.asarray(sum(jnp.mean(part**2) for part in parts))

    before = energy(exact)
    error = energy([a - b for a, b in zip(u, exact, strict=True)])
    return float(jnp.abs(energy(u) / before - 1)), float(jnp.sqrt(error / before))


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    field_key, start_key, step_key, vortex_key = jr.split(key, 4)
    domain, dt = Interval(-2.0, 2.0), config.dt
    field = Siren(1, "scalar", width=config.width, depth=config.depth, key=field_key)
    grid = Grid(-2.0, 2.0, max(size(field), 8))
    (x,) = grid.coords()
    exact = np.asarray(pulse(x - config.steps * dt * VELOCITY))
    velocity = jnp.array([VELOCITY])
    found = on_grids(config, x, (-2.0, 2.0))

    def stepper(scheme: Any, **options: Any) -> INSRStepper:
        settings: dict[str, Any] = {
            "optimizer": levenberg_marquardt(damping=1e-6),
            "max_iterations": config.iterations,
            "points": config.points,
            "target": config.target,
            "wall_points": max(1, config.points // 100),
        }
        return INSRStepper(scheme, {"u": field}, domain, grid, **(settings | options))

    semi = SemiLagrangianAdvection(velocity, dt, domain)
    schemes = {
        "semi-Lagrangian, field": semi,
        "midpoint, field": ImplicitMidpointAdvection(velocity, dt),
    }
    start = fit_start(stepper(semi), lambda x: pulse(x[0]), start_key)
    log.say(f"start: {float(start.residuals[0]):.1e} after {int(start.iterations[0])} updates")
    iterations = {}
    for name, scheme in schemes.items():
        own = stepper(scheme)
        last, states = march(own, start, config.steps, step_key, log, name)
        found[name] = np.asarray(own.output(last)[0])
        iterations[name] = [int(s.iterations[0]) for s in states[1:]]
    errors = {name: float(np.abs(u - exact).max()) for name, u in found.items()}

    @eqx.filter_jit
    def adam(start: INSRState, rate: Array) -> INSRState:
        plateau = optax.contrib.reduce_on_plateau(factor=0.1, patience=500, min_scale=1e-4)
        updates = config.adam_iterations
        own = stepper(
            semi,
            optimizer=optax.chain(optax.adam(rate), plateau),
            max_iterations=updates,
            patience=updates,
        )
        return own.step(start, key=step_key)

    first = advance(stepper(semi), start, step_key)
    by_adam = [adam(start, jnp.asarray(rate)) for rate in ADAM_RATES]
    slow = min(by_adam, key=lambda s: (int(s.iterations[0]), float(s.residuals[0])))

    def ratio(title: str, mine: str, other: str, detail: str) -> Claim:
        text = f"largest error, {errors[mine]:.1e} and {errors[other]:.1e}; {detail}"
        return Claim(title, errors[mine] / errors[other], "<", 0.8, text)

    numbers = f"{size(field)} numbers"
    claims = [
        ratio(
            "semi-Lagrangian: field over linear interpolation",
            "semi-Lagrangian, field",
            "semi-Lagrangian, linear",
            numbers,
        ),
        ratio(
            "semi-Lagrangian: field over cubic interpolation",
            "semi-Lagrangian, field",
            "semi-Lagrangian, cubic",
            numbers,
        ),
        ratio("midpoint rule: field over upwind", "midpoint, field", "upwind", numbers),
        ratio(
            "midpoint rule: field over central differences",
            "midpoint, field",
            "midpoint, central",
            numbers,
        ),
        Claim(
            "updates of a step's fit, Levenberg-Marquardt over Adam",
            float(first.iterations[0] / slow.iterations[0]),
            "<",
            0.1,
            f"{int(first.iterations[0])} to {float(first.residuals[0]):.1e} and "
            f"{int(slow.iterations[0])} to {float(slow.residuals[0]):.1e}",
        ),
    ]
    metrics = {f"error {name}": value for name, value in errors.items()}
    metrics["residual Adam"] = float(slow.residuals[0])
    metrics |= {f"updates {name}": float(np.median(n)) for name, n in iterations.items()}
    arrays = {name.replace(", ", "_"): u for name, u in found.items()} | {"exact": exact}
    figures = {"gaussian": draw(np.asarray(x), found, errors, exact)}
    if config.vortex_steps:
        more, more_metrics, figure = vortex(config, vortex_key, log)
        claims, metrics = claims + more, metrics | more_metrics
        figures["vortex"] = figure
    return Result(claims, metrics, arrays, figures)


def vortex(
    config: Config, key: PRNGKeyArray, log: Logger
) -> tuple[list[Claim], dict[str, float], Figure]:
    """The Taylor-Green vortex by fields and on a staggered grid."""
    keys = jr.split(key, 4)
    domain = Box((-1.0, -1.0), (1.0, 1.0))
    fields = {
        "u": Siren(2, 2, width=config.vortex_width, depth=2, omega0=10.0, key=keys[0]),
        "p": Siren(2, "scalar", width=config.vortex_width, depth=2, omega0=10.0, key=keys[1]),
    }
    grid = Grid(-1.0, 1.0, (64, 64))
    own = INSRStepper(
        SemiLagrangianFluid(config.dt, domain),
        fields,
        domain,
        grid,
        levenberg_marquardt(damping=1e-6),
        max_iterations=config.iterations,
        points=config.points,
        wall_points=max(4, config.points // 25),
        target=config.target,
    )
    start = fit_start(own, taylor_green, keys[2])
    log.say(f"vortex: {float(start.residuals[0]):.1e} after {int(start.iterations[0])} updates")
    _, states = march(own, start, config.vortex_steps, keys[3], log, "vortex")
    x = jnp.stack(grid.coords())
    exact = jax.vmap(jax.vmap(taylor_green, 1, 1), 1, 1)(x)

    n = round((size(fields) / 3) ** 0.5)
    flow = Staggered(n, config.dt)
    history = [flow.start()]
    step = jax.jit(flow.step)
    for _ in range(config.vortex_steps):
        history.append(step(history[-1]))
    curves = {
        "fields": [flow_errors([own.output(s)], [exact]) for s in states],
        "staggered grid": [flow_errors(f, history[0]) for f in history],
    }
    (energy, error), (grid_energy, grid_error) = (c[-1] for c in curves.values())
    detail = f"{size(fields)} weights, {n}² cells, {config.vortex_steps} steps"
    claims = [
        Claim(
            "vortex: energy's change, fields over grid",
            energy / grid_energy,
            "<",
            0.8,
            f"{energy:.1e} and {grid_energy:.1e}; {detail}",
        ),
        Claim(
            "vortex: error of u, fields over grid",
            error / grid_error,
            "<",
            0.8,
            f"{error:.1e} and {grid_error:.1e}; {detail}",
        ),
    ]
    metrics = {
        "vortex energy fields": energy,
        "vortex energy grid": grid_energy,
        "vortex error fields": error,
        "vortex error grid": grid_error,
    }
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for axis, i, title in zip(
        axes, (0, 1), ("relative change of energy", "relative error of u"), strict=True
    ):
        for name, curve in curves.items():
            axis.semilogy([row[i] for row in curve], label=name)
        axis.set(xlabel="step", title=title)
        axis.set_ylim(1e-5, None)
    axes[0].legend()
    return claims, metrics, figure


def draw(
    x: np.ndarray, found: dict[str, np.ndarray], errors: dict[str, float], exact: np.ndarray
) -> Figure:
    """The pulse at the end, and the errors along the line."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    axes[0].plot(x, np.asarray(pulse(jnp.asarray(x))), ":", color="grey", label="at the start")
    axes[0].plot(x, exact, color="black", lw=3, alpha=0.3, label="exact")
    near = np.abs(x - x[np.argmax(exact)]) < 8 * SIGMA
    for name, u in found.items():
        style = "-" if "field" in name else "--"
        axes[0].plot(x, u, style, label=name)
        label = f"{name}: {errors[name]:.1e}"
        axes[1].semilogy(x[near], np.abs(u - exact)[near] + 1e-9, style, label=label)
    axes[0].set(xlabel="x", ylabel="u", title="the pulse after all steps")
    axes[1].set(xlabel="x", title="error, and the largest", ylim=(1e-8, None))
    axes[0].legend(fontsize=8)
    axes[1].legend(fontsize=8, loc="lower center")
    return figure
