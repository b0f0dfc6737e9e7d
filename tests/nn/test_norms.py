"""Norms against Equinox, Flax and the formulas in NumPy, and RMSNorm's invariances."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from jaxsci.nn.norms import (
    AdaGroupNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    PerPoint,
    RMSNorm,
    channel_norm,
    group_norm,
    rms_normalise,
)


def test_rms_norm_is_its_formula(x64, key):
    x = np.asarray(jax.random.normal(key, (5, 7)))
    rms = np.sqrt(np.mean(x**2, axis=-1, keepdims=True))
    # float64 rounding
    np.testing.assert_allclose(RMSNorm(7)(x), x / (rms + 1e-8), rtol=1e-13)
    first = np.sqrt(np.mean(x[:, :2] ** 2, axis=-1, keepdims=True))
    np.testing.assert_allclose(RMSNorm(7, partial=0.3)(x), x / (first + 1e-8), rtol=1e-13)
    whole = np.sqrt(np.mean(x**2))
    np.testing.assert_allclose(RMSNorm((5, 7))(x), x / (whole + 1e-8), rtol=1e-13)
    np.testing.assert_allclose(
        rms_normalise(x, axis=0, partial=0.4, eps=0.0),
        x / np.sqrt(np.mean(x[:2] ** 2, axis=0)),
        rtol=1e-13,
    )


def test_rms_norm_agrees_with_equinox_and_flax(key):
    x = jax.random.normal(key, (7,))
    ours = RMSNorm(7, eps=1e-5, eps_inside=True, use_bias=True)
    scale, bias = jnp.linspace(0.5, 2, 7), jnp.linspace(-1, 1, 7)
    ours = eqx.tree_at(lambda n: (n.scale, n.bias), ours, (scale, bias))
    theirs = eqx.tree_at(lambda n: (n.weight, n.bias), eqx.nn.RMSNorm(7), (scale, bias))
    # float32 rounding
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-6)
    flax = linen.RMSNorm(epsilon=1e-5).apply({"params": {"scale": scale}}, x)
    np.testing.assert_allclose(ours(x) - bias, flax, atol=1e-6)


def test_rms_norm_invariances(x64, key):
    x, w = jax.random.normal(key, (4,)), jax.random.normal(jax.random.key(1), (6, 4))

    def out(w, x):
        return rms_normalise(w @ x, eps=0.0)

    def cost(w):
        return jnp.sum(jnp.cos(out(w, x)))

    np.testing.assert_allclose(out(w, 3 * x), out(w, x), rtol=1e-13)
    np.testing.assert_allclose(out(3 * w, x), out(w, x), rtol=1e-13)
    assert not np.allclose(rms_normalise(w @ x + 1.0), out(w, x))
    gradient = jax.grad(cost)(w)
    np.testing.assert_allclose(jax.grad(cost)(3 * w), gradient / 3, rtol=1e-11)
    # The gradient is orthogonal to the weights: their norm cannot shrink.
    assert abs(jnp.sum(gradient * w)) < 1e-14


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_rms_norm_jacobian_over_forty_decades(size, x64, key):
    x = size * jax.random.normal(key, (5,))
    rms, eps = jnp.sqrt(jnp.mean(x**2)), 1e-8
    exact = jnp.eye(5) / (rms + eps) - jnp.outer(x, x) / (5 * rms * (rms + eps) ** 2)
    jacobian = jax.jacfwd(lambda x: rms_normalise(x, eps=eps))(x)
    # The two terms cancel along x, so compare with the size of the whole.
    np.testing.assert_allclose(jacobian, exact, atol=1e-13 * float(jnp.abs(exact).max()))


def test_rms_norm_at_zero_and_in_half_precision():
    derivative = jax.jacfwd(rms_normalise)(jnp.zeros(2))
    np.testing.assert_allclose(derivative, 1e8 * np.eye(2), rtol=1e-6)
    big = jnp.full(4, 300.0, jnp.float16)  # its square overflows float16
    out = RMSNorm(4)(big)
    assert out.dtype == jnp.float16
    np.testing.assert_array_equal(out, jnp.ones(4, jnp.float16))


def test_rms_norm_bad_input():
    with pytest.raises(ValueError, match="leaves none"):
        RMSNorm(8, partial=0.1)
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        RMSNorm(8, partial=1.5)
    with pytest.raises(ValueError, match="positive"):
        RMSNorm(0)
    with pytest.raises(ValueError, match="eps"):
        RMSNorm(4, eps=-1.0)
    with pytest.raises(ValueError, match=r"trailing shape \(4,\), got shape \(4, 3\)"):
        RMSNorm(4)(jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match="trailing shape"):
        RMSNorm((4, 3))(jnp.zeros(3))
    with pytest.raises(TypeError, match="int32"):
        rms_normalise(jnp.zeros(4, jnp.int32))
    with pytest.raises(ValueError, match="one feature axis"):
        rms_normalise(jnp.zeros((4, 4)), (0, 1), partial=0.5)
    with pytest.raises(ValueError, match="eps"):
        rms_normalise(jnp.zeros(4), eps=-1.0)


def test_per_point_norms_act_on_channels(key):
    x = jax.random.normal(key, (4, 3, 5))
    for norm in (RMSNorm(4), LayerNorm(4)):
        out = PerPoint(norm)(x)
        np.testing.assert_allclose(out[:, 1, 2], norm(x[:, 1, 2]), rtol=1e-6, atol=1e-6)
    assert PerPoint(eqx.nn.Linear(4, 2, key=key))(x).shape == (2, 3, 5)


def test_instance_norm_agrees_with_flax(key):
    x = 3 + 2 * jax.random.normal(key, (4, 6, 5))
    params = {"scale": jnp.linspace(0.5, 2, 4), "bias": jnp.linspace(-1, 1, 4)}
    norm = eqx.tree_at(
        lambda n: (n.weight, n.bias), InstanceNorm(4), (params["scale"], params["bias"])
    )
    batch = jnp.moveaxis(x, 0, -1)[None]
    flax = linen.InstanceNorm(epsilon=1e-5).apply({"params": params}, batch)[0]
    # Flax takes the variance as E x² - (E x)², which costs it a digit at a mean of 3.
    np.testing.assert_allclose(norm(x), jnp.moveaxis(flax, -1, 0), atol=1e-5)
    half = InstanceNorm(4, affine=False)(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_masked_instance_norm_sees_the_kept_points_only(key):
    x = jax.random.normal(key, (2, 6))
    mask = jnp.arange(6) < 4
    holes = jnp.where(mask, x, jnp.nan)
    norm = InstanceNorm(2)
    np.testing.assert_allclose(norm(holes, mask)[:, :4], norm(x[:, :4]), atol=1e-6)
    np.testing.assert_array_equal(norm(holes, mask)[:, 4:], jnp.zeros((2, 2)))
    gradient = jax.grad(lambda x: jnp.sum(norm(x, mask) ** 3))(holes)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    assert bool(jnp.all(norm(holes, jnp.zeros(6, bool)) == 0))


def test_instance_norm_bad_input():
    with pytest.raises(ValueError, match="c must be"):
        InstanceNorm(0)
    with pytest.raises(ValueError, match="x must have shape"):
        InstanceNorm(3)(jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="mask must have"):
        InstanceNorm(2)(jnp.zeros((2, 4)), jnp.ones(3, bool))


def test_group_norm_takes_the_groups_that_fit():
    assert [group_norm(c).groups for c in (8, 12, 6, 3, 64)] == [8, 4, 2, 1, 8]
    assert group_norm(64, groups=32).groups == 32
    with pytest.raises(ValueError, match="c must be"):
        group_norm(0)
    with pytest.raises(ValueError, match="groups must be"):
        group_norm(8, groups=-1)


def test_channel_norm_by_name_and_by_function(key):
    x = jax.random.normal(key, (4, 6))
    np.testing.assert_array_equal(channel_norm("none", 4)(x), x)
    for name, variance_axis in (("layer", 0), ("rms", 0), ("instance", 1)):
        y = channel_norm(name, 4)(x)
        np.testing.assert_allclose(jnp.mean(y**2, variance_axis), 1.0, rtol=2e-3)
    norm = channel_norm(partial(group_norm, groups=2), 4)
    assert isinstance(norm, GroupNorm) and norm.groups == 2
    with pytest.raises(ValueError, match="norm must be"):
        channel_norm("batch", 4)  # pyright: ignore[reportArgumentType]


def test_ada_group_norm_modulates_after_normalising(key):
    x, e = jax.random.normal(key, (4, 6)), jnp.array([1.0, -1.0])
    plain = GroupNorm(4, 4, channelwise_affine=False)(x)
    np.testing.assert_array_equal(AdaGroupNorm(4, 2, key=key)(x, e), plain)
    norm = AdaGroupNorm(4, 2, zero_init=False, key=key)
    scale, shift = np.split(norm.film.linear(e), 2)
    np.testing.assert_allclose(
        norm(x, e), plain * (1 + scale[:, None]) + shift[:, None], rtol=1e-6, atol=1e-6
    )
    with pytest.raises(ValueError, match="c_cond"):
        AdaGroupNorm(4, 0, key=key)
    with pytest.raises(ValueError, match="4 channels"):
        norm(x[:2], e)
    with pytest.raises(ValueError, match="cond must have"):
        norm(x, e[:1])
