import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from jaxsci.train import digits


def test_are_those_of_scikit_learn(key):
    pixels, labels = load_digits(return_X_y=True)
    images, numbers = digits()
    np.testing.assert_array_equal(16 * images, pixels)  # sixteenths are exact in float32
    np.testing.assert_array_equal(numbers, labels)
    assert images.dtype == jnp.float32

    shuffled, names = digits(key)
    assert not np.array_equal(names, labels)
    # Every image is there once, with its own label.
    rows = np.concatenate([pixels, labels[:, None]], 1)
    found = np.concatenate([16 * shuffled, names[:, None]], 1)
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(rows, axis=0))
    assert len(found) == len(rows)
