"""Weights of the `neuraloperator` library's FNO and TFNO, as an `FNO` of ours."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxsci.nn import CPMixing, DenseMixing, TuckerMixing, wavenumbers

from .fno import FNO, FNOBlock

# Its default activation is the exact error-function form.
_exact_gelu = partial(jax.nn.gelu, approximate=False)


def from_neuralop(state: Mapping[str, Any], *, grid: bool = True, activation=_exact_gelu) -> FNO:
    """An `FNO` that computes what a `neuralop.models.FNO` (version 2) with these weights computes.

    Sizes are read from the weights. Its `n_modes=M` keeps the wavenumbers -M/2 … M/2-1 of every
    axis but the last and 0 … M/2 of the last, so the result has `modes=(M/2, …, M/2 + 1)`; an odd
    M becomes (M+1)/2 with zero weight for the wavenumber that it lacks. Dense, Tucker and CP
    weights, both blocks (with and without MLP over channels), linear and identity skips are
    supported.

    The results agree on every grid whose axes, but for the last, have even size. On odd ones
    neuraloperator 2.0.0 shifts its spectrum back with `fftshift`, which is its own inverse for even
    sizes only, so that every coefficient lands on the neighbouring wavenumber: with all weights 1
    it does not return its input, as it should and ours does. Without its MLP over channels
    (`use_channel_mlp=False`) it applies the activation twice after every layer; the converted
    model does so too.

    **Arguments:**

    - `state`: the `state_dict`, names to arrays (NumPy arrays, or anything `numpy.asarray` takes,
      such as tensors on the CPU). `jaxsci.pde.read_torch_file` reads one without PyTorch.
    - `grid`: whether the model appends the grid's coordinates (its default).
    - `activation`: its `non_linearity`.

    **Raises:** `ValueError` if weights are missing, or the model has parts that are not supported
    (norms, domain padding, complex data), naming them.
    """
    weights = {name: np.asarray(value) for name, value in state.items() if name != "_metadata"}
    used: set[str] = set()

    def take(name: str) -> np.ndarray:
        if name not in weights:
            raise ValueError(f"state: expected a weight {name!r} among {len(weights)} names")
        used.add(name)
        return weights[name]

    depth = 1 + max(
        (int(m[1]) for name in weights if (m := re.match(r"fno_blocks\.convs\.(\d+)\.", name))),
        default=-1,
    )
    if depth == 0:
        raise ValueError("state: expected weights 'fno_blocks.convs.0…', found none")
    lifting = _affine_maps("lifting", take, weights)
    projection = _affine_maps("projection", take, weights)
    convs = [_spectral_weights(f"fno_blocks.convs.{i}.", take, weights) for i in range(depth)]
    kind, sizes = convs[0][0], convs[0][1]
    width, n_kept = sizes[0], sizes[2:]
    n_dims = len(n_kept)
    modes = (*(-(-m // 2) for m in n_kept[:-1]), n_kept[-1])
    with_mlp = "fno_blocks.channel_mlp.0.fcs.0.weight" in weights
    hidden = weights["fno_blocks.channel_mlp.0.fcs.0.weight"].shape[0] / width if with_mlp else None
    linear = "fno_blocks.fno_skips.0.conv.weight" in weights
    model = FNO(
        n_dims,
        lifting[0][0].shape[1] - (n_dims if grid else 0),
        projection[-1][0].shape[0],
        width=width,
        modes=modes,
        depth=depth,
        lifting=lifting[0][0].shape[0] / width if len(lifting) > 1 else None,
        projection=projection[0][0].shape[0] / width if len(projection) > 1 else None,
        skip="linear" if linear else "identity",
        channel_mlp=hidden,
        grid=grid,
        activation=activation,
        key=jax.random.key(0),
    )
    # Without the MLP, its block applies the activation twice in a row.
    template = FNOBlock(
        width,
        modes,
        skip="linear" if linear else "identity",
        mixing="dense",
        rank=None,
        init="normal",
        channel_mlp=hidden,
        activation=activation if with_mlp else _Twice(activation),
        key=jax.random.key(0),
    )
    blocks = []
    for i, (_, _, parts) in enumerate(convs):
        block = eqx.tree_at(
            lambda b: (b.spectral.mixing, b.bias),
            template,
            (_mixing(kind, parts, n_kept), jnp.asarray(take(f"fno_blocks.convs.{i}.bias").ravel())),
        )
        if linear:
            skip = jnp.asarray(take(f"fno_blocks.fno_skips.{i}.conv.weight")[..., 0])
            block = eqx.tree_at(lambda b: b.skip.weight, block, skip)
        if with_mlp:
            maps = _affine_maps(f"fno_blocks.channel_mlp.{i}", take, weights)
            gate = jnp.asarray(take(f"fno_blocks.channel_mlp_skips.{i}.weight").ravel())
            block = eqx.tree_at(
                lambda b: (b.mlp, b.gate), block, (_with_maps(block.mlp, maps), gate)
            )
        blocks.append(block)
    unknown = sorted(set(weights) - used)
    if unknown:
        raise ValueError(f"state: weights of parts that are not supported: {', '.join(unknown)}")
    stacked = (
        jax.tree.map(
            lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0],
            *blocks[:-1],
        )
        if depth > 1
        else None
    )
    return eqx.tree_at(
        lambda m: (m.lift, m.project, m.blocks, m.last),
        model,
        (
            _with_maps(model.lift, lifting),
            _with_maps(model.project, projection),
            stacked,
            blocks[-1],
        ),
        is_leaf=lambda x: x is None,
    )


@dataclass(frozen=True)
class _Twice:
    """x ↦ σ(σ(x)); equal for equal σ, so that it is a good static field."""

    activation: Callable[[Array], Array]

    def __call__(self, x: Array) -> Array:
        return self.activation(self.activation(x))


def _affine_maps(prefix: str, take, weights) -> list[tuple[np.ndarray, np.ndarray]]:
    n = sum(1 for name in weights if re.fullmatch(rf"{re.escape(prefix)}\.fcs\.\d+\.weight", name))
    if n == 0:
        raise ValueError(f"state: expected weights '{prefix}.fcs.0.weight', found none")
    return [
        (take(f"{prefix}.fcs.{i}.weight")[..., 0], take(f"{prefix}.fcs.{i}.bias")) for i in range(n)
    ]


def _with_maps(mlp, maps):
    return eqx.tree_at(
        lambda m: [leaf for layer in m.layers for leaf in (layer.weight, layer.bias)],
        mlp,
        [jnp.asarray(array) for pair in maps for array in pair],
    )


def _spectral_weights(prefix: str, take, weights):
    """The kind of tensor, its shape (c_in, c_out, *modes) and its arrays."""
    if prefix + "weight.tensor" in weights:
        tensor = take(prefix + "weight.tensor")
        return "dense", tensor.shape, (tensor,)
    kind, head = (
        ("tucker", "weight.core") if prefix + "weight.core" in weights else ("cp", "weight.weights")
    )
    core = take(prefix + head)
    n = sum(1 for name in weights if name.startswith(prefix + "weight.factors.factor_"))
    factors = [take(f"{prefix}weight.factors.factor_{i}") for i in range(n)]
    return kind, tuple(f.shape[0] for f in factors), (core, *factors)


def _mixing(kind: str, parts, n_kept):
    """Reorders (c_in, c_out, *modes) to (*modes, c_in, c_out) and wavenumbers to our order."""
    orders = [_positions(m) for m in n_kept[:-1]]

    def reorder(array: np.ndarray, axis: int, position: np.ndarray) -> np.ndarray:
        padded = np.concatenate([array, np.zeros_like(np.take(array, [0], axis))], axis)
        return np.take(padded, position, axis)

    if kind == "dense":
        tensor = np.moveaxis(parts[0], (0, 1), (-2, -1))
        for axis, position in enumerate(orders):
            tensor = reorder(tensor, axis, position)
        return _blank(DenseMixing, weight=_real_parts(tensor))
    head, fan_in, fan_out, *modes = parts
    for axis, position in enumerate(orders):
        modes[axis] = reorder(modes[axis], 0, position)
    factors = tuple(_real_parts(f) for f in (*modes, fan_in, fan_out))
    if kind == "cp":
        return _blank(CPMixing, weights=_real_parts(head), factors=factors)
    core = np.moveaxis(head, (0, 1), (-2, -1))
    return _blank(TuckerMixing, core=_real_parts(core), factors=factors)


def _positions(m: int) -> np.ndarray:
    """Where our wavenumbers 0 … h-1, -h … -1 lie among -(m//2) … ; m stands for "not there"."""
    k = wavenumbers(-(-m // 2)) + m // 2
    return np.where((k >= 0) & (k < m), k, m)


def _real_parts(array: np.ndarray):
    return jnp.stack([np.real(array), np.imag(array)])


def _blank(cls, **fields):
    """An instance with these fields, bypassing the random initialisation."""
    module = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(module, name, value)
    return module
