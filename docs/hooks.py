"""mkdocs hooks: the table of papers, each room's public names, a page for rooms without one."""

import ast
import re
from pathlib import Path

from mkdocs.structure.files import File

from jaxsci.experiment import discover, papers

_MARK = "<!-- papers -->"
_ROOMS = "Rooms"


def on_config(config):
    """Adds the rooms without a guide to the navigation."""
    for section in config.nav:
        if _ROOMS in section:
            section[_ROOMS] += [{f"jaxsci.{room}": f"rooms/{room}.md"} for room in unguided(config)]
    return config


def on_files(files, config):
    """Adds their pages: the room's docstring and its API."""
    for room in unguided(config):
        text = f"# jaxsci.{room}\n\n::: jaxsci.{room}\n"
        files.append(File.generated(config, f"rooms/{room}.md", content=text))
    return files


def on_page_markdown(markdown: str, config, **_) -> str:
    """Fills in the papers, and after `::: jaxsci.ROOM` the names that the room re-exports."""
    if _MARK in markdown:
        markdown = markdown.replace(_MARK, tables())
    package = Path(config.docs_dir).parent / "jaxsci"

    def api(match: re.Match) -> str:
        room = match[1]
        names, hidden = [], []
        modules = public_names(package / room / "__init__.py", modules=True)
        for name in public_names(package / room / "__init__.py"):
            # A function `fit` of a module `fit` is hidden by it, unless the module is meant.
            same = name not in modules and (package / room / f"{name}.py").is_file()
            (hidden if same else names).append(name)
        lines = [match[0], "    options:", f"      members: [{', '.join(names)}]", ""]
        for name in hidden:
            lines += [f"::: jaxsci.{room}.{name}.{name}", "    options:"]
            lines += ["      show_root_heading: true", ""]
        return "\n".join(lines)

    return re.sub(r"^::: jaxsci\.(\w+)$", api, markdown, flags=re.MULTILINE)


def public_names(path: Path, *, modules: bool = False) -> list[str]:
    """What a room re-exports: `from … import X as X`, in the order of the file.

    With `modules`, its modules alone: `from . import X as X`.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    imports = [node for node in imports if node.module is None or not modules]
    return [alias.name for node in imports for alias in node.names if alias.asname == alias.name]


def unguided(config) -> list[str]:
    """The rooms of the package without a page in `docs/rooms`."""
    docs = Path(config.docs_dir)
    rooms = {path.parent.name for path in (docs.parent / "jaxsci").glob("*/__init__.py")}
    return sorted(rooms - {"cli"} - {page.stem for page in (docs / "rooms").glob("*.md")})


def tables() -> str:
    """A Markdown table for each room, rooms in alphabetical order."""
    listed = papers()
    found = {experiment.slug: experiment for experiment in discover()[0]}
    lines = [f"{len(found.keys() & listed.keys())} of {len(listed)} papers have an experiment.", ""]
    for room in sorted({paper.room for paper in listed.values()}):
        lines += [f"## {room}", "", "| paper | title | experiment |", "|---|---|---|"]
        for paper in listed.values():
            if paper.room == room:
                name = f"`{paper.slug}`" if paper.slug in found else "planned"
                title = paper.title.replace("|", "\\|")
                lines.append(f"| {paper.number} | {title} | {name} |")
        lines.append("")
    return "\n".join(lines)
