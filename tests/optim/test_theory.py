"""RMSProp and Adam as analysed, against optax; the estimators where the constants are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import (
    adam_schedule,
    estimate_affine_noise,
    estimate_generalised_smoothness,
    rmsprop_schedule,
    scale_by_rms_inside,
    trajectory,
)


def ripple(x):
    return jnp.sum(jnp.linspace(0.1, 10, 6) * (x - 1) ** 2) / 2 + jnp.sum(jnp.cos(5 * x)) / 20


X0 = np.linspace(-2, 3, 6)


def test_rmsprop_is_optax_with_the_constant_inside(x64):
    T, c, zeta = 400, 0.7, 1e-4
    rate, b2 = c / 20, 1 - 1 / 20
    theirs = optax.chain(
        optax.scale_by_rms(b2, zeta, 0.0, eps_in_sqrt=True), optax.scale_by_learning_rate(rate)
    )
    expected, _ = trajectory(theirs, ripple, jnp.asarray(X0), 50)
    found, _ = trajectory(rmsprop_schedule(T, c, zeta), ripple, jnp.asarray(X0), 50)
    np.testing.assert_allclose(found, expected, atol=1e-13)


def test_adam_by_hand(x64):
    T, c, b1, zeta = 100, 0.5, 0.8, 1e-3
    found, _ = trajectory(adam_schedule(T, c, b1, zeta), ripple, jnp.asarray(X0), 50)
    x, m, v = X0, 0, 0
    for k in range(50):
        g = np.linspace(0.1, 10, 6) * (x - 1) - np.sin(5 * x) / 4
        m, v = b1 * m + (1 - b1) * g, 0.9 * v + 0.1 * g**2
        x = x - 0.05 * m / np.sqrt(v + zeta)
        np.testing.assert_allclose(found[k], x, atol=1e-12)


def test_smoothness_of_known_functions(x64, key):
    """For cosh, |f''| = (1 + f'²)^½ ≤ 1 + |f'|. A quadratic has L1 = 0."""
    path = jnp.linspace(0, 5, 200)[:, None] * jnp.array([1.0, -0.8])
    L0, L1 = estimate_generalised_smoothness(lambda x: jnp.sum(jnp.cosh(x)), path, key)
    assert ((L1 > 0.8) & (L1 < 1.3)).all() and ((L0 >= 0) & (L0 < 1)).all()
    h = jnp.array([3.0, 0.5])
    L0, L1 = estimate_generalised_smoothness(lambda x: jnp.sum(h * x**2) / 2, path, key)
    np.testing.assert_allclose(L0, h, rtol=1e-6)
    np.testing.assert_allclose(L1, 0, atol=1e-6)
    # exp has |f''| = |f'|: L0 = 0, L1 = 1; the finite steps add half a per cent.
    L0, L1 = estimate_generalised_smoothness(lambda x: jnp.sum(jnp.exp(x)), path[:, :1], key)
    np.testing.assert_allclose([L0[0], L1[0]], [0, 1], atol=5e-3)


def test_affine_noise(x64, key):
    """E g² = D0 + (1 + σ²) f'² for g = f' (1 + σ z) + D0^½ z'."""
    slopes = jnp.linspace(0, 4, 40)[:, None, None] * jnp.array([1.0, -2.0])
    first, second = jax.random.normal(key, (2, 40, 4000, 2))
    D0, D1 = estimate_affine_noise(slopes * (1 + 1.5 * first) + 2.0 * second)
    # 4000 samples at 40 points: a standard error of about 2 %.
    np.testing.assert_allclose(D1, 1 + 1.5**2, rtol=0.06)
    np.testing.assert_allclose(D0, 4.0, rtol=0.2)
    # Noise that falls with the gradient: the coefficient stops at zero.
    shrinking = jnp.stack([jnp.array([[1.0], [-1.0]]), jnp.array([[0.3], [0.3]])])
    D0, D1 = estimate_affine_noise(shrinking)
    assert D1[0] == 0 and D0[0] == pytest.approx((1 + 0.09) / 2)


def test_what_is_refused(key):
    for build, message in [
        (lambda: rmsprop_schedule(0), "T = 0"),
        (lambda: rmsprop_schedule(10, c=0.0), "c = 0"),
        (lambda: adam_schedule(10, b1=1.0), "b1 = 1"),
        (lambda: scale_by_rms_inside(1.0), "b2 = 1"),
        (lambda: scale_by_rms_inside(0.9, 0.0), "zeta = 0"),
        (lambda: estimate_affine_noise(jnp.ones((1, 5, 2))), "grads"),
        (lambda: estimate_generalised_smoothness(ripple, jnp.ones((1, 6)), key), "path"),
        (lambda: estimate_generalised_smoothness(ripple, jnp.ones((3, 6)), key, 0.0), "size = 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
