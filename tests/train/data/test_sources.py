"""Sources on the device: what an epoch is, and that the state says it all."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.train import ArraySource, OnlineSource, WithProgress


def draw(source, state, n):
    step = eqx.filter_jit(lambda source, state: source.next(state))
    batches = []
    for _ in range(n):
        batch, state = step(source, state)
        batches.append(jax.tree.map(np.asarray, batch))
    return batches, state


def test_an_epoch_visits_every_sample_once_and_the_next_in_another_order(key):
    source = ArraySource({"x": jnp.arange(12), "y": jnp.arange(12.0) * 2}, 4)
    batches, _ = draw(source, source.init(key), 9)
    for batch in batches:
        np.testing.assert_array_equal(batch["y"], 2 * batch["x"])
    epochs = np.stack([b["x"] for b in batches]).reshape(3, 12)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(12), (3, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_order_is_that_of_the_epochs_key(key):
    source = ArraySource(jnp.arange(10), 5)
    batches, _ = draw(source, source.init(key), 4)
    for epoch in range(2):
        expected = jax.random.permutation(jax.random.fold_in(key, epoch), 10)
        np.testing.assert_array_equal(np.concatenate(batches[2 * epoch : 2 * epoch + 2]), expected)


def test_remainder_is_left_out_of_its_epoch(key):
    source = ArraySource(jnp.arange(7), 3)
    assert source.batches_per_epoch == 2
    batches, state = draw(source, source.init(key), 40)
    epochs = np.stack(batches).reshape(20, 6)
    assert all(len(set(epoch)) == 6 for epoch in epochs.tolist())
    # Another sample is left out each time: none is missed for ever.
    assert len({*range(7)} - set(epochs.reshape(-1).tolist())) == 0
    assert state.epoch == 20 and state.position == 0


def test_stored_order_without_shuffling(key):
    source = ArraySource(jnp.arange(7), 3, shuffle=False)
    batches, _ = draw(source, source.init(key), 3)
    np.testing.assert_array_equal(batches, [[0, 1, 2], [3, 4, 5], [0, 1, 2]])


def test_whole_set_comes_as_it_is(key):
    source = ArraySource(jnp.arange(5), 5)
    batches, state = draw(source, source.init(key), 2)
    np.testing.assert_array_equal(batches, [np.arange(5)] * 2)
    assert state.epoch == 2


def test_state_says_it_all(key):
    source = ArraySource(jnp.arange(11), 3)
    whole, _ = draw(source, source.init(key), 10)
    _, state = draw(source, source.init(key), 4)
    rest, _ = draw(source, state, 6)
    np.testing.assert_array_equal(whole[4:], rest)


def test_online_samples_never_repeat(key):
    source = OnlineSource(lambda key: {"u": jax.random.normal(key, (3,))}, 4)
    batches, state = draw(source, source.init(key), 5)
    samples = np.concatenate([b["u"] for b in batches])
    assert samples.shape == (20, 3) and len(np.unique(samples)) == 60
    assert state.count == 5
    keys = jax.random.split(jax.random.fold_in(key, 2), 4)
    np.testing.assert_allclose(batches[2]["u"][1], jax.random.normal(keys[1], (3,)), rtol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "batch_size", "message"),
    [
        ((), 1, "arrays is empty"),
        (jnp.zeros((0, 3)), 1, "no samples"),
        ((jnp.zeros(4), jnp.zeros(5)), 2, "different numbers of samples"),
        (jnp.zeros(4), 0, "batch_size=0, expected 1 to 4"),
        (jnp.zeros(4), 5, "batch_size=5, expected 1 to 4"),
        (jnp.zeros(()), 1, "is a scalar"),
        ({"x": np.array([[0.0, 1.0], [np.nan, 1.0]])}, 1, r"arrays\['x'\] has NaN.*sample 1"),
    ],
)
def test_array_source_refuses(arrays, batch_size, message):
    with pytest.raises(ValueError, match=message):
        ArraySource(arrays, batch_size)


def test_array_source_takes_nan_when_told_to():
    ArraySource(jnp.array([jnp.nan, 1.0]), 1, check_finite=False)


def test_online_source_refuses():
    with pytest.raises(TypeError, match="generate"):
        OnlineSource(3, 2)
    with pytest.raises(ValueError, match="batch_size=0"):
        OnlineSource(lambda key: key, 0)


def test_progress_goes_with_the_batches_of_the_other_source(key):
    x = jnp.arange(12.0)
    plain, told = ArraySource(x, 4), WithProgress(ArraySource(x, 4), 5)
    state, both = plain.init(key), told.init(key)
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0):  # 1 from the end of the training on
        batch, state = plain.next(state)
        (same, progress), both = told.next(both)
        np.testing.assert_array_equal(same, batch)
        np.testing.assert_allclose(progress, np.full(4, share), rtol=1e-6)  # float32 division
    described = told.describe()
    assert described["progress_over"] == 5 and described["batch_size"] == 4


def test_with_progress_refuses():
    with pytest.raises(TypeError, match="source must be an AbstractSource"):
        WithProgress(jnp.arange(3.0), 5)
    with pytest.raises(ValueError, match="steps=0"):
        WithProgress(ArraySource(jnp.arange(3.0), 1), 0)
