"""SAM, USAM, DNSAM, AMP, gradient regularisation, flooding: identities and optax's SAM."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import amp, dnsam, flooding, gradient_regularisation, sam, trajectory, usam

W = np.random.default_rng(0).normal(size=(3, 4))
START = {"w": np.linspace(-1, 1, 4), "c": np.asarray([0.3, -0.2])}


def loss(p):
    """Neither convex nor a quadratic; two leaves."""
    return jnp.sum(jnp.cos(W @ p["w"] + p["c"][0])) + jnp.sum((p["c"] + 0.1) ** 4) + p["w"] @ p["w"]


def update(tx, params=START, value_fn=loss, **extra):
    value, grads = jax.value_and_grad(value_fn)(params)
    extra = {"value": value, "value_fn": value_fn} | extra
    return tx.update(grads, tx.init(params), params, **extra)[0]


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def error(a, b):
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, a, b)))


IDENTITY = optax.identity()


def test_sam_is_that_of_optax(x64):
    points, _ = trajectory(sam(optax.adam(0.05), 0.1), loss, START, 20)
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.1))
    theirs = optax.contrib.sam(optax.adam(0.05), ascent, sync_period=2, opaque_mode=True)

    def body(carry, _):
        x, state = carry
        gradient = jax.grad(loss)
        updates, state = theirs.update(gradient(x), state, x, grad_fn=lambda p, _: gradient(p))
        x = optax.apply_updates(x, updates)
        return (x, state), x

    _, expected = jax.jit(lambda: jax.lax.scan(body, (START, theirs.init(START)), length=20))()
    close(points, expected, rtol=0, atol=1e-12)  # rounding of 20 steps


def test_rows_of_the_table(x64):
    g = jax.grad(loss)(START)
    norm = optax.tree.norm(g)

    def at(scale):
        return jax.grad(loss)(jax.tree.map(lambda p, d: p + scale * d, START, g))

    close(update(usam(IDENTITY, 0.3)), at(0.3), rtol=1e-13)
    close(update(sam(IDENTITY, 0.3)), at(0.3 / norm), rtol=1e-13)
    full = jax.tree.map(lambda x: 2 * x, g)
    close(update(dnsam(IDENTITY, 0.3), full_grad=full), at(0.15 / norm), rtol=1e-13)
    forward = jax.tree.map(lambda a, b: a + 2 / 0.3 * (b - a), g, at(0.3))
    close(update(gradient_regularisation(IDENTITY, 2.0, 0.3)), forward, rtol=1e-12)
    backward = jax.tree.map(lambda a, b: a - 2 / 0.3 * (b - a), g, at(-0.3))
    close(update(gradient_regularisation(IDENTITY, 2.0, 0.3, "backward")), backward, rtol=1e-12)
    equal_steps = update(gradient_regularisation(IDENTITY, 0.3, 0.3))
    close(equal_steps, update(usam(IDENTITY, 0.3)), rtol=0, atol=0)


def test_differences_tend_to_the_regularised_gradient(x64):
    """Forward and backward with an error O(ε), their mean O(ε²); double is the gradient itself."""
    gamma = 0.7

    def regularised(p):
        g = jax.grad(loss)(p)
        return loss(p) + gamma / 2 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(g))

    exact = jax.grad(regularised)(START)
    close(update(gradient_regularisation(IDENTITY, gamma, kind="double")), exact, rtol=1e-12)
    errors = {"forward": [], "backward": [], "mean": []}
    for eps in (2e-3, 1e-3):
        pair = [
            update(gradient_regularisation(IDENTITY, gamma, eps, kind))
            for kind in ("forward", "backward")
        ]
        mean = jax.tree.map(lambda x, y: (x + y) / 2, *pair)
        for name, found in zip(errors, (*pair, mean), strict=True):
            errors[name].append(error(found, exact))
    for name, order in (("forward", 1), ("backward", 1), ("mean", 2)):
        # The next order in ε is at most some per cent here.
        assert errors[name][0] / errors[name][1] == pytest.approx(2**order, rel=0.1)


def test_amp_is_sam_or_usam_with_one_step(x64):
    g = float(optax.tree.norm(jax.grad(loss)(START)))
    close(update(amp(IDENTITY, 0.4 * g, 0.3)), update(usam(IDENTITY, 0.3)), rtol=1e-13)
    close(update(amp(IDENTITY, 0.1 * g, 0.3)), update(sam(IDENTITY, 0.1 * g)), rtol=1e-13)
    close(update(amp(IDENTITY, 0.0)), jax.grad(loss)(START), rtol=1e-13)
    # A ball for each leaf: both have the radius.
    by_leaf = jax.tree.map(lambda x: 0.01 * x / jnp.linalg.norm(x), jax.grad(loss)(START))
    moved = jax.grad(loss)(jax.tree.map(jnp.add, START, by_leaf))
    close(update(amp(IDENTITY, 0.01, 1.0, ball="per_leaf")), moved, rtol=1e-13)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_amp_against_projected_ascent_in_numpy_and_brute_force(x64, steps):
    matrix, centre, theta = np.array([[3.0, 0.5], [0.5, 1.0]]), np.array([0.2, -0.1]), np.ones(2)
    epsilon, rate = 0.5, 0.05

    def value(x):
        return 0.5 * (x - centre) @ matrix @ (x - centre)

    delta = np.zeros(2)
    for _ in range(steps):
        delta = delta + rate * matrix @ (theta + delta - centre)
        delta = delta * min(1, epsilon / np.linalg.norm(delta))
    found = update(amp(IDENTITY, epsilon, rate, steps), jnp.asarray(theta), value)
    np.testing.assert_allclose(found, matrix @ (theta + delta - centre), rtol=1e-13)
    # On the way from the loss to its maximum over the ball, and there after many steps.
    angles = np.linspace(0, 2 * np.pi, 2001)
    circle = theta + epsilon * np.stack([np.cos(angles), np.sin(angles)], 1)
    best = max(value(point) for point in circle)
    assert value(theta) < value(theta + delta) <= best
    if steps == 4:
        many = update(amp(IDENTITY, epsilon, rate, 200), jnp.asarray(theta), value)
        there = centre + np.linalg.solve(matrix, many)
        assert value(there) == pytest.approx(best, rel=1e-5)  # the grid of angles


def test_flooding_and_its_relation_to_the_forward_difference(x64):
    g = jax.grad(loss)(START)
    value = loss(START)
    above, below = flooding(optax.sgd(0.1), 0.9 * value), flooding(optax.sgd(0.1), 1.1 * value)
    close(update(above), jax.tree.map(lambda x: -0.1 * x, g), rtol=1e-14)
    close(update(below), jax.tree.map(lambda x: 0.1 * x, g), rtol=1e-14)
    # A step up and a step down.
    rate = 0.1
    up = jax.tree.map(jnp.add, START, update(below))
    down = update(flooding(optax.sgd(rate), 0.0), up, value=jnp.asarray(1e9))
    two = jax.tree.map(lambda x, y, z: x + y - z, up, down, START)
    # F-GR has g + (γ/ε)(g(θ + εg) − g): with γ = ε = η, less g.
    forward = update(gradient_regularisation(optax.sgd(rate), rate, rate))
    close(two, jax.tree.map(lambda f, x: f + rate * x, forward, g), rtol=0, atol=1e-13)


def test_inner_state_lives_at_the_weights(x64):
    """Weight decay of the inner optimiser is that of θ and not of θ + δ."""
    decayed = update(sam(optax.chain(optax.add_decayed_weights(0.1)), 0.3))
    plain = update(sam(IDENTITY, 0.3))
    close(decayed, jax.tree.map(lambda x, p: x + 0.1 * p, plain, START), rtol=1e-13)


def test_zero_gradients_and_single_precision():
    def flat(p):
        return jnp.sum(p**4)

    zero = jnp.zeros(3)
    for tx in (sam(IDENTITY), amp(IDENTITY, inner_steps=3), usam(IDENTITY)):
        np.testing.assert_array_equal(update(tx, zero, flat), zero)
    np.testing.assert_array_equal(update(dnsam(IDENTITY), zero, flat, full_grad=zero), zero)


def test_what_is_refused():
    inner = optax.sgd(0.1)
    for build, message in [
        (lambda: sam(inner, -1.0), "rho = -1.0"),
        (lambda: usam(inner, -1.0), "rho = -1.0"),
        (lambda: dnsam(inner, -1.0), "rho = -1.0"),
        (lambda: amp(inner, -1.0), "epsilon = -1.0"),
        (lambda: amp(inner, inner_lr=0.0), "inner_lr = 0.0"),
        (lambda: amp(inner, inner_steps=0), "inner_steps = 0"),
        (lambda: amp(inner, ball="cube"), "ball = 'cube'"),
        (lambda: gradient_regularisation(inner, -1.0), "gamma = -1.0"),
        (lambda: gradient_regularisation(inner, 1.0, 0.0), "eps = 0.0"),
        (lambda: gradient_regularisation(inner, 1.0, kind="central"), "kind = 'central'"),
        (lambda: flooding(inner, -1.0), "level = -1.0"),
        (lambda: sam(inner).update(START, sam(inner).init(START), START), "value_fn"),
        (lambda: update(dnsam(inner)), "full_grad"),
        (lambda: update(flooding(inner, 1.0), value=None), "keyword argument value"),
        (lambda: sam(inner).update(START, sam(inner).init(START), value_fn=loss), "params"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
