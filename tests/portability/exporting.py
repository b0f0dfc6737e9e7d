"""Lowers a function for accelerators that this machine does not have."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

PLATFORMS = ("tpu", "cuda")


@dataclasses.dataclass(frozen=True)
class Exported:
    """What came of the lowering: the program's text, and the custom calls in it."""

    platform: str
    text: str

    @property
    def custom_calls(self) -> set[str]:
        """Names of the kernels outside of XLA that the program calls."""
        return set(re.findall(r"custom_call @([\w.$]+)", self.text))

    def has_type(self, name: str) -> bool:
        """Whether an array in the program has this element type, such as `f64`."""
        return re.search(rf"tensor<(?:\d+x)*{name}>", self.text) is not None


def export_for(function: Callable[..., Any], *arguments: Any, platform: str) -> Exported:
    """Lowers `function(*arguments)` for a platform, on a machine without it.

    An operation that has no lowering there raises, as does a kernel that only exists elsewhere:
    `jax.export` refuses custom calls that are not known to be stable.

    **Arguments:**

    - `function`: any function of pytrees; what is no array in the arguments is static.
    - `platform`: one of `PLATFORMS`.
    """
    dynamic, static = eqx.partition(arguments, eqx.is_array)

    def of_arrays(dynamic):
        result = function(*eqx.combine(dynamic, static))
        return jax.tree.leaves(eqx.filter(result, eqx.is_array))

    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), dynamic)
    exported = jax.export.export(jax.jit(of_arrays), platforms=[platform])(shapes)
    return Exported(platform, exported.mlir_module())
