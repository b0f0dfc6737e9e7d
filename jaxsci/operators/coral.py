"""CORAL: functions on any points become codes of a coordinate network, and codes map to codes.

    u at some points → z_u → z_v → v at any points

The first and the last arrow are families of fields with a code (`jaxsci.fields.CodedField`).
"""

from collections.abc import Callable
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxsci.fields import CodedField
from jaxsci.nn import Buffer
from jaxsci.pde import Grid


class CodeMLP(eqx.Module):
    """Code to code: h ← h + swish(W h + b) between two linear maps.

    **Arguments:** `c_in`, `c_out`: sizes of the codes; `width`, `depth` of the residual layers.

    **Raises:** `ValueError` for sizes below 1.
    """

    enter: eqx.nn.Linear
    layers: tuple[eqx.nn.Linear, ...]
    leave: eqx.nn.Linear

    def __init__(
        self, c_in: int, c_out: int, *, width: int = 64, depth: int = 3, key: PRNGKeyArray
    ):
        sizes = {"c_in": c_in, "c_out": c_out, "width": width, "depth": depth}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"CodeMLP: {name} = {value}, expected at least 1")
        first, last, *keys = jr.split(key, 2 + depth)
        self.enter = eqx.nn.Linear(c_in, width, key=first)
        self.layers = tuple(eqx.nn.Linear(width, width, key=k) for k in keys)
        self.leave = eqx.nn.Linear(width, c_out, key=last)

    def __call__(self, z: Float[Array, " m"]) -> Float[Array, " k"]:
        """The other code."""
        h = self.enter(z)
        for layer in self.layers:
            h = h + jax.nn.swish(layer(h))
        return self.leave(h)


class CORAL(eqx.Module):
    """v = decode(s_v P((encode(u) − m_u)/s_u) + m_v): an operator between functions on any points.

    Trained in two stages: the two families on their own by `CodedField.meta_loss`; then P on pairs
    of codes, `code_loss`, with the families fixed.

    ```python
    coral = CORAL.of(field_u, field_v, CodeMLP(16, 16, key=key), codes_u, codes_v)
    values = coral(u, points=sensors, out=anywhere)  # u: (c, n); out: (m, d); values: (c_out, m)
    ```

    **Arguments:**

    - `inputs`, `outputs`: the two `CodedField`s.
    - `process`: P, from code to code.
    - `mean_in`, `std_in`, `mean_out`, `std_out`: of the training codes, entry by entry; not
        trained. `CORAL.of` computes them.

    **Raises:** `ValueError` for statistics of another size or standard deviations that are not
    positive and finite.

    Reference: Serrano et al., arXiv:2306.07266.
    """

    inputs: CodedField
    outputs: CodedField
    process: Callable[[Array], Array]
    statistics: tuple[Buffer, Buffer, Buffer, Buffer]

    def __init__(
        self,
        inputs: CodedField,
        outputs: CodedField,
        process: Callable[[Array], Array],
        mean_in: Float[Any, " m"],
        std_in: Float[Any, " m"],
        mean_out: Float[Any, " k"],
        std_out: Float[Any, " k"],
    ):
        sizes = (inputs.latent, inputs.latent, outputs.latent, outputs.latent)
        given = tuple(np.asarray(a) for a in (mean_in, std_in, mean_out, std_out))
        for name, a, size in zip(
            ("mean_in", "std_in", "mean_out", "std_out"), given, sizes, strict=True
        ):
            if a.shape != (size,):
                raise ValueError(f"CORAL: {name} must have shape {(size,)}, got {a.shape}")
            if not np.isfinite(a).all() or (name.startswith("std") and not (a > 0).all()):
                raise ValueError(f"CORAL: {name} must be finite, and positive for std, got {a}")
        self.inputs, self.outputs, self.process = inputs, outputs, process
        one, two, three, four = (Buffer(jnp.asarray(a)) for a in given)
        self.statistics = (one, two, three, four)

    @classmethod
    def of(
        cls,
        inputs: CodedField,
        outputs: CodedField,
        process: Callable[[Array], Array],
        codes_in: Float[Any, "n m"],
        codes_out: Float[Any, "n k"],
    ) -> Self:
        """With the mean and standard deviation of each entry of the training codes."""
        given = []
        for codes in (np.asarray(codes_in), np.asarray(codes_out)):
            std = codes.std(0)
            given += [codes.mean(0), np.where(std > 0, std, 1).astype(codes.dtype)]
        return cls(inputs, outputs, process, *given)

    def predict_code(self, z: Float[Array, " m"]) -> Float[Array, " k"]:
        """The output's code from the input's."""
        mean_in, std_in, mean_out, std_out = (s.value.astype(z.dtype) for s in self.statistics)
        return std_out * self.process((z - mean_in) / std_in) + mean_out

    def code_loss(self, z_in: Float[Array, " m"], z_out: Float[Array, " k"]) -> Float[Array, ""]:
        """The mean square error of the output's code, in its standard deviations."""
        std_out = self.statistics[3].value.astype(z_out.dtype)
        return jnp.mean(((self.predict_code(z_in) - z_out) / std_out) ** 2)

    def __call__(
        self,
        u: Float[Array, "c n"],
        *,
        points: Float[Array, "n d"],
        out: Grid | Float[Array, "m d"],
        mask: Bool[Array, " n"] | None = None,
        cond: None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c_out *out"]:
        """The output at `out`, a grid or points, from the input at `points`.

        `cond` and `key` belong to the protocol and are not used.

        **Raises:** `ValueError` if `cond` is given, or for arrays that do not fit together.
        """
        del key
        if cond is not None:
            raise ValueError("CORAL: takes no cond")
        z = self.predict_code(self.inputs.encode(u, points, mask))
        if not isinstance(out, Grid):
            return self.outputs.decode(z, jnp.asarray(out))
        where = jnp.asarray(out.coords()).reshape(out.n_dims, -1).T
        return self.outputs.decode(z, where).reshape(-1, *out.shape)
