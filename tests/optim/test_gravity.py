"""Gravity against the steps of its PyPI implementation, and what it does with scales."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import gravity

DATA = np.load(Path(__file__).parents[1] / "oracles" / "data" / "optim_first.npz")


def run(tx, start, velocity, steps=50):
    def body(carry, _):
        x, state = carry
        g = jnp.asarray(np.geomspace(0.1, 10, 6)) * (x - 1) + 0.3 * jnp.sin(5 * x)
        updates, state = tx.update(g, state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    start = jnp.asarray(start)
    state = tx.init(start)._replace(velocity=jnp.asarray(velocity))
    return jax.jit(lambda: jax.lax.scan(body, (start, state), length=steps)[1])()


def test_fifty_steps_of_the_package_which_starts_from_one(x64):
    args = DATA["x0"], DATA["gravity_velocity"]
    np.testing.assert_allclose(run(gravity(t0=1), *args), DATA["gravity"], rtol=0, atol=1e-13)
    # The author's code and the paper count from 0: the first average is a half, not two thirds.
    assert np.max(np.abs(run(gravity(), *args) - DATA["gravity"])) > 1e-2


def test_two_steps_by_hand(x64):
    tx = gravity(0.2, alpha=0.0)
    g = jnp.array([2.0, -0.5])
    x = jnp.zeros(2)
    updates, state = tx.update(g, tx.init(x), x)
    # m = ½: the entries are divided by 1 + (2·2)² and 1 + (0.5·2)².
    zeta = np.array([2 / 17, -0.5 / 2])
    np.testing.assert_allclose(updates, -0.2 * zeta / 2, rtol=1e-14)
    updates, _ = tx.update(g, state, x)
    average = (0.9 + 1) / 3
    np.testing.assert_allclose(
        updates, -0.2 * (average * zeta / 2 + (1 - average) * zeta), rtol=1e-14
    )


def test_first_velocity_zero_gradients_and_schedules():
    tx = gravity(optax.exponential_decay(0.1, 10, 0.5), key=jax.random.key(1))
    params = {"a": jnp.zeros((100, 100)), "b": jnp.zeros((100, 100))}
    state = tx.init(params)
    # 1e4 samples: 4 standard errors are 3 %.
    for leaf in state.velocity.values():
        assert float(jnp.std(leaf)) == pytest.approx(0.1, rel=0.03)
    assert float(jnp.max(jnp.abs(state.velocity["a"] - state.velocity["b"]))) > 0.1
    updates, after = tx.update(params, state, params)
    np.testing.assert_allclose(after.velocity["a"], state.velocity["a"] / 2, rtol=1e-6)
    assert np.all(np.isfinite(updates["a"]))
    later = state._replace(count=jnp.asarray(10, jnp.int32))
    now, moved = tx.update(params, later, params)
    np.testing.assert_allclose(now["a"], -0.05 * moved.velocity["a"], rtol=1e-6)


def test_it_depends_on_the_scale_of_the_loss():
    """The largest entry G becomes G/(1 + G⁴): steps fall as the gradient grows beyond 1."""
    tx = gravity(1.0, alpha=0.0)
    x = jnp.zeros(1)
    state = tx.init(x)
    sizes = [float(-2 * tx.update(jnp.array([g]), state, x)[0][0]) for g in (0.1, 1.0, 10.0)]
    np.testing.assert_allclose(sizes, [0.1 / 1.0001, 0.5, 10 / 10001], rtol=1e-5)


def test_what_is_refused():
    for build, message in [
        (lambda: gravity(0.0), "learning_rate = 0.0"),
        (lambda: gravity(alpha=-1.0), "alpha = -1.0"),
        (lambda: gravity(beta=1.5), "beta = 1.5"),
        (lambda: gravity(t0=-1), "t0 = -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
