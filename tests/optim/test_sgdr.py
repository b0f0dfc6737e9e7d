"""Warm restarts against torch's and optax's, at the ends of the cycles and far beyond them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import cycle_ends, sgdr, sgdr_cycle, snapshots, snapshots_of

DATA = np.load(Path(__file__).parents[1] / "oracles" / "data" / "optim_first.npz")


@pytest.mark.parametrize("T_mult", [1, 2, 3])
def test_as_torchs_warm_restarts(x64, T_mult):
    rates = jax.jit(jax.vmap(sgdr(0.05, 5, T_mult, 1e-3)))(jnp.arange(1300))
    np.testing.assert_allclose(rates, DATA["sgdr"][T_mult - 1], rtol=0, atol=1e-15)


def test_as_optax_with_decay_and_warmup_of_each_cycle():
    cycles = [
        dict(init_value=p, peak_value=p, warmup_steps=0, decay_steps=d, end_value=0.01)
        for p, d in ((0.1, 10), (0.05, 20), (0.025, 40))
    ]
    count = jnp.arange(70)
    theirs = jax.vmap(optax.sgdr_schedule(cycles))(count)
    ours = jax.vmap(sgdr(0.1, 10, 2, 0.01, decay=0.5))(count)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-7)  # single precision


def test_restarts_are_exact_as_far_as_a_counter_goes():
    """Where a logarithm of the step would be rounded to the cycle before."""
    for T_mult in (2, 3, 10):
        ends = [end for end in cycle_ends(5, T_mult, 40) if end < 2**31]
        counts = jnp.asarray(np.array([[e - 1, e] for e in ends], np.int32))
        cycles = jax.jit(jax.vmap(jax.vmap(sgdr_cycle(5, T_mult))))(counts)
        np.testing.assert_array_equal(cycles.index[:, 0], np.arange(len(ends)))
        np.testing.assert_array_equal(cycles.index[:, 1], np.arange(len(ends)) + 1)
        np.testing.assert_array_equal(cycles.fraction[:, 1], 0)
        assert float(jnp.max(jnp.abs(jax.vmap(sgdr(0.1, 5, T_mult))(counts[:, 1]) - 0.1))) == 0
    last = sgdr_cycle(5, 2)(jnp.asarray(2**31 - 1, jnp.int32))
    assert 0 <= float(last.fraction) <= 1
    far = sgdr_cycle(7, 1)(jnp.asarray(7 * 10**8 + 3, jnp.int32))
    assert int(far.index) == 10**8 and float(far.fraction) == pytest.approx(3 / 7)


def test_warmup_and_cycle_ends():
    schedule = sgdr(0.1, 10, 2, 0.02, warmup=4)
    np.testing.assert_allclose([schedule(t) for t in (0, 2, 4, 14)], [0.02, 0.06, 0.1, 0.1])
    assert cycle_ends(5, 2, 4) == (5, 15, 35, 75)
    assert cycle_ends(5, 1, 3, warmup=2) == (7, 12, 17)


def test_snapshots_are_the_weights_at_the_ends_of_cycles():
    tx = optax.chain(optax.sgd(sgdr(0.1, 3, 2)), snapshots(3, 2, k=2))

    def body(carry, _):
        x, state = carry
        updates, state = tx.update(x, state, x)
        x = x + jnp.asarray(updates)
        return (x, state), (x, snapshots_of(state))

    x0 = jnp.array([1.0, 2.0])
    _, (points, kept) = jax.jit(lambda: jax.lax.scan(body, (x0, tx.init(x0)), length=22))()
    np.testing.assert_array_equal(kept[1], [x0, x0])
    np.testing.assert_array_equal(kept[2], [x0, points[2]])
    np.testing.assert_array_equal(kept[8], [points[2], points[8]])
    np.testing.assert_array_equal(kept[21], [points[8], points[20]])


def test_what_is_refused():
    tx = snapshots(3)
    for build, message in [
        (lambda: sgdr(0.1, 0), "T0 = 0"),
        (lambda: sgdr(0.1, 5, 1.5), "T_mult = 1.5"),
        (lambda: sgdr(0.1, 5, 0), "T_mult = 0"),
        (lambda: sgdr(0.1, 5, eta_min=0.2), "eta_min = 0.2"),
        (lambda: sgdr(0.1, 5, warmup=-1), "warmup = -1"),
        (lambda: sgdr(0.1, 5, decay=0.0), "decay = 0.0"),
        (lambda: sgdr_cycle(-1), "T0 = -1"),
        (lambda: cycle_ends(5, cycles=0), "cycles = 0"),
        (lambda: snapshots(3, k=0), "k = 0"),
        (lambda: tx.update(jnp.ones(2), tx.init(jnp.ones(2))), "params"),
        (lambda: snapshots_of(optax.EmptyState()), "found 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
