"""Batches from the host: grain pipelines and other iterators, stacked for one dispatch."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

_BYTES_PER_DISPATCH = 64 * 2**20
_MOST_PER_DISPATCH = 32


class HostData:
    """An iterator of batches on the host, with the state that a checkpoint keeps.

    **Arguments:**

    - `batches`: a grain dataset or data loader, or any iterable of batches; a batch is a pytree
        of NumPy arrays of always the same shapes. It must not run out before the training does
        (grain: `.repeat()`). To be resumed, its iterator needs grain's `get_state` and
        `set_state`.

    **Raises:** `TypeError` if `batches` is not an iterable of batches.
    """

    def __init__(self, batches: Iterable[Any]):
        if isinstance(batches, dict | tuple | list | np.ndarray | jax.Array) or not hasattr(
            batches, "__iter__"
        ):
            raise TypeError(
                f"fit: data is a {type(batches).__name__}, expected a source or an iterable of "
                "batches; arrays in memory go into ArraySource(arrays, batch_size)"
            )
        self._iterator = iter(batches)
        self._shapes: PyTree = None
        self._taken = 0
        self._peeked: PyTree = None
        self.capacity = _MOST_PER_DISPATCH

    @property
    def has_state(self) -> bool:
        """Whether the position can be stored and restored."""
        return hasattr(self._iterator, "get_state") and hasattr(self._iterator, "set_state")

    def state(self) -> Any:
        """The position after the batches drawn so far."""
        return self._iterator.get_state()  # pyright: ignore[reportAttributeAccessIssue]

    def restore(self, state: Any) -> None:
        """Goes to a stored position."""
        self._peeked = None
        self._iterator.set_state(state)  # pyright: ignore[reportAttributeAccessIssue]

    def first(self) -> PyTree:
        """The next batch, which stays the next one."""
        if self._peeked is None:
            self._peeked = self._next()
        return self._peeked

    def draw(self, n: int) -> tuple[PyTree, int]:
        """The next batches, at most n, stacked along a new leading axis.

        The axis has always the same length, `capacity`, so that there is one compiled program; the
        rest of it is not read. The capacity follows from the size of a batch: what fits in 64 MiB,
        at most 32.

        **Returns:** the stacked batches and how many they are.

        **Raises:** `ValueError` if the data run out, or a batch has other shapes than the first.
        """
        batches = [self._next()]
        while len(batches) < min(n, self.capacity):
            batches.append(self._next())

        def stack(*leaves):
            out = np.zeros((self.capacity, *leaves[0].shape), leaves[0].dtype)
            out[: len(leaves)] = leaves
            return out

        return jax.tree.map(stack, *batches), len(batches)

    def _next(self) -> Any:
        if self._peeked is not None:
            batch, self._peeked = self._peeked, None
            return batch
        try:
            batch = next(self._iterator)
        except StopIteration:
            raise ValueError(
                f"fit: the data ran out after {self._taken} batches; repeat them "
                "(grain: dataset.repeat()) or train for fewer steps"
            ) from None
        batch = jax.tree.map(np.asarray, batch)
        shapes = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", batch)
        if self._shapes is None:
            self._shapes = shapes
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
            fitting = _BYTES_PER_DISPATCH // max(size, 1)
            self.capacity = int(np.clip(fitting, 1, _MOST_PER_DISPATCH))
        elif shapes != self._shapes:
            raise ValueError(
                f"fit: batch {self._taken} of the data is {shapes}, the first was {self._shapes}; "
                "all batches must have the same shapes (grain: drop_remainder=True)"
            )
        self._taken += 1
        return batch
