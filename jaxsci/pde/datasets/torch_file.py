"""Reads tensors from a file that PyTorch saved, without PyTorch and without running its code."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

_DTYPES = {
    "BoolStorage": np.bool_,
    "ByteStorage": np.uint8,
    "CharStorage": np.int8,
    "ShortStorage": np.int16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "HalfStorage": np.float16,
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}


def read_torch_file(path: str | Path) -> Any:
    """The object in a PyTorch file (zip format, since PyTorch 1.6) with arrays for its tensors.

    Only tensors, containers and plain values are read. Whatever else a file holds becomes an inert
    `Unread` with the class's name, and none of its code runs: opening a stranger's file is safe.

    **Raises:** `FileNotFoundError`; `ValueError` if it is not such a file, naming what was found.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: no file {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"path: {path} is not a PyTorch zip file (saved by PyTorch before 1.6?)")
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"path: {path} holds no single data.pkl: it is no PyTorch file")
        with archive.open(pickles[0]) as stream:
            return _Reader(stream, archive, pickles[0].removesuffix("data.pkl")).load()


def _rebuild_tensor(storage, offset, size, stride, *_: Any) -> np.ndarray:
    strides = tuple(s * storage.itemsize for s in stride)
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)
    return view.copy()


def _rebuild_parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor


class Unread:
    """What stands for an object of another class; `name` tells which."""

    name = ""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __repr__(self) -> str:
        return f"<unread {self.name}>"


class _Reader(pickle.Unpickler):
    def __init__(self, stream, archive: zipfile.ZipFile, prefix: str):
        super().__init__(stream)
        self._archive, self._prefix = archive, prefix

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return type("Unread", (Unread,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, _, n = pid
        data = self._archive.read(f"{self._prefix}data/{key}")
        return np.frombuffer(data, dtype, count=n)
