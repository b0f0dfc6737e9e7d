"""NeuralStagger: the order of PyTorch's tiles, exact inverses, permuted tiles, subtasks alone."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.operators import (
    Staggered,
    depth_to_space,
    energy_above_tiles,
    forecast,
    physics_residual,
    space_to_depth,
)
from jaxsci.pde import burgers_residual

RECORDED = np.load(Path(__file__).parents[1] / "oracles" / "data" / "pixel_unshuffle.npz")


def test_pytorchs_tiles():
    tiles = space_to_depth(jnp.asarray(RECORDED["u"]), 2)
    theirs = RECORDED["tiles"].reshape(2, 4, 2, 3).swapaxes(0, 1)
    np.testing.assert_array_equal(tiles, theirs)


@pytest.mark.parametrize(("shape", "s"), [((6,), 3), ((4, 6), 2), ((2, 4, 6), 2), ((5, 5), 1)])
def test_tiles_and_back(shape, s):
    u = jnp.arange(2 * np.prod(shape)).reshape(2, *shape)
    tiles = space_to_depth(u, s)
    np.testing.assert_array_equal(depth_to_space(tiles, s), u)
    index = tuple(slice(s - 1, None, s) for _ in shape)
    np.testing.assert_array_equal(tiles[-1], u[(slice(None), *index)])


class Local(eqx.Module):
    """A nonlinear map of three neighbours: like any network here, and quick to compile."""

    weight: jax.Array

    def __call__(self, u):
        left, middle, right = self.weight
        return jnp.tanh(left * jnp.roll(u, 1, -1) + middle * u + right * jnp.roll(u, -1, -1))


def make_net(key):
    return Local(jr.normal(key, (3,)))


def test_a_shared_network_commutes_with_shifts_by_one_cell(x64, key):
    """A shift by one permutes the tiles; the network itself is periodic."""
    del x64
    stepper = Staggered(make_net, 2, 2, shared=True, ndim=1, key=key)
    u = jr.normal(key, (1, 1, 16))
    predict = eqx.filter_jit(stepper.predict)
    shifted = predict(jnp.roll(u, 1, -1))
    # Rounding of a network in float64.
    np.testing.assert_allclose(shifted, jnp.roll(predict(u), 1, -1), atol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_subtasks_alone_are_tiles_of_the_prediction(x64, key, shared):
    del x64
    stepper = Staggered(make_net, 2, 3, shared, residual=0.5, ndim=1, key=key)
    u = jr.normal(key, (1, 16))
    together = eqx.filter_jit(stepper.predict)(u[None])
    assert together.shape == (3, 1, 16)
    for tile in (0, 1):
        for k in (1, 3):
            alone = eqx.filter_jit(lambda m, u, t=tile, k=k: m.subtask(u, t, k))(stepper, u)
            np.testing.assert_allclose(alone, together[k - 1, :, tile::2], atol=1e-13)
    frames = forecast(stepper, u[None], 4)
    np.testing.assert_allclose(frames[:3], together, atol=1e-13)


class Scaled(eqx.Module):
    one: jax.Array

    def __call__(self, u, cond):
        return self.one * u * cond


def test_parameters_reach_every_network(key):
    stepper = Staggered(lambda key: Scaled(jnp.ones(())), 2, 2, ndim=2, key=key)
    u = jnp.ones((1, 1, 4, 4))
    np.testing.assert_array_equal(stepper.predict(u, 3.0), 3.0)


def test_it_trains_on_a_residual_without_data(key):
    recipe = physics_residual(burgers_residual(0.01, 0.05), 2)
    stepper = Staggered(make_net, 2, 2, residual=0.1, ndim=1, key=key)
    window = jr.normal(key, (1, 1, 16))

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(m):
        return recipe(m, window)[0]

    value, gradient = loss(stepper)
    assert value > 0
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_energy_above_the_tiles(x64):
    del x64
    x = jnp.arange(16) / 16
    low, high = jnp.cos(2 * jnp.pi * 3 * x), jnp.cos(2 * jnp.pi * 7 * x)
    # Energies 1 and 1/4; the tiles' Nyquist wavenumber is 4.
    np.testing.assert_allclose(energy_above_tiles((low + high / 2)[None], 2), 0.2, atol=1e-14)
    assert energy_above_tiles(jnp.zeros((1, 16)), 2) == 0


class Shorter(eqx.Module):
    weight: jax.Array

    def __call__(self, u):
        return u[:, :1]


WRONG: Any = "x"
U = jnp.ones((1, 6))
BAD: list[tuple[Any, type, str]] = [
    (lambda k: space_to_depth(U, 4), ValueError, "must divide every axis"),
    (lambda k: space_to_depth(U, 0), ValueError, "s must be a positive integer"),
    (lambda k: depth_to_space(U[None], 2), ValueError, "2 tiles"),
    (lambda k: energy_above_tiles(U, 4), ValueError, "must divide every axis"),
    (lambda k: Staggered(WRONG, 2, 1, key=k), TypeError, "make_net must be callable"),
    (lambda k: Staggered(make_net, 0, 1, key=k), ValueError, "s must be a positive"),
    (lambda k: Staggered(make_net, 1, 0, key=k), ValueError, "s_t must be a positive"),
    (lambda k: Staggered(make_net, 2, 1, key=k).predict(U[None]), ValueError, "grid axes"),
    (
        lambda k: Staggered(lambda k: Shorter(U), 2, 1, ndim=1, key=k).predict(U[None]),
        ValueError,
        "must keep a tile's shape",
    ),
    (
        lambda k: Staggered(lambda k: lambda u: u, 2, 1, ndim=1, key=k).subtask(U, 2, 1),
        ValueError,
        "there are tiles 0 … 1",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(key, call, error, message):
    with pytest.raises(error, match=message):
        call(key)
