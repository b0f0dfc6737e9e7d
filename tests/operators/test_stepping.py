"""Learned steppers: histories, bundles, residuals, and the forecast that hides them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.operators import FNO, AbstractHistoryStepper, Bundled, LearnedStepper, forecast
from jaxsci.pde import FunctionStepper, rollout


def test_one_frame_with_and_without_residual():
    u = jnp.full((2, 4), 3.0)

    def operator(u, cond=1.0):
        return 2 * u + cond

    np.testing.assert_array_equal(LearnedStepper(operator).step(u), 7.0)
    np.testing.assert_array_equal(LearnedStepper(operator).step(u, 5.0), 11.0)
    # 3 + ½ · 7
    np.testing.assert_array_equal(LearnedStepper(operator, residual=0.5).step(u), 6.5)


def test_an_operator_of_this_package_with_parameters(key):
    model = FNO(1, 1, 1, width=4, modes=3, depth=1, n_params=2, key=key)
    u, cond = jr.normal(key, (1, 16)), jnp.array([0.1, 0.2])
    frames = rollout(LearnedStepper(model), u, 2, cond)
    # The scan's program sums in another order: float32 rounding.
    np.testing.assert_allclose(frames[0], model(u, cond=cond), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(frames[1], model(frames[0], cond=cond), rtol=1e-4, atol=1e-6)


def test_keys_reach_random_operators(key):
    noisy = LearnedStepper(lambda u, *, key: u + jr.normal(key, u.shape), with_key=True)
    frames = rollout(noisy, jnp.zeros((1, 8)), 3, key=key)
    steps = jnp.diff(frames, axis=0, prepend=0.0)
    assert not np.allclose(steps[0], steps[1])


class Fibonacci(AbstractHistoryStepper):
    """Each frame is the sum of the two before it, b frames at once."""

    n_history: int = eqx.field(static=True, default=2)
    n_bundle: int = eqx.field(static=True, default=1)

    def predict(self, history, args=None, *, key=None):
        a, b = history[-2:]
        frames = []
        for _ in range(self.n_bundle):
            a, b = b, a + b
            frames.append(b)
        return jnp.stack(frames)


@pytest.mark.parametrize("n_bundle", [1, 2, 3, 5])
def test_bundles_of_every_size_give_the_same_forecast(n_bundle):
    history = jnp.ones((2, 1, 3))
    stepper = Fibonacci(n_bundle=n_bundle)
    frames = jax.jit(lambda h: forecast(stepper, h, 8))(history)
    assert frames.shape == (8, 1, 3)
    np.testing.assert_array_equal(frames[:, 0, 0], [2, 3, 5, 8, 13, 21, 34, 55])
    bundles = rollout(stepper, history, 2)
    assert bundles.shape == (2, n_bundle, 1, 3)


def test_channels_of_a_bundle_are_ordered_frame_by_frame():
    history = jnp.arange(4.0).reshape(2, 2, 1) * jnp.ones((2, 2, 3))

    def operator(u):
        assert u.shape == (4, 3)
        return jnp.concatenate([u, 10 * u[:2]])

    plain = Bundled(operator, n_history=2, n_bundle=3)
    out = plain.output(plain.step(plain.init(history)))
    np.testing.assert_array_equal(out[..., 0], [[0, 1], [2, 3], [0, 10]])
    residual = Bundled(operator, n_history=2, n_bundle=3, residual=1.0)
    out = residual.output(residual.step(residual.init(history)))
    np.testing.assert_array_equal(out[..., 0], [[2, 4], [4, 6], [2, 13]])


def test_forecast_of_a_plain_stepper_is_its_rollout(key):
    u0 = jr.normal(key, (1, 8))
    stepper = FunctionStepper(jnp.sin)
    np.testing.assert_array_equal(forecast(stepper, u0[None], 4), rollout(stepper, u0, 4))


def test_bad_input():
    history = jnp.ones((2, 1, 3))
    wrong: Any = 3
    makers: list[Any] = [LearnedStepper, Bundled]
    for make in makers:
        with pytest.raises(TypeError, match="operator must be callable"):
            make(wrong)
    with pytest.raises(ValueError, match="n_history must be a positive integer"):
        Bundled(jnp.sin, n_history=0)
    with pytest.raises(ValueError, match="n_bundle must be a positive integer"):
        Bundled(jnp.sin, n_bundle=True)
    with pytest.raises(ValueError, match="must keep the shape"):
        LearnedStepper(lambda u: u[:1]).step(history[0].repeat(2, 0))
    with pytest.raises(ValueError, match="must return 2 x 1 channels"):
        Bundled(lambda u: u, n_bundle=2).predict(history[:1])
    with pytest.raises(ValueError, match="expected 2 frames"):
        rollout(Fibonacci(), history[0], 2)
    with pytest.raises(ValueError, match="expected 2 frames"):
        forecast(Fibonacci(), history[:1], 2)
    with pytest.raises(ValueError, match="n_frames must be a positive integer"):
        forecast(Fibonacci(), history, 0)
    with pytest.raises(TypeError, match="expected an AbstractStepper"):
        forecast(jnp.sin, history, 2)  # type: ignore[arg-type]


def test_a_stepper_that_returns_another_number_of_frames():
    class Wrong(AbstractHistoryStepper):
        n_history: int = eqx.field(static=True, default=1)
        n_bundle: int = eqx.field(static=True, default=2)

        def predict(self, history, args=None, *, key=None):
            return history

    with pytest.raises(ValueError, match="predict must return 2 frames"):
        rollout(Wrong(), jnp.ones((1, 1, 3)), 1)
