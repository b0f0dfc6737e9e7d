"""The compiled steps of the families lower for TPUs and GPUs, from a machine that has neither."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxsci.nn import UNet
from jaxsci.operators import FNO, TFNO
from jaxsci.train import ArraySource, Precision, init_state, make_step, make_steps

_spec = importlib.util.spec_from_file_location(
    "jaxsci_tests_exporting", Path(__file__).parent / "exporting.py"
)
exporting = importlib.util.module_from_spec(_spec)
import sys  # noqa: E402

sys.modules[_spec.name] = exporting
_spec.loader.exec_module(exporting)

KEY = jax.random.key(0)
# Modes above and below the size at which the Fourier layer turns from products to the FFT.
MODELS = {
    "fno": lambda: FNO(2, 1, 1, width=8, modes=4, depth=3, key=KEY),
    "fno with fft": lambda: FNO(1, 1, 1, width=4, modes=200, depth=1, key=KEY),
    "tfno": lambda: TFNO(2, 1, 1, width=8, modes=4, depth=2, rank=0.2, key=KEY),
    "unet": lambda: UNet(2, 1, 1, (4, 8), key=KEY),
}


def loss(model, batch, key):
    u, v = batch
    return jnp.mean((jax.vmap(model)(u) - v) ** 2)


def data(name):
    u = jax.random.normal(KEY, (4, 1, 512) if name == "fno with fft" else (4, 1, 16, 16))
    return ArraySource((u, 2 * u), 2)


def steps(name, **options):
    """Three updates in one program: drawing, gradient, Adam, average. And the state they act on."""
    optimizer, source = optax.adam(1e-3), data(name)
    state = init_state(MODELS[name](), optimizer, key=KEY, source=source, ema=True)
    step = make_step(loss, optimizer, ema_decay=0.99, **options)
    return make_steps(step, source, 3), state


@pytest.mark.parametrize("platform", exporting.PLATFORMS)
@pytest.mark.parametrize("name", MODELS)
def test_training_lowers(name, platform):
    function, state = steps(name)
    program = exporting.export_for(function, state, platform=platform)
    # XLA's own operations alone, and nothing in 64 bits, which a TPU does not have.
    assert program.custom_calls <= {"Sharding", "annotate_device_placement"}
    assert not program.has_type("f64") and not program.has_type("complex<f64>")
    assert "stablehlo.while" in program.text
    assert ("stablehlo.fft" in program.text) == (name == "fno with fft")


@pytest.mark.parametrize("platform", exporting.PLATFORMS)
def test_mixed_precision_lowers(platform):
    function, state = steps("unet", precision=Precision(), accumulate=2)
    assert exporting.export_for(function, state, platform=platform).has_type("bf16")


def test_the_helper_sees_what_does_not_lower():
    """A nonsymmetric eigenvalue problem has a kernel on CPUs only."""
    matrix = jnp.eye(3) + jnp.arange(9.0).reshape(3, 3)
    with pytest.raises(Exception, match=r"eig|not implemented|lowering"):
        exporting.export_for(jnp.linalg.eigvals, matrix, platform="tpu")


def test_the_helper_sees_64_bits(x64):
    program = exporting.export_for(lambda x: 2 * x, jnp.ones(3, jnp.float64), platform="cuda")
    assert program.has_type("f64") and not program.has_type("f32")
