"""Convolution with a learned kernel that is given by its coefficients in a basis.

    (K u)(x) = Σ_k (Σ_i û_{i,k} R_{k,i,o}) φ_k(x)

`SpectralConv` is transform, mixing of channels mode by mode, inverse transform. The transform says
which basis; the mixing says how the tensor R is parametrised. Adding either is a new small module;
the layer stays as it is.
"""

import abc
import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from .initial import normal, uniform
from .transforms import AbstractTransform

Init = Literal["uniform", "normal"]
MixingKind = Literal["dense", "diagonal", "cp", "tucker"]


class AbstractMixing(eqx.Module):
    """A linear map between channels for every mode: ŵ_{o,k} = Σ_i R_{k,i,o} û_{i,k}.

    Complex parameters are stored as two real arrays (a leading axis of size 2: real and imaginary
    part), so that every optimiser, sharding rule and checkpoint sees real numbers only. Real bases
    store an axis of size 1.
    """

    @abc.abstractmethod
    def tensor(self) -> Inexact[Array, "*modes c_in c_out"]:
        """The full tensor R (for inspection and for the small-grid case)."""

    @abc.abstractmethod
    def __call__(
        self, coef: Inexact[Array, "c_in *kept"], kept: tuple[np.ndarray, ...] | None
    ) -> Inexact[Array, "c_out *kept"]:
        """Applies R; `kept` lists the modes present, axis by axis (`None`: all)."""


def _value(parts: Float[Array, "parts *shape"]) -> Inexact[Array, "*shape"]:
    if parts.shape[0] == 1:
        return parts[0]
    parts = jnp.asarray(parts, jnp.promote_types(parts.dtype, jnp.float32))
    return jax.lax.complex(parts[0], parts[1])


def _normal(key: PRNGKeyArray, shape: tuple[int, ...], std: float, n_parts: int) -> Array:
    # A complex normal of variance std² has parts of variance std²/2.
    return normal(key, (n_parts, *shape)) * (std / math.sqrt(n_parts))


def _apply(coef: Array, tensor: Array) -> Array:
    """Σ_i: one matrix product per mode, with the modes as batch axes."""
    return jnp.einsum("i...,...io->o...", coef, tensor)


class DenseMixing(AbstractMixing):
    """R is a free tensor; `weight` has shape `"parts *modes c_in c_out"`."""

    weight: Float[Array, "parts *modes c_in c_out"]

    def __init__(
        self,
        modes: tuple[int, ...],
        c_in: int,
        c_out: int,
        *,
        n_parts: int,
        init: Init,
        key: PRNGKeyArray,
    ):
        shape = (*modes, c_in, c_out)
        if init == "uniform":
            self.weight = uniform(key, (n_parts, *shape)) / (c_in * c_out)
        else:
            self.weight = _normal(key, shape, math.sqrt(2 / (c_in + c_out)), n_parts)

    def tensor(self) -> Inexact[Array, "*modes c_in c_out"]:
        return _value(self.weight)

    def __call__(self, coef, kept):
        weight = self.weight
        if kept is not None:
            weight = weight[(slice(None), *np.ix_(*kept))]
        return _apply(coef, _value(weight))


class DiagonalMixing(AbstractMixing):
    """Channels do not mix: R_{k,i,o} = δ_io w_{k,i}; `weight` has shape `"parts *modes c"`."""

    weight: Float[Array, "parts *modes c"]

    def __init__(
        self,
        modes: tuple[int, ...],
        c_in: int,
        c_out: int,
        *,
        n_parts: int,
        init: Init,
        key: PRNGKeyArray,
    ):
        if c_in != c_out:
            raise ValueError(f"mixing='diagonal': expected c_in = c_out, got {c_in} and {c_out}")
        if init == "uniform":
            self.weight = uniform(key, (n_parts, *modes, c_in)) / c_in
        else:
            self.weight = _normal(key, (*modes, c_in), math.sqrt(1 / c_in), n_parts)

    def tensor(self) -> Inexact[Array, "*modes c_in c_out"]:
        weight = _value(self.weight)
        return weight[..., None] * jnp.eye(weight.shape[-1], dtype=weight.dtype)

    def __call__(self, coef, kept):
        weight = self.weight
        if kept is not None:
            weight = weight[(slice(None), *np.ix_(*kept))]
        return coef * jnp.moveaxis(_value(weight), -1, 0)


class CPMixing(AbstractMixing):
    """R_{k,i,o} = Σ_r λ_r A_{i,r} B_{o,r} Π_j C^j_{k_j,r}: a sum of `rank` separable terms.

    `rank` is the number of terms, or, below 1, the share of the dense tensor's parameters.
    """

    weights: Float[Array, "parts r"]
    factors: tuple[Float[Array, "parts n r"], ...]

    def __init__(
        self,
        modes: tuple[int, ...],
        c_in: int,
        c_out: int,
        *,
        rank: float,
        n_parts: int,
        key: PRNGKeyArray,
    ):
        shape = (*modes, c_in, c_out)
        r = cp_rank(shape, rank)
        std = math.sqrt(2 / (c_in + c_out))
        # The sum of r products of n factors has the dense tensor's variance std².
        factor_std = (std**2 / r) ** (1 / (2 * len(shape)))
        keys = jr.split(key, len(shape))
        self.weights = jnp.concatenate([jnp.ones((1, r)), jnp.zeros((n_parts - 1, r))])
        self.factors = tuple(
            _normal(k, (n, r), factor_std, n_parts) for k, n in zip(keys, shape, strict=True)
        )

    def tensor(self) -> Inexact[Array, "*modes c_in c_out"]:
        out = _value(self.weights)
        for factor in self.factors[:-1]:
            out = out[..., None, :] * _value(factor)
        return out @ _value(self.factors[-1]).T

    def __call__(self, coef, kept):
        *modes, fan_in, fan_out = (_value(f) for f in self.factors)
        if kept is not None:
            modes = [f[k] for f, k in zip(modes, kept, strict=True)]
        spectrum = _value(self.weights)
        for factor in modes:
            spectrum = spectrum[..., None, :] * factor
        inner = jnp.einsum("i...,ir->...r", coef, fan_in) * spectrum
        return jnp.einsum("...r,or->o...", inner, fan_out)


class TuckerMixing(AbstractMixing):
    """R = G ×₁ U¹ … ×_d U^d × A × B: a small core tensor and one factor matrix per axis (TFNO).

    `rank` below 1 is the share of the dense tensor's parameters, otherwise it is a tuple with the
    core's shape. Reference: Kossaifi et al., arXiv:2310.00120.
    """

    core: Float[Array, "parts *ranks"]
    factors: tuple[Float[Array, "parts n r"], ...]

    def __init__(
        self,
        modes: tuple[int, ...],
        c_in: int,
        c_out: int,
        *,
        rank: float | tuple[int, ...],
        n_parts: int,
        key: PRNGKeyArray,
    ):
        shape = (*modes, c_in, c_out)
        ranks = tucker_ranks(shape, rank)
        std = math.sqrt(2 / (c_in + c_out))
        # Each entry is a sum of Π r products of n + 1 numbers: together they have variance std².
        each = (std / math.sqrt(math.prod(ranks))) ** (1 / (len(ranks) + 1))
        core_key, *keys = jr.split(key, len(ranks) + 1)
        self.core = _normal(core_key, ranks, each, n_parts)
        self.factors = tuple(
            _normal(k, (n, r), each, n_parts) for k, n, r in zip(keys, shape, ranks, strict=True)
        )

    def tensor(self) -> Inexact[Array, "*modes c_in c_out"]:
        out = _value(self.core)
        for axis, factor in enumerate(self.factors):
            out = jnp.moveaxis(jnp.tensordot(_value(factor), out, ([1], [axis])), 0, axis)
        return out

    def __call__(self, coef, kept):
        *modes, fan_in, fan_out = (_value(f) for f in self.factors)
        if kept is not None:
            modes = [f[k] for f, k in zip(modes, kept, strict=True)]
        core = _value(self.core)
        for axis, factor in enumerate(modes):
            core = jnp.moveaxis(jnp.tensordot(factor, core, ([1], [axis])), 0, axis)
        # Channels are narrowed before the product over modes and widened after it.
        inner = jnp.einsum("i...,ir->r...", coef, fan_in)
        return jnp.einsum("r...,or->o...", _apply(inner, core), fan_out)


def cp_rank(shape: tuple[int, ...], rank: float) -> int:
    """The number of terms of a CP decomposition with a share `rank` < 1 of the parameters."""
    if rank <= 0:
        raise ValueError(f"rank: expected a positive number, got {rank}")
    if rank >= 1 and float(rank).is_integer() and not isinstance(rank, float):
        return int(rank)
    return max(1, round(rank * math.prod(shape) / (sum(shape) + 1)))


def tucker_ranks(shape: tuple[int, ...], rank: float | tuple[int, ...]) -> tuple[int, ...]:
    """The core's shape: proportional to `shape`, so that all parameters are a share of dense.

    Solves c^n Π s_i + c Σ s_i² = rank Π s_i for the common factor c (increasing in c: bisection).
    """
    if isinstance(rank, tuple):
        if len(rank) != len(shape) or any(not 0 < r <= n for r, n in zip(rank, shape, strict=True)):
            raise ValueError(
                f"rank: expected {len(shape)} integers, each at most the tensor's size "
                f"{shape}, got {rank}"
            )
        return rank
    if not 0 < rank <= 1:
        raise ValueError(
            f"rank: expected a share 0 < rank ≤ 1 or a tuple with the core's shape, got {rank}"
        )
    size, squares = math.prod(shape), sum(n * n for n in shape)
    low, high = 0.0, 1.0
    for _ in range(60):
        c = (low + high) / 2
        low, high = (c, high) if c ** len(shape) * size + c * squares < rank * size else (low, c)
    return tuple(min(n, max(1, round(low * n))) for n in shape)


class SpectralConv(eqx.Module):
    """A convolution by its spectrum: transform, mix channels mode by mode, transform back.

        K u = F⁻¹ (R · F u),      û_{o,k} ← Σ_i R_{k,i,o} û_{i,k}

    The result has the input's grid, whatever that is: a grid too coarse for some modes uses the
    part of R that it resolves. There is no bias and no bypass; the block that uses the layer adds
    them. The contraction runs in float32 or better also for half-precision inputs.

    **Arguments:**

    - `transform`: the basis with its modes, e.g. `Fourier((12, 12))`.
    - `c_in`, `c_out`: channels.
    - `mixing`: `"dense"`; `"diagonal"` (channels do not mix); `"cp"` or `"tucker"`: R as a low-rank
      tensor.
    - `rank`: for `"cp"` and `"tucker"`: the share of the dense tensor's parameters, e.g. 0.1.
    - `init`: `"uniform"` draws real and imaginary parts from U[0, 1)/(c_in c_out), as the original
      Fourier neural operator does (note the positive mean); `"normal"` a complex normal of
      variance 2/(c_in + c_out), as the `neuraloperator` library does.

    **Raises:** `ValueError` for an unknown `mixing` or `init`, non-positive channels, or a rank
    where none belongs.

    References: arXiv:2010.08895; arXiv:2108.08481.
    """

    transform: AbstractTransform
    mixing: AbstractMixing
    c_in: int = eqx.field(static=True)
    c_out: int = eqx.field(static=True)

    def __init__(
        self,
        transform: AbstractTransform,
        c_in: int,
        c_out: int,
        *,
        mixing: MixingKind = "dense",
        rank: float | tuple[int, ...] | None = None,
        init: Init = "uniform",
        key: PRNGKeyArray,
    ):
        for name, c in (("c_in", c_in), ("c_out", c_out)):
            if c < 1:
                raise ValueError(f"{name}: expected a positive number of channels, got {c}")
        if init not in ("uniform", "normal"):
            raise ValueError(f"init: expected 'uniform' or 'normal', got {init!r}")
        low_rank = mixing in ("cp", "tucker")
        if low_rank == (rank is None):
            raise ValueError(
                "rank: needed for mixing 'cp' and 'tucker' only, "
                f"got mixing={mixing!r}, rank={rank}"
            )
        modes, n_parts = transform.coefficient_shape, 2 if transform.is_complex else 1
        match mixing:
            case "dense":
                self.mixing = DenseMixing(modes, c_in, c_out, n_parts=n_parts, init=init, key=key)
            case "diagonal":
                self.mixing = DiagonalMixing(
                    modes, c_in, c_out, n_parts=n_parts, init=init, key=key
                )
            case "cp":
                if isinstance(rank, tuple) or rank is None:
                    raise ValueError(f"rank: mixing='cp' takes one number, got {rank}")
                self.mixing = CPMixing(modes, c_in, c_out, rank=rank, n_parts=n_parts, key=key)
            case "tucker":
                if rank is None:
                    raise ValueError("rank: needed for mixing='tucker'")
                self.mixing = TuckerMixing(modes, c_in, c_out, rank=rank, n_parts=n_parts, key=key)
            case _:
                raise ValueError(
                    "mixing: expected 'dense', 'diagonal', 'cp' or 'tucker', got " + repr(mixing)
                )
        self.transform, self.c_in, self.c_out = transform, c_in, c_out

    def __call__(
        self, u: Float[Array, "c_in *grid"], *, mode_mask: Float[Array, "*modes"] | None = None
    ) -> Float[Array, "c_out *grid"]:
        """Applies the layer.

        **Arguments:**

        - `u`: values on a grid.
        - `mode_mask`: factors per mode, 0 or 1 to switch modes off and on (traced: changing them
          recompiles nothing).
        """
        if u.ndim != self.transform.n_dims + 1 or u.shape[0] != self.c_in:
            raise ValueError(
                f"u: expected {self.c_in} channels and {self.transform.n_dims} grid axes, "
                f"got shape {u.shape}"
            )
        shape = u.shape[1:]
        kept = None if self.transform.is_resolved(shape) else self.transform.kept(shape)
        coef = self.transform.forward(u)
        if mode_mask is not None:
            coef = coef * (mode_mask if kept is None else mode_mask[np.ix_(*kept)])
        return self.transform.inverse(self.mixing(coef, kept), shape).astype(u.dtype)
