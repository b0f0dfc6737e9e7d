"""Flax modules, linen and nnx, as Equinox modules. Flax itself is imported on first use only."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxsci.nn.buffer import Buffer

if TYPE_CHECKING:
    import flax.linen
    from flax import nnx


class FlaxModel(eqx.Module):
    """A Flax module that works wherever an Equinox module does.

    Its parameters are leaves (`model.params`), so `equinox.filter_grad`, optax, `fit`, checkpoints
    and `vmap` see what they see in any model; all the rest of the module is static and hashable, so
    a second call compiles nothing. Make one with `FlaxModel.linen` or `FlaxModel.nnx`.

        model = FlaxModel.linen(flax.linen.Dense(3), jnp.ones(2), key=key)
        model = FlaxModel.nnx(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
        y = model(x, key=key)

    *Randomness.* Dropout draws from the call's `key`, never from a hidden stream.
    `equinox.nn.inference_mode(model)` switches it off.

    *Mutable collections* (batch statistics, spectral norms) do not fit a pure call, so a module
    that has them is refused unless `frozen=True`. Then they are kept beside the parameters, out of
    the optimiser's reach; a call that would change them raises, and `model.mutate(…)` returns the
    output together with the model in which they are changed.

    *Layout.* Flax's convolutions want channels last; with `channels_first=True` the first argument
    and the result are "c *grid", as everywhere in this package.

    `params` is the module's own dictionary for linen, and a flat one, `"layers.0.kernel"`, for nnx.
    """

    params: PyTree[Array]
    collections: PyTree[Buffer]
    inference: bool
    adapter: "_Linen | _NNX" = eqx.field(static=True)
    channels_first: bool = eqx.field(static=True)

    @classmethod
    def linen(
        cls,
        module: "flax.linen.Module",
        *example_args: Any,
        key: PRNGKeyArray | None = None,
        variables: Mapping[str, Any] | None = None,
        rngs: Sequence[str] = ("dropout",),
        train_kwargs: Mapping[str, Hashable] | None = None,
        inference_kwargs: Mapping[str, Hashable] | None = None,
        frozen: bool = False,
        channels_first: bool = False,
    ) -> "FlaxModel":
        """Wraps a linen module, initialising it or taking variables it already has.

        **Arguments:**

        - `module`: the module.
        - `example_args`: arguments to initialise with, of the shapes to come.
        - `key`: random key of the initialisation.
        - `variables`: instead of `example_args` and `key`: what `module.init` or a training gave.
        - `rngs`: names of the random streams the module draws from.
        - `train_kwargs`, `inference_kwargs`: keywords of `module.__call__` in training and under
          `equinox.nn.inference_mode`, such as `{"deterministic": False}` and
          `{"deterministic": True}`.
        - `frozen`, `channels_first`: see the class.

        **Raises:** `TypeError` if `module` is no linen module (an instance, not a class), or if it
        or a keyword is not hashable; `ValueError` for mutable collections without `frozen`, and
        unless exactly one of `key` and `variables` is given.
        """
        from flax import linen
        from flax.core import meta, unfreeze

        if not isinstance(module, linen.Module):
            raise TypeError(f"module must be an instance of flax.linen.Module, got {module!r}")
        if (key is None) == (variables is None):
            raise ValueError("give either key (to initialise) or variables, not both or neither")
        adapter = _Linen(
            _hashable("module", module),
            tuple(rngs),
            _hashable("train_kwargs", tuple(sorted((train_kwargs or {}).items()))),
            _hashable("inference_kwargs", tuple(sorted((inference_kwargs or {}).items()))),
        )
        if variables is None:
            assert key is not None
            keys = jax.random.split(key, 1 + len(rngs))
            streams = dict(zip(("params", *rngs), keys, strict=True))
            args = _swap_first(example_args, 0, -1) if channels_first else example_args
            keywords: dict[str, Any] = dict(adapter.train_kwargs)
            variables = module.init(streams, *args, **keywords)
        collections = dict(unfreeze(meta.unbox(variables)))
        params = collections.pop("params", {})
        # Values that layers sowed while initialising are outputs, not state.
        collections.pop("intermediates", None)
        if collections and not frozen:
            raise _refused(sorted(collections))
        return cls(params, jax.tree.map(Buffer, collections), False, adapter, channels_first)

    @classmethod
    def nnx(
        cls, module: "nnx.Module", *, frozen: bool = False, channels_first: bool = False
    ) -> "FlaxModel":
        """Wraps an nnx module with the parameters it has; the module itself stays as it is.

        In training the module runs in the mode it is in now, under `equinox.nn.inference_mode` as
        after `module.eval()`.

        **Arguments:** `module`: the module. `frozen`, `channels_first`: see the class.

        **Raises:** `TypeError` if `module` is no nnx module (an instance, not a class) or if it is
        not hashable; `ValueError` for mutable collections without `frozen`.
        """
        from flax import nnx

        if not isinstance(module, nnx.Module):
            raise TypeError(f"module must be an instance of flax.nnx.Module, got {module!r}")
        graph, params, streams, state = nnx.split(module, nnx.Param, nnx.RngState, ...)
        in_inference = nnx.clone(module)
        in_inference.eval()
        inference_graph, *_ = nnx.split(in_inference, nnx.Param, nnx.RngState, ...)
        param_names, param_tree = _names_and_tree(params)
        stream_names, stream_tree = _names_and_tree(streams)
        state_names, state_tree = _names_and_tree(state)
        if state_names and not frozen:
            raise _refused(state_names)
        tags = {leaf.tag for _, leaf in nnx.to_flat_state(streams)}
        adapter = _NNX(
            _hashable("module", graph),
            _hashable("module", inference_graph),
            tuple(sorted(tags)),
            param_names,
            _hashable("module", param_tree),
            stream_names,
            _hashable("module", stream_tree),
            state_names,
            _hashable("module", state_tree),
        )
        collections = {
            "streams": [Buffer(leaf) for leaf in jax.tree.leaves(streams)],
            "state": {
                name: Buffer(leaf)
                for name, leaf in zip(state_names, jax.tree.leaves(state), strict=True)
            },
        }
        named = dict(zip(param_names, map(jnp.asarray, jax.tree.leaves(params)), strict=True))
        return cls(named, collections, False, adapter, channels_first)

    def __call__(self, *args: Any, key: PRNGKeyArray | None = None, **kwargs: Any) -> Any:
        """The module's output.

        **Arguments:**

        - `args`, `kwargs`: what the module's `__call__` takes.
        - `key`: for dropout and the like.

        **Raises:** `ValueError` if the module draws random numbers and no key is given, or if it
        would change a mutable collection.
        """
        output, _ = self._run(args, kwargs, key, mutate=False)
        return output

    def mutate(
        self, *args: Any, key: PRNGKeyArray | None = None, **kwargs: Any
    ) -> tuple[Any, "FlaxModel"]:
        """The module's output and the model with the changed collections.

        **Arguments:** as in the call. **Raises:** `ValueError` for a missing key.
        """
        return self._run(args, kwargs, key, mutate=True)

    def _run(self, args, kwargs, key, mutate: bool) -> tuple[Any, "FlaxModel"]:
        if self.channels_first:
            args = _swap_first(args, 0, -1)
        values = jax.tree.map(lambda b: b.value, self.collections, is_leaf=_is_buffer)
        output, values = self.adapter.run(
            self.params, values, args, kwargs, key, bool(self.inference), mutate
        )
        if self.channels_first:
            output = jnp.moveaxis(output, -1, 0)
        changed = jax.tree.map(Buffer, values) if mutate else self.collections
        return output, dataclasses.replace(self, collections=changed)


@dataclasses.dataclass(frozen=True)
class _Linen:
    """The static half of a linen module and how to call it."""

    module: Any
    rngs: tuple[str, ...]
    train_kwargs: tuple[tuple[str, Hashable], ...]
    inference_kwargs: tuple[tuple[str, Hashable], ...]

    def run(self, params, collections, args, kwargs, key, inference: bool, mutate: bool):
        from flax import errors

        streams = None
        if key is not None:
            keys = jax.random.split(key, len(self.rngs))
            streams = dict(zip(self.rngs, keys, strict=True))
        modes = dict(self.inference_kwargs if inference else self.train_kwargs)
        call: Callable = self.module.apply
        try:
            result = call(
                {"params": params, **collections},
                *args,
                rngs=streams,
                mutable=list(collections) if mutate else False,
                **{**modes, **kwargs},
            )
        except errors.InvalidRngError as error:
            raise ValueError(
                f"the module draws random numbers: give key, with its stream among rngs={self.rngs}"
            ) from error
        except errors.ModifyScopeVariableError as error:
            raise _would_change(sorted(collections)) from error
        if not mutate:
            return result, collections
        output, changed = result
        return output, {name: changed[name] for name in collections}


@dataclasses.dataclass(frozen=True)
class _NNX:
    """The static half of an nnx module and how to put it together for one call."""

    graph: Any
    inference_graph: Any
    tags: tuple[str, ...]
    param_names: tuple[str, ...]
    param_tree: Any
    stream_names: tuple[str, ...]
    stream_tree: Any
    state_names: tuple[str, ...]
    state_tree: Any

    def run(self, params, collections, args, kwargs, key, inference: bool, mutate: bool):
        from flax import nnx

        state = [collections["state"][name] for name in self.state_names]
        module = nnx.merge(
            self.inference_graph if inference else self.graph,
            jax.tree.unflatten(self.param_tree, [params[name] for name in self.param_names]),
            jax.tree.unflatten(self.stream_tree, collections["streams"]),
            jax.tree.unflatten(self.state_tree, state),
        )
        if key is not None and self.tags:
            keys = jax.random.split(key, len(self.tags))
            nnx.reseed(module, **dict(zip(self.tags, keys, strict=True)))
        output = module(*args, **kwargs)
        _, _, streams, _, after = nnx.split(module, nnx.Param, nnx.RngState, nnx.Intermediate, ...)
        if key is None and _changed(collections["streams"], streams):
            raise ValueError("the module draws random numbers: give key")
        if not mutate and _changed(state, after):
            raise _would_change(self.state_names)
        changed = dict(zip(self.state_names, jax.tree.leaves(after), strict=True))
        return output, {"streams": collections["streams"], "state": changed}


def _changed(before: list[Array], after: PyTree[Array]) -> bool:
    # While tracing there is no value to compare: a variable was set if it holds another object.
    leaves = jax.tree.leaves(after)
    return len(leaves) != len(before) or any(
        a is not b for a, b in zip(before, leaves, strict=True)
    )


def _names_and_tree(state: Any) -> tuple[tuple[str, ...], Any]:
    """Dotted names of a state's leaves, in flattening order, and the state's tree structure."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(state)
    # The last entry of a path is the variable's own field.
    names = (jax.tree_util.keystr(path[:-1], simple=True, separator=".") for path, _ in leaves)
    return tuple(names), tree


def _swap_first(args: Sequence[Any], source: int, destination: int) -> tuple[Any, ...]:
    if not args:
        raise ValueError("channels_first needs the field as first positional argument, got none")
    return (jnp.moveaxis(jnp.asarray(args[0]), source, destination), *args[1:])


def _is_buffer(node: Any) -> bool:
    return isinstance(node, Buffer)


def _hashable(name: str, value: Any) -> Any:
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(
            f"{name} must be hashable, or every call would compile again; a field of it is not: "
            f"{error} (use a tuple for a list, a module's variable for an array)"
        ) from error
    return value


def _refused(names: Sequence[str]) -> ValueError:
    return ValueError(
        f"the module has mutable collections {list(names)}, which a pure call cannot update. Give "
        f"frozen=True to keep them as they are (and `mutate` to change them explicitly), or use a "
        f"module without them, such as GroupNorm in place of BatchNorm"
    )


def _would_change(names: Sequence[str]) -> ValueError:
    return ValueError(
        f"the call would change the mutable collections {list(names)}: use `mutate`, which returns "
        f"the changed model, or a mode that only reads them (`equinox.nn.inference_mode`)"
    )
