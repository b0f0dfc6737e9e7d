"""Handwritten digits, the real data that every machine with scikit-learn has."""

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray


def digits(
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "1797 64"], Int[Array, "1797"]]:
    """The 1797 images of 8 × 8 pixels of scikit-learn, and the digits 0 to 9 they show.

    They are scikit-learn's `load_digits`, the test part of UCI's "Optical Recognition of
    Handwritten Digits" (DOI 10.24432/C50P49), scaled from counts of 0 to 16 to [0, 1].

    **Arguments:**

    - `key`: shuffles them, so that slices are random splits; `None`: in scikit-learn's order.

    **Returns:** images, one a row, and labels.
    """
    # Imported here: it takes a second, and few trainings want it.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(pixels / 16), jnp.asarray(labels, jnp.int32)
    if key is None:
        return images, labels
    order = jr.permutation(key, len(labels))
    return images[order], labels[order]
