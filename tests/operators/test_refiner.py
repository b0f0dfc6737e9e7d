"""PDE-Refiner: diffusers' chain, the chain of a perfect network, what the levels are trained on."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.nn import SumEmbedding, TimeEmbedding, UNet
from jaxsci.operators import Refiner, refinement, refiner_loss
from jaxsci.pde import FunctionStepper, rollout

RECORDED = np.load(Path(__file__).parents[1] / "oracles" / "data" / "diffusers.npz")


@pytest.mark.parametrize(("name", "min_noise"), [("three", 4e-7), ("two", 1e-3)])
def test_a_chain_of_diffusers(x64, name, min_noise):
    del x64
    recorded = {key: RECORDED[f"{name}_{key}"] for key in ("matrix", "u", "noise", "frames")}
    steps = len(recorded["noise"]) - 1

    def net(x, cond):
        u, y = x[:1], x[1:]
        # The level that diffusers counts in steps is here 1000 t / K.
        return u @ recorded["matrix"].T + jnp.sin(cond * steps / 1000) * y

    refiner = Refiner(net, steps, min_noise, difference_weight=0.25)
    u = jnp.asarray(recorded["u"])
    found = jax.jit(refiner.refine)(u, jnp.asarray(recorded["noise"]))
    # Float64 with 1 - ᾱ = 4e-7 taken from 1 - (1 - 4e-7) there: a relative 1e-10.
    np.testing.assert_allclose(found, u + 0.25 * recorded["frames"][-1], rtol=1e-9, atol=1e-10)


def test_the_tables_of_diffusers(x64):
    """The published coefficients, and what single precision makes of 1 - 4e-7."""
    del x64
    table = Refiner(lambda x, cond: x).tables
    np.testing.assert_allclose(
        table.signal**2, RECORDED["three_alphas_cumprod"], rtol=1e-12, atol=1e-15
    )
    np.testing.assert_allclose(table.clean[1:], [0.992686, 0.992659, 0.996282], atol=1e-6)
    np.testing.assert_allclose(table.keep[1:], [0.00731398, 0.00734087, 0], atol=1e-8)
    np.testing.assert_allclose(table.spread[1:], [6.3014e-4, 0.00736806, 0.086153], rtol=1e-4)
    assert table.noise[0] ** 2 == pytest.approx(4e-7, rel=1e-12)
    # Errata: the scheduler's float32 tables have 4.2e-7 in its place.
    single = 1 - RECORDED["three_alphas_cumprod_single"].astype(np.float64)[0]
    assert abs(single / 4e-7 - 1) > 0.03


@pytest.mark.parametrize("form", ["v", "eps"])
def test_a_perfect_network_returns_the_next_field(x64, key, form):
    """It knows y, and so what the noise on it is: every level leads to y."""
    del x64
    u, y = jr.normal(key, (2, 2, 16))
    refiner = Refiner(lambda x, cond: x, form=form, steps=3)
    table, sizes = refiner.tables, [*refiner._sizes()[::-1], np.inf]

    def net(x, cond):
        level = jnp.round(cond * 3 / 1000).astype(int)
        noisy = x[2:]
        if form == "v":
            signal, lost = jnp.asarray(table.signal)[level], jnp.asarray(table.noise)[level]
            eps = (noisy - signal * y) / lost
            return signal * eps - lost * y
        return jnp.where(level == 3, y, (noisy - y) / jnp.asarray(sizes)[level])

    perfect = Refiner(net, form=form, steps=3, difference_weight=0.5)
    found = perfect.step(u, key=key)
    # Rounding, divided by the smallest noise of 6e-4.
    np.testing.assert_allclose(found, u + 0.5 * y, atol=1e-12)
    losses = jax.vmap(lambda k: refiner_loss(perfect, u, u + 0.5 * y, key=k))(jr.split(key, 32))
    np.testing.assert_allclose(losses, 0, atol=1e-20)


def test_the_noisiest_level_is_a_one_step_prediction(key):
    """At t = K nothing of y is left in the input and the target is -y."""
    u = jr.normal(key, (1, 8))
    seen = []

    def net(x, cond):
        seen.append(x)
        return jnp.zeros((1, 8))

    refiner = Refiner(net, steps=1, min_noise=0.5)
    keys = jr.split(key, 40)
    losses = [float(refiner_loss(refiner, u, u + 0.3, key=k)) for k in keys[:8]]
    alone = [loss for loss, x in zip(losses, seen, strict=True) if not np.any(x[1] == x[0])]
    # y is one everywhere: a zero network has the error 1 there, at the other level 1/2 and noise.
    assert any(loss == pytest.approx(1.0, rel=1e-6) for loss in alone)


def test_steps_are_random_and_a_rollout_has_a_key_for_each(key):
    refiner = Refiner(lambda x, cond: 0.1 * x[:1], steps=2, min_noise=1e-4)
    u = jnp.zeros((1, 16))
    frames = rollout(refiner, u, 3, key=key)
    jumps = jnp.diff(frames, axis=0, prepend=0)
    assert not np.allclose(jumps[0], jumps[1])
    ensemble = jax.vmap(lambda k: rollout(refiner, u, 3, key=k))(jr.split(key, 4))
    assert np.all(np.std(ensemble, 0) > 0)


def test_with_a_unet_and_parameters(key):
    keys = jr.split(key, 3)
    embed = SumEmbedding(TimeEmbedding(8, key=keys[0]), TimeEmbedding(8, key=keys[1]))
    net = UNet(1, 2, 1, (4, 8), padding="wrap", embed=embed, key=keys[2])
    refiner = Refiner(net, steps=2)
    window = jr.normal(key, (4, 1, 16))
    loss, aux = jax.jit(lambda k: refinement()(refiner, window, (0.2,), key=k))(key)
    assert np.isfinite(loss) and aux == {}
    assert np.all(np.isfinite(jax.jit(lambda u, k: refiner.step(u, 0.2, key=k))(window[0], key)))


NET = lambda x, cond: x  # noqa: E731
U = jnp.ones((1, 4))
WRONG: Any = 3
BAD: list[tuple[Any, type, str]] = [
    (lambda k: Refiner(WRONG), TypeError, "net must be callable"),
    (lambda k: Refiner(NET, 0), ValueError, "steps must be a positive integer"),
    (lambda k: Refiner(NET, min_noise=1.0), ValueError, "min_noise must lie in"),
    (lambda k: Refiner(NET, min_noise=0.0), ValueError, "min_noise must lie in"),
    (lambda k: Refiner(NET, difference_weight=0), ValueError, "difference_weight must be"),
    (lambda k: Refiner(NET, form=WRONG), ValueError, "form must be"),
    (lambda k: Refiner(NET).step(U), ValueError, "needs a key"),
    (lambda k: Refiner(NET).refine(U, U), ValueError, "noise must have shape"),
    (lambda k: refiner_loss(Refiner(NET), U, U[:, :2], key=k), ValueError, "equal shapes"),
    (lambda k: refinement()(FunctionStepper(jnp.sin), U[None], key=k), TypeError, "a Refiner"),
    (lambda k: refinement()(Refiner(NET), U[None]), ValueError, "needs a key"),
    (lambda k: refinement()(Refiner(NET), U[None], key=k), ValueError, "must have 2 frames"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(key, call, error, message):
    with pytest.raises(error, match=message):
        call(key)
