"""`jaxsci run`: the table, the files, the exit status; files of the user's own; Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import jaxsci.experiment
from jaxsci.cli import main

PACKAGE = str(Path(__file__).parents[2])


STATUSES = ["0 all", "1 a claim", "2 a mistake", "75 another process", "130 Ctrl-C", "143 SIGTERM"]


def start(*words, **options):
    """The command in a process of its own, in the current directory."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "jaxsci.cli", *words],
        env={**os.environ, "PYTHONPATH": PACKAGE, **options},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(folder="runs/mean"):
    return json.loads((Path(folder) / "result.json").read_text())


def test_claims_hold(sample, capsys):
    assert main(["run", "mean.py", "--preset", "smoke", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    for words in ("the mean is one half", "measured", ">= 2", "yes", "result.json", "values.png"):
        assert words in out
    assert "Files in runs/mean/" in out and "preset smoke, seed 3" in out
    assert result()["seed"] == 3


def test_a_claim_fails(sample, capsys):
    assert main(["run", "mean.py", "--config.steps", "1"]) == 1
    out = capsys.readouterr().out
    assert "NO" in out and "changed: steps" in out
    assert result()["overrides"] == {"steps": 1}


def test_configuration_fields_of_every_kind(sample):
    words = "run mean.py --preset smoke --quiet --out elsewhere --config.float64 True"
    words += " --config.kind median --config.widths 4 5 6 --config.draw.batch 8 --config.scale=2.5"
    assert main(words.split()) == 0
    config = result("elsewhere")["config"]
    assert config["kind"] == "median" and config["widths"] == [4, 5, 6]
    assert config["draw"] == {"batch": 8} and config["scale"] == 2.5
    assert result("elsewhere")["metrics"]["bits"] == 64


def test_quiet_prints_nothing(sample, capsys):
    assert main(["run", "mean.py", "--preset", "smoke", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_slug_of_the_house(house, capsys):
    assert main(["run", "deep-mean", "--preset", "smoke"]) == 0
    assert "deep-mean (paper 1), preset smoke" in capsys.readouterr().out
    assert result("runs/deep-mean")["number"] == 1


def test_complete_run_is_not_repeated(sample, capsys):
    words = ["run", "mean.py", "--preset", "smoke"]
    assert main(words) == 0
    before = result()
    capsys.readouterr()
    assert main([*words, "--resume"]) == 0
    out = capsys.readouterr().out
    assert "this run is complete" in out and "the mean is one half" in out
    assert result() == before


def test_tensorboard(sample):
    assert main(["run", "mean.py", "--preset", "smoke", "--track", "tensorboard"]) == 0
    assert list(Path("runs/mean/tensorboard").glob("events.*"))


def test_what_the_experiment_raises_is_shown(sample, capsys, monkeypatch):
    monkeypatch.setenv("SAMPLE_STOPS_AT", "1")
    assert main(["run", "mean.py", "--preset", "smoke"]) == 3
    err = capsys.readouterr().err
    assert "RuntimeError: stopped on purpose" in err and "mean.py" in err
    assert "runner.py" not in err  # The traceback begins in the experiment.
    assert "its log is in runs/mean/" in err
    assert (Path("runs/mean/log.jsonl")).read_text().count('"step"') == 1
    monkeypatch.delenv("SAMPLE_STOPS_AT")
    assert main(["run", "mean.py", "--preset", "smoke", "--resume", "--quiet"]) == 0
    assert result()["resumed"] is True


def test_an_import_that_fails_is_shown(sample, capsys):
    sample.write_text("import no_such_module_here\n" + sample.read_text())
    assert main(["run", "mean.py"]) == 3
    err = capsys.readouterr().err
    assert "ModuleNotFoundError: No module named 'no_such_module_here'" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], ["list", "run", "verify", "sweep", "report", "info", *STATUSES]),
        (
            ["run", "--help"],
            ["SLUG|FILE", "--preset", "--resume", "--out DIR", "--devices N", *STATUSES],
        ),
        (
            ["run", "mean.py", "--help"],
            ["--config.steps INT", "Batches to draw.", "(default: 12)", "--config.draw.batch"],
        ),
        (["run", "mean.py", "--preset", "smoke", "--help"], ["(default: 2)"]),
        (["list", "-h"], ["--room", "--json"]),
        (["verify", "--help"], ["SLUG|FILE ..."]),
        (["report", "--help"], ["ledger"]),
        (["info", "--help"], ["--json"]),
    ],
)
def test_help(sample, capsys, words, said):
    assert main(words) == 0
    out = capsys.readouterr().out
    for text in said:
        assert text in out


def test_the_shortest_experiment_in_the_docstring_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = jaxsci.experiment.__doc__.split("jaxsci run sine.py --config.n 100`:\n")[1]
    Path("sine.py").write_text(textwrap.dedent(text))
    assert main(["run", "sine.py", "--config.n", "100"]) == 0
    assert "The trapezoidal rule integrates the sine" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == jaxsci.__version__


def test_devices_and_cache_in_a_fresh_process(sample, tmp_path):
    sample.write_text(sample.read_text().replace('"mean": mean', '"mean": jax.device_count()'))
    # An empty value, so that JAX's own folder (which the tests set) does not come first.
    run = start(
        *"run mean.py --preset smoke --devices 3 --config.float64 True".split(),
        JAXSCI_CACHE_DIR=str(tmp_path / "cache"),
        JAX_COMPILATION_CACHE_DIR="",
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, out + err
    assert "Traceback" not in err
    assert result()["metrics"]["mean"] == 3 and result()["device"]["count"] == 3
    assert list((tmp_path / "cache" / "xla").iterdir())


def test_ctrl_c_says_how_to_go_on(sample):
    sample.write_text(
        sample.read_text().replace("bar.update(", "import time; time.sleep(0.3); bar.update(")
    )
    words = ["mean.py", "--preset", "full", "--config.scale", "2"]
    run = start("run", *words)
    log, deadline = Path("runs/mean/log.jsonl"), time.monotonic() + 60
    while not (log.exists() and '"step"' in log.read_text()):
        assert time.monotonic() < deadline and run.poll() is None, run.communicate()
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    again = "jaxsci run mean.py --preset full --config.scale 2 --resume"
    assert err.splitlines() == [f"jaxsci: stopped; to go on: {again}"]
    sample.write_text(sample.read_text().replace("time.sleep(0.3)", "pass"))
    assert main(["run", *words, "--resume", "--quiet"]) == 0
    assert result()["resumed"] is True
