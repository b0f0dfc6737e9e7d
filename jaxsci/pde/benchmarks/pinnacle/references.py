"""Reference solutions: closed forms, series and spectral methods at call time, or recorded ones.

`tests/oracles/record_pinnacle*.py` wrote `references.npz`; they say how, and how exact it is.
"""

from collections.abc import Callable
from functools import cache
from importlib.resources import files

import numpy as np
from jaxtyping import Float

from ..field_problem import Reference


@cache
def recorded(name: str) -> Reference:
    """The recorded solution of a problem."""
    return Reference(recorded_array(f"{name}_x"), recorded_array(f"{name}_values"))


@cache
def recorded_array(name: str) -> np.ndarray:
    """A recorded table, in double precision."""
    with np.load(files(__package__) / "references.npz") as data:  # type: ignore[arg-type]
        return data[name].astype(float)


def closed_form(
    exact: Callable[[np.ndarray], np.ndarray], points: np.ndarray
) -> Callable[[], Reference]:
    """The values of a formula at points."""
    return lambda: Reference(points, exact(points).reshape(len(points), -1))


def uniform_points(lower, upper, n: int = 4000) -> Float[np.ndarray, "n d"]:
    """The same uniform points of a box in every call."""
    return np.random.default_rng(0).uniform(lower, upper, (n, len(lower)))


def ball_points(dim: int, t1: float, n: int = 4000) -> Float[np.ndarray, "n d1"]:
    """The same uniform points of the unit ball × [0, t1] in every call."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, dim))
    x *= rng.uniform(size=(n, 1)) ** (1 / dim) / np.linalg.norm(x, axis=1, keepdims=True)
    return np.concatenate([x, rng.uniform(0, t1, (n, 1))], 1)


def cole_hopf(x: np.ndarray, t: np.ndarray, nu: float, nodes: int = 120) -> np.ndarray:
    """u_t + u u_x = ν u_xx with u(x, 0) = −sin πx on [−1, 1] and u(±1, t) = 0:

        u = −∫ sin(π(x − η)) f(x − η) e^{−η²/4νt} dη / ∫ f(x − η) e^{−η²/4νt} dη,
        f(y) = exp(−cos(πy)/2πν),

    by Gauss-Hermite quadrature (Basdevant and others, Computers & Fluids 14, 1986).
    """
    z, w = np.polynomial.hermite.hermgauss(nodes)
    y = np.asarray(x)[..., None] - np.sqrt(4 * nu * np.asarray(t))[..., None] * z
    logs = -np.cos(np.pi * y) / (2 * np.pi * nu)
    weights = w * np.exp(logs - logs.max(-1, keepdims=True))
    return -np.sum(weights * np.sin(np.pi * y), -1) / np.sum(weights, -1)


@cache
def burgers_1d() -> Reference:
    """At 4000 points, by `cole_hopf`."""
    points = uniform_points((-1.0, 0.0), (1.0, 1.0))
    return Reference(points, cole_hopf(points[:, 0], points[:, 1], 0.01 / np.pi)[:, None])


def kuramoto_sivashinsky_spectral(
    times: np.ndarray, modes: int = 256, steps: int = 8000
) -> Float[np.ndarray, "t n"]:
    """u_t + α u u_x + β u_xx + γ u_xxxx = 0, periodic on [0, 2π], u(x, 0) = cos x (1 + sin x), for
    α = 100/16, β = 100/16², γ = 100/16⁴: values on a grid, by the integrating-factor scheme of
    fourth order with the two-thirds rule. `times` are multiples of 1/`steps`."""
    k = np.fft.rfftfreq(modes, 1 / modes)
    keep = k < modes / 3
    linear = 100 / 16**2 * k**2 - 100 / 16**4 * k**4
    h = 1 / steps
    half, whole = np.exp(h / 2 * linear), np.exp(h * linear)

    def slope(v: np.ndarray) -> np.ndarray:
        return -100 / 32 * 1j * k * keep * np.fft.rfft(np.fft.irfft(v, modes) ** 2)

    x = 2 * np.pi * np.arange(modes) / modes
    v = np.fft.rfft(np.cos(x) * (1 + np.sin(x)))
    wanted = np.round(np.asarray(times) * steps).astype(int)
    found = {0: v}
    for i in range(1, int(wanted.max()) + 1):
        a = slope(v)
        b = slope(half * (v + h / 2 * a))
        c = slope(half * v + h / 2 * b)
        d = slope(whole * v + h * half * c)
        v = whole * v + h / 6 * (whole * a + 2 * half * (b + c) + d)
        found[i] = v
    return np.stack([np.fft.irfft(found[i], modes) for i in wanted])


@cache
def kuramoto_sivashinsky() -> Reference:
    """At 64 places and 51 times, by `kuramoto_sivashinsky_spectral`."""
    times = np.linspace(0, 1, 51)
    values = kuramoto_sivashinsky_spectral(times)[:, ::4]
    x = 2 * np.pi * np.arange(64) / 64
    points = np.stack(np.meshgrid(times, x, indexing="ij"), -1)[..., ::-1].reshape(-1, 2)
    return Reference(points, values.reshape(-1, 1))


def driven_waves(points: Float[np.ndarray, "n 3"], terms: int = 1000) -> Float[np.ndarray, " n"]:
    """The solution of `wave_2d_ms`: u = w cos πt + v, w = sin πx sinh πy + sinh 3πx sin 2πy, where
    v vanishes on the boundary and with v_t at t = 0, and v_tt − v_xx − 2v_yy = 2π² w cos πt. With
    w's sine series Σ r_jk sin jπx sin kπy and ω² = π²(j² + 2k²),

        v = 2π² Σ r_jk (cos πt − cos ωt)/(ω² − π²) sin jπx sin kπy,

    which has j = 1 from the first part of w and k = 2 from the second. Terms fall like 1/k³."""
    x, y, t = points.T[:, :, None] * np.pi
    k = np.arange(1, terms + 1)

    def series(rate: float, squared: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The sum for sinh(rate · place), ω²/π² = `squared`."""
        sines = 2 * k * (-1.0) ** (k + 1) * np.sinh(rate * np.pi) / (np.pi * (rate**2 + k**2))
        swing = np.cos(t) - np.cos(np.sqrt(squared) * t)
        return np.sum(2 * sines / (squared - 1) * swing * np.sin(k * place), 1)

    x1, y1, t1 = (np.ravel(a) for a in (x, y, t))
    steady = np.sin(x1) * np.sinh(y1) + np.sinh(3 * x1) * np.sin(2 * y1)
    moving = np.sin(x1) * series(1.0, 1 + 2 * k**2, y) + np.sin(2 * y1) * series(3.0, k**2 + 8, x)
    return steady * np.cos(t1) + moving


@cache
def wave_2d_ms() -> Reference:
    """At 4000 points, by `driven_waves`."""
    points = uniform_points((0.0, 0.0, 0.0), (1.0, 1.0, 100.0))
    return Reference(points, driven_waves(points)[:, None])
