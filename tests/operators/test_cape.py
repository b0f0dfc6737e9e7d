"""CAPE's block against PyTorch operations; what steers it and what it leaves alone."""

import itertools
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.operators import (
    CAPE,
    FNO,
    ChannelAttention,
    LearnedStepper,
    curriculum,
    guess_loss,
    relative_l2,
)

RECORDED = np.load(Path(__file__).parents[1] / "oracles" / "data" / "cape.npz")


@pytest.fixture
def recorded_block(x64, key):
    """A block with the recorded weights; three separate MLPs are a block-diagonal one."""
    del x64
    block = ChannelAttention(1, 2, 2, 2, width=6, modes=3, key=key)
    w = {name: jnp.asarray(RECORDED[name]) for name in RECORDED.files if name != "versions"}
    second = jax.scipy.linalg.block_diag(*(w[f"gate_{i}_2"] for i in range(3)))
    spectral = jnp.moveaxis(w["spectral"], 2, 0)

    def where(b):
        conv = (b.enter.conv, b.depthwise.conv)
        gates = b.gates.layers
        return [
            *(leaf for c in conv for leaf in (c.weight, c.bias)),
            *(leaf for m in (b.pointwise, b.skip, b.leave) for leaf in (m.weight, m.bias)),
            *(leaf for layer in gates for leaf in (layer.weight, layer.bias)),
            b.spectral.mixing.weight,
        ]

    new = [
        *(w["enter"], w["enter_bias"][:, None], w["depthwise"], w["depthwise_bias"][:, None]),
        *(
            part
            for name in ("pointwise", "skip", "leave")
            for part in (w[name][..., 0], w[f"{name}_bias"])
        ),
        jnp.concatenate([w[f"gate_{i}_1"] for i in range(3)]),
        jnp.concatenate([w[f"gate_{i}_1_bias"] for i in range(3)]),
        second,
        jnp.concatenate([w[f"gate_{i}_2_bias"] for i in range(3)]),
        jnp.stack([spectral.real, spectral.imag]),
    ]
    return eqx.tree_at(where, block, new)


def test_the_block_in_pytorch(recorded_block):
    found = recorded_block(jnp.asarray(RECORDED["x"]), jnp.asarray(RECORDED["theta"]))
    # Two libraries' transforms and sums in float64.
    np.testing.assert_allclose(found, RECORDED["attention"], rtol=1e-10, atol=1e-11)


def test_the_papers_layer_norm(recorded_block, key):
    cape = CAPE(lambda x: x, 2, 2, width=6, modes=3, norm=eqx.nn.LayerNorm((2, 32)), key=key)
    cape = eqx.tree_at(lambda m: m.attention, cape, recorded_block)
    found = cape.guess(jnp.asarray(RECORDED["x"]), jnp.asarray(RECORDED["theta"]))
    # PyTorch's layer norm has the same ε = 1e-5.
    np.testing.assert_allclose(found, RECORDED["guess"], rtol=1e-9, atol=1e-10)


@pytest.fixture(scope="module")
def model():
    base_key, key = jr.split(jr.key(1))
    base = FNO(1, 2, 2, width=4, modes=3, depth=1, key=base_key)
    return CAPE(base, 1, 2, width=4, modes=2, key=key)


def test_parameters_and_resolutions(model, key):
    u = jr.normal(key, (1, 32))
    call = eqx.filter_jit(lambda u, cond: model(u, cond=cond))
    a, b = (call(u, jnp.array(cond)) for cond in ([0.1, 1.0], [2.0, 1.0]))
    assert a.shape == u.shape and not np.allclose(a, b)
    assert model(jr.normal(key, (1, 48)), cond=jnp.ones(2)).shape == (1, 48)
    batch = jax.vmap(lambda c: model(u, cond=c))(jnp.array([[0.1, 1.0], [2.0, 1.0]]))
    np.testing.assert_allclose(batch, jnp.stack([a, b]), rtol=1e-4, atol=1e-5)  # float32


def test_shifts_by_blocks_commute_on_a_circle(model, key):
    """All branches are periodic; the pooled one commutes with shifts by its block of 4."""
    attention = model.attention
    u, cond = jr.normal(key, (1, 32)), jnp.ones(2)
    shifted = attention(jnp.roll(u, 8, -1), cond)
    np.testing.assert_allclose(shifted, jnp.roll(attention(u, cond), 8, -1), atol=1e-5)  # float32


def test_multiplying_keeps_zeros_and_k_repeats(key):
    base = FNO(2, 3, 3, width=4, modes=2, depth=1, key=key)
    cape = CAPE(base, 1, 1, width=4, modes=2, k=2, ndim=2, combine="multiply", key=key)
    u = jr.normal(key, (1, 8, 8)).at[:, 2].set(0)
    guess = cape.guess(u, jnp.ones(1))
    assert guess.shape == (2, 8, 8)
    np.testing.assert_array_equal(guess[:, 2], 0)
    assert cape(u, cond=jnp.ones(1)).shape == u.shape


def test_saturating_parameters(key):
    u = jr.normal(key, (1, 16))
    raw, saturating = (
        ChannelAttention(1, 1, 1, 1, width=4, modes=2, parameters=kind, key=key)
        for kind in ("raw", "saturating")
    )
    np.testing.assert_allclose(
        saturating(u, jnp.array([3.0])), raw(u, jnp.array([0.75])), rtol=1e-5, atol=1e-6
    )  # λ/(1 + λ) = ¾
    with pytest.raises(Exception, match="parameters must be positive"):
        saturating(u, jnp.array([-1.0]))


def test_the_auxiliary_loss_is_added_once_a_step(model, key):
    window, cond = jr.normal(key, (4, 1, 32)), jnp.ones(2)
    stepper = LearnedStepper(model)

    @jax.jit
    def losses():
        recipes = (curriculum(auxiliary=guess_loss(0.5)), curriculum())
        return [recipe(stepper, window, cond, progress=0.0)[0] for recipe in recipes]

    found, plain = losses()
    pairs = itertools.pairwise(window)
    expected = 0.5 * np.mean([relative_l2(model.guess(a, cond), b) for a, b in pairs])
    np.testing.assert_allclose(found - plain, expected, rtol=1e-4)  # float32


WRONG: Any = "x"
BASE = lambda u: u  # noqa: E731
U = jnp.ones((1, 16))
BAD: list[tuple[Any, type, str]] = [
    (lambda k: ChannelAttention(1, 1, 1, 0, key=k), ValueError, "n_params must be a positive"),
    (lambda k: ChannelAttention(1, 1, 1, 1, width=5, key=k), ValueError, "width must be even"),
    (lambda k: ChannelAttention(1, 1, 1, 1, kernel=4, key=k), ValueError, "kernel must be odd"),
    (lambda k: ChannelAttention(1, 1, 1, 1, parameters=WRONG, key=k), ValueError, "parameters"),
    (lambda k: CAPE(WRONG, 1, 1, key=k), TypeError, "base must be an operator"),
    (lambda k: CAPE(BASE, 0, 1, key=k), ValueError, "c must be a positive integer"),
    (lambda k: CAPE(BASE, 1, 1, combine=WRONG, key=k), ValueError, "combine must be"),
    (lambda k: CAPE(BASE, 1, 1, key=k)(U), ValueError, "needs the parameters"),
    (lambda k: CAPE(BASE, 1, 1, key=k)(U[0], cond=U[0, :1]), ValueError, "grid axes"),
    (lambda k: CAPE(BASE, 1, 1, key=k)(U, cond=jnp.ones(2)), ValueError, "expected 1 parameters"),
    (lambda k: CAPE(BASE, 1, 1, key=k)(U[:, :14], cond=jnp.ones(1)), ValueError, "divisible by 4"),
    (
        lambda k: CAPE(lambda u: u[:1], 1, 1, key=k)(U, cond=jnp.ones(1)),
        ValueError,
        "base must keep its 2 channels",
    ),
    (lambda k: guess_loss(-1.0), ValueError, "weight must be 0 or more"),
    (lambda k: guess_loss()(LearnedStepper(BASE), U, U[None], None), TypeError, "of a CAPE"),
    (
        lambda k: guess_loss()(LearnedStepper(CAPE(BASE, 1, 1, k=2, key=k)), U, U[None], None),
        ValueError,
        "k=2 frames are guessed",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(key, call, error, message):
    with pytest.raises(error, match=message):
        call(jr.wrap_key_data(jnp.tile(jr.key_data(key), 2), impl="rbg"))
