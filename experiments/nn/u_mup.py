"""u-μP: The Unit-Scaled Maximal Update Parametrization

Blake, Eichenberg, Dean, Balles, Prince, Deiseroth, Cruz-Salinas, Luschi, Weinbach, Orr,
arXiv:2407.17465 (ICLR 2025).

**Claims.** The best learning rate of a narrow network is that of a wide one, without base shapes;
with all multipliers at 1 the loss is as low as muP's; every tensor starts with size one, so that
casts to 8-bit numbers need no loss scale.

**What is compared with what.** Decoders of two blocks (rotary attention, gated feed-forward, norm
before each branch) read English text character by character, the texts that Python's `help()`
shows; a short run sees no character twice, so its training loss is that of unseen text. Compared
are standard parametrisation (SP: weights N(0, 1/fan_in), one rate of Adam for all), muP (base
width: the narrowest) and u-muP, from the same seeds and batches.

1. *Transfer.* Every rate of a grid in factors of two, at each width. The best is the minimum of the
   parabola through the lowest loss and its neighbours.
2. *One-at-a-time search*, at the narrowest width and for all three: the rate; then at this rate the
   multiplier of the logits, and the size of the residual branches relative to the embedding, each
   with the other at 1. All widths then have these two, and their own best rates.
3. *Sizes at the start* on independent random tokens: root mean squares of activations and of
   gradients of activations and weights. Two kinds lie far from 1 by the authors' choice of
   factors and are left out: the logits, which start at 1/√width, and the gradients of queries
   and keys, which share the factor of the values.
4. *8 bits.* Both operands of each product in a block of u-muP are rounded to E4M3 and the gradient
   of the result to E5M2, at the best rate in float32.

**Found** (quick, seeds 2 and 3). From width 16 to 64 SP's best rate moves by 1.5 and 1.6 octaves,
u-muP's by 0.04 and 0.4; 8 bits cost less than 0.5 % of the loss. That u-muP is no worse than muP
does not reproduce at this size: its loss is 2.535 against 2.536 with one seed, and 2.376 against
2.335 with the other. The claim stays as the paper has it, and may fail. So may the first one, as
there is one network a rate, and the minimum is flat: with seed 4242 u-muP's best rate moves by 1.4
octaves, SP's by 1.7. What the wide network loses by the narrow one's rate tells more: 0.012 and
0.12 there.
"""

import pydoc_data.topics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

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
from jaxsci.nn import unit_scaling as us

Scheme = Literal["sp", "mup", "umup"]
Precision = Literal["float8-simulated"] | None
LABELS = {"sp": "SP", "mup": "muP", "umup": "u-muP"}
VOCABULARY = 96


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes of the networks and of the search."""

    widths: tuple[int, ...] = (16, 64)
    """from narrow to wide"""
    head_size: Annotated[int, Between(2, 128)] = 16
    """channels of an attention head, the same at every width"""
    blocks: Annotated[int, Between(1, 100)] = 2
    """blocks of a decoder"""
    steps: Annotated[int, Between(10)] = 120
    """updates in a run"""
    batch: Annotated[int, Between(1)] = 8
    """sequences in a step"""
    length: Annotated[int, Between(8)] = 32
    """characters in a sequence"""
    seeds: Annotated[int, Between(1, 100)] = 1
    """initial weights and orders of the text, whose losses are averaged"""
    rates_umup: tuple[int, ...] = (-3, -2, -1, 0, 1, 2)
    """exponents of two: learning rates for u-muP"""
    rates_mup: tuple[int, ...] = (-8, -7, -6, -5, -4, -3, -2)
    """the same for muP"""
    rates_sp: tuple[int, ...] = (-10, -9, -8, -7, -6, -5, -4, -3)
    """the same for SP"""
    mup: bool = True
    """whether muP is trained too"""
    eight_bits: bool = True
    """whether there are runs in 8 bits"""
    multipliers: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """of the logits"""
    residuals: tuple[float, ...] = (1.0, 0.5)
    """sizes of the branches relative to the embedding"""


PRESETS = {
    "smoke": Config(
        widths=(8, 16),
        head_size=8,
        blocks=1,
        steps=10,
        batch=2,
        length=8,
        rates_umup=(-1, 0, 1),
        rates_mup=(-6, -4, -2),
        rates_sp=(-8, -6, -4),
        multipliers=(1.0, 4.0),
        residuals=(1.0, 0.5),
        mup=False,
        eight_bits=False,
    ),
    "quick": Config(),
    "full": Config(widths=(16, 32, 64, 128), steps=300, rates_sp=tuple(range(-11, -2))),
    "paper": Config(
        widths=(128, 256, 512, 1024, 2048),
        head_size=64,
        steps=8192,
        batch=64,
        length=256,
        seeds=3,
        rates_sp=tuple(range(-16, -5)),
    ),
}


class Plain(eqx.Module):
    """The decoder of `us.Decoder` without scales in its graph, for SP and muP."""

    weights: dict[str, Array]
    multipliers: dict[str, float] = eqx.field(static=True)
    rates: dict[str, float] = eqx.field(static=True)
    head_size: int = eqx.field(static=True)
    attention_scale: float = eqx.field(static=True)
    precision: Precision = eqx.field(static=True)

    def __init__(
        self, config: Config, scheme: Scheme, c: int, precision: Precision, key: PRNGKeyArray
    ):
        shapes = {"embedding": (VOCABULARY, c), "logits": (VOCABULARY, c)}
        for i in range(config.blocks):
            shapes |= {f"qkv{i}": (3 * c, c), f"out{i}": (c, c)}
            shapes |= {f"up{i}": (2 * c, c), f"gate{i}": (2 * c, c), f"down{i}": (c, 2 * c)}
        self.weights, self.multipliers, self.rates = {}, {}, {}
        # muP counts its factors from the narrowest network, in which it is SP.
        base = 1 if scheme == "sp" else config.widths[0]
        keys = jr.split(key, len(shapes))
        for k, (name, (fan_out, fan_in)) in zip(keys, shapes.items(), strict=True):
            role = {"embedding": "embedding", "logits": "output"}.get(name, "hidden")
            rule = us.PARAMETRISATIONS[scheme][role]
            std = rule.init(fan_in, fan_out)
            if scheme == "mup" and role == "output":
                std = base**-0.5
            self.weights[name] = std * jr.normal(k, (fan_out, fan_in))
            self.multipliers[name] = rule.multiplier(c, c) / rule.multiplier(base, base)
            self.rates[name] = rule.rate(c, c) / rule.rate(base, base)
        self.head_size, self.precision = config.head_size, precision
        self.attention_scale = (1 if scheme == "mup" else config.head_size**0.5) / config.head_size

    def __call__(
        self, tokens: Int[Array, "batch n"], residual: Array
    ) -> Float[Array, "batch n vocabulary"]:
        def linear(name: str, x: Array, precision: Precision = self.precision) -> Array:
            w = self.weights[name]
            y = x @ w.T if precision is None else us.float8_matmul(x, w, precision)
            return y * self.multipliers[name]

        x = self.weights["embedding"][tokens] / residual
        for i in range(len(self.weights) // 5):
            y = linear(f"qkv{i}", us.rms_norm(x))
            q, k, v = jnp.moveaxis(y.reshape(*x.shape[:2], 3, -1, self.head_size), 2, 0)
            y = jax.nn.dot_product_attention(
                us.rotate(q), us.rotate(k), v, is_causal=True, scale=self.attention_scale
            )
            x = x + linear(f"out{i}", y.reshape(x.shape))
            y = us.rms_norm(x)
            y = linear(f"up{i}", y) * jax.nn.silu(linear(f"gate{i}", y))
            x = x + linear(f"down{i}", y)
        return linear("logits", us.rms_norm(x), None)


def text() -> np.ndarray:
    """The characters as numbers below 96: printable ASCII, and the line's end."""
    characters = "".join(
        pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)
    )
    codes = np.frombuffer(characters.encode("ascii", "ignore"), np.uint8).astype(np.int32)
    codes = np.where(codes == 10, 95, codes - 32)
    return codes[(codes >= 0) & (codes < VOCABULARY)]


def build(config: Config, scheme: Scheme, c: int, precision: Precision, key: PRNGKeyArray):
    """A network, the factors of its rates, and its loss, a function of logits and labels."""
    if scheme == "umup":
        heads = c // config.head_size
        model = us.Decoder(
            VOCABULARY, c, config.blocks, heads, expansion=2, precision=precision, key=key
        )
        return model, us.umup_learning_rates(model), us.cross_entropy
    model = Plain(config, scheme, c, precision, key)
    rates = eqx.tree_at(lambda m: m.weights, model, model.rates)

    def mean(logits: Array, labels: Array) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return model, rates, mean


def trainer(
    config: Config, scheme: Scheme, c: int, key: PRNGKeyArray, precision: Precision = None
) -> Callable[[Any, Any, Any], np.ndarray]:
    """(rates, multipliers of the logits, sizes of branches) -> final losses, means of all seeds.

    One program makes all the runs; starts and texts depend on the key alone.
    """
    data = jnp.asarray(text())
    chunk, last = config.batch * (config.length + 1), max(config.steps // 10, 1)
    starts = []
    for seed in jr.split(key, config.seeds):
        model, rates, loss = build(config, scheme, c, precision, seed)
        # Pieces of the text in random order; paper-size runs go through it again.
        places = jr.permutation(jr.fold_in(seed, 1), len(data) // chunk)
        places = jnp.resize(places, (config.steps,)) * chunk
        starts.append((eqx.filter(model, eqx.is_inexact_array), places))
    static = eqx.filter(model, eqx.is_inexact_array, inverse=True)
    tx = optax.chain(optax.scale_by_adam(b2=0.99), us.scale_by_rates(rates), optax.scale(-1.0))

    def train(params: Any, places: Array, rate: Array, multiplier: Array, residual: Array) -> Array:
        def step(carry: Any, inputs: tuple[Array, Array]) -> tuple[Any, Array]:
            params, state = carry
            place, count = inputs
            batch = jax.lax.dynamic_slice(data, (place,), (chunk,)).reshape(config.batch, -1)

            def value(params: Any) -> Array:
                model = eqx.combine(params, static)
                if isinstance(model, us.Decoder):
                    taus = us.residual_taus(2 * config.blocks, residual)
                    model = eqx.tree_at(lambda m: m.taus, model, taus)
                    logits = model(batch[:, :-1])
                else:
                    logits = model(batch[:, :-1], residual)
                return loss(us.scale_fwd(logits, multiplier), batch[:, 1:])

            now, gradient = jax.value_and_grad(value)(params)
            updates, state = tx.update(gradient, state, params)
            # A linear rise over a tenth of the run, and a linear fall to 0 over all of it.
            size = rate * jnp.minimum((count + 1) / last, 1) * (1 - count / config.steps)
            updates = jax.tree.map(lambda u: size * u, updates)
            return (optax.apply_updates(params, updates), state), now

        inputs = places, jnp.arange(config.steps)
        return jax.lax.scan(step, (params, tx.init(params)), inputs)[1][-last:].mean()

    @jax.jit
    def all_runs(params: Any, places: Array, *settings: Array) -> Array:
        return jax.lax.map(lambda setting: train(params, places, *setting), settings)

    def losses(rates: Any, multipliers: Any, residuals: Any) -> np.ndarray:
        settings = np.broadcast_arrays(*np.atleast_1d(rates, multipliers, residuals))
        settings = [jnp.asarray(a, jnp.float32) for a in settings]
        found = np.stack([all_runs(*start, *settings) for start in starts])
        # A run that diverged is as bad as guessing.
        return np.nan_to_num(found, nan=np.log(VOCABULARY)).mean(0)

    return losses


def best(exponents: tuple[int, ...], losses: np.ndarray) -> float:
    """The exponent at the minimum of the parabola through the lowest loss and its neighbours."""
    i = int(np.argmin(losses))
    if i in (0, len(losses) - 1):
        return float(exponents[i])
    a, b = losses[i - 1] - losses[i], losses[i + 1] - losses[i]
    shift = (a - b) / (2 * (a + b))
    step = exponents[i + 1] - exponents[i] if shift > 0 else exponents[i] - exponents[i - 1]
    return exponents[i] + shift * step


def sizes(config: Config, key: PRNGKeyArray) -> dict[str, float]:
    """Root mean squares at the start in u-muP's widest network."""
    model = build(config, "umup", config.widths[-1], None, key)[0]
    batch = jr.randint(key, (config.batch, config.length + 1), 0, VOCABULARY)

    @eqx.filter_jit
    def measure(model: Any) -> Any:
        def loss(model: Any, *tap: Any) -> Array:
            return us.cross_entropy(model(batch[:, :-1], *tap), batch[:, 1:])

        gradient = eqx.filter_grad(loss)(model)
        return us.tensor_scales(lambda tap: loss(model, tap)), jax.tree.map(
            lambda g: jnp.sqrt(jnp.mean(g**2)), gradient
        )

    tensors, weights = measure(model)
    found = {f"{name}": float(value) for name, (value, _) in tensors.items()}
    found |= {f"∂ {name}": float(gradient) for name, (_, gradient) in tensors.items()}
    for path, gradient in jax.tree_util.tree_leaves_with_path(weights):
        found[f"∂ {jax.tree_util.keystr(path)[1:]}"] = float(gradient)
    return found


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    narrow, wide = config.widths[0], config.widths[-1]
    grids: dict[Scheme, tuple[int, ...]] = {"sp": config.rates_sp}
    grids |= {"mup": config.rates_mup} if config.mup else {}
    grids |= {"umup": config.rates_umup}
    curves: dict[tuple[Scheme, int], np.ndarray] = {}
    shift, excess, lowest, top = {}, {}, {}, {}
    with log.progress(len(grids) * len(config.widths), "sweeps") as bar:
        for scheme, exponents in grids.items():
            rates = 2.0 ** np.array(exponents, float)
            search = trainer(config, scheme, narrow, key)
            rate = rates[np.argmin(search(rates, 1.0, 1.0))]
            options = config.multipliers, config.residuals
            multiplier = options[0][int(np.argmin(search(rate, options[0], 1.0)))]
            residual = options[1][int(np.argmin(search(rate, 1.0, options[1])))]
            for width in config.widths:
                train = search if width == narrow else trainer(config, scheme, width, key)
                curves[scheme, width] = train(rates, multiplier, residual)
                bar.update(1)
            ends = [best(exponents, curves[scheme, width]) for width in (narrow, wide)]
            shift[scheme] = abs(ends[1] - ends[0])
            curve = curves[scheme, wide]
            excess[scheme] = float(curve[np.argmin(curves[scheme, narrow])] - curve.min())
            lowest[scheme] = float(curve.min())
            top[scheme] = rates[np.argmin(curve)], multiplier, residual
            log.say(
                f"{LABELS[scheme]}: best rates 2^{ends[0]:.2f} (width {narrow}), 2^{ends[1]:.2f} "
                f"({wide}); multiplier of the logits {multiplier:g}, branches "
                f"{residual:g}; loss {lowest[scheme]:.3f}"
            )
    found = sizes(config, key)
    apart = ("logits", ".q", ".k")
    octaves = {
        n: abs(np.log2(v)) for n, v in found.items() if n == "∂ logits" or not n.endswith(apart)
    }
    farthest = max(octaves, key=octaves.__getitem__)
    factor = f"from width {narrow} to {wide}"
    claims = [
        Claim("u-muP: the best rate stays", shift["umup"], "<=", 1, f"octaves, {factor}"),
        Claim(
            "SP: the best rate moves more", shift["sp"], ">", shift["umup"], f"octaves, {factor}"
        ),
        Claim(
            "u-muP loses less than SP by the narrow network's rate",
            excess["umup"],
            "<",
            excess["sp"],
            f"loss of width {wide} above that at its own best rate",
        ),
        Claim(
            "u-muP: tensors start near size one",
            octaves[farthest],
            "<=",
            1,
            f"octaves, of {farthest}",
        ),
        Claim("u-muP: their median", float(np.median([*octaves.values()])), "<=", 0.5, "octaves"),
    ]
    if config.mup:
        claims += [
            Claim(
                "u-muP is no worse than muP",
                lowest["umup"],
                "<=",
                lowest["mup"],
                f"final loss of width {wide}",
            ),
        ]
    metrics = {f"shift_{n}": v for n, v in shift.items()}
    metrics |= {f"excess_{n}": v for n, v in excess.items()}
    metrics |= {f"loss_{n}": v for n, v in lowest.items()}
    if config.eight_bits:
        train = trainer(config, "umup", wide, key, "float8-simulated")
        eight = float(train(*top["umup"])[0])
        metrics["loss_umup_float8"] = eight
        claims.append(
            Claim(
                "u-muP trains in 8 bits without loss scale",
                eight,
                "<=",
                1.03 * lowest["umup"],
                "final loss; target: 3 % above float32's",
            )
        )
    arrays = {f"{scheme}_{width}": curve for (scheme, width), curve in curves.items()}
    return Result(claims, metrics, arrays, {"transfer": draw(grids, curves, found)})


def draw(
    grids: dict[Scheme, tuple[int, ...]],
    curves: dict[tuple[Scheme, int], np.ndarray],
    found: dict[str, float],
) -> Figure:
    """Losses over rates for each width, and the sizes at the start of u-muP."""
    figure, axes = plt.subplots(1, 4, figsize=(15, 4), layout="constrained")
    widths = sorted({width for _, width in curves})
    colours = plt.get_cmap("viridis")(np.linspace(0.0, 0.8, len(widths)))
    low = min(float(curve.min()) for curve in curves.values())
    high = max(float(np.quantile(curve, 0.8)) for curve in curves.values())
    for axis, (scheme, exponents) in zip(axes, grids.items(), strict=False):
        for width, colour in zip(widths, colours, strict=True):
            curve = curves[scheme, width]
            axis.plot(exponents, curve, "o-", color=colour, label=f"width {width}", ms=4)
            axis.plot(exponents[int(np.argmin(curve))], curve.min(), "*", color=colour, ms=14)
        axis.set(
            title=f"{LABELS[scheme]} (star: lowest)",
            xlabel="log2 of the learning rate",
            ylabel="final loss",
        )
        axis.set_ylim(low - 0.05, high + 0.1)
        axis.legend()
    forward = [v for n, v in found.items() if not n.startswith("∂")]
    backward = [v for n, v in found.items() if n.startswith("∂")]
    bins = np.arange(-4, 4.1, 0.5)
    for values, label in ((forward, "activations"), (backward, "gradients")):
        axes[3].hist(np.log2(values), bins, alpha=0.6, label=label)
    axes[3].set(
        title="u-muP: sizes at the start", xlabel="log2 of root mean square", ylabel="tensors"
    )
    axes[3].legend()
    return figure
