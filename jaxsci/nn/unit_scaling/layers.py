"""Layers whose weights, outputs and gradients start with size one, and which know their rate.

A layer keeps its role, and the number of residual branches around it, as static fields. From these
`umup_learning_rates` reads the rate of each weight: nothing has to be told twice.
"""

import abc
from typing import Literal, get_args

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .float8 import Precision
from .functions import embedding, layer_norm, linear, rms_norm
from .parametrisation import PARAMETRISATIONS, depth_rate
from .scales import Constraint, constrained

UMUP = PARAMETRISATIONS["umup"]
Kind = Literal["input", "hidden", "output"]


class AbstractScaledLayer(eqx.Module):
    """A layer that knows the learning rates of its own parameters."""

    @abc.abstractmethod
    def learning_rates(self) -> dict[str, float]:
        """Adam's factor for each field that is a parameter."""


def _size(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} = {value!r}: expected a positive integer")
    return value


class Linear(AbstractScaledLayer):
    """y = A (W x + b) with W ~ N(0, 1), b = 0; A = 1/√fan_in, or 1/fan_in for the output.

    | kind | A | gradient of x | Adam's factor |
    |---|---|---|---|
    | input | fan_in^(−1/2) | constrained to A | fan_out^(−1/2) |
    | hidden | fan_in^(−1/2) | constrained to A | fan_in^(−1/2) |
    | output | fan_in^(−1) | fan_out^(−1/2) | 1 |

    A bias has factor 1. All factors are divided by √depth inside residual branches.

    **Arguments:**

    - `fan_in`, `fan_out`: sizes of the last axis of x and y. Leading axes are batch axes.
    - `kind`: "hidden" from width to width; "output" for the network's last layer; "input" for a
      first layer on a fixed number of features.
    - `use_bias`: whether b is there.
    - `constraint`: see `constrained`; by default "output", and `None` for the last layer.
    - `depth`: number of residual branches, for layers inside one.
    - `tokens`: number of vectors x in a training step, if `vmap` hides it.
    - `precision`: `None`, "float8" or "float8-simulated"; see `float8_matmul`.
    - `key`: for W.

    **Raises:** `ValueError` for sizes below 1 or an unknown kind, constraint or precision.
    """

    weight: Float[Array, "fan_out fan_in"]
    bias: Float[Array, " fan_out"] | None
    kind: Kind = eqx.field(static=True)
    constraint: Constraint = eqx.field(static=True)
    depth: int | None = eqx.field(static=True)
    tokens: int | None = eqx.field(static=True)
    precision: Precision = eqx.field(static=True)

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        kind: Kind = "hidden",
        *,
        use_bias: bool = False,
        constraint: Constraint | Literal["default"] = "default",
        depth: int | None = None,
        tokens: int | None = None,
        precision: Precision = None,
        key: PRNGKeyArray,
    ):
        if kind not in get_args(Kind):
            raise ValueError(f"kind = {kind!r}: expected one of {get_args(Kind)}")
        if precision not in (None, "float8", "float8-simulated"):
            raise ValueError(
                f'precision = {precision!r}: expected None, "float8" or "float8-simulated"'
            )
        if constraint == "default":
            constraint = None if kind == "output" else "output"
        constrained(constraint, 1.0, 1.0)
        depth_rate(depth)
        shape = _size("fan_out", fan_out), _size("fan_in", fan_in)
        self.weight = jr.normal(key, shape)
        self.bias = jnp.zeros(fan_out) if use_bias else None
        self.kind, self.constraint, self.depth = kind, constraint, depth
        self.tokens = None if tokens is None else _size("tokens", tokens)
        self.precision = precision

    def __call__(
        self, x: Float[Array, "*batch fan_in"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch fan_out"]:
        """The scaled map of the last axis. `key` is not used."""
        del key
        return linear(
            x,
            self.weight.astype(x.dtype),
            None if self.bias is None else self.bias.astype(x.dtype),
            constraint=self.constraint,
            power=-UMUP[self.kind].multiplier.fan_in,
            tokens=self.tokens,
            precision=self.precision,
        )

    def learning_rates(self) -> dict[str, float]:
        """The table's factors over √depth."""
        fan_out, fan_in = self.weight.shape
        deep = depth_rate(self.depth)
        rates = {"weight": deep * UMUP[self.kind].rate(fan_in, fan_out)}
        return rates if self.bias is None else rates | {"bias": deep}


class Embedding(AbstractScaledLayer):
    """Row i of W ~ N(0, 1), a table of n vectors; Adam's factor is 1/√c.

    **Arguments:** `n`, `c`: how many vectors, and their size. `tokens`: see `Linear`. `key`.

    **Raises:** `ValueError` for sizes below 1.
    """

    weight: Float[Array, "n c"]
    tokens: int | None = eqx.field(static=True)

    def __init__(self, n: int, c: int, *, tokens: int | None = None, key: PRNGKeyArray):
        self.weight = jr.normal(key, (_size("n", n), _size("c", c)))
        self.tokens = None if tokens is None else _size("tokens", tokens)

    def __call__(
        self, index: Int[Array, "*batch"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch c"]:
        """The rows. `key` is not used."""
        del key
        return embedding(index, self.weight, tokens=self.tokens)

    def learning_rates(self) -> dict[str, float]:
        """1/√c."""
        n, c = self.weight.shape
        return {"weight": UMUP["embedding"].rate(n, c)}


class LayerNorm(AbstractScaledLayer):
    """(x − mean)/√(var + ε) · g + b over the last axis, without g and b by default.

    **Arguments:** `c`: its size. `eps`: ε. `affine`: whether g (ones) and b (zeros) are there.
    `depth`, `tokens`: see `Linear`.

    **Raises:** `ValueError` for c < 1, or an input of another size.
    """

    weight: Float[Array, " c"] | None
    bias: Float[Array, " c"] | None
    c: int = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    depth: int | None = eqx.field(static=True)
    tokens: int | None = eqx.field(static=True)

    def __init__(
        self,
        c: int,
        *,
        eps: float = 1e-5,
        affine: bool = False,
        depth: int | None = None,
        tokens: int | None = None,
    ):
        self.c, self.eps, self.depth = _size("c", c), eps, depth
        self.tokens = None if tokens is None else _size("tokens", tokens)
        depth_rate(depth)
        self.weight = jnp.ones(c) if affine else None
        self.bias = jnp.zeros(c) if affine else None

    def __call__(
        self, x: Float[Array, "*batch c"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch c"]:
        """The normalised array. `key` is not used."""
        del key
        if x.shape[-1:] != (self.c,):
            raise ValueError(f"x: expected {self.c} numbers on the last axis, got shape {x.shape}")
        return layer_norm(x, self.weight, self.bias, eps=self.eps, tokens=self.tokens)

    def learning_rates(self) -> dict[str, float]:
        """1/√depth for g and b."""
        return {} if self.weight is None else dict.fromkeys(("weight", "bias"), _deep(self))


class RMSNorm(AbstractScaledLayer):
    """x/√(mean x² + ε) · g over the last axis, without g by default.

    **Arguments:** `c`, `eps`, `affine`, `depth`, `tokens`: see `LayerNorm`.

    **Raises:** `ValueError` for c < 1, or an input of another size.
    """

    weight: Float[Array, " c"] | None
    c: int = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    depth: int | None = eqx.field(static=True)
    tokens: int | None = eqx.field(static=True)

    def __init__(
        self,
        c: int,
        *,
        eps: float = 1e-5,
        affine: bool = False,
        depth: int | None = None,
        tokens: int | None = None,
    ):
        self.c, self.eps, self.depth = _size("c", c), eps, depth
        self.tokens = None if tokens is None else _size("tokens", tokens)
        depth_rate(depth)
        self.weight = jnp.ones(c) if affine else None

    def __call__(
        self, x: Float[Array, "*batch c"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch c"]:
        """The normalised array. `key` is not used."""
        del key
        if x.shape[-1:] != (self.c,):
            raise ValueError(f"x: expected {self.c} numbers on the last axis, got shape {x.shape}")
        return rms_norm(x, self.weight, eps=self.eps, tokens=self.tokens)

    def learning_rates(self) -> dict[str, float]:
        """1/√depth for g."""
        return {} if self.weight is None else {"weight": _deep(self)}


def _deep(layer: LayerNorm | RMSNorm) -> float:
    return depth_rate(layer.depth) * UMUP["vector"].rate(layer.c, layer.c)
