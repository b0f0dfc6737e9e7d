"""An optimiser for a part of the weights: "Newton on the head, Adam on the rest"."""

from collections.abc import Callable
from typing import Any, cast

import jax
import optax
from jaxtyping import PyTree


def on_subset(
    optimizer: optax.GradientTransformation, mask: PyTree | Callable[[PyTree], PyTree]
) -> optax.GradientTransformationExtraArgs:
    """Applies an optimiser to the leaves where `mask` is true; other updates pass unchanged.

    As `optax.masked`, which however hands its own marks in the place of weights to the inner
    optimiser, so that a `value_fn` cannot be called. Here it sees a smaller tree, and `value_fn`
    (`hvp_fn`, `model_fn`) as functions of that tree, with the other weights fixed.

        optax.chain(on_subset(lazy_newton(), head), on_subset(optax.adam(1e-3), body))

    **Arguments:**

    - `optimizer`: any optax transformation.
    - `mask`: a tree of booleans like the weights (or a prefix of it), or a function of the weights
        that gives one.

    **Returns:** an optax transformation whose state is that of `optimizer` on the subset.

    **Raises:** `ValueError` if `update` gets no params.
    """
    transform = optax.with_extra_args_support(optimizer)

    def flags(tree: PyTree) -> list[bool]:
        chosen = mask(tree) if callable(mask) else mask
        spread = jax.tree.map(lambda on, part: jax.tree.map(lambda _: on, part), chosen, tree)
        return jax.tree.leaves(spread)

    def pick(tree: PyTree, on: list[bool]) -> list:
        return [leaf for leaf, chosen in zip(jax.tree.leaves(tree), on, strict=True) if chosen]

    def init(params: PyTree) -> optax.OptState:
        return transform.init(pick(params, flags(params)))

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, optax.OptState]:
        if params is None:
            raise ValueError("on_subset: update needs params, got None")
        on = flags(params)
        treedef = jax.tree.structure(params)

        def fill(rest: PyTree, part: list) -> PyTree:
            new = iter(part)
            leaves = jax.tree.leaves(rest)
            return jax.tree.unflatten(
                treedef, [next(new) if c else leaf for c, leaf in zip(on, leaves, strict=True)]
            )

        inner = dict(extra)
        for name in ("value_fn", "model_fn"):
            if extra.get(name) is not None:
                inner[name] = lambda part, f=extra[name]: f(fill(params, part))
        if extra.get("hvp_fn") is not None:
            zeros = jax.tree.map(lambda p: 0 * p, params)
            inner["hvp_fn"] = lambda part, v: pick(
                extra["hvp_fn"](fill(params, part), fill(zeros, v)), on
            )
        if extra.get("grad") is not None:
            inner["grad"] = pick(extra["grad"], on)
        if extra.get("loss_grads") is not None:
            inner["loss_grads"] = pick(extra["loss_grads"], on)
        part, state = transform.update(pick(updates, on), state, pick(params, on), **inner)
        return fill(updates, cast(list, part)), state

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))
