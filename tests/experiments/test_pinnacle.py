"""What the recipes of the `pinnacle` experiment say of their forms is so, whatever the weights."""

import dataclasses
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.experiment import find, load
from jaxsci.pde import benchmarks

module = sys.modules[load(find("pinnacle")).run.__module__]


@pytest.mark.parametrize("name", ["heat_2d_vc", "wave_2d_ms"])
def test_forms_meet_the_conditions_that_they_name(name):
    with jax.enable_x64(True):
        recipe, statement = module.RECIPES[name], getattr(benchmarks.pinnacle, name)()
        ansatz = recipe.ansatz(statement)
        statement = dataclasses.replace(statement, ansatz=ansatz)
        net = recipe.net(ansatz.inputs, len(statement.components), 0.05, jr.key(0))
        net = jax.tree.map(lambda a: a + 1.0 if eqx.is_inexact_array(a) else a, net)

        held = [c for c in statement.conditions if c.name in ansatz.meets]
        assert len(held) == len(ansatz.meets) > 0

        @jax.jit
        def residuals(key):
            field = statement.shaped(net)
            inside = jax.vmap(field)(statement.domain.sample(key, 30))
            found = {
                c.name: jax.vmap(lambda x, c=c: jnp.ravel(c.residual(field, x)))(c.draw(key, 30))
                for c in held
            }
            return found, jnp.max(jnp.abs(inside))

        found, scale = residuals(jr.key(1))
        # Rounding of sin kπ in sums of hundreds of terms, over a field of size `scale`.
        for values in found.values():
            np.testing.assert_allclose(values / scale, 0, atol=1e-10)


def test_warm_discs_are_those_of_the_plate():
    statement = benchmarks.pinnacle.heat_2d_cg()
    for condition in statement.conditions:
        if "circles" in condition.name:
            x = np.asarray(condition.draw(jr.key(0), 200))[:, :2]
            away = np.linalg.norm(x[:, None] - module.DISCS[:, :2], axis=2) - module.DISCS[:, 2]
            np.testing.assert_allclose(np.abs(away).min(1), 0, atol=1e-5)  # float32
    assert len(module.DISCS) == 17
