"""Photographs that everybody has, as data for fields."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def photograph(name: str, size: int) -> Float[Array, "size size"]:
    """The middle of one of scikit-image's photographs, grey values in [0, 1].

    **Arguments:**

    - `name`: a function of `skimage.data`: `"camera"`, `"coffee"` and `"astronaut"` come with the
        package; others are downloaded.
    - `size`: the middle 256² pixels are averaged to size² pixels.

    **Raises:** `ValueError` for a size below 1 or a name that scikit-image does not have.
    """
    # Imported here: it takes a third of a second, and not every field is of a photograph.
    from skimage import data
    from skimage.color import rgb2gray
    from skimage.transform import resize

    if size < 1 or not hasattr(data, name):
        raise ValueError(
            f"photograph: name = {name!r}, size = {size}; expected one of skimage.data and a size "
            "of at least 1"
        )
    image = np.asarray(getattr(data, name)())
    image = rgb2gray(image) if image.ndim == 3 else image / 255
    side = min(*image.shape, 256)
    top, left = ((n - side) // 2 for n in image.shape)
    crop = image[top : top + side, left : left + side]
    return jnp.asarray(resize(crop, (size, size), anti_aliasing=True), jnp.float32)
