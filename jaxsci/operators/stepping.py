"""Learned time steppers: an operator as a step in time, with a history and bundles of frames.

    one frame      uⁿ⁺¹ = F(uⁿ)                                  `LearnedStepper`
    k in, b out    (uⁿ⁺¹, …, uⁿ⁺ᵇ) = F(uⁿ⁻ᵏ⁺¹, …, uⁿ)            `AbstractHistoryStepper`, `Bundled`

Both are `jaxsci.pde.AbstractStepper`s, so `jaxsci.pde.rollout` and every recipe of
`jaxsci.operators.recipes` drive them as they drive a classical solver. A stepper with a history is
started from k frames, `"k c *grid"`, keeps the last max(k, b) frames as its state, and records b
frames a step. `forecast` hides the difference: k frames in, as many frames out as asked for.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxsci.pde import AbstractStepper, rollout


class AbstractHistoryStepper(AbstractStepper):
    """A stepper that sees k frames and predicts b at once.

        state  hⁿ = the last max(k, b) frames,    hⁿ⁺ᵇ = the last ones of (hⁿ, predict(k of hⁿ))
        output = the last b frames

    Until b frames have been predicted the oldest place of a state with b > k repeats the first
    frame; it is never read. A subclass has `n_history`, `n_bundle` and `predict`.
    """

    n_history: eqx.AbstractVar[int]
    n_bundle: eqx.AbstractVar[int]

    @abc.abstractmethod
    def predict(
        self,
        history: Float[Array, "k c *grid"],
        args: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b c *grid"]:
        """The b frames that follow the k frames of `history`."""

    def init(
        self, u0: Float[Array, "k c *grid"], args: Any = None
    ) -> Float[Array, "max_k_b c *grid"]:
        """The state whose last frames are the k frames `u0`.

        **Raises:** `ValueError` if there are not k frames.
        """
        del args
        if u0.ndim < 3 or u0.shape[0] != self.n_history:
            raise ValueError(
                f"{type(self).__name__}: expected {self.n_history} frames (k, c, *grid) to start "
                f"from, got shape {u0.shape}"
            )
        missing = max(0, self.n_bundle - self.n_history)
        return jnp.concatenate([jnp.repeat(u0[:1], missing, 0), u0]) if missing else u0

    def step(
        self,
        state: Float[Array, "max_k_b c *grid"],
        args: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "max_k_b c *grid"]:
        """The state b frames later.

        **Raises:** `ValueError` if `predict` returns another shape than (b, c, *grid).
        """
        new = self.predict(state[-self.n_history :], args, key=key)
        if new.shape != (self.n_bundle, *state.shape[1:]):
            raise ValueError(
                f"{type(self).__name__}: predict must return {self.n_bundle} frames of shape "
                f"{state.shape[1:]}, got {new.shape}"
            )
        return jnp.concatenate([state, new.astype(state.dtype)])[-state.shape[0] :]

    def output(self, state: Float[Array, "max_k_b c *grid"]) -> Float[Array, "b c *grid"]:
        """The b frames that were predicted last."""
        return state[-self.n_bundle :]


class LearnedStepper(AbstractStepper):
    """An operator as a step of one frame.

        uⁿ⁺¹ = F(uⁿ; args)               residual=None
        uⁿ⁺¹ = uⁿ + s F(uⁿ; args)        residual=s

    With a residual the network learns the change, which for a small time step is the easier
    target; s is its typical size (the standard deviation of uⁿ⁺¹ - uⁿ over that of u), so that the
    network's output is of order one.

    **Arguments:**

    - `operator`: called as `operator(u, cond=args)` if there are `args`, as `operator(u)` if there
      are none; `"c *grid"` to `"c *grid"`. Every operator of this package will do.
    - `residual`: s, or `None`.
    - `with_key`: whether `key=` is handed on, for operators that draw random numbers.

    **Raises:** `TypeError` if `operator` is not callable; `ValueError` if it changes the shape.
    """

    operator: Callable[..., Array]
    residual: float | None = eqx.field(static=True, default=None)
    with_key: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        _check_callable("LearnedStepper", self.operator)

    def step(
        self, state: Float[Array, "c *grid"], args: Any = None, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "c *grid"]:
        """The next frame."""
        new = _call(self.operator, state, args, key if self.with_key else None)
        if new.shape != state.shape:
            raise ValueError(
                f"LearnedStepper: the operator must keep the shape {state.shape}, got {new.shape}"
            )
        return (new if self.residual is None else state + self.residual * new).astype(state.dtype)


class Bundled(AbstractHistoryStepper):
    """An operator that reads k frames as channels and writes b frames as channels.

        (uⁿ⁺¹, …, uⁿ⁺ᵇ) = F([uⁿ⁻ᵏ⁺¹, …, uⁿ])              residual=None
        uⁿ⁺ˡ = uⁿ + s F([uⁿ⁻ᵏ⁺¹, …, uⁿ])_l                 residual=s

    Channels are ordered frame by frame: frame 0's c channels first. Temporal bundling (b > 1) calls
    the network b times less often, and errors feed back b times less often.

    **Arguments:**

    - `operator`: `"k*c *grid"` to `"b*c *grid"`, called as in `LearnedStepper`.
    - `n_history`: k. `n_bundle`: b.
    - `residual`: s, or `None`.
    - `with_key`: whether `key=` is handed on.

    **Raises:** `TypeError` if `operator` is not callable, `ValueError` for counts below 1 or an
    output with another number of channels than b c.

    Reference: Brandstetter, Worrall & Welling, arXiv:2202.03376 (temporal bundling).
    """

    operator: Callable[..., Array]
    n_history: int = eqx.field(static=True)
    n_bundle: int = eqx.field(static=True)
    residual: float | None = eqx.field(static=True)
    with_key: bool = eqx.field(static=True)

    def __init__(
        self,
        operator: Callable[..., Array],
        n_history: int = 1,
        n_bundle: int = 1,
        residual: float | None = None,
        with_key: bool = False,
    ):
        _check_callable("Bundled", operator)
        check_count("Bundled: n_history", n_history)
        check_count("Bundled: n_bundle", n_bundle)
        self.operator, self.residual, self.with_key = operator, residual, with_key
        self.n_history, self.n_bundle = n_history, n_bundle

    def predict(
        self,
        history: Float[Array, "k c *grid"],
        args: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b c *grid"]:
        """The next b frames."""
        k, c, *grid = history.shape
        new = _call(
            self.operator, history.reshape(k * c, *grid), args, key if self.with_key else None
        )
        if new.shape != (self.n_bundle * c, *grid):
            raise ValueError(
                f"Bundled: the operator must return {self.n_bundle} x {c} channels on the grid "
                f"{tuple(grid)}, got {new.shape}"
            )
        new = new.reshape(self.n_bundle, c, *grid)
        return new if self.residual is None else history[-1:] + self.residual * new


def window_sizes(stepper: AbstractStepper) -> tuple[int, int]:
    """(k, b): how many frames a stepper is started from, and how many it predicts a step.

    **Raises:** `TypeError` if it is no stepper.
    """
    if not isinstance(stepper, AbstractStepper):
        raise TypeError(
            f"stepper: expected an AbstractStepper, got {type(stepper).__name__}; wrap an operator "
            "in LearnedStepper, or in Bundled for several frames"
        )
    if isinstance(stepper, AbstractHistoryStepper):
        return stepper.n_history, stepper.n_bundle
    return 1, 1


def start(stepper: AbstractStepper, history: Float[Array, "k c *grid"], args: Any = None) -> PyTree:
    """The state of any stepper after the k frames `history`."""
    several = isinstance(stepper, AbstractHistoryStepper)
    return stepper.init(history if several else history[0], args)


def predicted(stepper: AbstractStepper, state: PyTree) -> Float[Array, "b c *grid"]:
    """The b frames that a step has led to, for any stepper."""
    out = stepper.output(state)
    return out if isinstance(stepper, AbstractHistoryStepper) else out[None]


def forecast(
    stepper: AbstractStepper,
    history: Float[Array, "k c *grid"],
    n_frames: int,
    args: Any = None,
    *,
    key: PRNGKeyArray | None = None,
    remat: bool = False,
) -> Float[Array, "n c *grid"]:
    """The `n_frames` frames that follow `history`, from any stepper.

    `jaxsci.pde.rollout` for steppers with and without a history: bundles are laid out one after
    the other, and the last one is cut where it has more frames than were asked for.

    **Arguments:**

    - `stepper`: an `AbstractStepper`.
    - `history`: the k frames that the stepper starts from; `(1, c, *grid)` for most.
    - `n_frames`: the length of the forecast.
    - `args`, `key`, `remat`: as in `rollout`.

    **Raises:** `TypeError` if it is no stepper, `ValueError` for another number of frames.
    """
    k, b = window_sizes(stepper)
    check_count("forecast: n_frames", n_frames)
    history = jnp.asarray(history)
    if history.ndim < 3 or history.shape[0] != k:
        raise ValueError(f"history: expected {k} frames (k, c, *grid), got shape {history.shape}")
    several = isinstance(stepper, AbstractHistoryStepper)
    steps = -(-n_frames // b)
    frames = rollout(stepper, history if several else history[0], steps, args, key=key, remat=remat)
    return frames.reshape(steps * b, *history.shape[1:])[:n_frames] if several else frames


def check_count(name: str, value: Any) -> None:
    """Raises `ValueError` unless `value` is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


def _check_callable(name: str, operator: Any) -> None:
    if not callable(operator):
        raise TypeError(f"{name}: operator must be callable, got {operator!r}")


def _call(operator: Callable, u: Array, args: Any, key: PRNGKeyArray | None) -> Array:
    options = {} if args is None else {"cond": args}
    return operator(u, **options) if key is None else operator(u, key=key, **options)
