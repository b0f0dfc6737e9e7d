"""The guard: where a rollout diverges, and that nothing else changes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pde import FunctionStepper, Guard, guarded_rollout, rollout

DOUBLING = FunctionStepper(lambda u: 2 * u)
U0 = jnp.array([[1.0, -2.0]])


def test_a_good_rollout_is_untouched():
    found = guarded_rollout(FunctionStepper(jnp.sin), U0, 12, every=3)
    np.testing.assert_array_equal(found.frames, rollout(FunctionStepper(jnp.sin), U0, 12, every=3))
    assert found.good_steps == 12


def test_growth_stops_at_the_step_that_passes_the_bound():
    # max |u| after n steps is 2ⁿ⁺¹; the bound is 10 · 2, passed first by 2⁵: step 3 counted from 0.
    frames, good_steps = guarded_rollout(DOUBLING, U0, 8, growth=10.0)
    assert good_steps == 3
    np.testing.assert_array_equal(frames[:, 0, 0], [2, 4, 8, 8, 8, 8, 8, 8])
    kept = rollout(Guard(DOUBLING, 10.0), U0, 8)
    np.testing.assert_array_equal(kept, frames)


def test_nan_stops_and_gradients_stay_finite():
    root = FunctionStepper(lambda u: jnp.sqrt(u - 1))  # 5 -> 2 -> 1 -> 0 -> NaN
    u0 = jnp.array([[5.0]])
    frames, good_steps = guarded_rollout(root, u0, 6, growth=jnp.inf)
    assert good_steps == 3
    np.testing.assert_array_equal(frames[2:, 0, 0], 0.0)
    frozen = guarded_rollout(root, jnp.array([[jnp.nan]]), 3)
    assert frozen.good_steps == 0


def test_the_stepper_is_not_called_after_it_diverged():
    calls = []

    def counted(u):
        jax.debug.callback(lambda: calls.append(1))
        return 2 * u

    jax.block_until_ready(guarded_rollout(FunctionStepper(counted), U0, 8, growth=10.0))
    jax.effects_barrier()
    assert len(calls) == 4  # three good ones and the one that diverged


def test_an_ensemble_reports_each_member_without_recompiling():
    count = 0

    @jax.jit
    def run(u0, growth):
        nonlocal count
        count += 1
        return jax.vmap(lambda u: guarded_rollout(DOUBLING, u, 6, growth=growth))(u0)

    members = jnp.stack([U0, 0 * U0, 3 * U0])
    # Relative to its own start each grows alike; a zero field sets no bound and stays.
    np.testing.assert_array_equal(run(members, 10.0).good_steps, [3, 6, 3])
    np.testing.assert_array_equal(run(members, 20.0).good_steps, [4, 6, 4])
    assert count == 1


def test_bad_input():
    wrong: Any = jnp.sin
    with pytest.raises(TypeError, match="Guard: expected an AbstractStepper"):
        guarded_rollout(wrong, U0, 2)
    with pytest.raises(ValueError, match="growth must be positive"):
        Guard(DOUBLING, 0.0)
    with pytest.raises(ValueError, match="n_steps must be a positive integer"):
        guarded_rollout(DOUBLING, U0, 0)
