"""DeepONet, its modified MLP and self-adaptive weights, against DeepXDE, PyTorch and hand sums."""

from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from jaxsci.operators import (
    DeepONet,
    ModifiedMLP,
    SelfAdaptive,
    fourier_features,
    self_adaptive,
)
from jaxsci.pde import Grid

RECORDED = np.load(Path(__file__).parents[1] / "oracles" / "data" / "deeponet.npz")


class Recorded(eqx.Module):
    """A DeepXDE network: tanh between its affine maps, and after the last for a trunk."""

    layers: list
    last: bool

    def __call__(self, x):
        for weight, bias in self.layers[:-1]:
            x = jnp.tanh(weight @ x + bias)
        weight, bias = self.layers[-1]
        x = weight @ x + bias
        return jnp.tanh(x) if self.last else x


def recorded(name, *, last=False):
    n = len([f for f in RECORDED.files if f.startswith(name) and f.endswith("weight")])
    layers = [
        tuple(jnp.asarray(RECORDED[f"{name}_{i}_{part}"]) for part in ("weight", "bias"))
        for i in range(n)
    ]
    return Recorded(layers, last)


def test_deepxde(x64):
    del x64
    u, w, y = (jnp.asarray(RECORDED[name]) for name in ("u", "w", "y"))

    def with_bias(model, bias):
        return eqx.tree_at(lambda m: m.bias, model, jnp.asarray(bias))

    one = DeepONet(recorded("one_branch"), recorded("one_trunk", last=True), p=4)
    two = DeepONet(recorded("two_branch"), recorded("two_trunk", last=True), p=4, c_out=2)
    mio = DeepONet((recorded("mio_branch1"), recorded("mio_branch2")), recorded("mio_trunk"), p=4)
    one, two, mio = with_bias(one, [0.3]), with_bias(two, [0.1, -0.4]), with_bias(mio, [-0.2])
    found = {
        "one": jax.vmap(lambda u: one(u, out=y))(u)[:, 0],
        "two": jnp.moveaxis(jax.vmap(lambda u: two(u, out=y))(u), 1, 2),
        "mio": jax.vmap(lambda u, w: mio((u, w), out=y))(u, w)[:, 0],
    }
    for name, value in found.items():  # sums of a few products in float64
        np.testing.assert_allclose(value, RECORDED[name], rtol=1e-12, atol=1e-13, err_msg=name)


def test_modified_mlp_in_pytorch(x64, key):
    del x64
    mlp = ModifiedMLP(2, 4, width=6, depth=2, key=key)
    maps = [mlp.gates[0], mlp.gates[1], *mlp.layers, mlp.head]
    new = [
        eqx.tree_at(
            lambda m: (m.weight, m.bias),
            layer,
            tuple(jnp.asarray(RECORDED[f"mlp_{i}_{part}"]) for part in ("weight", "bias")),
        )
        for i, layer in enumerate(maps)
    ]
    mlp = eqx.tree_at(
        lambda m: (m.gates, m.layers, m.head), mlp, ((new[0], new[1]), tuple(new[2:5]), new[5])
    )
    found = jax.vmap(mlp)(jnp.asarray(RECORDED["y"]))
    np.testing.assert_allclose(found, RECORDED["mlp"], rtol=1e-11, atol=1e-12)  # sin(30 x)


def test_features_are_part_of_the_trunk(key):
    y = jnp.array([0.25, 0.5])
    # cos and sin of π/2 and π, then of π and 2π.
    want = [0.25, 0.5, 0, -1, 1, 0, -1, 1, 0, 0]
    np.testing.assert_allclose(fourier_features(y, (1.0, 2.0)), want, atol=1e-6)  # float32

    def features(x):
        return fourier_features(x, (1.0, 2.0))

    mlp = ModifiedMLP(2, 3, width=4, depth=1, activation=jnp.tanh, features=features, key=key)
    assert mlp.layers[0].weight.shape == (4, 10) and mlp(y).shape == (3,)


@pytest.fixture(scope="module")
def model():
    branch_key, trunk_key = jr.split(jr.key(1))
    trunk = ModifiedMLP(2, 5, width=8, depth=1, key=trunk_key)
    branch = eqx.nn.MLP(6, 5, 8, 1, key=branch_key)
    return DeepONet(branch, trunk, p=5, shift=jnp.array([1.0, 2.0]), scale=jnp.array([1.0, 2.0]))


def test_grids_points_and_units(model, key):
    grid = Grid((0.0, 0.0), (2.0, 4.0), (3, 4))
    u = jr.normal(key, (2, 3))
    call = eqx.filter_jit(lambda m, u, points: m(u, out=points))
    points = grid.coords().reshape(2, -1).T
    values = call(model, u, points)
    np.testing.assert_allclose(model(u, out=grid).reshape(1, -1), values, atol=1e-5)  # float32
    # The trunk sees (point - shift)/scale, and neither is a parameter.
    scaled = (points - jnp.array([1.0, 2.0])) / jnp.array([1.0, 2.0])
    inside = model.decode(model.encode(u), jax.vmap(model.trunk)(scaled))
    np.testing.assert_allclose(inside, values, atol=1e-5)
    trained = eqx.filter(model, eqx.is_inexact_array)
    assert not jax.tree.leaves((trained.shift, trained.scale))


def test_what_is_refused(model, key):
    u, points = jnp.ones(6), jnp.ones((3, 2))
    with pytest.raises(ValueError, match="2 input functions for 1 branches"):
        model((u, u), out=points)
    with pytest.raises(ValueError, match="out must have shape"):
        model(u, out=points[0])
    with pytest.raises(ValueError, match="cond"):
        model(u, out=points, cond=u)
    with pytest.raises(ValueError, match="branch must return 4 numbers"):
        DeepONet(model.branches[0], model.trunk, p=4)(u, out=points)
    with pytest.raises(ValueError, match="trunk must return 4 numbers"):
        DeepONet(lambda u: u[:4], model.trunk, p=4)(u, out=points)
    with pytest.raises(TypeError, match="trunk must be callable"):
        DeepONet(model.branches[0], 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="c_out"):
        DeepONet(model.branches[0], model.trunk, c_out=0)
    with pytest.raises(ValueError, match="scale"):
        DeepONet(model.branches[0], model.trunk, scale=np.array([1.0, 0.0]))
    good: dict[str, Any] = {"c_in": 2, "c_out": 1, "key": key}
    wrongs: list[dict[str, Any]] = [{"c_in": 0}, {"width": 0}, {"depth": -1}, {"omega0": 0.0}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ModifiedMLP(**(good | wrong))
    with pytest.raises(TypeError, match="activation"):
        ModifiedMLP(2, 1, activation="cos", key=key)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="shape"):
        ModifiedMLP(2, 1, width=3, depth=0, key=key)(jnp.ones(3))
    with pytest.raises(ValueError, match="fourier_features"):
        fourier_features(points, (1.0,))
    with pytest.raises(ValueError, match="n = 0"):
        SelfAdaptive.of(None, 0)
    with pytest.raises(ValueError, match="one shape"):
        SelfAdaptive.of(None, 3).weighted(jnp.ones(2), jnp.arange(3))
    with pytest.raises(ValueError, match="clip"):
        self_adaptive(optax.sgd(1.0), clip=(1.0, 1.0))


def test_weights_climb_where_the_loss_is(key):
    """Two steps by hand: loss (1/2) Σ λ_i (θ − a_i)² over samples 0 and 2 of three."""
    a, index = jnp.array([1.0, -2.0]), jnp.array([0, 2])
    both = SelfAdaptive.of(jnp.array(0.5), 3)
    optimizer = self_adaptive(optax.sgd(0.1), 0.01, clip=(0.0, 1.015))

    @jax.jit
    def step(both, state):
        gradient = jax.grad(lambda b: b.weighted((b.model - a) ** 2, index))(both)
        updates, state = optimizer.update(gradient, state, cast(Any, both))
        return optax.apply_updates(cast(Any, both), updates), state

    state = optimizer.init(cast(Any, both))
    both, state = step(both, state)
    # The model descends: θ − 0.1 · ½ · 2 · ((0.5 − 1) + (0.5 + 2)) = 0.3. Adam's first step is its
    # rate, upwards; a sample that is not in the batch keeps its weight.
    np.testing.assert_allclose(both.model, 0.3, rtol=1e-6)
    np.testing.assert_allclose(both.weights, [1.01, 1.0, 1.01], rtol=1e-5)
    both, state = step(both, state)
    np.testing.assert_allclose(both.model, 0.3 - 0.1 * 1.01 * (-0.7 + 2.3), rtol=1e-5)
    np.testing.assert_allclose(both.weights, [1.015, 1.0, 1.015], rtol=1e-5)  # at the clip
