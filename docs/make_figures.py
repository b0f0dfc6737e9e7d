"""Draws the figures of README.md and the site: runs the code of quickstart.md, saves its figures.

python docs/make_figures.py
"""

import re
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt

DOCS = Path(__file__).parent
NAMES = ("resolutions", "errors")


def main() -> None:
    """Runs the blocks one after the other and saves the figures that they leave open."""
    text = (DOCS / "quickstart.md").read_text(encoding="utf-8")
    plt.show = lambda: None
    scope: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(block, "quickstart.md", "exec"), scope)
    for name, number in zip(NAMES, plt.get_fignums(), strict=True):
        plt.figure(number).savefig(DOCS / "images" / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
