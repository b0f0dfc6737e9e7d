"""Local updates against closed forms, and on eight devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import SyncSchedule, Workers, local_updates, mean_params


def quadratic(params, batch, key):
    """Half of (θ − t)²: each worker has its own target t."""
    return jnp.mean(0.5 * (params - batch) ** 2)


def test_a_round_is_the_mean_of_the_workers_own_ways(x64):
    """θ_w = t_w + (1 − lr)ʰ (θ − t_w) after h steps; a round takes the mean."""
    targets = jnp.array([1.0, 2.0, 6.0, -3.0])
    local = local_updates(quadratic, optax.sgd(0.1), Workers(4))
    state = local.init(jnp.array(5.0))
    batches = jnp.tile(targets, (7, 1))
    apart, losses = local.steps(state, batches, jax.random.key(0))
    way = 0.9 ** np.arange(8)[:, None] * (5 - targets) + targets
    np.testing.assert_allclose(apart.params, way[-1], rtol=1e-13)
    np.testing.assert_allclose(losses, 0.5 * (way[:-1] - targets) ** 2, rtol=1e-12)
    together, _ = local.round(state, batches, jax.random.key(0))
    np.testing.assert_allclose(together.params, np.full(4, 1.5 + 0.9**7 * 3.5), rtol=1e-13)
    np.testing.assert_allclose(mean_params(apart), 1.5 + 0.9**7 * 3.5, rtol=1e-13)
    np.testing.assert_array_equal(together.step, 7)


def test_moments_stay_with_their_workers_unless_asked():
    targets = jnp.array([[1.0, -2.0]] * 6)
    for average, equal in ((("params",), False), (("params", "mu"), True), (("mu",), True)):
        local = local_updates(quadratic, optax.adam(0.1), Workers(2), average)
        state, _ = local.run(local.init(jnp.zeros(())), targets, 3, jax.random.key(0))
        mu, count = state.opt_state[0].mu, state.opt_state[0].count
        assert bool(mu[0] == mu[1]) is equal
        assert bool(state.params[0] == state.params[1]) is ("params" in average)
        np.testing.assert_array_equal(count, [6, 6])


def test_rounds_in_parts_resume_and_draw_the_same_numbers():
    def noisy(params, batch, key):
        return jnp.sum(params * jax.random.normal(key, (3,))) + jnp.mean(batch)

    local = local_updates(noisy, optax.sgd(0.1), Workers(2))
    key, data = jax.random.key(1), jnp.zeros((11, 2))
    start = local.init(jnp.zeros(3))
    sizes = []

    def batches(i, n):
        sizes.append(n)
        return data[i : i + n]

    whole, _ = local.run(start, batches, SyncSchedule((6, 5)), key)
    assert sizes == [4, 2, 4, 1]  # Three programs serve all lengths up to 7.
    half, _ = local.run(start, data[:6], SyncSchedule((6,)), key)
    half = jax.tree.map(lambda x: jnp.asarray(np.array(x)), half)
    rest, _ = local.run(half, lambda i, n: data[6 + i : 6 + i + n], SyncSchedule((5,)), key)
    np.testing.assert_array_equal(rest.params, whole.params)
    # The keys of workers and steps all differ.
    state, _ = local.steps(start, data[:2], key)
    moves = np.asarray(state.params)
    one, _ = local.steps(start, data[:1], key)
    assert np.abs(moves[0] - moves[1]).min() > 1e-3
    assert np.abs(moves - 2 * np.asarray(one.params)).min() > 1e-3


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    file = tmp_path_factory.mktemp("eight") / "numbers.json"
    program = Path(__file__).parent / "distributed_run.py"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(
        [sys.executable, "-P", str(program), "local_sgd", str(file)], env=environment, check=True
    )
    return json.loads(file.read_text())


def test_eight_devices_and_one_agree(eight):
    mesh, one = eight["mesh"], eight["one"]
    # Another order of summation in float32; Adam's first steps divide by tiny numbers.
    np.testing.assert_allclose(mesh["params"], one["params"], atol=1e-4)
    np.testing.assert_allclose(mesh["losses"], one["losses"], rtol=1e-4)
    for found in (mesh, one):
        assert found["spread"] < 1e-6 < found["spread of moments"]
        assert found["programs"] == 2  # of one and of two steps


def test_one_message_a_round_and_none_within(eight):
    assert eight["steps"] == {"sizes": [], "in loop": False}
    assert eight["average"] == {"sizes": [eight["numbers"]], "in loop": False}


def test_averaging_at_every_step_is_data_parallelism(eight):
    # Gradients or weights are summed: rounding of float32.
    np.testing.assert_allclose(eight["local"], eight["parallel"], atol=1e-6)


def test_what_is_refused():
    local = local_updates(quadratic, optax.adam(0.1), Workers(2), ("params", "momentum"))
    with pytest.raises(ValueError, match=r"no \['momentum'\]"):
        local.init(jnp.zeros(()))
    local = local_updates(quadratic, optax.sgd(0.1), Workers(2))
    state = local.init(jnp.zeros(()))
    with pytest.raises(ValueError, match="split between 2 workers"):
        local.steps(state, jnp.zeros((4, 3)), jax.random.key(0))
    with pytest.raises(ValueError, match="9 steps, but there are 4"):
        local.run(state, jnp.zeros((4, 2)), SyncSchedule((9,)), jax.random.key(0))
    with pytest.raises(ValueError, match="SyncSchedule"):
        local.run(state, lambda i, n: jnp.zeros((n, 2)), 2, jax.random.key(0))
