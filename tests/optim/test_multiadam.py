"""MultiAdam: invariance to the losses' scales, Adam for one group, and a loop by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import grouped_value_and_grad, multiadam

CURVATURES = np.array([[1.0, 5.0, 0.2], [2.0, 0.1, 3.0]])
CENTRES = np.array([[1.0, 0.0, -1.0], [0.5, 2.0, 1.0]])


def losses(x, scale=(1.0, 1.0)):
    return 0.5 * jnp.asarray(scale) * jnp.sum(CURVATURES * (x - CENTRES) ** 2, 1)


def run(tx, scale=(1.0, 1.0), steps=50):
    evaluate = grouped_value_and_grad(lambda x: losses(x, scale))

    def body(carry, _):
        x, state = carry
        _, grads = evaluate(x)
        updates, state = tx.update(jnp.mean(grads, 0), state, x, loss_grads=grads)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    start = jnp.array([3.0, -2.0, 0.1])
    return jax.jit(lambda: jax.lax.scan(body, (start, tx.init(start)), length=steps)[1])()


def by_hand(lr, b1, b2, eps, weights, steps=50, amsgrad=False):
    x, m, v, largest, points = np.array([3.0, -2.0, 0.1]), 0.0, 0.0, 0.0, []
    for t in range(1, steps + 1):
        g = CURVATURES * (x - CENTRES)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        largest = np.maximum(largest, v)
        root = np.sqrt((largest if amsgrad else v) / (1 - b2**t)) + eps
        x = x - lr * weights @ (m / (1 - b1**t) / root)
        points.append(x)
    return points


def test_by_hand(x64):
    expected = by_hand(0.05, 0.99, 0.99, 1e-8, np.array([0.5, 0.5]))
    np.testing.assert_allclose(run(multiadam(0.05)), expected, rtol=0, atol=1e-12)
    expected = by_hand(0.05, 0.9, 0.95, 1e-8, np.array([1.0, 0.2]), amsgrad=True)
    tx = multiadam(0.05, 2, 0.9, 0.95, group_weights=(1.0, 0.2), amsgrad=True)
    np.testing.assert_allclose(run(tx), expected, rtol=0, atol=1e-12)


def test_scales_of_the_losses_do_not_matter(x64):
    tx = multiadam(0.05, eps=0.0)
    np.testing.assert_allclose(run(tx), run(tx, (1e4, 1e-3)), rtol=0, atol=1e-11)
    # Adam's steps do depend on them, and so do ours where the gradients are below ε.
    assert np.max(np.abs(run(multiadam(0.05, eps=1e-3)) - run(multiadam(0.05), (1, 1e-6)))) > 1e-2


def test_one_group_is_adam_and_the_second_normaliser(x64):
    def one(tx, **extra):
        x = jnp.array([1.0, -2.0])
        state, points = tx.init(x), []
        for _ in range(4):
            g = jnp.cos(x) + x
            updates, state = tx.update(g, state, x, **extra)
            x = x + updates
            points.append(x)
        return jnp.stack(points)

    np.testing.assert_allclose(
        one(multiadam(0.1, 1, 0.9, 0.99)), one(optax.adam(0.1, 0.9, 0.99)), rtol=1e-12
    )
    plain, twice = multiadam(1.0), multiadam(0.1, agg_betas=(0.9, 0.99))
    x, grads = jnp.zeros(3), jnp.asarray(CURVATURES)
    u, _ = plain.update(grads[0], plain.init(x), x, loss_grads=grads)
    again, _ = twice.update(grads[0], twice.init(x), x, loss_grads=grads)
    expected, _ = optax.adam(0.1, 0.9, 0.99).update(-u, optax.adam(0.1).init(x), x)
    np.testing.assert_allclose(again, expected, rtol=1e-12)


def test_a_group_without_gradient_somewhere(x64):
    """A weight that only one loss sees: the other group makes no step there, also with ε = 0."""
    tx = multiadam(1.0, eps=0.0)
    x = jnp.zeros(2)
    updates, _ = tx.update(x, tx.init(x), x, loss_grads=jnp.array([[2.0, 1.0], [3.0, 0.0]]))
    np.testing.assert_allclose(updates, [-1.0, -0.5], rtol=1e-12)


def test_grouped_gradients(x64):
    x = {"a": jnp.array([1.0, 2.0]), "b": jnp.asarray(3.0)}

    def first(p):
        return jnp.sum(p["a"] ** 2) * p["b"]

    def second(p):
        return jnp.sin(p["b"])

    values, grads = jax.jit(grouped_value_and_grad([first, second]))(x)
    np.testing.assert_allclose(values, [15.0, np.sin(3.0)], rtol=1e-12)
    np.testing.assert_allclose(grads["a"], [[6.0, 12.0], [0.0, 0.0]], rtol=1e-12)
    np.testing.assert_allclose(grads["b"], [5.0, np.cos(3.0)], rtol=1e-12)


def test_what_is_refused():
    x = jnp.ones(3)
    tx = multiadam()
    for build, message in [
        (lambda: multiadam(groups=0), "groups = 0"),
        (lambda: multiadam(group_weights=(1.0,)), "expected 2 numbers, got 1"),
        (lambda: multiadam(group_weights=(1.0, -1.0)), "numbers >= 0"),
        (lambda: multiadam(b1=1.0), "b1 = 1.0"),
        (lambda: multiadam(agg_betas=(1.0, 0.9)), "b1 = 1.0"),
        (lambda: tx.update(x, tx.init(x), x), "loss_grads"),
        (lambda: tx.update(x, tx.init(x), x, loss_grads=jnp.ones((3, 3))), r"shape \(2, 3\)"),
        (lambda: grouped_value_and_grad([]), "at least one"),
        (lambda: grouped_value_and_grad(lambda p: p.sum())(x), "vector of losses"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
