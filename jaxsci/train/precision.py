"""Mixed precision: which numbers are kept in which format."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

_FORMATS = ("bfloat16", "float32", "float64")


def _cast(tree: PyTree, dtype: str) -> PyTree:
    """Casts every real floating-point array of the tree; complex, integer and key arrays stay."""

    def cast(leaf):
        if eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(leaf, dtype)
        return leaf

    return jax.tree.map(cast, tree)


class Precision(eqx.Module):
    """Mixed precision with master weights,

        y = output( f( compute(θ), compute(x) ) ),   θ, ∂L/∂θ and the optimiser in `params`.

    The network runs in the `compute` format: weights and arguments are cast on the way in, what
    it returns is cast to `output`, so that the loss and its targets never leave full precision.
    The weights themselves, their gradients and the optimiser's moments stay in `params`, hence a
    small update is not rounded away. bfloat16 has the exponent range of float32, so no scaling of
    the loss is needed. Complex weights (spectral layers) have no 16-bit format and stay as they
    are.

    **Arguments:**

    - `compute`: format of the network's arithmetic. `"bfloat16"` on TPUs and recent GPUs; on CPUs
        it is slower than float32.
    - `params`: format of the master weights, `"float32"`.
    - `output`: format of what the network returns, `"float32"`.

    **Raises:** `ValueError` for a format other than bfloat16, float32 and float64 (float16
    underflows without loss scaling, which is not provided).

    Reference: Micikevicius et al., Mixed precision training, arXiv:1710.03740.
    """

    compute: str = eqx.field(static=True, default="bfloat16")
    params: str = eqx.field(static=True, default="float32")
    output: str = eqx.field(static=True, default="float32")

    def __check_init__(self):
        for name in ("compute", "params", "output"):
            value = getattr(self, name)
            if value not in _FORMATS:
                raise ValueError(f"Precision: {name}={value!r}, expected one of {_FORMATS}")

    def cast_params(self, model: PyTree) -> PyTree:
        """The model with its weights in the `params` format."""
        return _cast(model, self.params)

    def wrap(self, model: PyTree) -> "LowPrecisionModel":
        """The model as the loss sees it: a callable that computes in the `compute` format."""
        return LowPrecisionModel(_cast(model, self.compute), self)


class LowPrecisionModel(eqx.Module):
    """A model that casts its arguments to `precision.compute` and its result to `precision.output`.

    Only a call is cast; other attributes and methods are those of the inner model, whose weights
    are already in the compute format.
    """

    model: Any
    precision: Precision

    def __call__(self, *args, **kwargs):
        args, kwargs = _cast((args, kwargs), self.precision.compute)
        return _cast(self.model(*args, **kwargs), self.precision.output)

    def __getattr__(self, name: str):
        if name in ("model", "precision") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.model, name)
