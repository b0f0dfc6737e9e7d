"""PSGD against the authors' code, the minimum of its criterion, and the symmetry of Lie groups."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import LRA, Dense, Diag, XMat, psgd, scale_by_psgd

RECORDED = np.load(Path(__file__).parents[1] / "oracles" / "data" / "optim_psgd.npz")
N, SCALE, LR, MOMENTUM, RATE = 7, 0.4, 0.1, 0.8, 0.2  # as in the recording script


def loss(x):
    A = jnp.asarray(RECORDED["A"], x.dtype)
    return x @ A @ x / 2 + 3 * jnp.sum(jnp.cos(x)) + jnp.sum(x) ** 4 / 50


def hvp(x, v):
    return jax.jvp(jax.grad(loss), (x,), (v,))[1]


def plain_loop(group, member, x, probes, coins, normaliser="2nd", whiten=False, nesterov=False):
    """PSGD written out; `member` is the first Q, `probes` and `coins` one for each step."""

    def step(carry, drawn):
        x, m, member = carry
        v, coin = drawn
        g = jax.grad(loss)(x)
        h = g + 2.0**-13 * jnp.mean(jnp.abs(g)) * v if whiten else hvp(x, v)
        member = group.fit(member, v, h, RATE, normaliser, coin)
        m = MOMENTUM * m + (1 - MOMENTUM) * g
        direction = MOMENTUM * m + (1 - MOMENTUM) * g if nesterov else m
        x = x - LR * group.precondition(member, direction)
        return (x, m, member), x

    return jax.lax.scan(step, (x, jnp.zeros_like(x), member), (probes, coins))[1]


@pytest.mark.parametrize(
    "name", ["xmat_2nd", "xmat_1st", "xmat_whiten", "lra_2nd", "lra_1st", "dense_2nd"]
)
def test_fifty_steps_of_the_authors_code(x64, name):
    kind, rule = name.split("_")
    group = {"xmat": XMat(), "lra": LRA(3), "dense": Dense()}[kind]
    member = group.init(N, jnp.float64, jax.random.key(0))
    if kind == "lra":
        member = (*jnp.asarray(RECORDED["uv"]), member[2])
    member = group.scale(member, jnp.asarray(SCALE))
    normaliser = "1st" if rule == "1st" else "2nd"
    points = jax.jit(plain_loop, static_argnums=(0, 5, 6))(
        group,
        member,
        jnp.asarray(RECORDED["x0"]),
        jnp.asarray(RECORDED["probes"]),
        jnp.asarray(RECORDED["coins"]),
        normaliser,
        rule == "whiten",
    )
    # Rounding, which the fit of Q magnifies a little: it is of order 1e-13.
    np.testing.assert_allclose(points, RECORDED[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_transformation_is_the_plain_loop(x64, key, nesterov):
    """With LRA, whose coins and first U, V depend on the key too."""
    steps, group = 10, LRA(2)
    optimizer = psgd(
        LR, group, precond_lr=RATE, b1=MOMENTUM, nesterov=nesterov, init_scale=SCALE, key=key
    )

    def one(carry, _):
        x, state = carry
        updates, state = optimizer.update(jax.grad(loss)(x), state, x, value_fn=loss)
        return (x + updates, state), x + updates

    @jax.jit
    def both(x):
        state = optimizer.init(x)
        keys = jax.vmap(lambda t: jax.random.split(jax.random.fold_in(key, t), 3))(
            jnp.arange(steps)
        )
        probes = jax.vmap(lambda k: jax.random.normal(k[0], (N,)))(keys)
        coins = jax.vmap(lambda k: jax.random.bernoulli(k[1]))(keys)
        member = group.scale(state[0].member, jnp.asarray(SCALE))
        ours = jax.lax.scan(one, (x, state), length=steps)[1]
        return ours, plain_loop(group, member, x, probes, coins, nesterov=nesterov)

    ours, expected = both(jnp.asarray(RECORDED["x0"]))
    np.testing.assert_allclose(ours, expected, atol=1e-12)  # rounding
    assert float(jnp.max(jnp.abs(ours[0] - RECORDED["x0"]))) > 1e-3


def as_matrix(function, n):
    return np.asarray(jax.vmap(function, out_axes=1)(jnp.eye(n)))


CORNERS = np.diag([2.0, -0.3, 5.0, 0.7]) + np.fliplr(np.diag([0.5, -0.2, -0.2, 0.5]))
FULL = np.array(
    [[3.0, 1.0, 0.2, 0.0], [1.0, -2.0, 0.5, 0.1], [0.2, 0.5, 0.6, 0.3], [0, 0.1, 0.3, 1.0]]
)


@pytest.mark.parametrize(
    ("group", "H"),
    [
        (Diag(), np.diag([4.0, -0.1, 30.0, 1.0])),
        (XMat(), CORNERS),
        (Dense(), FULL),
        (LRA(4), FULL),
    ],
    ids=["Diag", "XMat", "Dense", "LRA"],
)
def test_the_minimum_of_the_criterion_is_the_inverse_of_the_absolute_hessian(x64, key, group, H):
    """H is indefinite, and its |H|⁻¹ is in each group's reach."""
    steps = 6000
    rates = jnp.geomspace(0.2, 0.002, steps)

    @jax.jit
    def fitted(key):
        member = group.init(4, jnp.float64, key)
        probes = jax.random.normal(key, (steps, 4))
        coins = jax.random.bernoulli(jax.random.fold_in(key, 1), shape=(steps,))

        def step(member, drawn):
            v, coin, rate = drawn
            return group.fit(member, v, jnp.asarray(H) @ v, rate, "2nd", coin), None

        member = jax.lax.scan(step, member, (probes, coins, rates))[0]
        return jax.vmap(lambda g: group.precondition(member, g), out_axes=1)(jnp.eye(4))

    P = np.asarray(fitted(key))
    np.testing.assert_allclose(P, P.T, atol=1e-12 * np.abs(P).max())
    values, basis = np.linalg.eigh(H)
    root = basis * np.sqrt(np.abs(values)) @ basis.T
    # |H|^½ P |H|^½ = I up to the noise of the last steps, of the order of √rate = 0.05.
    np.testing.assert_allclose(root @ P @ root, np.eye(4), atol=0.2)


def member_and_matrix(name, rng, n):
    """A member of the group, its matrix Q, and an S with which Q S⁻¹ is of the same form."""
    a, b = rng.uniform(1, 2, n), rng.uniform(-0.4, 0.4, n)
    c, e = rng.uniform(1, 2, n), rng.uniform(-0.4, 0.4, n)
    if name == "XMat":
        return (a, b), np.diag(a) + np.fliplr(np.diag(b)), np.diag(c) + np.fliplr(np.diag(e))
    if name == "Dense":
        Q, S = (np.triu(rng.normal(size=(n, n)), 1) / 3 + np.diag(x) for x in (a, c))
        return Q, Q, S
    U, V = rng.normal(size=(2, n, 2)) / 3
    if name == "LRA":
        return (U, V, a), (np.eye(n) + U @ V.T) @ np.diag(a), np.diag(c)
    return a, np.diag(a), np.diag(c)


@pytest.mark.parametrize("normaliser", ["2nd", "1st"])
@pytest.mark.parametrize("name", ["Diag", "XMat", "LRA", "Dense"])
def test_units_of_the_weights_do_not_matter(x64, name, normaliser):
    """The fit of Q S⁻¹ to (S⁻ᵀ v, S h) is that of Q to (v, h), times S⁻¹: P becomes S⁻ᵀ P S⁻¹."""
    n, rng = 6, np.random.default_rng(3)
    group = {"Diag": Diag(), "XMat": XMat(), "LRA": LRA(2), "Dense": Dense()}[name]
    member, Q, S = member_and_matrix(name, rng, n)
    moved = Q @ np.linalg.inv(S)
    if name == "XMat":
        other = (np.diag(moved), np.diag(np.fliplr(moved)))
    elif name == "Dense":
        other = moved
    elif name == "LRA":
        other = (member[0], member[1], member[2] / np.diag(S))
    else:
        other = np.diag(moved)
    v, h = rng.normal(size=(2, n))
    for coin in (True, False):

        @jax.jit
        def after(member, v, h, coin=coin):
            member = group.fit(member, v, h, 0.5, normaliser, jnp.asarray(coin))
            return jax.vmap(lambda g: group.precondition(member, g), out_axes=1)(jnp.eye(n))

        here = np.asarray(after(jax.tree.map(jnp.asarray, member), v, h))
        there = np.asarray(after(jax.tree.map(jnp.asarray, other), np.linalg.solve(S.T, v), S @ h))
        np.testing.assert_allclose(S.T @ there @ S, here, rtol=1e-9, atol=1e-9)
        assert np.abs(here - Q.T @ Q).max() > 1e-2


def test_clipping_probability_and_the_first_scale(x64):
    def value(x):
        return 50 * jnp.sum(x**2)

    x = jnp.arange(1.0, 5.0)
    g = jax.grad(value)(x)
    optimizer = scale_by_psgd(Diag(), b1=0.0, precond_lr=1e-9)
    updates, state = optimizer.update(g, optimizer.init(x), x, value_fn=value)
    # H = 100 I: the first scale gives P = I/100, and the step is Newton's.
    np.testing.assert_allclose(updates, x, rtol=1e-6)
    np.testing.assert_allclose(state.metrics["step_rms"], np.sqrt(7.5), rtol=1e-6)
    optimizer = scale_by_psgd(Diag(), b1=0.0, precond_lr=1e-9, clip_rms=0.1)
    updates, _ = optimizer.update(g, optimizer.init(x), x, value_fn=value)
    np.testing.assert_allclose(np.sqrt(np.mean(updates**2)), 0.1, rtol=1e-12)

    def uneven(x):
        return jnp.sum(jnp.arange(1.0, 5.0) * x**2)

    optimizer = scale_by_psgd(Diag(), update_prob=0.2)

    @jax.jit
    def changes(state):
        def step(state, _):
            new = optimizer.update(g, state, x, value_fn=uneven)[1]
            return new, jnp.any(new.member != state.member)

        return jax.lax.scan(step, state, length=400)[1]

    changed = np.asarray(changes(optimizer.init(x)))
    # The first always; then binomial with mean 80 and deviation 8: four of them.
    assert changed[0] and 48 < changed.sum() < 112


@pytest.mark.parametrize("group", [Diag(), XMat(), LRA(2), Dense()], ids=lambda g: type(g).__name__)
def test_gradients_that_say_nothing_leave_the_preconditioner(group):
    optimizer = scale_by_psgd(group, mode="whiten", b1=0.0)

    @jax.jit
    def update(g, state):
        return optimizer.update(g, state)

    x = jnp.ones(5)
    _, state = update(jnp.arange(1.0, 6.0), optimizer.init(x))
    for bad in (jnp.zeros(5), x.at[2].set(jnp.nan)):
        _, after = update(bad, state)
        jax.tree.map(np.testing.assert_array_equal, after.member, state.member)
    updates, _ = update(jnp.zeros(5), state)
    assert np.all(np.asarray(updates) == 0)


def test_whitening_makes_gradients_isotropic(key):
    """Gradients of scales 1 to 100, in float32: P g has unit variance."""
    scales = jnp.geomspace(1.0, 100.0, 6)
    optimizer = scale_by_psgd(Diag(), mode="whiten", b1=0.0, precond_lr=0.05, damp=0.0)

    @jax.jit
    def run(key):
        def step(state, key):
            return optimizer.update(scales * jax.random.normal(key, (6,)), state)[1], None

        return jax.lax.scan(step, optimizer.init(scales), jax.random.split(key, 4000))[0].member

    d = np.asarray(run(key))
    # E g gᵀ = diag s², so P = diag 1/s. The rate of 0.05 leaves up to some tenths of noise.
    np.testing.assert_allclose(d**2 * np.asarray(scales), 1, rtol=0.4)


def test_what_is_refused():
    x = jnp.ones(3)
    for options, message in [
        (dict(mode="fisher"), "mode = 'fisher'"),
        (dict(step_normaliser="3rd"), "step_normaliser = '3rd'"),
        (dict(precond_lr=0.0), "precond_lr = 0.0"),
        (dict(update_prob=0.0), "update_prob = 0.0"),
        (dict(update_prob=1.5), "update_prob = 1.5"),
        (dict(b1=1.0), "b1 = 1.0"),
        (dict(damp=-1.0), "damp = -1.0"),
        (dict(clip_rms=0.0), "clip_rms = 0.0"),
        (dict(init_scale=-1.0), "init_scale = -1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            psgd(0.1, **options)
    with pytest.raises(TypeError, match="group"):
        psgd(0.1, "lra")
    with pytest.raises(ValueError, match="rank = 0"):
        LRA(0)
    with pytest.raises(ValueError, match="at most the number of weights, 3"):
        psgd(0.1, LRA(4)).init(x)
    with pytest.raises(TypeError, match="complex64"):
        psgd(0.1).init(x * 1j)
    optimizer = psgd(0.1)
    with pytest.raises(ValueError, match="value_fn"):
        optimizer.update(x, optimizer.init(x), x)
    with pytest.raises(ValueError, match="params"):
        optimizer.update(x, optimizer.init(x), value_fn=lambda x: jnp.sum(x))


def test_the_rest_of_a_program_does_not_change():
    """Whitening needs the gradient alone, as Adam does."""
    optimizer = psgd(0.1, mode="whiten")
    params = {"w": jnp.ones((2, 3)), "b": jnp.zeros(2, jnp.bfloat16)}
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params))
    new = optax.apply_updates(params, updates)
    assert jax.tree.map(lambda p: p.dtype, new) == jax.tree.map(lambda p: p.dtype, params)
