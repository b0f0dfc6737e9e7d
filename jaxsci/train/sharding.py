"""How a training run is spread over devices: a mesh, and which axis of which array it splits.

    batch  "batch c x ..."   batch over `data`,  x over `space`
    θ, m, v, θ̄               largest axis over `model`, with `fsdp` another one over `data`

The compiler (GSPMD) derives everything else, and adds the communication: a sum over `data` for the
gradients, halos over `space` for convolutions, sums of partial spectra for Fourier layers.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxsci.experiment import process_count

from .data.host import HostData
from .data.sources import AbstractSource
from .state import TrainState

T = TypeVar("T")

AXES = ("data", "model", "space")
"""The axes of a mesh: samples of a batch, channels of a network, points of a grid."""


def make_mesh(
    data: int | None = None,
    model: int = 1,
    space: int = 1,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh of devices with the axes `data`, `model` and `space`.

    **Arguments:**

    - `data`: number of groups that share a batch; None: as many as there are devices for.
    - `model`: number of devices that share a layer's weights.
    - `space`: number of devices that share a grid.
    - `devices`: all by default. `model` and `space` are the innermost axes, so that they run over
        devices that are close to each other.

    **Returns:** a `jax.sharding.Mesh`.

    **Raises:** `ValueError` if the sizes are not positive or their product is not the number of
    devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    for name, size in (("data", data), ("model", model), ("space", space)):
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ValueError(f"make_mesh: {name}={size!r}, expected an integer >= 1")
    if data is None:
        data = max(1, len(devices) // (model * space))
    if data * model * space != len(devices):
        raise ValueError(
            f"make_mesh: data={data}, model={model}, space={space} make "
            f"{data * model * space} devices, but there are {len(devices)}"
        )
    shape = (data, model, space)
    return jax.make_mesh(shape, AXES, (AxisType.Auto,) * len(AXES), devices=devices)


@dataclasses.dataclass(frozen=True)
class Sharding:
    """Which axis of which array is split over which axis of the mesh.

    | kind | how |
    |---|---|
    | data parallel | `Sharding(make_mesh())` |
    | FSDP: weights and optimiser state are split as well | `Sharding(make_mesh(), fsdp=True)` |
    | channels of every layer | `Sharding(make_mesh(model=4))` |
    | first axis of the grid | `Sharding(make_mesh(space=4))` |

    `data`, `fsdp` and one of `model` and `space` combine: `Sharding(make_mesh(data=2, model=4),
    fsdp=True)`. `model` and `space` together are refused: XLA computes some convolutions whose
    channels and grid are both split wrongly (seen with jaxlib 0.10.2).

    **The rule for a model's array** with at least `min_size` entries: the longest axis that the
    size of `model` divides is split over `model`, the later one of two equally long ones; with
    `fsdp` the longest of the other axes that the size of `data` divides is split over `data`.
    Smaller arrays are copied to all devices. The optimiser's moments and the averaged weights have
    the weights' shapes, and so the same splits.

    **The rule for a batch's array:** axis 0 is split over `data`; axis 2, the first of the grid in
    `"batch c *grid"`, over `space`. An array whose axis is not divisible stays whole there.

    **Arguments:**

    - `mesh`: from `make_mesh`, or any mesh with some of its axes.
    - `fsdp`: fully sharded data parallelism.
    - `min_size`: arrays with fewer entries are never split; 1024 is a good value.
    - `rules`: exceptions, `(pattern, spec)`: an array whose path (`model.layers[0].weight`) matches
        the regular expression gets this `jax.sharding.PartitionSpec`. The first match counts.

    **Raises:** `ValueError` for a mesh without any of the axes, or with both `model` and `space`
    larger than 1, a negative `min_size` or a pattern that is no regular expression.

    References: data and tensor parallelism by annotation, Xu et al., arXiv:2105.04663; FSDP,
    Rajbhandari et al., arXiv:1910.02054.
    """

    mesh: Mesh
    fsdp: bool = False
    min_size: int = 1024
    rules: tuple[tuple[str, PartitionSpec], ...] = ()

    def __post_init__(self):
        if not set(AXES) & set(self.mesh.axis_names):
            raise ValueError(
                f"Sharding: the mesh has the axes {self.mesh.axis_names}, expected some of {AXES}"
            )
        model, space = self.size("model"), self.size("space")
        if model > 1 and space > 1:
            raise ValueError(
                f"Sharding: the mesh has model={model} and space={space}, "
                "expected at most one of them above 1: XLA computes some convolutions whose "
                "channels and grid are both split wrongly"
            )
        if self.min_size < 0:
            raise ValueError(f"Sharding: min_size={self.min_size}, expected at least 0")
        for pattern, _ in self.rules:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"Sharding: rules has the pattern {pattern!r}: {error}") from None

    def size(self, axis: str) -> int:
        """The number of devices along an axis of the mesh; 1 if it has no such axis."""
        return self.mesh.shape.get(axis, 1)

    def whole(self) -> NamedSharding:
        """Every device has all of the array."""
        return NamedSharding(self.mesh, PartitionSpec())

    def of_model(self, tree: PyTree) -> PyTree:
        """The shardings of a model, an optimiser state or a training state, array by array.

        **Raises:** `ValueError` if a rule's spec does not fit the array it names.
        """

        return self._of(tree, "")

    def build(self, make: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """A model that is made on the devices it is split over, and never whole on one of them.

            model = sharding.build(FNO, 2, 1, 1, width=256, modes=32, depth=4, key=key)

        It is `make(*arguments, **options)` as one compiled program, so that a number may differ in
        its last digit from what `make` gives by itself.

        **Arguments:**

        - `make`: makes the model; traceable.
        - `arguments`, `options`: what it is called with.
        """
        shapes = eqx.filter_eval_shape(lambda: make(*arguments, **options))
        dynamic, static = eqx.partition(shapes, _is_array_or_shape)
        where = jax.tree.leaves(self._of(dynamic, "model"))

        def arrays():
            return jax.tree.leaves(eqx.filter(make(*arguments, **options), eqx.is_array))

        leaves = jax.jit(arrays, out_shardings=where)()
        return eqx.combine(jax.tree.unflatten(jax.tree.structure(dynamic), leaves), static)

    def init(self, make: Callable[[PyTree], T], weights: PyTree) -> T:
        """`make(weights)`, for an optimiser's `init`: a state that is split as it is made.

        **Arguments:**

        - `make`: the optimiser's `init`; traceable.
        - `weights`: the weights, which may be split already.
        """
        shapes = eqx.filter_eval_shape(make, weights)
        dynamic, static = eqx.partition(shapes, _is_array_or_shape)
        where = jax.tree.leaves(self._of(dynamic, "opt_state"))

        def arrays(weights):
            return jax.tree.leaves(eqx.filter(make(weights), eqx.is_array))

        leaves = jax.jit(arrays, out_shardings=where)(weights)
        return eqx.combine(jax.tree.unflatten(jax.tree.structure(dynamic), leaves), static)

    def place_model(self, model: PyTree) -> PyTree:
        """The model with its arrays split by rule."""
        arrays, static = eqx.partition(model, eqx.is_array)
        return eqx.combine(put(arrays, self._of(arrays, "model")), static)

    def gathered(self, model: PyTree) -> PyTree:
        """The model as the loss uses it under FSDP: every weight whole along `data`.

        Left to itself the compiler may keep the weights where they are and move the activations,
        which are larger. `fit` calls this; a step of your own for `train` calls it on the weights
        it differentiates.
        """

        def one(sharding, leaf):
            if sharding is None:
                return leaf
            spec = [None if axes == "data" else axes for axes in sharding.spec]
            where = NamedSharding(self.mesh, PartitionSpec(*spec))
            return jax.lax.with_sharding_constraint(leaf, where)

        shardings = self._of(model, "model")
        return jax.tree.map(one, shardings, model, is_leaf=lambda x: x is None)

    def of_batch(self, batch: PyTree) -> PyTree:
        """The shardings of a batch, array by array."""
        return jax.tree.map(lambda leaf: self._batch_leaf(leaf, 0), batch)

    def of_stacked_batches(self, batches: PyTree) -> PyTree:
        """The shardings of batches that are stacked along a new leading axis."""
        return jax.tree.map(lambda leaf: self._batch_leaf(leaf, 1), batches)

    def of_source(self, source: PyTree) -> PyTree:
        """The shardings of a source's arrays: whole, but for the grid's axis of the samples.

        A batch is drawn anew from all samples at every step, so every device keeps all of them.
        """

        def one(leaf):
            spec = self._batch_leaf(leaf, 0).spec
            return NamedSharding(self.mesh, PartitionSpec(None, *spec[1:]))

        return jax.tree.map(one, eqx.filter(source, eqx.is_array))

    def place(self, state: TrainState) -> TrainState:
        """The state with its arrays on the devices: the source's state whole, all else by rule."""
        arrays, static = eqx.partition(state, eqx.is_array)
        return eqx.combine(put(arrays, self.of_state(arrays)), static)

    def of_state(self, state: TrainState) -> TrainState:
        """The shardings of a training state, array by array."""
        shardings = self.of_model(eqx.filter(state, eqx.is_array))
        whole = jax.tree.map(lambda _: self.whole(), shardings.data)
        return eqx.tree_at(lambda s: s.data, shardings, whole, is_leaf=lambda x: x is None)

    def _of(self, tree: PyTree, prefix: str) -> PyTree:
        """The shardings of a part of the training state, where rules know it by its whole path."""

        def one(path, leaf):
            if not _is_array_or_shape(leaf):
                return None
            name = (prefix + jax.tree_util.keystr(path)).lstrip(".")
            return NamedSharding(self.mesh, self._spec(name, leaf))

        return jax.tree_util.tree_map_with_path(one, tree)

    def _spec(self, name: str, leaf: Any) -> PartitionSpec:
        for pattern, spec in self.rules:
            if re.search(pattern, name):
                self._require_fit(name, leaf, spec)
                return spec
        axes: list[str | None] = [None] * leaf.ndim
        if leaf.size < self.min_size or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return PartitionSpec()
        for axis in ("model", *(("data",) if self.fsdp else ())):
            n = self.size(axis)
            free = [i for i in range(leaf.ndim) if axes[i] is None and leaf.shape[i] % n == 0]
            if n > 1 and free:
                axes[max(free, key=lambda i: (leaf.shape[i], i))] = axis
        return PartitionSpec(*axes)

    def _require_fit(self, name: str, leaf: Any, spec: PartitionSpec) -> None:
        if len(spec) > leaf.ndim:
            raise ValueError(f"Sharding: {name} has shape {leaf.shape}, its rule is {spec}")
        for length, axes in zip(leaf.shape, spec, strict=False):
            names = () if axes is None else axes if isinstance(axes, tuple) else (axes,)
            n = math.prod(self.size(axis) for axis in names)
            if length % n:
                raise ValueError(
                    f"Sharding: {name} has shape {leaf.shape}, of which an axis cannot be split "
                    f"into {n} parts, as its rule {spec} wants"
                )

    def _batch_leaf(self, leaf: Any, axis: int) -> NamedSharding:
        spec: list[str | None] = [None] * leaf.ndim
        for i, name in ((axis, "data"), (axis + 2, "space")):
            if i < leaf.ndim and self.size(name) > 1 and leaf.shape[i] % self.size(name) == 0:
                spec[i] = name
        return NamedSharding(self.mesh, PartitionSpec(*spec))


def _is_array_or_shape(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def put(tree: PyTree, shardings: PyTree) -> PyTree:
    """Arrays that are equal in all processes, spread as told; those that are so already stay."""

    def one(leaf, sharding):
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            return leaf
        if process_count() > 1 and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            values = np.asarray(leaf)
            return jax.make_array_from_callback(values.shape, sharding, lambda i: values[i])
        if process_count() > 1:
            data = one(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jax.device_put(leaf, sharding)

    return jax.tree.map(one, tree, shardings)


def to_host(leaf: Any) -> np.ndarray:
    """All of an array's values, wherever its parts are; every process of a job calls it."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        from jax.experimental import multihost_utils

        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.array(leaf)


def home(leaf: Any) -> jax.Array:
    """An array's values on the default device, free to go where other arrays are."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = home(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return jnp.array(to_host(leaf))


def data_parallel(batch: PyTree, devices: Sequence[jax.Device]) -> tuple[Sharding | None, int]:
    """Data parallelism on as many of the devices as divide the batch evenly.

    **Arguments:**

    - `batch`: a batch, or its shapes.
    - `devices`: what there is.

    **Returns:** the sharding, or None if that is one device; and the number of devices used.
    """
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(batch) if len(leaf.shape) > 0}
    n = math.gcd(len(devices), *sizes) if sizes else 1
    if n == 1:
        return None, 1
    return Sharding(make_mesh(devices=list(devices)[:n])), n


def choose_sharding(
    wanted: Sharding | Mesh | bool | None,
    state: TrainState,
    source: AbstractSource | None,
    host: HostData | None,
    say: Callable[[str], None],
) -> tuple[Sharding | None, bool]:
    """What `fit(sharding=...)` means on this machine.

    **Arguments:**

    - `wanted`: as for `fit`.
    - `state`, `source`, `host`: the run's state, and its pure source or its batches.
    - `say`: where a message goes.

    **Returns:** the sharding, and whether results come back to the default device, as they do
    where the devices were not asked for.

    **Raises:** `TypeError` if `wanted` is something else.
    """
    if isinstance(wanted, Sharding):
        return wanted, False
    if isinstance(wanted, Mesh):
        return Sharding(wanted), False
    if wanted not in (None, True, False):
        raise TypeError(
            f"fit: sharding={wanted!r}, expected a Sharding, a Mesh, True, False or None"
        )
    devices = jax.devices()
    arrays = [leaf for leaf in jax.tree.leaves(state) if eqx.is_array(leaf)]
    spread = any(len(leaf.sharding.device_set) > 1 for leaf in arrays)
    chosen = jax.config.values["jax_default_device"] is not None
    if wanted is False or len(devices) == 1 or spread or (chosen and not wanted):
        return None, True
    if source is not None:
        batch = eqx.filter_eval_shape(lambda: source.next(state.data)[0])
    else:
        batch = None if host is None else host.first()
    if process_count() > 1 and host is not None:
        # Each process brings its own part of a batch.
        batch = jax.tree.map(
            lambda x: (
                jax.ShapeDtypeStruct((process_count() * x.shape[0], *x.shape[1:]), x.dtype)
                if np.ndim(x) > 0
                else x
            ),
            batch,
        )
    sharding, n = data_parallel(batch, devices)
    sizes = sorted({leaf.shape[0] for leaf in jax.tree.leaves(batch) if leaf.ndim > 0})
    samples = " and ".join(map(str, sizes))
    if process_count() > 1 and n < len(devices):
        raise ValueError(
            f"fit: a batch of {samples} samples cannot be spread over the {len(devices)} devices "
            f"of {process_count()} processes; choose a multiple of {len(devices)}"
        )
    say(f"each batch ({samples} samples) is spread over {n} of {len(devices)} devices")
    return sharding, True
