"""The floors: an import goes down only, and from another room only by the names it shows."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxsci"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
FILES = sorted({*PACKAGE.rglob("*.py"), *(ROOT / "experiments").rglob("*.py")})


def test_import_linter_is_content():
    # In a process of its own: the linter closes the stream that pytest captures with.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(
        [*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def names_shown(room):
    """What the `__init__` of a room binds: its public names."""
    names = set()
    for node in ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def trespasses(text, home):
    """Imports in a file that reach into a room other than its own, past the names it shows.

    `home` is the room of the file, or `None` for an experiment.
    """
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "jaxsci" and len(parts) > 2 and parts[1] != home:
                    found.append(f"line {node.lineno}: import {alias.name}")
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            parts = node.module.split(".")
            if parts[0] != "jaxsci" or len(parts) < 2 or parts[1] == home:
                continue
            shown = names_shown(parts[1]) if parts[1] in ROOMS else set()
            for alias in node.names:
                if len(parts) > 2 or alias.name not in shown:
                    found.append(f"line {node.lineno}: from {node.module} import {alias.name}")
    return found


def test_there_are_rooms():
    assert {"cli", "experiment", "train"} <= set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_other_rooms_are_entered_by_the_door(path):
    inside = path.relative_to(ROOT).parts
    home = inside[1] if inside[0] == "jaxsci" and len(inside) > 2 else None
    assert trespasses(path.read_text(encoding="utf-8"), home) == []


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("from jaxsci.experiment import Logger", True),
        ("from jaxsci import experiment", True),
        ("import jaxsci.experiment", True),
        ("from jaxsci.cli.parsing import parse", True),
        ("from jaxsci.experiment.logger import Logger", False),
        ("import jaxsci.experiment.logger", False),
        ("from jaxsci.experiment import NoSuchName", False),
        ("from jaxsci.no_such_room import x", False),
        ("def f():\n    from jaxsci.experiment.logger import Logger", False),
    ],
)
def test_the_check_itself(line, allowed):
    assert (trespasses(line, "cli") == []) is allowed
