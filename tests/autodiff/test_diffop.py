"""Operators: exact values against dense derivative tensors, estimates against their moments."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.autodiff import (
    DiffOp,
    Diffusion,
    GradientSquare,
    Partial,
    Polylaplacian,
    PowerSum,
    derivatives,
    estimate,
    exact,
    forward_laplacian,
    laplacian,
    unbiased_square,
)

D = 4
X = np.array([0.3, -0.7, 1.1, 0.2])
W = np.random.default_rng(0).normal(size=(5, D))
SIGMA = np.random.default_rng(1).normal(size=(D, 3))


def net(x):
    return jnp.sum(jax.nn.silu(W @ x + 0.3)) * (1 - jnp.sum(x**2))


def tensor(f, order):
    for _ in range(order):
        f = jax.jacfwd(f)
    return f


@pytest.fixture(scope="module")
def tensors():
    with jax.enable_x64(True):
        every = jax.jit(lambda x: [tensor(net, k)(x) for k in range(5)])
        return [np.asarray(t) for t in every(jnp.asarray(X))]


def operators(t):
    """Each operator beside its value from the dense derivative tensors."""
    c = np.array([0.5, -1.0, 2.0, 0.1])
    diagonal = np.arange(D)
    laplace = np.trace(t[2])
    yield "laplacian", DiffOp(Polylaplacian(1)), laplace
    yield "biharmonic", DiffOp(Polylaplacian(2)), np.einsum("iijj", t[4])
    yield "weighted", DiffOp(PowerSum(2, c)), c @ t[2][diagonal, diagonal]
    yield "fourth powers", DiffOp(PowerSum(4)), t[4][diagonal, diagonal, diagonal, diagonal].sum()
    yield "drift", DiffOp(PowerSum(1, lambda x: c * x)), (c * X) @ t[1]
    yield "diffusion", DiffOp(Diffusion(SIGMA, 0.5)), 0.5 * np.trace(SIGMA.T @ t[2] @ SIGMA)
    yield "gradient", DiffOp(GradientSquare(2.0)), 2 * t[1] @ t[1]
    yield "space", DiffOp(Polylaplacian(1, start=1)), np.trace(t[2][1:, 1:])
    yield (
        "kdv",
        DiffOp({(3,): 1.0, (0, 0, 0): lambda x: x[1]}),
        t[1][3] + X[1] * t[3][0, 0, 0],
    )
    mixed = DiffOp({(0, 0, 0, 1): 2.0, (2, 3): -1.0, (): 3.0})
    yield "mixed", mixed, 2 * t[4][0, 0, 0, 1] - t[2][2, 3] + 3 * t[0]
    hjb = DiffOp(
        {"u_t": (3,), "lap": Polylaplacian(1, stop=3), "slope": GradientSquare(stop=3)},
        lambda x, u_t, lap, slope: u_t + lap - 0.05 * slope,
    )
    value = t[1][3] + np.trace(t[2][:3, :3]) - 0.05 * t[1][:3] @ t[1][:3]
    yield "hjb", hjb, value


@pytest.mark.parametrize("batch_size", [None, 3])
def test_exact_values(tensors, x64, batch_size):
    for name, op, wanted in operators(tensors):
        found = jax.jit(lambda x, op=op: exact(op, net, x, batch_size=batch_size))(X)
        np.testing.assert_allclose(found, wanted, rtol=1e-10, err_msg=name)


METHODS = {
    "laplacian": ["sparse", "sdgd", "rademacher", "gaussian", "hutchinson"],
    "biharmonic": ["sparse", "gaussian"],
    "weighted": ["sparse", "sdgd", "rademacher", "gaussian"],
    "fourth powers": ["sparse"],
    "drift": ["sparse", "sdgd", "rademacher", "gaussian"],
    "diffusion": ["sparse", "rademacher", "gaussian", "hutchinson"],
    "gradient": ["sparse", "rademacher", "gaussian"],
    "space": ["sparse", "rademacher"],
    "hjb": ["sparse", "rademacher"],
}


def test_estimates_are_unbiased(tensors, x64):
    """The mean of 4000 estimates lies within five of its standard deviations."""
    keys = jax.random.split(jax.random.key(3), 4000)
    n = 3
    for name, op, wanted in operators(tensors):
        for method in METHODS.get(name, []):
            one = jax.jit(
                jax.vmap(lambda k, op=op, m=method: estimate(op, net, jnp.asarray(X), k, n, m))
            )
            samples = np.asarray(one(keys))
            deviation = samples.std() / np.sqrt(samples.size)
            assert abs(samples.mean() - wanted) < 5 * deviation, (name, method)
            assert deviation > 0, (name, method)


def test_variances_are_those_of_theory(tensors, x64):
    """Σ over the Hessian's entries; 20000 samples know a variance to some 3 percent."""
    keys = jax.random.split(jax.random.key(4), 20000)
    h = tensors[2]
    diagonal = np.diag(h)
    n = 4
    wanted = {
        "rademacher": 2 * (np.sum(h**2) - np.sum(diagonal**2)) / n,
        "hutchinson": 2 * (np.sum(h**2) - np.sum(diagonal**2)) / n,
        "gaussian": 2 * np.sum(h**2) / n,
        "sparse": D**2 * diagonal.var() / n,
        "sdgd": 0.0,
    }
    op = DiffOp(Polylaplacian(1))
    for method, variance in wanted.items():
        one = jax.jit(jax.vmap(lambda k, m=method: estimate(op, net, jnp.asarray(X), k, n, m)))
        found = np.asarray(one(keys)).var()
        np.testing.assert_allclose(found, variance, rtol=0.1, atol=1e-20, err_msg=method)


def test_partials_are_exact_in_estimates(tensors, x64):
    op = DiffOp({(0, 0, 0, 1): 2.0, (2, 3): -1.0})
    found = estimate(op, net, jnp.asarray(X), jax.random.key(0), 1)
    np.testing.assert_allclose(found, 2 * tensors[4][0, 0, 0, 1] - tensors[2][2, 3], rtol=1e-10)


def test_unbiased_square(x64):
    """E r(k₁) r(k₂) = (E r)², whereas E r² has the variance in it."""
    op = DiffOp(Polylaplacian(1))

    def f(x):
        return jnp.sum(jnp.array([1.0, 2.0, 4.0, 0.0]) * x**2)

    def residual(k):
        return estimate(op, f, jnp.asarray(X), k, 1)

    keys = jax.random.split(jax.random.key(5), 40000)
    products = np.asarray(jax.jit(jax.vmap(lambda k: unbiased_square(residual, k)))(keys))
    deviation = products.std() / np.sqrt(products.size)
    assert abs(products.mean() - 14.0**2) < 5 * deviation
    squares = np.asarray(jax.jit(jax.vmap(lambda k: residual(k) ** 2))(keys))
    assert squares.mean() - 14.0**2 > 20 * deviation


def test_derivatives_share_jets(tensors, x64):
    wanted = [(), (0,), (0, 0), (0, 1, 1), (1, 1), (2, 0), (3,)]
    found = derivatives(net, jnp.asarray(X), wanted)
    for axes in wanted:
        value = tensors[len(axes)][axes] if axes else tensors[0]
        np.testing.assert_allclose(found[axes], value, rtol=1e-10)


def loop(x):
    def body(c, a):
        return jnp.tanh(W[:D] @ c) + a, jnp.sum(c * x)

    c, sums = jax.lax.scan(body, x, jnp.ones((3, D)))
    c = jax.checkpoint(lambda c: jax.nn.softplus(c) * c)(c)
    return jnp.stack([jnp.sum(c), jnp.sum(sums)])


@pytest.mark.parametrize(
    "f",
    [
        net,
        loop,
        lambda x: jnp.sum(jnp.sin(x) * jnp.exp(x)),
        lambda x: jax.nn.relu(W @ x) @ jnp.sinc(W @ x),
        lambda x: jnp.linalg.norm(x),
        lambda x: jnp.real(jnp.exp(2j * (W @ x) - jnp.abs((W @ x) + 0j) ** 2)),
        lambda x: jnp.sum(x[1:] * jnp.cos(x[:-1])),
    ],
    ids=["net", "loop", "entries", "relu", "norm", "complex", "chain"],
)
def test_forward_laplacian(f, x64):
    x = jnp.asarray(X)
    value, gradient, lap = jax.jit(lambda x: forward_laplacian(f, x))(x)
    np.testing.assert_allclose(value, f(x), rtol=1e-13)
    np.testing.assert_allclose(
        jnp.moveaxis(gradient, 0, -1), jax.jacfwd(f)(x), rtol=1e-11, atol=1e-13
    )
    hessian = tensor(f, 2)(x)
    wanted = jnp.trace(hessian, axis1=-2, axis2=-1)
    np.testing.assert_allclose(lap, wanted, rtol=1e-10, atol=1e-13)
    along = forward_laplacian(f, x, SIGMA.T).laplacian
    wanted = jnp.einsum("...ij,ik,jk->...", hessian, SIGMA, SIGMA)
    np.testing.assert_allclose(along, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["tanh", "silu", "gelu", "softplus", "sin"])
def test_laplacians_of_folx(name, x64):
    """Recorded from an independent forward Laplacian, on two-layer networks."""
    peer = np.load(Path(__file__).parents[1] / "oracles" / "data" / "folx.npz")
    activation = getattr(jax.nn, name, None) or getattr(jnp, name)

    def f(x):
        h = activation(peer["w1"] @ x)
        return jnp.dot(peer["w3"], activation(peer["w2"] @ h / 3)) * (1 - jnp.sum(x**2))

    value, gradient, lap = jax.jit(jax.vmap(lambda x: forward_laplacian(f, x)))(peer["points"])
    np.testing.assert_allclose(value, peer[f"value_{name}"], rtol=1e-12)
    np.testing.assert_allclose(gradient, peer[f"gradient_{name}"], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(lap, peer[f"laplacian_{name}"], rtol=1e-10, atol=1e-11)


def test_laplacian_of_a_known_function(x64):
    """Δ of (1 − |x|²) Σ c_i sin(x_i + cos x_{i+1} + x_{i+1} cos x_i), in closed form in numpy."""
    c = np.random.default_rng(2).normal(size=D - 1)

    def f(x):
        a, b = x[:-1], x[1:]
        return (1 - jnp.sum(x**2)) * jnp.sum(c * jnp.sin(a + jnp.cos(b) + b * jnp.cos(a)))

    a, b = X[:-1], X[1:]
    s = a + np.cos(b) + b * np.cos(a)
    sa, sb = 1 - b * np.sin(a), -np.sin(b) + np.cos(a)
    g = np.zeros(D)
    g[:-1] += c * np.cos(s) * sa
    g[1:] += c * np.cos(s) * sb
    second = c * (
        -np.sin(s) * (sa**2 + sb**2) + np.cos(s) * (-b * np.cos(a)) + np.cos(s) * (-np.cos(b))
    )
    wanted = (1 - X @ X) * second.sum() - 4 * X @ g - 2 * D * np.sum(c * np.sin(s))
    for method in ("forward", "jet"):
        np.testing.assert_allclose(laplacian(f, X, method=method), wanted, rtol=1e-12)
    np.testing.assert_allclose(laplacian(f, X, method="jet", batch_size=3), wanted, rtol=1e-12)


def test_gradients_of_estimates_are_estimates_of_gradients(x64):
    """With respect to weights, through the sparse first layer, also in chunks under a scan."""
    op = DiffOp({"u": (), "lap": Polylaplacian(1)}, lambda x, u, lap: lap + jnp.sin(u))
    key = jax.random.key(0)

    def value(w, how):
        def f(x):
            return jnp.sum(jnp.tanh(w @ x)) * (1 - jnp.sum(x**2))

        if how == "sparse":
            return estimate(op, f, jnp.asarray(X), key, 6)
        if how == "dense":
            chosen = jax.random.randint(jax.random.fold_in(key, 1), (6,), 0, D)
            h = jnp.diag(jax.hessian(f)(jnp.asarray(X)))
            return D * jnp.mean(h[chosen]) + jnp.sin(f(jnp.asarray(X)))
        if how == "chunks":
            return exact(op, f, jnp.asarray(X), batch_size=3)
        return exact(op, f, jnp.asarray(X))

    for a, b in (("sparse", "dense"), ("chunks", "exact")):
        found, wanted = (jax.jit(jax.grad(value), static_argnums=1)(W, how) for how in (a, b))
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


def test_addition_and_order():
    op = DiffOp({(0,): 1.0}) + DiffOp(Polylaplacian(2))
    assert op.order == 4 and len(op.parts[""]) == 2
    with pytest.raises(ValueError, match="without `combine` can be added"):
        op + DiffOp({"u": ()}, lambda x, u: u)


def test_bad_input():
    x, key = jnp.asarray(X, jnp.float32), jax.random.key(0)
    lap = DiffOp(Polylaplacian(1))
    for bad in (lambda: Partial((0,) * 13), lambda: PowerSum(13), lambda: Polylaplacian(7)):
        with pytest.raises(ValueError, match="above the highest supported, 12"):
            bad()
    with pytest.raises(ValueError, match="expected a tuple of axes"):
        Partial((-1,))
    with pytest.raises(ValueError, match="expected an integer >= 1"):
        PowerSum(0)
    with pytest.raises(ValueError, match="expected an integer >= 1"):
        Polylaplacian(0)
    for terms in ({}, [], {"u": []}):
        with pytest.raises(ValueError, match="no terms"):
            DiffOp(terms, (lambda x, u: u) if terms else None)
    with pytest.raises(ValueError, match="named parts need `combine`"):
        DiffOp({"u": ()})
    with pytest.raises(ValueError, match="x has only 4 entries"):
        exact(DiffOp({(4,): 1.0}), net, x)
    with pytest.raises(ValueError, match="expected a vector, got shape"):
        exact(lap, net, x[None])
    with pytest.raises(TypeError, match="expected real floating numbers, got int32"):
        exact(lap, net, jnp.arange(4))
    with pytest.raises(ValueError, match="batch_size = 0"):
        exact(lap, net, x, batch_size=0)
    with pytest.raises(ValueError, match="n = 0"):
        estimate(lap, net, x, key, 0)
    with pytest.raises(ValueError, match="method = 'magic'"):
        estimate(lap, net, x, key, 2, "magic")
    with pytest.raises(ValueError, match="only 4 axes can be drawn without replacement"):
        estimate(lap, net, x, key, 5, "sdgd")
    for method in ("rademacher", "hutchinson"):
        with pytest.raises(ValueError, match="biased for the order 4"):
            estimate(DiffOp(Polylaplacian(2)), net, x, key, 2, method)
    with pytest.raises(ValueError, match="biased for Σ"):
        estimate(DiffOp(PowerSum(4)), net, x, key, 2, "gaussian")
    for op in (DiffOp(Polylaplacian(2)), DiffOp(PowerSum(3))):
        with pytest.raises(ValueError, match="'sdgd' is for operators of order 2"):
            estimate(op, net, x, key, 2, "sdgd")
    with pytest.raises(ValueError, match="none of the 4 axes"):
        exact(DiffOp(Polylaplacian(1, start=4)), net, x)
    with pytest.raises(ValueError, match=r"sigma has shape \(3, 3\), expected \(4, m\)"):
        exact(DiffOp(Diffusion(jnp.eye(3))), net, x)
    with pytest.raises(ValueError, match="needs a key"):
        laplacian(net, x, method="sparse")
    with pytest.raises(ValueError, match="x must be a vector"):
        forward_laplacian(net, x[None])
    with pytest.raises(TypeError, match="real and floating, got int32"):
        forward_laplacian(net, jnp.arange(4))
    with pytest.raises(ValueError, match=r"directions: expected shape \(m, 4\)"):
        forward_laplacian(net, x, jnp.eye(3))
