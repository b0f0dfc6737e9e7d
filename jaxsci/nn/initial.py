"""Random arrays for initial weights, drawn flat; equal layers as one.

XLA takes longer to compile random bits the more axes they have (measured on CPU, for weights of
four axes: 3.3 s, and 0.4 s drawn as a vector and then reshaped), and a model draws many shapes. The
numbers are the same: the bits of an entry are a hash of its place in the flattened array.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

M = TypeVar("M", bound=PyTree)


def uniform(
    key: PRNGKeyArray, shape: tuple[int, ...], minval: float = 0.0, maxval: float = 1.0
) -> Float[Array, "*shape"]:
    """`jax.random.uniform`."""
    return jr.uniform(key, (math.prod(shape),), minval=minval, maxval=maxval).reshape(shape)


def normal(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """`jax.random.normal`."""
    return jr.normal(key, (math.prod(shape),)).reshape(shape)


def stacked(make: Callable[[PRNGKeyArray], M], key: PRNGKeyArray, n: int) -> M:
    """N equal modules as one whose arrays have a leading axis, for `jax.lax.scan` or `jax.vmap`.

    Made one after another: that compiles what one of them needs, and a `jax.vmap` of `make` all of
    it again.
    """
    made = [eqx.partition(make(k), eqx.is_array) for k in jr.split(key, n)]
    arrays = jax.tree.map(lambda *a: jnp.stack(a), *(each[0] for each in made))
    return eqx.combine(arrays, made[0][1])
