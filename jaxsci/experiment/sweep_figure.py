"""The figure of a sweep: what was measured against the swept field, and its spread over seeds."""

import dataclasses
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_MOST_LINES = 10


@dataclasses.dataclass(frozen=True)
class Panel:
    """One quantity: its value in every run, None where there is none, and what it is compared with.

    - `name`, `label`: the title and the label of the vertical axis.
    - `values`, `targets`: run by run; `targets` is None for a metric.
    """

    name: str
    label: str
    values: Sequence[float | None]
    targets: Sequence[float | None] | None


def draw(
    title: str,
    points: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    panels: Sequence[Panel],
) -> "Figure":
    """Draws the panels.

    **Arguments:**

    - `title`: of the figure.
    - `points`: the values of the swept fields, run by run. The first field is the horizontal axis,
        or the seed where no field is swept; the others become lines.
    - `seeds`: the seed of each run.
    - `panels`: what is drawn.
    """
    import matplotlib.pyplot as plt

    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(4.6 * columns, 3.6 * lines + 0.6), squeeze=False
    )
    figure.set_layout_engine("constrained")
    swept = list(points[0])
    xs = [point[swept[0]] for point in points] if swept else list(seeds)
    rest = [", ".join(f"{n} = {_text(point[n])}" for n in swept[1:]) for point in points]
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel, xs, rest, swept[0] if swept else "seed")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    key = "dots: single seeds; lines: their median; shade: smallest to largest"
    figure.suptitle(f"{title}\n{key if swept else 'dots: single seeds'}", fontsize=10)
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return figure


def _draw_panel(
    axes: "Axes", panel: Panel, xs: Sequence[Any], rest: Sequence[str], field: str
) -> None:
    categories = list(dict.fromkeys(_text(x) for x in xs))
    numeric = all(isinstance(x, int | float) and not isinstance(x, bool) for x in xs)
    numeric = numeric and all(math.isfinite(x) for x in xs)
    places = [float(x) if numeric else float(categories.index(_text(x))) for x in xs]
    groups = list(dict.fromkeys(rest))
    compared = panel.targets is not None
    for number, group in enumerate(groups[:_MOST_LINES]):
        mine = [i for i, name in enumerate(rest) if name == group]
        color = f"C{number}"
        dots = [(places[i], panel.values[i]) for i in mine]
        drawn = [(x, y) for x, y in dots if y is not None and math.isfinite(y)]
        axes.plot(
            [x for x, _ in drawn], [y for _, y in drawn], "o", ms=4, alpha=0.5, color=color, mew=0
        )
        label = group or ("measured" if compared else panel.name)
        _draw_median(axes, dots, color, label, field != "seed")
        if panel.targets is not None:
            targets = [(places[i], panel.targets[i]) for i in mine]
            grey = "0.35" if len(groups) == 1 else color
            text = "target (its median)" if number == 0 else None
            _draw_median(axes, targets, grey, text, False, "--")
    if not numeric:
        axes.set_xticks(range(len(categories)), categories)
    elif len(set(places)) > 1 and min(places) > 0 and max(places) / min(places) >= 8:
        axes.set_xscale("log")
        shown = sorted(set(places))
        if len(shown) <= 6:
            axes.set_xticks(shown, [_text(x) for x in shown])
            axes.set_xticks([], minor=True)
    elif len(set(places)) <= 10:
        axes.set_xticks(sorted(set(places)))
    everything = [y for y in [*panel.values, *(panel.targets or ())] if y is not None]
    everything = [y for y in everything if math.isfinite(y)]
    if everything and min(everything) > 0 and max(everything) / min(everything) > 30:
        axes.set_yscale("log")
    name = panel.name if len(groups) <= _MOST_LINES else f"{panel.name} (first {_MOST_LINES} lines)"
    axes.set_title("\n".join(textwrap.wrap(name, 42)), fontsize=10)
    axes.set(xlabel=field, ylabel=panel.label if compared else "")
    lost = sum(y is not None and not math.isfinite(y) for y in panel.values)
    if lost:
        axes.text(0.02, 0.02, f"{lost} not finite", transform=axes.transAxes, color="C3")


def _draw_median(
    axes: "Axes",
    dots: Sequence[tuple[float, float | None]],
    color: str,
    label: str | None,
    spread: bool,
    style: str = "-",
) -> None:
    at: dict[float, list[float]] = {}
    for x, y in dots:
        if y is not None and math.isfinite(y):
            at.setdefault(x, []).append(y)
    xs = sorted(at)
    middle = [statistics.median(at[x]) for x in xs]
    marker = "_" if len(xs) == 1 else ""
    axes.plot(xs, middle, style, color=color, label=label, marker=marker, ms=18)
    if spread and len(xs) > 1:
        low, high = [min(at[x]) for x in xs], [max(at[x]) for x in xs]
        axes.fill_between(xs, low, high, color=color, alpha=0.15, lw=0)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(_text(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
