"""One experiment, unchanged: on one device, on eight, and in two processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WORDS = ["run", "line.py", "--preset", "smoke", "--config.steps", "40"]


def start(*words, **environment):
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "jaxsci.cli", *words],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes):
    try:
        said = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


@pytest.fixture
def one(tmp_path, monkeypatch):
    """The loss on one device; `line.py` and its run are in the current directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(HERE / "training_experiment.py", tmp_path / "line.py")
    finish(start(*WORDS, "--out", "one"))
    return result("one")["metrics"]["loss"]


def result(folder):
    return json.loads((Path(folder) / "result.json").read_text())


def test_eight_devices(one):
    ((out, _),) = finish(start(*WORDS, "--out", "eight", "--devices", "8", "--platform", "cpu"))
    assert "line: each batch (16 samples) is spread over 8 of 8 devices" in out
    found = result("eight")
    assert found["device"]["count"] == 8
    # Another order of summation; gradient descent on a convex problem does not amplify it, but
    # the loss has fallen by orders of magnitude and with it what the rounding is compared with.
    assert found["metrics"]["loss"] == pytest.approx(one, rel=1e-4)
    assert found["metrics"]["devices"] == 1  # The result is where other arrays are.


def test_a_batch_that_eight_do_not_divide(one):
    words = [*WORDS, "--config.batch", "12", "--out", "twelve", "--devices", "8"]
    ((out, _),) = finish(start(*words))
    assert "each batch (12 samples) is spread over 4 of 8 devices" in out


def start_two(*words, **environment):
    """Two processes of one job."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PLATFORMS": "cpu",
        **environment,
    }
    return [start(*words, JAX_PROCESS_ID=str(i), **job) for i in range(2)]


def test_two_processes(one):
    said = finish(*start_two(*WORDS, "--out", "two", "--resume"))
    assert "the loss falls" in said[0][0] and "the loss falls" not in said[1][0]
    assert result("two")["metrics"]["loss"] == pytest.approx(one, rel=1e-4)
    rows = [json.loads(line) for line in Path("two/log.jsonl").read_text().splitlines()]
    assert sum("loss" in row for row in rows) == 40


@pytest.mark.end_to_end
@pytest.mark.parametrize("interrupted", [(1,), (0, 1)], ids=["one", "all"])
def test_ctrl_c_in_two_processes(one, interrupted):
    """To one of them or, as a terminal does, to all: both save at one step and end with 130."""
    words = [*WORDS, "--out", "two", "--resume"]
    # JAX looks for a notice once a second and then agrees on a step to come. Ten evaluations of
    # two seconds leave a busy machine time for that; an undisturbed one stops after a few.
    processes = start_two(*words, DAWDLE="2")
    folder, deadline = Path("two/line/checkpoints"), time.monotonic() + 120
    try:
        while not list(folder.glob("[0-9]*")):
            assert time.monotonic() < deadline
            assert [process.poll() for process in processes] == [None, None]
            time.sleep(0.02)
        for i in interrupted:
            processes[i].send_signal(signal.SIGINT)
        begin = time.monotonic()
        errors = [process.communicate(timeout=60)[1] for process in processes]
        assert time.monotonic() - begin < 60
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [130, 130], errors
    for error in errors:
        assert f"jaxsci: stopped; to go on: jaxsci {' '.join(words)}" in error
        assert "Traceback" not in error
    saved = max(int(path.name) for path in folder.glob("[0-9]*"))
    log = Path("two/log.jsonl").read_text()
    assert saved < 40 and f"interrupted; resume from the checkpoint of step {saved}" in log
    finish(*start_two(*words))
    assert result("two")["metrics"]["loss"] == pytest.approx(one, rel=1e-4)
