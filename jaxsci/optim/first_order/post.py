"""A correction after another optimiser that still sees the raw gradient and the weights."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import optax
from jaxtyping import PyTree


class PostState(NamedTuple):
    """State of `post`: the inner optimiser's, and the correction's own."""

    inner: optax.OptState
    own: PyTree


def post(
    inner: optax.GradientTransformation,
    correct: Callable[[PyTree, PyTree, PyTree, PyTree], tuple[PyTree, PyTree]],
    init_own: Callable[[PyTree], PyTree] = lambda params: (),
) -> optax.GradientTransformationExtraArgs:
    """The update u = correct(inner(g), g, θ): in a chain, later parts do not know g.

    **Arguments:**

    - `inner`: any optax transformation, such as `optax.scale_by_adam()`.
    - `correct`: (update, gradient, params, own state) ↦ (update, own state).
    - `init_own`: params ↦ the correction's first state.

    **Returns:** an optax transformation with a `PostState`. **Raises:** `ValueError` if `update`
    gets no params.
    """
    transform = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> PostState:
        return PostState(transform.init(params), init_own(params))

    def update(
        updates: PyTree, state: PostState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, PostState]:
        if params is None:
            raise ValueError("post: update needs params, got None")
        inner_updates, inner_state = transform.update(updates, state.inner, params, **extra)
        new, own = correct(inner_updates, updates, params, state.own)
        return new, PostState(inner_state, own)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def check_adam(b1: Any, b2: Any, eps: Any) -> None:
    """Raises `ValueError` for moments outside [0, 1) or a negative eps; traced values pass."""
    for name, value in (("b1", b1), ("b2", b2)):
        if isinstance(value, int | float) and not 0 <= value < 1:
            raise ValueError(f"{name} = {value}: expected a number in [0, 1)")
    if isinstance(eps, int | float) and not eps >= 0:
        raise ValueError(f"eps = {eps}: expected a number >= 0")
