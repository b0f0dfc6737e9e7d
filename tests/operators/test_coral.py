"""CORAL's encoder against PyTorch, least squares and difference quotients; the operator."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.fields import CodedField, ModulatedSiren
from jaxsci.operators import CORAL, CodeMLP
from jaxsci.pde import Grid

RECORDED = np.load(Path(__file__).parents[1] / "oracles" / "data" / "coral.npz")


def leaves(field):
    """In the order of the recording."""
    layers = field.siren.layers
    return (
        [layer.weight for layer in layers]
        + [layer.bias for layer in layers]
        + [field.modulation.weight]
    )


NAMES = ["w0", "w1", "w2", "b0", "b1", "b2", "m"]


def test_pytorchs_codes_and_gradients(x64, key):
    del x64
    siren = ModulatedSiren(2, 1, latent=4, width=6, depth=2, omega0=3.0, key=key)
    siren = eqx.tree_at(leaves, siren, [jnp.asarray(RECORDED[name]) for name in NAMES])
    x, u = jnp.asarray(RECORDED["x"]), jnp.asarray(RECORDED["u"]).T

    for name, first_order in (("second", False), ("first", True)):
        field = CodedField(siren, 4, rate=0.3, first_order=first_order)
        # float64, but the rate is the exponential of its logarithm in float64: 1e-12.
        np.testing.assert_allclose(field.encode(u, x), RECORDED["code"], rtol=1e-10)
        loss, gradient = eqx.filter_jit(eqx.filter_value_and_grad(lambda f: f.meta_loss(u, x)))(
            field
        )
        np.testing.assert_allclose(loss, RECORDED["loss"], rtol=1e-10)
        for part, found in zip(NAMES, leaves(gradient.field), strict=True):
            np.testing.assert_allclose(
                found, RECORDED[f"{name}_{part}"], rtol=1e-9, atol=1e-12, err_msg=part
            )
        if not first_order:
            # The rate is trained too. A central difference errs by its step squared.
            def moved(step, field=field):
                at = eqx.tree_at(lambda f: f.log_rate, field, field.log_rate + step)
                return at.meta_loss(u, x)

            slope = (moved(1e-4) - moved(-1e-4)) / 2e-4
            np.testing.assert_allclose(gradient.log_rate, slope, rtol=1e-6)


def test_a_linear_family_is_damped_least_squares(x64, key):
    """Steps on |Φz − u|²/n from 0 are (I − (I − 2a ΦᵀΦ/n)^k) times the least-squares solution."""
    del x64
    x, u = jr.uniform(key, (12, 1)), jr.normal(jr.key(1), (1, 12))

    def features(x):
        return jnp.concatenate([jnp.ones(1), x, x**2])

    field = CodedField(lambda x, z: (features(x) @ z)[None], 3, steps=5, rate=0.2)
    matrix = np.asarray(jax.vmap(features)(x))
    shrink = np.linalg.matrix_power(np.eye(3) - 2 * 0.2 * matrix.T @ matrix / 12, 5)
    best = np.linalg.lstsq(matrix, np.asarray(u[0]), rcond=None)[0]
    np.testing.assert_allclose(field.encode(u, x), (np.eye(3) - shrink) @ best, rtol=1e-10)


@pytest.fixture(scope="module")
def coral():
    keys = jr.split(jr.key(3), 3)
    inputs, outputs = (
        CodedField(ModulatedSiren(2, c, latent=5, width=8, depth=2, key=k), 5, steps=2)
        for c, k in ((1, keys[0]), (2, keys[1]))
    )
    codes = jr.normal(jr.key(4), (7, 5)) * jnp.arange(5)
    return CORAL.of(inputs, outputs, CodeMLP(5, 5, width=6, depth=1, key=keys[2]), codes, codes + 1)


def test_points_are_a_set(coral, key):
    points, u = jr.uniform(key, (10, 2)), jr.normal(jr.key(1), (1, 10))
    out = Grid((0.0, 0.0), (1.0, 1.0), (3, 4))
    call = eqx.filter_jit(lambda u, points, mask: coral(u, points=points, out=out, mask=mask))
    value = call(u, points, jnp.ones(10, bool))
    assert value.shape == (2, 3, 4)
    order = jr.permutation(jr.key(2), 10)
    # float32; the order of a sum.
    np.testing.assert_allclose(
        call(u[:, order], points[order], jnp.ones(10, bool)), value, atol=1e-5
    )
    # What the mask leaves out may hold anything but NaN.
    few = coral(u[:, :6], points=points[:6], out=out)
    np.testing.assert_allclose(
        call(u.at[:, 6:].set(9.0), points, jnp.arange(10) < 6), few, atol=1e-5
    )
    there = coral(u, points=points, out=out.coords().reshape(2, -1).T)
    np.testing.assert_allclose(there.reshape(2, 3, 4), value, atol=1e-5)
    with pytest.raises(Exception, match="leaves no point"):
        call(u, points, jnp.zeros(10, bool))


def test_codes_are_normalised(coral):
    z = jnp.arange(5.0)
    mean_in, std_in, mean_out, std_out = (s.value for s in coral.statistics)
    want = coral.process((z - mean_in) / std_in) * std_out + mean_out
    np.testing.assert_allclose(coral.predict_code(z), want, rtol=1e-6)
    np.testing.assert_allclose(mean_out, mean_in + 1, rtol=1e-5)
    assert std_in[0] == 1  # a constant entry
    want = jnp.mean(((coral.predict_code(z) - z) / std_out) ** 2)
    np.testing.assert_allclose(coral.code_loss(z, z), want, rtol=1e-6)
    assert not jax.tree.leaves(eqx.filter(coral.statistics, eqx.is_inexact_array))


def test_what_is_refused(coral, key):
    with pytest.raises(ValueError, match="latent"):
        ModulatedSiren(1, 1, latent=0, key=key)
    with pytest.raises(ValueError, match="z must have shape"):
        coral.inputs.decode(jnp.ones(4), jnp.ones((3, 2)))
    wrongs: list[dict[str, Any]] = [{"latent": 0}, {"steps": 0}, {"rate": 0.0}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            CodedField(**({"field": coral.inputs.field, "latent": 5} | wrong))
    with pytest.raises(ValueError, match="values"):
        coral.inputs.encode(jnp.ones((1, 4)), jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="at least one point"):
        coral.inputs.encode(jnp.ones((1, 0)), jnp.ones((0, 2)))
    with pytest.raises(ValueError, match="mask"):
        coral.inputs.encode(jnp.ones((1, 3)), jnp.ones((3, 2)), jnp.ones(2, bool))
    with pytest.raises(ValueError, match="width"):
        CodeMLP(1, 1, width=0, key=key)
    ones = np.ones(5)
    with pytest.raises(ValueError, match="std_in must be finite"):
        CORAL(coral.inputs, coral.outputs, coral.process, ones, 0 * ones, ones, ones)
    with pytest.raises(ValueError, match="mean_out must have shape"):
        CORAL(coral.inputs, coral.outputs, coral.process, ones, ones, ones[:4], ones)
    with pytest.raises(ValueError, match="cond"):
        coral(jnp.ones((1, 3)), points=jnp.ones((3, 2)), out=jnp.ones((3, 2)), cond=ones)
