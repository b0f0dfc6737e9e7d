"""Impulse responses of rooms by volume rendering in the frequency domain.

A point of space has a density σ(x) and sends a signal s(t; x, ω, y) in direction ω when an impulse
is emitted at y. What a listener at x₀ hears is collected along rays d ↦ x₀ + d ω, each place
attenuated by what lies before it, delayed by its distance and weakened by the whole path,

    h(f) = mean_ω ∫ T(d) σ(d) exp(−2πi f d/c) F[g(t + d/c) s(t; x₀ + dω, −ω, y)](f) dd,

with T(d) = exp(−∫₀^d σ), g(t) = 1/(c t). Delays are phases, so that they are not rounded.

Lan, Zheng, Zheng and Zhao, arXiv:2411.06307. Image sources: Allen and Berkley, J. Acoust. Soc. Am.
65 (1979).
"""

import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

SPEED = 343.0  # of sound in air, m/s


class AVRField(eqx.Module):
    """Density and signal of a point, by networks on encodings.

    - `encode`: features of a point in [−1, 1]³, e.g. `HashEncoding` or `jaxsci.nn.FourierFeatures`.
    - `density`: from these features and a number; its |leaky ReLU| is σ.
    - `signal`: from the features, a direction and the features of the source, the signal.
    - `center`, `scale`: points are seen as (x − center)/scale.
    """

    encode: Callable[[Array], Array]
    density: Callable[[Array], Array]
    signal: Callable[[Array], Array]
    center: Float[Array, " 3"]
    scale: float = eqx.field(static=True)

    @staticmethod
    def of_size(
        encode: Callable[[Array], Array],
        features: int,
        ir_len: int,
        *,
        center: Float[Array, " 3"],
        scale: float,
        width: int = 64,
        depth: int = 2,
        key: PRNGKeyArray,
    ) -> "AVRField":
        """With perceptrons on an encoding of `features` numbers."""
        density_key, signal_key = jr.split(key)
        density = eqx.nn.MLP(features, "scalar", width, 1, key=density_key)
        signal = eqx.nn.MLP(2 * features + 3, ir_len, width, depth, key=signal_key)
        return AVRField(encode, density, signal, jnp.asarray(center), scale)

    def __call__(
        self, x: Float[Array, " 3"], toward: Float[Array, " 3"], tx: Float[Array, " 3"]
    ) -> tuple[Float[Array, ""], Float[Array, " t"]]:
        """σ at x, and the signal that leaves it in a direction when the source is at `tx`."""
        here = self.encode((x - self.center) / self.scale)
        source = self.encode((tx - self.center) / self.scale)
        sigma = jnp.abs(jax.nn.leaky_relu(self.density(here)))
        return sigma, self.signal(jnp.concatenate([here, toward, source]))


def ray_directions(n_azi: int, n_ele: int, key: PRNGKeyArray | None) -> Float[Array, "r 3"]:
    """Unit vectors: azimuths in equal cells, heights uniform in [−1, 1], and the two poles.

    With a key, azimuths are drawn within their cells, and heights within theirs; without, cells are
    represented by their middles. Equal areas belong to all but the poles.
    """
    if n_azi < 1 or n_ele < 1:
        raise ValueError(f"ray_directions: {n_azi} azimuths, {n_ele} heights, expected 1 or more")
    shape = (n_ele, n_azi)
    shifts = jnp.full((2, *shape), 0.5) if key is None else jr.uniform(key, (2, *shape))
    azimuth = 2 * jnp.pi * (jnp.arange(n_azi) + shifts[0]) / n_azi
    height = (2 * (jnp.arange(n_ele)[:, None] + shifts[1]) / n_ele - 1).ravel()
    ground = jnp.sqrt(1 - height**2)
    azimuth = azimuth.ravel()
    rays = jnp.stack([ground * jnp.cos(azimuth), ground * jnp.sin(azimuth), height], -1)
    poles = jnp.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    return jnp.concatenate([rays, poles])


def alpha_composite(
    density: Float[Array, "*r n"], distances: Float[Array, " n"]
) -> Float[Array, "*r n"]:
    """Weights of the samples of a ray, 1 − exp(−σ δ) times what the earlier ones let through.

    δ is the distance to the next sample. The last one takes all that is left, so that weights sum
    to one; a large δ there, as is usual for images, has a gradient of that size where σ = 0.
    """
    optical = density[..., :-1] * jnp.diff(distances)
    through = jnp.exp(-jnp.cumsum(optical, -1))
    one = jnp.ones_like(through[..., :1])
    return jnp.concatenate([one, through], -1) * jnp.concatenate([-jnp.expm1(-optical), one], -1)


def render(
    field: Callable[[Array, Array, Array], tuple[Array, Array]],
    rx: Float[Array, " 3"],
    tx: Float[Array, " 3"],
    rays: Float[Array, "r 3"],
    *,
    fs: float,
    ir_len: int,
    near: float,
    far: float,
    n_samples: int,
    c: float = SPEED,
    loss_constant: float = 1.0,
    chunk: int | None = None,
) -> Float[Array, " t"]:
    """The impulse response at `rx` of a source at `tx`.

    At each sample, the part of the signal that would arrive after the end is zero (it would come
    back at the beginning), and so is the part before sound can have come there from the source.

    **Arguments:**

    - `field`: `field(x, toward, tx)`, the density of a point and its signal of `ir_len` samples.
    - `rays`: directions from the listener, e.g. `ray_directions`. `near`, `far`, `n_samples`:
      distances along them, equally spaced.
    - `fs`, `c`: sampling rate in Hz, speed of sound. `loss_constant`: the amplitude at one metre.
    - `chunk`: rays at once, all if `None`; gradients recompute a chunk, so that memory stays small.

    **Raises:** `ValueError` if sound from `far` needs more than `ir_len` samples, distances are out
    of order, or `chunk` does not divide the number of rays.
    """
    if not 0 <= near < far or n_samples < 2:
        raise ValueError(
            f"render: near = {near}, far = {far}, n_samples = {n_samples}; expected "
            "0 <= near < far and at least 2"
        )
    if far * fs / c > ir_len:
        raise ValueError(
            f"render: sound from far = {far} m takes {far * fs / c:.0f} samples, ir_len = {ir_len}"
        )
    chunk = len(rays) if chunk is None else chunk
    if chunk < 1 or len(rays) % chunk:
        raise ValueError(f"render: chunk = {chunk} does not divide {len(rays)} rays")
    distances = jnp.linspace(near, far, n_samples)
    delay = distances * fs / c
    whole = jnp.round(delay)
    n = jnp.arange(ir_len)
    path = jnp.maximum(c * (n + whole[:, None]) / fs, 0.1)
    gain = jnp.where(n + whole[:, None] < ir_len, loss_constant / path, 0.0)
    frequency = jnp.arange(ir_len // 2 + 1) / ir_len
    phase = jnp.exp(-2j * jnp.pi * frequency * delay[:, None])

    @jax.checkpoint
    def one(total: Array, rays: Array) -> tuple[Array, None]:
        points = rx + distances[:, None] * rays[:, None]
        toward = jnp.broadcast_to(-rays[:, None], points.shape)
        density, signal = jax.vmap(jax.vmap(lambda x, w: field(x, w, tx)))(points, toward)
        earliest = jnp.round(jnp.linalg.norm(points - tx, axis=-1) * fs / c)
        heard = jnp.where(n >= earliest[..., None], signal * gain, 0.0)
        weights = alpha_composite(density, distances)
        # The sum over rays comes before the transform: a sample's delay is every ray's.
        spectra = jnp.fft.rfft(jnp.einsum("rk,rkt->kt", weights, heard))
        return total + jnp.sum(spectra * phase, 0), None

    start = jnp.zeros(ir_len // 2 + 1, phase.dtype)
    total, _ = jax.lax.scan(one, start, rays.reshape(-1, chunk, 3))
    return jnp.fft.irfft(total / len(rays), ir_len)


def image_source(
    room: Float[Array, " 3"],
    tx: Float[Array, " 3"],
    rx: Float[Array, " 3"],
    *,
    order: int,
    reflection: float,
    fs: float,
    ir_len: int,
    c: float = SPEED,
) -> Float[Array, " t"]:
    """The impulse response of a box [0, room] by image sources,

        h(t) = Σ_i r^{reflections of i} δ(t − |x_i − rx|/c)/|x_i − rx|,

    with up to `order` reflections, delays that are not rounded, and a spectrum that falls as cos²
    to zero at half the sampling rate. Images that are too far away for the response are left out.

    **Raises:** an error when it runs for a source or a listener outside the room.
    """
    box = jnp.asarray(room)
    outside = [jnp.any((x <= 0) | (x >= box)) for x in (jnp.asarray(tx), jnp.asarray(rx))]
    tx = eqx.error_if(jnp.asarray(tx), outside[0], "image_source: tx is not inside the room")
    rx = eqx.error_if(jnp.asarray(rx), outside[1], "image_source: rx is not inside the room")
    cells = [
        (k, flips, int(sum(abs(2 * a - b) for a, b in zip(k, flips, strict=True))))
        for k in itertools.product(range(-order, order + 1), repeat=3)
        for flips in itertools.product((0, 1), repeat=3)
    ]
    cells = [cell for cell in cells if cell[2] <= order]
    shifts = jnp.asarray([k for k, _, _ in cells], float)
    flips = jnp.asarray([f for _, f, _ in cells], float)
    count = jnp.asarray([n for _, _, n in cells], float)
    images = 2 * shifts * box + (1 - 2 * flips) * tx
    distance = jnp.linalg.norm(images - rx, axis=-1)
    delay = distance * fs / c
    amplitude = jnp.where(delay < ir_len - 1, reflection**count / distance, 0.0)
    frequency = jnp.arange(ir_len // 2 + 1) / ir_len
    spectrum = amplitude @ jnp.exp(-2j * jnp.pi * delay[:, None] * frequency)
    return jnp.fft.irfft(spectrum * jnp.cos(jnp.pi * frequency) ** 2, ir_len)


def energy_decay(h: Float[Array, "*b t"]) -> Float[Array, "*b t"]:
    """Schroeder's curve: the energy that is still to come, in dB of the whole."""
    rest = jnp.cumsum(h[..., ::-1] ** 2, -1)[..., ::-1]
    return 10 * jnp.log10(rest / rest[..., :1] + 1e-12)


def decay_time(
    h: Float[Array, "*b t"], fs: float, start: float = -5.0, stop: float = -25.0
) -> Float[Array, "*b"]:
    """Seconds for 60 dB at the slope that energy has from `start` to `stop` dB (T₆₀).

    0 to −10 dB is the early decay time.
    """
    curve = energy_decay(h)
    inside = (curve <= start) & (curve >= stop)
    n = jnp.arange(h.shape[-1])
    count = jnp.sum(inside, -1)
    mean_n = jnp.sum(jnp.where(inside, n, 0), -1, keepdims=True) / count[..., None]
    mean_curve = jnp.sum(jnp.where(inside, curve, 0), -1, keepdims=True) / count[..., None]
    gap = jnp.where(inside, n - mean_n, 0)
    slope = jnp.sum(gap * (curve - mean_curve), -1) / jnp.sum(gap**2, -1)
    return -60 / slope / fs


def clarity(h: Float[Array, "*b t"], fs: float, early: float = 0.05) -> Float[Array, "*b"]:
    """C₅₀: early over late energy in dB; the border is `early` seconds.

    **Raises:** `ValueError` if the response ends before.
    """
    border = round(early * fs)
    if not 0 < border < h.shape[-1]:
        raise ValueError(f"clarity: {early} s are {border} samples of {h.shape[-1]}")
    energy = h**2
    late = jnp.sum(energy[..., border:], -1)
    return 10 * jnp.log10(jnp.sum(energy[..., :border], -1) / (late + 1e-12) + 1e-12)


def envelope(h: Float[Array, "*b t"]) -> Float[Array, "*b t"]:
    """The modulus of the analytic signal."""
    t = h.shape[-1]
    weights = np.zeros(t)
    weights[0] = 1
    weights[1 : (t + 1) // 2] = 2
    if t % 2 == 0:
        weights[t // 2] = 1
    return jnp.abs(jnp.fft.ifft(jnp.fft.fft(h) * jnp.asarray(weights, h.dtype)))


def arrival(h: Float[Array, "*b t"], share: float = 0.5) -> Float[Array, "*b"]:
    """The first sample that reaches a share of the largest one, in size."""
    size = jnp.abs(h)
    return jnp.argmax(size >= share * jnp.max(size, -1, keepdims=True), -1)


def stft(h: Float[Array, "*b t"], window: int, hop: int, fft: int) -> Array:
    """Windowed spectra, (frames, fft/2 + 1), with a periodic Hann window and no padding."""
    starts = np.arange(0, h.shape[-1] - window + 1, hop)
    places = starts[:, None] + np.arange(window)
    hann = jnp.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window), h.dtype)
    return jnp.fft.rfft(h[..., places] * hann, fft)


def impulse_losses(
    h: Float[Array, "*b t"],
    target: Float[Array, "*b t"],
    windows: tuple[tuple[int, int, int], ...] = ((300, 60, 512), (150, 30, 256), (75, 8, 128)),
) -> dict[str, Any]:
    """What a response is compared by, each a mean of absolute differences.

    - `spectrum`: real and imaginary part. `magnitude`. `phase`: its cosine and sine.
    - `waveform`. `decay`: the logarithm of the energy to come.
    - `stft`: magnitudes and their logarithms for windows (length, hop, transform).
    """
    spectrum, wanted = jnp.fft.rfft(h), jnp.fft.rfft(target)
    # sqrt has no gradient at zero.
    magnitude, wanted_magnitude = (
        jnp.sqrt(s.real**2 + s.imag**2 + 1e-12) for s in (spectrum, wanted)
    )
    unit, wanted_unit = spectrum / magnitude, wanted / wanted_magnitude

    def parts(z: Array) -> Array:
        return jnp.mean(jnp.abs(z.real) + jnp.abs(z.imag))

    short = jnp.zeros(())
    for window, hop, fft in windows:
        a, b = (
            jnp.sqrt(s.real**2 + s.imag**2 + 1e-8)
            for s in (stft(h, window, hop, fft), stft(target, window, hop, fft))
        )
        logs = jnp.abs(jnp.log(a) - jnp.log(b))
        short = short + jnp.mean(jnp.abs(a - b) + logs) / len(windows)
    return {
        "spectrum": parts(spectrum - wanted),
        "magnitude": jnp.mean(jnp.abs(magnitude - wanted_magnitude)),
        "phase": parts(unit - wanted_unit),
        "waveform": jnp.mean(jnp.abs(h - target)),
        "decay": jnp.mean(jnp.abs(energy_decay(h) - energy_decay(target))) / 10,
        "stft": short,
    }
