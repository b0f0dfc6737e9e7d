"""Implicit regularization of deep residual networks towards neural ODEs

Marion, Wu, Sander and Biau, ICLR 2024, arXiv:2309.01213.

**Claim.** A residual network that starts as a discretised ODE stays one while it is trained: its
weights stay Lipschitz in depth, networks of depth L and 2L learn the same functions of depth up to
O(1/L), and with a width of the order of the number of points the loss falls exponentially.

**What is compared with what.** Ten points in R⁸ with random values, full-batch gradient descent
with the gradients of the layers times L (the flow of functions of depth), without momentum. Depths
L that double; the same start, as a function of depth, for all. Tied layers (V = 0, the paper's),
smooth Gaussian processes, and layers drawn independently, which are no functions of depth.
D(L) = max_k ‖θ_k^L − θ_{2k}^{2L}‖ after training, its slope in log L; the Lipschitz constant of the
weights in depth; |F_resnet − F_ode| with the trained weights joined by lines. Medians over seeds.

**Found** (quick, seeds 77 and 101; budget and rate were chosen with 5 and 31). Tied layers: D falls
with slope −1.00 (twice) and the gap to the ODE with −0.93, their Lipschitz constant is the same at
all depths, while the layers make 0.36 and 0.58 of F. Smooth layers: −1.8, as depth 8 is too coarse
for a process of length 0.1, and a constant that is that of the start. Independent layers stay as
they were drawn. With a third of the updates at a lower rate the same slopes come out while A and B
alone learn, hence the claim on the layers.

The exponential fall is not clear to see: the line through the logarithm for tied layers has R² of
0.93 (seed 101; 0.77 for the median curve of seed 77), because the rate still changes: there are ten
rates for ten points, and the condition of Polyak and Łojasiewicz gives a bound, not a line. Smooth
and independent layers, which learn faster, have 0.99 and 0.98. The claim stays, and reads false.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci import experiment
from jaxsci.dynamics import ScaledResNet, depth_flow, depth_lipschitz
from jaxsci.experiment import Above, Between, Claim, Logger, Result


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    float64: bool = True
    seeds: Annotated[int, Between(1, 100)] = 3
    """starts and data sets"""
    depths: tuple[int, ...] = (8, 16, 32)
    """each twice the one before"""
    updates: Annotated[int, Between(8)] = 1200
    """steps of gradient descent"""
    rate: Annotated[float, Above(0)] = 0.05
    """learning rate"""
    width: Annotated[int, Between(1)] = 16
    """of the state"""
    hidden: Annotated[int, Between(1)] = 64
    """hidden width of a layer"""

    def __post_init__(self):
        super().__post_init__()
        if len(self.depths) < 2 or any(b != 2 * a for a, b in pairwise(self.depths)):
            raise ValueError(f"depths = {self.depths}: expected two or more, each twice the last")


PRESETS = {
    "smoke": Config(seeds=1, depths=(4, 8), updates=8, width=4, hidden=8),
    "quick": Config(),
    "full": Config(seeds=5, depths=(8, 16, 32, 64, 128, 256), updates=2000),
    "paper": Config(seeds=10, depths=(16, 32, 64, 128, 256, 512, 1024), updates=4000),
}
INITS = ("tied", "smooth", "iid")
POINTS, INPUTS = 10, 8


def loss(net: ScaledResNet, x: Float[Array, "n in"], y: Float[Array, "n 1"]) -> Array:
    return jnp.mean((jax.vmap(net)(x) - y) ** 2)


@eqx.filter_jit
def train(
    nets: ScaledResNet, x: Float[Array, "s n in"], y: Float[Array, "s n 1"], config: Config
) -> tuple[ScaledResNet, Array, Array, Array]:
    """For each seed the trained network, its losses, |F_resnet − F_ode| over |F_ode|, and the
    relative change of F when its layers are put back to where they started."""
    optimizer = depth_flow(config.rate)

    def one(start: ScaledResNet, x: Array, y: Array) -> tuple[ScaledResNet, Array, Array, Array]:
        moving, static = eqx.partition(start, eqx.is_array)

        def step(moving: Any, now: None) -> tuple[Any, Array]:
            del now
            net = eqx.combine(moving, static)
            value, gradient = eqx.filter_value_and_grad(loss)(net, x, y)
            change, _ = optimizer.update(gradient, optimizer.init(net))
            return eqx.filter(eqx.apply_updates(net, change), eqx.is_array), value

        moving, losses = jax.lax.scan(step, moving, length=config.updates)
        net = eqx.combine(moving, static)
        ode = net.to_ode(
            solver=dfx.Dopri5(), controller=dfx.ConstantStepSize(),
            dt0=1 / (2 * net.depth), max_steps=2 * net.depth + 2,
        )  # fmt: skip
        values, limit = jax.vmap(net)(x), jax.vmap(ode)(x)
        gap = jnp.linalg.norm(values - limit) / jnp.linalg.norm(limit)
        layers = lambda n: (n.inner, n.outer)  # noqa: E731
        without = jax.vmap(eqx.tree_at(layers, net, layers(start)))(x)
        share = jnp.linalg.norm(values - without) / jnp.linalg.norm(values)
        return net, losses, gap, share

    return eqx.filter_vmap(one)(nets, x, y)


def data(config: Config, key: PRNGKeyArray) -> tuple[Array, Array]:
    """Points on a sphere of radius √8 and values, for each seed."""
    x_key, y_key = jr.split(key)
    x = jr.normal(x_key, (config.seeds, POINTS, INPUTS))
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True) * INPUTS**0.5
    return x, jr.normal(y_key, (config.seeds, POINTS, 1))


def distance(coarse: ScaledResNet, fine: ScaledResNet) -> float:
    """D(L), the larger of those of V and W, median over seeds."""
    gaps = [
        np.max(np.linalg.norm(a - b[:, ::2], axis=(2, 3)), 1)
        for a, b in ((coarse.inner, fine.inner), (coarse.outer, fine.outer))
    ]
    return float(np.median(np.max(gaps, 0)))


def straightness(losses: Float[np.ndarray, " t"]) -> float:
    """R² of a line through log loss in the middle half."""
    t = np.arange(len(losses))[len(losses) // 4 : 3 * len(losses) // 4]
    return float(np.corrcoef(t, np.log(losses[t]))[0, 1] ** 2)


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    data_key, init_key = jr.split(jr.key(jr.bits(key), impl="rbg"))
    x, y = data(config, data_key)
    keys = jr.split(init_key, config.seeds)
    found: dict[str, dict[str, Any]] = {init: {} for init in INITS}
    for init in INITS:
        nets, row = [], found[init]
        row["lipschitz"], row["gap"], row["losses"], row["share"] = [], [], [], []
        row["straight"] = []
        for depth in config.depths:

            def make(key: PRNGKeyArray, depth: int = depth, init: Any = init) -> ScaledResNet:
                # Independent layers are drawn anew for each depth.
                key = jr.fold_in(key, depth) if init == "iid" else key
                sizes = (INPUTS, 1, depth, config.width, config.hidden)
                return ScaledResNet(*sizes, init=init, key=key)

            start = eqx.filter_jit(eqx.filter_vmap(make))(keys)
            net, losses, gap, share = train(start, x, y, config)
            nets.append(net)
            constants = np.max(np.stack(jax.vmap(depth_lipschitz)(net)), 0)
            row["lipschitz"].append(float(np.median(constants)))
            row["gap"].append(float(np.median(gap)))
            row["losses"].append(np.median(losses, 0))
            row["straight"].append(float(np.median([straightness(each) for each in losses])))
            row["share"].append(float(np.median(share)))
        row["D"] = [distance(a, b) for a, b in pairwise(nets)]
        row["slope"] = slope(config.depths[:-1], row["D"])
        log.say(
            f"{init}: loss {row['losses'][-1][-1]:.3g}, D {row['D'][-1]:.3g} (slope "
            f"{row['slope']:.2f}), Lipschitz {row['lipschitz'][-1]:.3g}, ODE {row['gap'][-1]:.3g}"
        )
    growth = {init: row["lipschitz"][-1] / row["lipschitz"][0] for init, row in found.items()}
    times = config.depths[-1] / config.depths[0]
    detail = f"from depth {config.depths[0]} to {config.depths[-1]}"
    claims = []
    for init in ("tied", "smooth"):
        row = found[init]
        claims += [
            Claim(f"{init}: depths L and 2L learn the same, to O(1/L)",
                  row["slope"], "<=", -0.75, "slope of log D; -1 is 1/L"),
            Claim(f"{init}: Lipschitz in depth after training", growth[init], "<", 2.0,
                  f"growth of the constant {detail}"),
            Claim(f"{init}: the trained network tends to its ODE",
                  slope(config.depths, row["gap"]), "<=", -0.75, "slope of |F_resnet - F_ode|"),
        ]  # fmt: skip
    claims += [
        Claim("iid: depths L and 2L do not", found["iid"]["slope"], ">", -0.35, "slope of log D"),
        Claim("iid: not Lipschitz, training does not make it so", growth["iid"], ">", 0.5 * times,
              f"growth of the constant {detail}; target: half that of the depth"),
        Claim("tied: the loss falls exponentially", found["tied"]["straight"][-1], ">", 0.95,
              "R² of a line through its logarithm, middle half of the updates, median over seeds"),
        Claim("tied: the layers have learnt", found["tied"]["share"][-1], ">", 0.1,
              "relative change of F when they are put back to their start"),
    ]  # fmt: skip
    metrics = {}
    for init, row in found.items():
        metrics[f"{init}, slope of D"] = row["slope"]
        for depth, lipschitz, gap in zip(config.depths, row["lipschitz"], row["gap"], strict=True):
            metrics[f"{init}, Lipschitz constant, depth {depth}"] = lipschitz
            metrics[f"{init}, gap to the ODE, depth {depth}"] = gap
        metrics[f"{init}, straightness of log loss"] = row["straight"][-1]
        metrics[f"{init}, share of the layers in F"] = row["share"][-1]
        metrics[f"{init}, loss"] = float(row["losses"][-1][-1])
    return Result(claims, metrics, {}, {"depth": plot(config, found)})


def slope(depths: Any, values: list[float]) -> float:
    """Of log values in log depth; of two points or more."""
    if len(values) < 2:
        return 0.0
    return float(np.polyfit(np.log(depths), np.log(values), 1)[0])


def plot(config: Config, found: dict[str, dict[str, Any]]) -> Any:
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained")
    for init, row in found.items():
        axes[0].semilogy(row["losses"][-1], label=init)
        axes[1].loglog(config.depths[:-1], row["D"], "o-", label=init)
        axes[2].loglog(config.depths, row["lipschitz"], "o-", label=init)
        axes[3].loglog(config.depths, row["gap"], "o-", label=init)
    line = np.array(config.depths[:-1], float)
    axes[1].loglog(line, found["tied"]["D"][0] * line[0] / line, "k:", label="1/L")
    axes[0].set(xlabel="update", ylabel="loss", title=f"training, depth {config.depths[-1]}")
    axes[1].set(xlabel="depth L", ylabel="D(L)", title="weights of depth L against 2L")
    axes[2].set(xlabel="depth L", ylabel="L max ‖θ(k+1) − θ(k)‖", title="Lipschitz constant")
    axes[3].set(xlabel="depth L", ylabel="relative |F − F_ode|", title="network against its ODE")
    for axis in axes[1:]:
        axis.set_xticks(config.depths, labels=[str(depth) for depth in config.depths])
        axis.minorticks_off()
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure
