"""`jaxsci list`, `report`, `info` and `verify`."""

import json
import os
import subprocess
import sys
from pathlib import Path

from jaxsci.cli import main

PACKAGE = str(Path(__file__).parents[2])


def test_json_has_the_promised_keys(house, capsys):
    assert main(["list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {
        "slug": "deep-mean",
        "number": 1,
        "title": "Deep Mean",
        "room": "nn",
        "presets": ["smoke", "quick", "full"],
        "path": str(house / "nn" / "deep_mean.py"),
        "has_result": False,
    }
    assert main(["run", "deep-mean", "--preset", "smoke", "--quiet"]) == 0
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["has_result"] is True


def test_table_and_rooms(house, capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "deep-mean" in out and "1 of 3 papers have an experiment" in out
    assert main(["list", "--room", "pde"]) == 0
    out = capsys.readouterr().out
    assert "deep-mean" not in out and "0 of 1 papers" in out
    assert main(["list", "--room", "pde", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_broken_file_is_named_and_the_rest_listed(house, capsys):
    (house / "nn" / "broken.py").write_text("def (\n")
    assert main(["list", "--json"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)) == 1
    assert "broken.py: no experiment, line 1 is no Python" in captured.err


def test_list_imports_neither_jax_nor_numpy():
    """Which is what makes it fast: 0.35 s on a free core, where JAX alone takes longer."""
    code = (
        "import sys; from jaxsci.cli import main; main(['list', '--json']);"
        "print('jax' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": PACKAGE},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.split() == ["False", "False"]
    json.loads(done.stdout)


def test_the_projects_own_experiments_are_listed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["list", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for row in json.loads(captured.out):
        # Comparisons of many methods are no paper's, and one paper has several experiments.
        others = (
            "equation-discovery",
            "field-comparison",
            "irregular-series",
            "log-ode",
            "pinnacle",
            "sde-gan",
            "shootout",
        )
        assert row["number"] is not None or row["slug"] in others
        assert row["title"] and Path(row["path"]).is_file()
        assert {"smoke", "quick", "full", "paper"} == set(row["presets"])


def test_report_writes_the_ledger_of_the_house(house, sample, capsys, monkeypatch):
    monkeypatch.chdir(house.parent / "work")
    assert main(["run", "deep-mean", "--quiet"]) == 0
    assert main(["run", str(sample), "--quiet"]) == 0
    assert main(["report"]) == 0
    text = (house / "RESULTS.md").read_text()
    assert "[`deep-mean`](nn/deep_mean.py): Deep Mean | the mean is one half" in text
    assert "## own" not in text  # A user's own file is no paper of the project.
    assert "1 results brought in" in capsys.readouterr().out
    assert main(["report", "runs/mean/result.json", "--out", "mine.md"]) == 0
    assert "`mean`" in Path("mine.md").read_text()


def test_report_leaves_out_smoke_and_changed_runs(house, capsys):
    assert main(["run", "deep-mean", "--preset", "smoke", "--quiet"]) == 0
    assert main(["report"]) == 2
    assert "no results of an unchanged preset above smoke in runs" in capsys.readouterr().err
    assert main(["run", "deep-mean", "--config.scale", "2", "--quiet"]) == 0
    assert main(["report"]) == 2


def test_report_outside_a_checkout_needs_a_file(house, capsys, monkeypatch):
    monkeypatch.setattr("jaxsci.cli.listing.in_checkout", lambda: False)
    assert main(["run", "deep-mean", "--quiet"]) == 0
    assert main(["report"]) == 2
    assert "not in a checkout; say where to write with --out FILE" in capsys.readouterr().err


def test_info(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXSCI_CACHE_DIR", str(tmp_path))
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    import jax

    assert facts["versions"]["jax"] == jax.__version__
    assert len(facts["devices"]) == jax.device_count()
    assert facts["folders"]["cache"] == str(tmp_path)
    assert main(["info"]) == 0
    assert jax.__version__ in capsys.readouterr().out


def test_verify_runs_each_apart_and_adds_up(sample, tmp_path, capsys):
    failing = tmp_path / "failing.py"
    failing.write_text(
        sample.read_text().replace('config.steps, ">=", 2', 'config.steps, ">=", 99')
    )
    assert main(["verify", "mean.py", "--preset", "smoke", "--seed", "5"]) == 0
    assert "[1/1] mean" in capsys.readouterr().out
    record = json.loads(Path("runs/verify/mean/result.json").read_text())
    assert record["seed"] == 5 and record["preset"] == "smoke"
    assert main(["verify", "failing.py", "mean.py", "--preset", "smoke", "--out", "v"]) == 1
    out = capsys.readouterr().out
    assert "NO" in out and "yes" in out and Path("v/failing/result.json").exists()


def test_verify_counts_what_raises(sample, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SAMPLE_STOPS_AT", "0")
    assert main(["verify", "mean.py", "--preset", "smoke"]) == 3
    captured = capsys.readouterr()
    assert "raised" in captured.out and "stopped on purpose" in captured.err
