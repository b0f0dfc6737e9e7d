"""The quadratic synchronisation rule against a loop over steps, and its edges."""

import math

import numpy as np
import optax
import pytest

from jaxsci.optim import SyncSchedule, constant_sync, qsr


def by_counting(rate, alpha, h_base, power, warmup, total):
    """Goes through the steps one by one, as a training program does that counts local steps."""
    lengths, count, h = [], 0, None
    for t in range(total):
        if count == 0:
            h = h_base if t < warmup else max(h_base, int((alpha / rate(t)) ** power))
        count += 1
        if count == h or t == total - 1:
            lengths.append(count)
            count = 0
    return tuple(lengths)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("warmup, h_base", [(0, 1), (50, 4)])
def test_rounds_of_a_cosine(power, warmup, h_base):
    schedule = optax.warmup_cosine_decay_schedule(1e-3, 0.4, warmup, 1000, 1e-6)

    def rate(t):
        return float(schedule(t))

    found = qsr(schedule, 0.3, h_base, total_steps=1000, power=power, warmup_steps=warmup)
    assert found.lengths == by_counting(rate, 0.3, h_base, power, warmup, 1000)
    assert found.total_steps == 1000 and found.starts[-1] + found.lengths[-1] == 1000
    assert found.volume == len(found) / 1000
    assert [start for start, _ in found] == list(np.cumsum((0, *found.lengths[:-1])))


def test_by_hand():
    """α = 0.0175 with at least 4 steps: H stays at 4 until the rate is below α / √5, and is 28²
    where the rate is a little below α / 28."""
    assert qsr(0.008, 0.0175, 4, total_steps=100).lengths == (4,) * 25
    assert qsr(0.0175 / 5**0.5 * 1.001, 0.0175, 4, total_steps=8).lengths == (4, 4)
    assert qsr(0.0175 / 5**0.5 * 0.999, 0.0175, 4, total_steps=10).lengths == (5, 5)
    assert qsr(0.0175 / 28.01, 0.0175, 4, total_steps=1000).lengths == (784, 216)


def test_edges():
    # A rate of zero, or so small that the power overflows, ends with the training.
    for rate in (0.0, 1e-300):
        assert qsr(rate, 1.0, 2, total_steps=7).lengths == (7,)
    assert qsr(1.0, 1e-3, 3, total_steps=8).lengths == (3, 3, 2)
    assert qsr(0.1, 0.3, 1, total_steps=10, warmup_steps=3, warmup_h=2).lengths[:2] == (2, 2)
    assert qsr(lambda t: 0.1, 0.3, 1, total_steps=9, power=0.0).lengths == (1,) * 9
    assert constant_sync(3, 7).lengths == (3, 3, 1) and constant_sync(9, 3).lengths == (3,)
    assert math.isclose(constant_sync(2, 8).volume, 0.5)


def test_what_is_refused():
    for options, message in [
        (dict(alpha=0.0), "alpha = 0"),
        (dict(power=-1.0), "power = -1"),
        (dict(h_base=0), "h_base = 0"),
        (dict(warmup_h=0), "warmup_h = 0"),
        (dict(warmup_steps=-1), "warmup_steps = -1"),
        (dict(total_steps=0), "total_steps = 0"),
        (dict(warmup_steps=11), "total_steps = 10"),
        (dict(lr_schedule=-0.1), "lr_schedule"),
        (dict(lr_schedule=lambda t: math.nan), "lr_schedule"),
    ]:
        arguments = dict(lr_schedule=0.1, alpha=0.1, h_base=1, total_steps=10) | options
        with pytest.raises(ValueError, match=message):
            qsr(**arguments)
    for lengths in ((), (2, 0)):
        with pytest.raises(ValueError, match="lengths"):
            SyncSchedule(lengths)
    for arguments in ((0, 3), (2, 0), (True, 3)):
        with pytest.raises(ValueError, match="expected an integer"):
            constant_sync(*arguments)
