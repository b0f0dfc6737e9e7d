"""Checkpoints: orbax directories that survive a kill at any moment and know what they belong to."""

import base64
import contextlib
import dataclasses
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxsci.experiment import from_first, is_first, process_count

from .background import Background
from .loop import leaf_names
from .sharding import put, to_host

FORMAT = 1
"""Version of what a checkpoint holds; raised when an older program could not read it."""


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message says which and why."""


class CheckpointMismatch(CheckpointError):
    """A checkpoint is sound but belongs to another run; the message names the difference."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where, when and how many checkpoints are kept.

    **Arguments:**

    - `folder`: its sub-folders `<step>` are the checkpoints.
    - `every`: steps between checkpoints. None: at every evaluation, or ten in a run if there is
        none. The last step always has one.
    - `keep_last`: how many of the newest are kept.
    - `best`: the name of a value that `evaluate` returns; the checkpoint with the best one is kept
        as well.
    - `mode`: whether the best is the `"min"` or the `"max"`.
    - `identity`: what the run is, as plain values (`{"experiment": "burgers", "width": 64}`): a
        checkpoint with another identity is refused.
    - `resume`: go on from the newest sound checkpoint. None: as the logger says.

    **Raises:** `ValueError` for `every` or `keep_last` below 1 or an unknown `mode`; `TypeError`
    if `identity` is not made of plain values.
    """

    folder: str | os.PathLike
    every: int | None = None
    keep_last: int = 2
    best: str | None = None
    mode: str = "min"
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    resume: bool | None = None

    def __post_init__(self):
        for name in ("every", "keep_last"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Checkpoints: {name}={value!r}, expected at least 1")
        if self.mode not in ("min", "max"):
            raise ValueError(f"Checkpoints: mode={self.mode!r}, expected 'min' or 'max'")
        try:
            json.dumps(dict(self.identity))
        except TypeError as error:
            raise TypeError(
                f"Checkpoints: identity must be made of plain values: {error}"
            ) from None


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint holds.

    - `state`: the training state; its arrays are stored, nothing else of it.
    - `series`: arrays of any length by name (the history of metrics).
    - `iterator`: the state of a host iterator: plain values or bytes, or None.
    - `source`: what the data were (`describe()`).
    """

    state: PyTree
    series: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    iterator: Any = None
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Checkpointer:
    """Writes and reads the checkpoints of one run; a context manager that owns the folder.

    Writing is asynchronous and atomic: a thread of its own takes the arrays from the device, sums
    them up and has orbax write them to a temporary directory, which gets its name at the end, so a
    killed process leaves only whole checkpoints. Numbers are not compressed: random digits do not
    get smaller, and trying takes the processor from the training. Every array's CRC-32 is stored
    and compared on reading (orbax itself does not notice a flipped bit in a large array): a
    checkpoint that was damaged later is reported, set aside as `<step>.damaged`, and the one before
    it is used. One run owns the folder at a time.

    **Arguments:**

    - `plan`: a `Checkpoints`.
    - `say`: where messages go.

    **Raises:** `CheckpointError` on entry if the folder cannot be written or another process runs
    in it.
    """

    def __init__(self, plan: Checkpoints, say: Callable[[str], None]):
        self.folder = Path(plan.folder).absolute()
        self._plan = plan
        self._say = say
        self._manager: Any = None
        self._background = Background("checkpoints")
        self._lock: int | None = None

    def __enter__(self) -> "Checkpointer":
        from_first(self._take)
        return self

    def _take(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder / ".lock")
            # Orbax's threads log pages of tracebacks about what is raised here in one line.
            logging.getLogger("absl").addFilter(_is_not_about_saving)
        except OSError as error:
            raise CheckpointError(
                f"checkpoints cannot be written to {self.folder}: {error.strerror}"
            ) from error

    def __exit__(self, kind, error, traceback) -> None:
        try:
            try:
                self._background.close()
            finally:
                if self._manager is not None:
                    with _clear_errors(self.folder):
                        self._manager.close()
        except CheckpointError as failure:
            if error is None:
                raise
            self._say(str(failure))  # What went wrong first is what is raised.
        finally:
            logging.getLogger("absl").removeFilter(_is_not_about_saving)
            if self._lock is not None:
                os.close(self._lock)  # Closing releases the lock, as does the death of the process.

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def save(
        self, step: int, snapshot: Snapshot, values: Mapping[str, float] | None = None
    ) -> None:
        """Writes a checkpoint in the background, after waiting for the one before it.

        **Arguments:**

        - `step`: the number of updates made.
        - `snapshot`: its arrays must not be donated or overwritten before `wait` returns.
        - `values`: what `evaluate` gave at this step, if it ran.

        **Raises:** `CheckpointError` if the one before it could not be written.
        """
        names, leaves = leaf_names(snapshot.state), _arrays(snapshot.state)
        signatures = [[name, *_signature(x)] for name, x in zip(names, leaves, strict=True)]
        leaves = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves]
        if process_count() > 1:
            # All take part in collecting what is spread over them; one writes.
            leaves = [to_host(leaf) for leaf in leaves]
        if not is_first():
            return
        arrays = {f"state.{i}": leaf for i, leaf in enumerate(leaves)}
        arrays |= {f"series.{name}": np.array(array) for name, array in snapshot.series.items()}
        meta = {
            "format": FORMAT,
            "step": step,
            "state": signatures,
            "identity": dict(self._plan.identity),
            "source": dict(snapshot.source),
            "iterator": _pack(snapshot.iterator),
        }
        score = None
        if self._plan.best is not None:
            # A checkpoint without an evaluation, or with NaN, is no candidate for the best.
            score = float(values[self._plan.best]) if values else np.nan
            worst = np.inf if self._plan.mode == "min" else -np.inf
            score = {"score": worst if np.isnan(score) else score}
        self._background.start(lambda: self._write(step, arrays, meta, score))

    def _write(
        self,
        step: int,
        arrays: Mapping[str, Any],
        meta: dict[str, Any],
        score: dict[str, float] | None,
    ) -> None:
        """Takes the arrays from the device and puts everything on disk."""
        with _clear_errors(self.folder):
            import orbax.checkpoint as ocp

            stored = {name: np.asarray(array) for name, array in arrays.items()}
            sums = {
                name: [list(array.shape), array.dtype.name, _crc(array)]
                for name, array in stored.items()
            }
            # Orbax refuses arrays without elements; their shape says all there is to restore.
            stored = {name: array for name, array in stored.items() if array.size}
            self._open().save(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.PyTreeSave(stored),
                    meta=ocp.args.JsonSave({**meta, "arrays": sums}),
                ),
                metrics=score,
                force=True,
            )

    def wait(self) -> None:
        """Waits until everything is on disk.

        **Raises:** `CheckpointError` if it could not be written.
        """
        self._background.wait()

    def restore(self, like: Snapshot) -> tuple[int, Snapshot] | None:
        """The newest sound checkpoint, or None if there is none.

        **Arguments:**

        - `like`: the snapshot of a fresh run. Arrays come from the checkpoint, everything else
            (functions, static fields, shardings) from `like`.

        **Raises:** `CheckpointMismatch` if the checkpoint is of another format, identity, model
        or data source; `CheckpointError` if there are checkpoints but none is sound.
        """
        found = from_first(lambda: self._newest(like))
        if found is None:
            return None
        step, stored, meta = found
        return step, self._build(stored, meta, like)

    def _newest(self, like: Snapshot) -> tuple[int, dict[str, np.ndarray], dict[str, Any]] | None:
        steps = self.steps()
        for step in reversed(steps):
            try:
                return step, *self._read(step, like)
            except CheckpointError:
                raise
            except Exception as error:
                self._set_aside(step, error)
        if steps:
            raise CheckpointError(
                f"all checkpoints in {self.folder} are damaged (steps {steps}); remove the folder "
                "to start afresh"
            )
        return None

    def clear(self) -> None:
        """Moves the checkpoints of an earlier run to `<folder>.previous`, to start afresh."""
        if not is_first() or not self.steps():
            return
        previous = self.folder.with_name(self.folder.name + ".previous")
        shutil.rmtree(previous, ignore_errors=True)
        previous.mkdir()
        for step in self.steps():
            (self.folder / str(step)).rename(previous / str(step))
        self._say(f"starting afresh: the earlier run's checkpoints are now in {previous}")

    def _open(self) -> Any:
        if self._manager is None:
            # Imported here: orbax takes a third of a second, and not every run keeps checkpoints.
            import orbax.checkpoint as ocp
            from orbax.checkpoint.checkpoint_managers import preservation_policy as preservation

            def score(values):
                return values["score"]

            policies: list[Any] = [preservation.LatestN(self._plan.keep_last)]
            if self._plan.best is not None:
                policies.append(
                    preservation.BestN(
                        get_metric_fn=score,
                        reverse=self._plan.mode == "min",
                        n=1,
                    )
                )
            options = _first_alone()
            self._manager = ocp.CheckpointManager(
                self.folder,
                item_handlers={
                    "arrays": ocp.PyTreeCheckpointHandler(
                        use_compression=False, multiprocessing_options=options
                    ),
                    "meta": ocp.JsonCheckpointHandler(multiprocessing_options=options),
                },
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=preservation.AnyPreservationPolicy(policies),
                    best_fn=None if self._plan.best is None else score,
                    cleanup_tmp_directories=True,
                    create=process_count() == 1,
                    multiprocessing_options=options,
                    save_root_metadata=False,
                    enable_async_checkpointing=False,  # This is a thread of its own already.
                ),
            )
        return self._manager

    def _read(self, step: int, like: Snapshot) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What is on disk: the arrays, and all else."""
        import orbax.checkpoint as ocp

        folder = self.folder / str(step)
        meta = _reader(ocp.JsonCheckpointHandler).restore(folder / "meta")
        self._require_same_run(step, meta, like)
        shapes = {
            name: np.zeros(shape, jnp.dtype(dtype))
            for name, (shape, dtype, _) in meta["arrays"].items()
        }
        full = {name: array for name, array in shapes.items() if array.size}
        handler = _reader(ocp.StandardCheckpointHandler)
        stored = shapes | handler.restore(folder / "arrays", args=ocp.args.StandardRestore(full))
        for name, (shape, _, crc) in meta["arrays"].items():
            if stored[name].shape != tuple(shape) or _crc(stored[name]) != crc:
                raise ValueError(f"array {name} does not have the checksum it was written with")
        return {name: np.asarray(array) for name, array in stored.items()}, meta

    def _build(self, stored: Mapping[str, np.ndarray], meta: Any, like: Snapshot) -> Snapshot:
        dynamic, static = eqx.partition(like.state, eqx.is_array)
        leaves, treedef = jax.tree.flatten(dynamic)
        leaves = [_from_host(stored[f"state.{i}"], leaf) for i, leaf in enumerate(leaves)]
        prefix = "series."
        return Snapshot(
            state=eqx.combine(jax.tree.unflatten(treedef, leaves), static),
            series={
                name.removeprefix(prefix): array
                for name, array in stored.items()
                if name.startswith(prefix)
            },
            iterator=_unpack(meta["iterator"]),
            source=meta["source"],
        )

    def _require_same_run(self, step: int, meta: Mapping[str, Any], like: Snapshot) -> None:
        where = f"the checkpoint of step {step} in {self.folder}"
        if meta["format"] != FORMAT:
            raise CheckpointMismatch(
                f"{where} has format version {meta['format']}, this program reads {FORMAT}"
            )
        for what, mine in (("identity", self._plan.identity), ("source", like.source)):
            theirs, mine = _flat(meta[what]), _flat(json.loads(json.dumps(dict(mine))))
            for name in dict.fromkeys([*theirs, *mine]):
                if theirs.get(name) != mine.get(name):
                    raise CheckpointMismatch(
                        f"{where} belongs to another run: {name} is {theirs.get(name)!r} there and "
                        f"{mine.get(name)!r} here"
                    )
        theirs = {name: (dtype, tuple(shape)) for name, dtype, shape in meta["state"]}
        names, leaves = leaf_names(like.state), _arrays(like.state)
        mine = {
            name: (dtype, tuple(shape))
            for name, (dtype, shape) in zip(names, map(_signature, leaves), strict=True)
        }
        if list(theirs.items()) == list(mine.items()):
            return
        for name in [*mine, *theirs]:
            if theirs.get(name) != mine.get(name):
                raise CheckpointMismatch(
                    f"{where} belongs to another model or optimiser: {name} is "
                    f"{_shape_text(theirs.get(name))} there and {_shape_text(mine.get(name))} here"
                )
        raise CheckpointMismatch(f"{where} belongs to another model: its arrays have another order")

    def _set_aside(self, step: int, error: Exception) -> None:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        damaged = self.folder / f"{step}.damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        (self.folder / str(step)).rename(damaged)
        self._say(
            f"the checkpoint of step {step} is damaged ({type(error).__name__}: {reason}); it is "
            f"set aside as {damaged.name} and the one before it is used"
        )


def load_model(model: PyTree, folder: str | os.PathLike, step: int | None = None) -> PyTree:
    """The trained model from a run's checkpoints, averaged weights where the run kept them.

    **Arguments:**

    - `model`: a freshly built model of the same shape; functions and static fields come from it.
    - `folder`: the folder of `Checkpoints`.
    - `step`: which one; None for the newest.

    **Returns:** the model.

    **Raises:** `CheckpointError` if there is no such checkpoint or it is damaged;
    `CheckpointMismatch` if it is of another model.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    steps = sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())
    if not steps or (step is not None and step not in steps):
        raise CheckpointError(f"no checkpoint of step {step} in {folder}; there are {steps}")
    step = steps[-1] if step is None else step
    try:
        meta = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(folder / str(step) / "meta")
        stored = ocp.Checkpointer(ocp.StandardCheckpointHandler()).restore(
            folder / str(step) / "arrays"
        )
    except Exception as error:
        raise CheckpointError(f"the checkpoint of step {step} is damaged: {error}") from error
    by_name = {name: (i, dtype, shape) for i, (name, dtype, shape) in enumerate(meta["state"])}

    def read(path, leaf):
        if not eqx.is_array(leaf):
            return leaf
        name = jax.tree_util.keystr(path)
        found = by_name.get(f"ema{name}", by_name.get(f"model{name}"))
        if found is None or tuple(found[2]) != leaf.shape:
            raise CheckpointMismatch(
                f"the checkpoint of step {step} in {folder} belongs to another model: {name} is "
                f"{_shape_text(found and found[1:])} there and {leaf.dtype}{list(leaf.shape)} here"
            )
        if leaf.size == 0:
            return leaf
        return _from_host(stored[f"state.{found[0]}"], leaf)

    return jax.tree_util.tree_map_with_path(read, model)


def _first_alone() -> Any:
    """Orbax in process 0 alone, which does not wait for the others."""
    from orbax.checkpoint.options import MultiprocessingOptions

    if process_count() == 1:
        return MultiprocessingOptions()
    return MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="jaxsci"
    )


def _reader(handler: Callable[..., Any]) -> Any:
    import orbax.checkpoint as ocp

    options = _first_alone()
    return ocp.Checkpointer(
        handler(multiprocessing_options=options), multiprocessing_options=options
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Inner mappings with names such as `config.width`, so that one field can be named."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _arrays(tree: PyTree) -> list[Any]:
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _signature(leaf: Any) -> tuple[str, list[int]]:
    """Type and shape; for typed keys the type names their generator (`key<fry>`)."""
    return str(leaf.dtype), list(leaf.shape)


def _from_host(array: np.ndarray, like: Any) -> jax.Array:
    """The array on the devices, and spread over them, as `like` is."""
    where = getattr(like, "sharding", None)
    if process_count() > 1 and where is not None:
        if _is_key(like):
            array = jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(like))
        return put(array, where)
    if _is_key(like):
        key = jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(like))
        return jax.device_put(key, where)
    # A copy: on a CPU a JAX array may share a NumPy array's memory, and this one will be donated.
    return jax.device_put(np.array(array), where)


def _crc(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)


def _pack(state: Any) -> Any:
    """Bytes as text, since JSON has none; other iterator states are plain values already."""
    return {"base64": base64.b64encode(state).decode()} if isinstance(state, bytes) else state


def _unpack(state: Any) -> Any:
    if isinstance(state, dict) and set(state) == {"base64"}:
        return base64.b64decode(state["base64"])
    return state


def _shape_text(found: Any) -> str:
    return "absent" if found is None else f"{found[0]}{list(found[1])}"


@contextlib.contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    """A full disk or a folder that went away, said in one line."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        text = str(error)
        known = ("No space left on device", "Disk quota exceeded", "Read-only file system")
        line = (text.strip().splitlines() or [type(error).__name__])[0][:300]
        reason = next((phrase for phrase in known if phrase in text), line)
        raise CheckpointError(
            f"a checkpoint could not be written to {folder}: {reason}; earlier ones are intact"
        ) from error


def _is_not_about_saving(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


def _lock(path: Path) -> int | None:
    """Takes the folder for this process, until the file is closed or the process dies."""
    try:
        import fcntl
    except ImportError:  # Not a POSIX system.
        return None
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise CheckpointError(
            f"another run is using {path.parent}; wait for it or choose another folder"
        ) from None
    except OSError:  # A file system without locks: better to run than to refuse.
        pass
    return handle
