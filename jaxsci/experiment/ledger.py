"""The ledger of results: one table a room, one row a claim, written from result files alone."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from jaxsci.experiment.atomic import write_atomically
from jaxsci.experiment.discovery import PRESET_ORDER, papers
from jaxsci.experiment.errors import UsageError
from jaxsci.experiment.record import RESULT_FILE, RunRecord, read_record
from jaxsci.experiment.run_folder import PREVIOUS, RUN_FILE
from jaxsci.experiment.summary import number_text
from jaxsci.experiment.sweep import SWEEP_MARK

_MARK = "<!-- written by `jaxsci report` -->"

_HEADER = f"""# Results

{_MARK}

What every experiment claims and what it measured. `jaxsci report` writes this file from the
`result.json` files of runs; it is never edited by hand. A run whose configuration differs from its
preset, and the `smoke` preset, which only shows that an experiment runs, are not listed.
"""

_COLUMNS = ("paper", "claim", "measured", "target", "holds", "preset", "device")
_PRESET = _COLUMNS.index("preset")


@dataclasses.dataclass(frozen=True)
class _Row:
    room: str
    number: int | None
    slug: str
    preset: str
    line: str

    @property
    def run(self) -> tuple[str, str, str]:
        return self.room, self.slug, self.preset

    @property
    def order(self) -> tuple[str, bool, int, str, int, str]:
        known = self.preset in PRESET_ORDER
        place = PRESET_ORDER.index(self.preset) if known else len(PRESET_ORDER)
        return (
            self.room,
            self.number is None,
            self.number or 0,
            self.slug,
            place,
            self.preset,
        )


def collect(sources: Iterable[Path]) -> list[RunRecord]:
    """The records of runs in files and folders.

    **Arguments:**

    - `sources`: `result.json` files, or folders that are searched for the folders of runs, without
      the `previous` runs in them and without sweeps, whose runs are many of one preset.

    **Raises:**

    - `UsageError` if a source is not there, or a result cannot be read.
    """
    records = []
    for source in sources:
        if source.is_dir():
            for path in sorted(source.rglob(RESULT_FILE)):
                inner = path.relative_to(source).parts
                swept = any(
                    (folder / SWEEP_MARK).is_file() for folder in path.parents[: len(inner)]
                )
                if PREVIOUS not in inner and not swept and (path.parent / RUN_FILE).is_file():
                    records.append(read_record(path))
        elif source.exists():
            records.append(read_record(source))
        else:
            raise UsageError(f"{source}: no such file or folder")
    return records


def ledger(records: Iterable[RunRecord], existing: str = "") -> str:
    """The text of the ledger.

    The rows of an experiment and preset are replaced by those of its newest record; rows of
    experiments that are not among the records stay as they are. The text depends on nothing else.

    **Arguments:**

    - `records`: of finished runs.
    - `existing`: the ledger so far.
    """
    newest: dict[tuple[str, str, str], RunRecord] = {}
    for record in sorted(records, key=lambda r: (r.started, str(r.folder))):
        if listed(record):
            newest[record.room, record.slug, record.preset] = record
    rows = [row for row in _parse(existing) if row.run not in newest]
    for record in newest.values():
        rows += _rows(record)
    # A stable sort: the claims of one run stay in their order.
    rows.sort(key=lambda row: row.order)
    text = _HEADER
    for room in sorted({row.room for row in rows}):
        lines = [row.line for row in rows if row.room == room]
        text += f"\n## {room}\n\n{_line(_COLUMNS)}\n{_line(['---'] * len(_COLUMNS))}\n"
        text += "\n".join(lines) + "\n"
    return text


def listed(record: RunRecord) -> bool:
    """Whether a run counts for the ledger: a preset as it is, and more than a smoke test."""
    return record.preset != "smoke" and not record.overrides


def write_ledger(path: Path, records: Iterable[RunRecord]) -> None:
    """Brings a ledger file up to date, atomically.

    **Raises:**

    - `UsageError` if the file is there and is no ledger, or cannot be written.
    """
    try:
        existing = path.read_text(encoding="utf-8") if path.exists() else ""
        if existing and _MARK not in existing:
            raise UsageError(f"{path}: not written by `jaxsci report`, so left alone")
        text = ledger(records, existing)
        write_atomically(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error})") from error


def _rows(record: RunRecord) -> list[_Row]:
    if record.number is None:
        paper = f"`{record.slug}`: {record.title}"
    else:
        link = f"{record.room}/{record.slug.replace('-', '_')}.py"
        paper = f"[`{record.slug}`]({link}): {record.title}"
    lines = [
        _line(
            [
                paper,
                claim.name,
                number_text(claim.measured),
                f"{claim.op} {number_text(claim.target)}",
                "yes" if claim.holds else "**no**",
                record.preset,
                record.device_text,
            ]
        )
        for claim in record.claims
    ]
    return [_Row(record.room, record.number, record.slug, record.preset, line) for line in lines]


def _line(cells: Iterable[str]) -> str:
    escaped = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _parse(text: str) -> list[_Row]:
    """The rows of a ledger that this module wrote."""
    rows, room = [], ""
    numbers = {slug: paper.number for slug, paper in papers().items()}
    for line in text.splitlines():
        if line.startswith("## "):
            room = line[3:].strip()
        slug = re.match(r"\| \[?`([^`]+)`", line)
        if slug is not None:
            preset = re.split(r"(?<!\\)\|", line)[1 + _PRESET].strip()
            number = numbers.get(slug[1]) if line.startswith("| [") else None
            rows.append(_Row(room, number, slug[1], preset, line))
    return rows
