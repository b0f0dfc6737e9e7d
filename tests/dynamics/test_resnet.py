"""Scaled residual networks against matrix exponentials and the ODE that they discretise."""

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg

from jaxsci.dynamics import ScaledResNet, depth_flow, depth_lipschitz, depth_refine

X = jnp.array([0.5, -1.0, 0.3])


def network(depth, init="smooth", **kwargs):
    key = jr.key(3, impl="rbg")
    return ScaledResNet(3, 2, depth, 4, 6, init=init, key=key, **kwargs)


def test_a_linear_network_tends_to_the_exponential(x64):
    M = np.random.default_rng(0).normal(size=(4, 4))

    def error(depth):
        key = jr.key(0, impl="rbg")
        net = ScaledResNet(3, 2, depth, 4, 4, activation=lambda z: z, key=key)
        # V W/√(m q) = M in every layer.
        weights = (
            jnp.tile(2 * jnp.eye(4), (depth, 1, 1)),
            jnp.tile(2 * jnp.asarray(M), (depth, 1, 1)),
        )
        net = eqx.tree_at(lambda n: (n.inner, n.outer), net, weights)
        product = np.linalg.matrix_power(np.eye(4) + M / depth, depth)
        np.testing.assert_allclose(net(X), net.leave @ product @ net.enter @ X, rtol=1e-12)
        return np.linalg.norm(net(X) - net.leave @ scipy.linalg.expm(M) @ net.enter @ X)

    assert abs(np.log2(error(64) / error(128)) - 1) < 0.1  # first order, as Euler's method


def test_the_ode_by_eulers_method_is_the_network(x64):
    net = network(12)
    ode = net.to_ode(
        solver=dfx.Euler(), controller=dfx.ConstantStepSize(), dt0=1 / 12, max_steps=16
    )
    np.testing.assert_allclose(ode(X), net(X), rtol=1e-12)


def test_values_and_gradients_tend_to_those_of_the_ode(x64):
    """At twice the depth half the error; the gradient of a layer is that of its place."""

    # Two steps between layers, so that every hat is integrated to the method's order.
    how = dict(solver=dfx.Bosh3(), controller=dfx.ConstantStepSize(), max_steps=130)

    @eqx.filter_jit
    def gaps(net):
        plain = eqx.filter_value_and_grad(lambda n: jnp.sum(n(X) ** 2))(net)
        limit = eqx.filter_value_and_grad(
            lambda n: jnp.sum(n.to_ode(dt0=0.5 / n.depth, **how)(X) ** 2)
        )(net)
        inside = slice(1, -1)  # the first and last layer have half a hat, or one and a half
        ours, theirs = plain[1].outer[inside], limit[1].outer[inside]
        change = jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs)
        return jnp.abs(plain[0] - limit[0]) / limit[0], change

    # One function of depth, lines between four layers, in 32 and in 64 layers: first order.
    coarse, fine = (np.array(gaps(depth_refine(network(4), factor))) for factor in (8, 16))
    np.testing.assert_allclose(coarse / fine, 2, rtol=0.3)


def test_one_key_is_one_function_of_depth(x64):
    np.testing.assert_allclose(network(16).inner, network(32).inner[::2], atol=1e-12)
    net = ScaledResNet(3, 2, 10, 40, 60, init="smooth", key=jr.key(1, impl="rbg"))
    W = np.asarray(net.inner).reshape(10, -1)
    # 2400 entries: covariances have a standard deviation of at most √2/49 = 0.03.
    lags = np.arange(3) / 10
    found = [np.mean(W[0] * W[k]) for k in range(3)]
    np.testing.assert_allclose(found, np.exp(-(lags**2) / 0.02), atol=0.1)
    # Refining keeps every layer and puts the mean between two.
    coarse, fine = network(6), depth_refine(network(6), 2)
    assert fine.depth == 12
    np.testing.assert_allclose(fine.inner[::2], coarse.inner, rtol=1e-12)
    np.testing.assert_allclose(fine.outer[1], (coarse.outer[0] + coarse.outer[1]) / 2, rtol=1e-12)
    ours = depth_lipschitz(coarse)[0]
    assert np.isclose(ours, max(6 * np.linalg.norm(coarse.inner[k + 1] - coarse.inner[k])
                                for k in range(5)))  # fmt: skip
    np.testing.assert_allclose(depth_lipschitz(fine)[0], ours, rtol=1e-12)


@pytest.mark.parametrize("init", ["tied", "iid"])
def test_starts(init):
    net = network(5, init)
    same = np.all(np.asarray(net.inner[0] == net.inner[1]))
    assert same == (init == "tied")
    assert np.all(np.asarray(net.outer == 0)) == (init == "tied")
    if init == "tied":
        np.testing.assert_array_equal(net(X), net.leave @ (net.enter @ X))


def test_a_step_of_the_flow_does_not_depend_on_the_depth(x64):
    """Tied layers: the residual weights of L and of 2L layers move alike, to O(1/L)."""

    def moved(depth, scaling=1.0):
        net = network(depth, "smooth", scaling=scaling)
        loss = lambda n: jnp.sum(n(X) ** 2)  # noqa: E731
        gradient = eqx.filter_jit(eqx.filter_grad(loss))(net)
        optimizer = depth_flow(0.1)
        updates, _ = optimizer.update(gradient, optimizer.init(net))
        factor = depth ** (2 * scaling - 1)
        np.testing.assert_allclose(updates.outer, -0.1 * factor * gradient.outer, rtol=1e-12)
        np.testing.assert_allclose(updates.enter, -0.1 * gradient.enter, rtol=1e-12)
        return updates

    coarse, fine = moved(64), moved(128)
    size = jnp.linalg.norm(coarse.outer)
    assert jnp.linalg.norm(coarse.outer - fine.outer[::2]) < 0.1 * size
    moved(16, 0.5)


def test_what_is_refused():
    for build, message in [
        (lambda: network(1), "depth = 1"),
        (lambda: network(4, "gauss"), "init = 'gauss'"),
        (lambda: network(4, scaling=0.5).to_ode(), "scaling = 0.5"),
        (lambda: depth_refine(network(4), 1.5), "factor = 1.5"),
        (lambda: ScaledResNet(0, 1, 3, 4, 4, key=jr.key(0)), "in_size = 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
