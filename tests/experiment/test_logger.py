"""The log: valid JSON whatever the numbers, scopes, and a log that survives being cut off."""

import io
import json
import math

import jax.numpy as jnp
import pytest
from rich.console import Console

from jaxsci.experiment import JsonLines, Logger, jsonable, read_metrics


def rows(path):
    # `parse_constant` is called for NaN and Infinity, which JSON does not have.
    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def logger(folder, **options):
    sink = JsonLines(folder / "log.jsonl", append=options.get("resume", False))
    return Logger(folder, sinks=[sink], quiet=True, **options)


def test_metrics_and_text_are_lines_of_json(tmp_path):
    with logger(tmp_path) as log:
        log.metrics(3, {"loss": jnp.float32(0.5)}, rate=1e-3)
        log.say("half way")
        log.note("unseen")
    first, second, third = rows(tmp_path / "log.jsonl")
    assert first.pop("seconds") >= 0
    assert first == {"step": 3, "scope": "", "loss": 0.5, "rate": 1e-3}
    assert second["say"] == "half way" and third["say"] == "unseen"


def test_nonfinite_metrics_are_valid_json_and_come_back(tmp_path):
    with logger(tmp_path) as log:
        log.metrics(0, a=math.nan, b=math.inf, c=-math.inf)
    (row,) = rows(tmp_path / "log.jsonl")
    assert (row["a"], row["b"], row["c"]) == ("nan", "inf", "-inf")
    (back,) = read_metrics(tmp_path / "log.jsonl")
    assert math.isnan(back["a"]) and back["b"] == math.inf and back["c"] == -math.inf


def test_each_line_is_on_disk_at_once(tmp_path):
    log = logger(tmp_path)
    log.metrics(0, a=1)
    assert len(rows(tmp_path / "log.jsonl")) == 1
    log.close()


def test_resumed_log_drops_the_cut_line_and_replaces_repeated_steps(tmp_path):
    with logger(tmp_path) as log:
        for step in range(3):
            log.metrics(step, a=step)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "sco')
    with logger(tmp_path, resume=True) as log:
        log.metrics(2, a=20)
        log.metrics(3, a=30)
    assert [row["step"] for row in rows(tmp_path / "log.jsonl")] == [0, 1, 2, 2, 3]
    assert [row["a"] for row in read_metrics(tmp_path / "log.jsonl")] == [0, 1, 20, 30]


def test_fresh_log_replaces_the_old(tmp_path):
    for _ in range(2):
        with logger(tmp_path) as log:
            log.metrics(0, a=1)
    assert len(rows(tmp_path / "log.jsonl")) == 1


def test_scopes_nest_in_folders_and_names(tmp_path):
    with logger(tmp_path, resume=True) as log:
        inner = log.scope("fno").scope("seed1")
        inner.metrics(1, loss=2.0)
        assert inner.folder == tmp_path / "fno" / "seed1"
        assert inner.resume is True
    assert rows(tmp_path / "log.jsonl")[0]["scope"] == "fno/seed1"


def test_text_is_printed_as_it_is(tmp_path):
    text = io.StringIO()
    log = Logger(tmp_path, console=Console(file=text, width=20))
    log.scope("fno").say("loss [bold] is 0.123456789 and falling")
    assert text.getvalue() == "fno: loss [bold] is 0.123456789 and falling\n"


def test_silent_logger_keeps_nothing(capsys):
    log = Logger.silent()
    log.say("x")
    log.metrics(0, a=1)
    with log.progress(2, "loop") as bar:
        bar.update(2)
    assert log.folder is None and log.scope("a").folder is None and log.resume is False
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match=r"path\('x'\): this logger keeps no files"):
        log.path("x")


def test_silent_logger_with_a_folder(tmp_path):
    log = Logger.silent(tmp_path)
    assert log.scope("a").folder == tmp_path / "a"
    assert log.path("deep/x.txt").parent.is_dir()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", None])
def test_bad_scope(name, tmp_path):
    with pytest.raises(ValueError, match=r"name = .*: expected the name of one folder"):
        Logger.silent(tmp_path).scope(name)


def test_bad_metrics():
    log = Logger.silent()
    with pytest.raises(TypeError, match="loss: expected one number, got an array of shape"):
        log.metrics(0, loss=jnp.ones(2))
    with pytest.raises(TypeError, match=r"step = 1.5: expected an integer"):
        log.metrics(1.5, loss=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="a metric cannot be called 'seconds'"):
        log.metrics(0, seconds=1)


def test_jsonable_takes_anything():
    value = {"x": (1, 2.5, None, True), 3: jnp.float32(1), "a": jnp.array([1.0, jnp.nan])}
    assert jsonable(value) == {"x": [1, 2.5, None, True], "3": 1.0, "a": [1.0, "nan"]}
    assert json.dumps(jsonable({"f": jsonable, "s": {1}}), allow_nan=False)
