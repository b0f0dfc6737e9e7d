"""The site builds strictly and without a network; the tests that its errata name are there."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import exponax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pde import BurgersOperator, Grid

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    # A proxy that is not there stands for a machine without a network.
    offline = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [*command, "--config-file", str(ROOT / "mkdocs.yml")],
        cwd=ROOT,
        env={**os.environ, **offline, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def rooms() -> list[str]:
    return sorted(p.parent.name for p in (ROOT / "jaxsci").glob("*/__init__.py"))


def own_names(room: str) -> list[str]:
    """What a room re-exports of its own; what comes from other packages is documented there."""
    tree = ast.parse((ROOT / "jaxsci" / room / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names = [alias.name for node in imports for alias in node.names if alias.asname == alias.name]
    module = importlib.import_module(f"jaxsci.{room}")
    return [name for name in names if _is_own(getattr(module, name))]


def _is_own(value) -> bool:
    return getattr(value, "__module__", "jaxsci").startswith("jaxsci")


@pytest.mark.parametrize("room", [room for room in rooms() if room != "cli"])
def test_every_public_name_of_a_room_is_in_its_api(site, room):
    page = (site / "rooms" / room / "index.html").read_text(encoding="utf-8")
    shown = set(re.findall(rf'id="jaxsci\.{room}\.([\w.]+)"', page))
    missing = [name for name in own_names(room) if not {name, f"{name}.{name}"} & shown]
    assert not missing


def test_shapes_are_shown_as_shapes(site):
    page = (site / "rooms" / "operators" / "index.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", "", page)
    assert "c_in *grid" in text and "c_in * grid" not in text


def test_pages_load_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"?(https?://[^\"> ]+)", text)
        assert not loaded, (path, loaded)
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:", path.read_text(encoding="utf-8")), path


def test_papers_are_listed_once_with_their_experiments(site):
    page = (site / "papers" / "index.html").read_text(encoding="utf-8")
    listed = (ROOT / "experiments" / "papers.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = re.findall(r"<tr>\s*<td>(\d+)</td>", page)
    assert sorted(map(int, rows)) == sorted(int(line.split("\t")[0]) for line in listed)
    there = {p.stem.replace("_", "-") for p in (ROOT / "experiments").glob("*/[!_]*.py")}
    for slug in re.findall(r"<td><code>([\w-]+)</code></td>\s*</tr>", page):
        assert slug in there


def test_errata_name_tests_that_are_there():
    page = (ROOT / "docs" / "errata.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert rows
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for path, name in named:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            found = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
            assert name in found, f"{path}::{name}"


def test_exponax_convects_against_the_velocity(x64):
    """Errata: the initial rate of change of a vorticity, projected on a mode.

    For w = sin 2πy + sin 4πx the velocity with curl v = w is (cos(2πy)/2π, −cos(4πx)/4π), and
    v·∇w = (3/2) cos 4πx cos 2πy, a mode that viscosity does not make.
    """
    grid = Grid(0.0, 1.0, (16, 16), periodic=True)
    x, y = grid.coords()
    w = (jnp.sin(2 * jnp.pi * y) + jnp.sin(4 * jnp.pi * x))[None]
    mode = jnp.cos(4 * jnp.pi * x) * jnp.cos(2 * jnp.pi * y)
    dt = 1e-5

    def rate(scale):
        stepper = exponax.stepper.NavierStokesVorticity(
            2, 1.0, 16, dt, diffusivity=1e-3, vorticity_convection_scale=scale
        )
        return 4 * jnp.mean(mode * (stepper(w) - w)[0]) / dt

    # wₜ + v·∇w = νΔw has −3/2; a step of 1e-5 changes that by its order.
    np.testing.assert_allclose(rate(-1.0), -1.5, rtol=1e-3)
    np.testing.assert_allclose(rate(1.0), +1.5, rtol=1e-3)


def test_both_burgers_data_sets():
    """Errata: the laws of u₀ in the paper's text and in its published script, mode by mode."""
    kappa = 2 * np.pi * np.arange(1, 8)
    text = BurgersOperator(resolution=64)
    script = BurgersOperator(
        viscosity=1e-3, alpha=2.5, tau=7.0, variance_scale=7.0**4, n_frames=200, n_steps=2000,
        resolution=64,
    )  # fmt: skip
    assert (text.viscosity, script.viscosity) == (0.1, 1e-3)
    for problem, law in (
        (text, 625 * (kappa**2 + 25) ** -2.0),
        (script, 49**2 * (kappa**2 + 49) ** -2.5),
    ):
        zero = problem.law.modes(problem.grid)[0].tolist().index(0)
        found = problem.law.eigenvalues(problem.grid)[zero + 1 : zero + 8]
        np.testing.assert_allclose(found, law, rtol=1e-12)
