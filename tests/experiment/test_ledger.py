"""The ledger comes from result files alone, keeps other rows, and depends on no order."""

import dataclasses
from pathlib import Path

import pytest

from jaxsci.experiment import (
    Claim,
    RunRecord,
    UsageError,
    collect,
    ledger,
    listed,
    run_experiment,
    write_ledger,
)

BASE = RunRecord(
    slug="neural-operator",
    number=38,
    title="Neural Operator",
    room="operators",
    preset="quick",
    seed=0,
    config={},
    overrides={},
    claims=(Claim("z first", 0.0123456, "<", 0.5), Claim("a | b", float("nan"), ">", 1)),
    metrics={},
    arrays=(),
    figures=(),
    seconds={"total": 1.0, "compile": 0.5, "run": 0.5},
    resumed=False,
    device={"platform": "cpu", "kind": "cpu", "count": 1, "cores": 2},
    versions={},
    commit=None,
    started="2026-01-01T00:00:00+00:00",
    folder=Path("x"),
)
DEIS = dataclasses.replace(BASE, slug="deis", number=2, room="diffusion", title="DEIS")
FULL = dataclasses.replace(
    BASE,
    preset="full",
    device={"platform": "gpu", "kind": "NVIDIA H100", "count": 4, "cores": 8},
    claims=(Claim("full", 1, "==", 1),),
)


def cells(text):
    return [line for line in text.splitlines() if line.startswith("| ") and "`" in line]


def test_a_row_says_all():
    first, second = cells(ledger([BASE]))
    assert first == (
        "| [`neural-operator`](operators/neural_operator.py): Neural Operator | z first | 0.01235 "
        "| < 0.5 | yes | quick | cpu, 2 cores |"
    )
    assert "| a \\| b | nan | > 1 | **no** |" in second
    assert "NVIDIA H100 x4" in ledger([FULL])


def test_order_is_by_room_number_and_preset_whatever_comes_first():
    text = ledger([FULL, BASE, DEIS])
    assert text == ledger([DEIS, BASE, FULL])
    assert text.index("## diffusion") < text.index("## operators")
    assert text.index("z first") < text.rindex("a \\| b") < text.index("| full |")


def test_rows_of_others_stay_and_own_rows_are_replaced():
    old = ledger([DEIS, BASE, FULL])
    changed = dataclasses.replace(BASE, claims=(Claim("only one now", 1, "<", 2),))
    new = ledger([changed], old)
    assert "only one now" in new and new.count("z first") == 1  # DEIS has one of that name.
    assert "| full |" in new and "## diffusion" in new
    assert ledger([], new) == new == ledger([changed], new)


def test_the_newest_run_counts():
    late = dataclasses.replace(
        BASE, started="2026-02-01T00:00:00+00:00", claims=(Claim("late", 1, "<", 2),)
    )
    for records in ([BASE, late], [late, BASE]):
        assert "late" in ledger(records) and "z first" not in ledger(records)


def test_smoke_and_changed_runs_are_not_evidence():
    assert listed(BASE)
    assert not listed(dataclasses.replace(BASE, preset="smoke"))
    assert not listed(dataclasses.replace(BASE, overrides={"width": 3}))
    assert cells(ledger([dataclasses.replace(BASE, overrides={"width": 3})])) == []


def test_written_file_says_who_writes_it(tmp_path):
    path = tmp_path / "RESULTS.md"
    write_ledger(path, [BASE])
    assert "never edited by hand" in path.read_text()
    write_ledger(path, [DEIS])
    assert "neural-operator" in path.read_text() and "deis" in path.read_text()
    path.write_text("# My notes\n")
    with pytest.raises(UsageError, match="not written by `jaxsci report`, so left alone"):
        write_ledger(path, [BASE])
    assert path.read_text() == "# My notes\n"
    with pytest.raises(UsageError, match="cannot be written"):
        write_ledger(tmp_path / "no" / "folder.md", [BASE])


def test_collect_finds_runs_and_not_their_previous_ones(sample, tmp_path):
    for seed in (0, 1):
        run_experiment(sample, preset="smoke", seed=seed, quiet=True)
    (tmp_path / "runs/other").mkdir()
    (tmp_path / "runs/other/result.json").write_text("{}")  # Somebody else's file.
    (record,) = collect([tmp_path / "runs"])
    assert record.seed == 1
    assert collect([tmp_path / "runs/mean/previous/result.json"])[0].seed == 0
    with pytest.raises(UsageError, match="nowhere: no such file or folder"):
        collect([Path("nowhere")])
    with pytest.raises(UsageError, match="not the result of a run"):
        collect([tmp_path / "runs/other/result.json"])
