"""`jaxsci list`, `jaxsci report` and `jaxsci info`."""

import dataclasses
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxsci.cli.backend import cache_folder, keep_compiled_programs, start_backend
from jaxsci.cli.options import Info, List, Report
from jaxsci.cli.parsing import parse
from jaxsci.experiment import (
    UsageError,
    collect,
    discover,
    experiments_folder,
    in_checkout,
    listed,
    nearest,
    papers,
    versions,
    write_ledger,
)


def list_experiments(words: Sequence[str]) -> int:
    """`jaxsci list`: what can be run; neither an experiment nor JAX is imported.

    **Raises:**

    - `UsageError` for an unknown room.
    """
    options = parse(List, words, prog="jaxsci list")
    found, problems = discover()
    for problem in problems.values():
        print(f"jaxsci: {problem}", file=sys.stderr)
    rooms = sorted({paper.room for paper in papers().values()} | {e.room for e in found})
    if options.room is not None:
        if options.room not in rooms:
            raise UsageError(f"--room {options.room}: no such room" + nearest(options.room, rooms))
        found = [experiment for experiment in found if experiment.room == options.room]
    rows = [
        {
            **dataclasses.asdict(experiment),
            "path": str(experiment.path),
            "has_result": (Path("runs") / experiment.slug / "result.json").is_file(),
        }
        for experiment in found
    ]
    if options.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    table = Table("paper", "slug", "room", "title", "presets", "result", box=None)
    for row in rows:
        table.add_row(
            str(row["number"] or ""),
            row["slug"],
            row["room"],
            Text(row["title"]),
            " ".join(row["presets"]),
            "yes" if row["has_result"] else "",
        )
    console = Console()
    if rows:
        console.print(table)
    count = sum(row["number"] is not None for row in rows)
    of = [p for p in papers().values() if options.room in (None, p.room)]
    console.print(f"{count} of {len(of)} papers have an experiment.", highlight=False)
    return 0


def report(words: Sequence[str]) -> int:
    """`jaxsci report`: brings the ledger up to date.

    **Raises:**

    - `UsageError` if there is nothing to report, or nowhere to write it.
    """
    options = parse(Report, words, prog="jaxsci report")
    records = collect(options.results)
    out = options.out
    if out is None:
        folder = experiments_folder()
        if folder is None or not in_checkout():
            raise UsageError("jaxsci report: not in a checkout; say where to write with --out FILE")
        out = folder / "RESULTS.md"
        records = [record for record in records if record.room != "own"]
    records = [record for record in records if listed(record)]
    if not records:
        where = ", ".join(str(source) for source in options.results)
        raise UsageError(f"jaxsci report: no results of an unchanged preset above smoke in {where}")
    write_ledger(out, records)
    print(f"{out}: {len(records)} results brought in")
    return 0


def info(words: Sequence[str]) -> int:
    """`jaxsci info`: versions, devices, folders."""
    options = parse(Info, words, prog="jaxsci info")
    start_backend(options.platform, None)
    import jax

    try:
        devices = [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()]
    except RuntimeError as error:
        devices = [f"none ({str(error).splitlines()[0]})"]
    compiled = keep_compiled_programs()
    facts: dict[str, Any] = {
        "system": platform.platform(),
        "versions": versions(),
        "devices": devices,
        "folders": {
            "package": str(Path(__file__).resolve().parents[1]),
            "experiments": str(experiments_folder()),
            "cache": str(cache_folder()),
            "compiled programs": str(compiled),
        },
    }
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    table = Table.grid(padding=(0, 2))
    table.add_row("system", Text(facts["system"]))
    for name, version in facts["versions"].items():
        table.add_row(name, Text(version))
    for device in devices:
        table.add_row("device", Text(device))
    for name, folder in facts["folders"].items():
        table.add_row(name, Text(folder, overflow="fold"))
    Console().print(table)
    return 0
