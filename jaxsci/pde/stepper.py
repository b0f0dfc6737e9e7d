"""Time steppers and the one loop that drives them: classical solvers and learned ones alike."""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

if TYPE_CHECKING:
    import exponax


class AbstractStepper(eqx.Module):
    """A map that advances a field by one step, u(t) ↦ u(t + Δt).

    The loop `rollout` calls `init` once, `step` for each step, and `output` on what it records. A
    stepper that works on the field itself implements `step` alone; one that keeps something else
    between steps (Fourier coefficients, a history, a hidden state) also says how to enter and
    leave that state. `args` is whatever the equation depends on (parameters, forcing), passed
    unchanged to every call; `key` is a fresh random key for each step, or `None`.
    """

    def init(self, u0: Float[Array, "c *grid"], args: Any = None) -> PyTree:
        """The state that represents the field `u0`; by default the field itself."""
        del args
        return u0

    @abc.abstractmethod
    def step(self, state: PyTree, args: Any = None, *, key: PRNGKeyArray | None = None) -> PyTree:
        """The state one step later, of the same structure, shapes and types."""

    def output(self, state: PyTree) -> Float[Array, "c *grid"]:
        """The field that a state represents; by default the state itself."""
        return state


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"rollout: {name} must be a positive integer, got {value!r}")


def rollout(
    stepper: AbstractStepper,
    u0: Float[Array, "c *grid"],
    n_steps: int,
    args: Any = None,
    *,
    key: PRNGKeyArray | None = None,
    every: int = 1,
    include_initial: bool = False,
    remat: bool = False,
    stop_gradient_every: int | None = None,
) -> Float[Array, "n c *grid"]:
    """The trajectory u₁, u₂, … from u₀ by uₖ₊₁ = step(uₖ), compiled as one `jax.lax.scan`.

    An ensemble is a `jax.vmap` over `u0` (and `key`, `args`).

    **Arguments:**

    - `stepper`: an `AbstractStepper`.
    - `u0`: the initial field, channels first, without a batch axis.
    - `n_steps`: the number of steps.
    - `args`: passed to every `init` and `step`.
    - `key`: if given, step k receives `jax.random.fold_in(key, k)`: a key of its own, the same
        whatever `n_steps` and `every` are.
    - `every`: record one frame each so many steps; must divide `n_steps`. Steps in between are
        not stored.
    - `include_initial`: whether `u0` is the first frame.
    - `remat`: recompute each recorded stretch in the backward pass instead of storing its inside.
        With `every=m` memory falls from `n_steps` to `n_steps/m + m` states.
    - `stop_gradient_every`: cut the gradient through the state each so many steps (truncated
        backpropagation); the values are unchanged. `u0` itself is never cut.

    **Returns:** the frames, stacked along a new first axis of length
    `n_steps // every + include_initial`.

    **Raises:** `TypeError` if `stepper` is no `AbstractStepper` (wrap a plain function in
    `FunctionStepper`, or an exponax stepper in `ExponaxStepper`); `ValueError` for counts that are
    not positive or do not divide, or a step that changes the state's structure, shapes or types.
    """
    if not isinstance(stepper, AbstractStepper):
        raise TypeError(
            f"rollout: expected an AbstractStepper, got {type(stepper).__name__}; wrap a function "
            "u -> u in FunctionStepper and an exponax stepper in ExponaxStepper"
        )
    _check_count("n_steps", n_steps)
    _check_count("every", every)
    if n_steps % every:
        raise ValueError(f"rollout: every={every} does not divide n_steps={n_steps}")
    if stop_gradient_every is not None:
        _check_count("stop_gradient_every", stop_gradient_every)

    u0 = jnp.asarray(u0)
    state0 = stepper.init(u0, args)

    def advance(state, index):
        if stop_gradient_every is not None:
            cut = (index > 0) & (index % stop_gradient_every == 0)
            state = jax.tree.map(lambda x: jnp.where(cut, jax.lax.stop_gradient(x), x), state)
        step_key = None if key is None else jax.random.fold_in(key, index)
        return stepper.step(state, args, key=step_key)

    _check_step(advance, state0)

    def stretch(state, frame):
        first = frame * every
        if every == 1:
            return advance(state, first)
        steps = first + jnp.arange(every)
        return jax.lax.scan(lambda s, index: (advance(s, index), None), state, steps)[0]

    if remat:
        stretch = jax.checkpoint(stretch)

    def body(state, frame):
        state = stretch(state, frame)
        return state, stepper.output(state)

    _, frames = jax.lax.scan(body, state0, jnp.arange(n_steps // every))
    if include_initial:
        frames = jnp.concatenate([u0[None].astype(frames.dtype), frames])
    return frames


def _check_step(advance: Callable, state: PyTree) -> None:
    """A step must return the kind of state that it was given; says so before `scan` does."""
    before = jax.eval_shape(lambda s: s, state)
    after = jax.eval_shape(advance, state, jnp.asarray(0))

    def kind(tree):
        return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]

    if kind(before) != kind(after):
        raise ValueError(
            "rollout: step must return a state of the same structure, shapes and types as init's; "
            f"got {jax.tree.map(str, after)} from {jax.tree.map(str, before)}"
        )


class FunctionStepper(AbstractStepper):
    """A plain function u ↦ u(t + Δt) as a stepper; a callable module keeps its parameters."""

    function: Callable[[Array], Array]

    def __check_init__(self):
        if not callable(self.function):
            raise TypeError(f"FunctionStepper: expected a callable, got {self.function!r}")

    def step(self, state: PyTree, args: Any = None, *, key: PRNGKeyArray | None = None) -> PyTree:
        """`function(state)`; `args` and `key` are not used."""
        del args, key
        return self.function(state)


class ExponaxStepper(AbstractStepper):
    """Any exponax stepper in this package's loop.

    Semi-linear equations uₜ = ℒu + 𝒩(u) with periodic boundaries, by exponential time differencing
    Runge-Kutta methods (Cox and Matthews 2002; Kassam and Trefethen 2005).

    ```python
    heat = ExponaxStepper(exponax.stepper.Diffusion(1, 1.0, 64, dt=0.01, diffusivity=0.1))
    frames = rollout(heat, u0, 100)
    ```
    """

    stepper: "exponax.BaseStepper | Callable[[Array], Array]"
    fourier: bool = eqx.field(static=True)

    def __init__(
        self, stepper: "exponax.BaseStepper | Callable[[Array], Array]", *, fourier: bool = False
    ):
        """**Arguments:**

        - `stepper`: an exponax stepper (`u -> u`, also repeated or wrapped ones).
        - `fourier`: keep the state as Fourier coefficients between steps, which saves two
            transforms a step. Needs `step_fourier`, which every `exponax.BaseStepper` has.

        **Raises:** `TypeError` if `stepper` is not callable or, with `fourier`, lacks
        `step_fourier`.
        """
        if not callable(stepper):
            raise TypeError(f"ExponaxStepper: expected a callable stepper, got {stepper!r}")
        if fourier and not (hasattr(stepper, "step_fourier") and hasattr(stepper, "num_points")):
            raise TypeError(
                "ExponaxStepper: fourier=True needs a stepper with step_fourier, "
                f"got {type(stepper).__name__}"
            )
        self.stepper = stepper
        self.fourier = fourier

    def init(self, u0: Float[Array, "c *grid"], args: Any = None) -> PyTree:
        """The field, or its real Fourier transform.

        **Raises:** `ValueError` if the field's shape is not the stepper's.
        """
        del args
        if not self.fourier:
            return u0
        base: Any = self.stepper
        expected = (base.num_channels,) + (base.num_points,) * base.num_spatial_dims
        if u0.shape != expected:
            raise ValueError(f"ExponaxStepper: u0 has shape {u0.shape}, expected {expected}")
        return jnp.fft.rfftn(u0, axes=tuple(range(1, u0.ndim)))

    def step(self, state: PyTree, args: Any = None, *, key: PRNGKeyArray | None = None) -> PyTree:
        """One step of the exponax stepper; `args` and `key` are not used."""
        del args, key
        base: Any = self.stepper
        return base.step_fourier(state) if self.fourier else base(state)

    def output(self, state: PyTree) -> Float[Array, "c *grid"]:
        """The field in physical space."""
        if not self.fourier:
            return state
        base: Any = self.stepper
        shape = (base.num_points,) * base.num_spatial_dims
        return jnp.fft.irfftn(state, s=shape, axes=tuple(range(1, state.ndim)))
