"""PDE-Refiner: a time step that is predicted, then refined by removing less and less noise.

    y = (uⁿ⁺¹ - uⁿ)/w,    β_t = β_min^{(K-t)/K},  t = 0 … K,    ᾱ_t = Π_{s≤t} (1 - β_s)

The noisiest level t = K has ᾱ_K = 0: nothing of y is left, and the network there is an ordinary
one-step prediction. Each following level sees the prediction with noise of the next smaller size,
√(1 - ᾱ_t), and so learns what lies below it: amplitudes that a mean square error hardly feels.
"""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxsci.pde import AbstractStepper

from .recipes import Recipe, cut_window
from .stepping import check_count

Form = Literal["v", "eps"]


class RefinerTables:
    """The numbers of each level, in float64 on the host: 1 - ᾱ_0 = 4e-7 is 3 ulp of float32's 1.

    `signal` √ᾱ_t, `noise` √(1 - ᾱ_t); the step from level t to t - 1 of denoising diffusion,
    y_{t-1} = `clean`_t x₀ + `keep`_t y_t + `spread`_t z.
    """

    def __init__(self, steps: int, min_noise: float):
        beta = min_noise ** ((steps - np.arange(steps + 1)) / steps)
        with np.errstate(divide="ignore"):
            log_alpha = np.log1p(-beta)  # -inf at t = K, where beta is one
        log_bar = np.cumsum(log_alpha)
        lost = -np.expm1(log_bar)  # 1 - ᾱ
        before, lost_before = np.exp(log_bar[:-1]), lost[:-1]
        self.signal, self.noise = np.exp(log_bar / 2), np.sqrt(lost)
        zero = np.zeros(1)
        self.clean = np.concatenate([zero, np.sqrt(before) * beta[1:] / lost[1:]])
        self.keep = np.concatenate([zero, np.exp(log_alpha[1:] / 2) * lost_before / lost[1:]])
        self.spread = np.concatenate([zero, np.sqrt(beta[1:] * lost_before / lost[1:])])


class Refiner(AbstractStepper):
    """PDE-Refiner as a time stepper: one prediction, and K refinements of it.

    Form "v" (the authors' final version), for t = K, …, 0 from y_K ~ N(0, I):

        v = net([uⁿ, y_t], t),    x₀ = √ᾱ_t y_t - √(1 - ᾱ_t) v
        y_{t-1} = c⁰_t x₀ + cᵗ_t y_t + s_t z,    uⁿ⁺¹ = uⁿ + w x₀ (of t = 0)

    Form "eps" (the paper's text), with σ_k = β_min^{k/2K}, for k = 1, …, K:

        y = net([uⁿ, 0], K),    y ← (y + σ_k z) - σ_k net([uⁿ, y + σ_k z], K - k)

    A step draws random numbers and needs a key; an ensemble of steps is a `jax.vmap` over keys and
    its spread an estimate of the error. Train it with `refinement()`, or `refiner_loss`.

    **Arguments:**

    - `net`: called as `net(x, cond=level)` with x of 2c channels (uⁿ, y) and the level
      1000 t / K, a scalar, for a time embedding: `UNet(..., embed=TimeEmbedding(...))`. With
      `args` (parameters) it gets `cond=(level, *args)` for a tuple, else `cond=(level, args)`, as
      `SumEmbedding` takes them.
    - `steps`: K, the number of refinements. Good values: 3 or 4; 0 is not possible.
    - `min_noise`: β_min, a variance: the smallest noise is √β_min. 4e-7 for float32 data of
      standard deviation one; two to three decades more for noisy data.
    - `difference_weight`: w, the typical size of uⁿ⁺¹ - uⁿ in units of u. The paper's data has 0.3.
    - `form`: "v" or "eps".

    **Raises:** `ValueError` for K < 1, `min_noise` outside (0, 1), w that is not positive, an
    unknown form, or a step without a key; `TypeError` if `net` is not callable.

    Reference: Lippe et al., arXiv:2308.05732.
    """

    net: Callable[..., Array]
    steps: int = eqx.field(static=True, default=3)
    min_noise: float = eqx.field(static=True, default=4e-7)
    difference_weight: float = eqx.field(static=True, default=0.3)
    form: Form = eqx.field(static=True, default="v")

    def __check_init__(self):
        if not callable(self.net):
            raise TypeError(f"Refiner: net must be callable, got {self.net!r}")
        check_count("Refiner: steps", self.steps)
        if not 0 < self.min_noise < 1:
            raise ValueError(f"Refiner: min_noise must lie in (0, 1), got {self.min_noise}")
        if not self.difference_weight > 0:
            raise ValueError(
                f"Refiner: difference_weight must be positive, got {self.difference_weight}"
            )
        if self.form not in ("v", "eps"):
            raise ValueError(f"Refiner: form must be 'v' or 'eps', got {self.form!r}")

    @property
    def tables(self) -> RefinerTables:
        """The coefficients of the levels."""
        return RefinerTables(self.steps, self.min_noise)

    def evaluate(
        self,
        u: Float[Array, "c *grid"],
        y: Float[Array, "c *grid"],
        level: int | Int[Array, ""],
        args: Any = None,
    ) -> Float[Array, "c *grid"]:
        """The network at a level t, from K (noise alone) to 0."""
        time = jnp.asarray(level, u.dtype) * (1000 / self.steps)
        cond = time
        if args is not None:
            cond = (time, *args) if isinstance(args, tuple) else (time, args)
        return self.net(jnp.concatenate([u, y]), cond=cond)

    def refine(
        self, u: Float[Array, "c *grid"], noise: Float[Array, "K+1 c *grid"], args: Any = None
    ) -> Float[Array, "c *grid"]:
        """The next field for given noise: first of the start y_K (form "v"), then of each level."""
        table, k = self.tables, self.steps
        if noise.shape != (k + 1, *u.shape):
            raise ValueError(
                f"Refiner: noise must have shape {(k + 1, *u.shape)}, got {noise.shape}"
            )
        # One level after the other in a loop: the network is compiled once.
        if self.form == "v":
            rows = np.stack([table.signal, table.noise, table.clean, table.keep, table.spread], 1)
            last = jnp.zeros_like(noise[:1])

            def body(y, step):
                level, (signal, lost, clean, keep, spread), z = step
                x0 = signal * y - lost * self.evaluate(u, y, level, args)
                return clean * x0 + keep * y + spread * z, x0

            levels = np.arange(k, -1, -1)
            inputs = (levels, jnp.asarray(rows[::-1], u.dtype), jnp.concatenate([noise[1:], last]))
            _, found = jax.lax.scan(body, noise[0], inputs)
            return u + self.difference_weight * found[-1]

        def refine_once(y, step):
            level, size, z = step
            noisy = y + size * z
            return noisy - size * self.evaluate(u, noisy, level, args), None

        first = self.evaluate(u, jnp.zeros_like(u), k, args)
        sizes = jnp.asarray(self._sizes(), u.dtype)
        y, _ = jax.lax.scan(refine_once, first, (np.arange(k - 1, -1, -1), sizes, noise[1:]))
        return u + self.difference_weight * y

    def step(
        self, state: Float[Array, "c *grid"], args: Any = None, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "c *grid"]:
        """The next field, with noise drawn from `key`."""
        if key is None:
            raise ValueError("Refiner: a step needs a key (rollout(..., key=key))")
        noise = jr.normal(key, (self.steps + 1, *state.shape), state.dtype)
        return self.refine(state, noise, args)

    def _sizes(self) -> np.ndarray:
        """σ_1 … σ_K of the form "eps"."""
        return self.min_noise ** (np.arange(1, self.steps + 1) / (2 * self.steps))


def refiner_loss(
    refiner: Refiner,
    u_prev: Float[Array, "c *grid"],
    u_next: Float[Array, "c *grid"],
    args: Any = None,
    *,
    key: PRNGKeyArray,
) -> Float[Array, ""]:
    """The mean square error of one level, drawn uniformly from t = 0 … K.

        y_t = √ᾱ_t y + √(1 - ᾱ_t) ε,    ‖ net([uⁿ, y_t], t) - (√ᾱ_t ε - √(1 - ᾱ_t) y) ‖²      "v"
        ‖ net([uⁿ, 0], K) - y ‖²,  or  ‖ net([uⁿ, y + σ_k ε], K - k) - ε ‖²                 "eps"

    **Arguments:** the stepper; two consecutive fields; the parameters; a key.

    **Raises:** `ValueError` if the fields' shapes differ.
    """
    if u_prev.shape != u_next.shape:
        raise ValueError(
            f"refiner_loss: u_prev and u_next must have equal shapes, got {u_prev.shape} and "
            f"{u_next.shape}"
        )
    level_key, noise_key = jr.split(key)
    k = refiner.steps
    level = jr.randint(level_key, (), 0, k + 1)
    eps = jr.normal(noise_key, u_next.shape, u_next.dtype)
    y = (u_next - u_prev) / refiner.difference_weight
    if refiner.form == "v":
        table = refiner.tables
        signal = jnp.asarray(table.signal, y.dtype)[level]
        lost = jnp.asarray(table.noise, y.dtype)[level]
        noisy, target = signal * y + lost * eps, signal * eps - lost * y
    else:
        # By level: K the prediction, K - k the k-th refinement.
        size = jnp.asarray([*refiner._sizes()[::-1], 0.0], y.dtype)[level]
        predicts = level == k
        noisy = jnp.where(predicts, 0.0, y + size * eps)
        target = jnp.where(predicts, y, eps)
    return jnp.mean((refiner.evaluate(u_prev, noisy, level, args) - target) ** 2)


def refinement() -> Recipe:
    """`refiner_loss` as a recipe, for windows of two frames or more.

    **Raises:** `TypeError` if the stepper is no `Refiner`, `ValueError` without a key.
    """

    def recipe(stepper, window, cond=None, *, key=None, progress=1.0):
        if not isinstance(stepper, Refiner):
            raise TypeError(f"refinement: expected a Refiner, got {type(stepper).__name__}")
        if key is None:
            raise ValueError("refinement: needs a key for the level and the noise")
        del progress
        key, loss_key = jr.split(key)
        (u_prev, u_next), _ = cut_window(window, 2, key, "refinement")
        return refiner_loss(stepper, u_prev, u_next, cond, key=loss_key), {}

    return recipe
