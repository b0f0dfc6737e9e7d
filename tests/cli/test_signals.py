"""How a run that trains ends before its time: signals, numbers that blow up, errors, mix-ups."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxsci.cli import main

HERE = Path(__file__).parent
CHECKPOINTS = Path("runs/line/line/checkpoints")


@pytest.fixture
def line(tmp_path, monkeypatch):
    """The experiment that trains as `line.py` in the current directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(HERE / "training_experiment.py", tmp_path / "line.py"))


def result(folder="runs/line"):
    return json.loads((Path(folder) / "result.json").read_text())


def steps_saved():
    return sorted(int(p.name) for p in CHECKPOINTS.glob("*") if p.name.isdigit())


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGTERM, 143, "stopped by SIGTERM"), (signal.SIGINT, 130, "stopped")],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_saves_and_says_how_to_go_on(line, number, status, said):
    words = ["run", "line.py", "--preset", "smoke", "--config.steps", "400"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "jaxsci.cli", *words],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "DAWDLE": "0.2"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not steps_saved():
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    process.send_signal(number) if number == signal.SIGTERM else None  # A batch system insists.
    _, err = process.communicate(timeout=30)
    assert process.returncode == status, err
    again = "jaxsci run line.py --preset smoke --config.steps 400 --resume"
    assert err.splitlines() == [f"jaxsci: {said}; to go on: {again}"]
    assert not (Path("runs/line/result.json")).exists()
    log = Path("runs/line/log.jsonl").read_text()
    saved = steps_saved()[-1]
    assert f"interrupted; resume from the checkpoint of step {saved}" in log

    assert main([*words, "--resume", "--quiet"]) == 0
    assert f"resumed from the checkpoint of step {saved}" in Path("runs/line/log.jsonl").read_text()
    assert main([*words, "--out", "unbroken", "--quiet"]) == 0
    # The same program on the same numbers: not a bit differs.
    assert result()["metrics"]["loss"] == result("unbroken")["metrics"]["loss"]


def test_a_loss_that_blows_up_is_one_line(line, capsys):
    words = ["run", "line.py", "--preset", "smoke", "--quiet", "--config.steps", "400"]
    assert main([*words, "--config.rate", "9"]) == 3
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and "Traceback" not in err[0]
    assert err[0].startswith("jaxsci: line: training stopped in step ")
    assert f"the last good checkpoint, of step {steps_saved()[-1]}, is in" in err[0]


def test_an_error_in_user_code_saves_the_state(line, capsys, monkeypatch):
    monkeypatch.setenv("BREAK", "1")
    assert main(["run", "line.py", "--preset", "smoke", "--quiet"]) == 3
    err = capsys.readouterr().err
    assert "RuntimeError: broken on purpose" in err and "line.py" in err
    assert steps_saved() == [4]
    monkeypatch.delenv("BREAK")
    assert main(["run", "line.py", "--preset", "smoke", "--quiet", "--resume"]) == 0


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (["--seed", "1"], "seed is 0 there and 1 here"),
        (["--config.rate", "0.1"], "config.rate is 0.05 there and 0.1 here"),
    ],
)
def test_checkpoints_of_another_experiment_are_refused(line, capsys, words, difference):
    """Checkpoints that were copied into another run's folder still know what they are."""
    run = ["run", "line.py", "--preset", "smoke", "--quiet"]
    assert main(run) == 0
    assert main([*run, *words, "--out", "other"]) == 0
    Path("other/result.json").unlink()
    shutil.rmtree("other/line/checkpoints")
    shutil.copytree(CHECKPOINTS, "other/line/checkpoints")
    capsys.readouterr()
    assert main([*run, *words, "--out", "other", "--resume"]) == 3
    err = capsys.readouterr().err
    assert difference in err and len(err.splitlines()) == 1
