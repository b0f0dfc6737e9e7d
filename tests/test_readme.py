"""The code in README.md and on the documentation's pages runs; its experiments hold."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from jaxsci.cli.main import main

ROOT = Path(__file__).parent.parent
# The quickstart's code is the notebook's, which test_notebooks.py runs.
PAGES = [
    path.relative_to(ROOT)
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if path.name != "quickstart.md"
]


def blocks(page: Path) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def is_experiment(block: str) -> bool:
    return "PRESETS" in block and "def run(" in block


def experiments() -> list:
    return [
        pytest.param(block, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(filter(is_experiment, blocks(page)))
    ]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if not all(map(is_experiment, blocks(p)))], ids=str
)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "__main__"}
    for block in blocks(page):
        if not is_experiment(block):
            exec(compile(block, str(page), "exec"), scope)
    plt.close("all")


def test_readme_solves_what_it_says():
    scope: dict = {}
    exec(compile(blocks(Path("README.md"))[0], "README.md", "exec"), scope)
    assert scope["frames"].shape == (100, 1, 256)
    energy = scope["energy"]
    # Viscosity takes energy away in every step; periodic convection leaves it.
    assert (energy[1:] < energy[:-1]).all() and 0 < energy[-1] < energy[0]
    assert scope["gradient"].shape == (1, 256) and abs(scope["gradient"]).max() > 0


@pytest.mark.parametrize("block", experiments())
def test_experiments_run_and_their_claims_hold(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(block, encoding="utf-8")
    assert main(["run", "mine.py", "--seed", "1"]) == 0
    result = json.loads(Path("runs/mine/result.json").read_text())
    assert result["title"] == block.splitlines()[0].strip('".') and result["claims"]
    assert main(["run", "mine.py", "--preset", "smoke", "--quiet"]) in (0, 1)


def test_there_are_three_experiments():
    assert len(experiments()) == 3


def test_commands_and_files_that_the_readme_names_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).is_file(), target
    for script in ("scripts/run", "scripts/test"):
        assert f"\n{script} " in text and os.access(ROOT / script, os.X_OK)
    figure = ROOT / "docs" / "images" / "resolutions.png"
    assert figure.stat().st_size < 200_000


def test_options_that_the_readme_names_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = ""
    for name in ("run", "sweep"):
        command = [sys.executable, "-m", "jaxsci.cli", name, "--help"]
        known += subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for option in set(re.findall(r"--(?!config|help|python)[a-z]+", text)):
        assert option in known, option
    assert {"--platform", "--devices", "--resume"} <= set(re.findall(r"--[a-z]+", text))


def test_rooms_in_the_table_are_there_or_planned():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `jaxsci\.(\w+)` \|.*\| ([^|]+) \|$", text, re.MULTILINE))
    there = {path.parent.name for path in (ROOT / "jaxsci").glob("*/__init__.py")} - {"cli"}
    assert {room for room, state in rows.items() if state != "planned"} == there
