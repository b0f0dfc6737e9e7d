"""What every benchmark problem generates, and the machinery that generates it in bounded memory."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..grid import Grid

Progress = Callable[[int, int], None]


class Dataset(NamedTuple):
    """Pairs of functions on one grid: `inputs[i]` is mapped to `outputs[i]`.

    The arrays lie in the host's memory (numpy), so that large sets do not fill a device and
    double precision is kept whatever JAX's flags are.
    """

    inputs: Float[np.ndarray, "n c_in *grid"]
    outputs: Float[np.ndarray, "n c_out *grid"]
    grid: Grid

    @property
    def n(self) -> int:
        """The number of pairs."""
        return self.inputs.shape[0]

    def split(self, n_first: int) -> "tuple[Dataset, Dataset]":
        """The first `n_first` pairs and the others, as for training and testing.

        **Raises:** `ValueError` unless both parts have at least one pair.
        """
        if not 0 < n_first < self.n:
            raise ValueError(f"Dataset.split: n_first must lie in 1..{self.n - 1}, got {n_first}")
        first = Dataset(self.inputs[:n_first], self.outputs[:n_first], self.grid)
        return first, Dataset(self.inputs[n_first:], self.outputs[n_first:], self.grid)

    def subsample(self, stride: int) -> "Dataset":
        """Every `stride`-th point along each axis, on the grid that these points form.

        **Raises:** `ValueError` if they do not form a grid on the same box (see `Grid.subsample`).
        """
        grid = self.grid.subsample(stride)
        window = (slice(None), slice(None), *(slice(None, None, stride),) * grid.n_dims)
        return Dataset(self.inputs[window], self.outputs[window], grid)


@runtime_checkable
class Problem(Protocol):
    """A benchmark problem: a law of inputs, and a solver that maps an input to its output."""

    @property
    def version(self) -> str:
        """Changes whenever the numbers that `generate` returns change; part of a cache's key."""
        ...

    def generate(
        self, key: PRNGKeyArray, n: int, *, dtype=np.float32, progress: Progress | None = None
    ) -> Dataset:
        """`n` random pairs."""
        ...

    def accuracy(self, key: PRNGKeyArray, n: int) -> dict[str, float]:
        """The solver's own error on `n` random inputs, from halved steps."""
        ...


def solve_in_chunks(
    solve: Callable[..., tuple[Array, ...]],
    key: PRNGKeyArray,
    n: int,
    *,
    chunk: int,
    dtype,
    progress: Progress | None = None,
    indexed: bool = False,
) -> tuple[np.ndarray, ...]:
    """`solve` for n keys in double precision, `chunk` of them at once.

    Sample i depends on `fold_in(key, i)` alone (`solve(key)`), or on it and i (`solve(key, i)`, if
    `indexed`): neither n nor the chunk's size changes it, and the first m of n samples are the m
    samples. The last chunk is filled up with repeated work, so that one compiled program serves
    all.
    """
    check_count("n", n)
    dtype = np.dtype(dtype)
    if dtype.kind != "f":
        raise ValueError(f"generate: dtype must be a floating type, got {dtype}")
    chunk = min(chunk, n)
    parts = []
    with jax.enable_x64(True):

        def one(key, i):
            key = jax.random.fold_in(key, i)
            return solve(key, i) if indexed else solve(key)

        batched = jax.jit(jax.vmap(one, (None, 0)))
        for start in range(0, n, chunk):
            index = np.minimum(np.arange(start, start + chunk), n - 1).astype(np.uint32)
            keep = min(chunk, n - start)
            arrays = jax.device_get(batched(key, index))
            if not all(np.isfinite(a).all() for a in arrays):
                raise FloatingPointError(
                    f"generate: the solver returned non-finite values in samples {start} to "
                    f"{start + keep - 1}; its step is too long for this problem"
                )
            parts.append(tuple(a[:keep].astype(dtype) for a in arrays))
            if progress is not None:
                progress(start + keep, n)
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def check_count(name: str, value) -> None:
    """Raises unless `value` is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def check_positive(name: str, value) -> None:
    """Raises unless `value` is a positive finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def relative_errors(coarse: np.ndarray, fine: np.ndarray) -> dict[str, float]:
    """Mean and maximum over the samples of ‖coarse − fine‖₂ / ‖fine‖₂."""
    axes = tuple(range(1, fine.ndim))
    errors = np.sqrt(((coarse - fine) ** 2).sum(axes) / (fine**2).sum(axes))
    return {"mean": float(errors.mean()), "max": float(errors.max())}
