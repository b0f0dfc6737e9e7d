"""INNAprop against AdamW, the authors' recursion, and the differential equation."""

from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import innaprop, trajectory

DATA = np.load(Path(__file__).parents[1] / "oracles" / "data" / "optim_first.npz")


def gradient(x):
    return np.geomspace(0.1, 10, 6) * (x - 1) + 0.3 * np.sin(5 * x)


def run(tx, start, steps=50):
    def body(carry, _):
        x, state = carry
        g = jnp.asarray(np.geomspace(0.1, 10, 6)) * (x - 1) + 0.3 * jnp.sin(5 * x)
        updates, state = tx.update(g, state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    start = jnp.asarray(start)
    return jax.jit(lambda: jax.lax.scan(body, (start, tx.init(start)), length=steps)[1])()


def test_alpha_and_beta_of_one_are_torchs_adamw_without_momentum(x64):
    # Near the minimum the steps bounce, and each multiplies the rounding by about two.
    found = run(innaprop(0.05, 1.0, 1.0, 0.99, 1e-8, 0.1), DATA["x0"])
    np.testing.assert_allclose(found, DATA["adamw"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("alpha, beta", [(0.1, 0.9), (2.0, 2.0)])
def test_the_published_recursion(x64, alpha, beta):
    """Written as in the paper, where θ's factor and ψ's do not cancel before they are scaled."""
    lr, sigma, eps, decay = 0.02, 0.99, 1e-8, 0.1
    x = DATA["x0"].copy()
    psi, v, points = (1 - alpha * beta) * x, np.zeros(6), []
    for k in range(1, 51):
        g = gradient(x)
        x = x * (1 - lr * decay)
        v = sigma * v + (1 - sigma) * g**2
        d = g / (np.sqrt(v / (1 - sigma**k)) + eps)
        psi = (1 - lr / beta) * psi + lr * (1 / beta - alpha) * x
        x = (1 + lr * (1 - alpha * beta) / (beta - lr)) * x - lr / (beta - lr) * psi - lr * beta * d
        points.append(x)
    found = run(innaprop(lr, alpha, beta, sigma, eps, decay), DATA["x0"])
    np.testing.assert_allclose(found, points, rtol=0, atol=1e-12)


def test_order_one_towards_the_differential_equation(x64):
    """θ'' + α θ' + β d/dt ∇L + ∇L = 0 where the second moment stays 1."""
    alpha, beta, time = 0.5, 0.8, 4.0
    small = 2.0**-50  # 1 − σ, exactly
    curvature = jnp.array([1.0, 0.3])

    def field(t, y, args):
        x, p = y
        # p = θ' + β ∇L:  p' = −α θ' − ∇L,  θ' = p − β ∇L.
        velocity = p - beta * curvature * x
        return velocity, -alpha * velocity - curvature * x

    x0 = jnp.array([1.0, -2.0])
    # The method starts from ψ₀ = (1 − αβ) θ₀, which is θ' = −β ∇L, so p = 0.
    exact = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri8(),
        0.0,
        time,
        0.01,
        (x0, 0 * x0),
        stepsize_controller=diffrax.PIDController(1e-10, 1e-12),
    )
    assert exact.ys is not None

    def error(steps):
        tx = innaprop(time / steps, alpha, beta, 1 - small, 0.0, 0.0)
        state = tx.init(x0)
        state = state._replace(count=jnp.asarray(2**30, jnp.int32))

        def body(carry, _):
            x, state = carry
            # The moment whose corrected value v/(1 − σᵏ) is 1.
            corrected = -jnp.expm1((state.count + 1) * jnp.log1p(-small))
            state = state._replace(nu=corrected * jnp.ones(2))
            updates, state = tx.update(curvature * x, state, x)
            return (x + updates, state), None

        (x, _), _ = jax.jit(lambda: jax.lax.scan(body, (x0, state), length=steps))()
        return float(jnp.linalg.norm(x - exact.ys[0][-1]))

    errors = [error(n) for n in (200, 400, 800)]
    assert errors[0] < 0.05
    ratios = [errors[0] / errors[1], errors[1] / errors[2]]
    np.testing.assert_allclose(ratios, 2, rtol=0.1)  # first order


def test_a_rate_near_beta_is_cut_and_psi_follows_the_parameters():
    tx = innaprop(optax.constant_schedule(5.0))
    points, values = trajectory(tx, lambda x: jnp.sum(x**2), jnp.array([3.0, -2.0]), 20)
    assert np.all(np.isfinite(points)) and np.all(np.isfinite(values))
    state = innaprop(alpha=0.5, beta=0.8).init(jnp.array([2.0, -1.0]))
    np.testing.assert_allclose(state.psi, [1.2, -0.6], rtol=1e-6)


def test_what_is_refused():
    for build, message in [
        (lambda: innaprop(0.9), "learning_rate = 0.9"),
        (lambda: innaprop(-1.0), "learning_rate = -1.0"),
        (lambda: innaprop(alpha=-0.1), "alpha = -0.1"),
        (lambda: innaprop(beta=0.0), "beta = 0.0"),
        (lambda: innaprop(sigma=1.0), "b2 = 1.0"),
        (lambda: innaprop(weight_decay=-1.0), "weight_decay = -1.0"),
        (lambda: innaprop().update(jnp.ones(2), innaprop().init(jnp.ones(2))), "params"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
