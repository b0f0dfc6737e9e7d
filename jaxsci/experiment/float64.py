"""64-bit floats: JAX's flag for them, set for one run alone, and the devices that have none."""

import concurrent.futures
import contextlib
from collections.abc import Iterator

from jaxsci.experiment.config import Config
from jaxsci.experiment.errors import UsageError


@contextlib.contextmanager
def float64_types(on: bool) -> Iterator[None]:
    """Sets JAX's flag for 64-bit types, here and in threads that load data; puts it back."""
    import jax

    # A caller may have the flag set for its own thread alone; a new thread sees the global one.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        before = pool.submit(lambda: jax.config.values["jax_enable_x64"]).result()
    jax.config.update("jax_enable_x64", on)
    try:
        with jax.enable_x64(on):
            yield
    finally:
        jax.config.update("jax_enable_x64", before)


def refuse_float64_on_tpu(config: Config) -> None:
    """Refuses a configuration with `float64` where JAX computes on TPUs, which have no such type.

    XLA would compute with pairs of 32-bit numbers, many times slower and with the range of 32 bits,
    or fail in the middle of a run: a result that says float64 would not be one.

    **Raises:**

    - `UsageError` that names the field and what to do instead.
    """
    if not config.float64:
        return
    import jax

    if jax.default_backend() == "tpu":
        raise UsageError(
            "--config.float64 True: TPUs have no 64-bit floats; compute with --platform cpu or gpu,"
            " or in 32 bits with --config.float64 False"
        )
