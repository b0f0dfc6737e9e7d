"""`jaxsci sweep`: the grid, the files, going on after a stop, sharing with others, misuse."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxsci.cli import main
from jaxsci.cli.sweeping import _part
from jaxsci.experiment import UsageError, read_record, run_folder

PACKAGE = str(Path(__file__).parents[2])
FOLDER = Path("runs/sweeps/mean")
WORDS = ["sweep", "mean.py", "--preset", "smoke", "--seeds", "2", "--config.scale", "1,2.5"]

TOGETHER = """

def run_seeds(config, *, keys, log):
    called = log.path("called.txt")
    before = called.read_text() if called.exists() else ""
    called.write_text(before + f"{len(keys)} seeds\\n")
    return [run(config, key=key, log=log.scope(f"s{i}")) for i, key in enumerate(keys)]
"""


def table(folder=FOLDER):
    return json.loads((Path(folder) / "sweep.json").read_text())


def rows(folder=FOLDER):
    with (Path(folder) / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder=FOLDER):
    """The files that say what came out, as bytes."""
    return [(Path(folder) / name).read_bytes() for name in ("sweep.json", "sweep.csv")]


def results(folder=FOLDER):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).glob("*/seed-*/result.json"))


def test_every_seed_at_every_point(sample, capsys):
    assert main([*WORDS, "--config.draw.batch", "4,8"]) == 0
    out = capsys.readouterr().out
    assert "4 points × 2 seeds" in out and "[8/8] scale=2.5, draw.batch=8, seed 1" in out
    assert "enough" in out and "draw.batch" in out and "sweep.png" in out
    found = table()
    assert found["points"][1] == {"scale": 1.0, "draw.batch": 8}
    assert found["finished"] == found["of"] == 8 and found["holds"] is True
    # Each is what `run` gives for this seed and configuration.
    alone = ["run", "mean.py", "--preset", "smoke", "--seed", "1", "--config.scale", "2.5"]
    assert main([*alone, "--quiet"]) == 0
    record = read_record(Path("runs/mean/result.json"))
    mine = next(r for r in rows() if (r["scale"], r["draw.batch"], r["seed"]) == ("2.5", "4", "1"))
    assert float(mine["mean"]) == record.metrics["mean"]
    assert float(mine["measured of the mean is one half"]) == record.claims[0].measured
    assert float(mine["target of the mean is one half"]) == 1.25 and mine["holds"] == "True"
    assert (FOLDER / "sweep.png").read_bytes().startswith(b"\x89PNG")
    # The ledger is made of runs; a sweep's are many of one preset.
    assert main(["report", "runs/sweeps", "--out", "R.md"]) == 2


def test_finished_runs_are_read_and_a_sweep_may_grow(sample, capsys):
    assert main([*WORDS, "--quiet"]) == 0
    before = {path: (FOLDER / path).stat().st_mtime_ns for path in results()}
    capsys.readouterr()
    assert main([*WORDS[:-1], "1,2.5,4", "--resume"]) == 0
    assert "4 of 6 runs are there already" in capsys.readouterr().out
    assert {path: (FOLDER / path).stat().st_mtime_ns for path in before} == before
    assert table()["of"] == 6


def test_a_failing_claim_is_status_1_and_no_list_is_one_point(sample):
    assert main(["sweep", "mean.py", "--config.steps", "1", "--quiet"]) == 1
    assert table()["holds"] is False
    assert main(["sweep", "mean.py", "--seeds", "3", "--quiet", "--out", "seeds"]) == 0
    assert results("seeds") == [f"preset/seed-{i}/result.json" for i in range(3)]


def test_a_run_that_raises_does_not_stop_the_others(sample, capsys, monkeypatch):
    monkeypatch.setenv("SAMPLE_STOPS_AT", "3")
    words = ["sweep", "mean.py", "--config.steps", "2,5,3", "--metric", "mean"]
    assert main(words) == 3
    captured = capsys.readouterr()
    assert "RuntimeError: stopped on purpose" in captured.err
    assert "mean, steps=5, seed 0 (in runs/sweeps/mean/steps=5/) raised" in captured.err
    assert "1 of 3 runs are not finished; 1 raised" in captured.out
    assert [run["finished"] for run in table()["runs"]] == [True, False, True]
    assert rows()[1]["holds"] == ""
    monkeypatch.delenv("SAMPLE_STOPS_AT")
    assert main([*words, "--quiet"]) == 0


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "jaxsci.cli", *words],
        env={**os.environ, "PYTHONPATH": PACKAGE},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_stopped_and_killed_it_ends_with_the_same_table(sample):
    assert main([*WORDS, "--config.steps", "3,2", "--out", "unbroken", "--quiet"]) == 0
    words = [*WORDS, "--config.steps", "3,2"]
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        before, process = len(results()), start(*words)
        deadline = time.monotonic() + 90
        while len(results()) == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        if process.returncode == 0:  # All runs were done before the signal came.
            break
        assert process.returncode == status, err
        if number != signal.SIGKILL:
            assert err.splitlines()[-1].endswith("; to go on: jaxsci " + " ".join(words)), err
    assert main([*words, "--quiet"]) == 0
    assert files() == files("unbroken")


def test_parts_share_the_work(sample, capsys):
    assert main([*WORDS, "--part", "1/2"]) == 0
    assert results() == ["scale=1/seed-0/result.json", "scale=2.5/seed-0/result.json"]
    out = capsys.readouterr().out
    assert "this is part 1 of 2" in out
    assert "2 of 4 runs are not finished; the part that ends last writes the whole table" in out
    assert table()["finished"] == 2
    assert main([*WORDS, "--part", "2/2", "--quiet"]) == 0
    assert main([*WORDS, "--out", "whole", "--quiet"]) == 0
    assert files() == files("whole")


def test_what_another_process_runs_is_left_to_it(sample, capsys):
    assert main([*WORDS, "--config.steps", "2", "--quiet", "--part", "1/4"]) == 0
    held = FOLDER / "scale=1,steps=2" / "seed-1"
    identity = {**json.loads((held.parent / "seed-0" / "run.json").read_text()), "seed": 1}
    identity.pop("started")
    with run_folder.run_folder(held, identity, resume=True):
        assert main([*WORDS, "--config.steps", "2"]) == 75
    assert "another process works on 1" in capsys.readouterr().out
    assert table()["finished"] == 3
    assert main([*WORDS, "--config.steps", "2", "--quiet"]) == 0


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({}, (0, 1)),
        ({"JAX_PROCESS_ID": "2", "JAX_NUM_PROCESSES": "3"}, (2, 3)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, (0, 1)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, (1, 2)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "5",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "4",
            },
            (1, 4),
        ),
    ],
)
def test_launchers_say_which_part_a_process_is(environment, part):
    assert _part(None, environment) == part
    assert _part("2/3", environment) == (1, 3)


def test_an_array_with_gaps_is_refused():
    with pytest.raises(UsageError, match="SLURM_ARRAY_TASK_ID=9, SLURM_ARRAY_TASK_COUNT=2: cannot"):
        _part(None, {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "2"})


def test_seeds_at_once(sample, capsys):
    assert main([*WORDS, "--quiet", "--out", "single"]) == 0
    sample.write_text(sample.read_text() + TOGETHER)
    assert main(WORDS) == 0
    out = capsys.readouterr().out
    assert "2 points × 2 seeds, seeds at once" in out and "[2/2] scale=2.5, seeds 0 to 1" in out
    assert (FOLDER / "scale=1/seeds-0-1/called.txt").read_text() == "2 seeds\n"
    assert rows() == rows("single")
    record = read_record(FOLDER / "scale=2.5/seed-1/result.json")
    assert record.seed == 1 and record.together == 2 and record.config["scale"] == 2.5
    # Killed between writing the two: computed together again, and only what is missing is written.
    (FOLDER / "scale=1/seed-1/result.json").unlink()
    kept = (FOLDER / "scale=1/seed-0/result.json").stat().st_mtime_ns
    assert main([*WORDS, "--quiet"]) == 0
    assert (FOLDER / "scale=1/seeds-0-1/called.txt").read_text() == "2 seeds\n2 seeds\n"
    assert (FOLDER / "scale=1/seed-0/result.json").stat().st_mtime_ns == kept
    assert rows() == rows("single")
    # More seeds: the new ones form a group of their own.
    assert main([*WORDS[:5], "5", *WORDS[6:], "--quiet"]) == 0
    assert (FOLDER / "scale=1/seeds-2-4/called.txt").read_text() == "3 seeds\n"


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (
            "return [run(config, key=keys[0], log=log)]",
            "returned 1 of Result, expected 2",
        ),
        ("return [None, None]", "run_seeds returned 2 of NoneType, expected 2 of Result"),
    ],
)
def test_run_seeds_that_is_none(sample, capsys, body, line):
    sample.write_text(sample.read_text() + f"\n\ndef run_seeds(config, keys, log):\n    {body}\n")
    assert line in mistake(capsys, *WORDS)


def test_the_project_s_own_seeds_at_once_are_the_single_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["diffgrad", "--preset", "smoke", "--quiet"]
    assert main(["sweep", *words, "--seeds", "3", "--out", "sweep"]) in (0, 1)
    assert main(["run", *words, "--seed", "2", "--out", "alone"]) in (0, 1)
    mine = read_record(Path("sweep/preset/seed-2/result.json"))
    alone = read_record(Path("alone/result.json"))
    assert mine.together == 3
    assert mine.claims == alone.claims and mine.metrics == alone.metrics


def mistake(capsys, *words):
    """The one line that a call ends with."""
    capsys.readouterr()
    assert main([*words, "--quiet"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and err.startswith("jaxsci: "), err
    return err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--config.stps", "1,2"], "the configuration has no field 'stps'; nearest: steps"),
        (["--config.steps", "1,,2"], "--config.steps 1,,2: an entry of the list is empty"),
        (["--config.steps", "1,2,"], "--config.steps 1,2,: an entry of the list is empty"),
        (["--config.steps=,"], "--config.steps ,: an entry of the list is empty"),
        (["--config.steps", "1,x"], "--config.steps: expected an integer, got 'x'"),
        (["--config.steps", "1,0"], "steps = 0: expected a value between 1 and 1000"),
        (["--config.kind", "mean,mode"], "--config.kind: 'mode' is not one of ('mean', 'median')"),
        (
            ["--config.steps", "1", "2"],
            "a list is written with commas and no spaces, as in",
        ),
        (["--config.steps"], "Missing value for argument '--config.steps'"),
        (["--config.steps", "1", "--config.steps", "2"], "--config.steps is given twice"),
        (["--config.scale", "1,1.0"], "the point scale=1 is given twice"),
        (["--config.widths", "1 x,2"], "--config.widths: values of a wrong kind, ['1', 'x']"),
        (["--seeds", "0"], "--seeds 0: expected at least 1"),
        (["--seeds", "two"], "--seeds: expected an integer, got 'two'"),
        (["--seed", "-1"], "--seed -1: expected an integer from 0"),
        (["--seed", str(2**32 - 1), "--seeds", "2"], f"--seed {2**32}: expected an integer"),
        (["--part", "3/2"], "--part 3/2: expected I/N with I from 1 to N"),
        (["--part", "half"], "--part half: expected I/N with I from 1 to N"),
        (["--preset", "fulll"], "mean has no preset 'fulll'; nearest: full"),
        (["--sed", "1"], "sweep: no option --sed; nearest: --seed"),
        (["--platform", "tpuu"], "--platform tpuu: unknown; nearest: tpu"),
    ],
)
def test_misuse(sample, capsys, words, line):
    assert line in mistake(capsys, "sweep", "mean.py", *words)
    assert not Path("runs").exists()


def test_a_tuple_takes_lists_of_values(sample):
    words = ["sweep", "mean.py", "--preset", "smoke", "--quiet", "--config.widths", "4", "5,6", "7"]
    assert main(words) == 0
    assert table()["points"] == [{"widths": [4, 5]}, {"widths": [6, 7]}]


def test_folders_of_others_are_refused(sample, capsys):
    assert main(["run", "mean.py", "--preset", "smoke", "--quiet"]) == 0
    assert "--out runs/mean: not empty, and not the folder of a sweep" in mistake(
        capsys, *WORDS, "--out", "runs/mean"
    )
    Path("file").write_text("")
    assert "--out file/x: cannot be written" in mistake(capsys, *WORDS, "--out", "file/x")
    assert main([*WORDS, "--quiet"]) == 0
    other = ["sweep", "mean.py", "--quiet"]
    assert "holds a sweep of preset smoke, not quick" in mistake(capsys, *other)
    changed = [*WORDS, "--config.steps", "5"]
    assert main([*changed, "--quiet"]) == 0  # Other points in the same folder.
    line = mistake(capsys, *WORDS, "--metric", "mea")
    assert "--metric mea: no result has it; nearest: mean" in line
    sample.write_text(sample.read_text() + "\n# changed\n")
    assert "mean.py has changed since this sweep was begun" in mistake(capsys, *WORDS)


def test_help(sample, capsys):
    assert main(["sweep", "--help"]) == 0
    out = capsys.readouterr().out
    for text in ("--seeds N", "--part I/N", "--metric", "75", "130", "143"):
        assert text in out
    assert main(["sweep", "mean.py", "--help"]) == 0
    assert "--config.steps INT" in capsys.readouterr().out
