"""A mistake in the call is one line on standard error, status 2, and never a traceback."""

import sys

import pytest

from jaxsci.cli import main


def mistake(capsys, *words):
    """The one line that a call ends with."""
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    assert status == 2, captured
    assert "Traceback" not in captured.err + captured.out
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("jaxsci: "), captured.err
    return lines[0].removeprefix("jaxsci: ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "say what to do: list, run, verify, sweep, report, info; `jaxsci --help` explains"),
        (["lst"], "no command 'lst'; nearest: list"),
        (["list", "--rom", "nn"], "list: no option --rom; nearest: --room"),
        (["list", "--room", "nnn"], "--room nnn: no such room; nearest: nn"),
        (["list", "more"], "list: Unrecognized options: more"),
        (["run"], "run: SLUG|FILE is missing"),
        (["run", "other"], "other: paper 2, 'Another', has no experiment yet"),
        (["run", "deep-man"], "nearest: deep-mean"),
        (["run", "mine.py"], "mine.py: no such file"),
        (["run", "deep-mean", "--preset", "fulll"], "has no preset 'fulll'; nearest: full"),
        (["run", "deep-mean", "--preset"], "Missing value for argument '--preset'"),
        (["run", "deep-mean", "--seed", "x"], "--seed: expected an integer, got 'x'"),
        (["run", "deep-mean", "--seed", "1.5"], "--seed: expected an integer, got '1.5'"),
        (["run", "deep-mean", "--seed", "-1"], "--seed -1: expected an integer from 0 to"),
        (
            ["run", "deep-mean", "--seed", str(2**32)],
            "--seed 4294967296: expected an integer from 0",
        ),
        (["run", "deep-mean", "--sed", "1"], "run: no option --sed; nearest: --seed"),
        (["run", "deep-mean", "extra"], "Unrecognized options: extra"),
        (["run", "deep-mean", "--platform", "cpuu"], "--platform cpuu: unknown; nearest: cpu"),
        (["run", "deep-mean", "--devices", "0"], "--devices 0: expected at least 1"),
        (["run", "deep-mean", "--devices", "2", "--platform", "gpu"], "not go with --platform gpu"),
        (["run", "deep-mean", "--track", "tensorbord"], "--track: 'tensorbord' is not one of"),
        (["verify", "deep-man"], "nearest: deep-mean"),
        (["verify", "--preset", "fulll"], "deep-mean has no preset 'fulll'; nearest: full"),
        (["verify", "--seed", "-3"], "--seed -3: expected an integer from 0 to 4294967295"),
        (["report"], "runs: no such file or folder"),
        (["info", "--jsn"], "info: no option --jsn; nearest: --json"),
        (["info", "--platform", "tpuu"], "--platform tpuu: unknown; nearest: tpu"),
    ],
)
def test_command_line(house, capsys, words, line):
    assert line in mistake(capsys, *words)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--config.stps", "3"], "the configuration has no field 'stps'; nearest: steps"),
        (["--config.draw.bach", "3"], "has no field 'draw.bach'; nearest: draw.batch"),
        (["--config.draw", "3"], "the configuration has no field 'draw'; nearest: draw.batch"),
        (["--config", "3"], "a field is set by --config.FIELD VALUE, not by --config"),
        (["--config.steps", "abc"], "--config.steps: expected an integer, got 'abc'"),
        (["--config.steps", "2.5"], "--config.steps: expected an integer, got '2.5'"),
        (["--config.scale", "big"], "--config.scale: expected a number, got 'big'"),
        (["--config.steps"], "Missing value for argument '--config.steps'"),
        (["--config.steps", "0"], "--config.steps = 0: expected a value between 1 and 1000"),
        (["--config.scale", "nan"], "--config.scale = nan: expected a value above 0"),
        (["--config.draw.batch", "65"], "draw.batch = 65: expected a value between 1 and 64"),
        (["--config.kind", "mode"], "--config.kind: 'mode' is not one of ('mean', 'median')"),
        (["--config.float64", "maybe"], "--config.float64: 'maybe' is not one of"),
        (["--config.widths", "1", "x"], "--config.widths: values of a wrong kind, ['1', 'x']"),
    ],
)
def test_configuration(house, capsys, words, line):
    assert line in mistake(capsys, "run", "deep-mean", *words)
    assert not (house.parent / "work" / "runs").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def run(:\n", "mine.py: no experiment, line 1 is no Python"),
        ("x = 1\n", "mine.py: no experiment, it does not define PRESETS and run"),
        ("PRESETS = {}\n", "mine.py: no experiment, it does not define run"),
        ("PRESETS = {'quick': 1}\ndef run(): ...\n", "PRESETS['quick'] is a int, not a jaxsci"),
        (
            "from jaxsci.experiment import Config\nPRESETS = {'quick': Config()}\n"
            "def run(config, *, key, log): ...\n",
            "run returned a NoneType, expected a jaxsci.experiment.Result",
        ),
    ],
)
def test_a_file_that_is_no_experiment(tmp_path, monkeypatch, capsys, text, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(text)
    assert line in mistake(capsys, "run", "mine.py", "--quiet")


def test_out_that_cannot_be_used(sample, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    words = ["run", "mean.py", "--quiet", "--out"]
    assert "--out file/x: cannot be written" in mistake(capsys, *words, "file/x")
    assert "--out full: not empty, and not the folder of a run" in mistake(capsys, *words, "full")


def test_resuming_something_else(sample, capsys):
    assert main(["run", "mean.py", "--preset", "smoke", "--quiet"]) == 0
    line = mistake(
        capsys, "run", "mean.py", "--preset", "smoke", "--seed", "1", "--resume", "--quiet"
    )
    assert line == "--resume: runs/mean holds a run with seed 0, not 1"


def test_a_tracker_that_is_not_installed(sample, capsys, monkeypatch):
    # None in sys.modules is how Python marks a module that cannot be imported.
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = mistake(capsys, "run", "mean.py", "--track", "wandb")
    assert line == "--track wandb: wandb is not installed: pip install 'jaxsci[trackers]'"


def test_a_platform_that_is_not_there(sample, capsys):
    line = mistake(capsys, "run", "mean.py", "--platform", "rocm")
    assert line.startswith("--platform rocm: not available here (")


def test_float64_on_a_tpu(sample, capsys, monkeypatch):
    import jax

    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    words = ["mean.py", "--preset", "smoke", "--quiet", "--config.float64"]
    refused = (
        "--config.float64 True: TPUs have no 64-bit floats; compute with --platform cpu or gpu, "
        "or in 32 bits with --config.float64 False"
    )
    assert mistake(capsys, "run", *words, "true") == refused
    assert mistake(capsys, "sweep", *words, "False,True") == refused
    assert main(["run", *words, "false"]) == 0


def test_devices_come_too_late_in_a_process_that_computes(sample, capsys):
    import jax

    count = len(jax.devices("cpu"))
    line = mistake(capsys, "run", "mean.py", "--devices", str(count + 1))
    assert line == f"--devices {count + 1}: JAX already runs with {count} in this process"


BOX = """
╭─ Value error ───────────────╮
│ Error parsing --a: could not │
│ convert string to float: 'x' │
│ ──────────────────────────── │
│ Argument helptext:           │
╰──────────────────────────────╯
"""
RULES = """
 Value error
 ------------------------------
  Error parsing --a: could not
  convert string to float: 'x'
  ------------------------------
  Argument helptext:
"""


@pytest.mark.parametrize("box", [BOX, RULES, BOX.replace("─ V", "─ \x1b[31mV")])
def test_a_box_of_text_becomes_a_line(box):
    from jaxsci.cli.parsing import _one_line

    assert _one_line(box, "jaxsci run") == "jaxsci run: --a: expected a number, got 'x'"
    assert _one_line("", "jaxsci run") == "jaxsci run: cannot be parsed"
