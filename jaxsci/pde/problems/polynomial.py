"""Random equations with polynomial reaction and flux, PDEformer's training data."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..etdrk import ETDRK4
from ..grid import Grid
from ..stepper import rollout
from .dataset import Progress, check_count, solve_in_chunks
from .trajectories import TrajectorySet

_NUMBERS_AT_ONCE = 2**20
# Draws for each sample that is wanted; the rest are those that blow up.
_SPARE = 1.5


class PolynomialEquations(eqx.Module):
    """Trajectories of u_t + f₀(u) + (f₁(u) − ν u_x)_x = 0, periodic on [−1, 1), 0 ≤ t ≤ 1.

        f_i(u) = Σ_{1 ≤ k ≤ degree} c_ik u^k,   c_ik = 0 or from U(−3, 3), each with probability ½
        log ν uniform in its range;  u(0, x) = Σ_{j ≤ 2} A_j sin(π n_j x + φ_j)

    with A ~ U(0, 1), n ∈ {1 … wavenumbers}, φ ~ U(0, 2π). If the flux is linear, ν is 0 in half of
    the equations. What exceeds 10 anywhere is drawn again, as in the paper: of the equations that
    blow up, none is left. (There initial values are PDEBench's, which have kinks now and then.)

    A trajectory's parameters are (c₀₁ … c₀d, c₁₁ … c₁d, ν).

    **Arguments:**

    - `degree`: of the polynomials; the paper's is 3.
    - `viscosity`: least and largest ν; the paper's are 1e-3 and 1, which `resolution` has to bear:
        fronts are as thin as ν over the jump of the flux's slope. See `accuracy`.
    - `wavenumbers`: largest n. `resolution`: points. `n_frames`: recorded after u(0).
    - `substeps`: of the solver, `ETDRK4`, between frames.

    **Raises:** `ValueError`, `TypeError` for numbers out of range.

    Reference: Ye et al., arXiv:2402.12652.
    """

    degree: int = eqx.field(default=3, static=True)
    viscosity: tuple[float, float] = eqx.field(default=(1e-3, 1.0), static=True)
    wavenumbers: int = eqx.field(default=4, static=True)
    resolution: int = eqx.field(default=256, static=True)
    n_frames: int = eqx.field(default=100, static=True)
    substeps: int = eqx.field(default=25, static=True)

    def __check_init__(self):
        for name in ("degree", "wavenumbers", "resolution", "n_frames", "substeps"):
            check_count(f"PolynomialEquations: {name}", getattr(self, name))
        low, high = self.viscosity
        if not 0 < low <= high < math.inf:
            raise ValueError(
                f"PolynomialEquations: viscosity must be (least, largest), positive, got "
                f"{self.viscosity}"
            )

    @property
    def version(self) -> str:
        """Identifies the numbers that `generate` returns."""
        return "polynomial-1"

    @property
    def grid(self) -> Grid:
        """The points x."""
        return Grid(-1.0, 1.0, self.resolution, periodic=True)

    @property
    def dt(self) -> float:
        """The time between frames."""
        return 1.0 / self.n_frames

    def sample(self, key: PRNGKeyArray) -> tuple[Float[Array, " x"], Float[Array, " p"]]:
        """An initial value, and the parameters of an equation."""
        keys = jr.split(key, 7)
        present = jr.bernoulli(keys[0], 0.5, (2, self.degree))
        c = jnp.where(present, jr.uniform(keys[1], present.shape, minval=-3, maxval=3), 0.0)
        low, high = (math.log(v) for v in self.viscosity)
        nu = jnp.exp(jr.uniform(keys[2], minval=low, maxval=high))
        linear = jnp.all(c[1, 1:] == 0)
        nu = jnp.where(linear & jr.bernoulli(keys[3]), 0.0, nu)
        a = jr.uniform(keys[4], (2, 1))
        n = jr.randint(keys[5], (2, 1), 1, self.wavenumbers + 1)
        phase = jr.uniform(keys[6], (2, 1), maxval=2 * jnp.pi)
        x = jnp.asarray(self.grid.coords()[0])
        u0 = jnp.sum(a * jnp.sin(jnp.pi * n * x + phase), 0)
        return u0, jnp.concatenate([c.ravel(), nu[None]])

    def solve(
        self, u0: Float[Array, " x"], theta: Float[Array, " p"], *, dt: float | None = None
    ) -> Float[Array, "t x"]:
        """The frames from t = 0 on; pure. `dt`: between them, by default 1/`n_frames`.

        **Raises:** `ValueError` for parameters of another number.
        """
        if theta.shape != (2 * self.degree + 1,):
            raise ValueError(
                f"PolynomialEquations: expected {2 * self.degree + 1} parameters, got shape "
                f"{theta.shape}"
            )
        n = u0.shape[0]
        both = theta[:-1].reshape(2, self.degree)
        k = np.arange(n // 2 + 1)
        # The Nyquist mode has no odd derivative.
        kappa = jnp.asarray(np.pi * np.where(2 * k == n, 0, k), u0.dtype)
        linear = -both[0, 0] - 1j * kappa * both[1, 0] - theta[-1] * jnp.asarray(np.pi * k) ** 2
        # A product of `degree` factors needs so much room above to be free of aliases.
        kept = jnp.asarray((self.degree + 1) * k < n, u0.dtype)

        def nonlinear(u_hat):
            u = jnp.fft.irfft(u_hat * kept, n, axis=-1)
            # u² P(u) with the two polynomials P at once, by Horner's rule.
            total = jnp.zeros((2, 1), u.dtype)
            for c in both.T[:0:-1]:
                total = (total + c[:, None]) * u
            f0, f1 = jnp.fft.rfft(jnp.broadcast_to(total * u, (2, n)))
            return -(kept * (f0 + 1j * kappa * f1))[None]

        step = (self.dt if dt is None else dt) / self.substeps
        stepper = ETDRK4(linear, nonlinear, step, (n,))
        frames = rollout(
            stepper,
            u0[None],
            self.n_frames * self.substeps,
            every=self.substeps,
            include_initial=True,
        )
        return frames[:, 0]

    def generate(
        self,
        key: PRNGKeyArray,
        n: int,
        *,
        dtype: Any = np.float32,
        progress: Progress | None = None,
    ) -> TrajectorySet:
        """`n` trajectories that stay below 10, computed in double precision.

        **Arguments:** as for every problem; the draws depend on `fold_in(key, i)` alone.

        **Returns:** frames "n t 1 x", and `cond` the parameters "n p".

        **Raises:** `ValueError`, `TypeError` for a bad `n` or `dtype`; `FloatingPointError` if too
        few of 1.5 n trajectories stay below 10.
        """
        check_count("n", n)

        def one(key):
            u0, theta = self.sample(key)
            frames = self.solve(u0, theta)
            below = jnp.all(jnp.abs(frames) <= 10)  # false for what is not finite
            return jnp.where(below, frames, 0.0), theta, below.astype(frames.dtype)

        chunk = max(1, _NUMBERS_AT_ONCE // (self.resolution * self.n_frames))
        draws = math.ceil(_SPARE * n)
        frames, theta, below = solve_in_chunks(
            one, key, draws, chunk=chunk, dtype=dtype, progress=progress
        )
        index = np.flatnonzero(below)[:n]
        if len(index) < n:
            raise FloatingPointError(
                f"PolynomialEquations: {len(index)} of {draws} trajectories stay below 10, "
                f"expected {n}"
            )
        return TrajectorySet(frames[index][:, :, None], theta[index], self.grid, self.dt)

    def accuracy(self, key: PRNGKeyArray, n: int) -> dict[str, float]:
        """Relative L² distance of the last frames from those with Δt and with Δx halved.

        **Returns:** `halved_dt_median`, `halved_dt_max`, `halved_dx_median`, `halved_dx_max`, over
        those that stay below 10.
        """
        fine_t = dataclasses.replace(self, substeps=2 * self.substeps)
        fine_x = dataclasses.replace(self, resolution=2 * self.resolution)

        def one(key):
            _, theta = self.sample(key)
            last = [
                p.solve(p.sample(key)[0], theta)[:, :: p.resolution // self.resolution]
                for p in (self, fine_t, fine_x)
            ]
            below = jnp.all(jnp.abs(jnp.stack(last)) <= 10)  # false for what is not finite
            return tuple(jnp.where(below, u[-1], 0.0) for u in last)

        chunk = max(1, _NUMBERS_AT_ONCE // (self.resolution * self.n_frames))
        base, *others = solve_in_chunks(one, key, n, chunk=chunk, dtype=np.float64)
        keep = np.any(base != 0, 1)
        errors = {}
        for name, fine in zip(("halved_dt", "halved_dx"), others, strict=True):
            distance = np.linalg.norm((base - fine)[keep], axis=1)
            relative = distance / np.linalg.norm(fine[keep], axis=1)
            errors[f"{name}_median"] = float(np.median(relative))
            errors[f"{name}_max"] = float(relative.max())
        return errors
