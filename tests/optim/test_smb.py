"""SMB: the authors' steps, the dense matrix that the model stands for, and its two guarantees."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsci.optim import AutoSchedule, smb, trajectory

DATA = np.load(Path(__file__).parents[1] / "oracles" / "data" / "optim_second_a.npz")


def two_groups(p, t):
    """A loss of two tensors that depends on the step, as mini-batches do."""
    w, b, shift = p["w"], p["x"], 0.1 * jnp.sin(t)
    return (
        jnp.sum(jnp.array([1.0, 4.0, 30.0]) * (w - 1 - shift) ** 2) / 2
        + jnp.sum(jnp.cos(w))
        + jnp.log1p(jnp.sum((b @ b - jnp.eye(2) * (2 + shift)) ** 2))
        + 0.2 * jnp.sum(w) * jnp.sum(b)
    )


def run(tx, steps=40):
    def body(carry, t):
        p, state = carry

        def value_fn(p):
            return two_groups(p, t)

        value, grad = jax.value_and_grad(value_fn)(p)
        updates, state = tx.update(grad, state, p, value=value, value_fn=value_fn)
        p = optax.apply_updates(p, updates)
        flat = jnp.concatenate([p["w"], p["x"].ravel()])
        return (p, state), (flat, state.metrics["lr"])

    start = {"w": jnp.array([0.3, -1.0, 2.0]), "x": jnp.array([[1.0, 0.2], [-0.3, 0.5]])}
    return jax.jit(lambda p: jax.lax.scan(body, (p, tx.init(p)), jnp.arange(steps)))(start)


SCHEDULE = AutoSchedule(window=5, gamma=0.3)


@pytest.mark.parametrize(
    "name, options",
    [
        ("smb", dict(learning_rate=0.07)),
        ("smb_scheduled", dict(learning_rate=0.07, autoschedule=SCHEDULE)),
        ("smbi", dict(learning_rate=0.2, independent_batch=True)),
        (
            "smbi_scheduled",
            dict(learning_rate=0.2, independent_batch=True, autoschedule=SCHEDULE),
        ),
    ],
)
def test_forty_steps_of_the_authors_package(x64, name, options):
    (_, state), (points, rates) = run(smb(**options))
    # Rounding of 40 steps; the reference forms its Θ as a difference.
    np.testing.assert_allclose(points, DATA[name], rtol=1e-9, atol=1e-11)
    assert 5 < int(state.metrics["model_steps"]) < 40
    assert ("scheduled" in name) == (len(set(np.asarray(rates).tolist())) > 1)


def trial_and_step(h, g, lr, eta=0.99):
    """s, y and the model step for f(x) = gᵀx + xᵀdiag(h)x/2 at 0, where the trial fails."""

    def f(x):
        return g @ x + x @ (h * x) / 2

    tx = smb(lr, eta=eta)
    x = jnp.zeros_like(g)
    # A loss that says that the trial fails, wherever it really is.
    updates, state = tx.update(g, tx.init(x), x, value=-jnp.inf, value_fn=f)
    return -lr * g, h * (-lr * g), updates, state


compiled = jax.jit(trial_and_step)


def test_the_step_solves_with_the_dense_matrix(x64):
    rng = np.random.default_rng(0)
    for scale in (1.0, 1e-6, 1e5):
        g, h = jnp.asarray(scale * rng.normal(size=4)), jnp.asarray(rng.normal(size=4) * 10)
        s, y, step, state = compiled(h, g, 0.7, 0.9)
        norm = np.linalg.norm
        two_sigma = norm(s) * (norm(y) + norm(g) / 0.9) - y @ s
        B = (two_sigma * np.eye(4) + np.outer(s, y) + np.outer(y, s)) / (s @ s)
        np.testing.assert_allclose(step, -np.linalg.solve(B, g), rtol=1e-10)
        assert np.all(np.linalg.eigvalsh(B) > 0)
        assert int(state.metrics["model_steps"]) == 1


numbers = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(numbers, numbers, st.floats(1e-3, 10), st.floats(0.1, 0.99))
def test_model_steps_are_short_and_downhill(h, g, lr, eta):
    """In float32, where Θ as a difference would lose its digits."""
    h, g = jnp.array(h, jnp.float32), jnp.array(g, jnp.float32)
    s, _, step, _ = compiled(h, g, jnp.float32(lr), jnp.float32(eta))
    if np.linalg.norm(g) < 1e-7:
        return
    # 1e-5: rounding of float32 through a few products of vectors.
    assert np.linalg.norm(step) <= eta * np.linalg.norm(s) * (1 + 1e-5) + 1e-30
    assert step @ g < 0


def test_one_variable():
    """x²/2 from 1 with lr = 2: s = y = −2, 2σ = 2(2 + 1/η) − 4, B = 2σ/4 + 2."""
    points, _ = trajectory(smb(2.0), lambda x: x**2 / 2, jnp.ones(()), 1)
    np.testing.assert_allclose(points[0], 1 - 1 / (0.5 / 0.99 + 2), rtol=1e-6)
    np.testing.assert_allclose(points[0] - 1, -0.3992, atol=1e-4)
    # A trial that is good enough is taken as it is.
    points, _ = trajectory(smb(0.5), lambda x: x**2 / 2, jnp.ones(()), 1)
    assert points[0] == 0.5


def test_groups_share_a_model(x64):
    """One label for all leaves is the model of the vector of all."""
    h, g = jnp.array([3.0, -20.0, 7.0]), jnp.array([1.0, -0.5, 2.0])

    def f(x):
        return g @ x + x @ (h * x) / 2

    def split(p):
        return f(jnp.concatenate([p["a"], p["b"]]))

    whole, _ = smb(1.0).update(g, smb(1.0).init(g), 0 * g, value=-jnp.inf, value_fn=f)
    p, grads = {"a": jnp.zeros(2), "b": jnp.zeros(1)}, {"a": g[:2], "b": g[2:]}

    def step(groups):
        tx = smb(1.0, groups=groups)
        new, _ = tx.update(grads, tx.init(p), p, value=-jnp.inf, value_fn=split)
        return np.concatenate([new["a"], new["b"]])

    for groups in ({"a": "x", "b": "x"}, "x", lambda p: jax.tree.map(lambda _: 0, p)):
        np.testing.assert_allclose(step(groups), whole, rtol=1e-12)
    assert np.max(np.abs(step(None) - whole)) > 1e-3


def test_a_trial_that_is_not_finite_halves_the_rate():
    tx = smb(1000.0)

    def f(x):
        return jnp.exp(x[0] ** 2)

    x = jnp.array([3.0])
    updates, state = tx.update(jax.grad(f)(x), tx.init(x), x, value=f(x), value_fn=f)
    assert updates[0] == 0 and state.scale == 0.5
    points, values = trajectory(tx, f, x, 100)
    assert np.all(np.isfinite(points)) and values[-1] < 10  # from 8103


def test_small_gradients_of_float32():
    """Products of four small numbers would vanish."""
    g = jnp.array([1e-7, -2e-7, 3e-9], jnp.float32)
    h = jnp.array([5.0, 1.0, -3.0], jnp.float32)
    small = compiled(h, g, jnp.float32(1e-3), jnp.float32(0.9))[2]
    large = compiled(h, g * 1e7, jnp.float32(1e-3), jnp.float32(0.9))[2]
    np.testing.assert_allclose(small * 1e7, large, rtol=1e-5)


def test_a_leaf_without_gradient_stays():
    def f(p):
        return jnp.sum(50 * p["a"] ** 2) + 0 * jnp.sum(p["b"])

    points, _ = trajectory(smb(1.0), f, {"a": jnp.ones(2), "b": jnp.ones(3)}, 20)
    assert np.all(points["b"] == 1) and np.all(np.abs(points["a"][-1]) < 0.5)


def test_what_is_refused():
    x = jnp.ones(2)
    for build, message in [
        (lambda: smb(0.0), r"learning_rate = 0\.0"),
        (lambda: smb(eta=1.0), r"eta = 1\.0"),
        (lambda: smb(c=0.0), r"c = 0\.0"),
        (lambda: smb(autoschedule=AutoSchedule(0)), "window = 0"),
        (lambda: smb(autoschedule=AutoSchedule(5, gamma=0.0)), r"gamma = 0\.0"),
        (lambda: smb(autoschedule=AutoSchedule(5, beta=1.0)), r"beta = 1\.0"),
        (lambda: smb(autoschedule=AutoSchedule(5, lr_max=0.0)), r"lr_max = 0\.0"),
        (lambda: smb().update(x, smb().init(x), x), "value_fn"),
        (lambda: smb().update(x, smb().init(x), value_fn=jnp.sum), "params"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
