"""Experiments are found and described without being run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxsci.experiment import UsageError, discover, experiments_folder, find, load, papers

ROOT = Path(__file__).parents[2]
FILE = '''"""{title}.

More words.
"""
raise SystemExit("this file was run")
PRESETS = {presets}
def run(config, *, key, log): ...
'''


@pytest.fixture
def folder(tmp_path):
    """A folder of experiments with two papers, one of which has a file."""
    (tmp_path / "papers.tsv").write_text(
        'number\tslug\troom\ttitle\n7\tdeep-net\tnn\tA "Deep" Net\n3\tother\tpde\tAnother\n'
    )
    room = tmp_path / "nn"
    room.mkdir()
    (room / "deep_net.py").write_text(
        FILE.format(title="Mine", presets='{"smoke": Config(), "quick": 2}')
    )
    (room / "extra.py").write_text(FILE.format(title="An extra", presets="dict(full=1, paper=2)"))
    (room / "_shared.py").write_text("def (")
    (room / "helper.py").write_text("x = 1\n")
    (room / "broken.py").write_text("x = 1\ndef (\n")
    return tmp_path


def test_files_are_described_without_being_run(folder):
    found, problems = discover(folder)
    deep, extra = found
    assert (deep.slug, deep.number, deep.room, deep.title) == ("deep-net", 7, "nn", 'A "Deep" Net')
    assert deep.presets == ("smoke", "quick") and deep.path == folder / "nn" / "deep_net.py"
    assert (extra.slug, extra.number, extra.title) == ("extra", None, "An extra")
    assert extra.presets == ("full", "paper")
    ((path, problem),) = problems.items()
    assert path.name == "broken.py" and "line 2 is no Python" in problem


def test_find_by_slug_and_by_file(folder):
    found = find("deep-net", folder)
    assert found == find("deep_net", folder) == find(folder / "nn" / "deep_net.py", folder)


def test_a_file_elsewhere_is_the_users_own(folder, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "deep_net.py").write_text(FILE.format(title="Mine", presets="PRESETS_OF_MINE"))
    monkeypatch.chdir(elsewhere)
    mine = find("deep_net.py", folder)
    assert (mine.slug, mine.number, mine.room, mine.title) == ("deep-net", None, "own", "Mine")
    assert mine.presets == () and mine.path.is_absolute()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("deep-nett", "no experiment 'deep-nett' .*; nearest: deep-net"),
        ("other", "other: paper 3, 'Another', has no experiment yet"),
        ("broken", "line 2 is no Python"),
        ("missing.py", "missing.py: no such file"),
        ("nn/", "nn: not a Python file"),
        ("papers.tsv/", "papers.tsv: not a Python file"),
        ("nn/broken.py", "nn/broken.py: no experiment, line 2 is no Python: invalid syntax"),
        ("nn/helper.py", "nn/helper.py: no experiment, it does not define PRESETS and run"),
        ("binary.py", "binary.py: "),
    ],
)
def test_what_is_no_experiment_is_told_in_a_line(folder, monkeypatch, target, message):
    monkeypatch.chdir(folder)
    (folder / "binary.py").write_bytes(b"\x00\xff\xfe")
    with pytest.raises(UsageError, match=message) as caught:
        find(target, folder)
    assert "\n" not in str(caught.value)


def test_the_projects_own_list_of_papers():
    listed = papers()
    assert len(listed) == 184
    assert [paper.number for paper in listed.values()] == list(range(1, 185))
    assert listed["neural-operator"].room == "operators"
    folder = experiments_folder()
    assert folder is not None and (folder / "papers.tsv").is_file()


def test_discovery_needs_no_jax():
    # In a process of its own: here JAX is imported already.
    code = "import sys, jaxsci.experiment as e; e.discover(); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_installed_wheel_brings_its_experiments(tmp_path):
    # As the wheel lays them out: experiments/ lies in the package as _experiments/.
    package = tmp_path / "jaxsci"
    shutil.copytree(ROOT / "jaxsci" / "experiment", package / "experiment")
    shutil.copytree(ROOT / "jaxsci" / "cli", package / "cli")
    shutil.copy(ROOT / "jaxsci" / "__init__.py", package)
    (package / "_experiments" / "operators").mkdir(parents=True)
    shutil.copy(ROOT / "experiments" / "papers.tsv", package / "_experiments")
    (package / "_experiments" / "operators" / "neural_operator.py").write_text(
        FILE.format(title="x", presets="{'quick': 1}")
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jaxsci.cli", "list", "--json"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = json.loads(done.stdout)
    assert row["slug"] == "neural-operator" and row["number"] == 38
    assert row["path"] == str(package / "_experiments" / "operators" / "neural_operator.py")


def test_load_gives_presets_and_run(sample):
    loaded = load(find(sample))
    assert set(loaded.presets) == {"smoke", "quick", "full"} and callable(loaded.run)
    with pytest.raises(UsageError, match="mean has no preset 'qick'; nearest: quick"):
        loaded.preset("qick")


def test_a_file_can_import_its_neighbour(tmp_path):
    (tmp_path / "my_neighbour_module.py").write_text("width = 7\n")
    path = tmp_path / "mine.py"
    path.write_text(
        "from my_neighbour_module import width\nfrom jaxsci.experiment import Config\n"
        'PRESETS = {"quick": Config()}\ndef run(config, *, key, log): return width\n'
    )
    assert load(find(path)).run(None, key=None, log=None) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PRESETS = {}\ndef run(): ...\n", "PRESETS is not a dictionary of configurations"),
        ("PRESETS = [1]\ndef run(): ...\n", "PRESETS is not a dictionary of configurations"),
        ("PRESETS = {'a': 3}\ndef run(): ...\n", r"PRESETS\['a'\] is a int, not a jaxsci"),
        (
            "from jaxsci.experiment import Config\nPRESETS = {'a': Config()}\nrun = 3\n",
            "run is not a function",
        ),
    ],
)
def test_load_refuses_what_has_not_the_shape(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load(find(path))
