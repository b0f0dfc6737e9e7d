"""PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization

Vogels, Karimireddy, Jaggi, arXiv:1905.13727 (NeurIPS 2019).

**Claim.** Exchanging two thin factors of each gradient matrix instead of the matrix trains as well
as SGD at a fraction of the traffic; error feedback and the warm start are what makes it work.

**What is compared with what.** Four workers train a network to classify made-up images (ten smooth
random patterns, shifted, scaled and noisy) by SGD with momentum: gradients averaged whole; with
rank 1, 2 (4 in the larger presets); and rank 2 without error feedback, without warm start, and with
one factor a step ("alternating"; larger presets). Same steps and batches, for each method the best
learning rate of a grid; medians over seeds, which differ in the patterns too. The bytes are those
that a worker sends.

With four or more devices (`--devices 4`) the workers are devices of a mesh, else one device
computes for all of them. On one host no gain in time can be seen, and none is claimed.
"""

from dataclasses import dataclass
from typing import Annotated, Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.experiment import Between, Claim, Logger, Result
from jaxsci.optim import Workers, bytes_per_step, data_parallel, ef_sgd

SIDE, CLASSES = 8, 10


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes of the network and of the comparison."""

    workers: Annotated[int, Between(1, 64)] = 4
    """workers, each with its own part of every batch"""
    batch: Annotated[int, Between(1)] = 16
    """samples of one worker in a step"""
    width: Annotated[int, Between(4)] = 64
    """neurons of the two hidden layers"""
    steps: Annotated[int, Between(10)] = 300
    """steps of all methods"""
    seeds: Annotated[int, Between(1, 64)] = 5
    """networks and problems side by side; medians are compared"""
    rates: tuple[float, ...] = (0.02, 0.04, 0.08, 0.16)
    """learning rates; each method has its best"""
    noise: Annotated[float, Between(0.0)] = 0.6
    """standard deviation of the noise on an image of unit variance"""
    samples: Annotated[int, Between(10)] = 4000
    """images for training"""
    test: Annotated[int, Between(10)] = 2000
    """images for testing"""
    more: bool = False
    """also rank 4, and rank 2 with one factor a step"""


PRESETS = {
    "smoke": Config(width=8, steps=10, seeds=1, rates=(0.02,), samples=50, test=20),
    "quick": Config(),
    "full": Config(width=256, steps=600, samples=10_000, test=5000, more=True),
    "paper": Config(
        workers=16, batch=128, width=4096, steps=20_000, samples=1_000_000, seeds=3, more=True
    ),
}


def images(
    patterns: Float[Array, "classes side side"], n: int, noise: float, key: PRNGKeyArray
) -> tuple[Float[Array, "n side*side"], Int[Array, " n"]]:
    """Shifted, scaled and noisy patterns, and which they are."""
    class_key, shift_key, scale_key, noise_key = jr.split(key, 4)
    labels = jr.randint(class_key, (n,), 0, len(patterns))
    shifts = jr.randint(shift_key, (n, 2), -1, 2)
    shifted = jax.vmap(lambda i, s: jnp.roll(patterns[i], s, (0, 1)))(labels, shifts)
    scale = jr.uniform(scale_key, (n, 1, 1), minval=0.6, maxval=1.4)
    x = scale * shifted + noise * jr.normal(noise_key, (n, SIDE, SIDE))
    return x.reshape(n, -1), labels


def smooth_patterns(key: PRNGKeyArray) -> Float[Array, "classes side side"]:
    """Random functions of the three lowest wavenumbers, with unit variance."""
    k = jnp.arange(SIDE // 2 + 1)
    low = (jnp.abs(jnp.fft.fftfreq(SIDE, 1 / SIDE))[:, None] < 3) & (k < 3)
    spectrum = jnp.fft.rfft2(jr.normal(key, (CLASSES, SIDE, SIDE))) * low
    patterns = jnp.fft.irfft2(spectrum, (SIDE, SIDE))
    return patterns / jnp.std(patterns, (1, 2), keepdims=True)


def network(key: PRNGKeyArray, width: int) -> eqx.nn.MLP:
    return eqx.nn.MLP(SIDE * SIDE, CLASSES, width, 2, key=key)


def problem(config: Config, key: PRNGKeyArray) -> dict[str, Any]:
    """Data for training and testing, the order of the former, and the network at the start."""
    pattern_key, model_key, train_key, order_key, test_key = jr.split(key, 5)
    patterns = smooth_patterns(pattern_key)
    batch = config.workers * config.batch
    return {
        "train": images(patterns, config.samples, config.noise, train_key),
        "order": jr.randint(order_key, (config.steps, batch), 0, config.samples),
        "test": images(patterns, config.test, config.noise, test_key),
        "params": eqx.filter(network(model_key, config.width), eqx.is_array),
    }


def trainer(config: Config, workers: Workers, options: dict):
    """(learning rate, problem) ↦ losses of all steps, test error, ‖mean E‖² after each step."""
    static = eqx.filter(network(jr.key(0), config.width), eqx.is_array, inverse=True)

    def entropy(params, batch, key) -> Array:
        x, y = batch
        logits = jax.vmap(eqx.combine(params, static))(x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    def train(rate: Array, problem: dict[str, Any]):
        parallel = data_parallel(entropy, ef_sgd(rate, axis_name=workers.axis, **options), workers)
        x, y = problem["train"]
        unused = jr.key(0)

        def body(carry, chosen):
            params, state, value = parallel.step(*carry, (x[chosen], y[chosen]), unused)
            missed = sum(
                jnp.sum(jnp.mean(e, 0) ** 2) for e in jax.tree.leaves(cast(Any, state)[0].error)
            )
            return (params, state), (value, missed)

        start = parallel.init(problem["params"])
        carry, (losses, missed) = jax.lax.scan(body, start, problem["order"])
        x_test, y_test = problem["test"]
        logits = jax.vmap(eqx.combine(carry[0], static))(x_test)
        return losses, jnp.mean(jnp.argmax(logits, 1) != y_test), missed

    return jax.jit(jax.vmap(jax.vmap(train, (None, 0)), (0, None)))


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    n = config.workers
    if jax.device_count() >= n > 1:
        workers = Workers(jax.make_mesh((n,), ("data",), devices=jax.devices()[:n]))
    else:
        workers = Workers(n)
    log.say(f"{n} workers on {n if jax.device_count() >= n > 1 else 1} device(s)")
    methods: dict[str, dict[str, Any]] = {
        "SGD": dict(min_compression=float("inf")),
        "rank 1": dict(rank=1, min_compression=1.0),
        "rank 2": dict(rank=2, min_compression=1.0),
        "rank 2, no feedback": dict(rank=2, min_compression=1.0, error_feedback=False),
        "rank 2, no warm start": dict(rank=2, min_compression=1.0, warm_start=False),
    }
    if config.more:
        methods["rank 4"] = dict(rank=4, min_compression=1.0)
        methods["rank 2, alternating"] = dict(rank=2, min_compression=1.0, mode="alternating")
    problems = jax.jit(jax.vmap(lambda key: problem(config, key)))(jr.split(key, config.seeds))
    rates = jnp.array(config.rates)
    params = eqx.filter(network(key, config.width), eqx.is_array)
    curves, errors, ratios, missed = {}, {}, {}, {}
    for name, options in methods.items():
        losses, error, lost = trainer(config, workers, options)(rates, problems)
        tail = jnp.mean(losses[..., -max(1, config.steps // 10) :], -1)
        typical = jnp.nan_to_num(jnp.median(tail, 1), nan=jnp.inf)
        best = int(jnp.argmin(typical))
        curves[name], errors[name] = np.asarray(losses[best]), float(jnp.median(error[best]))
        missed[name] = float(jnp.median(jnp.mean(lost[best], 1)))
        known = {k: v for k, v in options.items() if k in ("rank", "min_compression", "mode")}
        ratios[name] = bytes_per_step(params, **known).ratio
        log.say(
            f"{name}: test error {100 * errors[name]:.2f} %, {ratios[name]:.3g} times less data, "
            f"loss at the end {float(typical[best]):.3g}, rate {config.rates[best]:g}, "
            f"mean ‖E‖² {missed[name]:.3g}"
        )
    tail = max(1, config.steps // 10)
    end = {name: float(np.median(loss[:, -tail:].mean(1))) for name, loss in curves.items()}
    w = config.width
    counted = (w * SIDE**2 + w * w + CLASSES * w + 2 * w + CLASSES) / (
        2 * (w + SIDE**2) + 2 * (w + w) + 2 * (CLASSES + w) + 2 * w + CLASSES
    )
    plain = errors["SGD"]
    claims = [
        *(
            Claim(
                f"{name}: test error against SGD's",
                errors[name],
                "<=",
                plain + 0.01,
                f"target: SGD's {100 * plain:.2f} % and one point",
            )
            for name in ("rank 2", "rank 4")
            if name in errors
        ),
        Claim(
            "without error feedback the loss is higher",
            end["rank 2, no feedback"],
            ">=",
            1.3 * end["rank 2"],
            "loss over the last tenth; target: 1.3 times that of rank 2",
        ),
        Claim(
            "the warm start misses less of the gradients",
            missed["rank 2"],
            "<",
            missed["rank 2, no warm start"],
            "‖mean E‖² over all steps, against random starts",
        ),
        Claim(
            "rank 2: how many times less data is sent",
            ratios["rank 2"],
            "==",
            counted,
            "target: Σ n m / Σ 2 (n + m), biases counted on both sides",
        ),
    ]
    metrics = {f"test_error_{slug(name)}": value for name, value in errors.items()}
    metrics |= {f"loss_{slug(name)}": value for name, value in end.items()}
    metrics |= {f"missed_{slug(name)}": value for name, value in missed.items()}
    metrics |= {f"ratio_{slug(name)}": value for name, value in ratios.items()}
    arrays = {slug(name): loss for name, loss in curves.items()}
    return Result(claims, metrics, arrays, {"training": draw(curves, errors, ratios)})


def slug(name: str) -> str:
    return name.lower().replace(", ", "_").replace(" ", "_")


def draw(
    curves: dict[str, np.ndarray], errors: dict[str, float], ratios: dict[str, float]
) -> Figure:
    """Loss over steps (moving medians over seeds), and test error over the data sent."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, losses in curves.items():
        loss = np.median(losses, 0)
        window = max(1, len(loss) // 30)
        smooth = np.convolve(loss, np.ones(window) / window, "valid")
        (line,) = axes[0].semilogy(np.arange(window, len(loss) + 1), smooth, label=name)
        axes[1].plot(1 / ratios[name], 100 * errors[name], "o", color=line.get_color())
        axes[1].annotate(
            name, (1 / ratios[name], 100 * errors[name]), xytext=(5, 4), textcoords="offset points"
        )
    axes[0].set(xlabel="step", ylabel="training loss", title="Each at its best learning rate")
    axes[0].legend()
    axes[1].set(
        xscale="log",
        xlabel="data sent, relative to whole gradients",
        ylabel="test error in %",
        title="Accuracy against traffic",
    )
    axes[1].margins(0.25)
    return figure
