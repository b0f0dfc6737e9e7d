"""Random arrays for initial weights, drawn flat.

XLA takes longer to compile random bits the more axes they have (measured on CPU, for weights of
four axes: 3.3 s, and 0.4 s drawn as a vector and then reshaped), and a model draws many shapes. The
numbers are the same: the bits of an entry are a hash of its place in the flattened array.
"""

import math

import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray


def uniform(
    key: PRNGKeyArray, shape: tuple[int, ...], minval: float = 0.0, maxval: float = 1.0
) -> Float[Array, "*shape"]:
    """`jax.random.uniform`."""
    return jr.uniform(key, (math.prod(shape),), minval=minval, maxval=maxval).reshape(shape)


def normal(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """`jax.random.normal`."""
    return jr.normal(key, (math.prod(shape),)).reshape(shape)
