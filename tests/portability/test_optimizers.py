"""Every optimiser's training step lowers for TPUs and GPUs, from a machine that has neither.

Which optimisers there are is what the common suite of `tests/optim` says: a new one is among them.
"""

import importlib.util
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.train import ArraySource, init_state, make_step, make_steps


def load(name, path):
    spec = importlib.util.spec_from_file_location(f"jaxsci_tests_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


HERE = Path(__file__).parent
exporting = load("exporting", HERE / "exporting.py")
common = load("optim_common", HERE.parent / "optim" / "test_common.py")

# Factors of small matrices: XLA expands these on a TPU, cuSOLVER has them on a GPU.
KERNELS = {
    "tpu": {"Eigh", "LuDecomposition", "Qr", "ProductOfElementaryHouseholderReflectors"},
    "cuda": {f"cusolver_{name}_ffi" for name in ("syevd", "geqrf", "orgqr", "potrf", "getrf")}
    | {"cu_lu_pivots_to_permutation"},
}
KEY = jax.random.key(0)
MODEL = {"weight": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
SAMPLES = np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)


def residuals(model, batch):
    x, y = batch
    return jnp.tanh(x @ model["weight"].T).sum(-1) * model["bias"][0] - y


def loss(model, batch, key):
    return jnp.mean(residuals(model, batch) ** 2)


def extra(context):
    """For methods that want the residuals themselves."""
    return {"model_fn": lambda params: residuals(context.build(params), context.batch)}


@pytest.fixture(autouse=True)
def no_checks_on_the_host(monkeypatch):
    """A value is checked by Python on the host, which an exported program cannot hold."""
    monkeypatch.setattr(eqx, "error_if", lambda x, pred, msg, **_: x)


@pytest.mark.parametrize("platform", exporting.PLATFORMS)
@pytest.mark.parametrize("case", common.CASES)
def test_a_training_step_lowers(case, platform):
    optimizer = common.make(case)
    source = ArraySource((SAMPLES, SAMPLES[:, 0]), 3)
    state = init_state(MODEL, optimizer, key=KEY, source=source)
    steps = make_steps(make_step(loss, optimizer, extra_args=extra), source, 2)
    program = exporting.export_for(steps, state, platform=platform)
    known = KERNELS[platform] | {"Sharding", "annotate_device_placement"}
    assert program.custom_calls <= known
    # Nothing in 64 bits, which a TPU does not have.
    assert not program.has_type("f64") and not program.has_type("complex<f64>")
    assert "stablehlo.while" in program.text
