"""The dilated residual network: its reach, its symmetry, its errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.operators import DilatedResNet


def test_it_sees_as_far_as_its_dilations_reach(key):
    net = DilatedResNet(1, 1, 1, width=2, blocks=2, dilations=(1, 2, 4), key=key)
    # Positive weights, so that nothing cancels and the activation is the identity.
    net = jax.tree.map(lambda x: jnp.abs(x) if eqx.is_array(x) else x, net)
    bump = jnp.zeros((1, 61)).at[0, 30].set(1.0)
    answer = net(bump) - net(jnp.zeros((1, 61)))
    reach = np.flatnonzero(np.abs(np.asarray(answer[0])) > 1e-7) - 30
    # 1 for each of the outer convolutions and 1 + 2 + 4 a block.
    assert (reach.min(), reach.max()) == (-16, 16)


def test_shifts_pass_through_a_periodic_grid(key):
    net = DilatedResNet(2, 2, 1, width=4, blocks=1, dilations=(1, 2), padding="wrap", key=key)
    u = jr.normal(key, (2, 8, 10))
    shifted = net(jnp.roll(u, (3, 2), axis=(1, 2)))
    np.testing.assert_allclose(shifted, jnp.roll(net(u), (3, 2), axis=(1, 2)), atol=1e-6)


def test_what_is_refused(key):
    with pytest.raises(ValueError, match="blocks"):
        DilatedResNet(1, 1, 1, blocks=0, key=key)
    with pytest.raises(ValueError, match="dilations"):
        DilatedResNet(1, 1, 1, dilations=(), key=key)
    net = DilatedResNet(1, 1, 1, width=2, blocks=1, key=key)
    with pytest.raises(ValueError, match="neither cond nor out"):
        net(jnp.ones((1, 9)), cond=jnp.ones(1))
