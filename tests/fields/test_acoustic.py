"""Rendering of impulse responses: closed forms, SciPy, and image sources by reflecting by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jaxsci.fields import (
    AVRField,
    alpha_composite,
    arrival,
    clarity,
    decay_time,
    energy_decay,
    envelope,
    image_source,
    impulse_losses,
    ray_directions,
    render,
    stft,
)
from jaxsci.nn import FourierFeatures

FS, C = 8000.0, 343.0


def test_a_shell_that_sends_the_sound_back(x64):
    """An opaque sphere around the listener and source: an echo at 2 d/c with amplitude 1/(2 d)."""
    spacing = 0.05
    d = 1.0 + 11 * spacing  # a sample of the rays
    there = int(np.ceil(d * FS / C))

    def field(x, toward, tx):
        far = jnp.linalg.norm(x - tx) > d - spacing / 2
        return jnp.where(far, 1e4, 0.0), jnp.zeros(256).at[there].set(1.0)

    at = jnp.array([0.2, -0.4, 1.0])

    @jax.jit
    def listen(rays):
        h, chunked = (
            render(
                field, at, at, rays, fs=FS, ir_len=256, near=1.0, far=3.0, n_samples=41, chunk=chunk
            )
            for chunk in (None, 2)
        )
        return h, chunked

    h, chunked = listen(ray_directions(3, 2, None))
    np.testing.assert_allclose(h, chunked, atol=1e-14)
    delay = there + d * FS / C
    gain = 1 / (C * (there + np.round(d * FS / C)) / FS)
    # A delay that is not rounded is a phase; the highest frequency of an even length is real.
    k = np.arange(128)
    wanted = gain * np.exp(-2j * np.pi * k * delay / 256)
    np.testing.assert_allclose(np.fft.rfft(h)[:-1], wanted, atol=1e-12)
    assert abs(delay - round(delay)) > 0.05
    np.testing.assert_allclose(gain, 1 / (2 * d), rtol=1 / there)


def test_nothing_arrives_before_sound_can_and_nothing_comes_back_from_the_end(x64):
    def field(x, toward, tx):
        return jnp.asarray(3.0), jnp.ones(128)

    rx, tx = jnp.zeros(3), jnp.array([3.0, 0.0, 0.0])
    rays = ray_directions(2, 2, None)
    h = jax.jit(
        lambda: render(field, rx, tx, rays, fs=FS, ir_len=128, near=0.2, far=5.0, n_samples=5)
    )()
    first = 3.0 * FS / C  # the direct way: no sum of two ways is shorter
    # Delays that are not whole ring a little; what is left before the arrival is that.
    assert np.max(np.abs(h[: int(first) - 8])) < 0.1 * np.max(np.abs(h))
    assert np.max(np.abs(h)) == np.max(np.abs(h[int(first) :]))


def test_weights_of_a_ray(x64):
    distances = jnp.linspace(0.5, 2.5, 201)
    density = 0.8 + 0 * distances
    weights = alpha_composite(density, distances)
    np.testing.assert_allclose(jnp.sum(weights), 1.0, rtol=1e-14)
    np.testing.assert_allclose(weights[0], 1 - np.exp(-0.8 * 0.01), rtol=1e-10)
    np.testing.assert_allclose(weights[-1], np.exp(-0.8 * 2.0), rtol=1e-10)
    slope = jax.grad(lambda s: alpha_composite(s, distances)[-1])(0 * density)
    assert np.all(np.isfinite(slope)) and np.max(np.abs(slope)) < 0.011


def test_directions_cover_the_sphere(key):
    rays = np.asarray(ray_directions(16, 8, key))
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1.0, rtol=1e-6)
    assert {tuple(r) for r in rays[-2:].tolist()} == {(0, 0, 1), (0, 0, -1)}
    # One in each of 128 cells of equal area: quadratic functions have their means nearly.
    np.testing.assert_allclose(rays[:-2].T @ rays[:-2] / 128, np.eye(3) / 3, atol=0.05)


def test_image_sources_are_the_walls_mirrors(x64):
    room, tx, rx = np.array([4.0, 5.0, 3.0]), np.array([1.0, 2.0, 1.5]), np.array([3.0, 3.0, 1.2])
    make = jax.jit(
        lambda rx: image_source(room, tx, rx, order=1, reflection=0.7, fs=FS, ir_len=256)
    )
    k = np.arange(129) / 256
    images, sizes = [tx], [1.0]
    for axis in range(3):
        for wall in (0.0, room[axis]):
            mirrored = tx.copy()
            mirrored[axis] = 2 * wall - tx[axis]
            images.append(mirrored)
            sizes.append(0.7)
    distance = np.linalg.norm(np.array(images) - rx, axis=1)
    phases = np.exp(-2j * np.pi * np.outer(k, distance * FS / C))
    spectrum = phases @ (np.array(sizes) / distance) * np.cos(np.pi * k) ** 2
    h = make(jnp.asarray(rx))
    np.testing.assert_allclose(h, np.fft.irfft(spectrum, 256), atol=1e-12)
    assert abs(int(arrival(h)) - distance[0] * FS / C) <= 1
    with pytest.raises(Exception, match="rx is not inside the room"):
        make(jnp.array([4.5, 1.0, 1.0])).block_until_ready()


def test_measures_of_a_decay_and_scipys_transforms(x64):
    rng = np.random.default_rng(0)
    t = np.arange(4000) / FS
    h = jnp.asarray(np.exp(-t * np.log(1e6) / 2 / 0.3))  # 60 dB in 0.3 s
    np.testing.assert_allclose(decay_time(h, FS), 0.3, rtol=1e-3)
    np.testing.assert_allclose(decay_time(h, FS, 0.0, -10.0), 0.3, rtol=1e-3)
    np.testing.assert_allclose(energy_decay(h)[800], -20.0, atol=1e-6)
    # Early over late energy of an exponential, 50 ms of 300.
    np.testing.assert_allclose(clarity(h, FS), 10 * np.log10(10**1.0 - 1), atol=1e-6)
    noise = rng.normal(size=201)
    np.testing.assert_allclose(
        envelope(jnp.asarray(noise)), np.abs(scipy.signal.hilbert(noise)), atol=1e-12
    )
    _, _, wanted = scipy.signal.stft(
        noise, nperseg=30, noverlap=26, nfft=64, boundary=None, padded=False
    )
    np.testing.assert_allclose(stft(jnp.asarray(noise), 30, 4, 64).T / 15, wanted, atol=1e-12)


def test_training_moves_all_parts_of_a_field(key):
    encode = FourierFeatures(3, 4, key=key)
    field = AVRField.of_size(
        encode, 8, 64, center=jnp.zeros(3), scale=2.0, width=8, depth=1, key=key
    )
    target = jnp.zeros(64).at[20].set(1.0)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(field):
        h = render(
            field,
            jnp.array([0.5, 0.0, 0.0]),
            jnp.array([-0.5, 0.3, 0.0]),
            ray_directions(3, 2, key),
            fs=FS,
            ir_len=64,
            near=0.1,
            far=2.0,
            n_samples=6,
        )
        losses = impulse_losses(h, target, ((32, 8, 32),))
        return sum(losses.values())

    value, slopes = loss(field)
    assert np.isfinite(value)
    for part in (slopes.density, slopes.signal):
        sizes = [np.max(np.abs(g)) for g in jax.tree.leaves(part)]
        assert np.all(np.isfinite(sizes)) and min(sizes) > 0


def test_bad_input(key):
    def call(**changed):
        sizes = {"fs": FS, "ir_len": 64, "near": 0.1, "far": 2.0, "n_samples": 4} | changed
        return render(lambda x, w, y: (0.0, jnp.zeros(64)), *[jnp.zeros(3)] * 2, rays, **sizes)

    rays = ray_directions(2, 1, key)
    with pytest.raises(ValueError, match=r"far = 5.0 m takes 117 samples, ir_len = 64"):
        call(far=5.0)
    with pytest.raises(ValueError, match=r"near = 3.0, far = 2.0"):
        call(near=3.0)
    with pytest.raises(ValueError, match="chunk = 3 does not divide 4 rays"):
        call(chunk=3)
    with pytest.raises(ValueError, match="0 azimuths"):
        ray_directions(0, 1, key)
    with pytest.raises(ValueError, match=r"0.05 s are 400 samples of 64"):
        clarity(jnp.ones(64), FS)
