"""The record of a run: what `result.json` holds."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxsci.experiment.atomic import write_json
from jaxsci.experiment.claim import Claim
from jaxsci.experiment.errors import UsageError

RESULT_FILE = "result.json"


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A finished run, as it is written to `result.json` and read back.

    - `slug`, `number`, `title`, `room`: the experiment's.
    - `preset`, `seed`, `config`: what was run; `overrides` are the fields in which `config` differs
      from the preset, so that nobody takes such a run for the preset's.
    - `claims`, `metrics`: what was measured.
    - `arrays`, `figures`: the names of the files written beside `result.json`.
    - `seconds`: `total`, and its parts `compile` (tracing and compiling) and `run` (the rest).
    - `resumed`: whether the run was taken up again; its seconds are then those of the last part.
    - `device`: `platform`, `kind`, `count` and `cores` of the host.
    - `versions`: of Python and the packages that decide about the numbers.
    - `commit`: the git commit of the experiment's file, with `-dirty` if there were changes.
    - `started`: date and time, in UTC.
    - `folder`: where the files are; not in the file itself.
    - `together`: how many seeds were computed at once, by `run_seeds`; the seconds are of all.
    """

    slug: str
    number: int | None
    title: str
    room: str
    preset: str
    seed: int
    config: Mapping[str, Any]
    overrides: Mapping[str, Any]
    claims: tuple[Claim, ...]
    metrics: Mapping[str, float]
    arrays: tuple[str, ...]
    figures: tuple[str, ...]
    seconds: Mapping[str, float]
    resumed: bool
    device: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str | None
    started: str
    folder: Path
    together: int = 1

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)

    @property
    def device_text(self) -> str:
        """The device in a few words, as in the ledger: `cpu, 2 cores` or `NVIDIA H100 x4`."""
        count = self.device.get("count", 1)
        times = f" x{count}" if count != 1 else ""
        if self.device.get("platform") == "cpu":
            return f"cpu{times}, {self.device.get('cores', '?')} cores"
        return f"{self.device.get('kind', '?')}{times}"

    def write(self) -> None:
        """Writes `result.json` in the run's folder, atomically."""
        entries = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("folder", "claims")
        }
        claims = [
            {
                "name": claim.name,
                "measured": claim.measured,
                "op": claim.op,
                "target": claim.target,
                "holds": claim.holds,
                "detail": claim.detail,
            }
            for claim in self.claims
        ]
        write_json(self.folder / RESULT_FILE, {**entries, "holds": self.holds, "claims": claims})


def read_record(path: Path) -> RunRecord:
    """Reads a `result.json`.

    **Raises:**

    - `UsageError` if the file is not there or is no result.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        claims = tuple(
            Claim(c["name"], float(c["measured"]), c["op"], float(c["target"]), c["detail"])
            for c in entries.pop("claims")
        )
        entries.pop("holds")
        entries["metrics"] = {name: float(x) for name, x in entries["metrics"].items()}
        for name in ("arrays", "figures"):
            entries[name] = tuple(entries[name])
        return RunRecord(**entries, claims=claims, folder=path.parent)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not the result of a run ({error})") from error
