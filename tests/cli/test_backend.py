"""Platforms, host devices and the cache of compiled programs."""

import os
import subprocess
import sys

import jax
import pytest

from jaxsci.cli.backend import (
    cache_folder,
    check_backend,
    keep_compiled_programs,
    start_backend,
)
from jaxsci.experiment import UsageError


@pytest.fixture
def no_cache_yet():
    """JAX as it starts without a cache; the tests' own is put back."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSCI_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("JAXSCI_CACHE_DIR")
    assert cache_folder().is_absolute() and "jaxsci" in cache_folder().parts


def test_programs_are_kept_in_it(no_cache_yet, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSCI_CACHE_DIR", str(tmp_path / "new"))
    assert keep_compiled_programs() == tmp_path / "new" / "xla"
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "new" / "xla")


def test_a_folder_given_to_jax_itself_stays(no_cache_yet, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSCI_CACHE_DIR", str(tmp_path / "new"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    assert keep_compiled_programs() == tmp_path / "own"
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_no_error(no_cache_yet, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXSCI_CACHE_DIR", str(tmp_path / "file"))
    assert keep_compiled_programs() is None
    assert jax.config.values["jax_compilation_cache_dir"] is None


@pytest.mark.parametrize(("own", "expected"), [(None, "1"), ("7", "7")])
def test_threads_of_openblas_are_set_before_numpy_is_loaded(own, expected):
    """OpenBLAS reads the variable only once, when NumPy is loaded."""
    program = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            sys.exit(os.environ.get("OPENBLAS_NUM_THREADS", "unset"))
sys.meta_path.insert(0, Watch())
import jaxsci.cli
import numpy
"""
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    if own is not None:
        environment["OPENBLAS_NUM_THREADS"] = own
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stderr.strip() == expected


def test_backend_that_runs_already_will_do():
    start_backend(None, None)
    start_backend("cpu", len(jax.devices("cpu")))


@pytest.mark.parametrize(
    ("platform", "devices", "message"),
    [
        ("gppu", None, "--platform gppu: unknown; nearest: gpu"),
        (None, 0, "--devices 0: expected at least 1"),
        (None, -2, "--devices -2: expected at least 1"),
        ("tpu", 2, "--devices 2: .* does not go with --platform tpu"),
    ],
)
def test_what_cannot_be(platform, devices, message):
    with pytest.raises(UsageError, match=message):
        check_backend(platform, devices)
    with pytest.raises(UsageError, match=message):
        start_backend(platform, devices)
