"""Multiresolution hash grid: features from tables on grids of several resolutions.

    h(x) = [Σ_corners w_c(x) T_l[hash_l(c)]]_{l=1..L},   a perceptron on top.

The weights w_c are multilinear and sum to one. Grids that fit into a table are stored as they are;
finer ones share entries by a hash of the corner (arXiv:2201.05989).
"""

import itertools
import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

_PRIMES = (1, 2654435761, 805459861, 3674653429)


class HashEncoding(eqx.Module):
    """Features of a point on [lo, hi]^d from tables, without a perceptron.

    **Arguments:** as `HashGrid`.

    **Raises:** `ValueError` for sizes out of range or a table that is no power of two.
    """

    tables: Float[Array, "levels entries features"]
    resolutions: tuple[int, ...] = eqx.field(static=True)
    lo: float = eqx.field(static=True)
    hi: float = eqx.field(static=True)

    def __init__(
        self,
        c_in: int,
        *,
        levels: int = 8,
        coarsest: int = 4,
        finest: int = 128,
        table: int = 2**12,
        features: int = 2,
        lo: float = -1.0,
        hi: float = 1.0,
        key: PRNGKeyArray,
    ):
        if not 1 <= c_in <= len(_PRIMES):
            raise ValueError(f"HashGrid: c_in = {c_in}, expected from 1 to {len(_PRIMES)}")
        if levels < 1 or features < 1 or not 1 <= coarsest <= finest or not lo < hi:
            raise ValueError(
                f"HashGrid: levels = {levels}, features = {features}, resolutions {coarsest} to "
                f"{finest}, box [{lo}, {hi}]: out of range"
            )
        if table < 2 or table & (table - 1):
            raise ValueError(f"HashGrid: table = {table}, expected a power of two")
        growth = math.exp(math.log(finest / coarsest) / max(levels - 1, 1))
        self.resolutions = tuple(round(coarsest * growth**level) for level in range(levels))
        self.tables = jr.uniform(key, (levels, table, features), minval=-1e-4, maxval=1e-4)
        self.lo, self.hi = lo, hi

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " f"]:
        u = jnp.clip((x - self.lo) / (self.hi - self.lo), 0, 1)
        found = []
        for level, n in enumerate(self.resolutions):
            scaled = u * n
            cell = jnp.clip(jnp.floor(jax.lax.stop_gradient(scaled)), 0, n - 1)
            weight = scaled - cell
            total = jnp.zeros(self.tables.shape[-1], self.tables.dtype)
            for corner in itertools.product((0, 1), repeat=x.shape[0]):
                c = jnp.asarray(corner, cell.dtype)
                share = jnp.prod(jnp.where(c == 1, weight, 1 - weight))
                index = self._index((cell + c).astype(jnp.uint32), n)
                total = total + share * self.tables[level, index]
            found.append(total)
        return jnp.concatenate(found)

    def _index(self, corner: UInt32[Array, " d"], n: int) -> UInt32[Array, ""]:
        d, entries = corner.shape[0], self.tables.shape[1]
        index = jnp.zeros((), jnp.uint32)
        if (n + 1) ** d <= entries:
            for i in range(d):
                index = index * (n + 1) + corner[i]
            return index
        for i in range(d):
            index = index ^ (corner[i] * jnp.uint32(_PRIMES[i]))
        return index & jnp.uint32(entries - 1)


class HashGrid(eqx.Module):
    """A field on [lo, hi]^d made of hash tables and a small perceptron.

    **Arguments:**

    - `c_in`: d, at most 4. `c_out`: channels, or `"scalar"`.
    - `levels`, `coarsest`, `finest`: resolutions grow geometrically from one to the other.
    - `table`: entries of a table, a power of two; 2¹⁴ to 2¹⁹. `features`: numbers in an entry.
    - `width`, `depth`: of the perceptron. `lo`, `hi`: corners of the box.

    Points outside the box are clipped to it.

    **Raises:** `ValueError` for sizes out of range or a table that is no power of two.
    """

    encode: HashEncoding
    mlp: eqx.nn.MLP

    def __init__(
        self,
        c_in: int,
        c_out: int | Literal["scalar"],
        *,
        levels: int = 8,
        coarsest: int = 4,
        finest: int = 128,
        table: int = 2**12,
        features: int = 2,
        width: int = 64,
        depth: int = 1,
        lo: float = -1.0,
        hi: float = 1.0,
        key: PRNGKeyArray,
    ):
        table_key, mlp_key = jr.split(key)
        self.encode = HashEncoding(
            c_in,
            levels=levels,
            coarsest=coarsest,
            finest=finest,
            table=table,
            features=features,
            lo=lo,
            hi=hi,
            key=table_key,
        )
        self.mlp = eqx.nn.MLP(levels * features, c_out, width, depth, jax.nn.relu, key=mlp_key)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, "*c"]:
        return self.mlp(self.encode(x))
