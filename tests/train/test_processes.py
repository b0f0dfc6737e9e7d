"""Real processes that train one model together: same numbers, one log, one checkpoint, one end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxsci.experiment import UsageError, from_first, is_first, join_processes, process_count

PROGRAM = Path(__file__).parent / "many_processes.py"
# Sums of four products in another order; Adam at this rate amplifies float32's 6e-8 a hundredfold.
RTOL = 1e-5


def start(folder, n, steps, kind="host", **environment):
    """Starts n processes of one job."""
    with socket.socket() as probe:  # A port that is free now.
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, PROGRAM, folder, kind, str(steps)],
            env={
                **os.environ,
                "PYTHONPATH": str(PROGRAM.parents[2]),
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(n),
                "JAX_PROCESS_ID": str(i),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(n)
    ]


def finish(processes, seconds=180):
    """Their statuses and what they printed; none is left behind."""
    try:
        said = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def train(folder, n, steps, kind="host"):
    folder.mkdir(exist_ok=True)
    statuses, said = finish(start(folder, n, steps, kind))
    assert statuses == [0] * n, said
    return [json.loads((folder / f"result-{i}-of-{n}.json").read_text()) for i in range(n)]


def checkpoints(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit())


def assert_same(a, b):
    for name in ("loss", "norm", "weights"):
        np.testing.assert_allclose(a[name], b[name], rtol=RTOL)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone"), 1, 40)[0]


def test_two_processes_give_the_numbers_of_one(alone, tmp_path):
    first, second = train(tmp_path, 2, 40)
    assert first == second
    assert_same(first, alone)
    # Logged once, saved once.
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 41))
    assert checkpoints(tmp_path) == [35, 40]


def test_resumed_on_another_number_of_processes(alone, tmp_path):
    train(tmp_path, 2, 20)
    assert_same(train(tmp_path, 1, 40)[0], alone)


@pytest.mark.end_to_end
def test_four_processes_with_data_on_the_device(tmp_path):
    one = train(tmp_path / "one", 1, 20, "device")[0]
    four = train(tmp_path / "four", 4, 20, "device")
    assert four[0] == four[1] == four[2] == four[3]
    assert_same(four[0], one)


def test_weights_that_are_split_over_two_processes(tmp_path):
    """The optimiser's state is made in parts; saved by two, resumed by one."""
    one = train(tmp_path / "one", 1, 20, "device")[0]
    two = train(tmp_path / "two", 2, 10, "fsdp")
    assert two[0] == two[1]
    assert_same(train(tmp_path / "two", 1, 20, "device")[0], one)


def wait_for_checkpoint(folder, processes, beyond=0):
    deadline = time.monotonic() + 120
    while not [step for step in checkpoints(folder) if step > beyond]:
        assert time.monotonic() < deadline, finish(processes, 5)
        time.sleep(0.05)


def test_one_is_killed_and_the_others_stop(alone, tmp_path):
    processes = start(tmp_path, 2, 40, DAWDLE="1")
    wait_for_checkpoint(tmp_path, processes)
    processes[1].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    statuses, said = finish(processes, 60)
    assert time.monotonic() - begin < 60
    # Not one of the final statuses, so that a launcher tries again.
    assert statuses[0] not in (0, 1, 2, 3) and statuses[1] == -signal.SIGKILL
    assert "another process of this job is gone" in said[0]
    assert checkpoints(tmp_path)
    resumed = train(tmp_path, 2, 40)
    assert_same(resumed[0], alone)


def test_sigterm_to_one_stops_all_at_the_same_step(alone, tmp_path):
    # Slow enough that the processes agree on a step before the last one, also on a busy machine.
    processes = start(tmp_path, 2, 40, DAWDLE="3")
    wait_for_checkpoint(tmp_path, processes)
    processes[0].send_signal(signal.SIGTERM)
    statuses, said = finish(processes)
    assert statuses == [143, 143], said
    assert "interrupted; resume from the checkpoint of step" in (tmp_path / "log.jsonl").read_text()
    assert_same(train(tmp_path, 2, 40)[0], alone)


def test_alone_nothing_is_joined(monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    assert join_processes() == process_count() == 1
    assert is_first() and from_first(lambda: 3) == 3
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(UsageError, match="JAX_NUM_PROCESSES='two'"):
        join_processes()
