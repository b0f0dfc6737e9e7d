"""AdaBound, diffGrad, AdamP, SGDP against the recorded steps of their reference implementations."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import adabound, adamp, diffgrad, project_scale_invariant, sgdp

DATA = np.load(Path(__file__).parents[1] / "oracles" / "data" / "optim.npz")
TARGET = np.linspace(-1, 2, 12).reshape(3, 4)
BOUND = dict(learning_rate=0.05, final_lr=0.3, gamma=0.05)


def quadratic(x):
    return jnp.asarray(np.geomspace(0.1, 10, 6)) * (x - 1) + 0.3 * jnp.sin(5 * x)


def invariant(w):
    norm = jnp.linalg.norm(w, axis=1, keepdims=True)
    unit = w / norm
    target = TARGET / np.linalg.norm(TARGET, axis=1, keepdims=True)
    return -(target - unit * jnp.sum(unit * target, 1, keepdims=True)) / norm


def run(tx, gradient, start, steps=50):
    def body(carry, _):
        x, state = carry
        updates, state = tx.update(gradient(x), state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    start = jnp.asarray(start)
    return jax.jit(lambda: jax.lax.scan(body, (start, tx.init(start)), length=steps)[1])()


@pytest.mark.parametrize(
    "name, tx, gradient, tolerance",
    [
        # Rounding of 50 steps; ε stands in the same place.
        ("adabound", adabound(**BOUND), quadratic, 1e-13),
        ("amsbound", adabound(amsbound=True, **BOUND), quadratic, 1e-13),
        ("diffgrad_tiny_eps", diffgrad(0.05, eps=1e-30), quadratic, 1e-13),
        # ε before or after the bias correction: 1e-8 × 30 at the first step, times 50 steps.
        ("diffgrad", diffgrad(0.05), quadratic, 1e-5),
        ("adamp", adamp(0.05, weight_decay=0.1), invariant, 1e-13),
        ("adamp_quadratic", adamp(0.05, weight_decay=0.1), lambda w: w - TARGET, 1e-13),
        ("sgdp", sgdp(0.05, nesterov=True, weight_decay=0.01), invariant, 1e-13),
    ],
)
def test_fifty_steps_of_the_reference(x64, name, tx, gradient, tolerance):
    start = DATA["w0"] if DATA[name].ndim == 3 else DATA["x0"]
    np.testing.assert_allclose(run(tx, gradient, start), DATA[name], atol=tolerance, rtol=0)


def test_the_reference_of_sgdp_projects_its_momentum_too(x64):
    """Without Nesterov, the authors' code projects the update in place, and the update *is* its
    momentum buffer. The paper projects the update alone, as their Nesterov branch and we do."""
    w, buffer, ours = DATA["w0"], np.zeros((3, 4)), []
    for _ in range(50):
        g = np.asarray(invariant(jnp.asarray(w)))
        buffer = 0.9 * buffer + g
        unit = w / (np.linalg.norm(w, axis=1, keepdims=True) + 1e-8)
        buffer = buffer - unit * np.sum(unit * buffer, 1, keepdims=True)
        w = w * (1 - 0.05 * 0.01 * 0.1 / (1 - 0.9)) - 0.05 * buffer
        ours.append(w)
    np.testing.assert_allclose(ours, DATA["sgdp_aliased"], atol=1e-13)
    plain = run(sgdp(0.05, weight_decay=0.01), invariant, DATA["w0"])
    assert np.max(np.abs(plain - DATA["sgdp_aliased"])) > 0.1


def test_bounds_follow_the_schedule_and_close_on_sgd(x64):
    halved = optax.piecewise_constant_schedule(0.05, {3: 0.5})
    x = DATA["x0"]
    together = run(adabound(halved, final_lr=0.3, gamma=0.05), quadratic, x, 4)
    plain = run(adabound(**BOUND), quadratic, x, 4)
    np.testing.assert_allclose(together[:3], plain[:3], atol=1e-14)
    np.testing.assert_allclose(together[3] - together[2], (plain[3] - plain[2]) / 2, atol=1e-14)
    # γ t = 1e6: the rate is final_lr to 1e-6, whatever v is; the step final_lr × m.
    tx = adabound(0.05, final_lr=0.3, gamma=0.999, b1=0.5)
    state = tx.init(jnp.ones(2))
    state = (state[0]._replace(count=jnp.asarray(10**6, jnp.int32)), *state[1:])
    updates, _ = tx.update(jnp.array([1.0, 1e-3]), state, jnp.ones(2))
    np.testing.assert_allclose(updates, [-0.15, -0.15e-3], rtol=2e-6)


def test_friction_halves_the_step_of_a_constant_gradient(x64):
    def constant(x):
        return jnp.ones(3)

    friction = run(diffgrad(0.1), constant, jnp.zeros(3), 3)
    adam = run(optax.adam(0.1), constant, jnp.zeros(3), 3)
    steps, plain = np.diff(friction, axis=0), np.diff(adam, axis=0)
    np.testing.assert_allclose(steps, plain / 2, rtol=1e-12)
    np.testing.assert_allclose(friction[0], adam[0] / (1 + np.exp(-1)), rtol=1e-12)


def test_projection(x64):
    w = jnp.asarray(DATA["w0"])
    g, u = invariant(w), jnp.asarray(TARGET)
    new, projected = project_scale_invariant(u, g, w)
    assert projected
    np.testing.assert_allclose(jnp.sum(new * w, 1), 0, atol=1e-7)
    # Flax keeps channels last.
    last, _ = project_scale_invariant(u.T, g.T, w.T, channel_axis=-1)
    np.testing.assert_allclose(last.T, new, atol=1e-15)
    unchanged, projected = project_scale_invariant(u, w, w)
    assert not projected
    np.testing.assert_array_equal(unchanged, u)
    zeros = 0 * w
    assert np.all(np.isfinite(project_scale_invariant(u, g, zeros)[0]))
    # The layer's view: rows are not orthogonal to the gradient but the whole is.
    g = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    w = jnp.ones((2, 2))
    new, projected = project_scale_invariant(jnp.array([[1.0, 2.0], [3.0, 4.0]]), g, w)
    assert projected and float(jnp.sum(new)) == pytest.approx(0, abs=1e-6)


def test_norm_grows_as_the_paper_says(x64):
    """Gradient descent on a scale-invariant loss: ‖w⁺‖² = ‖w‖² + lr²‖g‖²; SGDP keeps to it."""
    w = jnp.asarray(DATA["w0"])
    points = np.concatenate([DATA["w0"][None], run(sgdp(0.05, momentum=0.9), invariant, w)])
    momentum = np.concatenate([DATA["w0"][None], run(optax.sgd(0.05, 0.9), invariant, w)])
    buffer = np.zeros((3, 4))
    for k in range(50):
        # With the radial part gone, a step is orthogonal to w.
        step = points[k + 1] - points[k]
        np.testing.assert_allclose(
            np.sum(points[k + 1] ** 2, 1),
            np.sum(points[k] ** 2, 1) + np.sum(step**2, 1),
            atol=1e-7,
        )
        buffer = 0.9 * buffer + np.asarray(invariant(jnp.asarray(momentum[k])))
    growth = [np.linalg.norm(run_[-1]) - np.linalg.norm(run_[0]) for run_ in (momentum, points)]
    assert growth[0] > growth[1]


def test_what_is_refused():
    for build, message in [
        (lambda: adabound(final_lr=0.0), "final_lr = 0.0"),
        (lambda: adabound(gamma=0.0), "gamma = 0.0"),
        (lambda: adabound(base_lr=0.0), "base_lr = 0.0"),
        (lambda: adabound(b1=1.0), "b1 = 1.0"),
        (lambda: diffgrad(b2=-0.1), "b2 = -0.1"),
        (lambda: diffgrad(eps=-1.0), "eps = -1.0"),
        (lambda: adamp(delta=0.0), "delta = 0.0"),
        (lambda: adamp(wd_ratio=2.0), "wd_ratio = 2.0"),
        (lambda: sgdp(weight_decay=-1.0), "weight_decay = -1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    with pytest.raises(ValueError, match="params"):
        diffgrad().update(jnp.ones(2), diffgrad().init(jnp.ones(2)))


def test_sgdp_is_stable_as_far_as_sgd(x64):
    """The projection does not move the limit of momentum, 2 (1 + β)/λ for the curvature λ."""
    stiffness, momentum = 10.0, 0.9
    start = np.random.default_rng(2).normal(size=(3, 4))
    for factor, converges in ((0.9, True), (1.1, False)):
        rate = factor * 2 * (1 + momentum) / stiffness
        for tx in (sgdp(rate, momentum), optax.sgd(rate, momentum)):
            path = run(tx, lambda w: stiffness * (w - TARGET), start, 300)
            # The slower root of the recursion at 0.9 of the limit is 0.95 = √β a step.
            assert (float(jnp.max(jnp.abs(path[-1] - TARGET))) < 1e-4) == converges


def test_one_reduction_along_any_axis(x64):
    """Four axes and a channel axis in the middle: the same as channels first."""
    rng = np.random.default_rng(5)
    u, w = (jnp.asarray(rng.normal(size=(2, 5, 3, 2))) for _ in range(2))
    g = jnp.asarray(rng.normal(size=(2, 5, 3, 2)))
    g = g - w * jnp.sum(g * w, (0, 1, 3), keepdims=True) / jnp.sum(w**2, (0, 1, 3), keepdims=True)
    found, projected = project_scale_invariant(u, g, w, channel_axis=2)
    first = (jnp.moveaxis(x, 2, 0) for x in (u, g, w))
    expected, _ = project_scale_invariant(*first)
    np.testing.assert_allclose(jnp.moveaxis(found, 2, 0), expected, rtol=1e-13)
    assert bool(projected)
    # ε is 1e-8 of the length.
    np.testing.assert_allclose(jnp.sum(found * w, (0, 1, 3)), 0, atol=1e-6)
