"""Reading PyTorch files without PyTorch, and fetching the third-party Darcy data."""

import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxsci.pde import FetchError, neuralop_darcy, read_torch_file
from jaxsci.pde.datasets import neuralop

DATA = Path(__file__).parents[2] / "oracles" / "data"


def test_a_state_dict_is_read_as_pytorch_reads_it():
    # The same weights, saved once by torch.save and once through NumPy.
    state = read_torch_file(DATA / "neuralop_state.pt")
    with np.load(DATA / "neuralop_fno.npz") as file:
        recorded = {
            k.removeprefix("2d_plain/state/"): v
            for k, v in file.items()
            if k.startswith("2d_plain/state/")
        }
    assert set(recorded) == set(state) - {"_metadata"}
    for name, value in recorded.items():
        assert state[name].dtype == value.dtype
        np.testing.assert_array_equal(state[name], value)


def test_no_code_of_the_file_runs(tmp_path):
    class Trap:
        def __reduce__(self):
            return exec, ("raise SystemExit('ran')",)

    path = tmp_path / "trap.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("trap/data.pkl", pickle.dumps({"a": 1, "b": Trap()}))
    assert repr(read_torch_file(path)["b"]) == "<unread builtins.exec>"


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt"):
        read_torch_file(tmp_path / "nothing.pt")
    path = tmp_path / "text.pt"
    path.write_text("not a zip")
    with pytest.raises(ValueError, match="not a PyTorch zip file"):
        read_torch_file(path)
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(ValueError, match=r"no single data\.pkl"):
        read_torch_file(tmp_path / "other.pt")


def test_without_a_network_it_says_so(tmp_path, monkeypatch):
    def fails(command, **_):
        code = 0 if "--version" in command else 1
        return subprocess.CompletedProcess(command, code, "", "ERROR: no connection")

    monkeypatch.setattr(neuralop.subprocess, "run", fails)
    with pytest.raises(FetchError, match="no connection"):
        neuralop_darcy(tmp_path)


def test_a_changed_file_is_refused(tmp_path):
    for name in ("darcy_train_16.pt", "darcy_test_16.pt", "darcy_test_32.pt"):
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(ValueError, match="expected SHA-256"):
        neuralop_darcy(tmp_path)


@pytest.mark.end_to_end
def test_the_third_party_data_are_what_the_docstring_says():
    try:
        data = neuralop_darcy()
    except FetchError:
        pytest.skip("the package index cannot be reached")
    shapes = {name: part.inputs.shape for name, part in data.items()}
    assert shapes == {
        "train": (1000, 1, 16, 16),
        "test_16": (50, 1, 16, 16),
        "test_32": (50, 1, 32, 32),
    }
    for part in data.values():
        assert set(np.unique(part.inputs)) == {0.0, 1.0}
        assert part.outputs.dtype == np.float32 and np.isfinite(part.outputs).all()
    np.testing.assert_array_equal(data["test_16"].outputs, data["test_32"].outputs[:, :, ::2, ::2])
