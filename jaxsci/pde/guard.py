"""A guard around any stepper: a rollout that diverges stops, and says at which step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from .stepper import AbstractStepper, rollout


class GuardState(NamedTuple):
    """The state within, the largest value that is let through, and how far the rollout went."""

    inner: PyTree
    bound: Float[Array, ""]
    good_steps: Int[Array, ""]
    alive: Bool[Array, ""]


class Guard(AbstractStepper):
    """A stepper that stands still, instead of going on, from the step that would diverge.

        diverged:   max |u| is not finite,  or  max |u| > growth · max |u⁰|

    From then on the state is the last good one and the stepper within is not called any more (under
    `jax.vmap` it is called and its result thrown away), so no NaN comes into being. It is a stepper
    like any other: `rollout(Guard(stepper), ...)`. `guarded_rollout` also tells the step.

    **Arguments:**

    - `stepper`: any `AbstractStepper`.
    - `growth`: how much larger than the initial field's largest value a field may become; 100 is
      far beyond what a wave or a shock does. `inf` looks for NaN and infinity alone. It may be an
      array: changing it recompiles nothing. A zero initial field sets no bound.

    **Raises:** `TypeError` if `stepper` is no stepper, `ValueError` if `growth` is not positive.
    """

    stepper: AbstractStepper
    growth: float | Float[Array, ""] = 100.0

    def __check_init__(self):
        if not isinstance(self.stepper, AbstractStepper):
            raise TypeError(f"Guard: expected an AbstractStepper, got {self.stepper!r}")
        if isinstance(self.growth, int | float) and not self.growth > 0:
            raise ValueError(f"Guard: growth must be positive, got {self.growth}")

    def init(self, u0: Float[Array, "c *grid"], args: Any = None) -> GuardState:
        """The state within, and the bound that `u0` sets."""
        largest = jnp.max(jnp.abs(u0))
        bound = jnp.where(largest > 0, self.growth * largest, jnp.inf)
        inner = jax.tree.map(jnp.asarray, self.stepper.init(u0, args))
        return GuardState(inner, bound, jnp.asarray(0, jnp.int32), jnp.all(jnp.isfinite(u0)))

    def step(
        self, state: GuardState, args: Any = None, *, key: PRNGKeyArray | None = None
    ) -> GuardState:
        """One step, if none has diverged so far."""

        def advance(inner):
            new = self.stepper.step(inner, args, key=key)
            field = self.stepper.output(new)
            # A NaN compares as false.
            good = jnp.max(jnp.abs(field)) <= state.bound
            good = good & jnp.all(jnp.isfinite(field))
            return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, inner), good

        inner, good = jax.lax.cond(
            state.alive, advance, lambda inner: (inner, jnp.asarray(False)), state.inner
        )
        return GuardState(inner, state.bound, state.good_steps + good.astype(jnp.int32), good)

    def output(self, state: GuardState) -> Float[Array, "c *grid"]:
        """The field of the last good state."""
        return self.stepper.output(state.inner)


class GuardedRollout(NamedTuple):
    """What `guarded_rollout` returns.

    - `frames`: as `rollout`'s; from the step that diverged on, the last good one repeated.
    - `good_steps`: how many steps were taken; `n_steps` if all were good. Step number `good_steps`,
      counted from 0, is the one that diverged.
    """

    frames: Float[Array, "n c *grid"]
    good_steps: Int[Array, ""]


class _Reporting(AbstractStepper):
    """A guard whose output carries the count of good steps along."""

    guard: Guard

    def init(self, u0, args=None):
        return self.guard.init(u0, args)

    def step(self, state, args=None, *, key=None):
        return self.guard.step(state, args, key=key)

    def output(self, state: GuardState) -> Any:
        return self.guard.output(state), state.good_steps


def guarded_rollout(
    stepper: AbstractStepper,
    u0: Float[Array, "c *grid"],
    n_steps: int,
    args: Any = None,
    *,
    growth: float | Float[Array, ""] = 100.0,
    key: PRNGKeyArray | None = None,
    every: int = 1,
) -> GuardedRollout:
    """`rollout` that stops at the step that diverges, and reports it.

    Compiled like `rollout`, without recompilation whatever happens: the remaining steps are
    skipped, not computed (computed and thrown away under `jax.vmap`).

    ```python
    frames, good_steps = guarded_rollout(model, u0, 1000)
    if good_steps < 1000:
        print(f"diverged at step {good_steps}")
    ```

    **Arguments:** `growth` as in `Guard`, the others as in `rollout`.

    **Returns:** a `GuardedRollout`.

    **Raises:** as `Guard` and `rollout`.
    """
    reported: Any = rollout(
        _Reporting(Guard(stepper, growth)), u0, n_steps, args, key=key, every=every
    )
    frames, counts = reported
    return GuardedRollout(frames, counts[-1])
