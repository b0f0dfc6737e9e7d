"""A process that is killed without warning, and one that takes over from it."""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

PROGRAM = Path(__file__).parent / "long_run.py"
ROOT = Path(__file__).parent.parent.parent


def load_program():
    spec = importlib.util.spec_from_file_location("long_run", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkpoints(folder):
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def start_and_kill(folder, seconds, deadline=120.0):
    """Starts the program, waits for a new checkpoint and `seconds` more, kills it."""
    before = checkpoints(folder)
    process = subprocess.Popen(
        [sys.executable, PROGRAM, folder],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + deadline
    while checkpoints(folder) == before and process.poll() is None:
        assert time.monotonic() < end, "the program wrote no checkpoint"
        time.sleep(0.002)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    return process.returncode, errors.decode()


def kill_until_nearly_done(folder, kills, rng):
    program = load_program()
    killed = 0
    for _ in range(kills):
        status, errors = start_and_kill(folder, rng.uniform(0, 0.08))
        assert status in (-signal.SIGKILL, 0), errors
        killed += status != 0
        if checkpoints(folder)[-1] >= program.STEPS:
            break
    return program, killed


def assert_same_as_unbroken(program, folder):
    resumed, unbroken = program.run(folder), program.run(None)
    for a, b in zip(
        jax.tree.leaves(eqx.filter(resumed.state, eqx.is_inexact_array)),
        jax.tree.leaves(eqx.filter(unbroken.state, eqx.is_inexact_array)),
        strict=True,
    ):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    for name in unbroken.history:
        np.testing.assert_array_equal(resumed.history[name], unbroken.history[name])
    for name in unbroken.evaluations:
        np.testing.assert_array_equal(resumed.evaluations[name], unbroken.evaluations[name])


def test_killed_and_resumed_is_the_unbroken_run(tmp_path):
    program, killed = kill_until_nearly_done(tmp_path, 1, random.Random(0))
    assert killed == 1
    assert_same_as_unbroken(program, tmp_path)


@pytest.mark.end_to_end
def test_many_kills_at_random_moments(tmp_path):
    """Twenty kills, some of them while a checkpoint is being written."""
    rng, total = random.Random(1), 0
    while total < 20:
        folder = tmp_path / f"run{total}"
        folder.mkdir()
        program, killed = kill_until_nearly_done(folder, 20 - total, rng)
        assert_same_as_unbroken(program, folder)
        total += killed
