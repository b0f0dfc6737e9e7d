"""Training on eight devices: the same numbers, less memory on each, no needless communication.

The runs are in a process of their own (`sharded_run.py`), since the number of devices of a process
is fixed when JAX starts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxsci.train import ArraySource, Sharding, fit, make_mesh

PROGRAM = Path(__file__).parent / "sharded_run.py"
KINDS = ("data", "fsdp", "model", "space")


pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    done = subprocess.run(
        [sys.executable, PROGRAM, folder],
        env=os.environ | {"PYTHONPATH": str(PROGRAM.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "numbers.json").read_text())
    assert found["devices"] == 8
    return found


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ("fno", "unet") for kind in KINDS]
    + [("fno", "fsdp and model"), ("fno", "fsdp and space")],
)
def test_same_losses_as_one_device(numbers, name, kind):
    # Sums in another order: float32 rounds by 6e-8, a few hundred of these make 1e-5.
    np.testing.assert_allclose(numbers[name][kind]["loss"], numbers[name]["one"]["loss"], rtol=1e-5)


@pytest.mark.parametrize("name", ["fno", "unet"])
def test_memory_per_device_falls(numbers, name):
    one = numbers[name]["one"]
    # Activations: an eighth, and a constant for the program's own (measured: 1/7.3 and 1/8.6 for
    # the batch, 1/7.9 and 1/7.1 for the grid).
    for kind in ("data", "space"):
        assert numbers[name][kind]["temporary"] < one["temporary"] / 6
    # Weights and Adam's two moments: an eighth of what is large enough to be split.
    state = 3 * numbers[name]["weights"]
    saved = one["arguments"] - numbers[name]["fsdp"]["arguments"]
    assert saved > 0.8 * 7 / 8 * state
    saved = one["arguments"] - numbers[name]["model"]["arguments"]
    assert saved > 0.7 * 3 / 4 * state


def test_no_needless_communication(numbers):
    """Read from the compiled programs: which collectives there are, and how large."""
    for name, batch in (("fno", 8 * 32 * 64 * 64), ("unet", 8 * 16 * 64 * 64)):
        # Data parallel: nothing but the sum of the gradients.
        assert set(numbers[name]["data"]["collectives"]) == {"all-reduce"}
        # The grid split: no array is put together anywhere, whether by Fourier layers, which sum
        # their few coefficients, or by convolutions, which swap halos with their neighbours.
        found = numbers[name]["space"]["collectives"]
        assert set(found) <= {"all-reduce", "collective-permute"}
        for kind in found.values():
            assert kind["largest"] < batch / 8
        # FSDP: what is put together is weights, never a batch's activations.
        found = numbers[name]["fsdp"]["collectives"]
        assert set(found) == {"all-reduce", "all-gather"}
        assert found["all-gather"]["largest"] <= numbers[name]["largest weight"]
    assert "collective-permute" in numbers["unet"]["space"]["collectives"]


def test_without_being_asked(numbers):
    """With several devices `fit` spreads the batch, and gives its result back on one device."""
    np.testing.assert_allclose(numbers["default"]["loss"], numbers["fno"]["one"]["loss"], rtol=1e-5)
    assert numbers["default"]["devices"] == 1


def test_resumed_on_other_devices(numbers):
    for name in ("other", "one"):
        np.testing.assert_allclose(
            numbers[f"resumed on {name}"], numbers["fno"]["one"]["loss"], rtol=1e-5
        )


def test_specs_follow_the_rule(numbers):
    specs = numbers["specs"]
    # "parts *modes c_in c_out" = (2, 12, 6, 32, 32): the last axis for channels, the other of the
    # two longest ones for FSDP; a bias is too small to be split.
    assert specs["default"] == {
        "spectral": ["None", "None", "None", "data", "model"],
        "bias": [],
    }
    assert specs["rule"]["spectral"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": 0}, "data=0, expected an integer"),
        ({"model": 1.5}, "model=1.5"),
        ({"data": 3}, "data=3, model=1, space=1 make 3 devices, but there are"),
    ],
)
def test_make_mesh_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(**arguments)


def test_sharding_refuses():
    mesh = make_mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match=r"axes \('x',\), expected some of"):
        Sharding(Mesh(np.array(jax.devices()[:1]), ("x",)))
    with pytest.raises(ValueError, match="min_size=-1"):
        Sharding(mesh, min_size=-1)
    with pytest.raises(ValueError, match=r"pattern '\('"):
        Sharding(mesh, rules=(("(", PartitionSpec()),))
    rule = Sharding(mesh, rules=(("w", PartitionSpec(None, "data")),))
    with pytest.raises(ValueError, match=r"w\'\] has shape \(4,\), its rule is"):
        rule.of_model({"w": jnp.ones(4)})
    abstract = jax.sharding.AbstractMesh((1, 2, 2), ("data", "model", "space"))
    with pytest.raises(ValueError, match="model=2 and space=2, expected at most one"):
        Sharding(abstract)
    odd = Sharding(
        jax.sharding.AbstractMesh((2,), ("model",)), rules=(("w", PartitionSpec("model")),)
    )
    with pytest.raises(ValueError, match="cannot be split into 2 parts"):
        odd.of_model({"w": jnp.ones(3)})


def test_fit_refuses_other_shardings(key):
    data = ArraySource(jnp.ones((4, 2)), 2)
    with pytest.raises(TypeError, match="sharding='data', expected a Sharding"):
        fit(
            jnp.ones(2),
            lambda w, x, key: jnp.mean((x @ w) ** 2),
            optax.sgd(0.1),
            data,
            steps=1,
            key=key,
            sharding="data",
        )


def test_a_run_begins_in_parts():
    """The optimiser's state is never whole on a device; the numbers are those of one device."""
    done = subprocess.run(
        [sys.executable, PROGRAM.with_name("sharded_start.py")],
        env=os.environ | {"PYTHONPATH": str(PROGRAM.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("same numbers", "optimiser's init is traced", "where it belongs"):
        assert found[name], name
    # The one weight with 1024 entries or more: itself, two moments of Adam, the average.
    assert found["split"] == 4
    # A rule names a weight by its path in the training state, for a model that is built as well.
    assert found["rule"] == "P(None, 'data')" and found["part"] == [64, 8]
    # One program instead of many: the last digit of numbers around 0.1.
    assert found["built"] < 1e-7 and found["prediction"] < 1e-6
