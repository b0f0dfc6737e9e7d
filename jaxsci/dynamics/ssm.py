"""Linear state-space models with fixed matrices, their discretisations, and what they foretell.

    c'(t) = A c(t) + B f(t),   f ≈ Σₙ cₙ(t) gₙ

HiPPO matrices make c the coefficients of the past of f in a basis. The value of f now is a sum of
them, so its derivative is one too: f' = Σ gₙ c'ₙ = C c + D f, and the next value follows, without
training, for any smooth f (`Prophecy`).
"""

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

Measure = Literal["legt", "legs", "lagt", "fout"]
Method = Literal["bilinear", "foh", "zoh", "s4"]


class StateSpace(NamedTuple):
    """c' = A c + B f, f ≈ readout · c.

    - `A`, `B`, `readout`: on the host, in double precision.
    """

    A: Float[np.ndarray, "n n"]
    B: Float[np.ndarray, " n"]
    readout: Float[np.ndarray, " n"]


def hippo(measure: Measure, n: int, theta: float = 1.0) -> StateSpace:
    """A, B and readout of the projection of the past of f on n functions.

    - `"legt"`: Legendre polynomials on a sliding window of length θ.

        Aₙₖ = −√((2n + 1)(2k + 1))/θ · (1 for k ≤ n, (−1)ⁿ⁻ᵏ for k > n),  Bₙ = √(2n + 1)/θ,
        cₙ(t) = √(2n + 1)/θ ∫ f(s) Pₙ(2(s − t)/θ + 1) ds over [t − θ, t],  f(t) ≈ Σ √(2n + 1) cₙ.

    - `"legs"`: Legendre polynomials on all of [0, t]; the equation is c' = (A c + B f)/t.

        Aₙₖ = −√((2n + 1)(2k + 1)) for n > k, −(n + 1) for n = k, 0 for n < k,  Bₙ = √(2n + 1).

    - `"lagt"`: Laguerre functions on all of the past, faded; time is in units of the fading.

        Aₙₖ = −1 for n > k, −1/2 for n = k, 0 for n < k,  Bₙ = 1,
        cₙ(t) = ∫ f(t − s) Lₙ(s) exp(−s/2) ds over s ≥ 0,  f(t) ≈ Σ cₙ where f itself fades.

    - `"fout"`: 1, √2 cos 2πks/θ, √2 sin 2πks/θ on a sliding window, k = 1 … (n − 1)/2.

        A = D − 2 φ φᵀ/θ,  B = 2 φ/θ,  φ the values of the functions at the end of the window. Its
        readout at the window's end is the mean of both ends where f is not periodic on the window.

    **Arguments:**

    - `n`: the number of coefficients; odd for `"fout"`.
    - `theta`: the window θ; without meaning for `"legs"` and `"lagt"`.

    **Returns:** a `StateSpace`.

    **Raises:** `ValueError` for another measure, n < 1, an even n for `"fout"`, θ ≤ 0.

    Gu and others, arXiv:2008.07669, arXiv:2206.12037.
    """
    if n < 1:
        raise ValueError(f"n = {n}: expected an integer >= 1")
    if theta <= 0:
        raise ValueError(f"theta = {theta}: expected a number > 0")
    k = np.arange(n)
    root = np.sqrt(2 * k + 1.0)
    if measure == "legt":
        signs = np.where(k[None] > k[:, None], (-1.0) ** (k[:, None] - k[None]), 1.0)
        return StateSpace(-np.outer(root, root) * signs / theta, root / theta, root)
    if measure == "legs":
        lower = -np.tril(np.outer(root, root), -1) - np.diag(k + 1.0)
        return StateSpace(lower, root, root)
    if measure == "lagt":
        return StateSpace(np.eye(n) / 2 - np.tril(np.ones((n, n))), np.ones(n), np.ones(n))
    if measure == "fout":
        if n % 2 == 0:
            raise ValueError(f"n = {n}: expected an odd number for 'fout' (a mean, cosines, sines)")
        harmonics = n // 2
        phi = np.concatenate([[1.0], np.sqrt(2.0) * np.ones(harmonics), np.zeros(harmonics)])
        turn = np.zeros((n, n))
        for j in range(1, harmonics + 1):
            turn[j, harmonics + j] = 2 * np.pi * j / theta
            turn[harmonics + j, j] = -2 * np.pi * j / theta
        return StateSpace(turn - 2 * np.outer(phi, phi) / theta, 2 * phi / theta, phi)
    raise ValueError(f"measure = {measure!r}: expected 'legt', 'legs', 'lagt' or 'fout'")


class Discrete(NamedTuple):
    """c_{k+1} = A c_k + B₀ f_k + B₁ f_{k+1}: one step of a state-space model.

    Arrays are JAX's, so that models can be mapped and differentiated.
    """

    A: Float[Array, "n n"]
    B0: Float[Array, " n"]
    B1: Float[Array, " n"]


def discretize(
    A: Float[np.ndarray, "n n"],
    B: Float[np.ndarray, " n"],
    dt: float,
    method: Method = "bilinear",
) -> Discrete:
    """One step of c' = A c + B f of length Δ, from samples of f.

    - `"bilinear"`: the trapezoidal rule in c and f, Ā = (1 − A Δ/2)⁻¹ (1 + A Δ/2),
        B₀ = B₁ = (1 − A Δ/2)⁻¹ B Δ/2. Its answer to a sampled exp(iωt) is that of the equation to
        the frequency (2/Δ) tan(ωΔ/2): what the equation does exactly, the steps do exactly.
    - `"foh"`: exact where f is linear between samples. With the blocks of
        exp([[A Δ, B Δ, 0], [0, 0, 1], [0, 0, 0]]) = [[Ā, B̄, B̂], …]:  Ā,  B₀ = B̄ − B̂,  B₁ = B̂.
    - `"zoh"`: exact where f is constant between samples: Ā, B₀ = B̄, B₁ = 0.
    - `"s4"`: the trapezoidal rule in c with the new sample held, B₀ = 0, B₁ = (1 − A Δ/2)⁻¹ B Δ, as
        S4 has it. First order in Δ.

    Computed on the host in double precision.

    **Returns:** a `Discrete`, in JAX's default precision.

    **Raises:** `ValueError` for Δ ≤ 0, another method, shapes that do not fit.
    """
    A, B = np.asarray(A, float), np.asarray(B, float)
    n = len(B)
    if A.shape != (n, n) or B.ndim != 1:
        raise ValueError(f"A, B: expected shapes (n, n) and (n,), got {A.shape} and {B.shape}")
    if dt <= 0:
        raise ValueError(f"dt = {dt}: expected a number > 0")
    if method in ("bilinear", "s4"):
        half = np.eye(n) - A * dt / 2
        step = np.linalg.solve(half, np.eye(n) + A * dt / 2)
        b = np.linalg.solve(half, B * dt)
        before, after = (b / 2, b / 2) if method == "bilinear" else (0 * b, b)
    elif method in ("foh", "zoh"):
        joint = np.zeros((n + 2, n + 2))
        joint[:n, :n], joint[:n, n], joint[n, n + 1] = A * dt, B * dt, 1
        flow = scipy.linalg.expm(joint)
        step, held, ramp = flow[:n, :n], flow[:n, n], flow[:n, n + 1]
        before, after = (held - ramp, ramp) if method == "foh" else (held, 0 * held)
    else:
        raise ValueError(f"method = {method!r}: expected 'bilinear', 'foh', 'zoh' or 's4'")
    return Discrete(jnp.asarray(step), jnp.asarray(before), jnp.asarray(after))


def scan_states(
    discrete: Discrete, f: Float[Array, " t"], c0: Float[Array, " n"] | None = None
) -> Float[Array, "t n"]:
    """The states c_0, …, c_{t−1} of a discrete model, one sample after the other.

    **Arguments:**

    - `f`: samples at distance Δ. `c0`: the state at the first one, by default 0.

    **Returns:** the states at the samples' times.
    """
    start = jnp.zeros_like(discrete.B0, dtype=jnp.result_type(discrete.B0, f)) if c0 is None else c0

    def step(c: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        now, after = pair
        c = discrete.A @ c + discrete.B0 * now + discrete.B1 * after
        return c, c

    _, cs = jax.lax.scan(step, start, (f[:-1], f[1:]))
    return jnp.concatenate([start[None], cs])


def convolve_states(discrete: Discrete, f: Float[Array, " t"]) -> Float[Array, "t n"]:
    """The same states from c₀ = 0, as convolutions with A^k B₀ and A^k B₁, by FFT.

    O(t log t) in parallel. Powers of A are made by repeated squaring; their rounding is that of a
    stable A.
    """
    t = f.shape[0]
    kernels = _powers(discrete.A, jnp.stack([discrete.B0, discrete.B1]), t - 1)
    size = 2 * t
    spectrum = jnp.fft.rfft(kernels, size, axis=0)
    signals = jnp.stack([jnp.fft.rfft(f[:-1], size), jnp.fft.rfft(f[1:], size)], -1)
    cs = jnp.fft.irfft(jnp.sum(spectrum * signals[..., None], 1), size, axis=0)[: t - 1]
    return jnp.concatenate([jnp.zeros_like(cs[:1]), cs])


def _powers(A: Float[Array, "n n"], b: Float[Array, "k n"], count: int) -> Float[Array, "t k n"]:
    """A^j b for j < count, doubling."""
    rows, power = b[None], A
    while rows.shape[0] < count:
        rows = jnp.concatenate([rows, rows @ power.T])
        power = power @ power
    return rows[:count]


class Prophecy(eqx.Module):
    """Derivative and next value of a signal by fixed HiPPO matrices, with nothing trained.

    f' = C c + D f, with C = gᵀA and D = gᵀB of the readout g; the next value solves the trapezoidal
    rule f₊ = f + Δ/2 (f' + f'₊). As f'₊ = C c₊ + D f₊ and c₊ = Ā c + B₀ f + B₁ f₊ are linear in f₊,
    it is solved exactly:

        f₊ = (f + Δ/2 (C c + D f + C (Ā c + B₀ f)))/(1 − Δ/2 (D + C B₁)).

    With the bilinear step this says f₊ − f = gᵀ(c₊ − c), so that there is no error of Δ: f₊ is as
    good as the n functions are for the past. The derivative has its error of Δ².

    - `measure`, `n`, `theta`: as for `hippo`; `"legt"`, or `"fout"` for signals of period θ only.
        `"legs"` has matrices that change with time, and is not offered. Good values: θ of about a
        period of the fastest oscillation and n = 17; more oscillations need more n.
    - `dt`: Δ.
    - `method`: as for `discretize`.
    - `implicit`: `False` is the paper's rule, which takes c for c₊ in f'₊.

    What comes before the first sample counts as constant, and is forgotten after the window θ, or
    a few. Noise is amplified by D ~ n²/θ in the derivative. Use double precision for small errors.

    arXiv:2407.09375 (there `method="s4", implicit=False`).

    **Raises:** `ValueError` for what `hippo` and `discretize` refuse, for `"legs"`, and where the
    denominator is not positive: with `implicit=False` that is n² Δ/(2θ) ≥ 1.
    """

    C: Float[Array, " n"]
    D: Float[Array, ""]
    discrete: Discrete
    dt: float = eqx.field(static=True)
    theta: float = eqx.field(static=True)
    implicit: bool = eqx.field(static=True)

    def __init__(
        self,
        measure: Literal["legt", "fout"],
        n: int,
        theta: float,
        dt: float,
        *,
        method: Method = "bilinear",
        implicit: bool = True,
    ):
        if measure not in ("legt", "fout"):
            raise ValueError(f"measure = {measure!r}: expected 'legt' or 'fout'")
        A, B, readout = hippo(measure, n, theta)
        C, D = readout @ A, float(readout @ B)
        discrete = discretize(A, B, dt, method)
        gain = D + (float(C @ np.asarray(discrete.B1, float)) if implicit else 0.0)
        if dt / 2 * gain >= 1:
            raise ValueError(
                f"dt = {dt}: expected less than {2 / gain:.3g} for n = {n}, theta = {theta}, where "
                "the prediction's denominator changes its sign"
            )
        self.C, self.D, self.discrete = jnp.asarray(C), jnp.asarray(D), discrete
        self.dt, self.theta, self.implicit = dt, theta, implicit

    def states(self, f: Float[Array, " t"]) -> Float[Array, "t n"]:
        """The coefficients at each sample, from those of a constant past.

        **Raises:** `ValueError` for a signal that is shorter than the window.
        """
        if (f.shape[0] - 1) * self.dt < self.theta:
            raise ValueError(
                f"f: expected more than theta/dt = {self.theta / self.dt:g} samples, "
                f"got {f.shape[0]}"
            )
        # The first function is 1 in both bases.
        return scan_states(self.discrete, f, jnp.zeros_like(self.C).at[0].set(f[0]))

    def derivative(self, f: Float[Array, " t"]) -> Float[Array, " t"]:
        """The derivative at each sample, from the samples up to it."""
        return self.states(f) @ self.C + self.D * f

    def __call__(self, f: Float[Array, " t"]) -> Float[Array, " t"]:
        """The value that follows each sample, predicted from the samples up to it."""
        c = self.states(f)
        half, slope = self.dt / 2, c @ self.C + self.D * f
        if not self.implicit:
            return (f + half * (slope + c @ self.C)) / (1 - half * self.D)
        ahead = c @ (self.discrete.A.T @ self.C) + (self.C @ self.discrete.B0) * f
        return (f + half * (slope + ahead)) / (1 - half * (self.D + self.C @ self.discrete.B1))
