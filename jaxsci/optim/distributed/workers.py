"""W workers that compute on their own data: devices of a mesh, or one device for all of them.

    fn(shared, own_w)  for w = 1 … W,     x̄ = (1/W) Σ_w x_w  by `jax.lax.pmean(x, axis)`

What a worker owns (its part of a batch, its error buffer) has a leading axis of length W outside
and none inside; what is shared has no such axis. The same function runs by `jax.shard_map` on a
mesh, and by `jax.vmap` with a named axis on a single device, where it is for trying things out.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar


@dataclasses.dataclass(frozen=True)
class Workers:
    """Who computes.

    **Arguments:**

    - `where`: a `jax.sharding.Mesh`, or a number of workers that one device plays.
    - `axis`: the name of the axis of workers, to be used in `jax.lax.pmean`. Over the other axes
        of a mesh all is repeated.
    - `check`: let `jax.shard_map` check which values differ between workers. A loss whose loops
        start from constants fails that check; turn it off then, or use `jax.lax.pcast` in the
        loss.

    **Raises:** `ValueError` if the mesh has no such axis or the number is not positive, `TypeError`
    for something else.
    """

    where: Mesh | int
    axis: str = "data"
    check: bool = True

    def __post_init__(self):
        if isinstance(self.where, Mesh):
            if self.axis not in self.where.axis_names:
                raise ValueError(
                    f"Workers: axis = {self.axis!r}, but the mesh has {self.where.axis_names}"
                )
            # With axes of the kind Explicit, the kind that `jax.make_mesh` gives, arguments would
            # have to be spread by hand before.
            auto = (AxisType.Auto,) * len(self.where.axis_names)
            mesh = Mesh(self.where.devices, self.where.axis_names, axis_types=auto)
            object.__setattr__(self, "where", mesh)
        elif isinstance(self.where, bool) or not isinstance(self.where, int):
            raise TypeError(f"Workers: where = {self.where!r}, expected a Mesh or an integer")
        elif self.where < 1:
            raise ValueError(f"Workers: where = {self.where}, expected a positive number")

    @property
    def count(self) -> int:
        """W."""
        return self.where.shape[self.axis] if isinstance(self.where, Mesh) else self.where

    @property
    def own(self) -> PartitionSpec:
        """The spec of what each worker has for itself."""
        return PartitionSpec(self.axis)

    @property
    def shared(self) -> PartitionSpec:
        """The spec of what is the same for all."""
        return PartitionSpec()

    def map(
        self, fn: Callable[..., Any], in_specs: tuple[PyTree, ...], out_specs: PyTree
    ) -> Callable[..., Any]:
        """`fn` for every worker, where specs (prefixes of the arguments) are `own` or `shared`."""

        def is_spec(x: Any) -> bool:
            return isinstance(x, PartitionSpec)

        if not isinstance(self.where, Mesh):

            def axes(specs: PyTree) -> PyTree:
                return jax.tree.map(lambda s: 0 if len(s) else None, specs, is_leaf=is_spec)

            return jax.vmap(
                fn,
                axes(in_specs),
                axes(out_specs),
                axis_name=self.axis,
                axis_size=self.count,
            )

        def on_own(change: Callable[[Array], Array], specs: PyTree, tree: PyTree) -> PyTree:
            def one(spec: PartitionSpec, part: PyTree) -> PyTree:
                return jax.tree.map(change, part) if len(spec) else part

            return jax.tree.map(one, specs, tree, is_leaf=is_spec)

        def local(*args: Any) -> Any:
            out = fn(*on_own(lambda x: x[0], in_specs, args))
            return on_own(lambda x: x[None], out_specs, out)

        return jax.shard_map(
            local, mesh=self.where, in_specs=in_specs, out_specs=out_specs, check_vma=self.check
        )

    def place(self, tree: PyTree, specs: PyTree) -> PyTree:
        """The arrays where their specs say; unchanged on one device."""
        if not isinstance(self.where, Mesh):
            return tree
        mesh = self.where

        def one(spec: PartitionSpec, part: PyTree) -> PyTree:
            return jax.device_put(part, NamedSharding(mesh, spec))

        return jax.tree.map(one, specs, tree, is_leaf=lambda x: isinstance(x, PartitionSpec))

    def repeat(self, tree: PyTree) -> PyTree:
        """A copy for each worker: a leading axis of length W."""
        return jax.tree.map(lambda x: jnp.tile(x, (self.count, *(1,) * jnp.ndim(x))), tree)

    def split(self, batch: PyTree) -> PyTree:
        """A batch of W·b samples as W batches of b.

        **Raises:** `ValueError` if W does not divide the number of samples.
        """

        def one(x: Array) -> Array:
            if jnp.ndim(x) == 0 or x.shape[0] % self.count:
                raise ValueError(
                    f"Workers: an array of shape {jnp.shape(x)} cannot be split between "
                    f"{self.count} workers"
                )
            return x.reshape(self.count, -1, *x.shape[1:])

        return jax.tree.map(one, batch)

    def varying(self, tree: PyTree) -> PyTree:
        """Shared values as each worker's own, inside `map`.

        The gradient with respect to a *shared* value is summed over the workers by JAX (the
        transposed copy); with respect to an own value it stays with the worker.
        """
        if not isinstance(self.where, Mesh) or not self.check:
            return tree
        return jax.tree.map(lambda x: jax.lax.pcast(x, self.axis, to="varying"), tree)


def mean_over_workers(tree: PyTree, axis_name: str | None) -> PyTree:
    """The mean of a tree over the workers, as one message for each number format.

    **Arguments:** `tree`: arrays of any shapes; `axis_name`: of the workers, or None for one.
    """
    if axis_name is None:
        return tree
    leaves, treedef = jax.tree.flatten(tree)
    groups: dict[Any, list[int]] = {}
    for i, leaf in enumerate(leaves):
        if jnp.size(leaf):
            groups.setdefault(jnp.result_type(leaf), []).append(i)
    for members in groups.values():
        buffer = jnp.concatenate([jnp.ravel(leaves[i]) for i in members])
        buffer = jax.lax.pmean(buffer, axis_name)
        start = 0
        for i in members:
            shape, size = jnp.shape(leaves[i]), jnp.size(leaves[i])
            leaves[i] = jax.lax.slice_in_dim(buffer, start, start + size).reshape(shape)
            start += size
    return jax.tree.unflatten(treedef, leaves)


def mean_gradients(axis_name: str = "data") -> optax.GradientTransformation:
    """The plain average over the workers as a transformation: what compression is measured by.

    **Arguments:** `axis_name`: the axis of workers. **Returns:** a stateless transformation.
    """
    return optax.stateless(lambda updates, params: mean_over_workers(updates, axis_name))


class DataParallel(NamedTuple):
    """What `data_parallel` returns.

    - `init(params) -> (params, state)`, both placed on the workers' devices.
    - `step(params, state, batch, key) -> (params, state, value)`.
    """

    init: Callable[[PyTree], tuple[PyTree, optax.OptState]]
    step: Callable[..., tuple[PyTree, optax.OptState, Scalar]]


def data_parallel(
    loss: Callable[[PyTree, PyTree, PRNGKeyArray], Scalar],
    optimizer: optax.GradientTransformation,
    workers: Workers,
    own_state: Callable[[PyTree], bool] = lambda node: False,
) -> DataParallel:
    """Steps with the gradients of all workers, which `optimizer` itself brings together.

    `optimizer` gets each worker's own gradient, and has to make one update of them: it begins with
    `powersgd(axis_name=workers.axis)` or `mean_gradients(workers.axis)`.

    **Arguments:**

    - `loss`: `(params, batch, key) -> scalar`, the mean over a worker's part of the batch.
    - `optimizer`: an optax transformation; it also gets `value` (the workers' mean).
    - `workers`: who computes.
    - `own_state`: which nodes of the state are a worker's own. PowerSGD's error buffers are found
        without it.

    **Returns:** `init` and `step`, both pure; put `jax.jit` around `step`. `batch` is one for all
    workers, of W·b samples; `value` is the mean loss.

    **Raises:** `ValueError` if W does not divide the batch.
    """
    transform = optax.with_extra_args_support(optimizer)

    def is_own(node: PyTree) -> bool:
        return isinstance(node, Own) or own_state(node)

    def specs(state: optax.OptState) -> PyTree:
        return jax.tree.map(
            lambda node: workers.own if is_own(node) else workers.shared, state, is_leaf=is_own
        )

    def init(params: PyTree) -> tuple[PyTree, optax.OptState]:
        def one(node: PyTree) -> PyTree:
            return workers.repeat(node) if is_own(node) else node

        state = jax.tree.map(one, transform.init(params), is_leaf=is_own)
        return workers.place(params, workers.shared), workers.place(state, specs(state))

    def local(params: PyTree, state: optax.OptState, batch: PyTree, key: PRNGKeyArray):
        key = jax.random.fold_in(key, jax.lax.axis_index(workers.axis))
        value, grads = jax.value_and_grad(loss)(workers.varying(params), batch, key)
        value = jax.lax.pmean(value, workers.axis)
        updates, state = transform.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    def step(params: PyTree, state: optax.OptState, batch: PyTree, key: PRNGKeyArray):
        where = specs(state)
        shared, own = workers.shared, workers.own
        mapped = workers.map(local, (shared, where, own, shared), (shared, where, shared))
        return mapped(params, state, workers.split(batch), key)

    return DataParallel(init, step)


class Own(NamedTuple):
    """Marks a part of an optimiser's state as a worker's own: not to be averaged or copied."""

    value: PyTree
