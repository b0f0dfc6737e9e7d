"""A small experiment in a file of the user's own."""

import shutil
from pathlib import Path

import pytest

SAMPLE = Path(__file__).parent / "sample_experiment.py"


@pytest.fixture
def sample(tmp_path, monkeypatch) -> Path:
    """The sample experiment as `mean.py` in the current directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(SAMPLE, tmp_path / "mean.py"))
