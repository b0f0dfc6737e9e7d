"""Adam with the rate of each weight that u-muP gives it, and decay that no rate touches.

θ ← θ − η C_θ m̂/(√v̂ + ε) − λ θ
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optax
from jaxtyping import PyTree

from .layers import AbstractScaledLayer


def umup_learning_rates(model: PyTree, *, others: float | None = None) -> PyTree:
    """The factor C of each parameter's rate, as a tree like `eqx.filter(model, is_inexact_array)`.

    **Arguments:**

    - `model`: any tree with the layers of this package in it.
    - `others`: the factor of parameters outside such layers; `None` refuses them.

    **Returns:** the tree of the parameters, with Python numbers in their places.

    **Raises:** `ValueError` for a parameter that has no role, naming its place in the model.
    """

    def is_layer(node: Any) -> bool:
        return isinstance(node, AbstractScaledLayer)

    def rates(path: Any, node: Any) -> Any:
        if not is_layer(node):
            if others is None:
                raise ValueError(
                    f"model{jax.tree_util.keystr(path)}: a parameter of shape {node.shape} outside "
                    "the layers of jaxsci.nn.unit_scaling has no role; give its factor as `others`"
                )
            return others
        known = node.learning_rates()
        where = jax.tree_util.tree_map_with_path
        return where(lambda inner, _: known[inner[0].name], node)

    parameters = eqx.filter(model, eqx.is_inexact_array)
    return jax.tree_util.tree_map_with_path(rates, parameters, is_leaf=is_layer)


def scale_by_rates(rates: PyTree) -> optax.GradientTransformationExtraArgs:
    """Each update times its factor: u = C_θ u.

    **Arguments:** `rates`: a tree like the parameters, of numbers; `umup_learning_rates` makes it.

    **Returns:** an optax transformation without state.

    **Raises:** `ValueError` if the updates are another tree.
    """

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del params, extra
        want, have = (jax.tree.structure(tree) for tree in (rates, updates))
        if want != have:
            raise ValueError(f"updates: expected the tree of the rates, {want}, got {have}")
        return jax.tree.map(lambda rate, u: (rate * u).astype(u.dtype), rates, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def umup_adam(
    learning_rate: optax.ScalarOrSchedule,
    rates: PyTree,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW for u-muP: one learning rate for every width and depth, and independent decay.

    **Arguments:**

    - `learning_rate`: η; its best value lies near 1 (0.1 to 4) at every width.
    - `rates`: `umup_learning_rates(model)`.
    - `b1`, `b2`, `eps`: as for Adam; gradients have size one at the start.
    - `weight_decay`: λ, the share of a weight that is lost in one step, whatever η and C_θ are;
      2⁻¹³ is the paper's. Let it fall with η if η does: a schedule is fine.
    - `mask`: which parameters decay, as for `optax.add_decayed_weights`.

    **Returns:** an optax transformation, with Adam's memory.

    **Raises:** `ValueError` for a negative `weight_decay`, or updates of another tree than `rates`.
    """
    if isinstance(weight_decay, int | float) and weight_decay < 0:
        raise ValueError(f"weight_decay = {weight_decay}: expected a number >= 0")
    parts = [
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        scale_by_rates(rates),
        optax.scale_by_learning_rate(learning_rate),
    ]
    decay: Any = weight_decay
    if callable(decay):
        schedule: Callable[[Any], Any] = decay
        parts.append(optax.add_decayed_weights(lambda count: -schedule(count), mask))
    elif not isinstance(decay, int | float) or decay > 0:
        parts.append(optax.add_decayed_weights(-decay, mask))
    return optax.with_extra_args_support(optax.chain(*parts))
