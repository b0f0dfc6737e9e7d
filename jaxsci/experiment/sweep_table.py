"""What came out of a sweep: `sweep.json`, `sweep.csv`, and the table in the terminal.

None of them says how long anything took or when, so that a sweep which was stopped and taken up
again leaves the same files as one that was not.
"""

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from jaxsci.experiment.atomic import write_atomically, write_json
from jaxsci.experiment.claim import Claim
from jaxsci.experiment.errors import UsageError, nearest
from jaxsci.experiment.logger import jsonable
from jaxsci.experiment.summary import number_text
from jaxsci.experiment.sweep import Point, Row, Sweep, value_text
from jaxsci.experiment.sweep_figure import Panel, draw

SWEEP_FILE = "sweep.json"


def write_sweep(sweep: Sweep, metrics: Sequence[str] = ()) -> list[Row]:
    """Writes `sweep.json`, `sweep.csv` and `sweep.png` from the results that are there.

    Several parts of a sweep may end at the same time: whoever writes last looks again, so that the
    files of a finished sweep hold all of it.

    **Arguments:**

    - `sweep`: the sweep.
    - `metrics`: what the figure shows in place of the claims.

    **Returns:** the rows.

    **Raises:**

    - `UsageError` for a metric that no result has, with the nearest ones.
    """
    while True:
        rows = sweep.rows()
        write_json(sweep.folder / SWEEP_FILE, _entries(sweep, rows))
        text = _csv(sweep, rows)
        write_atomically(sweep.folder / "sweep.csv", lambda f, text=text: f.write(text.encode()))
        panels = _panels(rows, metrics)
        if panels:
            _write_figure(sweep, rows, panels)
        if [row.record is None for row in sweep.rows()] == [row.record is None for row in rows]:
            return rows


def sweep_table(sweep: Sweep, rows: Sequence[Row]) -> Table:
    """One line for each claim at each point: medians over the seeds, their spread, what holds."""
    swept = list(sweep.points[0].values)
    table = Table(
        *(Column(name, no_wrap=True) for name in [*swept, "seeds"]),
        "claim",
        *(Column(name, no_wrap=True) for name in ("measured", "target", "holds")),
        caption="measured, target: medians over the seeds, and what was measured from … to",
    )
    for point in sweep.points:
        mine = [row.record for row in rows if row.point is point]
        done = [record for record in mine if record is not None]
        head = [value_text(value) for value in point.values.values()]
        head.append(str(len(done)) if len(done) == len(mine) else f"{len(done)} of {len(mine)}")
        claims = _claims(rows, point)
        if not claims:
            table.add_row(*head, Text("no claims" if done else "not finished"), "", "", "")
        for number, (name, of) in enumerate(claims.items()):
            held = sum(claim.holds for claim in of)
            measured = [claim.measured for claim in of]
            cell = Text(number_text(statistics.median(measured)))
            if len(of) > 1:
                low, high = number_text(min(measured)), number_text(max(measured))
                cell.append(f"\n{low} … {high}", style="dim")
            table.add_row(
                *(head if number == 0 else [""] * len(head)),
                Text(name),
                cell,
                f"{of[0].op} {number_text(statistics.median(claim.target for claim in of))}",
                Text("yes", style="green")
                if held == len(of)
                else Text("NO" if held == 0 else f"{held} of {len(of)}", style="bold red"),
            )
        table.add_section()
    return table


def _claims(rows: Sequence[Row], point: Point) -> dict[str, list[Claim]]:
    """The claims of a point by name, one a finished seed."""
    found: dict[str, list[Claim]] = {}
    for row in rows:
        if row.point is point and row.record is not None:
            for claim in row.record.claims:
                found.setdefault(claim.name, []).append(claim)
    return found


def _entries(sweep: Sweep, rows: Sequence[Row]) -> dict[str, Any]:
    experiment = sweep.loaded.experiment
    done = [row.record for row in rows if row.record is not None]
    return {
        "slug": experiment.slug,
        "number": experiment.number,
        "title": experiment.title,
        "preset": sweep.preset,
        "seeds": list(sweep.seeds),
        "points": [dict(point.values) for point in sweep.points],
        "finished": len(done),
        "of": len(rows),
        "holds": len(done) == len(rows) and all(record.holds for record in done),
        "runs": [
            {
                "values": dict(row.point.values),
                "seed": row.seed,
                "folder": str(Path(row.point.folder) / f"seed-{row.seed}"),
                "finished": row.record is not None,
                **({} if row.record is None else _outcome(row.record.claims, row.record.metrics)),
            }
            for row in rows
        ],
    }


def _outcome(claims: Sequence[Claim], metrics: Any) -> dict[str, Any]:
    return {
        "holds": all(claim.holds for claim in claims),
        "claims": [
            {
                "name": claim.name,
                "measured": claim.measured,
                "op": claim.op,
                "target": claim.target,
                "holds": claim.holds,
            }
            for claim in claims
        ],
        "metrics": dict(metrics),
    }


def _csv(sweep: Sweep, rows: Sequence[Row]) -> str:
    """One line a run: swept fields, seed, what was measured, what it was compared with, metrics."""
    records = [row.record for row in rows if row.record is not None]
    claims = list(dict.fromkeys(claim.name for record in records for claim in record.claims))
    metrics = list(dict.fromkeys(name for record in records for name in record.metrics))
    swept = list(sweep.points[0].values)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [f"{kind} of {name}" for name in claims for kind in ("measured", "target", "holds")]
    writer.writerow([*swept, "seed", "finished", "holds", *columns, *metrics])
    for row in rows:
        cells: list[Any] = [value_text(value) for value in row.point.values.values()]
        cells += [row.seed, row.record is not None]
        if row.record is None:
            cells += [""] * (1 + len(columns) + len(metrics))
        else:
            by_name = {claim.name: claim for claim in row.record.claims}
            cells.append(row.record.holds)
            for name in claims:
                claim = by_name.get(name)
                cells += (
                    ["", "", ""] if claim is None else [claim.measured, claim.target, claim.holds]
                )
            cells += [row.record.metrics.get(name, "") for name in metrics]
        writer.writerow(cells)
    return out.getvalue()


def _panels(rows: Sequence[Row], metrics: Sequence[str]) -> list[Panel]:
    """What the figure shows: the metrics asked for, else the claims."""
    records = [row.record for row in rows if row.record is not None]
    if not records:
        return []
    known = list(dict.fromkeys(name for record in records for name in record.metrics))
    for name in metrics:
        if name not in known:
            raise UsageError(f"--metric {name}: no result has it" + nearest(name, known))
    if metrics:
        return [
            Panel(
                name,
                "value",
                [None if r.record is None else r.record.metrics.get(name) for r in rows],
                None,
            )
            for name in metrics
        ]
    first: dict[str, Claim] = {}
    for record in records:
        for claim in record.claims:
            first.setdefault(claim.name, claim)

    def of(row: Row, name: str, side: str) -> float | None:
        claims = () if row.record is None else row.record.claims
        return next((getattr(claim, side) for claim in claims if claim.name == name), None)

    return [
        Panel(
            name,
            f"measured (holds if {claim.op} target)",
            [of(row, name, "measured") for row in rows],
            [of(row, name, "target") for row in rows],
        )
        for name, claim in first.items()
    ]


def _write_figure(sweep: Sweep, rows: Sequence[Row], panels: Sequence[Panel]) -> None:
    import matplotlib.pyplot as plt

    experiment = sweep.loaded.experiment
    values = [{name: jsonable(x) for name, x in row.point.values.items()} for row in rows]
    varied = [name for name in values[0] if any(v[name] != values[0][name] for v in values)]
    fixed = [f"{name}={value_text(x)}" for name, x in values[0].items() if name not in varied]
    count = f"{len(sweep.seeds)} seeds" if len(sweep.seeds) > 1 else f"seed {sweep.seeds[0]}"
    title = ", ".join([experiment.slug, f"preset {sweep.preset}", *fixed, count])
    missing = sum(row.record is None for row in rows)
    if missing:
        title += f" ({missing} of {len(rows)} runs not finished)"
    figure = draw(
        title,
        [{name: point[name] for name in varied} for point in values],
        [row.seed for row in rows],
        panels,
    )
    write_atomically(sweep.folder / "sweep.png", lambda f: figure.savefig(f, format="png", dpi=150))
    plt.close(figure)
