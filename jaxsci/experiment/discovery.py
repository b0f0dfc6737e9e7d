"""Which experiments there are: files under `experiments/`, read without being run.

A file is parsed, not imported, so that listing 184 experiments takes no longer than reading them.
"""

import ast
import csv
import dataclasses
import functools
from pathlib import Path

from jaxsci.experiment.errors import UsageError, nearest

PRESET_ORDER = ("smoke", "quick", "full", "paper")


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper of the list `experiments/papers.tsv`: its number, slug, room and title."""

    number: int
    slug: str
    room: str
    title: str


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment as its file describes it.

    - `slug`: the file's name with `-` for `_`.
    - `number`, `title`: the paper's; a user's own file has number `None` and the first line of its
      docstring as title.
    - `room`: the folder under `experiments/`; `own` for a user's file.
    - `presets`: the names in `PRESETS`, where they are written out.
    - `path`: the file.
    """

    slug: str
    number: int | None
    title: str
    room: str
    presets: tuple[str, ...]
    path: Path


def experiments_folder() -> Path | None:
    """The folder of experiments: next to the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "experiments", package / "_experiments"):
        if (folder / "papers.tsv").is_file():
            return folder
    return None


def in_checkout() -> bool:
    """Whether the package runs from a checkout, where the ledger lies beside the experiments."""
    folder = experiments_folder()
    return folder is not None and folder.name == "experiments"


def papers(folder: Path | None = None) -> dict[str, Paper]:
    """The papers by slug, in the order of their numbers."""
    folder = folder or experiments_folder()
    return {} if folder is None else _read_papers(folder / "papers.tsv")


@functools.cache
def _read_papers(path: Path) -> dict[str, Paper]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        listed = [Paper(int(r["number"]), r["slug"], r["room"], r["title"]) for r in rows]
    return {paper.slug: paper for paper in sorted(listed, key=lambda paper: paper.number)}


def discover(folder: Path | None = None) -> tuple[list[Experiment], dict[Path, str]]:
    """All experiments under a folder, by number and then slug.

    **Arguments:**

    - `folder`: laid out as `ROOM/FILE.py`; by default the project's own.

    **Returns:** the experiments, and for each file that is no Python a line that says so. Files
    whose name begins with `_`, or without `PRESETS` and `run`, are parts of others: not listed.
    """
    folder = folder or experiments_folder()
    found: list[Experiment] = []
    problems: dict[Path, str] = {}
    for path in sorted(folder.glob("*/*.py")) if folder is not None else ():
        if path.name.startswith("_"):
            continue
        try:
            outline = _outline(path)
        except UsageError as error:
            problems[path] = str(error)
            continue
        if outline.has_presets and outline.has_run:
            found.append(_experiment(path, outline, folder))
    found.sort(key=lambda e: (e.number is None, e.number or 0, e.slug))
    return found, problems


def find(target: str | Path, folder: Path | None = None) -> Experiment:
    """The experiment of a slug, or of a file anywhere.

    **Arguments:**

    - `target`: a slug such as `neural-operator`, or the path of a Python file.
    - `folder`: where slugs are looked up; by default the project's own experiments.

    **Raises:**

    - `UsageError` for an unknown slug, with the nearest ones, and for a file that is missing or is
      no experiment.
    """
    folder = folder or experiments_folder()
    text = str(target)
    if isinstance(target, Path) or text.endswith(".py") or "/" in text or "\\" in text:
        return _describe(Path(target), folder)
    found, problems = discover(folder)
    slug = text.replace("_", "-")
    by_slug = {experiment.slug: experiment for experiment in found}
    if slug in by_slug:
        return by_slug[slug]
    for path, problem in problems.items():
        if path.stem.replace("_", "-") == slug:
            raise UsageError(problem)
    listed = papers(folder) if folder is not None else {}
    if slug in listed:
        paper = listed[slug]
        raise UsageError(
            f"{slug}: paper {paper.number}, {paper.title!r}, has no experiment yet"
            + nearest(slug, by_slug)
        )
    if Path(text).is_file():
        raise UsageError(f"{text}: not a Python file, so no experiment")
    raise UsageError(
        f"no experiment {text!r} (`jaxsci list` shows them; a file ends with .py)"
        + nearest(slug, by_slug.keys() | listed.keys())
    )


@dataclasses.dataclass(frozen=True)
class _Outline:
    title: str
    presets: tuple[str, ...]
    has_presets: bool
    has_run: bool


def _describe(path: Path, folder: Path | None) -> Experiment:
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if path.is_dir() or path.suffix != ".py":
        raise UsageError(f"{path}: not a Python file, so no experiment")
    outline = _outline(path)
    missing = [
        name
        for name, there in (("PRESETS", outline.has_presets), ("run", outline.has_run))
        if not there
    ]
    if missing:
        raise UsageError(f"{path}: no experiment, it does not define {' and '.join(missing)}")
    return _experiment(path, outline, folder)


def _outline(path: Path) -> _Outline:
    """What the text of a file says without running it."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise UsageError(
            f"{path}: no experiment, line {error.lineno} is no Python: {error.msg}"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    docstring = ast.get_docstring(tree) or ""
    presets: tuple[str, ...] = ()
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound = [target.id for target in targets if isinstance(target, ast.Name)]
            names.update(bound)
            if "PRESETS" in bound:
                presets = _keys(node.value)
    title = docstring.strip().splitlines()[0].strip().rstrip(".") if docstring.strip() else ""
    return _Outline(title, presets, "PRESETS" in names, "run" in names)


def _keys(value: ast.expr | None) -> tuple[str, ...]:
    """The keys of `{"smoke": ...}` or `dict(smoke=...)`; none of anything else."""
    keys: list[str] = []
    if isinstance(value, ast.Dict):
        keys = [
            k.value for k in value.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)
        ]
    elif isinstance(value, ast.Call):
        keys = [keyword.arg for keyword in value.keywords if keyword.arg is not None]
    return tuple(keys)


def _experiment(path: Path, outline: _Outline, folder: Path | None) -> Experiment:
    slug = path.stem.replace("_", "-")
    path = path.absolute()
    inside = folder is not None and path.resolve().parent.parent == folder.resolve()
    paper = papers(folder).get(slug) if inside else None
    return Experiment(
        slug=slug,
        number=paper.number if paper else None,
        title=paper.title if paper else outline.title or slug,
        room=path.parent.name if inside else "own",
        presets=outline.presets,
        path=path,
    )
