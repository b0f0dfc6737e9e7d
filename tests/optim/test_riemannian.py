"""Riemannian Adam, AMSGrad and SGD: the steps of geoopt and of optax, and eigenvectors."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from jaxsci.manifolds import Euclidean, Poincare, Power, Product, Sphere
from jaxsci.optim import (
    apply_riemannian_updates,
    on_subset,
    riemannian_adam,
    riemannian_amsgrad,
    riemannian_sgd,
)

DATA = np.load(Path(__file__).parents[1] / "oracles" / "data" / "manifolds.npz")
BALL, SPHERE = Poincare(3, 0.7), Sphere(3)


def quadratic(x, target):
    c = jnp.asarray(np.geomspace(0.3, 3, x.size).reshape(x.shape), x.dtype)
    return c * (x - target) + 0.2 * jnp.sin(5 * x)


def run(tx, start, target, mask=None, state=None, apply=optax.apply_updates):
    start, target = jnp.asarray(start), jnp.asarray(target)
    mask = jnp.ones((40, 5)) if mask is None else jnp.asarray(mask)

    def body(carry, rows):
        x, state = carry
        updates, state = tx.update(quadratic(x, target) * rows[:, None], state, x)
        x = apply(x, updates)
        return (x, state), x

    state = tx.init(start) if state is None else state
    return jax.jit(lambda: jax.lax.scan(body, (start, state), mask)[1])()


@pytest.mark.parametrize(
    "name, tx",
    [
        ("ball_adam", riemannian_adam(0.05, BALL, b2=0.99)),
        ("ball_adam_retract", riemannian_adam(0.05, BALL, b2=0.99, retraction="retract")),
        ("ball_amsgrad", riemannian_amsgrad(0.05, BALL, b2=0.99)),
        ("ball_sparse_adam", riemannian_adam(0.05, BALL, b2=0.99, sparse=True)),
        ("ball_sgd", riemannian_sgd(0.1, BALL)),
        ("sphere_sgd", riemannian_sgd(0.1, SPHERE)),
    ],
)
def test_forty_steps_of_geoopt(x64, name, tx):
    sphere = "sphere_" if name.startswith("sphere") else ""
    mask = DATA["mask"] if "sparse" in name else None
    found = run(tx, DATA[f"{sphere}start"], DATA[f"{sphere}target"], mask)
    np.testing.assert_allclose(found, DATA[name], atol=1e-13)  # rounding of 40 steps


def test_geoopt_adapts_every_coordinate_of_flat_space(x64):
    """Its `Euclidean(1)`, vectors, is as its `Euclidean(0)`, numbers: plain Adam, as `None` is."""
    start, target = DATA["start"], DATA["target"]
    adam = run(riemannian_adam(0.05, None, b2=0.99), start, target)
    np.testing.assert_allclose(adam, DATA["euclidean_adam"], atol=1e-13)
    np.testing.assert_allclose(adam, run(optax.adam(0.05, b2=0.99), start, target), atol=1e-13)
    whole = run(riemannian_adam(0.05, Euclidean(3), b2=0.99), start, target)
    assert np.max(np.abs(whole - adam)) > 0.1
    # One number a point: the first step of Adam on vectors is lr g/|g|.
    g = quadratic(jnp.asarray(start), jnp.asarray(target))
    unit = g / jnp.linalg.norm(g, axis=1, keepdims=True)
    np.testing.assert_allclose(whole[0], start - 0.05 * unit, atol=1e-8)


@pytest.mark.parametrize("name, nesterov", [("ball_momentum", False), ("ball_nesterov", True)])
def test_geoopt_starts_its_momentum_from_the_euclidean_gradient(x64, name, nesterov):
    """In its first step the buffer is ∂f/∂x, to which the Riemannian gradient is added. With the
    buffer that it starts from, all its steps are ours; from 0 they are others."""
    tx = riemannian_sgd(0.02, BALL, momentum=0.9, nesterov=nesterov)
    start, target = jnp.asarray(DATA["start"]), jnp.asarray(DATA["target"])
    theirs = tx.init(start)._replace(mu=quadratic(start, target))
    found = run(tx, start, target, state=theirs)
    np.testing.assert_allclose(found, DATA[name], atol=1e-13)
    assert np.max(np.abs(run(tx, start, target) - DATA[name])) > 0.1


def test_flat_space_is_optax(x64):
    start, target = DATA["start"], DATA["target"]
    schedule = optax.exponential_decay(0.1, 10, 0.5)
    momentum = dict(momentum=0.9)
    for ours, theirs in (
        (riemannian_adam(schedule), optax.adam(schedule)),
        (riemannian_adam(schedule, b1=0.0), optax.adam(schedule, b1=0.0)),
        (riemannian_sgd(schedule, **momentum), optax.sgd(schedule, **momentum)),
        (
            riemannian_sgd(schedule, nesterov=True, **momentum),
            optax.sgd(schedule, nesterov=True, **momentum),
        ),
    ):
        np.testing.assert_allclose(run(ours, start, target), run(theirs, start, target), atol=1e-12)


def test_optax_corrects_amsgrads_moment_before_it_takes_the_largest(x64):
    """PyTorch, geoopt and we keep the largest v and correct it after: equal without correction."""
    start, target = DATA["start"], DATA["target"]
    ours = run(riemannian_amsgrad(0.1), start, target)
    assert np.max(np.abs(ours - run(optax.amsgrad(0.1), start, target))) > 0.01
    # At the step t = 1e5 nothing is left to correct.
    late = jnp.asarray(10**5, jnp.int32)
    tx = optax.amsgrad(0.1)
    state = tx.init(jnp.asarray(start))
    state = (state[0]._replace(count=late), *state[1:])
    mine = riemannian_amsgrad(0.1).init(jnp.asarray(start))._replace(count=late)
    np.testing.assert_allclose(
        run(riemannian_amsgrad(0.1), start, target, state=mine),
        run(tx, start, target, state=state),
        atol=1e-12,
    )


def test_adamnc_averages_all_squared_gradients(x64):
    """With v = mean |g|², a schedule lr/√t makes AdaGrad, with one number a point."""
    rate = lambda count: 0.1 / jnp.sqrt(count + 1.0)  # noqa: E731
    tx = riemannian_adam(rate, Euclidean(3), b1=0.0, eps=0.0, variant="adamnc")
    x, target, total, points = DATA["start"], DATA["target"], np.zeros((5, 1)), []
    for _ in range(40):
        g = np.asarray(quadratic(jnp.asarray(x), jnp.asarray(target)))
        total += np.sum(g**2, 1, keepdims=True)
        x = x - 0.1 * g / np.sqrt(total)
        points.append(x)
    np.testing.assert_allclose(run(tx, DATA["start"], target), points, atol=1e-13)


@pytest.mark.parametrize(
    "make",
    [
        # A rate that decays lets both come to rest.
        lambda M: riemannian_adam(optax.cosine_decay_schedule(0.1, 600), M),
        lambda M: riemannian_sgd(0.1, M, momentum=0.8),
    ],
)
def test_rayleighs_quotient_ends_at_the_least_eigenvalue(x64, key, make):
    a = jr.normal(key, (6, 6))
    a = a + a.T
    x0 = Sphere(5).random_point(jr.key(1))
    tx = make(Sphere(5))

    @jax.jit
    def go(x):
        def body(carry, _):
            x, state = carry
            value, g = jax.value_and_grad(lambda x: x @ a @ x)(x)
            updates, state = tx.update(g, state, x)
            return (optax.apply_updates(x, updates), state), value

        return jax.lax.scan(body, (x, tx.init(x)), length=600)

    (x, _), values = go(x0)
    least, vectors = np.linalg.eigh(np.asarray(a))
    assert float(values[-1]) == pytest.approx(least[0], abs=1e-6)
    assert abs(float(x @ vectors[:, 0])) == pytest.approx(1, abs=1e-6)
    assert abs(float(jnp.linalg.norm(x)) - 1) < 1e-15


def test_a_tree_of_many_manifolds_and_both_forms_of_the_update(key):
    """A product is its factors, a power its copies; other leaves have Adam's own steps."""
    manifolds = {
        "pair": Product((Sphere(2), Poincare(2))),
        "many": Power(Sphere(2), 4),
        "net": None,
    }
    params = {
        "pair": manifolds["pair"].random_point(key),
        "many": manifolds["many"].random_point(key),
        "net": (jnp.ones((2, 3)), jnp.zeros(3)),
    }
    grads = jax.tree.map(lambda leaf: jnp.sin(3 * leaf + 1), params)

    def one(params, manifolds, grads, additive=True):
        tx = riemannian_adam(0.1, manifolds, as_additive=additive)
        state = tx.init(params)
        updates, state = jax.jit(tx.update)(grads, state, params)
        return updates, state, tx

    updates, state, tx = one(params, manifolds, grads)
    jax.tree.map(lambda u, p: np.testing.assert_equal(u.shape, p.shape), updates, params)
    assert state.nu["pair"][0].shape == () and state.nu["many"].shape == (4,)
    assert state.nu["net"][0].shape == (2, 3)
    marked = optax.tree.map_params(tx, lambda leaf: leaf + 1, state)
    np.testing.assert_array_equal(marked.mu["many"], state.mu["many"] + 1)
    new = optax.apply_updates(params, updates)
    for name in ("pair", "many"):
        assert manifolds[name].is_point(new[name], tol=1e-6)
        assert manifolds[name].dist(params[name], new[name]) > 0.09
    # Each point by itself, and each number of the rest with optax.
    alone = one(params["many"][2], Sphere(2), grads["many"][2])[0]
    np.testing.assert_allclose(alone, updates["many"][2], atol=1e-7)
    ball = one(params["pair"][1], Poincare(2), grads["pair"][1])[0]
    np.testing.assert_allclose(ball, updates["pair"][1], atol=1e-7)
    adam = optax.adam(0.1)
    theirs, _ = adam.update(grads["net"], adam.init(params["net"]), params["net"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates["net"], theirs)
    # Tangent vectors, put into exp by the other function.
    steps, _, _ = one(params, manifolds, grads, additive=False)
    moved = apply_riemannian_updates(params, steps, manifolds)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), moved, new)


def test_points_without_a_gradient(x64):
    """With `sparse` they stand still to the bit; else momentum moves them. No ε is no NaN."""
    rows = jnp.ones((40, 5)).at[1:, 0].set(0).at[:, 1].set(0)
    start, target = DATA["start"], DATA["target"]
    for tx in (riemannian_adam(0.05, BALL, eps=0.0), riemannian_adam(0.05, BALL, sparse=True)):
        path = run(tx, start, target, rows)
        assert np.all(np.isfinite(path))
        np.testing.assert_allclose(path[-1, 1], start[1], atol=1e-15)
    np.testing.assert_array_equal(path[0, 0], path[-1, 0])
    assert (
        np.max(np.abs(run(riemannian_adam(0.05, BALL), start, target, rows)[-1, 0] - start[0]))
        > 0.1
    )


def test_half_precision_points_stay_on_the_manifold(key):
    for M in (Poincare(3), Sphere(3)):
        x = M.random_point(key).astype(jnp.bfloat16)
        tx = riemannian_adam(0.3, M)

        @jax.jit
        def go(x, tx=tx):
            def body(carry, _):
                x, state = carry
                updates, state = tx.update(-x, state, x)  # outwards
                return (optax.apply_updates(x, updates), state), None

            return jax.lax.scan(body, (x, tx.init(x)), length=50)[0]

        x, state = go(x)
        assert x.dtype == state.mu.dtype == state.nu.dtype == jnp.bfloat16
        assert bool(jnp.all(jnp.isfinite(x))) and M.is_point(x)


def test_bad_input():
    point = jnp.array([0.6, 0.0, 0.8])
    with pytest.raises(ValueError, match=r"points off Sphere\(dim=2\), by 0.41"):
        riemannian_adam(0.1, Sphere(2)).init(jnp.stack([point, jnp.ones(3) * 0.8165]))
    with pytest.raises(eqx.EquinoxRuntimeError, match="points off"):
        jax.block_until_ready(eqx.filter_jit(riemannian_sgd(0.1, Sphere(2)).init)(2 * point))
    with pytest.raises(ValueError, match="manifolds is no prefix"):
        riemannian_adam(0.1, {"a": Sphere(2)}).init({"b": point})
    with pytest.raises(ValueError, match=r"shape \(3,\), expected points of Sphere\(dim=4\)"):
        riemannian_sgd(0.1, Sphere(4)).init(point)
    with pytest.raises(ValueError, match="tuple of 2"):
        riemannian_sgd(0.1, Product((Sphere(2), Sphere(2)))).init(point)
    with pytest.raises(TypeError, match="expected a manifold or None"):
        riemannian_sgd(0.1, "sphere").init(point)
    for make in (riemannian_adam, riemannian_amsgrad, riemannian_sgd):
        with pytest.raises(TypeError, match="complex64"):
            make(0.1).init(jnp.ones(3, jnp.complex64))
        with pytest.raises(ValueError, match="retraction = 'cayley'"):
            make(0.1, retraction="cayley")
        tx = make(0.1, Sphere(2))
        with pytest.raises(ValueError, match="update needs params"):
            tx.update(point, tx.init(point))
    with pytest.raises(ValueError, match=r"b1 = 1\.0"):
        riemannian_adam(b1=1.0)
    with pytest.raises(ValueError, match="variant = 'adamw'"):
        riemannian_adam(variant="adamw")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"momentum = 1\.0"):
        riemannian_sgd(0.1, momentum=1.0)
    with pytest.raises(ValueError, match="retraction = 'cayley'"):
        apply_riemannian_updates(point, point, Sphere(2), retraction="cayley")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="apply_riemannian_updates: a leaf has shape"):
        apply_riemannian_updates(point, point, Sphere(4))


def test_beside_another_optimiser(key):
    params = {"nodes": jnp.full((4, 2), 0.1), "net": jnp.ones(3)}
    tx = optax.chain(
        on_subset(riemannian_adam(0.1, [Poincare(2)]), {"nodes": True, "net": False}),
        on_subset(optax.sgd(0.1), {"nodes": False, "net": True}),
    )
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["net"], -0.1, rtol=1e-6)
    assert bool(jnp.all(updates["nodes"] < 0))
