"""The end of a run in the terminal: the claims as a table, and where the files are."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxsci.experiment.claim import Claim
from jaxsci.experiment.logger import LOG_FILE
from jaxsci.experiment.record import RESULT_FILE, RunRecord
from jaxsci.experiment.run_folder import PREVIOUS


def number_text(value: float) -> str:
    """A measured number as the tables show it: four significant digits."""
    return f"{value:.4g}"


def print_summary(record: RunRecord, console: Console) -> None:
    """Prints the claims, the metrics, the time that was spent and the files of a run."""
    name = record.slug if record.number is None else f"{record.slug} (paper {record.number})"
    title = f"{name}, preset {record.preset}, seed {record.seed}"
    if record.overrides:
        title += ", changed: " + ", ".join(record.overrides)
    console.print(f"\n{title}", style="bold", markup=False, highlight=False)
    console.print(record.title, markup=False, highlight=False)
    if record.claims:
        console.print(_claims_table(record.claims))
    else:
        console.print("No claims.")
    if record.metrics:
        table = Table("metric", "value", box=None, pad_edge=False)
        for metric, value in record.metrics.items():
            table.add_row(Text(metric), number_text(value))
        console.print(table)
    seconds = record.seconds
    console.print(
        f"{seconds['total']:.1f} s, of which compiling {seconds['compile']:.1f} s, "
        f"on {record.device_text}",
        markup=False,
        highlight=False,
    )
    files = [RESULT_FILE, *record.figures, *(["arrays.npz"] if record.arrays else []), LOG_FILE]
    folders = sorted(entry.name for entry in record.folder.iterdir() if entry.is_dir())
    files += [f"{name}/" for name in folders if name != PREVIOUS]
    console.print(
        f"Files in {record.folder}/: {', '.join(files)}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _claims_table(claims: Iterable[Claim]) -> Table:
    table = Table("claim", "measured", "target", "holds")
    for claim in claims:
        text = Text(claim.name)
        if claim.detail:
            text.append(f"\n{claim.detail}", style="dim")
        table.add_row(
            text,
            number_text(claim.measured),
            f"{claim.op} {number_text(claim.target)}",
            Text("yes", style="green") if claim.holds else Text("NO", style="bold red"),
        )
    return table
