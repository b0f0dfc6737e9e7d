"""The average of the weights against its closed forms, optax's step and torch's average."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import ema_of, param_ema

DATA = np.load(Path(__file__).parents[1] / "oracles" / "data" / "optim_first.npz")


def averages(tx, points):
    """The averages along given points θ₀, θ₁, …, as an optimiser would go through them."""
    points = jnp.asarray(points)

    def body(carry, pair):
        old, new = pair
        _, state = tx.update(new - old, carry, old)
        return state, ema_of(state)

    init = tx.init(points[0])
    return jax.jit(lambda: jax.lax.scan(body, init, (points[:-1], points[1:]))[1])()


def test_as_torch_averages(x64):
    # 30 steps of rounding.
    found = averages(param_ema(0.9), DATA["ema_points"])
    np.testing.assert_allclose(found, DATA["ema"], rtol=0, atol=1e-14)


def test_order_constant_weights_and_one_step(x64):
    rho, start = 0.8, np.array([3.0, -1.0])
    constant = np.concatenate([start[None], np.ones((20, 2))])
    found = averages(param_ema(rho), constant)
    powers = rho ** np.arange(1, 21)[:, None]
    np.testing.assert_allclose(found, 1 + powers * (start - 1), rtol=1e-13)
    new = jnp.array([2.0, 5.0])
    one = averages(param_ema(rho), jnp.stack([jnp.asarray(start), new]))[0]
    np.testing.assert_allclose(one, optax.incremental_update(new, start, 1 - rho), rtol=1e-14)


def test_without_the_start_every_few_steps_and_from_a_step_on(x64):
    rho, points = 0.7, np.asarray(DATA["ema_points"])
    t = 12
    weights = rho ** np.arange(t - 1, -1, -1)
    by_hand = weights @ points[1 : t + 1] / np.sum(weights)
    np.testing.assert_allclose(averages(param_ema(rho, True), points)[t - 1], by_hand, rtol=1e-13)

    every = averages(param_ema(rho, every=3), points)
    thirds = averages(param_ema(rho**3), points[::3])
    np.testing.assert_allclose(every[2::3], thirds, rtol=1e-13)
    np.testing.assert_array_equal(every[2], every[3])

    late = averages(param_ema(rho, start_step=5), points)
    np.testing.assert_allclose(late[:5], points[1:6], rtol=1e-13)
    np.testing.assert_allclose(late[5:], averages(param_ema(rho), points[5:]), rtol=1e-13)
    # A schedule of the step: the average is the weights where ρ = 0.
    scheduled = averages(param_ema(lambda k: jnp.where(k < 5, 0.0, rho)), points)
    np.testing.assert_allclose(scheduled, late, rtol=1e-12)


def test_half_precision_and_high_decay_do_not_stall():
    """(1 − ρ)(θ − ζ) = 1e-5 is below bfloat16's and, at ρ = 1 − 1e-7, near float32's resolution."""
    theta = jnp.full(3, 2.0, jnp.bfloat16)
    tx = param_ema(1 - 1e-5)
    state = tx.init(0.5 * theta)
    assert state.ema_params.dtype == jnp.float32
    state = jax.jit(
        lambda s: jax.lax.fori_loop(0, 1000, lambda _, s: tx.update(0 * theta, s, theta)[1], s)
    )(state)
    np.testing.assert_allclose(ema_of(state), 2 - (1 - 1e-5) ** 1000, rtol=1e-5)
    assert ema_of(state, like=theta).dtype == jnp.bfloat16
    one = param_ema(1 - 1e-7)
    state = one.update(jnp.ones(()), one.init(jnp.zeros(())), jnp.zeros(()))[1]
    np.testing.assert_allclose(ema_of(state), 1e-7, rtol=1e-6)


def test_inside_a_chain_it_leaves_the_updates_alone():
    tx = optax.chain(optax.adam(0.1), param_ema(0.5))
    params = {"a": jnp.ones(2), "b": jnp.zeros((2, 2))}
    grads = jax.tree.map(jnp.ones_like, params)
    updates, state = tx.update(grads, tx.init(params), params)
    plain, _ = optax.adam(0.1).update(grads, optax.adam(0.1).init(params), params)
    jax.tree.map(np.testing.assert_array_equal, updates, plain)
    np.testing.assert_allclose(ema_of(state)["a"], 1 - 0.05, rtol=1e-6)


def test_what_is_refused():
    for build, message in [
        (lambda: param_ema(1.0), "rho = 1.0"),
        (lambda: param_ema(start_step=-1), "start_step = -1"),
        (lambda: param_ema(every=0), "every = 0"),
        (lambda: param_ema().update(jnp.ones(2), param_ema().init(jnp.ones(2))), "params"),
        (lambda: ema_of(optax.adam(1e-3).init(jnp.ones(2))), "found 0"),
        (lambda: ema_of((param_ema().init(jnp.ones(2)),) * 2), "found 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
