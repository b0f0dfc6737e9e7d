"""A small experiment in a file of the user's own, and a house with one experiment in it."""

import shutil
from pathlib import Path

import pytest

SAMPLE = Path(__file__).parents[1] / "experiment" / "sample_experiment.py"


@pytest.fixture
def sample(tmp_path, monkeypatch) -> Path:
    """The sample experiment as `mean.py` in the current directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(SAMPLE, tmp_path / "mean.py"))


@pytest.fixture
def house(tmp_path, monkeypatch) -> Path:
    """A folder of experiments in place of the project's: papers 1 to 3, one with a file."""
    folder = tmp_path / "experiments"
    (folder / "nn").mkdir(parents=True)
    shutil.copy(SAMPLE, folder / "nn" / "deep_mean.py")
    (folder / "papers.tsv").write_text(
        "number\tslug\troom\ttitle\n1\tdeep-mean\tnn\tDeep Mean\n"
        "2\tother\tpde\tAnother\n3\tmore\tnn\tMore\n"
    )
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for module in ("jaxsci.experiment.discovery", "jaxsci.cli.listing"):
        monkeypatch.setattr(f"{module}.experiments_folder", lambda: folder)
    return folder
