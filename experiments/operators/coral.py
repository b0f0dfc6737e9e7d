"""Operator Learning with Neural Fields: Tackling PDEs on General Geometries

Serrano, Le Boudec, Kassaï Koupaï, Wang, Yin, Vittaut & Gallinari, arXiv:2306.07266.

**Claim.** An operator between codes of coordinate networks (CORAL) takes functions at any points
and gives them at any points, and is robust where few irregular points are known, where operators
on grids are not.

**What is compared with what.** The operator a ↦ u of −(a u′)′ = 1, u(0) = u(1) = 0, with a smooth
and random. Of each sample, a and u are known at `sensors` random points, different ones for every
sample and for a and u. CORAL is trained in its two stages. A Fourier neural operator gets a at its
grid by linear interpolation between the sensors, and its output, interpolated linearly, is compared
with u at the sensors: so both see the same numbers. Its updates are as many as CORAL's two fields
have together. The FNO has the best of three learning rates, CORAL's fields that of two, at two ω₀
(`RATES`). Errors are relative in L², at the sensors and at all 200 intervals' ends.

**Found** (quick preset, three seeds). CORAL's error between the sensors is that at the sensors. But
the FNO behind an interpolation is about three times better: 0.0090, 0.0096, 0.0082 against 0.028,
0.028, 0.022 at 30 sensors, and 0.031, 0.019, 0.025 against 0.080, 0.058, 0.060 at 10, where both
were trained with 30 (this claim was added when the first numbers had been seen; its threshold is
equality). The field of a leaves 0.04 of an unseen a: on a line, 30 sensors and straight lines
between them say more. The paper's cases are in two dimensions on irregular domains, with fields
trained some hundred times longer; they are not reproduced here, nor is its latent dynamics.
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
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.experiment import Between, Claim, Logger, Result
from jaxsci.fields import CodedField, ModulatedSiren
from jaxsci.operators import CORAL, FNO, CodeMLP, relative_l2
from jaxsci.pde import GaussianRandomField, Grid, solve_elliptic
from jaxsci.train import ArraySource, fit

# Found with one seed that no result is reported for, by the error at all points. FNO: the best of
# 1e-3 (0.015), 3e-3 (0.011), 1e-2 (0.0090). Fields: 3e-3 and 1e-2 are equal (0.031 and 0.030),
# ω₀ of 5 and 10 too; Muon, at 2e-2 and 5e-2, diverges. "step" is the encoder's rate at the start.
RATES = {"step": 0.1, "field": 1e-2, "code": 3e-3, "fno": 1e-2}


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes and budgets."""

    train_samples: Annotated[int, Between(2)] = 256
    """training samples"""
    test_samples: Annotated[int, Between(2)] = 64
    """unseen samples"""
    sensors: Annotated[int, Between(2, 201)] = 30
    """points at which a function is known"""
    few_sensors: Annotated[int, Between(2, 201)] = 10
    """points of a further test, with the same trained networks"""
    latent: Annotated[int, Between(1, 1024)] = 16
    """numbers in a code"""
    width: Annotated[int, Between(2, 1024)] = 48
    """of the fields' layers, and of the code's network"""
    omega0: Annotated[float, Between(0.1, 100.0)] = 5.0
    """frequency of the sines"""
    field_steps: Annotated[int, Between(1)] = 600
    """updates of each field"""
    code_steps: Annotated[int, Between(1)] = 1000
    """updates of the network from code to code"""
    batch: Annotated[int, Between(1)] = 16
    """samples in a batch"""
    fno_width: Annotated[int, Between(2, 256)] = 24
    """channels of the Fourier neural operator"""
    fno_depth: Annotated[int, Between(1, 32)] = 4
    """its layers"""
    fno_points: Annotated[int, Between(16, 1024)] = 64
    """points of its grid"""


PRESETS = {
    # Few shapes, so few programs to compile.
    "smoke": Config(
        train_samples=2,
        test_samples=2,
        sensors=8,
        few_sensors=8,
        latent=3,
        width=8,
        field_steps=1,
        code_steps=1,
        batch=2,
        fno_width=4,
        fno_depth=1,
        fno_points=16,
    ),
    "quick": Config(),
    "full": Config(train_samples=1000, field_steps=2000, code_steps=4000),
    "paper": Config(
        train_samples=1000,
        latent=128,
        width=128,
        field_steps=150_000,
        code_steps=300_000,
    ),
}
POINTS = 201


class Samples(eqx.Module):
    """Functions a and u on a fine grid, and the indices of their sensors."""

    a: Float[Array, "n x"]
    u: Float[Array, "n x"]
    at_a: Array
    at_u: Array

    def known(self, name: str) -> tuple[Float[Array, "n 1 s"], Float[Array, "n s 1"]]:
        """Values and places of the sensors."""
        values, at = getattr(self, name), getattr(self, f"at_{name}")
        return jnp.take_along_axis(values, at, 1)[:, None], places()[at][..., None]


def places() -> Float[Array, " x"]:
    """The fine grid on [−1, 1], where the fields live."""
    return jnp.linspace(-1.0, 1.0, POINTS)


@eqx.filter_jit
def make(key: PRNGKeyArray, n: int, sensors: int) -> Samples:
    """A log-normal, of variance one in the logarithm and correlation length about 1/5."""
    grid = Grid(0.0, 1.0, POINTS)
    law = GaussianRandomField(2.0, 5.0, boundary="neumann", zero_mean=False)

    def one(key):
        key, a_key, u_key = jr.split(key, 3)
        log_a = law.sample(key, grid)[0]
        a = jnp.exp(log_a / 2)
        # u is of order 1/10.
        u = 10 * solve_elliptic(a, jnp.ones(POINTS), grid)
        at = [jnp.sort(jr.permutation(k, POINTS)[:sensors]) for k in (a_key, u_key)]
        return Samples(a, u, *at)

    return jax.lax.map(one, jr.split(key, n), batch_size=64)


def train(model, loss, data, optimizer, steps, batch, key, log) -> Any:
    source = ArraySource(data, min(batch, len(jax.tree.leaves(data)[0])))

    def mean_loss(model, batch, key):
        return jnp.mean(jax.vmap(lambda *each: loss(model, *each))(*batch))

    return fit(model, mean_loss, optimizer, source, steps=steps, key=key, log=log).model


def adam(rate: float, steps: int) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(rate, steps, 0.01)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def train_coral(config: Config, data: Samples, key: PRNGKeyArray, log: Logger) -> CORAL:
    *keys, fields_key, code_key, make_key = jr.split(key, 5)
    latent = config.latent

    @eqx.filter_jit
    def make_field(key):
        siren = ModulatedSiren(
            1, 1, latent=latent, width=config.width, omega0=config.omega0, key=key
        )
        return CodedField(siren, latent, rate=RATES["step"])

    def loss_of_both(fields, a, u):
        return fields[0].meta_loss(*a) + fields[1].meta_loss(*u)

    # The two have nothing in common but the program that trains them.
    fields = train(
        tuple(make_field(k) for k in keys),
        loss_of_both,
        (data.known("a"), data.known("u")),
        adam(RATES["field"], config.field_steps),
        config.field_steps,
        config.batch,
        fields_key,
        log.scope("fields"),
    )

    @eqx.filter_jit
    def encode(fields, known):
        return tuple(
            jax.vmap(lambda *each, f=field: f.encode(*each))(*one)
            for field, one in zip(fields, known, strict=True)
        )

    codes = encode(fields, (data.known("a"), data.known("u")))
    make_network = eqx.filter_jit(lambda key: CodeMLP(latent, latent, width=config.width, key=key))
    network = make_network(make_key)
    coral = CORAL.of(fields[0], fields[1], network, codes[0], codes[1])

    def loss(network, z_in, z_out):
        return eqx.tree_at(lambda c: c.process, coral, network).code_loss(z_in, z_out)

    network = train(
        network,
        loss,
        codes,
        adam(RATES["code"], config.code_steps),
        config.code_steps,
        config.batch,
        code_key,
        log.scope("code"),
    )
    return eqx.tree_at(lambda c: c.process, coral, network)


def fno_at(fno: FNO, values: Array, points: Array, out: Array, n: int) -> Float[Array, " m"]:
    """The FNO between interpolations: sensors to its grid, its grid to the points wanted."""
    grid = jnp.linspace(-1.0, 1.0, n)
    u = fno(jnp.interp(grid, points[:, 0], values[0])[None])
    return jnp.interp(out[:, 0], grid, u[0])


def train_fno(config: Config, data: Samples, key: PRNGKeyArray, log: Logger) -> FNO:
    make_key, key = jr.split(key)
    size: dict[str, Any] = {"width": config.fno_width, "depth": config.fno_depth}
    fno = eqx.filter_jit(lambda key: FNO(1, 1, 1, modes=8, padding=0.2, key=key, **size))(make_key)

    def loss(fno, values, points, wanted, out):
        return jnp.mean((fno_at(fno, values, points, out, config.fno_points) - wanted[0]) ** 2)

    return train(
        fno,
        loss,
        (*data.known("a"), *data.known("u")),
        adam(RATES["fno"], 2 * config.field_steps),
        2 * config.field_steps,
        config.batch,
        key,
        log.scope("fno"),
    )


def errors_of(predict):
    """A function to the relative errors at the sensors and everywhere, and the predictions."""

    @jax.jit
    def errors(data):
        def one(known, wanted, exact):
            (values, points), (wanted, out) = known, wanted
            dense = predict(values, points, places()[:, None])
            few = relative_l2(predict(values, points, out)[None], wanted)
            return few, relative_l2(dense[None], exact[None]), dense

        few, everywhere, dense = jax.vmap(one)(data.known("a"), data.known("u"), data.u)
        return jnp.mean(few), jnp.mean(everywhere), dense

    return errors


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    train_key, test_key, coral_key, fno_key = jr.split(key, 4)
    data = make(train_key, config.train_samples, config.sensors)
    test = make(test_key, config.test_samples, config.sensors)
    coral = train_coral(config, data, coral_key, log)
    fno = train_fno(config, data, fno_key, log)

    def by_coral(values, points, out):
        return coral(values, points=points, out=out)[0]

    def by_fno(values, points, out):
        return fno_at(fno, values, points, out, config.fno_points)

    of_coral, of_fno = errors_of(by_coral), errors_of(by_fno)
    few, dense, predicted = of_coral(test)
    fno_few, fno_dense, fno_predicted = of_fno(test)
    sparse = make(test_key, config.test_samples, config.few_sensors)
    metrics = {
        "coral_sensors": few,
        "coral_everywhere": dense,
        "coral_few_sensors": of_coral(sparse)[1],
        "fno_sensors": fno_few,
        "fno_everywhere": fno_dense,
        "fno_few_sensors": of_fno(sparse)[1],
        # How well the codes of unseen functions represent them.
        "code_a": recoded(coral.inputs, test, "a"),
        "code_u": recoded(coral.outputs, test, "u"),
    }
    claims = [
        Claim(
            "CORAL against an FNO behind an interpolation",
            dense,
            "<=",
            fno_dense,
            f"relative L2 at {POINTS} points from {config.sensors} sensors",
        ),
        Claim(
            "the same with fewer sensors than in training",
            metrics["coral_few_sensors"],
            "<=",
            metrics["fno_few_sensors"],
            f"relative L2 at {POINTS} points from {config.few_sensors} sensors",
        ),
        Claim(
            "CORAL's error between the sensors is that at the sensors",
            dense,
            "<=",
            1.3 * float(few),
            f"relative L2 at {POINTS} points; target: 1.3 x {few:.3g}",
        ),
    ]
    figure = draw(test, np.asarray(predicted), np.asarray(fno_predicted))
    return Result(claims, metrics, figures={"functions": figure})


def recoded(field: CodedField, data: Samples, name: str) -> float:
    """The relative error everywhere of functions decoded from the codes of their sensors."""

    @eqx.filter_jit
    def error(field, known, exact):
        def one(known, exact):
            found = field.decode(field.encode(*known), places()[:, None])
            return relative_l2(found, exact[None])

        return jnp.mean(jax.vmap(one)(known, exact))

    return float(error(field, data.known(name), getattr(data, name)))


def draw(data: Samples, predicted: np.ndarray, fno: np.ndarray) -> Figure:
    """Two unseen samples: what is known of a, and the answers."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained", sharex=True)
    x = np.linspace(0, 1, POINTS)
    for row, (top, bottom) in enumerate(axes.T):
        at = np.asarray(data.at_a[row])
        top.plot(x, data.a[row], "C7", label="$a$")
        top.plot(x[at], np.asarray(data.a[row])[at], "k.", label="sensors")
        bottom.plot(x, data.u[row], "C7", lw=3, label="solver")
        bottom.plot(x, predicted[row], "C3", label="CORAL")
        bottom.plot(x, fno[row], "C0--", label="FNO behind an interpolation")
        top.set(title=f"unseen sample {row + 1}", ylabel="coefficient $a$")
        bottom.set(xlabel="$x$", ylabel="solution $10\\,u$")
    axes[0, 0].legend()
    axes[1, 0].legend()
    return figure
