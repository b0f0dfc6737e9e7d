"""The folder of a run: made, marked as the run's own, and looked into when a run is resumed.

`run.json` marks a folder as belonging to a run and says which: experiment, preset, seed and
configuration. A folder that is not empty and not marked is never touched. In a marked folder a
fresh run moves what is there into `previous/`, where one earlier run is kept.
"""

import contextlib
import datetime
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from jaxsci.experiment.atomic import write_json
from jaxsci.experiment.errors import FolderInUse, UsageError
from jaxsci.experiment.logger import jsonable
from jaxsci.experiment.record import RESULT_FILE

RUN_FILE = "run.json"
PREVIOUS = "previous"
_LOCK = ".lock"

State = Literal["fresh", "resumed", "complete"]


@contextlib.contextmanager
def run_folder(folder: Path, identity: Mapping[str, Any], *, resume: bool) -> Iterator[State]:
    """Holds a folder for one run: `with run_folder(folder, identity, resume=False) as state:`.

    **Arguments:**

    - `folder`: made if it is not there.
    - `identity`: `slug`, `preset`, `seed`, `config`; a run is resumed only as what it was.
    - `resume`: go on from what is in the folder; in an empty folder the run starts afresh, so that
      a batch job can always ask for it.

    **Returns:** (as the context's value) `fresh`, `resumed`, or `complete` when the run to be
    resumed already has its result.

    **Raises:**

    - `UsageError` if the folder cannot be written, belongs to something else, is in use by another
      run, or holds a run that differs from `identity`.
    """
    identity = json.loads(json.dumps(jsonable(identity)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A run that was killed while it marked the folder leaves the mark's temporary file.
        names = {entry.name for entry in folder.iterdir() if not _is_half_a_mark(entry)}
    except OSError as error:
        raise _unwritable(folder, error) from error
    marked = _read_mark(folder)
    if marked is None and names - {_LOCK}:
        raise UsageError(
            f"--out {folder}: not empty, and not the folder of a run; choose another one"
        )
    with _locked(folder):
        try:
            if marked is None or not resume:
                if marked is not None:
                    _move_aside(folder)
                now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                write_json(folder / RUN_FILE, {**identity, "started": now})
                state: State = "fresh"
            else:
                _refuse_difference(folder, marked, identity)
                state = "complete" if (folder / RESULT_FILE).exists() else "resumed"
        except OSError as error:
            raise _unwritable(folder, error) from error
        yield state


def _is_half_a_mark(path: Path) -> bool:
    return path.name.startswith(f".{RUN_FILE}.") and path.suffix == ".tmp"


def started(folder: Path) -> str:
    """When the run in a folder was started."""
    return (_read_mark(folder) or {}).get("started", "")


def _read_mark(folder: Path) -> dict[str, Any] | None:
    try:
        mark = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return mark if isinstance(mark, dict) and "slug" in mark else None


def _move_aside(folder: Path) -> None:
    previous = folder / PREVIOUS
    if previous.exists():
        shutil.rmtree(previous)
    entries = [entry for entry in folder.iterdir() if entry.name not in (_LOCK, RUN_FILE)]
    previous.mkdir()
    # The mark goes last: should this be cut short, the folder still counts as a run's.
    for entry in [*entries, folder / RUN_FILE]:
        entry.rename(previous / entry.name)


def _refuse_difference(folder: Path, marked: dict[str, Any], identity: Mapping[str, Any]) -> None:
    for name in ("slug", "preset", "seed"):
        if marked.get(name) != identity[name]:
            what = "experiment" if name == "slug" else name
            raise UsageError(
                f"--resume: {folder} holds a run with {what} {marked.get(name)}, "
                f"not {identity[name]}"
            )
    old, new = _flat(marked.get("config", {})), _flat(identity["config"])
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name):
            raise UsageError(
                f"--resume: {folder} holds a run with config.{name} {old.get(name)}, "
                f"not {new.get(name)}"
            )


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(f"--out {folder}: cannot be written ({error.strerror or error})")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows has no flock; two runs in one folder are then not caught.
        yield
        return
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUse(f"--out {folder}: another run is writing there") from error
        except OSError:
            pass  # A file system without locks.
        yield
    finally:
        os.close(handle)
