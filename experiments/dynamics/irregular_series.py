"""On Neural Differential Equations: real series, irregularly read

Kidger, Morrill, Foster and Lyons, arXiv:2005.08926; chapter 3 of Kidger's thesis, arXiv:2202.02435.

**Claim.** A neural controlled differential equation (CDE) reads irregular series better than a
recurrent network that is told the time steps.

**Data.** Japanese vowels (Kudo, Toyama and Shimbo, doi:10.1016/S0167-8655(99)00077-X, of UCI's
archive): nine men say "ae", in 7 to 29 frames of 12 cepstral coefficients; who speaks? 270
utterances to learn from, 370 of other sessions for the test. The frames are read irregularly: most
of them are lost, others in every utterance. The files are those that the package aeon ships; no
other part of it is used: `pip install --no-deps aeon`.

**What is compared with what.** All read the same frames and their times, and have the same
utterances: two thirds of the 270 to learn from, one third to choose learning rate and weight decay.
Each choice is tried from several seeds, which also draw the split and the frames.

- `NeuralCDE` along straight lines, the midpoint rule, a step a frame.
- A gated recurrent unit (GRU) with the time step as a channel, with about as many weights and as
  many updates.
- No network: straight lines between the frames, read at eight places, and their span, into
  logistic regression.

The networks are then also asked about utterances of which fewer frames are left than in training.

**Found** (quick, seeds 5, 31 and 8103). False. Of the test utterances the CDE has 89, 89 and 91 %
right, the GRU 95, 96 and 96, straight lines and logistic regression 96, 97 and 98; with three
quarters of the frames lost 75, 77 and 77; 91, 91 and 92; 92, 94 and 93. The CDE learns its 180
utterances by heart: its training loss ends below the GRU's, and weight decay does not help. Along a
cubic path with Heun's method it had 85 to 87 %. The coefficients of speech are rough from frame to
frame, and what tells the speaker is where they are more than how they move; a CDE sees only how its
path moves, after the first frame. Not tried: larger networks, noise on the frames, frames lost anew
in every update. `full` and `paper` have not been run.
"""

import importlib.util
import itertools
from dataclasses import dataclass
from pathlib import Path
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
from jaxsci.dynamics import CDEField, NeuralCDE
from jaxsci.experiment import Between, Claim, Logger, Result


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    real: bool = True
    """the vowels; else noise about a curve for each speaker, which needs no package"""
    lost: Annotated[float, Between(0, 0.9)] = 0.5
    """share of the frames that are lost"""
    sparse: Annotated[float, Between(0, 0.9)] = 0.75
    """share that is lost in a second test"""
    seeds: Annotated[int, Between(1, 100)] = 3
    """trainings with each learning rate"""
    rates: tuple[float, ...] = (1e-2, 3e-2)
    """learning rates that are tried"""
    decays: tuple[float, ...] = (0.0, 1.0)
    """weight decays that are tried with each of them"""
    updates: Annotated[int, Between(0)] = 200
    """updates in a training; 0 leaves the networks out"""
    batch: Annotated[int, Between(1)] = 32
    """utterances in an update"""
    hidden: Annotated[int, Between(1)] = 12
    """states of the CDE"""
    units: Annotated[int, Between(1)] = 32
    """of the recurrent network"""


PRESETS = {
    "smoke": Config(real=False, seeds=1, updates=0),
    "quick": Config(),
    "full": Config(seeds=5, rates=(3e-3, 1e-2, 3e-2), updates=1000),
    "paper": Config(seeds=10, rates=(1e-3, 3e-3, 1e-2, 3e-2), updates=5000, hidden=32, units=96),
}
SPEAKERS, CHANNELS, FRAMES = 9, 12, 29
PLACES = 8
"""at which logistic regression sees the straight lines"""
FRAME = 0.1
"""of time; the longest utterance takes 2.8"""

Utterances = list[Float[np.ndarray, "frames 12"]]


def vowels() -> tuple[tuple[Utterances, np.ndarray], tuple[Utterances, np.ndarray]]:
    """Utterances and speakers (0 to 8) to learn from and for the test, from aeon's files."""
    package = importlib.util.find_spec("aeon")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            "the Japanese vowels are a file of the package aeon, of which nothing else is needed: "
            "pip install --no-deps aeon"
        )
    folder = Path(package.submodule_search_locations[0], "datasets", "data", "JapaneseVowels")

    def read(part: str) -> tuple[Utterances, np.ndarray]:
        text = (folder / f"JapaneseVowels_{part}.ts").read_text()
        _, _, rows = text.partition("@data\n")
        found, speakers = [], []
        for row in rows.split():
            *channels, speaker = row.split(":")
            found.append(np.array([np.fromstring(c, sep=",") for c in channels]).T)
            speakers.append(int(speaker) - 1)
        return found, np.array(speakers)

    return read("TRAIN"), read("TEST")


def invented(rng: np.random.Generator) -> Any:
    """As `vowels`, of noise about a straight line for each speaker."""
    lines = rng.normal(size=(2, SPEAKERS, CHANNELS))

    def read(count: int) -> tuple[Utterances, np.ndarray]:
        speakers = np.arange(count) % SPEAKERS
        lengths = rng.integers(7, FRAMES + 1, count)
        noise = rng.normal(size=(count, FRAMES, CHANNELS))
        found = [
            lines[0, s] + np.linspace(0, 1, n)[:, None] * lines[1, s] + e[:n]
            for s, n, e in zip(speakers, lengths, noise, strict=True)
        ]
        return found, speakers

    return read(270), read(90)


def lose(
    rng: np.random.Generator, utterances: Utterances, share: float, size: int
) -> Float[np.ndarray, "utterances size 13"]:
    """Rows of the time and the frame of what is left, up to `size` by standing still at the end."""
    found = []
    for x in utterances:
        kept = max(3, round((1 - share) * len(x)))
        rows = np.sort(rng.choice(len(x), kept, replace=False))
        rows = np.append(rows, np.repeat(rows[-1:], size - kept))
        times = FRAME * (rows - rows[0])
        found.append(np.concatenate([times[:, None], x[rows]], axis=1))
    return np.array(found, np.float32)


class GRU(eqx.Module):
    """Reads (time step, frame) from the start to the end, then a score for each speaker."""

    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear

    def __init__(self, key: PRNGKeyArray, units: int):
        keys = jr.split(key)
        self.cell = eqx.nn.GRUCell(1 + CHANNELS, units, key=keys[0])
        self.readout = eqx.nn.Linear(units, SPEAKERS, key=keys[1])

    def __call__(self, rows: Float[Array, "n 13"]) -> Float[Array, " 9"]:
        steps = jnp.diff(rows[:, :1], axis=0, prepend=rows[:1, :1]) / FRAME
        rows = jnp.concatenate([steps, rows[:, 1:]], axis=1)
        start = jnp.zeros(self.cell.hidden_size)
        return self.readout(jax.lax.scan(lambda h, row: (self.cell(row, h), None), start, rows)[0])


class CDE(eqx.Module):
    """A neural CDE along the lines through (time, frame), then a score for each speaker.

    The equation does not care how fast its path is run through: from row to row in a unit.
    """

    model: NeuralCDE

    def __init__(self, key: PRNGKeyArray, hidden: int, rows: int):
        keys = jr.split(key, 3)
        self.model = NeuralCDE(
            initial=eqx.nn.Linear(2 + CHANNELS, hidden, key=keys[0]),
            field=CDEField(hidden, 2 + CHANNELS, 2 * hidden, 1, key=keys[1]),
            readout=eqx.nn.Linear(hidden, SPEAKERS, key=keys[2]),
            interpolation="linear",
            solver=dfx.Midpoint(),
            controller=dfx.ConstantStepSize(),
            adjoint=dfx.RecursiveCheckpointAdjoint(checkpoints=rows),
            dt0=1.0,
            max_steps=rows,
        )

    def __call__(self, rows: Float[Array, "n 13"]) -> Float[Array, " 9"]:
        return self.model(jnp.arange(rows.shape[0], dtype=rows.dtype), rows).ys


def train(
    make: Any, key: PRNGKeyArray, setting: Float[Array, " 2"], data: Any, config: Config
) -> tuple[Float[Array, " 3"], Float[Array, " updates"]]:
    """Accuracies (validation, test, sparser test), and the losses."""
    model_key, batch_key = jr.split(key)
    moving, static = eqx.partition(make(model_key), eqx.is_inexact_array)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            optax.cosine_decay_schedule(setting[0], config.updates),  # pyright: ignore
            weight_decay=setting[1],  # pyright: ignore
        ),
    )
    series, speakers = data[0]

    def scores(moving: Any, series: Any) -> Float[Array, "b 9"]:
        return jax.vmap(eqx.combine(moving, static))(series)

    def loss(moving: Any, rows: Array) -> Float[Array, ""]:
        found = scores(moving, series[rows])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(found, speakers[rows]))

    def update(carry: Any, key: PRNGKeyArray) -> tuple[Any, Array]:
        moving, state = carry
        rows = jr.randint(key, (config.batch,), 0, len(speakers))
        value, gradient = jax.value_and_grad(loss)(moving, rows)
        updates, state = optimizer.update(gradient, state, moving)
        return (optax.apply_updates(moving, updates), state), value

    keys = jr.split(batch_key, config.updates)
    (moving, _), losses = jax.lax.scan(update, (moving, optimizer.init(moving)), keys)
    # All at once, as a second solve would be compiled anew.
    unseen, theirs = (jnp.concatenate(parts) for parts in zip(*data[1:], strict=True))
    right = jnp.argmax(scores(moving, unseen), axis=1) == theirs
    ends = np.cumsum([len(speakers) for _, speakers in data[1:-1]])
    return jnp.stack([jnp.mean(part) for part in jnp.split(right, ends)]), losses


def straight_lines(series: Any) -> Float[np.ndarray, "b features"]:
    """The frames, linear between them, at equally spaced places, and the time they span."""
    features = []
    for rows in series:
        ts, first = np.unique(rows[:, 0], return_index=True)
        at = np.linspace(0, ts[-1], PLACES)
        lines = [np.interp(at, ts, x) for x in rows[first, 1:].T]
        features.append(np.append(np.ravel(lines), ts[-1]))
    return np.array(features)


def regression(data: Any) -> list[float]:
    """Accuracies of logistic regression; its weight decay is that of the best validation."""
    from sklearn.linear_model import LogisticRegression

    features = [straight_lines(series) for series, _ in data]
    fits = [
        LogisticRegression(C=c, max_iter=2000).fit(features[0], data[0][1])
        for c in (1e-2, 1e-1, 1.0, 10.0)
    ]
    best = max(fits, key=lambda fit: fit.score(features[1], data[1][1]))
    return [float(best.score(f, d[1])) for f, d in zip(features[1:], data[1:], strict=True)]


def draw(rng: np.random.Generator, config: Config) -> list[Any]:
    """Training, validation, test and sparser test, of one seed."""
    learn, test = vowels() if config.real else invented(rng)
    every = np.concatenate(learn[0])
    mean, spread = every.mean(0), every.std(0)
    order = rng.permutation(len(learn[0]))
    split = 2 * len(order) // 3
    size = round((1 - min(config.lost, config.sparse)) * FRAMES) + 1
    parts = [(learn, order[:split], config.lost), (learn, order[split:], config.lost)]
    parts += [(test, np.arange(len(test[0])), share) for share in (config.lost, config.sparse)]
    return [
        (lose(rng, [(whole[0][i] - mean) / spread for i in rows], share, size), whole[1][rows])
        for whole, rows, share in parts
    ]


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    # This generator compiles in a fraction of the default one's time.
    key = jr.key(jr.bits(key), impl="rbg")
    rng = np.random.default_rng(int(jr.bits(key)))
    drawn = [draw(rng, config) for _ in range(config.seeds)]
    data = jax.tree.map(lambda *a: jnp.stack(a), *drawn)
    keys = jr.split(key, config.seeds)
    settings = np.array(list(itertools.product(config.rates, config.decays)))
    makers = {
        "CDE": lambda k: CDE(k, config.hidden, data[0][0].shape[2]),
        "GRU": lambda k: GRU(k, config.units),
    }
    if config.updates == 0:
        makers = {}
    results: dict[str, dict[str, Any]] = {}
    for name, make in makers.items():

        def one(key: PRNGKeyArray, data: Any, setting: Array, make: Any = make) -> Any:
            return train(make, key, setting, data, config)

        over_seeds = jax.vmap(one, (0, 0, None))
        found, losses = jax.jit(jax.vmap(over_seeds, (None, None, 0)))(
            keys, data, jnp.asarray(settings)
        )
        best = int(jnp.argmax(jnp.median(found[:, :, 0], axis=1)))
        results[name] = {
            "accuracy": np.asarray(found[best, :, 1]),
            "accuracy, sparse": np.asarray(found[best, :, 2]),
            "rate": float(settings[best, 0]),
            "weight decay": float(settings[best, 1]),
            "weights": size(make(jr.key(0))),
            "losses": np.asarray(losses[best]),
        }
    lines = np.array([regression(part) for part in drawn])
    results["straight lines"] = {"accuracy": lines[:, 1], "accuracy, sparse": lines[:, 2]}
    for name, row in results.items():
        log.say(f"{name}: {row['accuracy']}, sparse {row['accuracy, sparse']}")
    middle = {
        (name, test): float(np.median(row[test]))
        for name, row in results.items()
        for test in ("accuracy", "accuracy, sparse")
    }
    lines_claim = Claim(
        "straight lines and logistic regression: 90 % of the utterances",
        middle["straight lines", "accuracy"], ">=", 0.9, f"{config.lost:.0%} of the frames lost",
    )  # fmt: skip
    metrics: dict[str, Any] = {f"{name}, {test}": value for (name, test), value in middle.items()}
    figures = {"series": plot(results, drawn[0][2], config)}
    if not makers:
        return Result([lines_claim], metrics, {}, figures)
    note = f"median of {config.seeds} trainings, {config.lost:.0%} of the frames lost"
    fewer = f"{config.sparse:.0%} of the frames lost, {config.lost:.0%} in training"
    claims = [
        Claim("CDE better than GRU",
              middle["CDE", "accuracy"], ">", middle["GRU", "accuracy"], note),
        Claim("CDE better than straight lines and logistic regression",
              middle["CDE", "accuracy"], ">", middle["straight lines", "accuracy"], note),
        Claim("CDE better than GRU on sparser series than those trained on",
              middle["CDE", "accuracy, sparse"], ">", middle["GRU", "accuracy, sparse"], fewer),
        Claim("CDE better than straight lines on sparser series",
              middle["CDE", "accuracy, sparse"], ">", middle["straight lines", "accuracy, sparse"],
              fewer),
    ]  # fmt: skip
    for name in makers:
        metrics |= {f"{name}, {k}": results[name][k] for k in ("rate", "weight decay", "weights")}
    return Result([lines_claim, *claims], metrics, {}, figures)


def size(model: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def plot(results: dict[str, dict[str, Any]], test: Any, config: Config) -> Any:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    series, speakers = test
    row = int(np.argmax(series[:, -1, 0]))
    for channel in range(4):
        axes[0].plot(series[row, :, 0] / FRAME, series[row, :, 1 + channel], "o-", ms=3, lw=0.8)
    axes[0].set(
        xlabel="frame", ylabel="coefficient / spread",
        title=f"what is left of an utterance\n(4 of 12 channels; speaker {speakers[row] + 1})",
    )  # fmt: skip
    for place, found in enumerate(results.values()):
        for shift, test_name in ((-0.15, "accuracy"), (0.15, "accuracy, sparse")):
            share = config.lost if test_name == "accuracy" else config.sparse
            color = "C0" if test_name == "accuracy" else "C1"
            label = f"{share:.0%} of the frames lost" if place == 0 else None
            at = np.full(len(found[test_name]), place + shift)
            axes[1].plot(at, 100 * found[test_name], "o", color=color, label=label)
    axes[1].set_xticks(range(len(results)), list(results))
    axes[1].set(ylabel="test utterances right, %", title=f"trained with {config.lost:.0%} lost")
    axes[1].legend(fontsize=8)
    axes[1].grid(alpha=0.3, axis="y")
    for name, found in results.items():
        if "losses" in found:
            axes[2].semilogy(np.median(found["losses"], axis=0), lw=0.8, label=name)
    if not axes[2].lines:
        axes[2].set_axis_off()
        return figure
    axes[2].set(xlabel="update", ylabel="cross-entropy", title="training, median over seeds")
    axes[2].legend(fontsize=8)
    axes[2].grid(alpha=0.3)
    return figure
