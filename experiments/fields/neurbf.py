"""NeuRBF: A Neural Fields Representation with Adaptive Radial Basis Functions

Chen and others, arXiv:2309.15426.

**Claim.** Radial basis functions placed and shaped after the data, each spread over many
frequencies, represent images better than features on grids with as many or fewer weights.

**What is compared with what.** On crops of photographs, with equal steps:

1. the field as it is, against the same with its kernels on a regular grid, and against the same
   with one frequency, sin(m φ) replaced by φ;
2. the field against a multiresolution hash grid (`HashGrid`) and `Siren` of at least as many
   weights. A kernel's centre and shape, five numbers that stay fixed, count as weights.

Kernels follow the size of the image's gradient. Every kind takes its own learning rate, the best of
one small grid on a photograph that is not reported. Medians over photographs and seeds.

**Found** (quick, seeds 2 and 3). Many frequencies gain 1.4 and 1.3 dB over one, adaptive kernels
0.6 and 0.9 dB over regular ones, less than the 1 dB that is asked for. At this size, 2245 weights
for 4096 pixels and 300 steps, the hash grid is 1.8 and 0.9 dB better than the field, and `Siren`
6.4 dB: the paper's claim does not reproduce here. What is left over looks like noise of single
pixels, in both layouts of the kernels; a highest frequency of 32 instead of 2¹² does not change
that (seed 2: 26.3 against 26.6 dB). The paper trains 35 000 steps on megapixels; `full` and `paper`
have not been run.
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
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.experiment import Between, Claim, Logger, Result
from jaxsci.fields import (
    HashGrid,
    Kernels,
    NeuRBF,
    Siren,
    fit_field,
    image_coordinates,
    init_kernels,
    photograph,
    psnr,
)


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes of crops and fields."""

    size: Annotated[int, Between(8, 1024)] = 64
    """pixels along a side of a crop"""
    kernels: Annotated[int, Between(4)] = 64
    """radial basis functions, a square number"""
    features: Annotated[int, Between(1)] = 16
    """frequencies of a kernel"""
    highest: Annotated[float, Between(1.0)] = 2.0**12
    """highest frequency m, the paper's"""
    width: Annotated[int, Between(2)] = 16
    """hidden units of the perceptrons"""
    table: Annotated[int, Between(2)] = 64
    """entries of a table of the field's own grid, a power of two"""
    hash_table: Annotated[int, Between(2)] = 256
    """entries of a table of the hash grid it is compared with"""
    hash_levels: Annotated[int, Between(1)] = 4
    """tables of that grid"""
    siren_width: Annotated[int, Between(2)] = 46
    """width of the SIREN it is compared with"""
    steps: Annotated[int, Between(1)] = 300
    """updates of every field"""
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    """learning rates that are tried"""
    seeds: Annotated[int, Between(1, 64)] = 3
    """trainings for each photograph"""

    def __post_init__(self):
        super().__post_init__()
        if round(self.kernels**0.5) ** 2 != self.kernels:
            raise ValueError(f"kernels: {self.kernels}, expected a square number")


PRESETS = {
    "smoke": Config(
        size=8,
        kernels=4,
        features=2,
        width=4,
        table=4,
        hash_table=4,
        hash_levels=2,
        siren_width=4,
        steps=2,
        rates=(1e-2,),
        seeds=1,
    ),
    "quick": Config(),
    "full": Config(
        size=128,
        kernels=144,
        features=32,
        width=32,
        table=128,
        hash_table=1024,
        siren_width=62,
        steps=1000,
    ),
    "paper": Config(
        size=512,
        kernels=4096,
        features=32,
        width=64,
        table=4096,
        hash_table=2**13,
        hash_levels=10,
        siren_width=290,
        steps=35_000,
    ),
}
NAMES = ("camera", "coffee", "astronaut")
"""The last one serves to choose the learning rate."""


def gradient_size(image: Float[Array, " n"], size: int) -> Float[Array, " n"]:
    down, right = jnp.gradient(image.reshape(size, size))
    return jnp.hypot(jnp.asarray(down), jnp.asarray(right)).reshape(-1) + 1e-6


def regular_kernels(n: int) -> Kernels:
    """Kernels on a square grid, S = ½ (covariance of a cell)⁻¹ as for clusters of equal points."""
    side = round(n**0.5)
    centres = image_coordinates(side, side)
    variance = (2 / side) ** 2 / 12
    return Kernels(centres, jnp.tile(0.5 / variance * jnp.eye(2), (n, 1, 1)))


@eqx.filter_jit
@eqx.filter_vmap(in_axes=(eqx.if_array(0), eqx.if_array(0), 0, 0, None))
def fits(field, x, y, rate, steps):
    """Many fits at once: the fields' values, and all losses."""
    schedule = optax.cosine_decay_schedule(rate, steps, 0.01)
    fitted = fit_field(field, x, y, optax.adam(schedule, b2=0.99), steps=steps)
    return jax.vmap(fitted.field)(x), fitted.losses


def fit_kind(config: Config, make, key: PRNGKeyArray, images: list[Array]) -> dict[str, Any]:
    """Fits of one kind of field to all photographs but the last, which chooses the rate."""
    x = image_coordinates(config.size, config.size)
    rates = jnp.asarray(config.rates)
    n = config.seeds * (len(images) - 1)
    seeds = -(-n // len(rates))  # as many fits as are reported, so that one program does both

    def train(keys, images, rates):
        fields = [make(k, image) for k, image in zip(keys, images, strict=True)]
        located = [jax.vmap(f.locate)(x) if isinstance(f, NeuRBF) else x for f in fields]
        arrays = [eqx.partition(f, eqx.is_array) for f in fields]
        stacked = jax.tree.map(lambda *a: jnp.stack(a), *[a for a, _ in arrays])
        points = jax.tree.map(lambda *a: jnp.stack(a), *located)
        y = jnp.stack(images)
        u, losses = fits(eqx.combine(stacked, arrays[0][1]), points, y, rates, config.steps)
        return fields[0], np.asarray(u), jax.vmap(psnr)(u, y), losses

    chosen = jnp.repeat(rates, seeds)[:n]
    keys = jnp.tile(jr.split(jr.fold_in(key, 1), seeds), len(rates))[:n]
    quality = train(keys, [images[-1]] * n, chosen)[2]
    medians = [np.median(quality[chosen == rate]) for rate in rates if jnp.any(chosen == rate)]
    rate = rates[int(np.argmax(np.nan_to_num(medians, nan=-99)))]
    shown = [image for image in images[:-1] for _ in range(config.seeds)]
    field, u, quality, losses = train(jr.split(jr.fold_in(key, 2), n), shown, jnp.full(n, rate))
    weights = sum(a.size for a in jax.tree.leaves(eqx.filter(field, eqx.is_inexact_array)))
    return {
        "field": field,
        "weights": weights + (5 * config.kernels if isinstance(field, NeuRBF) else 0),
        "rate": float(rate),
        "u": u,
        "psnr": np.asarray(quality),
        "curve": np.median(-10 * np.log10(np.asarray(losses)), 0),
    }


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    x = image_coordinates(config.size, config.size)
    images = [photograph(name, config.size).reshape(-1) for name in NAMES]
    place = jax.jit(lambda w, key: init_kernels(x, w, config.kernels, key=key))
    options: dict[str, Any] = {
        "features": config.features,
        "frequencies": (2.0**-3, config.highest),
        "width": config.width,
        "table": config.table,
        "coarsest": 4,
        "finest": 8,
    }

    def adaptive(key, image, **more):
        place_key, key = jr.split(key)
        kernels = place(gradient_size(image, config.size), place_key)
        return NeuRBF(kernels, "scalar", **(options | more), key=key)

    kinds = {
        "NeuRBF": adaptive,
        "regular": lambda key, image: NeuRBF(
            regular_kernels(config.kernels), "scalar", **options, key=key
        ),
        "one frequency": lambda key, image: adaptive(key, image, frequencies=None),
        "hash grid": lambda key, image: HashGrid(
            2,
            "scalar",
            levels=config.hash_levels,
            coarsest=4,
            finest=max(4, config.size // 2),
            table=config.hash_table,
            width=config.width,
            key=key,
        ),
        "SIREN": lambda key, image: Siren(2, "scalar", width=config.siren_width, depth=2, key=key),
    }
    found = {}
    for name, make in kinds.items():
        found[name] = fit_kind(config, make, key, images)
        row = found[name]
        log.say(
            f"{name}: {row['weights']} weights, rate {row['rate']:g}, "
            f"{np.median(row['psnr']):.2f} dB"
        )

    def gain(title, other, detail):
        measured = float(np.median(found["NeuRBF"]["psnr"] - found[other]["psnr"]))
        return Claim(title, measured, ">=", 1.0, f"dB, median of pairs; {detail}")

    claims = [
        gain("adaptive kernels against a regular grid of them", "regular", "equal weights"),
        gain("many frequencies against one", "one frequency", "equal weights"),
        *(
            gain(
                f"against {name}",
                name,
                f"{found['NeuRBF']['weights']} weights against {found[name]['weights']}",
            )
            for name in ("hash grid", "SIREN")
        ),
    ]
    metrics = {}
    for name, row in found.items():
        stem = name.replace(" ", "_").lower()
        metrics[f"psnr_{stem}"] = float(np.median(row["psnr"]))
        metrics[f"weights_{stem}"] = row["weights"]
        metrics[f"rate_{stem}"] = row["rate"]
    arrays = {f"psnr_{name.replace(' ', '_').lower()}": row["psnr"] for name, row in found.items()}
    return Result(claims, metrics, arrays, {"crops": draw(config, found, images)})


def draw(config: Config, found: dict[str, dict[str, Any]], images: list[Array]) -> Figure:
    """The photographs, where the kernels lie, and the fits with the first seed."""
    figure, axes = plt.subplots(2, 6, figsize=(16, 5.8), layout="constrained")
    for i, row_axes in enumerate(axes):
        j = i * config.seeds
        image = np.asarray(images[i]).reshape(config.size, config.size)
        row_axes[0].imshow(image, cmap="gray", vmin=0, vmax=1, extent=(-1, 1, 1, -1))
        row_axes[0].set_title("photograph" + (" and kernels" if i == 0 else ""))
        if i == 0:
            field = found["NeuRBF"]["field"]
            values, vectors = np.linalg.eigh(np.asarray(field.shapes.value))
            down, right = vectors[:, 0, 0], vectors[:, 1, 0]
            row_axes[0].add_collection(
                EllipseCollection(
                    2 * values[:, 0] ** -0.5,
                    2 * values[:, 1] ** -0.5,
                    np.degrees(np.arctan2(down, right)),
                    units="xy",
                    offsets=np.asarray(field.centres.value)[:, ::-1],
                    offset_transform=row_axes[0].transData,
                    facecolors="none",
                    edgecolors="tab:red",
                )
            )
        for axis, (name, row) in zip(row_axes[1:], found.items(), strict=True):
            u = row["u"][j].reshape(config.size, config.size)
            axis.imshow(u, cmap="gray", vmin=0, vmax=1)
            axis.set_title(f"{name}: {row['psnr'][j]:.1f} dB")
        for axis in row_axes:
            axis.set_axis_off()
    return figure
