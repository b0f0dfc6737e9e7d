"""Fourier layers on a grid that is split over devices: same values, and what is communicated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "sharded_forward.py"
# Two samples of 16 channels on 64 x 64 points, of which a device has an eighth.
ACTIVATIONS = 2 * 16 * 64 * 64


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, PROGRAM],
        env=os.environ | {"PYTHONPATH": str(PROGRAM.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["fno", "dft", "fft"])
def test_same_values_as_one_device(found, name):
    # Values of order one in float32, sums of 64 terms in another order.
    assert found[name]["error"] < 5e-6


def test_few_modes_are_summed_and_nothing_is_gathered(found):
    # Partial spectra: complex, 2 samples, 12 x 6 coefficients in each channel.
    assert found["dft"]["collectives"] == {"all-reduce": [2 * 4 * 12 * 6]}
    collectives = found["fno"]["collectives"]
    assert set(collectives) == {"all-reduce"}
    spectra = [size for size in collectives["all-reduce"] if size > 2]
    assert spectra == [2 * 16 * 12 * 6] * 2
    assert max(spectra) < ACTIVATIONS / 8
    # The rest carry one number a sample to the pointwise maps, at most one for each of them.
    assert len(collectives["all-reduce"]) - len(spectra) <= 6


def test_the_fft_gathers_the_grid(found):
    """Which is why layers with few modes are computed by products; documented in `cluster.md`."""
    # All of it, on every device: 2 samples of 4 channels on 64 x 64 points.
    assert max(found["fft"]["collectives"]["all-gather"]) == 2 * 4 * 64 * 64
