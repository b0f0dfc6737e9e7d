"""Riemannian Adaptive Optimization Methods

Bécigneul, Ganea, arXiv:1810.00760 (ICLR 2019).

**Claim.** Adam and AMSGrad, with one adaptive number for each point of a manifold and a momentum
that is transported, reach a lower training loss than Riemannian SGD when a taxonomy is embedded in
the Poincaré ball, in equal epochs.

**What is compared with what.** The paper embeds the nouns of WordNet. Here the taxonomy is a
complete tree of three children a node; its relations are all pairs (u, v) of a node and an
ancestor, and the loss of a relation is that of Nickel and Kiela (arXiv:1705.08039), with random
nodes v′ that are no ancestors of u:

    −log( exp(−d(u, v)) / (exp(−d(u, v)) + Σ_{v′} exp(−d(u, v′))) )

Riemannian SGD, Adam and AMSGrad in the ball, and Adam in the Euclidean space of equal dimension as
a control; all from the same small random points, with the same batches, a tenth of the rate in the
first epochs, and for each the best of ten settings (by the loss): five rates, each with two choices
of the moments or of the momentum. The loss is taken over all relations with fixed negatives; the
mean average precision ranks all nodes by their distance to u, for each u with ancestors.

**Finding.** Adam's half of the claim holds, but not with the usual moments: with b1 = 0 and
b2 = 0.99 its loss ends at 0.80 to 0.91 of that of RSGD (four seeds), with 0.9 and 0.999 above it.
AMSGrad is fast at a larger rate, but ends above RSGD with either: it never forgets the large
gradients of the start, when all points lie around the origin. RSGD wants rates a hundred times as
large as those of Adam (gradients are means over a batch); a grid that ends at 1 makes it look far
worse than it is. In batches of 8 RSGD with momentum and Adam end together. The mean average
precision of all three is near 1 and tells them apart no more, so it is compared with flat space
only. The tree is regular where WordNet is not, which may be what an adapted step is good for.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.experiment import Between, Claim, Logger, Result
from jaxsci.manifolds import AbstractManifold, Euclidean, Poincare
from jaxsci.optim import riemannian_adam, riemannian_amsgrad, riemannian_sgd


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """The tree, the embedding, and the training."""

    depth: Annotated[int, Between(1, 8)] = 4
    """depth of the tree; it has (3^(depth + 1) − 1)/2 nodes"""
    dim: Annotated[int, Between(2, 100)] = 5
    """dimension of the embedding"""
    negatives: Annotated[int, Between(1, 1000)] = 10
    """random unrelated nodes for each relation"""
    batch: Annotated[int, Between(1)] = 32
    """relations of one step"""
    epochs: Annotated[int, Between(2)] = 60
    """passes over all relations"""
    burn_in: Annotated[int, Between(0)] = 10
    """first epochs, with a tenth of the rate"""
    repeats: Annotated[int, Between(1, 100)] = 3
    """random starts; medians are compared"""


PRESETS = {
    "smoke": Config(depth=2, epochs=3, burn_in=1, repeats=1),
    "quick": Config(),
    "full": Config(depth=5, epochs=300, repeats=5),
    "paper": Config(depth=7, epochs=1000, repeats=5),
}

# (rate, b1, b2), or (rate, momentum, 0) of RSGD: ten settings each, so that tuning costs the same.
SETTINGS = {
    "RSGD": [(rate, b, 0.0) for b in (0.0, 0.5) for rate in (1.0, 3.0, 10.0, 30.0, 100.0)],
    **{
        name: [
            (rate, *moments)
            for moments in ((0.9, 0.999), (0.0, 0.99))
            for rate in (0.005, 0.015, 0.05, 0.15, 0.5)
        ]
        for name in ("RAdam", "RAMSGrad", "Adam, Euclidean")
    },
}


class Taxonomy(NamedTuple):
    """Pairs of a node and an ancestor; for each node which others are its ancestors, the list of
    those that are neither that nor itself (its first `n_strangers` entries count)."""

    pairs: Int[Array, "pairs 2"]
    ancestor: Bool[Array, "nodes nodes"]
    strangers: Int[Array, "nodes nodes"]
    n_strangers: Int[Array, " nodes"]


def ternary_tree(depth: int) -> Taxonomy:
    """The complete tree: node i has the children 3i + 1, 3i + 2, 3i + 3."""
    nodes = (3 ** (depth + 1) - 1) // 2
    pairs = []
    for node in range(nodes):
        ancestor = node
        while ancestor > 0:
            ancestor = (ancestor - 1) // 3
            pairs.append((node, ancestor))
    related = np.zeros((nodes, nodes), bool)
    for node, ancestor in pairs:
        related[node, ancestor] = True
    other = ~(related | np.eye(nodes, dtype=bool))
    strangers = np.argsort(~other, axis=1, kind="stable")
    return Taxonomy(*map(jnp.asarray, (pairs, related, strangers, other.sum(1))))


def loss(
    M: AbstractManifold,
    points: Float[Array, "nodes dim"],
    pairs: Int[Array, "batch 2"],
    others: Int[Array, "batch negatives"],
) -> Float[Array, ""]:
    """Mean over pairs of −log softmax(−d(u, ·))[v] among v and the negatives of u."""
    candidates = jnp.concatenate([pairs[:, 1:], others], 1)
    distances = jax.vmap(lambda u, vs: jax.vmap(lambda v: M.dist(u, v))(vs))(
        points[pairs[:, 0]], points[candidates]
    )
    return jnp.mean(distances[:, 0] + jax.nn.logsumexp(-distances, 1))


def negatives(key: PRNGKeyArray, tree: Taxonomy, u: Int[Array, " batch"], n: int):
    """For each u, n nodes, uniform among those that are neither u nor its ancestors."""
    count = tree.n_strangers[u][:, None]
    chosen = (jr.uniform(key, (len(u), n)) * count).astype(int)
    return tree.strangers[u[:, None], jnp.minimum(chosen, count - 1)]


def sampler(config: Config, tree: Taxonomy) -> Callable:
    """The function key ↦ the batches of one epoch: relations in random order, their negatives."""
    n_pairs = len(tree.pairs)
    size = min(config.batch, n_pairs)
    steps = n_pairs // size

    def sample(key: PRNGKeyArray):
        order_key, others_key = jr.split(key)
        rows = jr.permutation(order_key, n_pairs)[: steps * size]
        pairs = tree.pairs[rows]
        others = negatives(others_key, tree, pairs[:, 0], config.negatives)
        return pairs.reshape(steps, size, 2), others.reshape(steps, size, -1)

    return jax.jit(jax.vmap(sample))


def trainer(M: AbstractManifold, make: Callable) -> tuple[Callable, Callable]:
    """Initial states, and one epoch, for all settings (first axis) and starts (second axis)."""

    def init(setting, points):
        return make(*setting).init(points)

    def epoch(setting, carry, batches):
        tx = make(*setting)

        def step(carry, batch):
            points, state = carry
            gradient = jax.grad(loss, argnums=1)(M, points, *batch)
            updates, state = tx.update(gradient, state, points)
            return (optax.apply_updates(points, updates), state), None

        return jax.lax.scan(step, carry, batches)[0]

    starts = jax.vmap(jax.vmap(init, (None, 0)), (0, 0))
    epochs = jax.vmap(jax.vmap(epoch, (None, 0, 0)), (0, 0, None))
    return jax.jit(starts), jax.jit(epochs)


def over_runs(function: Callable) -> Callable:
    """A function of points, pairs and negatives, for all settings (first axis) and starts."""
    return jax.vmap(jax.vmap(function, (0, None, 0)), (0, None, None))


def mean_average_precision(
    M: AbstractManifold, points: Float[Array, "nodes dim"], tree: Taxonomy
) -> Float[Array, ""]:
    """Mean over nodes u of the average precision of its ancestors, ranked by distance to u."""
    nodes = len(points)
    far = jnp.where(jnp.eye(nodes, dtype=bool), jnp.inf, M.pairwise(points))
    order = jnp.argsort(far, axis=1)
    hits = jnp.take_along_axis(tree.ancestor, order, 1)
    precision = jnp.cumsum(hits, 1) / jnp.arange(1, nodes + 1)
    average = jnp.sum(precision * hits, 1) / jnp.maximum(jnp.sum(hits, 1), 1)
    return jnp.mean(average[1:])  # the root has no ancestors


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    tree = ternary_tree(config.depth)
    ball, flat = Poincare(config.dim), Euclidean(config.dim)
    methods = {
        "RSGD": (ball, lambda rate, b1, b2: riemannian_sgd(rate, ball, b1)),
        "RAdam": (ball, lambda rate, b1, b2: riemannian_adam(rate, ball, b1, b2)),
        "RAMSGrad": (ball, lambda rate, b1, b2: riemannian_amsgrad(rate, ball, b1, b2)),
        "Adam, Euclidean": (flat, lambda rate, b1, b2: optax.adam(rate, b1, b2)),
    }
    start_key, test_key, epoch_key = jr.split(key, 3)
    shape = (config.repeats, len(tree.ancestor), config.dim)
    starts = 1e-3 * jr.normal(start_key, shape)
    others = jax.vmap(lambda k: negatives(k, tree, tree.pairs[:, 0], config.negatives))
    test = tree.pairs, jax.jit(others)(jr.split(test_key, config.repeats))
    sample = sampler(config, tree)
    scores = {
        M: jax.jit(jax.vmap(lambda p, M=M: mean_average_precision(M, p, tree)))
        for M in (ball, flat)
    }
    evaluate = {M: jax.jit(over_runs(functools.partial(loss, M))) for M in (ball, flat)}
    curves, best, precision, points = {}, {}, {}, {}
    for name, (M, make) in methods.items():
        init, epoch = trainer(M, make)
        setting = jnp.asarray(SETTINGS[name]).T
        at = jnp.broadcast_to(starts, (setting.shape[1], *shape))
        carry, losses = (at, init(tuple(setting), at)), []
        with log.progress(config.epochs, name) as progress:
            for i in range(config.epochs):
                scale = jnp.asarray([0.1 if i < config.burn_in else 1.0, 1, 1])[:, None]
                batches = sample(jr.split(jr.fold_in(epoch_key, i), config.repeats))
                carry = epoch(tuple(scale * setting), carry, batches)
                losses.append(evaluate[M](carry[0], *test))
                progress.update(i + 1)
        curves[name] = np.stack(losses, -1)  # settings, starts, epochs
        # A setting that diverged is not the best one.
        final = np.nan_to_num(np.median(curves[name][:, :, -1], axis=1), nan=np.inf)
        best[name] = int(np.argmin(final))
        points[name] = carry[0][best[name]]
        precision[name] = float(np.median(scores[M](points[name])))
        log.say(
            f"{name}: loss {final.min():.4f}, mean average precision {precision[name]:.3f} at "
            f"{SETTINGS[name][best[name]]}; all losses {np.round(final, 3).tolist()}"
        )

    end = {name: float(np.median(curves[name][i, :, -1])) for name, i in best.items()}
    claims = [
        Claim(
            f"{name}: training loss at most 0.95 of RSGD's",
            end[name],
            "<=",
            0.95 * end["RSGD"],
            "best rate of each, medians over random starts",
        )
        for name in ("RAdam", "RAMSGrad")
    ]
    claims.append(
        Claim(
            "flat space of equal dimension is worse: mean average precision of Euclidean Adam",
            precision["Adam, Euclidean"],
            "<",
            precision["RAdam"] - 0.02,
        )
    )
    claims.append(
        Claim(
            "flat space of equal dimension is worse: loss of Euclidean Adam",
            end["Adam, Euclidean"],
            ">",
            end["RAdam"],
        )
    )
    metrics = {f"loss_{name}": value for name, value in end.items()}
    metrics |= {f"map_{name}": value for name, value in precision.items()}
    for i, part in enumerate(("rate", "b1", "b2")):
        metrics |= {f"{part}_{name}": SETTINGS[name][row][i] for name, row in best.items()}
    figures = {"training": draw(config, curves, best)}
    return Result(claims, metrics, {"points": np.asarray(points["RAdam"][0])}, figures)


def draw(config: Config, curves: dict[str, np.ndarray], best: dict[str, int]) -> Figure:
    """Losses of the best rates over epochs, and final losses over rates."""
    figure, axes = plt.subplots(1, 2, figsize=(13, 4), layout="constrained")
    epochs = np.arange(1, config.epochs + 1)
    colours = {name: f"C{i}" for i, name in enumerate(curves)}
    for name, losses in curves.items():
        rate, b1, b2 = SETTINGS[name][best[name]]
        label = f"{name}: rate {rate:g}, " + (
            f"momentum {b1:g}" if not b2 else f"b = {b1:g}, {b2:g}"
        )
        axes[0].semilogy(epochs, np.median(losses[best[name]], 0), colours[name], label=label)
        half = len(SETTINGS[name]) // 2
        for rows, style in ((slice(half), "-"), (slice(half, None), "--")):
            rates = [row[0] for row in SETTINGS[name][rows]]
            _, b1, b2 = SETTINGS[name][rows][0]
            label = f"{name}, " + (f"momentum {b1:g}" if not b2 else f"b = {b1:g}, {b2:g}")
            final = np.median(losses[rows, :, -1], 1)
            axes[1].loglog(rates, final, colours[name], ls=style, marker="o", ms=4, label=label)
    if config.burn_in:
        axes[0].axvline(config.burn_in, color="grey", ls=":", lw=1, label="end of the burn-in")
    axes[0].set(xlabel="epoch", ylabel="loss over all relations", title="The best setting of each")
    axes[1].set(xlabel="learning rate", ylabel="final loss", title="All settings")
    axes[0].legend(fontsize=8)
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), handlelength=3.5)
    return figure
