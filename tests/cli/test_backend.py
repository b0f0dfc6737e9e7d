"""Platforms, host devices and the cache of compiled programs."""

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
