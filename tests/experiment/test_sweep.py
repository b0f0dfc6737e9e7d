"""Sweeps from Python: points, shares, the figure of what is awkward to draw."""

import dataclasses

import matplotlib.pyplot as plt
import pytest

from jaxsci.experiment import Point, Sweep, UsageError, find, load, run_sweep, share, write_sweep
from jaxsci.experiment.seeds import groups, together_folder
from jaxsci.experiment.sweep_figure import Panel, draw


@pytest.fixture
def loaded(sample):
    return load(find(sample))


def plan(loaded, folder, values=(1.0, 2.0), seeds=(0, 1)):
    standard = loaded.preset("smoke")
    points = [Point({"scale": v}, dataclasses.replace(standard, scale=v)) for v in values]
    return Sweep(loaded, "smoke", points, seeds, folder)


def test_parts_are_disjoint_and_complete(loaded, tmp_path):
    sweep = plan(loaded, tmp_path, (1.0, 2.0, 3.0), range(5))
    for n in (1, 2, 4, 20):
        parts = [share(sweep, (i, n)) for i in range(n)]
        pieces = [(work.point.text, work.seeds) for part in parts for work in part]
        assert len(pieces) == len(set(pieces)) == 15
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(UsageError, match="--part 3/2"):
        share(sweep, (2, 2))


def test_from_python(loaded, tmp_path):
    sweep = plan(loaded, tmp_path / "sweep")
    said = []
    progress = run_sweep(sweep, finished=lambda work, records: said.append(records[0].seed))
    assert (progress.run, progress.already, said) == (4, 0, [0, 1, 0, 1])
    assert run_sweep(sweep).already == 4
    rows = write_sweep(sweep, ["mean"])
    assert [row.record.config["scale"] for row in rows] == [1.0, 1.0, 2.0, 2.0]


def test_an_error_passes_through_where_nobody_wants_it(loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("SAMPLE_STOPS_AT", "0")
    with pytest.raises(RuntimeError, match="on purpose"):
        run_sweep(plan(loaded, tmp_path / "sweep"))


def test_the_result_of_another_run_is_refused(loaded, tmp_path):
    run_sweep(plan(loaded, tmp_path / "sweep"))
    sweep = plan(loaded, tmp_path / "sweep")
    config = dataclasses.replace(sweep.points[0].config, steps=9)
    with pytest.raises(UsageError, match="seed-0 holds a run with config"):
        dataclasses.replace(sweep, points=[Point({"scale": 1.0}, config)]).rows()


def test_what_is_no_sweep(loaded, tmp_path):
    with pytest.raises(UsageError, match="--seeds 0"):
        plan(loaded, tmp_path, seeds=())
    with pytest.raises(UsageError, match="at least one point"):
        plan(loaded, tmp_path, values=())
    with pytest.raises(UsageError, match="the point scale=1 is given twice"):
        plan(loaded, tmp_path, values=(1.0, 1))


def test_names_of_folders(loaded):
    config = loaded.preset("smoke")
    assert Point({}, config).folder == "preset"
    assert Point({"a": 0.001, "b": (1, 2.5)}, config).folder.startswith("a=0.001,b=1-2.5-")
    names = {
        Point({"path": path}, config).folder for path in ("../x", "..-x", "a" * 300, "a" * 301)
    }
    assert len(names) == 4 and not any("/" in name or len(name) > 120 for name in names)


def test_seeds_that_are_missing_form_groups(tmp_path):
    assert groups(tmp_path, range(3)) == [[0, 1, 2]]
    for seed in (2, 5):
        (tmp_path / f"seed-{seed}").mkdir()
        (tmp_path / f"seed-{seed}" / "result.json").write_text("{}")
    assert groups(tmp_path, range(7)) == [[0, 1], [3, 4], [6]]
    together_folder(tmp_path, [3, 4]).mkdir()  # Begun and not finished: stays a group.
    together_folder(tmp_path, [2, 2]).mkdir()  # Done.
    assert groups(tmp_path, range(7)) == [[3, 4], [0, 1], [6]]
    assert groups(tmp_path, [2]) == []


def lines(axes):
    """The lines with a label of their own, and their data."""
    found = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    return {name: data for name, data in found.items() if not name.startswith("_")}


def test_figure_of_two_fields():
    points = [{"rate": r, "kind": k} for r in (1e-3, 1e-1) for k in ("a", "b") for _ in range(3)]
    values = [1, 2, 6, 10, 10, 10, 3, float("nan"), 5, None, 20, 30]
    targets = [4.0] * 12
    figure = draw("t", points, [0, 1, 2] * 4, [Panel("claim", "m", values, targets)])
    (axes,) = figure.axes
    found = lines(axes)
    # Medians of what is there and finite.
    assert found["kind = a"] == [[1e-3, 2], [1e-1, 4]]
    assert found["kind = b"] == [[1e-3, 10], [1e-1, 25]]
    assert found["target (its median)"] == [[1e-3, 4], [1e-1, 4]]
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "rate"
    assert "1 not finite" in [text.get_text() for text in axes.texts]
    plt.close(figure)


def test_figure_of_words_and_of_seeds_alone():
    figure = draw("t", [{"kind": "a"}, {"kind": "b"}], [0, 0], [Panel("n", "v", [1, 2], None)])
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["a", "b"]
    plt.close(figure)
    figure = draw("t", [{}, {}], [3, 4], [Panel("n", "v", [1, 2], None)] * 4)
    assert figure.axes[0].get_xlabel() == "seed"
    assert figure.axes[0].get_lines()[0].get_xydata().tolist() == [[3, 1], [4, 2]]
    plt.close(figure)
