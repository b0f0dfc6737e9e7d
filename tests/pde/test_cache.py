import dataclasses
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pde import BurgersOperator, Dataset, Grid, cache_folder, cache_path, cached


class Counting(eqx.Module):
    """A problem that costs nothing: its outputs are its inputs, scaled."""

    scale: float = 2.0
    table: np.ndarray | None = None
    version: str = "counting-1"

    def generate(self, key, n, *, dtype=np.float32, progress=None):
        inputs = np.asarray(jax.random.normal(key, (n, 1, 4, 5))).astype(dtype)
        grid = Grid((0, -1), (1, 1), (4, 5), periodic=(True, False), endpoint=(False, True))
        if progress is not None:
            progress(n, n)
        return Dataset(inputs, self.scale * inputs, grid)

    def accuracy(self, key, n):
        return {}


def equal(a, b):
    return (
        np.array_equal(a.inputs, b.inputs)
        and np.array_equal(a.outputs, b.outputs)
        and a.grid == b.grid
        and a.inputs.dtype == b.inputs.dtype
    )


def test_second_call_reads_what_the_first_wrote(tmp_path):
    lines, calls = [], []
    first = cached(
        Counting(), 3, 2, tmp_path, say=lines.append, progress=lambda *args: calls.append(args)
    )
    again = cached(
        Counting(), 3, 2, tmp_path, say=lines.append, progress=lambda *args: calls.append(args)
    )
    assert equal(first, again) and isinstance(again, Dataset)
    assert equal(first, Counting().generate(jax.random.key(3), 2))
    assert calls == [(2, 2)]
    assert "generated" in lines[0] and "read from" in lines[1]
    assert [p.name for p in tmp_path.iterdir()] == [cache_path(Counting(), 3, 2, tmp_path).name]


def test_everything_that_matters_changes_the_path(tmp_path):
    base = Counting()
    variants = [
        cache_path(base, 0, 2, tmp_path),
        cache_path(base, 1, 2, tmp_path),
        cache_path(base, 0, 3, tmp_path),
        cache_path(base, 0, 2, tmp_path, dtype=np.float64),
        cache_path(dataclasses.replace(base, scale=3.0), 0, 2, tmp_path),
        cache_path(dataclasses.replace(base, version="counting-2"), 0, 2, tmp_path),
        cache_path(dataclasses.replace(base, table=np.zeros(2)), 0, 2, tmp_path),
        cache_path(dataclasses.replace(base, table=np.ones(2)), 0, 2, tmp_path),
        cache_path(BurgersOperator(), 0, 2, tmp_path),
    ]
    assert len(set(variants)) == len(variants)
    assert cache_path(base, 0, 2, tmp_path) == cache_path(Counting(2.0), np.int64(0), 2, tmp_path)


def test_path_is_the_same_in_another_process(tmp_path):
    code = (
        "from jaxsci.pde import BurgersOperator, cache_path;"
        f"print(cache_path(BurgersOperator(resolution=64), 1, 10, {str(tmp_path)!r}))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == str(cache_path(BurgersOperator(resolution=64), 1, 10, tmp_path))


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:200])


def damage_flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)


def damage_replace(path):
    np.savez(path, inputs=np.zeros(3))


def damage_other(path):
    other = cached(Counting(scale=5.0), 0, 64, path.parent)
    assert other.n == 64
    cache_path(Counting(scale=5.0), 0, 64, path.parent).replace(path)


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncate,
        damage_flip,
        damage_replace,
        damage_other,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an archive"),
    ],
)
def test_damaged_file_is_generated_anew(tmp_path, damage):
    good = cached(Counting(), 0, 64, tmp_path)
    path = cache_path(Counting(), 0, 64, tmp_path)
    damage(path)
    with pytest.warns(UserWarning, match="generated anew"):
        again = cached(Counting(), 0, 64, tmp_path)
    assert equal(good, again)
    assert equal(good, cached(Counting(), 0, 64, tmp_path))


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        cached(Counting(), 0, 2, tmp_path)
    assert not list(tmp_path.iterdir())


def test_processes_at_once(tmp_path):
    code = (
        "from jaxsci.pde import BurgersOperator, cached;"
        f"d = cached(BurgersOperator(resolution=16, n_steps=2), 0, 3, {str(tmp_path)!r});"
        "print(float(abs(d.outputs).sum()))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        mine = cached(BurgersOperator(resolution=16, n_steps=2), 0, 3, tmp_path)
        theirs = other.communicate()[0]
    assert float(theirs) == float(abs(mine.outputs).sum()) > 0
    assert len(list(tmp_path.iterdir())) == 1


def test_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSCI_CACHE_DIR", str(tmp_path / "chosen"))
    assert cache_folder() == tmp_path / "chosen"
    assert cache_path(Counting(), 0, 2).parent == tmp_path / "chosen" / "pde"
    cached(Counting(), 0, 2)
    assert cache_path(Counting(), 0, 2).exists()
    monkeypatch.delenv("JAXSCI_CACHE_DIR")
    assert "jaxsci" in str(cache_folder())


def test_the_default_key_type_does_not_matter(tmp_path):
    first = cached(Counting(), 0, 2, tmp_path / "a")
    with jax.default_prng_impl("rbg"):
        assert equal(first, cached(Counting(), 0, 2, tmp_path / "b"))


def test_bad_input(tmp_path):
    with pytest.raises(TypeError, match="seed must be an integer"):
        cached(Counting(), 0.5, 2, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed must not be negative"):
        cached(Counting(), -1, 2, tmp_path)
    with pytest.raises(ValueError, match="n must be at least 1"):
        cached(Counting(), 0, 0, tmp_path)
    with pytest.raises(TypeError, match="must be a module"):
        cached(BurgersOperator, 0, 2, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="lacks version"):
        cached(Grid(0, 1, 4), 0, 2, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no place in a cache's key"):
        cached(Counting(table=jnp.sin), 0, 2, tmp_path)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        cached(Counting(), 0, 2, tmp_path / "file")
