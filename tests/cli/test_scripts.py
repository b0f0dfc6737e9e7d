"""scripts/run and scripts/test: when they install, what they say when they cannot.

Each test works on a copy of the scripts in a checkout of its own, with a PATH that holds the tools
of the shell and stand-ins for Python, pip and uv, so that nothing is installed.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = "bash cat cksum dirname env flock grep mkdir rm sleep tail chmod ln cp touch printf".split()

# A Python that answers the scripts' questions (version, venv, pip) and notes each call.
FAKE_PYTHON = """#!/usr/bin/env bash
echo "python $*" >> "$NOTES"
case "$*" in
  "-c ") exit 0 ;;
  *version_info*) [ -z "${OLD:-}" ] ;;
  *"import venv"*) [ -z "${NO_VENV:-}" ] ;;
  --version) echo "Python 3.8.10" ;;
  "-m venv "*)
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
    printf '#!/usr/bin/env bash\\necho "ran: $*"\\n' > "$3/bin/jaxsci"
    chmod +x "$3/bin/jaxsci" ;;
  "-m pip --version") [ -z "${NO_PIP:-}" ] ;;
  "-m ensurepip") [ -z "${NO_ENSUREPIP:-}" ] ;;
  "-m pip install"*)
    [ -n "${SLOW:-}" ] && sleep 1
    [ -n "${KILLED:-}" ] && kill -9 $PPID
    [ -n "${PIP_SAYS:-}" ] && { echo "$PIP_SAYS"; exit 1; }
    exit 0 ;;
  "-m pytest"*) [ -z "${TESTS_FAIL:-}" ] ;;
esac
"""

FAKE_UV = """#!/usr/bin/env bash
echo "uv $*" >> "$NOTES"
case "$1" in
  venv) for last; do :; done; python3 -m venv "$last" ;;
esac
"""


class Checkout:
    """A checkout with the scripts in it, and a machine with the given programs."""

    def __init__(self, folder):
        self.root = folder / "check out"  # A space, as in a user's folder.
        self.bin = folder / "bin"
        self.notes = folder / "notes"
        (self.root / "scripts").mkdir(parents=True)
        for name in ("run", "test", "_bootstrap.sh"):
            shutil.copy(ROOT / "scripts" / name, self.root / "scripts" / name)
        (self.root / "pyproject.toml").write_text("[project]\n")
        self.bin.mkdir()
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)

    def add(self, name, text):
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def call(self, *words, cwd=None, **environment):
        """Runs a script; returns its status, output, last line of error, and what it called."""
        self.notes.write_text("")
        done = subprocess.run(
            [str(self.root / "scripts" / words[0]), *words[1:]],
            env={"PATH": str(self.bin), "NOTES": str(self.notes), **environment},
            cwd=cwd or "/",
            capture_output=True,
            text=True,
            check=False,
        )
        lines = done.stderr.splitlines()
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, lines[-1] if lines else "", self.notes.read_text()

    def start(self, *words, **environment):
        return subprocess.Popen(
            [str(self.root / "scripts" / words[0]), *words[1:]],
            env={"PATH": str(self.bin), "NOTES": str(self.notes), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def checkout(tmp_path):
    made = Checkout(tmp_path)
    made.add("python3", FAKE_PYTHON)
    return made


def test_the_first_call_installs_and_the_second_does_nothing(checkout):
    status, out, _, notes = checkout.call("run")
    assert status == 0 and out == "ran: run neural-operator\n"
    assert "-m venv" in notes and notes.count("pip install") == 1
    assert f"-e {checkout.root}\n" in notes
    start = time.perf_counter()
    status, out, error, notes = checkout.call("run", "mine.py", "--seed", "1")
    assert time.perf_counter() - start < 1.0
    assert (status, out, error, notes) == (0, "ran: run mine.py --seed 1\n", "", "")


def test_options_alone_are_for_the_main_experiment(checkout):
    assert checkout.call("run", "--preset", "full")[1] == "ran: run neural-operator --preset full\n"
    assert checkout.call("run", "slug", "--help")[1] == "ran: run slug --help\n"


@pytest.mark.parametrize("file", ["pyproject.toml", "scripts/constraints.txt"])
def test_a_change_installs_again(checkout, file):
    checkout.call("run")
    (checkout.root / file).write_text("# changed\n")
    notes = checkout.call("run")[3]
    assert notes.count("pip install") == 1 and "-m venv" not in notes
    assert (f"-c {checkout.root}/scripts/constraints.txt" in notes) is file.startswith("scripts")
    assert checkout.call("run")[3] == ""


def test_what_the_tests_need_contains_what_a_run_needs(checkout):
    assert f"-e {checkout.root}[test]" in checkout.call("test", "-k", "x")[3]
    assert checkout.call("run")[3] == ""


def test_a_run_does_not_have_what_the_tests_need(checkout):
    checkout.call("run")
    assert "[test]" in checkout.call("test", "-k", "x")[3]


def test_an_installation_that_failed_is_tried_again(checkout):
    assert checkout.call("run", PIP_SAYS="ERROR: No space left on device")[0] == 1
    status, _, _, notes = checkout.call("run")
    assert status == 0 and "pip install" in notes and "-m venv" not in notes


def test_an_installation_that_was_killed_is_made_anew(checkout):
    assert checkout.call("run", KILLED="1")[0] == -9
    status, _, _, notes = checkout.call("run")
    assert status == 0 and "-m venv" in notes and "pip install" in notes


def test_a_checkout_that_was_moved_makes_its_environment_anew(checkout):
    checkout.call("run")
    moved = checkout.root.parent / "moved"
    checkout.root.rename(moved)
    checkout.root = moved
    assert "-m venv" in checkout.call("run")[3]


def test_an_environment_made_by_others_is_kept(checkout):
    other = checkout.root / ".venv" / "bin"
    other.mkdir(parents=True)
    (other / "python").write_text(FAKE_PYTHON)
    (other / "python").chmod(0o755)
    (other / "jaxsci").write_text("#!/usr/bin/env bash\n")
    (other / "jaxsci").chmod(0o755)
    (other.parent / "mine").write_text("")
    status, _, _, notes = checkout.call("run")
    assert status == 0 and "-m venv" not in notes and "pip install" in notes
    assert (other.parent / "mine").exists()


@pytest.mark.parametrize("kind", ["dangling", "empty", "file"])
def test_an_environment_that_does_not_work_is_made_anew(checkout, kind):
    venv = checkout.root / ".venv"
    if kind == "file":
        venv.write_text("")
    else:
        (venv / "bin").mkdir(parents=True)
        if kind == "dangling":
            (venv / "bin" / "python").symlink_to("/no/such/python")
    status, out, _, notes = checkout.call("run")
    assert status == 0 and out.startswith("ran") and "-m venv" in notes


def test_pip_is_fetched_where_it_is_missing(checkout):
    assert "-m ensurepip" in checkout.call("run", NO_PIP="1")[3]
    (checkout.root / "pyproject.toml").write_text("changed")
    status, _, error, _ = checkout.call("run", NO_PIP="1", NO_ENSUREPIP="1")
    assert status == 2 and error.startswith("jaxsci: .venv has no pip")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"OLD": "1"}, "needs Python 3.11 or newer with pip and venv, or uv: {bin}/python3 is Py"),
        ({"NO_VENV": "1"}, "{bin}/python3 has no venv module (Debian, Ubuntu: apt install"),
        ({"PYTHON": "nowhere"}, "no nowhere here that runs"),
    ],
)
def test_what_is_missing_is_said_in_a_line(checkout, environment, said):
    status, out, error, _ = checkout.call("run", **environment)
    assert status == 2 and out == "" and said.format(bin=checkout.bin) in error
    assert not (checkout.root / ".venv").exists()


def test_no_python_at_all(checkout):
    (checkout.bin / "python3").unlink()
    status, _, error, _ = checkout.call("run")
    assert status == 2 and error.endswith("or uv: no python3 here that runs")


def test_another_python_is_found_where_the_first_is_too_old(checkout):
    checkout.add("python3", FAKE_PYTHON.replace('[ -z "${OLD:-}" ]', "false"))
    checkout.add("python3.12", FAKE_PYTHON)
    assert checkout.call("run")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        "Failed to establish a new connection: [Errno 111] Connection refused",
        "[Errno -3] Temporary failure in name resolution",
        "error: error sending request for url (https://example.org/simple/jax/)",
    ],
)
def test_no_network(checkout, words):
    status, _, error, _ = checkout.call("run", PIP_SAYS=words)
    assert status == 1
    assert error.startswith("jaxsci: no network: the packages cannot be fetched (all of it: ")
    assert words in (checkout.root / ".cache" / "install.log").read_text()


def test_another_failure_shows_its_last_line(checkout):
    error = checkout.call("run", PIP_SAYS="ERROR: No matching distribution found for jax>=99")[2]
    assert "cannot be installed: ERROR: No matching distribution found for jax>=99 (all" in error


def test_uv_is_used_where_it_is(checkout):
    checkout.add("uv", FAKE_UV)
    notes = checkout.call("run")[3]
    assert "uv venv --quiet --python" in notes and "uv pip install --python" in notes
    assert "python -m pip" not in notes


def test_uv_brings_a_python_where_there_is_none_new_enough(checkout):
    checkout.add("uv", FAKE_UV)
    assert "--python >=3.11" in checkout.call("run", OLD="1")[3]


def test_two_calls_at_once_install_once(checkout):
    checkout.notes.write_text("")
    calls = [checkout.start("run", SLOW="1") for _ in range(2)]
    results = [call.communicate(timeout=60) for call in calls]
    assert [call.returncode for call in calls] == [0, 0], results
    assert checkout.notes.read_text().count("pip install") == 1
    assert any("another call is making .venv; waiting" in err for _, err in results)


def prepared(checkout, failing=()):
    """A checkout whose environment has the programs that `scripts/test` calls."""
    checkout.call("test", "-k", "x")
    for name in ("ruff", "lint-imports", "basedpyright"):
        path = checkout.root / ".venv" / "bin" / name
        status = 1 if name in failing else 0
        path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "$NOTES"\nexit {status}\n')
        path.chmod(0o755)
    return checkout


PYTEST = "python -m pytest -n 2 --max-worker-restart 1"


def test_test_runs_every_step(checkout):
    status, out, _, notes = prepared(checkout).call("test")
    assert status == 0
    assert notes.splitlines() == [
        "ruff check .",
        "ruff format --check .",
        "lint-imports ",
        "basedpyright ",
        f"{PYTEST} --dist loadfile --ignore tests/experiments",
        f"{PYTEST} --dist loadgroup --maxschedchunk 1 tests/experiments",
    ]
    assert out.count("ok ") == 6 and "FAILED" not in out


@pytest.mark.parametrize("failing", ["ruff", "lint-imports", "basedpyright", "pytest"])
def test_a_step_that_fails_fails_the_whole_and_the_rest_runs(checkout, failing):
    environment = {"TESTS_FAIL": "1"} if failing == "pytest" else {}
    status, out, _, notes = prepared(checkout, failing).call("test", **environment)
    assert status == 1 and len(notes.splitlines()) == 6
    summary = out[out.index("== summary") :]
    assert summary.count("FAILED") == (2 if failing in ("ruff", "pytest") else 1)
    assert summary.count("ok ") == 6 - summary.count("FAILED")


def test_options_of_test_are_for_pytest_alone(checkout, tmp_path):
    prepared(checkout)
    (tmp_path / "test_here.py").write_text("")
    status, _, _, notes = checkout.call("test", "test_here.py::test_x", "--pdb", cwd=tmp_path)
    assert status == 0
    path = tmp_path / "test_here.py"
    assert notes == f"{PYTEST} --dist loadfile {path}::test_x -n 0 --pdb\n"
    assert checkout.call("test", "tests/nn", TESTS_FAIL="1")[0] == 1


@pytest.mark.parametrize("script", ["run", "test"])
def test_help_needs_no_environment(checkout, script):
    status, out, _, notes = checkout.call(script, "--help")
    assert status == 0 and out.startswith(f"usage: scripts/{script}") and notes == ""


def test_ci_calls_the_tests():
    done = subprocess.run(
        [str(ROOT / ".ci" / "run"), "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: scripts/test")


def test_scripts_are_valid_and_executable():
    for name in ("run", "test"):
        path = ROOT / "scripts" / name
        assert os.access(path, os.X_OK)
        subprocess.run(["bash", "-n", str(path)], check=True)
