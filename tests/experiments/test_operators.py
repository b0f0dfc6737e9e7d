"""The operator experiments run end to end at their smallest size, and repeat to the bit."""

import json
import subprocess
import sys

import pytest

from jaxsci.experiment import find, load
from jaxsci.pde import FetchError

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("neural-operator")]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return run_smoke(tmp_path_factory.mktemp("neural-operator"))


def run_smoke(out):
    words = ["run", "neural-operator", "--preset", "smoke", "--out", str(out), "--quiet"]
    code = f"import sys; from jaxsci.cli import main; sys.exit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    # Three updates prove no claim, so either status of a finished run will do.
    assert done.returncode in (0, 1), done.stderr
    return out


def test_neural_operator_writes_what_a_reader_needs(smoke):
    result = json.loads((smoke / "result.json").read_text())
    assert result["slug"] == "neural-operator" and result["number"] == 38
    names = [claim["name"] for claim in result["claims"]]
    assert len(names) == len(set(names)) >= 4
    assert all(isinstance(claim["measured"], float) for claim in result["claims"])
    exact = result["claims"][0]
    assert exact["holds"] and exact["measured"] < 1e-6  # the heat layer needs no training
    for figure in ("darcy", "resolutions", "training"):
        assert (smoke / f"{figure}.png").stat().st_size > 10_000
    # Equal sizes are what the comparison says; 3 % is what whole channels allow.
    sizes = [result["metrics"][f"darcy_{name}_parameters"] for name in ("fno", "unet")]
    assert abs(sizes[0] / sizes[1] - 1) < 0.03


def test_another_run_of_the_same_seed_is_the_same(smoke, tmp_path):
    first, second = (
        json.loads((folder / "result.json").read_text())["metrics"]
        for folder in (smoke, run_smoke(tmp_path / "again"))
    )
    assert first == second


def test_without_a_network_it_goes_on_with_generated_data(monkeypatch):
    experiment = load(find("neural-operator"))
    module = sys.modules[experiment.run.__module__]

    def fails():
        raise FetchError("no network")

    class Log:
        lines: list[str] = []

        def say(self, text):
            self.lines.append(text)

    monkeypatch.setattr(module, "neuralop_darcy", fails)
    data, third_party = module.darcy_data(experiment.preset("smoke"), Log())
    assert not third_party and "going on with generated Darcy flow" in Log.lines[0]
    assert data["train"].inputs.shape == (1000, 1, 16, 16)
    assert data["test_32"].inputs.shape == (50, 1, 32, 32)


def test_neural_operator_refuses_a_training_grid_that_does_not_fit():
    experiment = load(find("neural-operator"))
    with pytest.raises(ValueError, match="burgers_train: expected a divisor"):
        type(experiment.preset("smoke"))(burgers_resolution=1000)
