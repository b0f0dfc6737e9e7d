"""Adafactor's presets against two torch implementations, and what optax's leaves out."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import b2_cap, paper_adafactor, relative_step, state_bytes

DATA = np.load(Path(__file__).parents[1] / "oracles" / "data" / "optim_first.npz")


def run(tx, start, steps=30):
    def body(carry, _):
        x, state = carry
        c = jnp.geomspace(0.1, 10, 12).reshape(3, 4)
        g = c * (x - 1) + 0.3 * jnp.sin(5 * x)
        updates, state = tx.update(g, state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    start = jnp.asarray(start, jnp.float32)
    return jax.jit(lambda: jax.lax.scan(body, (start, tx.init(start)), length=steps)[1])()


def test_thirty_steps_of_torch_and_of_the_package():
    found = run(paper_adafactor(), DATA["w0"])
    # Single precision on both sides; 30 steps.
    np.testing.assert_allclose(found, DATA["adafactor"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found, DATA["adafactor_torch"], rtol=0, atol=1e-6)
    theirs = optax.adafactor(relative_step(), min_dim_size_to_factor=1)
    np.testing.assert_allclose(found, run(theirs, DATA["w0"]), rtol=0, atol=1e-6)
    # Momentum acts on the whole step.
    ours = run(paper_adafactor(0.01, momentum=0.9), DATA["w0"])
    theirs = optax.adafactor(0.01, min_dim_size_to_factor=1, momentum=0.9)
    np.testing.assert_allclose(ours, run(theirs, DATA["w0"]), rtol=0, atol=1e-6)


def test_factored_moment_of_a_rank_one_square_is_exact():
    g = jnp.asarray(np.outer([1.0, 2.0, -3.0], [0.1, 5.0]), jnp.float32)
    tx = paper_adafactor(1.0, clipping_threshold=None)
    updates, _ = tx.update(g, tx.init(g), jnp.ones((3, 2)))
    np.testing.assert_allclose(updates, -jnp.sign(g), rtol=1e-6)


def test_schedules():
    step = relative_step()
    np.testing.assert_allclose([step(0), step(9999), step(39999)], [1e-2, 1e-2, 5e-3], rtol=1e-6)
    slow = relative_step(warmup_init=True)
    np.testing.assert_allclose([slow(0), slow(9999), slow(10**6 - 1)], [1e-6, 1e-2, 1e-3], 1e-6)
    decay = b2_cap(0.99)
    np.testing.assert_allclose([decay(0, 0.8), decay(1, 0.8)], [0, 1 - 2**-0.8], rtol=1e-6)
    assert float(decay(10**6, 0.8)) == pytest.approx(0.99)
    # After a long time at gradients of 1, gradients of 100: with a cap the moment follows.
    moments = []
    for cap in (0.9, 1.0):
        tx = paper_adafactor(1.0, cap=cap, clipping_threshold=None)
        x = jnp.ones(3)
        state = tx.init(x)
        inner = state[0]._replace(count=jnp.asarray(10**6, jnp.int32), v=jnp.ones(3))
        state = (inner, *state[1:])
        for _ in range(30):
            updates, state = tx.update(100 * x, state, x)
        moments.append(float(-updates[0]))
    assert moments[0] == pytest.approx(1 / np.sqrt(1 - 0.9**30), rel=1e-3)
    assert moments[1] > 5 * moments[0]


def test_bytes_of_state():
    params = {"w": jax.ShapeDtypeStruct((512, 2048), jnp.float32)}
    adam, ours = state_bytes(optax.adam(1e-3), params), state_bytes(paper_adafactor(), params)
    assert adam == 4 * (2 * 512 * 2048 + 1)
    # 512 + 2048 moments; two counters, and optax's placeholder for the full moment.
    assert 4 * 2560 < ours <= 4 * (2560 + 3)


def test_what_is_refused():
    for build, message in [
        (lambda: paper_adafactor(clipping_threshold=0.5), "clipping_threshold = 0.5"),
        (lambda: paper_adafactor(min_dim_size_to_factor=0), "min_dim_size_to_factor = 0"),
        (lambda: paper_adafactor(decay_rate=0.0), "decay_rate = 0.0"),
        (lambda: paper_adafactor(momentum=1.0), "momentum = 1.0"),
        (lambda: b2_cap(0.0), "cap = 0.0"),
        (lambda: paper_adafactor(cap=1.5), "cap = 1.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
