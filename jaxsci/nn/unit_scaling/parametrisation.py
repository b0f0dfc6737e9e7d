"""Parametrisations of a network's width as data: multiplier, initial size and rate of each weight.

    layer(x) = A · W x,   W₀ ~ N(0, B²),   Adam's rate of W = C · η

A, B, C are products of powers of the fan-in, the fan-out and the depth, one triple for each role
that a weight has. Under Adam (ε → 0) the triples (A, B, C) and (A θ, B/θ, C/θ) train the same
network: `ABC.shifted`. Standard parametrisation (SP), muP and u-muP stand in `PARAMETRISATIONS`.

Yang & Hu 2021, arXiv:2011.14522 (abc); Yang et al. 2022, arXiv:2203.03466 (muP); Blake et al.
2024, arXiv:2407.17465 (u-muP).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Power(NamedTuple):
    """fan_in^a fan_out^b: the value of a factor as the width grows."""

    fan_in: float = 0.0
    fan_out: float = 0.0

    def __call__(self, fan_in: int, fan_out: int) -> float:
        """The factor of one weight."""
        return float(fan_in) ** self.fan_in * float(fan_out) ** self.fan_out

    def times(self, other: "Power", power: float = 1.0) -> "Power":
        """The product with a power of another factor."""
        return Power(self.fan_in + power * other.fan_in, self.fan_out + power * other.fan_out)


class ABC(NamedTuple):
    """Multiplier A, standard deviation B of the initial weight, factor C of Adam's rate."""

    multiplier: Power = Power()
    init: Power = Power()
    rate: Power = Power()

    def shifted(self, theta: Power) -> "ABC":
        """(A θ, B/θ, C/θ): another name of the same training under Adam."""
        return ABC(
            self.multiplier.times(theta), self.init.times(theta, -1), self.rate.times(theta, -1)
        )


_ONE, _ROOT_IN, _IN = Power(), Power(fan_in=-0.5), Power(fan_in=-1.0)
_ROOT_OUT = Power(fan_out=-0.5)
_STANDARD = ABC(init=_ROOT_IN)


def _rules(**rules: ABC) -> Mapping[str, ABC]:
    return MappingProxyType({"embedding": ABC(), "input": _STANDARD, "vector": ABC()} | rules)


PARAMETRISATIONS: Mapping[str, Mapping[str, ABC]] = MappingProxyType(
    {
        "sp": _rules(hidden=_STANDARD, output=_STANDARD),
        "mup": _rules(hidden=ABC(init=_ROOT_IN, rate=_IN), output=ABC(multiplier=_IN)),
        "umup": _rules(
            embedding=ABC(rate=_ROOT_OUT),
            input=ABC(multiplier=_ROOT_IN, rate=_ROOT_OUT),
            hidden=ABC(multiplier=_ROOT_IN, rate=_ROOT_IN),
            output=ABC(multiplier=_IN),
        ),
    }
)
"""The factors of each role, by parametrisation: "sp", "mup", "umup".

Roles: "embedding", a table of vectors; "input", a linear map from a fixed number of features;
"hidden", from width to width; "output", from width to a fixed number of features; "vector", biases
and gains. In muP hidden and output factors count from a base width, here 1.
"""


def depth_rate(depth: int | None) -> float:
    """Adam's factor 1/√depth of a weight in one of `depth` residual branches; 1 outside any.

    **Raises:** `ValueError` for a depth that is not a positive integer.
    """
    if depth is None:
        return 1.0
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise ValueError(f"depth = {depth!r}: expected a positive integer or None")
    return depth**-0.5
