"""A run writes a complete, valid record; it can be stopped, resumed, and not confused."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.experiment import (
    Claim,
    CompileClock,
    UsageError,
    find,
    load,
    read_metrics,
    read_record,
    run_experiment,
)


def refuse(text):
    raise AssertionError(f"{text} is no JSON")


def test_a_run_writes_everything(sample, tmp_path):
    record = run_experiment(sample, preset="smoke", seed=3, out="results", quiet=True)
    folder = tmp_path / "results"
    entries = json.loads((folder / "result.json").read_text(), parse_constant=refuse)
    assert entries["slug"] == "mean" and entries["preset"] == "smoke" and entries["seed"] == 3
    assert entries["title"] == "The mean of uniform random numbers tends to one half"
    assert entries["config"]["steps"] == 2 and entries["config"]["draw"] == {"batch": 4}
    first, second = entries["claims"]
    assert first["op"] == "<" and first["target"] == 0.5 and first["holds"] is True
    assert second == {
        "name": "enough batches",
        "measured": 2.0,
        "op": ">=",
        "target": 2.0,
        "holds": True,
        "detail": "two are enough",
    }
    assert entries["holds"] is True and record.holds
    seconds = entries["seconds"]
    assert seconds["compile"] > 0 and seconds["run"] > 0
    # Rounded to a thousandth each.
    assert seconds["total"] == pytest.approx(seconds["compile"] + seconds["run"], abs=2e-3)
    assert entries["device"]["platform"] == jax.devices()[0].platform
    assert entries["versions"]["jax"] == jax.__version__
    assert entries["overrides"] == {} and entries["resumed"] is False
    assert (folder / "values.png").read_bytes().startswith(b"\x89PNG")
    arrays = np.load(folder / "arrays.npz")
    assert arrays["values"].shape == (2,) and arrays["half"].dtype == np.float32
    log = read_metrics(folder / "log.jsonl")
    assert [row["step"] for row in log] == [0, 1] and log[0]["scope"] == "draws"
    assert not list(folder.glob("*.tmp")) and not list(folder.glob(".*.tmp"))
    # The record that was handed back is the one on disk.
    assert read_record(folder / "result.json") == dataclasses.replace(record, folder=folder)


def test_the_seed_decides(sample):
    means = [
        run_experiment(sample, preset="smoke", seed=seed, out=f"r{n}", quiet=True).metrics["mean"]
        for n, seed in enumerate([0, 0, 1])
    ]
    assert means[0] == means[1] != means[2]


def test_a_stopped_run_resumes_to_the_same_result(sample, tmp_path, monkeypatch):
    unbroken = run_experiment(sample, out="a", quiet=True)
    monkeypatch.setenv("SAMPLE_STOPS_AT", "5")
    with pytest.raises(RuntimeError, match="stopped on purpose"):
        run_experiment(sample, out="b", quiet=True)
    assert not (tmp_path / "b" / "result.json").exists()
    lines = (tmp_path / "b" / "log.jsonl").read_text().splitlines()
    assert "stopped by RuntimeError" in json.loads(lines[-1])["say"]
    monkeypatch.delenv("SAMPLE_STOPS_AT")
    resumed = run_experiment(sample, out="b", resume=True, quiet=True)
    assert resumed.resumed and not unbroken.resumed
    assert resumed.claims == unbroken.claims and resumed.metrics == unbroken.metrics
    strip = [
        [(row["step"], row["value"]) for row in read_metrics(tmp_path / name / "log.jsonl")]
        for name in "ab"
    ]
    assert strip[0] == strip[1]


def test_resuming_a_complete_run_returns_its_record(sample, tmp_path, capsys):
    first = run_experiment(sample, preset="smoke", quiet=True)
    assert first.folder.as_posix() == "runs/mean"
    stamp = (tmp_path / "runs/mean/result.json").stat().st_mtime_ns
    again = run_experiment(sample, preset="smoke", resume=True)
    assert again == first
    assert (tmp_path / "runs/mean/result.json").stat().st_mtime_ns == stamp
    assert "this run is complete" in capsys.readouterr().out


def test_resuming_where_nothing_is_starts(sample):
    assert not run_experiment(sample, preset="smoke", resume=True, quiet=True).resumed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"--resume: runs/mean holds a run with seed 0, not 1"),
        ({"preset": "quick"}, r"--resume: runs/mean holds a run with preset smoke, not quick"),
        ({"scale": 2.0}, r"--resume: runs/mean holds a run with config.scale 1.0, not 2.0"),
        ({"batch": 8}, r"--resume: runs/mean holds a run with config.draw.batch 4, not 8"),
    ],
)
def test_a_different_run_is_not_resumed(sample, change, message):
    run_experiment(sample, preset="smoke", quiet=True)
    loaded = load(find(sample))
    config = loaded.preset(change.get("preset", "smoke"))
    if "scale" in change:
        config = dataclasses.replace(config, scale=change.pop("scale"))  # pyright: ignore
    if "batch" in change:
        draw = dataclasses.replace(config.draw, batch=change.pop("batch"))  # pyright: ignore
        config = dataclasses.replace(config, draw=draw)  # pyright: ignore
    arguments = {"preset": "smoke", "resume": True, "quiet": True, "config": config, **change}
    with pytest.raises(UsageError, match=message):
        run_experiment(loaded, **arguments)


def test_a_fresh_run_keeps_one_earlier_run(sample, tmp_path):
    for seed in range(3):
        run_experiment(sample, preset="smoke", seed=seed, quiet=True)
        (tmp_path / "runs/mean" / f"note{seed}.txt").write_text("mine")
    folder = tmp_path / "runs/mean"
    assert read_record(folder / "result.json").seed == 2
    assert read_record(folder / "previous/result.json").seed == 1
    assert (folder / "previous/note1.txt").exists() and not (folder / "note1.txt").exists()
    assert not (folder / "previous/previous").exists()


def test_a_folder_of_something_else_is_left_alone(sample, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("x")
    for resume in (False, True):
        with pytest.raises(
            UsageError, match="--out thesis: not empty, and not the folder of a run"
        ):
            run_experiment(sample, out="thesis", resume=resume, quiet=True)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_folder_that_cannot_be_written(sample, tmp_path):
    (tmp_path / "file").write_text("")
    for out in ("file", "file/inside"):
        with pytest.raises(UsageError, match=f"--out {out}: cannot be written"):
            run_experiment(sample, out=out, quiet=True)


def test_two_runs_do_not_share_a_folder(sample, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    run_experiment(sample, preset="smoke", quiet=True)
    with (tmp_path / "runs/mean/.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another run is writing there"):
            run_experiment(sample, preset="smoke", quiet=True)
    run_experiment(sample, preset="smoke", quiet=True)


def test_float64_is_on_for_the_run_alone(sample):
    loaded = load(find(sample))
    for on in (True, False):
        config = dataclasses.replace(loaded.preset("smoke"), float64=on)
        record = run_experiment(loaded, preset="smoke", config=config, quiet=True)
        assert record.metrics["bits"] == (64 if on else 32)
        assert record.overrides == ({"float64": True} if on else {})
        assert jnp.result_type(float) == jnp.float32


def test_float64_of_the_caller_does_not_reach_the_run(sample, x64):
    assert run_experiment(sample, preset="smoke", quiet=True).metrics["bits"] == 32
    assert jnp.result_type(float) == jnp.float64


@pytest.mark.parametrize("seed", [-1, 1.0, "3", True, 2**32])
def test_bad_seed(sample, seed):
    with pytest.raises(UsageError, match=r"--seed .*: expected an integer from 0 to 4294967295"):
        run_experiment(sample, seed=seed)


def test_bad_preset_config_and_result(sample, tmp_path):
    with pytest.raises(UsageError, match="mean has no preset 'fulll'; nearest: full"):
        run_experiment(sample, preset="fulll")
    other = load(find(sample)).preset("smoke")
    with pytest.raises(UsageError, match=r"config: expected a Config of mean.py"):
        run_experiment(sample, config=other)  # The class of another import of the file.
    path = tmp_path / "nothing.py"
    path.write_text(
        "from jaxsci.experiment import Config\nPRESETS = {'quick': Config()}\n"
        "def run(config, *, key, log): return 3\n"
    )
    with pytest.raises(UsageError, match=r"run returned a int, expected a jaxsci"):
        run_experiment(path, quiet=True)


def test_nan_claims_and_metrics_are_valid_json(tmp_path):
    path = tmp_path / "nan.py"
    path.write_text(
        "from jaxsci.experiment import Claim, Config, Result\nPRESETS = {'quick': Config()}\n"
        "nan, inf = float('nan'), float('inf')\n"
        "def run(config, *, key, log):\n"
        "    return Result([Claim('c', nan, '<', inf)], metrics={'a': -inf})\n"
    )
    record = run_experiment(path, out=tmp_path / "out", quiet=True)
    entries = json.loads((tmp_path / "out/result.json").read_text(), parse_constant=refuse)
    assert entries["claims"][0]["measured"] == "nan" and entries["claims"][0]["target"] == "inf"
    assert entries["claims"][0]["holds"] is False and not record.holds
    back = read_record(tmp_path / "out/result.json")
    assert back.metrics == {"a": float("-inf")} and not back.claims[0].holds


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"claims": 3}', '{"claims": [], "holds": 1}'])
def test_what_is_no_record(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="not the result of a run"):
        read_record(path)
    with pytest.raises(UsageError, match="No such file"):
        read_record(tmp_path / "other.json")


def test_the_commit_is_recorded(sample, tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "mean.py"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    commit = head.stdout.strip()
    assert run_experiment(sample, preset="smoke", quiet=True).commit == commit
    sample.write_text(sample.read_text() + "\n")
    assert run_experiment(sample, preset="smoke", quiet=True).commit == commit + "-dirty"


def test_compile_clock_counts_compiling_and_not_running():
    # Big enough to take longer to run than to compile, by doing the same a thousand times.
    def f(x):
        return jax.lax.fori_loop(0, 1000, lambda _, x: jnp.tanh(x @ x), x)

    with CompileClock() as clock:
        start = time.perf_counter()
        jax.jit(f).lower(jnp.ones((100, 100))).compile()
        compiled = clock.seconds
        assert 0 < compiled <= time.perf_counter() - start
        g = jax.jit(f)
        g(jnp.ones((100, 100))).block_until_ready()
        before = clock.seconds
        g(jnp.ones((100, 100))).block_until_ready()
        assert clock.seconds == before
    jax.jit(lambda x: x + 17)(jnp.ones(7))
    assert clock.seconds == before


def test_compile_clock_takes_the_union_of_spans():
    clock = CompileClock()
    for start, end in [(0, 10), (2, 5), (8, 12), (20, 21), (20, 20.5)]:
        clock._listen("/jax/core/compile/x", start, end)
    clock._listen("/jax/something/else", 30, 40)
    assert clock.seconds == 13


def test_a_killed_write_leaves_the_old_file(tmp_path):
    from jaxsci.experiment.atomic import write_atomically, write_json

    path = tmp_path / "result.json"
    write_json(path, {"a": 1})

    def die(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, die)
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["result.json"]
    with pytest.raises(ValueError, match="Out of range"):
        # `jsonable` keeps non-finite numbers out; nothing else may let them through.
        json.dumps(float("nan"), allow_nan=False)


def test_imports_leave_the_flags_alone():
    code = (
        "import jax; before = dict(jax.config.values); import jaxsci.experiment;"
        "print(before == dict(jax.config.values))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_claims_compare_by_value():
    assert Claim("a", 1, "<", 2) == Claim("a", np.float32(1), "<", 2.0)


def test_float64_reaches_threads_of_the_experiment(tmp_path):
    path = tmp_path / "threads.py"
    path.write_text(
        "import concurrent.futures, jax.numpy as jnp\n"
        "from jaxsci.experiment import Config, Result\nPRESETS = {'quick': Config(float64=True)}\n"
        "def run(config, *, key, log):\n"
        "    with concurrent.futures.ThreadPoolExecutor(1) as pool:\n"
        "        loaded = pool.submit(lambda: jnp.ones(())).result()\n"
        "    return Result(metrics={'bits': jnp.finfo(loaded.dtype).bits})\n"
    )
    record = run_experiment(path, out=tmp_path / "out", quiet=True)
    assert record.metrics["bits"] == 64


def test_a_run_that_was_killed_while_it_marked_its_folder(sample, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / ".run.json.abc123.tmp").write_text('{"slug"')
    assert run_experiment(sample, preset="smoke", out="results", resume=True, quiet=True).holds


def test_float64_is_refused_on_a_tpu(sample, tmp_path, monkeypatch):
    """Before anything is written; in 32 bits, and elsewhere, the run goes on."""
    loaded = load(find(sample))
    config = dataclasses.replace(loaded.preset("smoke"), float64=True)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(UsageError, match=r"^--config.float64 True: TPUs have no 64-bit floats"):
        run_experiment(loaded, preset="smoke", config=config, out="results", quiet=True)
    assert not (tmp_path / "results").exists()
    assert run_experiment(loaded, preset="smoke", out="results", quiet=True).metrics["bits"] == 32
