"""A claim: a measured number, a comparison, and the number it is compared with."""

import dataclasses
import operator
from collections.abc import Callable
from typing import Literal, SupportsFloat

Comparison = Literal["<", "<=", ">", ">=", "=="]

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a paper says, as a comparison of two numbers: `measured op target`.

    Wherever there is a baseline, `target` is measured too, on the same data and budget, so that
    `Claim("FNO beats U-Net", fno_error, "<", unet_error)` holds or fails on this machine.

    **Arguments:**

    - `name`: the claim in a few words, as a reader of the table understands it.
    - `measured`, `target`: scalars (Python, NumPy or JAX), kept as Python floats.
    - `op`: one of `<`, `<=`, `>`, `>=`, `==`.
    - `detail`: how it was measured, where that is not obvious.

    **Raises:**

    - `ValueError` for another `op` or an empty name, `TypeError` if a number is not a scalar.
    """

    name: str
    measured: float
    op: Comparison
    target: float
    detail: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"name = {self.name!r}: expected the claim in words")
        if self.op not in _OPERATORS:
            raise ValueError(f"op = {self.op!r}: expected one of {', '.join(_OPERATORS)}")
        object.__setattr__(self, "measured", scalar("measured", self.measured))
        object.__setattr__(self, "target", scalar("target", self.target))

    @property
    def holds(self) -> bool:
        """Whether `measured op target` is true; with NaN on either side it never is."""
        return _OPERATORS[self.op](self.measured, self.target)


def scalar(name: str, value: SupportsFloat) -> float:
    """A scalar of Python, NumPy or JAX as a Python float.

    **Raises:**

    - `TypeError` naming `name` if `value` is not one number.
    """
    shape = getattr(value, "shape", ())
    if isinstance(value, str | bytes) or shape != ():
        got = f"an array of shape {shape}" if shape != () else repr(value)
        raise TypeError(f"{name}: expected one number, got {got}")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected one number, got {value!r}") from error
