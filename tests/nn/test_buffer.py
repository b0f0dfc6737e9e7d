"""A buffer keeps its bits and is invisible to everything that trains."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.nn.buffer import Buffer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64", "int32", "bool"])
def test_bits_come_back(dtype):
    value = jnp.array([0.0, 1.5, -3e-39, jnp.nan, jnp.inf]).astype(dtype)
    buffer = Buffer(value)
    assert buffer.value.dtype == value.dtype
    np.testing.assert_array_equal(
        np.asarray(buffer.value).view(np.uint8), np.asarray(value).view(np.uint8)
    )


def test_float64_and_keys(x64):
    assert Buffer(jnp.array(1 / 3, jnp.float64)).value == 1 / 3
    key = jax.random.key(3)
    assert jnp.array_equal(jax.random.key_data(Buffer(key).value), jax.random.key_data(key))


def test_weight_decay_and_gradients_do_not_reach_it():
    model = {"weight": jnp.ones(2), "fixed": Buffer(jnp.full(2, 3.0))}
    assert len(jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))) == 1
    gradient = eqx.filter_grad(lambda m: jnp.sum(m["weight"] * m["fixed"].value))(model)
    np.testing.assert_array_equal(gradient["weight"], [3.0, 3.0])
    optimizer = optax.adamw(0.1, weight_decay=1.0)
    parameters = eqx.filter(model, eqx.is_inexact_array)
    updates, _ = optimizer.update(gradient, optimizer.init(parameters), parameters)
    np.testing.assert_array_equal(eqx.apply_updates(model, updates)["fixed"].value, [3.0, 3.0])


def test_works_under_jit_and_vmap():
    buffers = eqx.filter_vmap(Buffer)(jnp.arange(3.0))
    out = eqx.filter_jit(eqx.filter_vmap(lambda b: 2 * b.value))(buffers)
    np.testing.assert_array_equal(out, [0.0, 2.0, 4.0])
    with pytest.raises(TypeError):
        Buffer("text")
