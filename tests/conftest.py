"""What all tests share: 64-bit mode as a fixture, and quick compilation."""

import itertools
import os
import signal
from importlib.metadata import version
from pathlib import Path

# Compilation is most of a JAX test's time, so compiled programs are kept between runs and shared
# between the workers. Set before jax is imported anywhere.
_CACHE = Path(__file__).parent.parent / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("MPLBACKEND", "agg")

# Small programs that run once: LLVM's -O1 and XLA's plainer code for loops compile in about 60 % of
# the time. `XLA_FLAGS= scripts/test` compiles as a user's program is. XLA ends a process
# that names a flag it does not know, so other versions than these have none.
if version("jaxlib").startswith("0.10."):
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
    )

# A shell without job control starts what it puts in the background with SIGINT ignored, and all
# that pytest starts would inherit that; some of the tests interrupt what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import pytest

_files = itertools.count(1)


@pytest.fixture(autouse=True, scope="module")
def programs_of_a_few_files():
    """Compiled programs go after every third file: those of all would take gigabytes and more
    memory maps than a process may have. Not after each, as all use the same small ones."""
    yield
    if next(_files) % 3 == 0:
        jax.clear_caches()


@pytest.fixture
def x64():
    """Runs the test with 64-bit types; the flag is back to what it was afterwards."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    return jax.random.key(0)
