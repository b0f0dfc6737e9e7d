"""Sound in a room: image sources in one dimension, eigenmodes in two, what walls take away."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pde import Grid, SoundRoom, WaveBox, rollout


def pulse(x, centre, width=0.1):
    return np.exp(-(((x - centre) / width) ** 2))


def images(x, t, centre, left, right):
    """D'Alembert's solution on [0, 1] with c = 1: half of the pulse each way, and its images.

    Walls multiply what they send back by R = (ξ − 1)/(ξ + 1).
    """
    factors = [(xi - 1) / (xi + 1) if math.isfinite(xi) else 1.0 for xi in (left, right)]
    total = np.zeros_like(x)
    for start in (0, 1):  # the half that starts to the right, and the one to the left
        place, direction, factor = centre, 1 if start == 0 else -1, 0.5
        for _ in range(4):  # unfolded: each hit mirrors the pulse at a wall
            total += factor * pulse(x, place + direction * t)
            wall = 1 if direction == 1 else 0
            place, direction, factor = 2 * wall - place, -direction, factor * factors[wall]
    return total


@pytest.mark.parametrize(("left", "right"), [(math.inf, 3.0), (0.0, 1.0)])
def test_image_sources(x64, left, right):
    del x64
    # Not 2.0, when an echo is back where it came from and errors of second order vanish.
    time = 1.7

    def error(n):
        grid = Grid(0.0, 1.0, n, endpoint=False)
        x = np.asarray(grid.coords()[0])
        # Half the largest step, so that errors of time and space do not cancel.
        room = SoundRoom(grid, 0.5 / n, impedance=[(left, right)])
        steps = round(2 * n * time)
        frames = jax.jit(lambda p: rollout(room, p, steps, every=steps))(pulse(x, 0.4)[None])
        return np.sqrt(np.mean((frames[0, 0] - images(x, time, 0.4, left, right)) ** 2))

    coarse, fine = error(100), error(200)
    assert fine < 0.001
    assert 1.9 < np.log2(coarse / fine) < 2.1  # second order


def test_rigid_rectangle_and_wave_speed():
    grid = Grid((0.0, 0.0), (2.0, 1.0), (80, 40), endpoint=False)
    x, y = grid.coords()
    start = jnp.exp(-((x - 0.7) ** 2 + (y - 0.4) ** 2) / 0.2**2)
    room = SoundRoom(grid, 0.005, speed=2.0)
    found = jax.jit(lambda p: rollout(room, p, 100, every=100))(start[None])[0, 0]
    exact = WaveBox(grid, 0.5, 2.0, "neumann").step(jnp.stack([start, 0 * start]))[0]
    # Eight cells to the pulse's width: an error of some (h k)²/24 for each radian travelled.
    assert jnp.sqrt(jnp.mean((found - exact) ** 2)) < 0.02 * jnp.sqrt(jnp.mean(exact**2))


def test_an_l_shaped_room():
    grid = Grid((0.0, 0.0), (1.0, 1.0), (24, 24), endpoint=False)
    x, y = grid.coords()
    inside = (x < 0.5) | (y < 0.5)
    start = jnp.exp(-((x - 0.25) ** 2 + (y - 0.25) ** 2) / 0.1**2)[None]

    def end(impedance, inside, start):
        room = SoundRoom(grid, 0.02, impedance=impedance, inside=inside)
        return rollout(room, start, 200, every=50)

    rigid, damped = (end(xi, inside, start) for xi in (math.inf, 2.0))
    assert not rigid[:, :, ~inside].any()
    # Rigid walls keep ∫ p: no sound leaves, also past the corner. float32 sums.
    total = jnp.sum(jnp.where(inside, start, 0))
    np.testing.assert_allclose(jnp.sum(rigid, (1, 2, 3)), total, rtol=1e-4)
    np.testing.assert_allclose(rigid[0, 0], rigid[0, 0].T, atol=1e-5)  # the mirror of the L
    loud = jnp.sum(damped**2, (1, 2, 3))
    assert loud[-1] < 1e-3 * jnp.sum(rigid[-1] ** 2)
    # A room cut out of a grid is the room on its own grid.
    small = Grid((0.0, 0.0), (1.0, 0.5), (24, 12), endpoint=False)
    alone = rollout(SoundRoom(small, 0.02, impedance=2.0), start[:, :, :12], 50, every=50)
    cut = end(2.0, y < 0.5, start)
    np.testing.assert_allclose(cut[0, :, :, :12], alone[0], atol=1e-6)


def test_what_is_refused():
    grid = Grid(0.0, 1.0, 10, endpoint=False)
    with pytest.raises(TypeError, match="grid must be a Grid"):
        SoundRoom(10, 0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="midpoints"):
        SoundRoom(Grid(0.0, 1.0, 10), 0.01)
    with pytest.raises(ValueError, match=r"limit 0\.1 of stability"):
        SoundRoom(grid, 0.11)
    for wrong in ({"dt": -1.0}, {"dt": 0.1, "speed": 0.0}):
        with pytest.raises(ValueError, match="positive"):
            SoundRoom(grid, **wrong)
    with pytest.raises(ValueError, match="1 pairs"):
        SoundRoom(grid, 0.05, impedance=[(1.0, 1.0)] * 2)
    for xi in (-1.0, math.nan):
        with pytest.raises(ValueError, match="negative"):
            SoundRoom(grid, 0.05, impedance=xi)
    with pytest.raises(ValueError, match="hold a cell"):
        SoundRoom(grid, 0.05, inside=np.zeros(10))
    with pytest.raises(ValueError, match="hold a cell"):
        SoundRoom(grid, 0.05, inside=np.ones(9))
    with pytest.raises(ValueError, match="one impedance"):
        SoundRoom(grid, 0.05, impedance=[(1.0, 2.0)], inside=np.ones(10))
    with pytest.raises(ValueError, match="u0 must have shape"):
        rollout(SoundRoom(grid, 0.05), jnp.ones((2, 10)), 1)
