"""Stiff test problems with tight reference solutions.

`StiffProblem` holds y' = f(y) on [0, t₁] with its start; `stiff_problems()` are six of them, from
2 to 128 unknowns, on which stiff solvers are compared.
"""

from collections.abc import Callable
from functools import lru_cache
from importlib.resources import as_file, files
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class StiffProblem(eqx.Module):
    """y' = f(y), 0 ≤ t ≤ t₁, y(0) = y₀, in variables whose typical sizes are `scale`.

    - `rule`: f(y, xp) with xp = `jax.numpy` or `numpy`.
    - `band`: numbers of diagonals (below, above) of the Jacobian, or `None`.
    """

    name: str = eqx.field(static=True)
    rule: Callable[[Any, Any], Any] = eqx.field(static=True)
    t1: float = eqx.field(static=True)
    y0: Float[np.ndarray, " n"]
    scale: Float[np.ndarray, " n"]
    band: tuple[int, int] | None = eqx.field(default=None, static=True)

    def field(self, t: Any, y: Float[Array, " n"], args: Any = None) -> Float[Array, " n"]:
        """f, as diffrax calls it."""
        return self.rule(y, jnp)

    def numpy_field(self, t: float, y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """f, as SciPy calls it."""
        return self.rule(y, np)

    def reference(self) -> Float[np.ndarray, " n"]:
        """y(t₁) of SciPy's Radau with tolerances of 1e-12 and below.

        **Raises:** `KeyError` for a problem that is not one of `stiff_problems()`.
        """
        return _references()[self.name]

    def error(self, y: Any) -> float:
        """The largest |yᵢ − reference| / (scaleᵢ + |referenceᵢ|) at t₁.

        **Arguments:** `y`, the solution there.
        """
        true = self.reference()
        return float(np.max(np.abs(np.asarray(y) - true) / (self.scale + np.abs(true))))


@lru_cache
def _references() -> dict[str, np.ndarray]:
    with as_file(files("jaxsci.dynamics") / "stiff_reference.npz") as path, np.load(path) as data:
        return {name: data[name] for name in data.files}


def van_der_pol(mu: float = 1000.0) -> StiffProblem:
    """The oscillator x' = v, v' = μ (1 − x²) v − x: relaxation oscillations with jumps, t₁ = 2000.

    **Arguments:** `mu`; the reference is for 1000.
    """

    def rule(y: Any, xp: Any) -> Any:
        x, v = y
        return xp.stack([v, mu * ((1 - x * x) * v) - x])

    return StiffProblem("van-der-pol", rule, 2000.0, np.array([2.0, 0.0]), np.array([1e-2, 1e-2]))


def robertson() -> StiffProblem:
    """Three reactions with rates from 0.04 to 3e7, t₁ = 1e5 (Robertson, 1966)."""

    def rule(y: Any, xp: Any) -> Any:
        a, b, c = y
        slow, fast = 0.04 * a - 1e4 * b * c, 3e7 * b * b
        return xp.stack([-slow, slow - fast, fast])

    return StiffProblem(
        "robertson", rule, 1e5, np.array([1.0, 0.0, 0.0]), np.array([1e-3, 1e-8, 1e-3])
    )


def hires() -> StiffProblem:
    """Eight reactions in the growth of plants under light, t₁ = 321.8122 (Schäfer, 1975)."""

    def rule(y: Any, xp: Any) -> Any:
        a, b, c, d, e, f, g, h = y
        k = 280 * f * h - 1.81 * g
        return xp.stack(
            [
                -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
                1.71 * a - 8.75 * b,
                -10.03 * c + 0.43 * d + 0.035 * e,
                8.32 * b + 1.71 * c - 1.12 * d,
                -1.745 * e + 0.43 * f + 0.43 * g,
                -280 * f * h + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
                k,
                -k,
            ]
        )

    y0 = np.array([1.0, 0, 0, 0, 0, 0, 0, 0.0057])
    return StiffProblem("hires", rule, 321.8122, y0, np.full(8, 1e-3))


def orego() -> StiffProblem:
    """The Oregonator of the Belousov-Zhabotinskii reaction, t₁ = 360: sizes from 1 to 1e5."""

    def rule(y: Any, xp: Any) -> Any:
        a, b, c = y
        return xp.stack(
            [
                77.27 * (b + a * (1 - 8.375e-6 * a - b)),
                (c - (1 + a) * b) / 77.27,
                0.161 * (a - c),
            ]
        )

    return StiffProblem("orego", rule, 360.0, np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0]))


def allen_cahn(n: int = 128) -> StiffProblem:
    """u_t = u_xx/100 + u − u³ on (−1, 1), u(±1) = ±1, t₁ = 10; fronts that move and vanish.

    **Arguments:** `n`, the number of interior points; the reference is for 128.
    """
    x = np.linspace(-1, 1, n + 2)
    factor = 0.01 / (x[1] - x[0]) ** 2

    def rule(u: Any, xp: Any) -> Any:
        ends = xp.ones(1)
        left = xp.concatenate([-ends, u[:-1]])
        right = xp.concatenate([u[1:], ends])
        return factor * (left - 2 * u + right) + u - u**3

    u0 = (0.53 * x + 0.47 * np.sin(-1.5 * np.pi * x))[1:-1]
    return StiffProblem("allen-cahn", rule, 10.0, u0, np.full(n, 0.1), (1, 1))


def brusselator(n: int = 64) -> StiffProblem:
    """u_t = 1 + u² v − 4 u + u_xx/50, v_t = 3 u − u² v + v_xx/50 on (0, 1), t₁ = 10.

    Walls u = 1, v = 3; the unknowns are interleaved, so that the Jacobian has five diagonals.

    **Arguments:** `n`, the number of interior points; the reference is for 64.
    """
    factor = 0.02 * (n + 1) ** 2

    def rule(y: Any, xp: Any) -> Any:
        w = y.reshape(n, 2)
        wall = xp.asarray([[1.0, 3.0]])
        left, right = xp.concatenate([wall, w[:-1]]), xp.concatenate([w[1:], wall])
        u, v = w[:, 0], w[:, 1]
        reaction = xp.stack([1 + u * u * v - 4 * u, 3 * u - u * u * v], 1)
        return (reaction + factor * (left - 2 * w + right)).reshape(-1)

    x = np.arange(1, n + 1) / (n + 1)
    y0 = np.stack([1 + np.sin(2 * np.pi * x), np.full(n, 3.0)], 1).reshape(-1)
    return StiffProblem("brusselator", rule, 10.0, y0, np.full(2 * n, 0.1), (2, 2))


def stiff_problems() -> tuple[StiffProblem, ...]:
    """The six problems, with their references."""
    return van_der_pol(), robertson(), hires(), orego(), allen_cahn(), brusselator()
