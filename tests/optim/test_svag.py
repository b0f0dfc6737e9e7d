"""SVAG: exact moments of its gradient, its hyperparameters, and the same limit for every ℓ."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import HyperScale, svag, svag_gradient


def test_the_mean_stays_and_the_covariance_grows(x64):
    """r₁ + r₂ = 1 and r₁² + r₂² = ℓ², read off from unit gradients."""
    for ell in (1.0, 1.5, 4.0):
        r1 = svag_gradient(jnp.ones(()), jnp.zeros(()), ell)
        r2 = svag_gradient(jnp.zeros(()), jnp.ones(()), ell)
        np.testing.assert_allclose([r1 + r2, r1**2 + r2**2], [1, ell**2], rtol=1e-13)
    first = {"w": jnp.array([1.0, jnp.nan]), "b": jnp.ones(())}
    same = svag_gradient(first, {"w": jnp.full(2, jnp.inf), "b": jnp.ones(())}, 1)
    jax.tree.map(np.testing.assert_array_equal, same, first)


def test_hyperparameters():
    adam = svag(HyperScale(1e-3, b1=0.9, b2=0.999, eps=1e-6), 2)
    np.testing.assert_allclose(
        [adam.lr, 1 - adam.b1, 1 - adam.b2, adam.eps], [5e-4, 0.025, 2.5e-4, 2e-6], rtol=1e-9
    )
    assert svag(HyperScale(0.1), 2, "sgd-linear").lr == pytest.approx(0.025)
    hyper = HyperScale(0.1)
    assert svag(hyper, 1) is hyper


def test_adam_is_the_same_for_every_ell(key):
    """The mean and spread of Adam on x²/2 with noise, after the same time. With the noise as it was
    they are far off."""

    def run(ell, hyper, key, amplify=True, paths=8000):
        tx = optax.adam(hyper.lr, hyper.b1, hyper.b2, hyper.eps)

        def body(carry, key):
            x, state = carry
            a, b = 2.0 * jax.random.normal(key, (2, paths))
            updates, state = tx.update(svag_gradient(x + a, x + b, ell if amplify else 1), state)
            return (x + updates, state), None

        x = jnp.ones(paths)
        keys = jax.random.split(key, round(100 * ell**2))
        return jax.jit(lambda: jax.lax.scan(body, (x, tx.init(x)), keys)[0][0])()

    hyper = HyperScale(0.05, b1=0.8, b2=0.95, eps=1e-3)
    plain = run(1, hyper, key)
    found = run(2, svag(hyper, 2), key)
    # The SDE is of weak order η²; spread 0.25, Monte Carlo errors 0.003.
    np.testing.assert_allclose(found.mean(), plain.mean(), atol=0.03)
    np.testing.assert_allclose(found.std(), plain.std(), rtol=0.08)
    wrong = run(2, svag(hyper, 2), key, amplify=False)
    assert abs(wrong.std() / plain.std() - 1) > 0.2 or abs(wrong.mean() - plain.mean()) > 0.05


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"ell = 0\.5"):
        svag_gradient(jnp.ones(2), jnp.ones(2), 0.5)
    with pytest.raises(ValueError, match=r"ell = 0\.5"):
        svag(HyperScale(0.1), 0.5)
